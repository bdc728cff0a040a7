"""NVIC, system control block and SysTick at the level of their registers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.virtual.clock import SECOND_FS, VirtualTime
from ai8x.virtual.nvic import PENDSV, SVCALL, SYSTICK, Masks, SystemControl

SCS = 0xE000E000
CTRL, LOAD, VAL = SCS + 0x10, SCS + 0x14, SCS + 0x18
FREE = Masks()


def make() -> tuple[SystemControl, VirtualTime]:
    time = VirtualTime(10**8)
    return SystemControl(time, num_irqs=104, vectors=0x10000000), time


def enable(system: SystemControl, irq: int, priority: int = 0) -> None:
    system.write(SCS + 0x100 + irq // 32 * 4, 4, 1 << irq % 32)
    system.write(SCS + 0x400 + irq, 1, priority << 5)


def test_enabling_and_clearing_act_on_single_bits() -> None:
    system, _ = make()
    for irq in (5, 40, 101):
        enable(system, irq)
    assert system.enabled_irqs == (5, 40, 101)
    assert system.read(SCS + 0x10C, 4) == 1 << 5 == system.read(SCS + 0x18C, 4)
    system.write(SCS + 0x184, 4, 1 << 8)
    assert system.enabled_irqs == (5, 101)


def test_narrow_write_to_a_set_register_changes_nothing_else() -> None:
    system, _ = make()
    enable(system, 5)
    system.write(SCS + 0x182, 1, 0)  # clear-enable, no ones
    system.write(SCS + 0x101, 1, 1)  # set-enable of IRQ 8
    assert system.enabled_irqs == (5, 8)


def test_interrupts_that_the_chip_lacks_cannot_be_enabled() -> None:
    system, _ = make()
    system.write(SCS + 0x10C, 4, 0xFFFFFFFF)
    assert max(system.enabled_irqs) == 103


def test_disabled_interrupt_stays_pending_until_it_is_enabled() -> None:
    system, _ = make()
    system.pend(16 + 101)
    assert system.next_exception(FREE) is None and not system.waiting
    enable(system, 101)
    assert system.next_exception(FREE) == 117
    system.write(SCS + 0x28C, 4, 1 << 5)
    assert system.next_exception(FREE) is None


def test_lower_number_wins_among_equals_and_higher_priority_among_all() -> None:
    system, _ = make()
    for irq, priority in ((3, 2), (4, 2), (9, 1)):
        enable(system, irq, priority)
        system.pend(16 + irq)
    order = []
    while (number := system.next_exception(FREE)) is not None:
        system.enter(number)
        system.leave()
        order.append(number - 16)
    assert order == [9, 3, 4]


@given(active=st.integers(0, 7), pending=st.integers(0, 7), group=st.integers(0, 7))
def test_only_a_better_group_priority_interrupts_a_handler(active: int, pending: int, group: int) -> None:
    system, _ = make()
    system.write(SCS + 0xD0C, 4, 0x05FA0000 | group << 8)
    for irq, priority in ((1, active), (2, pending)):
        enable(system, irq, priority)
    system.enter(17)
    system.pend(18)
    mask = ~((2 << group) - 1) & 0xFF
    expected = (pending << 5 & mask) < (active << 5 & mask)
    assert (system.next_exception(FREE) == 18) is expected


def test_masks_hold_interrupts_back_but_do_not_prevent_waking() -> None:
    system, _ = make()
    enable(system, 7, 4)
    system.pend(23)
    assert system.next_exception(Masks(primask=1)) is None and system.wakes(Masks(primask=1))
    assert system.next_exception(Masks(basepri=4 << 5)) is None and not system.wakes(Masks(basepri=4 << 5))
    assert system.next_exception(Masks(basepri=5 << 5)) == 23
    assert system.next_exception(Masks(faultmask=1)) is None


def test_control_register_pends_and_clears_system_exceptions() -> None:
    system, _ = make()
    system.write(SCS + 0xD04, 4, 1 << 28 | 1 << 26)
    assert {PENDSV, SYSTICK} == {n for n in (PENDSV, SVCALL, SYSTICK) if system.read(SCS + 0xD04, 4) >> {
        PENDSV: 28, SVCALL: 31, SYSTICK: 26}[n] & 1}
    system.write(SCS + 0xD04, 4, 1 << 27)
    assert system.next_exception(FREE) == SYSTICK


def test_reset_request_needs_the_key() -> None:
    system, _ = make()
    system.write(SCS + 0xD0C, 4, 0x12340004)
    assert not system.reset_requested
    system.write(SCS + 0xD0C, 4, 0x05FA0004)
    assert system.reset_requested


def start_systick(system: SystemControl, reload: int, *, interrupt: bool = False) -> None:
    system.write(LOAD, 4, reload)
    system.write(VAL, 4, 0)
    system.write(CTRL, 4, 5 | interrupt << 1)


def value_after(system: SystemControl, time: VirtualTime, cycles: int) -> int:
    time.now_fs = cycles * time.cycle_fs
    return system.peek(VAL, 4)


def test_systick_counts_down_and_reloads() -> None:
    system, time = make()
    start_systick(system, 9)
    assert [value_after(system, time, n) for n in range(12)] == [0, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 9]


def test_count_flag_is_set_once_per_passage_and_cleared_by_reading() -> None:
    system, time = make()
    start_systick(system, 9)
    flags = []
    for cycle in range(1, 24):
        time.now_fs = cycle * time.cycle_fs
        flags.append(system.peek(CTRL, 4) >> 16 & 1)
        if flags[-1]:
            time.now_fs -= 2 * time.cycle_fs  # undo the step of the poll that follows
            system.read(CTRL, 4)
    assert flags[:9] == [0] * 9 and sum(flags) == 2


def test_systick_interrupt_repeats_every_period() -> None:
    system, time = make()
    start_systick(system, 999, interrupt=True)
    times = []
    for _ in range(3):
        time.jump()
        assert system.next_exception(FREE) == SYSTICK
        system.enter(SYSTICK)
        system.leave()
        times.append(time.now_fs // time.cycle_fs)
    assert times == [1000, 2000, 3000]


def test_systick_goes_on_from_its_value_when_the_clock_changes() -> None:
    system, time = make()
    start_systick(system, 999)
    time.now_fs = 101 * time.cycle_fs
    system.set_clock(50_000_000)
    before = system.peek(VAL, 4)
    time.now_fs += SECOND_FS // 10**6  # 50 cycles of the new clock
    assert before == 899 and system.peek(VAL, 4) == 849


@pytest.mark.parametrize("offset", [0xD08, 0xD88, 0xD24, 0x1004, 0x400, 0xD18])
def test_storage_registers_read_back(offset: int) -> None:
    system, _ = make()
    system.write(SCS + offset, 4, 0xE0E0E080)
    assert system.read(SCS + offset, 4) == 0xE0E0E080
