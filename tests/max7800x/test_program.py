"""The program's types: what reaches the bus, and in which order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.max7800x.program import (
    BiasBlock,
    InputBlock,
    KernelChunk,
    Program,
    RegisterWrite,
    UnloadGroup,
    UnloadItem,
)

BASE = 0x50184000


def words(count: int) -> np.ndarray:
    return np.arange(9 * count, dtype=np.uint8).reshape(count, 9)


def register(address: int, value: int) -> RegisterWrite:
    return RegisterWrite(address=address, value=value, register="X", fields={})


def memory_block(address: int, *values: int, fifo: int | None = None) -> InputBlock:
    return InputBlock(name="SAMPLE_INPUT_0", processor=0, address=address, words=np.array(values, np.uint32), fifo=fifo)


def unload_item(offset: int, channels: int, bits: int = 8) -> UnloadItem:
    group = UnloadGroup(address=0x50400000, lanes=1, channel=0)
    return UnloadItem(
        name="x", layer=0, channels=channels, height=1, width=1, bits=bits, pixel_step=4, groups=(group,), offset=offset
    )


def test_express_chunk_selects_its_word_then_sends_bytes_most_significant_first():
    chunk = KernelChunk(processor=1, base=BASE, word=5, words=words(1))
    assert list(chunk.bus_writes()) == [
        (BASE + 21, 1, 1),
        (BASE + 20, 4, 0x00010203),
        (BASE + 24, 4, 0x04050607),
        (BASE + 28, 4, 0x08000000),
    ]


def test_plain_chunk_takes_four_bus_words_per_mask_word():
    chunk = KernelChunk(processor=1, base=BASE, word=5, words=words(2), express=False)
    assert [value for _, _, value in chunk.bus_writes()] == [
        0x00,
        0x01020304,
        0x05060708,
        0,
        0x09,
        0x0A0B0C0D,
        0x0E0F1011,
        0,
    ]
    assert next(iter(chunk.bus_writes())) == (BASE + 80, 4, 0)


@given(st.binary(min_size=9, max_size=9 * 12).map(lambda data: data[: len(data) // 9 * 9]))
def test_express_stream_holds_the_bytes_of_the_words_and_zeros(data: bytes):
    chunk = KernelChunk(processor=0, base=BASE, word=0, words=np.frombuffer(data, np.uint8).reshape(-1, 9).copy())
    stream = b"".join(int(word).to_bytes(4, "big") for word in chunk.bus_words)
    assert stream[: len(data)] == data
    assert stream[len(data) :] == bytes(-len(data) % 4)


def test_bias_bytes_go_to_consecutive_words():
    block = BiasBlock(quadrant=1, address=0x50508000, values=np.array([1, 255], np.uint8))
    assert list(block.bus_writes()) == [(0x50508000, 4, 1), (0x50508004, 4, 255)]


def test_memory_input_is_loaded_before_the_start():
    program = Program(
        configure=(register(0x10, 1),),
        load_input=(memory_block(0x100, 7, 8), memory_block(0x200, 9)),
        start=(register(0x20, 2),),
        acknowledge=(register(0x20, 3),),
    )
    assert [write[0] for write in program.bus_writes()] == [0x10, 0x100, 0x104, 0x200, 0x20, 0x20]


def test_fifo_input_follows_the_start_one_word_per_fifo_in_turn():
    program = Program(
        load_input=(memory_block(0x8, 1, 2, fifo=0), memory_block(0xC, 3, 4, fifo=1)), start=(register(0x20, 2),)
    )
    assert list(program.bus_writes()) == [(0x20, 4, 2), (0x8, 4, 1), (0xC, 4, 3), (0x8, 4, 2), (0xC, 4, 4)]


def test_acknowledge_can_be_left_out():
    program = Program(start=(register(0x20, 2),), acknowledge=(register(0x20, 3),))
    assert list(program.bus_writes(acknowledge=False)) == [(0x20, 4, 2)]


@pytest.mark.parametrize(("channels", "bits", "size"), [(4, 8, 4), (5, 8, 8), (5, 32, 20)])
def test_outputs_take_whole_words_of_the_buffer(channels: int, bits: int, size: int):
    item = unload_item(0, channels, bits)
    assert item.size_bytes == size


def test_buffer_holds_all_outputs_not_only_the_last():
    program = Program(unload=(unload_item(0, 100), unload_item(100, 3)))
    assert program.output_bytes == 104


def test_arrays_are_read_only():
    chunk = KernelChunk(processor=0, base=BASE, word=0, words=words(1))
    with pytest.raises(ValueError, match="read-only"):
        chunk.words[0, 0] = 1
