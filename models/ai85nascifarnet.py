"""The network ai85nascifarnet, found by architecture search for CIFAR-10 and CIFAR-100.

Known: the layers, from the published cycles per layer, 301,760 weights and 36,180,992 multiply-accumulates, which this
network has exactly. Own design: the names of the layers.

Source: spec/silicon-measurements.md sections 2.5 and 3.1; spec/max78000-cnn.md section 8.3.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ai8x.nn.modules import FusedConv2dBNReLU, FusedMaxPoolConv2dBNReLU, Linear


class AI85NASCifarNet(nn.Module):
    """Ten convolutions with BatchNorm and a linear layer.

    Every convolution has a bias, because folding BatchNorm needs one; ``bias`` sets that of the linear layer.

    Args:
        num_classes: outputs.
        num_channels: of the input.
        dimensions: height and width of the input, divisible by 16.
        bias: give the linear layer a bias.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = 10, num_channels: int = 3, dimensions: tuple[int, int] = (32, 32),
                 bias: bool = False, **quantization: Any) -> None:
        super().__init__()
        shared = {"bias": True, **quantization}
        self.conv1_1 = FusedConv2dBNReLU(num_channels, 64, 3, padding=1, **shared)
        self.conv1_2 = FusedConv2dBNReLU(64, 32, 1, **shared)
        self.conv1_3 = FusedConv2dBNReLU(32, 64, 3, padding=1, **shared)
        self.conv2_1 = FusedMaxPoolConv2dBNReLU(64, 32, 3, padding=1, **shared)
        self.conv2_2 = FusedConv2dBNReLU(32, 64, 1, **shared)
        self.conv3_1 = FusedMaxPoolConv2dBNReLU(64, 128, 3, padding=1, **shared)
        self.conv3_2 = FusedConv2dBNReLU(128, 128, 1, **shared)
        self.conv4_1 = FusedMaxPoolConv2dBNReLU(128, 64, 3, padding=1, **shared)
        self.conv4_2 = FusedConv2dBNReLU(64, 128, 3, padding=1, **shared)
        self.conv5_1 = FusedMaxPoolConv2dBNReLU(128, 128, 1, **shared)
        self.fc = Linear(128 * (dimensions[0] // 16) * (dimensions[1] // 16), num_classes, bias=bool(bias), wide=True,
                         **quantization)

    def forward(self, images: Tensor) -> Tensor:
        """Scores of every class.

        Shapes:
            images (N, channels, height, width); returns (N, classes).
        """
        data = self.conv1_3(self.conv1_2(self.conv1_1(images)))
        data = self.conv3_2(self.conv3_1(self.conv2_2(self.conv2_1(data))))
        data = self.conv5_1(self.conv4_2(self.conv4_1(data)))
        scores: Tensor = self.fc(data.flatten(1))
        return scores


def ai85nascifarnet(pretrained: bool = False, **arguments: Any) -> AI85NASCifarNet:
    """The model by its name; there are no pretrained weights."""
    del pretrained
    return AI85NASCifarNet(**arguments)


def ai85nasnet_sequential_cifar100(pretrained: bool = False, **arguments: Any) -> AI85NASCifarNet:
    """The same for the hundred classes of CIFAR-100, of which the published cycles are those of ninety outputs more."""
    del pretrained
    return AI85NASCifarNet(**arguments)


models = [
    {"name": "ai85nasnet_sequential_cifar100", "min_input": 1, "dim": 2, "input": (3, 32, 32), "num_classes": 100},
    {"name": "ai85nascifarnet", "min_input": 1, "dim": 2, "input": (3, 32, 32), "num_classes": 10},
]
