"""A plain torch model as a plug-in of train.py: it is converted when it is made.

    python train.py --models-path examples/plain_torch --model plaincnn --qat-policy examples/plain_torch/policy.yaml

The model itself knows of no chip. A few rules make any plain model a plug-in: a function of this signature that returns
the converted model, and a list ``models`` that names it (docs/convert.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import ai8x


class PlainCnn(nn.Module):
    """A residual network as anyone would write it.

    Args:
        channels: of the input.
        classes: number of outputs.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.conv1 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.shortcut = nn.Conv2d(16, 32, 1, stride=2)
        self.head = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
                                  nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Scores of every class."""
        data = self.stem(images)
        inner = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(data)))))
        scores: Tensor = self.head(torch.relu(inner + self.shortcut(data)))
        return scores


def plaincnn(pretrained: bool = False, num_classes: int = 10, num_channels: int = 1,
             dimensions: tuple[int, int] = (28, 28), **further: Any) -> nn.Module:
    """The converted model; train.py passes further arguments, which converted models do not need."""
    del pretrained, further
    example = torch.zeros(1, num_channels, *dimensions)
    model: nn.Module = ai8x.convert(PlainCnn(num_channels, num_classes), example)
    return model


models = [{"name": "plaincnn", "min_input": 1, "dim": 2}]
