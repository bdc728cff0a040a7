"""What can be named, and what models are made of: the texts of ``--list-models``, ``--list-datasets``, ``--summary``.

Source: spec/ai8x-training.md section 12.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ai8x.checkpoint import read_checkpoint
from ai8x.errors import UserError
from ai8x.nn.loading import load_state
from ai8x.training.checkpoints import PRUNED_KEY
from ai8x.training.config import TrainConfig, resolve_config
from ai8x.training.evaluation import create_matching_model, stored_settings
from ai8x.training.pruning import fit_layers
from ai8x.training.registry import Catalogue, ModelSpec, build_model, create_model, discover, find_dataset, find_model
from ai8x.training.summary import describe_size, format_summary


def model_lines(catalogue: Catalogue) -> Iterator[str]:
    """A line a model: weights, multiply-accumulates, the input that these are for, and the chips with room for it."""
    for model in sorted(catalogue.models.values(), key=lambda spec: spec.name):
        yield f"{model.name:20} {model.dim}-D  {_size(model)}"


def _size(spec: ModelSpec) -> str:
    if not spec.input_shape:
        return spec.origin
    config = TrainConfig()
    try:
        with torch.random.fork_rng(devices=[]):
            model = build_model(spec, spec.input_shape, spec.num_classes, config, bias=False)
    except UserError as error:
        return error.diagnostics[0].message
    return describe_size(model, spec.input_shape)


def dataset_lines(catalogue: Catalogue) -> Iterator[str]:
    """A line a data set: the shape of its samples, its classes and what is learnt from it."""
    for data in sorted(catalogue.datasets.values(), key=lambda spec: spec.name):
        shape = "x".join(str(size) for size in data.input_shape)
        yield f"{data.name:24} {shape:12} {len(data.labels):4} classes  {data.kind.value:15} {data.origin}"


def summarise(kind: str, settings: Mapping[str, Any], file: Path | None) -> list[str]:
    """The table of ``--summary``.

    Args:
        kind: one of `ai8x.training.summary.SUMMARIES`.
        settings: given by the user.
        file: checkpoint to load first, or None for a new model.
    """
    checkpoint = None if file is None else read_checkpoint(file)
    config = resolve_config({} if checkpoint is None else stored_settings(checkpoint), settings)
    catalogue = discover(config.models_path, config.datasets_path)
    data, spec = find_dataset(catalogue, config.dataset), find_model(catalogue, config.arch)
    if checkpoint is None:
        model = create_model(spec, data, config)
    else:
        model = create_matching_model(spec, data, config, checkpoint)
        if checkpoint.extras.get(PRUNED_KEY):
            fit_layers(model, checkpoint.tensors())
        load_state(model, checkpoint.tensors())
    return format_summary(kind, model, data.input_shape)
