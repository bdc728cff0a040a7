"""The network files that are mutated, each with parameters and a sample that suit it. Start at `bases`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ai8x.network.weights import LayerParameters, parameters_from_state
from ai8x.network.yaml_file import parse_network_file
from tests.end_to_end import digitsnet

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / ".." / "shared" / "cases"
LARGEST_CHECKPOINT = 800_000
"""Bytes; what is larger takes seconds to run."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Base:
    """A correct network file.

    Args:
        name: for messages.
        text: of the file.
        arch: architecture that its checkpoint names.
        parameters: of its checkpoint.
        sample: int8 (C, H, W).
        options: command-line options that it needs.
    """

    name: str
    text: str
    arch: str
    parameters: tuple[LayerParameters, ...]
    sample: np.ndarray
    options: frozenset[str]


@cache
def bases() -> tuple[Base, ...]:
    """Bundled files, and recorded ones where they are at hand, in a fixed order."""
    recorded = sorted(path.parent for path in CASES.glob("max78000*/*/net.yaml"))
    found = [_base(digitsnet.NETWORK_FILE, digitsnet.state(), digitsnet.sample(), frozenset())]
    return (*found, *(base for folder in recorded for base in _recorded(folder)))


def bundled_files() -> tuple[Path, ...]:
    """Every network file in the repository and among the recorded cases."""
    return (*sorted((ROOT / "networks").glob("*.yaml")), *sorted(CASES.glob("max78000*/*/net.yaml")))


def _recorded(folder: Path) -> list[Base]:
    options = frozenset((folder / "options").read_text().split()) if (folder / "options").exists() else frozenset[str]()
    if (folder / "case.npz").exists():
        arrays = np.load(folder / "case.npz")
        state = {key[2:]: arrays[key] for key in arrays.files if key.startswith("w:")}
        return [_base(folder / "net.yaml", state, arrays["sample"], options)]
    checkpoint = folder / "checkpoint.pth.tar"
    if checkpoint.stat().st_size > LARGEST_CHECKPOINT:
        return []
    from ai8x.checkpoint import read_checkpoint

    return [_base(folder / "net.yaml", read_checkpoint(checkpoint).state, np.load(folder / "sample.npy"), options)]


def _base(path: Path, state: Mapping[str, np.ndarray[Any, Any]], sample: np.ndarray, options: frozenset[str]) -> Base:
    text = path.read_text(encoding="utf-8")
    return Base(name=path.parent.name if path.stem == "net" else path.stem, text=text, options=options,
                arch=parse_network_file(text).arch, parameters=parameters_from_state(state),
                sample=np.atleast_3d(sample).astype(np.int8))
