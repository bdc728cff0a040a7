"""The file with the planned placement: read again it is the same network in the same place, and nothing is planned."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import assume, given, settings

from ai8x.errors import UserError
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.planner import PlannedNetwork, plan_placement
from ai8x.network.build import build_network
from ai8x.network.description import NetworkDescription, describe_network
from ai8x.network.ir import Eltwise, Network, Op
from ai8x.network.weights import LayerParameters, parameters_from_state
from ai8x.network.yaml_file import NetworkFile
from ai8x.synthesis import DESCRIPTION_NAME, SynthesisOptions, SynthesisResult, synthesize
from ai8x.synthesis_description import completed_description
from tests.end_to_end.digitsnet import write_digitsnet
from tests.end_to_end.test_planned_placement import bare_text
from tests.max7800x.lowering_examples import conv, network_of, passthrough
from tests.max7800x.planner_networks import placeable_networks
from tests.strategies import network_state


def planned(file: NetworkFile, network: Network) -> PlannedNetwork:
    return plan_placement(network, file.hints, MAX78000)


def parameters_of(network: Network) -> tuple[LayerParameters, ...]:
    state = network_state(network)
    return parameters_from_state(state) if state else ()


def is_filled_up(network: Network) -> bool:
    file = describe_network(network).network_file()
    return bool(planned(file, build_network(file, parameters_of(network), network.input_shape)).widened)


def names_of(network: Network) -> list[str]:
    return [layer.name for layer in network.layers]


def assert_survives(network: Network) -> NetworkDescription:
    """Plan a network, complete its description, read that again; returns it."""
    marked = dataclasses.replace(network, layers=tuple(
        dataclasses.replace(layer, is_output=layer.index in network.outputs) for layer in network.layers))
    parameters = parameters_of(network)
    file = describe_network(marked).network_file()
    plan = planned(file, build_network(file, parameters, network.input_shape))
    completed = completed_description(file, plan, None)
    assert completed is not None
    again_file = completed.network_file()
    again = build_network(again_file, parameters, network.input_shape)
    assert completed.is_placed and names_of(again) == names_of(plan.network)
    for layer, expected in zip(again.layers, plan.network.layers, strict=True):
        for field in dataclasses.fields(layer):
            if field.name not in ("source", "weights", "bias"):
                assert getattr(layer, field.name) == getattr(expected, field.name), field.name
        for name in ("weights", "bias"):
            values, wanted = getattr(layer, name), getattr(expected, name)
            assert (values is None) == (wanted is None) and (values is None or (values == wanted).all())
    found = planned(again_file, again)
    assert found.summary is None, "the completed file was planned again"
    assert found.placement == plan.placement
    return completed


@settings(max_examples=15)
@given(placeable_networks(max_layers=5))
def test_random_networks_survive(network: Network) -> None:
    try:
        assume(not is_filled_up(network))
        assert_survives(network)
    except UserError as error:
        assume(not any(finding.code.startswith("E04") for finding in error.diagnostics))  # does not fit the chip
        raise


def test_helper_convolutions_are_written_with_unit_weights() -> None:
    shape = (4, 3, 3)
    network = network_of(conv(0, shape, 64), conv(1, shape, 32, inputs=(-1,)), conv(2, (96, 3, 3), 4, inputs=(0, 1)))
    helpers = [layer for layer in assert_survives(network).layers if layer.entry.unit_weights is not None]
    assert [(layer.entry.unit_weights, layer.entry.out_channels) for layer in helpers] == [(0, 48), (48, 16)]
    assert all("copy of " in layer.purpose for layer in helpers)


def test_pass_layers_that_became_convolutions_are_written_as_such() -> None:
    shape = (13, 4, 4)
    network = network_of(conv(0, shape, 13), passthrough(1, (26, 4, 4), inputs=(-1, 0)), conv(2, (26, 4, 4), 5))
    (converted,) = [layer for layer in assert_survives(network).layers if layer.entry.unit_weights is not None]
    assert (converted.name, converted.entry.op, converted.entry.unit_weights) == (
        network.layers[1].name, Op.CONV2D, 0)


def test_copies_for_an_addition_are_written_as_pass_layers() -> None:
    shape = (4, 3, 3)
    network = network_of(conv(0, shape, 4), conv(1, shape, 4, inputs=(0, 0), eltwise=Eltwise.ADD))
    assert [layer.entry.op for layer in assert_survives(network).layers].count(Op.PASSTHROUGH) == 2


def test_filled_up_concatenations_cannot_be_written_with_their_places() -> None:
    network = network_of(conv(0, (4, 3, 3), 63), conv(1, (63, 3, 3), 63), conv(2, (126, 3, 3), 4, inputs=(0, 1)))
    file = describe_network(network).network_file()
    plan = planned(file, build_network(file, parameters_of(network), network.input_shape))
    assert plan.widened == (2,)
    assert completed_description(file, plan, None) is None


# --- as files -----------------------------------------------------------------------------------------------------

def project(result: SynthesisResult) -> dict[str, bytes]:
    folder = result.folder / "max78000"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(folder: Path, name: str, network: Path) -> SynthesisResult:
    return synthesize(SynthesisOptions(network=network, checkpoint=folder / "d.pth.tar", out=folder / name,
                                       targets=("max78000",), verify=False))


def test_the_written_file_gives_the_same_project_byte_for_byte(tmp_path: Path) -> None:
    write_digitsnet(tmp_path / "d.pth.tar")
    (tmp_path / "d.yaml").write_text(bare_text() + "\n")
    first = run(tmp_path, "one", tmp_path / "d.yaml")
    written = first.folder / DESCRIPTION_NAME
    assert first.description is not None and written.read_text() == first.description.to_yaml()
    second = run(tmp_path, "two", written)
    assert project(second) == project(first) and len(project(first)) > 5
    assert second.description is None and not (second.folder / DESCRIPTION_NAME).exists()
    assert not second.messages
    chip = first.report.chips[0]
    assert chip.plan_peak is not None and chip.plan_lower_bound is not None
    assert 0 < chip.plan_lower_bound <= chip.plan_peak


@pytest.mark.parametrize("removed", ["out_offset", "processors", "write_gap"])
def test_a_key_that_is_deleted_is_planned_again(tmp_path: Path, removed: str) -> None:
    write_digitsnet(tmp_path / "d.pth.tar")
    (tmp_path / "d.yaml").write_text(bare_text())
    text = (run(tmp_path, "one", tmp_path / "d.yaml").folder / DESCRIPTION_NAME).read_text()
    lines = [line for line in text.splitlines() if not line.strip().startswith(f"{removed}:")]
    (tmp_path / "edited.yaml").write_text("\n".join(lines) + "\n")
    assert run(tmp_path, "two", tmp_path / "edited.yaml").description is not None
