"""The hardware form of a layer computes what the layer computes; its symbols are those of the specification."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import HardwareOp, hardware_layers
from ai8x.max7800x.placement import Placement
from ai8x.network.ir import Activation, ConvSpec, Eltwise, Layer, Network, Op, Pool, PoolSpec, TensorShape
from ai8x.network.reference import run_network

from .lowering_examples import MAX_2X2, conv, linear, mnist, network_of, passthrough, place, plan_of


def hardware(layer: Layer, **changes):
    """One layer in hardware form."""
    placement = Placement(layers=(place(1, 1, **changes),))
    return hardware_layers(network_of(layer), placement, MAX78000)[0]


def conv1d(channels: int, length: int, outputs: int, kernel: int, *, pad: int = 0, dilation: int = 1) -> Layer:
    rng = np.random.default_rng(length)
    return Layer(
        name="conv",
        index=0,
        op=Op.CONV1D,
        inputs=(-1,),
        operand_shape=TensorShape(channels, length, 1),
        out_shape=TensorShape(outputs, length + 2 * pad - dilation * (kernel - 1), 1),
        conv=ConvSpec(kernel=(kernel, 1), padding=(pad, 0), dilation=(dilation, 1)),
        weights=rng.integers(-128, 128, (outputs, channels, kernel, 1)),
        output_bits=32,
    )


def outcome(layer: Layer, sample: np.ndarray) -> np.ndarray:
    """The layer's output for one sample."""
    return run_network(Network(name="one", input_shape=layer.operand_shape, layers=(layer,)), sample)[0]


def as_layer(form, **changes) -> Layer:
    """The hardware form as a layer that the reference can run."""
    ops = {HardwareOp.CONV1D: Op.CONV1D, HardwareOp.CONV2D: Op.CONV2D}
    fields = {
        "op": ops[form.op],
        "operand_shape": TensorShape(form.in_channels, form.in_rows, form.in_columns),
        "out_shape": TensorShape(form.out_channels, form.out_rows, form.out_columns),
        "weights": form.weights,
        "conv": ConvSpec(kernel=(form.kernel_rows, form.kernel_columns), padding=(form.pad_rows, form.pad_columns)),
    }
    return replace(form.layer, **{**fields, **changes})


@given(kernel=st.integers(2, 5), dilation=st.integers(2, 8), extra=st.integers(0, 5), pad=st.integers(0, 1))
def test_spread_taps_compute_the_dilated_convolution(kernel: int, dilation: int, extra: int, pad: int) -> None:
    if (kernel - 1) * dilation >= 9:
        return
    layer = conv1d(3, (kernel - 1) * dilation + 1 + extra, 2, kernel, pad=pad, dilation=dilation)
    form = hardware(layer)
    assert (form.op, form.kernel_rows, form.surplus_pixels) == (HardwareOp.CONV1D, (kernel - 1) * dilation + 1, 0)
    sample = np.random.default_rng(kernel).integers(-128, 128, layer.operand_shape.as_tuple())
    assert np.array_equal(outcome(as_layer(form), sample), outcome(layer, sample))


@given(kernel=st.integers(2, 3), dilation=st.integers(5, 20), extra=st.integers(0, 30))
def test_rows_of_samples_compute_the_dilated_convolution(kernel: int, dilation: int, extra: int) -> None:
    if (kernel - 1) * dilation < 9:
        dilation += 9
    layer = conv1d(2, (kernel - 1) * dilation + 1 + extra, 3, kernel, dilation=dilation)
    form = hardware(layer)
    length, true_length = layer.operand_shape.height, layer.out_shape.height
    rows = -(-length // dilation)
    assert (form.in_rows, form.in_columns, form.out_rows) == (rows, dilation, rows)
    assert form.lead_pixels == (dilation if kernel == 3 else 0)
    assert form.surplus_pixels == rows * dilation - true_length
    rng = np.random.default_rng(extra)
    sample = rng.integers(-128, 128, (2, length, 1))
    surplus = rng.integers(-128, 128, (2, rows * dilation - length, 1))
    padded = np.concatenate([sample, surplus], axis=1).reshape(2, rows, dilation)
    written = outcome(as_layer(form), padded).reshape(3, -1)
    true = written[:, form.lead_pixels : form.lead_pixels + true_length]
    assert np.array_equal(true, outcome(layer, sample)[..., 0])


@given(groups=st.sampled_from((1, 2, 3, 6)), factor=st.integers(1, 2))
def test_dense_weights_compute_the_grouped_convolution(groups: int, factor: int) -> None:
    rng = np.random.default_rng(groups)
    layer = conv(
        0,
        (6, 4, 4),
        6 * factor,
        weights=rng.integers(-128, 128, (6 * factor, 6 // groups, 3, 3)),
        conv=ConvSpec(kernel=(3, 3), padding=(1, 1), groups=groups),
        output_bits=32,
        activation=Activation.NONE,
    )
    sample = rng.integers(-128, 128, (6, 4, 4))
    assert np.array_equal(outcome(as_layer(hardware(layer)), sample), outcome(layer, sample))


@pytest.mark.parametrize("own", [True, False], ids=["in a streaming layer", "after one"])
def test_1x1_becomes_a_padded_3x3_in_streams(own: bool) -> None:
    point = {"kernel": 1, "pad": 0, "output_bits": 32, "activation": Activation.NONE}
    network = network_of(conv(0, (3, 4, 4), 4), conv(1, (4, 4, 4), 5, **point), conv(2, (5, 4, 4), 4, kernel=1, pad=0))
    places = (place(7, 0xF, streaming=True), place(0xF, 0x1F, streaming=own), place(0x1F, 0xF))
    forms = hardware_layers(network, Placement(layers=places, fifo=True), MAX78000)
    assert [form.taps for form in forms] == [9, 9, 9 if own else 1]
    assert forms[1].pad_rows == forms[1].pad_columns == 1
    sample = np.random.default_rng(3).integers(-128, 128, (4, 4, 4))
    alone = replace(network.layers[1], index=0, inputs=(-1,))
    assert np.array_equal(outcome(as_layer(forms[1], index=0, inputs=(-1,)), sample), outcome(alone, sample))


@pytest.mark.parametrize("pad", [0, 1, 2])
def test_transposed_convolution_pads_by_what_is_missing_to_two(pad: int) -> None:
    size = 2 * 5 - 2 * pad + 2
    layer = conv(
        0,
        (4, 5, 5),
        6,
        op=Op.CONV_TRANSPOSE2D,
        out_shape=TensorShape(6, size, size),
        conv=ConvSpec(kernel=(3, 3), padding=(pad, pad), stride=(2, 2), output_padding=1),
    )
    form = hardware(layer)
    assert (form.pad_rows, form.pad_columns, form.out_rows, form.out_columns) == (2 - pad, 2 - pad, size, size)
    assert form.tram_rows == max(0, 2 * 4 + 2 + 2 * (2 - pad) - 3) + 1


def test_symbols_of_the_worked_example() -> None:
    forms = plan_of(*mnist()).layers
    assert [form.tram_rows for form in forms] == [28, 16, 8, 4, 4]
    assert (forms[1].slots_per_pass, forms[1].pooled_rows, forms[1].out_rows, forms[1].num_slots) == (60, 14, 16, 60)
    assert (forms[4].flatten_pixels, forms[4].mask_passes, forms[4].is_long_flatten) == (16, 16, False)


def test_multi_pass_counts() -> None:
    form = hardware_layers(
        network_of(conv(0, (100, 4, 4), 130, output_bits=32, activation=Activation.NONE)),
        Placement(layers=(place((1 << 52) - 1, (1 << 44) - 1, write_gap=1),)),
        MAX78000,
    )[0]
    assert (form.passes, form.channels_per_pass, form.out_passes, form.out_channels_per_pass) == (2, 52, 3, 44)
    assert (form.slots_per_pass, form.num_slots, form.out_stride_words) == (44, 132, 3 * 4 * 2)


@pytest.mark.parametrize(("pixels", "is_long"), [(16, False), (17, True)])
def test_flatten_counts_in_two_parts_beyond_16_passes(pixels: int, is_long: bool) -> None:
    assert hardware(linear(0, (4, pixels, 1), 10)).is_long_flatten is is_long


@pytest.mark.parametrize(
    ("channels", "operands", "emulated"), [(64, 3, False), (65, 2, False), (128, 3, True), (129, 2, True)]
)
def test_element_wise_operation_of_many_passes_is_emulated(channels: int, operands: int, emulated: bool) -> None:
    network = network_of(passthrough(0, (channels, 4, 4), inputs=(-1,) * operands, eltwise=Eltwise.ADD))
    form = hardware_layers(network, Placement(layers=(place(1, 1),)), MAX78000)[0]
    assert form.is_emulated_eltwise is emulated


def test_order_of_pooling_and_combination() -> None:
    def form(**changes):
        fields = {"pool": MAX_2X2, "out_shape": TensorShape(4, 2, 2), "inputs": (-1, -1), "eltwise": Eltwise.ADD}
        return hardware(passthrough(0, (4, 4, 4), **{**fields, **changes}))

    assert (form().pools_first, form().combines_first) == (True, False)
    late = form(pool_first=False)
    assert (late.pools_first, late.combines_first) == (False, True)
    single = form(inputs=(-1,), eltwise=None)
    assert (single.pools_first, single.combines_first) == (False, False)
    subsampled = form(pool=PoolSpec(stride=(2, 2)))
    assert (subsampled.is_pooled, subsampled.pools_first) == (False, False)
    assert form(pool=PoolSpec(kind=Pool.AVG, window=(2, 2), stride=(2, 2))).pools_average


def test_transfer_cycles_follow_the_fullest_quadrant() -> None:
    network = network_of(passthrough(0, (9, 4, 4)))
    form = hardware_layers(network, Placement(layers=(place(0x7_00FC, 0x7_003F),)), MAX78000)[0]
    assert form.transfer_cycles_per_pixel == 2


def test_arrays_are_read_only() -> None:
    form = hardware(conv1d(2, 20, 3, 3, dilation=2))
    with pytest.raises(ValueError, match="read-only"):
        form.weights[0] = 1
