"""Random small networks: the reference equals the simulators and the machine code, in every layer.

Every test counts what it really compared and which corners it reached, so that none passes by refusing everything.

Source: docs/design.md "Tests".
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings

from ai8x.checkpoint import Checkpoint, write_checkpoint
from ai8x.errors import UserError
from ai8x.k210.lower import lower_network as lower_to_kmodel
from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.kernels import plan_kernels
from ai8x.max7800x.lower import LoweringPlan, lower_network
from ai8x.max7800x.options import DEFAULT_PROJECT
from ai8x.network.build import build_network
from ai8x.network.reference import run_network
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import read_network_file
from ai8x.synthesis import SynthesisOptions, synthesize
from ai8x.verify_k210 import verify_kmodel
from ai8x.verify_max78000 import verify_simulator
from tests.strategies import network_state

from .chip_networks import FOCUSES, Placed, Profile, features_of, placed_networks

NUM_NETWORKS = 30
"""Per focus."""

NUM_COMPILED = 3
"""Per focus; a build and a run take most of a second."""
SHARE_ACCEPTED = 0.5
CORNERS = {"Conv2d", "Passthrough", "1 bit", "2 bit", "4 bit", "8 bit", "max pooling", "average pooling", "flatten",
           "wide"}
"""Reached for certain over all focuses together."""


class Tally:
    """What a test compared."""

    def __init__(self) -> None:
        self.drawn = self.compared = 0
        self.corners: Counter[str] = Counter()

    def draw(self) -> None:
        self.drawn += 1

    def compare(self, subject: Placed) -> None:
        self.compared += 1
        self.corners.update(name for name, present in features_of(subject.network).items() if present)

    def assert_meaningful(self, focus: str) -> None:
        """Enough networks were compared, most of them with what the test is about."""
        assert self.compared >= SHARE_ACCEPTED * self.drawn > 0
        assert focus == "anything" or self.corners[focus] >= self.compared / 2


@pytest.fixture(scope="module")
def tallies() -> dict[str, Tally]:
    """Per test function and focus."""
    return {}


@pytest.mark.parametrize("focus", FOCUSES)
def test_the_register_program_computes_what_the_reference_computes(tallies: dict[str, Tally], focus: str) -> None:
    tally = tallies.setdefault(f"max78000 {focus}", Tally())

    @settings(max_examples=NUM_NETWORKS)
    @given(placed_networks(Profile(focus=focus)))
    def compare(subject: Placed) -> None:
        network, placement = subject.network, subject.placement
        tally.draw()
        if check_network(network, placement, MAX78000).errors:
            return
        tally.compare(subject)
        layers = hardware_layers(network, placement, MAX78000)
        plan = LoweringPlan(device=MAX78000, layers=layers, placement=placement, kernels=plan_kernels(layers, MAX78000))
        trace = run_network(network, subject.sample)
        program = lower_network(network, plan, subject.sample, trace)
        assert str(verify_simulator(network, layers, program, trace)) == "equal"

    compare()
    tally.assert_meaningful(focus)


@pytest.mark.parametrize("focus", ["anything", "element-wise", "concatenation"])
def test_the_kmodel_computes_what_the_reference_computes(tallies: dict[str, Tally], focus: str) -> None:
    tally = tallies.setdefault(f"k210 {focus}", Tally())

    @settings(max_examples=NUM_NETWORKS)
    @given(placed_networks(Profile(kpu=True, focus=focus)))
    def compare(subject: Placed) -> None:
        tally.draw()
        try:
            lowered = lower_to_kmodel(subject.network)
        except UserError as refusal:
            assert {finding.code for finding in refusal.diagnostics} <= {"E0352", "E0353", "E0358", "E0450"}
            return
        tally.compare(subject)
        trace = run_network(subject.network, subject.sample)
        assert str(verify_kmodel(subject.network, lowered, subject.sample, trace)) == "equal"

    compare()
    tally.assert_meaningful(focus)


@pytest.mark.parametrize("chip", ["max78000", "k210"])
def test_the_networks_compared_reach_every_corner(tallies: dict[str, Tally], chip: str) -> None:
    found = [tally for name, tally in tallies.items() if name.startswith(chip)]
    if len(found) < 3:
        pytest.skip("not all of the tests before this one were chosen")
    reached = Counter[str]()
    for tally in found:
        reached.update(tally.corners)
    compared, drawn = sum(tally.compared for tally in found), sum(tally.drawn for tally in found)
    print(f"\n{chip}: {compared} of {drawn} networks compared: {dict(reached)}")
    assert not CORNERS - set(reached), "the generator does not reach these corners"


def write_subject(folder: Path, subject: Placed) -> SynthesisOptions:
    """The network's files, and the options that read them."""
    (folder / "net.yaml").write_text(subject.yaml())
    write_checkpoint(folder / "net.pth.tar", Checkpoint(state=network_state(subject.network), arch="random",
                                                        sample=subject.sample.astype(np.int8)))
    return SynthesisOptions(network=folder / "net.yaml", checkpoint=folder / "net.pth.tar", out=folder / "out",
                            targets=("max78000",), average_rounded=subject.network.layers[0].average_rounded,
                            max78000=replace(DEFAULT_PROJECT, fifo=subject.placement.fifo))


def test_the_network_file_and_the_checkpoint_give_the_network_back(tmp_path: Path) -> None:
    @settings(max_examples=40)
    @given(placed_networks())
    def compare(subject: Placed) -> None:
        (tmp_path / "net.yaml").write_text(subject.yaml())
        file = read_network_file(tmp_path / "net.yaml")
        parameters = parameters_from_state(network_state(subject.network))
        network = build_network(file, parameters, subject.network.input_shape,
                                average_rounded=subject.network.layers[0].average_rounded)
        expected, found = run_network(subject.network, subject.sample), run_network(network, subject.sample)
        for index in expected:
            np.testing.assert_array_equal(found[index], expected[index])
        for hint, place in zip(file.hints, subject.placement.layers, strict=True):
            assert (hint.processors, hint.output_processors) == (place.processors, place.output_processors)
            assert (hint.in_offset, hint.out_offset, hint.write_gap) == (place.in_offset, place.out_offset,
                                                                         place.write_gap)

    compare()


@pytest.mark.usefixtures("cross_compiler")
@pytest.mark.parametrize("focus", FOCUSES)
def test_compiled_firmware_computes_what_the_reference_computes(
        tmp_path_factory: pytest.TempPathFactory, tallies: dict[str, Tally], focus: str) -> None:
    tally = tallies.setdefault(f"compiled {focus}", Tally())

    @settings(max_examples=NUM_COMPILED, phases=[Phase.generate])
    @given(placed_networks(Profile(max_blocks=4, focus=focus)))
    def compare(subject: Placed) -> None:
        tally.draw()
        if check_network(subject.network, subject.placement, MAX78000).errors:
            return
        tally.compare(subject)
        result = synthesize(write_subject(tmp_path_factory.mktemp("random"), subject))
        verdicts = {verdict.witness: str(verdict) for verdict in result.verdicts}
        assert verdicts["simulator"] == "equal"
        assert verdicts["firmware"] == "equal"

    compare()
    assert tally.compared
