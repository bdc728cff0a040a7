/*
 * Registers that power, isolate and reset the quadrants of the CNN accelerator; bit n stands for quadrant n.
 *
 * SPDX-License-Identifier: 0BSD
 */

#ifndef GCFR_REGS_H
#define GCFR_REGS_H

#include <stdint.h>

typedef struct {
    volatile uint32_t reg0; /* power enable */
    volatile uint32_t reg1; /* mask memory power enable */
    volatile uint32_t reg2; /* isolation */
    volatile uint32_t reg3; /* reset */
} mxc_gcfr_regs_t;

#define MXC_BASE_GCFR 0x40005800u
#define MXC_GCFR ((mxc_gcfr_regs_t *)MXC_BASE_GCFR)

#endif /* GCFR_REGS_H */
