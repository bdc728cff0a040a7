"""Markdown for the manual's generated pages. Start at `page` and `table`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

NOTICE = "<!-- Written by `python -m ai8x.manual`; changes belong into the code. -->"


def page(title: str, lines: Iterable[str]) -> str:
    """A page with its notice."""
    return "\n".join([f"# {title}", "", NOTICE, "", *lines]) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; bars in cells are escaped."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = (" ".join(cell.split()).replace("|", "\\|") for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def rule_of(function: Callable[..., Any]) -> str:
    """A rule's docstring as one paragraph, without its source."""
    return " ".join((inspect.getdoc(function) or "").split("Source:")[0].split())
