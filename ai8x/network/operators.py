"""From an entry's keys to pooling and convolution, with the defaults of the description language.

Owns what each operator allows a file to say. Knows no parameters and no chip. Start at `operator_geometry`.

Source: spec/max78000-cnn.md section 7.2 (defaults) and 6.1 (which keys belong to which operator).
"""

from __future__ import annotations

from dataclasses import dataclass

from ai8x.errors import UserError
from ai8x.network.ir import Activation, ConvSpec, Op, Pool, PoolSpec, TensorShape
from ai8x.network.yaml_file import LayerEntry
from ai8x.network.yaml_keys import Subject
from ai8x.network.yaml_nodes import show_text
from ai8x.network.yaml_values import Extent

_DEFAULT_KERNEL = {Op.CONV2D: (3, 3), Op.CONV1D: (9, 1), Op.CONV_TRANSPOSE2D: (3, 3), Op.LINEAR: (1, 1)}
_DEFAULT_PAD = {Op.CONV2D: 1, Op.CONV1D: 1, Op.CONV_TRANSPOSE2D: 1, Op.LINEAR: 0}
_TRANSPOSED_STRIDE = 2
_TRANSPOSED_OUTPUT_PAD = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Pooling and convolution of a layer, and the rows and columns that they make of the operand."""

    pool: PoolSpec
    conv: ConvSpec | None
    out_height: int
    out_width: int


def entry_op(entry: LayerEntry) -> Op:
    """The operator; Conv2d where the file is silent."""
    return entry.op or Op.CONV2D


def has_own_weights(entry: LayerEntry) -> bool:
    """Whether the checkpoint holds parameters of the layer's own."""
    return entry_op(entry).has_weights and entry.weight_source is None and entry.unit_weights is None


def entry_subject(entry: LayerEntry, name: str = "") -> Subject:
    """The layer as the subject of messages."""
    return Subject(what="a layer", source=entry.source, layer=name or entry.name or f"layer{entry.position}",
                   layer_index=entry.position)


def problem(entry: LayerEntry, code: str, message: str, *keys: str, found: str = "", allowed: str = "",
            help: str = "") -> UserError:
    """An error at the first of these keys that the layer has; `found` is what stands there unless given."""
    key = next((key for key in keys if key in entry.sources), "")
    place = entry.place(*keys)
    typed = f"{key}: {show_text(place.underlined)}" if key and place.underlined else "the default"
    return UserError(entry_subject(entry).finding(code, message, place, found=found or typed, allowed=allowed,
                                                  help=help))


def operator_geometry(entry: LayerEntry, operand: TensorShape) -> Geometry:
    """Pooling and convolution of an entry.

    Args:
        entry: the keys.
        operand: shape (C, H, W) of each operand, before pooling.

    Raises:
        UserError: E0238 a key that the operator does not have, E0237 a window or kernel larger than the data.
    """
    op = entry_op(entry)
    if op is Op.CONV1D and operand.width != 1:
        raise problem(entry, "E0235", "Conv1d needs 1-D data", "in_dim", "op", found=f"data of shape {operand}",
                      allowed="a width of 1", help=f"write in_dim: {operand.height * operand.width}")
    _refuse_foreign_keys(entry, op)
    pool = _pool(entry, op, operand)
    pooled = pool.output_size(operand.height, operand.width)
    if min(pooled) < 1:
        raise problem(entry, "E0237", "the pooling window is larger than the data", "max_pool", "avg_pool",
                      found=f"{pool.window[0]}x{pool.window[1]} on data of {operand.height}x{operand.width}",
                      allowed="at most the size of the data", help="write a smaller window")
    if op is Op.PASSTHROUGH:
        return Geometry(pool=pool, conv=None, out_height=pooled[0], out_width=pooled[1])
    conv = _conv(entry, op)
    data = (1, 1) if entry.flatten else pooled
    height, width = conv.output_size(*data, is_transposed=op is Op.CONV_TRANSPOSE2D)
    if min(height, width) < 1:
        kernel = f"{conv.kernel[0]}x{conv.kernel[1]}, padding {conv.padding[0]}, dilation {conv.dilation[0]}"
        raise problem(entry, "E0237", "the kernel does not fit the data", "kernel_size", "pad",
                      found=f"kernel {kernel} on data of {data[0]}x{data[1]}",
                      allowed="an output of at least one row and column",
                      help="write a smaller kernel_size, or change pad:")
    return Geometry(pool=pool, conv=conv, out_height=height, out_width=width)


def _is_unit_kernel(entry: LayerEntry) -> bool:
    """A 1x1 kernel without padding, groups and foreign weights."""
    return (entry.kernel_size is not None and _is_one(entry.kernel_size) and entry.pad == 0
            and (entry.groups or 1) == 1 and entry.weight_source is None)


def _is_one(extent: Extent | None) -> bool:
    return extent is None or set(extent) == {1}


def _refuse_foreign_keys(entry: LayerEntry, op: Op) -> None:
    """Keys with a value that has no meaning for the operator."""
    is_pass = op is Op.PASSTHROUGH
    is_point = is_pass or op is Op.LINEAR
    is_transposed = op is Op.CONV_TRANSPOSE2D
    rules: tuple[tuple[str, bool, str], ...] = (
        ("kernel_size", is_point and not _is_one(entry.kernel_size), "1x1"),
        ("pad", is_point and bool(entry.pad), "0"),
        ("stride", is_point and not _is_one(entry.stride), "1"),
        ("dilation", (is_point or is_transposed) and not _is_one(entry.dilation), "1"),
        ("groups", is_point and (entry.groups or 1) > 1, "1"),
        ("activate", is_pass and entry.activate not in (None, Activation.NONE), "None"),
        ("output_shift", is_pass and bool(entry.output_shift), "0"),
        ("output_width", is_pass and entry.output_width == 32, "8"),
        ("weight_source", is_pass and entry.weight_source is not None, "no such key"),
        ("unit_weights", entry.unit_weights is not None and (op is not Op.CONV2D or not _is_unit_kernel(entry)),
         "no such key"),
        ("flatten", bool(entry.flatten) and op is not Op.LINEAR, "false"),
        ("output_pad", not is_transposed and bool(entry.output_pad), "0"),
        ("activate", entry.output_width == 32 and entry.activate not in (None, Activation.NONE), "None"),
    )
    for key, is_wrong, allowed in rules:
        if is_wrong:
            kind = "with a 32-bit output" if key == "activate" and not is_pass else f"of the operator {op.value}"
            action = "remove the key" if allowed == "no such key" else f"write {key}: {allowed}"
            raise problem(entry, "E0238", f"{key} has no meaning for a layer {kind}", key, allowed=allowed, help=action)


def _pool(entry: LayerEntry, op: Op, operand: TensorShape) -> PoolSpec:
    """Pooling; a single number means rows only where the data is 1-D."""
    kind = Pool.MAX if entry.max_pool else Pool.AVG if entry.avg_pool else Pool.NONE
    rows_only = op is Op.CONV1D or (op in (Op.PASSTHROUGH, Op.LINEAR) and operand.width == 1)
    window = _pair(entry, "max_pool" if entry.max_pool else "avg_pool", entry.max_pool or entry.avg_pool, rows_only)
    stride = _pair(entry, "pool_stride", entry.pool_stride, rows_only)
    return PoolSpec(kind=kind, window=window, stride=stride)


def _pair(entry: LayerEntry, key: str, extent: Extent | None, rows_only: bool, default: int = 1) -> tuple[int, int]:
    """(rows, columns) of an extent; columns are 1 for 1-D data."""
    if extent is None:
        extent = (default,)
    rows, columns = extent if len(extent) == 2 else (extent[0], 1 if rows_only else extent[0])
    if rows_only and columns != 1:
        raise problem(entry, "E0238", f"{key} has columns, but the data is 1-D", key, found=f"[{rows}, {columns}]",
                      allowed="one number", help=f"write {key}: {rows}")
    return rows, columns


def _conv(entry: LayerEntry, op: Op) -> ConvSpec:
    rows_only = op is Op.CONV1D
    is_transposed = op is Op.CONV_TRANSPOSE2D
    pad = _DEFAULT_PAD[op] if entry.pad is None else entry.pad
    kernel = _pair(entry, "kernel_size", entry.kernel_size or _DEFAULT_KERNEL[op], rows_only)
    if is_transposed and pad >= min(kernel):
        raise problem(entry, "E0238", "the padding of a transposed convolution cuts off its kernel", "pad",
                      found=f"pad {pad}", allowed=f"less than the kernel's {min(kernel)}",
                      help=f"write pad: {min(kernel) - 1}")
    output_pad = _TRANSPOSED_OUTPUT_PAD if entry.output_pad is None else entry.output_pad
    return ConvSpec(
        kernel=kernel,
        padding=(pad, 0 if rows_only else pad),
        stride=_pair(entry, "stride", entry.stride, rows_only, _TRANSPOSED_STRIDE if is_transposed else 1),
        dilation=_pair(entry, "dilation", entry.dilation, rows_only),
        groups=entry.groups or 1,
        output_padding=output_pad if is_transposed else 0,
    )
