"""Plain values: what a checkpoint may hold beside parameters. Start at `plain_value` and `is_storable`.

Knows torch's tensors when it meets them and never loads torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from ai8x.torch_file import StoredTensor

MAX_PLAIN_VALUES = 1 << 18
"""Values in one description; a damaged file can hold the same list so often that walking it would never end."""


def plain_value(value: Any) -> Any:
    """Mappings, sequences, text and numbers without numpy's and torch's types; arrays become nested lists.

    Raises:
        TypeError: for anything else, which a safe reader would refuse later, and for more than `MAX_PLAIN_VALUES`.
    """
    plain, _ = _plain_value(value, MAX_PLAIN_VALUES)
    return plain


def _plain_value(value: Any, room: int) -> tuple[Any, int]:
    """The value, and how many more there may be."""
    room -= 1
    if room < 0:
        raise TypeError(f"more than {MAX_PLAIN_VALUES} values cannot be stored in a checkpoint")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value, room
    if isinstance(value, Mapping):
        mapping = {}
        for key, entry in value.items():
            mapping[str(key)], room = _plain_value(entry, room)
        return mapping, room
    if isinstance(value, (list, tuple)):
        entries = []
        for entry in value:
            plain, room = _plain_value(entry, room)
            entries.append(plain)
        return entries, room
    if hasattr(value, "tolist"):
        if _num_elements(value) > room:
            raise TypeError(f"more than {MAX_PLAIN_VALUES} values cannot be stored in a checkpoint")
        return _plain_value(value.tolist(), room)
    raise TypeError(f"{type(value).__name__} cannot be stored in a checkpoint")


def _num_elements(value: Any) -> int:
    """Elements of an array or tensor."""
    if isinstance(value, StoredTensor):
        return value.num_elements
    return int(value.numel()) if is_tensor(value) else int(np.asarray(value).size)


def is_storable(value: Any) -> bool:
    """Whether `ai8x.checkpoint.read_checkpoint` would take a value back; what cannot be read is lost work."""
    pending, seen = [value], set()
    while pending:
        entry = pending.pop()
        if isinstance(entry, (Mapping, list, tuple)):
            if id(entry) in seen:  # a damaged pickle may contain itself
                continue
            seen.add(id(entry))
        if isinstance(entry, Mapping):
            pending += [*entry.keys(), *entry.values()]
        elif isinstance(entry, (list, tuple)):
            pending += entry
        elif not (entry is None or type(entry) in (bool, int, float, str, bytes) or is_tensor(entry)):
            return False
    return True


def is_tensor(value: Any) -> bool:
    """Whether a value is a tensor, torch's or a `StoredTensor`; before torch is loaded, nothing is one of torch's."""
    torch = sys.modules.get("torch")
    return isinstance(value, StoredTensor) or (torch is not None and isinstance(value, torch.Tensor))
