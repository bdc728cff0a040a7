"""Quantised arithmetic of training: parameters, activations, pooling, bit operators.

Owns the straight-through functions that make a float network compute what the accelerator computes. Everything
here is a pure function of tensors; modes, limits and state belong to `ai8x.nn.base`. Start at `parameter_shift`,
`quantize_parameters` and `quantize_activation`.

Two autograd functions do the work of one layer: one for weight and bias, one for the sum. Their gradients are
those of rounding taken as the identity and of a clamp applied to the rounded value.

Source: spec/ai8x-training.md section 5; docs/design.md "Numerics".
"""

from __future__ import annotations

import contextlib
import enum
import math
import platform
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ai8x.arithmetic import BIAS_SHIFT, INT8, weight_type

Q7_ONE = 1 << BIAS_SHIFT
"""Steps of the activation grid in 1.0: integer q stands for q / 128."""

Q7_MIN = INT8.min / Q7_ONE
Q7_MAX = INT8.max / Q7_ONE

MAX_SHIFT = 15
"""Largest magnitude of the shift register, which holds the output shift plus 8 minus the weight bits; section 9."""

WIDE_STEPS = 1 << 14
"""Steps of a wide output in 1.0; section 5.3."""

WIDE_LIMIT = 32768.0
"""A wide output saturates here in float and QAT modes; sections 5.2 and 5.3."""

BLOCK_ELEMENTS = 1 << 18
"""Elements worked on at once on a CPU: several passes over 1 MiB stay in the cache of one core."""


class ActivationKind(enum.Enum):
    """What follows the output scale of a layer; the values are the vendor's argument strings."""

    NONE = None
    RELU = "ReLU"
    ABS = "Abs"


def magnitude_quantile(weight: Tensor, bias: Tensor | None, quantile: float) -> Tensor:
    """Quantile of the magnitudes of all parameters of one layer.

    Linear interpolation at position ``quantile * (n - 1)`` of the n sorted magnitudes; 1.0 gives the maximum.

    Args:
        weight: any shape, float.
        bias: any shape, float, or None.
        quantile: 0.0 to 1.0.

    Returns:
        0-dimensional tensor, detached.

    Source:
        spec/ai8x-training.md section 5.1.
    """
    parameters = [weight.detach()] if bias is None else [weight.detach(), bias.detach()]
    if quantile >= 1.0:
        return torch.stack([torch.linalg.vector_norm(p, math.inf) for p in parameters]).amax()
    magnitudes = torch.cat([p.reshape(-1) for p in parameters]).abs_()
    position = quantile * (magnitudes.numel() - 1)
    index = math.floor(position)
    largest = magnitudes.topk(magnitudes.numel() - index).values
    lower = largest[-1]
    upper = largest[-2] if largest.numel() > 1 else lower
    return torch.lerp(lower, upper, position - index)


def shift_range(bits: int) -> tuple[int, int]:
    """Least and greatest output shift of a layer: those that the shift register holds.

    Rounding:
        bits 8 -> -15 to 15, bits 4 -> -19 to 11

    Source:
        spec/ai8x-training.md sections 5.1 and 9. Training and quantiser share this range, so that they agree.
    """
    return bits - INT8.bits - MAX_SHIFT, bits - INT8.bits + MAX_SHIFT


def parameter_shift(limit: Tensor, bits: int = INT8.bits) -> Tensor:
    """Output shift s = ceil(log2(limit)), clamped; computed on the exponent bits, so that it is exact.

    Args:
        limit: greatest magnitude to represent, 0-dimensional, >= 0.
        bits: weight bits of the layer, which set the range.

    Returns:
        0-dimensional int32 tensor.

    Rounding:
        0.25 -> -2, 0.5 -> -1, 0.999 -> 0, 1.0 -> 0, 1.001 -> 1, 2.0 -> 1, 0 -> -15 (8 bits)

    Source:
        spec/ai8x-training.md section 5.1: -floor(log2(1/limit)).
    """
    mantissa, exponent = torch.frexp(limit)
    shift = exponent - (mantissa <= 0.5).to(torch.int32)
    return limited_shift(torch.where(limit > 0, shift, shift_range(bits)[0]), bits)


def limited_shift(shift: Tensor, bits: int) -> Tensor:
    """A shift as the register holds it: clamped to `shift_range`."""
    lowest, highest = shift_range(bits)
    return shift.clamp(lowest, highest)


def power_of_two(exponent: Tensor, like: Tensor) -> Tensor:
    """``2**exponent`` exactly, with the dtype and the device of another tensor.

    Args:
        exponent: int32 tensor, -126 to 127.
        like: float tensor.
    """
    return torch.ldexp(like.new_ones(()), exponent)


def parameter_integers(parameter: Tensor, bits: int, to_steps: Tensor) -> tuple[Tensor, Tensor]:
    """Rounded and clamped integers of a parameter; the one statement of the rule for training and the quantiser.

    Args:
        parameter: float, any shape.
        bits: 1, 2, 4 or 8.
        to_steps: ``2**(bits - 1 - shift)``, 0-dimensional.

    Returns:
        ``R(parameter * to_steps)`` and the same clamped to the range of the width; R(x) = floor(x + 1/2).
    """
    integers = weight_type(bits)
    rounded = torch.mul(parameter, to_steps).add_(0.5).floor_()
    return rounded, rounded.clamp(integers.min, integers.max)


class _QuantizeParameters(torch.autograd.Function):
    """``clamp(floor(p * to_steps + 1/2)) * from_steps`` for weight and bias; straight-through gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, bits: int, to_steps: Tensor, from_steps: Tensor
                ) -> tuple[Tensor, Tensor | None]:
        outputs: list[Tensor | None] = []
        inside: list[Tensor | None] = []
        for parameter in (weight, bias):
            if parameter is None:
                outputs.append(None)
                inside.append(None)
                continue
            rounded, clamped = parameter_integers(parameter, bits, to_steps)
            inside.append(clamped == rounded)
            outputs.append(clamped.mul_(from_steps))
        ctx.save_for_backward(*inside, to_steps * from_steps)
        return outputs[0], outputs[1]  # type: ignore[return-value]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *inside, factor = ctx.saved_tensors
        scaled = [None if gradient is None or mask is None else (gradient * mask).mul_(factor)
                  for gradient, mask in zip(gradients, inside, strict=True)]
        return scaled[0], scaled[1], None, None, None


def quantize_parameters(weight: Tensor, bias: Tensor | None, *, bits: int, shift: Tensor, output_shift: Tensor | None
                        ) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as the chip holds them, in float.

    ``clamp(R(p * 2**-s * 2**(b-1)) / 2**(b-1), -1, 1 - 2**(1-b))`` with R(x) = floor(x + 1/2), times two to the
    output shift where there is one. Multiplying the parameters instead of the sum gives the same bits, since only
    exponents change, and saves a pass over the activations.

    Args:
        weight: float, any shape.
        bias: float, any shape, or None.
        bits: 1, 2, 4 or 8.
        shift: shift s of the parameters, 0-dimensional int32.
        output_shift: shift of the sum, the same or, in the second generation, less by the activation threshold; None
            for wide layers, which have none.

    Rounding:
        bits 8, shift 0: 0.5/128 -> 1/128, -0.5/128 -> 0, -1.5/128 -> -1/128

    Source:
        spec/ai8x-training.md sections 5.3 and 5.6.
    """
    to_steps = power_of_two(bits - 1 - shift, weight)
    from_steps = power_of_two((0 * shift if output_shift is None else output_shift) + 1 - bits, weight)
    quantized: tuple[Tensor, Tensor | None] = _QuantizeParameters.apply(weight, bias, bits, to_steps, from_steps)  # type: ignore[no-untyped-call]
    return quantized


def _blocks(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """The same tensors cut into cache-sized pieces where that helps."""
    first = tensors[0]
    if first.device.type != "cpu" or first.numel() <= BLOCK_ELEMENTS or not all(t.is_contiguous() for t in tensors):
        return [tensors]
    return list(zip(*(torch.split(t.view(-1), BLOCK_ELEMENTS) for t in tensors), strict=True))


def _round_half_up(values: Tensor, out: Tensor, low: float, high: float) -> None:
    half = values.new_tensor(0.5)
    for target, source in _blocks(out, values):
        torch.add(half, source, alpha=Q7_ONE, out=target).floor_().clamp_(low, high).mul_(1 / Q7_ONE)


def _beyond(value: float, dtype: torch.dtype) -> float:
    """The next number of a dtype away from zero: turns ``>= value`` into the ``>`` that the fused kernel has."""
    _, exponent = math.frexp(value)
    return value + math.copysign(math.ldexp(torch.finfo(dtype).eps, exponent - 1), value)


class _QuantizeActivation(torch.autograd.Function):
    """Round to the grid of 1/128, clamp; the gradient passes where the rounded value needed no clamp."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, low: int) -> Tensor:
        ctx.save_for_backward(values)
        # ReLU passes where the sum is > 0, also when it rounds to 0; without it, where the rounded value is >= low.
        ctx.passes_above = 0.0 if low == 0 else _beyond((low - 0.5) / Q7_ONE, values.dtype)
        out = torch.empty_like(values)
        _round_half_up(values, out, low, INT8.max)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (values,) = ctx.saved_tensors
        return _pass_between(gradient, values, ctx.passes_above, (INT8.max + 0.5) / Q7_ONE), None


def _pass_between(gradient: Tensor, values: Tensor, above: float, below: float) -> Tensor:
    """The gradient where ``above < values < below``, else 0."""
    passed: Tensor = torch.ops.aten.hardtanh_backward(gradient, values, above, below)
    return passed


class _QuantizeAbs(torch.autograd.Function):
    """Round, clamp, absolute value, clamp; the gradient is the sign where |rounded| <= 127."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        out = torch.empty_like(values)
        _round_half_up(values, out, INT8.min, INT8.max)
        magnitude: Tensor = out.abs_().clamp_(max=Q7_MAX)
        return magnitude

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        above = _beyond(-(INT8.max + 0.5) / Q7_ONE, values.dtype)
        passed: Tensor = _pass_between(gradient, values, above, (INT8.max + 0.5) / Q7_ONE) * values.sign()
        return passed


def quantize_activation(values: Tensor, activation: ActivationKind) -> Tensor:
    """Round half up to multiples of 1/128, clamp to [-1, 127/128], apply the activation.

    Args:
        values: scaled sums, float, any shape.
        activation: ReLU limits to [0, 127/128]; Abs follows rounding and clamping, as on the device.

    Rounding:
        steps of 1/128: 0.5 -> 1, -0.5 -> 0, -1.5 -> -1; Abs: -1.5 -> 1, -128 -> 127

    Source:
        spec/ai8x-training.md sections 5.3, 5.6 and 5.8a.
    """
    if activation is ActivationKind.ABS:
        result: Tensor = _QuantizeAbs.apply(values)  # type: ignore[no-untyped-call]
    else:
        result = _QuantizeActivation.apply(values, 0 if activation is ActivationKind.RELU else INT8.min)  # type: ignore[no-untyped-call]
    return result


class _RoundWide(torch.autograd.Function):
    """Round half up to multiples of 2**-14, clamp to the wide range."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        rounded = values.mul(WIDE_STEPS).add_(0.5).floor_().mul_(1 / WIDE_STEPS)
        clamped = rounded.clamp(-WIDE_LIMIT, WIDE_LIMIT)
        ctx.save_for_backward(clamped == rounded)
        return clamped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (inside,) = ctx.saved_tensors
        passed: Tensor = gradient * inside
        return passed


def quantize_wide(values: Tensor) -> Tensor:
    """A wide output in QAT: multiples of 2**-14 within +-32768.

    Rounding:
        steps of 2**-14: 0.5 -> 1, -0.5 -> 0

    Source:
        spec/ai8x-training.md section 5.3.
    """
    result: Tensor = _RoundWide.apply(values)  # type: ignore[no-untyped-call]
    return result


class _ClampActivation(torch.autograd.Function):
    """Float mode: optional ReLU, then clamp."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.above = 0.0 if low == 0.0 else _beyond(low, values.dtype)
        ctx.below = _beyond(high, values.dtype)
        return values.clamp(low, high)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (values,) = ctx.saved_tensors
        return _pass_between(gradient, values, ctx.above, ctx.below), None, None


def clamp_activation(values: Tensor, activation: ActivationKind, *, wide: bool = False) -> Tensor:
    """Activation and output clamp of float training.

    Args:
        values: scaled sums, float, any shape.
        activation: applied before the clamp.
        wide: clamp to +-32768 instead of [-1, 127/128].

    Source:
        spec/ai8x-training.md section 5.2.
    """
    if wide:
        return values.clamp(-WIDE_LIMIT, WIDE_LIMIT)
    if activation is ActivationKind.ABS:
        return values.abs().clamp(max=Q7_MAX)
    result: Tensor = _ClampActivation.apply(values, 0.0 if activation is ActivationKind.RELU else Q7_MIN, Q7_MAX)  # type: ignore[no-untyped-call]
    return result


def activate(values: Tensor, activation: ActivationKind) -> Tensor:
    """The activation alone, as float training of the second generation has it (section 7)."""
    if activation is ActivationKind.RELU:
        return values.relu()
    return values.abs() if activation is ActivationKind.ABS else values


def round_average(values: Tensor, *, rounded: bool) -> Tensor:
    """An exact mean of integers as the pooling unit delivers it.

    Args:
        values: means in integer steps, float.
        rounded: False truncates towards zero, True rounds halves away from zero.

    Rounding:
        truncated: 1.5 -> 1, -0.75 -> 0; rounded: 0.5 -> 1, 2.5 -> 3, -0.5 -> -1

    Source:
        spec/ai8x-training.md sections 5.3, 5.4 and 5.7; docs/design.md "Numerics".
    """
    if not rounded:
        return values.trunc()
    return values.abs().add_(0.5).floor_().copysign_(values)


class _QuantizeAverage(torch.autograd.Function):
    """Average pooling result on the grid, clamped; straight-through."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rounded: bool) -> Tensor:
        steps = round_average(values * Q7_ONE, rounded=rounded)
        clamped = steps.clamp(INT8.min, INT8.max)
        ctx.save_for_backward(clamped == steps)
        return clamped.mul_(1 / Q7_ONE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None


def quantize_average(values: Tensor, *, rounded: bool) -> Tensor:
    """`round_average` in QAT: multiples of 1/128, clamped to [-1, 127/128].

    Source:
        spec/ai8x-training.md section 5.3.
    """
    result: Tensor = _QuantizeAverage.apply(values, rounded)  # type: ignore[no-untyped-call]
    return result


def round_to_int8(values: Tensor, activation: ActivationKind) -> Tensor:
    """Integer mode: sums in steps of one to -128..127, rounded half up, then the activation.

    Float32 sums of less than 2**24 steps are rounded exactly although 1/2 is added in float32: an addition
    that has to round starts from a numerator of 25 bits, and no multiple of the divisor is within its reach.

    Source:
        spec/ai8x-training.md sections 5.4 and 5.8a.
    """
    rounded = values.add(0.5).floor_().clamp_(INT8.min, INT8.max)
    if activation is ActivationKind.RELU:
        return rounded.clamp_(min=0)
    if activation is ActivationKind.ABS:
        return rounded.abs_().clamp_(max=INT8.max)
    return rounded


def combine_bits(operands: tuple[Tensor, ...], operator: Callable[[Tensor, Tensor], Tensor], steps: int) -> Tensor:
    """A bitwise operator on two's complement int8, from the left.

    Args:
        operands: two or more tensors of one shape.
        operator: `torch.bitwise_or` or `torch.bitwise_xor`.
        steps: 128 where 1.0 is 128 steps (float modes), 1 where the values are integers.

    Returns:
        The same scale and dtype as the operands; carries no gradient.

    Source:
        spec/ai8x-training.md section 5.10.
    """
    with torch.no_grad():
        integers = [(o * steps).add_(0.5).floor_().clamp_(INT8.min, INT8.max).to(torch.int8) for o in operands]
        result = integers[0]
        for operand in integers[1:]:
            result = operator(result, operand)
        return result.to(operands[0].dtype) / steps


def sum_bound(weight: Tensor, bias: Tensor | None, *, output_dim: int, groups: int = 1) -> float:
    """Greatest magnitude that any partial sum of a layer can reach with int8 data.

    Args:
        weight: integers.
        bias: integers in units of the sum (already times 128), or None.
        output_dim: dimension of the weight that counts output channels, of a group if that is the second.
        groups: of a transposed convolution.

    Returns: ``max over outputs (sum |w| * 128 + |bias|)``.
    """
    if output_dim == 1:
        weight = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    sums = weight.detach().double().abs().flatten(1).sum(dim=1) * -INT8.min
    if bias is not None:
        sums = sums + bias.detach().double().abs()
    return float(sums.max())


def exact_dtype(bound: float) -> torch.dtype:
    """The float type in which sums up to a bound are exact integers.

    Source:
        docs/design.md "Numerics": float32 below 2**24, else float64.
    """
    return torch.float32 if bound < 1 << 24 else torch.float64


@contextlib.contextmanager
def exact_kernels() -> Iterator[None]:
    """Forbid convolution kernels that transform their operands (Winograd, FFT) or shorten them (TensorFloat).

    oneDNN computes directly on x86; on other processors it may delegate to a library that does not.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(torch.backends.nnpack.flags(enabled=False))
        if platform.machine().lower() not in ("x86_64", "amd64"):
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield


def average_pool(values: Tensor, dims: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Exact mean over windows; the last incomplete window is dropped."""
    pool: Callable[..., Tensor] = F.avg_pool1d if dims == 1 else F.avg_pool2d
    return pool(values, size, stride)


def max_pool(values: Tensor, dims: int, size: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
             ) -> Tensor:
    """Maximum over windows; the last incomplete window is dropped."""
    pool: Callable[..., Tensor] = F.max_pool1d if dims == 1 else F.max_pool2d
    return pool(values, size, stride, padding=0, dilation=dilation)
