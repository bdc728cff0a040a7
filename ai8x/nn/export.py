"""A quantised model as a `Network`, the representation that synthesis and ONNX export work on.

Owns the translation of layers and of what lies between them: concatenation, flattening, change between one and two
dimensions. Anything else between two layers is refused by name. Start at `network_from_model`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ai8x.arithmetic import BIAS_SHIFT, INT8
from ai8x.errors import UserError, user_error
from ai8x.network.build import identifier
from ai8x.network.ir import (
    NETWORK_INPUT,
    Activation,
    ConvSpec,
    Eltwise,
    Layer,
    Network,
    Op,
    Pool,
    PoolSpec,
    TensorShape,
)
from ai8x.network.weights import correlation_kernel
from ai8x.nn import elementwise
from ai8x.nn.base import ElementwiseModule, Mode, QuantizationAwareModule, model_mode
from ai8x.nn.functional import ActivationKind
from ai8x.nn.trace import Call, ModelTrace, Value, trace_model

_OPS: Mapping[type[nn.Module], Op] = {nn.Conv2d: Op.CONV2D, nn.Conv1d: Op.CONV1D, nn.Linear: Op.LINEAR,
                                      nn.ConvTranspose2d: Op.CONV_TRANSPOSE2D}
_ELTWISE: Mapping[type[ElementwiseModule], Eltwise] = {
    elementwise.Add: Eltwise.ADD, elementwise.Sub: Eltwise.SUB, elementwise.BitwiseOr: Eltwise.OR,
    elementwise.BitwiseXor: Eltwise.XOR}
_ACTIVATIONS: Mapping[ActivationKind, Activation] = {
    ActivationKind.NONE: Activation.NONE, ActivationKind.RELU: Activation.RELU, ActivationKind.ABS: Activation.ABS}
_HELP = "write that part with layers of ai8x, or move it behind the last layer"


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
    builder = _Builder(trace, _shape((1, *input_shape)))
    layers = tuple(builder.layer(number, call) for number, call in enumerate(trace.calls))
    outputs = sorted({source.call for value in trace.outputs for source in value.sources() if source.kind == "layer"})
    return Network(name=name, dataset=dataset, input_shape=builder.input_shape, layers=layers, outputs=tuple(outputs),
                   labels=labels)


def _shape(shape: tuple[int, ...]) -> TensorShape:
    """(N, C, H, W), (N, C, L) or (N, F) as (C, H, W)."""
    return TensorShape(*(*shape[1:], 1, 1)[:3])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operand:
    """What a layer reads: tensors that lie side by side, seen in a shape."""

    sources: tuple[int, ...]
    stored: TensorShape
    seen: tuple[int, ...]


class _Builder:
    """Makes one layer after the other."""

    def __init__(self, trace: ModelTrace, input_shape: TensorShape) -> None:
        self.input_shape = input_shape
        self._trace = trace
        self._names: list[str] = []
        self._owners: dict[str, int] = {}

    def layer(self, number: int, call: Call) -> Layer:
        """The layer of one call."""
        name = identifier(call.name or "layer")
        while name in self._names:
            name = f"{name}_{number}"
        self._names.append(name)
        out_shape = _shape(tuple(call.output.shape))
        layer = call.layer
        if isinstance(layer, ElementwiseModule):
            read = [self._operand(call, value) for value in call.operands]
            sources = tuple(self._single(call, operand) for operand in read)
            return Layer(name=name, index=number, op=Op.PASSTHROUGH, inputs=sources, operand_shape=_seen(read[0]),
                         out_shape=out_shape, eltwise=_ELTWISE[type(layer)])
        operand = self._operand(call, call.operands[0])
        rounded = layer.pool is not None and layer.pool.rounded
        common: dict[str, Any] = {"name": name, "index": number, "inputs": operand.sources, "out_shape": out_shape,
                                  "pool": _pool(layer), "average_rounded": rounded}
        if layer.op is None:
            return Layer(op=Op.PASSTHROUGH, operand_shape=_seen(operand), **common)
        owner = self._owners.setdefault(call.name, number)
        return Layer(**common, **self._placed(call, operand, isinstance(layer.op, nn.Linear)), **_parameters(layer),
                     weight_source=None if owner == number else owner)

    def _operand(self, call: Call, value: Value) -> _Operand:
        """The tensors that a value lies in.

        Raises:
            UserError: E0720.
        """
        if value.kind in ("input", "layer"):
            source = value.call if value.kind == "layer" else NETWORK_INPUT
            return _Operand(sources=(source,), stored=_shape(value.shape), seen=value.shape)
        if value.kind == "shape":
            inner = self._operand(call, value.parts[0])
            return _Operand(sources=inner.sources, stored=inner.stored, seen=value.shape)
        if value.kind == "concat":
            parts = [self._operand(call, part) for part in value.parts]
            if any(_shape(part.seen) != part.stored for part in parts):
                raise self._refusal(call, "a concatenation of tensors whose shape was changed")
            return _Operand(sources=tuple(s for part in parts for s in part.sources), stored=_shape(value.shape),
                            seen=value.shape)
        raise self._refusal(call, value.foreign() or value.kind)

    def _refusal(self, call: Call, what: str) -> UserError:
        return user_error("E0720", f"layer '{call.name}' reads something that no chip layer computes", found=what,
                          allowed="outputs of layers, concatenated along the channels or flattened", help=_HELP)

    def _single(self, call: Call, operand: _Operand) -> int:
        if len(operand.sources) != 1 or _shape(operand.seen) != operand.stored:
            raise self._refusal(call, "an element-wise operand that is a concatenation or was given another shape")
        return operand.sources[0]

    def _placed(self, call: Call, operand: _Operand, is_linear: bool) -> dict[str, Any]:
        """Shape in which a weighted layer reads its operand, and whether it is flattened."""
        seen = _seen(operand)
        if seen == operand.stored:
            return {"operand_shape": seen}
        if is_linear and operand.seen[1:] == (operand.stored.numel,):
            return {"operand_shape": operand.stored, "flatten": True}
        if seen.channels == operand.stored.channels:
            return {"operand_shape": seen}
        raise self._refusal(call, f"a change of shape from {operand.stored} to {seen}")


def _seen(operand: _Operand) -> TensorShape:
    return _shape(operand.seen)


def _rows_and_columns(values: Any, default: int) -> tuple[int, int]:
    """Two numbers of a geometry; one-dimensional layers have rows only."""
    listed = tuple(int(v) for v in values)
    return (listed[0], listed[1]) if len(listed) == 2 else (listed[0], default)


def _pool(layer: QuantizationAwareModule) -> PoolSpec:
    if layer.pool is None:
        return PoolSpec()
    return PoolSpec(kind=Pool.MAX if layer.pool.kind == "Max" else Pool.AVG,
                    window=_rows_and_columns(layer.pool.size, 1), stride=_rows_and_columns(layer.pool.stride, 1),
                    dilation=_rows_and_columns(layer.pool.dilation, 1))


def _conv(op: nn.Module) -> ConvSpec:
    if not isinstance(op, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)):
        return ConvSpec()
    extra = int(op.output_padding[0]) if isinstance(op, nn.ConvTranspose2d) else 0
    return ConvSpec(kernel=_rows_and_columns(op.kernel_size, 1), stride=_rows_and_columns(op.stride, 1),
                    padding=_rows_and_columns(op.padding, 0), dilation=_rows_and_columns(op.dilation, 1),
                    groups=op.groups, output_padding=extra)


def _integers(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    return tensor.detach().cpu().numpy().astype(np.int64)


def _parameters(layer: QuantizationAwareModule) -> dict[str, Any]:
    """Arguments of `Layer` that come from the parameters of a weighted layer."""
    op = layer.op
    if op is None:
        raise TypeError("a layer that only pools has no parameters")
    stored_weight, stored_bias = layer.integer_parameters()
    weight = _integers(stored_weight)
    weight = weight.reshape(*weight.shape, *(1,) * (4 - weight.ndim))
    conv = _conv(op)
    if isinstance(op, nn.ConvTranspose2d):
        weight = correlation_kernel(weight, conv.groups)
    bits = int(layer.weight_bits) or INT8.bits
    bias = None if stored_bias is None else _integers(stored_bias) >> BIAS_SHIFT
    return {"op": _OPS[type(op)], "conv": conv, "weights": weight, "weight_bits": bits,
            "bias": bias if bias is not None and bias.any() else None,
            "output_shift": math.floor(float(layer.output_shift)) + INT8.bits - bits,
            "output_bits": 32 if layer.wide else INT8.bits, "activation": _ACTIVATIONS[layer.activation]}
