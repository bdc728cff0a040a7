"""The networks ai85simplenet and ai85ressimplenet for CIFAR-100.

Known: every layer of the plain network with its shape, and that the residual one has the same convolutions and three
additions. Own design: which tensors the additions join; they are the ones of equal shape around one convolution.

Source: spec/silicon-measurements.md sections 2.2 and 2.5; spec/max78000-cnn.md section 8.3; names of the convolutions:
spec/ai8x-training.md section 6 (the policy for CIFAR-100).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ai8x.nn.initial import initialize_convolutions
from ai8x.nn.modules import Add, Conv2d, FusedConv2dReLU, FusedMaxPoolConv2dReLU


class AI85SimpleNet(nn.Module):
    """Fourteen convolutions; 381,792 weights for 3x32x32 and 100 classes.

    The scores are those of the last convolution, whose map is 1x1 for 32x32 images.

    Args:
        num_classes: outputs.
        num_channels: of the input.
        dimensions: height and width of the input; 32x32.
        bias: give every layer a bias.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = 100, num_channels: int = 3, dimensions: tuple[int, int] = (32, 32),
                 bias: bool = False, **quantization: Any) -> None:
        super().__init__()
        if tuple(dimensions) != (32, 32):
            raise ValueError(f"ai85simplenet takes 32x32 images, not {dimensions[0]}x{dimensions[1]}")
        shared = {"bias": bias, **quantization}
        self.conv1 = FusedConv2dReLU(num_channels, 16, 3, padding=1, **shared)
        self.conv2 = FusedConv2dReLU(16, 20, 3, padding=1, **shared)
        self.conv3 = FusedConv2dReLU(20, 20, 3, padding=1, **shared)
        self.conv4 = FusedConv2dReLU(20, 20, 3, padding=1, **shared)
        self.conv5 = FusedMaxPoolConv2dReLU(20, 20, 3, padding=1, **shared)
        self.conv6 = FusedConv2dReLU(20, 20, 3, padding=1, **shared)
        self.conv7 = FusedConv2dReLU(20, 44, 3, padding=1, **shared)
        self.conv8 = FusedMaxPoolConv2dReLU(44, 48, 3, padding=1, **shared)
        self.conv9 = FusedConv2dReLU(48, 48, 3, padding=1, **shared)
        self.conv10 = FusedMaxPoolConv2dReLU(48, 96, 3, padding=1, **shared)
        self.conv11 = FusedMaxPoolConv2dReLU(96, 512, 1, **shared)
        self.conv12 = FusedConv2dReLU(512, 128, 1, **shared)
        self.conv13 = FusedMaxPoolConv2dReLU(128, 128, 3, padding=1, **shared)
        self.conv14 = Conv2d(128, num_classes, 1, wide=True, **shared)
        initialize_convolutions(self)

    def _head(self, data: Tensor) -> Tensor:
        data = self.conv13(self.conv12(self.conv11(self.conv10(data))))
        scores: Tensor = self.conv14(data).flatten(1)
        return scores

    def forward(self, images: Tensor) -> Tensor:
        """Scores of every class.

        Shapes:
            images (N, channels, 32, 32); returns (N, classes).
        """
        data = self.conv4(self.conv3(self.conv2(self.conv1(images))))
        data = self.conv7(self.conv6(self.conv5(data)))
        return self._head(self.conv9(self.conv8(data)))


class AI85ResidualSimpleNet(AI85SimpleNet):
    """The same convolutions, three of them bridged by additions."""

    def __init__(self, num_classes: int = 100, num_channels: int = 3, dimensions: tuple[int, int] = (32, 32),
                 bias: bool = False, **quantization: Any) -> None:
        super().__init__(num_classes, num_channels, dimensions, bias, **quantization)
        self.resid1 = Add()
        self.resid2 = Add()
        self.resid3 = Add()

    def forward(self, images: Tensor) -> Tensor:
        """Scores of every class.

        Shapes:
            images (N, channels, 32, 32); returns (N, classes).
        """
        data = self.conv2(self.conv1(images))
        data = self.conv5(self.conv4(self.resid1(self.conv3(data), data)))
        data = self.conv8(self.conv7(self.resid2(self.conv6(data), data)))
        return self._head(self.resid3(self.conv9(data), data))


def ai85simplenet(pretrained: bool = False, **arguments: Any) -> AI85SimpleNet:
    """The plain model by its name; there are no pretrained weights."""
    del pretrained
    return AI85SimpleNet(**arguments)


def ai85ressimplenet(pretrained: bool = False, **arguments: Any) -> AI85ResidualSimpleNet:
    """The residual model by its name; there are no pretrained weights."""
    del pretrained
    return AI85ResidualSimpleNet(**arguments)


models = [
    {"name": "ai85simplenet", "min_input": 1, "dim": 2, "input": (3, 32, 32), "num_classes": 100},
    {"name": "ai85ressimplenet", "min_input": 1, "dim": 2, "input": (3, 32, 32), "num_classes": 100},
]
