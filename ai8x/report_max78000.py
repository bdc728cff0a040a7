"""The MAX78000's part of the report: cycles, processors, memories over time, and which facts nobody has confirmed.

Start at `chip_report`.

Source: spec/max78000-cnn.md sections 1, 5, 8 and 11; docs/design.md "Honesty".
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ai8x.max7800x.cycles import layer_cycles, network_cycles, predicted_time_us, work_from_layer
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.lower import LoweringPlan
from ai8x.max7800x.placement import PROCESSORS, format_map
from ai8x.max7800x.regions import DataRegion, data_regions
from ai8x.network.ir import BUFFER_INPUT, NETWORK_INPUT, Activation, Eltwise, Layer, Network, Pool
from ai8x.report import ChipLayer, ChipReport, MemoryBlock, MemoryMap, Resource

TARGET = "max78000"
MACS_PER_PROCESSOR = 9
"""Multiply-accumulates of one processor in one cycle: a 3x3 kernel; section 8.1, "one output slot per clock"."""


def chip_report(network: Network, plan: LoweringPlan, files: Mapping[str, int],
                clock_hz: int | None = None) -> ChipReport:
    """Everything the report says about the network on this chip.

    Args:
        network: what is computed.
        plan: the placed network.
        files: generated files and their sizes in bytes.
        clock_hz: accelerator clock; None for the chip's default.
    """
    clock_hz = clock_hz or plan.device.clock_hz
    works = [work_from_layer(layer, kernels) for layer, kernels in zip(plan.layers, plan.kernels.kernels, strict=True)]
    total = network_cycles(works)
    rows = tuple(_layer_row(layer, layer_cycles(work), clock_hz)
                 for layer, work in zip(plan.layers, works, strict=True))
    streaming = any(layer.streaming for layer in plan.layers)
    return ChipReport(
        target=TARGET, title=plan.device.name.upper(), clock_hz=clock_hz, layers=rows, total_cycles=total,
        total_time_us=predicted_time_us(total, clock_hz), timing_note=_timing_note(streaming),
        memory_maps=(data_memory_map(network, plan),), resources=resources(plan),
        unverified=unverified_facts(network), files=files)


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
        peak=max((block.end for block in blocks), default=0))


def resources(plan: LoweringPlan) -> tuple[Resource, ...]:
    """Weight memory by processor, bias memory by quadrant, layers, quadrants."""
    geometry = plan.device.geometry
    words = plan.kernels.mask_used.sum(axis=1)
    biases = tuple(int(entries.size) for entries in plan.kernels.bias_bytes)
    return (
        Resource(name="Weight memory", used=int(words.sum()), capacity=int(np.prod(plan.kernels.mask_used.shape)),
                 unit="72-bit words", parts=tuple(int(n) for n in words), part_capacity=geometry.mask_words,
                 part_name="processor"),
        Resource(name="Bias memory", used=sum(biases), capacity=geometry.bias_entries * geometry.num_quadrants,
                 unit="bytes", parts=biases, part_capacity=geometry.bias_entries, part_name="quadrant"),
        Resource(name="Layers", used=len(plan.layers), capacity=plan.device.limits.max_layers, unit="layers"),
        Resource(name="Powered quadrants", used=len(plan.placement.used_quadrants), capacity=geometry.num_quadrants,
                 unit="quadrants"),
    )


def unverified_facts(network: Network) -> tuple[str, ...]:
    """Facts that this network relies on and that no device has confirmed; section 11 lists them all."""
    facts = []
    averaging = [layer for layer in network.layers if layer.pool.kind is Pool.AVG]
    if any(_averages_negative(network, layer) for layer in averaging):
        facts.append("average pooling of negative sums that do not divide evenly (spec/max78000-cnn.md section 4.4)")
    if any(layer.average_rounded for layer in averaging):
        facts.append("average pooling with rounding, for negative ties (spec/max78000-cnn.md section 4.4)")
    worst = max((_worst_accumulator(layer) for layer in network.layers), default=0)
    if worst >= 1 << 25:
        facts.append(f"accumulators beyond 26 bits: this network can reach {worst} (spec/max78000-cnn.md section 4.2)")
    return tuple(facts)


def _layer_row(layer: HardwareLayer, cycles: int, clock_hz: int) -> ChipLayer:
    peak = PROCESSORS * MACS_PER_PROCESSOR
    return ChipLayer(
        index=layer.index, name=layer.name, unit="CNN", processors=format_map(layer.processors), cycles=cycles,
        time_us=cycles / clock_hz * 1e6, utilisation=layer.layer.macs / (cycles * peak),
        rough=layer.streaming)


def _timing_note(streaming: bool) -> str:
    if streaming:
        return ("streaming layers: the vendor's estimate, 16 to 25 % above measured networks; the CPU that feeds the "
                "FIFO may take longer")
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
