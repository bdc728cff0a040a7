"""The memory planner: no two live buffers overlap, and the peak stays near the lower bound."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.memory import Buffer, MemoryPlan, MemoryPlanError, lower_bound, plan_memory, verify_plan


@st.composite
def buffers(draw: st.DrawFn) -> list[Buffer]:
    count = draw(st.integers(1, 14))
    items = []
    for i in range(count):
        first = draw(st.integers(0, 12))
        items.append(Buffer(name=f"b{i}", size=draw(st.integers(1, 50)), first_use=first,
                            last_use=first + draw(st.integers(0, 6)), alignment=draw(st.sampled_from([1, 2, 8]))))
    return items


@given(buffers())
def test_every_plan_passes_the_verifier_and_keeps_the_order(items: list[Buffer]) -> None:
    plan = plan_memory(items, capacity=10_000)
    verify_plan(plan)
    assert [b.name for b in plan.buffers] == [b.name for b in items]
    assert plan.peak >= plan.lower_bound


def test_a_chain_is_planned_as_ping_pong() -> None:
    chain = [Buffer(name=str(i), size=size, first_use=i, last_use=i + 1) for i, size in enumerate([7, 9, 4, 12, 3])]
    plan = plan_memory(chain, capacity=16)
    assert plan.peak == plan.lower_bound == 16 and plan.fits


def test_the_search_beats_first_fit_where_the_bound_is_out_of_its_reach() -> None:
    items = [Buffer(name="a", size=3, first_use=0, last_use=1), Buffer(name="b", size=4, first_use=1, last_use=3),
             Buffer(name="c", size=3, first_use=2, last_use=4), Buffer(name="d", size=5, first_use=4, last_use=5)]
    plan = plan_memory(items, capacity=100)
    assert plan.peak == plan.lower_bound == 8


RECORD = Path(__file__).parent / "data" / "memory_optima.json"
"""Sets of buffers with their smallest peaks, proven by constraint programming; benchmarks/planner.py writes it."""


def test_peaks_are_smallest_for_at_least_99_percent_of_the_recorded_sets() -> None:
    smallest = []
    for entry in json.loads(RECORD.read_text()):
        items = [Buffer(name=str(number), size=size, first_use=first, last_use=last, alignment=alignment)
                 for number, (size, first, last, alignment) in enumerate(entry["buffers"])]
        peak = plan_memory(items, capacity=1).peak
        assert peak >= entry["peak"], "smaller than what is proven to be the smallest"
        smallest.append(peak == entry["peak"])
    assert len(smallest) == 200
    assert sum(smallest) >= 0.99 * len(smallest)


def test_no_two_live_buffers_share_an_address_in_1000_random_sets() -> None:
    """Marks every (step, address) by hand, so that it does not depend on the planner's own verifier."""
    generator = random.Random(3)
    for _ in range(1000):
        items = []
        for number in range(generator.randint(1, 12)):
            first = generator.randint(0, 9)
            items.append(Buffer(name=str(number), size=generator.randint(1, 40), first_use=first,
                                last_use=first + generator.choice([0, 1, 1, 2, 5]),
                                alignment=generator.choice([1, 1, 4])))
        plan = plan_memory(items, capacity=1)
        used = np.zeros((16, plan.peak), dtype=int)
        for buffer in plan.buffers:
            used[buffer.first_use : buffer.last_use + 1, plan.address(buffer.name) : buffer.end] += 1
            assert plan.address(buffer.name) % buffer.alignment == 0
        assert used.max() == 1
        assert used.any(axis=0).any() and plan.peak >= used.sum(axis=1).max()


def test_mean_peak_of_chains_is_within_one_percent_of_the_lower_bound() -> None:
    generator = random.Random(1)
    ratios = []
    for _ in range(60):
        items = [Buffer(name=str(i), size=generator.randint(1, 64), first_use=i,
                        last_use=i + generator.choice([1, 1, 1, 2, 4])) for i in range(generator.randint(3, 24))]
        plan = plan_memory(items, capacity=1)
        ratios.append(plan.peak / lower_bound(items))
    assert sum(ratios) / len(ratios) <= 1.01


def test_equal_sets_get_equal_plans() -> None:
    items = [Buffer(name=str(i), size=7 * i % 5 + 2, first_use=i % 4, last_use=i % 4 + i % 3) for i in range(14)]
    assert plan_memory(items, capacity=1) == plan_memory(items, capacity=1)


def test_no_buffers_need_no_memory() -> None:
    assert plan_memory([], capacity=1).peak == 0


def test_fixed_addresses_are_kept() -> None:
    plan = plan_memory([Buffer(name="in", size=4, first_use=0, last_use=1, address=10),
                        Buffer(name="out", size=8, first_use=1, last_use=2)], capacity=32)
    assert plan.address("in") == 10 and plan.address("out") in (0, 14)


def test_a_plan_that_exceeds_the_memory_is_returned_for_the_report() -> None:
    assert not plan_memory([Buffer(name="a", size=9, first_use=0, last_use=0)], capacity=8).fits


@pytest.mark.parametrize("second", [0, 3])
def test_the_verifier_finds_overlapping_live_buffers(second: int) -> None:
    pair = (Buffer(name="a", size=4, first_use=0, last_use=2, address=0),
            Buffer(name="b", size=4, first_use=2, last_use=3, address=second))
    with pytest.raises(MemoryPlanError, match="a and b overlap"):
        verify_plan(MemoryPlan(buffers=pair, capacity=8, peak=8, lower_bound=8))


def test_the_verifier_finds_a_misaligned_buffer() -> None:
    with pytest.raises(MemoryPlanError, match="alignment 8"):
        verify_plan(MemoryPlan(buffers=(Buffer(name="a", size=1, first_use=0, last_use=0, alignment=8, address=4),),
                               capacity=8, peak=5, lower_bound=1))
