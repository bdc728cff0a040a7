"""Data on the grid of the chip: normalisation, folding of images, the Bayer mosaic.

Source: spec/ai8x-training.md section 2.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ai8x.arithmetic import INT8
from ai8x.nn.functional import Q7_ONE


class NormalizeArguments(Protocol):
    """What `normalize` reads of the vendor's argument object."""

    @property
    def act_mode_8bit(self) -> bool:
        """Keep integers instead of dividing them by 128."""


class normalize:
    """Transform of data in [0, 1] to the grid of the chip.

    Args:
        args: object with ``act_mode_8bit``; True keeps integers -128..127, False divides them by 128.

    Rounding:
        halves to even: 8-bit data k becomes round(k * 256 / 255 - 128)
    """

    def __init__(self, args: NormalizeArguments) -> None:
        self.integers = bool(args.act_mode_8bit)

    def __call__(self, image: Tensor) -> Tensor:
        """Float tensor of the same shape."""
        steps = image.sub(0.5).mul(2 * Q7_ONE).round().clamp(INT8.min, INT8.max)
        return steps if self.integers else steps.div(Q7_ONE)


class fold:
    """Transform (C, H, W) to (C * r * r, H / r, W / r): sub-images by row, then by column, their channels adjacent.

    Args:
        fold_ratio: r; 1 leaves the data as it is.
    """

    def __init__(self, fold_ratio: int) -> None:
        self.ratio = fold_ratio

    def __call__(self, image: Tensor) -> Tensor:
        """Output channel ``(i * r + j) * C + c`` is ``image[c, i::r, j::r]``."""
        ratio = self.ratio
        return torch.cat([image[:, i::ratio, j::ratio] for i in range(ratio) for j in range(ratio)], dim=0)


def unfold_batch(batch: Tensor, fold_ratio: int) -> Tensor:
    """Inverse of `fold` on a batch: (N, C * r * r, H, W) to (N, C, H * r, W * r)."""
    count, channels, rows, columns = batch.shape
    blocks = batch.reshape(count, fold_ratio, fold_ratio, channels // fold_ratio**2, rows, columns)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(count, -1, rows * fold_ratio, columns * fold_ratio)


class bayer_filter:
    """Transform (3, H, W) to the (1, H, W) mosaic of a sensor: green, blue in even rows; red, green in odd ones."""

    def __call__(self, image: Tensor) -> Tensor:
        """Green where row + column is even, blue in even rows and odd columns, red in odd rows and even columns."""
        mosaic = image[1:2].clone()
        mosaic[0, 0::2, 1::2] = image[2, 0::2, 1::2]
        mosaic[0, 1::2, 0::2] = image[0, 1::2, 0::2]
        return mosaic
