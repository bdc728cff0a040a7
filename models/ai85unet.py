"""The segmentation networks ai85unetsmall and ai85unetlarge.

Known: the layers of the large network, from the published cycles per layer and its 278,176 weights for four classes
(281,312 with the identity layer that one network description adds). Own design: the channels of the small network and
the order in which encoder and decoder are joined.

Source: spec/silicon-measurements.md sections 2.5 and 3.1; spec/ai8x-training.md section 16 (folding).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ai8x.nn.modules import ConvTranspose2d, FusedConv2dBN, FusedConv2dBNReLU, FusedMaxPoolConv2dBNReLU


class _UNet(nn.Module):
    """Three levels down and up again, joined at every level.

    Layers are registered in the order in which they run, because files pair layers by that order.
    """

    def _add_levels(self, num_channels: int, widths: tuple[int, int, int, int], last: int, **quantization: Any) -> None:
        """Register the layers of all levels.

        Args:
            num_channels: of the input.
            widths: channels of the three encoder levels and of the bottom.
            last: channels of the last decoder layer.
            quantization: handed down to every layer.
        """
        one, two, three, bottom = widths
        shared = {"padding": 1, "bias": True, **quantization}
        self.enc1 = FusedConv2dBNReLU(num_channels, one, 3, **shared)
        self.enc2 = FusedMaxPoolConv2dBNReLU(one, two, 3, **shared)
        self.enc3 = FusedMaxPoolConv2dBNReLU(two, three, 3, **shared)
        self.bneck = FusedMaxPoolConv2dBNReLU(three, bottom, 3, **shared)
        self.upconv3 = ConvTranspose2d(bottom, three, 3, stride=2, **shared)
        self.dec3 = FusedConv2dBNReLU(2 * three, three, 3, **shared)
        self.upconv2 = ConvTranspose2d(three, two, 3, stride=2, **shared)
        self.dec2 = FusedConv2dBNReLU(2 * two, two, 3, **shared)
        self.upconv1 = ConvTranspose2d(two, one, 3, stride=2, **shared)
        self.dec1 = FusedConv2dBNReLU(2 * one, last, 3, **shared)

    def _levels(self, data: Tensor) -> Tensor:
        """Down to the bottom and up again: (N, channels, H, W) to (N, last, H, W)."""
        one = self.enc1(data)
        two = self.enc2(one)
        three = self.enc3(two)
        data = self.dec3(torch.cat((self.upconv3(self.bneck(three)), three), dim=1))
        data = self.dec2(torch.cat((self.upconv2(data), two), dim=1))
        result: Tensor = self.dec1(torch.cat((self.upconv1(data), one), dim=1))
        return result


def _check_size(name: str, dimensions: tuple[int, int]) -> None:
    if dimensions[0] % 8 or dimensions[1] % 8:
        raise ValueError(f"{name} takes heights and widths that 8 divides, not {dimensions[0]}x{dimensions[1]}")


class AI85UNetSmall(_UNet):
    """For 3x80x80: levels of 4, 8 and 32 channels, 64 at the bottom.

    Args:
        num_classes: classes of a pixel.
        num_channels: of the input.
        dimensions: height and width of the input, divisible by 8.
        bias: not used; every layer has one, because folding BatchNorm needs it.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = 4, num_channels: int = 3, dimensions: tuple[int, int] = (80, 80),
                 bias: bool = True, **quantization: Any) -> None:
        del bias
        _check_size("ai85unetsmall", dimensions)
        super().__init__()
        self._add_levels(num_channels, (4, 8, 32, 64), 16, **quantization)
        self.conv = FusedConv2dBN(16, num_classes, 1, bias=True, **quantization)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of every class for every pixel.

        Shapes:
            images (N, channels, H, W); returns (N, classes, H, W).
        """
        scores: Tensor = self.conv(self._levels(images))
        return scores


class AI85UNetLarge(_UNet):
    """For folded images, e.g. 48x88x88: 1x1 layers before and behind, levels of 8, 28 and 56 channels, 112 below.

    The output is folded as the input is: train it with ``--out-fold-ratio 4``.

    Args:
        num_classes: classes of a pixel.
        num_channels: of the folded input.
        dimensions: height and width of the folded input, divisible by 8.
        fold_ratio: of the output.
        bias: not used; every layer has one, because folding BatchNorm needs it.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = 4, num_channels: int = 48, dimensions: tuple[int, int] = (88, 88),
                 fold_ratio: int = 4, bias: bool = True, **quantization: Any) -> None:
        del bias
        _check_size("ai85unetlarge", dimensions)
        super().__init__()
        shared = {"bias": True, **quantization}
        self.prep0 = FusedConv2dBNReLU(num_channels, 64, 1, **shared)
        self.prep1 = FusedConv2dBNReLU(64, 64, 1, **shared)
        self.prep2 = FusedConv2dBNReLU(64, 32, 1, **shared)
        self._add_levels(32, (8, 28, 56, 112), 48, **quantization)
        self.dec0 = FusedConv2dBNReLU(48, 64, 3, padding=1, **shared)
        self.conv_p1 = FusedConv2dBNReLU(64, 64, 1, **shared)
        self.conv_p2 = FusedConv2dBNReLU(64, 64, 1, **shared)
        self.conv_p3 = FusedConv2dBNReLU(64, 64, 1, **shared)
        self.conv = FusedConv2dBN(64, num_classes * fold_ratio**2, 1, **shared)

    def forward(self, images: Tensor) -> Tensor:
        """Folded scores of every class for every pixel.

        Shapes:
            images (N, channels, H, W); returns (N, classes * 16, H, W).
        """
        data = self.dec0(self._levels(self.prep2(self.prep1(self.prep0(images)))))
        scores: Tensor = self.conv(self.conv_p3(self.conv_p2(self.conv_p1(data))))
        return scores


def ai85unetsmall(pretrained: bool = False, **arguments: Any) -> AI85UNetSmall:
    """The small model by its name; there are no pretrained weights."""
    del pretrained
    return AI85UNetSmall(**arguments)


def ai85unetlarge(pretrained: bool = False, **arguments: Any) -> AI85UNetLarge:
    """The large model by its name; there are no pretrained weights."""
    del pretrained
    return AI85UNetLarge(**arguments)


models = [
    {"name": "ai85unetsmall", "min_input": 1, "dim": 2, "input": (3, 80, 80), "num_classes": 4},
    {"name": "ai85unetlarge", "min_input": 1, "dim": 2, "input": (48, 88, 88), "num_classes": 4},
]
