"""Geometry of the report's memory maps and bars; the page itself is ``templates/report.html.j2``.

Start at `memory_panels` and `part_bars`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ai8x.report import MemoryBlock, MemoryMap, Resource

NUM_HUES = 8
"""Fill colours of the page; tensors take them in turn."""

PAGE_WIDTH = 1212
"""Room for drawings on a wide page; narrower ones scroll them."""

_MIN_STEP_WIDTH = 58
_MIN_TURNED_WIDTH = 36
_MAX_STEP_WIDTH = 170
_PANEL_HEIGHT = 170
_PANEL_GAP = 34
_PANEL_MARGIN = 8
_AXIS_WIDTH = 56
_LABEL_ROOM = 26
_TURNED_LABEL_ROOM = 92
_SLOPE = 0.6
_CHARACTER_WIDTH = 6.2
_BOLD_CHARACTER_WIDTH = 7.0
_MIN_LABEL_HEIGHT = 13
_MIN_LABEL = 6
_MIN_BOX_HEIGHT = 4
_BAR_HEIGHT = 110
_BAR_GAP = 2
_GROUP_GAP = 18
_MAX_BAR_WIDTH = 44


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
        is_turned: step names are too long to stand side by side.
        blocks: the tensors, for a table.
    """

    title: str
    width: float
    height: float
    left: float
    bottom: float
    boxes: tuple[Box, ...]
    rows: tuple[Tick, ...]
    columns: tuple[Tick, ...]
    is_turned: bool
    blocks: tuple[MemoryBlock, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """The parts of a resource as bars, in groups.

    Args:
        width, height: of the drawing.
        left, bottom: where the axes cross.
        boxes: one for each part.
        rows: marks of the vertical axis.
        groups: name and use of each group, below its middle.
    """

    width: float
    height: float
    left: float
    bottom: float
    boxes: tuple[Box, ...]
    rows: tuple[Tick, ...]
    groups: tuple[Tick, ...]


def memory_panels(memory: MemoryMap) -> tuple[Panel, ...]:
    """One panel for each group of lanes with equal content; all with the same axes."""
    groups: dict[tuple[MemoryBlock, ...], list[int]] = {}
    for lane in range(len(memory.lanes)):
        content = tuple(replace(block, lane=0) for block in memory.blocks if block.lane == lane)
        if content:
            groups.setdefault(content, []).append(lane)
    hues = {label: i % NUM_HUES for i, label in enumerate(dict.fromkeys(b.label for b in memory.blocks))}
    frame = _frame(memory, hues)
    return tuple(_panel(memory, content, lanes, frame) for content, lanes in groups.items())


def part_bars(resource: Resource) -> Bars:
    """One bar for each part of a resource, such as the processors of the weight memory."""
    size = resource.group_size or len(resource.parts)
    num_groups = -(-len(resource.parts) // size)
    room = PAGE_WIDTH - _AXIS_WIDTH - (num_groups - 1) * _GROUP_GAP
    pitch = min(_MAX_BAR_WIDTH, room / len(resource.parts))
    boxes = tuple(_bar(resource, part, size, pitch) for part in range(len(resource.parts)))
    rows = tuple(Tick(position=_BAR_HEIGHT * (1 - share), text=f"{round(resource.part_capacity * share):,}")
                 for share in (0, 0.5, 1))
    groups = tuple(_group(resource, group, size, pitch) for group in range(num_groups)) if resource.group_size else ()
    return Bars(width=boxes[-1].x + pitch, height=_BAR_HEIGHT + _LABEL_ROOM, left=_AXIS_WIDTH, bottom=_BAR_HEIGHT,
                boxes=boxes, rows=rows, groups=groups)


def shortened(text: str, width: float, *, bold: bool = False) -> str:
    """As much of a text as there is room for."""
    room = max(1, int((width - 6) / (_BOLD_CHARACTER_WIDTH if bold else _CHARACTER_WIDTH)))
    return text if len(text) <= room else f"{text[: max(1, room - 1)]}…"


def address_text(memory: MemoryMap, value: int) -> str:
    """An address in the map's unit; bytes in hexadecimal."""
    return f"{value:#06x}" if memory.unit == "bytes" else f"{value:,}"


def _bar(resource: Resource, part: int, size: int, pitch: float) -> Box:
    height = _BAR_HEIGHT * resource.parts[part] / resource.part_capacity
    return Box(x=_AXIS_WIDTH + part * pitch + part // size * _GROUP_GAP, y=_BAR_HEIGHT - height, width=pitch - _BAR_GAP,
               height=height, hue=0, label="", label_y=0,
               title=f"{resource.part_name} {part}: {resource.parts[part]:,} of {resource.part_capacity:,} "
                     f"{resource.unit}")


def _group(resource: Resource, group: int, size: int, pitch: float) -> Tick:
    parts = resource.parts[group * size:(group + 1) * size]
    share = sum(parts) / (len(parts) * resource.part_capacity)
    first = _AXIS_WIDTH + group * (size * pitch + _GROUP_GAP)
    return Tick(position=first + len(parts) * pitch / 2, text=f"{resource.group_name} {group}: {share:.1%}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """The axes of a map: address at the top of the panels, width of a step, colours by label."""

    top: int
    step_width: float
    hues: dict[str, int]
    is_turned: bool
    label_room: float


def _frame(memory: MemoryMap, hues: dict[str, int]) -> _Frame:
    half = (PAGE_WIDTH - _PANEL_GAP) / 2 - _AXIS_WIDTH - _PANEL_MARGIN
    whole = PAGE_WIDTH - _AXIS_WIDTH - _PANEL_MARGIN
    room = half if len(memory.steps) * _MIN_STEP_WIDTH <= half else whole
    step_width = min(_MAX_STEP_WIDTH, max(_MIN_TURNED_WIDTH, room / len(memory.steps)))
    longest = max(len(name) for name in memory.steps) * _CHARACTER_WIDTH
    is_turned = longest > step_width - 6
    highest = max((block.end for block in memory.blocks), default=1)
    return _Frame(top=_axis_top(highest, memory.capacity), step_width=step_width, hues=hues,
                  is_turned=is_turned,
                  label_room=min(_TURNED_LABEL_ROOM, _LABEL_ROOM + _SLOPE * longest) if is_turned else _LABEL_ROOM)


def _panel(memory: MemoryMap, content: tuple[MemoryBlock, ...], lanes: Sequence[int], frame: _Frame) -> Panel:
    boxes = tuple(_box(memory, block, frame, _neighbours(block, content)) for block in content)
    rows = tuple(Tick(position=_PANEL_HEIGHT * (1 - share), text=address_text(memory, round(frame.top * share)))
                 for share in (0, 0.25, 0.5, 0.75, 1))
    columns = tuple(Tick(position=_AXIS_WIDTH + (i + 0.5) * frame.step_width,
                         text=shortened(name, _TURNED_LABEL_ROOM * 1.3 if frame.is_turned else frame.step_width))
                    for i, name in enumerate(memory.steps))
    width = _AXIS_WIDTH + len(memory.steps) * frame.step_width + _PANEL_MARGIN
    return Panel(title=_lane_names(memory, lanes), width=width,
                 height=_PANEL_HEIGHT + frame.label_room, left=_AXIS_WIDTH,
                 bottom=_PANEL_HEIGHT, boxes=boxes, rows=rows, columns=columns, is_turned=frame.is_turned,
                 blocks=content)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Neighbours:
    """Tensors at the same addresses while a tensor lives.

    Args:
        place, count: among those that share the words in turn; each gets a band.
        before: what it overwrites: a layer may write where it has read, so that both live in one step.
        after: what overwrites it.
    """

    place: int
    count: int
    before: tuple[str, ...]
    after: tuple[str, ...]


def _neighbours(block: MemoryBlock, content: Sequence[MemoryBlock]) -> _Neighbours:
    sharing = [other for other in content
               if other.start < block.end and block.start < other.end
               and other.first_step <= block.last_step and block.first_step <= other.last_step]
    before = [other for other in sharing if _is_replaced(other, block)]
    after = [other for other in sharing if _is_replaced(block, other)]
    in_turn = [other for other in sharing if other not in before and other not in after]
    return _Neighbours(place=in_turn.index(block), count=len(in_turn), before=tuple(other.label for other in before),
                       after=tuple(other.label for other in after))


def _is_replaced(old: MemoryBlock, new: MemoryBlock) -> bool:
    """Whether the layer that reads a tensor for the last time writes the other one."""
    return old.last_step == new.first_step and (old.first_step, old.last_step) < (new.first_step, new.last_step)


def _box(memory: MemoryMap, block: MemoryBlock, frame: _Frame, neighbours: _Neighbours) -> Box:
    place, count = neighbours.place, neighbours.count
    band = max(_MIN_BOX_HEIGHT, _PANEL_HEIGHT * (block.end - block.start) / frame.top / count)
    # In place: the old tensor gives way in the middle of the step.
    start = block.first_step + (0.5 if neighbours.before else 0.0)
    end = block.last_step + (0.5 if neighbours.after else 1.0)
    width = (end - start) * frame.step_width - 2
    y = max(0.0, _PANEL_HEIGHT * (1 - block.start / frame.top) - band * (place + 1))
    is_inside = band >= _MIN_LABEL_HEIGHT
    label = shortened(block.label, width, bold=is_inside)
    if (not is_inside and label != block.label) or len(label) < min(_MIN_LABEL, len(block.label)):
        label = ""  # hovering and the table name it; half a word beside its neighbours' says nothing
    first, last = memory.steps[block.first_step], memory.steps[block.last_step]
    shared = ", word by word in turn with another tensor" if count > 1 else ""
    shared += "".join(f", written over {name}" for name in neighbours.before)
    shared += "".join(f", overwritten by {name}" for name in neighbours.after)
    return Box(x=_AXIS_WIDTH + start * frame.step_width + 1, y=y, width=width, height=band,
               hue=frame.hues[block.label], label=label, label_y=y + band / 2 + 4 if is_inside else y - 3,
               title=f"{block.label}: {memory.unit} {address_text(memory, block.start)} to "
                     f"{address_text(memory, block.end - 1)} ({block.end - block.start:,}), alive from {first} to "
                     f"{last}{shared}")


def _axis_top(highest: int, capacity: int) -> int:
    """A round number above what is used, so that small networks do not vanish in a large memory."""
    grain = 64
    while grain * 8 < highest:
        grain *= 2
    return min(-(-highest * 9 // 8 // grain) * grain, capacity)


def _lane_names(memory: MemoryMap, lanes: Sequence[int]) -> str:
    """Names of lanes with a common first word, runs of neighbours joined: ``processors 0 to 7, 12 to 15``."""
    if not memory.lanes[lanes[0]]:
        return ""
    runs: list[list[int]] = []
    for lane in lanes:
        if runs and runs[-1][-1] == lane - 1:
            runs[-1].append(lane)
        else:
            runs.append([lane])
    texts = [f"{memory.lanes[run[0]].split(' to ')[0]} to {memory.lanes[run[-1]].split(' to ')[-1]}" for run in runs]
    common = texts[0].split(" ")[0] + " "
    return ", ".join([texts[0], *(text.removeprefix(common) for text in texts[1:])])
