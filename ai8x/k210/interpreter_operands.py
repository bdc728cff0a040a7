"""What one CPU layer reads and writes in the main buffer, with the checks that all layers share. Start at `Operands`.

Source: spec/k210-kmodel.md sections 9 and 11.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import HardwareFault
from ai8x.k210.interpreter_memory import MainMemory, Tensor

MOST_CELLS = 1 << 27
"""Cells of all windows of a pooling layer."""


def _overlap(first: tuple[int, int], second: tuple[int, int]) -> bool:
    return first[0] < second[0] + second[1] and second[0] < first[0] + first[1]


def _check_overlap(source: tuple[int, int], target: tuple[int, int], name: str, *, in_place: bool) -> None:
    """Refuse an output that overwrites an input still to be read; (address, bytes) each."""
    if _overlap(source, target) and not (in_place and source == target):
        raise HardwareFault(f"{name}: output bytes {target[0]:#x} to {sum(target):#x} overlap input bytes "
                            f"{source[0]:#x} to {sum(source):#x}")


class Operands:
    """What one layer reads and writes in the main buffer, with the checks that all layers share."""

    def __init__(self, memory: MainMemory, name: str) -> None:
        self.memory = memory
        self.name = name
        self.sources: list[tuple[int, int]] = []
        self.written: NDArray[np.uint8] = np.zeros(0, np.uint8)

    def check_work(self, cells: int) -> None:
        """Refuse a layer that would keep the chip's CPU busy for seconds.

        Raises:
            HardwareFault: more than `MOST_CELLS` cells are visited.
        """
        if cells > MOST_CELLS:
            raise HardwareFault(f"{self.name}: the windows hold {cells} cells; up to {MOST_CELLS} are run")

    def read(self, address: int, shape: tuple[int, ...], dtype: Any) -> Tensor:
        """An operand of that shape.

        Raises:
            HardwareFault: empty, outside the buffer, or misaligned.
        """
        count = 1
        for size in shape:
            if size < 1:
                raise HardwareFault(f"{self.name}: empty shape {shape}")
            count *= size
        tensor = self.memory.read(address, count, dtype, f"{self.name}: input")
        self.sources.append((address, count * np.dtype(dtype).itemsize))
        return Tensor(values=tensor.values.reshape(shape), undefined=tensor.undefined.reshape(shape))

    def write(self, address: int, values: NDArray[Any], undefined: NDArray[np.bool_], *,
              in_place: bool = False) -> None:
        """Store the result.

        Args:
            address: byte offset in the buffer.
            values: the elements.
            undefined: which depend on bytes that nobody wrote.
            in_place: may be written over an operand.

        Raises:
            HardwareFault: outside the buffer, misaligned, or over an operand that is still needed.
        """
        for source in self.sources:
            _check_overlap(source, (address, values.nbytes), self.name, in_place=in_place)
        self.memory.write(address, Tensor(values=values, undefined=undefined), f"{self.name}: output")
        self.written = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
