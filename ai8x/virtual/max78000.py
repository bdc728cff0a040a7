"""A virtual MAX78000 board: runs a firmware file against an accelerator simulator.

Owns the chip around the core: memory map, peripherals, and the life of an accelerator run (start bit, input,
completion, interrupt). Sees the accelerator only through `ai8x.virtual.bus.Accelerator`. Start at `run_firmware`.

Source: spec/virtual-boards.md section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ai8x.max7800x.cycles import SILICON_OVERHEAD_NS
from ai8x.virtual.bus import Accelerator, BusStatistics, BusWriteObserver, PeripheralBus, RegisterFile
from ai8x.virtual.clock import SECOND_FS, Event, VirtualTime
from ai8x.virtual.cortex_m import CortexM
from ai8x.virtual.elf import read_program
from ai8x.virtual.emulator import Memory
from ai8x.virtual.nvic import FIRST_IRQ, SystemControl
from ai8x.virtual.peripherals import (
    GCR_BASE,
    ISO_HZ,
    LPGCR_BASE,
    CacheControl,
    ClockTree,
    GlobalControl,
    Gpio,
    LowPowerControl,
    PowerFunction,
    Timer,
    Uart,
)
from ai8x.virtual.stop import RunResult, Stop, console_text

DEFAULT_BUDGET = 500_000_000
"""Instructions a firmware may execute; about ten seconds of this computer."""

FLASH = Memory(name="flash", base=0x1000_0000, size=0x8_0000, writable=False)
INFORMATION_BLOCK = Memory(name="information block", base=0x1080_0000, size=0x4000, writable=False)
SRAM = Memory(name="SRAM", base=0x2000_0000, size=0x2_0000, writable=True)

CNN_IRQ = 101
_NUM_IRQS = 104
_CNN_BASE, _CNN_SIZE = 0x5000_0000, 0x140_0000
_CNN_FIRST_QUADRANT = 0x10_0000
_CNN_QUADRANT_MASK = 0x3F_FFFF
_CNN_FIFO_STATUS = 0x5000_0004
_CNN_FIFO_DATA = range(0x5000_0008, 0x5000_0018)
_FAST_FIFO_BASE, _FAST_FIFO_SIZE = 0x400C_0000, 0x1000
_FAST_FIFO_STATUS, _FAST_FIFO_DATA = 0x400C_0404, 0x400C_0410
_POLLED = (_CNN_FIFO_STATUS, _FAST_FIFO_STATUS)
_APB_BASE, _APB_SIZE = 0x4000_0000, 0xC_0000
_BLOCK_BITS = 10  # peripherals start at multiples of 1 KiB
_TIMER_IRQS = {0x4001_0000: 5, 0x4001_1000: 6, 0x4001_2000: 7, 0x4001_3000: 8,
               0x4008_0C00: 9, 0x4008_1000: 10}  # all but the first UNVERIFIED
_UARTS = (0x4004_2000, 0x4004_3000, 0x4004_4000, 0x4008_1400)
_GPIOS = (0x4000_8000, 0x4000_9000, 0x4008_0400)
_STORAGE = {0x4000_0400: "SIR", 0x4000_4400: "SIMO", 0x4000_6800: "PWRSEQ", 0x4000_0800: "FCR"}
_GCFR_BASE, _ICC_BASE = 0x4000_5800, 0x4002_A000

_NANOSECOND_FS = SECOND_FS // 10**9
_COUNTED_OVERHEAD_NS = 300
"""Of the silicon overhead: the bus accesses between stopwatch and start bit and in the interrupt handler."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareResult(RunResult):
    """What a firmware did.

    Args:
        statistics: bus counters.
    """

    statistics: BusStatistics

    @property
    def cnn_time_us(self) -> int | None:
        """The inference time that the firmware measured, microseconds; None where it printed none."""
        return self.inference_us


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long an inference takes.

    Args:
        cycles: gives the CNN clocks of a run; called when the run starts.
        overhead_ns: what start, interrupt entry and stopwatch add on silicon, beyond what the board counts itself.
    """

    cycles: Callable[[], int]
    overhead_ns: int = SILICON_OVERHEAD_NS - _COUNTED_OVERHEAD_NS


class AcceleratorPort:
    """Connects the accelerator to bus, clock and interrupt controller.

    A run completes ``latency_cycles()`` CNN clocks and the overhead after its start bit is set, and not before all its
    input has arrived (spec/max78000-cnn.md section 8.1); clearing the start bit before cancels it.

    Args:
        accelerator: the simulator.
        time: virtual time.
        latency: what a run takes.
        clocks: gives the present frequencies.
        complete: called when a run has completed, to raise the interrupt.
        observer: told of every write.
    """

    def __init__(self, accelerator: Accelerator, time: VirtualTime, *, latency: Latency,
                 clocks: Callable[[], ClockTree], complete: Callable[[], None],
                 observer: BusWriteObserver | None) -> None:
        self.accelerator = accelerator
        self.writes = 0
        self.reads = 0
        self.fifo_words = 0
        self.inferences = 0
        self._time = time
        self._latency = latency
        self._clocks = clocks
        self._complete = complete
        self._observer = observer
        self._running: Event | None = None
        self._run_hz = 1
        self._started_fs: int | None = None

    def read(self, address: int, size: int) -> int:
        """Bus read; waiting for room in the FIFO lets time pass."""
        self.reads += 1
        if address in _POLLED or self._is_control(address):
            self._time.poll()
        return self.accelerator.read(address, size)

    def peek(self, address: int, size: int) -> int:
        """Debugger read."""
        return self.accelerator.peek(address, size)

    def write(self, address: int, size: int, value: int) -> None:
        """Bus write."""
        self.writes += 1
        if self._observer is not None:
            self._observer(address, size, value)
        self.accelerator.write(address, size, value)
        if address in _CNN_FIFO_DATA or address == _FAST_FIFO_DATA:
            self.fifo_words += 1
            self._follow()
        elif self._is_control(address):
            self._follow()

    def power(self, address: int, value: int) -> None:
        """A power, reset or clock register was written."""
        self.accelerator.power(address, value)
        self._follow()

    def clock_changed(self) -> None:
        """A run in progress goes on at the new frequency."""
        if self._running is not None:
            cycles = -(-(self._running.time_fs - self._time.now_fs) * self._run_hz // SECOND_FS)
            self._time.cancel(self._running)
            self._schedule(max(0, cycles), self._time.now_fs)

    def explain_wait(self) -> str:
        """What the accelerator is waiting for, for the report of a deadlock."""
        if self._running is not None:
            return f"the accelerator is running, its interrupt {CNN_IRQ} is not enabled"
        if self.accelerator.run_requested:
            return "the accelerator was started and waits for more input words in its FIFO"
        return "" if self.inferences else "the accelerator was not started"

    @staticmethod
    def _is_control(address: int) -> bool:
        """Whether it is a quadrant's control register, where runs start and end."""
        return (address - _CNN_BASE) & _CNN_QUADRANT_MASK & ~3 == _CNN_FIRST_QUADRANT

    def _follow(self) -> None:
        """Start or cancel the run as the accelerator's state demands."""
        if not self.accelerator.run_requested:
            self._started_fs = None
            if self._running is not None:
                self._time.cancel(self._running)
                self._running = None
            return
        if self._started_fs is None:
            self._started_fs = self._time.now_fs
            self._time.restarted = True
        if self._running is None and self.accelerator.input_complete:
            self._schedule(self._latency.cycles(), self._started_fs + self._latency.overhead_ns * _NANOSECOND_FS)

    def _schedule(self, cycles: int, from_fs: int) -> None:
        self._run_hz = self._clocks().cnn_hz
        end_fs = from_fs - (-cycles * SECOND_FS // self._run_hz)
        self._running = self._time.schedule(end_fs - self._time.now_fs, self._finish, exception=FIRST_IRQ + CNN_IRQ)

    def _finish(self) -> None:
        self._running = None
        self._started_fs = None
        self.inferences += 1
        self.accelerator.complete()
        self._complete()


class Max78000:
    """The chip with a program in its flash.

    Args:
        elf_path: firmware file.
        accelerator: the CNN accelerator.
        latency: what a run takes.
        on_bus_write: told of every write to the accelerator.
        budget: instructions it may execute.
        seed: of the arbitrary RAM content before the start.
    """

    def __init__(self, elf_path: Path, accelerator: Accelerator, latency: Latency, *,
                 on_bus_write: BusWriteObserver | None = None, budget: int = DEFAULT_BUDGET, seed: int = 0) -> None:
        self._console = bytearray()
        self.time = VirtualTime(ISO_HZ)
        self.system = SystemControl(self.time, num_irqs=_NUM_IRQS, vectors=FLASH.base)
        self.core = CortexM(read_program(elf_path), (FLASH, SRAM, INFORMATION_BLOCK), self.time, self.system,
                            budget=budget, seed=seed)
        self._gcr = GlobalControl(on_power=self._power, on_clocks=self._clocks_changed)
        self._port = AcceleratorPort(accelerator, self.time, latency=latency, clocks=self._gcr.clocks,
                                     complete=lambda: self.system.pend(FIRST_IRQ + CNN_IRQ), observer=on_bus_write)
        self._timers = tuple(Timer(base, self.time, self._gcr.clocks, exception=FIRST_IRQ + irq, pend=self.system.pend)
                             for base, irq in _TIMER_IRQS.items())
        self._bus = self._peripherals()
        self.core.explain_wait = self._port.explain_wait
        self.core.map_device(_APB_BASE, _APB_SIZE, self._bus)
        self.core.map_device(_FAST_FIFO_BASE, _FAST_FIFO_SIZE, self._port)
        self.core.map_device(_CNN_BASE, _CNN_SIZE, self._port)

    @property
    def console(self) -> str:
        """What the firmware has printed so far."""
        return console_text(self._console)

    def run(self) -> FirmwareResult:
        """Execute until the firmware ends or cannot go on.

        Raises:
            HardwareFault: the accelerator refused an access.
        """
        return self.result(self.core.run())

    def result(self, stop: Stop) -> FirmwareResult:
        """The result of a run that ended so."""
        return FirmwareResult(
            console=self.console, cause=stop.cause, stop_reason=stop.reason, time_us=self.time.now_fs / 1e9,
            statistics=BusStatistics(
                accelerator_writes=self._port.writes, accelerator_reads=self._port.reads,
                fifo_words=self._port.fifo_words, inferences=self._port.inferences,
                peripheral_accesses=self._bus.accesses, unknown_addresses=tuple(sorted(self._bus.unknown))))

    def _peripherals(self) -> PeripheralBus:
        bus = PeripheralBus(_APB_BASE, block_bits=_BLOCK_BITS)
        bus.attach(GCR_BASE, self._gcr)
        bus.attach(LPGCR_BASE, LowPowerControl())
        bus.attach(_GCFR_BASE, PowerFunction(_GCFR_BASE, self._power))
        bus.attach(_ICC_BASE, CacheControl(_ICC_BASE), size=0x1000)
        for base in _STORAGE:
            bus.attach(base, RegisterFile(base))
        for base in _UARTS:
            bus.attach(base, Uart(base, self._console.append))
        for base in _GPIOS:
            bus.attach(base, Gpio(base))
        for timer in self._timers:
            bus.attach(timer.base, timer)
        return bus

    def _power(self, address: int, value: int) -> None:
        self._port.power(address, value)

    def _clocks_changed(self, clocks: ClockTree) -> None:
        self.system.set_clock(clocks.sysclk_hz)
        for timer in self._timers:
            timer.clock_changed()
        self._port.clock_changed()


def run_firmware(elf_path: Path, accelerator: Accelerator, latency: Callable[[], int] | Latency, *,
                 on_bus_write: BusWriteObserver | None = None, budget: int = DEFAULT_BUDGET,
                 seed: int = 0) -> FirmwareResult:
    """Run a firmware file on a virtual board.

    Args:
        elf_path: the linked firmware; stand-alone builds and MSDK builds alike.
        accelerator: the simulator behind the CNN's addresses.
        latency: gives the CNN clocks an inference takes, called at each start; or that together with the overhead.
        on_bus_write: called with (address, size, value) for every write to the accelerator.
        budget: instructions after which the run is given up; a bus access counts for fifty.
        seed: of the arbitrary content of RAM before the start.

    Returns:
        Console, verdict and counters; also when the firmware crashed, hung or failed.

    Raises:
        HardwareFault: the accelerator refused an access; the message names the firmware's function.
        UserError: E0801 Unicorn or pyelftools is missing; E0806 to E0808 the file cannot be run.
    """
    if not isinstance(latency, Latency):
        latency = Latency(cycles=latency)
    board = Max78000(elf_path, accelerator, latency, on_bus_write=on_bus_write, budget=budget, seed=seed)
    return board.run()
