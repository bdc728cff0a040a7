"""The K210's tables: layout of KPU RAM, register words, parameter words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.k210 import device
from ai8x.registers import RegisterError


@pytest.mark.parametrize(("width", "shared", "lines", "pitch"), [
    (1, 4, 1, 16), (16, 4, 1, 16), (17, 2, 1, 32), (32, 2, 1, 32), (33, 1, 1, 64), (64, 1, 1, 64), (65, 1, 2, 64),
    (320, 1, 5, 64), (512, 1, 8, 64)])
def test_line_layout_follows_width(width: int, shared: int, lines: int, pitch: int) -> None:
    assert device.channels_per_line(width) == shared
    assert device.lines_per_row(width) == lines
    assert device.channel_pitch(width) == pitch


@pytest.mark.parametrize(("shape", "lines"), [
    ((3, 224, 224), 2688), ((1, 4, 4), 4), ((5, 7, 16), 14), ((3, 8, 20), 16)])
def test_map_lines(shape: tuple[int, int, int], lines: int) -> None:
    assert device.map_lines(*shape) == lines


@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 140))
def test_elements_have_distinct_places_inside_the_map(channels: int, height: int, width: int) -> None:
    places = {device.element_offset(c, y, x, height=height, width=width)
              for c in range(channels) for y in range(height) for x in range(width)}
    assert len(places) == channels * height * width
    assert max(places) < device.map_lines(channels, height, width) * device.LINE_BYTES


@given(st.data())
def test_layer_argument_round_trip(data: st.DataObject) -> None:
    fields = {field.name: data.draw(st.integers(field.min, field.max))
              for word in device.LAYER_ARGUMENT for field in word.fields}
    words = device.encode_layer_argument(fields)
    assert len(words) * 8 == device.BLOCK_BYTES
    assert device.decode_layer_argument(words) == fields


def test_layer_argument_refuses_unknown_fields_wrong_lengths_and_reserved_bits() -> None:
    with pytest.raises(RegisterError, match="no field pool_tpye"):
        device.encode_layer_argument({"pool_tpye": 1})
    with pytest.raises(RegisterError, match="12 words"):
        device.decode_layer_argument([0] * 11)
    with pytest.raises(RegisterError, match="CONV_VALUE2"):
        device.decode_layer_argument([0] * 10 + [1 << 40, 0])


@given(st.lists(st.tuples(st.integers(-(1 << 23), (1 << 23) - 1), st.integers(0, 15),
                          st.integers(-(1 << 31), (1 << 31) - 1)), min_size=1, max_size=8))
def test_parameter_words_round_trip(rows: list[tuple[int, int, int]]) -> None:
    mul, shift, add = (np.array(column) for column in zip(*rows, strict=True))
    words = device.encode_words(device.BATCH_NORM_WORD, {"mul": mul, "shift": shift, "add": add})
    assert [device.BATCH_NORM_WORD.decode(int(word)) for word in words] == [
        {"mul": m, "add": a, "shift": s} for m, s, a in rows]
    back = device.decode_words(device.BATCH_NORM_WORD, words)
    assert (back["mul"].tolist(), back["shift"].tolist(), back["add"].tolist()) == (mul.tolist(), shift.tolist(),
                                                                                    add.tolist())


def test_parameter_words_refuse_what_does_not_fit() -> None:
    with pytest.raises(RegisterError, match="mul"):
        device.encode_words(device.BATCH_NORM_WORD, {"mul": np.array([1 << 23])})
    with pytest.raises(RegisterError, match="reserved"):
        device.decode_words(device.TABLE_WORD, np.array([1 << 60], np.uint64))


@pytest.mark.parametrize(("inputs", "kernel", "limit"), [(256, 3, 832), (512, 3, 384), (1024, 3, 192)])
def test_most_output_channels_of_64_loads(inputs: int, kernel: int, limit: int) -> None:
    per_load = device.channels_per_load(inputs, 1024, kernel)
    assert per_load * device.K210.limits.max_weight_loads == limit


def test_pool_types_are_indexed_by_their_code() -> None:
    assert [pool.code for pool in device.POOL_TYPES] == list(range(10))


def test_kpu_registers_lie_where_the_driver_finds_them() -> None:
    names = {offset: register.name for offset, (register, _) in device.KPU_REGISTERS.by_offset().items()}
    assert names[0x00] == "LAYER_ARGUMENT_FIFO"
    assert names[0x18] == "INTERRUPT_MASK"
    assert names[0x40] == "EIGHT_BIT_MODE"
