"""Kernels, paddings and strides as the chip has them: every exact form of a convolution.

A kernel that is smaller than the chip's is placed among zeros, padding that the chip cannot add is added by a layer
that copies, a stride becomes subsampling. Start at `legal_forms`.

Source: spec/ai8x-training.md section 3.4 (kernels, padding, stride, dilation); spec/max78000-cnn.md section 4.4
(subsampling).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ai8x.nn.conversion.arguments import CONV_OPERATORS, NotPossible, size_text
from ai8x.nn.conversion.graph import Convolution, Operation, Pooling, Shape, output_shape
from ai8x.nn.conversion.read_layers import COPY, RELU
from ai8x.nn.limits import MAX_CONV1D_KERNEL, MAX_PADDING, MAX_POOL, TRANSPOSED_STRIDE

MAX_COPIES = 4
"""Layers in front of a convolution that only add zeros: one ring each."""

_KERNEL = 3

Tolerates = Callable[[Shape, Shape], bool]
"""Whether a result may be larger than wanted, by rows and columns behind its end: (wanted sizes, found sizes)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """One way in which the chip could compute a convolution: kernel, padding and dilation in every direction."""

    kernel: int
    padding: int
    dilation: int = 1


def copying(shape: Shape, *, padding: int = 0) -> Convolution:
    """A layer that copies its input, with rings of zeros around it.

    Args:
        shape: (N, F), (N, C, L) or (N, C, H, W).
        padding: rings.
    """
    channels = shape[1]
    if len(shape) == 2:
        weight = nn.Parameter(torch.eye(channels) * COPY, requires_grad=False)
        return Convolution(operator="Linear", weight=weight, bias=None, copies=True)
    dims = len(shape) - 2
    weight = nn.Parameter(torch.full((channels, 1, *(1,) * dims), COPY), requires_grad=False)
    ones, ends = (1,) * dims, (padding,) * dims
    return Convolution(operator=CONV_OPERATORS[len(shape)], weight=weight, bias=None, kernel=ones, stride=ones,
                       before=ends, after=ends, dilation=ones, groups=channels, copies=True)


def legal_forms(conv: Convolution, shape: Shape, tolerates: Tolerates) -> tuple[Operation, ...]:
    """What the chip computes in place of a convolution, exactly.

    Args:
        conv: any.
        shape: of its input.
        tolerates: whether readers do not see additional rows and columns.

    Returns:
        The convolution itself where it is legal already, else operations in a row.

    Raises:
        NotPossible: E0764, with the nearest form.
    """
    if conv.operator == "Linear":
        return (conv,)
    if conv.is_transposed and set(conv.stride) == {1}:
        conv = _as_plain(conv)
    wanted = output_shape(replace(conv, stride=(1,) * len(conv.stride)) if not conv.is_transposed else conv, shape)[2:]
    if conv.is_transposed:
        return _legal_transposed(conv, shape, wanted, tolerates)
    stride = _step(conv, wanted)
    for copies in range(MAX_COPIES + 1):
        inner = replace(conv, before=tuple(b - copies for b in conv.before),
                        after=tuple(a - copies for a in conv.after))
        for form in _forms(inner):
            found = _placed(inner, form, copies, shape, stride, wanted, tolerates)
            if found:
                return found
        if not any(conv.before) and not any(conv.after):
            break
    raise _too_large(conv, shape)


def _as_plain(conv: Convolution) -> Convolution:
    """A transposed convolution with stride 1 as a convolution with the kernel turned."""
    groups, dims = conv.groups, len(conv.kernel)
    weight = conv.weight.detach().flip(tuple(range(2, 2 + dims)))
    parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).transpose(1, 2)
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel, strict=True)]
    return replace(conv, operator="Conv2d", weight=nn.Parameter(parts.reshape(-1, *parts.shape[2:]).contiguous()),
                   before=tuple(r - b for r, b in zip(reach, conv.before, strict=True)),
                   after=tuple(r - a + o for r, a, o in zip(reach, conv.after, conv.output_padding, strict=True)),
                   output_padding=())


def _step(conv: Convolution, wanted: Shape) -> int:
    """The stride, equal in all directions in which the kernel moves at all.

    Raises:
        NotPossible: E0764.
    """
    steps = {step for step, count in zip(conv.stride, wanted, strict=True) if count > 1} or {1}
    if len(steps) > 1 or max(steps) > MAX_POOL:
        raise NotPossible(f"stride {size_text(conv.stride)}; strides are equal in both directions and at most "
                          f"{MAX_POOL}", code="E0764", help="an equal stride")
    return steps.pop()


def _forms(conv: Convolution) -> Iterator[_Form]:
    """Forms of the chip, the cheapest first."""
    if conv.operator == "Conv2d":
        yield _Form(kernel=1, padding=0)
        yield from (_Form(kernel=_KERNEL, padding=padding) for padding in range(MAX_PADDING + 1))
        return
    kernel, dilation = conv.kernel[0], conv.dilation[0]
    for padding in range(MAX_PADDING + 1):
        reach = (kernel - 1) * dilation
        if padding < kernel and (reach < MAX_CONV1D_KERNEL or (padding == 0 and kernel <= _KERNEL)):
            yield _Form(kernel=kernel, padding=padding, dilation=dilation)
    for size, padding in itertools.product(range(1, MAX_CONV1D_KERNEL + 1), range(MAX_PADDING + 1)):
        if padding < size:
            yield _Form(kernel=size, padding=padding)


def _reach(conv: Convolution, axis: int) -> int:
    """Elements from the first to the last tap."""
    return conv.dilation[axis] * (conv.kernel[axis] - 1) + 1


def _offsets(conv: Convolution, form: _Form) -> Shape | None:
    """Where the kernel lies inside that of a form, or None if it does not fit."""
    offsets = tuple(form.padding - before for before in conv.before)
    if form.dilation > 1:
        same = set(conv.kernel) == {form.kernel} and set(conv.dilation) == {form.dilation}
        return offsets if same and set(offsets) == {0} else None
    fits = all(o >= 0 and o + _reach(conv, axis) <= form.kernel for axis, o in enumerate(offsets))
    return offsets if fits else None


def _placed(conv: Convolution, form: _Form, copies: int, shape: Shape, stride: int, wanted: Shape,
            tolerates: Tolerates) -> tuple[Operation, ...]:
    """A convolution in a form, behind layers that add zeros; nothing where it does not fit."""
    offsets = _offsets(conv, form)
    if offsets is None:
        return ()
    reach = form.dilation * (form.kernel - 1) + 1
    found = tuple(size + 2 * (copies + form.padding) - reach + 1 for size in shape[2:])
    pairs = list(zip(wanted, found, strict=True))
    is_same = all(-(-w // stride) == -(-f // stride) for w, f in pairs)
    if any(f < w for w, f in pairs) or not (is_same or (stride == 1 and tolerates(wanted, found))):
        return ()
    dims = len(shape) - 2
    placed = replace(conv, weight=_embedded(conv, form, offsets), kernel=(form.kernel,) * dims, stride=(1,) * dims,
                     before=(form.padding,) * dims, after=(form.padding,) * dims, dilation=(form.dilation,) * dims)
    rings = tuple(_ring(shape) for _ in range(copies))
    if stride == 1:
        return (*rings, placed)
    step = Pooling(kind="Max", size=(1,) * dims, stride=(stride,) * dims)
    return (*rings, step, placed) if form.kernel == 1 else (*rings, placed, step)


def _ring(shape: Shape) -> Convolution:
    """A copy with one ring of zeros: the kernel's middle is 1, and it reaches over the border."""
    copy = copying(shape, padding=1)
    dims = len(shape) - 2
    form = _Form(kernel=_KERNEL, padding=MAX_PADDING)
    return replace(copy, weight=_embedded(copy, form, (1,) * dims), kernel=(_KERNEL,) * dims,
                   before=(MAX_PADDING,) * dims, after=(MAX_PADDING,) * dims)


def _embedded(conv: Convolution, form: _Form, offsets: Shape) -> Tensor:
    """The weight, itself where nothing changes, else among zeros."""
    dims = len(conv.kernel)
    if conv.kernel == (form.kernel,) * dims and set(offsets) == {0} and conv.dilation == (form.dilation,) * dims:
        return conv.weight
    weight = torch.zeros(*conv.weight.shape[:2], *(form.kernel,) * dims, dtype=conv.weight.dtype,
                         device=conv.weight.device)
    taps = [slice(o, o + _reach(conv, axis), conv.dilation[axis]) for axis, o in enumerate(offsets)]
    weight[(slice(None), slice(None), *taps)] = conv.weight.detach()
    return nn.Parameter(weight, requires_grad=conv.weight.requires_grad)


def _legal_transposed(conv: Convolution, shape: Shape, wanted: Shape, tolerates: Tolerates) -> tuple[Operation, ...]:
    if set(conv.stride) == {TRANSPOSED_STRIDE}:
        for padding in range(MAX_PADDING + 1):
            offsets = _offsets(conv, _Form(kernel=_KERNEL, padding=padding))
            placed = replace(conv, kernel=(_KERNEL,) * 2, before=(padding,) * 2, after=(padding,) * 2, dilation=(1, 1),
                             output_padding=(1, 1))
            found = output_shape(placed, shape)[2:]
            larger = all(f >= w for f, w in zip(found, wanted, strict=True))
            if offsets is not None and larger and (found == wanted or tolerates(wanted, found)):
                return (replace(placed, weight=_embedded(conv, _Form(kernel=_KERNEL, padding=padding), offsets)),)
    doubles = wanted == tuple(2 * size for size in shape[2:])
    raise NotPossible(f"a transposed convolution with kernel {size_text(conv.kernel)}, stride {size_text(conv.stride)} "
                      f"and output padding {size_text(conv.output_padding)}; the chip's have 3x3, stride 2, output "
                      "padding 1", code="E0764",
                      help="ConvTranspose2d with kernel_size=3, stride=2, padding=1, output_padding=1",
                      replacement=(_new_transposed(conv),) if doubles else None)


def _new_transposed(conv: Convolution) -> Convolution:
    fresh = nn.ConvTranspose2d(conv.in_channels, conv.out_channels, 3, stride=2, padding=1, output_padding=1,
                               groups=conv.groups, bias=conv.bias is not None)
    return replace(conv, weight=fresh.weight, bias=fresh.bias, kernel=(3, 3), stride=(2, 2), before=(1, 1),
                   after=(1, 1), dilation=(1, 1), output_padding=(1, 1), copies=False)


_COUNTS = ("no", "one", "two", "three", "four", "five")


def _too_large(conv: Convolution, shape: Shape) -> NotPossible:
    """The refusal of a kernel that has no exact form, with smaller kernels that cover as much."""
    if conv.copies:
        return NotPossible(f"{_ends_text(conv)}: the chip adds and drops the same on all sides", code="E0763",
                           help="the same border on all sides, or sizes that need none")
    reason = f"kernel {size_text(conv.kernel)}"
    if set(conv.dilation) != {1}:
        reason += f" with dilation {size_text(conv.dilation)}"
    if any(conv.before) or any(conv.after):
        reason += f" and {_ends_text(conv)}"
    is_flat = conv.operator == "Conv1d"
    limit = f"1 to {MAX_CONV1D_KERNEL} elements" if is_flat else "1x1 and 3x3"
    stack = _stack(conv, shape)
    nearest = f"one {'length 3' if is_flat else '3x3'} convolution with padding=1, whose result has another size"
    if stack is not None:
        number, size = len(stack.paddings), f"length {stack.kernel}" if is_flat else size_text((stack.kernel,) * 2)
        count = _COUNTS[number] if number < len(_COUNTS) else str(number)
        nearest = f"{count} {size} convolution{'s' if number > 1 else ' with equal padding'}"
    return NotPossible(f"{reason} has no exact form; the chip's kernels have {limit}, padding up to {MAX_PADDING}",
                       code="E0764", help=nearest, replacement=None if stack is None else _smaller_kernels(conv, stack))


def _ends_text(conv: Convolution) -> str:
    """The padding in words."""
    if conv.before == conv.after:
        return f"padding {size_text(conv.before)}"
    return f"padding {size_text(conv.before)} in front and {size_text(conv.after)} behind"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stack:
    """Convolutions of one kernel size in a row.

    Args:
        kernel: size.
        paddings: of each.
    """

    kernel: int
    paddings: tuple[int, ...]


def _stack(conv: Convolution, shape: Shape) -> _Stack | None:
    """The fewest kernels of the chip that see as much and make the same shape, or None."""
    reach = max(_reach(conv, axis) for axis in range(len(conv.kernel)))
    kernels = range(2, MAX_CONV1D_KERNEL + 1) if conv.operator == "Conv1d" else (_KERNEL,)
    wanted = output_shape(conv, shape)[2:]
    for number, kernel in itertools.product(range(1, _MAX_STACK + 1), kernels):
        if number * (kernel - 1) < reach - 1:
            continue
        for total in range(number * min(MAX_PADDING, kernel - 1) + 1):
            steps = zip(shape[2:], conv.stride, strict=True)
            found = tuple((n + 2 * total - number * (kernel - 1) - 1) // step + 1 for n, step in steps)
            if found == wanted and len(set(conv.stride)) == 1:
                paddings = tuple(total // number + (position < total % number) for position in range(number))
                return _Stack(kernel=kernel, paddings=paddings)
    return None


_MAX_STACK = 8


def _smaller_kernels(conv: Convolution, stack: _Stack) -> tuple[Operation, ...]:
    """Convolutions in place of a larger one: new ones with ReLU between them, or one with the same kernel inside."""
    chain: list[Operation] = []
    if len(stack.paddings) == 1:
        chain.append(_centred(conv, stack.kernel, stack.paddings[0]))
    else:
        for position, padding in enumerate(stack.paddings):
            inputs = conv.out_channels if position else conv.in_channels
            chain += [RELU, _fresh(conv, inputs, stack.kernel, padding)]
        del chain[0]
    if set(conv.stride) != {1}:
        chain.append(Pooling(kind="Max", size=(1,) * len(conv.stride), stride=conv.stride))
    return tuple(chain)


def chain_shape(chain: Iterable[Operation], shape: Shape) -> Shape:
    """The shape that operations in a row make; cut short where nothing is left."""
    for operation in chain:
        shape = output_shape(operation, shape)
        if min(shape) < 1:
            break
    return shape


def _centred(conv: Convolution, unit: int, padding: int) -> Convolution:
    """A convolution with the same kernel in the middle of that of the chip, and equal padding."""
    dims = len(conv.kernel)
    offsets = tuple((unit - _reach(conv, axis)) // 2 for axis in range(dims))
    ends, ones = (padding,) * dims, (1,) * dims
    return replace(conv, weight=_embedded(conv, _Form(kernel=unit, padding=padding), offsets), kernel=(unit,) * dims,
                   stride=ones, before=ends, after=ends, dilation=ones)


def _fresh(conv: Convolution, inputs: int, unit: int, padding: int) -> Convolution:
    """A convolution with weights of its own."""
    dims = len(conv.kernel)
    kind = nn.Conv1d if dims == 1 else nn.Conv2d
    groups = conv.groups if inputs % conv.groups == 0 else 1
    fresh = kind(inputs, conv.out_channels, unit, groups=groups, bias=conv.bias is not None)
    ends, ones = (padding,) * dims, (1,) * dims
    return Convolution(operator=conv.operator, weight=fresh.weight, bias=fresh.bias, kernel=(unit,) * dims,
                       stride=ones, before=ends, after=ends, dilation=ones, groups=groups)
