"""Convolutions of every kind as KPU layers.

A kernel of up to 3x3 taps runs on a map that holds the tensor; a longer or dilated 1-D kernel on a map whose rows are
shifted copies of the sequence; anything else on a map whose channels are the cells of the window. A transposed
convolution is one convolution with four times the outputs, which are then interleaved. Start at `convolved`.

Source: spec/k210-kmodel.md sections 13.2 and 14.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ai8x.arithmetic import BIAS_SHIFT, INT8
from ai8x.k210.builder import ConvWork, StepBuilder, copying_parameters, dense_weights, fold
from ai8x.k210.device import K210
from ai8x.k210.frames import KERNEL_TAPS, AxisWork, Frame, side_by_side
from ai8x.k210.gather import Dense, Row, interleave_ranges, tap_rows
from ai8x.k210.legalize_pool import KpuPool, carried_pool, subsampled
from ai8x.k210.parameters import KpuParameters, absolute_parameters, exact_parameters
from ai8x.k210.steps import zero_bias
from ai8x.k210.tensors import Tensor
from ai8x.network.ir import Activation, ConvSpec, Layer, Op, PoolSpec, TensorShape

_NO_POOL = PoolSpec()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """Pooling that all consumers of a layer want.

    Args:
        pool: what they want.
        carried: as the KPU does it.
        size: rows and columns after it.
    """

    pool: PoolSpec
    carried: KpuPool
    size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Convolved:
    """A layer's tensor, or its pooled tensor where the pooling could be fused."""

    tensor: Tensor
    pool: PoolSpec = _NO_POOL


class ShiftedSum:
    """Makes the parameters of a layer: sum, bias, shift, activation.

    Args:
        layer: gives shift and activation.
        bias: accumulator terms of all output channels.
    """

    def __init__(self, layer: Layer, bias: NDArray[np.int64]) -> None:
        self._layer = layer
        self._bias = bias
        self._shift = BIAS_SHIFT - layer.output_shift
        self._low = 0 if layer.activation is Activation.RELU else INT8.min
        self._is_absolute = layer.activation is Activation.ABS

    def __call__(self, weights: NDArray[np.int64], channels: slice) -> KpuParameters:
        """Parameters of some of the channels; with Abs both halves of them."""
        if not self._is_absolute:
            return exact_parameters(weights, self._bias[channels], shift=self._shift, low=self._low)
        index = np.arange(channels.start, channels.stop)
        outputs = len(self._bias)
        return absolute_parameters(weights, self._bias[index % outputs], index >= outputs, shift=self._shift)


    def part(self, channels: slice) -> ShiftedSum:
        """The same for some of the output channels."""
        return ShiftedSum(self._layer, self._bias[channels])


def layer_bias(layer: Layer) -> NDArray[np.int64]:
    """A layer's bias in accumulator units."""
    if layer.bias is None:
        return zero_bias(layer.out_shape.channels)
    return np.asarray(layer.bias, np.int64) << BIAS_SHIFT


def convolved(builder: StepBuilder, layer: Layer, operands: Sequence[Tensor], fused: Fused | None) -> Convolved:
    """The output of a layer with weights.

    Args:
        builder: receives the steps.
        layer: with one-dimensional data in a row (`legalize.in_rows`).
        operands: pooled and combined; concatenated along the channels.
        fused: pooling that may be done at once, or None.

    Raises:
        NotExact: no form fits the KPU.
    """
    assert layer.conv is not None and layer.weights is not None
    conv = layer.conv
    if layer.op is Op.CONV_TRANSPOSE2D:
        return Convolved(tensor=_transposed(builder, layer, operands))
    if _direct_fits(layer, operands[0].shape):
        return _direct(builder, layer, operands, fused)
    if layer.operand_shape.height == 1 and conv.kernel[0] == 1 and _sequence_fits(layer):
        full = _sequence(builder, layer, operands)
        size = (layer.out_shape.height, layer.out_shape.width)
        return Convolved(tensor=subsampled(builder, full, layer, conv.stride, size))
    return Convolved(tensor=_unfolded(builder, layer, operands))


# ------------------------------------------------------------------------------------------------ kernels up to 3x3

def _direct_fits(layer: Layer, shape: TensorShape) -> bool:
    """Whether kernel and map are of sizes that the KPU has; a 1x1 kernel may arrange long rows anew."""
    assert layer.conv is not None
    conv, limits = layer.conv, K210.limits
    taps = all(kernel == 1 or (kernel <= KERNEL_TAPS and dilation == 1)
               for kernel, dilation in zip(conv.kernel, conv.dilation, strict=True))
    height, width = (max(shape.height, layer.out_shape.height), max(shape.width, layer.out_shape.width))
    small = height + 2 <= limits.max_height and width + 2 <= limits.max_width
    return taps and (small or (shape.height <= limits.max_height and shape.width <= limits.max_width))


def _direct(builder: StepBuilder, layer: Layer, operands: Sequence[Tensor], fused: Fused | None) -> Convolved:
    assert layer.conv is not None and layer.weights is not None
    conv, shape, size = layer.conv, operands[0].shape, (layer.out_shape.height, layer.out_shape.width)
    channels = sum(tensor.shape.channels for tensor in operands)
    depthwise = conv.groups == channels == layer.out_shape.channels and len(operands) == 1 and channels > 1
    full = replace(conv, stride=(1, 1)).output_size(shape.height, shape.width)
    axes = tuple(AxisWork(length=length, kernel=kernel, pad=pad, count=count) for length, kernel, pad, count in
                 zip((shape.height, shape.width), conv.kernel, conv.padding, full, strict=True))
    picked = carried_pool(PoolSpec(stride=conv.stride), size, floor_is_exact=True)
    weights = layer.weights if depthwise else dense_weights(layer.weights, channels)
    work = ConvWork(name=layer.name, layer=layer, weights=weights, rows=axes[0], columns=axes[1],
                    parameters=ShiftedSum(layer, layer_bias(layer)), depthwise=depthwise)
    if conv.stride != (1, 1):
        if picked and not depthwise:
            rows, columns = picked.axes((axes[0], axes[1]), size)
            return Convolved(tensor=activated(builder, operands, replace(work, rows=rows, columns=columns,
                                                                         pool=picked.code)))
        result = activated(builder, operands, work)
        return Convolved(tensor=subsampled(builder, result, layer, conv.stride, size))
    absolute_in_parts = layer.activation is Activation.ABS and 2 * len(weights) > K210.limits.max_channels
    if fused is None or depthwise or absolute_in_parts:
        return Convolved(tensor=activated(builder, operands, work))
    return _fused(builder, operands, work, fused)


def _fused(builder: StepBuilder, operands: Sequence[Tensor], work: ConvWork, fused: Fused) -> Convolved:
    """The convolution with the pooling behind it, unless only a plain one can use the maps that exist."""
    pooling = with_pool(work, fused)
    if work.layer.activation is Activation.ABS:
        halves = builder.convolve(operands, _both_halves(work))
        assert halves is not None
        together = _sum_of_halves(halves, work)
        if summed := builder.convolve([halves], with_pool(together, fused), upload=False):
            return Convolved(tensor=summed, pool=fused.pool)
        plain = builder.convolve([halves], together)
        assert plain is not None
        return Convolved(tensor=plain)
    if done := builder.convolve(operands, pooling, upload=False):
        return Convolved(tensor=done, pool=fused.pool)
    if done := builder.convolve(operands, work, upload=False):
        return Convolved(tensor=done)
    made = builder.convolve(operands, pooling)
    assert made is not None
    return Convolved(tensor=made, pool=fused.pool)


def with_pool(work: ConvWork, fused: Fused) -> ConvWork:
    """The work with a pooling behind it."""
    rows, columns = fused.carried.axes((work.rows, work.columns), fused.size)
    return replace(work, rows=rows, columns=columns, pool=fused.carried.code)


def activated(builder: StepBuilder, operands: Sequence[Tensor], work: ConvWork) -> Tensor:
    """A convolution with the layer's activation; Abs is the sum of its positive and its negative part."""
    if work.layer.activation is not Activation.ABS:
        result = builder.convolve(operands, work)
        assert result is not None
        return result
    parts = [_absolute(builder, operands, part) for part in _absolute_parts(work)]
    if len(parts) == 1:
        return parts[0]
    shape = TensorShape(len(work.weights), parts[0].shape.height, parts[0].shape.width)
    return Tensor(shape=shape, frames=[side_by_side(part.frames[0] for part in parts)])


def _absolute(builder: StepBuilder, operands: Sequence[Tensor], work: ConvWork) -> Tensor:
    halves = builder.convolve(operands, _both_halves(work))
    assert halves is not None
    result = builder.convolve([halves], _sum_of_halves(halves, work))
    assert result is not None
    return result


def _absolute_parts(work: ConvWork) -> list[ConvWork]:
    """The work on so few output channels at a time that the next layer can read both halves of them."""
    most = K210.limits.max_channels // 2
    outputs = len(work.weights)
    if outputs <= most:
        return [work]
    assert isinstance(work.parameters, ShiftedSum)
    weights = dense_weights(work.weights, outputs) if work.depthwise else work.weights
    return [replace(work, weights=weights[start : start + most], depthwise=False,
                    parameters=work.parameters.part(slice(start, start + most)))
            for start in range(0, outputs, most)]


def _both_halves(work: ConvWork) -> ConvWork:
    """Twice the outputs: positive parts, then negative parts."""
    weights = dense_weights(work.weights, len(work.weights)) if work.depthwise else work.weights
    return replace(work, weights=np.concatenate([weights, weights]), depthwise=False)


def _sum_of_halves(halves: Tensor, work: ConvWork) -> ConvWork:
    outputs, shape = len(work.weights), halves.shape
    eye = np.eye(outputs, dtype=np.int64)
    return ConvWork(name=f"{work.name}: absolute value", layer=work.layer,
                    weights=np.concatenate([eye, eye], axis=1)[:, :, None, None],
                    rows=AxisWork(length=shape.height, count=shape.height),
                    columns=AxisWork(length=shape.width, count=shape.width), parameters=copying_parameters)


# ------------------------------------------------------------------------------------------------ sequences

def _sequence_fits(layer: Layer) -> bool:
    """Whether the shifted copies of the sequence fit a KPU map."""
    assert layer.conv is not None
    blocks, across = _sequence_blocks(layer.conv)
    width = _sequence_length(layer) + across - 1
    return blocks * layer.conv_in_channels <= K210.limits.max_channels and width <= K210.limits.max_width


def _sequence_blocks(conv: ConvSpec) -> tuple[int, int]:
    """Blocks of channels, and taps of one row: three without dilation, else one."""
    across = KERNEL_TAPS if conv.dilation[1] == 1 else 1
    return -(-conv.kernel[1] // (KERNEL_TAPS * across)), across


def _sequence_length(layer: Layer) -> int:
    assert layer.conv is not None
    return replace(layer.conv, stride=(1, 1)).output_size(1, layer.pooled_shape.width)[1]


def _sequence(builder: StepBuilder, layer: Layer, operands: Sequence[Tensor]) -> Tensor:
    """A 1-D convolution with more taps than the KPU's rows have, or with gaps between them.

    Row r of a map holds the sequence from tap ``r * across`` on, so that the kernel's rows continue each other;
    further taps take further blocks of channels. The result is the map's row 1.

    Source: section 14, "1-D conv, k = 4..9".
    """
    assert layer.conv is not None and layer.weights is not None
    conv = layer.conv
    blocks, across = _sequence_blocks(conv)
    channels = sum(tensor.shape.channels for tensor in operands)
    length, height = _sequence_length(layer), K210.limits.min_map
    width = max(length + across - 1, K210.limits.min_map)
    source = Dense(buffer=builder.concatenated(operands, layer),
                   shape=TensorShape(channels, 1, operands[0].shape.width))
    advance = across * conv.dilation[1]
    rows = [Row(channel, 0, (block * KERNEL_TAPS + min(row, KERNEL_TAPS - 1)) * advance - conv.padding[1])
            for block in range(blocks) for channel in range(channels) for row in range(height)]
    shape = TensorShape(blocks * channels, height, width)
    buffer = builder.gather(source, rows, shape, f"{layer.name}: unfold", layer)
    copies = Tensor(shape=shape, main=buffer)
    work = ConvWork(name=layer.name, layer=layer, weights=_sequence_weights(layer, channels),
                    rows=AxisWork(length=height, kernel=KERNEL_TAPS, pad=1, count=height),
                    columns=AxisWork(length=width, kernel=KERNEL_TAPS, pad=1, count=width),
                    parameters=ShiftedSum(layer, layer_bias(layer)))
    result = activated(builder, [copies], work)
    (frame,) = result.frames
    cells = Frame(view=frame.view, top=1, left=across // 2, height=1, width=length)
    return Tensor(shape=TensorShape(len(work.weights), 1, length), frames=[cells])


def _sequence_weights(layer: Layer, channels: int) -> NDArray[np.int64]:
    """(out, block and in, row, column): tap ``(block * 3 + row) * across + column``."""
    assert layer.conv is not None and layer.weights is not None
    blocks, across = _sequence_blocks(layer.conv)
    taps = dense_weights(layer.weights, channels)[:, :, 0]
    padded = np.zeros((*taps.shape[:2], blocks * KERNEL_TAPS * across), np.int64)
    padded[:, :, : taps.shape[2]] = taps
    split = padded.reshape(*taps.shape[:2], blocks, KERNEL_TAPS, across).transpose(0, 2, 1, 3, 4)
    kernel = np.zeros((len(taps), blocks * channels, KERNEL_TAPS, KERNEL_TAPS), np.int64)
    kernel[..., :across] = split.reshape(len(taps), blocks * channels, KERNEL_TAPS, across)
    return np.roll(kernel, 1, axis=3) if across == 1 else kernel


# ------------------------------------------------------------------------------------------------ any kernel

def _unfolded(builder: StepBuilder, layer: Layer, operands: Sequence[Tensor]) -> Tensor:
    """Any kernel, stride and dilation: the cells of the window become channels of a 1x1 convolution."""
    assert layer.conv is not None and layer.weights is not None
    conv, shape = layer.conv, operands[0].shape
    channels = sum(tensor.shape.channels for tensor in operands)
    out = (layer.out_shape.height, layer.out_shape.width)
    size = foldable(*out)
    source = Dense(buffer=builder.concatenated(operands, layer),
                   shape=TensorShape(channels, shape.height, shape.width))
    taps = [(row * conv.dilation[0] - conv.padding[0], column * conv.dilation[1] - conv.padding[1])
            for row in range(conv.kernel[0]) for column in range(conv.kernel[1])]
    wanted = TensorShape(channels * len(taps), *size)
    buffer = builder.gather(source, tap_rows(channels, taps, size[0], conv.stride), wanted,
                            f"{layer.name}: unfold", layer)
    dense = dense_weights(layer.weights, channels)
    weights = dense.transpose(0, 2, 3, 1).reshape(len(dense), -1)[:, :, None, None]
    work = ConvWork(name=layer.name, layer=layer, weights=weights, rows=AxisWork(length=size[0], count=size[0]),
                    columns=AxisWork(length=size[1], count=size[1]), parameters=ShiftedSum(layer, layer_bias(layer)))
    return activated(builder, [Tensor(shape=wanted, main=buffer)], work).part(0, 0, *out)


def foldable(height: int, width: int) -> tuple[int, int]:
    """The size, or for a row that is too long for a KPU map the next longer one that can be folded into a map."""
    if height > 1 or width <= K210.limits.max_width:
        return height, width
    while fold(width, 1) is None:
        width += 1
    return height, width


# ------------------------------------------------------------------------------------------------ transposed

@dataclass(frozen=True, slots=True, kw_only=True)
class _Phases:
    """One axis of a transposed convolution as ordinary ones.

    Args:
        kernel, pad: of the ordinary convolution on the input.
        count: its outputs.
        taps: for each phase, (tap of the ordinary kernel, tap of the stored kernel) in pairs.
    """

    kernel: int
    pad: int
    count: int
    taps: tuple[tuple[tuple[int, int], ...], ...]


def _phases(kernel: int, pad: int, stride: int, out: int) -> _Phases:
    """Which input cells the outputs of each phase use: output ``stride * y + a`` reads cells ``y + offset``."""
    before = kernel - 1 - pad
    pairs = [[((phase + tap - before) // stride, tap) for tap in range(kernel) if (phase + tap - before) % stride == 0]
             for phase in range(stride)]
    offsets = [offset for phase in pairs for offset, _ in phase]
    least, most = min([*offsets, 0]), max([*offsets, 0])
    return _Phases(kernel=most - least + 1, pad=-least, count=-(-out // stride),
                   taps=tuple(tuple((offset - least, tap) for offset, tap in phase) for phase in pairs))


def _transposed(builder: StepBuilder, layer: Layer, operands: Sequence[Tensor]) -> Tensor:
    """Every phase of the output grid is an ordinary convolution of the input; all of them are one KPU layer.

    Source: section 14, "Transposed conv".
    """
    assert layer.conv is not None and layer.weights is not None
    conv, shape, out = layer.conv, operands[0].shape, layer.out_shape
    channels = sum(tensor.shape.channels for tensor in operands)
    down, across = (_phases(k, p, s, n) for k, p, s, n in
                    zip(conv.kernel, conv.padding, conv.stride, (out.height, out.width), strict=True))
    stored = dense_weights(layer.weights, channels)
    weights = np.zeros((conv.stride[0], conv.stride[1], *stored.shape[:2], down.kernel, across.kernel), np.int64)
    for first, row_taps in enumerate(down.taps):
        for second, column_taps in enumerate(across.taps):
            for row, stored_row in row_taps:
                for column, stored_column in column_taps:
                    weights[first, second, :, :, row, column] = stored[:, :, stored_row, stored_column]
    phases = conv.stride[0] * conv.stride[1]
    work = ConvWork(
        name=layer.name, layer=layer, weights=weights.reshape(-1, channels, down.kernel, across.kernel),
        rows=AxisWork(length=shape.height, kernel=down.kernel, pad=down.pad, count=down.count),
        columns=AxisWork(length=shape.width, kernel=across.kernel, pad=across.pad, count=across.count),
        parameters=ShiftedSum(layer, np.tile(layer_bias(layer), phases)))
    parts = activated(builder, operands, work)
    phase = TensorShape(out.channels, down.count, across.count)
    ranges = interleave_ranges(builder.main_of(parts, layer), phase, conv.stride)
    full = TensorShape(out.channels, down.count * conv.stride[0], across.count * conv.stride[1])
    whole = builder.rearranged(ranges, full, f"{layer.name}: interleave", layer)
    return whole.part(0, 0, out.height, out.width)
