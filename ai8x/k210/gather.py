"""Byte ranges that build a map in main memory: crop, pad, unfold, interleave.

QUANTIZED_CONCAT copies any list of byte runs one after the other. Every rearrangement that the KPU cannot do is such
a list; this module makes the lists from plain descriptions of the wanted rows. It makes no steps. Start at
`row_ranges`.

Source: spec/k210-kmodel.md sections 9 and 14.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ai8x.k210.steps import ByteRange, MainBuffer
from ai8x.network.ir import TensorShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """A dense map (C, H, W) in main memory."""

    buffer: MainBuffer
    shape: TensorShape


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a wanted map: cells of a source row from a column on; cells outside the source are 0.

    Args:
        channel, row: of the source; a row outside gives zeros.
        column: first column, may be negative.
        stride: columns from one cell to the next.
    """

    channel: int
    row: int
    column: int
    stride: int = 1


class RangeList:
    """Ranges in order of the wanted bytes; neighbours in the source are joined.

    Args:
        zeros: main-memory tensor of zero points, for cells without source.
    """

    def __init__(self, zeros: MainBuffer | None) -> None:
        self._zeros = zeros
        self._ranges: list[ByteRange] = []
        self._pending = 0

    def add(self, buffer: MainBuffer, offset: int, size: int) -> None:
        """Bytes of a tensor."""
        self._flush()
        last = self._ranges[-1] if self._ranges else None
        if last and last.buffer is buffer and last.offset + last.size == offset:
            self._ranges[-1] = ByteRange(buffer=buffer, offset=last.offset, size=last.size + size)
        else:
            self._ranges.append(ByteRange(buffer=buffer, offset=offset, size=size))

    def add_zeros(self, count: int) -> None:
        """Cells that hold the activation 0."""
        self._pending += count

    def finish(self) -> tuple[ByteRange, ...]:
        """All ranges."""
        self._flush()
        return tuple(self._ranges)

    def _flush(self) -> None:
        while self._pending:
            assert self._zeros is not None, "zeros are wanted, but no region of zeros exists"
            size = min(self._pending, self._zeros.elements)
            self._ranges.append(ByteRange(buffer=self._zeros, offset=0, size=size))
            self._pending -= size


def row_ranges(source: Dense, rows: Iterable[Row], width: int, target: RangeList) -> None:
    """Append rows of ``width`` cells each.

    Args:
        source: where the rows come from.
        rows: in the order in which the wanted map holds them.
        width: cells of every row.
        target: receives the ranges.
    """
    shape = source.shape
    for row in rows:
        if not 0 <= row.row < shape.height:
            target.add_zeros(width)
            continue
        base = (row.channel * shape.height + row.row) * shape.width
        if row.stride == 1:
            _contiguous(source, base, row.column, width, target)
            continue
        for index in range(width):
            column = row.column + index * row.stride
            if 0 <= column < shape.width:
                target.add(source.buffer, base + column, 1)
            else:
                target.add_zeros(1)


def _contiguous(source: Dense, base: int, column: int, width: int, target: RangeList) -> None:
    before = min(width, max(0, -column))
    behind = min(width - before, max(0, column + width - source.shape.width))
    target.add_zeros(before)
    if inside := width - before - behind:
        target.add(source.buffer, base + column + before, inside)
    target.add_zeros(behind)


def needs_zeros(source: Dense, rows: Iterable[Row], width: int) -> bool:
    """Whether any wanted cell lies outside the source."""
    return any(not 0 <= row.row < source.shape.height or row.column < 0
               or row.column + (width - 1) * row.stride >= source.shape.width for row in rows)


def placed_rows(channels: int, height: int, top: int, left: int) -> Iterator[Row]:
    """Rows of a map of ``height`` rows in which the source begins at (top, left); negative values crop."""
    for channel in range(channels):
        for row in range(height):
            yield Row(channel, row - top, -left)


def tap_rows(channels: int, taps: Sequence[tuple[int, int]], height: int, stride: tuple[int, int]) -> Iterator[Row]:
    """Rows of the unfolded map: one block of channels for each tap.

    Args:
        channels: of the source.
        taps: row and column of the source that the first output reads.
        height: output rows.
        stride: rows and columns of the source from one output to the next.
    """
    for down, right in taps:
        for channel in range(channels):
            for row in range(height):
                yield Row(channel, row * stride[0] + down, right, stride[1])


def interleave_ranges(buffer: MainBuffer, shape: TensorShape, steps: tuple[int, int]) -> tuple[ByteRange, ...]:
    """Ranges that interleave phase maps: output (c, steps[0]*y + a, steps[1]*x + b) is phase (a, b), cell (c, y, x).

    Args:
        buffer: the phases, dense, one after the other: (a, b, c, y, x).
        shape: of one phase.
        steps: phases down and across.
    """
    down, across = steps
    target = RangeList(None)
    for channel in range(shape.channels):
        for row in range(shape.height):
            for phase in range(down):
                base = (channel * shape.height + row) * shape.width + phase * across * shape.numel
                for column in range(shape.width):
                    for second in range(across):
                        target.add(buffer, base + second * shape.numel + column, 1)
    return target.finish()
