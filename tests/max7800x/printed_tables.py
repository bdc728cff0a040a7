"""The chip's tables a second time, copied by hand from what the specification prints.

No recording sets every bit: of the 98 recorded projects none has a pool stride above 4, a shift above 7 or memories
switched off. For those bits these tables are the witness. Start at `table_differences`.

Source: spec/max78000-cnn.md sections 1, 2.1, 2.2 and 2.3.
"""

from collections.abc import Mapping

from ai8x.max7800x.device import Max7800x

FIELDS: Mapping[str, str] = {
    "CTRL": "cnn_en 0, rdy_sel 2:1, clk_en 3, calcmax 4, pool_en 5, bigdata 6, apbclk_en 7, oneshot 8, ext_sync 11:9, "
            "cnn_irq 12, poolrnd 13, stream_en 14, fifo_en 15, mlat_ld 16, mlatch_sel 18:17, lilbuf 19, mexpress 20, "
            "simple1b 21, ffifo_en 22, fifogrp 23, fclk_dly 29:24, timeshft 30, qupac 31",
    "SRAM": "extacc 0, rmargin_en 1, rmargin 5:2, ra 7:6, wneg_vol 9:8, wneg_en 10, wpulse 13:11, deep_sleep 15, "
            "power_down 16, light_sleep_data 19, light_sleep_mask 20, light_sleep_tram 21, light_sleep_bias 22",
    "LCNT_MAX": "max 4:0, start 15:8",
    "TEST": "run_data 0, zero_data 1, run_mask 2, zero_mask 3, run_tram 4, zero_tram 5, run_bias 6, zero_bias 7, "
            "fail_data 14, fail_mask 15, fail_tram 16, fail_bias 17, run_done_data 18, run_done_mask 19, "
            "run_done_tram 20, run_done_bias 21, zero_done_data 22, zero_done_mask 23, zero_done_tram 24, "
            "zero_done_bias 25, any_fail 26, run_complete 27, zero_complete 28",
    "IFRM": "value 19:0",
    "MLAT": "value 31:0",
    "RCNT": "max 9:0, pad 17:16",
    "CCNT": "max 9:0, pad 17:16",
    "PRCNT": "value 3:0",
    "PCCNT": "value 3:0",
    "STRIDE": "value 3:0",
    "WPTR_BASE": "value 16:0",
    "WPTR_TOFF": "value 16:0",
    "WPTR_MOFF": "value 16:0",
    "WPTR_CHOFF": "value 16:0",
    "RPTR_BASE": "value 16:0",
    "LCTRL0": "sslave 3:0, mslave 4, master 5, parallel 6, pool_en 7, maxpl_en 8, act_en 9, cpad_only 10, sramlsrc 11, "
              "cnnsi_en 15:12, bigdwrt 16",
    "LCTRL1": "inpchexp 3:0, wptr_inc 7:4, xpch_max 16:8",
    "MCNT": "max 15:0, sad 31:16",
    "ONED": "tscnt_max 3:0, oned_sad 7:4, oned_width 11:8, oned_en 12, ewise_en 13, ewise_func 15:14, prepool 16, "
            "2d_conv 17, ewise_cnt 21:18",
    "TPTR": "max 15:0, sad 31:16",
    "EN": "pro_en 15:0, mask_en 31:16",
    "POST": "bptr_sad 11:0, bptr_en 12, scale_reg 16:13, scale_shft 17, xpmp_cnt 21:18, mask_size 23:22, ts_en 24, "
            "onexone_en 25, out_abs 26, flatten_en 27, deconv_en 28",
    "STRM0": "start 13:0",
    "STRM1": "invol 3:0, delta1 8:4, delta2 27:16",
    "FBUF": "rollover 16:0",
    "FIFO_CTRL": "rdy_sel 1:0, almost_full 4:2, almost_empty 9:7, couple 11, enable 15:12, irq_enable 31:16",
    "FIFO_STATUS": "full 3:0, empty 7:4, almost_full 11:8, almost_empty 15:12",
    "FIFO_DATA": "value 31:0",
    "AOD_CTRL": "rdy_sel 1:0, deep_sleep 11:8, mask_off 15:12, read_margin 19:16",
}
"""Register -> its fields, each with its bit or its bits from high to low."""

ADDRESSES: Mapping[str, int] = {
    "kernel word 5 of processor 0, not packed": 0x50180050,
    "kernel word 2 of processor 17, not packed": 0x50584020,
}
"""Where words lie; bases and strides of the other memories are set by every recording."""


def table_differences(device: Max7800x) -> list[str]:
    """What a chip's record says otherwise than these tables."""
    found: dict[str, str] = {}
    for block in (device.quadrant, device.fifo, device.aod):
        for register in block.registers:
            found[register.name] = ", ".join(
                f"{field.name} {field.low}" if field.low == field.high else f"{field.name} {field.high}:{field.low}"
                for field in register.fields)
    geometry = device.geometry
    words = [geometry.mask_address(0) + 5 * geometry.mask_word_span,
             geometry.mask_address(17) + 2 * geometry.mask_word_span]
    return ([name for name in sorted(FIELDS.keys() | found.keys()) if FIELDS.get(name) != found.get(name)]
            + [place for (place, address), word in zip(ADDRESSES.items(), words, strict=True) if address != word])
