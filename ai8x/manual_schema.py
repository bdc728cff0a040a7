"""The network file's keys as JSON Schema, for completion and checks in editors.

Made from the tables of `ai8x.network.yaml_keys`, of which every reader carries its own schema. An editor that has this
schema marks unknown keys, wrong kinds and values out of range while one types; what depends on other layers or on the
chip is found by synthesize.py. Start at `network_schema`; `errors_schema` describes what ``--json-errors`` prints.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ai8x.network import yaml_keys
from ai8x.network.yaml_keys import EXCLUSIVE_KEYS, Key

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def network_schema(meanings: Mapping[str, str]) -> Schema:
    """The schema of a network file.

    Args:
        meanings: key -> what it means, in a line.
    """
    layer = _mapping(yaml_keys.LAYER_KEYS, meanings, EXCLUSIVE_KEYS)
    top = _mapping(yaml_keys.FILE_KEYS, meanings)
    lists = {"layers": "layer", "unload": "unload", "data_buffer": "data_buffer"}
    for name, item in lists.items():
        top["properties"][name] |= {"type": "array", "items": {"$ref": f"#/$defs/{item}"}, "minItems": 1}
    top["properties"]["data_buffer"]["maxItems"] = 1
    return {
        "$schema": DIALECT,
        "title": "Network description of ai8x",
        "description": "Written by `python -m ai8x.manual` from ai8x/network/yaml_keys.py.",
        **top,
        "$defs": {"layer": layer, "unload": _mapping(yaml_keys.UNLOAD_KEYS, meanings),
                  "data_buffer": _mapping(yaml_keys.DATA_BUFFER_KEYS, meanings)},
    }


def errors_schema() -> Schema:
    """The schema of what ``--json-errors`` prints; parts are added, never renamed or removed."""
    text, number = {"type": ["string", "null"]}, {"type": ["integer", "null"], "minimum": 0}
    properties = {
        "level": {"enum": ["error", "warning", "notice"], "description": "an error stops the command"},
        "code": {"type": "string", "pattern": "^[EWI][0-9]{4}$", "description": "never reused; each has a page"},
        "message": {"type": "string", "description": "one sentence"},
        "file": text | {"description": "as typed on the command line"},
        "line": number | {"description": "from 1; 0 where the file as a whole is meant"},
        "column": number | {"description": "from 1; 0 likewise"},
        "layer": text | {"description": "name of the layer"},
        "layer_index": number | {"description": "number of the layer, from 0"},
        "found": text | {"description": "the value that is wrong"},
        "allowed": text | {"description": "the rule"},
        "help": text | {"description": "what to do"},
    }
    return {"$schema": DIALECT, "title": "Output of --json-errors", "type": "array",
            "items": {"type": "object", "properties": properties, "required": list(properties),
                      "additionalProperties": False}}


def schema_text(schema: Schema) -> str:
    """A schema as a file."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _mapping(table: Mapping[str, Key], meanings: Mapping[str, str],
             exclusive: Iterable[tuple[str, str]] = ()) -> Schema:
    """The schema of a mapping with these keys and no others."""
    keys = {key.name: key for key in table.values()}
    properties = {spelling: _property(key, spelling, meanings) for spelling, key in table.items()}
    pairs = [*(pair for key in keys.values() for pair in _spellings(key)), *exclusive]
    return {
        "type": "object",
        "properties": properties,
        "required": [key.name for key in keys.values() if key.mandatory],
        "additionalProperties": False,
        **({"allOf": [{"not": {"required": list(pair)}} for pair in pairs]} if pairs else {}),
    }


def _property(key: Key, spelling: str, meanings: Mapping[str, str]) -> Schema:
    text = meanings.get(key.name, "not available on this chip")
    if spelling != key.name:
        text = f"the same as {key.name}: {text}"
    default = {} if key.default is None else {"default": key.default}
    return {"description": text, **default, **({} if key.reader is None else key.reader.schema)}


def _spellings(key: Key) -> Iterator[tuple[str, str]]:
    """Pairs of spellings of one key, of which a mapping has at most one."""
    return itertools.combinations((key.name, *key.synonyms), 2)
