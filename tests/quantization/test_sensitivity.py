"""Cost of fewer bits, and the best widths under a budget."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ai8x.errors import UserError
from ai8x.quantization import ClipMethod, QuantizationOptions
from ai8x.quantization.sensitivity import LayerSensitivity, choose_widths, format_sensitivity, measure_sensitivity

WIDTHS = (1, 2, 4, 8)

layers_of_any_size = st.lists(st.builds(
    lambda weights, errors: (weights, tuple(errors)), st.integers(1, 300),
    st.lists(st.floats(0, 10), min_size=4, max_size=4)), min_size=1, max_size=5)


@settings(max_examples=200)
@given(layers_of_any_size, st.integers(0, 1500))
def test_choice_is_the_best_of_all_combinations(drawn, budget: int) -> None:
    layers = [LayerSensitivity(name=f"l{i}", weights=weights, errors=dict(zip(WIDTHS, errors, strict=True)))
              for i, (weights, errors) in enumerate(drawn)]
    best = None
    for widths in itertools.product(WIDTHS, repeat=len(layers)):
        if sum(layer.size_bytes(bits) for layer, bits in zip(layers, widths, strict=True)) <= budget:
            error = sum(layer.errors[bits] for layer, bits in zip(layers, widths, strict=True))
            best = error if best is None else min(best, error)
    if best is None:
        with pytest.raises(UserError) as caught:
            choose_widths(layers, budget)
        assert caught.value.diagnostics[0].code == "E0563"
        return
    chosen = choose_widths(layers, budget)
    assert list(chosen) == [layer.name for layer in layers]
    assert sum(layer.size_bytes(chosen[layer.name]) for layer in layers) <= budget
    assert sum(layer.errors[chosen[layer.name]] for layer in layers) == pytest.approx(best, abs=1e-12)


def test_large_networks_are_chosen_quickly() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [LayerSensitivity(name=f"l{i}", weights=3000 + 37 * i, errors=dict(zip(
        WIDTHS, sorted(torch.rand(4, generator=generator).tolist(), reverse=True), strict=True))) for i in range(64)]
    chosen = choose_widths(layers, 130_000)
    assert 120_000 < sum(layer.size_bytes(chosen[layer.name]) for layer in layers) <= 130_000


def test_fewer_bits_cost_more_and_the_model_is_left_as_it_was(trained, task_of) -> None:
    checkpoint = trained()
    task = task_of(checkpoint)
    model = task.float_model(checkpoint)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = measure_sensitivity(model, task.training_batches(32))
    assert [layer.name for layer in found] == ["conv1", "conv2", "skip", "fc"]
    assert [layer.weights for layer in found] == [144, 576, 64, 384]
    for layer in found:
        assert layer.errors[8] < layer.errors[4] < layer.errors[2]
        assert 0 < layer.errors[8] < 1e-2
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_limits_of_the_chosen_method_count(trained, task_of) -> None:
    checkpoint = trained()
    task = task_of(checkpoint)
    model = task.float_model(checkpoint)
    coarse = QuantizationOptions(clip_method=ClipMethod.SCALE, scale=16.0)
    usual, changed = (measure_sensitivity(model, task.training_batches(16), o) for o in (None, coarse))
    assert all(b.errors[4] > a.errors[4] for a, b in zip(usual, changed, strict=True))


def test_table_marks_the_choice() -> None:
    layers = [LayerSensitivity(name="conv", weights=8, errors=dict.fromkeys(WIDTHS, 0.5))]
    text = format_sensitivity(layers, {"conv": 4})
    assert text.count("*") == 2 and "4 bytes" in text and "1 bit " in text
    assert "*" not in format_sensitivity(layers)
