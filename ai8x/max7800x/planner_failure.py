"""Why a network does not fit: the table up to that point, the largest consumers of every memory, what would help.

Owns the record of a failure and its error; `planner_remedies` owns the changes that help. Start at `PlanFailure` and
`does_not_fit`.

Source: spec/max78000-cnn.md sections 1, 3.4, 3.7 and 6.4.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ai8x.capacity import Consumer, DoesNotFit, Remedy
from ai8x.errors import Diagnostic, UserError
from ai8x.max7800x.biases import bias_entries
from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.kernels import mask_word_count
from ai8x.max7800x.placement import PROCESSORS, WORD_BYTES
from ai8x.max7800x.planner_evaluator import Evaluator, Found
from ai8x.max7800x.planner_layout import tensor_of
from ai8x.max7800x.planner_problem import Problem, with_maps
from ai8x.max7800x.planner_remedies import PlanRemedy, Shortage
from ai8x.network.ir import NETWORK_INPUT

NUM_SHOWN = 3
"""Consumers of a memory and remedies that are named."""

NUM_LISTED = 5
"""Consumers of a memory that the report lists."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Failure:
    """One attempt that did not fit.

    Args:
        problem: what was to be placed.
        found: the best plan, which exceeds a memory; None where helpers alone exceed the number of layers.
    """

    problem: Problem
    found: Found | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """One layer in the table of a plan that fails.

    Args:
        layer: name.
        file_layer: its number in the file, None for a helper.
        processors: that read its input.
        output_processors: that receive its output.
        mask_words: words in each of its processors.
        has_weight_place: they have a place beside those of the other layers.
        data_bytes: end of the highest data while it runs, in any memory.
        bias_entries: of the layer.
        fits: nothing is missing so far.
    """

    layer: str
    file_layer: int | None
    processors: int
    output_processors: int
    mask_words: int
    has_weight_place: bool
    data_bytes: int
    bias_entries: int
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFailure:
    """Why a network does not fit, in numbers.

    Args:
        rows: the plan, layer by layer, up to the first that lacks something.
        weight_words_missing: words per processor, added up over the layers without a place.
        data_bytes: end of the highest data.
        data_bytes_available: in each data memory.
        biases_missing: entries without a place.
        remedies: changes that have been planned with success, cheapest first.
    """

    rows: tuple[PlanRow, ...]
    weight_words_missing: int
    data_bytes: int
    data_bytes_available: int
    biases_missing: int
    remedies: tuple[PlanRemedy, ...]


class PlanFailureError(DoesNotFit):
    """A network that cannot be placed, with the record of why."""

    def __init__(self, finding: Diagnostic, failure: PlanFailure, *, consumers: tuple[Consumer, ...],
                 remedies: tuple[Remedy, ...]) -> None:
        super().__init__(finding, consumers=consumers, remedies=remedies)
        self.failure = failure


def best_failure(failures: Sequence[Failure]) -> tuple[Problem, Found] | None:
    """The attempt that comes closest to fitting; None where helpers alone exceed the number of layers in all."""
    complete = [(failure.problem, failure.found) for failure in failures if failure.found is not None]
    return min(complete, key=lambda attempt: attempt[1].score, default=None)


def shortage_of(problem: Problem, found: Found) -> Shortage:
    """What a plan lacks, for the search for remedies."""
    index_of = problem.draft.file_index
    largest = [(index_of[use.layer], use.amount) for use in _weight_uses(Evaluator(problem), found)]
    return Shortage(
        weights=found.weight_overflow > 0, data=found.data_overflow > 0, biases=found.bias_overflow > 0,
        largest_weights=tuple((index, amount) for index, amount in largest if index is not None),
    )


def does_not_fit(
    failures: Sequence[Failure], device: Max7800x, remedies: Iterable[PlanRemedy]
) -> UserError:
    """The error for a network that no attempt could place.

    Args:
        failures: all attempts, at least one.
        device: the chip.
        remedies: changes that help, cheapest first; only as many as are shown are asked for.
    """
    best = best_failure(failures)
    if best is None:
        return UserError(_too_many_layers(failures[0], device))
    problem, found = best
    evaluator = Evaluator(problem)
    weights, data, biases = _weight_uses(evaluator, found), _data_uses(evaluator, found), _bias_uses(problem)
    first = weights if found.weight_overflow else data
    layer = problem.network.layers[max(first[0].layer, 0)]
    tried = tuple(itertools.islice(remedies, NUM_SHOWN))
    finding = Diagnostic(
        code="E0464",
        message="the network does not fit: " + "; ".join(_complaints(problem, found, device)),
        source=layer.source,
        layer=layer.name,
        layer_index=problem.draft.file_index[layer.index],
        found="; ".join(text for text in (
            _table("largest weights", weights), _table("largest data, in each memory used", data),
            _table("largest biases", biases)) if text),
        allowed=f"{device.geometry.mask_words} words of 72 bits for the weights of each processor, "
                f"{device.geometry.data_words * WORD_BYTES} bytes in each data memory, "
                f"{device.geometry.bias_entries} biases in each quadrant",
        help=", or ".join(remedy.action for remedy in tried)
        or "reduce the layers named first: fewer channels, or pooling before them",
    )
    tables = (("weight memory", weights), ("data memory, in each instance used", data), ("bias memory", biases))
    return PlanFailureError(
        finding,
        _record(problem, found, tried),
        consumers=tuple(Consumer(memory=memory, layer=use.name, amount=use.amount, unit=use.unit)
                        for memory, uses in tables for use in uses[:NUM_LISTED]),
        remedies=tuple(Remedy(action=remedy.action, effect=remedy.effect(device)) for remedy in tried),
    )


def _record(problem: Problem, found: Found, remedies: tuple[PlanRemedy, ...]) -> PlanFailure:
    geometry = problem.device.geometry
    rows: list[PlanRow] = []
    for row in _rows(problem, found):
        rows.append(row)
        if not row.fits:
            break
    return PlanFailure(
        rows=tuple(rows), weight_words_missing=found.weight_overflow, data_bytes=found.data_words * WORD_BYTES,
        data_bytes_available=geometry.data_words * WORD_BYTES, biases_missing=found.bias_overflow, remedies=remedies,
    )


def _rows(problem: Problem, found: Found) -> Iterator[PlanRow]:
    """The plan, layer by layer."""
    evaluator, geometry = Evaluator(problem), problem.device.geometry
    readers = evaluator.reader_maps(found.maps)
    homeless = evaluator.layers_without_weight_place(found.maps)
    regions, bases = tuple(evaluator.regions(found.maps)), found.blocks.bases
    biases, fits = 0, not found.score.impossible
    for layer in problem.layers:
        own = with_maps(layer, readers[layer.index], found.maps[tensor_of(layer.index)])
        entries = bias_entries(layer)
        count = 0 if entries is None else len(entries)
        biases += count
        end = max((bases[region.block] + region.end for region in regions
                   if region.first_use <= layer.index <= region.last_use), default=0)
        room = biases <= geometry.bias_entries * problem.device.num_quadrants and count <= geometry.bias_entries
        fits = fits and layer.index not in homeless and end <= geometry.data_words and room
        yield PlanRow(
            layer=layer.name, file_layer=problem.draft.file_index[layer.index], processors=own.processors,
            output_processors=own.output_processors, mask_words=mask_word_count(own) if own.is_conv else 0,
            has_weight_place=layer.index not in homeless, data_bytes=WORD_BYTES * end, bias_entries=count, fits=fits,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """What one layer takes of a memory."""

    layer: int
    name: str
    amount: int
    unit: str = "bytes"


def _complaints(problem: Problem, found: Found, device: Max7800x) -> Iterator[str]:
    if found.score.impossible:
        yield "the processors of pass layers cannot be connected as their readers need"
    if found.weight_overflow:
        used, capacity = sum(found.mask_words), device.geometry.mask_words * PROCESSORS
        yield (f"{found.weight_overflow} words of weights per processor have no place beside the others, "
               f"which take {used} of {capacity} words")
    if found.data_overflow:
        step = _worst_step(problem, found)
        yield (f"data needs {found.data_words * WORD_BYTES} bytes in one memory of "
               f"{device.geometry.data_words * WORD_BYTES}, at layer '{problem.network.layers[step].name}'")
    if found.bias_overflow:
        yield f"{found.bias_overflow} biases have no place"


def _worst_step(problem: Problem, found: Found) -> int:
    """The layer at which the highest word is in use."""
    regions = Evaluator(problem).regions(found.maps)
    highest = max(regions, key=lambda region: found.blocks.bases[region.block] + region.end)
    return max(highest.first_use, 0)


def _weight_uses(evaluator: Evaluator, found: Found) -> list[_Use]:
    problem = evaluator.problem
    readers = evaluator.reader_maps(found.maps)
    uses = []
    for layer in problem.layers:
        if not layer.is_conv or layer.layer.weight_source is not None:
            continue
        placed = with_maps(layer, readers[layer.index], found.maps[tensor_of(layer.index)])
        size = mask_word_count(placed) * placed.active_processors.bit_count() * problem.device.geometry.mask_word_bytes
        uses.append(_Use(layer=layer.index, name=layer.name, amount=size))
    return _largest(uses)


def _data_uses(evaluator: Evaluator, found: Found) -> list[_Use]:
    problem = evaluator.problem
    regions = list(evaluator.regions(found.maps))
    uses: dict[int, _Use] = {}
    for region in regions:
        layer = NETWORK_INPUT if region.first_use < 0 else region.first_use
        name = "input" if layer == NETWORK_INPUT else problem.network.layers[layer].name
        size = (region.end - region.start) * WORD_BYTES
        uses[layer] = _Use(layer=layer, name=name, amount=max(size, uses[layer].amount if layer in uses else 0))
    return _largest(list(uses.values()))


def _bias_uses(problem: Problem) -> list[_Use]:
    entries = [(layer, bias_entries(layer)) for layer in problem.layers]
    return _largest([_Use(layer=layer.index, name=layer.name, amount=len(values), unit="entries")
                     for layer, values in entries if values is not None])


def _largest(uses: list[_Use]) -> list[_Use]:
    return sorted(uses, key=lambda use: (-use.amount, use.layer))


def _table(title: str, uses: Sequence[_Use]) -> str:
    if not uses:
        return ""
    rows = ", ".join(f"{use.name} {use.amount} {use.unit}" for use in uses[:NUM_SHOWN])
    return f"{title}: {rows}"


def _too_many_layers(failure: Failure, device: Max7800x) -> Diagnostic:
    draft = failure.problem.draft
    helpers = [layer.name for layer, index in zip(draft.network.layers, draft.file_index, strict=True) if index is None]
    first = draft.network.layers[0]
    return Diagnostic(
        code="E0463",
        message=f"{len(helpers)} copies are needed to place operands side by side",
        source=first.source,
        layer=first.name,
        layer_index=draft.file_index[0],
        found=f"{len(draft.network.layers)} layers with {', '.join(helpers[:NUM_SHOWN])}",
        allowed=f"{device.limits.max_layers} layers",
        help="let fewer element-wise operations and concatenations read the same layer, or stream fewer layers",
    )
