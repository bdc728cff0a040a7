"""The KPU's numbers compute what the layer's integers say, for every sum and every reading of the chip."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.arithmetic import INT8, apply_abs, rounding_shift_right
from ai8x.k210.parameters import NotExact, absolute_parameters, exact_parameters, worst_accumulator
from ai8x.k210.simulator_stages import Compare, KpuOptions, KpuParameters, Rounding, activate, batch_norm

SHIFTS = range(-9, 24)


def computed(parameters, sums, options):
    """Bytes for accumulators (channels, n) without bias."""
    norm, table = parameters.batch_norm, parameters.table
    values = batch_norm(sums[:, :, None], norm.mul, norm.shift, norm.add)
    kpu = KpuParameters(weights=np.zeros((1, 1, 1, 1), np.int64), bn_mul=norm.mul, bn_shift=norm.shift, bn_add=norm.add,
                        start=table.start, mul=table.mul, shift=table.shift, bias=table.bias.astype(np.int64))
    return activate(values, kpu, options).astype(np.int64)[:, :, 0] - 128


def expected(sums, bias, shift, low):
    return np.clip(rounding_shift_right(sums + bias[:, None], shift), low, 127)


def interesting(worst, shift):
    """Sums around every rounding border near 0 and the saturation, and the extremes."""
    unit = 1 << max(shift, 0)
    near = [k * unit // 2 + d for k in range(-6, 7) for d in (-1, 0, 1)]
    borders = [s * (127 * unit + unit // 2) + d for s in (-1, 1) for d in (-1, 0, 1)]
    return np.array(sorted({v for v in [*near, *borders, -worst, worst, 0] if abs(v) <= worst}))


@pytest.mark.parametrize("low", [-128, 0])
@pytest.mark.parametrize("shift", SHIFTS)
def test_every_border_is_rounded_half_up(shift, low):
    weights = np.full((2, 64, 3, 3), 127)
    bias = np.array([0, -12_345])
    parameters = exact_parameters(weights, bias, shift=shift, low=low)
    sums = interesting(worst_accumulator(weights, bias) - 12_345, shift)
    both = np.stack([sums, sums - bias[1]])
    for rounding in Rounding:
        for compare in Compare:
            options = KpuOptions(rounding=rounding, compare=compare)
            assert np.array_equal(computed(parameters, both, options), expected(both, bias, shift, low))


@pytest.mark.parametrize("lowest", [-128, -127])
@pytest.mark.parametrize("shift", [-8, 0, 1, 7, 15])
def test_the_halves_of_an_absolute_value_add_up(shift, lowest):
    weights = np.full((1, 8, 1, 1), lowest)
    bias = np.array([300])
    negative = np.array([False, True])
    parameters = absolute_parameters(np.concatenate([weights, weights]), np.concatenate([bias, bias]), negative,
                                     shift=shift)
    sums = interesting(worst_accumulator(weights, bias) - 300, shift)
    stored_sign = 1 if lowest == -128 else -1  # where a weight is -128 the batch norm negates instead
    halves = computed(parameters, np.stack([sums, stored_sign * sums]), KpuOptions())
    linear = INT8.clip(rounding_shift_right(sums + bias, shift))
    assert np.array_equal(np.minimum(halves.sum(axis=0), 127), apply_abs(linear))


@given(st.integers(1, 64), st.integers(-128, 127), st.integers(-30_000, 30_000))
def test_worst_accumulator_bounds_every_input(channels, weight, bias):
    weights = np.full((1, channels, 1, 1), weight)
    worst = worst_accumulator(weights, np.array([bias]))
    assert all(abs(channels * weight * value + bias) <= worst for value in (-128, 0, 127))


def test_a_bias_beyond_the_register_is_refused():
    with pytest.raises(NotExact, match="addend"):
        exact_parameters(np.ones((1, 1, 1, 1), np.int64), np.array([1 << 31]), shift=1, low=-128)


def test_weights_beyond_a_byte_are_refused():
    with pytest.raises(NotExact, match="exceed 8 bits"):
        exact_parameters(np.full((1, 1, 1, 1), 128), np.zeros(1, np.int64), shift=0, low=-128)


def test_the_proof_states_the_bounds():
    parameters = exact_parameters(np.full((1, 4, 1, 1), 2), np.array([128]), shift=7, low=0)
    assert parameters.worst_sum == 4 * 2 * 128 + 128
    assert "|sum| <= 1152" in parameters.proof
