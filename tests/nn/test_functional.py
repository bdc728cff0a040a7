"""Rounding, shifts and gradients of the straight-through functions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from ai8x import arithmetic
from ai8x.nn import functional as AF
from ai8x.nn.functional import ActivationKind

ACTIVATIONS = list(ActivationKind)
IDS = [kind.name for kind in ACTIVATIONS]


@pytest.mark.parametrize(("limit", "shift"), [(0.25, -2), (0.5, -1), (0.999, 0), (1.0, 0), (1.001, 1), (2.0, 1),
                                              (0.0, -15), (1e-30, -15), (1e30, 15)])
def test_output_shift_examples(limit: float, shift: int) -> None:
    assert int(AF.parameter_shift(torch.tensor(limit))) == shift


@given(st.integers(-15, 15), st.sampled_from([-1, 0, 1]))
def test_output_shift_is_exact_next_to_powers_of_two(exponent: int, step: int) -> None:
    limit = np.float32(2.0) ** np.float32(exponent)
    if step:
        limit = np.nextafter(limit, np.float32(step) * np.float32(np.inf))
    expected = max(-15, min(15, exponent + (step == 1)))
    assert int(AF.parameter_shift(torch.tensor(limit))) == expected


@pytest.mark.parametrize("bits", arithmetic.WEIGHT_BITS)
def test_shift_range_is_that_of_the_shift_register(bits: int) -> None:
    lowest, highest = AF.shift_range(bits)
    assert (lowest + 8 - bits, highest + 8 - bits) == (-15, 15)
    assert int(AF.parameter_shift(torch.tensor(0.0), bits)) == lowest
    assert int(AF.parameter_shift(torch.tensor(1e9), bits)) == highest


def test_powers_of_two_are_exact() -> None:
    for exponent in range(-60, 61):
        power = AF.power_of_two(torch.tensor(exponent, dtype=torch.int32), torch.zeros(1))
        assert float(power) == math.ldexp(1.0, exponent)


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=40),
       st.sampled_from([0.0, 0.5, 0.9, 0.985, 0.995, 1.0]), st.booleans())
def test_quantile_interpolates_linearly(values: list[float], quantile: float, with_bias: bool) -> None:
    weight = torch.tensor(values)
    bias = torch.tensor([0.5, -3.0]) if with_bias else None
    magnitudes = np.abs(np.array(values + ([0.5, -3.0] if with_bias else []), dtype=np.float64))
    found = float(AF.magnitude_quantile(weight, bias, quantile))
    assert found == pytest.approx(float(np.quantile(magnitudes, quantile)), rel=1e-5, abs=1e-6)


def test_ties_round_up_and_rounding_precedes_the_clamp() -> None:
    steps = torch.tensor([0.5, -0.5, -1.5, 126.5, 127.49, 127.5, -128.5, -200.0]) / 128
    ours = AF.quantize_activation(steps, ActivationKind.NONE) * 128
    assert ours.tolist() == [1, 0, -1, 127, 127, 127, -128, -128]


def test_absolute_value_follows_rounding_and_clamp() -> None:
    steps = torch.tensor([-1.5, 1.5, -127.5, -128.0, -300.0, 300.0]) / 128
    assert (AF.quantize_activation(steps, ActivationKind.ABS) * 128).tolist() == [1, 2, 127, 127, 127, 127]


@pytest.mark.parametrize(("rounded", "expected"), [(False, [0, 1, 0, 0, -2, 2]), (True, [1, 2, -1, -1, -3, 3])])
def test_averages_round_as_the_pooling_unit_does(rounded: bool, expected: list[int]) -> None:
    means = torch.tensor([0.5, 1.5, -0.5, -0.75, -2.5, 2.5])
    assert AF.round_average(means, rounded=rounded).tolist() == expected
    assert (AF.quantize_average(means / 128, rounded=rounded) * 128).tolist() == expected


@given(st.integers(1, 16), st.integers(1, 16), st.booleans(), st.integers(0, 2**32 - 1))
def test_average_pooling_equals_integer_arithmetic(rows: int, columns: int, rounded: bool, seed: int) -> None:
    window = np.random.default_rng(seed).integers(-128, 128, (64, 1, rows, columns))
    sums = window.sum(axis=(2, 3), dtype=np.int64).reshape(-1)
    expected = arithmetic.average(sums, rows * columns, rounded=rounded)
    data = torch.tensor(window).float()
    integer = AF.round_average(AF.average_pool(data, 2, (rows, columns), (1, 1)), rounded=rounded)
    trained = AF.quantize_average(AF.average_pool(data / 128, 2, (rows, columns), (1, 1)), rounded=rounded)
    assert np.array_equal(integer.reshape(-1).numpy(), expected)
    assert np.array_equal(trained.reshape(-1).numpy() * 128, expected)


@given(st.integers(-(2**24) + 1, 2**24 - 1), st.integers(-15, 15), st.sampled_from(ACTIVATIONS))
def test_float32_rounding_of_accumulators_is_exact(accumulator: int, shift: int, activation: ActivationKind) -> None:
    expected = arithmetic.scale_accumulator(np.array([accumulator], dtype=np.int64), shift)
    if activation is ActivationKind.RELU:
        expected = arithmetic.apply_relu(expected)
    elif activation is ActivationKind.ABS:
        expected = arithmetic.apply_abs(expected)
    steps = torch.tensor([float(accumulator)]) * 2.0 ** (shift - 7)
    assert AF.round_to_int8(steps, activation).tolist() == expected.tolist()


def test_accumulators_at_every_rounding_boundary_are_exact() -> None:
    for fraction_bits in range(1, 23):
        centres = np.arange(-130, 131, dtype=np.int64) * (1 << fraction_bits) + (1 << (fraction_bits - 1))
        accumulators = np.concatenate([centres - 1, centres, centres + 1])
        accumulators = accumulators[np.abs(accumulators) < 1 << 24]
        expected = arithmetic.scale_accumulator(accumulators, 7 - fraction_bits)
        steps = torch.tensor(accumulators).float() * 2.0**-fraction_bits
        assert np.array_equal(AF.round_to_int8(steps, ActivationKind.NONE).numpy(), expected)


def straight_through_round(values: Tensor) -> Tensor:
    return values + (torch.floor(values + 0.5) - values).detach()


def two_clamps(values: Tensor, low: float, high: float) -> Tensor:
    return values.clamp(min=low).clamp(max=high)


def reference_layer(data: Tensor, weight: Tensor, bias: Tensor, bits: int, activation: ActivationKind,
                    wide: bool) -> Tensor:
    """Section 5.3 and 5.6 word for word, with torch's own gradients."""
    limit = torch.cat([weight.detach().flatten(), bias.detach()]).abs().max()
    scale = 2.0 ** int(AF.parameter_shift(limit, bits))
    one = 2.0 ** (bits - 1)
    quantized = [two_clamps(straight_through_round(p / scale * one) / one, -1, 1 - 1 / one) for p in (weight, bias)]
    sums = F.conv2d(data, *quantized, padding=1)
    if wide:
        return two_clamps(straight_through_round(sums * 2**14) / 2**14, -32768, 32768)
    sums = sums * scale
    if activation is ActivationKind.RELU:
        sums = F.relu(sums)
    rounded = straight_through_round(sums * 128) / 128
    if activation is ActivationKind.ABS:
        magnitude = sums.abs() + (rounded.abs() - sums.abs()).detach()
        return two_clamps(magnitude, -1, 127 / 128)
    return two_clamps(rounded, -1, 127 / 128)


def lean_layer(data: Tensor, weight: Tensor, bias: Tensor, bits: int, activation: ActivationKind, wide: bool) -> Tensor:
    shift = AF.parameter_shift(AF.magnitude_quantile(weight, bias, 1.0), bits)
    quantized = AF.quantize_parameters(weight, bias, bits=bits, shift=shift,
                                       output_shift=None if wide else shift)
    sums = F.conv2d(data, *quantized, padding=1)
    return AF.quantize_wide(sums) if wide else AF.quantize_activation(sums, activation)


@pytest.mark.parametrize("scale", [0.05, 1.0, 5.0])
@pytest.mark.parametrize("bits", arithmetic.WEIGHT_BITS)
@pytest.mark.parametrize(("activation", "wide"),
                         [*((kind, False) for kind in ACTIVATIONS), (ActivationKind.NONE, True)], ids=[*IDS, "wide"])
def test_outputs_and_gradients_are_those_of_straight_through_rounding(bits: int, scale: float, wide: bool,
                                                                      activation: ActivationKind) -> None:
    generator = torch.Generator().manual_seed(bits)
    results = []
    for layer in (reference_layer, lean_layer):
        generator.manual_seed(bits)
        data = (torch.randint(-128, 128, (2, 3, 9, 9), generator=generator) / 128).requires_grad_()
        weight = (torch.randn(4, 3, 3, 3, generator=generator) * scale * 0.3).requires_grad_()
        bias = (torch.randn(4, generator=generator) * scale).requires_grad_()
        outputs = layer(data, weight, bias, bits, activation, wide)
        (outputs * torch.randn(outputs.shape, generator=generator)).sum().backward()
        results.append((outputs.detach(), data.grad, weight.grad, bias.grad))
    assert torch.equal(results[0][0], results[1][0])
    for reference, ours in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(ours, reference, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=IDS)
def test_gradient_passes_exactly_where_the_rounded_value_needed_no_clamp(activation: ActivationKind) -> None:
    steps = torch.tensor([-129.0, -128.51, -128.5, -128.0, -127.51, -127.5, -0.1, 0.0, 0.1, 127.0, 127.49, 127.5,
                          128.0])
    values = (steps / 128).requires_grad_()
    AF.quantize_activation(values, activation).sum().backward()
    expected = {
        ActivationKind.NONE: [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0],
        ActivationKind.RELU: [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0],
        ActivationKind.ABS: [0, 0, 0, 0, 0, -1, -1, 0, 1, 1, 1, 0, 0]}[activation]
    assert values.grad is not None
    assert values.grad.tolist() == expected


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=IDS)
def test_float_clamp_passes_gradients_inside_and_on_the_limits(activation: ActivationKind) -> None:
    values = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.5, 127 / 128, 1.0], requires_grad=True)
    outputs = AF.clamp_activation(values, activation)
    outputs.sum().backward()
    assert values.grad is not None
    expected = {ActivationKind.NONE: [0, 1, 1, 1, 1, 1, 0], ActivationKind.RELU: [0, 0, 0, 0, 1, 1, 0],
                ActivationKind.ABS: [0, 0, -1, 0, 1, 1, 0]}[activation]
    assert values.grad.tolist() == expected
    assert float(outputs.detach().max()) == 127 / 128


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_changes_between_neighbouring_numbers(dtype: torch.dtype) -> None:
    def neighbours(value: float) -> Tensor:
        middle = torch.tensor(value, dtype=dtype)
        far = torch.tensor(math.inf, dtype=dtype)
        return torch.stack([torch.nextafter(middle, -far), middle, torch.nextafter(middle, far)]).requires_grad_()

    cases = [(AF.quantize_activation, ActivationKind.NONE, -128.5 / 128, [0, 1, 1]),
             (AF.quantize_activation, ActivationKind.NONE, 127.5 / 128, [1, 0, 0]),
             (AF.clamp_activation, ActivationKind.NONE, -1.0, [0, 1, 1]),
             (AF.clamp_activation, ActivationKind.NONE, 127 / 128, [1, 1, 0]),
             (AF.clamp_activation, ActivationKind.RELU, 127 / 128, [1, 1, 0])]
    for function, activation, value, expected in cases:
        values = neighbours(value)
        function(values, activation).sum().backward()
        assert values.grad is not None
        assert values.grad.tolist() == expected


def test_large_tensors_are_computed_in_blocks_with_the_same_result() -> None:
    values = torch.linspace(-2, 2, 3 * AF.BLOCK_ELEMENTS + 17)
    whole = torch.floor(values * 128 + 0.5).clamp(-128, 127) / 128
    assert torch.equal(AF.quantize_activation(values, ActivationKind.NONE), whole)
    strided = values[: 4 * (len(values) // 4)].reshape(4, -1).t()
    expected = whole[: strided.numel()].reshape(4, -1).t()
    assert torch.equal(AF.quantize_activation(strided, ActivationKind.NONE), expected)


def test_exact_type_changes_at_24_bits() -> None:
    assert AF.exact_dtype(2**24 - 1) is torch.float32
    assert AF.exact_dtype(2**24) is torch.float64


@pytest.mark.parametrize(("channels", "expected"), [(112, torch.float32), (114, torch.float64)])
def test_type_of_sums_is_decided_by_the_largest_output(channels: int, expected: torch.dtype) -> None:
    weight = torch.zeros(3, channels, 3, 3)
    weight[1] = -128
    bound = AF.sum_bound(weight, torch.tensor([0.0, -128 * 128.0, 0.0]), output_dim=0)
    assert bound == channels * 9 * 128 * 128 + 128 * 128
    assert AF.exact_dtype(bound) is expected


def test_bound_of_a_grouped_transposed_convolution_counts_the_inputs_of_a_group() -> None:
    weight = torch.arange(1.0, 17.0).reshape(4, 2, 1, 2)  # two groups, each of two inputs and two outputs
    data = torch.full((1, 4, 1, 1), -128.0)
    greatest = F.conv_transpose2d(data, weight.sum(dim=3, keepdim=True), groups=2).abs().flatten()
    bias = torch.tensor([0.0, 1.0, 2.0, 3.0])
    assert AF.sum_bound(weight, bias, output_dim=1, groups=2) == float((greatest + bias).max())


@pytest.mark.parametrize(("kernel", "size"), [(1, 8), (3, 8), (3, 32)])
def test_float32_convolution_is_exact_below_the_bound(kernel: int, size: int) -> None:
    channels = (2**24 - 1) // (128 * 128 * kernel**2)
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(100, 129, (2, min(channels, 512), size, size), generator=generator).float().neg()
    weight = torch.randint(100, 129, (8, min(channels, 512), kernel, kernel), generator=generator).float()
    assert AF.exact_dtype(AF.sum_bound(weight, None, output_dim=0)) is torch.float32
    with AF.exact_kernels():
        single = F.conv2d(data, weight, padding=kernel // 2)
        double = F.conv2d(data.double(), weight.double(), padding=kernel // 2)
    assert torch.equal(single.double(), double)


@given(st.lists(st.integers(-128, 127), min_size=4, max_size=4), st.sampled_from(["or", "xor"]))
def test_bit_operators_work_on_twos_complement(numbers: list[int], name: str) -> None:
    operator = {"or": torch.bitwise_or, "xor": torch.bitwise_xor}[name]
    first, second = torch.tensor(numbers[:2]), torch.tensor(numbers[2:])
    expected = operator(first, second)
    assert torch.equal(AF.combine_bits((first.float(), second.float()), operator, 1).long(), expected)
    assert torch.equal(AF.combine_bits((first / 128, second / 128), operator, 128) * 128, expected.float())
