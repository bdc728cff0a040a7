"""The keys of the description language: names, synonyms, and how each value is read.

One table per mapping of the file; `read_keys` applies a table to a mapping and collects every finding. Knows nothing
of what the values mean. Start at `LAYER_KEYS` and `read_keys`.

Source: spec/max78000-cnn.md sections 7.1 and 7.2.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ai8x.arithmetic import WEIGHT_BITS
from ai8x.errors import Diagnostic, Diagnostics, Source
from ai8x.network import yaml_values as values
from ai8x.network.ir import Activation, Eltwise, Op
from ai8x.network.yaml_nodes import MapNode, Node, ScalarNode, describe_node, show_text

_MAX78002 = "it belongs to the MAX78002"

OPERATORS: Mapping[str, tuple[Op, Eltwise | None]] = {
    "conv2d": (Op.CONV2D, None),
    "conv1d": (Op.CONV1D, None),
    "convtranspose2d": (Op.CONV_TRANSPOSE2D, None),
    "linear": (Op.LINEAR, None),
    "fc": (Op.LINEAR, None),
    "mlp": (Op.LINEAR, None),
    "passthrough": (Op.PASSTHROUGH, None),
    "none": (Op.PASSTHROUGH, None),
    "add": (Op.PASSTHROUGH, Eltwise.ADD),
    "sub": (Op.PASSTHROUGH, Eltwise.SUB),
    "or": (Op.PASSTHROUGH, Eltwise.OR),
    "bitwiseor": (Op.PASSTHROUGH, Eltwise.OR),
    "bitwise_or": (Op.PASSTHROUGH, Eltwise.OR),
    "xor": (Op.PASSTHROUGH, Eltwise.XOR),
    "bitwisexor": (Op.PASSTHROUGH, Eltwise.XOR),
    "bitwise_xor": (Op.PASSTHROUGH, Eltwise.XOR),
}
"""Spellings of the operator; an element-wise operator is a pass-through with operands."""

_OPERATOR_HINTS = {
    "pool": "pooling is part of the layer behind it: write max_pool: 2 and pool_stride: 2 there, and remove this layer",
    "relu": "write activate: ReLU in the layer before, and remove this layer",
    "abs": "write activate: Abs in the layer before, and remove this layer",
    "norm": "remove this layer; quantize.py folds batch normalisation into the weights",
    "drop": "remove this layer; dropout exists in training only",
    "cat": "remove this layer, and write in_sequences: [first, second] in the layer that reads both",
    "flat": "remove this layer, and write flatten: true in the Linear layer behind it",
    "softmax": "remove this layer; the generated C code has a softmax (option --softmax)",
}
"""Part of a word that is an operator elsewhere -> what to write here."""

_ELTWISE = {name: eltwise for name, (_, eltwise) in OPERATORS.items() if eltwise}
_ACTIVATIONS = {"relu": Activation.RELU, "abs": Activation.ABS, "none": Activation.NONE}
_DATA_FORMATS = {"hwc": "HWC", "little": "HWC", "chw": "CHW", "big": "CHW"}
_SHIFT_LIMIT = 31
"""Far beyond what any chip shifts; the chips' own limits are checked later."""

_PAD_LIMIT = 31
"""Likewise; keeps a typing error from asking for gigabytes of zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One key of a mapping.

    Args:
        name: canonical spelling, which is also the name in the results.
        reader: turns the node into a value or raises `values.BadValue`; None leaves the node unread.
        synonyms: other spellings.
        mandatory: its absence is an error.
        foreign: it is known, but belongs to another chip.
        default: what the key's absence means, in a form that an editor can insert; None where that depends on others.
    """

    name: str
    reader: values.Reader | None
    synonyms: tuple[str, ...] = ()
    mandatory: bool = False
    foreign: bool = False
    default: str | int | bool | None = None


def _table(*keys: Key) -> Mapping[str, Key]:
    return {spelling: key for key in keys for spelling in (key.name, *key.synonyms)}


FILE_KEYS = _table(
    Key(name="arch", reader=values.read_label, mandatory=True),
    Key(name="dataset", reader=values.read_label, mandatory=True),
    Key(name="layers", reader=None, mandatory=True),
    Key(name="output_map", reader=values.read_processors),
    Key(name="unload", reader=None),
    Key(name="data_buffer", reader=None),
    Key(name="weights", reader=values.read_label),
    Key(name="bias", reader=values.read_label),
    Key(name="skip_checkpoint_layers", reader=values.list_of(values.read_text)),
    Key(name="snoop", reader=values.unavailable(_MAX78002), foreign=True),
)

UNLOAD_KEYS = _table(
    Key(name="processors", reader=values.read_processors, mandatory=True),
    Key(name="channels", reader=values.integer(1), mandatory=True),
    Key(name="dim", reader=values.extent(1), mandatory=True),
    Key(name="offset", reader=values.integer(), mandatory=True),
    Key(name="width", reader=values.one_of(8, 32), default=8),
    Key(name="write_gap", reader=values.integer(), default=0),
)

DATA_BUFFER_KEYS = _table(
    Key(name="processors", reader=values.read_processors, mandatory=True),
    Key(name="channels", reader=values.integer(1), mandatory=True),
    Key(name="dim", reader=values.extent(1), mandatory=True),
    Key(name="offset", reader=values.integer(), mandatory=True),
    Key(name="name", reader=values.read_name, mandatory=True),
    Key(name="width", reader=values.one_of(8), default=8),
)

LAYER_KEYS = _table(
    # What is computed.
    Key(name="op", reader=values.word(OPERATORS, _OPERATOR_HINTS), synonyms=("operation", "operator", "convolution")),
    Key(name="eltwise", reader=values.word(_ELTWISE)),
    Key(name="operands", reader=values.integer(2, 16), default=2),
    Key(name="pool_first", reader=values.read_boolean, default=True),
    Key(name="kernel_size", reader=values.read_kernel),
    Key(name="pad", reader=values.integer(0, _PAD_LIMIT)),
    Key(name="stride", reader=values.extent(1)),
    Key(name="dilation", reader=values.extent(1), default=1),
    Key(name="max_pool", reader=values.extent(1)),
    Key(name="avg_pool", reader=values.extent(1)),
    Key(name="pool_stride", reader=values.extent(1), default=1),
    Key(name="output_pad", reader=values.integer()),
    Key(name="groups", reader=values.integer(1), synonyms=("conv_groups",), default=1),
    Key(name="activate", reader=values.word(_ACTIVATIONS), synonyms=("activation",), default="None"),
    Key(name="quantization", reader=values.one_of(*WEIGHT_BITS)),
    Key(name="output_shift", reader=values.integer(-_SHIFT_LIMIT, _SHIFT_LIMIT)),
    Key(name="output_width", reader=values.one_of(8, 32), default=8),
    Key(name="flatten", reader=values.read_boolean, default=False),
    # How layers connect.
    Key(name="sequence", reader=values.integer()),
    Key(name="name", reader=values.read_name),
    Key(name="in_sequences", reader=values.list_of(values.read_reference)),
    Key(name="next_sequence", reader=values.read_reference),
    Key(name="in_channels", reader=values.integer(1)),
    Key(name="out_channels", reader=values.integer(1)),
    Key(name="in_dim", reader=values.extent(1)),
    Key(name="in_crop", reader=values.read_pair),
    Key(name="in_channel_skip", reader=values.integer(), default=0),
    Key(name="output", reader=values.read_boolean),
    Key(name="weight_source", reader=values.read_reference),
    Key(name="unit_weights", reader=values.integer()),
    Key(name="buffer_shift", reader=values.integer(1)),
    Key(name="buffer_insert", reader=values.integer(1)),
    # Where it lies on the chip.
    Key(name="processors", reader=values.read_processors),
    Key(name="output_processors", reader=values.read_processors),
    Key(name="in_offset", reader=values.integer()),
    Key(name="out_offset", reader=values.integer()),
    Key(name="write_gap", reader=values.integer(), default=0),
    Key(name="data_format", reader=values.word(_DATA_FORMATS), default="HWC"),
    Key(name="streaming", reader=values.read_boolean, default=False),
    Key(name="bias_group", reader=values.list_of(values.integer(0, 3)), synonyms=("bias_quadrant",)),
    # Known, but of another device or not available.
    Key(name="pool_dilation", reader=values.unavailable(_MAX78002, "1"), foreign=True, default=1),
    Key(name="in_skip", reader=values.unavailable(_MAX78002, "0"), foreign=True, synonyms=("read_gap",), default=0),
    Key(name="simulated_sequence", reader=values.unavailable(_MAX78002), foreign=True),
    Key(name="snoop_sequence", reader=values.unavailable(_MAX78002), foreign=True),
    Key(name="bypass", reader=values.unavailable(_MAX78002, "false"), foreign=True, default=False),
    Key(name="calcx4", reader=values.unavailable(_MAX78002, "false"), foreign=True, default=False),
    Key(name="readahead", reader=values.unavailable(_MAX78002, "false"), foreign=True, default=False),
    Key(name="tcalc", reader=values.unavailable(_MAX78002, "false", "0"), foreign=True),
)

EXCLUSIVE_KEYS = (("max_pool", "avg_pool"),)
"""Pairs of which a layer has at most one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a mapping describes, for messages: the file, an item of a list, or a layer."""

    what: str
    source: Source
    layer: str = ""
    layer_index: int | None = None

    def finding(self, code: str, message: str, source: Source | None = None, *, found: str = "", allowed: str = "",
                help: str = "", level: str = "error") -> Diagnostic:
        """A diagnostic about this subject."""
        return Diagnostic(code=code, message=message, source=source or self.source, layer=self.layer, found=found,
                          layer_index=self.layer_index, allowed=allowed, help=help, level=level)


@dataclass(slots=True)
class KeyValues:
    """What `read_keys` found.

    Args:
        values: canonical name -> value; only keys that were present and readable.
        nodes: canonical name -> node; every known key that was present.
        sources: canonical name -> place of the value.
    """

    values: dict[str, Any] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)


def read_keys(node: MapNode, table: Mapping[str, Key], subject: Subject, diagnostics: Diagnostics) -> KeyValues:
    """Read a mapping by a table; unknown, repeated, missing and ill-typed keys are collected.

    Findings: E0201 unknown, E0202 repeated, E0203 missing, E0204 to E0209 the value.
    """
    result = KeyValues()
    first_use: dict[str, Source] = {}
    misspelt: set[str] = set()
    for key_node, value_node in node.entries:
        if not isinstance(key_node, ScalarNode) or key_node.text not in table:
            misspelt.add(_refuse_key(key_node, table, subject, diagnostics))
            continue
        key = table[key_node.text]
        if key.name in result.nodes:
            diagnostics.add(subject.finding(
                "E0202", f"key '{key.name}' is given twice", key_node.source,
                found=f"{describe_node(key_node)}, first given in line {first_use[key.name].line}",
                allowed="each key once, synonyms included", help="remove one of the two"))
            continue
        first_use[key.name] = key_node.source
        result.nodes[key.name] = value_node
        result.sources[key.name] = value_node.source
        _read_value(key, value_node, subject, result, diagnostics)
    for name in dict.fromkeys(key.name for key in table.values() if key.mandatory):
        if name not in result.nodes and name not in misspelt:
            diagnostics.add(subject.finding("E0203", f"key '{name}' is missing from {subject.what}",
                                            found=f"keys {', '.join(result.nodes)}" if result.nodes else "no known key",
                                            allowed=f"{subject.what} with a key '{name}'", help=f"add {name}:"))
    return result


def _refuse_key(node: Node, table: Mapping[str, Key], subject: Subject, diagnostics: Diagnostics) -> str:
    """Report a key that the table does not have; returns the key that was probably meant, or an empty string."""
    if not isinstance(node, ScalarNode):
        diagnostics.add(subject.finding("E0207", "a key is not a word", node.source, found=describe_node(node),
                                        allowed="words as keys", help="remove the brackets before the colon"))
        return ""
    close = difflib.get_close_matches(node.text.lower(), table, n=1)
    names = sorted({key.name for key in table.values() if not key.foreign})
    diagnostics.add(subject.finding(
        "E0201", f"key '{show_text(node.text)}' is not known in {subject.what}", node.source,
        found=show_text(node.text), allowed=", ".join(names),
        help=f"write {close[0]}:" if close else "remove the key"))
    return table[close[0]].name if close else ""


def _read_value(key: Key, node: Node, subject: Subject, result: KeyValues, diagnostics: Diagnostics) -> None:
    if key.reader is None:
        return
    try:
        value = key.reader(node)
    except values.BadValue as bad:
        place = bad.node or node
        diagnostics.add(subject.finding(bad.code, f"{key.name} {bad.message}", place.source,
                                        found=describe_node(place), allowed=bad.allowed, help=bad.help))
        return
    if value is not None:
        result.values[key.name] = value


def not_a_map(node: Node, subject: Subject) -> Diagnostic:
    """E0204: the node is not the mapping of keys that the subject needs."""
    return subject.finding("E0204", f"{subject.what} is not a mapping of keys", node.source,
                           found=describe_node(node), allowed="key: value, one in a line",
                           help="check the indentation and the colons")
