"""The life of an accelerator run as the firmware sees it: start, completion, interrupt, stopwatch."""

import pytest

from ai8x.virtual.max78000 import Latency, run_firmware

from .firmware import CTRL, Build, FakeAccelerator, main_with, run

# The shape of generated code: stopwatch, LED marker, start bit; the handler acknowledges four quadrants.
INFERENCE = """
static volatile uint32_t cnn_time;
static void CNN_ISR(void) {
    for (uint32_t q = 0; q < 4; q++) { REG32(0x50100000 + q * 0x400000) &= ~0x1001u; }
    LED_Off(1);
    cnn_time = (uint32_t)MXC_TMR_SW_Stop(MXC_TMR0);
}
static void enable(void) {
    MXC_GCFR->reg3 = 0xF; MXC_GCFR->reg1 = 0xF; MXC_GCFR->reg0 = 0xF; MXC_GCFR->reg2 = 0; MXC_GCFR->reg3 = 0;
    MXC_GCR->pclkdiv = MXC_S_GCR_PCLKDIV_CNNCLKSEL_PCLK | DIVIDER;
    MXC_SYS_ClockEnable(MXC_SYS_PERIPH_CLOCK_CNN);
    MXC_NVIC_SetVector(CNN_IRQn, CNN_ISR);
}
static void start(void) {
    cnn_time = 0;
    MXC_TMR_SW_Start(MXC_TMR0); LED_On(1);
    REG32(0x50100000) = 0x100009;
}
"""
REPORT = 'printf("PASS\\nInference time: %u us\\n", (unsigned)cnn_time);'
SLEEP = "while (cnn_time == 0) { MXC_LP_EnterSleepMode(); }"
SPIN = "while (cnn_time == 0) { }"


def program(body: str, *, divider: str = "DIV1") -> str:
    define = f"#define DIVIDER MXC_S_GCR_PCLKDIV_CNNCLKDIV_{divider}\n"
    return main_with("enable(); " + body, before=define + INFERENCE)


@pytest.mark.parametrize("wait", [SLEEP, SPIN], ids=["sleep", "spin"])
def test_stopwatch_shows_the_latency(build: Build, wait: str) -> None:
    accelerator = FakeAccelerator()
    result = run(build(program("start();" + wait + REPORT)), cycles=50_000, accelerator=accelerator)
    assert result.passed and result.cnn_time_us in (1000, 1001)
    assert accelerator.completed == result.statistics.inferences == 1


# Published on silicon (spec/max78000-cnn.md 8.3 and 8.4): cycles of the formula, microseconds of the chip's stopwatch.
@pytest.mark.parametrize("wait", [SLEEP, SPIN], ids=["sleep", "spin"])
@pytest.mark.parametrize(("cycles", "time_us"), [(70_157, 1410), (85_265, 1712), (71_782, 1442), (129_319, 2593)],
                         ids=["mnist", "cifar-10", "kws20_v3", "cifar-100"])
def test_stopwatch_shows_what_silicon_showed(build: Build, cycles: int, time_us: int, wait: str) -> None:
    elf = build(program("start();" + wait + REPORT))
    assert run_firmware(elf, FakeAccelerator(), lambda: cycles).cnn_time_us == time_us


def test_start_at_any_moment_of_a_slice_gives_the_same_time(build: Build) -> None:
    body = """
    for (uint32_t shift = 0; shift < 40; shift++) {
        for (volatile uint32_t i = 0; i < 137 * shift; i++) { }
        start(); while (cnn_time == 0) { MXC_LP_EnterSleepMode(); }
        printf("%u\\n", (unsigned)cnn_time);
    }
    """
    times = [int(line) for line in run(build(program(body)), cycles=100_000).console.split()]
    assert len(times) == 40 and max(times) - min(times) <= 2


@pytest.mark.parametrize(("divider", "expected"), [("DIV1", 2000), ("DIV2", 4000), ("DIV16", 32000)])
def test_clock_divider_stretches_the_run(build: Build, divider: str, expected: int) -> None:
    result = run(build(program("start();" + SLEEP + REPORT, divider=divider)), cycles=100_000)
    assert result.cnn_time_us == pytest.approx(expected, abs=2)


def test_clock_change_during_a_run_applies_to_the_rest(build: Build) -> None:
    body = "start(); MXC_Delay(MSEC(1)); MXC_GCR->pclkdiv = MXC_S_GCR_PCLKDIV_CNNCLKDIV_DIV4;" + SLEEP + REPORT
    result = run(build(program(body)), cycles=100_000)
    assert result.cnn_time_us == pytest.approx(1000 + 4 * 1000, abs=5)


def test_clearing_the_start_bit_cancels_and_setting_it_starts_anew(build: Build) -> None:
    body = """
    start(); MXC_Delay(MSEC(1));
    REG32(0x50100000) &= ~1u;
    MXC_Delay(MSEC(10));
    printf("%u\\n", (unsigned)cnn_time);
    REG32(0x50100000) |= 1u;
    """
    accelerator = FakeAccelerator()
    result = run(build(program(body + SLEEP + REPORT)), cycles=100_000, accelerator=accelerator)
    assert result.console.startswith("0\n") and accelerator.completed == 1
    assert result.cnn_time_us == pytest.approx(1000 + 10_000 + 2000, abs=5)


def test_several_inferences_complete_one_by_one(build: Build) -> None:
    accelerator = FakeAccelerator()
    body = "for (int i = 0; i < 5; i++) { start(); " + SLEEP + " }" + REPORT
    assert run(build(program(body)), accelerator=accelerator).passed
    assert accelerator.completed == 5


def test_run_fed_through_the_fifo_ends_after_the_last_word(build: Build) -> None:
    body = """
    start();
    for (uint32_t i = 0; i < 100; i++) { MXC_Delay(100); while (REG32(0x50000004) & 1u) { } REG32(0x50000008) = i; }
    """
    result = run(build(program(body + SLEEP + REPORT)), cycles=50_000, accelerator=FakeAccelerator(fifo_words=100))
    assert result.statistics.fifo_words == 100
    assert result.cnn_time_us == pytest.approx(10_000, rel=0.01)  # the supply is slower than the 1000 us of the model


def test_waiting_for_a_full_fifo_lets_time_pass(build: Build) -> None:
    class Busy(FakeAccelerator):
        polls = 0

        def read(self, address: int, size: int) -> int:
            if address == 0x50000004:
                self.polls += 1
                return int(self.polls < 1000)
            return super().read(address, size)

    result = run(build(program("while (REG32(0x50000004) & 1u) { }" + REPORT)), accelerator=Busy())
    assert result.time_us > 1000 * 2 * 0.01


def test_completion_can_be_polled_in_the_control_register(build: Build) -> None:
    body = "NVIC_DisableIRQ(CNN_IRQn); start(); while ((REG32(0x50100000) & 0x1000u) == 0) { } CNN_ISR();" + REPORT
    result = run(build(program(body)), cycles=100_000)
    assert result.passed and result.cnn_time_us == pytest.approx(2000, abs=3)


def test_observer_sees_every_write_in_order_and_power_registers_are_forwarded(build: Build) -> None:
    writes: list[tuple[int, int, int]] = []
    accelerator = FakeAccelerator()
    body = """
    *(volatile uint8_t *)0x50180001u = 1;
    REG32(0x50180000) = 0x11223344; REG32(0x50180004) = 0x55667788; REG32(0x51000000) = 9;
    """
    run_firmware(build(program(body)), accelerator, Latency(cycles=lambda: 1), on_bus_write=lambda *w: writes.append(w))
    assert writes == [(0x50180001, 1, 1), (0x50180000, 4, 0x11223344), (0x50180004, 4, 0x55667788), (0x51000000, 4, 9)]
    gcfr = [(address & 0xFF, value) for address, value in accelerator.power_writes if address & ~0xFF == 0x40005800]
    assert gcfr == [(0xC, 0xF), (4, 0xF), (0, 0xF), (8, 0), (0xC, 0)]
    assert (0x40000018, 4 << 14) in accelerator.power_writes
    assert [value >> 25 & 1 for address, value in accelerator.power_writes if address == 0x40000024][-1] == 0


def test_latency_is_asked_for_at_every_start(build: Build) -> None:
    asked: list[int] = []

    def latency() -> int:
        asked.append(accelerator.words[CTRL])
        return 500

    accelerator = FakeAccelerator()
    body = "for (int i = 0; i < 3; i++) { start(); " + SLEEP + " }" + REPORT
    assert run_firmware(build(program(body)), accelerator, latency).passed
    assert asked == [0x100009] * 3
