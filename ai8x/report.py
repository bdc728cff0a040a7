"""What a synthesis run found out, as plain data: the one source of terminal table, ``report.json`` and ``report.html``.

Owns the report's content and its JSON form. Knows nothing of chips: `report_max78000.py` and `report_k210.py` fill it
in, `report_html.py` draws it. Start at `Report`.

Source: docs/design.md "Libraries", "Honesty".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

REPORT_FORMAT = 1
"""Version of the JSON form; raised when a key changes its meaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRow:
    """One layer of the network, independent of any chip.

    Args:
        index, name: as in the network file.
        operator: for people, such as ``Conv2d 3x3, pad 1, max pool 2x2``.
        inputs: names of the layers it reads, ``input`` for the network's input.
        in_shape, out_shape: (C, H, W).
        macs: multiply-accumulates of one inference.
        weight_bits: 1, 2, 4 or 8; 0 without weights.
        weight_bytes: size of the weights at that width.
        bias_bytes: one per output channel that has a bias.
        activation: ``ReLU``, ``Abs`` or ``none``.
        output_shift: total shift, positive = left.
        output_bits: 8 or 32.
        is_output: whether the network returns it.
    """

    index: int
    name: str
    operator: str
    inputs: tuple[str, ...]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipLayer:
    """What one layer costs on one chip.

    Args:
        index: layer of the network; several rows may serve one layer, none for a layer that costs nothing.
        name: step name on that chip.
        unit: what executes it, such as ``CNN``, ``KPU`` or ``CPU``.
        processors: what is enabled, for people (a mask in hexadecimal), or an empty string.
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
        parts: use of each part (processor, quadrant), empty where it has none.
        part_capacity: capacity of each part.
        part_name: what a part is called.
    """

    name: str
    used: int
    capacity: int
    unit: str
    parts: tuple[int, ...] = ()
    part_capacity: int = 0
    part_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipReport:
    """The network on one chip.

    Args:
        target: ``max78000`` or ``k210``.
        title: for people.
        clock_hz: accelerator clock that times refer to.
        layers: in execution order.
        total_cycles, total_time_us: of one inference.
        timing_note: what the figures include and how well they are known.
        memory_maps: memories over time.
        resources: everything that can run out.
        unverified: facts used that no device has confirmed, one sentence each with its source.
        proofs: why the integers are exact, one sentence for each step, with the numbers.
        files: file name -> size in bytes of what was generated.
    """

    target: str
    title: str
    clock_hz: int
    layers: tuple[ChipLayer, ...]
    total_cycles: int
    total_time_us: float
    timing_note: str
    memory_maps: tuple[MemoryMap, ...] = ()
    resources: tuple[Resource, ...] = ()
    unverified: tuple[str, ...] = ()
    proofs: tuple[str, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)


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
