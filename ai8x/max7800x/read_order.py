"""When a layer has read its input, and which of its words its own output may therefore replace while it runs.

Owns the order that sections 2.2 and 8.1 imply. The input is fetched once, pixel after pixel in raster order, every pass
and operand of a pixel together; rows that a kernel still needs stay in the TRAM. An output pixel is written once all
data that it needs has been fetched, so that everything in front of that data has been fetched, too. Nothing is claimed
of layers whose order follows less directly: streams, FIFO, CHW and flattened input, transposed and row-form kernels.
Start at `replaced_too_early`.

Source: spec/max78000-cnn.md sections 2.2, 5.1, 5.3, 6.4 (the vendor's tool leaves it to the user with
``--overlap-data``) and 8.1. The vendor's network for the clips of Kinetics400 (spec/ai8x-training.md section 17),
96x60x60 to 64x60x60 in its first layer, cannot be placed otherwise; no published run on a chip says that its result was
right: UNVERIFIED.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ai8x.max7800x.geometry import HardwareLayer, HardwareOp
from ai8x.max7800x.placement import WORD_BYTES, DataFormat
from ai8x.max7800x.regions import WordSet

Integers = NDArray[np.int64]


def reads_in_order(layer: HardwareLayer) -> bool:
    """Whether the order in which the layer fetches its input is known to be that of the pixels."""
    reads_memory = not (layer.streaming or layer.fifo_input or layer.quad)
    is_plain = not (layer.flatten or layer.lead_pixels or layer.surplus_pixels or layer.is_emulated_eltwise)
    return (
        reads_memory
        and is_plain
        and layer.op is not HardwareOp.CONV_TRANSPOSE2D
        and layer.placement.data_format is DataFormat.HWC
        and not layer.combines_first
    )


def last_positions(layer: HardwareLayer) -> Integers:
    """By output pixel, the last pooled position that has been fetched when it is written; never falls.

    A kernel that reaches over the right edge has its whole row, one that reaches over the bottom has everything.
    """
    rows = np.arange(layer.out_rows)[:, None] + layer.kernel_rows - 1 - layer.pad_rows
    columns = np.arange(layer.out_columns)[None, :] + layer.kernel_columns - 1 - layer.pad_columns
    last = rows * layer.pooled_columns + np.minimum(columns, layer.pooled_columns - 1)
    return np.minimum(last, layer.pooled_rows * layer.pooled_columns - 1).ravel().astype(np.int64)


def replaced_too_early(layer: HardwareLayer, own: WordSet, passed: WordSet) -> WordSet:
    """The words that a layer writes before it is certain to have read them.

    Args:
        layer: in hardware form.
        own: what it writes, (instances, words).
        passed: what its read pointer passes, likewise.

    Returns:
        A part of the words that are in both.
    """
    clash = own & passed
    if not clash.any() or not reads_in_order(layer):
        return clash
    num_words = clash.shape[1]
    written = _written_at(layer, num_words)
    ready = _fetched_by(layer, num_words)
    early = (written >= 0) & (written < ready)
    return clash & early[None, :]


def _written_at(layer: HardwareLayer, num_words: int) -> Integers:
    """By word of a data memory, the output pixel that is written there; -1 for none."""
    at = np.full(num_words, -1, dtype=np.int64)
    pixels = np.arange(layer.out_pixels)
    start = layer.placement.out_offset // WORD_BYTES
    width = layer.output_bits // 8
    for out_pass in range(layer.out_passes):
        for word in range(width):
            at[start + out_pass * width * (layer.write_gap + 1) + word + pixels * layer.out_stride_words] = pixels
    return at


def _fetched_by(layer: HardwareLayer, num_words: int) -> Integers:
    """By word of a data memory, the first output pixel that is written after the word has been read for certain.

    A pixel counts as read once the next pooling window begins behind it.
    """
    rows = np.arange(layer.pooled_rows, dtype=np.int64)[:, None] * layer.pool_stride * layer.in_columns
    begins = (rows + np.arange(layer.pooled_columns) * layer.pool_stride).ravel()
    positions = np.searchsorted(begins[1:], np.arange(layer.in_pixels), side="right")
    ready = np.searchsorted(last_positions(layer), positions)
    # A position that no output pixel needs may be fetched at any time, even after the last one was written.
    ready[ready == layer.out_pixels] = np.iinfo(np.int64).max
    words = np.zeros(num_words, dtype=np.int64)
    start, share = layer.placement.in_offset // WORD_BYTES, layer.passes * layer.operands
    words[start : start + layer.in_pixels * share] = np.repeat(ready, share)
    return words
