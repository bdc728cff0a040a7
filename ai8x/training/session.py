"""A training run as a whole: from settings to a finished run folder and its figures.

Start at `start_training` and `resume_training`.

Source: spec/ai8x-training.md sections 6 and 8; docs/design.md "Command lines".
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
from rich.console import Console
from torch import nn

from ai8x.checkpoint import read_checkpoint
from ai8x.errors import Diagnostic, Source, user_error
from ai8x.nn.base import Mode, quantized_layers
from ai8x.nn.functional import Q7_ONE
from ai8x.nn.loading import load_state
from ai8x.nn.qat import QatPolicy, check_policy, prepare_training, read_policy
from ai8x.training.board import Board
from ai8x.training.checkpoints import TrainingCheckpoint, seed_everything
from ai8x.training.config import NO_POLICY, TrainConfig, resolve_config
from ai8x.training.data import DataSpec
from ai8x.training.evaluation import choose_device, create_matching_model, item_at, load_parts
from ai8x.training.finish import Finish, finish_run
from ai8x.training.interrupt import StopRequest
from ai8x.training.objectives import Distillation, DistillationObjective, Objective, create_objective
from ai8x.training.processes import Processes, gather_batchnorm, join_processes
from ai8x.training.progress import Reporter
from ai8x.training.registry import (
    Catalogue,
    ModelSpec,
    create_model,
    discover,
    find_dataset,
    find_model,
    resolve_bundled,
)
from ai8x.training.run import LAST, RunFolder, RunLock, copy_run, create_run_folder, describe_environment, find_run
from ai8x.training.trainer import Output, Task, Trainer

_QAT_SETTINGS = ("qat_start", "qat_policy")
_COARSE_BITS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """Where a run begins.

    Args:
        config: resolved settings.
        policy: None trains in float only.
        saved: checkpoint to go on from.
        weights: file with initial weights.
        reset: take only the weights of the checkpoint, and count from epoch 0.
    """

    config: TrainConfig
    policy: QatPolicy | None
    saved: TrainingCheckpoint | None = None
    weights: Path | None = None
    reset: bool = False


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
    return _in_processes(start, lambda: create_run_folder(config))


def resume_training(target: str, settings: Mapping[str, Any], *, reset: bool = False) -> dict[str, Any]:
    """Go on with a run, exactly where it stopped.

    Args:
        target: run folder, its name, or a checkpoint; "" is the newest run. A checkpoint outside of a run folder
            starts a new one.
        settings: given now; they win over those of the run.
        reset: start at epoch 0 with a new optimizer, in a new run folder (``--reset-optimizer``).

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
    start = _Start(config=config, policy=policy, saved=saved, reset=reset)
    return _in_processes(start, lambda: create_run_folder(config) if reset or run is None else run)


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
    processes: Processes


def _in_processes(start: _Start, open_folder: Callable[[], RunFolder]) -> dict[str, Any]:
    """Run alone, or with the other processes that torchrun started."""
    device = choose_device(start.config)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with join_processes(device) as processes:
        prepared = _prepare(start, device, processes)
        return _run(start, prepared, open_folder)


def _prepare(start: _Start, device: torch.device, processes: Processes) -> _Prepared:
    config = start.config
    catalogue = discover(config.models_path, config.datasets_path)
    data, spec = find_dataset(catalogue, config.dataset), find_model(catalogue, config.arch)
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    seed_everything(config.seed)
    model = create_model(spec, data, config)
    if start.policy is not None:
        check_policy(model, start.policy)
        prepare_training(model, start.policy)
    if start.weights is not None:
        _load_weights(model, start.weights)
        if start.policy is not None:
            prepare_training(model, start.policy)
    parts = load_parts(data, config, integer=False)
    sample = (item_at(parts.test, 0) * Q7_ONE).round().to(torch.int8)
    if processes.world > 1:
        gather_batchnorm(model)
    model.to(device)
    objective = create_objective(data, config, model, device)
    task = Task(config=config, policy=start.policy, data=data, parts=parts, objective=objective, sample=sample,
                guided=_guided(objective, catalogue, data, config))
    trainer = Trainer(task, model, processes)
    if start.saved is not None:
        trainer.restore(start.saved, reset=start.reset)
    if start.saved is None or start.reset:
        trainer.seed_process()
    return _Prepared(task=task, trainer=trainer, spec=spec, problems=catalogue.problems, processes=processes)


def _guided(objective: Objective, catalogue: Catalogue, data: DataSpec, config: TrainConfig) -> Objective | None:
    """The objective with a teacher, where the configuration names one.

    Raises:
        UserError: E0635 for a teacher without weights, or settings that need a teacher.
    """
    if config.kd_teacher is None:
        if config.kd_resume is not None or config.kd_relationbased:
            raise user_error("E0635", "knowledge distillation needs a teacher", found="no --kd-teacher",
                             help="add --kd-teacher NAME")
        return None
    if not config.kd_resume:
        raise user_error("E0635", "the teacher has no weights", found=f"--kd-teacher {config.kd_teacher}",
                         help="add --kd-resume FILE with a checkpoint of the teacher")
    checkpoint = read_checkpoint(Path(config.kd_resume))
    state = torch.random.get_rng_state()  # making the teacher must not change the student's random numbers
    teacher = create_matching_model(find_model(catalogue, config.kd_teacher), data, config, checkpoint)
    torch.random.set_rng_state(state)
    if load_state(teacher, checkpoint.tensors()).mode is Mode.INTEGER:
        raise user_error("E0635", "the teacher is quantised to integers", source=Source(file=config.kd_resume),
                         found="a file of quantize.py", allowed="a checkpoint of training",
                         help="give the file from before quantize.py")
    teacher.to(objective.device).eval().requires_grad_(False)
    part = Distillation(teacher=teacher, temperature=config.kd_temperature, distill_weight=config.kd_distill_wt,
                        student_weight=config.kd_student_wt, relation_based=config.kd_relationbased)
    return DistillationObjective(inner=objective, distillation=part)


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
    processes, config = prepared.processes, start.config
    run = processes.share(open_folder() if processes.is_first else None)
    if not isinstance(run, RunFolder):
        raise TypeError("the first process made no run folder")
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        output = _open_output(start, prepared, run, stack)
        _introduce(start, prepared, output)
        if not prepared.trainer.train(output, stop):
            return _interrupted(run, prepared.trainer, output.reporter)
        if not processes.is_first:
            return {"status": "finished", "run": str(run.path)}
        result = finish_run(Finish(task=prepared.task, spec=prepared.spec), output)
    if config.copy_output_folder is not None:
        result["copy"] = str(copy_run(run, Path(config.copy_output_folder)))
    return result


def _open_output(start: _Start, prepared: _Prepared, run: RunFolder, stack: contextlib.ExitStack) -> Output:
    """Log, lock and TensorBoard files; only the first process writes any."""
    if not prepared.processes.is_first:
        silent = stack.enter_context(Reporter(None, Console(quiet=True)))
        return Output(run=run, reporter=silent, board=Board(None))
    stack.enter_context(RunLock(run))
    reporter = stack.enter_context(Reporter(run.log))
    run.write_description(start.config, describe_environment(str(prepared.task.objective.device)))
    for problem in prepared.problems:
        reporter.line(problem.format())
    first = start.saved.epoch + 1 if start.saved is not None and not start.reset else 0
    board = Board(run.tensorboard if start.config.tensorboard else None, first_step=first)
    stack.callback(board.close)
    return Output(run=run, reporter=reporter, board=board)


def _introduce(start: _Start, prepared: _Prepared, output: Output) -> None:
    task, config, policy, reporter = prepared.task, start.config, start.policy, output.reporter
    reporter.line(f"run folder {output.run.path}")
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
        if coarse := _coarse_layers(prepared.trainer.model, policy):
            reporter.line(f"hint: most weights of {', '.join(coarse)} will become 0; shift_quantile: 0.99 in the "
                          "policy gives narrow layers a finer step")
    if prepared.processes.world > 1:
        reporter.line(f"{prepared.processes.world} processes share every batch")
    if start.saved is not None and start.reset:
        reporter.line("weights of a checkpoint, counted from epoch 0 with a new optimizer")
    elif start.saved is not None:
        reporter.line(f"going on after epoch {start.saved.epoch}, {start.saved.step} steps into the next one")


def _coarse_layers(model: nn.Module, policy: QatPolicy) -> list[str]:
    """Layers of two bits whose greatest weight sets the step (docs/training.md, "Quantisation policy")."""
    chosen = {name: policy.for_layer(name) for name, layer in quantized_layers(model).items() if layer.op is not None}
    return [name for name, override in chosen.items()
            if override.weight_bits == _COARSE_BITS and override.shift_quantile == 1.0]


def _interrupted(run: RunFolder, trainer: Trainer, reporter: Reporter) -> dict[str, Any]:
    checkpoint = run.checkpoint(LAST, qat=trainer.is_quantized)
    reporter.line(f"interrupted in epoch {trainer.epoch}; go on with: python train.py --resume {run.path}")
    return {"status": "interrupted", "run": str(run.path), "epoch": trainer.epoch, "checkpoint": str(checkpoint)}
