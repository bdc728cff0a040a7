"""Trains one model from the first epoch, or from a checkpoint, to the last.

Order of an epoch: prune and switch to QAT if they are due, train, validate, set the next learning rate, write the best
copy, then the checkpoint, then the metrics. A process killed anywhere in between goes on from the last checkpoint and
repeats the same numbers. Start at `Trainer`.

Source: spec/ai8x-training.md sections 6, 8 and 14; docs/design.md "Files".
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ai8x.errors import UserError
from ai8x.nn.fold import describe_layers
from ai8x.nn.qat import QatPolicy, named_parameters, switch_to_qat, update_optimizer
from ai8x.training.average import WeightAverage
from ai8x.training.board import Board
from ai8x.training.checkpoints import (
    PRUNED_KEY,
    TrainingCheckpoint,
    describe_policy,
    random_states,
    restore_random_states,
    shared_random_states,
    states_of_process,
)
from ai8x.training.config import TrainConfig
from ai8x.training.data import BatchPlan, DataSpec, Parts, Stream, stream_seed
from ai8x.training.execution import Forward, is_half, wrap_forward
from ai8x.training.interrupt import StopRequest
from ai8x.training.loop import Learning, LossNotFiniteError, Step, evaluate, train_epoch
from ai8x.training.metrics import Evaluation, format_confusion, merge_states
from ai8x.training.objectives import Objective
from ai8x.training.processes import Processes
from ai8x.training.progress import Reporter, StepReport
from ai8x.training.pruning import WeightMask, fit_layers, prune_channels, prune_weights
from ai8x.training.run import BEST, DIAGNOSTIC, LAST, RunFolder
from ai8x.training.schedule import create_learning_rates

PICTURE_EPOCHS = 10
"""Pictures and histograms go to TensorBoard once in so many epochs, and at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is learnt.

    Args:
        config: settings of the run.
        policy: when and how to quantise; None trains in float only.
        data: record of the data set.
        parts: its samples.
        objective: the loss.
        sample: first test item, int8 (C, H, W) or (C, L); goes into every checkpoint.
        guided: the loss with a teacher, from epoch ``kd_start_epoch`` on; None without a teacher.
    """

    config: TrainConfig
    policy: QatPolicy | None
    data: DataSpec
    parts: Parts
    objective: Objective
    sample: Tensor
    guided: Objective | None = None

    def objective_of(self, epoch: int) -> Objective:
        """The loss of an epoch."""
        return self.guided if self.guided is not None and epoch >= self.config.kd_start_epoch else self.objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where a run writes."""

    run: RunFolder
    reporter: Reporter
    board: Board


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Validation result of an epoch, as far as choosing the best one needs it.

    Args:
        figures: as in `Evaluation`.
        best: greater is better; the first number that differs decides.
        epoch: counted from 0; of equals the later one wins (spec/ai8x-training.md section 8).
    """

    figures: dict[str, float]
    best: list[float]
    epoch: int

    def rank(self) -> tuple[float, ...]:
        """Greater is better."""
        return *self.best, self.epoch

    @property
    def main(self) -> float:
        """The figure that decides, e.g. top1."""
        return next(iter(self.figures.values()), 0.0)


def create_optimizer(model: nn.Module, config: TrainConfig) -> Optimizer:
    """The optimizer of a configuration over all trained parameters."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind = config.optimizer.lower()
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    factory = torch.optim.AdamW if kind == "adamw" else torch.optim.Adam
    return factory(parameters, lr=config.lr, weight_decay=config.weight_decay)


def count_nonzero_weights(model: nn.Module) -> int:
    """Weights other than 0 in tensors of two to four dimensions."""
    return sum(int(torch.count_nonzero(p)) for p in model.parameters() if 2 <= p.dim() <= 4)


class Trainer:
    """The state of a run between two steps, and what advances it.

    Args:
        task: what is learnt.
        model: in float mode, on the objective's device.
        processes: among which the batches are shared.

    Raises:
        UserError: E0613 to E0616 for a schedule file that cannot be followed.
    """

    def __init__(self, task: Task, model: nn.Module, processes: Processes | None = None) -> None:
        self.task = task
        self.model = model
        self.is_quantized = False
        self.is_pruned = False
        self._processes = processes or Processes()
        self._optimizer = create_optimizer(model, task.config)
        self._rates = create_learning_rates(task.config, self._optimizer)
        self._average = WeightAverage(model, task.config.ema) if task.config.ema else None
        self._mask: WeightMask | None = None
        self._forward: Forward | None = None
        self._epoch = 0
        self._step = 0
        self._meter = task.objective.meter(training=True)
        self._history: list[Score] = []
        self._rows: list[dict[str, Any]] = []

    @property
    def epoch(self) -> int:
        """The epoch that is being trained, or comes next; counted from 0."""
        return self._epoch

    @property
    def num_steps(self) -> int:
        """Steps of one epoch."""
        return math.ceil(len(self.task.parts.train) / self.task.config.batch_size)

    @property
    def judged_model(self) -> nn.Module:
        """What is validated and kept as the best: the running mean of the weights where there is one."""
        return self.model if self._average is None else self._average.model

    def restore(self, saved: TrainingCheckpoint, *, reset: bool = False) -> None:
        """Take up everything that a checkpoint of this run holds: the next step is the one after it.

        Args:
            saved: of the same model and optimizer.
            reset: take the weights only and count from epoch 0 (``--reset-optimizer``).
        """
        if saved.is_pruned:
            self._replace_layers(lambda: fit_layers(self.model, saved.state))
            self.is_pruned = True
            if self._average is not None:
                self._average.follow(self.model)
        if saved.is_quantized:
            self._switch()
        self.model.load_state_dict(dict(saved.state))
        if self._average is not None and saved.average is not None:
            self._average.load_state(int(saved.average["steps"]), saved.average["state"])
        if reset:
            return
        self._optimizer.load_state_dict(dict(saved.optimizer))
        self._rates.load_state(saved.schedule)
        self._epoch, self._step = saved.epoch + 1, saved.step
        if self._processes.is_first:  # it holds what all processes saw
            self._meter.load_state(dict(saved.meter))
        self._history = [Score(**score) for score in saved.history]
        self._rows = [dict(row) for row in saved.rows]
        self._restore_random(saved)
        if self._prunes_weights and self._epoch >= self.task.config.prune_epoch:
            self._mask = WeightMask(self.model)

    def _restore_random(self, saved: TrainingCheckpoint) -> None:
        """The generators as this process left them; a process that was not there drops out other neurons anyway."""
        states = states_of_process(saved.random, self._processes.rank)
        if states is not None:
            restore_random_states(states)
        else:
            self.seed_process()

    def seed_process(self) -> None:
        """Let each process but the first draw numbers of its own, so that each drops out other neurons."""
        if not self._processes.is_first:
            torch.manual_seed(stream_seed(self.task.config.seed, Stream.MODEL, self._processes.rank, self._epoch))

    def train(self, output: Output, stop: StopRequest) -> bool:
        """Train up to the last epoch.

        Args:
            output: where to write.
            stop: asked after every step.

        Returns:
            False where it was stopped; a checkpoint of the very step is written then.
        """
        config, reporter = self.task.config, output.reporter
        reporter.start_progress(config.epochs * self.num_steps, self._epoch * self.num_steps + self._step)
        try:
            while self._epoch < config.epochs:
                self._prune_if_due(reporter)
                self._switch_if_due(reporter)
                started = time.perf_counter()
                if not self._train_epoch(output, stop):
                    self._gather_meter()
                    self._save(output.run, LAST)
                    return False
                self._finish_epoch(output, started)
        finally:
            reporter.finish_progress()
            self._drop_forward()  # a parallel wrapper must be gone before its process group
        return True

    @property
    def _prunes_weights(self) -> bool:
        return self.task.config.prune > 0 and self.task.config.prune_kind == "magnitude"

    def _prune_if_due(self, reporter: Reporter) -> None:
        config = self.task.config
        if not config.prune or self._step or self._epoch != config.prune_epoch:
            return
        if self._prunes_weights:
            share = prune_weights(self.model, config.prune)
            self._mask = WeightMask(self.model)
            reporter.line(f"pruning (epoch {self._epoch}): {100 * share:.1f} % of the weights are 0 from now on")
        else:
            before = count_nonzero_weights(self.model)
            sample = self.task.sample.float().unsqueeze(0).to(self.task.objective.device)
            changed: dict[str, tuple[int, int]] = {}
            self._replace_layers(lambda: changed.update(prune_channels(self.model, sample, config.prune)))
            self.is_pruned = True
            cuts = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed.items())
            reporter.line(f"pruning (epoch {self._epoch}): {before} -> {count_nonzero_weights(self.model)} weights; "
                          f"channels: {cuts}")
        if self._average is not None:
            self._average.follow(self.model)
        self._history.clear()

    def _replace_layers(self, change: Callable[[], None]) -> None:
        """Change parameters of the model and let the optimizer follow."""
        before = named_parameters(self.model)
        change()
        update_optimizer(self._optimizer, before, self.model)
        self._drop_forward()

    def _drop_forward(self) -> None:
        self._forward = None
        if self._processes.world > 1:
            gc.collect()  # the hooks of a parallel wrapper go with it

    def _switch_if_due(self, reporter: Reporter) -> None:
        policy = self.task.policy
        if policy is None or self.is_quantized or self._epoch < policy.start_epoch:
            return
        reporter.line(f"quantisation-aware training starts (epoch {self._epoch})")
        self._switch()
        self._history.clear()

    def _switch(self) -> None:
        policy = self.task.policy
        if policy is None:
            raise TypeError("a quantised run without a policy")
        self._replace_layers(lambda: _quantize(self.model, policy, self._training_inputs()))
        if self._average is not None:
            self._average.switch(policy, self._training_inputs())
        self.is_quantized = True

    def _training_inputs(self) -> Iterator[Tensor]:
        """The training data without augmentation, where the policy takes statistics of it."""
        plan = BatchPlan(batch_size=self.task.config.batch_size)
        return (inputs.to(self.task.objective.device) for inputs, _ in self.task.parts.train.batches(plan))

    def _train_epoch(self, output: Output, stop: StopRequest) -> bool:
        """One epoch, or the rest of one; False where it was stopped before its end.

        Raises:
            UserError: E0622 where the loss is not finite; a checkpoint of that moment is written.
        """
        task, processes = self.task, self._processes
        plan = BatchPlan(batch_size=task.config.batch_size, seed=task.config.seed, epoch=self._epoch,
                         first_batch=self._step, rank=processes.rank, world=processes.world)
        if self._forward is None:
            self._forward = wrap_forward(self.model, task.config, processes, quantized=self.is_quantized)
        learning = Learning(model=self.model, optimizer=self._optimizer, objective=task.objective_of(self._epoch),
                            meter=self._meter, forward=self._forward, after_update=self._after_update,
                            half=is_half(task.config, quantized=self.is_quantized),
                            judged_from=self.num_steps - 2 if task.config.show_train_accuracy == "last_batch" else 0,
                            anywhere=processes.any)

        def after_step(step: Step) -> bool:
            output.reporter.step(self._report(step), print_freq=task.config.print_freq)
            return processes.any(stop.is_set)

        if processes.any(stop.is_set):
            return False
        try:
            self._step = train_epoch(learning, task.parts.train, plan, after_step)
        except LossNotFiniteError as error:
            self._step = error.step
            self._save(output.run, DIAGNOSTIC)
            file = output.run.checkpoint(DIAGNOSTIC, qat=self.is_quantized)
            raise UserError([replace(finding, help=f"{finding.help}; {file} holds the state before that step")
                             for finding in error.diagnostics]) from error
        return self._step == self.num_steps

    def _after_update(self) -> None:
        if self._mask is not None:
            self._mask.apply(self.model)
        if self._average is not None:
            self._average.update(self.model)

    def _report(self, step: Step) -> StepReport:
        mean = self._meter.result()
        return StepReport(
            epoch=self._epoch, step=step.number, num_steps=self.num_steps, loss=mean.loss, figures=mean.shown(),
            learning_rate=self._optimizer.param_groups[0]["lr"], seconds=step.seconds, phase=self._phase)

    @property
    def _phase(self) -> str:
        return "qat" if self.is_quantized else "float"

    def _finish_epoch(self, output: Output, started: float) -> None:
        processes, epoch = self._processes, self._epoch
        self._gather_meter()
        trained, rate = self._meter.result(), self._optimizer.param_groups[0]["lr"]
        validated = self._validate()
        self._history.append(Score(figures=dict(validated.figures), best=list(validated.rank()), epoch=epoch))
        self._rows.append(_row(epoch, self._phase, trained, validated, rate))
        self._rates.finish_epoch(epoch, validated.loss)
        self._epoch, self._step = epoch + 1, 0
        self._meter = self.task.objective.meter(training=True)
        if max(self._history, key=Score.rank).epoch == epoch:
            self._save(output.run, BEST)
        self._save(output.run, LAST)
        if not processes.is_first:
            return
        output.run.write_metrics(self._rows)
        self._print_epoch(output.reporter, validated, trained.count / max(time.perf_counter() - started, 1e-9))
        self._draw_epoch(output.board, trained, validated)

    def _gather_meter(self) -> None:
        self._meter.load_state(merge_states(self._processes.gather(self._meter.state())))

    def _validate(self) -> Evaluation:
        """The first process validates, so that the figures are those of a later evaluation in one process."""
        validated = None
        if self._processes.is_first:
            validated = evaluate(self.judged_model, self.task.parts.validation, self.task.objective_of(self._epoch))
        result = self._processes.share(validated)
        if not isinstance(result, Evaluation):
            raise TypeError("the first process sent no evaluation")
        return result

    def _print_epoch(self, reporter: Reporter, validated: Evaluation, rate: float) -> None:
        reporter.line(f"--- validate (epoch={self._epoch - 1})-----------  {self._phase}, {validated.count} samples, "
                      f"{rate:.0f} samples/s")
        reporter.line(validated.summary())
        weights = count_nonzero_weights(self.model)
        shown = {name.lower(): name for name, _ in validated.shown()}
        for score in sorted(self._history, key=Score.rank, reverse=True)[:self.task.config.num_best_scores]:
            figures = "   ".join(f"{shown[name]}: {value:.3f}" for name, value in score.figures.items()
                                 if name in shown)
            reporter.line(f"==> Best [{figures}   Params: {weights} on epoch: {score.epoch}]")
        if self.task.config.confusion and validated.is_picture_worthy:
            reporter.line("==> Confusion:\n" + format_confusion(validated.confusion, self.task.data.labels))

    def _draw_epoch(self, board: Board, trained: Evaluation, validated: Evaluation) -> None:
        epoch = self._epoch - 1
        rate = self._rows[-1]["learning_rate"]
        board.scalars("Performance/Training", {"Loss": trained.loss, **dict(trained.shown()[:1]), "LR": rate}, epoch)
        board.scalars("Performance/Validation", {"Loss": validated.loss, **_titled(validated)}, epoch)
        if self._epoch % PICTURE_EPOCHS == 0 or self._epoch == self.task.config.epochs:
            if validated.is_picture_worthy:
                board.confusion(validated.confusion, self.task.data.labels, epoch=epoch, tag="Validation")
            if self.task.config.param_hist:
                board.histograms(self.model, epoch)

    def _save(self, run: RunFolder, kind: str) -> None:
        """Write a checkpoint; every process must call this, since it gathers their random states."""
        random = shared_random_states(self._processes.gather(random_states()))
        if not self._processes.is_first:
            return
        best = max(self._history, key=Score.rank, default=None)
        task = self.task
        state = (self.judged_model if kind == BEST else self.model).state_dict()
        name = next(iter(best.figures), "top1") if best else "top1"
        checkpoint = TrainingCheckpoint(
            epoch=self._epoch - 1, step=self._step, is_quantized=self.is_quantized, arch=task.config.arch,
            state=state, optimizer=self._optimizer.state_dict(),
            optimizer_type=type(self._optimizer).__name__, schedule=self._rates.state(),
            meter=self._meter.state(), history=[asdict(score) for score in self._history], rows=self._rows,
            random=random, config=task.config.to_mapping(), policy=describe_policy(task.policy),
            labels=task.data.labels, input_shape=task.data.input_shape, sample=task.sample,
            extras={f"current_{name}": self._history[-1].main if self._history else 0.0,
                    f"best_{name}": best.main if best else 0.0, "best_epoch": best.epoch if best else -1,
                    "layers": describe_layers(self.model), **({PRUNED_KEY: True} if self.is_pruned else {})},
            average=None if self._average is None or kind == BEST else self._average.state())
        checkpoint.write(run.checkpoint(kind, qat=self.is_quantized))


def _quantize(model: nn.Module, policy: QatPolicy, inputs: Iterable[Tensor]) -> None:
    switch_to_qat(model, policy, inputs)


def _titled(evaluation: Evaluation) -> dict[str, float]:
    """Figures with the names of TensorBoard's curves."""
    return {name[:1].upper() + name[1:] if name.startswith("top") else name.upper(): value
            for name, value in evaluation.figures.items()}


def _row(epoch: int, phase: str, trained: Evaluation, validated: Evaluation, rate: float) -> dict[str, Any]:
    """One line of the metrics table."""
    row: dict[str, Any] = {"epoch": epoch, "phase": phase, "train_loss": trained.loss}
    main, _ = validated.main
    if main in trained.figures:
        row[f"train_{main}"] = trained.figures[main]
    row["validation_loss"] = validated.loss
    row.update({f"validation_{name}": value for name, value in validated.figures.items()})
    return {**row, "learning_rate": rate}
