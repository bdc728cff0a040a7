"""From placed layers to register words, memory images and the known answer."""

from typing import Any

import numpy as np
import pytest

from ai8x.errors import HardwareFault, Source, UserError
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.lower import ClockSource, LowerOptions, lower_network
from ai8x.max7800x.lower_data import OutputRegion, unload_regions
from ai8x.max7800x.placement import DataFormat, LayerPlacement, Placement
from ai8x.max7800x.program import Program
from ai8x.max7800x.simulator import Accelerator
from ai8x.network.ir import Activation, ConvSpec, Op, TensorShape
from ai8x.network.yaml_file import UnloadItem

from .lowering_examples import (
    CASES,
    MAX_2X2,
    conv,
    mnist,
    network_of,
    passthrough,
    place,
    plan_of,
    program_of,
    random_tensors,
    read_case,
    real_program,
    residual,
    small,
)

EXAMPLES = {"mnist": mnist, "small": small, "small-fifo": lambda: small(fifo=True), "residual": residual}

FAMILIES = (
    "chw-1",
    "concat-2",
    "conv1d-2",
    "conv1d_mixed-2",
    "conv2d-2",
    "dilated-1",
    "dilated-2",
    "eltwise_2pool-1",
    "eltwise_3-1",
    "eltwise_5-2",
    "eltwise_add-1",
    "eltwise_or-2",
    "eltwise_xor-3",
    "fifo-1",
    "fifo_streaming-1",
    "fifo_streaming-2",
    "mixedbits-1",
    "multipass-2",
    "pools-2",
    "pools_rounded-3",
    "residual-1",
    "residual_sub-2",
    "shared_weights-1",
    "transpose-1",
)
"""Recorded cases, at least one of each family, whose firmware writes exactly what lowering says."""

needs_cases = pytest.mark.skipif(not CASES.exists(), reason="recorded cases are not part of the repository")


def register_values(program: Program, layer: int, quadrant: int) -> dict[str, int]:
    return {
        write.register: write.value for write in program.configure if (write.layer, write.quadrant) == (layer, quadrant)
    }


def words_in_memory(program: Program) -> dict[int, int]:
    """Data memory as the known answer describes it."""
    memory: dict[int, int] = {}
    for block in program.expected:
        for position, value in enumerate(block.values.tolist()):
            assert value & ~block.mask == 0
            address = block.address + 4 * position
            assert address not in memory
            memory[address] = value
    return memory


def unloaded(program: Program) -> dict[int, np.ndarray]:
    """The outputs read from that memory as `cnn_unload` would."""
    memory, outputs = words_in_memory(program), {}
    for item in program.unload:
        planes = np.zeros((item.channels, item.height * item.width), np.int64)
        for group in item.groups:
            lanes = [lane for lane in range(4) if group.lanes >> lane & 1]
            for position, lane in enumerate(lanes):
                for pixel in range(item.height * item.width):
                    address = group.address + pixel * item.pixel_step
                    if item.bits == 32:
                        value = int(np.uint32(memory[address + 4 * lane]).view(np.int32))
                    else:
                        value = int(np.uint8(memory[address] >> 8 * lane & 0xFF).view(np.int8))
                    planes[group.channel + position, pixel] = value
        outputs[item.layer] = planes.reshape(item.channels, item.height, item.width)
    return outputs


def test_worked_example_of_a_pooled_convolution_over_four_quadrants():
    program = program_of(*mnist())
    common = {
        "RCNT": 0x2001F,
        "CCNT": 0x2001F,
        "PRCNT": 1,
        "PCCNT": 1,
        "STRIDE": 1,
        "WPTR_BASE": 0x2000,
        "WPTR_MOFF": 0x2000,
        "RPTR_BASE": 0x800,
        "LCTRL1": 0x1D800,
        "MCNT": 0x1D8,
        "TPTR": 0xF,
        "POST": 0x24000,
    }
    assert register_values(program, 1, 0) == {**common, "LCTRL0": 0xEBA0, "EN": 0xFFF0FFF0}
    for quadrant in (1, 2, 3):
        assert register_values(program, 1, quadrant) == {**common, "LCTRL0": 0xBA0, "EN": 0xFFFFFFFF}


def test_worked_example_of_a_flattened_wide_layer():
    program = program_of(*mnist())
    values = register_values(program, 4, 0)
    koff = plan_of(*mnist()).kernels.kernels[4].start_word
    assert values["MCNT"] == 72 * koff << 16 | 72 * koff + (160 - 1) * 8
    del values["MCNT"]
    assert values == {
        "WPTR_BASE": 0x400,
        "WPTR_TOFF": 1,
        "WPTR_MOFF": 0x2000,
        "LCTRL0": 0x10920,
        "LCTRL1": 0x480F,
        "ONED": 0x100,
        "POST": 0x1000,
        "EN": 0x0FFF0FFF,
    }


def test_start_arms_every_quadrant_and_ends_with_the_first():
    program = program_of(*mnist())
    assert [(write.quadrant, write.value) for write in program.start] == [
        (0, 0x00100808),
        (1, 0x00100809),
        (2, 0x00100809),
        (3, 0x00100809),
        (0, 0x00100009),
    ]


def test_interrupt_clears_start_and_stream_bits_everywhere():
    program = program_of(*mnist())
    assert [(write.quadrant, write.value) for write in program.acknowledge] == [
        (0, 0x00100008),
        (1, 0x00100808),
        (2, 0x00100808),
        (3, 0x00100808),
    ]


def test_initialisation_writes_always_on_control_even_though_it_is_zero():
    assert [(write.address, write.value) for write in program_of(*small()).init] == [
        (0x50001000, 0),
        (0x50100000, 0x00100008),
        (0x50100004, 0x40E),
        (0x50100008, 1),
    ]


def test_fifo_bits_reach_control_frame_and_fifo_registers():
    program = program_of(*small(fifo=True))
    assert [write.value for write in program.start] == [0x00108808, 0x00108809]
    assert (program.configure[-1].address, program.configure[-1].value) == (0x50000000, 0x1908)
    assert register_values(program, 0, 0)["IFRM"] == 64
    assert register_values(program, 0, 0)["STRM0"] == 64
    assert program.uses_fifo
    assert {block.address for block in program.load_input} == {0x50000008}


def test_registers_that_stay_zero_are_written_on_request_only():
    lean = program_of(*small())
    full = program_of(*small(), LowerOptions(write_zero_registers=True))
    assert all(write.value for write in lean.configure)
    assert [write for write in full.configure if write.value] == list(lean.configure)
    assert sum(write.layer == 1 for write in full.configure) == 17


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_write_goes_to_a_register_and_decodes_to_its_fields(example: str):
    program = program_of(*EXAMPLES[example]())
    places = MAX78000.quadrant.by_offset()
    for write in (*program.init, *program.configure, *program.start, *program.acknowledge):
        if write.quadrant is None:
            continue
        register, index = places[write.address - MAX78000.geometry.quadrant_registers(write.quadrant)]
        assert register.name == write.register
        assert write.layer in (None, index) or register.count == 1
        assert {name: value for name, value in register.decode(write.value).items() if value} == dict(write.fields)


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_address_belongs_to_a_known_memory_or_register(example: str):
    program, geometry = program_of(*EXAMPLES[example]()), MAX78000.geometry
    known = {0x50001000, 0x50000000, *(geometry.fifo_data_address(fifo) for fifo in range(4))}
    for quadrant in range(4):
        base = geometry.quadrant_registers(quadrant)
        known |= {base + offset for offset in MAX78000.quadrant.by_offset()}
        known |= set(range(geometry.bias_address(quadrant), geometry.bias_address(quadrant, 512), 4))
    ranges = [(geometry.mask_address(p), geometry.mask_address(p) + 768 * 16) for p in range(64)]
    ranges += [(geometry.data_address(i), geometry.data_address(i, 8192)) for i in range(16)]
    for address, size, value in program.bus_writes():
        assert address in known or any(low <= address < high for low, high in ranges), hex(address)
        assert size in (1, 4)
        assert 0 <= value < 1 << 8 * size


def test_power_sequence_isolates_unused_quadrants_and_clocks_the_rest():
    program = program_of(*small(), LowerOptions(clock_source=ClockSource.ISO, clock_divider=4))
    assert [(write.address, write.value) for write in program.enable] == [
        (0x4000580C, 0xF),
        (0x40005804, 0x1),
        (0x40005800, 0x1),
        (0x40005808, 0xE),
        (0x4000580C, 0x0),
        (0x40000018, 1 << 17 | 1 << 14),
        (0x40000024, 0),
    ]
    assert [(write.address, write.value) for write in program.disable] == [
        (0x40000024, 1 << 25),
        (0x4000580C, 0xF),
        (0x40005808, 0xF),
        (0x40005800, 0),
        (0x40005804, 0),
        (0x4000580C, 0),
    ]


def test_impossible_clock_divider_is_refused():
    with pytest.raises(UserError) as failure:
        program_of(*small(), LowerOptions(clock_divider=3))
    assert failure.value.diagnostics[0].code == "E0392"


def test_fast_fifo_is_enabled_in_the_quadrants_that_it_feeds():
    network, placement = small()
    program = program_of(network, Placement(layers=placement.layers, fast_fifo=True))
    writes = [(write.address, write.value) for write in program.configure[-2:]]
    assert writes == [(0x400C0408, 0), (0x400C0400, 0xA0)]
    # clk_en 3, bit 11, fifo_en 15, mexpress 20, ffifo_en 22, fifogrp 23; only quadrant 0 is used.
    assert [write.value for write in program.start] == [0x00D08808, 0x00D08809]
    (block,) = program.load_input
    assert (block.address, block.fifo, block.full_bit, block.words.size) == (0x400C0410, 0, 1, 64)
    assert program.fifo_status == 0x400C0404


def test_pass_layer_points_at_instance_zero_where_a_quadrant_holds_no_output():
    program = program_of(*residual())
    assert register_values(program, 1, 0)["WPTR_BASE"] == 0x40
    assert register_values(program, 1, 3)["WPTR_BASE"] == 14 << 13 | 0x40


def test_channel_major_input_puts_four_pixels_of_one_channel_in_a_word():
    network = network_of(conv(0, (2, 3, 3), 4))
    program = program_of(
        network,
        Placement(
            layers=(
                LayerPlacement(
                    processors=0x11, output_processors=0xF, out_offset=0x1000, in_offset=8, data_format=DataFormat.CHW
                ),
            )
        ),
    )
    sample, _ = random_tensors(network)
    assert [block.address for block in program.load_input] == [0x50400008, 0x50408008]
    for channel, block in enumerate(program.load_input):
        data = b"".join(int(word).to_bytes(4, "little") for word in block.words)
        assert data == sample[channel].astype(np.int8).tobytes() + bytes(3)


def test_pixel_major_input_interleaves_the_passes_of_each_instance():
    network = network_of(conv(0, (70, 2, 2), 4, kernel=1, pad=0))
    processors = (1 << 36) - 1
    program = program_of(network, Placement(layers=(place(processors, 0xF, 0x1000),)))
    sample, _ = random_tensors(network)
    last = program.load_input[-1]
    assert (len(program.load_input), last.processor, last.name) == (9, 32, "SAMPLE_INPUT_32")
    first_pass = [int(word).to_bytes(4, "little") for word in last.words[0::2]]
    second_pass = [int(word).to_bytes(4, "little") for word in last.words[1::2]]
    pixels = sample.astype(np.int8).reshape(70, 4)
    assert first_pass == [pixels[32:36, pixel].tobytes() for pixel in range(4)]
    assert second_pass == [pixels[68:70, pixel].tobytes() + bytes(2) for pixel in range(4)]


def test_sixteen_channels_use_one_fifo_per_quadrant():
    network = network_of(conv(0, (16, 2, 2), 4))
    program = program_of(network, Placement(layers=(place(0x000F000F000F000F, 0xF, 0x1000),), fifo=True))
    sample, _ = random_tensors(network)
    assert [block.fifo for block in program.load_input] == [0, 1, 2, 3]
    assert program.configure[-1].value == 0xF908
    order = [address for address, _, _ in program.input_writes()]
    assert order[:5] == [0x50000008, 0x5000000C, 0x50000010, 0x50000014, 0x50000008]
    assert (
        int(program.load_input[1].words[2]).to_bytes(4, "little")
        == sample.reshape(16, 4)[4:8, 2].astype(np.int8).tobytes()
    )


def test_sample_of_another_size_is_an_error():
    network, placement = small()
    with pytest.raises(ValueError, match="does not fit"):
        lower_network(network, plan_of(network, placement), np.zeros((3, 8, 7)), random_tensors(network)[1])


@pytest.mark.parametrize("example", EXAMPLES)
def test_unloading_the_known_answer_gives_the_outputs(example: str):
    network, placement = EXAMPLES[example]()
    _, answers = random_tensors(network)
    for layer, values in unloaded(program_of(network, placement)).items():
        np.testing.assert_array_equal(values, answers[layer])


@pytest.mark.parametrize(("channels", "gap", "bits"), [(5, 0, 8), (5, 2, 8), (70, 1, 8), (6, 0, 32), (6, 1, 32)])
def test_unloading_follows_gap_passes_and_width(channels: int, gap: int, bits: int):
    activation = Activation.NONE if bits == 32 else Activation.RELU
    network = network_of(conv(0, (2, 3, 4), channels, output_bits=bits, activation=activation))
    outputs = (1 << min(channels, 36)) - 1 << 4
    program = program_of(network, Placement(layers=(place(0x3, outputs, 0x1000, write_gap=gap),)))
    np.testing.assert_array_equal(unloaded(program)[0], random_tensors(network)[1][0])


def test_known_answer_is_sorted_by_mask_then_address_and_merges_runs():
    program = program_of(*residual())
    order = [(block.mask, block.address) for block in program.expected]
    assert order == sorted(order)
    ends = {(block.mask, block.address + 4 * block.values.size) for block in program.expected}
    assert not ends & set(order)
    assert {block.mask for block in program.expected} == {0xFFFFFFFF, 0xFF}


def test_outputs_lie_one_after_the_other_in_the_buffer():
    program = program_of(*residual())
    assert [(item.layer, item.offset, item.size_bytes) for item in program.unload] == [(1, 0, 288), (4, 288, 180)]
    assert program.output_bytes == 468


def test_unload_items_of_the_file_replace_the_outputs():
    region = OutputRegion(processors=0x30, channels=2, height=2, width=3, offset=0x100, name="unload0")
    program = program_of(*small(), LowerOptions(unload=(region,)))
    assert [(item.name, item.num_values) for item in program.unload] == [("unload0", 12)]
    assert program.unload[0].groups[0].address == 0x50408100


def unload_entry(**changes: Any) -> UnloadItem:
    fields = {
        "processors": 0x30,
        "channels": 2,
        "dim": (2, 3),
        "offset": 0x100,
        "source": Source(file="net.yaml", line=3),
    }
    return UnloadItem(**{**fields, **changes})


def test_unload_entries_of_the_file_keep_their_width_and_gap():
    first, second = unload_regions([unload_entry(width=32, write_gap=1), unload_entry(dim=(7,))], MAX78000)
    assert (first.bits, first.pixel_words, first.num_pixels, first.offset) == (32, 8, 6, 0x100)
    assert (second.bits, second.pixel_words, second.num_pixels, second.name) == (8, 1, 7, "unload1")


@pytest.mark.parametrize(
    ("code", "changes"),
    [("E0394", {"processors": 0}), ("E0490", {"offset": 0x7FEC}), ("E0490", {"offset": 0x102})],
)
def test_impossible_unload_entry_is_refused(code: str, changes: dict[str, int]):
    unload_regions([unload_entry(offset=0x7FE8)], MAX78000)
    with pytest.raises(UserError) as failure:
        unload_regions([unload_entry(**changes)], MAX78000)
    assert [diagnostic.code for diagnostic in failure.value.diagnostics] == [code]


def test_plain_loading_clears_the_express_bit():
    program = program_of(*small(), LowerOptions(express=False))
    assert program.init[1].value == 0x8
    assert all(size == 4 for _, size, _ in program.bus_writes())


def test_transposed_convolution_doubles_the_frame():
    layer = conv(
        0,
        (4, 5, 6),
        4,
        op=Op.CONV_TRANSPOSE2D,
        out_shape=TensorShape(4, 10, 12),
        conv=ConvSpec(kernel=(3, 3), padding=(1, 1), stride=(2, 2), output_padding=1),
    )
    values = register_values(program_of(network_of(layer), Placement(layers=(place(0xF, 0xF, 0x1000),))), 0, 0)
    assert (values["RCNT"], values["CCNT"], values["TPTR"]) == (0x1000B, 0x1000D, 11)
    assert values["POST"] & 1 << 28
    assert "STRIDE" not in values


def test_pooling_pass_layer_has_no_masks():
    layer = passthrough(0, (4, 4, 4), out_shape=TensorShape(4, 2, 2), pool=MAX_2X2)
    values = register_values(program_of(network_of(layer), Placement(layers=(place(0xF, 0xF, 0x1000),))), 0, 0)
    assert values == {
        "RCNT": 3,
        "CCNT": 3,
        "PRCNT": 1,
        "PCCNT": 1,
        "STRIDE": 1,
        "WPTR_BASE": 0x400,
        "WPTR_TOFF": 0x800,
        "LCTRL0": 0x9A0,
        "ONED": 0x100,
        "POST": 0x3000000,
        "EN": 0xF,
    }


@pytest.mark.parametrize("example", [*EXAMPLES, "plain"])
def test_accelerator_powered_and_programmed_by_it_computes_the_reference(example: str):
    network, placement = EXAMPLES.get(example, small)()
    program = real_program(network, placement, LowerOptions(express=example != "plain"))
    accelerator = Accelerator(seed=3, powered=False)
    for power in program.enable:
        accelerator.power(power.address, power.value)
    for write in program.bus_writes(acknowledge=False):
        accelerator.write(*write)
    accelerator.complete()
    for write in program.acknowledge:
        accelerator.write(*write.bus_write)
    for block in program.expected:
        for position, value in enumerate(block.values.tolist()):
            assert accelerator.read(block.address + 4 * position, 4) & block.mask == value
    for power in program.disable:
        accelerator.power(power.address, power.value)
    with pytest.raises(HardwareFault):
        accelerator.read(program.expected[0].address, 4)


@needs_cases
@pytest.mark.parametrize("name", FAMILIES)
def test_program_writes_what_the_recorded_firmware_wrote(name: str):
    network, plan, sample, outputs = read_case(CASES / name)
    bus = np.load(CASES / name / "bus.npz")
    program = lower_network(network, plan, sample, outputs)
    recorded = list(zip(bus["address"].tolist(), bus["size"].tolist(), bus["value"].tolist(), strict=True))
    assert list(program.bus_writes(acknowledge=False)) == recorded
    answer = {
        (block.address + 4 * i, block.mask, int(value))
        for block in program.expected
        for i, value in enumerate(block.values)
    }
    assert answer == set(map(tuple, bus["expected"].tolist()))
