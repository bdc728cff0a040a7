"""From placed layers to the register program.

Owns the order of phases and the power and clock sequence; the register formulas are in ``lower_registers.py``, the
data layouts in ``lower_data.py``. Expects a network that `constraints.check_network` accepts. Start reading at
`lower_network`.

Source: spec/max78000-cnn.md sections 1.1, 2, 3.6, 5.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Diagnostic, UserError
from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.kernels import KernelPlan
from ai8x.max7800x.lower_data import OutputRegion, expected_blocks, input_blocks, output_region, unload_items
from ai8x.max7800x.lower_registers import LoweringInput, acknowledge_writes, configure_writes, init_writes, start_writes
from ai8x.max7800x.placement import Placement
from ai8x.max7800x.program import BiasBlock, ClockSetting, KernelChunk, PowerWrite, Program
from ai8x.network.ir import NETWORK_INPUT, Network


class ClockSource(enum.Enum):
    """What the accelerator's clock is divided from; values are GCR_PCLKDIV.cnnclksel."""

    PCLK = 0
    ISO = 1


CLOCK_DIVIDER_CODES: tuple[tuple[int, int], ...] = ((1, 4), (2, 0), (4, 1), (8, 2), (16, 3))
"""(divider, GCR_PCLKDIV.cnnclkdiv), section 1.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerOptions:
    """Choices of the register program.

    Args:
        express: load mask memory as a packed byte stream; False: four bus words per mask word.
        write_zero_registers: write registers whose value is 0, too.
        clock_source: what the accelerator's clock is divided from.
        clock_divider: 1, 2, 4, 8 or 16.
        unload: replaces the network's outputs in `cnn_unload`; empty = the outputs.
    """

    express: bool = True
    write_zero_registers: bool = False
    clock_source: ClockSource = ClockSource.PCLK
    clock_divider: int = 1
    unload: tuple[OutputRegion, ...] = ()


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
    options: LowerOptions = LowerOptions(),
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
        UserError: E0391, the fast FIFO; E0392, a clock divider that does not exist.
        RegisterError: a value does not fit its register, which `constraints.check_network` would have reported.

    Source:
        spec/max78000-cnn.md sections 1 to 5.
    """
    _refuse_fast_fifo(plan.placement)
    source = LoweringInput(
        device=plan.device,
        layers=plan.layers,
        placement=plan.placement,
        kernels=plan.kernels,
        quadrants=plan.placement.used_quadrants,
        express=options.express,
        write_zeros=options.write_zero_registers,
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
        load_input=input_blocks(plan.device, plan.layers[0], sample)
        if NETWORK_INPUT in network.layers[0].inputs
        else (),
        start=tuple(start_writes(source)),
        acknowledge=tuple(acknowledge_writes(source)),
        expected=expected_blocks(plan.device, outputs, trace),
        unload=unload_items(plan.device, options.unload or outputs),
        disable=disable_writes(plan.device),
        quadrants=source.quadrants,
        fifo_status=plan.device.fifo.register("FIFO_STATUS").address(plan.device.geometry.fifo_base),
    )


def enable_writes(device: Max7800x, quadrants: Sequence[int], options: LowerOptions) -> tuple[PowerWrite, ...]:
    """Power on the used quadrants, then their clock.

    Raises:
        UserError: E0392, no such clock divider.

    Source:
        spec/max78000-cnn.md section 1.1.
    """
    used = sum(1 << quadrant for quadrant in quadrants)
    everything = (1 << device.num_quadrants) - 1
    divider = dict(CLOCK_DIVIDER_CODES).get(options.clock_divider)
    if divider is None:
        raise UserError(
            Diagnostic(
                code="E0392",
                message=f"clock divider {options.clock_divider} does not exist",
                found=str(options.clock_divider),
                allowed=", ".join(str(value) for value, _ in CLOCK_DIVIDER_CODES),
                help="write --clock-divider 1",
            )
        )
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
    chunks = []
    for processor in range(device.processors):
        used = np.concatenate(([False], kernels.mask_used[processor], [False])).astype(np.int8)
        edges = np.flatnonzero(np.diff(used))
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            chunks.append(
                KernelChunk(
                    processor=processor,
                    base=device.geometry.mask_address(processor),
                    word=start,
                    words=kernels.mask_rows[processor, start:end],
                    express=express,
                )
            )
    return tuple(chunks)


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


def _refuse_fast_fifo(placement: Placement) -> None:
    if placement.fast_fifo:
        raise UserError(
            Diagnostic(
                code="E0391",
                message="the fast FIFO needs a program for the RISC-V core, which is not generated",
                found="--fast-fifo",
                allowed="input through memory or through the FIFOs",
                help="write --fifo instead",
            )
        )
