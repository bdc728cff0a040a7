"""The SysTick timer of a Cortex-M core, on virtual time.

Source: spec/virtual-boards.md sections 3.4 and 6; the behaviour of the count flag is the architecture's.
"""

from __future__ import annotations

from collections.abc import Callable

from ai8x.virtual.clock import SECOND_FS, Event, VirtualTime

CTRL = 0x010
LOAD = 0x014
VAL = 0x018
CALIB = 0x01C

_ENABLE = 1 << 0
_INTERRUPT = 1 << 1
_CORE_CLOCK = 1 << 2
_COUNT_FLAG = 1 << 16
_MAX = 0xFF_FFFF
_EXCEPTION = 15
_REFERENCE_HZ = 32_768
"""Clock without the core-clock bit: the 32 kHz oscillator. UNVERIFIED."""


class SysTick:
    """A 24-bit down-counter; its registers are addressed by their offset in the system control space.

    Args:
        time: virtual time.
        pend: makes an exception pending.
    """

    def __init__(self, time: VirtualTime, pend: Callable[[int], None]) -> None:
        self._time = time
        self._pend = pend
        self._control = 0
        self._reload = 0
        self._start = 0
        self._anchor_fs = 0
        self._zeros_seen = 0
        self._event: Event | None = None

    def read(self, offset: int) -> int:
        """Register read: polls advance the time, reading CTRL clears the count flag."""
        if offset in (CTRL, VAL) and self._control & _ENABLE:
            self._time.poll(self._next_zero_fs())
        value = self.peek(offset)
        if offset == CTRL:
            self._zeros_seen = self._zeros()
        return value

    def peek(self, offset: int) -> int:
        """Register value without side effects."""
        if offset == CTRL:
            return self._control | (_COUNT_FLAG if self._zeros() > self._zeros_seen else 0)
        if offset == LOAD:
            return self._reload
        return self._value() if offset == VAL else 0

    def write(self, offset: int, value: int) -> None:
        """Register write; any value written to VAL clears it."""
        if offset == CTRL:
            self._restart(self._value())
            self._control = value & (_ENABLE | _INTERRUPT | _CORE_CLOCK)
        elif offset == LOAD:
            self._restart(self._value())
            self._reload = value & _MAX
        elif offset == VAL:
            self._restart(0)
            self._zeros_seen = 0
        self._schedule()

    def set_clock(self, hz: int) -> None:
        """Change the CPU clock; the count goes on from where it is."""
        self._restart(self._value())
        self._time.set_hz(hz)
        self._schedule()

    def _hz(self) -> int:
        return self._time.hz if self._control & _CORE_CLOCK else _REFERENCE_HZ

    def _ticks(self) -> int:
        if not self._control & _ENABLE:
            return 0
        return (self._time.now_fs - self._anchor_fs) * self._hz() // SECOND_FS

    def _value(self) -> int:
        ticks = self._ticks()
        if ticks <= self._start:
            return self._start - ticks
        return self._reload - (ticks - self._start - 1) % (self._reload + 1)

    def _zeros(self) -> int:
        """How often the counter went from 1 to 0 since it was started; started at 0, that passage does not count."""
        ticks = self._ticks()
        if ticks < self._start or self._start == self._reload == 0:
            return 0
        return (ticks - self._start) // (self._reload + 1) + (1 if self._start else 0)

    def _restart(self, value: int) -> None:
        """Count from `value`; an unread count flag stays set."""
        unread = 1 if self._zeros() > self._zeros_seen else 0
        self._start = value
        self._anchor_fs = self._time.now_fs
        self._zeros_seen = -unread
        self._time.restarted = True

    def _next_zero_fs(self) -> int:
        """Time of the next passage to 0, ahead of now."""
        ticks = self._ticks()
        period = self._reload + 1
        ahead = self._start if ticks < self._start else self._start + ((ticks - self._start) // period + 1) * period
        return self._anchor_fs + -(-ahead * SECOND_FS // self._hz())

    def _schedule(self) -> None:
        if self._event is not None:
            self._time.cancel(self._event)
            self._event = None
        wanted = _ENABLE | _INTERRUPT
        if self._control & wanted == wanted and self._reload:
            delay = self._next_zero_fs() - self._time.now_fs
            self._event = self._time.schedule(delay, self._expire, exception=_EXCEPTION)

    def _expire(self) -> None:
        self._event = None
        self._pend(_EXCEPTION)
        self._schedule()
