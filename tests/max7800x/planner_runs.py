"""Planning a network and running the plan on the simulator, for the tests of the planner."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ai8x.max7800x.cycles import network_cycles, work_from_layer
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.kernels import plan_kernels
from ai8x.max7800x.lower import LoweringPlan, lower_network
from ai8x.max7800x.placement import Placement, PlacementOptions
from ai8x.max7800x.planner import PlannedNetwork, plan_placement
from ai8x.network.ir import Network
from ai8x.network.reference import Trace, run_network
from ai8x.network.yaml_file import PlacementHint
from ai8x.verify_max78000 import verify_simulator

PLACEMENT_KEYS = ("processors", "output_processors", "in_offset", "out_offset", "write_gap", "bias_group")


def planned(network: Network, hints: Sequence[PlacementHint] | None = None, **options: object) -> PlannedNetwork:
    """The plan of a network whose file says nothing about placement, or what `hints` say."""
    hints = [PlacementHint()] * len(network.layers) if hints is None else hints
    return plan_placement(network, hints, MAX78000, PlacementOptions(**options))


def random_sample(network: Network, seed: int = 0) -> NDArray[np.int64]:
    """A random input (C, H, W)."""
    return np.random.default_rng(seed).integers(-128, 128, network.input_shape.as_tuple())


def simulated_difference(network: Network, plan: PlannedNetwork, sample: NDArray[np.integer]) -> str:
    """What the simulator computes differently from the reference, or nothing; helper layers are compared too."""
    trace = plan.expand_trace(run_network(network, sample), sample)
    return placed_difference(plan.network, plan.placement, sample, trace)


def placed_difference(network: Network, placement: Placement, sample: NDArray[np.integer], trace: Trace) -> str:
    """What the simulator computes differently from `trace`, or nothing."""
    layers = hardware_layers(network, placement, MAX78000)
    lowering = LoweringPlan(device=MAX78000, layers=layers, placement=placement, kernels=plan_kernels(layers, MAX78000))
    program = lower_network(network, lowering, sample, trace)
    return verify_simulator(network, layers, program, trace).difference


def cycles_of(network: Network, placement: Placement) -> int:
    """Clock cycles of one inference."""
    layers = hardware_layers(network, placement, MAX78000)
    kernels = plan_kernels(layers, MAX78000).kernels
    return network_cycles(work_from_layer(layer, own) for layer, own in zip(layers, kernels, strict=True))
