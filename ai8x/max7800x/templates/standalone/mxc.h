/*
 * Device and driver interface of the stand-alone board support: the part of the vendor SDK's interface that
 * generated projects use, under the same names and with the same meaning.
 *
 * SPDX-License-Identifier: 0BSD
 */

#ifndef MXC_H
#define MXC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define _Static_assert static_assert
extern "C" {
#endif

#define __I volatile const
#define __O volatile
#define __IO volatile

/* ---- error codes ------------------------------------------------------------------------------------------- */

#define E_NO_ERROR 0
#define E_SUCCESS 0
#define E_NULL_PTR (-1)
#define E_NO_DEVICE (-2)
#define E_BAD_PARAM (-3)
#define E_INVALID (-4)
#define E_BUSY (-6)
#define E_BAD_STATE (-7)
#define E_TIME_OUT (-10)
#define E_NOT_SUPPORTED (-17)
#define E_FAIL (-255)

/* ---- interrupts -------------------------------------------------------------------------------------------- */

typedef enum {
    NonMaskableInt_IRQn = -14,
    HardFault_IRQn = -13,
    MemoryManagement_IRQn = -12,
    BusFault_IRQn = -11,
    UsageFault_IRQn = -10,
    SVCall_IRQn = -5,
    DebugMonitor_IRQn = -4,
    PendSV_IRQn = -2,
    SysTick_IRQn = -1,
    TMR0_IRQn = 5,
    TMR1_IRQn = 6,
    TMR2_IRQn = 7,
    TMR3_IRQn = 8,
    TMR4_IRQn = 9,
    TMR5_IRQn = 10,
    UART0_IRQn = 14,
    GPIO0_IRQn = 24,
    GPIO1_IRQn = 25,
    RISCV_IRQn = 63,
    CNN_FIFO_IRQn = 100,
    CNN_IRQn = 101,
    MXC_IRQ_EXT_COUNT = 104
} IRQn_Type;

#define MXC_IRQ_COUNT (MXC_IRQ_EXT_COUNT + 16)
#define __NVIC_PRIO_BITS 3u

/* ---- core registers ---------------------------------------------------------------------------------------- */

typedef struct {
    volatile uint32_t ISER[32];
    volatile uint32_t ICER[32];
    volatile uint32_t ISPR[32];
    volatile uint32_t ICPR[32];
    volatile uint32_t IABR[64];
    volatile uint8_t IP[240];
} NVIC_Type;

typedef struct {
    volatile const uint32_t CPUID;
    volatile uint32_t ICSR;
    volatile uint32_t VTOR;
    volatile uint32_t AIRCR;
    volatile uint32_t SCR;
    volatile uint32_t CCR;
    volatile uint8_t SHP[12];
    volatile uint32_t SHCSR;
    volatile uint32_t CFSR;
    volatile uint32_t HFSR;
    volatile uint32_t DFSR;
    volatile uint32_t MMFAR;
    volatile uint32_t BFAR;
    volatile uint32_t AFSR;
    uint32_t reserved[18];
    volatile uint32_t CPACR;
} SCB_Type;

typedef struct {
    volatile uint32_t CTRL;
    volatile uint32_t LOAD;
    volatile uint32_t VAL;
    volatile const uint32_t CALIB;
} SysTick_Type;

typedef struct {
    volatile uint32_t CTRL;
    volatile uint32_t CYCCNT;
} DWT_Type;

typedef struct {
    volatile uint32_t DHCSR;
    volatile uint32_t DCRSR;
    volatile uint32_t DCRDR;
    volatile uint32_t DEMCR;
} CoreDebug_Type;

#define SysTick ((SysTick_Type *)0xE000E010u)
#define NVIC ((NVIC_Type *)0xE000E100u)
#define SCB ((SCB_Type *)0xE000ED00u)
#define CoreDebug ((CoreDebug_Type *)0xE000EDF0u)
#define DWT ((DWT_Type *)0xE0001000u)

#define SCB_SCR_SLEEPONEXIT_Msk (1u << 1)
#define SCB_SCR_SLEEPDEEP_Msk (1u << 2)
#define SCB_SCR_SEVONPEND_Msk (1u << 4)
#define SCB_ICSR_PENDSVSET_Msk (1u << 28)
#define SCB_ICSR_PENDSVCLR_Msk (1u << 27)
#define SCB_ICSR_PENDSTSET_Msk (1u << 26)
#define SCB_ICSR_PENDSTCLR_Msk (1u << 25)
#define SysTick_CTRL_ENABLE_Msk (1u << 0)
#define SysTick_CTRL_TICKINT_Msk (1u << 1)
#define SysTick_CTRL_CLKSOURCE_Msk (1u << 2)
#define SysTick_CTRL_COUNTFLAG_Msk (1u << 16)
#define SysTick_LOAD_RELOAD_Msk 0xFFFFFFu
#define SysTick_VAL_CURRENT_Msk 0xFFFFFFu
#define DWT_CTRL_CYCCNTENA_Msk (1u << 0)
#define CoreDebug_DEMCR_TRCENA_Msk (1u << 24)

_Static_assert(offsetof(NVIC_Type, IP) == 0x300, "interrupt priorities");
_Static_assert(offsetof(SCB_Type, CPACR) == 0x88, "coprocessor access");

/* ---- core instructions ------------------------------------------------------------------------------------- */

#define __NOP() __asm volatile("nop")
#define __WFI() __asm volatile("wfi" ::: "memory")
#define __WFE() __asm volatile("wfe" ::: "memory")
#define __SEV() __asm volatile("sev" ::: "memory")
#define __BKPT(value) __asm volatile("bkpt " #value)
#define __DSB() __asm volatile("dsb sy" ::: "memory")
#define __DMB() __asm volatile("dmb sy" ::: "memory")
#define __ISB() __asm volatile("isb sy" ::: "memory")
#define __enable_irq() __asm volatile("cpsie i" ::: "memory")
#define __disable_irq() __asm volatile("cpsid i" ::: "memory")
#define __CLZ(value) ((uint8_t)((value) == 0u ? 32 : __builtin_clz(value)))
#define __REV(value) __builtin_bswap32(value)

/* Saturate to `bits` bits; `bits` must be a constant. */
#define __SSAT(value, bits)                                                              \
    __extension__({                                                                      \
        int32_t saturated_;                                                              \
        __asm("ssat %0, %1, %2" : "=r"(saturated_) : "I"(bits), "r"((int32_t)(value)) : "cc"); \
        saturated_;                                                                      \
    })
#define __USAT(value, bits)                                                              \
    __extension__({                                                                      \
        uint32_t saturated_;                                                             \
        __asm("usat %0, %1, %2" : "=r"(saturated_) : "I"(bits), "r"((int32_t)(value)) : "cc"); \
        saturated_;                                                                      \
    })

static inline uint32_t __get_PRIMASK(void)
{
    uint32_t value;

    __asm volatile("mrs %0, primask" : "=r"(value));
    return value;
}

static inline void __set_PRIMASK(uint32_t value)
{
    __asm volatile("msr primask, %0" : : "r"(value) : "memory");
}

static inline uint32_t __get_BASEPRI(void)
{
    uint32_t value;

    __asm volatile("mrs %0, basepri" : "=r"(value));
    return value;
}

static inline void __set_BASEPRI(uint32_t value)
{
    __asm volatile("msr basepri, %0" : : "r"(value) : "memory");
}

static inline uint32_t __get_IPSR(void)
{
    uint32_t value;

    __asm volatile("mrs %0, ipsr" : "=r"(value));
    return value;
}

/* ---- interrupt controller ---------------------------------------------------------------------------------- */

static inline void NVIC_EnableIRQ(IRQn_Type irq)
{
    if (irq >= 0) {
        NVIC->ISER[(uint32_t)irq / 32u] = 1u << ((uint32_t)irq % 32u);
    }
}

static inline void NVIC_DisableIRQ(IRQn_Type irq)
{
    if (irq >= 0) {
        NVIC->ICER[(uint32_t)irq / 32u] = 1u << ((uint32_t)irq % 32u);
        __DSB();
        __ISB();
    }
}

static inline uint32_t NVIC_GetEnableIRQ(IRQn_Type irq)
{
    return irq >= 0 ? (NVIC->ISER[(uint32_t)irq / 32u] >> ((uint32_t)irq % 32u)) & 1u : 0u;
}

static inline void NVIC_SetPendingIRQ(IRQn_Type irq)
{
    if (irq >= 0) {
        NVIC->ISPR[(uint32_t)irq / 32u] = 1u << ((uint32_t)irq % 32u);
    }
}

static inline void NVIC_ClearPendingIRQ(IRQn_Type irq)
{
    if (irq >= 0) {
        NVIC->ICPR[(uint32_t)irq / 32u] = 1u << ((uint32_t)irq % 32u);
    }
}

static inline uint32_t NVIC_GetPendingIRQ(IRQn_Type irq)
{
    return irq >= 0 ? (NVIC->ISPR[(uint32_t)irq / 32u] >> ((uint32_t)irq % 32u)) & 1u : 0u;
}

static inline void NVIC_SetPriority(IRQn_Type irq, uint32_t priority)
{
    const uint8_t value = (uint8_t)((priority << (8u - __NVIC_PRIO_BITS)) & 0xFFu);

    if (irq >= 0) {
        NVIC->IP[(uint32_t)irq] = value;
    } else {
        SCB->SHP[((uint32_t)irq & 0xFu) - 4u] = value;
    }
}

static inline uint32_t NVIC_GetPriority(IRQn_Type irq)
{
    const uint32_t value = irq >= 0 ? NVIC->IP[(uint32_t)irq] : SCB->SHP[((uint32_t)irq & 0xFu) - 4u];

    return value >> (8u - __NVIC_PRIO_BITS);
}

static inline uint32_t SysTick_Config(uint32_t ticks)
{
    if (ticks == 0u || ticks - 1u > SysTick_LOAD_RELOAD_Msk) {
        return 1u;
    }
    SysTick->LOAD = ticks - 1u;
    NVIC_SetPriority(SysTick_IRQn, (1u << __NVIC_PRIO_BITS) - 1u);
    SysTick->VAL = 0u;
    SysTick->CTRL = SysTick_CTRL_CLKSOURCE_Msk | SysTick_CTRL_TICKINT_Msk | SysTick_CTRL_ENABLE_Msk;
    return 0u;
}

/*
 * Install and enable an interrupt handler. The first call moves the vector table from flash to RAM. The plain name is
 * what older projects call; it takes a handler or its address.
 */
void MXC_NVIC_SetVector(IRQn_Type irq, void (*handler)(void));
#define NVIC_SetVector(irq, handler) MXC_NVIC_SetVector((irq), (void (*)(void))(uintptr_t)(handler))

/* ---- clocks and power -------------------------------------------------------------------------------------- */

typedef struct {
    volatile uint32_t sysctrl;
    volatile uint32_t rst0;
    volatile uint32_t clkctrl;
    volatile uint32_t pm;
    uint32_t reserved0[2];
    volatile uint32_t pclkdiv;
    uint32_t reserved1[2];
    volatile uint32_t pclkdis0;
    volatile uint32_t memctrl;
    volatile uint32_t memz;
    uint32_t reserved2[4];
    volatile uint32_t sysst;
    volatile uint32_t rst1;
    volatile uint32_t pclkdis1;
    volatile uint32_t eventen;
} mxc_gcr_regs_t;

typedef struct {
    uint32_t reserved0[2];
    volatile uint32_t rst;
    volatile uint32_t pclkdis;
} mxc_lpgcr_regs_t;

_Static_assert(offsetof(mxc_gcr_regs_t, pclkdiv) == 0x18, "GCR");
_Static_assert(offsetof(mxc_gcr_regs_t, pclkdis0) == 0x24, "GCR");
_Static_assert(offsetof(mxc_gcr_regs_t, pclkdis1) == 0x48, "GCR");

#define MXC_BASE_GCR 0x40000000u
#define MXC_BASE_LPGCR 0x40080000u
#define MXC_GCR ((mxc_gcr_regs_t *)MXC_BASE_GCR)
#define MXC_LPGCR ((mxc_lpgcr_regs_t *)MXC_BASE_LPGCR)

#define MXC_F_GCR_CLKCTRL_SYSCLK_DIV_POS 6
#define MXC_F_GCR_CLKCTRL_SYSCLK_DIV (7u << 6)
#define MXC_F_GCR_CLKCTRL_SYSCLK_SEL_POS 9
#define MXC_F_GCR_CLKCTRL_SYSCLK_SEL (7u << 9)
#define MXC_F_GCR_CLKCTRL_SYSCLK_RDY (1u << 13)
#define MXC_F_GCR_CLKCTRL_ERTCO_EN (1u << 17)
#define MXC_F_GCR_CLKCTRL_ISO_EN (1u << 18)
#define MXC_F_GCR_CLKCTRL_IPO_EN (1u << 19)
#define MXC_F_GCR_CLKCTRL_IBRO_EN (1u << 20)
#define MXC_F_GCR_CLKCTRL_ERTCO_RDY (1u << 25)
#define MXC_F_GCR_CLKCTRL_ISO_RDY (1u << 26)
#define MXC_F_GCR_CLKCTRL_IPO_RDY (1u << 27)
#define MXC_F_GCR_CLKCTRL_IBRO_RDY (1u << 28)

#define MXC_F_GCR_PCLKDIV_CNNCLKDIV_POS 14
#define MXC_F_GCR_PCLKDIV_CNNCLKDIV (7u << 14)
#define MXC_S_GCR_PCLKDIV_CNNCLKDIV_DIV2 (0u << 14)
#define MXC_S_GCR_PCLKDIV_CNNCLKDIV_DIV4 (1u << 14)
#define MXC_S_GCR_PCLKDIV_CNNCLKDIV_DIV8 (2u << 14)
#define MXC_S_GCR_PCLKDIV_CNNCLKDIV_DIV16 (3u << 14)
#define MXC_S_GCR_PCLKDIV_CNNCLKDIV_DIV1 (4u << 14)
#define MXC_F_GCR_PCLKDIV_CNNCLKSEL_POS 17
#define MXC_F_GCR_PCLKDIV_CNNCLKSEL (1u << 17)
#define MXC_S_GCR_PCLKDIV_CNNCLKSEL_PCLK (0u << 17)
#define MXC_S_GCR_PCLKDIV_CNNCLKSEL_ISO (1u << 17)

/* 0 to 31: bit of PCLKDIS0; 32 to 63: bit of PCLKDIS1 plus 32; from 64: bit of the low-power register plus 64. */
typedef enum {
    MXC_SYS_PERIPH_CLOCK_GPIO0 = 0,
    MXC_SYS_PERIPH_CLOCK_GPIO1 = 1,
    MXC_SYS_PERIPH_CLOCK_DMA = 5,
    MXC_SYS_PERIPH_CLOCK_SPI1 = 6,
    MXC_SYS_PERIPH_CLOCK_UART0 = 9,
    MXC_SYS_PERIPH_CLOCK_UART1 = 10,
    MXC_SYS_PERIPH_CLOCK_I2C0 = 13,
    MXC_SYS_PERIPH_CLOCK_TMR0 = 15,
    MXC_SYS_PERIPH_CLOCK_TMR1 = 16,
    MXC_SYS_PERIPH_CLOCK_TMR2 = 17,
    MXC_SYS_PERIPH_CLOCK_TMR3 = 18,
    MXC_SYS_PERIPH_CLOCK_ADC = 23,
    MXC_SYS_PERIPH_CLOCK_CNN = 25,
    MXC_SYS_PERIPH_CLOCK_I2C1 = 28,
    MXC_SYS_PERIPH_CLOCK_PT = 29,
    MXC_SYS_PERIPH_CLOCK_UART2 = 32 + 1,
    MXC_SYS_PERIPH_CLOCK_SMPHR = 32 + 9,
    MXC_SYS_PERIPH_CLOCK_SPI0 = 32 + 16,
    MXC_SYS_PERIPH_CLOCK_PCIF = 32 + 18,
    MXC_SYS_PERIPH_CLOCK_I2S = 32 + 23,
    MXC_SYS_PERIPH_CLOCK_CPU1 = 32 + 31,
    MXC_SYS_PERIPH_CLOCK_GPIO2 = 64 + 0,
    MXC_SYS_PERIPH_CLOCK_TMR4 = 64 + 2,
    MXC_SYS_PERIPH_CLOCK_TMR5 = 64 + 3,
    MXC_SYS_PERIPH_CLOCK_UART3 = 64 + 4
} mxc_sys_periph_clock_t;

/* Values are those of the clock-select field. */
typedef enum {
    MXC_SYS_CLOCK_ISO = 0,
    MXC_SYS_CLOCK_INRO = 3,
    MXC_SYS_CLOCK_IPO = 4,
    MXC_SYS_CLOCK_IBRO = 5,
    MXC_SYS_CLOCK_ERTCO = 6
} mxc_sys_system_clock_t;

extern uint32_t SystemCoreClock; /* Hz; up to date after SystemCoreClockUpdate() */
#define PeripheralClock (SystemCoreClock / 2u)
#define ISO_FREQ 60000000u
#define IPO_FREQ 100000000u
#define IBRO_FREQ 7372800u
#define ERTCO_FREQ 32768u
#define INRO_FREQ 30000u

void SystemCoreClockUpdate(void);

/* E_NO_ERROR, E_BAD_PARAM, or E_TIME_OUT where the oscillator does not start; then the clock stays as it was. */
int MXC_SYS_Clock_Select(mxc_sys_system_clock_t clock);
void MXC_SYS_ClockEnable(mxc_sys_periph_clock_t clock);
void MXC_SYS_ClockDisable(mxc_sys_periph_clock_t clock);
int MXC_SYS_IsClockEnabled(mxc_sys_periph_clock_t clock);

/* Sleep until an interrupt comes. */
void MXC_LP_EnterSleepMode(void);

/* ---- instruction cache ------------------------------------------------------------------------------------- */

typedef struct {
    volatile const uint32_t info;
    volatile const uint32_t sz;
    uint32_t reserved0[62];
    volatile uint32_t ctrl;
    uint32_t reserved1[383];
    volatile uint32_t invalidate;
} mxc_icc_regs_t;

_Static_assert(offsetof(mxc_icc_regs_t, ctrl) == 0x100, "ICC");
_Static_assert(offsetof(mxc_icc_regs_t, invalidate) == 0x700, "ICC");

#define MXC_ICC0 ((mxc_icc_regs_t *)0x4002A000u)

void MXC_ICC_Enable(mxc_icc_regs_t *icc);
void MXC_ICC_Disable(mxc_icc_regs_t *icc);

/* ---- delays ------------------------------------------------------------------------------------------------ */

#define USEC(x) (x)
#define MSEC(x) ((x) * 1000u)
#define SEC(x) ((x) * 1000000u)
#define MXC_DELAY_USEC(x) USEC(x)
#define MXC_DELAY_MSEC(x) MSEC(x)
#define MXC_DELAY_SEC(x) SEC(x)

/* Wait for some microseconds; E_TIME_OUT if the counter does not run. */
int MXC_Delay(uint32_t us);

/* ---- timers ------------------------------------------------------------------------------------------------ */

typedef struct {
    volatile uint32_t cnt;
    volatile uint32_t cmp;
    volatile uint32_t pwm;
    volatile uint32_t intfl;
    volatile uint32_t ctrl0;
    volatile uint32_t nolcmp;
    volatile uint32_t ctrl1;
    volatile uint32_t wkfl;
} mxc_tmr_regs_t;

#define MXC_TMR0 ((mxc_tmr_regs_t *)0x40010000u)
#define MXC_TMR1 ((mxc_tmr_regs_t *)0x40011000u)
#define MXC_TMR2 ((mxc_tmr_regs_t *)0x40012000u)
#define MXC_TMR3 ((mxc_tmr_regs_t *)0x40013000u)
#define MXC_TMR4 ((mxc_tmr_regs_t *)0x40080C00u)
#define MXC_TMR5 ((mxc_tmr_regs_t *)0x40081000u)

#define MXC_F_TMR_INTFL_IRQ_A (1u << 0)
#define MXC_F_TMR_INTFL_WRDONE_A (1u << 8)
#define MXC_F_TMR_CTRL0_MODE_A 0xFu
#define MXC_V_TMR_CTRL0_MODE_A_ONE_SHOT 0u
#define MXC_V_TMR_CTRL0_MODE_A_CONTINUOUS 1u
#define MXC_F_TMR_CTRL0_CLKDIV_A_POS 4
#define MXC_F_TMR_CTRL0_CLKDIV_A (0xFu << 4)
#define MXC_F_TMR_CTRL0_RST_A (1u << 13)
#define MXC_F_TMR_CTRL0_CLKEN_A (1u << 14)
#define MXC_F_TMR_CTRL0_EN_A (1u << 15)
#define MXC_F_TMR_CTRL1_CLKSEL_A 3u
#define MXC_F_TMR_CTRL1_CLKEN_A (1u << 2)
#define MXC_F_TMR_CTRL1_CLKRDY_A (1u << 3)
#define MXC_F_TMR_CTRL1_IE_A (1u << 8)
#define MXC_F_TMR_CTRL1_CASCADE (1u << 31)

/* Stopwatch in steps of 64 peripheral clocks; the second function stops it and returns microseconds. */
void MXC_TMR_SW_Start(mxc_tmr_regs_t *tmr);
int MXC_TMR_SW_Stop(mxc_tmr_regs_t *tmr);

/* Wait for some microseconds with a timer; not at all if the timer does not respond. */
void MXC_TMR_Delay(mxc_tmr_regs_t *tmr, uint32_t us);

/* ---- pins -------------------------------------------------------------------------------------------------- */

typedef struct {
    volatile uint32_t en0;
    volatile uint32_t en0_set;
    volatile uint32_t en0_clr;
    volatile uint32_t outen;
    volatile uint32_t outen_set;
    volatile uint32_t outen_clr;
    volatile uint32_t out;
    volatile uint32_t out_set;
    volatile uint32_t out_clr;
    volatile uint32_t in;
    uint32_t reserved0[2];
    volatile uint32_t inen;
    uint32_t reserved1[11];
    volatile uint32_t padctrl0;
    volatile uint32_t padctrl1;
    volatile uint32_t en1;
    volatile uint32_t en1_set;
    volatile uint32_t en1_clr;
    volatile uint32_t en2;
    volatile uint32_t en2_set;
    volatile uint32_t en2_clr;
    uint32_t reserved2[16];
    volatile uint32_t vssel;
} mxc_gpio_regs_t;

_Static_assert(offsetof(mxc_gpio_regs_t, inen) == 0x30, "GPIO");
_Static_assert(offsetof(mxc_gpio_regs_t, padctrl0) == 0x60, "GPIO");
_Static_assert(offsetof(mxc_gpio_regs_t, vssel) == 0xC0, "GPIO");

#define MXC_GPIO0 ((mxc_gpio_regs_t *)0x40008000u)
#define MXC_GPIO1 ((mxc_gpio_regs_t *)0x40009000u)
#define MXC_GPIO2 ((mxc_gpio_regs_t *)0x40080400u)

typedef enum {
    MXC_GPIO_FUNC_IN,
    MXC_GPIO_FUNC_OUT,
    MXC_GPIO_FUNC_ALT1,
    MXC_GPIO_FUNC_ALT2
} mxc_gpio_func_t;

typedef enum {
    MXC_GPIO_PAD_NONE,
    MXC_GPIO_PAD_PULL_UP,
    MXC_GPIO_PAD_PULL_DOWN,
    MXC_GPIO_PAD_WEAK_PULL_UP,
    MXC_GPIO_PAD_WEAK_PULL_DOWN
} mxc_gpio_pad_t;

typedef enum {
    MXC_GPIO_VSSEL_VDDIO,
    MXC_GPIO_VSSEL_VDDIOH
} mxc_gpio_vssel_t;

typedef enum {
    MXC_GPIO_DRVSTR_0,
    MXC_GPIO_DRVSTR_1,
    MXC_GPIO_DRVSTR_2,
    MXC_GPIO_DRVSTR_3
} mxc_gpio_drvstr_t;

typedef struct {
    mxc_gpio_regs_t *port;
    uint32_t mask;
    mxc_gpio_func_t func;
    mxc_gpio_pad_t pad;
    mxc_gpio_vssel_t vssel;
    mxc_gpio_drvstr_t drvstr;
} mxc_gpio_cfg_t;

#define MXC_GPIO_PIN_0 (1u << 0)
#define MXC_GPIO_PIN_1 (1u << 1)
#define MXC_GPIO_PIN_2 (1u << 2)
#define MXC_GPIO_PIN_3 (1u << 3)
#define MXC_GPIO_PIN_4 (1u << 4)
#define MXC_GPIO_PIN_5 (1u << 5)
#define MXC_GPIO_PIN_6 (1u << 6)
#define MXC_GPIO_PIN_7 (1u << 7)
#define MXC_GPIO_PIN_8 (1u << 8)
#define MXC_GPIO_PIN_9 (1u << 9)
#define MXC_GPIO_PIN_10 (1u << 10)
#define MXC_GPIO_PIN_11 (1u << 11)
#define MXC_GPIO_PIN_12 (1u << 12)
#define MXC_GPIO_PIN_13 (1u << 13)
#define MXC_GPIO_PIN_14 (1u << 14)
#define MXC_GPIO_PIN_15 (1u << 15)
#define MXC_GPIO_PIN_16 (1u << 16)
#define MXC_GPIO_PIN_17 (1u << 17)
#define MXC_GPIO_PIN_18 (1u << 18)
#define MXC_GPIO_PIN_19 (1u << 19)
#define MXC_GPIO_PIN_20 (1u << 20)
#define MXC_GPIO_PIN_21 (1u << 21)
#define MXC_GPIO_PIN_22 (1u << 22)
#define MXC_GPIO_PIN_23 (1u << 23)
#define MXC_GPIO_PIN_24 (1u << 24)
#define MXC_GPIO_PIN_25 (1u << 25)
#define MXC_GPIO_PIN_26 (1u << 26)
#define MXC_GPIO_PIN_27 (1u << 27)
#define MXC_GPIO_PIN_28 (1u << 28)
#define MXC_GPIO_PIN_29 (1u << 29)
#define MXC_GPIO_PIN_30 (1u << 30)
#define MXC_GPIO_PIN_31 (1u << 31)

int MXC_GPIO_Config(const mxc_gpio_cfg_t *cfg);
uint32_t MXC_GPIO_InGet(mxc_gpio_regs_t *port, uint32_t mask);
uint32_t MXC_GPIO_OutGet(mxc_gpio_regs_t *port, uint32_t mask);
void MXC_GPIO_OutSet(mxc_gpio_regs_t *port, uint32_t mask);
void MXC_GPIO_OutClr(mxc_gpio_regs_t *port, uint32_t mask);
void MXC_GPIO_OutPut(mxc_gpio_regs_t *port, uint32_t mask, uint32_t value);
void MXC_GPIO_OutToggle(mxc_gpio_regs_t *port, uint32_t mask);

/* ---- board ------------------------------------------------------------------------------------------------- */

#define LED1 0u
#define LED2 1u

/* An index that the board does not have is ignored. */
int LED_Init(void);
void LED_On(unsigned int index);
void LED_Off(unsigned int index);
void LED_Toggle(unsigned int index);

/* Clocks, console and LEDs; the start-up code calls it before main. E_TIME_OUT if the console does not start. */
int Board_Init(void);

#ifdef __cplusplus
}
#endif

#endif /* MXC_H */
