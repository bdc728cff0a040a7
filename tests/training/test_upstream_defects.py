"""The defects of ai8x-training that must not come back, one test each, in the order of the specification's list.

Source: spec/ai8x-training.md section 18.
"""

import json

import numpy as np
import pytest
import torch
from torch import nn

from ai8x import arithmetic
from ai8x.cli.quantize import CLIP_METHODS
from ai8x.cli.quantize import main as quantize
from ai8x.cli.train import main as train
from ai8x.errors import UserError
from ai8x.nn import functional as AF
from ai8x.nn import modules as layers
from ai8x.nn.arguments import Scheme
from ai8x.nn.base import Mode, OutputScale, quantized_layers, set_output_scale, update_model
from ai8x.nn.fold import fold_batchnorm
from ai8x.nn.loading import load_state
from ai8x.nn.qat import (
    LayerOverride,
    QatPolicy,
    check_policy,
    named_parameters,
    prepare_training,
    switch_to_qat,
    update_optimizer,
)
from ai8x.quantization import QuantizationOptions, clip_method, quantize_layers, quantize_state
from ai8x.training.session import start_training


def with_statistics(model):
    """BatchNorm that has seen data."""
    generator = torch.Generator().manual_seed(0)
    for layer in quantized_layers(model).values():
        if layer.bn is not None:
            layer.bn.running_mean.normal_(0, 0.2, generator=generator)
            layer.bn.running_var.uniform_(0.05, 0.5, generator=generator)
    return model.eval()


def grid(*shape):
    """Inputs on the grid of 1/128."""
    return torch.randint(-128, 128, shape, generator=torch.Generator().manual_seed(1)).float() / 128


def integers_of(model):
    """A state in integers, loaded into the model itself."""
    load_state(model, quantize_state(model.state_dict()))
    return model.eval()


def test_defect_01_layers_in_containers_are_folded_and_refreshed():
    model = nn.Sequential(layers.FusedConv2dBNReLU(1, 4, 3, bias=True),
                          nn.ModuleList([layers.FusedConv2dBN(4, 4, 1, bias=True)]))
    assert switch_to_qat(model, QatPolicy(start_epoch=0, weight_bits=4)) == ("0", "1.0")
    for layer in quantized_layers(model).values():
        layer.weight_bits.fill_(2)
    update_model(model)
    assert "2 bits" in repr(model[0]) and "2 bits" in repr(model[1][0])


@pytest.mark.parametrize("outputs", [3, 5])
def test_defect_02_transposed_convolutions_are_folded_along_their_outputs(outputs):
    layer = with_statistics(layers.FusedConvTranspose2dBNReLU(3, outputs, 3, stride=2, padding=1, bias=True))
    data = grid(2, 3, 4, 4)
    expected = layer(data)
    assert fold_batchnorm(layer) == ("",)
    assert torch.allclose(layer(data), expected, atol=1e-6)


@pytest.mark.parametrize("method", CLIP_METHODS)
def test_defect_03_clip_methods_take_biases_and_use_the_range(method):
    torch.manual_seed(0)
    model = nn.Sequential(layers.Conv2d(4, 8, 3, bias=True))
    options = QuantizationOptions(clip_method=clip_method(method), scale=0.2)
    state, (report,) = quantize_layers(model.state_dict(), options)
    assert float(state["0.op.weight"].abs().max()) > 50  # of 127; the defect used 5
    assert float(state["0.output_shift"]) == report.output_shift < 0


def test_defect_04_evaluation_ends_with_success(toy, toy_arguments, capsys):
    result = start_training(toy)
    assert train([*toy_arguments, "--evaluate", result["checkpoints"]["best"]]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["status"] == "evaluated"


@pytest.mark.parametrize(("layer", "operator"), [(layers.BitwiseXor, np.bitwise_xor),
                                                 (layers.BitwiseOr, np.bitwise_or)])
def test_defect_05_bitwise_operators_work_on_int8_in_every_mode(layer, operator):
    one, other = (np.random.default_rng(seed).integers(-128, 128, (1, 3, 5, 5)).astype(np.int8) for seed in (1, 2))
    expected = operator(one, other)
    for mode, steps in ((Mode.FLOAT, 128), (Mode.QAT, 128), (Mode.INTEGER, 1)):
        module = layer()
        module.set_mode(mode)
        found = module(torch.from_numpy(one).float() / steps, torch.from_numpy(other).float() / steps) * steps
        assert np.array_equal(found.numpy(), expected)


@pytest.mark.parametrize("name", ["FusedMaxPoolConv1dBNAbs", "FusedAvgPoolConv1dBNAbs"])
def test_defect_06_absolute_value_is_taken(name):
    layer = getattr(layers, name)(2, 4, 3, bias=True).eval()
    outputs = layer(grid(3, 2, 16))
    assert float(outputs.detach().min()) >= 0 and float(outputs.detach().max()) > 0


@pytest.mark.parametrize("rounded", [False, True])
def test_defect_07_averages_round_alike_in_training_and_in_the_reference(rounded):
    sums = np.arange(-512, 509)
    expected = arithmetic.average(sums, 4, rounded=rounded)
    means = torch.from_numpy(sums).double() / 4
    assert np.array_equal(AF.round_average(means, rounded=rounded).numpy(), expected)
    trained = AF.quantize_average(means / 128, rounded=rounded) * 128
    assert np.array_equal(trained.numpy(), expected)


@pytest.mark.parametrize("quantile", [0.9, 0.985, 0.999])
def test_defect_08_training_and_quantiser_take_one_quantile(quantile):
    for seed in range(20):
        torch.manual_seed(seed)
        model = nn.Sequential(layers.Conv2d(2, 5, 3, bias=True))
        switch_to_qat(model, QatPolicy(start_epoch=0, weight_bits=4, shift_quantile=quantile))
        assert float(quantize_state(model.state_dict())["0.output_shift"]) == int(model[0].current_shift())


def test_defect_09_mistakes_are_not_passed_over(toy, capsys):
    model = nn.Sequential(layers.Conv2d(1, 1, 1))
    with pytest.raises(UserError) as caught:
        check_policy(model, QatPolicy(start_epoch=1, overrides={"conv7": LayerOverride(weight_bits=4)}))
    assert caught.value.diagnostics[0].code == "E0657"
    result = start_training({**toy, "epochs": 1, "qat_start": 0})
    assert set(result["checkpoints"]) == {"qat_best", "qat_checkpoint"}
    assert train(["-8", "--evaluate", result["checkpoints"]["qat_best"]]) == 2
    assert "error[E0520]" in capsys.readouterr().err


def test_defect_10_batchnorm_is_folded_not_quantised():
    model = with_statistics(nn.Sequential(layers.FusedConv2dBNReLU(2, 4, 3, bias=True)))
    state = quantize_state(model.state_dict())
    assert not any(".bn." in key for key in state)
    fold_batchnorm(model)
    folded = quantize_state(model.state_dict())
    assert torch.equal(state["0.op.weight"], folded["0.op.weight"])
    assert torch.equal(state["0.output_shift"], folded["0.output_shift"])


def test_defect_11_width_of_the_option_is_stored(toy, tmp_path):
    result = start_training({**toy, "epochs": 1, "qat_policy": "None", "qat_start": None})
    out = tmp_path / "q.pth.tar"
    assert quantize([result["checkpoints"]["best"], str(out), "--qat-weight-bits", "4"]) == 0
    state = torch.load(out, weights_only=True)["state_dict"]
    assert all(int(value) == 4 for key, value in state.items() if key.endswith("weight_bits"))
    assert float(state["fc.op.weight"].abs().max()) <= 8


def test_defect_12_folding_uses_the_eps_of_the_layer():
    layer = layers.FusedConv2dBN(1, 2, 1, bias=True).eval()
    layer.bn.running_var.fill_(1e-4)
    weight = layer.op.weight.detach().clone()
    fold_batchnorm(layer)
    assert torch.allclose(layer.op.weight, weight * 0.25 / (1e-4 + 1e-5) ** 0.5, rtol=1e-5)


def test_defect_13_transposed_operation_of_conv2d_runs():
    layer = layers.Conv2d(2, 3, 3, op="ConvTranspose2d", stride=2, padding=1)
    assert layer(grid(1, 2, 4, 4)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize(("layer", "arguments"), [
    (layers.Conv2d, {"kernel_size": 3, "stride": 2}), (layers.Conv2d, {"kernel_size": 3, "stride": 3}),
    (layers.ConvTranspose2d, {"kernel_size": 1, "stride": 2})])
def test_defect_14_what_no_chip_runs_is_refused(layer, arguments):
    with pytest.raises(UserError) as caught:
        layer(2, 2, device="MAX78000", **arguments)
    assert caught.value.diagnostics[0].code in ("E0377", "E0378")


def test_defect_15_dilation_of_the_max78002_is_trained():
    layer = layers.Conv2d(1, 1, 3, dilation=16, padding=0, device="MAX78002")
    assert layer(grid(1, 1, 40, 40)).shape == (1, 1, 8, 8)


def test_defect_16_logits_keep_their_scale_in_every_mode():
    torch.manual_seed(0)
    model = nn.Sequential(layers.Linear(16, 4, bias=True, wide=True))
    with torch.no_grad():
        model[0].op.weight.mul_(0.25)  # a shift below 0
    set_output_scale(model, OutputScale.REAL)
    data = grid(8, 16)
    floating = model(data)
    switch_to_qat(model, QatPolicy(start_epoch=0))
    assert int(model[0].current_shift()) < 0
    trained = model(data)
    assert torch.allclose(trained, floating, atol=0.02)
    assert torch.equal(integers_of(model)(data * 128).float(), trained)


def test_defect_17_state_of_the_optimizer_follows_the_names():
    model = nn.Sequential(layers.Conv2d(2, 2, 3), layers.Conv2d(2, 2, 3))
    optimizer = torch.optim.Adam(model.parameters())
    model(grid(1, 2, 8, 8)).sum().backward()
    optimizer.step()
    moments = {name: optimizer.state[p]["exp_avg"].clone() for name, p in model.named_parameters() if p.requires_grad}
    before = named_parameters(model)
    model[0].op.weight, model[1].op.weight = (nn.Parameter(model[i].op.weight.detach().clone()) for i in (0, 1))
    optimizer.param_groups[0]["params"].reverse()  # equal shapes in another order
    update_optimizer(optimizer, before, model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert torch.equal(optimizer.state[parameter]["exp_avg"], moments[name])


class Branching(nn.Module):
    """Its way depends on its data."""

    def __init__(self):
        super().__init__()
        self.conv = layers.FusedConv2dReLU(1, 2, 3, padding=1)
        self.fc = layers.Linear(2 * 16, 3, bias=True, wide=True)

    def forward(self, data):
        if float(data.mean()) > 100:
            data = data * 2
        return self.fc(self.conv(data).flatten(1))


def test_defect_18_second_scheme_needs_no_symbolic_trace():
    model, policy = Branching(), QatPolicy(start_epoch=0, scheme=Scheme.V2)
    prepare_training(model, policy)
    switch_to_qat(model, policy, [grid(4, 1, 4, 4)])
    data = grid(4, 1, 4, 4)
    set_output_scale(model, OutputScale.REAL)
    trained = model.eval()(data)
    assert torch.equal(integers_of(model)(data * 128).float(), trained)


@pytest.mark.parametrize("kind", ["best", "qat_best"])
def test_defect_19_evaluation_needs_no_policy(toy, capsys, kind):
    result = start_training(toy)
    phase = "qat" if kind == "qat_best" else "float"
    assert train(["--evaluate", result["checkpoints"][kind], "--qat-policy", "None"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["top1"] == result["accuracy"][phase]["test"]


def test_defect_20_absolute_value_follows_rounding_in_every_mode():
    values = torch.tensor([-1.5, -0.5, 0.5, 1.5, -128.0, -200.0])
    device = [1.0, 0.0, 1.0, 2.0, 127.0, 127.0]
    assert AF.round_to_int8(values, AF.ActivationKind.ABS).tolist() == device
    assert (AF.quantize_activation(values / 128, AF.ActivationKind.ABS) * 128).tolist() == device
