"""The K210 runner as machine code on the virtual board: layers, faults, time, interrupts."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ai8x import simulate
from ai8x.errors import HardwareFault, UserError
from ai8x.k210.codegen import RunnerModel, output_tolerances
from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.kmodel import KModel, read_kmodel, write_kmodel
from ai8x.k210.kmodel_layers import Dequantize, K210Conv, Logistic, MemoryRange, QuantizedAdd, Softmax, UnknownLayer
from ai8x.k210.lower import device_image, lower_network
from ai8x.toolchain import build_k210_project, missing_k210_tools
from ai8x.virtual.bus import RegisterFile
from ai8x.virtual.k210 import K210FirmwareResult, run_k210_firmware
from ai8x.virtual.k210_kpu import DmaController
from ai8x.virtual.k210_peripherals import SystemControl, Uarths
from ai8x.virtual.k210_verify import verify_kpu_firmware
from ai8x.virtual.riscv import is_riscv_firmware
from ai8x.virtual.stop import StopCause
from tests.end_to_end.digitsnet import network_of, sample, state
from tests.k210.kpu_layers import Shape, conv, pattern_image, pattern_weights, single
from tests.k210.runner_projects import HALVING, all_layers_model, runner_model, small_model, write_project

Build = Callable[..., Path]
Project = Callable[..., Path]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Builds projects in one folder, where only what differs is compiled again; gives copies of the ELF file."""
    if missing := missing_k210_tools():
        pytest.skip(missing)
    pytest.importorskip("unicorn")
    folder = tmp_path_factory.mktemp("k210") / "project"

    def build_project(runner: RunnerModel, *, main: str = "") -> Path:
        elf = build_k210_project(write_project(folder, runner, main=main))
        return Path(shutil.copy(elf, tmp_path_factory.mktemp("elf")))

    return build_project


@pytest.fixture(scope="module")
def build(project: Project) -> Build:
    """Builds a project with these statements in main, after runner_start; gives the ELF file."""
    runner = runner_model(small_model(), pattern_image(2, 8, 8))
    return lambda body, before="": project(runner, main=main_with(body, before))


def main_with(body: str, before: str = "") -> str:
    return f"""
#include <stdbool.h>
#include <stdint.h>
#include "board.h"
#include "image.h"
#include "kpu.h"
#include "model.h"
#include "print.h"
#include "runner.h"
{before}
int main(void)
{{
    if (runner_start() != 0) {{ return 2; }}
    {{ {body} }}
    return 0;
}}
"""


# --- whole models -------------------------------------------------------------------------------------------------


def test_digits_network_runs_layer_by_layer_as_simulated(tmp_path: Path) -> None:
    if missing := missing_k210_tools():
        pytest.skip(missing)
    pytest.importorskip("unicorn")
    network = network_of(state())
    lowered = lower_network(network)
    run = run_kmodel(lowered.data, device_image(sample()))
    runner = replace(runner_model(lowered.model, device_image(sample())), is_wide=(True,),
                     labels=tuple(f"digit {i}" for i in range(10)))
    folder = write_project(tmp_path / "project", runner)
    assert str(verify_kpu_firmware(folder, lowered, run)) == "equal"

    other = run_kmodel(lowered.data, 255 - device_image(sample()))
    verdict = verify_kpu_firmware(folder, lowered, other)
    assert verdict.difference.startswith("layer 0 'conv1': byte at channel 0, row ")

    (folder / "expected.bin").write_bytes(b"\\0" * run.outputs[0].size)
    assert "main returned 1" in verify_kpu_firmware(folder, lowered, run).difference


def test_class_table_shows_the_softmax_of_the_accumulators(project: Project) -> None:
    lowered = lower_network(network_of(state()))
    image = device_image(sample())
    runner = replace(runner_model(lowered.model, image), is_wide=(True,), labels=tuple(f"digit {i}" for i in range(10)))
    console = run_k210_firmware(project(runner)).console
    logits = run_kmodel(lowered.data, image).outputs[0].view(np.float32).astype(np.float64)
    powers = np.exp((logits - logits.max()) / 2**14)
    for index, share in enumerate(100 * powers / powers.sum()):
        assert f"[{int(logits[index]):11d}] -> Class {index} (digit {index}): {share:.1f}%" in console


def test_every_layer_type_gives_the_simulators_bytes(project: Project) -> None:
    result = run_k210_firmware(project(runner_model(*all_layers_model())))
    assert result.passed, result.console
    assert not result.unknown_addresses


@pytest.mark.parametrize(("height", "width", "pool"), [(4, 16, 0), (6, 33, 0), (5, 64, 0), (8, 70, 1), (4, 130, 9)])
def test_wide_maps_lie_where_the_kpu_reads_them(project: Project, height: int, width: int, pool: int) -> None:
    model = single(conv(pattern_weights(3, 5, 3), Shape(height=height, width=width, pool=pool), act=HALVING))
    assert run_k210_firmware(project(runner_model(model, pattern_image(5, height, width)))).passed


def test_weights_of_sixteen_bits(project: Project) -> None:
    weights = pattern_weights(3, 2, 3).astype(np.uint16) * 3
    model = single(conv(weights, Shape(height=6, width=9), act=HALVING))
    assert model.flags == 0
    assert run_k210_firmware(project(runner_model(model, pattern_image(2, 6, 9)))).passed


def test_result_does_not_depend_on_what_memory_held(project: Project) -> None:
    elf = project(runner_model(small_model(), pattern_image(2, 8, 8)))
    first, second = (run_k210_firmware(elf, seed=seed) for seed in (1, 2))
    assert first.passed and first.console == second.console
    assert np.array_equal(first.layers[0], second.layers[0])


# --- what the runner refuses --------------------------------------------------------------------------------------


def patched(elf: Path, old: bytes, new: bytes) -> Path:
    """The firmware with other embedded bytes."""
    data = elf.read_bytes()
    assert data.count(old) == 1 and len(old) == len(new)
    target = elf.with_name("patched.elf")
    target.write_bytes(data.replace(old, new))
    return target


def test_first_wrong_byte_is_named(project: Project) -> None:
    runner = runner_model(small_model(), pattern_image(2, 8, 8))
    wrong = runner.outputs[0].copy()
    wrong[17] ^= 1
    result = run_k210_firmware(project(replace(runner, outputs=(wrong,))))
    assert result.returned and not result.passed
    assert f"Output 0, byte 17: expected 0x{wrong[17]:02x}, found 0x{wrong[17] ^ 1:02x}\n" in result.console
    assert "*** FAIL ***" in result.console and "PASS" not in result.console


def test_unknown_layer_type_is_named(project: Project) -> None:
    model = small_model()
    runner = runner_model(model, pattern_image(2, 8, 8))
    strange = replace(model, layers=(*model.layers, UnknownLayer(type=777, body=bytes(16))))
    result = run_k210_firmware(project(replace(runner, kmodel=write_kmodel(strange))))
    assert "layer 1, type 777\n" in result.console
    assert "this runner does not know the layer type" in result.console and "*** FAIL ***" in result.console


def test_last_layer_must_leave_the_kpu(project: Project) -> None:
    runner = runner_model(small_model(), pattern_image(2, 8, 8))
    kept = replace(read_kmodel(runner.kmodel).layers[0], main_memory_output=None)
    kmodel = write_kmodel(replace(small_model(), layers=(kept,)))
    result = run_k210_firmware(project(replace(runner, kmodel=kmodel)))
    assert "the last layer leaves its result in the KPU" in result.console and not result.passed


@pytest.mark.parametrize("numbers", [
    {"shift_a": 63}, {"offset_a": 1 << 30, "mul_a": 1 << 30, "mul_output": 1 << 30}, {"mul_b": -(1 << 31)}])
def test_addition_beyond_64_bits_is_refused(project: Project, numbers: dict[str, int]) -> None:
    plain = {"offset_a": 0, "mul_a": 1, "shift_a": 0, "offset_b": -(1 << 31), "mul_b": 1, "shift_b": 0,
             "offset_output": 0, "mul_output": 1, "shift_output": 0}
    model = small_model()
    add = QuantizedAdd(input_a=0, input_b=8, output=0, count=8, **plain | numbers)
    runner = runner_model(model, pattern_image(2, 8, 8))
    kmodel = write_kmodel(replace(model, layers=(*model.layers, add)))
    result = run_k210_firmware(project(replace(runner, kmodel=kmodel)))
    assert "layer 1, type 2\n\nmodel: the layer's body is damaged" in result.console
    with pytest.raises(HardwareFault, match=r"defined|64 bits"):
        run_kmodel(kmodel, pattern_image(2, 8, 8))


def test_damaged_models_end_in_words_and_never_in_a_crash(project: Project) -> None:
    model, image = all_layers_model()
    runner = runner_model(model, image)
    elf = project(runner)
    rng = np.random.default_rng(7)
    words = 4 * (7 + 2 * len(model.outputs) + 2 * len(model.layers))
    outcomes = set()
    for _ in range(20):
        damaged = bytearray(runner.kmodel)
        for position in rng.integers(0, words, 2):
            damaged[position] = rng.integers(256)
        try:
            result = run_k210_firmware(patched(elf, runner.kmodel, bytes(damaged)), budget=50_000_000)
        except HardwareFault:
            continue  # the simulated KPU is stricter than the chip
        assert result.cause is StopCause.RETURNED, result.reason
        outcomes.add(result.passed)
    assert False in outcomes


@pytest.mark.parametrize(("obstacle", "told"), [
    ("REG32(0x0C002000u) = 0;", "layer 0, type 10240\nthe KPU has not finished the layer in time\n"),
    ("REG32(0x50440064u) = 0; REG64(0x50000190u) = 0; REG64(0x50000180u) = 0;",
     "layer 0, type 10240\nthe KPU has not finished the layer in time\n"),
], ids=["interrupts not enabled", "no interrupt of the DMA"])
def test_kpu_that_does_not_answer_is_waited_for_a_second_and_not_for_ever(build: Build, obstacle: str,
                                                                          told: str) -> None:
    result = run(build(f"{obstacle} if (runner_infer(sample_data) != 0) {{ print_text(runner_problem()); }}"
                       'print_text("\\n"); print_unsigned(runner_time_us() / 100000); print_text("\\n");'))
    assert result.console == f"{told}10\n" and result.cause is StopCause.RETURNED


@pytest.mark.parametrize(("bits", "told"), [
    (0x0003_0300, "PLL0, the clock of the CPU, does not lock"),
    (0x0000_0003, "PLL1, the clock of the KPU, does not lock"),
])
def test_clock_that_does_not_lock_ends_the_firmware(project: Project, monkeypatch: pytest.MonkeyPatch, bits: int,
                                                    told: str) -> None:
    lock = 0x18

    def peek_word(control: SystemControl, offset: int) -> int:
        return bits if offset == lock else RegisterFile.peek_word(control, offset)

    monkeypatch.setattr(SystemControl, "peek_word", peek_word)
    result = run_k210_firmware(project(runner_model(small_model(), pattern_image(2, 8, 8))))
    assert result.returned and told in result.console and "*** FAIL ***" in result.console


def test_dma_controller_that_stays_in_reset_ends_the_firmware(project: Project,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DmaController, "peek_word", RegisterFile.peek_word)
    result = run_k210_firmware(project(runner_model(small_model(), pattern_image(2, 8, 8))))
    assert "the DMA controller does not end its reset" in result.console and not result.passed


def test_console_that_takes_nothing_does_not_stop_the_firmware(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    full = 1 << 31
    monkeypatch.setattr(Uarths, "peek_word", lambda uart, offset: full)
    result = run(build("runner_put('x');"))
    assert result.returned and not result.console


# --- known answers of floats --------------------------------------------------------------------------------------


def share_model(last: type[Softmax] | type[Logistic]) -> KModel:
    """Sixteen bytes of a KPU layer as floats, then their softmax or sigmoid."""
    layer = conv(pattern_weights(1, 2, 3), Shape(height=4, width=4), act=HALVING)
    return KModel(layers=(layer, Dequantize(input=0, output=16, count=16, scale=0.02, bias=-2.5),
                          last(input=16, output=80, channels=16)),
                  outputs=(MemoryRange(address=80, size=64), MemoryRange(address=16, size=64)), main_mem_usage=144)


@pytest.mark.parametrize("last", [Softmax, Logistic])
def test_floats_behind_an_exponential_may_differ_by_the_stated_bound(project: Project,
                                                                     last: type[Softmax] | type[Logistic]) -> None:
    runner = runner_model(share_model(last), pattern_image(2, 4, 4))
    shares, exact = (output.view(np.float32) for output in runner.outputs)
    bound = output_tolerances(share_model(last))[0]
    for factor, passes in ((1 + bound / 2, True), (1 + 3 * bound, False)):
        wrong = replace(runner, outputs=((shares * np.float32(factor)).view(np.uint8), runner.outputs[1]))
        result = run_k210_firmware(project(wrong))
        assert result.passed is passes, result.console
        assert ("Output 0, byte " in result.console) is not passes
    other = np.nextafter(exact, np.float32(9)).view(np.uint8)
    assert "Output 1, byte 0" in run_k210_firmware(project(replace(runner, outputs=(runner.outputs[0], other)))).console


CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "k210"


@pytest.mark.skipif(not CASES.exists(), reason="the published models are not part of the repository")
@pytest.mark.parametrize(("name", "recorded"), [("emc_mbnetv1", "photo_tiger"), ("maixpy_mnist", "random"),
                                                ("rc5_yolo", "photo_dog")])
def test_published_model_passes_on_the_compiled_runner(project: Project, name: str, recorded: str) -> None:
    kmodel = (CASES / name / "model.kmodel").read_bytes()
    image = np.load(CASES / name / f"{recorded}.npz")["input"]
    runner = replace(runner_model(read_kmodel(kmodel), image, name=name), kmodel=kmodel)
    result = run_k210_firmware(project(runner))
    assert result.passed, result.console
    assert len(result.layers) == sum(isinstance(layer, K210Conv) for layer in read_kmodel(kmodel).layers)


# --- the board ----------------------------------------------------------------------------------------------------


def run(elf: Path, **options: int) -> K210FirmwareResult:
    return run_k210_firmware(elf, **options)


@pytest.mark.parametrize(("body", "cause", "reason"), [
    ("REG32(0x10) = 1;", StopCause.BUS_FAULT, r"bus fault: 4-byte write to 0x00000010.*null pointer.* at main\+0x"),
    ("((void (*)(void))(uintptr_t)0x20000000)();", StopCause.BUS_FAULT, "jump to 0x20000000"),
    ('__asm volatile("ebreak");', StopCause.BREAKPOINT, r"at main\+0x"),
    ('__asm volatile(".word 0");', StopCause.UNDEFINED, "cannot execute 0x00000000"),
    ('__asm volatile("ecall");', StopCause.UNSUPPORTED, "environment call"),
    ("for (;;) { }", StopCause.ENDLESS_LOOP, "no interrupt can end"),
    ('for (;;) { __asm volatile("wfi"); }', StopCause.DEADLOCK,
     r"enabled interrupts: 25, 27; the KPU was not started\) at main"),
    ('__asm volatile("csrw mie, zero"); __asm volatile("wfi");', StopCause.DEADLOCK, "no interrupt .* is enabled"),
    ("volatile int i = 0; while (i >= 0) { i = 1; }", StopCause.BUDGET, "budget of 3,000,000"),
    ("return 7;", StopCause.RETURNED, "main returned 7, the console does not say PASS"),
])
def test_end_of_the_firmware_is_explained(build: Build, body: str, cause: StopCause, reason: str) -> None:
    result = run(build(body), budget=3_000_000)
    assert result.cause is cause and not result.passed
    assert re.search(reason, result.reason), result.reason


def test_layer_without_a_clock_is_a_fault(build: Build) -> None:
    elf = build("REG32(0x5044002Cu) = 0; (void)runner_infer(sample_data);")
    with pytest.raises(HardwareFault, match=r"PLL1 or the AI clock is off; firmware at kpu_run"):
        run(elf)


def test_layer_with_cached_parameter_addresses_is_a_fault(build: Build) -> None:
    elf = build("""
        uint64_t words[KPU_WORDS];
        const uint64_t *registers = (const uint64_t *)(const void *)(model_data + 72);
        for (uint32_t i = 0; i < KPU_WORDS; i++) { words[i] = registers[i]; }
        words[4] |= UINT64_C(0x80000000) << 32;
        words[5] |= UINT64_C(0x80000000) << 32;
        words[7] |= UINT64_C(0x80000000) << 32;
        kpu_start(true);
        (void)kpu_run(words, 0);
    """)
    with pytest.raises(HardwareFault, match="uncached addresses"):
        run(elf)


def test_words_that_the_kpu_does_not_define_are_a_fault(build: Build) -> None:
    elf = build("uint64_t words[KPU_WORDS] = { 0 }; words[4] = 7; (void)kpu_run(words, 0);")
    with pytest.raises(HardwareFault, match=r"KPU layer 0 of the firmware: .*kernel_type"):
        run(elf)


def test_inference_time_is_that_of_the_layers_and_a_little_cpu_time(project: Project) -> None:
    model, image = small_model(), pattern_image(2, 8, 8)
    result = run_k210_firmware(project(runner_model(model, image)))
    expected_us = 1000 * sum(run_kmodel(model, image).milliseconds.values())
    assert result.inference_us is not None
    assert expected_us <= result.inference_us <= expected_us + 30


def test_counters_show_virtual_time_and_are_repeatable(build: Build) -> None:
    elf = build("""
        uint64_t first, second, third;
        __asm volatile("csrr %0, mcycle" : "=r"(first));
        const uint64_t start = runner_time_us();
        while (runner_time_us() < start + 1000) { }
        __asm volatile("csrr %0, cycle" : "=r"(second));
        __asm volatile("csrr %0, mip" : "=r"(third));
        print_unsigned(second - first); print_text(" "); print_unsigned(third); print_text("\\nPASS\\n");
    """)
    first, second = run(elf), run(elf)
    assert first.passed and first.console == second.console
    cycles, pending = map(int, first.console.split()[:2])
    assert cycles == pytest.approx(396_500, rel=0.13) and pending == 0  # each poll may overshoot by a sixteenth


def test_pending_interrupt_is_visible_and_taken_when_unmasked(build: Build) -> None:
    elf = build("""
        uint64_t pending;
        __asm volatile("csrci mstatus, 8");
        REG64(0x50000100u) = 0x40000000u; REG64(0x50000108u) = 0x40500000u; REG64(0x50000110u) = 7;
        REG64(0x50000118u) = 3 << 8 | 3 << 11; REG64(0x50000120u) = 0;
        REG64(0x50000018u) = 0x101;
        do {
            __asm volatile("csrr %0, mip" : "=r"(pending));
        } while (pending == 0);
        print_unsigned(pending);
        print_text(REG32(0x40500000u) == REG32(0x80000000u) ? " same" : " other");
        __asm volatile("csrsi mstatus, 8");
        print_text(board_wait(BOARD_DMA_DONE, 1000) ? " taken PASS\\n" : " lost FAIL\\n");
    """)
    result = run(elf)
    assert result.console == "2048 same taken PASS\n" and result.passed


def test_fifo_can_be_read_without_dma(build: Build) -> None:
    elf = build("""
        const uint64_t *registers = (const uint64_t *)(const void *)(model_data + 72);
        const uint32_t *body = (const uint32_t *)(const void *)(model_data + 44);
        const uintptr_t base = board_uncached(model_data);
        uint32_t equal = 0;
        (void)runner_infer(sample_data);
        REG64(0x40800020u) = 7; REG64(0x40800018u) = 7;
        for (uint32_t i = 0; i < KPU_WORDS; i++) {
            uint64_t word = registers[i];
            word |= i == 4 ? (uint64_t)(base + body[4]) << 32 : 0;
            word |= i == 5 ? (uint64_t)(base + body[3]) << 32 : 0;
            word |= i == 7 ? (uint64_t)(base + body[5]) << 32 : 0;
            word |= i == 0 || i == 11 ? 1 : 0;
            REG64(0x40800000u) = word;
        }
        print_text(REG64(0x40800010u) == 0 && REG64(0x40800030u) == 0 ? "not at once, " : "too early, ");
        while ((REG64(0x40800010u) & 1) == 0) { }
        for (uint32_t i = 0; i < MODEL_EXPECTED_BYTES; i += 8) {
            equal += REG64(0x40800030u) == *(const uint64_t *)(const void *)(expected_data + i);
        }
        print_unsigned(equal); print_text(equal == MODEL_EXPECTED_BYTES / 8 ? " PASS\\n" : " FAIL\\n");
    """)
    result = run(elf)
    assert result.console == "not at once, 32 PASS\n"
    assert len(result.layers) == 2


def test_camera_frames_become_planes(build: Build) -> None:
    elf = build("""
        static const uint8_t rgb888[6] = { 10, 20, 30, 255, 0, 128 };
        static const uint16_t rgb565[3] = { 0xF800, 0x07E0, 0x8410 };
        uint8_t planes[9];
        uint8_t gray[3];
        image_from_rgb888(rgb888, 2, planes);
        for (int i = 0; i < 6; i++) { print_unsigned(planes[i]); print_text(" "); }
        image_from_rgb565(rgb565, 3, planes);
        for (int i = 0; i < 9; i++) { print_unsigned(planes[i]); print_text(" "); }
        image_gray_from_rgb565(rgb565, 3, gray);
        for (int i = 0; i < 3; i++) { print_unsigned(gray[i]); print_text(" "); }
        image_gray_from_rgb888(rgb888, 2, gray);
        for (int i = 0; i < 2; i++) { print_unsigned(gray[i]); print_text(" "); }
        print_signed(-42, 5); print_hex(0xBEEF, 6);
    """)
    assert run(elf).console == "10 255 20 0 30 128 255 0 132 0 255 130 0 0 132 77 149 131 18 91   -42" + "0x00beef"


# --- command line -------------------------------------------------------------------------------------------------


def test_simulate_builds_and_runs_a_project_folder(project: Project, tmp_path: Path,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    runner = runner_model(small_model(), pattern_image(2, 8, 8))
    elf = project(runner)
    assert is_riscv_firmware(elf)
    assert simulate.main(["firmware", str(write_project(tmp_path / "project", runner))]) == 0
    assert "*** PASS ***" in capsys.readouterr().out
    assert simulate.main(["firmware", str(elf)]) == 0
    assert "KPU: 1 layers" in capsys.readouterr().out
    assert simulate.main(["firmware", str(elf), "--gdb", "3333"]) == 2


def test_other_files_are_no_firmware_for_the_k210(tmp_path: Path) -> None:
    path = tmp_path / "text.elf"
    path.write_text("nothing")
    assert not is_riscv_firmware(path) and not is_riscv_firmware(tmp_path / "missing.elf")
    pytest.importorskip("elftools")
    with pytest.raises(UserError, match="E0806"):
        run_k210_firmware(path)
