"""The K210's part of the report: KPU and CPU steps, both memories over time, unconfirmed facts. Start at `chip_report`.

Source: spec/k210-kmodel.md sections 7, 11, 16 and 19.6.
"""

from __future__ import annotations

from collections.abc import Mapping

from ai8x.k210.budget import memory_budgets, tensor_names
from ai8x.k210.device import K210, LINE_BYTES
from ai8x.k210.kmodel_layers import K210Conv
from ai8x.k210.lower import LoweredModel
from ai8x.k210.steps import ConvStep, Step, UploadStep
from ai8x.memory import MemoryPlan
from ai8x.network.ir import Network
from ai8x.report import ChipLayer, ChipReport, Fact, MemoryBlock, MemoryMap, Resource
from ai8x.report_facts import known_fact

TARGET = "k210"
_PICK_OR_NONE = (0, 1, 5)
"""Pool types that files known to run on chips use, 9 aside; section 6."""

_SHOWN = 3
"""Steps without a known time that the note names."""


def chip_report(network: Network, lowered: LoweredModel, milliseconds: Mapping[int, float],
                files: Mapping[str, int]) -> ChipReport:
    """Everything the report says about the network on this chip.

    Args:
        network: what is computed.
        lowered: the kmodel with its plans.
        milliseconds: step -> time, as the simulator's model gives it; CPU steps without a published rate are absent.
        files: generated files and their sizes in bytes.
    """
    rows = tuple(_layer_row(network, lowered, index, step, milliseconds) for index, step in enumerate(lowered.steps))
    unknown = [step.name for index, step in enumerate(lowered.steps) if index not in milliseconds]
    note = "estimated from measured layers (1.6 % rms, 4 % worst for KPU layers; main-memory results are rough)"
    if unknown:
        shown = ", ".join(unknown[:_SHOWN]) + (f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else "")
        note += f"; without {shown}, for which no rate is known"
    return ChipReport(
        target=TARGET, title="Kendryte K210", clock_hz=K210.kpu_clock_hz, layers=rows,
        total_cycles=sum(row.cycles for row in rows), total_time_us=sum(row.time_us for row in rows), timing_note=note,
        memory_maps=(_memory_map("KPU memory", "lines of 64 bytes", lowered, lowered.kpu_plan),
                     _memory_map("Main buffer", "bytes", lowered, lowered.main_plan)),
        peak_macs_per_cycle=K210.peak_mac_per_cycle, resources=_resources(lowered),
        plan_peak=LINE_BYTES * lowered.kpu_plan.peak, plan_lower_bound=LINE_BYTES * lowered.kpu_plan.lower_bound,
        unverified=unverified_facts(lowered, files), files=files, proofs=lowered.proofs)


def _layer_row(network: Network, lowered: LoweredModel, index: int, step: Step,
               milliseconds: Mapping[int, float]) -> ChipLayer:
    time_us = 1e3 * milliseconds.get(index, 0.0)
    layer = lowered.model.layers[index]
    macs = network.layers[step.layer].macs if step.name == network.layers[step.layer].name else 0
    if not isinstance(layer, K210Conv):
        return ChipLayer(index=step.layer, name=step.name, unit="CPU", processors="",
                         cycles=round(time_us * 1e-6 * K210.kpu_clock_hz), time_us=time_us, utilisation=0.0, rough=True,
                         timed=index in milliseconds)
    cycles = round(time_us * 1e-6 * K210.kpu_clock_hz)
    return ChipLayer(index=step.layer, name=step.name, unit="KPU", processors="", cycles=cycles, time_us=time_us,
                     utilisation=macs / (cycles * K210.peak_mac_per_cycle),
                     rough=layer.main_memory_output is not None)


def _memory_map(title: str, unit: str, lowered: LoweredModel, plan: MemoryPlan) -> MemoryMap:
    names = tensor_names(lowered.steps, lowered.input_map)
    last_step = len(lowered.steps) - 1
    blocks = tuple(
        MemoryBlock(label=" + ".join(names.get(part, part) for part in buffer.name.split("+")), lane=0,
                    start=buffer.address or 0, end=buffer.end, first_step=max(0, buffer.first_use),
                    last_step=max(0, min(buffer.last_use, last_step)))
        for buffer in plan.buffers)
    return MemoryMap(title=title, unit=unit, capacity=plan.capacity, lanes=("",),
                     steps=tuple(step.name for step in lowered.steps), blocks=blocks, peak=plan.peak,
                     lower_bound=plan.lower_bound)


def _resources(lowered: LoweredModel) -> tuple[Resource, ...]:
    kpu = Resource(name="KPU memory", used=lowered.kpu_plan.peak, capacity=K210.memory.kpu_lines,
                   unit=f"lines of {LINE_BYTES} bytes", role="data")
    budgets = memory_budgets(len(lowered.data), lowered.model.main_mem_usage)
    return (kpu, *(Resource(name=f"General RAM, {runtime}", used=used, capacity=capacity, unit="bytes", role="weights")
                   for runtime, (used, capacity) in budgets.items()))


def unverified_facts(lowered: LoweredModel, files: Mapping[str, int]) -> tuple[Fact, ...]:
    """Facts that this model and its runners rely on and that no device has confirmed.

    Args:
        lowered: the kmodel.
        files: generated files.
    """
    convs = [step for step in lowered.steps if isinstance(step, ConvStep)]
    kpu_layers = [layer for layer in lowered.model.layers if isinstance(layer, K210Conv)]
    fields = [layer.fields for layer in kpu_layers]
    advised = K210.limits.advised_width, K210.limits.advised_height
    applies = {
        "k210-pooling": any(step.pool not in _PICK_OR_NONE for step in convs),
        "k210-depthwise-1x1": any(step.depthwise and step.kernel == 1 for step in convs),
        "k210-falling-table": any((layer.activation.mul < 0).any() for layer in kpu_layers),
        "k210-partial-load": any((f["o_ch_num"] + 1) % (f["o_ch_num_coef"] + 1) for f in fields),
        "k210-map-size": any(f["i_row_wid"] + 1 > advised[0] or f["i_col_high"] + 1 > advised[1] for f in fields),
        "k210-main-memory-rate": any(step.main is not None for step in convs),
        "k210-upload-rate": any(isinstance(step, UploadStep) for step in lowered.steps),
        "k210-standalone-board": "standalone/board.c" in files,
        "k210-sdk-runner": "runner_sdk.c" in files,
    }
    return tuple(known_fact(key) for key, used in applies.items() if used)
