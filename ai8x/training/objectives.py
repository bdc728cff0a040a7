"""What training minimises and evaluation measures: one objective for every kind of task, and two for distillation.

Start at `create_objective`; `Objective` says what all of them offer.

Source: spec/ai8x-training.md sections 14 and 16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ai8x.errors import user_error
from ai8x.nn.data import unfold_batch
from ai8x.training.boxes import Detections
from ai8x.training.config import TrainConfig
from ai8x.training.data import DataSpec, TaskKind
from ai8x.training.detection import (
    Boxes,
    DetectionMeter,
    DetectionParameters,
    MultiBoxLoss,
    detector_parts,
    read_detection_parameters,
)
from ai8x.training.metrics import Counter, ErrorMeter, Evaluation, Meter


class Objective(Protocol):
    """A loss, and how outputs are counted."""

    @property
    def device(self) -> torch.device:
        """Where model and batches are."""

    def to_device(self, targets: Any) -> Any:
        """Targets where the outputs are."""

    def loss(self, inputs: Tensor, outputs: Any, targets: Any) -> Tensor:
        """What validation and test report: a mean over the batch."""

    def training_loss(self, inputs: Tensor, outputs: Any, targets: Any) -> Tensor:
        """What is minimised."""

    def predictions(self, outputs: Any) -> Any:
        """Outputs in the form that the meter counts."""

    def meter(self, *, training: bool) -> Counter:
        """A new counter; figures that are costly are left out while training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationObjective:
    """Mean cross entropy, of samples or of all pixels.

    Args:
        num_classes: outputs of the model.
        device: where model and batches are.
        class_weights: one per class, or None.
        fold_ratio: the model's outputs are folded by this.
        train_accuracy: count accuracy while training as well.
    """

    num_classes: int
    device: torch.device
    class_weights: Tensor | None = None
    fold_ratio: int = 1
    train_accuracy: bool = True

    def to_device(self, targets: Tensor) -> Tensor:
        """Targets where the outputs are."""
        return targets.to(self.device)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Scores (N, classes) or (N, classes, H, W), unfolded."""
        return unfold_batch(outputs, self.fold_ratio) if self.fold_ratio > 1 else outputs

    def loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy."""
        del inputs
        return nn.functional.cross_entropy(self.predictions(outputs), targets, weight=self.class_weights)

    def training_loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """The same."""
        return self.loss(inputs, outputs, targets)

    def meter(self, *, training: bool) -> Counter:
        """Hits and the confusion matrix."""
        return Meter(self.num_classes, with_accuracy=self.train_accuracy or not training)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegressionObjective:
    """Mean squared error.

    Args:
        device: where model and batches are.
        fold_ratio: the model's outputs are folded by this.
    """

    device: torch.device
    fold_ratio: int = 1

    def to_device(self, targets: Tensor) -> Tensor:
        """Targets where the outputs are."""
        return targets.to(self.device)

    def predictions(self, outputs: Tensor) -> Tensor:
        """Values, unfolded."""
        return unfold_batch(outputs, self.fold_ratio) if self.fold_ratio > 1 else outputs

    def loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error."""
        del inputs
        return nn.functional.mse_loss(self.predictions(outputs).reshape(targets.shape), targets)

    def training_loss(self, inputs: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """The same."""
        return self.loss(inputs, outputs, targets)

    def meter(self, *, training: bool) -> Counter:
        """The mean squared error."""
        del training
        return ErrorMeter()


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionObjective:
    """The multi-box loss and the mean average precision.

    Args:
        num_classes: the background included.
        device: where model and batches are.
        model: with ``priors_cxcy`` and ``detect_objects``.
        parameters: of the loss and of the search for objects.
    """

    num_classes: int
    device: torch.device
    model: nn.Module
    parameters: DetectionParameters

    def to_device(self, targets: Boxes) -> Boxes:
        """Targets where the outputs are."""
        return [boxes.to(self.device) for boxes in targets[0]], [labels.to(self.device) for labels in targets[1]]

    def predictions(self, outputs: tuple[Tensor, Tensor]) -> list[Detections]:
        """The objects found in every image."""
        offsets, scores = self._ordered(outputs)
        _, detect = detector_parts(self.model)
        found: list[Detections] = detect(offsets, scores, min_score=self.parameters.min_score,
                                         max_overlap=self.parameters.max_overlap, top_k=self.parameters.top_k)
        return found

    def _ordered(self, outputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Boxes before numbers, whichever way the model has them."""
        count = len(detector_parts(self.model)[0])
        offsets, scores = (value if value.shape[1] == count else value.transpose(1, 2) for value in outputs)
        return offsets, scores

    def loss(self, inputs: Tensor, outputs: tuple[Tensor, Tensor], targets: Boxes) -> Tensor:
        """The multi-box loss."""
        del inputs
        priors, _ = detector_parts(self.model)
        return MultiBoxLoss(priors, self.parameters)(*self._ordered(outputs), targets)

    def training_loss(self, inputs: Tensor, outputs: tuple[Tensor, Tensor], targets: Boxes) -> Tensor:
        """The same."""
        return self.loss(inputs, outputs, targets)

    def meter(self, *, training: bool) -> Counter:
        """The precision; only the loss while training."""
        return LossMeter() if training else DetectionMeter(self.num_classes)


class LossMeter(ErrorMeter):
    """Adds up the loss and nothing else."""

    def add(self, loss: float, outputs: Any, targets: Any) -> None:
        """Count one batch."""
        self._loss_sum += loss * len(targets[0])
        self._count += len(targets[0])

    def result(self) -> Evaluation:
        """The mean loss."""
        return replace(super().result(), figures={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillation:
    """How a teacher takes part.

    Args:
        teacher: trained network, in evaluation mode.
        temperature: divides the scores before they are compared.
        distill_weight, student_weight: of the two losses.
        relation_based: the student learns the teacher's outputs themselves, by their mean squared error.
    """

    teacher: nn.Module
    temperature: float = 1.0
    distill_weight: float = 0.5
    student_weight: float = 0.5
    relation_based: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationObjective:
    """Another objective with a teacher's help.

    Soft targets: ``student_weight * loss + distill_weight * T^2 * KL(teacher / T || student / T)``, in training only.
    Relation-based: the mean squared error between the outputs, in validation as well.

    Args:
        inner: the objective without the teacher.
        distillation: the teacher and its part.
    """

    inner: Objective
    distillation: Distillation

    @property
    def device(self) -> torch.device:
        """Where model and batches are."""
        return self.inner.device

    def to_device(self, targets: Any) -> Any:
        """Targets where the outputs are."""
        return self.inner.to_device(targets)

    def predictions(self, outputs: Any) -> Any:
        """As without the teacher."""
        return self.inner.predictions(outputs)

    @torch.no_grad()
    def _teach(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.distillation.teacher(inputs)
        return outputs

    def loss(self, inputs: Tensor, outputs: Any, targets: Any) -> Tensor:
        """The objective's loss, or the distance from the teacher."""
        if self.distillation.relation_based:
            return nn.functional.mse_loss(outputs, self._teach(inputs).reshape(outputs.shape))
        return self.inner.loss(inputs, outputs, targets)

    def training_loss(self, inputs: Tensor, outputs: Any, targets: Any) -> Tensor:
        """Both losses, weighted."""
        part = self.distillation
        if part.relation_based:
            return self.loss(inputs, outputs, targets)
        student = nn.functional.log_softmax(outputs / part.temperature, dim=1)
        teacher = nn.functional.log_softmax(self._teach(inputs) / part.temperature, dim=1)
        distance = nn.functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        total = part.distill_weight * part.temperature**2 * distance
        if part.student_weight:
            total = total + part.student_weight * self.inner.training_loss(inputs, outputs, targets)
        return total

    def meter(self, *, training: bool) -> Counter:
        """As without the teacher."""
        return self.inner.meter(training=training)


def task_kind(spec: DataSpec, config: TrainConfig) -> TaskKind:
    """What is learnt: as the data set says, unless ``--regression``.

    Raises:
        UserError: E0632 where ``--enable-obj-detection`` and the data set contradict each other.
    """
    if config.obj_detection and spec.kind is not TaskKind.DETECTION:
        raise user_error("E0632", f"data set '{spec.name}' has no boxes", found=spec.kind.value,
                         allowed="a data set for object detection",
                         help="choose for example --dataset SVHN_74, or leave --enable-obj-detection out")
    return TaskKind.REGRESSION if config.regression else spec.kind


def create_objective(spec: DataSpec, config: TrainConfig, model: nn.Module, device: torch.device) -> Objective:
    """The objective of a run.

    Raises:
        UserError: E0630 for a parameter file that cannot be used, E0631 for a model that detects nothing, E0632 for
            settings that contradict the data set, E0633 for class weights that do not fit.
    """
    kind = task_kind(spec, config)
    if kind is TaskKind.REGRESSION:
        return RegressionObjective(device=device, fold_ratio=config.out_fold_ratio)
    if kind is TaskKind.DETECTION:
        detector_parts(model)
        parameters = DetectionParameters()
        if config.obj_detection_params is not None:
            parameters = read_detection_parameters(Path(config.obj_detection_params))
        return DetectionObjective(num_classes=spec.num_classes, device=device, model=model, parameters=parameters)
    numbers = _class_weights(spec, config)
    weights = None if numbers is None else torch.tensor(numbers, dtype=torch.float32, device=device)
    counts = config.show_train_accuracy != "none"
    return ClassificationObjective(num_classes=spec.num_classes, device=device, class_weights=weights,
                                   fold_ratio=config.out_fold_ratio, train_accuracy=counts)


def _class_weights(spec: DataSpec, config: TrainConfig) -> tuple[float, ...] | None:
    if config.class_weights is None:
        return spec.class_weights
    try:
        numbers = tuple(float(word) for word in config.class_weights.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != spec.num_classes or any(not 0 <= number < float("inf") for number in numbers):
        raise user_error("E0633", "--class-weights does not fit the data set", found=config.class_weights,
                         allowed=f"{spec.num_classes} numbers, 0 or more, with commas between them",
                         help="write for example --class-weights " + ",".join(["1"] * spec.num_classes))
    return numbers
