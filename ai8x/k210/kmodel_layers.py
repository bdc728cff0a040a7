"""The layers of a kmodel v3 file as frozen dataclasses, one for each layer type.

Owns the field order of every body; `kmodel.py` owns the file around them. A body is described by the dataclass
itself: fields made with `u32`, `i32` and `f32` stand in the file in the order in which they stand in the class.
Addresses are byte offsets in the runner's main buffer, KPU addresses are lines. Start at `LAYER_CLASSES`.

Source: spec/k210-kmodel.md sections 8.1 and 9.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ai8x.k210.kmodel_base import (
    Act,
    KModelLayer,
    LayerType,
    MemoryRange,
    TailReader,
    UnknownLayer,
    f32,
    freeze_fields,
    i32,
    layer_type,
    layer_type_name,
    u32,
)
from ai8x.k210.kmodel_conv import ActivationTable, BatchNorm, K210Conv, weight_shape
from ai8x.k210.kmodel_own import OWN_LAYERS

__all__ = [
    "LAYER_CLASSES",
    "Act",
    "ActivationTable",
    "Add",
    "AveragePool2d",
    "BatchNorm",
    "ChannelwiseDequantize",
    "Concat",
    "ConcatLayer",
    "Dequantize",
    "FlattenLayer",
    "FullyConnected",
    "GlobalAveragePool2d",
    "K210AddPadding",
    "K210Conv",
    "K210RemovePadding",
    "K210Upload",
    "KModelLayer",
    "L2Normalization",
    "LayerType",
    "Logistic",
    "MemoryRange",
    "Pool2dLayer",
    "Quantize",
    "QuantizedAdd",
    "QuantizedConcat",
    "QuantizedMaxPool2d",
    "QuantizedResizeNearestNeighbor",
    "QuantizedTensorflowFlatten",
    "Requantize",
    "ResizeLayer",
    "ResizeNearestNeighbor",
    "ScaledLayer",
    "Softmax",
    "TensorflowFlatten",
    "UnknownLayer",
    "VectorLayer",
    "layer_type",
    "layer_type_name",
    "weight_shape",
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Add(KModelLayer):
    """Float addition of two tensors of `count` elements."""

    TYPE: ClassVar[LayerType] = LayerType.ADD
    input_a: int = u32()
    input_b: int = u32()
    output: int = u32()
    count: int = u32()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedAdd(KModelLayer):
    """Byte addition; each operand has an offset, a factor and a right shift."""

    TYPE: ClassVar[LayerType] = LayerType.QUANTIZED_ADD
    input_a: int = u32()
    input_b: int = u32()
    output: int = u32()
    count: int = u32()
    offset_a: int = i32()
    mul_a: int = i32()
    shift_a: int = i32()
    offset_b: int = i32()
    mul_b: int = i32()
    shift_b: int = i32()
    offset_output: int = i32()
    mul_output: int = i32()
    shift_output: int = i32()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GlobalAveragePool2d(KModelLayer):
    """Float mean of every channel; `kernel_size` is height times width."""

    TYPE: ClassVar[LayerType] = LayerType.GLOBAL_AVERAGE_POOL2D
    input: int = u32()
    output: int = u32()
    kernel_size: int = u32()
    channels: int = u32()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool2dLayer(KModelLayer):
    """Geometry shared by the two pooling layers of the CPU."""

    input: int = u32()
    output: int = u32()
    input_width: int = u32()
    input_height: int = u32()
    input_channels: int = u32()
    output_width: int = u32()
    output_height: int = u32()
    output_channels: int = u32()
    kernel_width: int = u32()
    kernel_height: int = u32()
    stride_width: int = u32()
    stride_height: int = u32()
    pad_width: int = u32()
    pad_height: int = u32()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedMaxPool2d(Pool2dLayer):
    """Byte maximum over windows clipped to the map."""

    TYPE: ClassVar[LayerType] = LayerType.QUANTIZED_MAX_POOL2D


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AveragePool2d(Pool2dLayer):
    """Float mean over the valid cells of windows; the runner ignores `act`."""

    TYPE: ClassVar[LayerType] = LayerType.AVERAGE_POOL2D
    act: int = u32()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScaledLayer(KModelLayer):
    """Conversion between bytes and floats with one scale and one bias."""

    input: int = u32()
    output: int = u32()
    count: int = u32()
    scale: float = f32()
    bias: float = f32()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Quantize(ScaledLayer):
    """Float to byte: ``round((x - bias) / scale)``, clamped."""

    TYPE: ClassVar[LayerType] = LayerType.QUANTIZE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dequantize(ScaledLayer):
    """Byte to float: ``q * scale + bias``."""

    TYPE: ClassVar[LayerType] = LayerType.DEQUANTIZE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Requantize(KModelLayer):
    """Byte to byte through a table of 256 entries."""

    TYPE: ClassVar[LayerType] = LayerType.REQUANTIZE
    input: int = u32()
    output: int = u32()
    count: int = u32()
    table: NDArray[np.uint8]

    def __post_init__(self) -> None:
        """Make arrays read-only and check shapes."""
        freeze_fields(self, np.uint8, "table")
        if self.table.shape != (256,):
            raise ValueError(f"a requantize table has 256 entries, not {self.table.shape}")

    def tail(self) -> bytes:
        """The table."""
        return self.table.tobytes()

    @classmethod
    def tail_fields(cls, scalars: dict[str, Any], reader: TailReader) -> dict[str, Any]:
        """The table."""
        return {"table": reader.take("u1", 256, "table")}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VectorLayer(KModelLayer):
    """A layer that gives one element for each channel."""

    input: int = u32()
    output: int = u32()
    channels: int = u32()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class L2Normalization(VectorLayer):
    """Float vector divided by its length."""

    TYPE: ClassVar[LayerType] = LayerType.L2_NORMALIZATION


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Softmax(VectorLayer):
    """Float softmax over one vector."""

    TYPE: ClassVar[LayerType] = LayerType.SOFTMAX


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConcatLayer(KModelLayer):
    """Copies ranges of the main buffer one after the other; the general gather of byte runs."""

    output: int = u32()
    ranges: tuple[MemoryRange, ...]

    def tail(self) -> bytes:
        """Count of ranges, then start and size of each."""
        pairs = b"".join(struct.pack("<2I", r.address, r.size) for r in self.ranges)
        return struct.pack("<I", len(self.ranges)) + pairs

    @classmethod
    def tail_fields(cls, scalars: dict[str, Any], reader: TailReader) -> dict[str, Any]:
        """The ranges."""
        count = int(reader.take("<u4", 1, "number of ranges")[0])
        numbers = reader.take("<u4", 2 * count, "ranges").reshape(count, 2).tolist()
        return {"ranges": tuple(MemoryRange(address=address, size=size) for address, size in numbers)}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Concat(ConcatLayer):
    """Concatenation of float data."""

    TYPE: ClassVar[LayerType] = LayerType.CONCAT


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedConcat(ConcatLayer):
    """Concatenation of byte data."""

    TYPE: ClassVar[LayerType] = LayerType.QUANTIZED_CONCAT


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FullyConnected(KModelLayer):
    """Float matrix times vector. Shapes: weights (out, in), bias (out,), both float32."""

    TYPE: ClassVar[LayerType] = LayerType.FULLY_CONNECTED
    input: int = u32()
    output: int = u32()
    input_channels: int = u32()
    output_channels: int = u32()
    act: int = u32()
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Make arrays read-only and check shapes."""
        freeze_fields(self, np.float32, "weights", "bias")
        expected = (self.output_channels, self.input_channels)
        if self.weights.shape != expected or self.bias.shape != expected[:1]:
            raise ValueError(f"weights {self.weights.shape} and bias {self.bias.shape} do not fit "
                             f"{self.input_channels} -> {self.output_channels} channels")

    def tail(self) -> bytes:
        """Weights, then bias."""
        return self.weights.tobytes() + self.bias.tobytes()

    @classmethod
    def tail_fields(cls, scalars: dict[str, Any], reader: TailReader) -> dict[str, Any]:
        """Weights and bias."""
        outputs, inputs = scalars["output_channels"], scalars["input_channels"]
        weights = reader.take("<f4", outputs * inputs, "weights").reshape(outputs, inputs)
        return {"weights": weights, "bias": reader.take("<f4", outputs, "bias")}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FlattenLayer(KModelLayer):
    """Transposes (C, H, W) to (H, W, C)."""

    input: int = u32()
    output: int = u32()
    width: int = u32()
    height: int = u32()
    channels: int = u32()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorflowFlatten(FlattenLayer):
    """The transposition of float data."""

    TYPE: ClassVar[LayerType] = LayerType.TENSORFLOW_FLATTEN


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedTensorflowFlatten(FlattenLayer):
    """The transposition of bytes; known to Sipeed's drivers only, the stock SDK stops at it."""

    TYPE: ClassVar[LayerType] = LayerType.QUANTIZED_TENSORFLOW_FLATTEN


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResizeLayer(KModelLayer):
    """Nearest-neighbour resize; the runner ignores `align_corners`."""

    input: int = u32()
    output: int = u32()
    input_width: int = u32()
    input_height: int = u32()
    channels: int = u32()
    output_width: int = u32()
    output_height: int = u32()
    align_corners: int = u32()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ResizeNearestNeighbor(ResizeLayer):
    """Resize of float data."""

    TYPE: ClassVar[LayerType] = LayerType.RESIZE_NEAREST_NEIGHBOR


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedResizeNearestNeighbor(ResizeLayer):
    """Resize of bytes."""

    TYPE: ClassVar[LayerType] = LayerType.QUANTIZED_RESIZE_NEAREST_NEIGHBOR


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelwiseDequantize(KModelLayer):
    """Byte to float with scale and bias of each channel; both float32 (channels,)."""

    TYPE: ClassVar[LayerType] = LayerType.CHANNELWISE_DEQUANTIZE
    input: int = u32()
    output: int = u32()
    channels: int = u32()
    channel_size: int = u32()
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __post_init__(self) -> None:
        """Make arrays read-only and check shapes."""
        freeze_fields(self, np.float32, "scale", "bias")
        if self.scale.shape != (self.channels,) or self.bias.shape != (self.channels,):
            raise ValueError(f"scale {self.scale.shape} and bias {self.bias.shape} do not fit {self.channels} channels")

    def tail(self) -> bytes:
        """Scale and bias in turn."""
        return np.stack([self.scale, self.bias], axis=1).tobytes()

    @classmethod
    def tail_fields(cls, scalars: dict[str, Any], reader: TailReader) -> dict[str, Any]:
        """Scale and bias."""
        channels = scalars["channels"]
        pairs = reader.take("<f4", 2 * channels, "scales").reshape(channels, 2)
        return {"scale": pairs[:, 0], "bias": pairs[:, 1]}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Logistic(VectorLayer):
    """Float sigmoid of `channels` elements."""

    TYPE: ClassVar[LayerType] = LayerType.LOGISTIC


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class K210AddPadding(KModelLayer):
    """Puts bytes into cell (0, 0) of 4x4 maps in KPU RAM; the other cells keep what they hold."""

    TYPE: ClassVar[LayerType] = LayerType.K210_ADD_PADDING
    input: int = u32()
    kpu_line: int = u32()
    channels: int = u32()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class K210RemovePadding(VectorLayer):
    """Takes cell (0, 0) of dense 4x4 maps in the main buffer."""

    TYPE: ClassVar[LayerType] = LayerType.K210_REMOVE_PADDING


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class K210Upload(KModelLayer):
    """Copies a dense byte map from the main buffer to KPU RAM."""

    TYPE: ClassVar[LayerType] = LayerType.K210_UPLOAD
    input: int = u32()
    kpu_line: int = u32()
    width: int = u32()
    height: int = u32()
    channels: int = u32()


LAYER_CLASSES: tuple[type[KModelLayer], ...] = (
    Add, QuantizedAdd, GlobalAveragePool2d, QuantizedMaxPool2d, AveragePool2d, Quantize, Dequantize, Requantize,
    L2Normalization, Softmax, Concat, QuantizedConcat, FullyConnected, TensorflowFlatten, QuantizedTensorflowFlatten,
    ResizeNearestNeighbor, QuantizedResizeNearestNeighbor, ChannelwiseDequantize, Logistic, K210AddPadding,
    K210RemovePadding, K210Upload, *OWN_LAYERS)
"""Every layer whose body is scalars and a tail; `K210Conv` has pointers into the file instead."""
