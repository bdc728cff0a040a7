"""From a model in memory to a quantised checkpoint, without files and without the names of train.py.

For models that were not trained with train.py, such as converted ones. Start at `quantize_model`.

Source: spec/ai8x-training.md sections 7 (ranges) and 9 (quantised files).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ai8x.arithmetic import INT8
from ai8x.checkpoint import Checkpoint, arrays_from_tensors
from ai8x.errors import UserError, user_error
from ai8x.nn.arguments import Scheme
from ai8x.nn.base import Mode, OutputScale, model_mode, model_scheme, set_output_scale
from ai8x.nn.equalization import equalize_channels
from ai8x.nn.fold import describe_layers, fold_batchnorm
from ai8x.nn.functional import Q7_ONE
from ai8x.nn.loading import load_state
from ai8x.nn.statistics import ThresholdMethod
from ai8x.nn.thresholds import LayerThreshold, calibrate_activations
from ai8x.nn.trace import tensors_in
from ai8x.nn.wrappers import unwrap_model
from ai8x.quantization.integers import QuantizationOptions, quantize_checkpoint
from ai8x.sample import array_sample


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedModel:
    """A model as the chip computes it.

    Args:
        checkpoint: integers, shifts and widths; what synthesis reads.
        model: the same in integer mode, on integers of -128 to 127. Wide outputs are on the scale of float training;
            others are integers, 128 for 1.0.
        equalization: strength of the equalisation of channels that was chosen.
    """

    checkpoint: Checkpoint
    model: nn.Module
    equalization: float = 0.0


STRENGTHS = (0.0, 0.25, 0.5, 0.75)
"""Strengths of the equalisation of channels that `quantize_model` compares (`ai8x.nn.equalization`)."""


def to_grid(inputs: Tensor) -> Tensor:
    """Data of -1 to 1 as the chip receives it: the nearest multiples of 1/128 up to 127/128."""
    return inputs.mul(Q7_ONE).round().clamp(INT8.min, INT8.max).div(Q7_ONE)


def calibrate(model: nn.Module, batches: Iterable[Tensor], *, method: ThresholdMethod = ThresholdMethod.MSE,
              strength: float = 0.0) -> Mapping[str, LayerThreshold]:
    """Fold BatchNorm and give every layer the power of two that brings its outputs into the range of the chip.

    In float mode the model computes the same as before; after quantisation its values use the range of int8. What
    layers add or join gets one range.

    Args:
        model: trained without clamps, in float mode; changed in place.
        batches: inputs like those of the training, of -1 to 1.
        method: how ranges are chosen.
        strength: of the equalisation of channels before that (`ai8x.nn.equalization.equalize_channels`).

    Returns:
        The range of every layer.

    Raises:
        ValueError: no batch at all, or equalisation of a model that was trained with clamps.
    """
    listed = [to_grid(batch) for batch in batches]
    fold_batchnorm(unwrap_model(model))
    if strength:
        equalize_channels(model, listed, strength=strength)
    return calibrate_activations(model, listed, method=method, spare_weights=True)


Batches = Tensor | Iterable[Tensor | Sequence[Any]]
"""One batch, or several: tensors, or tuples that begin with one, as a `torch.utils.data.DataLoader` gives them."""


def quantize_model(model: nn.Module, *, arch: str, batches: Batches | None = None,
                   sample: Tensor | None = None, labels: tuple[str, ...] = (),
                   options: QuantizationOptions | None = None) -> QuantizedModel:
    """Quantise a model; it stays as it is.

    With batches a float model without clamps is calibrated with several strengths of equalisation, of which the one is
    taken whose integers come nearest to the float outputs on these batches.

    Args:
        model: in float mode, or after quantisation-aware training.
        arch: name for the checkpoint.
        batches: inputs to calibrate a model in float mode with, which needs it unless it was trained with clamps;
            other models take no notice of them. One tensor is one batch; of tuples (inputs, labels), as data loaders
            give them, the inputs are taken.
        sample: one input (C, H, W), (C, L) or (F,) of -1 to 1; the known answer of the generated code.
        labels: names of the classes.
        options: None quantises as training did.

    Raises:
        UserError: E0536 for a model in integer mode, E0530 to E0535 for states that cannot be quantised, E0642 for a
            sample that is not one input, E0646 for batches that the model cannot be calibrated with.
    """
    inner = copy.deepcopy(unwrap_model(model)).cpu().eval()
    stored = None if sample is None else _stored_sample(sample)
    source = Checkpoint(state={}, arch=arch, labels=labels, sample=stored,
                        input_shape=None if stored is None else tuple(stored.shape))
    if batches is None or model_mode(inner) is not Mode.FLOAT:
        return _quantized(inner, source, options)
    listed = _listed(inner, batches)
    strengths = STRENGTHS if model_scheme(inner) is Scheme.V2 else STRENGTHS[:1]
    found: list[QuantizedModel] = []
    for strength in strengths:
        candidate = copy.deepcopy(inner)
        calibrate(candidate, listed, strength=strength)
        found.append(replace(_quantized(candidate, source, options), equalization=strength))
    return min(found, key=lambda candidate: _distance(inner, candidate.model, listed))


def _listed(model: nn.Module, batches: Batches) -> list[Tensor]:
    """The inputs of all batches on the grid of the chip.

    Raises:
        UserError: E0646, no batch, no tensor, no finite numbers, or the model does not take it.
    """
    given = [batches] if isinstance(batches, Tensor) else list(batches)
    if not given:
        raise _no_calibration("there is no batch", "an empty list of batches")
    listed = []
    for number, batch in enumerate(given):
        inputs = batch[0] if isinstance(batch, (tuple, list)) and batch else batch
        if not isinstance(inputs, Tensor):
            raise _no_calibration(f"batch {number} is no tensor", type(inputs).__name__)
        found = f"a tensor of shape {tuple(inputs.shape)}"
        if not inputs.numel():
            raise _no_calibration(f"batch {number} is empty", found)
        if not bool(inputs.isfinite().all()):
            raise _no_calibration(f"batch {number} has infinity or NaN", found)
        listed.append(to_grid(inputs.detach().cpu()))
        _check_taken(model, listed[-1], f"batch {number}")
    return listed


@torch.no_grad()
def _check_taken(model: nn.Module, inputs: Tensor, name: str) -> None:
    try:
        model(inputs[:1])
    except UserError:
        raise
    except Exception as error:  # the user's code may raise anything
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise _no_calibration(f"the model does not run on {name}: {reason}",
                              f"a tensor of shape {tuple(inputs.shape)}") from error


def _no_calibration(message: str, found: str) -> UserError:
    return user_error("E0646", f"the model cannot be calibrated: {message}", found=found,
                      allowed="batches of finite inputs of -1 to 1, (N, C, H, W), (N, C, L) or (N, F), as in training",
                      help="write batches=[inputs], or batches=loader with a DataLoader")


def _quantized(model: nn.Module, source: Checkpoint, options: QuantizationOptions | None) -> QuantizedModel:
    """A model's parameters quantised; the model changes to integer mode."""
    given = replace(source, state=arrays_from_tensors(model.state_dict()), extras={"layers": describe_layers(model)})
    checkpoint, _ = quantize_checkpoint(given, options)
    load_state(model, checkpoint.tensors())
    set_output_scale(model, OutputScale.REAL)
    return QuantizedModel(checkpoint=checkpoint, model=model.eval())


@torch.no_grad()
def _distance(reference: nn.Module, integer: nn.Module, batches: Iterable[Tensor]) -> float:
    """How far the directions of all outputs differ, whatever their scale: 0 for equal ones, at most 1 for each."""
    distance = 0.0
    for batch in batches:
        for expected, found in zip(tensors_in(reference(batch)), tensors_in(integer(batch * Q7_ONE)), strict=True):
            a, b = expected.double().flatten(), found.double().flatten()
            norms = float(a.square().sum() * b.square().sum())
            distance += 1.0 - float(a @ b) ** 2 / norms if norms > 0 else float(bool(a.any() or b.any()))
    return distance


def _stored_sample(sample: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
    """The sample as checkpoints hold it: (C, H, W) or (C, L); features become channels of length 1."""
    planes = sample.unsqueeze(-1) if sample.dim() == 1 else sample
    values = np.asarray((to_grid(planes.detach().cpu()) * Q7_ONE).to(torch.int8).numpy())
    array_sample(values)  # refuses what is no single input
    return values
