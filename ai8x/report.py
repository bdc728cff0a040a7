"""What a synthesis run found out, as plain data: the one source of terminal table, ``report.json`` and ``report.html``.

Owns the report's content and its JSON form. Knows nothing of chips: `report_max78000.py` and `report_k210.py` fill it
in, `report_html.py` draws it. docs/report.md explains every key. Start at `Report`.

Source: docs/design.md "Libraries", "Honesty".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ai8x.capacity import Consumer, Remedy

REPORT_FORMAT = 2
"""Version of the JSON form; raised when a key changes its meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """How far a layer's integers are from the float model's values, over the samples of `Report.error_samples`.

    Args:
        snr_db: power of the float output over power of the difference, in dB; None without any difference.
        max_error: greatest absolute difference, in units of the float model.
        peak: greatest magnitude of the float output.
        saturated: share of outputs at an end of the integer range where the float output lies beyond it, 0 to 1.
    """

    snr_db: float | None
    max_error: float
    peak: float
    saturated: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """One layer of the network, independent of any chip.

    Args:
        index, name: as in the network file.
        operator: for people, such as ``Conv2d 3x3, pad 1, max pool 2x2``.
        inputs: names of the layers it reads, ``input`` for the network's input.
        sources: the same as positions in `Report.layers`; -1 stands for the input, -2 for the rolling buffer.
        in_shape, out_shape: (C, H, W).
        macs: multiply-accumulates of one inference.
        weight_bits: 1, 2, 4 or 8; 0 without weights.
        weight_bytes: size of the weights at that width.
        bias_bytes: one per output channel that has a bias.
        activation: ``ReLU``, ``Abs`` or ``none``.
        output_shift: total shift, positive = left.
        output_bits: 8 or 32.
        is_output: whether the network returns it.
        error: distance from the float model; None without one, or for a layer that the float model does not have.
    """

    index: int
    name: str
    operator: str
    inputs: tuple[str, ...]
    sources: tuple[int, ...]
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    macs: int
    weight_bits: int
    weight_bytes: int
    bias_bytes: int
    activation: str
    output_shift: int
    output_bits: int
    is_output: bool
    error: LayerError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipLayer:
    """What one layer costs on one chip.

    Args:
        index: layer of the network; several rows may serve one layer, none for a layer that costs nothing.
        name: step name on that chip.
        unit: what executes it, such as ``CNN``, ``KPU`` or ``CPU``.
        processors: what is enabled, for people (a mask in hexadecimal), or an empty string.
        num_processors: how many that are; 0 for a unit that has none.
        cycles: of the chip's accelerator clock (CPU steps: of the same clock, so that they add up).
        time_us: at the report's clock.
        utilisation: multiply-accumulates divided by what the unit could do in these cycles, 0 to 1.
        rough: the figure depends on CPU timing or on few measurements.
        timed: False where no time is known; cycles and time are then 0 and not part of the total.
    """

    index: int
    name: str
    unit: str
    processors: str
    cycles: int
    time_us: float
    utilisation: float
    num_processors: int = 0
    rough: bool = False
    timed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBlock:
    """Storage of one tensor for as long as it is needed.

    Args:
        label: name of the tensor.
        lane: row of the memory map, such as an instance of data memory.
        start, end: half-open range in the map's unit.
        first_step, last_step: inclusive positions in `MemoryMap.steps`.
    """

    label: str
    lane: int
    start: int
    end: int
    first_step: int
    last_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMap:
    """A memory over time.

    Args:
        title: such as ``Data memory``.
        unit: of addresses, such as ``bytes`` or ``lines of 64 bytes``.
        capacity: of one lane.
        lanes: names of the lanes, one for a flat memory.
        steps: names of the steps, in order.
        blocks: what lies where.
        peak: highest sum or address in use, as the chip's planner counts it.
        lower_bound: least peak that any placement of the same tensors could have; 0 where not known.
    """

    title: str
    unit: str
    capacity: int
    lanes: tuple[str, ...]
    steps: tuple[str, ...]
    blocks: tuple[MemoryBlock, ...]
    peak: int
    lower_bound: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """Use of one limited thing.

    Args:
        name: such as ``Weight memory``.
        used, capacity: in `unit`.
        unit: such as ``bytes``.
        role: ``weights``, ``data`` or ``other``; resources of one role stand side by side in the comparison of chips.
        parts: use of each part (processor, quadrant), empty where it has none.
        part_capacity: capacity of each part.
        part_name: what a part is called.
        group_size: parts that belong together (the processors of a quadrant); 0 without such groups.
        group_name: what such a group is called.
    """

    name: str
    used: int
    capacity: int
    unit: str
    role: str = "other"
    parts: tuple[int, ...] = ()
    part_capacity: int = 0
    part_name: str = ""
    group_size: int = 0
    group_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """Something that the result relies on and that no device has confirmed.

    Args:
        key: stable name, such as ``max78000-rolling-buffer``.
        text: what it is about, one phrase.
        effect: what would be wrong if it were not so.
        source: page and section of the specification, or the file that says so.
    """

    key: str
    text: str
    effect: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One reason why a chip refuses the network; the parts are those of `ai8x.errors.Diagnostic`."""

    code: str
    message: str
    layer: str = ""
    found: str = ""
    allowed: str = ""
    help: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a chip cannot run the network, and what would make it fit.

    Args:
        findings: in the order in which they were found.
        consumers: largest first within each memory.
        remedies: cheapest first.
    """

    findings: tuple[Finding, ...]
    consumers: tuple[Consumer, ...] = ()
    remedies: tuple[Remedy, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipReport:
    """The network on one chip.

    Args:
        target: ``max78000`` or ``k210``.
        title: for people.
        clock_hz: accelerator clock that times refer to.
        peak_macs_per_cycle: multiply-accumulates of the whole accelerator in one cycle.
        layers: in execution order.
        total_cycles, total_time_us: of one inference.
        timing_note: what the figures include and how well they are known.
        memory_maps: memories over time.
        resources: everything that can run out.
        plan_peak: highest byte in use in any data memory, plus one; None where there is no plan.
        plan_lower_bound: bytes that the fullest memory needs at its worst step whatever the offsets; None where there
            is no plan.
        unverified: facts used that no device has confirmed.
        proofs: why the integers are exact, one sentence for each step, with the numbers.
        files: file name -> size in bytes of what was generated.
        refusal: why the chip cannot run the network; everything measured is then 0 or empty.
    """

    target: str
    title: str
    clock_hz: int
    layers: tuple[ChipLayer, ...]
    total_cycles: int
    total_time_us: float
    timing_note: str
    peak_macs_per_cycle: int = 0
    memory_maps: tuple[MemoryMap, ...] = ()
    resources: tuple[Resource, ...] = ()
    plan_peak: int | None = None
    plan_lower_bound: int | None = None
    unverified: tuple[Fact, ...] = ()
    proofs: tuple[str, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    refusal: Refusal | None = None

    @property
    def untimed(self) -> tuple[str, ...]:
        """Names of the steps for which no time is known."""
        return tuple(row.name for row in self.layers if not row.timed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Classification results of one executor on one set of samples.

    Args:
        executor: ``reference``, ``simulator`` or ``kmodel``.
        samples: number of samples.
        correct: how many were classified as labelled.
        mismatches: samples whose outputs differ from the reference in any value.
        confusion: counts, one row for each true class, one column for each class found.
    """

    executor: str
    samples: int
    correct: int
    mismatches: int
    confusion: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One synthesis run.

    Args:
        version: of the tool.
        network: name of the architecture.
        dataset: name of the data set.
        input_shape: (C, H, W).
        sample: where the sample came from, for people.
        layers: in the order of the network file.
        chips: one for each target.
        verification: witness -> ``equal``, ``different: ...`` or ``skipped: ...`` (docs/design.md).
        accuracy: results on a test set, where one was run.
        messages: warnings and notices, as text.
        labels: names of the classes, empty where they are not known.
        error_samples: what `LayerRow.error` was measured on, for people; empty without a float model.
    """

    version: str
    network: str
    dataset: str
    input_shape: tuple[int, int, int]
    sample: str
    layers: tuple[LayerRow, ...]
    chips: tuple[ChipReport, ...]
    verification: Mapping[str, str]
    accuracy: tuple[Accuracy, ...] = ()
    messages: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    error_samples: str = ""

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(layer.macs for layer in self.layers)

    @property
    def total_weight_bytes(self) -> int:
        """Size of all weights."""
        return sum(layer.weight_bytes for layer in self.layers)


def to_json(report: Report) -> dict[str, Any]:
    """The content of ``report.json``: the dataclasses as they are, with a format number and totals."""
    content = dataclasses.asdict(report)
    return {"format": REPORT_FORMAT, **content,
            "totals": {"macs": report.total_macs, "weight_bytes": report.total_weight_bytes}}
