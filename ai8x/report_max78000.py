"""The MAX78000's part of the report: cycles, processors, memories over time, and which facts nobody has confirmed.

Start at `chip_report`.

Source: spec/max78000-cnn.md sections 1, 5, 8 and 11; docs/design.md "Honesty".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ai8x.max7800x.cycles import layer_cycles, network_cycles, predicted_time_us, work_from_layer
from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.lower import LoweringPlan
from ai8x.max7800x.options import Core, ProjectOptions
from ai8x.max7800x.placement import LANES, PROCESSORS, DataFormat, format_map, set_bits
from ai8x.max7800x.regions import DataRegion, data_regions, read_words, written_words
from ai8x.network.ir import BUFFER_INPUT, NETWORK_INPUT, Activation, Eltwise, Layer, Network, Pool
from ai8x.report import ChipLayer, ChipReport, Fact, MemoryBlock, MemoryMap, Resource
from ai8x.report_facts import known_fact

TARGET = "max78000"
MACS_PER_PROCESSOR = 9
"""Multiply-accumulates of one processor in one cycle: a 3x3 kernel; section 8.1, "one output slot per clock"."""


DEFAULT_PROJECT = ProjectOptions()


def chip_report(network: Network, plan: LoweringPlan, files: Mapping[str, int],
                project: ProjectOptions = DEFAULT_PROJECT) -> ChipReport:
    """Everything the report says about the network on this chip.

    Args:
        network: what is computed.
        plan: the placed network.
        files: generated files and their sizes in bytes.
        project: choices of the project, such as the clock.
    """
    clock_hz = project.lower.clock_hz
    works = [work_from_layer(layer, kernels) for layer, kernels in zip(plan.layers, plan.kernels.kernels, strict=True)]
    total = network_cycles(works)
    rows = tuple(_layer_row(layer, layer_cycles(work), clock_hz)
                 for layer, work in zip(plan.layers, works, strict=True))
    memory = data_memory_map(network, plan)
    return ChipReport(
        target=TARGET, title=plan.device.name.upper(), clock_hz=clock_hz, layers=rows, total_cycles=total,
        total_time_us=predicted_time_us(total, clock_hz), timing_note=_timing_note(plan.layers[0]),
        peak_macs_per_cycle=PROCESSORS * MACS_PER_PROCESSOR, memory_maps=(memory,),
        resources=resources(plan, memory), plan_peak=memory.peak, plan_lower_bound=memory.lower_bound,
        unverified=(*unverified_facts(network), *project_facts(plan, project)), files=files)


def data_memory_map(network: Network, plan: LoweringPlan) -> MemoryMap:
    """Data memory: one lane for each instance in use, one step for each layer."""
    regions = data_regions(network, plan.layers, plan.device, plan.placement.buffer)
    used = sorted({instance for region in regions for instance in region.instances})
    lanes = {instance: lane for lane, instance in enumerate(used)}
    per_instance = plan.device.geometry.processors_per_instance
    last_step = len(network.layers) - 1
    blocks = tuple(
        MemoryBlock(label=_tensor_name(network, region), lane=lanes[instance], start=region.start_byte,
                    end=region.end_byte, first_step=region.first_use, last_step=min(region.last_use, last_step))
        for region in regions for instance in region.instances)
    return MemoryMap(
        title="Data memory", unit="bytes", capacity=plan.device.geometry.data_words * plan.device.geometry.word_bytes,
        lanes=tuple(f"processors {per_instance * i} to {per_instance * (i + 1) - 1}" for i in used),
        steps=tuple(layer.name for layer in network.layers), blocks=blocks,
        peak=max((block.end for block in blocks), default=0), lower_bound=_lower_bound(regions, len(network.layers)))


def _lower_bound(regions: Sequence[DataRegion], num_layers: int) -> int:
    """Bytes that the fullest memory needs whatever the offsets: all that lives before a layer, or all after it.

    What a layer reads for the last time and what it writes may share a place, so they are not counted together. Tensors
    that share words in turn count once.
    """
    bound = 0
    instances = {instance for region in regions for instance in region.instances}
    for instance in instances:
        local = [region for region in regions if instance in region.instances]
        for layer in range(num_layers):
            before = [one for one in local if _born(one) < layer <= one.last_use]
            after = [one for one in local if _born(one) <= layer and (one.last_use > layer or _born(one) == layer)]
            bound = max(bound, _filled(before), _filled(after))
    return bound


def _born(region: DataRegion) -> int:
    """The layer that makes the content; before the first one for inputs, and for buffers that are filled all along."""
    is_given = region.layer in (NETWORK_INPUT, BUFFER_INPUT) or region.is_stream_buffer
    return -1 if is_given else region.first_use


def _filled(regions: Sequence[DataRegion]) -> int:
    """Bytes of a memory that lie in some region."""
    filled = reached = 0
    for start, end in sorted((region.start_byte, region.end_byte) for region in regions):
        filled += max(0, end - max(start, reached))
        reached = max(reached, end)
    return filled


def resources(plan: LoweringPlan, memory: MemoryMap) -> tuple[Resource, ...]:
    """Weight memory by processor, bias memory by quadrant, data memory, layers, quadrants."""
    geometry = plan.device.geometry
    words = plan.kernels.mask_used.sum(axis=1)
    biases = tuple(int(entries.size) for entries in plan.kernels.bias_bytes)
    return (
        Resource(name="Weight memory", used=int(words.sum()), capacity=int(np.prod(plan.kernels.mask_used.shape)),
                 unit="72-bit words", role="weights", parts=tuple(int(n) for n in words),
                 part_capacity=geometry.mask_words, part_name="processor", group_size=geometry.processors_per_quadrant,
                 group_name="quadrant"),
        Resource(name="Bias memory", used=sum(biases), capacity=geometry.bias_entries * geometry.num_quadrants,
                 unit="bytes", parts=biases, part_capacity=geometry.bias_entries, part_name="quadrant"),
        Resource(name="Data memory, fullest instance", used=memory.peak, capacity=memory.capacity, unit="bytes",
                 role="data"),
        Resource(name="Layers", used=len(plan.layers), capacity=plan.device.limits.max_layers, unit="layers"),
        Resource(name="Powered quadrants", used=len(plan.placement.used_quadrants), capacity=geometry.num_quadrants,
                 unit="quadrants", part_name="quadrant", part_capacity=1,
                 parts=tuple(int(q in plan.placement.used_quadrants) for q in range(geometry.num_quadrants))),
    )


def unverified_facts(network: Network) -> tuple[Fact, ...]:
    """Facts about arithmetic that this network relies on and that no device has confirmed."""
    facts = []
    averaging = [layer for layer in network.layers if layer.pool.kind is Pool.AVG]
    if any(_averages_negative(network, layer) for layer in averaging):
        facts.append(known_fact("max78000-average-negative"))
    if any(layer.average_rounded for layer in averaging):
        facts.append(known_fact("max78000-average-rounding"))
    worst = max((_worst_accumulator(layer) for layer in network.layers), default=0)
    if worst >= 1 << 25:
        facts.append(known_fact("max78000-accumulator", f"up to {worst:,}"))
    if network.buffer is not None:
        facts.append(known_fact("max78000-rolling-buffer"))
    return tuple(facts)


def project_facts(plan: LoweringPlan, project: ProjectOptions) -> tuple[Fact, ...]:
    """Facts about input, memories and start that the generated project relies on and that no device has confirmed."""
    first = plan.layers[0]
    chw_lanes = first.placement.data_format is DataFormat.CHW and any(p % LANES for p in set_bits(first.processors))
    code, lower = project.code, project.lower
    streams = any(layer.streaming for layer in plan.layers)
    applies = {
        "max78000-chw-lanes": chw_lanes, "max78000-stream-rollover": streams, "max78000-stream-time": streams,
        "max78000-quad-time": any(layer.quad for layer in plan.layers),
        "max78000-in-place": any(_writes_over_its_input(layer, plan.device) for layer in plan.layers),
        "max78000-memory-sleep": lower.power_down_unused, "max78000-self-test": lower.zero_memories,
        "max78000-riscv-start": code.core is Core.RISCV, "max78000-timers": bool(code.timed),
    }
    return tuple(known_fact(key) for key, used in applies.items() if used)


def _writes_over_its_input(layer: HardwareLayer, device: Max7800x) -> bool:
    if layer.streaming or layer.fifo_input:
        return False
    return bool((written_words(layer, device) & read_words(layer, device)).any())


def _layer_row(layer: HardwareLayer, cycles: int, clock_hz: int) -> ChipLayer:
    peak = PROCESSORS * MACS_PER_PROCESSOR
    return ChipLayer(
        index=layer.index, name=layer.name, unit="CNN", processors=format_map(layer.processors), cycles=cycles,
        time_us=cycles / clock_hz * 1e6, utilisation=layer.layer.macs / (cycles * peak),
        num_processors=layer.active_processors.bit_count(), rough=layer.streaming or layer.fifo_input)


def _timing_note(first: HardwareLayer) -> str:
    if first.streaming:
        return ("streaming layers: the vendor's estimate, 16 to 25 % above measured networks; the CPU that feeds the "
                "FIFO may take longer")
    if first.fifo_input:
        return "estimated without waiting for the input: the CPU that feeds the FIFO may take longer"
    return "estimated; within 1 us of five networks measured on silicon, start and interrupt (6.7 us) included"


def _tensor_name(network: Network, region: DataRegion) -> str:
    if region.layer == BUFFER_INPUT and network.buffer is not None:
        return f"{network.buffer.name} (kept between inferences)"
    name = "input" if region.layer == NETWORK_INPUT else network.layers[region.layer].name
    return f"{name} (stream buffer)" if region.is_stream_buffer else name


def _averages_negative(network: Network, layer: Layer) -> bool:
    """Whether what a layer pools can hold negative values, from activations and operators alone."""
    subtracts_first = layer.eltwise is Eltwise.SUB and not layer.pool_first
    return subtracts_first or any(_can_be_negative(network, index) for index in layer.inputs)


def _can_be_negative(network: Network, index: int) -> bool:
    """Whether a tensor can hold negative values; the network's input can."""
    if index < 0:
        return True
    layer = network.layers[index]
    if layer.op.has_weights:
        return layer.activation is Activation.NONE
    return layer.eltwise is Eltwise.SUB or any(_can_be_negative(network, source) for source in layer.inputs)


def _worst_accumulator(layer: Layer) -> int:
    if layer.weights is None:
        return 0
    sums = np.abs(layer.weights).reshape(len(layer.weights), -1).sum(axis=1) * 128
    bias = np.abs(layer.bias) * 128 if layer.bias is not None else 0
    return int((sums + bias).max())
