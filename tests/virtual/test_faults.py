"""How the board reports firmware that fails: with the cause and the place."""

import pytest

from ai8x.errors import HardwareFault
from ai8x.virtual.stop import StopCause

from .firmware import Build, FakeAccelerator, main_with, run

NOINLINE = "__attribute__((noinline)) "
SINK = "static volatile uint32_t sink;"


def test_null_pointer_is_reported_with_function_and_line(build: Build) -> None:
    before = SINK + NOINLINE + "static uint32_t first(volatile uint32_t *p)\n{\n    sink = 1;\n    return *p;\n}\n"
    result = run(build(main_with("volatile uint32_t *p = NULL; sink = first(p);", before=before)))
    assert result.cause is StopCause.BUS_FAULT and not result.passed and not result.returned
    assert "4-byte read from 0x00000000" in result.reason and "null pointer" in result.reason
    assert " at first" in result.reason and "(main.c:12)" in result.reason


def test_write_to_flash_is_reported(build: Build) -> None:
    result = run(build(main_with("REG32(0x10070000) = 1;")))
    assert result.cause is StopCause.BUS_FAULT
    assert "4-byte write to flash at 0x10070000" in result.reason and "main+0x" in result.reason


def test_access_to_nothing_is_reported(build: Build) -> None:
    result = run(build(main_with("*(volatile uint16_t *)0x60000002u = 1;")))
    assert "2-byte write to 0x60000002, where there is nothing at main+0x" in result.reason


def test_jump_to_nothing_names_the_caller(build: Build) -> None:
    result = run(build(main_with("void (*volatile f)(void) = (void (*)(void))0x30000001; f();")))
    assert result.cause is StopCause.BUS_FAULT
    assert "jump to 0x30000000" in result.reason and "main+0x" in result.reason


def test_stack_overflow_is_reported(build: Build) -> None:
    before = SINK + NOINLINE + """static uint32_t deep(uint32_t n) {
        volatile char room[512]; room[n % 512] = 1; return deep(n + 1) + room[n % 512]; }"""
    result = run(build(main_with("sink = deep(0);", before=before)))
    assert result.cause is StopCause.BUS_FAULT and "deep+0x" in result.reason


def test_sleeping_without_an_interrupt_is_a_deadlock(build: Build) -> None:
    result = run(build(main_with("NVIC_EnableIRQ(CNN_IRQn); MXC_LP_EnterSleepMode();")))
    assert result.cause is StopCause.DEADLOCK
    assert "enabled interrupts: 101; the accelerator was not started" in result.reason
    assert "MXC_LP_EnterSleepMode+0x" in result.reason


def test_sleeping_while_the_completion_interrupt_is_off_is_a_deadlock(build: Build) -> None:
    result = run(build(main_with("REG32(0x50100000) = 1; __WFI();")))
    assert result.cause is StopCause.DEADLOCK and "interrupt 101 is not enabled" in result.reason


def test_sleeping_before_the_input_has_arrived_is_a_deadlock(build: Build) -> None:
    body = "NVIC_EnableIRQ(CNN_IRQn); REG32(0x50100000) = 1; REG32(0x50000008) = 1; __WFI();"
    result = run(build(main_with(body)), accelerator=FakeAccelerator(fifo_words=2))
    assert result.cause is StopCause.DEADLOCK and "waits for more input words in its FIFO" in result.reason


def test_loop_that_nothing_can_end_is_reported_at_once(build: Build) -> None:
    result = run(build(main_with("for (;;) { }")))
    assert result.cause is StopCause.ENDLESS_LOOP and "at main+0x" in result.reason


def test_busy_loop_exceeds_the_budget(build: Build) -> None:
    result = run(build(main_with("for (;;) { sink++; }", before=SINK)), budget=1_000_000)
    assert result.cause is StopCause.BUDGET and "instruction budget of 1,000,000 exceeded at main+0x" in result.reason


def test_endless_polling_exceeds_the_budget(build: Build) -> None:
    result = run(build(main_with("while ((REG32(0x50000004) & 1) == 0) { }")), budget=1_000_000)
    assert result.cause is StopCause.BUDGET


def test_failure_function_is_named_with_its_caller(build: Build) -> None:
    before = NOINLINE + 'void fail(void) { printf("*** FAIL ***\\n"); while (1) { } }'
    result = run(build(main_with("fail();", before=before)))
    assert not result.passed and result.console == "*** FAIL ***\n"
    assert "fail() was called from main+0x" in result.reason


def test_failure_function_that_blinks_for_ever_is_ended(build: Build) -> None:
    before = NOINLINE + "void fail(void) { while (1) { LED_Toggle(0); MXC_Delay(MSEC(100)); } }"
    result = run(build(main_with("fail();", before=before)), budget=500_000_000)
    assert result.cause is StopCause.BUDGET and "fail() was called from main+0x" in result.reason


@pytest.mark.parametrize(("text", "reason"), [("FAIL", "says FAIL"), ("PASS but FAIL", "says FAIL"),
                                              ("done", "does not say PASS"), ("PASSED", "does not say PASS")])
def test_returning_from_main_alone_is_no_pass(build: Build, text: str, reason: str) -> None:
    result = run(build(main_with(f'printf("{text}\\n");')))
    assert result.returned and not result.passed and reason in result.reason


def test_failed_assertion_ends_the_run(build: Build) -> None:
    result = run(build("#include <assert.h>\n" + main_with("assert(SystemCoreClock == 1);")))
    assert not result.passed and "__assert_func() was called from main+0x" in result.reason
    assert "SystemCoreClock == 1" in result.console


def test_exit_is_reported_with_its_status(build: Build) -> None:
    result = run(build(main_with("exit(3);")))
    assert result.cause is StopCause.EXITED and "exit(3)" in result.reason


def test_breakpoint_and_undefined_instructions_are_reported(build: Build) -> None:
    assert run(build(main_with("__BKPT(1);"))).cause is StopCause.BREAKPOINT
    undefined = run(build(main_with('__asm volatile(".short 0xde01");')))
    assert undefined.cause is StopCause.UNDEFINED and "0xde01" in undefined.reason and "main+0x" in undefined.reason


@pytest.mark.parametrize("after", ["", "SCB->CPACR = 0xFu << 20;"], ids=["never", "too late"])
def test_floating_point_without_enabling_the_unit_is_reported(build: Build, after: str) -> None:
    before = "static volatile float value = 2.0f;"
    result = run(build(main_with(f"SCB->CPACR = 0; value = value * value; {after}", before=before)))
    assert result.cause is StopCause.FPU_DISABLED and "CPACR" in result.reason


def test_interrupt_without_handler_is_reported(build: Build) -> None:
    result = run(build(main_with("NVIC_EnableIRQ(GPIO1_IRQn); NVIC_SetPendingIRQ(GPIO1_IRQn); __DSB();")))
    assert result.cause is StopCause.ENDLESS_LOOP and "_Handler" in result.reason


def test_vector_table_entry_that_is_no_code_is_reported(build: Build) -> None:
    result = run(build(main_with("SCB->VTOR = 0x20010000; NVIC_SetPendingIRQ(GPIO1_IRQn); NVIC_EnableIRQ(GPIO1_IRQn);"
                                 "memset((void *)0x20010000, 0, 1024); __DSB();")))
    assert result.cause is StopCause.UNSUPPORTED and "IRQ 25 has no handler" in result.reason


def test_overwritten_exception_frame_is_reported(build: Build) -> None:
    before = """__attribute__((naked)) void GPIO0_IRQHandler(void) {
        __asm volatile("movs r0, #5\\n str r0, [sp, #28]\\n bx lr"); }"""
    body = "NVIC_EnableIRQ(GPIO0_IRQn); NVIC_SetPendingIRQ(GPIO0_IRQn); __DSB();"
    result = run(build(main_with(body, before=before)))
    assert result.cause is StopCause.BUS_FAULT and "overwritten" in result.reason


def test_reset_request_is_reported(build: Build) -> None:
    result = run(build(main_with("SCB->AIRCR = 0x05FA0004u; for (;;) { __NOP(); }")))
    assert result.cause is StopCause.RESET


def test_process_stack_is_refused(build: Build) -> None:
    body = """
    static uint32_t stack[64];
    SysTick_Config(1000);
    __asm volatile("msr psp, %0\\n mov r1, #2\\n msr control, r1\\n isb" :: "r"(stack + 64) : "r1", "memory");
    for (;;) { __NOP(); }
    """
    assert run(build(main_with(body))).cause is StopCause.UNSUPPORTED


class Strict(FakeAccelerator):
    def write(self, address: int, size: int, value: int) -> None:
        raise HardwareFault(f"address {address:#010x}: no power")


def test_fault_of_the_accelerator_is_raised_with_the_place_in_the_firmware(build: Build) -> None:
    before = SINK + NOINLINE + "static void touch(void) { sink = 1; sink = 2; REG32(0x50100008) = 4; sink = 3; }"
    elf = build(main_with("touch();", before=before))
    with pytest.raises(HardwareFault, match=r"0x50100008: no power; firmware at touch\+0x\w+ \(main.c:9\)") as caught:
        run(elf, accelerator=Strict())
    assert isinstance(caught.value.__cause__, HardwareFault)


def test_defect_of_a_device_model_is_not_hidden(build: Build) -> None:
    class Broken(FakeAccelerator):
        def read(self, address: int, size: int) -> int:
            raise ZeroDivisionError("defect")

    with pytest.raises(ZeroDivisionError):
        run(build(main_with("return (int)REG32(0x50100000);")), accelerator=Broken())
