"""The network ai85cdnet for cats and dogs.

Known: names and shapes of all layers, from a published checkpoint, and the pooling, from its network description.

Source: cases/max78000-trained/cats_dogs (a published checkpoint); spec/max78000-cnn.md section 8.3.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ai8x.nn.initial import initialize_convolutions
from ai8x.nn.modules import FusedConv2dReLU, FusedMaxPoolConv2dReLU, Linear


class AI85CatsDogsNet(nn.Module):
    """Six convolutions and a linear layer; 57,776 weights and 50,432,000 multiply-accumulates for 3x128x128.

    Args:
        num_classes: outputs.
        num_channels: of the input.
        dimensions: height and width of the input, divisible by 16.
        fc_inputs: channels in front of the linear layer.
        bias: give the convolutions a bias; the linear layer always has one.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = 2, num_channels: int = 3, dimensions: tuple[int, int] = (128, 128),
                 fc_inputs: int = 16, bias: bool = False, **quantization: Any) -> None:
        super().__init__()
        shared = {"padding": 1, "bias": bias, **quantization}
        self.conv1 = FusedConv2dReLU(num_channels, 16, 3, **shared)
        self.conv2 = FusedMaxPoolConv2dReLU(16, 32, 3, **shared)
        self.conv3 = FusedMaxPoolConv2dReLU(32, 64, 3, **shared)
        self.conv4 = FusedMaxPoolConv2dReLU(64, 32, 3, **shared)
        self.conv5 = FusedMaxPoolConv2dReLU(32, 32, 3, **shared)
        self.conv6 = FusedConv2dReLU(32, fc_inputs, 3, **shared)
        self.fc = Linear(fc_inputs * (dimensions[0] // 16) * (dimensions[1] // 16), num_classes, bias=True, wide=True,
                         **quantization)
        initialize_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of every class.

        Shapes:
            images (N, channels, height, width); returns (N, classes).
        """
        data = self.conv4(self.conv3(self.conv2(self.conv1(images))))
        scores: Tensor = self.fc(self.conv6(self.conv5(data)).flatten(1))
        return scores


def ai85cdnet(pretrained: bool = False, **arguments: Any) -> AI85CatsDogsNet:
    """The model by its name; there are no pretrained weights."""
    del pretrained
    return AI85CatsDogsNet(**arguments)


models = [
    {"name": "ai85cdnet", "min_input": 1, "dim": 2, "input": (3, 128, 128), "num_classes": 2},
]
