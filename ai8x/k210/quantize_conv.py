"""Convolutions and poolings of quantised float networks as KPU layers.

Kernels of up to 3x3 run on maps that hold the tensor, with strides as picks and following maxima fused; larger and
dilated ones on maps whose channels are the cells of the window. Start at `convolved`; `max_pooled` and `averaged` are
the poolings.

Source: spec/k210-kmodel.md sections 6, 13.2 and 14.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ai8x.k210.builder import ConvWork, copying_parameters, dense_weights
from ai8x.k210.device import K210
from ai8x.k210.frames import KERNEL_TAPS, AxisWork
from ai8x.k210.gather import Dense, tap_rows
from ai8x.k210.legalize_pool import KpuPool, carried_pool
from ai8x.k210.parameters import NotExact
from ai8x.k210.quantize_model import Borders, Pair
from ai8x.k210.quantize_parameters import ConvParameters, RealConv
from ai8x.k210.quantize_steps import QuantizedBuilder
from ai8x.k210.tensors import Tensor
from ai8x.network.ir import Layer, Pool, PoolSpec, TensorShape

_NO_POOL = PoolSpec()


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvGeometry:
    """Where a convolution's window goes.

    Args:
        kernel, stride: rows and columns.
        dilation: distance of the cells that the taps read.
        padding: zeros above, below, left, right.
        groups: of channels.
        pool: maximum that the only reader of the result wants; it is fused if the maps allow it.
    """

    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: Borders = (0, 0, 0, 0)
    groups: int = 1
    pool: PoolSpec = _NO_POOL

    @property
    def is_pointwise(self) -> bool:
        """Every output depends on the same cell of the input."""
        return (self.kernel, self.stride, self.padding) == ((1, 1), (1, 1), (0, 0, 0, 0))

    def full_size(self, shape: TensorShape) -> Pair:
        """Rows and columns at stride 1."""
        top, bottom, left, right = self.padding
        rows, columns = ((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilation, strict=True))
        return shape.height + top + bottom - rows + 1, shape.width + left + right - columns + 1

    @property
    def is_large(self) -> bool:
        """Beyond the KPU's 3x3 neighbouring cells."""
        return any(size > KERNEL_TAPS or (size > 1 and step > 1)
                   for size, step in zip(self.kernel, self.dilation, strict=True))

    def size(self, shape: TensorShape) -> Pair:
        """Rows and columns of the result."""
        rows, columns = self.full_size(shape)
        return (rows - 1) // self.stride[0] + 1, (columns - 1) // self.stride[1] + 1

    def axes(self, shape: TensorShape) -> tuple[AxisWork, AxisWork]:
        """Both axes at stride 1."""
        (rows, columns), (top, _, left, _) = self.full_size(shape), self.padding
        return (AxisWork(length=shape.height, kernel=self.kernel[0], pad=top, count=rows),
                AxisWork(length=shape.width, kernel=self.kernel[1], pad=left, count=columns))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvResult:
    """What a convolution left.

    Args:
        tensor: its result.
        pool: pooling that is already done.
        pick: rows and columns of which only every pick-th belongs to the result; the reader has to skip the others.
    """

    tensor: Tensor
    pool: PoolSpec = _NO_POOL
    pick: Pair = (1, 1)


def convolved(builder: QuantizedBuilder, carrier: Layer, operands: Sequence[Tensor], real: RealConv,
              geometry: ConvGeometry) -> ConvResult:
    """A convolution of tensors that are concatenated along the channels.

    Args:
        builder: receives the steps.
        carrier: name and index of the layer.
        operands: of equal rows and columns.
        real: weights (out, in/groups, row, column) and meaning of the numbers.
        geometry: where the window goes.

    Raises:
        NotExact: no KPU map suits it.
    """
    builder.border = real.source.zero_point
    shape = operands[0].shape
    channels = sum(tensor.shape.channels for tensor in operands)
    weights = real.weights.values
    depthwise = geometry.groups == channels == len(weights) and channels > 1 and len(operands) == 1
    if geometry.is_large:
        return ConvResult(tensor=_unfolded(builder, carrier, operands, real, geometry))
    rows, columns = geometry.axes(shape)
    work = ConvWork(name=carrier.name, layer=carrier, rows=rows, columns=columns, parameters=ConvParameters(real),
                    weights=weights if depthwise else dense_weights(weights, channels), depthwise=depthwise)
    if geometry.stride != (1, 1):
        return _strided(builder, operands, work, geometry)
    carried = carried_pool(geometry.pool, geometry.pool.output_size(rows.count, columns.count), floor_is_exact=False)
    if depthwise or geometry.pool.is_identity or carried is None:
        return ConvResult(tensor=_done(builder, operands, work))
    return _with_pool(builder, operands, work, geometry.pool, carried)


def _done(builder: QuantizedBuilder, operands: Sequence[Tensor], work: ConvWork) -> Tensor:
    result = builder.convolve(operands, work)
    assert result is not None
    return result


def _pooling(work: ConvWork, carried: KpuPool, size: Pair) -> ConvWork:
    rows, columns = carried.axes((work.rows, work.columns), size)
    return replace(work, rows=rows, columns=columns, pool=carried.code)


def _strided(builder: QuantizedBuilder, operands: Sequence[Tensor], work: ConvWork,
             geometry: ConvGeometry) -> ConvResult:
    """Strides of 2 and 4 pick results; a depthwise layer leaves the picking to its reader (a chip defect)."""
    size = geometry.size(operands[0].shape)
    picked = carried_pool(PoolSpec(stride=geometry.stride), size, floor_is_exact=False)
    if picked and not work.depthwise:
        return ConvResult(tensor=_done(builder, operands, _pooling(work, picked, size)))
    return ConvResult(tensor=_done(builder, operands, work), pick=geometry.stride)


def _with_pool(builder: QuantizedBuilder, operands: Sequence[Tensor], work: ConvWork, pool: PoolSpec,
               carried: KpuPool) -> ConvResult:
    """With the maximum behind it, unless only the plain form can use the maps that exist."""
    pooling = _pooling(work, carried, pool.output_size(work.rows.count, work.columns.count))
    if done := builder.convolve(operands, pooling, upload=False):
        return ConvResult(tensor=done, pool=pool)
    if done := builder.convolve(operands, work, upload=False):
        return ConvResult(tensor=done)
    return ConvResult(tensor=_done(builder, operands, pooling), pool=pool)


def _unfolded(builder: QuantizedBuilder, carrier: Layer, operands: Sequence[Tensor], real: RealConv,
              geometry: ConvGeometry) -> Tensor:
    """Any kernel and stride: the cells of the window become channels of a 1x1 convolution."""
    shape = operands[0].shape
    channels = sum(tensor.shape.channels for tensor in operands)
    down, right = geometry.dilation
    taps = [(row * down - geometry.padding[0], column * right - geometry.padding[2])
            for row in range(geometry.kernel[0]) for column in range(geometry.kernel[1])]
    if channels * len(taps) > K210.limits.max_channels:
        raise NotExact(f"a kernel of {geometry.kernel[0]}x{geometry.kernel[1]} on {channels} channels would read "
                       f"{channels * len(taps)} channels; a KPU layer reads at most {K210.limits.max_channels}")
    size = geometry.size(shape)
    source = Dense(buffer=builder.concatenated(operands, carrier),
                   shape=TensorShape(channels, shape.height, shape.width))
    wanted = TensorShape(channels * len(taps), *size)
    buffer = builder.gather(source, tap_rows(channels, taps, size[0], geometry.stride), wanted,
                            f"{carrier.name}: unfold", carrier)
    dense = dense_weights(real.weights.values, channels)
    weights = dense.transpose(0, 2, 3, 1).reshape(len(dense), -1)[:, :, None, None]
    work = ConvWork(name=carrier.name, layer=carrier, weights=weights, rows=AxisWork(length=size[0], count=size[0]),
                    columns=AxisWork(length=size[1], count=size[1]), parameters=ConvParameters(real))
    return _done(builder, [Tensor(shape=wanted, main=buffer)], work)


# ------------------------------------------------------------------------------------------------ picking, pooling

def picked(builder: QuantizedBuilder, carrier: Layer, tensor: Tensor, stride: Pair) -> Tensor:
    """Every stride-th row and column."""
    shape = tensor.shape
    size = ((shape.height - 1) // stride[0] + 1, (shape.width - 1) // stride[1] + 1)
    if size == (shape.height, shape.width):
        return tensor
    spec = PoolSpec(stride=stride)
    return _carried(builder, carrier, tensor, spec, size) or builder.max_pooled(tensor, carrier, (1, 1), stride, size)


def _carried(builder: QuantizedBuilder, carrier: Layer, tensor: Tensor, pool: PoolSpec, size: Pair) -> Tensor | None:
    """An identity convolution that pools, if the tensor lies in the KPU as that needs it."""
    kpu_pool = carried_pool(pool, size, floor_is_exact=False)
    if kpu_pool is None:
        return None
    shape = tensor.shape
    work = ConvWork(name=f"{carrier.name}: pool", layer=carrier, parameters=copying_parameters,
                    weights=np.eye(shape.channels, dtype=np.int64)[:, :, None, None],
                    rows=AxisWork(length=shape.height, count=shape.height),
                    columns=AxisWork(length=shape.width, count=shape.width))
    return builder.convolve([tensor], _pooling(work, kpu_pool, size), upload=False)


def max_pooled(builder: QuantizedBuilder, carrier: Layer, tensor: Tensor, pool: PoolSpec, padding: Borders) -> Tensor:
    """Maxima of windows.

    Args:
        builder: receives the steps.
        carrier: name and index of the layer.
        tensor: what is pooled.
        pool: window and stride.
        padding: cells around the map that never win.
    """
    if any(padding):
        builder.border = 0  # the least byte; windows always hold a cell of the map, which is at least as large
        top, bottom, left, right = padding
        shape = tensor.shape
        larger = TensorShape(shape.channels, shape.height + top + bottom, shape.width + left + right)
        buffer = builder.padded([tensor], carrier, top, left, (larger.height, larger.width))
        tensor = Tensor(shape=larger, main=buffer)
    size = pool.output_size(tensor.shape.height, tensor.shape.width)
    return (_carried(builder, carrier, tensor, pool, size)
            or builder.max_pooled(tensor, carrier, pool.window, pool.stride, size))


def maximum(window: Pair, stride: Pair) -> PoolSpec:
    """Pooling by maximum."""
    return PoolSpec(kind=Pool.MAX, window=window, stride=stride)


def averaging_weights(channels: int, window: Pair, *, dense: bool) -> NDArray[np.float64]:
    """Weights that average windows of every channel: (channels, channels or 1, row, column)."""
    mean = np.full((channels, 1, *window), 1.0 / (window[0] * window[1]))
    return np.eye(channels)[:, :, None, None] * mean[:1] if dense else mean
