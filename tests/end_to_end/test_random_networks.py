"""Random small networks: the reference equals the simulators and the machine code, in every layer.

Every test counts what it really compared and which corners it reached, so that none passes by refusing everything.

Source: design/reliability.md sections 5 (R1, R2, R14, R15) and 6.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, event, given, settings

from ai8x.checkpoint import Checkpoint, write_checkpoint
from ai8x.errors import UserError
from ai8x.k210.lower import lower_network as lower_to_kmodel
from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.kernels import plan_kernels
from ai8x.max7800x.lower import LoweringPlan, lower_network
from ai8x.network.build import build_network
from ai8x.network.reference import run_network
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import read_network_file
from ai8x.synthesis import SynthesisOptions, synthesize
from ai8x.verify_k210 import verify_kmodel
from ai8x.verify_max78000 import verify_simulator
from tests.strategies import network_state

from .chip_networks import Placed, Profile, features_of, placed_networks

NUM_NETWORKS = 120
NUM_COMPILED = 5
SHARE_ACCEPTED = 0.5
CORNERS_MAX78000 = {"Conv2d", "Conv1d", "ConvTranspose2d", "Linear", "Passthrough", "1 bit", "2 bit", "4 bit", "8 bit",
                    "max pooling", "average pooling", "element-wise", "concatenation", "flatten", "wide"}
CORNERS_K210 = CORNERS_MAX78000 - {"Conv1d", "ConvTranspose2d"}

# Without shrinking of what is only counted; a failing network is shrunk as usual.
several = settings(max_examples=NUM_NETWORKS, phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink])


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

    def assert_meaningful(self, corners: set[str]) -> None:
        """Enough networks were compared, and every corner was among them."""
        print(f"\n{self.compared} of {self.drawn} drawn networks compared; {dict(self.corners)}")
        assert self.compared >= SHARE_ACCEPTED * self.drawn > 0
        assert not corners - set(self.corners), "the generator does not reach these corners"


@pytest.fixture
def tally() -> Iterator[Tally]:
    yield Tally()


def test_the_register_program_computes_what_the_reference_computes(tally: Tally) -> None:
    @several
    @given(placed_networks())
    def compare(subject: Placed) -> None:
        network, placement = subject.network, subject.placement
        tally.draw()
        if check_network(network, placement, MAX78000).errors:
            event("refused")
            return
        tally.compare(subject)
        layers = hardware_layers(network, placement, MAX78000)
        plan = LoweringPlan(device=MAX78000, layers=layers, placement=placement, kernels=plan_kernels(layers, MAX78000))
        trace = run_network(network, subject.sample)
        program = lower_network(network, plan, subject.sample, trace)
        assert str(verify_simulator(network, layers, program, trace)) == "equal"

    compare()
    tally.assert_meaningful(CORNERS_MAX78000)


def test_the_kmodel_computes_what_the_reference_computes(tally: Tally) -> None:
    @several
    @given(placed_networks(Profile(kpu=True)))
    def compare(subject: Placed) -> None:
        tally.draw()
        try:
            lowered = lower_to_kmodel(subject.network)
        except UserError as refusal:
            assert {finding.code for finding in refusal.diagnostics} <= {"E0352", "E0353", "E0358", "E0450"}
            event("refused")
            return
        tally.compare(subject)
        trace = run_network(subject.network, subject.sample)
        assert str(verify_kmodel(subject.network, lowered, subject.sample, trace)) == "equal"

    compare()
    tally.assert_meaningful(CORNERS_K210)


def write_subject(folder: Path, subject: Placed) -> SynthesisOptions:
    """The network's files, and the options that read them."""
    (folder / "net.yaml").write_text(subject.yaml())
    write_checkpoint(folder / "net.pth.tar", Checkpoint(state=network_state(subject.network), arch="random",
                                                        sample=subject.sample.astype(np.int8)))
    return SynthesisOptions(network=folder / "net.yaml", checkpoint=folder / "net.pth.tar", out=folder / "out",
                            targets=("max78000",), average_rounded=subject.network.layers[0].average_rounded)


def test_the_network_file_and_the_checkpoint_give_the_network_back(tmp_path: Path) -> None:
    @settings(max_examples=40)
    @given(placed_networks())
    def compare(subject: Placed) -> None:
        (tmp_path / "net.yaml").write_text(subject.yaml())
        file = read_network_file(tmp_path / "net.yaml")
        network = build_network(file, parameters_from_state(network_state(subject.network)), subject.network.input_shape,
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
def test_compiled_firmware_computes_what_the_reference_computes(tmp_path_factory: pytest.TempPathFactory,
                                                                tally: Tally) -> None:
    @settings(max_examples=NUM_COMPILED, phases=[Phase.generate])
    @given(placed_networks(Profile(max_blocks=4)))
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
    tally.assert_meaningful(set())
