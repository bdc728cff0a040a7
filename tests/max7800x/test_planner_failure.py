"""Refusals of the planner: numbers that are true, and remedies with which the network does fit."""

import dataclasses

import numpy as np
import pytest

from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.planner import PlanFailureError
from ai8x.max7800x.planner_remedies import RemedyKind, folded_network, without_parameters
from ai8x.network.ir import Eltwise, TensorShape
from ai8x.network.yaml_file import PlacementHint

from .lowering_examples import MAX_2X2, conv, linear, network_of
from .planner_runs import planned, random_sample, simulated_difference


def refusal(network, hints=None, **options):
    with pytest.raises(PlanFailureError) as error:
        planned(network, hints, **options)
    return error.value


def remedy_of(error, kind):
    (found,) = (remedy for remedy in error.failure.remedies if remedy.kind is kind)
    return found


def large_images():
    """Maps of 12,288 pixels; the sum needs two of them, so that nothing can stream or be written over."""
    shape = (3, 96, 128)
    return network_of(conv(0, shape, 4), conv(1, (4, 96, 128), 4), conv(2, (4, 96, 128), 4, inputs=(0, 1),
                      eltwise=Eltwise.ADD), conv(3, (4, 96, 128), 4, pool=MAX_2X2), conv(4, (4, 48, 64), 2))


def chain():
    """Maps of 16,384 pixels up to the first pooling."""
    return network_of(conv(0, (3, 128, 128), 8), conv(1, (8, 128, 128), 8, pool=MAX_2X2), conv(2, (8, 64, 64), 4))


def test_table_ends_at_the_first_layer_that_lacks_something():
    layers = [conv(0, (64, 8, 8), 64), conv(1, (64, 8, 8), 256), conv(2, (256, 8, 8), 256), conv(3, (256, 8, 8), 64),
              linear(4, (64, 8, 8), 4)]
    failure = refusal(network_of(*layers)).failure
    assert [row.fits for row in failure.rows] == [True] * (len(failure.rows) - 1) + [False]
    assert not failure.rows[-1].has_weight_place and failure.weight_words_missing >= failure.rows[-1].mask_words > 0
    assert [row.file_layer for row in failure.rows] == list(range(len(failure.rows)))
    assert failure.rows[0].mask_words == 64 and failure.rows[0].processors == (1 << 64) - 1


@pytest.fixture(scope="module")
def large_failure():
    return refusal(large_images()).failure


@pytest.fixture(scope="module")
def chain_error():
    """A chain that may not stream."""
    return refusal(chain(), [PlacementHint(streaming=False)] * 3)


def test_data_that_is_missing_is_given_in_bytes(large_failure):
    failure = large_failure
    assert failure.data_bytes > failure.data_bytes_available == 32_768
    assert failure.rows[-1].data_bytes > failure.data_bytes_available
    assert failure.weight_words_missing == failure.biases_missing == 0


def test_record_cannot_be_changed(large_failure):
    with pytest.raises(dataclasses.FrozenInstanceError):
        large_failure.data_bytes = 0


def test_folded_input_is_proposed_and_fits_with_the_named_effect(chain_error):
    remedy = remedy_of(chain_error, RemedyKind.FOLD)
    assert remedy.input_shape == TensorShape(12, 64, 64)
    assert remedy.action == "fold the input by 2: train on 12x64x64 instead of 3x128x128, without the pooling of conv1"
    folded = network_of(conv(0, (12, 64, 64), 8), conv(1, (8, 64, 64), 8), conv(2, (8, 64, 64), 4))
    plan = planned(folded)
    assert plan.summary is not None
    assert plan.summary.cycles == remedy.result.cycles
    assert f"{remedy.result.cycles:,} cycles" in remedy.effect(MAX78000)
    assert not simulated_difference(folded, plan, random_sample(folded))


def test_folding_keeps_the_output_of_a_network_that_pools():
    bare = without_parameters(chain())
    folded = folded_network(bare, 2, (1,))
    assert folded is not None and folded.layers[-1].out_shape == bare.layers[-1].out_shape
    assert folded_network(bare, 3, ()) is None


def test_streaming_that_is_forbidden_is_proposed_first(chain_error):
    first = chain_error.failure.remedies[0]
    assert first.kind is RemedyKind.STREAMING and "streaming: true" in first.action
    assert "conv0, conv1" in first.action
    plan = planned(chain())
    assert plan.summary is not None and plan.summary.cycles == first.result.cycles


def test_layer_with_too_many_biases_is_named():
    layers = [conv(0, (4, 4, 4), 8, bias=np.arange(8)),
              conv(1, (8, 4, 4), 600, kernel=1, pad=0, bias=np.arange(600) % 100 - 50)]
    error = refusal(network_of(*layers))
    assert error.failure.biases_missing > 0
    assert remedy_of(error, RemedyKind.BIAS).action == "train without a bias in conv1 (bias=False)"


def test_report_gets_the_same_remedies_in_words(chain_error):
    error = chain_error
    assert [remedy.action for remedy in error.remedies] == [remedy.action for remedy in error.failure.remedies]
    assert all(remedy.effect.startswith("fits: ") for remedy in error.remedies)
    assert 1 <= len(error.remedies) <= 3
    assert {consumer.memory for consumer in error.consumers} >= {"weight memory"}
