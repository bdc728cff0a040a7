"""A network with fewer channels goes the whole way: pruned, trained on, quantised, compared, evaluated, synthesised."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ai8x.checkpoint import read_checkpoint
from ai8x.cli.quantize import main as quantize
from ai8x.cli.synthesize import main as synthesize
from ai8x.cli.train import main as train
from ai8x.network.build import build_network
from ai8x.network.ir import TensorShape
from ai8x.network.reference import run_network
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import read_network_file
from ai8x.quantization.task import find_task
from ai8x.training.session import start_training

NETWORK = """
arch: toynet
dataset: toy
layers:
  - {name: conv1, op: conv2d, kernel_size: 3x3, pad: 1, activate: ReLU, data_format: HWC}
  - {name: conv2, op: conv2d, max_pool: 2, pool_stride: 2, kernel_size: 3x3, pad: 1, activate: ReLU}
  - {name: fc, op: linear, flatten: true, output_width: 32}
"""


@pytest.fixture
def pruned(toy):
    """The result of a run that takes half of the channels away."""
    return start_training({**toy, "prune": 0.5, "prune_epoch": 1})


@pytest.mark.parametrize(("kind", "options"), [("qat_best", []), ("best", ["--calibrate", "--samples", "16"])])
def test_pruned_checkpoint_is_quantised_compared_and_evaluated(pruned, capsys, kind, options):
    arguments = [pruned["checkpoints"][kind], "q.pth.tar", "--compare", "--onnx", "q.onnx", "--sensitivity", *options]
    assert quantize(arguments) == 0
    shown = capsys.readouterr().out
    assert "2x8x8" in shown and Path("q-compare.svg").is_file() and Path("q.onnx").is_file()
    assert train(["--evaluate", "q.pth.tar", "-8"]) == 0
    top1 = json.loads(capsys.readouterr().out.splitlines()[-1])["top1"]
    if kind == "qat_best":
        assert top1 == pruned["accuracy"]["qat"]["test"]


def test_synthesised_network_has_the_integers_of_the_pruned_model(pruned, capsys):
    assert quantize([pruned["checkpoints"]["qat_best"], "q.pth.tar"]) == 0
    Path("toy.yaml").write_text(NETWORK)
    checkpoint = read_checkpoint(Path("q.pth.tar"))
    network = build_network(read_network_file(Path("toy.yaml")), parameters_from_state(checkpoint.state),
                            TensorShape(1, 8, 8))
    assert [layer.out_shape.channels for layer in network.layers] == [2, 2, 3]
    sample = np.random.default_rng(0).integers(-128, 128, (1, 8, 8))
    task = find_task(checkpoint)
    model = task.integer_model(checkpoint)
    found = run_network(network, sample)[2]
    with torch.no_grad():
        scores = model(torch.from_numpy(sample).float().unsqueeze(0)).numpy().ravel()
    steps = 2.0 ** (7 + 7 - int(checkpoint.state["fc.output_shift"][0]))
    assert np.array_equal(found.ravel(), scores * steps)
    assert synthesize(["toy.yaml", "q.pth.tar", "--no-verify", "--out", "project"]) == 0
    assert (Path("project") / "report.html").is_file()
