"""The report on a terminal: what users look at after a synthesis run. Start at `print_report`."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ai8x.report import Accuracy, ChipReport, Report

MAX_CONFUSION = 20
"""Classes up to which the confusion table is printed; the report has it in any case."""


def print_report(console: Console, report: Report, folder: Path) -> None:
    """Layers, chips, verification, accuracy and where everything lies."""
    console.print(layer_table(report))
    for chip in report.chips:
        console.print(chip_table(report, chip))
        for resource in chip.resources:
            share = resource.used / resource.capacity
            use = f"{resource.used:,} of {resource.capacity:,} {resource.unit} ({share:.1%})"
            console.print(f"  {resource.name}: {use}", markup=False)
        console.print(f"  Time: {chip.total_cycles:,} cycles, {chip.total_time_us / 1e3:.3f} ms at "
                      f"{chip.clock_hz / 1e6:.0f} MHz; {chip.timing_note}\n", markup=False)
    console.print("Verification against the reference, every layer, exactly:")
    for witness, verdict in report.verification.items():
        console.print(f"  {witness:14} {verdict}", markup=False)
    for row in report.accuracy:
        console.print(f"  {row.executor:14} {row.correct} of {row.samples} test items correct "
                      f"({row.correct / row.samples:.2%}), {row.mismatches} with other outputs than the reference")
        if 0 < len(row.confusion) <= MAX_CONFUSION:
            console.print(confusion_table(row))
    console.print(f"\nReport: {folder / 'report.html'}", markup=False)


def confusion_table(row: Accuracy) -> Table:
    """What an executor took the items of every class for."""
    table = Table(title=f"{row.executor}: true class (rows), class found (columns)", title_justify="left")
    table.add_column("", justify="right")
    for found in range(len(row.confusion)):
        table.add_column(str(found), justify="right")
    for true, counts in enumerate(row.confusion):
        table.add_row(str(true), *(str(count) if count else "" for count in counts))
    return table


def layer_table(report: Report) -> Table:
    """The network's layers, independent of the chips."""
    table = Table(title=escape(f"{report.network} on {report.dataset}"), title_justify="left")
    for name, justify in (("#", "right"), ("layer", "left"), ("operator", "left"), ("output", "right"),
                          ("MACs", "right"), ("weights", "right"), ("bits", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in report.layers:
        shape = "x".join(str(size) for size in row.out_shape)
        table.add_row(str(row.index), escape(row.name), escape(row.operator), shape,
                      f"{row.macs:,}", f"{row.weight_bytes:,}", str(row.weight_bits or ""))
    table.add_section()
    table.add_row("", "total", "", "", f"{report.total_macs:,}", f"{report.total_weight_bytes:,}", "")
    return table


def chip_table(report: Report, chip: ChipReport) -> Table:
    """What every step costs on one chip."""
    table = Table(title=escape(chip.title), title_justify="left")
    for name, justify in (("step", "left"), ("unit", "left"), ("processors", "left"), ("cycles", "right"),
                          ("time us", "right"), ("use", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in chip.layers:
        mark = " ~" if row.rough else ""
        cycles, time_us = (f"{row.cycles:,}", f"{row.time_us:,.1f}{mark}") if row.timed else ("unknown", "unknown")
        table.add_row(escape(row.name), row.unit, escape(row.processors), cycles, time_us, f"{row.utilisation:.0%}")
    return table
