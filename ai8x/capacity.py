"""The refusal of a network that a chip cannot hold, with numbers: who takes how much, and what would help.

Both chips raise `DoesNotFit`; the report shows its parts as tables. Start there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ai8x.errors import Diagnostic, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Consumer:
    """What one layer takes of something that does not suffice.

    Args:
        memory: such as ``weight memory``.
        layer: name.
        amount: in `unit`.
        unit: such as ``bytes``.
    """

    memory: str
    layer: str
    amount: int
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A change that was tried.

    Args:
        action: what to do, for people to copy.
        effect: what it was computed to do.
    """

    action: str
    effect: str


class DoesNotFit(UserError):
    """A chip cannot hold the network."""

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic], *, consumers: tuple[Consumer, ...] = (),
                 remedies: tuple[Remedy, ...] = ()) -> None:
        super().__init__(diagnostics)
        self.consumers = consumers
        self.remedies = remedies
