"""The K210 around its harts: interrupt controller, clocks, console, timer.

Registers are modelled as far as the vendor's SDK and our own runner use them; anything else in these blocks is
storage. Registers of 64 bits arrive as two accesses of 32 bits. `k210_kpu.py` has the KPU and the DMA. Start at
`Plic` and `SystemControl`.

Source: spec/virtual-boards.md section 4.
"""

from __future__ import annotations

from collections.abc import Callable

from ai8x.virtual.bus import WORD_MASK, RegisterFile
from ai8x.virtual.clock import Counter, Event, VirtualTime

CRYSTAL_HZ = 26_000_000
_NUM_SOURCES = 66


class Plic(RegisterFile):
    """The interrupt controller, as hart 0 in machine mode sees it.

    Sources are levels: an interrupt that is completed while its source is still raised becomes pending again.

    Args:
        base: first address.
    """

    SIZE = 0x40_0000
    _ENABLES, _THRESHOLD, _CLAIM = 0x2000, 0x20_0000, 0x20_0004

    def __init__(self, base: int) -> None:
        super().__init__(base)
        self._raised: set[int] = set()
        self._claimed: set[int] = set()
        self.explain_wait: Callable[[], str] = str
        """Gives words on what the chip waits for."""

    def set_level(self, source: int, *, raised: bool) -> None:
        """A peripheral raises or lowers its line."""
        (self._raised.add if raised else self._raised.discard)(source)

    @property
    def enabled(self) -> tuple[int, ...]:
        """Sources that can interrupt."""
        threshold = self.words.get(self._THRESHOLD, 0)
        return tuple(source for source in range(1, _NUM_SOURCES)
                     if self.words.get(self._ENABLES + source // 32 * 4, 0) >> source % 32 & 1
                     and self.words.get(4 * source, 0) > threshold)

    @property
    def is_raised(self) -> bool:
        """An enabled interrupt is pending."""
        return bool(self._raised - self._claimed) and self._best() != 0

    def explain(self) -> str:
        """For the report of a deadlock."""
        sources = ", ".join(map(str, self.enabled)) or "none"
        why = self.explain_wait()
        return f"enabled interrupts: {sources}{'; ' + why if why else ''}"

    def read_word(self, offset: int) -> int:
        """Reading the claim register takes the most urgent interrupt."""
        if offset != self._CLAIM:
            return super().read_word(offset)
        best = self._best()
        if best:
            self._claimed.add(best)
        return best

    def peek_word(self, offset: int) -> int:
        """Claim register without taking."""
        return self._best() if offset == self._CLAIM else super().peek_word(offset)

    def write_word(self, offset: int, value: int) -> None:
        """Writing the claim register completes an interrupt."""
        if offset == self._CLAIM:
            self._claimed.discard(value)
        else:
            super().write_word(offset, value)

    def _best(self) -> int:
        """The pending source of the highest priority, the lowest number first; 0 for none."""
        waiting = [source for source in self.enabled if source in self._raised and source not in self._claimed]
        return max(waiting, key=lambda source: (self.words.get(4 * source, 0), -source), default=0)


class SystemControl(RegisterFile):
    """Clock control: two PLLs that lock at once, dividers, gates.

    Args:
        base: first address.
        on_change: called with the CPU clock when a register was written.
    """

    SIZE = 0x1000
    _PLL0, _PLL1, _LOCK, _SEL0, _ENABLE, _THRESHOLD0 = 0x08, 0x0C, 0x18, 0x20, 0x2C, 0x38
    _LOCKED = 0x0003_0303
    _POWER, _BYPASS, _OUTPUT = 1 << 21, 1 << 23, 1 << 25
    _AI_GATE = 1 << 2

    def __init__(self, base: int, on_change: Callable[[int], None]) -> None:
        super().__init__(base)
        self._on_change = on_change

    def peek_word(self, offset: int) -> int:
        """PLLs are always locked."""
        word = super().peek_word(offset)
        return word | self._LOCKED if offset == self._LOCK else word

    def write_word(self, offset: int, value: int) -> None:
        """Any register may change a clock."""
        super().write_word(offset, value)
        self._on_change(self.cpu_hz)

    @property
    def cpu_hz(self) -> int:
        """The crystal, or PLL0 divided by 2, 4, 8 or 16."""
        select = self.words.get(self._SEL0, 0)
        pll = self._pll_hz(self._PLL0)
        return pll >> (1 + (select >> 1 & 3)) if select & 1 and pll else CRYSTAL_HZ

    @property
    def kpu_hz(self) -> int:
        """PLL1 behind its divider; 0 while it is off or the gate is closed."""
        if not self.words.get(self._ENABLE, 0) & self._AI_GATE:
            return 0
        return self._pll_hz(self._PLL1) // ((self.words.get(self._THRESHOLD0, 0) >> 8 & 15) + 1)

    def _pll_hz(self, offset: int) -> int:
        word = self.words.get(offset, 0)
        if word & self._BYPASS:
            return CRYSTAL_HZ
        if not word & self._POWER or not word & self._OUTPUT:
            return 0
        return CRYSTAL_HZ * ((word >> 4 & 63) + 1) // (((word & 15) + 1) * ((word >> 10 & 15) + 1))


class Uarths(RegisterFile):
    """The high-speed UART: what is sent appears at once, nothing is received.

    Args:
        base: first address.
        put: takes one byte.
    """

    SIZE = 0x1000
    _TRANSMIT, _RECEIVE, _TRANSMIT_CONTROL = 0x00, 0x04, 0x08
    _EMPTY = 1 << 31

    def __init__(self, base: int, put: Callable[[int], None]) -> None:
        super().__init__(base)
        self._put = put

    def peek_word(self, offset: int) -> int:
        """Never full, always empty."""
        return {self._TRANSMIT: 0, self._RECEIVE: self._EMPTY}.get(offset, super().peek_word(offset))

    def write_word(self, offset: int, value: int) -> None:
        """Bytes are lost while the transmitter is off."""
        super().write_word(offset, value)
        if offset == self._TRANSMIT and self.words.get(self._TRANSMIT_CONTROL, 0) & 1:
            self._put(value & 0xFF)


class CoreTimer(RegisterFile):
    """The core-local timer of hart 0: a counter at a fiftieth of the CPU clock, and the interrupt that compares it.

    The interrupt is raised while the counter is not below the compare register, which software must have written.

    Args:
        base: first address.
        time: virtual time.
    """

    SIZE = 0x1_0000
    _COMPARE, _MTIME = 0x4000, 0xBFF8
    _DIVIDER = 50
    _NEVER = 1 << 63
    """Compare values from here on are taken for "no interrupt"; the counter would need centuries."""

    def __init__(self, base: int, time: VirtualTime) -> None:
        super().__init__(base)
        self._time = time
        self._counter = Counter(time, time.hz // self._DIVIDER)
        self._counter.run(True)
        self._latched = 0
        self._event: Event | None = None

    def set_clock(self, cpu_hz: int) -> None:
        """The CPU clock has changed."""
        self._counter.set_hz(cpu_hz // self._DIVIDER)
        self._schedule()

    @property
    def is_raised(self) -> bool:
        """The timer interrupt is pending."""
        return self._COMPARE in self.words and self._counter.value() >= self._compare()

    def read_word(self, offset: int) -> int:
        """The upper half belongs to the lower half that was read before."""
        if offset == self._MTIME:
            self._time.poll()
            self._latched = self._counter.value()
        return self.peek_word(offset)

    def peek_word(self, offset: int) -> int:
        """The counter as last read."""
        if offset == self._MTIME:
            return self._latched & WORD_MASK
        return self._latched >> 32 if offset == self._MTIME + 4 else super().peek_word(offset)

    def write_word(self, offset: int, value: int) -> None:
        """The compare register acts; the counter cannot be set here."""
        super().write_word(offset, value)
        if offset in (self._COMPARE, self._COMPARE + 4):
            self._schedule()

    def _compare(self) -> int:
        return self.words.get(self._COMPARE, 0) | self.words.get(self._COMPARE + 4, 0) << 32

    def _schedule(self) -> None:
        """An event at which a sleeping hart looks at the line again."""
        if self._event is not None:
            self._time.cancel(self._event)
            self._event = None
        if self._counter.value() < self._compare() < self._NEVER:
            self._event = self._time.schedule(self._counter.delay_fs(self._compare()), self._expire)

    def _expire(self) -> None:
        self._event = None


class WideRegisterFile(RegisterFile):
    """Registers of 64 bits that behave as storage; a write takes effect with its upper half."""

    def write_word(self, offset: int, value: int) -> None:
        """One half of a register."""
        super().write_word(offset, value)
        if offset & 4:
            self.write_wide(offset & ~7, self.wide(offset & ~7))

    def wide(self, offset: int) -> int:
        """Content of a register."""
        return self.words.get(offset, 0) | self.words.get(offset + 4, 0) << 32

    def set_wide(self, offset: int, value: int) -> None:
        """Change a register without side effects."""
        self.words[offset], self.words[offset + 4] = value & WORD_MASK, value >> 32

    def write_wide(self, offset: int, value: int) -> None:
        """Effect of a write of the whole register."""
