"""Hypothesis strategies and builders: shapes, layers, small random networks, and the files that describe them.

Arrays are drawn by seed and pattern, not element by element, so that networks shrink quickly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

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

PATTERNS = ("random", "random", "random", "minimum", "maximum", "zero", "one hot", "alternating")


def fill(shape: tuple[int, ...], low: int, high: int, *, seed: int, pattern: str) -> NDArray[np.int64]:
    """An int64 array of values low..high."""
    if pattern == "minimum":
        return np.full(shape, low, np.int64)
    if pattern == "maximum":
        return np.full(shape, high, np.int64)
    rng = np.random.default_rng(seed)
    array = np.zeros(shape, np.int64)
    if pattern == "one hot":
        array.flat[int(rng.integers(array.size))] = high or low
    elif pattern == "alternating":
        array.flat[::2], array.flat[1::2] = low, high
    elif pattern == "random":
        array = rng.integers(low, high, shape, endpoint=True)
    return array


@st.composite
def integer_arrays(draw: st.DrawFn, shape: tuple[int, ...], low: int = -128, high: int = 127) -> NDArray[np.int64]:
    """Arrays of random or extreme values."""
    return fill(shape, low, high, seed=draw(st.integers(0, 2**16)), pattern=draw(st.sampled_from(PATTERNS)))


def shapes(max_channels: int = 5, max_size: int = 7) -> st.SearchStrategy[TensorShape]:
    """2-D and 1-D tensor shapes."""
    channels, size = st.integers(1, max_channels), st.integers(1, max_size)
    return st.one_of(st.builds(TensorShape, channels, size, size), st.builds(TensorShape, channels, size, st.just(1)))


@st.composite
def pools(draw: st.DrawFn, height: int, width: int) -> PoolSpec:
    """No pooling, pooling, or subsampling that the data allows."""
    kind = draw(st.sampled_from((Pool.NONE, Pool.NONE, Pool.MAX, Pool.AVG)))
    window = (1, 1)
    if kind is not Pool.NONE:
        window = (draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width))))
    stride = draw(st.integers(1, 3)) if kind is not Pool.NONE or draw(st.booleans()) else 1
    return PoolSpec(kind=kind, window=window, stride=(stride, 1 if width == 1 else stride))


@st.composite
def convolutions(draw: st.DrawFn, op: Op, height: int, width: int, channels: int) -> ConvSpec:
    """A geometry that fits data of this size."""
    if op is Op.LINEAR:
        return ConvSpec()
    groups = draw(st.sampled_from([n for n in (1, 1, 1, 2, channels) if channels % n == 0]))
    if op is Op.CONV_TRANSPOSE2D:
        pad = draw(st.integers(0, 1 if min(height, width) == 1 else 2))
        return ConvSpec(kernel=(3, 3), padding=(pad, pad), stride=(2, 2), groups=groups, output_padding=1)
    if op is Op.CONV1D:
        dilation = draw(st.integers(1, 3))
        pad = draw(st.integers(0, 2))
        kernel = draw(st.integers(1, max(1, (height + 2 * pad - 1) // dilation + 1)))
        return ConvSpec(kernel=(kernel, 1), padding=(pad, 0), dilation=(dilation, 1), groups=groups,
                        stride=(draw(st.integers(1, 2)), 1))
    size = draw(st.sampled_from([k for k in (1, 3) if k <= min(height, width)] or [1]))
    pad = draw(st.integers(0, 2))
    return ConvSpec(kernel=(size, size), padding=(pad, pad), groups=groups, stride=(draw(st.integers(1, 2)),) * 2)


@st.composite
def operands(draw: st.DrawFn, known: Mapping[int, TensorShape]) -> tuple[tuple[int, ...], Eltwise | None, TensorShape]:
    """Inputs, combination and shape of the source for a layer that may read the known tensors."""
    first = draw(st.sampled_from(sorted(known)))
    shape = known[first]
    kind = draw(st.sampled_from(("single", "single", "eltwise", "concatenation")))
    if kind == "eltwise":
        equal = [index for index, other in known.items() if other == shape]
        others = draw(st.lists(st.sampled_from(equal), min_size=1, max_size=3))
        return (first, *others), draw(st.sampled_from(Eltwise)), shape
    if kind == "concatenation":
        equal = [index for index, other in known.items() if (other.height, other.width) == (shape.height, shape.width)]
        inputs = (first, *draw(st.lists(st.sampled_from(equal), min_size=1, max_size=2)))
        return inputs, None, TensorShape(sum(known[i].channels for i in inputs), shape.height, shape.width)
    return (first,), None, shape


@st.composite
def layers(draw: st.DrawFn, index: int, known: Mapping[int, TensorShape]) -> Layer:
    """A layer that reads some of the known tensors."""
    inputs, eltwise, source = draw(operands(known))
    crop = (draw(st.integers(0, 1)), 0) if source.height > 1 and draw(st.integers(0, 4)) == 0 else (0, 0)
    height, width = source.height - crop[0], source.width
    if width > 1 and draw(st.integers(0, 3)) == 0:
        height, width = height * width, 1
    operand = TensorShape(source.channels, height, width)
    pool = draw(pools(height, width))
    pooled = TensorShape(operand.channels, *pool.output_size(height, width))
    choices = [Op.CONV2D, Op.LINEAR, Op.PASSTHROUGH, Op.CONV_TRANSPOSE2D] + [Op.CONV1D, Op.CONV1D] * (width == 1)
    op = draw(st.sampled_from(choices))
    common: dict[str, Any] = {
        "name": f"layer{index}", "index": index, "op": op, "inputs": inputs, "operand_shape": operand, "pool": pool,
        "eltwise": eltwise, "pool_first": eltwise is None or draw(st.booleans()), "in_crop": crop,
        "average_rounded": False,
    }
    if op is Op.PASSTHROUGH:
        return Layer(out_shape=pooled, **common)
    flatten = op is Op.LINEAR and draw(st.booleans())
    conv = draw(convolutions(op, pooled.height, pooled.width, pooled.channels))
    out_channels = conv.groups * draw(st.integers(1, 3))
    size = (1, 1) if flatten else conv.output_size(pooled.height, pooled.width,
                                                   is_transposed=op is Op.CONV_TRANSPOSE2D)
    bits = draw(st.sampled_from((8, 8, 4, 2, 1)))
    wide = draw(st.integers(0, 5)) == 0
    features = pooled.numel if flatten else pooled.channels
    weights = draw(integer_arrays((out_channels, features // conv.groups, *conv.kernel), weight_type(bits).min,
                                  weight_type(bits).max))
    bias = draw(st.none() | integer_arrays((out_channels,)))
    return Layer(
        out_shape=TensorShape(out_channels, *size), conv=conv, flatten=flatten, weights=weights, weight_bits=bits,
        bias=bias, output_shift=draw(st.integers(-15, 15)), output_bits=32 if wide else 8,
        activation=Activation.NONE if wide else draw(st.sampled_from(Activation)), **common)


@st.composite
def networks(draw: st.DrawFn, max_layers: int = 4, max_channels: int = 5, max_size: int = 7) -> Network:
    """Small networks that exercise every feature of the representation; weights and biases included."""
    input_shape = draw(shapes(max_channels, max_size))
    known = {NETWORK_INPUT: input_shape}
    chain = []
    for index in range(draw(st.integers(1, max_layers))):
        layer = draw(layers(index, known))
        chain.append(layer)
        if layer.output_bits == 8 and layer.out_shape.numel <= 2000:
            known[index] = layer.out_shape
    return Network(name="random", dataset="noise", input_shape=input_shape, layers=tuple(chain))


def samples(network: Network) -> st.SearchStrategy[NDArray[np.int64]]:
    """Inputs (C, H, W) of a network."""
    return integer_arrays(network.input_shape.as_tuple())


def network_yaml(network: Network) -> str:
    """The network as a file of the description language, without placement."""
    lines = [f"arch: {network.name}", f"dataset: {network.dataset}", "layers:"]
    for layer in network.layers:
        keys = _layer_keys(layer, network)
        lines += [f"{'  - ' if i == 0 else '    '}{key}: {value}" for i, (key, value) in enumerate(keys.items())]
    return "\n".join(lines) + "\n"


def _layer_keys(layer: Layer, network: Network) -> dict[str, object]:
    keys: dict[str, object] = {"op": layer.op.value, "in_sequences": list(layer.inputs),
                               "in_dim": [layer.operand_shape.height, layer.operand_shape.width]}
    if layer.eltwise is not None:
        keys |= {"eltwise": layer.eltwise.value, "operands": len(layer.inputs),
                 "pool_first": str(layer.pool_first).lower()}
    if any(layer.in_crop):
        keys["in_crop"] = list(layer.in_crop)
    if layer.pool.kind is not Pool.NONE:
        keys[f"{layer.pool.kind.value}_pool"] = list(layer.pool.window)
    if not layer.pool.is_identity:
        keys["pool_stride"] = list(layer.pool.stride)
    if layer.conv is not None:
        conv = layer.conv
        keys |= {"pad": conv.padding[0], "kernel_size": f"{conv.kernel[0]}x{conv.kernel[1]}",
                 "stride": list(conv.stride), "dilation": list(conv.dilation), "groups": conv.groups,
                 "output_pad": conv.output_padding, "activate": layer.activation.value,
                 "flatten": str(layer.flatten), "output_width": layer.output_bits}
    if layer.index in network.outputs:
        keys["output"] = "true"
    return keys


def network_state(network: Network) -> dict[str, NDArray[Any]]:
    """The network's parameters as a quantised state_dict."""
    state: dict[str, NDArray[Any]] = {}
    for layer in network.layers:
        if layer.weights is None or layer.weight_source is not None:
            continue
        state[f"{layer.name}.op.weight"] = torch_weights(layer).astype(np.float32)
        if layer.bias is not None:
            state[f"{layer.name}.op.bias"] = (layer.bias << (layer.weight_bits - 1)).astype(np.float32)
        state[f"{layer.name}.output_shift"] = np.array([layer.output_shift + layer.weight_bits - 8], np.float32)
        state[f"{layer.name}.weight_bits"] = np.array([layer.weight_bits])
    return state


def torch_weights(layer: Layer) -> NDArray[Any]:
    """A layer's weights in the order in which torch stores them."""
    if layer.weights is None or layer.conv is None:
        raise ValueError("a pass-through has no weights")
    weights = layer.weights
    if layer.op is Op.CONV_TRANSPOSE2D:
        flipped = weights[:, :, ::-1, ::-1]
        return np.concatenate([block.transpose(1, 0, 2, 3) for block in np.split(flipped, layer.conv.groups)])
    if layer.op is Op.CONV1D:
        return weights[..., 0]
    return weights[..., 0, 0] if layer.op is Op.LINEAR else weights


