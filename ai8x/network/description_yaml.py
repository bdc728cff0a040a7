"""The text of a network description: complete, commented, keys in the order in which people write them.

Start at `write_yaml`.

Source: spec/max78000-cnn.md sections 7.1 and 7.2.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ai8x import __version__
from ai8x.network.ir import NETWORK_INPUT, Op, TensorShape
from ai8x.network.yaml_file import LayerEntry, UnloadItem

if TYPE_CHECKING:
    from ai8x.network.description import DescribedLayer, NetworkDescription

_WIDTH = 110
_MAP_DIGITS = 16


def write_yaml(description: NetworkDescription) -> str:
    """A network file that says what the description says."""
    lines = [*_header(description), f"arch: {description.name}", f"dataset: {description.dataset}"]
    if description.skipped:
        lines.append(f"skip_checkpoint_layers: {_list(_quoted(name) for name in description.skipped)}"
                     "  # the network does not use them")
    if description.unload:
        lines += ["unload:", *(f"  - {_unload_item(item)}" for item in description.unload)]
    lines += ["", "layers:"]
    for number, layer in enumerate(description.layers):
        lines += [*([""] if number else []), *_layer(layer)]
    return "\n".join(lines) + "\n"


def _header(description: NetworkDescription) -> Iterator[str]:
    """What this file is, and what may be changed in it."""
    origin = f" from {description.origin}" if description.origin else ""
    text = [f"{description.name}: {description.input_shape} input. Written by ai8x {__version__}{origin}."]
    keys = ", ".join(_PLACEMENT_KEYS)
    if description.is_placed:
        text.append(f"Each placement key ({keys}) may be edited or deleted: what is missing, synthesize.py plans again "
                    "for the MAX78000. The K210 reads the structure only.")
    else:
        text.append("Nothing says where the layers lie on the MAX78000: synthesize.py plans that, and writes a copy of "
                    f"this file with its choice. To have a say, add placement keys ({keys}).")
    if description.average_rounded:
        text.append("Average pooling of this network rounds: call synthesize.py with --avg-pool-rounding.")
    if description.behind:
        text.append(f"What the model computes behind its last layers ({', '.join(description.behind)}) is left to the "
                    "program that uses the network.")
    for paragraph in text:
        yield from textwrap.wrap(paragraph, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _layer(layer: DescribedLayer) -> Iterator[str]:
    """Comment and keys of one layer."""
    yield f"  # {_comment(layer)}"
    dash = "- "
    for key, text in _keys(layer.entry):
        yield f"  {dash}{key}: {text}"
        dash = "  "


def _comment(layer: DescribedLayer) -> str:
    entry = layer.entry
    what = layer.purpose or layer.path or layer.name
    operands = len(entry.in_sequences or ()) if entry.eltwise else 1
    count = f"{operands} times " if operands > 1 else ""
    return f"{what}: {count}{_shape(layer.in_shape)} -> {_shape(layer.out_shape)}"


def _shape(shape: TensorShape) -> str:
    """Without the trailing sizes of 1 that vectors and sequences have."""
    if shape.width > 1:
        return str(shape)
    return f"{shape.channels}x{shape.height}" if shape.height > 1 else str(shape.channels)


def _keys(entry: LayerEntry) -> Iterator[tuple[str, str]]:
    """Keys that the entry gives, with their text."""
    yield "name", str(entry.name)
    yield "op", _operator(entry)
    for key in _STRUCTURE_KEYS:
        value = getattr(entry, key)
        if value is not None and not (key == "eltwise" and entry.op is Op.PASSTHROUGH):
            yield key, _FORMATS.get(key, _plain)(value)
    for key in _PLACEMENT_KEYS:
        value = getattr(entry.hint, key)
        if value is not None and value is not False and not (key == "write_gap" and value == 0):
            yield key, _FORMATS.get(key, _plain)(value)


def _operator(entry: LayerEntry) -> str:
    if entry.op is Op.PASSTHROUGH and entry.eltwise is not None:
        return entry.eltwise.value
    return (entry.op or Op.CONV2D).value.lower()


def _plain(value: Any) -> str:
    """Numbers, words, truth values and lists of these."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return _plain(value[0]) if len(value) == 1 else _list(_plain(part) for part in value)
    return str(getattr(value, "value", value))


def _list(texts: Iterator[str]) -> str:
    return f"[{', '.join(texts)}]"


def _quoted(text: str) -> str:
    """A text in single quotes, in which YAML reads everything as it stands."""
    return "'" + text.replace("'", "''") + "'"


def _sources(sources: tuple[Any, ...]) -> str:
    return _plain(tuple("input" if source == NETWORK_INPUT else source for source in sources))


def _kernel(size: tuple[int, ...]) -> str:
    return "x".join(str(number) for number in size)


def format_processors(processors: int) -> str:
    """A 64-bit map in groups of sixteen processors, one group for each quadrant."""
    digits = f"{processors:0{_MAP_DIGITS}x}"
    return "0x" + ".".join(digits[start:start + 4] for start in range(0, _MAP_DIGITS, 4))


def _offset(value: int) -> str:
    return f"{value:#06x}"


def _unload_item(item: UnloadItem) -> str:
    gap = f", write_gap: {item.write_gap}" if item.write_gap else ""
    return (f"{{processors: {format_processors(item.processors)}, channels: {item.channels}, "
            f"dim: {_plain(item.dim)}, offset: {_offset(item.offset)}, width: {item.width}{gap}}}")


_FORMATS: Mapping[str, Callable[[Any], str]] = {
    "in_sequences": _sources, "kernel_size": _kernel, "processors": format_processors,
    "output_processors": format_processors, "in_offset": _offset, "out_offset": _offset}

_PLACEMENT_KEYS = ("data_format", "streaming", "processors", "output_processors", "in_offset", "out_offset",
                   "write_gap", "bias_group")
"""Fields of `PlacementHint` that are keys."""

_STRUCTURE_KEYS = ("in_sequences", "in_crop", "in_dim", "eltwise", "pool_first", "max_pool", "avg_pool", "pool_stride",
                   "kernel_size", "pad", "stride", "dilation", "output_pad", "groups", "weight_source", "unit_weights",
                   "out_channels", "activate", "flatten", "quantization", "output_shift", "output_width", "output")
"""In the order in which a layer works."""
