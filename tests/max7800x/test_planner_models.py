"""Every bundled model is placed on the MAX78000 from nothing, closely, and computed exactly."""

import pytest

from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.planner_result import PlannedNetwork

from .model_networks import bundled_models, model_network
from .planner_runs import planned, random_sample, simulated_difference

MODELS = bundled_models()

PUBLISHED_CYCLES = {
    "ai85cdnet": 757_910, "ai85faceidnet": 876_838, "ai85kws20net": 100_366, "ai85kws20netv3": 71_782,
    "ai85nascifarnet": 228_217, "ai85net5": 70_157, "ai85netextrasmall": 12_193, "ai85ressimplenet": 144_043,
    "ai85simplenet": 129_319, "ai85tinierssd": 702_877,
}
"""Cycles of the vendor's hand-made placements. Source: spec/max78000-cnn.md section 8.3."""

IN_PLACE = {"ai85actiontcn", "ai85unetlarge"}
"""Two tensors at their widest point exceed all data memories together: layers must write over what they have read."""


def cycles(plan: PlannedNetwork) -> int:
    assert plan.summary is not None
    return plan.summary.cycles


@pytest.mark.parametrize("name", sorted(MODELS))
def test_model_is_placed_and_computed_exactly(name: str) -> None:
    network, hints = model_network(MODELS[name])
    plan = planned(network, hints)
    assert not check_network(plan.network, plan.placement, MAX78000).errors
    assert not simulated_difference(network, plan, random_sample(network))
    assert cycles(plan) <= PUBLISHED_CYCLES.get(name, cycles(plan))
    assert plan.summary is not None
    assert plan.summary.data_peak_bytes <= 1.05 * plan.summary.data_bound_bytes
    assert ("W0470" in {finding.code for finding in plan.diagnostics.items}) == (name in IN_PLACE)


def test_every_bold_name_of_the_list_is_there() -> None:
    """Source: spec/ai8x-training.md section 17."""
    bold = {"ai85net5", "ai85netextrasmall", "ai85simplenet", "ai85ressimplenet", "ai85nascifarnet", "ai85kws20net",
            "ai85kws20netv2", "ai85kws20netv3", "ai85cdnet", "ai85unetsmall", "ai85unetlarge", "ai85tinierssd",
            "ai85autoencoder"}
    assert bold <= set(MODELS)
