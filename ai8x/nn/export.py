"""A quantised model as a `Network`, the representation that ONNX export works on. Start at `network_from_model`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ai8x.arithmetic import BIAS_SHIFT, INT8
from ai8x.errors import user_error
from ai8x.network.ir import ConvSpec, Network
from ai8x.network.weights import correlation_kernel
from ai8x.nn.base import Mode, QuantizationAwareModule, model_mode
from ai8x.nn.describe_layers import data_shape, trace_layers
from ai8x.nn.trace import trace_model


def network_from_model(model: nn.Module, input_shape: tuple[int, ...], *, name: str, dataset: str = "",
                       labels: tuple[str, ...] = ()) -> Network:
    """The network that a model computes on integers.

    Functions behind the last layers (such as softmax) are not part of it. A layer that is used twice shares its
    weights.

    Args:
        model: in integer mode.
        input_shape: (C, H, W) or (C, L).
        name: of the architecture.
        dataset: name of the data set.
        labels: names of the classes.

    Raises:
        UserError: E0720 for something between layers that no chip layer computes, E0721 for a model that is not in
            integer mode.
    """
    if model_mode(model) is not Mode.INTEGER:
        raise user_error("E0721", "only quantised models have integers to export", found=f"{model_mode(model).value} "
                         "mode", allowed="integer mode", help="load a file that quantize.py wrote")
    trace = trace_model(model, torch.zeros(1, *input_shape))
    shape = data_shape((1, *input_shape))
    traced = trace_layers(trace, shape, _parameters)
    return Network(name=name, dataset=dataset, input_shape=shape, layers=traced.layers, outputs=traced.outputs,
                   labels=labels)


def _integers(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    return tensor.detach().cpu().numpy().astype(np.int64)


def _parameters(layer: QuantizationAwareModule, conv: ConvSpec) -> Mapping[str, Any]:
    """The integers of a weighted layer."""
    stored_weight, stored_bias = layer.integer_parameters()
    weight = _integers(stored_weight)
    weight = weight.reshape(*weight.shape, *(1,) * (4 - weight.ndim))
    if isinstance(layer.op, nn.ConvTranspose2d):
        weight = correlation_kernel(weight, conv.groups)
    bits = int(layer.weight_bits) or INT8.bits
    bias = None if stored_bias is None else _integers(stored_bias) >> BIAS_SHIFT
    return {"weights": weight, "weight_bits": bits, "bias": bias if bias is not None and bias.any() else None,
            "output_shift": math.floor(float(layer.output_shift)) + INT8.bits - bits}
