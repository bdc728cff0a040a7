"""YAML settings as plain values that remember their places: run configurations and schedules.

Scalars follow one strict rule: true and false, decimal integers, floating-point numbers, ``null`` and text; quoted
values are text. Start at `read_settings`.

Source: docs/design.md "Files".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai8x.errors import Source, user_error
from ai8x.network.yaml_nodes import ListNode, MapNode, Node, ScalarNode, read_nodes

KeyPath = tuple[str | int, ...]
_INTEGER = re.compile(r"[+-]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The content of a settings file.

    Args:
        values: nested dictionaries, lists and plain values.
        places: where each value stands, by its path of keys and indices; the path () is the file.
    """

    values: dict[str, Any]
    places: Mapping[KeyPath, Source]

    def place(self, *path: str | int) -> Source:
        """The place of a value, or of the nearest collection around it."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]


def read_settings(path: Path) -> Settings:
    """A YAML file whose top level is a mapping.

    Raises:
        UserError: E01xx for a file that is not safe or not valid YAML, E0612 for another top level, a repeated key
            or a key that is not a word.
    """
    places: dict[KeyPath, Source] = {}
    root = read_nodes(path)
    values = _convert(root, (), places)
    if not isinstance(values, dict):
        raise user_error("E0612", "the file is not a mapping", source=root.source,
                         allowed="lines of the form key: value", help="write one setting a line, for example lr: 0.001")
    return Settings(values=values, places=places)


def _convert(node: Node, path: KeyPath, places: dict[KeyPath, Source]) -> Any:
    places[path] = node.source
    if isinstance(node, ScalarNode):
        return _scalar(node)
    if isinstance(node, ListNode):
        return [_convert(item, (*path, index), places) for index, item in enumerate(node.items)]
    return _mapping(node, path, places)


def _mapping(node: MapNode, path: KeyPath, places: dict[KeyPath, Source]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in node.entries:
        if not isinstance(key, ScalarNode):
            raise user_error("E0612", "a key is not a word", source=key.source, allowed="letters, digits and _",
                             help="write key: value")
        if key.text in values:
            raise user_error("E0612", f"the key '{key.text}' is given twice", source=key.source,
                             help="keep one of the two")
        values[key.text] = _convert(value, (*path, key.text), places)
    return values


def _scalar(node: ScalarNode) -> Any:
    if not node.plain:
        return node.text
    if node.text.lower() in _WORDS:
        return _WORDS[node.text.lower()]
    if _INTEGER.fullmatch(node.text):
        return int(node.text)
    if _FLOAT.fullmatch(node.text):
        return float(node.text)
    return node.text
