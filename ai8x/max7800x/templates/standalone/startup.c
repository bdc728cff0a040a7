/*
 * Start-up code: vector table, memory initialisation, floating-point unit, then main.
 *
 * SPDX-License-Identifier: 0BSD
 */

#include <stdint.h>
#include <stdio.h>

#include "mxc.h"

typedef void (*handler_t)(void);

/* Placed by the linker script. */
extern uint32_t __stack_top[];
extern const uint32_t __data_load[];
extern uint32_t __data_start[];
extern uint32_t __data_end[];
extern uint32_t __bss_start[];
extern uint32_t __bss_end[];
extern const handler_t __preinit_array_start[];
extern const handler_t __preinit_array_end[];
extern const handler_t __init_array_start[];
extern const handler_t __init_array_end[];

extern int main(void);
void Reset_Handler(void);
void Default_Handler(void);

/* Handlers that an application may define. */
#define WEAK_HANDLER(name) void name(void) __attribute__((weak, alias("Default_Handler")))

WEAK_HANDLER(NMI_Handler);
WEAK_HANDLER(HardFault_Handler);
WEAK_HANDLER(MemManage_Handler);
WEAK_HANDLER(BusFault_Handler);
WEAK_HANDLER(UsageFault_Handler);
WEAK_HANDLER(SVC_Handler);
WEAK_HANDLER(DebugMon_Handler);
WEAK_HANDLER(PendSV_Handler);
WEAK_HANDLER(SysTick_Handler);
WEAK_HANDLER(TMR0_IRQHandler);
WEAK_HANDLER(TMR1_IRQHandler);
WEAK_HANDLER(TMR2_IRQHandler);
WEAK_HANDLER(TMR3_IRQHandler);
WEAK_HANDLER(TMR4_IRQHandler);
WEAK_HANDLER(TMR5_IRQHandler);
WEAK_HANDLER(UART0_IRQHandler);
WEAK_HANDLER(GPIO0_IRQHandler);
WEAK_HANDLER(GPIO1_IRQHandler);
WEAK_HANDLER(RISCV_IRQHandler);
WEAK_HANDLER(CNN_FIFO_IRQHandler);
WEAK_HANDLER(CNN_IRQHandler);

#define NONE_1 Default_Handler
#define NONE_2 NONE_1, NONE_1
#define NONE_5 NONE_2, NONE_2, NONE_1
#define NONE_9 NONE_5, NONE_2, NONE_2
#define NONE_36 NONE_9, NONE_9, NONE_9, NONE_9
#define NONE_37 NONE_36, NONE_1

typedef struct {
    uint32_t *stack;
    handler_t handlers[MXC_IRQ_COUNT - 1];
} vector_table_t;

__attribute__((section(".vectors"), used)) const vector_table_t __vectors = {
    __stack_top,
    {
        Reset_Handler,
        NMI_Handler,
        HardFault_Handler,
        MemManage_Handler,
        BusFault_Handler,
        UsageFault_Handler,
        NONE_2, /* 7, 8 */
        NONE_2, /* 9, 10 */
        SVC_Handler,
        DebugMon_Handler,
        NONE_1, /* 13 */
        PendSV_Handler,
        SysTick_Handler,
        NONE_5, /* interrupts 0 to 4 */
        TMR0_IRQHandler,
        TMR1_IRQHandler,
        TMR2_IRQHandler,
        TMR3_IRQHandler,
        TMR4_IRQHandler,
        TMR5_IRQHandler,
        NONE_2, /* 11, 12 */
        NONE_1, /* 13 */
        UART0_IRQHandler,
        NONE_9, /* 15 to 23 */
        GPIO0_IRQHandler,
        GPIO1_IRQHandler,
        NONE_37, /* 26 to 62 */
        RISCV_IRQHandler,
        NONE_36, /* 64 to 99 */
        CNN_FIFO_IRQHandler,
        CNN_IRQHandler,
        NONE_2, /* 102, 103 */
    },
};

/* An exception nobody handles: stay here, where a debugger shows it. */
void Default_Handler(void)
{
    for (;;) {
    }
}

static void call_all(const handler_t *first, const handler_t *end)
{
    for (; first < end; first++) {
        (*first)();
    }
}

static void init_memory(void)
{
    const uint32_t *from = __data_load;

    for (uint32_t *to = __data_start; to < __data_end; to++) {
        *to = *from++;
    }
    for (uint32_t *to = __bss_start; to < __bss_end; to++) {
        *to = 0;
    }
}

__attribute__((noreturn, used)) void Reset_Handler(void)
{
    SCB->VTOR = (uint32_t)(uintptr_t)&__vectors;
    SCB->CPACR |= 0xFu << 20; /* full access to the floating-point unit */
    __DSB();
    __ISB();

    init_memory();
    SystemCoreClockUpdate();
    MXC_ICC_Enable(MXC_ICC0);
    (void)Board_Init();
    (void)setvbuf(stdout, NULL, _IONBF, 0); /* what is printed appears at once */

    call_all(__preinit_array_start, __preinit_array_end);
    call_all(__init_array_start, __init_array_end);

    (void)main();

    for (;;) {
        MXC_LP_EnterSleepMode();
    }
}
