"""Activation tables: exact where the function is a clipped line, close elsewhere; spec sections 4.1, 5 and 15."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai8x.k210.activation import (
    ActivationFunction,
    ActivationKind,
    Falling,
    TableDomain,
    fit_activation,
    table_output,
)
from ai8x.k210.device import TABLE_MIN_START
from ai8x.k210.kmodel_layers import ActivationTable
from ai8x.k210.simulator_stages import Rounding, divide

T = 12
"""Values have so many bits below one step of the output."""

WORST_STEPS = {
    (ActivationKind.LINEAR, Falling.STEPS): 0.5, (ActivationKind.RELU, Falling.STEPS): 0.5,
    (ActivationKind.RELU6, Falling.STEPS): 0.5, (ActivationKind.CLIP, Falling.STEPS): 0.5,
    (ActivationKind.LEAKY_RELU, Falling.STEPS): 0.6,
    (ActivationKind.ELU, Falling.STEPS): 0.7, (ActivationKind.SIGMOID, Falling.STEPS): 1.1,
    (ActivationKind.TANH, Falling.STEPS): 1.1, (ActivationKind.HARD_SIGMOID, Falling.STEPS): 0.6,
    (ActivationKind.HARD_SWISH, Falling.STEPS): 1.9, (ActivationKind.HARD_SWISH, Falling.SLOPES): 0.8,
    (ActivationKind.SILU, Falling.STEPS): 1.4, (ActivationKind.SILU, Falling.SLOPES): 0.9,
    (ActivationKind.SOFTPLUS, Falling.STEPS): 0.8,
}
"""Largest error in steps of the output byte for inputs of -8 to 8; 0.5 is rounding alone."""


def domain_of(function: ActivationFunction, limit: float = 8.0, reach: float = 30.0) -> TableDomain:
    """The byte covers what inputs of -limit to limit give; values come from a wider range."""
    outputs = np.append(function(np.linspace(-limit, limit, 4001)), 0.0)
    scale = float(outputs.max() - outputs.min()) / 255
    unit = scale / 2**T
    return TableDomain(low=int(-reach / unit), high=int(reach / unit), unit=unit, scale=scale,
                       zero_point=round(-float(outputs.min()) / scale))


def as_segments(table: ActivationTable) -> list[tuple[int, int, int, int]]:
    return [tuple(map(int, row)) for row in zip(table.start, table.mul, table.shift, table.bias, strict=True)]


@pytest.mark.parametrize(("kind", "falling"), WORST_STEPS, ids=lambda value: value.value)
def test_error_stays_within_the_known_bound(kind: ActivationKind, falling: Falling) -> None:
    function = ActivationFunction(kind=kind, slope=1.0 if kind is ActivationKind.ELU else 0.1)
    domain = domain_of(function)
    fitted = fit_activation(function, domain, falling=falling)
    assert fitted.max_error <= WORST_STEPS[kind, falling]
    values = np.random.default_rng(0).integers(domain.low, domain.high, 20_000)
    error = np.abs(table_output(fitted.table, values) - domain.wanted(function, values))
    assert error.max() <= WORST_STEPS[kind, falling]
    assert error.max() <= fitted.max_error + 0.05


@pytest.mark.parametrize("kind", ActivationKind, ids=lambda kind: kind.value)
def test_table_obeys_the_rules_of_the_chip(kind: ActivationKind) -> None:
    function = ActivationFunction(kind=kind)
    fitted = fit_activation(function, domain_of(function))
    segments = as_segments(fitted.table)
    starts = [segment[0] for segment in segments]
    assert starts[0] == TABLE_MIN_START
    assert all(one < other for one, other in itertools.pairwise(starts))
    assert all(0 <= mul < 1 << 15 and 0 <= shift <= 30 for _, mul, shift, _ in segments)
    assert not fitted.falls
    assert 0 < fitted.segments <= 16
    ActivationTable.from_bytes(fitted.table.to_bytes())


@pytest.mark.parametrize("kind", [ActivationKind.SIGMOID, ActivationKind.TANH, ActivationKind.RELU6])
def test_monotonic_function_gives_the_same_under_every_rounding_up_to_one_step(kind: ActivationKind) -> None:
    function = ActivationFunction(kind=kind)
    domain = domain_of(function)
    table = fit_activation(function, domain).table
    values = np.linspace(domain.low, domain.high, 5001).astype(np.int64)
    index = np.searchsorted(table.start, values, side="right") - 1
    product = (values - table.start[index]) * table.mul[index]
    assert product.min() >= 0
    variants = [np.clip(divide(product, table.shift[index], rounding) + table.bias[index], 0, 255)
                for rounding in Rounding]
    assert np.array_equal(variants[0], table_output(table, values))
    assert max(int(np.abs(variant - variants[0]).max()) for variant in variants) <= 1


def test_falling_parts_are_level_steps_unless_slopes_are_wanted() -> None:
    function = ActivationFunction(kind=ActivationKind.HARD_SWISH)
    steps, slopes = (fit_activation(function, domain_of(function), falling=falling) for falling in Falling)
    assert (steps.falls, slopes.falls) == (False, True)
    assert slopes.max_error < steps.max_error


@pytest.mark.parametrize("shift", [0, 4, 20])
def test_relu_is_rounding_and_clipping_exactly(shift: int) -> None:
    unit = 0.5 / 2**shift
    domain = TableDomain(low=-600 << shift, high=600 << shift, unit=unit, scale=0.5, zero_point=10)
    table = fit_activation(ActivationFunction(kind=ActivationKind.RELU), domain).table
    values = np.random.default_rng(1).integers(domain.low, domain.high, 5000)
    steps = values / 2**shift
    nearest = np.floor(steps) + np.where(steps % 1 == 0.5, np.floor(steps) % 2, steps % 1 > 0.5)
    assert np.array_equal(table_output(table, values), np.clip(np.maximum(nearest, 0) + 10, 0, 255))


def test_relu6_clips_at_six_even_where_the_byte_could_hold_more() -> None:
    domain = TableDomain(low=-10_000, high=10_000, unit=0.001, scale=0.05, zero_point=20)
    fitted = fit_activation(ActivationFunction(kind=ActivationKind.RELU6), domain)
    assert table_output(fitted.table, np.array([-5000, 0, 5999, 6000, 9999])).tolist() == [20, 20, 140, 140, 140]


def test_level_function_needs_one_segment() -> None:
    domain = TableDomain(low=-(1 << 20), high=-(1 << 19), unit=1e-4, scale=1 / 256, zero_point=0)
    assert fit_activation(ActivationFunction(kind=ActivationKind.SIGMOID), domain).segments == 1


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(ActivationKind)), st.floats(0.2, 40), st.integers(3, 16), st.integers(0, 255))
def test_reported_error_is_that_of_the_simulated_table(kind: ActivationKind, limit: float, bits: int,
                                                       zero_point: int) -> None:
    function = ActivationFunction(kind=kind, slope=0.2)
    scale = limit / 255
    domain = TableDomain(low=-(300 << bits), high=300 << bits, unit=scale / 2**bits, scale=scale, zero_point=zero_point)
    fitted = fit_activation(function, domain)
    values = np.random.default_rng(2).integers(domain.low, domain.high, 2000)
    error = np.abs(table_output(fitted.table, values) - domain.wanted(function, values))
    assert error.max() <= fitted.max_error + 0.3
    assert fitted.rms_error <= fitted.max_error


@pytest.mark.parametrize("change", [
    {"low": 5, "high": 5}, {"high": 1 << 35}, {"low": -(1 << 36)}, {"unit": 0.0}, {"scale": -1.0},
    {"zero_point": 256}])
def test_impossible_domain_is_refused(change: dict[str, float]) -> None:
    usual = {"low": -100, "high": 100, "unit": 0.1, "scale": 0.1, "zero_point": 0}
    with pytest.raises(ValueError):
        TableDomain(**(usual | change))


def test_too_steep_a_slope_is_refused() -> None:
    domain = TableDomain(low=-10, high=10, unit=1.0, scale=1e-6, zero_point=0)
    with pytest.raises(ValueError, match="too steep"):
        fit_activation(ActivationFunction(kind=ActivationKind.LINEAR), domain)
