"""What a layer may be, checked when it is constructed.

Owns the limits that training can know from one layer alone; memory, placement and everything that needs the
whole network is checked by the synthesis half. Each rule is one small function. Start at `check_layer`.

Source: spec/ai8x-training.md sections 3.2 and 3.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ai8x.errors import Diagnostic, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLimits:
    """Limits of one chip as far as one layer is concerned.

    Args:
        name: as printed in messages.
        max_channels: channels of a layer, in and out.
        max_bias_channels: output channels of a layer with bias.
        max_conv2d_dilation: both directions.
        max_conv1d_dilation: for layers without padding and kernels up to 3.
        max_pool_dilation: maximum pooling only.
        max_conv2d_stride: without pooling.
        max_padded_conv1d_channels: input channels of a one-dimensional layer with padding; None means no limit.
    """

    name: str
    max_channels: int
    max_bias_channels: int
    max_conv2d_dilation: int
    max_conv1d_dilation: int
    max_pool_dilation: int
    max_conv2d_stride: int = 1
    max_padded_conv1d_channels: int | None = None


MAX78000 = TrainingLimits(name="MAX78000", max_channels=1024, max_bias_channels=512, max_conv2d_dilation=1,
                          max_conv1d_dilation=1023, max_pool_dilation=1)
MAX78002 = TrainingLimits(name="MAX78002", max_channels=2048, max_bias_channels=2048, max_conv2d_dilation=16,
                          max_conv1d_dilation=2047, max_pool_dilation=16, max_padded_conv1d_channels=64)
NO_DEVICE = TrainingLimits(name="no device", max_channels=1024, max_bias_channels=512, max_conv2d_dilation=1,
                           max_conv1d_dilation=1023, max_pool_dilation=1, max_conv2d_stride=3)
"""Taken while no device is chosen: strides 2 and 3 may be trained and are rewritten for a chip later."""

MAX_POOL = 16
MAX_CONV1D_KERNEL = 9
MAX_PADDING = 2
MAX_LINEAR_FEATURES = 1024
TRANSPOSED_STRIDE = 2
CONV2D_KERNELS = (1, 3)
POOLING = ("Max", "Avg", None)
ACTIVATIONS = ("ReLU", "Abs", None)


def limits_of(device: str | None) -> TrainingLimits:
    """The limits of a chip by its full name; None gives `NO_DEVICE`."""
    return {None: NO_DEVICE, "MAX78000": MAX78000, "MAX78002": MAX78002}[device]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRequest:
    """The arguments of one layer, as checked. Sizes are pairs (row, column), or one number in one dimension."""

    layer: str
    operator: str
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = (1,)
    padding: tuple[int, ...] = (0,)
    dilation: tuple[int, ...] = (1,)
    groups: int = 1
    pooling: str | None = None
    pool_size: tuple[int, ...] = (1,)
    pool_stride: tuple[int, ...] = (1,)
    pool_dilation: tuple[int, ...] = (1,)
    activation: str | None = None
    batchnorm: str | None = None
    bias: bool = False
    wide: bool = False


Findings = Iterator[Diagnostic]


def _finding(request: LayerRequest, code: str, what: str, *, found: object, allowed: str, help: str) -> Diagnostic:
    message = f"{request.layer}({request.in_channels}, {request.out_channels}): {what}"
    return Diagnostic(code=code, message=message, layer=request.layer, found=str(found), allowed=allowed, help=help)


def _size(values: tuple[int, ...]) -> str:
    return "x".join(str(v) for v in values)


def check_choices(request: LayerRequest, limits: TrainingLimits) -> Findings:
    """Pooling is 'Max', 'Avg' or None; the activation is 'ReLU', 'Abs' or None."""
    del limits
    if request.pooling not in POOLING:
        yield _finding(request, "E0372", f"pooling {request.pooling!r} does not exist", found=repr(request.pooling),
                       allowed="'Max', 'Avg' or None", help="write pooling='Max'")
    if request.activation not in ACTIVATIONS:
        yield _finding(request, "E0373", f"activation {request.activation!r} does not exist on the chip",
                       found=repr(request.activation), allowed="'ReLU', 'Abs' or None", help="write activation='ReLU'")


def check_wide(request: LayerRequest, limits: TrainingLimits) -> Findings:
    """A wide (32-bit) output has no activation."""
    del limits
    if request.wide and request.activation is not None:
        yield _finding(request, "E0374", f"wide output with activation {request.activation}",
                       found=f"wide=True, activation={request.activation!r}", allowed="wide outputs without activation",
                       help="drop wide=True, or use the class without activation")


def check_channels(request: LayerRequest, limits: TrainingLimits) -> Findings:
    """Channels are between 1 and the limit of the chip; so are output channels of a layer with bias."""
    if request.operator == "Linear":
        for label, value in (("in_features", request.in_channels), ("out_features", request.out_channels)):
            if not 1 <= value <= MAX_LINEAR_FEATURES:
                yield _finding(request, "E0375", f"{label} {value} exceeds the chip", found=value,
                               allowed=f"1 to {MAX_LINEAR_FEATURES}",
                               help="reduce the features with a convolution or pooling before flattening")
        return
    for label, value in (("in_channels", request.in_channels), ("out_channels", request.out_channels)):
        if not 1 <= value <= limits.max_channels:
            yield _finding(request, "E0375", f"{label} {value} exceeds {limits.name}", found=value,
                           allowed=f"1 to {limits.max_channels}", help="use fewer channels, or split the layer")
    if request.bias and limits.max_bias_channels < request.out_channels <= limits.max_channels:
        yield _finding(request, "E0376", f"bias of {request.out_channels} output channels exceeds {limits.name}",
                       found=request.out_channels, allowed=f"bias for at most {limits.max_bias_channels} channels",
                       help="write bias=False, or use fewer output channels")


def check_kernel(request: LayerRequest, limits: TrainingLimits) -> Findings:
    """Kernels are 1x1 or 3x3 (transposed: 3x3), one-dimensional ones 1 to 9."""
    del limits
    kernel = request.kernel_size
    if request.operator == "Conv1d":
        allowed, good = f"1 to {MAX_CONV1D_KERNEL}", 1 <= kernel[0] <= MAX_CONV1D_KERNEL
    elif request.operator == "ConvTranspose2d":
        allowed, good = "3x3", kernel == (3, 3)
    elif request.operator == "Conv2d":
        allowed, good = "1x1 or 3x3", kernel[0] in CONV2D_KERNELS and len(set(kernel)) == 1
    else:
        return
    if not good:
        yield _finding(request, "E0377", f"kernel {_size(kernel)}", found=_size(kernel), allowed=allowed,
                       help="compose larger kernels from 3x3 layers" if request.operator != "Conv1d" else
                       "compose larger kernels from several layers")


def check_stride(request: LayerRequest, limits: TrainingLimits) -> Findings:
    """Convolutions move by 1 (2 and 3 only while no device is chosen and nothing is pooled); transposed ones by 2."""
    highest = 1
    if request.operator == "Linear":
        return
    if request.operator == "ConvTranspose2d":
        if set(request.stride) != {TRANSPOSED_STRIDE}:
            yield _finding(request, "E0378", f"stride {_size(request.stride)} of a transposed convolution",
                           found=_size(request.stride), allowed="2", help="write stride=2")
        return
    if request.operator == "Conv2d" and request.pooling is None:
        highest = limits.max_conv2d_stride
    if not (1 <= request.stride[0] <= highest and len(set(request.stride)) == 1):
        yield _finding(request, "E0378", f"stride {_size(request.stride)}", found=_size(request.stride),
                       allowed="1" if highest == 1 else f"1 to {highest}, equal in both directions",
                       help="write stride=1 and pool before the convolution, for example FusedMaxPoolConv2dReLU("
                       "..., pool_size=2, pool_stride=2)")


def check_padding(request: LayerRequest, limits: TrainingLimits) -> Findings:
    """Padding is 0 to 2, equal on all sides; the MAX78002 pads one-dimensional data of at most 64 channels."""
    padding = request.padding
    if not (0 <= padding[0] <= MAX_PADDING and len(set(padding)) == 1):
        yield _finding(request, "E0379", f"padding {_size(padding)}", found=_size(padding),
                       allowed=f"0 to {MAX_PADDING}, equal on all sides", help="write padding=1")
    most = limits.max_padded_conv1d_channels
    if request.operator == "Conv1d" and padding[0] and most is not None and request.in_channels > most:
        yield _finding(request, "E0379", f"padding {padding[0]} with {request.in_channels} input channels on "
                       f"{limits.name}", found=padding[0], allowed=f"0 for more than {most} input channels",
                       help="write padding=0")


def check_dilation(request: LayerRequest, limits: TrainingLimits) -> Findings:
    """Two dimensions: up to the limit of the chip. One: (k-1)*dilation < 9, or no padding and k <= 3."""
    dilation, kernel = request.dilation, request.kernel_size
    if request.operator == "Conv1d":
        fits = (kernel[0] - 1) * dilation[0] < MAX_CONV1D_KERNEL
        sparse = request.padding[0] == 0 and kernel[0] <= 3 and dilation[0] <= limits.max_conv1d_dilation
        good = dilation[0] == 1 or (dilation[0] > 1 and (fits or sparse))
        allowed = (f"(kernel - 1) * dilation <= {MAX_CONV1D_KERNEL - 1}, or padding 0, kernel <= 3 and dilation <= "
                   f"{limits.max_conv1d_dilation}")
    else:
        highest = 1 if request.operator != "Conv2d" else limits.max_conv2d_dilation
        good = 1 <= dilation[0] <= highest and len(set(dilation)) == 1
        allowed = "1" if highest == 1 else f"1 to {highest}, equal in both directions"
    if not good:
        yield _finding(request, "E0380", f"dilation {_size(dilation)}", found=_size(dilation), allowed=allowed,
                       help="write dilation=1")


def check_pooling(request: LayerRequest, limits: TrainingLimits) -> Findings:
    """Windows and steps of 1 to 16, equal steps; dilation of maximum pooling only where the chip has it."""
    if request.pooling is None:
        return
    if not all(1 <= v <= MAX_POOL for v in request.pool_size):
        yield _finding(request, "E0381", f"pool_size {_size(request.pool_size)}", found=_size(request.pool_size),
                       allowed=f"1 to {MAX_POOL}", help="pool in two layers")
    if not (all(1 <= v <= MAX_POOL for v in request.pool_stride) and len(set(request.pool_stride)) == 1):
        yield _finding(request, "E0382", f"pool_stride {_size(request.pool_stride)}", found=_size(request.pool_stride),
                       allowed=f"1 to {MAX_POOL}, equal in both directions", help="write pool_stride=2")
    highest = limits.max_pool_dilation if request.pooling == "Max" else 1
    if not all(1 <= v <= highest for v in request.pool_dilation):
        yield _finding(request, "E0383", f"pool_dilation {_size(request.pool_dilation)} on {limits.name}",
                       found=_size(request.pool_dilation), allowed="1" if highest == 1 else f"1 to {highest}",
                       help="write pool_dilation=1")


def check_groups(request: LayerRequest, limits: TrainingLimits) -> Findings:
    """Groups divide both channel counts; a chip without groups computes them as a dense layer (docs/design.md)."""
    del limits
    groups = request.groups
    if groups < 1 or request.in_channels % groups or request.out_channels % groups:
        yield _finding(request, "E0384", f"groups {groups} do not divide the channels", found=groups,
                       allowed="a divisor of in_channels and out_channels", help="write groups=1")


def check_batchnorm(request: LayerRequest, limits: TrainingLimits) -> Findings:
    """BatchNorm is folded into weight and bias, so the layer needs a bias; linear layers have none."""
    del limits
    if request.batchnorm is None:
        return
    if request.operator == "Linear":
        yield _finding(request, "E0385", "a linear layer has no BatchNorm", found=f"batchnorm={request.batchnorm!r}",
                       allowed="None", help="drop batchnorm")
    elif not request.bias:
        yield _finding(request, "E0386", "BatchNorm without bias", found="bias=False",
                       allowed="bias=True, since folding BatchNorm produces a bias", help="write bias=True")


_Check = Callable[[LayerRequest, TrainingLimits], Findings]

_COMMON: tuple[_Check, ...] = (check_choices, check_wide, check_channels, check_batchnorm)
_CONVOLUTION: tuple[_Check, ...] = (check_kernel, check_stride, check_padding, check_dilation, check_pooling,
                                    check_groups)


def check_layer(request: LayerRequest, limits: TrainingLimits) -> None:
    """Apply every rule to one layer.

    Raises:
        UserError: E0372 to E0386, all findings together.
    """
    checks: tuple[_Check, ...]
    if request.operator == "Pool":
        checks = (check_choices, check_pooling)
    elif request.operator == "Linear":
        checks = _COMMON
    else:
        checks = _COMMON + _CONVOLUTION
    findings = [finding for check in checks for finding in check(request, limits)]
    if findings:
        raise UserError(findings)
