"""Offsets in data memory for blocks of tensors that keep their places relative to each other.

Owns the search: sixteen memories (instances) that a block may touch in part, life-times per tensor, several orders of
first fit. `ai8x.memory` plans one memory; here the pieces of a block lie in several and have life-times of their own.
Knows neither layers nor registers. Start at `Region` and `plan_blocks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """What one tensor occupies of its block.

    Args:
        block: number of the block.
        start: first word, relative to the block; may be negative.
        end: one beyond the last.
        instances: bit map of the data memories.
        first_use: step that writes it.
        last_use: last step that needs it, inclusive.
        behind: (block, most): what ends its life in that block when this region is written may be written over, as
            long as this region's block starts at most `most` words behind that block; None: nothing may.
    """

    block: int
    start: int
    end: int
    instances: int
    first_use: int
    last_use: int
    behind: tuple[int, int] | None = None

    def may_replace(self, other: Region) -> bool:
        """Whether the other region is read to its end while this one is written, word after word."""
        return self.behind is not None and self.behind[0] == other.block and other.last_use == self.first_use


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPlan:
    """Where the blocks lie.

    Args:
        bases: by block, its word offset.
        peak: highest word in use plus one.
    """

    bases: tuple[int, ...]
    peak: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """All blocks of a network.

    Args:
        regions: of all blocks.
        fixed: by block, its given word offset or None.
    """

    regions: tuple[Region, ...]
    fixed: tuple[int | None, ...]


def plan_blocks(blocks: Blocks, *, thorough: bool = False) -> BlockPlan:
    """Offsets with a small peak; deterministic.

    First fit in several orders; `thorough` then improves the best order step by step.

    Args:
        blocks: what must be placed. Given offsets are kept, even where they collide: the verifier reports that.
        thorough: spend more time.

    Returns:
        A plan, which may exceed the memory.
    """
    by_block = _by_block(blocks)
    orders = _orders(blocks, by_block)
    clashes = _time_clashes(by_block)
    best: tuple[int, list[int], tuple[int, ...]] | None = None
    for order in orders:
        bases = _first_fit(blocks, by_block, clashes, order)
        peak = _peak(blocks, bases)
        if best is None or peak < best[0]:
            best = peak, list(order), bases
    if best is None:
        return BlockPlan(bases=(), peak=0)
    if thorough and best[0] > memory_bound(blocks):
        best = _improve(blocks, by_block, clashes, best)
    return BlockPlan(bases=best[2], peak=best[0])


def memory_bound(blocks: Blocks) -> int:
    """Words that the fullest memory needs at its worst step, whatever the offsets; no plan can be smaller."""
    bound = 0
    for step in {region.first_use for region in blocks.regions}:
        live = [region for region in blocks.regions if region.first_use <= step <= region.last_use]
        for instance in range(max((region.instances for region in live), default=0).bit_length()):
            here = [region for region in live if region.instances >> instance & 1]
            bound = max(bound, _least_words(here))
    return bound


def _least_words(live: Sequence[Region]) -> int:
    """Words that live regions of one memory need: of each block its largest, less what may be written over."""
    sizes: dict[int, int] = {}
    for region in live:
        sizes[region.block] = max(sizes.get(region.block, 0), region.end - region.start)
    total = sum(sizes.values())
    for writer in live:
        victims = [region for region in live if writer.behind is not None and region.block == writer.behind[0]]
        if writer.behind is None or not victims or not all(writer.may_replace(region) for region in victims):
            continue
        apart = sizes[writer.block] + sizes[writer.behind[0]]
        reach = max(region.end for region in victims) - writer.start - writer.behind[1]
        total -= apart - min(apart, max(sizes[writer.block], sizes[writer.behind[0]], reach))
    return total


def given_collisions(blocks: Blocks, bases: Sequence[int]) -> int:
    """Words that blocks with given offsets share while both are needed; a plan cannot mend that."""
    given = tuple(region for region in blocks.regions if blocks.fixed[region.block] is not None)
    if not given:
        return 0
    below = sum(max(0, -bases[region.block] - region.start) for region in given)
    return below + sum(
        min(bases[one.block] + one.end, bases[other.block] + other.end)
        - max(bases[one.block] + one.start, bases[other.block] + other.start)
        for one, other in overlapping_regions(replace(blocks, regions=given), bases)
    )


def overlapping_regions(blocks: Blocks, bases: Sequence[int]) -> tuple[tuple[Region, Region], ...]:
    """Pairs of regions of different blocks that share words while both are needed, however they were placed."""
    found = []
    for number, one in enumerate(blocks.regions):
        for other in blocks.regions[:number]:
            apart = (
                one.block == other.block
                or not one.instances & other.instances
                or one.first_use > other.last_use
                or other.first_use > one.last_use
                or _is_replaced_in_time(one, other, bases)
                or _is_replaced_in_time(other, one, bases)
                or bases[one.block] + one.end <= bases[other.block] + other.start
                or bases[other.block] + other.end <= bases[one.block] + one.start
            )
            if not apart:
                found.append((other, one))
    return tuple(found)


def _is_replaced_in_time(writer: Region, victim: Region, bases: Sequence[int]) -> bool:
    """Whether the writer stays behind the reading of what it writes over."""
    return writer.behind is not None and writer.may_replace(victim) \
        and bases[writer.block] - bases[victim.block] <= writer.behind[1]


_ByBlock = tuple[tuple[Region, ...], ...]
_Clashes = dict[tuple[int, int], tuple[tuple[int, int], ...]]

_IMPROVEMENTS = 300
"""Orders tried by the thorough search."""


def _by_block(blocks: Blocks) -> _ByBlock:
    lists: list[list[Region]] = [[] for _ in blocks.fixed]
    for region in blocks.regions:
        lists[region.block].append(region)
    return tuple(tuple(regions) for regions in lists)


def _time_clashes(by_block: _ByBlock) -> _Clashes:
    """By two blocks that live together and share a memory: distances of their bases at which words meet too early."""
    clashes: _Clashes = {}
    for first, ones in enumerate(by_block):
        for second, others in enumerate(by_block):
            if first == second:
                continue
            distances = tuple(
                _forbidden(one, other)
                for one in ones
                for other in others
                if one.instances & other.instances
                and one.first_use <= other.last_use
                and other.first_use <= one.last_use
            )
            if distances:
                clashes[first, second] = distances
    return clashes


def _forbidden(one: Region, other: Region) -> tuple[int, int]:
    """Between which distances, themselves allowed, one's block must not start behind the other's."""
    low, high = other.start - one.end, other.end - one.start
    if one.behind is not None and one.may_replace(other):
        low = max(low, one.behind[1])
    elif other.behind is not None and other.may_replace(one):
        high = min(high, -other.behind[1])
    return low, high


def _orders(blocks: Blocks, by_block: _ByBlock) -> tuple[list[int], ...]:
    """Blocks by size, by life-time and by first use; those with given offsets first."""

    def size(block: int) -> int:
        return max((region.end - region.start for region in by_block[block]), default=0)

    def start(block: int) -> int:
        return min((region.first_use for region in by_block[block]), default=0)

    def life(block: int) -> int:
        return max((region.last_use for region in by_block[block]), default=0) - start(block)

    free = [block for block, offset in enumerate(blocks.fixed) if offset is None]
    given = [block for block, offset in enumerate(blocks.fixed) if offset is not None]
    return (
        given + sorted(free, key=lambda block: (-size(block), start(block), block)),
        given + sorted(free, key=lambda block: (-life(block), -size(block), block)),
        given + sorted(free, key=lambda block: (start(block), -size(block), block)),
    )


def _first_fit(blocks: Blocks, by_block: _ByBlock, clashes: _Clashes, order: Sequence[int]) -> tuple[int, ...]:
    bases: dict[int, int] = {}
    for block in order:
        given = blocks.fixed[block]
        bases[block] = _lowest_base(block, by_block, clashes, bases) if given is None else given
    return tuple(bases[block] for block in range(len(blocks.fixed)))


def _lowest_base(block: int, by_block: _ByBlock, clashes: _Clashes, bases: dict[int, int]) -> int:
    forbidden = sorted(
        (bases[other] + low, bases[other] + high)
        for other in bases
        for low, high in clashes.get((block, other), ())
    )
    base = max((-region.start for region in by_block[block]), default=0)
    for low, high in forbidden:
        if low < base < high:
            base = high
    return base


def _peak(blocks: Blocks, bases: Sequence[int]) -> int:
    return max((bases[region.block] + region.end for region in blocks.regions), default=0)


def _improve(
    blocks: Blocks, by_block: _ByBlock, clashes: _Clashes, best: tuple[int, list[int], tuple[int, ...]]
) -> tuple[int, list[int], tuple[int, ...]]:
    """Move one block after the other to another place in the order, behind the given ones, while the peak falls."""
    bound, budget = memory_bound(blocks), _IMPROVEMENTS
    num_given = sum(offset is not None for offset in blocks.fixed)
    improved = True
    while improved and best[0] > bound:
        improved = False
        for source in range(num_given, len(best[1])):
            for target in range(num_given, len(best[1])):
                if source == target or not budget:
                    continue
                budget -= 1
                order = list(best[1])
                order.insert(target, order.pop(source))
                bases = _first_fit(blocks, by_block, clashes, order)
                peak = _peak(blocks, bases)
                if peak < best[0]:
                    best, improved = (peak, order, bases), True
    return best
