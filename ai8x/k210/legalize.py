"""Network -> steps: which KPU and CPU layers compute a network exactly.

Pooling stands before the convolution in a network layer but behind it in a KPU layer, so it moves into the layer that
produced its input where it can. `legalize_conv.py` and `legalize_pool.py` hold the forms, `builder.py` finds or makes
the maps they work on. `constraints.check_network` must have passed; start at `legalize`.

Source: spec/k210-kmodel.md sections 13.2, 13.3 and 14.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ai8x.arithmetic import BIAS_SHIFT, apply_abs
from ai8x.errors import Diagnostic, UserError
from ai8x.k210.builder import ConvWork, StepBuilder, arranged_size, copying_parameters, fold
from ai8x.k210.constraints import is_bitwise, is_non_negative, operands_are_non_negative, runs_in_float
from ai8x.k210.device import K210
from ai8x.k210.forms import EXACT_FORMS, Forms
from ai8x.k210.frames import KERNEL_TAPS, AxisWork, Frame
from ai8x.k210.gather import Dense, Row
from ai8x.k210.legalize_conv import Fused, convolved, with_pool
from ai8x.k210.legalize_pool import PoolRequest, carried_pool, inexact_reason, pooled
from ai8x.k210.parameters import ZERO_POINT, NotExact
from ai8x.k210.steps import (
    ConvStep,
    CpuOp,
    CpuStep,
    Inexact,
    KpuMap,
    LayerResult,
    LoweredSteps,
    MainBuffer,
    MapView,
)
from ai8x.k210.tensors import Tensor, row_shape
from ai8x.network.ir import NETWORK_INPUT, Activation, ConvSpec, Eltwise, Layer, Network, Op, PoolSpec, TensorShape

_NO_POOL = PoolSpec()

_PATCH = KERNEL_TAPS * KERNEL_TAPS
"""Features that one channel of a 3x3 map holds."""


def legalize(network: Network, *, cpu_additions: Set[int] = frozenset(), forms: Forms = EXACT_FORMS) -> LoweredSteps:
    """The steps of a network that passed `constraints.check_network`.

    Args:
        network: what is lowered.
        cpu_additions: indices of the layers whose two operands the CPU adds; `additions.cheapest_steps` chooses them.
        forms: what the user allows.

    Raises:
        UserError: E0360, a layer's numbers or maps exceed what the KPU holds.
    """
    return _Legalizer(network, cpu_additions, forms).run()


def resolve_alias(index: int, network: Network) -> int:
    """The layer whose tensor a plain pass-through repeats (bypass layers exist for the MAX78000's memory only)."""
    while index != NETWORK_INPUT:
        layer = network.layers[index]
        repeats = layer.op is Op.PASSTHROUGH and not layer.eltwise and len(layer.inputs) == 1 and layer.pool.is_identity
        if not repeats or layer.out_shape != network.shape_of(layer.inputs[0]):
            break
        index = layer.inputs[0]
    return index


def in_rows(layer: Layer) -> Layer:
    """A layer on one-dimensional data (C, L, 1) as the same layer on rows (C, 1, L); any other layer as it is."""
    shape = layer.operand_shape
    if shape.width > 1 or shape.height == 1 or layer.out_shape.width > 1:
        return layer
    conv, weights = layer.conv, layer.weights
    if conv is not None:
        conv = replace(conv, kernel=conv.kernel[::-1], padding=conv.padding[::-1], stride=conv.stride[::-1],
                       dilation=conv.dilation[::-1])
    if weights is not None:
        weights = weights.swapaxes(2, 3)
    out = layer.out_shape
    return replace(layer, operand_shape=row_shape(shape), pool=turned(layer.pool), conv=conv, weights=weights,
                   out_shape=TensorShape(out.channels, out.width, out.height))


@contextmanager
def _naming(layer: Layer) -> Iterator[None]:
    """Refusals of numbers and maps get the layer's name and place."""
    try:
        yield
    except NotExact as error:
        raise UserError(Diagnostic(
            code="E0360", message=f"k210: {error}", source=layer.source, layer=layer.name, layer_index=layer.index,
            found=f"an input of {layer.operand_shape}", allowed="numbers and maps that the KPU holds exactly",
            help="make the layer smaller, or use --target max78000")) from error


def turned(pool: PoolSpec) -> PoolSpec:
    """The same pooling with rows and columns exchanged."""
    return replace(pool, window=pool.window[::-1], stride=pool.stride[::-1], dilation=pool.dilation[::-1])


class _Legalizer:
    """Walks the layers in order; one instance lowers one network."""

    def __init__(self, network: Network, cpu_additions: Set[int], forms: Forms) -> None:
        self._network = network
        self._cpu_additions = cpu_additions
        self._builder = StepBuilder(forms)
        self._inexact: list[Inexact] = []
        self._tensors: dict[tuple[int, PoolSpec], Tensor] = {}
        self._results: list[LayerResult] = []
        self._floats: dict[int, MainBuffer] = {}
        self._input_map, tensor = network_input(network.input_shape)
        self._builder.input_map = self._input_map
        self._tensors[NETWORK_INPUT, _NO_POOL] = tensor

    def run(self) -> LoweredSteps:
        for layer in self._network.layers:
            with _naming(layer):
                self._layer(layer)
        outputs = tuple(self._output(self._network.layers[index]) for index in self._network.outputs)
        self._end_in_main_memory()
        return LoweredSteps(steps=tuple(self._builder.steps), input_map=self._input_map,
                            results=tuple(self._results), outputs=outputs, inexact=tuple(self._inexact))

    def _layer(self, original: Layer) -> None:
        source = resolve_alias(original.index, self._network)
        if source != original.index:
            self._repeat(original, source)
            return
        layer = in_rows(original)
        if layer.op is Op.PASSTHROUGH:
            tensor, pool = self._passthrough(layer)
        elif runs_in_float(layer):
            self._linear(layer)
            return
        else:
            done = convolved(self._builder, self._flattened(layer), self._features(layer), self._fused(layer))
            tensor, pool = done.tensor, done.pool
        self._made(layer, tensor, pool)

    def _passthrough(self, layer: Layer) -> tuple[Tensor, PoolSpec]:
        """A layer without weights; a combination may do its consumers' pooling at once."""
        fused = self._fused(layer)
        if layer.eltwise is not None and (layer.pool_first or layer.pool.is_identity) and fused:
            return self._combined(layer, self._eltwise_operands(layer), fused), fused.pool
        operands = self._operands(layer)
        return operands[0] if len(operands) == 1 else self._builder.identity(operands, layer, layer.name), _NO_POOL

    # ------------------------------------------------------------------------------------------ results

    def _repeat(self, layer: Layer, source: int) -> None:
        """A pass-through shows what its source shows."""
        if source == NETWORK_INPUT:
            self._results.append(LayerResult(layer=layer.index, steps=()))
            return
        self._results.append(replace(self._results[source], layer=layer.index))

    def _made(self, layer: Layer, tensor: Tensor, pool: PoolSpec) -> None:
        """Remember a layer's tensor and where it can be seen."""
        assert not pool.is_identity or tensor.shape == layer.out_shape, f"{layer.name}: {tensor.shape}"
        self._tensors[layer.index, pool] = tensor.reshaped(row_shape(tensor.shape)) if pool.is_identity else tensor
        made = [self._builder.made_by(part.name) for frame in tensor.frames[:1] for part in frame.view.parts]
        steps = tuple(index for index in made if index is not None)
        is_turned = layer.out_shape != self._network.layers[layer.index].out_shape
        seen = None if pool.is_identity else turned(pool) if is_turned else pool
        if steps and all(isinstance(self._builder.steps[index], ConvStep) for index in steps):
            self._results.append(LayerResult(layer=layer.index, steps=steps, window=tensor.frames[0].window, pool=seen))
            return
        step = self._builder.made_by(self._builder.main_of(tensor, layer).name)
        assert step is not None
        self._results.append(LayerResult(layer=layer.index, steps=(step,), pool=seen))

    def _output(self, layer: Layer) -> MainBuffer:
        source = resolve_alias(layer.index, self._network)
        if source in self._floats:
            return self._floats[source]
        with _naming(layer):
            return self._builder.main_of(self._tensors[source, _NO_POOL], layer)

    def _end_in_main_memory(self) -> None:
        """The runner ends only behind a layer whose result leaves the KPU; section 8.1."""
        last = self._builder.steps[-1]
        if isinstance(last, ConvStep) and last.main is None:
            main = self._builder.new_buffer(last.target.size_bytes)
            self._builder.steps[-1] = replace(last, main=main)

    # ------------------------------------------------------------------------------------------ inputs of layers

    def _read(self, index: int, layer: Layer) -> Tensor:
        """A source as the layer reads it: cropped, in the layer's rows and columns."""
        source = self._tensors[resolve_alias(index, self._network), _NO_POOL]
        start, end = layer.in_crop
        original = row_shape(self._network.shape_of(index))
        if start or end:
            upright = original.height == 1 and self._network.shape_of(index).height > 1
            source = source.reshaped(original)
            if upright:
                source = source.part(0, start, 1, original.width - start - end)
            else:
                source = source.part(start, 0, original.height - start - end, original.width)
        shape = layer.operand_shape
        return source.reshaped(TensorShape(source.shape.channels, shape.height, shape.width))

    def _pooled(self, index: int, layer: Layer, pool: PoolSpec) -> Tensor:
        """A source after the layer's pooling."""
        key = (resolve_alias(index, self._network), pool)
        if pool.is_identity:
            return self._read(index, layer)
        if self._reads_whole(index, layer) and key in self._tensors:
            return self._tensors[key]
        reads_whole = self._reads_whole(index, layer)
        request = PoolRequest(layer=layer, pool=pool, non_negative=is_non_negative(index, self._network),
                              may_be_inexact=reads_whole)
        tensor = pooled(self._builder, self._read(index, layer), request)
        if tensor.bound:
            self._note_inexact(key, tensor, inexact_reason(request, layer.operand_shape))
        if reads_whole:
            self._tensors[key] = tensor
        return tensor

    def _note_inexact(self, key: tuple[int, PoolSpec], tensor: Tensor, reason: str) -> None:
        assert tensor.main is not None
        step = self._builder.made_by(tensor.main.name)
        assert step is not None
        self._inexact.append(Inexact(source=key[0], pool=key[1], step=step, bound=tensor.bound, reason=reason))

    def _reads_whole(self, index: int, layer: Layer) -> bool:
        shape, operand = row_shape(self._network.shape_of(index)), layer.operand_shape
        return layer.in_crop == (0, 0) and (shape.height, shape.width) == (operand.height, operand.width)

    def _operands(self, layer: Layer) -> list[Tensor]:
        """What the layer's convolution reads: pooled, combined."""
        if layer.eltwise is None:
            return [self._pooled(index, layer, layer.pool) for index in layer.inputs]
        tensors = self._eltwise_operands(layer)
        if layer.pool_first or layer.pool.is_identity:
            return [self._combined(layer, tensors)]
        request = PoolRequest(layer=layer, pool=layer.pool,
                              non_negative=operands_are_non_negative(layer, self._network))
        shape = layer.operand_shape
        size = layer.pool.output_size(shape.height, shape.width)
        carried = carried_pool(layer.pool, size, floor_is_exact=request.floor_is_exact)
        if carried and not self._combines_on_cpu(layer):
            return [self._combined(layer, tensors, Fused(pool=layer.pool, carried=carried, size=size))]
        return [pooled(self._builder, self._combined(layer, tensors), request)]

    def _combines_on_cpu(self, layer: Layer) -> bool:
        return layer.index in self._cpu_additions or is_bitwise(layer)

    def _eltwise_operands(self, layer: Layer) -> list[Tensor]:
        early = layer.pool if layer.pool_first else _NO_POOL
        return [self._pooled(index, layer, early) for index in layer.inputs]

    def _combined(self, layer: Layer, tensors: list[Tensor], fused: Fused | None = None) -> Tensor:
        """The element-wise combination as a 1x1 convolution of the operands, or on the CPU; section 13.2.

        Args:
            layer: the layer that combines.
            tensors: its operands.
            fused: pooling to be done behind it.
        """
        assert layer.eltwise is not None
        if self._combines_on_cpu(layer):
            return self._builder.combined(tensors, layer, layer.eltwise)
        unique = list(dict.fromkeys(tensors))
        channels = layer.operand_shape.channels
        factors = dict.fromkeys(unique, 0)
        for position, tensor in enumerate(tensors):
            factors[tensor] += -1 if layer.eltwise is Eltwise.SUB and position else 1
        eye = np.eye(channels, dtype=np.int64)
        weights = np.concatenate([factors[tensor] * eye for tensor in unique], axis=1)[:, :, None, None]
        shape = tensors[0].shape
        work = ConvWork(name=f"{layer.name}: {layer.eltwise.value}", layer=layer, weights=weights,
                        rows=AxisWork(length=shape.height, count=shape.height),
                        columns=AxisWork(length=shape.width, count=shape.width), parameters=copying_parameters)
        result = self._builder.convolve(unique, with_pool(work, fused) if fused else work)
        assert result is not None
        return result

    # ------------------------------------------------------------------------------------------ pooling of consumers

    def _fused(self, layer: Layer) -> Fused | None:
        """The pooling that every consumer of a layer wants and that a KPU layer computes exactly."""
        readers = self._readers(layer.index)
        if not readers or layer.index in self._network.outputs or self._combines_on_cpu(layer):
            return None
        pools = {r.pool if r.eltwise is None or r.pool_first else _NO_POOL for r in readers}
        pool = pools.pop()
        shape = layer.out_shape
        whole = all((r.operand_shape.height, r.operand_shape.width, r.in_crop) == (shape.height, shape.width, (0, 0))
                    for r in readers)
        if pools or pool.is_identity or not whole:
            return None
        size = pool.output_size(shape.height, shape.width)
        floors = is_non_negative(layer.index, self._network) and not any(r.average_rounded for r in readers)
        carried = carried_pool(pool, size, floor_is_exact=floors)
        return Fused(pool=pool, carried=carried, size=size) if carried else None

    def _readers(self, index: int) -> list[Layer]:
        """Consumers of a tensor, looking through pass-through layers that only repeat it."""
        found: list[Layer] = []
        for consumer in self._network.consumers(index):
            if resolve_alias(consumer, self._network) == consumer:
                found.append(in_rows(self._network.layers[consumer]))
            elif consumer in self._network.outputs:
                return []
            else:
                found.extend(self._readers(consumer))
        return found

    # ------------------------------------------------------------------------------------------ Linear

    def _flattened(self, layer: Layer) -> Layer:
        """A Linear on features as a convolution of a 1x1 map, or of a 3x3 map where the features are too many."""
        if not reads_features(layer):
            return layer
        assert layer.weights is not None
        features = layer.conv_in_channels
        if features <= K210.limits.max_channels:
            return replace(layer, operand_shape=TensorShape(features, 1, 1), flatten=False, pool=_NO_POOL, eltwise=None,
                           inputs=layer.inputs[:1])
        channels = -(-features // _PATCH)
        weights = np.zeros((len(layer.weights), channels * _PATCH), np.int64)
        weights[:, :features] = layer.weights.reshape(len(weights), features)
        patches = TensorShape(channels, KERNEL_TAPS, KERNEL_TAPS)
        return replace(layer, op=Op.CONV2D, operand_shape=patches, flatten=False, pool=_NO_POOL, eltwise=None,
                       conv=ConvSpec(kernel=(KERNEL_TAPS, KERNEL_TAPS)), inputs=layer.inputs[:1],
                       weights=weights.reshape(len(weights), *patches.as_tuple()))

    def _features(self, layer: Layer) -> list[Tensor]:
        """What the convolution of `_flattened` reads."""
        operands, features = self._operands(layer), layer.conv_in_channels
        if not reads_features(layer):
            return operands
        if len(operands) > 1:
            vector = Tensor(shape=TensorShape(features, 1, 1), main=self._builder.concatenated(operands, layer))
        else:
            vector = operands[0].reshaped(TensorShape(features, 1, 1))
        if features <= K210.limits.max_channels or runs_in_float(layer):
            return [vector]
        channels = -(-features // _PATCH)
        source = Dense(buffer=self._builder.main_of(vector, layer), shape=TensorShape(1, 1, features))
        patches = TensorShape(channels, KERNEL_TAPS, KERNEL_TAPS)
        row = TensorShape(1, 1, patches.numel)
        padded = self._builder.gather(source, [Row(0, 0, 0)], row, f"{layer.name}: pad", layer)
        return [Tensor(shape=patches, main=padded)]

    def _linear(self, layer: Layer) -> None:
        """FULLY_CONNECTED on whole numbers below 2**24, which float32 holds exactly; section 13.2."""
        assert layer.weights is not None
        features = self._builder.concatenated(self._features(layer), layer)
        inputs, outputs = layer.conv_in_channels, layer.out_shape.channels
        values = self._builder.new_buffer(inputs, is_float=True)
        self._builder.append(CpuStep(name=f"{layer.name}: dequantize", layer=layer.index, op=CpuOp.DEQUANTIZE,
                                     source=features, target=values, offset=-ZERO_POINT))
        sums = self._builder.new_buffer(outputs, is_float=True)
        wide = layer.output_bits != 8
        bias = np.zeros(outputs) if layer.bias is None else layer.bias.astype(np.float64) * (1 << BIAS_SHIFT)
        index = self._builder.append(CpuStep(
            name=layer.name, layer=layer.index, op=CpuOp.FULLY_CONNECTED, source=values, target=sums,
            weights=layer.weights.reshape(outputs, inputs).astype(np.float64), bias=bias,
            relu=layer.activation is Activation.RELU and not wide))
        if wide:
            self._floats[layer.index] = sums
            self._results.append(LayerResult(layer=layer.index, steps=(index,), wide=True))
            return
        self._made(layer, self._quantized(layer, sums), _NO_POOL)

    def _quantized(self, layer: Layer, sums: MainBuffer) -> Tensor:
        """Sums as bytes; Abs by a table."""
        scale = 2.0 ** (BIAS_SHIFT - layer.output_shift)
        target = self._builder.new_buffer(sums.elements)
        self._builder.append(CpuStep(name=f"{layer.name}: quantize", layer=layer.index, op=CpuOp.QUANTIZE, source=sums,
                                     target=target, scale=scale, offset=-ZERO_POINT * scale))
        tensor = Tensor(shape=layer.out_shape, main=target)
        return self._builder.mapped(tensor, layer, absolute) if layer.activation is Activation.ABS else tensor


def reads_features(layer: Layer) -> bool:
    """Whether a Linear reads a vector: a flattened map, or more channels than a KPU layer of a 1x1 map."""
    return layer.op is Op.LINEAR and (layer.flatten or layer.pooled_shape.height * layer.pooled_shape.width == 1)


def absolute(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Absolute values, limited as an activation is."""
    return np.asarray(apply_abs(values), np.int64)


def network_input(shape: TensorShape) -> tuple[KpuMap, Tensor]:
    """The map that receives the image, and the network's input in it.

    The runner writes the image in the rows and columns of the first KPU layer, which has at least 4x4 cells: other
    shapes are folded into such a map, and padded with a few bytes at the end where their size has no such factors.
    """
    limits = K210.limits
    tensor_shape = row_shape(shape)
    size = arranged_size(tensor_shape)
    if size is not None and shape.channels <= limits.max_channels:
        input_map = KpuMap(name="input", channels=shape.channels, height=size[0], width=size[1])
        return input_map, Tensor(shape=tensor_shape, frames=[_whole(input_map)])
    block = limits.min_map * limits.min_map
    count = -(-tensor_shape.numel // block)
    size = fold(block * count, 1) or (limits.min_map, limits.min_map)
    total = -(-tensor_shape.numel // (size[0] * size[1]))
    input_map = KpuMap(name="input", channels=total, height=size[0], width=size[1])
    raw = Tensor(shape=TensorShape(total, *size), frames=[_whole(input_map)])
    return input_map, Tensor(shape=tensor_shape, origin=raw, is_prefix=True)


def _whole(place: KpuMap) -> Frame:
    return Frame(view=MapView(parts=(place,)), height=place.height, width=place.width)
