"""The golden executor: runs a `Network` on integer tensors and keeps every layer's output.

This is the definition of what a network computes; simulators and generated C are compared with it. It works on
tensors and shares the integer rules of `ai8x.arithmetic`. Start at `run_network` and `compare_traces`.

Exactness: products are summed in floating point only where no partial sum, in any order, can leave the range in
which that format holds every integer (`accumulator_dtype`); everything else is integer arithmetic.

Source: spec/max78000-cnn.md section 4; docs/design.md "Numerics".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x import arithmetic
from ai8x.arithmetic import BIAS_SHIFT, INT8
from ai8x.network.ir import (
    BUFFER_INPUT,
    NETWORK_INPUT,
    Activation,
    ConvSpec,
    Eltwise,
    Layer,
    Network,
    Op,
    Pool,
    PoolSpec,
)

IntArray = NDArray[Any]

MAX_WORK_ELEMENTS = 1 << 22
"""Elements of the largest temporary array of a layer; a batch is processed in slices that respect it."""

_EXACT_LIMIT = ((np.float32, 1 << 24), (np.float64, 1 << 53))
_COMBINE: Mapping[Eltwise, Callable[[IntArray, IntArray], IntArray]] = {
    Eltwise.ADD: np.add,
    Eltwise.SUB: np.subtract,
    Eltwise.OR: np.bitwise_or,
    Eltwise.XOR: np.bitwise_xor,
}


@dataclass(frozen=True, slots=True, eq=False)
class Trace(Mapping[int, IntArray]):
    """Outputs by layer index, in order of execution.

    Args:
        layers: for each layer (C, H, W), or (N, C, H, W) for a batch; int8, int32 where the output is wide.
        buffer: the rolling buffer after the inference, of the same form; None where the network has none.
    """

    layers: Mapping[int, IntArray]
    buffer: IntArray | None = None

    def __getitem__(self, index: int) -> IntArray:
        return self.layers[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first place in which two traces differ.

    Args:
        layer: index of the first wrong layer in order of execution.
        name: its name.
        channel: first wrong channel; row and column likewise. All 0 where the shapes differ.
        row: see `channel`.
        column: see `channel`.
        expected: value of the first trace, or its shape.
        found: value of the second trace, or its shape.
        count: wrong values in this layer.
        size: values in this layer.
        sample: index in the batch.
    """

    layer: int
    name: str
    channel: int = 0
    row: int = 0
    column: int = 0
    expected: int | tuple[int, ...]
    found: int | tuple[int, ...]
    count: int
    size: int
    sample: int = 0

    def __str__(self) -> str:
        if isinstance(self.expected, tuple):
            return f"layer {self.layer} '{self.name}': expected shape {self.expected}, found {self.found}"
        return (
            f"layer {self.layer} '{self.name}', channel {self.channel}, row {self.row}, column {self.column}: "
            f"expected {self.expected}, found {self.found} ({self.count} of {self.size} values differ)"
        )


def run_network(network: Network, sample: IntArray, *, buffer: IntArray | None = None) -> Trace:
    """Every layer's output for one sample or a batch.

    Args:
        network: layers with parameters.
        sample: integers -128..127 of shape (C, H, W), or (N, C, H, W) for a batch; of 1-D data also (C, L).
        buffer: the rolling buffer before the inference, `Trace.buffer` of the one before; None for zeros. The items of
            a batch are independent: each has a buffer of its own.

    Raises:
        ValueError: shape or values of the sample do not suit the network, or a layer has no weights.
    """
    batch, is_single = _as_batch(network, sample)
    outputs: dict[int, IntArray] = {NETWORK_INPUT: batch}
    state = _first_state(network, len(batch), buffer)
    for layer in network.layers:
        if state is not None:
            outputs[BUFFER_INPUT] = _without_oldest(state, layer)
        outputs[layer.index] = run_layer(layer, [outputs[index] for index in layer.inputs])
        if state is not None:
            state = _moved(state, layer, outputs[layer.index])
    layers = {layer.index: outputs[layer.index][0] if is_single else outputs[layer.index] for layer in network.layers}
    for array in layers.values():
        array.setflags(write=False)
    return Trace(layers, state if state is None or not is_single else state[0])


def _first_state(network: Network, count: int, buffer: IntArray | None) -> IntArray | None:
    """The rolling buffers (N, C, H, W) before the inference; None for a network without."""
    if network.buffer is None:
        return None
    shape = network.buffer.shape.as_tuple()
    return np.zeros((count, *shape), np.int8) if buffer is None else np.broadcast_to(buffer, (count, *shape)).copy()


def _without_oldest(state: IntArray, layer: Layer) -> IntArray:
    """What a layer sees of the buffer: a shifting one all but the oldest pixels, in the form of its operand."""
    if not layer.buffer_shift:
        return state
    kept = state.reshape(*state.shape[:2], -1)[:, :, layer.buffer_shift:]
    return kept.reshape(*state.shape[:2], layer.operand_shape.height, layer.operand_shape.width)


def _moved(state: IntArray, layer: Layer, output: IntArray) -> IntArray:
    """The buffer after a layer: shifted, filled at its newest end, or as it was."""
    if not (layer.buffer_shift or layer.buffer_insert):
        return state
    pixels = state.reshape(*state.shape[:2], -1).copy()
    new = output.reshape(*output.shape[:2], -1)
    if layer.buffer_shift:
        pixels[:, :, : -layer.buffer_shift] = new
    else:
        pixels[:, :, -layer.buffer_insert :] = new
    return pixels.reshape(state.shape)


def _as_batch(network: Network, sample: IntArray) -> tuple[IntArray, bool]:
    shape = network.input_shape.as_tuple()
    sample = np.asarray(sample)
    if sample.dtype.kind not in "iu" or not INT8.allows(sample):
        raise ValueError(f"a sample of {sample.dtype} is not int8 data")
    if sample.shape[-3:] != shape and sample.shape == shape[:2] and shape[2] == 1:
        sample = sample[..., np.newaxis]
    if sample.ndim not in (3, 4) or sample.shape[-3:] != shape:
        raise ValueError(f"sample of shape {sample.shape}, the network expects {shape}")
    return (sample if sample.ndim == 4 else sample[np.newaxis]).astype(np.int8), sample.ndim == 3


def run_layer(layer: Layer, sources: Iterable[IntArray]) -> IntArray:
    """One layer's output.

    Args:
        layer: what to compute.
        sources: the tensors (N, C, H, W) that `Layer.inputs` names, in that order.

    Returns:
        (N, C, H, W); int8, or int32 for a wide output.
    """
    operands = _operands(layer, list(sources))
    num_samples = operands[0].shape[0]
    output = np.empty((num_samples, *layer.out_shape.as_tuple()), layer.output_type.dtype)
    step = max(1, MAX_WORK_ELEMENTS // _work_elements(layer))
    for start in range(0, num_samples, step):
        part = slice(start, start + step)
        output[part] = _compute(layer, [operand[part] for operand in operands])
    return output


def _work_elements(layer: Layer) -> int:
    """Elements of the largest temporary for one sample: the unfolded input of the convolution, or a tensor."""
    largest = max(layer.operand_shape.numel, layer.out_shape.numel)
    if layer.conv is None:
        return largest
    columns = layer.conv_in_channels * layer.conv.kernel[0] * layer.conv.kernel[1]
    return max(largest, columns * layer.out_shape.height * layer.out_shape.width)


def _operands(layer: Layer, sources: list[IntArray]) -> list[IntArray]:
    """The operands as they are read: cropped, reshaped, concatenated unless combined."""
    start, end = layer.in_crop
    shape = layer.operand_shape
    read = [
        source[:, :, start : source.shape[2] - end].reshape(source.shape[0], source.shape[1], shape.height, shape.width)
        for source in sources
    ]
    return read if layer.eltwise else [np.concatenate(read, axis=1) if len(read) > 1 else read[0]]


def _compute(layer: Layer, operands: list[IntArray]) -> IntArray:
    if layer.eltwise is not None and not layer.pool_first:
        data = _pool(_combine(layer.eltwise, operands), layer.pool, rounded=layer.average_rounded)
    else:
        pooled = [_pool(operand, layer.pool, rounded=layer.average_rounded) for operand in operands]
        data = _combine(layer.eltwise, pooled) if layer.eltwise is not None else pooled[0]
    if layer.conv is None:
        return data
    if layer.flatten:
        data = data.reshape(data.shape[0], -1, 1, 1)
    accumulator = _convolve(layer, data)
    if layer.bias is not None:
        accumulator += layer.bias[:, np.newaxis, np.newaxis] << BIAS_SHIFT
    return _finish(layer, accumulator)


def _finish(layer: Layer, accumulator: IntArray) -> IntArray:
    """Shift, round, clip and activate; a wide output is the accumulator itself."""
    if layer.output_bits != INT8.bits:
        if not layer.output_type.allows(accumulator):
            found = f"{accumulator.min()}..{accumulator.max()}"
            raise ValueError(f"layer {layer.index} '{layer.name}': accumulators {found} exceed {layer.output_type}")
        return accumulator
    values = arithmetic.scale_accumulator(accumulator, layer.output_shift)
    if layer.activation is Activation.RELU:
        return arithmetic.apply_relu(values)
    if layer.activation is Activation.ABS:
        return arithmetic.apply_abs(values)
    return values


def _combine(eltwise: Eltwise, operands: list[IntArray]) -> IntArray:
    """Combine from left to right in full precision; saturate once at the end."""
    result = operands[0].astype(np.int32)
    for operand in operands[1:]:
        result = _COMBINE[eltwise](result, operand.astype(np.int32))
    return INT8.clip(result).astype(np.int8)


def _pool(data: IntArray, pool: PoolSpec, *, rounded: bool) -> IntArray:
    """Pooled int8 data; rows and columns that fill no window are dropped."""
    if pool.is_identity:
        return data
    height, width = pool.output_size(data.shape[2], data.shape[3])
    taps = [
        data[:, :, row : row + (height - 1) * pool.stride[0] + 1 : pool.stride[0],
             column : column + (width - 1) * pool.stride[1] + 1 : pool.stride[1]]
        for row in range(0, pool.window[0] * pool.dilation[0], pool.dilation[0])
        for column in range(0, pool.window[1] * pool.dilation[1], pool.dilation[1])
    ]
    if pool.kind is Pool.AVG:
        sums = np.zeros(taps[0].shape, np.int32)
        for tap in taps:
            sums += tap
        return arithmetic.average(sums, len(taps), rounded=rounded).astype(np.int8)
    largest = taps[0]
    for tap in taps[1:]:
        largest = np.maximum(largest, tap)
    return largest


def accumulator_dtype(weights: IntArray) -> np.dtype[Any]:
    """The fastest format in which sums of int8 data times these weights are exact.

    Every partial sum, in whatever order, is at most the sum of magnitudes: 128 times the largest sum of ``|weight|``
    over the inputs of one output. Below 2**24 every such integer is a float32, below 2**53 a float64.

    Args:
        weights: (out, in/groups, row, column).
    """
    bound = -INT8.min * int(np.abs(weights).sum(axis=(1, 2, 3)).max())
    for dtype, limit in _EXACT_LIMIT:
        if bound < limit:
            return np.dtype(dtype)
    return np.dtype(np.int64)


def _convolve(layer: Layer, data: IntArray) -> IntArray:
    """Sums of products as int64 (N, out, H, W): unfold, then one matrix product for each group."""
    conv, weights = layer.conv, layer.weights
    if conv is None or weights is None:
        raise ValueError(f"layer {layer.index} '{layer.name}' has no weights")
    dtype = accumulator_dtype(weights)
    if layer.op is Op.CONV_TRANSPOSE2D:
        data, steps = _zero_stuffed(conv, data), (1, 1)
    else:
        (rows, columns), steps = conv.padding, conv.stride
        data = np.pad(data, ((0, 0), (0, 0), (rows, rows), (columns, columns)))
    reach = tuple((kernel - 1) * dilation + 1 for kernel, dilation in zip(conv.kernel, conv.dilation, strict=True))
    windows: IntArray = np.lib.stride_tricks.sliding_window_view(data, reach, axis=(2, 3))
    windows = windows[:, :, :: steps[0], :: steps[1], :: conv.dilation[0], :: conv.dilation[1]]
    num_samples, channels, height, width = windows.shape[:4]
    groups = conv.groups
    # (group, sample, row, column, input, kernel row, kernel column): one row of the matrix for each output pixel.
    unfolded = windows.reshape(num_samples, groups, channels // groups, height, width, *conv.kernel)
    matrix = unfolded.transpose(1, 0, 3, 4, 2, 5, 6).astype(dtype).reshape(groups, num_samples * height * width, -1)
    kernels = weights.reshape(groups, weights.shape[0] // groups, -1).transpose(0, 2, 1).astype(dtype)
    product = np.matmul(matrix, kernels).reshape(groups, num_samples, height, width, -1)
    output: IntArray = product.transpose(1, 0, 4, 2, 3).astype(np.int64)
    return output.reshape(num_samples, weights.shape[0], height, width)


def _zero_stuffed(conv: ConvSpec, data: IntArray) -> IntArray:
    """Input of the equivalent correlation: zeros between the pixels and around them (section 4.7)."""
    num_samples, channels, height, width = data.shape
    before = [kernel - 1 - pad for kernel, pad in zip(conv.kernel, conv.padding, strict=True)]
    spans = [(size - 1) * stride + 1 for size, stride in zip((height, width), conv.stride, strict=True)]
    sizes = [span + 2 * pad + conv.output_padding for span, pad in zip(spans, before, strict=True)]
    stuffed = np.zeros((num_samples, channels, sizes[0], sizes[1]), data.dtype)
    stuffed[:, :, before[0] : before[0] + spans[0] : conv.stride[0],
            before[1] : before[1] + spans[1] : conv.stride[1]] = data
    return stuffed


def compare_traces(
    network: Network, expected: Mapping[int, IntArray], found: Mapping[int, IntArray], *,
    layers: Iterable[int] | None = None,
) -> Difference | None:
    """The first difference in order of execution, or None.

    Args:
        network: gives order and names.
        expected: arrays by layer index.
        found: arrays by layer index, of the same shapes.
        layers: indices to compare; all of the network where left out.

    Raises:
        KeyError: a layer to compare is missing from a trace.
    """
    chosen = range(len(network.layers)) if layers is None else sorted(set(layers))
    for index in chosen:
        difference = compare_layer(network.layers[index], expected[index], found[index])
        if difference is not None:
            return difference
    return None


def compare_layer(layer: Layer, expected: IntArray, found: IntArray) -> Difference | None:
    """The first difference between two outputs (C, H, W) or (N, C, H, W) of a layer, or None."""
    if expected.shape != found.shape:
        return Difference(layer=layer.index, name=layer.name, expected=expected.shape, found=found.shape,
                          count=expected.size, size=expected.size)
    wrong = np.argwhere(expected != found)
    if not len(wrong):
        return None
    first = tuple(int(i) for i in wrong[0])
    sample, channel, row, column = (0, *first) if len(first) == 3 else first
    return Difference(layer=layer.index, name=layer.name, sample=sample, channel=channel, row=row, column=column,
                      expected=int(expected[first]), found=int(found[first]), count=len(wrong), size=expected.size)
