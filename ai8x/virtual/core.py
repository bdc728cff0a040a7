"""What the virtual cores share: running in slices, sleeping, the budget, and why execution ended.

An emulator knows no interrupts. So a core runs in slices; between two slices it carries out due events and takes
exceptions. What an exception is, and how it is taken, is the subclass's business. Start at `Core.step`.

Source: spec/virtual-boards.md sections 3.2, 3.5 and 4.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from ai8x.errors import HardwareFault, Source, user_error
from ai8x.virtual.clock import VirtualTime
from ai8x.virtual.elf import Program
from ai8x.virtual.emulator import BadAccess, Emulator
from ai8x.virtual.stop import Stop, StopCause

_ACCESS_COST = 50
"""What a bus access is charged to the budget, in instructions: it takes about as long to emulate."""
_EARLY_COST = 200
"""What a slice that ends early is charged; how much of it was executed is not known."""


class Core(ABC):
    """A core with a program in its memory.

    Args:
        program: what to run.
        emulator: executes the instructions.
        time: virtual time.
        budget: instructions after which the run is given up; bus accesses count for fifty.

    Raises:
        UserError: E0807 the program has no symbol main.
    """

    slice_instructions: ClassVar[int]
    """Instructions between two looks at events and interrupts."""

    def __init__(self, program: Program, emulator: Emulator, time: VirtualTime, *, budget: int) -> None:
        if "main" not in program.symbols:
            raise user_error("E0807", "the firmware has no symbol main", source=Source(file=str(program.path)),
                             help="link the firmware without stripping its symbols")
        self.program = program
        self.emulator = emulator
        self.time = time
        self.pc = 0
        """Address of the next instruction."""
        self._budget = self._budget_total = budget
        self._failure = ""  # what the firmware's own failure function was called for
        self._sleeping = False
        self._main = program.symbols["main"]
        self._until = self._main

    def run(self) -> Stop:
        """Execute until the program ends or cannot go on.

        Raises:
            HardwareFault: a peripheral refused an access; the message names the place in the firmware.
        """
        while True:
            stop = self.step(self.slice_instructions)
            if stop is not None:
                return stop

    def step(self, count: int) -> Stop | None:
        """Carry out due events, take the most urgent exception, execute up to `count` instructions.

        Raises:
            HardwareFault: as `run`.
        """
        try:
            self.time.run_due()
            if self._sleeping:
                return self._sleep()
            if self._exception_due() and (stop := self._take_exception()) is not None:
                return stop
            next_fs = self.time.next_event_fs()
            if next_fs is not None:
                count = min(count, max(1, -(-(next_fs - self.time.now_fs) // self.time.cycle_fs)))
            return self._slice(count)
        except HardwareFault as error:
            raise HardwareFault(f"{error}; firmware at {self.program.locate(self.pc)}") from error

    # --- what differs -----------------------------------------------------------------------------------------------

    @abstractmethod
    def _exception_due(self) -> bool:
        """Whether an exception is to be taken now."""

    @abstractmethod
    def _take_exception(self) -> Stop | None:
        """Go to the handler of the most urgent exception; gives a stop where that is impossible."""

    @abstractmethod
    def _end_of_slice(self, problem: str, count: int) -> Stop | None:
        """Why a slice of `count` instructions ended, with the emulator's complaint; None where it is to go on."""

    @abstractmethod
    def _is_woken(self) -> bool:
        """Whether a sleeping core goes on, be it without taking an exception."""

    @abstractmethod
    def _can_wake(self) -> bool:
        """Whether anything that is going to happen may wake the core."""

    @abstractmethod
    def _can_interrupt(self) -> bool:
        """Whether anything that is going to happen may interrupt an endless loop."""

    @abstractmethod
    def _why_asleep(self) -> str:
        """What is enabled and what the chip waits for, for the report of a deadlock."""

    @abstractmethod
    def _caller(self) -> int:
        """Address of the latest call."""

    # --- what is shared ---------------------------------------------------------------------------------------------

    def _slice(self, count: int) -> Stop | None:
        self.time.begin_slice()
        before = self.emulator.accesses
        problem = self.emulator.execute(self.pc, self._until, count)
        self.pc = self.emulator.get("PC") & ~1  # without the Thumb bit
        self._budget -= (self.emulator.accesses - before) * _ACCESS_COST
        if self.emulator.signals.error is not None:
            raise self.emulator.signals.error
        stop = self._end_of_slice(problem, count)
        return self._give_up() if stop is None and self._budget <= 0 else stop

    def _charge_early_end(self) -> None:
        """The slice ended before all its instructions were executed."""
        self._budget -= _EARLY_COST

    def _charge_slice(self, count: int, *, passes_time: bool) -> None:
        """All instructions of the slice were executed."""
        self._budget -= count
        if passes_time and not self.time.restarted:
            self.time.advance_cycles(count)

    def _reached(self, return_address: str, result: str) -> Stop | None:
        """The end of the slice's way: either main begins or it has returned; with the registers that tell."""
        if self._until == self._main:
            self._until = self.emulator.get(return_address) & ~1
            return None
        return Stop(cause=StopCause.RETURNED, reason=f"main returned {signed(self.emulator.get(result))}")

    def _sleep(self) -> Stop | None:
        """Jump through time until something wakes the core."""
        self._sleeping = True
        while not self._is_woken():
            if not self._can_wake():
                return self._stop(StopCause.DEADLOCK, f"sleeps and no interrupt can come ({self._why_asleep()})")
            self.time.jump()
            self._charge_early_end()
            if self._budget <= 0:
                return self._give_up()
        self._sleeping = False
        return None

    def _spin(self) -> Stop | None:
        """A branch to itself: only an interrupt can end it, so let time jump as if asleep."""
        if self._exception_due():
            return None
        if not self._can_interrupt():
            why = f"{self._failure}; endless loop" if self._failure else "endless loop that no interrupt can end"
            return self._stop(StopCause.ENDLESS_LOOP, why)
        self.time.jump()
        return None

    def _give_up(self) -> Stop:
        why = f"{self._failure}; it did not end" if self._failure else ""
        return self._stop(StopCause.BUDGET, why or f"instruction budget of {self._budget_total:,} exceeded")

    def _bus_fault(self, access: BadAccess) -> Stop:
        if access.kind == "fetch":
            return Stop(cause=StopCause.BUS_FAULT, reason=f"bus fault: jump to 0x{access.address:08x}, where there is "
                        f"no memory; the last call came from {self.program.locate(self._caller())}")
        return self._stop(StopCause.BUS_FAULT, f"bus fault: {access}")

    def _stop(self, cause: StopCause, reason: str) -> Stop:
        """A stop at the current place."""
        return Stop(cause=cause, reason=f"{reason} at {self.program.locate(self.pc)}")


def signed(number: int) -> int:
    """The low 32 bits as a C ``int``."""
    low = number & 0xFFFF_FFFF
    return low - ((low & 0x8000_0000) << 1)
