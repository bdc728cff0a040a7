"""From the integers of a power-of-two layer to the numbers a KPU layer takes, exactly.

A layer computes ``A = sum(w * a) + B`` and ``y = clamp(floor(A * 2**-s + 1/2), lo, 127)``; the KPU computes on
unsigned bytes with a scale, a shift, an addition and a table of line segments. `exact_parameters` finds the latter
such that both agree for every input, whichever of the unverified rounding variants the chip implements.

Tensors are stored as ``q = a + ZERO_POINT``, so that a camera byte is fed unchanged.

Source: spec/k210-kmodel.md section 13.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.arithmetic import INT8
from ai8x.k210.device import K210, TABLE_MIN_START, TABLE_SEGMENTS, TABLE_UNREACHABLE_START
from ai8x.k210.kmodel_layers import ActivationTable, BatchNorm

ZERO_POINT = 128
"""Stored byte of the activation 0, in every tensor."""

WEIGHT_ZERO_POINT = 128
"""Stored byte of the weight 0."""

_BN_SHIFT = 12
_SCALE_TARGET = 10
_TABLE_SHIFT_TARGET = 20
_TABLE_MUL_LIMIT = 14


class NotExact(ValueError):
    """A precondition of the exact form does not hold; the message names the bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One segment of an activation table: ``round((v - start) * mul / 2**shift) + bias`` from ``start`` on."""

    start: int
    mul: int
    shift: int
    bias: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KpuParameters:
    """What a KPU layer needs besides its geometry.

    Args:
        weights: uint8 array, (out, in, row, column) or (channels, 1, row, column) for a depthwise layer.
        batch_norm: for every output channel.
        table: the 16 segments of the activation.
        arg_x, arg_w, arg_add: zero-point terms; their shifts are 0.
        worst_value: largest magnitude of the value that enters the table, over all inputs.
    """

    weights: NDArray[np.uint8]
    batch_norm: BatchNorm
    table: ActivationTable
    arg_x: int
    arg_w: int
    arg_add: int
    worst_value: int


def exact_parameters(weights: NDArray[Any], bias: NDArray[Any], *, shift: int, low: int) -> KpuParameters:
    """Parameters of ``clamp(floor((sum(w*a) + B) * 2**-shift + 1/2), low, 127)``.

    Args:
        weights: int64 array (out, in, row, column) of -128..127.
        bias: int64 array (out,), ``B`` in accumulator units.
        shift: right shift ``s``; negative = left.
        low: -128 for a linear layer, 0 for ReLU.

    Raises:
        NotExact: a register would overflow.

    Source: section 13.1, recommended form.
    """
    worst = worst_accumulator(weights, bias)
    left = 1 if shift >= 1 else -shift
    scale = _extra_scale(worst, shift, left)
    if shift >= 1:
        addend, table_shift, worst_value = (2 * bias + 1) << scale, shift + 1 + scale, (2 * worst + 1) << scale
    else:
        addend, table_shift, worst_value = bias << (left + scale), scale, worst << (left + scale)
    return _parameters(weights, mul=1 << (_BN_SHIFT + left + scale), addend=addend,
                       table=_clamp_table(table_shift, low), worst_value=worst_value)


def truncating_average_parameters(channels: int) -> KpuParameters:
    """Parameters of a diagonal 3x3 convolution that averages 2x2 cells, truncating towards zero, for any sign.

    The window starts at (row, column); pooling by picking every second element follows.

    Source: section 13.3.
    """
    weights = average_weights(channels)
    count, table_shift = 4, 3
    scale = 2 * count
    low = INT8.min
    segments = (
        Segment(start=TABLE_MIN_START, mul=0, shift=0, bias=low + ZERO_POINT),
        Segment(start=low * scale - (count - 2), mul=1, shift=table_shift, bias=low + ZERO_POINT),
        Segment(start=0, mul=0, shift=0, bias=ZERO_POINT),
        Segment(start=count, mul=1, shift=table_shift, bias=ZERO_POINT),
    )
    bias = np.zeros(channels, np.int64)
    worst = worst_accumulator(weights, bias)
    return _parameters(weights, mul=2 << _BN_SHIFT, addend=2 * bias + 1, table=_filled(segments),
                       worst_value=2 * worst + 1)


def average_weights(channels: int) -> NDArray[np.int64]:
    """Diagonal 3x3 weights that sum the 2x2 cells from (row, column) on; section 13.3."""
    weights = np.zeros((channels, channels, 3, 3), np.int64)
    for channel in range(channels):
        weights[channel, channel, 1:, 1:] = 1
    return weights


def worst_accumulator(weights: NDArray[Any], bias: NDArray[Any]) -> int:
    """Largest magnitude of ``sum(w*a) + B`` over all int8 inputs and all output channels."""
    sums = np.abs(weights.astype(np.int64)).reshape(len(weights), -1).sum(axis=1)
    return int((sums * -INT8.min + np.abs(bias)).max())


def _extra_scale(worst: int, shift: int, left: int) -> int:
    """The exponent ``e`` of section 13.1: operand ranges as in files that run on chips, within 36 bits."""
    limit = 1 << (K210.limits.accumulator_bits - 1)
    scale = max(0, min(_SCALE_TARGET - (shift + 1 if shift >= 1 else 0), _SCALE_TARGET - left))
    while scale and (2 * worst + 1) << (scale + left) >= limit:
        scale -= 1
    if (2 * worst + 1) << (scale + left) >= limit:
        raise NotExact(f"the accumulator reaches {worst}, beyond the KPU's {K210.limits.accumulator_bits} bits")
    return scale


def _clamp_table(table_shift: int, low: int) -> ActivationTable:
    scale = 1 << table_shift
    extra = min(_TABLE_MUL_LIMIT, max(0, _TABLE_SHIFT_TARGET - table_shift))
    return _filled((
        Segment(start=TABLE_MIN_START, mul=0, shift=0, bias=low + ZERO_POINT),
        Segment(start=low * scale, mul=1 << extra, shift=table_shift + extra, bias=low + ZERO_POINT),
        Segment(start=INT8.max * scale, mul=0, shift=0, bias=INT8.max + ZERO_POINT),
    ))


def _filled(segments: tuple[Segment, ...]) -> ActivationTable:
    """All 16 segments: the given ones, then unreachable ones that saturate."""
    rest = range(TABLE_SEGMENTS - len(segments))
    table = segments + tuple(Segment(start=TABLE_UNREACHABLE_START + i, mul=0, shift=0, bias=INT8.max + ZERO_POINT)
                             for i in rest)
    return ActivationTable(start=np.array([s.start for s in table]), mul=np.array([s.mul for s in table]),
                           shift=np.array([s.shift for s in table]), bias=np.array([s.bias for s in table], np.uint8))


def _parameters(weights: NDArray[Any], *, mul: int, addend: NDArray[Any], table: ActivationTable,
                worst_value: int) -> KpuParameters:
    limits = K210.limits
    if mul >= 1 << (limits.bn_mul_bits - 1):
        raise NotExact(f"the batch-norm factor {mul} needs more than {limits.bn_mul_bits} bits")
    if np.abs(addend).max(initial=0) >= 1 << (limits.bn_add_bits - 1):
        raise NotExact(f"the batch-norm addend {int(np.abs(addend).max())} needs more than {limits.bn_add_bits} bits")
    channels = len(weights)
    batch_norm = BatchNorm(mul=np.full(channels, mul), shift=np.full(channels, _BN_SHIFT), add=addend)
    taps = weights.shape[2] * weights.shape[3]
    return KpuParameters(weights=(weights + WEIGHT_ZERO_POINT).astype(np.uint8), batch_norm=batch_norm,
                         table=table, arg_x=-WEIGHT_ZERO_POINT, arg_w=-ZERO_POINT,
                         arg_add=taps * WEIGHT_ZERO_POINT * ZERO_POINT, worst_value=worst_value)
