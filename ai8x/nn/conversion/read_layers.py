"""Readers of layers with parameters, activations and dropout: from a call to operations of the graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ai8x.nn.conversion.arguments import CONV_OPERATORS, Arguments, NotPossible, Reading
from ai8x.nn.conversion.capture import Call
from ai8x.nn.conversion.graph import (
    Activate,
    Convolution,
    Drop,
    HostFunction,
    Identity,
    Norm,
    Operation,
    Ready,
    Shape,
)
from ai8x.nn.functional import ActivationKind

RELU = Activate(kind=ActivationKind.RELU)

COPY = float(torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)))
"""Weight of layers that copy: just above 1, so that 8-bit weights hold 64/128 and the output shift doubles it. A weight
of exactly 1 would saturate at 127/128 (spec/ai8x-training.md section 5.1)."""

Reader = Callable[[Call], Reading]


def parameter(tensor: Tensor | None) -> Tensor | None:
    """A parameter of the model as it is; anything computed becomes a parameter of its own."""
    if tensor is None or isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor.detach().clone())


def _ends(padding: object, kernel: Shape, dilation: Shape, arguments: Arguments) -> tuple[Shape, Shape]:
    """Zeros in front and behind."""
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)
    if padding == "valid":
        return (0,) * len(kernel), (0,) * len(kernel)
    sizes = arguments.sizes("padding", 0)
    return sizes, sizes


def _weight(call: Call, arguments: Arguments) -> Tensor:
    weight = arguments.get("weight")
    if not isinstance(weight, Tensor):
        raise NotPossible("the weights are computed from the data", help="a convolution with fixed weights")
    stored = parameter(weight)
    assert stored is not None
    return stored


def read_convolution(call: Call) -> Reading:
    """nn.Conv1d, nn.Conv2d and their functions."""
    arguments = Arguments(call, "input weight bias stride padding dilation groups")
    if arguments.dims not in (1, 2):
        raise NotPossible("data has one or two dimensions besides batch and channels",
                          help="Conv2d of frames or slices as channels")
    weight = _weight(call, arguments)
    kernel = tuple(weight.shape[2:])
    dilation = arguments.sizes("dilation", 1)
    before, after = _ends(arguments.get("padding", 0), kernel, dilation, arguments)
    conv = Convolution(operator=CONV_OPERATORS[len(arguments.shape)], weight=weight,
                       bias=parameter(arguments.get("bias")), kernel=kernel, stride=arguments.sizes("stride", 1),
                       before=before, after=after, dilation=dilation, groups=int(arguments.get("groups", 1)))
    if arguments.get("padding_mode", "zeros") != "zeros":
        raise NotPossible(f"the chip pads with zeros, not with padding_mode='{arguments.get('padding_mode')}'",
                          help="padding with zeros", replacement=(conv,))
    return Reading(operations=(conv,))


def read_transposed(call: Call) -> Reading:
    """nn.ConvTranspose2d and its function."""
    arguments = Arguments(call, "input weight bias stride padding output_padding groups dilation")
    if arguments.dims != 2:
        raise NotPossible("transposed convolutions have two dimensions", help="data of one row, (N, C, 1, L)")
    weight = _weight(call, arguments)
    padding = arguments.sizes("padding", 0)
    extra = tuple(out - free for out, free in zip(arguments.out_shape[2:], _without_extra(arguments, weight, padding),
                                                  strict=True))
    return Reading(operations=(Convolution(
        operator="ConvTranspose2d", weight=weight, bias=parameter(arguments.get("bias")),
        kernel=tuple(weight.shape[2:]), stride=arguments.sizes("stride", 1), before=padding, after=padding,
        dilation=arguments.sizes("dilation", 1), groups=int(arguments.get("groups", 1)), output_padding=extra),))


def _without_extra(arguments: Arguments, weight: Tensor, padding: Shape) -> Shape:
    """Size of the result of a transposed convolution without output padding."""
    axes = zip(arguments.shape[2:], weight.shape[2:], arguments.sizes("stride", 1), padding,
               arguments.sizes("dilation", 1), strict=True)
    return tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, k, s, p, d in axes)


def read_linear(call: Call) -> Reading:
    """nn.Linear and its function."""
    arguments = Arguments(call, "input weight bias")
    if len(arguments.shape) != 2:
        raise NotPossible(f"a linear layer along the last of {len(arguments.shape)} dimensions", code="E0762",
                          help="a 1x1 convolution of data with the channels in front")
    return Reading(operations=(Convolution(operator="Linear", weight=_weight(call, arguments),
                                           bias=parameter(arguments.get("bias"))),))


def read_batchnorm(call: Call) -> Reading:
    """nn.BatchNorm1d and nn.BatchNorm2d."""
    module = call.target
    if not isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        raise NotPossible("the statistics of BatchNorm must belong to a module", help="nn.BatchNorm2d")
    if module.running_mean is None or module.running_var is None:
        raise NotPossible("BatchNorm without running statistics cannot be folded into a layer",
                          help="track_running_stats=True")
    return Reading(operations=(Norm(module=module),))


def read_relu(call: Call) -> Reading:
    """ReLU in all its spellings."""
    return Reading(operations=(RELU,))


def read_abs(call: Call) -> Reading:
    """Absolute value."""
    return Reading(operations=(Activate(kind=ActivationKind.ABS),))


def read_clamp(call: Call) -> Reading:
    """ReLU6, Hardtanh and clamp: ReLU where the lower limit is 0."""
    arguments = Arguments(call, "input min max")
    low, high = _limits(call, arguments)
    if low == 0.0 and high == math.inf:
        return Reading(operations=(RELU,))
    if low == 0.0:
        text = (f"values above {high:g} are cut by the range of the chip's numbers only, which quantisation chooses; "
                "until then the layer is a ReLU")
        return Reading(operations=(RELU,), notices=((text, ""),), is_inexact=True)
    raise NotPossible(f"values cannot be limited to {low:g} to {high:g}", help="ReLU", replacement=(RELU,))


def _limits(call: Call, arguments: Arguments) -> tuple[float, float]:
    if isinstance(call.target, (nn.ReLU6, str)) and call.name.lower().startswith("relu6"):
        return 0.0, 6.0
    low = arguments.get("min_val", arguments.get("min", arguments.get("min_value")))
    high = arguments.get("max_val", arguments.get("max"))
    if call.name.lower().startswith("hardtanh"):
        low, high = -1.0 if low is None else low, 1.0 if high is None else high
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        raise NotPossible("limits that are tensors", help="ReLU", replacement=(RELU,))
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def read_other_activation(call: Call) -> Reading:
    """Activations that the chip does not have."""
    raise NotPossible(f"the chip has no {call.name}; its activations are ReLU and Abs", help="ReLU",
                      replacement=(RELU,))


def read_dropout(call: Call) -> Reading:
    """Dropout; functions become modules, so that training and evaluation differ as they should."""
    if isinstance(call.target, nn.Module):
        return Reading(operations=(Drop(module=call.target),))
    arguments = Arguments(call, "input p training inplace")
    kind = nn.Dropout2d if call.name == "dropout2d" else nn.Dropout
    return Reading(operations=(Drop(module=kind(float(arguments.get("p", 0.5)))),))


def read_host_function(call: Call) -> Reading:
    """Functions that may stand behind the last layer."""
    return Reading(operations=(HostFunction(name=call.name.lower()),))


def read_identity(call: Call) -> Reading:
    """Functions that pass their operand on."""
    return Reading(operations=(Identity(),))


def read_ready(call: Call) -> Reading:
    """Layers of ours."""
    assert isinstance(call.target, nn.Module)
    return Reading(operations=(Ready(module=call.target),))


def _new_norm(shape: Shape) -> Operation:
    norm: nn.BatchNorm1d | nn.BatchNorm2d = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(shape[1])
    return Norm(module=norm)


def read_other_norm(call: Call) -> Reading:
    """Normalisations that depend on the sample itself."""
    shape = call.operands()[0].shape
    fits = 2 <= len(shape) <= 4
    raise NotPossible(f"{call.name} normalises by statistics of every sample, which no layer computes",
                      help="BatchNorm", replacement=(_new_norm(shape),) if fits else None)


_RECURRENT = "a stack of one-dimensional convolutions (TCN) over a window of the sequence"
_CHANNELS = "convolutions, which mix channels with fixed weights"

HOPELESS: Mapping[str, tuple[str, str]] = {
    "LSTM": ("recurrent layers keep a state and multiply activations", _RECURRENT),
    "GRU": ("recurrent layers keep a state and multiply activations", _RECURRENT),
    "RNN": ("recurrent layers keep a state", _RECURRENT),
    "LSTMCell": ("recurrent layers keep a state and multiply activations", _RECURRENT),
    "GRUCell": ("recurrent layers keep a state and multiply activations", _RECURRENT),
    "MultiheadAttention": ("attention multiplies activations by activations", _CHANNELS),
    "TransformerEncoderLayer": ("attention multiplies activations by activations", _CHANNELS),
    "TransformerDecoderLayer": ("attention multiplies activations by activations", _CHANNELS),
    "scaled_dot_product_attention": ("attention multiplies activations by activations", _CHANNELS),
    "matmul": ("the chip multiplies activations by weights, not by activations", _CHANNELS),
    "bmm": ("the chip multiplies activations by weights, not by activations", _CHANNELS),
    "einsum": ("the chip multiplies activations by weights, not by activations", _CHANNELS),
    "Embedding": ("there are no look-up tables", "one-hot channels and a 1x1 convolution"),
    "Conv3d": ("data has one or two dimensions besides batch and channels", "Conv2d of frames as channels"),
    "ConvTranspose1d": ("transposed convolutions have two dimensions", "ConvTranspose2d of data with one row"),
    "ConvTranspose3d": ("transposed convolutions have two dimensions", "ConvTranspose2d"),
    "Bilinear": ("the chip multiplies activations by weights, not by activations", "concatenation and Linear"),
    "permute": ("the order of the dimensions cannot be changed between layers", "data with the channels in front"),
    "transpose": ("the order of the dimensions cannot be changed between layers", "data with the channels in front"),
    "chunk": ("a layer reads all channels of its input", "two convolutions with half of the outputs each"),
    "split": ("a layer reads all channels of its input", "two convolutions with half of the outputs each"),
    "roll": ("the order of elements cannot be changed", "a convolution with a shifted kernel"),
    "channel_shuffle": ("the order of the channels cannot be changed", "a 1x1 convolution without groups"),
    "GLU": ("the chip multiplies activations by weights, not by activations", "ReLU"),
    "prelu": ("the chip has no PReLU; its activations are ReLU and Abs", "ReLU"),
}
"""Module or function -> reason, nearest form. None of them can be put in automatically."""


def refuse(call: Call) -> Reading:
    """Anything else."""
    reason, nearest = HOPELESS.get(call.name, (f"no layer of the chip computes {call.name}", ""))
    raise NotPossible(reason, help=nearest)
