"""``python -m ai8x.cli.kmodel quantize``: from a float checkpoint to a kmodel."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ai8x.checkpoint import Checkpoint, write_checkpoint
from ai8x.cli import kmodel
from ai8x.errors import ExitStatus
from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.kmodel import read_kmodel
from ai8x.k210.quantize_calibration import Calibration
from ai8x.training.config import TrainConfig
from ai8x.training.registry import create_model, discover, find_dataset, find_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for digits with random weights."""
    torch.manual_seed(0)
    catalogue = discover()
    model = create_model(find_model(catalogue, "digitsnet"), find_dataset(catalogue, "digits"),
                         TrainConfig(arch="digitsnet", dataset="digits"))
    state = {name: value.detach().numpy().astype(np.float32) for name, value in model.state_dict().items()}
    path = tmp_path_factory.mktemp("checkpoint") / "float.pth.tar"
    write_checkpoint(path, Checkpoint(state=state, arch="digitsnet"))
    return path


def test_float_checkpoint_becomes_a_kmodel_with_a_report(checkpoint: Path, tmp_path: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "digits.kmodel"
    arguments = ["quantize", str(checkpoint), str(output), "--dataset", "digits", "--samples", "16", "--compare", "8"]
    assert kmodel.main(arguments) == ExitStatus.SUCCESS
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("output")]
    assert float(row.split()[-1]) > 0.99
    assert any(line.startswith("KPU RAM: ") for line in lines)
    model = read_kmodel(output.read_bytes())
    (place,) = model.outputs
    assert place.size == 40
    assert len(run_kmodel(model, np.full((1, 28, 28), 128, np.uint8)).outputs[0]) == 40


def test_choices_of_the_command_are_those_of_the_library() -> None:
    assert set(kmodel.CALIBRATIONS) == {method.value for method in Calibration}


@pytest.mark.parametrize("wrong", [["--percentile", "50"], ["--percentile", "x"], ["--samples", "-1"],
                                   ["--calibration", "best"]])
def test_wrong_values_are_refused(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        kmodel.main(["quantize", "a.pth.tar", "b.kmodel", *wrong])
    assert stopped.value.code == 2


def test_missing_checkpoint_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kmodel.main(["quantize", str(tmp_path / "none.pth.tar"), str(tmp_path / "x.kmodel")]) == ExitStatus.USER
    assert "error[E0" in capsys.readouterr().err
