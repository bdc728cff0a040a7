"""The bus side of the input FIFOs.

Owns the words that arrive, the status bits and the back-pressure. Where the words go is decided by the run. Start
reading at `Fifos` and `FastFifo`.

Source: spec/max78000-cnn.md sections 2.1 and 5.4.
"""

from __future__ import annotations

from ai8x.errors import HardwareFault
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.simulator_registers import register_fault
from ai8x.registers import Access, Register, RegisterBlock

_GEOMETRY = MAX78000.geometry


class _Queue:
    """One FIFO: everything that arrived for the current run.

    The accelerator takes words away at once; `level` models back-pressure where a depth is given: it falls by one
    each time that the status is read.
    """

    def __init__(self, depth: int | None) -> None:
        self._depth = depth
        self._wanted = 0
        self._level = 0
        self.words: list[int] = []

    def open(self, wanted: int) -> None:
        """Begin a run that takes so many words."""
        self._wanted, self._level, self.words = wanted, 0, []

    def close(self) -> None:
        """End the run."""
        self._wanted = self._level = 0

    @property
    def missing(self) -> int:
        """Words still to come."""
        return max(0, self._wanted - len(self.words))

    @property
    def is_full(self) -> bool:
        """No word is accepted now."""
        return not self.missing or (self._depth is not None and self._level >= self._depth)

    def drain(self) -> None:
        """Time passes: the accelerator takes a word."""
        self._level = max(0, self._level - 1)

    def push(self, value: int, place: str) -> None:
        """A bus write of one word.

        Raises:
            HardwareFault: the FIFO is full, or the frame is complete, or no run takes words.
        """
        if not self._wanted:
            raise HardwareFault(f"{place}: no run is taking words from it")
        if self.is_full:
            what = (
                "is full; poll the status first"
                if self.missing
                else f"got more than the {self._wanted} words of a frame"
            )
            raise HardwareFault(f"{place}: {what}")
        self._level += 1
        self.words.append(value)


def _find(block: RegisterBlock, base: int, address: int) -> tuple[Register, int]:
    place = block.by_offset().get(address - base)
    if place is None:
        raise HardwareFault(f"address {address:#010x}: no register of {block.name} is there")
    return place


def _check(register: Register, address: int, value: int) -> None:
    if register.access is Access.RO or value & ~register.mask:
        what = "is read only" if register.access is Access.RO else f"value {value:#x} sets reserved bits"
        raise register_fault(register.name, what, address=address)


class Fifos:
    """The four FIFOs on the peripheral bus."""

    def __init__(self, depth: int | None) -> None:
        self._queues = [_Queue(depth) for _ in range(_GEOMETRY.num_fifos)]
        self._places = {_GEOMETRY.fifo_data_address(f): f for f in range(_GEOMETRY.num_fifos)}
        self._control = 0

    def open(self, fifos: tuple[int, ...], words: int) -> None:
        """Begin a run.

        Raises:
            HardwareFault: FIFO_CTRL does not enable exactly these FIFOs in the simulated mode.
        """
        enable = sum(1 << f for f in fifos)
        wanted = MAX78000.fifo_setting | MAX78000.fifo.register("FIFO_CTRL").encode(enable=enable)
        if self._control != wanted:
            raise register_fault(
                "FIFO_CTRL", f"started with {self._control:#x}, expected {wanted:#x}", address=_GEOMETRY.fifo_base
            )
        for f in fifos:
            self._queues[f].open(words)

    def close(self) -> None:
        """End a run."""
        for queue in self._queues:
            queue.close()

    @property
    def is_complete(self) -> bool:
        """Nothing is missing."""
        return not any(queue.missing for queue in self._queues)

    def missing(self) -> str:
        """What is still to come, for a message; empty when nothing is."""
        return ", ".join(
            f"FIFO {f} lacks {queue.missing} words" for f, queue in enumerate(self._queues) if queue.missing
        )

    def words(self) -> dict[int, list[int]]:
        """Words of the current or latest run by FIFO."""
        return {f: queue.words for f, queue in enumerate(self._queues)}

    def drain(self) -> None:
        """Time passes."""
        for queue in self._queues:
            queue.drain()

    def read(self, offset: int) -> int:
        """Control or status."""
        address = _GEOMETRY.fifo_base + offset
        register, _ = _find(MAX78000.fifo, _GEOMETRY.fifo_base, address)
        if register.access is Access.WO:
            raise register_fault(register.name, "is write only", address=address)
        if register.name == "FIFO_CTRL":
            return self._control
        full = sum(1 << f for f, queue in enumerate(self._queues) if queue.is_full)
        return register.encode(full=full, empty=~full & ((1 << len(self._queues)) - 1))

    def write(self, offset: int, value: int, *, running: bool) -> None:
        """Control or a data word.

        Raises:
            HardwareFault: control written during a run, reserved bits, or a word that the FIFO does not take.
        """
        address = _GEOMETRY.fifo_base + offset
        if address in self._places:
            f = self._places[address]
            self._queues[f].push(value, f"FIFO {f} ({address:#010x})")
            return
        register, _ = _find(MAX78000.fifo, _GEOMETRY.fifo_base, address)
        _check(register, address, value)
        if running:
            raise register_fault(register.name, "write while the accelerator is running", address=address)
        self._control = value


class FastFifo:
    """The FIFO of the RISC-V core."""

    def __init__(self, depth: int | None) -> None:
        self._queue = _Queue(depth)
        self._values: dict[str, int] = {}

    def open(self, words: int) -> None:
        """Begin a run.

        Raises:
            HardwareFault: the control registers hold something that is not simulated.
        """
        wanted = {"FAST_FIFO_CR": MAX78000.fast_fifo_setting, "FAST_FIFO_IE": 0, "FAST_FIFO_DMA": 0}
        for name, value in wanted.items():
            if self._values.get(name, 0) != value:
                address = _GEOMETRY.fast_fifo_base + MAX78000.fast_fifo.register(name).offset
                raise register_fault(
                    name, f"started with {self._values.get(name, 0):#x}, expected {value:#x}", address=address
                )
        self._queue.open(words)

    def close(self) -> None:
        """End a run."""
        self._queue.close()

    @property
    def is_complete(self) -> bool:
        """Nothing is missing."""
        return not self._queue.missing

    def missing(self) -> str:
        """What is still to come, for a message; empty when nothing is."""
        return f"the fast FIFO lacks {self._queue.missing} words" if self._queue.missing else ""

    def words(self) -> dict[int, list[int]]:
        """Words of the current or latest run, as FIFO 0."""
        return {0: self._queue.words}

    def drain(self) -> None:
        """Time passes."""
        self._queue.drain()

    def read(self, address: int) -> int:
        """Control or status."""
        register, _ = _find(MAX78000.fast_fifo, _GEOMETRY.fast_fifo_base, address)
        if register.access is Access.WO:
            raise register_fault(register.name, "is write only", address=address)
        if register.name == "FAST_FIFO_SR":
            return register.encode(full=int(self._queue.is_full))
        return self._values.get(register.name, 0)

    def write(self, address: int, value: int, *, running: bool) -> None:
        """Control or a data word.

        Raises:
            HardwareFault: control written during a run, reserved bits, or a word that the FIFO does not take.
        """
        register, _ = _find(MAX78000.fast_fifo, _GEOMETRY.fast_fifo_base, address)
        if register.name == "FAST_FIFO_DR":
            self._queue.push(value, f"FAST_FIFO_DR ({address:#010x})")
            return
        _check(register, address, value)
        if running:
            raise register_fault(register.name, "write while the accelerator is running", address=address)
        self._values[register.name] = value
