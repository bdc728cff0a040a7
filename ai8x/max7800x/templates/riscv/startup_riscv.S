/*
 * Start of the RISC-V core. Whether the core begins at its boot address or 0x80 beyond it (UNVERIFIED), it gets here.
 *
 * SPDX-License-Identifier: 0BSD
 */

    .section .start, "ax"
    .globl _start
    .option push
    .option norvc
_start:
    j begin
    .org 0x80
    j begin
begin:
    .option pop
    .option push
    .option norelax
    la gp, __global_pointer$
    .option pop
    la sp, __stack_top

    la a0, __data_start
    la a1, __data_end
    la a2, __data_load
copy:
    bgeu a0, a1, cleared
    lw a3, 0(a2)
    sw a3, 0(a0)
    addi a0, a0, 4
    addi a2, a2, 4
    j copy
cleared:
    la a0, __bss_start
    la a1, __bss_end
clear:
    bgeu a0, a1, run
    sw zero, 0(a0)
    addi a0, a0, 4
    j clear
run:
    call main
stop:
    j stop
