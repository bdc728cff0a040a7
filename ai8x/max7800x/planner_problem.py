"""The choices of a plan: which maps each group of tensors can have, and what depends on them.

Owns given maps and offsets (kept, or refused where they contradict each other), the candidate maps of every group,
and the words that each tensor occupies. Start at `Problem` and `build_problem`.

Source: spec/max78000-cnn.md sections 5.1 to 5.4, 6.2 and 6.3.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ai8x.errors import Diagnostic, Diagnostics, UserError
from ai8x.max7800x.constraints_base import Subject, layer_diagnostics, network_diagnostics
from ai8x.max7800x.constraints_layers import LAYER_RULES
from ai8x.max7800x.constraints_memory import check_in_offset, check_out_offset
from ai8x.max7800x.constraints_operands import OPERAND_RULES
from ai8x.max7800x.constraints_processors import (
    check_data_format,
    check_fast_fifo,
    check_fifo_channels,
    check_fifo_reader,
    check_layer_count,
    check_output_processor_count,
    check_processor_count,
)
from ai8x.max7800x.constraints_streaming import check_stream_layers
from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.geometry import HardwareLayer, hardware_layers
from ai8x.max7800x.placement import (
    LANES,
    PROCESSORS,
    QUADRANT_PROCESSORS,
    WORD_BYTES,
    DataFormat,
    LayerPlacement,
    Placement,
    channel_passes,
    format_map,
    lowest_bit,
    set_bits,
)
from ai8x.max7800x.planner_draft import Draft, PlanMode
from ai8x.max7800x.planner_layout import Frame, Layouts, last_use, tensor_of, tensor_width
from ai8x.max7800x.planner_memory import Region
from ai8x.max7800x.read_order import reads_in_order
from ai8x.max7800x.streaming import StreamSettings, stream_settings
from ai8x.network.ir import NETWORK_INPUT, Network

Maps = tuple[int, ...]
"""Processor map of every tensor; tensor 0 is the network input."""

Choice = tuple[tuple[int, int], ...]
"""(tensor, map) of every member of a group."""

Choices = tuple[tuple[Choice, ...], ...]
"""By group, what it can have."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """Everything that the search needs.

    Args:
        draft: network and hints.
        layouts: relations of the tensors.
        device: the chip.
        layers: in hardware form; maps and offsets are stand-ins.
        settings: streams, by layer.
        choices: by group of tensors, the maps it can have.
        fixed_bases: by block of words, the given offset or None.
    """

    draft: Draft
    layouts: Layouts
    device: Max7800x
    layers: tuple[HardwareLayer, ...]
    settings: tuple[StreamSettings | None, ...]
    choices: Choices
    fixed_bases: tuple[int | None, ...]

    @property
    def network(self) -> Network:
        """With helpers."""
        return self.draft.network


def build_problem(draft: Draft, layouts: Layouts, device: Max7800x, output_map: int | None = None) -> Problem:
    """Collect what can be chosen.

    Args:
        draft: with all helpers.
        layouts: its relations.
        device: the chip.
        output_map: given map of the final layer.

    Raises:
        UserError: E0461, given maps or offsets contradict each other, or what a layer computes.
    """
    layers = provisional_layers(draft, layouts.gaps, device)
    fixed = _fixed_maps(draft, layouts, output_map)
    return Problem(
        draft=draft,
        layouts=layouts,
        device=device,
        layers=layers,
        settings=stream_settings(layers, device),
        choices=_choices(draft, layouts, fixed),
        fixed_bases=_fixed_bases(draft, layouts),
    )


def check_given(draft: Draft, device: Max7800x) -> None:
    """Limits that no placement can change, and the limits of the given values by themselves.

    Raises:
        UserError: with the codes of the constraints.
    """
    layers = provisional_layers(draft, [0] * (len(draft.network.layers) + 1), device)
    placement = Placement(layers=tuple(layer.placement for layer in layers), fifo=draft.mode.fifo,
                          fast_fifo=draft.mode.fast_fifo, quad=draft.mode.quad)
    subject = Subject(network=draft.network, placement=placement, layers=layers, device=device)
    diagnostics = Diagnostics()
    flags = [bool(hint.streaming) for hint in draft.hints]
    if sum(flags) == draft.mode.streaming:
        flagged = tuple(replace(layer, streaming=flag) for layer, flag in zip(layers, flags, strict=True))
        diagnostics.extend(network_diagnostics(replace(subject, layers=flagged), [check_stream_layers]))
    diagnostics.extend(network_diagnostics(subject, [check_layer_count]))
    for layer, hint in zip(layers, draft.hints, strict=True):
        rules = [*LAYER_RULES, *OPERAND_RULES]
        given = (
            (hint.processors, check_processor_count),
            (hint.output_processors, check_output_processor_count),
            (hint.in_offset, check_in_offset),
            (hint.out_offset, check_out_offset),
        )
        rules += [rule for value, rule in given if value is not None]
        diagnostics.extend(layer_diagnostics(subject, layer, rules))
        if layer.index and hint.data_format == DataFormat.CHW.value:
            planar = replace(layer, placement=replace(layer.placement, data_format=DataFormat.CHW))
            diagnostics.extend(layer_diagnostics(subject, planar, [check_data_format]))
        diagnostics.extend(layer_diagnostics(subject, layer, [check_fifo_reader]))
    if draft.mode.reads_fifo:
        fed = fifo_map(draft.network.input_shape.channels, draft.mode)
        first = with_maps(layers[0], draft.hints[0].processors or fed, layers[0].output_processors)
        diagnostics.extend(layer_diagnostics(subject, first, [check_fifo_channels, check_fast_fifo]))
    diagnostics.raise_if_errors()


def provisional_layers(draft: Draft, gaps: Sequence[int], device: Max7800x) -> tuple[HardwareLayer, ...]:
    """The layers in hardware form, with the lowest processors and without offsets where none are given."""
    network, mode = draft.network, draft.mode
    places = []
    for layer, hint in zip(network.layers, draft.hints, strict=True):
        _, share = channel_passes(layer.operand_shape.channels)
        _, out_share = channel_passes(layer.out_shape.channels)
        places.append(LayerPlacement(
            processors=(1 << share) - 1 if hint.processors is None else hint.processors,
            output_processors=(1 << out_share) - 1 if hint.output_processors is None else hint.output_processors,
            in_offset=hint.in_offset or 0,
            out_offset=device.limits.max_write_offset // WORD_BYTES * WORD_BYTES
            if hint.out_offset is None else hint.out_offset,
            write_gap=gaps[tensor_of(layer.index)],
            data_format=mode.data_format if layer.index == 0 else DataFormat.HWC,
            streaming=layer.index < mode.streaming,
            sources=hint.sources,
            source=hint.source,
        ))
    placement = Placement(layers=tuple(places), fifo=mode.fifo, fast_fifo=mode.fast_fifo, quad=mode.quad)
    return hardware_layers(network, placement, device)


def reader_map(frame: Frame, inputs: Sequence[int], maps: Mapping[int, int] | Maps) -> int | None:
    """The processors of a layer that reads these tensors, or None where their maps do not fit together.

    Args:
        frame: what the layer reads.
        inputs: `Layer.inputs`.
        maps: by tensor.
    """
    if len(frame.parts) == 1:
        return maps[tensor_of(inputs[0])]
    bits: dict[int, int] = {}
    for part in frame.parts:
        own = set_bits(maps[tensor_of(inputs[part.position])])
        for number in range(min(part.count, len(own))):
            if bits.setdefault(part.rank + number, own[number]) != own[number]:
                return None
    ordered = [bits[rank] for rank in sorted(bits)]
    if any(low >= high for low, high in itertools.pairwise(ordered)):
        return None
    return sum(1 << bit for bit in ordered)


def fifo_map(channels: int, mode: PlanMode) -> int:
    """The processors that the FIFOs feed.

    Source:
        spec/max78000-cnn.md section 5.4.
    """
    share = 1 if mode.data_format is DataFormat.CHW else LANES
    return sum(1 << QUADRANT_PROCESSORS * (channel // share) + channel % share for channel in range(channels))


def input_region(problem: Problem, instances: int) -> Region:
    """What the network input occupies.

    Args:
        problem: the network.
        instances: bit map of the data memories of its processors.
    """
    first = problem.layers[0]
    own = problem.settings[0]
    pixels = first.layer.operand_shape.height * first.layer.operand_shape.width
    if first.streaming and own is not None:
        size = own.buffer_words + 1
        last = problem.draft.mode.streaming - 1
    else:
        size = pixels * first.passes * first.operands
        if first.placement.data_format is DataFormat.CHW:
            size = -(-pixels // WORD_BYTES)
        elif problem.network.consumers(NETWORK_INPUT) != (0,) or not first.layer.eltwise:
            size = pixels * channel_passes(problem.network.input_shape.channels)[0]
        last = last_use(problem.network, 0)
    place = problem.layouts.words[0]
    return Region(block=place.group, start=place.offset, end=place.offset + size, instances=instances, first_use=-1,
                  last_use=last)


def extent_of(problem: Problem, layer: HardwareLayer) -> tuple[int, int]:
    """First word and end of a layer's output, relative to its offset; garbage and surplus pixels included.

    Source:
        spec/max78000-cnn.md section 5.3; `regions.written_words` marks the words themselves.
    """
    mode = problem.draft.mode
    if layer.index + 1 < mode.streaming:
        follower = problem.settings[layer.index + 1]
        if follower is not None:
            return 0, follower.buffer_words + 1
    width = layer.output_bits // 8
    start = -(layer.lead_bytes // WORD_BYTES)
    last = layer.out_stride_words * (layer.out_pixels - 1) + (layer.out_passes - 1) * width * (layer.write_gap + 1)
    return start, start + last + width


def output_life(problem: Problem, layer: HardwareLayer) -> tuple[int, int]:
    """Steps from which and up to which a layer's output occupies memory; streams all run at once."""
    streaming = problem.draft.mode.streaming
    if layer.index + 1 < streaming:
        return -1, streaming - 1
    if layer.index < streaming:
        return -1, last_use(problem.network, tensor_of(layer.index))
    return layer.index, last_use(problem.network, tensor_of(layer.index))


def read_start(problem: Problem, layer: HardwareLayer) -> int:
    """Words from a block's offset to a layer's `in_offset`: its place, and the rows that it drops."""
    place = problem.layouts.read_words[layer.index]
    return place.offset + cropped_words(problem.network, layer.index)


def replacement(problem: Problem, layer: HardwareLayer) -> tuple[int, int] | None:
    """What a layer may write over, for `Region.behind`: the block that it reads, and how far behind it may start.

    Every output pixel must stay in front of the first word that is not certain to have been fetched when it is
    written. None where plans keep apart what a layer reads and writes.

    Source:
        spec/max78000-cnn.md sections 2.2, 5.1, 5.3 and 8.1; `read_order` states the rule word by word.
    """
    own, read = problem.layouts.words[tensor_of(layer.index)], problem.layouts.read_words[layer.index]
    if not problem.draft.mode.in_place or not reads_in_order(layer) or own.group == read.group:
        return None
    pixels = np.arange(layer.out_pixels)
    row, column = pixels // layer.out_columns, pixels % layer.out_columns
    above = row + layer.kernel_rows - 1 - layer.pad_rows
    beside = np.minimum(column + layer.kernel_columns - layer.pad_columns, layer.pooled_columns)
    cells = above * layer.pooled_columns + beside
    waiting = cells < layer.pooled_rows * layer.pooled_columns
    if not waiting.any():
        return read.group, problem.device.geometry.data_words
    next_row, next_column = np.divmod(cells[waiting], layer.pooled_columns)
    unread = (next_row * layer.in_columns + next_column) * layer.pool_stride * layer.passes * layer.operands
    width = layer.output_bits // 8
    last = pixels[waiting] * layer.out_stride_words + (layer.out_passes - 1) * width * (layer.write_gap + 1) + width
    most = int((unread - last).min())
    return read.group, most + read_start(problem, layer) - own.offset


def cropped_words(network: Network, index: int) -> int:
    """Words of the rows that a layer drops at the start of its source; layer 0's input is loaded without them."""
    layer = network.layers[index]
    if not layer.in_crop[0] or (index == 0 and NETWORK_INPUT in layer.inputs):
        return 0
    passes, _ = channel_passes(layer.operand_shape.channels)
    return layer.in_crop[0] * network.shape_of(layer.inputs[0]).width * passes * layer.num_operands


def _fixed_maps(draft: Draft, layouts: Layouts, output_map: int | None) -> dict[int, int]:
    """Maps that the file, the command line or the FIFO prescribes, by tensor."""
    fixed: dict[int, int] = {}
    network, mode = draft.network, draft.mode
    if mode.reads_fifo:
        fixed[0] = fifo_map(network.input_shape.channels, mode)
    if output_map is not None:
        fixed[tensor_of(len(network.layers) - 1)] = output_map
    for layer, hint in zip(network.layers, draft.hints, strict=True):
        if hint.output_processors is not None:
            fixed[tensor_of(layer.index)] = hint.output_processors
    for layer, hint in zip(network.layers, draft.hints, strict=True):
        if hint.processors is None:
            continue
        bits = set_bits(hint.processors)
        for part in layouts.frames[layer.index].parts:
            tensor = tensor_of(layer.inputs[part.position])
            size = tensor_width(network, tensor)
            wanted = sum(1 << bit for bit in bits[part.rank : part.rank + size])
            if fixed.setdefault(tensor, wanted) != wanted:
                raise _contradiction(draft, layer.index, tensor, wanted, fixed[tensor])
    return fixed


def _contradiction(draft: Draft, reader: int, tensor: int, wanted: int, found: int) -> UserError:
    hint, network = draft.hints[reader], draft.network
    name = "the network input" if tensor == 0 else f"the output of layer '{network.layers[tensor - 1].name}'"
    return UserError(Diagnostic(
        code="E0461",
        message=f"{name} lies with other processors than those that are to read it",
        source=hint.sources.get("processors", hint.source),
        layer=network.layers[reader].name,
        layer_index=draft.file_index[reader],
        found=f"read from {format_map(wanted)}, placed at {format_map(found)}",
        allowed="the same processors",
        help="leave processors out in this layer, so that they are chosen",
    ))


def _choices(draft: Draft, layouts: Layouts, fixed: Mapping[int, int]) -> Choices:
    """Candidate maps by group of tensors, from the lowest processor up."""
    members: dict[int, list[int]] = {}
    for tensor, place in enumerate(layouts.columns):
        members.setdefault(place.group, []).append(tensor)
    return tuple(_group_choices(draft, layouts, tensors, fixed) for tensors in members.values())


def _group_choices(
    draft: Draft, layouts: Layouts, tensors: Sequence[int], fixed: Mapping[int, int]
) -> tuple[Choice, ...]:
    network = draft.network
    if tensors == [0] and draft.mode.data_format is DataFormat.CHW and 0 not in fixed:
        return tuple(((0, found),) for found in _planar_maps(network.input_shape.channels))
    fixed = _with_equals(network, layouts, tensors, fixed)
    starts = range(0, PROCESSORS, LANES)
    anchored = [t for t in tensors if t in fixed]
    if anchored:
        first = lowest_bit(fixed[anchored[0]]) - layouts.columns[anchored[0]].offset
        starts = range(first % LANES - PROCESSORS, PROCESSORS, LANES)
    found: dict[Choice, None] = {}
    for start in starts:
        maps = _maps_from(network, layouts, tensors, fixed, start)
        if maps is not None and _readers_agree(network, layouts, maps):
            found[tuple(maps.items())] = None
    if not found:
        raise _no_choice(draft, tensors, anchored, fixed)
    return tuple(found)


def _planar_maps(channels: int) -> Iterator[int]:
    """CHW: every channel on the first processor of a data memory of its own (section 5.2)."""
    plain = sum(1 << LANES * channel for channel in range(channels))
    for start in range(0, PROCESSORS - LANES * (channels - 1), LANES):
        yield plain << start


def _with_equals(
    network: Network, layouts: Layouts, tensors: Sequence[int], fixed: Mapping[int, int]
) -> dict[int, int]:
    """Given maps, also for the tensors that must have the same."""
    result = {tensor: fixed[tensor] for tensor in tensors if tensor in fixed}
    for tensor in tensors:
        for other in tensors:
            same = layouts.columns[tensor] == layouts.columns[other]
            if other in fixed and same and tensor_width(network, tensor) == tensor_width(network, other):
                result.setdefault(tensor, fixed[other])
    return result


def _maps_from(
    network: Network, layouts: Layouts, tensors: Sequence[int], fixed: Mapping[int, int], start: int
) -> dict[int, int] | None:
    maps: dict[int, int] = {}
    for tensor in tensors:
        if tensor in fixed:
            maps[tensor] = fixed[tensor]
            continue
        low, width = start + layouts.columns[tensor].offset, tensor_width(network, tensor)
        if low < 0 or low % LANES or low + width > PROCESSORS:
            return None
        maps[tensor] = ((1 << width) - 1) << low
    return maps


def _readers_agree(network: Network, layouts: Layouts, maps: Mapping[int, int]) -> bool:
    for layer in network.layers:
        if tensor_of(layer.inputs[0]) in maps and reader_map(layouts.frames[layer.index], layer.inputs, maps) is None:
            return False
    return True


def _no_choice(draft: Draft, tensors: Sequence[int], anchored: Sequence[int], fixed: Mapping[int, int]) -> UserError:
    network = draft.network
    names = ["the input" if t == 0 else f"'{network.layers[t - 1].name}'" for t in tensors]
    given = [f"{format_map(fixed[t])}" for t in anchored]
    layer = next((t - 1 for t in anchored if t), max(t - 1 for t in tensors))
    hint = draft.hints[max(layer, 0)]
    return UserError(Diagnostic(
        code="E0461",
        message=f"no processors are left that suit {', '.join(names)} together",
        source=hint.sources.get("output_processors", hint.source),
        layer=network.layers[max(layer, 0)].name,
        layer_index=draft.file_index[max(layer, 0)],
        found=f"given: {', '.join(given) or 'nothing'}",
        allowed="operands on the same processors, concatenated parts on ascending ones, each from a multiple of 4",
        help="leave processors and output_processors of these layers out, so that they are chosen",
    ))


def _fixed_bases(draft: Draft, layouts: Layouts) -> tuple[int | None, ...]:
    """Word offsets of blocks that follow from given offsets."""
    count = 1 + max(place.group for place in layouts.words)
    bases: list[int | None] = [None] * count
    for layer, hint in zip(draft.network.layers, draft.hints, strict=True):
        own = layouts.words[tensor_of(layer.index)]
        read = layouts.read_words[layer.index]
        crop = cropped_words(draft.network, layer.index)
        given = (("out_offset", hint.out_offset, own, 0), ("in_offset", hint.in_offset, read, crop))
        for key, offset, place, dropped in given:
            if offset is None:
                continue
            base = offset // WORD_BYTES - place.offset - dropped
            known = bases[place.group]
            if known is not None and known != base:
                raise _other_offset(draft, layer.index, key, offset + WORD_BYTES * (known - base))
            bases[place.group] = base
    return tuple(bases)


def _other_offset(draft: Draft, index: int, key: str, wanted: int) -> UserError:
    hint, layer = draft.hints[index], draft.network.layers[index]
    return UserError(Diagnostic(
        code="E0461",
        message=f"{key} does not agree with the offsets given for the layers that share the data",
        source=hint.sources.get(key, hint.source),
        layer=layer.name,
        layer_index=draft.file_index[index],
        found=f"{key} {getattr(hint, key):#06x}",
        allowed=f"{wanted:#06x}" if wanted >= 0 else "other offsets for the layers that share the data",
        help=f"leave {key} out, so that it is chosen",
    ))


def with_maps(layer: HardwareLayer, processors: int, output_processors: int) -> HardwareLayer:
    """The layer on other processors."""
    placement = replace(layer.placement, processors=processors, output_processors=output_processors)
    return replace(layer, placement=placement)
