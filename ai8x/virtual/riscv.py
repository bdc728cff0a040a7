"""An RV64 hart in machine mode: the emulator executes the instructions, the rest of the hart is here.

Owns interrupt entry, sleeping, the counters that software may read, and the classification of why execution ended.
Knows nothing of a particular chip: memory and peripherals are attached from outside, and interrupt lines are asked for.
The run loop is `Core`'s: interrupts are taken between two slices, and a slice ends early behind instructions that may
unmask them. Start at `RiscvHart`.

Source: spec/virtual-boards.md section 4; the RISC-V privileged architecture for the registers' bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from ai8x.virtual.clock import VirtualTime
from ai8x.virtual.core import Core
from ai8x.virtual.elf import Program
from ai8x.virtual.emulator import RiscvEmulator
from ai8x.virtual.stop import Stop, StopCause

_WFI, _EBREAK, _SHORT_EBREAK = 0x1050_0073, 0x0010_0073, 0x9002
_JUMP_TO_SELF, _SHORT_JUMP_TO_SELF = 0x0000_006F, 0xA001
_SYSTEM = 0x73
_CALLS = (0x67, 0x6F)  # opcodes of jalr and jal
_CSR_MSTATUS, _CSR_MIE, _CSR_MIP = 0x300, 0x304, 0x344
_CSR_COUNTERS = (0xB00, 0xB02, 0xC00, 0xC01, 0xC02)  # mcycle, minstret, cycle, time, instret
_PURE_READ_MASK, _PURE_READ = 0xF_F07F, 0x0_2073  # csrrs rd, csr, x0, without rd and csr

_MSTATUS_MIE, _MSTATUS_MPIE, _MSTATUS_MPP = 1 << 3, 1 << 7, 3 << 11
_EXTERNAL, _TIMER = 11, 7  # numbers in mie, mip and mcause
_CAUSE_INTERRUPT = 1 << 63
_ECALL = (8, 9, 11)
_BEHIND = 4  # bytes that the emulator's PC stands behind an instruction that raised an exception
_WORD = 0xFFFF_FFFF_FFFF_FFFF
_ELF_MACHINE, _ELF_RISCV = slice(18, 20), 243


def is_riscv_firmware(path: Path) -> bool:
    """Whether an ELF file is for RISC-V; False for anything else, unreadable files included."""
    try:
        with path.open("rb") as stream:
            header = stream.read(_ELF_MACHINE.stop)
    except OSError:
        return False  # whoever runs the file reports that it cannot be read
    return header.startswith(b"\x7fELF") and int.from_bytes(header[_ELF_MACHINE], "little") == _ELF_RISCV


class InterruptLine(Protocol):
    """An interrupt input of the hart, as a peripheral drives it."""

    @property
    def is_raised(self) -> bool:
        """The interrupt is pending."""


class ExternalInterrupt(InterruptLine, Protocol):
    """The external interrupt, driven by an interrupt controller."""

    def explain(self) -> str:
        """What is enabled and what the chip waits for, for the report of a deadlock."""


class RiscvHart(Core):
    """One hart with a program in its memory.

    Args:
        program: what to run; its segments must have been placed in memory.
        emulator: with all memories and peripherals attached.
        time: virtual time.
        external: the external interrupt.
        timer: the timer interrupt.
        budget: instructions it may execute.

    Raises:
        UserError: E0807 the program has no symbol main.
    """

    slice_instructions: ClassVar[int] = 5_000
    """Smaller than for a microcontroller, since it is also the grain of time."""

    def __init__(self, program: Program, emulator: RiscvEmulator, time: VirtualTime, *, external: ExternalInterrupt,
                 timer: InterruptLine, budget: int) -> None:
        super().__init__(program, emulator, time, budget=budget)
        self._external = external
        self._lines: dict[int, InterruptLine] = {_EXTERNAL: external, _TIMER: timer}  # the most urgent first
        for segment in program.segments:
            if segment.executable:
                self._hook_instructions(segment.address, segment.data)
        self.pc = program.symbols.get("_start", min(segment.address for segment in program.segments))

    # --- instructions that need us --------------------------------------------------------------------------------

    def _hook_instructions(self, base: int, code: bytes) -> None:
        """Hooks on instructions that need us; data that only looks like one is never executed."""
        halves = np.frombuffer(code, "<u2", len(code) // 2).astype(np.uint32)
        words = halves[:-1] | halves[1:] << np.uint32(16)
        system = words & 0x7F == _SYSTEM
        register = words >> np.uint32(20)
        changes = system & np.isin(register, (_CSR_MSTATUS, _CSR_MIE)) & (words & 0x3000 != 0)
        pure = words & _PURE_READ_MASK == _PURE_READ
        for found, offset, callback in (
            (words == _WFI, 0, self._on_wfi),
            (changes, 4, self._on_chance),
            (pure & (register == _CSR_MIP), 0, self._on_pending_read),
            (pure & np.isin(register, _CSR_COUNTERS), 0, self._on_counter_read),
        ):
            for index in np.flatnonzero(found):
                self.emulator.hook(base + 2 * int(index) + offset, callback)

    def _on_wfi(self, address: int) -> None:
        self.emulator.signals.sleep_at = address

    def _on_chance(self, _address: int) -> None:
        """A pending interrupt may be due here: end the slice."""
        if self._exception_due():
            self.emulator.stop()

    def _on_pending_read(self, address: int) -> None:
        """Read of mip, which cannot be set in the emulator."""
        self._supply(address, self._pending())

    def _on_counter_read(self, address: int) -> None:
        """Read of a counter; the emulator's own would show this computer's time."""
        self.time.poll()
        self._supply(address, self.time.now_fs // self.time.cycle_fs)

    def _supply(self, address: int, value: int) -> None:
        """Carry out a register read: destination, then on to the next instruction."""
        destination = self.emulator.word(address) >> 7 & 31
        if destination:
            self.emulator.set(f"X{destination}", value & _WORD)
        self.emulator.set("PC", address + 4)

    # --- why a slice ended ----------------------------------------------------------------------------------------

    def _end_of_slice(self, problem: str, count: int) -> Stop | None:
        signals = self.emulator.signals
        if signals.bad_access is not None:
            return self._bus_fault(signals.bad_access)
        if problem or signals.interrupt is not None:
            return self._exception(problem, signals.interrupt)
        if self.pc == self._until:
            return self._reached("RA", "A0")
        if signals.sleep_at is not None or signals.cut_short:
            self._charge_early_end()
            return None if signals.sleep_at is None else self._sleep()
        spins = self._at_endless_loop()
        self._charge_slice(count, passes_time=not spins)
        return self._spin() if spins else None

    def _exception(self, problem: str, number: int | None) -> Stop:
        if number is not None:
            self.pc -= _BEHIND
        word = self.emulator.word(self.pc)
        if word == _EBREAK or word & 0xFFFF == _SHORT_EBREAK:
            return self._stop(StopCause.BREAKPOINT, "a breakpoint instruction was executed")
        if number in _ECALL:
            return self._stop(StopCause.UNSUPPORTED, "an environment call was executed, there is nothing to serve it")
        why = f"exception {number}" if number is not None else problem
        return self._stop(StopCause.UNDEFINED, f"cannot execute 0x{word:08x} ({why})")

    def _at_endless_loop(self) -> bool:
        word = self.emulator.word(self.pc)
        return word == _JUMP_TO_SELF or word & 0xFFFF == _SHORT_JUMP_TO_SELF

    # --- interrupts -----------------------------------------------------------------------------------------------

    def _pending(self) -> int:
        """The bits of mip."""
        return sum(1 << number for number, line in self._lines.items() if line.is_raised)

    def _enabled(self) -> int:
        """The bits of mie that belong to a line."""
        return self.emulator.get("MIE") & sum(1 << number for number in self._lines)

    def _exception_due(self) -> bool:
        return self._is_woken() and self._are_interrupts_on()

    def _is_woken(self) -> bool:
        return bool(self._pending() & self._enabled())

    def _can_wake(self) -> bool:
        return self.time.next_event_fs() is not None and bool(self._enabled())

    def _can_interrupt(self) -> bool:
        return self._can_wake() and self._are_interrupts_on()

    def _are_interrupts_on(self) -> bool:
        return bool(self.emulator.get("MSTATUS") & _MSTATUS_MIE)

    def _why_asleep(self) -> str:
        return self._external.explain() if self._enabled() else "no interrupt of the hart is enabled in mie"

    def _take_exception(self) -> Stop | None:
        """Return address, cause, interrupts off, on to the handler."""
        due = self._pending() & self._enabled()
        number = next(number for number in self._lines if due >> number & 1)
        status = self.emulator.get("MSTATUS")
        self.emulator.set("MEPC", self.pc)
        self.emulator.set("MCAUSE", _CAUSE_INTERRUPT | number)
        self.emulator.set("MSTATUS", (status | _MSTATUS_MPIE | _MSTATUS_MPP) & ~_MSTATUS_MIE)
        vector = self.emulator.get("MTVEC")
        base = vector & ~3
        self.pc = base + 4 * number if vector & 1 else base
        return None

    def _caller(self) -> int:
        """From the return address; a call has four bytes, or two in its compressed form."""
        behind = self.emulator.get("RA")
        return behind - (4 if self.emulator.word(behind - 4) & 0x7F in _CALLS else 2)
