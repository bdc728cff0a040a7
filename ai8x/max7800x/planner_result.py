"""A finished plan: the placement in the form of the back end, checked, with what the planner has to report.

Owns `PlannedNetwork` and the last check of every plan by `constraints.check_network`, which shares nothing with the
search. Start at `PlannedNetwork` and `finish_plan`.

Source: spec/max78000-cnn.md sections 5 and 6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Ai8xError, Diagnostic, Diagnostics, Source
from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.placement import (
    WORD_BYTES,
    DataFormat,
    LayerPlacement,
    Placement,
    PlacementOptions,
    quadrants_of,
)
from ai8x.max7800x.planner_draft import CopyKind, Draft
from ai8x.max7800x.planner_evaluator import Evaluator, Found
from ai8x.max7800x.planner_layout import tensor_of
from ai8x.max7800x.planner_memory import Blocks, memory_bound, overlapping_regions
from ai8x.max7800x.planner_problem import Problem, read_start
from ai8x.network.ir import NETWORK_INPUT, Network
from ai8x.network.reference import Trace, run_network
from ai8x.network.yaml_file import PlacementHint

PLANNER_NOTICES = ("W0465", "W0466", "W0467", "W0470", "W0471")
"""Codes of what the planner itself reports."""


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
        widened: numbers in the file of layers that read more channels than the file says, with weights of zero for
            them: concatenated parts have been filled up to whole data memory words.
    """

    network: Network
    placement: Placement
    file_index: tuple[int | None, ...]
    diagnostics: Diagnostics
    summary: PlanSummary | None = None
    widened: tuple[int, ...] = ()

    @property
    def helpers(self) -> tuple[int, ...]:
        """Indices in `network` of the layers that the file does not have."""
        return tuple(index for index, number in enumerate(self.file_index) if number is None)

    @property
    def served_layers(self) -> tuple[int, ...]:
        """By layer of `network`, its number in the file; for a helper that of the layer behind it, which reads it."""
        served: list[int] = []
        for number in reversed(self.file_index):
            served.append(served[-1] if number is None else number)
        return tuple(reversed(served))

    def planned_index(self, file_layer: int) -> int:
        """Where a layer of the file stands in `network`.

        Raises:
            ValueError: the file has no such layer.
        """
        return self.file_index.index(file_layer)

    @property
    def hints(self) -> tuple[PlacementHint, ...]:
        """The placement as a file would say it, by layer of `network`; `place_network` gives it back."""
        return tuple(
            PlacementHint(
                processors=place.processors, output_processors=place.output_processors, in_offset=place.in_offset,
                out_offset=place.out_offset, write_gap=place.write_gap, streaming=place.streaming,
                data_format=place.data_format.value if index == 0 else None,
                bias_group=place.bias_group or None, sources=place.sources, source=place.source,
            )
            for index, place in enumerate(self.placement.layers)
        )

    def expand_trace(self, trace: Mapping[int, NDArray[Any]], sample: NDArray[Any]) -> Trace:
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
        return Trace(dict(sorted(expanded.items())), trace.buffer if isinstance(trace, Trace) else None)


def finish_plan(problem: Problem, found: Found, options: PlacementOptions, *, any_given: bool) -> PlannedNetwork:
    """The plan in the form of the back end, with the findings of the verifier.

    Args:
        problem: what was placed.
        found: a plan that fits.
        options: command line and global keys.
        any_given: given values, or a stream, may break a rule; the findings then say so.

    Raises:
        PlanDefectError: a rule is broken although everything was chosen here.
    """
    planned = _unchecked(problem, found, options)
    checked = _check(problem, found, planned, any_given=any_given)
    diagnostics = Diagnostics()
    for finding in (*_notices(problem, planned), *_replacements(problem, found), *checked.items):
        diagnostics.add(finding)
    return replace(planned, diagnostics=diagnostics)


def _unchecked(problem: Problem, found: Found, options: PlacementOptions) -> PlannedNetwork:
    """The plan in the form of the back end."""
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
    widened = tuple(number for layer, number in zip(draft.network.layers, draft.file_index, strict=True)
                    if number is not None and layer.name in draft.widened)
    return PlannedNetwork(network=draft.network, placement=placement, file_index=draft.file_index,
                          diagnostics=Diagnostics(), summary=_summary(problem, found, placement), widened=widened)


def _places(draft: Draft, index: int, options: PlacementOptions) -> Mapping[str, Source]:
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


def _check(problem: Problem, found: Found, planned: PlannedNetwork, *, any_given: bool) -> Diagnostics:
    """What the verifier says about the plan.

    Raises:
        PlanDefectError: a rule is broken although nothing was given.
    """
    draft = problem.draft
    checked = check_network(planned.network, planned.placement, problem.device, deduplicate=draft.deduplicate)
    blocks = Blocks(regions=tuple(Evaluator(problem).regions(found.maps)), fixed=problem.fixed_bases)
    overlaps = overlapping_regions(blocks, found.blocks.bases)
    if not any_given and (checked.errors or overlaps):
        findings = [finding.headline() for finding in checked.errors] or [f"regions overlap: {overlaps[0]}"]
        raise PlanDefectError("; ".join(findings))
    return checked


def _notices(problem: Problem, planned: PlannedNetwork) -> Iterator[Diagnostic]:
    """What the planner did beyond choosing places: helper layers, other operators, another way for the input."""
    for layer, number in zip(planned.network.layers, planned.file_index, strict=True):
        hint = problem.draft.hints[layer.index]
        if number is None:
            reader = planned.network.layers[planned.network.consumers(layer.index)[0]]
            kind = CopyKind.PASS if layer.conv is None else CopyKind.CONV
            yield Diagnostic(
                code="W0465", level="notice", source=hint.source, layer=reader.name,
                layer_index=planned.file_index[reader.index],
                message=f"a {kind.value} '{layer.name}' copies data to where this layer reads it",
                found=f"{layer.out_shape} values", help="leave it: it is verified like every layer and reported apart",
            )
        elif layer.conv is not None and layer.name in problem.draft.converted:
            yield Diagnostic(
                code="W0466", level="notice", source=hint.source, layer=layer.name, layer_index=number,
                message="the pass layer runs as a 1x1 convolution with unit weights, which reaches other processors",
                found="Passthrough", help="leave it: its values are the same",
            )
        if number is not None and number in planned.widened:
            yield Diagnostic(
                code="W0471", level="notice", source=hint.source, layer=layer.name, layer_index=number,
                message="the concatenated parts are filled up to whole data memory words with channels of zeros",
                found=f"{layer.operand_shape.channels} channels with them", allowed="",
                help="use channel counts divisible by 4 in the layers that are concatenated to save the copies",
            )
    mode = problem.draft.mode
    if mode.streaming and not any(hint.streaming for hint in problem.draft.hints):
        first = planned.network.layers[0]
        yield Diagnostic(
            code="W0467", level="notice", source=first.source, layer=first.name, layer_index=0,
            message=f"the data does not fit at once: the first {mode.streaming} layers work while the input arrives "
                    "through the FIFO",
            found=f"input {planned.network.input_shape}", help="write streaming: true in these layers to make it plain",
        )


def _replacements(problem: Problem, found: Found) -> Iterator[Diagnostic]:
    """Which layers write over data while they read it."""
    regions, bases = tuple(Evaluator(problem).regions(found.maps)), found.blocks.bases
    layers = sorted({
        one.first_use for one in regions for other in regions
        if one.may_replace(other) and one.instances & other.instances
        and bases[one.block] + one.start < bases[other.block] + other.end
        and bases[other.block] + other.start < bases[one.block] + one.end
    })
    if layers:
        first = problem.network.layers[layers[0]]
        names = ", ".join(problem.network.layers[index].name for index in layers)
        yield Diagnostic(
            code="W0470", level="notice", source=first.source, layer=first.name,
            layer_index=problem.draft.file_index[first.index],
            message="the data does not fit beside itself: layers write over words that they have already read",
            found=names, help="leave it: every word is checked to be read before it is written over; a smaller input "
            "avoids it",
        )
