"""Layers that combine tensors element by element, and the one that does nothing.

Source: spec/ai8x-training.md sections 3.2 and 5.10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ai8x.nn.base import ElementwiseModule, Mode
from ai8x.nn.functional import Q7_ONE, combine_bits


class Add(ElementwiseModule):
    """Sum of two or more tensors, clamped once."""

    def combine(self, operands: tuple[Tensor, ...]) -> Tensor:
        """Left-associated sum."""
        result = operands[0]
        for operand in operands[1:]:
            result = result + operand
        return result


class Sub(ElementwiseModule):
    """First tensor minus all others, clamped once."""

    def combine(self, operands: tuple[Tensor, ...]) -> Tensor:
        """Left-associated difference."""
        result = operands[0]
        for operand in operands[1:]:
            result = result - operand
        return result


class _Bitwise(ElementwiseModule):
    """Operators on two's complement int8; they carry no gradient."""

    def _combine(self, operands: tuple[Tensor, ...], operator: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        return combine_bits(operands, operator, 1 if self.mode is Mode.INTEGER else Q7_ONE)


class BitwiseOr(_Bitwise):
    """Bitwise or of two or more tensors, as int8."""

    def combine(self, operands: tuple[Tensor, ...]) -> Tensor:
        """Left-associated or."""
        return self._combine(operands, torch.bitwise_or)


class BitwiseXor(_Bitwise):
    """Bitwise exclusive or of two or more tensors, as int8."""

    def combine(self, operands: tuple[Tensor, ...]) -> Tensor:
        """Left-associated exclusive or."""
        return self._combine(operands, torch.bitwise_xor)


class Empty(nn.Module):
    """Passes its input on: stands where a model leaves a layer out. Arguments are accepted and ignored."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        del args, kwargs

    def forward(self, data: Tensor) -> Tensor:
        """The input itself."""
        return data
