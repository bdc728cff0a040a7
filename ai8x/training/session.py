"""A training run as a whole: from settings to a finished run folder and its figures.

Start at `start_training` and `resume_training`.

Source: spec/ai8x-training.md sections 6 and 8; design/decisions.md "Command lines".
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ai8x.checkpoint import read_checkpoint
from ai8x.errors import Diagnostic, Source, user_error
from ai8x.nn.base import Mode
from ai8x.nn.functional import Q7_ONE
from ai8x.nn.loading import load_state
from ai8x.nn.qat import QatPolicy, check_policy, read_policy
from ai8x.quantization import quantize_state
from ai8x.training.board import Board
from ai8x.training.checkpoints import TrainingCheckpoint, seed_everything
from ai8x.training.config import NO_POLICY, TrainConfig, resolve_config
from ai8x.training.evaluation import choose_device, evaluate_state, item_at, load_parts
from ai8x.training.interrupt import StopRequest
from ai8x.training.loop import create_objective
from ai8x.training.metrics import Evaluation, format_confusion
from ai8x.training.progress import Reporter
from ai8x.training.registry import ModelSpec, create_model, discover, find_dataset, find_model, resolve_bundled
from ai8x.training.run import BEST, LAST, RunFolder, RunLock, create_run_folder, describe_environment, find_run
from ai8x.training.trainer import Output, Task, Trainer

_QAT_SETTINGS = ("qat_start", "qat_policy")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """Where a run begins.

    Args:
        config: resolved settings.
        policy: None trains in float only.
        saved: checkpoint to go on from.
        weights: file with initial weights.
    """

    config: TrainConfig
    policy: QatPolicy | None
    saved: TrainingCheckpoint | None = None
    weights: Path | None = None


def start_training(settings: Mapping[str, Any], *, weights: Path | None = None) -> dict[str, Any]:
    """Train from the first epoch in a new run folder.

    Args:
        settings: field name of `TrainConfig` -> value; the rest takes its default.
        weights: checkpoint whose weights to begin with.

    Returns:
        Figures for the JSON line; ``status`` is "finished" or "interrupted".

    Raises:
        UserError: for settings, files, models and data that cannot be used; no run folder is left then.
    """
    config = resolve_config(settings)
    start = _Start(config=config, policy=resolve_policy(config), weights=weights)
    return _run(start, _prepare(start), lambda: create_run_folder(config))


def resume_training(target: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Go on with a run, exactly where it stopped.

    Args:
        target: run folder, its name, or a checkpoint; "" is the newest run. A checkpoint outside of a run folder
            starts a new one.
        settings: given now; they win over those of the run.

    Returns:
        As `start_training`.

    Raises:
        UserError: E0617 no such run, E0623 settings that must not change, and those of `start_training`.
    """
    run, file = find_run(target, str(settings.get("out_dir", TrainConfig().out_dir)))
    saved = TrainingCheckpoint.read(file)
    config = resolve_config(saved.settings(file), settings)
    _check_unchanged(saved, config, file)
    keeps_policy = not any(name in settings for name in _QAT_SETTINGS)
    policy = saved.qat_policy() if keeps_policy else resolve_policy(config)
    if saved.is_quantized and policy is None:
        raise user_error("E0623", "the checkpoint is quantised, so the run cannot go on in float",
                         source=Source(file=str(file)), help="leave --qat-policy out")
    start = _Start(config=config, policy=policy, saved=saved)
    return _run(start, _prepare(start), lambda: run or create_run_folder(config))


def resolve_policy(config: TrainConfig) -> QatPolicy | None:
    """The QAT policy of a configuration; None where quantisation is switched off.

    Raises:
        UserError: E0623 for --qat-start without a policy, E065x for a policy file that cannot be used.
    """
    if config.qat_policy.lower() == NO_POLICY:
        if config.qat_start is not None:
            raise user_error("E0623", "--qat-start and --qat-policy None contradict each other",
                             found=f"--qat-start {config.qat_start} --qat-policy {config.qat_policy}",
                             help="leave one of them out")
        return None
    policy = read_policy(resolve_bundled(config.qat_policy))
    return policy if config.qat_start is None else dataclasses.replace(policy, start_epoch=config.qat_start)


def _check_unchanged(saved: TrainingCheckpoint, config: TrainConfig, file: Path) -> None:
    """Refuse settings that would make another network or other batches of what is half done."""
    fixed = ["arch", "dataset", "use_bias", "optimizer"] + (["batch_size", "seed"] if saved.step else [])
    former = saved.settings(file)
    for name in fixed:
        if former.get(name, getattr(config, name)) != getattr(config, name):
            raise user_error("E0623", f"{name} cannot change when a run goes on", source=Source(file=str(file)),
                             found=str(getattr(config, name)), allowed=str(former[name]),
                             help="leave the option out, or start a new run with --exp-load-weights-from")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """Everything that can be refused before a run folder exists."""

    task: Task
    trainer: Trainer
    spec: ModelSpec
    problems: tuple[Diagnostic, ...]


def _prepare(start: _Start) -> _Prepared:
    config = start.config
    catalogue = discover(config.models_path, config.datasets_path)
    data, spec = find_dataset(catalogue, config.dataset), find_model(catalogue, config.arch)
    device = choose_device(config)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    seed_everything(config.seed)
    model = create_model(spec, data, config)
    if start.policy is not None:
        check_policy(model, start.policy)
    if start.weights is not None:
        _load_weights(model, start.weights)
    parts = load_parts(data, config, integer=False)
    sample = (item_at(parts.test, 0) * Q7_ONE).round().to(torch.int8)
    objective = create_objective(data, device)
    task = Task(config=config, policy=start.policy, data=data, parts=parts, objective=objective, sample=sample)
    trainer = Trainer(task, model.to(device))
    if start.saved is not None:
        trainer.restore(start.saved)
    return _Prepared(task=task, trainer=trainer, spec=spec, problems=catalogue.problems)


def _load_weights(model: nn.Module, file: Path) -> None:
    """Initial weights from a float checkpoint.

    Raises:
        UserError: E0626 for one that is folded or quantised: the float phase needs its BatchNorm.
    """
    loaded = load_state(model, read_checkpoint(file).tensors())
    if loaded.mode is not Mode.FLOAT or loaded.folded:
        raise user_error("E0626", "training starts from float weights only", source=Source(file=str(file)),
                         found=f"a checkpoint in {loaded.mode.value} mode", allowed="one from before the switch to QAT",
                         help="use best.pth.tar instead of qat_best.pth.tar, or go on with --resume")


def _run(start: _Start, prepared: _Prepared, open_folder: Callable[[], RunFolder]) -> dict[str, Any]:
    task, config = prepared.task, start.config
    run = open_folder()
    with RunLock(run), Reporter(run.log) as reporter, StopRequest() as stop, contextlib.ExitStack() as stack:
        run.write_description(config, describe_environment(str(task.objective.device)))
        for problem in prepared.problems:
            reporter.line(problem.format())
        first = start.saved.epoch + 1 if start.saved is not None else 0
        board = Board(run.tensorboard if config.tensorboard else None, first_step=first)
        stack.callback(board.close)
        _introduce(start, prepared, run, reporter)
        if not prepared.trainer.train(Output(run=run, reporter=reporter, board=board), stop):
            return _interrupted(run, prepared.trainer, reporter)
        return _finish(prepared, run, reporter, board)


def _introduce(start: _Start, prepared: _Prepared, run: RunFolder, reporter: Reporter) -> None:
    task, config, policy = prepared.task, start.config, start.policy
    reporter.line(f"run folder {run.path}")
    weights = sum(p.numel() for p in prepared.trainer.model.parameters() if p.dim() >= 2)
    parts = task.parts
    reporter.line(f"model {config.arch}: {weights} weights; data set {config.dataset}: {len(parts.train)} training, "
                  f"{len(parts.validation)} validation, {len(parts.test)} test samples; {task.objective.device}")
    if policy is None:
        reporter.line("float training only")
    elif policy.start_epoch >= config.epochs:
        reporter.line(f"float training only: quantisation would start at epoch {policy.start_epoch} of {config.epochs}")
    else:
        reporter.line(f"quantisation-aware training from epoch {policy.start_epoch}: {policy.weight_bits} bits")
    if start.saved is not None:
        reporter.line(f"going on after epoch {start.saved.epoch}, {start.saved.step} steps into the next one")


def _interrupted(run: RunFolder, trainer: Trainer, reporter: Reporter) -> dict[str, Any]:
    checkpoint = run.checkpoint(LAST, qat=trainer.is_quantized)
    reporter.line(f"interrupted in epoch {trainer.epoch}; go on with: python train.py --resume {run.path}")
    return {"status": "interrupted", "run": str(run.path), "epoch": trainer.epoch, "checkpoint": str(checkpoint)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseResult:
    """The best checkpoint of a phase on the test part.

    Args:
        file: the checkpoint.
        epoch: in which it was written.
        validation: top-1 there, percent.
        test: figures on the test part.
    """

    file: Path
    epoch: int
    validation: float
    test: Evaluation

    def figures(self) -> dict[str, Any]:
        """Plain values for the JSON line; accuracies in percent."""
        return {"epoch": self.epoch, "validation": round(self.validation, 4), "test": round(self.test.top1, 4)}


def _finish(prepared: _Prepared, run: RunFolder, reporter: Reporter, board: Board) -> dict[str, Any]:
    """Test the best checkpoint of each phase, and the quantised one with integers as well."""
    task, config = prepared.task, prepared.task.config
    accuracy: dict[str, Any] = {}
    checkpoints: dict[str, str] = {}
    for qat in (False, True):
        file = run.checkpoint(BEST, qat=qat)
        if file.is_file():
            name = "qat" if qat else "float"
            result = _test_phase(prepared, TrainingCheckpoint.read(file), file, reporter)
            accuracy[name] = result.figures()
            board.confusion(result.test.confusion, task.data.labels, epoch=config.epochs - 1, tag=f"Test {name}")
            board.scalars("Performance/Test", {f"Top1 {name}": result.test.top1}, config.epochs - 1)
            prefix = "qat_" if qat else ""
            checkpoints[f"{prefix}best"] = str(file)
            checkpoints[f"{prefix}checkpoint"] = str(run.checkpoint(LAST, qat=qat))
    if "qat" in accuracy:
        accuracy["integer"] = {"test": round(_test_integers(prepared, run, reporter).top1, 4)}
    return {"status": "finished", "run": str(run.path), "arch": config.arch, "dataset": config.dataset,
            "epochs": config.epochs, "seed": config.seed, "checkpoints": checkpoints, "accuracy": accuracy}


def _test_phase(prepared: _Prepared, saved: TrainingCheckpoint, file: Path, reporter: Reporter) -> PhaseResult:
    score = saved.history[-1]  # the best copy is written when its own epoch is the best
    phase = "qat" if saved.is_quantized else "float"
    result = _evaluate(prepared, saved.state, integer=False)
    reporter.line(f"--- test ---------------------  {phase}, {file.name} of epoch {score['epoch']}")
    reporter.line(result.summary())
    if prepared.task.config.confusion:
        reporter.line("==> Confusion:\n" + format_confusion(result.confusion, prepared.task.data.labels))
    return PhaseResult(file=file, epoch=score["epoch"], validation=score["top1"], test=result)


def _test_integers(prepared: _Prepared, run: RunFolder, reporter: Reporter) -> Evaluation:
    saved = TrainingCheckpoint.read(run.checkpoint(BEST, qat=True))
    result = _evaluate(prepared, quantize_state(saved.state), integer=True)
    reporter.line("--- test ---------------------  integer, as quantize.py makes it of qat_best")
    reporter.line(result.summary())
    return result


def _evaluate(prepared: _Prepared, state: Mapping[str, Tensor], *, integer: bool) -> Evaluation:
    task = prepared.task
    parts = load_parts(task.data, task.config, integer=True) if integer else task.parts
    model = create_model(prepared.spec, task.data, task.config)
    return evaluate_state(model, state, parts.test, task.objective)
