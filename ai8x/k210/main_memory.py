"""Steps that work in main memory: copies out of the KPU, crops, pads, unfolded maps, tables, max pooling.

Start at `MainMemoryBuilder.main_of`.

Source: spec/k210-kmodel.md sections 8.1, 9 and 14.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.k210.device import K210
from ai8x.k210.forms import EXACT_FORMS, Forms
from ai8x.k210.frames import Frame
from ai8x.k210.gather import Dense, RangeList, Row, needs_zeros, placed_rows, row_ranges
from ai8x.k210.parameters import ZERO_POINT, NotExact
from ai8x.k210.steps import (
    AverageStep,
    ByteRange,
    ConvStep,
    CpuOp,
    CpuStep,
    EltwiseStep,
    GatherStep,
    KpuMap,
    MainBuffer,
    MaxPoolStep,
    Step,
    buffer_written,
    map_written,
)
from ai8x.k210.tensors import Tensor
from ai8x.network.ir import Eltwise, Layer, PoolSpec, TensorShape

OWN_MARK = "(layer type of our own)"
"""In the names of steps that only the generated stand-alone runner can run."""

_ZERO_REGION = 256
"""Bytes of the region of zero points that pads are copied from."""


class MainMemoryBuilder:
    """The steps so far, and the rearrangements that need main memory."""

    def __init__(self, forms: Forms = EXACT_FORMS) -> None:
        self.forms = forms
        self.steps: list[Step] = []
        self.input_map: KpuMap | None = None
        self._made: dict[str, int] = {}
        self._names = 0
        self._zeros: MainBuffer | None = None

    # ------------------------------------------------------------------------------------------ bookkeeping

    def append(self, step: Step) -> int:
        """Add a step; returns its index."""
        index = len(self.steps)
        self.steps.append(step)
        for made in (map_written(step), buffer_written(step)):
            if made is not None:
                self._made[made.name] = index
        return index

    def made_by(self, name: str) -> int | None:
        """Index of the step that writes a map or a main-memory tensor; None for the network's input."""
        return self._made.get(name)

    def new_map(self, shape: TensorShape) -> KpuMap:
        """A map of its own."""
        self._names += 1
        return KpuMap(name=f"map{self._names}", channels=shape.channels, height=shape.height, width=shape.width)

    def new_buffer(self, elements: int, *, is_float: bool = False) -> MainBuffer:
        """A main-memory tensor of its own."""
        self._names += 1
        return MainBuffer(name=f"main{self._names}", elements=elements, is_float=is_float)

    # ------------------------------------------------------------------------------------------ KPU to main memory

    def main_of(self, tensor: Tensor, layer: Layer) -> MainBuffer:
        """The tensor as dense bytes."""
        if tensor.main is None:
            tensor.main = self._from_origin(tensor, layer) if tensor.origin else self._from_frame(tensor, layer)
        return tensor.main

    def _from_origin(self, tensor: Tensor, layer: Layer) -> MainBuffer:
        assert tensor.origin is not None
        origin = tensor.origin
        buffer = self.main_of(origin, layer)
        if tensor.shape.numel == origin.shape.numel:
            return buffer
        if tensor.is_prefix:
            first = ByteRange(buffer=buffer, offset=0, size=tensor.shape.numel)
            return self._gathered((first,), first.size, f"{layer.name}: crop", layer)
        source = Dense(buffer=buffer, shape=origin.shape)
        rows = placed_rows(tensor.shape.channels, tensor.shape.height, -tensor.top, -tensor.left)
        return self.gather(source, rows, tensor.shape, f"{layer.name}: crop", layer)

    def _from_frame(self, tensor: Tensor, layer: Layer) -> MainBuffer:
        frame = tensor.frames[0]
        if frame.view.parts == (self.input_map,):
            frame = self._copy_of_input(frame, layer)
        parts = [self._copied_out(part, layer) for part in frame.view.parts]
        if len(parts) == 1 and frame.is_whole:
            return parts[0]
        size = K210.limits.min_map
        single = (frame.top, frame.left, frame.height, frame.width) == (0, 0, 1, 1)
        if len(parts) == 1 and single and (frame.view.height, frame.view.width) == (size, size):
            target = self.new_buffer(tensor.shape.channels)
            self.append(CpuStep(name=f"{layer.name}: crop", layer=layer.index, op=CpuOp.REMOVE_PADDING,
                                source=parts[0], target=target))
            return target
        ranges = RangeList(None)
        for part, buffer in zip(frame.view.parts, parts, strict=True):
            source = Dense(buffer=buffer, shape=TensorShape(part.channels, part.height, part.width))
            row_ranges(source, placed_rows(part.channels, frame.height, -frame.top, -frame.left), frame.width, ranges)
        return self._gathered(ranges.finish(), tensor.shape.numel, f"{layer.name}: crop", layer)

    def _copy_of_input(self, frame: Frame, layer: Layer) -> Frame:
        """The network's input by way of a KPU layer: only such a layer can hand bytes to main memory."""
        copy = self._copied(frame.view.parts[0], layer)
        return replace(frame, view=replace(frame.view, parts=(copy,)))

    def _copied(self, source: KpuMap, layer: Layer) -> KpuMap:
        raise NotImplementedError

    def _copied_out(self, part: KpuMap, layer: Layer) -> MainBuffer:
        """The main-memory copy that the KPU layer which makes the map sends out."""
        index = self._made[part.name]
        step = self.steps[index]
        assert isinstance(step, ConvStep), "an uploaded map has its bytes in main memory"
        if step.main is None:
            if part.height * part.width > K210.limits.max_fifo_map:
                raise NotExact(f"a map of {part.height}x{part.width} cannot leave the KPU, which sends at most "
                               f"{K210.limits.max_fifo_map} cells of a channel")
            step = replace(step, main=self.new_buffer(part.size_bytes))
            self.steps[index] = step
            assert step.main is not None
            self._made[step.main.name] = index
        assert step.main is not None
        return step.main

    # ------------------------------------------------------------------------------------------ rearrangements

    def gather(self, source: Dense, rows: Any, shape: TensorShape, name: str, layer: Layer) -> MainBuffer:
        """A dense map made of rows of another one; cells outside the source are 0.

        Args:
            source: where the rows come from.
            rows: every row of the result in order.
            shape: of the result.
            name: of the step.
            layer: which it serves.
        """
        wanted: list[Row] = list(rows)
        zeros = self.zero_region(source.buffer, layer) if needs_zeros(source, wanted, shape.width) else None
        ranges = RangeList(zeros)
        row_ranges(source, wanted, shape.width, ranges)
        return self._gathered(ranges.finish(), shape.numel, name, layer)

    def _gathered(self, ranges: tuple[ByteRange, ...], elements: int, name: str, layer: Layer) -> MainBuffer:
        if len(ranges) == 1 and ranges[0].offset == 0 and ranges[0].buffer.elements == elements:
            return ranges[0].buffer
        target = self.new_buffer(elements)
        self.append(GatherStep(name=name, layer=layer.index, ranges=ranges, target=target))
        return target

    def rearranged(self, ranges: tuple[ByteRange, ...], shape: TensorShape, name: str, layer: Layer) -> Tensor:
        """A tensor made of byte ranges."""
        return Tensor(shape=shape, main=self._gathered(ranges, shape.numel, name, layer))

    def concatenated(self, operands: Sequence[Tensor], layer: Layer) -> MainBuffer:
        """Tensors one after the other."""
        buffers = [self.main_of(tensor, layer) for tensor in operands]
        ranges = tuple(ByteRange(buffer=buffer, offset=0, size=tensor.shape.numel)
                       for buffer, tensor in zip(buffers, operands, strict=True))
        return self._gathered(ranges, sum(t.shape.numel for t in operands), f"{layer.name}: concatenate", layer)

    def padded(self, operands: Sequence[Tensor], layer: Layer, top: int, left: int,
               size: tuple[int, int]) -> MainBuffer:
        """Tensors one after the other, each at (top, left) of maps of zeros.

        Args:
            operands: the tensors.
            layer: which layer wants it.
            top: first row in the maps.
            left: first column in the maps.
            size: rows and columns of the maps.
        """
        sources = [Dense(buffer=self.main_of(tensor, layer), shape=tensor.shape) for tensor in operands]
        shape = operands[0].shape
        exact = size == (shape.height, shape.width)
        ranges = RangeList(None if exact else self.zero_region(sources[0].buffer, layer))
        for source in sources:
            row_ranges(source, placed_rows(source.shape.channels, size[0], top, left), size[1], ranges)
        channels = sum(tensor.shape.channels for tensor in operands)
        return self._gathered(ranges.finish(), channels * size[0] * size[1], f"{layer.name}: pad", layer)

    def zero_region(self, source: MainBuffer, layer: Layer) -> MainBuffer:
        """Main-memory bytes that all hold the zero point, made of any bytes by a table of one value.

        Source: section 14, last paragraph.
        """
        if self._zeros is None:
            table = np.full(256, ZERO_POINT, np.uint8)
            name = f"{layer.name}: zeros"
            part = self.new_buffer(min(_ZERO_REGION, source.elements))
            self.append(CpuStep(name=name, layer=layer.index, op=CpuOp.REQUANTIZE, source=source, target=part,
                                table=table))
            repeats = -(-_ZERO_REGION // part.elements)
            ranges = (ByteRange(buffer=part, offset=0, size=part.elements),) * repeats
            self._zeros = self._gathered(ranges, part.elements * repeats, name, layer) if repeats > 1 else part
        return self._zeros

    # ------------------------------------------------------------------------------------------ CPU layers

    def combined(self, operands: Sequence[Tensor], layer: Layer, operation: Eltwise) -> Tensor:
        """An element-wise combination: QUANTIZED_ADD of two tensors, or a bitwise operator on any number of them."""
        is_own = operation in (Eltwise.OR, Eltwise.XOR)
        name = f"{layer.name}: {operation.value} {OWN_MARK if is_own else 'on the CPU'}"
        result = self.main_of(operands[0], layer)
        for operand in operands[1:]:
            target = self.new_buffer(operand.shape.numel)
            self.append(EltwiseStep(name=name, layer=layer.index, first=result, second=self.main_of(operand, layer),
                                    target=target, operation=operation))
            result = target
        return Tensor(shape=operands[0].shape, main=result)

    def averaged(self, tensor: Tensor, layer: Layer, pool: PoolSpec) -> Tensor:
        """Exact averages by the layer type of our own."""
        shape = TensorShape(tensor.shape.channels, *pool.output_size(tensor.shape.height, tensor.shape.width))
        target = self.new_buffer(shape.numel)
        self.append(AverageStep(name=f"{layer.name}: pool {OWN_MARK}", layer=layer.index,
                                source=self.main_of(tensor, layer), target=target, shape=tensor.shape.as_tuple(),
                                out_shape=shape.as_tuple(), pool=pool, rounded=layer.average_rounded))
        return Tensor(shape=shape, main=target)

    def averaged_in_float(self, tensor: Tensor, layer: Layer, pool: PoolSpec) -> Tensor:
        """Averages by the float layers of every runner, rounded to the nearest byte."""
        shape = TensorShape(tensor.shape.channels, *pool.output_size(tensor.shape.height, tensor.shape.width))
        name = f"{layer.name}: pool"
        values, means = (self.new_buffer(numel, is_float=True) for numel in (tensor.shape.numel, shape.numel))
        target = self.new_buffer(shape.numel)
        self.append(CpuStep(name=f"{name} (dequantize)", layer=layer.index, op=CpuOp.DEQUANTIZE,
                            source=self.main_of(tensor, layer), target=values, offset=-ZERO_POINT))
        self.append(AverageStep(name=f"{name} (inexact)", layer=layer.index, source=values, target=means,
                                shape=tensor.shape.as_tuple(), out_shape=shape.as_tuple(), pool=pool))
        self.append(CpuStep(name=f"{name} (quantize)", layer=layer.index, op=CpuOp.QUANTIZE, source=means,
                            target=target, offset=-ZERO_POINT))
        return Tensor(shape=shape, main=target)

    def max_pooled(self, tensor: Tensor, layer: Layer, window: tuple[int, int], stride: tuple[int, int],
                   size: tuple[int, int]) -> Tensor:
        """QUANTIZED_MAX_POOL2D; a window of 1x1 subsamples.

        Args:
            tensor: what is pooled.
            layer: which layer wants it.
            window: rows and columns.
            stride: rows and columns.
            size: rows and columns of the result.
        """
        shape = TensorShape(tensor.shape.channels, *size)
        source = self.main_of(tensor, layer)
        target = self.new_buffer(shape.numel)
        self.append(MaxPoolStep(name=f"{layer.name}: pool", layer=layer.index, source=source, target=target,
                                shape=tensor.shape.as_tuple(), out_shape=shape.as_tuple(), window=window,
                                stride=stride))
        return Tensor(shape=shape, main=target)

    def mapped(self, tensor: Tensor, layer: Layer, function: Callable[[NDArray[np.int64]], NDArray[Any]]) -> Tensor:
        """A function of single activations, as a table."""
        table = function(np.arange(256, dtype=np.int64) - ZERO_POINT) + ZERO_POINT
        target = self.new_buffer(tensor.shape.numel)
        self.append(CpuStep(name=f"{layer.name}: table", layer=layer.index, op=CpuOp.REQUANTIZE,
                            source=self.main_of(tensor, layer), target=target, table=table.astype(np.uint8)))
        return Tensor(shape=tensor.shape, main=target)
