"""Placing buffers with known life-times in one memory, and proving that a placement is valid.

Owns the algorithm and its independent verifier; knows nothing of chips. Both targets use it. Start at
`plan_memory`; `verify_plan` runs on every plan it returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ai8x.errors import Ai8xError

EXACT_LIMIT = 9
"""Up to this many buffers every order of placement that can matter is tried."""

_SEARCH_BUDGET = 2_000


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

    Greedy first fit in three orders (size, life-time, first use), then for few buffers a bounded search over all
    orders; stops as soon as the lower bound is reached. Deterministic.

    Args:
        buffers: unplaced; an `address` already given is kept.
        capacity: size of the memory. A plan that exceeds it is returned all the same, for the report to explain.

    Raises:
        MemoryPlanError: the result fails the verifier, or fixed addresses collide.
    """
    items = list(buffers)
    bound = lower_bound(items)
    orders = (
        sorted(items, key=lambda b: (-b.size, b.first_use, b.name)),
        sorted(items, key=lambda b: (b.first_use - b.last_use, -b.size, b.name)),
        sorted(items, key=lambda b: (b.first_use, -b.size, b.name)),
    )
    best = min((_first_fit(order) for order in orders), key=_peak)
    if _peak(best) > bound and len(items) <= EXACT_LIMIT:
        best = _search(items, best, bound)
    placed = {b.name: b for b in best}
    plan = MemoryPlan(buffers=tuple(placed[b.name] for b in items), capacity=capacity, peak=_peak(best),
                      lower_bound=bound)
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


def _peak(buffers: Iterable[Buffer]) -> int:
    return max((b.end for b in buffers), default=0)


def _first_fit(order: Sequence[Buffer]) -> list[Buffer]:
    placed = [b for b in order if b.address is not None]
    for buffer in (b for b in order if b.address is None):
        placed.append(_place(buffer, placed))
    return placed


def _place(buffer: Buffer, placed: Sequence[Buffer]) -> Buffer:
    """The buffer at the lowest address where it meets no live neighbour."""
    neighbours = sorted((p.address or 0, p.end) for p in placed if p.overlaps_in_time(buffer))
    address = 0
    for start, end in neighbours:
        if address + buffer.size <= start:
            break
        address = max(address, _align(end, buffer.alignment))
    return replace(buffer, address=address)


def _align(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment


def _search(items: Sequence[Buffer], best: list[Buffer], bound: int) -> list[Buffer]:
    """Depth-first over placement orders, cut off at the best peak so far and at a fixed number of nodes."""
    budget = _SEARCH_BUDGET
    stack: list[tuple[list[Buffer], list[Buffer]]] = [
        ([b for b in items if b.address is not None], [b for b in items if b.address is None])]
    while stack and budget and _peak(best) > bound:
        budget -= 1
        placed, rest = stack.pop()
        if not rest:
            best = placed
            continue
        for i in range(len(rest) - 1, -1, -1):
            candidate = _place(rest[i], placed)
            if max(candidate.end, _peak(placed)) < _peak(best):
                stack.append(([*placed, candidate], rest[:i] + rest[i + 1:]))
    return best
