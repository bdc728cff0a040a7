"""Post-training quantisation: every layer type, sizes off the KPU's grid, memories; spec sections 13.2, 14 and 15."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ai8x.errors import UserError
from ai8x.k210.activation import LINEAR, ActivationFunction, ActivationKind, Falling
from ai8x.k210.kmodel import read_kmodel, write_kmodel
from ai8x.k210.kmodel_layers import K210Conv, K210Upload, Softmax
from ai8x.k210.lint import lint_kmodel
from ai8x.k210.quantize import QuantizedModel, compare, quantize_model
from ai8x.k210.quantize_calibration import Calibration, CalibrationOptions
from ai8x.k210.quantize_lower import add_factors
from ai8x.k210.quantize_model import MODEL_INPUT, FloatLayer, FloatModel, FloatOp, prepared
from ai8x.k210.quantize_reference import run_float_model
from ai8x.k210.quantize_walk import LoweringOptions
from ai8x.network.ir import TensorShape
from tests.k210.float_models import RELU, RELU6, SAME, ModelWriter, mobile_net

IN = MODEL_INPUT
Build = Callable[[ModelWriter], FloatModel]
OnKpu = LoweringOptions(float_dense_bytes=0)


def quantized(build: Build, shape: tuple[int, int, int], *, images: int = 6,
              options: LoweringOptions | None = None) -> tuple[QuantizedModel, float]:
    """The model and the worst signal to noise ratio of a layer or output, decibel."""
    writer = ModelWriter(shape)
    model = build(writer)
    samples = writer.images(images)
    result = quantize_model(model, samples, lowering=options or LoweringOptions())
    found = compare(result, samples)
    assert {item.layer for item in found.outputs} == set(result.model.outputs)
    return result, min(item.snr_db for item in (*found.layers, *found.outputs))


# --- single layers ------------------------------------------------------------------------------------------------


def conv(outputs: int = 6, kernel: int = 3, **fields: object) -> Build:
    return lambda w: w.model(w.conv(IN, outputs, kernel, **fields))


LAYERS: dict[str, Build] = {
    "conv 3x3": conv(),
    "conv 1x1": conv(kernel=1),
    "conv linear": conv(activation=LINEAR),
    "conv relu6": conv(activation=RELU6),
    "conv without batch norm": conv(norm=False),
    "conv valid": conv(padding=(0, 0, 0, 0)),
    "conv pad 2": conv(padding=(2, 2, 2, 2)),
    "conv asymmetric": conv(padding=(0, 1, 1, 0)),
    "conv 1x3": lambda w: w.model(w.add(FloatOp.CONV2D, IN, weights=w.rng.normal(size=(5, 4, 1, 3)),
                                        padding=(0, 0, 1, 1))),
    "conv stride 2": conv(stride=(2, 2)),
    "conv stride 4": conv(stride=(4, 4)),
    "conv stride 2, 1": conv(stride=(2, 1)),
    "conv stride 3": conv(stride=(3, 3)),
    "conv 2 groups": conv(groups=2),
    "dilated": conv(padding=(2, 2, 2, 2), dilation=(2, 2)),
    "dilated, stride 2, asymmetric": conv(padding=(3, 1, 0, 2), dilation=(3, 2), stride=(2, 2)),
    "dilated depthwise": lambda w: w.model(w.depthwise(IN, padding=(2, 2, 2, 2), dilation=(2, 2))),
    "conv 5x5": conv(kernel=5, padding=(2, 2, 2, 2)),
    "conv 7x7 stride 2": conv(kernel=7, padding=(3, 3, 3, 3), stride=(2, 2)),
    "pad and stride 2": lambda w: w.model(w.conv(_padded(w), 6, padding=(0, 0, 0, 0), stride=(2, 2))),
    "tensorflow's stride 2": conv(padding=(0, 1, 0, 1), stride=(2, 2)),
    "depthwise": lambda w: w.model(w.depthwise(IN)),
    "depthwise stride 2": lambda w: w.model(w.depthwise(IN, stride=(2, 2))),
    "depthwise stride 2 then 1x1": lambda w: w.model(w.conv(w.depthwise(IN, stride=(2, 2)), 6, 1)),
    "depthwise stride 2 then 3x3": lambda w: w.model(w.conv(w.depthwise(IN, stride=(2, 2)), 6)),
    "depthwise multiplier": conv(outputs=8, groups=4),
    "two convolutions": lambda w: w.model(w.conv(w.conv(IN, 6), 5)),
    "conv, maximum": lambda w: w.model(w.add(FloatOp.MAX_POOL2D, w.conv(IN, 6), kernel=(2, 2), stride=(2, 2))),
    "maximum 2x2": lambda w: w.model(w.add(FloatOp.MAX_POOL2D, IN, kernel=(2, 2), stride=(2, 2))),
    "maximum 3x3 stride 2 pad 1": lambda w: w.model(
        w.add(FloatOp.MAX_POOL2D, w.conv(IN, 6, activation=LINEAR), kernel=(3, 3), stride=(2, 2), padding=SAME)),
    "mean 2x2": lambda w: w.model(w.add(FloatOp.AVERAGE_POOL2D, IN, kernel=(2, 2), stride=(2, 2))),
    "mean 3x3 stride 1 pad 1": lambda w: w.model(w.add(FloatOp.AVERAGE_POOL2D, w.conv(IN, 6), kernel=(3, 3),
                                                       padding=SAME)),
    "mean 3x3 stride 3": lambda w: w.model(w.add(FloatOp.AVERAGE_POOL2D, IN, kernel=(3, 3), stride=(3, 3))),
    "mean 5x4": lambda w: w.model(w.add(FloatOp.AVERAGE_POOL2D, w.conv(IN, 6), kernel=(5, 4), stride=(2, 2))),
    "global maximum": lambda w: w.model(w.add(FloatOp.GLOBAL_MAX_POOL2D, w.conv(IN, 6))),
    "global mean": lambda w: w.model(w.add(FloatOp.GLOBAL_AVERAGE_POOL2D, w.conv(IN, 6))),
    "global mean then conv": lambda w: w.model(_named_conv(w, w.add(FloatOp.GLOBAL_AVERAGE_POOL2D, w.conv(IN, 6)), 6)),
    "concat": lambda w: w.model(_named_conv(w, w.add(FloatOp.CONCAT, w.conv(IN, 5), w.conv(IN, 6)), 11)),
    "concat with the input": lambda w: w.model(_named_conv(w, w.add(FloatOp.CONCAT, IN, w.conv(IN, 6)), 10)),
    "concat as output": lambda w: w.model(w.add(FloatOp.CONCAT, w.conv(IN, 5), w.conv(IN, 6))),
    "add": lambda w: w.model(w.add(FloatOp.ADD, w.conv(IN, 6), w.conv(IN, 6, activation=LINEAR))),
    "add of three with relu": lambda w: w.model(w.add(
        FloatOp.ADD, *(w.conv(IN, 6, activation=LINEAR) for _ in range(3)), activation=RELU)),
    "add of a tensor to itself": lambda w: _doubled(w),
    "add of the input": lambda w: w.model(w.add(FloatOp.ADD, IN, w.conv(IN, 4))),
    "zero border": lambda w: w.model(w.add(FloatOp.ZERO_PAD2D, w.conv(IN, 6, activation=LINEAR), padding=(1, 2, 0, 3))),
    "leaky": conv(activation=ActivationFunction(kind=ActivationKind.LEAKY_RELU, slope=0.1)),
    "sigmoid": conv(activation=ActivationFunction(kind=ActivationKind.SIGMOID)),
    "tanh": conv(activation=ActivationFunction(kind=ActivationKind.TANH)),
    "hard-swish": conv(activation=ActivationFunction(kind=ActivationKind.HARD_SWISH)),
    "activation behind a sum": lambda w: w.model(w.add(
        FloatOp.ACTIVATION, w.add(FloatOp.MAX_POOL2D, w.conv(IN, 6, activation=LINEAR), kernel=(2, 2), stride=(1, 1)),
        activation=RELU)),
    "dense": lambda w: w.model(w.dense(w.conv(IN, 2), 2 * w.shape.height * w.shape.width, 10)),
    "dequant": lambda w: w.model(w.add(FloatOp.DEQUANT, w.conv(IN, 6))),
    "reshape": lambda w: w.model(w.dense(w.add(
        FloatOp.RESHAPE, w.conv(IN, 2), shape=TensorShape(w.shape.height, 2, w.shape.width)),
        2 * w.shape.height * w.shape.width, 4)),
}


def _padded(writer: ModelWriter) -> int:
    index = writer.add(FloatOp.ZERO_PAD2D, IN, padding=SAME)
    writer.channels[index] = writer.channels[IN]
    return index


def _named_conv(writer: ModelWriter, source: int, channels: int) -> int:
    writer.channels[source] = channels
    return writer.conv(source, 7, 1)


def _doubled(writer: ModelWriter) -> FloatModel:
    source = writer.conv(IN, 6)
    return writer.model(writer.add(FloatOp.ADD, source, source))


@pytest.mark.parametrize("shape", [(4, 16, 20), (4, 9, 7)], ids=["16x20", "9x7"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_computes_what_the_float_network_does(name: str, shape: tuple[int, int, int]) -> None:
    result, snr = quantized(LAYERS[name], shape)
    assert snr > (20 if name == "hard-swish" else 28), f"{snr:.1f} dB"
    assert not lint_kmodel(result.kmodel).errors


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 1), (5, 40), (33, 4)])
def test_maps_of_any_size_are_lowered(size: tuple[int, int]) -> None:
    def build(writer: ModelWriter) -> FloatModel:
        index = writer.depthwise(writer.conv(IN, 6))
        return writer.model(writer.dense(writer.conv(index, 5, 1), 5 * size[0] * size[1], 4))

    assert quantized(build, (3, *size))[1] > 26


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 2**32), st.integers(5, 18), st.integers(5, 18))
def test_random_network_stays_close(seed: int, height: int, width: int) -> None:
    writer = ModelWriter((3, height, width), seed)
    choose = np.random.default_rng(seed)
    index = writer.conv(IN, 6)
    for _ in range(3):
        kind = int(choose.integers(5))
        outputs = int(choose.integers(3, 10))
        if kind == 0:
            index = writer.conv(index, outputs, int(choose.choice([1, 3])), stride=(2, 2))
        elif kind == 1:
            index = writer.conv(writer.depthwise(index, stride=(int(choose.integers(1, 3)),) * 2), outputs, 1)
        elif kind == 2:
            channels = writer.channels[index]
            index = writer.add(FloatOp.ADD, index, writer.conv(index, channels))
            writer.channels[index] = channels
        elif kind == 3:
            first, second = writer.conv(index, outputs), writer.conv(index, outputs, 1)
            index = writer.add(FloatOp.CONCAT, first, second)
            writer.channels[index] = 2 * outputs
        else:
            index = writer.conv(index, outputs, activation=LINEAR)
    model = writer.model(index)
    images = writer.images(4)
    assert min(item.cosine for item in compare(quantize_model(model, images), images).outputs) > 0.99


# --- whole models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", Calibration, ids=lambda method: method.value)
def test_mobile_network_agrees_with_the_float_one(method: Calibration) -> None:
    writer = ModelWriter((3, 32, 32))
    model = mobile_net(writer)
    calibration, images = writer.images(12), writer.images(40)
    result = quantize_model(model, calibration, calibration=CalibrationOptions(method=method))
    found = compare(result, images)
    assert found.outputs[0].cosine > 0.99
    assert found.agreement >= 0.95
    assert all(item.cosine > 0.99 for item in found.layers)
    assert len(found.layers) == len(result.model.layers)


def test_mobile_network_runs_on_the_kpu_without_detours() -> None:
    writer = ModelWriter((3, 32, 32))
    result = quantize_model(mobile_net(writer), writer.images(2))
    names = [type(layer).__name__ for layer in result.kmodel.layers]
    assert names == ["K210Conv"] * 9 + ["Dequantize", "GlobalAveragePool2d", "FullyConnected"]
    pools = [layer.fields["pool_type"] for layer in result.kmodel.layers if isinstance(layer, K210Conv)]
    assert pools == [5, 0, 0, 0, 5, 0, 0, 0, 5]


def test_file_read_again_is_the_model() -> None:
    writer = ModelWriter((3, 32, 32))
    result = quantize_model(mobile_net(writer), writer.images(2))
    assert read_kmodel(result.data) == result.kmodel
    assert write_kmodel(read_kmodel(result.data)) == result.data


def test_the_same_images_give_the_same_bytes() -> None:
    files = []
    for _ in range(2):
        writer = ModelWriter((3, 32, 32))
        files.append(quantize_model(mobile_net(writer), writer.images(2)).data)
    assert files[0] == files[1]


def test_classifier_may_end_in_softmax_and_large_dense_layers_run_on_the_kpu() -> None:
    def build(writer: ModelWriter) -> FloatModel:
        pooled = writer.add(FloatOp.GLOBAL_AVERAGE_POOL2D, writer.conv(IN, 40))
        return writer.model(writer.add(FloatOp.SOFTMAX, writer.dense(pooled, 40, 30)))

    on_cpu, snr = quantized(build, (3, 12, 12))
    assert snr > 28
    assert isinstance(on_cpu.kmodel.layers[-1], Softmax)
    on_kpu, snr = quantized(build, (3, 12, 12), options=OnKpu)
    assert snr > 20
    names = [type(layer).__name__ for layer in on_kpu.kmodel.layers]
    assert names[-6:] == ["Quantize", "K210AddPadding", "K210Conv", "K210RemovePadding", "Dequantize", "Softmax"]


def test_two_outputs_of_different_kinds() -> None:
    def build(writer: ModelWriter) -> FloatModel:
        first = writer.conv(IN, 6)
        return writer.model(first, writer.dense(first, 6 * 8 * 8, 4))

    bytes_too, snr = quantized(build, (3, 8, 8), options=LoweringOptions(float_outputs=False))
    assert snr > 28
    assert [meaning is None for meaning in bytes_too.outputs] == [False, True]
    assert [place.size for place in bytes_too.kmodel.outputs] == [6 * 64, 16]


def test_depthwise_stride_is_picked_by_the_next_pointwise_layer() -> None:
    result, _ = quantized(LAYERS["depthwise stride 2 then 1x1"], (4, 16, 20))
    convs = [layer.fields for layer in result.kmodel.layers if isinstance(layer, K210Conv)]
    assert [(f["depth_wise_layer"], f["pool_type"], f["o_row_wid"] + 1) for f in convs] == [(1, 0, 20), (0, 5, 10)]


@pytest.mark.parametrize(("scale", "offset"), [(1 / 128, -1.0), (1 / 255, 0.0), (1 / 127.5, -1.0), (0.5, -20.2)])
def test_any_meaning_of_camera_bytes_is_respected(scale: float, offset: float) -> None:
    def build(writer: ModelWriter) -> FloatModel:
        return writer.model(writer.conv(IN, 6), input_scale=scale, input_offset=offset)

    result, snr = quantized(build, (3, 20, 20))
    assert snr > 28
    fields = result.kmodel.layers[0].fields
    assert fields["pad_value"] == round(-offset / scale + 1e-9)


def test_channel_without_weights_gives_its_bias() -> None:
    def build(writer: ModelWriter) -> FloatModel:
        model = writer.model(writer.conv(IN, 6, norm=False, activation=LINEAR))
        weights = model.layers[0].weights.copy()
        weights[2] = 0
        return replace(model, layers=(replace(model.layers[0], weights=weights),))

    assert quantized(build, (3, 8, 8))[1] > 28


def test_weights_of_very_different_channels_keep_their_precision() -> None:
    def build(writer: ModelWriter) -> FloatModel:
        model = writer.model(writer.conv(IN, 6, norm=False), writer.conv(0, 6, 1))
        factors = 10.0 ** np.arange(-3, 3)
        first, second = model.layers
        return replace(model, outputs=(1,), layers=(
            replace(first, weights=first.weights * factors[:, None, None, None], bias=first.bias * factors),
            replace(second, weights=second.weights / factors[None, :, None, None])))

    writer = ModelWriter((3, 12, 12))
    images = writer.images(4)
    result = quantize_model(build(writer), images)
    per_channel = next(layer.batch_norm.mul for layer in result.kmodel.layers if isinstance(layer, K210Conv))
    assert per_channel.max() / max(per_channel.min(), 1) > 1e4


def test_falling_activation_is_reported() -> None:
    build = LAYERS["hard-swish"]
    steps, _ = quantized(build, (4, 9, 7))
    slopes, _ = quantized(build, (4, 9, 7), options=LoweringOptions(falling=Falling.SLOPES))
    assert (steps.tables[0].falls, slopes.tables[0].falls) == (False, True)
    assert steps.tables[0].max_error > slopes.tables[0].max_error >= 0.5


def test_many_output_channels_are_split_over_layers() -> None:
    result, snr = quantized(lambda w: w.model(w.conv(w.conv(IN, 400, norm=False), 600, norm=False)), (3, 4, 4),
                            images=2)
    assert snr > 28
    assert sum(isinstance(layer, K210Conv) for layer in result.kmodel.layers) == 3


# --- rewrites -----------------------------------------------------------------------------------------------------


def test_rewrites_change_the_list_but_not_the_function() -> None:
    writer = ModelWriter((3, 12, 12))
    index = writer.conv(_padded(writer), 6, padding=(0, 0, 0, 0), activation=LINEAR)
    index = writer.add(FloatOp.ACTIVATION, index, activation=RELU)
    _named_conv(writer, index, 6)  # nobody reads it
    model = writer.model(writer.add(FloatOp.MAX_POOL2D, index, kernel=(2, 2), stride=(2, 2)))
    small = prepared(model)
    assert [layer.op for layer in small.layers] == [FloatOp.CONV2D, FloatOp.MAX_POOL2D]
    assert (small.layers[0].padding, small.layers[0].activation) == (SAME, RELU)
    images = writer.images(2)
    assert np.allclose(run_float_model(model, images)[-1], run_float_model(small, images)[-1], atol=1e-4)


def test_activation_stays_where_the_sum_is_read_twice() -> None:
    writer = ModelWriter((3, 12, 12))
    first = writer.conv(IN, 6, activation=LINEAR)
    relu = writer.add(FloatOp.ACTIVATION, first, activation=RELU)
    model = writer.model(first, relu)
    assert [layer.op for layer in prepared(model).layers] == [FloatOp.CONV2D, FloatOp.ACTIVATION]
    images = writer.images(3)
    assert min(item.snr_db for item in compare(quantize_model(model, images), images).outputs) > 28


@pytest.mark.parametrize(("scales", "factors"), [((1.0, 1.0), [127, 127]), ((1.0, 0.5), [126, 63]),
                                                 ((1e-3, 1.0), [0, 127]), ((3.0, 1.0, 2.0), [126, 42, 84])])
def test_scales_of_a_sum_become_small_whole_ratios(scales: tuple[float, ...], factors: list[int]) -> None:
    assert add_factors(scales) == factors


# --- refusals -----------------------------------------------------------------------------------------------------


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.help
    return diagnostic.code


def layer(op: FloatOp, *inputs: int, **fields: object) -> FloatLayer:
    return FloatLayer(name="x", op=op, inputs=inputs, **fields)


@pytest.mark.parametrize("broken", [
    layer(FloatOp.CONV2D, IN), layer(FloatOp.CONV2D, IN, weights=np.ones((2, 4, 3, 3))),
    layer(FloatOp.CONV2D, IN, weights=np.ones((2, 3, 9, 9))), layer(FloatOp.DENSE, IN, weights=np.ones((2, 5))),
    layer(FloatOp.ADD, IN), layer(FloatOp.MAX_POOL2D, 0), layer(FloatOp.FLATTEN), layer(FloatOp.FLATTEN, IN, IN),
    layer(FloatOp.CONV2D, IN, weights=np.full((2, 3, 1, 1), np.nan)),
    layer(FloatOp.CONV2D, IN, weights=np.ones((2, 3, 1, 1)), bias=np.array([0.0, np.inf])),
    layer(FloatOp.RESHAPE, IN, shape=TensorShape(1, 1, 1)), layer(FloatOp.ZERO_PAD2D, IN, padding=(-1, 0, 0, 0))])
def test_layer_that_does_not_fit_is_refused(broken: FloatLayer) -> None:
    shape = TensorShape(3, 8, 8)
    assert code_of(lambda: FloatModel(name="m", input_shape=shape, layers=(broken,))) == "E0770"


def test_model_without_layers_or_with_unknown_outputs_is_refused() -> None:
    shape = TensorShape(3, 8, 8)
    assert code_of(lambda: FloatModel(name="m", input_shape=shape, layers=())) == "E0770"
    flat = layer(FloatOp.FLATTEN, IN)
    assert code_of(lambda: FloatModel(name="m", input_shape=shape, layers=(flat,), outputs=(1,))) == "E0770"


@pytest.mark.parametrize("images", [np.zeros((2, 3, 8, 9), np.uint8), np.zeros((3, 8, 8), np.uint8),
                                    np.zeros((2, 3, 8, 8)), np.zeros((0, 3, 8, 8), np.uint8)])
def test_unsuitable_images_are_refused(images: np.ndarray) -> None:
    writer = ModelWriter((3, 8, 8))
    model = writer.model(writer.conv(IN, 4))
    assert code_of(lambda: quantize_model(model, images)) == "E0771"


def test_images_that_never_mean_zero_are_refused() -> None:
    writer = ModelWriter((3, 8, 8))
    model = writer.model(writer.conv(IN, 4), input_offset=1.0)
    assert code_of(lambda: quantize_model(model, writer.images(1))) == "E0771"


def test_network_that_overflows_is_refused_by_name() -> None:
    writer = ModelWriter((3, 8, 8))
    model = writer.model(writer.conv(IN, 4, norm=False), input_scale=1e30, input_offset=-1e32)
    huge = replace(model, layers=(replace(model.layers[0], weights=model.layers[0].weights * 1e30),))
    with np.errstate(over="ignore", invalid="ignore"):
        assert code_of(lambda: quantize_model(huge, writer.images(1))) == "E0777"


@pytest.mark.parametrize("build", [
    conv(kernel=11, padding=(5, 5, 5, 5)),
    lambda w: w.model(w.dense(IN, 12 * 12 * 12, 4, ActivationFunction(kind=ActivationKind.TANH))),
    lambda w: w.model(w.add(FloatOp.AVERAGE_POOL2D, IN, kernel=(5, 5), padding=(2, 2, 2, 2)))])
def test_layer_without_form_is_refused_by_name(build: Build) -> None:
    writer = ModelWriter((12, 12, 12))
    model = build(writer)
    assert code_of(lambda: quantize_model(model, writer.images(1))) == "E0772"


def test_maps_beyond_the_memory_of_the_kpu_are_refused() -> None:
    writer = ModelWriter((3, 128, 128))
    model = writer.model(writer.add(FloatOp.GLOBAL_MAX_POOL2D, writer.conv(writer.conv(IN, 100), 100, 1)))
    assert code_of(lambda: quantize_model(model, writer.images(1))) == "E0773"


def test_main_memory_and_file_beyond_the_chip_are_refused() -> None:
    writer = ModelWriter((3, 64, 64))
    pooled = writer.add(FloatOp.GLOBAL_AVERAGE_POOL2D, writer.conv(IN, 400, 1, norm=False))
    assert code_of(lambda: quantize_model(writer.model(pooled), writer.images(1))) == "E0774"
    writer = ModelWriter((8, 8, 8))
    model = writer.model(writer.dense(IN, 512, 3500))
    many = LoweringOptions(float_dense_bytes=1 << 30)
    assert code_of(lambda: quantize_model(model, writer.images(1), lowering=many)) == "E0775"


def test_uploads_happen_only_where_needed() -> None:
    result, _ = quantized(LAYERS["conv stride 2"], (4, 16, 20))
    assert not any(isinstance(item, K210Upload) for item in result.kmodel.layers)
