"""Runs on memories with other contents: nothing that is defined may depend on them."""

from dataclasses import replace

import numpy as np

from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.lower import lower_network
from ai8x.verify_k210 import memory_difference
from tests.k210.small_networks import Chain


def test_a_result_that_depends_on_old_contents_of_the_memories_is_reported() -> None:
    chain = Chain(3, 6, 6)
    chain.conv(4, 3)
    lowered, sample = lower_network(chain.network()), chain.sample()
    run = run_kmodel(lowered.data, lowered.image(sample))
    assert not memory_difference(lowered, sample, run)
    layers = {0: run.layers[0] ^ np.uint8(1)}  # as if bytes that nobody wrote had been read in one of the runs
    assert "layer 0" in memory_difference(lowered, sample, replace(run, layers=layers))
    outputs = (run.outputs[0] ^ np.uint8(1),)
    assert "output" in memory_difference(lowered, sample, replace(run, outputs=outputs))
