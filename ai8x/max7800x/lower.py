"""From placed layers to the register program.

Owns the order of phases and the power and clock sequence; global registers are in ``lower_control.py``, those of the
layers in ``lower_registers.py``, the data layouts in ``lower_data.py``. Expects a network that
`constraints.check_network` accepts. Start reading at `lower_network`.

Source: spec/max78000-cnn.md sections 1.1, 2, 3.6, 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import UserError
from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.kernels import KernelPlan
from ai8x.max7800x.lower_control import (
    LoweringInput,
    acknowledge_writes,
    fifo_status_address,
    init_writes,
    limit_writes,
    self_tests,
    start_writes,
    stop_start_writes,
)
from ai8x.max7800x.lower_data import expected_blocks, input_blocks, output_region, unload_items
from ai8x.max7800x.lower_registers import configure_writes
from ai8x.max7800x.options import CLOCK_DIVIDER_CODES, DEFAULT_LOWERING, ClockSource, LowerOptions, clock_findings
from ai8x.max7800x.placement import Placement
from ai8x.max7800x.program import (
    BiasBlock,
    ClearBlock,
    ClockSetting,
    ExpectedBlock,
    InputBlock,
    KernelChunk,
    LayerCheck,
    PowerWrite,
    Program,
)
from ai8x.max7800x.regions import buffer_layout, is_streamed_output, words_of
from ai8x.network.ir import NETWORK_INPUT, Network

__all__ = ["ClockSource", "LowerOptions", "LoweringPlan", "lower_network"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoweringPlan:
    """The decisions of the earlier stages, together.

    Args:
        device: the chip.
        layers: hardware form of every layer.
        placement: processors and data memory.
        kernels: weight and bias memory.
    """

    device: Max7800x
    layers: tuple[HardwareLayer, ...]
    placement: Placement
    kernels: KernelPlan


def lower_network(
    network: Network,
    plan: LoweringPlan,
    sample: NDArray[Any],
    trace: Mapping[int, NDArray[Any]],
    options: LowerOptions = DEFAULT_LOWERING,
) -> Program:
    """The complete program for one network and one sample.

    Args:
        network: what is computed.
        plan: decisions of the earlier stages, for the same network.
        sample: int8 array of the network input, (C, H, W).
        trace: reference output of every output layer, by layer index, (C, H, W).
        options: choices.

    Returns:
        The program; every address in it belongs to a register or memory of the device.

    Raises:
        UserError: E0392, a clock divider that does not exist.
        RegisterError: a value does not fit its register, which `constraints.check_network` would have reported.

    Source:
        spec/max78000-cnn.md sections 1 to 5.
    """
    source = LoweringInput(
        device=plan.device,
        layers=plan.layers,
        placement=plan.placement,
        kernels=plan.kernels,
        quadrants=plan.placement.used_quadrants,
        express=options.express,
        write_zeros=options.write_zero_registers,
        power_down_unused=options.power_down_unused,
    )
    outputs = tuple(output_region(plan.layers[index]) for index in network.outputs)
    clock = ClockSetting(source=options.clock_source.name, divider=options.clock_divider)
    return Program(
        enable=enable_writes(plan.device, source.quadrants, options),
        clock=clock,
        init=tuple(init_writes(source)),
        load_weights=kernel_chunks(plan.device, plan.kernels, express=options.express),
        load_bias=bias_blocks(plan.device, plan.kernels),
        configure=tuple(configure_writes(source)),
        load_input=sample_blocks(network, plan, sample),
        clear=buffer_blocks(network, plan),
        start=tuple(start_writes(source)),
        acknowledge=tuple(acknowledge_writes(source)),
        expected=limit_words(expected_blocks(plan.device, outputs, trace), options.max_verify_words),
        unload=unload_items(plan.device, options.unload or outputs),
        disable=disable_writes(plan.device),
        quadrants=source.quadrants,
        fifo_status=fifo_status_address(plan.device, fast=plan.placement.fast_fifo),
        self_tests=tuple(self_tests(source)) if options.zero_memories else (),
        stop_start=tuple(stop_start_writes(source)) if options.stop_start else (),
        layer_checks=layer_checks(source, trace) if options.check_layers else (),
    )


def sample_blocks(network: Network, plan: LoweringPlan, sample: NDArray[Any]) -> tuple[InputBlock, ...]:
    """The sample where the first layer that reads it finds it; nothing where no layer does."""
    readers = network.consumers(NETWORK_INPUT)
    return input_blocks(plan.device, plan.layers[readers[0]], sample) if readers else ()


def buffer_blocks(network: Network, plan: LoweringPlan) -> tuple[ClearBlock, ...]:
    """The words of the rolling buffer, one block per data memory instance."""
    if network.buffer is None or plan.placement.buffer is None:
        return ()
    words = words_of(buffer_layout(network.buffer, plan.placement.buffer), plan.device)
    blocks = []
    for instance in np.flatnonzero(words.any(axis=1)).tolist():
        used = np.flatnonzero(words[instance])
        address = plan.device.geometry.data_address(instance, int(used[0]))
        # Where the last pass has fewer channels, an instance may miss some words between.
        blocks.append(ClearBlock(address=address, num_words=int(used[-1] - used[0]) + 1))
    return tuple(blocks)


def layer_checks(source: LoweringInput, trace: Mapping[int, NDArray[Any]]) -> tuple[LayerCheck, ...]:
    """One check for every layer whose output lies in data memory as a whole, the last layer excepted.

    What a layer hands to the next one as a stream cannot be looked at.
    """
    checks = []
    for layer in source.layers[:-1]:
        if not is_streamed_output(layer, source.layers):
            expected = expected_blocks(source.device, [output_region(layer)], trace)
            limit = tuple(limit_writes(source, layer.index))
            checks.append(LayerCheck(layer=layer.index, limit=limit, expected=expected))
    return tuple(checks)


def limit_words(blocks: Sequence[ExpectedBlock], limit: int | None) -> tuple[ExpectedBlock, ...]:
    """The first words of a known answer.

    Args:
        blocks: the whole answer.
        limit: words to keep; None for all.
    """
    if limit is None:
        return tuple(blocks)
    kept = []
    for block in blocks:
        if limit > 0:
            kept.append(replace(block, values=block.values[:limit].copy()))
        limit -= block.values.size
    return tuple(kept)


def enable_writes(device: Max7800x, quadrants: Sequence[int], options: LowerOptions) -> tuple[PowerWrite, ...]:
    """Power on the used quadrants, then their clock.

    Raises:
        UserError: E0392, no such clock divider.

    Source:
        spec/max78000-cnn.md section 1.1.
    """
    used = sum(1 << quadrant for quadrant in quadrants)
    everything = (1 << device.num_quadrants) - 1
    if findings := clock_findings(options):
        raise UserError(findings)
    divider = dict(CLOCK_DIVIDER_CODES)[options.clock_divider]
    pclkdiv = device.gcr.register("GCR_PCLKDIV")
    return (
        _quadrant_power(device, "GCFR_REG3", everything, "hold every quadrant in reset"),
        _quadrant_power(device, "GCFR_REG1", used, "mask memory power"),
        _quadrant_power(device, "GCFR_REG0", used, "quadrant power"),
        _quadrant_power(device, "GCFR_REG2", everything & ~used, "isolate only what is not used"),
        _quadrant_power(device, "GCFR_REG3", 0, "end the reset"),
        PowerWrite(
            address=pclkdiv.address(device.geometry.gcr_base),
            mask=pclkdiv.mask,
            register=pclkdiv.name,
            value=pclkdiv.encode(cnnclkdiv=divider, cnnclksel=options.clock_source.value),
            doc="clock source and divider",
        ),
        _clock_gate(device, disabled=False),
    )


def disable_writes(device: Max7800x) -> tuple[PowerWrite, ...]:
    """Stop the clock, then isolate every quadrant and cut its power.

    Source:
        spec/max78000-cnn.md section 1.1.
    """
    everything = (1 << device.num_quadrants) - 1
    return (
        _clock_gate(device, disabled=True),
        _quadrant_power(device, "GCFR_REG3", everything, "hold every quadrant in reset"),
        _quadrant_power(device, "GCFR_REG2", everything, "isolate every quadrant"),
        _quadrant_power(device, "GCFR_REG0", 0, "quadrant power off"),
        _quadrant_power(device, "GCFR_REG1", 0, "mask memory power off"),
        _quadrant_power(device, "GCFR_REG3", 0, "end the reset"),
    )


def kernel_chunks(device: Max7800x, kernels: KernelPlan, *, express: bool) -> tuple[KernelChunk, ...]:
    """Runs of mask words in use, by processor, then word.

    Source:
        spec/max78000-cnn.md section 3.6.
    """
    return tuple(
        KernelChunk(
            processor=chunk.processor,
            base=device.geometry.mask_address(chunk.processor),
            word=chunk.start_word,
            words=chunk.rows,
            express=express,
        )
        for chunk in kernels.chunks()
    )


def bias_blocks(device: Max7800x, kernels: KernelPlan) -> tuple[BiasBlock, ...]:
    """Bias bytes of every quadrant that has any."""
    return tuple(
        BiasBlock(quadrant=quadrant, address=device.geometry.bias_address(quadrant), values=values)
        for quadrant, values in enumerate(kernels.bias_bytes)
        if values.size
    )


def _quadrant_power(device: Max7800x, name: str, value: int, doc: str) -> PowerWrite:
    register = device.gcfr.register(name)
    return PowerWrite(
        address=register.address(device.geometry.gcfr_base),
        value=register.encode(value=value),
        mask=register.mask,
        register=name,
        doc=doc,
    )


def _clock_gate(device: Max7800x, *, disabled: bool) -> PowerWrite:
    register = device.gcr.register("GCR_PCLKDIS0")
    return PowerWrite(
        address=register.address(device.geometry.gcr_base),
        value=register.encode(cnn=int(disabled)),
        mask=register.mask,
        register=register.name,
        doc="clock off" if disabled else "clock on",
    )
