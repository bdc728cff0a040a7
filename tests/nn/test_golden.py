"""Every recorded layer of the vendor's training code, in all three modes and through the quantiser."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ai8x.nn import modules
from ai8x.nn.base import Mode, OutputScale, QuantizationAwareModule, set_integer_mode, set_output_scale
from ai8x.nn.fold import fold_batchnorm
from ai8x.nn.loading import load_state
from ai8x.quantization import quantize_state
from tests.nn.golden import FOLDER, HALVES_AWAY_FROM_ZERO, NAMES, Case, load_case

EXACT = [name for name in NAMES if name not in HALVES_AWAY_FROM_ZERO]
WEIGHTED = [name for name in NAMES if "q_weight" in load_case(name).arrays]


def qat_layer(case: Case, *, pooled: bool = True) -> nn.Module:
    layer = case.build(pooled=pooled)
    fold_batchnorm(layer)
    if isinstance(layer, QuantizationAwareModule):
        layer.set_quantization(weight_bits=case.record["weight_bits"], shift_quantile=case.record["shift_quantile"])
    return layer


def integer_layer(case: Case, *, pooled: bool = True) -> nn.Module:
    """The layer after quantize and load, as a user gets it."""
    layer = qat_layer(case, pooled=pooled)
    if "weight" in case.arrays:
        model = nn.Sequential(layer)
        load_state(model, quantize_state(model.state_dict()))
    elif isinstance(layer, QuantizationAwareModule):
        layer.set_mode(Mode.INTEGER)
    else:
        set_integer_mode(layer)
    return layer


@pytest.mark.parametrize("name", NAMES)
def test_float_outputs_agree(name: str) -> None:
    case = load_case(name)
    outputs = case.build()(*(x / 128 for x in case.inputs))
    np.testing.assert_allclose(outputs.detach().numpy(), case.arrays["y_float"], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", EXACT)
def test_integer_outputs_are_equal(name: str) -> None:
    case = load_case(name)
    outputs = integer_layer(case)(*case.inputs)
    assert np.array_equal(outputs.detach().numpy(), case.y_int)


@pytest.mark.parametrize("name", EXACT)
def test_qat_outputs_are_equal(name: str) -> None:
    case = load_case(name)
    outputs = qat_layer(case)(*(x / 128 for x in case.inputs)).detach().numpy()
    expected = case.arrays["y_qat"] if "y_int_generator" not in case.arrays else case.y_int / np.float32(128)
    assert np.array_equal(outputs, expected)


@pytest.mark.parametrize("name", NAMES)
def test_qat_outputs_times_scale_are_the_integer_outputs(name: str) -> None:
    case = load_case(name)
    trained = qat_layer(case)(*(x / 128 for x in case.inputs))
    assert torch.equal(trained * case.record["qat_to_int_scale"], integer_layer(case)(*case.inputs))


@pytest.mark.parametrize("name", WEIGHTED)
def test_quantiser_stores_the_same_integers_and_shift(name: str) -> None:
    case = load_case(name)
    layer = qat_layer(case)
    state = quantize_state(nn.Sequential(layer).state_dict())
    assert np.array_equal(state["0.op.weight"].numpy(), case.arrays["q_weight"])
    if "q_bias_ckpt" in case.arrays:
        assert np.array_equal(state["0.op.bias"].numpy(), case.arrays["q_bias_ckpt"])
    assert float(state["0.output_shift"]) == float(case.arrays["q_output_shift"].item())
    assert int(layer.current_shift()) == int(case.arrays["train_shift"])


@pytest.mark.parametrize("name", [n for n in NAMES if "fused_weight" in load_case(n).arrays])
def test_folding_gives_the_recorded_parameters(name: str) -> None:
    case = load_case(name)
    layer = case.build()
    fold_batchnorm(layer)
    np.testing.assert_allclose(layer.op.weight.detach().numpy(), case.arrays["fused_weight"], rtol=3e-7)
    np.testing.assert_allclose(layer.op.bias.detach().numpy(), case.arrays["fused_bias"], rtol=3e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["avgpool2d_2_round", "avgpool2d_3s1_round"])
def test_rounded_averages_differ_from_the_recording_at_halves_only(name: str) -> None:
    case = load_case(name)
    ours = integer_layer(case)(*case.inputs)
    size, stride = (2, 2) if name == "avgpool2d_2_round" else (3, 1)
    sums = nn.functional.avg_pool2d(case.inputs[0], size, stride, divisor_override=1)
    doubled = 2 * sums / size**2
    is_half = (doubled == doubled.round()) & (doubled % 2 == 1)
    recorded = torch.tensor(case.y_int).float()
    assert torch.equal(ours[~is_half], recorded[~is_half])
    away = torch.sign(sums) * torch.floor(sums.abs() / size**2 + 0.5)
    assert torch.equal(ours, away)


def test_layer_behind_rounded_average_is_equal_once_halves_go_to_even() -> None:
    case = load_case("avgpool2_conv2d_relu_round")
    to_even = nn.functional.avg_pool2d(case.inputs[0], 2, 2).round()
    assert np.array_equal(integer_layer(case, pooled=False)(to_even).detach().numpy(), case.y_int)


class SecondGeneration(nn.Module):
    """The recorded second-generation network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = modules.FusedConv2dReLU(3, 8, 3, padding=1, bias=True)
        self.conv2 = modules.FusedMaxPoolConv2dReLU(8, 8, 3, padding=1, bias=True)
        self.conv3 = modules.Conv2d(8, 8, 1, bias=True)
        self.add = modules.Add()
        self.fc = modules.Linear(128, 5, bias=True, wide=True)

    def forward(self, data: Tensor) -> Tensor:
        middle = self.conv2(self.conv1(data))
        return self.fc(self.add(middle, self.conv3(middle)).flatten(1))


def second_generation(part: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """State of one stage, inputs and recorded outputs."""
    outputs = {"qat": "y_qat", "quantized": "y_int"}[part]
    with np.load(FOLDER / "v2_net.npz") as arrays:
        state = {key.removeprefix(f"{part}."): torch.tensor(value) for key, value in arrays.items()
                 if key.startswith(f"{part}.")}
        return state, torch.tensor(arrays["x_int"][:16]).float(), torch.tensor(arrays[outputs])


def test_second_generation_qat_file_computes_the_recorded_outputs() -> None:
    state, inputs, expected = second_generation("qat")
    model = SecondGeneration()
    loaded = load_state(model, state)
    assert loaded.mode is Mode.QAT
    assert torch.equal(model(inputs / 128), expected)


def test_second_generation_quantised_file_computes_the_recorded_outputs() -> None:
    state, inputs, expected = second_generation("quantized")
    model = SecondGeneration()
    loaded = load_state(model, state)
    assert loaded.mode is Mode.INTEGER
    assert torch.equal(model(inputs), expected)


def test_second_generation_qat_file_is_quantised_to_the_recorded_integers() -> None:
    state, _, _ = second_generation("qat")
    expected, _, _ = second_generation("quantized")
    ours = quantize_state(state)
    shifts = json.loads((FOLDER / "v2_index.json").read_text())["output_shift_quantized"]
    for name in ("conv1", "conv2", "conv3", "fc"):
        assert torch.equal(ours[f"{name}.op.weight"], expected[f"{name}.op.weight"])
        assert torch.equal(ours[f"{name}.op.bias"], expected[f"{name}.op.bias"])
        assert float(ours[f"{name}.output_shift"]) == shifts[f"{name}.output_shift"]


def test_real_output_scale_gives_float_logits_in_every_mode() -> None:
    case = load_case("linear_wide_shift")
    trained, integer = qat_layer(case), integer_layer(case)
    for layer in (trained, integer):
        set_output_scale(layer, OutputScale.REAL)
    (inputs,) = case.inputs
    logits = trained(inputs / 128)
    assert torch.equal(logits, torch.tensor(case.arrays["y_qat"]) / 2)
    assert torch.equal(logits, integer(inputs))
    np.testing.assert_allclose(logits.detach().numpy(), case.arrays["y_float"], atol=0.05)
