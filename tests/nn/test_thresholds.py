"""Statistics of activations, ranges that layers share, and the second generation of training."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ai8x.nn import modules
from ai8x.nn.arguments import Scheme
from ai8x.nn.base import OutputScale, set_output_scale, use_scheme
from ai8x.nn.loading import load_state
from ai8x.nn.qat import QatPolicy, switch_to_qat
from ai8x.nn.statistics import (
    NUM_BINS,
    Histogram,
    ThresholdMethod,
    choose_threshold,
    collect_histograms,
    histogram_of,
    merge_histograms,
    without_outliers,
)
from ai8x.nn.thresholds import calibrate_activations, output_ranges, plan_thresholds
from ai8x.nn.trace import trace_model
from ai8x.quantization import quantize_state
from tests.nn.golden import FOLDER
from tests.nn.test_golden import SecondGeneration


def recorded() -> tuple[SecondGeneration, dict[str, Tensor], Tensor]:
    """The recorded network before the switch, its state after it, and the inputs of its statistics."""
    with np.load(FOLDER / "v2_net.npz") as arrays:
        model = SecondGeneration()
        use_scheme(model, Scheme.V2)
        state = {k.removeprefix("float."): torch.tensor(v) for k, v in arrays.items() if k.startswith("float.")}
        load_state(model, {**state, "conv1.final_scale": torch.tensor(0.0)})
        expected = {k.removeprefix("qat."): torch.tensor(v) for k, v in arrays.items() if k.startswith("qat.")}
        return model, expected, torch.tensor(arrays["x_int"]).float() / 128


def test_recorded_statistics_give_the_recorded_thresholds_and_parameters() -> None:
    model, expected, inputs = recorded()
    plan = calibrate_activations(model, inputs.split(16))
    assert {name: p.measured for name, p in plan.items() if name != "conv3"} == {
        "conv1": 2, "conv2": 4, "add": 4, "fc": 4}
    assert {name: p.own for name, p in plan.items() if not p.wide} == {"conv1": 2, "conv2": 4, "conv3": 4, "add": 4}
    found = model.state_dict()
    assert list(found) == list(expected)
    for name in found:
        if name.endswith(("activation_threshold", "final_scale", "op.weight", "op.bias")):
            assert torch.equal(found[name], expected[name]), name


def test_recorded_float_outputs_have_no_clamps() -> None:
    model, _, inputs = recorded()
    with np.load(FOLDER / "v2_net.npz") as arrays:
        np.testing.assert_allclose(model(inputs[:16]).detach(), arrays["y_float"], rtol=1e-5, atol=1e-5)


def test_calibrated_float_model_computes_the_same_outputs() -> None:
    model, _, inputs = recorded()
    before = model(inputs)
    calibrate_activations(model, inputs.split(16))
    torch.testing.assert_close(model(inputs), before, rtol=1e-5, atol=1e-5)


def test_switch_to_the_second_generation_computes_the_recorded_outputs() -> None:
    model, _, inputs = recorded()
    switch_to_qat(model, QatPolicy(start_epoch=0, scheme=Scheme.V2), inputs.split(16))
    with np.load(FOLDER / "v2_net.npz") as arrays:
        assert np.array_equal(model(inputs[:16]).detach().numpy(), arrays["y_qat"])
        integer = SecondGeneration()
        load_state(integer, quantize_state(model.state_dict()))
        assert np.array_equal(integer(inputs[:16] * 128).detach().numpy(), arrays["y_int"])


def test_logits_stay_on_one_scale_in_every_mode() -> None:
    model, _, inputs = recorded()
    before = model(inputs)
    set_output_scale(model, OutputScale.REAL)
    switch_to_qat(model, QatPolicy(start_epoch=0, scheme=Scheme.V2), inputs.split(16))
    trained = model(inputs)
    integer = SecondGeneration()
    load_state(integer, quantize_state(model.state_dict()))
    set_output_scale(integer, OutputScale.REAL)
    assert torch.equal(integer(inputs * 128), trained)
    assert float((trained - before).detach().abs().max()) < 0.1 * float(before.detach().abs().max())


def test_second_generation_needs_data_and_the_first_takes_none() -> None:
    model, *_ = recorded()
    with pytest.raises(ValueError, match="batches"):
        switch_to_qat(model, QatPolicy(start_epoch=0, scheme=Scheme.V2))


@given(st.integers(0, 2**31), st.floats(-3, 3), st.floats(0.01, 5), st.integers(1, 4))
def test_merged_histograms_keep_counts_and_distribution(seed: int, shift: float, scale: float, parts: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(1000, generator=generator) * scale + shift * k for k in range(parts)]
    merged = histogram_of(values[0])
    for part in values[1:]:
        merged = merge_histograms(merged, histogram_of(part))
    everything = torch.cat(values)
    assert len(merged.counts) == NUM_BINS
    assert merged.counts.sum() == pytest.approx(len(everything))
    assert (merged.low, merged.high) == (float(everything.min()), float(everything.max()))
    median = merged.edges[np.searchsorted(np.cumsum(merged.counts), len(everything) / 2) + 1]
    assert float((everything <= median).float().mean()) == pytest.approx(0.5, abs=0.05)


def test_outliers_are_left_out() -> None:
    values = torch.cat([torch.linspace(-1, 1, 100_000), torch.tensor([500.0])])
    assert choose_threshold(histogram_of(values), ThresholdMethod.MAX, z_score=1e9) == 9
    kept = without_outliers(histogram_of(values), 8.0)
    assert kept.counts.sum() == 100_000
    assert choose_threshold(histogram_of(values), ThresholdMethod.MAX) <= 1  # the bins are a quarter wide


@pytest.mark.parametrize("method", list(ThresholdMethod))
@pytest.mark.parametrize("exponent", [-4, 0, 3])
def test_ranges_of_full_uniform_data_hold_everything(method: ThresholdMethod, exponent: int) -> None:
    assert choose_threshold(histogram_of(torch.linspace(-1, 0.999, 50_000) * 2.0**exponent), method) == exponent


@pytest.mark.parametrize("method", [ThresholdMethod.MSE, ThresholdMethod.KL])
def test_long_tails_are_cut(method: ThresholdMethod) -> None:
    torch.manual_seed(0)
    values = torch.distributions.Laplace(0.0, 0.05).sample((400_000,))
    values[:3] = 3.9
    found = choose_threshold(histogram_of(values), method, z_score=1e9)
    assert found < choose_threshold(histogram_of(values), ThresholdMethod.MAX, z_score=1e9) == 2
    assert found >= -2


def test_least_squares_takes_the_best_of_five() -> None:
    torch.manual_seed(1)
    values = torch.randn(20_000).abs() * 0.3
    values[0] = 60.0
    found = choose_threshold(histogram_of(values), ThresholdMethod.MSE, z_score=1e9)
    errors = {}
    for exponent in range(6, 1, -1):
        step = 2.0**exponent / 128
        errors[exponent] = float((((values / step).round().clamp(-128, 127) * step - values) ** 2).sum())
    assert found == min(errors, key=lambda e: errors[e])


def test_constant_output_has_the_smallest_range() -> None:
    assert choose_threshold(histogram_of(torch.zeros(10))) <= -16
    assert choose_threshold(Histogram(low=0.0, high=1.0, counts=np.eye(1, 4)[0])) == -2


class Branches(nn.Module):
    """Two convolutions concatenated, pooled, combined with the input."""

    def __init__(self, combine: nn.Module) -> None:
        super().__init__()
        self.a = modules.Conv2d(4, 2, 1)
        self.b = modules.Conv2d(4, 2, 1)
        self.pool = modules.MaxPool2d(1)
        self.c = modules.Conv2d(4, 4, 1)
        self.combine = combine
        self.d = modules.Conv2d(4, 4, 1)

    def forward(self, data: Tensor) -> Tensor:
        joined = self.pool(torch.cat([self.a(data), self.b(data)], dim=1))
        return self.d(self.combine(self.c(joined), joined))


MEASURED = {"a": 1, "b": 3, "pool": 2, "c": 5, "combine": 4, "d": -2}


def plan_of(combine: nn.Module) -> dict[str, tuple[int, int]]:
    trace = trace_model(Branches(combine), torch.zeros(1, 4, 3, 3))
    return {name: (p.source, p.own) for name, p in plan_thresholds(trace, MEASURED).items()}


def test_tensors_that_meet_share_a_range() -> None:
    assert plan_of(modules.Add()) == {"a": (0, 4), "b": (0, 4), "pool": (4, 4), "c": (4, 4), "combine": (4, 4),
                                      "d": (4, -2)}


def test_bitwise_operators_keep_the_range_of_the_chip() -> None:
    assert plan_of(modules.BitwiseXor()) == {"a": (0, 0), "b": (0, 0), "pool": (0, 0), "c": (0, 0),
                                             "combine": (0, 0), "d": (0, -2)}


def test_outputs_that_are_read_again_keep_the_range_of_the_chip() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = modules.Conv2d(1, 1, 1), modules.Conv2d(1, 1, 1)

        def forward(self, data: Tensor) -> tuple[Tensor, Tensor]:
            first = self.a(data)
            return first, self.b(first)

    plan = plan_thresholds(trace_model(Heads(), torch.zeros(1, 1, 2, 2)), {"a": 3, "b": 2})
    assert (plan["a"].own, plan["a"].final_scale) == (0, 0)
    assert (plan["b"].own, plan["b"].final_scale) == (2, 2)


def test_ranges_are_read_back_from_the_entries() -> None:
    model, _, inputs = recorded()
    plan = calibrate_activations(model, inputs.split(16))
    assert output_ranges(model, trace_model(model, inputs[:1])) == {name: p.own for name, p in plan.items()}


def test_histograms_cover_every_layer_and_batch() -> None:
    model, _, inputs = recorded()
    found = collect_histograms(model, inputs.split(16))
    assert list(found) == ["conv1", "conv2", "conv3", "add", "fc"]
    assert found["conv1"].counts.sum() == pytest.approx(64 * 8 * 8 * 8)
    assert model.training


def test_no_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="no batch"):
        calibrate_activations(SecondGeneration(), [])
    with pytest.raises(ValueError, match="no batch"):
        collect_histograms(SecondGeneration(), [])


def test_inputs_of_a_layer_that_runs_twice_have_one_range() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = modules.FusedConv2dReLU(1, 4, 1)
            self.shared = modules.FusedConv2dReLU(4, 4, 1)
            self.last = modules.Conv2d(4, 2, 1)

        def forward(self, data: Tensor) -> Tensor:
            result: Tensor = self.last(self.shared(self.shared(self.first(data))))
            return result

    model = Twice()
    use_scheme(model, Scheme.V2)
    plan = plan_thresholds(trace_model(model, torch.zeros(1, 1, 4, 4)), {"first": 1, "shared": 3, "last": 2})
    assert plan["first"].own == plan["shared"].own == plan["shared"].source == 3
    assert plan["shared"].activation_threshold == 0
