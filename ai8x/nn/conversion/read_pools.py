"""Readers of pooling: windows as the chip has them, with paddings, ceilings and large windows made of what it has.

Source: spec/ai8x-training.md section 3.4 (pool size and stride).
"""

from __future__ import annotations

import math
from dataclasses import replace

from ai8x.nn.conversion.arguments import Arguments, NotPossible, Reading, size_text
from ai8x.nn.conversion.capture import Call
from ai8x.nn.conversion.graph import Operation, Padding, Pooling, Reshape, Shape, output_shape
from ai8x.nn.limits import MAX_POOL


def read_pool(call: Call) -> Reading:
    """Maximum and average pooling of one and two dimensions."""
    kind = _kind(call)
    names = "input kernel_size stride padding " + ("dilation ceil_mode" if kind == "Max" else
                                                   "ceil_mode count_include_pad divisor_override")
    arguments = Arguments(call, names)
    _check_dimensions(arguments)
    size = arguments.sizes("kernel_size")
    pool = Pooling(kind=kind, size=size, stride=arguments.sizes("stride", size) or size)
    padding = arguments.sizes("padding", 0)
    if kind == "Max" and set(arguments.sizes("dilation", 1)) != {1}:
        raise NotPossible("windows of maximum pooling have no gaps", code="E0763", help="dilation 1")
    if kind == "Avg" and any(padding) and not arguments.get("count_include_pad", True):
        raise NotPossible("the average of fewer elements at the border", code="E0763",
                          help="count_include_pad=True")
    if arguments.get("divisor_override"):
        raise NotPossible("another divisor than the size of the window", code="E0763", help="the plain average")
    before, after = padding, _ends_behind(pool, padding, arguments)
    if kind == "Avg" and after != before:
        raise NotPossible("averages of incomplete windows (ceil_mode)", code="E0763", help="ceil_mode=False")
    shape = arguments.shape
    operations: list[Operation] = []
    if any(before) or any(after):
        operations.append(Padding(before=before, after=after, is_lowest=kind == "Max"))
        shape = output_shape(operations[0], shape)
    return Reading(operations=(*operations, *allowed_pools(pool, shape)))


def _kind(call: Call) -> str:
    return "Max" if "max" in call.name.lower() else "Avg"


def _check_dimensions(arguments: Arguments) -> None:
    if arguments.dims not in (1, 2):
        raise NotPossible("data has one or two dimensions besides batch and channels", help="MaxPool2d")
    if len(arguments.call.result) > 1:
        raise NotPossible("pooling does not tell where the maximum was", code="E0763", help="return_indices=False")


def _ends_behind(pool: Pooling, padding: Shape, arguments: Arguments) -> Shape:
    """Padding behind the data, more of it where ``ceil_mode`` makes a last window that begins inside."""
    ends = []
    axes = zip(arguments.shape[2:], arguments.out_shape[2:], pool.size, pool.stride, padding, strict=True)
    for size, out, window, stride, pad in axes:
        needed = (out - 1) * stride + window - size - pad
        ends.append(max(pad, needed))
    return tuple(ends)


def allowed_pools(pool: Pooling, shape: Shape) -> tuple[Pooling, ...]:
    """The same pooling as the chip has it: equal steps, windows up to 16, two in a row where they are larger.

    Args:
        pool: as written.
        shape: of the data.

    Raises:
        NotPossible: E0763.
    """
    counts = output_shape(pool, shape)[2:]
    stride = _equal_stride(pool, shape)
    if max(pool.size) <= MAX_POOL:
        return (replace(pool, stride=stride),)
    whole = all(count == 1 or step == window
                for count, step, window in zip(counts, pool.stride, pool.size, strict=True))
    common = math.gcd(*pool.size)
    for first in range(2, MAX_POOL + 1):
        rest = tuple(window // first for window in pool.size)
        if whole and common % first == 0 and max(rest) <= MAX_POOL:
            dims = len(pool.size)
            early = Pooling(kind=pool.kind, size=(first,) * dims, stride=(first,) * dims)
            return (early, *allowed_pools(Pooling(kind=pool.kind, size=rest, stride=rest), output_shape(early, shape)))
    raise NotPossible(f"a window of {size_text(pool.size)}; windows have up to {MAX_POOL} rows and columns",
                      code="E0763", help=f"a window of up to {MAX_POOL}x{MAX_POOL}, or two poolings in a row")


def _equal_stride(pool: Pooling, shape: Shape) -> Shape:
    """Equal steps; in a dimension with one result any step will do that leaves no room for a second.

    Raises:
        NotPossible: E0763.
    """
    counts = output_shape(pool, shape)[2:]
    axes = list(zip(shape[2:], pool.size, pool.stride, counts, strict=True))
    least = max((size - window + 1 for size, window, _, count in axes if count == 1), default=1)
    steps = {step for _, _, step, count in axes if count > 1} or {max(least, min(*pool.stride, MAX_POOL))}
    if len(steps) > 1 or not least <= max(steps) <= MAX_POOL:
        raise NotPossible(f"steps of {size_text(pool.stride)}; steps are equal in both directions and at most "
                          f"{MAX_POOL}", code="E0763", help="equal steps")
    return (steps.pop(),) * len(pool.stride)


def read_adaptive_pool(call: Call) -> Reading:
    """Adaptive pooling, where all windows have the same size."""
    arguments = Arguments(call, "input output_size")
    _check_dimensions(arguments)
    windows = []
    for size, count in zip(arguments.shape[2:], arguments.out_shape[2:], strict=True):
        if size % count:
            raise NotPossible(f"{size} elements in {count} windows of different sizes", code="E0763",
                              help=f"an output size that divides {size}")
        windows.append(size // count)
    pool = Pooling(kind=_kind(call), size=tuple(windows), stride=tuple(windows))
    return Reading(operations=allowed_pools(pool, arguments.shape))


def read_mean(call: Call) -> Reading:
    """Mean and greatest value over all rows and columns: global pooling."""
    arguments = Arguments(call, "input dim keepdim")
    dims = arguments.get("dim", ())
    rank = len(arguments.shape)
    listed = {int(d) % rank for d in (dims if isinstance(dims, (tuple, list)) else (dims,))}
    if rank not in (3, 4) or listed != set(range(2, rank)):
        raise NotPossible(f"{call.name} over the dimensions {dims}", code="E0763",
                          help="the mean over all rows and columns, which is AvgPool")
    window = arguments.shape[2:]
    kind = "Max" if call.name == "amax" else "Avg"
    operations: tuple[Operation, ...] = allowed_pools(Pooling(kind=kind, size=window, stride=window), arguments.shape)
    if len(arguments.out_shape) != rank:
        operations = (*operations, Reshape())
    return Reading(operations=operations)
