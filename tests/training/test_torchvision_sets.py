"""MNIST and CIFAR from small files in their real formats; nothing is fetched."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import torch

from ai8x.errors import UserError
from ai8x.training.data import BatchPlan, LoaderArguments
from ai8x.training.registry import discover, find_dataset
from ai8x.training.torchvision_ops import import_torchvision


def write_idx(path, array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.tobytes())
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def mnist_folder(tmp_path):
    random = np.random.default_rng(0)
    for name in ("MNIST", "FashionMNIST"):
        raw = tmp_path / name / "raw"
        raw.mkdir(parents=True)
        for part, count in (("train", 30), ("t10k", 8)):
            write_idx(raw / f"{part}-images-idx3-ubyte", random.integers(0, 256, (count, 28, 28), np.uint8))
            write_idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_mnist_files(mnist_folder, name):
    data = find_dataset(discover(), name)
    parts = data.loader(LoaderArguments(folder=mnist_folder, validation_split=0.2))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (24, 6, 8)
    inputs, targets = next(parts.test.batches(BatchPlan(batch_size=8)))
    stored = (mnist_folder / name / "raw" / "t10k-images-idx3-ubyte").read_bytes()[16:]
    grey = torch.frombuffer(bytearray(stored), dtype=torch.uint8).view(8, 1, 28, 28).double()
    assert torch.equal(inputs.double() * 128, ((grey / 255 - 0.5) * 256).round().clamp(-128, 127))
    assert targets.tolist() == list(range(8))
    augmented, _ = next(parts.train.batches(BatchPlan(batch_size=24, seed=0)))
    assert augmented.shape == (24, *data.input_shape) and torch.equal(augmented * 128, (augmented * 128).round())


@pytest.mark.parametrize(("name", "classes", "key"), [("CIFAR10", 10, "labels"), ("CIFAR100", 100, "fine_labels")])
def test_cifar_files(tmp_path, monkeypatch, name, classes, key):
    data = find_dataset(discover(), name)
    assert data.num_classes == classes and len(set(data.labels)) == classes
    family = getattr(import_torchvision().datasets, name)
    folder = tmp_path / family.base_folder
    folder.mkdir()
    digests = {}
    for part, entries in (("train_list", family.train_list), ("test_list", family.test_list)):
        written = []
        for file, _ in entries:
            images = np.random.default_rng(len(digests)).integers(0, 256, (4, 3072), np.uint8)
            content = pickle.dumps({"data": images, key: [1, 2, 3, 4]})
            (folder / file).write_bytes(content)
            written.append([file, hashlib.md5(content).hexdigest()])
            digests[file] = images
        monkeypatch.setattr(family, part, written)
    labels = pickle.dumps({family.meta["key"]: list(data.labels)})
    (folder / family.meta["filename"]).write_bytes(labels)
    monkeypatch.setattr(family, "meta", {**family.meta, "md5": hashlib.md5(labels).hexdigest()})
    parts = data.loader(LoaderArguments(folder=tmp_path, validation_split=0.0, truncate_testset=True))
    assert len(parts.train) == 4 * len(family.train_list) and parts.validation is parts.test
    inputs, targets = next(parts.test.batches(BatchPlan(batch_size=1)))
    expected = torch.from_numpy(digests[family.test_list[0][0]][:1].reshape(1, 3, 32, 32)).double()
    assert torch.equal(inputs.double() * 128, ((expected / 255 - 0.5) * 256).round().clamp(-128, 127))
    assert targets.tolist() == [1]


def test_missing_files_are_an_error_with_a_remedy(tmp_path):
    with pytest.raises(UserError) as error:
        find_dataset(discover(), "MNIST").loader(LoaderArguments(folder=tmp_path))
    finding = error.value.diagnostics[0]
    assert finding.code == "E0609" and "--download" in finding.help
    assert not list(tmp_path.rglob("*gz"))
