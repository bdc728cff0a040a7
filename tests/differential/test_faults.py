"""Seeded faults are noticed: a sample of what ``python -m tests.differential.faults`` plants.

Source: docs/design.md "Tests".
"""

import os

import numpy as np
import pytest

from ai8x.max7800x.simulator_trace import run_bus_trace

from .device_faults import (
    all_faults,
    draw_faults,
    has_effect,
    judge_of,
    lowered_writes,
    recorded_cases,
    run_device_faults,
)
from .faults import REQUIRED_SHARE, Finding, Score, Subject, program_finding, run_program_faults, subjects
from .program_faults import FAULTS, NoPlaceError, plant

SEED = 5
NUM_PROGRAM_FAULTS = 24
NUM_DEVICE_FAULTS = 16
LEAST_EFFECTIVE = 0.4


@pytest.fixture(scope="module")
def networks() -> tuple[Subject, ...]:
    """A few corners."""
    return subjects(("conv2d", "conv1d", "eltwise", "streaming", "flatten", "passes"))


def assert_caught(score: Score, count: int) -> None:
    """Nearly all that had an effect, and a good part had one."""
    print(f"\n{score}")
    assert len(score.findings) == count
    assert score.effective >= LEAST_EFFECTIVE * count
    assert score.share >= REQUIRED_SHARE, score.missed


def test_faults_in_lowering_are_caught(networks: tuple[Subject, ...]) -> None:
    assert_caught(run_program_faults(SEED, NUM_PROGRAM_FAULTS, networks), NUM_PROGRAM_FAULTS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="every fault of the table lives in a forked process")
def test_faults_in_the_device_table_are_caught_by_recorded_traces(networks: tuple[Subject, ...]) -> None:
    assert_caught(run_device_faults(SEED, NUM_DEVICE_FAULTS, networks), NUM_DEVICE_FAULTS)


def test_programs_without_a_fault_are_not_caught(networks: tuple[Subject, ...]) -> None:
    for subject in networks:
        finding = program_finding(subject, subject.program, "nothing")
        assert finding == Finding(place=f"{subject.case.kind}: nothing", caught="", has_effect=False)
        assert not has_effect([judge_of(subject)])


@pytest.mark.parametrize("kind", FAULTS)
def test_every_kind_of_fault_changes_the_bus_writes_of_some_network(networks: tuple[Subject, ...], kind: str) -> None:
    changed = 0
    for number, subject in enumerate(networks):
        before = list(subject.program.bus_writes())
        try:
            program, _ = plant(np.random.default_rng(number), subject.program, kind)
        except NoPlaceError:
            continue
        assert list(subject.program.bus_writes()) == before
        changed += list(program.bus_writes()) != before
    assert changed


def test_faults_of_the_table_are_drawn_without_repetition() -> None:
    every = all_faults()
    assert len(set(every)) == len(every)
    assert set(draw_faults(1, len(every))) == set(every)
    assert draw_faults(1, 9) == draw_faults(1, 9) != draw_faults(2, 9)


@pytest.mark.parametrize("case", recorded_cases(), ids=lambda case: case.name)
def test_recorded_projects_hold_with_the_sound_table(case) -> None:  # type: ignore[no-untyped-def]
    assert run_bus_trace(case / "bus.npz").passed
    with np.load(case / "bus.npz") as bus:
        recorded = dict(zip(bus["address"].tolist(), bus["value"].tolist(), strict=True))
    found = {address: value for address, _, value in lowered_writes(case)}
    assert {address: value for address, value in found.items() if value} == {
        address: value for address, value in recorded.items() if value}
