"""The layers that a traced model runs, as a `Network`: what lies between the calls becomes inputs and shapes.

Owns the translation of layers, and of concatenation, flattening and the change between one and two dimensions. What
no chip layer computes is refused with the module's path and the nearest form that one does. Start at `trace_layers`.

Source: spec/max78000-cnn.md sections 4 and 7.2; spec/ai8x-training.md section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from ai8x.arithmetic import INT8
from ai8x.errors import UserError, user_error
from ai8x.network.ir import (
    NETWORK_INPUT,
    Activation,
    ConvSpec,
    Eltwise,
    Layer,
    Op,
    Pool,
    PoolSpec,
    TensorShape,
)
from ai8x.network.pairing import identifier
from ai8x.nn import elementwise
from ai8x.nn.base import ElementwiseModule, QuantizationAwareModule
from ai8x.nn.functional import ActivationKind
from ai8x.nn.trace import CHANGED_IN_PLACE, Call, ModelTrace, Value

Parameters = Callable[[QuantizationAwareModule, ConvSpec], Mapping[str, Any]]
"""A weighted layer and its geometry -> arguments of `Layer` about its numbers: weights, weight_bits and the like."""

_OPS: Mapping[type[nn.Module], Op] = {nn.Conv2d: Op.CONV2D, nn.Conv1d: Op.CONV1D, nn.Linear: Op.LINEAR,
                                      nn.ConvTranspose2d: Op.CONV_TRANSPOSE2D}
_ELTWISE: Mapping[type[ElementwiseModule], Eltwise] = {
    elementwise.Add: Eltwise.ADD, elementwise.Sub: Eltwise.SUB, elementwise.BitwiseOr: Eltwise.OR,
    elementwise.BitwiseXor: Eltwise.XOR}
_ACTIVATIONS: Mapping[ActivationKind, Activation] = {
    ActivationKind.NONE: Activation.NONE, ActivationKind.RELU: Activation.RELU, ActivationKind.ABS: Activation.ABS}

_FUSED_RELU = "use a layer that ends in ReLU, such as ai8x.FusedConv2dReLU"
_POOL = "use ai8x.{0}Pool2d, or a layer that pools first, such as ai8x.Fused{0}PoolConv2dReLU"
_PLAIN = "use ai8x.{0} instead of the layer of torch"
_PARTS = "compute every part with a layer of its own"
_NEAREST: Mapping[str, str] = {
    "relu": _FUSED_RELU, "relu6": _FUSED_RELU, "clamp": _FUSED_RELU, "threshold": _FUSED_RELU,
    "abs": "use a layer that ends in Abs, such as ai8x.FusedConv2dAbs",
    "add": "use ai8x.Add()(a, b)", "sub": "use ai8x.Sub()(a, b)",
    "bitwise_or": "use ai8x.BitwiseOr()(a, b)", "or": "use ai8x.BitwiseOr()(a, b)",
    "bitwise_xor": "use ai8x.BitwiseXor()(a, b)", "xor": "use ai8x.BitwiseXor()(a, b)",
    "max_pool2d": _POOL.format("Max"), "max_pool1d": "use ai8x.MaxPool1d", "avg_pool2d": _POOL.format("Avg"),
    "avg_pool1d": "use ai8x.AvgPool1d", "adaptive_avg_pool2d": "use ai8x.AvgPool2d with the size of the map",
    "mean": "use ai8x.AvgPool2d with the size of the map", "amax": "use ai8x.MaxPool2d with the size of the map",
    "adaptive_max_pool2d": "use ai8x.MaxPool2d with the size of the map",
    "conv1d": _PLAIN.format("Conv1d"), "conv2d": _PLAIN.format("Conv2d"), "linear": _PLAIN.format("Linear"),
    "conv_transpose2d": _PLAIN.format("ConvTranspose2d"),
    "batch_norm": "use a layer with BatchNorm, such as ai8x.FusedConv2dBNReLU, which folds it away",
    "interpolate": "use ai8x.ConvTranspose2d with stride=2",
    "mul": "leave factors to the weights of the layer in front", "div": "leave factors to the weights of the layer in "
    "front", "truediv": "leave factors to the weights of the layer in front",
    "cat": "concatenate along the channels: torch.cat(tensors, dim=1)",
    "permute": "keep the order of dimensions, or permute behind the last layer",
    "transpose": "keep the order of dimensions, or transpose behind the last layer",
    "chunk": _PARTS, "split": _PARTS, "getitem": _PARTS, "narrow": _PARTS,
    "pad": "use the padding of a layer",
    CHANGED_IN_PLACE: "leave the tensor as it is, and compute another from it",
    "constant": "subtract or add constants by the bias of a layer",
}
"""Name of a function -> what a chip layer offers instead."""

_HELP = "write that part with layers of ai8x, or move it behind the last layer"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TracedLayers:
    """The layers of a model in the order in which they run.

    Args:
        layers: as a `Network` wants them.
        paths: by layer, the path of its module; empty for a copy that joins a concatenation.
        outputs: indices of the layers whose outputs the model returns, ascending.
        behind: names of the functions between these layers and what the model returns, each once; changes of shape
            do not count, because they leave the order of the values.
    """

    layers: tuple[Layer, ...]
    paths: tuple[str, ...]
    outputs: tuple[int, ...]
    behind: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operand:
    """What a layer reads: tensors side by side.

    Args:
        sources: layers, or `NETWORK_INPUT`.
        stored: shape in which they lie in memory, together.
        seen: shape that the model gave them, with the batch.
    """

    sources: tuple[int, ...]
    stored: TensorShape
    seen: tuple[int, ...]

    @property
    def is_plain(self) -> bool:
        """The shape was not changed."""
        return data_shape(self.seen) == self.stored

    @property
    def keeps_channels(self) -> bool:
        """At most rows and columns were changed."""
        return (len(self.seen) > 2 and self.seen[1] == self.stored.channels) or self.is_plain


def data_shape(shape: Sequence[int]) -> TensorShape:
    """(N, C, H, W), (N, C, L) or (N, F) as (C, H, W)."""
    return TensorShape(*(*shape[1:], 1, 1)[:3])


def trace_layers(trace: ModelTrace, input_shape: TensorShape, parameters: Parameters) -> TracedLayers:
    """The layers that a run of a model used.

    A module that was called several times gives as many layers, of which the later ones take their weights from the
    first.

    Args:
        trace: of the model.
        input_shape: (C, H, W).
        parameters: gives the numbers of a weighted layer.

    Raises:
        UserError: E0720, something between two layers that no chip layer computes; E0725, no layer was called.
    """
    builder = _Builder(input_shape, parameters)
    for call in trace.calls:
        builder.call(call)
    outputs = tuple(sorted({builder.results[source.call] for value in trace.outputs for source in value.sources()
                            if source.kind == "layer"}))
    if not outputs:
        raise user_error("E0725", "the model returns nothing that a layer of ai8x computed",
                         found=f"{len(trace.calls)} layers of ai8x were called", allowed="at least one",
                         help="build the model from layers of ai8x, such as ai8x.FusedConv2dReLU")
    behind = dict.fromkeys(name for value in trace.outputs for name in _functions(value))
    return TracedLayers(layers=tuple(builder.layers), paths=tuple(builder.paths), outputs=outputs,
                        behind=tuple(behind))


def _functions(value: Value) -> Iterator[str]:
    """Names of the functions between the layers and a result, the last first."""
    if value.kind not in ("input", "layer"):
        if value.kind not in ("constant", "shape"):
            yield "cat" if value.kind == "concat" else value.kind
        for part in value.parts:
            yield from _functions(part)


class _Builder:
    """Makes one layer after the other."""

    def __init__(self, input_shape: TensorShape, parameters: Parameters) -> None:
        self.layers: list[Layer] = []
        self.paths: list[str] = []
        self.results: list[int] = []  # by call, its layer
        self._input_shape = input_shape
        self._parameters = parameters
        self._stored: list[TensorShape] = []  # by call, how its result lies in memory
        self._owners: dict[str, int] = {}

    def call(self, call: Call) -> None:
        """Append what one call needs."""
        module = call.layer
        if isinstance(module, ElementwiseModule):
            values = self._combination(call, _ELTWISE[type(module)])
        else:
            values = self._layer(call, module)
        stored = values.pop("stored")
        self._append(call.name, call.name or "layer", **values)
        self.results.append(len(self.layers) - 1)
        self._stored.append(stored)

    def _append(self, path: str, name: str, **values: Any) -> int:
        index = len(self.layers)
        unique = identifier(name)
        while any(layer.name == unique for layer in self.layers):
            unique = f"{unique}_{index}"
        self.layers.append(Layer(name=unique, index=index, **values))
        self.paths.append(path)
        return index

    def _layer(self, call: Call, module: QuantizationAwareModule) -> dict[str, Any]:
        """Arguments of a layer that is not element-wise, and how its result lies in memory."""
        operand = self._operand(call, call.operands[0])
        pool = pool_spec(module)
        if pool.dilation != (1, 1):
            raise self._refusal(call, f"pooling with dilation {pool.dilation[0]}", "pool without dilation")
        stored = data_shape(tuple(call.output.shape))
        common: dict[str, Any] = {
            "inputs": operand.sources, "out_shape": stored, "pool": pool, "stored": stored,
            "average_rounded": module.pool is not None and module.pool.rounded}
        if module.op is None:
            if not operand.keeps_channels:
                raise self._refusal(call, f"a change of shape from {operand.stored} to {data_shape(operand.seen)}")
            return {**common, "op": Op.PASSTHROUGH, "operand_shape": data_shape(operand.seen)}
        conv = conv_spec(module.op)
        owner = self._owners.setdefault(call.name, len(self.layers))
        return {**common, **self._placed(call, operand, module.op), **self._parameters(module, conv), "conv": conv,
                "op": _OPS[type(module.op)], "activation": _ACTIVATIONS[module.activation],
                "output_bits": 32 if module.wide else INT8.bits,
                "weight_source": None if owner == len(self.layers) else owner}

    def _placed(self, call: Call, operand: _Operand, op: nn.Module) -> dict[str, Any]:
        """Shape in which a weighted layer reads its operand, and whether it is flattened."""
        seen = data_shape(operand.seen)
        if isinstance(op, nn.Linear):
            if len(operand.seen) == 2 and operand.is_plain:
                return {"operand_shape": seen}
            if operand.seen[1:] == (operand.stored.numel,):
                return {"operand_shape": operand.stored, "flatten": True}
            raise self._refusal(call, f"a linear layer on data of {len(operand.seen) - 1} dimensions",
                                "flatten first: data.flatten(1)")
        if operand.keeps_channels:
            return {"operand_shape": seen}
        raise self._refusal(call, f"a change of shape from {operand.stored} to {seen}",
                            "change rows and columns only; channels stay in their place in memory")

    def _combination(self, call: Call, eltwise: Eltwise) -> dict[str, Any]:
        """Arguments of an element-wise layer, and how its result lies in memory."""
        operands = [self._joined(self._operand(call, value)) for value in call.operands]
        shape = operands[0].stored
        if any(operand.stored != shape for operand in operands):
            if not all(operand.keeps_channels for operand in operands):
                raise self._refusal(call, "operands that lie in memory in different shapes",
                                    "combine the tensors before their shapes are changed")
            shape = data_shape(operands[0].seen)
        return {"op": Op.PASSTHROUGH, "inputs": tuple(operand.sources[0] for operand in operands),
                "operand_shape": shape, "out_shape": shape, "eltwise": eltwise, "stored": shape}

    def _joined(self, operand: _Operand) -> _Operand:
        """The operand as one tensor: a pass layer copies the parts of a concatenation to one place."""
        if len(operand.sources) == 1:
            return operand
        known = [index for index, layer in enumerate(self.layers)
                 if layer.op is Op.PASSTHROUGH and not layer.eltwise and layer.inputs == operand.sources
                 and layer.pool.is_identity]
        index = known[0] if known else self._append(
            "", "concat", op=Op.PASSTHROUGH, inputs=operand.sources, operand_shape=operand.stored,
            out_shape=operand.stored)
        return replace(operand, sources=(index,))

    def _operand(self, call: Call, value: Value) -> _Operand:
        """The tensors that a value lies in.

        Raises:
            UserError: E0720.
        """
        if value.kind == "input":
            return _Operand(sources=(NETWORK_INPUT,), stored=self._input_shape, seen=value.shape)
        if value.kind == "layer":
            return _Operand(sources=(self.results[value.call],), stored=self._stored[value.call], seen=value.shape)
        if value.kind == "shape":
            return replace(self._operand(call, value.parts[0]), seen=value.shape)
        if value.kind == "concat":
            return self._concatenated(call, value)
        raise self._foreign(call, value)

    def _concatenated(self, call: Call, value: Value) -> _Operand:
        """Tensors side by side: of equal size, or flattened from equal sizes."""
        parts = [self._operand(call, part) for part in value.parts]
        sizes = {(part.stored.height, part.stored.width) for part in parts}
        channels = sum(part.stored.channels for part in parts)
        if not all(part.keeps_channels for part in parts):
            are_flat = all(part.seen[1:] == (part.stored.numel,) for part in parts)
            if not are_flat or len(sizes) > 1:
                raise self._refusal(call, "a concatenation of tensors whose shape was changed",
                                    "concatenate first, then change the shape")
        size = sizes.pop() if len(sizes) == 1 else data_shape(value.shape).as_tuple()[1:]
        return _Operand(sources=tuple(source for part in parts for source in part.sources),
                        stored=TensorShape(channels, *size), seen=value.shape)

    def _foreign(self, call: Call, value: Value) -> UserError:
        """The refusal of a function that no chip layer computes."""
        found = value.foreign() or value
        name = found.kind.strip("_")
        nearest = next((_NEAREST[key] for key in (name, name.removeprefix("i"), name.removeprefix("r"))
                        if key in _NEAREST), "")
        where = f"{found.kind} in module '{found.module}'" if found.module else found.kind
        return self._refusal(call, where, nearest)

    def _refusal(self, call: Call, what: str, nearest: str = "") -> UserError:
        return user_error("E0720", f"layer '{call.name}' reads something that no chip layer computes", found=what,
                          allowed="outputs of layers, concatenated along the channels or flattened",
                          help=nearest or _HELP)


def pool_spec(module: QuantizationAwareModule) -> PoolSpec:
    """Pooling in front of a layer; one-dimensional layers pool rows only."""
    if module.pool is None:
        return PoolSpec()
    return PoolSpec(kind=Pool.MAX if module.pool.kind == "Max" else Pool.AVG,
                    window=_rows_and_columns(module.pool.size, 1), stride=_rows_and_columns(module.pool.stride, 1),
                    dilation=_rows_and_columns(module.pool.dilation, 1))


def conv_spec(op: nn.Module) -> ConvSpec:
    """Geometry of an operation; a linear layer is a 1x1 convolution."""
    if not isinstance(op, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)):
        return ConvSpec()
    extra = int(op.output_padding[0]) if isinstance(op, nn.ConvTranspose2d) else 0
    return ConvSpec(kernel=_rows_and_columns(op.kernel_size, 1), stride=_rows_and_columns(op.stride, 1),
                    padding=_rows_and_columns(op.padding, 0), dilation=_rows_and_columns(op.dilation, 1),
                    groups=op.groups, output_padding=extra)


def _rows_and_columns(values: Any, default: int) -> tuple[int, int]:
    """Two numbers of a geometry; one-dimensional layers have rows only."""
    listed = tuple(int(v) for v in values)
    return (listed[0], listed[1]) if len(listed) == 2 else (listed[0], default)


def structure_only(module: QuantizationAwareModule, conv: ConvSpec) -> Mapping[str, Any]:
    """Numbers for who wants the structure only: zero weights, of no size in memory."""
    op = module.op
    if op is None:
        raise TypeError("a layer that only pools has no parameters")
    channels = op.weight.shape[1] * conv.groups if isinstance(op, nn.ConvTranspose2d) else op.weight.shape[0]
    inputs = op.weight.shape[0] // conv.groups if isinstance(op, nn.ConvTranspose2d) else op.weight.shape[1]
    return {"weights": np.broadcast_to(np.int64(0), (channels, inputs, *conv.kernel))}
