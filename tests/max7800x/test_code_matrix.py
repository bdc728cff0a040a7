"""Generated C under every pair of options: no warning, the program's bus writes, nothing undefined on a computer.

Source: spec/virtual-boards.md section 3.5 (the order of the writes carries meaning), 5.4 (the board's interface).
"""

import itertools
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ai8x.max7800x.codegen import write_project
from ai8x.max7800x.lower import ClockSource, LowerOptions
from ai8x.max7800x.options import BoostPin, CodegenOptions, FileNames
from ai8x.max7800x.placement import Placement
from ai8x.max7800x.simulator import Accelerator
from ai8x.network.ir import Network

from .lowering_examples import real_program, residual, small
from .test_codegen import CHIP_HEADER

STRICT = "WARNINGS=-Wall -Wextra -Wconversion -Wshadow -Wpedantic -Wmissing-prototypes -Werror"
LEVELS = ("-O0", "-O2", "-O3", "-Os")
HOST_COMPILER = shutil.which("cc")
ADDRESSES_TAKEN = 77
NETWORKS = {"memory": small, "fifo": lambda: small(fifo=True), "narrow": lambda: small(wide=False),
            "residual": residual}

FACTORS: Mapping[str, Sequence[Any]] = {
    "level": LEVELS,
    "network": tuple(NETWORKS),
    "express": (True, False),
    "write_zero_registers": (False, True),
    "clock": (("PCLK", 1), ("ISO", 2)),
    "zero_memories": (False, True),
    "power_down_unused": (False, True),
    "stop_start": (False, True),
    "timer": (0, None, 3),
    "wfi": (True, False),
    "boost": (None, BoostPin(port=2, pin=5)),
    "answer": ("both", "classes", "comparison", "neither", "layer by layer"),
    "compact": (True, False),
    "verify_weights": (False, True),
    "verify_writes": (False, True),
    "names": (FileNames(), FileNames(main="app", api="", weights="kernels", sample="input", answer="known")),
}
"""What the generator can be asked for, and the optimisation; "answer": what happens with the outputs."""

Row = Mapping[str, Any]


def pairwise(factors: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Few rows in which every two values of different factors meet; each row takes many new pairs, value by value."""
    open_pairs = {((one, a), (other, b)) for one, other in itertools.combinations(factors, 2)
                  for a in range(len(factors[one])) for b in range(len(factors[other]))}
    rows = []
    while open_pairs:
        (one, a), (other, b) = min(open_pairs)
        row = {one: a, other: b}
        for name in factors:
            if name not in row:
                gains = [len(open_pairs & pairs_of({**row, name: value}, factors))
                         for value in range(len(factors[name]))]
                row[name] = gains.index(max(gains))
        open_pairs -= pairs_of(row, factors)
        rows.append({name: factors[name][row[name]] for name in factors})
    return rows


Pair = tuple[tuple[str, int], tuple[str, int]]


def pairs_of(row: Mapping[str, int], factors: Mapping[str, Sequence[Any]]) -> set[Pair]:
    chosen = [(name, row[name]) for name in factors if name in row]
    return set(itertools.combinations(chosen, 2))


ROWS = pairwise(FACTORS)


def project(row: Row) -> tuple[Network, Placement, LowerOptions, CodegenOptions]:
    network, placement = NETWORKS[row["network"]]()
    source, divider = row["clock"]
    lowering = LowerOptions(clock_source=ClockSource[source], clock_divider=divider, **{
        name: row[name] for name in ("express", "write_zero_registers", "zero_memories", "power_down_unused",
                                     "stop_start")}, check_layers=row["answer"] == "layer by layer")
    answer = row["answer"]
    code = CodegenOptions(debug_wait_s=0, softmax=answer in ("both", "classes"), unload=answer in ("both", "classes"),
                          known_answer=answer in ("both", "comparison", "layer by layer"), **{
                              name: row[name] for name in ("timer", "wfi", "boost", "compact", "verify_weights",
                                                           "verify_writes", "names")})
    return network, placement, lowering, code


def test_every_two_choices_meet() -> None:
    for one, other in itertools.combinations(FACTORS, 2):
        met = {(FACTORS[one].index(row[one]), FACTORS[other].index(row[other])) for row in ROWS}
        assert len(met) == len(FACTORS[one]) * len(FACTORS[other])
    assert len(ROWS) <= 24


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_options_in_pairs_build_without_a_warning_and_make_the_program_s_writes(tmp_path: Path, number: int) -> None:
    virtual = pytest.importorskip("ai8x.virtual.max78000")
    pytest.importorskip("unicorn")
    if shutil.which("arm-none-eabi-gcc") is None or shutil.which("make") is None:
        pytest.skip("no cross compiler on this machine")
    row = ROWS[number]
    network, placement, lowering, code = project(row)
    program = real_program(network, placement, lowering)
    write_project(program, network, tmp_path, code)
    made = subprocess.run(["make", "-s", STRICT, f"MXC_OPTIMIZE_CFLAGS={row['level']}"], cwd=tmp_path, check=False,
                          capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    writes: list[tuple[int, int, int]] = []
    result = virtual.run_firmware(next(tmp_path.glob("build/*.elf")),
                                  Accelerator(seed=number, powered=False, fifo_depth=8), lambda: 5_000,
                                  on_bus_write=lambda *write: writes.append(write))
    assert result.passed, (result.reason, result.console)
    assert writes == list(program.bus_writes())


HOST = """
/* The firmware as a program of this computer: memory instead of the accelerator, an alarm instead of its interrupt. */
#define main firmware_main
#include "{main}.c"
#undef main
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>

uint32_t SystemCoreClock = 100000000u;

static void on_alarm(int number)
{{
    static int alarms;

    (void)number;
    if (++alarms == 100) {{
        _Exit(3); /* the firmware waits for something else, or has failed */
    }}
    CNN_ISR();
}}

static void map(uintptr_t first, size_t bytes)
{{
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | MAP_NORESERVE;

    if (mmap((void *)first, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) != (void *)first) {{
        _Exit(77);
    }}
}}

/* What the accelerator would have computed. */
static void answer(void)
{{
{answer}
}}

int MXC_GPIO_Config(const mxc_gpio_cfg_t *cfg) {{ return cfg->mask == 0; }}
void MXC_GPIO_OutSet(mxc_gpio_regs_t *port, uint32_t mask) {{ (void)port; (void)mask; }}
void MXC_GPIO_OutClr(mxc_gpio_regs_t *port, uint32_t mask) {{ (void)port; (void)mask; }}
void MXC_NVIC_SetVector(int number, void (*handler)(void)) {{ (void)number; (void)handler; }}
void MXC_SYS_ClockEnable(int clock) {{ (void)clock; }}
void MXC_SYS_ClockDisable(int clock) {{ (void)clock; }}
int MXC_SYS_Clock_Select(int clock) {{ (void)clock; return E_NO_ERROR; }}
void SystemCoreClockUpdate(void) {{}}
void MXC_TMR_SW_Start(mxc_tmr_regs_t *timer) {{ (void)timer; answer(); }}
int MXC_TMR_SW_Stop(mxc_tmr_regs_t *timer) {{ (void)timer; return 42; }}
int MXC_Delay(uint32_t us) {{ return us == 0; }}
void MXC_ICC_Enable(int cache) {{ (void)cache; }}
void LED_On(unsigned int index) {{ (void)index; }}
void LED_Off(unsigned int index) {{ (void)index; }}

int main(void)
{{
    const struct itimerval every = {{ {{ 0, 10000 }}, {{ 0, 10000 }} }};

    map(0x40000000, 0x100000);
    map(0x50000000, 0x1400000);
    signal(SIGALRM, on_alarm);
    setitimer(ITIMER_REAL, &every, NULL);
    return firmware_main();
}}
"""
"""``signal`` and ``mmap`` are those of Linux."""

ANSWER = """    const uint32_t *block = sample_output;
    uint32_t address;

    while ((address = *block++) != 0) {
        const uint32_t mask = *block++;

        for (uint32_t left = *block++; left > 0; left--, address += 4) {
            REG32(address) = (REG32(address) & ~mask) | *block++;
        }
    }"""

HOST_ROWS = [number for number, row in enumerate(ROWS)
             if not row["zero_memories"] and row["answer"] != "layer by layer" and row["timer"] is not None
             and not (row["verify_weights"] and row["express"])]
"""Memory answers nothing: no self tests, no other layers' answers, no unpacking of packed kernels."""


def run_on_host(folder: Path, code: CodegenOptions) -> subprocess.CompletedProcess[str]:
    """Build a generated project for this computer with sanitizers, and run it."""
    (folder / "mxc.h").write_text(f"#ifndef MXC_H\n#define MXC_H\n{CHIP_HEADER}\n#endif\n")
    (folder / "gcfr_regs.h").write_text('#include "mxc.h"\n')
    (folder / "host.c").write_text(HOST.format(main=code.names.main, answer=ANSWER if code.known_answer else ""))
    sources = [f"{code.names.api}.c"] if code.names.api else []
    command = ["-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-D_GNU_SOURCE",
               "-o", "host", "host.c", *sources, "softmax.c"]
    built = subprocess.run([HOST_COMPILER or "cc", *command], cwd=folder, check=False, capture_output=True, text=True)
    if "cannot find" in built.stderr and "asan" in built.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert built.returncode == 0, built.stderr
    run = subprocess.run(["./host"], cwd=folder, check=False, capture_output=True, text=True, timeout=30,
                         env={"ASAN_OPTIONS": "detect_leaks=0"})
    if run.returncode == ADDRESSES_TAKEN:
        pytest.skip("the accelerator's addresses are taken on this computer")
    return run


needs_linux = pytest.mark.skipif(HOST_COMPILER is None or sys.platform != "linux", reason="no C compiler, or no Linux")


@needs_linux
@pytest.mark.parametrize("number", HOST_ROWS)
def test_nothing_is_undefined_under_the_sanitizers(tmp_path: Path, number: int) -> None:
    network, placement, lowering, code = project({**ROWS[number], "wfi": False, "clock": ("PCLK", 1)})
    write_project(real_program(network, placement, lowering), network, tmp_path, code)
    run = run_on_host(tmp_path, code)
    assert run.returncode == 0, run.stderr or run.stdout
    assert "*** PASS ***" in run.stdout


@needs_linux
def test_a_buffer_that_is_a_word_short_is_noticed(tmp_path: Path) -> None:
    network, placement = small()
    code = CodegenOptions(debug_wait_s=0, wfi=False)
    write_project(real_program(network, placement), network, tmp_path, code)
    header = (tmp_path / "cnn.h").read_text()
    words = int(header.split("#define CNN_OUTPUT_WORDS ")[1].split()[0])
    (tmp_path / "cnn.h").write_text(header.replace(f"CNN_OUTPUT_WORDS {words}", f"CNN_OUTPUT_WORDS {words - 1}"))
    run = run_on_host(tmp_path, code)
    assert run.returncode != 0 and "AddressSanitizer" in run.stderr
