"""The main buffer of a kmodel runner: bytes, and which of them were never written.

Start at `MainMemory`.

Source: spec/k210-kmodel.md sections 8 and 11.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import HardwareFault
from ai8x.k210.device import arbitrary_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Values and the mask of those that depend on bytes nobody wrote; equal shapes."""

    values: NDArray[Any]
    undefined: NDArray[np.bool_]


def defined(values: NDArray[Any]) -> Tensor:
    """A tensor without undefined values."""
    return Tensor(values=values, undefined=np.zeros(values.shape, np.bool_))


class MainMemory:
    """The buffer that a runner allocates: ``main_mem_usage`` bytes.

    Args:
        size: bytes.
        seed: of the arbitrary contents that it has at first; None for zeros.
    """

    def __init__(self, size: int, *, seed: int | None = 0) -> None:
        self._bytes = arbitrary_bytes(size, seed)
        self._undefined = np.ones(size, np.bool_)

    def check(self, address: int, size: int, what: str, alignment: int = 1) -> None:
        """Refuse a range outside the buffer.

        Args:
            address: byte offset in the buffer.
            size: bytes.
            what: layer and operand, for the message.
            alignment: bytes.

        Raises:
            HardwareFault: outside, or misaligned.
        """
        if address + size > len(self._bytes):
            raise HardwareFault(f"{what}: bytes {address:#x} to {address + size:#x} of a main buffer of "
                                f"{len(self._bytes):#x} bytes")
        if address % alignment:
            raise HardwareFault(f"{what}: address {address:#x} is not a multiple of {alignment}")

    def read(self, address: int, count: int, dtype: Any, what: str) -> Tensor:
        """A copy of `count` elements; an element is undefined if one of its bytes is.

        Raises:
            HardwareFault: outside the buffer, or misaligned.
        """
        width = np.dtype(dtype).itemsize
        self.check(address, count * width, what, width)
        place = slice(address, address + count * width)
        return Tensor(values=self._bytes[place].copy().view(dtype),
                      undefined=np.asarray(self._undefined[place].reshape(count, width).any(axis=1)))

    def write(self, address: int, tensor: Tensor, what: str) -> None:
        """Store elements.

        Raises:
            HardwareFault: outside the buffer, or misaligned.
        """
        values = np.ascontiguousarray(tensor.values).reshape(-1)
        width = values.dtype.itemsize
        self.check(address, values.nbytes, what, width)
        place = slice(address, address + values.nbytes)
        self._bytes[place] = values.view(np.uint8)
        self._undefined[place] = np.repeat(tensor.undefined.reshape(-1), width)
