"""Network -> kmodel: plans both memories for the steps of `legalize.py` and puts the file together.

Start at `lower_network`. The result keeps, beside the model, which kmodel layer shows which network layer, so that
verification can compare every tensor, both memory plans, and the proof of exactness of every KPU layer.

Source: spec/k210-kmodel.md sections 8, 10 and 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Ai8xError
from ai8x.k210 import constraints
from ai8x.k210.additions import cheapest_steps
from ai8x.k210.budget import check_budget, check_memories
from ai8x.k210.device import K210
from ai8x.k210.encode import Places, encode_step
from ai8x.k210.forms import EXACT_FORMS, Forms
from ai8x.k210.kmodel import KModel, write_kmodel
from ai8x.k210.kmodel_layers import MemoryRange
from ai8x.k210.lint import lint_kmodel
from ai8x.k210.parameters import ZERO_POINT
from ai8x.k210.steps import (
    AverageStep,
    ConvStep,
    CpuOp,
    CpuStep,
    Inexact,
    KpuMap,
    LayerResult,
    LoweredSteps,
    Step,
    buffer_written,
    buffers_read,
    map_written,
    maps_read,
)
from ai8x.memory import Buffer, MemoryPlan, plan_memory
from ai8x.network.ir import Network


class LoweringError(Ai8xError):
    """A kmodel of ours breaks a rule of the chip: a defect, not a user's mistake."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoweredModel:
    """A network as a kmodel.

    Args:
        model: the kmodel.
        data: its bytes.
        steps: one for each kmodel layer, in order.
        input_map: shape of the image that the runner takes.
        results: where each network layer's tensor can be seen.
        kpu_plan: KPU RAM in lines; buffers are groups of adjacent maps.
        main_plan: the runner's main buffer in bytes.
        proofs: for every computing step, the preconditions of exactness with the numbers that meet them.
        inexact: tensors that may be off; empty unless the user allowed it.
    """

    model: KModel
    data: bytes
    steps: tuple[Step, ...]
    input_map: KpuMap
    results: tuple[LayerResult, ...]
    kpu_plan: MemoryPlan
    main_plan: MemoryPlan
    proofs: tuple[str, ...]
    inexact: tuple[Inexact, ...] = ()

    def image(self, sample: NDArray[np.integer]) -> NDArray[np.uint8]:
        """An int8 sample as the bytes that the runner takes: planar, 128 standing for 0.

        Returns:
            uint8 in the shape of the first KPU layer's input, which for small or one-dimensional data differs from
            the sample's: the same bytes in the same order, zeros appended where the map has more cells.
        """
        place = self.input_map
        image = np.full(place.size_bytes, ZERO_POINT, np.uint8)
        content = device_image(sample).reshape(-1)
        image[: content.size] = content
        return image.reshape(place.channels, place.height, place.width)


def lower_network(network: Network, forms: Forms = EXACT_FORMS) -> LoweredModel:
    """Lower a network, exactly unless the user allows otherwise.

    Args:
        network: what is computed.
        forms: what the user allows.

    Raises:
        UserError: E035x or E0360 where something has no exact form, E0450 to E0452 where a memory is too small.
        LoweringError: the result breaks a rule of the chip (a defect).
    """
    constraints.check_network(network, forms).raise_if_errors()
    lowered = cheapest_steps(network, forms)
    groups = adjacent_groups(lowered)
    kpu_plan = plan_kpu_memory(lowered, groups)
    main_plan = plan_main_memory(lowered)
    check_memories(network, lowered, kpu_plan, main_plan)
    places = Places(lines={name: line for group in groups for name, line in _member_lines(group, kpu_plan)},
                    main={buffer.name: buffer.address or 0 for buffer in main_plan.buffers})
    layers = tuple(encode_step(step, places) for step in lowered.steps)
    outputs = tuple(MemoryRange(address=places.address(b), size=b.size_bytes) for b in lowered.outputs)
    model = KModel(layers=layers, outputs=outputs, main_mem_usage=max(_aligned(main_plan.peak), K210.alignment.dma))
    _check_rules(model)
    data = write_kmodel(model)
    check_budget(network, len(data), model.main_mem_usage)
    proofs = list(filter(None, (_proof(step, network) for step in lowered.steps)))
    proofs += [f"{lowered.steps[off.step].name}: at most {off.bound} from the exact average, for {off.reason}"
               for off in lowered.inexact]
    return LoweredModel(model=model, data=data, steps=lowered.steps, input_map=lowered.input_map,
                        results=lowered.results, kpu_plan=kpu_plan, main_plan=main_plan, proofs=tuple(proofs),
                        inexact=lowered.inexact)


def _proof(step: Step, network: Network) -> str:
    """Why a step computes exact integers; empty for one that only moves or compares bytes."""
    if isinstance(step, ConvStep):
        return f"{step.name}: {step.parameters.proof}"
    if isinstance(step, CpuStep) and step.op is CpuOp.FULLY_CONNECTED:
        worst = constraints.worst_float_sum(network.layers[step.layer])
        return f"{step.name}: whole numbers in float32, |partial sum| <= {worst}, below 2**24"
    if isinstance(step, AverageStep) and not step.source.is_float:
        return f"{step.name}: integer sums of {step.pool.window[0] * step.pool.window[1]} cells, divided exactly"
    return ""


def _check_rules(model: KModel) -> None:
    """The finished file against the rules of the chip, independently of how it was made.

    Raises:
        LoweringError: a rule is broken.
    """
    if errors := lint_kmodel(model).errors:
        raise LoweringError("\n".join(f"{finding.headline()}; allowed: {finding.allowed}" for finding in errors))


def device_image(sample: NDArray[np.integer]) -> NDArray[np.uint8]:
    """int8 activations as bytes, 128 standing for 0; `LoweredModel.image` gives them the runner's shape.

    Source: section 13, "a camera byte p used as a = p - 128".
    """
    return (np.asarray(sample, np.int64) + ZERO_POINT).astype(np.uint8)


# ------------------------------------------------------------------------------------------------ memory

def adjacent_groups(lowered: LoweredSteps) -> tuple[tuple[KpuMap, ...], ...]:
    """Every map once; maps that one step reads side by side stand together in that order."""
    groups: dict[str, tuple[KpuMap, ...]] = {lowered.input_map.name: (lowered.input_map,)}
    for step in lowered.steps:
        if target := map_written(step):
            groups.setdefault(target.name, (target,))
    for step in lowered.steps:
        if len(parts := maps_read(step)) > 1:
            groups.update({part.name: parts for part in parts})
    return tuple(dict.fromkeys(groups.values()))


def plan_kpu_memory(lowered: LoweredSteps, groups: Sequence[tuple[KpuMap, ...]]) -> MemoryPlan:
    """Lines of KPU RAM for every group of maps; a map lives from the step that writes it to its last reader."""
    first = {lowered.input_map.name: -1}
    last = {lowered.input_map.name: -1}
    for index, step in enumerate(lowered.steps):
        if target := map_written(step):
            first[target.name] = last[target.name] = index
        last.update({part.name: index for part in maps_read(step)})
    buffers = [Buffer(name=group_name(group), size=sum(m.lines for m in group),
                      first_use=min(first[m.name] for m in group), last_use=max(last[m.name] for m in group))
               for group in groups]
    return plan_memory(buffers, K210.memory.kpu_lines)


def plan_main_memory(lowered: LoweredSteps) -> MemoryPlan:
    """Bytes of the main buffer; outputs live to the end, sizes are rounded up to the DMA's 8 bytes (section 8.1)."""
    end = len(lowered.steps)
    buffers: dict[str, Buffer] = {}
    for index, step in enumerate(lowered.steps):
        if tensor := buffer_written(step):
            buffers[tensor.name] = Buffer(name=tensor.name, size=_aligned(tensor.size_bytes), first_use=index,
                                          last_use=index, alignment=K210.alignment.dma)
        for tensor in buffers_read(step):
            buffers[tensor.name] = replace(buffers[tensor.name], last_use=index)
    for tensor in lowered.outputs:
        buffers[tensor.name] = replace(buffers[tensor.name], last_use=end)
    return plan_memory(tuple(buffers.values()), K210.memory.general_bytes)


def group_name(group: Sequence[KpuMap]) -> str:
    """Name of a group of adjacent maps in the plan."""
    return "+".join(m.name for m in group)


def _member_lines(group: Sequence[KpuMap], plan: MemoryPlan) -> list[tuple[str, int]]:
    line = plan.address(group_name(group))
    result = []
    for member in group:
        result.append((member.name, line))
        line += member.lines
    return result


def _aligned(size: int) -> int:
    return -(-size // K210.alignment.dma) * K210.alignment.dma
