"""Finding a chip's record by the name that a user typed.

Owns the spellings. Knows nothing of any chip: the record lives in the chip's own package and is imported on
demand. Start reading at `get_device`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Protocol, cast

from ai8x.errors import user_error


class Device(Protocol):
    """What every chip's record offers, whatever else it holds."""

    @property
    def name(self) -> str:
        """Name in lower case, as used for folders and in messages: ``max78000``, ``k210``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """Where a chip's record is found; no module where the chip is known and not supported."""

    name: str
    spellings: tuple[str, ...]
    module: str = ""
    attribute: str = ""


_ENTRIES = (
    _Entry(name="max78000", spellings=("78000", "85"), module="ai8x.max7800x.device", attribute="MAX78000"),
    _Entry(name="max78002", spellings=("78002", "87")),
    _Entry(name="k210", spellings=("k210",), module="ai8x.k210.device", attribute="K210"),
)
_PREFIXES = ("max", "ai")
_ALLOWED = "MAX78000 (also AI85, 85, 78000) or K210"
_HELP = "write MAX78000 or K210"


def _find(name: str) -> _Entry | None:
    text = name.strip().lower()
    plain = next((text[len(p):] for p in _PREFIXES if text.startswith(p)), text)
    for entry in _ENTRIES:
        if text in entry.spellings or (entry.spellings[0].isdigit() and plain in entry.spellings):
            return entry
    return None


def canonical_name(name: str) -> str:
    """The chip's one name for any accepted spelling.

    Args:
        name: ``MAX78000``, ``AI85``, ``85``, ``78000``, ``K210`` in any case.

    Returns:
        ``max78000`` or ``k210``.

    Raises:
        UserError: E0301 for an unknown name, E0302 for a chip that is known and not supported.

    Source:
        spec/ai8x-training.md section 1.
    """
    entry = _find(name)
    if entry is None:
        raise user_error("E0301", f"unknown device '{name}'", found=name, allowed=_ALLOWED, help=_HELP)
    if not entry.module:
        raise user_error("E0302", f"device {entry.name.upper()} is not supported yet", found=name, allowed=_ALLOWED,
                         help=_HELP)
    return entry.name


def get_device(name: str) -> Device:
    """The record of the chip with that name.

    Args:
        name: any spelling that `canonical_name` accepts.

    Returns:
        The chip's record, for instance ``ai8x.max7800x.device.MAX78000``.

    Raises:
        UserError: as `canonical_name`.
    """
    wanted = canonical_name(name)
    entry = next(e for e in _ENTRIES if e.name == wanted)
    return cast(Device, getattr(importlib.import_module(entry.module), entry.attribute))
