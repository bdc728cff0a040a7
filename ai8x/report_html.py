"""``report.html``: one self-contained page without scripts or network access.

Owns what the page is made from; ``templates/report*.j2`` are the page, `report_graph.py` and `report_drawings.py` its
drawings. Start at `render_html`.

Source: docs/design.md "Libraries".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

import jinja2

from ai8x.report import Accuracy, ChipReport, MemoryMap, Report, Resource
from ai8x.report_compare import comparison, layer_costs
from ai8x.report_drawings import Bars, Panel, address_text, memory_panels, part_bars
from ai8x.report_graph import network_graph

WITNESSES: Mapping[str, str] = MappingProxyType({
    "reference": "integer arithmetic on whole tensors, which the others are held against",
    "simulator": "the register program on a simulator of the MAX78000's accelerator",
    "firmware": "the compiled C project on a virtual MAX78000 board",
    "kmodel": "the kmodel's bytes on a simulator of the K210's KPU",
    "kpu_firmware": "the compiled runner on a virtual K210 board",
})
"""What every executor of the verification record is."""

NUM_HEATS = 4
"""Shades of a cell of the confusion matrix."""

MIN_BARS = 5
"""Parts from which a resource gets a drawing; fewer are told in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfusionCell:
    """One cell: how many, its style, and what it says in words."""

    count: int
    style: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """A confusion matrix for drawing.

    Args:
        accuracy: what it belongs to.
        classes: names, or numbers where names are not known.
        rows: cells, one row for each true class.
        recalls: share of each true class that was found, 0 to 1; None without items.
        is_repeated: the same counts as an executor before.
    """

    accuracy: Accuracy
    classes: tuple[str, ...]
    rows: tuple[tuple[ConfusionCell, ...], ...]
    recalls: tuple[float | None, ...]
    is_repeated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipView:
    """A chip with its drawings."""

    chip: ChipReport
    maps: tuple[tuple[MemoryMap, tuple[Panel, ...]], ...]
    bars: tuple[tuple[Resource, Bars], ...]
    quadrants: tuple[Resource, ...]


def render_html(report: Report) -> str:
    """The page.

    Args:
        report: everything it shows; text from input files is escaped.
    """
    costs = layer_costs(report)
    classes = [verdict_class(verdict) for verdict in report.verification.values()]
    verdicts = {"equal": classes.count("good"), "bad": classes.count("bad"), "skipped": classes.count("skipped")}
    return _page().render(
        report=report, views=tuple(_view(chip) for chip in report.chips), layer_costs=costs,
        graph=network_graph(report, costs), comparison=comparison(report), confusions=confusions(report),
        has_errors=any(row.error for row in report.layers), verdict_class=verdict_class, verdicts=verdicts,
        witnesses=WITNESSES, address_text=address_text)


@cache
def _page() -> jinja2.Template:
    """The compiled page; compiling takes longer than filling in."""
    environment = jinja2.Environment(loader=jinja2.PackageLoader("ai8x", "templates"), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["shape"] = lambda shape: "×".join(str(size) for size in shape)
    environment.filters["sentence"] = _sentence
    environment.filters["px"] = lambda value: f"{value:.1f}".removesuffix(".0")
    return environment.get_template("report.html.j2")


def verdict_class(verdict: str) -> str:
    """Style of a verdict: ``good``, ``bad`` or ``skipped``."""
    if verdict == "equal":
        return "good"
    return "skipped" if verdict.startswith("skipped") else "bad"


def confusions(report: Report) -> tuple[Confusion, ...]:
    """The confusion matrix of every executor that has one."""
    found: list[Confusion] = []
    for accuracy in report.accuracy:
        if accuracy.confusion:
            repeated = any(other.accuracy.confusion == accuracy.confusion for other in found)
            found.append(_confusion(accuracy, report.labels, is_repeated=repeated))
    return tuple(found)


def _confusion(accuracy: Accuracy, labels: tuple[str, ...], *, is_repeated: bool) -> Confusion:
    counts = accuracy.confusion
    names = labels if len(labels) == len(counts) else tuple(str(number) for number in range(len(counts)))
    rows = tuple(tuple(_cell(count, sum(row), (true, found), names) for found, count in enumerate(row))
                 for true, row in enumerate(counts))
    recalls = tuple(row[true] / sum(row) if sum(row) else None for true, row in enumerate(counts))
    return Confusion(accuracy=accuracy, classes=names, rows=rows, recalls=recalls, is_repeated=is_repeated)


def _cell(count: int, total: int, place: tuple[int, int], names: tuple[str, ...]) -> ConfusionCell:
    true, found = place
    heat = 0 if not count else max(1, -(-NUM_HEATS * count // total))
    kind = "hit" if true == found else "miss"
    return ConfusionCell(count=count, style=f"{kind}{heat}" if heat else "",
                         title=f"{count} of {total} items of class {names[true]} taken for {names[found]}")


def _view(chip: ChipReport) -> ChipView:
    """Bars for resources of many parts; those with one part for each of their groups go below the groups."""
    drawn = tuple(resource for resource in chip.resources if len(resource.parts) >= MIN_BARS)
    return ChipView(
        chip=chip, maps=tuple((memory, memory_panels(memory)) for memory in chip.memory_maps if memory.blocks),
        bars=tuple((resource, part_bars(resource)) for resource in drawn),
        quadrants=tuple(resource for resource in chip.resources if 0 < len(resource.parts) < MIN_BARS))


def _sentence(text: str) -> str:
    """A note as a sentence; names in it keep their case."""
    return f"{text[:1].upper()}{text[1:]}." if text else ""
