"""Every form of the lowering: exact in every layer, and made of the kmodel layers that it should be made of."""

import pytest

from ai8x.k210.kmodel_layers import K210Conv
from ai8x.k210.lower import lower_network
from ai8x.network.ir import Activation, Eltwise, Pool, PoolSpec, TensorShape

from .small_networks import ABS, RELU, Chain, average_pool, kinds, max_pool, subsample

CONV, UPLOAD, CONCAT = "K210Conv", "K210Upload", "QuantizedConcat"


def kpu_layers(lowered):
    return [layer for layer in lowered.model.layers if isinstance(layer, K210Conv)]


# ------------------------------------------------------------------------------------------------ convolutions

@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize(("kernel", "pad"), [(1, 0), (1, 1), (3, 0), (3, 1), (3, 2)])
def test_convolution_of_any_padding(kernel, pad, activation):
    chain = Chain(3, 8, 9)
    chain.conv(6, kernel, pad, activation=activation)
    chain.conv(5, 3, 1)
    chain.check()


def test_a_chain_of_unpadded_convolutions_stays_in_the_kpu():
    chain = Chain(3, 16, 16)
    for _ in range(4):
        chain.conv(8, 3, 0)
    assert kinds(chain.check()) == [CONV] * 4 + [CONCAT]


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_depthwise_convolution_is_one_depthwise_layer(kernel):
    chain = Chain(6, 8, 8)
    chain.conv(6, kernel, groups=6, activation=RELU)
    (layer,) = kpu_layers(chain.check())
    assert layer.fields["depth_wise_layer"] == 1


@pytest.mark.parametrize(("groups", "outputs"), [(2, 8), (6, 12), (3, 3)])
def test_other_groups_become_dense(groups, outputs):
    chain = Chain(6, 8, 8)
    chain.conv(outputs, 3, groups=groups)
    (layer,) = kpu_layers(chain.check())
    assert layer.fields["depth_wise_layer"] == 0


@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("size", [(16, 16), (15, 17)])
@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (1, 1), (3, 4)])
def test_strided_convolutions(kernel, groups, size, stride):
    chain = Chain(4, *size)
    chain.conv(4, kernel, stride=stride, groups=groups)
    chain.check()


def test_stride_2_of_an_even_map_is_picked_by_the_layer_itself():
    chain = Chain(4, 16, 16)
    chain.conv(8, 3, 1, stride=2)
    (layer,) = chain.check().model.layers
    assert layer.fields["pool_type"] == 5


@pytest.mark.parametrize("dilation", [2, 3])
def test_dilated_convolutions(dilation):
    chain = Chain(3, 10, 11)
    chain.conv(4, 3, dilation, dilation=dilation)
    chain.check()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_narrow_weights(bits):
    chain = Chain(4, 8, 8)
    chain.conv(8, 3, 1, weight_bits=bits, output_shift=3)
    chain.check()


@pytest.mark.parametrize("shift", [-15, -8, 7, 8, 15, 22])
def test_extreme_shifts(shift):
    chain = Chain(4, 8, 8)
    chain.conv(8, 3, 1, output_shift=shift)
    chain.conv(8, 3, 1, output_shift=shift, activation=ABS)
    chain.check()


def test_output_channels_are_split_where_the_weights_need_too_many_loads():
    chain = Chain(512, 4, 4)
    chain.conv(400, 3, 1)
    chain.conv(8, 1)
    layers = kpu_layers(chain.check())
    assert [layer.fields["o_ch_num"] + 1 for layer in layers] == [384, 16, 8]


def test_more_outputs_than_a_layer_has_channels_are_split():
    chain = Chain(8, 4, 4)
    chain.conv(1100, 1)
    lowered = chain.check()
    assert [layer.fields["o_ch_num"] + 1 for layer in kpu_layers(lowered)] == [1024, 76]


def test_absolute_values_of_many_channels_are_computed_in_parts():
    chain = Chain(4, 4, 4)
    chain.conv(600, 1, activation=ABS)
    chain.conv(4, 1)
    chain.check()


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize("size", [(5, 6), (2, 3)])
def test_transposed_convolutions(size, pad, activation):
    if min(size) * 2 + 2 - 2 * pad < 1:
        return
    chain = Chain(3, *size)
    chain.transposed(4, pad, activation=activation)
    chain.check()


# ------------------------------------------------------------------------------------------------ pooling

POOLS = [max_pool(2), max_pool(4), max_pool(3), max_pool(3, 2), max_pool(4, 2), max_pool(2, 1), max_pool(5, 3),
         average_pool(2), average_pool(4), average_pool(3), average_pool(3, 2), average_pool(2, 1), average_pool(5, 2),
         average_pool(6), subsample(2), subsample(3), subsample(4),
         PoolSpec(kind=Pool.MAX, window=(3, 2), stride=(2, 2)), PoolSpec(kind=Pool.AVG, window=(1, 3), stride=(1, 2)),
         PoolSpec(kind=Pool.MAX, window=(2, 2), stride=(2, 2), dilation=(2, 3)),
         PoolSpec(kind=Pool.AVG, window=(2, 3), stride=(1, 2), dilation=(2, 1))]


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("activation", [Activation.NONE, RELU, ABS])
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_pooling_of_any_window_and_stride(pool, activation, rounded):
    chain = Chain(3, 15, 18)
    chain.conv(5, 3, 1, activation=activation, average_rounded=rounded)
    chain.conv(4, 3, 1, pool=pool, average_rounded=rounded)
    chain.check()


@pytest.mark.parametrize(("pool", "code"), [(max_pool(2), 1), (max_pool(4), 3), (max_pool(2, 1), 9), (subsample(2), 5),
                                            (subsample(4), 7), (average_pool(2), 2), (average_pool(4), 4)])
def test_pooling_that_the_kpu_has_is_fused_into_the_producer(pool, code):
    chain = Chain(3, 16, 16)
    chain.conv(4, 3, 1, activation=RELU)
    chain.conv(4, 1, pool=pool)
    lowered = chain.check()
    assert [layer.fields["pool_type"] for layer in kpu_layers(lowered)] == [code, 0]
    assert lowered.results[0].pool == pool


def test_consumers_that_pool_differently_get_the_plain_tensor():
    chain = Chain(3, 16, 16)
    chain.conv(4, 3, 1)
    chain.conv(4, 3, 1, pool=max_pool(2))
    chain.conv(4, 3, 1, inputs=(0,))
    lowered = chain.check(1, 2)
    assert lowered.results[0].pool is None


def test_pooling_of_the_input_is_carried_by_a_copy():
    chain = Chain(3, 16, 16)
    chain.conv(4, 3, 1, pool=max_pool(2))
    assert [layer.fields["pool_type"] for layer in kpu_layers(chain.check())] == [1, 0]


def test_the_average_of_a_whole_positive_map_runs_in_float():
    chain = Chain(3, 8, 8)
    chain.conv(5, 3, 1, activation=RELU)
    chain.passthrough(pool=average_pool(8))
    assert "GlobalAveragePool2d" in kinds(chain.check())


# ------------------------------------------------------------------------------------------------ operands

@pytest.mark.parametrize("eltwise", [Eltwise.ADD, Eltwise.SUB])
@pytest.mark.parametrize("channels", [3, 4, 6])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_element_wise_combination_of_several_operands(count, channels, eltwise):
    chain = Chain(3, 8, 8)
    for index in range(count):
        chain.conv(channels, 3, 1, inputs=(-1,), activation=RELU if index else Activation.NONE)
    chain.passthrough(inputs=tuple(range(count)), eltwise=eltwise)
    chain.conv(4, 3, 1)
    assert set(kinds(chain.check())) == {CONV}


@pytest.mark.parametrize("pool_first", [False, True])
@pytest.mark.parametrize("pool", [max_pool(2), average_pool(2), max_pool(3, 2)], ids=str)
def test_pooling_before_or_after_the_combination(pool, pool_first):
    chain = Chain(3, 9, 9)
    chain.conv(4, 3, 1)
    chain.conv(4, 3, 1, activation=RELU)
    chain.conv(5, 1, inputs=(0, 1), eltwise=Eltwise.SUB, pool=pool, pool_first=pool_first)
    chain.check()


def test_a_tensor_can_be_combined_with_itself():
    chain = Chain(3, 8, 8)
    chain.conv(4, 3, 1)
    chain.passthrough(inputs=(0, 0, 0), eltwise=Eltwise.SUB)
    chain.check()


@pytest.mark.parametrize("channels", [(4, 8), (3, 5), (1, 1)])
def test_concatenation_reads_adjacent_maps(channels):
    chain = Chain(3, 8, 8)
    for count in channels:
        chain.conv(count, 3, 1, inputs=(-1,))
    chain.conv(4, 3, 1, inputs=(0, 1))
    assert kinds(chain.check()) == [CONV] * 3


def test_maps_in_several_concatenations_are_copied():
    chain = Chain(3, 8, 8)
    for _ in range(3):
        chain.conv(4, 3, 1, inputs=(-1,))
    chain.conv(4, 3, 1, inputs=(0, 1))
    chain.conv(4, 3, 1, inputs=(1, 2))
    chain.conv(4, 3, 1, inputs=(2, 0, 2, -1))
    chain.check(3, 4, 5)


def test_concatenation_of_maps_that_lie_differently_goes_through_main_memory():
    chain = Chain(3, 10, 10)
    chain.conv(4, 3, 0)
    chain.conv(4, 1, pool=subsample(1))
    chain.conv(4, 3, 0, inputs=(-1,), dilation=1)
    chain.conv(4, 3, 1, inputs=(-1,))
    chain.conv(4, 3, 0, inputs=(3,), pool=PoolSpec(kind=Pool.MAX, window=(3, 3)))
    chain.check(1, 2, 4)


@pytest.mark.parametrize("crop", [(1, 0), (0, 2), (2, 1)])
def test_cropped_rows(crop):
    chain = Chain(3, 9, 8)
    chain.conv(4, 3, 1)
    chain.conv(4, 3, 1, in_crop=crop, operand=TensorShape(4, 9 - sum(crop), 8))
    chain.check()


def test_data_read_in_another_shape():
    chain = Chain(3, 8, 8)
    chain.conv(4, 3, 1)
    chain.conv1d(5, 3, 1, operand=TensorShape(4, 64, 1))
    chain.conv(3, 3, 1, operand=TensorShape(5, 16, 4))
    chain.check()


def test_a_bypass_layer_costs_nothing():
    chain = Chain(3, 8, 8)
    chain.conv(4, 3, 1)
    chain.passthrough()
    chain.conv(4, 3, 1)
    assert kinds(chain.check()) == [CONV, CONV]


# ------------------------------------------------------------------------------------------------ small maps, 1-D

@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (1, 5), (3, 7)])
@pytest.mark.parametrize("activation", list(Activation))
def test_maps_smaller_than_the_kpu_has(size, activation):
    chain = Chain(3, *size)
    chain.conv(4, 3, 1, activation=activation)
    chain.conv(4, 1, 0, activation=activation)
    chain.conv(5, 3, 1)
    chain.check()


@pytest.mark.parametrize("dilation", [1, 2, 5])
@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 6, 7, 8, 9, 12])
def test_one_dimensional_convolutions(kernel, dilation):
    chain = Chain(3, 70, 1)
    chain.conv1d(5, kernel, pad=2, dilation=dilation, activation=ABS)
    chain.conv1d(4, 3, pad=1)
    chain.check()


@pytest.mark.parametrize("kind", [Pool.MAX, Pool.AVG])
@pytest.mark.parametrize(("window", "stride"), [(2, 2), (3, 3), (4, 4), (5, 2)])
def test_one_dimensional_pooling(window, stride, kind):
    pool = PoolSpec(kind=kind, window=(window, 1), stride=(stride, 1))
    chain = Chain(3, 37, 1)
    chain.conv1d(5, 3, pad=1)
    chain.conv1d(4, 3, pad=1, pool=pool)
    chain.check()


@pytest.mark.parametrize("length", [16, 23, 600, 997])
def test_sequences_of_any_length(length):
    chain = Chain(2, length, 1)
    chain.conv1d(4, 1)
    chain.conv1d(4, 5, pad=2, stride=2)
    chain.check()


# ------------------------------------------------------------------------------------------------ Linear

def test_a_linear_layer_runs_on_the_kpu():
    chain = Chain(4, 6, 6)
    chain.linear(20, activation=RELU)
    chain.linear(7, activation=ABS)
    assert kinds(chain.check()) == [CONV, "K210AddPadding", CONV, CONV, CONV, "K210RemovePadding"]


@pytest.mark.parametrize("activation", list(Activation))
def test_more_features_than_channels_go_through_a_3x3_kernel(activation):
    chain = Chain(16, 9, 9)
    chain.linear(10, activation=activation, output_shift=-6)
    lowered = chain.check()
    assert "FullyConnected" not in kinds(lowered)


@pytest.mark.parametrize("activation", list(Activation))
def test_more_features_than_a_kpu_layer_reads_run_in_float(activation):
    chain = Chain(100, 10, 10)
    chain.linear(3, activation=activation, output_shift=-6, weight_bits=4)
    assert "FullyConnected" in kinds(chain.check())


def test_wide_outputs_are_the_accumulators():
    chain = Chain(4, 5, 5)
    chain.conv(4, 3, 1)
    chain.linear(10, output_bits=32)
    assert kinds(chain.check())[-2:] == ["Dequantize", "FullyConnected"]


def test_a_linear_layer_on_every_pixel():
    chain = Chain(4, 5, 5)
    chain.linear(6, flatten=False)
    assert kinds(chain.check()) == [CONV]


def test_a_flattened_combination_is_read_in_channel_order():
    chain = Chain(3, 6, 6)
    chain.conv(4, 3, 1)
    chain.conv(4, 3, 0, inputs=(-1,), pool=PoolSpec())
    chain.conv(4, 3, 2)
    chain.linear(5, inputs=(0, 2))
    chain.check()


# ------------------------------------------------------------------------------------------------ outputs

def test_several_outputs_and_layers_that_nobody_reads():
    chain = Chain(3, 8, 8)
    chain.conv(4, 3, 0)
    chain.conv(4, 3, 1, pool=max_pool(2))
    chain.conv(5, 1, inputs=(0,))
    lowered = chain.check(0, 1)
    assert [place.size for place in lowered.model.outputs] == [4 * 36, 4 * 9]


def test_the_image_of_data_that_no_map_holds_is_folded_and_filled_up():
    chain = Chain(3, 7, 1)
    chain.conv1d(2, 3, 1)
    lowered = lower_network(chain.network())
    image = lowered.image(chain.sample())
    assert image.shape == (1, 4, 8)
    assert (image.reshape(-1)[21:] == 128).all()
