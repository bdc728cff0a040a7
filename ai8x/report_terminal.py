"""The report on a terminal: what users look at after a synthesis run. Start at `print_report`.

Tables fit 100 columns: only operators and long names wrap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ai8x.report import Accuracy, ChipReport, LayerError, Report

MAX_CONFUSION = 20
"""Classes up to which the confusion table is printed; the report has it in any case."""

_SKIPPED = "skipped: "
_LONGEST_NAME = 24
_LEAST_WIDTHS: Mapping[str, int] = MappingProxyType({"layer": 6, "operator": 16, "step": 6})

_Column = tuple[str, Literal["left", "right"]]


def print_report(console: Console, report: Report, folder: Path) -> None:
    """Layers, chips, verification, accuracy and where everything lies."""
    console.print(layer_table(report))
    for chip in report.chips:
        if chip.refusal is None:
            console.print(chip_table(report, chip))
        for line in chip_lines(chip):
            console.print(line, markup=False)
    for line in verification_lines(report):
        console.print(line, markup=False)
    printed: list[Accuracy] = []
    for row in report.accuracy:
        console.print(f"  {row.executor:14} {row.correct} of {row.samples} test items correct "
                      f"({row.correct / row.samples:.2%}), {row.mismatches} with other outputs than the reference")
        if 0 < len(row.confusion) <= MAX_CONFUSION and all(row.confusion != other.confusion for other in printed):
            console.print(f"\n{row.executor}: true class (rows), class found (columns)", markup=False)
            console.print(confusion_table(row))
        printed.append(row)
    console.print(f"\nReport: {folder / 'report.html'}", markup=False)


def verification_lines(report: Report) -> Iterator[str]:
    """The verdict of every executor; one line where not even the reference ran."""
    reason = report.verification.get("reference", "")
    if reason.startswith(_SKIPPED):
        yield f"nothing was generated or run: {reason.removeprefix(_SKIPPED)}"
        return
    yield "Verification against the reference, every layer, exactly:"
    for witness, verdict in report.verification.items():
        yield f"  {witness:14} {verdict}"


def chip_lines(chip: ChipReport) -> Iterator[str]:
    """What stands below a chip's table: resources, plan, time, facts; or why it refuses the network."""
    if chip.refusal is not None:
        yield f"{chip.title}: does not fit"
        yield from (f"  {finding.code}: {finding.message}" for finding in chip.refusal.findings)
        yield from (f"  remedy: {remedy.action} ({remedy.effect})" for remedy in chip.refusal.remedies)
        yield ""
        return
    for resource in chip.resources:
        share = resource.used / resource.capacity
        yield f"  {resource.name}: {resource.used:,} of {resource.capacity:,} {resource.unit} ({share:.1%})"
    if chip.plan_peak is not None:
        bound = "" if chip.plan_lower_bound is None else f", lower bound {chip.plan_lower_bound:,}"
        yield f"  Plan of the activations: peak {chip.plan_peak:,} bytes{bound}"
    yield (f"  Time: {chip.total_cycles:,} cycles, {chip.total_time_us / 1e3:.3f} ms at {chip.clock_hz / 1e6:.0f} MHz; "
           f"{chip.timing_note}")
    if chip.unverified:
        noun, verb = ("fact", "is") if len(chip.unverified) == 1 else ("facts", "are")
        yield f"  {len(chip.unverified)} {noun} that no device has confirmed {verb} listed in the report"
    yield ""


def confusion_table(row: Accuracy) -> Table:
    """What an executor took the items of every class for."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", justify="right")
    for found in range(len(row.confusion)):
        table.add_column(str(found), justify="right")
    for true, counts in enumerate(row.confusion):
        table.add_row(str(true), *(str(count) if count else "" for count in counts))
    return table


def layer_table(report: Report) -> Table:
    """The network's layers, independent of the chips."""
    has_errors = any(row.error for row in report.layers)
    columns: list[_Column] = [("#", "right"), ("layer", "left"), ("operator", "left"), ("output", "right"),
                              ("MACs", "right"), ("weights", "right"), ("bits", "right")]
    if has_errors:
        columns.append(("SNR dB", "right"))
    table = _table(f"{report.network} on {report.dataset or 'data without a name'}", columns)
    for row in report.layers:
        shape = "x".join(str(size) for size in row.out_shape)
        cells = [str(row.index), escape(row.name), escape(row.operator), shape, f"{row.macs:,}",
                 f"{row.weight_bytes:,}", str(row.weight_bits or "")]
        table.add_row(*cells, *((_decibels(row.error),) if has_errors else ()))
    table.add_section()
    table.add_row("", "total", "", "", f"{report.total_macs:,}", f"{report.total_weight_bytes:,}", "")
    return table


def chip_table(report: Report, chip: ChipReport) -> Table:
    """What every step costs on one chip."""
    has_processors = any(row.processors for row in chip.layers)
    columns: list[_Column] = [("step", "left"), ("unit", "left")]
    if has_processors:
        columns += [("processors", "left"), ("enabled", "right")]
    table = _table(chip.title, [*columns, ("cycles", "right"), ("time us", "right"), ("use", "right")])
    for row in chip.layers:
        mark = " ~" if row.rough else ""
        cost = (f"{row.cycles:,}", f"{row.time_us:,.1f}{mark}") if row.timed else ("unknown", "unknown")
        processors = (escape(row.processors), str(row.num_processors)) if has_processors else ()
        use = "" if row.unit == "CPU" else f"{row.utilisation:.0%}"
        table.add_row(escape(row.name), row.unit, *processors, *cost, use)
    return table


def _table(title: str, columns: Sequence[_Column]) -> Table:
    """A table without vertical lines, which has room for one column more; widths given here are kept."""
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name, justify in columns:
        is_name = name in ("layer", "step")
        table.add_column(name, justify=justify, no_wrap=name != "operator" and not is_name, overflow="fold",
                         max_width=_LONGEST_NAME if is_name else None, min_width=_LEAST_WIDTHS.get(name))
    return table


def _decibels(error: LayerError | None) -> str:
    if error is None:
        return ""
    return "exact" if error.snr_db is None else f"{error.snr_db:.1f}"
