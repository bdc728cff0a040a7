"""What a choice of processors costs: whether it fits, its cycles, its memory.

Owns the objective. Weight memory, cycles and bias entries come from the same functions that the back end uses. Start at
`Score` and `Evaluator`.

Source: spec/max78000-cnn.md sections 3.4, 3.7, 6.2 and 8.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ai8x.max7800x.biases import bias_entries
from ai8x.max7800x.cycles import START_CYCLES, layer_cycles, work_from_layer
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.kernels import LayerKernels, mask_count, mask_word_count
from ai8x.max7800x.placement import (
    LANES,
    PROCESSORS,
    QUADRANT_PROCESSORS,
    highest_bit,
    instances_of,
    lowest_bit,
    quadrant_map,
    quadrants_of,
    set_bits,
)
from ai8x.max7800x.planner_layout import tensor_of
from ai8x.max7800x.planner_memory import BlockPlan, Blocks, Region, given_collisions, plan_blocks
from ai8x.max7800x.planner_problem import (
    Choices,
    Maps,
    Problem,
    extent_of,
    input_region,
    output_life,
    read_start,
    reader_map,
    replacement,
    with_maps,
)
from ai8x.network.ir import Layer


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Score:
    """How good a plan is; less is better, the first difference decides.

    Args:
        impossible: pass layers whose maps the hardware cannot connect, and a missing quadrant 0.
        overflow: words and entries beyond the memories, all together.
        cycles: of one inference.
        memory: share of the fullest weight memory plus share of the fullest data memory, in words times words.
        quadrants: powered.
        reach: highest processors of all tensors, added up; breaks ties, and leads to fewer quadrants step by step.
        imbalance: squares of the words in all weight memories, added up; leads to less memory step by step.
    """

    impossible: int
    overflow: int
    cycles: int
    memory: int
    quadrants: int
    reach: int
    imbalance: int = field(compare=False)

    @property
    def balanced(self) -> tuple[int, ...]:
        """For the first part of the search, which cares for memory only."""
        return self.impossible, self.overflow, self.cycles, self.memory, self.imbalance

    @property
    def complete(self) -> tuple[int, ...]:
        """For the second part; the order of scores."""
        return self.impossible, self.overflow, self.cycles, self.memory, self.quadrants, self.reach

    @property
    def fits(self) -> bool:
        """Whether the chip can run it."""
        return not self.impossible and not self.overflow


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A plan and its properties.

    Args:
        score: how good it is.
        maps: by tensor.
        blocks: offsets.
        mask_words: by processor, words of weights.
        data_words: highest data memory word in use plus one.
        weight_overflow: words of weights that have no place.
        data_overflow: words of data beyond the memory, or on other data where offsets are given.
        bias_overflow: entries beyond the bias memories.
    """

    score: Score
    maps: Maps
    blocks: BlockPlan
    mask_words: tuple[int, ...]
    data_words: int
    weight_overflow: int
    data_overflow: int
    bias_overflow: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _LayerCost:
    """What one layer costs on given processors."""

    active: tuple[int, ...]
    everywhere: bool
    words: int
    bias: int
    hardware: HardwareLayer


class Evaluator:
    """Weighs maps; remembers what does not change from plan to plan."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._costs: dict[tuple[int, int, int], _LayerCost] = {}
        self._cycles: dict[tuple[int, int, int, int], int] = {}
        self._instances: dict[int, int] = {}
        self._readers: dict[tuple[int, ...], int] = {}
        self._connects: dict[tuple[int, int], bool] = {}
        self._spans: dict[int, int] = {}
        self._weight_groups = _weight_groups(problem.layers, deduplicate=problem.draft.deduplicate)
        self._extents = tuple(extent_of(problem, layer) for layer in problem.layers)
        self._lives = tuple(output_life(problem, layer) for layer in problem.layers)
        self._replacements = tuple(replacement(problem, layer) for layer in problem.layers)
        self._read_ends = tuple(
            read_start(problem, layer) + layer.in_pixels * layer.passes * layer.operands for layer in problem.layers
        )

    def weigh(self, maps: Maps, best: Score | None = None, *, thorough: bool = False) -> Found | None:
        """The plan with these maps, or None where it cannot be better than `best`."""
        problem, geometry = self.problem, self.problem.device.geometry
        readers = self.reader_maps(maps)
        costs = [self._cost(layer, readers[layer.index], maps[tensor_of(layer.index)]) for layer in problem.layers]
        impossible = self._impossible(readers, maps)
        starts, mask_words, homeless = self._place_weights(costs, readers, maps)
        weight_overflow = sum(costs[index].words for index in homeless)
        cycles = START_CYCLES + sum(
            self._layer_cycles(cost, start) for cost, start in zip(costs, starts, strict=True)
        )
        bias_overflow = self._bias_overflow(costs, readers, maps)
        overflow = weight_overflow + bias_overflow
        if best is not None and (impossible, overflow, cycles) > (best.impossible, best.overflow, best.cycles):
            return None
        planned = Blocks(regions=tuple(self.regions(maps)), fixed=problem.fixed_bases)
        blocks = plan_blocks(planned, thorough=thorough)
        data_overflow = max(0, blocks.peak - geometry.data_words) + given_collisions(planned, blocks.bases)
        score = Score(
            impossible=impossible,
            overflow=overflow + data_overflow,
            cycles=cycles,
            memory=max(mask_words) * geometry.data_words + blocks.peak * geometry.mask_words,
            quadrants=len(quadrants_of(_union(readers) | _union(maps[1:]))),
            reach=sum(found.bit_length() for found in maps),
            imbalance=sum(words * words for words in mask_words),
        )
        return Found(score=score, maps=maps, blocks=blocks, mask_words=tuple(mask_words), data_words=blocks.peak,
                     weight_overflow=weight_overflow, data_overflow=data_overflow, bias_overflow=bias_overflow)

    def reader_maps(self, maps: Maps) -> tuple[int, ...]:
        """Input processors of every layer."""
        return tuple(self._reader_map(layer, maps) for layer in self.problem.network.layers)

    def _reader_map(self, layer: Layer, maps: Maps) -> int:
        key = layer.index, *(maps[tensor_of(source)] for source in layer.inputs)
        if key not in self._readers:
            self._readers[key] = reader_map(self.problem.layouts.frames[layer.index], layer.inputs, maps) or 0
        return self._readers[key]

    def regions(self, maps: Maps) -> Iterator[Region]:
        """The words that every tensor occupies."""
        problem = self.problem
        readers = self.reader_maps(maps)
        yield input_region(problem, self._instance_map(maps[0]))
        for layer in problem.layers:
            place = problem.layouts.words[tensor_of(layer.index)]
            start, end = self._extents[layer.index]
            first_use, last_use = self._lives[layer.index]
            instances = self._written_instances(layer, maps[tensor_of(layer.index)])
            yield Region(block=place.group, start=place.offset + start, end=place.offset + end, instances=instances,
                         first_use=first_use, last_use=last_use, behind=self._replacements[layer.index])
            if not layer.streaming and layer.surplus_pixels:
                # A dilated Conv1d reads whole rows, beyond its true input: those words must exist and stay its own.
                group = problem.layouts.read_words[layer.index].group
                own = self._instance_map(readers[layer.index])
                yield Region(block=group, start=0, end=self._read_ends[layer.index], instances=own,
                             first_use=layer.index, last_use=layer.index)

    def _instance_map(self, processors: int) -> int:
        """The data memories of a map, as bits."""
        if processors not in self._instances:
            self._instances[processors] = _instance_bits(instances_of(processors))
        return self._instances[processors]

    def _written_instances(self, layer: HardwareLayer, processors: int) -> int:
        """A convolution writes from its first memory to its last, a pass layer those of its map."""
        if not layer.is_conv:
            return self._instance_map(processors)
        if processors not in self._spans:
            first, last = lowest_bit(processors) // LANES, highest_bit(processors) // LANES
            self._spans[processors] = _instance_bits(range(first, last + 1))
        return self._spans[processors]

    def _cost(self, layer: HardwareLayer, processors: int, output_processors: int) -> _LayerCost:
        key = layer.index, processors, output_processors
        if key not in self._costs:
            placed = with_maps(layer, processors, output_processors)
            entries = bias_entries(placed)
            self._costs[key] = _LayerCost(
                active=set_bits(placed.active_processors),
                everywhere=processors.bit_count() == PROCESSORS,
                words=mask_word_count(placed) if placed.is_conv else 0,
                bias=0 if entries is None else len(entries),
                hardware=placed,
            )
        return self._costs[key]

    def _layer_cycles(self, cost: _LayerCost, start: int) -> int:
        hardware = cost.hardware
        own = start if hardware.combines_first else 0
        key = hardware.index, hardware.processors, hardware.output_processors, own
        if key not in self._cycles:
            kernels = LayerKernels(index=hardware.index, start_word=own, num_masks=mask_count(hardware),
                                   num_words=cost.words)
            self._cycles[key] = layer_cycles(work_from_layer(hardware, kernels))
        return self._cycles[key]

    def slow_passes(self, maps: Maps) -> Iterator[tuple[int, int]]:
        """Pass layers that read a single tensor and could be faster on other processors: (layer, cycles to gain)."""
        for layer in self.problem.layers:
            if layer.is_conv or len(layer.layer.inputs) > 1:
                continue
            source = tensor_of(layer.layer.inputs[0])
            possible = [choice for group in self.problem.choices for choice in group if source in dict(choice)]
            gain = self._transfer_cycles(layer, maps[source]) - min(
                self._transfer_cycles(layer, dict(choice)[source]) for choice in possible)
            if gain:
                yield layer.index, gain

    def fastest_choices(self, choices: Choices, layer: int) -> Choices:
        """The choices without those on which a pass layer is slower than it must be."""
        hardware = self.problem.layers[layer]
        source = tensor_of(hardware.layer.inputs[0])
        result = []
        for group in choices:
            cycles = [self._transfer_cycles(hardware, dict(choice)[source]) if source in dict(choice) else 0
                      for choice in group]
            result.append(tuple(choice for choice, own in zip(group, cycles, strict=True) if own == min(cycles)))
        return tuple(result)

    def _transfer_cycles(self, layer: HardwareLayer, processors: int) -> int:
        return layer_cycles(work_from_layer(with_maps(layer, processors, processors), None))

    def layers_without_weight_place(self, maps: Maps) -> frozenset[int]:
        """Layers whose weights find no place beside those of the others."""
        readers = self.reader_maps(maps)
        costs = [self._cost(layer, readers[layer.index], maps[tensor_of(layer.index)]) for layer in self.problem.layers]
        return frozenset(self._place_weights(costs, readers, maps)[2])

    def parameters_may_fit(self, maps: Maps) -> bool:
        """Whether weights and biases are smaller than their memories, all together, and each bias than one quadrant's.

        Equal weights count once.
        """
        readers, step = self.reader_maps(maps), self.problem.device.limits.mask_alignment_words
        geometry, sizes = self.problem.device.geometry, dict[int, int]()
        biases: list[int] = []
        for layer in self.problem.layers:
            cost = self._cost(layer, readers[layer.index], maps[tensor_of(layer.index)])
            sizes[self._weight_groups[layer.index]] = -(-cost.words // step) * step * len(cost.active)
            biases.append(cost.bias)
        return (sum(sizes.values()) <= geometry.mask_words * PROCESSORS
                and max(biases) <= geometry.bias_entries
                and sum(biases) <= geometry.bias_entries * self.problem.device.num_quadrants)

    def data_may_fit(self, maps: Maps) -> bool:
        """Whether at every step the live tensors together are smaller than the data memories, and each than one."""
        words = self.problem.device.geometry.data_words
        capacity = words * self.problem.device.geometry.num_instances
        regions = tuple(self.regions(maps))
        if any(region.end - region.start > words for region in regions):
            return False
        for step in range(len(self.problem.layers)):
            live = [region for region in regions if region.first_use <= step <= region.last_use]
            sizes: dict[int, int] = {}
            for region in live:
                free = 0
                for other in live:
                    free |= other.instances if region.may_replace(other) else 0
                size = (region.end - region.start) * (region.instances & ~free).bit_count()
                sizes[region.block] = max(sizes.get(region.block, 0), size)
            if sum(sizes.values()) > capacity:
                return False
        return True

    def broken_passes(self, maps: Maps) -> tuple[int, ...]:
        """Pass layers that cannot write from their input's processors to their output's."""
        readers = self.reader_maps(maps)
        return tuple(
            layer.index
            for layer in self.problem.layers
            if not layer.is_conv and not pass_connects(readers[layer.index], maps[tensor_of(layer.index)])
        )

    def _impossible(self, readers: Sequence[int], maps: Maps) -> int:
        count = sum(
            not self._pass_connects(readers[layer.index], maps[tensor_of(layer.index)])
            for layer in self.problem.layers
            if not layer.is_conv
        )
        used = _union(readers) | maps[-1]
        return count + (not used & ((1 << QUADRANT_PROCESSORS) - 1) and not self.problem.draft.mode.quad)

    def _pass_connects(self, processors: int, output_processors: int) -> bool:
        key = processors, output_processors
        if key not in self._connects:
            self._connects[key] = pass_connects(*key)
        return self._connects[key]

    def _place_weights(
        self, costs: Sequence[_LayerCost], readers: Sequence[int], maps: Maps
    ) -> tuple[list[int], list[int], list[int]]:
        """First fit as `kernels.allocate_kernels` does it: (first word by layer, words by processor, without place)."""
        device = self.problem.device
        step = device.limits.mask_alignment_words
        blocks = device.geometry.mask_words // step
        taken, used = [0] * PROCESSORS, [0] * PROCESSORS
        starts: list[int] = [0] * len(costs)
        homeless: list[int] = []
        shared: dict[tuple[int, int, int], int] = {}
        for cost in sorted(costs, key=lambda cost: not cost.everywhere):
            if not cost.words:
                continue
            index = cost.hardware.index
            lanes = maps[tensor_of(index)] >> LANES * cost.hardware.first_instance
            key = self._weight_groups[index], readers[index], lanes
            if key in shared:
                starts[index] = shared[key]
                continue
            busy = 0
            for processor in cost.active:
                busy |= taken[processor]
            size = -(-cost.words // step)
            start = _first_run(busy, size, blocks)
            if start < 0:
                homeless.append(index)
                continue
            starts[index] = shared[key] = start * step
            for processor in cost.active:
                taken[processor] |= ((1 << size) - 1) << start
                used[processor] += cost.words
        return starts, used, homeless

    def _bias_overflow(self, costs: Sequence[_LayerCost], readers: Sequence[int], maps: Maps) -> int:
        """Entries beyond the bias memories, when spread as `biases.allocate_biases` does it."""
        entries = [cost for cost in costs if cost.bias]
        if not entries:
            return 0
        quadrants = quadrants_of(_union(readers) | maps[-1])
        used = dict.fromkeys(range(self.problem.device.num_quadrants), 0)
        hints = self.problem.draft.hints
        for cost in sorted(entries, key=lambda cost: (not cost.hardware.flatten, -cost.bias)):
            allowed = hints[cost.hardware.index].bias_group or quadrants
            used[min(allowed, key=lambda quadrant: used[quadrant])] += cost.bias
        capacity = self.problem.device.geometry.bias_entries
        return sum(max(0, count - capacity) for count in used.values())


def pass_connects(processors: int, output_processors: int) -> bool:
    """Whether a pass layer can write from one map to the other: within each quadrant, packed, from a multiple of 4.

    Source:
        spec/max78000-cnn.md sections 5.3 and 6.2.
    """
    for quadrant in range(PROCESSORS // QUADRANT_PROCESSORS):
        need = quadrant_map(processors, quadrant).bit_count()
        have = quadrant_map(output_processors, quadrant)
        start = lowest_bit(have)
        if have.bit_count() != need or (need and (start % LANES or have >> start != (1 << need) - 1)):
            return False
    return True


def _union(maps: Sequence[int]) -> int:
    union = 0
    for found in maps:
        union |= found
    return union


def _instance_bits(instances: Sequence[int]) -> int:
    return sum(1 << instance for instance in instances)


def _first_run(busy: int, size: int, blocks: int) -> int:
    """Lowest bit from which `size` bits are free, or -1."""
    free = ~busy & ((1 << blocks) - 1)
    remaining = size
    while remaining > 1:
        half = remaining // 2
        free &= free >> half
        remaining -= half
    return lowest_bit(free) if free else -1


def _weight_groups(layers: Sequence[HardwareLayer], *, deduplicate: bool) -> tuple[int, ...]:
    """Number of the first layer with the same weights; layers without weights are alone."""
    first: dict[object, int] = {}
    groups = []
    for layer in layers:
        key: object = layer.index
        if layer.weights is not None and deduplicate:
            key = (layer.weight_bits, layer.flatten_pixels, layer.weights.shape, layer.weights.tobytes())
        groups.append(first.setdefault(key, layer.index))
    return tuple(groups)
