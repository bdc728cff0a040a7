"""Seeded damage to the text of a network file, of the kinds that typing errors and bad copies make.

Start at `mutate`. Lines of the form ``key: value`` are changed as such; everything else as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ai8x.network.yaml_keys import FILE_KEYS, LAYER_KEYS

_PAIR = re.compile(r"^(?P<indent>\s*(?:- +)?)(?P<key>[A-Za-z_][A-Za-z_0-9]*)(?P<colon>\s*:[ \t]*)(?P<value>[^#]*?)"
                   r"(?P<rest>\s*(?:#.*)?)$")

FREE_TEXT = frozenset({"name", "dataset", "arch", "weights", "bias"})
"""Keys whose value may be nearly any word."""

NUMBERS = (
    "0", "1", "2", "3", "4", "5", "7", "8", "9", "10", "15", "16", "17", "31", "32", "33", "63", "64", "65", "100",
    "255", "256", "257", "1000", "1023", "1024", "1025", "4096", "8191", "8192", "32764", "32768", "65535", "65536",
    "131068", "131072", "1048576", "4294967295", "0x10", "0x4000", "0x7ffc", "0x8000", "0x20000", "-1", "-2", "-4",
    "-8", "-15", "-16",
)
"""Integers around the limits; some of them are right for some keys."""

WORDS = (
    "conv2d", "Conv1d", "ConvTranspose2d", "Linear", "passthrough", "add", "sub", "or", "xor", "ReLU", "Abs", "None",
    "true", "false", "HWC", "CHW", "input", "stop", "1x1", "3x3", "5x5", "1x3", "9x9", "[1, 1]", "[2, 2]", "[2, 1]",
    "[0, 0]", "[3, 16]", "[17, 17]", "0x000000000000000f", "0xffffffffffffffff", "0x00000000ffff0000",
    "0x1111111111111111", "0x0000000000000001",
)
"""Values that are right for some keys."""

GARBAGE = (
    "4294967296", "99999999999", "18446744073709551616", "-99999", "1" * 25, "3.7", "1e3", "-0.5", ".nan", ".inf",
    "-.inf", "nan", "~", "null", "", "''", '"8"', "banana", "[]", "{}", "[1, 2, 3]", "[[1]]", "{a: 1}", "[banana]",
    "yes", "on", "0o17", "010", "1:30", "0x", "0xfg", "1_000", "&a 1", "*a", "!!int 3", "!!python/object:os.system x",
    "|", ">", "?", "-", "[1", "{1", "'", '"', "@", "`x`", "%s", "\t1", "\\x00", "é", "１６", "<<",
)
"""Values that no key but `FREE_TEXT` may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A damaged file.

    Args:
        text: of it.
        story: what was done, one entry per mutation.
        garbage: key that was given a value which no such key can have; empty where none was.
    """

    text: str
    story: tuple[str, ...]
    garbage: str = ""


@dataclass(frozen=True, slots=True)
class _Change:
    lines: list[str]
    story: str
    garbage: str = ""


def mutate(text: str, rng: np.random.Generator) -> Mutant:
    """The text after one mutation, or after two in one of three cases.

    Args:
        text: of a correct file.
        rng: source of every choice.
    """
    story: list[str] = []
    garbage = ""
    for _ in range(1 if rng.random() < 2 / 3 else 2):
        change = _KINDS[int(rng.integers(len(_KINDS)))](text.split("\n"), rng)
        text = "\n".join(change.lines)
        story.append(change.story)
        garbage = garbage or change.garbage
    return Mutant(text=text, story=tuple(story), garbage=garbage if len(story) == 1 else "")


def _pick(rng: np.random.Generator, choices: tuple[str, ...] | list[str] | list[int]) -> str | int:
    return choices[int(rng.integers(len(choices)))]


def _pairs(lines: list[str]) -> list[int]:
    return [number for number, line in enumerate(lines) if _PAIR.match(line)] or [0]


def _line(lines: list[str], rng: np.random.Generator) -> int:
    """A line with more than a comment."""
    told = [number for number, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")]
    return int(_pick(rng, told or [0]))


def _with_value(lines: list[str], number: int, value: str) -> list[str]:
    match = _PAIR.match(lines[number])
    changed = list(lines)
    if match:
        changed[number] = f"{match['indent']}{match['key']}{match['colon'] or ': '}{value}{match['rest']}"
    return changed


def _key_at(lines: list[str], number: int) -> str:
    match = _PAIR.match(lines[number])
    return match["key"] if match else ""


def _replace_value(values: tuple[str, ...], kind: str) -> Callable[[list[str], np.random.Generator], _Change]:
    def change(lines: list[str], rng: np.random.Generator) -> _Change:
        number, value = int(_pick(rng, _pairs(lines))), str(_pick(rng, values))
        key = _key_at(lines, number)
        nonsense = key if values is GARBAGE and key not in FREE_TEXT else ""
        story = f"line {number + 1}: {key} gets the {kind} {value!r}"
        return _Change(_with_value(lines, number, value), story, nonsense)

    return change


def _take_value(lines: list[str], rng: np.random.Generator) -> _Change:
    """The value of another line."""
    target, source = int(_pick(rng, _pairs(lines))), int(_pick(rng, _pairs(lines)))
    match = _PAIR.match(lines[source])
    value = match["value"] if match else ""
    return _Change(_with_value(lines, target, value),
                   f"line {target + 1}: {_key_at(lines, target)} gets the value of line {source + 1}")


def _take_value_of_layer(lines: list[str], rng: np.random.Generator) -> _Change:
    """The value that the same key has elsewhere."""
    target = int(_pick(rng, _pairs(lines)))
    key = _key_at(lines, target)
    same = [number for number in _pairs(lines) if _key_at(lines, number) == key]
    source = int(_pick(rng, same))
    match = _PAIR.match(lines[source])
    return _Change(_with_value(lines, target, match["value"] if match else ""),
                   f"line {target + 1}: {key} gets the value of line {source + 1}")


def _nudge(lines: list[str], rng: np.random.Generator) -> _Change:
    """A number a little off, or a digit too many."""
    number = int(_pick(rng, _pairs(lines)))
    match = _PAIR.match(lines[number])
    value = match["value"].strip() if match else ""
    if re.fullmatch("0x[0-9a-fA-F._]+", value):
        plain = int(value.replace(".", "").replace("_", ""), 16)
        changed = int(rng.choice([-4, -1, 1, 4]))
        value = hex(max(0, plain + changed) if rng.random() < 0.5 else plain ^ 1 << int(rng.integers(64)))
    elif re.fullmatch(r"-?\d+", value):
        value = str(int(value) + int(rng.choice([-1, 1]))) if rng.random() < 0.7 else value + str(rng.integers(10))
    else:
        value = value[:-1]
    return _Change(_with_value(lines, number, value), f"line {number + 1}: {_key_at(lines, number)} becomes {value!r}")


def _misspell(lines: list[str], rng: np.random.Generator) -> _Change:
    number = int(_pick(rng, _pairs(lines)))
    match = _PAIR.match(lines[number])
    if not match:
        return _Change(lines, "nothing")
    key = match["key"]
    place = int(rng.integers(len(key)))
    forms = (key[:place] + key[place + 1:], key[:place] + key[place] + key[place:], key.upper(), key.capitalize(),
             key[:place] + "x" + key[place + 1:], key.replace("_", "-"), key + "s", f"'{key}'", f"{key} ", f" {key}")
    wrong = str(_pick(rng, forms))
    changed = list(lines)
    changed[number] = f"{match['indent']}{wrong}{match['colon']}{match['value']}{match['rest']}"
    return _Change(changed, f"line {number + 1}: {key} is spelt {wrong!r}")


def _swap_key(lines: list[str], rng: np.random.Generator) -> _Change:
    """Another known key in front of a value."""
    number, key = int(_pick(rng, _pairs(lines))), str(_pick(rng, sorted({*LAYER_KEYS, *FILE_KEYS})))
    match = _PAIR.match(lines[number])
    changed = list(lines)
    if match:
        changed[number] = f"{match['indent']}{key}{match['colon']}{match['value']}{match['rest']}"
    return _Change(changed, f"line {number + 1}: {_key_at(lines, number)} becomes {key}")


def _add_key(lines: list[str], rng: np.random.Generator) -> _Change:
    """A known key more, with a value of any kind."""
    number, key = int(_pick(rng, _pairs(lines))), str(_pick(rng, sorted(LAYER_KEYS)))
    is_garbage = rng.random() < 0.3
    value = str(_pick(rng, GARBAGE if is_garbage else NUMBERS + WORDS))
    match = _PAIR.match(lines[number])
    indent = " " * len(match["indent"]) if match else ""
    added = [*lines[: number + 1], f"{indent}{key}: {value}", *lines[number + 1:]]
    nonsense = key if is_garbage and key not in FREE_TEXT else ""
    return _Change(added, f"line {number + 2}: {key}: {value} is added", nonsense)


def _delete_line(lines: list[str], rng: np.random.Generator) -> _Change:
    number = _line(lines, rng)
    return _Change([*lines[:number], *lines[number + 1:]], f"line {number + 1} is deleted")


def _delete_key(lines: list[str], rng: np.random.Generator) -> _Change:
    """A key with its value; the dash of an entry stays."""
    number = int(_pick(rng, _pairs(lines)))
    match = _PAIR.match(lines[number])
    rest = list(lines)
    if match and "-" in match["indent"] and number + 1 < len(lines):
        rest[number + 1] = match["indent"] + rest[number + 1].lstrip()
    del rest[number]
    return _Change(rest, f"line {number + 1}: {_key_at(lines, number)} is deleted")


def _duplicate_line(lines: list[str], rng: np.random.Generator) -> _Change:
    number = _line(lines, rng)
    return _Change([*lines[:number], lines[number], *lines[number:]], f"line {number + 1} is doubled")


def _swap_lines(lines: list[str], rng: np.random.Generator) -> _Change:
    one, other = _line(lines, rng), _line(lines, rng)
    changed = list(lines)
    changed[one], changed[other] = lines[other], lines[one]
    return _Change(changed, f"lines {one + 1} and {other + 1} change places")


def _move_line(lines: list[str], rng: np.random.Generator) -> _Change:
    one, other = _line(lines, rng), _line(lines, rng)
    changed = list(lines)
    changed.insert(other, changed.pop(one))
    return _Change(changed, f"line {one + 1} moves to {other + 1}")


def _indent(lines: list[str], rng: np.random.Generator) -> _Change:
    number = _line(lines, rng)
    line = lines[number]
    forms = ("  " + line, " " + line, line.removeprefix("  "), line.removeprefix(" "), line.lstrip(),
             "\t" + line.lstrip(), line.replace("- ", "  ", 1), "  - " + line.strip(), line.replace("- ", "-", 1))
    changed = list(lines)
    changed[number] = str(_pick(rng, forms))
    return _Change(changed, f"line {number + 1} becomes {changed[number]!r}")


def _damage_text(lines: list[str], rng: np.random.Generator) -> _Change:
    """A character lost, doubled or replaced."""
    number = _line(lines, rng)
    line = lines[number]
    place = int(rng.integers(len(line))) if line else 0
    character = str(_pick(rng, list(":-#'\"[]{}&*!|>%@`,?\t\u00a0\u2028\x00~ 0x")))
    forms = (line[:place] + line[place + 1:], line[:place] + character + line[place:],
             line[:place] + character + line[place + 1:], line[:place], line[place:])
    changed = list(lines)
    changed[number] = str(_pick(rng, forms))
    return _Change(changed, f"line {number + 1} becomes {changed[number]!r}")


def _cut(lines: list[str], rng: np.random.Generator) -> _Change:
    number = _line(lines, rng)
    return _Change(lines[:number], f"the file ends before line {number + 1}")


def _double_layer(lines: list[str], rng: np.random.Generator) -> _Change:
    """An entry of a list once more, or without."""
    starts = [number for number, line in enumerate(lines) if line.lstrip().startswith("- ")] or [0]
    first = int(_pick(rng, starts))
    end = next((number for number in starts if number > first), len(lines))
    entry = lines[first:end]
    if rng.random() < 0.5:
        return _Change([*lines[:first], *lines[end:]], f"the entry of line {first + 1} is deleted")
    return _Change([*lines[:end], *entry, *lines[end:]], f"the entry of line {first + 1} is doubled")


_KINDS: tuple[Callable[[list[str], np.random.Generator], _Change], ...] = (
    _replace_value(NUMBERS, "number"), _replace_value(NUMBERS, "number"), _replace_value(WORDS, "word"),
    _replace_value(GARBAGE, "garbage"), _replace_value(GARBAGE, "garbage"), _take_value, _take_value_of_layer, _nudge,
    _nudge, _misspell, _swap_key, _add_key, _add_key, _delete_line, _delete_key, _delete_key, _duplicate_line,
    _swap_lines, _move_line, _indent, _damage_text, _cut, _double_layer,
)
