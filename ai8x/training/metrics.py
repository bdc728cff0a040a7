"""Counting hits: top-1, top-5, the mean loss and the confusion matrix.

Start at `Meter` and `Evaluation`.

Source: spec/ai8x-training.md section 14.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOP5_CLASSES = 5
"""Top-5 is told apart from 100 % only with more classes than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Accuracy of a model on one part.

    Args:
        loss: mean over the samples.
        top1, top5: percent of the samples.
        count: number of samples.
        confusion: rows true class, columns predicted class, int64.
    """

    loss: float
    top1: float
    top5: float
    count: int
    confusion: NDArray[np.int64]

    def summary(self) -> str:
        """The line that scripts look for: ``==> Top1: ...``."""
        top5 = f"    Top5: {self.top5:.3f}" if len(self.confusion) > TOP5_CLASSES else ""
        return f"==> Top1: {self.top1:.3f}{top5}    Loss: {self.loss:.3f}"


class Meter:
    """Adds up batches.

    Args:
        num_classes: rows and columns of the confusion matrix.
    """

    def __init__(self, num_classes: int) -> None:
        self._loss_sum = 0.0
        self._top5_hits = 0
        self._confusion = np.zeros((num_classes, num_classes), np.int64)

    def add(self, loss: float, outputs: Tensor, targets: Tensor) -> None:
        """Count one batch.

        Args:
            loss: mean over the batch.
            outputs: one score per class, (N, classes).
            targets: classes, (N,).
        """
        outputs, targets = outputs.detach().cpu(), targets.cpu()
        self._loss_sum += loss * len(targets)
        best = outputs.topk(min(TOP5_CLASSES, outputs.shape[1]), dim=1).indices
        self._top5_hits += int((best == targets.unsqueeze(1)).any(dim=1).sum())
        np.add.at(self._confusion, (targets.numpy(), outputs.argmax(dim=1).numpy()), 1)

    def result(self) -> Evaluation:
        """The figures over all batches so far."""
        count = int(self._confusion.sum())
        share = 100 / max(count, 1)
        return Evaluation(loss=self._loss_sum / max(count, 1), top1=float(np.trace(self._confusion) * share),
                          top5=self._top5_hits * share, count=count, confusion=self._confusion.copy())

    def state(self) -> dict[str, Any]:
        """Plain values and a tensor for a checkpoint in the middle of an epoch."""
        return {"loss_sum": self._loss_sum, "top5_hits": self._top5_hits,
                "confusion": torch.from_numpy(self._confusion.copy())}

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave."""
        self._loss_sum = float(state["loss_sum"])
        self._top5_hits = int(state["top5_hits"])
        self._confusion = np.asarray(state["confusion"], np.int64).copy()


def format_confusion(confusion: NDArray[np.int64], labels: tuple[str, ...]) -> str:
    """The matrix as aligned text, rows true class, columns predicted class."""
    width = max(len(str(int(confusion.max()))), *(len(label[:8]) for label in labels)) + 1
    head = " " * width + "".join(label[:8].rjust(width) for label in labels)
    rows = (label[:8].rjust(width) + "".join(str(count).rjust(width) for count in row)
            for label, row in zip(labels, confusion.tolist(), strict=True))
    return "\n".join((head, *rows))
