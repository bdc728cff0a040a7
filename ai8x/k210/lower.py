"""Network -> kmodel: places the steps of `legalize.py` in both memories and encodes them.

Start at `lower_network`. The result keeps, beside the model, which kmodel layer shows which network layer, so that
verification can compare every tensor, and both memory plans for the report.

Source: spec/k210-kmodel.md sections 3, 4.2, 8, 9, 10 and 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ai8x.errors import Diagnostic, UserError
from ai8x.k210 import constraints
from ai8x.k210.device import (
    K210,
    channels_per_line,
    channels_per_load,
    encode_layer_argument,
    lines_per_group,
    lines_per_row,
)
from ai8x.k210.kmodel import KModel, write_kmodel
from ai8x.k210.kmodel_layers import Act, Dequantize, FullyConnected, K210Conv, KModelLayer, MemoryRange, Quantize
from ai8x.k210.legalize import legalize
from ai8x.k210.parameters import ZERO_POINT, NotExact
from ai8x.k210.steps import ConvStep, CpuOp, CpuStep, KpuMap, LayerResult, LoweredSteps, MainBuffer, Step
from ai8x.memory import Buffer, MemoryPlan, plan_memory
from ai8x.network.ir import Layer, Network

_BURST = 15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoweredModel:
    """A network as a kmodel.

    Args:
        model: the kmodel.
        data: its bytes.
        steps: one for each kmodel layer, in order.
        results: where each network layer's tensor can be seen.
        kpu_plan: KPU RAM in lines; buffers are groups of adjacent maps.
        main_plan: the runner's main buffer in bytes.
    """

    model: KModel
    data: bytes
    steps: tuple[Step, ...]
    results: tuple[LayerResult, ...]
    kpu_plan: MemoryPlan
    main_plan: MemoryPlan


def lower_network(network: Network) -> LoweredModel:
    """Lower a network exactly.

    Raises:
        UserError: E035x where something has no exact form, E0450/E0451 where a memory is too small.
    """
    constraints.check_network(network).raise_if_errors()
    try:
        lowered = legalize(network)
    except NotExact as error:
        raise UserError(Diagnostic(code="E0360", message=f"k210: {error}",
                                   help="reduce the layer's input channels, or use --target max78000")) from error
    groups = adjacent_groups(lowered)
    kpu_plan = plan_kpu_memory(lowered, groups)
    main_plan = plan_main_memory(lowered)
    _check_memories(kpu_plan, main_plan, network)
    lines = {name: address for group in groups for name, address in _member_lines(group, kpu_plan)}
    layers = tuple(_encode_step(step, lines, main_plan, network) for step in lowered.steps)
    outputs = tuple(MemoryRange(address=main_plan.address(b.name), size=b.size_bytes) for b in lowered.outputs)
    model = KModel(layers=layers, outputs=outputs, main_mem_usage=max(_aligned(main_plan.peak), K210.alignment.dma))
    return LoweredModel(model=model, data=write_kmodel(model), steps=lowered.steps, results=lowered.results,
                        kpu_plan=kpu_plan, main_plan=main_plan)


def device_image(sample: np.ndarray) -> np.ndarray:
    """An int8 sample as the bytes that the runner takes: planar uint8 (C, H, W), 128 standing for 0.

    Source: section 13, "a camera byte p used as a = p - 128".
    """
    return (np.asarray(sample, np.int64) + ZERO_POINT).astype(np.uint8)


# ------------------------------------------------------------------------------------------------ memory

def adjacent_groups(lowered: LoweredSteps) -> tuple[tuple[KpuMap, ...], ...]:
    """Every map once; maps that one step reads side by side stand together in that order."""
    groups: dict[str, tuple[KpuMap, ...]] = {lowered.input_map.name: (lowered.input_map,)}
    for step in _conv_steps(lowered):
        groups.setdefault(step.target.name, (step.target,))
    for step in _conv_steps(lowered):
        if len(step.source.parts) > 1:
            for part in step.source.parts:
                groups[part.name] = step.source.parts
    return tuple(dict.fromkeys(groups.values()))


def plan_kpu_memory(lowered: LoweredSteps, groups: Sequence[tuple[KpuMap, ...]]) -> MemoryPlan:
    """Lines of KPU RAM for every group of maps; a map lives from the step that writes it to its last reader."""
    first = {lowered.input_map.name: -1}
    last = {lowered.input_map.name: -1}
    for index, step in enumerate(lowered.steps):
        if isinstance(step, ConvStep):
            first[step.target.name] = last[step.target.name] = index
            last.update({part.name: index for part in step.source.parts})
    buffers = [Buffer(name=group_name(group), size=sum(m.lines for m in group),
                      first_use=min(first[m.name] for m in group), last_use=max(last[m.name] for m in group))
               for group in groups]
    return plan_memory(buffers, K210.memory.kpu_lines)


def plan_main_memory(lowered: LoweredSteps) -> MemoryPlan:
    """Bytes of the main buffer; outputs live to the end, sizes are rounded up to the DMA's 8 bytes (section 8.1)."""
    end = len(lowered.steps)
    buffers: dict[str, Buffer] = {}
    for index, step in enumerate(lowered.steps):
        for tensor in _main_tensors(step):
            known = buffers.get(tensor.name)
            buffers[tensor.name] = Buffer(name=tensor.name, size=_aligned(tensor.size_bytes),
                                          first_use=known.first_use if known else index, last_use=index,
                                          alignment=K210.alignment.dma)
    for tensor in lowered.outputs:
        known = buffers[tensor.name]
        buffers[tensor.name] = Buffer(name=known.name, size=known.size, first_use=known.first_use, last_use=end,
                                      alignment=known.alignment)
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


def _conv_steps(lowered: LoweredSteps) -> list[ConvStep]:
    return [step for step in lowered.steps if isinstance(step, ConvStep)]


def _main_tensors(step: Step) -> tuple[MainBuffer, ...]:
    if isinstance(step, CpuStep):
        return step.source, step.target
    return (step.main,) if step.main else ()


def _aligned(size: int) -> int:
    return -(-size // K210.alignment.dma) * K210.alignment.dma


def _check_memories(kpu: MemoryPlan, main: MemoryPlan, network: Network) -> None:
    for plan, code, memory, unit in ((kpu, "E0450", "KPU RAM", "lines of 64 bytes"), (main, "E0451", "main memory", "bytes")):
        if plan.fits:
            continue
        worst = max(plan.buffers, key=lambda b: b.size)
        raise UserError(Diagnostic(
            code=code, message=f"k210: '{network.name}' does not fit the {memory}",
            found=f"{plan.peak} {unit} (at least {plan.lower_bound} in any order), the largest tensor takes {worst.size}",
            allowed=f"{plan.capacity} {unit}", help="use fewer channels or smaller maps in the first layers"))


# ------------------------------------------------------------------------------------------------ encoding

def _encode_step(step: Step, lines: dict[str, int], main: MemoryPlan, network: Network) -> KModelLayer:
    if isinstance(step, ConvStep):
        return _encode_conv(step, lines, main, network.layers[step.layer])
    return _encode_cpu(step, main.address(step.source.name), main.address(step.target.name))


def _encode_conv(step: ConvStep, lines: dict[str, int], main: MemoryPlan, layer: Layer) -> K210Conv:
    words = encode_layer_argument(conv_fields(step, lines, layer))
    parameters = step.parameters
    return K210Conv(words=words, weights=parameters.weights, batch_norm=parameters.batch_norm,
                    activation=parameters.table,
                    main_memory_output=main.address(step.main.name) if step.main else None)


def conv_fields(step: ConvStep, lines: dict[str, int], layer: Layer) -> dict[str, int]:
    """The layer argument's fields; section 3. Addresses of parameters stay 0 for the runner to set.

    Raises:
        UserError: E0361 where the weights need more loads than the KPU counts.
    """
    source, target, parameters = step.source, step.target, step.parameters
    out_channels, in_channels, kernel, _ = parameters.weights.shape
    per_load = out_channels if step.depthwise else channels_per_load(in_channels, out_channels, kernel)
    loads = -(-out_channels // per_load) if per_load else K210.limits.max_weight_loads + 1
    if loads > K210.limits.max_weight_loads:
        raise UserError(Diagnostic(
            code="E0361", message="k210: the weights of this layer need too many loads", source=layer.source,
            layer=layer.name, layer_index=layer.index, found=f"{loads} loads of {per_load} output channels",
            allowed=f"at most {K210.limits.max_weight_loads} loads", help="use fewer output channels"))
    height, width = source.height, source.width
    return {
        "depth_wise_layer": int(step.depthwise),
        "image_src_addr": lines[source.parts[0].name], "image_dst_addr": lines[target.name],
        "i_ch_num": source.channels - 1, "o_ch_num": out_channels - 1, "o_ch_num_coef": per_load - 1,
        "i_row_wid": width - 1, "i_col_high": height - 1,
        "o_row_wid": target.width - 1, "o_col_high": target.height - 1,
        "kernel_type": int(kernel == 3), "pool_type": step.pool, "load_para": 1, "dma_burst_size": _BURST,
        "pad_value": ZERO_POINT, "load_coor": 1, "load_time": loads - 1,
        "para_size": per_load * in_channels * kernel * kernel,
        "channel_switch_addr": lines_per_group(height, width), "row_switch_addr": lines_per_row(width),
        "coef_group": channels_per_line(width), "load_act": 1,
        "wb_channel_switch_addr": lines_per_group(target.height, target.width),
        "wb_row_switch_addr": lines_per_row(target.width), "wb_group": channels_per_line(target.width),
        "arg_x": parameters.arg_x, "arg_w": parameters.arg_w, "arg_add": parameters.arg_add,
        "channel_byte_num": target.height * target.width - 1, "dma_total_byte": target.size_bytes - 1,
    }


def _encode_cpu(step: CpuStep, source: int, target: int) -> KModelLayer:
    if step.op is CpuOp.FULLY_CONNECTED:
        assert step.weights is not None and step.bias is not None
        outputs, inputs = step.weights.shape
        return FullyConnected(input=source, output=target, input_channels=inputs, output_channels=outputs,
                              act=Act.RELU if step.relu else Act.LINEAR, weights=step.weights.astype(np.float32),
                              bias=step.bias.astype(np.float32))
    layer = Dequantize if step.op is CpuOp.DEQUANTIZE else Quantize
    return layer(input=source, output=target, count=step.source.elements, scale=step.scale, bias=step.offset)
