"""What can be named, and what models are made of: the texts of ``--list-models``, ``--list-datasets``, ``--summary``.

Source: spec/ai8x-training.md section 12.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ai8x.checkpoint import read_checkpoint
from ai8x.errors import UserError, user_error
from ai8x.files import atomic_write, write_text
from ai8x.nn.describe import describe_model
from ai8x.nn.export_float import export_float_onnx
from ai8x.nn.fold import fold_batchnorm
from ai8x.nn.loading import load_state
from ai8x.training.config import TrainConfig, resolve_config
from ai8x.training.data import DataSpec
from ai8x.training.evaluation import create_matching_model, stored_settings
from ai8x.training.registry import Catalogue, ModelSpec, build_model, create_model, discover, find_dataset, find_model
from ai8x.training.summary import SUMMARIES, describe_size, format_summary


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


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRequest:
    """What ``--summary`` asks for.

    Args:
        kind: one of `ai8x.training.summary.SUMMARIES`, ``modules`` (as model), ``onnx``, ``onnx_simplified``, or one of
            the pictures of ai8x-training.
        settings: given by the user.
        file: checkpoint to load first, or None for a new model.
        target: where ``onnx`` is written.
    """

    kind: str
    settings: Mapping[str, Any]
    file: Path | None = None
    target: Path = Path("model.onnx")


def summarise(request: SummaryRequest) -> list[str]:
    """The lines of ``--summary``; the kinds with onnx write a file and say so.

    Raises:
        UserError: E0639 for a picture, E0817 without onnx, E0723 and E0724 for models that ONNX cannot hold.
    """
    if request.kind.startswith("png"):
        raise user_error("E0639", "pictures of a model are not drawn here", found=f"--summary {request.kind}",
                         allowed=", ".join((*SUMMARIES, "onnx")),
                         help="write --summary onnx, and open the file with a viewer such as Netron")
    model, spec, data = _named_model(request.settings, request.file)
    if request.kind.startswith("onnx"):
        return _write_onnx(request, model, spec, data)
    return format_summary("model" if request.kind == "modules" else request.kind, model, data.input_shape)


def _named_model(settings: Mapping[str, Any], file: Path | None) -> tuple[nn.Module, ModelSpec, DataSpec]:
    """The model of the settings, new or with the parameters of a checkpoint."""
    checkpoint = None if file is None else read_checkpoint(file)
    config = resolve_config({} if checkpoint is None else stored_settings(checkpoint), settings)
    catalogue = discover(config.models_path, config.datasets_path)
    data, spec = find_dataset(catalogue, config.dataset), find_model(catalogue, config.arch)
    if checkpoint is None:
        return create_model(spec, data, config), spec, data
    model = create_matching_model(spec, data, config, checkpoint)
    load_state(model, checkpoint.tensors())
    return model, spec, data


def write_network_file(target: Path, settings: Mapping[str, Any], file: Path | None) -> str:
    """Write the network description of a model (``--yaml-template``) and say so.

    It is complete; synthesize.py plans where the layers lie.

    Args:
        target: the YAML file.
        settings: given by the user.
        file: checkpoint to load first, or None for a new model.

    Raises:
        UserError: E0720 for something between layers that no chip layer computes.
    """
    model, spec, data = _named_model(settings, file)
    description = describe_model(model, data.input_shape, name=spec.name, dataset=data.name)
    write_text(target, description.to_yaml())
    return f"wrote {target}: {len(description.layers)} layers; synthesize.py plans their places"


def _write_onnx(request: SummaryRequest, model: nn.Module, spec: ModelSpec, data: DataSpec) -> list[str]:
    """The float network as a file; simplified is without BatchNorm."""
    if request.kind == "onnx_simplified":
        fold_batchnorm(model)
    content = export_float_onnx(model.eval(), data.input_shape, name=spec.name, labels=data.labels)
    atomic_write(request.target, content)
    shape = "x".join(str(size) for size in data.input_shape)
    return [f"wrote {request.target}: {spec.name} with float parameters, input {shape}, {len(content)} bytes"]
