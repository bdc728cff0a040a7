"""From a description without placement to a verified project: helper layers run, and the file's numbering stays."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ai8x.cli.synthesize import main
from ai8x.verify import EQUAL

from .digitsnet import NETWORK_FILE, write_digitsnet

KEYS = "processors|output_processors|in_offset|out_offset|write_gap|bias_group|data_format"


def bare_text() -> str:
    """The bundled description without placement and without its bypass layer."""
    text = re.sub(rf"(?m)^    ({KEYS}):.*\n", "", NETWORK_FILE.read_text())
    return re.sub(r"(?ms)^  - name: bypass.*?(?=^  # \.\.\. and conv3)", "", text).replace("[bypass,", "[conv2,")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "d.yaml").write_text(bare_text())
    write_digitsnet(tmp_path / "d.pth.tar")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def synthesized(*options: str) -> int:
    return main(["d.yaml", "d.pth.tar", "--out", "out", "--target", "max78000", *options])


def test_description_without_placement_gives_a_verified_project(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert synthesized() == 0, capsys.readouterr().err
    report = json.loads((place / "out" / "report.json").read_text())
    assert report["verification"]["simulator"] == EQUAL
    firmware = report["verification"]["firmware"]
    assert firmware == EQUAL or firmware.startswith("skipped: ")
    trace = np.load(place / "out" / "trace.npz")
    assert sorted(trace.files) == ["L0", "L1", "L2", "L3", "L4"]
    assert [layer["name"] for layer in report["layers"]] == ["conv1", "conv2", "conv3", "conv4", "fc"]
    (chip,) = report["chips"]
    assert [layer["name"] for layer in chip["layers"]] == ["conv1", "conv2", "conv3", "copy_conv2", "conv4", "fc"]
    assert any("W0465" in message and "copy_conv2" in message for message in report["messages"])


def test_stop_after_counts_the_layers_of_the_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthesized("--no-verify", "--stop-after", "3") == 0, capsys.readouterr().err
    (chip,) = json.loads((place / "out" / "report.json").read_text())["chips"]
    assert [layer["name"] for layer in chip["layers"]] == ["conv1", "conv2", "conv3", "copy_conv2", "conv4"]


def test_stop_after_a_layer_that_does_not_exist_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthesized("--stop-after", "7") == 2
    assert "E0398" in capsys.readouterr().err
