"""How good a model is: hits, errors, and precision of detections, added up batch by batch.

Start at `Evaluation`, `Meter` for classes, `ErrorMeter` for values and `ai8x.training.detection` for objects.

Source: spec/ai8x-training.md sections 8 and 14.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOP5_CLASSES = 5
"""Top-5 is told apart from 100 % only with more classes than this."""

FIGURE_NAMES = {"top1": "Top1", "top5": "Top5", "mse": "MSE", "map": "mAP"}
"""Figures as people read them."""

_LOWER_IS_BETTER = ("mse",)


def _no_confusion() -> NDArray[np.int64]:
    return np.zeros((0, 0), np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How good a model is on one part.

    Args:
        loss: mean over the samples.
        count: number of samples; of pixels where every pixel has a class.
        figures: the main one first: top1 and top5 in percent, mse, or map in percent. Empty where only the loss was
            counted.
        confusion: rows true class, columns predicted class, int64; empty but for classification.
    """

    loss: float
    count: int
    figures: Mapping[str, float] = field(default_factory=dict)
    confusion: NDArray[np.int64] = field(default_factory=_no_confusion)

    @property
    def main(self) -> tuple[str, float]:
        """Name and value of the figure that decides."""
        return next(iter(self.figures.items()), ("loss", self.loss))

    @property
    def top1(self) -> float:
        """Percent of the samples whose class was given the highest score; 0 but for classification."""
        return self.figures.get("top1", 0.0)

    @property
    def top5(self) -> float:
        """Percent of the samples whose class was among the five best; 0 but for classification."""
        return self.figures.get("top5", 0.0)

    @property
    def is_picture_worthy(self) -> bool:
        """Whether there is a confusion matrix to show."""
        return self.confusion.size > 0

    def shown(self) -> tuple[tuple[str, float], ...]:
        """The figures that say something, with the names that people read."""
        few = self.confusion.shape[0] <= TOP5_CLASSES
        return tuple((FIGURE_NAMES[name], value) for name, value in self.figures.items()
                     if not (name == "top5" and few))

    def summary(self) -> str:
        """The line that scripts look for: ``==> Top1: ...``."""
        figures = "".join(f"{name}: {value:.3f}    " if name != "MSE" else f"{name}: {value:.5f}    "
                          for name, value in self.shown())
        return f"==> {figures}Loss: {self.loss:.3f}"

    def rank(self) -> tuple[float, float]:
        """Greater is better: (top1, top5), (-mse, 0) or (map, -loss)."""
        name, value = self.main
        if name == "top1":
            return value, self.top5
        if name in (*_LOWER_IS_BETTER, "loss"):
            return -value, 0.0
        return value, -self.loss


class Counter(Protocol):
    """Adds up batches and can be put into a checkpoint in the middle of an epoch."""

    def add(self, loss: float, outputs: Any, targets: Any) -> None:
        """Count one batch; the loss is its mean."""

    def result(self) -> Evaluation:
        """The figures over all batches so far."""

    def state(self) -> dict[str, Any]:
        """Plain values and tensors."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""


class Meter:
    """Adds up batches of classified samples, or of images with a class for every pixel.

    Args:
        num_classes: rows and columns of the confusion matrix.
        with_accuracy: False counts only the loss.
    """

    def __init__(self, num_classes: int, *, with_accuracy: bool = True) -> None:
        self._loss_sum = 0.0
        self._count = 0
        self._judged = 0
        self._top5_hits = 0
        self._confusion = np.zeros((num_classes, num_classes), np.int64)
        self._with_accuracy = with_accuracy

    def add(self, loss: float, outputs: Tensor, targets: Tensor) -> None:
        """Count one batch.

        Args:
            loss: mean over the batch.
            outputs: one score per class, (N, classes) or (N, classes, H, W).
            targets: classes, (N,) or (N, H, W).
        """
        self.add_loss(loss, targets)
        if not self._with_accuracy:
            return
        self._judged += targets.numel()
        outputs, targets = outputs.detach().cpu(), targets.cpu()
        if outputs.dim() > 2:
            outputs, targets = outputs.flatten(2).transpose(1, 2).flatten(0, 1), targets.flatten()
        best = outputs.topk(min(TOP5_CLASSES, outputs.shape[1]), dim=1).indices
        self._top5_hits += int((best == targets.unsqueeze(1)).any(dim=1).sum())
        classes = self._confusion.shape[0]
        pairs = targets.numpy() * classes + outputs.argmax(dim=1).numpy()
        self._confusion += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def add_loss(self, loss: float, targets: Tensor) -> None:
        """Count one batch without looking at its outputs."""
        self._loss_sum += loss * targets.numel()
        self._count += targets.numel()

    def result(self) -> Evaluation:
        """The loss over all batches so far, and the accuracy over those whose outputs were looked at."""
        share = 100 / max(self._judged, 1)
        figures = {"top1": float(np.trace(self._confusion) * share), "top5": self._top5_hits * share}
        has_accuracy = self._with_accuracy and (self._judged > 0 or self._count == 0)
        return Evaluation(loss=self._loss_sum / max(self._count, 1), count=self._count,
                          figures=figures if has_accuracy else {}, confusion=self._confusion.copy())

    def state(self) -> dict[str, Any]:
        """Plain values and a tensor for a checkpoint in the middle of an epoch."""
        return {"loss_sum": self._loss_sum, "top5_hits": self._top5_hits, "count": self._count,
                "judged": self._judged, "confusion": torch.from_numpy(self._confusion.copy())}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self._loss_sum = float(state["loss_sum"])
        self._top5_hits = int(state["top5_hits"])
        self._count = int(state["count"])
        self._judged = int(state.get("judged", state["count"]))
        self._confusion = np.asarray(state["confusion"], np.int64).copy()


class ErrorMeter:
    """Adds up batches of values: the mean squared error."""

    def __init__(self) -> None:
        self._loss_sum = 0.0
        self._error_sum = 0.0
        self._count = 0

    def add(self, loss: float, outputs: Tensor, targets: Tensor) -> None:
        """Count one batch.

        Args:
            loss: mean over the batch.
            outputs: values, (N, ...).
            targets: of the same shape.
        """
        self._loss_sum += loss * len(targets)
        error = torch.nn.functional.mse_loss(outputs.detach().reshape(targets.shape).double(), targets.double())
        self._error_sum += float(error) * len(targets)
        self._count += len(targets)

    def result(self) -> Evaluation:
        """The figures over all batches so far."""
        count = max(self._count, 1)
        return Evaluation(loss=self._loss_sum / count, count=self._count, figures={"mse": self._error_sum / count})

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint in the middle of an epoch."""
        return {"loss_sum": self._loss_sum, "error_sum": self._error_sum, "count": self._count}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self._loss_sum = float(state["loss_sum"])
        self._error_sum = float(state["error_sum"])
        self._count = int(state["count"])


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The state of one counter that saw what several saw: all of them only add."""
    return {name: sum((state[name] for state in states[1:]), states[0][name]) for name in states[0]}


def format_confusion(confusion: NDArray[np.int64], labels: tuple[str, ...]) -> str:
    """The matrix as aligned text, rows true class, columns predicted class."""
    width = max(len(str(int(confusion.max()))), *(len(label[:8]) for label in labels)) + 1
    head = " " * width + "".join(label[:8].rjust(width) for label in labels)
    rows = (label[:8].rjust(width) + "".join(str(count).rjust(width) for count in row)
            for label, row in zip(labels, confusion.tolist(), strict=True))
    return "\n".join((head, *rows))
