"""The integer rules against truth tables written by hand, and against exact rational arithmetic.

Source: spec/max78000-cnn.md sections 4.1, 4.2, 4.4; docs/design.md "Numerics".
"""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.arithmetic import (
    INT8,
    INT32,
    IntType,
    apply_abs,
    apply_relu,
    average,
    rounding_shift_right,
    scale_accumulator,
    weight_type,
)

accumulators = st.lists(st.integers(-(1 << 40), 1 << 40), min_size=1, max_size=20)


def ints(values: list[int]) -> np.ndarray:
    return np.array(values, np.int64)


@pytest.mark.parametrize(("values", "shift", "expected"), [
    ([-4, -3, -2, -1, 0, 1, 2, 3, 4], 1, [-2, -1, -1, 0, 0, 1, 1, 2, 2]),
    ([-10, -9, -7, -6, -5, -3, -2, -1, 1, 2, 3, 5, 6, 7], 2, [-2, -2, -2, -1, -1, -1, 0, 0, 0, 1, 1, 1, 2, 2]),
    ([-5, 0, 5], 0, [-5, 0, 5]), ([-5, 0, 5], -3, [-40, 0, 40]),
], ids=["halves go up", "quarters", "no shift", "to the left"])
def test_shifts_round_halves_towards_plus_infinity(values: list[int], shift: int, expected: list[int]) -> None:
    assert rounding_shift_right(ints(values), shift).tolist() == expected


@given(accumulators, st.integers(-15, 25))
def test_shifts_are_exact(values: list[int], shift: int) -> None:
    expected = [floor(Fraction(value) / Fraction(2) ** shift + Fraction(1, 2)) if shift > 0 else value << -shift
                for value in values]
    assert rounding_shift_right(ints(values), shift).tolist() == expected


@pytest.mark.parametrize(("accumulator", "shift", "expected"), [
    (63, 0, 0), (64, 0, 1), (-64, 0, 0), (-65, 0, -1), (127 * 128 + 63, 0, 127), (127 * 128 + 64, 0, 127),
    (-128 * 128 - 64, 0, -128), (-128 * 128 - 65, 0, -128), (1 << 30, 0, 127), (-(1 << 30), 0, -128),
    (1, 7, 1), (1, 8, 2), (1, 15, 127), (-1, 15, -128), (1 << 21, -15, 1), ((1 << 21) - 1, -15, 0),
])
def test_accumulators_are_scaled_by_128_and_saturate(accumulator: int, shift: int, expected: int) -> None:
    assert scale_accumulator(ints([accumulator]), shift).tolist() == [expected]


@given(accumulators, st.integers(-15, 15))
def test_scaling_is_the_formula_of_the_specification(values: list[int], shift: int) -> None:
    expected = [min(127, max(-128, floor(Fraction(v) * Fraction(2) ** shift / 128 + Fraction(1, 2)))) for v in values]
    assert scale_accumulator(ints(values), shift).tolist() == expected


def test_activations_over_the_whole_range() -> None:
    values = np.arange(-128, 128)
    assert apply_relu(values).tolist() == [max(0, v) for v in range(-128, 128)]
    assert apply_abs(values).tolist() == [min(127, abs(v)) for v in range(-128, 128)]


@pytest.mark.parametrize(("sums", "count", "rounded", "expected"), [
    ([-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5], 2, False, [-2, -2, -1, -1, 0, 0, 0, 1, 1, 2, 2]),
    ([-5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5], 2, True, [-3, -2, -2, -1, -1, 0, 1, 1, 2, 2, 3]),
    ([-7, -6, -5, -3, -2, -1, 1, 2, 3, 5, 6, 7], 4, False, [-1, -1, -1, 0, 0, 0, 0, 0, 0, 1, 1, 1]),
    ([-7, -6, -5, -3, -2, -1, 1, 2, 3, 5, 6, 7], 4, True, [-2, -2, -1, -1, -1, 0, 0, 1, 1, 1, 2, 2]),
    ([-5, -4, -2, -1, 1, 2, 4, 5], 3, True, [-2, -1, -1, 0, 0, 1, 1, 2]),
    ([-128 * 4, 127 * 4, -1000, 1000], 4, True, [-128, 127, -128, 127]),
], ids=["2 truncated", "2 rounded", "4 truncated", "4 rounded", "3 rounded", "saturated"])
def test_averages_truncate_towards_zero_or_round_halves_away_from_it(sums: list[int], count: int, rounded: bool,
                                                                     expected: list[int]) -> None:
    assert average(ints(sums), count, rounded=rounded).tolist() == expected


@given(st.lists(st.integers(-128 * 256, 127 * 256), min_size=1), st.integers(1, 256), st.booleans())
def test_averages_are_odd_functions(sums: list[int], count: int, rounded: bool) -> None:
    inside = [s for s in sums if abs(s) <= 127 * count]
    mirrored = -average(-ints(inside), count, rounded=rounded)
    assert average(ints(inside), count, rounded=rounded).tolist() == mirrored.tolist()


@pytest.mark.parametrize(("bits", "low", "high"), [(8, -128, 127), (4, -8, 7), (2, -2, 1), (1, -1, 0)])
def test_weights_of_every_width_have_their_range(bits: int, low: int, high: int) -> None:
    kind = weight_type(bits)
    assert (kind.min, kind.max, str(kind)) == (low, high, f"int{bits}")
    assert kind.allows(ints([low, high]))
    assert not kind.allows(ints([low - 1]))
    assert not kind.allows(ints([high + 1]))
    assert kind.clip(ints([low - 1, high + 1])).tolist() == [low, high]


@pytest.mark.parametrize("bits", [0, 3, 16, -8])
def test_other_weight_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="allowed"):
        weight_type(bits)


@pytest.mark.parametrize(("kind", "dtype"), [
    (IntType(bits=1), "int8"), (INT8, "int8"), (IntType(bits=9), "int16"), (IntType(bits=17), "int32"),
    (INT32, "int32"),
    (IntType(bits=33), "int64"), (IntType(bits=8, signed=False), "uint8"), (IntType(bits=17, signed=False), "uint32"),
])
def test_the_narrowest_numpy_type_is_chosen(kind: IntType, dtype: str) -> None:
    assert kind.dtype == np.dtype(dtype)
    assert np.iinfo(kind.dtype).min <= kind.min
    assert np.iinfo(kind.dtype).max >= kind.max


def test_an_integer_wider_than_numpy_has_no_type() -> None:
    with pytest.raises(ValueError, match="65"):
        _ = IntType(bits=65).dtype


def test_an_empty_array_fits_every_type() -> None:
    assert INT8.allows(np.zeros(0, np.int64))
    assert str(IntType(bits=4, signed=False)) == "uint4"
