"""Averages of any number of cells, exactly, on the KPU: a sum of ones and a staircase in the activation table.

The sum A of n cells is an integer; its average, truncated towards zero or rounded half away from zero, is a staircase
that is point symmetric about A = 0. A line of slope 1/n through the middles of the steps, rounded to the nearest
integer, hits every step; the widened or shortened step around 0 gets segments of its own. With ``v = 2 * A`` the
middles are integers, and the borders between segments, which are odd, are never hit. The reciprocal of n is not a
binary fraction, so every sum that can occur is tried before a table is returned. Start at `average_parameters`.

Source: generalises spec/k210-kmodel.md section 13.3 from 2x2 cells to any count.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.arithmetic import INT8, average
from ai8x.k210.device import TABLE_MIN_START
from ai8x.k210.kmodel_layers import ActivationTable
from ai8x.k210.parameters import (
    BN_SHIFT,
    ZERO_POINT,
    KpuParameters,
    NotExact,
    Segment,
    build_parameters,
    filled_table,
    worst_accumulator,
)

_FACTOR_BITS = 15
"""Slopes use the factor's full range, 2**14 to 2**15 - 1."""


def average_parameters(weights: NDArray[Any], count: int, *, rounded: bool) -> KpuParameters:
    """Parameters of a layer whose weights sum ``count`` cells and whose table divides by ``count``.

    Args:
        weights: int64 array (out, in, row, column) of zeros and ones, ``count`` ones for each output channel.
        count: cells of the window.
        rounded: halves go away from zero; otherwise truncate towards zero.

    Raises:
        NotExact: the table cannot express the division (some windows from 196 cells on).
    """
    bias = np.zeros(len(weights), np.int64)
    worst = worst_accumulator(weights, bias)
    table = staircase_table(count, rounded=rounded)
    parameters = build_parameters(weights, mul=np.full(len(weights), 2 << BN_SHIFT), bn_shift=BN_SHIFT, addend=bias,
                                  table=table, worst_sum=worst, worst_value=2 * worst)
    return replace(parameters, form=f"average of {count} cells, all {255 * count + 1} sums tried; ")


def staircase_table(count: int, *, rounded: bool) -> ActivationTable:
    """The table that maps ``v = 2 * A`` to the average of ``count`` cells, proven for every sum A of int8 values.

    Raises:
        NotExact: some sum would be divided wrongly.
    """
    first = -(-count // 2) if rounded else count
    middle = 2 * first + count - 1
    low, top = INT8.min + ZERO_POINT, -INT8.min - 1
    mul, shift = _slope(2 * count)
    segments = [
        Segment(start=TABLE_MIN_START, mul=0, shift=0, bias=low),
        Segment(start=-2 * (first + top * count) + 1, mul=0, shift=0, bias=low + 1),
        Segment(start=-middle - 2 * count * (top - 1), mul=mul, shift=shift, bias=low + 1),
        Segment(start=1, mul=0, shift=0, bias=ZERO_POINT),
        Segment(start=2 * first - 1, mul=0, shift=0, bias=ZERO_POINT + 1),
        Segment(start=middle, mul=mul, shift=shift, bias=ZERO_POINT + 1),
    ]
    if first == 1:  # the step around 0 ends at 0
        del segments[3]
    table = filled_table(tuple(segments))
    _prove(table, count, rounded=rounded)
    return table


def _slope(divisor: int) -> tuple[int, int]:
    """Factor and shift whose quotient is nearest to ``1 / divisor``."""
    shift = _FACTOR_BITS + divisor.bit_length() - 1
    mul = round((1 << shift) / divisor)
    while mul >= 1 << _FACTOR_BITS:
        shift -= 1
        mul = round((1 << shift) / divisor)
    return mul, shift


def _prove(table: ActivationTable, count: int, *, rounded: bool) -> None:
    """Try every sum; both readings of the segment borders and every rounding of ties must give the average.

    Raises:
        NotExact: one does not.
    """
    sums = np.arange(INT8.min * count, INT8.max * count + 1, dtype=np.int64)
    expected = average(sums, count, rounded=rounded) + ZERO_POINT
    values = 2 * sums
    for side in ("left", "right"):
        segment = np.maximum(np.searchsorted(table.start, values, side=side) - 1, 0)
        product = (values - table.start[segment]) * table.mul[segment]
        unit = np.int64(1) << table.shift[segment]
        found = (2 * product + unit) // (2 * unit) + table.bias[segment]
        is_tie = (2 * product + unit) % (2 * unit) == 0
        wrong = (found != expected) | (is_tie & (unit > 1)) | (product < 0)
        if wrong.any():
            raise NotExact(f"the average of {count} cells has no exact activation table (sum {int(sums[wrong][0])})")
