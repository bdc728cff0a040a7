"""The pruning curve: its figures are those of pruned models, and its picture shows every one of them."""

import copy
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from ai8x.cli.quantize import main as quantize
from ai8x.cli.train import main
from ai8x.nn.base import quantized_layers
from ai8x.training.data import LoaderArguments
from ai8x.training.digits import DIGITS
from ai8x.training.loop import evaluate
from ai8x.training.objectives import ClassificationObjective
from ai8x.training.prune_curve import (
    CHANNELS,
    SHARES,
    WEIGHTS,
    PruningCurve,
    PruningCurves,
    measure_pruning,
    pruning_plot,
)
from ai8x.training.pruning import prune_channels, prune_layer, prune_weights
from ai8x.training.session import start_training
from models.ai85netextrasmall import ai85netextrasmall

BRANCHING = """
from torch import nn
import ai8x


class Branching(nn.Module):
    def __init__(self, num_classes=3, num_channels=1, dimensions=(8, 8), bias=True, **kwargs):
        super().__init__()
        self.fc = ai8x.Linear(64, num_classes, bias=True, wide=True, **kwargs)

    def forward(self, x):
        return self.fc(x.flatten(1) if float(x.mean()) > -5 else x.flatten(1) * 2)


def branchnet(pretrained=False, **kwargs):
    return Branching(**kwargs)


models = [{"name": "branchnet", "min_input": 1, "dim": 2}]
"""


def test_figures_are_those_of_the_pruned_model():
    torch.manual_seed(0)
    model = ai85netextrasmall(num_classes=10, num_channels=1, dimensions=(28, 28), bias=True)
    before = copy.deepcopy(model.state_dict())
    samples = DIGITS.loader(LoaderArguments()).validation
    objective = ClassificationObjective(num_classes=10, device=torch.device("cpu"))
    sample = torch.zeros(1, 1, 28, 28)
    curves = measure_pruning(model, samples, objective, sample)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [row.name for row in curves.whole] == [WEIGHTS, CHANNELS]
    assert [row.name for row in curves.layers] == list(quantized_layers(model))
    first = curves.layers[0].name
    for found, prune in ((curves.whole[0], lambda m: prune_weights(m, 0.5)),
                         (curves.whole[1], lambda m: prune_channels(m, sample, 0.5)),
                         (curves.layers[0], lambda m: prune_layer(first, m, 0.5))):
        smaller = copy.deepcopy(model)
        prune(smaller)
        assert found.figures[SHARES.index(0.5)] == evaluate(smaller, samples, objective).top1
    assert len({row.figures[0] for row in (*curves.whole, *curves.layers)}) == 1


@pytest.mark.parametrize("metric", ["top1", "mse"])
def test_picture_shows_every_layer_and_share(metric):
    falling = tuple(100 - 90 * share for share in SHARES)
    curves = PruningCurves(metric=metric, whole=(PruningCurve(name=WEIGHTS, figures=falling),),
                           layers=tuple(PruningCurve(name=f"conv<{i}>", figures=falling) for i in range(3)))
    root = ET.fromstring(pruning_plot(curves, title="a < b"))
    space = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in root.iter(f"{space}text")]
    assert {"a < b", "conv<0>", "conv<1>", "conv<2>", WEIGHTS, "90 %"} <= set(texts)
    cells = [rect for rect in root.iter(f"{space}rect") if rect.get("fill") != "#ffffff"]
    assert len(cells) == 3 * len(SHARES)
    assert len(root.findall(f"{space}polyline")) == 1


def test_command_writes_table_and_picture_beside_the_checkpoint(toy, toy_arguments, capsys):
    result = start_training(toy)
    file = Path(result["checkpoints"]["qat_best"])
    assert main(["--evaluate", str(file), "--prune-curve"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-6:-1]] == ["single", "whole", "conv1", "conv2", "fc"]
    assert (file.parent / "qat_best-pruning.svg").is_file()
    assert quantize([str(file), "q.pth.tar"]) == 0
    assert main(["--evaluate", "q.pth.tar", "--prune-curve"]) == 2
    assert "error[E0628]" in capsys.readouterr().err
    assert main([*toy_arguments, "--prune-curve"]) == 2
    assert "error[E0621]" in capsys.readouterr().err


def test_model_that_cannot_be_followed_has_no_curve_of_channels(toy, capsys):
    (Path("models") / "branching.py").write_text(BRANCHING)
    result = start_training({**toy, "arch": "branchnet", "epochs": 1})
    assert main(["--evaluate", result["checkpoints"]["best"], "--prune-curve", "curve.svg"]) == 0
    shown = capsys.readouterr().out
    assert "whole channels" not in shown and "notice: " in shown and Path("curve.svg").is_file()
