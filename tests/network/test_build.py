"""Description and parameters become a network; contradictions are refused with place, layer and remedy."""

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai8x.errors import UserError
from ai8x.network.build import build_network, identifier
from ai8x.network.ir import NETWORK_INPUT, Activation, Eltwise, Op, Pool, TensorShape
from ai8x.network.reference import compare_traces, run_network
from ai8x.network.weights import LayerParameters, parameters_from_state
from ai8x.network.yaml_file import parse_network_file
from tests.network.test_yaml_file import mutate
from tests.strategies import network_state, network_yaml, networks, samples

HEAD = "arch: net\ndataset: data\nlayers:\n"
SHAPE = TensorShape(2, 6, 6)


def weights(*shape, name="conv", bias=None, bits=8, shift=0, value=1):
    return LayerParameters(name=name, weight_key=f"{name}.op.weight", weight=np.full(shape, value), weight_bits=bits,
                           bias=None if bias is None else np.asarray(bias), output_shift=shift, file="best.pth.tar")


def build(layers, *parameters, shape=SHAPE, **options):
    text = HEAD + "".join(f"  - {{{keys}}}\n" for keys in layers)
    return build_network(parse_network_file(text, "net.yaml"), parameters, shape, **options)


def refusal(layers, *parameters, shape=SHAPE, **options):
    with pytest.raises(UserError) as caught:
        build(layers, *parameters, shape=shape, **options)
    assert all(finding.help and finding.source for finding in caught.value.diagnostics)
    return caught.value.diagnostics


def comparable(network):
    """What must survive the way through files: everything but names and places."""
    layers = []
    for layer in network.layers:
        values = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer)}
        values.update(name="", source=None, pool_first=layer.pool_first or layer.eltwise is None,
                      weights=None if layer.weights is None else layer.weights.tolist(),
                      bias=None if layer.bias is None or not layer.bias.any() else layer.bias.tolist())
        layers.append(values)
    return network.name, network.dataset, network.input_shape, network.outputs, layers


@settings(max_examples=100)
@given(networks(max_layers=4), st.data())
def test_network_survives_the_way_through_its_files(network, data):
    # All-zero weights without a bias are stored as one bit, which is a different network with the same output.
    file = parse_network_file(network_yaml(network))
    built = build_network(file, parameters_from_state(network_state(network)) if network_state(network) else (),
                          network.input_shape)
    degenerate = any(layer.weights is not None and not layer.weights.any() and layer.bias is None
                     for layer in network.layers)
    if not degenerate:
        marked = dataclasses.replace(network, layers=tuple(
            dataclasses.replace(layer, is_output=layer.index in network.outputs) for layer in network.layers))
        assert comparable(built) == comparable(marked)
    sample = data.draw(samples(network))
    assert compare_traces(network, run_network(network, sample), run_network(built, sample)) is None


def test_defaults_of_the_language():
    network = build(["op: conv2d", "op: convtranspose2d", "op: linear, flatten: true"], weights(3, 2, 3, 3),
                    weights(3, 4, 3, 3), weights(5, 4 * 12 * 12))
    conv, transposed, linear = network.layers
    assert (conv.conv.kernel, conv.conv.padding, conv.out_shape) == ((3, 3), (1, 1), TensorShape(3, 6, 6))
    assert (transposed.conv.stride, transposed.conv.output_padding) == ((2, 2), 1)
    assert transposed.out_shape == TensorShape(4, 12, 12)
    assert (linear.out_shape, linear.conv.kernel, network.outputs) == (TensorShape(5, 1, 1), (1, 1), (2,))
    (conv1d,) = build(["op: conv1d"], weights(3, 2, 9), shape=TensorShape(2, 20, 1)).layers
    assert (conv1d.conv.kernel, conv1d.conv.padding, conv1d.out_shape) == ((9, 1), (1, 0), TensorShape(3, 14, 1))


def test_silent_operator_is_conv2d():
    assert build(["pad: 1"], weights(3, 2, 3, 3)).layers[0].op is Op.CONV2D


def test_pooling_of_one_number_is_rows_only_for_1d_data():
    network = build(["op: none, max_pool: 2, pool_stride: 2"], shape=TensorShape(2, 9, 1))
    assert (network.layers[0].pool.window, network.layers[0].out_shape) == ((2, 1), TensorShape(2, 4, 1))
    network = build(["op: none, avg_pool: [3, 2], pool_stride: 1"])
    assert (network.layers[0].pool.kind, network.layers[0].out_shape) == (Pool.AVG, TensorShape(2, 4, 5))


def test_stride_alone_subsamples():
    network = build(["op: none, pool_stride: 3"], shape=TensorShape(2, 7, 7))
    assert (network.layers[0].pool.kind, network.layers[0].out_shape) == (Pool.NONE, TensorShape(2, 3, 3))


def test_dilated_conv1d_keeps_its_dilation():
    keys = "op: conv1d, kernel_size: 3, dilation: 4, pad: 0"
    (layer,) = build([keys], weights(3, 2, 3), shape=TensorShape(2, 20, 1)).layers
    assert (layer.op, layer.conv.dilation, layer.out_shape.height) == (Op.CONV1D, (4, 1), 12)


def test_sources_by_name_number_and_input():
    network = build([
        "op: none, name: a", "op: none, in_sequences: input, sequence: 4", "op: none, in_sequences: a",
        "op: add, in_sequences: [4, -1, a], operands: 3", "op: none, in_sequences: [a, 4]"])
    assert [layer.inputs for layer in network.layers] == [(-1,), (-1,), (0,), (1, NETWORK_INPUT, 0), (0, 1)]
    assert network.layers[3].eltwise is Eltwise.ADD
    assert network.layers[4].out_shape == TensorShape(4, 6, 6)


def test_operand_count_follows_the_sources():
    network = build(["op: none", "op: none", "op: none", "op: xor, in_sequences: [0, 1, 2]"])
    assert network.layers[3].num_operands == 3


@pytest.mark.parametrize(("keys", "shape"), [
    ("in_crop: [1, 2]", TensorShape(2, 3, 6)), ("in_dim: 36", TensorShape(2, 36, 1)),
    ("in_dim: 6", TensorShape(2, 6, 6)),
    ("in_dim: [4, 9]", TensorShape(2, 4, 9)), ("in_crop: [1, 1], in_dim: [2, 12]", TensorShape(2, 2, 12)),
])
def test_source_is_cropped_then_reshaped(keys, shape):
    assert build([f"op: none, {keys}"]).layers[0].operand_shape == shape


def test_outputs_are_those_marked_else_the_last():
    assert build(["op: none, output: true", "op: none", "op: none, output: true"]).outputs == (0, 2)
    assert build(["op: none", "op: none"]).outputs == (1,)


def test_shift_counts_from_the_width():
    for bits, total in ((8, -1), (4, 3), (2, 5), (1, 6)):
        (layer,) = build(["op: conv2d"], weights(1, 2, 3, 3, bits=bits, shift=-1, value=-1)).layers
        assert (layer.weight_bits, layer.output_shift) == (bits, total)


def test_file_overrides_width_and_shift():
    (layer,) = build(["op: conv2d, quantization: 4, output_shift: 2"],
                     weights(1, 2, 3, 3, bits=8, shift=-1, bias=[16])).layers
    assert (layer.weight_bits, layer.output_shift, layer.bias.tolist()) == (4, 6, [2])


@pytest.mark.parametrize(("bias", "bits", "stored"), [(None, 1, None), ([128], 8, [1]), ([0], 8, None)])
def test_all_zero_weights_need_one_bit_unless_a_bias_depends_on_the_width(bias, bits, stored):
    (layer,) = build(["op: conv2d"], weights(1, 2, 3, 3, value=0, bias=bias)).layers
    assert layer.weight_bits == bits
    assert (None if layer.bias is None else layer.bias.tolist()) == stored


def test_shared_weights_come_from_their_source():
    network = build(["op: conv2d, name: a", "op: none", "op: conv2d, weight_source: a, activate: abs"],
                    weights(2, 2, 3, 3, bias=[128, 256], shift=3))
    first, _, third = network.layers
    assert np.array_equal(first.weights, third.weights)
    assert (third.weight_source, third.bias.tolist(), third.output_shift) == (0, [1, 2], 3)
    assert (third.activation, third.weight_bytes, first.weight_bytes) == (Activation.ABS, 0, 36)


@pytest.mark.parametrize(("op", "stored"), [
    ("linear, in_dim: [1, 1]", (4, 2)), ("linear", (4, 2, 1, 1)), ("conv2d, kernel_size: 1x1, pad: 0", (4, 2))])
def test_pointwise_layers_accept_both_ranks_of_weights(op, stored):
    shape = TensorShape(2, 1, 1)
    assert build([f"op: {op}"], weights(*stored), shape=shape).layers[0].weights.shape == (4, 2, 1, 1)


def test_groups_divide_the_channels():
    (layer,) = build(["op: conv2d, groups: 2"], weights(4, 1, 3, 3)).layers
    assert layer.conv.groups == 2
    assert refusal(["op: conv2d, groups: 2"], weights(3, 1, 3, 3))[0].code == "E0552"


def test_names_come_from_file_then_checkpoint_then_position():
    keys = ["op: conv2d, name: first.one", "op: conv2d", "op: none", "op: conv2d", "op: conv2d", "op: none, name: b_4"]
    network = build(keys, *(weights(2, 2, 3, 3, name=name) for name in ("x", "fire.a", "layer2", "b")))
    assert [layer.name for layer in network.layers] == ["first_one", "fire_a", "layer2", "layer3", "b", "b_4"]


def test_names_are_unique():
    network = build(["op: conv2d", "op: conv2d", "op: none, name: a.b", "op: none, name: a-b"],
                    weights(2, 2, 3, 3, name="c.d"), weights(2, 2, 3, 3, name="c_d"))
    assert [layer.name for layer in network.layers] == ["c_d", "c_d_1", "a_b", "a_b_3"]


@pytest.mark.parametrize(("name", "expected"), [("a.b-c", "a_b_c"), ("0.conv", "layer_0_conv"), ("double", "double_")])
def test_identifiers(name, expected):
    assert identifier(name) == expected


def test_layers_keep_their_place():
    assert str(build(["op: none", "op: none"]).layers[1].source) == "net.yaml:5:5"


@pytest.mark.parametrize(("arch", "accepted"), [("NET", True), (None, True), ("other", False)])
def test_architecture_must_agree_in_any_case(arch, accepted):
    if accepted:
        assert build(["op: none"], checkpoint_arch=arch).name == "net"
    else:
        (finding,) = refusal(["op: none"], checkpoint_arch=arch)
        assert (finding.code, str(finding.source)) == ("E0550", "net.yaml:1:7")


@pytest.mark.parametrize(("keys", "code", "underlined"), [
    ("op: none, in_sequences: nowhere", "E0230", "nowhere"),
    ("op: none, in_sequences: 7", "E0230", "7"),
    ("op: none, in_sequences: last", "E0231", "last"),
    ("op: none, in_sequences: 20", "E0231", "20"),
    ("op: add", "E0232", "{"),
    ("op: add, operands: 3, in_sequences: [10, -1]", "E0232", "["),
    ("op: none, operands: 2", "E0232", "2"),
    ("op: none, max_pool: 2, pool_stride: 2, pool_first: false", "E0232", "false"),
    ("op: add, in_sequences: [10, other]", "E0233", "["),
    ("op: none, in_sequences: [10, other]", "E0234", "["),
    ("op: conv1d", "E0235", "conv1d"),
    ("op: none, in_dim: [5, 7]", "E0235", "["),
    ("op: none, in_crop: [3, 3]", "E0236", "["),
    ("op: none, max_pool: 7, pool_stride: 1", "E0237", "7"),
    ("op: conv2d, kernel_size: 9x9", "E0237", "9x9"),
    ("op: convtranspose2d, pad: 3", "E0238", "3"),
    ("op: none, kernel_size: 3x3", "E0238", "3x3"),
    ("op: linear, kernel_size: 3x3", "E0238", "3x3"),
    ("op: none, pad: 1", "E0238", "1"),
    ("op: linear, stride: 2", "E0238", "2"),
    ("op: convtranspose2d, dilation: 2", "E0238", "2"),
    ("op: linear, groups: 2", "E0238", "2"),
    ("op: none, activate: relu", "E0238", "relu"),
    ("op: none, output_shift: 1", "E0238", "1"),
    ("op: none, output_width: 32", "E0238", "32"),
    ("op: conv2d, output_width: 32, activate: relu", "E0238", "relu"),
    ("op: none, weight_source: 0", "E0238", "0"),
    ("op: conv2d, flatten: true", "E0238", "true"),
    ("op: conv2d, output_pad: 1", "E0238", "1"),
    ("op: none, in_channels: 3", "E0239", "3"),
    ("op: none, out_channels: 3", "E0239", "3"),
    ("op: none, next_sequence: other", "E0240", "other"),
    ("op: none, next_sequence: stop", "E0240", "stop"),
    ("op: none, in_channel_skip: 1", "E0240", "1"),
    ("op: none, buffer_shift: 1", "E0242", "1"),
    ("op: none, buffer_insert: 1", "E0242", "1"),
    ("op: conv2d, weight_source: 0", "E0241", "0"),
    ("op: conv2d, weight_source: 20", "E0241", "20"),
    ("op: conv2d, weight_source: -1", "E0241", "-1"),
])
def test_contradictions_are_refused_at_their_place(keys, code, underlined):
    layers = ["op: none, sequence: 0, name: other, max_pool: 2, pool_stride: 2",
              "op: none, sequence: 10, in_sequences: input", f"{keys}, sequence: 20",
              "op: none, sequence: 30, in_sequences: 10, name: last, next_sequence: stop"]
    has_weights = not keys.startswith(("op: none", "op: add")) and "weight_source" not in keys
    (finding,) = refusal(layers, *([weights(2, 2, 3, 3)] if has_weights else []))
    source = finding.source
    assert (finding.code, source.line, finding.layer_index) == (code, 6, 2), finding.format()
    assert source.text[source.column - 1 :][: source.length] == underlined
    assert finding.allowed


def test_next_layer_may_be_named_explicitly():
    layers = ["op: none, next_sequence: b", "op: none, name: b, next_sequence: 2", "op: none, next_sequence: stop"]
    assert len(build(layers).layers) == 3


def test_one_dimensional_keys_must_not_have_columns():
    for keys in ("op: conv1d, kernel_size: [3, 3]", "op: none, max_pool: [2, 2], pool_stride: 1"):
        own = (weights(2, 2, 3),) if "conv1d" in keys else ()
        assert refusal([keys], *own, shape=TensorShape(2, 9, 1))[0].code == "E0238"


@pytest.mark.parametrize("key", [
    "weights: w", "bias: b"])
def test_unavailable_keys_of_the_file_are_refused(key):
    file = parse_network_file(f"{key}\n{HEAD}  - {{op: none}}\n")
    with pytest.raises(UserError, match="E0240"):
        build_network(file, (), SHAPE)


def test_shape_mismatch_names_both_sides():
    stored = weights(4, 2, 3, 3), weights(4, 5, 3, 3, name="theirs")
    (finding,) = refusal(["op: conv2d", "op: conv2d, name: mine"], *stored)
    assert (finding.code, str(finding.source)) == ("E0552", "net.yaml:5:10")
    assert (finding.layer, finding.layer_index) == ("mine", 1)
    text = finding.format()
    assert "checkpoint layer 'theirs' of best.pth.tar" in text and "do not fit this layer" in text
    assert "4x5x3x3 in theirs.op.weight" in text and "4x4x3x3" in text


def test_layers_that_would_take_all_memory_are_refused():
    own = weights(2, 4, 3, 3)
    assert refusal(["op: convtranspose2d, stride: 600"], own, shape=TensorShape(2, 8, 8))[0].code == "E0244"
    file = parse_network_file(f"{HEAD}  - {{op: convtranspose2d, stride: 200}}\n", "net.yaml")
    network = build_network(file, (own,), TensorShape(2, 8, 8))
    assert network.layers[0].out_shape == TensorShape(4, 1402, 1402)


@pytest.mark.parametrize(("keys", "own", "shape", "key", "help_text"), [
    ("op: conv2d, kernel_size: 1x1, pad: 0", (4, 2, 3, 3), (2, 8, 8), "kernel_size", "write kernel_size: 3x3, as in"),
    ("op: conv1d, kernel_size: 3", (4, 2, 5), (2, 8, 1), "kernel_size", "write kernel_size: 5, as in"),
    ("op: convtranspose2d", (2, 4, 2, 2), (2, 8, 8), "op", "write kernel_size: 2x2, as in"),
    ("op: linear", (5, 18), (2, 3, 3), "op", "write flatten: true, so that the map of 2x3x3 is read as 18 features"),
    ("op: linear, flatten: true", (5, 32), (2, 3, 3), "op",
     "the layer reads 2x3x3, 18 features, but the checkpoint has weights for 32 (such as 2x4x4): check pooling"),
    ("op: linear, flatten: true", (5, 31), (2, 3, 3), "op", "weights for 31: check pooling"),
    ("op: conv2d", (4, 1, 3, 3), (4, 8, 8), "op", "write groups: 4, or"),
    ("op: conv2d, groups: 3", (4, 1, 3, 3), (4, 8, 8), "groups", "write groups: 1, or use channels that 3 divides"),
    ("op: conv2d, in_sequences: -1", (4, 3, 3, 3), (2, 8, 8), "in_sequences", "the layer reads 2x8x8, 2 channels, but"),
])
def test_the_likeliest_reason_for_a_wrong_shape_is_named(keys, own, shape, key, help_text):
    (finding,) = refusal([keys], weights(*own), shape=TensorShape(*shape))
    assert finding.code == "E0552"
    assert help_text in finding.help
    line = finding.source.text[:finding.source.column - 1].rstrip()
    assert line.endswith(f"{key}:")


@pytest.mark.parametrize(("num_layers", "num_stored", "word"), [(2, 1, "layer 1"), (1, 2, "'w1'")])
def test_different_numbers_of_layers_are_refused(num_layers, num_stored, word):
    stored = [weights(2, 2, 3, 3, name=f"w{i}") for i in range(num_stored)]
    finding = refusal(["op: conv2d"] * num_layers, *stored)[0]
    assert finding.code == "E0551"
    assert word in finding.found


@pytest.mark.parametrize(("stored", "code", "word"), [
    (weights(1, 2, 3, 3, bits=4, value=8), "E0553", "-8 to 7"),
    (weights(1, 2, 3, 3, bits=1, value=1), "E0553", "-1 to 0"),
    (weights(1, 2, 3, 3, value=-129), "E0553", "-128 to 127"),
    (weights(1, 2, 3, 3, bias=[1, 2]), "E0554", "2 bias values"),
    (weights(1, 2, 3, 3, bias=[128 * 128]), "E0555", "-16384 to 16383"),
    (weights(1, 2, 3, 3, bits=4, bias=[-1032]), "E0555", "-1024 to 1023"),
])
def test_parameters_beyond_their_range_are_refused(stored, code, word):
    (finding,) = refusal(["op: conv2d"], stored)
    assert finding.code == code
    assert word in finding.format()


@pytest.mark.parametrize(("bits", "value"), [(8, -128), (4, 7), (2, -2), (1, -1)])
def test_parameters_at_the_end_of_their_range_are_accepted(bits, value):
    scale = 1 << (bits - 1)
    stored = weights(2, 2, 3, 3, bits=bits, value=value, bias=[-128 * scale, 128 * scale - 1])
    (layer,) = build(["op: conv2d"], stored).layers
    assert layer.bias.tolist() == [-128, 127]


def test_findings_of_all_layers_come_together():
    keys = ["op: none, pad: 1", "op: none, in_sequences: -1, in_dim: 5", "op: none", "op: none, in_sequences: x"]
    found = refusal(keys)
    assert [(finding.code, finding.layer_index) for finding in found] == [("E0238", 0), ("E0235", 1), ("E0230", 3)]


def test_rounding_of_averages_is_passed_on():
    assert build(["op: none, avg_pool: 2, pool_stride: 2"], average_rounded=True).layers[0].average_rounded


@pytest.mark.parametrize("seed", range(6))
def test_mutated_files_build_or_are_refused(seed):
    rng = random.Random(seed)
    text = HEAD + """\
  - op: conv2d
    pad: 1
    activate: ReLU
  - op: conv2d
    max_pool: 2
    pool_stride: 2
    name: right
    in_sequences: [0]
  - op: add
    in_sequences: [right, 1]
    in_crop: [1, 0]
  - op: mlp
    flatten: true
    output_width: 32
"""
    parameters = [weights(2, 2, 3, 3), weights(3, 2, 3, 3, bias=[128] * 3), weights(4, 18)]
    assert len(build_network(parse_network_file(text), parameters, SHAPE).layers) == 4
    for _ in range(60):
        mutated = mutate(text, rng)
        try:
            network = build_network(parse_network_file(mutated), parameters, SHAPE)
        except UserError as error:
            assert all(finding.source and finding.help for finding in error.diagnostics)
        else:
            if max(layer.out_shape.numel for layer in network.layers) < 1e6:
                run_network(network, np.ones(SHAPE.as_tuple(), int))
