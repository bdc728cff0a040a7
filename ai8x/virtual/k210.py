"""A virtual K210 board: hart 0 executes the firmware, the KPU simulator executes its layers.

Hart 1 is not modelled: it would only sleep. Cached and uncached addresses show the same bytes, so errors in handling
the caches cannot be found here, except that KPU and DMA accept uncached addresses only. Start at `run_k210_firmware`.

Source: spec/virtual-boards.md section 4; spec/k210-kmodel.md sections 1, 10 and 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import HardwareFault, Source, user_error
from ai8x.k210 import timing
from ai8x.k210.device import K210, UNCACHED_OFFSET, arbitrary_bytes, decode_layer_argument
from ai8x.k210.simulator import Kpu
from ai8x.registers import RegisterError
from ai8x.virtual.bus import PeripheralBus, RegisterFile
from ai8x.virtual.clock import VirtualTime
from ai8x.virtual.elf import Program, read_program
from ai8x.virtual.emulator import RiscvEmulator
from ai8x.virtual.k210_kpu import DmaController, KpuPort, KpuResult, LayerTime, SystemMemory
from ai8x.virtual.k210_peripherals import CRYSTAL_HZ, CoreTimer, Plic, SystemControl, Uarths
from ai8x.virtual.riscv import RiscvHart
from ai8x.virtual.stop import RunResult, Stop, console_text

MACHINE = "EM_RISCV"
"""What firmware files are for, in ELF terms."""

DEFAULT_BUDGET = 1_000_000_000
"""Instructions a firmware may execute; about twenty seconds of this computer."""

_CLINT, _PLIC, _UARTHS, _DMAC, _SYSCTL = 0x0200_0000, 0x0C00_0000, 0x3800_0000, 0x5000_0000, 0x5044_0000
_FPIOA = 0x502B_0000
_PERIPHERALS, _PERIPHERALS_SIZE = 0x5000_0000, 0x0400_0000
_PAGE_BITS = 12
_FIFO = 0x30


@dataclass(frozen=True, slots=True, kw_only=True)
class K210FirmwareResult(RunResult):
    """What a firmware did.

    KPU layers take what the model of spec/k210-kmodel.md section 16 says.

    Args:
        layers: the dense uint8 (C, H, W) result of every KPU layer, in order.
        bus_accesses: reads and writes of peripherals.
        unknown_addresses: addresses accessed that belong to no modelled peripheral, ascending; they act as storage.
    """

    layers: tuple[NDArray[np.uint8], ...]
    bus_accesses: int
    unknown_addresses: tuple[int, ...]


class K210Board:
    """The chip with a program in its RAM.

    Args:
        elf_path: firmware file.
        budget: instructions it may execute.
        seed: of the arbitrary content of both RAMs before the start.

    Raises:
        UserError: E0801 Unicorn or pyelftools is missing; E0806 to E0808 the file cannot be run.
    """

    def __init__(self, elf_path: Path, *, budget: int = DEFAULT_BUDGET, seed: int = 0) -> None:
        memory = K210.memory
        program = read_program(elf_path, machine=MACHINE)
        self._console = bytearray()
        self.time = VirtualTime(CRYSTAL_HZ)
        self._ram = arbitrary_bytes(memory.general_bytes + memory.kpu_bytes, seed)
        _load(program, self._ram[: memory.general_bytes])
        self._kpu = Kpu(ram=self._ram[memory.general_bytes :], track_undefined=False)
        self._bus_memory = SystemMemory(self._ram, memory.general_address - UNCACHED_OFFSET)
        self._timer = CoreTimer(_CLINT, self.time)
        self._sysctl = SystemControl(_SYSCTL, self._clock_changed)
        self._plic = Plic(_PLIC)
        self._dma = DmaController(_DMAC, self.time, self._bus_memory, self._plic,
                                  fifo_address=memory.kpu_registers + _FIFO,
                                  bytes_per_s=K210.latency.input_bytes_per_s)
        layer_time = LayerTime(seconds=_layer_seconds, clock_hz=lambda: self._sysctl.kpu_hz)
        self.kpu = KpuPort(memory.kpu_registers, self.time, self._run_layer, layer_time, plic=self._plic,
                           dma=self._dma)
        self._plic.explain_wait = self.kpu.explain_wait
        self._bus = PeripheralBus(_PERIPHERALS, block_bits=_PAGE_BITS)
        self._emulator = self._wire()
        self.hart = RiscvHart(program, self._emulator, self.time, external=self._plic, timer=self._timer,
                              budget=budget)

    @property
    def console(self) -> str:
        """What the firmware has printed so far."""
        return console_text(self._console)

    def memory(self, address: int, size: int) -> NDArray[np.uint8]:
        """General RAM as a debugger sees it, to be read or written.

        Args:
            address: cached address of the first byte.
            size: bytes.
        """
        first = address - K210.memory.general_address
        if not 0 <= first <= K210.memory.general_bytes - size:
            raise ValueError(f"{size} bytes at {address:#010x} are not in general RAM")
        return self._ram[first : first + size]

    def run(self) -> K210FirmwareResult:
        """Execute until the firmware ends or cannot go on.

        Raises:
            HardwareFault: the KPU or the DMA refused what the firmware wants.
        """
        return self.result(self.hart.run())

    def result(self, stop: Stop) -> K210FirmwareResult:
        """The result of a run that ended so."""
        return K210FirmwareResult(
            console=self.console, cause=stop.cause, stop_reason=stop.reason, time_us=self.time.now_fs / 1e9,
            layers=tuple(self.kpu.outputs), bus_accesses=self._emulator.accesses,
            unknown_addresses=tuple(sorted(self._bus.unknown)))

    def _wire(self) -> RiscvEmulator:
        emulator = RiscvEmulator(self.time)
        cached = K210.memory.general_address
        for base in (cached, cached - UNCACHED_OFFSET):
            emulator.map_memory(self._ram, base)
        self._bus.attach(_DMAC, self._dma)
        self._bus.attach(_SYSCTL, self._sysctl)
        self._bus.attach(_FPIOA, RegisterFile(_FPIOA))
        emulator.map_device(_PERIPHERALS, _PERIPHERALS_SIZE, self._bus)
        for device in (self._timer, self._plic, self.kpu, Uarths(_UARTHS, self._console.append)):
            emulator.map_device(device.base, device.SIZE, device)
        return emulator

    def _clock_changed(self, cpu_hz: int) -> None:
        self.time.set_hz(cpu_hz)
        self._timer.set_clock(cpu_hz)

    def _run_layer(self, words: Sequence[int], eight_bit: bool, name: str) -> KpuResult:
        return self._kpu.run_layer(words, self._bus_memory.fetch, eight_bit=eight_bit, layer=name)


def run_k210_firmware(elf_path: Path, *, budget: int = DEFAULT_BUDGET, seed: int = 0) -> K210FirmwareResult:
    """Run a firmware file on a virtual board.

    Args:
        elf_path: the linked firmware.
        budget: instructions after which the run is given up; a bus access counts for fifty.
        seed: of the arbitrary content of RAM before the start.

    Returns:
        Console, verdict and the result of every KPU layer; also when the firmware crashed, hung or failed.

    Raises:
        HardwareFault: the KPU or the DMA refused what the firmware wants; the message names the firmware's function.
        UserError: E0801 Unicorn or pyelftools is missing; E0806 to E0808 the file cannot be run.
    """
    return K210Board(elf_path, budget=budget, seed=seed).run()


def _load(program: Program, general: NDArray[np.uint8]) -> None:
    """Place the program in general RAM, as the boot ROM does."""
    base = K210.memory.general_address
    for segment in program.segments:
        offset = segment.address - base
        if not 0 <= offset <= general.size - len(segment.data):
            raise user_error("E0808", "the program lies outside the chip's memories",
                             source=Source(file=str(program.path)),
                             found=f"0x{segment.address:08x} to 0x{segment.address + len(segment.data) - 1:08x}",
                             allowed=f"general RAM 0x{base:08x} to 0x{base + general.size - 1:08x}")
        general[offset : offset + len(segment.data)] = np.frombuffer(segment.data, np.uint8)


def _layer_seconds(words: Sequence[int], clock_hz: int, eight_bit: bool) -> float:
    """Time of a layer from its words.

    Raises:
        HardwareFault: a reserved bit is set.
    """
    try:
        fields = decode_layer_argument(words)
    except RegisterError as error:
        raise HardwareFault(f"KPU: {error}") from error
    return timing.kpu_time_s(fields, to_main_memory=bool(fields["send_data_out"]), eight_bit=eight_bit,
                             clock_hz=clock_hz)
