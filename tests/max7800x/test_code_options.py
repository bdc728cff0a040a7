"""Every code generation option does what it says: compiled with all warnings, run, bus writes compared."""

import dataclasses
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ai8x.errors import UserError
from ai8x.max7800x.codegen import render_sources, write_project
from ai8x.max7800x.lower import ClockSource, LowerOptions, lower_network
from ai8x.max7800x.lower_data import store_few_words
from ai8x.max7800x.options import (
    BoostPin,
    CodegenOptions,
    Core,
    FileNames,
    ProjectOptions,
    SyntheticInput,
    check_options,
    parse_boost,
    plain_options,
)
from ai8x.max7800x.placement import DataFormat, Placement
from ai8x.max7800x.program import Program
from ai8x.max7800x.simulator import Accelerator
from ai8x.network.ir import Network, TensorShape
from ai8x.network.reference import run_network
from ai8x.sample import Sample, repeat_words

from .lowering_examples import (
    conv,
    linear,
    network_of,
    place,
    plan_of,
    random_tensors,
    real_program,
    residual,
    small,
)

STRICT = "WARNINGS=-Wall -Wextra -Wconversion -Wshadow -Werror"
QUIET = CodegenOptions(debug_wait_s=0)
AOD_CTRL = 0x50001000


class Run:
    """A project that was built and run."""

    def __init__(self, folder: Path, program: Program, network: Network, options: CodegenOptions,
                 budget: int = 100_000_000) -> None:
        virtual = pytest.importorskip("ai8x.virtual.max78000")
        pytest.importorskip("unicorn")
        if shutil.which("arm-none-eabi-gcc") is None or shutil.which("make") is None:
            pytest.skip("no cross compiler on this machine")
        self.program = program
        write_project(program, network, folder, options)
        subprocess.run(["make", "-s", STRICT], cwd=folder, check=True, capture_output=True)
        self.accelerator = Accelerator(seed=5, powered=False, fifo_depth=8)
        self.writes: list[tuple[int, int, int]] = []
        self.result = virtual.run_firmware(next(folder.glob("build/*.elf")), self.accelerator, lambda: 5_000,
                                           on_bus_write=lambda *write: self.writes.append(write), budget=budget)

    def check(self) -> None:
        assert self.result.passed, (self.result.reason, self.result.console)
        assert self.writes == list(self.program.bus_writes())


def test_memories_are_tested_loaded_and_verified(tmp_path: Path) -> None:
    network, placement = small()
    program = real_program(network, placement, LowerOptions(zero_memories=True, write_zero_registers=True))
    Run(tmp_path, program, network, replace(QUIET, verify_weights=True, verify_writes=True, timer=5)).check()
    assert [test.memory for test in program.self_tests] == ["data", "mask", "tram", "bias"]
    assert [(w.address, w.value) for test in program.self_tests for w in (*test.start, *test.finish)] == [
        (0x5010000C, value) for value in (0x01, 0, 0x04, 0, 0x10, 0, 0x40, 0)]
    assert [test.done for test in program.self_tests] == [1 << 27 | 1 << bit for bit in (18, 19, 20, 21)]
    assert [test.failed for test in program.self_tests] == [1 << bit for bit in (14, 15, 16, 17)]


def test_plain_loading_oscillator_stop_and_power_down(tmp_path: Path) -> None:
    network, placement = small()
    options = LowerOptions(express=False, stop_start=True, power_down_unused=True, clock_source=ClockSource.ISO,
                           clock_divider=2)
    program = real_program(network, placement, options)
    run = Run(tmp_path, program, network, replace(QUIET, verify_weights=True, wfi=False, boost=BoostPin(port=2, pin=5)))
    run.check()
    # Quadrants 1 to 3 are not used: AOD_CTRL bits 13 to 15, between arming and start.
    starts = [(w.address, w.value) for w in program.start]
    assert starts[-2:] == [(AOD_CTRL, 0xE000), (0x50100000, 0x9)]
    assert [w.value for w in program.stop_start] == [0x8, 0x9]
    assert options.clock_hz == 30_000_000
    # 5,000 cycles at 30 MHz and the start's overhead.
    assert 166 <= (run.result.cnn_time_us or 0) <= 180


def test_layer_by_layer_compares_every_layer_on_the_device(tmp_path: Path) -> None:
    network, placement = residual()
    program = real_program(network, placement, LowerOptions(check_layers=True))
    run = Run(tmp_path, program, network, QUIET)
    run.check()
    assert [check.layer for check in program.layer_checks] == [0, 1, 2, 3]
    assert [f"Layer {n} is right." in run.result.console for n in range(4)] == [True] * 4


def test_layer_by_layer_names_the_wrong_layer(tmp_path: Path) -> None:
    network, placement = residual()
    program = real_program(network, placement, LowerOptions(check_layers=True))
    check = program.layer_checks[2]
    values = check.expected[0].values.copy()
    values[0] ^= 1
    wrong = replace(check, expected=(replace(check.expected[0], values=values), *check.expected[1:]))
    program = replace(program, layer_checks=(*program.layer_checks[:2], wrong, *program.layer_checks[3:]))
    result = Run(tmp_path, program, network, QUIET).result
    assert not result.passed
    assert "Layer 1 is right." in result.console and "Layer 2 is wrong." in result.console


def test_energy_measurement_repeats_loading_and_inference(tmp_path: Path) -> None:
    network, placement = small()
    program = real_program(network, placement)
    run = Run(tmp_path, program, network, replace(QUIET, energy=True), budget=500_000_000)
    assert run.result.passed, run.result.console
    init = [w.bus_write for w in program.init]
    weights = [w for chunk in program.load_weights for w in chunk.bus_writes()]
    bias = [w for block in program.load_bias for w in block.bus_writes()]
    configure = [w.bus_write for w in program.configure]
    repeated = [*init, *100 * weights, *100 * list(program.input_writes()), *bias, *configure,
                *100 * list(program.inference_writes())]
    assert run.writes == [*program.bus_writes(), *repeated]
    assert run.result.statistics.inferences == 101
    # 1 s of rest and two pauses of 0.5 s.
    assert run.result.time_us > 2e6


def planar(*, fifo: bool) -> tuple[Network, Placement]:
    """`small` with channel-major input of 81 pixels, which do not fill the last word."""
    network = network_of(conv(0, (3, 9, 9), 6), linear(1, (6, 9, 9), 10, output_bits=32, output_shift=0), name="planar")
    processors = 0x1_0001_0001 if fifo else 0x111
    layers = (place(processors, 0x3F, 0x4000, data_format=DataFormat.CHW), place(0x3F, 0x3FF, 0, 0x4000))
    return network, Placement(layers=layers, fifo=fifo)


def scattered() -> tuple[Network, Placement]:
    """Channels that share no word with their neighbours: processors 1, 2 and 7."""
    network = network_of(conv(0, (3, 8, 8), 6, output_shift=-3), name="scattered")
    return network, Placement(layers=(place(0x86, 0x3F, 0x4000),))


def two_passes() -> tuple[Network, Placement]:
    """70 channels in two passes over nine groups of processors, in three quadrants."""
    network = network_of(conv(0, (70, 5, 5), 6, output_shift=-6), name="passes")
    return network, Placement(layers=(place((1 << 36) - 1, 0x3F, 0x4000),))


def cropped() -> tuple[Network, Placement]:
    """The first row and the last two of the sample are not read."""
    layer = conv(0, (5, 5, 8), 6, output_shift=-4, in_crop=(1, 2))
    network = Network(name="cropped", input_shape=TensorShape(5, 8, 8), layers=(layer,))
    return network, Placement(layers=(place(0x1F, 0x3F, 0x4000),))


@pytest.mark.parametrize(("example", "words", "increment"), [
    (partial(small, fifo=True), 8, 0x10307), (small, 8, 0x10307), (small, 5, -3), (small, 100, 1),
    (partial(planar, fifo=True), 7, 0x01FF0305), (partial(planar, fifo=False), 7, 0x01FF0305),
    (scattered, 3, 0x80FF7F01), (two_passes, 6, 0xFEDCBA98), (cropped, 6, 0x01020304), (residual, 4, 0xFFFFFFFF)])
def test_synthesized_input_is_made_by_the_firmware(tmp_path: Path, example: Callable[[], tuple[Network, Placement]],
                                                   words: int, increment: int) -> None:
    network, placement = example()
    rng = np.random.default_rng(4)
    given = Sample(values=rng.integers(-128, 128, network.input_shape.as_tuple()).astype(np.int8), origin="test")
    sample = repeat_words(given, words=words, increment=increment)
    plan, options = plan_of(network, placement), LowerOptions(stop_start=placement.fifo)
    whole = lower_network(network, plan, sample.values, run_network(network, sample.values), options)
    program = store_few_words(whole, plan.layers[0], sample.values, SyntheticInput(increment=increment, words=words))
    assert list(program.bus_writes()) == list(whole.bus_writes())
    groups, pixels = -(-network.input_shape.channels // 4), network.input_shape.height * network.input_shape.width
    text = render_sources(program, network, QUIET)["sampledata.h"]
    assert text.count("0x") == groups * min(words, pixels)
    Run(tmp_path, program, network, QUIET).check()


def test_a_sample_that_does_not_follow_from_its_first_words_is_not_shortened() -> None:
    network, placement = small()
    plan, sample = plan_of(network, placement), random_tensors(network)[0]
    with pytest.raises(ValueError, match="does not follow from its first 8 words"):
        store_few_words(real_program(network, placement), plan.layers[0], sample, SyntheticInput(increment=1))


def test_synthesized_words_carry_between_channels_and_are_masked() -> None:
    values = np.zeros((3, 1, 5), np.int8)
    values[:, 0, 0] = [1, -1, 127]
    values[:, 0, 1] = [-1, -1, -1]
    made = repeat_words(Sample(values=values, origin=""), words=2, increment=0x101).values
    # Word 0 = 0x7fff01, word 1 = 0xffffff; plus 0x101, plus 0x202; the fourth channel does not exist.
    words = [0x7FFF01, 0xFFFFFF, 0x800002, 0x000100, 0x800103]
    expected = [[word >> 8 * lane & 0xFF for word in words] for lane in range(3)]
    assert made.view(np.uint8)[:, 0].tolist() == expected


def test_files_get_the_names_that_were_asked_for(tmp_path: Path) -> None:
    network, placement = small()
    names = FileNames(main="app", api="", weights="w", sample="input_data", answer="answer")
    program = real_program(network, placement, LowerOptions(max_verify_words=3))
    options = replace(QUIET, names=names, unload=False, softmax=False)
    assert sorted(render_sources(program, network, options)) == [
        "answer.h", "app.c", "cnn.h", "input_data.h", "softmax.c", "w.h"]
    assert sum(block.values.size for block in program.expected) == 3
    Run(tmp_path, program, network, options).check()


def test_separate_api_file_brings_its_own_header() -> None:
    network, placement = small()
    files = render_sources(real_program(network, placement), network, replace(QUIET, names=FileNames(api="net")))
    assert '#include "net.h"' in files["net.c"] and '#include "net.h"' in files["main.c"]
    assert "#ifndef NET_H" in files["net.h"]


def test_endless_firmware_repeats_the_inference(tmp_path: Path) -> None:
    network, placement = small()
    run = Run(tmp_path, real_program(network, placement), network, replace(QUIET, forever=True), budget=2_000_000)
    assert not run.result.returned
    assert run.result.console.count("PASS") > 2
    assert run.result.statistics.inferences >= run.result.console.count("PASS")


@pytest.mark.parametrize(("changes", "code"), [
    ({"lower": LowerOptions(clock_divider=3)}, "E0392"),
    ({"lower": LowerOptions(clock_source=ClockSource.ISO)}, "E0392"),
    ({"code": CodegenOptions(timer=6)}, "E0393"),
    ({"code": CodegenOptions(boost=BoostPin(port=3, pin=0))}, "E0395"),
    ({"code": CodegenOptions(boost=BoostPin(port=2, pin=32))}, "E0395"),
    ({"code": CodegenOptions(names=FileNames(weights="../w"))}, "E0396"),
    ({"code": CodegenOptions(names=FileNames(weights="cnn"))}, "E0396"),
    ({"code": CodegenOptions(names=FileNames(main="softmax"))}, "E0396"),
    ({"fast_fifo": True}, "E0397"),
    ({"fast_fifo": True, "fifo": True, "code": CodegenOptions(core=Core.RISCV)}, "E0397"),
    ({"quad": True}, "E0397"),
    ({"synthetic_input": SyntheticInput(increment=1), "code": CodegenOptions(compact=False)}, "E0397"),
    ({"code": CodegenOptions(energy=True, forever=True)}, "E0397"),
    ({"lower": LowerOptions(check_layers=True), "code": CodegenOptions(known_answer=False)}, "E0397"),
])
def test_impossible_choices_are_refused(changes: dict, code: str) -> None:
    with pytest.raises(UserError) as failure:
        check_options(ProjectOptions(**changes))
    assert failure.value.diagnostics[0].code == code


@pytest.mark.parametrize("changes", [
    {"lower": LowerOptions(clock_source=ClockSource.ISO, clock_divider=2)}, {"code": CodegenOptions(timer=5)},
    {"code": CodegenOptions(boost=BoostPin(port=2, pin=31))},
    {"fifo": True, "synthetic_input": SyntheticInput(increment=1)}, {"synthetic_input": SyntheticInput(increment=1)},
    {"fast_fifo": True, "quad": True, "code": CodegenOptions(core=Core.RISCV)}, {}])
def test_possible_choices_pass(changes: dict) -> None:
    check_options(ProjectOptions(**changes))


@pytest.mark.parametrize("text", ["2", "2.", "a.b", "2.5.1", "-1.5", "10.1"])
def test_pins_are_port_and_number(text: str) -> None:
    with pytest.raises(UserError, match=r"E0395.*" if text else ""):
        parse_boost(text)
    assert parse_boost("2.5") == BoostPin(port=2, pin=5)


def test_options_as_plain_data_hold_every_choice() -> None:
    plain = plain_options(ProjectOptions(fifo=True))
    assert plain["fifo"] is True and plain["lower"]["clock_source"] == "PCLK" and plain["code"]["core"] == "ARM"
    assert set(plain) == {field.name for field in dataclasses.fields(ProjectOptions)}
