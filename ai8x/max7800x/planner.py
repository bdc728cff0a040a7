"""Automatic placement: processors, offsets, gaps, input format and helper layers for what a network file leaves open.

Owns the order of attempts and the final check of every plan by `constraints.check_network`, which shares nothing with
the search. Given values are kept, or refused with a reason. Start at `plan_placement` and `PlannedNetwork`.

The parts: ``planner_draft`` (helper layers), ``planner_layout`` (what must lie side by side), ``planner_problem``
(what can be chosen), ``planner_search`` (the choice), ``planner_memory`` (offsets), ``planner_failure`` (why it does
not fit).

Source: spec/max78000-cnn.md sections 3, 5, 6 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Ai8xError, Diagnostics, UserError
from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.placement import (
    WORD_BYTES,
    DataFormat,
    LayerPlacement,
    Placement,
    PlacementOptions,
    place_network,
    quadrants_of,
)
from ai8x.max7800x.planner_draft import CopyKind, Draft, InputMode, as_convolutions, insert_copies, start_draft
from ai8x.max7800x.planner_failure import Failure, does_not_fit
from ai8x.max7800x.planner_layout import resolve_layouts, tensor_of
from ai8x.max7800x.planner_memory import Blocks, memory_bound, overlapping_regions
from ai8x.max7800x.planner_problem import Problem, build_problem, check_given, read_start
from ai8x.max7800x.planner_search import Evaluator, Found, search
from ai8x.network.ir import NETWORK_INPUT, Network, Op
from ai8x.network.reference import run_network
from ai8x.network.yaml_file import PlacementHint


class PlanDefectError(Ai8xError):
    """A plan that was made here breaks a rule of the chip: a defect, not a user's mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSummary:
    """What a plan uses.

    Args:
        cycles: estimate for one inference.
        data_peak_bytes: highest byte in use in any data memory, plus one.
        data_bound_bytes: no plan with the same processors needs less.
        mask_words: by processor, words of weights.
        quadrants: powered.
    """

    cycles: int
    data_peak_bytes: int
    data_bound_bytes: int
    mask_words: tuple[int, ...]
    quadrants: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlannedNetwork:
    """A network that is ready for the back end.

    Args:
        network: the file's layers in their order, helpers between them.
        placement: of every layer of `network`.
        file_index: by layer of `network`, its number in the file; None for a helper.
        diagnostics: warnings and notices of the check.
        summary: None where the file's own placement was complete.
    """

    network: Network
    placement: Placement
    file_index: tuple[int | None, ...]
    diagnostics: Diagnostics
    summary: PlanSummary | None = None

    @property
    def helpers(self) -> tuple[int, ...]:
        """Indices in `network` of the layers that the file does not have."""
        return tuple(index for index, number in enumerate(self.file_index) if number is None)

    def planned_index(self, file_layer: int) -> int:
        """Where a layer of the file stands in `network`.

        Raises:
            ValueError: the file has no such layer.
        """
        return self.file_index.index(file_layer)

    def expand_trace(self, trace: Mapping[int, NDArray[Any]], sample: NDArray[Any]) -> dict[int, NDArray[Any]]:
        """The reference's outputs by layer of `network`; those of helpers are computed.

        Args:
            trace: by layer of the file.
            sample: the network's input, (C, H, W) or a batch of them.
        """
        expanded = {index: trace[number] for index, number in enumerate(self.file_index) if number is not None}
        for index in self.helpers:
            layer = self.network.layers[index]
            source = layer.inputs[0]
            tensor = np.asarray(sample) if source == NETWORK_INPUT else expanded[source]
            alone = replace(layer, index=0, inputs=(NETWORK_INPUT,))
            single = Network(name=layer.name, input_shape=layer.operand_shape, layers=(alone,))
            shape = (*tensor.shape[:-3], *layer.operand_shape.as_tuple()) if tensor.ndim >= 3 \
                else layer.operand_shape.as_tuple()
            expanded[index] = run_network(single, tensor.reshape(shape))[0]
        return expanded


DEFAULT_OPTIONS = PlacementOptions()
"""Nothing on the command line."""


def plan_placement(
    network: Network, hints: Sequence[PlacementHint], device: Max7800x, options: PlacementOptions = DEFAULT_OPTIONS
) -> PlannedNetwork:
    """Place a network, choosing what the file leaves open.

    A file that is complete by the vendor's rules (processors everywhere; other keys have defaults) and passes every
    check is taken as it is. Otherwise everything that is absent is planned.

    Args:
        network: layers in the order of `hints`.
        hints: what the file says about each layer.
        device: the chip.
        options: command line and global keys.

    Returns:
        The network, with helper layers where operands need a copy, and its placement.

    Raises:
        UserError: E0460 to E0463 given values cannot be kept, E0464 the network does not fit; or what
            `constraints.check_network` finds in a placement that the file gives completely.
        PlanDefectError: a plan fails the check.
    """
    if network.buffer is not None or all(hint.processors is not None for hint in hints):
        written = _as_written(network, hints, device, options)
        if not written.diagnostics.errors:
            return written
        if network.buffer is not None:
            written.diagnostics.raise_if_errors()
        if all(hint.out_offset is not None for hint in hints):
            written = _planned_or(written, network, hints, device, options)
            written.diagnostics.raise_if_errors()
            return written
    return _plan(network, hints, device, options)


def _as_written(
    network: Network, hints: Sequence[PlacementHint], device: Max7800x, options: PlacementOptions
) -> PlannedNetwork:
    """The file's placement with the vendor's defaults."""
    placement = place_network(network, hints, device, options)
    return PlannedNetwork(network=network, placement=placement, file_index=tuple(range(len(network.layers))),
                          diagnostics=check_network(network, placement, device))


def _planned_or(
    written: PlannedNetwork, network: Network, hints: Sequence[PlacementHint], device: Max7800x,
    options: PlacementOptions,
) -> PlannedNetwork:
    """A plan around the given values; where there is none, the file's own placement with its errors."""
    try:
        return _plan(network, hints, device, options)
    except UserError:
        return written


def _plan(
    network: Network, hints: Sequence[PlacementHint], device: Max7800x, options: PlacementOptions
) -> PlannedNetwork:
    failures: list[Failure] = []
    for mode in _input_modes(network, hints, device, options):
        check_given(start_draft(network, hints, mode, CopyKind.PASS), device)
        for kind in CopyKind:
            problem, found = _best_plan(start_draft(network, hints, mode, kind), device, options)
            if found is not None and found.score.fits:
                planned = _finish(problem, found, options)
                return _verified(problem, found, planned, any_given=_any_given(hints, options))
            failures.append(Failure(problem=problem, found=found))
            if found is not None and not Evaluator(problem).weights_may_fit(found.maps):
                raise does_not_fit(network, failures, device)
            if not problem.draft.num_helpers:
                break
    raise does_not_fit(network, failures, device)


def _best_plan(draft: Draft, device: Max7800x, options: PlacementOptions) -> tuple[Problem, Found | None]:
    """The best plan of one way to copy and to feed the input; None where helpers exceed or cut what is possible.

    Pass layers that cannot be placed become 1x1 convolutions; where that is not possible either, what reads them
    gets copies.
    """
    while True:
        draft, layouts = resolve_layouts(draft)
        problem = build_problem(draft, layouts, device, options.output_map)
        if len(draft.network.layers) > device.limits.max_layers or _cuts_stream(draft):
            return problem, None
        found = search(problem)
        broken = Evaluator(problem).broken_passes(found.maps)
        repaired = _without_broken_passes(problem, broken)
        if repaired is None:
            return problem, found
        draft = repaired


def _without_broken_passes(problem: Problem, broken: Sequence[int]) -> Draft | None:
    """The draft after one repair of pass layers that cannot write where they should, None where there is none."""
    single = [index for index in broken if not problem.layers[index].is_emulated_eltwise]
    if single:
        return as_convolutions(problem.draft, single)
    for index in broken:
        for reader in problem.network.consumers(index):
            layer = problem.network.layers[reader]
            if len(layer.inputs) > 1:
                return insert_copies(problem.draft, reader, layer.inputs.index(index), CopyKind.CONV)
    return None


def _input_modes(
    network: Network, hints: Sequence[PlacementHint], device: Max7800x, options: PlacementOptions
) -> Iterator[InputMode]:
    """Ways for the input to enter, the simplest first; what the file or the command line says is kept."""
    given_format = hints[0].data_format
    given = 0 if options.ignore_streaming else sum(1 for hint in hints if hint.streaming)
    fifo = options.fifo or (bool(given) and not options.fast_fifo)
    base = InputMode(data_format=DataFormat(given_format or "HWC"), streaming=given, fifo=fifo,
                     fast_fifo=options.fast_fifo, quad=options.quad)
    yield base
    only_first = network.consumers(NETWORK_INPUT) == (0,) and not network.layers[0].eltwise
    planar = only_first and network.input_shape.channels <= device.geometry.num_instances
    if given_format is None and planar and not base.reads_fifo:
        yield replace(base, data_format=DataFormat.CHW)
    if any(hint.streaming is not None for hint in hints) or options.ignore_streaming:
        return
    for depth in _stream_depths(network, device):
        yield replace(base, data_format=DataFormat(given_format or "HWC"), streaming=depth,
                      fifo=not options.fast_fifo)


def _stream_depths(network: Network, device: Max7800x) -> Iterator[int]:
    """Numbers of leading layers that could stream: a chain of padded convolutions behind the FIFO."""
    if network.input_shape.channels > device.limits.fifo_hwc_channels or network.consumers(NETWORK_INPUT) != (0,):
        return
    for layer in network.layers[: device.limits.max_stream_layers]:
        is_chained = layer.inputs == (layer.index - 1,)
        if layer.op is not Op.CONV2D or layer.eltwise or not is_chained or layer.index in network.outputs[:-1]:
            return
        if layer.conv is not None and min(layer.conv.padding) >= device.limits.min_last_stream_pad:
            yield layer.index + 1
        if network.consumers(layer.index) != (layer.index + 1,):
            return


def _cuts_stream(draft: Draft) -> bool:
    """Whether a helper stands between streaming layers."""
    return any(number is None for number in draft.file_index[: draft.mode.streaming])


def _any_given(hints: Sequence[PlacementHint], options: PlacementOptions) -> bool:
    """Whether the file gives anything that a plan could fail because of."""
    keys = ("processors", "output_processors", "in_offset", "out_offset", "write_gap", "bias_group", "data_format",
            "streaming")
    return (options.output_map is not None or options.fifo or options.fast_fifo or options.quad
            or any(getattr(hint, key) is not None for hint in hints for key in keys))


def _finish(problem: Problem, found: Found, options: PlacementOptions) -> PlannedNetwork:
    """The plan in the form of the back end, unchecked."""
    draft, layouts, mode = problem.draft, problem.layouts, problem.draft.mode
    readers = Evaluator(problem).reader_maps(found.maps)
    places = []
    for layer, hint in zip(problem.layers, draft.hints, strict=True):
        own = layouts.words[tensor_of(layer.index)]
        read = layouts.read_words[layer.index]
        places.append(LayerPlacement(
            processors=readers[layer.index],
            output_processors=found.maps[tensor_of(layer.index)],
            in_offset=WORD_BYTES * (found.blocks.bases[read.group] + read_start(problem, layer)),
            out_offset=WORD_BYTES * (found.blocks.bases[own.group] + own.offset),
            write_gap=layouts.gaps[tensor_of(layer.index)],
            data_format=mode.data_format if layer.index == 0 else DataFormat.HWC,
            streaming=layer.index < mode.streaming,
            bias_group=tuple(hint.bias_group or ()),
            sources=_places(draft, layer.index, options),
            source=hint.source,
        ))
    placement = Placement(layers=tuple(places), fifo=mode.fifo, fast_fifo=mode.fast_fifo, quad=mode.quad)
    return PlannedNetwork(network=draft.network, placement=placement, file_index=draft.file_index,
                          diagnostics=Diagnostics(), summary=_summary(problem, found, placement))


def _places(draft: Draft, index: int, options: PlacementOptions) -> Mapping[str, Any]:
    hint = draft.hints[index]
    is_last = index == len(draft.network.layers) - 1
    if is_last and hint.output_processors is None and options.output_map_source is not None:
        return {**hint.sources, "output_processors": options.output_map_source}
    return hint.sources


def _summary(problem: Problem, found: Found, placement: Placement) -> PlanSummary:
    blocks = Blocks(regions=tuple(Evaluator(problem).regions(found.maps)), fixed=problem.fixed_bases)
    used = 0
    for place in placement.layers:
        used |= place.processors | place.output_processors
    return PlanSummary(
        cycles=found.score.cycles,
        data_peak_bytes=WORD_BYTES * found.data_words,
        data_bound_bytes=WORD_BYTES * memory_bound(blocks),
        mask_words=found.mask_words,
        quadrants=quadrants_of(used),
    )


def _verified(problem: Problem, found: Found, planned: PlannedNetwork, *, any_given: bool) -> PlannedNetwork:
    """The plan after the check.

    Raises:
        UserError: given values break a rule.
        PlanDefectError: a rule is broken although nothing was given.
    """
    diagnostics = check_network(planned.network, planned.placement, problem.device)
    if any_given:
        diagnostics.raise_if_errors()
    elif diagnostics.errors:
        raise PlanDefectError("; ".join(finding.headline() for finding in diagnostics.errors))
    blocks = Blocks(regions=tuple(Evaluator(problem).regions(found.maps)), fixed=problem.fixed_bases)
    overlaps = overlapping_regions(blocks, found.blocks.bases)
    if overlaps and not any_given:
        raise PlanDefectError(f"regions overlap: {overlaps[0]}")
    return replace(planned, diagnostics=diagnostics)

