"""Every rule of the K210: the largest allowed passes, the next is refused with its code."""

import dataclasses

import numpy as np
import pytest

from ai8x.errors import UserError
from ai8x.k210.constraints import RULES, check_network, iter_rules, worst_float_sum
from ai8x.k210.lower import lower_network
from ai8x.network.ir import BUFFER_INPUT, Eltwise, Network, RollingBuffer, TensorShape

from .small_networks import Chain, max_pool


def codes(network: Network) -> list[str]:
    return [finding.code for finding in check_network(network).errors]


def two_convs(channels: int = 4) -> Chain:
    chain = Chain(2, 4, 4)
    chain.conv(channels, 1, inputs=(-1,))
    chain.conv(channels, 1, inputs=(-1,))
    return chain


@pytest.mark.parametrize("eltwise", list(Eltwise))
def test_bitwise_operators_are_refused(eltwise):
    chain = two_convs()
    chain.passthrough(inputs=(0, 1), eltwise=eltwise)
    assert codes(chain.network()) == (["E0350"] if eltwise in (Eltwise.OR, Eltwise.XOR) else [])


def test_wide_outputs_of_convolutions_are_refused():
    chain = Chain(2, 4, 4)
    chain.conv(4, 3, output_bits=32)
    chain.linear(3, flatten=False, output_bits=32, inputs=(-1,))
    chain.linear(3, output_bits=32, inputs=(-1,))
    assert codes(chain.network(0, 1, 2)) == ["E0355", "E0355"]


@pytest.mark.parametrize(("channels", "found"), [(341, []), (342, ["E0354"])])
def test_more_than_two_operands_of_an_addition_fit_a_layer_together(channels, found):
    chain = two_convs(channels)
    chain.add(0, 1, chain.conv(channels, 1, inputs=(-1,)))
    assert codes(chain.network()) == found


def test_two_operands_need_not_fit_a_layer_together():
    chain = two_convs(1024)
    chain.add(0, 1)
    assert codes(chain.network()) == []


@pytest.mark.parametrize(("channels", "found"), [(1024, []), (1025, ["E0354"])])
def test_a_convolution_reads_at_most_1024_channels(channels, found):
    chain = Chain(channels, 4, 4)
    chain.conv(2, 1)
    assert codes(chain.network()) == found


@pytest.mark.parametrize(("size", "found"), [((256, 40), []), ((257, 40), ["E0363"]), ((40, 512), []),
                                             ((40, 513), ["E0363"])])
def test_maps_under_a_kernel_have_256_rows_and_512_columns(size, found):
    chain = Chain(1, *size)
    chain.conv(1, 3)
    assert codes(chain.network()) == found


def linear_of(features: int, weight: int, bias: int = 0):
    chain = Chain(features, 1, 1)
    chain.linear(1, output_bits=32)
    layer = chain.layers[0]
    weights = np.full(layer.weights.shape, weight)
    chain.layers[0] = dataclasses.replace(layer, weights=weights, bias=np.array([bias]))
    return chain.network()


def test_float_sums_stay_below_the_last_exact_integer():
    assert worst_float_sum(linear_of(1023, -128, 127).layers[0]) == 1023 * 128 * 128 + 127 * 128 < 1 << 24
    assert codes(linear_of(1023, -128, 127)) == []
    assert codes(linear_of(1024, -128)) == ["E0358"]
    assert codes(linear_of(1024, -127)) == []


def test_a_rolling_buffer_is_refused():
    chain = Chain(2, 4, 4)
    chain.conv(2, 3)
    layer = dataclasses.replace(chain.layers[0], inputs=(BUFFER_INPUT,))
    network = dataclasses.replace(chain.network(), layers=(layer,),
                                  buffer=RollingBuffer(name="window", shape=TensorShape(2, 4, 4)))
    assert codes(network) == ["E0362"]


def test_all_findings_are_raised_together_and_name_rule_and_repair():
    chain = two_convs()
    chain.passthrough(inputs=(0, 1), eltwise=Eltwise.OR)
    chain.passthrough(inputs=(0, 1), eltwise=Eltwise.XOR)
    with pytest.raises(UserError) as refused:
        lower_network(chain.network(2, 3))
    assert [(d.layer_index, d.code) for d in refused.value.diagnostics] == [(2, "E0350"), (3, "E0350")]
    assert all(d.allowed and d.help and d.found for d in refused.value.diagnostics)


def test_a_form_that_exceeds_the_kpu_names_the_layer():
    chain = Chain(200, 12, 12)
    chain.conv(4, 3, 3, dilation=3)
    with pytest.raises(UserError) as refused:
        lower_network(chain.network())
    (finding,) = refused.value.diagnostics
    assert (finding.code, finding.layer) == ("E0360", "layer0")
    assert "1800 channels" in finding.message


def test_every_rule_has_words():
    assert [name for name, _ in iter_rules()] == [rule.__name__ for rule in RULES]
    assert all(text for _, text in iter_rules())


def test_legal_networks_have_no_findings():
    chain = Chain(2, 8, 8)
    chain.conv(4, 3, 2)
    chain.conv(4, 3, 0, pool=max_pool(3, 2))
    chain.linear(3)
    assert codes(chain.network()) == []
