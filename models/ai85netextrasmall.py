"""The network ai85netextrasmall: three convolutions of eight channels and a linear layer.

Known: the name, the four layers and their channels, which follow from the published cycles (8,188, 3,352, 460, 192) and
the 214,400 multiply-accumulates for 1x28x28. Own design: the names of the layers.

Source: spec/silicon-measurements.md section 2.5; spec/max78000-cnn.md section 8.3.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ai8x.nn.initial import initialize_convolutions
from ai8x.nn.modules import FusedConv2dReLU, FusedMaxPoolConv2dReLU, Linear


class AI85NetExtraSmall(nn.Module):
    """Three convolutions and a linear layer; 2,504 weights for 1x28x28 and ten classes.

    Args:
        num_classes: outputs.
        num_channels: of the input.
        dimensions: height and width of the input; square.
        fc_inputs: channels in front of the linear layer.
        bias: give the convolutions a bias; the linear layer always has one.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = 10, num_channels: int = 1, dimensions: tuple[int, int] = (28, 28),
                 fc_inputs: int = 8, bias: bool = False, **quantization: Any) -> None:
        super().__init__()
        if dimensions[0] != dimensions[1]:
            raise ValueError(f"ai85netextrasmall takes square images, not {dimensions[0]}x{dimensions[1]}")
        padding = 2 if dimensions[0] == 28 else 1
        size = (dimensions[0] // 2 + 2 * padding - 2) // 4
        self.conv1 = FusedConv2dReLU(num_channels, 8, 3, padding=1, bias=bias, **quantization)
        self.conv2 = FusedMaxPoolConv2dReLU(8, 8, 3, padding=padding, bias=bias, **quantization)
        self.conv3 = FusedMaxPoolConv2dReLU(8, fc_inputs, 3, pool_size=4, pool_stride=4, padding=1, bias=bias,
                                            **quantization)
        self.fc = Linear(fc_inputs * size * size, num_classes, bias=True, wide=True, **quantization)
        initialize_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of every class.

        Shapes:
            images (N, channels, height, width); returns (N, classes).
        """
        scores: Tensor = self.fc(self.conv3(self.conv2(self.conv1(images))).flatten(1))
        return scores


def ai85netextrasmall(pretrained: bool = False, **arguments: Any) -> AI85NetExtraSmall:
    """The model by its name; there are no pretrained weights."""
    del pretrained
    return AI85NetExtraSmall(**arguments)


models = [
    {"name": "ai85netextrasmall", "min_input": 1, "dim": 2, "input": (1, 28, 28), "num_classes": 10},
]
