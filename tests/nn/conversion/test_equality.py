"""Converted models compute in float mode what the originals compute, in the layers that the chip has."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ai8x
from ai8x.nn.base import Mode, model_mode, quantized_layers
from tests.nn.conversion.plain_models import PLAIN, with_statistics

TOLERANCE = 1e-5


def sample(shape: tuple[int, ...], seed: int = 2) -> Tensor:
    return torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def convert_and_compare(model: nn.Module, shape: tuple[int, ...]) -> ai8x.ConvertedModel:
    """The conversion, after holding its outputs against those of the original."""
    model.eval()
    converted = ai8x.convert(model, sample(shape, seed=1)[:1])
    data = sample(shape)
    with torch.no_grad():
        expected, found = model(data), converted(data)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE * max(1.0, float(expected.abs().max())))
    return converted


def classes(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.children()]


class Function(nn.Module):
    """A model whose forward is a function of its layers."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


@pytest.mark.parametrize("name", [name for name, plain in PLAIN.items() if not plain.replaces])
def test_plain_models_of_common_shape_convert_exactly(name: str) -> None:
    torch.manual_seed(0)
    plain = PLAIN[name]
    model = with_statistics(plain.make(), plain.shape)
    converted = ai8x.convert(model, sample(plain.shape)[:1])
    data = sample(plain.shape)
    with torch.no_grad():
        expected, found = model(data), converted(data)
    # What comes behind the last layer is left to the CPU.
    host = {"keywords": lambda x: F.log_softmax(x, 1), "autoencoder": torch.sigmoid}.get(name, lambda x: x)
    torch.testing.assert_close(host(found), expected, rtol=TOLERANCE, atol=TOLERANCE)
    assert converted.report.is_exact == (name not in ("keywords", "autoencoder", "mobilenet"))
    assert not converted.report.replaced
    assert model_mode(converted) is Mode.FLOAT


def test_lenet_is_refused_with_both_kernels_and_converts_with_replacements() -> None:
    torch.manual_seed(0)
    model = PLAIN["lenet"].make()
    example = torch.zeros(1, 1, 28, 28)
    with pytest.raises(ai8x.UserError) as refused:
        ai8x.convert(model, example)
    assert [(d.code, d.layer) for d in refused.value.diagnostics] == [("E0764", "conv1"), ("E0764", "conv2")]
    assert all("two 3x3 convolutions" in d.help for d in refused.value.diagnostics)
    converted = ai8x.convert(model, example, replace_unsupported=True)
    assert [notice.layer for notice in converted.report.replaced] == ["conv1", "conv2"]
    assert classes(converted) == ["FusedConv2dReLU", "FusedConv2dReLU", "FusedMaxPoolConv2dReLU", "FusedConv2dReLU",
                                  "MaxPool2d", "FusedLinearReLU", "FusedLinearReLU", "Linear"]
    assert converted(example).shape == (1, 10)


CONV = "FusedConv2dReLU"
CASES: dict[str, tuple[nn.Module, tuple[int, ...], list[str]]] = {
    "conv, BatchNorm, ReLU, pool, conv": (
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
                      nn.Conv2d(4, 3, 3)), (2, 8, 8), ["FusedConv2dBNReLU", "FusedMaxPoolConv2d"]),
    "pooling before ReLU": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 3, 1)), (2, 8, 8),
        [CONV, "FusedMaxPoolConv2d"]),
    "average pooling before ReLU": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.AvgPool2d(2), nn.ReLU(), nn.Conv2d(4, 3, 1)), (2, 8, 8),
        ["Conv2d", "FusedAvgPoolDepthwiseConv2dReLU", "Conv2d"]),
    "pooling at the end": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(3, 2)), (2, 9, 9),
                           [CONV, "AvgPool2d"]),
    "two poolings in a row": (nn.Sequential(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Conv2d(2, 4, 1)), (2, 8, 8),
                              ["MaxPool2d", "FusedAvgPoolConv2d"]),
    "3x3 with stride 2": (nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3)),
                          (2, 9, 9), [CONV, "FusedMaxPoolConv2d"]),
    "1x1 with stride 2": (nn.Conv2d(2, 4, 1, stride=2), (2, 9, 9), ["FusedMaxPoolConv2d"]),
    "2x2 with stride 2": (nn.Conv2d(2, 4, 2, stride=2), (2, 8, 8), ["Conv2d", "MaxPool2d"]),
    "2x2 before pooling that drops the last row": (nn.Sequential(nn.Conv2d(2, 4, 2), nn.MaxPool2d(2)), (2, 9, 9),
                                                   ["Conv2d", "MaxPool2d"]),
    "3x1 and 1x3": (nn.Sequential(nn.Conv2d(2, 4, (3, 1), padding=(1, 0)), nn.Conv2d(4, 4, (1, 3), padding=(0, 1))),
                    (2, 8, 8), ["Conv2d", "Conv2d"]),
    "1x1 with padding": (nn.Conv2d(2, 4, 1, padding=1), (2, 8, 8), ["Conv2d"]),
    "3x3 with padding 3": (nn.Conv2d(2, 4, 3, padding=3), (2, 8, 8), ["DepthwiseConv2d", "Conv2d"]),
    "zeros in front become padding": (nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(2, 4, 3)), (2, 8, 8), ["Conv2d"]),
    "average of a 1x1 convolution": (
        nn.Sequential(nn.Conv2d(4, 6, 1), nn.AvgPool2d(2), nn.BatchNorm2d(6), nn.ReLU()), (4, 8, 8),
        ["FusedAvgPoolConv2dBNReLU"]),
    "global average of a 1x1 convolution at the end": (
        nn.Sequential(nn.Conv2d(4, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (4, 8, 8), ["AvgPool2d", "Linear"]),
    "1x1 convolution of one pixel at the end": (
        nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Conv2d(4, 6, 1)), (4, 8, 8), ["MaxPool2d", "Linear"]),
    "groups": (nn.Conv2d(4, 8, 3, groups=2), (4, 8, 8), ["Conv2d"]),
    "depthwise": (nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.BatchNorm2d(4), nn.ReLU()), (4, 8, 8),
                  ["FusedDepthwiseConv2dBNReLU"]),
    "maximum pooling with padding behind ReLU": (
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1)), (2, 9, 9),
        [CONV, "DepthwiseConv2d", "MaxPool2d"]),
    "average pooling with padding": (nn.AvgPool2d(3, 2, 1), (2, 9, 9), ["DepthwiseConv2d", "AvgPool2d"]),
    "ceil_mode that changes nothing": (nn.MaxPool2d(2, ceil_mode=True), (2, 8, 8), ["MaxPool2d"]),
    "window of 32": (nn.AvgPool2d(32), (2, 32, 32), ["AvgPool2d", "AvgPool2d"]),
    "subsampling to one element": (nn.MaxPool1d(1, 3), (2, 3), ["MaxPool1d"]),
    "window of one row": (nn.MaxPool2d((1, 8), stride=(1, 8)), (2, 4, 8), ["MaxPool2d"]),
    "adaptive pooling to 2x2": (nn.AdaptiveAvgPool2d(2), (2, 8, 8), ["AvgPool2d"]),
    "adaptive maximum": (nn.AdaptiveMaxPool2d(1), (2, 8, 8), ["MaxPool2d"]),
    "2x2 transposed": (nn.ConvTranspose2d(3, 4, 2, stride=2), (3, 5, 5), ["ConvTranspose2d"]),
    "grouped transposed": (nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), (4, 5, 5), ["ConvTranspose2d"]),
    "transposed with stride 1": (nn.ConvTranspose2d(3, 4, 3, padding=1), (3, 5, 5), ["Conv2d"]),
    "grouped transposed with stride 1": (nn.ConvTranspose2d(4, 6, 3, padding=1, groups=2), (4, 5, 5), ["Conv2d"]),
    "transposed, BatchNorm, ReLU": (
        nn.Sequential(nn.ConvTranspose2d(3, 4, 3, 2, 1, 1), nn.BatchNorm2d(4), nn.ReLU()), (3, 5, 5),
        ["FusedConvTranspose2dBNReLU"]),
    "upsampling": (nn.Upsample(scale_factor=2), (3, 5, 5), ["DepthwiseConvTranspose2d"]),
    "pixel shuffle": (nn.PixelShuffle(2), (8, 4, 4), ["ConvTranspose2d"]),
    "BatchNorm first": (nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3, padding=1)), (2, 8, 8),
                        ["FusedDepthwiseConv2dBN", "Conv2d"]),
    "BatchNorm without scale": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False)), (2, 8, 8),
                                ["FusedConv2dBN"]),
    "BatchNorm behind and before Linear": (
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(32), nn.Linear(32, 16), nn.BatchNorm1d(16), nn.ReLU(),
                      nn.Linear(16, 4)), (2, 4, 4), ["FusedLinearReLU", "Linear"]),
    "ReLU twice, dropout between": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout(), nn.ReLU(), nn.ReLU(), nn.Identity(), nn.MaxPool2d(2),
                      nn.Dropout2d(), nn.Conv2d(4, 2, 1)), (2, 8, 8),
        [CONV, "Dropout", "Dropout2d", "FusedMaxPoolConv2d"]),
    "1-D, kernel 9": (nn.Sequential(nn.Conv1d(3, 4, 9, padding=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(4, 4, 1)),
                      (3, 20), ["FusedConv1dReLU", "FusedMaxPoolConv1d"]),
    "1-D, dilation": (nn.Sequential(nn.Conv1d(3, 4, 3, padding=2, dilation=2), nn.ReLU(),
                                    nn.Conv1d(4, 4, 2, dilation=16)), (3, 40), ["FusedConv1dReLU", "Conv1d"]),
    "1-D, kernel 9 with padding 4": (nn.Conv1d(3, 4, 9, padding=4), (3, 20),
                                     ["DepthwiseConv1d", "DepthwiseConv1d", "Conv1d"]),
    "1-D, stride 3": (nn.Conv1d(3, 4, 5, stride=3, padding=2), (3, 20), ["Conv1d", "MaxPool1d"]),
    "1-D, causal": (nn.Sequential(nn.ConstantPad1d((2, 0), 0.0), nn.Conv1d(3, 4, 3)), (3, 20), ["Conv1d"]),
    "pooling of more than 64 channels": (
        nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(80 * 4, 4)), (80, 4, 4),
        ["FusedMaxPoolDepthwiseConv2d", "Linear"]),
}


@pytest.mark.parametrize("name", CASES)
def test_every_exact_form(name: str) -> None:
    torch.manual_seed(0)
    model, shape, expected = CASES[name]
    converted = convert_and_compare(with_statistics(model, shape), shape)
    kept = [c for c in classes(converted) if name == "ReLU twice, dropout between" or not c.startswith("Dropout")]
    assert sorted(kept) == sorted(expected)
    assert converted.report.is_exact


def causal(x: Tensor, conv: nn.Module) -> Tensor:
    return conv(x)[:, :, :-4]


def difference_in_place(x: Tensor, a: nn.Module, b: nn.Module) -> Tensor:
    found = a(x)
    found -= b(x)
    return found


FUNCTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "relu, max_pool2d, flatten": (
        Function(lambda x, a, b: b(torch.flatten(F.max_pool2d(F.relu(a(x)), 2), 1)), nn.Conv2d(2, 4, 3),
                 nn.Linear(36, 5)), (2, 8, 8)),
    "view by size": (Function(lambda x, a, b: b(a(x).view(x.size(0), -1)), nn.Conv2d(2, 4, 3), nn.Linear(144, 5)),
                     (2, 8, 8)),
    "mean": (Function(lambda x, a, b: b(a(x).mean(dim=(-2, -1))), nn.Conv2d(2, 4, 3), nn.Linear(4, 5)), (2, 8, 8)),
    "amax kept": (Function(lambda x, a: torch.amax(a(x), (2, 3), keepdim=True), nn.Conv2d(2, 4, 3)), (2, 8, 8)),
    "adaptive_avg_pool1d, squeeze": (
        Function(lambda x, a, b: b(F.adaptive_avg_pool1d(a(x), 1).squeeze(-1)), nn.Conv1d(2, 4, 3), nn.Linear(4, 5)),
        (2, 8)),
    "sum in place": (Function(lambda x, a, b: F.relu_(a(x).add_(b(x))), nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)),
                     (2, 8, 8)),
    "three terms, difference": (
        Function(lambda x, a, b: torch.sub(a(x) + b(x) + x, torch.abs(b(x))), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)),
        (2, 8, 8)),
    "cat of two maps": (Function(lambda x, a, b: b(torch.cat([a(x), x], -3)), nn.Conv2d(2, 4, 1), nn.Conv2d(6, 3, 3)),
                        (2, 8, 8)),
    "cat of pooled features": (
        Function(lambda x, a, b: b(torch.cat([a(x).mean((2, 3)), x.amax((2, 3))], 1)), nn.Conv2d(2, 4, 1),
                 nn.Linear(6, 3)), (2, 8, 8)),
    "abs": (Function(lambda x, a: abs(a(x)), nn.Conv2d(2, 4, 1)), (2, 8, 8)),
    "clamp from 0": (Function(lambda x, a: a(x).clamp(min=0), nn.Conv2d(2, 4, 1)), (2, 8, 8)),
    "scaled input": (
        Function(lambda x, a: a((x - torch.tensor([0.1, 0.2]).view(1, 2, 1, 1)) / 0.5), nn.Conv2d(2, 4, 3, padding=1)),
        (2, 8, 8)),
    "one minus": (Function(lambda x, a: 1 - a(x), nn.Conv2d(2, 4, 1)), (2, 8, 8)),
    "negative": (Function(lambda x, a: -a(x) * 2, nn.Conv2d(2, 4, 1)), (2, 8, 8)),
    "every second pixel": (Function(lambda x, a: a(x[:, :, ::2, ::2]), nn.Conv2d(2, 4, 1)), (2, 8, 8)),
    "border cut off": (Function(lambda x, a: a(x)[..., 1:-1, 1:-1], nn.Conv2d(2, 4, 3, padding=1)), (2, 8, 8)),
    "causal convolution": (Function(causal, nn.Conv1d(2, 4, 3, padding=4, dilation=2)), (2, 20)),
    "pad": (Function(lambda x, a: a(F.pad(x, (1, 1, 1, 1))), nn.Conv2d(2, 4, 3)), (2, 8, 8)),
    "interpolate": (Function(lambda x, a: a(F.interpolate(x, scale_factor=2)), nn.Conv2d(2, 4, 3)), (2, 4, 4)),
    "functional convolution": (
        Function(lambda x, a: F.conv2d(x, a.weight, a.bias, padding=1), nn.Conv2d(2, 4, 3)), (2, 8, 8)),
    "control flow": (Function(lambda x, a: a(x) if x.shape[2] > 4 else x, nn.Conv2d(2, 4, 3)), (2, 8, 8)),
    "sum of a list": (Function(lambda x, a, b: sum([a(x), b(x)]), nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)), (2, 8, 8)),
    "product with one": (Function(lambda x, a: a(x) * 1.0, nn.Conv2d(2, 4, 1)), (2, 8, 8)),
    "product in place": (Function(lambda x, a: a(x).mul_(0.5), nn.Conv2d(2, 4, 1)), (2, 8, 8)),
    "difference in place": (Function(difference_in_place, nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)), (2, 8, 8)),
    "detached data": (Function(lambda x, a: a(x).data, nn.Conv2d(2, 4, 1)), (2, 8, 8)),
    "one weight, two dilations": (
        Function(lambda x, a: torch.cat([F.conv1d(x, a.weight, dilation=2), F.conv1d(x, a.weight)[:, :, 2:]], 1),
                 nn.Conv1d(2, 4, 3)), (2, 20)),
    "subsampling that stops early": (
        Function(lambda x, a: a(x)[:, :, 1:8:2, 1:8:2], nn.Conv2d(2, 4, 3, padding=1)), (2, 10, 10)),
    "one map, pooled by two readers": (
        Function(lambda x, a, b: a(F.max_pool2d(x, 2)) + b(F.max_pool2d(x, 2)), nn.Conv2d(2, 4, 1),
                 nn.Conv2d(2, 4, 1)), (2, 8, 8)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functional_spellings(name: str) -> None:
    torch.manual_seed(0)
    model, shape = FUNCTIONS[name]
    assert convert_and_compare(model, shape).report.is_exact


@pytest.mark.parametrize("forward", [lambda x, a, b: sum([a(x), b(x)]), lambda x, a, b: a(x) * 1.0 + b(x)])
def test_neutral_constants_take_no_layer(forward: Callable[..., Tensor]) -> None:
    converted = ai8x.convert(Function(forward, nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1)), torch.zeros(1, 2, 8, 8))
    assert classes(converted) == ["Conv2d", "Conv2d", "Add"]


def test_a_trained_factor_keeps_its_layer_whatever_its_value() -> None:
    factor = nn.Parameter(torch.ones(()))
    converted = ai8x.convert(Function(lambda x, a: a(x) * factor, nn.Conv2d(2, 4, 1)), torch.zeros(1, 2, 8, 8))
    assert classes(converted) == ["Conv2d", "DepthwiseConv2d"]


def test_a_shared_head_is_split_only_with_a_notice() -> None:
    head = nn.Conv2d(4, 2, 1, bias=False)
    model = Function(lambda x, a, b: (b(a(x).mean((2, 3), keepdim=True)), b(a(x))), nn.Conv2d(2, 4, 1), head)
    converted = ai8x.convert(model, torch.zeros(1, 2, 8, 8))
    assert "Linear" not in classes(converted)
    assert any("shares parameters" in notice.message for notice in converted.report.notices)


@pytest.mark.parametrize("name", ["_done", "_input_name", "_computed", "steps", "report", "add"])
def test_names_of_layers_do_not_collide_with_those_of_the_converted_model(name: str) -> None:
    model = nn.Sequential()
    model.register_module(name, nn.Conv2d(2, 4, 1)) if name != "add" else model.append(nn.Conv2d(2, 4, 1))
    assert classes(convert_and_compare(model, (2, 8, 8))) == ["Conv2d"]


def test_the_example_is_not_changed() -> None:
    example = torch.ones(1, 2, 8, 8)
    converted = ai8x.convert(Function(lambda x, a: a(x.mul_(0.5)), nn.Conv2d(2, 4, 1)), example)
    assert converted.report.is_exact
    assert torch.equal(example, torch.ones(1, 2, 8, 8))


def test_results_that_are_none_stay_none() -> None:
    model = Function(lambda x, a: {"out": a(x), "aux": None}, nn.Conv2d(2, 4, 1)).eval()
    converted, data = ai8x.convert(model, torch.zeros(1, 2, 8, 8)), sample((2, 8, 8))
    assert converted(data)["aux"] is None
    torch.testing.assert_close(converted(data)["out"], model(data)["out"])


def test_several_outputs_keep_their_structure() -> None:
    first, second = nn.Conv2d(2, 4, 3), nn.Conv2d(2, 3, 1)
    model = Function(lambda x, a, b: {"maps": (a(x), F.relu(b(x))), "input": b(x)}, first, second).eval()
    converted = ai8x.convert(model, torch.zeros(1, 2, 8, 8))
    data = sample((2, 8, 8))
    expected, found = model(data), converted(data)
    assert list(found) == ["maps", "input"] and len(found["maps"]) == 2
    torch.testing.assert_close(found["maps"][1], expected["maps"][1])
    torch.testing.assert_close(found["input"], expected["input"])


def test_a_layer_used_twice_stays_one_layer() -> None:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    model = Function(lambda x, a, b: F.relu(b(F.relu(b(F.relu(a(x)))))), nn.Conv2d(2, 4, 1), shared)
    converted = convert_and_compare(model, (2, 8, 8))
    assert classes(converted) == [CONV, CONV]


def test_a_strided_layer_used_twice_stays_one_layer() -> None:
    shared = nn.Conv2d(2, 2, 2, stride=2)
    model = Function(lambda x, a: a(x) - a(-x), shared)
    converted = convert_and_compare(model, (2, 8, 8))
    assert classes(converted).count("Conv2d") == 1


def test_a_layer_used_in_two_ways_is_copied_and_said_so() -> None:
    shared = nn.Conv2d(4, 4, 1)
    model = Function(lambda x, a: a(F.relu(a(x))), shared)
    converted = convert_and_compare(model, (4, 8, 8))
    assert classes(converted) == [CONV, "Conv2d"]
    first, second = (layer.op.weight for layer in quantized_layers(converted).values())
    assert first is not second and torch.equal(first, second)
    assert any("shares parameters" in notice.message for notice in converted.report.notices)


def test_normalisation_inside_the_model_is_one_layer() -> None:
    mean, std = torch.tensor([0.1, 0.2]).view(1, 2, 1, 1), torch.tensor([0.5, 2.0]).view(1, 2, 1, 1)
    model = Function(lambda x, a: a(((x + 1) / 2 - mean) / std), nn.Conv2d(2, 4, 3, padding=1))
    assert classes(convert_and_compare(model, (2, 8, 8))) == ["DepthwiseConv2d", "Conv2d"]


def test_the_original_stays_as_it_is() -> None:
    model = PLAIN["resnet"].make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    converted = ai8x.convert(model, torch.zeros(1, 1, 28, 28))
    assert converted.training and model.training
    for parameter in converted.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_in_double_precision_is_converted_to_float() -> None:
    model = PLAIN["resnet"].make().double().eval()
    converted = ai8x.convert(model, torch.zeros(1, 1, 28, 28, dtype=torch.float64))
    data = sample((1, 28, 28))
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    torch.testing.assert_close(converted(data), model(data.double()).float(), rtol=1e-4, atol=1e-5)


def test_weights_of_a_parametrization_become_plain_weights() -> None:
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3)), nn.ReLU())
    converted = convert_and_compare(model, (2, 8, 8))
    assert isinstance(quantized_layers(converted)["layer_0"].op.weight, nn.Parameter)


def test_subclasses_of_layers_are_read_as_what_they_compute() -> None:
    class Same(nn.Conv2d):
        """Only the constructor differs."""

        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(inputs, outputs, 3, padding="same")

    class Doubled(nn.Conv2d):
        """Computes something else."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    assert classes(convert_and_compare(Same(2, 4), (2, 8, 8))) == ["Conv2d"]
    assert classes(convert_and_compare(Doubled(2, 4, 1), (2, 8, 8))) == ["Conv2d", "DepthwiseConv2d"]


def test_training_reaches_the_copied_parameters_but_not_the_copying_kernels() -> None:
    converted = ai8x.convert(PLAIN["resnet"].make(), torch.zeros(1, 1, 28, 28))
    F.cross_entropy(converted(sample((1, 28, 28))), torch.tensor([0, 1, 2])).backward()
    layers = quantized_layers(converted)
    assert layers["stem_0"].op.weight.grad is not None and layers["stem_0"].bn.weight.grad is not None
    assert layers["layer1_relu"].op.weight.grad is None


def test_layers_of_ours_inside_a_plain_model_are_taken_over() -> None:
    model = Function(lambda x, a, b: b(F.relu(a(x))), nn.Conv2d(2, 4, 3), ai8x.Conv2d(4, 3, 1))
    assert classes(ai8x.convert(model, torch.zeros(1, 2, 8, 8))) == [CONV, "Conv2d"]


def test_report_lists_layers_with_their_origins() -> None:
    report = ai8x.convert(PLAIN["vgg"].make(), torch.zeros(1, 1, 28, 28)).report
    line = next(line for line in report.layers if line.name == "features_7")
    assert line.kind == "FusedMaxPoolConv2dBNReLU(8, 16, 3x3, padding 1, pool 2x2/2)"
    assert [origin.split()[0] for origin in line.origins] == ["features.6", "features.7", "features.8", "features.9"]
    assert "features.7 (Conv2d 8->16 kernel 3x3 padding 1x1)" in report.format()
