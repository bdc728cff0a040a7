"""Learning to detect objects: the multi-box loss, the parameter file and the mean average precision.

Start at `MultiBoxLoss` and `DetectionMeter`; boxes are explained in `ai8x.training.boxes`.

Source: spec/ai8x-training.md section 16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ai8x.errors import Diagnostic, Diagnostics, UserError, user_error
from ai8x.training.boxes import Detections, centres_of, corners_of, encode_boxes, overlap
from ai8x.training.metrics import Evaluation
from ai8x.training.settings_file import read_settings

MATCH_OVERLAP = 0.5
"""Least intersection over union of a match, in training and in the precision."""

Boxes = tuple[list[Tensor], list[Tensor]]
"""Corners (M, 4) and classes from 1 (M,) of every image of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionParameters:
    """The numbers of ``--obj-detection-params``.

    Args:
        alpha: weight of the box offsets against the classes.
        neg_pos_ratio: background boxes that count, for every matched one.
        min_score, max_overlap, top_k: see `ai8x.training.boxes.detect_objects`.
    """

    alpha: float = 2.0
    neg_pos_ratio: float = 3.0
    min_score: float = 0.2
    max_overlap: float = 0.3
    top_k: int = 20


_SECTIONS = {"multi_box_loss": ("alpha", "neg_pos_ratio"), "nms": ("min_score", "max_overlap", "top_k")}


def read_detection_parameters(path: Path) -> DetectionParameters:
    """The parameters of a YAML file with the sections ``multi_box_loss`` and ``nms``.

    Raises:
        UserError: E01xx for a file that cannot be read, E0630 for keys that are missing, unknown or no numbers.
    """
    settings = read_settings(path)
    findings = Diagnostics()
    values: dict[str, Any] = {}
    for section, names in _SECTIONS.items():
        entries = settings.values.get(section)
        entries = entries if isinstance(entries, dict) else {}
        for name in names:
            value = entries.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
                findings.add(Diagnostic(code="E0630", message=f"{section} needs a number {name}", found=repr(value),
                                        source=settings.place(section), allowed="a number, 0 or more",
                                        help=f"write {name}: {getattr(DetectionParameters(), name)} below {section}"))
            else:
                values[name] = value
        for name in entries.keys() - set(names):
            findings.add(Diagnostic(code="E0630", message=f"{section} has no parameter '{name}'", found=name,
                                    source=settings.place(section, name), allowed=", ".join(names),
                                    help="remove it or correct its name"))
    findings.raise_if_errors()
    return DetectionParameters(**{**values, "top_k": int(values["top_k"])})


class MultiBoxLoss:
    """Loss of a single-shot detector: cross entropy of the classes, and smooth L1 of the matched boxes' offsets.

    Args:
        priors: default boxes in centre form, (P, 4).
        parameters: weights of the parts.
    """

    def __init__(self, priors: Tensor, parameters: DetectionParameters) -> None:
        self._priors = priors
        self._parameters = parameters

    def __call__(self, offsets: Tensor, scores: Tensor, targets: Boxes) -> Tensor:
        """The loss of a batch.

        Shapes:
            offsets (N, P, 4), scores (N, P, classes); returns a scalar.
        """
        matched = [match_priors(boxes.to(offsets.device), labels.to(offsets.device), self._priors.to(offsets.device))
                   for boxes, labels in zip(*targets, strict=True)]
        classes = torch.stack([label for label, _ in matched])
        wanted = torch.stack([box for _, box in matched])
        positive = classes > 0
        each = nn.functional.cross_entropy(scores.flatten(0, 1), classes.flatten(), reduction="none")
        each = each.reshape(classes.shape)
        if not bool(positive.any()):
            return each.mean()
        place = nn.functional.smooth_l1_loss(offsets[positive], wanted[positive])
        hardest = self._hard_negatives(each.detach(), positive)
        confidence = (each[positive].sum() + each[hardest].sum()) / positive.sum()
        return confidence + self._parameters.alpha * place

    def _hard_negatives(self, losses: Tensor, positive: Tensor) -> Tensor:
        """The background boxes with the greatest losses, so many for every matched box of their image."""
        order = losses.masked_fill(positive, -1.0).argsort(dim=1, descending=True)
        place = order.argsort(dim=1)
        counts = (positive.sum(dim=1, keepdim=True) * self._parameters.neg_pos_ratio).long()
        return (place < counts) & ~positive


def match_priors(boxes: Tensor, labels: Tensor, priors: Tensor) -> tuple[Tensor, Tensor]:
    """Class and offsets of every default box: of the object that it overlaps most, if by half at least.

    Every object keeps the default box that fits it best, whatever the overlap.

    Shapes:
        boxes (M, 4) corners, labels (M,), priors (P, 4); returns (P,) int64 and (P, 4).
    """
    if len(boxes) == 0:
        return priors.new_zeros(len(priors), dtype=torch.int64), torch.zeros_like(priors)
    shared = overlap(boxes, corners_of(priors))
    best, owner = shared.max(dim=0)
    favourite = shared.max(dim=1).indices
    owner[favourite] = torch.arange(len(boxes), device=boxes.device)
    best[favourite] = 1.0
    classes = labels[owner].masked_fill(best < MATCH_OVERLAP, 0)
    return classes, encode_boxes(centres_of(boxes)[owner], priors)


class DetectionMeter:
    """Collects detections and objects, and computes the mean average precision.

    Args:
        num_classes: the background included.
    """

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._loss_sum = 0.0
        self._found: list[Detections] = []
        self._wanted: list[tuple[Tensor, Tensor]] = []

    def add(self, loss: float, outputs: Sequence[Detections], targets: Boxes) -> None:
        """Count one batch: what was found and what there is."""
        self._loss_sum += loss * len(outputs)
        self._found += outputs
        self._wanted += [(boxes.cpu(), labels.cpu()) for boxes, labels in zip(*targets, strict=True)]

    def result(self) -> Evaluation:
        """Mean average precision in percent, and the mean loss."""
        precision = mean_average_precision(self._found, self._wanted, self._num_classes)
        count = len(self._found)
        return Evaluation(loss=self._loss_sum / max(count, 1), count=count, figures={"map": 100 * precision})

    def state(self) -> dict[str, Any]:
        """Evaluations are never interrupted, so there is nothing to keep."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Nothing to put back."""


def mean_average_precision(found: Sequence[Detections], wanted: Sequence[tuple[Tensor, Tensor]], num_classes: int
                           ) -> float:
    """Mean over the classes that occur of the area below their precision-recall curve, from 0 to 1.

    A detection is right where it overlaps an object of its class by half at least that no better detection took.

    Args:
        found: detections of every image.
        wanted: boxes and classes of every image.
        num_classes: the background included.
    """
    values = []
    for label in range(1, num_classes):
        total = sum(int((labels == label).sum()) for _, labels in wanted)
        if total:
            values.append(_average_precision(found, wanted, label, total))
    return sum(values) / len(values) if values else 0.0


def _average_precision(found: Sequence[Detections], wanted: Sequence[tuple[Tensor, Tensor]], label: int, total: int
                       ) -> float:
    marks: list[tuple[float, bool]] = []
    for detections, (boxes, labels) in zip(found, wanted, strict=True):
        mine = detections.labels == label
        marks += _marks(detections.boxes[mine], detections.scores[mine], boxes[labels == label])
    marks.sort(key=lambda mark: -mark[0])
    hits = torch.tensor([hit for _, hit in marks], dtype=torch.float64).cumsum(0)
    if not len(hits):
        return 0.0
    recall = torch.cat((torch.zeros(1, dtype=torch.float64), hits / total))
    precision = hits / torch.arange(1, len(hits) + 1)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    return float(((recall[1:] - recall[:-1]) * envelope).sum())


def _marks(boxes: Tensor, scores: Tensor, objects: Tensor) -> list[tuple[float, bool]]:
    """Score of every detection of an image and whether it is right, best first."""
    shared = overlap(boxes, objects)
    taken: set[int] = set()
    marks = []
    for number in torch.argsort(scores, descending=True, stable=True).tolist():
        best = int(shared[number].argmax()) if len(objects) else -1
        hit = best >= 0 and best not in taken and float(shared[number, best]) >= MATCH_OVERLAP
        if hit:
            taken.add(best)
        marks.append((float(scores[number]), hit))
    return marks


def no_detector(name: str) -> UserError:
    """E0631: a model that is to find objects and cannot."""
    return user_error("E0631", f"model '{name}' is no detector", found="no priors_cxcy and detect_objects",
                      allowed="a model with default boxes", help="choose for example --model ai85tinierssd")


def detector_parts(model: nn.Module) -> tuple[Tensor, Any]:
    """Default boxes and the method `detect_objects` of a detector.

    Raises:
        UserError: E0631 for a model that does not have them.
    """
    priors, detect = getattr(model, "priors_cxcy", None), getattr(model, "detect_objects", None)
    if not isinstance(priors, Tensor) or not callable(detect):
        raise no_detector(type(model).__name__)
    return priors, detect


def collate_boxes(items: list[tuple[Tensor, Any]]) -> tuple[Tensor, Boxes]:
    """A batch of images with differently many objects each."""
    images = torch.stack([image for image, _ in items])
    return images, ([target[0] for _, target in items], [target[-1] for _, target in items])
