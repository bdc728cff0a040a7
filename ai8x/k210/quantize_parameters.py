"""From a real convolution to the numbers of a KPU layer, for any scales and zero points.

Weights become symmetric bytes with a scale for each output channel, which batch normalisation undoes. What enters the
activation table is the real result in steps of the output byte, with as many further bits as the registers allow.
Start at `quantized_weights` and `RealConv`.

Source: spec/k210-kmodel.md sections 5, 13.2 and 15.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai8x.arithmetic import INT8
from ai8x.k210.activation import ActivationFunction, Falling, FittedActivation, TableDomain, fit_activation
from ai8x.k210.device import K210
from ai8x.k210.kmodel_layers import BatchNorm
from ai8x.k210.parameters import WEIGHT_ZERO_POINT, KpuParameters
from ai8x.k210.quantize_calibration import BYTE_MAX, TensorQuantization

_VALUE_BITS = 16
"""Bits below one step of the output that are enough."""

_SLACK = 4
"""Rounding of factors and addends may exceed the bounds by so many units."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedParameters(KpuParameters):
    """Numbers of a KPU layer whose tensors have any zero points.

    Args:
        pad_value: byte around the map, the input's zero point.
        fit: the activation table and its error.
    """

    pad_value: int
    fit: FittedActivation


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedWeights:
    """Whole-number weights with a scale for each output channel.

    Args:
        values: int64 array (out, in, row, column) of -127 to 127.
        scale: float64 array (out,); 0 where all weights are 0.
    """

    values: NDArray[np.int64]
    scale: NDArray[np.float64]


def quantized_weights(weights: NDArray[np.float64]) -> QuantizedWeights:
    """The nearest symmetric weights of every output channel.

    Args:
        weights: float64 array (out, in, row, column).
    """
    largest = np.abs(weights).reshape(len(weights), -1).max(axis=1)
    scale = largest / INT8.max
    column = np.where(scale > 0, scale, 1.0).reshape(-1, 1, 1, 1)
    return QuantizedWeights(values=np.floor(weights / column + 0.5).astype(np.int64), scale=scale)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RealConv:
    """A convolution as its numbers mean it: ``function(sum(scale * w * x) + bias)``.

    Args:
        weights: of all output channels, with their scales.
        bias: float64 array (out,).
        source: the tensor that is read.
        target: the tensor that is made.
        function: the activation.
        falling: how the table makes falling parts.
    """

    weights: QuantizedWeights
    bias: NDArray[np.float64]
    source: TensorQuantization
    target: TensorQuantization
    function: ActivationFunction
    falling: Falling = Falling.STEPS


class ConvParameters:
    """Makes the numbers of some of a convolution's output channels; one activation table serves all of them."""

    def __init__(self, real: RealConv) -> None:
        self._zero_point = real.source.zero_point
        # A real number is scale * (q - zero_point) + rest; the rests act like a bias.
        per_channel = real.weights.values.reshape(len(real.weights.values), -1)
        bias = real.bias + real.source.rest * real.weights.scale * per_channel.sum(axis=1) - real.target.rest
        factor = real.weights.scale * real.source.scale / real.target.scale
        addend = bias / real.target.scale
        sums = _sum_bounds(per_channel, self._zero_point)
        self._worst_sum = int(np.abs(sums).max(initial=1))
        bounds = factor * sums + addend
        bits, shift = _precision(factor, addend, float(np.abs(bounds).max()))
        self._norm = BatchNorm(mul=np.floor(factor * 2.0 ** (bits + shift) + 0.5).astype(np.int64),
                               shift=np.full(len(factor), shift),
                               add=np.floor(addend * 2.0 ** bits + 0.5).astype(np.int64))
        low, high = (math.floor(float(bounds.min()) * 2.0 ** bits), math.ceil(float(bounds.max()) * 2.0 ** bits))
        domain = TableDomain(low=low - _SLACK, high=high + _SLACK, unit=real.target.scale / 2.0 ** bits,
                             scale=real.target.scale, zero_point=real.target.zero_point)
        self._worst_value = max(-domain.low, domain.high)
        self.fit = fit_activation(real.function, domain, falling=real.falling)

    def __call__(self, weights: NDArray[np.int64], channels: slice) -> QuantizedParameters:
        """Numbers of the channels; weights (out, in, row, column) as the KPU holds them, 0 where there is none."""
        norm = BatchNorm(mul=self._norm.mul[channels], shift=self._norm.shift[channels], add=self._norm.add[channels])
        taps = weights.shape[2] * weights.shape[3]
        return QuantizedParameters(
            weights=(weights + WEIGHT_ZERO_POINT).astype(np.uint8), batch_norm=norm, table=self.fit.table,
            arg_x=-WEIGHT_ZERO_POINT, arg_w=-self._zero_point, arg_add=taps * WEIGHT_ZERO_POINT * self._zero_point,
            worst_sum=self._worst_sum, worst_value=self._worst_value, pad_value=self._zero_point, fit=self.fit)


def _sum_bounds(weights: NDArray[np.int64], zero_point: int) -> NDArray[np.float64]:
    """Least and greatest sum of every channel for any input bytes; (2, out)."""
    above, below = BYTE_MAX - zero_point, zero_point
    positive, negative = np.maximum(weights, 0).sum(axis=1), np.maximum(-weights, 0).sum(axis=1)
    return np.stack([-positive * below - negative * above, positive * above + negative * below]).astype(np.float64)


def _precision(factor: NDArray[np.float64], addend: NDArray[np.float64], worst: float) -> tuple[int, int]:
    """Bits below a step of the output, and the batch-norm shift, that all registers allow.

    Source: section 15, last paragraph.
    """
    limits = K210.limits
    bits = min(_VALUE_BITS, _room(limits.accumulator_bits - 2, worst), _room(limits.bn_add_bits - 2,
                                                                            float(np.abs(addend).max(initial=0.0))))
    room = _room(limits.bn_mul_bits - 1, float(np.abs(factor).max(initial=0.0))) - 1
    shift = min(limits.bn_shift_max, room - bits)
    return (bits, shift) if shift >= 0 else (room, 0)


def _room(bits: int, value: float) -> int:
    """Bits by which a number may be shifted left so that it stays below ``2**bits``."""
    return bits - math.frexp(value)[1]
