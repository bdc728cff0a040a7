"""Builds single KPU layers and models for the tests, straight from the specification and without the lowering."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.k210 import device
from ai8x.k210.kmodel import KModel
from ai8x.k210.kmodel_layers import ActivationTable, BatchNorm, K210Conv, KModelLayer, MemoryRange

Segment = tuple[int, int, int, int]
"""start, mul, shift, bias"""


def pattern_image(channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """The input of the golden vectors; spec section 18."""
    c, y, x = np.ogrid[:channels, :height, :width]
    return ((37 * c + 11 * y + 5 * x + 3 * x * y) % 256).astype(np.uint8)


def pattern_weights(outputs: int, inputs: int, kernel: int) -> NDArray[np.uint8]:
    """The weight bytes of the golden vectors; spec section 18."""
    o, i, y, x = np.ogrid[:outputs, :inputs, :kernel, :kernel]
    return ((29 * o + 17 * i + 7 * y + 13 * x) % 256).astype(np.uint8)


def table(segments: Sequence[Segment]) -> ActivationTable:
    """An activation table; the rest is filled with segments that are never reached."""
    rest = [(device.TABLE_UNREACHABLE_START + i, 0, 0, segments[-1][3]) for i in range(device.TABLE_SEGMENTS)]
    start, mul, shift, bias = (np.array(column) for column in zip(*[*segments, *rest][: device.TABLE_SEGMENTS],
                                                                  strict=True))
    return ActivationTable(start=start, mul=mul, shift=shift, bias=bias)


IDENTITY = table([(device.TABLE_MIN_START, 0, 0, 0), (0, 1, 0, 0)])
"""Clamps to a byte."""


def plain_norm(channels: int) -> BatchNorm:
    """Batch norm that changes nothing."""
    return BatchNorm(mul=np.ones(channels, int), shift=np.zeros(channels, int), add=np.zeros(channels, int))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes and places of a layer."""

    height: int
    width: int
    source: int = 0
    destination: int = 32_000
    pool: int = 0
    depthwise: bool = False


def layer_fields(weights: NDArray[Any], shape: Shape) -> dict[str, int]:
    """The fields of section 3 that follow from the sizes; one weight load."""
    outputs, kernel = weights.shape[0], weights.shape[2]
    inputs = outputs if shape.depthwise else weights.shape[1]
    stride = (1, 2, 2, 4, 4, 2, 2, 4, 1, 1)[shape.pool]
    height, width = shape.height // stride, shape.width // stride

    def group(columns: int) -> int:
        return 4 if columns <= 16 else 2 if columns <= 32 else 1

    def row_lines(columns: int) -> int:
        return -(-columns // 64)

    return {
        "depth_wise_layer": int(shape.depthwise), "image_src_addr": shape.source, "image_dst_addr": shape.destination,
        "i_ch_num": inputs - 1, "o_ch_num": outputs - 1, "o_ch_num_coef": outputs - 1,
        "i_row_wid": shape.width - 1, "i_col_high": shape.height - 1, "o_row_wid": width - 1, "o_col_high": height - 1,
        "kernel_type": kernel // 2, "pool_type": shape.pool, "load_para": 1, "dma_burst_size": 15,
        "load_coor": 1, "load_time": 0, "para_size": weights.nbytes,
        "channel_switch_addr": row_lines(shape.width) * shape.height, "row_switch_addr": row_lines(shape.width),
        "coef_group": group(shape.width), "load_act": 1, "wb_channel_switch_addr": row_lines(width) * height,
        "wb_row_switch_addr": row_lines(width), "wb_group": group(width),
        "channel_byte_num": (height * width - 1) & 0xFFFF, "dma_total_byte": outputs * height * width - 1,
    }


def conv(weights: NDArray[Any], shape: Shape, *, norm: BatchNorm | None = None, act: ActivationTable = IDENTITY,
         main_memory_output: int | None = 0, **fields: int) -> K210Conv:
    """A KPU layer; further keywords are fields of the layer argument."""
    words = device.encode_layer_argument(layer_fields(weights, shape) | fields)
    return K210Conv(words=words, weights=weights, batch_norm=norm or plain_norm(len(weights)), activation=act,
                    main_memory_output=main_memory_output)


def output_size(layer: K210Conv) -> int:
    """Bytes of the result."""
    return layer.fields["dma_total_byte"] + 1


def model(*layers: KModelLayer, size: int, main_mem_usage: int | None = None) -> KModel:
    """A model with one output at address 0; 16-bit if its weights are."""
    wide = any(isinstance(layer, K210Conv) and layer.weights.dtype == np.uint16 for layer in layers)
    return KModel(layers=layers, outputs=(MemoryRange(address=0, size=size),), flags=0 if wide else 1,
                  main_mem_usage=-(-size // 8) * 8 if main_mem_usage is None else main_mem_usage)


def single(layer: K210Conv) -> KModel:
    """A model of one layer."""
    return model(layer, size=output_size(layer))
