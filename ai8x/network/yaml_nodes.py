"""YAML text as a tree of nodes that know their place, read within limits.

The tree is built from the event stream of PyYAML's pure-Python parser: limits hold before anything is built, no
object is ever constructed, no scalar is interpreted (that is `ai8x.network.yaml_values`). Knows nothing of networks.
Start at `read_nodes` and `Node`.

Source: docs/design.md "Files".
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ai8x.errors import Source, UserError, user_error
from ai8x.files import read_bytes

MAX_BYTES = 1_000_000
MAX_DEPTH = 16
MAX_NODES = 20_000
MAX_SCALAR = 1_000
_MAX_EXCERPT = 240
_BINARY_PROBE = 1024
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarNode:
    """A single value as typed.

    Args:
        text: characters of the value, without quotes.
        plain: written without quotes, so that it may stand for a number or a truth value.
        source: place of the value.
    """

    text: str
    plain: bool
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ListNode:
    """A sequence of values."""

    items: tuple[Node, ...]
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True)
class MapNode:
    """Pairs of key and value in the order of the file; keys may repeat and may be of any kind."""

    entries: tuple[tuple[Node, Node], ...]
    source: Source


Node = ScalarNode | ListNode | MapNode


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been met."""

    is_map: bool
    source: Source
    children: list[Node] = field(default_factory=list)

    def close(self) -> Node:
        if self.is_map:
            pairs = tuple(zip(self.children[::2], self.children[1::2], strict=True))
            return MapNode(entries=pairs, source=self.source)
        return ListNode(items=tuple(self.children), source=self.source)


class _Text:
    """Turns the parser's marks into places."""

    def __init__(self, text: str, file: str) -> None:
        self._file = file
        self._lines = _LINE_BREAK.split(text)

    def place(self, start: yaml.Mark, end: yaml.Mark | None = None) -> Source:
        line = self._lines[start.line] if start.line < len(self._lines) else ""
        line = "".join(c if c.isprintable() else " " for c in line) if len(line) <= _MAX_EXCERPT else ""
        same_line = end is not None and end.line == start.line
        length = max(1, end.column - start.column) if end is not None and same_line else 1
        return Source(file=self._file, line=start.line + 1, column=start.column + 1, length=length, text=line)


def show_text(text: str, limit: int = 60) -> str:
    """Text from a file in a form that is safe to print: escaped where unprintable, shortened where long."""
    if len(text) > limit:
        text = text[: limit - 3] + "..."
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def describe_node(node: Node) -> str:
    """A node in a few words, for the "found" part of a message."""
    if isinstance(node, ScalarNode):
        return show_text(node.text) or "nothing"
    if isinstance(node, ListNode):
        if len(node.items) <= 8 and all(isinstance(item, ScalarNode) for item in node.items):
            return "[" + ", ".join(describe_node(item) for item in node.items) + "]"
        return f"a list of {len(node.items)} entries"
    return f"a mapping of {len(node.entries)} keys"


def read_nodes(path: Path) -> Node:
    """The root of the one document in a YAML file.

    Raises:
        UserError: E0101 to E0111; one finding, because a broken file cannot be read further.
    """
    content = read_bytes(path, limit=MAX_BYTES, code="E0101")
    return parse_nodes(decode_text(content, str(path)), str(path))


def decode_text(content: bytes, file: str) -> str:
    """The text of a file; a UTF-8 byte-order mark is dropped.

    Raises:
        UserError: E0103, not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        binary = b"\0" in content[:_BINARY_PROBE] and not utf16  # other encodings of text have no zeros
        advice = ("give a YAML file here, the checkpoint behind it" if binary else
                  "save the file as UTF-8 in your editor")
        raise user_error(
            "E0103", "the file is not UTF-8 text", source=Source(file=file, line=line, column=1),
            found=f"byte 0x{content[error.start]:02x} at offset {error.start}", allowed="UTF-8",
            help=advice,
        ) from error


def parse_nodes(text: str, file: str) -> Node:
    """The root of the one document in a text.

    Args:
        text: the whole file.
        file: name for messages.

    Raises:
        UserError: E0104 to E0111.
    """
    places = _Text(text, file)
    open_nodes: list[_Open] = []
    roots: list[Node] = []
    num_nodes = 0
    for event in _events(text, file, places):
        source = places.place(event.start_mark, event.end_mark)
        if isinstance(event, yaml.NodeEvent):
            num_nodes += 1
            _check_node(event, source, num_nodes=num_nodes, depth=len(open_nodes) + 1)
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append(_Open(isinstance(event, yaml.MappingStartEvent), source))
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            node = open_nodes.pop().close()
        elif isinstance(event, yaml.ScalarEvent):
            node = _scalar(event, source)
        else:
            _check_document(event, source, len(roots))
            continue
        (open_nodes[-1].children if open_nodes else roots).append(node)
    if not roots:
        raise user_error("E0110", "the file is empty", source=Source(file=file, line=1, column=1), found="nothing",
                         allowed="a network description", help="write arch:, dataset: and layers:")
    return roots[0]


def _events(text: str, file: str, places: _Text) -> Iterator[Any]:
    """Events of the pure-Python parser; what it cannot read becomes E0104."""
    reached = Source(file=file, line=1, column=1)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            end: Any = event.end_mark
            reached = places.place(end)
            yield event
    except yaml.MarkedYAMLError as error:
        # A key without its colon is noticed at the next line only.
        late = error.context_mark is not None and error.context == "while scanning a simple key"
        mark = error.context_mark if late else error.problem_mark or error.context_mark
        raise _syntax_error(str(error.problem or error.context), places.place(mark) if mark else reached) from error
    except yaml.reader.ReaderError as error:
        line = len(_LINE_BREAK.findall(text, 0, error.position)) + 1
        raise _syntax_error(f"character U+{int(error.character):04X}: {error.reason}",
                            Source(file=file, line=line, column=1)) from error
    except (yaml.YAMLError, ValueError, OverflowError, IndexError) as error:
        # PyYAML converts escapes (\U00110000) and directive numbers without checking their range.
        raise _syntax_error(str(error), reached) from error


_PROBLEMS: tuple[tuple[str, str, str], ...] = (
    ("'\\t'", "a tab where only spaces are allowed", "replace the tab by spaces"),
    ("could not find expected ':'", "a line that is neither a key with a colon nor an entry with '- '",
     "write key: value, with a blank behind the colon"),
    ("but found '<block sequence start>'", "an entry that is not below the entries before it",
     "indent this '-' like those of the other entries"),
    ("but found '-'", "an entry that is not below the entries before it",
     "indent this '-' like those of the other entries"),
    ("but found '<block mapping start>'", "a key that is not below the keys before it",
     "indent this line like the other keys of its entry"),
    ("but found '?'", "a key where an entry of the list is expected",
     "write '- ' with a blank in front of a new entry, or indent the line like the other keys"),
    ("but found '<scalar>'", "a word that belongs to no key",
     "write key: value, or indent the line like its neighbours"),
    ("mapping values are not allowed here", "a second colon, or a line that is indented too far",
     "indent the line like its neighbours, or put the value into quotes"),
    ("expected ',' or", "a bracket or brace that is not closed", "close the list with ] or the mapping with }"),
    ("unexpected end of stream", "a quote that is not closed", "write the missing quote"),
)
"""Part of PyYAML's words -> what that means, what to do."""


def _syntax_error(problem: str, source: Source) -> UserError:
    known = (entry for entry in _PROBLEMS if entry[0] in problem)
    _, found, action = next(known, ("", problem, "check indentation, colons and brackets at this place"))
    return user_error("E0104", "the file is not valid YAML", source=source, found=show_text(found, 200),
                      allowed="YAML 1.1", help=action)


def _check_node(event: yaml.NodeEvent, source: Source, *, num_nodes: int, depth: int) -> None:
    if isinstance(event, yaml.AliasEvent) or event.anchor:
        raise user_error("E0105", "anchors and aliases are not allowed", source=source,
                         found=show_text(str(event.anchor)), allowed="plain keys and values",
                         help="write the value out at every place")
    if tag := getattr(event, "tag", None):
        raise user_error("E0106", "tags are not allowed", source=source, found=show_text(str(tag)),
                         allowed="plain keys and values", help="remove the tag (the word after '!')")
    if num_nodes > MAX_NODES:
        raise user_error("E0107", "the file has too many values", source=source, found=f"more than {MAX_NODES}",
                         allowed=f"at most {MAX_NODES} keys and values", help="check that this is the file you meant")
    if depth > MAX_DEPTH and isinstance(event, yaml.CollectionStartEvent):
        raise user_error("E0108", "lists and mappings are nested too deeply", source=source, found=f"depth {depth}",
                         allowed=f"at most {MAX_DEPTH} levels", help="remove brackets or indentation")


def _scalar(event: yaml.ScalarEvent, source: Source) -> ScalarNode:
    if len(event.value) > MAX_SCALAR:
        raise user_error("E0109", "a value is too long", source=source, found=f"{len(event.value)} characters",
                         allowed=f"at most {MAX_SCALAR}", help="shorten the value")
    if event.value == "<<" and not event.style:
        raise user_error("E0105", "merge keys are not allowed", source=source, found="<<",
                         allowed="plain keys and values", help="write the keys out at every place")
    return ScalarNode(text=event.value, plain=not event.style, source=source)


def _check_document(event: yaml.Event, source: Source, num_roots: int) -> None:
    if isinstance(event, yaml.DocumentStartEvent) and num_roots:
        raise user_error("E0111", "the file has a second document", source=source, found="another '---'",
                         allowed="one document", help="keep one network in a file")
