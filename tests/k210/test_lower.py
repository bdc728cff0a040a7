"""Whole networks as kmodels: random ones, the recorded ones, and the memory plans that hold them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai8x.k210.kmodel import read_kmodel
from ai8x.k210.legalize import legalize
from ai8x.k210.lint import lint_kmodel
from ai8x.k210.lower import adjacent_groups, lower_network
from ai8x.network.build import build_network
from ai8x.network.ir import Eltwise, Network, Op, TensorShape
from ai8x.network.reference import run_network
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import read_network_file
from ai8x.verify_k210 import verify_kmodel
from tests.strategies import networks, samples

from .small_networks import RELU, Chain, max_pool

CASES = Path(__file__).resolve().parents[2] / ".." / "shared" / "cases" / "max78000"
NAMES = sorted(path.name for path in CASES.glob("*") if path.is_dir())
BITWISE = {Eltwise.OR: Eltwise.ADD, Eltwise.XOR: Eltwise.SUB}


def within_reach(network: Network, *, rounded: bool) -> Network:
    """The network without what no KPU form exists for: bitwise operators, wide convolutions, very tall kernels."""
    layers = tuple(replace(
        layer, average_rounded=rounded, eltwise=BITWISE.get(layer.eltwise, layer.eltwise),
        output_bits=layer.output_bits if layer.op is Op.LINEAR and layer.out_shape.height == 1 else 8)
        for layer in network.layers)
    return replace(network, layers=layers)


@settings(max_examples=100, deadline=None)
@given(networks(max_layers=4, max_channels=6, max_size=9), st.data(), st.booleans())
def test_random_networks_are_exact_in_every_layer(drawn, data, rounded):
    network = within_reach(drawn, rounded=rounded)
    sample = data.draw(samples(network))
    lowered = lower_network(network)
    assert str(verify_kmodel(network, lowered, sample, run_network(network, sample))) == "equal"


def recorded(name: str):
    """Network, sample and recorded integers of a case."""
    folder = CASES / name
    arrays = np.load(folder / "case.npz")
    state = {key[2:]: arrays[key] for key in arrays.files if key.startswith("w:")}
    options = (folder / "options").read_text().split() if (folder / "options").exists() else []
    shape = TensorShape(*(*arrays["sample"].shape, 1)[:3])
    network = build_network(read_network_file(folder / "net.yaml"), parameters_from_state(state), shape,
                            average_rounded="--avg-pool-rounding" in options)
    expected = {int(key[1:]): arrays[key] for key in arrays.files if key.startswith("L")}
    return network, arrays["sample"].reshape(shape.as_tuple()), expected


@pytest.mark.skipif(not NAMES, reason="the recorded cases are not at hand")
@pytest.mark.parametrize("name", [name for name in NAMES if "or-" not in name and name not in
                                  ("eltwise_2pool-3", "eltwise_3-1", "eltwise_3-3")])
def test_recorded_networks_give_the_recorded_integers(name):
    network, sample, expected = recorded(name)
    lowered = lower_network(network)
    assert str(verify_kmodel(network, lowered, sample, expected)) == "equal"


def sample_network() -> Chain:
    chain = Chain(3, 16, 16)
    chain.conv(8, 3, 1, activation=RELU)
    chain.conv(8, 3, 1, pool=max_pool(2))
    chain.conv(8, 3, 1)
    chain.add(1, 2)
    chain.conv(6, 3, 0, pool=max_pool(3, 2))
    chain.linear(5, output_bits=32)
    return chain


def test_the_bytes_read_back_as_the_model():
    lowered = sample_network().check()
    again = read_kmodel(lowered.data)
    assert [type(a) for a in again.layers] == [type(b) for b in lowered.model.layers]
    assert (again.outputs, again.main_mem_usage) == (lowered.model.outputs, lowered.model.main_mem_usage)


def test_lowering_is_deterministic():
    assert sample_network().check().data == lower_network(sample_network().network()).data


def test_every_kmodel_passes_the_lint():
    assert lint_kmodel(sample_network().check().model).errors == ()


def test_operands_lie_side_by_side():
    network = sample_network().network()
    groups = adjacent_groups(legalize(network))
    assert [len(group) for group in groups if len(group) > 1] == [2]


def test_every_computing_step_has_a_proof():
    lowered = sample_network().check()
    computing = [step.name for step in lowered.steps if hasattr(step, "parameters")] + ["layer5"]
    assert [proof.split(": |")[0].split(": whole")[0] for proof in lowered.proofs] == computing


def test_chains_alternate_between_the_ends_of_kpu_ram():
    chain = Chain(64, 64, 64)
    for _ in range(4):
        chain.conv(64, 1)
    plan = chain.check().kpu_plan
    assert plan.peak == plan.lower_bound


def test_the_image_is_the_sample_as_bytes():
    chain = sample_network()
    sample = chain.sample()
    assert np.array_equal(chain.check().image(sample), (sample + 128).astype(np.uint8))
