"""One epoch of training, and one evaluation.

Knows batches, the objective and the meter; nothing of files, schedules or when to quantise. Start at `train_epoch` and
`evaluate`.

Source: spec/ai8x-training.md section 14.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ai8x.arithmetic import BIAS_SHIFT
from ai8x.errors import Diagnostic, UserError
from ai8x.nn.base import Mode, model_mode, quantized_layers
from ai8x.training.data import BatchPlan, Samples
from ai8x.training.metrics import Counter, Evaluation, Meter
from ai8x.training.objectives import LossMeter, Objective, RegressionObjective

EVALUATION_BATCH = 256


def _nothing() -> None:
    """The default of `Learning.after_update`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What changes with every step.

    Args:
        model: network, in float or QAT mode.
        optimizer: of its parameters.
        objective: the loss.
        meter: adds up the epoch.
        forward: what computes the outputs: the model, or a parallel or compiled wrapper around it.
        half: compute the forward pass in bfloat16 where that is safe.
        after_update: called after every change of the parameters.
        judged_from: first step of an epoch whose outputs are looked at for the accuracy.
        anywhere: whether something holds in one of the processes that share the batches.
    """

    model: nn.Module
    optimizer: Optimizer
    objective: Objective
    meter: Counter
    forward: Callable[[Tensor], Any]
    half: bool = False
    after_update: Callable[[], None] = _nothing
    judged_from: int = 0
    anywhere: Callable[[bool], bool] = bool


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
        LossNotFiniteError: E0622 where the loss is not finite; the parameters are those from before that batch.
    """
    model, objective, optimizer = learning.model, learning.objective, learning.optimizer
    model.train()
    counts_outputs = not isinstance(learning.meter, LossMeter)
    done = plan.first_batch
    started = time.perf_counter()
    for inputs, targets in samples.batches(plan):
        inputs, targets = inputs.to(objective.device), objective.to_device(targets)
        optimizer.zero_grad()
        with torch.autocast(objective.device.type, torch.bfloat16, enabled=learning.half):
            outputs = learning.forward(inputs)
        if learning.half:
            outputs = _in_float(outputs)
        loss = objective.training_loss(inputs, outputs, targets)
        value = loss.item()
        if learning.anywhere(not math.isfinite(value)):
            raise LossNotFiniteError(_not_finite(model, inputs, value, epoch=plan.epoch, step=done), step=done)
        if plan.world > 1:
            loss = loss * plan.weight(done, len(samples))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        learning.after_update()
        if isinstance(learning.meter, Meter) and done < learning.judged_from:
            learning.meter.add_loss(value, targets)
        else:
            learning.meter.add(value, objective.predictions(outputs) if counts_outputs else outputs, targets)
        done += 1
        now = time.perf_counter()
        if after_step(Step(number=done, seconds=now - started)):
            break
        started = now
    return done


class LossNotFiniteError(UserError):
    """The loss became infinite or undefined.

    Args:
        finding: E0622.
        step: of the epoch, counted from 0.
    """

    def __init__(self, finding: Diagnostic, *, step: int) -> None:
        super().__init__(finding)
        self.step = step


def _not_finite(model: nn.Module, inputs: Tensor, value: float, *, epoch: int, step: int) -> Diagnostic:
    """E0622, naming the first layer whose parameters or outputs are not finite."""
    if math.isfinite(value):
        where = "in another process"
    else:
        layer = first_layer_not_finite(model, inputs)
        where = f"first in layer '{layer}'" if layer else "in the loss only"
    return Diagnostic(code="E0622", message=f"the loss is not a finite number in epoch {epoch}, step {step}: {where}",
                      found=f"{value}", allowed="finite numbers",
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


def _in_float(outputs: Any) -> Any:
    """Outputs of an autocast forward pass as float32."""
    return tuple(_in_float(value) for value in outputs) if isinstance(outputs, tuple) else outputs.float()


def _scaled(outputs: Any, scale: float) -> Any:
    return tuple(_scaled(value, scale) for value in outputs) if isinstance(outputs, tuple) else outputs * scale


def evaluate(model: nn.Module, samples: Samples, objective: Objective) -> Evaluation:
    """How good a model is on one part, in the mode it is in.

    Integer models get the integer inputs of a part that was loaded for them; outputs of 8 bits are divided by 128, so
    that losses compare, and so are values that a regression is compared with.
    """
    model.eval()
    meter = objective.meter(training=False)
    scale = output_scale(model)
    integer_targets = model_mode(model) is Mode.INTEGER and isinstance(objective, RegressionObjective)
    with torch.no_grad():
        for inputs, targets in samples.batches(BatchPlan(batch_size=EVALUATION_BATCH)):
            inputs, targets = inputs.to(objective.device), objective.to_device(targets)
            outputs = _scaled(model(inputs), scale)
            if integer_targets:
                targets = targets / (1 << BIAS_SHIFT)
            meter.add(objective.loss(inputs, outputs, targets).item(), objective.predictions(outputs), targets)
    return meter.result()


def output_scale(model: nn.Module) -> float:
    """Factor that brings a model's outputs to the scale of training.

    Wide layers with `OutputScale.REAL` are there already; 8-bit outputs of integer evaluation count 1/128.
    """
    if model_mode(model) is not Mode.INTEGER:
        return 1.0
    is_wide = any(layer.wide for layer in quantized_layers(model).values())
    return 1.0 if is_wide else 1.0 / (1 << BIAS_SHIFT)
