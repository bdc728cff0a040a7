"""From a register program to C: the text says exactly what the program says, and compilers accept it."""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai8x.errors import UserError
from ai8x.max7800x.codegen import (
    SOURCE_FILES,
    BoostPin,
    CodegenOptions,
    comment_text,
    hex_lines,
    render_sources,
    write_project,
)
from ai8x.max7800x.lower import LowerOptions
from ai8x.max7800x.placement import Placement
from ai8x.max7800x.program import Program
from ai8x.max7800x.simulator import Accelerator
from ai8x.network.ir import Network
from ai8x.network.reference import run_network

from .lowering_examples import (
    conv,
    linear,
    mnist,
    network_of,
    place,
    program_of,
    random_tensors,
    real_program,
    residual,
    small,
)

HOST_COMPILER = shutil.which("cc")
EXAMPLES = {
    "mnist": mnist,
    "small": small,
    "fifo": lambda: small(fifo=True),
    "narrow": lambda: small(wide=False),
    "residual": residual,
}
OPTIONS = {
    "default": CodegenOptions(),
    "spin": CodegenOptions(wfi=False, timer=None, debug_wait_s=0),
    "boost": CodegenOptions(boost=BoostPin(port=2, pin=5), timer=3),
    "statements": CodegenOptions(compact=False),
    "bare": CodegenOptions(softmax=False, known_answer=False),
}

DEFAULT = CodegenOptions()

CHIP_HEADER = """
#include <stdint.h>
typedef struct { volatile uint32_t clkctrl, pclkdiv, pclkdis0; } mxc_gcr_regs_t;
typedef struct { volatile uint32_t reg0, reg1, reg2, reg3; } mxc_gcfr_regs_t;
typedef struct { volatile uint32_t CTRL, LOAD, VAL; } systick_regs_t;
typedef struct { int unused; } mxc_gpio_regs_t;
typedef struct { int unused; } mxc_tmr_regs_t;
typedef enum { MXC_GPIO_FUNC_IN, MXC_GPIO_FUNC_OUT } mxc_gpio_func_t;
typedef enum { MXC_GPIO_PAD_NONE } mxc_gpio_pad_t;
typedef struct { mxc_gpio_regs_t *port; uint32_t mask; mxc_gpio_func_t func; mxc_gpio_pad_t pad; } mxc_gpio_cfg_t;
#define MXC_GCR ((mxc_gcr_regs_t *)0x40000000u)
#define MXC_GCFR ((mxc_gcfr_regs_t *)0x40005800u)
#define MXC_GPIO2 ((mxc_gpio_regs_t *)0x40080400u)
#define MXC_GPIO_PIN_5 (1u << 5)
#define MXC_TMR0 ((mxc_tmr_regs_t *)0x40010000u)
#define MXC_TMR3 ((mxc_tmr_regs_t *)0x40013000u)
#define MXC_ICC0 0
#define MXC_F_GCR_PCLKDIV_CNNCLKDIV (7u << 14)
#define MXC_F_GCR_PCLKDIV_CNNCLKSEL (1u << 17)
#define MXC_S_GCR_PCLKDIV_CNNCLKDIV_DIV1 (4u << 14)
#define MXC_S_GCR_PCLKDIV_CNNCLKSEL_PCLK (0u << 17)
#define MXC_SYS_PERIPH_CLOCK_CNN 25
#define MXC_SYS_CLOCK_IPO 4
#define CNN_IRQn 101
#define E_NO_ERROR 0
#define SysTick ((systick_regs_t *)0xE000E010u)
#define SysTick_LOAD_RELOAD_Msk 0xFFFFFFu
#define SEC(seconds) ((uint32_t)(seconds) * 1000000u)
int MXC_GPIO_Config(const mxc_gpio_cfg_t *cfg);
void MXC_GPIO_OutSet(mxc_gpio_regs_t *port, uint32_t mask);
void MXC_GPIO_OutClr(mxc_gpio_regs_t *port, uint32_t mask);
void MXC_NVIC_SetVector(int number, void (*handler)(void));
void MXC_SYS_ClockEnable(int clock);
void MXC_SYS_ClockDisable(int clock);
int MXC_SYS_Clock_Select(int clock);
extern uint32_t SystemCoreClock;
void SystemCoreClockUpdate(void);
uint32_t SysTick_Config(uint32_t ticks);
void MXC_TMR_SW_Start(mxc_tmr_regs_t *timer);
int MXC_TMR_SW_Stop(mxc_tmr_regs_t *timer);
void MXC_LP_EnterSleepMode(void);
int MXC_Delay(uint32_t us);
void MXC_ICC_Enable(int cache);
void LED_On(unsigned int index);
void LED_Off(unsigned int index);
"""
"""The board interface that generated code may use, without a board (virtual-boards.md 5.4)."""


def sources(example: str, options: CodegenOptions = DEFAULT, **changes: object) -> tuple[Program, dict[str, str]]:
    network, placement = EXAMPLES[example]()
    program = program_of(network, placement, LowerOptions(**changes))
    return program, render_sources(program, network, options)


def function_body(text: str, name: str) -> str:
    start = re.search(rf"^\w[\w *]*\b{name}\([^;]*?\)\n\{{\n", text, re.MULTILINE)
    assert start, name
    return text[start.end() : text.index("\n}\n", start.end())]


def register_statements(text: str) -> list[tuple[int, int]]:
    return [
        (int(a, 16), int(v, 16)) for a, v in re.findall(r"REG32\((0x[0-9a-f]+)\) = UINT32_C\((0x[0-9a-f]+)\);", text)
    ]


def macro_numbers(text: str, name: str) -> Iterator[int]:
    body = re.search(rf"#define {name} \{{ \\\n(.*?)\n\}}", text, re.DOTALL)
    assert body, name
    return iter([int(number, 0) for number in re.findall(r"0x[0-9a-f]+|\b\d+\b", body[1])])


@pytest.mark.parametrize("example", EXAMPLES)
def test_register_statements_are_the_program_in_order(example: str):
    program, files = sources(example)
    for function, phase in (
        ("cnn_init", program.init),
        ("cnn_configure", program.configure),
        ("cnn_start", program.start),
        ("CNN_ISR", program.acknowledge),
    ):
        assert register_statements(function_body(files["cnn.c"], function)) == [
            (write.address, write.value) for write in phase
        ]


def test_every_register_write_names_layer_register_and_fields():
    _, files = sources("mnist")
    assert (
        "REG32(0x50100014) = UINT32_C(0x0002001f); /* layer 1 conv1, quadrant 0, RCNT: max=31, pad=2 */"
        in files["cnn.c"]
    )
    body = function_body(files["cnn.c"], "cnn_configure")
    statements = [line for line in body.splitlines() if "REG32" in line]
    assert all(re.search(r"/\* layer \d+ \w+, quadrant \d, [A-Z0-9_]+: .+ \*/$", line) for line in statements)


@pytest.mark.parametrize("express", [True, False])
def test_kernel_table_is_what_the_program_loads(express: bool):
    program, files = sources("mnist", express=express)
    numbers = macro_numbers(files["weights.h"], "KERNELS")
    for chunk in program.load_weights:
        assert (next(numbers), next(numbers)) == (chunk.address, chunk.bus_words.size)
        assert [next(numbers) for _ in range(chunk.bus_words.size)] == chunk.bus_words.tolist()
    assert list(numbers) == [0]
    assert ("REG8(" in function_body(files["cnn.c"], "cnn_load_weights")) is express


def test_bias_and_sample_tables_are_those_of_the_program():
    program, files = sources("mnist")
    for block in program.load_bias:
        assert list(macro_numbers(files["weights.h"], f"BIAS_{block.quadrant}")) == block.values.tolist()
    for block in program.load_input:
        assert list(macro_numbers(files["sampledata.h"], block.name)) == block.words.tolist()


def test_known_answer_table_is_that_of_the_program():
    program, files = sources("residual")
    numbers = macro_numbers(files["sampleoutput.h"], "SAMPLE_OUTPUT")
    for block in program.expected:
        assert (next(numbers), next(numbers), next(numbers)) == (block.address, block.mask, block.values.size)
        assert [next(numbers) for _ in range(block.values.size)] == block.values.tolist()
    assert list(numbers) == [0]


@pytest.mark.parametrize("example", EXAMPLES)
def test_same_program_gives_the_same_bytes(example: str):
    assert sources(example)[1] == sources(example)[1]


def test_statements_instead_of_tables_load_the_same_words():
    program, files = sources("mnist", CodegenOptions(compact=False))
    assert register_statements(function_body(files["main.c"], "load_input")) == [
        (address, value) for address, _, value in program.input_writes()
    ]


def test_buffer_is_sized_over_all_outputs():
    program, files = sources("residual")
    assert "#define CNN_NUM_OUTPUTS 468\n" in files["cnn.h"]
    assert f"#define CNN_OUTPUT_WORDS {program.output_bytes // 4}\n" in files["cnn.h"]
    assert "softmax_q" not in files["main.c"]


def test_input_follows_the_start_only_with_fifos():
    order = {
        name: [sources(name)[1]["main.c"].rindex(call) for call in ("    load_input();", "    require(cnn_start());")]
        for name in ("small", "fifo")
    }
    assert order["small"][0] < order["small"][1]
    assert order["fifo"][0] > order["fifo"][1]


def hostile_network() -> tuple[Network, Placement]:
    layer = conv(0, (3, 4, 4), 2, name="a*/ int x; /*")
    final = linear(1, (2, 4, 4), 2, output_bits=32)
    network = network_of(
        layer, final, name='bad*/\n#include "/etc/passwd"\n%s\\', labels=('%n%s" ); system("x', "b\n??/")
    )
    return network, Placement(layers=(place(0x7, 0x3, 0x1000), place(0x3, 0x3, 0, 0x1000)))


def test_text_of_files_cannot_leave_its_comment_or_string():
    network, placement = hostile_network()
    for text in render_sources(program_of(network, placement), network).values():
        assert text.isascii()
        assert "/etc" not in text
        assert not re.search(r"%n|system\(\"|\?\?/|int x; /\*", text)
        assert text.count("/*") == text.count("*/")


@pytest.mark.parametrize("text", ["*/", '"', "\\", "%d", "\n", "??=", "é", "a\0b"])
def test_comment_text_keeps_harmless_characters_only(text: str):
    assert set(comment_text(text)) <= set("abd_=")


def test_long_tables_are_split_into_lines():
    assert hex_lines([1, 2, 255], digits=2, per_line=2) == ["0x01, 0x02,", "0xff,"]


def test_timer_that_does_not_exist_is_refused():
    with pytest.raises(UserError) as failure:
        sources("small", CodegenOptions(timer=6))
    assert failure.value.diagnostics[0].code == "E0393"


def test_project_holds_sources_make_files_and_board_support_and_keeps_others(tmp_path: Path):
    network, placement = small()
    (tmp_path / "notes.txt").write_text("mine")
    written = {
        path.relative_to(tmp_path).as_posix()
        for path in write_project(program_of(network, placement), network, tmp_path)
    }
    assert {*SOURCE_FILES, "Makefile", "project.mk", "standalone/mxc.h", "standalone/startup.c"} <= written
    assert {name.split("/")[0] for name in written - {*SOURCE_FILES, "Makefile", "project.mk"}} == {"standalone"}
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_sources_include_only_the_board_interface_and_their_own_headers():
    _, files = sources("fifo")
    included = {name for text in files.values() for name in re.findall(r'#include ["<](.*?)[">]', text)}
    assert included == {
        "stdint.h",
        "stdio.h",
        "mxc.h",
        "gcfr_regs.h",
        "cnn.h",
        "weights.h",
        "sampledata.h",
        "sampleoutput.h",
    }


@pytest.mark.skipif(HOST_COMPILER is None, reason="no C compiler on this machine")
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("example", ["small", "fifo", "narrow", "residual"])
def test_every_variant_compiles_without_a_warning(tmp_path: Path, example: str, option: str):
    network, placement = EXAMPLES[example]()
    write_project(program_of(network, placement), network, tmp_path, OPTIONS[option])
    (tmp_path / "mxc.h").write_text(f"#ifndef MXC_H\n#define MXC_H\n{CHIP_HEADER}\n#endif\n")
    (tmp_path / "gcfr_regs.h").write_text('#include "mxc.h"\n')
    flags = [
        "-std=c11",
        "-O1",
        "-fsyntax-only",
        "-Wall",
        "-Wextra",
        "-Wconversion",
        "-Wshadow",
        "-Wpedantic",
        "-Wmissing-prototypes",
        "-Werror",
    ]
    subprocess.run([HOST_COMPILER, *flags, "cnn.c", "main.c", "softmax.c"], cwd=tmp_path, check=True)


def run_on_virtual_board(folder: Path, program: Program, network: Network, options: CodegenOptions, *,
                         accelerator: Accelerator | None = None, cycles: int = 50_000, flags: str = ""
                         ) -> tuple[Any, list]:
    """Build with the cross compiler, every warning an error, and run; result and writes to the accelerator."""
    virtual = pytest.importorskip("ai8x.virtual.max78000")
    pytest.importorskip("unicorn")
    if shutil.which("arm-none-eabi-gcc") is None or shutil.which("make") is None:
        pytest.skip("no cross compiler on this machine")
    write_project(program, network, folder, options)
    warnings = "WARNINGS=-Wall -Wextra -Wconversion -Wshadow -Wpedantic -Wmissing-prototypes -Wcast-align -Werror"
    subprocess.run(["make", "-s", warnings, f"PROJ_CFLAGS={flags}"], cwd=folder, check=True, capture_output=True)
    writes: list[tuple[int, int, int]] = []
    result = virtual.run_firmware(
        next(folder.glob("build/*.elf")),
        accelerator or Accelerator(seed=5, powered=False, fifo_depth=8),
        lambda: cycles,
        on_bus_write=lambda *write: writes.append(write),
    )
    return result, writes


@pytest.mark.parametrize(
    ("example", "options"),
    [
        ("small", OPTIONS["default"]),
        ("fifo", OPTIONS["spin"]),
        ("narrow", OPTIONS["statements"]),
        ("residual", OPTIONS["boost"]),
    ],
)
def test_compiled_firmware_makes_exactly_the_writes_of_the_program(
    tmp_path: Path, example: str, options: CodegenOptions
):
    network, placement = EXAMPLES[example]()
    program = real_program(network, placement)
    result, writes = run_on_virtual_board(tmp_path, program, network, options)
    assert result.passed, result.console
    assert writes == list(program.bus_writes())


class FullFifo(Accelerator):
    """Its FIFO takes nothing."""

    def read(self, address: int, size: int) -> int:
        return 0xF if address == 0x50000004 else super().read(address, size)


NEVER = 100 * 50_000_000
"""More cycles than the firmware waits for."""


@pytest.mark.parametrize(("example", "options", "accelerator", "flags"), [
    ("small", OPTIONS["default"], Accelerator, ""),
    ("small", OPTIONS["spin"], Accelerator, "-DCNN_MAX_POLLS=5000u"),
    ("fifo", OPTIONS["default"], FullFifo, "-DCNN_MAX_POLLS=5000u"),
], ids=["sleeping", "polling", "feeding a FIFO"])
def test_every_wait_for_the_accelerator_ends(tmp_path: Path, example: str, options: CodegenOptions,
                                             accelerator: type[Accelerator], flags: str):
    network, placement = EXAMPLES[example]()
    options = replace(options, debug_wait_s=0)
    result, _ = run_on_virtual_board(tmp_path, real_program(network, placement), network, options, cycles=NEVER,
                                     accelerator=accelerator(seed=5, powered=False, fifo_depth=8), flags=flags)
    assert not result.passed
    assert "*** FAIL ***" in result.console and "fail() was called from" in result.reason


def test_firmware_prints_time_and_class_table(tmp_path: Path):
    network, placement = small()
    network = replace(network, labels=tuple("abcdefghij"))
    sample, _ = random_tensors(network)
    logits = [int(value) for value in run_network(network, sample)[1].reshape(-1)]
    result, _ = run_on_virtual_board(tmp_path, real_program(network, placement), network, DEFAULT)
    rows = re.findall(r"\[ *(-?\d+)\] -> Class (\d) \((\w)\): (\d+)\.(\d)%", result.console)
    shares = [(1000 * share + 0x4000) >> 15 for share in softmax_model(logits)]
    assert [(int(v), int(c), n, 10 * int(w) + int(t)) for v, c, n, w, t in rows] == [
        (logit, number, "abcdefghij"[number], share)
        for number, (logit, share) in enumerate(zip(logits, shares, strict=True))
    ]
    assert re.search(r"Inference time: 10\d\d us", result.console)


def test_firmware_names_the_first_difference_and_fails(tmp_path: Path):
    network, placement = small()
    program = real_program(network, placement)
    first = program.expected[0]
    wrong = first.values.copy()
    wrong[2] ^= 0x10
    program = replace(program, expected=(replace(first, values=wrong), *program.expected[1:]))
    result, _ = run_on_virtual_board(tmp_path, program, network, DEFAULT)
    assert not result.passed
    assert f"0x{first.address + 8:08x}" in result.console
    assert f"expected 0x{wrong[2]:08x}, read 0x{first.values[2]:08x}" in result.console
    assert "FAIL" in result.console
    assert "PASS" not in result.console


def softmax_model(values: list[int], shift: int = 0) -> list[int]:
    """Section 4.9, stated a second time."""
    scaled = [value << shift for value in values]
    base = max(scaled) - (16 << 14)
    total = sum(1 << (8192 + value - base >> 14) for value in scaled if value > base)
    share = (1 << 32) // total
    return [min(32767, share >> (17 + (8191 + base - value >> 14))) if value > base else 0 for value in scaled]


@pytest.fixture(scope="module")
def softmax(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if HOST_COMPILER is None:
        pytest.skip("no C compiler on this machine")
    folder = tmp_path_factory.mktemp("softmax")
    network, placement = small()
    write_project(program_of(network, placement), network, folder)
    (folder / "mxc.h").write_text(CHIP_HEADER)
    subprocess.run(
        [HOST_COMPILER, "-std=c11", "-O1", "-shared", "-fPIC", "-o", "softmax.so", "softmax.c"], cwd=folder, check=True
    )
    return ctypes.CDLL(str(folder / "softmax.so"))


@pytest.mark.parametrize("spread", [1 << 4, 1 << 14, 1 << 18, (1 << 31) - 1])
@pytest.mark.parametrize("shift", [0, 4])
def test_wide_softmax_equals_the_specification(softmax: ctypes.CDLL, spread: int, shift: int):
    rng = np.random.default_rng(spread)
    for _ in range(20):
        values = (rng.integers(-spread, spread, 11) >> shift).astype(np.int32)
        result = np.zeros(11, np.int16)
        softmax.softmax_shift_q17p14_q15(
            values.ctypes.data_as(ctypes.c_void_p), 11, shift, result.ctypes.data_as(ctypes.c_void_p)
        )
        assert result.tolist() == softmax_model(values.tolist(), shift)


def test_narrow_softmax_takes_one_power_of_two_per_step(softmax: ctypes.CDLL):
    values = np.array([-128, 127, 126, 120, 111, 112, 0], np.int8)
    result = np.zeros(7, np.int16)
    softmax.softmax_q7_q15(values.ctypes.data_as(ctypes.c_void_p), 7, result.ctypes.data_as(ctypes.c_void_p))
    assert result.tolist() == softmax_model([value << 14 for value in values.tolist()])
    assert result[0] == result[6] == 0


def test_single_class_gets_the_greatest_share(softmax: ctypes.CDLL):
    values, result = np.array([-(1 << 31)], np.int32), np.zeros(1, np.int16)
    softmax.softmax_q17p14_q15(values.ctypes.data_as(ctypes.c_void_p), 1, result.ctypes.data_as(ctypes.c_void_p))
    assert result.tolist() == [32767]
