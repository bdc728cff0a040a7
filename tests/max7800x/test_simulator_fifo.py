"""Input through the FIFOs, streaming layers and quad mode."""

import dataclasses

import numpy as np
import pytest

from ai8x.errors import HardwareFault
from ai8x.max7800x.simulator import Accelerator

from .register_program import (
    EXPRESS,
    OFFSETS,
    QUADRANT,
    REGISTERS,
    ConvLayer,
    acknowledge,
    data_address,
    encode,
    initialise,
    input_words,
    load_masks,
    naive_convolution,
    naive_pool,
    write_register,
)

FIFO, STREAM, LILBUF, FAST, GROUP, QUAD, WAIT = 1 << 15, 1 << 14, 1 << 19, 1 << 22, 1 << 23, 1 << 31, 1 << 11
FIFO_DATA, FIFO_STATUS, FAST_DATA, FAST_STATUS = 0x50000008, 0x50000004, 0x400C0410, 0x400C0404


def packed(image: np.ndarray) -> list[int]:
    """FIFO words of up to four HWC channels."""
    lanes = np.zeros((image[0].size, 4), dtype=np.int8)
    lanes[:, : image.shape[0]] = input_words(image)
    return lanes.view("<u4")[:, 0].tolist()


def start_fifo(accelerator: Accelerator, extra: int = 0, quadrants: tuple[int, ...] = (0,)) -> None:
    common = EXPRESS | 8 | WAIT | FIFO | extra
    for quadrant in quadrants:
        accelerator.write(REGISTERS + quadrant * QUADRANT, 4, common | (1 if quadrant else 0))
    accelerator.write(REGISTERS, 4, common | 1)


def fifo_layer(weights: np.ndarray, size: int, frame: int, **registers: dict[str, int]) -> ConvLayer:
    return ConvLayer(
        weights=weights, height=size, width=size, pad=1, shift=-3, registers={"STRM0": {"start": frame}, **registers}
    )


def prepared(*layers: ConvLayer, frame: int, **options: object) -> Accelerator:
    accelerator = Accelerator(seed=3, **options)
    initialise(accelerator, layers=len(layers), control=EXPRESS | 8 | FIFO)
    for layer in layers:
        layer.load_weights(accelerator)
        layer.configure(accelerator)
    accelerator.write(REGISTERS + 0x990, 4, frame)
    accelerator.write(0x50000000, 4, 0x1908)
    return accelerator


def random_image(seed: int, channels: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 127, size=(channels, size, size), endpoint=True)


def random_weights(seed: int, outs: int, ins: int) -> np.ndarray:
    return np.random.default_rng(100 + seed).integers(-128, 127, size=(outs, ins, 3, 3), endpoint=True)


def test_input_arrives_through_the_fifo() -> None:
    layer, image = fifo_layer(random_weights(0, 4, 3), 4, 16), random_image(0, 3, 4)
    accelerator = prepared(layer, frame=16)
    for _ in range(2):
        start_fifo(accelerator)
        for word in packed(image):
            assert not accelerator.input_complete
            accelerator.write(FIFO_DATA, 4, word)
        assert accelerator.input_complete
        with pytest.raises(HardwareFault, match="more than the 16 words"):
            accelerator.write(FIFO_DATA, 4, 0)
        accelerator.complete()
        np.testing.assert_array_equal(layer.read(accelerator, 4, 4), naive_convolution(image, layer))
        acknowledge(accelerator)


def test_run_that_waits_for_input_cannot_complete() -> None:
    accelerator = prepared(fifo_layer(random_weights(0, 4, 3), 4, 16), frame=16)
    start_fifo(accelerator)
    accelerator.write(FIFO_DATA, 4, 0)
    with pytest.raises(HardwareFault, match="FIFO 0 lacks 15 words"):
        accelerator.complete()


def test_full_fifo_must_be_polled() -> None:
    accelerator = prepared(fifo_layer(random_weights(0, 4, 3), 4, 16), frame=16, fifo_depth=2)
    start_fifo(accelerator)
    assert not accelerator.read(FIFO_STATUS, 4) & 1
    accelerator.write(FIFO_DATA, 4, 0)
    accelerator.write(FIFO_DATA, 4, 0)
    with pytest.raises(HardwareFault, match="is full"):
        accelerator.write(FIFO_DATA, 4, 0)
    assert accelerator.read(FIFO_STATUS, 4) & 1
    assert not accelerator.read(FIFO_STATUS, 4) & 1
    accelerator.write(FIFO_DATA, 4, 0)


@pytest.mark.parametrize(
    ("address", "value", "text"),
    [
        (REGISTERS + 0x990, 15, "IFRM.*15 words, but layer 0 reads 16"),
        (0x50000000, 0x2908, "FIFO_CTRL.*expected 0x1908"),
        (REGISTERS + OFFSETS["STRM0"], 15, "start = 15, expected 16"),
    ],
)
def test_wrong_fifo_setting_is_refused_at_the_start(address: int, value: int, text: str) -> None:
    accelerator = prepared(fifo_layer(random_weights(0, 4, 3), 4, 16), frame=16)
    accelerator.write(address, 4, value)
    with pytest.raises(HardwareFault, match=text):
        start_fifo(accelerator)


def test_processors_that_no_fifo_feeds_are_refused() -> None:
    accelerator = prepared(fifo_layer(random_weights(0, 4, 5), 4, 16), frame=16)
    with pytest.raises(HardwareFault, match="only the first four processors"):
        start_fifo(accelerator)


# Streaming


def streaming_layers(seed: int, size: int) -> tuple[ConvLayer, ConvLayer, ConvLayer]:
    """Two streaming layers, the second with pooling, and one that is not."""
    row = size + 2
    second_start = row * (2 + 1) + 2 + 2 + 2
    buffer = second_start + size + 2
    first = fifo_layer(random_weights(seed, 5, 3), size, 1, FBUF={"rollover": 2}, WPTR_BASE={"value": 0x400})
    second = ConvLayer(
        weights=random_weights(seed + 1, 4, 5),
        height=size,
        width=size,
        layer=1,
        pad=1,
        shift=-4,
        pool=(2, 2),
        stride=2,
        read_word=0x400,
        write_word=0x1400,
        mask_word=8,
        activation="relu",
        registers={
            "STRM0": {"start": second_start},
            "STRM1": {"delta1": 2, "delta2": row + 2, "invol": 1},
            "FBUF": {"rollover": buffer},
            "TPTR": {"sad": size, "max": size + size // 2 - 1},
        },
    )
    third = ConvLayer(
        weights=random_weights(seed + 2, 4, 4),
        height=size // 2,
        width=size // 2,
        layer=2,
        pad=1,
        wide=True,
        read_word=0x1400,
        write_word=0x1800,
        mask_word=16,
    )
    return first, second, third


def test_streaming_layers_pass_every_pixel_on_once() -> None:
    size = 8
    layers = streaming_layers(0, size)
    image = random_image(1, 3, size)
    accelerator = prepared(*layers, frame=size * size)
    start_fifo(accelerator, STREAM | LILBUF)
    for word in packed(image):
        accelerator.write(FIFO_DATA, 4, word)
    accelerator.complete()
    hidden = naive_convolution(image, layers[0])
    pooled = naive_convolution(hidden, layers[1])
    wanted = naive_convolution(pooled, layers[2])
    np.testing.assert_array_equal(layers[2].read(accelerator, size // 2, size // 2), wanted)
    out, pixel = np.indices((5, size * size))
    values, defined = accelerator.layer_output(0).values_at(out // 4, 0x400 + pixel, out % 4)
    assert defined.all()
    np.testing.assert_array_equal(values, hidden.reshape(5, -1))
    assert [geometry.streaming for geometry in accelerator.layer_geometry()] == [True, True, False]


def test_streaming_layer_0_takes_its_bias_one_entry_further() -> None:
    size = 8
    first, second, third = streaming_layers(0, size)
    bias = np.array([3, -4, 5, -6, 7])
    first = dataclasses.replace(first, bias=np.concatenate([[0], bias]))
    accelerator = prepared(first, second, third, frame=size * size)
    image = random_image(1, 3, size)
    start_fifo(accelerator, STREAM | LILBUF)
    for word in packed(image):
        accelerator.write(FIFO_DATA, 4, word)
    accelerator.complete()
    hidden = naive_convolution(image, dataclasses.replace(first, bias=bias))
    out, pixel = np.indices((5, size * size))
    values, _ = accelerator.layer_output(0).values_at(out // 4, 0x400 + pixel, out % 4)
    np.testing.assert_array_equal(values, hidden.reshape(5, -1))


@pytest.mark.parametrize(
    ("layer", "changes", "text"),
    [
        (1, {"STRM0": {"start": 35}}, "STRM0.*start"),
        (1, {"STRM1": {"delta1": 1}}, "delta1"),
        (1, {"STRM1": {"invol": 2}}, "invol"),
        (1, {"FBUF": {"rollover": 45}}, "rollover = 45"),
        (1, {"FBUF": {"rollover": 0}}, "TPTR"),
        (1, {"RPTR_BASE": {"value": 0x401}}, "not what streaming layer 0 writes"),
        (1, {"TPTR": {"sad": 7, "max": 10}}, "TRAM entries"),
        (0, {"RPTR_BASE": {"value": 0x401}}, "already belong to streaming layer"),
        (1, {"WPTR_BASE": {"value": 0x410}}, "meets the stream buffer"),
        (1, {"ONED": {"ewise_en": 1, "ewise_cnt": 1, "2d_conv": 1}}, "ewise|STRM"),
        (2, {"FBUF": {"rollover": 9}}, "STRM0"),
    ],
)
def test_wrong_stream_setting_is_refused(layer: int, changes: dict[str, dict[str, int]], text: str) -> None:
    layers = list(streaming_layers(0, 8))
    layers[layer] = dataclasses.replace(
        layers[layer],
        registers={
            name: {**layers[layer].registers.get(name, {}), **changes.get(name, {})}
            for name in layers[layer].registers | changes
        },
    )
    accelerator = prepared(*layers, frame=64)
    with pytest.raises(HardwareFault, match=text):
        start_fifo(accelerator, STREAM | LILBUF)


# Fast FIFO


def test_fast_fifo_feeds_four_channels() -> None:
    layer, image = fifo_layer(random_weights(5, 4, 4), 4, 16), random_image(5, 4, 4)
    accelerator = prepared(layer, frame=16)
    accelerator.write(0x400C0400, 4, 0xA0)
    start_fifo(accelerator, FAST | GROUP)
    for word in packed(image):
        assert not accelerator.read(FAST_STATUS, 4) & 2
        accelerator.write(FAST_DATA, 4, word)
    assert accelerator.read(FAST_STATUS, 4) & 2
    accelerator.complete()
    np.testing.assert_array_equal(layer.read(accelerator, 4, 4), naive_convolution(image, layer))


def test_fast_fifo_without_grouping_or_threshold_is_refused() -> None:
    accelerator = prepared(fifo_layer(random_weights(5, 4, 4), 4, 16), frame=16)
    with pytest.raises(HardwareFault, match="fifogrp"):
        start_fifo(accelerator, FAST)
    accelerator = prepared(fifo_layer(random_weights(5, 4, 4), 4, 16), frame=16)
    with pytest.raises(HardwareFault, match=r"FAST_FIFO_CR.*expected 0xa0"):
        start_fifo(accelerator, FAST | GROUP)


def test_quad_mode_shares_the_slots_between_quadrants() -> None:
    outs, channels, size = 6, 3, 4
    weights, image = random_weights(6, outs, channels), random_image(6, channels, size)
    bias = np.array([1, -2, 3, -4, 5, -6])
    layer = dataclasses.replace(
        fifo_layer(weights, size, size * size, MCNT={"max": 8}, POST={"bptr_en": 1, "scale_reg": 3, "scale_shft": 1})
    )
    accelerator = Accelerator(seed=4)
    quadrants = (0, 1, 2, 3)
    initialise(accelerator, quadrants=quadrants, control=EXPRESS | 8 | FIFO)
    for quadrant in quadrants:
        own = weights[quadrant::4]
        for channel in range(channels):
            masks = np.zeros((2, 9), dtype=np.int64)
            masks[: len(own)] = own[:, channel].reshape(-1, 9)
            load_masks(accelerator, 16 * quadrant + channel, 0, masks, 8)
        for entry, value in enumerate(bias[quadrant::4].tolist()):
            accelerator.write(0x50108000 + quadrant * QUADRANT + 4 * entry, 4, value & 0xFF)
        for name, fields in layer.fields().items():
            write_register(accelerator, name, 0, encode(name, fields), quadrant)
        accelerator.write(REGISTERS + quadrant * QUADRANT + 0x990, 4, size * size)
    accelerator.write(0x400C0400, 4, 0xA0)
    start_fifo(accelerator, FAST | GROUP | QUAD, quadrants)
    for word in packed(image):
        accelerator.write(FAST_DATA, 4, word)
    accelerator.complete()
    wanted = naive_convolution(image, dataclasses.replace(layer, bias=bias))
    np.testing.assert_array_equal(layer.read(accelerator, size, size), wanted)
    assert accelerator.undefined(data_address(4, 0x1000)) == 0xFFFF0000


def test_pooling_helper_agrees_with_a_hand_computed_window() -> None:
    assert naive_pool(np.array([[[1, 4], [2, -9]]]), (2, 2), 2, False).item() == 4
    assert naive_pool(np.array([[[1, 4], [2, -9]]]), (2, 2), 2, True).item() == 0
