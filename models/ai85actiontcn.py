"""The network ai85actiontcn for actions: a convolutional encoder of a folded clip and a temporal head.

Known: the input of 96x60x60, five classes, and the cycles of 21 layers, from which 1x1 and 3x3 layers of 64 channels
with three residual stages follow. Own design: names, the additions, and the head, which reads the nine places of the
last map as a sequence.

Source: spec/silicon-measurements.md section 2.5; spec/ai8x-training.md section 17.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ai8x.nn.initial import initialize_convolutions
from ai8x.nn.modules import (
    Add,
    Conv1d,
    FusedConv1dReLU,
    FusedConv2dReLU,
    FusedMaxPoolConv2dReLU,
    Linear,
)

WIDTH = 64
NUM_PLACES = 9


class _Stage(nn.Module):
    """A pooled 3x3 layer, then a 1x1 and a 3x3 layer that an addition bridges."""

    def __init__(self, **shared: Any) -> None:
        super().__init__()
        self.conv1 = FusedMaxPoolConv2dReLU(WIDTH, WIDTH, 3, padding=1, **shared)
        self.conv2 = FusedConv2dReLU(WIDTH, WIDTH, 1, **shared)
        self.conv3 = FusedConv2dReLU(WIDTH, WIDTH, 3, padding=1, **shared)
        self.resid = Add()

    def forward(self, data: Tensor) -> Tensor:
        """(N, 64, H, W) to (N, 64, H / 2, W / 2)."""
        data = self.conv1(data)
        result: Tensor = self.resid(self.conv3(self.conv2(data)), data)
        return result


class AI85ActionTCN(nn.Module):
    """Encoder, three residual stages, a dilated pair of one-dimensional layers and a linear layer.

    Args:
        num_classes: outputs.
        num_channels: of the folded clip.
        dimensions: height and width of the folded clip: 60x60.
        bias: give every layer a bias.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = 5, num_channels: int = 96, dimensions: tuple[int, int] = (60, 60),
                 bias: bool = False, **quantization: Any) -> None:
        super().__init__()
        if tuple(dimensions) != (60, 60):
            raise ValueError(f"ai85actiontcn takes 60x60 maps, not {dimensions[0]}x{dimensions[1]}")
        shared = {"bias": bool(bias), **quantization}
        self.conv1 = FusedConv2dReLU(num_channels, WIDTH, 1, **shared)
        self.conv2 = FusedConv2dReLU(WIDTH, WIDTH, 3, padding=1, **shared)
        self.conv3 = FusedConv2dReLU(WIDTH, WIDTH, 3, padding=1, **shared)
        self.conv4 = FusedMaxPoolConv2dReLU(WIDTH, WIDTH, 3, padding=1, **shared)
        self.stages = nn.ModuleList(_Stage(**shared) for _ in range(3))
        self.tcn1 = FusedConv1dReLU(WIDTH, 32, 3, padding=1, **shared)
        self.tcn2 = Conv1d(32, 32, 3, dilation=2, padding=2, **shared)
        self.resid = Add()
        self.fc = Linear(32 * NUM_PLACES, num_classes, wide=True, **shared)
        initialize_convolutions(self)

    def forward(self, clips: Tensor) -> Tensor:
        """Scores of every class.

        Shapes:
            clips (N, channels, 60, 60); returns (N, classes).
        """
        data = self.conv4(self.conv3(self.conv2(self.conv1(clips))))
        for stage in self.stages:
            data = stage(data)
        sequence = self.tcn1(data.flatten(2))
        sequence = self.resid(self.tcn2(sequence), sequence)
        scores: Tensor = self.fc(sequence.flatten(1))
        return scores


def ai85actiontcn(pretrained: bool = False, **arguments: Any) -> AI85ActionTCN:
    """The model by its name; there are no pretrained weights."""
    del pretrained
    return AI85ActionTCN(**arguments)


models = [
    {"name": "ai85actiontcn", "min_input": 1, "dim": 2, "input": (96, 60, 60), "num_classes": 5},
]
