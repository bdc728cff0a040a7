"""Networks that a chip refuses: the report says why and what would help, and no earlier output is touched."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai8x import synthesis, synthesis_refusal
from ai8x.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ai8x.cli.synthesize import main

WIDE = ((64, 3), (128, 64), (256, 128), (256, 256), (128, 256))
LARGE = ((96, 3), (96, 96))


def write_network(folder: Path, layers: tuple[tuple[int, int], ...], size: int) -> None:
    """``n.yaml`` without placement and ``n.pth.tar``: 3x3 convolutions of (out, in) channels on a square image."""
    rng = np.random.default_rng(0)
    lines = ["arch: n", "dataset: none", "layers:"]
    state: dict[str, np.ndarray] = {}
    for index, (out, inputs) in enumerate(layers):
        lines += [f"  - name: conv{index}", "    op: conv2d", "    kernel_size: 3x3", "    pad: 1",
                  "    activate: ReLU"]
        state[f"conv{index}.op.weight"] = rng.integers(-40, 40, (out, inputs, 3, 3)).astype(np.float32)
        state[f"conv{index}.output_shift"] = np.array([-5], np.float32)
        state[f"conv{index}.weight_bits"] = np.array([8], np.float32)
    (folder / "n.yaml").write_text("\n".join(lines) + "\n")
    image = rng.integers(-128, 128, (layers[0][1], size, size)).astype(np.int8)
    write_checkpoint(folder / "n.pth.tar", Checkpoint(state=state, arch="n", sample=image))


def run(folder: Path, *options: str) -> int:
    return main([str(folder / "n.yaml"), str(folder / "n.pth.tar"), "--no-verify", "-q", "--out", str(folder / "out"),
                 *options])


def report_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return content


def test_a_chip_that_lacks_room_is_refused_with_consumers_and_remedies(tmp_path: Path) -> None:
    write_network(tmp_path, WIDE, 8)
    assert run(tmp_path, "--target", "max78000") == 2
    assert not (tmp_path / "out").exists()
    content = report_of(tmp_path / "out-refused")
    (chip,) = content["chips"]
    refusal = chip["refusal"]
    assert [finding["code"] for finding in refusal["findings"]] == ["E0464"]
    weights = [use for use in refusal["consumers"] if use["memory"] == "weight memory"]
    assert (weights[0]["layer"], weights[0]["amount"]) == ("conv3", 256 * 256 * 9)
    assert weights == sorted(weights, key=lambda use: -use["amount"])
    assert 1 <= len(refusal["remedies"]) <= 3
    assert all(remedy["effect"] for remedy in refusal["remedies"])
    page = (tmp_path / "out-refused" / "report.html").read_text()
    assert "what does not fit" in page
    assert refusal["remedies"][0]["action"] in page


def test_the_remedy_named_first_helps(tmp_path: Path) -> None:
    """Fewer bits, as the report says, and the network is accepted."""
    write_network(tmp_path, WIDE, 8)
    run(tmp_path, "--target", "max78000")
    action = report_of(tmp_path / "out-refused")["chips"][0]["refusal"]["remedies"][0]["action"]
    assert action.startswith("write quantization:")
    bits = {name: int(width) for width, names in re.findall(r"quantization: (\d) in (\w+(?:, \w+)*)", action)
            for name in names.split(", ")}
    checkpoint = read_checkpoint(tmp_path / "n.pth.tar")
    state = dict(checkpoint.state)
    for name, width in bits.items():
        limit = 2 ** (width - 1)
        state[f"{name}.op.weight"] = np.clip(state[f"{name}.op.weight"], -limit, limit - 1)
        state[f"{name}.weight_bits"] = np.array([width], np.float32)
    write_checkpoint(tmp_path / "n.pth.tar", Checkpoint(state=state, arch="n", sample=checkpoint.sample))
    assert run(tmp_path, "--target", "max78000") == 0


def test_the_other_chip_is_generated_beside_a_refusal(tmp_path: Path) -> None:
    write_network(tmp_path, WIDE, 8)
    assert run(tmp_path) == 0
    refused, accepted = report_of(tmp_path / "out")["chips"]
    assert refused["refusal"]["findings"]
    assert accepted["refusal"] is None
    assert accepted["layers"]
    assert (tmp_path / "out" / "k210" / "model.kmodel").is_file()
    assert not (tmp_path / "out" / "max78000").exists()


def test_a_map_that_exceeds_the_kpu_memory_names_its_tensors(tmp_path: Path) -> None:
    write_network(tmp_path, LARGE, 160)
    assert run(tmp_path, "--target", "k210") == 2
    (chip,) = report_of(tmp_path / "out-refused")["chips"]
    refusal = chip["refusal"]
    assert refusal["findings"][0]["code"] == "E0450"
    assert {use["layer"] for use in refusal["consumers"]} == {"conv0", "conv1"}
    assert 1 <= len(refusal["remedies"]) <= 3
    for remedy in refusal["remedies"]:
        assert 0 < int(re.search(r"about (\d+) of 32768 lines", remedy["effect"])[1]) <= 32768  # type: ignore[index]


@pytest.mark.parametrize("options", [(), ("--target", "all")])
def test_no_chip_is_asked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]) -> None:
    """Both refuse; where each must take the network, the second is asked for the report only."""
    asked: list[str] = []
    stages = {target: synthesis._stage(target) for target in synthesis.TARGETS}

    def recording(target: str, *, analyze: bool = False) -> synthesis_refusal.Stage:
        def stage(inputs: Any, settings: Any, folder: Path, announce: Any) -> Any:
            asked.append(target)
            return stages[target](inputs, settings, folder, announce)

        return stage

    monkeypatch.setattr(synthesis, "_stage", recording)
    write_network(tmp_path, LARGE, 160)
    assert run(tmp_path, *options) == 2
    assert asked == ["max78000", "k210"]
    chips = report_of(tmp_path / "out-refused")["chips"]
    assert [chip["target"] for chip in chips] == ["max78000", "k210"] and all(chip["refusal"] for chip in chips)


def test_an_earlier_output_survives_a_refusal(tmp_path: Path) -> None:
    write_network(tmp_path, LARGE[:1], 16)
    assert run(tmp_path, "--target", "k210") == 0
    before = (tmp_path / "out" / "report.json").read_bytes()
    write_network(tmp_path, LARGE, 160)
    assert run(tmp_path, "--target", "k210") == 2
    assert (tmp_path / "out" / "report.json").read_bytes() == before


def test_foreign_files_in_the_place_of_the_report_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_network(tmp_path, LARGE, 160)
    (tmp_path / "out-refused").mkdir()
    (tmp_path / "out-refused" / "notes.txt").write_text("mine")
    assert run(tmp_path, "--target", "k210", "--json-errors") == 2
    assert [finding["code"] for finding in json.loads(capsys.readouterr().err)] == ["E0450", "E0811"]
    assert [path.name for path in (tmp_path / "out-refused").iterdir()] == ["notes.txt"]
