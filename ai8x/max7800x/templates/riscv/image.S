/* The RISC-V core's program, as built. SPDX-License-Identifier: Apache-2.0 */

    .section .riscv, "a"
    .incbin RISCV_IMAGE
