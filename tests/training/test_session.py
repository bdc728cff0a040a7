"""Training runs: what they leave, that they repeat, and that an interrupted one goes on bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ai8x.checkpoint import read_checkpoint
from ai8x.cli.train import main
from ai8x.errors import UserError
from ai8x.training.run import METRIC_COLUMNS, RunFolder, RunLock
from ai8x.training.session import resume_training, start_training

ROOT = Path(__file__).resolve().parents[2]
READS = 40  # of one epoch of the toy task: 36 training samples in batches of 8, 4 for validation


def final_state(result):
    return read_checkpoint(result["checkpoints"]["qat_checkpoint"])


def assert_same_result(first, second):
    one, two = final_state(first).tensors(), final_state(second).tensors()
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    metrics = [Path(result["run"], "metrics.csv").read_bytes() for result in (first, second)]
    assert metrics[0] == metrics[1]
    assert first["accuracy"] == second["accuracy"]


def send_signal_after(monkeypatch, number, name="SIGINT"):
    monkeypatch.setenv("TOY_SIGNAL_AFTER", str(number))
    monkeypatch.setenv("TOY_SIGNAL", name)


def error_codes(error):
    return [finding.code for finding in error.value.diagnostics]


def test_run_folder_holds_what_it_should(toy):
    result = start_training({**toy, "tensorboard": True, "confusion": True})
    run = Path(result["run"])
    assert {p.name for p in run.iterdir()} == {
        "best.pth.tar", "checkpoint.pth.tar", "qat_best.pth.tar", "qat_checkpoint.pth.tar", "config.yaml",
        "environment.json", "log.txt", "metrics.csv", "qat_report.json", "tensorboard"}
    rows = (run / "metrics.csv").read_text().splitlines()
    assert rows[0] == ",".join(METRIC_COLUMNS)
    assert [row.split(",")[:2] for row in rows[1:]] == [["0", "float"], ["1", "float"], ["2", "qat"], ["3", "qat"]]
    assert json.loads((run / "environment.json").read_text())["torch"] == torch.__version__
    assert list((run / "tensorboard").glob("events.*"))
    log = (run / "log.txt").read_text()
    assert "--- validate (epoch=3)-----------" in log and "==> Best [Top1: " in log and "==> Confusion:" in log
    assert "\x1b" not in log


def test_result_has_paths_and_accuracies(toy):
    result = start_training(toy)
    assert result["status"] == "finished"
    assert all(Path(path).is_file() for path in result["checkpoints"].values())
    assert set(result["accuracy"]) == {"float", "qat", "integer"}
    assert result["accuracy"]["integer"]["test"] == result["accuracy"]["qat"]["test"]


def test_checkpoint_describes_itself(toy):
    checkpoint = final_state(start_training(toy))
    assert (checkpoint.arch, checkpoint.epoch, checkpoint.labels) == ("toynet", 3, ("a", "b", "c"))
    assert checkpoint.input_shape == (1, 8, 8)
    assert checkpoint.sample.shape == (1, 8, 8) and checkpoint.sample.dtype == "int8"
    assert checkpoint.training["optimizer_type"] == "Adam"
    assert not any(".bn." in name for name in checkpoint.state)


def test_equal_runs_give_equal_bytes(toy):
    assert_same_result(start_training(toy), start_training(toy))


def test_other_seed_gives_another_network(toy):
    first, second = (final_state(start_training({**toy, "seed": seed})).tensors() for seed in (1, 2))
    assert not torch.equal(first["conv1.op.weight"], second["conv1.op.weight"])


@pytest.mark.parametrize(("name", "reads"), [
    *(("SIGINT", reads) for reads in (1, 8, 20, 36, 37, 70, 79, 81, 110, 155, 156)), ("SIGTERM", 20), ("SIGTERM", 110),
])
def test_interrupted_run_goes_on_bit_for_bit(toy, monkeypatch, name, reads):
    whole = start_training(toy)
    send_signal_after(monkeypatch, reads, name)
    stopped = start_training(toy)
    monkeypatch.delenv("TOY_SIGNAL_AFTER")
    if stopped["status"] == "finished":  # the last step was done already
        assert reads > 152
    else:
        assert read_checkpoint(stopped["checkpoint"]).arch == "toynet"
    assert_same_result(whole, resume_training(stopped["run"], {}))


def test_interruption_is_noticed_within_the_step(toy, monkeypatch):
    send_signal_after(monkeypatch, READS + 10)
    stopped = start_training(toy)
    checkpoint = read_checkpoint(stopped["checkpoint"])
    assert stopped["status"] == "interrupted" and (checkpoint.epoch, checkpoint.training["step"]) == (0, 2)


def test_ctrl_c_ends_with_status_130_and_a_checkpoint_that_loads(toy, toy_arguments):
    command = [sys.executable, "-u", str(ROOT / "train.py"), *toy_arguments, "--epochs", "10000", "--print-freq", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("Epoch: [1]"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == 130
    result = json.loads(rest.splitlines()[-1])
    assert result["status"] == "interrupted" and "--resume" in rest
    assert read_checkpoint(result["checkpoint"]).training["step"] >= 0


def test_command_resumes_the_newest_run(toy, toy_arguments, monkeypatch, capsys):
    send_signal_after(monkeypatch, 20)
    assert main(toy_arguments) == 130
    monkeypatch.delenv("TOY_SIGNAL_AFTER")
    assert main(["--resume", "--out-dir", toy["out_dir"]]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["status"] == "finished" and result["epochs"] == 4


def test_finished_run_can_be_lengthened(toy):
    short = start_training({**toy, "decay": "none"})
    longer = resume_training(short["run"], {"epochs": 6})
    whole = start_training({**toy, "decay": "none", "epochs": 6})
    assert longer["run"] == short["run"]
    assert_same_result(whole, longer)


def test_resume_from_a_file_elsewhere_starts_a_new_folder(toy, tmp_path):
    first = start_training(toy)
    copy = tmp_path / "copy.pth.tar"
    copy.write_bytes(Path(first["checkpoints"]["checkpoint"]).read_bytes())
    second = resume_training(str(copy), {})
    assert second["run"] != first["run"]
    assert_same_result({**first, "accuracy": second["accuracy"]}, second)
    assert second["accuracy"]["qat"] == first["accuracy"]["qat"]


@pytest.mark.parametrize("settings", [{"arch": "digitsnet"}, {"optimizer": "sgd"}, {"use_bias": True}])
def test_resume_refuses_another_network(toy, settings):
    result = start_training(toy)
    with pytest.raises(UserError) as error:
        resume_training(result["run"], settings)
    assert error_codes(error) == ["E0623"]


def test_resume_refuses_another_batch_size_in_the_middle_of_an_epoch(toy, monkeypatch):
    send_signal_after(monkeypatch, 20)
    stopped = start_training(toy)
    with pytest.raises(UserError) as error:
        resume_training(stopped["run"], {"batch_size": 4})
    assert error_codes(error) == ["E0623"]


@pytest.mark.parametrize(("target", "code"), [("", "E0617"), ("nowhere", "E0617"), (".", "E0617")])
def test_resume_without_a_run_is_refused(toy, target, code):
    with pytest.raises(UserError) as error:
        resume_training(target, {"out_dir": toy["out_dir"]})
    assert error_codes(error) == [code]


def test_resume_of_bare_weights_is_refused(toy, tmp_path):
    path = tmp_path / "w.pth.tar"
    torch.save({"epoch": 1, "arch": "toynet", "state_dict": {"fc.op.weight": torch.zeros(3, 64)}}, path)
    with pytest.raises(UserError) as error:
        resume_training(str(path), {})
    assert error_codes(error) == ["E0627"]


def test_weights_of_another_run_are_the_start_of_a_new_one(toy):
    first = start_training(toy)
    second = start_training({**toy, "epochs": 1, "lr": 1e-12}, weights=Path(first["checkpoints"]["best"]))
    begun = read_checkpoint(second["checkpoints"]["best"]).tensors()
    former = read_checkpoint(first["checkpoints"]["best"]).tensors()
    assert torch.allclose(begun["fc.op.weight"], former["fc.op.weight"], atol=1e-6)


def test_weights_after_the_switch_are_no_start(toy):
    first = start_training(toy)
    with pytest.raises(UserError) as error:
        start_training(toy, weights=Path(first["checkpoints"]["qat_best"]))
    assert error_codes(error) == ["E0626"]


def test_training_without_policy_stays_float(toy):
    result = start_training({**toy, "qat_policy": "None", "qat_start": None})
    assert set(result["accuracy"]) == {"float"} and set(result["checkpoints"]) == {"best", "checkpoint"}


@pytest.mark.parametrize(("text", "hinted"), [
    ("weight_bits: 2\n", True), ("weight_bits: 2\nshift_quantile: 0.99\n", False), ("weight_bits: 4\n", False),
])
def test_coarse_steps_are_hinted_at(toy, tmp_path, capsys, text, hinted):
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"start_epoch: 1\n{text}")
    start_training({**toy, "epochs": 2, "qat_start": None, "qat_policy": str(policy)})
    assert ("hint: most weights of conv1, conv2, fc will become 0" in capsys.readouterr().out) == hinted


def test_policy_overrides_reach_the_layers(toy, tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("start_epoch: 1\nweight_bits: 2\noverrides:\n  conv1:\n    weight_bits: 8\n")
    result = start_training({**toy, "qat_policy": str(policy), "qat_start": None, "epochs": 2})
    state = final_state(result).state
    assert (int(state["conv1.weight_bits"][0]), int(state["conv2.weight_bits"][0])) == (8, 2)
    assert result["accuracy"]["integer"]["test"] == result["accuracy"]["qat"]["test"]


@pytest.mark.parametrize(("settings", "code"), [
    ({"arch": "nonet"}, "E0603"), ({"dataset": "nodata"}, "E0604"), ({"qat_policy": "None"}, "E0623"),
    ({"qat_policy": "missing.yaml"}, "E0651"), ({"schedule": "missing.yaml"}, "E0101"),
    ({"models_path": "missing"}, "E0602"), ({"epochs": 0}, "E0601"), ({"dataset": "MNIST"}, "E0609"),
])
def test_bad_settings_are_refused_before_anything_is_written(toy, settings, code):
    with pytest.raises(UserError) as error:
        start_training({**toy, **settings})
    assert code in error_codes(error)
    assert not Path(toy["out_dir"]).exists()


def test_infinite_loss_stops_the_run_and_names_the_layer(toy):
    with pytest.raises(UserError) as error:
        start_training({**toy, "lr": 1e30, "decay": "none", "optimizer": "sgd"})
    assert error_codes(error) == ["E0622"]
    assert "layer '" in error.value.diagnostics[0].message
    (file,) = Path(toy["out_dir"]).glob("*/diagnostic.pth.tar")
    assert str(file) in error.value.diagnostics[0].help
    saved = torch.load(file, weights_only=True)
    step = int(error.value.diagnostics[0].message.split("step ")[1].split(":")[0])
    assert (saved["epoch"], saved["step"]) == (-1, step)
    assert not all(bool(torch.isfinite(value.float()).all()) for value in saved["state_dict"].values())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "Adam"])
def test_every_optimizer_survives_switch_and_resume(toy, optimizer, monkeypatch):
    settings = {**toy, "optimizer": optimizer, "tensorboard": optimizer == "Adam"}
    whole = start_training(settings)
    send_signal_after(monkeypatch, 90)
    stopped = start_training(settings)
    monkeypatch.delenv("TOY_SIGNAL_AFTER")
    assert_same_result(whole, resume_training(stopped["run"], {}))


def test_names_get_the_prefix(toy):
    result = start_training({**toy, "name": "try"})
    assert Path(result["run"]).name.startswith("try_")
    assert Path(result["checkpoints"]["qat_best"]).name == "try_qat_best.pth.tar"
    assert resume_training(result["run"], {})["checkpoints"] == result["checkpoints"]


def test_locked_run_is_refused_and_a_dead_owner_is_not(toy):
    result = start_training(toy)
    run = RunFolder(path=Path(result["run"]))
    lock = run.path / "run.lock"
    for owner, refused in ((os.getppid(), True), (2**22 + 1, False)):
        lock.write_text(json.dumps({"pid": owner, "host": os.uname().nodename}))
        if refused:
            with pytest.raises(UserError) as error, RunLock(run):
                pass
            assert error_codes(error) == ["E0620"] and str(owner) in error.value.diagnostics[0].found
        else:
            with RunLock(run):
                assert json.loads(lock.read_text())["pid"] == os.getpid()
            assert not lock.exists()
