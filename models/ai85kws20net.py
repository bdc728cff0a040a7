"""The keyword-spotting networks ai85kws20net, ai85kws20netv2 and ai85kws20netv3: 128 channels by 128 steps.

Known: every layer, name and shape of the third version; the layers of the first follow from its 13,801,088
multiply-accumulates, which it has exactly. Own design: the names of the layers of the first version, and the whole
second version, of which only the name and the figures of one build are published.

Source: spec/ai8x-training.md section 17; spec/max78000-cnn.md section 8.3; spec/silicon-measurements.md section 2.2.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ai8x.nn.initial import initialize_convolutions
from ai8x.nn.modules import (
    FusedAvgPoolConv1dReLU,
    FusedConv1dReLU,
    FusedConv2dReLU,
    FusedMaxPoolConv1dReLU,
    Linear,
)

NUM_STEPS = 128
MAP = (16, 8)
"""Rows and columns that the first version lays the 128 steps out in."""
DROPOUT = 0.2


def _check_length(name: str, dimensions: tuple[int, int]) -> None:
    if dimensions[0] != NUM_STEPS:
        raise ValueError(f"{name} takes {NUM_STEPS} steps, not {dimensions[0]}")


class AI85KWS20Net(nn.Module):
    """Four one-dimensional and five two-dimensional convolutions and a linear layer.

    Args:
        num_classes: outputs.
        num_channels: of the input.
        dimensions: (128, 1).
        fc_inputs: channels in front of the linear layer.
        bias: give every layer a bias.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = 21, num_channels: int = 128, dimensions: tuple[int, int] = (128, 1),
                 fc_inputs: int = 7, bias: bool = False, **quantization: Any) -> None:
        super().__init__()
        _check_length("ai85kws20net", dimensions)
        shared = {"bias": bias, **quantization}
        self.voice_conv1 = FusedConv1dReLU(num_channels, 100, 1, **shared)
        self.voice_conv2 = FusedConv1dReLU(100, 100, 1, **shared)
        self.voice_conv3 = FusedConv1dReLU(100, 50, 1, **shared)
        self.voice_conv4 = FusedConv1dReLU(50, 16, 1, **shared)
        self.kws_conv1 = FusedConv2dReLU(16, 32, 3, padding=1, **shared)
        self.kws_conv2 = FusedConv2dReLU(32, 64, 3, padding=1, **shared)
        self.kws_conv3 = FusedConv2dReLU(64, 64, 3, padding=1, **shared)
        self.kws_conv4 = FusedConv2dReLU(64, 30, 3, padding=1, **shared)
        self.kws_conv5 = FusedConv2dReLU(30, fc_inputs, 3, padding=1, **shared)
        self.fc = Linear(fc_inputs * NUM_STEPS, num_classes, bias=bool(bias), wide=True, **quantization)
        initialize_convolutions(self)

    def forward(self, sound: Tensor) -> Tensor:
        """Scores of every word.

        Shapes:
            sound (N, channels, 128); returns (N, classes).
        """
        data = self.voice_conv4(self.voice_conv3(self.voice_conv2(self.voice_conv1(sound))))
        data = data.reshape(data.shape[0], data.shape[1], *MAP)
        data = self.kws_conv5(self.kws_conv4(self.kws_conv3(self.kws_conv2(self.kws_conv1(data)))))
        scores: Tensor = self.fc(data.flatten(1))
        return scores


class AI85KWS20NetV3(nn.Module):
    """Eight one-dimensional convolutions and a linear layer; 169,472 weights for 21 classes.

    Args:
        num_classes: outputs.
        num_channels: of the input.
        dimensions: (128, 1).
        widths: output channels of the seventh and the eighth convolution.
        bias: give every layer a bias.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = 21, num_channels: int = 128, dimensions: tuple[int, int] = (128, 1),
                 widths: tuple[int, int] = (100, 64), bias: bool = False, **quantization: Any) -> None:
        super().__init__()
        _check_length("ai85kws20netv3", dimensions)
        shared = {"bias": bias, **quantization}
        self.drop = nn.Dropout(p=DROPOUT)
        self.voice_conv1 = FusedConv1dReLU(num_channels, 100, 1, **shared)
        self.voice_conv2 = FusedConv1dReLU(100, 96, 3, **shared)
        self.voice_conv3 = FusedMaxPoolConv1dReLU(96, 64, 3, padding=1, **shared)
        self.voice_conv4 = FusedConv1dReLU(64, 48, 3, **shared)
        self.kws_conv1 = FusedMaxPoolConv1dReLU(48, 64, 3, padding=1, **shared)
        self.kws_conv2 = FusedConv1dReLU(64, 96, 3, **shared)
        self.kws_conv3 = FusedAvgPoolConv1dReLU(96, widths[0], 3, padding=1, **shared)
        self.kws_conv4 = FusedMaxPoolConv1dReLU(widths[0], widths[1], 6, padding=1, **shared)
        self.fc = Linear(widths[1] * 4, num_classes, bias=bool(bias), wide=True, **quantization)
        initialize_convolutions(self)

    def forward(self, sound: Tensor) -> Tensor:
        """Scores of every word.

        Shapes:
            sound (N, channels, 128); returns (N, classes).
        """
        data = self.drop(self.voice_conv2(self.voice_conv1(sound)))
        data = self.drop(self.voice_conv4(self.voice_conv3(data)))
        data = self.drop(self.kws_conv2(self.kws_conv1(data)))
        data = self.kws_conv4(self.kws_conv3(data))
        scores: Tensor = self.fc(data.flatten(1))
        return scores


def ai85kws20net(pretrained: bool = False, **arguments: Any) -> AI85KWS20Net:
    """The first version by its name; there are no pretrained weights."""
    del pretrained
    return AI85KWS20Net(**arguments)


def ai85kws20netv2(pretrained: bool = False, **arguments: Any) -> AI85KWS20NetV3:
    """The second version (own design): the third one with a wider end, about 1.4 times its weights."""
    del pretrained
    return AI85KWS20NetV3(widths=(128, 96), **arguments)


def ai85kws20netv3(pretrained: bool = False, **arguments: Any) -> AI85KWS20NetV3:
    """The third version by its name; there are no pretrained weights."""
    del pretrained
    return AI85KWS20NetV3(**arguments)


models = [
    {"name": "ai85kws20net", "min_input": 1, "dim": 1, "input": (128, 128), "num_classes": 21},
    {"name": "ai85kws20netv2", "min_input": 1, "dim": 1, "input": (128, 128), "num_classes": 21},
    {"name": "ai85kws20netv3", "min_input": 1, "dim": 1, "input": (128, 128), "num_classes": 21},
]
