"""The manual's pages of error codes: what each says, when it appears, an example that was run, and the remedy.

Messages and remedies come from the source (`ai8x.manual_codes`), rules from the docstrings of the limits, and what is
printed from running the examples. Start at `error_pages` and `error_page`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ai8x.errors import ExitStatus
from ai8x.k210 import constraints as k210_constraints
from ai8x.manual_codes import CodeUse, codes_in, scan_package
from ai8x.manual_examples import CHECKPOINT_FILE, NETWORK_FILE, Example, printed
from ai8x.manual_examples_files import FILE_EXAMPLES
from ai8x.manual_examples_layers import LAYER_EXAMPLES
from ai8x.manual_examples_places import PLACE_EXAMPLES
from ai8x.manual_text import page, rule_of, table
from ai8x.max7800x.constraints import RULES

PACKAGE = Path(__file__).resolve().parent
FOLDER = "errors"
INDEX = f"{FOLDER}/README.md"

EXAMPLES: Mapping[str, Example] = {**FILE_EXAMPLES, **LAYER_EXAMPLES, **PLACE_EXAMPLES}
"""Code -> what triggers it; the codes that network files and synthesize.py meet most."""

RANGES = (
    ("E01", "Syntax and bounds of files"), ("E02", "Keys and values of the network file"),
    ("E03", "Network against device"), ("E04", "Memory"), ("E05", "Checkpoints"),
    ("E06", "Data sets and training"), ("E07", "kmodel and ONNX"), ("E08", "Environment"),
    ("W03", "Warnings and notices: network"), ("W04", "Warnings and notices: placement"),
    ("W07", "Warnings and notices: conversion"),
)
"""First three characters of a code -> title."""

_RULE_PAGES: tuple[tuple[str, Sequence[Callable[..., Any]], str], ...] = (
    ("MAX78000", RULES, "limits-max78000.md"), ("K210", k210_constraints.RULES, "limits-k210.md"))


@cache
def uses() -> Mapping[str, tuple[CodeUse, ...]]:
    """Code -> where and how the source uses it, in order of the codes."""
    found: dict[str, list[CodeUse]] = {}
    for use in scan_package(PACKAGE):
        found.setdefault(use.code, []).append(use)
    return {code: tuple(group) for code, group in found.items()}


def error_pages() -> dict[str, str]:
    """Every page: path below the reference -> text."""
    return {INDEX: index_page(), **{f"{FOLDER}/{code}.md": error_page(code) for code in uses()}}


def index_page() -> str:
    """The list of all codes."""
    lines = [
        "Every finding that ai8x prints has a code, a place, what was found, what is allowed and a remedy. A code has "
        "a page; `python -m ai8x.manual E0312` prints it. `…` stands for a name or a number. `I0001` is a defect of "
        "ai8x: its message names a log file to report.", "",
        "Exit status: " + ", ".join(f"{status.value} {_status_words(status)}" for status in ExitStatus) + ".", "",
        "`--json-errors` prints the same on standard error as one JSON list; "
        "[errors.schema.json](../errors.schema.json) describes it.",
    ]
    for prefix, title in RANGES:
        rows = [(f"[{code}]({code}.md)", _first_message(group)) for code, group in uses().items()
                if code.startswith(prefix)]
        lines += ["", f"## {prefix}xx: {title}", "", *table(("Code", "Message"), rows)]
    return page("Error codes", lines)


def error_page(code: str) -> str:
    """The page of one code.

    Args:
        code: one of `uses`.
    """
    example = EXAMPLES.get(code)
    lines = [example.cause, ""] if example else []
    lines += _rules(code)
    lines += _example(code, example) if example else []
    lines += ["## Messages", "", *table(("Message", "Remedy", "Module"), _message_rows(uses()[code])), "",
              "All codes: [README.md](README.md)."]
    return page(code, lines)


def _rules(code: str) -> Iterator[str]:
    """Limits of the chips that have this code."""
    for chip, rules, link in _RULE_PAGES:
        found = [rule for rule in rules if code in _codes_of(rule)]
        # A rule may call another one; where the code stands in a rule's own text, that is the one.
        own = [rule for rule in found if code in inspect.getsource(rule)]
        for rule in own or found:
            yield f"Rule of the {chip}: {rule_of(rule).rstrip('.')}. Its numbers: [{link}](../{link})."
            yield ""


@cache
def _codes_of(rule: Callable[..., Any]) -> frozenset[str]:
    return frozenset(codes_in(rule).split(", "))


def _example(code: str, example: Example) -> list[str]:
    lines = ["## Example", ""]
    if NETWORK_FILE in example.words:
        lines += [f"`{NETWORK_FILE}`:", "", "```yaml", *example.text.rstrip("\n").split("\n"), "```", ""]
    if CHECKPOINT_FILE in example.words:
        arrays = ", ".join(f"`{name}` {'x'.join(map(str, array.shape))}" for name, array in example.state.items())
        shape = "x".join(map(str, example.shape))
        lines += [f"`{CHECKPOINT_FILE}` of architecture `{example.arch}` for an input of {shape}: {arrays}.", ""]
    lines += [f"`python synthesize.py {' '.join(example.words)}` prints", ""]
    return [*lines, "```text", *_printed(code).split("\n"), "```", ""]


@cache
def _printed(code: str) -> str:
    return printed(EXAMPLES[code])


def _first_message(group: Iterable[CodeUse]) -> str:
    messages = list(dict.fromkeys(use.message for use in group if use.message))
    more = f" (and {len(messages) - 1} more)" if len(messages) > 1 else ""
    return (messages[0] if messages else "(the message names the problem)") + more


def _message_rows(group: Iterable[CodeUse]) -> Iterator[tuple[str, str, str]]:
    modules: dict[tuple[str, str], list[str]] = {}
    for use in group:
        level = "" if use.level == "error" else f" ({use.level})"
        modules.setdefault((use.message + level, use.help), []).append(use.module)
    for (message, help_text), names in modules.items():
        yield message or "(the message names the problem)", help_text, ", ".join(names)


def _status_words(status: ExitStatus) -> str:
    return {ExitStatus.SUCCESS: "success", ExitStatus.INTERNAL: "internal error", ExitStatus.USER: "input refused",
            ExitStatus.MISMATCH: "verification found a difference", ExitStatus.INTERRUPTED: "interrupted"}[status]
