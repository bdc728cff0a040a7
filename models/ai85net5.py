"""The network ai85net5 as users of ai8x-training know it: names, shapes and keys of its layers.

Source: spec/ai8x-training.md section 17.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ai8x.nn.initial import initialize_convolutions
from ai8x.nn.modules import FusedAvgPoolConv2dReLU, FusedConv2dReLU, FusedMaxPoolConv2dReLU, Linear


class AI85Net5(nn.Module):
    """Four convolutions and a linear layer; 71,148 weights for 1x28x28 and ten classes.

    Args:
        num_classes: outputs.
        num_channels: of the input.
        dimensions: height and width of the input.
        planes: channels of the first two convolutions.
        pool: window and stride of the average pooling.
        fc_inputs: channels in front of the linear layer.
        bias: give the convolutions a bias; the linear layer always has one.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = 10, num_channels: int = 3, dimensions: tuple[int, int] = (28, 28),
                 planes: int = 60, pool: int = 2, fc_inputs: int = 12, bias: bool = False,
                 **quantization: Any) -> None:
        super().__init__()
        if dimensions[0] != dimensions[1]:
            raise ValueError(f"ai85net5 takes square images, not {dimensions[0]}x{dimensions[1]}")
        size = dimensions[0]
        padding = 2 if size == 28 else 1
        self.conv1 = FusedConv2dReLU(num_channels, planes, 3, padding=1, bias=bias, **quantization)
        self.conv2 = FusedMaxPoolConv2dReLU(planes, planes, 3, pool_size=2, pool_stride=2, padding=padding, bias=bias,
                                            **quantization)
        size = size // 2 + 2 * padding - 2
        self.conv3 = FusedMaxPoolConv2dReLU(planes, 128 - planes - fc_inputs, 3, pool_size=2, pool_stride=2, padding=1,
                                            bias=bias, **quantization)
        size //= 2
        self.conv4 = FusedAvgPoolConv2dReLU(128 - planes - fc_inputs, fc_inputs, 3, pool_size=pool, pool_stride=pool,
                                            padding=1, bias=bias, **quantization)
        size //= pool
        self.fc = Linear(fc_inputs * size * size, num_classes, bias=True, wide=True, **quantization)
        initialize_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of every class.

        Shapes:
            images (N, channels, height, width); returns (N, classes).
        """
        data = self.conv4(self.conv3(self.conv2(self.conv1(images))))
        scores: Tensor = self.fc(data.flatten(1))
        return scores


def ai85net5(pretrained: bool = False, **arguments: Any) -> AI85Net5:
    """The model by its name; there are no pretrained weights."""
    del pretrained
    return AI85Net5(**arguments)


models = [
    {"name": "ai85net5", "min_input": 1, "dim": 2, "input": (1, 28, 28), "num_classes": 10},
]
