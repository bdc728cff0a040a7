"""The accelerator computes what section 4 of the specification says, driven register by register."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.errors import HardwareFault
from ai8x.max7800x.simulator import Accelerator

from .register_program import (
    EXPRESS,
    REGISTERS,
    ConvLayer,
    acknowledge,
    data_address,
    encode,
    initialise,
    input_words,
    kernel_bytes,
    load_data,
    load_masks,
    naive_convolution,
    naive_output,
    random_array,
    signed,
    start,
    write_register,
)


def run_convolution(layer: ConvLayer, image: np.ndarray, *, seed: int = 0, express: bool = True) -> np.ndarray:
    accelerator = Accelerator(seed=seed)
    initialise(accelerator, control=8 | (EXPRESS if express else 0))
    layer.load_weights(accelerator, express)
    layer.configure(accelerator)
    load_data(accelerator, range(image.shape[0]), layer.read_word, input_words(image))
    accelerator.write(REGISTERS, 4, 8 | (EXPRESS if express else 0))
    accelerator.write(REGISTERS, 4, 9 | (EXPRESS if express else 0))
    accelerator.complete()
    return layer.read(accelerator, *naive_convolution(image, layer).shape[1:])


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[ConvLayer, np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits = draw(st.sampled_from([1, 2, 4, 8]))
    kernel = draw(st.sampled_from([1, 3]))
    channels, outs = draw(st.integers(1, 9)), draw(st.integers(1, 13))
    pool = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    stride = draw(st.integers(1, 3))
    pad = draw(st.integers(0, 2)) if kernel == 3 else 0
    least = kernel - 2 * pad
    height = pool[0] + stride * draw(st.integers(max(0, least - 1), 4))
    width = pool[1] + stride * draw(st.integers(max(0, least - 1), 4))
    wide = draw(st.booleans())
    layer = ConvLayer(
        weights=random_array(rng, -(1 << bits - 1), (1 << bits - 1) - 1, outs, channels, kernel, kernel),
        height=height,
        width=width,
        pad=pad,
        pool=pool,
        stride=stride,
        average=draw(st.booleans()),
        bits=bits,
        wide=wide,
        bias=random_array(rng, -128, 127, outs) if draw(st.booleans()) else None,
        shift=draw(st.integers(-15, 15)),
        activation="" if wide else draw(st.sampled_from(["", "relu", "abs"])),
        read_word=draw(st.integers(0, 16)),
        mask_word=4 * draw(st.integers(0, 5)),
    )
    return layer, random_array(rng, -128, 127, channels, height, width)


@given(case=convolutions(), express=st.booleans())
def test_convolution_equals_plain_loops(case: tuple[ConvLayer, np.ndarray], express: bool) -> None:
    layer, image = case
    np.testing.assert_array_equal(run_convolution(layer, image, express=express), naive_convolution(image, layer))


@pytest.mark.parametrize(
    ("total", "shift", "output"),
    [
        (64, 0, 1),
        (63, 0, 0),
        (-64, 0, 0),
        (-65, 0, -1),
        (192, 0, 2),
        (-192, 0, -1),
        (127 * 128 + 64, 0, 127),
        (-128 * 128 - 65, 0, -128),
        (1, 7, 1),
        (-1, 7, -1),
        (1, 15, 127),
        (-1, 15, -128),
        (128, -1, 1),
        (127, -1, 0),
        (-128, -1, 0),
        (-129, -1, -1),
    ],
)
def test_output_rounds_half_up_and_saturates(total: int, shift: int, output: int) -> None:
    # total = x * w summed over enough channels; the naive reference is pinned to the same numbers.
    assert naive_output(total, shift, "") == output
    channels = 9
    weight = np.zeros((1, channels, 1, 1), dtype=np.int64)
    image = np.zeros((channels, 1, 1), dtype=np.int64)
    whole, rest = divmod(total, 127)
    weight[0, 0], image[0] = 1, rest
    for channel in range(1, channels):
        part = max(-128, min(127, whole))
        weight[0, channel], image[channel] = 127, part
        whole -= part
    assert whole == 0
    layer = ConvLayer(weights=weight, height=1, width=1, shift=shift)
    assert run_convolution(layer, image).item() == output


@pytest.mark.parametrize(("activation", "outputs"), [("", [-128, -1, 5]), ("relu", [0, 0, 5]), ("abs", [127, 1, 5])])
def test_activation_follows_clipping(activation: str, outputs: list[int]) -> None:
    weights = np.array([-128, -1, 5]).reshape(3, 1, 1, 1)
    layer = ConvLayer(weights=weights, height=1, width=1, activation=activation, shift=0)
    assert run_convolution(layer, np.full((1, 1, 1), 127)).ravel().tolist() == [
        {"": -127, "relu": 0, "abs": 127}[activation],
        *[naive_output(127 * w, 0, activation) for w in (-1, 5)],
    ]
    layer = dataclasses.replace(layer, shift=2)
    assert run_convolution(layer, np.full((1, 1, 1), 127)).ravel().tolist()[0] == outputs[0]


def test_saturated_sum_of_all_minimum_is_exact() -> None:
    layer = ConvLayer(weights=np.full((4, 16, 3, 3), -128), height=4, width=4, pad=1, wide=True)
    image = np.full((16, 4, 4), -128)
    result = run_convolution(layer, image)
    assert result.max() == 16 * 9 * 2**14
    np.testing.assert_array_equal(result, naive_convolution(image, layer))


def test_one_bit_weights_are_minus_one_where_the_bit_is_set() -> None:
    assert kernel_bytes(np.array([[-1], [0], [-1]]), 1) == bytes([0b101])
    layer = ConvLayer(weights=np.array([-1, 0, -1]).reshape(3, 1, 1, 1), height=1, width=1, bits=1, wide=True)
    assert run_convolution(layer, np.full((1, 1, 1), 7)).ravel().tolist() == [-7, 0, -7]


def test_two_seeds_give_the_same_output() -> None:
    rng = np.random.default_rng(3)
    layer = ConvLayer(weights=random_array(rng, -128, 127, 6, 5, 3, 3), height=5, width=4, pad=1, shift=-2)
    image = random_array(rng, -128, 127, 5, 5, 4)
    np.testing.assert_array_equal(run_convolution(layer, image, seed=1), run_convolution(layer, image, seed=2))


# Kinds of convolution


def test_two_passes_read_alternate_words_and_masks() -> None:
    rng = np.random.default_rng(7)
    weights, image = random_array(rng, -128, 127, 3, 8, 3, 3), random_array(rng, -128, 127, 8, 4, 4)
    layer = ConvLayer(
        weights=weights[:, :4],
        height=4,
        width=4,
        pad=1,
        shift=-3,
        registers={"LCTRL1": {"inpchexp": 1}, "MCNT": {"max": 5 * 8}},
    )
    accelerator = Accelerator(seed=0)
    initialise(accelerator)
    layer.configure(accelerator)
    for channel in range(4):  # masks: slot-major, pass-minor
        load_masks(accelerator, channel, 0, weights[:, [channel, channel + 4]].reshape(6, 9), 8)
    load_data(accelerator, range(4), 0, image.reshape(2, 4, 16).transpose(2, 0, 1).reshape(32, 4))
    start(accelerator)
    accelerator.complete()
    whole = dataclasses.replace(layer, weights=weights)
    np.testing.assert_array_equal(layer.read(accelerator, 4, 4), naive_convolution(image, whole))


def test_two_output_passes_use_the_channel_offset() -> None:
    rng = np.random.default_rng(8)
    weights, image = random_array(rng, -128, 127, 8, 2, 3, 3), random_array(rng, -128, 127, 2, 3, 3)
    layer = ConvLayer(
        weights=weights,
        height=3,
        width=3,
        pad=1,
        shift=-2,
        registers={"LCTRL1": {"xpch_max": 3 * 8, "wptr_inc": 1}, "WPTR_CHOFF": {"value": 1}},
    )
    accelerator = Accelerator(seed=0)
    initialise(accelerator)
    layer.configure(accelerator)
    layer.load_weights(accelerator)
    load_data(accelerator, range(2), 0, input_words(image))
    start(accelerator)
    accelerator.complete()
    wanted = naive_convolution(image, layer).reshape(8, -1)
    for out, pixel in np.ndindex(*wanted.shape):
        word = accelerator.peek(data_address(0, 0x1000 + 2 * pixel + out // 4), 4)
        assert signed(word >> 8 * (out % 4), 8) == wanted[out, pixel]


@pytest.mark.parametrize("pixels", [16, 17, 40])
def test_flatten_reads_pixels_as_passes(pixels: int) -> None:
    rng = np.random.default_rng(pixels)
    weights, data = random_array(rng, -128, 127, 5, pixels, 4), random_array(rng, -128, 127, pixels, 4)
    last = pixels - 1
    long = (
        {"POST": {"flatten_en": 1, "xpmp_cnt": last >> 4}, "TPTR": {"sad": last, "max": 2 * last + 1}}
        if last >= 16
        else {}
    )
    layer = ConvLayer(
        weights=weights[:, 0, :, None, None],
        height=1,
        width=1,
        wide=True,
        registers={"LCTRL1": {"inpchexp": last & 15}, "MCNT": {"max": (5 * pixels - 1) * 8}, **long},
    )
    accelerator = Accelerator(seed=0)
    initialise(accelerator)
    layer.configure(accelerator)
    for channel in range(4):
        load_masks(accelerator, channel, 0, weights[:, :, channel].reshape(-1, 1), 8)
    load_data(accelerator, range(4), 0, data)
    start(accelerator)
    accelerator.complete()
    np.testing.assert_array_equal(layer.read(accelerator, 1, 1).ravel(), (weights * data).sum(axis=(1, 2)))
    assert accelerator.layer_geometry()[0].passes == pixels


@pytest.mark.parametrize("taps", range(1, 10))
def test_one_dimensional_convolution_runs_along_rows(taps: int) -> None:
    rng = np.random.default_rng(taps)
    weights, signal = random_array(rng, -128, 127, 2, 3, taps), random_array(rng, -128, 127, 3, 12)
    pad = min(2, taps - 1)
    layer = ConvLayer(
        weights=weights[..., None],
        height=12,
        width=1,
        wide=True,
        registers={
            "RCNT": {"max": 11 + 2 * pad, "pad": pad},
            "ONED": {"oned_en": 1, "oned_width": taps},
            "WPTR_TOFF": {"value": 0},
            "TPTR": {"max": 0},
        },
    )
    accelerator = Accelerator(seed=0)
    initialise(accelerator)
    layer.configure(accelerator)
    layer.load_weights(accelerator)
    load_data(accelerator, range(3), 0, signal.T)
    start(accelerator)
    accelerator.complete()
    padded = np.pad(signal, ((0, 0), (pad, pad)))
    wanted = np.array(
        [[(padded[:, i : i + taps] * w).sum() for i in range(padded.shape[1] - taps + 1)] for w in weights]
    )
    np.testing.assert_array_equal(layer.read(accelerator, wanted.shape[1], 1)[..., 0], wanted)


@pytest.mark.parametrize("pad", [0, 1, 2])
def test_transposed_convolution_stuffs_zeros_between_pixels(pad: int) -> None:
    rng = np.random.default_rng(pad)
    weights, image = random_array(rng, -128, 127, 3, 2, 3, 3), random_array(rng, -128, 127, 2, 3, 4)
    hardware = 2 - pad
    layer = ConvLayer(
        weights=weights,
        height=3,
        width=4,
        shift=-3,
        registers={
            "RCNT": {"max": 5 + 2 * hardware, "pad": hardware},
            "CCNT": {"max": 7 + 2 * hardware, "pad": hardware},
            "TPTR": {"max": 8 + 2 * hardware - 3},
            "POST": {"deconv_en": 1},
        },
    )
    accelerator = Accelerator(seed=0)
    initialise(accelerator)
    layer.configure(accelerator)
    layer.load_weights(accelerator)
    load_data(accelerator, range(2), 0, input_words(image))
    start(accelerator)
    accelerator.complete()
    stuffed = np.zeros((2, 6, 8), dtype=np.int64)
    stuffed[:, ::2, ::2] = image
    wanted = naive_convolution(stuffed, ConvLayer(weights=weights, height=6, width=8, pad=hardware, shift=-3))
    assert wanted.shape == (3, 6 - 2 * pad + 2, 8 - 2 * pad + 2)
    np.testing.assert_array_equal(layer.read(accelerator, *wanted.shape[1:]), wanted)


def test_sum_of_two_operands_is_convolved() -> None:
    rng = np.random.default_rng(4)
    weights, data = random_array(rng, -128, 127, 4, 3, 3, 3), random_array(rng, -128, 127, 2, 3, 4, 4)
    layer = ConvLayer(
        weights=weights,
        height=4,
        width=4,
        pad=1,
        shift=-4,
        registers={"ONED": {"ewise_en": 1, "ewise_func": 1, "ewise_cnt": 1, "2d_conv": 1}},
    )
    accelerator = Accelerator(seed=0)
    initialise(accelerator)
    layer.configure(accelerator)
    layer.load_weights(accelerator)
    load_data(accelerator, range(3), 0, data.transpose(2, 3, 0, 1).reshape(-1, 3))
    start(accelerator)
    accelerator.complete()
    wanted = naive_convolution(np.clip(data[0] + data[1], -128, 127), layer)
    np.testing.assert_array_equal(layer.read(accelerator, 4, 4), wanted)


def test_chw_input_packs_four_pixels_in_a_word() -> None:
    rng = np.random.default_rng(5)
    weights, image = random_array(rng, -128, 127, 3, 1, 3, 3), random_array(rng, -128, 127, 1, 5, 3)
    layer = ConvLayer(weights=weights, height=5, width=3, pad=1, shift=-1, registers={"LCTRL0": {"parallel": 1}})
    accelerator = Accelerator(seed=0)
    initialise(accelerator)
    layer.configure(accelerator)
    layer.load_weights(accelerator)
    packed = np.append(image.ravel(), [0]).astype(np.int8).view("<u4")
    for word, value in enumerate(packed.tolist()):
        accelerator.write(data_address(0, word), 4, value)
    start(accelerator)
    accelerator.complete()
    np.testing.assert_array_equal(layer.read(accelerator, 5, 3), naive_convolution(image, layer))


# Runs


def two_layers(rng: np.random.Generator) -> tuple[ConvLayer, ConvLayer]:
    first = ConvLayer(
        weights=random_array(rng, -128, 127, 4, 2, 3, 3), height=5, width=5, pad=1, shift=-2, activation="relu"
    )
    second = ConvLayer(
        weights=random_array(rng, -128, 127, 6, 4, 1, 1),
        height=5,
        width=5,
        layer=1,
        read_word=0x1000,
        wide=True,
        write_word=0x100,
        mask_word=4,
    )
    return first, second


def loaded(layers: tuple[ConvLayer, ...], **options: object) -> Accelerator:
    accelerator = Accelerator(seed=2, **options)
    initialise(accelerator, layers=len(layers))
    for layer in layers:
        layer.load_weights(accelerator)
        layer.configure(accelerator)
    return accelerator


def test_network_can_run_again_without_initialisation() -> None:
    rng = np.random.default_rng(6)
    first, second = two_layers(rng)
    accelerator = loaded((first, second))
    images = [random_array(rng, -128, 127, 2, 5, 5) for _ in range(2)]
    for image in (images[0], images[1], images[0]):
        load_data(accelerator, range(2), 0, input_words(image))
        start(accelerator)
        accelerator.complete()
        wanted = naive_convolution(naive_convolution(image, first), second)
        np.testing.assert_array_equal(second.read(accelerator, 5, 5), wanted)
        acknowledge(accelerator)


def test_layer_outputs_are_kept_by_place() -> None:
    rng = np.random.default_rng(6)
    first, second = two_layers(rng)
    accelerator = loaded((first, second))
    image = random_array(rng, -128, 127, 2, 5, 5)
    load_data(accelerator, range(2), 0, input_words(image))
    start(accelerator)
    accelerator.complete()
    hidden = naive_convolution(image, first).reshape(4, -1)
    out, pixel = np.indices(hidden.shape)
    values, defined = accelerator.layer_output(0).values_at(0, 0x1000 + pixel, out)
    assert defined.all()
    np.testing.assert_array_equal(values, hidden)
    wide = naive_convolution(hidden.reshape(4, 5, 5), second).reshape(6, -1)
    out, pixel = np.indices(wide.shape)
    values, _ = accelerator.layer_output(1).values_at(out // 4, 0x100 + 4 * pixel + out % 4, 0)
    np.testing.assert_array_equal(values, wide)
    with pytest.raises(KeyError, match="instance 0, word 0xfff"):
        accelerator.layer_output(0).values_at(0, 0xFFF, 0)
    with pytest.raises(HardwareFault, match="layer 2"):
        accelerator.layer_output(2)


def test_completion_sets_the_flag_in_every_armed_quadrant() -> None:
    layer = ConvLayer(weights=np.ones((4, 1, 1, 1), dtype=np.int64), height=1, width=1)
    accelerator = Accelerator(seed=0)
    initialise(accelerator, quadrants=range(4))
    layer.load_weights(accelerator)
    for quadrant in range(4):
        for name, fields in layer.fields().items():
            if not (quadrant and name == "EN"):
                write_register(accelerator, name, 0, encode(name, fields), quadrant)
    load_data(accelerator, [0], 0, np.array([[3]]))
    start(accelerator, quadrants=range(4))
    assert accelerator.run_requested
    assert accelerator.input_complete
    accelerator.complete()
    assert not accelerator.run_requested
    flags = [accelerator.read(REGISTERS + q * 0x400000, 4) >> 12 & 1 for q in range(4)]
    assert flags == [1, 1, 1, 1]
    acknowledge(accelerator, range(4))
    assert [accelerator.read(REGISTERS + q * 0x400000, 4) >> 12 & 1 for q in range(4)] == [0, 0, 0, 0]


def test_stopped_run_can_be_continued() -> None:
    layer = ConvLayer(weights=np.full((1, 1, 1, 1), 64), height=1, width=1)
    accelerator = loaded((layer,))
    load_data(accelerator, [0], 0, np.array([[6]]))
    start(accelerator)
    control = accelerator.read(REGISTERS, 4)
    accelerator.write(REGISTERS, 4, control & ~1)
    assert not accelerator.run_requested
    with pytest.raises(HardwareFault, match="no run was started"):
        accelerator.complete()
    accelerator.write(REGISTERS, 4, control)
    accelerator.complete()
    assert layer.read(accelerator, 1, 1).item() == 3


def test_geometry_is_decoded_from_the_printed_words_of_section_2_5() -> None:
    accelerator = Accelerator(seed=0)
    initialise(accelerator, quadrants=range(4))
    words = {
        "RCNT": 0x0002001F,
        "CCNT": 0x0002001F,
        "PRCNT": 1,
        "PCCNT": 1,
        "STRIDE": 1,
        "WPTR_BASE": 0x2000,
        "WPTR_MOFF": 0x2000,
        "RPTR_BASE": 0x800,
        "LCTRL1": 0x1D800,
        "MCNT": 0x1D8,
        "TPTR": 0xF,
        "POST": 0x24000,
    }
    for quadrant in range(4):
        for name, word in words.items():
            write_register(accelerator, name, 0, word, quadrant)
        write_register(accelerator, "LCTRL0", 0, 0xBA0 if quadrant else 0xEBA0, quadrant)
        write_register(accelerator, "EN", 0, 0xFFFFFFFF if quadrant else 0xFFF0FFF0, quadrant)
    start(accelerator, quadrants=range(4))
    geometry = accelerator.layer_geometry()[0]
    assert (geometry.kind, geometry.passes, geometry.operands, geometry.slots, geometry.slots_per_pass) == (
        "conv",
        1,
        1,
        60,
        60,
    )
    assert (geometry.height, geometry.width, geometry.pooled_height, geometry.out_width) == (28, 28, 14, 16)
    assert (geometry.kernel_height, geometry.pad_rows, geometry.weight_bits, geometry.weight_start) == (3, 2, 8, 0)
