"""Fast FIFO and quad mode: positions computed by hand from section 5.4, and the simulator agrees with the reference."""

from dataclasses import replace

import numpy as np
import pytest

from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.cycles import layer_cycles, work_from_geometry, work_from_layer
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.lower import LowerOptions, lower_network
from ai8x.max7800x.placement import DataFormat, LayerPlacement, Placement
from ai8x.max7800x.simulator import Accelerator
from ai8x.network.ir import Network
from ai8x.network.reference import run_network
from ai8x.report_max78000 import chip_report
from ai8x.verify_max78000 import run_program, verify_simulator

from .lowering_examples import MAX_2X2, conv, linear, network_of, place, plan_of, program_of, small


def quad_network(channels: int = 10, *, bias: bool = True) -> tuple[Network, Placement]:
    """One convolution in quad mode and one after it."""
    values = np.arange(1, channels + 1) if bias else None
    network = network_of(conv(0, (3, 6, 5), channels, bias=values, output_shift=-3),
                         conv(1, (channels, 6, 5), 6, pool=MAX_2X2, output_shift=-4, bias=np.arange(6)))
    layers = (place(0x7, (1 << channels) - 1, 0x4000), place((1 << channels) - 1, 0x3F, 0, 0x4000))
    return network, Placement(layers=layers, fast_fifo=True, quad=True)


def differences(network: Network, placement: Placement, options: LowerOptions | None = None) -> str:
    """What the simulator computes otherwise than the reference; empty where nothing differs."""
    assert check_network(network, placement, MAX78000).errors == ()
    plan = plan_of(network, placement)
    sample = np.random.default_rng(3).integers(-128, 128, network.input_shape.as_tuple())
    trace = run_network(network, sample)
    program = lower_network(network, plan, sample, trace, options or LowerOptions())
    return verify_simulator(network, plan.layers, program, trace).difference or ""


def test_quadrant_g_holds_the_masks_of_slots_g_plus_multiples_of_four() -> None:
    network, placement = quad_network()
    plan = plan_of(network, placement)
    weights = network.layers[0].weights
    assert weights is not None
    # Ten slots: three masks per quadrant, the last two quadrants' third one is zero. Tap 0 is the first byte.
    for quadrant in range(4):
        for channel in range(3):
            rows = plan.kernels.mask_rows[16 * quadrant + channel, :3].view(np.int8)
            for mask in range(3):
                slot = 4 * mask + quadrant
                expected = weights[slot, channel].reshape(-1) if slot < 10 else np.zeros(9)
                assert rows[mask].tolist() == expected.tolist()


def test_quadrants_compute_their_masks_at_the_same_time() -> None:
    """Ten slots take the time of three; both counts of cycles, from the plan and from the registers, say so."""
    network, placement = quad_network()
    plan = plan_of(network, placement)
    planned = [work_from_layer(*pair) for pair in zip(plan.layers, plan.kernels.kernels, strict=True)]
    assert [work.slots for work in planned] == [3, 6]
    accelerator = Accelerator(seed=1)
    run_program(program_of(network, placement), accelerator)
    decoded = [work_from_geometry(geometry) for geometry in accelerator.layer_geometry()]
    assert [layer_cycles(work) for work in decoded] == [layer_cycles(work) for work in planned]


def test_times_that_depend_on_the_feeding_of_a_fifo_are_marked_rough() -> None:
    for network, placement, rough in ((*quad_network(), True), (*small(fifo=True), True), (*small(), False)):
        chip = chip_report(network, plan_of(network, placement), {})
        assert [row.rough for row in chip.layers] == [rough] + [False] * (len(chip.layers) - 1)
        assert ("feeds the FIFO" in chip.timing_note) == rough


def test_quad_bias_and_registers_are_those_of_every_quadrant() -> None:
    network, placement = quad_network()
    program = program_of(network, placement)
    layer0 = [w for w in program.configure if w.layer == 0]
    assert [w.value for w in layer0 if w.register == "EN"] == [0x00070007] * 4
    # Three masks of 8 bits from word 0: MCNT.max = 16; no sums between quadrants, bias from entry 0 in each.
    assert [w.value for w in layer0 if w.register == "MCNT"] == [16] * 4
    assert not any("cnnsi_en" in w.fields for w in layer0)
    assert [w.fields["bptr_en"] for w in layer0 if w.register == "POST"] == [1] * 4
    assert all("bptr_sad" not in w.fields for w in layer0)
    entries = {block.quadrant: block.values.tolist()[:3] for block in program.load_bias}
    assert entries == {0: [1, 5, 9], 1: [2, 6, 10], 2: [3, 7, 0], 3: [4, 8, 0]}
    # qupac is bit 31, ffifo_en and fifogrp in every quadrant.
    assert [hex(w.value) for w in program.start] == ["0x80d08808", *4 * ["0x80d08809"]]


@pytest.mark.parametrize("channels", [4, 10, 13, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_quad_mode_computes_the_network(channels: int, bias: bool) -> None:
    assert not differences(*quad_network(channels, bias=bias))


@pytest.mark.parametrize("changes", [{"express": False}, {"write_zero_registers": True}, {"stop_start": True}])
def test_quad_mode_goes_together_with_other_options(changes: dict) -> None:
    assert not differences(*quad_network(), LowerOptions(**changes))


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_quad_mode_packs_narrow_weights(bits: int) -> None:
    network, placement = quad_network(22)
    layer = network.layers[0]
    weights = np.random.default_rng(1).integers(-(1 << bits - 1), max(1, 1 << bits - 1), (22, 3, 3, 3))
    network = network.with_layers({0: replace(layer, weights=weights, weight_bits=bits, output_shift=3)})
    assert not differences(network, placement)


@pytest.mark.parametrize("data_format", list(DataFormat))
def test_fast_fifo_feeds_pixels_or_one_channel(data_format: DataFormat) -> None:
    channels = 1 if data_format is DataFormat.CHW else 4
    network = network_of(conv(0, (channels, 8, 8), 6, output_shift=-3), linear(1, (6, 8, 8), 10, output_bits=32))
    first = LayerPlacement(processors=(1 << channels) - 1, output_processors=0x3F, out_offset=0x4000,
                           data_format=data_format)
    assert not differences(network, Placement(layers=(first, place(0x3F, 0x3FF, 0, 0x4000)), fast_fifo=True))


@pytest.mark.parametrize(("outputs", "channels", "allowed"), [
    (0x3FF, 10, True), (0x3FF << 4, 10, True), (0x3FF << 2, 10, False), ((1 << 36) - 1, 70, False)])
def test_quad_mode_needs_one_aligned_output_pass(outputs: int, channels: int, allowed: bool) -> None:
    network = network_of(conv(0, (3, 6, 5), channels))
    placement = Placement(layers=(place(0x7, outputs, 0x4000),), fast_fifo=True, quad=True)
    codes = {finding.code for finding in check_network(network, placement, MAX78000).errors}
    assert ("E0339" in codes) is not allowed


def test_quad_output_must_spare_the_copies_of_the_input_in_every_quadrant() -> None:
    network = network_of(conv(0, (3, 6, 5), 10))
    for outputs, offset, clash in ((0x3FF << 16, 0, True), (0x3FF << 20, 0, False), (0x3FF << 16, 0x100, False)):
        placement = Placement(layers=(place(0x7, outputs, offset),), fast_fifo=True, quad=True)
        codes = {finding.code for finding in check_network(network, placement, MAX78000).errors}
        assert ("E0418" in codes) is clash
