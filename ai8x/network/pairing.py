"""Which layer of a network file has which parameters of a checkpoint: by name where names agree, else by order.

Owns the names under which a layer of a model may stand in a file, and weights that no checkpoint holds: those of a
1x1 convolution that copies channels. Start at `pair_names` and `layer_name`.

Source: spec/max78000-cnn.md sections 4.2 and 7.2; spec/ai8x-training.md section 10.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ai8x.network.yaml_values import C_KEYWORDS, RESERVED_NAMES

MAX_NAME = 64
"""Length of a name in a network file."""

UNIT_WEIGHT_BITS = 2
"""Narrowest weights that hold a 1."""

UNIT_OUTPUT_SHIFT = 7
"""Total shift with which a weight of 1 gives the input back: floor(x * 2**7 / 128 + 1/2) = x (section 4.2)."""

_DIGEST_LENGTH = 8


def unit_weights(count: int, first: int, channels: int) -> NDArray[np.int64]:
    """Weights of a 1x1 convolution that picks channels: (count, channels, 1, 1).

    Args:
        count: of the channels picked.
        first: of the channels picked.
        channels: of the input.
    """
    weights = np.zeros((count, channels, 1, 1), dtype=np.int64)
    weights[np.arange(count), first + np.arange(count)] = 1
    return weights


def identifier(name: str) -> str:
    """A name as a C identifier: other characters become underscores, digits in front get a prefix."""
    name = re.sub("[^A-Za-z0-9_]", "_", name)
    if not re.match("[A-Za-z_]", name):
        name = f"layer_{name}"
    return f"{name}_" if name in C_KEYWORDS else name


def layer_name(path: str) -> str:
    """A module's path as a name that a network file may use; the path itself wherever that is possible.

    Args:
        path: such as ``features.0``; may be empty.
    """
    name = re.sub("[^A-Za-z0-9_.-]", "_", path)
    if not re.match("[A-Za-z_]", name):
        name = f"layer_{name}" if name else "layer"
    if name in C_KEYWORDS or name.lower() in RESERVED_NAMES:
        name = f"{name}_layer"
    if len(name) > MAX_NAME:
        digest = hashlib.sha256(path.encode()).hexdigest()[:_DIGEST_LENGTH]
        name = f"{name[:MAX_NAME - _DIGEST_LENGTH - 1]}_{digest}"
    return name


def pair_names(wanted: Sequence[str | None], stored: Sequence[str]) -> tuple[int, ...] | None:
    """By layer of the file, the number of its parameters; None where the names do not say it.

    Args:
        wanted: names of the file's layers with weights; None where a layer has none.
        stored: names of the checkpoint's layers.

    Returns:
        None unless every wanted name is that of exactly one stored layer, and no two are the same.
    """
    spellings: dict[str, set[int]] = {}
    for number, name in enumerate(stored):
        for spelling in (name, layer_name(name), identifier(name)):
            spellings.setdefault(spelling, set()).add(number)
    found: list[int] = []
    for wish in wanted:
        numbers = _exact(wish, stored) or spellings.get(wish or "", set())
        if len(numbers) != 1:
            return None
        found += numbers
    return tuple(found) if len(set(found)) == len(found) else None


def _exact(name: str | None, stored: Sequence[str]) -> set[int]:
    return {number for number, other in enumerate(stored) if other == name}
