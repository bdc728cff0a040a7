"""The layer types of our own, as the generated runner computes them; written apart from `arithmetic`, as a witness.

Start at `average_pool` and `bitwise`.

Source: spec/k210-kmodel.md section 13.2 ("own CPU code"); spec/max78000-arithmetic of averages as in docs/design.md
"Numerics".
"""

from __future__ import annotations

import numpy as np

from ai8x.errors import HardwareFault
from ai8x.k210.interpreter_operands import Operands
from ai8x.k210.kmodel_own import Ai8xAveragePool2d, Ai8xBitwise, BitwiseOperation

ZERO = 128
"""Byte that stands for 0."""


def average_pool(layer: Ai8xAveragePool2d, operands: Operands) -> None:
    """Average of every window; all windows lie inside the map.

    Raises:
        HardwareFault: a size is 0, a window leaves the map, or a range leaves the main buffer.
    """
    _check_windows(layer, operands)
    x = operands.read(layer.input, (layer.channels, layer.input_height, layer.input_width), np.uint8)
    shape = (layer.channels, layer.output_height, layer.output_width)
    operands.memory.check(layer.output, layer.channels * layer.output_height * layer.output_width,
                          f"{operands.name}: output")
    values = x.values.astype(np.int64) - ZERO
    total, undefined = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    for row in range(layer.kernel_height):
        for column in range(layer.kernel_width):
            top, left = row * layer.dilation_height, column * layer.dilation_width
            cells = (slice(None), slice(top, top + (layer.output_height - 1) * layer.stride_height + 1,
                                        layer.stride_height),
                     slice(left, left + (layer.output_width - 1) * layer.stride_width + 1, layer.stride_width))
            total += values[cells]
            undefined |= x.undefined[cells]
    count = layer.kernel_height * layer.kernel_width
    magnitude = (np.abs(total) + (count // 2 if layer.rounded else 0)) // count
    operands.write(layer.output, (np.sign(total) * magnitude + ZERO).astype(np.uint8), undefined)


def _check_windows(layer: Ai8xAveragePool2d, operands: Operands) -> None:
    axes = ((layer.input_height, layer.output_height, layer.kernel_height, layer.stride_height, layer.dilation_height),
            (layer.input_width, layer.output_width, layer.kernel_width, layer.stride_width, layer.dilation_width))
    for size, outputs, kernel, stride, dilation in axes:
        if not min(outputs, kernel, stride, dilation) or layer.rounded > 1:
            raise HardwareFault(f"{operands.name}: a size, stride or dilation is 0, or rounded is neither 0 nor 1")
        reach = (outputs - 1) * stride + (kernel - 1) * dilation + 1
        if reach > size:
            raise HardwareFault(f"{operands.name}: windows reach over {reach} of {size} cells")
    work = (layer.output_height * layer.output_width * layer.kernel_height * layer.kernel_width * layer.channels)
    operands.check_work(work)


def bitwise(layer: Ai8xBitwise, operands: Operands) -> None:
    """OR or XOR.

    Raises:
        HardwareFault: another operation, or a range leaves the main buffer.
    """
    if layer.operation not in (BitwiseOperation.OR, BitwiseOperation.XOR):
        raise HardwareFault(f"{operands.name}: operation {layer.operation}; 0 is OR, 1 is XOR")
    a, b = (operands.read(address, (layer.count,), np.uint8) for address in (layer.input_a, layer.input_b))
    left, right = a.values ^ np.uint8(ZERO), b.values ^ np.uint8(ZERO)  # two's complement
    result = left | right if layer.operation == BitwiseOperation.OR else left ^ right
    operands.write(layer.output, result ^ np.uint8(ZERO), a.undefined | b.undefined, in_place=True)
