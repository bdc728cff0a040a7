"""An RV64 hart in machine mode: the emulator executes the instructions, the rest of the hart is here.

Owns the run loop, interrupt entry, sleeping, the counters that software may read, and the classification of why
execution ended. Knows nothing of a particular chip: memory and peripherals are attached from outside, and one external
interrupt line is asked for. Start at `RiscvHart.run`.

The emulator knows no interrupts. So the hart runs in slices; between two slices it carries out due events and takes the
external interrupt. A slice ends early behind instructions that may unmask it.

Source: spec/virtual-boards.md section 4; the RISC-V privileged architecture for the registers' bits.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import HardwareFault, Source, user_error
from ai8x.virtual.bus import BusDevice
from ai8x.virtual.clock import VirtualTime
from ai8x.virtual.cortex_m import Stop, StopCause
from ai8x.virtual.elf import Program
from ai8x.virtual.emulator import INSTALL_HELP, BadAccess, Signals

SLICE_INSTRUCTIONS = 5_000
"""Instructions between two looks at events; smaller than for a microcontroller, since it is also the grain of time."""

_ACCESS_COST = 50
"""What a bus access is charged to the budget, in instructions: it takes about as long to emulate."""
_EARLY_COST = 200
"""What a slice that ends early is charged; how much of it was executed is not known."""

_WFI, _EBREAK, _SHORT_EBREAK = 0x1050_0073, 0x0010_0073, 0x9002
_JUMP_TO_SELF, _SHORT_JUMP_TO_SELF = 0x0000_006F, 0xA001
_SYSTEM = 0x73
_CSR_MSTATUS, _CSR_MIE, _CSR_MIP = 0x300, 0x304, 0x344
_CSR_COUNTERS = (0xB00, 0xB02, 0xC00, 0xC01, 0xC02)  # mcycle, minstret, cycle, time, instret
_PURE_READ_MASK, _PURE_READ = 0xF_F07F, 0x0_2073  # csrrs rd, csr, x0, without rd and csr

_MSTATUS_MIE, _MSTATUS_MPIE, _MSTATUS_MPP = 1 << 3, 1 << 7, 3 << 11
_EXTERNAL = 11
_LINE_BIT = 1 << _EXTERNAL  # in mie and mip
_CAUSE_EXTERNAL = 1 << 63 | _EXTERNAL
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
    """The external interrupt of the hart, as an interrupt controller drives it."""

    @property
    def is_raised(self) -> bool:
        """An enabled interrupt is pending."""

    def explain(self) -> str:
        """What is enabled and what the chip waits for, for the report of a deadlock."""


class RiscvEmulator:
    """An RV64 core that executes instructions, and nothing of what surrounds them.

    Args:
        time: virtual time; every peripheral access lets a little of it pass.

    Raises:
        UserError: E0801 Unicorn is not installed.
    """

    def __init__(self, time: VirtualTime) -> None:
        try:
            import unicorn
            from unicorn import riscv_const
        except ImportError as error:
            raise user_error("E0801", "running firmware needs unicorn, which is not installed",
                             help=INSTALL_HELP) from error
        self.signals = Signals()
        self.accesses = 0
        """Peripheral accesses so far."""
        self._time = time
        self._module: Any = unicorn
        self._registers: dict[str, int] = {name.removeprefix("UC_RISCV_REG_"): value
                                           for name, value in vars(riscv_const).items()
                                           if name.startswith("UC_RISCV_REG_")}
        self._memories: list[NDArray[np.uint8]] = []  # the emulator holds only their addresses
        self._uc: Any = self._module.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)
        self._uc.hook_add(unicorn.UC_HOOK_INTR, self._on_exception)
        self._uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_bad_access)

    def map_memory(self, memory: NDArray[np.uint8], base: int) -> None:
        """Make an array of whole pages visible at an address; one array may be visible at several."""
        self._memories.append(memory)
        self._uc.mem_map_ptr(base, memory.size, self._module.UC_PROT_ALL, ctypes.c_void_p(memory.ctypes.data))

    def map_device(self, base: int, size: int, device: BusDevice) -> None:
        """Attach a peripheral to a range of whole pages."""

        def read(_uc: object, offset: int, length: int, _data: object) -> int:
            if self.signals.error is not None:
                return 0
            self.accesses += 1
            self._time.now_fs += self._time.access_fs
            try:
                return device.read(base + offset, length)
            except Exception as error:  # noqa: BLE001 - must not unwind through C code; the hart raises it again
                self._abort(error)
                return 0

        def write(_uc: object, offset: int, length: int, value: int, _data: object) -> None:
            if self.signals.error is not None:
                return
            self.accesses += 1
            self._time.access()
            try:
                device.write(base + offset, length, value)
            except Exception as error:  # noqa: BLE001 - as above
                self._abort(error)

        self._uc.mmio_map(base, size, read, None, write, None)

    def hook(self, address: int, callback: Callable[[int], None]) -> None:
        """Call back with the address before the instruction there is executed."""
        self._uc.hook_add(self._module.UC_HOOK_CODE, lambda _uc, at, _size, _data: callback(at),
                          begin=address, end=address)

    def execute(self, pc: int, until: int, count: int) -> Exception | None:
        """Execute up to `count` instructions; returns the emulator's own error where it met one."""
        self.signals = Signals()
        try:
            self._uc.emu_start(pc, until, count=count)
        except self._module.UcError as error:
            return Exception(str(error))
        return None

    def stop(self) -> None:
        """End the slice; only from a hook, never from a peripheral, whose access would be repeated."""
        self._uc.emu_stop()

    def get(self, name: str) -> int:
        """A register, by its name in the architecture (``PC``, ``A0``, ``X5``, ``MSTATUS``)."""
        return int(self._uc.reg_read(self._registers[name]))

    def set(self, name: str, value: int) -> None:
        """Change a register."""
        self._uc.reg_write(self._registers[name], value)

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes of memory, None where there is none."""
        try:
            return bytes(self._uc.mem_read(address, size))
        except self._module.UcError:
            return None

    def word(self, address: int) -> int:
        """A little-endian word of memory; 0 where there is none."""
        return int.from_bytes(self.read(address, 4) or b"", "little")

    def _abort(self, error: Exception) -> None:
        self.signals.error = error
        self._uc.emu_stop()

    def _on_exception(self, uc: Any, number: int, _data: object) -> None:
        self.signals.interrupt = number
        uc.emu_stop()

    def _on_bad_access(self, _uc: object, access: int, address: int, size: int, _value: int, _data: object) -> bool:
        module = self._module
        kinds = {module.UC_MEM_FETCH_UNMAPPED: "fetch", module.UC_MEM_FETCH_PROT: "fetch",
                 module.UC_MEM_READ_UNMAPPED: "read", module.UC_MEM_READ_PROT: "read"}
        self.signals.bad_access = BadAccess(kind=kinds.get(access, "write"), address=address & _WORD, size=size)
        return False


class RiscvHart:
    """One hart with a program in its memory.

    Args:
        program: what to run; its segments must have been placed in memory.
        emulator: with all memories and peripherals attached.
        time: virtual time.
        line: the external interrupt.
        budget: instructions it may execute.

    Raises:
        UserError: E0807 the program has no symbol main.
    """

    def __init__(self, program: Program, emulator: RiscvEmulator, time: VirtualTime, line: InterruptLine, *,
                 budget: int) -> None:
        self.program = program
        self.emulator = emulator
        self.time = time
        self._line = line
        self._budget = self._budget_total = budget
        self._sleeping = False
        if "main" not in program.symbols:
            raise user_error("E0807", "the firmware has no symbol main", source=Source(file=str(program.path)),
                             help="link the firmware without stripping its symbols")
        self._main = program.symbols["main"]
        self._until = self._main
        self._add_hooks()
        self.pc = program.symbols.get("_start", min(segment.address for segment in program.segments))
        """Address of the next instruction."""

    # --- set-up ---------------------------------------------------------------------------------------------------

    def _add_hooks(self) -> None:
        for segment in self.program.segments:
            if segment.executable:
                self._hook_instructions(segment.address, segment.data)

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
        if self._line.is_raised and self._interrupt_due():
            self.emulator.stop()

    def _on_pending_read(self, address: int) -> None:
        """Read of mip, which cannot be set in the emulator."""
        self._supply(address, _LINE_BIT if self._line.is_raised else 0)

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

    # --- running --------------------------------------------------------------------------------------------------

    def run(self) -> Stop:
        """Execute until the program ends or cannot go on.

        Raises:
            HardwareFault: a peripheral refused an access; the message names the place in the firmware.
        """
        while True:
            stop = self.step(SLICE_INSTRUCTIONS)
            if stop is not None:
                return stop

    def step(self, count: int) -> Stop | None:
        """Carry out due events, take the interrupt, execute up to `count` instructions.

        Raises:
            HardwareFault: as `run`.
        """
        try:
            self.time.run_due()
            if self._sleeping:
                return self._sleep()
            if self._line.is_raised and self._interrupt_due():
                self._enter()
            next_fs = self.time.next_event_fs()
            if next_fs is not None:
                count = min(count, max(1, -(-(next_fs - self.time.now_fs) // self.time.cycle_fs)))
            return self._slice(count)
        except HardwareFault as error:
            raise HardwareFault(f"{error}; firmware at {self.program.locate(self.pc)}") from error

    def _slice(self, count: int) -> Stop | None:
        self.time.begin_slice()
        before = self.emulator.accesses
        problem = self.emulator.execute(self.pc, self._until, count)
        self.pc = self.emulator.get("PC")
        self._budget -= (self.emulator.accesses - before) * _ACCESS_COST
        if self.emulator.signals.error is not None:
            raise self.emulator.signals.error
        stop = self._classify(problem, count)
        return self._give_up() if stop is None and self._budget <= 0 else stop

    def _classify(self, problem: Exception | None, count: int) -> Stop | None:
        """Why the slice ended; None where the firmware goes on."""
        signals = self.emulator.signals
        if signals.bad_access is not None:
            return self._bus_fault(signals.bad_access)
        if problem is not None or signals.interrupt is not None:
            return self._exception(problem, signals.interrupt)
        if self.pc == self._until:
            return self._reached()
        if signals.sleep_at is not None:
            self._budget -= _EARLY_COST
            return self._sleep()
        self._budget -= count
        if self._at_endless_loop():
            return self._spin()
        if not self.time.restarted:
            self.time.advance_cycles(count)
        return None

    def _reached(self) -> Stop | None:
        """Either main begins or it has returned."""
        if self._until == self._main:
            self._until = self.emulator.get("RA")
            return None
        return Stop(cause=StopCause.RETURNED, reason=f"main returned {_signed(self.emulator.get('A0'))}")

    def _exception(self, problem: Exception | None, number: int | None) -> Stop:
        if number is not None:
            self.pc -= _BEHIND
        word = self.emulator.word(self.pc)
        if word == _EBREAK or word & 0xFFFF == _SHORT_EBREAK:
            return self._stop(StopCause.BREAKPOINT, "a breakpoint instruction was executed")
        if number in _ECALL:
            return self._stop(StopCause.UNSUPPORTED, "an environment call was executed, there is nothing to serve it")
        why = f"exception {number}" if number is not None else str(problem)
        return self._stop(StopCause.UNDEFINED, f"cannot execute 0x{word:08x} ({why})")

    def _bus_fault(self, access: BadAccess) -> Stop:
        if access.kind == "fetch":
            return Stop(cause=StopCause.BUS_FAULT, reason=f"bus fault: jump to 0x{access.address:08x}, where there is "
                        f"no memory; the last call came from {self.program.locate(self.emulator.get('RA') - 4)}")
        preposition = "from" if access.kind == "read" else "to"
        what = f"{access.size}-byte {access.kind} {preposition} 0x{access.address:08x}, where there is nothing"
        what += " (null pointer)" if access.address < 0x1000 else ""
        return self._stop(StopCause.BUS_FAULT, f"bus fault: {what}")

    def _at_endless_loop(self) -> bool:
        word = self.emulator.word(self.pc)
        return word == _JUMP_TO_SELF or word & 0xFFFF == _SHORT_JUMP_TO_SELF

    def _spin(self) -> Stop | None:
        """A jump to itself: only an interrupt can end it, so let time jump as if asleep."""
        if self._line.is_raised and self._interrupt_due():
            return None
        if self.time.next_event_fs() is None or not self._interrupt_enabled():
            return self._stop(StopCause.ENDLESS_LOOP, "endless loop that no interrupt can end")
        self.time.jump()
        return None

    def _sleep(self) -> Stop | None:
        """WFI: jump through time until an enabled interrupt is pending, whether or not it may be taken."""
        self._sleeping = True
        while not (self._line.is_raised and self._external_enabled()):
            if self.time.next_event_fs() is None or not self._external_enabled():
                return self._stop(StopCause.DEADLOCK, f"sleeps and no interrupt can come ({self._why_asleep()})")
            self.time.jump()
            self._budget -= _EARLY_COST
            if self._budget <= 0:
                return self._give_up()
        self._sleeping = False
        return None

    def _why_asleep(self) -> str:
        if not self._external_enabled():
            return "the hart's external interrupt is not enabled in mie"
        return self._line.explain()

    def _give_up(self) -> Stop:
        return self._stop(StopCause.BUDGET, f"instruction budget of {self._budget_total:,} exceeded")

    # --- interrupts -----------------------------------------------------------------------------------------------

    def _external_enabled(self) -> bool:
        return bool(self.emulator.get("MIE") & _LINE_BIT)

    def _interrupt_enabled(self) -> bool:
        return bool(self.emulator.get("MSTATUS") & _MSTATUS_MIE) and self._external_enabled()

    def _interrupt_due(self) -> bool:
        return self._line.is_raised and self._interrupt_enabled()

    def _enter(self) -> None:
        """Take the external interrupt: return address, cause, interrupts off, on to the handler."""
        status = self.emulator.get("MSTATUS")
        self.emulator.set("MEPC", self.pc)
        self.emulator.set("MCAUSE", _CAUSE_EXTERNAL)
        self.emulator.set("MSTATUS", (status | _MSTATUS_MPIE | _MSTATUS_MPP) & ~_MSTATUS_MIE)
        vector = self.emulator.get("MTVEC")
        base = vector & ~3
        self.pc = base + 4 * _EXTERNAL if vector & 1 else base

    def _stop(self, cause: StopCause, reason: str) -> Stop:
        """A stop at the current place."""
        return Stop(cause=cause, reason=f"{reason} at {self.program.locate(self.pc)}")


def _signed(number: int) -> int:
    low = number & 0xFFFF_FFFF
    return low - ((low & 0x8000_0000) << 1)
