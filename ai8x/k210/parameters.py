"""From the integers of a power-of-two layer to the numbers a KPU layer takes, exactly.

A layer computes ``A = sum(w * a) + B`` and ``y = clamp(floor(A * 2**-s + 1/2), lo, 127)``; the KPU computes on
unsigned bytes with a scale, a shift, an addition and a table of line segments. `exact_parameters` finds the latter
such that both agree for every input, whichever of the unverified rounding variants the chip implements. Averages
have their own forms in `averages.py`.

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

BN_SHIFT = 12
"""Batch-norm shift of the recommended form; deployed models use 12 to 15."""

_SCALE_TARGET = 10
_TABLE_SHIFT_TARGET = 20
_TABLE_MUL_LIMIT = 14
_SATURATING_SHIFT = -7
"""``A * 2**7`` of an integer A is 0 or clamps, so larger left shifts change nothing."""


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
        worst_sum: largest magnitude of the accumulator, over all inputs.
        worst_value: largest magnitude of the value that enters the table, over all inputs.
        form: which form it is, where it is not that of section 13.1.
    """

    weights: NDArray[np.uint8]
    batch_norm: BatchNorm
    table: ActivationTable
    arg_x: int
    arg_w: int
    arg_add: int
    worst_sum: int
    worst_value: int
    form: str = ""

    @property
    def proof(self) -> str:
        """The preconditions of exactness with the numbers that meet them."""
        limits = K210.limits
        addend = int(np.abs(self.batch_norm.add).max(initial=0))
        return (f"{self.form}|sum| <= {self.worst_sum} and |batch norm result| <= {self.worst_value}, below "
                f"2**{limits.accumulator_bits - 1}; |addend| <= {addend}, below 2**{limits.bn_add_bits - 1}")


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
    plain = np.ones(len(weights), np.int64)
    return _scaled(weights, bias, plain, plain, shift=shift, low=low)


def absolute_parameters(weights: NDArray[Any], bias: NDArray[Any], negative: NDArray[np.bool_], *,
                        shift: int) -> KpuParameters:
    """Parameters of the positive or the negative part of a linear layer.

    The sum of both parts is the absolute value, limited to 127. A negative part takes negated weights; only where a
    weight is -128, whose negative is no weight, a negative batch-norm factor. Its half step points the other way, so
    that both parts round the same number.

    Args:
        weights: as in `exact_parameters`, before activation.
        bias: as in `exact_parameters`.
        shift: as in `exact_parameters`.
        negative: which output channels give the negative part.

    Source: section 13.2, "Abs".
    """
    direction = np.where(negative, -1, 1)
    factors = direction
    if weights[negative].min(initial=0) > INT8.min:
        weights = weights * direction[:, None, None, None]
        factors = np.ones(len(weights), np.int64)
    return _scaled(weights, bias, factors, direction, shift=shift, low=0)


def _scaled(weights: NDArray[Any], bias: NDArray[Any], factors: NDArray[np.int64], direction: NDArray[np.int64], *,
            shift: int, low: int) -> KpuParameters:
    """The form of section 13.1 with signs: ``factors`` of the sums, ``direction`` of bias and half step."""
    shift = max(shift, _SATURATING_SHIFT)
    worst = worst_accumulator(weights, bias)
    left = 1 if shift >= 1 else -shift
    scale = _extra_scale(worst, shift, left)
    if shift >= 1:
        addend, table_shift = direction * (2 * bias + 1) << scale, shift + 1 + scale
        worst_value = (2 * worst + 1) << scale
    else:
        addend, table_shift = direction * bias << (left + scale), scale
        worst_value = worst << (left + scale)
    return build_parameters(weights, mul=factors << (BN_SHIFT + left + scale), bn_shift=BN_SHIFT, addend=addend,
                            table=_clamp_table(table_shift, low), worst_sum=worst, worst_value=worst_value)


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
    return filled_table((
        Segment(start=TABLE_MIN_START, mul=0, shift=0, bias=low + ZERO_POINT),
        Segment(start=low * scale, mul=1 << extra, shift=table_shift + extra, bias=low + ZERO_POINT),
        Segment(start=INT8.max * scale, mul=0, shift=0, bias=INT8.max + ZERO_POINT),
    ))


def filled_table(segments: tuple[Segment, ...]) -> ActivationTable:
    """All 16 segments: the given ones, then unreachable ones that saturate."""
    rest = range(TABLE_SEGMENTS - len(segments))
    table = segments + tuple(Segment(start=TABLE_UNREACHABLE_START + i, mul=0, shift=0, bias=INT8.max + ZERO_POINT)
                             for i in rest)
    return ActivationTable(start=np.array([s.start for s in table]), mul=np.array([s.mul for s in table]),
                           shift=np.array([s.shift for s in table]), bias=np.array([s.bias for s in table], np.uint8))


def build_parameters(weights: NDArray[Any], *, mul: NDArray[np.int64], bn_shift: int, addend: NDArray[Any],
                     table: ActivationTable, worst_sum: int, worst_value: int) -> KpuParameters:
    """Parameters on stored bytes, after checking that every register holds its number.

    Args:
        weights: int64 array (out, in, row, column) of -128..127.
        mul: batch-norm factors, int64 array (out,).
        bn_shift: for every channel.
        addend: batch-norm addends, int64 array (out,).
        table: of the values ``v`` in the layer's own units.
        worst_sum: proven bound of the accumulator.
        worst_value: proven bound of the value that enters the table.

    Raises:
        NotExact: a number does not fit its register.
    """
    limits = K210.limits
    if np.abs(mul).max(initial=0) >= 1 << (limits.bn_mul_bits - 1):
        raise NotExact(f"the batch-norm factor {int(np.abs(mul).max())} needs more than {limits.bn_mul_bits} bits")
    if np.abs(addend).max(initial=0) >= 1 << (limits.bn_add_bits - 1):
        raise NotExact(f"the batch-norm addend {int(np.abs(addend).max())} needs more than {limits.bn_add_bits} bits")
    if max(worst_sum, worst_value) >= 1 << (limits.accumulator_bits - 1):
        raise NotExact(f"the sums reach {max(worst_sum, worst_value)}, beyond the KPU's {limits.accumulator_bits} bits")
    if weights.size and not INT8.allows(weights):
        raise NotExact(f"the weights {weights.min()} to {weights.max()} of the KPU's form exceed 8 bits")
    batch_norm = BatchNorm(mul=mul, shift=np.full(len(weights), bn_shift), add=addend)
    taps = weights.shape[2] * weights.shape[3]
    return KpuParameters(weights=(weights + WEIGHT_ZERO_POINT).astype(np.uint8), batch_norm=batch_norm,
                         table=table, arg_x=-WEIGHT_ZERO_POINT, arg_w=-ZERO_POINT,
                         arg_add=taps * WEIGHT_ZERO_POINT * ZERO_POINT, worst_sum=worst_sum,
                         worst_value=worst_value)
