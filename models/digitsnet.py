"""A small residual network for 28x28 digits that runs on the MAX78000 and on the K210 as it is.

3.1 million multiply-accumulates, 26 thousand weights. Every map stays at least 4x4, before and after pooling, and only
values of 0 and above are pooled, which is what the K210's KPU asks for.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ai8x.nn.modules import (
    Add,
    FusedAvgPoolConv2dReLU,
    FusedConv2dBNReLU,
    FusedConv2dReLU,
    FusedMaxPoolConv2dBNReLU,
    Linear,
)


class DigitsNet(nn.Module):
    """Four convolutions, one of them bridged by an addition, and a linear layer with 32-bit outputs.

    Every layer has a bias, because folding BatchNorm needs one; ``bias`` is accepted for the common call.

    Args:
        num_classes: outputs.
        num_channels: of the input.
        dimensions: height and width of the input, divisible by 4.
        bias: not used.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = 10, num_channels: int = 1, dimensions: tuple[int, int] = (28, 28),
                 bias: bool = True, **quantization: Any) -> None:
        super().__init__()
        del bias
        height, width = dimensions
        self.conv1 = FusedConv2dReLU(num_channels, 16, 3, padding=1, bias=True, **quantization)
        self.conv2 = FusedMaxPoolConv2dBNReLU(16, 32, 3, padding=1, bias=True, **quantization)
        self.conv3 = FusedConv2dBNReLU(32, 32, 3, padding=1, bias=True, **quantization)
        self.add = Add()
        self.conv4 = FusedAvgPoolConv2dReLU(32, 16, 3, padding=1, bias=True, **quantization)
        self.fc = Linear(16 * (height // 4) * (width // 4), num_classes, bias=True, wide=True, **quantization)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of every class.

        Shapes:
            images (N, channels, height, width); returns (N, classes).
        """
        data = self.conv2(self.conv1(images))
        data = self.conv4(self.add(self.conv3(data), data))
        scores: Tensor = self.fc(data.flatten(1))
        return scores


def digitsnet(pretrained: bool = False, **arguments: Any) -> DigitsNet:
    """The model by its name; there are no pretrained weights."""
    del pretrained
    return DigitsNet(**arguments)


models = [
    {"name": "digitsnet", "min_input": 8, "dim": 2, "input": (1, 28, 28), "num_classes": 10},
]
