"""What sits on the bus of a virtual board: the interfaces, and the counters of what passed over it.

A board sees an accelerator only through `Accelerator`; the simulators implement it without importing anything from
here. Peripherals implement `BusDevice`. Neither interface knows about the CPU emulator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

WORD_MASK = 0xFFFF_FFFF
"""All bits of a bus word."""

BusWriteObserver = Callable[[int, int, int], None]
"""Called with (address, size in bytes, value) for every write to the accelerator, in order, before it takes effect."""


class BusDevice(Protocol):
    """A peripheral; addresses are absolute, sizes are 1, 2 or 4 bytes."""

    def read(self, address: int, size: int) -> int:
        """Value of a read, with the side effects that a read has."""

    def write(self, address: int, size: int, value: int) -> None:
        """Effect of a write."""

    def peek(self, address: int, size: int) -> int:
        """What a debugger sees: the value without side effects."""


class Accelerator(Protocol):
    """The CNN accelerator as its board sees it.

    Illegal programming raises `ai8x.errors.HardwareFault` from any of these.
    """

    def read(self, address: int, size: int) -> int:
        """Value of a bus read, with its side effects."""

    def write(self, address: int, size: int, value: int) -> None:
        """Effect of a bus write."""

    def peek(self, address: int, size: int) -> int:
        """Value without side effects."""

    def power(self, address: int, value: int) -> None:
        """A register outside the accelerator that powers, resets or clocks it was written."""

    @property
    def run_requested(self) -> bool:
        """The start bit is set and the run it asked for has not completed."""

    @property
    def input_complete(self) -> bool:
        """Everything the run needs has arrived; False while words are missing in the input FIFO."""

    def complete(self) -> None:
        """Carry out the run: fill the memories, set the completion flag."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusStatistics:
    """What the firmware did on the bus.

    Args:
        accelerator_writes: writes to the accelerator, FIFO words included.
        accelerator_reads: reads from it.
        fifo_words: words written to its input FIFOs.
        inferences: completed runs.
        peripheral_accesses: reads and writes of the other peripherals.
        unknown_addresses: addresses accessed that belong to no modelled peripheral, ascending; they act as storage.
    """

    accelerator_writes: int
    accelerator_reads: int
    fifo_words: int
    inferences: int
    peripheral_accesses: int
    unknown_addresses: tuple[int, ...]


def merge_bytes(word: int, address: int, size: int, value: int) -> int:
    """The word after a write of ``size`` bytes to ``address``, which lies within it."""
    if size == 4:
        return value & WORD_MASK
    shift = 8 * (address & 3)
    mask = ((1 << (8 * size)) - 1) << shift
    return ((word & ~mask) | ((value << shift) & mask)) & WORD_MASK


def extract_bytes(word: int, address: int, size: int) -> int:
    """The ``size`` bytes at ``address`` of the word that holds it."""
    if size == 4:
        return word & WORD_MASK
    return (word >> (8 * (address & 3))) & ((1 << (8 * size)) - 1)


class PeripheralBus:
    """Finds the peripheral of an address; what belongs to none is storage and is noted.

    Args:
        base: first address.
        block_bits: peripherals occupy whole blocks of this size, as a power of two in bytes.
    """

    def __init__(self, base: int, *, block_bits: int) -> None:
        self.accesses = 0
        self.unknown: set[int] = set()
        self._block_bits = block_bits
        self._devices: dict[int, BusDevice] = {}
        self._storage = RegisterFile(base)

    def attach(self, base: int, device: BusDevice, *, size: int | None = None) -> None:
        """Place a peripheral; one block where no size is given."""
        end = base + (size or 1 << self._block_bits)
        for block in range(base >> self._block_bits, end >> self._block_bits):
            self._devices[block] = device

    def read(self, address: int, size: int) -> int:
        """Bus read."""
        return self._device(address).read(address, size)

    def write(self, address: int, size: int, value: int) -> None:
        """Bus write."""
        self._device(address).write(address, size, value)

    def peek(self, address: int, size: int) -> int:
        """Debugger read."""
        return self._devices.get(address >> self._block_bits, self._storage).peek(address, size)

    def _device(self, address: int) -> BusDevice:
        self.accesses += 1
        device = self._devices.get(address >> self._block_bits)
        if device is None:
            self.unknown.add(address)
            return self._storage
        return device


class RegisterFile:
    """Word registers that behave as storage; a peripheral overrides what its registers do.

    Narrow accesses are widened here, so that subclasses only see whole words and offsets from ``base``.
    """

    def __init__(self, base: int, reset: dict[int, int] | None = None) -> None:
        self.base = base
        self.words: dict[int, int] = dict(reset or {})

    def read(self, address: int, size: int) -> int:
        """Bus read."""
        return extract_bytes(self.read_word((address & ~3) - self.base), address, size)

    def write(self, address: int, size: int, value: int) -> None:
        """Bus write."""
        offset = (address & ~3) - self.base
        if size != 4:
            value = merge_bytes(self.words.get(offset, 0), address, size, value)
        self.write_word(offset, value & WORD_MASK)

    def peek(self, address: int, size: int) -> int:
        """Debugger read."""
        return extract_bytes(self.peek_word((address & ~3) - self.base), address, size)

    def read_word(self, offset: int) -> int:
        """Value of a register read; may have side effects."""
        return self.peek_word(offset)

    def peek_word(self, offset: int) -> int:
        """Value of a register without side effects."""
        return self.words.get(offset, 0)

    def write_word(self, offset: int, value: int) -> None:
        """Effect of a register write."""
        self.words[offset] = value
