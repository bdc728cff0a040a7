"""Cycle estimate of a layer and of a network.

Owns the formula that the vendor's tool prints, and the constant that silicon adds. Fed either from the plan
(`work_from_layer`) or from what the simulator decoded out of the registers (`work_from_geometry`): both must agree.
Start at `LayerWork` and `layer_cycles`.

Source: spec/max78000-cnn.md section 8; silicon-measurements.md section 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ai8x.max7800x.geometry import HardwareLayer, HardwareOp
from ai8x.max7800x.kernels import LayerKernels

if TYPE_CHECKING:
    from ai8x.max7800x.simulator_config import LayerGeometry

START_CYCLES = 1
"""Cycles of a network before its first layer; section 8.1."""

SILICON_OVERHEAD_NS = 6_700
"""Start, interrupt and timer of the vendor's measurements beyond the formula, 6.4 to 7.1 us; section 8.4."""

STREAMING_PERCENT = 150
"""Streaming layers as a share of the formula in the vendor's estimate; silicon shows 116 to 127 (2.3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWork:
    """What the cycle count of one layer depends on.

    Args:
        passes: P; a pass layer with several output passes and a pooling window counts 2P - 1.
        operands: E.
        pool_pixels: n, pixels of the pooling window.
        pooled_rows: Hp; doubled for a transposed convolution.
        pooled_columns: Wp; doubled likewise.
        out_columns: Wo; flattened: Wp.
        kernel_rows: kh.
        kernel_columns: kw.
        pad_rows: hardware row pad.
        pad_columns: hardware column pad.
        slots: Mh, output positions of all output passes, in quad mode those of one quadrant; for a pass layer the
            channels.
        transfer_cycles: TS, words per pixel of a pass layer.
        start_word: S, first mask word.
        combine_first: an element-wise operation precedes the pooling.
        long_flatten: flattened input with more than 16 passes (``flatten_en``).
        is_conv: multiplies by weights.
        streaming: works on a stream; the result is an estimate.

    Source: spec/max78000-cnn.md section 8.1.
    """

    passes: int = 1
    operands: int = 1
    pool_pixels: int = 1
    pooled_rows: int
    pooled_columns: int
    out_columns: int = 1
    kernel_rows: int = 1
    kernel_columns: int = 1
    pad_rows: int = 0
    pad_columns: int = 0
    slots: int = 1
    transfer_cycles: int = 1
    start_word: int = 0
    combine_first: bool = False
    long_flatten: bool = False
    is_conv: bool = True
    streaming: bool = False


def layer_cycles(work: LayerWork) -> int:
    """Cycles of one layer.

    Args:
        work: the layer.

    Returns:
        Accelerator clock cycles; exact for layers that do not stream, otherwise the vendor's estimate.

    Rounding:
        a streaming estimate is rounded up: 3 -> 5

    Source:
        spec/max78000-cnn.md section 8.1.
    """
    cycles = _conv_cycles(work) if work.is_conv else _pass_cycles(work)
    if work.streaming:
        return -(-cycles * STREAMING_PERCENT // 100)
    return cycles


def network_cycles(works: Iterable[LayerWork]) -> int:
    """Cycles of one inference: the layers one after the other and the start.

    Input through a FIFO can make it longer: waiting for data is not modelled. In quad mode the quadrants compute their
    masks at the same time, as the formula's mask count says; no recording shows such a network's time (UNVERIFIED).

    Source:
        spec/max78000-cnn.md section 8.1.
    """
    return START_CYCLES + sum(layer_cycles(work) for work in works)


def predicted_time_us(cycles: int, clock_hz: int, *, overhead_us: float = SILICON_OVERHEAD_NS / 1e3) -> float:
    """Time that the chip's own timer shows for a network of so many cycles.

    Args:
        cycles: from `network_cycles`.
        clock_hz: accelerator clock.
        overhead_us: start, interrupt and timer.

    Units: microseconds.

    Source:
        spec/max78000-cnn.md section 8.4: within 0.4 us of the vendor's pages for networks that do not stream.
    """
    return cycles / clock_hz * 1e6 + overhead_us


def work_from_layer(layer: HardwareLayer, kernels: LayerKernels | None) -> LayerWork:
    """The work of a planned layer.

    Args:
        layer: in hardware form.
        kernels: its place in weight memory, None for a pass.
    """
    transposed = 2 if layer.op is HardwareOp.CONV_TRANSPOSE2D else 1
    passes = layer.passes
    if not layer.is_conv and layer.out_passes > 1 and layer.is_pooled:
        passes = 2 * passes - 1
    return LayerWork(
        passes=passes,
        operands=layer.operands,
        pool_pixels=layer.pool_rows * layer.pool_columns,
        pooled_rows=transposed * layer.pooled_rows,
        pooled_columns=transposed * layer.pooled_columns,
        out_columns=layer.pooled_columns if layer.flatten else layer.out_columns,
        kernel_rows=layer.kernel_rows,
        kernel_columns=layer.kernel_columns,
        pad_rows=layer.pad_rows,
        pad_columns=layer.pad_columns,
        slots=layer.slots_per_processor if layer.is_conv else layer.out_channels,
        transfer_cycles=layer.transfer_cycles_per_pixel,
        start_word=kernels.start_word if kernels else 0,
        combine_first=layer.combines_first,
        long_flatten=layer.is_long_flatten,
        is_conv=layer.is_conv,
        streaming=layer.streaming,
    )


def work_from_geometry(geometry: LayerGeometry) -> LayerWork:
    """The work of a layer as its registers describe it.

    The registers hold the product of passes and pixels of a flattened input, and the rows times the passes of an
    emulated element-wise operation: the cycle count is the same, but for a flattened layer of one pass with a single
    output, where the formula's extra cycle per row cannot be seen.

    Args:
        geometry: decoded by the simulator.
    """
    scale = 2 if geometry.transposed else 1
    is_conv = geometry.kind == "conv"
    is_pooled = geometry.pool_height > 1 or geometry.pool_width > 1
    passes = geometry.passes
    if not is_conv and geometry.output_passes > 1 and is_pooled:
        passes = 2 * passes - 1
    return LayerWork(
        passes=passes,
        operands=geometry.operands,
        pool_pixels=geometry.pool_height * geometry.pool_width,
        pooled_rows=scale * geometry.pooled_height,
        pooled_columns=scale * geometry.pooled_width,
        out_columns=geometry.out_width,
        kernel_rows=geometry.kernel_height,
        kernel_columns=geometry.kernel_width,
        pad_rows=geometry.pad_rows,
        pad_columns=geometry.pad_columns,
        slots=-(-geometry.slots // geometry.sharers) if is_conv else 1,
        transfer_cycles=geometry.tscnt_max + 1,
        start_word=geometry.weight_start,
        combine_first=geometry.operands > 1 and is_pooled and not geometry.pool_before_ewise,
        long_flatten=geometry.flatten_en,
        is_conv=is_conv,
        streaming=geometry.streaming,
    )


def _fetch_cycles(work: LayerWork) -> tuple[int, int, int]:
    """(A, D, u): cycles of a padded position, of a data position, and the factor of passes per position."""
    if work.combine_first:
        return 2 * work.passes, work.passes * (work.operands * work.pool_pixels + 1), work.passes
    return 2 * work.passes * work.operands, work.passes * work.operands * (work.pool_pixels + 1), 1


def _pass_cycles(work: LayerWork) -> int:
    _, data, _ = _fetch_cycles(work)
    return work.pooled_rows * work.pooled_columns * (data + work.passes * work.transfer_cycles)


def _conv_cycles(work: LayerWork) -> int:
    """Rows of padding above, rows that only fill the window, rows with output, rows of padding below."""
    padded, data, factor = _fetch_cycles(work)
    pad_rows, pad = work.pad_rows, work.pad_columns
    fill_columns = factor * (work.kernel_columns - 1 - pad)
    out_columns = factor * (work.out_columns - pad)
    left = pad * (padded + 1)
    right = pad * padded
    top_row = (2 * pad + factor * work.pooled_columns) * (padded + 1)
    fill_row = 2 * left + factor * work.pooled_columns * (data + 1)
    data_row = left + fill_columns * (data + 1) + out_columns * data + right
    bottom_row = left + fill_columns * (padded + 1) + out_columns * padded + right
    output = work.passes * work.out_columns * work.slots + int(work.slots == 1 and work.passes == 1)
    fill_rows = work.kernel_rows - 1 - pad_rows
    return (
        int(work.long_flatten)
        + _preload_cycles(work)
        + pad_rows * top_row
        + fill_rows * fill_row
        + (data_row + output) * (work.pooled_rows - fill_rows)
        + pad_rows * (bottom_row + output)
    )


def _preload_cycles(work: LayerWork) -> int:
    """Extra cycles of a combination before pooling, which grow with the layer's place in weight memory."""
    if not work.combine_first or (work.passes == 1 and work.operands == 1):
        return 0
    rows = (work.pooled_rows + 2 * work.pad_rows - work.kernel_columns + 1) * work.pad_columns
    columns = (work.pooled_columns + 2 * work.pad_columns - work.kernel_rows + 1) * work.pad_rows
    return (rows + columns - work.pad_rows * work.pad_columns) * work.start_word
