"""Peripherals of the MAX78000 around the core: clocks, cache controller, UART, timers, GPIO.

Each models what firmware can observe of it (ready bits, counters, aliases) and keeps the rest as storage. Knows
nothing of the CPU emulator or the accelerator.

Source: spec/virtual-boards.md sections 3.4 and 6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

from ai8x.errors import HardwareFault
from ai8x.virtual.bus import RegisterFile
from ai8x.virtual.clock import Counter, Event, VirtualTime

GCR_BASE = 0x4000_0000
LPGCR_BASE = 0x4008_0000
GCR_RST0, GCR_CLKCTRL, GCR_PCLKDIV, GCR_PCLKDIS0, GCR_RST1 = 0x04, 0x08, 0x18, 0x24, 0x44

ISO_HZ = 60_000_000
IPO_HZ = 100_000_000
_SYSCLK_HZ = {0: ISO_HZ, 3: 30_000, 4: IPO_HZ, 5: 7_372_800, 6: 32_768}
_CNN_DIVIDERS = {0: 2, 1: 4, 2: 8, 3: 16, 4: 1}
_READY_OF = {17: 25, 18: 26, 19: 27, 20: 28}  # oscillator enable bit -> ready bit
_ALWAYS_READY = 1 << 13 | 1 << 28 | 1 << 29


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockTree:
    """Frequencies that follow from the clock registers.

    Args:
        sysclk_hz: CPU clock.
        pclk_hz: peripheral clock, half of it.
        cnn_hz: accelerator clock.
    """

    sysclk_hz: int
    pclk_hz: int
    cnn_hz: int


def clock_tree(clkctrl: int, pclkdiv: int) -> ClockTree:
    """The frequencies of a setting of GCR CLKCTRL and PCLKDIV.

    Raises:
        HardwareFault: a clock source or divider that is not defined, or the external clock, whose frequency is unknown.
    """
    source, divider = clkctrl >> 9 & 7, pclkdiv >> 14 & 7
    if source not in _SYSCLK_HZ:
        raise HardwareFault(f"GCR CLKCTRL ({GCR_BASE + GCR_CLKCTRL:#010x}): sysclk_sel = {source}; "
                            f"{', '.join(map(str, _SYSCLK_HZ))} are modelled")
    if divider not in _CNN_DIVIDERS:
        raise HardwareFault(f"GCR PCLKDIV ({GCR_BASE + GCR_PCLKDIV:#010x}): cnnclkdiv = {divider}; "
                            f"0 to {max(_CNN_DIVIDERS)} are defined")
    sysclk_hz = max(1, _SYSCLK_HZ[source] >> (clkctrl >> 6 & 7))
    pclk_hz = max(1, sysclk_hz // 2)
    cnn_source_hz = ISO_HZ if pclkdiv >> 17 & 1 else pclk_hz
    return ClockTree(sysclk_hz=sysclk_hz, pclk_hz=pclk_hz, cnn_hz=max(1, cnn_source_hz // _CNN_DIVIDERS[divider]))


class GlobalControl(RegisterFile):
    """GCR: clocks and resets.

    Args:
        on_power: called with (address, value) for registers that concern the accelerator.
        on_clocks: called with the new frequencies after each change.
    """

    _POWER = (GCR_RST0, GCR_PCLKDIV, GCR_PCLKDIS0)

    def __init__(self, *, on_power: Callable[[int, int], None], on_clocks: Callable[[ClockTree], None]) -> None:
        super().__init__(GCR_BASE, {GCR_CLKCTRL: 1 << 18 | 1 << 20, GCR_PCLKDIS0: 1 << 25})
        self._on_power = on_power
        self._on_clocks = on_clocks
        self._clocks = self.clocks()

    def clocks(self) -> ClockTree:
        """Present frequencies."""
        return clock_tree(self.words[GCR_CLKCTRL], self.words.get(GCR_PCLKDIV, 0))

    def peek_word(self, offset: int) -> int:
        """Resets clear themselves; oscillators are ready as soon as they are enabled."""
        if offset in (GCR_RST0, GCR_RST1):
            return 0
        word = super().peek_word(offset)
        if offset == GCR_CLKCTRL:
            for enable, ready in _READY_OF.items():
                word = word & ~(1 << ready) | (word >> enable & 1) << ready
            word |= _ALWAYS_READY
        return word

    def write_word(self, offset: int, value: int) -> None:
        """Storage, and the consequences for clocks and accelerator."""
        super().write_word(offset, value)
        if offset in self._POWER:
            self._on_power(self.base + offset, value)
        if offset in (GCR_CLKCTRL, GCR_PCLKDIV) and (clocks := self.clocks()) != self._clocks:
            self._clocks = clocks
            self._on_clocks(clocks)


class LowPowerControl(RegisterFile):
    """LPGCR: its reset register clears itself."""

    def __init__(self) -> None:
        super().__init__(LPGCR_BASE)

    def peek_word(self, offset: int) -> int:
        """Storage but for the reset register."""
        return 0 if offset == 0x08 else super().peek_word(offset)


class PowerFunction(RegisterFile):
    """GCFR: power, memory power, isolation and reset of the accelerator's quadrants."""

    def __init__(self, base: int, on_power: Callable[[int, int], None]) -> None:
        super().__init__(base)
        self._on_power = on_power

    def write_word(self, offset: int, value: int) -> None:
        """Storage; REG0 to REG3 reach the accelerator."""
        super().write_word(offset, value)
        if offset <= 0x0C:
            self._on_power(self.base + offset, value)


class CacheControl(RegisterFile):
    """ICC: always ready."""

    def peek_word(self, offset: int) -> int:
        """CTRL shows the ready bit."""
        return super().peek_word(offset) | (1 << 16 if offset == 0x100 else 0)


class Uart(RegisterFile):
    """A UART whose transmitted bytes become the console; nothing is ever received."""

    _CTRL, _STATUS, _FIFO = 0x00, 0x04, 0x20

    def __init__(self, base: int, transmit: Callable[[int], None]) -> None:
        super().__init__(base)
        self._transmit = transmit

    def peek_word(self, offset: int) -> int:
        """Both FIFOs are empty; the baud clock is ready as soon as it is enabled."""
        word = super().peek_word(offset)
        if offset == self._STATUS:
            return 0x50
        if offset == self._CTRL:
            return word & ~(1 << 8 | 1 << 9 | 1 << 19) | (word >> 15 & 1) << 19
        return 0 if offset == self._FIFO else word

    def write_word(self, offset: int, value: int) -> None:
        """A byte written to the FIFO is transmitted."""
        if offset == self._FIFO:
            self._transmit(value & 0xFF)
        else:
            super().write_word(offset, value)


class Gpio(RegisterFile):
    """A GPIO port: set and clear aliases, inputs that mirror the outputs."""

    _ALIASES = MappingProxyType({
        base + 4 * i: (base, i == 1) for base in (0x00, 0x0C, 0x18, 0x34, 0x4C, 0x68, 0x74) for i in (1, 2)})
    _OUT, _IN, _INTFL, _INTFL_CLR = 0x18, 0x24, 0x40, 0x48

    def peek_word(self, offset: int) -> int:
        """IN follows OUT; the aliases read as their register."""
        if offset == self._IN:
            offset = self._OUT
        return super().peek_word(self._ALIASES.get(offset, (offset, True))[0])

    def write_word(self, offset: int, value: int) -> None:
        """Writes to an alias set or clear bits of its register."""
        if offset == self._INTFL_CLR:
            self.words[self._INTFL] = self.words.get(self._INTFL, 0) & ~value
        elif offset in self._ALIASES:
            base, sets = self._ALIASES[offset]
            word = self.words.get(base, 0)
            self.words[base] = word | value if sets else word & ~value
        else:
            super().write_word(offset, value)


class Timer(RegisterFile):
    """A timer in one-shot, continuous or compare mode, cascaded to 32 bits.

    Args:
        base: address.
        time: virtual time.
        clocks: gives the present frequencies.
        exception: exception number of its interrupt.
        pend: makes an exception pending.
    """

    _CNT, _CMP, _INTFL, _CTRL0, _CTRL1 = 0x00, 0x04, 0x0C, 0x10, 0x18
    _ENABLE, _CLOCK_ENABLE, _RESET = 1 << 15, 1 << 14, 1 << 13
    _INTERRUPT_ENABLE = 1 << 8  # of CTRL1; UNVERIFIED
    _WRITE_DONE = 1 << 8 | 1 << 24
    _ONE_SHOT, _CONTINUOUS = 0, 1

    def __init__(self, base: int, time: VirtualTime, clocks: Callable[[], ClockTree], *, exception: int,
                 pend: Callable[[int], None]) -> None:
        super().__init__(base)
        self._time = time
        self._clocks = clocks
        self._exception = exception
        self._pend = pend
        self._counter = Counter(time, self._hz())
        self._expired = False
        self._event: Event | None = None

    def read_word(self, offset: int) -> int:
        """Reads of the count and the flag of a running timer are polls."""
        if offset in (self._CNT, self._INTFL) and self._counter.running:
            limit = None if self._expired else self._time.now_fs + self._counter.delay_fs(self._compare())
            self._time.poll(limit)
        return self.peek_word(offset)

    def peek_word(self, offset: int) -> int:
        """Count and flags follow from the time, ready bits from the enable bits."""
        word = super().peek_word(offset)
        if offset == self._CNT:
            return self._counter.value() & 0xFFFF_FFFF
        if offset == self._INTFL:
            return self._WRITE_DONE | (1 if self._expired or self._due() else 0)  # the event may not have run yet
        if offset == self._CTRL1:
            control = self.words.get(self._CTRL0, 0)
            return word & ~0xC | (4 if control & self._ENABLE else 0) | (8 if control & self._CLOCK_ENABLE else 0)
        return word

    def write_word(self, offset: int, value: int) -> None:
        """Settings take effect at once."""
        self.clock_changed()
        if offset == self._CNT:
            self._counter.set(value)
        elif offset == self._INTFL:
            if value & 1:
                self._expired = False
        else:
            super().write_word(offset, value)
            if offset == self._CTRL0:
                self._control(value)
        self._counter.set_hz(self._hz())
        self._schedule()

    def clock_changed(self) -> None:
        """Call after the clocks were changed, with the time still at that moment."""
        if self._due():
            self._expire()
        self._counter.set_hz(self._hz())
        self._schedule()

    def _control(self, value: int) -> None:
        if value & self._RESET:
            self.words[self._CTRL0] = value & ~self._RESET
            self._counter.set(0)
        self._counter.run(bool(value & self._ENABLE))

    def _hz(self) -> int:
        clocks = self._clocks()
        source = {0: clocks.pclk_hz, 1: ISO_HZ, 2: 7_372_800, 3: 32_768}[self.words.get(self._CTRL1, 0) & 3]
        return max(1, source >> (self.words.get(self._CTRL0, 0) >> 4 & 0xF))

    def _compare(self) -> int:
        return self.words.get(self._CMP, 0) or 1 << 32

    def _due(self) -> bool:
        return self._event is not None and self._counter.value() >= self._compare()

    def _schedule(self) -> None:
        """The compare event; it can wake the core only where the timer's interrupt is enabled."""
        if self._event is not None:
            self._time.cancel(self._event)
            self._event = None
        if self._counter.running and self._counter.value() < self._compare():
            wakes = self.words.get(self._CTRL1, 0) & self._INTERRUPT_ENABLE
            self._event = self._time.schedule(self._counter.delay_fs(self._compare()), self._expire,
                                              exception=self._exception if wakes else None)

    def _expire(self) -> None:
        self._event = None
        self._expired = True
        mode = self.words.get(self._CTRL0, 0) & 0xF
        if mode in (self._ONE_SHOT, self._CONTINUOUS):
            self._counter.set(1)
        if mode == self._ONE_SHOT:
            self.words[self._CTRL0] &= ~self._ENABLE
            self._counter.run(running=False)
        if self.words.get(self._CTRL1, 0) & self._INTERRUPT_ENABLE:
            self._pend(self._exception)
        if mode == self._CONTINUOUS:
            self._schedule()
