"""Layers and placements at the limits of the chip, for the tests of the constraints."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ai8x.errors import Diagnostic
from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.placement import LayerPlacement, Placement, channel_passes
from ai8x.network.ir import ConvSpec, Layer, Network, Op, Pool, PoolSpec, TensorShape

from .lowering_examples import conv, network_of, place

ALL = (1 << 64) - 1
"""Every processor."""


def lowest(channels: int) -> int:
    """The lowest processors for so many channels."""
    return (1 << channel_passes(channels)[1]) - 1


def findings(network: Network, *places: LayerPlacement, **changes: Any) -> tuple[Diagnostic, ...]:
    """Diagnostics of a placed network."""
    return check_network(network, Placement(layers=places, **changes), MAX78000).items


def codes(network: Network, *places: LayerPlacement, **changes: Any) -> list[str]:
    """Codes of the errors and warnings, without notices."""
    return [item.code for item in findings(network, *places, **changes) if item.level != "notice"]


def single(layer: Layer, **changes: Any) -> list[str]:
    """Codes for a network of one layer on the lowest processors, its output far from the input."""
    fields = {
        "processors": lowest(layer.operand_shape.channels),
        "outputs": lowest(layer.out_shape.channels),
        "out_offset": 0x4000,
    }
    fifo = changes.pop("fifo", False)
    return codes(network_of(layer), place(**{**fields, **changes}), fifo=fifo)


def conv1d(length: int = 100, kernel: int = 3, dilation: int = 1, pad: int = 0, **changes: Any) -> Layer:
    """A Conv1d of 4 channels with weights of one."""
    pool = changes.pop("pool", PoolSpec())
    out_length = pool.output_size(length, 1)[0] + 2 * pad - dilation * (kernel - 1)
    fields = {
        "name": "conv",
        "index": 0,
        "op": Op.CONV1D,
        "inputs": (-1,),
        "operand_shape": TensorShape(4, length, 1),
        "out_shape": TensorShape(4, out_length, 1),
        "pool": pool,
        "conv": ConvSpec(kernel=(kernel, 1), padding=(pad, 0), dilation=(dilation, 1)),
        "weights": np.ones((4, 4, kernel, 1), np.int64),
    }
    return Layer(**{**fields, **changes})


def shaped(shape: Sequence[int], out_shape: Sequence[int], spec: ConvSpec, op: Op = Op.CONV2D,
           **changes: Any) -> Layer:
    """A convolution with any geometry, without weights."""
    fields = {
        "name": "conv",
        "index": 0,
        "op": op,
        "inputs": (-1,),
        "operand_shape": TensorShape(*shape),
        "out_shape": TensorShape(*out_shape),
        "conv": spec,
    }
    return Layer(**{**fields, **changes})


def transposed(**changes: Any) -> Layer:
    """A ConvTranspose2d of a 4x4 image, 3x3, stride 2, pad 1 unless changed."""
    spec: dict[str, Any] = {"kernel": (3, 3), "padding": (1, 1), "stride": (2, 2), "output_padding": 1, **changes}
    size = 3 * spec["stride"][0] - 2 * spec["padding"][0] + spec["kernel"][0] + spec["output_padding"]
    return shaped((4, 4, 4), (4, size, size), ConvSpec(**spec), Op.CONV_TRANSPOSE2D)


def pooled(window: int, stride: int = 1, size: int = 20) -> Layer:
    """Maximum pooling of a square image, then a convolution."""
    return conv(0, (4, size, size), 4, pool=PoolSpec(kind=Pool.MAX, window=(window, window), stride=(stride, stride)))


def wide(shape: tuple[int, int, int], channels: int, **changes: Any) -> Layer:
    """A convolution without weights: only shapes matter."""
    return conv(0, shape, channels, weights=None, **changes)


PLAIN = ConvSpec(kernel=(3, 3), padding=(1, 1))
"""A 3x3 kernel that keeps the size."""


def streamed(*, places: Sequence[LayerPlacement] = (), count: int = 2, pads: Sequence[int] = (),
             fifo: bool = True) -> list[str]:
    """A chain of streaming layers, then one that does not stream; buffers in memories of their own."""
    pads = pads or [1] * count
    sizes, layers = 16, []
    for index, pad in enumerate([*pads, 1]):
        layers.append(conv(index, (4, sizes, sizes), 4, pad=pad))
        sizes += 2 * pad - 2
    maps = [0xF, 0xF0, 0xF00, 0xF000, 0xF << 16, 0xF << 20, 0xF << 24, 0xF << 28, 0xF << 32, 0xF << 36, 0xF << 40]
    places = places or [place(maps[i], maps[i + 1], 0, 0, streaming=i < count) for i in range(count + 1)]
    return codes(network_of(*layers), *places, fifo=fifo)
