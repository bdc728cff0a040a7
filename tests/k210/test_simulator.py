"""The KPU: golden vectors, exact arithmetic against plain Python, what it refuses, what it does not know."""

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.errors import HardwareFault
from ai8x.k210 import device
from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.kmodel import write_kmodel
from ai8x.k210.kmodel_layers import ActivationTable, BatchNorm, K210Conv
from ai8x.k210.simulator import ArgShift, Compare, Kpu, KpuOptions, MapPlace, Rounding
from tests.k210.kpu_layers import (
    IDENTITY,
    Shape,
    conv,
    layer_fields,
    pattern_image,
    pattern_weights,
    plain_norm,
    single,
    table,
)

MIN = device.TABLE_MIN_START


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def norm(mul: Sequence[int], shift: Sequence[int], add: Sequence[int]) -> BatchNorm:
    return BatchNorm(mul=np.array(mul), shift=np.array(shift), add=np.array(add))


# ---------------------------------------------------------------------------------------------- golden vectors

def golden_1(batch_norm: BatchNorm, activation: ActivationTable) -> K210Conv:
    return conv(pattern_weights(3, 2, 3), Shape(height=4, width=4, destination=32_764), norm=batch_norm, act=activation,
                pad_value=128, arg_x=-128, arg_w=-128, arg_add=9 * 128 * 128)


BIASES = (100, -2000, 700)
GOLDEN_1_PLAIN = golden_1(norm([2] * 3, [0] * 3, [2 * b + 1 for b in BIASES]),
                          table([(MIN, 0, 0, 0), (-128 << 10, 1, 10, 0), (127 << 10, 0, 0, 255)]))
GOLDEN_1_RECOMMENDED = golden_1(norm([8192] * 3, [12] * 3, [2 * b + 1 for b in BIASES]),
                                table([(MIN, 0, 0, 0), (-128 << 10, 1024, 20, 0), (127 << 10, 0, 0, 255)]))
GOLDEN_1_OUTPUT = bytes.fromhex("fffffffffffffffffffffffff6ffffdb" "deffffe4fffffffffdffffefcffbe6c0"
                                "b6ded8c2d5ffffe0cbfcedcbb2d1c4ae")


@pytest.mark.parametrize(("layer", "digest"), [
    (GOLDEN_1_PLAIN, "6d7251d6d1dd2e3ba808f246c9695029b76749d910df5f3cc4e20bc46b6c3872"),
    (GOLDEN_1_RECOMMENDED, "dd9bdd1cd6dbee769728a4a8c664eec4b76f9e49fa512087378b4b085d180288")],
    ids=["plain", "recommended"])
def test_golden_vector_1(layer: K210Conv, digest: str) -> None:
    data = write_kmodel(single(layer))
    assert (len(data), sha256(data)) == (656, digest)
    for variant in itertools.product(Compare, ArgShift, Rounding):
        options = KpuOptions(compare=variant[0], arg_shift=variant[1], rounding=variant[2])
        assert run_kmodel(data, pattern_image(2, 4, 4), options=options).outputs[0].tobytes() == GOLDEN_1_OUTPUT


def golden_2(pool: int) -> K210Conv:
    act = table([(MIN, 0, 0, 0), (-1000, 3, 4, 2), (-400, 1, 3, 114), (0, 1, 4, 164), (400, 1, 5, 189),
                 (2000, 0, 0, 239)])
    weights = (112 + pattern_weights(4, 3, 3) % 16).astype(np.uint8)
    return conv(weights, Shape(height=8, width=20, source=10, pool=pool), act=act,
                norm=norm([300, -501, 1234, 777], [9, 11, 11, 11], [-37, 20, 1, -7]), pad_value=77,
                arg_x=-3909032, shr_x=15, arg_w=-1265657, shr_w=14, arg_add=82935)


def test_golden_vector_2() -> None:
    data = write_kmodel(single(golden_2(5)))
    assert sha256(data) == "99345b8df2c2156d3225be65f90018466bc6e7738bfcc63de7706b3ddb3141e3"
    output = run_kmodel(data, pattern_image(3, 8, 20)).outputs[0]
    assert output[:10].tobytes().hex() == "b7a0aab2b9bfc3c7cbcf"
    assert sha256(output.tobytes()) == "f255316a6100fe4a1744c73ce446c579565a56bbb33a95d4abd78aa9eab93abd"


def test_golden_vector_2_without_pooling() -> None:
    data = write_kmodel(single(golden_2(0)))
    assert sha256(data) == "4fbe4f3aa0a9ca1d59991158a11645530068ae5735295415c171055abbc0a2d3"
    run = run_kmodel(data, pattern_image(3, 8, 20))
    assert sha256(run.outputs[0].tobytes()) == "f44dd0c628a3476a066659e912aa03fe6227eac9eff4142627465b2c9fa6110d"
    assert run.layers[0].shape == (4, 8, 20)


def test_variants_change_as_many_bytes_of_golden_vector_2_as_recorded() -> None:
    data, image = write_kmodel(single(golden_2(5))), pattern_image(3, 8, 20)
    chip = run_kmodel(data, image).outputs[0]
    carry = run_kmodel(data, image, options=KpuOptions(rounding=Rounding.CARRY)).outputs[0]
    total = run_kmodel(data, image, options=KpuOptions(arg_shift=ArgShift.TOTAL)).outputs[0]
    assert ((chip != carry).sum(), (chip != total).sum()) == (5, 21)


def test_golden_vector_3_depthwise() -> None:
    act = table([(MIN, 0, 0, 0), (0, 1, 9, 0), (127 << 9, 0, 0, 127)])
    layer = conv(pattern_weights(3, 1, 3), Shape(height=4, width=40, depthwise=True), act=act, pad_value=128,
                 norm=norm([2] * 3, [0] * 3, [11, -11, 15]), arg_x=-128, arg_w=-128, arg_add=9 * 128 * 128)
    data = write_kmodel(single(layer))
    assert sha256(data) == "436e821d61ceb2012f4a0c44e3c7953731043315cbb670f609258a41d0780cb9"
    output = run_kmodel(data, pattern_image(3, 4, 40)).outputs[0]
    assert output[:20].tolist() == [127] * 12 + [112, 96, 81, 65, 49, 33, 17, 2]
    assert sha256(output.tobytes()) == "74b6075ed979fcc443196c0dbeaa5af0fda809b3647792027304b337f0af2b23"


# ---------------------------------------------------------------------------------------------- unit vectors

def first_output(layer: K210Conv, image: np.ndarray, options: KpuOptions | None = None) -> int:
    return int(run_kmodel(single(layer), image, options=options).outputs[0][0])


def through_table(value: int, act: ActivationTable, options: KpuOptions | None = None) -> int:
    """What a byte becomes after an identity convolution and this table."""
    layer = conv(np.ones((1, 1, 1, 1), np.uint8), Shape(height=4, width=4), act=act, norm=norm([1], [0], [value]))
    return first_output(layer, np.zeros((1, 4, 4), np.uint8), options)


@pytest.mark.parametrize(("value", "expected"), [(8, 0), (9, 1), (24, 2), (25, 2), (40, 2), (56, 4)])
def test_table_divides_to_nearest_even(value: int, expected: int) -> None:
    assert through_table(value, table([(MIN, 0, 0, 0), (0, 1, 4, 0)])) == expected


@pytest.mark.parametrize(("rounding", "results"), [
    (Rounding.EVEN, {-24: -2, -9: -1, -8: 0, -7: 0, 8: 0, 9: 1, 24: 2, 40: 2}),
    (Rounding.CARRY, {-24: -3, -9: -1, -8: -2, -7: -2, 8: 1, 9: 1, 24: 2, 40: 3}),
    (Rounding.NNCASE, {-24: -2, -9: -1, -8: -2, -7: -2, 8: 0, 9: 1, 24: 2, 40: 2})])
def test_rounding_variants_of_a_slope(rounding: Rounding, results: dict[int, int]) -> None:
    def divided(value: int) -> int:
        # A value below 0 needs a negative slope: segment 0 cannot be reached from below its start.
        act = table([(MIN, 0, 0, 0), (0, 1 if value >= 0 else -1, 4, 100)])
        return through_table(abs(value), act, KpuOptions(rounding=rounding)) - 100

    assert {value: divided(value) for value in results} == {
        value: exact_division(value, 4, rounding) for value in results} == results


def exact_division(value: int, shift: int, rounding: Rounding) -> int:
    """The rules of spec section 5 in plain integers."""
    if rounding is Rounding.CARRY:
        half = value >> (shift - 1) if shift else 2 * value
        return (half >> 1) + ((1 if half >= 0 else -1) if half & 1 else 0)
    quotient, rest = value >> shift, value & ((1 << shift) - 1)
    step = 2 * rest > 1 << shift or (2 * rest == 1 << shift and quotient & 1)
    sign = -1 if rounding is Rounding.NNCASE and value < 0 else 1
    return quotient + (sign if step else 0)


@pytest.mark.parametrize(("compare", "expected"), [(Compare.LESS_EQUAL, 200), (Compare.LESS, 10)])
def test_start_of_a_segment_belongs_to_it_or_not(compare: Compare, expected: int) -> None:
    act = table([(MIN, 0, 0, 0), (0, 1, 0, 0), (10, 0, 0, 200)])
    assert through_table(10, act, KpuOptions(compare=compare)) == expected


@pytest.mark.parametrize("shift", [48, 63, 64, 255])
def test_large_shifts_of_the_table_give_zero(shift: int) -> None:
    act = table([(MIN, 0, 0, 0), (0, 32767, shift, 7)])
    assert through_table(2_000_000_000, act) == 7


def test_batch_norm_shift_is_a_floor() -> None:
    layer = conv(np.zeros((1, 1, 1, 1), np.uint8), Shape(height=4, width=4), norm=norm([1], [1], [10]), arg_add=-1)
    assert first_output(layer, np.zeros((1, 4, 4), np.uint8)) == 9


@pytest.mark.parametrize(("arg_shift", "expected"), [(ArgShift.CHANNEL, 84), (ArgShift.TOTAL, 85)])
def test_zero_point_shift_acts_on_each_input_channel(arg_shift: ArgShift, expected: int) -> None:
    layer = conv(np.zeros((1, 2, 1, 1), np.uint8), Shape(height=4, width=4), arg_x=-3, shr_x=1,
                 norm=norm([1], [0], [100]))
    assert first_output(layer, np.full((2, 4, 4), 5, np.uint8), KpuOptions(arg_shift=arg_shift)) == expected


def test_16_bit_weights() -> None:
    layer = conv(np.array([[[[1000]]]], np.uint16), Shape(height=4, width=4), arg_x=-997)
    assert first_output(layer, np.full((1, 4, 4), 5, np.uint8)) == 15


# ---------------------------------------------------------------------------------------------- against plain Python

def naive_layer(layer: K210Conv, image: np.ndarray, options: KpuOptions) -> list[list[list[int]]]:
    """Sections 5 and 6 element by element in Python integers."""
    f = layer.fields
    outputs = []
    for channel in range(f["o_ch_num"] + 1):
        rows = [[naive_element(layer, image, channel, y, x, options) for x in range(f["i_row_wid"] + 1)]
                for y in range(f["i_col_high"] + 1)]
        outputs.append(naive_pool(rows, f["pool_type"]))
    return outputs


def naive_sum(layer: K210Conv, image: np.ndarray, place: tuple[int, int, int], options: KpuOptions) -> int:
    f, (channel, row, column) = layer.fields, place
    kernel = layer.weights.shape[2]
    inputs = [channel] if f["depth_wise_layer"] else range(f["i_ch_num"] + 1)
    products, sum_x, sum_w = [], [], []
    for number, i in enumerate(inputs):
        window = []
        for dy, dx in itertools.product(range(kernel), repeat=2):
            y, x = row + dy - kernel // 2, column + dx - kernel // 2
            inside = 0 <= y < image.shape[1] and 0 <= x < image.shape[2]
            pixel = int(image[i, y, x]) if inside else f["pad_value"]
            window.append((int(layer.weights[channel, number, dy, dx]), pixel))
        products.append(sum(w * x for w, x in window))
        sum_x.append(sum(x for _, x in window))
        sum_w.append(sum(w for w, _ in window))
    if options.arg_shift is ArgShift.TOTAL:
        sum_x, sum_w = [sum(sum_x)], [sum(sum_w)]
    return (sum(products) + sum((f["arg_x"] * s) >> f["shr_x"] for s in sum_x)
            + sum((f["arg_w"] * s) >> f["shr_w"] for s in sum_w) + len(products) * f["arg_add"])


def naive_element(layer: K210Conv, image: np.ndarray, channel: int, row: int, column: int, options: KpuOptions) -> int:
    acc = naive_sum(layer, image, (channel, row, column), options)
    n, act = layer.batch_norm, layer.activation
    value = ((acc * int(n.mul[channel])) >> int(n.shift[channel])) + int(n.add[channel])
    reached = [i for i, start in enumerate(act.start.tolist())
               if start <= value and (options.compare is Compare.LESS_EQUAL or start < value)]
    i = reached[-1]
    quotient = exact_division((value - int(act.start[i])) * int(act.mul[i]), int(act.shift[i]), options.rounding)
    return min(255, max(0, quotient + int(act.bias[i])))


def naive_pool(rows: list[list[int]], code: int) -> list[list[int]]:
    stride = (1, 2, 2, 4, 4, 2, 2, 4, 1, 1)[code]
    window = (1, 2, 2, 4, 4, 1, 1, 1, 2, 2)[code]
    height, width = len(rows), len(rows[0])

    def element(y: int, x: int) -> int:
        cells = [rows[min(y + dy, height - 1)][min(x + dx, width - 1)]
                 for dy in range(window) for dx in range(window)]
        return sum(cells) // len(cells) if code in (2, 4, 8) else max(cells)

    return [[element(y * stride, x * stride + (code == 6)) for x in range(width // stride)]
            for y in range(height // stride)]


SIGNED_24 = st.integers(-(1 << 12), 1 << 12)


@st.composite
def random_layers(draw: st.DrawFn) -> tuple[K210Conv, np.ndarray, KpuOptions]:
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    kernel, depthwise = draw(st.sampled_from([1, 3])), draw(st.booleans())
    inputs, outputs = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    pool = 0 if depthwise else draw(st.integers(0, 9))
    least = 4 * (1, 2, 2, 4, 4, 2, 2, 4, 1, 1)[pool]
    height, width = draw(st.integers(least, least + 3)), draw(st.integers(least, least + 3))
    inputs = outputs if depthwise else inputs
    weights = rng.integers(0, 256, (outputs, 1 if depthwise else inputs, kernel, kernel), np.uint8)
    starts = [MIN, *sorted(rng.integers(-100_000, 100_000, 4).tolist())]
    slopes = [0, *rng.integers(-300, 300, 4).tolist()]
    shifts, biases = rng.integers(0, 20, 5).tolist(), rng.integers(0, 256, 5).tolist()
    act = table(list(zip(starts, slopes, shifts, biases, strict=True)))
    fields = {"arg_x": draw(SIGNED_24), "shr_x": draw(st.integers(0, 15)), "arg_w": draw(SIGNED_24),
              "shr_w": draw(st.integers(0, 15)), "arg_add": draw(SIGNED_24), "pad_value": draw(st.integers(0, 255))}
    layer = conv(weights, Shape(height=height, width=width, pool=pool, depthwise=depthwise), act=act, **fields,
                 norm=norm(rng.integers(-900, 900, outputs).tolist(), rng.integers(8, 16, outputs).tolist(),
                           rng.integers(-9999, 9999, outputs).tolist()))
    options = KpuOptions(compare=draw(st.sampled_from(Compare)), arg_shift=draw(st.sampled_from(ArgShift)),
                         rounding=draw(st.sampled_from(Rounding)))
    return layer, rng.integers(0, 256, (inputs, height, width), np.uint8), options


@given(random_layers())
def test_layer_equals_plain_python(case: tuple[K210Conv, np.ndarray, KpuOptions]) -> None:
    layer, image, options = case
    assert run_kmodel(single(layer), image, options=options).layers[0].tolist() == naive_layer(layer, image, options)


def test_many_channels_of_extreme_weights_stay_exact() -> None:
    weights = np.zeros((4, 1024, 3, 3), np.uint8)
    weights[1], weights[2, ::2], weights[3] = 255, 255, 1
    image = np.full((1024, 4, 4), 255, np.uint8)
    layer = conv(weights, Shape(height=4, width=4, destination=20_000), o_ch_num_coef=0, load_time=3,
                 para_size=1024 * 9, norm=norm([1] * 4, [0] * 4, [0, -9216 * 255 * 255 + 77, -4608 * 255 * 255 + 78,
                                                                 -9216 * 255 + 79]), pad_value=255)
    output = run_kmodel(single(layer), image).layers[0]
    assert output[:, 1, 1].tolist() == [0, 77, 78, 79]


# ---------------------------------------------------------------------------------------------- memory

@given(st.integers(1, 9), st.integers(4, 6), st.integers(4, 70))
def test_maps_lie_in_ram_as_the_layout_says(channels: int, height: int, width: int) -> None:
    kpu, place = Kpu(), MapPlace(line=3, channels=channels, height=height, width=width)
    values = np.random.default_rng(channels * width).integers(0, 256, (channels, height, width), np.uint8)
    kpu.store_map(place, values)
    for c, y, x in itertools.product(range(channels), range(height), range(0, width, 3)):
        offset = device.element_offset(c, y, x, height=height, width=width)
        assert kpu.ram[3 * device.LINE_BYTES + offset] == values[c, y, x]
    loaded, undefined = kpu.load_map(place)
    assert np.array_equal(loaded, values) and undefined is None


class Memory:
    """A bus with one layer's parameters; addresses as a runner would patch them."""

    def __init__(self, layer: K210Conv) -> None:
        self.blocks = {0x1000: layer.batch_norm.to_bytes(), 0x4000: layer.activation.to_bytes(),
                       0x8000: layer.weights.tobytes()}
        self.words = device.encode_layer_argument(
            layer.fields | {"bwsx_base_addr": 0x1000, "active_addr": 0x4000, "para_start_addr": 0x8000})

    def fetch(self, address: int, size: int) -> bytes:
        return self.blocks[address][:size]


def run_on(kpu: Kpu, layer: K210Conv) -> np.ndarray | None:
    """Execute a layer; the mask of outputs that depend on unwritten memory."""
    memory = Memory(layer)
    return kpu.run_layer(memory.words, memory.fetch).undefined


def test_unwritten_input_marks_the_outputs_in_reach() -> None:
    kpu, place = Kpu(), MapPlace(line=0, channels=1, height=5, width=6)
    holes = np.zeros((1, 5, 6), np.bool_)
    holes[0, 2, 3] = True
    kpu.store_map(place, np.zeros((1, 5, 6), np.uint8), holes)
    undefined = run_on(kpu, conv(np.ones((2, 1, 3, 3), np.uint8), Shape(height=5, width=6)))
    assert undefined is not None
    expected = np.zeros((2, 5, 6), np.bool_)
    expected[:, 1:4, 2:5] = True
    assert np.array_equal(undefined, expected)


def test_taps_without_effect_do_not_spread_unwritten_input() -> None:
    kpu, place = Kpu(), MapPlace(line=0, channels=1, height=4, width=6)
    holes = np.zeros((1, 4, 6), np.bool_)
    holes[0, 1:] = True
    kpu.store_map(place, np.zeros((1, 4, 6), np.uint8), holes)
    weights = np.full((1, 1, 3, 3), 128, np.uint8)
    weights[0, 0, 1] = 7
    undefined = run_on(kpu, conv(weights, Shape(height=4, width=6), arg_x=-128))
    assert undefined is not None
    assert not undefined[0, 0].any() and undefined[0, 1:].all()


def test_pooling_and_depthwise_spread_unwritten_input() -> None:
    image = np.zeros((2, 8, 8), np.uint8)
    holes = np.zeros(image.shape, np.bool_)
    holes[1, 7, 0] = True
    kpu = Kpu()
    kpu.store_map(MapPlace(line=0, channels=2, height=8, width=8), image, holes)
    pooled = run_on(kpu, conv(np.ones((1, 2, 1, 1), np.uint8), Shape(height=8, width=8, pool=2)))
    assert pooled is not None and np.argwhere(pooled).tolist() == [[0, 3, 0]]
    picked = run_on(kpu, conv(np.ones((1, 2, 1, 1), np.uint8), Shape(height=8, width=8, pool=5)))
    assert picked is not None and not picked.any()
    deep = run_on(kpu, conv(np.ones((2, 1, 1, 1), np.uint8), Shape(height=8, width=8, depthwise=True)))
    assert deep is not None and np.argwhere(deep).tolist() == [[1, 7, 0]]


def test_gaps_of_a_written_map_are_unknown_afterwards() -> None:
    kpu = Kpu()
    kpu.store_map(MapPlace(line=0, channels=4, height=4, width=16), np.zeros((4, 4, 16), np.uint8))
    kpu.store_map(MapPlace(line=0, channels=3, height=4, width=10), np.zeros((3, 4, 10), np.uint8))
    undefined = kpu.load_map(MapPlace(line=0, channels=4, height=4, width=16))[1]
    assert undefined is not None
    assert not undefined[:3, :, :10].any() and undefined[3].all() and undefined[:, :, 10:].all()


def test_shared_ram_is_used_in_place_without_tracking() -> None:
    ram = np.zeros(device.K210.memory.kpu_bytes, np.uint8)
    kpu = Kpu(ram=ram, track_undefined=False)
    assert run_on(kpu, conv(np.ones((1, 1, 1, 1), np.uint8), Shape(height=4, width=4), arg_add=9)) is None
    assert ram[32_000 * device.LINE_BYTES] == 9


# ---------------------------------------------------------------------------------------------- refusals

REFUSED = {
    "kernel_type": 2, "pool_type": 10, "ram_flag": 1, "full_add": 1, "pad_type": 1, "first_stride": 1, "bypass_conv": 1,
    "load_para": 0, "load_coor": 0, "load_act": 0, "dma_burst_size": 7, "coef_column_offset": 1, "coef_row_offset": 1,
    "coef_size": 1, "o_row_wid": 6, "o_col_high": 6, "row_switch_addr": 2, "channel_switch_addr": 7, "coef_group": 2,
    "wb_row_switch_addr": 2, "wb_channel_switch_addr": 7, "wb_group": 2, "load_time": 1, "para_size": 1,
    "channel_byte_num": 1, "dma_total_byte": 1, "o_ch_num_coef": 4, "image_dst_addr": 7, "image_src_addr": 32_761,
}


@pytest.mark.parametrize("field", REFUSED)
def test_one_wrong_field_is_refused_by_name(field: str) -> None:
    value, shape = REFUSED[field], Shape(height=8, width=8)
    weights = np.ones((2, 1, 3, 3), np.uint8)
    consistent = {"para_size": (value + 1) * 9} if field == "o_ch_num_coef" else {}
    words = device.encode_layer_argument(layer_fields(weights, shape) | {field: value} | consistent)
    with pytest.raises(HardwareFault, match=rf"layer 5: \w+\.{field}: "):
        Kpu().run_layer(words, Memory(conv(weights, shape)).fetch, layer="layer 5")


@pytest.mark.parametrize(("shape", "field"), [
    (Shape(height=3, width=4), "image_src_addr"), (Shape(height=4, width=3), "image_src_addr"),
    (Shape(height=257, width=4), "image_src_addr"), (Shape(height=4, width=513), "image_src_addr"),
    (Shape(height=6, width=8, pool=1), "image_dst_addr"),
    (Shape(height=8, width=8, destination=32_761), "image_dst_addr"),
    (Shape(height=8, width=8, pool=1, depthwise=True), "pool_type")])
def test_maps_beyond_the_known_limits_are_refused(shape: Shape, field: str) -> None:
    with pytest.raises(HardwareFault, match=field):
        run_on(Kpu(), conv(np.ones((1, 1, 3, 3), np.uint8), shape))


@pytest.mark.parametrize("shape", [Shape(height=4, width=4), Shape(height=256, width=4), Shape(height=4, width=512),
                                   Shape(height=8, width=8, pool=1), Shape(height=8, width=8, destination=8),
                                   Shape(height=8, width=8, source=32_760, destination=32_752)])
def test_maps_at_the_known_limits_run(shape: Shape) -> None:
    kpu = Kpu(track_undefined=False)
    assert run_on(kpu, conv(np.ones((1, 1, 3, 3), np.uint8), shape)) is None


@pytest.mark.parametrize(("arg_add", "legal"), [((1 << 35) - 1, True), (1 << 35, False), (-(1 << 35), True),
                                                (-(1 << 35) - 1, False)])
def test_sums_must_fit_36_bits(arg_add: int, legal: bool) -> None:
    layer = conv(np.zeros((3, 1, 1, 1), np.uint8), Shape(height=4, width=4), arg_add=arg_add,
                 norm=norm([0] * 3, [0] * 3, [5] * 3))
    if legal:
        assert first_output(layer, np.zeros((1, 4, 4), np.uint8)) == 5
        return
    with pytest.raises(HardwareFault, match=r"offset 0x2c: sum .* of output channel 0 at row 0, column 0"):
        first_output(layer, np.zeros((1, 4, 4), np.uint8))


def test_batch_norm_results_must_fit_36_bits() -> None:
    layer = conv(np.zeros((2, 1, 1, 1), np.uint8), Shape(height=4, width=4), arg_add=1 << 20,
                 norm=norm([1, 1 << 15], [0, 0], [0, 0]))
    with pytest.raises(HardwareFault, match="batch norm result 34359738368 of output channel 1"):
        first_output(layer, np.zeros((1, 4, 4), np.uint8))


@pytest.mark.parametrize("act", [table([(MIN + 1, 0, 0, 0)]), table([(MIN, 0, 0, 0), (5, 0, 0, 0), (4, 0, 0, 0)])])
def test_tables_that_do_not_ascend_from_the_least_number_are_refused(act: ActivationTable) -> None:
    with pytest.raises(HardwareFault, match="ascend"):
        through_table(0, act)


@pytest.mark.parametrize(("field", "address"), [("para_start_addr", 0x8004), ("bwsx_base_addr", 0x1004),
                                                ("active_addr", 0x4040)])
def test_misaligned_parameters_are_refused(field: str, address: int) -> None:
    layer = conv(np.ones((1, 1, 1, 1), np.uint8), Shape(height=4, width=4))
    words = device.encode_layer_argument(device.decode_layer_argument(Memory(layer).words) | {field: address})
    with pytest.raises(HardwareFault, match=field):
        Kpu().run_layer(words, Memory(layer).fetch)


def test_weight_load_larger_than_the_buffer_is_refused() -> None:
    weights = np.ones((9, 1024, 3, 3), np.uint8)
    shape = Shape(height=4, width=4)
    with pytest.raises(HardwareFault, match="82944 of 73728 bytes"):
        run_on(Kpu(), conv(weights, shape))
    split = conv(weights, shape, o_ch_num_coef=7, load_time=1, para_size=73728)
    assert run_on(Kpu(track_undefined=False), split) is None


def test_map_too_large_for_the_fifo_is_refused_only_when_it_leaves_through_it() -> None:
    layer = conv(np.ones((1, 1, 1, 1), np.uint8), Shape(height=240, width=320, destination=16_000))
    assert run_on(Kpu(track_undefined=False), layer) is None
    with pytest.raises(HardwareFault, match="send_data_out"):
        run_kmodel(single(layer), np.zeros((1, 240, 320), np.uint8))


def test_reserved_bits_are_refused() -> None:
    layer = conv(np.ones((1, 1, 1, 1), np.uint8), Shape(height=4, width=4))
    memory = Memory(layer)
    with pytest.raises(HardwareFault, match="IMAGE_ADDR"):
        Kpu().run_layer([*memory.words[:1], 1 << 15, *memory.words[2:]], memory.fetch)
    memory.blocks[0x1000] = b"\0" * 7 + b"\xf0"
    with pytest.raises(HardwareFault, match="BATCH_NORM"):
        Kpu().run_layer(memory.words, memory.fetch)


def test_identity_table_and_norm_pass_bytes_through() -> None:
    image: Any = np.arange(64, dtype=np.uint8).reshape(1, 8, 8) * 4
    layer = conv(np.ones((1, 1, 1, 1), np.uint8), Shape(height=8, width=8), act=IDENTITY, norm=plain_norm(1))
    assert np.array_equal(run_kmodel(single(layer), image).layers[0], image)
