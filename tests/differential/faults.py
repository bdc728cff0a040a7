"""Seeded faults: ``python -m tests.differential.faults --seed 1 --count 300``.

Half of them go into finished programs (`program_faults`) and count as caught where the simulator faults or differs from
the reference; half go into the table of the chip (`device_faults`) and count as caught by recorded bus traces, or by
the tables that the specification prints, since lowering and simulator share the table. A fault is without effect only
if everything that the run left in data memory is the same; such faults are reported, and left out of the share.

Source: docs/design.md "Tests".
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ai8x.errors import HardwareFault
from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.kernels import plan_kernels
from ai8x.max7800x.lower import LoweringPlan, lower_network
from ai8x.max7800x.program import Program
from ai8x.max7800x.simulator import Accelerator
from ai8x.network.reference import Trace, run_network
from ai8x.verify_max78000 import run_program, verify_simulator

from .kinds import KINDS, draw_case
from .memory import expected_words, memory_difference
from .program_faults import NoPlaceError, draw_kind, plant
from .sketch import Case

NETWORK_SEED = 31
"""Of the networks; the command's seed chooses the faults."""

MOST_WRITES = 6000
"""Networks with more bus writes would only take longer."""

REQUIRED_SHARE = 0.98
MEMORY_SEED = 7


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A network whose program works.

    Args:
        case: as drawn.
        plan: its layers in hardware form, and where everything lies.
        program: as lowered.
        trace: what the reference computes.
        second: what it computes the next time, where a rolling buffer makes that differ.
        words: data memory as the reference has it.
        memory: all of data memory after the simulator's run; undefined bytes are None.
    """

    case: Case
    plan: LoweringPlan
    program: Program
    trace: Trace
    second: Trace | None
    words: dict[int, tuple[int, int]]
    memory: dict[int, tuple[int, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of a fault.

    Args:
        place: which fault.
        caught: by what; empty where by nothing.
        has_effect: something in data memory differs, or the chip was told something else than the recorded firmware
            told it.
    """

    place: str
    caught: str
    has_effect: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Findings, counted."""

    findings: tuple[Finding, ...]

    @property
    def effective(self) -> int:
        """Faults that change something."""
        return sum(finding.has_effect for finding in self.findings)

    @property
    def caught(self) -> int:
        """Of those, the ones that were noticed."""
        return sum(finding.has_effect and bool(finding.caught) for finding in self.findings)

    @property
    def missed(self) -> tuple[str, ...]:
        """Faults that change something and were not noticed."""
        return tuple(f.place for f in self.findings if f.has_effect and not f.caught)

    @property
    def share(self) -> float:
        """Of the effective faults, those that were caught."""
        return self.caught / self.effective

    def __str__(self) -> str:
        witnesses = Counter(finding.caught for finding in self.findings if finding.has_effect and finding.caught)
        others = [finding for finding in self.findings if not finding.has_effect]
        return (f"{self.caught} of {self.effective} caught ({100 * self.share:.1f} %: {dict(witnesses)}), "
                f"{len(others)} without effect, {sum(bool(other.caught) for other in others)} of them noticed")


# --- faults in programs -------------------------------------------------------------------------------------------


def subjects(kinds: Sequence[str] = tuple(KINDS)) -> tuple[Subject, ...]:
    """One small network for each corner."""
    return tuple(_subject(kind) for kind in kinds)


def _subject(kind: str) -> Subject:
    """The first drawn network of a kind that the chip can run and that is small."""
    number = 0
    while True:
        case = draw_case(NETWORK_SEED, number, kind)
        number += 1
        if case is None or check_network(case.network, case.placement, MAX78000).errors:
            continue
        network, placement = case.network, case.placement
        layers = hardware_layers(network, placement, MAX78000)
        plan = LoweringPlan(device=MAX78000, layers=layers, placement=placement,
                            kernels=plan_kernels(layers, MAX78000))
        trace = run_network(network, case.sample)
        program = lower_network(network, plan, case.sample, trace, case.options)
        if sum(1 for _ in program.bus_writes()) > MOST_WRITES:
            continue
        second = run_network(network, case.sample, buffer=trace.buffer) if network.buffer else None
        return Subject(case=case, plan=plan, program=program, trace=trace, second=second,
                       words=expected_words(case, plan, trace), memory=memory_after(program))


def memory_after(program: Program) -> dict[int, tuple[int, int]]:
    """Every data word after an inference: address -> (defined bits, their value)."""
    accelerator = Accelerator(seed=MEMORY_SEED)
    run_program(program, accelerator)
    return dict(_data_words(accelerator))


def _data_words(accelerator: Accelerator) -> Iterator[tuple[int, tuple[int, int]]]:
    geometry = MAX78000.geometry
    for instance in range(geometry.num_instances):
        for word in range(geometry.data_words):
            address = geometry.data_address(instance, word)
            defined = ~accelerator.undefined(address) & 0xFFFFFFFF
            if defined:
                yield address, (defined, accelerator.peek(address, 4) & defined)


def program_finding(subject: Subject, program: Program, place: str) -> Finding:
    """Whether the checks notice what was done to a program."""
    where = f"{subject.case.kind}: {place}"
    network = subject.case.network
    try:
        if verify_simulator(network, subject.plan.layers, program, subject.trace, subject.second).is_different:
            return Finding(place=where, caught="layers", has_effect=True)
        accelerator = Accelerator(seed=MEMORY_SEED)
        run_program(program, accelerator)
        if memory_difference("simulator", subject.plan, subject.words, accelerator):
            return Finding(place=where, caught="memory", has_effect=True)
    except HardwareFault:
        return Finding(place=where, caught="fault", has_effect=True)
    return Finding(place=where, caught="", has_effect=dict(_data_words(accelerator)) != subject.memory)


def run_program_faults(seed: int, count: int, among: Sequence[Subject]) -> Score:
    """Plant faults one at a time, over the networks in turn."""
    findings: list[Finding] = []
    attempt = 0
    while len(findings) < count:
        rng = np.random.default_rng([seed, attempt])
        subject = among[attempt % len(among)]
        attempt += 1
        try:
            program, place = plant(rng, subject.program, draw_kind(rng))
        except NoPlaceError:
            continue
        findings.append(program_finding(subject, program, place))
    return Score(findings=tuple(findings))


# --- the command --------------------------------------------------------------------------------------------------


def main() -> int:
    """Plant the faults and print what was caught; exit status 1 where the share is too small."""
    from .device_faults import run_device_faults

    parser = argparse.ArgumentParser(prog="python -m tests.differential.faults", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=300, help="faults, half of them in the table (default: 300)")
    arguments = parser.parse_args()
    in_table = arguments.count // 2
    start = time.monotonic()
    among = subjects()
    scores = {"lowering": run_program_faults(arguments.seed, arguments.count - in_table, among),
              "device table": run_device_faults(arguments.seed, in_table, among)}
    for name, score in scores.items():
        print(f"{name}: {score}")
        print("".join(f"  missed: {place}\n" for place in score.missed), end="")
    total = Score(findings=tuple(finding for score in scores.values() for finding in score.findings))
    print(f"seed {arguments.seed}: {total}, {time.monotonic() - start:.0f} s")
    return int(total.share < REQUIRED_SHARE)


if __name__ == "__main__":
    sys.exit(main())
