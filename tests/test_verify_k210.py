"""Comparing a kmodel's run with the reference: equal, and every kind of damage is found and named."""

import dataclasses

import numpy as np
import pytest

from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.kmodel import write_kmodel
from ai8x.k210.kmodel_layers import FullyConnected, K210Conv
from ai8x.network.reference import run_network
from ai8x.verify_k210 import compare_kmodel, verify_kmodel, visible_tensor
from tests.k210.small_networks import RELU, Chain, average_pool, max_pool


def subject():
    """Framed, pooled, combined, small and wide tensors."""
    chain = Chain(3, 12, 12, seed=3)
    chain.conv(4, 3, 0, activation=RELU)
    chain.conv(4, 3, 1, pool=max_pool(2))
    chain.conv(4, 3, 1)
    chain.add(1, 2)
    chain.conv(4, 3, 1, pool=average_pool(3, 2))
    chain.linear(5, output_bits=32)
    return chain


def damaged(lowered, index: int):
    """The model with one weight of a layer changed."""
    layers = list(lowered.model.layers)
    weights = layers[index].weights.copy()
    if isinstance(layers[index], FullyConnected):
        weights += 1
    else:
        weights = 255 - weights
    layers[index] = dataclasses.replace(layers[index], weights=weights)
    model = dataclasses.replace(lowered.model, layers=tuple(layers))
    return dataclasses.replace(lowered, model=model, data=write_kmodel(model))


def weighted(lowered) -> list[int]:
    return [i for i, layer in enumerate(lowered.model.layers) if isinstance(layer, K210Conv | FullyConnected)]


def test_every_layer_is_compared_and_every_damaged_step_is_found():
    chain = subject()
    lowered, network, sample = chain.check(), chain.network(), chain.sample()
    trace = run_network(network, sample)
    for index in weighted(lowered):
        difference = verify_kmodel(network, damaged(lowered, index), sample, trace).difference
        serves = lowered.steps[index].layer
        named = int(difference.split("layer ")[1].split(" ")[0])
        assert named <= serves and difference, (index, difference)


def test_a_difference_seen_through_pooling_says_so():
    chain = Chain(3, 8, 8)
    chain.conv(4, 3, 1)
    chain.conv(4, 3, 1, pool=max_pool(2))
    lowered, network, sample = chain.check(), chain.network(), chain.sample()
    verdict = verify_kmodel(network, damaged(lowered, 0), sample, run_network(network, sample))
    assert "layer 0 'layer0'" in verdict.difference
    assert "seen through the pooling" in verdict.difference


def test_a_hardware_fault_is_a_difference():
    chain = subject()
    lowered, sample = chain.check(), chain.sample()
    layers = list(lowered.model.layers)
    words = list(layers[0].words)
    words[4] |= 0xF << 4  # an undefined pool type
    layers[0] = dataclasses.replace(layers[0], words=tuple(words))
    model = dataclasses.replace(lowered.model, layers=tuple(layers))
    broken = dataclasses.replace(lowered, data=write_kmodel(model))
    verdict = verify_kmodel(chain.network(), broken, sample, run_network(chain.network(), sample))
    assert verdict.is_different


def test_wide_results_are_whole_numbers():
    chain = subject()
    lowered, sample = chain.check(), chain.sample()
    run = run_kmodel(lowered.data, lowered.image(sample))
    found = visible_tensor(lowered, run, lowered.results[-1], sample)
    assert np.array_equal(found, run_network(chain.network(), sample)[5].reshape(-1))


@pytest.mark.parametrize("layer", range(6))
def test_every_layer_of_the_trace_is_held_against_the_run(layer):
    chain = subject()
    lowered, network, sample = chain.check(), chain.network(), chain.sample()
    trace = dict(run_network(network, sample))
    trace[layer] = trace[layer] - 3
    run = run_kmodel(lowered.data, lowered.image(sample))
    assert f"layer {layer} " in compare_kmodel(network, lowered, run, sample, trace).difference
