"""Runs a case on the reference, the KPU simulator and the compiled runner, and compares. Start at `compare_case`.

Source: docs/design.md "Two witnesses" and "Tests".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ai8x.errors import HardwareFault, UserError
from ai8x.k210.interpreter import KmodelRun, run_kmodel
from ai8x.k210.kmodel import read_kmodel, write_kmodel
from ai8x.k210.lower import LoweredModel, lower_network
from ai8x.network.reference import run_network
from ai8x.verify_k210 import compare_kmodel

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
        lowered = lower_network(case.network)
    except UserError as error:
        return Outcome(refused=tuple(sorted({finding.code for finding in error.diagnostics})))
    try:
        traces = [run_network(case.network, sample) for sample in case.samples]
    except ValueError as overflow:  # an accumulator beyond 32 bits
        return Outcome(refused=(str(overflow),))
    names = tuple(type(layer).__name__ for layer in lowered.model.layers)
    try:
        runs = []
        for number, (sample, trace) in enumerate(zip(case.samples, traces, strict=True)):
            run = run_kmodel(lowered.data, lowered.image(sample), seed=number)
            verdict = compare_kmodel(case.network, lowered, run, sample, trace)
            if verdict.is_different:
                return Outcome(difference=f"simulator, sample {number}: {verdict}", layers=names)
            runs.append(run)
        difference = file_difference(lowered) or memory_difference(lowered, case, runs[0])
    except HardwareFault as fault:
        return Outcome(difference=f"simulator: {fault}", layers=names)
    if difference or runner is None:
        return Outcome(difference=difference, layers=names)
    samples = (*case.samples, case.samples[0])  # the last inference repeats the first without being set up again
    try:
        made = runner.run(lowered.data, lowered.model.main_mem_usage, [lowered.image(sample) for sample in samples],
                          sum(place.size for place in lowered.model.outputs), seed=case.number)
    except HardwareFault as fault:
        return Outcome(difference=f"runner: {fault}", layers=names, ran=True)
    found = runner_difference(made, [*runs, runs[0]])
    return Outcome(difference=f"runner: {found}" if found else "", layers=names, ran=True)


def file_difference(lowered: LoweredModel) -> str:
    """Reading and writing the file again gives the same bytes."""
    return "" if write_kmodel(read_kmodel(lowered.data)) == lowered.data else "the file changes when it is rewritten"


def memory_difference(lowered: LoweredModel, case: Case, first: KmodelRun) -> str:
    """A run on memories with other contents gives the same bytes wherever they are defined."""
    other = run_kmodel(lowered.data, lowered.image(case.samples[0]), seed=1000 + case.number)
    for index, found in other.layers.items():
        wrong = found != first.layers[index]
        if index in first.undefined:
            wrong &= ~first.undefined[index]
        if wrong.any():
            return f"layer {index} depends on what the memories held before"
    equal = all(np.array_equal(a, b) for a, b in zip(first.outputs, other.outputs, strict=True))
    return "" if equal else "an output depends on what the memories held before"
