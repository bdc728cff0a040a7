"""The random changes of light augmentation.

Everything works on whole batches (N, C, H, W) of images in [0, 1] and draws from a generator that the caller seeds, so
a batch is a pure function of its samples and its seed. Start at `random_affine`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Changes a batch of images in [0, 1], float32 (N, C, H, W), at random; same shape and range."""


def random_affine(images: Tensor, generator: torch.Generator, *, degrees: float, translate: float,
                  scale: float = 0.0, shear: float = 0.0) -> Tensor:
    """Rotate, move, zoom and shear every image of a batch on its own; empty places become 0.

    Args:
        images: float32 (N, C, H, W).
        generator: source of all randomness.
        degrees: largest rotation either way.
        translate: largest move either way, as a share of the width and height.
        scale: largest zoom either way, as a share: 0.1 means factors 0.9 to 1.1.
        shear: largest shear either way, in degrees, along the rows.
    """
    count = images.shape[0]
    uniform = torch.rand((count, 5), generator=generator) * 2 - 1
    angle = uniform[:, 0] * math.radians(degrees)
    slant = torch.tan(uniform[:, 1] * math.radians(shear))
    factor = 1 + uniform[:, 2] * scale
    cosine, sine = torch.cos(angle) * factor, torch.sin(angle) * factor
    row_x = torch.stack((cosine, cosine * slant - sine, uniform[:, 3] * 2 * translate), dim=1)
    row_y = torch.stack((sine, sine * slant + cosine, uniform[:, 4] * 2 * translate), dim=1)
    grid = torch.nn.functional.affine_grid(torch.stack((row_x, row_y), dim=1), list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def random_shift(images: Tensor, generator: torch.Generator, *, pixels: int) -> Tensor:
    """Move every image by whole pixels, at most ``pixels`` each way: padding with 0 and a random crop."""
    count, channels, height, width = images.shape
    padded = torch.nn.functional.pad(images, (pixels,) * 4)
    offsets = torch.randint(0, 2 * pixels + 1, (2, count, 1), generator=generator)
    rows = (offsets[0] + torch.arange(height)).view(count, 1, height, 1)
    columns = (offsets[1] + torch.arange(width)).view(count, 1, 1, width)
    samples = torch.arange(count).view(count, 1, 1, 1)
    return padded[samples, torch.arange(channels).view(1, channels, 1, 1), rows, columns]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    chosen = torch.rand((images.shape[0], 1, 1, 1), generator=generator) < 0.5
    return torch.where(chosen, images.flip(3), images)
