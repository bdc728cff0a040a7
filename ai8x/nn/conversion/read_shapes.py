"""Readers of what lies between layers: shapes, concatenation, sums, borders, enlarging."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ai8x.nn.conversion.arguments import CONV_OPERATORS, Arguments, NotPossible, Reading, size_text
from ai8x.nn.conversion.capture import Call, Ref
from ai8x.nn.conversion.graph import Combine, Concatenate, Convolution, Identity, Padding, Pooling, Reshape, Shape
from ai8x.nn.conversion.read_layers import COPY


def read_reshape(call: Call) -> Reading:
    """Flattening and other changes of shape that keep the batch."""
    before, after = call.operands()[0].shape, call.result[0].shape
    if before[0] != after[0]:
        raise NotPossible(f"a change of shape from {size_text(before)} to {size_text(after)} that mixes samples",
                          code="E0762", help="flatten(1)")
    return Reading(operations=(Reshape(),))


def read_concatenation(call: Call) -> Reading:
    """Concatenation along the channels."""
    arguments = Arguments(call, "tensors dim")
    parts, dim = arguments.get("tensors"), int(arguments.get("dim", arguments.get("axis", 0)))
    if not all(isinstance(part, Ref) for part in parts):
        raise NotPossible("a concatenation with a constant", code="E0762", help="more input channels")
    if dim % len(parts[0].shape) != 1:
        raise NotPossible(f"a concatenation along dimension {dim}", code="E0762",
                          help="concatenation along the channels, dim=1")
    return Reading(operations=(Concatenate() if len(parts) > 1 else Identity(),))


def read_sum(call: Call) -> Reading:
    """Sums and differences of two tensors, or of a tensor and constants per channel."""
    arguments = Arguments(call, "input other")
    left, right = arguments.get("input"), arguments.get("other")
    if float(arguments.get("alpha", 1)) != 1.0:
        raise NotPossible("a sum with a factor", help="the plain sum")
    is_difference = call.name in ("sub", "subtract", "rsub")
    if call.name == "rsub":
        left, right = right, left
    if isinstance(left, Ref) and isinstance(right, Ref):
        if left.shape != right.shape:
            raise NotPossible(f"operands of the shapes {size_text(left.shape[1:])} and {size_text(right.shape[1:])}",
                              code="E0762", help="operands of one shape")
        return Reading(operations=(Combine(operator="Sub" if is_difference else "Add"),))
    sign = -1.0 if is_difference else 1.0
    if isinstance(left, Ref):
        return scaled(left.shape, 1.0, _multiplied(right, sign))
    return scaled(right.shape, sign, left)


def _multiplied(value: Tensor | float, factor: float) -> Tensor | float:
    return value * factor


def read_product(call: Call) -> Reading:
    """Products and quotients with constants."""
    arguments = Arguments(call, "input other")
    left, right = arguments.get("input"), arguments.get("other")
    if isinstance(left, Ref) and isinstance(right, Ref):
        raise NotPossible("the chip multiplies activations by weights, not by activations (gates, squeeze-and-excite)",
                          help="leaving the gate out", replacement=(Identity(),))
    if call.name in ("div", "true_divide", "truediv"):
        if not isinstance(left, Ref):
            raise NotPossible("a division by activations", help="a product with a constant")
        right = 1.0 / right
    operand, factor = (left, right) if isinstance(left, Ref) else (right, left)
    return scaled(operand.shape, factor, 0.0)


def read_negation(call: Call) -> Reading:
    """Negative values."""
    return scaled(call.operands()[0].shape, -1.0, 0.0)


def scaled(shape: Shape, factor: Tensor | float, offset: Tensor | float) -> Reading:
    """A product and a sum with constants per channel, as a depthwise 1x1 convolution.

    Raises:
        NotPossible: E0762 where the constants differ within a channel, or the data has no channels.
    """
    if not isinstance(factor, Tensor) and not isinstance(offset, Tensor) and (factor, offset) == (1, 0):
        return Reading(operations=(Identity(),))
    if len(shape) not in CONV_OPERATORS:
        raise NotPossible("arithmetic with constants on features", code="E0762",
                          help="the factor in the weights of the linear layer")
    channels, dims = shape[1], len(shape) - 2
    weight, bias = (_per_channel(value, shape) for value in (factor, offset))
    weight = torch.full_like(weight, COPY) if bool((weight == 1).all()) else weight
    conv = Convolution(
        operator=CONV_OPERATORS[len(shape)], weight=nn.Parameter(weight.reshape(channels, 1, *(1,) * dims)),
        bias=nn.Parameter(bias) if bool(bias.any()) else None, kernel=(1,) * dims, stride=(1,) * dims,
        before=(0,) * dims, after=(0,) * dims, dilation=(1,) * dims, groups=channels)
    return Reading(operations=(conv,))


def _per_channel(value: Tensor | float, shape: Shape) -> Tensor:
    """One number per channel."""
    tensor = torch.as_tensor(value, dtype=torch.float32).detach()
    rest = (1,) * (len(shape) - 2)
    try:
        full = tensor.expand(1, shape[1], *rest)
    except RuntimeError:
        raise NotPossible("constants that differ from pixel to pixel", code="E0762",
                          help="one constant for every channel") from None
    return full.reshape(-1).clone()


def read_padding(call: Call) -> Reading:
    """Zeros around the data."""
    arguments = Arguments(call, "input pad mode value")
    ends = tuple(int(v) for v in arguments.get("padding" if isinstance(call.target, nn.Module) else "pad"))
    used = ends[: 2 * arguments.dims]
    used += (0,) * (2 * arguments.dims - len(used))
    if any(ends[2 * arguments.dims:]):
        raise NotPossible("padding of channels", help="more output channels of the layer before")
    padding = Padding(before=used[::2][::-1], after=used[1::2][::-1])
    what = str(arguments.get("mode", call.name)).lower()
    if "reflect" in what or "replicat" in what or "circular" in what or arguments.get("value", 0.0) != 0.0:
        raise NotPossible("the chip pads with zeros", code="E0763", help="padding with zeros",
                          replacement=(padding,))
    return Reading(operations=(padding,))


def read_slice(call: Call) -> Reading:
    """Slices of rows and columns: what is cut off at the borders, and every n-th element."""
    arguments = Arguments(call, "input index")
    index = arguments.get("index")
    shape = arguments.shape
    listed = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in listed:
        position = listed.index(Ellipsis)
        listed[position: position + 1] = [slice(None)] * (len(shape) - len(listed) + 1)
    listed += [slice(None)] * (len(shape) - len(listed))
    if not all(isinstance(part, slice) for part in listed) or listed[:2] != [slice(None)] * 2 or len(shape) < 3:
        raise NotPossible("only rows and columns can be cut off", code="E0762",
                          help="a slice such as x[:, :, 1:-1], or a convolution with fewer outputs")
    ranges = [range(size)[part] for size, part in zip(shape[2:], listed[2:], strict=True)]
    steps = tuple(part.step for part in ranges)
    operations: list[Padding | Pooling] = []
    before = tuple(-part.start for part in ranges)
    # Subsampling passes over elements behind its last one, unless there are so many that it would take another.
    after = tuple(min(0, part[-1] + part.step - size) for part, size in zip(ranges, shape[2:], strict=True))
    if any(before) or any(after):
        operations.append(Padding(before=before, after=after))
    if set(steps) != {1}:
        operations.append(Pooling(kind="Max", size=(1,) * len(steps), stride=steps))
    return Reading(operations=tuple(operations) or (Identity(),))


def read_enlargement(call: Call) -> Reading:
    """Upsampling by 2 to the nearest element: a transposed convolution that repeats every element."""
    arguments = Arguments(call, "input size scale_factor mode")
    shape, out = arguments.shape, arguments.out_shape
    if len(shape) != 4 or out[2:] != (2 * shape[2], 2 * shape[3]):
        raise NotPossible(f"enlarging from {size_text(shape[2:])} to {size_text(out[2:])}", code="E0763",
                          help="enlarging by 2 in both directions, once or several times")
    weight = torch.full((shape[1], 1, 2, 2), COPY)
    repeat = _doubling(weight, groups=shape[1])
    if arguments.get("mode", "nearest") not in ("nearest", "nearest-exact"):
        raise NotPossible(f"interpolation ({arguments.get('mode')})", code="E0763",
                          help="the nearest element, or a transposed convolution that learns",
                          replacement=(repeat,))
    return Reading(operations=(repeat,))


def read_pixel_shuffle(call: Call) -> Reading:
    """Channels to pixels by 2: a transposed convolution with one weight for every output."""
    shape, out = call.operands()[0].shape, call.result[0].shape
    if len(shape) != 4 or out[2:] != (2 * shape[2], 2 * shape[3]):
        raise NotPossible("pixels are made of channels by 2 only", code="E0763", help="upscale_factor=2")
    weight = torch.zeros(shape[1], out[1], 2, 2)
    for channel in range(shape[1]):
        target, place = divmod(channel, 4)
        weight[channel, target, place // 2, place % 2] = COPY
    return Reading(operations=(_doubling(weight, groups=1),))


def _doubling(weight: Tensor, groups: int) -> Convolution:
    """A transposed convolution that doubles rows and columns with a 2x2 kernel."""
    return Convolution(operator="ConvTranspose2d", weight=nn.Parameter(weight, requires_grad=False), bias=None,
                       kernel=(2, 2), stride=(2, 2), before=(0, 0), after=(0, 0), dilation=(1, 1), groups=groups,
                       output_padding=(0, 0), copies=True)
