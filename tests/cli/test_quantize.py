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


@pytest.mark.parametrize("arguments", [[], ["a", "b", "--qat-weight-bits", "3"],
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


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float checkpoint of the default model; not trained, which does not matter here."""
    from ai8x.training.config import TrainConfig
    from ai8x.training.registry import create_model, discover, find_dataset, find_model

    torch.manual_seed(0)
    catalogue = discover()
    model = create_model(find_model(catalogue, "digitsnet"), find_dataset(catalogue, "digits"), TrainConfig())
    path = tmp_path_factory.mktemp("digits") / "float.pth.tar"
    write_checkpoint(path, Checkpoint(state=arrays_from_tensors(model.state_dict()), epoch=1, arch="digitsnet",
                                      input_shape=(1, 28, 28)))
    return path


def test_comparison_prints_and_plots(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "q.pth.tar"
    assert main([str(digits), str(target), "--compare", "digits", "--samples", "8"]) == 0
    printed = capsys.readouterr().out
    assert "SNR dB" in printed and "add" in printed and "of 8 samples" in printed
    assert (tmp_path / "q-compare.svg").read_text().startswith("<svg")
    plot = tmp_path / "p.svg"
    assert main([str(target), "--compare", "digits", "--checkpoint-float", str(digits), "--samples", "8",
                 "--plot", str(plot)]) == 0
    assert plot.exists()


def test_calibration_and_budget(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "q.pth.tar"
    assert main([str(digits), str(target), "--dataset", "digits", "--calibrate", "KL", "--auto-bits", "14000",
                 "--samples", "16"]) == 0
    printed = capsys.readouterr().out
    assert "measured" in printed and "marks the chosen widths" in printed
    state = read_checkpoint(target).state
    bits = {name: int(state[f"{name}.weight_bits"].item()) for name in ("conv1", "conv2", "conv3", "conv4", "fc")}
    assert sum(state[f"{n}.op.weight"].size * b for n, b in bits.items()) <= 8 * 14000 and len(set(bits.values())) > 1
    assert "fc.final_scale" in state


def test_sensitivity_needs_no_output(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(digits.parent.iterdir())
    assert main([str(digits), "--sensitivity", "--dataset", "digits", "--samples", "8"]) == 0
    assert "8 bits" in capsys.readouterr().out and list(digits.parent.iterdir()) == before


def test_exported_network_computes_the_integers_of_the_model(digits: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")
    from ai8x.quantization.task import find_task

    target, by_model, by_file = tmp_path / "q.pth.tar", tmp_path / "model.onnx", tmp_path / "file.onnx"
    assert main([str(digits), str(target), "--onnx", str(by_model), "--dataset", "digits"]) == 0
    assert main([str(target), "--onnx", str(by_file), "-c", str(ROOT / "networks" / "digits.yaml")]) == 0
    quantized = read_checkpoint(target)
    task = find_task(quantized, "digits")
    model = task.integer_model(quantized)
    inputs = torch.cat(list(task.test_batches(40))) * 128
    expected = (model(inputs) * 2.0 ** (14 - float(model.fc.output_shift))).detach().numpy()
    for path in (by_model, by_file):
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"input": inputs.numpy().astype("int8")})
        assert found.dtype == "int32" and (found.reshape(expected.shape) == expected).all()


@pytest.mark.parametrize(("arguments", "code"), [
    (["float.pth.tar"], "E0566"), (["float.pth.tar", "q.pth.tar", "--plot", "x.svg"], "E0566"),
    (["float.pth.tar", "q.pth.tar", "--auto-bits", "10", "--dataset", "digits"], "E0563"),
    (["float.pth.tar", "--sensitivity", "--dataset", "digit"], "E0604"),
    (["float.pth.tar", "q.pth.tar", "--compare", "MNST"], "E0604"),
    (["float.pth.tar", "q.pth.tar", "--scale", "0.85"], "E0566"),
    (["float.pth.tar", "q.pth.tar", "--scale", "0.85", "--clip-method", "STDDEV"], "E0566"),
    (["float.pth.tar", "q.pth.tar", "--stddev", "2"], "E0566")])
def test_options_that_do_not_fit_are_refused(digits: Path, arguments: list[str], code: str,
                                             monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(digits.parent)
    assert main(arguments) == 2
    assert f"error[{code}]" in capsys.readouterr().err and not Path("q.pth.tar").exists()
