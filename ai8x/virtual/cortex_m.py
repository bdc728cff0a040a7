"""A Cortex-M4 core: the emulator executes the instructions, the rest of the core is here.

Owns exception entry and return, and the classification of why execution ended. Knows nothing of a particular chip:
memories and peripherals are attached from outside. The run loop is `Core`'s. Start at `CortexM`.

A slice ends early where firmware could otherwise notice that exceptions wait for its end: behind instructions that
unmask interrupts, behind barriers, and before a polled read during which an interrupt came.

Source: spec/virtual-boards.md sections 3.2 and 3.5.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from ai8x.errors import Source, user_error
from ai8x.virtual.bus import BusDevice
from ai8x.virtual.clock import VirtualTime
from ai8x.virtual.core import Core, signed
from ai8x.virtual.elf import Program
from ai8x.virtual.emulator import ArmEmulator, BadAccess, Memory
from ai8x.virtual.nvic import FIRST_IRQ, SVCALL, SYSTEM_BASE, SYSTEM_SIZE, Masks, SystemControl
from ai8x.virtual.stop import Stop, StopCause

_AFTER_FAILURE = 2_000_000
"""Instructions granted after the firmware called its failure function, so that it can print its message."""
_FAILURE_FUNCTIONS = ("fail", "mxc_assert", "__assert_func", "abort")

_BASIC_FRAME, _EXTENDED_FRAME = 8, 26  # words
_FRAME_REGISTERS = ("R0", "R1", "R2", "R3", "R12", "LR")
_EXC_RETURNS = (0xFFFF_FFE1, 0xFFFF_FFE9, 0xFFFF_FFF1, 0xFFFF_FFF9)
_NOT_EXTENDED = 1 << 4  # of EXC_RETURN
_FPCA, _SPSEL = 1 << 2, 1 << 1  # of CONTROL
_FLAGS = 0xF80F_0000
_THUMB, _ALIGNED = 1 << 24, 1 << 9  # of xPSR

_WFI, _WFE, _SEV, _BRANCH_TO_SELF = 0xBF30, 0xBF20, 0xBF40, 0xE7FE
_UNMASKING = (0xB661, 0xB662, 0xB663)  # cpsie f, i, if
_BARRIER = 0xF3BF
_BARRIERS = (0x8F4F, 0x8F6F)  # dsb sy, isb sy
_MSR = 0xF380  # msr special, rn: the low 4 bits are n
_MSR_MASKS = (0x8810, 0x8811, 0x8812, 0x8813)  # primask, basepri, basepri_max, faultmask
_PREFETCH_ABORT, _SUPERVISOR_CALL, _BREAKPOINT, _EXCEPTION_EXIT = 3, 2, 7, 8  # the emulator's numbers


class CortexM(Core):
    """The core with its memories; peripherals are attached before `run`.

    Args:
        program: what to execute.
        memories: flash and RAM; the first holds the vector table at its start.
        time: virtual time.
        system: the system control space.
        budget: instructions after which the run is given up; bus accesses count for fifty.
        seed: of the arbitrary bytes that RAM holds before the start.

    Raises:
        UserError: E0801 Unicorn is not installed, E0807 no main, E0808 the program does not fit the memories.
    """

    slice_instructions: ClassVar[int] = 20_000
    """Larger gains nothing, smaller costs time."""

    def __init__(self, program: Program, memories: tuple[Memory, ...], time: VirtualTime, system: SystemControl, *,
                 budget: int, seed: int) -> None:
        emulator = ArmEmulator(time)
        super().__init__(program, emulator, time, budget=budget)
        self.system = system
        self.explain_wait: Callable[[], str] = str
        """Gives words on what the chip waits for, for the report of a deadlock."""
        self._exited = False
        self._fpu_misused = False
        self._event_register = False
        self._breakpoints: set[int] = set()
        self._resumed_at: int | None = None
        self.time.interrupt_due = self._exception_due
        self.system.before_fpu_change = self._check_fpu
        self._load(emulator, memories, seed)
        self._add_hooks()
        self.map_device(SYSTEM_BASE, SYSTEM_SIZE, system)
        self.pc = self.emulator.word(memories[0].base + 4) & ~1
        self.emulator.set("SP", self.emulator.word(memories[0].base))
        self.emulator.set("LR", 0xFFFF_FFFF)

    def map_device(self, base: int, size: int, device: BusDevice) -> None:
        """Attach a peripheral to a range of whole pages."""
        self.emulator.map_device(base, size, device)

    def set_breakpoint(self, address: int) -> None:
        """Let `step` end before the instruction at this address."""
        if address not in self._breakpoints:
            self.emulator.hook(address, self._on_breakpoint)
            self.emulator.flush()
        self._breakpoints.add(address)

    def clear_breakpoint(self, address: int) -> None:
        """Undo `set_breakpoint`."""
        self._breakpoints.discard(address)

    def at_breakpoint(self) -> bool:
        """Whether the next instruction has a breakpoint."""
        return self.pc in self._breakpoints

    # --- set-up ---------------------------------------------------------------------------------------------------

    def _load(self, emulator: ArmEmulator, memories: tuple[Memory, ...], seed: int) -> None:
        generator = random.Random(seed)  # noqa: S311 - reproducible arbitrary content, not a secret
        for memory in memories:
            emulator.map_memory(memory, generator)
        for segment in self.program.segments:
            end = segment.address + len(segment.data)
            if not any(m.base <= segment.address and end <= m.base + m.size for m in memories):
                places = ", ".join(f"{m.name} 0x{m.base:08x} to 0x{m.base + m.size - 1:08x}" for m in memories)
                raise user_error("E0808", "the program lies outside the chip's memories",
                                 source=Source(file=str(self.program.path)),
                                 found=f"0x{segment.address:08x} to 0x{end - 1:08x}", allowed=places)
            emulator.write(segment.address, segment.data)

    def _add_hooks(self) -> None:
        for segment in self.program.segments:
            if segment.executable:
                self._hook_instructions(segment.address, segment.data)
        for name in _FAILURE_FUNCTIONS:
            if name in self.program.symbols:
                self.emulator.hook(self.program.symbols[name], self._on_failure)
        if "_exit" in self.program.symbols:
            self.emulator.hook(self.program.symbols["_exit"], self._on_exit)

    def _hook_instructions(self, base: int, code: bytes) -> None:
        """Hooks on instructions that need us; halfwords that only look like one are never executed as such."""
        halves = np.frombuffer(code, "<u2", len(code) // 2)
        following = np.append(halves[1:], np.uint16(0))
        unmasks = (halves & 0xFFF0 == _MSR) & np.isin(following, _MSR_MASKS)
        barrier = (halves == _BARRIER) & np.isin(following, _BARRIERS)
        for found, offset, callback in (
            (halves == _WFI, 0, self._on_wfi),
            (halves == _SEV, 0, self._on_sev),
            (np.isin(halves, _UNMASKING), 2, self._on_chance),
            (unmasks | barrier, 4, self._on_chance),
        ):
            for index in np.flatnonzero(found):
                self.emulator.hook(base + 2 * int(index) + offset, callback)

    def _on_wfi(self, address: int) -> None:
        self.emulator.signals.sleep_at = address

    def _on_sev(self, _address: int) -> None:
        self._event_register = True

    def _on_chance(self, _address: int) -> None:
        """A pending exception may be due here: end the slice."""
        if self._exception_due():
            self.emulator.stop()

    def _on_breakpoint(self, address: int) -> None:
        if self._resumed_at == address:
            self._resumed_at = None  # already reported before this step; the next time it counts
        elif address in self._breakpoints:
            self.emulator.stop()

    def _on_failure(self, address: int) -> None:
        if not self._failure:
            name = self.program.function(address)
            self._failure = f"{name}() was called from {self.program.locate(self._caller())}"
            self._budget = min(self._budget, _AFTER_FAILURE)

    def _on_exit(self, _address: int) -> None:
        self._exited = True
        self.emulator.stop()

    # --- running --------------------------------------------------------------------------------------------------

    def step(self, count: int) -> Stop | None:
        """As `Core.step`; a breakpoint at the first instruction does not end it."""
        self._resumed_at = self.pc
        return super().step(count)

    def _exception_due(self) -> bool:
        return self.system.waiting and self.system.next_exception(self._masks()) is not None

    def _is_woken(self) -> bool:
        return self.system.wakes(self._masks())

    def _can_wake(self) -> bool:
        return self.time.can_wake(self.system.is_enabled)

    def _can_interrupt(self) -> bool:
        return self._can_wake()

    def _why_asleep(self) -> str:
        irqs = ", ".join(map(str, self.system.enabled_irqs)) or "none"
        why = self.explain_wait()
        return f"enabled interrupts: {irqs}{'; ' + why if why else ''}"

    def _end_of_slice(self, problem: str, count: int) -> Stop | None:
        if self._exited:
            return self._stop(StopCause.EXITED, self._failure or f"exit({signed(self.emulator.get('R0'))}) was called")
        self._check_fpu()
        if self._fpu_misused:
            return self._stop(StopCause.FPU_DISABLED, "a floating-point instruction ran although CPACR (0xe000ed88) "
                              "does not enable the floating-point unit")
        stop = self._classify(problem, count)
        if stop is None and self.system.reset_requested:
            return self._stop(StopCause.RESET, "the firmware requested a system reset")
        return stop

    def _check_fpu(self) -> None:
        """Note floating-point state that came to be without access to the unit; the emulator allows it always."""
        if not self.system.fpu_enabled and self.emulator.get("CONTROL") & _FPCA:
            self._fpu_misused = True

    def _classify(self, problem: str, count: int) -> Stop | None:
        """Why the slice ended; None where the firmware goes on."""
        signals = self.emulator.signals
        if signals.interrupt is not None:
            return self._internal_exception(signals.interrupt)
        if problem:
            return self._emulator_error(problem)
        if self.pc == self._until:
            return self._reached("LR", "R0")
        slept = signals.sleep_at is not None and self.pc == signals.sleep_at + 2
        if slept or signals.cut_short:
            self._charge_early_end()
            return self._sleep() if slept else None
        spins = self.emulator.half(self.pc) == _BRANCH_TO_SELF
        self._charge_slice(count, passes_time=not spins and not self.system.waiting)
        return self._spin() if spins else None

    def _emulator_error(self, problem: str) -> Stop | None:
        bad_access = self.emulator.signals.bad_access
        if bad_access is not None:
            return self._bad_access(bad_access)
        if self.emulator.half(self.pc - 2) == _WFE:
            self._charge_early_end()
            if self._event_register:
                self._event_register = False
                return None
            return self._sleep()
        return self._stop(StopCause.UNDEFINED, f"cannot execute 0x{self.emulator.half(self.pc):04x} ({problem})")

    def _internal_exception(self, number: int) -> Stop | None:
        """The emulator met something that only exception logic can handle."""
        if number in (_EXCEPTION_EXIT, _PREFETCH_ABORT) and self._is_exception_return(self.pc):
            return self._return(self.pc | 1)
        if number == _SUPERVISOR_CALL:
            self.system.pend(SVCALL)
            if self.system.next_exception(self._masks()) != SVCALL:
                return self._stop(StopCause.UNSUPPORTED, "SVC where its priority does not allow it: a hard fault")
            return None
        if number == _BREAKPOINT:
            return self._stop(StopCause.BREAKPOINT, "a breakpoint instruction was executed")
        if self.emulator.signals.bad_access is not None:
            return self._bad_access(self.emulator.signals.bad_access)
        return self._stop(StopCause.UNDEFINED, f"the processor raised its internal exception {number}")

    def _bad_access(self, access: BadAccess) -> Stop | None:
        if access.kind == "fetch" and self._is_exception_return(access.address):
            return self._return(access.address | 1)
        return self._bus_fault(access)

    # --- exceptions -----------------------------------------------------------------------------------------------

    def _take_exception(self) -> Stop | None:
        """Stack the frame and go to the handler."""
        number = self.system.next_exception(self._masks())
        if number is None:
            return None
        control = self.emulator.get("CONTROL")
        if control & _SPSEL:
            return self._stop(StopCause.UNSUPPORTED, "an exception came while the process stack (PSP) was in use")
        extended = bool(control & _FPCA)
        stack = self.emulator.get("SP")
        frame = (stack - 4 * (_EXTENDED_FRAME if extended else _BASIC_FRAME)) & ~7
        if not self.emulator.write(frame, self._frame(extended=extended, aligned=stack % 8 != 0)):
            return self._stop(StopCause.BUS_FAULT, f"the stack pointer 0x{stack:08x} has left memory when "
                              f"{_exception_name(number)} came")
        vector = self.system.vectors + 4 * number
        handler = self.emulator.word(vector)
        if not handler & 1:
            return self._stop(StopCause.UNSUPPORTED, f"{_exception_name(number)} has no handler: its vector at "
                              f"0x{vector:08x} is 0x{handler:08x}")
        return_code = 0xFFFF_FFF1 if self.system.active else 0xFFFF_FFF9
        self.system.enter(number)
        self._event_register = True
        self.emulator.set("IPSR", number)
        self.emulator.set("CONTROL", control & ~_FPCA)
        self.emulator.set("SP", frame)
        self.emulator.set("LR", return_code & ~_NOT_EXTENDED if extended else return_code)
        self.pc = handler & ~1
        return None

    def _frame(self, *, extended: bool, aligned: bool) -> bytes:
        """What the core pushes; with the floating-point registers where they are in use."""
        get = self.emulator.get
        xpsr = get("XPSR") & _FLAGS | get("IPSR") | _THUMB | (_ALIGNED if aligned else 0)
        words = [get(name) for name in _FRAME_REGISTERS] + [self.pc, xpsr]
        if extended:
            words += [get(f"S{i}") for i in range(16)] + [get("FPSCR"), 0]
        return b"".join(word.to_bytes(4, "little") for word in words)

    def _return(self, return_code: int) -> Stop | None:
        """Unstack the frame that `_enter` made."""
        frame = self.emulator.get("SP")
        extended = not return_code & _NOT_EXTENDED
        length = _EXTENDED_FRAME if extended else _BASIC_FRAME
        data = self.emulator.read(frame, 4 * length)
        if data is None:
            return self._stop(StopCause.BUS_FAULT, f"the stack pointer 0x{frame:08x} has left memory at the return "
                              "from an exception")
        words = [int.from_bytes(data[i: i + 4], "little") for i in range(0, len(data), 4)]
        xpsr = words[7]
        left = self.system.active[-1]
        now = self.system.leave()
        if xpsr & 0x1FF != now:
            return Stop(cause=StopCause.BUS_FAULT, reason=f"the stack frame of {_exception_name(left)} was "
                        f"overwritten: it returns to exception {xpsr & 0x1FF}, expected {now}")
        self.emulator.set("IPSR", now)
        for name, word in zip(_FRAME_REGISTERS, words, strict=False):
            self.emulator.set(name, word)
        self.emulator.set("SP", frame + 4 * length + (4 if xpsr & _ALIGNED else 0))
        self.emulator.set("APSR_NZCVQG", xpsr & _FLAGS)
        self._restore_fpu(words[_BASIC_FRAME:])
        self.emulator.set("FAULTMASK", 0)
        self.pc = words[6] & ~1
        self._event_register = True
        return self._sleep() if now == 0 and self.system.sleep_on_exit else None

    def _restore_fpu(self, words: list[int]) -> None:
        """The floating-point part of a frame; empty where it had none."""
        control = self.emulator.get("CONTROL") & ~_FPCA
        if words:
            for i in range(16):
                self.emulator.set(f"S{i}", words[i])
            self.emulator.set("FPSCR", words[16])
            control |= _FPCA
        self.emulator.set("CONTROL", control)

    def _is_exception_return(self, address: int) -> bool:
        return address | 1 in _EXC_RETURNS and bool(self.system.active)

    # --- small things ---------------------------------------------------------------------------------------------

    def _caller(self) -> int:
        """From the link register."""
        return (self.emulator.get("LR") & ~1) - 2

    def _masks(self) -> Masks:
        get = self.emulator.get
        return Masks(primask=get("PRIMASK"), faultmask=get("FAULTMASK"), basepri=get("BASEPRI"))


def _exception_name(number: int) -> str:
    return f"IRQ {number - FIRST_IRQ}" if number >= FIRST_IRQ else f"exception {number}"
