"""Source places, diagnostics and the exceptions that carry them to the user.

Owns what every stage says when input is refused: one shape for the terminal and one for ``--json-errors``.
Knows nothing of networks or chips. Start reading at `Diagnostic` and `Diagnostics`.

Code ranges: E01xx file syntax, E02xx keys and types, E03xx network against device, E04xx memory,
E05xx checkpoints, E06xx data sets and training, E07xx kmodel and ONNX, E08xx environment,
I0001 internal error; W instead of E where the run goes on. A code is never reused.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

MAX_SHOWN = 20
"""Diagnostics printed for one run; the rest is counted."""


class ExitStatus(enum.IntEnum):
    """Exit status of every command."""

    SUCCESS = 0
    INTERNAL = 1
    USER = 2
    MISMATCH = 3
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A place in a file; prints as ``file:line:column``.

    Args:
        file: name as the user typed it.
        line: counted from 1; 0 where the place is the file as a whole.
        column: counted from 1; 0 likewise.
        length: characters to underline in the excerpt.
        text: the source line itself, without its line end.
    """

    file: str
    line: int = 0
    column: int = 0
    length: int = 1
    text: str = ""

    def __str__(self) -> str:
        if not self.line:
            return self.file
        return f"{self.file}:{self.line}:{self.column}"

    @property
    def underlined(self) -> str:
        """What stands at the place, as typed; empty where no line is known."""
        return self.text[self.column - 1 : self.column - 1 + self.length] if self.line else ""

    def excerpt(self) -> str:
        """The source line with the place underlined; empty where no line is known."""
        if not self.line or not self.text:
            return ""
        prefix = f"{self.line:5d} | "
        marks = "^" * max(1, min(self.length, len(self.text) - self.column + 1))
        return f"{prefix}{self.text}\n{' ' * (len(prefix) + self.column - 1)}{marks}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One finding: where, what was found, what is allowed, what to write instead.

    Args:
        code: ``E0312`` and the like; never reused.
        message: one sentence with the numbers, lower-case first letter, no full stop.
        source: place in a file, where one is known.
        layer: name of the layer; printed together with `layer_index`.
        layer_index: number of the layer in the order of the file, from 0.
        found: the offending value as typed.
        allowed: the rule it breaks.
        help: an action that the user can copy.
        level: ``error``, ``warning`` or ``notice``.
    """

    code: str
    message: str
    source: Source | None = None
    layer: str = ""
    layer_index: int | None = None
    found: str = ""
    allowed: str = ""
    help: str = ""
    level: str = "error"

    def headline(self) -> str:
        """Place, level, code, layer and sentence on one line."""
        place = f"{self.source}: " if self.source else ""
        layer = f"layer {self.layer_index} '{self.layer}': " if self.layer_index is not None else ""
        return f"{place}{self.level}[{self.code}]: {layer}{self.message}"

    def format(self) -> str:
        """The terminal form, several lines, without a trailing line end."""
        lines = [self.headline()]
        if self.source and (excerpt := self.source.excerpt()):
            lines.append(excerpt)
        for label, text in (("found:  ", self.found), ("allowed:", self.allowed), ("help:   ", self.help)):
            if text:
                lines.append(f"  {label} {text}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """The same parts for ``--json-errors``."""
        source = self.source
        return {
            "level": self.level,
            "code": self.code,
            "message": self.message,
            "file": source.file if source else None,
            "line": source.line if source else None,
            "column": source.column if source else None,
            "layer": self.layer or None,
            "layer_index": self.layer_index,
            "found": self.found or None,
            "allowed": self.allowed or None,
            "help": self.help or None,
        }


class Ai8xError(Exception):
    """Base of every exception that the package raises on purpose."""


class UserError(Ai8xError):
    """Input was refused; carries the diagnostics that say why. Ends a command with exit status 2."""

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic]) -> None:
        if isinstance(diagnostics, Diagnostic):
            diagnostics = (diagnostics,)
        self.diagnostics: tuple[Diagnostic, ...] = tuple(diagnostics)
        super().__init__("\n".join(d.headline() for d in self.diagnostics))
        several = len(self.diagnostics) > 1
        for item in self.diagnostics[:MAX_SHOWN]:  # tracebacks in Python sessions and notebooks show notes
            details = item.format().removeprefix(item.headline()).lstrip("\n")
            if details:
                self.add_note(f"{item.code}:\n{details}" if several else details)


class HardwareFault(Ai8xError):
    """A simulator met programming that the chip does not define: names register, layer and address."""


def user_error(code: str, message: str, *, source: Source | None = None, found: str = "", allowed: str = "",
               help: str = "") -> UserError:
    """A `UserError` with one diagnostic, for places that cannot go on after the first finding."""
    return UserError(Diagnostic(code=code, message=message, source=source, found=found, allowed=allowed, help=help))


class Diagnostics:
    """Collects the findings of one stage, so that all of them are shown together."""

    def __init__(self) -> None:
        self._items: list[Diagnostic] = []

    def add(self, diagnostic: Diagnostic) -> None:
        """Remember one finding."""
        self._items.append(diagnostic)

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Remember several findings."""
        self._items.extend(diagnostics)

    @property
    def items(self) -> tuple[Diagnostic, ...]:
        """Everything remembered so far, in order."""
        return tuple(self._items)

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """Only the findings that stop the run."""
        return tuple(d for d in self._items if d.level == "error")

    def raise_if_errors(self) -> None:
        """End the stage.

        Raises:
            UserError: with every error collected, if there is one.
        """
        if self.errors:
            raise UserError(self.errors)


def format_diagnostics(diagnostics: Iterable[Diagnostic]) -> str:
    """The terminal form of several diagnostics, at most `MAX_SHOWN` of them."""
    items = list(diagnostics)
    blocks = [d.format() for d in items[:MAX_SHOWN]]
    if len(items) > MAX_SHOWN:
        blocks.append(f"... and {len(items) - MAX_SHOWN} more")
    return "\n\n".join(blocks)
