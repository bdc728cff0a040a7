"""The chips side by side, and what the layers cost on each. Start at `comparison` and `layer_costs`."""

from __future__ import annotations

from dataclasses import dataclass

from ai8x.report import ChipReport, Report, Resource

_BYTES = {"data": "Activation memory", "weights": "Weights and program data"}

_NOTHING = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """One property of every chip.

    Args:
        name: what is compared.
        values: for people, one for each chip of the report.
    """

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCost:
    """What one layer of the network costs on one chip, over all steps that serve it.

    Args:
        cycles: of steps with a known time.
        time_us: likewise.
        share: of the chip's time for one inference, 0 to 1.
        utilisation: multiply-accumulates over what the units that compute could do in their cycles.
        num_processors: most that any of its steps enables; 0 where the chip has none to name.
        units: what executes it, such as ``KPU``, each once, in order.
        steps: names of the steps.
        untimed: names of those whose time is not known.
        rough: some figure depends on CPU timing or on few measurements.
        num_computing: steps that the CPU does not execute.
    """

    cycles: int
    time_us: float
    share: float
    utilisation: float
    num_processors: int
    units: tuple[str, ...]
    steps: tuple[str, ...]
    untimed: tuple[str, ...]
    rough: bool
    num_computing: int

    @property
    def kind(self) -> str:
        """How to colour it: ``chip`` where the accelerator does it alone, ``cpu``, or ``mixed``."""
        if "CPU" not in self.units:
            return "chip"
        return "cpu" if self.units == ("CPU",) else "mixed"

    @property
    def unit_text(self) -> str:
        """Units with the number of their steps where there are several."""
        num_cpu = len(self.steps) - self.num_computing
        if self.kind == "mixed":
            computing = next(unit for unit in self.units if unit != "CPU")
            return f"{_times(self.num_computing, computing)} + {_times(num_cpu, 'CPU')}"
        return _times(len(self.steps), self.units[0])


def _times(count: int, unit: str) -> str:
    return unit if count == 1 else f"{count}×{unit}"


def comparison(report: Report) -> tuple[ComparisonRow, ...]:
    """Rows of the side-by-side table, those that say something; chips that refuse the network have dashes."""
    chips = report.chips
    rows = [
        ("Runs the network", [_runs(chip) for chip in chips]),
        ("Time of one inference", [_unless_refused(chip, _time(chip)) for chip in chips]),
        ("Clock", [_unless_refused(chip, f"{chip.clock_hz / 1e6:.0f} MHz") for chip in chips]),
        ("Cycles", [_unless_refused(chip, f"{chip.total_cycles:,}") for chip in chips]),
        ("MACs per cycle, of at most", [_unless_refused(chip, _rate(report, chip)) for chip in chips]),
        ("Steps", [_unless_refused(chip, _steps(chip)) for chip in chips]),
        *((name, [_unless_refused(chip, _use(chip, role)) for chip in chips]) for role, name in _BYTES.items()),
        ("Plan of the activations", [_unless_refused(chip, _plan(chip)) for chip in chips]),
        ("Facts nobody has confirmed", [_unless_refused(chip, str(len(chip.unverified))) for chip in chips]),
        ("Generated files", [f"{sum(chip.files.values()):,} bytes" if chip.files else _NOTHING for chip in chips]),
    ]
    return tuple(ComparisonRow(name=name, values=tuple(values)) for name, values in rows
                 if any(value != _NOTHING for value in values))


def layer_costs(report: Report) -> dict[int, dict[str, LayerCost]]:
    """Layer index -> target -> cost; a layer that costs nothing on a chip has no entry there."""
    return {layer.index: {chip.target: cost for chip in report.chips
                          if (cost := _layer_cost(chip, layer.index, layer.macs)) is not None}
            for layer in report.layers}


def _layer_cost(chip: ChipReport, index: int, macs: int) -> LayerCost | None:
    rows = [row for row in chip.layers if row.index == index]
    if not rows:
        return None
    computing = [row for row in rows if row.unit != "CPU"]
    cycles = sum(row.cycles for row in computing)
    peak = cycles * chip.peak_macs_per_cycle
    time_us = sum(row.time_us for row in rows)
    return LayerCost(
        cycles=sum(row.cycles for row in rows), time_us=time_us,
        share=time_us / chip.total_time_us if chip.total_time_us else 0.0,
        utilisation=min(1.0, macs / peak) if peak else 0.0,
        num_processors=max(row.num_processors for row in rows), units=tuple(dict.fromkeys(row.unit for row in rows)),
        steps=tuple(row.name for row in rows), untimed=tuple(row.name for row in rows if not row.timed),
        rough=any(row.rough for row in rows), num_computing=len(computing))


def _unless_refused(chip: ChipReport, text: str) -> str:
    return _NOTHING if chip.refusal else text


def _runs(chip: ChipReport) -> str:
    return f"no: {', '.join(dict.fromkeys(f.code for f in chip.refusal.findings))}" if chip.refusal else "yes"


def _time(chip: ChipReport) -> str:
    least = "at least " if chip.untimed else ""
    return f"{least}{chip.total_time_us / 1e3:.3f} ms (estimated)"


def _rate(report: Report, chip: ChipReport) -> str:
    if not chip.total_cycles:
        return _NOTHING
    rate = report.total_macs / chip.total_cycles
    peak = chip.peak_macs_per_cycle
    return f"{rate:,.1f} of {peak:,} ({rate / peak:.1%})" if peak else f"{rate:,.1f}"


def _steps(chip: ChipReport) -> str:
    units: dict[str, int] = {}
    for row in chip.layers:
        units[row.unit] = units.get(row.unit, 0) + 1
    return ", ".join(f"{count} {unit}" for unit, count in units.items())


def _use(chip: ChipReport, role: str) -> str:
    found: Resource | None = next((resource for resource in chip.resources if resource.role == role), None)
    if found is None:
        return _NOTHING
    return f"{found.used:,} of {found.capacity:,} {found.unit} ({found.used / found.capacity:.1%})"


def _plan(chip: ChipReport) -> str:
    if chip.plan_peak is None:
        return _NOTHING
    bound = "" if chip.plan_lower_bound is None else f", lower bound {chip.plan_lower_bound:,}"
    return f"peak {chip.plan_peak:,} bytes{bound}"
