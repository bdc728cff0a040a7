"""Accuracy of a stored checkpoint on the test part: ``train.py --evaluate``.

Whether BatchNorm is folded and whether the numbers are integers is read off the file; no policy is needed. Start at
`evaluate_checkpoint`.

Source: spec/ai8x-training.md section 15; section 18, defects 4, 9 and 19.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ai8x.arithmetic import INT8
from ai8x.checkpoint import Checkpoint, read_checkpoint
from ai8x.errors import Source, user_error
from ai8x.files import atomic_write
from ai8x.nn.base import Mode
from ai8x.nn.functional import Q7_ONE
from ai8x.nn.loading import load_state
from ai8x.training.checkpoints import PRUNED_KEY, checked_settings
from ai8x.training.config import TrainConfig, resolve_config
from ai8x.training.data import BatchPlan, DataSpec, LoaderArguments, Parts, Samples
from ai8x.training.loop import evaluate
from ai8x.training.metrics import Evaluation, format_confusion
from ai8x.training.objectives import Objective, create_objective
from ai8x.training.progress import Reporter
from ai8x.training.pruning import fit_layers
from ai8x.training.registry import ModelSpec, create_model, discover, find_dataset, find_model


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRequest:
    """What to evaluate.

    Args:
        file: checkpoint of any generation.
        settings: given by the user; they win over those in the file.
        integer: the user asked for integer numerics (``-8``), so anything but a quantised file is refused.
        sample_index: test item to write as a sample, or None.
        slice_sample: keep only the first three channels of the sample.
    """

    file: Path
    settings: Mapping[str, Any]
    integer: bool = False
    sample_index: int | None = None
    slice_sample: bool = False


def evaluate_checkpoint(request: EvaluationRequest, reporter: Reporter | None = None) -> dict[str, Any]:
    """Evaluate, say so, and return the figures for the JSON line.

    Raises:
        UserError: E05xx for a file that does not fit, E0520 for ``-8`` with a file that is not quantised.
    """
    reporter = reporter or Reporter()
    checkpoint = read_checkpoint(request.file)
    for notice in checkpoint.notices:
        reporter.line(f"notice: {notice}")
    config = resolve_config(stored_settings(checkpoint), request.settings)
    catalogue = discover(config.models_path, config.datasets_path)
    data = find_dataset(catalogue, config.dataset)
    device = choose_device(config)
    model = create_matching_model(find_model(catalogue, config.arch), data, config, checkpoint)
    mode = load_state(model, checkpoint.tensors()).mode
    model.to(device)
    if request.integer and mode is not Mode.INTEGER:
        raise user_error("E0520", "-8 evaluates quantised checkpoints", source=Source(file=str(request.file)),
                         found=f"a checkpoint in {mode.value} mode", allowed="a file that quantize.py wrote",
                         help=f"run quantize.py {request.file} OUT.pth.tar and evaluate that, or leave -8 out")
    if mode is Mode.INTEGER and not request.integer:
        reporter.line("the checkpoint is quantised: evaluating with integers, as with -8")
    parts = load_parts(data, config, integer=mode is Mode.INTEGER)
    reporter.line(f"--- test ---------------------  {mode.value}, {len(parts.test)} samples")
    result = evaluate(model, parts.test, create_objective(data, config, model, device))
    reporter.line(result.summary())
    if config.confusion and result.is_picture_worthy:
        reporter.line("==> Confusion:\n" + format_confusion(result.confusion, data.labels))
    figures = {"status": "evaluated", "checkpoint": str(request.file), "arch": config.arch, "dataset": config.dataset,
               "mode": mode.value, **describe(result)}
    if request.sample_index is not None:
        figures["sample"] = str(_save_sample(parts.test, request, data, mode))
    return figures


def stored_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Settings that a checkpoint implies: those of its run, else the name of its model."""
    config = checkpoint.training.get("config") or checkpoint.extras.get("config")
    if isinstance(config, Mapping):
        return checked_settings(config, Path(checkpoint.file))
    return {"arch": checkpoint.arch.lower()} if checkpoint.arch else {}


def create_matching_model(spec: ModelSpec, data: DataSpec, config: TrainConfig, checkpoint: Checkpoint) -> nn.Module:
    """The model with the biases and the numbers of channels that the layers have in the checkpoint.

    Files of other tools do not say whether they were trained with ``--use-bias``; their keys do. Where neither way
    fits, the configured one is taken, and loading says what is missing. Only files that say that channels were pruned
    may have other numbers of them.
    """
    model = _model_with_biases(spec, data, config, _layers_with_bias(checkpoint.state))
    if checkpoint.extras.get(PRUNED_KEY):
        fit_layers(model, checkpoint.tensors())
    return model


def _model_with_biases(spec: ModelSpec, data: DataSpec, config: TrainConfig, stored: set[str]) -> nn.Module:
    """The model with biases in these layers, as far as ``--use-bias`` can choose."""
    for use_bias in (config.use_bias, not config.use_bias):
        model = create_model(spec, data, dataclasses.replace(config, use_bias=use_bias))
        if _layers_with_bias(model.state_dict()) == stored:
            return model
    return create_model(spec, data, config)


def _layers_with_bias(names: Iterable[str]) -> set[str]:
    """Paths of layers whose operation has a bias, whatever the operation is called."""
    return {name.rsplit(".", 2)[0] for name in names if name.endswith(".bias") and not name.endswith(".bn.bias")}


def describe(result: Evaluation) -> dict[str, Any]:
    """Figures as plain values."""
    digits = {name: round(value, 4 if name != "mse" else 8) for name, value in result.figures.items()}
    return {**digits, "loss": result.loss, "count": result.count}


def choose_device(config: TrainConfig) -> torch.device:
    """A GPU where there is one, unless ``--cpu``.

    Raises:
        UserError: E0629 for the number of a GPU that is not there.
    """
    if config.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    number, count = int(os.environ.get("LOCAL_RANK", config.gpus or 0)), torch.cuda.device_count()
    if number >= count:
        raise user_error("E0629", "there is no such GPU", found=f"GPU {number}", allowed=f"0 to {count - 1}",
                         help="give --gpus another number, start fewer processes, or use --cpu")
    return torch.device("cuda", number)


def load_parts(data: DataSpec, config: TrainConfig, *, integer: bool) -> Parts:
    """The parts of a data set as a configuration asks for them.

    Args:
        data: record of the data set.
        config: settings.
        integer: inputs -128..127 instead of these divided by 128.
    """
    return data.loader(LoaderArguments(
        act_mode_8bit=integer, truncate_testset=config.truncate_testset, folder=Path(config.data),
        download=config.download, validation_split=config.validation_split, workers=config.workers,
        out_fold_ratio=config.out_fold_ratio))


def evaluate_state(model: nn.Module, state: Mapping[str, Tensor], samples: Samples, objective: Objective
                   ) -> Evaluation:
    """Accuracy of a state.

    Args:
        model: new, in float mode; takes the mode of the state.
        state: float, QAT or quantised tensors.
        samples: with integer inputs exactly for a quantised state.
        objective: the loss.
    """
    fit_layers(model, state)
    load_state(model, state)
    return evaluate(model.to(objective.device), samples, objective)


def item_at(samples: Samples, index: int) -> Tensor:
    """One item of a part as the network sees it.

    Raises:
        UserError: E0625 for an index beyond the part.
    """
    if not 0 <= index < len(samples):
        raise user_error("E0625", "no such test item", found=str(index), allowed=f"0 to {len(samples) - 1}",
                         help="give --save-sample a smaller number")
    inputs, _ = next(samples.batches(BatchPlan(batch_size=index + 1)))
    return inputs[index]


def _save_sample(samples: Samples, request: EvaluationRequest, data: DataSpec, mode: Mode) -> Path:
    """Write a test item as int64 numbers within the int8 range, as ai8x-training does."""
    item = item_at(samples, request.sample_index or 0)
    if request.slice_sample:
        item = item[:3]
    steps = item if mode is Mode.INTEGER else item * Q7_ONE
    buffer = io.BytesIO()
    np.save(buffer, steps.round().clamp(INT8.min, INT8.max).numpy().astype(np.int64))
    path = Path(f"sample_{data.name.lower()}.npy")
    atomic_write(path, buffer.getvalue())
    return path
