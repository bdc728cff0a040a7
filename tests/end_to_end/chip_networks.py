"""Random networks that the chips can run: layers within the limits, with processors and offsets on the MAX78000.

Built from blocks (a plain layer, a residual addition, a concatenation), so that most of what is drawn is legal; what is
not is told by the package's own checks and left out by the tests, which count what remains.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ai8x.arithmetic import weight_type
from ai8x.max7800x.placement import DataFormat, LayerPlacement, Placement
from ai8x.network.ir import (
    NETWORK_INPUT,
    Activation,
    ConvSpec,
    Eltwise,
    Layer,
    Network,
    Op,
    Pool,
    PoolSpec,
    TensorShape,
)
from tests.strategies import integer_arrays, network_yaml

FOCUSES = ("anything", "Conv1d", "ConvTranspose2d", "element-wise", "concatenation", "several passes")
"""What a profile can ask to be present for certain."""

REGIONS = (0x0000, 0x2000, 0x4000, 0x6000)
"""Places in data memory that layers take in turn; every tensor drawn is smaller than the distance."""

LANES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What to draw.

    Args:
        kpu: keep to what the K210's KPU can do exactly.
        focus: of `FOCUSES`.
        max_blocks: blocks before the final layer.
        max_channels: of hidden tensors.
    """

    kpu: bool = False
    focus: str = "anything"
    max_blocks: int = 3
    max_channels: int = 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placed:
    """A network with its placement on the MAX78000 and a sample."""

    network: Network
    placement: Placement
    sample: np.ndarray

    def __repr__(self) -> str:
        return f"{self.yaml()}\nshifts and bits: {[(x.output_shift, x.weight_bits) for x in self.network.layers]}"

    def yaml(self) -> str:
        """The network file, placement included."""
        head, *layers = network_yaml(self.network).split("\n  - ")
        blocks = [f"{block.rstrip()}\n{self._keys(layer, place)}"
                  for block, layer, place in zip(layers, self.network.layers, self.placement.layers, strict=True)]
        return "\n  - ".join([head, *blocks]) + "\n"

    def _keys(self, layer: Layer, place: LayerPlacement) -> str:
        keys = {"name": layer.name, "processors": hex(place.processors),
                "output_processors": hex(place.output_processors), "in_offset": hex(place.in_offset),
                "out_offset": hex(place.out_offset), "write_gap": place.write_gap}
        if layer.index == 0:
            keys["data_format"] = place.data_format.value
        return "\n".join(f"    {key}: {value}" for key, value in keys.items())


@dataclass(slots=True)
class Tensor:
    """A tensor while the network is being drawn: who makes it, and where it lies."""

    index: int
    shape: TensorShape
    processors: int
    offset: int


@dataclass(slots=True)
class Drawing:
    """A half-drawn network; layers are added in order."""

    draw: st.DrawFn
    profile: Profile
    layers: list[Layer] = field(default_factory=list)
    places: list[LayerPlacement] = field(default_factory=list)
    region: int = 0

    def pick(self, *choices: Any) -> Any:
        """One of these."""
        return self.draw(st.sampled_from(choices))

    def one_in(self, count: int) -> bool:
        """True in one of so many cases."""
        return int(self.draw(st.integers(1, count))) == count

    def next_offset(self) -> int:
        """Where the next output goes: another region, mostly at its start."""
        self.region = (self.region + 1) % len(REGIONS)
        return REGIONS[self.region] + 4 * int(self.draw(st.sampled_from((0, 0, 1, 7, 64))))

    def processor_map(self, channels: int, *, aligned: bool = False, highest: int = 64) -> int:
        """Processors for a tensor: side by side, from a multiple of 4 or (in one pass) from anywhere."""
        passes = math.ceil(channels / 64)
        share = channels if passes == 1 else math.ceil(math.ceil(channels / passes) / LANES) * LANES
        start = int(self.draw(st.integers(0, min(highest, 64 - share) // LANES))) * LANES
        if passes == 1 and not aligned and self.one_in(5):
            start = int(self.draw(st.integers(0, 64 - share)))
        return ((1 << share) - 1) << start

    def add(self, layer: Layer, place: LayerPlacement) -> Tensor:
        """Append a layer."""
        self.layers.append(layer)
        self.places.append(place)
        return Tensor(layer.index, layer.out_shape, place.output_processors, place.out_offset)


# --- single layers ------------------------------------------------------------------------------------------------

def pool_spec(drawing: Drawing, height: int, width: int) -> PoolSpec:
    """A pooling that fits, or none."""
    kind = drawing.pick(Pool.NONE, Pool.NONE, Pool.MAX, Pool.AVG)
    if drawing.profile.kpu:
        if min(height, width) < 8 or (kind is Pool.NONE and not drawing.one_in(4)):
            return PoolSpec()
        size = 4 if min(height, width) >= 16 and drawing.one_in(3) else 2
        return PoolSpec(kind=kind, window=(1, 1) if kind is Pool.NONE else (size, size), stride=(size, size))
    stride = drawing.pick(1, 1, 2, 3)
    if kind is Pool.NONE:
        stride = stride if drawing.one_in(3) else 1
        window = (1, 1)
    else:
        window = (drawing.pick(1, 2, 2, 3, 4), drawing.pick(1, 2, 2, 3, 4) if width > 1 else 1)
    if window[0] > height or window[1] > width:
        return PoolSpec()
    return PoolSpec(kind=kind, window=window, stride=(stride, 1 if width == 1 else stride))


def conv_spec(drawing: Drawing, op: Op, height: int, width: int) -> ConvSpec:
    """A kernel that fits the pooled data."""
    if op is Op.CONV_TRANSPOSE2D:
        pad = drawing.pick(0, 1, 2 if min(height, width) > 1 else 1)
        return ConvSpec(kernel=(3, 3), padding=(pad, pad), stride=(2, 2), output_padding=1)
    if op is Op.CONV1D:
        kernel = drawing.pick(1, 2, 3, 5, 9)
        pad = min(drawing.pick(0, 1, 2), kernel - 1)
        dilation = drawing.pick(1, 1, 2) if 1 < kernel <= 4 else 1
        if height + 2 * pad < (kernel - 1) * dilation + 1:
            return ConvSpec()
        return ConvSpec(kernel=(kernel, 1), padding=(pad, 0), dilation=(dilation, 1))
    size = drawing.pick(1, 3)
    pad = int(size == 3) if drawing.profile.kpu else min(drawing.pick(0, 1, 1, 2), size - 1)
    if min(height, width) + 2 * pad < size:
        return ConvSpec()
    return ConvSpec(kernel=(size, size), padding=(pad, pad))


def grouped(drawing: Drawing, op: Op, conv: ConvSpec, inputs: int, outputs: int, *,
            keep_channels: bool) -> tuple[ConvSpec, int]:
    """Sometimes a depthwise convolution, or one with two groups; and its output channels."""
    if keep_channels or inputs == 1 or not drawing.one_in(5):
        return conv, outputs
    if op is not Op.CONV_TRANSPOSE2D and not drawing.profile.kpu and inputs % 2 == 0 and drawing.one_in(2):
        return replace(conv, groups=2), 2 * -(-outputs // 2)
    return replace(conv, groups=inputs), inputs


def parameters(drawing: Drawing, out_channels: int, features: int, conv: ConvSpec) -> dict[str, Any]:
    """Weights, bias, width and a shift; mostly one that keeps the values in range, sometimes any."""
    bits = drawing.pick(8, 8, 4, 2, 1)
    kind = weight_type(bits)
    weights = drawing.draw(integer_arrays((out_channels, features, *conv.kernel), kind.min, kind.max))
    fan_in = features * conv.kernel[0] * conv.kernel[1]
    fitting = -round(0.5 * np.log2(fan_in * 4 ** (bits - 1))) + 1
    shift = drawing.draw(st.integers(-15, 15)) if drawing.one_in(4) else max(-15, min(15, fitting + 7 - (bits - 1)))
    return {"weights": weights, "weight_bits": bits, "output_shift": int(shift),
            "bias": drawing.draw(st.none() | integer_arrays((out_channels,)))}


def plain_layer(drawing: Drawing, source: Tensor, *, target: LayerPlacement | None = None, keep_shape: bool = False,
                out_channels: int = 0, **changes: Any) -> Tensor:
    """A convolution or pass-through of one tensor (or, with ``changes``, of several).

    Args:
        drawing: receives the layer.
        source: what is read; its shape, processors and offset are the operands'.
        target: where the output goes; drawn if None.
        keep_shape: the output has the height and width of the input, without pooling.
        out_channels: drawn if 0.
        changes: fields of the layer.
    """
    shape, index = source.shape, len(drawing.layers)
    pool = PoolSpec() if keep_shape else pool_spec(drawing, shape.height, shape.width)
    height, width = pool.output_size(shape.height, shape.width)
    op = Op.CONV2D
    if not keep_shape:
        op = drawing.pick(*_operators(drawing, shape, pool, eltwise="eltwise" in changes))
    fields: dict[str, Any] = {"name": f"layer{index}", "index": index, "op": op, "inputs": (source.index,),
                              "operand_shape": shape, "pool": pool}
    if op is Op.PASSTHROUGH:
        channels, size = shape.channels, (height, width)
    else:
        same = ConvSpec(kernel=(3, 3), padding=(1, 1)) if width > 1 and drawing.one_in(2) else ConvSpec()
        conv = same if keep_shape else conv_spec(drawing, op, height, width)
        channels = out_channels or drawing.draw(st.integers(1, drawing.profile.max_channels))
        size = conv.output_size(height, width, is_transposed=op is Op.CONV_TRANSPOSE2D)
        conv, channels = grouped(drawing, op, conv, shape.channels, channels, keep_channels=bool(out_channels))
        activations = (Activation.NONE, Activation.RELU) if drawing.profile.kpu else tuple(Activation)
        fields |= {"conv": conv, "activation": drawing.pick(*activations),
                   **parameters(drawing, channels, shape.channels // conv.groups, conv)}
    layer = Layer(**(fields | {"out_shape": TensorShape(channels, *size)} | changes))
    place = target or LayerPlacement(processors=source.processors, in_offset=source.offset,
                                     output_processors=_output_map(drawing, op, source, channels),
                                     out_offset=drawing.next_offset())
    return drawing.add(layer, replace(place, processors=source.processors, in_offset=source.offset))


def _operators(drawing: Drawing, shape: TensorShape, pool: PoolSpec, *, eltwise: bool) -> tuple[Op, ...]:
    """Operators that suit the data, the wanted one alone if it does."""
    if drawing.profile.kpu:
        return Op.CONV2D, Op.CONV2D, Op.PASSTHROUGH
    if shape.width == 1 and not eltwise:
        return Op.CONV1D, Op.CONV1D, Op.PASSTHROUGH
    may_grow = pool.is_identity and shape.width > 1 and shape.height <= 6
    if may_grow and drawing.profile.focus == "ConvTranspose2d":
        return (Op.CONV_TRANSPOSE2D,)
    return Op.CONV2D, Op.CONV2D, Op.PASSTHROUGH, *([Op.CONV_TRANSPOSE2D] * may_grow)


def _output_map(drawing: Drawing, op: Op, source: Tensor, channels: int) -> int:
    """A pass layer writes where it reads; a convolution anywhere."""
    return source.processors if op is Op.PASSTHROUGH else drawing.processor_map(channels)


# --- blocks -------------------------------------------------------------------------------------------------------

def residual_block(drawing: Drawing, source: Tensor) -> Tensor:
    """A copy and a convolution of a tensor, word by word in turn, combined by a third layer."""
    start, channels = drawing.next_offset(), source.shape.channels
    target = LayerPlacement(processors=0, output_processors=source.processors, out_offset=start, write_gap=1)
    copy = Layer(name=f"layer{len(drawing.layers)}", index=len(drawing.layers), op=Op.PASSTHROUGH,
                 inputs=(source.index,), operand_shape=source.shape, out_shape=source.shape)
    first = drawing.add(copy, replace(target, processors=source.processors, in_offset=source.offset))
    second = plain_layer(drawing, source, target=replace(target, out_offset=start + 4), keep_shape=True,
                         out_channels=channels)
    kinds = (Eltwise.ADD, Eltwise.SUB) if drawing.profile.kpu else tuple(Eltwise)
    pair = (first.index, second.index)
    both = Tensor(first.index, source.shape, source.processors, start)
    return plain_layer(drawing, both, inputs=pair, eltwise=drawing.pick(*kinds))


def concatenation_block(drawing: Drawing, source: Tensor) -> Tensor:
    """Two convolutions of a tensor that write side by side, read as one by a third layer."""
    low, high = 4 * drawing.pick(1, 2), drawing.draw(st.integers(1, 8))
    start, first = drawing.next_offset(), 4 * int(drawing.draw(st.integers(0, 8)))
    maps = ((1 << low) - 1) << first, ((1 << high) - 1) << first + low
    made = [plain_layer(drawing, source, keep_shape=True, out_channels=channels,
                        target=LayerPlacement(processors=0, output_processors=processors, out_offset=start))
            for channels, processors in ((low, maps[0]), (high, maps[1]))]
    shape = TensorShape(low + high, source.shape.height, source.shape.width)
    both = Tensor(made[0].index, shape, maps[0] | maps[1], start)
    return plain_layer(drawing, both, inputs=(made[0].index, made[1].index))


def final_layer(drawing: Drawing, source: Tensor) -> Tensor:
    """A flattening Linear, often with wide output."""
    index, features, outputs = len(drawing.layers), source.shape.numel, drawing.draw(st.integers(1, 12))
    wide = not drawing.one_in(3)
    values = parameters(drawing, outputs, features, ConvSpec())
    layer = Layer(name=f"layer{index}", index=index, op=Op.LINEAR, inputs=(source.index,), operand_shape=source.shape,
                  out_shape=TensorShape(outputs, 1, 1), conv=ConvSpec(), flatten=True, output_bits=32 if wide else 8,
                  activation=Activation.NONE if wide else drawing.pick(Activation.NONE, Activation.RELU), **values)
    return drawing.add(layer, LayerPlacement(processors=source.processors, in_offset=source.offset,
                                             output_processors=drawing.processor_map(outputs, aligned=True),
                                             out_offset=drawing.next_offset()))


@st.composite
def placed_networks(draw: st.DrawFn, profile: Profile = Profile()) -> Placed:
    """Networks of a few small layers with their placement; most are legal."""
    drawing = Drawing(draw, profile)
    shape = _input_shape(drawing)
    source = Tensor(NETWORK_INPUT, shape, drawing.processor_map(shape.channels, aligned=True, highest=15), REGIONS[0])
    for block in range(draw(st.integers(1, profile.max_blocks))):
        size = (source.shape.height, source.shape.width)
        kinds = [plain_layer, plain_layer]
        if block and size[1] > 1 and source.shape.channels <= 64:
            kinds += [residual_block, concatenation_block]
        source = drawing.pick(*kinds)(drawing, source)
    wanted = {"element-wise": residual_block, "concatenation": concatenation_block}.get(profile.focus)
    if wanted and source.shape.channels <= 64:
        source = wanted(drawing, source)
    has_weights = any(layer.conv for layer in drawing.layers)
    if (drawing.one_in(2) or not has_weights) and source.shape.height * source.shape.width <= 256:
        final_layer(drawing, source)
    places = list(drawing.places)
    if not profile.kpu and shape.channels <= 4 and drawing.layers[0].conv is not None and drawing.one_in(4):
        places[0] = _planar(places[0], shape, drawing.pick(LANES, 16))
    if drawing.one_in(3):
        drawing.layers = [replace(layer, average_rounded=True) for layer in drawing.layers]
    fifo = not profile.kpu and places[0].processors in FIFO_MAPS[places[0].data_format] and drawing.one_in(2)
    network = Network(name="random", dataset="noise", input_shape=shape, layers=tuple(drawing.layers))
    sample = draw(integer_arrays(shape.as_tuple()))
    return Placed(network=network, placement=Placement(layers=tuple(places), fifo=fifo), sample=sample)


def _input_shape(drawing: Drawing) -> TensorShape:
    channels = drawing.draw(st.integers(1, drawing.profile.max_channels))
    if drawing.profile.kpu:
        return TensorShape(channels, *drawing.pick((8, 8), (8, 12), (16, 16), (9, 5), (4, 4), (20, 32), (17, 33)))
    focus = drawing.profile.focus
    if focus == "several passes":
        channels = drawing.pick(65, 96, 128)
    if focus == "Conv1d" or (focus == "anything" and drawing.one_in(3)):
        return TensorShape(channels, drawing.draw(st.integers(1, 40)), 1)
    largest = 5 if focus == "ConvTranspose2d" else 10
    return TensorShape(channels, drawing.draw(st.integers(1, largest)), drawing.draw(st.integers(2, largest)))


FIFO_MAPS = {
    DataFormat.HWC: tuple((1 << channels) - 1 for channels in range(1, LANES + 1)),
    DataFormat.CHW: (1, 1 | 1 << 16, 1 | 1 << 16 | 1 << 32, 1 | 1 << 16 | 1 << 32 | 1 << 48),
}
"""Processors that the FIFOs reach."""


def _planar(place: LayerPlacement, shape: TensorShape, step: int) -> LayerPlacement:
    """The input as planes, one channel on the first processor of a data memory (step 4) or of a quadrant (16)."""
    processors = sum(1 << step * channel for channel in range(shape.channels))
    return replace(place, processors=processors, data_format=DataFormat.CHW)


def features_of(network: Network) -> Mapping[str, bool]:
    """Which corners of the representation a network reaches, for counting."""
    layers = network.layers
    return {
        **{op.value: any(layer.op is op for layer in layers) for op in Op},
        **{f"{bits} bit": any(layer.weights is not None and layer.weight_bits == bits for layer in layers)
           for bits in (1, 2, 4, 8)},
        "max pooling": any(layer.pool.kind is Pool.MAX for layer in layers),
        "average pooling": any(layer.pool.kind is Pool.AVG for layer in layers),
        "element-wise": any(layer.eltwise for layer in layers),
        "concatenation": any(len(layer.inputs) > 1 and not layer.eltwise for layer in layers),
        "flatten": any(layer.flatten for layer in layers), "wide": any(layer.output_bits == 32 for layer in layers),
        "several passes": any(layer.operand_shape.channels > 64 for layer in layers),
    }
