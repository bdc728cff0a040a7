"""Runs a case on the reference, the simulator and the compiled firmware, and compares. Start at `compare_case`."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from ai8x.errors import HardwareFault
from ai8x.max7800x.codegen import write_project
from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.kernels import plan_kernels
from ai8x.max7800x.lower import LoweringPlan, lower_network
from ai8x.max7800x.options import CodegenOptions
from ai8x.max7800x.program import Program
from ai8x.max7800x.simulator import Accelerator
from ai8x.network.reference import Trace, run_network
from ai8x.synthesis_max78000 import inference_cycles
from ai8x.verify_max78000 import compare_layers, run_program, verify_simulator
from ai8x.virtual.max78000 import run_firmware

from .memory import expected_words, memory_difference
from .sketch import Case

CPU = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=softfp", "-mfpu=fpv4-sp-d16")
COMMON = ("-std=gnu11", "-ffunction-sections", "-fdata-sections", "-I.", "-Istandalone", "-DTARGET_NUM=78000",
          "-DBOARD_EVKIT_V1")
STRICT = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror")
LEVELS = ("-O0", "-O1", "-O2", "-O3", "-Os")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case.

    Args:
        refused: codes of the limits that it breaks; empty where it was compared.
        difference: what differed; empty where nothing did.
        compiled: firmware was built and run, too.
    """

    refused: tuple[str, ...] = ()
    difference: str = ""
    compiled: bool = False


class FlashFull(Exception):
    """The weights, the sample and the known answer together exceed the chip's flash; nothing is wrong with them."""


class FirmwareBuilder:
    """Compiles projects; the board support is compiled once.

    Args:
        folder: for everything that is built.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._support: tuple[Path, ...] = ()

    def build(self, project: Path, level: str) -> Path:
        """The firmware file of a generated project."""
        if not self._support:
            self._support = tuple(self._object(project / "standalone" / name) for name in ("board.c", "startup.c"))
        elf = project / "firmware.elf"
        command = ["arm-none-eabi-gcc", *CPU, level, *COMMON, *STRICT, "-Tstandalone/max78000.ld", "-nostartfiles",
                   "-Wl,--gc-sections", "--specs=nano.specs", "-o", elf.name, "cnn.c", "main.c", "softmax.c",
                   *map(str, self._support), "-lm", "-lc", "-lgcc"]
        subprocess.run(command, cwd=project, check=True, capture_output=True, text=True)
        return elf

    def _object(self, source: Path) -> Path:
        target = self._folder / f"{source.stem}.o"
        subprocess.run(["arm-none-eabi-gcc", *CPU, "-Os", *COMMON, "-c", "-o", str(target), source.name],
                       cwd=source.parent, check=True, capture_output=True, text=True)
        return target


def compare_case(case: Case, builder: FirmwareBuilder | None, folder: Path) -> Outcome:
    """Hold every executor against the reference.

    Args:
        case: what to run.
        builder: compiles, or None for the simulator alone.
        folder: empty, for the project.
    """
    network, placement = case.network, case.placement
    if errors := check_network(network, placement, MAX78000).errors:
        return Outcome(refused=tuple(sorted({error.code for error in errors})))
    layers = hardware_layers(network, placement, MAX78000)
    plan = LoweringPlan(device=MAX78000, layers=layers, placement=placement, kernels=plan_kernels(layers, MAX78000))
    try:
        trace = run_network(network, case.sample)
    except ValueError as overflow:  # an accumulator beyond 32 bits
        return Outcome(refused=(str(overflow),))
    program = lower_network(network, plan, case.sample, trace, case.options)
    second = run_network(network, case.sample, buffer=trace.buffer) if network.buffer else None
    verdict = verify_simulator(network, layers, program, trace, second)
    if verdict.is_different:
        return Outcome(difference=f"simulator: {verdict}")
    difference = _memory_difference(case, plan, program, trace)
    if difference or builder is None or placement.fast_fifo:
        return Outcome(difference=difference)
    try:
        difference = _firmware_difference(case, plan, program, trace, builder, folder)
    except FlashFull:
        return Outcome()
    return Outcome(difference=difference, compiled=True)


def _memory_difference(case: Case, plan: LoweringPlan, program: Program, trace: Trace) -> str:
    accelerator = Accelerator(seed=7)
    run_program(program, accelerator)
    return memory_difference("simulator", plan, expected_words(case, plan, trace), accelerator)


def _firmware_difference(case: Case, plan: LoweringPlan, program: Program, trace: Trace, builder: FirmwareBuilder,
                         folder: Path) -> str:
    write_project(program, case.network, folder, CodegenOptions(debug_wait_s=0))
    try:
        elf = builder.build(folder, LEVELS[case.number % len(LEVELS)])
    except subprocess.CalledProcessError as error:
        if "will not fit in region `FLASH'" in error.stderr:
            raise FlashFull from error
        return f"compiler: {error.stderr[-600:]}"
    accelerator = Accelerator(seed=11, powered=False)
    words, wanted = expected_words(case, plan, trace), list(program.bus_writes())
    writes: list[tuple[int, int, int]] = []
    memory: list[str] = []

    def watch(address: int, size: int, value: int) -> None:
        writes.append((address, size, value))
        if len(writes) == len(wanted):  # the end of the interrupt handler; later the power goes off
            memory.append(memory_difference("firmware", plan, words, accelerator))

    try:
        result = run_firmware(elf, accelerator, lambda: inference_cycles(accelerator), on_bus_write=watch)
    except HardwareFault as fault:
        return f"firmware: {fault}"
    if not result.passed:
        return f"firmware: {result.reason}: {result.console[-200:]!r}"
    if writes != wanted:
        return "firmware: its bus writes are not those of the program"
    verdict = compare_layers("firmware", case.network, plan.layers, accelerator, trace)
    if verdict.is_different:
        return f"firmware: {verdict}"
    return memory[0]
