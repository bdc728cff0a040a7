"""Offsets of blocks in sixteen memories: nothing overlaps, given offsets are kept, the peak is small."""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from ai8x.max7800x.planner_memory import Blocks, Region, memory_bound, overlapping_regions, plan_blocks


@st.composite
def block_sets(draw, max_blocks=12):
    """Blocks of one or two regions with life-times in twelve steps, in four memories."""
    regions = []
    count = draw(st.integers(1, max_blocks))
    for block in range(count):
        for _ in range(draw(st.integers(1, 2))):
            start, first = draw(st.integers(-3, 3)), draw(st.integers(-1, 10))
            behind = (draw(st.integers(0, count - 1)), draw(st.integers(-40, 10))) if draw(st.booleans()) else None
            regions.append(Region(block=block, start=start, end=start + draw(st.integers(1, 40)),
                                  instances=draw(st.integers(1, 15)), first_use=first,
                                  last_use=draw(st.integers(first, 11)), behind=behind))
    return Blocks(regions=tuple(regions), fixed=(None,) * count)


@settings(max_examples=1000)
@given(block_sets(), st.booleans())
def test_live_regions_never_overlap(blocks, thorough):
    plan = plan_blocks(blocks, thorough=thorough)
    assert not overlapping_regions(blocks, plan.bases)
    assert all(plan.bases[region.block] + region.start >= 0 for region in blocks.regions)
    assert plan.peak == max(plan.bases[region.block] + region.end for region in blocks.regions)
    assert plan.peak >= memory_bound(blocks)


@given(block_sets(), st.data())
def test_given_offsets_are_kept(blocks, data):
    block = data.draw(st.integers(0, len(blocks.fixed) - 1))
    offset = data.draw(st.integers(3, 60))
    fixed = tuple(offset if number == block else None for number in range(len(blocks.fixed)))
    given_blocks = dataclasses.replace(blocks, fixed=fixed)
    plan = plan_blocks(given_blocks, thorough=True)
    assert plan.bases[block] == offset
    assert not overlapping_regions(given_blocks, plan.bases)


def region(block, size, first, last, instances=1, start=0):
    return Region(block=block, start=start, end=start + size, instances=instances, first_use=first, last_use=last)


def test_a_chain_alternates_between_two_places():
    sizes = (30, 20, 10, 25)
    blocks = Blocks(regions=tuple(region(i, size, i - 1, i) for i, size in enumerate(sizes)), fixed=(None,) * 4)
    plan = plan_blocks(blocks)
    assert plan.peak == memory_bound(blocks) == 50


def test_a_layer_in_place_needs_the_memory_of_the_larger_tensor_only():
    """Each tensor may begin where its source begins, and at most two words behind that."""
    sizes = (30, 20, 10, 25)
    regions = tuple(dataclasses.replace(region(i, size, i - 1, i), behind=(i - 1, 2) if i else None)
                    for i, size in enumerate(sizes))
    plan = plan_blocks(Blocks(regions=regions, fixed=(None,) * 4))
    assert plan.bases == (0,) * 4
    assert plan.peak == memory_bound(Blocks(regions=regions, fixed=(None,) * 4)) == 30


def test_a_layer_that_writes_faster_than_it_reads_begins_in_front_of_its_input():
    source, target = region(0, 10, 0, 1), dataclasses.replace(region(1, 20, 1, 2), behind=(0, -8))
    blocks = Blocks(regions=(source, target), fixed=(None, None))
    plan = plan_blocks(blocks, thorough=True)
    assert plan.bases[1] - plan.bases[0] <= -8 and not overlapping_regions(blocks, plan.bases)
    assert plan.peak == memory_bound(blocks) == 20
    assert overlapping_regions(blocks, (0, 0)) == ((source, target),)


def test_a_tensor_that_others_still_need_is_not_written_over():
    kept, target = region(0, 10, 0, 3), dataclasses.replace(region(1, 10, 1, 2), behind=(0, 5))
    blocks = Blocks(regions=(kept, target), fixed=(None, None))
    assert plan_blocks(blocks).peak == memory_bound(blocks) == 20


def test_regions_in_different_memories_share_offsets():
    blocks = Blocks(regions=(region(0, 30, 0, 5, instances=1), region(1, 30, 0, 5, instances=2)), fixed=(None, None))
    assert plan_blocks(blocks).bases == (0, 0)


def test_thorough_search_finds_what_the_plain_orders_miss():
    """Seven blocks whose best order is none of size, life-time or first use."""
    sizes = ((9, 0, 2), (4, 1, 3), (7, 2, 5), (6, 3, 6), (5, 5, 8), (11, 6, 9), (3, 0, 9))
    blocks = Blocks(regions=tuple(region(i, *rest) for i, rest in enumerate(sizes)), fixed=(None,) * len(sizes))
    assert plan_blocks(blocks, thorough=True).peak <= plan_blocks(blocks).peak


def test_collisions_of_given_offsets_are_found_by_the_verifier():
    blocks = Blocks(regions=(region(0, 10, 0, 2), region(1, 10, 1, 3)), fixed=(0, 5))
    assert len(overlapping_regions(blocks, plan_blocks(blocks).bases)) == 1


def test_no_blocks_need_no_memory():
    plan = plan_blocks(Blocks(regions=(), fixed=()))
    assert (plan.bases, plan.peak) == ((), 0)
