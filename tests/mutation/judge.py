"""What becomes of a mutated file: refused as it should be, accepted and right, or a defect. Start at `judge`.

The stages are those of synthesize.py up to the two programs, without writing anything. What they accept is run: the
simulators must equal the reference.
"""

from __future__ import annotations

import enum
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from ai8x.checkpoint import Checkpoint
from ai8x.errors import Diagnostic, Source, UserError
from ai8x.k210.lower import lower_network as lower_for_k210
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.lower import lower_network
from ai8x.max7800x.lower_data import unload_regions
from ai8x.max7800x.options import DEFAULT_PROJECT
from ai8x.network.build import build_network
from ai8x.network.ir import TensorShape
from ai8x.network.reference import run_network
from ai8x.network.yaml_file import NetworkFile, parse_network_file
from ai8x.sample import Sample
from ai8x.synthesis import Inputs, SynthesisOptions
from ai8x.synthesis_max78000 import complete_placement, plan_network
from ai8x.verify_k210 import verify_kmodel
from ai8x.verify_max78000 import verify_simulator

from .bases import Base
from .mutate import Mutant

MOST_SECONDS = 2.0
"""CPU time until a file is refused or accepted."""

_GIVE_UP_SECONDS = 20.0
_FILE = "net.yaml"


class Kind(enum.Enum):
    """What became of a file."""

    REFUSED = "refused"
    SAME = "accepted, it means the same"
    CHANGED = "accepted, it computes something else, and right"
    TRACEBACK = "traceback"
    SLOW = "too slow"
    INCOMPLETE = "refused without all parts of a message"
    NONSENSE = "a nonsense value is accepted"
    MISMATCH = "an executor differs from the reference"


DEFECTS = frozenset({Kind.TRACEBACK, Kind.SLOW, Kind.INCOMPLETE, Kind.NONSENSE, Kind.MISMATCH})


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The result for one file.

    Args:
        kind: what became of it.
        codes: of the refusals.
        detail: for people.
        seconds: CPU time until it was refused or accepted.
    """

    kind: Kind
    codes: tuple[str, ...] = ()
    detail: str = ""
    seconds: float = 0.0


class _TooSlowError(Exception):
    """Raised by the timer inside whatever hangs."""


def judge(base: Base, mutant: Mutant) -> Judgement:
    """Read, build, check and plan the file for both chips; run what was accepted.

    Args:
        base: the correct file with its parameters.
        mutant: of that file.

    Returns:
        What the MAX78000's stages say, unless there is a defect on either chip.
    """
    meter = _Meter()
    try:
        with meter:
            inputs, options = _read(base, mutant.text)
    except UserError as error:
        return _refused(error, meter)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a defect and counted
        return _defect(error, meter)
    judgements = [_judge_target(lambda accept=accept: accept(inputs, options), meter)  # type: ignore[misc]
                  for accept in (_accept_max78000, _accept_k210)]
    if defects := [found for found in judgements if found.kind in DEFECTS]:
        return defects[0]
    if judgements[0].kind is Kind.REFUSED:
        return judgements[0]
    if mutant.garbage:
        return Judgement(kind=Kind.NONSENSE, detail=mutant.garbage)
    is_same = without_places(inputs.file) == without_places(parse_network_file(base.text, _FILE))
    return replace(judgements[0], kind=Kind.SAME if is_same else Kind.CHANGED)


class _Meter:
    """Limits and counts the CPU time of stages."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def __enter__(self) -> None:
        self._start = time.process_time()
        signal.signal(signal.SIGPROF, _too_slow)
        signal.setitimer(signal.ITIMER_PROF, _GIVE_UP_SECONDS)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.seconds += time.process_time() - self._start


def _too_slow(_: int, __: FrameType | None) -> None:
    raise _TooSlowError


Verify = Callable[[], str]
"""Runs what was accepted: the difference from the reference, empty where there is none."""


def _judge_target(accept: Callable[[], Verify], meter: _Meter) -> Judgement:
    try:
        with meter:
            verify = accept()
    except UserError as error:
        return _refused(error, meter)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a defect and counted
        return _defect(error, meter)
    if meter.seconds > MOST_SECONDS:
        return Judgement(kind=Kind.SLOW, seconds=meter.seconds)
    difference = verify()
    return Judgement(kind=Kind.MISMATCH if difference else Kind.SAME, detail=difference, seconds=meter.seconds)


def _read(base: Base, text: str) -> tuple[Inputs, SynthesisOptions]:
    file = parse_network_file(text.encode(), _FILE)
    network = build_network(file, base.parameters, TensorShape(*base.sample.shape), checkpoint_arch=base.arch,
                            average_rounded="--avg-pool-rounding" in base.options)
    inputs = Inputs(file=file, checkpoint=Checkpoint(state={}), network=network,
                    trace=run_network(network, base.sample), sample=Sample(values=base.sample, origin="the base"))
    project = replace(DEFAULT_PROJECT, fifo="--fifo" in base.options)
    return inputs, SynthesisOptions(network=Path(_FILE), checkpoint=Path(), out=Path(), max78000=project)


def _accept_max78000(inputs: Inputs, options: SynthesisOptions) -> Verify:
    completed = complete_placement(inputs, options)
    inputs = completed.inputs
    plan, _ = plan_network(inputs, completed.options)
    lowering = replace(completed.options.max78000.lower, unload=unload_regions(inputs.file.unload, MAX78000))
    program = lower_network(inputs.network, plan, inputs.sample.values, inputs.trace, lowering)
    second = None
    if inputs.network.buffer is not None:
        second = run_network(inputs.network, inputs.sample.values, buffer=inputs.trace.buffer)

    def verify() -> str:
        verdict = verify_simulator(inputs.network, plan.layers, program, inputs.trace, second)
        return str(verdict) if verdict.is_different else ""

    return verify


def _accept_k210(inputs: Inputs, _: SynthesisOptions) -> Verify:
    lowered = lower_for_k210(inputs.network)

    def verify() -> str:
        verdict = verify_kmodel(inputs.network, lowered, inputs.sample.values, inputs.trace)
        return f"k210: {verdict}" if verdict.is_different else ""

    return verify


def _refused(error: UserError, meter: _Meter) -> Judgement:
    codes = tuple(dict.fromkeys(item.code for item in error.diagnostics))
    if meter.seconds > MOST_SECONDS:
        return Judgement(kind=Kind.SLOW, codes=codes, detail=str(error), seconds=meter.seconds)
    if poor := [item for item in error.diagnostics if missing_parts(item)]:
        detail = f"without {', '.join(missing_parts(poor[0]))}:\n{poor[0].format()}"
        return Judgement(kind=Kind.INCOMPLETE, codes=codes, detail=detail)
    return Judgement(kind=Kind.REFUSED, codes=codes, seconds=meter.seconds)


def _defect(error: Exception, meter: _Meter) -> Judgement:
    kind = Kind.SLOW if isinstance(error, _TooSlowError) else Kind.TRACEBACK
    return Judgement(kind=kind, detail="".join(traceback.format_exception(error)[-5:]), seconds=meter.seconds)


def missing_parts(item: Diagnostic) -> tuple[str, ...]:
    """Parts of a message that a user could miss."""
    source = item.source
    parts = {"code": item.code, "message": item.message, "found": item.found, "allowed": item.allowed,
             "help": item.help, "file": source and source.file, "line": source and source.line,
             "column": source and source.column}
    return tuple(name for name, part in parts.items() if not part)


def without_places(file: NetworkFile) -> NetworkFile:
    """The file's meaning: no places, no warnings."""
    bare = Source(file="")
    layers = tuple(replace(entry, source=bare, sources={}, hint=replace(entry.hint, source=None, sources={}))
                   for entry in file.layers)
    buffer = None if file.data_buffer is None else replace(file.data_buffer, source=bare)
    return replace(file, layers=layers, data_buffer=buffer, sources={}, warnings=(),
                   unload=tuple(replace(item, source=bare) for item in file.unload))
