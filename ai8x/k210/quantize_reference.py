"""What a float network computes, in float32: the measure of every quantised one.

Start at `run_float_model`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ai8x.k210.quantize_model import MODEL_INPUT, Borders, FloatLayer, FloatModel, FloatOp

FloatArray = NDArray[np.float32]


def run_float_model(model: FloatModel, images: NDArray[np.uint8]) -> tuple[FloatArray, ...]:
    """The result of every layer.

    Args:
        model: any float model.
        images: uint8 (N, C, H, W).

    Returns:
        One float32 array (N, C, H, W) for each layer.
    """
    values: dict[int, FloatArray] = {MODEL_INPUT: model.real_input(images)}
    for index, layer in enumerate(model.layers):
        result = _LAYERS[layer.op](layer, [values[i] for i in layer.inputs])
        values[index] = result.reshape(len(images), *model.shapes[index].as_tuple())
    return tuple(values[index] for index in range(len(model.layers)))


def _bordered(x: FloatArray, padding: Borders, value: float = 0.0) -> FloatArray:
    top, bottom, left, right = padding
    if not any(padding):
        return x
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def _views(layer: FloatLayer, x: FloatArray, value: float = 0.0) -> FloatArray:
    """Windows (N, C, H', W', rows, columns) of a bordered map, without copying."""
    windows = np.lib.stride_tricks.sliding_window_view(_bordered(x, layer.padding, value), layer.reach, axis=(2, 3))
    apart = windows[..., :: layer.dilation[0], :: layer.dilation[1]]
    return np.asarray(apart[:, :, :: layer.stride[0], :: layer.stride[1]])


def _finished(layer: FloatLayer, x: NDArray[np.floating]) -> FloatArray:
    """Bias, batch norm, activation on (N, C, ...)."""
    column = (-1, *[1] * (x.ndim - 2))
    if layer.bias is not None:
        x = x + layer.bias.reshape(column)
    if layer.batch_norm is not None:
        x = x * layer.batch_norm.factor.reshape(column) + layer.batch_norm.offset.reshape(column)
    return layer.activation(np.asarray(x, np.float64)).astype(np.float32)


def _conv(layer: FloatLayer, operands: list[FloatArray]) -> FloatArray:
    assert layer.weights is not None
    windows = _views(layer, operands[0])
    weights = layer.weights.astype(np.float32)
    if layer.is_depthwise:
        total = np.zeros(windows.shape[:4], np.float32)
        for row in range(weights.shape[2]):
            for column in range(weights.shape[3]):
                total += windows[..., row, column] * weights[:, 0, row, column].reshape(-1, 1, 1)
        return _finished(layer, total)
    per_group = windows.shape[1] // layer.groups
    parts = []
    for group, kernels in enumerate(np.split(weights, layer.groups)):
        inputs = windows[:, group * per_group : (group + 1) * per_group]
        parts.append(np.tensordot(inputs, kernels, axes=((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2))
    return _finished(layer, np.concatenate(parts, axis=1))


def _dense(layer: FloatLayer, operands: list[FloatArray]) -> FloatArray:
    assert layer.weights is not None
    flat = operands[0].reshape(len(operands[0]), -1)
    return _finished(layer, flat @ layer.weights.astype(np.float32).T)


def _max_pool(layer: FloatLayer, operands: list[FloatArray]) -> FloatArray:
    return np.asarray(_views(layer, operands[0], -np.inf).max(axis=(4, 5)))


def _average_pool(layer: FloatLayer, operands: list[FloatArray]) -> FloatArray:
    return np.asarray(_views(layer, operands[0]).mean(axis=(4, 5)))


def _softmax(layer: FloatLayer, operands: list[FloatArray]) -> FloatArray:
    flat = operands[0].reshape(len(operands[0]), -1)
    exponentials = np.exp(flat - flat.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def _add(layer: FloatLayer, operands: list[FloatArray]) -> FloatArray:
    return _finished(layer, np.sum(operands, axis=0))


def _resized(layer: FloatLayer, operands: list[FloatArray]) -> FloatArray:
    """Nearest cells: row ``floor(row * rows in / rows out)``, columns alike."""
    assert layer.shape is not None
    x = operands[0]
    rows, columns = (np.arange(new) * old // new for new, old in
                     zip((layer.shape.height, layer.shape.width), x.shape[2:], strict=True))
    return np.asarray(x[:, :, rows][..., columns])


def _same(layer: FloatLayer, operands: list[FloatArray]) -> FloatArray:
    return operands[0]


_LAYERS: Mapping[FloatOp, Callable[[FloatLayer, list[FloatArray]], FloatArray]] = {
    FloatOp.CONV2D: _conv,
    FloatOp.DENSE: _dense,
    FloatOp.MAX_POOL2D: _max_pool,
    FloatOp.AVERAGE_POOL2D: _average_pool,
    FloatOp.GLOBAL_MAX_POOL2D: lambda layer, operands: np.asarray(operands[0].max(axis=(2, 3))),
    FloatOp.GLOBAL_AVERAGE_POOL2D: lambda layer, operands: np.asarray(operands[0].mean(axis=(2, 3))),
    FloatOp.ADD: _add,
    FloatOp.CONCAT: lambda layer, operands: np.concatenate(operands, axis=1),
    FloatOp.FLATTEN: _same,
    FloatOp.RESHAPE: _same,
    FloatOp.RESIZE_NEAREST: _resized,
    FloatOp.ZERO_PAD2D: lambda layer, operands: _bordered(operands[0], layer.padding),
    FloatOp.ACTIVATION: lambda layer, operands: _finished(layer, operands[0]),
    FloatOp.DEQUANT: _same,
    FloatOp.SOFTMAX: _softmax,
}


