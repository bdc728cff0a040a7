"""What quantize.py does with states of every kind."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ai8x.checkpoint import Checkpoint, arrays_from_tensors
from ai8x.errors import UserError
from ai8x.network.yaml_file import parse_network_file
from ai8x.nn import modules
from ai8x.nn.fold import describe_layers, fold_batchnorm
from ai8x.nn.qat import LayerOverride, QatPolicy, switch_to_qat
from ai8x.quantization import (
    ClipMethod,
    LayerHint,
    QuantizationOptions,
    check_paths,
    clip_method,
    quantize_checkpoint,
    quantize_layers,
    quantize_state,
    read_hints,
)


def model(*, qat: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(modules.FusedConv2dBNReLU(2, 4, 3), modules.MaxPool2d(2),
                           modules.Conv2d(4, 4, 1, bias=False), modules.Linear(4, 3, bias=True, wide=True))
    if qat:
        switch_to_qat(layers, QatPolicy(start_epoch=0, overrides={"2": LayerOverride(weight_bits=2)}))
    return layers


def refused(state: dict[str, Tensor], options: QuantizationOptions | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        quantize_state(state, options)
    return caught.value


def test_form_of_a_quantised_state() -> None:
    state = model().state_dict()
    quantized = quantize_state(state)
    assert list(quantized) == list(state)
    for layer in ("0", "2", "3"):
        bits = 2 if layer == "2" else 8
        weight = quantized[f"{layer}.op.weight"]
        assert weight.dtype is torch.float32 and torch.equal(weight, weight.round())
        assert float(weight.min()) >= -(2 ** (bits - 1)) and float(weight.max()) < 2 ** (bits - 1)
        assert quantized[f"{layer}.weight_bits"].item() == bits
        assert quantized[f"{layer}.bias_bits"].item() == bits
        assert quantized[f"{layer}.output_shift"].item() <= 1
        assert quantized[f"{layer}.shift_quantile"].item() == 1
        if f"{layer}.op.bias" in quantized:
            assert torch.equal(quantized[f"{layer}.op.bias"] % (128 * 2.0 ** (bits - 8)), torch.zeros(1).expand(
                len(quantized[f"{layer}.op.bias"])))
    for layer in "0123":
        for entry, value in (("quantize_activation", 1.0), ("adjust_output_shift", 0.0)):
            found = quantized[f"{layer}.{entry}"]
            assert found.dtype is torch.float32 and found.tolist() == [value]


@given(st.sampled_from([1, 2, 4, 8]), st.integers(-8, 6), st.integers(0, 2**31), st.sampled_from([1.0, 0.985]))
def test_integers_follow_the_formula_in_double_precision(bits: int, exponent: int, seed: int, quantile: float) -> None:
    generator = np.random.default_rng(seed)
    weight = (generator.normal(size=(4, 3)) * 2.0**exponent).astype(np.float32)
    bias = (generator.normal(size=4) * 2.0**exponent).astype(np.float32)
    state = {"a.op.weight": torch.tensor(weight), "a.op.bias": torch.tensor(bias),
             "a.weight_bits": torch.tensor([bits]), "a.shift_quantile": torch.tensor([quantile])}
    found = quantize_state(state)
    magnitudes = np.abs(np.concatenate([weight.reshape(-1), bias])).astype(np.float64)
    limit = np.quantile(magnitudes, float(np.float32(quantile)))
    shift = int(np.clip(np.ceil(np.log2(limit)), bits - 23, bits + 7))
    factor = 2.0 ** (bits - 1 - shift)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    assert float(found["a.output_shift"]) == shift
    integers = np.clip(np.floor(factor * weight.astype(float) + 0.5), low, high)
    assert np.array_equal(found["a.op.weight"].numpy(), integers)
    integers = np.clip(np.floor(factor * bias.astype(float) + 0.5), low, high)
    assert np.array_equal(found["a.op.bias"].numpy(), integers * 2.0 ** (bits - 8) * 128)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_all_zero_layers_get_the_least_shift(bits: int) -> None:
    flags = {"a.quantize_activation": torch.tensor([True]), "a.adjust_output_shift": torch.tensor([True])}
    found = quantize_state({"a.op.weight": torch.zeros(2, 2), "a.weight_bits": torch.tensor([bits]), **flags})
    assert float(found["a.output_shift"]) == bits - 23


def test_width_comes_from_network_file_then_state_then_option_then_eight() -> None:
    state = {"a.op.weight": torch.rand(2, 2), "a.weight_bits": torch.tensor([4]), "b.op.weight": torch.rand(2, 2),
             "c.op.weight": torch.rand(2, 2), "c.weight_bits": torch.tensor([0])}

    def widths(options: QuantizationOptions) -> list[int]:
        found, report = quantize_layers(state, options)
        assert [layer.weight_bits for layer in report] == [int(found[f"{n}.weight_bits"]) for n in "abc"]
        return [layer.weight_bits for layer in report]

    assert widths(QuantizationOptions()) == [4, 8, 8]
    assert widths(QuantizationOptions(qat_weight_bits=2)) == [4, 2, 2]
    hints = (LayerHint(weight_bits=1), LayerHint(), LayerHint(weight_bits=8))
    assert widths(QuantizationOptions(qat_weight_bits=2, hints=hints)) == [1, 2, 8]


def test_hints_are_those_of_weighted_layers() -> None:
    text = """
arch: net
dataset: any
layers:
  - {name: a, processors: 0x7, operation: conv2d, quantization: 4}
  - {name: b, processors: 0x7, operation: passthrough, max_pool: 2}
  - {name: c, processors: 0x7, operation: convtranspose2d}
"""
    hints = read_hints(parse_network_file(text))
    assert [(h.name, h.weight_bits, h.transposed) for h in hints] == [("a", 4, False), ("c", None, True)]


def test_other_numbers_of_layers_are_refused() -> None:
    error = refused(model().state_dict(), QuantizationOptions(hints=(LayerHint(name="a"), LayerHint(name="b"))))
    assert error.diagnostics[0].code == "E0533" and "'3'" in error.diagnostics[0].found


def test_changed_width_is_noticed() -> None:
    state = {"a.op.weight": torch.rand(2, 2), "a.weight_bits": torch.tensor([8])}
    _, (layer,) = quantize_layers(state, QuantizationOptions(hints=(LayerHint(weight_bits=4),)))
    assert "trained with 8 bits" in layer.notice


@pytest.mark.parametrize("build", [
    lambda: modules.FusedConv2dBN(4, 6, 3), lambda: modules.FusedConv1dBN(4, 6, 3),
    lambda: modules.FusedConvTranspose2dBN(4, 6, 3, stride=2), lambda: modules.FusedDepthwiseConv2dBN(4, 4, 3),
    lambda: modules.FusedConvTranspose2dBN(4, 6, 3, stride=2, groups=2),
    lambda: modules.FusedConv2dBN(4, 6, 3, batchnorm="NoAffine")],
    ids=["conv2d", "conv1d", "transposed", "depthwise", "grouped", "not-affine"])
def test_batchnorm_in_the_file_is_folded_as_in_the_model(build) -> None:
    torch.manual_seed(2)
    layer = nn.Sequential(build())
    layer[0].bn.running_mean.normal_()
    layer[0].bn.running_var.uniform_(0.1, 2)
    found, (report,) = quantize_layers(layer.state_dict(), QuantizationOptions())
    fold_batchnorm(layer)
    expected = quantize_state(layer.state_dict())
    assert report.folded and found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_square_transposed_layers_are_folded_right_when_someone_says_so_and_noticed_otherwise() -> None:
    torch.manual_seed(2)
    layer = nn.Sequential(modules.FusedConvTranspose2dBN(4, 4, 3, stride=2, eps=1e-2))
    layer[0].bn.running_var.uniform_(0.1, 2)
    checkpoint = Checkpoint(state=arrays_from_tensors(layer.state_dict()))
    _, (unsaid,) = quantize_checkpoint(checkpoint)
    assert "--config-file" in unsaid.notice
    described = Checkpoint(state=checkpoint.state, extras={"layers": describe_layers(layer)})
    found, (said,) = quantize_checkpoint(described)
    fold_batchnorm(layer)
    assert not said.notice
    assert np.array_equal(found.state["0.op.weight"], quantize_state(layer.state_dict())["0.op.weight"].numpy())


@pytest.mark.parametrize("method", ["MAX", "AVGMAX", "STDDEV", "SCALE"])
def test_clip_methods_are_saturation_limits(method: str) -> None:
    weight = torch.tensor([[0.5, -0.25, 0.5, -0.25], [0.75, -0.5, 0.0, -0.25]]) / 4
    state = {"a.op.weight": weight, "a.op.bias": torch.tensor([0.01, 3.0])}
    scale = 0.85 / 4
    options = QuantizationOptions(clip_method=ClipMethod(method), scale=scale, stddev=2.0)
    found, (report,) = quantize_layers(state, options)
    values = weight.double().numpy()
    expected = {
        "MAX": 0.75 / 4, "AVGMAX": 0.625 / 4, "SCALE": scale,
        "STDDEV": max(min(values.max(), values.mean() + 2 * values.std()),
                      -max(values.min(), values.mean() - 2 * values.std()))}[method]
    assert report.limit == pytest.approx(expected)
    shift = int(np.ceil(np.log2(expected)))
    assert report.output_shift == shift == int(found["a.output_shift"])
    assert np.array_equal(found["a.op.weight"].numpy(), np.clip(np.floor(values * 2.0 ** (7 - shift) + 0.5), -128, 127))
    assert found["a.op.bias"].tolist() == [np.floor(0.01 * 2.0 ** (7 - shift) + 0.5) * 128, 127 * 128]
    assert report.saturated == 1


@pytest.mark.parametrize("method", [m for m in ClipMethod])
def test_clip_methods_use_the_range_of_the_weights(method: ClipMethod) -> None:
    state = {"a.op.weight": torch.linspace(-0.19, 0.19, 64).reshape(4, 16)}
    found = quantize_state(state, QuantizationOptions(clip_method=method, scale=0.2))
    assert float(found["a.op.weight"].abs().max()) > 80


def test_unknown_clip_methods_are_refused() -> None:
    assert clip_method("max") is ClipMethod.MAX
    with pytest.raises(UserError) as caught:
        clip_method("MAXX")
    assert caught.value.diagnostics[0].help == "write MAX"


@pytest.mark.parametrize(("change", "code"), [
    ({"fc.weight": torch.rand(2, 2), "fc.bias": torch.rand(2)}, "E0530"),
    ({"head.0.weight": torch.rand(2, 2)}, "E0530"),
    ({"bn1.weight": torch.rand(2), "bn1.running_mean": torch.rand(2), "bn1.running_var": torch.rand(2)}, "E0531"),
    ({"a.w_zero_point": torch.tensor([1.0])}, "E0535"),
    ({"a.bn.running_mean": torch.rand(5), "a.bn.running_var": torch.rand(5)}, "E0534"),
])
def test_states_outside_the_scheme_are_refused(change: dict[str, Tensor], code: str) -> None:
    error = refused({"a.op.weight": torch.rand(2, 2), **change})
    assert [d.code for d in error.diagnostics] == [code]


def test_states_without_layers_are_refused() -> None:
    assert refused({"a.scale": torch.rand(2)}).diagnostics[0].code == "E0532"


def test_quantising_twice_is_refused() -> None:
    assert refused(quantize_state(model().state_dict())).diagnostics[0].code == "E0536"


def test_all_foreign_layers_are_named_together() -> None:
    error = refused({"a.weight": torch.rand(2), "b.weight": torch.rand(2), "c.op.weight": torch.rand(2, 2)})
    assert [d.layer for d in error.diagnostics] == ["a", "b"]


def test_files_of_2020_get_the_names_of_today() -> None:
    found = quantize_state({"conv1.conv2d.weight": torch.rand(2, 1, 3, 3), "fc.linear.weight": torch.rand(2, 2),
                            "fc.linear.bias": torch.rand(2), "fc.linear.base_b_q": torch.tensor([1.0])})
    assert {key for key in found if "weight" in key and "bits" not in key} == {"conv1.op.weight", "fc.op.weight"}
    assert not any("base_b_q" in key for key in found)


def test_zero_points_of_zero_are_dropped() -> None:
    found = quantize_state({"a.op.weight": torch.rand(2, 2), "a.w_zero_point": torch.tensor([0.0])})
    assert "a.w_zero_point" not in found


def test_checkpoint_keeps_what_belongs_to_the_network_and_drops_what_resuming_needs() -> None:
    checkpoint = Checkpoint(
        state=arrays_from_tensors(model().state_dict()), epoch=3, arch="net", labels=("a", "b", "c"),
        input_shape=(2, 8, 8), sample=np.zeros((2, 8, 8), np.int8), extras={"best_top1": 99.0},
        training={"optimizer_state_dict": {}, "config": {"dataset": "digits"}})
    found, report = quantize_checkpoint(checkpoint)
    assert (found.epoch, found.arch, found.labels, found.input_shape) == (3, "net", ("a", "b", "c"), (2, 8, 8))
    assert found.sample is checkpoint.sample
    assert found.extras == {"best_top1": 99.0, "clipping_method": "MAX_BIT_SHIFT"}
    assert found.training == {"config": {"dataset": "digits"}}
    assert found.is_quantized and not checkpoint.is_quantized
    assert [layer.name for layer in report] == ["0", "2", "3"]


@pytest.mark.parametrize(("method", "extras"), [
    (ClipMethod.STDDEV, {"clipping_method": "STDDEV", "clipping_nstds": 1.5}),
    (ClipMethod.SCALE, {"clipping_method": "SCALE", "clipping_scale": 0.5})])
def test_clip_method_is_recorded(method: ClipMethod, extras: dict[str, object]) -> None:
    checkpoint = Checkpoint(state=arrays_from_tensors(model().state_dict()))
    found, _ = quantize_checkpoint(checkpoint, QuantizationOptions(clip_method=method, scale=0.5, stddev=1.5))
    assert found.extras == extras


def test_errors_name_the_file() -> None:
    with pytest.raises(UserError) as caught:
        quantize_checkpoint(Checkpoint(state={"a.b": np.zeros(1)}, file="net.pth.tar"))
    assert "net.pth.tar" in caught.value.diagnostics[0].headline()


def test_input_is_not_overwritten(tmp_path) -> None:
    path = tmp_path / "x.pth.tar"
    path.touch()
    check_paths(path, tmp_path / "y.pth.tar")
    with pytest.raises(UserError) as caught:
        check_paths(path, tmp_path / "." / "x.pth.tar")
    assert caught.value.diagnostics[0].code == "E0538"


def test_training_and_quantiser_agree_at_the_ends_of_the_shift_range() -> None:
    for bits, exponent in itertools.product((1, 2, 4, 8), (-30, -16, 0, 12, 16)):
        layer = nn.Sequential(modules.Linear(4, 2, bias=True, weight_bits=bits, bias_bits=bits,
                                             quantize_activation=True))
        for parameter in (layer[0].op.weight, layer[0].op.bias):
            parameter.data *= 2.0**exponent
        assert int(layer[0].current_shift()) == int(quantize_state(layer.state_dict())["0.output_shift"])
