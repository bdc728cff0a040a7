"""Draws mutants and judges them. Start at `run_mutants`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from .bases import Base, bases
from .judge import Judgement, judge
from .mutate import Mutant, mutate


def draw_mutant(seed: int, number: int) -> tuple[Base, Mutant]:
    """The mutant with this number; depends on seed and number only (and on the files that are at hand)."""
    rng = np.random.default_rng((seed, number))
    # Every fourth one is of the first file, which everybody has.
    base = bases()[0] if number % 4 == 0 else bases()[int(rng.integers(len(bases())))]
    return base, mutate(base.text, rng)


def run_mutants(seed: int, numbers: Iterable[int]) -> Iterator[tuple[int, Base, Mutant, Judgement]]:
    """Mutants with what became of them."""
    for number in numbers:
        base, mutant = draw_mutant(seed, number)
        yield number, base, mutant, judge(base, mutant)
