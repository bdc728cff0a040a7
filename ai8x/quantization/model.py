"""From a model in memory to a quantised checkpoint, without files and without the names of train.py.

For models that were not trained with train.py, such as converted ones. Start at `quantize_model`.

Source: spec/ai8x-training.md sections 7 (ranges) and 9 (quantised files).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ai8x.arithmetic import INT8
from ai8x.checkpoint import Checkpoint, arrays_from_tensors
from ai8x.nn.base import Mode, OutputScale, model_mode, set_output_scale
from ai8x.nn.fold import describe_layers, fold_batchnorm
from ai8x.nn.functional import Q7_ONE
from ai8x.nn.loading import load_state
from ai8x.nn.statistics import ThresholdMethod
from ai8x.nn.thresholds import LayerThreshold, calibrate_activations
from ai8x.nn.wrappers import unwrap_model
from ai8x.quantization.integers import QuantizationOptions, quantize_checkpoint


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedModel:
    """A model as the chip computes it.

    Args:
        checkpoint: integers, shifts and widths; what synthesis reads.
        model: the same in integer mode, wide outputs on the scale of float training.
    """

    checkpoint: Checkpoint
    model: nn.Module


def to_grid(inputs: Tensor) -> Tensor:
    """Data of -1 to 1 as the chip receives it: the nearest multiples of 1/128 up to 127/128."""
    return inputs.mul(Q7_ONE).round().clamp(INT8.min, INT8.max).div(Q7_ONE)


def calibrate(model: nn.Module, batches: Iterable[Tensor], *, method: ThresholdMethod = ThresholdMethod.MSE
              ) -> Mapping[str, LayerThreshold]:
    """Fold BatchNorm and give every layer the power of two that brings its outputs into the range of the chip.

    In float mode the model computes the same as before; after quantisation its values use the range of int8. What
    layers add or join gets one range.

    Args:
        model: trained without clamps, in float mode; changed in place.
        batches: inputs like those of the training, of -1 to 1.
        method: how ranges are chosen.

    Returns:
        The range of every layer.

    Raises:
        ValueError: no batch at all.
    """
    fold_batchnorm(unwrap_model(model))
    return calibrate_activations(model, (to_grid(batch) for batch in batches), method=method, spare_weights=True)


def quantize_model(model: nn.Module, *, arch: str, batches: Iterable[Tensor] | None = None,
                   sample: Tensor | None = None, labels: tuple[str, ...] = (),
                   options: QuantizationOptions | None = None) -> QuantizedModel:
    """Quantise a model; it stays as it is.

    Args:
        model: in float mode, or after quantisation-aware training.
        arch: name for the checkpoint.
        batches: inputs to calibrate a model in float mode with, which needs it unless it was trained with clamps;
            other models take no notice of them.
        sample: one input (C, H, W) or (C, L) of -1 to 1; the known answer of the generated code.
        labels: names of the classes.
        options: None quantises as training did.

    Raises:
        UserError: E0536 for a model in integer mode, E0530 to E0535 for states that cannot be quantised.
    """
    inner = copy.deepcopy(unwrap_model(model)).cpu()
    if batches is not None and model_mode(inner) is Mode.FLOAT:
        calibrate(inner, batches)
    stored = None if sample is None else _stored_sample(sample)
    source = Checkpoint(state=arrays_from_tensors(inner.state_dict()), arch=arch, labels=labels, sample=stored,
                        input_shape=None if stored is None else tuple(stored.shape),
                        extras={"layers": describe_layers(inner)})
    checkpoint, _ = quantize_checkpoint(source, options)
    load_state(inner, checkpoint.tensors())
    set_output_scale(inner, OutputScale.REAL)
    return QuantizedModel(checkpoint=checkpoint, model=inner.eval())


def _stored_sample(sample: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
    return np.asarray((to_grid(sample.detach().cpu()) * Q7_ONE).to(torch.int8).numpy())
