"""Quantised float network -> steps: which KPU and CPU layers run it.

Walks the layers in order and keeps for every result where it exists: as bytes (in KPU maps or main memory) and as
floats (in main memory). `quantize_conv.py` holds the forms of convolutions and poolings. Start at `legalize_float`.

Source: spec/k210-kmodel.md sections 9, 13.2, 14 and 17.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Diagnostic, UserError
from ai8x.k210.activation import LINEAR, ActivationKind, Falling
from ai8x.k210.device import K210
from ai8x.k210.frames import KERNEL_TAPS
from ai8x.k210.kmodel_layers import AveragePool2d, Softmax
from ai8x.k210.legalize import network_input
from ai8x.k210.parameters import ZERO_POINT, NotExact
from ai8x.k210.quantize_calibration import TensorQuantization
from ai8x.k210.quantize_conv import (
    ConvGeometry,
    averaging_weights,
    convolved,
    max_pooled,
    maximum,
    picked,
)
from ai8x.k210.quantize_model import MODEL_INPUT, FloatLayer, FloatModel, FloatOp, Pair
from ai8x.k210.quantize_parameters import QuantizedWeights, RealConv, quantized_weights
from ai8x.k210.quantize_steps import FloatStep, QuantizedBuilder
from ai8x.k210.steps import ConvStep, CpuOp, CpuStep, LoweredSteps, MainBuffer, Window
from ai8x.k210.tensors import Tensor
from ai8x.network.ir import NETWORK_INPUT, Layer, Op, PoolSpec, TensorShape

_FLOAT_ACTIVATIONS = (ActivationKind.LINEAR, ActivationKind.RELU)
"""What a float dense layer of the runner can end in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweringOptions:
    """Choices that do not change what is computed, only how well and where.

    Args:
        float_dense_bytes: dense layers whose float weights take at most so many bytes run in float32 on the CPU (more
            exact); larger ones on the KPU with bytes.
        falling: falling parts of activations (hard-swish, SiLU).
        float_outputs: outputs are float32; otherwise bytes where the layer makes bytes.
    """

    float_dense_bytes: int = 64 * 1024
    falling: Falling = Falling.STEPS
    float_outputs: bool = True


@dataclass(slots=True, kw_only=True, eq=False)
class Value:
    """A result under construction.

    Args:
        shape: of the result.
        quantization: what its bytes mean.
        tensors: its bytes; several are concatenated along the channels.
        pick: rows and columns of the tensors of which only every pick-th belongs to the result.
        floats: the result as float32 in main memory.
    """

    shape: TensorShape
    quantization: TensorQuantization
    tensors: tuple[Tensor, ...] = ()
    pick: Pair = (1, 1)
    floats: MainBuffer | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Where a layer's result can be seen after a run.

    Args:
        layer: index of the float layer.
        quantization: what the bytes mean; None for floats.
        steps: the steps whose results, concatenated along the channels, hold it.
        window: cells of the maps that hold it; None for a dense main-memory tensor.
        pick: as in `Value`.
    """

    layer: int
    quantization: TensorQuantization | None
    steps: tuple[int, ...]
    window: Window | None = None
    pick: Pair = (1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatLowering:
    """A quantised network as steps.

    Args:
        lowered: steps, input map and outputs.
        probes: for every layer whose result can be seen.
        outputs: what the bytes of every output mean; None for floats.
    """

    lowered: LoweredSteps
    probes: tuple[Probe, ...]
    outputs: tuple[TensorQuantization | None, ...]


def legalize_float(model: FloatModel, quantizations: Mapping[int, TensorQuantization],
                   options: LoweringOptions) -> FloatLowering:
    """The steps of a prepared float model.

    Args:
        model: prepared (`quantize_model.prepared`).
        quantizations: of the input and of every result.
        options: choices.

    Raises:
        UserError: E0752, the KPU has no form of a layer.
    """
    return _Walk(model, quantizations, options).run()


@dataclass(slots=True, eq=False)
class _Walk:
    """Lowers one model."""

    model: FloatModel
    quantizations: Mapping[int, TensorQuantization]
    options: LoweringOptions
    builder: QuantizedBuilder = field(default_factory=QuantizedBuilder)
    values: dict[int, Value] = field(default_factory=dict)
    probes: list[Probe] = field(default_factory=list)

    def run(self) -> FloatLowering:
        """Every layer, then the outputs."""
        shape = self.model.input_shape
        input_map, tensor = network_input(shape)
        self.builder.input_map = input_map
        self.values[MODEL_INPUT] = Value(shape=shape, quantization=self.quantizations[MODEL_INPUT],
                                         tensors=(tensor.reshaped(shape),))
        for index, layer in enumerate(self.model.layers):
            if index not in self.values:  # otherwise fused into its source
                with _naming(layer, index):
                    self.values[index] = _HANDLERS[layer.op](self, index, layer)
            self._probe(index)
        outputs, meanings = [], []
        for index in self.model.outputs:
            with _naming(self.model.layers[index], index):
                buffer, meaning = self._output(index)
            outputs.append(buffer)
            meanings.append(meaning)
        self.builder.end_in_main_memory()
        lowered = LoweredSteps(steps=tuple(self.builder.steps), input_map=input_map, results=(),
                               outputs=tuple(outputs))
        return FloatLowering(lowered=lowered, probes=tuple(self.probes), outputs=tuple(meanings))

    # ------------------------------------------------------------------------------------------ places of results

    def carrier(self, index: int) -> Layer:
        """Name and number of a layer, in the form that steps take."""
        shape = self.model.shape_of(index)
        return Layer(name=self.model.layers[index].name, index=index, op=Op.PASSTHROUGH, inputs=(NETWORK_INPUT,),
                     operand_shape=shape, out_shape=shape)

    def tensors(self, source: int, index: int) -> tuple[Tensor, ...]:
        """Bytes of a result, for a layer that reads it."""
        value = self.values[source]
        if not value.tensors:
            value.tensors = (self._quantized(value, index),)
        if value.pick != (1, 1):
            value.tensors = tuple(picked(self.builder, self.carrier(index), t, value.pick) for t in value.tensors)
            value.pick = (1, 1)
        return value.tensors

    def tensor(self, source: int, index: int) -> Tensor:
        """Bytes of a result as one tensor."""
        parts = self.tensors(source, index)
        if len(parts) > 1:
            main = self.builder.concatenated(parts, self.carrier(index))
            parts = (Tensor(shape=self.values[source].shape, main=main),)
            self.values[source].tensors = parts
        return parts[0]

    def floats(self, source: int, index: int) -> MainBuffer:
        """A result as floats, for a layer that reads it."""
        value = self.values[source]
        if value.floats is None:
            carrier = self.carrier(index)
            main = self.builder.main_of(self.tensor(source, index), carrier)
            value.floats = self.builder.new_buffer(value.shape.numel, is_float=True)
            self.builder.append(CpuStep(
                name=f"{carrier.name}: dequantize", layer=index, op=CpuOp.DEQUANTIZE, source=main, target=value.floats,
                scale=_float32(value.quantization.scale), offset=_float32(value.quantization.offset)))
        return value.floats

    def _quantized(self, value: Value, index: int) -> Tensor:
        assert value.floats is not None
        target = self.builder.new_buffer(value.shape.numel)
        self.builder.append(CpuStep(
            name=f"{self.model.layers[index].name}: quantize", layer=index, op=CpuOp.QUANTIZE, source=value.floats,
            target=target, scale=_float32(value.quantization.scale), offset=_float32(value.quantization.offset)))
        return Tensor(shape=value.shape, main=target)

    def float_value(self, index: int, floats: MainBuffer) -> Value:
        """A result that exists as floats only."""
        return Value(shape=self.model.shapes[index], quantization=self.quantizations[index], floats=floats)

    def byte_value(self, index: int, *tensors: Tensor) -> Value:
        """A result that exists as bytes."""
        return Value(shape=self.model.shapes[index], quantization=self.quantizations[index], tensors=tensors)

    def _output(self, index: int) -> tuple[MainBuffer, TensorQuantization | None]:
        value = self.values[index]
        if self.options.float_outputs or not value.tensors:
            return self.floats(index, index), None
        return self.builder.main_of(self.tensor(index, index), self.carrier(index)), value.quantization

    # ------------------------------------------------------------------------------------------ probes

    def _probe(self, index: int) -> None:
        """Remember where a computed result can be seen."""
        value = self.values[index]
        if self.model.layers[index].op in _MOVING:
            return
        if value.floats is not None and not value.tensors:
            step = self.builder.made_by(value.floats.name)
            assert step is not None
            self.probes.append(Probe(layer=index, quantization=None, steps=(step,)))
        elif len(value.tensors) == 1 and (probe := self._byte_probe(index, value)):
            self.probes.append(probe)

    def _byte_probe(self, index: int, value: Value) -> Probe | None:
        (tensor,) = value.tensors
        if tensor.frames:
            frame = tensor.frames[0]
            steps = [self.builder.made_by(part.name) for part in frame.view.parts]
            if all(step is not None and isinstance(self.builder.steps[step], ConvStep) for step in steps):
                return Probe(layer=index, quantization=value.quantization, window=frame.window, pick=value.pick,
                             steps=tuple(step for step in steps if step is not None))
        if tensor.main is not None and (step := self.builder.made_by(tensor.main.name)) is not None:
            return Probe(layer=index, quantization=value.quantization, steps=(step,), pick=value.pick)
        return None

    # ------------------------------------------------------------------------------------------ convolutions

    def convolve(self, index: int, source: int, real: RealConv, geometry: ConvGeometry) -> Value:
        """A convolution; a pooling that could be fused becomes the value of its layer."""
        value = self.values[source]
        carrier = self.carrier(index)
        pooling = self._following_pool(index)
        if value.pick != (1, 1) and value.tensors and geometry.is_pointwise:
            done = convolved(self.builder, carrier, value.tensors, real, replace(geometry, stride=value.pick))
        else:
            pool = pooling[1] if pooling else PoolSpec()
            done = convolved(self.builder, carrier, self.tensors(source, index), real, replace(geometry, pool=pool))
        result = replace(self.byte_value(index, done.tensor), pick=done.pick)
        if pooling and not done.pool.is_identity:
            self.values[pooling[0]] = self.byte_value(pooling[0], done.tensor)
            result.tensors = ()
        return result

    def _following_pool(self, index: int) -> tuple[int, PoolSpec] | None:
        """The pooling by maximum that alone reads a result."""
        readers = self.model.consumers(index)
        if len(readers) != 1 or index in self.model.outputs:
            return None
        layer = self.model.layers[readers[0]]
        if layer.op is not FloatOp.MAX_POOL2D or any(layer.padding):
            return None
        return readers[0], maximum(layer.kernel, layer.stride)

    def real_conv(self, index: int, source: int, weights: QuantizedWeights) -> RealConv:
        """A layer's numbers with these weights."""
        layer = self.model.layers[index]
        bias = np.zeros(len(weights.values)) if layer.bias is None else layer.bias
        return RealConv(weights=weights, bias=bias, source=self.quantizations[source],
                        target=self.quantizations[index], function=layer.activation, falling=self.options.falling)


@contextmanager
def _naming(layer: FloatLayer, index: int) -> Iterator[None]:
    """Refusals get the layer's name."""
    try:
        yield
    except (NotExact, NoForm) as error:
        raise UserError(Diagnostic(
            code="E0752", message=f"k210: {error}", layer=layer.name, layer_index=index, found=layer.op.value,
            help="replace the layer by ones the KPU has (3x3 and 1x1 convolutions, maxima, means up to 3x3)"
        )) from error


def _float32(value: float) -> float:
    """As a file stores it."""
    return float(np.float32(value))


class NoForm(ValueError):
    """The chip has no form of a layer; the message says why."""


_MOVING = frozenset({FloatOp.FLATTEN, FloatOp.RESHAPE, FloatOp.CONCAT, FloatOp.ZERO_PAD2D, FloatOp.DEQUANT})
"""Layers that compute nothing."""


# ------------------------------------------------------------------------------------------------ handlers

def _conv(walk: _Walk, index: int, layer: FloatLayer) -> Value:
    assert layer.weights is not None
    geometry = ConvGeometry(kernel=layer.window, stride=layer.stride, padding=layer.padding, groups=layer.groups)
    (source,) = layer.inputs
    return walk.convolve(index, source, walk.real_conv(index, source, quantized_weights(layer.weights)), geometry)


def _activation(walk: _Walk, index: int, layer: FloatLayer) -> Value:
    (source,) = layer.inputs
    eye = quantized_weights(np.eye(walk.model.shapes[index].channels)[:, :, None, None])
    return walk.convolve(index, source, walk.real_conv(index, source, eye), ConvGeometry())


def _dense(walk: _Walk, index: int, layer: FloatLayer) -> Value:
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


def _float_dense(walk: _Walk, index: int, layer: FloatLayer) -> Value:
    assert layer.weights is not None
    source = walk.floats(layer.inputs[0], index)
    target = walk.builder.new_buffer(len(layer.weights), is_float=True)
    bias = np.zeros(len(layer.weights)) if layer.bias is None else layer.bias
    walk.builder.append(CpuStep(name=layer.name, layer=index, op=CpuOp.FULLY_CONNECTED, source=source, target=target,
                                weights=layer.weights, bias=bias, relu=layer.activation.kind is ActivationKind.RELU))
    return walk.float_value(index, target)


def _max_pool(walk: _Walk, index: int, layer: FloatLayer) -> Value:
    tensor = walk.tensor(layer.inputs[0], index)
    return walk.byte_value(index, max_pooled(walk.builder, walk.carrier(index), tensor,
                                             maximum(layer.kernel, layer.stride), layer.padding))


def _global_max(walk: _Walk, index: int, layer: FloatLayer) -> Value:
    tensor = walk.tensor(layer.inputs[0], index)
    whole = (tensor.shape.height, tensor.shape.width)
    return walk.byte_value(index, max_pooled(walk.builder, walk.carrier(index), tensor, maximum(whole, whole),
                                             (0, 0, 0, 0)))


def _average_pool(walk: _Walk, index: int, layer: FloatLayer) -> Value:
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


def _float_average(walk: _Walk, index: int, layer: FloatLayer) -> Value:
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


def _global_average(walk: _Walk, index: int, layer: FloatLayer) -> Value:
    source = walk.floats(layer.inputs[0], index)
    target = walk.builder.new_buffer(walk.model.shapes[index].channels, is_float=True)
    walk.builder.append(CpuStep(name=layer.name, layer=index, op=CpuOp.GLOBAL_AVERAGE_POOL2D, source=source,
                                target=target))
    return walk.float_value(index, target)


def _softmax(walk: _Walk, index: int, layer: FloatLayer) -> Value:
    source = walk.floats(layer.inputs[0], index)
    shape = walk.model.shapes[index]

    def body(source_address: int, target_address: int) -> Softmax:
        return Softmax(input=source_address, output=target_address, channels=shape.numel)

    target = walk.builder.new_buffer(shape.numel, is_float=True)
    return walk.float_value(index, walk.builder.append_float(
        FloatStep(name=layer.name, layer=index, source=source, target=target, body=body)))


def _dequant(walk: _Walk, index: int, layer: FloatLayer) -> Value:
    return walk.float_value(index, walk.floats(layer.inputs[0], index))


def _add(walk: _Walk, index: int, layer: FloatLayer) -> Value:
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


def _concat(walk: _Walk, index: int, layer: FloatLayer) -> Value:
    target = walk.quantizations[index]
    parts: list[Tensor] = []
    for source in layer.inputs:
        tensors = walk.tensors(source, index)
        if walk.quantizations[source] != target:
            tensors = (_requantized(walk, index, walk.tensor(source, index), walk.quantizations[source]),)
        parts.extend(tensors)
    return walk.byte_value(index, *parts)


def _requantized(walk: _Walk, index: int, tensor: Tensor, given: TensorQuantization) -> Tensor:
    """The same numbers as bytes of another meaning, through a table."""
    target = walk.quantizations[index]

    def stored(values: NDArray[np.int64]) -> NDArray[np.int64]:
        return target.stored(given.real(values + ZERO_POINT)).astype(np.int64) - ZERO_POINT

    return walk.builder.mapped(tensor, walk.carrier(index), stored)


def _reshape(walk: _Walk, index: int, layer: FloatLayer) -> Value:
    source = walk.values[layer.inputs[0]]
    if not source.tensors and source.floats is not None:
        return walk.float_value(index, source.floats)
    return walk.byte_value(index, walk.tensor(layer.inputs[0], index).reshaped(walk.model.shapes[index]))


def _zero_pad(walk: _Walk, index: int, layer: FloatLayer) -> Value:
    tensors = walk.tensors(layer.inputs[0], index)
    shape = walk.model.shapes[index]
    walk.builder.border = walk.quantizations[layer.inputs[0]].zero_point
    top, _, left, _ = layer.padding
    main = walk.builder.padded(tensors, walk.carrier(index), top, left, (shape.height, shape.width))
    return walk.byte_value(index, Tensor(shape=shape, main=main))


_HANDLERS: Mapping[FloatOp, Callable[[_Walk, int, FloatLayer], Value]] = {
    FloatOp.CONV2D: _conv, FloatOp.DENSE: _dense, FloatOp.MAX_POOL2D: _max_pool,
    FloatOp.AVERAGE_POOL2D: _average_pool, FloatOp.GLOBAL_MAX_POOL2D: _global_max,
    FloatOp.GLOBAL_AVERAGE_POOL2D: _global_average, FloatOp.ADD: _add, FloatOp.CONCAT: _concat,
    FloatOp.FLATTEN: _reshape, FloatOp.RESHAPE: _reshape, FloatOp.ZERO_PAD2D: _zero_pad,
    FloatOp.ACTIVATION: _activation, FloatOp.DEQUANT: _dequant, FloatOp.SOFTMAX: _softmax,
}
