"""The model and the data of a checkpoint, found by name: what calibration, comparison and export measure with.

Owns the way from a checkpoint to a model in float or integer mode and to samples. Start at `find_task`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ai8x.checkpoint import Checkpoint
from ai8x.errors import Source, user_error
from ai8x.nn.base import Mode, OutputScale, set_output_scale
from ai8x.nn.fold import fold_batchnorm
from ai8x.nn.functional import Q7_ONE
from ai8x.nn.loading import load_state
from ai8x.training.config import TrainConfig, resolve_config
from ai8x.training.data import BatchPlan, DataSpec, Samples
from ai8x.training.evaluation import create_matching_model, load_parts, stored_settings
from ai8x.training.registry import ModelSpec, discover, find_dataset, find_model

BATCH_SIZE = 64
_SEED = 0
_QUANTISED_FLAGS = (".quantize_activation", ".adjust_output_shift")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a checkpoint was trained for.

    Args:
        model: how to make the model.
        data: the data set.
        config: settings of the run, as far as they are known.
    """

    model: ModelSpec
    data: DataSpec
    config: TrainConfig

    def float_model(self, checkpoint: Checkpoint) -> nn.Module:
        """The model with float parameters, BatchNorm folded, in evaluation.

        The parameters of quantisation-aware training are taken as they are, without rounding.

        Raises:
            UserError: E0561 for a quantised checkpoint, E0521 to E0526 where it does not fit the model.
        """
        if checkpoint.is_quantized:
            raise user_error("E0561", "float parameters are needed", source=Source(file=checkpoint.file),
                             found="a quantised checkpoint", allowed="a checkpoint that train.py wrote",
                             help="name the checkpoint from before quantize.py with --checkpoint-float")
        state = {key: torch.zeros_like(value) if key.endswith(_QUANTISED_FLAGS) else value
                 for key, value in checkpoint.tensors().items()}
        model = create_matching_model(self.model, self.data, self.config, checkpoint)
        load_state(model, state)
        fold_batchnorm(model)
        set_output_scale(model, OutputScale.REAL)
        return model.eval()

    def integer_model(self, checkpoint: Checkpoint) -> nn.Module:
        """The model on integers; wide outputs are on the scale of float training.

        Raises:
            UserError: E0562 for a checkpoint that is not quantised, E0521 to E0526 where it does not fit the model.
        """
        model = create_matching_model(self.model, self.data, self.config, checkpoint)
        mode = load_state(model, checkpoint.tensors()).mode
        if mode is not Mode.INTEGER:
            raise user_error("E0562", "integer parameters are needed", source=Source(file=checkpoint.file),
                             found=f"a checkpoint in {mode.value} mode", allowed="a file that quantize.py wrote",
                             help="give an output file, so that the checkpoint is quantised first")
        set_output_scale(model, OutputScale.REAL)
        return model.eval()

    def training_batches(self, count: int) -> Iterator[Tensor]:
        """Inputs of training samples in random order, always the same; multiples of 1/128."""
        plan = BatchPlan(batch_size=min(BATCH_SIZE, count), seed=_SEED)
        return _limited(self._parts("train"), plan, count)

    def test_batches(self, count: int) -> Iterator[Tensor]:
        """Inputs of the first test samples; multiples of 1/128."""
        return _limited(self._parts("test"), BatchPlan(batch_size=min(BATCH_SIZE, count)), count)

    def _parts(self, name: str) -> Samples:
        parts = load_parts(self.data, replace(self.config, workers=0), integer=False)
        return parts.train if name == "train" else parts.test


def _limited(samples: Samples, plan: BatchPlan, count: int) -> Iterator[Tensor]:
    """Inputs of at most ``count`` samples, exactly on the grid."""
    left = count
    for inputs, _ in samples.batches(plan):
        yield inputs[:left].mul(Q7_ONE).round().div(Q7_ONE)
        left -= len(inputs)
        if left <= 0:
            return


def find_task(checkpoint: Checkpoint, dataset: str | None = None, *, data_folder: Path | None = None,
              settings: Mapping[str, Any] | None = None) -> Task:
    """Model and data of a checkpoint.

    Args:
        checkpoint: says the name of the model, and, if it is ours, the settings of its run.
        dataset: name of the data set; None takes that of the run.
        data_folder: where data sets lie; None takes that of the run.
        settings: further settings by name, such as ``models_path``.

    Raises:
        UserError: E0560 where the checkpoint names no model, E0603 and E0604 for unknown names.
    """
    if not checkpoint.arch:
        raise user_error("E0560", "the checkpoint does not say which model it belongs to",
                         source=Source(file=checkpoint.file), found="no key arch", allowed="the name of a model",
                         help="quantise without data, or train and save with train.py")
    chosen: dict[str, Any] = {key: value for key, value in (settings or {}).items() if value is not None}
    if dataset is not None:
        chosen["dataset"] = dataset
    if data_folder is not None:
        chosen["data"] = str(data_folder)
    config = resolve_config(stored_settings(checkpoint), {"arch": checkpoint.arch.lower()}, chosen)
    catalogue = discover(config.models_path, config.datasets_path)
    return Task(model=find_model(catalogue, config.arch), data=find_dataset(catalogue, config.dataset), config=config)
