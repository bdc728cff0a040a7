"""Exported networks in ONNX Runtime against the reference, bit for bit, layer by layer."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai8x.checkpoint import read_checkpoint
from ai8x.network.build import build_network
from ai8x.network.ir import Activation, ConvSpec, Eltwise, Layer, Network, Op, Pool, PoolSpec, TensorShape
from ai8x.network.onnx import FLOAT32_INTEGERS, export_onnx
from ai8x.network.reference import run_network
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import read_network_file
from tests.strategies import networks, samples

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")

CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases"
TRAINED = sorted(path.name for path in (CASES / "max78000-trained").glob("*") if path.is_dir())
RECORDED = sorted(path.name for path in (CASES / "max78000").glob("*") if path.is_dir())


def run_onnx(content: bytes, batch: np.ndarray) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"input": batch.astype(np.int8)}), strict=True))


def assert_equal(network: Network, batch: np.ndarray) -> None:
    """Every layer's tensor and its type."""
    found = run_onnx(export_onnx(network, layers=range(len(network.layers))), batch)
    expected = run_network(network, batch)
    assert len(found) == len(network.layers)
    for layer, tensor in zip(network.layers, found.values(), strict=True):
        assert tensor.dtype == expected[layer.index].dtype
        assert np.array_equal(tensor, expected[layer.index]), layer.name


@settings(max_examples=120, deadline=None)
@given(networks(max_layers=4), st.data(), st.booleans())
def test_every_operator_is_equal(network: Network, data, rounded: bool) -> None:
    network = dataclasses.replace(network, layers=tuple(dataclasses.replace(layer, average_rounded=rounded)
                                                        for layer in network.layers))
    assert_equal(network, np.stack([data.draw(samples(network)) for _ in range(2)]))


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("window", range(1, 17))
def test_averages_of_every_window_are_equal(window: int, rounded: bool) -> None:
    random = np.random.default_rng(window)
    batch = np.concatenate([random.integers(-128, 128, (60, 1, 16, 16)), random.integers(-2, 3, (60, 1, 16, 16)),
                            np.full((1, 1, 16, 16), -128), np.full((1, 1, 16, 16), 127)])
    size = 16 // window
    layer = Layer(name="pool", index=0, op=Op.PASSTHROUGH, inputs=(-1,), operand_shape=TensorShape(1, 16, 16),
                  out_shape=TensorShape(1, size, size), average_rounded=rounded,
                  pool=PoolSpec(kind=Pool.AVG, window=(window, window), stride=(window, window)))
    assert_equal(Network(name="n", input_shape=TensorShape(1, 16, 16), layers=(layer,)), batch)


@pytest.mark.parametrize("shift", [-15, -8, -1, 0, 7, 15])
@pytest.mark.parametrize("activation", Activation)
def test_shifts_and_activations_are_equal(shift: int, activation: Activation) -> None:
    random = np.random.default_rng(7)
    shape = TensorShape(20, 4, 5)
    layer = Layer(name="conv", index=0, op=Op.CONV2D, inputs=(-1,), operand_shape=shape,
                  out_shape=TensorShape(8, 4, 5), conv=ConvSpec(kernel=(3, 3), padding=(1, 1)), output_shift=shift,
                  activation=activation, weights=random.integers(-128, 128, (8, 20, 3, 3)),
                  bias=random.integers(-128, 128, 8))
    assert_equal(Network(name="n", input_shape=shape, layers=(layer,)), random.integers(-128, 128, (8, 20, 4, 5)))


@pytest.mark.parametrize(("op", "groups"), [(Op.CONV2D, 1), (Op.CONV2D, 2), (Op.CONV_TRANSPOSE2D, 1),
                                            (Op.CONV_TRANSPOSE2D, 2), (Op.LINEAR, 1)])
@pytest.mark.parametrize("wide", [False, True])
def test_sums_beyond_float32_are_equal(op: Op, groups: int, wide: bool) -> None:
    random = np.random.default_rng(3)
    shape = TensorShape(1024, 2, 2) if op is not Op.LINEAR else TensorShape(1024, 1, 1)
    kernel = (1, 1) if op is Op.LINEAR else (3, 3)
    stride = (2, 2) if op is Op.CONV_TRANSPOSE2D else (1, 1)
    conv = ConvSpec(kernel=kernel, padding=(0, 0) if op is Op.LINEAR else (1, 1), groups=groups, stride=stride,
                    output_padding=int(op is Op.CONV_TRANSPOSE2D))
    size = 4 if op is Op.CONV_TRANSPOSE2D else shape.height
    weights = random.integers(100, 128, (4, 1024 // groups, *kernel))
    layer = Layer(name="big", index=0, op=op, inputs=(-1,), operand_shape=shape, out_shape=TensorShape(4, size, size),
                  conv=conv, weights=weights, bias=random.integers(-128, 128, 4), output_bits=32 if wide else 8,
                  output_shift=0 if wide else -13)
    assert 128 * int(weights.sum(axis=(1, 2, 3)).max()) > FLOAT32_INTEGERS or op is Op.LINEAR
    batch = random.integers(100, 128, (2, *shape.as_tuple()))
    batch[1] *= -1
    assert_equal(Network(name="n", input_shape=shape, layers=(layer,)), batch)


@pytest.mark.parametrize("eltwise", Eltwise)
def test_all_pairs_of_int8_are_combined_equally(eltwise: Eltwise) -> None:
    values = np.arange(-128, 128)
    batch = np.stack(np.broadcast_arrays(values[:, None], values[None, :]))[None]
    shape = TensorShape(2, 256, 256)
    picks = [Layer(name=f"pick{c}", index=c, op=Op.CONV2D, inputs=(-1,), operand_shape=shape,
                   out_shape=TensorShape(1, 256, 256), conv=ConvSpec(), output_shift=1,
                   weights=np.eye(2, dtype=np.int64)[c].reshape(1, 2, 1, 1) * 64) for c in range(2)]
    both = Layer(name="both", index=2, op=Op.PASSTHROUGH, inputs=(0, 1), eltwise=eltwise,
                 operand_shape=TensorShape(1, 256, 256), out_shape=TensorShape(1, 256, 256))
    assert_equal(Network(name="n", input_shape=shape, layers=(*picks, both)), batch)


def check_recorded(case: Path, state: dict, sample: np.ndarray, expected: dict[int, np.ndarray]) -> None:
    options = (case / "options").read_text().split() if (case / "options").exists() else []
    network = build_network(read_network_file(case / "net.yaml"), parameters_from_state(state),
                            TensorShape(*(*sample.shape, 1)[:3]), average_rounded="--avg-pool-rounding" in options)
    found = run_onnx(export_onnx(network, layers=range(len(network.layers))),
                     sample.reshape(1, *network.input_shape.as_tuple()))
    for layer, tensor in zip(network.layers, found.values(), strict=True):
        assert np.array_equal(tensor[0], expected[layer.index]), layer.name


@pytest.mark.skipif(not RECORDED, reason="the recorded cases are not at hand")
@pytest.mark.parametrize("name", RECORDED)
def test_recorded_networks_are_equal(name: str) -> None:
    case = CASES / "max78000" / name
    arrays = np.load(case / "case.npz")
    state = {key[2:]: arrays[key] for key in arrays.files if key.startswith("w:")}
    check_recorded(case, state, arrays["sample"], {int(k[1:]): arrays[k] for k in arrays.files if k.startswith("L")})


@pytest.mark.skipif(not TRAINED, reason="the published networks are not at hand")
@pytest.mark.parametrize("name", TRAINED)
def test_published_networks_are_equal(name: str) -> None:
    case = CASES / "max78000-trained" / name
    layers = np.load(case / "layers.npz")
    check_recorded(case, read_checkpoint(case / "checkpoint.pth.tar").state, np.load(case / "sample.npy"),
                   {int(key[1:]): layers[key] for key in layers.files})


def test_file_describes_itself() -> None:
    layer = Layer(name="conv", index=0, op=Op.CONV2D, inputs=(-1,), operand_shape=TensorShape(1, 3, 3),
                  out_shape=TensorShape(1, 3, 3), conv=ConvSpec(), weights=np.ones((1, 1, 1, 1), np.int64),
                  weight_bits=4, output_shift=4)
    network = Network(name="net", dataset="data", input_shape=TensorShape(1, 3, 3), layers=(layer,), labels=("a", "b"))
    content = export_onnx(network)
    model = onnx.load_from_string(content)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert model.graph.name == "net" and model.producer_name == "ai8x"
    assert json.loads(properties["ai8x.layers"])[0]["weight_bits"] == 4
    assert json.loads(properties["ai8x.labels"]) == ["a", "b"]
    assert [o.name for o in model.graph.output] == ["conv"]
    assert {opset.domain for opset in model.opset_import} == {""}
    assert content == export_onnx(network)


def test_layers_of_one_name_and_input_get_names_of_their_own() -> None:
    layers = tuple(Layer(name=name, index=i, op=Op.PASSTHROUGH, inputs=(-1,), operand_shape=TensorShape(1, 2, 2),
                         out_shape=TensorShape(1, 2, 2)) for i, name in enumerate(("input", "input_float")))
    network = Network(name="n", input_shape=TensorShape(1, 2, 2), layers=layers)
    found = run_onnx(export_onnx(network, layers=(0, 1)), np.ones((1, 1, 2, 2)))
    assert len(found) == 2 and all(np.array_equal(v, np.ones((1, 1, 2, 2))) for v in found.values())
