"""Collects steps, and knows for every tensor where it exists: in KPU maps, in main memory, or both.

The modules named ``legalize*`` decide what is computed; they ask the builder for a convolution of tensors, and the
builder finds a map that suits it, copying and framing tensors where none does. Start at `StepBuilder.convolve` and
`Tensor`.

Source: spec/k210-kmodel.md sections 9, 13.2 and 14.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.arithmetic import INT8
from ai8x.k210.device import K210, channels_per_line, channels_per_load, map_lines
from ai8x.k210.forms import EXACT_FORMS, Forms
from ai8x.k210.frames import AxisWork, Frame, FramePlan, fit_margins, plan_frame, side_by_side
from ai8x.k210.main_memory import MainMemoryBuilder
from ai8x.k210.parameters import KpuParameters, NotExact, exact_parameters
from ai8x.k210.steps import ConvStep, KpuMap, MainBuffer, MapView, UploadStep, zero_bias
from ai8x.k210.tensors import Tensor
from ai8x.network.ir import Layer, TensorShape

MakeParameters = Callable[[NDArray[np.int64], slice], KpuParameters]
"""(weights as the KPU holds them, which output channels they are of) -> parameters."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ConvWork:
    """A convolution to be done by the KPU.

    Args:
        name: of the steps, for reports.
        layer: the network layer it serves.
        weights: int64 array (out, in, row, column) of at most 3x3 taps; depthwise (channels, 1, row, column).
        rows, columns: the axes.
        parameters: makes the KPU's numbers.
        pool: pool type code of section 6.
        depthwise: one input channel per output channel.
    """

    name: str
    layer: Layer
    weights: NDArray[np.int64]
    rows: AxisWork
    columns: AxisWork
    parameters: MakeParameters
    pool: int = 0
    depthwise: bool = False

    @property
    def is_pointwise(self) -> bool:
        """Every output depends on the same cell of the input, so the arrangement of cells is free."""
        return all((w.kernel, w.pad, w.step, w.reach, w.count) == (1, 0, 1, 1, w.length)
                   for w in (self.rows, self.columns))

    def arranged(self, height: int, width: int) -> ConvWork:
        """Pointwise work on the same cells in other rows and columns."""
        return replace(self, rows=AxisWork(length=height, count=height), columns=AxisWork(length=width, count=width))


class StepBuilder(MainMemoryBuilder):
    """The steps so far, and what convolutions need: maps that suit them."""

    def __init__(self, forms: Forms = EXACT_FORMS) -> None:
        super().__init__(forms)
        self._neighbours: dict[str, tuple[str, ...]] = {}

    # ------------------------------------------------------------------------------------------ convolutions

    def convolve(self, operands: Sequence[Tensor], work: ConvWork, *, upload: bool = True) -> Tensor | None:
        """Convolve tensors that are concatenated along the channels.

        Args:
            operands: of equal height and width.
            work: what to do.
            upload: make a suitable map where no existing one is; otherwise None is returned then.

        Raises:
            NotExact: no KPU map allows the work, or a number exceeds its register.
        """
        shape = TensorShape(len(work.weights), work.rows.count, work.columns.count)
        found = self._suitable(operands, work)
        if found is None:
            if not upload:
                return None
            found = self._uploaded(operands, work)
        frame, plan, work = found
        parts = self._emit(self._adjacent(frame, work.layer), plan, work)
        result = Frame(view=MapView(parts=parts), top=plan.rows.start, left=plan.columns.start,
                       height=work.rows.count, width=work.columns.count)
        return Tensor(shape=shape, frames=[result])

    def identity(self, operands: Sequence[Tensor], layer: Layer, name: str) -> Tensor:
        """A copy of tensors as one tensor in one map."""
        shape = operands[0].shape
        channels = sum(tensor.shape.channels for tensor in operands)
        work = identity_work(layer, name, TensorShape(channels, shape.height, shape.width))
        copy = self.convolve(operands, work)
        assert copy is not None
        return copy

    def _suitable(self, operands: Sequence[Tensor], work: ConvWork) -> tuple[Frame, FramePlan, ConvWork] | None:
        """Existing frames of all operands with one geometry in which the work can be done."""
        for first in operands[0].frames:
            suited = work
            if work.is_pointwise and first.is_whole:
                suited = work.arranged(first.height, first.width)
            plan = plan_frame(first, suited.rows, suited.columns)
            frames = [next((f for f in tensor.frames if f.geometry == first.geometry), None) for tensor in operands]
            if plan is None or any(f is None for f in frames):
                continue
            combined = side_by_side(f for f in frames if f is not None)
            if combined.view.channels <= K210.limits.max_channels:
                return combined, plan, suited
        return None

    def _uploaded(self, operands: Sequence[Tensor], work: ConvWork) -> tuple[Frame, FramePlan, ConvWork]:
        """The operands brought to the KPU in a map made for the work."""
        shape = operands[0].shape
        channels = sum(tensor.shape.channels for tensor in operands)
        arrangement = arranged_size(shape) if work.is_pointwise else None
        if arrangement is not None:
            work = work.arranged(*arrangement)
            buffer = self.concatenated(operands, work.layer)
            frame = self.upload(buffer, TensorShape(channels, *arrangement), work.layer)
        else:
            margins = fit_margins(work.rows, work.columns)
            if margins is None:
                raise NotExact(f"no KPU map suits a tensor of {shape}")
            frame = self._framed(operands, work, margins.top, margins.left,
                                 (shape.height + margins.top + margins.bottom,
                                  shape.width + margins.left + margins.right))
        if len(operands) == 1:
            operands[0].frames.append(frame)
        plan = plan_frame(frame, work.rows, work.columns)
        assert plan is not None, f"margins were fitted to this work: {frame} {work}"
        return frame, plan, work

    def _framed(self, operands: Sequence[Tensor], work: ConvWork, top: int, left: int,
                size: tuple[int, int]) -> Frame:
        shape = operands[0].shape
        channels = sum(tensor.shape.channels for tensor in operands)
        reads_outside = work.rows.reads_outside or work.columns.reads_outside
        if shape.height * shape.width == 1 and not reads_outside and size == (K210.limits.min_map,) * 2:
            buffer = self.concatenated(operands, work.layer)
            return self.upload_single(buffer, work.layer)
        buffer = self.padded(operands, work.layer, top, left, size)
        whole = self.upload(buffer, TensorShape(channels, *size), work.layer)
        return replace(whole, top=top, left=left, height=shape.height, width=shape.width, clean=True)

    def upload(self, buffer: MainBuffer, shape: TensorShape, layer: Layer) -> Frame:
        """A dense main-memory map in the KPU."""
        check_map(shape)
        target = self.new_map(shape)
        self.append(UploadStep(name=f"{layer.name}: upload", layer=layer.index, source=buffer, target=target))
        return Frame(view=MapView(parts=(target,)), height=shape.height, width=shape.width)

    def upload_single(self, buffer: MainBuffer, layer: Layer) -> Frame:
        """Single values as cell (0, 0) of 4x4 maps."""
        size = K210.limits.min_map
        shape = TensorShape(buffer.elements, size, size)
        check_map(shape)
        target = self.new_map(shape)
        self.append(UploadStep(name=f"{layer.name}: upload", layer=layer.index, source=buffer, target=target,
                               single=True))
        return Frame(view=MapView(parts=(target,)), height=1, width=1)

    def _adjacent(self, frame: Frame, layer: Layer) -> Frame:
        """The frame, its parts copied first where they cannot lie side by side."""
        names = frame.view.names
        if len(names) == 1:
            return frame
        taken = any(self._neighbours.get(name, names) != names for name in names)
        if taken or len(set(names)) != len(names) or self.input_map in frame.view.parts:
            copies = [self._copied(part, layer) for part in frame.view.parts]
            frame = replace(frame, view=MapView(parts=tuple(copies)))
            names = frame.view.names
        self._neighbours.update(dict.fromkeys(names, names))
        return frame

    def _copied(self, source: KpuMap, layer: Layer) -> KpuMap:
        """Another map with the same bytes; the cells around a tensor stay what they are."""
        shape = TensorShape(source.channels, source.height, source.width)
        frame = Frame(view=MapView(parts=(source,)), height=source.height, width=source.width)
        work = identity_work(layer, f"{layer.name}: copy", shape)
        plan = plan_frame(frame, work.rows, work.columns)
        assert plan is not None
        (copy,) = self._emit(frame, plan, work)
        return copy

    # ------------------------------------------------------------------------------------------ KPU layers

    def _emit(self, frame: Frame, plan: FramePlan, work: ConvWork) -> tuple[KpuMap, ...]:
        """The KPU layers of one convolution: several where the output channels are too many for one."""
        view = frame.view
        check_map(TensorShape(view.channels, view.height, view.width))
        height, width = view.height // work.rows.step, view.width // work.columns.step
        is_depthwise = work.depthwise and view.channels == len(view.positions)
        weights = work.weights if is_depthwise or not work.depthwise else dense_weights(work.weights, len(work.weights))
        weights = embed_taps(weights, plan)
        if not is_depthwise:
            weights = spread_channels(weights, view)
        limit = len(weights) if is_depthwise else outputs_per_layer(len(weights), weights.shape[1], plan.kernel, width)
        parts = []
        for start in range(0, len(weights), limit):
            channels = slice(start, min(start + limit, len(weights)))
            target = self.new_map(TensorShape(channels.stop - channels.start, height, width))
            self.append(ConvStep(
                name=work.name, layer=work.layer.index, source=view, target=target, kernel=plan.kernel,
                parameters=work.parameters(weights[channels], channels), depthwise=is_depthwise, pool=work.pool))
            parts.append(target)
        return tuple(parts)


def identity_work(layer: Layer, name: str, shape: TensorShape) -> ConvWork:
    """A 1x1 convolution that copies."""
    return ConvWork(name=name, layer=layer, weights=np.eye(shape.channels, dtype=np.int64)[:, :, None, None],
                    rows=AxisWork(length=shape.height, count=shape.height),
                    columns=AxisWork(length=shape.width, count=shape.width), parameters=copying_parameters)


def copying_parameters(weights: NDArray[np.int64], channels: slice) -> KpuParameters:
    """Parameters that neither scale nor clip."""
    return exact_parameters(weights, zero_bias(len(weights)), shift=0, low=INT8.min)


def spread_channels(weights: NDArray[Any], view: MapView) -> NDArray[np.int64]:
    """Dense weights (out, in, row, column) with zero columns where the view has positions of no channel."""
    wide = np.zeros((len(weights), view.channels, *weights.shape[2:]), np.int64)
    wide[:, list(view.positions)] = weights
    return wide


def dense_weights(weights: NDArray[Any], in_channels: int) -> NDArray[np.int64]:
    """Grouped weights (out, in/groups, row, column) as dense ones; other groups' inputs weigh 0."""
    outputs, per_group = weights.shape[:2]
    groups = in_channels // per_group
    dense = np.zeros((outputs, in_channels, *weights.shape[2:]), np.int64)
    for output in range(outputs):
        first = output // (outputs // groups) * per_group
        dense[output, first : first + per_group] = weights[output]
    return dense


def embed_taps(weights: NDArray[Any], plan: FramePlan) -> NDArray[np.int64]:
    """Weights at their place in the KPU's kernel."""
    height, width = weights.shape[2:]
    embedded = np.zeros((*weights.shape[:2], plan.kernel, plan.kernel), np.int64)
    embedded[:, :, plan.rows.tap : plan.rows.tap + height, plan.columns.tap : plan.columns.tap + width] = weights
    return embedded


def outputs_per_layer(out_channels: int, in_channels: int, kernel: int, width: int) -> int:
    """Output channels of one KPU layer: at most 1024, at most 64 weight loads; whole groups where it is not all.

    Source: sections 4.2 and 14.
    """
    limits = K210.limits
    most = min(limits.max_channels, limits.max_weight_loads * channels_per_load(in_channels, out_channels, kernel))
    if out_channels <= most:
        return out_channels
    shared = channels_per_line(width)
    return most // shared * shared


def arranged_size(shape: TensorShape) -> tuple[int, int] | None:
    """Rows and columns in which a tensor fills a KPU map: its own where the KPU has such maps, else folded."""
    limits = K210.limits
    if (limits.min_map <= shape.height <= limits.max_height and limits.min_map <= shape.width <= limits.max_width):
        return shape.height, shape.width
    return fold(shape.height * shape.width, shape.channels)


def fold(cells: int, channels: int) -> tuple[int, int] | None:
    """Rows and columns of a KPU map that holds exactly so many cells, in the fewest lines; None if there is none."""
    limits = K210.limits
    sizes = [(cells // width, width) for width in range(limits.min_map, min(limits.max_width, cells) + 1)
             if cells % width == 0 and limits.min_map <= cells // width <= limits.max_height]
    return min(sizes, key=lambda size: (map_lines(channels, *size), size), default=None)


def check_map(shape: TensorShape) -> None:
    """Refuse a map that the KPU does not hold.

    Raises:
        NotExact: too many channels, rows or columns; section 7.
    """
    limits = K210.limits
    if shape.channels > limits.max_channels:
        raise NotExact(f"a KPU layer would read {shape.channels} channels; it reads at most {limits.max_channels}")
    if shape.height > limits.max_height or shape.width > limits.max_width:
        raise NotExact(f"a map of {shape.height} rows and {shape.width} columns exceeds the KPU's {limits.max_height} "
                       f"rows and {limits.max_width} columns")
