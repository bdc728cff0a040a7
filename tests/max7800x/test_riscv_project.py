"""The project for both cores: it builds without a warning, and the RISC-V program is where the launcher expects it."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from ai8x.max7800x.codegen import render_sources, write_project
from ai8x.max7800x.lower import LowerOptions
from ai8x.max7800x.options import CodegenOptions, Core, FileNames
from ai8x.max7800x.placement import Placement
from ai8x.max7800x.simulator import Accelerator
from ai8x.toolchain import build_project

from .lowering_examples import real_program, residual, small
from .riscv_core import RiscvCore
from .test_quad import quad_network

RISCV = CodegenOptions(core=Core.RISCV)
STRICT = "WARNINGS=-Wall -Wextra -Wconversion -Wshadow -Werror"

needs_compilers = pytest.mark.skipif(
    not all(shutil.which(tool) for tool in ("arm-none-eabi-gcc", "riscv64-unknown-elf-gcc", "make")),
    reason="no cross compilers on this machine")


def build(folder: Path, network, placement: Placement, options: CodegenOptions, lowering: LowerOptions) -> Path:
    write_project(real_program(network, placement, lowering), network, folder, options)
    subprocess.run(["make", "-s", STRICT, f"MXC_OPTIMIZE_CFLAGS={'-Os'}"], cwd=folder, check=True, capture_output=True)
    return next(folder.glob("build/*.elf"))


@needs_compilers
@pytest.mark.parametrize("case", ["memory", "fast fifo", "quad", "options"])
def test_two_core_project_builds_without_a_warning(tmp_path: Path, case: str) -> None:
    elftools = pytest.importorskip("elftools.elf.elffile")
    network, placement = quad_network() if case == "quad" else residual() if case == "options" else small()
    if case == "fast fifo":
        placement = replace(placement, fast_fifo=True)
    options, lowering = RISCV, LowerOptions()
    if case == "options":
        options = replace(RISCV, energy=True, verify_weights=True, verify_writes=True)
        lowering = LowerOptions(check_layers=True, zero_memories=True, stop_start=True)
    elf = build(tmp_path, network, placement, options, lowering)
    with elf.open("rb") as stream:
        program = elftools.ELFFile(stream)
        image = program.get_section_by_name(".riscv")
        boot = program.get_section_by_name(".symtab").get_symbol_by_name("__riscv_start")[0]["st_value"]
        assert program["e_machine"] == "EM_ARM"
        assert (image["sh_addr"], boot) == (0x10010000, 0x10010000)
        data = image.data()
    with next(tmp_path.glob("build/riscv/*.elf")).open("rb") as stream:
        riscv = elftools.ELFFile(stream)
        assert (riscv["e_machine"], riscv.elfclass, riscv["e_entry"]) == ("EM_RISCV", 32, 0x10010000)
        symbols = {symbol.name: symbol["st_value"] for symbol in riscv.get_section_by_name(".symtab").iter_symbols()}
        text = riscv.get_section_by_name(".text").data()
    assert data[: len(text)] == text
    # Both places at which the core may begin hold a jump (opcode 0x6f).
    assert data[0] & 0x7F == 0x6F and data[0x80] & 0x7F == 0x6F
    assert 0x20010000 < symbols["__stack_top"] <= 0x2001C000
    assert {"cnn_start", "load_input", "CNN_ISR"} <= set(symbols)


@needs_compilers
@pytest.mark.parametrize("case", ["memory", "fifo", "fast fifo", "quad", "options"])
def test_riscv_program_makes_exactly_the_writes_of_the_program(tmp_path: Path, case: str) -> None:
    network, placement = quad_network() if case == "quad" else residual() if case == "options" else small()
    placement = replace(placement, fifo=case == "fifo", fast_fifo=case in ("fast fifo", "quad"))
    options, lowering = replace(RISCV, debug_wait_s=0), LowerOptions()
    if case == "options":
        options = replace(options, verify_weights=True, verify_writes=True)
        lowering = LowerOptions(check_layers=True, zero_memories=True, stop_start=True)
    build(tmp_path, network, placement, options, lowering)
    program = real_program(network, placement, lowering)
    core = RiscvCore(next(tmp_path.glob("build/riscv/*.elf")), Accelerator(seed=3, powered=False, fifo_depth=4))
    core.run()
    assert "PASS" in core.console and "FAIL" not in core.console, core.console
    assert core.writes == list(program.bus_writes())
    # The launcher is woken through the semaphore block.
    assert core.apb[0x4003E040] == 0x00010001


@needs_compilers
def test_toolchain_builds_the_two_core_project(tmp_path: Path) -> None:
    network, placement = small()
    write_project(real_program(network, placement), network, tmp_path, replace(RISCV, names=FileNames(main="app")))
    assert {path.name for path in tmp_path.glob("*.c")} == {"app.c", "app_riscv.c", "cnn.c", "softmax.c"}
    assert build_project(tmp_path).is_file()


def test_riscv_program_watches_the_completion_flag_and_wakes_the_launcher() -> None:
    network, placement = small()
    files = render_sources(real_program(network, placement), network, RISCV)
    assert set(files) >= {"main.c", "main_riscv.c", "cnn.c"}
    assert "MXC_NVIC_SetVector" not in files["cnn.c"] and "SetVector(RISCV_IRQn" in files["main.c"]
    # CTRL.cnn_irq of the first quadrant.
    assert "REG32(0x50100000) & 0x1000" in files["main_riscv.c"]
    assert "0x4003e040" in files["main.c"] and "0x4003e040" in files["main_riscv.c"]
