"""Where a tensor exists while a network is being lowered: KPU maps, main memory, or as a part of another tensor.

Start at `Tensor`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ai8x.k210.frames import Frame
from ai8x.k210.steps import MainBuffer
from ai8x.network.ir import TensorShape


@dataclass(slots=True, kw_only=True, eq=False)
class Tensor:
    """A tensor under construction; the builder adds places where it exists.

    One-dimensional data (C, L, 1) is kept as one row, (C, 1, L): the same bytes in main memory, and the direction in
    which KPU maps are wide.

    Args:
        shape: (C, H, W).
        frames: maps in KPU RAM that hold it.
        main: dense copy in main memory.
        origin: the tensor that this one is a part or another reading of.
        top, left: place of the part in its origin.
        is_prefix: the tensor's bytes are the first ones of its origin, whose shape means nothing.
        bound: how far its values may be from the exact ones.
    """

    shape: TensorShape
    frames: list[Frame] = field(default_factory=list)
    main: MainBuffer | None = None
    origin: Tensor | None = None
    top: int = 0
    left: int = 0
    is_prefix: bool = False
    bound: int = 0

    def part(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Rows and columns of this tensor."""
        shape = TensorShape(self.shape.channels, height, width)
        if shape == self.shape:
            return self
        size = (self.shape.height, self.shape.width)
        frames = [replace(frame, top=frame.top + top, left=frame.left + left, height=height, width=width, clean=False)
                  for frame in self.frames if (frame.height, frame.width) == size]
        return Tensor(shape=shape, frames=frames, origin=self, top=top, left=left)

    def reshaped(self, shape: TensorShape) -> Tensor:
        """The same bytes in another shape."""
        if shape == self.shape:
            return self
        assert shape.numel == self.shape.numel
        frames = [frame for frame in self.frames if frame.is_whole and shape.channels == self.shape.channels]
        return Tensor(shape=shape, frames=frames, origin=self)


def row_shape(shape: TensorShape) -> TensorShape:
    """The shape in which a tensor is kept: one-dimensional data lies in a row."""
    return TensorShape(shape.channels, 1, shape.height) if shape.width == 1 else shape
