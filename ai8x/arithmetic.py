"""The integer rules of the accelerators: rounding, saturation, pooling, weight ranges.

Works on numpy integer arrays only. The simulators do not import this module: they state the same rules a
second time, so that agreement is evidence (docs/design.md "Two witnesses"). Start at `scale_accumulator`.

Source: spec/max78000-cnn.md section 4; docs/design.md "Numerics".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class IntType:
    """A two's complement integer type of any width."""

    bits: int
    signed: bool = True

    @property
    def min(self) -> int:
        """Least value."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        """Greatest value."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest numpy type that holds every value."""
        for width in (8, 16, 32, 64):
            if self.bits <= width:
                return np.dtype(f"{'i' if self.signed else 'u'}{width // 8}")
        raise ValueError(f"no numpy integer of {self.bits} bits")

    def allows(self, values: IntArray) -> bool:
        """Whether every value lies within the range."""
        return values.size == 0 or bool(values.min() >= self.min and values.max() <= self.max)

    def clip(self, values: IntArray) -> IntArray:
        """Saturate, keeping the dtype of the input."""
        return np.clip(values, self.min, self.max)

    def __str__(self) -> str:
        return f"{'int' if self.signed else 'uint'}{self.bits}"


INT8 = IntType(bits=8)
INT32 = IntType(bits=32)

WEIGHT_BITS = (1, 2, 4, 8)
"""Weight widths that both chips can be given; section 4.1."""

BIAS_SHIFT = 7
"""A bias enters the accumulator multiplied by 2**7 for every weight width; section 4.2."""


def weight_type(bits: int) -> IntType:
    """The integer type of q-bit weights: 8 -> -128..127, 4 -> -8..7, 2 -> -2..1, 1 -> -1..0 (section 4.1)."""
    if bits not in WEIGHT_BITS:
        raise ValueError(f"weights of {bits} bits; allowed are {WEIGHT_BITS}")
    return IntType(bits=bits)


def rounding_shift_right(values: IntArray, shift: int) -> IntArray:
    """Divide by ``2**shift``, rounding halves towards plus infinity; a negative shift multiplies.

    Args:
        values: accumulators, wide enough for the sum with half a step.
        shift: number of bits.

    Returns:
        Array of the same shape and dtype; not clipped.

    Rounding:
        shift 1: 3 -> 2, 1 -> 1, -1 -> 0, -3 -> -1

    Source:
        spec/max78000-cnn.md section 4.2.
    """
    if shift <= 0:
        return values << -shift
    return (values + (1 << (shift - 1))) >> shift


def scale_accumulator(accumulator: IntArray, output_shift: int) -> IntArray:
    """An accumulator as int8: ``clip(floor(acc * 2**output_shift / 128 + 1/2), -128, 127)``.

    Args:
        accumulator: sum of products plus 128 times the bias, int64.
        output_shift: total shift, layer shift plus ``8 - weight_bits``; positive = left.

    Source:
        spec/max78000-cnn.md section 4.2.
    """
    return INT8.clip(rounding_shift_right(accumulator, BIAS_SHIFT - output_shift))


def apply_relu(values: IntArray) -> IntArray:
    """Negative values become 0; applied after rounding and clipping."""
    return np.maximum(values, 0)


def apply_abs(values: IntArray) -> IntArray:
    """Absolute value limited to 127, so that -128 gives 127; applied after rounding and clipping."""
    return np.minimum(np.abs(values), INT8.max)


def average(sums: IntArray, count: int, *, rounded: bool) -> IntArray:
    """Average of ``count`` int8 values from their sum, saturated to int8.

    Args:
        sums: window sums, any integer dtype wider than 16 bits.
        count: number of values summed.
        rounded: False truncates towards zero, True rounds halves away from zero.

    Rounding:
        count 2, truncated: 3 -> 1, 1 -> 0, -1 -> 0, -3 -> -1
        count 2, rounded:   3 -> 2, 1 -> 1, -1 -> -1, -3 -> -2

    Source:
        spec/max78000-cnn.md section 4.4; silicon UNVERIFIED for negative ties.
    """
    magnitude = np.abs(sums)
    quotient = (2 * magnitude + count) // (2 * count) if rounded else magnitude // count
    return INT8.clip(np.sign(sums) * quotient)
