"""A network file (the vendor's YAML description language) as data, every key with its place.

Says what the file says and nothing more: where the file is silent a field is None, and defaults belong to
`ai8x.network.build` (what is computed) and to the chip's placement (where it lies). Knows no chip and no checkpoint.
Start at `read_network_file` and `LayerEntry`.

Source: spec/max78000-cnn.md sections 7.1 and 7.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ai8x.errors import Diagnostic, Diagnostics, Source, UserError
from ai8x.network.ir import Activation, Eltwise, Op
from ai8x.network.yaml_keys import (
    DATA_BUFFER_KEYS,
    EXCLUSIVE_KEYS,
    FILE_KEYS,
    LAYER_KEYS,
    UNLOAD_KEYS,
    Key,
    KeyValues,
    Subject,
    not_a_map,
    read_keys,
)
from ai8x.network.yaml_nodes import (
    ListNode,
    MapNode,
    Node,
    ScalarNode,
    decode_text,
    describe_node,
    parse_nodes,
    read_nodes,
)
from ai8x.network.yaml_values import Extent

Reference = int | str
"""A layer as the file names it: sequence number, name, or -1 for the network's input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementHint:
    """What a file says about where a layer lies on the MAX78000; None where it is silent.

    Args:
        processors: map of input processors, 64 bits.
        output_processors: map of output processors, 64 bits.
        in_offset: data memory offset of the input, in bytes.
        out_offset: data memory offset of the output, in bytes.
        write_gap: words skipped after each written word.
        data_format: ``HWC`` or ``CHW``.
        streaming: pixels pass through a circular buffer.
        bias_group: quadrants that may hold the bias.
        sources: canonical key -> place of its value; holds every key of the layer, not only these.
        source: place of the layer.
    """

    processors: int | None = None
    output_processors: int | None = None
    in_offset: int | None = None
    out_offset: int | None = None
    write_gap: int | None = None
    data_format: str | None = None
    streaming: bool | None = None
    bias_group: tuple[int, ...] | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)
    source: Source | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerEntry:
    """One entry of ``layers``; geometry as typed, None where the file is silent.

    Args:
        position: index in `NetworkFile.layers`, the order of execution.
        sequence: number by which other layers refer to this one; gaps are allowed.
        op: operator; an element-wise operator is a pass-through with `eltwise`.
        eltwise: combination of operands, before the convolution if there is one.
        in_sequences: sources in order.
        next_sequence: what follows; ``stop`` ends.
        in_crop: rows or samples dropped at the start and the end of the source.
        hint: the keys about places on the MAX78000.
        sources: canonical key -> place of its value.
        source: place of the entry.

    The remaining fields are named after their keys; see the manual's table of keys.
    """

    position: int
    sequence: int
    source: Source
    name: str | None = None
    op: Op | None = None
    eltwise: Eltwise | None = None
    operands: int | None = None
    in_sequences: tuple[Reference, ...] | None = None
    next_sequence: Reference | None = None
    weight_source: Reference | None = None
    unit_weights: int | None = None
    kernel_size: Extent | None = None
    pad: int | None = None
    stride: Extent | None = None
    dilation: Extent | None = None
    output_pad: int | None = None
    groups: int | None = None
    max_pool: Extent | None = None
    avg_pool: Extent | None = None
    pool_stride: Extent | None = None
    pool_first: bool | None = None
    activate: Activation | None = None
    quantization: int | None = None
    output_shift: int | None = None
    output_width: int | None = None
    in_channels: int | None = None
    out_channels: int | None = None
    in_dim: Extent | None = None
    in_crop: tuple[int, int] | None = None
    in_channel_skip: int | None = None
    flatten: bool | None = None
    output: bool | None = None
    buffer_shift: int | None = None
    buffer_insert: int | None = None
    hint: PlacementHint = PlacementHint()
    sources: Mapping[str, Source] = field(default_factory=dict)

    def place(self, *keys: str) -> Source:
        """Place of the first of these keys that is present, else of the layer."""
        return next((self.sources[key] for key in keys if key in self.sources), self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadItem:
    """One item of ``unload``: which memory to read as output.

    Args:
        processors: map of the processors whose memories hold the data, 64 bits.
        channels: number of channels.
        dim: rows and columns, or samples of 1-D data.
        offset: data memory offset in bytes.
        width: bits of a value, 8 or 32.
        write_gap: words skipped after each word.
        source: place of the item.
    """

    processors: int
    channels: int
    dim: Extent
    offset: int
    width: int = 8
    write_gap: int = 0
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class DataBuffer:
    """The rolling buffer of ``data_buffer``; fields as in `UnloadItem`, plus the name layers refer to."""

    name: str
    processors: int
    channels: int
    dim: Extent
    offset: int
    width: int = 8
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFile:
    """A network file.

    Args:
        path: name of the file as typed.
        arch: architecture, compared with the checkpoint's.
        dataset: name of the data set.
        layers: entries in the order of execution (by sequence number).
        output_map: output processors of the final layer, or None.
        unload: replaces the automatic unloading, in order; empty if absent.
        data_buffer: rolling buffer, or None.
        weights: file of sample weights (arch ``test``), or None.
        bias: file of sample biases (arch ``test``), or None.
        skip_checkpoint_layers: names of the checkpoint's layers that belong to no layer of the file.
        sources: canonical global key -> place of its value.
        warnings: findings that do not stop.
    """

    path: str
    arch: str
    dataset: str
    layers: tuple[LayerEntry, ...]
    output_map: int | None = None
    unload: tuple[UnloadItem, ...] = ()
    data_buffer: DataBuffer | None = None
    weights: str | None = None
    bias: str | None = None
    skip_checkpoint_layers: tuple[str, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict)
    warnings: tuple[Diagnostic, ...] = ()

    @property
    def hints(self) -> tuple[PlacementHint, ...]:
        """What the file says about places, by layer."""
        return tuple(layer.hint for layer in self.layers)


_HINT_FIELDS = ("processors", "output_processors", "in_offset", "out_offset", "write_gap", "data_format", "streaming",
                "bias_group")


def read_network_file(path: Path | str) -> NetworkFile:
    """Read and check a network file.

    Raises:
        UserError: E0101 to E0111 the file cannot be read; E0201 to E0213 everything wrong with its keys, together.
    """
    return _to_network_file(read_nodes(Path(path)), str(path))


def parse_network_file(content: bytes | str, name: str = "network.yaml") -> NetworkFile:
    """As `read_network_file`, from memory.

    Args:
        content: the file's bytes or text.
        name: name for messages.

    Raises:
        UserError: as `read_network_file`.
    """
    text = decode_text(content, name) if isinstance(content, bytes) else content
    return _to_network_file(parse_nodes(text, name), name)


def _to_network_file(root: Node, path: str) -> NetworkFile:
    diagnostics = Diagnostics()
    subject = Subject(what="a network file", source=root.source)
    if not isinstance(root, MapNode):
        raise UserError(not_a_map(root, subject))
    keys = read_keys(root, FILE_KEYS, subject, diagnostics)
    layers = _read_layers(keys.nodes.get("layers"), diagnostics)
    unload = tuple(UnloadItem(**item) for item in _read_items(keys, "unload", UNLOAD_KEYS, diagnostics))
    buffers = tuple(DataBuffer(**item) for item in _read_items(keys, "data_buffer", DATA_BUFFER_KEYS, diagnostics))
    if len(buffers) > 1:
        diagnostics.add(subject.finding("E0205", "data_buffer has more than one entry", buffers[1].source,
                                        found=f"{len(buffers)} entries", allowed="one", help="remove the others"))
    for entry in layers:
        if buffers and entry.name == buffers[0].name:
            diagnostics.add(subject.finding("E0211", f"the name '{entry.name}' is used twice", entry.place("name"),
                                            found=entry.name, allowed="another name than the buffer's",
                                            help=f"write name: {entry.name}_{entry.position}"))
    diagnostics.raise_if_errors()
    return NetworkFile(path=path, layers=layers, unload=unload, data_buffer=buffers[0] if buffers else None,
                       sources=keys.sources, warnings=diagnostics.items, **keys.values)


def _read_items(keys: KeyValues, name: str, table: Mapping[str, Key],
                diagnostics: Diagnostics) -> list[dict[str, Any]]:
    """Values of the entries of a list of mappings; entries with findings are left out."""
    node = keys.nodes.get(name)
    if node is None:
        return []
    subject = Subject(what=f"an entry of {name}", source=node.source)
    items = []
    for item in _list_items(node, name, diagnostics):
        subject = replace(subject, source=item.source)
        if not isinstance(item, MapNode):
            diagnostics.add(not_a_map(item, subject))
            continue
        before = len(diagnostics.errors)
        read = read_keys(item, table, subject, diagnostics)
        if len(diagnostics.errors) == before:
            items.append({**read.values, "source": item.source})
    return items


def _list_items(node: Node, name: str, diagnostics: Diagnostics) -> tuple[Node, ...]:
    if isinstance(node, ListNode) and node.items:
        return node.items
    diagnostics.add(Diagnostic(code="E0204", message=f"{name} is not a list of entries", source=node.source,
                               found=describe_node(node), allowed="at least one entry, each starting with '- '",
                               help=f"write the entries below {name}:, each starting with '- '"))
    return ()


def _read_layers(node: Node | None, diagnostics: Diagnostics) -> tuple[LayerEntry, ...]:
    if node is None:
        return ()
    entries = []
    sequence = -1
    for index, item in enumerate(_list_items(node, "layers", diagnostics)):
        entry = _read_layer(item, index, sequence + 1, diagnostics)
        sequence = entry.sequence
        entries.append(entry)
    _check_unique(entries, diagnostics)
    in_order = sorted(entries, key=lambda entry: entry.sequence)
    return tuple(replace(entry, position=position) for position, entry in enumerate(in_order))


def _read_layer(node: Node, index: int, sequence: int, diagnostics: Diagnostics) -> LayerEntry:
    subject = Subject(what="a layer", source=node.source, layer=_name_of(node, index), layer_index=index)
    if not isinstance(node, MapNode):
        diagnostics.add(not_a_map(node, subject))
        return LayerEntry(position=index, sequence=sequence, source=node.source)
    keys = read_keys(node, LAYER_KEYS, subject, diagnostics)
    _check_layer(keys, subject, diagnostics)
    found = dict(keys.values)
    hint = PlacementHint(**{name: found.pop(name) for name in _HINT_FIELDS if name in found}, sources=keys.sources,
                         source=node.source)
    if "op" in found:
        found["op"], combination = found["op"]
        found["eltwise"] = found.get("eltwise", combination)
    found.setdefault("sequence", sequence)
    return LayerEntry(position=index, source=node.source, hint=hint, sources=keys.sources, **found)


def _name_of(node: Node, index: int) -> str:
    """The layer's name for messages, before its keys are read."""
    for key, value in getattr(node, "entries", ()):
        if isinstance(key, ScalarNode) and key.text == "name" and isinstance(value, ScalarNode):
            return describe_node(value)
    return f"layer{index}"


def _check_layer(keys: KeyValues, subject: Subject, diagnostics: Diagnostics) -> None:
    """Contradictions between keys of one layer, and defaults worth a warning."""
    found = keys.values
    for one, other in EXCLUSIVE_KEYS:
        if one in keys.nodes and other in keys.nodes:
            diagnostics.add(subject.finding("E0212", f"{one} and {other} exclude each other", keys.sources[other],
                                            found="both", allowed="one of them", help="remove one of the two keys"))
    combination = found.get("op", (None, None))[1]
    if combination and found.get("eltwise", combination) is not combination:
        diagnostics.add(subject.finding("E0212", "op and eltwise name different combinations", keys.sources["eltwise"],
                                        found=found["eltwise"].value, allowed=combination.value,
                                        help="remove the key eltwise"))
    if "op" not in keys.nodes:
        diagnostics.add(subject.finding("E0220", "op is not given, Conv2d is assumed", level="warning",
                                        found="no key 'op'", allowed="a layer that says what it computes",
                                        help="write op: Conv2d"))
    pooled = "max_pool" in keys.nodes or "avg_pool" in keys.nodes
    if pooled and "pool_stride" not in keys.nodes:
        diagnostics.add(subject.finding("E0221", "pool_stride is not given, 1 is assumed", level="warning",
                                        found="no key 'pool_stride'", allowed="a stride beside the window",
                                        help="write pool_stride: 1, or the size of the window"))


def _check_unique(entries: list[LayerEntry], diagnostics: Diagnostics) -> None:
    """Sequence numbers and names must be unique."""
    sequences: dict[int, LayerEntry] = {}
    names: dict[str, LayerEntry] = {}
    for entry in entries:
        subject = Subject(what="a layer", source=entry.source, layer=entry.name or f"layer{entry.position}",
                          layer_index=entry.position)
        if other := sequences.get(entry.sequence):
            diagnostics.add(subject.finding(
                "E0210", f"sequence {entry.sequence} is used twice", entry.place("sequence"), found=str(entry.sequence),
                allowed=f"numbers that are not taken; line {other.source.line} has this one",
                help=f"write sequence: {max(sequences) + 1}"))
        if entry.name is not None and (other := names.get(entry.name)):
            diagnostics.add(subject.finding(
                "E0211", f"the name '{entry.name}' is used twice", entry.place("name"), found=entry.name,
                allowed=f"names that are not taken; the layer in line {other.source.line} has this one",
                help=f"write name: {entry.name}_{entry.position}"))
        sequences.setdefault(entry.sequence, entry)
        if entry.name is not None:
            names.setdefault(entry.name, entry)
