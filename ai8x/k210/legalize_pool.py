"""Pooling: fused into the layer that made the tensor, by a KPU layer of its own, or in main memory.

Start at `pooled`; `carried_pool` says what the KPU's own pooling computes exactly.

Source: spec/k210-kmodel.md sections 6, 13.2, 13.3 and 14.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ai8x.arithmetic import INT8, average
from ai8x.k210.averages import average_parameters, staircase_table
from ai8x.k210.builder import ConvWork, StepBuilder, copying_parameters
from ai8x.k210.device import K210, POOL_TYPES
from ai8x.k210.frames import KERNEL_TAPS, AxisWork
from ai8x.k210.gather import Dense, Row, tap_rows
from ai8x.k210.parameters import ZERO_POINT, KpuParameters, NotExact
from ai8x.k210.steps import CpuOp, CpuStep
from ai8x.k210.tensors import Tensor
from ai8x.network.ir import Layer, Pool, PoolSpec, TensorShape


@dataclass(frozen=True, slots=True, kw_only=True)
class KpuPool:
    """A pooling as a KPU layer does it.

    Args:
        code: pool type of section 6.
        step: stride.
        reach: rows and columns of its window; 1 where it picks.
    """

    code: int = 0
    step: int = 1
    reach: int = 1

    def axes(self, work: tuple[AxisWork, AxisWork], size: tuple[int, int]) -> tuple[AxisWork, AxisWork]:
        """Convolution axes with this pooling behind them.

        Args:
            work: rows and columns of the convolution alone.
            size: rows and columns after pooling.
        """
        rows, columns = (replace(axis, step=self.step, reach=self.reach, count=count)
                         for axis, count in zip(work, size, strict=True))
        return rows, columns


NO_POOL = KpuPool()


def carried_pool(pool: PoolSpec, size: tuple[int, int], *, floor_is_exact: bool) -> KpuPool | None:
    """The KPU's pooling that computes this one exactly, or None.

    Args:
        pool: what is wanted.
        size: rows and columns of the result; a stride along an axis with one result means nothing.
        floor_is_exact: averages truncate and no value is negative, so rounding down is right.
    """
    if pool.is_identity:
        return NO_POOL
    if pool.dilation != (1, 1) or (pool.kind is Pool.AVG and not floor_is_exact):
        return None
    operation = {Pool.MAX: "max", Pool.AVG: "average", Pool.NONE: "pick"}[pool.kind]
    if pool.window == (1, 1):
        operation = "pick"
    strides = {stride for stride, count in zip(pool.stride, size, strict=True) if count > 1} or {pool.stride[0]}
    for kind in POOL_TYPES:
        if kind.operation != operation or kind.column or {kind.stride} != strides:
            continue
        if operation == "pick" or (pool.window == (kind.window,) * 2 and kind.code != _SMOOTHING):
            return KpuPool(code=kind.code, step=kind.stride, reach=1 if operation == "pick" else kind.window)
    return None


_SMOOTHING = 8
"""Average 2x2 at stride 1: its edge rule is unverified, and a convolution does the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRequest:
    """A pooling that a layer wants.

    Args:
        layer: the layer.
        pool: window, stride, kind.
        non_negative: no value of the tensor is negative.
        may_be_inexact: a result that is off can be told apart from an error, should the user allow such results.
    """

    layer: Layer
    pool: PoolSpec
    non_negative: bool
    may_be_inexact: bool = False

    @property
    def floor_is_exact(self) -> bool:
        """Rounding down gives the average."""
        return self.non_negative and not self.layer.average_rounded

    @property
    def name(self) -> str:
        """Name of its steps."""
        return f"{self.layer.name}: pool"


def pooled(builder: StepBuilder, tensor: Tensor, request: PoolRequest) -> Tensor:
    """The pooled tensor, by the cheapest exact form."""
    pool, shape = request.pool, tensor.shape
    if pool.is_identity:
        return tensor
    size = pool.output_size(shape.height, shape.width)
    carried = carried_pool(pool, size, floor_is_exact=request.floor_is_exact)
    if carried and (done := _copied_through(builder, tensor, request, carried, size)):
        return done
    if pool.kind is Pool.AVG and pool.window != (1, 1):
        return _averaged_by_permitted_form(builder, tensor, request, size)
    if pool.dilation != (1, 1) and pool.window != (1, 1):
        return _dilated_max(builder, tensor, request, size)
    window = pool.window if pool.kind is Pool.MAX else (1, 1)
    return builder.max_pooled(tensor, request.layer, window, pool.stride, size)


def subsampled(builder: StepBuilder, tensor: Tensor, layer: Layer, stride: tuple[int, int],
               size: tuple[int, int]) -> Tensor:
    """Every stride-th row and column."""
    if stride == (1, 1) or (tensor.shape.height, tensor.shape.width) == size:
        return tensor
    return builder.max_pooled(tensor, layer, (1, 1), stride, size)


def _copied_through(builder: StepBuilder, tensor: Tensor, request: PoolRequest, carried: KpuPool,
                    size: tuple[int, int]) -> Tensor | None:
    """An identity convolution that carries the pooling, if the tensor lies in the KPU as that needs it."""
    shape = tensor.shape
    plain = (AxisWork(length=shape.height, count=shape.height), AxisWork(length=shape.width, count=shape.width))
    rows, columns = carried.axes(plain, size)
    work = ConvWork(name=request.name, layer=request.layer, rows=rows, columns=columns, pool=carried.code,
                    weights=np.eye(shape.channels, dtype=np.int64)[:, :, None, None], parameters=copying_parameters)
    return builder.convolve([tensor], work, upload=False)


def _averaged_by_permitted_form(builder: StepBuilder, tensor: Tensor, request: PoolRequest,
                                size: tuple[int, int]) -> Tensor:
    """The exact form; where there is none, what the user allows instead."""
    problem = inexact_reason(request, tensor.shape)
    if not problem:
        return _averaged(builder, tensor, request, size)
    if builder.forms.own_layers:
        return builder.averaged(tensor, request.layer, request.pool)
    if builder.forms.inexact and request.may_be_inexact and request.pool.dilation == (1, 1):
        result = builder.averaged_in_float(tensor, request.layer, request.pool)
        result.bound = FLOAT_MEAN_BOUND
        return result
    raise NotExact(f"{problem}; --k210-own-layers computes it exactly on the generated runner")


FLOAT_MEAN_BOUND = 1
"""How far a mean that was rounded to the nearest integer may be from the truncated or otherwise rounded one."""


def inexact_reason(request: PoolRequest, shape: TensorShape) -> str:
    """Why an average has no exact form on the stock runners; empty if it has one."""
    pool = request.pool
    cells = pool.window[0] * pool.window[1]
    rounded = request.layer.average_rounded
    is_whole = pool.window == (shape.height, shape.width)
    if cells > K210.limits.max_channels and not (request.non_negative and is_whole):
        return f"one KPU layer cannot sum the {cells} cells of a window"
    try:
        if request.non_negative and is_whole:
            mean_offset(cells, rounded=rounded)
        else:
            staircase_table(cells, rounded=rounded)
    except NotExact as error:
        return str(error)
    return ""


def _averaged(builder: StepBuilder, tensor: Tensor, request: PoolRequest, size: tuple[int, int]) -> Tensor:
    """Sums by a convolution with ones, divided by the activation table."""
    pool, shape, layer = request.pool, tensor.shape, request.layer
    if max(pool.window) > KERNEL_TAPS or pool.dilation != (1, 1):
        if request.non_negative and pool.window == (shape.height, shape.width):
            return _averaged_whole(builder, tensor, request)
        return _averaged_unfolded(builder, tensor, request, size)
    picked = carried_pool(PoolSpec(stride=pool.stride), size, floor_is_exact=True)
    full = tuple(length - window + 1 for length, window in zip((shape.height, shape.width), pool.window, strict=True))
    axes = (AxisWork(length=shape.height, kernel=pool.window[0], count=full[0]),
            AxisWork(length=shape.width, kernel=pool.window[1], count=full[1]))
    if picked:
        axes = picked.axes(axes, size)
    depthwise = np.ones((shape.channels, 1, *pool.window), np.int64)
    dense = np.eye(shape.channels, dtype=np.int64)[:, :, None, None] * depthwise[:1]
    is_depthwise = picked is None or picked.code == 0
    work = ConvWork(name=request.name, layer=layer, weights=depthwise if is_depthwise else dense, rows=axes[0],
                    columns=axes[1], parameters=_dividing(pool, rounded=layer.average_rounded),
                    pool=picked.code if picked else 0, depthwise=is_depthwise)
    sums = builder.convolve([tensor], work)
    assert sums is not None
    return sums if picked else subsampled(builder, sums, layer, pool.stride, size)


def _averaged_whole(builder: StepBuilder, tensor: Tensor, request: PoolRequest) -> Tensor:
    """One window as large as the map: the CPU's float mean, exact on values that are not negative; section 13.2."""
    layer, shape = request.layer, tensor.shape
    cells = shape.height * shape.width
    offset = mean_offset(cells, rounded=layer.average_rounded)
    values = builder.new_buffer(shape.numel, is_float=True)
    means = builder.new_buffer(shape.channels, is_float=True)
    target = builder.new_buffer(shape.channels)
    for op, source, made, bias in ((CpuOp.DEQUANTIZE, builder.main_of(tensor, layer), values, -ZERO_POINT),
                                   (CpuOp.GLOBAL_AVERAGE_POOL2D, values, means, 0.0),
                                   (CpuOp.QUANTIZE, means, target, offset)):
        builder.append(CpuStep(name=f"{request.name} ({op.value.lower()})", layer=layer.index, op=op, source=source,
                               target=made, offset=bias))
    return Tensor(shape=TensorShape(shape.channels, 1, 1), main=target)


def mean_offset(cells: int, *, rounded: bool) -> float:
    """The bias of a QUANTIZE that makes bytes of float means of ``cells`` values 0 to 127, proven for every sum.

    Raises:
        NotExact: float32 would round some mean wrongly.
    """
    offset = (0.0 if rounded else (cells - 1) / (2 * cells)) - ZERO_POINT
    sums = np.arange(INT8.max * cells + 1, dtype=np.int64)
    means = sums.astype(np.float32) / np.float32(cells)
    found = np.floor((means - np.float32(offset)).astype(np.float64) + 0.5).astype(np.int64) - ZERO_POINT
    if not np.array_equal(found, average(sums, cells, rounded=rounded)):
        raise NotExact(f"the mean of {cells} cells is not exact in float32")
    return offset


def _averaged_unfolded(builder: StepBuilder, tensor: Tensor, request: PoolRequest, size: tuple[int, int]) -> Tensor:
    """Windows beyond the KPU's kernel: their cells become channels, which a 1x1 convolution sums."""
    pool, layer = request.pool, request.layer
    taps = window_taps(pool)
    source = Dense(buffer=builder.main_of(tensor, layer), shape=tensor.shape)
    per_layer = max(1, K210.limits.max_channels // len(taps))
    parts = []
    for first in range(0, tensor.shape.channels, per_layer):
        count = min(per_layer, tensor.shape.channels - first)
        shape = TensorShape(count * len(taps), *size)
        rows = [Row(row.channel + first, row.row, row.column, row.stride)
                for row in tap_rows(count, taps, size[0], pool.stride)]
        unfolded = Tensor(shape=shape, main=builder.gather(source, rows, shape, f"{layer.name}: unfold", layer))
        weights = np.tile(np.eye(count, dtype=np.int64), (1, len(taps)))[:, :, None, None]
        work = ConvWork(name=request.name, layer=layer, weights=weights, rows=AxisWork(length=size[0], count=size[0]),
                        columns=AxisWork(length=size[1], count=size[1]),
                        parameters=_dividing(pool, rounded=layer.average_rounded))
        part = builder.convolve([unfolded], work)
        assert part is not None
        parts.append(part)
    if len(parts) == 1:
        return parts[0]
    whole = TensorShape(tensor.shape.channels, *size)
    return Tensor(shape=whole, main=builder.concatenated(parts, layer))


def _dilated_max(builder: StepBuilder, tensor: Tensor, request: PoolRequest, size: tuple[int, int]) -> Tensor:
    """Windows with gaps: their cells are brought together first."""
    pool, layer = request.pool, request.layer
    taps = window_taps(pool)
    source = Dense(buffer=builder.main_of(tensor, layer), shape=tensor.shape)
    channels = tensor.shape.channels
    rows = [Row(channel, row * pool.stride[0] + down, column * pool.stride[1] + right)
            for channel in range(channels) for row in range(size[0]) for column in range(size[1])
            for down, right in taps]
    together = TensorShape(channels, size[0] * size[1] * len(taps), 1)
    buffer = builder.gather(source, rows, together, f"{layer.name}: unfold", layer)
    cells = TensorShape(channels, size[0] * size[1], len(taps))
    column = builder.max_pooled(Tensor(shape=cells, main=buffer), layer, (1, len(taps)), (1, len(taps)),
                                (cells.height, 1))
    return column.reshaped(TensorShape(channels, *size))


def window_taps(pool: PoolSpec) -> list[tuple[int, int]]:
    """Row and column of every cell of a window, from its first cell."""
    return [(row * pool.dilation[0], column * pool.dilation[1])
            for row in range(pool.window[0]) for column in range(pool.window[1])]


class _Dividing:
    """Makes the parameters of a layer that averages."""

    def __init__(self, count: int, *, rounded: bool) -> None:
        self._count = count
        self._rounded = rounded

    def __call__(self, weights: NDArray[np.int64], channels: slice) -> KpuParameters:
        return average_parameters(weights, self._count, rounded=self._rounded)


def _dividing(pool: PoolSpec, *, rounded: bool) -> _Dividing:
    return _Dividing(pool.window[0] * pool.window[1], rounded=rounded)
