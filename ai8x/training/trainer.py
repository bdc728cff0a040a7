"""Trains one model from the first epoch, or from a checkpoint, to the last.

Order of an epoch: switch to QAT if it is due, train, validate, set the next learning rate, write the best copy, then
the checkpoint, then the metrics. A process killed anywhere in between goes on from the last checkpoint and repeats
the same numbers. Start at `Trainer`.

Source: spec/ai8x-training.md sections 6, 8 and 14; design/reliability.md sections 7.2 and 8.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ai8x.nn.qat import QatPolicy, named_parameters, switch_to_qat, update_optimizer
from ai8x.training.board import Board
from ai8x.training.checkpoints import TrainingCheckpoint, describe_policy, random_states, restore_random_states
from ai8x.training.config import TrainConfig
from ai8x.training.data import BatchPlan, DataSpec, Parts
from ai8x.training.interrupt import StopRequest
from ai8x.training.loop import Learning, Objective, Step, evaluate, train_epoch
from ai8x.training.metrics import TOP5_CLASSES, Evaluation, Meter, format_confusion
from ai8x.training.progress import Reporter, StepReport
from ai8x.training.run import BEST, LAST, RunFolder
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
    """

    config: TrainConfig
    policy: QatPolicy | None
    data: DataSpec
    parts: Parts
    objective: Objective
    sample: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Where a run writes."""

    run: RunFolder
    reporter: Reporter
    board: Board


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Validation result of an epoch, as far as choosing the best one needs it."""

    top1: float
    top5: float
    epoch: int

    def rank(self) -> tuple[float, float, int]:
        """Greater is better; of equals the later one (spec/ai8x-training.md section 8)."""
        return self.top1, self.top5, self.epoch


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

    Raises:
        UserError: E0613 to E0616 for a schedule file that cannot be followed.
    """

    def __init__(self, task: Task, model: nn.Module) -> None:
        self.task = task
        self.model = model
        self.is_quantized = False
        self._optimizer = create_optimizer(model, task.config)
        self._rates = create_learning_rates(task.config, self._optimizer)
        self._epoch = 0
        self._step = 0
        self._meter = Meter(task.data.num_classes)
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

    def restore(self, saved: TrainingCheckpoint) -> None:
        """Take up everything that a checkpoint of this run holds: the next step is the one after it."""
        if saved.is_quantized:
            self._switch()
        self.model.load_state_dict(dict(saved.state))
        self._optimizer.load_state_dict(dict(saved.optimizer))
        self._rates.load_state(saved.schedule)
        self._epoch, self._step = saved.epoch + 1, saved.step
        self._meter.load_state(dict(saved.meter))
        self._history = [Score(**score) for score in saved.history]
        self._rows = [dict(row) for row in saved.rows]
        restore_random_states(saved.random)

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
                self._switch_if_due(reporter)
                started = time.perf_counter()
                if not self._train_epoch(reporter, stop):
                    self._save(output.run, LAST, top1=self._history[-1].top1 if self._history else 0.0)
                    return False
                self._finish_epoch(output, started)
        finally:
            reporter.finish_progress()
        return True

    def _switch_if_due(self, reporter: Reporter) -> None:
        policy = self.task.policy
        if policy is None or self.is_quantized or self._epoch < policy.start_epoch:
            return
        reporter.line(f"quantisation-aware training starts (epoch {self._epoch})")
        self._switch()
        self._history.clear()

    def _switch(self) -> None:
        if self.task.policy is None:
            raise TypeError("a quantised run without a policy")
        before = named_parameters(self.model)
        switch_to_qat(self.model, self.task.policy)
        update_optimizer(self._optimizer, before, self.model)
        self.is_quantized = True

    def _train_epoch(self, reporter: Reporter, stop: StopRequest) -> bool:
        """One epoch, or the rest of one; False where it was stopped before its end."""
        task = self.task
        plan = BatchPlan(batch_size=task.config.batch_size, seed=task.config.seed, epoch=self._epoch,
                         first_batch=self._step)
        learning = Learning(model=self.model, optimizer=self._optimizer, objective=task.objective, meter=self._meter)

        def after_step(step: Step) -> bool:
            reporter.step(self._report(step), print_freq=task.config.print_freq)
            return stop.is_set

        if stop.is_set:
            return False
        self._step = train_epoch(learning, task.parts.train, plan, after_step)
        return self._step == self.num_steps

    def _report(self, step: Step) -> StepReport:
        mean = self._meter.result()
        return StepReport(
            epoch=self._epoch, step=step.number, num_steps=self.num_steps, loss=mean.loss, top1=mean.top1,
            top5=mean.top5, learning_rate=self._optimizer.param_groups[0]["lr"], seconds=step.seconds,
            phase=self._phase, show_top5=self.task.data.num_classes > TOP5_CLASSES)

    @property
    def _phase(self) -> str:
        return "qat" if self.is_quantized else "float"

    def _finish_epoch(self, output: Output, started: float) -> None:
        trained, rate = self._meter.result(), self._optimizer.param_groups[0]["lr"]
        validated = evaluate(self.model, self.task.parts.validation, self.task.objective)
        epoch = self._epoch
        self._history.append(Score(top1=validated.top1, top5=validated.top5, epoch=epoch))
        self._rows.append({
            "epoch": epoch, "phase": self._phase, "train_loss": trained.loss, "train_top1": trained.top1,
            "validation_loss": validated.loss, "validation_top1": validated.top1, "validation_top5": validated.top5,
            "learning_rate": rate})
        self._rates.finish_epoch(epoch, validated.loss)
        self._epoch, self._step = epoch + 1, 0
        self._meter = Meter(self.task.data.num_classes)
        if max(self._history, key=Score.rank).epoch == epoch:
            self._save(output.run, BEST, top1=validated.top1)
        self._save(output.run, LAST, top1=validated.top1)
        output.run.write_metrics(self._rows)
        self._print_epoch(output.reporter, validated, trained.count / max(time.perf_counter() - started, 1e-9))
        self._draw_epoch(output.board, trained, validated)

    def _print_epoch(self, reporter: Reporter, validated: Evaluation, rate: float) -> None:
        best = max(self._history, key=Score.rank)
        top5 = f"   Top5: {best.top5:.3f}" if self.task.data.num_classes > TOP5_CLASSES else ""
        reporter.line(f"--- validate (epoch={self._epoch - 1})-----------  {self._phase}, {validated.count} samples, "
                      f"{rate:.0f} samples/s")
        reporter.line(validated.summary())
        reporter.line(f"==> Best [Top1: {best.top1:.3f}{top5}   Params: {count_nonzero_weights(self.model)} "
                      f"on epoch: {best.epoch}]")
        if self.task.config.confusion:
            reporter.line("==> Confusion:\n" + format_confusion(validated.confusion, self.task.data.labels))

    def _draw_epoch(self, board: Board, trained: Evaluation, validated: Evaluation) -> None:
        epoch = self._epoch - 1
        board.scalars("Performance/Training", {"Loss": trained.loss, "Top1": trained.top1,
                                               "LR": self._rows[-1]["learning_rate"]}, epoch)
        board.scalars("Performance/Validation", {"Loss": validated.loss, "Top1": validated.top1,
                                                 "Top5": validated.top5}, epoch)
        if self._epoch % PICTURE_EPOCHS == 0 or self._epoch == self.task.config.epochs:
            board.confusion(validated.confusion, self.task.data.labels, epoch=epoch, tag="Validation")
            board.histograms(self.model, epoch)

    def _save(self, run: RunFolder, kind: str, *, top1: float) -> None:
        best = max(self._history, key=Score.rank, default=None)
        task = self.task
        checkpoint = TrainingCheckpoint(
            epoch=self._epoch - 1, step=self._step, is_quantized=self.is_quantized, arch=task.config.arch,
            state=self.model.state_dict(), optimizer=self._optimizer.state_dict(),
            optimizer_type=type(self._optimizer).__name__, schedule=self._rates.state(),
            meter=self._meter.state(), history=[asdict(score) for score in self._history], rows=self._rows,
            random=random_states(), config=task.config.to_mapping(), policy=describe_policy(task.policy),
            labels=task.data.labels, input_shape=task.data.input_shape, sample=task.sample,
            extras={"current_top1": top1, "best_top1": best.top1 if best else 0.0,
                    "best_epoch": best.epoch if best else -1})
        checkpoint.write(run.checkpoint(kind, qat=self.is_quantized))
