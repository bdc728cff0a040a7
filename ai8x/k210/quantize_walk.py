"""Walks the layers of a quantised float network and keeps where every result exists.

A result exists as bytes (in KPU maps or main memory), as floats (in main memory), or as both. `quantize_lower.py` says
what is done for a layer. Start at `Walk`.

Source: spec/k210-kmodel.md sections 9, 13.2 and 14.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from ai8x.errors import Diagnostic, UserError
from ai8x.k210.activation import Falling
from ai8x.k210.legalize import network_input
from ai8x.k210.parameters import NotExact
from ai8x.k210.quantize_calibration import TensorQuantization
from ai8x.k210.quantize_conv import ConvGeometry, convolved, maximum, picked
from ai8x.k210.quantize_model import MODEL_INPUT, FloatLayer, FloatModel, FloatOp, Pair
from ai8x.k210.quantize_parameters import QuantizedWeights, RealConv
from ai8x.k210.quantize_steps import QuantizedBuilder
from ai8x.k210.steps import ConvStep, CpuOp, CpuStep, LoweredSteps, MainBuffer, Window
from ai8x.k210.tensors import Tensor
from ai8x.network.ir import NETWORK_INPUT, Layer, Op, PoolSpec, TensorShape

_MOVING = frozenset({FloatOp.FLATTEN, FloatOp.RESHAPE, FloatOp.CONCAT, FloatOp.ZERO_PAD2D, FloatOp.DEQUANT})
"""Layers that compute nothing."""


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


@dataclass(slots=True, eq=False)
class Walk:
    """Lowers one model, layer by layer, and knows where every result is.

    Args:
        model: prepared.
        quantizations: of the input and of every result.
        options: choices.
        builder: collects the steps.
        values: results so far.
        probes: where they can be seen.
    """

    model: FloatModel
    quantizations: Mapping[int, TensorQuantization]
    options: LoweringOptions
    builder: QuantizedBuilder = field(default_factory=QuantizedBuilder)
    values: dict[int, Value] = field(default_factory=dict)
    probes: list[Probe] = field(default_factory=list)

    def run(self, handlers: Mapping[FloatOp, Handler]) -> FloatLowering:
        """Every layer, then the outputs."""
        shape = self.model.input_shape
        input_map, tensor = network_input(shape)
        self.builder.input_map = input_map
        self.values[MODEL_INPUT] = Value(shape=shape, quantization=self.quantizations[MODEL_INPUT],
                                         tensors=(tensor.reshaped(shape),))
        for index, layer in enumerate(self.model.layers):
            if index not in self.values:  # otherwise fused into its source
                with _naming(layer, index):
                    self.values[index] = handlers[layer.op](self, index, layer)
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
            code="E0772", message=f"k210: {error}", layer=layer.name, layer_index=index, found=layer.op.value,
            help="replace the layer by ones the KPU has (3x3 and 1x1 convolutions, maxima, means up to 3x3)"
        )) from error


def _float32(value: float) -> float:
    """As a file stores it."""
    return float(np.float32(value))


class NoForm(ValueError):
    """The chip has no form of a layer; the message says why."""


Handler = Callable[[Walk, int, FloatLayer], Value]
"""Lowers one layer: the walk, its index, the layer."""
