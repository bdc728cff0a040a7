"""A small mobile network for 28x28 digits: depthwise and pointwise layers, as the K210's KPU likes them best.

Every 3x3 kernel but the first is depthwise; a pointwise layer behind each mixes the channels, and the third block is
bridged by an addition. 0.8 million multiply-accumulates, 9 thousand weights.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ai8x.nn.modules import (
    Add,
    FusedAvgPoolConv2dReLU,
    FusedConv2dBNReLU,
    FusedDepthwiseConv2dBNReLU,
    FusedMaxPoolConv2dBNReLU,
    Linear,
)


class MobileDigits(nn.Module):
    """A convolution, three blocks of a depthwise and a pointwise layer, a pooled layer and a linear layer.

    Every layer has a bias, because folding BatchNorm needs one; ``bias`` is accepted for the common call.

    Args:
        num_classes: outputs.
        num_channels: of the input.
        dimensions: height and width of the input, divisible by 4 and at least 16.
        bias: not used.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = 10, num_channels: int = 1, dimensions: tuple[int, int] = (28, 28),
                 bias: bool = True, **quantization: Any) -> None:
        super().__init__()
        del bias
        height, width = dimensions
        shared = {"bias": True, **quantization}
        self.conv1 = FusedConv2dBNReLU(num_channels, 16, 3, padding=1, **shared)
        self.depthwise2 = FusedDepthwiseConv2dBNReLU(16, 16, 3, padding=1, **shared)
        self.pointwise2 = FusedMaxPoolConv2dBNReLU(16, 32, 1, **shared)
        self.depthwise3 = FusedDepthwiseConv2dBNReLU(32, 32, 3, padding=1, **shared)
        self.pointwise3 = FusedMaxPoolConv2dBNReLU(32, 48, 1, **shared)
        self.depthwise4 = FusedDepthwiseConv2dBNReLU(48, 48, 3, padding=1, **shared)
        self.pointwise4 = FusedConv2dBNReLU(48, 48, 1, **shared)
        self.add = Add()
        self.conv5 = FusedAvgPoolConv2dReLU(48, 32, 1, pool_size=3, pool_stride=2, **shared)
        cells = ((height // 4 - 1) // 2) * ((width // 4 - 1) // 2)
        self.fc = Linear(32 * cells, num_classes, wide=True, **shared)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of every class.

        Shapes:
            images (N, channels, height, width); returns (N, classes).
        """
        data = self.pointwise2(self.depthwise2(self.conv1(images)))
        data = self.pointwise3(self.depthwise3(data))
        data = self.add(self.pointwise4(self.depthwise4(data)), data)
        scores: Tensor = self.fc(self.conv5(data).flatten(1))
        return scores


def mobiledigits(pretrained: bool = False, **arguments: Any) -> MobileDigits:
    """The model by its name; there are no pretrained weights."""
    del pretrained
    return MobileDigits(**arguments)


models = [
    {"name": "mobiledigits", "min_input": 16, "dim": 2, "input": (1, 28, 28), "num_classes": 10},
]
