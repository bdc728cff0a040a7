"""Compound blocks under the vendor's names; the names of their parts are ``state_dict`` keys.

Source: spec/ai8x-training.md section 3.5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ai8x.errors import user_error
from ai8x.nn.elementwise import Add, Empty
from ai8x.nn.modules import (
    Conv2d,
    FusedConv2dBN,
    FusedConv2dBNReLU,
    FusedConv2dReLU,
    FusedDepthwiseConv2dBNReLU,
    FusedDepthwiseConv2dReLU,
    FusedMaxPoolConv2d,
    FusedMaxPoolConv2dBN,
    FusedMaxPoolConv2dBNReLU,
    FusedMaxPoolDepthwiseConv2dBNReLU,
    FusedMaxPoolDepthwiseConv2dReLU,
)

__all__ = ["ConvResidualBottleneck", "Fire", "MBConvBlock", "ResidualBottleneck"]

MBCONV_BATCHNORM = {"eps": 1e-3, "momentum": 0.01}


class _NoResidual(nn.Module):
    """Stands where nothing is added: passes the first operand on."""

    def forward(self, data: Tensor, residual: Tensor) -> Tensor:
        """The first operand."""
        del residual
        return data


def _residual(stride: int, in_channels: int, out_channels: int) -> nn.Module:
    return Add() if stride == 1 and in_channels == out_channels else _NoResidual()


def _pooling(stride: int) -> dict[str, Any]:
    """A stride of 2 becomes maximum pooling in front, since convolutions move by 1."""
    return {} if stride == 1 else {"pool_size": stride, "pool_stride": stride}


def _expansion(in_channels: int, hidden: int, bias: bool, arguments: dict[str, Any]) -> nn.Module:
    if hidden == in_channels:
        return Empty()
    return FusedConv2dBNReLU(in_channels, hidden, 1, bias=bias, **arguments)


def _depthwise(channels: int, stride: int, bias: bool, arguments: dict[str, Any]) -> nn.Module:
    """Depthwise 3x3 convolution; BatchNorm exactly where there is a bias to fold it into."""
    if stride == 1:
        layer: type[Conv2d] = FusedDepthwiseConv2dBNReLU if bias else FusedDepthwiseConv2dReLU
    else:
        layer = FusedMaxPoolDepthwiseConv2dBNReLU if bias else FusedMaxPoolDepthwiseConv2dReLU
    return layer(channels, channels, 3, padding=1, bias=bias, **_pooling(stride), **arguments)


class Fire(nn.Module):
    """SqueezeNet's block: a 1x1 squeeze, then 1x1 and 3x3 side by side, concatenated.

    Args:
        in_planes: channels of the input.
        squeeze_planes: channels between.
        expand1x1_planes: channels of the 1x1 part, first in the output.
        expand3x3_planes: channels of the 3x3 part.
        bias: of all three layers.
        quantization: handed to every layer.
    """

    def __init__(self, in_planes: int, squeeze_planes: int, expand1x1_planes: int, expand3x3_planes: int,
                 bias: bool = True, **quantization: Any) -> None:
        super().__init__()
        self.squeeze_layer = FusedConv2dReLU(in_planes, squeeze_planes, 1, bias=bias, **quantization)
        self.expand1x1_layer = FusedConv2dReLU(squeeze_planes, expand1x1_planes, 1, bias=bias, **quantization)
        self.expand3x3_layer = FusedConv2dReLU(squeeze_planes, expand3x3_planes, 3, padding=1, bias=bias,
                                               **quantization)

    def forward(self, data: Tensor) -> Tensor:
        """(N, in_planes, H, W) to (N, expand1x1_planes + expand3x3_planes, H, W)."""
        squeezed = self.squeeze_layer(data)
        return torch.cat((self.expand1x1_layer(squeezed), self.expand3x3_layer(squeezed)), dim=1)


class ResidualBottleneck(nn.Module):
    """Expansion, depthwise 3x3, projection, and the input added where shapes allow.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        expansion_factor: hidden channels over input channels.
        stride: 1, or 2 for maximum pooling in front of the depthwise layer.
        bias: of the 1x1 layers; must be True, since they have a BatchNorm.
        depthwise_bias: bias and BatchNorm of the depthwise layer.
        quantization: handed to every layer.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion_factor: float, stride: int = 1,
                 bias: bool = False, depthwise_bias: bool = False, **quantization: Any) -> None:
        super().__init__()
        hidden = round(in_channels * expansion_factor)
        self.conv1 = _expansion(in_channels, hidden, bias, quantization)
        self.conv2 = _depthwise(hidden, stride, depthwise_bias, quantization)
        self.conv3 = FusedConv2dBN(hidden, out_channels, 1, bias=bias, **quantization)
        self.resid = _residual(stride, in_channels, out_channels)

    def forward(self, data: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        result: Tensor = self.resid(self.conv3(self.conv2(self.conv1(data))), data)
        return result


class ConvResidualBottleneck(nn.Module):
    """Expansion, then one plain 3x3 convolution, and the input added where shapes allow.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        expansion_factor: hidden channels over input channels.
        stride: 1, or 2 for maximum pooling in front of the 3x3 layer.
        bias: of the 1x1 layer.
        depthwise_bias: bias and BatchNorm of the 3x3 layer.
        quantization: handed to every layer.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion_factor: float, stride: int = 1,
                 bias: bool = False, depthwise_bias: bool = False, **quantization: Any) -> None:
        super().__init__()
        hidden = round(in_channels * expansion_factor)
        if stride == 1:
            layer: type[Conv2d] = FusedConv2dBN if depthwise_bias else Conv2d
        else:
            layer = FusedMaxPoolConv2dBN if depthwise_bias else FusedMaxPoolConv2d
        self.conv1 = _expansion(in_channels, hidden, bias, quantization)
        self.conv2 = layer(hidden, out_channels, 3, padding=1, bias=depthwise_bias, **_pooling(stride),
                           **quantization)
        self.resid = _residual(stride, in_channels, out_channels)

    def forward(self, data: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        result: Tensor = self.resid(self.conv2(self.conv1(data)), data)
        return result


class MBConvBlock(nn.Module):
    """EfficientNet's block without squeeze-and-excite, which no layer of the chip computes.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: of the spatial convolution; 3.
        stride: 1, or 2 for maximum pooling in front of the spatial convolution.
        bias: must be True, since every layer has a BatchNorm.
        se_ratio: must be None or 0.
        expand_ratio: hidden channels over input channels.
        fused: one dense spatial convolution instead of a 1x1 and a depthwise one.
        quantization: handed to every layer.

    Raises:
        UserError: E0369 for squeeze-and-excite.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1, bias: bool = False,
                 se_ratio: float | None = None, expand_ratio: int = 1, fused: bool = False, **quantization: Any
                 ) -> None:
        super().__init__()
        if se_ratio:
            raise user_error("E0369", "squeeze-and-excite needs a sigmoid and a product, which the chip does not have",
                             found=f"se_ratio={se_ratio}", allowed="None", help="write se_ratio=None")
        hidden = in_channels * expand_ratio
        shared = {"bias": bias, **MBCONV_BATCHNORM, **quantization}
        spatial = {"padding": kernel_size // 2, **_pooling(stride), **shared}
        self.expand_conv: nn.Module = Empty()
        self.depthwise_conv: nn.Module = Empty()
        if fused:
            dense = FusedConv2dBNReLU if stride == 1 else FusedMaxPoolConv2dBNReLU
            self.expand_conv = dense(in_channels, hidden, kernel_size, **spatial)
        else:
            if expand_ratio != 1:
                self.expand_conv = FusedConv2dBNReLU(in_channels, hidden, 1, **shared)
            depthwise = FusedDepthwiseConv2dBNReLU if stride == 1 else FusedMaxPoolDepthwiseConv2dBNReLU
            self.depthwise_conv = depthwise(hidden, hidden, kernel_size, **spatial)
        self.project_conv = FusedConv2dBN(hidden, out_channels, 1, **shared)
        self.resid = _residual(stride, in_channels, out_channels)

    def forward(self, data: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        result: Tensor = self.resid(self.project_conv(self.depthwise_conv(self.expand_conv(data))), data)
        return result
