"""The KPU and the DMA controller as bus devices of the K210 board.

Only what the vendor's step driver and our own runner use is modelled; what would need more raises `HardwareFault`.
Start at `KpuPort` and `DmaController`.

Source: spec/k210-kmodel.md sections 1.1 and 10; spec/virtual-boards.md section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import HardwareFault
from ai8x.virtual.clock import SECOND_FS, VirtualTime
from ai8x.virtual.k210_peripherals import Plic, WideRegisterFile

KPU_IRQ = 25
DMA_IRQ = 27
"""Of channel 0; the others follow."""
NUM_CHANNELS = 6

_CALC_DONE = 1


class SystemMemory:
    """General RAM and KPU RAM as bus masters other than the CPU see them: at uncached addresses.

    Args:
        memory: all bytes.
        base: first address.
    """

    def __init__(self, memory: NDArray[np.uint8], base: int) -> None:
        self._memory = memory
        self._base = base

    def fetch(self, address: int, size: int) -> bytes:
        """Bytes of memory.

        Raises:
            HardwareFault: there is no memory, or it is seen through the caches.
        """
        return self.view(address, size, "read").tobytes()

    def view(self, address: int, size: int, what: str) -> NDArray[np.uint8]:
        """The bytes themselves. Raises as `fetch`."""
        offset = address - self._base
        if not 0 <= offset <= self._memory.size - size:
            raise HardwareFault(f"{what} of {size} bytes at {address:#010x}: KPU and DMA use uncached addresses, "
                                f"{self._base:#010x} to {self._base + self._memory.size - 1:#010x}")
        return self._memory[offset : offset + size]


class DmaController(WideRegisterFile):
    """Six channels; memory to memory, and from the KPU's output FIFO to memory.

    Args:
        base: first address.
        time: virtual time.
        memory: where channels read and write.
        plic: receives the channels' interrupts.
        fifo_address: address of the KPU's output FIFO.
        bytes_per_s: rate of memory-to-memory transfers.
    """

    SIZE = 0x1000
    _ENABLE, _RESET, _CHANNELS = 0x18, 0x58, 0x100
    _SOURCE, _TARGET, _BLOCK, _CONTROL, _CONFIGURATION = 0x00, 0x08, 0x10, 0x18, 0x20
    _STATUS_ENABLE, _STATUS, _CLEAR = 0x80, 0x88, 0x98
    _DONE = 2
    _MEMORY_TO_MEMORY, _PERIPHERAL_TO_MEMORY = 0, 2

    def __init__(self, base: int, time: VirtualTime, memory: SystemMemory, plic: Plic, *, fifo_address: int,
                 bytes_per_s: float) -> None:
        super().__init__(base)
        self._time = time
        self._memory = memory
        self._plic = plic
        self._fifo_address = fifo_address
        self._bytes_per_s = bytes_per_s
        self._waiting: list[int] = []

    @property
    def is_waiting(self) -> bool:
        """A channel waits for the KPU's output."""
        return bool(self._waiting)

    def receive(self, data: bytes) -> bool:
        """The KPU's FIFO has data; False where no channel takes it.

        Raises:
            HardwareFault: the channel was set up for another length.
        """
        if not self._waiting:
            return False
        channel = self._waiting.pop(0)
        size = self._transfer_bytes(channel)
        if size != len(data):
            raise HardwareFault(f"DMA channel {channel}: set up for {size} bytes, the KPU sends {len(data)}")
        target = self.wide(self._register(channel, self._TARGET))
        self._memory.view(target, size, f"DMA channel {channel}: write")[:] = np.frombuffer(data, np.uint8)
        self._complete(channel)
        return True

    def peek_word(self, offset: int) -> int:
        """A reset is over at once."""
        return 0 if offset == self._RESET else super().peek_word(offset)

    def write_wide(self, offset: int, value: int) -> None:
        """Channel enables and interrupt clears act; the rest is storage."""
        if offset == self._ENABLE:
            self._enable_channels(value)
        elif offset >= self._CHANNELS and offset % 0x100 == self._CLEAR:
            channel = offset // 0x100 - 1
            self.set_wide(self._register(channel, self._STATUS),
                          self.wide(self._register(channel, self._STATUS)) & ~value)
            self._plic.set_level(DMA_IRQ + channel, raised=False)

    def _register(self, channel: int, offset: int) -> int:
        return self._CHANNELS + 0x100 * channel + offset

    def _enable_channels(self, value: int) -> None:
        """Start the channels whose bit and permission are set."""
        enabled = value & value >> 8 & ((1 << NUM_CHANNELS) - 1)
        self.set_wide(self._ENABLE, enabled)
        for channel in range(NUM_CHANNELS):
            if enabled >> channel & 1:
                self._start(channel)

    def _start(self, channel: int) -> None:
        flow = self.wide(self._register(channel, self._CONFIGURATION)) >> 32 & 7
        source = self.wide(self._register(channel, self._SOURCE))
        if flow == self._PERIPHERAL_TO_MEMORY and source == self._fifo_address:
            self._waiting.append(channel)
        elif flow == self._MEMORY_TO_MEMORY:
            size = self._transfer_bytes(channel)
            delay = round(size / self._bytes_per_s * SECOND_FS)
            self._time.schedule(delay, lambda: self._copy(channel, source, size))
        else:
            raise HardwareFault(f"DMA channel {channel}: flow control {flow} from {source:#010x} is not modelled")

    def _copy(self, channel: int, source: int, size: int) -> None:
        target = self.wide(self._register(channel, self._TARGET))
        data = self._memory.fetch(source, size)
        self._memory.view(target, size, f"DMA channel {channel}: write")[:] = np.frombuffer(data, np.uint8)
        self._complete(channel)

    def _transfer_bytes(self, channel: int) -> int:
        width = 1 << (self.wide(self._register(channel, self._CONTROL)) >> 8 & 7)
        return (self.wide(self._register(channel, self._BLOCK)) + 1) * width

    def _complete(self, channel: int) -> None:
        self.set_wide(self._ENABLE, self.wide(self._ENABLE) & ~(1 << channel))
        status = self._register(channel, self._STATUS)
        self.set_wide(status, self.wide(status) | self._DONE)
        if self.wide(self._register(channel, self._STATUS_ENABLE)) & self._DONE:
            self._plic.set_level(DMA_IRQ + channel, raised=True)


class KpuResult(Protocol):
    """What one layer gave."""

    @property
    def output(self) -> NDArray[np.uint8]:
        """Dense (C, H, W)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTime:
    """How the board learns what a layer takes.

    Args:
        seconds: from the words, the clock in Hz and whether weights have eight bits, to seconds.
        clock_hz: gives the present KPU clock; 0 while it is off.
    """

    seconds: Callable[[Sequence[int], int, bool], float]
    clock_hz: Callable[[], int]


RunLayer = Callable[[Sequence[int], bool, str], KpuResult]
"""Execute a layer: its words, whether weights have eight bits, and what to call it in faults."""


class KpuPort(WideRegisterFile):
    """The KPU's registers: collects the words of a layer, runs it, raises its interrupt.

    A layer works when its time is over, not when it is started: firmware that does not wait gets what was there before.

    Args:
        base: first address.
        time: virtual time.
        run_layer: the KPU.
        layer_time: what a layer takes.
        plic: receives the interrupt.
        dma: takes results that leave through the FIFO.
    """

    SIZE = 0x1000
    _ARGUMENT, _STATUS, _RAW, _MASK, _CLEAR = 0x00, 0x08, 0x10, 0x18, 0x20
    _DATA_OUT, _EIGHT_BIT = 0x30, 0x40
    _NUM_WORDS = 12
    _ITEM = 8
    _SEND, _INTERRUPT = 1, 1
    _FILL = b"\xa5"  # the rest of the last item is not defined

    def __init__(self, base: int, time: VirtualTime, run_layer: RunLayer, layer_time: LayerTime, *, plic: Plic,
                 dma: DmaController) -> None:
        super().__init__(base)
        self.outputs: list[NDArray[np.uint8]] = []
        """The dense result of every layer, in order."""
        self._time = time
        self._run_layer = run_layer
        self._layer_time = layer_time
        self._plic = plic
        self._dma = dma
        self._words: list[int] = []
        self._busy = False
        self._raw = 0
        self._fifo = bytearray()

    @property
    def fifo_address(self) -> int:
        """Address of the output FIFO."""
        return self.base + self._DATA_OUT

    def explain_wait(self) -> str:
        """What the KPU is doing, for the report of a deadlock."""
        if self._busy:
            return "the KPU is running a layer"
        if self._words:
            return f"the KPU was given {len(self._words)} of {self._NUM_WORDS} words"
        if self._fifo:
            return f"{len(self._fifo)} bytes wait in the KPU's FIFO, and no DMA channel takes them"
        return "the KPU was not started" if not self.outputs else ""

    def peek_word(self, offset: int) -> int:
        """Interrupt registers and the head of the FIFO."""
        if offset == self._RAW:
            return self._raw
        if offset == self._STATUS:
            return self._raw & ~self.wide(self._MASK)
        if offset & ~7 == self._DATA_OUT:
            return int.from_bytes(self._fifo[offset & 4 : (offset & 4) + 4], "little")
        return super().peek_word(offset)

    def read_word(self, offset: int) -> int:
        """Reading the upper half of the FIFO removes its head; waiting for a flag lets time pass."""
        if offset in (self._RAW, self._STATUS):
            self._time.poll()
        value = self.peek_word(offset)
        if offset == self._DATA_OUT + 4:
            del self._fifo[: self._ITEM]
        return value

    def write_wide(self, offset: int, value: int) -> None:
        """Words of a layer, interrupt clear and mask act; the rest is storage."""
        if offset == self._ARGUMENT:
            self._push(value)
        elif offset == self._CLEAR:
            self._raw &= ~value
        self._update_line()

    def _push(self, word: int) -> None:
        if self._busy:
            raise HardwareFault("KPU: a layer is pushed while another runs; queued layers are not modelled")
        self._words.append(word)
        if len(self._words) < self._NUM_WORDS:
            return
        clock_hz = self._layer_time.clock_hz()
        if not clock_hz:
            raise HardwareFault("KPU: a layer is started while PLL1 or the AI clock is off")
        words, self._words = tuple(self._words), []
        eight_bit = bool(self.wide(self._EIGHT_BIT) & 1)
        seconds = self._layer_time.seconds(words, clock_hz, eight_bit)
        self._busy = True
        self._time.schedule(round(seconds * SECOND_FS), lambda: self._finish(words, eight_bit))

    def _finish(self, words: Sequence[int], eight_bit: bool) -> None:
        self._busy = False
        result = self._run_layer(words, eight_bit, f"KPU layer {len(self.outputs)} of the firmware")
        self.outputs.append(result.output)
        if words[-1] & self._SEND:
            data = result.output.tobytes()
            data += self._FILL * (-len(data) % self._ITEM)
            if not self._dma.receive(data):
                self._fifo += data
        if words[0] & self._INTERRUPT:
            self._raw |= _CALC_DONE
        self._update_line()

    def _update_line(self) -> None:
        self._plic.set_level(KPU_IRQ, raised=bool(self._raw & ~self.wide(self._MASK)))
