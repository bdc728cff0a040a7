"""Clocks, console, timers and pins at the level of their registers."""

import pytest

from ai8x.errors import HardwareFault
from ai8x.virtual.bus import PeripheralBus
from ai8x.virtual.clock import VirtualTime
from ai8x.virtual.peripherals import CacheControl, ClockTree, GlobalControl, Gpio, Timer, Uart, clock_tree

GCR = 0x40000000
IPO = 1 << 19 | 4 << 9


@pytest.mark.parametrize(("clkctrl", "pclkdiv", "expected"), [
    (0, 0, (60_000_000, 30_000_000, 15_000_000)),
    (IPO, 4 << 14, (100_000_000, 50_000_000, 50_000_000)),
    (IPO, 3 << 14, (100_000_000, 50_000_000, 3_125_000)),
    (IPO | 1 << 6, 4 << 14, (50_000_000, 25_000_000, 25_000_000)),
    (IPO, 1 << 17 | 4 << 14, (100_000_000, 50_000_000, 60_000_000)),
    (5 << 9, 4 << 14, (7_372_800, 3_686_400, 3_686_400)),
])
def test_frequencies_follow_the_registers(clkctrl: int, pclkdiv: int, expected: tuple[int, int, int]) -> None:
    tree = clock_tree(clkctrl, pclkdiv)
    assert (tree.sysclk_hz, tree.pclk_hz, tree.cnn_hz) == expected


@pytest.mark.parametrize(("clkctrl", "pclkdiv", "field"), [
    (1 << 9, 0, "sysclk_sel = 1"), (7 << 9, 0, "sysclk_sel = 7"), (IPO, 5 << 14, "cnnclkdiv = 5")])
def test_clocks_that_are_not_defined_are_a_fault(clkctrl: int, pclkdiv: int, field: str) -> None:
    with pytest.raises(HardwareFault, match=field):
        clock_tree(clkctrl, pclkdiv)


def test_clock_control_reports_changes_and_readiness() -> None:
    changes: list[ClockTree] = []
    gcr = GlobalControl(on_power=lambda address, value: None, on_clocks=changes.append)
    assert gcr.read(GCR + 8, 4) >> 27 & 1 == 0
    gcr.write(GCR + 8, 4, gcr.read(GCR + 8, 4) | 1 << 19)
    assert gcr.read(GCR + 8, 4) >> 27 & 1 == 1 and not changes
    gcr.write(GCR + 8, 4, gcr.read(GCR + 8, 4) | 4 << 9)
    assert [tree.sysclk_hz for tree in changes] == [100_000_000]


def test_reset_bits_clear_themselves_and_reach_the_accelerator() -> None:
    power: list[tuple[int, int]] = []
    gcr = GlobalControl(on_power=lambda *write: power.append(write), on_clocks=lambda clocks: None)
    gcr.write(GCR + 4, 4, 1 << 25)
    gcr.write(GCR + 0x44, 4, 1)
    assert gcr.read(GCR + 4, 4) == 0 == gcr.read(GCR + 0x44, 4)
    assert power == [(GCR + 4, 1 << 25)]


def test_narrow_write_keeps_the_rest_of_the_word() -> None:
    gcr = GlobalControl(on_power=lambda address, value: None, on_clocks=lambda clocks: None)
    gcr.write(GCR + 0x20, 4, 0x11223344)
    gcr.write(GCR + 0x21, 1, 0xAA)
    gcr.write(GCR + 0x22, 2, 0xBBCC)
    assert gcr.read(GCR + 0x20, 4) == 0xBBCCAA44 and gcr.read(GCR + 0x23, 1) == 0xBB


def test_console_collects_what_is_transmitted() -> None:
    sent = bytearray()
    uart = Uart(0x40042000, sent.append)
    uart.write(0x40042000, 4, 1 << 15 | 1 << 8)
    assert uart.read(0x40042000, 4) == 1 << 15 | 1 << 19
    for byte in b"hi":
        uart.write(0x40042020, 4, byte)
    assert bytes(sent) == b"hi" and uart.read(0x40042004, 4) == 0x50


def test_cache_is_always_ready() -> None:
    assert CacheControl(0x4002A000).read(0x4002A100, 4) >> 16 & 1 == 1


def test_pin_aliases_set_and_clear_bits_of_their_register() -> None:
    gpio = Gpio(0x40008000)
    gpio.write(0x4000801C, 4, 0b1110)
    gpio.write(0x40008020, 4, 0b0100)
    assert gpio.read(0x40008018, 4) == 0b1010 == gpio.read(0x40008024, 4)


class Bench:
    """A timer at 50 MHz with nothing around it."""

    def __init__(self) -> None:
        self.time = VirtualTime(10**8)
        self.pended: list[int] = []
        clocks = ClockTree(sysclk_hz=10**8, pclk_hz=5 * 10**7, cnn_hz=5 * 10**7)
        self.timer = Timer(0, self.time, lambda: clocks, exception=21, pend=self.pended.append)

    def start(self, mode: int, compare: int, *, interrupt: bool = True) -> None:
        self.timer.write(0x18, 4, interrupt << 8)
        self.timer.write(0x00, 4, 1)
        self.timer.write(0x04, 4, compare)
        self.timer.write(0x10, 4, mode | 1 << 14 | 1 << 15)

    def cycles(self) -> int:
        return self.time.now_fs // (2 * self.time.cycle_fs)


def test_one_shot_timer_stops_after_its_interrupt() -> None:
    bench = Bench()
    bench.start(0, 101)
    bench.time.jump()
    assert bench.cycles() == 100 and bench.pended == [21]
    assert bench.timer.peek(0x10, 4) >> 15 & 1 == 0 and bench.timer.peek(0x00, 4) == 1
    assert bench.timer.peek(0x0C, 4) & 1 and bench.time.next_event_fs() is None
    bench.timer.write(0x0C, 4, 1)
    assert not bench.timer.peek(0x0C, 4) & 1


def test_continuous_timer_repeats() -> None:
    bench = Bench()
    bench.start(1, 101)
    for _ in range(3):
        bench.time.jump()
    assert bench.cycles() == 300 and bench.pended == [21] * 3


def test_compare_timer_counts_on_and_fires_once() -> None:
    bench = Bench()
    bench.start(5, 101)
    bench.time.jump()
    bench.timer.write(0x0C, 4, 1)
    bench.time.now_fs += 100 * 2 * bench.time.cycle_fs
    assert bench.timer.peek(0x00, 4) == 201 and not bench.timer.peek(0x0C, 4) & 1
    assert bench.pended == [21] and bench.time.next_event_fs() is None


def test_timer_without_interrupt_sets_its_flag_but_cannot_wake() -> None:
    bench = Bench()
    bench.start(0, 101, interrupt=False)
    assert not bench.time.can_wake(lambda exception: True)
    bench.time.jump()
    assert bench.timer.peek(0x0C, 4) & 1 and not bench.pended


def test_addresses_of_no_peripheral_are_storage_and_noted() -> None:
    bus = PeripheralBus(0x40000000, block_bits=10)
    bus.write(0x40055554, 4, 77)
    assert bus.read(0x40055554, 4) == 77 == bus.peek(0x40055554, 4)
    assert bus.unknown == {0x40055554} and bus.accesses == 2
