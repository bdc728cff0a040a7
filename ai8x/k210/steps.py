"""The steps a kmodel runs, before they have addresses.

Between the network (tensors) and the file (bytes) stand these records: a KPU layer reads a map, writes a map and
perhaps a copy to main memory; CPU layers work in main memory or fill a map. The modules named ``legalize*`` make
them, `lower.py` places them and `encode.py` writes them. Every step says which network layer it serves, so that
reports and verification can name it.

Source: spec/k210-kmodel.md sections 8 to 10.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.k210.device import channel_groups, channels_per_line, map_lines
from ai8x.k210.kmodel_base import KModelLayer
from ai8x.k210.parameters import KpuParameters
from ai8x.network.ir import Eltwise, PoolSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class KpuMap:
    """A tensor in KPU RAM, stored as bytes ``a + 128``."""

    name: str
    channels: int
    height: int
    width: int

    @property
    def lines(self) -> int:
        """Lines of KPU RAM that the map occupies; section 2."""
        return map_lines(self.channels, self.height, self.width)

    @property
    def size_bytes(self) -> int:
        """Dense size, one byte per element."""
        return self.channels * self.height * self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class MapView:
    """Maps of equal height and width that lie one after the other and are read as one.

    Between two parts a partly filled group of channels leaves positions that belong to no channel; they carry
    zero weights (section 13.2, "operands adjacent").
    """

    parts: tuple[KpuMap, ...]

    @property
    def height(self) -> int:
        """Rows."""
        return self.parts[0].height

    @property
    def width(self) -> int:
        """Columns."""
        return self.parts[0].width

    @property
    def positions(self) -> tuple[int, ...]:
        """Position in the combined map of every channel, parts in order."""
        shared = channels_per_line(self.width)
        base = 0
        result: list[int] = []
        for part in self.parts:
            result.extend(base + channel for channel in range(part.channels))
            base += channel_groups(part.channels, self.width) * shared
        return tuple(result)

    @property
    def channels(self) -> int:
        """Channels of the combined map, unused positions included."""
        return self.positions[-1] + 1

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts."""
        return tuple(part.name for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class MainBuffer:
    """A tensor in main memory: ``u8`` bytes ``a + 128`` in C, H, W order, or ``f32`` values."""

    name: str
    elements: int
    is_float: bool = False

    @property
    def size_bytes(self) -> int:
        """Bytes of the content."""
        return self.elements * (4 if self.is_float else 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConvStep:
    """One KPU layer.

    Args:
        name: for reports.
        layer: index of the network layer it serves.
        source: what it reads.
        target: the map it writes, after pooling.
        parameters: weights and register values.
        kernel: 1 or 3.
        depthwise: one input channel per output channel.
        pool: pool type code of section 6.
        main: main-memory copy of the result, or None.
    """

    name: str
    layer: int
    source: MapView
    target: KpuMap
    parameters: KpuParameters
    kernel: int
    depthwise: bool = False
    pool: int = 0
    main: MainBuffer | None = None


class CpuOp(enum.Enum):
    """Element-wise and dense CPU layers that the lowering uses, by the names of section 9."""

    DEQUANTIZE = "DEQUANTIZE"
    FULLY_CONNECTED = "FULLY_CONNECTED"
    QUANTIZE = "QUANTIZE"
    GLOBAL_AVERAGE_POOL2D = "GLOBAL_AVERAGE_POOL2D"
    REQUANTIZE = "REQUANTIZE"
    REMOVE_PADDING = "K210_REMOVE_PADDING"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CpuStep:
    """One CPU layer from one main-memory tensor to another.

    Args:
        name, layer: as in `ConvStep`.
        op: which layer type.
        source, target: main-memory tensors.
        scale, offset: of a (de)quantisation: ``q * scale + offset``, or its inverse.
        weights: float64 array (out, in) of integer values, for a fully connected layer.
        bias: float64 array (out,) likewise.
        relu: clip at 0.
        table: uint8 array (256,) of a requantisation.
    """

    name: str
    layer: int
    op: CpuOp
    source: MainBuffer
    target: MainBuffer
    scale: float = 1.0
    offset: float = 0.0
    weights: NDArray[Any] | None = None
    bias: NDArray[Any] | None = None
    relu: bool = False
    table: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """Consecutive bytes of a main-memory tensor."""

    buffer: MainBuffer
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GatherStep:
    """QUANTIZED_CONCAT: byte ranges copied one after the other; crops, pads, interleaves and concatenates."""

    name: str
    layer: int
    ranges: tuple[ByteRange, ...]
    target: MainBuffer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaxPoolStep:
    """QUANTIZED_MAX_POOL2D without padding; a window of 1x1 subsamples.

    Args:
        name, layer: as in `ConvStep`.
        source, target: dense maps in main memory.
        shape, out_shape: (C, H, W) of both.
        window, stride: rows and columns.
    """

    name: str
    layer: int
    source: MainBuffer
    target: MainBuffer
    shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    window: tuple[int, int]
    stride: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EltwiseStep:
    """An element-wise combination of two tensors in main memory: QUANTIZED_ADD, or a bitwise layer of our own.

    Args:
        name, layer: as in `ConvStep`.
        first, second: the operands; may be the same.
        target: the result, limited as activations are.
        operation: what combines them.
    """

    name: str
    layer: int
    first: MainBuffer
    second: MainBuffer
    target: MainBuffer
    operation: Eltwise


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AverageStep:
    """Averages of windows in main memory: AVERAGE_POOL2D of floats, or an integer layer of our own.

    Args:
        name, layer: as in `ConvStep`.
        source, target: dense maps in main memory; floats for AVERAGE_POOL2D.
        shape, out_shape: (C, H, W) of both.
        pool: window, stride, dilation.
        rounded: half away from zero instead of truncating; of our own layer only.
    """

    name: str
    layer: int
    source: MainBuffer
    target: MainBuffer
    shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    pool: PoolSpec
    rounded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatStep:
    """A CPU layer of any type, from one main-memory tensor to another.

    Args:
        name: for reports.
        layer: index of the layer it serves.
        source, target: main-memory tensors.
        body: makes the kmodel layer of the addresses of source and target.
    """

    name: str
    layer: int
    source: MainBuffer
    target: MainBuffer
    body: Callable[[int, int], KModelLayer]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UploadStep:
    """K210_UPLOAD of a dense map, or K210_ADD_PADDING of single values into cell (0, 0) of 4x4 maps.

    Args:
        name, layer: as in `ConvStep`.
        source: bytes in main memory.
        target: the map that is filled.
        single: only cell (0, 0) of every channel is written.
    """

    name: str
    layer: int
    source: MainBuffer
    target: KpuMap
    single: bool = False


Step = ConvStep | CpuStep | GatherStep | MaxPoolStep | AverageStep | EltwiseStep | FloatStep | UploadStep


def maps_read(step: Step) -> tuple[KpuMap, ...]:
    """Maps in KPU RAM that a step reads."""
    return step.source.parts if isinstance(step, ConvStep) else ()


def map_written(step: Step) -> KpuMap | None:
    """The map in KPU RAM that a step writes."""
    return step.target if isinstance(step, ConvStep | UploadStep) else None


def buffers_read(step: Step) -> tuple[MainBuffer, ...]:
    """Main-memory tensors that a step reads."""
    if isinstance(step, ConvStep):
        return ()
    if isinstance(step, GatherStep):
        return tuple(dict.fromkeys(place.buffer for place in step.ranges))
    if isinstance(step, EltwiseStep):
        return tuple(dict.fromkeys((step.first, step.second)))
    return (step.source,)


def buffer_written(step: Step) -> MainBuffer | None:
    """The main-memory tensor that a step writes."""
    if isinstance(step, ConvStep):
        return step.main
    return None if isinstance(step, UploadStep) else step.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Part of a map: the cells that hold a tensor."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerResult:
    """Where the tensor of one network layer can be seen.

    Args:
        layer: index of the network layer.
        steps: the steps whose results, one after the other along the channels, hold it; empty for the network's
            input.
        window: cells of the maps that hold it; None for a dense main-memory tensor.
        pool: pooling that the step fused behind the layer: the visible tensor is the pooled one.
        wide: the values are the 32-bit accumulators (as floats) instead of bytes ``a + 128``.
    """

    layer: int
    steps: tuple[int, ...]
    window: Window | None = None
    pool: PoolSpec | None = None
    wide: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Inexact:
    """A pooled tensor that may be off.

    Args:
        source: index of the network layer that is pooled, `NETWORK_INPUT` for the input.
        pool: the pooling.
        step: the step that makes the pooled tensor, dense in main memory.
        bound: largest distance from the exact integer.
        reason: why there is no exact form.
    """

    source: int
    pool: PoolSpec
    step: int
    bound: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweredSteps:
    """A network as steps.

    Args:
        steps: in execution order.
        input_map: the map that receives the image.
        results: one for each network layer, in order.
        outputs: main-memory tensors that the runner returns, one for each network output.
        inexact: tensors that may be off; empty unless the user allowed it.
    """

    steps: tuple[Step, ...]
    input_map: KpuMap
    results: tuple[LayerResult, ...]
    outputs: tuple[MainBuffer, ...]
    inexact: tuple[Inexact, ...] = ()


def zero_bias(channels: int) -> NDArray[np.int64]:
    """Accumulator terms of a layer without bias."""
    return np.zeros(channels, np.int64)
