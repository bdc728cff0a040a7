"""Network -> steps: which KPU and CPU layers compute a network exactly.

Pooling stands before the convolution in a network layer but behind it in a KPU layer, so it moves into the layer
that produced its input; where that is impossible an identity convolution carries it. Additions become 1x1
convolutions over operands that lie side by side. A final Linear runs on the CPU in float32, which is exact below
2**24. `constraints.check_network` must have passed; start at `legalize`.

Source: spec/k210-kmodel.md sections 13.2, 13.3 and 14.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ai8x.arithmetic import BIAS_SHIFT, INT8
from ai8x.k210.constraints import is_non_negative, lies_in_main_memory, operands_are_non_negative, pool_shape
from ai8x.k210.device import POOL_TYPES
from ai8x.k210.parameters import (
    ZERO_POINT,
    KpuParameters,
    average_weights,
    exact_parameters,
    truncating_average_parameters,
)
from ai8x.k210.steps import (
    ConvStep,
    CpuOp,
    CpuStep,
    KpuMap,
    LayerResult,
    LoweredSteps,
    MainBuffer,
    MapView,
    Step,
    zero_bias,
)
from ai8x.network.ir import NETWORK_INPUT, Activation, Eltwise, Layer, Network, Op, Pool, PoolSpec, TensorShape

_NO_POOL = PoolSpec()


def legalize(network: Network) -> LoweredSteps:
    """The steps of a network that passed `constraints.check_network`.

    Raises:
        NotExact: a layer's numbers exceed what the KPU's registers hold.
    """
    return _Builder(network).build()


def resolve_alias(index: int, network: Network) -> int:
    """The layer whose tensor a plain pass-through repeats (bypass layers exist for the MAX78000's memory only)."""
    while index != NETWORK_INPUT:
        layer = network.layers[index]
        if layer.op is not Op.PASSTHROUGH or layer.eltwise or len(layer.inputs) != 1 or not layer.pool.is_identity:
            break
        index = layer.inputs[0]
    return index


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """A tensor that exists in KPU RAM, as made by a step."""

    map: KpuMap
    step: int


class _Builder:
    """Collects steps in execution order; one instance lowers one network."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._steps: list[Step] = []
        self._tensors: dict[tuple[int, PoolSpec], _Tensor] = {}
        self._vectors: dict[int, MainBuffer] = {}
        self._results: list[LayerResult] = []
        self._adjacent: dict[str, tuple[str, ...]] = {}
        shape = network.input_shape
        self._input = KpuMap(name="input", channels=shape.channels, height=shape.height, width=shape.width)
        self._tensors[NETWORK_INPUT, _NO_POOL] = _Tensor(map=self._input, step=-1)

    def build(self) -> LoweredSteps:
        for layer in self._network.layers:
            if layer.op is Op.LINEAR:
                self._linear(layer)
            elif layer.op is Op.PASSTHROUGH:
                self._passthrough(layer)
            else:
                self._conv(layer)
        outputs = tuple(self._output(index) for index in self._network.outputs)
        return LoweredSteps(steps=tuple(self._steps), input_map=self._input, results=tuple(self._results),
                            outputs=outputs)

    # ------------------------------------------------------------------------------------------ layers

    def _conv(self, layer: Layer) -> None:
        assert layer.conv is not None and layer.weights is not None
        view = self._operand(layer)
        depthwise = layer.conv.groups > 1
        weights = layer.weights if depthwise else spread_channels(layer.weights, view)
        bias = layer.bias.astype(np.int64) << BIAS_SHIFT if layer.bias is not None else zero_bias(len(weights))
        low = 0 if layer.activation is Activation.RELU else INT8.min
        shift = BIAS_SHIFT - layer.output_shift
        pool = _NO_POOL if depthwise else self._fused_pool(layer.index)
        step = self._emit(layer, layer.name, view, exact_parameters(weights, bias, shift=shift, low=low), pool,
                          layer.out_shape, depthwise=depthwise)
        self._made(layer.index, pool, step)

    def _passthrough(self, layer: Layer) -> None:
        source = resolve_alias(layer.index, self._network)
        if source != layer.index:
            made = next((r for r in self._results if r.layer == source), LayerResult(layer=source, step=-1))
            self._results.append(replace(made, layer=layer.index))
            return
        view = self._operand(layer, last_of=layer.index)
        if len(view.parts) > 1:  # a concatenation becomes one map
            step = self._identity(layer, view, _NO_POOL, layer.name)
            self._made(layer.index, _NO_POOL, step)

    def _linear(self, layer: Layer) -> None:
        assert layer.weights is not None
        source = self._vector(layer)
        features = layer.conv_in_channels
        values = MainBuffer(name=f"{layer.name}_in", elements=features, is_float=True)
        self._steps.append(CpuStep(name=f"{layer.name}: dequantize", layer=layer.index, op=CpuOp.DEQUANTIZE,
                                   source=source, target=values, offset=-ZERO_POINT))
        outputs = layer.out_shape.channels
        sums = MainBuffer(name=f"{layer.name}_sums", elements=outputs, is_float=True)
        bias = layer.bias.astype(np.float64) * (1 << BIAS_SHIFT) if layer.bias is not None else np.zeros(outputs)
        wide = layer.output_bits == 32
        self._steps.append(CpuStep(
            name=layer.name, layer=layer.index, op=CpuOp.FULLY_CONNECTED, source=values, target=sums,
            weights=layer.weights.reshape(outputs, features).astype(np.float64), bias=bias,
            relu=layer.activation is Activation.RELU and not wide))
        self._vectors[layer.index] = sums
        if not wide:
            scale = 2.0 ** (BIAS_SHIFT - layer.output_shift)
            result = MainBuffer(name=layer.name, elements=outputs)
            self._steps.append(CpuStep(name=f"{layer.name}: quantize", layer=layer.index, op=CpuOp.QUANTIZE,
                                       source=sums, target=result, scale=scale, offset=-ZERO_POINT * scale))
            self._vectors[layer.index] = result
        self._results.append(LayerResult(layer=layer.index, step=len(self._steps) - 1, wide=wide))

    # ------------------------------------------------------------------------------------------ inputs of layers

    def _operand(self, layer: Layer, *, last_of: int | None = None) -> MapView:
        """What the layer's convolution reads: operands pooled and combined.

        Args:
            layer: the consumer.
            last_of: the layer whose output the combination already is (a pass-through), or None.
        """
        if layer.eltwise is None:
            view = self._side_by_side([self._pooled(i, layer) for i in layer.inputs], layer)
            if last_of is not None and len(view.parts) == 1:
                tensor = self._tensor_of(view.parts[0].name)
                self._made(last_of, _NO_POOL, tensor.step)
            return view
        early = layer.pool if layer.pool_first else _NO_POOL
        maps = [self._pooled(i, layer, early) for i in layer.inputs]
        view = self._side_by_side(maps, layer)
        late = _NO_POOL if layer.pool_first else layer.pool
        return self._combine(layer, view, late, last_of)

    def _combine(self, layer: Layer, view: MapView, late: PoolSpec, last_of: int | None) -> MapView:
        """The element-wise combination as a 1x1 convolution; late pooling is carried where its form allows."""
        own = layer.operand_shape
        fused = self._fused_pool(last_of) if last_of is not None and late.is_identity else late
        carried = fused if self._carries(fused, layer, operands_are_non_negative(layer, self._network)) else _NO_POOL
        parameters = exact_parameters(combination_weights(layer, view), zero_bias(own.channels), shift=0, low=INT8.min)
        shape = TensorShape(own.channels, view.height, view.width)  # early pooling has been done
        step = self._emit(layer, f"{layer.name}: {layer.eltwise.value if layer.eltwise else ''}", view, parameters,
                          carried, shape)
        target = self._conv_step(step).target
        if carried != fused:
            step = self._pool_step(layer, MapView(parts=(target,)), fused)
            target = self._conv_step(step).target
        if last_of is not None:
            self._made(last_of, _NO_POOL if late == fused else fused, step)
        return MapView(parts=(target,))

    def _pooled(self, index: int, layer: Layer, pool: PoolSpec | None = None) -> KpuMap:
        """The map of a producer after this consumer's pooling."""
        pool = layer.pool if pool is None else pool
        source = resolve_alias(index, self._network)
        if (source, pool) not in self._tensors:
            plain = MapView(parts=(self._tensors[source, _NO_POOL].map,))
            step = self._pool_step(layer, plain, pool, producer=source)
            self._tensors[source, pool] = _Tensor(map=self._conv_step(step).target, step=step)
        return self._tensors[source, pool].map

    def _side_by_side(self, maps: list[KpuMap], layer: Layer) -> MapView:
        """Maps as adjacent parts; a map that already has other neighbours is copied first."""
        if len(maps) == 1:
            return MapView(parts=tuple(maps))
        names = tuple(m.name for m in maps)
        taken = [m for m in maps if self._adjacent.get(m.name, names) != names]
        if taken or len(set(names)) != len(names) or self._input in maps:
            parts = []
            for position, source in enumerate(maps):
                step = self._identity(layer, MapView(parts=(source,)), _NO_POOL, f"{layer.name}: copy {position}")
                parts.append(self._conv_step(step).target)
            maps, names = parts, tuple(m.name for m in parts)
        self._adjacent.update(dict.fromkeys(names, names))
        return MapView(parts=tuple(maps))

    def _vector(self, layer: Layer) -> MainBuffer:
        """The main-memory bytes that a Linear reads; a KPU layer that made them gets a main-memory copy."""
        source = resolve_alias(layer.inputs[0], self._network)
        if source in self._vectors:
            return self._vectors[source]
        assert not lies_in_main_memory(layer, self._network)
        return self._to_main(source, layer)

    def _to_main(self, source: int, layer: Layer) -> MainBuffer:
        tensor = self._tensors[source, _NO_POOL]
        if tensor.step < 0:
            step = self._identity(layer, MapView(parts=(tensor.map,)), _NO_POOL, f"{layer.name}: copy")
        else:
            step = tensor.step
        conv = self._conv_step(step)
        if conv.main is None:
            conv = replace(conv, main=MainBuffer(name=f"{conv.target.name}_main", elements=conv.target.size_bytes))
            self._steps[step] = conv
        assert conv.main is not None
        return conv.main

    def _output(self, index: int) -> MainBuffer:
        source = resolve_alias(index, self._network)
        if source in self._vectors:
            return self._vectors[source]
        return self._to_main(source, self._network.layers[index])

    # ------------------------------------------------------------------------------------------ steps

    def _emit(self, layer: Layer, name: str, view: MapView, parameters: KpuParameters, pool: PoolSpec,
              shape: TensorShape, *, depthwise: bool = False, code: int | None = None) -> int:
        """Append a KPU layer and return its step index. ``shape`` is the output before pooling.

        The KPU drops trailing rows and columns that do not fill a step of its pooling (section 6).
        """
        height, width = shape.height // pool.stride[0], shape.width // pool.stride[1]
        index = len(self._steps)
        target = KpuMap(name=f"step{index}", channels=shape.channels, height=height, width=width)
        self._steps.append(ConvStep(
            name=name, layer=layer.index, source=view, target=target, parameters=parameters,
            kernel=parameters.weights.shape[2], depthwise=depthwise, pool=pool_code(pool) if code is None else code))
        return index

    def _identity(self, layer: Layer, view: MapView, pool: PoolSpec, name: str) -> int:
        channels = len(view.positions)
        weights = spread_channels(np.eye(channels, dtype=np.int64)[:, :, None, None], view)
        parameters = exact_parameters(weights, zero_bias(channels), shift=0, low=INT8.min)
        return self._emit(layer, name, view, parameters, pool, TensorShape(channels, view.height, view.width))

    def _pool_step(self, layer: Layer, view: MapView, pool: PoolSpec, producer: int | None = None) -> int:
        """A KPU layer that only pools: an identity, or for averages of any sign the form of section 13.3."""
        positive = (operands_are_non_negative(layer, self._network) if producer is None
                    else is_non_negative(producer, self._network))
        name = f"{layer.name}: pool"
        if pool.kind is not Pool.AVG or self._carries(pool, layer, positive):
            return self._identity(layer, view, pool, name)
        channels = len(view.positions)
        if layer.average_rounded:
            parameters = exact_parameters(average_weights(channels), zero_bias(channels), shift=2, low=INT8.min)
        else:
            parameters = truncating_average_parameters(channels)
        pick = PoolSpec(kind=Pool.NONE, stride=pool.stride)
        return self._emit(layer, name, view, parameters, pick, TensorShape(channels, view.height, view.width))

    def _carries(self, pool: PoolSpec, layer: Layer, positive: bool) -> bool:
        """Whether the KPU's own pooling computes this pooling exactly: averages only truncate values >= 0."""
        if pool.is_identity:
            return True
        return pool.kind is not Pool.AVG or (positive and not layer.average_rounded)

    def _fused_pool(self, index: int) -> PoolSpec:
        """The pooling that every consumer of a layer wants and that its own KPU layer can carry."""
        readers = self._readers(index)
        if not readers or index in self._network.outputs:
            return _NO_POOL
        pools = {r.pool if r.eltwise is None or r.pool_first else _NO_POOL for r in readers}
        pool = pools.pop()
        positive = is_non_negative(index, self._network)
        if pools or pool_shape(pool) is None or not all(self._carries(pool, r, positive) for r in readers):
            return _NO_POOL
        return pool

    def _readers(self, index: int) -> list[Layer]:
        """Consumers of a tensor, looking through pass-through layers that only repeat it."""
        found: list[Layer] = []
        for consumer in self._network.consumers(index):
            if resolve_alias(consumer, self._network) == consumer:
                found.append(self._network.layers[consumer])
            elif consumer in self._network.outputs:
                return []
            else:
                found.extend(self._readers(consumer))
        return found

    def _made(self, index: int, pool: PoolSpec, step: int) -> None:
        target = self._input if step < 0 else self._conv_step(step).target
        self._tensors[index, pool] = _Tensor(map=target, step=step)
        self._results.append(LayerResult(layer=index, step=step, pool=None if pool.is_identity else pool))

    def _conv_step(self, index: int) -> ConvStep:
        step = self._steps[index]
        assert isinstance(step, ConvStep)
        return step

    def _tensor_of(self, name: str) -> _Tensor:
        return next(t for t in self._tensors.values() if t.map.name == name)


def spread_channels(weights: NDArray[np.int64], view: MapView) -> NDArray[np.int64]:
    """Dense weights (out, in, row, column) with zero columns where the view has positions of no channel."""
    wide = np.zeros((len(weights), view.channels, *weights.shape[2:]), np.int64)
    wide[:, list(view.positions)] = weights
    return wide


def combination_weights(layer: Layer, view: MapView) -> NDArray[np.int64]:
    """1x1 weights that add or subtract the operands of a view, channel by channel; section 13.2."""
    channels = layer.operand_shape.channels
    blocks = []
    for operand in range(layer.num_operands):
        sign = -1 if layer.eltwise is Eltwise.SUB and operand else 1
        blocks.append(sign * np.eye(channels, dtype=np.int64))
    return spread_channels(np.concatenate(blocks, axis=1)[:, :, None, None], view)


def pool_code(pool: PoolSpec) -> int:
    """The pool type of section 6 for a pooling that `pool_shape` accepts."""
    if pool.is_identity:
        return 0
    operation = {Pool.MAX: "max", Pool.AVG: "average", Pool.NONE: "pick"}[pool.kind]
    size = pool_shape(pool)
    return next(t.code for t in POOL_TYPES
                if t.operation == operation and t.stride == size and t.window in (size, 1) and t.column == 0)
