/*
 * Board support that only the RISC-V core needs: console and delays. Clocks, timers and pins are in board.c.
 *
 * SPDX-License-Identifier: 0BSD
 */

#include <stdint.h>
#include <stdio.h>

#include "mxc.h"

#define REG32(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define UART0_STATUS 0x40042004u
#define UART0_FIFO 0x40042020u
#define UART_TX_FULL (1u << 7)
#define DELAY_TIMER MXC_TMR3
#define CONSOLE_POLLS 100000u /* milliseconds; a character takes 0.1 ms */

/* The other core has set up the console. */
static int console_put(char character, FILE *file)
{
    (void)file;
    for (uint32_t polls = 0; polls < CONSOLE_POLLS; polls++) {
        if ((REG32(UART0_STATUS) & UART_TX_FULL) == 0) {
            REG32(UART0_FIFO) = (uint8_t)character;
            return character;
        }
    }
    return _FDEV_ERR;
}

static FILE console = FDEV_SETUP_STREAM(console_put, NULL, NULL, _FDEV_SETUP_WRITE);

FILE *const stdout = &console;

int MXC_Delay(uint32_t us)
{
    MXC_TMR_Delay(DELAY_TIMER, us);
    return E_NO_ERROR;
}
