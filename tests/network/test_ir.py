"""The representation refuses half-valid layers and networks, and answers questions about them."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given

from ai8x.network.ir import ConvSpec, Eltwise, Layer, Network, Op, PoolSpec, TensorShape
from tests.strategies import networks

SHAPE = TensorShape(2, 4, 4)
PASS = Layer(name="a", index=0, op=Op.PASSTHROUGH, inputs=(-1,), operand_shape=SHAPE, out_shape=SHAPE)
CONV = Layer(name="c", index=0, op=Op.CONV2D, inputs=(-1,), operand_shape=SHAPE, out_shape=TensorShape(3, 4, 4),
             conv=ConvSpec(kernel=(3, 3), padding=(1, 1)), weights=np.ones((3, 2, 3, 3), np.int64), weight_bits=4,
             bias=np.array([1, 2, 3]))


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, -1)])
def test_shapes_have_no_empty_dimension(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        TensorShape(*sizes)


@pytest.mark.parametrize(("layer", "changes", "word"), [
    (PASS, {"inputs": ()}, "earlier layers"),
    (PASS, {"inputs": (0,)}, "earlier layers"),
    (PASS, {"inputs": (-3,)}, "earlier layers"),
    (PASS, {"eltwise": Eltwise.ADD}, "add of 1 operands"),
    (PASS, {"eltwise": Eltwise.ADD, "inputs": (-1,) * 17}, "add of 17 operands"),
    (PASS, {"conv": ConvSpec()}, "Passthrough with conv"),
    (PASS, {"weights": np.ones((1, 1, 1, 1))}, "weights on a pass-through"),
    (PASS, {"flatten": True}, "flatten belongs"),
    (PASS, {"output_bits": 16}, "output of 16 bits"),
    (PASS, {"out_shape": TensorShape(2, 4, 3)}, "2x4x3, operator and input give 2x4x4"),
    (PASS, {"pool": PoolSpec(window=(5, 1))}, "at least 1"),
    (CONV, {"conv": None}, "Conv2d with conv=None"),
    (CONV, {"weights": np.ones((3, 2, 1, 1))}, "weights of shape"),
    (CONV, {"weights": np.full((3, 2, 3, 3), 8)}, "8..8 do not fit int4"),
    (CONV, {"weight_bits": 3}, "weights of 3 bits"),
    (CONV, {"bias": np.ones(2)}, "bias of shape"),
    (CONV, {"bias": np.full(3, 128)}, "does not fit int8"),
])
def test_contradictory_layers_cannot_be_built(layer, changes, word):
    with pytest.raises(ValueError, match=word.replace("(", "\\(")):
        dataclasses.replace(layer, **changes)


@pytest.mark.parametrize(("layers", "changes", "word"), [
    ((PASS, dataclasses.replace(PASS, index=1)), {}, "not unique"),
    ((dataclasses.replace(PASS, index=1),), {}, "index 1 at position 0"),
    ((PASS,), {"outputs": (1,)}, "do not exist"),
    ((PASS,), {"input_shape": TensorShape(3, 4, 4)}, "do not come from 3x4x4"),
    ((PASS,), {"input_shape": TensorShape(2, 4, 5)}, "do not come from 2x4x5"),
    ((dataclasses.replace(PASS, in_crop=(1, 0)),), {}, "do not come from 2x4x4"),
])
def test_layers_that_do_not_connect_form_no_network(layers, changes, word):
    with pytest.raises(ValueError, match=word):
        Network(**({"name": "n", "input_shape": SHAPE, "layers": layers} | changes))


def test_figures_of_a_layer():
    assert (CONV.macs, CONV.weight_bytes, CONV.num_operands) == (3 * 16 * 2 * 9, 27, 1)
    assert (PASS.macs, PASS.weight_bytes, CONV.output_type.bits) == (0, 0, 8)
    assert (str(CONV.out_shape), CONV.out_shape.numel, CONV.conv_in_channels) == ("3x4x4", 48, 2)


def test_arrays_of_a_layer_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        CONV.weights[0] = 0


def test_operators_with_weights_and_with_1d_data():
    assert [op for op in Op if not op.has_weights] == [Op.PASSTHROUGH]
    assert [op for op in Op if op.is_1d] == [Op.CONV1D]


def test_network_knows_its_tensors():
    second = dataclasses.replace(PASS, name="b", index=1, inputs=(0, 0), eltwise=Eltwise.OR)
    network = Network(name="n", input_shape=SHAPE, layers=(PASS, second))
    assert (network.outputs, network.shape_of(-1), network.shape_of(1)) == ((1,), SHAPE, SHAPE)
    assert (network.consumers(-1), network.consumers(0), network.consumers(1)) == ((0,), (1,), ())
    renamed = network.with_layers({0: dataclasses.replace(PASS, name="x")})
    assert [layer.name for layer in renamed.layers] == ["x", "b"]


@given(networks())
def test_random_networks_satisfy_the_invariants(network):
    assert dataclasses.replace(network).layers == network.layers
