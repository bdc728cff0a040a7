"""Running whole kmodels: CPU layers, main buffer, what the runner would not survive, and recorded runs."""

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.errors import HardwareFault, UserError
from ai8x.k210 import kmodel_layers as v3
from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.interpreter_cpu import fused_multiply_add, run_cpu_layer
from ai8x.k210.interpreter_memory import MainMemory, defined
from ai8x.k210.kmodel import KModel
from ai8x.k210.simulator import KpuOptions
from tests.k210.kpu_layers import Shape, conv, model, pattern_image, pattern_weights, single

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "k210"
IN, OUT, SIZE = 0, 256, 512
F32 = np.float32


def compute(layer: v3.KModelLayer, data: Any, dtype: Any, count: int) -> np.ndarray:
    """Run one CPU layer on data at address IN; the elements at address OUT."""
    memory = MainMemory(SIZE)
    memory.write(IN, defined(np.asarray(data)), "test")
    run_cpu_layer(layer, memory, "layer 0")
    result = memory.read(OUT, count, dtype, "test")
    assert not result.undefined.any()
    return result.values


def floats(*values: float) -> np.ndarray:
    return np.array(values, F32)


POOL = {"input": IN, "output": OUT, "input_width": 3, "input_height": 3, "input_channels": 1, "output_width": 2,
        "output_height": 2, "output_channels": 1, "kernel_width": 3, "kernel_height": 3, "stride_width": 2,
        "stride_height": 2, "pad_width": 1, "pad_height": 1}
RESIZE = {"input": IN, "output": OUT, "input_width": 2, "input_height": 1, "channels": 1, "output_width": 5,
          "output_height": 2, "align_corners": 1}
PAIR = {"input_a": IN, "input_b": IN + 16, "output": OUT}

CPU_LAYERS: dict[str, tuple[v3.KModelLayer, np.ndarray, Sequence[float]]] = {
    "add": (v3.Add(**PAIR, count=2), floats(1.5, -2, 0, 0, 0.25, 8), [1.75, 6]),
    "global average": (v3.GlobalAveragePool2d(input=IN, output=OUT, kernel_size=2, channels=2), floats(1, 2, -3, 5),
                       [1.5, 1]),
    "quantized max pool": (v3.QuantizedMaxPool2d(**POOL), np.arange(9, dtype=np.uint8), [4, 5, 7, 8]),
    "average pool of valid cells": (v3.AveragePool2d(**POOL, act=1), floats(*range(-4, 5)), [-2, -1, 1, 2]),
    "quantize half away from zero": (v3.Quantize(input=IN, output=OUT, count=6, scale=2.0, bias=1.0),
                                     floats(2, 4, 1, 0, -3, 9999), [1, 2, 0, 0, 0, 255]),
    "dequantize": (v3.Dequantize(input=IN, output=OUT, count=2, scale=0.5, bias=-1.0), np.array([0, 255], np.uint8),
                   [-1, 126.5]),
    "requantize": (v3.Requantize(input=IN, output=OUT, count=3, table=np.arange(256)[::-1]),
                   np.array([0, 1, 255], np.uint8), [255, 254, 0]),
    "l2 normalization": (v3.L2Normalization(input=IN, output=OUT, channels=2), floats(3, 4), floats(0.6, 0.8)),
    "l2 normalization of zeros": (v3.L2Normalization(input=IN, output=OUT, channels=2), floats(0, 0), [0, 0]),
    "softmax": (v3.Softmax(input=IN, output=OUT, channels=2), floats(0, math.log(3)), [0.25, 0.75]),
    "concat": (v3.Concat(output=OUT, ranges=(v3.MemoryRange(address=4, size=4), v3.MemoryRange(address=0, size=4))),
               floats(1, 2), [2, 1]),
    "quantized concat": (v3.QuantizedConcat(output=OUT, ranges=(v3.MemoryRange(address=2, size=1),
                                                                v3.MemoryRange(address=0, size=2))),
                         np.array([7, 8, 9], np.uint8), [9, 7, 8]),
    "flatten": (v3.TensorflowFlatten(input=IN, output=OUT, width=2, height=1, channels=2), floats(1, 2, 3, 4),
                [1, 3, 2, 4]),
    "quantized flatten": (v3.QuantizedTensorflowFlatten(input=IN, output=OUT, width=2, height=1, channels=2),
                          np.array([1, 2, 3, 4], np.uint8), [1, 3, 2, 4]),
    "resize": (v3.ResizeNearestNeighbor(**RESIZE), floats(1, 2), [1, 1, 1, 2, 2] * 2),
    "quantized resize": (v3.QuantizedResizeNearestNeighbor(**RESIZE), np.array([1, 2], np.uint8), [1, 1, 1, 2, 2] * 2),
    "channelwise dequantize": (
        v3.ChannelwiseDequantize(input=IN, output=OUT, channels=2, channel_size=2, scale=floats(1, 2),
                                 bias=floats(0, 5)),
        np.array([1, 2, 3, 4], np.uint8), [1, 2, 11, 13]),
    "logistic": (v3.Logistic(input=IN, output=OUT, channels=2), floats(0, math.log(3)), [0.5, 0.75]),
    "remove padding": (v3.K210RemovePadding(input=IN, output=OUT, channels=2), np.arange(32, dtype=np.uint8),
                       [0, 16]),
}
FLOAT_RESULTS = {"add", "global average", "average pool of valid cells", "dequantize", "l2 normalization",
                 "l2 normalization of zeros", "softmax", "concat", "flatten", "resize", "channelwise dequantize",
                 "logistic"}


@pytest.mark.parametrize("name", CPU_LAYERS)
def test_cpu_layer(name: str) -> None:
    layer, data, expected = CPU_LAYERS[name]
    found = compute(layer, data, F32 if name in FLOAT_RESULTS else np.uint8, len(expected))
    assert found.tolist() == np.array(expected, found.dtype).tolist()


@pytest.mark.parametrize(("act", "expected"), [(0, [-4.5, 10.5]), (1, [0, 10.5]), (2, [0, 6])])
def test_fully_connected(act: int, expected: list[float]) -> None:
    layer = v3.FullyConnected(input=IN, output=OUT, input_channels=2, output_channels=2, act=act,
                              weights=np.array([[2, -3], [1, 4]], F32), bias=floats(-2.5, 0.5))
    assert compute(layer, floats(2, 2), F32, 2).tolist() == expected


def test_fully_connected_sums_with_one_rounding_per_product() -> None:
    step = F32(1 + 2**-12)
    layer = v3.FullyConnected(input=IN, output=OUT, input_channels=2, output_channels=1, act=0, bias=floats(0),
                              weights=np.array([[-1, step]], F32))
    # step**2 needs 25 bits; subtracting 1 before rounding keeps them.
    assert compute(layer, np.array([1, step], F32), F32, 1).tolist() == [2**-11 + 2**-24]


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(FINITE, FINITE, FINITE)
def test_fused_multiply_add_rounds_once(a: float, b: float, c: float) -> None:
    with np.errstate(all="ignore"):
        found = float(fused_multiply_add(floats(a), floats(b), floats(c))[0])
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if not math.isfinite(found):
        assert abs(exact) > Fraction(float(np.finfo(F32).max))
        return
    neighbours = [float(np.nextafter(F32(found), F32(side))) for side in (-np.inf, np.inf)]
    error = abs(Fraction(found) - exact)
    assert all(error <= abs(Fraction(other) - exact) for other in neighbours if math.isfinite(other))


def test_fused_multiply_add_is_not_fooled_by_a_tie_in_double_precision() -> None:
    # Exact: 1 + 2**-23 + 2**-24 - 2**-70. Rounded to float64 first it would be a tie, which goes up to even.
    found = fused_multiply_add(floats(1 + 2**-23), floats(2**-24 * (1 - 2**-23)), floats(1 + 2**-23))
    assert found.tolist() == [1 + 2**-23]


@pytest.mark.parametrize(("numbers", "expected"), [
    ({"offset_output": 3}, 33), ({"mul_output": 7, "shift_output": 1}, 105), ({"shift_a": 1, "shift_b": 1}, 15),
    ({"shift_a": 1, "shift_b": 2}, 10), ({"offset_a": -300, "offset_b": -300}, 0), ({"mul_a": 100}, 255),
    ({"offset_output": -40, "mul_output": 3, "shift_output": 2}, 0), ({"mul_output": 3, "shift_output": 2}, 23)])
def test_quantized_add(numbers: dict[str, int], expected: int) -> None:
    values = {"offset_a": 0, "mul_a": 1, "shift_a": 0, "offset_b": 0, "mul_b": 1, "shift_b": 0, "offset_output": 0,
              "mul_output": 1, "shift_output": 0} | numbers
    layer = v3.QuantizedAdd(**PAIR, count=3, **values)
    assert compute(layer, np.array([10] * 16 + [20] * 16, np.uint8), np.uint8, 8).tolist() == [expected] * 8


def test_softmax_of_very_negative_logits_is_not_a_number() -> None:
    layer = v3.Softmax(input=IN, output=OUT, channels=2)
    assert np.isnan(compute(layer, floats(-200, -300), F32, 2)).all()


def run_cpu(layer: v3.KModelLayer, size: int = 64) -> None:
    memory = MainMemory(size)
    memory.write(0, defined(np.zeros(size, np.uint8)), "test")
    run_cpu_layer(layer, memory, "layer 3 'X'")


@pytest.mark.parametrize(("layer", "reason"), [
    (v3.Softmax(input=60, output=0, channels=2), "input: bytes 0x3c to 0x44 of a main buffer of 0x40"),
    (v3.Softmax(input=0, output=60, channels=2), "output: bytes 0x3c to 0x44"),
    (v3.Softmax(input=2, output=16, channels=2), "not a multiple of 4"),
    (v3.Softmax(input=0, output=0, channels=0), "empty"),
    (v3.Dequantize(input=0, output=0, count=4, scale=1.0, bias=0.0), "overlap"),
    (v3.L2Normalization(input=0, output=4, channels=2), "overlap"),
    (v3.Softmax(input=0, output=4, channels=2), "overlap"),
    (v3.QuantizedAdd(**PAIR | {"output": 32}, count=8, offset_a=0, mul_a=1, shift_a=63, offset_b=0, mul_b=1, shift_b=0,
                     offset_output=0, mul_output=1, shift_output=0), "0 to 62 are defined"),
    (v3.QuantizedAdd(**PAIR | {"output": 32}, count=8, offset_a=1 << 30, mul_a=1 << 30, shift_a=0, offset_b=0, mul_b=1,
                     shift_b=0, offset_output=0, mul_output=1 << 30, shift_output=0), "64 bits"),
    (v3.QuantizedMaxPool2d(**POOL | {"output": 32, "output_channels": 2}), "1 channels in, 2 out"),
    (v3.QuantizedMaxPool2d(**POOL | {"output": 32, "output_width": 1 << 31}), "windows"),
    (v3.QuantizedMaxPool2d(**POOL | {"output": 32, "output_width": 0}), "0 windows"),
    (v3.QuantizedConcat(output=0, ranges=(v3.MemoryRange(address=0, size=64),) * 1000), "output: bytes 0x0 to 0xfa00"),
    (v3.QuantizedResizeNearestNeighbor(**RESIZE | {"output": 32, "output_width": 0, "output_height": 1 << 31}),
     "empty output"),
    (v3.QuantizedResizeNearestNeighbor(**RESIZE | {"output": 32, "output_height": 1 << 31}), "output"),
    (v3.FullyConnected(input=0, output=16, input_channels=1, output_channels=1, act=3, weights=np.ones((1, 1)),
                       bias=np.ones(1)), "activation 3"),
    (v3.Quantize(input=0, output=16, count=1, scale=float("nan"), bias=0.0), "NaN"),
    (v3.UnknownLayer(type=10, body=b""), "stops"),
])
def test_cpu_layer_that_breaks_the_runner_is_refused(layer: v3.KModelLayer, reason: str) -> None:
    with pytest.raises(HardwareFault, match="layer 3 'X'") as fault:
        run_cpu(layer)
    assert reason in str(fault.value)


@pytest.mark.parametrize("layer", [
    v3.Softmax(input=0, output=0, channels=2), v3.Logistic(input=0, output=0, channels=2),
    v3.Requantize(input=0, output=0, count=4, table=np.arange(256)), v3.Add(input_a=0, input_b=0, output=0, count=2)])
def test_element_wise_layers_may_work_in_place(layer: v3.KModelLayer) -> None:
    run_cpu(layer)


# ---------------------------------------------------------------------------------------------- undefined memory

ONES = np.ones((4, 2, 1, 1), np.uint8)


def test_output_that_nobody_wrote_is_refused() -> None:
    short = model(conv(ONES, Shape(height=4, width=4)), size=72, main_mem_usage=72)
    with pytest.raises(HardwareFault, match="output 0 at offset 0x1c: the byte at main buffer address 0x40"):
        run_kmodel(short, pattern_image(2, 4, 4))


def padded_vector_model(kernel: int) -> KModel:
    """A vector of four through 4x4 maps, as a linear layer is lowered."""
    weights = np.ones((4, 4, kernel, kernel), np.uint8)
    return model(
        conv(np.ones((4, 2, 3, 3), np.uint8), Shape(height=4, width=4, destination=100)),
        v3.K210AddPadding(input=0, kpu_line=200, channels=4),
        conv(weights, Shape(height=4, width=4, source=200, destination=300), main_memory_output=64),
        v3.K210RemovePadding(input=64, output=0, channels=4), size=4, main_mem_usage=128)


def test_stale_cells_of_padded_vectors_do_not_reach_a_1x1_result() -> None:
    image = np.zeros((2, 4, 4), np.uint8)
    image[0, 0, 1] = 3
    run = run_kmodel(padded_vector_model(1), image)
    # The vector is the first four bytes of channel 0, of which three see the pixel.
    assert run.outputs[0].tolist() == [9] * 4
    assert run.tensors[3].tolist() == [9] * 4


def test_stale_cells_of_padded_vectors_reach_a_3x3_result() -> None:
    with pytest.raises(HardwareFault, match="memory that nobody wrote"):
        run_kmodel(padded_vector_model(3), np.zeros((2, 4, 4), np.uint8))


def test_upload_carries_unwritten_bytes_along() -> None:
    layers: tuple[v3.KModelLayer, ...] = (
        conv(np.ones((1, 2, 3, 3), np.uint8), Shape(height=4, width=4, destination=100)),
        v3.K210Upload(input=8, kpu_line=200, width=4, height=4, channels=1),
        conv(np.ones((1, 1, 1, 1), np.uint8), Shape(height=4, width=4, source=200, destination=300)))
    with pytest.raises(HardwareFault, match="address 0x8"):
        run_kmodel(model(*layers, size=16, main_mem_usage=32), np.zeros((2, 4, 4), np.uint8))
    written = model(layers[0], v3.K210Upload(input=0, kpu_line=200, width=4, height=4, channels=1), layers[2], size=16)
    assert run_kmodel(written, np.ones((2, 4, 4), np.uint8)).outputs[0].reshape(4, 4)[1].tolist() == [12, 18, 18, 12]


def test_zero_weights_hide_unwritten_values_from_a_matrix_product() -> None:
    memory = MainMemory(32)
    memory.write(0, defined(floats(2)), "test")
    for weight, hidden in ((0, True), (1, False)):
        run_cpu_layer(v3.FullyConnected(input=0, output=16, input_channels=2, output_channels=1, act=0, bias=floats(1),
                                        weights=np.array([[3, weight]], F32)), memory, "layer")
        assert memory.read(16, 1, F32, "test").undefined[0] == (not hidden)


# ---------------------------------------------------------------------------------------------- runner rules

def test_result_in_main_memory_needs_whole_items_of_eight_bytes() -> None:
    layer = conv(np.ones((1, 2, 1, 1), np.uint8), Shape(height=5, width=5))
    with pytest.raises(HardwareFault, match="layer 0 'K210_CONV' at offset 0x2c: result: bytes 0x0 to 0x20"):
        run_kmodel(model(layer, size=25, main_mem_usage=31), pattern_image(2, 5, 5))
    assert run_kmodel(model(layer, size=25, main_mem_usage=32), pattern_image(2, 5, 5)).outputs[0].size == 25
    with pytest.raises(HardwareFault, match="address 0x19"):
        run_kmodel(model(layer, size=26, main_mem_usage=32), pattern_image(2, 5, 5))


def test_result_in_main_memory_is_aligned() -> None:
    layer = conv(ONES, Shape(height=4, width=4), main_memory_output=4)
    with pytest.raises(HardwareFault, match="0x4 is not a multiple of 8"):
        run_kmodel(model(layer, size=64, main_mem_usage=128), pattern_image(2, 4, 4))


def test_last_layer_must_leave_the_kpu() -> None:
    layer = conv(ONES, Shape(height=4, width=4), main_memory_output=None)
    with pytest.raises(HardwareFault, match="past the end"):
        run_kmodel(model(layer, size=0), pattern_image(2, 4, 4))


def test_model_larger_than_the_ram_is_refused() -> None:
    layer = conv(ONES, Shape(height=4, width=4))
    with pytest.raises(HardwareFault, match="general RAM of 6291456 bytes"):
        run_kmodel(model(layer, size=64, main_mem_usage=6 << 20), pattern_image(2, 4, 4))


def test_input_must_have_the_shape_and_type_of_the_first_layer() -> None:
    fine = single(conv(ONES, Shape(height=4, width=4)))
    flat = run_kmodel(fine, pattern_image(2, 4, 4).reshape(-1))
    assert flat.outputs[0].tolist() == run_kmodel(fine, pattern_image(2, 4, 4)).outputs[0].tolist()
    for wrong in (pattern_image(2, 4, 5), pattern_image(2, 4, 4).astype(np.int8), pattern_image(1, 8, 4)):
        with pytest.raises(UserError, match="E0712"):
            run_kmodel(fine, wrong)


def test_vector_model_starts_with_a_matrix_product() -> None:
    layer = v3.FullyConnected(input=16, output=0, input_channels=2, output_channels=1, act=0, bias=floats(1),
                              weights=np.array([[2, 3]], F32))
    run = run_kmodel(model(layer, size=4, main_mem_usage=32), floats(10, 20))
    assert run.outputs[0].view(F32).tolist() == [81]
    with pytest.raises(UserError, match="E0712"):
        run_kmodel(model(layer, size=4, main_mem_usage=32), np.zeros(2))


def test_other_first_layers_are_refused() -> None:
    with pytest.raises(UserError, match="E0711"):
        run_kmodel(model(v3.Softmax(input=0, output=0, channels=1), size=4), floats(1))


@pytest.mark.parametrize("layer", [v3.K210AddPadding(input=0, kpu_line=32_765, channels=1),
                                   v3.K210AddPadding(input=0, kpu_line=0, channels=0),
                                   v3.K210Upload(input=0, kpu_line=32_768, width=4, height=4, channels=1),
                                   v3.K210Upload(input=0, kpu_line=0, width=0, height=4, channels=1)])
def test_writes_outside_the_kpu_ram_are_refused(layer: v3.KModelLayer) -> None:
    whole = model(conv(ONES, Shape(height=4, width=4)), layer, size=64)
    with pytest.raises(HardwareFault, match="do not fit the KPU RAM"):
        run_kmodel(whole, pattern_image(2, 4, 4))


def test_type_21_runs_on_sipeed_drivers_only() -> None:
    whole = model(conv(ONES, Shape(height=4, width=4)),
                  v3.QuantizedTensorflowFlatten(input=0, output=64, width=4, height=4, channels=4), size=128)
    assert run_kmodel(whole, pattern_image(2, 4, 4)).outputs[0].size == 128
    with pytest.raises(HardwareFault, match="stock SDK"):
        run_kmodel(whole, pattern_image(2, 4, 4), options=KpuOptions(sipeed_layers=False))


def test_times_and_cycles_are_given_by_layer_index() -> None:
    whole = model(conv(pattern_weights(3, 2, 3), Shape(height=4, width=4)),
                  v3.Dequantize(input=0, output=64, count=10, scale=1.0, bias=0.0), size=48, main_mem_usage=128)
    run = run_kmodel(whole, pattern_image(2, 4, 4))
    assert dict(run.cycles) == {0: 3 * (1 * 11 + 4 + 24)}
    assert run.milliseconds[0] == pytest.approx(0.006 + 0.104 + 117 / 400e3 + 48 / 270e3)
    assert run.milliseconds[1] == pytest.approx(450e-6)


# ---------------------------------------------------------------------------------------------- recorded runs

def recorded_runs() -> list[Path]:
    """All small models; one photograph of the large one."""
    return [path for path in sorted(CASES.glob("*/*.npz"))
            if path.parent.name != "emc_mbnetv1" or path.stem == "photo_tiger"]


@pytest.mark.skipif(not CASES.exists(), reason="the published models are not part of the repository")
@pytest.mark.parametrize("path", recorded_runs(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_published_model_gives_the_recorded_bytes(path: Path) -> None:
    recorded = np.load(path)
    run = run_kmodel((path.parent / "model.kmodel").read_bytes(), recorded["input"], seed=None)  # as was recorded
    digests = [hashlib.sha256(run.layers[int(index)].tobytes()).hexdigest() for index in recorded["conv_index"]]
    assert digests == [str(digest) for digest in recorded["conv_sha256"]]
    expected = recorded["output0"].view(F32)
    assert run.outputs[0].view(F32) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.skipif(not CASES.exists(), reason="the published models are not part of the repository")
def test_published_mobilenet_recognises_the_tiger() -> None:
    folder = CASES / "emc_mbnetv1"
    run = run_kmodel((folder / "model.kmodel").read_bytes(), np.load(folder / "photo_tiger.npz")["input"])
    assert int(run.outputs[0].view(F32).argmax()) == 292
    assert sum(run.milliseconds[index] for index in run.cycles) == pytest.approx(36.9, rel=0.01)
