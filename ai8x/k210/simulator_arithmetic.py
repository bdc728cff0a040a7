"""What the KPU computes: convolution, batch normalisation, activation table, pooling, on whole maps.

Exact integer arithmetic on numpy arrays; imports only the chip's own tables, so that agreement with the reference
executor is evidence. Points that no chip has confirmed are options. Start at `KpuOptions` and `KpuArithmetic`.

Source: spec/k210-kmodel.md sections 5 and 6.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import HardwareFault
from ai8x.k210.device import PoolType

IntArray = NDArray[np.int64]

ACCUMULATOR_LIMIT = 1 << 35
"""|acc| and |v| must stay below: signed 36 bits."""

FLOAT32_EXACT = 1 << 24
"""Below this bound of every partial sum a float32 matrix product is exact; above, float64 is (bound 2**53)."""

_CHUNK_ELEMENTS = 1 << 18
"""Outputs computed at a time, so that intermediate arrays stay in the cache."""


class Compare(enum.Enum):
    """How a value selects a segment of the activation table."""

    LESS_EQUAL = "le"
    LESS = "lt"


class ArgShift(enum.Enum):
    """Where the right shifts of the zero point terms act: on each input channel (chip) or on the total."""

    CHANNEL = "channel"
    TOTAL = "total"


class Rounding(enum.Enum):
    """How the activation table divides: as the chip, as nncase 0.1 and the SDK, as nncase 0.2 and later."""

    EVEN = "even"
    CARRY = "carry"
    NNCASE = "nncase"


@dataclass(frozen=True, slots=True, kw_only=True)
class KpuOptions:
    """Variants of the points in which emulators differ; the defaults are the chip's. Source: section 5.

    Args:
        compare: selection of the segment (UNVERIFIED on a chip).
        arg_shift: place of the zero point shifts.
        rounding: division in the activation table.
        sipeed_layers: accept the layer type that only Sipeed's drivers know (21).
    """

    compare: Compare = Compare.LESS_EQUAL
    arg_shift: ArgShift = ArgShift.CHANNEL
    rounding: Rounding = Rounding.EVEN
    sipeed_layers: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvArguments:
    """The numbers of section 5 that act before batch normalisation."""

    arg_x: int
    shr_x: int
    arg_w: int
    shr_w: int
    arg_add: int
    pad_value: int
    depthwise: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KpuParameters:
    """What the KPU fetches. Shapes: weights (OC, IC, K, K), depthwise (C, 1, K, K); batch norm (OC,); table (16,)."""

    weights: IntArray
    bn_mul: IntArray
    bn_shift: IntArray
    bn_add: IntArray
    start: IntArray
    mul: IntArray
    shift: IntArray
    bias: IntArray


# ---------------------------------------------------------------------------------------------- rounding

def carry_shift(values: IntArray, shift: IntArray | int) -> IntArray:
    """The SDK's division by ``2**shift``: halves go up for positive values.

    Rounding:
        3 / 2 -> 2,  1 / 2 -> 1,  -1 / 2 -> -2,  -3 / 2 -> -3,  -5 / 4 -> -3,  -4 / 4 -> -1
    """
    amount = np.minimum(np.asarray(shift, np.int64), 63)
    half = values >> np.maximum(amount - 1, 0)
    rounded = (half >> 1) + np.where(half & 1, np.where(half >= 0, 1, -1), 0)
    return np.asarray(np.where(amount > 0, rounded, values), np.int64)


def _round_even(values: IntArray, shift: IntArray) -> IntArray:
    """Nearest, ties to the even quotient; 1/2 -> 0, 3/2 -> 2, -1/2 -> 0."""
    quotient = values >> shift
    twice = (values - (quotient << shift)) << 1
    unit = np.int64(1) << shift
    step = (twice > unit) | ((twice == unit) & ((quotient & 1) == 1))
    return np.asarray(quotient + step, np.int64)


def _round_nncase(values: IntArray, shift: IntArray) -> IntArray:
    """Nearest as nncase 0.2 does it: negative values step away from zero once more."""
    quotient = values >> shift
    twice = (values - (quotient << shift)) << 1
    unit = np.int64(1) << shift
    step = (twice > unit) | ((twice == unit) & ((quotient & 1) == 1))
    return quotient + np.where(step, np.where(values < 0, -1, 1), 0)


def divide(values: IntArray, shift: IntArray, rounding: Rounding) -> IntArray:
    """``values / 2**shift`` by one of the known rules.

    Args:
        values: products of the activation table, below 2**52 in magnitude.
        shift: 0 to 255; from 61 on every rule gives the same as 61.
        rounding: the rule.
    """
    amount = np.minimum(shift, 61)
    if rounding is Rounding.CARRY:
        return carry_shift(values, amount)
    return _round_even(values, amount) if rounding is Rounding.EVEN else _round_nncase(values, amount)


# ---------------------------------------------------------------------------------------------- stages

def check_range(values: IntArray, known: NDArray[np.bool_] | None, first_channel: int, stage: str) -> None:
    """Refuse values that leave the 36 bits of the chip.

    Args:
        values: (C, H, W).
        known: where a value depends on written memory only; None for everywhere. The rest may be anything.
        first_channel: number of channel 0 of `values`.
        stage: layer and stage, for the message.

    Raises:
        HardwareFault: naming layer and channel.
    """
    if values.size == 0 or (values.min() >= -ACCUMULATOR_LIMIT and values.max() < ACCUMULATOR_LIMIT):
        return
    bad = (values < -ACCUMULATOR_LIMIT) | (values >= ACCUMULATOR_LIMIT)
    if known is not None:
        bad &= known
    if bad.any():
        channel, row, column = (int(i) for i in np.argwhere(bad)[0])
        raise HardwareFault(f"{stage} {int(values[channel, row, column])} of output channel {first_channel + channel} "
                            f"at row {row}, column {column} exceeds 36 bits")


def batch_norm(acc: IntArray, mul: IntArray, shift: IntArray, add: IntArray) -> IntArray:
    """``((acc * mul) >> shift) + add`` with one set of numbers for each channel; the shift is a floor."""
    return ((acc * mul[:, None, None]) >> shift[:, None, None]) + add[:, None, None]


def activate(values: IntArray, parameters: KpuParameters, options: KpuOptions) -> NDArray[np.uint8]:
    """The activation table: segment, slope, division, bias, clamp to a byte."""
    side = "right" if options.compare is Compare.LESS_EQUAL else "left"
    segment = np.maximum(np.searchsorted(parameters.start, values, side=side) - 1, 0)  # type: ignore[call-overload]
    product = (values - parameters.start[segment]) * parameters.mul[segment]
    result = divide(product, parameters.shift[segment], options.rounding) + parameters.bias[segment]
    clamped: NDArray[np.uint8] = np.clip(result, 0, 255).astype(np.uint8)
    return clamped


def pool_map(values: NDArray[Any], pool: PoolType) -> NDArray[Any]:
    """Pool a (C, H, W) map; a trailing row or column that fills no window is dropped.

    A picking pool is done by whoever calls: `KpuArithmetic` never computes what it drops.
    """
    if pool.operation in ("none", "pick"):
        return values
    channels, height, width = values.shape
    if pool.stride > 1:
        rows, columns = height // pool.stride, width // pool.stride
        cut = values[:, : rows * pool.stride, : columns * pool.stride]
        blocks = cut.reshape(channels, rows, pool.stride, columns, pool.stride)
        if pool.operation == "max":
            return np.asarray(blocks.max(axis=(2, 4)))
        return np.asarray(np.sum(blocks, axis=(2, 4), dtype=np.int64) // pool.window**2, values.dtype)
    # The right and lower neighbours of the last column and row: the edge repeats, which a maximum does not notice.
    padded = np.pad(values, ((0, 0), (0, 1), (0, 1)), mode="edge")
    parts = (padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:])
    if pool.operation == "max":
        return np.asarray(np.maximum(np.maximum(parts[0], parts[1]), np.maximum(parts[2], parts[3])))
    total = np.sum(parts, axis=0, dtype=np.int64)
    return np.asarray(total // pool.window**2, values.dtype)


def pool_undefined(undefined: NDArray[np.bool_], pool: PoolType) -> NDArray[np.bool_]:
    """An output is undefined if any cell of its window is."""
    if pool.operation == "average":
        pool = PoolType(code=pool.code, name=pool.name, operation="max", window=pool.window, stride=pool.stride)
    return np.asarray(pool_map(undefined, pool), np.bool_)


# ---------------------------------------------------------------------------------------------- convolution

def windows(image: NDArray[Any], kernel: int, pad: int, pool: PoolType) -> NDArray[Any]:
    """The window of every computed output: a view (C, K, K, H', W').

    With a picking pool only the picked positions appear.
    """
    channels, height, width = image.shape
    margin = kernel // 2
    padded = image
    if margin:
        padded = np.full((channels, height + 2 * margin, width + 2 * margin), pad, image.dtype)
        padded[:, margin:-margin, margin:-margin] = image
    view = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    if pool.operation == "pick":
        rows, columns = height // pool.stride, width // pool.stride
        view = view[:, :: pool.stride, pool.column :: pool.stride][:, :rows, :columns]
    return np.asarray(view.transpose(0, 3, 4, 1, 2))


def channel_sums(view: NDArray[Any]) -> IntArray:
    """Sum of every window: (C, H', W')."""
    total: IntArray = np.zeros((view.shape[0], *view.shape[3:]), np.int64)
    for row in range(view.shape[1]):
        for column in range(view.shape[2]):
            total += view[:, row, column]
    return total


class KpuArithmetic:
    """One KPU layer: parameters and options in, maps through.

    Args:
        conv: zero point terms and padding.
        parameters: what the KPU fetched.
        pool: pooling after the activation.
        options: emulator variants.
        layer: how to call the layer in faults.
    """

    def __init__(self, conv: ConvArguments, parameters: KpuParameters, pool: PoolType, options: KpuOptions,
                 layer: str) -> None:
        self.conv = conv
        self.parameters = parameters
        self.pool = pool
        self.options = options
        self.layer = layer

    def run(self, image: NDArray[np.uint8], undefined: NDArray[np.bool_] | None
            ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Compute the layer.

        Args:
            image: (IC, IH, IW).
            undefined: marks bytes of the image that nobody wrote, or None if there are none.

        Returns:
            The result (OC, OH, OW) after pooling, and the mask of bytes that depend on undefined ones.

        Raises:
            HardwareFault: a sum leaves 36 bits.
        """
        kernel = self.parameters.weights.shape[2]
        view = windows(image, kernel, self.conv.pad_value, self.pool)
        blur = None if undefined is None else self._undefined_outputs(windows(undefined, kernel, 0, self.pool))
        chunks = self._depthwise(view) if self.conv.depthwise else self._dense(view)
        parts = [self._finish(acc, first, blur) for first, acc in chunks]
        pooled = None if blur is None else pool_undefined(blur, self.pool)
        return np.concatenate(parts), pooled

    def _finish(self, acc: IntArray, first: int, blur: NDArray[np.bool_] | None) -> NDArray[np.uint8]:
        """Everything after the sums, for consecutive output channels."""
        channels = slice(first, first + len(acc))
        p = self.parameters
        known = None if blur is None else ~blur[channels]
        check_range(acc, known, first, f"{self.layer}: sum")
        values = batch_norm(acc, p.bn_mul[channels], p.bn_shift[channels], p.bn_add[channels])
        check_range(values, known, first, f"{self.layer}: batch norm result")
        return np.asarray(pool_map(activate(values, p, self.options), self.pool), np.uint8)

    def _weight_term(self) -> IntArray:
        """The weight sum term of every (OC, IC), or (OC, 1) if it is shifted as a total."""
        sums = self.parameters.weights.sum(axis=(2, 3))
        if self.options.arg_shift is ArgShift.TOTAL:
            sums = sums.sum(axis=1, keepdims=True)
        return np.asarray((self.conv.arg_w * sums) >> self.conv.shr_w, np.int64)

    def _chunks(self, outputs: int, area: int) -> Iterator[slice]:
        size = max(1, _CHUNK_ELEMENTS // max(1, area))
        for first in range(0, outputs, size):
            yield slice(first, min(first + size, outputs))

    def _depthwise(self, view: NDArray[np.uint8]) -> Iterator[tuple[int, IntArray]]:
        weights = self.parameters.weights[:, 0]
        constant = self._weight_term().sum(axis=1) + self.conv.arg_add
        for channels in self._chunks(len(weights), view.shape[3] * view.shape[4]):
            part = view[channels]
            acc = ((self.conv.arg_x * channel_sums(part)) >> self.conv.shr_x) + constant[channels, None, None]
            for row in range(view.shape[1]):
                for column in range(view.shape[2]):
                    factor = weights[channels, row, column].astype(np.int32)[:, None, None]
                    acc += factor * part[:, row, column]
            yield channels.start, acc

    def _image_term(self, view: NDArray[np.uint8]) -> IntArray:
        """The input sum term of all channels together: (H', W')."""
        sums = channel_sums(view)
        if self.options.arg_shift is ArgShift.TOTAL or self.conv.shr_x == 0:
            return np.asarray((self.conv.arg_x * sums.sum(axis=0)) >> self.conv.shr_x, np.int64)
        return np.asarray(((self.conv.arg_x * sums) >> self.conv.shr_x).sum(axis=0), np.int64)

    def _dense(self, view: NDArray[np.uint8]) -> Iterator[tuple[int, IntArray]]:
        outputs, inputs = self.parameters.weights.shape[:2]
        area = view.shape[3:]
        # A constant is taken off the weights (and its share added back) so that float32 is exact for more layers.
        middle = int(np.median(self.parameters.weights))
        weights = (self.parameters.weights - middle).reshape(outputs, -1)
        bound = 255 * int(np.abs(weights).sum(axis=1).max())
        dtype: Any = np.float32 if bound < FLOAT32_EXACT else np.float64
        columns: NDArray[Any] = view.astype(dtype).reshape(weights.shape[1], -1)
        common = self._image_term(view)
        if middle:
            common = common + middle * channel_sums(view).sum(axis=0)
        constant = self._weight_term().sum(axis=1) + inputs * self.conv.arg_add
        factors: NDArray[Any] = weights.astype(dtype)
        for channels in self._chunks(outputs, area[0] * area[1]):
            product = (factors[channels] @ columns).astype(np.int64).reshape(-1, *area)
            yield channels.start, product + common + constant[channels, None, None]

    def _undefined_outputs(self, view: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which sums depend on an undefined byte; a tap whose total factor is zero does not count."""
        weights = self.parameters.weights
        shifted = self.conv.shr_x > 0
        active = (weights != 0) | (self.conv.arg_x != 0) if shifted else weights + self.conv.arg_x != 0
        if self.conv.depthwise:
            return np.asarray((view & active[:, 0, :, :, None, None]).any(axis=(1, 2)))
        columns = view.astype(np.float32).reshape(active[0].size, -1)
        counts = active.reshape(len(active), -1).astype(np.float32) @ columns
        return np.asarray(counts > 0).reshape(len(active), *view.shape[3:])
