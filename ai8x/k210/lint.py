"""Holds a kmodel against every rule that a file must keep to run on the chip and in its runner.

Works on the model alone, whoever wrote it, and proves the widths: the worst case of every sum is computed from the
weights for any input bytes. Errors stop or corrupt a run; warnings mark what is legal but unconfirmed. Start at
`lint_kmodel`.

Source: spec/k210-kmodel.md section 11 (lint list), with sections 3 to 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ai8x.errors import Diagnostic, Diagnostics
from ai8x.k210 import device
from ai8x.k210.device import K210, POOL_TYPES, TABLE_MIN_START
from ai8x.k210.kmodel import KModel
from ai8x.k210.kmodel_layers import K210Conv, layer_type, layer_type_name

_CONFIRMED_POOLS = (0, 1, 5, 9)
"""Pool types in files that run on chips; section 6."""

_BYTE_MAX = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Least and greatest value over all inputs, for every output channel; object arrays of Python integers."""

    low: np.ndarray
    high: np.ndarray

    @property
    def least(self) -> int:
        """Over all channels."""
        return int(self.low.min())

    @property
    def greatest(self) -> int:
        """Over all channels."""
        return int(self.high.max())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conv:
    """A KPU layer with what the checks need."""

    layer: K210Conv
    fields: Mapping[str, int]

    @property
    def out_size(self) -> tuple[int, int]:
        """Rows and columns of the result."""
        return self.fields["o_col_high"] + 1, self.fields["o_row_wid"] + 1

    @property
    def in_size(self) -> tuple[int, int]:
        """Rows and columns of the input."""
        return self.fields["i_col_high"] + 1, self.fields["i_row_wid"] + 1

    @property
    def in_lines(self) -> int:
        """Lines of the input map."""
        return device.map_lines(self.fields["i_ch_num"] + 1, *self.in_size)

    @property
    def out_lines(self) -> int:
        """Lines of the output map."""
        return device.map_lines(self.fields["o_ch_num"] + 1, *self.out_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    code: str
    message: str
    allowed: str
    help: str
    level: str = "error"


def lint_kmodel(model: KModel) -> Diagnostics:
    """Every finding, in the order of the layers.

    Args:
        model: any version-3 model.
    """
    found = Diagnostics()
    for index, layer in enumerate(model.layers):
        name = layer_type_name(layer_type(layer))
        for finding in _layer_findings(layer, model):
            found.add(_diagnostic(finding, name, index))
    for finding in _model_findings(model):
        found.add(_diagnostic(finding, "", None))
    return found


def _diagnostic(finding: _Finding, layer: str, index: int | None) -> Diagnostic:
    return Diagnostic(code=finding.code, message=finding.message, layer=layer, layer_index=index,
                      allowed=finding.allowed, help=finding.help, level=finding.level)


def _layer_findings(layer: object, model: KModel) -> Iterator[_Finding]:
    if not isinstance(layer, K210Conv):
        return
    conv = _Conv(layer=layer, fields=layer.fields)
    for check in _CONV_CHECKS:
        yield from check(conv)
    if layer.main_memory_output is not None:
        item = K210.alignment.dma
        height, width = conv.out_size
        end = layer.main_memory_output + -(-(conv.fields["dma_total_byte"] + 1) // item) * item
        if end > model.main_mem_usage or layer.main_memory_output % item:
            yield _Finding(code="E0752", message=f"the result fills main memory up to {end:#x}",
                           allowed=f"multiples of {item} below {model.main_mem_usage:#x} (main_mem_usage)",
                           help="raise main_mem_usage, or move the result")
        if height * width > K210.limits.max_fifo_map:
            yield _Finding(code="E0751", message=f"maps of {height}x{width} leave the KPU",
                           allowed=f"at most {K210.limits.max_fifo_map} cells",
                           help="pool the map, or keep it in the KPU")


def _model_findings(model: KModel) -> Iterator[_Finding]:
    last = model.layers[-1] if model.layers else None
    if isinstance(last, K210Conv) and last.main_memory_output is None:
        yield _Finding(code="E0755", message="the last layer keeps its result in the KPU; the runner then hangs",
                       allowed="a main-memory result behind the last KPU layer", help="set flag 0 of the last layer")
    for number, place in enumerate(model.outputs):
        if place.address + place.size > model.main_mem_usage:
            yield _Finding(code="E0752", message=f"output {number} ends at {place.address + place.size:#x}",
                           allowed=f"up to {model.main_mem_usage:#x} (main_mem_usage)", help="raise main_mem_usage")


# ------------------------------------------------------------------------------------------------ registers, sizes

def derived_fields(fields: Mapping[str, int]) -> dict[str, int]:
    """Fields of the layer argument that follow from the shapes; section 3."""
    height, width = fields["i_col_high"] + 1, fields["i_row_wid"] + 1
    out_height, out_width = fields["o_col_high"] + 1, fields["o_row_wid"] + 1
    stride = POOL_TYPES[fields["pool_type"]].stride
    area, loaded = out_height * out_width, fields["o_ch_num_coef"] + 1
    return {
        "o_row_wid": width // stride - 1, "o_col_high": height // stride - 1,
        "row_switch_addr": device.lines_per_row(width), "channel_switch_addr": device.lines_per_group(height, width),
        "coef_group": device.channels_per_line(width), "wb_row_switch_addr": device.lines_per_row(out_width),
        "wb_channel_switch_addr": device.lines_per_group(out_height, out_width),
        "wb_group": device.channels_per_line(out_width), "load_time": -(-(fields["o_ch_num"] + 1) // loaded) - 1,
        "channel_byte_num": (area - 1) & 0xFFFF, "dma_total_byte": (fields["o_ch_num"] + 1) * area - 1,
    }


def _registers(conv: _Conv) -> Iterator[_Finding]:
    """Derived fields are consistent, kernel and pooling defined."""
    fields = conv.fields
    if fields["pool_type"] >= len(POOL_TYPES):
        yield _Finding(code="E0750", message=f"pool_type {fields['pool_type']} is undefined",
                       allowed=f"0 to {len(POOL_TYPES) - 1}", help="write one of the pool types of section 6")
        return
    for name, expected in derived_fields(fields).items():
        if fields[name] != expected:
            yield _Finding(code="E0750", message=f"{name} is {fields[name]}", allowed=f"{expected} for these shapes",
                           help=f"write {name} = {expected}")
    if fields["depth_wise_layer"] and fields["pool_type"]:
        yield _Finding(code="E0750", message="pooling behind a depthwise convolution is a known chip defect",
                       allowed="pool_type 0", help="move the pooling into the next dense layer")
    if fields["pool_type"] not in _CONFIRMED_POOLS:
        name = POOL_TYPES[fields["pool_type"]].name
        yield _Finding(code="E0758", message=f"pool type '{name}' has not been seen on a chip",
                       allowed="pool types 0, 1, 5 and 9", help="test it on a board", level="warning")


def _sizes(conv: _Conv) -> Iterator[_Finding]:
    """Maps lie within the limits, inside KPU RAM and apart."""
    limits, fields = K210.limits, conv.fields
    for what, (height, width) in (("input", conv.in_size), ("output", conv.out_size)):
        if not (limits.min_map <= height <= limits.max_height and limits.min_map <= width <= limits.max_width):
            yield _Finding(code="E0751", message=f"the {what} map has {height} rows and {width} columns",
                           allowed=f"{limits.min_map} to {limits.max_height} rows, {limits.min_map} to "
                                   f"{limits.max_width} columns", help="frame small maps, split large ones")
        elif height > limits.advised_height or width > limits.advised_width:
            yield _Finding(code="E0759", message=f"the {what} map has {height} rows and {width} columns",
                           allowed=f"the vendor advertises {limits.advised_height} rows and {limits.advised_width} "
                                   "columns",
                           help="test it on a board", level="warning")
    source, target = fields["image_src_addr"], fields["image_dst_addr"]
    for what, line, lines in (("input", source, conv.in_lines), ("output", target, conv.out_lines)):
        if line + lines > K210.memory.kpu_lines:
            yield _Finding(code="E0752", message=f"the {what} map ends at line {line + lines}",
                           allowed=f"line {K210.memory.kpu_lines}", help="use smaller maps")
    if source < target + conv.out_lines and target < source + conv.in_lines:
        yield _Finding(code="E0752", message=f"input (line {source}) and output (line {target}) overlap",
                       allowed="disjoint maps", help="move one of them")


def _tables(conv: _Conv) -> Iterator[_Finding]:
    """The activation table starts at the minimum, ascends, never falls and has no steps that matter."""
    table = conv.layer.activation
    if int(table.start[0]) != TABLE_MIN_START or np.any(np.diff(table.start) < 0):
        yield _Finding(code="E0754", message=f"activation segments start at {table.start.tolist()}",
                       allowed=f"ascending from {TABLE_MIN_START}", help="sort the segments; the first start is fixed")
        return
    if np.any(table.mul < 0):
        yield _Finding(code="E0756", message="a segment of the activation table falls; its rounding is unverified",
                       allowed="slopes of 0 and more", help="use the sum of two ReLU layers", level="warning")
    bounds = value_bounds(conv.layer)
    for index in range(len(table.start) - 1):
        start, border = int(table.start[index]), int(table.start[index + 1])
        if not bounds.least < border <= bounds.greatest or border == start:
            continue
        reached = ((border - start) * int(table.mul[index]) / 2.0 ** int(table.shift[index])) + int(table.bias[index])
        if abs(min(reached, _BYTE_MAX) - int(table.bias[index + 1])) > 1:
            yield _Finding(code="E0757", message=f"the activation jumps from {reached:.1f} to "
                           f"{int(table.bias[index + 1])} at {border}", allowed="segments that meet",
                           help="compare the runner's reading of segment borders", level="warning")


def _widths(conv: _Conv) -> Iterator[_Finding]:
    """Sums and batch-norm results fit 36 bits for every input."""
    limit = 1 << (K210.limits.accumulator_bits - 1)
    for what, bounds in (("sum", sum_bounds(conv.layer)), ("batch norm result", value_bounds(conv.layer))):
        if bounds.least < -limit or bounds.greatest >= limit:
            yield _Finding(code="E0753", message=f"the {what} reaches {bounds.least} to {bounds.greatest}",
                           allowed=f"signed {K210.limits.accumulator_bits} bits",
                           help="use smaller weights or batch norm factors")


def sum_bounds(layer: K210Conv) -> Bounds:
    """Least and greatest accumulator of every output channel, for any input bytes, padding included; section 5."""
    fields = layer.fields
    weights = layer.weights.astype(np.int64)
    per_channel = (fields["arg_w"] * weights.sum(axis=(2, 3))) >> fields["shr_w"]
    constant = (per_channel + fields["arg_add"]).sum(axis=1)
    # A tap weighs w + arg_x / 2**shr_x; the shift acts once per input channel and rounds down by less than 1.
    taps = (weights << fields["shr_x"]) + fields["arg_x"]
    low = (_BYTE_MAX * np.minimum(taps, 0)).sum(axis=(1, 2, 3)) >> fields["shr_x"]
    high = -(-(_BYTE_MAX * np.maximum(taps, 0)).sum(axis=(1, 2, 3)) >> fields["shr_x"])
    lost = weights.shape[1] if fields["shr_x"] else 0
    return Bounds(low=(low - lost + constant).astype(object), high=(high + constant).astype(object))


def value_bounds(layer: K210Conv) -> Bounds:
    """Least and greatest batch-norm result of every output channel."""
    sums, norm = sum_bounds(layer), layer.batch_norm
    mul, add = norm.mul.astype(object), norm.add.astype(object)
    shift = [int(value) for value in norm.shift]
    ends = [[(int(end) * int(factor)) >> amount for end, factor, amount in zip(side, mul, shift, strict=True)]
            for side in (sums.low, sums.high)]
    first, second = (np.array(end, dtype=object) + add for end in ends)
    return Bounds(low=np.minimum(first, second), high=np.maximum(first, second))


def _loads(conv: _Conv) -> Iterator[_Finding]:
    """Weight loads: at most 64, of a size that the buffer holds; section 4.2."""
    fields, limits = conv.fields, K210.limits
    loaded = fields["o_ch_num_coef"] + 1
    channel = conv.layer.weights[0].nbytes
    if fields["para_size"] != loaded * channel:
        yield _Finding(code="E0750", message=f"para_size is {fields['para_size']}", allowed=f"{loaded * channel}",
                       help="write o_ch_num_coef + 1 times the bytes of an output channel")
    needed = -(-(fields["o_ch_num"] + 1) // loaded)
    if needed > limits.max_weight_loads:
        yield _Finding(code="E0751", message=f"the weights need {needed} loads",
                       allowed=f"at most {limits.max_weight_loads}", help="split the output channels")
    if device.buffered_bytes(channel, conv.layer.weights.shape[2]) * loaded > limits.buffer_bytes:
        yield _Finding(code="E0751", message=f"a weight load holds {loaded * channel} bytes",
                       allowed=f"the {limits.buffer_bytes} bytes of the KPU's buffer",
                       help="load fewer channels at a time")


_CONV_CHECKS: tuple[Callable[[_Conv], Iterator[_Finding]], ...] = (_registers, _sizes, _loads, _tables, _widths)
