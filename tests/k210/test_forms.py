"""Forms that the user may allow: layer types of our own, and results that are off by a stated bound."""

import dataclasses

import numpy as np
import pytest

from ai8x.errors import UserError
from ai8x.k210.codegen import needs_own_runner
from ai8x.k210.forms import EXACT_FORMS, Forms
from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.kmodel_info import describe
from ai8x.k210.lower import LoweredModel, lower_network
from ai8x.network.ir import Activation, Eltwise, Network, Pool, PoolSpec
from ai8x.network.reference import run_network
from ai8x.verify_k210 import compare_kmodel
from tests.k210.small_networks import Chain, average_pool, kinds

OWN, INEXACT = Forms(own_layers=True), Forms(inexact=True)


def chain_with_large_average(window: int = 14, *, rounded: bool = False) -> Chain:
    """An average of signed values over more cells than an activation table can divide by."""
    chain = Chain(3, 18, 17, seed=window)
    chain.conv(4, 1)
    chain.passthrough(pool=average_pool(window, 1), average_rounded=rounded)
    chain.conv(2, 1)
    return chain


def checked(chain: Chain, forms: Forms) -> LoweredModel:
    """Lower and compare every layer, on random and on extreme samples."""
    network = chain.network()
    lowered = lower_network(network, forms)
    shape = network.input_shape.as_tuple()
    for sample in (chain.sample(), np.full(shape, -128), np.full(shape, 127)):
        run = run_kmodel(lowered.data, lowered.image(sample))
        assert str(compare_kmodel(network, lowered, run, sample, run_network(network, sample))) == "equal"
    return lowered


def test_large_averages_of_signed_values_are_refused_with_the_option_that_helps() -> None:
    with pytest.raises(UserError, match="--k210-own-layers") as refused:
        lower_network(chain_with_large_average().network())
    assert refused.value.diagnostics[0].code == "E0360"


@pytest.mark.parametrize("rounded", [False, True])
def test_own_layers_average_exactly(rounded: bool) -> None:
    lowered = checked(chain_with_large_average(rounded=rounded), OWN)
    assert "Ai8xAveragePool2d" in kinds(lowered) and needs_own_runner(lowered.model) and not lowered.inexact
    assert any("layer type of our own" in proof for proof in lowered.proofs)


def test_own_layers_serve_strides_dilation_and_one_dimension() -> None:
    chain = Chain(2, 40, 33)
    chain.passthrough(pool=PoolSpec(kind=Pool.AVG, window=(14, 14), stride=(3, 2), dilation=(2, 2)))
    assert "Ai8xAveragePool2d" in kinds(checked(chain, OWN))
    chain = Chain(2, 300, 1)
    chain.passthrough(pool=PoolSpec(kind=Pool.AVG, window=(200, 1), stride=(7, 1)), average_rounded=True)
    assert "Ai8xAveragePool2d" in kinds(checked(chain, OWN))


@pytest.mark.parametrize("eltwise", [Eltwise.OR, Eltwise.XOR])
@pytest.mark.parametrize("behind", [False, True])
def test_own_layers_combine_bits(eltwise: Eltwise, behind: bool) -> None:
    chain = Chain(3, 5, 5)
    chain.conv(3, 3)
    chain.conv(3, 1)
    if behind:
        chain.conv(4, 3, inputs=(-1, 0, 1), eltwise=eltwise, pool=PoolSpec(kind=Pool.MAX, window=(2, 2), stride=(2, 2)))
    else:
        chain.passthrough(inputs=(0, 1, -1), eltwise=eltwise)
    with pytest.raises(UserError, match="E0350"):
        lower_network(chain.network())
    assert kinds(checked(chain, OWN)).count("Ai8xBitwise") == 2


def test_own_layers_are_used_only_where_nothing_else_is_exact() -> None:
    chain = Chain(3, 12, 12)
    chain.conv(4, 3, activation=Activation.RELU)
    chain.passthrough(pool=average_pool(2))
    chain.add(1, 1)
    network = chain.network()
    assert lower_network(network, OWN).data == lower_network(network, EXACT_FORMS).data
    assert lower_network(network, INEXACT).data == lower_network(network, EXACT_FORMS).data


def test_description_names_the_only_runner_of_own_layers() -> None:
    lowered = lower_network(chain_with_large_average().network(), OWN)
    assert "runner of this tool only" in describe(lowered.data).runs_on


# ---------------------------------------------------------------------------------------------- inexact

@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("window", [14, 15])
def test_inexact_averages_keep_their_bound(window: int, rounded: bool) -> None:
    lowered = checked(chain_with_large_average(window, rounded=rounded), INEXACT)
    assert "AveragePool2d" in kinds(lowered) and not needs_own_runner(lowered.model)
    (record,) = lowered.inexact
    assert record.bound == 1 and any("at most 1 from the exact average" in proof for proof in lowered.proofs)


def test_inexact_averages_are_really_off_somewhere() -> None:
    chain = chain_with_large_average()
    network = chain.network()
    lowered = lower_network(network, INEXACT)
    sample = chain.sample()
    run = run_kmodel(lowered.data, lowered.image(sample))
    exact = run_network(network, sample)[1]
    found = run.tensors[lowered.inexact[0].step].astype(int).reshape(exact.shape) - 128
    assert np.abs(found - exact).max() == 1


def off_by(lowered: LoweredModel, network: Network, sample: np.ndarray, distance: int) -> str:
    """The verdict on a run whose inexact tensor is further off."""
    run = run_kmodel(lowered.data, lowered.image(sample))
    tensors = {index: tensor.copy() for index, tensor in run.tensors.items()}
    tensors[lowered.inexact[0].step][0] += np.uint8(distance)
    changed = dataclasses.replace(run, tensors=tensors)
    return str(compare_kmodel(network, lowered, changed, sample, run_network(network, sample)))


def test_more_than_the_bound_and_an_error_behind_it_are_found() -> None:
    chain = chain_with_large_average()
    network, sample = chain.network(), chain.sample()
    lowered = lower_network(network, INEXACT)
    assert "1 was stated" in off_by(lowered, network, sample, 100)
    run = run_kmodel(lowered.data, lowered.image(sample))
    last = lowered.results[2].steps[0]
    layers = {index: layer.copy() for index, layer in run.layers.items()}
    layers[last][0, 0, 0] ^= 1
    changed = dataclasses.replace(run, layers=layers)
    assert "layer 2" in str(compare_kmodel(network, lowered, changed, sample, run_network(network, sample)))
