"""A small model and a small data set, found as plug-ins."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ai8x.checkpoint import Checkpoint, arrays_from_tensors
from ai8x.nn.arguments import Scheme
from ai8x.nn.base import use_scheme
from ai8x.nn.qat import QatPolicy, switch_to_qat
from ai8x.quantization.task import Task, find_task
from ai8x.training.registry import discover

MODEL = '''
import torch
from torch import nn
import ai8x


class Tiny(nn.Module):
    def __init__(self, num_classes=3, num_channels=2, dimensions=(8, 8), bias=False, **kwargs):
        super().__init__()
        self.conv1 = ai8x.FusedConv2dBNReLU(num_channels, 8, 3, padding=1, bias=True, **kwargs)
        self.conv2 = ai8x.FusedMaxPoolConv2dReLU(8, 8, 3, padding=1, bias=bias, **kwargs)
        self.skip = ai8x.Conv2d(8, 8, 1, bias=bias, **kwargs)
        self.add = ai8x.Add()
        self.fc = ai8x.Linear(128, num_classes, bias=True, wide=True, **kwargs)

    def forward(self, x):
        x = self.conv2(self.conv1(x))
        return self.fc(self.add(self.skip(x), x).flatten(1))


def tinynet(pretrained=False, **kwargs):
    return Tiny(**kwargs)


models = [{"name": "tinynet", "min_input": 1, "dim": 2}]
'''

DATA = '''
import torch
from torch.utils.data import TensorDataset
from ai8x.nn.data import normalize


def load(data, load_train=True, load_test=True):
    generator = torch.Generator().manual_seed(3)
    transform = normalize(data[1])
    def part(count):
        return TensorDataset(transform(torch.rand(count, 2, 8, 8, generator=generator)),
                             torch.randint(0, 3, (count,), generator=generator))
    return part(40), part(30)


datasets = [{"name": "noise", "input": (2, 8, 8), "output": ("a", "b", "c"), "loader": load}]
'''

FindTask = Callable[[Checkpoint], Task]


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    for name, text in (("models", MODEL), ("datasets", DATA)):
        (folder / name).mkdir()
        (folder / name / "plugin.py").write_text(text)
    return folder


@pytest.fixture(scope="session")
def settings(plugins: Path) -> dict[str, str]:
    return {"models_path": str(plugins / "models"), "datasets_path": str(plugins / "datasets")}


@pytest.fixture
def trained(settings: dict[str, str]) -> Callable[..., Checkpoint]:
    """Makes a checkpoint: float, float without clamps, or of quantisation-aware training."""
    spec = discover(**settings).models["tinynet"]

    def make(kind: str = "float", gain: float = 1.0) -> Checkpoint:
        torch.manual_seed(0)
        model = spec.factory(bias=True)
        model.conv1.bn.running_var.uniform_(0.05, 0.3)
        model.conv1.bn.running_mean.normal_(0, 0.1)
        with torch.no_grad():
            model.conv2.op.weight.mul_(gain)
        if kind == "unclamped":
            use_scheme(model, Scheme.V2)
        if kind == "qat":
            switch_to_qat(model, QatPolicy(start_epoch=0))
        return Checkpoint(state=arrays_from_tensors(model.state_dict()), epoch=1, arch="tinynet",
                          input_shape=(2, 8, 8), file="trained.pth.tar")

    return make


@pytest.fixture
def task_of(settings: dict[str, str]) -> FindTask:
    return lambda checkpoint: find_task(checkpoint, "noise", settings=settings)
