"""Modes, their agreement with the stored parameters, and exact integer evaluation."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import ai8x
from ai8x.errors import UserError
from ai8x.nn import modules
from ai8x.nn.base import Mode, OutputScale, model_mode, set_integer_mode, set_mode, set_output_scale, update_model
from ai8x.nn.qat import QatPolicy, switch_to_qat
from ai8x.quantization import quantize_state


def trained(bits: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(modules.FusedConv2dReLU(2, 4, 3, padding=1), modules.MaxPool2d(2),
                          modules.FusedAvgPoolConv2d(4, 4, 1), nn.Flatten(),
                          modules.Linear(16, 3, bias=True, wide=True))
    switch_to_qat(model, QatPolicy(start_epoch=0, weight_bits=bits))
    return model.eval()


def data() -> torch.Tensor:
    return torch.randint(-128, 128, (5, 2, 8, 8), generator=torch.Generator().manual_seed(1)).float()


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_integer_evaluation_equals_training_numerics_over_a_network(bits: int) -> None:
    model = trained(bits)
    expected = model(data() / 128)
    ai8x.load_state(model, quantize_state(model.state_dict()))
    assert torch.equal(model(data()) / 2 ** (bits - 1 + 7), expected)


def test_integer_evaluation_accepts_integer_tensors() -> None:
    model = trained()
    ai8x.load_state(model, quantize_state(model.state_dict()))
    assert torch.equal(model(data().to(torch.int8)), model(data()))


def test_unquantised_parameters_are_refused_in_integer_mode() -> None:
    with pytest.raises(UserError) as caught:
        set_integer_mode(trained())
    assert {d.code for d in caught.value.diagnostics} == {"E0520"}
    assert [d.layer for d in caught.value.diagnostics] == ["0", "2", "4"]


def test_quantised_parameters_loaded_directly_are_refused_until_the_mode_is_set() -> None:
    model = trained()
    expected = model(data() / 128)
    model.load_state_dict(quantize_state(model.state_dict()))
    with pytest.raises(UserError) as caught:
        model(data())
    assert caught.value.diagnostics[0].code == "E0520"
    set_integer_mode(model)
    assert torch.equal(model(data()) / 2**14, expected)


def test_migrating_script_with_simulate_evaluates_integers() -> None:
    source = trained()
    expected = source(data() / 128)
    ai8x.set_device(85, True, False)
    try:
        arguments = {"weight_bits": 8, "bias_bits": 8, "quantize_activation": True}
        model = nn.Sequential(
            modules.FusedConv2dReLU(2, 4, 3, padding=1, **arguments), modules.MaxPool2d(2, **arguments),
            modules.FusedAvgPoolConv2d(4, 4, 1, **arguments), nn.Flatten(),
            modules.Linear(16, 3, bias=True, wide=True, **arguments)).eval()
    finally:
        ai8x.reset_device()
    model.load_state_dict(quantize_state(source.state_dict()))
    update_model(model)
    assert model_mode(model) is Mode.INTEGER
    assert torch.equal(model(data()) / 2**14, expected)


def test_loading_decides_between_float_and_qat() -> None:
    model = trained()
    fresh = nn.Sequential(modules.FusedConv2dReLU(2, 4, 3, padding=1), modules.MaxPool2d(2),
                          modules.FusedAvgPoolConv2d(4, 4, 1), nn.Flatten(),
                          modules.Linear(16, 3, bias=True, wide=True)).eval()
    fresh.load_state_dict(model.state_dict())
    assert model_mode(fresh) is Mode.QAT
    assert torch.equal(fresh(data() / 128), model(data() / 128))


def test_wide_outputs_keep_their_scale_over_the_switch_when_asked() -> None:
    torch.manual_seed(0)
    layer = modules.Linear(16, 3, bias=True, wide=True)
    inputs = torch.randint(-128, 128, (4, 16)) / 128
    before = layer(inputs)
    set_output_scale(layer, OutputScale.REAL)
    switch_to_qat(layer, QatPolicy(start_epoch=0))
    after = layer(inputs)
    assert int(layer.current_shift()) == -2
    torch.testing.assert_close(after, before, atol=0.02, rtol=0)
    after.sum().backward()
    assert layer.op.bias.grad.tolist() == [4, 4, 4]


@pytest.mark.parametrize("channels", [64, 256, 1024])
def test_integer_convolution_is_exact_for_extreme_values_and_any_width(channels: int) -> None:
    generator = np.random.default_rng(channels)
    weight = generator.integers(100, 128, (4, channels, 3, 3))
    inputs = generator.integers(100, 128, (2, channels, 5, 5))
    layer = modules.Conv2d(channels, 4, 3, bias=True, wide=True)
    with torch.no_grad():
        layer.op.weight.copy_(torch.tensor(weight))
        layer.op.bias.copy_(torch.tensor([128.0, -256.0, 0.0, 16256.0]))
        layer.quantize_activation.fill_(True)
    set_mode(layer, Mode.INTEGER)
    expected = np.zeros((2, 4, 3, 3), dtype=np.int64)
    for row in range(3):
        for column in range(3):
            window = inputs[:, :, row:row + 3, column:column + 3]
            expected += np.einsum("nchw,oc->nohw", window, weight[:, :, row, column])
    expected += np.array([128, -256, 0, 16256])[None, :, None, None]
    assert np.array_equal(layer(torch.tensor(inputs)).numpy(), expected)
    with torch.no_grad():
        layer.output_shift.fill_(-12)
    layer.wide = False
    eight_bits = np.clip((expected + (1 << 18)) >> 19, -128, 127)
    assert np.array_equal(layer(torch.tensor(inputs)).numpy(), eight_bits)


def test_wide_outputs_saturate_at_thirty_bits() -> None:
    layer = modules.Linear(2, 1, wide=True)
    with torch.no_grad():
        layer.op.weight.fill_(2**22)
        layer.quantize_activation.fill_(True)
    set_mode(layer, Mode.INTEGER)
    assert layer(torch.full((1, 2), 127.0)).item() == 2**29 - 1


def test_copies_are_independent() -> None:
    model = trained()
    twin = copy.deepcopy(model)
    ai8x.load_state(twin, quantize_state(twin.state_dict()))
    assert (model_mode(model), model_mode(twin)) == (Mode.QAT, Mode.INTEGER)


def test_unfolded_batchnorm_in_qat_divides_by_four_before_the_shift() -> None:
    torch.manual_seed(0)
    layer = modules.FusedConv2dBNReLU(2, 3, 1, weight_bits=8, bias_bits=8, quantize_activation=True).eval()
    inputs = torch.randint(-128, 128, (2, 2, 4, 4)) / 128
    shift = 2.0 ** int(layer.current_shift())
    quantized = [((p / shift * 128 + 0.5).floor() / 128).clamp(-1, 127 / 128) for p in (layer.op.weight, layer.op.bias)]
    sums = layer.bn(nn.functional.conv2d(inputs, *quantized)) / 4 * shift
    expected = ((sums.relu() * 128 + 0.5).floor() / 128).clamp(-1, 127 / 128)
    assert torch.equal(layer(inputs), expected)


def test_printed_model_names_mode_and_width() -> None:
    text = repr(trained(4))
    assert "qat, 4 bits" in text and "ReLU" in text and "wide" in text
