"""``synthesize.py`` with ``--model``, ``--analyze`` and targets that refuse, from the command line."""

import json
from pathlib import Path

import pytest

from ai8x.checkpoint import write_checkpoint
from ai8x.cli.synthesize import main
from ai8x.synthesis import DESCRIPTION_NAME
from ai8x.synthesis_model import ModelRequest, prepare_model
from tests.end_to_end.digitsnet import NETWORK_FILE, write_digitsnet
from tests.test_synthesis_model import PLUGIN


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with a network file, its checkpoint, and a folder of models."""
    write_digitsnet(tmp_path / "d.pth.tar")
    (tmp_path / "d.yaml").write_text(NETWORK_FILE.read_text())
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "heads.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def heads(place: Path) -> str:
    """A checkpoint of a model that the K210 refuses."""
    write_checkpoint(place / "heads-q.pth.tar", prepare_model(
        ModelRequest(name="heads", models_path="models"), None, analyze=True).checkpoint)
    return "heads-q.pth.tar"


def codes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [finding["code"] for finding in json.loads(capsys.readouterr().err)]


def test_a_model_takes_the_place_of_the_network_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "DigitsNet", "d.pth.tar", "--no-verify"]) == 0
    out = place / "out" / "digitsnet"
    assert (out / "max78000").is_dir() and (out / "k210").is_dir()
    assert (out / DESCRIPTION_NAME).read_text().startswith("# digitsnet: 1x28x28 input.")
    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["inputs"]) == {"digitsnet (model)", "d.pth.tar"}
    capsys.readouterr()
    written = str(out / DESCRIPTION_NAME)
    assert main([written, "d.pth.tar", "--no-verify", "--out", "again", "--prefix", "x", "--json-errors"]) == 0
    assert codes(capsys) == []


@pytest.mark.parametrize(("arguments", "code"), [
    (["d.yaml", "--model", "digitsnet"], "E0292"), (["d.yaml", "d.pth.tar", "--model", "digitsnet"], "E0292"),
    (["--config-file", "d.yaml", "--model", "digitsnet"], "E0292"),
    (["d.pth.tar", "d.pth.tar", "--model", "digitsnet"], "E0290"),
    (["d.pth.tar", "--checkpoint-file", "d.pth.tar", "--model", "digitsnet"], "E0290"),
    (["--model", "digitsnet"], "E0295"), (["--model", "digitsnett", "d.pth.tar"], "E0603"),
    (["d.yaml", "d.pth.tar", "--analyze", "--samples", "3"], "E0296"), (["d.pth.tar"], "E0290")])
def test_wrong_combinations_are_refused(place: Path, arguments: list[str], code: str,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--json-errors", "-q"]) == 2
    assert codes(capsys)[0] == code
    assert not (place / "out").exists()


@pytest.mark.parametrize("arguments", [["d.yaml", "d.pth.tar"], ["--model", "digitsnet", "d.pth.tar"],
                                       ["--model", "digitsnet"]])
def test_an_analysis_prints_the_report_and_generates_nothing(place: Path, arguments: list[str],
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--analyze", "--out", "out"]) == 0
    printed = capsys.readouterr()
    assert "MAX78000" in printed.out and "Kendryte K210" in printed.out
    assert ("untrained" in printed.err) == (len(arguments) == 2 and "--model" in arguments)
    files = {path.name for path in (place / "out").iterdir()} - {DESCRIPTION_NAME}
    assert files == {"report.json", "report.html", "manifest.json"}


def test_a_chip_that_refuses_is_a_warning_unless_both_are_asked_for(place: Path, heads: str,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "heads", heads, "--models-path", "models", "--no-verify"]
    assert main(arguments) == 0
    printed = capsys.readouterr().err
    assert "warning[W0468]: the network does not fit the Kendryte K210" in printed
    assert "warning[E0355]" in printed and "error[" not in printed
    assert {path.name for path in (place / "out" / "heads").iterdir()} >= {"max78000", "report.html"}
    assert not (place / "out" / "heads" / "k210").exists()
    for target in ("all", "k210"):
        assert main([*arguments, "--target", target, "--out", "strict"]) == 2
        assert "error[E0355]" in capsys.readouterr().err
        assert not (place / "strict").exists()


def test_a_strict_analysis_fails_and_says_why_even_if_quiet(place: Path, heads: str,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--model", "heads", heads, "--models-path", "models", "--analyze", "-q", "--out", "out"]
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""
    assert main([*arguments, "--target", "all"]) == 2
    assert "error[E0355]" in capsys.readouterr().err
    assert (place / "out" / "report.html").is_file()


def test_a_mistake_in_the_placement_fails_the_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only what the network itself needs is the chip's refusal: a wrong offset is repaired, not worked around."""
    (place / "d.yaml").write_text(NETWORK_FILE.read_text().replace("out_offset: 0x1000", "out_offset: 0x8000", 1))
    assert main(["d.yaml", "d.pth.tar", "--no-verify", "--json-errors"]) == 2
    assert codes(capsys) == ["E0416"]
    assert not (place / "out").exists()
