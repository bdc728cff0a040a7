"""quantize.py as a command: files, exit statuses, messages."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ai8x.checkpoint import Checkpoint, arrays_from_tensors, read_checkpoint, write_checkpoint
from ai8x.cli.quantize import main
from ai8x.nn import modules
from ai8x.nn.qat import QatPolicy, switch_to_qat

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(modules.FusedConv2dBNReLU(2, 4, 3), modules.Linear(4, 3, bias=True, wide=True))
    switch_to_qat(model, QatPolicy(start_epoch=0))
    path = tmp_path / "in.pth.tar"
    write_checkpoint(path, Checkpoint(state=arrays_from_tensors(model.state_dict()), epoch=1, arch="net"))
    return path


@pytest.mark.parametrize("suffix", [".pth.tar", ".safetensors"])
def test_writes_a_quantised_file(trained: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = trained.with_name(f"out{suffix}")
    assert main([str(trained), str(target), "-v"]) == 0
    found = read_checkpoint(target)
    assert found.is_quantized and (found.epoch, found.arch) == (1, "net")
    printed = capsys.readouterr().out
    assert "saturated" in printed and str(target) in printed


@pytest.mark.parametrize("options", [["--device", "MAX78002"], ["--device", "85"], ["--clip-method", "max"],
                                     ["--clip-method", "STDDEV", "--stddev", "1.5"], ["--clip-method", "SCALE"],
                                     ["--clip-method", "AVGMAX"], ["--qat-weight-bits", "4"]])
def test_options_are_accepted(trained: Path, options: list[str]) -> None:
    assert main([str(trained), str(trained.with_name("out.pth.tar")), *options]) == 0


def test_network_file_sets_widths(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = trained.with_name("net.yaml")
    network.write_text("arch: net\ndataset: any\nlayers:\n"
                       "  - {processors: 0x3, operation: conv2d, quantization: 4}\n"
                       "  - {processors: 0xf, operation: linear, flatten: true}\n")
    target = trained.with_name("out.pth.tar")
    assert main([str(trained), str(target), "-c", str(network)]) == 0
    found = read_checkpoint(target).state
    assert [int(found[f"{layer}.weight_bits"].item()) for layer in "01"] == [4, 8]
    assert "quantised with 4" in capsys.readouterr().out


@pytest.mark.parametrize(("arguments", "code"), [
    (["none.pth.tar", "out.pth.tar"], "E0501"), (["in.pth.tar", "out.onnx"], "E0509"),
    (["in.pth.tar", "in.pth.tar"], "E0538"), (["in.pth.tar", "out.pth.tar", "--device", "MAX78001"], "E0371"),
    (["in.pth.tar", "folder/out.pth.tar"], "E0810"), (["in.pth.tar", "out.pth.tar", "-c", "none.yaml"], "E0101")])
def test_problems_end_with_one_diagnostic_and_no_file(trained: Path, arguments: list[str], code: str,
                                                      monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(trained.parent)
    before = {path: path.read_bytes() for path in trained.parent.iterdir()}
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.count("error[") == 1 and f"error[{code}]" in errors
    assert {path: path.read_bytes() for path in trained.parent.iterdir()} == before


def test_errors_as_json(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(trained.parent / "none"), str(trained.with_name("out.pth.tar")), "--json-errors"]) == 2
    (finding,) = json.loads(capsys.readouterr().err)
    assert finding["code"] == "E0501" and finding["help"]


@pytest.mark.parametrize("arguments", [[], ["a"], ["a", "b", "--qat-weight-bits", "3"],
                                       ["a", "b", "--clip-method", "X"], ["a", "b", "--scale", "-1"],
                                       ["a", "b", "--stddev", "nan"]])
def test_wrong_usage_is_a_user_error(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_script_runs(trained: Path) -> None:
    done = subprocess.run([sys.executable, ROOT / "quantize.py", trained, trained.with_name("out.safetensors")],
                          capture_output=True, text=True, check=False, cwd=trained.parent,
                          env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"})
    assert done.returncode == 0, done.stderr
