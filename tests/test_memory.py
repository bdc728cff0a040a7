"""The memory planner: no two live buffers overlap, and the peak stays near the lower bound."""

import random

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


def test_mean_peak_is_within_ten_percent_of_the_lower_bound() -> None:
    generator = random.Random(1)
    ratios = []
    for _ in range(60):
        items = [Buffer(name=str(i), size=generator.randint(1, 64), first_use=i,
                        last_use=i + generator.choice([1, 1, 1, 2, 4])) for i in range(generator.randint(3, 24))]
        plan = plan_memory(items, capacity=1)
        ratios.append(plan.peak / lower_bound(items))
    assert sum(ratios) / len(ratios) <= 1.10


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
