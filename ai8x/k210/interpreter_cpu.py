"""The CPU layers of a kmodel, computed as the runner of the SDK does.

Float layers work in float32 in the order of the SDK's loops. Start at `run_cpu_layer`.

Source: spec/k210-kmodel.md section 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import HardwareFault
from ai8x.k210.device import K210
from ai8x.k210.interpreter_memory import MainMemory, Tensor
from ai8x.k210.interpreter_operands import Operands
from ai8x.k210.interpreter_own import average_pool, bitwise
from ai8x.k210.kmodel_layers import (
    Act,
    Add,
    AveragePool2d,
    ChannelwiseDequantize,
    Concat,
    Dequantize,
    FullyConnected,
    GlobalAveragePool2d,
    K210RemovePadding,
    KModelLayer,
    L2Normalization,
    Logistic,
    Quantize,
    QuantizedAdd,
    QuantizedConcat,
    QuantizedMaxPool2d,
    QuantizedResizeNearestNeighbor,
    QuantizedTensorflowFlatten,
    Requantize,
    ResizeNearestNeighbor,
    Softmax,
    TensorflowFlatten,
)
from ai8x.k210.kmodel_own import Ai8xAveragePool2d, Ai8xBitwise
from ai8x.k210.simulator_stages import carry_shift

F32 = np.float32
FloatArray = NDArray[np.float32]

BLOCK = 8
"""QUANTIZED_ADD reads and writes whole blocks of eight bytes."""

PADDED_CELLS = 16
"""Cells of the 4x4 maps that carry single values; section 9, REMOVE_PADDING."""

MOST_POSITIONS = K210.limits.max_height * K210.limits.max_width
"""Windows of a pooling layer: as many as the largest map of the KPU has cells."""

LEAST_SQUARE_SUM = F32(1e-10)
"""Lower bound of the squared length in L2_NORMALIZATION."""

SOFTMAX_FLOOR = np.finfo(np.float32).tiny
"""The SDK's running maximum starts here instead of at the first logit."""


def _add(layer: Add, operands: Operands) -> None:
    a, b = (operands.read(address, (layer.count,), F32) for address in (layer.input_a, layer.input_b))
    operands.write(layer.output, a.values + b.values, a.undefined | b.undefined, in_place=True)


def _check_words(name: str, *sizes: int) -> None:
    """The SDK computes in 64 bits; beyond them its result is undefined in C."""
    if max(sizes) >= 1 << 62:
        raise HardwareFault(f"{name}: factors overflow 64 bits")


def _quantized_add(layer: QuantizedAdd, operands: Operands) -> None:
    count = -(-layer.count // BLOCK) * BLOCK
    shifts = (layer.shift_a, layer.shift_b, layer.shift_output)
    if any(not 0 <= shift < 63 for shift in shifts):
        raise HardwareFault(f"{operands.name}: shifts {shifts}; 0 to 62 are defined")
    a, b = (operands.read(address, (count,), np.uint8) for address in (layer.input_a, layer.input_b))
    largest = [(abs(offset) + 255) * abs(mul) for offset, mul in
               ((layer.offset_a, layer.mul_a), (layer.offset_b, layer.mul_b))]
    _check_words(operands.name, sum(largest), sum(largest) * abs(layer.mul_output))
    left = (a.values.astype(np.int64) + layer.offset_a) * layer.mul_a
    right = (b.values.astype(np.int64) + layer.offset_b) * layer.mul_b
    if layer.shift_a == layer.shift_b:
        total = (left + right) >> layer.shift_a
    else:
        total = (left >> layer.shift_a) + (right >> layer.shift_b)
    result = carry_shift(total * layer.mul_output, layer.shift_output) + layer.offset_output
    operands.write(layer.output, np.clip(result, 0, 255).astype(np.uint8), a.undefined | b.undefined, in_place=True)


def _global_average_pool(layer: GlobalAveragePool2d, operands: Operands) -> None:
    x = operands.read(layer.input, (layer.channels, layer.kernel_size), F32)
    total = np.add.accumulate(x.values, axis=1, dtype=F32)[:, -1]
    operands.write(layer.output, total / F32(layer.kernel_size), np.asarray(x.undefined.any(axis=1)))


def _pool_windows(layer: QuantizedMaxPool2d | AveragePool2d, operands: Operands) -> list[list[tuple[slice, slice]]]:
    """Rows and columns of the window of every output, clipped to the map."""
    if layer.input_channels != layer.output_channels:
        raise HardwareFault(f"{operands.name}: {layer.input_channels} channels in, {layer.output_channels} out")
    positions = layer.output_height * layer.output_width
    window = min(layer.kernel_height, layer.input_height) * min(layer.kernel_width, layer.input_width)
    if not 1 <= positions <= MOST_POSITIONS:
        raise HardwareFault(f"{operands.name}: {positions} windows; 1 to {MOST_POSITIONS} are run")
    operands.check_work(positions * window * layer.input_channels)

    def spans(outputs: int, size: int, kernel: int, stride: int, pad: int) -> list[slice]:
        starts = [index * stride - pad for index in range(outputs)]
        return [slice(min(max(start, 0), size), min(max(start + kernel, 0), size)) for start in starts]

    itemsize = 1 if isinstance(layer, QuantizedMaxPool2d) else 4
    operands.memory.check(layer.output, layer.output_channels * layer.output_height * layer.output_width * itemsize,
                     f"{operands.name}: output")
    rows = spans(layer.output_height, layer.input_height, layer.kernel_height, layer.stride_height, layer.pad_height)
    columns = spans(layer.output_width, layer.input_width, layer.kernel_width, layer.stride_width, layer.pad_width)
    return [[(row, column) for column in columns] for row in rows]


def _read_pool_input(layer: QuantizedMaxPool2d | AveragePool2d, operands: Operands, dtype: Any) -> Tensor:
    return operands.read(layer.input, (layer.input_channels, layer.input_height, layer.input_width), dtype)


def _quantized_max_pool(layer: QuantizedMaxPool2d, operands: Operands) -> None:
    x = _read_pool_input(layer, operands, np.uint8)
    spans = _pool_windows(layer, operands)
    shape = (layer.output_channels, layer.output_height, layer.output_width)
    values, undefined = np.zeros(shape, np.uint8), np.zeros(shape, np.bool_)
    for y, line in enumerate(spans):
        for column_index, (rows, columns) in enumerate(line):
            values[:, y, column_index] = x.values[:, rows, columns].max(axis=(1, 2), initial=0)
            undefined[:, y, column_index] = x.undefined[:, rows, columns].any(axis=(1, 2))
    operands.write(layer.output, values, undefined)


def _average_pool(layer: AveragePool2d, operands: Operands) -> None:
    x = _read_pool_input(layer, operands, F32)
    spans = _pool_windows(layer, operands)
    shape = (layer.output_channels, layer.output_height, layer.output_width)
    values, undefined = np.full(shape, np.nan, F32), np.zeros(shape, np.bool_)
    for y, line in enumerate(spans):
        for column_index, (rows, columns) in enumerate(line):
            cells = x.values[:, rows, columns].reshape(layer.input_channels, -1)
            if cells.shape[1]:
                total = np.add.accumulate(cells, axis=1, dtype=F32)[:, -1]
                values[:, y, column_index] = total / F32(cells.shape[1])
            undefined[:, y, column_index] = x.undefined[:, rows, columns].any(axis=(1, 2))
    operands.write(layer.output, values, undefined)


def _quantize(layer: Quantize, operands: Operands) -> None:
    x = operands.read(layer.input, (layer.count,), F32)
    scaled = ((x.values - F32(layer.bias)) * (F32(1) / F32(layer.scale))).astype(np.float64)
    if np.isnan(scaled[~x.undefined]).any():
        raise HardwareFault(f"{operands.name}: the conversion of NaN to a byte is undefined")
    nearest = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled)
    operands.write(layer.output, np.nan_to_num(np.clip(nearest, 0, 255)).astype(np.uint8), x.undefined)


def _dequantize(layer: Dequantize, operands: Operands) -> None:
    x = operands.read(layer.input, (layer.count,), np.uint8)
    operands.write(layer.output, x.values.astype(F32) * F32(layer.scale) + F32(layer.bias), x.undefined)


def _requantize(layer: Requantize, operands: Operands) -> None:
    x = operands.read(layer.input, (layer.count,), np.uint8)
    operands.write(layer.output, layer.table[x.values], x.undefined, in_place=True)


def _spread(undefined: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """Every output depends on every input."""
    return np.full(count, undefined.any())


def _l2_normalization(layer: L2Normalization, operands: Operands) -> None:
    x = operands.read(layer.input, (layer.channels,), F32)
    total = np.add.accumulate(x.values * x.values, dtype=F32)[-1]
    length = np.sqrt(np.maximum(total, LEAST_SQUARE_SUM))
    operands.write(layer.output, x.values / length, _spread(x.undefined, layer.channels))


def _softmax(layer: Softmax, operands: Operands) -> None:
    x = operands.read(layer.input, (layer.channels,), F32)
    exponentials = np.exp(x.values - np.maximum(x.values.max(), SOFTMAX_FLOOR))
    total = np.add.accumulate(exponentials, dtype=F32)[-1]
    operands.write(layer.output, exponentials / total, _spread(x.undefined, layer.channels), in_place=True)


def _concat(layer: Concat | QuantizedConcat, operands: Operands) -> None:
    total = sum(place.size for place in layer.ranges)
    operands.memory.check(layer.output, total, f"{operands.name}: output")
    parts = [operands.read(place.address, (place.size,), np.uint8) for place in layer.ranges if place.size]
    if parts:
        operands.write(layer.output, np.concatenate([part.values for part in parts]),
                  np.concatenate([part.undefined for part in parts]))


def fused_multiply_add(a: FloatArray, b: FloatArray, c: FloatArray) -> FloatArray:
    """``a * b + c`` in float32 with one rounding, as the FPU does it.

    The product of two float32 is exact in float64; the sum is rounded to odd there, so that the second rounding to
    float32 gives what a single one would.
    """
    product = a.astype(np.float64) * b
    addend = c.astype(np.float64)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    even = (total.view(np.int64) & 1) == 0
    away = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    fixed = np.where((error != 0) & even & np.isfinite(total), away, total)
    return np.asarray(fixed, np.float32)


def _fully_connected(layer: FullyConnected, operands: Operands) -> None:
    x = operands.read(layer.input, (layer.input_channels,), F32)
    total: FloatArray = np.zeros(layer.output_channels, F32)
    for index in range(layer.input_channels):
        total = fused_multiply_add(layer.weights[:, index], x.values[index], total)
    total = total + layer.bias
    if layer.act > Act.RELU6:
        raise HardwareFault(f"{operands.name}: activation {layer.act} is undefined")
    if layer.act != Act.LINEAR:
        total = np.maximum(total, F32(0))
    if layer.act == Act.RELU6:
        total = np.minimum(total, F32(6))
    used = np.asarray(((layer.weights != 0) & x.undefined).any(axis=1))
    operands.write(layer.output, total, used)


def _flatten(layer: TensorflowFlatten | QuantizedTensorflowFlatten, operands: Operands) -> None:
    dtype = F32 if isinstance(layer, TensorflowFlatten) else np.uint8
    x = operands.read(layer.input, (layer.channels, layer.height, layer.width), dtype)
    operands.write(layer.output, x.values.transpose(1, 2, 0), x.undefined.transpose(1, 2, 0))


def _resize(layer: ResizeNearestNeighbor | QuantizedResizeNearestNeighbor, operands: Operands) -> None:
    dtype: Any = F32 if isinstance(layer, ResizeNearestNeighbor) else np.uint8
    x = operands.read(layer.input, (layer.channels, layer.input_height, layer.input_width), dtype)
    size = layer.channels * layer.output_height * layer.output_width * np.dtype(dtype).itemsize
    if not size:
        raise HardwareFault(f"{operands.name}: empty output of {layer.output_height}x{layer.output_width}")
    operands.memory.check(layer.output, size, f"{operands.name}: output")

    def sources(outputs: int, inputs: int) -> NDArray[np.int64]:
        scale = F32(inputs) / F32(max(outputs, 1))
        wanted = np.floor(np.arange(outputs, dtype=F32) * scale).astype(np.int64)
        return np.asarray(np.minimum(wanted, inputs - 1), np.int64)

    rows, columns = sources(layer.output_height, layer.input_height), sources(layer.output_width, layer.input_width)
    index = np.ix_(np.arange(layer.channels), rows, columns)
    operands.write(layer.output, x.values[index], x.undefined[index])


def _channelwise_dequantize(layer: ChannelwiseDequantize, operands: Operands) -> None:
    x = operands.read(layer.input, (layer.channels, layer.channel_size), np.uint8)
    values = x.values.astype(F32) * layer.scale[:, None] + layer.bias[:, None]
    operands.write(layer.output, values, x.undefined)


def _logistic(layer: Logistic, operands: Operands) -> None:
    x = operands.read(layer.input, (layer.channels,), F32)
    operands.write(layer.output, F32(1) / (F32(1) + np.exp(-x.values)), x.undefined, in_place=True)


def _remove_padding(layer: K210RemovePadding, operands: Operands) -> None:
    x = operands.read(layer.input, (layer.channels, PADDED_CELLS), np.uint8)
    operands.write(layer.output, x.values[:, 0], x.undefined[:, 0])


_LAYERS: Mapping[type[KModelLayer], Callable[[Any, Operands], None]] = {
    Add: _add,
    QuantizedAdd: _quantized_add,
    GlobalAveragePool2d: _global_average_pool,
    QuantizedMaxPool2d: _quantized_max_pool,
    AveragePool2d: _average_pool,
    Quantize: _quantize,
    Dequantize: _dequantize,
    Requantize: _requantize,
    L2Normalization: _l2_normalization,
    Softmax: _softmax,
    Concat: _concat,
    QuantizedConcat: _concat,
    FullyConnected: _fully_connected,
    TensorflowFlatten: _flatten,
    QuantizedTensorflowFlatten: _flatten,
    ResizeNearestNeighbor: _resize,
    QuantizedResizeNearestNeighbor: _resize,
    ChannelwiseDequantize: _channelwise_dequantize,
    Logistic: _logistic,
    K210RemovePadding: _remove_padding,
    Ai8xAveragePool2d: average_pool,
    Ai8xBitwise: bitwise,
}


def run_cpu_layer(layer: KModelLayer, memory: MainMemory, name: str) -> NDArray[np.uint8]:
    """Execute one layer that touches only the main buffer.

    Args:
        layer: any layer but the KPU's, ADD_PADDING and UPLOAD.
        memory: the main buffer.
        name: how to call the layer in faults.

    Returns:
        The bytes written to the main buffer.

    Raises:
        HardwareFault: the layer reads or writes outside the buffer, overwrites its own input, or has a type or a value
            at which the runner stops.
    """
    if type(layer) not in _LAYERS:
        raise HardwareFault(f"{name}: the runner stops at this layer type")
    operands = Operands(memory, name)
    with np.errstate(all="ignore"):
        _LAYERS[type(layer)](layer, operands)
    return operands.written
