"""A quantised network as ONNX that computes the same integers, with standard operators only.

Convolutions run on float tensors that hold integers. Float32 is used where no partial sum can leave the range in
which it holds every integer; beyond that, sums over parts of the input channels are added up in float64. Operators
such as QLinearConv are not used: they round halves to even, the chips round them up. Start at `export_onnx`.

Source: docs/design.md "Libraries"; spec/max78000-cnn.md section 4.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ai8x.arithmetic import BIAS_SHIFT, INT8
from ai8x.network.ir import NETWORK_INPUT, Activation, ConvSpec, Eltwise, Layer, Network, Op, Pool, PoolSpec
from ai8x.network.onnx_graph import GraphBuilder, TensorInfo

Floating = type[np.float32] | type[np.float64]

FLOAT32_INTEGERS = 1 << 24
"""Below this magnitude float32 holds every integer."""

INPUT_NAME = "input"
_ELTWISE = {Eltwise.ADD: "Add", Eltwise.SUB: "Sub", Eltwise.OR: "BitwiseOr", Eltwise.XOR: "BitwiseXor"}


def export_onnx(network: Network, *, layers: Iterable[int] | None = None) -> bytes:
    """The bytes of an ``.onnx`` file that gives the network's integers exactly.

    Inputs and outputs have a free batch dimension in front. The input ``input`` is int8 (C, H, W); 1-D data has a width
    of 1. An output has the name of its layer and its shape (C, H, W): int8, or int32 where it is wide.

    Args:
        network: with parameters.
        layers: indices of the layers whose tensors become outputs; the network's outputs where left out.

    Raises:
        UserError: E0817 where onnx is not installed.
        ValueError: a layer has no weights.
    """
    exporter = _Exporter(network)
    chosen = sorted(set(network.outputs if layers is None else layers))
    outputs = [exporter.integer_output(network.layers[index]) for index in chosen]
    described = [{"name": layer.name, "op": layer.op.value, "weight_bits": layer.weight_bits if layer.conv else None,
                  "output_shift": layer.output_shift, "output_type": str(layer.output_type)}
                 for layer in network.layers]
    metadata = {"ai8x.layers": json.dumps(described), "ai8x.dataset": network.dataset,
                "ai8x.labels": json.dumps(list(network.labels)),
                "ai8x.input": "int8: sample value times 128, from -128 to 127"}
    source = TensorInfo(name=INPUT_NAME, dtype=np.int8, shape=network.input_shape.as_tuple())
    return exporter.graph.serialized(network.name, [source], outputs, metadata)


class _Exporter:
    """Appends the nodes of one layer after the other; tensors between layers are float32 with int8 values."""

    def __init__(self, network: Network) -> None:
        self.graph = GraphBuilder()
        self._network = network
        self._values: dict[int, str] = {
            NETWORK_INPUT: self.graph.cast(self.graph.unique(INPUT_NAME), np.float32, "input_float")}
        self._output_names = {layer.index: self.graph.unique(layer.name) for layer in network.layers}
        for layer in network.layers:
            self._values[layer.index] = self._layer(layer)

    def integer_output(self, layer: Layer) -> TensorInfo:
        """Make a layer's tensor an output of the graph."""
        dtype = np.int8 if layer.output_bits == INT8.bits else np.int32
        name = self._output_names[layer.index]
        self.graph.cast_to(self._values[layer.index], dtype, name)
        return TensorInfo(name=name, dtype=dtype, shape=layer.out_shape.as_tuple())

    def _scalar(self, value: float, dtype: Floating = np.float32) -> str:
        return self.graph.constant("constant", np.array(value, dtype))

    def _layer(self, layer: Layer) -> str:
        operands = self._operands(layer)
        if layer.eltwise is None:
            data = self._pooled(layer, operands[0])
        elif layer.pool_first:
            data = self._combined(layer, layer.eltwise, [self._pooled(layer, operand) for operand in operands])
        else:
            data = self._pooled(layer, self._combined(layer, layer.eltwise, operands))
        if layer.conv is None:
            return data
        return self._weighted(layer, layer.conv, data)

    def _operands(self, layer: Layer) -> list[str]:
        """Operands as they are read: cropped, reshaped, concatenated unless combined."""
        start, end = layer.in_crop
        shape = layer.operand_shape
        read = []
        for index in layer.inputs:
            name, source = self._values[index], self._network.shape_of(index)
            if start or end:
                bounds = [np.array([bound], np.int64) for bound in (start, source.height - end, 2)]
                name = self.graph.node("Slice", [name, *(self.graph.constant("bound", b) for b in bounds)],
                                       f"{layer.name}_cropped")
            if (source.height - start - end, source.width) != (shape.height, shape.width):
                sizes = np.array([0, source.channels, shape.height, shape.width], np.int64)
                name = self.graph.node("Reshape", [name, self.graph.constant("sizes", sizes)], f"{layer.name}_reshaped")
            read.append(name)
        if layer.eltwise is not None or len(read) == 1:
            return read
        return [self.graph.node("Concat", read, f"{layer.name}_concat", axis=1)]

    def _pooled(self, layer: Layer, data: str) -> str:
        pool = layer.pool
        if pool.is_identity:
            return data
        if pool.kind is Pool.AVG:
            return self._averaged(layer, pool, data)
        return self.graph.node("MaxPool", [data], f"{layer.name}_pool", kernel_shape=list(pool.window),
                               strides=list(pool.stride), dilations=list(pool.dilation))

    def _averaged(self, layer: Layer, pool: PoolSpec, data: str) -> str:
        """Average pooling: the exact sum, then the division as the chip rounds it."""
        if pool.dilation != (1, 1):
            raise ValueError(f"layer {layer.index} '{layer.name}': average pooling with dilation")
        graph, name = self.graph, f"{layer.name}_average"
        count = pool.window[0] * pool.window[1]
        mean = graph.node("AveragePool", [data], name, kernel_shape=list(pool.window), strides=list(pool.stride))
        total = graph.node("Round", [graph.node("Mul", [mean, self._scalar(count)], name)], f"{name}_sum")
        size = graph.node("Abs", [total], name)
        if layer.average_rounded:
            doubled = graph.node("Mul", [size, self._scalar(2)], name)
            size = graph.node("Add", [doubled, self._scalar(count)], name)
            count *= 2
        quotient = graph.node("Floor", [graph.node("Div", [size, self._scalar(count)], name)], name)
        return graph.node("Mul", [quotient, graph.node("Sign", [total], name)], f"{layer.name}_pool")

    def _combined(self, layer: Layer, eltwise: Eltwise, operands: Sequence[str]) -> str:
        """Combination from the left; sums saturate once at the end."""
        graph, name = self.graph, f"{layer.name}_{eltwise.value}"
        if eltwise in (Eltwise.OR, Eltwise.XOR):
            operands = [graph.cast(operand, np.int8, name) for operand in operands]
        result = operands[0]
        for operand in operands[1:]:
            result = graph.node(_ELTWISE[eltwise], [result, operand], name)
        if eltwise in (Eltwise.OR, Eltwise.XOR):
            return graph.cast(result, np.float32, name)
        return self._clip(result, name)

    def _clip(self, data: str, name: str, dtype: Floating = np.float32) -> str:
        bounds = [self._scalar(INT8.min, dtype), self._scalar(INT8.max, dtype)]
        return self.graph.node("Clip", [data, *bounds], name)

    def _weighted(self, layer: Layer, conv: ConvSpec, data: str) -> str:
        """Convolution, shift, rounding, clipping, activation."""
        if layer.weights is None:
            raise ValueError(f"layer {layer.index} '{layer.name}' has no weights")
        if layer.flatten and layer.pooled_shape.numel != layer.pooled_shape.channels:
            sizes = np.array([0, layer.conv_in_channels, 1, 1], np.int64)
            data = self.graph.node("Reshape", [data, self.graph.constant("sizes", sizes)], f"{layer.name}_flat")
        sums, dtype = self._sums(layer, conv, layer.weights, data)
        return sums if layer.output_bits != INT8.bits else self._finished(layer, sums, dtype)

    def _sums(self, layer: Layer, conv: ConvSpec, weights: NDArray[np.int64], data: str) -> tuple[str, Floating]:
        """Accumulators, and the type that holds them exactly."""
        bias = np.zeros(len(weights), np.int64) if layer.bias is None else layer.bias.astype(np.int64) << BIAS_SHIFT
        half_step = 1 << max(0, BIAS_SHIFT - layer.output_shift - 1) if layer.output_bits == INT8.bits else 0
        if _sum_bound(weights) + int(np.abs(bias).max()) + half_step < FLOAT32_INTEGERS:
            constants = [_stored(layer, conv, weights).astype(np.float32)]
            if layer.bias is not None:
                constants.append(bias.astype(np.float32))
            return self._convolution(layer, conv, data, constants, f"{layer.name}_sums"), np.float32
        total = ""
        for part in _channel_parts(weights):
            chosen = np.concatenate([part + group * weights.shape[1] for group in range(conv.groups)])
            picked = self.graph.node("Gather", [data, self.graph.constant("channels", chosen)], f"{layer.name}_part",
                                     axis=1)
            kernel = _stored(layer, conv, weights[:, part]).astype(np.float32)
            sums = self.graph.cast(self._convolution(layer, conv, picked, [kernel], f"{layer.name}_part"),
                                   np.float64, f"{layer.name}_part")
            total = self.graph.node("Add", [total, sums], f"{layer.name}_sums") if total else sums
        offset = self.graph.constant(f"{layer.name}_bias", bias.astype(np.float64).reshape(-1, 1, 1))
        return self.graph.node("Add", [total, offset], f"{layer.name}_sums"), np.float64

    def _convolution(self, layer: Layer, conv: ConvSpec, data: str, constants: Sequence[NDArray[np.float32]],
                     output: str) -> str:
        names = [self.graph.constant(f"{layer.name}_{kind}", array)
                 for kind, array in zip(("weight", "bias"), constants, strict=False)]
        attributes = {"kernel_shape": list(conv.kernel), "strides": list(conv.stride), "group": conv.groups,
                      "pads": [*conv.padding, *conv.padding], "dilations": list(conv.dilation)}
        if layer.op is Op.CONV_TRANSPOSE2D:
            padding = [conv.output_padding] * 2
            return self.graph.node("ConvTranspose", [data, *names], output, output_padding=padding, **attributes)
        return self.graph.node("Conv", [data, *names], output, **attributes)

    def _finished(self, layer: Layer, sums: str, dtype: Floating) -> str:
        """``clip(floor(acc * 2**shift / 128 + 1/2))`` and the activation; a float32 tensor."""
        graph, name = self.graph, layer.name
        steps = BIAS_SHIFT - layer.output_shift
        if steps:
            sums = graph.node("Mul", [sums, self._scalar(2.0**-steps, dtype)], f"{name}_scaled")
        if steps > 0:
            sums = graph.node("Add", [sums, self._scalar(0.5, dtype)], f"{name}_scaled")
            sums = graph.node("Floor", [sums], f"{name}_rounded")
        result = self._clip(sums, f"{name}_clipped", dtype)
        if dtype is np.float64:
            result = graph.cast(result, np.float32, f"{name}_clipped")
        if layer.activation is Activation.RELU:
            return graph.node("Relu", [result], f"{name}_relu")
        if layer.activation is Activation.ABS:
            magnitude = graph.node("Abs", [result], f"{name}_abs")
            return graph.node("Min", [magnitude, self._scalar(INT8.max)], f"{name}_abs")
        return result


def _sum_bound(weights: NDArray[np.int64]) -> int:
    """Greatest magnitude that any partial sum of products with int8 data can reach."""
    return -INT8.min * int(np.abs(weights).sum(axis=(1, 2, 3)).max())


def _channel_parts(weights: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Input channels (within a group) in runs whose sums float32 holds exactly."""
    parts: list[NDArray[np.int64]] = []
    start = 0
    for channel in range(1, weights.shape[1] + 1):
        is_last = channel == weights.shape[1]
        if is_last or _sum_bound(weights[:, start : channel + 1]) >= FLOAT32_INTEGERS:
            parts.append(np.arange(start, channel))
            start = channel
    return parts


def _stored(layer: Layer, conv: ConvSpec, weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Weights as the operator wants them: for ConvTranspose (in, out/groups, row, column), not flipped."""
    if layer.op is not Op.CONV_TRANSPOSE2D:
        return weights
    blocks = np.split(weights[:, :, ::-1, ::-1], conv.groups, axis=0)
    return np.concatenate([block.transpose(1, 0, 2, 3) for block in blocks])
