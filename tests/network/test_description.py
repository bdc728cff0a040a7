"""Networks as descriptions and back: what is written is what is read, without what goes without saying."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings

from ai8x.errors import UserError
from ai8x.network import description_yaml
from ai8x.network.build import build_network
from ai8x.network.description import LayerNotes, describe_network
from ai8x.network.description_yaml import format_processors
from ai8x.network.ir import NETWORK_INPUT, ConvSpec, Layer, Network, Op, TensorShape
from ai8x.network.pairing import layer_name
from ai8x.network.reference import run_network
from ai8x.network.weights import LayerParameters, parameters_from_state
from ai8x.network.yaml_file import LayerEntry, PlacementHint, UnloadItem, parse_network_file
from tests.network.test_build import build, comparable, refusal, weights
from tests.strategies import network_state, networks

HEAD = "arch: net\ndataset: data\n"


@settings(max_examples=150)
@given(networks(max_layers=5))
def test_a_network_survives_the_way_through_its_description(network: Network) -> None:
    state = network_state(network)
    file = describe_network(network).network_file()
    built = build_network(file, parameters_from_state(state) if state else (), network.input_shape)
    # All-zero weights without a bias are stored as one bit, which is a different network with the same output.
    if not any(layer.weights is not None and not layer.weights.any() and layer.bias is None
               for layer in network.layers):
        assert comparable(built) == comparable(network)
    assert [layer.name for layer in built.layers] == [layer.name for layer in network.layers]
    again = describe_network(built).to_yaml()
    assert again == describe_network(network).to_yaml()


def chain(*names: str) -> Network:
    """A chain of passes."""
    shape = TensorShape(2, 4, 4)
    return Network(name="net", input_shape=shape, layers=tuple(
        Layer(name=name, index=i, op=Op.PASSTHROUGH, inputs=(i - 1,), operand_shape=shape, out_shape=shape)
        for i, name in enumerate(names)))


def test_placement_is_written_as_the_file_spells_it() -> None:
    hint = PlacementHint(processors=0xFFFF_0000_0000_0003, output_processors=3, in_offset=0, out_offset=0x20,
                         write_gap=1, data_format="CHW", streaming=True, bias_group=(0, 1))
    notes = (LayerNotes(path="p.q", hint=hint, quantization=4, output_shift=-2), LayerNotes(hint=PlacementHint(
        processors=1, write_gap=0, streaming=False)))
    description = describe_network(chain("a", "b"), notes, dataset="CIFAR-10", unload=(UnloadItem(
        processors=3, channels=2, dim=(4, 4), offset=16, write_gap=1, source=notes[0].hint.source),),
        skipped=("it's", "fc"))
    assert description.is_placed
    text = description.to_yaml()
    assert text.split("layers:\n")[1] == """\
  # p.q: 2x4x4 -> 2x4x4
  - name: a
    op: passthrough
    quantization: 4
    output_shift: -2
    data_format: CHW
    streaming: true
    processors: 0xffff.0000.0000.0003
    output_processors: 0x0000.0000.0000.0003
    in_offset: 0x0000
    out_offset: 0x0020
    write_gap: 1
    bias_group: [0, 1]

  # b: 2x4x4 -> 2x4x4
  - name: b
    op: passthrough
    processors: 0x0000.0000.0000.0001
"""
    file = parse_network_file(text)
    assert (file.dataset, file.skip_checkpoint_layers) == ("CIFAR-10", ("it's", "fc"))
    assert (file.unload[0].write_gap, file.unload[0].dim, file.unload[0].offset) == (1, (4, 4), 16)
    read = dataclasses.replace(file.layers[0].hint, sources={}, source=None)
    assert read == hint
    assert not describe_network(chain("a", "b"), (notes[0], LayerNotes())).is_placed


def test_the_header_says_what_may_be_changed() -> None:
    placed = LayerNotes(hint=PlacementHint(processors=1))
    texts = {placed_all: describe_network(chain("a"), (placed if placed_all else LayerNotes(),), origin="the model X",
                                          behind=("softmax",)).to_yaml() for placed_all in (True, False)}
    for text in texts.values():
        header = " ".join(text.split("arch:")[0].replace("\n#", "").split())
        assert "from the model X." in header and "(softmax) is left to the program" in header
        assert all(len(line) <= 110 for line in text.splitlines())
    assert "may be edited or deleted" in texts[True] and "may be edited or deleted" not in texts[False]


def test_processor_maps_show_the_quadrants() -> None:
    assert format_processors(0x0123_4567_89AB_CDEF) == "0x0123.4567.89ab.cdef"


# --- which layer has which parameters -----------------------------------------------------------------------------

def two(*names: str) -> list[str]:
    return [f"op: conv2d, kernel_size: 1x1, pad: 0, name: {name}" for name in names]


def test_names_decide_where_all_of_them_agree() -> None:
    a, b = weights(2, 2, 1, 1, name="a", value=1), weights(2, 2, 1, 1, name="b.c", value=2)
    found = {layer.name: layer.weights[0, 0, 0, 0] for layer in build(two("b.c", "a"), a, b).layers}
    assert found == {"b_c": 2, "a": 1}
    assert build(two("b_c", "a"), a, b).layers[0].weights[0, 0, 0, 0] == 2, "a name as C identifier"


@pytest.mark.parametrize("names", [("b", "c"), ("x", "y"), ("a", "x")])
def test_order_decides_where_a_name_does_not_agree(names: tuple[str, str]) -> None:
    a, b = weights(2, 2, 1, 1, name="a", value=1), weights(2, 2, 1, 1, name="b", value=2)
    assert [layer.weights[0, 0, 0, 0] for layer in build(two(*names), a, b).layers] == [1, 2]


def test_layers_of_the_checkpoint_can_be_skipped() -> None:
    parameters = [weights(2, 2, 1, 1, name=name, value=value) for name, value in (("x", 1), ("y", 2), ("z", 3))]

    def skipping(*names: str) -> Network:
        skipped = ", ".join(names)
        text = f"{HEAD}skip_checkpoint_layers: [{skipped}]\nlayers:\n  - {{op: conv2d, kernel_size: 1, pad: 0}}\n"
        return build_network(parse_network_file(text, "net.yaml"), parameters, TensorShape(2, 3, 3))

    assert skipping("x", "z").layers[0].weights[0, 0, 0, 0] == 2
    with pytest.raises(UserError, match="E0551"):
        skipping("x")
    with pytest.raises(UserError, match="E0245") as caught:
        skipping("x", "z", "w")
    assert caught.value.diagnostics[0].found == "w" and caught.value.diagnostics[0].source.line == 3


def test_unit_weights_copy_channels_without_the_checkpoint() -> None:
    keys = "op: conv2d, kernel_size: 1x1, pad: 0"
    network = build([f"{keys}, unit_weights: 0", f"{keys}, unit_weights: 1, out_channels: 1", keys],
                    weights(3, 1, 1, 1, name="own"))
    sample = np.random.default_rng(0).integers(-128, 128, (2, 6, 6))
    trace = run_network(network, sample)
    assert np.array_equal(trace[0], sample) and np.array_equal(trace[1], sample[1:])
    assert network.layers[2].name == "own" and network.layers[1].weight_bits == 2


@pytest.mark.parametrize(("keys", "code"), [
    ("op: conv2d, kernel_size: 1x1, pad: 0, unit_weights: 2", "E0246"),
    ("op: conv2d, kernel_size: 1x1, pad: 0, unit_weights: 1, out_channels: 2", "E0246"),
    ("op: conv2d, kernel_size: 3x3, unit_weights: 0", "E0238"), ("op: none, unit_weights: 0", "E0238"),
    ("op: conv2d, kernel_size: 1x1, pad: 1, unit_weights: 0", "E0238"),
    ("op: linear, flatten: true, unit_weights: 0", "E0238"),
    ("op: conv2d, kernel_size: 1x1, pad: 0, groups: 2, unit_weights: 0", "E0238")])
def test_unit_weights_belong_to_a_plain_1x1_convolution(keys: str, code: str) -> None:
    assert refusal([keys])[0].code == code


def test_unit_weights_are_described_as_such() -> None:
    shape = TensorShape(2, 4, 4)
    layer = Layer(name="copy", index=0, op=Op.CONV2D, inputs=(NETWORK_INPUT,), operand_shape=shape,
                  out_shape=TensorShape(1, 4, 4), conv=ConvSpec(), weights=np.array([0, 1]).reshape(1, 2, 1, 1),
                  weight_bits=2, output_shift=7)
    network = Network(name="net", input_shape=shape, layers=(layer,))
    file = describe_network(network, (LayerNotes(unit=1),)).network_file()
    assert comparable(build_network(file, (), shape)) == comparable(dataclasses.replace(network, dataset="none"))


# --- names --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("path", "name"), [
    ("conv1", "conv1"), ("features.0.conv", "features.0.conv"), ("0.weight", "layer_0.weight"), ("", "layer"),
    ("stop", "stop_layer"), ("Input", "Input_layer"), ("for", "for_layer"), ("a b/ü", "a_b__")])
def test_paths_become_names(path: str, name: str) -> None:
    assert layer_name(path) == name
    assert parse_network_file(f"{HEAD}layers: [{{op: none, name: {name}}}]").layers[0].name == name


def test_long_paths_stay_apart() -> None:
    names = [layer_name(f"{'block.' * 20}conv{number}") for number in (1, 2)]
    assert len(set(names)) == 2 and all(len(name) == 64 for name in names)
    pair = [LayerParameters(name=f"{'block.' * 20}conv{number}", weight_key="k", weight=np.full((2, 2, 1, 1), number))
            for number in (1, 2)]
    assert [layer.weights[0, 0, 0, 0] for layer in build(two(*names[::-1]), *pair).layers] == [2, 1]


def test_every_key_of_the_language_has_its_place_in_the_text() -> None:
    """A key that is added to the language must be written, or be one that only other ways of writing need."""
    redundant = {"operands", "sequence", "next_sequence", "in_channels", "in_channel_skip"}
    buffer = {"buffer_shift", "buffer_insert"}  # never planned
    fields = {field.name for kind in (LayerEntry, PlacementHint) for field in dataclasses.fields(kind)}
    own = {"position", "source", "sources", "hint"}
    assert fields - own - redundant - buffer == {"name", "op", *description_yaml._STRUCTURE_KEYS,
                                                 *description_yaml._PLACEMENT_KEYS}
