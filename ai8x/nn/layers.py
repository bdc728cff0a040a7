"""The operations of the chip as constructors with the vendor's argument lists.

Owns argument order and defaults, which are API, and the translation into one checked `LayerRequest` and one
`QuantizationAwareModule`. The fused names are made from these classes in `ai8x.nn.modules`.

Source: spec/ai8x-training.md section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import nn

from ai8x import compatibility
from ai8x.errors import user_error
from ai8x.nn import limits
from ai8x.nn.arguments import PoolArguments, QuantizationArguments
from ai8x.nn.base import Operation, QuantizationAwareModule
from ai8x.nn.functional import ActivationKind
from ai8x.nn.limits import LayerRequest

BATCHNORM_EPS = 1e-5
BATCHNORM_MOMENTUM = 0.05

Size = int | tuple[int, ...]


def _sizes(value: Size, dims: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * dims
    if len(values) != dims or not all(isinstance(v, int) for v in values):
        raise user_error("E0389", f"size {value!r} for data of {dims} dimensions", found=repr(value),
                         allowed=f"an integer{' or a pair' if dims == 2 else ''}", help="write one integer")
    return values


def _limits(quantization: QuantizationArguments) -> limits.TrainingLimits:
    if quantization.device is not None:
        return limits.limits_of(compatibility.device_name(quantization.device))
    return limits.limits_of(compatibility.current_settings().device)


def _batchnorm(kind: str | None, dims: int, channels: int, eps: float, momentum: float) -> nn.Module | None:
    """A BatchNorm for 'Affine' and 'NoAffine'; other strings mean none, as upstream."""
    if kind not in ("Affine", "NoAffine"):
        return None
    norm = nn.BatchNorm1d if dims == 1 else nn.BatchNorm2d
    return norm(channels, eps=eps, momentum=momentum, affine=kind == "Affine")


def _pool(request: LayerRequest) -> PoolArguments | None:
    if request.pooling is None:
        return None
    return PoolArguments(kind=request.pooling, size=request.pool_size, stride=request.pool_stride,
                         dilation=request.pool_dilation, rounded=compatibility.current_settings().round_avg)


def _operation(request: LayerRequest) -> Operation:
    channels = (request.in_channels, request.out_channels)
    if request.operator == "ConvTranspose2d":
        kernel, stride, padding = request.kernel_size, request.stride, request.padding
        return nn.ConvTranspose2d(*channels, kernel, stride=stride, padding=padding,  # type: ignore[arg-type]
                                  output_padding=1, groups=request.groups, bias=request.bias)
    convolution: Callable[..., Operation] = nn.Conv1d if request.operator == "Conv1d" else nn.Conv2d
    return convolution(*channels, request.kernel_size, stride=request.stride, padding=request.padding,
                       dilation=request.dilation, groups=request.groups, bias=request.bias)


class Conv2d(QuantizationAwareModule):
    """Two-dimensional convolution with optional pooling in front and activation behind.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: 1 or 3, or an equal pair.
        op: 'Conv2d' or 'ConvTranspose2d'.
        pooling: 'Max', 'Avg' or None.
        pool_size: window, 1 to 16, or a pair.
        pool_stride: step of the window, 1 to 16.
        pool_dilation: step inside the window; MAX78002 and 'Max' only.
        stride: 1; transposed convolutions need 2.
        padding: 0 to 2 on all sides.
        dilation: 1; MAX78002 up to 16.
        bias: whether the layer has a bias.
        activation: 'ReLU', 'Abs' or None.
        wide: 32-bit output without output shift; needs activation None.
        batchnorm: 'Affine', 'NoAffine' or None.
        weight_bits: None in float mode, else 1, 2, 4 or 8.
        bias_bits: likewise.
        quantize_activation: True exactly when the widths are given.
        groups: divides both channel counts.
        eps: of the BatchNorm.
        momentum: of the BatchNorm.
        device: chip whose limits hold; None takes what `ai8x.set_device` set.

    Shapes:
        (N, in_channels, H, W) to (N, out_channels, H', W'); weight (out, in / groups, row, column), transposed
        (in, out / groups, row, column).

    Raises:
        UserError: E0372 to E0389 with the limit that is broken.
    """

    dims: ClassVar[int] = 2

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size,
                 op: str = "Conv2d", pooling: str | None = None, pool_size: Size = 2, pool_stride: Size = 2,
                 pool_dilation: Size = 1, stride: Size = 1, padding: Size = 0, dilation: Size = 1, bias: bool = True,
                 activation: str | None = None, wide: bool = False, batchnorm: str | None = None,
                 weight_bits: int | None = None, bias_bits: int | None = None, quantize_activation: bool = False,
                 groups: int = 1, eps: float = BATCHNORM_EPS, momentum: float = BATCHNORM_MOMENTUM,
                 device: str | int | None = None) -> None:
        if op not in ("Conv1d", "Conv2d", "ConvTranspose2d"):
            raise user_error("E0390", f"{type(self).__name__}: operation {op!r} does not exist", found=repr(op),
                             allowed="'Conv2d' or 'ConvTranspose2d'", help="write op='Conv2d'")
        dims = self.dims
        quantization = QuantizationArguments(weight_bits=weight_bits, bias_bits=bias_bits,
                                             quantize_activation=quantize_activation, device=device)
        request = LayerRequest(
            layer=type(self).__name__, operator=op, in_channels=in_channels, out_channels=out_channels,
            kernel_size=_sizes(kernel_size, dims), stride=_sizes(stride, dims), padding=_sizes(padding, dims),
            dilation=_sizes(dilation, dims), groups=groups, pooling=pooling, pool_size=_sizes(pool_size, dims),
            pool_stride=_sizes(pool_stride, dims), pool_dilation=_sizes(pool_dilation, dims), activation=activation,
            batchnorm=batchnorm, bias=bool(bias), wide=wide)
        limits.check_layer(request, _limits(quantization))
        super().__init__(_operation(request), quantization=quantization.checked(request.layer),
                         bn=_batchnorm(batchnorm, dims, out_channels, eps, momentum), pool=_pool(request),
                         activation=ActivationKind(activation), wide=wide)


class Conv1d(Conv2d):
    """One-dimensional convolution with optional pooling in front and activation behind.

    The arguments are those of `Conv2d` without ``op``; kernels of 1 to 9, padding 0 to 2.

    Shapes:
        (N, in_channels, L) to (N, out_channels, L'); weight (out, in / groups, k).

    Raises:
        UserError: E0372 to E0389 with the limit that is broken.
    """

    dims: ClassVar[int] = 1

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size,
                 pooling: str | None = None, pool_size: Size = 2, pool_stride: Size = 2, pool_dilation: Size = 1,
                 stride: Size = 1, padding: Size = 0, dilation: Size = 1, bias: bool = True,
                 activation: str | None = None, wide: bool = False, batchnorm: str | None = None,
                 weight_bits: int | None = None, bias_bits: int | None = None, quantize_activation: bool = False,
                 groups: int = 1, eps: float = BATCHNORM_EPS, momentum: float = BATCHNORM_MOMENTUM,
                 device: str | int | None = None) -> None:
        super().__init__(in_channels, out_channels, kernel_size, "Conv1d", pooling, pool_size, pool_stride,
                         pool_dilation, stride, padding, dilation, bias, activation, wide, batchnorm, weight_bits,
                         bias_bits, quantize_activation, groups, eps, momentum, device)


class Linear(QuantizationAwareModule):
    """Fully connected layer; the chip computes it as a 1x1 convolution of flattened data.

    Args:
        in_features: up to 1024.
        out_features: up to 1024.
        pooling: must be None.
        bias: only the literal True creates one, as upstream.
        activation: 'ReLU', 'Abs' or None.
        wide: 32-bit output; needs activation None.
        batchnorm: must be None.
        weight_bits: None in float mode, else 1, 2, 4 or 8.
        bias_bits: likewise.
        quantize_activation: True exactly when the widths are given.
        device: chip whose limits hold; None takes what `ai8x.set_device` set.

    Shapes:
        (N, in_features) to (N, out_features); weight (out, in).

    Raises:
        UserError: E0370 to E0389 with the limit that is broken.
    """

    def __init__(self, in_features: int, out_features: int, pooling: str | None = None,
                 bias: bool | None = None, activation: str | None = None, wide: bool = False,
                 batchnorm: str | None = None, weight_bits: int | None = None, bias_bits: int | None = None,
                 quantize_activation: bool = False, device: str | int | None = None) -> None:
        if pooling is not None:
            raise user_error("E0370", f"{type(self).__name__}: a linear layer has no pooling", found=repr(pooling),
                             allowed="None", help="pool before flattening")
        quantization = QuantizationArguments(weight_bits=weight_bits, bias_bits=bias_bits,
                                             quantize_activation=quantize_activation, device=device)
        request = LayerRequest(layer=type(self).__name__, operator="Linear", in_channels=in_features,
                               out_channels=out_features, activation=activation, wide=wide, batchnorm=batchnorm,
                               bias=bias is True)
        limits.check_layer(request, _limits(quantization))
        super().__init__(nn.Linear(in_features, out_features, bias=bias is True),
                         quantization=quantization.checked(request.layer), activation=ActivationKind(activation),
                         wide=wide)


class Pool(QuantizationAwareModule):
    """A layer that only pools; it keeps entries of its own in ``state_dict``.

    Args:
        kernel_size: window, 1 to 16.
        stride: step of the window; None takes the window size.
        dilation: step inside the window; MAX78002 and maximum pooling only.
        weight_bits: accepted because models hand the three quantisation arguments to every layer.
        bias_bits: likewise.
        quantize_activation: likewise.
        device: chip whose limits hold; None takes what `ai8x.set_device` set.

    Raises:
        UserError: E0381 to E0389 with the limit that is broken.
    """

    dims: ClassVar[int] = 2
    kind: ClassVar[str] = "Max"

    def __init__(self, kernel_size: Size, stride: Size | None = None, dilation: Size = 1, *,
                 weight_bits: int | None = None, bias_bits: int | None = None, quantize_activation: bool = False,
                 device: str | int | None = None) -> None:
        quantization = QuantizationArguments(weight_bits=weight_bits, bias_bits=bias_bits,
                                             quantize_activation=quantize_activation, device=device)
        request = LayerRequest(
            layer=type(self).__name__, operator="Pool", in_channels=1, out_channels=1, pooling=self.kind,
            pool_size=_sizes(kernel_size, self.dims), pool_dilation=_sizes(dilation, self.dims),
            pool_stride=_sizes(kernel_size if stride is None else stride, self.dims))
        limits.check_layer(request, _limits(quantization))
        super().__init__(None, quantization=quantization.checked(request.layer), pool=_pool(request))


class MaxPool2d(Pool):
    """Maximum over windows of (N, C, H, W)."""


class MaxPool1d(Pool):
    """Maximum over windows of (N, C, L)."""

    dims: ClassVar[int] = 1


class AvgPool2d(Pool):
    """Average over windows of (N, C, H, W), rounded as the device does."""

    kind: ClassVar[str] = "Avg"


class AvgPool1d(Pool):
    """Average over windows of (N, C, L), rounded as the device does."""

    dims: ClassVar[int] = 1
    kind: ClassVar[str] = "Avg"
