/*
 * Board support: clocks, console, delays, timers, pins, LEDs, sleep and the C library's system calls.
 *
 * Every wait ends. Ready bits are polled MAX_POLLS times. A delay gives up after as many polls as it has clock cycles:
 * since a poll takes several, a counter that runs is always faster.
 *
 * SPDX-License-Identifier: 0BSD
 */

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "mxc.h"

#define REG32(address) (*(volatile uint32_t *)(uintptr_t)(address))

#ifndef MAX_POLLS
#define MAX_POLLS 20000000u /* a second or more: crystals take the longest to start */
#endif
#define CONSOLE_POLLS 100000u /* milliseconds; a character takes 0.1 ms */

uint32_t SystemCoreClock = ISO_FREQ;

/* Poll until one of the bits is set; false if that takes too long. */
static bool wait_for(const volatile uint32_t *reg, uint32_t bits)
{
    for (uint32_t polls = 0; polls < MAX_POLLS; polls++) {
        if ((*reg & bits) != 0) {
            return true;
        }
    }
    return false;
}

/* ---- clocks ------------------------------------------------------------------------------------------------ */

static uint32_t source_frequency(uint32_t selection)
{
    switch (selection) {
    case MXC_SYS_CLOCK_IPO:
        return IPO_FREQ;
    case MXC_SYS_CLOCK_IBRO:
        return IBRO_FREQ;
    case MXC_SYS_CLOCK_ERTCO:
        return ERTCO_FREQ;
    case MXC_SYS_CLOCK_INRO:
        return INRO_FREQ;
    default:
        return ISO_FREQ;
    }
}

void SystemCoreClockUpdate(void)
{
    const uint32_t clkctrl = MXC_GCR->clkctrl;
    const uint32_t selection = (clkctrl & MXC_F_GCR_CLKCTRL_SYSCLK_SEL) >> MXC_F_GCR_CLKCTRL_SYSCLK_SEL_POS;
    const uint32_t shift = (clkctrl & MXC_F_GCR_CLKCTRL_SYSCLK_DIV) >> MXC_F_GCR_CLKCTRL_SYSCLK_DIV_POS;

    SystemCoreClock = source_frequency(selection) >> shift;
}

static bool enable_oscillator(uint32_t enable, uint32_t ready)
{
    MXC_GCR->clkctrl |= enable;
    return wait_for(&MXC_GCR->clkctrl, ready);
}

int MXC_SYS_Clock_Select(mxc_sys_system_clock_t clock)
{
    bool is_running = false;

    switch (clock) {
    case MXC_SYS_CLOCK_IPO:
        is_running = enable_oscillator(MXC_F_GCR_CLKCTRL_IPO_EN, MXC_F_GCR_CLKCTRL_IPO_RDY);
        break;
    case MXC_SYS_CLOCK_ISO:
        is_running = enable_oscillator(MXC_F_GCR_CLKCTRL_ISO_EN, MXC_F_GCR_CLKCTRL_ISO_RDY);
        break;
    case MXC_SYS_CLOCK_IBRO:
        is_running = enable_oscillator(MXC_F_GCR_CLKCTRL_IBRO_EN, MXC_F_GCR_CLKCTRL_IBRO_RDY);
        break;
    case MXC_SYS_CLOCK_ERTCO:
        is_running = enable_oscillator(MXC_F_GCR_CLKCTRL_ERTCO_EN, MXC_F_GCR_CLKCTRL_ERTCO_RDY);
        break;
    case MXC_SYS_CLOCK_INRO:
        is_running = true; /* always */
        break;
    default:
        return E_BAD_PARAM;
    }
    if (!is_running) {
        return E_TIME_OUT;
    }

    MXC_GCR->clkctrl = (MXC_GCR->clkctrl & ~MXC_F_GCR_CLKCTRL_SYSCLK_SEL) |
                       ((uint32_t)clock << MXC_F_GCR_CLKCTRL_SYSCLK_SEL_POS);
    if (!wait_for(&MXC_GCR->clkctrl, MXC_F_GCR_CLKCTRL_SYSCLK_RDY)) {
        return E_TIME_OUT;
    }
    SystemCoreClockUpdate();

    return E_NO_ERROR;
}

static volatile uint32_t *clock_disable_register(mxc_sys_periph_clock_t clock)
{
    if ((uint32_t)clock >= 64u) {
        return &MXC_LPGCR->pclkdis;
    }
    return (uint32_t)clock >= 32u ? &MXC_GCR->pclkdis1 : &MXC_GCR->pclkdis0;
}

void MXC_SYS_ClockEnable(mxc_sys_periph_clock_t clock)
{
    *clock_disable_register(clock) &= ~(1u << ((uint32_t)clock % 32u));
}

void MXC_SYS_ClockDisable(mxc_sys_periph_clock_t clock)
{
    *clock_disable_register(clock) |= 1u << ((uint32_t)clock % 32u);
}

int MXC_SYS_IsClockEnabled(mxc_sys_periph_clock_t clock)
{
    return (*clock_disable_register(clock) & (1u << ((uint32_t)clock % 32u))) == 0 ? 1 : 0;
}

/* ---- instruction cache ------------------------------------------------------------------------------------- */

#define ICC_ENABLE (1u << 0)
#define ICC_READY (1u << 16)

void MXC_ICC_Disable(mxc_icc_regs_t *icc)
{
    icc->ctrl &= ~ICC_ENABLE;
}

void MXC_ICC_Enable(mxc_icc_regs_t *icc)
{
    MXC_ICC_Disable(icc);
    icc->invalidate = 1u;
    if (wait_for(&icc->ctrl, ICC_READY)) { /* else it stays off: slower, but right */
        icc->ctrl |= ICC_ENABLE;
        (void)wait_for(&icc->ctrl, ICC_READY);
    }
}

#if !defined(__riscv) /* what differs on the other core is in riscv/board_riscv.c */

/* ---- interrupts and sleep ---------------------------------------------------------------------------------- */

static void (*ram_vectors[MXC_IRQ_COUNT])(void) __attribute__((aligned(512)));

void MXC_NVIC_SetVector(IRQn_Type irq, void (*handler)(void))
{
    const uint32_t table = (uint32_t)(uintptr_t)ram_vectors;

    if (SCB->VTOR != table) {
        memcpy(ram_vectors, (const void *)(uintptr_t)SCB->VTOR, sizeof(ram_vectors));
        __DMB();
        SCB->VTOR = table;
        __DSB();
    }
    ram_vectors[irq + 16] = handler;
    __DSB();
    NVIC_EnableIRQ(irq);
}

#define PWRSEQ_LPPWST 0x40006830u

void MXC_LP_EnterSleepMode(void)
{
    static const uint32_t wake_status[] = { 0x40006804u, 0x4000680Cu, 0x40006814u, 0x4000681Cu, PWRSEQ_LPPWST };

    for (size_t i = 0; i < sizeof(wake_status) / sizeof(wake_status[0]); i++) {
        REG32(wake_status[i]) = 0xFFFFFFFFu; /* written ones clear */
    }
    SCB->SCR &= ~SCB_SCR_SLEEPDEEP_Msk;
    __DSB();
    __WFI();
}

#endif

/* ---- delays and timers ------------------------------------------------------------------------------------- */

static uint64_t microseconds_to_cycles(uint32_t us, uint32_t frequency)
{
    return (uint64_t)us * frequency / 1000000u;
}

#if !defined(__riscv)

/* The application runs SysTick itself: watch it instead of reprogramming it. False if it does not count. */
static bool delay_beside_application(uint64_t cycles)
{
    const uint32_t period = SysTick->LOAD + 1u;
    uint32_t before = SysTick->VAL;
    uint64_t elapsed = 0;

    for (uint64_t polls = 0; elapsed < cycles && polls < cycles; polls++) {
        const uint32_t now = SysTick->VAL;

        elapsed += now <= before ? before - now : before + period - now;
        before = now;
    }
    return elapsed >= cycles;
}

/* Whether SysTick, which was started, comes to its end; reading the flag clears it. */
static bool systick_ends(uint32_t cycles)
{
    for (uint32_t polls = 0; polls < cycles; polls++) {
        if ((SysTick->CTRL & SysTick_CTRL_COUNTFLAG_Msk) != 0) {
            return true;
        }
    }
    return false;
}

int MXC_Delay(uint32_t us)
{
    uint64_t cycles = microseconds_to_cycles(us, SystemCoreClock);

    if ((SysTick->CTRL & SysTick_CTRL_ENABLE_Msk) != 0) {
        return delay_beside_application(cycles) ? E_NO_ERROR : E_TIME_OUT;
    }

    while (cycles > 1u) {
        const uint32_t part = cycles > SysTick_LOAD_RELOAD_Msk ? SysTick_LOAD_RELOAD_Msk : (uint32_t)cycles;
        bool has_ended;

        SysTick->LOAD = part - 1u;
        SysTick->VAL = 0u;
        SysTick->CTRL = SysTick_CTRL_CLKSOURCE_Msk | SysTick_CTRL_ENABLE_Msk;
        has_ended = systick_ends(part);
        SysTick->CTRL = 0u;
        if (!has_ended) {
            return E_TIME_OUT;
        }
        cycles -= part;
    }

    return E_NO_ERROR;
}

#endif

static void timer_clock_enable(const mxc_tmr_regs_t *tmr)
{
    if (tmr == MXC_TMR4) {
        MXC_SYS_ClockEnable(MXC_SYS_PERIPH_CLOCK_TMR4);
    } else if (tmr == MXC_TMR5) {
        MXC_SYS_ClockEnable(MXC_SYS_PERIPH_CLOCK_TMR5);
    } else { /* 0 to 3 lie 4 KiB apart, their clock bits side by side */
        const uint32_t index = ((uint32_t)(uintptr_t)tmr >> 12) & 3u;

        MXC_SYS_ClockEnable((mxc_sys_periph_clock_t)((uint32_t)MXC_SYS_PERIPH_CLOCK_TMR0 + index));
    }
}

/* Start counting peripheral clocks / 2^divider from 1, as one 32-bit timer; false if the timer does not respond. */
static bool timer_start(mxc_tmr_regs_t *tmr, uint32_t mode, uint32_t divider, uint32_t compare)
{
    timer_clock_enable(tmr);
    tmr->ctrl0 = 0u;
    tmr->ctrl1 = MXC_F_TMR_CTRL1_CASCADE;
    tmr->ctrl0 = mode | (divider << MXC_F_TMR_CTRL0_CLKDIV_A_POS) | MXC_F_TMR_CTRL0_CLKEN_A;
    if (!wait_for(&tmr->ctrl1, MXC_F_TMR_CTRL1_CLKRDY_A)) {
        return false;
    }
    tmr->intfl = MXC_F_TMR_INTFL_IRQ_A;
    tmr->cnt = 1u;
    if (!wait_for(&tmr->intfl, MXC_F_TMR_INTFL_WRDONE_A)) {
        return false;
    }
    tmr->cmp = compare;
    tmr->ctrl0 |= MXC_F_TMR_CTRL0_EN_A;
    return wait_for(&tmr->ctrl1, MXC_F_TMR_CTRL1_CLKEN_A);
}

#define STOPWATCH_DIVIDER 6u /* 64 clocks a step */

void MXC_TMR_SW_Start(mxc_tmr_regs_t *tmr)
{
    (void)timer_start(tmr, MXC_V_TMR_CTRL0_MODE_A_CONTINUOUS, STOPWATCH_DIVIDER, 0xFFFFFFFFu);
}

int MXC_TMR_SW_Stop(mxc_tmr_regs_t *tmr)
{
    const uint32_t steps = tmr->cnt;

    tmr->ctrl0 &= ~MXC_F_TMR_CTRL0_EN_A;

    return (int)(((uint64_t)steps << STOPWATCH_DIVIDER) * 1000000u / PeripheralClock);
}

void MXC_TMR_Delay(mxc_tmr_regs_t *tmr, uint32_t us)
{
    uint64_t cycles = microseconds_to_cycles(us, PeripheralClock);

    while (cycles > 0u) {
        const uint32_t part = cycles > 0xFFFFFFFEu ? 0xFFFFFFFEu : (uint32_t)cycles;

        if (!timer_start(tmr, MXC_V_TMR_CTRL0_MODE_A_ONE_SHOT, 0u, part + 1u)) {
            return;
        }
        for (uint32_t polls = 0; polls < part && (tmr->intfl & MXC_F_TMR_INTFL_IRQ_A) == 0; polls++) {
            /* Its flag ends the loop; see the top of this file. */
        }
        tmr->ctrl0 &= ~MXC_F_TMR_CTRL0_EN_A;
        tmr->intfl = MXC_F_TMR_INTFL_IRQ_A;
        cycles -= part;
    }
}

/* ---- pins -------------------------------------------------------------------------------------------------- */

static void set_bits(volatile uint32_t *reg, uint32_t mask, bool on)
{
    *reg = on ? *reg | mask : *reg & ~mask;
}

int MXC_GPIO_Config(const mxc_gpio_cfg_t *cfg)
{
    mxc_gpio_regs_t *const port = cfg->port;
    const bool pulls_up = cfg->pad == MXC_GPIO_PAD_PULL_UP || cfg->pad == MXC_GPIO_PAD_WEAK_PULL_UP;
    const bool pulls_down = cfg->pad == MXC_GPIO_PAD_PULL_DOWN || cfg->pad == MXC_GPIO_PAD_WEAK_PULL_DOWN;

    if (port == MXC_GPIO0) {
        MXC_SYS_ClockEnable(MXC_SYS_PERIPH_CLOCK_GPIO0);
    } else if (port == MXC_GPIO1) {
        MXC_SYS_ClockEnable(MXC_SYS_PERIPH_CLOCK_GPIO1);
    } else if (port == MXC_GPIO2) {
        MXC_SYS_ClockEnable(MXC_SYS_PERIPH_CLOCK_GPIO2);
    } else {
        return E_BAD_PARAM;
    }

    set_bits(&port->vssel, cfg->mask, cfg->vssel == MXC_GPIO_VSSEL_VDDIOH);
    set_bits(&port->padctrl0, cfg->mask, pulls_up);
    set_bits(&port->padctrl1, cfg->mask, pulls_down);
    set_bits(&port->inen, cfg->mask, cfg->func != MXC_GPIO_FUNC_OUT);

    switch (cfg->func) {
    case MXC_GPIO_FUNC_IN:
        port->outen_clr = cfg->mask;
        port->en0_set = cfg->mask;
        break;
    case MXC_GPIO_FUNC_OUT:
        port->outen_set = cfg->mask;
        port->en0_set = cfg->mask;
        break;
    case MXC_GPIO_FUNC_ALT1:
        port->en2_clr = cfg->mask;
        port->en1_clr = cfg->mask;
        port->en0_clr = cfg->mask;
        break;
    case MXC_GPIO_FUNC_ALT2:
        port->en2_clr = cfg->mask;
        port->en1_set = cfg->mask;
        port->en0_clr = cfg->mask;
        break;
    default:
        return E_BAD_PARAM;
    }

    return E_NO_ERROR;
}

uint32_t MXC_GPIO_InGet(mxc_gpio_regs_t *port, uint32_t mask)
{
    return port->in & mask;
}

uint32_t MXC_GPIO_OutGet(mxc_gpio_regs_t *port, uint32_t mask)
{
    return port->out & mask;
}

void MXC_GPIO_OutSet(mxc_gpio_regs_t *port, uint32_t mask)
{
    port->out_set = mask;
}

void MXC_GPIO_OutClr(mxc_gpio_regs_t *port, uint32_t mask)
{
    port->out_clr = mask;
}

void MXC_GPIO_OutPut(mxc_gpio_regs_t *port, uint32_t mask, uint32_t value)
{
    port->out_set = mask & value;
    port->out_clr = mask & ~value;
}

void MXC_GPIO_OutToggle(mxc_gpio_regs_t *port, uint32_t mask)
{
    port->out ^= mask;
}

/* ---- board ------------------------------------------------------------------------------------------------- */

#if defined(BOARD_FTHR_REVA)
#define CONSOLE_VOLTAGE MXC_GPIO_VSSEL_VDDIO
static const mxc_gpio_cfg_t leds[] = {
    { .port = MXC_GPIO2, .mask = MXC_GPIO_PIN_0, .func = MXC_GPIO_FUNC_OUT, .vssel = MXC_GPIO_VSSEL_VDDIO },
    { .port = MXC_GPIO2, .mask = MXC_GPIO_PIN_1, .func = MXC_GPIO_FUNC_OUT, .vssel = MXC_GPIO_VSSEL_VDDIO },
    { .port = MXC_GPIO2, .mask = MXC_GPIO_PIN_2, .func = MXC_GPIO_FUNC_OUT, .vssel = MXC_GPIO_VSSEL_VDDIO },
};
#else /* evaluation kit: its console and LEDs run at 3.3 V */
#define CONSOLE_VOLTAGE MXC_GPIO_VSSEL_VDDIOH
static const mxc_gpio_cfg_t leds[] = {
    { .port = MXC_GPIO0, .mask = MXC_GPIO_PIN_2, .func = MXC_GPIO_FUNC_OUT, .vssel = MXC_GPIO_VSSEL_VDDIOH },
    { .port = MXC_GPIO0, .mask = MXC_GPIO_PIN_3, .func = MXC_GPIO_FUNC_OUT, .vssel = MXC_GPIO_VSSEL_VDDIOH },
};
#endif

#define NUM_LEDS (sizeof(leds) / sizeof(leds[0]))

/* The LEDs light while their pin is low. */
void LED_On(unsigned int index)
{
    if (index < NUM_LEDS) {
        MXC_GPIO_OutClr(leds[index].port, leds[index].mask);
    }
}

void LED_Off(unsigned int index)
{
    if (index < NUM_LEDS) {
        MXC_GPIO_OutSet(leds[index].port, leds[index].mask);
    }
}

void LED_Toggle(unsigned int index)
{
    if (index < NUM_LEDS) {
        MXC_GPIO_OutToggle(leds[index].port, leds[index].mask);
    }
}

int LED_Init(void)
{
    for (unsigned int i = 0; i < NUM_LEDS; i++) {
        LED_Off(i);
        (void)MXC_GPIO_Config(&leds[i]);
    }
    return E_NO_ERROR;
}

#define UART0_CTRL 0x40042000u
#define UART0_STATUS 0x40042004u
#define UART0_CLKDIV 0x40042010u
#define UART0_OSR 0x40042014u
#define UART0_FIFO 0x40042020u
#define UART_FLUSH (1u << 8 | 1u << 9)
#define UART_8_BITS (3u << 10)
#define UART_CLOCK_ENABLE (1u << 15)
#define UART_CLOCK_IBRO (2u << 16)
#define UART_CLOCK_READY (1u << 19)
#define UART_TX_FULL (1u << 7)

/* 115200 baud from the 7.3728 MHz oscillator; false if the console's clock does not start. */
static bool console_init(void)
{
    const mxc_gpio_cfg_t pins = { .port = MXC_GPIO0, .mask = MXC_GPIO_PIN_0 | MXC_GPIO_PIN_1, .func = MXC_GPIO_FUNC_ALT1,
                                  .pad = MXC_GPIO_PAD_NONE, .vssel = CONSOLE_VOLTAGE };

    if (!enable_oscillator(MXC_F_GCR_CLKCTRL_IBRO_EN, MXC_F_GCR_CLKCTRL_IBRO_RDY)) {
        return false;
    }
    MXC_SYS_ClockEnable(MXC_SYS_PERIPH_CLOCK_UART0);
    (void)MXC_GPIO_Config(&pins);

    REG32(UART0_CTRL) = UART_8_BITS | UART_CLOCK_IBRO;
    REG32(UART0_CLKDIV) = 64u;
    REG32(UART0_OSR) = 5u;
    REG32(UART0_CTRL) |= UART_CLOCK_ENABLE;
    if (!wait_for(&REG32(UART0_CTRL), UART_CLOCK_READY)) {
        return false;
    }
    REG32(UART0_CTRL) |= UART_FLUSH;
    return true;
}

#define SIMO_VREGO_C 0x4000440Cu
#define CNN_SUPPLY 0x43u

int Board_Init(void)
{
    REG32(SIMO_VREGO_C) = CNN_SUPPLY;
    if (!console_init()) {
        return E_TIME_OUT;
    }
    return LED_Init();
}

#if !defined(__riscv)

/* A character is lost if the console takes none for too long. */
static void console_put(char character)
{
    for (uint32_t polls = 0; polls < CONSOLE_POLLS; polls++) {
        if ((REG32(UART0_STATUS) & UART_TX_FULL) == 0) {
            REG32(UART0_FIFO) = (uint8_t)character;
            return;
        }
    }
}

/* ---- system calls of the C library ------------------------------------------------------------------------- */

/* Marked as used: link-time optimisation would drop what only the library calls. */
#define SYSTEM_CALL __attribute__((used))

int _write(int file, const char *buffer, int length);
int _read(int file, char *buffer, int length);
int _close(int file);
int _fstat(int file, struct stat *status);
int _isatty(int file);
off_t _lseek(int file, off_t offset, int whence);
void *_sbrk(ptrdiff_t increment);
void _exit(int status);
int _kill(pid_t process, int signal);
pid_t _getpid(void);
void _init(void);
void _fini(void);

/* Called by the library's exit(); constructors run from the start-up code. */
SYSTEM_CALL void _init(void)
{
}

SYSTEM_CALL void _fini(void)
{
}

SYSTEM_CALL int _write(int file, const char *buffer, int length)
{
    if (file != STDOUT_FILENO && file != STDERR_FILENO) {
        errno = EBADF;
        return -1;
    }
    for (int i = 0; i < length; i++) {
        if (buffer[i] == '\n') {
            console_put('\r');
        }
        console_put(buffer[i]);
    }
    return length;
}

SYSTEM_CALL int _read(int file, char *buffer, int length)
{
    (void)file;
    (void)buffer;
    (void)length;
    return 0; /* end of file: there is no input */
}

SYSTEM_CALL int _close(int file)
{
    (void)file;
    return 0;
}

SYSTEM_CALL int _fstat(int file, struct stat *status)
{
    (void)file;
    status->st_mode = S_IFCHR;
    return 0;
}

SYSTEM_CALL int _isatty(int file)
{
    (void)file;
    return 1;
}

SYSTEM_CALL off_t _lseek(int file, off_t offset, int whence)
{
    (void)file;
    (void)offset;
    (void)whence;
    return 0;
}

extern char __heap_start[];
extern char __heap_limit[];

/* The heap grows up to the memory that the linker script sets aside for the stack. */
SYSTEM_CALL void *_sbrk(ptrdiff_t increment)
{
    static ptrdiff_t used = 0;

    if (used + increment < 0 || used + increment > __heap_limit - __heap_start) {
        errno = ENOMEM;
        return (void *)-1; /* the documented error value */
    }
    used += increment;
    return __heap_start + (used - increment);
}

SYSTEM_CALL __attribute__((noreturn)) void _exit(int status)
{
    (void)status;
    for (;;) {
        __WFI();
    }
}

SYSTEM_CALL int _kill(pid_t process, int signal)
{
    (void)process;
    (void)signal;
    errno = EINVAL;
    return -1;
}

SYSTEM_CALL pid_t _getpid(void)
{
    return 1;
}

#endif
