"""Defaults of the network file, and the error for a map that is missing."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.errors import Source, UserError
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.placement import (
    DataFormat,
    Placement,
    PlacementOptions,
    channel_passes,
    format_map,
    highest_bit,
    lowest_bit,
    place_network,
    quadrants_of,
    set_bits,
)
from ai8x.network.ir import TensorShape
from ai8x.network.yaml_file import PlacementHint

from .lowering_examples import conv, network_of, place


def hint(processors=None, **changes):
    return PlacementHint(processors=processors, **changes)


def placed(network, *hints, **options):
    return place_network(network, hints, MAX78000, PlacementOptions(**options))


def chain(*channels):
    """A chain of convolutions on a 4x4 image."""
    return network_of(
        *(conv(i, (before, 4, 4), after) for i, (before, after) in enumerate(itertools.pairwise(channels)))
    )


def test_output_processors_default_to_the_readers_processors() -> None:
    placement = placed(chain(3, 8, 100, 10), hint(7), hint(0xFF00), hint((1 << 52) - 1))
    assert [layer.output_processors for layer in placement.layers] == [0xFF00, (1 << 52) - 1, 0x3FF]


def test_last_layer_writes_to_the_output_map() -> None:
    place_of_key = Source(file="net.yaml", line=3, column=13)
    placement = placed(chain(3, 8), hint(7), output_map=0xFF0, output_map_source=place_of_key)
    assert placement.layers[0].output_processors == 0xFF0
    assert placement.layers[0].place_of("output_processors") == place_of_key


def test_file_wins_over_every_default() -> None:
    given_hint = hint(
        7, output_processors=0xF0, in_offset=4, out_offset=8, write_gap=1, data_format="CHW", bias_group=(2,)
    )
    layer = placed(chain(3, 4), given_hint, output_map=0xF).layers[0]
    assert (layer.output_processors, layer.in_offset, layer.out_offset, layer.write_gap) == (0xF0, 4, 8, 1)
    assert (layer.data_format, layer.bias_group) == (DataFormat.CHW, (2,))


def test_in_offset_defaults_to_where_the_input_was_written() -> None:
    placement = placed(chain(3, 4, 4, 4), hint(7, out_offset=0x4000), hint(15, out_offset=0x100), hint(15))
    assert [layer.in_offset for layer in placement.layers] == [0, 0x4000, 0x100]


def test_branch_finds_its_source_and_not_the_layer_before() -> None:
    network = network_of(
        conv(0, (3, 4, 4), 4), conv(1, (4, 4, 4), 8), conv(2, (4, 4, 4), 4, inputs=(0,)), outputs=(1, 2)
    )
    placement = placed(network, hint(7, out_offset=0x4000), hint(15, out_offset=0x100), hint(15))
    assert placement.layers[2].in_offset == 0x4000
    assert placement.layers[1].output_processors == 0xFF


def test_producers_of_a_concatenation_get_their_share_of_the_readers_processors() -> None:
    network = network_of(
        conv(0, (3, 4, 4), 4),
        conv(1, (3, 4, 4), 8, inputs=(-1,)),
        conv(2, (12, 4, 4), 5, inputs=(1, 0), operand_shape=TensorShape(12, 4, 4)),
    )
    placement = placed(network, hint(7), hint(7), hint(0xFFF0))
    assert [layer.output_processors for layer in placement.layers[:2]] == [0xF000, 0x0FF0]


def test_streaming_implies_the_fifo() -> None:
    network = chain(3, 4)
    assert placed(network, hint(7, streaming=True)).fifo
    assert placed(network, hint(7), fifo=True).reads_fifo
    assert not placed(network, hint(7)).reads_fifo
    unstreamed = placed(network, hint(7, streaming=True), ignore_streaming=True)
    assert not unstreamed.fifo and not unstreamed.layers[0].streaming
    assert placed(network, hint(7), fast_fifo=True).reads_fifo


def test_every_layer_without_processors_is_named_with_a_value_to_copy() -> None:
    source = Source(file="net.yaml", line=9, column=5)
    with pytest.raises(UserError) as error:
        placed(chain(3, 100, 8), PlacementHint(), PlacementHint(source=source))
    first, second = error.value.diagnostics
    assert (first.code, first.layer_index, second.layer_index, second.source) == ("E0310", 0, 1, source)
    assert first.help == "write processors: 0x0000000000000007"
    assert second.help == "write processors: 0x000fffffffffffff" and "2 passes: 52" in second.allowed
    assert not any("leave" in part for part in (first.help, second.help))


def test_quadrants_of_outputs_are_powered_and_only_the_final_one_takes_biases() -> None:
    placement = Placement(layers=(place(0xF, 0xF << 16), place(0xF, 0xF << 32)))
    assert placement.used_quadrants == (0, 1, 2)
    assert placement.bias_quadrants == (0, 2)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(1, (1, 1)), (63, (1, 63)), (64, (1, 64)), (65, (2, 36)), (128, (2, 64)), (130, (3, 44)), (1024, (16, 64))],
)
def test_passes_share_channels_in_multiples_of_four(channels: int, expected: tuple[int, int]) -> None:
    assert channel_passes(channels) == expected


@given(st.integers(1, 1024))
def test_passes_hold_all_channels_on_the_processors_of_the_chip(channels: int) -> None:
    passes, share = channel_passes(channels)
    assert passes * share >= channels and share <= 64 and (passes == 1 or share % 4 == 0)


@given(st.integers(1, (1 << 64) - 1))
def test_bit_numbers_describe_the_map(processors: int) -> None:
    bits = set_bits(processors)
    assert sum(1 << bit for bit in bits) == processors
    assert (bits[0], bits[-1]) == (lowest_bit(processors), highest_bit(processors))
    assert quadrants_of(processors) == tuple(sorted({bit // 16 for bit in bits}))
    assert int(format_map(processors), 16) == processors and len(format_map(processors)) == 18
