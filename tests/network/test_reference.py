"""The golden executor against explicit loops, recorded networks and known answers."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai8x.network.build import build_network
from ai8x.network.ir import Activation, ConvSpec, Eltwise, Layer, Network, Op, Pool, PoolSpec, TensorShape
from ai8x.network.reference import accumulator_dtype, compare_traces, run_network
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import read_network_file
from tests.network import naive
from tests.strategies import networks, samples

CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases"
RECORDED = sorted(path.name for path in (CASES / "max78000").glob("*") if path.is_dir())
TRAINED = sorted(path.name for path in (CASES / "max78000-trained").glob("*") if path.is_dir())


def conv_layer(weights, *, shape=None, **changes):
    weights = np.asarray(weights, np.int64)
    kernel = weights.shape[2:]
    shape = shape or TensorShape(weights.shape[1], 1, 1)
    size = (shape.height - kernel[0] + 1, shape.width - kernel[1] + 1)
    values = {
        "name": "layer0", "index": 0, "op": Op.CONV2D, "inputs": (-1,), "operand_shape": shape,
        "out_shape": TensorShape(weights.shape[0], *size), "conv": ConvSpec(kernel=kernel), "weights": weights,
    }
    return Layer(**(values | changes))


def run_single(layer, sample):
    network = Network(name="n", input_shape=layer.operand_shape, layers=(layer,))
    return run_network(network, np.asarray(sample))[0]


@settings(max_examples=150)
@given(networks(max_layers=3, max_channels=4, max_size=6), st.data(), st.booleans())
def test_fast_executor_equals_explicit_loops(network, data, rounded):
    network = dataclasses.replace(network, layers=tuple(dataclasses.replace(layer, average_rounded=rounded)
                                                        for layer in network.layers))
    sample = data.draw(samples(network))
    trace = run_network(network, sample)
    for index, expected in naive.run(network, sample.tolist()).items():
        if index >= 0:
            assert trace[index].tolist() == expected, f"layer {index}"


@given(networks(max_layers=3), st.data())
def test_batch_equals_single_samples(network, data):
    batch = np.stack([data.draw(samples(network)) for _ in range(3)])
    together = run_network(network, batch)
    for index, sample in enumerate(batch):
        alone = run_network(network, sample)
        assert all(np.array_equal(together[layer][index], alone[layer]) for layer in alone)


def test_slices_of_a_batch_give_the_same_result(monkeypatch):
    rng = np.random.default_rng(0)
    shape = TensorShape(3, 6, 6)
    layer = conv_layer(rng.integers(-128, 128, (4, 3, 3, 3)), shape=shape)
    batch = rng.integers(-128, 128, (7, 3, 6, 6))
    whole = run_single(layer, batch)
    monkeypatch.setattr("ai8x.network.reference.MAX_WORK_ELEMENTS", 1)
    assert np.array_equal(run_single(layer, batch), whole)


@pytest.mark.parametrize(("weights", "values", "shift", "expected"), [
    ([64], [1], 0, 1), ([63], [1], 0, 0), ([-64], [1], 0, 0), ([-65], [1], 0, -1),
    ([127, 127, 64], [127, 1, 1], 0, 127), ([-128, -128, -65], [127, 1, 1], 0, -128),
    ([1], [1], 7, 1), ([1], [1], 15, 127), ([-1], [1], 15, -128), ([100], [1], 8, 127), ([32], [1], 1, 1),
    ([-32], [1], 1, 0), ([-33], [1], 1, -1), ([-128] * 128, [-128] * 128, -15, 1), ([127], [127], -15, 0),
])
def test_rounding_is_half_up_and_saturates(weights, values, shift, expected):
    layer = conv_layer(np.array(weights)[None, :, None, None], output_shift=shift)
    assert run_single(layer, np.array(values)[:, None, None]).item() == expected


@pytest.mark.parametrize(("activation", "total", "expected"), [
    (Activation.ABS, -128, 127), (Activation.ABS, -5, 5), (Activation.RELU, -5, 0), (Activation.RELU, 5, 5),
    (Activation.NONE, -128, -128),
])
def test_activation_follows_clipping(activation, total, expected):
    layer = conv_layer([[[[64]]]], output_shift=1, activation=activation)
    assert run_single(layer, [[[total]]]).item() == expected


def test_bias_enters_with_seven_bits_for_every_width():
    for bits in (1, 2, 4, 8):
        layer = conv_layer([[[[0]]]], weight_bits=bits, bias=np.array([-3]))
        assert run_single(layer, [[[5]]]).item() == -3


def test_wide_output_is_the_accumulator():
    layer = conv_layer(np.full((1, 1, 3, 3), -128), shape=TensorShape(1, 3, 3), output_bits=32, bias=np.array([1]))
    result = run_single(layer, np.full((1, 3, 3), -128))
    assert (result.dtype, result.item()) == (np.int32, 9 * 128 * 128 + 128)


@pytest.mark.parametrize(("rounded", "values", "expected"), [
    (False, [3, 0], 1), (False, [-3, 0], -1), (False, [-1, 0], 0), (True, [3, 0], 2), (True, [-3, 0], -2),
    (True, [-1, 0], -1), (False, [127, 127], 127), (True, [-128, -128], -128),
])
def test_average_truncates_or_rounds_away_from_zero(rounded, values, expected):
    layer = Layer(name="p", index=0, op=Op.PASSTHROUGH, inputs=(-1,), operand_shape=TensorShape(1, 2, 1),
                  out_shape=TensorShape(1, 1, 1), pool=PoolSpec(kind=Pool.AVG, window=(2, 1), stride=(2, 1)),
                  average_rounded=rounded)
    assert run_single(layer, [[[value] for value in values]]).item() == expected


def test_combination_saturates_once_at_the_end():
    layer = Layer(name="e", index=0, op=Op.PASSTHROUGH, inputs=(-1, -1, -1), eltwise=Eltwise.SUB,
                  operand_shape=TensorShape(1, 1, 1), out_shape=TensorShape(1, 1, 1))
    assert run_single(layer, [[[100]]]).item() == -100
    assert run_single(dataclasses.replace(layer, eltwise=Eltwise.ADD), [[[100]]]).item() == 127


@pytest.mark.parametrize(("magnitude", "inputs", "expected"), [
    (127, 1032, np.float32), (127, 1033, np.float64), (128, 1024, np.float64), (0, 4000, np.float32),
    (2**46 - 1, 1, np.float64), (2**46, 1, np.int64),
])
def test_sums_use_floating_point_only_where_it_is_exact(magnitude, inputs, expected):
    weights = np.full((2, inputs, 1, 1), magnitude)
    assert (128 * magnitude * inputs < 2**24) == (expected is np.float32)
    assert accumulator_dtype(weights) == expected


def test_saturation_case_is_exact_beyond_float32():
    weights = np.full((1, 1024, 3, 3), -128)
    layer = conv_layer(weights, shape=TensorShape(1024, 3, 3), output_bits=32)
    sample = np.full((1024, 3, 3), -128)
    sample[0, 0, 0] = -127
    assert run_single(layer, sample).item() == 1024 * 9 * 128 * 128 - 128


@pytest.mark.parametrize(("sample", "word"), [
    (np.zeros((1, 2, 2)), "float64"), (np.full((1, 2, 2), 128), "int8"), (np.zeros((2, 2, 2), int), "expects"),
    (np.zeros((4,), int), "expects"),
])
def test_unsuitable_samples_are_refused(sample, word):
    with pytest.raises(ValueError, match=word):
        run_single(conv_layer([[[[1]]]], shape=TensorShape(1, 2, 2)), sample)


def test_one_dimensional_samples_may_lack_the_width():
    layer = conv_layer([[[[2], [1]]]], shape=TensorShape(1, 3, 1), op=Op.CONV1D, output_shift=7)
    assert run_single(layer, [[1, 2, 3]]).tolist() == [[[4], [7]]]


def test_layer_without_weights_is_refused():
    with pytest.raises(ValueError, match="layer 0 'layer0' has no weights"):
        run_single(dataclasses.replace(conv_layer([[[[1]]]]), weights=None), [[[1]]])


def test_wide_accumulators_beyond_32_bits_are_refused():
    layer = conv_layer(np.full((1, 131072, 1, 1), -128), output_bits=32)
    assert run_single(layer, np.full((131072, 1, 1), 127)).item() == -(2**31) + 2**24
    with pytest.raises(ValueError, match="exceed int32"):
        run_single(layer, np.full((131072, 1, 1), -128))


def test_trace_is_a_read_only_mapping():
    layer = conv_layer([[[[64]]]], output_shift=1)
    trace = run_network(Network(name="n", input_shape=layer.operand_shape, layers=(layer,)), np.array([[[3]]]))
    assert (list(trace), len(trace)) == ([0], 1)
    with pytest.raises(ValueError, match="read-only"):
        trace[0][0, 0, 0] = 1


def two_layers():
    first = conv_layer([[[[64]]], [[[32]]]], shape=TensorShape(1, 2, 3), output_shift=1)
    second = conv_layer([[[[64]], [[0]]]], shape=TensorShape(2, 2, 3), output_shift=1, name="layer1", index=1,
                        inputs=(0,))
    return Network(name="n", input_shape=TensorShape(1, 2, 3), layers=(first, second))


def test_first_difference_in_execution_order_is_named():
    network = two_layers()
    expected = run_network(network, np.arange(6).reshape(1, 2, 3))
    assert compare_traces(network, expected, expected) is None
    found = {index: expected[index].copy() for index in expected}
    found[1][0, 0, 0] += 1
    found[0][1, 1, 2] += 3
    found[0][1, 1, 1] -= 1
    difference = compare_traces(network, expected, found)
    place = (difference.layer, difference.channel, difference.row, difference.column)
    assert place == (0, 1, 1, 1)
    assert (difference.expected, difference.found, difference.count, difference.size) == (2, 1, 2, 12)
    assert str(difference) == ("layer 0 'layer0', channel 1, row 1, column 1: expected 2, found 1 "
                               "(2 of 12 values differ)")
    assert compare_traces(network, expected, found, layers=[1]).layer == 1


def test_different_shapes_are_a_difference():
    network = two_layers()
    expected = run_network(network, np.arange(6).reshape(1, 2, 3))
    difference = compare_traces(network, expected, {0: expected[0], 1: expected[1][:, :1]})
    assert str(difference) == "layer 1 'layer1': expected shape (1, 2, 3), found (1, 1, 3)"


def test_missing_layer_is_not_equal():
    network = two_layers()
    expected = run_network(network, np.arange(6).reshape(1, 2, 3))
    with pytest.raises(KeyError):
        compare_traces(network, expected, {0: expected[0]})


def check_case(case, state, sample, expected, arch=None):
    options = (case / "options").read_text().split() if (case / "options").exists() else []
    shape = TensorShape(*(*sample.shape, 1)[:3])
    network = build_network(read_network_file(case / "net.yaml"), parameters_from_state(state), shape,
                            checkpoint_arch=arch, average_rounded="--avg-pool-rounding" in options)
    trace = run_network(network, sample)
    assert set(trace) == set(expected)
    assert compare_traces(network, expected, trace) is None


@pytest.mark.skipif(not RECORDED, reason="the recorded cases are not at hand")
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_network_is_reproduced(name):
    case = CASES / "max78000" / name
    arrays = np.load(case / "case.npz")
    state = {key[2:]: arrays[key] for key in arrays.files if key.startswith("w:")}
    expected = {int(key[1:]): arrays[key] for key in arrays.files if key.startswith("L")}
    check_case(case, state, arrays["sample"], expected)


@pytest.mark.skipif(not TRAINED, reason="the published networks are not at hand")
@pytest.mark.parametrize("name", TRAINED)
def test_published_network_is_reproduced(name):
    from ai8x.checkpoint import read_checkpoint

    case = CASES / "max78000-trained" / name
    checkpoint = read_checkpoint(case / "checkpoint.pth.tar")
    layers = np.load(case / "layers.npz")
    expected = {int(key[1:]): layers[key] for key in layers.files}
    check_case(case, checkpoint.state, np.load(case / "sample.npy"), expected, checkpoint.arch)
