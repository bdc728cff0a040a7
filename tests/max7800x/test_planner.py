"""Automatic placement: every plan passes the verifier and the simulator; given values are kept or refused."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai8x.checkpoint import read_checkpoint
from ai8x.errors import UserError
from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.placement import DataFormat, PlacementOptions, place_network
from ai8x.network.build import build_network
from ai8x.network.ir import Eltwise, Op, TensorShape
from ai8x.network.reference import run_network
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import PlacementHint, parse_network_file, read_network_file
from tests import strategies
from tests.end_to_end import digitsnet

from .lowering_examples import CASES, MAX_2X2, TRAINED, conv, linear, network_of, passthrough
from .planner_networks import placeable_networks
from .planner_runs import PLACEMENT_KEYS, cycles_of, planned, random_sample, simulated_difference

FOLDERS = sorted(path for root in (CASES, TRAINED) if root.exists() for path in root.iterdir() if path.is_dir())


def without_placement(hint):
    sources = {key: place for key, place in hint.sources.items() if key not in PLACEMENT_KEYS}
    return dataclasses.replace(hint, **dict.fromkeys(PLACEMENT_KEYS), sources=sources)


def codes(error):
    return [finding.code for finding in error.value.diagnostics]


def branch(index, source, shape, channels, **changes):
    return conv(index, shape, channels, inputs=(source,), **changes)


def residual(size=6, channels=8, length=1):
    """A convolution, a chain of others, and the sum of both ends."""
    shape = (channels, size, size)
    chain = [conv(index, shape, channels) for index in range(1 + length)]
    total = conv(len(chain), shape, 5, inputs=(0, len(chain) - 1), eltwise=Eltwise.ADD)
    return network_of(*chain, total)


# --- random networks ------------------------------------------------------------------------------------------------

@settings(max_examples=60)
@given(placeable_networks())
def test_random_networks_are_placed_and_computed_exactly(network):
    plan = planned(network)
    assert not check_network(plan.network, plan.placement, MAX78000).errors
    assert [index for index in plan.file_index if index is not None] == list(range(len(network.layers)))
    assert not simulated_difference(network, plan, random_sample(network))


@settings(max_examples=60)
@given(strategies.networks())
def test_networks_with_every_feature_are_placed_or_refused_with_their_own_fault(network):
    try:
        plan = planned(network)
    except UserError as error:
        assert all(re.match("E03", finding.code) for finding in error.diagnostics)
        return
    assert not simulated_difference(network, plan, random_sample(network))


@settings(max_examples=30)
@given(placeable_networks(max_layers=4, channels=(1, 3, 4, 8, 16, 64, 68)), st.data())
def test_given_values_are_kept_in_any_mix(network, data):
    complete = planned(network)
    keys = data.draw(st.sets(st.sampled_from(PLACEMENT_KEYS)))
    layers = data.draw(st.sets(st.sampled_from(range(len(network.layers)))))
    own = [complete.hints[complete.planned_index(index)] for index in range(len(network.layers))]
    hints = [dataclasses.replace(hint, streaming=None,
                                 **{key: None for key in PLACEMENT_KEYS if key not in keys or index not in layers})
             for index, hint in enumerate(own)]
    plan = planned(network, hints)
    for index, hint in enumerate(hints):
        place = plan.placement.layers[plan.planned_index(index)]
        kept = {key: getattr(hint, key) for key in PLACEMENT_KEYS if getattr(hint, key) is not None}
        assert {key: getattr(place, key) for key in kept} == kept
    assert not simulated_difference(network, plan, random_sample(network))


@settings(max_examples=15)
@given(placeable_networks())
def test_equal_networks_get_equal_plans(network):
    assert planned(network).placement == planned(network).placement


# --- recorded networks ----------------------------------------------------------------------------------------------

def read_folder(folder):
    """File, network, sample, recorded outputs and options of a case."""
    options = (folder / "options").read_text().split() if (folder / "options").exists() else []
    if (folder / "case.npz").exists():
        arrays = np.load(folder / "case.npz")
        state = {key[2:]: arrays[key] for key in arrays.files if key.startswith("w:")}
        sample = arrays["sample"]
        outputs = {int(key[1:]): arrays[key] for key in arrays.files if key.startswith("L")}
    else:
        arrays = np.load(folder / "layers.npz")
        state, sample = read_checkpoint(folder / "checkpoint.pth.tar").state, np.load(folder / "sample.npy")
        outputs = {int(key[1:]): arrays[key] for key in arrays.files}
    sample = sample.reshape(*sample.shape, *[1] * (3 - sample.ndim))
    file = read_network_file(folder / "net.yaml")
    network = build_network(file, parameters_from_state(state), TensorShape(*sample.shape),
                            average_rounded="--avg-pool-rounding" in options)
    return file, network, sample, outputs, PlacementOptions(fifo="--fifo" in options)


@pytest.mark.skipif(not FOLDERS, reason="the recorded cases are not part of the repository")
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_recorded_networks_need_no_placement_keys(folder):
    file, network, sample, outputs, options = read_folder(folder)
    plan = planned(network, [without_placement(hint) for hint in file.hints], fifo=options.fifo)
    trace = run_network(network, sample)
    assert all(np.array_equal(trace[index], array.reshape(trace[index].shape)) for index, array in outputs.items())
    assert not simulated_difference(network, plan, sample)
    written = place_network(network, file.hints, MAX78000, options)
    assert cycles_of(plan.network, plan.placement) <= cycles_of(network, written)


# --- the bundled network --------------------------------------------------------------------------------------------

def digits(text):
    file = parse_network_file(text)
    network = build_network(file, parameters_from_state(digitsnet.state()), TensorShape(*digitsnet.INPUT_SHAPE))
    return file, network


def bare_text(text):
    keys = "|".join((*PLACEMENT_KEYS, "data_format"))
    return re.sub(rf"(?m)^    ({keys}):.*\n", "", text)


def test_bundled_network_is_taken_as_it_is_written():
    file, network = digits(digitsnet.NETWORK_FILE.read_text())
    plan = planned(network, file.hints)
    assert plan.summary is None and not plan.helpers
    assert plan.placement == place_network(network, file.hints, MAX78000)


@pytest.mark.parametrize("with_bypass", [True, False], ids=["bypass in the file", "no bypass in the file"])
def test_bundled_network_needs_neither_placement_nor_bypass(with_bypass):
    text = bare_text(digitsnet.NETWORK_FILE.read_text())
    if not with_bypass:
        text = re.sub(r"(?ms)^  - name: bypass.*?(?=^  # \.\.\. and conv3)", "", text).replace("[bypass,", "[conv2,")
    file, network = digits(text)
    plan = planned(network, file.hints)
    assert not simulated_difference(network, plan, digitsnet.sample())
    assert len(plan.helpers) == (0 if with_bypass else 1)
    _, written = digits(digitsnet.NETWORK_FILE.read_text())
    by_hand = place_network(written, digits(digitsnet.NETWORK_FILE.read_text())[0].hints, MAX78000)
    assert cycles_of(plan.network, plan.placement) <= cycles_of(written, by_hand)


# --- helpers --------------------------------------------------------------------------------------------------------

def test_operand_that_others_read_too_is_copied_just_before_the_sum():
    network = residual(length=2)
    plan = planned(network)
    assert plan.file_index == (0, 1, 2, None, 3) and plan.helpers == (3,)
    copy = plan.network.layers[3]
    assert (copy.op, copy.inputs, copy.name) == (Op.PASSTHROUGH, (0,), "copy_conv0")
    assert plan.network.layers[4].inputs == (3, 2)
    (notice,) = (finding for finding in plan.diagnostics.items if finding.code == "W0465")
    assert (notice.level, notice.layer, notice.layer_index) == ("notice", "conv3", 3)


def test_operands_that_nothing_else_reads_need_no_copy():
    shape = (8, 5, 5)
    network = network_of(conv(0, shape, 8), branch(1, 0, shape, 8), branch(2, 0, shape, 8),
                         conv(3, shape, 4, inputs=(1, 2), eltwise=Eltwise.SUB))
    plan = planned(network)
    assert not plan.helpers
    first, second = plan.placement.layers[1:3]
    assert (first.write_gap, second.write_gap, second.out_offset - first.out_offset) == (1, 1, 4)
    assert not simulated_difference(network, plan, random_sample(network))


def test_tensor_added_to_itself_is_copied_twice_unless_it_is_the_input():
    shape = (4, 3, 3)
    doubled = network_of(conv(0, shape, 4), conv(1, shape, 4, inputs=(0, 0), eltwise=Eltwise.ADD))
    assert len(planned(doubled).helpers) == 2
    own_input = network_of(conv(0, shape, 4, inputs=(-1, -1), eltwise=Eltwise.ADD))
    plan = planned(own_input)
    assert not plan.helpers
    assert not simulated_difference(own_input, plan, random_sample(own_input))


def test_parts_that_reach_over_the_end_of_a_pass_are_cut_by_unit_convolutions():
    shape = (4, 3, 3)
    network = network_of(conv(0, shape, 64), branch(1, -1, shape, 32),
                         conv(2, (96, 3, 3), 4, inputs=(0, 1)))
    plan = planned(network)
    assert [layer.out_shape.channels for layer in plan.network.layers if layer.index in plan.helpers] == [48, 16]
    assert all(plan.network.layers[index].op is Op.CONV2D for index in plan.helpers)
    assert not simulated_difference(network, plan, random_sample(network))


def test_pass_layer_that_cannot_reach_its_readers_processors_becomes_a_unit_convolution():
    shape = (13, 4, 4)
    gathered = passthrough(1, (26, 4, 4), inputs=(-1, 0))
    network = network_of(conv(0, shape, 13), gathered, conv(2, (26, 4, 4), 5))
    plan = planned(network)
    assert plan.network.layers[plan.planned_index(1)].op is Op.CONV2D
    assert "W0466" in {finding.code for finding in plan.diagnostics.items}
    assert not simulated_difference(network, plan, random_sample(network))


@pytest.mark.parametrize("channels", [(63, 63), (63, 1), (61, 3, 62), (33, 1, 30)])
@pytest.mark.parametrize("reader", [
    lambda index, shape, inputs: conv(index, shape, 5, inputs=inputs),
    lambda index, shape, inputs: linear(index, shape, 3, inputs=inputs),
    lambda index, shape, inputs: passthrough(index, shape, inputs=inputs),
], ids=["convolution", "flattening", "pass layer"])
def test_parts_for_which_no_lanes_are_left_are_filled_up_to_whole_words(channels, reader):
    shape, count = (3, 2, 2), len(channels)
    layers = [branch(index, -1, shape, size) for index, size in enumerate(channels)]
    network = network_of(*layers, reader(count, (sum(channels), 2, 2), tuple(range(count))))
    plan = planned(network)
    assert plan.network.layers[-1].out_shape == network.layers[-1].out_shape
    assert plan.widened == (count,) and "W0471" in {finding.code for finding in plan.diagnostics.items}
    assert not check_network(plan.network, plan.placement, MAX78000).errors
    assert not simulated_difference(network, plan, random_sample(network))


def test_helpers_get_names_of_their_own():
    network = residual()
    taken = network.with_layers({1: dataclasses.replace(network.layers[1], name="copy_conv0")})
    names = [layer.name for layer in planned(taken).network.layers]
    assert len(set(names)) == len(names) == 4


# --- the input ------------------------------------------------------------------------------------------------------

def test_input_of_one_channel_that_is_too_large_as_words_lies_by_channel():
    network = network_of(conv(0, (1, 92, 92), 4, pool=MAX_2X2))
    plan = planned(network)
    assert plan.placement.layers[0].data_format is DataFormat.CHW
    assert not simulated_difference(network, plan, random_sample(network))


def test_layers_stream_where_data_does_not_fit_at_once():
    network = network_of(conv(0, (3, 96, 96), 4), conv(1, (4, 96, 96), 4, pool=MAX_2X2), conv(2, (4, 48, 48), 2))
    plan = planned(network)
    assert [layer.streaming for layer in plan.placement.layers] == [True, True, False]
    assert plan.placement.fifo and plan.placement.layers[0].processors == 7
    assert "W0467" in {finding.code for finding in plan.diagnostics.items}
    assert not simulated_difference(network, plan, random_sample(network))


def test_streaming_that_the_file_forbids_is_not_used():
    network = network_of(conv(0, (3, 96, 96), 4), conv(1, (4, 96, 96), 4, pool=MAX_2X2))
    with pytest.raises(UserError) as error:
        planned(network, [PlacementHint(streaming=False)] * 2)
    assert codes(error) == ["E0464"]


def test_fifo_prescribes_the_processors_of_the_first_layer():
    network = network_of(conv(0, (6, 5, 5), 8), conv(1, (8, 5, 5), 4))
    plan = planned(network, fifo=True)
    assert plan.placement.layers[0].processors == 0x3000F


@pytest.mark.parametrize(("shape", "options", "code"), [
    ((96, 5, 5), {"fifo": True}, "E0345"), ((17, 5, 5), {"fifo": True}, "E0345"),
    ((5, 5, 5), {"fast_fifo": True}, "E0345"),
])
def test_fifo_that_the_input_exceeds_is_refused(shape, options, code):
    with pytest.raises(UserError) as error:
        planned(network_of(conv(0, shape, 8), conv(1, (8, 5, 5), 4)), **options)
    assert codes(error) == [code]


def test_fifo_that_two_layers_would_read_is_refused():
    shape = (4, 5, 5)
    network = network_of(conv(0, shape, 4), conv(1, shape, 4, inputs=(-1,)), conv(2, (8, 5, 5), 4, inputs=(0, 1)))
    with pytest.raises(UserError) as error:
        planned(network, fifo=True)
    assert codes(error) == ["E0348"]


# --- refusals -------------------------------------------------------------------------------------------------------

def test_given_processors_that_contradict_each_other_are_refused():
    network = network_of(conv(0, (4, 5, 5), 8), conv(1, (8, 5, 5), 4))
    with pytest.raises(UserError) as error:
        planned(network, [PlacementHint(output_processors=0xFF00), PlacementHint(processors=0xFF)])
    assert codes(error) == ["E0461"]
    assert error.value.diagnostics[0].layer == "conv1"


def test_given_offsets_that_contradict_each_other_are_refused():
    network = network_of(conv(0, (4, 5, 5), 8), conv(1, (8, 5, 5), 4))
    with pytest.raises(UserError) as error:
        planned(network, [PlacementHint(out_offset=0x400), PlacementHint(in_offset=0x800)])
    assert codes(error) == ["E0461"]
    assert error.value.diagnostics[0].allowed == "0x0400"


def test_a_given_data_format_is_kept_or_refused():
    network = network_of(conv(0, (4, 5, 5), 1), conv(1, (1, 5, 5), 4))
    complete = [PlacementHint(processors=0xF, output_processors=1, in_offset=0, out_offset=0x1000),
                PlacementHint(processors=1, output_processors=0xF, in_offset=0x1000, out_offset=0)]
    for hints in (complete, [PlacementHint(), PlacementHint()]):
        with pytest.raises(UserError) as error:
            planned(network, [hints[0], dataclasses.replace(hints[1], data_format="CHW")])
        assert codes(error) == ["E0343"]
        assert planned(network, [hints[0], dataclasses.replace(hints[1], data_format="HWC")])


def test_search_without_anything_to_choose_ends():
    network = network_of(conv(0, (4, 5, 5), 4))
    with pytest.raises(UserError) as error:
        planned(network, [PlacementHint(processors=0xF, output_processors=0xF, in_offset=0, out_offset=0x7FFC)])
    assert codes(error) == ["E0416"]


def test_given_gap_that_a_reader_cannot_follow_is_refused():
    network = network_of(conv(0, (4, 5, 5), 8), conv(1, (8, 5, 5), 4))
    with pytest.raises(UserError) as error:
        planned(network, [PlacementHint(write_gap=1), PlacementHint()])
    assert codes(error) == ["E0460"]


def test_given_gap_of_zero_is_kept_by_copying():
    shape = (8, 5, 5)
    network = network_of(conv(0, shape, 8), branch(1, 0, shape, 8), branch(2, 0, shape, 8),
                         conv(3, shape, 4, inputs=(1, 2), eltwise=Eltwise.ADD))
    plan = planned(network, [PlacementHint(), PlacementHint(write_gap=0), PlacementHint(), PlacementHint()])
    assert plan.file_index == (0, 1, 2, None, 3) and plan.placement.layers[1].write_gap == 0
    assert not simulated_difference(network, plan, random_sample(network))


def test_limits_of_a_layer_by_itself_are_reported_before_planning():
    network = network_of(conv(0, (4, 5, 5), 8, output_shift=16), conv(1, (8, 5, 5), 4, output_shift=-16))
    with pytest.raises(UserError) as error:
        planned(network)
    assert codes(error) == ["E0327", "E0327"]


def wide_network():
    """Weights for about twice the chip."""
    return network_of(conv(0, (3, 8, 8), 128), conv(1, (128, 8, 8), 256), conv(2, (256, 8, 8), 256),
                      linear(3, (256, 8, 8), 4))


def test_weights_that_do_not_fit_are_named_with_remedies_that_work():
    with pytest.raises(UserError) as error:
        planned(wide_network())
    (finding,) = error.value.diagnostics
    assert finding.code == "E0464" and "words of weights" in finding.message
    assert finding.found.startswith("largest weights: conv2 589824 bytes, conv1 294912 bytes")
    assert re.search(r"write quantization: \d in [\w, ]*conv2", finding.help)
    scale = re.search(r"multiply the channels of the hidden layers by ([\d.]+)", finding.help)
    assert scale is not None
    narrow = [round(channels * float(scale[1]) / 4) * 4 for channels in (128, 256, 256)]
    planned(network_of(conv(0, (3, 8, 8), narrow[0]), conv(1, (narrow[0], 8, 8), narrow[1]),
                       conv(2, (narrow[1], 8, 8), narrow[2]), linear(3, (narrow[2], 8, 8), 4)))


def test_remedy_of_fewer_bits_works():
    with pytest.raises(UserError) as error:
        planned(wide_network())
    help_text = error.value.diagnostics[0].help
    bits = {name: int(value) for value, names in re.findall(r"write quantization: (\d) in ([\w, ]+?)(?= and |,)",
                                                           help_text) for name in names.split(", ")}
    layers = {layer.index: dataclasses.replace(layer, weights=layer.weights >> 8 - bits[layer.name],
                                               weight_bits=bits[layer.name])
              for layer in wide_network().layers if layer.name in bits and layer.weights is not None}
    assert layers
    planned(wide_network().with_layers(layers))


def test_data_that_does_not_fit_is_named_with_an_input_that_does():
    network = network_of(conv(0, (64, 96, 96), 64), conv(1, (64, 96, 96), 64))
    with pytest.raises(UserError) as error:
        planned(network)
    (finding,) = error.value.diagnostics
    assert "data needs" in finding.message and "largest data, in each memory used" in finding.found
    size = re.search(r"use an input of 64x(\d+)x\1", finding.help)
    assert size is not None
    side = int(size[1])
    planned(network_of(conv(0, (64, side, side), 64), conv(1, (64, side, side), 64)))


def test_given_placement_that_is_the_only_obstacle_is_named():
    network = network_of(conv(0, (5, 80, 80), 5), conv(1, (5, 80, 80), 4, inputs=(-1,)), outputs=(0, 1))
    hints = [PlacementHint(processors=0x1F, output_processors=0x1F), PlacementHint()]
    with pytest.raises(UserError) as error:
        planned(network, hints)
    assert error.value.diagnostics[0].help.startswith("leave the placement keys out")


def test_more_copies_than_layers_are_refused():
    shape = (4, 3, 3)
    layers = [conv(0, shape, 4)]
    layers += [conv(index, shape, 4, inputs=(index - 1, index - 1), eltwise=Eltwise.ADD) for index in range(1, 14)]
    with pytest.raises(UserError) as error:
        planned(network_of(*layers))
    assert codes(error) == ["E0463"]


# --- objective ------------------------------------------------------------------------------------------------------

def test_summary_tells_what_the_plan_uses():
    network = network_of(conv(0, (4, 8, 8), 16), conv(1, (16, 8, 8), 4))
    plan = planned(network)
    assert plan.summary is not None
    assert plan.summary.cycles == cycles_of(plan.network, plan.placement)
    assert plan.summary.data_peak_bytes == plan.summary.data_bound_bytes == 4 * 64
    assert plan.summary.quadrants == plan.placement.used_quadrants
    assert max(plan.summary.mask_words) == 16


def test_layers_spread_over_the_processors_so_that_no_weight_memory_fills_up():
    network = network_of(*(conv(index, (16, 4, 4), 16) for index in range(4)))
    plan = planned(network)
    assert len({layer.processors for layer in plan.placement.layers}) == 4
    assert plan.summary is not None and max(plan.summary.mask_words) == 16


def test_weights_that_need_a_careful_packing_fit():
    """The fourteen layers of a CIFAR-100 network fill nine tenths of the weight memory."""
    channels = (3, 16, 20, 20, 20, 20, 20, 44, 48, 48, 96)
    layers = [conv(index, (channels[index], 4, 4), channels[index + 1]) for index in range(10)]
    layers += [conv(10, (96, 4, 4), 512, kernel=1, pad=0), conv(11, (512, 4, 4), 128, kernel=1, pad=0),
               conv(12, (128, 4, 4), 128), conv(13, (128, 4, 4), 100, kernel=1, pad=0)]
    plan = planned(network_of(*layers))
    assert plan.summary is not None and max(plan.summary.mask_words) <= 768 and not plan.helpers


def test_large_operands_move_to_other_memories_by_a_unit_convolution():
    shape = (16, 64, 64)
    network = network_of(conv(0, shape, 16, kernel=1, pad=0), conv(1, shape, 16, kernel=1, pad=0),
                         conv(2, shape, 4, kernel=1, pad=0, inputs=(0, 1), eltwise=Eltwise.ADD))
    plan = planned(network)
    assert [plan.network.layers[index].op for index in plan.helpers] == [Op.CONV2D]
    assert not check_network(plan.network, plan.placement, MAX78000).errors


def test_trace_of_a_batch_covers_the_helpers():
    network = residual()
    plan = planned(network)
    batch = np.stack([random_sample(network, seed) for seed in range(3)])
    expanded = plan.expand_trace(run_network(network, batch), batch)
    alone = run_network(plan.network, batch)
    assert all(np.array_equal(expanded[index], alone[index]) for index in range(len(plan.network.layers)))


def test_hints_of_a_plan_give_the_same_placement_again():
    plan = planned(residual())
    assert place_network(plan.network, plan.hints, MAX78000) == plan.placement
