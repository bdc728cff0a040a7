"""``report.html``: one self-contained page without scripts or network access.

Owns the geometry of the drawings; the page itself is ``templates/report.html.j2``. Start at `render_html`.

Source: docs/design.md "Libraries".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jinja2

from ai8x.report import MemoryBlock, MemoryMap, Report, Resource

NUM_HUES = 8
"""Fill colours of the page; tensors take them in turn."""

_PAGE_WIDTH = 1080
_MIN_STEP_WIDTH = 96
_MAX_STEP_WIDTH = 170
_PANEL_HEIGHT = 190
_AXIS_WIDTH = 64
_AXIS_HEIGHT = 58
_CHARACTER_WIDTH = 6.2
_MIN_LABEL_HEIGHT = 13
_MIN_BOX_HEIGHT = 4
_BAR_HEIGHT = 90
_BAR_WIDTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle of a drawing, in its user units.

    Args:
        x, y, width, height: place and size.
        hue: number of its colour.
        label: its name, as much of it as there is room for.
        label_y: base line of the label: inside, or above where the rectangle is too flat.
        title: text for hovering and for screen readers.
    """

    x: float
    y: float
    width: float
    height: float
    hue: int
    label: str
    label_y: float
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    position: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """The memory map of lanes that hold the same blocks at the same places.

    Args:
        title: which lanes.
        width, height: of the drawing.
        left, bottom: where the axes cross.
        boxes: tensors over time.
        rows: address marks.
        columns: step marks.
    """

    title: str
    width: float
    height: float
    left: float
    bottom: float
    boxes: tuple[Box, ...]
    rows: tuple[Tick, ...]
    columns: tuple[Tick, ...]


def render_html(report: Report) -> str:
    """The page.

    Args:
        report: everything it shows; text from input files is escaped.
    """
    environment = jinja2.Environment(loader=jinja2.PackageLoader("ai8x", "templates"), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["thousands"] = lambda value: f"{value:,}"
    environment.filters["shape"] = lambda shape: "×".join(str(size) for size in shape)
    chips = [{"chip": chip, "maps": [(m, memory_panels(m)) for m in chip.memory_maps],
              "bars": [(r, part_bars(r)) for r in chip.resources if r.parts]} for chip in report.chips]
    return environment.get_template("report.html.j2").render(
        report=report, chips=chips, layer_costs=layer_costs(report), verdict_class=verdict_class,
        bar_height=_BAR_HEIGHT, bar_width=_BAR_WIDTH)


def verdict_class(verdict: str) -> str:
    """Style of a verdict: ``good``, ``bad`` or ``skipped``."""
    if verdict == "equal":
        return "good"
    return "skipped" if verdict.startswith("skipped") else "bad"


def layer_costs(report: Report) -> dict[int, dict[str, tuple[int, float]]]:
    """Layer index -> target -> (cycles, microseconds), over all steps that serve the layer."""
    costs: dict[int, dict[str, tuple[int, float]]] = {row.index: {} for row in report.layers}
    for chip in report.chips:
        for row in chip.layers:
            cycles, time_us = costs[row.index].get(chip.target, (0, 0.0))
            costs[row.index][chip.target] = (cycles + row.cycles, time_us + row.time_us)
    return costs


def memory_panels(memory: MemoryMap) -> tuple[Panel, ...]:
    """One panel for each group of lanes with equal content."""
    groups: dict[tuple[MemoryBlock, ...], list[int]] = {}
    for lane in range(len(memory.lanes)):
        content = tuple(_without_lane(b) for b in memory.blocks if b.lane == lane)
        if content:
            groups.setdefault(content, []).append(lane)
    hues = {label: i % NUM_HUES for i, label in enumerate(dict.fromkeys(b.label for b in memory.blocks))}
    return tuple(_panel(memory, content, lanes, hues) for content, lanes in groups.items())


def part_bars(resource: Resource) -> tuple[Box, ...]:
    """One bar for each part of a resource, such as the processors of the weight memory."""
    bars = []
    for part, used in enumerate(resource.parts):
        height = _BAR_HEIGHT * used / resource.part_capacity
        bars.append(Box(x=part * (_BAR_WIDTH + 1), y=_BAR_HEIGHT - height, width=_BAR_WIDTH, height=height, hue=0, label="",
                        label_y=0,
                        title=f"{resource.part_name} {part}: {used:,} of {resource.part_capacity:,} {resource.unit}"))
    return tuple(bars)


def _without_lane(block: MemoryBlock) -> MemoryBlock:
    return MemoryBlock(label=block.label, lane=0, start=block.start, end=block.end, first_step=block.first_step,
                       last_step=block.last_step)


def _panel(memory: MemoryMap, content: Sequence[MemoryBlock], lanes: Sequence[int], hues: dict[str, int]) -> Panel:
    top = _axis_top(max(block.end for block in content), memory.capacity)
    step_width = min(_MAX_STEP_WIDTH, max(_MIN_STEP_WIDTH, (_PAGE_WIDTH - _AXIS_WIDTH) / len(memory.steps)))
    boxes = tuple(_box(memory, block, _Frame(top=top, step_width=step_width, hue=hues[block.label],
                                             share=_interleaving(block, content))) for block in content)
    rows = tuple(Tick(position=_PANEL_HEIGHT * (1 - share), text=_address(memory, round(top * share)))
                 for share in (0, 0.25, 0.5, 0.75, 1))
    columns = tuple(Tick(position=_AXIS_WIDTH + (i + 0.5) * step_width, text=_shortened(name, step_width))
                    for i, name in enumerate(memory.steps))
    return Panel(title=_lane_names(memory, lanes), width=_AXIS_WIDTH + len(memory.steps) * step_width + 8,
                 height=_PANEL_HEIGHT + _AXIS_HEIGHT, left=_AXIS_WIDTH, bottom=_PANEL_HEIGHT, boxes=boxes, rows=rows,
                 columns=columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """How a block is drawn: address at the top of the panel, width of a step, colour, (place, count) of its band."""

    top: int
    step_width: float
    hue: int
    share: tuple[int, int]


def _interleaving(block: MemoryBlock, content: Sequence[MemoryBlock]) -> tuple[int, int]:
    """Place and number of the tensors that share these addresses word by word in turn; each gets a band."""
    sharing = [other for other in content
               if other.start < block.end and block.start < other.end
               and other.first_step <= block.last_step and block.first_step <= other.last_step]
    return sharing.index(block), len(sharing)


def _box(memory: MemoryMap, block: MemoryBlock, frame: _Frame) -> Box:
    place, count = frame.share
    band = max(_MIN_BOX_HEIGHT, _PANEL_HEIGHT * (block.end - block.start) / frame.top / count)
    width = (block.last_step - block.first_step + 1) * frame.step_width - 2
    y = _PANEL_HEIGHT * (1 - block.start / frame.top) - band * (place + 1)
    first, last = memory.steps[block.first_step], memory.steps[block.last_step]
    shared = ", word by word in turn with another tensor" if count > 1 else ""
    return Box(x=_AXIS_WIDTH + block.first_step * frame.step_width + 1, y=y, width=width, height=band, hue=frame.hue,
               label=_shortened(block.label, width),
               label_y=y + band / 2 + 4 if band >= _MIN_LABEL_HEIGHT else y - 3,
               title=f"{block.label}: {memory.unit} {_address(memory, block.start)} to {_address(memory, block.end - 1)}, "
                     f"alive from {first} to {last}{shared}")


def _axis_top(highest: int, capacity: int) -> int:
    """A round number above what is used, so that small networks do not vanish in a large memory."""
    grain = 64
    while grain * 8 < highest:
        grain *= 2
    return min(-(-highest * 9 // 8 // grain) * grain, capacity)


def _address(memory: MemoryMap, value: int) -> str:
    return f"{value:#06x}" if memory.unit == "bytes" else f"{value}"


def _shortened(text: str, width: float) -> str:
    room = int((width - 6) / _CHARACTER_WIDTH)
    return text if len(text) <= room else f"{text[: max(1, room - 1)]}…"


def _lane_names(memory: MemoryMap, lanes: Sequence[int]) -> str:
    names = [memory.lanes[lane] for lane in lanes]
    if not names[0]:
        return ""
    first, last = names[0].split(" to ")[0], names[-1].split(" to ")[-1]
    contiguous = list(lanes) == list(range(lanes[0], lanes[-1] + 1))
    return f"{first} to {last}" if contiguous else ", ".join(names)
