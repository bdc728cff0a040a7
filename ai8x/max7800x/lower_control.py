"""Global registers of a network: initialisation, start, interrupt, self test, and the control of the FIFOs.

Owns what every register formula may look at (`LoweringInput`) and the encoding of a single write; the registers of the
layers are in ``lower_registers.py``. Start reading at `init_writes` and `start_writes`.

Source: spec/max78000-cnn.md sections 2.1 and 9.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.kernels import KernelPlan
from ai8x.max7800x.placement import Placement, set_bits
from ai8x.max7800x.program import RegisterWrite, SelfTest
from ai8x.registers import Register

FOLLOW_QUADRANT = 4
"""Value of CTRL.ext_sync with which a quadrant waits for the first one."""

TESTED_MEMORIES = ("data", "mask", "tram", "bias")
"""Memories of a quadrant with a self test, in the order in which they are tested."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoweringInput:
    """What every register formula may look at.

    Args:
        device: the chip.
        layers: all layers in hardware form.
        placement: where their data lies.
        kernels: where their weights and biases lie.
        quadrants: quadrants in use (U), ascending.
        express: mask memory is loaded packed.
        write_zeros: registers whose value is 0 are written too.
        power_down_unused: the mask memories of other quadrants are switched off.
    """

    device: Max7800x
    layers: tuple[HardwareLayer, ...]
    placement: Placement
    kernels: KernelPlan
    quadrants: tuple[int, ...]
    express: bool = True
    write_zeros: bool = False
    power_down_unused: bool = False

    @property
    def first_quadrant(self) -> int:
        """The quadrant that starts the others."""
        return self.quadrants[0]

    @property
    def is_streaming(self) -> bool:
        """Whether any layer works on a stream."""
        return any(layer.streaming for layer in self.layers)

    def quadrant_register(self, name: str) -> Register:
        """A register of the quadrant block."""
        return self.device.quadrant.register(name)


def encode_write(
    register: Register,
    base: int,
    fields: Mapping[str, int],
    *,
    index: int = 0,
    layer: int | None = None,
    quadrant: int | None = None,
) -> RegisterWrite:
    """One register write.

    Raises:
        RegisterError: a value does not fit its field.
    """
    return RegisterWrite(
        address=register.address(base, index),
        value=register.encode(**fields),
        register=register.name,
        fields=MappingProxyType({name: value for name, value in fields.items() if value}),
        layer=layer,
        quadrant=quadrant,
    )


def quadrant_write(source: LoweringInput, name: str, quadrant: int, fields: Mapping[str, int]) -> RegisterWrite:
    """A write to a global register of one quadrant.

    Raises:
        RegisterError: a value does not fit its field.
    """
    base = source.device.geometry.quadrant_registers(quadrant)
    return encode_write(source.quadrant_register(name), base, fields, quadrant=quadrant)


def init_writes(source: LoweringInput) -> Iterator[RegisterWrite]:
    """Global registers at initialisation: always-on control, then control, SRAM timing and layer count per quadrant.

    Source:
        spec/max78000-cnn.md section 2.1.
    """
    device = source.device
    yield encode_write(device.aod.register("AOD_CTRL"), device.geometry.aod_base, {})
    sram = source.quadrant_register("SRAM").decode(device.sram_setting)
    control = {"clk_en": 1, "mexpress": int(source.express), "fifo_en": int(source.placement.reads_fifo)}
    for quadrant in source.quadrants:
        yield quadrant_write(source, "CTRL", quadrant, control)
        yield quadrant_write(source, "SRAM", quadrant, sram)
        yield quadrant_write(source, "LCNT_MAX", quadrant, {"max": len(source.layers) - 1})


def limit_writes(source: LoweringInput, last: int) -> Iterator[RegisterWrite]:
    """Make a layer the last one that runs.

    Args:
        source: the network.
        last: index of the layer.
    """
    for quadrant in source.quadrants:
        yield quadrant_write(source, "LCNT_MAX", quadrant, {"max": last})


def self_tests(source: LoweringInput) -> Iterator[SelfTest]:
    """The self test of every memory, which leaves zeros; all used quadrants at once.

    Source:
        spec/max78000-cnn.md sections 2.1 (TEST) and 9.2.
    """
    register = source.quadrant_register("TEST")
    for memory in TESTED_MEMORIES:
        yield SelfTest(
            memory=memory,
            start=tuple(quadrant_write(source, "TEST", q, {f"run_{memory}": 1}) for q in source.quadrants),
            done=register.encode(run_complete=1, **{f"run_done_{memory}": 1}),
            failed=register.encode(**{f"fail_{memory}": 1}),
            finish=tuple(quadrant_write(source, "TEST", q, {}) for q in source.quadrants),
        )


def start_writes(source: LoweringInput) -> Iterator[RegisterWrite]:
    """Arm every quadrant, then start the first one, which starts the others.

    Source:
        spec/max78000-cnn.md section 2.1.
    """
    for quadrant in source.quadrants:
        waits = int(quadrant != source.first_quadrant)
        fields = {**_mode_fields(source, quadrant), "ext_sync": FOLLOW_QUADRANT, "cnn_en": waits}
        yield quadrant_write(source, "CTRL", quadrant, fields)
    if source.power_down_unused:
        yield _power_down_write(source)
    yield quadrant_write(source, "CTRL", source.first_quadrant, _running_fields(source))


def stop_start_writes(source: LoweringInput) -> Iterator[RegisterWrite]:
    """Clear the start bit of the first quadrant, then set it again.

    Source:
        spec/max78000-cnn.md sections 2.1 and 9.2.
    """
    running = _running_fields(source)
    yield quadrant_write(source, "CTRL", source.first_quadrant, {**running, "cnn_en": 0})
    yield quadrant_write(source, "CTRL", source.first_quadrant, running)


def acknowledge_writes(source: LoweringInput) -> Iterator[RegisterWrite]:
    """What the interrupt handler writes: completion flag, start and stream bits cleared in every quadrant.

    Source:
        spec/max78000-cnn.md section 2.1.
    """
    armed = {write.quadrant: write for write in start_writes(source) if write.register == "CTRL"}
    for quadrant in source.quadrants:
        fields = {name: value for name, value in armed[quadrant].fields.items() if name not in ("cnn_en", "stream_en")}
        yield quadrant_write(source, "CTRL", quadrant, fields)


def fifo_writes(source: LoweringInput) -> Iterator[RegisterWrite]:
    """Control of the FIFOs, or of the fast FIFO; nothing where the input comes through memory.

    Source:
        spec/max78000-cnn.md section 2.1.
    """
    device = source.device
    if source.placement.fast_fifo:
        block, base = device.fast_fifo, device.geometry.fast_fifo_base
        yield encode_write(block.register("FAST_FIFO_IE"), base, {})
        control = block.register("FAST_FIFO_CR")
        yield encode_write(control, base, control.decode(device.fast_fifo_setting))
    elif source.placement.fifo:
        register = device.fifo.register("FIFO_CTRL")
        enable = 0
        for processor in set_bits(source.layers[0].processors):
            enable |= 1 << processor // device.geometry.processors_per_quadrant
        fields = {**register.decode(device.fifo_setting), "enable": enable}
        yield encode_write(register, device.geometry.fifo_base, fields)


def fifo_status_address(device: Max7800x, *, fast: bool) -> int:
    """Bus address of the status register of the FIFOs, or of the fast FIFO."""
    if fast:
        return device.fast_fifo.register("FAST_FIFO_SR").address(device.geometry.fast_fifo_base)
    return device.fifo.register("FIFO_STATUS").address(device.geometry.fifo_base)


def _mode_fields(source: LoweringInput, quadrant: int) -> dict[str, int]:
    """The mode bits of CTRL: the same in all quadrants, but for the fast FIFO."""
    fifo = source.placement.reads_fifo
    takes_fast = source.placement.fast_fifo and _reads_fast_fifo(source, quadrant)
    return {
        "clk_en": 1,
        "mexpress": int(source.express),
        "poolrnd": int(any(hw.layer.average_rounded for hw in source.layers)),
        "stream_en": int(source.is_streaming),
        "fifo_en": int(fifo),
        "lilbuf": int(fifo and source.is_streaming),
        "ffifo_en": int(takes_fast),
        "fifogrp": int(takes_fast),
        "qupac": int(source.placement.quad),
    }


def _running_fields(source: LoweringInput) -> dict[str, int]:
    """CTRL of the first quadrant while the network runs."""
    follows = FOLLOW_QUADRANT if source.placement.reads_fifo else 0
    return {**_mode_fields(source, source.first_quadrant), "cnn_en": 1, "ext_sync": follows}


def _reads_fast_fifo(source: LoweringInput, quadrant: int) -> bool:
    """Whether layer 0 uses the first four processors of the quadrant."""
    geometry = source.device.geometry
    first = geometry.processors_per_quadrant * quadrant
    lanes = (1 << geometry.processors_per_instance) - 1
    return bool(source.layers[0].active_processors >> first & lanes)


def _power_down_write(source: LoweringInput) -> RegisterWrite:
    """Mask memories of unused quadrants off."""
    device = source.device
    unused = set(range(device.num_quadrants)) - set(source.quadrants)
    fields = {"mask_off": sum(1 << quadrant for quadrant in unused)}
    return encode_write(device.aod.register("AOD_CTRL"), device.geometry.aod_base, fields)
