"""Quantised float network -> steps: which KPU and CPU layers run each kind of layer.

`quantize_conv.py` holds the forms of convolutions and poolings, `quantize_walk.py` the results so far. Start at
`legalize_float`.

Source: spec/k210-kmodel.md sections 9, 13.2, 14 and 17.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ai8x.k210.activation import LINEAR, ActivationKind
from ai8x.k210.device import K210
from ai8x.k210.frames import KERNEL_TAPS
from ai8x.k210.kmodel_layers import AveragePool2d, QuantizedResizeNearestNeighbor, Softmax
from ai8x.k210.parameters import ZERO_POINT
from ai8x.k210.quantize_calibration import TensorQuantization
from ai8x.k210.quantize_conv import ConvGeometry, averaging_weights, convolved, max_pooled, maximum
from ai8x.k210.quantize_model import FloatLayer, FloatModel, FloatOp
from ai8x.k210.quantize_parameters import QuantizedWeights, RealConv, quantized_weights
from ai8x.k210.quantize_walk import FloatLowering, Handler, LoweringOptions, NoForm, Value, Walk
from ai8x.k210.steps import CpuOp, CpuStep, FloatStep
from ai8x.k210.tensors import Tensor
from ai8x.network.ir import TensorShape

_FLOAT_ACTIVATIONS = (ActivationKind.LINEAR, ActivationKind.RELU)
"""What a float dense layer of the runner can end in."""


def legalize_float(model: FloatModel, quantizations: Mapping[int, TensorQuantization],
                   options: LoweringOptions) -> FloatLowering:
    """The steps of a prepared float model.

    Args:
        model: prepared (`quantize_model.prepared`).
        quantizations: of the input and of every result.
        options: choices.

    Raises:
        UserError: E0772, the KPU has no form of a layer.
    """
    return Walk(model, quantizations, options).run(_HANDLERS)


def _conv(walk: Walk, index: int, layer: FloatLayer) -> Value:
    assert layer.weights is not None
    geometry = ConvGeometry(kernel=layer.window, stride=layer.stride, dilation=layer.dilation, padding=layer.padding,
                            groups=layer.groups)
    (source,) = layer.inputs
    return walk.convolve(index, source, walk.real_conv(index, source, quantized_weights(layer.weights)), geometry)


def _activation(walk: Walk, index: int, layer: FloatLayer) -> Value:
    (source,) = layer.inputs
    eye = quantized_weights(np.eye(walk.model.shapes[index].channels)[:, :, None, None])
    return walk.convolve(index, source, walk.real_conv(index, source, eye), ConvGeometry())


def _dense(walk: Walk, index: int, layer: FloatLayer) -> Value:
    """In float32 on the CPU where the weights are few or the inputs too many, else on the KPU."""
    assert layer.weights is not None
    (source,) = layer.inputs
    features = layer.weights.shape[1]
    small = 4 * layer.weights.size <= walk.options.float_dense_bytes
    can_float = layer.activation.kind in _FLOAT_ACTIVATIONS
    if can_float and (small or features > K210.limits.max_channels):
        return _float_dense(walk, index, layer)
    if features > K210.limits.max_channels:
        raise NoForm(f"a dense layer of {features} features with {layer.activation.name} would read {features} "
                     f"channels; a KPU layer reads at most {K210.limits.max_channels}")
    flat = walk.tensor(source, index).reshaped(TensorShape(features, 1, 1))
    real = walk.real_conv(index, source, quantized_weights(layer.weights[:, :, None, None]))
    done = convolved(walk.builder, walk.carrier(index), [flat], real, ConvGeometry())
    return walk.byte_value(index, done.tensor)


def _float_dense(walk: Walk, index: int, layer: FloatLayer) -> Value:
    assert layer.weights is not None
    source = walk.floats(layer.inputs[0], index)
    target = walk.builder.new_buffer(len(layer.weights), is_float=True)
    bias = np.zeros(len(layer.weights)) if layer.bias is None else layer.bias
    walk.builder.append(CpuStep(name=layer.name, layer=index, op=CpuOp.FULLY_CONNECTED, source=source, target=target,
                                weights=layer.weights, bias=bias, relu=layer.activation.kind is ActivationKind.RELU))
    return walk.float_value(index, target)


def _max_pool(walk: Walk, index: int, layer: FloatLayer) -> Value:
    tensor = walk.tensor(layer.inputs[0], index)
    return walk.byte_value(index, max_pooled(walk.builder, walk.carrier(index), tensor,
                                             maximum(layer.kernel, layer.stride), layer.padding))


def _global_max(walk: Walk, index: int, layer: FloatLayer) -> Value:
    tensor = walk.tensor(layer.inputs[0], index)
    whole = (tensor.shape.height, tensor.shape.width)
    return walk.byte_value(index, max_pooled(walk.builder, walk.carrier(index), tensor, maximum(whole, whole),
                                             (0, 0, 0, 0)))


def _average_pool(walk: Walk, index: int, layer: FloatLayer) -> Value:
    """Small windows are convolutions; others run in float32."""
    if max(layer.kernel) > KERNEL_TAPS:
        return _float_average(walk, index, layer)
    (source,) = layer.inputs
    channels = walk.model.shapes[index].channels
    dense = layer.stride != (1, 1) or channels == 1
    weights = quantized_weights(averaging_weights(channels, layer.kernel, dense=dense))
    real = replace(walk.real_conv(index, source, weights), function=LINEAR)
    return walk.convolve(index, source, real, ConvGeometry(
        kernel=layer.kernel, stride=layer.stride, padding=layer.padding, groups=1 if dense else channels))


def _float_average(walk: Walk, index: int, layer: FloatLayer) -> Value:
    if any(layer.padding):
        raise NoForm(f"a mean over {layer.kernel[0]}x{layer.kernel[1]} cells with zeros around the map")
    source = walk.floats(layer.inputs[0], index)
    shape, out = walk.model.shape_of(layer.inputs[0]), walk.model.shapes[index]

    def body(source_address: int, target_address: int) -> AveragePool2d:
        return AveragePool2d(
            input=source_address, output=target_address, input_width=shape.width, input_height=shape.height,
            input_channels=shape.channels, output_width=out.width, output_height=out.height,
            output_channels=out.channels, kernel_width=layer.kernel[1], kernel_height=layer.kernel[0],
            stride_width=layer.stride[1], stride_height=layer.stride[0], pad_width=0, pad_height=0, act=0)

    target = walk.builder.new_buffer(out.numel, is_float=True)
    return walk.float_value(index, walk.builder.append_float(
        FloatStep(name=layer.name, layer=index, source=source, target=target, body=body)))


def _global_average(walk: Walk, index: int, layer: FloatLayer) -> Value:
    source = walk.floats(layer.inputs[0], index)
    target = walk.builder.new_buffer(walk.model.shapes[index].channels, is_float=True)
    walk.builder.append(CpuStep(name=layer.name, layer=index, op=CpuOp.GLOBAL_AVERAGE_POOL2D, source=source,
                                target=target))
    return walk.float_value(index, target)


def _softmax(walk: Walk, index: int, layer: FloatLayer) -> Value:
    source = walk.floats(layer.inputs[0], index)
    shape = walk.model.shapes[index]

    def body(source_address: int, target_address: int) -> Softmax:
        return Softmax(input=source_address, output=target_address, channels=shape.numel)

    target = walk.builder.new_buffer(shape.numel, is_float=True)
    return walk.float_value(index, walk.builder.append_float(
        FloatStep(name=layer.name, layer=index, source=source, target=target, body=body)))


def _resized(walk: Walk, index: int, layer: FloatLayer) -> Value:
    """QUANTIZED_RESIZE_NEAREST_NEIGHBOR, whose float32 indices have to be those of the exact quotients."""
    shape, out = walk.model.shape_of(layer.inputs[0]), walk.model.shapes[index]
    for old, new in ((shape.height, out.height), (shape.width, out.width)):
        cells = np.arange(new)
        quotients = np.floor(cells.astype(np.float32) * (np.float32(old) / np.float32(new))).astype(np.int64)
        if not np.array_equal(np.minimum(quotients, old - 1), cells * old // new):
            raise NoForm(f"resizing {old} cells to {new} rounds otherwise in the runner's float32")

    def body(source_address: int, target_address: int) -> QuantizedResizeNearestNeighbor:
        return QuantizedResizeNearestNeighbor(
            input=source_address, output=target_address, input_width=shape.width, input_height=shape.height,
            channels=shape.channels, output_width=out.width, output_height=out.height, align_corners=0)

    source = walk.builder.main_of(walk.tensor(layer.inputs[0], index), walk.carrier(index))
    target = walk.builder.new_buffer(out.numel)
    walk.builder.append_float(FloatStep(name=layer.name, layer=index, source=source, target=target, body=body))
    return walk.byte_value(index, Tensor(shape=out, main=target))


def _dequant(walk: Walk, index: int, layer: FloatLayer) -> Value:
    return walk.float_value(index, walk.floats(layer.inputs[0], index))


def _add(walk: Walk, index: int, layer: FloatLayer) -> Value:
    """Operands side by side, a 1x1 convolution with the ratios of their scales as weights."""
    quantizations = [walk.quantizations[i] for i in layer.inputs]
    channels = walk.model.shapes[index].channels
    first = quantizations[0]
    factors = add_factors([q.scale for q in quantizations])
    scale = max(q.scale for q in quantizations) / max(factors)
    eye = np.eye(channels, dtype=np.int64)[:, :, None, None]
    # All operands are read with the first one's zero point; the difference and the rests are constants.
    constant = sum(factor * scale * (first.zero_point - q.zero_point) + q.rest
                   for factor, q in zip(factors, quantizations, strict=True))
    weights = QuantizedWeights(values=np.concatenate([factor * eye for factor in factors], axis=1),
                               scale=np.full(channels, scale / first.scale))
    real = RealConv(weights=weights, bias=np.full(channels, constant), source=replace(first, rest=0.0),
                    target=walk.quantizations[index], function=layer.activation, falling=walk.options.falling)
    operands = [walk.tensor(source, index) for source in layer.inputs]
    done = convolved(walk.builder, walk.carrier(index), operands, real, ConvGeometry())
    return walk.byte_value(index, done.tensor)


def add_factors(scales: Sequence[float]) -> list[int]:
    """Whole numbers up to 127 in the ratio of positive scales, the largest between 64 and 127."""
    largest = max(scales)
    ratios = [scale / largest for scale in scales]

    def error(top: int) -> float:
        return max(abs(_nearest(ratio * top) / top - ratio) for ratio in ratios)

    best = min(range(127, 63, -1), key=error)
    return [_nearest(ratio * best) for ratio in ratios]


def _nearest(value: float) -> int:
    return int(np.floor(value + 0.5))


def _concat(walk: Walk, index: int, layer: FloatLayer) -> Value:
    target = walk.quantizations[index]
    parts: list[Tensor] = []
    for source in layer.inputs:
        tensors = walk.tensors(source, index)
        if walk.quantizations[source] != target:
            tensors = (_requantized(walk, index, walk.tensor(source, index), walk.quantizations[source]),)
        parts.extend(tensors)
    return walk.byte_value(index, *parts)


def _requantized(walk: Walk, index: int, tensor: Tensor, given: TensorQuantization) -> Tensor:
    """The same numbers as bytes of another meaning, through a table."""
    target = walk.quantizations[index]

    def stored(values: NDArray[np.int64]) -> NDArray[np.int64]:
        return target.stored(given.real(values + ZERO_POINT)).astype(np.int64) - ZERO_POINT

    return walk.builder.mapped(tensor, walk.carrier(index), stored)


def _reshape(walk: Walk, index: int, layer: FloatLayer) -> Value:
    source = walk.values[layer.inputs[0]]
    if not source.tensors and source.floats is not None:
        return walk.float_value(index, source.floats)
    return walk.byte_value(index, walk.tensor(layer.inputs[0], index).reshaped(walk.model.shapes[index]))


def _zero_pad(walk: Walk, index: int, layer: FloatLayer) -> Value:
    tensors = walk.tensors(layer.inputs[0], index)
    shape = walk.model.shapes[index]
    walk.builder.border = walk.quantizations[layer.inputs[0]].zero_point
    top, _, left, _ = layer.padding
    main = walk.builder.padded(tensors, walk.carrier(index), top, left, (shape.height, shape.width))
    return walk.byte_value(index, Tensor(shape=shape, main=main))


_HANDLERS: Mapping[FloatOp, Handler] = {
    FloatOp.CONV2D: _conv, FloatOp.DENSE: _dense, FloatOp.MAX_POOL2D: _max_pool,
    FloatOp.AVERAGE_POOL2D: _average_pool, FloatOp.GLOBAL_MAX_POOL2D: _global_max,
    FloatOp.GLOBAL_AVERAGE_POOL2D: _global_average, FloatOp.ADD: _add, FloatOp.CONCAT: _concat,
    FloatOp.FLATTEN: _reshape, FloatOp.RESHAPE: _reshape, FloatOp.ZERO_PAD2D: _zero_pad,
    FloatOp.RESIZE_NEAREST: _resized, FloatOp.ACTIVATION: _activation, FloatOp.DEQUANT: _dequant,
    FloatOp.SOFTMAX: _softmax,
}
