"""Accuracy of stored checkpoints: float, QAT and quantised; what does not fit is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ai8x.checkpoint import read_checkpoint, write_checkpoint
from ai8x.cli.train import main
from ai8x.nn.loading import load_state
from ai8x.quantization import quantize_checkpoint
from ai8x.training.config import TrainConfig
from ai8x.training.data import BatchPlan, LoaderArguments
from ai8x.training.registry import create_model, discover, find_dataset, find_model
from ai8x.training.session import start_training


@pytest.fixture
def trained(toy, tmp_path):
    """Paths of a float, a QAT and a quantised checkpoint, and what training said of them."""
    result = start_training(toy)
    quantized, _ = quantize_checkpoint(read_checkpoint(result["checkpoints"]["qat_best"]))
    write_checkpoint(tmp_path / "q.pth.tar", quantized)
    return {"float": result["checkpoints"]["best"], "qat": result["checkpoints"]["qat_best"],
            "integer": str(tmp_path / "q.pth.tar"), "accuracy": result["accuracy"]}


def last_json(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(("kind", "options"), [
    ("float", []), ("qat", []), ("integer", ["-8"]), ("integer", []), ("integer", ["--8-bit-mode", "--confusion"]),
])
def test_evaluation_repeats_the_accuracy_of_training(trained, capsys, kind, options):
    assert main(["--evaluate", trained[kind], *options]) == 0
    result = last_json(capsys)
    assert result["mode"] == kind
    assert result["top1"] == trained["accuracy"][kind]["test"]
    assert result["count"] == 12


def test_spelling_of_ai8x_training(trained, capsys):
    assert main(["--evaluate", "-8", "--exp-load-weights-from", trained["integer"]]) == 0
    output = capsys.readouterr().out
    assert "==> Top1: " in output and "Loss: " in output


def test_integer_loss_is_on_the_scale_of_training(trained, capsys):
    losses = []
    for kind in ("qat", "integer"):
        assert main(["--evaluate", trained[kind]]) == 0
        losses.append(last_json(capsys)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("kind", ["float", "qat"])
def test_integer_evaluation_of_an_unquantised_file_is_refused(trained, capsys, kind):
    assert main(["--evaluate", trained[kind], "-8"]) == 2
    error = capsys.readouterr().err
    assert error.count("error[E0520]") == error.count("error[") == 1 and trained[kind] in error


@pytest.mark.parametrize("use_bias", [False, True])
def test_file_of_another_tool_needs_only_the_model_and_the_data(toy, toy_arguments, capsys, tmp_path, use_bias):
    trained = start_training({**toy, "use_bias": use_bias})
    bare = tmp_path / "bare.pth.tar"
    checkpoint = read_checkpoint(trained["checkpoints"]["best"])
    state = {f"module.{name}": value for name, value in checkpoint.tensors().items()}
    torch.save({"epoch": 3, "arch": "toynet", "state_dict": state}, bare)
    assert main([*toy_arguments, "--evaluate", str(bare)]) == 0
    assert last_json(capsys)["top1"] == trained["accuracy"]["float"]["test"]


def test_other_architecture_is_refused(trained, capsys):
    assert main(["--evaluate", trained["float"], "--model", "ai85net5"]) == 2
    assert "error[E05" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "empty", "folder"])
def test_damaged_file_is_refused(trained, capsys, damage, tmp_path):
    path = tmp_path / "bad.pth.tar"
    content = bytearray(Path(trained["float"]).read_bytes())
    weight = read_checkpoint(trained["float"]).state["fc.op.weight"].tobytes()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        content[content.index(weight) + 100] ^= 4 if damage == "flipped" else 0
        path.write_bytes({"truncated": content[:1000], "flipped": content, "empty": b""}[damage])
    assert main(["--evaluate", str(path)]) == 2
    error = capsys.readouterr().err
    assert "error[E05" in error and "Traceback" not in error


def test_sample_is_written_as_integers(trained, capsys, tmp_path):
    assert main(["--evaluate", trained["integer"], "-8", "--save-sample", "2"]) == 0
    sample = np.load(last_json(capsys)["sample"])
    assert (sample.shape, sample.dtype) == ((1, 8, 8), np.int64)
    assert set(np.unique(sample)) == {round(0.4 * 256) - 128, round(0.7 * 256) - 128}


def test_sample_beyond_the_test_part_is_refused(trained, capsys):
    assert main(["--evaluate", trained["integer"], "--save-sample", "12"]) == 2
    assert "error[E0625]" in capsys.readouterr().err


def test_only_the_first_of_several_processes_evaluates(trained, capsys, monkeypatch):
    shown = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert main(["--evaluate", trained["float"]]) == 0
        shown.append(capsys.readouterr().out)
    assert json.loads(shown[0].splitlines()[-1])["top1"] == trained["accuracy"]["float"]["test"] and shown[1] == ""


def test_training_with_integers_is_refused(capsys):
    assert main(["-8", "--epochs", "1"]) == 2
    assert "error[E0621]" in capsys.readouterr().err


def test_integer_logits_are_the_qat_logits(trained, toy):
    config = TrainConfig(**toy)
    catalogue = discover(config.models_path, config.datasets_path)
    data, spec = find_dataset(catalogue, "toy"), find_model(catalogue, "toynet")
    logits = []
    for kind in ("qat", "integer"):
        model = create_model(spec, data, config)
        load_state(model, read_checkpoint(trained[kind]).tensors())
        samples = data.loader(LoaderArguments(act_mode_8bit=kind == "integer")).test
        inputs, _ = next(samples.batches(BatchPlan(batch_size=12)))
        logits.append(model.eval()(inputs).detach())
    assert torch.equal(logits[0], logits[1]) and logits[0].std() > 0
