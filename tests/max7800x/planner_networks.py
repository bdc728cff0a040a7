"""Random networks that the chip can run if they are placed well, for the tests of the planner.

Graphs with branches, element-wise operations, concatenations and channel counts around the limits of a pass; every
layer alone keeps the chip's limits, so that a refusal is the planner's own.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ai8x.arithmetic import weight_type
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

CHANNELS = (1, 2, 3, 4, 5, 8, 12, 13, 16, 20, 31, 32, 48, 60, 63, 64, 65, 68, 96, 100, 128, 130)
"""Around the limits: lanes, quadrants, passes."""

MAX_CONCATENATED = 192


@st.composite
def placeable_networks(draw: st.DrawFn, max_layers: int = 6, channels: tuple[int, ...] = CHANNELS) -> Network:
    """Networks of up to `max_layers` layers on images of up to 7x7, or on 1-D data."""
    is_1d = draw(st.integers(0, 3)) == 0
    shape = TensorShape(draw(st.sampled_from(channels)), draw(st.integers(3, 24 if is_1d else 7)),
                        1 if is_1d else draw(st.integers(3, 7)))
    known = {NETWORK_INPUT: shape}
    chain: list[Layer] = []
    for index in range(draw(st.integers(1, max_layers))):
        layer = draw(placeable_layers(index, known, channels))
        chain.append(layer)
        if layer.output_bits == 8:
            known[index] = layer.out_shape
    outputs = draw(st.lists(st.sampled_from(range(len(chain))), max_size=2, unique=True))
    return Network(name="random", dataset="noise", input_shape=shape, layers=tuple(chain),
                   outputs=tuple(sorted({*outputs, len(chain) - 1})))


@st.composite
def sources(draw: st.DrawFn, known: Mapping[int, TensorShape]) -> tuple[tuple[int, ...], Eltwise | None, TensorShape]:
    """One source, operands of equal shape, or parts of equal size; recent tensors are likelier."""
    recent = sorted(known)[-3:]
    first = draw(st.sampled_from(recent))
    shape = known[first]
    kind = draw(st.sampled_from(("single", "single", "eltwise", "concatenation")))
    if kind == "eltwise":
        equal = [index for index, other in known.items() if other == shape]
        others = draw(st.lists(st.sampled_from(equal), min_size=1, max_size=2))
        return (first, *others), draw(st.sampled_from(Eltwise)), shape
    if kind == "concatenation":
        equal = [index for index, other in known.items() if (other.height, other.width) == (shape.height, shape.width)]
        inputs = (first, *draw(st.lists(st.sampled_from(equal), min_size=1, max_size=2)))
        total = sum(known[index].channels for index in inputs)
        if total <= MAX_CONCATENATED:
            return inputs, None, TensorShape(total, shape.height, shape.width)
    return (first,), None, shape


@st.composite
def placeable_layers(draw: st.DrawFn, index: int, known: Mapping[int, TensorShape], channels: tuple[int, ...]) -> Layer:
    """A layer that keeps the limits of the chip by itself."""
    inputs, eltwise, operand = draw(sources(known))
    crop = 0
    if operand.height > 3 and draw(st.integers(0, 5)) == 0:
        crop = 1
        operand = TensorShape(operand.channels, operand.height - 1, operand.width)
    passes = -(-operand.channels // 64)
    emulated = eltwise is not None and passes > 1 and not (passes == 2 and len(inputs) == 2)
    op = draw(st.sampled_from(_operators(operand, eltwise, emulated=emulated)))
    pool = PoolSpec()
    if not emulated and op is not Op.CONV_TRANSPOSE2D and min(operand.height, operand.width * 9) > 3 \
            and not (op is Op.PASSTHROUGH and passes > 1) and draw(st.integers(0, 2)) == 0:
        window = (2, 1 if operand.width == 1 else 2)
        pool = PoolSpec(kind=draw(st.sampled_from((Pool.MAX, Pool.AVG))), window=window,
                        stride=(2, 1 if operand.width == 1 else 2))
    pooled = TensorShape(operand.channels, *pool.output_size(operand.height, operand.width))
    pool_first = not (eltwise is not None and len(inputs) == 2 and not pool.is_identity and draw(st.booleans()))
    common: dict[str, Any] = {
        "name": f"layer{index}", "index": index, "op": op, "inputs": inputs, "operand_shape": operand, "pool": pool,
        "eltwise": eltwise, "pool_first": pool_first, "in_crop": (crop, 0),
    }
    if op is Op.PASSTHROUGH:
        return Layer(out_shape=pooled, **common)
    return draw(_weighted(common, pooled, channels))


def _operators(operand: TensorShape, eltwise: Eltwise | None, *, emulated: bool) -> list[Op]:
    if emulated:
        return [Op.PASSTHROUGH]
    found = [Op.CONV2D, Op.CONV2D, Op.PASSTHROUGH]
    if operand.width == 1 and eltwise is None:
        return [Op.CONV1D, Op.CONV1D, Op.PASSTHROUGH]
    if operand.height * operand.width <= 16 and eltwise is None:
        found.append(Op.CONV_TRANSPOSE2D)
    return found


@st.composite
def _weighted(draw: st.DrawFn, common: dict[str, Any], pooled: TensorShape, channels: tuple[int, ...]) -> Layer:
    op = common["op"]
    flatten = op is not Op.CONV_TRANSPOSE2D and common["pool"].is_identity and pooled.numel <= 1600 \
        and draw(st.integers(0, 9)) == 0
    count = draw(st.sampled_from([c for c in channels if c * pooled.channels <= 6000] or [1]))
    if flatten:
        common, conv, size, count = {**common, "op": Op.LINEAR}, ConvSpec(), (1, 1), min(count, 10)
    else:
        conv = draw(_geometry(op, pooled))
        size = conv.output_size(pooled.height, pooled.width, is_transposed=op is Op.CONV_TRANSPOSE2D)
    bits = draw(st.sampled_from((8, 4, 2, 1)))
    wide = draw(st.integers(0, 9)) == 0
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    features = pooled.numel if flatten else pooled.channels
    limits = weight_type(bits)
    bias = rng.integers(-128, 128, count) if count <= 100 and draw(st.booleans()) else None
    return Layer(
        out_shape=TensorShape(count, *size), conv=conv, flatten=flatten, weight_bits=bits,
        weights=rng.integers(limits.min, limits.max, (count, features, *conv.kernel), endpoint=True), bias=bias,
        output_shift=draw(st.integers(-8, 2)), output_bits=32 if wide else 8,
        activation=Activation.NONE if wide else draw(st.sampled_from(Activation)), **common)


@st.composite
def _geometry(draw: st.DrawFn, op: Op, pooled: TensorShape) -> ConvSpec:
    if op is Op.CONV_TRANSPOSE2D:
        return ConvSpec(kernel=(3, 3), padding=(1, 1), stride=(2, 2), output_padding=1)
    if op is Op.CONV1D:
        if pooled.height >= 12 and draw(st.booleans()):
            kernel = draw(st.integers(2, 3))
            return ConvSpec(kernel=(kernel, 1), dilation=(draw(st.integers(1, (pooled.height - 1) // (kernel - 1))), 1))
        kernel = draw(st.integers(1, min(9, pooled.height)))
        return ConvSpec(kernel=(kernel, 1), padding=(draw(st.integers(0, min(2, kernel - 1))), 0))
    kernel = draw(st.sampled_from((1, 3) if min(pooled.height, pooled.width) >= 3 else (1,)))
    pad = draw(st.integers(0, min(2, kernel - 1)))
    return ConvSpec(kernel=(kernel, kernel), padding=(pad, pad))
