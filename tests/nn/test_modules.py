"""The class table, constructor arguments, and what layers keep in their state."""

import itertools

import pytest
import torch
from torch import nn

import ai8x
from ai8x import compatibility
from ai8x.errors import UserError
from ai8x.nn import modules
from ai8x.nn.base import Mode, QuantizationAwareModule
from ai8x.nn.functional import ActivationKind

OWN_ENTRIES = ["output_shift", "weight_bits", "bias_bits", "quantize_activation", "adjust_output_shift",
               "shift_quantile"]
OPERATIONS = ("Conv2d", "DepthwiseConv2d", "ConvTranspose2d", "DepthwiseConvTranspose2d", "Conv1d", "DepthwiseConv1d")
GRAMMAR = [(pool, operation, norm, activation) for operation in OPERATIONS
           for pool, norm, activation in itertools.product(("", "Max", "Avg"), ("", "BN"), ("", "ReLU", "Abs"))
           if pool or norm or activation]


@pytest.fixture(autouse=True)
def no_device():
    compatibility.reset_device()
    yield
    compatibility.reset_device()


def build(name: str, **arguments: object) -> QuantizationAwareModule:
    kernel = (3,) if "Linear" not in name else ()
    stride = {"stride": 2} if "Transpose" in name else {}
    return getattr(modules, name)(8, 8, *kernel, **stride, **arguments)


@pytest.mark.parametrize(("pool", "operation", "norm", "activation"), GRAMMAR, ids=lambda part: part or "-")
def test_every_name_of_the_grammar_does_what_it_says(pool: str, operation: str, norm: str, activation: str) -> None:
    name = f"Fused{pool + 'Pool' if pool else ''}{operation}{norm}{activation}"
    layer = build(name, padding=1)
    assert type(layer).__name__ == name
    assert (layer.pool.kind if layer.pool else "") == pool
    assert layer.activation is ActivationKind(activation or None)
    assert (layer.bn is not None) == bool(norm)
    assert isinstance(layer.op, getattr(nn, operation.removeprefix("Depthwise")))
    assert layer.op.groups == (8 if operation.startswith("Depthwise") else 1)
    data = torch.zeros(2, 8, 8) if "1d" in name else torch.zeros(2, 8, 8, 8)
    outputs = layer(data)
    length = (4 if pool else 8) * (2 if "Transpose" in name else 1)
    assert outputs.shape[1:] == (8, *[length] * (outputs.dim() - 2))


def test_names_are_found_on_the_package() -> None:
    for name in (*modules.__all__, "Fire", "ResidualBottleneck"):
        assert getattr(ai8x, name).__name__ == name


def test_every_class_has_documentation() -> None:
    assert all(getattr(modules, name).__doc__ for name in modules.__all__)


@pytest.mark.parametrize("name", ["Conv2d", "Conv1d", "ConvTranspose2d", "Linear"])
def test_state_has_the_vendors_keys_in_order(name: str) -> None:
    layer = build(name, bias=True)
    assert list(layer.state_dict()) == [*OWN_ENTRIES, "op.weight", "op.bias"]
    entries = {key: (layer.state_dict()[key].dtype, tuple(layer.state_dict()[key].shape)) for key in OWN_ENTRIES}
    assert entries == {
        "output_shift": (torch.float32, (1,)), "weight_bits": (torch.int64, (1,)), "bias_bits": (torch.int64, (1,)),
        "quantize_activation": (torch.bool, (1,)), "adjust_output_shift": (torch.bool, (1,)),
        "shift_quantile": (torch.float32, (1,))}
    assert [float(layer.state_dict()[key]) for key in OWN_ENTRIES] == [0, 0, 0, 0, 0, 1]
    assert not any(parameter.requires_grad for key, parameter in layer.named_parameters() if key in OWN_ENTRIES)


def test_batchnorm_adds_its_keys_and_affine_can_be_refused() -> None:
    keys = list(modules.FusedConv2dBNReLU(1, 2, 3).state_dict())
    assert keys[8:] == ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"]
    plain = modules.FusedConv2dBNReLU(1, 2, 3, batchnorm="NoAffine")
    assert list(plain.state_dict())[8:] == ["bn.running_mean", "bn.running_var", "bn.num_batches_tracked"]
    assert modules.FusedConv2dBNReLU(1, 2, 3, batchnorm=None).bn is None
    assert (plain.bn.eps, plain.bn.momentum) == (1e-5, 0.05)


def test_pooling_layers_have_entries_and_elementwise_layers_have_none() -> None:
    assert list(modules.MaxPool2d(2).state_dict()) == OWN_ENTRIES
    assert not modules.Add().state_dict()
    assert modules.AvgPool1d(3)(torch.zeros(1, 2, 9)).shape == (1, 2, 3)
    assert modules.MaxPool2d(3, 1)(torch.zeros(1, 2, 9, 9)).shape == (1, 2, 7, 7)


@pytest.mark.parametrize(("shape", "name"), [((8, 8, 3, 3), "Conv2d"), ((8, 8, 3), "Conv1d"), ((8, 8), "Linear"),
                                             ((8, 8, 3, 3), "ConvTranspose2d"), ((8, 1, 3, 3), "DepthwiseConv2d"),
                                             ((8, 1, 3, 3), "DepthwiseConvTranspose2d")])
def test_weight_layout(name: str, shape: tuple[int, ...]) -> None:
    assert tuple(build(name).state_dict()["op.weight"].shape) == shape


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_transposed_output_size(padding: int) -> None:
    layer = modules.ConvTranspose2d(2, 3, 3, stride=2, padding=padding)
    assert layer(torch.zeros(1, 2, 7, 7)).shape == (1, 3, *[6 * 2 - 2 * padding + 4] * 2)


@pytest.mark.parametrize(("bias", "has_bias"), [(True, True), (1, False), ("yes", False), (None, False)])
def test_linear_has_a_bias_only_for_the_literal_true(bias: object, has_bias: bool) -> None:
    assert (modules.Linear(4, 2, bias=bias).op.bias is not None) == has_bias


def test_fixed_arguments_cannot_be_given_again() -> None:
    with pytest.raises(TypeError, match="activation"):
        modules.FusedConv2dReLU(1, 1, 3, activation="Abs")
    with pytest.raises(TypeError, match="in_channels"):
        modules.DepthwiseConv2d(in_channels=4, out_channels=4, kernel_size=3)


@pytest.mark.parametrize(("arguments", "mode"), [
    ((None, None, False), Mode.FLOAT), ((8, 8, True), Mode.QAT), ((2, 4, True), Mode.QAT)])
def test_quantisation_arguments_choose_the_mode(arguments: tuple[object, object, bool], mode: Mode) -> None:
    bits, bias_bits, quantized = arguments
    layer = modules.Conv2d(1, 1, 3, weight_bits=bits, bias_bits=bias_bits, quantize_activation=quantized)
    assert layer.mode is mode


@pytest.mark.parametrize("arguments", [(8, None, False), (8, 8, False), (None, None, True), (3, 3, True),
                                       (None, 8, True)])
def test_other_combinations_of_quantisation_arguments_are_refused(arguments: tuple[object, object, bool]) -> None:
    bits, bias_bits, quantized = arguments
    with pytest.raises(UserError) as caught:
        modules.MaxPool2d(2, weight_bits=bits, bias_bits=bias_bits, quantize_activation=quantized)
    assert caught.value.diagnostics[0].code == "E0387"


LIMITS = [
    # name, device, accepted, refused, code
    ("Conv2d", None, {"kernel_size": 1}, {"kernel_size": 2}, "E0377"),
    ("Conv2d", None, {"kernel_size": (3, 3)}, {"kernel_size": (1, 3)}, "E0377"),
    ("Conv1d", None, {"kernel_size": 9}, {"kernel_size": 10}, "E0377"),
    ("ConvTranspose2d", None, {"stride": 2}, {"stride": 2, "kernel_size": 1}, "E0377"),
    ("Conv2d", None, {"stride": 3}, {"stride": 4}, "E0378"),
    ("Conv2d", "MAX78000", {"stride": 1}, {"stride": 2}, "E0378"),
    ("FusedMaxPoolConv2d", None, {"stride": 1}, {"stride": 2}, "E0378"),
    ("Conv1d", None, {"stride": 1}, {"stride": 2}, "E0378"),
    ("ConvTranspose2d", None, {"stride": 2}, {"stride": 1}, "E0378"),
    ("Conv2d", None, {"padding": 2}, {"padding": 3}, "E0379"),
    ("Conv1d", "MAX78002", {"padding": 2, "in_channels": 64}, {"padding": 1, "in_channels": 65}, "E0379"),
    ("Conv2d", "MAX78000", {"dilation": 1}, {"dilation": 2}, "E0380"),
    ("Conv2d", "MAX78002", {"dilation": 16}, {"dilation": 17}, "E0380"),
    ("Conv1d", None, {"dilation": 4, "padding": 1}, {"dilation": 5, "padding": 1}, "E0380"),
    ("Conv1d", "MAX78000", {"dilation": 1023}, {"dilation": 1024}, "E0380"),
    ("Conv1d", "MAX78002", {"dilation": 2047}, {"dilation": 2048}, "E0380"),
    ("FusedMaxPoolConv2d", None, {"pool_size": 16}, {"pool_size": 17}, "E0381"),
    ("FusedAvgPoolConv2d", None, {"pool_size": (1, 16)}, {"pool_size": (0, 1)}, "E0381"),
    ("FusedMaxPoolConv2d", None, {"pool_stride": 16}, {"pool_stride": 17}, "E0382"),
    ("FusedMaxPoolConv2d", None, {"pool_stride": (2, 2)}, {"pool_stride": (1, 2)}, "E0382"),
    ("FusedMaxPoolConv2d", "MAX78000", {"pool_dilation": 1}, {"pool_dilation": 2}, "E0383"),
    ("FusedMaxPoolConv2d", "MAX78002", {"pool_dilation": 16}, {"pool_dilation": 17}, "E0383"),
    ("FusedAvgPoolConv2d", "MAX78002", {"pool_dilation": 1}, {"pool_dilation": 2}, "E0383"),
    ("Conv2d", None, {"groups": 4}, {"groups": 3}, "E0384"),
    ("Conv2d", "MAX78000", {"in_channels": 1024}, {"in_channels": 1025}, "E0375"),
    ("Conv2d", "MAX78002", {"out_channels": 2048}, {"out_channels": 2049}, "E0375"),
    ("Conv2d", "MAX78000", {"out_channels": 512}, {"out_channels": 513}, "E0376"),
    ("Conv2d", "MAX78000", {"out_channels": 1024, "bias": False}, {"out_channels": 1025, "bias": False}, "E0375"),
    ("FusedConv2dBN", None, {"bias": True}, {"bias": False}, "E0386"),
    ("Conv2d", None, {"wide": True}, {"wide": True, "activation": "ReLU"}, "E0374"),
    ("Conv2d", None, {"pooling": "Avg"}, {"pooling": "Mean"}, "E0372"),
    ("Conv2d", None, {"activation": "Abs"}, {"activation": "Tanh"}, "E0373"),
    ("Conv2d", None, {"padding": (1, 1)}, {"padding": (1, 1, 1)}, "E0389"),
    ("Conv2d", None, {"op": "Conv2d"}, {"op": "Conv3d"}, "E0390"),
]


def construct(name: str, device: str | None, arguments: dict[str, object]) -> nn.Module:
    sizes = {"in_channels": 8, "out_channels": 8, "kernel_size": 3, **arguments}
    positional = [sizes.pop(key) for key in ("in_channels", "out_channels", "kernel_size")]
    return getattr(modules, name)(*positional, **sizes, device=device)


@pytest.mark.parametrize(("name", "device", "accepted", "refused", "code"), LIMITS,
                         ids=[f"{case[0]}-{case[1]}-{case[4]}-{i}" for i, case in enumerate(LIMITS)])
def test_the_last_allowed_value_passes_and_the_next_is_refused(
        name: str, device: str | None, accepted: dict[str, object], refused: dict[str, object], code: str) -> None:
    construct(name, device, accepted)
    with pytest.raises(UserError) as caught:
        construct(name, device, refused)
    (finding,) = caught.value.diagnostics
    assert finding.code == code
    assert finding.found and finding.allowed and finding.help


@pytest.mark.parametrize(("arguments", "code"), [
    ((1025, 10), "E0375"), ((10, 1025), "E0375"), ((10, 10, "Max"), "E0370")])
def test_limits_of_linear_layers(arguments: tuple[object, ...], code: str) -> None:
    modules.Linear(1024, 1024)
    with pytest.raises(UserError) as caught:
        modules.Linear(*arguments)
    assert caught.value.diagnostics[0].code == code


def test_linear_layers_refuse_batchnorm() -> None:
    with pytest.raises(UserError) as caught:
        modules.Linear(4, 4, batchnorm="Affine")
    assert caught.value.diagnostics[0].code == "E0385"


def test_all_findings_of_a_layer_come_together() -> None:
    with pytest.raises(UserError) as caught:
        modules.Conv2d(8, 8, 5, padding=3, activation="Tanh", groups=3)
    assert [d.code for d in caught.value.diagnostics] == ["E0373", "E0377", "E0379", "E0384"]
    assert "Conv2d(8, 8)" in caught.value.diagnostics[0].message


def test_set_device_gives_the_default_limits() -> None:
    modules.Conv2d(1, 1, 3, stride=2)
    ai8x.set_device(85)
    with pytest.raises(UserError):
        modules.Conv2d(1, 1, 3, stride=2)
    ai8x.set_device(87, round_avg=True)
    assert modules.Conv2d(1, 1, 3, dilation=2).op.dilation == (2, 2)
    assert modules.AvgPool2d(2).pool.rounded


@pytest.mark.parametrize(("name", "device"), [(85, "MAX78000"), ("87", "MAX78002"), ("max78000", "MAX78000"),
                                              ("AI85", "MAX78000"), ("ai87", "MAX78002"), ("78002", "MAX78002")])
def test_device_names(name: str | int, device: str) -> None:
    ai8x.set_device(name, False, False)
    assert ai8x.dev.device == device


@pytest.mark.parametrize("name", [84, "AI84", "MAX78001", "", "k210"])
def test_unknown_devices_are_refused(name: str | int) -> None:
    with pytest.raises(UserError) as caught:
        ai8x.set_device(name)
    assert caught.value.diagnostics[0].code == "E0371"


@pytest.mark.parametrize(("layer", "expected"), [
    (modules.Add, [0.9921875, -1.0]), (modules.Sub, [0.25, -0.5])])
def test_elementwise_layers_clamp_once(layer: type[nn.Module], expected: list[float]) -> None:
    first, second = torch.tensor([0.75, -0.75]), torch.tensor([0.5, -0.25])
    assert layer()(first, second).tolist() == expected
    assert modules.Add()(first, second, torch.tensor([-0.5, 0.0])).tolist() == [0.75, -1.0]


def test_bit_operators_in_float_mode_are_those_of_int8() -> None:
    first, second = torch.tensor([-3, 5, 127]), torch.tensor([1, -128, -1])
    assert (modules.BitwiseXor()(first / 128, second / 128) * 128).tolist() == (first ^ second).tolist()
    assert (modules.BitwiseOr()(first / 128, second / 128) * 128).tolist() == (first | second).tolist()


@pytest.mark.parametrize("operands", [(torch.zeros(2),), (torch.zeros(2), torch.zeros(3))])
def test_elementwise_layers_need_two_equal_shapes(operands: tuple[torch.Tensor, ...]) -> None:
    with pytest.raises(UserError) as caught:
        modules.Add()(*operands)
    assert caught.value.diagnostics[0].code == "E0388"


def test_empty_passes_data_on() -> None:
    data = torch.ones(3)
    assert modules.Empty(1, 2, bias=True)(data) is data
