"""Geometry of the network graph: one row for each layer, edges on the left, what every chip makes of it on the right.

A layer that reads the row above is joined by a straight line; every other tensor travels in a lane of its own on the
left, so that residual connections and concatenations can be followed. Start at `network_graph`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ai8x.report import LayerRow, Report
from ai8x.report_compare import LayerCost
from ai8x.report_drawings import PAGE_WIDTH, shortened

_ROW = 50
_NODE_HEIGHT = 38
_TOP = 34
_LANE = 16
_LANE_MARGIN = 12
_NODE_WIDTH = 270
_SHAPE_WIDTH = 112
_ERROR_WIDTH = 78
_PILL_WIDTH = 92
_RADIUS = 7
_PORT = 7
_INPUT, _BUFFER = -1, -2


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A layer, or the input, as a box.

    Args:
        x, y, width, height: of the box.
        name, detail: its two lines, as much as there is room for.
        kind: ``input``, ``compute``, ``move`` (no weights) or ``output``; a colour and a word in the title.
        target: fragment that it links to; empty for the input.
        title: everything about it, for hovering and for screen readers.
        shape: of its output.
        error: signal-to-noise ratio against the float model; empty where it is not known.
    """

    x: float
    y: float
    width: float
    height: float
    name: str
    detail: str
    kind: str
    target: str
    title: str
    shape: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A tensor on its way to a reader.

    Args:
        path: of SVG, ending at the reader.
        arrow: of SVG, the head.
        hue: number of its colour; straight edges have none, -1.
        title: which tensor, from where to where.
    """

    path: str
    arrow: str
    hue: int
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CostBar:
    """What one layer costs on one chip.

    Args:
        x, y: top left corner of its cell.
        unit: what executes it; ``nothing to do`` where it costs nothing.
        kind: ``chip``, ``mixed``, ``cpu`` or ``none``.
        bar: length of the bar.
        bar_x, text_x: where bar and text begin.
        text: the time.
        title: for hovering and for screen readers.
    """

    x: float
    y: float
    unit: str
    kind: str
    bar: float
    bar_x: float
    text_x: float
    text: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The whole drawing; `columns` are (x, heading)."""

    width: float
    height: float
    pill_width: float
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    costs: tuple[CostBar, ...]
    columns: tuple[tuple[float, str], ...]


def network_graph(report: Report, costs: Mapping[int, Mapping[str, LayerCost]]) -> Graph:
    """Place everything.

    Args:
        report: layers and chips.
        costs: by layer index and target.
    """
    rows = _row_numbers(report)
    lanes = _lanes(report.layers, rows)
    num_lanes = max(lanes.values(), default=-1) + 1
    left = _LANE_MARGIN + _LANE * num_lanes + (_LANE if num_lanes else 0)
    has_errors = any(layer.error for layer in report.layers)
    chips = [chip for chip in report.chips if not chip.refusal]
    shape_x = left + _NODE_WIDTH + 14
    chip_x = shape_x + _SHAPE_WIDTH + (_ERROR_WIDTH if has_errors else 0)
    width = (PAGE_WIDTH - chip_x) / max(1, len(chips))
    columns: list[tuple[float, str]] = [(left, "layer"), (shape_x, "output")]
    if has_errors:
        columns.append((shape_x + _SHAPE_WIDTH, "SNR"))
    bars: list[CostBar] = []
    for number, chip in enumerate(chips):
        x = chip_x + number * width
        columns.append((x, chip.title))
        longest = max((cost[chip.target].time_us for cost in costs.values() if chip.target in cost), default=0.0)
        bars += [_bar(layer, chip.title, costs[layer.index].get(chip.target),
                      _Cell(x=x, y=_y(rows[layer.index]), width=width, longest=longest)) for layer in report.layers]
    nodes = [_source_node(report, index, _y(row), left) for index, row in rows.items() if index < 0]
    nodes += [_node(report, layer, _y(rows[layer.index]), left) for layer in report.layers]
    return Graph(width=PAGE_WIDTH if chips else chip_x, height=_TOP + _ROW * len(rows), pill_width=_PILL_WIDTH,
                 nodes=tuple(nodes), edges=tuple(_edges(report, rows, lanes, left)), costs=tuple(bars),
                 columns=tuple(columns))


def _row_numbers(report: Report) -> dict[int, int]:
    """Source index -> row: the rolling buffer where there is one, the input, the layers in order."""
    used = {source for layer in report.layers for source in layer.sources}
    front = [index for index in (_BUFFER, _INPUT) if index in used]
    return {index: row for row, index in enumerate([*front, *(layer.index for layer in report.layers)])}


def _lanes(layers: Sequence[LayerRow], rows: Mapping[int, int]) -> dict[int, int]:
    """Source index -> lane of its tensor, for tensors that some layer other than the next one reads.

    One lane serves a tensor however many read it; two tensors share a lane where the rows they pass do not meet.
    """
    ends: dict[int, int] = {}
    for layer in layers:
        for source in layer.sources:
            if rows[layer.index] != rows[source] + 1:
                ends[source] = max(ends.get(source, 0), rows[layer.index])
    lanes: dict[int, int] = {}
    for source in sorted(ends, key=lambda s: (ends[s] - rows[s], rows[s])):
        taken = {lanes[other] for other in lanes if rows[other] < ends[source] and rows[source] < ends[other]}
        lanes[source] = next(lane for lane in range(len(ends)) if lane not in taken)
    return lanes


def _edges(report: Report, rows: Mapping[int, int], lanes: Mapping[int, int], left: float) -> list[Edge]:
    edges = []
    for layer in report.layers:
        for source in dict.fromkeys(layer.sources):
            title = f"{_name(report, source)} to {layer.name}: {_shape_text(_shape(report, source))}"
            if rows[layer.index] == rows[source] + 1:
                edges.append(_straight(_y(rows[source]), _y(rows[layer.index]), left, title))
            else:
                lane = left - _LANE * (lanes[source] + 1)
                edges.append(_detour(_y(rows[source]), _y(rows[layer.index]), (lane, left), lanes[source], title))
    return edges


def _straight(top: float, bottom: float, left: float, title: str) -> Edge:
    x, start, end = left + 24, top + _NODE_HEIGHT, bottom
    return Edge(path=f"M{x} {start}V{end - 5}", arrow=f"M{x - 4} {end - 6}L{x} {end}L{x + 4} {end - 6}z", hue=-1,
                title=title)


def _detour(top: float, bottom: float, ends: tuple[float, float], hue: int, title: str) -> Edge:
    """Out of the left side, down the lane, back in; a little above the middle, where the way out is below it."""
    lane, left = ends
    start, end, r = top + _NODE_HEIGHT / 2 + _PORT, bottom + _NODE_HEIGHT / 2 - _PORT, _RADIUS
    path = (f"M{left} {start}H{lane + r}Q{lane} {start} {lane} {start + r}V{end - r}"
            f"Q{lane} {end} {lane + r} {end}H{left - 5}")
    return Edge(path=path, arrow=f"M{left - 6} {end - 4}L{left} {end}L{left - 6} {end + 4}z", hue=hue, title=title)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """Where a cost is drawn, and the time that fills its room."""

    x: float
    y: float
    width: float
    longest: float


def _bar(layer: LayerRow, chip: str, cost: LayerCost | None, cell: _Cell) -> CostBar:
    bar_x = cell.x + _PILL_WIDTH + 8
    if cost is None:
        return CostBar(x=cell.x, y=cell.y, unit="nothing", kind="none", bar=0, bar_x=bar_x, text_x=bar_x, text="",
                       title=f"{layer.name} costs nothing on the {chip}")
    room = cell.width - _PILL_WIDTH - 8 - 150
    bar = room * cost.time_us / cell.longest if cell.longest else 0.0
    least = "≥ " if cost.untimed else ""
    known = len(cost.untimed) < len(cost.steps)
    text = f"{least}{cost.time_us:,.1f} µs, {cost.share:.0%}" if known else "unknown"
    processors = f", {cost.num_processors} processors" if cost.num_processors else ""
    steps = f"; steps: {', '.join(cost.steps)}" if len(cost.steps) > 1 else ""
    return CostBar(
        x=cell.x, y=cell.y, unit=cost.unit_text, kind=cost.kind, bar=max(bar, 1.5) if known else 0.0, bar_x=bar_x,
        text_x=bar_x + max(bar, 1.5) + 6 if known else bar_x, text=text,
        title=f"{layer.name} on the {chip}: {cost.cycles:,} cycles, {text}, {cost.utilisation:.1%} of the peak rate"
              f"{processors}{steps}")


def _node(report: Report, layer: LayerRow, y: float, left: float) -> Node:
    activation = "" if layer.activation == "none" else f", {layer.activation}"
    detail = f"{layer.operator}{activation}"
    weights = f", {layer.weight_bits}-bit weights, {layer.weight_bytes:,} bytes" if layer.weight_bits else ""
    error = "" if layer.error is None else _decibels(layer.error.snr_db)
    error_text = f", {error} against the float model" if error else ""
    kind = "output" if layer.is_output else "compute" if layer.weight_bits else "move"
    returned = ", an output of the network" if layer.is_output else ""
    return Node(
        x=left, y=y, width=_NODE_WIDTH, height=_NODE_HEIGHT, name=shortened(layer.name, _NODE_WIDTH - 40, bold=True),
        detail=shortened(detail, _NODE_WIDTH - 14), kind=kind, target=f"layer-{layer.index}",
        shape=_shape_text(layer.out_shape), error=error,
        title=f"{layer.name}: {detail}; reads {', '.join(layer.inputs)}; {_shape_text(layer.in_shape)} to "
              f"{_shape_text(layer.out_shape)}; {layer.macs:,} multiply-accumulates{weights}{error_text}{returned}")


def _source_node(report: Report, index: int, y: float, left: float) -> Node:
    name, shape = _name(report, index), _shape(report, index)
    detail = report.dataset if index == _INPUT and report.dataset else "kept between inferences"
    if index == _INPUT and not report.dataset:
        detail = "one sample"
    return Node(x=left, y=y, width=_NODE_WIDTH, height=_NODE_HEIGHT, name=name, detail=detail, kind="input", target="",
                title=f"{name}: {_shape_text(shape)}, {detail}", shape=_shape_text(shape), error="")


def _name(report: Report, index: int) -> str:
    if index >= 0:
        return next(layer.name for layer in report.layers if layer.index == index)
    return next(layer.inputs[layer.sources.index(index)] for layer in report.layers if index in layer.sources)


def _shape(report: Report, index: int) -> tuple[int, int, int]:
    if index >= 0:
        return next(layer.out_shape for layer in report.layers if layer.index == index)
    if index == _INPUT:
        return report.input_shape
    return next(layer.in_shape for layer in report.layers if index in layer.sources)


def _shape_text(shape: tuple[int, int, int]) -> str:
    return "×".join(str(size) for size in shape)


def _decibels(snr_db: float | None) -> str:
    return "exact" if snr_db is None else f"{snr_db:.1f} dB"


def _y(row: int) -> float:
    return _TOP + row * _ROW
