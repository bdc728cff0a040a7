"""Placing buffers with known life-times in one memory, and proving that a placement is valid.

Owns the algorithm and its independent verifier; knows nothing of chips. Both targets use it. Start at
`plan_memory`; `verify_plan` runs on every plan it returns.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ai8x.errors import Ai8xError

TRIALS = 2_000
"""Orders that the search tries for up to `FULL_EFFORT` buffers; fewer for more, so that its time stays the same."""

FULL_EFFORT = 16

_PATIENCE = 150
"""Orders without a better peak after which the search starts again beside the best one."""


class MemoryPlanError(Ai8xError):
    """A plan breaks one of its own rules: a defect, not a user's mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """A tensor's storage.

    Args:
        name: unique within a plan.
        size: in the memory's unit (bytes, KPU lines).
        first_use: step that writes it.
        last_use: last step that reads it, inclusive.
        alignment: the address is a multiple of it.
        address: where it lies; None before planning.
    """

    name: str
    size: int
    first_use: int
    last_use: int
    alignment: int = 1
    address: int | None = None

    def __post_init__(self) -> None:
        if self.size < 1 or self.last_use < self.first_use or self.alignment < 1:
            raise MemoryPlanError(f"buffer {self.name}: size {self.size}, steps {self.first_use}..{self.last_use}, "
                                  f"alignment {self.alignment}")

    @property
    def end(self) -> int:
        """First unit behind the buffer."""
        return (self.address or 0) + self.size

    def overlaps_in_time(self, other: Buffer) -> bool:
        """Both are alive in some step; a step's inputs and outputs are alive together."""
        return self.first_use <= other.last_use and other.first_use <= self.last_use


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Placed buffers of one memory.

    Args:
        buffers: with addresses, in the order given to the planner.
        capacity: size of the memory.
        peak: highest address in use plus one.
        lower_bound: sum of live sizes at the worst step; no plan can be smaller.
    """

    buffers: tuple[Buffer, ...]
    capacity: int
    peak: int
    lower_bound: int

    def address(self, name: str) -> int:
        """Address of a buffer.

        Raises:
            KeyError: no such buffer.
        """
        for buffer in self.buffers:
            if buffer.name == name and buffer.address is not None:
                return buffer.address
        raise KeyError(name)

    @property
    def fits(self) -> bool:
        """Whether the plan stays inside the memory."""
        return self.peak <= self.capacity


def lower_bound(buffers: Iterable[Buffer]) -> int:
    """Sum of live sizes at the worst step."""
    items = list(buffers)
    steps = {b.first_use for b in items}
    return max((sum(b.size for b in items if b.first_use <= step <= b.last_use) for step in steps), default=0)


def plan_memory(buffers: Sequence[Buffer], capacity: int) -> MemoryPlan:
    """Place buffers so that no two live ones overlap, with a small peak.

    First fit in four orders (size, life-time, first use, area), then a search over orders that moves what stands at the
    peak and what it stands on; it stops as soon as the lower bound is reached. Some order is always optimal: sort an
    optimal plan by address, and first fit places nothing higher. Deterministic.

    Args:
        buffers: unplaced; an `address` already given is kept.
        capacity: size of the memory. A plan that exceeds it is returned all the same, for the report to explain.

    Raises:
        MemoryPlanError: the result fails the verifier, or fixed addresses collide.
    """
    items = tuple(buffers)
    bound = lower_bound(items)
    fit = _FirstFit(items)
    trials = (fit.place(order) for order in _orders(items))
    best = min((trial for trial in trials if trial is not None), key=lambda trial: trial.peak)
    if best.peak > bound and best.order:
        best = _search(fit, best, bound)
    placed = tuple(replace(b, address=address) for b, address in zip(items, best.addresses, strict=True))
    plan = MemoryPlan(buffers=placed, capacity=capacity, peak=best.peak, lower_bound=bound)
    verify_plan(plan)
    return plan


def verify_plan(plan: MemoryPlan) -> None:
    """Check a plan without knowing how it was made.

    Raises:
        MemoryPlanError: a buffer without address, misaligned, or two live buffers that overlap.
    """
    for buffer in plan.buffers:
        if buffer.address is None or buffer.address < 0 or buffer.address % buffer.alignment:
            raise MemoryPlanError(f"buffer {buffer.name}: address {buffer.address}, alignment {buffer.alignment}")
    for i, one in enumerate(plan.buffers):
        for other in plan.buffers[i + 1:]:
            apart = one.end <= (other.address or 0) or other.end <= (one.address or 0)
            if one.overlaps_in_time(other) and not apart:
                raise MemoryPlanError(f"buffers {one.name} and {other.name} overlap while both are alive")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """One order of placing, and what came of it; numbers count the buffers that were given."""

    order: tuple[int, ...]
    addresses: tuple[int, ...]
    peak: int


def _orders(items: Sequence[Buffer]) -> Iterator[tuple[int, ...]]:
    """Orders to begin with, of the buffers without a given address."""
    free = [number for number, buffer in enumerate(items) if buffer.address is None]

    def life(number: int) -> int:
        return items[number].last_use - items[number].first_use + 1

    yield tuple(sorted(free, key=lambda n: (-items[n].size, items[n].first_use, items[n].name)))
    yield tuple(sorted(free, key=lambda n: (-life(n), -items[n].size, items[n].name)))
    yield tuple(sorted(free, key=lambda n: (items[n].first_use, -items[n].size, items[n].name)))
    yield tuple(sorted(free, key=lambda n: (-life(n) * items[n].size, items[n].name)))


class _FirstFit:
    """Places buffers one after the other, each at the lowest address where it meets no live neighbour."""

    def __init__(self, items: Sequence[Buffer]) -> None:
        self.sizes = tuple(buffer.size for buffer in items)
        self.neighbours = tuple(
            tuple(n for n, other in enumerate(items) if other is not one and one.overlaps_in_time(other))
            for one in items
        )
        self._alignments = tuple(buffer.alignment for buffer in items)
        self._given = tuple(-1 if buffer.address is None else buffer.address for buffer in items)

    def place(self, order: tuple[int, ...], limit: int | None = None) -> _Trial | None:
        """All buffers, those with given addresses first; None as soon as one ends above the limit."""
        addresses = list(self._given)
        peak = max((a + size for a, size in zip(addresses, self.sizes, strict=True) if a >= 0), default=0)
        for number in order:
            address = self._lowest(number, addresses)
            addresses[number] = address
            peak = max(peak, address + self.sizes[number])
            if limit is not None and peak > limit:
                return None
        return _Trial(order=order, addresses=tuple(addresses), peak=peak)

    def _lowest(self, number: int, addresses: Sequence[int]) -> int:
        size, alignment, sizes = self.sizes[number], self._alignments[number], self.sizes
        taken = [(addresses[n], addresses[n] + sizes[n]) for n in self.neighbours[number] if addresses[n] >= 0]
        taken.sort()
        address = 0
        for start, end in taken:
            if address + size <= start:
                break
            if end > address:
                address = -(-end // alignment) * alignment
        return address


def _search(fit: _FirstFit, best: _Trial, bound: int) -> _Trial:
    """Walk from order to order, never upwards, beginning again where it leads nowhere."""
    generator = random.Random(0)  # noqa: S311 (a plan, not a secret)
    left = min(TRIALS, TRIALS * FULL_EFFORT // max(1, len(best.order)))
    current, stale = best, 0
    while best.peak > bound and left > 0:
        left -= 1
        stale += 1
        again = stale > _PATIENCE
        order = _shaken(best.order, generator) if again else _moved(fit, current, generator)
        trial = fit.place(order, None if again else current.peak)
        if trial is None:
            continue
        if again or trial.peak < current.peak:
            stale = 0
        current = trial
        if trial.peak < best.peak:
            best = trial
    return best


def _moved(fit: _FirstFit, trial: _Trial, generator: random.Random) -> tuple[int, ...]:
    """The order with one buffer at the peak, or one that lives beside it, in another place."""
    highest = [n for n in trial.order if trial.addresses[n] + fit.sizes[n] == trial.peak] or list(trial.order)
    number = _pick(highest, generator)
    beside = [n for n in fit.neighbours[number] if n in trial.order]
    if beside and generator.random() < 0.5:
        number = _pick(beside, generator)
    order = list(trial.order)
    if generator.random() < 0.7:
        order.remove(number)
        order.insert(int(generator.random() * (len(order) + 1)), number)
        return tuple(order)
    return _swapped(order, order.index(number), int(generator.random() * len(order)))


def _shaken(order: tuple[int, ...], generator: random.Random) -> tuple[int, ...]:
    """Three exchanges away."""
    for _ in range(3):
        order = _swapped(order, int(generator.random() * len(order)), int(generator.random() * len(order)))
    return order


def _swapped(order: Sequence[int], one: int, other: int) -> tuple[int, ...]:
    changed = list(order)
    changed[one], changed[other] = changed[other], changed[one]
    return tuple(changed)


def _pick(numbers: Sequence[int], generator: random.Random) -> int:
    return numbers[int(generator.random() * len(numbers))]
