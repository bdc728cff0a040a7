"""A sample of which the firmware stores the first words only, and how it makes the others.

Owns the rule that the generated C follows word by word. Start at `StoredSample`.

Source: spec/max78000-cnn.md section 5.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredSample:
    """The few words from which the firmware makes the whole sample (synthesized input).

    A word holds one pixel of four channels; see `ai8x.sample.repeat_words` for those that follow from the stored ones.

    Args:
        words: uint32 array (groups of four channels, stored words).
        period: words after which they are repeated.
        increment: added with every repetition.
        first_pixel: pixel of every channel with which the input blocks start.
        num_pixels: pixels of every channel in the blocks.
        planar: a word of a block holds four consecutive pixels of a channel, not one pixel of four channels.

    Source: spec/max78000-cnn.md section 5.4.
    """

    words: NDArray[np.uint32]
    period: int
    increment: int
    first_pixel: int
    num_pixels: int
    planar: bool

    def __post_init__(self) -> None:
        self.words.setflags(write=False)


def made_words(stored: StoredSample, lanes: NDArray[Any], count: int) -> NDArray[np.uint32]:
    """The words for one data memory instance or FIFO, as the firmware makes them.

    Args:
        stored: the few words.
        lanes: channels in the bytes of successive words, int array (steps, 4); see `InputBlock.lanes`.
        count: words to make.
    """
    position, lane = np.arange(count)[:, np.newaxis], np.arange(4)
    channel = lanes[position[:, 0] % len(lanes)].astype(np.int64)
    pixel = 4 * position + lane if stored.planar else np.broadcast_to(position // len(lanes), channel.shape)
    exists = (channel >= 0) & (pixel < stored.num_pixels)
    channel, number = np.where(exists, channel, 0), np.where(exists, pixel + stored.first_pixel, 0)
    word = stored.words.astype(np.int64)[channel // 4, number % stored.period]
    word = word + number // stored.period * stored.increment
    values = np.where(exists, word >> 8 * (channel % 4) & 0xFF, 0)
    made: NDArray[np.uint32] = (values << 8 * lane).sum(axis=1).astype(np.uint32)
    return made
