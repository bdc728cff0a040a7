"""What the values of a network file may look like: our own rules for numbers, truth values and maps of processors.

Every reader takes a node and returns a value, or raises `BadValue`, which the caller turns into a diagnostic with
place and layer. It also carries the same rule as JSON Schema, for editors. Knows nothing of the keys themselves. Start
at `ValueReader`, `BadValue` and `read_integer`.

Rules: integers are decimal or ``0x``; truth values are true and false in any case; maps of processors may contain
dots and underscores for reading. YAML 1.1's surprises (010 = 8, no = false, 1:30 = 90) are refused.

Source: docs/design.md "Files", "Reading vendor files"; spec/max78000-cnn.md section 7.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from ai8x.network.ir import NETWORK_INPUT
from ai8x.network.yaml_nodes import ListNode, Node, ScalarNode

MAX_INTEGER = (1 << 32) - 1
NUM_PROCESSORS = 64
"""Width of a map of processors in the description language; the largest of the family's devices has as many."""

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,19})|[-+]?0[xX][0-9a-fA-F]{1,16}")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+")
_MAP = re.compile(r"0[xX][0-9a-fA-F]+|[0-9]+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_KERNEL = re.compile(r"([1-9][0-9]{0,3})[xX]([1-9][0-9]{0,3})")
_LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
C_KEYWORDS = frozenset((
    "auto", "break", "case", "char", "const", "continue", "default", "do", "double", "else", "enum", "extern", "float",
    "for", "goto", "if", "inline", "int", "long", "register", "restrict", "return", "short", "signed", "sizeof",
    "static", "struct", "switch", "typedef", "union", "unsigned", "void", "volatile", "while",
))
"""Words that are no identifiers in C, so that no generated name may be one of them."""

RESERVED_NAMES = frozenset({"stop", "input"})
"""Words that stand for something else than a layer."""

Value = TypeVar("Value", covariant=True)
Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ValueReader(Generic[Value]):
    """Reads a value and says in JSON Schema what it accepts.

    Args:
        read: returns the value of a node, or raises `BadValue`.
        schema: accepts at least what `read` accepts, and as little else as a schema can say. An editor sees plain
            ``0x10`` as a number, ``0x00.10`` and ``3x3`` as texts.
    """

    read: Callable[[Node], Value]
    schema: Schema

    def __call__(self, node: Node) -> Value:
        """The value of a node.

        Raises:
            BadValue: the key does not allow it.
        """
        return self.read(node)


Reader = ValueReader[Any]
Extent = tuple[int, ...]
"""One number for all spatial dimensions or for the rows of 1-D data, or two: rows, columns."""


class BadValue(Exception):
    """A value that its key does not allow.

    Args:
        message: one sentence that follows the key.
        allowed: the rule.
        help: what to write instead.
        code: diagnostic code, E0204 (kind of value) unless it is the range (E0205) or a more special one.
        node: the part of the value that is wrong, where it is not the whole.
    """

    def __init__(self, message: str, *, allowed: str, help: str = "", code: str = "E0204",
                 node: Node | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.allowed = allowed
        self.help = help or f"write {allowed}"
        self.code = code
        self.node = node


def read_integer(node: Node, minimum: int = 0, maximum: int = MAX_INTEGER) -> int:
    """A decimal or hexadecimal integer within a range."""
    allowed = f"an integer from {minimum} to {maximum}"
    if not isinstance(node, ScalarNode) or not node.plain:
        quoted = isinstance(node, ScalarNode) and bool(_INTEGER.fullmatch(node.text))
        raise BadValue("is not an integer", allowed=allowed, help="remove the quotes" if quoted else "", node=node)
    if _LEADING_ZERO.fullmatch(node.text):
        raise BadValue("has leading zeros, which YAML 1.1 reads as octal", allowed=allowed,
                       help=f"write {node.text.lstrip('+-0') or '0'}", node=node)
    if not _INTEGER.fullmatch(node.text):
        raise BadValue("is not an integer", allowed=allowed, node=node)
    value = int(node.text, 16 if "x" in node.text.lower() else 10)
    if not minimum <= value <= maximum:
        raise BadValue("is out of range", allowed=allowed, code="E0205", node=node)
    return value


def reads(**schema: Any) -> Callable[[Callable[[Node], Value]], ValueReader[Value]]:
    """Turns a function into a reader with this schema."""
    return lambda function: ValueReader(function, schema)


def integer(minimum: int = 0, maximum: int = MAX_INTEGER) -> ValueReader[int]:
    """A reader of integers from ``minimum`` to ``maximum``."""
    return ValueReader(lambda node: read_integer(node, minimum, maximum), _integers(minimum, maximum))


def _integers(minimum: int, maximum: int) -> Schema:
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


def _any_case(*words: str) -> str:
    """A pattern for words in any case; schemas have no flag for it."""
    spelt = ("".join(f"[{c.upper()}{c.lower()}]" if c.isalpha() else re.escape(c) for c in word) for word in words)
    return "|".join(spelt)


def one_of(*values: int) -> ValueReader[int]:
    """A reader of an integer out of a few."""

    @reads(enum=list(values))
    def read(node: Node) -> int:
        value = read_integer(node)
        if value not in values:
            raise BadValue("is not supported", allowed=", ".join(map(str, values)), code="E0205", node=node)
        return value

    return read


@reads(type="boolean")
def read_boolean(node: Node) -> bool:
    """Truth values in any case; YAML 1.1's other spellings get a hint."""
    text = node.text.lower() if isinstance(node, ScalarNode) and node.plain else ""
    if text in ("true", "false"):
        return text == "true"
    replacement = {"yes": "true", "on": "true", "y": "true", "1": "true", "no": "false", "off": "false", "n": "false",
                   "0": "false"}.get(text, "true or false")
    raise BadValue("is not a truth value", allowed="true or false", help=f"write {replacement}",
                   code="E0208" if replacement != "true or false" else "E0204", node=node)


@reads(type=["string", "number", "boolean"])
def read_text(node: Node) -> str:
    """A scalar as typed, quoted or not; not empty."""
    if not isinstance(node, ScalarNode):
        raise BadValue("is not a text", allowed="a word", node=node)
    if not node.text or (node.plain and node.text in ("~", "null")):
        raise BadValue("is empty", allowed="a word", node=node)
    return node.text


@reads(type=["string", "number", "boolean"], pattern=f"^{_LABEL.pattern}$")
def read_label(node: Node) -> str:
    """A word that may become part of file names and of generated C: letters, digits and ``_ . + -``."""
    text = read_text(node)
    if not _LABEL.fullmatch(text):
        raise BadValue("has characters that names of files must not have",
                       allowed="up to 64 letters, digits and _ . + -", help="rename it", code="E0209", node=node)
    return text


@reads(type="string", pattern=f"^(?!({_any_case(*sorted(RESERVED_NAMES))}|{'|'.join(sorted(C_KEYWORDS))})$)"
                               f"{_NAME.pattern}$")
def read_name(node: Node) -> str:
    """The name of a layer or buffer: like a C identifier, dots and hyphens allowed."""
    text = read_text(node)
    if text.lower() in RESERVED_NAMES or text in C_KEYWORDS:
        raise BadValue("is a reserved word", allowed="any other name", help=f"write {text}_layer", code="E0209",
                       node=node)
    if not _NAME.fullmatch(text):
        raise BadValue("is not usable as a name", code="E0209", node=node,
                       allowed="up to 64 letters, digits and _ . -, the first one a letter or _", help="rename it")
    return text


def word(choices: Mapping[str, Value], hints: Mapping[str, str] = MappingProxyType({})) -> ValueReader[Value]:
    """A reader of one of several words, in any case.

    Args:
        choices: word -> value.
        hints: part of a wrong word -> what to write instead.
    """

    @reads(anyOf=[{"enum": list(choices)}, {"type": "string", "pattern": f"^({_any_case(*choices)})$"}])
    def read(node: Node) -> Value:
        text = read_text(node)
        if text.lower() not in choices:
            close = difflib.get_close_matches(text.lower(), choices, n=1)
            hint = next((help for part, help in hints.items() if part in text.lower()), "write one of these words")
            raise BadValue("has an unknown value", allowed=", ".join(choices), code="E0205", node=node,
                           help=f"write {close[0]}" if close else hint)
        return choices[text.lower()]

    return read


def extent(minimum: int, maximum: int = MAX_INTEGER) -> ValueReader[Extent]:
    """A reader of one integer or of a list [rows, columns]."""
    one = _integers(minimum, maximum)

    @reads(anyOf=[one, {"type": "array", "items": one, "minItems": 1, "maxItems": 2}])
    def read(node: Node) -> Extent:
        if not isinstance(node, ListNode):
            return (read_integer(node, minimum, maximum),)
        if len(node.items) not in (1, 2):
            raise BadValue("has the wrong number of entries", allowed="one integer or [rows, columns]", node=node)
        return tuple(read_integer(item, minimum, maximum) for item in node.items)

    return read


@reads(anyOf=[{"enum": ["1x1", "3x3"]}, {"type": "string", "pattern": f"^{_KERNEL.pattern}$"},
              *extent(1).schema["anyOf"]])
def read_kernel(node: Node) -> Extent:
    """A kernel: ``3x3``, or an integer, or [rows, columns]."""
    if isinstance(node, ScalarNode) and (match := _KERNEL.fullmatch(node.text)):
        return int(match[1]), int(match[2])
    if isinstance(node, ScalarNode) and not _INTEGER.fullmatch(node.text):
        raise BadValue("is not a kernel size", allowed="3x3 and the like, or an integer", help="write 3x3", node=node)
    return extent(1)(node)


@reads(type="array", items=_integers(0, MAX_INTEGER), minItems=2, maxItems=2)
def read_pair(node: Node) -> tuple[int, int]:
    """A list of exactly two integers."""
    if not isinstance(node, ListNode) or len(node.items) != 2:
        raise BadValue("is not a pair", allowed="[start, end]", help="write two integers in brackets", node=node)
    return read_integer(node.items[0]), read_integer(node.items[1])


@reads(anyOf=[_integers(1, (1 << NUM_PROCESSORS) - 1),
              {"type": "string", "pattern": "^(0[._]*[xX][0-9a-fA-F._]+|[0-9._]+)$"}])
def read_processors(node: Node) -> int:
    """A map of processors: decimal or ``0x``, dots and underscores ignored, at least one bit of 64."""
    allowed = f"a map of 1 to {NUM_PROCESSORS} bits such as 0x000000000000000f"
    text = re.sub("[._]", "", node.text) if isinstance(node, ScalarNode) else ""
    if not _MAP.fullmatch(text):
        raise BadValue("is not a map of processors", allowed=allowed, node=node)
    value = int(text, 16 if "x" in text.lower() else 10)
    if not 0 < value < 1 << NUM_PROCESSORS:
        raise BadValue("is out of range", allowed=allowed, code="E0205", node=node)
    return value


@reads(anyOf=[_integers(NETWORK_INPUT, MAX_INTEGER), {"type": "string", "pattern": f"^{_NAME.pattern}$"}])
def read_reference(node: Node) -> int | str:
    """A layer by sequence number or name; ``-1`` and ``input`` stand for the network's input, ``stop`` for the end."""
    if isinstance(node, ScalarNode) and not _INTEGER.fullmatch(node.text):
        text = read_text(node)
        if text.lower() == "input":
            return NETWORK_INPUT
        if _NAME.fullmatch(text):
            return text
        raise BadValue("names no layer", allowed="a sequence number, the name of a layer, or input", node=node)
    return read_integer(node, NETWORK_INPUT)


def list_of(reader: ValueReader[Value]) -> ValueReader[tuple[Value, ...]]:
    """A reader of one value or of a non-empty list of them."""

    @reads(anyOf=[reader.schema, {"type": "array", "items": reader.schema, "minItems": 1}])
    def read(node: Node) -> tuple[Value, ...]:
        if not isinstance(node, ListNode):
            return (reader(node),)
        if not node.items:
            raise BadValue("is an empty list", allowed="at least one entry", help="remove the key", node=node)
        return tuple(reader(item) for item in node.items)

    return read


def unavailable(reason: str, *neutral: str) -> Reader:
    """A reader of a key that is recognised but not available; only its neutral values are accepted."""
    words: list[Any] = [{"true": True, "false": False}.get(text, text) for text in neutral]
    words += [int(text) for text in neutral if text.isdigit()]
    schema: dict[str, Any] = {"enum": words} if words else {"not": {}}

    @reads(**schema)
    def read(node: Node) -> None:
        if isinstance(node, ScalarNode) and node.text.lower() in neutral:
            return
        raise BadValue(f"is not available: {reason}", code="E0206", help="remove the key", node=node,
                       allowed=" or ".join(neutral) if neutral else "no such key")

    return read

