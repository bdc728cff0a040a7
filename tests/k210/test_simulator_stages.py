"""The KPU simulator's fast stages against its integer stages, which `test_simulator.py` holds against plain Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.k210 import device
from ai8x.k210.simulator_stages import (
    Compare,
    KpuOptions,
    KpuParameters,
    OutputStage,
    Rounding,
    SumBlock,
    activate,
    batch_norm,
)
from ai8x.k210.simulator_sums import ConvArguments, layer_sums

CHANNELS, HEIGHT, WIDTH = 3, 5, 7


def random_parameters(rng: np.random.Generator, spread: int, *, odd: bool, monotone: bool) -> KpuParameters:
    """A table whose starts lie within `spread`; batch norm factors of many or of few significant bits."""
    starts = np.sort(rng.integers(-spread, spread, 15))
    mul = rng.integers(-32768, 32768, 16) if odd else 1 << rng.integers(0, 14, 16)
    reached = int(rng.integers(1, 16))
    mul[reached:] = 0
    bias = rng.integers(0, 256, 16)
    bias[reached:] = bias[reached]
    if monotone:
        mul = np.abs(mul)
        mul[0] = 0
    norm = rng.integers(-(1 << 23), 1 << 23, CHANNELS) if odd else 1 << rng.integers(0, 23, CHANNELS)
    return KpuParameters(
        weights=rng.integers(0, 256, (CHANNELS, 2, 1, 1), np.uint8), bn_mul=norm,
        bn_shift=rng.integers(8, 16, CHANNELS), bn_add=rng.integers(-spread, spread, CHANNELS),
        start=np.array([device.TABLE_MIN_START, *starts]), mul=mul, shift=rng.integers(0, 40, 16), bias=bias)


@given(seed=st.integers(0, 1 << 20), spread=st.sampled_from([9, 300, 20_000, 1 << 30]), odd=st.booleans(),
       monotone=st.booleans(), compare=st.sampled_from(Compare), rounding=st.sampled_from(Rounding))
def test_fast_stages_equal_integer_stages(seed: int, spread: int, odd: bool, monotone: bool, compare: Compare,
                                          rounding: Rounding) -> None:
    rng = np.random.default_rng(seed)
    parameters = random_parameters(rng, spread, odd=odd, monotone=monotone)
    options = KpuOptions(compare=compare, rounding=rounding)
    sums = rng.integers(-(1 << int(rng.integers(1, 12))), 1 << 12, (CHANNELS, HEIGHT, WIDTH))
    common, constant = rng.integers(-99, 99, (HEIGHT, WIDTH)), rng.integers(-(1 << 20), 1 << 20, CHANNELS)
    acc = sums + common + constant[:, None, None]
    expected = activate(batch_norm(acc, parameters.bn_mul, parameters.bn_shift, parameters.bn_add), parameters, options)
    found = np.zeros((CHANNELS, HEIGHT + 2, WIDTH), np.uint8)  # rows of a larger map, which lie apart in memory
    block = SumBlock(first=(0, 0), sums=sums.astype(np.float32), common=common.astype(np.float64),
                     constant=constant.astype(np.float64))
    OutputStage(parameters, options, "layer").run(block, None, found[:, 1:-1])
    assert np.array_equal(found[:, 1:-1], expected)
    assert not found[:, [0, -1]].any()


def test_longest_legal_products_are_exact() -> None:
    """Factors of 27 and 23 bits whose product's low bits decide; the addend brings the result back to the bytes."""
    one = np.ones(1, np.int64)
    shift, factor = 15, (1 << 23) - 1
    acc = np.arange((1 << 27) - 30, 1 << 27)[None, None]
    value = (acc * factor) >> shift
    start = np.array([device.TABLE_MIN_START, *(int(value.min()) + 512 * np.arange(15))])
    parameters = KpuParameters(weights=np.zeros((1, 1, 1, 1), np.uint8), bn_mul=one * factor, bn_shift=one * shift,
                               bn_add=one * 0, start=start, mul=np.ones(16, np.int64), shift=np.full(16, 3),
                               bias=np.arange(16))
    expected = activate(value, parameters, KpuOptions())
    found = np.zeros(acc.shape, np.uint8)
    block = SumBlock(first=(0, 0), sums=acc.astype(np.float64), common=None, constant=np.zeros(1))
    OutputStage(parameters, KpuOptions(), "layer").run(block, None, found)
    assert np.array_equal(found, expected) and value.min() > 1 << 34 and len(np.unique(expected)) > 9


@pytest.mark.parametrize(("weight", "exact_in"), [(0, np.float32), (255, np.float64)])
def test_products_of_bytes_run_in_float32_only_below_2_to_24(weight: int, exact_in: type) -> None:
    """128 channels of 3x3 bytes: 255 * 127 * 1152 is above 2**24, 255 * 128 * 1152 too; nearly zero weights are not."""
    weights = np.full((4, 128, 3, 3), weight, np.uint8)
    weights[0, 0, 0, 0] = 1
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (128, 4, 4), np.uint8)
    conv = ConvArguments(arg_x=0, shr_x=0, arg_w=0, shr_w=0, arg_add=0, pad_value=255, depthwise=False)
    zeros = np.zeros(4, np.int64)
    parameters = KpuParameters(weights=weights, bn_mul=zeros, bn_shift=zeros, bn_add=zeros, start=np.zeros(16, int),
                               mul=np.zeros(16, int), shift=np.zeros(16, int), bias=np.zeros(16, int))
    (block,) = layer_sums(image, conv, parameters, device.POOL_TYPES[0], KpuOptions())
    padded = np.pad(image.astype(np.int64), ((0, 0), (1, 1), (1, 1)), constant_values=255)
    expected = sum(np.einsum("oi,ihw->ohw", weights[:, :, y, x].astype(np.int64), padded[:, y : y + 4, x : x + 4])
                   for y in range(3) for x in range(3))
    assert block.sums.dtype == exact_in
    assert np.array_equal(block.sums.astype(np.int64), expected)
