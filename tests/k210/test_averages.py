"""Averages through the activation table: exact for every sum, refused where the table is too coarse."""

import numpy as np
import pytest

from ai8x.arithmetic import average
from ai8x.k210.averages import average_parameters, staircase_table
from ai8x.k210.legalize_pool import mean_offset
from ai8x.k210.parameters import NotExact
from ai8x.k210.simulator_stages import Compare, KpuOptions, KpuParameters, Rounding, activate


def looked_up(table, values, options):
    parameters = KpuParameters(weights=np.zeros((1, 1, 1, 1), np.int64), bn_mul=np.ones(1), bn_shift=np.zeros(1),
                               bn_add=np.zeros(1), start=table.start, mul=table.mul, shift=table.shift,
                               bias=table.bias.astype(np.int64))
    return activate(values, parameters, options).astype(np.int64) - 128


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 8, 9, 16, 25, 49, 64, 100, 195])
def test_every_sum_gives_the_average_in_every_reading_of_the_chip(count, rounded):
    sums = np.arange(-128 * count, 127 * count + 1)
    table = staircase_table(count, rounded=rounded)
    for rounding in Rounding:
        for compare in Compare:
            found = looked_up(table, 2 * sums, KpuOptions(rounding=rounding, compare=compare))
            assert np.array_equal(found, average(sums, count, rounded=rounded))


@pytest.mark.parametrize("rounded", [False, True])
def test_windows_beyond_the_precision_of_the_slope_are_refused(rounded):
    with pytest.raises(NotExact, match="196 cells"):
        staircase_table(196, rounded=rounded)


def test_the_proof_names_the_number_of_sums():
    parameters = average_parameters(np.ones((2, 1, 3, 3), np.int64), 9, rounded=False)
    assert "average of 9 cells, all 2296 sums tried" in parameters.proof


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("cells", [2, 7, 16, 49, 64, 100, 196, 1024])
def test_float_means_of_values_that_are_not_negative_are_exact(cells, rounded):
    assert mean_offset(cells, rounded=rounded) == (0 if rounded else (cells - 1) / (2 * cells)) - 128
