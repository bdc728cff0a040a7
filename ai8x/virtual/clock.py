"""Virtual time: a counter in femtoseconds, the events that wait for it, and counters derived from it.

Nothing here sleeps. Time advances with executed slices, with bus accesses, and by jumps to the next event while the
CPU sleeps. Polling is recognised: the more often firmware looks at something that only time can change, the larger
the steps become, but never past the next event. Start at `VirtualTime`.

Source: spec/virtual-boards.md section 3.4.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

SECOND_FS = 10**15
"""Femtoseconds in a second: fine enough that a 60 MHz cycle is off by less than one part in ten million."""

_ACCESS_CYCLES = 2
_POLL_GROWTH = 16
"""Each poll may take this fraction of the time polled so far: two seconds take a few hundred reads, and a loop that
watches a free-running counter overshoots by at most about six percent."""

_LONGEST_POLL_FS = SECOND_FS // 100


@dataclass(order=True, slots=True)
class Event:
    """Something that happens at a fixed time.

    Args:
        time_fs: when.
        order: keeps events of the same time in the order of their scheduling.
        action: what happens.
        exception: exception number it may make pending; None where it cannot wake the CPU.
        cancelled: set by `VirtualTime.cancel`.
    """

    time_fs: int
    order: int
    action: Callable[[], None] = field(compare=False)
    exception: int | None = field(compare=False, default=None)
    cancelled: bool = field(compare=False, default=False)


class Preempted(Exception):
    """An interrupt is due before the read that raised this; the read is repeated after its handler."""


class VirtualTime:
    """The clock of a board and its event queue.

    Args:
        hz: CPU clock in Hz at the start.
    """

    def __init__(self, hz: int) -> None:
        self.now_fs = 0
        self.set_hz(hz)
        self.restarted = False
        """A counter was started or an event was scheduled since the flag was last cleared."""
        self.interrupt_due: Callable[[], bool] = bool
        """Tells whether the core would take an exception now; the core sets it."""
        self._events: list[Event] = []
        self._order = 0
        self._polled_fs = 0
        self._frozen = False

    def set_hz(self, hz: int) -> None:
        """Change the CPU clock."""
        self.hz = hz
        self.cycle_fs = SECOND_FS // hz
        self.access_fs = _ACCESS_CYCLES * self.cycle_fs

    def schedule(self, delay_fs: int, action: Callable[[], None], *, exception: int | None = None) -> Event:
        """Queue an event ``delay_fs`` from now."""
        event = Event(self.now_fs + max(0, delay_fs), self._order, action, exception)
        self._order += 1
        self.restarted = True
        heapq.heappush(self._events, event)
        return event

    def cancel(self, event: Event) -> None:
        """Make sure that the event never happens."""
        event.cancelled = True

    def next_event_fs(self) -> int | None:
        """Time of the next event, None where there is none."""
        while self._events and self._events[0].cancelled:
            heapq.heappop(self._events)
        return self._events[0].time_fs if self._events else None

    def run_due(self) -> bool:
        """Carry out every event whose time has come; tells whether there was one."""
        happened = False
        while (time_fs := self.next_event_fs()) is not None and time_fs <= self.now_fs:
            heapq.heappop(self._events).action()
            self._polled_fs = 0
            self._frozen = happened = True
        return happened

    def jump(self) -> None:
        """Sleep until the next event and carry it out; nothing happens where there is none."""
        time_fs = self.next_event_fs()
        if time_fs is not None:
            self.now_fs = max(self.now_fs, time_fs)
            self.run_due()

    def can_wake(self, is_enabled: Callable[[int], bool]) -> bool:
        """Whether any queued event may make an enabled exception pending."""
        return any(not e.cancelled and e.exception is not None and is_enabled(e.exception) for e in self._events)

    def begin_slice(self) -> None:
        """The CPU goes on: polls may take larger steps again."""
        self._frozen = False
        self.restarted = False

    def advance_cycles(self, cycles: int) -> None:
        """Let CPU cycles pass."""
        self.now_fs += cycles * self.cycle_fs

    def access(self) -> None:
        """A bus access that ends a polling loop: a write."""
        self.now_fs += self.access_fs
        self._polled_fs = 0

    def poll(self, limit_fs: int | None = None) -> None:
        """A read of something that changes with time: advance by a step that grows while the polling goes on.

        Args:
            limit_fs: do not step past this time, where it lies ahead.

        Raises:
            Preempted: an event on the way made an exception pending that the core takes at once.
        """
        step = self.access_fs
        if not self._frozen:
            step = max(step, min(self._polled_fs // _POLL_GROWTH, _LONGEST_POLL_FS))
            for limit in (limit_fs, self.next_event_fs()):
                if limit is not None and limit > self.now_fs:
                    step = min(step, limit - self.now_fs)
        self._polled_fs += step
        self.now_fs += step
        if self.run_due() and self.interrupt_due():
            raise Preempted


class Counter:
    """A counter that a clock drives: its value is computed from the virtual time."""

    def __init__(self, time: VirtualTime, hz: int) -> None:
        self._time = time
        self._hz = hz
        self._anchor_fs = time.now_fs
        self._start = 0
        self._running = False

    def set(self, value: int) -> None:
        """Load the counter."""
        self._start = value
        self._anchor_fs = self._time.now_fs
        self._time.restarted = True

    def run(self, running: bool) -> None:
        """Start or stop it."""
        if running != self._running:
            self.set(self.value())
            self._running = running

    def set_hz(self, hz: int) -> None:
        """Change its clock."""
        if hz != self._hz:
            self.set(self.value())
            self._hz = hz

    @property
    def running(self) -> bool:
        """Whether it counts."""
        return self._running

    def value(self) -> int:
        """Counts so far, not wrapped."""
        if not self._running:
            return self._start
        return self._start + (self._time.now_fs - self._anchor_fs) * self._hz // SECOND_FS

    def delay_fs(self, value: int) -> int:
        """Femtoseconds until `value` is reached; at least 0."""
        ready_fs = self._anchor_fs + -(-(value - self._start) * SECOND_FS // self._hz)
        return max(0, ready_fs - self._time.now_fs)
