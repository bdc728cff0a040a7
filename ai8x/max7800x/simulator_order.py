"""Whether a layer fetches every word of its input before it writes over it.

Owns the order of fetching and writing inside a layer; the simulator itself gathers first and writes afterwards, which
is the same exactly where this holds. Start reading at `first_word_lost`.

Source: spec/max78000-cnn.md sections 2.2 (the TRAM keeps the rows that a kernel needs), 5.3 and 8.1 (every position is
fetched once, in raster order; the output slots of a pixel follow the fetch of what it needs).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ai8x.max7800x.simulator_config import LayerConfig, LayerGeometry

Integers = npt.NDArray[np.int64]


def first_word_lost(config: LayerConfig, instance: int, words: Integers) -> int | None:
    """The lowest input word that the layer overwrites although it may not have fetched it yet.

    Args:
        config: the layer.
        instance: data memory that is written.
        words: (pixel, word of the pixel), in the order of writing.

    Returns:
        None where the layer does not read the instance, or fetches in time.
    """
    if instance not in config.instances or config.geometry.streaming:
        return None
    first, end = config.read_word, config.read_word + config.read_words
    hit = (words >= first) & (words < end)
    if hit.any() and _has_known_order(config.geometry):
        hit &= words >= (first + _fetched_words(config.geometry))[:, None]
    return int(words[hit].min()) if hit.any() else None


def _has_known_order(g: LayerGeometry) -> bool:
    """Layers that fetch pixel by pixel; of the others nothing is known but that they read before they end."""
    pools_last = g.operands > 1 and g.pool_height * g.pool_width > 1 and not g.pool_before_ewise
    return not (g.transposed or g.flatten_en or g.chw or pools_last)


def _fetched_words(g: LayerGeometry) -> Integers:
    """By output pixel, how many words of an instance are behind the fetch when the pixel is written, at least."""
    row, column = np.divmod(np.arange(g.num_pixels, dtype=np.int64), g.out_width)
    # Cells of the pooled image: the rows above the kernel's last one are complete.
    complete = row + g.kernel_height - 1 - g.pad_rows
    cells = complete * g.pooled_width + np.minimum(column + g.kernel_width - g.pad_columns, g.pooled_width)
    next_row, next_column = np.divmod(cells, g.pooled_width)
    pixels = next_row * g.stride * g.width + next_column * g.stride
    done = cells >= g.pooled_height * g.pooled_width
    return np.where(done, g.height * g.width, pixels) * g.passes * g.operands
