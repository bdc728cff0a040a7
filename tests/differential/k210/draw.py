"""What is drawn for the K210: one function for each corner of the lowering. Start at `KINDS` and `draw_case`.

Source: docs/design.md "Tests"; spec/k210-kmodel.md sections 13 and 14.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.arithmetic import INT8, weight_type
from ai8x.k210.forms import EXACT_FORMS, Forms
from ai8x.network.ir import Activation, ConvSpec, Eltwise, Layer, Network, Op, Pool, PoolSpec, TensorShape
from tests.k210.small_networks import Chain

NO_POOL = PoolSpec()
MAX_SHIFT = 15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A network with samples.

    Args:
        kind: the corner that was drawn.
        number: in the run.
        network: what is computed.
        samples: int8 arrays (C, H, W): random, extreme, random.
        forms: what the lowering may use.
    """

    kind: str
    number: int
    network: Network
    samples: tuple[NDArray[np.int64], ...]
    forms: Forms = EXACT_FORMS


class Draw(Chain):
    """A network under construction with the generator that decides about it.

    Args:
        rng: decides.
        shape: of the input.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int, int]) -> None:
        super().__init__(*shape, seed=int(rng.integers(1 << 30)))
        self.rng = rng
        self.rounded = self.chance(0.25)

    def chance(self, probability: float) -> bool:
        """True so often."""
        return bool(self.rng.random() < probability)

    def pick(self, *values: Any) -> Any:
        """One of the values."""
        return values[int(self.rng.integers(len(values)))]

    def between(self, low: int, high: int) -> int:
        """A number of the closed range."""
        return int(self.rng.integers(low, high + 1))

    @property
    def last(self) -> TensorShape:
        """Shape of the tensor made last."""
        return self.shape_of(len(self.layers) - 1)

    def numbers(self, fan_in: int) -> dict[str, Any]:
        """Weight bits, activation and a shift that mostly keeps values in range."""
        bits = self.pick(8, 8, 8, 4, 2, 1)
        fitting = 8 - bits - round(0.5 * math.log2(fan_in)) + self.between(-1, 1)
        shift = self.between(-MAX_SHIFT, MAX_SHIFT) if self.chance(0.1) else max(-MAX_SHIFT, fitting)
        return {"weight_bits": bits, "output_shift": shift, "activation": self.pick(*Activation),
                "average_rounded": self.rounded}

    def pool(self, height: int, width: int, *, largest: int = 4) -> PoolSpec:
        """Pooling or subsampling that fits, or none."""
        kind = self.pick(Pool.NONE, Pool.MAX, Pool.AVG)
        if kind is Pool.NONE:
            return PoolSpec(stride=(self.between(1, 2),) * 2) if self.chance(0.2) else NO_POOL
        square = self.chance(0.7)
        rows = self.between(1, largest)
        columns = rows if square else self.between(1, largest)
        rows, columns = (rows if height > 1 else 1), (columns if width > 1 else 1)
        stride = rows if self.chance(0.5) else self.between(1, largest)
        spread = self.between(1, 2) if self.chance(0.1) else 1
        pool = PoolSpec(kind=kind, window=(rows, columns), stride=(stride if height > 1 else 1,
                                                                   stride if width > 1 else 1),
                        dilation=(spread, spread))
        return pool if min(pool.output_size(height, width)) >= 1 else NO_POOL

    def some_conv(self, outputs: int, **options: Any) -> int:
        """A Conv2d of any kernel, padding and stride that fits what was made last."""
        pool = options.pop("pool", None) or self.pool(self.last.height, self.last.width)
        height, width = pool.output_size(self.last.height, self.last.width)
        kernel = self.pick(1, 3, 3, 3)
        pad = self.between(0, 2) if kernel == 3 else 0
        if min(height, width) + 2 * pad < kernel:
            kernel, pad = 1, 0
        stride = 2 if self.chance(0.1) else 1
        groups = options.get("groups", 1)
        numbers = self.numbers(max(1, self.last.channels // groups) * kernel * kernel)
        return self.conv(outputs, kernel, pad, stride=stride, pool=pool, **numbers | options)

    def copied(self, source: int, **options: Any) -> int:
        """A small convolution of an earlier tensor that keeps rows and columns."""
        shape = self.shape_of(source)
        kernel = self.pick(1, 3)
        outputs = options.pop("outputs", shape.channels)
        return self.conv(outputs, kernel, kernel // 2, inputs=(source,),
                         **self.numbers(shape.channels * kernel * kernel) | options)

    def features(self, outputs: int, *, wide: bool) -> int:
        """A Linear on everything that was made last."""
        options = self.numbers(self.last.numel)
        if wide:
            options |= {"output_bits": 32, "activation": Activation.NONE, "output_shift": 0}
        return self.linear(outputs, **options)

    def finish(self, kind: str, number: int, outputs: tuple[int, ...] = ()) -> Case:
        """The case, with some weights at their extremes and some biases left out."""
        layers = tuple(self._varied(layer) for layer in self.layers)
        network = Network(name="differential", input_shape=self.input_shape, layers=layers, outputs=outputs)
        shape = self.input_shape.as_tuple()
        extreme = self.pick(
            np.full(shape, INT8.min), np.full(shape, INT8.max), np.zeros(shape, np.int64),
            np.where(self.rng.random(shape) < 0.5, INT8.min, INT8.max),
            np.where(np.arange(np.prod(shape)).reshape(shape) == self.between(0, int(np.prod(shape)) - 1), INT8.max, 0))
        return Case(kind=kind, number=number, network=network, samples=(self.sample(), extreme, self.sample()))

    def _varied(self, layer: Layer) -> Layer:
        if layer.weights is None:
            return layer
        limits = weight_type(layer.weight_bits)
        shape, bias = layer.weights.shape, None if self.chance(0.3) else layer.bias
        pattern = self.pick("random", "random", "random", "random", "least", "most", "sparse")
        weights = {"least": np.full(shape, limits.min), "most": np.full(shape, limits.max),
                   "sparse": layer.weights * (self.rng.random(shape) < 0.2)}.get(pattern, layer.weights)
        return replace(layer, weights=np.array(weights, np.int64), bias=bias)


def image(rng: np.random.Generator, channels: int = 0, low: int = 4, high: int = 14) -> tuple[int, int, int]:
    """A shape of some channels and a few rows and columns."""
    height, width = (int(value) for value in rng.integers(low, high + 1, 2))
    return channels or int(rng.integers(1, 9)), height, width


def conv2d(rng: np.random.Generator, number: int) -> Case:
    """Conv2d with every padding, pooling and stride."""
    draw = Draw(rng, image(rng))
    for _ in range(draw.between(1, 4)):
        draw.some_conv(draw.between(1, 12))
    return draw.finish("conv2d", number)


def depthwise(rng: np.random.Generator, number: int) -> Case:
    """Depthwise and grouped layers between dense ones."""
    draw = Draw(rng, image(rng, draw_channels(rng)))
    for _ in range(draw.between(1, 3)):
        channels = draw.last.channels
        groups = channels if draw.chance(0.7) else draw.pick(*(g for g in range(1, channels + 1) if channels % g == 0))
        outputs = channels if draw.chance(0.8) else groups * draw.between(1, 3)
        draw.some_conv(outputs, groups=groups, pool=NO_POOL if draw.chance(0.6) else None)
        if draw.chance(0.6):
            draw.conv(draw.between(1, 12), 1, **draw.numbers(draw.last.channels))
    return draw.finish("depthwise", number)


def draw_channels(rng: np.random.Generator) -> int:
    """Numbers of channels around the groups of a line."""
    return int(rng.choice([2, 3, 4, 5, 7, 8, 12, 16]))


def pools(rng: np.random.Generator, number: int) -> Case:
    """Windows up to 7 with every stride, with and without a convolution, rounded and truncated."""
    draw = Draw(rng, image(rng, low=7, high=20))
    for _ in range(draw.between(1, 2)):
        pool = draw.pool(draw.last.height, draw.last.width, largest=7)
        if draw.chance(0.4):
            draw.passthrough(pool=pool, average_rounded=draw.rounded)
        else:
            draw.some_conv(draw.between(1, 8), pool=pool)
    if draw.chance(0.3):
        size = (draw.last.height, draw.last.width)
        draw.passthrough(pool=PoolSpec(kind=Pool.AVG, window=size, stride=size), average_rounded=draw.rounded)
    return draw.finish("pools", number)


def concatenation(rng: np.random.Generator, number: int) -> Case:
    """Two to four producers side by side, channel counts that fill no group among them."""
    draw = Draw(rng, image(rng))
    first = draw.copied(-1, outputs=draw.between(1, 9))
    parts = [draw.copied(draw.pick(-1, first), outputs=draw.between(1, 9)) for _ in range(draw.between(1, 3))]
    inputs = tuple(dict.fromkeys([*parts, *([first] if draw.chance(0.5) else []), *([-1] if draw.chance(0.3) else [])]))
    draw.conv(draw.between(1, 9), draw.pick(1, 3), inputs=inputs, **draw.numbers(20))
    if draw.chance(0.3):
        draw.some_conv(draw.between(1, 6))
    return draw.finish("concatenation", number)


def eltwise(rng: np.random.Generator, number: int) -> Case:
    """Two to six operands, alone or before a convolution, pooled before or after, one of them twice, also 1-D."""
    flat = bool(rng.random() < 0.2)
    draw = Draw(rng, (int(rng.integers(1, 12)), int(rng.integers(4, 30)), 1) if flat else image(rng))
    channels = draw.input_shape.channels
    made = [draw.conv1d(channels, 1, inputs=(-1,), **draw.numbers(channels)) if flat else
            draw.copied(draw.pick(-1, len(draw.layers) - 1)) for _ in range(draw.between(1, 5))]
    operands = [*made, *([-1] if len(made) == 1 or draw.chance(0.2) else [])]
    if draw.chance(0.15):
        operands.append(operands[0])
    draw.rng.shuffle(operands)
    kind = {"inputs": tuple(operands), "eltwise": draw.pick(Eltwise.ADD, Eltwise.SUB)}
    pool = NO_POOL if draw.chance(0.5) else draw.pool(draw.last.height, draw.last.width)
    kind |= {"pool": pool, "pool_first": draw.chance(0.5), "average_rounded": draw.rounded}
    if flat or draw.chance(0.5):
        draw.passthrough(**kind)
    else:
        draw.conv(draw.between(1, 9), 1, **draw.numbers(channels) | kind)
    if draw.chance(0.4) and not flat:
        draw.some_conv(draw.between(1, 6))
    return draw.finish("eltwise", number)


def flatten(rng: np.random.Generator, number: int) -> Case:
    """Linear layers of features, several, wide ones at the end."""
    draw = Draw(rng, image(rng, int(rng.choice([1, 3, 12, 20])), 1, 8))
    if draw.chance(0.5):
        draw.some_conv(draw.between(1, 10))
    wide = draw.chance(0.5)
    draw.features(draw.pick(1, 2, 10, 21), wide=wide)
    if not wide:
        draw.features(draw.between(1, 12), wide=draw.chance(0.7))
    return draw.finish("flatten", number)


def features(rng: np.random.Generator, number: int) -> Case:
    """More features than a KPU layer reads as channels, and more than it reads at all."""
    shape = [(65, 4, 4), (128, 3, 3), (17, 8, 8), (150, 8, 8)][int(rng.choice(4, p=[0.3, 0.3, 0.3, 0.1]))]
    draw = Draw(rng, shape)
    draw.features(draw.pick(1, 5, 10), wide=draw.chance(0.3))
    return draw.finish("features", number)


def conv1d(rng: np.random.Generator, number: int) -> Case:
    """Conv1d with kernels of 1 to 9 taps, padded, dilated, pooled, strided."""
    draw = Draw(rng, (int(rng.integers(1, 20)), int(rng.integers(4, 80)), 1))
    for _ in range(draw.between(1, 3)):
        pool = draw.pool(draw.last.height, 1)
        rows = pool.output_size(draw.last.height, 1)[0]
        kernel = draw.between(1, min(9, rows))
        pad = draw.between(0, min(4, kernel - 1))
        dilation = draw.between(1, 4) if draw.chance(0.3) else 1
        if rows + 2 * pad < (kernel - 1) * dilation + 1:
            dilation = 1
        draw.conv1d(draw.between(1, 16), kernel, pad, pool=pool, dilation=dilation,
                    **draw.numbers(draw.last.channels * kernel))
    if draw.chance(0.3):
        draw.features(draw.between(1, 8), wide=draw.chance(0.6))
    return draw.finish("conv1d", number)


def transposed(rng: np.random.Generator, number: int) -> Case:
    """ConvTranspose2d with every padding."""
    draw = Draw(rng, image(rng, int(rng.choice([1, 3, 16, 40])), 2, 8))
    draw.transposed(draw.pick(1, 4, 9), draw.between(0, 2), **draw.numbers(draw.last.channels * 9))
    if draw.chance(0.5):
        draw.some_conv(draw.between(1, 6))
    return draw.finish("transposed", number)


def small(rng: np.random.Generator, number: int) -> Case:
    """Maps and sequences below the KPU's 4x4."""
    height, width = int(rng.integers(1, 5)), int(rng.integers(1, 5))
    draw = Draw(rng, (int(rng.integers(1, 40)), height, width))
    for _ in range(draw.between(1, 3)):
        kernel = 3 if min(draw.last.height, draw.last.width) > 1 and draw.chance(0.6) else 1
        draw.conv(draw.between(1, 20), kernel, kernel // 2, **draw.numbers(draw.last.channels * kernel * kernel))
    if draw.chance(0.3):
        draw.features(draw.between(1, 8), wide=draw.chance(0.6))
    return draw.finish("small", number)


def lines(rng: np.random.Generator, number: int) -> Case:
    """Widths around the borders of the line layout: 16, 32, 64 and their multiples."""
    width = int(rng.choice([15, 16, 17, 31, 32, 33, 63, 64, 65, 128, 130]))
    draw = Draw(rng, (int(rng.integers(1, 6)), int(rng.integers(4, 9)), width))
    for _ in range(draw.between(1, 2)):
        draw.some_conv(draw.between(1, 6))
    return draw.finish("lines", number)


def many(rng: np.random.Generator, number: int) -> Case:
    """Up to 1024 channels on either side, more outputs than a KPU layer has, Abs beyond 512."""
    draw = Draw(rng, (int(rng.choice([65, 128, 300, 1024])), *((4, 4) if rng.random() < 0.5 else (1, 1))))
    kernel = 3 if draw.last.channels <= 128 and draw.last.height > 1 and draw.chance(0.5) else 1
    outputs = draw.pick(1, 8, 70, 600, 1024 if draw.last.channels < 1024 else 40)
    draw.conv(outputs, kernel, kernel // 2, **draw.numbers(draw.last.channels * kernel * kernel))
    if outputs <= 600 and draw.chance(0.5):
        draw.conv(draw.between(1, 9), 1, **draw.numbers(outputs))
    return draw.finish("many", number)


def outputs(rng: np.random.Generator, number: int) -> Case:
    """Several output layers, wide ones among them, and cropped or reshaped sources."""
    draw = Draw(rng, image(rng))
    first = draw.copied(-1, outputs=draw.between(1, 9))
    crop = draw.between(0, 2)
    shape = draw.shape_of(first)
    cropped = TensorShape(shape.channels, shape.height - crop, shape.width)
    second = draw.conv(draw.between(1, 9), 1, inputs=(first,), operand=cropped, in_crop=(crop, 0),
                       **draw.numbers(shape.channels))
    flat = TensorShape(draw.last.channels, draw.last.height * draw.last.width, 1)
    spec = ConvSpec(kernel=(min(3, flat.height), 1))
    third = draw._add(Op.CONV1D, draw.between(1, 5), spec, inputs=(second,), operand=flat, **draw.numbers(27))
    chosen = [first, third] if draw.chance(0.5) else [first, second, third]
    if draw.chance(0.4):
        chosen.append(draw.features(draw.between(1, 5), wide=True))
    return draw.finish("outputs", number, tuple(sorted(chosen)))


def residual(rng: np.random.Generator, number: int) -> Case:
    """Blocks of depthwise and pointwise layers with a sum around them, as in mobile networks."""
    draw = Draw(rng, image(rng, draw_channels(rng), 4, 10))
    for _ in range(draw.between(1, 2)):
        source, channels = len(draw.layers) - 1, draw.last.channels
        draw.conv(channels * draw.between(1, 3), 1, **draw.numbers(channels))
        draw.conv(draw.last.channels, 3, groups=draw.last.channels, **draw.numbers(9))
        draw.conv(channels, 1, **draw.numbers(draw.last.channels))
        draw.add(source, len(draw.layers) - 1)
    if draw.chance(0.5):
        draw.some_conv(draw.between(1, 8))
    return draw.finish("residual", number)


def sums(rng: np.random.Generator, number: int) -> Case:
    """Sums and differences of two tensors of many channels on small maps, pooled, convolved, alone."""
    shape = image(rng, int(rng.integers(1, 5)), 1, 6)
    draw = Draw(rng, shape)
    channels = draw.pick(33, 100, 260, 513)
    first = draw.conv(channels, 1, inputs=(-1,), **draw.numbers(shape[0]))
    second = draw.conv(channels, 1, inputs=(-1,), **draw.numbers(shape[0]))
    kind = {"inputs": draw.pick((first, second), (second, first), (first, first)),
            "eltwise": draw.pick(Eltwise.ADD, Eltwise.SUB), "average_rounded": draw.rounded,
            "pool": draw.pool(*shape[1:]), "pool_first": draw.chance(0.5)}
    if draw.chance(0.5):
        draw.passthrough(**kind)
    else:
        draw.conv(draw.between(1, 6), 1, **draw.numbers(channels) | kind)
    return draw.finish("sums", number)


def permitted(rng: np.random.Generator, number: int) -> Case:
    """What needs a layer type of our own, or may be off: averages of many cells; bits of two to four tensors."""
    draw = Draw(rng, image(rng, low=16, high=22))
    channels = draw.last.channels
    inexact = draw.chance(0.4)
    if inexact or draw.chance(0.5):
        draw.conv(draw.between(1, 6), 1, **draw.numbers(channels))
        window = (draw.between(13, draw.last.height), draw.between(13, draw.last.width))
        draw.passthrough(pool=PoolSpec(kind=Pool.AVG, window=window, stride=(draw.between(1, 3),) * 2),
                         average_rounded=draw.rounded)
    else:
        made = [draw.copied(-1) for _ in range(draw.between(1, 3))]
        draw.passthrough(inputs=(*made, -1), eltwise=draw.pick(Eltwise.OR, Eltwise.XOR),
                         pool=draw.pool(draw.last.height, draw.last.width), pool_first=draw.chance(0.5),
                         average_rounded=draw.rounded)
    if draw.chance(0.5):
        draw.conv(draw.between(1, 6), 1, **draw.numbers(draw.last.channels))
    return replace(draw.finish("permitted", number), forms=Forms(own_layers=not inexact, inexact=inexact))


Kind = Callable[[np.random.Generator, int], Case]

KINDS: Mapping[str, Kind] = {
    kind.__name__: kind
    for kind in (conv2d, depthwise, pools, concatenation, eltwise, flatten, features, conv1d, transposed, small, lines,
                 many, outputs, residual, sums, permitted)
}
"""Every corner; a run takes them in turn, so each gets its share."""


def draw_case(seed: int, number: int, kind: str = "") -> Case | None:
    """The case with this number, the same on every machine; None where the draw contradicts itself.

    Args:
        seed: of the run.
        number: of the case.
        kind: of `KINDS`; by number in turn where empty.
    """
    name = kind or list(KINDS)[number % len(KINDS)]
    rng = np.random.default_rng([seed, number])
    try:
        return KINDS[name](rng, number)
    except ValueError:  # the network representation refuses it
        return None
