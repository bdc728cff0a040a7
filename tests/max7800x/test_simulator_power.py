"""Power, clock, reset and self test as the bus sees them."""

import numpy as np
import pytest

from ai8x.errors import HardwareFault
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.simulator import Accelerator
from ai8x.registers import Access, Register, RegisterBlock

from .register_program import (
    OFFSETS,
    REGISTERS,
    ConvLayer,
    initialise,
    input_words,
    load_data,
    naive_convolution,
    start,
)

LAYER = ConvLayer(weights=np.arange(4 * 2 * 9).reshape(4, 2, 3, 3) - 30, height=3, width=3, pad=1)
IMAGE = np.arange(18).reshape(2, 3, 3) - 9
PCLKDIS0, REG0, REG1, REG2, REG3 = 0x40000024, 0x40005800, 0x40005804, 0x40005808, 0x4000580C


def prepared(layer: ConvLayer = LAYER, **options: object) -> Accelerator:
    accelerator = Accelerator(seed=1, **options)
    initialise(accelerator)
    layer.load_weights(accelerator)
    layer.configure(accelerator)
    load_data(accelerator, range(2), 0, input_words(IMAGE))
    return accelerator


def enable(accelerator: Accelerator) -> None:
    for address, value in (
        (REG3, 0xF),
        (REG1, 1),
        (REG0, 1),
        (REG2, 0xE),
        (REG3, 0),
        (0x40000018, 4 << 14),
        (PCLKDIS0, 0),
    ):
        accelerator.power(address, value)


def test_access_needs_power_isolation_reset_and_clock() -> None:
    accelerator = Accelerator(seed=0, powered=False)
    for address, value, text in (
        (PCLKDIS0, 0, "clock is stopped"),
        (REG0, 1, "has no power"),
        (REG2, 0xE, "is isolated"),
    ):
        with pytest.raises(HardwareFault, match=text):
            accelerator.write(REGISTERS, 4, 8)
        accelerator.power(address, value)
    accelerator.write(REGISTERS, 4, 8)
    accelerator.power(REG3, 0xF)
    with pytest.raises(HardwareFault, match="held in reset"):
        accelerator.read(REGISTERS, 4)
    accelerator.power(REG3, 0)
    assert accelerator.read(REGISTERS, 4) == 0
    with pytest.raises(HardwareFault, match="quadrant 1 has no power"):
        accelerator.read(REGISTERS + 0x400000, 4)
    accelerator.write(REGISTERS, 4, 8)
    with pytest.raises(HardwareFault, match="mask memory without power"):
        accelerator.write(0x50180000, 4, 0)


def test_vendor_enable_sequence_lets_a_network_run() -> None:
    accelerator = Accelerator(seed=0, powered=False)
    enable(accelerator)
    initialise(accelerator)
    LAYER.load_weights(accelerator)
    LAYER.configure(accelerator)
    load_data(accelerator, range(2), 0, input_words(IMAGE))
    start(accelerator)
    with pytest.raises(HardwareFault, match="during a run"):
        accelerator.power(PCLKDIS0, 1 << 25)
    accelerator.power(PCLKDIS0, 0)
    accelerator.complete()
    np.testing.assert_array_equal(LAYER.read(accelerator, 3, 3), naive_convolution(IMAGE, LAYER))


def test_power_loss_forgets_data_and_bias_but_masks_only_with_their_own_power() -> None:
    accelerator = prepared()
    accelerator.write(0x50108000, 4, 3)
    accelerator.power(REG0, 0)
    accelerator.power(REG0, 1)
    assert [accelerator.undefined(address) for address in (0x50400000, 0x50108000, 0x50180000)] == [0xFFFFFFFF, 0xFF, 0]
    accelerator.power(REG1, 0)
    assert accelerator.undefined(0x50180000) == 0xFFFFFFFF
    assert accelerator.peek(REGISTERS + OFFSETS["RCNT"], 4) == 0


def test_unknown_power_register_is_refused() -> None:
    with pytest.raises(HardwareFault, match="not a power or clock register"):
        Accelerator(seed=0).power(0x40005810, 0)
    with pytest.raises(HardwareFault, match="cnnclkdiv = 5"):
        Accelerator(seed=0).power(0x40000018, 5 << 14)
    with pytest.raises(HardwareFault, match="reserved"):
        Accelerator(seed=0).power(REG0, 0x10)


def test_mask_memory_switched_off_by_the_always_on_domain_cannot_run() -> None:
    accelerator = prepared()
    accelerator.write(0x50001000, 4, 1 << 12)
    assert accelerator.read(0x50001000, 4) == 1 << 12
    with pytest.raises(HardwareFault, match="without power of its mask memory"):
        start(accelerator)


def test_self_test_leaves_zeros_and_reports_success() -> None:
    accelerator = prepared()
    for bit in (0, 2, 4, 6):
        accelerator.write(REGISTERS + 0xC, 4, 1 << bit)
        status = accelerator.read(REGISTERS + 0xC, 4)
        assert status >> 27 & 1
        assert status >> 18 + bit // 2 & 1
        assert not status >> 14 & 0xF
        accelerator.write(REGISTERS + 0xC, 4, 0)
    for address in (0x50400000, 0x50180000, 0x50110000, 0x50108000):
        assert (accelerator.read(address, 4), accelerator.undefined(address)) == (0, 0)


GEOMETRY = MAX78000.geometry
BLOCKS = (
    (MAX78000.quadrant, GEOMETRY.quadrant_registers(2)),
    (MAX78000.fifo, GEOMETRY.fifo_base),
    (MAX78000.fast_fifo, GEOMETRY.fast_fifo_base),
    (MAX78000.aod, GEOMETRY.aod_base),
)
HANDLED = [(block, base, register) for block, base in BLOCKS for register in block.registers]


@pytest.mark.parametrize(("block", "base", "register"), HANDLED, ids=[r.name for _, _, r in HANDLED])
def test_every_register_of_the_table_is_handled(block: RegisterBlock, base: int, register: Register) -> None:
    accelerator = Accelerator(seed=0)
    for index in range(register.count):
        address = register.address(base, index)
        if register.access is Access.RO:
            with pytest.raises(HardwareFault, match="read only"):
                accelerator.write(address, 4, 0)
        elif register.access is Access.WO:
            with pytest.raises(HardwareFault, match="no run is taking words"):
                accelerator.write(address, 4, 0)
        else:
            word = 8 if register.name == "CTRL" else register.fields[0].mask & ~(register.name == "TEST")
            accelerator.write(address, 4, word)
            assert accelerator.read(address, 4) == word
