"""A toy task that trains in a moment: 40 images of 8x8, with noise and dropout drawn from the global generators."""

import os

import pytest
import torch

TOY_MODEL = '''
from torch import nn

import ai8x


class Toy(nn.Module):
    def __init__(self, num_classes=3, num_channels=1, dimensions=(8, 8), bias=True, **kwargs):
        super().__init__()
        self.conv1 = ai8x.FusedConv2dBNReLU(num_channels, 4, 3, padding=1, bias=True, **kwargs)
        self.conv2 = ai8x.FusedMaxPoolConv2dReLU(4, 4, 3, padding=1, bias=bias, **kwargs)
        self.drop = nn.Dropout(0.2)
        self.fc = ai8x.Linear(4 * 16, num_classes, bias=True, wide=True, **kwargs)

    def forward(self, x):
        return self.fc(self.drop(self.conv2(self.conv1(x)).flatten(1)))


def toynet(pretrained=False, **kwargs):
    return Toy(**kwargs)


models = [{"name": "toynet", "min_input": 1, "dim": 2}]
'''

TOY_DATA = '''
import os
import signal

import torch
from torch.utils.data import Dataset

import ai8x

READS = {"count": 0}


class ToyImages(Dataset):
    """Bright quarters; draws noise, and sends this process a signal after a number of reads if told to."""

    def __init__(self, count, args, noisy):
        self.count, self.noisy, self.transform = count, noisy, ai8x.normalize(args=args)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        label = index % 3
        image = torch.full((1, 8, 8), 0.4)
        image[0, 4 * (label // 2):4 * (label // 2) + 4, 4 * (label % 2):4 * (label % 2) + 4] = 0.7
        if self.noisy:
            image += torch.rand(1, 8, 8) * 0.3 - 0.15
            READS["count"] += 1
            if READS["count"] == int(os.environ.get("TOY_SIGNAL_AFTER", "0")):
                signal.raise_signal(getattr(signal, os.environ["TOY_SIGNAL"]))
        return self.transform(image.clamp(0, 1)), label


def toy_loader(data, load_train=True, load_test=True):
    args = data[1]
    return (ToyImages(40, args, True) if load_train else None), (ToyImages(12, args, False) if load_test else None)


datasets = [{"name": "toy", "input": (1, 8, 8), "output": ("a", "b", "c"), "loader": toy_loader}]
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Settings of a four-epoch run of the toy task that quantises in the third epoch; five steps an epoch."""
    for folder, text in (("models", TOY_MODEL), ("datasets", TOY_DATA)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "toy.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {"arch": "toynet", "dataset": "toy", "models_path": str(tmp_path / "models"),
           "datasets_path": str(tmp_path / "datasets"), "epochs": 4, "qat_start": 2, "batch_size": 8, "workers": 0,
           "tensorboard": False, "cpu": True, "out_dir": str(tmp_path / "runs"), "seed": 3}
    torch.set_num_threads(threads)


@pytest.fixture
def toy_arguments(toy):
    """The same settings as command-line arguments."""
    arguments = []
    for name, value in toy.items():
        arguments += ["--set", f"{name}={str(value).lower() if isinstance(value, bool) else value}"]
    return arguments
