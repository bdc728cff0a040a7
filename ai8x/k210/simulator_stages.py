"""What the KPU does behind its sums: 36-bit limit, batch normalisation, activation table.

Points that no chip has confirmed are options. Each stage exists as integer arithmetic (`batch_norm`, `activate`), which
holds for every option and every number, and as float64 arithmetic on tiles of cache size, several times faster, which
`OutputStage` takes where a bound proves that no float64 operation rounds. Start at `OutputStage`.

Source: spec/k210-kmodel.md section 5.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import HardwareFault

IntArray = NDArray[np.int64]

ACCUMULATOR_LIMIT = 1 << 35
"""|acc| and |v| must stay below: signed 36 bits."""

_TILE_ELEMENTS = 1 << 15
"""Outputs computed at a time: the float64 tile and its helpers stay in a core's cache."""

_FEW_SEGMENTS = 4
"""Up to so many segments that a tile meets are evaluated one by one over the whole tile."""

_LOOKUP_VALUES = 1 << 16
"""A table that is constant outside so many consecutive numbers is written out for all of them."""


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
class KpuParameters:
    """What the KPU fetches. Shapes: weights (OC, IC, K, K), depthwise (C, 1, K, K); batch norm (OC,); table (16,).

    Weights keep the unsigned type in which they are stored; all other arrays are int64.
    """

    weights: NDArray[Any]
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

def check_range(values: NDArray[Any], known: NDArray[np.bool_] | None, first: tuple[int, int],
                stage: str) -> tuple[int, int]:
    """Refuse values that leave the 36 bits of the chip.

    Args:
        values: (C, H, W), whole numbers.
        known: where a value depends on written memory only; None for everywhere. The rest may be anything.
        first: numbers of the channel and the row with which `values` begins.
        stage: layer and stage, for the message.

    Returns:
        The least and the largest value.

    Raises:
        HardwareFault: naming layer and channel.
    """
    least, most = int(values.min()), int(values.max())
    if least >= -ACCUMULATOR_LIMIT and most < ACCUMULATOR_LIMIT:
        return least, most
    bad = (values < -ACCUMULATOR_LIMIT) | (values >= ACCUMULATOR_LIMIT)
    if known is not None:
        bad &= known
    if bad.any():
        channel, row, column = (int(i) for i in np.argwhere(bad)[0])
        raise HardwareFault(f"{stage} {int(values[channel, row, column])} of output channel {first[0] + channel} "
                            f"at row {first[1] + row}, column {column} exceeds 36 bits")
    return least, most


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


# ---------------------------------------------------------------------------------------------- tiles in float64

@dataclass(frozen=True, slots=True, kw_only=True)
class SumBlock:
    """Sums of consecutive output channels and rows.

    Args:
        first: number of the first channel and of the first row.
        sums: (C, H, W) float32 or float64 whole numbers, without the terms below.
        common: what all channels add, float64 (H, W), or None.
        constant: what each channel adds, float64 (C,).
    """

    first: tuple[int, int]
    sums: NDArray[Any]
    common: NDArray[np.float64] | None
    constant: NDArray[np.float64]


class OutputStage:
    """Sums -> bytes before pooling.

    Every float64 operation below yields a whole number, or one times a power of two, of at most 53 bits; so all of
    them are exact, and the only roundings are the floor and the rounding to even of the chip itself. Sums stay below
    2**53 whatever the registers hold (`simulator_sums.py`). A product of sum and factor may be longer, but then the
    result leaves 36 bits, which stops the run: a legal one is below ``(2**35 + 2**31) * 2**15``. Other roundings than
    the chip's run in int64.

    Args:
        parameters: what the KPU fetched.
        options: emulator variants.
        layer: how to call the layer in faults.
    """

    def __init__(self, parameters: KpuParameters, options: KpuOptions, layer: str) -> None:
        self._parameters = parameters
        self._options = options
        self._layer = layer
        self._factor = parameters.bn_mul * 2.0**-parameters.bn_shift
        self._add = parameters.bn_add.astype(np.float64)
        self._is_whole = bool(np.all(self._factor == np.floor(self._factor)))
        self._needs_integers = options.rounding is not Rounding.EVEN
        self._slope = parameters.mul * 2.0**-parameters.shift
        self._start = parameters.start.astype(np.float64)
        self._bias = parameters.bias.astype(np.float64)
        self._span = _varying_span(parameters)
        self._lookup: NDArray[np.uint8] | None = None

    def run(self, block: SumBlock, known: NDArray[np.bool_] | None, out: NDArray[np.uint8]) -> None:
        """Everything after the sums.

        Args:
            block: the sums.
            known: where they depend on written memory only, (C, H, W); None for everywhere.
            out: receives the bytes, (C, H, W).

        Raises:
            HardwareFault: a value leaves 36 bits.
        """
        channels, height, width = block.sums.shape
        rows = max(1, min(height, _TILE_ELEMENTS // width))
        together = max(1, _TILE_ELEMENTS // (rows * width))
        buffers = np.empty((3, min(together, channels) * rows * width))
        for channel in range(0, channels, together):
            for row in range(0, height, rows):
                tile = (slice(channel, min(channel + together, channels)), slice(row, min(row + rows, height)))
                self._tile(block, known, out, tile, buffers)

    def _tile(self, block: SumBlock, known: NDArray[np.bool_] | None, out: NDArray[np.uint8],
              tile: tuple[slice, slice], buffers: NDArray[np.float64]) -> None:
        source = block.sums[tile]
        acc, helper, values = (buffer[: source.size].reshape(source.shape) for buffer in buffers)
        constant = block.constant[tile[0], None, None]
        if block.common is None:
            np.add(source, constant, out=acc)
        else:
            np.add(source, block.common[tile[1]], out=acc)
            acc += constant
        seen = None if known is None else known[tile]
        first = (block.first[0] + tile[0].start, block.first[1] + tile[1].start)
        channels = slice(first[0], first[0] + len(source))
        check_range(acc, seen, first, f"{self._layer}: sum")
        if self._needs_integers:
            out[tile] = self._integers(acc.astype(np.int64), seen, first)
            return
        np.multiply(acc, self._factor[channels, None, None], out=values)
        if not self._is_whole:
            np.floor(values, out=values)
        values += self._add[channels, None, None]
        span = check_range(values, seen, first, f"{self._layer}: batch norm result")
        self._activate(values, span, (helper, acc), out[tile])

    def _integers(self, acc: IntArray, known: NDArray[np.bool_] | None, first: tuple[int, int]) -> NDArray[np.uint8]:
        """The stages in integer arithmetic."""
        p = self._parameters
        channels = slice(first[0], first[0] + len(acc))
        values = batch_norm(acc, p.bn_mul[channels], p.bn_shift[channels], p.bn_add[channels])
        check_range(values, known, first, f"{self._layer}: batch norm result")
        return activate(values, p, self._options)

    def _activate(self, values: NDArray[np.float64], span: tuple[int, int],
                  helpers: tuple[NDArray[np.float64], NDArray[np.float64]], out: NDArray[np.uint8]) -> None:
        """The activation table with rounding to even: by the few segments that are met, by all, or written out."""
        first, last = self._segments_of(np.array(span))
        if last - first >= _FEW_SEGMENTS and self._span is not None:
            low, high = self._span
            if self._lookup is None:
                self._lookup = activate(np.arange(low, high + 1), self._parameters, self._options)
            np.clip(values, low, high, out=values)
            values -= low
            out[...] = self._lookup.take(values.astype(np.intp))
            return
        helper, result = helpers
        if last - first >= _FEW_SEGMENTS:
            segment = self._segments_of(values)
            self._line(values, self._start[segment], self._slope[segment], self._bias[segment], result)
        else:
            self._few_segments(values, range(int(first), int(last) + 1), helper, result)
        np.clip(result, 0, 255, out=result)
        np.copyto(out, result, casting="unsafe")

    def _segments_of(self, values: NDArray[Any]) -> NDArray[np.intp]:
        """The last segment that begins at or, by option, before each value."""
        side = "right" if self._options.compare is Compare.LESS_EQUAL else "left"
        found = np.searchsorted(self._start, values, side=side)  # type: ignore[call-overload]
        return np.asarray(np.maximum(found - 1, 0), np.intp)

    def _few_segments(self, values: NDArray[np.float64], segments: range, helper: NDArray[np.float64],
                      out: NDArray[np.float64]) -> None:
        """Every line at all values, each kept from its start on; not clipped."""
        for index in segments:
            line = out if index == segments.start else helper
            if self._slope[index]:
                self._line(values, self._start[index], self._slope[index], self._bias[index], line)
            else:
                line.fill(self._bias[index])
            if line is helper:
                start = self._start[index]
                reached = values >= start if self._options.compare is Compare.LESS_EQUAL else values > start
                np.copyto(out, helper, where=reached)

    @staticmethod
    def _line(values: NDArray[np.float64], start: Any, slope: Any, bias: Any, out: NDArray[np.float64]) -> None:
        """``round((v - start) * slope) + bias``: a distance takes at most 37 bits, a slope 16."""
        np.subtract(values, start, out=out)
        out *= slope
        np.rint(out, out=out)
        out += bias


def _varying_span(parameters: KpuParameters) -> tuple[int, int] | None:
    """Numbers outside of which the table gives the bytes of the ends, None if they are many or do not exist."""
    start, mul, bias = parameters.start.tolist(), parameters.mul.tolist(), parameters.bias.tolist()
    last = len(start) - 1
    while last > 1 and mul[last] == mul[last - 1] == 0 and bias[last] == bias[last - 1]:
        last -= 1
    # A sloping line leaves the range of a byte within 256 steps of the output.
    reach = -(-(256 << int(parameters.shift[last])) // abs(mul[last])) if mul[last] else 1
    low, high = start[1] - 1, start[last] + reach
    return (low, high) if mul[0] == 0 and 0 < high - low < _LOOKUP_VALUES else None
