"""Teachers, running means, pruning, regression, reports and the options of ai8x-training on the toy task."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ai8x.checkpoint import read_checkpoint
from ai8x.cli.train import DROPPED_OPTIONS, LATER_OPTIONS, main
from ai8x.errors import UserError
from ai8x.nn.modules import Add, FusedConv2dBNReLU, FusedDepthwiseConv2dReLU, FusedMaxPoolConv2dReLU, Linear
from ai8x.training.average import WeightAverage
from ai8x.training.evaluation import EvaluationRequest, evaluate_checkpoint
from ai8x.training.objectives import Distillation, DistillationObjective, RegressionObjective
from ai8x.training.pruning import WeightMask, map_channels, prune_channels, prune_weights
from ai8x.training.session import resume_training, start_training

VALUES = '''
import torch
from torch.utils.data import Dataset

import ai8x


class Signals(Dataset):
    def __init__(self, count, args):
        self.count, self.transform = count, ai8x.normalize(args=args)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        signal = torch.sin(torch.arange(8.0) * (1 + index % 3)).repeat(4, 1) * 0.25 + 0.5
        data = self.transform(signal)
        return data, data


def load(data, load_train=True, load_test=True):
    return Signals(24, data[1]), Signals(6, data[1])


datasets = [{"name": "signals", "input": (4, 8), "output": ("signal",), "regression": True, "loader": load}]
'''

RESTORER = '''
from torch import nn

import ai8x


class Restorer(nn.Module):
    def __init__(self, num_classes=1, num_channels=4, dimensions=(8, 1), bias=True, **kwargs):
        super().__init__()
        self.conv1 = ai8x.FusedConv1dReLU(num_channels, 8, 3, padding=1, bias=True, **kwargs)
        self.conv2 = ai8x.Conv1d(8, num_channels, 1, bias=True, **kwargs)

    def forward(self, x):
        return self.conv2(self.conv1(x))


def restorer(pretrained=False, **kwargs):
    return Restorer(**kwargs)


models = [{"name": "restorer", "min_input": 1, "dim": 1}]
'''


def codes(error):
    return [finding.code for finding in error.value.diagnostics]


def state_of(result, name="qat_checkpoint"):
    return read_checkpoint(result["checkpoints"][name]).tensors()


def log_of(result):
    return Path(result["run"], "log.txt").read_text()


def rows_of(result):
    lines = Path(result["run"], "metrics.csv").read_text().splitlines()
    return [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]


# ------------------------------------------------------------------------------------------------ regression

@pytest.fixture
def signals(toy, tmp_path):
    (tmp_path / "datasets" / "signals.py").write_text(VALUES)
    (tmp_path / "models" / "restorer.py").write_text(RESTORER)
    return {**toy, "arch": "restorer", "dataset": "signals", "epochs": 12, "qat_start": 6, "lr": 0.01}


def test_values_are_learnt_by_their_squared_error(signals):
    result = start_training(signals)
    rows = rows_of(result)
    assert list(rows[0])[2:6] == ["train_loss", "train_mse", "validation_loss", "validation_mse"]
    assert float(rows[-1]["validation_mse"]) < 0.3 * float(rows[0]["validation_mse"])
    assert result["metric"] == "mse"
    best = min(rows[6:], key=lambda row: float(row["validation_mse"]))
    assert result["accuracy"]["qat"]["epoch"] == int(best["epoch"])
    assert result["accuracy"]["integer"]["test"] == pytest.approx(result["accuracy"]["qat"]["test"], rel=1e-6)
    assert "==> MSE: " in log_of(result)


def test_evaluation_of_values_gives_the_figures_of_training(signals):
    result = start_training(signals)
    found = evaluate_checkpoint(EvaluationRequest(file=Path(result["checkpoints"]["qat_best"]), settings={}))
    assert found["mse"] == pytest.approx(result["accuracy"]["qat"]["test"], rel=1e-4)


# ------------------------------------------------------------------------------------------------ teachers

def test_distillation_loss_is_the_weighted_sum():
    teacher = torch.nn.Linear(3, 4)
    outputs, inputs, targets = torch.randn(5, 4), torch.randn(5, 3), torch.randn(5, 4)
    inner = RegressionObjective(device=torch.device("cpu"))
    part = Distillation(teacher=teacher, temperature=2.0, distill_weight=0.3, student_weight=0.7)
    objective = DistillationObjective(inner=inner, distillation=part)
    student, other = (outputs / 2).softmax(1), (teacher(inputs) / 2).softmax(1)
    distance = (other * (other / student).log()).sum() / 5
    expected = 0.7 * torch.nn.functional.mse_loss(outputs, targets) + 0.3 * 4 * distance
    assert torch.allclose(objective.training_loss(inputs, outputs, targets), expected)
    assert torch.equal(objective.loss(inputs, outputs, targets), inner.loss(inputs, outputs, targets))


def test_relation_based_distillation_compares_outputs_in_validation_too():
    teacher = torch.nn.Linear(3, 4)
    inner = RegressionObjective(device=torch.device("cpu"))
    objective = DistillationObjective(inner=inner, distillation=Distillation(teacher=teacher, relation_based=True))
    inputs, outputs = torch.randn(5, 3), torch.randn(5, 4)
    expected = (outputs - teacher(inputs)).square().mean()
    for loss in (objective.loss, objective.training_loss):
        assert torch.allclose(loss(inputs, outputs, torch.zeros(5, 4)), expected)


def test_student_learns_from_a_teacher(toy):
    teacher = start_training({**toy, "qat_start": 9})
    settings = {**toy, "kd_teacher": "toynet", "kd_resume": teacher["checkpoints"]["best"], "kd_start_epoch": 1}
    alone, taught = start_training(toy), start_training(settings)
    assert rows_of(alone)[0] == rows_of(taught)[0]  # the teacher comes in epoch 1
    assert rows_of(alone)[1]["train_loss"] != rows_of(taught)[1]["train_loss"]
    student_only = start_training({**settings, "kd_distill_wt": 0.0, "kd_student_wt": 1.0})
    assert rows_of(student_only) == rows_of(alone)
    assert not any("teacher" in name for name in state_of(taught))


@pytest.mark.parametrize("settings", [{"kd_teacher": "toynet"}, {"kd_resume": "x.pth.tar"}, {"kd_relationbased": True}])
def test_teacher_needs_weights_and_weights_a_teacher(toy, settings):
    with pytest.raises(UserError) as error:
        start_training({**toy, **settings})
    assert codes(error) == ["E0635"]
    assert not Path(toy["out_dir"]).exists()


# ------------------------------------------------------------------------------------------------ running mean

def test_average_moves_towards_the_weights_and_copies_counters():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1))
    average = WeightAverage(model, 0.5)
    start = model[0].weight.item()
    with torch.no_grad():
        model[0].weight.add_(1.0)
        model[1].num_batches_tracked.add_(7)
    average.update(model)
    assert average.model[0].weight.item() == pytest.approx(start + 0.9)  # the first step forgets nine tenths
    assert int(average.model[1].num_batches_tracked) == 7


def test_average_is_what_is_validated_and_kept(toy):
    plain, averaged = start_training(toy), start_training({**toy, "ema": 0.9})
    raw, best = state_of(averaged), state_of(averaged, "qat_best")
    assert all(torch.equal(raw[name], value) for name, value in state_of(plain).items())  # training itself is the same
    assert not torch.equal(raw["fc.op.weight"], best["fc.op.weight"])
    again = evaluate_checkpoint(EvaluationRequest(file=Path(averaged["checkpoints"]["qat_best"]), settings={}))
    assert again["top1"] == averaged["accuracy"]["qat"]["test"]


def test_run_with_an_average_goes_on_bit_for_bit(toy, monkeypatch):
    settings = {**toy, "ema": 0.9}
    whole = start_training(settings)
    monkeypatch.setenv("TOY_SIGNAL_AFTER", "100")
    monkeypatch.setenv("TOY_SIGNAL", "SIGINT")
    stopped = start_training(settings)
    monkeypatch.delenv("TOY_SIGNAL_AFTER")
    resumed = resume_training(stopped["run"], {})
    for name in ("qat_checkpoint", "qat_best"):
        assert all(torch.equal(state_of(whole, name)[key], value) for key, value in state_of(resumed, name).items())


# ------------------------------------------------------------------------------------------------ pruning

class Bridged(torch.nn.Module):
    """An addition, a depthwise layer, a concatenation and flattening."""

    def __init__(self):
        super().__init__()
        self.conv1 = FusedConv2dBNReLU(1, 16, 3, padding=1, bias=True)
        self.conv2 = FusedConv2dBNReLU(16, 16, 3, padding=1, bias=True)
        self.add = Add()
        self.deep = FusedDepthwiseConv2dReLU(16, 16, 3, padding=1, bias=True)
        self.side = FusedMaxPoolConv2dReLU(16, 16, 1, pool_size=1, pool_stride=1, bias=True)
        self.fc = Linear(32 * 16, 3, bias=True, wide=True)

    def forward(self, images):
        data = self.conv1(images)
        data = self.deep(self.add(self.conv2(data), data))
        return self.fc(torch.cat((data, self.side(data)), dim=1).flatten(1))


def test_channels_that_hang_together_are_found():
    channels = map_channels(Bridged(), torch.zeros(1, 1, 4, 4))
    assert channels.outputs["conv1"] == channels.outputs["conv2"] == channels.outputs["deep"]
    assert channels.inputs["side"] == channels.outputs["deep"]
    assert channels.inputs["fc"][:32] == [channels.outputs["deep"][0]] * 16 + [channels.outputs["deep"][1]] * 16
    assert channels.inputs["fc"][16 * 16] == channels.outputs["side"][0]
    assert set(channels.inputs["conv1"]) <= channels.fixed and not set(channels.outputs["conv1"]) & channels.fixed


def test_pruned_network_computes_what_the_remaining_channels_computed():
    torch.manual_seed(0)
    model = Bridged().eval()
    images = torch.rand(2, 1, 4, 4) - 0.5
    with torch.no_grad():
        for name in ("conv1", "conv2", "deep"):  # channels that add nothing are the least important ones
            layer = getattr(model, name)
            layer.op.weight[4:8] = 0
            layer.op.bias[4:8] = -1
            if layer.bn is not None:
                layer.bn.running_mean[4:8] = 0
        model.side.op.weight[0:4] = 0
        model.side.op.bias[0:4] = -1
        before = model(images)
        changed = prune_channels(model, images[:1], 0.25)
        assert changed == {"conv1": (16, 12), "conv2": (16, 12), "deep": (16, 12), "side": (16, 12)}
        assert torch.allclose(model(images), before, atol=1e-6)
    assert model.deep.op.groups == 12 and model.fc.op.weight.shape == (3, 24 * 16)


def test_run_with_channel_pruning_ends_with_a_smaller_network(toy, toy_arguments, capsys):
    result = start_training({**toy, "prune": 0.5, "prune_epoch": 1})
    full = start_training(toy)
    small, large = state_of(result, "qat_best"), state_of(full, "qat_best")
    assert small["conv2.op.weight"].shape[0] < large["conv2.op.weight"].shape[0]
    assert sum(value.numel() for value in small.values()) < 0.7 * sum(value.numel() for value in large.values())
    assert result["accuracy"]["integer"] == {"test": result["accuracy"]["qat"]["test"]}
    assert main(["--evaluate", result["checkpoints"]["qat_best"]]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["top1"] == result["accuracy"]["qat"]["test"]
    assert main(["--summary", "compute", "--evaluate", result["checkpoints"]["qat_best"]]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["conv1", "1x8x8", "2x8x8"]


@pytest.mark.parametrize("kind", ["channels", "magnitude"])
def test_pruned_run_goes_on_bit_for_bit(toy, monkeypatch, kind):
    settings = {**toy, "prune": 0.5, "prune_epoch": 1, "prune_kind": kind}
    whole = start_training(settings)
    monkeypatch.setenv("TOY_SIGNAL_AFTER", "105")
    monkeypatch.setenv("TOY_SIGNAL", "SIGINT")
    stopped = start_training(settings)
    monkeypatch.delenv("TOY_SIGNAL_AFTER")
    assert stopped["status"] == "interrupted"
    resumed = resume_training(stopped["run"], {})
    one, two = state_of(whole), state_of(resumed)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_magnitude_pruning_keeps_the_share_at_zero(toy):
    result = start_training({**toy, "prune": 0.5, "prune_epoch": 1, "prune_kind": "magnitude"})
    for name, value in state_of(result).items():
        if name.endswith("op.weight"):
            assert int((value == 0).sum()) >= value.numel() // 2


def test_mask_holds_what_the_smallest_weights_were():
    model = torch.nn.Sequential(Linear(4, 2, bias=None))
    with torch.no_grad():
        model[0].op.weight.copy_(torch.tensor([[0.1, -0.5, 0.3, 0.2], [-0.4, 0.05, 0.6, -0.7]]))
    assert prune_weights(model, 0.5) == 0.5
    expected = torch.tensor([[0, -0.5, 0, 0], [-0.4, 0, 0.6, -0.7]])
    assert torch.equal(model[0].op.weight.detach(), expected)
    mask = WeightMask(model)
    with torch.no_grad():
        model[0].op.weight.add_(1)
    mask.apply(model)
    assert torch.equal(model[0].op.weight.detach(), torch.where(expected == 0, 0, expected + 1))


def test_model_that_branches_on_its_data_cannot_be_pruned_by_channels():
    class Branching(Bridged):
        def forward(self, images):
            return super().forward(images if images.sum() > 0 else -images)

    with pytest.raises(UserError) as error:
        map_channels(Branching(), torch.zeros(1, 1, 4, 4))
    assert codes(error) == ["E0636"]


# ------------------------------------------------------------------------------------------------ reports and options

def test_report_of_the_layers_lies_in_the_run_folder(toy):
    result = start_training(toy)
    report = json.loads(Path(result["run"], "qat_report.json").read_text())
    assert [row["layer"] for row in report["layers"]] == ["conv1", "conv2", "fc"]
    assert report["test"] == {name: entry["test"] for name, entry in result["accuracy"].items()}
    state = state_of(result, "qat_best")
    for row in report["layers"]:
        weight = state[f"{row['layer']}.op.weight"]
        assert row["weight_range"] == pytest.approx([float(weight.min()), float(weight.max())], abs=1e-6)
        assert row["weight_bits"] == 8 and 0 <= row["outputs_clipped_percent"] <= 100
        assert row["weights_clipped_percent"] <= 100 / weight.numel() * 2
    assert "--- layers ---" in log_of(result)


def test_best_scores_are_listed(toy):
    log = log_of(start_training({**toy, "num_best_scores": 2}))
    assert log.count("==> Best [") == 1 + 2 + 1 + 2


def test_training_accuracy_can_be_left_out(toy):
    result = start_training({**toy, "show_train_accuracy": "none"})
    assert "train_top1" not in rows_of(result)[0]
    assert rows_of(result)[-1]["validation_top1"] == rows_of(start_training(toy))[-1]["validation_top1"]


def test_class_weights_are_checked_and_used(toy):
    with pytest.raises(UserError) as error:
        start_training({**toy, "class_weights": "1,2"})
    assert codes(error) == ["E0633"]
    weighted, plain = start_training({**toy, "class_weights": "1,1,5"}), start_training(toy)
    assert rows_of(weighted)[0]["train_loss"] != rows_of(plain)[0]["train_loss"]


def test_tensorboard_extras_are_written(toy):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = start_training({**toy, "tensorboard": True, "param_hist": True, "embedding": True, "pr_curves": True})
    board = Path(result["run"], "tensorboard")
    events = EventAccumulator(str(board)).Reload()
    assert "Parameters/conv1.op.weight" in events.Tags()["histograms"]
    assert {"PR/a", "PR/b", "PR/c"} <= set(events.Tags()["tensors"])
    points = next(board.rglob("tensors.tsv")).read_text().splitlines()
    assert len(points) == 12 and len(points[0].split("\t")) == 3


def test_run_folder_is_copied(toy, tmp_path):
    result = start_training({**toy, "copy_output_folder": str(tmp_path / "copies")})
    copied = Path(result["copy"])
    assert copied.parent == tmp_path / "copies"
    assert (copied / "qat_best.pth.tar").read_bytes() == Path(result["checkpoints"]["qat_best"]).read_bytes()
    assert not (copied / "run.lock").exists()


def test_reset_optimizer_starts_a_new_run_from_the_weights(toy):
    first = start_training({**toy, "epochs": 2})
    again = resume_training(first["run"], {"epochs": 1}, reset=True)
    assert again["run"] != first["run"]
    assert [row["epoch"] for row in rows_of(again)] == ["0"]
    assert float(rows_of(again)[0]["train_loss"]) != float(rows_of(first)[0]["train_loss"])


def test_half_precision_is_used_in_float_epochs_only(toy):
    half, full = start_training({**toy, "amp": True}), start_training(toy)
    assert rows_of(half)[0]["train_loss"] != rows_of(full)[0]["train_loss"]
    assert float(rows_of(half)[0]["train_loss"]) == pytest.approx(float(rows_of(full)[0]["train_loss"]), rel=0.02)
    assert {str(value.dtype) for value in state_of(half).values()} <= {"torch.float32", "torch.int64", "torch.bool"}


def test_compiled_training_leaves_no_prefix_in_files(toy):
    result = start_training({**toy, "compiler_mode": "default", "compiler_backend": "eager"})
    plain = start_training(toy)
    for name in ("checkpoint", "qat_checkpoint"):
        compiled, expected = state_of(result, name), state_of(plain, name)
        assert list(compiled) == list(expected)
        assert all(torch.allclose(compiled[key].float(), value.float(), atol=1e-5) for key, value in expected.items())


@pytest.mark.parametrize("option", sorted(LATER_OPTIONS))
def test_options_of_later_versions_answer_with_one_line(option, capsys):
    values = ["1"] if LATER_OPTIONS[option] else []
    assert main([option, *values]) == 2
    error = capsys.readouterr().err
    assert error.count("error[E0637]") == 1 and option in error


def test_dropped_options_warn(capsys):
    given = [word for option, values in DROPPED_OPTIONS.items() for word in (option, *(["x"] if values else []))]
    assert main([*given, "--list-datasets"]) == 0
    assert capsys.readouterr().err.count("has no effect here") == len(DROPPED_OPTIONS)


@pytest.mark.parametrize("kind", ["model", "compute", "memory", "sparsity"])
def test_summaries_count_the_layers(kind, toy_arguments, capsys):
    assert main([*toy_arguments, "--summary", kind]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["conv1", "conv2", "fc", "total"]
    assert "room enough on: MAX78000" in lines[-1]
    if kind == "compute":
        assert lines[1].split()[3] == f"{8 * 8 * 9 * 4:,}" and lines[3].split()[3] == "192"


def test_sample_can_be_cut_to_three_channels(signals, capsys):
    result = start_training(signals)
    assert main(["--evaluate", result["checkpoints"]["best"], "--save-sample", "1", "--slice-sample"]) == 0
    assert np.load(json.loads(capsys.readouterr().out.splitlines()[-1])["sample"]).shape == (3, 8)
