"""The fused layers of the chip by their vendor names: ``[Fused][MaxPool|AvgPool][Depthwise]<Op>[BN][ReLU|Abs]``.

A table of class statements, complete by the grammar, plus the plain layers of `ai8x.nn.layers` under one roof. The
arguments of every class are those of its operation; see `ai8x.nn.fused` for what a class fixes.

Source: spec/ai8x-training.md section 3.3.
"""

from __future__ import annotations

from ai8x.nn.elementwise import Add, BitwiseOr, BitwiseXor, Empty, Sub
from ai8x.nn.fused import Fused
from ai8x.nn.layers import AvgPool1d, AvgPool2d, Conv1d, Conv2d, Linear, MaxPool1d, MaxPool2d

__all__ = [
    "Add", "AvgPool1d", "AvgPool2d", "BitwiseOr", "BitwiseXor", "Conv1d", "Conv2d", "ConvTranspose2d",
    "DepthwiseConv1d", "DepthwiseConv2d", "DepthwiseConvTranspose2d", "Empty", "FusedAvgPoolConv1d",
    "FusedAvgPoolConv1dAbs", "FusedAvgPoolConv1dBN", "FusedAvgPoolConv1dBNAbs", "FusedAvgPoolConv1dBNReLU",
    "FusedAvgPoolConv1dReLU", "FusedAvgPoolConv2d", "FusedAvgPoolConv2dAbs", "FusedAvgPoolConv2dBN",
    "FusedAvgPoolConv2dBNAbs", "FusedAvgPoolConv2dBNReLU", "FusedAvgPoolConv2dReLU", "FusedAvgPoolConvTranspose2d",
    "FusedAvgPoolConvTranspose2dAbs", "FusedAvgPoolConvTranspose2dBN", "FusedAvgPoolConvTranspose2dBNAbs",
    "FusedAvgPoolConvTranspose2dBNReLU", "FusedAvgPoolConvTranspose2dReLU", "FusedAvgPoolDepthwiseConv1d",
    "FusedAvgPoolDepthwiseConv1dAbs", "FusedAvgPoolDepthwiseConv1dBN", "FusedAvgPoolDepthwiseConv1dBNAbs",
    "FusedAvgPoolDepthwiseConv1dBNReLU", "FusedAvgPoolDepthwiseConv1dReLU", "FusedAvgPoolDepthwiseConv2d",
    "FusedAvgPoolDepthwiseConv2dAbs", "FusedAvgPoolDepthwiseConv2dBN", "FusedAvgPoolDepthwiseConv2dBNAbs",
    "FusedAvgPoolDepthwiseConv2dBNReLU", "FusedAvgPoolDepthwiseConv2dReLU", "FusedAvgPoolDepthwiseConvTranspose2d",
    "FusedAvgPoolDepthwiseConvTranspose2dAbs", "FusedAvgPoolDepthwiseConvTranspose2dBN",
    "FusedAvgPoolDepthwiseConvTranspose2dBNAbs", "FusedAvgPoolDepthwiseConvTranspose2dBNReLU",
    "FusedAvgPoolDepthwiseConvTranspose2dReLU", "FusedConv1dAbs", "FusedConv1dBN", "FusedConv1dBNAbs",
    "FusedConv1dBNReLU", "FusedConv1dReLU", "FusedConv2dAbs", "FusedConv2dBN", "FusedConv2dBNAbs",
    "FusedConv2dBNReLU", "FusedConv2dReLU", "FusedConvTranspose2dAbs", "FusedConvTranspose2dBN",
    "FusedConvTranspose2dBNAbs", "FusedConvTranspose2dBNReLU", "FusedConvTranspose2dReLU",
    "FusedDepthwiseConv1dAbs", "FusedDepthwiseConv1dBN", "FusedDepthwiseConv1dBNAbs", "FusedDepthwiseConv1dBNReLU",
    "FusedDepthwiseConv1dReLU", "FusedDepthwiseConv2dAbs", "FusedDepthwiseConv2dBN", "FusedDepthwiseConv2dBNAbs",
    "FusedDepthwiseConv2dBNReLU", "FusedDepthwiseConv2dReLU", "FusedDepthwiseConvTranspose2dAbs",
    "FusedDepthwiseConvTranspose2dBN", "FusedDepthwiseConvTranspose2dBNAbs", "FusedDepthwiseConvTranspose2dBNReLU",
    "FusedDepthwiseConvTranspose2dReLU", "FusedLinearAbs", "FusedLinearReLU", "FusedMaxPoolConv1d",
    "FusedMaxPoolConv1dAbs", "FusedMaxPoolConv1dBN", "FusedMaxPoolConv1dBNAbs", "FusedMaxPoolConv1dBNReLU",
    "FusedMaxPoolConv1dReLU", "FusedMaxPoolConv2d", "FusedMaxPoolConv2dAbs", "FusedMaxPoolConv2dBN",
    "FusedMaxPoolConv2dBNAbs", "FusedMaxPoolConv2dBNReLU", "FusedMaxPoolConv2dReLU", "FusedMaxPoolConvTranspose2d",
    "FusedMaxPoolConvTranspose2dAbs", "FusedMaxPoolConvTranspose2dBN", "FusedMaxPoolConvTranspose2dBNAbs",
    "FusedMaxPoolConvTranspose2dBNReLU", "FusedMaxPoolConvTranspose2dReLU", "FusedMaxPoolDepthwiseConv1d",
    "FusedMaxPoolDepthwiseConv1dAbs", "FusedMaxPoolDepthwiseConv1dBN", "FusedMaxPoolDepthwiseConv1dBNAbs",
    "FusedMaxPoolDepthwiseConv1dBNReLU", "FusedMaxPoolDepthwiseConv1dReLU", "FusedMaxPoolDepthwiseConv2d",
    "FusedMaxPoolDepthwiseConv2dAbs", "FusedMaxPoolDepthwiseConv2dBN", "FusedMaxPoolDepthwiseConv2dBNAbs",
    "FusedMaxPoolDepthwiseConv2dBNReLU", "FusedMaxPoolDepthwiseConv2dReLU", "FusedMaxPoolDepthwiseConvTranspose2d",
    "FusedMaxPoolDepthwiseConvTranspose2dAbs", "FusedMaxPoolDepthwiseConvTranspose2dBN",
    "FusedMaxPoolDepthwiseConvTranspose2dBNAbs", "FusedMaxPoolDepthwiseConvTranspose2dBNReLU",
    "FusedMaxPoolDepthwiseConvTranspose2dReLU", "Linear", "MaxPool1d", "MaxPool2d", "Sub",
]


class FusedConv2dReLU(Fused, Conv2d, activation="ReLU"):
    """Convolution, ReLU."""


class FusedConv2dAbs(Fused, Conv2d, activation="Abs"):
    """Convolution, absolute value."""


class FusedConv2dBN(Fused, Conv2d, batchnorm="Affine"):
    """Convolution, BatchNorm."""


class FusedConv2dBNReLU(Fused, Conv2d, batchnorm="Affine", activation="ReLU"):
    """Convolution, BatchNorm, ReLU."""


class FusedConv2dBNAbs(Fused, Conv2d, batchnorm="Affine", activation="Abs"):
    """Convolution, BatchNorm, absolute value."""


class FusedMaxPoolConv2d(Fused, Conv2d, pooling="Max"):
    """Maximum pooling, convolution."""


class FusedMaxPoolConv2dReLU(Fused, Conv2d, pooling="Max", activation="ReLU"):
    """Maximum pooling, convolution, ReLU."""


class FusedMaxPoolConv2dAbs(Fused, Conv2d, pooling="Max", activation="Abs"):
    """Maximum pooling, convolution, absolute value."""


class FusedMaxPoolConv2dBN(Fused, Conv2d, pooling="Max", batchnorm="Affine"):
    """Maximum pooling, convolution, BatchNorm."""


class FusedMaxPoolConv2dBNReLU(Fused, Conv2d, pooling="Max", batchnorm="Affine", activation="ReLU"):
    """Maximum pooling, convolution, BatchNorm, ReLU."""


class FusedMaxPoolConv2dBNAbs(Fused, Conv2d, pooling="Max", batchnorm="Affine", activation="Abs"):
    """Maximum pooling, convolution, BatchNorm, absolute value."""


class FusedAvgPoolConv2d(Fused, Conv2d, pooling="Avg"):
    """Average pooling, convolution."""


class FusedAvgPoolConv2dReLU(Fused, Conv2d, pooling="Avg", activation="ReLU"):
    """Average pooling, convolution, ReLU."""


class FusedAvgPoolConv2dAbs(Fused, Conv2d, pooling="Avg", activation="Abs"):
    """Average pooling, convolution, absolute value."""


class FusedAvgPoolConv2dBN(Fused, Conv2d, pooling="Avg", batchnorm="Affine"):
    """Average pooling, convolution, BatchNorm."""


class FusedAvgPoolConv2dBNReLU(Fused, Conv2d, pooling="Avg", batchnorm="Affine", activation="ReLU"):
    """Average pooling, convolution, BatchNorm, ReLU."""


class FusedAvgPoolConv2dBNAbs(Fused, Conv2d, pooling="Avg", batchnorm="Affine", activation="Abs"):
    """Average pooling, convolution, BatchNorm, absolute value."""


class DepthwiseConv2d(Fused, Conv2d, depthwise=True):
    """Convolution of every channel with its own kernel."""


class FusedDepthwiseConv2dReLU(DepthwiseConv2d, activation="ReLU"):
    """Depthwise convolution, ReLU."""


class FusedDepthwiseConv2dAbs(DepthwiseConv2d, activation="Abs"):
    """Depthwise convolution, absolute value."""


class FusedDepthwiseConv2dBN(DepthwiseConv2d, batchnorm="Affine"):
    """Depthwise convolution, BatchNorm."""


class FusedDepthwiseConv2dBNReLU(DepthwiseConv2d, batchnorm="Affine", activation="ReLU"):
    """Depthwise convolution, BatchNorm, ReLU."""


class FusedDepthwiseConv2dBNAbs(DepthwiseConv2d, batchnorm="Affine", activation="Abs"):
    """Depthwise convolution, BatchNorm, absolute value."""


class FusedMaxPoolDepthwiseConv2d(DepthwiseConv2d, pooling="Max"):
    """Maximum pooling, depthwise convolution."""


class FusedMaxPoolDepthwiseConv2dReLU(DepthwiseConv2d, pooling="Max", activation="ReLU"):
    """Maximum pooling, depthwise convolution, ReLU."""


class FusedMaxPoolDepthwiseConv2dAbs(DepthwiseConv2d, pooling="Max", activation="Abs"):
    """Maximum pooling, depthwise convolution, absolute value."""


class FusedMaxPoolDepthwiseConv2dBN(DepthwiseConv2d, pooling="Max", batchnorm="Affine"):
    """Maximum pooling, depthwise convolution, BatchNorm."""


class FusedMaxPoolDepthwiseConv2dBNReLU(DepthwiseConv2d, pooling="Max", batchnorm="Affine", activation="ReLU"):
    """Maximum pooling, depthwise convolution, BatchNorm, ReLU."""


class FusedMaxPoolDepthwiseConv2dBNAbs(DepthwiseConv2d, pooling="Max", batchnorm="Affine", activation="Abs"):
    """Maximum pooling, depthwise convolution, BatchNorm, absolute value."""


class FusedAvgPoolDepthwiseConv2d(DepthwiseConv2d, pooling="Avg"):
    """Average pooling, depthwise convolution."""


class FusedAvgPoolDepthwiseConv2dReLU(DepthwiseConv2d, pooling="Avg", activation="ReLU"):
    """Average pooling, depthwise convolution, ReLU."""


class FusedAvgPoolDepthwiseConv2dAbs(DepthwiseConv2d, pooling="Avg", activation="Abs"):
    """Average pooling, depthwise convolution, absolute value."""


class FusedAvgPoolDepthwiseConv2dBN(DepthwiseConv2d, pooling="Avg", batchnorm="Affine"):
    """Average pooling, depthwise convolution, BatchNorm."""


class FusedAvgPoolDepthwiseConv2dBNReLU(DepthwiseConv2d, pooling="Avg", batchnorm="Affine", activation="ReLU"):
    """Average pooling, depthwise convolution, BatchNorm, ReLU."""


class FusedAvgPoolDepthwiseConv2dBNAbs(DepthwiseConv2d, pooling="Avg", batchnorm="Affine", activation="Abs"):
    """Average pooling, depthwise convolution, BatchNorm, absolute value."""


class ConvTranspose2d(Fused, Conv2d, op="ConvTranspose2d"):
    """Transposed convolution; needs stride=2; output (H - 1) * 2 - 2 * padding + kernel + 1."""


class FusedConvTranspose2dReLU(ConvTranspose2d, activation="ReLU"):
    """Transposed convolution, ReLU."""


class FusedConvTranspose2dAbs(ConvTranspose2d, activation="Abs"):
    """Transposed convolution, absolute value."""


class FusedConvTranspose2dBN(ConvTranspose2d, batchnorm="Affine"):
    """Transposed convolution, BatchNorm."""


class FusedConvTranspose2dBNReLU(ConvTranspose2d, batchnorm="Affine", activation="ReLU"):
    """Transposed convolution, BatchNorm, ReLU."""


class FusedConvTranspose2dBNAbs(ConvTranspose2d, batchnorm="Affine", activation="Abs"):
    """Transposed convolution, BatchNorm, absolute value."""


class FusedMaxPoolConvTranspose2d(ConvTranspose2d, pooling="Max"):
    """Maximum pooling, transposed convolution."""


class FusedMaxPoolConvTranspose2dReLU(ConvTranspose2d, pooling="Max", activation="ReLU"):
    """Maximum pooling, transposed convolution, ReLU."""


class FusedMaxPoolConvTranspose2dAbs(ConvTranspose2d, pooling="Max", activation="Abs"):
    """Maximum pooling, transposed convolution, absolute value."""


class FusedMaxPoolConvTranspose2dBN(ConvTranspose2d, pooling="Max", batchnorm="Affine"):
    """Maximum pooling, transposed convolution, BatchNorm."""


class FusedMaxPoolConvTranspose2dBNReLU(ConvTranspose2d, pooling="Max", batchnorm="Affine", activation="ReLU"):
    """Maximum pooling, transposed convolution, BatchNorm, ReLU."""


class FusedMaxPoolConvTranspose2dBNAbs(ConvTranspose2d, pooling="Max", batchnorm="Affine", activation="Abs"):
    """Maximum pooling, transposed convolution, BatchNorm, absolute value."""


class FusedAvgPoolConvTranspose2d(ConvTranspose2d, pooling="Avg"):
    """Average pooling, transposed convolution."""


class FusedAvgPoolConvTranspose2dReLU(ConvTranspose2d, pooling="Avg", activation="ReLU"):
    """Average pooling, transposed convolution, ReLU."""


class FusedAvgPoolConvTranspose2dAbs(ConvTranspose2d, pooling="Avg", activation="Abs"):
    """Average pooling, transposed convolution, absolute value."""


class FusedAvgPoolConvTranspose2dBN(ConvTranspose2d, pooling="Avg", batchnorm="Affine"):
    """Average pooling, transposed convolution, BatchNorm."""


class FusedAvgPoolConvTranspose2dBNReLU(ConvTranspose2d, pooling="Avg", batchnorm="Affine", activation="ReLU"):
    """Average pooling, transposed convolution, BatchNorm, ReLU."""


class FusedAvgPoolConvTranspose2dBNAbs(ConvTranspose2d, pooling="Avg", batchnorm="Affine", activation="Abs"):
    """Average pooling, transposed convolution, BatchNorm, absolute value."""


class DepthwiseConvTranspose2d(ConvTranspose2d, depthwise=True):
    """Transposed convolution of every channel with its own kernel."""


class FusedDepthwiseConvTranspose2dReLU(DepthwiseConvTranspose2d, activation="ReLU"):
    """Depthwise transposed convolution, ReLU."""


class FusedDepthwiseConvTranspose2dAbs(DepthwiseConvTranspose2d, activation="Abs"):
    """Depthwise transposed convolution, absolute value."""


class FusedDepthwiseConvTranspose2dBN(DepthwiseConvTranspose2d, batchnorm="Affine"):
    """Depthwise transposed convolution, BatchNorm."""


class FusedDepthwiseConvTranspose2dBNReLU(DepthwiseConvTranspose2d, batchnorm="Affine", activation="ReLU"):
    """Depthwise transposed convolution, BatchNorm, ReLU."""


class FusedDepthwiseConvTranspose2dBNAbs(DepthwiseConvTranspose2d, batchnorm="Affine", activation="Abs"):
    """Depthwise transposed convolution, BatchNorm, absolute value."""


class FusedMaxPoolDepthwiseConvTranspose2d(DepthwiseConvTranspose2d, pooling="Max"):
    """Maximum pooling, depthwise transposed convolution."""


class FusedMaxPoolDepthwiseConvTranspose2dReLU(DepthwiseConvTranspose2d, pooling="Max", activation="ReLU"):
    """Maximum pooling, depthwise transposed convolution, ReLU."""


class FusedMaxPoolDepthwiseConvTranspose2dAbs(DepthwiseConvTranspose2d, pooling="Max", activation="Abs"):
    """Maximum pooling, depthwise transposed convolution, absolute value."""


class FusedMaxPoolDepthwiseConvTranspose2dBN(DepthwiseConvTranspose2d, pooling="Max", batchnorm="Affine"):
    """Maximum pooling, depthwise transposed convolution, BatchNorm."""


class FusedMaxPoolDepthwiseConvTranspose2dBNReLU(
    DepthwiseConvTranspose2d, pooling="Max", batchnorm="Affine", activation="ReLU"
):
    """Maximum pooling, depthwise transposed convolution, BatchNorm, ReLU."""


class FusedMaxPoolDepthwiseConvTranspose2dBNAbs(
    DepthwiseConvTranspose2d, pooling="Max", batchnorm="Affine", activation="Abs"
):
    """Maximum pooling, depthwise transposed convolution, BatchNorm, absolute value."""


class FusedAvgPoolDepthwiseConvTranspose2d(DepthwiseConvTranspose2d, pooling="Avg"):
    """Average pooling, depthwise transposed convolution."""


class FusedAvgPoolDepthwiseConvTranspose2dReLU(DepthwiseConvTranspose2d, pooling="Avg", activation="ReLU"):
    """Average pooling, depthwise transposed convolution, ReLU."""


class FusedAvgPoolDepthwiseConvTranspose2dAbs(DepthwiseConvTranspose2d, pooling="Avg", activation="Abs"):
    """Average pooling, depthwise transposed convolution, absolute value."""


class FusedAvgPoolDepthwiseConvTranspose2dBN(DepthwiseConvTranspose2d, pooling="Avg", batchnorm="Affine"):
    """Average pooling, depthwise transposed convolution, BatchNorm."""


class FusedAvgPoolDepthwiseConvTranspose2dBNReLU(
    DepthwiseConvTranspose2d, pooling="Avg", batchnorm="Affine", activation="ReLU"
):
    """Average pooling, depthwise transposed convolution, BatchNorm, ReLU."""


class FusedAvgPoolDepthwiseConvTranspose2dBNAbs(
    DepthwiseConvTranspose2d, pooling="Avg", batchnorm="Affine", activation="Abs"
):
    """Average pooling, depthwise transposed convolution, BatchNorm, absolute value."""


class FusedConv1dReLU(Fused, Conv1d, activation="ReLU"):
    """One-dimensional convolution, ReLU."""


class FusedConv1dAbs(Fused, Conv1d, activation="Abs"):
    """One-dimensional convolution, absolute value."""


class FusedConv1dBN(Fused, Conv1d, batchnorm="Affine"):
    """One-dimensional convolution, BatchNorm."""


class FusedConv1dBNReLU(Fused, Conv1d, batchnorm="Affine", activation="ReLU"):
    """One-dimensional convolution, BatchNorm, ReLU."""


class FusedConv1dBNAbs(Fused, Conv1d, batchnorm="Affine", activation="Abs"):
    """One-dimensional convolution, BatchNorm, absolute value."""


class FusedMaxPoolConv1d(Fused, Conv1d, pooling="Max"):
    """Maximum pooling, one-dimensional convolution."""


class FusedMaxPoolConv1dReLU(Fused, Conv1d, pooling="Max", activation="ReLU"):
    """Maximum pooling, one-dimensional convolution, ReLU."""


class FusedMaxPoolConv1dAbs(Fused, Conv1d, pooling="Max", activation="Abs"):
    """Maximum pooling, one-dimensional convolution, absolute value."""


class FusedMaxPoolConv1dBN(Fused, Conv1d, pooling="Max", batchnorm="Affine"):
    """Maximum pooling, one-dimensional convolution, BatchNorm."""


class FusedMaxPoolConv1dBNReLU(Fused, Conv1d, pooling="Max", batchnorm="Affine", activation="ReLU"):
    """Maximum pooling, one-dimensional convolution, BatchNorm, ReLU."""


class FusedMaxPoolConv1dBNAbs(Fused, Conv1d, pooling="Max", batchnorm="Affine", activation="Abs"):
    """Maximum pooling, one-dimensional convolution, BatchNorm, absolute value."""


class FusedAvgPoolConv1d(Fused, Conv1d, pooling="Avg"):
    """Average pooling, one-dimensional convolution."""


class FusedAvgPoolConv1dReLU(Fused, Conv1d, pooling="Avg", activation="ReLU"):
    """Average pooling, one-dimensional convolution, ReLU."""


class FusedAvgPoolConv1dAbs(Fused, Conv1d, pooling="Avg", activation="Abs"):
    """Average pooling, one-dimensional convolution, absolute value."""


class FusedAvgPoolConv1dBN(Fused, Conv1d, pooling="Avg", batchnorm="Affine"):
    """Average pooling, one-dimensional convolution, BatchNorm."""


class FusedAvgPoolConv1dBNReLU(Fused, Conv1d, pooling="Avg", batchnorm="Affine", activation="ReLU"):
    """Average pooling, one-dimensional convolution, BatchNorm, ReLU."""


class FusedAvgPoolConv1dBNAbs(Fused, Conv1d, pooling="Avg", batchnorm="Affine", activation="Abs"):
    """Average pooling, one-dimensional convolution, BatchNorm, absolute value."""


class DepthwiseConv1d(Fused, Conv1d, depthwise=True):
    """One-dimensional convolution of every channel with its own kernel."""


class FusedDepthwiseConv1dReLU(DepthwiseConv1d, activation="ReLU"):
    """Depthwise one-dimensional convolution, ReLU."""


class FusedDepthwiseConv1dAbs(DepthwiseConv1d, activation="Abs"):
    """Depthwise one-dimensional convolution, absolute value."""


class FusedDepthwiseConv1dBN(DepthwiseConv1d, batchnorm="Affine"):
    """Depthwise one-dimensional convolution, BatchNorm."""


class FusedDepthwiseConv1dBNReLU(DepthwiseConv1d, batchnorm="Affine", activation="ReLU"):
    """Depthwise one-dimensional convolution, BatchNorm, ReLU."""


class FusedDepthwiseConv1dBNAbs(DepthwiseConv1d, batchnorm="Affine", activation="Abs"):
    """Depthwise one-dimensional convolution, BatchNorm, absolute value."""


class FusedMaxPoolDepthwiseConv1d(DepthwiseConv1d, pooling="Max"):
    """Maximum pooling, depthwise one-dimensional convolution."""


class FusedMaxPoolDepthwiseConv1dReLU(DepthwiseConv1d, pooling="Max", activation="ReLU"):
    """Maximum pooling, depthwise one-dimensional convolution, ReLU."""


class FusedMaxPoolDepthwiseConv1dAbs(DepthwiseConv1d, pooling="Max", activation="Abs"):
    """Maximum pooling, depthwise one-dimensional convolution, absolute value."""


class FusedMaxPoolDepthwiseConv1dBN(DepthwiseConv1d, pooling="Max", batchnorm="Affine"):
    """Maximum pooling, depthwise one-dimensional convolution, BatchNorm."""


class FusedMaxPoolDepthwiseConv1dBNReLU(DepthwiseConv1d, pooling="Max", batchnorm="Affine", activation="ReLU"):
    """Maximum pooling, depthwise one-dimensional convolution, BatchNorm, ReLU."""


class FusedMaxPoolDepthwiseConv1dBNAbs(DepthwiseConv1d, pooling="Max", batchnorm="Affine", activation="Abs"):
    """Maximum pooling, depthwise one-dimensional convolution, BatchNorm, absolute value."""


class FusedAvgPoolDepthwiseConv1d(DepthwiseConv1d, pooling="Avg"):
    """Average pooling, depthwise one-dimensional convolution."""


class FusedAvgPoolDepthwiseConv1dReLU(DepthwiseConv1d, pooling="Avg", activation="ReLU"):
    """Average pooling, depthwise one-dimensional convolution, ReLU."""


class FusedAvgPoolDepthwiseConv1dAbs(DepthwiseConv1d, pooling="Avg", activation="Abs"):
    """Average pooling, depthwise one-dimensional convolution, absolute value."""


class FusedAvgPoolDepthwiseConv1dBN(DepthwiseConv1d, pooling="Avg", batchnorm="Affine"):
    """Average pooling, depthwise one-dimensional convolution, BatchNorm."""


class FusedAvgPoolDepthwiseConv1dBNReLU(DepthwiseConv1d, pooling="Avg", batchnorm="Affine", activation="ReLU"):
    """Average pooling, depthwise one-dimensional convolution, BatchNorm, ReLU."""


class FusedAvgPoolDepthwiseConv1dBNAbs(DepthwiseConv1d, pooling="Avg", batchnorm="Affine", activation="Abs"):
    """Average pooling, depthwise one-dimensional convolution, BatchNorm, absolute value."""


class FusedLinearReLU(Fused, Linear, activation="ReLU"):
    """Fully connected layer, ReLU."""


class FusedLinearAbs(Fused, Linear, activation="Abs"):
    """Fully connected layer, absolute value."""
