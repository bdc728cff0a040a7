"""Every limit: the greatest allowed value passes, the next one fails with its code."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ai8x.errors import Source
from ai8x.max7800x.constraints import RULES, check_network
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.lower import lower_network
from ai8x.max7800x.placement import DataFormat, Placement
from ai8x.max7800x.regions import data_regions
from ai8x.network.ir import Activation, ConvSpec, Eltwise, Layer, Network, Pool, PoolSpec, TensorShape
from ai8x.network.reference import run_network
from ai8x.verify_max78000 import verify_simulator

from .constraint_examples import (
    ALL,
    PLAIN,
    codes,
    conv1d,
    findings,
    lowest,
    pooled,
    shaped,
    single,
    streamed,
    transposed,
    wide,
)
from .lowering_examples import (
    CASES,
    MAX_2X2,
    conv,
    linear,
    mnist,
    network_of,
    passthrough,
    place,
    plan_of,
    random_tensors,
    read_case,
    small,
)

LAYER_CASES = {
    "1024 channels": (wide((1024, 2, 2), 4), []),
    "1025 input channels": (wide((1025, 2, 2), 4), ["E0314"]),
    "1024 output channels": (wide((4, 2, 2), 1024, kernel=1, pad=0), []),
    "1025 output channels": (wide((4, 2, 2), 1025, kernel=1, pad=0), ["E0314", "E0417"]),
    "1023 rows": (shaped((1, 1023, 2), (1, 1023, 2), ConvSpec()), []),
    "1024 rows": (shaped((1, 1024, 2), (1, 1024, 2), ConvSpec()), ["E0315"]),
    "1022 rows with pad": (shaped((1, 1022, 2), (1, 1022, 2), PLAIN), []),
    "1023 rows with pad": (shaped((1, 1023, 2), (1, 1023, 2), PLAIN), ["E0315"]),
    "kernel 5x5": (shaped((4, 8, 8), (4, 4, 4), ConvSpec(kernel=(5, 5))), ["E0317"]),
    "kernel 1x3": (shaped((4, 8, 8), (4, 8, 6), ConvSpec(kernel=(1, 3))), ["E0317"]),
    "conv stride 2": (shaped((4, 8, 8), (4, 4, 4), replace(PLAIN, stride=(2, 2))), ["E0318"]),
    "conv dilation 2": (shaped((4, 8, 8), (4, 6, 6), replace(PLAIN, dilation=(2, 2))), ["E0319"]),
    "Conv1d kernel 9": (conv1d(kernel=9), []),
    "Conv1d kernel 10": (conv1d(kernel=10), ["E0320"]),
    "Conv1d dilation 2, kernel 5": (conv1d(kernel=5, dilation=2), []),
    "Conv1d dilation 3, kernel 4": (conv1d(kernel=4, dilation=3), ["E0321"]),
    "Conv1d dilation 1, kernel 1": (conv1d(kernel=1), []),
    "Conv1d dilation 2, kernel 1": (conv1d(kernel=1, dilation=2), ["E0321"]),
    "Conv1d dilation 1023": (conv1d(length=1023, kernel=2, dilation=1022), []),
    "Conv1d rows with pad": (conv1d(kernel=3, dilation=5, pad=1), ["E0322"]),
    "Conv1d rows with pooling": (
        conv1d(kernel=3, dilation=5, pool=PoolSpec(kind=Pool.MAX, window=(2, 1), stride=(2, 1))),
        ["E0322"],
    ),
    "transposed": (transposed(), []),
    "transposed pad 0": (transposed(padding=(0, 0)), []),
    "transposed pad 2": (transposed(padding=(2, 2)), []),
    "transposed 1x1": (transposed(kernel=(1, 1), padding=(0, 0)), ["E0323"]),
    "transposed stride 1": (transposed(stride=(1, 1)), ["E0323"]),
    "transposed output_pad 0": (transposed(output_padding=0), ["E0323"]),
    "pad 2": (conv(0, (4, 8, 8), 4, pad=2), []),
    "pad 3": (conv(0, (4, 8, 8), 4, pad=3), ["E0324"]),
    "pad 1 of a 1x1 kernel": (conv(0, (4, 8, 8), 4, kernel=1, pad=1), ["E0324"]),
    "pool 16": (pooled(16), []),
    "pool 17": (pooled(17), ["E0325"]),
    "pool stride 16": (pooled(2, 16), []),
    "pool stride 17": (pooled(2, 17, size=40), ["E0326"]),
    "unequal pool strides": (
        conv(0, (4, 8, 8), 4, pool=PoolSpec(kind=Pool.MAX, window=(2, 2), stride=(2, 1))),
        ["E0326"],
    ),
    "dilated pooling": (
        conv(0, (4, 8, 8), 4, pool=PoolSpec(kind=Pool.MAX, window=(2, 2), stride=(1, 1), dilation=(2, 2))),
        ["E0325"],
    ),
    "shift -15": (conv(0, (4, 8, 8), 4, output_shift=-15), []),
    "shift -16": (conv(0, (4, 8, 8), 4, output_shift=-16), ["E0327"]),
    "shift 15": (conv(0, (4, 8, 8), 4, output_shift=15), []),
    "shift 16": (conv(0, (4, 8, 8), 4, output_shift=16), ["E0327"]),
    "shift of a pass layer": (passthrough(0, (4, 8, 8), output_shift=1), ["E0327"]),
    "activation of a pass layer": (passthrough(0, (4, 8, 8), activation=Activation.RELU), ["E0328"]),
    "activation of a wide output": (conv(0, (4, 8, 8), 4, output_bits=32), ["E0328"]),
    "wide output": (conv(0, (4, 8, 8), 4, output_bits=32, activation=Activation.NONE), []),
    "wide pass layer": (passthrough(0, (4, 8, 8), output_bits=32), ["E0329"]),
    "combination before pooling": (
        passthrough(
            0,
            (4, 4, 4),
            inputs=(-1, -1),
            eltwise=Eltwise.ADD,
            pool=MAX_2X2,
            out_shape=TensorShape(4, 2, 2),
            pool_first=False,
        ),
        [],
    ),
    "pool_first: false with 3 operands": (
        passthrough(
            0,
            (4, 4, 4),
            inputs=(-1,) * 3,
            eltwise=Eltwise.ADD,
            pool=MAX_2X2,
            out_shape=TensorShape(4, 2, 2),
            pool_first=False,
        ),
        ["E0334"],
    ),
    "pool_first: false without pooling": (
        passthrough(0, (4, 4, 4), inputs=(-1, -1), eltwise=Eltwise.ADD, pool_first=False),
        ["E0334"],
    ),
    "128 channels added": (passthrough(0, (128, 4, 4), inputs=(-1,) * 3, eltwise=Eltwise.ADD), []),
    "192 channels added and pooled": (
        passthrough(
            0, (192, 4, 4), inputs=(-1, -1), eltwise=Eltwise.ADD, pool=MAX_2X2, out_shape=TensorShape(192, 2, 2)
        ),
        ["E0333", "E0335"],
    ),
    "128 channels, pair, convolved": (wide((128, 4, 4), 4, inputs=(-1, -1), eltwise=Eltwise.ADD), []),
    "128 channels, three, convolved": (wide((128, 4, 4), 4, inputs=(-1,) * 3, eltwise=Eltwise.ADD), ["E0333"]),
    "128 channels pooled to a pixel": (passthrough(0, (128, 2, 2), pool=MAX_2X2, out_shape=TensorShape(128, 1, 1)), []),
    "128 channels pooled": (passthrough(0, (128, 4, 4), pool=MAX_2X2, out_shape=TensorShape(128, 2, 2)), ["E0335"]),
    "element-wise Conv1d": (conv1d(inputs=(-1, -1), eltwise=Eltwise.ADD), ["E0331"]),
    "flatten 256 pixels": (linear(0, (4, 16, 16), 2), []),
    "flatten 257 pixels": (linear(0, (4, 257, 1), 2), ["E0336"]),
    "flatten 16384 features": (linear(0, (1024, 4, 4), 1, weights=None), []),
    "flatten 16640 features": (linear(0, (1024, 5, 4), 1, weights=None), ["E0336"]),
    "flatten and pool": (linear(0, (4, 2, 2), 2, operand_shape=TensorShape(4, 4, 4), pool=MAX_2X2), ["E0337"]),
    "3-bit weights": (wide((4, 4, 4), 4, weight_bits=3), ["E0338"]),
}


@pytest.mark.parametrize(("layer", "expected"), LAYER_CASES.values(), ids=LAYER_CASES.keys())
def test_limits_of_a_layer(layer: Layer, expected: list[str]) -> None:
    assert single(layer) == expected


def test_frame_of_more_than_two_to_the_21_words_is_refused() -> None:
    layer = shaped((1024, 512, 256), (4, 512, 256), PLAIN)
    assert "E0316" in single(layer)
    assert "E0316" not in single(shaped((960, 512, 256), (4, 512, 256), PLAIN))


def test_room_for_the_garbage_row_of_a_dilated_convolution() -> None:
    layer = conv1d(kernel=3, dilation=5)
    assert single(layer, out_offset=0x4000) == []
    assert single(layer, in_offset=0x4000, out_offset=20) == []
    assert single(layer, in_offset=0x4000, out_offset=16) == ["E0412"]


PROCESSOR_CASES = {
    "too few processors": (dict(processors=0x3), ["E0312"]),
    "too many processors": (dict(processors=0x1F), ["E0312"]),
    "too few output processors": (dict(outputs=0x7F), ["E0313"]),
    "too many output processors": (dict(outputs=0x1FF), ["E0313"]),
    "quadrant 0 not used": (dict(processors=0x7 << 16, outputs=0xFF << 16), ["E0341"]),
    "quadrant 0 used by the output": (dict(processors=0x7 << 16), []),
    "irregular output map": (dict(outputs=0b1_0111_1111_0), ["E0340"]),
    "regular gaps": (dict(outputs=0x5555), []),
    "gap between quadrants": (dict(outputs=0xF_000F), []),
    "unaligned output map": (dict(outputs=0xFF << 2), []),
    "CHW on other lanes": (dict(processors=0x7, data_format=DataFormat.CHW), ["E0344"]),
    "CHW on first lanes": (dict(processors=0x111, data_format=DataFormat.CHW), []),
}


@pytest.mark.parametrize(("changes", "expected"), PROCESSOR_CASES.values(), ids=PROCESSOR_CASES.keys())
def test_limits_of_processors(changes, expected) -> None:
    assert single(conv(0, (3, 8, 8), 8), **changes) == expected


def test_unaligned_output_map_of_several_passes_is_refused() -> None:
    layer = conv(0, (3, 4, 4), 100)
    assert single(layer, outputs=(1 << 52) - 1 << 4) == []
    assert single(layer, outputs=(1 << 52) - 1 << 2) == ["E0340"]


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [(0x7F, []), (0x7F0, []), (0x7F << 2, ["E0342"]), (0xF_0007, ["E0342"]), (0b1_0111_111, ["E0342"])],
    ids=["same", "four further", "unaligned", "other quadrant", "gap"],
)
def test_pass_layer_keeps_its_data_in_the_quadrant(outputs: int, expected: list[str]) -> None:
    assert single(passthrough(0, (7, 4, 4)), outputs=outputs) == expected


@pytest.mark.parametrize(
    ("channels", "processors", "data_format", "expected"),
    [
        (16, 0x000F_000F_000F_000F, DataFormat.HWC, []),
        (17, lowest(17), DataFormat.HWC, ["E0345"]),
        (5, 0x1_000F, DataFormat.HWC, []),
        (5, 0x1F, DataFormat.HWC, ["E0346"]),
        (4, 0x0001_0001_0001_0001, DataFormat.CHW, []),
        (2, 0x11, DataFormat.CHW, ["E0346"]),
        (5, 0x11111, DataFormat.CHW, ["E0345"]),
    ],
    ids=["16 HWC", "17 HWC", "5 HWC", "5 HWC in one quadrant", "4 CHW", "2 CHW in one quadrant", "5 CHW"],
)
def test_fifo_input_arrives_at_fixed_processors(channels, processors, data_format, expected) -> None:
    layer = conv(0, (channels, 4, 4), 4)
    assert single(layer, processors=processors, data_format=data_format, fifo=True) == expected


def test_fast_fifo_feeds_four_channels_into_a_convolution() -> None:
    def fast(layer, processors):
        return codes(network_of(layer), place(processors, 0xF, 0x4000), fast_fifo=True)

    assert fast(conv(0, (4, 4, 4), 4), 0xF) == []
    assert fast(conv(0, (5, 4, 4), 4), 0x1_000F) == ["E0345"]
    assert fast(passthrough(0, (4, 4, 4)), 0xF) == ["E0347"]


def test_fifo_input_is_read_by_layer_0_only() -> None:
    network = network_of(conv(0, (4, 4, 4), 4), conv(1, (4, 4, 4), 4, inputs=(-1,)), outputs=(0, 1))
    places = (place(0xF, 0xF, 0x1000), place(0xF, 0xF, 0x2000))
    assert codes(network, *places) == []
    assert codes(network, *places, fifo=True) == ["E0348"]


def test_chw_belongs_to_layer_0() -> None:
    network = network_of(conv(0, (4, 4, 4), 1), conv(1, (1, 4, 4), 4))
    assert codes(network, place(0xF, 1, 0x1000), place(1, 0xF, 0, 0x1000, data_format=DataFormat.CHW)) == ["E0343"]


def test_bias_stays_in_used_quadrants() -> None:
    biased = conv(0, (4, 4, 4), 4, bias=np.arange(4))
    assert single(biased, bias_group=(0,)) == []
    assert single(biased, bias_group=(2,)) == ["E0349"]
    assert single(conv(0, (4, 4, 4), 4), bias_group=(2,)) == []


def test_33_layers_are_too_many() -> None:
    def deep(count):
        network = network_of(*(conv(i, (4, 4, 4), 4) for i in range(count)))
        return codes(network, *(place(0xF, 0xF, 0x1000 * ((i + 1) % 2), 0x1000 * (i % 2)) for i in range(count)))

    assert deep(32) == []
    assert deep(33) == ["E0311"]


MEMORY_CASES = {
    "odd input offset": (dict(in_offset=2), ["E0413"]),
    "negative input offset": (dict(in_offset=-4), ["E0413"]),
    "odd output offset": (dict(out_offset=0x4001), ["E0414"]),
    "output offset beyond the pointer": (dict(out_offset=0x20000), ["E0414", "E0416"]),
    "input to the last byte": (dict(in_offset=0x8000 - 0x400, out_offset=0), []),
    "input beyond the last byte": (dict(in_offset=0x8000 - 0x3FC, out_offset=0), ["E0415"]),
    "output to the last byte": (dict(out_offset=0x8000 - 0x400), []),
    "output beyond the last byte": (dict(out_offset=0x8000 - 0x3FC), ["E0416"]),
    "gap of the last word is not written": (dict(out_offset=0x8000 - 0x7FC, write_gap=1), []),
    "output with gaps beyond the last byte": (dict(out_offset=0x8000 - 0x7F8, write_gap=1), ["E0416"]),
    "gap 15": (dict(out_offset=0x4000, write_gap=15), []),
    "gap 16": (dict(out_offset=0x2000, write_gap=16), ["E0417"]),
    "negative gap": (dict(write_gap=-1), ["E0417"]),
    "output over the input": (dict(out_offset=0x3FC), ["E0418"]),
    "output right after the input": (dict(out_offset=0x400), []),
    "output in other memories": (dict(out_offset=0, outputs=0xF0), []),
}


@pytest.mark.parametrize(("changes", "expected"), MEMORY_CASES.values(), ids=MEMORY_CASES.keys())
def test_limits_of_data_memory(changes, expected) -> None:
    assert single(conv(0, (4, 16, 16), 4), **changes) == expected


def test_gap_times_passes_is_limited() -> None:
    layer = conv(0, (4, 4, 4), 128)
    assert single(layer, write_gap=7) == []
    assert single(layer, write_gap=8) == ["E0417"]


def test_wide_output_takes_four_words_per_pixel() -> None:
    layer = conv(0, (4, 16, 16), 4, output_bits=32, activation=Activation.NONE)
    assert single(layer, out_offset=0x8000 - 0x1000) == []
    assert single(layer, out_offset=0x8000 - 0xFFC) == ["E0416"]


def test_input_of_8192_pixels_needs_no_streaming_and_one_more_does() -> None:
    assert single(shaped((4, 128, 64), (4, 64, 32), ConvSpec(), pool=MAX_2X2), outputs=0xF0, out_offset=0) == []
    assert single(shaped((4, 129, 64), (4, 64, 32), ConvSpec(), pool=MAX_2X2), outputs=0xF0, out_offset=0) == ["E0415"]


def test_weight_memory_is_checked() -> None:
    layers = [
        wide((64, 4, 4), 64),
        *(replace(wide((64, 4, 4), 64), index=i, name=f"conv{i}", inputs=(i - 1,)) for i in range(1, 13)),
    ]
    places = [place(ALL, ALL, 0x1000 * ((i + 1) % 2), 0x1000 * (i % 2)) for i in range(13)]
    assert codes(network_of(*layers[:12]), *places[:12]) == []
    assert codes(network_of(*layers), *places) == ["E0410"]


def test_bias_memory_is_checked() -> None:
    def biased(count):
        return codes(
            network_of(conv(0, (4, 4, 4), count, bias=np.ones(count, np.int64))), place(0xF, lowest(count), 0x4000)
        )

    assert biased(512) == []
    assert biased(516) == ["E0411"]


def three(first_gap=0, second_offset=0x2000, third_offset=0x4000, reads=1):
    """Three layers in the same memories; the third reads layer `reads`."""
    network = network_of(
        conv(0, (4, 8, 8), 4), conv(1, (4, 8, 8), 4), conv(2, (4, 8, 8), 4, inputs=(reads,)), outputs=(1, 2)
    )
    offsets = (0x1000, second_offset)
    places = (
        place(0xF, 0xF, 0x1000, write_gap=first_gap),
        place(0xF, 0xF, second_offset, 0x1000),
        place(0xF, 0xF, third_offset, offsets[reads]),
    )
    return network, places


def test_live_data_of_a_later_reader_is_protected() -> None:
    network, places = three(third_offset=0x5000, reads=0)
    assert codes(network, *places) == []
    middle = network_of(
        conv(0, (4, 8, 8), 4),
        conv(1, (4, 8, 8), 4),
        conv(2, (4, 8, 8), 4),
        passthrough(3, (4, 8, 8), inputs=(0,)),
        outputs=(2, 3),
    )
    places = [
        place(0xF, 0xF, 0x1000),
        place(0xF, 0xF, 0x2000, 0x1000),
        place(0xF, 0xF, 0x1000, 0x2000),
        place(0xF, 0xF, 0x3000, 0x1000),
    ]
    (found,) = findings(middle, *places)
    assert (found.code, found.layer_index) == ("E0418", 2)
    assert "the output of layer 0 'conv0'" in found.message and "layer 3 'pass3' still reads" in found.message
    assert found.help == "write out_offset: 0x0000"
    places[2] = place(0xF, 0xF, 0, 0x2000)
    assert codes(middle, *places) == []


def test_dead_data_may_be_overwritten() -> None:
    network = network_of(conv(0, (4, 8, 8), 4), conv(1, (4, 8, 8), 4), conv(2, (4, 8, 8), 4))
    assert (
        codes(network, place(0xF, 0xF, 0x1000), place(0xF, 0xF, 0x2000, 0x1000), place(0xF, 0xF, 0x1000, 0x2000)) == []
    )


def test_outputs_of_the_network_are_protected() -> None:
    network, places = three(third_offset=0x2000, reads=0)
    (found,) = findings(network, *places)
    assert found.code == "E0418" and "which is an output of the network" in found.message


def test_interleaved_operands_may_share_bytes_of_a_region() -> None:
    network = network_of(
        conv(0, (4, 8, 8), 4),
        conv(1, (4, 8, 8), 4, inputs=(0,)),
        conv(2, (4, 8, 8), 4, inputs=(0,)),
        passthrough(3, (4, 8, 8), inputs=(1, 2), eltwise=Eltwise.ADD),
    )
    places = [
        place(0xF, 0xF, 0x4000),
        place(0xF, 0xF, 0, 0x4000, write_gap=1),
        place(0xF, 0xF, 4, 0x4000, write_gap=1),
        place(0xF, 0xF, 0x4000, 0),
    ]
    assert codes(network, *places) == []
    places[2] = place(0xF, 0xF, 8, 0x4000, write_gap=1)
    assert codes(network, *places) == ["E0420", "E0418"]
    places[2] = place(0xF, 0xF, 4, 0x4000)
    assert codes(network, *places) == ["E0422", "E0418"]


def test_data_is_read_where_it_was_written() -> None:
    network = network_of(conv(0, (4, 8, 8), 4), conv(1, (4, 8, 8), 4))
    (found,) = findings(network, place(0xF, 0xF, 0x1000), place(0xF, 0xF, 0x2000, 0x1004))
    assert (found.code, found.help) == ("E0420", "write in_offset: 0x1000")
    (found,) = findings(network, place(0xF, 0xF0, 0x1000), place(0xF, 0xF, 0x2000, 0x1000))
    assert (found.code, found.help) == ("E0421", "write output_processors: 0x000000000000000f in layer 0")
    (found,) = findings(network, place(0xF, 0xF, 0x1000, write_gap=1), place(0xF, 0xF, 0x2000, 0x1000))
    assert (found.code, found.help) == ("E0422", "write write_gap: 0 in layer 0")


def test_concatenation_by_processors_and_by_passes() -> None:
    side = {"inputs": (-1,), "kernel": 1, "pad": 0}
    by_processors = network_of(
        conv(0, (4, 4, 4), 4, **side), conv(1, (4, 4, 4), 8, **side), conv(2, (12, 4, 4), 4, inputs=(0, 1))
    )
    assert (
        codes(by_processors, place(0xF, 0xF, 0x1000), place(0xF, 0xFF0, 0x1000), place(0xFFF, 0xF, 0x2000, 0x1000))
        == []
    )
    swapped = codes(
        by_processors, place(0xF, 0xF00, 0x1000), place(0xF, 0xFF, 0x1000), place(0xFFF, 0xF, 0x2000, 0x1000)
    )
    assert swapped == ["E0421", "E0421"]
    by_passes = network_of(
        conv(0, (4, 4, 4), 64, **side), conv(1, (4, 4, 4), 64, **side), conv(2, (128, 4, 4), 4, inputs=(0, 1))
    )
    assert (
        codes(
            by_passes,
            place(0xF, ALL, 0x1000, write_gap=1),
            place(0xF, ALL, 0x1004, write_gap=1),
            place(ALL, 0xF, 0x2000, 0x1000),
        )
        == []
    )


def test_cropped_rows_move_the_input() -> None:
    network = network_of(conv(0, (4, 8, 8), 4), conv(1, (4, 6, 8), 4, in_crop=(2, 0), out_shape=TensorShape(4, 6, 8)))
    assert codes(network, place(0xF, 0xF, 0x1000), place(0xF, 0xF, 0x2000, 0x1000 + 2 * 8 * 4)) == []
    (found,) = findings(network, place(0xF, 0xF, 0x1000), place(0xF, 0xF, 0x2000, 0x1000))
    assert found.help == "write in_offset: 0x1040"


def test_streaming_needs_the_fifo_and_at_most_8_layers() -> None:
    assert streamed() == []
    assert streamed(fifo=False) == ["E0434"]
    assert streamed(count=8) == []
    assert streamed(count=9) == ["E0431"]


def test_last_streaming_layer_needs_padding() -> None:
    assert streamed(pads=[0, 1]) == []
    assert streamed(pads=[1, 0]) == ["E0435"]


def test_streaming_starts_at_layer_0() -> None:
    assert streamed(places=[place(0xF, 0xF0), place(0xF0, 0xF00, streaming=True), place(0xF00, 0xF000)]) == ["E0430"]


def test_stream_is_read_once() -> None:
    network = network_of(
        conv(0, (4, 8, 8), 4), conv(1, (4, 8, 8), 4), conv(2, (4, 8, 8), 4, inputs=(0,)), outputs=(1, 2)
    )
    places = (place(0xF, 0xF0, streaming=True), place(0xF0, 0xF00, streaming=True), place(0xF0, 0xF000, 0x1000))
    assert "E0433" in codes(network, *places, fifo=True)


def test_stream_buffers_do_not_overlap_in_a_memory() -> None:
    def shared(second, output):
        return streamed(
            places=[
                place(0xF, 0xF, second, 0, streaming=True),
                place(0xF, 0xF0, output, second, streaming=True),
                place(0xF0, 0xF, 0x4000, output),
            ]
        )

    assert shared(0x1000, 0) == []
    assert shared(0x4, 0) == ["E0439"]
    assert shared(0x7FF0, 0) == ["E0438"]


def test_output_of_the_last_streaming_layer_avoids_the_buffers() -> None:
    def output_at(offset):
        return streamed(
            places=[
                place(0xF, 0xF0, streaming=True),
                place(0xF0, 0xF, offset, 0, streaming=True),
                place(0xF, 0xF00, 0, offset),
            ]
        )

    assert output_at(0x1000) == []
    assert output_at(0) == ["E0439"]


def test_streams_are_read_where_they_are_written() -> None:
    def between(out, outputs):
        return streamed(
            places=[
                place(0xF, outputs, out, streaming=True),
                place(0xF0, 0xF00, 0, 0x100, streaming=True),
                place(0xF00, 0xF),
            ]
        )

    assert between(0x100, 0xF0) == []
    assert between(0x104, 0xF0) == ["E0440"]
    assert between(0x100, 0xF000) == ["E0441"]


@pytest.mark.parametrize(("window", "expected"), [(3, []), (16, ["E0436"])])
def test_stream_start_must_fit_its_register(window: int, expected: list[str]) -> None:
    pool = PoolSpec(kind=Pool.MAX, window=(window, window), stride=(2, 2))
    network = network_of(
        shaped((4, 32, 1000), (4, 32, 1000), PLAIN),
        shaped((4, 32, 1000), (4, *pool.output_size(32, 1000)), PLAIN, pool=pool, index=1, name="pooled", inputs=(0,)),
    )
    assert (
        codes(network, place(0xF, 0xF0, streaming=True), place(0xF0, 0xF00, 0, streaming=True), fifo=True) == expected
    )


def test_bias_in_a_stream_is_a_warning() -> None:
    network = network_of(conv(0, (4, 8, 8), 4, bias=np.arange(4)))
    (found,) = findings(network, place(0xF, 0xF0, streaming=True), fifo=True)
    assert (found.code, found.level) == ("W0306", "warning")


def test_groups_and_unused_lanes_are_notices() -> None:
    layer = conv(0, (4, 8, 8), 6, conv=replace(PLAIN, groups=2), weights=None)
    network = network_of(layer, conv(1, (6, 8, 8), 4))
    found = findings(network, place(0xF, 0x3F, 0x1000), place(0x3F, 0xF, 0x2000, 0x1000))
    assert [(item.code, item.level) for item in found] == [("W0304", "notice"), ("W0303", "notice")]


def test_wide_output_before_the_last_layer() -> None:
    network = network_of(
        conv(0, (4, 8, 8), 4, output_bits=32, activation=Activation.NONE),
        conv(1, (4, 8, 8), 4, inputs=(-1,)),
        outputs=(0, 1),
    )
    assert codes(network, place(0xF, 0xF, 0x1000), place(0xF, 0xF, 0x4000)) == ["W0305"]
    read = network_of(network.layers[0], conv(1, (4, 8, 8), 4))
    assert codes(read, place(0xF, 0xF, 0x1000), place(0xF, 0xF, 0x4000, 0x1000)) == ["E0329"]


def test_wrong_processor_count_reads_like_the_published_example() -> None:
    source = Source(file="net.yaml", line=20, column=17, length=18, text="    processors: 0x00000000ffffffff")
    network = network_of(conv(0, (4, 8, 8), 60), conv(1, (60, 8, 8), 4))
    places = (place(0xF, (1 << 60) - 1, 0x1000), place(0xFFFFFFFF, 0xF, 0x2000, 0x1000, sources={"processors": source}))
    (found,) = findings(network, *places)
    assert found.headline() == (
        "net.yaml:20:17: error[E0312]: layer 1 'conv1': 60 input channels need 60 processors, 32 are enabled"
    )
    assert found.found == "32 enabled processors in 0x00000000ffffffff"
    assert found.allowed == "one enabled processor per input channel of a pass (1 pass: 60)"
    assert found.help == "write processors: 0x0fffffffffffffff"


def test_findings_of_all_layers_come_together() -> None:
    network = network_of(conv(0, (4, 8, 8), 4, output_shift=20), conv(1, (4, 8, 8), 4, pad=3))
    assert codes(network, place(0xF, 0xF, 2), place(0xF, 0x1F, 0x4000, 0x40000)) == [
        "E0327",
        "E0414",
        "E0324",
        "E0313",
        "E0413",
        "E0415",
    ]


def test_every_error_has_place_numbers_and_a_repair() -> None:
    for layer, _ in LAYER_CASES.values():
        fields = place(lowest(layer.operand_shape.channels), lowest(layer.out_shape.channels), 0x4000)
        for item in findings(network_of(layer), fields):
            assert item.found and item.allowed and item.help and item.layer_index == 0, item
            assert "leave the key out" not in item.help
            assert item.message[0].islower() or item.message[0].isdigit() or item.message.startswith("C"), item.message
            assert not item.message.endswith("."), item.message


def test_every_rule_is_stated_in_its_docstring() -> None:
    assert len({rule.__name__ for rule in RULES}) == len(RULES)
    assert all(rule.__doc__ and len(rule.__doc__) > 20 for rule in RULES)


def test_examples_are_valid() -> None:
    for network, placement in (mnist(), small()):
        if not any(layer.flatten and not layer.pool.is_identity for layer in network.layers):
            assert check_network(network, placement, MAX78000).errors == ()


@pytest.mark.skipif(not CASES.exists(), reason="recorded cases are not part of the repository")
def test_recorded_networks_are_valid() -> None:
    for folder in sorted(path for path in CASES.iterdir() if path.is_dir()):
        network, plan, _, _ = read_case(folder)
        found = check_network(network, plan.placement, MAX78000)
        assert found.errors == (), f"{folder.name}: {found.errors}"


def test_memory_map_says_what_lies_where_and_how_long() -> None:
    network, placement = mnist()
    regions = data_regions(network, hardware_layers(network, placement, MAX78000), MAX78000)
    assert [(r.layer, r.first_use, r.last_use, r.start_byte, r.end_byte) for r in regions] == [
        (-1, 0, 0, 0, 784),
        (0, 0, 1, 0x2000, 0x2000 + 28 * 28 * 4),
        (1, 1, 2, 0, 16 * 16 * 4),
        (2, 2, 3, 0x2000, 0x2000 + 8 * 8 * 4),
        (3, 3, 4, 0, 4 * 4 * 4),
        (4, 4, 5, 0x1000, 0x1010),
    ]
    assert [r.instances for r in regions] == [
        (0,),
        tuple(range(1, 16)),
        tuple(range(1, 16)),
        tuple(range(1, 15)),
        (0, 1, 2),
        (0, 1, 2),
    ]


def test_memory_map_shows_stream_buffers() -> None:
    network = network_of(conv(0, (4, 16, 16), 4), conv(1, (4, 16, 16), 4), conv(2, (4, 16, 16), 4))
    places = (
        place(0xF, 0xF0, streaming=True),
        place(0xF0, 0xF, 0x2000, streaming=True),
        place(0xF, 0xF0, 0x4000, 0x2000),
    )
    placement = Placement(layers=places, fifo=True)
    assert check_network(network, placement, MAX78000).errors == ()
    regions = data_regions(network, hardware_layers(network, placement, MAX78000), MAX78000)
    assert [(r.layer, r.is_stream_buffer, r.instances) for r in regions] == [
        (-1, True, (0,)),
        (0, True, (1,)),
        (1, False, (0,)),
        (2, False, (1,)),
    ]


# --- a network input with several readers ---------------------------------------------------------------------------


def two_readers(first: dict[str, Any], second: dict[str, Any], channels: int = 4) -> Network:
    """Two convolutions of the same input of 8 rows; `in_crop` and the like of each."""
    def reader(index: int, changes: dict[str, Any]) -> Layer:
        rows = 8 - sum(changes.get("in_crop", (0, 0)))
        return conv(index, (channels, rows, 8), 4, inputs=(-1,), out_shape=TensorShape(4, rows, 8), **changes)

    return Network(name="shared", input_shape=TensorShape(channels, 8, 8), layers=(reader(0, first), reader(1, second)),
                   outputs=(0, 1))


def is_computed_right(network: Network, placement: Placement) -> bool:
    plan = plan_of(network, placement)
    sample, _ = random_tensors(network)
    trace = run_network(network, sample)
    verdict = verify_simulator(network, plan.layers, lower_network(network, plan, sample, trace), trace)
    return not verdict.is_different


@pytest.mark.parametrize(("first", "second", "offset"), [
    ((2, 0), (2, 0), 0x100), ((2, 0), (3, 0), 0x120), ((0, 2), (1, 3), 0x120), ((1, 1), (2, 1), 0x120),
])
def test_input_that_layer_0_crops_is_found_by_a_reader_of_fewer_rows(first, second, offset: int) -> None:
    network = two_readers({"in_crop": first}, {"in_crop": second})
    places = (place(0xF, 0xF, 0x1000, 0x100), place(0xF, 0xF, 0x2000, offset))
    assert codes(network, *places) == []
    assert is_computed_right(network, Placement(layers=places))
    wrong = (places[0], replace(places[1], in_offset=offset + 0x20))
    (found,) = findings(network, *wrong)
    assert (found.code, found.help) == ("E0420", f"write in_offset: 0x{offset:04x}")


@pytest.mark.parametrize(("first", "second", "help_text"), [
    ((2, 0), (0, 0), "write in_crop: [2, 0], or let layer 0 read a passthrough layer that copies the input"),
    ((2, 0), (1, 1), "write in_crop: [2, 1], or"), ((0, 1), (3, 0), "write in_crop: [3, 1], or"),
])
def test_rows_that_layer_0_crops_are_not_there_for_another_reader(first, second, help_text: str) -> None:
    source = Source(file="net.yaml", line=9, column=14, length=6, text="    in_crop: [0, 0]")
    network = two_readers({"in_crop": first}, {"in_crop": second})
    for offset in (0x100, 0x140):
        (found,) = findings(network, place(0xF, 0xF, 0x1000, 0x100),
                            place(0xF, 0xF, 0x2000, offset, sources={"in_crop": source}))
        assert (found.code, found.layer_index, str(found.source)) == ("E0446", 1, "net.yaml:9:14")
        assert found.help.startswith(help_text)


def test_planar_input_has_one_reader() -> None:
    network = two_readers({}, {}, channels=2)
    planar = place(0x11, 0xF, 0x1000, data_format=DataFormat.CHW)
    (found,) = findings(network, planar, place(0x11, 0xF, 0x2000))
    assert (found.code, found.layer_index) == ("E0445", 1)
    places = (place(0x3, 0xF, 0x1000), place(0x3, 0xF, 0x2000))
    assert codes(network, *places) == []
    assert is_computed_right(network, Placement(layers=places))
    alone = network_of(conv(0, (2, 8, 8), 4), conv(1, (4, 8, 8), 4))
    assert codes(alone, planar, place(0xF, 0xF, 0x2000, 0x1000)) == []


def test_dilated_rows_that_end_behind_the_input_are_computed_right() -> None:
    """101 samples in rows of 10: the last row reads nine words that hold no input."""
    network = network_of(conv1d(length=101, kernel=3, dilation=10))
    assert is_computed_right(network, Placement(layers=(place(0xF, 0xF, 0x4000),)))
    whole = network_of(conv1d(length=110, kernel=3, dilation=10))
    assert is_computed_right(whole, Placement(layers=(place(0xF, 0xF, 0x4000),), fifo=True))
    (found,) = findings(network, place(0xF, 0xF, 0x4000), fifo=True)
    assert (found.code, found.found) == ("E0322", "101 samples, 110 are read")
    assert found.help == "leave --fifo out, or feed 110 samples"
