"""The chip's tables a second time, copied by hand from what the specification prints.

No recording sets every bit: of the 98 recorded projects none has a pool stride above 4, a shift above 7 or memories
switched off. For those bits these tables are the witness. Start at `table_differences`.

Source: spec/max78000-cnn.md sections 1, 2.1, 2.2 and 2.3.
"""

from collections.abc import Mapping

from ai8x.max7800x.device import Geometry, Max7800x

REGISTERS: Mapping[str, tuple[int, str]] = {
    "CTRL": (0x000, "cnn_en 0, rdy_sel 2:1, clk_en 3, calcmax 4, pool_en 5, bigdata 6, apbclk_en 7, oneshot 8, "
                    "ext_sync 11:9, cnn_irq 12, poolrnd 13, stream_en 14, fifo_en 15, mlat_ld 16, mlatch_sel 18:17, "
                    "lilbuf 19, mexpress 20, simple1b 21, ffifo_en 22, fifogrp 23, fclk_dly 29:24, timeshft 30, "
                    "qupac 31"),
    "SRAM": (0x004, "extacc 0, rmargin_en 1, rmargin 5:2, ra 7:6, wneg_vol 9:8, wneg_en 10, wpulse 13:11, "
                    "deep_sleep 15, power_down 16, light_sleep_data 19, light_sleep_mask 20, light_sleep_tram 21, "
                    "light_sleep_bias 22"),
    "LCNT_MAX": (0x008, "max 4:0, start 15:8"),
    "TEST": (0x00C, "run_data 0, zero_data 1, run_mask 2, zero_mask 3, run_tram 4, zero_tram 5, run_bias 6, "
                    "zero_bias 7, fail_data 14, fail_mask 15, fail_tram 16, fail_bias 17, run_done_data 18, "
                    "run_done_mask 19, run_done_tram 20, run_done_bias 21, zero_done_data 22, zero_done_mask 23, "
                    "zero_done_tram 24, zero_done_bias 25, any_fail 26, run_complete 27, zero_complete 28"),
    "IFRM": (0x990, "value 19:0"),
    "MLAT": (0x1000, "value 31:0"),
    "RCNT": (0x010, "max 9:0, pad 17:16"),
    "CCNT": (0x090, "max 9:0, pad 17:16"),
    "PRCNT": (0x190, "value 3:0"),
    "PCCNT": (0x210, "value 3:0"),
    "STRIDE": (0x290, "value 3:0"),
    "WPTR_BASE": (0x310, "value 16:0"),
    "WPTR_TOFF": (0x390, "value 16:0"),
    "WPTR_MOFF": (0x410, "value 16:0"),
    "WPTR_CHOFF": (0x490, "value 16:0"),
    "RPTR_BASE": (0x510, "value 16:0"),
    "LCTRL0": (0x590, "sslave 3:0, mslave 4, master 5, parallel 6, pool_en 7, maxpl_en 8, act_en 9, cpad_only 10, "
                      "sramlsrc 11, cnnsi_en 15:12, bigdwrt 16"),
    "LCTRL1": (0xA10, "inpchexp 3:0, wptr_inc 7:4, xpch_max 16:8"),
    "MCNT": (0x610, "max 15:0, sad 31:16"),
    "ONED": (0x110, "tscnt_max 3:0, oned_sad 7:4, oned_width 11:8, oned_en 12, ewise_en 13, ewise_func 15:14, "
                    "prepool 16, 2d_conv 17, ewise_cnt 21:18"),
    "TPTR": (0x690, "max 15:0, sad 31:16"),
    "EN": (0x710, "pro_en 15:0, mask_en 31:16"),
    "POST": (0x790, "bptr_sad 11:0, bptr_en 12, scale_reg 16:13, scale_shft 17, xpmp_cnt 21:18, mask_size 23:22, "
                    "ts_en 24, onexone_en 25, out_abs 26, flatten_en 27, deconv_en 28"),
    "STRM0": (0x810, "start 13:0"),
    "STRM1": (0x890, "invol 3:0, delta1 8:4, delta2 27:16"),
    "FBUF": (0x910, "rollover 16:0"),
    "FIFO_CTRL": (0x0, "rdy_sel 1:0, almost_full 4:2, almost_empty 9:7, couple 11, enable 15:12, irq_enable 31:16"),
    "FIFO_STATUS": (0x4, "full 3:0, empty 7:4, almost_full 11:8, almost_empty 15:12"),
    "FIFO_DATA": (0x8, "value 31:0"),
    "AOD_CTRL": (0x0, "rdy_sel 1:0, deep_sleep 11:8, mask_off 15:12, read_margin 19:16"),
}
"""Register -> its offset in the block, and its fields, each with its bit or its bits from high to low."""


def printed_addresses(geometry: Geometry) -> Mapping[str, tuple[int, int]]:
    """Place -> address by the chip's record, address as printed (section 1)."""
    return {
        "FIFO data 3": (geometry.fifo_data_address(3), 0x50000014),
        "always-on control": (geometry.aod_base, 0x50001000),
        "registers of quadrant 3": (geometry.quadrant_registers(3), 0x50D00000),
        "bias 5 of quadrant 2": (geometry.bias_address(2, 5), 0x50908014),
        "TRAM of processor 0": (geometry.tram_address(0), 0x50110000),
        "TRAM entry 1 of processor 63": (geometry.tram_address(63, 1), 0x50D4C004),
        "kernel word 5 of processor 0": (geometry.mask_address(0) + 5 * geometry.mask_word_span, 0x50180050),
        "kernel word 2 of processor 17": (geometry.mask_address(17) + 2 * geometry.mask_word_span, 0x50584020),
        "data word 0 of instance 0": (geometry.data_address(0), 0x50400000),
        "data word 3 of instance 7": (geometry.data_address(7, 3), 0x5081800C),
        "express address byte": (geometry.express_address_byte, 1),
        "bytes of a packed word": (geometry.express_word_span, 4),
        "pointer to instance 1": (1 << geometry.pointer_instance_shift, 8192),
    }


def table_differences(device: Max7800x) -> list[str]:
    """What a chip's record says otherwise than these tables."""
    found: dict[str, tuple[int, str]] = {}
    for block in (device.quadrant, device.fifo, device.aod):
        for register in block.registers:
            found[register.name] = register.offset, ", ".join(
                f"{field.name} {field.low}" if field.low == field.high else f"{field.name} {field.high}:{field.low}"
                for field in register.fields)
    different = [name for name in sorted(REGISTERS.keys() | found.keys()) if REGISTERS.get(name) != found.get(name)]
    different += [place for place, (has, printed) in printed_addresses(device.geometry).items() if has != printed]
    settings = {"SRAM": (device.sram_setting, 0x40E), "FIFO_CTRL": (device.fifo_setting, 0x908)}
    return different + [f"setting of {name}" for name, (has, printed) in settings.items() if has != printed]
