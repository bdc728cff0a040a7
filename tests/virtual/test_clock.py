"""Virtual time: events, growing poll steps, counters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.virtual.clock import SECOND_FS, Counter, Preempted, VirtualTime

US = SECOND_FS // 10**6


def test_events_happen_in_order_of_time_then_of_scheduling() -> None:
    time, seen = VirtualTime(10**8), list[str]()
    for delay, name in ((5, "c"), (1, "a"), (5, "d"), (3, "b")):
        time.schedule(delay * US, lambda name=name: seen.append(name))  # type: ignore[misc]
    while time.next_event_fs() is not None:
        time.jump()
    assert seen == ["a", "b", "c", "d"] and time.now_fs == 5 * US


def test_cancelled_event_neither_happens_nor_delays() -> None:
    time, seen = VirtualTime(10**8), list[int]()
    time.cancel(time.schedule(US, lambda: seen.append(1)))
    time.schedule(2 * US, lambda: seen.append(2))
    time.jump()
    assert seen == [2] and time.now_fs == 2 * US


def test_only_events_with_an_enabled_exception_can_wake() -> None:
    time = VirtualTime(10**8)
    time.schedule(US, lambda: None)
    event = time.schedule(2 * US, lambda: None, exception=21)
    assert time.can_wake(lambda number: number == 21)
    assert not time.can_wake(lambda number: number == 15)
    time.cancel(event)
    assert not time.can_wake(lambda number: True)


def test_polling_reaches_two_seconds_in_a_few_hundred_steps() -> None:
    time, steps = VirtualTime(10**8), 0
    while time.now_fs < 2 * SECOND_FS:
        time.poll()
        steps += 1
    assert steps < 600 and time.now_fs < 2.02 * SECOND_FS


def test_polling_never_passes_the_limit_or_an_event() -> None:
    time, seen = VirtualTime(10**8), list[int]()
    time.schedule(7000 * US, lambda: seen.append(time.now_fs))
    while time.now_fs < 3000 * US:
        time.poll(3000 * US)
    assert time.now_fs == 3000 * US
    while not seen:
        time.poll()
    assert seen == [7000 * US]


def test_write_ends_a_polling_loop() -> None:
    time = VirtualTime(10**8)
    for _ in range(300):
        time.poll()
    time.access()
    before = time.now_fs
    time.poll()
    assert time.now_fs - before == 2 * time.cycle_fs


def test_poll_signals_an_interrupt_that_the_core_would_take() -> None:
    time = VirtualTime(10**8)
    time.interrupt_due = lambda: True
    time.poll()
    time.schedule(0, lambda: None)
    with pytest.raises(Preempted):
        time.poll()


@given(hz=st.sampled_from([32_768, 7_372_800, 50_000_000, 60_000_000, 100_000_000]), start=st.integers(0, 1000),
       target=st.integers(0, 10**6))
def test_counter_reaches_a_value_exactly_after_the_delay_it_names(hz: int, start: int, target: int) -> None:
    time = VirtualTime(10**8)
    counter = Counter(time, hz)
    counter.set(start)
    counter.run(running=True)
    delay = counter.delay_fs(target)
    if delay:
        time.now_fs = delay - 1
        assert counter.value() == target - 1
    time.now_fs = delay
    assert counter.value() == max(start, target)


def test_counter_keeps_its_value_over_stop_and_clock_change() -> None:
    time = VirtualTime(10**8)
    counter = Counter(time, 10**6)
    counter.run(running=True)
    time.now_fs = 100 * US
    counter.set_hz(2 * 10**6)
    time.now_fs = 200 * US
    assert counter.value() == 300
    counter.run(running=False)
    time.now_fs = 300 * US
    assert counter.value() == 300 and not counter.running
