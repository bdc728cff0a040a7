/* The RISC-V core's program, as built. SPDX-License-Identifier: 0BSD */

    .section .riscv, "a"
    .incbin RISCV_IMAGE
