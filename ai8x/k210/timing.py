"""How long layers take: the formula fitted to published measurements.

Worst error 4 % over 26 measured KPU layers with 8-bit weights; main-memory results rest on two data points, CPU
layers on single figures. Start at `kpu_time_s`.

Source: spec/k210-kmodel.md section 16.1.
"""

from __future__ import annotations

from collections.abc import Mapping

from ai8x.k210.device import K210, channel_groups, lines_per_row


def kpu_cycles(fields: Mapping[str, int]) -> int:
    """KPU clock cycles of the computation of one layer, without loading weights.

    Args:
        fields: the decoded layer argument; sizes before pooling count.
    """
    latency = K210.latency
    height, width = fields["i_col_high"] + 1, fields["i_row_wid"] + 1
    rows = lines_per_row(width)
    if fields["depth_wise_layer"]:
        passes = channel_groups(fields["o_ch_num"] + 1, width)
        return passes * rows * (2 * height + latency.depthwise_overhead + latency.row_overhead)
    groups = channel_groups(fields["i_ch_num"] + 1, width)
    overhead = latency.group_overhead[3 if fields["kernel_type"] else 1]
    return round((fields["o_ch_num"] + 1) * rows * (groups * (height + overhead) + height + latency.row_overhead))


def _weight_bytes(fields: Mapping[str, int], bytes_per_weight: int) -> int:
    inputs = 1 if fields["depth_wise_layer"] else fields["i_ch_num"] + 1
    taps = 9 if fields["kernel_type"] else 1
    return (fields["o_ch_num"] + 1) * inputs * taps * bytes_per_weight


def kpu_time_s(fields: Mapping[str, int], *, to_main_memory: bool, eight_bit: bool = True,
               clock_hz: int = K210.kpu_clock_hz) -> float:
    """Seconds of one KPU layer with its software overhead.

    Weights are fetched in several loads, each of which overlaps the computation of the one before.

    Args:
        fields: the decoded layer argument.
        to_main_memory: the result leaves through the FIFO too (low confidence).
        eight_bit: weights of 8 bits, otherwise 16.
        clock_hz: KPU clock.
    """
    latency = K210.latency
    compute = kpu_cycles(fields) / clock_hz
    load = _weight_bytes(fields, 1 if eight_bit else 2) / latency.load_bytes_per_s
    loads = fields["load_time"] + 1
    overlapped = (load + (loads - 1) * max(load, compute) + compute) / loads
    seconds = latency.layer_s + (overlapped if loads > 1 else max(load, compute))
    if to_main_memory:
        seconds += latency.output_s + (fields["dma_total_byte"] + 1) / latency.output_bytes_per_s
    return seconds
