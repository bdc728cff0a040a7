"""The face-embedding networks ai85faceidnet and ai85faceidnet_112.

Known: the layers of the first, from its 176,048 weights and 55,234,560 multiply-accumulates, which it has exactly; of
the second the name, the input of 3x112x112 and that it consists of stages of residual bottlenecks. Own design: names
of layers, and the widths of the second.

Source: spec/silicon-measurements.md sections 2.5 and 3.1; spec/max78000-cnn.md section 8.3; spec/ai8x-training.md
sections 3.5, 6 and 16.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ai8x.nn.blocks import ConvResidualBottleneck
from ai8x.nn.initial import initialize_convolutions
from ai8x.nn.modules import (
    AvgPool2d,
    Conv2d,
    FusedConv2dBNReLU,
    FusedConv2dReLU,
    FusedMaxPoolConv2d,
    FusedMaxPoolConv2dBNReLU,
    FusedMaxPoolConv2dReLU,
)

EMBEDDING = 64
STAGES = ((48, 2, 2.0), (64, 2, 1.5), (64, 1, 1.0), (96, 2, 1.0))
"""Channels, stride and expansion of every stage of the second network."""


class AI85FaceIDNet(nn.Module):
    """Eight convolutions and a global average: 3x160x120 to an embedding of 512 numbers.

    Args:
        num_classes: not used; the outputs are the embedding.
        num_channels: of the input.
        dimensions: height and width of the input.
        bias: give every layer a bias.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = 512, num_channels: int = 3, dimensions: tuple[int, int] = (160, 120),
                 bias: bool = False, **quantization: Any) -> None:
        super().__init__()
        del num_classes
        shared = {"padding": 1, "bias": bias, **quantization}
        self.conv1 = FusedConv2dReLU(num_channels, 16, 3, **shared)
        self.conv2 = FusedMaxPoolConv2dReLU(16, 32, 3, **shared)
        self.conv3 = FusedMaxPoolConv2dReLU(32, 32, 3, **shared)
        self.conv4 = FusedMaxPoolConv2dReLU(32, 64, 3, **shared)
        self.conv5 = FusedMaxPoolConv2dReLU(64, 64, 3, **shared)
        self.conv6 = FusedConv2dReLU(64, 64, 3, **shared)
        self.conv7 = FusedConv2dReLU(64, 64, 3, **shared)
        self.conv8 = FusedMaxPoolConv2d(64, 512, 1, bias=bias, **quantization)
        self.avgpool = AvgPool2d((dimensions[0] // 32, dimensions[1] // 32), stride=1, **quantization)
        initialize_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings.

        Shapes:
            images (N, channels, height, width); returns (N, 512).
        """
        data = self.conv4(self.conv3(self.conv2(self.conv1(images))))
        data = self.conv8(self.conv7(self.conv6(self.conv5(data))))
        embedding: Tensor = self.avgpool(data).flatten(1)
        return embedding


class AI85FaceIDNet112(nn.Module):
    """Residual bottlenecks: 3x112x112 to an embedding of 64 numbers.

    Args:
        num_classes: not used; the outputs are the embedding.
        num_channels: of the input.
        dimensions: height and width of the input, divisible by 16.
        bias: not used; every layer has one, because folding BatchNorm needs it.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = EMBEDDING, num_channels: int = 3, dimensions: tuple[int, int] = (112, 112),
                 bias: bool = True, **quantization: Any) -> None:
        super().__init__()
        del num_classes, bias
        shared = {"bias": True, **quantization}
        self.pre_stage = FusedConv2dBNReLU(num_channels, 32, 3, padding=1, **shared)
        self.pre_stage_2 = FusedMaxPoolConv2dBNReLU(32, 32, 3, padding=1, **shared)
        stages, channels = [], 32
        for width, stride, expansion in STAGES:
            stages.append(nn.Sequential(ConvResidualBottleneck(channels, width, expansion, stride, bias=True,
                                                               depthwise_bias=True, **quantization)))
            channels = width
        self.feature_stage = nn.ModuleList(stages)
        self.post_stage = FusedConv2dBNReLU(channels, 128, 1, **shared)
        self.avg_pool = AvgPool2d((dimensions[0] // 16, dimensions[1] // 16), stride=1, **quantization)
        self.classifier = Conv2d(128, EMBEDDING, 1, **shared)

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings.

        Shapes:
            images (N, channels, height, width); returns (N, 64).
        """
        data = self.pre_stage_2(self.pre_stage(images))
        for stage in self.feature_stage:
            data = stage(data)
        embedding: Tensor = self.classifier(self.avg_pool(self.post_stage(data))).flatten(1)
        return embedding


def ai85faceidnet(pretrained: bool = False, **arguments: Any) -> AI85FaceIDNet:
    """The first model by its name; there are no pretrained weights."""
    del pretrained
    return AI85FaceIDNet(**arguments)


def ai85faceidnet_112(pretrained: bool = False, **arguments: Any) -> AI85FaceIDNet112:
    """The second model by its name; there are no pretrained weights."""
    del pretrained
    return AI85FaceIDNet112(**arguments)


models = [
    {"name": "ai85faceidnet", "min_input": 1, "dim": 2, "input": (3, 160, 120), "num_classes": 512},
    {"name": "ai85faceidnet_112", "min_input": 1, "dim": 2, "input": (3, 112, 112), "num_classes": 64},
]
