"""The network representation: what is computed, independent of any chip.

A `Network` is an ordered tuple of fused layers, because that is what both accelerators run: optional element-wise
combination and pooling on the way in, a convolution or nothing, a shift, an activation. Shapes, arrays and names are
checked when objects are built, so later stages never meet half-valid data. Start at `Layer` and `Network`.

Order of operations in a layer (spec/max78000-cnn.md sections 4.2 to 4.7): the operands are pooled, then combined
(`pool_first`; otherwise combined, saturated, then pooled), then convolved, shifted, rounded, clipped, activated.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from ai8x.arithmetic import INT8, IntType, weight_type
from ai8x.errors import Source

NETWORK_INPUT = -1
"""Index that stands for the network's input in `Layer.inputs`."""

BUFFER_INPUT = -2
"""Index that stands for the network's rolling buffer in `Layer.inputs`."""


class Op(enum.Enum):
    """What a layer does between its input side (element-wise, pooling) and its output side (shift, activation)."""

    CONV2D = "Conv2d"
    CONV1D = "Conv1d"
    CONV_TRANSPOSE2D = "ConvTranspose2d"
    LINEAR = "Linear"
    PASSTHROUGH = "Passthrough"

    @property
    def has_weights(self) -> bool:
        """Every operator but the pass-through multiplies by weights."""
        return self is not Op.PASSTHROUGH

    @property
    def is_1d(self) -> bool:
        """Whether data is (C, L, 1)."""
        return self is Op.CONV1D


class Eltwise(enum.Enum):
    """Element-wise combination of two to sixteen operands; values are the YAML spelling."""

    ADD = "add"
    SUB = "sub"
    OR = "or"
    XOR = "xor"


class Pool(enum.Enum):
    """Pooling of the input side; `NONE` with a stride above 1 is plain subsampling."""

    NONE = "none"
    MAX = "max"
    AVG = "avg"


class Activation(enum.Enum):
    """Activation after rounding and clipping."""

    NONE = "none"
    RELU = "ReLU"
    ABS = "Abs"


@dataclass(frozen=True, slots=True, order=True)
class TensorShape:
    """Shape (C, H, W) of a tensor; 1-D data of length L is (C, L, 1)."""

    channels: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.channels, self.height, self.width) < 1:
            raise ValueError(f"shape {self}: every dimension is at least 1")

    def __str__(self) -> str:
        return f"{self.channels}x{self.height}x{self.width}"

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.channels * self.height * self.width

    def as_tuple(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.channels, self.height, self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """Pooling window and stride; rows first. Default: no pooling.

    A window of 1x1 with a stride above 1 subsamples (section 4.4).
    """

    kind: Pool = Pool.NONE
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)

    @property
    def is_identity(self) -> bool:
        """Neither pools nor subsamples."""
        return self.window == (1, 1) and self.stride == (1, 1)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Pooled rows and columns: ``(size + stride - window) div stride`` each (section 0)."""
        sizes = []
        dimensions = zip((height, width), self.window, self.stride, self.dilation, strict=True)
        for size, window, stride, dilation in dimensions:
            reach = (window - 1) * dilation + 1
            sizes.append((size + stride - reach) // stride)
        return sizes[0], sizes[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvSpec:
    """Geometry of a convolution; rows first. Linear is a 1x1 convolution of a 1x1 image after flattening.

    `groups` divides input and output channels as in torch. Transposed convolutions have `stride` (2, 2) and
    `output_padding` 1; `padding` is torch's, not the hardware's.
    """

    kernel: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    output_padding: int = 0

    def output_size(self, height: int, width: int, *, is_transposed: bool = False) -> tuple[int, int]:
        """Rows and columns that the convolution makes of a pooled image; below 1 where the kernel does not fit."""
        sizes = []
        for size, kernel, pad, stride, dilation in zip(
            (height, width), self.kernel, self.padding, self.stride, self.dilation, strict=True
        ):
            if is_transposed:
                sizes.append((size - 1) * stride - 2 * pad + kernel + self.output_padding)
            else:
                sizes.append((size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1)
        return sizes[0], sizes[1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """One fused layer.

    Args:
        name: unique in the network; C identifier characters.
        index: position in `Network.layers`, which is YAML order.
        op: operator.
        inputs: producers, by layer index or `NETWORK_INPUT`. One entry: plain input. With `eltwise`: the operands
            in order. Otherwise several entries are concatenated along the channels.
        operand_shape: shape (C, H, W) of each operand as it lies in memory (after concatenation and `in_crop`,
            after `in_dim` reshape, before pooling and flattening).
        out_shape: shape (C, H, W) of the output.
        pool: pooling of the input side.
        eltwise: combination of the operands, None for a single operand.
        pool_first: pooling precedes the combination.
        conv: geometry; None for a pass-through.
        flatten: the (C, H, W) map is read as C*H*W features, channel major (Linear only).
        activation: after rounding and clipping.
        weights: int64 array, order (out, in/groups, row, column); for a transposed convolution the correlation
            kernel, i.e. already flipped in both axes with out first. None for a pass-through.
        weight_bits: 1, 2, 4 or 8.
        bias: int64 array (out,) of int8 values that enter the accumulator times 128, or None.
        output_shift: total shift, layer shift plus ``8 - weight_bits``; positive = left.
        output_bits: 8, or 32 for the raw accumulator.
        average_rounded: average pooling rounds half away from zero instead of truncating.
        in_crop: rows (or samples) dropped at the start and the end of the source.
        is_output: part of the network's output (`Network.outputs`).
        weight_source: index of the layer whose weights are reused, or None.
        buffer_shift: pixels by which the layer moves the rolling buffer towards the past, 0 for none; the layer is a
            pass-through of the buffer without its oldest pixels, and its output becomes the oldest part.
        buffer_insert: pixels at the newest end of the rolling buffer that the layer's output replaces, 0 for none.
        source: place of the layer in the YAML file.

    Source: spec/max78000-cnn.md sections 0, 4 and 7.
    """

    name: str
    index: int
    op: Op
    inputs: tuple[int, ...]
    operand_shape: TensorShape
    out_shape: TensorShape
    pool: PoolSpec = PoolSpec()
    eltwise: Eltwise | None = None
    pool_first: bool = True
    conv: ConvSpec | None = None
    flatten: bool = False
    activation: Activation = Activation.NONE
    weights: NDArray[Any] | None = None
    weight_bits: int = 8
    bias: NDArray[Any] | None = None
    output_shift: int = 0
    output_bits: int = 8
    average_rounded: bool = False
    in_crop: tuple[int, int] = (0, 0)
    is_output: bool = False
    weight_source: int | None = None
    buffer_shift: int = 0
    buffer_insert: int = 0
    source: Source | None = None

    def __post_init__(self) -> None:
        for array in (self.weights, self.bias):
            if array is not None:
                array.setflags(write=False)
        if problem := layer_problem(self):
            raise ValueError(f"layer {self.index} '{self.name}': {problem}")

    @property
    def num_operands(self) -> int:
        """Operands of the element-wise combination, 1 without."""
        return len(self.inputs) if self.eltwise else 1

    @property
    def pooled_shape(self) -> TensorShape:
        """Shape after pooling, before flattening and convolution."""
        shape = self.operand_shape
        return TensorShape(shape.channels, *self.pool.output_size(shape.height, shape.width))

    @property
    def conv_in_channels(self) -> int:
        """Input channels of the convolution: the features after flattening, else the operand's channels."""
        return self.pooled_shape.numel if self.flatten else self.operand_shape.channels

    @property
    def weight_type(self) -> IntType:
        """Integer type of the weights."""
        return weight_type(self.weight_bits)

    @property
    def output_type(self) -> IntType:
        """int8, or int32 for a wide output."""
        return IntType(bits=self.output_bits)

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one inference; 0 for a pass-through.

        A grouped convolution counts what torch would count; its dense form costs more on a chip.
        """
        if self.conv is None:
            return 0
        taps = self.conv.kernel[0] * self.conv.kernel[1]
        return self.conv_in_channels // self.conv.groups * taps * self.out_shape.numel

    @property
    def weight_bytes(self) -> int:
        """Size of the weights at their width, in bytes (rounded up); reused weights count 0."""
        if self.weights is None or self.weight_source is not None:
            return 0
        return math.ceil(self.weights.size * self.weight_bits / 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class RollingBuffer:
    """Data that stays from one inference to the next: a window over the latest outputs of some layer.

    Pixels are ordered by age, the oldest first; a 2-D shape counts row by row. At first all values are 0.

    Args:
        name: how layers refer to it.
        shape: (C, H, W), int8.

    Source: spec/max78000-cnn.md sections 7.1 and 7.2.
    """

    name: str
    shape: TensorShape

    @property
    def num_pixels(self) -> int:
        """Pixels of one channel."""
        return self.shape.height * self.shape.width


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """An ordered network of fused layers with integer parameters.

    Args:
        name: the architecture, ``arch`` of the YAML file.
        dataset: name of the data set, used for the sample.
        input_shape: (C, H, W) of the one network input, int8.
        layers: execution order; `Layer.index` equals the position.
        outputs: indices of the output layers, ascending.
        labels: class names where known.
        buffer: state that is carried between inferences, or None.
    """

    name: str
    dataset: str = ""
    input_shape: TensorShape
    layers: tuple[Layer, ...]
    outputs: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    input_type: IntType = field(default=INT8)
    buffer: RollingBuffer | None = None

    def __post_init__(self) -> None:
        if not self.outputs and self.layers:
            object.__setattr__(self, "outputs", (len(self.layers) - 1,))
        if problem := network_problem(self):
            raise ValueError(problem)

    def shape_of(self, index: int) -> TensorShape:
        """Output shape of a layer, of the input for `NETWORK_INPUT`, of the rolling buffer for `BUFFER_INPUT`.

        Raises:
            ValueError: the network has no buffer.
        """
        if index == BUFFER_INPUT:
            if self.buffer is None:
                raise ValueError(f"network '{self.name}' has no buffer")
            return self.buffer.shape
        return self.input_shape if index == NETWORK_INPUT else self.layers[index].out_shape

    def consumers(self, index: int) -> tuple[int, ...]:
        """Indices of the layers that read the tensor."""
        return tuple(layer.index for layer in self.layers if index in layer.inputs)

    def with_layers(self, layers: Mapping[int, Layer]) -> Network:
        """A copy in which the layers at these indices are replaced."""
        return replace(self, layers=tuple(layers.get(i, layer) for i, layer in enumerate(self.layers)))


def conv_output_shape(layer: Layer) -> TensorShape:
    """Output shape that operator, pooling and input imply (section 0).

    Raises:
        ValueError: a dimension would fall below 1.
    """
    pooled = layer.pooled_shape
    if layer.conv is None:
        return pooled
    out_channels = layer.out_shape.channels
    if layer.flatten:
        return TensorShape(out_channels, 1, 1)
    is_transposed = layer.op is Op.CONV_TRANSPOSE2D
    sizes = layer.conv.output_size(pooled.height, pooled.width, is_transposed=is_transposed)
    return TensorShape(out_channels, sizes[0], sizes[1])


def layer_problem(layer: Layer) -> str:
    """Why a layer contradicts itself, or an empty string. Device limits are not checked here."""
    if not layer.inputs or any(not BUFFER_INPUT <= i < layer.index for i in layer.inputs):
        return f"inputs {layer.inputs} must be earlier layers, the network input or the buffer"
    if layer.eltwise and not 2 <= len(layer.inputs) <= 16:
        return f"{layer.eltwise.value} of {len(layer.inputs)} operands; allowed are 2 to 16"
    if layer.op.has_weights != (layer.conv is not None):
        return f"{layer.op.value} with conv={layer.conv}"
    if layer.flatten and layer.op is not Op.LINEAR:
        return f"flatten belongs to Linear, not to {layer.op.value}"
    return _shape_problem(layer) or _parameter_problem(layer) or _buffer_problem(layer)


def _buffer_problem(layer: Layer) -> str:
    """Why a layer cannot move or fill the rolling buffer, or an empty string."""
    if layer.buffer_shift:
        is_copy = layer.op is Op.PASSTHROUGH and layer.pool.is_identity and not any(layer.in_crop)
        if layer.inputs != (BUFFER_INPUT,) or not is_copy or layer.buffer_insert:
            return "shifting the buffer is a pass-through of the buffer and nothing else"
    pixels = layer.out_shape.height * layer.out_shape.width
    if layer.buffer_insert and (layer.buffer_insert != pixels or layer.output_bits != INT8.bits):
        return f"{pixels} pixels of {layer.output_bits} bits cannot be inserted as {layer.buffer_insert} of 8 bits"
    return ""


def _shape_problem(layer: Layer) -> str:
    if layer.output_bits not in (8, 32):
        return f"output of {layer.output_bits} bits; allowed are 8 and 32"
    expected = conv_output_shape(layer)
    if expected != layer.out_shape:
        return f"output shape {layer.out_shape}, operator and input give {expected}"
    return ""


def _parameter_problem(layer: Layer) -> str:
    if layer.conv is None:
        return "weights on a pass-through" if layer.weights is not None or layer.bias is not None else ""
    shape = (layer.out_shape.channels, layer.conv_in_channels // layer.conv.groups, *layer.conv.kernel)
    if layer.weights is not None:
        if layer.weights.shape != shape:
            return f"weights of shape {layer.weights.shape}, expected {shape}"
        if not layer.weight_type.allows(layer.weights):
            return f"weights {layer.weights.min()}..{layer.weights.max()} do not fit {layer.weight_type}"
    if layer.bias is not None:
        if layer.bias.shape != (layer.out_shape.channels,):
            return f"bias of shape {layer.bias.shape}, expected ({layer.out_shape.channels},)"
        if not INT8.allows(layer.bias):
            return f"bias {layer.bias.min()}..{layer.bias.max()} does not fit int8"
    return ""


def network_problem(network: Network) -> str:
    """Why the layers do not form a network, or an empty string."""
    names = [layer.name for layer in network.layers]
    if len(set(names)) != len(names):
        return f"layer names are not unique: {names}"
    for position, layer in enumerate(network.layers):
        if layer.index != position:
            return f"layer '{layer.name}' has index {layer.index} at position {position}"
    if any(not 0 <= i < len(network.layers) for i in network.outputs):
        return f"outputs {network.outputs} name layers that do not exist"
    return next(filter(None, (_operand_problem(network, layer) for layer in network.layers)), "")


def _operand_problem(network: Network, layer: Layer) -> str:
    """Why a layer cannot read what its producers write, or an empty string."""
    if (uses := _buffer_use_problem(network, layer)) or layer.buffer_shift:
        return uses
    shapes = [network.shape_of(index) for index in layer.inputs]
    cropped = sum(layer.in_crop)
    operand = layer.operand_shape
    channels = [shape.channels for shape in shapes]
    fits = set(channels) == {operand.channels} if layer.eltwise else sum(channels) == operand.channels
    if not fits or any((s.height - cropped) * s.width != operand.height * operand.width for s in shapes):
        found = ", ".join(map(str, shapes))
        return f"layer {layer.index} '{layer.name}': operands of shape {operand} do not come from {found}"
    return ""


def _buffer_use_problem(network: Network, layer: Layer) -> str:
    """Why a layer does not suit the network's rolling buffer, or an empty string."""
    if BUFFER_INPUT not in layer.inputs and not layer.buffer_insert:
        return ""
    place, buffer = f"layer {layer.index} '{layer.name}'", network.buffer
    if buffer is None:
        return f"{place}: the network has no buffer"
    operand = layer.operand_shape
    left = buffer.num_pixels - layer.buffer_shift
    if layer.buffer_shift and (operand.channels, operand.height * operand.width) != (buffer.shape.channels, left):
        return f"{place}: shifting a buffer {buffer.shape} by {layer.buffer_shift} leaves {left} pixels, not {operand}"
    if layer.buffer_insert > buffer.num_pixels or (
            layer.buffer_insert and layer.out_shape.channels != buffer.shape.channels):
        return f"{place}: {layer.out_shape} cannot be inserted into a buffer {buffer.shape}"
    return ""
