"""Runs a case on the reference, the KPU simulator and the compiled runner, and compares. Start at `compare_case`.

Source: docs/design.md "Two witnesses" and "Tests".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ai8x.errors import HardwareFault, UserError
from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.kmodel import read_kmodel, write_kmodel
from ai8x.k210.lower import LoweredModel, lower_network
from ai8x.network.reference import Trace, run_network
from ai8x.verify_k210 import compare_kmodel, memory_difference

from .draw import Case
from .firmware import Runner, runner_difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a case.

    Args:
        refused: codes of the limits that it breaks; empty where it was compared.
        difference: what differed; empty where nothing did.
        layers: kmodel layers that were compared.
        ran: the compiled runner ran it, too.
    """

    refused: tuple[str, ...] = ()
    difference: str = ""
    layers: tuple[str, ...] = ()
    ran: bool = False


def compare_case(case: Case, runner: Runner | None) -> Outcome:
    """Hold every executor against the reference.

    Args:
        case: what to run.
        runner: the compiled runner, or None for the simulator alone.
    """
    try:
        lowered = lower_network(case.network, case.forms)
    except UserError as error:
        return Outcome(refused=tuple(sorted({finding.code for finding in error.diagnostics})))
    try:
        traces = [run_network(case.network, sample) for sample in case.samples]
    except ValueError as overflow:  # an accumulator beyond 32 bits
        return Outcome(refused=(str(overflow),))
    ran = runner is not None and has_room(case, lowered)
    try:
        difference = simulator_difference(case, lowered, traces)
        if runner is not None and ran:
            difference = difference or runner_disagrees(case, lowered, runner)
    except HardwareFault as fault:
        difference = str(fault)
    names = tuple(type(layer).__name__ for layer in lowered.model.layers)
    return Outcome(difference=difference, layers=names, ran=ran)


def has_room(case: Case, lowered: LoweredModel) -> bool:
    """Whether the compiled runner can hold the model and all inferences that `runner_disagrees` asks for."""
    inferences = len(case.samples) + 1
    return Runner.has_room(lowered.data, lowered.model.main_mem_usage, inferences * lowered.input_map.size_bytes,
                           inferences * sum(place.size for place in lowered.model.outputs))


def simulator_difference(case: Case, lowered: LoweredModel, traces: Sequence[Trace]) -> str:
    """What the KPU simulator computes otherwise than the reference, layer by layer; empty if nothing."""
    runs = []
    for number, (sample, trace) in enumerate(zip(case.samples, traces, strict=True)):
        runs.append(run_kmodel(lowered.data, lowered.image(sample), seed=number))
        verdict = compare_kmodel(case.network, lowered, runs[-1], sample, trace)
        if verdict.is_different:
            return f"simulator, sample {number}: {verdict}"
    return file_difference(lowered) or memory_difference(lowered, case.samples[0], runs[0])


def runner_disagrees(case: Case, lowered: LoweredModel, runner: Runner) -> str:
    """What the compiled runner computes otherwise than the simulator; empty if nothing.

    The last inference repeats the first without being set up again.
    """
    images = [lowered.image(sample) for sample in (*case.samples, case.samples[0])]
    made = runner.run(lowered.data, lowered.model.main_mem_usage, images,
                      sum(place.size for place in lowered.model.outputs), seed=case.number)
    found = runner_difference(made, [run_kmodel(lowered.data, image) for image in images])
    return f"runner: {found}" if found else ""


def file_difference(lowered: LoweredModel) -> str:
    """Reading and writing the file again gives the same bytes."""
    return "" if write_kmodel(read_kmodel(lowered.data)) == lowered.data else "the file changes when it is rewritten"
