"""The simulator refuses what the specification does not define, and knows which bytes hold no value."""

import dataclasses

import numpy as np
import pytest

from ai8x.errors import HardwareFault
from ai8x.max7800x.simulator import Accelerator

from .register_program import (
    EXPRESS,
    REGISTERS,
    ConvLayer,
    data_address,
    encode,
    initialise,
    input_words,
    load_data,
    load_masks,
    start,
    write_register,
)

LAYER = ConvLayer(weights=np.arange(4 * 2 * 9).reshape(4, 2, 3, 3) - 30, height=3, width=3, pad=1)
IMAGE = np.arange(18).reshape(2, 3, 3) - 9


def prepared(layer: ConvLayer = LAYER, **options: object) -> Accelerator:
    accelerator = Accelerator(seed=1, **options)
    initialise(accelerator)
    layer.load_weights(accelerator)
    layer.configure(accelerator)
    load_data(accelerator, range(2), 0, input_words(IMAGE))
    return accelerator


def changed(**registers: dict[str, int]) -> ConvLayer:
    return dataclasses.replace(LAYER, registers=registers)


@pytest.mark.parametrize(
    ("registers", "text"),
    [
        ({"LCTRL0": {"sslave": 1}}, r"layer 0, quadrant 0: LCTRL0 \(0x50100590\): sslave = 1"),
        ({"LCTRL0": {"mslave": 1}}, "mslave"),
        ({"LCTRL0": {"master": 0}}, "master"),
        ({"LCTRL0": {"cpad_only": 1}}, "cpad_only"),
        ({"LCTRL0": {"sramlsrc": 0}}, "sramlsrc"),
        ({"LCTRL0": {"pool_en": 1}}, "pool_en"),
        ({"LCTRL0": {"cnnsi_en": 2}}, "cnnsi_en"),
        ({"LCTRL0": {"bigdwrt": 1, "act_en": 1}}, "activation"),
        ({"LCTRL1": {"xpch_max": 23}}, "xpch_max"),
        ({"LCTRL1": {"inpchexp": 2}}, "whole number of slots"),
        ({"MCNT": {"max": 25}}, "whole number of slots"),
        ({"LCTRL1": {"xpch_max": 8}}, "output passes"),
        ({"LCTRL1": {"xpch_max": 16}}, "4 slots do not fill 2 output passes of 3"),
        ({"LCTRL1": {"xpch_max": 32}}, "4 slots do not fill 1"),
        ({"WPTR_CHOFF": {"value": 1}}, "WPTR_CHOFF"),
        ({"ONED": {"oned_width": 2}}, "oned_width = 2 without oned_en"),
        ({"ONED": {"oned_en": 1, "oned_width": 10}}, "1 to 9 taps"),
        ({"ONED": {"ewise_func": 1}}, "ewise_func"),
        ({"ONED": {"ewise_cnt": 1}}, "2 operands"),
        ({"ONED": {"prepool": 1}}, "prepool"),
        ({"ONED": {"2d_conv": 1}}, "2d_conv"),
        ({"ONED": {"tscnt_max": 1}}, "tscnt_max"),
        ({"ONED": {"oned_sad": 9}}, "oned_sad"),
        ({"TPTR": {"max": 3}}, "one row is 3 entries"),
        ({"TPTR": {"sad": 1}}, "alone in the TRAM"),
        ({"EN": {"mask_en": 1}}, "mask_en = 0x0001, expected 0x0003"),
        ({"EN": {"pro_en": 0, "mask_en": 0}}, "not configured"),
        ({"POST": {"xpmp_cnt": 1}}, "xpmp_cnt"),
        ({"POST": {"onexone_en": 1}}, "onexone_en"),
        ({"POST": {"flatten_en": 1}}, "flatten_en"),
        ({"POST": {"bptr_sad": 3}}, "bptr_sad = 3 without bptr_en"),
        ({"POST": {"bptr_sad": 512, "bptr_en": 1}}, "512 entries"),
        ({"POST": {"ts_en": 1}}, "mask_en"),
        ({"POST": {"deconv_en": 1}}, "even number"),
        ({"RCNT": {"max": 4, "pad": 3}}, "nothing is read"),
        ({"RCNT": {"max": 0, "pad": 0}}, "no output"),
        ({"RPTR_BASE": {"value": 8192}}, "beyond the 8192 words"),
        ({"RPTR_BASE": {"value": 8190}}, "the input reaches word 8198"),
        ({"WPTR_BASE": {"value": 8190}}, "the output reaches word 8198"),
        ({"WPTR_BASE": {"value": 4}}, "over its own input at 0x50400018"),
        (
            {
                "WPTR_BASE": {"value": 0x1E000},
                "WPTR_MOFF": {"value": 8192},
                "MCNT": {"max": 56},
                "LCTRL1": {"xpch_max": 56},
            },
            "beyond 17 bits",
        ),
        ({"WPTR_MOFF": {"value": 0}}, "expected 0x2000"),
        ({"LCTRL1": {"xpch_max": 8, "wptr_inc": 2}}, "WPTR_CHOFF"),
        ({"WPTR_TOFF": {"value": 1}}, "1 for 1x1 kernels"),
        ({"STRM0": {"start": 1}}, "STRM0"),
        ({"STRM1": {"delta1": 1}}, "delta1"),
        ({"FBUF": {"rollover": 9}}, "1 streaming layers with CTRL.stream_en = 0"),
        ({"MCNT": {"sad": 8 * 765, "max": 8 * 768}}, "mask memory"),
    ],
)
def test_illegal_field_is_refused_at_the_start(registers: dict[str, dict[str, int]], text: str) -> None:
    accelerator = prepared(changed(**registers))
    with pytest.raises(HardwareFault, match=text):
        start(accelerator)
    assert not accelerator.run_requested


@pytest.mark.parametrize(
    ("bit", "text"),
    [
        (4, "calcmax"),
        (5, "pool_en"),
        (6, "bigdata"),
        (8, "oneshot"),
        (14, "stream_en"),
        (15, "ext_sync"),
        (16, "mlat_ld"),
        (19, "lilbuf"),
        (21, "simple1b"),
        (22, "ffifo_en"),
        (24, "fclk_dly"),
        (30, "timeshft"),
        (31, "qupac"),
        (9, "ext_sync"),
    ],
)
def test_control_bit_without_simulation_is_refused(bit: int, text: str) -> None:
    with pytest.raises(HardwareFault, match=text):
        start(prepared(), extra=1 << bit)


@pytest.mark.parametrize(
    ("address", "size", "value", "text"),
    [
        (0x50101004, 4, 0, "no register at offset 0x1004"),
        (0x50100A94, 4, 0, "no register"),
        (0x50100010, 4, 1 << 10, "RCNT.*reserved bits 0x400"),
        (0x50101000, 4, 0, "MLAT.*read only"),
        (0x50108800, 4, 0, "512 entries"),
        (0x50108000, 4, 256, "8 bits"),
        (0x50110000, 4, 0x10000, "16 bits"),
        (0x50113000, 4, 0, "3072 entries"),
        (0x5010C000, 4, 0, "write to nothing"),
        (0x50420000, 4, 0, "write to nothing"),
        (0x40000000, 4, 0, "write to nothing"),
        (0x50400001, 4, 0, "aligned"),
        (0x50400000, 1, 0, "aligned"),
        (0x50400000, 2, 0, "aligned"),
        (0x50400000, 4, 1 << 32, "write of"),
        (0x50000004, 4, 0, "FIFO_STATUS.*read only"),
        (0x50000018, 4, 0, "no register of FIFO"),
        (0x50000000, 4, 1 << 5, "reserved"),
        (0x50001000, 4, 1 << 31, "AOD_CTRL.*reserved"),
        (0x50000008, 4, 1, "no run is taking words"),
        (0x50180002, 1, 1, "4 \\* word"),
        (0x50180001, 1, 2, "byte write of 0x2"),
        (0x50180C01, 1, 1, "4 \\* word"),
        (0x50180000, 4, 0, "no start address"),
        (0x5010000C, 4, 1 << 18, "status bits"),
        (0x50100000, 4, 0x1008, "cnn_irq is set by hardware"),
        (0x400C0404, 4, 0, "FAST_FIFO_SR.*read only"),
        (0x400C0418, 4, 0, "no register of FAST_FIFO"),
    ],
)
def test_undefined_write_is_refused(address: int, size: int, value: int, text: str) -> None:
    accelerator = Accelerator(seed=0)
    initialise(accelerator)
    with pytest.raises(HardwareFault, match=text):
        accelerator.write(address, size, value)


@pytest.mark.parametrize(
    ("address", "size", "text"),
    [
        (0x50000008, 4, "write only"),
        (0x50101000, 4, "not implemented"),
        (0x50100001, 4, "aligned"),
        (0x50109000, 4, "entries"),
        (0x5018C000 + 0x3000, 4, "768"),
        (0x60000000, 4, "read of nothing"),
        (0x400C0410, 4, "write only"),
    ],
)
def test_undefined_read_is_refused(address: int, size: int, text: str) -> None:
    with pytest.raises(HardwareFault, match=text):
        Accelerator(seed=0).read(address, size)


def test_nothing_but_control_is_written_during_a_run() -> None:
    accelerator = prepared()
    start(accelerator)
    for address in (0x50100010, 0x50400000, 0x50108000, 0x50110000, 0x50180000, 0x50001000, 0x50000000):
        with pytest.raises(HardwareFault, match="running"):
            accelerator.write(address, 4, 0)
    with pytest.raises(HardwareFault, match="mode bits 0x2000"):
        accelerator.write(REGISTERS, 4, accelerator.read(REGISTERS, 4) | 1 << 13)
    with pytest.raises(HardwareFault, match="read of a memory"):
        accelerator.read(0x50400000, 4)


def test_enable_bit_must_be_cleared_before_the_next_start() -> None:
    accelerator = prepared()
    start(accelerator)
    accelerator.complete()
    with pytest.raises(HardwareFault, match="must be cleared"):
        accelerator.write(REGISTERS, 4, EXPRESS | 9)


def test_layer_that_was_not_configured_is_named() -> None:
    accelerator = prepared()
    accelerator.write(REGISTERS + 8, 4, 1)
    with pytest.raises(HardwareFault, match=r"layer 1.*not configured"):
        start(accelerator)


def test_memory_timing_must_be_set() -> None:
    accelerator = prepared()
    accelerator.write(REGISTERS + 4, 4, 0)
    with pytest.raises(HardwareFault, match="SRAM"):
        start(accelerator)


def test_quadrant_with_work_must_be_armed() -> None:
    accelerator = prepared()
    write_register(accelerator, "EN", 0, 0x00010001, quadrant=2)
    with pytest.raises(HardwareFault, match=r"layer 0, quadrant 2: EN.*not started"):
        start(accelerator)


def test_quadrants_must_agree() -> None:
    accelerator = prepared()
    initialise(accelerator, quadrants=[1])
    for name, fields in LAYER.fields().items():
        if name != "EN":
            write_register(accelerator, name, 0, encode(name, fields), quadrant=1)
    write_register(accelerator, "RCNT", 0, 7, quadrant=1)
    with pytest.raises(HardwareFault, match=r"layer 0, quadrant 1: RCNT.*max = 7, but 4 in quadrant 0"):
        start(accelerator, quadrants=[0, 1])


def test_contributing_quadrant_must_be_added() -> None:
    accelerator = prepared()
    initialise(accelerator, quadrants=[1])
    for name, fields in LAYER.fields().items():
        write_register(accelerator, name, 0, encode(name, fields), quadrant=1)
    with pytest.raises(HardwareFault, match="cnnsi_en = 0, expected 2"):
        start(accelerator, quadrants=[0, 1])


# Loading weights


def test_express_load_must_follow_the_counter() -> None:
    accelerator = Accelerator(seed=0)
    initialise(accelerator)
    accelerator.write(0x50180000 + 4 * 5 + 1, 1, 1)
    accelerator.write(0x50180000 + 4 * 5, 4, 0x01020304)
    with pytest.raises(HardwareFault, match="next is 0x50180018"):
        accelerator.write(0x50180000 + 4 * 5, 4, 0)


def test_unfinished_mask_word_is_refused() -> None:
    accelerator = Accelerator(seed=0)
    initialise(accelerator)
    accelerator.write(0x50180001, 1, 1)
    accelerator.write(0x50180000, 4, 0x01020304)
    with pytest.raises(HardwareFault, match="mask word 0 was begun and not finished"):
        accelerator.write(0x50180001, 1, 1)


def test_plain_load_needs_all_four_writes_in_order() -> None:
    accelerator = Accelerator(seed=0)
    initialise(accelerator, control=8)
    with pytest.raises(HardwareFault, match="out of order"):
        accelerator.write(0x50180004, 4, 0)
    with pytest.raises(HardwareFault, match="beyond the 72"):
        accelerator.write(0x50180000, 4, 0x100)
    with pytest.raises(HardwareFault, match="mexpress = 0"):
        accelerator.write(0x50180001, 1, 1)


@pytest.mark.parametrize("express", [False, True])
def test_masks_read_back_in_the_plain_layout(express: bool) -> None:
    accelerator = Accelerator(seed=0)
    initialise(accelerator, control=8 | EXPRESS * express)
    load_masks(accelerator, 3, 8, np.arange(1, 10).reshape(1, 9), 8, express)
    base = 0x50180000 + 3 * 0x4000 + 16 * 8
    assert [accelerator.read(base + 4 * i, 4) for i in range(4)] == [0x01, 0x02030405, 0x06070809, 0]
    assert [accelerator.undefined(base + offset) for offset in (0, -16, 16)] == [0, 0xFFFFFFFF, 0xFFFFFFFF]


def test_express_load_beyond_the_memory_is_refused() -> None:
    accelerator = Accelerator(seed=0)
    initialise(accelerator)
    with pytest.raises(HardwareFault, match="768 mask words"):
        load_masks(accelerator, 0, 767, np.ones((2, 9), dtype=np.int64), 8)


# Undefined values


def output_flags(accelerator: Accelerator) -> list[int]:
    return [accelerator.undefined(data_address(0, 0x1000 + pixel)) for pixel in range(9)]


def test_word_never_written_makes_its_neighbours_undefined_and_is_named() -> None:
    accelerator = Accelerator(seed=1)
    initialise(accelerator)
    LAYER.load_weights(accelerator)
    LAYER.configure(accelerator)
    for pixel in range(9):
        if pixel != 0:
            accelerator.write(data_address(0, pixel), 4, 0)
    start(accelerator)
    accelerator.complete()
    # The top left pixel reaches the four outputs around it.
    assert [bool(flag) for flag in output_flags(accelerator)] == [
        True,
        True,
        False,
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    origin = accelerator.undefined_origin(data_address(0, 0x1004))
    assert origin is not None
    assert origin.layer == 0
    assert 0x50400000 <= origin.address < 0x50400004
    assert "was never written, first used by layer 0" in str(origin)
    assert accelerator.undefined_origin(data_address(0, 0x1008)) is None


def test_undefined_value_does_not_pass_zero_weights() -> None:
    weights = LAYER.weights.copy()
    weights[:, 1] = 0
    layer = dataclasses.replace(LAYER, weights=weights, registers={"RPTR_BASE": {"value": 0x10}})
    accelerator = Accelerator(seed=1)
    initialise(accelerator)
    layer.load_weights(accelerator)
    layer.configure(accelerator)
    image = IMAGE.copy()
    load_data(accelerator, [0], 0x10, input_words(image[:1]))
    for pixel in range(9):  # lane 1 keeps whatever the random memory holds
        assert accelerator.undefined(data_address(0, 0x10 + pixel)) == 0
    start(accelerator)
    accelerator.complete()
    assert output_flags(accelerator) == [0] * 9

    accelerator = Accelerator(seed=1)
    initialise(accelerator)
    layer.load_weights(accelerator)
    layer.configure(accelerator)
    start(accelerator)
    accelerator.complete()
    assert all(output_flags(accelerator))


def test_weights_never_loaded_make_their_slot_undefined() -> None:
    accelerator = Accelerator(seed=1)
    initialise(accelerator)
    LAYER.configure(accelerator)
    for channel in range(2):
        load_masks(accelerator, channel, 0, LAYER.weights[:3, channel].reshape(3, 9), 8)
    load_data(accelerator, range(2), 0, input_words(IMAGE))
    start(accelerator)
    accelerator.complete()
    assert output_flags(accelerator) == [0xFF000000] * 9
    origin = accelerator.undefined_origin(data_address(0, 0x1000))
    assert origin is not None
    assert origin.address in {0x50180030, 0x50184030}


def test_bias_never_loaded_makes_its_slot_undefined() -> None:
    accelerator = prepared(changed(POST={"bptr_en": 1, "bptr_sad": 7}))
    for entry in (7, 9, 10):
        accelerator.write(0x50108000 + 4 * entry, 4, 0)
    start(accelerator)
    accelerator.complete()
    assert output_flags(accelerator) == [0xFF00] * 9
    origin = accelerator.undefined_origin(data_address(0, 0x1000))
    assert origin is not None
    assert origin.address == 0x50108000 + 4 * 8
    assert accelerator.undefined(0x50108000 + 4 * 8) == 0xFF


def test_unused_lanes_of_a_written_word_hold_nothing() -> None:
    accelerator = prepared(dataclasses.replace(LAYER, weights=LAYER.weights[:3]))
    load_data(accelerator, range(4), 0x1000, np.ones((9, 4), dtype=np.int64))
    start(accelerator)
    accelerator.complete()
    assert output_flags(accelerator) == [0xFF000000] * 9


def test_undefined_value_travels_through_layers_to_its_origin() -> None:
    first = LAYER
    second = ConvLayer(
        weights=np.ones((2, 4, 1, 1), dtype=np.int64),
        height=3,
        width=3,
        layer=1,
        read_word=0x1000,
        write_word=0x200,
        mask_word=4,
        wide=True,
    )
    accelerator = Accelerator(seed=1)
    initialise(accelerator, layers=2)
    for layer in (first, second):
        layer.load_weights(accelerator)
        layer.configure(accelerator)
    start(accelerator)
    accelerator.complete()
    address = data_address(0, 0x200)
    assert accelerator.undefined(address) == 0xFFFFFFFF
    origin = accelerator.undefined_origin(address)
    assert origin is not None
    assert (origin.layer, origin.address >> 16) == (0, 0x5040)
    assert not accelerator.layer_output(1).values_at(0, 0x200, 0)[1]
