"""Layer types of our own, which only the generated stand-alone runner knows.

They compute what neither the KPU nor a stock layer computes exactly: averages of large windows, bitwise operators. The
lowering uses them only where it is told to (``--k210-own-layers``). Their numbers lie far from all published ones.

Source: spec/k210-kmodel.md sections 9 and 13.2 ("own CPU code").
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import ClassVar

from ai8x.k210.kmodel_base import KModelLayer, LayerType, u32


class BitwiseOperation(enum.IntEnum):
    """What `Ai8xBitwise` computes."""

    OR = 0
    XOR = 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ai8xAveragePool2d(KModelLayer):
    """Integer averages of bytes ``a + 128``, truncated towards zero, or rounded half away from zero if `rounded`."""

    TYPE: ClassVar[LayerType] = LayerType.AI8X_AVERAGE_POOL2D
    input: int = u32()
    output: int = u32()
    input_width: int = u32()
    input_height: int = u32()
    channels: int = u32()
    output_width: int = u32()
    output_height: int = u32()
    kernel_width: int = u32()
    kernel_height: int = u32()
    stride_width: int = u32()
    stride_height: int = u32()
    dilation_width: int = u32()
    dilation_height: int = u32()
    rounded: int = u32()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ai8xBitwise(KModelLayer):
    """A `BitwiseOperation` on the two's complement of bytes ``a + 128``."""

    TYPE: ClassVar[LayerType] = LayerType.AI8X_BITWISE
    input_a: int = u32()
    input_b: int = u32()
    output: int = u32()
    count: int = u32()
    operation: int = u32()


OWN_LAYERS = (Ai8xAveragePool2d, Ai8xBitwise)
"""Every layer type of our own."""
