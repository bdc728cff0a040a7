"""A network and its placement while they are being drawn, layer by layer. Start at `Sketch`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ai8x.arithmetic import weight_type
from ai8x.max7800x.lower import LowerOptions
from ai8x.max7800x.placement import BufferPlacement, LayerPlacement, Placement, channel_passes
from ai8x.network.ir import (
    NETWORK_INPUT,
    Activation,
    ConvSpec,
    Layer,
    Network,
    Op,
    Pool,
    PoolSpec,
    RollingBuffer,
    TensorShape,
)

MEMORY_BYTES = 0x8000
NO_POOL = PoolSpec()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A drawn network with everything that a run needs."""

    kind: str
    number: int
    network: Network
    placement: Placement
    sample: np.ndarray
    options: LowerOptions


@dataclass(slots=True)
class Tensor:
    """A tensor that was drawn: who makes it, its shape, and where it lies."""

    index: int
    shape: TensorShape
    processors: int
    offset: int


@dataclass(slots=True)
class Sketch:
    """A half-drawn network.

    Args:
        rng: source of every choice.
        shape: of the network's input.
        input_map: processors of the input; drawn where it is 0.
    """

    rng: np.random.Generator
    shape: TensorShape
    input_map: int = 0
    layers: list[Layer] = field(default_factory=list)
    places: list[LayerPlacement] = field(default_factory=list)
    cursor: int = 0
    placement: dict[str, Any] = field(default_factory=dict)
    buffer: RollingBuffer | None = None
    rounded: bool = False

    def __post_init__(self) -> None:
        self.input_map = self.input_map or self.processors(self.shape.channels)
        self.rounded = self.chance(0.3)

    @property
    def source(self) -> Tensor:
        """The network's input; takes memory on first use."""
        if self.cursor == 0:
            self.reserve(self.shape)
        return Tensor(NETWORK_INPUT, self.shape, self.input_map, 0)

    def pick(self, *choices: Any) -> Any:
        """One of these."""
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.rng.random() < probability)

    def between(self, low: int, high: int) -> int:
        """An integer, both ends included, the ends more often than the middle."""
        if self.chance(0.25):
            return int(self.pick(low, high))
        return int(self.rng.integers(low, high, endpoint=True))

    def reserve(self, shape: TensorShape, *, words: int = 1) -> int:
        """Memory for a tensor with so many words per pixel and pass: its offset."""
        size = 4 * shape.height * shape.width * channel_passes(shape.channels)[0] * words
        if self.chance(0.1) and self.cursor:
            return 4 * self.between(0, (MEMORY_BYTES - 4) // 4)
        offset: int = self.cursor + 4 * self.pick(0, 0, 0, 1, 5)
        self.cursor = offset + size
        return min(offset, MEMORY_BYTES - 4)

    def processors(self, channels: int, *, anywhere: bool = False) -> int:
        """Neighbouring processors for a tensor."""
        _, share = channel_passes(channels)
        step = 1 if anywhere and channels <= 64 and self.chance(0.3) else 4
        # Some layer must use quadrant 0.
        start = 0 if self.chance(0.4) else step * int(self.rng.integers((64 - share) // step + 1))
        return ((1 << share) - 1) << start

    def parameters(self, outputs: int, features: int, conv: ConvSpec, *, bits: int = 0) -> dict[str, Any]:
        """Weights, bias and a shift that mostly keeps values in range."""
        bits = bits or self.pick(8, 8, 4, 2, 1)
        kind = weight_type(bits)
        pattern = self.pick("random", "random", "random", "random", "least", "sparse")
        weights = self.rng.integers(kind.min, kind.max, (outputs, features, *conv.kernel), endpoint=True)
        if pattern == "least":
            weights = np.full_like(weights, kind.min)
        elif pattern == "sparse":
            weights = weights * (self.rng.random(weights.shape) < 0.2)
        fan_in = features * conv.kernel[0] * conv.kernel[1]
        fitting = 8 - bits - round(0.5 * math.log2(fan_in)) + self.pick(-1, 0, 1)
        shift = self.between(-15, 15) if self.chance(0.1) else max(-15, min(15, fitting))
        bias = self.rng.integers(-128, 127, outputs, endpoint=True) if self.chance(0.5) else None
        return {"weights": weights, "weight_bits": bits, "output_shift": shift, "bias": bias}

    def pool(self, height: int, width: int, *, largest: int = 4, is_1d: bool = False) -> PoolSpec:
        """Pooling or subsampling that fits, or none."""
        kind = self.pick(Pool.NONE, Pool.NONE, Pool.MAX, Pool.AVG)
        stride = self.between(1, largest) if kind is not Pool.NONE or self.chance(0.2) else 1
        rows, columns = (1, 1) if kind is Pool.NONE else (self.between(1, largest), self.between(1, largest))
        columns = 1 if is_1d else columns
        if rows > height or columns > width:
            return NO_POOL
        return PoolSpec(kind=kind, window=(rows, columns), stride=(stride, 1 if is_1d else stride))

    def append(self, source: Tensor, layer: dict[str, Any], place: dict[str, Any] | None = None, *,
               gap: int = 0) -> Tensor:
        """Add a layer that reads a tensor; output map and offset are drawn unless `place` has them."""
        index = len(self.layers)
        attributes: dict[str, Any] = {"name": f"layer{index}", "index": index, "inputs": (source.index,),
                                      "operand_shape": source.shape, "average_rounded": self.rounded} | layer
        made = Layer(**attributes)
        chosen: dict[str, Any] = {"processors": source.processors, "in_offset": source.offset, "write_gap": gap}
        chosen |= place or {}
        if "output_processors" not in chosen:
            is_pass = made.op is Op.PASSTHROUGH
            chosen["output_processors"] = source.processors if is_pass else self.processors(
                made.out_shape.channels, anywhere=True)
        if "out_offset" not in chosen:
            chosen["out_offset"] = self.reserve(made.out_shape, words=made.output_bits // 8 * (gap + 1))
        self.layers.append(made)
        self.places.append(LayerPlacement(**chosen))
        return Tensor(index, made.out_shape, chosen["output_processors"], chosen["out_offset"])

    def conv(self, source: Tensor, outputs: int, conv: ConvSpec, *, op: Op = Op.CONV2D, pool: PoolSpec = NO_POOL,
             changes: dict[str, Any] | None = None, place: dict[str, Any] | None = None, gap: int = 0) -> Tensor:
        """Add a convolution."""
        height, width = pool.output_size(source.shape.height, source.shape.width)
        size = conv.output_size(height, width, is_transposed=op is Op.CONV_TRANSPOSE2D)
        wide = not gap and self.chance(0.08)
        fields = {"op": op, "pool": pool, "conv": conv, "out_shape": TensorShape(outputs, *size),
                  "activation": Activation.NONE if wide else self.pick(*Activation), "output_bits": 32 if wide else 8,
                  **self.parameters(outputs, source.shape.channels // conv.groups, conv)}
        return self.append(source, fields | (changes or {}), place, gap=gap)

    def copy(self, source: Tensor, *, pool: PoolSpec = NO_POOL, changes: dict[str, Any] | None = None,
             place: dict[str, Any] | None = None, gap: int = 0) -> Tensor:
        """Add a pass layer."""
        size = pool.output_size(source.shape.height, source.shape.width)
        fields = {"op": Op.PASSTHROUGH, "pool": pool, "out_shape": TensorShape(source.shape.channels, *size)}
        return self.append(source, fields | (changes or {}), place, gap=gap)

    def linear(self, source: Tensor, outputs: int) -> Tensor:
        """Add a flattening Linear."""
        wide = self.chance(0.5)
        fields = {"op": Op.LINEAR, "conv": ConvSpec(), "flatten": True, "out_shape": TensorShape(outputs, 1, 1),
                  "output_bits": 32 if wide else 8, **self.parameters(outputs, source.shape.numel, ConvSpec())}
        return self.append(source, fields)

    def spec_2d(self, height: int, width: int) -> ConvSpec:
        """A Conv2d kernel that fits."""
        size = self.pick(1, 3, 3)
        pad = min(self.between(0, 2), size - 1)
        return ConvSpec(kernel=(size, size), padding=(pad, pad)) if min(height, width) + 2 * pad >= size else ConvSpec()

    def finish(self, kind: str, number: int, *, outputs: tuple[int, ...] = ()) -> Case:
        """The case; shifts and options are complete then."""
        layers = [replace(layer, output_shift=0) if layer.conv is None else layer for layer in self.layers]
        network = Network(name="differential", input_shape=self.shape, layers=tuple(layers), outputs=outputs,
                          buffer=self.buffer)
        options = LowerOptions(express=not self.chance(0.15), write_zero_registers=self.chance(0.1),
                               stop_start=self.chance(0.1), zero_memories=self.chance(0.05),
                               power_down_unused=self.chance(0.1))
        sample = self.rng.integers(-128, 127, self.shape.as_tuple(), endpoint=True)
        return Case(kind=kind, number=number, network=network, options=options, sample=sample,
                    placement=Placement(layers=tuple(self.places), **self.placement))

    def keep_buffer(self, buffer: RollingBuffer, processors: int) -> int:
        """Give the network a rolling buffer; returns its offset."""
        self.buffer = buffer
        offset = self.cursor
        self.cursor += 4 * buffer.num_pixels * channel_passes(buffer.shape.channels)[0]
        self.placement["buffer"] = BufferPlacement(processors=processors, offset=offset)
        return offset
