"""One epoch of training, and one evaluation.

Knows batches, the loss and the meter; nothing of files, schedules or when to quantise. Start at `train_epoch` and
`evaluate`.

Source: spec/ai8x-training.md section 14.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ai8x.arithmetic import BIAS_SHIFT
from ai8x.errors import user_error
from ai8x.nn.base import Mode, model_mode, quantized_layers
from ai8x.training.data import BatchPlan, DataSpec, Samples
from ai8x.training.metrics import Evaluation, Meter

EVALUATION_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The loss of a classification task on one device.

    Args:
        num_classes: outputs of the model.
        device: where model and batches are.
        class_weights: one per class, or None.
    """

    num_classes: int
    device: torch.device
    class_weights: Tensor | None = None

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy."""
        return nn.functional.cross_entropy(outputs, targets, weight=self.class_weights)


def create_objective(spec: DataSpec, device: torch.device) -> Objective:
    """The loss for a data set."""
    weights = None
    if spec.class_weights is not None:
        weights = torch.tensor(spec.class_weights, dtype=torch.float32, device=device)
    return Objective(num_classes=spec.num_classes, device=device, class_weights=weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What changes with every step.

    Args:
        model: network, in float or QAT mode.
        optimizer: of its parameters.
        objective: the loss.
        meter: adds up the epoch.
    """

    model: nn.Module
    optimizer: Optimizer
    objective: Objective
    meter: Meter


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What `train_epoch` tells after each step.

    Args:
        number: steps of the epoch done so far.
        seconds: of this step.
    """

    number: int
    seconds: float


def train_epoch(learning: Learning, samples: Samples, plan: BatchPlan, after_step: Callable[[Step], bool]) -> int:
    """Train on the batches of a plan.

    Args:
        learning: model, optimizer and meter; changed in place.
        samples: training part.
        plan: may start in the middle of an epoch.
        after_step: called after each step; True stops.

    Returns:
        Steps of the epoch that are done, those before the plan's first included.

    Raises:
        UserError: E0622 where the loss is not finite.
    """
    model, objective, optimizer = learning.model, learning.objective, learning.optimizer
    model.train()
    done = plan.first_batch
    started = time.perf_counter()
    for inputs, targets in samples.batches(plan):
        inputs, targets = inputs.to(objective.device), targets.to(objective.device)
        optimizer.zero_grad()
        outputs = model(inputs)
        loss = objective.loss(outputs, targets)
        value = loss.item()
        if not math.isfinite(value):
            raise not_finite_error(model, inputs, epoch=plan.epoch, step=done)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        learning.meter.add(value, outputs, targets)
        done += 1
        now = time.perf_counter()
        if after_step(Step(number=done, seconds=now - started)):
            break
        started = now
    return done


def not_finite_error(model: nn.Module, inputs: Tensor, *, epoch: int, step: int) -> Exception:
    """E0622, naming the first layer whose parameters or outputs are not finite."""
    layer = first_layer_not_finite(model, inputs)
    where = f"first in layer '{layer}'" if layer else "in the loss only"
    return user_error("E0622", f"the loss is not a finite number in epoch {epoch}, step {step}: {where}",
                      found="infinity or not a number", allowed="finite numbers",
                      help="lower the learning rate with --lr, and check the data for values outside [-1, 1)")


def first_layer_not_finite(model: nn.Module, inputs: Tensor) -> str | None:
    """Path of the first layer, in the order of execution, whose parameters or outputs are not finite."""
    found: list[str] = []

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, given: object, output: object) -> None:
            values = [output, *module.parameters(recurse=False)]
            if not all(bool(torch.isfinite(v).all()) for v in values if isinstance(v, Tensor)):
                found.append(name)
        return hook

    leaves = [(name, module) for name, module in model.named_modules() if name and not list(module.children())]
    handles = [module.register_forward_hook(note(name)) for name, module in leaves]
    handles += [layer.register_forward_hook(note(name)) for name, layer in quantized_layers(model).items()]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def evaluate(model: nn.Module, samples: Samples, objective: Objective) -> Evaluation:
    """Accuracy of a model on one part, in the mode it is in.

    Integer models get the integer inputs of a part that was loaded for them; outputs of 8 bits are divided by 128, so
    that losses compare.
    """
    model.eval()
    meter = Meter(objective.num_classes)
    scale = output_scale(model)
    with torch.no_grad():
        for inputs, targets in samples.batches(BatchPlan(batch_size=EVALUATION_BATCH)):
            outputs = model(inputs.to(objective.device)) * scale
            targets = targets.to(objective.device)
            meter.add(objective.loss(outputs, targets).item(), outputs, targets)
    return meter.result()


def output_scale(model: nn.Module) -> float:
    """Factor that brings a model's outputs to the scale of training.

    Wide layers with `OutputScale.REAL` are there already; 8-bit outputs of integer evaluation count 1/128.
    """
    if model_mode(model) is not Mode.INTEGER:
        return 1.0
    is_wide = any(layer.wide for layer in quantized_layers(model).values())
    return 1.0 if is_wide else 1.0 / (1 << BIAS_SHIFT)
