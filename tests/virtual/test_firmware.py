"""What the virtual board does with real machine code: time, interrupts, floating point."""

import pytest

from ai8x.virtual.stop import StopCause

from .firmware import Build, main_with, run

PASS = 'printf("PASS\\n");'


def test_printing_and_returning_from_main_passes(build: Build) -> None:
    result = run(build(main_with('printf("%d %s %5.2f %lld\\n", -7, "text", 2.5, 1LL << 40);' + PASS)))
    assert result.console == "-7 text  2.50 1099511627776\nPASS\n"
    assert result.passed and result.returned and result.cause is StopCause.RETURNED
    assert result.reason == "main returned 0"


def test_output_without_line_end_is_not_lost(build: Build) -> None:
    assert run(build(main_with('printf("PASS");'))).passed


def test_heap_grows_up_to_the_stack_and_no_further(build: Build) -> None:
    body = """
    unsigned blocks = 0;
    while (malloc(4096) != NULL) { blocks++; }
    printf("%u\\n", blocks);
    """
    blocks = int(run(build(main_with(body))).console)
    assert 25 <= blocks <= 31  # 128 KiB less data and 4 KiB of stack


def test_delays_end_after_few_polls_and_take_the_right_time(build: Build) -> None:
    body = """
    for (int i = 0; i < 10; i++) {
        LED_On(0); MXC_Delay(MSEC(300));
        LED_Off(0); MXC_Delay(SEC(2));
    }
    """
    result = run(build(main_with(body + PASS)))
    assert result.passed
    assert result.time_us == pytest.approx(23e6, rel=1e-4)
    assert result.statistics.peripheral_accesses < 1000  # SysTick is polled, the bus is not


def test_timer_delay_takes_the_right_time(build: Build) -> None:
    result = run(build(main_with("MXC_TMR_Delay(MXC_TMR1, SEC(3));" + PASS)))
    assert result.passed and result.time_us == pytest.approx(3e6, rel=1e-4)


@pytest.mark.parametrize("timer", range(6))
def test_stopwatch_counts_64_peripheral_clocks_from_one(build: Build, timer: int) -> None:
    body = f"""
    MXC_TMR_SW_Start(MXC_TMR{timer});
    MXC_Delay(MSEC(1));
    printf("%d\\n", MXC_TMR_SW_Stop(MXC_TMR{timer}));
    """
    assert run(build(main_with(body))).console == "1000\n"  # 1 + 781 steps of 1.28 us, rounded down


def test_stopwatch_follows_the_clock(build: Build) -> None:
    body = """
    MXC_SYS_Clock_Select(MXC_SYS_CLOCK_ISO);
    MXC_TMR_SW_Start(MXC_TMR0);
    MXC_Delay(MSEC(32));
    printf("%d %u\\n", MXC_TMR_SW_Stop(MXC_TMR0), (unsigned)SystemCoreClock);
    """
    assert run(build(main_with(body))).console == "32002 60000000\n"  # 15001 steps of 64 / 30 MHz


TICKER = """
static volatile unsigned ticks;
void TMR0_IRQHandler(void) { ticks++; MXC_TMR0->intfl = 1; }
static void start_ticker(uint32_t period) {
    MXC_SYS_ClockEnable(MXC_SYS_PERIPH_CLOCK_TMR0);
    MXC_TMR0->ctrl0 = 0;
    MXC_TMR0->ctrl1 = MXC_F_TMR_CTRL1_CASCADE | MXC_F_TMR_CTRL1_IE_A;
    MXC_TMR0->cnt = 1;
    MXC_TMR0->cmp = period + 1;
    NVIC_EnableIRQ(TMR0_IRQn);
    MXC_TMR0->ctrl0 = MXC_V_TMR_CTRL0_MODE_A_CONTINUOUS | MXC_F_TMR_CTRL0_CLKEN_A | MXC_F_TMR_CTRL0_EN_A;
}
"""


def test_timer_interrupt_wakes_from_sleep(build: Build) -> None:
    body = 'start_ticker(50000); while (ticks < 7) { MXC_LP_EnterSleepMode(); } printf("%u\\n", ticks);' + PASS
    result = run(build(main_with(body, before=TICKER)))
    assert result.passed and result.console.startswith("7\n")
    assert result.time_us == pytest.approx(7000, abs=20)


def test_timer_interrupt_ends_a_spinning_loop(build: Build) -> None:
    result = run(build(main_with("start_ticker(500000); while (ticks < 3) { }" + PASS, before=TICKER)))
    assert result.passed and result.time_us == pytest.approx(30_000, abs=50)


def test_interrupt_that_comes_between_test_and_sleep_still_wakes(build: Build) -> None:
    body = """
    start_ticker(50000);
    __disable_irq();
    while (ticks < 5) { MXC_LP_EnterSleepMode(); __enable_irq(); __ISB(); __disable_irq(); }
    __enable_irq();
    """
    assert run(build(main_with(body + PASS, before=TICKER))).passed


def test_wait_for_event_returns_at_once_after_an_event(build: Build) -> None:
    result = run(build(main_with("__SEV(); __WFE(); start_ticker(5000); __WFE(); __WFE();" + PASS, before=TICKER)))
    assert result.passed and result.time_us == pytest.approx(100, abs=20)


def test_systick_interrupt_and_delay_beside_it(build: Build) -> None:
    before = "static volatile unsigned ticks; void SysTick_Handler(void) { ticks++; }"
    body = 'SysTick_Config(100000); MXC_Delay(MSEC(25)); printf("%u\\n", ticks); while (ticks < 40) { __WFI(); }' + PASS
    result = run(build(main_with(body, before=before)))
    assert result.passed and result.console.startswith("25\n")
    assert result.time_us == pytest.approx(40_000, abs=20)


def test_supervisor_call_sees_and_changes_the_stacked_registers(build: Build) -> None:
    before = """
    void handle(uint32_t *frame) { frame[0] = frame[0] * 10u + ((uint8_t *)frame[6])[-2]; }
    __attribute__((naked)) void SVC_Handler(void) { __asm volatile("mov r0, sp\\n b handle"); }
    static uint32_t call(uint32_t value) {
        register uint32_t r0 __asm("r0") = value;
        __asm volatile("svc #7" : "+r"(r0) : : "memory");
        return r0;
    }
    """
    assert run(build(main_with('printf("%u\\n", (unsigned)call(12));', before=before))).console == "127\n"


def test_pended_handler_runs_before_the_instruction_behind_the_barrier(build: Build) -> None:
    before = """
    static volatile unsigned order;
    void PendSV_Handler(void) { order = order * 10 + 1; }
    void GPIO0_IRQHandler(void) { order = order * 10 + 2; SCB->ICSR = SCB_ICSR_PENDSVSET_Msk; }
    """
    body = """
    NVIC_SetPriority(PendSV_IRQn, 7);
    NVIC_EnableIRQ(GPIO0_IRQn);
    NVIC_SetPendingIRQ(GPIO0_IRQn); __DSB(); __ISB();
    printf("%u\\n", order);
    """
    assert run(build(main_with(body, before=before))).console == "21\n"


def test_urgent_interrupt_interrupts_a_handler_and_equal_one_waits(build: Build) -> None:
    before = """
    static volatile unsigned order;
    static void note(unsigned digit) { order = order * 10 + digit; }
    void GPIO0_IRQHandler(void) {
        note(1); NVIC_SetPendingIRQ(GPIO1_IRQn); NVIC_SetPendingIRQ(RISCV_IRQn); __DSB(); __ISB(); note(2);
    }
    void GPIO1_IRQHandler(void) { note(3); }
    void RISCV_IRQHandler(void) { note(4); }
    """
    body = """
    NVIC_SetPriority(GPIO0_IRQn, 4); NVIC_SetPriority(GPIO1_IRQn, 4); NVIC_SetPriority(RISCV_IRQn, 1);
    NVIC_EnableIRQ(GPIO0_IRQn); NVIC_EnableIRQ(GPIO1_IRQn); NVIC_EnableIRQ(RISCV_IRQn);
    NVIC_SetPendingIRQ(GPIO0_IRQn); __DSB(); __ISB();
    printf("%u %u\\n", order, (unsigned)__get_IPSR());
    """
    assert run(build(main_with(body, before=before))).console == "1423 0\n"


def test_base_priority_holds_interrupts_back_until_it_is_lowered(build: Build) -> None:
    before = "static volatile unsigned seen; void GPIO0_IRQHandler(void) { seen = 1; }"
    body = """
    NVIC_SetPriority(GPIO0_IRQn, 4); NVIC_EnableIRQ(GPIO0_IRQn);
    __set_BASEPRI(3u << 5); NVIC_SetPendingIRQ(GPIO0_IRQn); __DSB(); __ISB();
    unsigned before = seen;
    __set_BASEPRI(0);
    printf("%u %u\\n", before, seen);
    """
    assert run(build(main_with(body, before=before))).console == "0 1\n"


def test_vector_installed_at_run_time_is_called_and_enabled(build: Build) -> None:
    before = "static volatile unsigned seen; static void handler(void) { seen++; }"
    body = """
    MXC_NVIC_SetVector(GPIO1_IRQn, handler); NVIC_SetPendingIRQ(GPIO1_IRQn); __DSB(); __ISB();
    NVIC_SetVector(GPIO0_IRQn, (uint32_t)handler); NVIC_SetPendingIRQ(GPIO0_IRQn); __DSB(); __ISB();
    printf("%u\\n", seen);
    """
    assert run(build(main_with(body, before=before))).console == "2\n"


MIXED_WORK = """
static volatile unsigned ticks;
static volatile float shared = 1.0f;
static volatile uint32_t origin = 1;
void SysTick_Handler(void) {
    ticks++;
    for (int i = 0; i < 5; i++) { shared = shared * 1.5f - 0.25f; if (shared > 1000.0f) { shared = 1.0f; } }
}
static uint32_t work(void) {
    uint64_t sum = origin; float value = 0.5f;
    for (uint32_t i = 0; i < 20000; i++) {
        sum = sum * 6364136223846793005ULL + i;
        value = value * 1.0001f + (float)(sum & 15) * 0.01f;
        if (value > 100.0f) { value -= 99.0f; }
    }
    uint32_t bits; memcpy(&bits, &value, 4);
    return (uint32_t)(sum >> 32) ^ (uint32_t)sum ^ bits;
}
"""


def test_interrupts_preserve_flags_and_floating_point_registers(build: Build) -> None:
    body = """
    uint32_t quiet = work();
    SysTick_Config(997);
    uint32_t disturbed = work();
    SysTick->CTRL = 0;
    printf("%s %s\\n", quiet == disturbed ? "equal" : "different", ticks > 50 ? "often" : "seldom");
    """
    assert run(build(main_with(body, before=MIXED_WORK))).console == "equal often\n"


def test_memory_is_arbitrary_before_the_start_and_repeats_with_the_seed(build: Build) -> None:
    elf = build(main_with('printf("%08x\\n", (unsigned)REG32(0x20010000));'))
    first, again, other = (run(elf, seed=seed).console for seed in (1, 1, 2))
    assert first == again != other


def test_pins_read_back_what_was_written(build: Build) -> None:
    body = """
    mxc_gpio_cfg_t pin = { .port = MXC_GPIO2, .mask = MXC_GPIO_PIN_5, .func = MXC_GPIO_FUNC_OUT };
    MXC_GPIO_Config(&pin);
    MXC_GPIO_OutSet(MXC_GPIO2, MXC_GPIO_PIN_5 | MXC_GPIO_PIN_1);
    MXC_GPIO_OutClr(MXC_GPIO2, MXC_GPIO_PIN_1);
    MXC_GPIO_OutToggle(MXC_GPIO2, MXC_GPIO_PIN_0);
    printf("%x %x\\n", (unsigned)MXC_GPIO_InGet(MXC_GPIO2, 0xFF), (unsigned)MXC_GPIO2->outen);
    """
    assert run(build(main_with(body))).console == "21 20\n"


def test_unmodelled_peripherals_are_storage_and_are_named(build: Build) -> None:
    result = run(build(main_with('REG32(0x4001E000) = 5; printf("%u\\n", (unsigned)REG32(0x4001E000));')))
    assert result.console == "5\n"
    assert result.statistics.unknown_addresses == (0x4001E000,)


def test_cycle_counter_runs_with_the_clock(build: Build) -> None:
    body = """
    CoreDebug->DEMCR |= CoreDebug_DEMCR_TRCENA_Msk; DWT->CTRL |= DWT_CTRL_CYCCNTENA_Msk;
    uint32_t start = DWT->CYCCNT; MXC_Delay(MSEC(2)); uint32_t cycles = DWT->CYCCNT - start;
    printf("%s\\n", cycles >= 200000 && cycles < 200200 ? "right" : "wrong");
    """
    assert run(build(main_with(body))).console == "right\n"
