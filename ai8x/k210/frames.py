"""Tensors inside KPU maps: where a tensor lies in its map, and where a convolution's result then lies.

The KPU pads 3x3 kernels by exactly one cell around the *map*. A convolution with other padding, a map smaller than
4x4 or a misaligned pooling is exact all the same if the tensor lies at a suitable place in a larger map. This module
finds these places, one axis at a time; it makes no steps. Start at `AxisWork` and `plan_frame`.

Source: spec/k210-kmodel.md sections 6, 7 and 14.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ai8x.k210.device import K210
from ai8x.k210.steps import MapView, Window

KERNEL_TAPS = 3
"""Rows and columns of the KPU's large kernel."""

_MAX_MARGIN = 4
"""Largest margin before a tensor that is tried: beyond the largest pooling step nothing new can align."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A tensor of ``height`` x ``width`` cells at (top, left) of a map.

    Args:
        view: the map, or several that are read as one.
        top, left, height, width: the cells of the tensor.
        clean: every cell of the map outside the tensor holds the activation 0.
    """

    view: MapView
    top: int = 0
    left: int = 0
    height: int
    width: int
    clean: bool = False

    @property
    def is_whole(self) -> bool:
        """The tensor fills its map."""
        return (self.height, self.width) == (self.view.height, self.view.width)

    @property
    def window(self) -> Window:
        """The cells of the tensor."""
        return Window(top=self.top, left=self.left, height=self.height, width=self.width)

    @property
    def geometry(self) -> tuple[int, ...]:
        """Equal for frames that can be read side by side."""
        return (self.view.height, self.view.width, self.top, self.left, self.height, self.width)


def side_by_side(frames: Iterable[Frame]) -> Frame:
    """Frames of one geometry as one, channels in order."""
    items = list(frames)
    first = items[0]
    return Frame(view=MapView(parts=tuple(part for frame in items for part in frame.view.parts)), top=first.top,
                 left=first.left, height=first.height, width=first.width, clean=all(f.clean for f in items))


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisWork:
    """What one KPU layer does along one axis.

    Args:
        length: cells of the tensor.
        kernel: taps, 1 to 3.
        pad: cells of zero on both sides.
        step: stride of the KPU's pooling or picking: 1, 2 or 4.
        reach: convolution results that one output uses: 1, or the window of the KPU's pooling.
        count: outputs.
    """

    length: int
    kernel: int = 1
    pad: int = 0
    step: int = 1
    reach: int = 1
    count: int

    @property
    def convolved(self) -> int:
        """Convolution results that are used."""
        return self.step * (self.count - 1) + self.reach

    @property
    def reads_behind(self) -> bool:
        """Whether cells behind the tensor are read, which must be 0."""
        return self.convolved - self.pad + self.kernel - 2 >= self.length

    @property
    def reads_outside(self) -> bool:
        """Whether cells before or behind the tensor are read."""
        return self.pad > 0 or self.reads_behind


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisPlan:
    """How an axis is done.

    Args:
        tap: position of the first tap in the KPU's kernel.
        start: where the outputs begin in the result's map.
    """

    tap: int
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePlan:
    """How a KPU layer works on a frame.

    Args:
        kernel: 1 or 3.
        rows, columns: the axes.
    """

    kernel: int
    rows: AxisPlan
    columns: AxisPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """Cells around a tensor in a map that is made for it."""

    top: int
    bottom: int
    left: int
    right: int


def plan_axis(work: AxisWork, *, start: int, size: int, clean: bool, taps: int) -> AxisPlan | None:
    """A way to do one axis on a map of ``size`` cells in which the tensor begins at ``start``, or None.

    Args:
        work: what to do.
        start: where the tensor begins in the map.
        size: cells of the map.
        clean: cells outside the tensor hold 0.
        taps: 1 or 3, the KPU's kernel.
    """
    if size < K210.limits.min_map * work.step:
        return None
    reads_before = work.pad > 0 and start > 0
    reads_behind = work.reads_behind and start + work.length < size
    if (reads_before or reads_behind) and not clean:
        return None
    by_shift = sorted(range(taps - work.kernel + 1), key=lambda tap: abs(taps // 2 - work.pad - tap))
    for tap in by_shift:
        first = start - work.pad + taps // 2 - tap
        if first < 0 or first % work.step or first + work.convolved > size:
            continue
        if first // work.step + work.count <= size // work.step:
            return AxisPlan(tap=tap, start=first // work.step)
    return None


def plan_frame(frame: Frame, rows: AxisWork, columns: AxisWork) -> FramePlan | None:
    """A way to do the work on a frame as it lies, with a 1x1 kernel if possible, or None."""
    if (frame.height, frame.width) != (rows.length, columns.length):
        return None
    for taps in (1, KERNEL_TAPS):
        if max(rows.kernel, columns.kernel) > taps:
            continue
        down = plan_axis(rows, start=frame.top, size=frame.view.height, clean=frame.clean, taps=taps)
        right = plan_axis(columns, start=frame.left, size=frame.view.width, clean=frame.clean, taps=taps)
        if down and right:
            return FramePlan(kernel=taps, rows=down, columns=right)
    return None


def fit_margins(rows: AxisWork, columns: AxisWork) -> Margins | None:
    """Margins of zeros that make the work possible with the smallest map; None if no map allows it."""
    for taps in (1, KERNEL_TAPS):
        if max(rows.kernel, columns.kernel) > taps:
            continue
        down, right = _fit_axis(rows, taps), _fit_axis(columns, taps)
        if down and right:
            return Margins(top=down[0], bottom=down[1], left=right[0], right=right[1])
    return None


def _fit_axis(work: AxisWork, taps: int) -> tuple[int, int] | None:
    """Cells before and behind."""
    best: tuple[int, int, int] | None = None
    for before in range(_MAX_MARGIN + 1):
        least = max(before + work.length, K210.limits.min_map * work.step)
        for size in range(least, least + 2 * _MAX_MARGIN + work.step + work.pad):
            if best and size >= best[0]:
                break
            if plan_axis(work, start=before, size=size, clean=True, taps=taps):
                best = (size, before, size - before - work.length)
                break
    return best[1:] if best else None
