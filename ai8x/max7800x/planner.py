"""Automatic placement: processors, offsets, gaps, input format and helper layers for what a network file leaves open.

Owns the order of attempts. Given values are kept, or refused with a reason. Start at `plan_placement`.

The parts: ``planner_draft`` (helper layers), ``planner_layout`` (what must lie side by side), ``planner_problem``
(what can be chosen), ``planner_search`` (the choice), ``planner_memory`` (offsets), ``planner_result`` (the plan and
its check), ``planner_failure`` (why it does not fit).

Source: spec/max78000-cnn.md sections 3, 5, 6 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ai8x.errors import UserError
from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.placement import DataFormat, PlacementOptions, place_network
from ai8x.max7800x.planner_draft import CopyKind, Draft, PlanMode, as_convolutions, insert_copies
from ai8x.max7800x.planner_evaluator import Evaluator, Found
from ai8x.max7800x.planner_failure import Failure, PlanFailureError, best_failure, does_not_fit, shortage_of
from ai8x.max7800x.planner_layout import resolve_layouts
from ai8x.max7800x.planner_problem import Problem, build_problem, check_given
from ai8x.max7800x.planner_remedies import PlanRemedy, RemedyKind, find_remedies, without_parameters
from ai8x.max7800x.planner_result import PLANNER_NOTICES, PlanDefectError, PlannedNetwork, PlanSummary, finish_plan
from ai8x.max7800x.planner_search import SEARCH_BUDGET, search
from ai8x.network.ir import NETWORK_INPUT, Network, Op
from ai8x.network.yaml_file import PlacementHint

__all__ = ["PLANNER_NOTICES", "PlanDefectError", "PlanFailureError", "PlanSummary", "PlannedNetwork", "plan_placement"]

DEFAULT_OPTIONS = PlacementOptions()
"""Nothing on the command line."""

PROBE_BUDGET = 300
"""Plans that are weighed to see whether a remedy helps, or whether a file with an error can be completed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Request:
    """What is to be placed."""

    network: Network
    hints: tuple[PlacementHint, ...]
    device: Max7800x
    options: PlacementOptions
    deduplicate: bool

    def draft(self, mode: PlanMode, kind: CopyKind) -> Draft:
        """The network before planning."""
        return Draft(network=self.network, hints=self.hints, file_index=tuple(range(len(self.network.layers))),
                     mode=mode, copy_kind=kind, deduplicate=self.deduplicate)

    @property
    def gives_streaming(self) -> bool:
        """The file or the command line says which layers stream."""
        return self.options.ignore_streaming or any(hint.streaming is not None for hint in self.hints)

    @property
    def gives_anything(self) -> bool:
        """The file or the command line gives something that a plan could fail because of."""
        keys = ("processors", "output_processors", "in_offset", "out_offset", "write_gap", "bias_group", "data_format",
                "streaming")
        options = self.options
        return (options.output_map is not None or options.fifo or options.fast_fifo or options.quad
                or any(getattr(hint, key) is not None for hint in self.hints for key in keys))


def plan_placement(
    network: Network,
    hints: Sequence[PlacementHint],
    device: Max7800x,
    options: PlacementOptions = DEFAULT_OPTIONS,
    *,
    deduplicate: bool = True,
) -> PlannedNetwork:
    """Place a network, choosing what the file leaves open.

    A file that is complete by the vendor's rules (processors everywhere; other keys have defaults) and passes every
    check is taken as it is. Otherwise everything that is absent is planned. A network with a rolling buffer is never
    planned: its layers share places that only the file can tell.

    Args:
        network: layers in the order of `hints`.
        hints: what the file says about each layer.
        device: the chip.
        options: command line and global keys.
        deduplicate: equal weights share storage.

    Returns:
        The network, with helper layers where operands need a copy, and its placement.

    Raises:
        UserError: E0460 to E0463 given values cannot be kept, E0464 the network does not fit; or what
            `constraints.check_network` finds in a placement that the file gives completely.
        PlanDefectError: a plan fails the check.
    """
    request = _Request(network=network, hints=tuple(hints), device=device, options=options, deduplicate=deduplicate)
    has_processors = all(hint.processors is not None for hint in hints)
    if network.buffer is None and not has_processors:
        return _plan(request)
    written = _as_written(request)
    if not written.diagnostics.errors:
        return written
    if network.buffer is not None:
        written.diagnostics.raise_if_errors()
    if any(hint.out_offset is None for hint in hints):
        return _plan(request)
    # A file that gives everything wants to hear about its own values, and soon.
    outcome = _try_mode(request, _given_mode(request), PROBE_BUDGET)
    if isinstance(outcome, PlannedNetwork):
        return outcome
    raise UserError(written.diagnostics.errors)


def _as_written(request: _Request) -> PlannedNetwork:
    """The file's placement with the vendor's defaults."""
    network = request.network
    placement = place_network(network, request.hints, request.device, request.options)
    findings = check_network(network, placement, request.device, deduplicate=request.deduplicate)
    return PlannedNetwork(network=network, placement=placement, file_index=tuple(range(len(network.layers))),
                          diagnostics=findings)


def _plan(request: _Request) -> PlannedNetwork:
    """The first way to feed the input that fits; errors of the given way are the user's, those of others mean no."""
    given = _given_mode(request)
    check_given(request.draft(given, CopyKind.PASS), request.device)
    outcome = _plan_mode(request, given)
    if isinstance(outcome, PlannedNetwork):
        outcome.diagnostics.raise_if_errors()
        return outcome
    failures = outcome
    for mode in () if _is_hopeless(failures) else _other_modes(request, given):
        outcome = _try_mode(request, mode, SEARCH_BUDGET)
        if isinstance(outcome, PlannedNetwork):
            return outcome
        failures += outcome
    raise _failure(request, failures)


def _failure(request: _Request, failures: Sequence[Failure]) -> UserError:
    """The error, with remedies that are looked for only as far as they are shown."""
    return does_not_fit(failures, request.device, _remedies(request, failures))


def _remedies(request: _Request, failures: Sequence[Failure]) -> Iterator[PlanRemedy]:
    """What the file and the command line may leave out, then changes of the network."""
    shape = request.network.input_shape
    bare = replace(request, network=without_parameters(request.network))
    if request.gives_streaming and (plan := _attempt(_streaming_allowed(bare))) is not None:
        yield PlanRemedy(kind=RemedyKind.STREAMING, action=_streaming_text(plan), result=_used(plan), input_shape=shape)
    relaxed = replace(bare, hints=tuple(_unplaced(hint) for hint in request.hints),
                      options=replace(request.options, output_map=None))
    if (relaxed.hints, relaxed.options) != (request.hints, request.options) and (plan := _attempt(relaxed)) is not None:
        yield PlanRemedy(kind=RemedyKind.PLACEMENT, action="leave the placement keys out, so that they are chosen",
                         result=_used(plan), input_shape=shape)
    best = best_failure(failures)
    if best is not None:
        def attempt(variant: Network) -> PlanSummary | None:
            plan = _attempt(replace(relaxed, network=variant))
            return None if plan is None else _used(plan)

        yield from find_remedies(request.network, shortage_of(*best), attempt)


def _streaming_allowed(request: _Request) -> _Request:
    """The same without a word about how the input enters."""
    return replace(request, hints=tuple(replace(hint, streaming=None, data_format=None) for hint in request.hints),
                   options=replace(request.options, ignore_streaming=False))


def _streaming_text(plan: PlannedNetwork) -> str:
    names = [layer.name for layer, place in zip(plan.network.layers, plan.placement.layers, strict=True)
             if place.streaming]
    if not names:
        return "leave streaming and data_format out, so that they are chosen"
    return f"let {', '.join(names)} work while the input arrives through the FIFO: write streaming: true there"


def _used(plan: PlannedNetwork) -> PlanSummary:
    if plan.summary is None:
        raise ValueError("a plan that was made here has a summary")
    return plan.summary


def _plan_mode(request: _Request, mode: PlanMode, budget: int = SEARCH_BUDGET) -> PlannedNetwork | list[Failure]:
    """A plan for one way to feed the input, or why there is none; copies without weights come first."""
    failures: list[Failure] = []
    for kind in CopyKind:
        problem, found = _best_plan(request, request.draft(mode, kind), budget)
        if found is not None and found.score.fits:
            any_given = request.gives_anything or mode.streaming > 0
            return finish_plan(problem, found, request.options, any_given=any_given)
        failures.append(Failure(problem=problem, found=found))
        if not problem.draft.num_helpers or _is_hopeless(failures):
            break
    return failures


def _try_mode(request: _Request, mode: PlanMode, budget: int) -> PlannedNetwork | list[Failure]:
    """A plan for a way that nobody asked for; whatever speaks against it means that there is none."""
    try:
        check_given(request.draft(mode, CopyKind.PASS), request.device)
        outcome = _plan_mode(request, mode, budget)
    except UserError:
        return []
    if isinstance(outcome, PlannedNetwork) and outcome.diagnostics.errors:
        return []
    return outcome


def _attempt(request: _Request) -> PlannedNetwork | None:
    """A plan of a changed network or of changed hints, found with a smaller budget."""
    given = _given_mode(request)
    outcome = _try_mode(request, given, PROBE_BUDGET)
    if isinstance(outcome, PlannedNetwork):
        return outcome
    if outcome and _is_hopeless(outcome):
        return None
    plans = (_try_mode(request, mode, PROBE_BUDGET) for mode in _other_modes(request, given))
    return next((plan for plan in plans if isinstance(plan, PlannedNetwork)), None)


def _is_hopeless(failures: Sequence[Failure]) -> bool:
    """Whether weights or biases exceed all memories together: no other input or copy changes that."""
    last = failures[-1]
    return last.found is not None and not Evaluator(last.problem).parameters_may_fit(last.found.maps)


def _unplaced(hint: PlacementHint) -> PlacementHint:
    """Only what a file without placement may say, too."""
    return replace(hint, processors=None, output_processors=None, in_offset=None, out_offset=None, write_gap=None,
                   bias_group=None)


def _best_plan(request: _Request, draft: Draft, budget: int) -> tuple[Problem, Found | None]:
    """The best plan of one way to copy and to feed the input; None where helpers exceed or cut what is possible.

    Pass layers that cannot be placed become 1x1 convolutions; where that is not possible either, what reads them
    gets copies.
    """
    while True:
        draft, layouts = resolve_layouts(draft)
        problem = build_problem(draft, layouts, request.device, request.options.output_map)
        if len(draft.network.layers) > request.device.limits.max_layers or _cuts_stream(draft):
            return problem, None
        found = search(problem, budget)
        repaired = _without_broken_passes(problem, Evaluator(problem).broken_passes(found.maps))
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


def _given_mode(request: _Request) -> PlanMode:
    """How the input enters if nothing but the file and the command line decides."""
    options = request.options
    streaming = 0 if options.ignore_streaming else sum(1 for hint in request.hints if hint.streaming)
    return PlanMode(
        data_format=DataFormat(request.hints[0].data_format or "HWC"), streaming=streaming,
        fifo=options.fifo or (streaming > 0 and not options.fast_fifo), fast_fifo=options.fast_fifo, quad=options.quad)


def _other_modes(request: _Request, given: PlanMode) -> Iterator[PlanMode]:
    """Ways that the file leaves open, the simplest first.

    One channel per memory; layers that write over what they have read, which costs nothing either; streams of growing
    length, which cost time.
    """
    network, device = request.network, request.device
    only_first = network.consumers(NETWORK_INPUT) == (0,) and not network.layers[0].eltwise
    planar = only_first and network.input_shape.channels <= device.geometry.num_instances
    resident = [given]
    if request.hints[0].data_format is None and planar and not given.reads_fifo:
        resident.append(replace(given, data_format=DataFormat.CHW))
    yield from resident[1:]
    yield from (replace(mode, in_place=True) for mode in resident)
    if not request.gives_streaming:
        for depth in _stream_depths(network, device):
            streamed = replace(given, streaming=depth, fifo=not given.fast_fifo)
            yield from (streamed, replace(streamed, in_place=True))


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
