"""Start points, increments and buffers of layers that work while their input arrives.

Owns the stream formulas, used by lowering (registers STRM0, STRM1, FBUF) and by the constraints (ranges, overlaps).
Start at `stream_settings`.

Source: spec/max78000-cnn.md sections 2.2 (TPTR), 2.3 and 6.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.placement import WORD_BYTES, DataFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """Stream registers of one layer.

    Args:
        start: STRM0.start, input words before the layer starts.
        delta1: STRM1.delta1.
        delta2: STRM1.delta2.
        invol: STRM1.invol, passes of all earlier layers.
        buffer_words: FBUF, words of the circular input buffer; 0 for a layer that does not stream.
        tram_start: first TRAM entry (TPTR.sad of a streaming layer > 0), 0 for layer 0.
        tram_end: last TRAM entry.
    """

    start: int = 0
    delta1: int = 0
    delta2: int = 0
    invol: int = 0
    buffer_words: int = 0
    tram_start: int = 0
    tram_end: int = 0


def stream_settings(layers: Sequence[HardwareLayer], device: Max7800x) -> tuple[StreamSettings | None, ...]:
    """Stream registers of every layer.

    Args:
        layers: all layers in hardware form.
        device: the chip.

    Returns:
        One entry per layer; None for a layer that neither streams nor is fed by the FIFO.

    Source:
        spec/max78000-cnn.md section 2.3.
    """
    return tuple(
        _first_layer(layer, layers, device) if layer.index == 0 else _later_layer(layer, layers, device)
        for layer in layers
    )


def input_frame_words(layer: HardwareLayer) -> int:
    """Words per FIFO that one input frame takes: a word per pixel, or four pixels of a CHW channel (IFRM)."""
    if layer.placement.data_format is DataFormat.CHW:
        return -(-layer.in_pixels // WORD_BYTES)
    return layer.in_pixels


def _first_layer(layer: HardwareLayer, layers: Sequence[HardwareLayer], device: Max7800x) -> StreamSettings | None:
    if not layer.fifo_input:
        return None
    if not layer.streaming:
        return StreamSettings(start=input_frame_words(layer) * layer.pool_rows, tram_end=layer.tram_rows - 1)
    start = ((layer.pool_rows - 1) * layer.in_columns + layer.pool_columns) * layer.pool_rows
    if layer.placement.data_format is DataFormat.CHW:
        buffer_words = device.limits.stream_chw_buffer
    else:
        buffer_words = _buffer_words(layer, start)
    return StreamSettings(
        start=start,
        delta1=(layer.pool_stride - 1) * layer.operands,
        delta2=(layer.pool_rows - 1) * layer.in_columns * layer.operands,
        buffer_words=buffer_words,
        tram_end=layer.tram_rows - 1,
    )


def _later_layer(layer: HardwareLayer, layers: Sequence[HardwareLayer], device: Max7800x) -> StreamSettings | None:
    if not layer.streaming:
        return None
    previous = layers[layer.index - 1]
    padded_width = previous.pooled_columns + 2 * previous.pad_columns
    start = (
        padded_width * (previous.kernel_rows - 1 + layer.pool_rows - 1)
        + previous.kernel_columns
        - 1
        + layer.pool_columns
        + device.limits.stream_start_extra
    )
    earlier = layers[: layer.index]
    tram_start = sum(one.tram_rows * one.passes for one in earlier)
    return StreamSettings(
        start=start,
        delta1=layer.pool_stride * layer.operands,
        delta2=(layer.pool_stride - 1) * padded_width + layer.pool_columns * layer.operands,
        invol=sum(one.passes for one in earlier),
        buffer_words=_buffer_words(layer, start),
        tram_start=tram_start,
        tram_end=tram_start + layer.tram_rows - 1,
    )


def _buffer_words(layer: HardwareLayer, start: int) -> int:
    """Rows in flight plus the window's reach, whole pixels."""
    words = start + (layer.pool_rows - 1) * layer.in_columns + max(1, layer.pool_stride, layer.pool_columns)
    return -(-words // layer.passes) * layer.passes
