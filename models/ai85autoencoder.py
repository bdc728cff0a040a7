"""The network ai85autoencoder: 256 channels by 3 axes of vibration, squeezed to a few numbers and restored.

Known: the name, the input of 256x3, that it is one-dimensional and that the result is compared with the input by the
mean squared error. Own design: every layer; the widths keep the size near the published 201,984 multiply-accumulates.

Source: spec/ai8x-training.md sections 16 and 17; spec/max78000-cnn.md section 8.3.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ai8x.nn.modules import FusedConv1dBNReLU, FusedLinearReLU, Linear


class AI85AutoEncoder(nn.Module):
    """Two convolutions and two linear layers down, three linear layers up.

    Args:
        num_classes: not used; the outputs are as many as the inputs.
        num_channels: of the input.
        dimensions: (length, 1).
        bottleneck: numbers in the middle.
        bias: give the linear layers a bias; the convolutions always have one.
        quantization: handed down to every layer.
    """

    def __init__(self, num_classes: int = 1, num_channels: int = 256, dimensions: tuple[int, int] = (3, 1),
                 bottleneck: int = 4, bias: bool = False, **quantization: Any) -> None:
        super().__init__()
        del num_classes
        self._shape = num_channels, dimensions[0]
        shared = {"bias": bool(bias), **quantization}
        self.en_conv1 = FusedConv1dBNReLU(num_channels, 128, 1, bias=True, **quantization)
        self.en_conv2 = FusedConv1dBNReLU(128, 64, 1, bias=True, **quantization)
        self.en_lin1 = FusedLinearReLU(64 * dimensions[0], 32, **shared)
        self.en_lin2 = Linear(32, bottleneck, **shared)
        self.de_lin1 = FusedLinearReLU(bottleneck, 32, **shared)
        self.de_lin2 = FusedLinearReLU(32, 88, **shared)
        self.out_lin = Linear(88, num_channels * dimensions[0], **shared)

    def forward(self, signal: Tensor) -> Tensor:
        """The restored signal.

        Shapes:
            signal (N, channels, length); returns the same.
        """
        data = self.en_conv2(self.en_conv1(signal)).flatten(1)
        data = self.de_lin1(self.en_lin2(self.en_lin1(data)))
        restored: Tensor = self.out_lin(self.de_lin2(data))
        return restored.reshape(-1, *self._shape)


def ai85autoencoder(pretrained: bool = False, **arguments: Any) -> AI85AutoEncoder:
    """The model by its name; there are no pretrained weights."""
    del pretrained
    return AI85AutoEncoder(**arguments)


models = [
    {"name": "ai85autoencoder", "min_input": 1, "dim": 1, "input": (256, 3), "num_classes": 1},
]
