"""``synthesize.py --k210-own-layers`` and ``--allow-inexact``: from the command line to the report."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ai8x.checkpoint import Checkpoint, write_checkpoint
from ai8x.cli.synthesize import main
from ai8x.errors import ExitStatus
from ai8x.network.ir import Eltwise
from ai8x.toolchain import missing_k210_tools
from tests.k210.small_networks import Chain, average_pool
from tests.strategies import network_state, network_yaml

FIRMWARE = "skipped" if missing_k210_tools() else "equal"


def average() -> Chain:
    """Needs a mean of 196 signed values, for which there is no exact stock form."""
    chain = Chain(2, 15, 15)
    chain.conv(3, 1)
    chain.passthrough(pool=average_pool(14, 1))
    chain.linear(4, output_bits=32, output_shift=0)
    return chain


def bitwise() -> Chain:
    chain = Chain(2, 6, 6)
    chain.conv(2, 3)
    chain.conv(2, 1)
    chain.passthrough(inputs=(0, 1), eltwise=Eltwise.XOR)
    return chain


def synthesize(chain: Chain, folder: Path, *options: str) -> int:
    """The command on a network and its sample."""
    network = replace(chain.network(), dataset="none")
    (folder / "net.yaml").write_text(network_yaml(network))
    write_checkpoint(folder / "net.pth.tar", Checkpoint(state=network_state(network), arch="", epoch=0,
                                                        sample=chain.sample().astype("int8")))
    return main([str(folder / "net.yaml"), str(folder / "net.pth.tar"), "--target", "k210", "--quiet",
                 "--out", str(folder / "out"), *options])


@pytest.mark.parametrize(("make", "code"), [(average, "E0360"), (bitwise, "E0350")])
def test_without_the_options_the_network_is_refused_and_they_are_named(make, code: str, tmp_path: Path,
                                                                       capsys: pytest.CaptureFixture[str]) -> None:
    assert synthesize(make(), tmp_path) == ExitStatus.USER
    printed = capsys.readouterr().err
    assert code in printed and "--k210-own-layers" in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [average, bitwise])
def test_own_layers_are_verified_on_both_witnesses_and_marked_in_the_report(make, tmp_path: Path) -> None:
    pytest.importorskip("unicorn")
    assert synthesize(make(), tmp_path, "--k210-own-layers") == ExitStatus.SUCCESS
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verification"]["kmodel"] == "equal"
    assert report["verification"]["kpu_firmware"].startswith(FIRMWARE)
    (chip,) = report["chips"]
    assert any("layer type of our own" in layer["name"] for layer in chip["layers"])
    header = (tmp_path / "out" / "k210" / "model.h").read_text()
    assert "#define MODEL_NEEDS_OWN_RUNNER 1" in header and "AI8X_" in header
    assert not (tmp_path / "out" / "k210" / "maix_run.py").exists()


def test_inexact_layers_are_verified_within_their_bound_and_state_it(tmp_path: Path) -> None:
    pytest.importorskip("unicorn")
    assert synthesize(average(), tmp_path, "--allow-inexact") == ExitStatus.SUCCESS
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verification"]["kmodel"] == "equal"
    assert report["verification"]["kpu_firmware"].startswith(FIRMWARE)
    assert any("at most 1 from the exact average" in proof for proof in report["chips"][0]["proofs"])
