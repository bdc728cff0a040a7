"""The editor's schema of network files: correct files pass, what it can see is refused, and it never cries wolf."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from ai8x import manual
from ai8x.errors import Diagnostic, Source, UserError
from ai8x.manual_schema import errors_schema, network_schema
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.placement import place_network
from ai8x.network.build import build_network
from ai8x.network.ir import TensorShape
from ai8x.network.reference import run_network
from ai8x.network.yaml_file import parse_network_file
from ai8x.network.yaml_keys import LAYER_KEYS
from ai8x.network.yaml_nodes import ListNode, MapNode, Node, ScalarNode, parse_nodes
from tests.mutation.bases import bases, bundled_files
from tests.mutation.run import draw_mutant

NUM_MUTANTS = 250
SCHEMA_CODES = {"E0201", "E0203", "E0206"}
"""What a schema always sees: unknown and missing keys, keys of another chip."""


@cache
def validator() -> Draft202012Validator:
    schema = network_schema(manual.KEY_MEANINGS)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def as_an_editor_reads(node: Node) -> Any:
    """The values of a file by the core rules of YAML 1.2, which editors follow."""
    if isinstance(node, ListNode):
        return [as_an_editor_reads(item) for item in node.items]
    if isinstance(node, MapNode):
        return {key.text if isinstance(key, ScalarNode) else str(key): as_an_editor_reads(value)
                for key, value in node.entries}
    return _plain(node.text) if node.plain else node.text


def _plain(text: str) -> Any:
    for pattern, convert in (
        ("|~|null|Null|NULL", lambda _: None), ("true|True|TRUE", lambda _: True),
        ("false|False|FALSE", lambda _: False),
        ("[-+]?[0-9]+", int), ("0x[0-9a-fA-F]+", lambda t: int(t, 16)), ("0o[0-7]+", lambda t: int(t, 8)),
        (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
         lambda t: float(t.replace(".inf", "inf").replace(".nan", "nan"))),
    ):
        if re.fullmatch(pattern, text):
            return convert(text)
    return text


def refusals(text: str) -> list[str]:
    """Where the schema refuses a file; empty where it passes."""
    content = as_an_editor_reads(parse_nodes(text, "net.yaml"))
    return ["/".join(map(str, error.absolute_path)) for error in validator().iter_errors(content)]


def codes_of(text: str) -> set[str]:
    """Codes with which the reader refuses a file; empty where it reads it."""
    try:
        parse_network_file(text, "net.yaml")
    except UserError as error:
        return {item.code for item in error.diagnostics}
    return set()


@pytest.mark.parametrize("path", bundled_files(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_correct_files_pass(path) -> None:
    assert refusals(path.read_text(encoding="utf-8")) == []


@cache
def mutants() -> tuple[tuple[str, frozenset[str], bool], ...]:
    """(text, the reader's codes, refused by the schema) of mutants that are YAML."""
    return tuple(_judged())


def _judged() -> Iterator[tuple[str, frozenset[str], bool]]:
    for number in range(NUM_MUTANTS):
        text = draw_mutant(17, number)[1].text
        codes = codes_of(text)
        if not any(code.startswith("E01") for code in codes):
            yield text, frozenset(codes), bool(refusals(text))


def test_the_schema_refuses_nothing_that_is_read() -> None:
    assert not [text for text, codes, is_refused in mutants() if is_refused and not codes]


def test_the_schema_sees_unknown_and_missing_keys() -> None:
    seen = [is_refused for _, codes, is_refused in mutants() if codes & SCHEMA_CODES]
    assert len(seen) > 20 and all(seen)


def test_the_schema_sees_nearly_all_wrong_values() -> None:
    """Except what only the text shows: leading zeros, signs, and duplicates by number or name."""
    seen = [is_refused for _, codes, is_refused in mutants() if codes & {"E0204", "E0205"}]
    assert len(seen) > 40 and sum(seen) / len(seen) > 0.95


@pytest.mark.parametrize(("keys", "is_good"), [
    ("op: Conv2D, kernel_size: 3x3, pad: 1", True), ("op: FC, flatten: True, activate: relu", True),
    ("op: passthrough, in_sequences: [input, 0]", True), ("processors: 0x00ff.0000.0000.0001", True),
    ("processors: 0xffffffffffffffff", True), ("pool_dilation: 1, bypass: false", True), ("pad: 0x1", True),
    ("kernel: 3x3", False), ("op: conv3d", False), ("pad: 1.5", False), ("pad: -1", False), ("pad: '1'", False),
    ("kernel_size: 3y3", False), ("kernel_size: [1, 2, 3]", False), ("flatten: 1", False), ("processors: 0", False),
    ("processors: 0x1ffffffffffffffff", False), ("quantization: 3", False), ("bias_group: [0, 4]", False),
    ("max_pool: 2, avg_pool: 2", False), ("op: conv2d, operation: conv2d", False), ("name: while", False),
    ("name: INPUT", False), ("in_crop: [1]", False), ("pool_dilation: 2", False), ("snoop_sequence: 1", False),
])
def test_values_are_judged_as_the_reader_judges_them(keys: str, is_good: bool) -> None:
    text = f"arch: a\ndataset: d\nlayers:\n- {{{keys}}}\n"
    assert (not refusals(text)) == is_good
    assert (not codes_of(text)) == is_good


def test_completion_has_a_text_for_every_key() -> None:
    properties = network_schema(manual.KEY_MEANINGS)["$defs"]["layer"]["properties"]
    assert set(properties) == set(LAYER_KEYS)
    assert all(entry["description"] for entry in properties.values())
    assert properties["operation"]["description"].startswith("the same as op: ")


def test_errors_as_json_follow_their_schema() -> None:
    schema = errors_schema()
    Draft202012Validator.check_schema(schema)
    source = Source(file="net.yaml", line=3, column=4, text="x")
    full = Diagnostic(code="E0312", message="m", source=source, layer="a", layer_index=0, found="f", allowed="a",
                      help="h")
    for items in ([full], [Diagnostic(code="W0303", message="m", level="notice")], []):
        assert not list(Draft202012Validator(schema).iter_errors([item.to_json() for item in items]))
    assert list(full.to_json()) == schema["items"]["required"]
    assert list(Draft202012Validator(schema).iter_errors([{"code": "E1"}]))


DEFAULTS = {key.name: key.default for key in LAYER_KEYS.values() if key.default is not None}


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_default_means_the_same_as_silence(name: str) -> None:
    base = bases()[0]
    value = str(DEFAULTS[name]).lower() if isinstance(DEFAULTS[name], bool) else DEFAULTS[name]
    plain = parse_network_file(base.text)
    changed = []
    for entry in plain.layers:
        line = next(i for i, text in enumerate(base.text.split("\n")) if f"name: {entry.name}" in text)
        is_operand_key = name == "operands" and not entry.eltwise
        if name in entry.sources or is_operand_key:
            continue
        lines = base.text.split("\n")
        lines.insert(line + 1, f"    {name}: {value}")
        changed.append(parse_network_file("\n".join(lines)))
    assert changed
    expected = outcome(plain)
    for file in changed:
        found = outcome(file)
        assert found[0] == expected[0]
        np.testing.assert_equal(found[1], expected[1])


def outcome(file) -> tuple[Any, list[np.ndarray]]:
    """Placement and every layer's output."""
    base = bases()[0]
    network = build_network(file, base.parameters, TensorShape(*base.sample.shape))
    placement = place_network(network, file.hints, MAX78000)
    bare = replace(placement, layers=tuple(replace(layer, sources={}, source=None) for layer in placement.layers))
    trace = run_network(network, base.sample)
    return bare, [trace[index] for index in trace]
