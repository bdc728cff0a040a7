"""Positions, sharing and bytes of weights and biases; the bytes are read back the way the hardware addresses them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.checkpoint import read_checkpoint
from ai8x.errors import UserError
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.kernels import (
    allocate_biases,
    allocate_kernels,
    bias_entries,
    mask_count,
    mask_word_count,
    pack_masks,
    plan_kernels,
    slot_channels,
)
from ai8x.max7800x.placement import Placement, PlacementOptions, channel_passes, place_network, set_bits
from ai8x.network.build import build_network
from ai8x.network.ir import ConvSpec, Op, TensorShape
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import read_network_file

from .lowering_examples import CASES, TRAINED, conv, linear, mnist, network_of, place, plan_of, small

ALL = (1 << 64) - 1


def lowest(count: int) -> int:
    return (1 << channel_passes(count)[1]) - 1


def hardware(layer, outputs=None, **changes):
    """One layer in hardware form, on the lowest processors."""
    outputs = lowest(layer.out_shape.channels) if outputs is None else outputs
    places = (place(lowest(layer.operand_shape.channels), outputs, **changes),)
    return hardware_layers(network_of(layer), Placement(layers=places), MAX78000)[0]


def weights_seen(layer, bits, taps):
    """{(rank, slot, pass, tap): weight} as the mask address register reaches them (section 3.1), per processor rank."""
    stream = pack_masks(layer, MAX78000)[..., ::-1].reshape(layer.channels_per_pass, -1).astype(np.int64)
    address = np.arange(mask_count(layer)) * bits
    found = np.zeros((layer.channels_per_pass, len(address), taps), np.int64)
    for tap in range(taps):
        byte = (address >> 3) * taps + taps - 1 - tap
        value = stream[:, byte] >> (address & 7) & ((1 << bits) - 1)
        found[..., tap] = np.where(value >> (bits - 1), value - (1 << bits), value)
    return found.reshape(layer.channels_per_pass, layer.num_slots, layer.mask_passes, taps)


def weights_wanted(layer):
    """The same array straight from the network's weights."""
    channels = slot_channels(layer)
    wanted = np.zeros((layer.channels_per_pass, layer.num_slots, layer.mask_passes, layer.taps), np.int64)
    source = layer.weights.reshape(layer.out_channels, layer.in_channels, layer.flatten_pixels, layer.taps)
    for slot, out_channel in enumerate(channels):
        for channel in range(layer.in_channels if out_channel >= 0 else 0):
            turn, rank = divmod(channel, layer.channels_per_pass)
            wanted[rank, slot, turn :: layer.passes] = source[out_channel, channel]
    return wanted


@given(
    in_channels=st.sampled_from((1, 3, 5, 65, 70, 130)),
    out_channels=st.sampled_from((1, 2, 7, 65, 67)),
    kernel=st.sampled_from((1, 3)),
    bits=st.sampled_from((1, 2, 4, 8)),
    seed=st.integers(0, 99),
)
def test_hardware_addresses_reach_every_weight_of_a_convolution(in_channels, out_channels, kernel, bits, seed) -> None:
    limit = 1 << (bits - 1)
    weights = np.random.default_rng(seed).integers(-limit, limit, (out_channels, in_channels, kernel, kernel))
    layer = hardware(
        conv(0, (in_channels, 4, 4), out_channels, kernel=kernel, pad=0, weights=weights, weight_bits=bits)
    )
    assert np.array_equal(weights_seen(layer, bits, kernel * kernel), weights_wanted(layer))


@given(
    in_channels=st.sampled_from((1, 3, 66)),
    features=st.sampled_from((1, 3, 70)),
    bits=st.sampled_from((1, 2, 4, 8)),
    seed=st.integers(0, 99),
)
def test_hardware_addresses_reach_every_weight_of_a_flattened_layer(in_channels, features, bits, seed) -> None:
    limit = 1 << (bits - 1)
    weights = np.random.default_rng(seed).integers(-limit, limit, (features, in_channels * 6, 1, 1))
    layer = hardware(linear(0, (in_channels, 2, 3), features, weights=weights, weight_bits=bits))
    assert layer.num_slots == features
    assert np.array_equal(weights_seen(layer, bits, 1), weights_wanted(layer))


@pytest.mark.parametrize(
    "outputs",
    [0b111_0000_0000_0000_0111, 0b1_0101_0100, 0x7FFE << 16, 0b111 << 2],
    ids=["gap between quadrants", "every other", "unaligned start", "unaligned short"],
)
def test_unused_lanes_of_an_output_map_have_zero_masks(outputs: int) -> None:
    layer = hardware(conv(0, (3, 4, 4), outputs.bit_count()), outputs)
    channels = slot_channels(layer)
    assert [4 * layer.first_instance + slot for slot in np.flatnonzero(channels >= 0)] == list(set_bits(outputs))
    seen = weights_seen(layer, 8, 9)
    assert not seen[:, channels < 0].any()
    assert np.array_equal(seen, weights_wanted(layer))


def test_first_tap_of_a_3x3_mask_is_the_most_significant_byte() -> None:
    layer = hardware(conv(0, (1, 4, 4), 1, weights=np.arange(1, 10).reshape(1, 1, 3, 3)))
    assert pack_masks(layer, MAX78000).tolist() == [[[1, 2, 3, 4, 5, 6, 7, 8, 9]]]


def test_positions_of_the_worked_example() -> None:
    kernels = plan_of(*mnist()).kernels.kernels
    assert [(k.start_word, k.num_masks) for k in kernels] == [(0, 60), (0, 60), (60, 56), (116, 12), (128, 160)]


def test_one_bit_weights_of_minus_one_are_stored_as_one() -> None:
    layer = hardware(
        conv(0, (1, 4, 4), 2, kernel=1, pad=0, weight_bits=1, weights=np.array([-1, 0]).reshape(2, 1, 1, 1))
    )
    assert pack_masks(layer, MAX78000)[0, 0].tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_short_last_group_gets_the_words_that_its_bytes_need() -> None:
    """Three 4-bit masks of five taps take ten bytes, more than the vendor's formula reserves."""
    layer = hardware(conv(0, (1, 5, 1), 3, weight_bits=4, **conv1d_fields(3, 5)))
    assert mask_word_count(layer) == 2 == pack_masks(layer, MAX78000).shape[1]


def conv1d_fields(channels: int, kernel: int):
    return {
        "op": Op.CONV1D,
        "conv": ConvSpec(kernel=(kernel, 1)),
        "out_shape": TensorShape(channels, 6 - kernel, 1),
        "weights": np.ones((channels, 1, kernel, 1), np.int64),
    }


@st.composite
def chains(draw):
    """Layers of random sizes on random processors; weights may repeat."""
    layers, places = [], []
    channels = draw(st.sampled_from((1, 4, 64)))
    for index in range(draw(st.integers(1, 6))):
        outputs = draw(st.sampled_from((4, 4, 5, 16, 64, 64, 100)))
        seed, bits = draw(st.integers(0, 1)), draw(st.sampled_from((1, 2, 4, 8)))
        limit = 1 << (bits - 1)
        weights = np.random.default_rng(seed).integers(-limit, limit, (outputs, channels, 3, 3))
        bias = draw(st.sampled_from((None, 1, 2)))
        layers.append(
            conv(
                index,
                (channels, 4, 4),
                outputs,
                weights=weights,
                weight_bits=bits,
                bias=None if bias is None else np.full(outputs, bias),
            )
        )
        share = channel_passes(channels)[1]
        start = draw(st.sampled_from([start for start in (0, 4, 16, 48) if start + share <= 64]))
        streaming = index == 0 and draw(st.booleans())
        places.append(place(((1 << share) - 1) << start, lowest(outputs), streaming=streaming))
        channels = outputs
    return hardware_layers(network_of(*layers), Placement(layers=tuple(places)), MAX78000)


@given(chains(), st.booleans())
def test_weights_never_overlap_and_shared_ones_are_equal(layers, deduplicate) -> None:
    plan = plan_kernels(layers, MAX78000, deduplicate=deduplicate)
    owner = np.full((64, 768), -1)
    for layer, place_ in zip(layers, plan.kernels, strict=True):
        packed = pack_masks(layer, MAX78000)
        span = slice(place_.start_word, place_.start_word + packed.shape[1])
        processors = list(set_bits(layer.processors))
        assert place_.start_word % 4 == 0
        assert np.array_equal(plan.mask_rows[processors, span], packed)
        if place_.shared_with is None:
            assert (owner[processors, span] == -1).all()
            owner[processors, span] = layer.index
        else:
            assert deduplicate
            assert layers[place_.shared_with].processors == layer.processors
    assert np.array_equal(owner >= 0, plan.mask_used)


@given(chains(), st.booleans())
def test_bias_entries_stand_where_the_plan_says_and_never_overlap(layers, deduplicate) -> None:
    plan = plan_kernels(layers, MAX78000, deduplicate=deduplicate)
    owner = {}
    for layer, bias in zip(layers, plan.biases, strict=True):
        expected = bias_entries(layer)
        assert (bias is None) == (expected is None)
        if bias is None:
            continue
        stored = plan.bias_bytes[bias.quadrant][bias.start_entry : bias.start_entry + len(expected)].astype(np.int8)
        assert np.array_equal(stored, expected)
        for entry in range(bias.start_entry, bias.start_entry + len(expected)):
            if bias.shared_with is None:
                assert owner.setdefault((bias.quadrant, entry), layer.index) == layer.index
            else:
                assert owner.get((bias.quadrant, entry), bias.shared_with) == bias.shared_with


def test_layers_on_all_processors_are_placed_first() -> None:
    layers = hardware_layers(
        network_of(conv(0, (4, 4, 4), 64), conv(1, (64, 4, 4), 8)),
        Placement(layers=(place(0xF, ALL), place(ALL, 0xFF))),
        MAX78000,
    )
    assert [k.start_word for k in allocate_kernels(layers, MAX78000)] == [8, 0]


def test_equal_weights_on_other_processors_are_stored_twice() -> None:
    weights = np.ones((4, 4, 3, 3), np.int64)
    network = network_of(*(conv(i, (4, 4, 4), 4, weights=weights) for i in range(3)))
    layers = hardware_layers(network, Placement(layers=(place(0xF, 0xF), place(0xF, 0xF0), place(0xF0, 0xF))), MAX78000)
    assert [k.shared_with for k in allocate_kernels(layers, MAX78000)] == [None, 0, None]
    assert [k.start_word for k in allocate_kernels(layers, MAX78000, deduplicate=False)] == [0, 4, 0]


def test_full_weight_memory_names_layer_words_and_a_repair() -> None:
    layers = [conv(i, (64, 4, 4), 64, weights=np.full((64, 64, 3, 3), i)) for i in range(13)]
    placed = hardware_layers(network_of(*layers), Placement(layers=(place(ALL, ALL),) * 13), MAX78000)
    assert plan_kernels(placed[:12], MAX78000).used_words == 64 * 768
    with pytest.raises(UserError) as error:
        plan_kernels(placed, MAX78000)
    found = error.value.diagnostics[0]
    assert (found.code, found.layer_index, found.layer) == ("E0410", 12, "conv12")
    assert "64 words" in found.message and "768 of 768" in found.found and "quantization: 4" in found.help


def test_full_bias_memory_is_refused_and_the_last_entry_is_not() -> None:
    def biased(index, count):
        return conv(index, (1, 4, 4), count, bias=np.full(count, index + 1), inputs=(-1,))

    def placed(*counts):
        network = network_of(*(biased(i, count) for i, count in enumerate(counts)))
        return hardware_layers(
            network, Placement(layers=tuple(place(1, lowest(count), bias_group=(0,)) for count in counts)), MAX78000
        )

    assert [b.start_entry for b in allocate_biases(placed(256, 256), MAX78000)] == [0, 256]
    with pytest.raises(UserError) as error:
        allocate_biases(placed(256, 257), MAX78000)
    assert error.value.diagnostics[0].code == "E0411"


def test_biases_go_to_the_emptiest_quadrant_largest_first() -> None:
    network = network_of(
        *(conv(i, (8, 4, 4), count, bias=np.full(count, i + 1), inputs=(-1,)) for i, count in enumerate((3, 8, 5)))
    )
    wide = 0x000F000F
    layers = hardware_layers(
        network, Placement(layers=(place(wide, 0x7), place(wide, 0xFF), place(wide, 0x1F))), MAX78000
    )
    assert [(b.quadrant, b.start_entry) for b in allocate_biases(layers, MAX78000)] == [(1, 5), (0, 0), (1, 0)]


def test_streaming_first_layer_has_a_zero_before_its_bias() -> None:
    layer = hardware(conv(0, (3, 4, 4), 4, bias=np.array([5, 6, 7, 8])), streaming=True)
    assert bias_entries(layer).tolist() == [0, 5, 6, 7, 8]


def test_all_zero_bias_takes_no_entries() -> None:
    assert bias_entries(hardware(conv(0, (3, 4, 4), 4, bias=np.zeros(4, np.int64)))) is None


def test_chunks_are_contiguous_and_cover_the_used_words() -> None:
    plan = plan_of(*small()).kernels
    covered = np.zeros_like(plan.mask_used)
    for chunk in plan.chunks():
        span = slice(chunk.start_word, chunk.start_word + len(chunk.rows))
        assert not covered[chunk.processor, span].any()
        covered[chunk.processor, span] = True
        assert np.array_equal(chunk.rows, plan.mask_rows[chunk.processor, span])
    assert np.array_equal(covered, plan.mask_used)


def recorded_memories(bus):
    """Mask rows, bias entries and the bias entries written, decoded from recorded bus writes (section 1.2)."""
    rows = np.zeros((64, 768, 9), np.uint8)
    bias, written = np.zeros((4, 512), np.uint8), np.zeros((4, 512), bool)
    position = {}
    for address, size, value in zip(bus["address"].tolist(), bus["size"].tolist(), bus["value"].tolist(), strict=True):
        quadrant, offset = divmod(address - 0x50100000, 0x400000)
        if address < 0x50100000 or not 0x8000 <= offset < 0xC0000:
            continue
        if offset < 0x8800:
            bias[quadrant, (offset - 0x8000) // 4], written[quadrant, (offset - 0x8000) // 4] = value & 0xFF, True
        elif offset >= 0x80000:
            processor, within = quadrant * 16 + ((offset - 0x80000) >> 14), offset & 0x3FFF
            if size == 1:
                position[processor] = within // 4 * 9
                continue
            for byte in value.to_bytes(4, "big"):
                word, column = divmod(position[processor], 9)
                rows[processor, word, column] = byte
                position[processor] += 1
    return rows, bias, written


def read_any_case(folder):
    """Network and placement of a recorded case, published networks included."""
    if (folder / "case.npz").exists():
        arrays = np.load(folder / "case.npz")
        state = {key[2:]: arrays[key] for key in arrays.files if key.startswith("w:")}
        sample = arrays["sample"]
    else:
        state, sample = read_checkpoint(folder / "checkpoint.pth.tar").state, np.load(folder / "sample.npy")
    file = read_network_file(str(folder / "net.yaml"))
    network = build_network(file, parameters_from_state(state), TensorShape(*np.atleast_3d(sample).shape))
    options = PlacementOptions(fifo=(folder / "options").exists() and "--fifo" in (folder / "options").read_text())
    return network, place_network(network, [entry.hint for entry in file.layers], MAX78000, options)


RECORDED = sorted(path for root in (CASES, TRAINED) if root.exists() for path in root.iterdir() if path.is_dir())


@pytest.mark.skipif(not RECORDED, reason="recorded cases are not part of the repository")
@pytest.mark.parametrize("folder", RECORDED, ids=lambda path: path.name)
def test_memories_equal_the_recorded_writes(folder) -> None:
    network, placement = read_any_case(folder)
    plan = plan_kernels(hardware_layers(network, placement, MAX78000), MAX78000)
    with np.load(folder / "bus.npz") as bus:
        rows, bias, written = recorded_memories(bus)
    assert np.array_equal(plan.mask_rows, rows)
    for quadrant, entries in enumerate(plan.bias_bytes):
        assert np.flatnonzero(written[quadrant]).tolist() == list(range(len(entries)))
        assert np.array_equal(bias[quadrant, : len(entries)], entries)
