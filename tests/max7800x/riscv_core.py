"""A RISC-V core good enough for the two-core project's program: memories and registers, no interrupts, no time."""

from pathlib import Path
from typing import Any

import pytest

from ai8x.errors import HardwareFault
from ai8x.max7800x.simulator import Accelerator

FLASH, SRAM = (0x10010000, 0x70000), (0x20010000, 0xC000)
APB, CNN = (0x40000000, 0x100000), (0x50000000, 0x1400000)
UART_STATUS, UART_FIFO = 0x40042004, 0x40042020
POWER = {0x40005800, 0x40005804, 0x40005808, 0x4000580C, 0x40000018, 0x40000024}
FAST_FIFO = range(0x400C0400, 0x400C0418)
TIMERS = range(0x40010000, 0x40014000)
ALWAYS_READY = 0xFFFFFFFF
"""Timers say done and ready at once, whatever is asked."""

CTRL = 0x50100000


class RiscvCore:
    """Runs the RISC-V half of a firmware to the end of main.

    Args:
        elf: of the RISC-V core alone.
        accelerator: not powered yet.
    """

    def __init__(self, elf: Path, accelerator: Accelerator) -> None:
        self._unicorn = pytest.importorskip("unicorn")
        elffile = pytest.importorskip("elftools.elf.elffile")
        self._accelerator = accelerator
        self.console = ""
        self.writes: list[tuple[int, int, int]] = []
        self.apb: dict[int, int] = {}
        self._fault: HardwareFault | None = None
        self._polls = 0
        self._core = self._unicorn.Uc(self._unicorn.UC_ARCH_RISCV, self._unicorn.UC_MODE_RISCV32)
        for base, size in (FLASH, SRAM):
            self._core.mem_map(base, size)
        with elf.open("rb") as stream:
            program = elffile.ELFFile(stream)
            for segment in program.iter_segments():
                if segment["p_type"] == "PT_LOAD" and segment["p_filesz"]:
                    self._core.mem_write(segment["p_paddr"], segment.data())
            names = program.get_section_by_name(".symtab")
            self._entry = program["e_entry"]
            self._end = names.get_symbol_by_name("stop")[0]["st_value"]
        for base, size in (APB, CNN):
            self._core.mmio_map(base, size, self._read, base, self._write, base)

    def run(self) -> None:
        """Execute until main has returned.

        Raises:
            HardwareFault: the accelerator refused an access.
        """
        try:
            self._core.emu_start(self._entry, self._end, count=50_000_000)
        finally:
            if self._fault is not None:
                raise self._fault

    def _read(self, core: Any, offset: int, size: int, base: int) -> int:
        address = base + offset
        if self._fault is not None:
            return 0
        if base == CNN[0] or address in FAST_FIFO:
            try:
                ready = self._accelerator.run_requested and self._accelerator.input_complete
                self._polls += 1
                # A single look comes from a stop; a second one without a write between them waits for the end.
                if address == CTRL and ready and self._polls > 1:
                    self._accelerator.complete()
                return self._accelerator.read(address, size)
            except HardwareFault as fault:
                self._stop(fault)
                return 0
        if address == UART_STATUS:
            return 0
        return ALWAYS_READY if address in TIMERS else self.apb.get(address, 0)

    def _write(self, core: Any, offset: int, size: int, value: int, base: int) -> None:
        address = base + offset
        if self._fault is not None:
            return
        try:
            if base == CNN[0] or address in FAST_FIFO:
                self._polls = 0
                self.writes.append((address, size, value))
                self._accelerator.write(address, size, value)
                return
            if address in POWER:
                self._accelerator.power(address, value)
        except HardwareFault as fault:
            self._stop(fault)
            return
        self.apb[address] = value
        if address == UART_FIFO:
            self.console += chr(value & 0xFF)

    def _stop(self, fault: HardwareFault) -> None:
        self._fault = fault
        self._core.emu_stop()
