"""Models and data sets by name, bundled and from plug-in folders."""

import pytest
import torch

from ai8x.compatibility import current_settings
from ai8x.errors import UserError
from ai8x.nn.base import quantized_layers
from ai8x.training.config import TrainConfig
from ai8x.training.data import BatchPlan, LoaderArguments
from ai8x.training.registry import create_model, discover, find_dataset, find_model

MODEL_FILE = '''
import ai8x
from torch import nn

class Tiny(nn.Module):
    def __init__(self, num_classes=10, num_channels=3, dimensions=(28, 28), bias=False, **kwargs):
        super().__init__()
        self.conv = ai8x.FusedConv2dReLU(num_channels, 4, 3, padding=1, bias=bias, **kwargs)
        self.fc = ai8x.Linear(4 * dimensions[0] * dimensions[1], num_classes, bias=True, wide=True, **kwargs)

    def forward(self, x):
        return self.fc(self.conv(x).flatten(1))

def tinynet(pretrained=False, **kwargs):
    return Tiny(**kwargs)

models = [{"name": "tinynet", "min_input": 1, "dim": 2}]
'''
DATA_FILE = '''
import ai8x
import torch
from torch.utils.data import Dataset

class Squares(Dataset):
    def __init__(self, count, args):
        self.count, self.transform = count, ai8x.normalize(args=args)
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        return self.transform(torch.full((1, 4, 4), (index % 2) / 1.0)), index % 2

def squares_loader(data, load_train=True, load_test=True):
    folder, args = data
    return Squares(20, args) if load_train else None, Squares(6, args) if load_test else None

datasets = [{"name": "Squares", "input": (1, 4, 4), "output": ("dark", "light"), "loader": squares_loader}]
'''


@pytest.fixture
def plugins(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "datasets").mkdir()
    (tmp_path / "models" / "tiny.py").write_text(MODEL_FILE)
    (tmp_path / "models" / "broken.py").write_text("import no_such_module_anywhere\n")
    (tmp_path / "models" / "helper.py").write_text("VALUE = 1\n")
    (tmp_path / "datasets" / "squares.py").write_text(DATA_FILE)
    return discover(str(tmp_path / "models"), str(tmp_path / "datasets"))


def code_of(error):
    return error.value.diagnostics[0].code


def test_bundled_names():
    catalogue = discover()
    assert {"digitsnet", "ai85net5"} <= set(catalogue.models)
    assert {"digits", "MNIST", "FashionMNIST", "CIFAR10", "CIFAR100"} <= set(catalogue.datasets)
    assert catalogue.problems == ()


def test_model_names_ignore_case():
    assert find_model(discover(), "AI85Net5").name == "ai85net5"


@pytest.mark.parametrize(("finder", "name", "code", "hint"), [
    (find_model, "digitnet", "E0603", "'digitsnet'"), (find_dataset, "digit", "E0604", "'digits'"),
    (find_dataset, "qqqq", "E0604", "--list-datasets"),
])
def test_unknown_names_get_a_suggestion(finder, name, code, hint):
    with pytest.raises(UserError) as error:
        finder(discover(), name)
    assert code_of(error) == code and hint in error.value.diagnostics[0].help


def test_files_written_for_ai8x_training_load(plugins):
    data = find_dataset(plugins, "Squares")
    model = create_model(find_model(plugins, "tinynet"), data, TrainConfig(use_bias=True))
    assert model.conv.op.bias is not None
    parts = data.loader(LoaderArguments(validation_split=0.25))
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (15, 5, 6)
    inputs, targets = next(parts.test.batches(BatchPlan(batch_size=6)))
    assert model(inputs).shape == (6, 2)
    assert inputs[:, 0, 0, 0].tolist() == [-1.0, 127 / 128] * 3 and targets.tolist() == [0, 1] * 3


def test_broken_plugin_is_left_out_and_reported(plugins):
    assert "tinynet" in plugins.models
    assert [(p.code, p.level) for p in plugins.problems] == [("E0606", "warning")]
    assert "no_such_module_anywhere" in plugins.problems[0].found


def test_entries_without_a_function_or_loader_are_reported(tmp_path):
    (tmp_path / "a.py").write_text("models = [{'name': 'x'}, 3]\ndatasets = [{'name': 'y', 'input': (1,)}]\n")
    catalogue = discover(str(tmp_path), str(tmp_path))
    assert [p.code for p in catalogue.problems] == ["E0607"] * 3
    assert "x" not in catalogue.models and "y" not in catalogue.datasets


def test_missing_plugin_folder_is_refused():
    with pytest.raises(UserError) as error:
        discover("/no/such/folder")
    assert code_of(error) == "E0602"


def test_model_for_other_dimensions_is_refused(plugins, tmp_path):
    spec = find_model(plugins, "tinynet")
    data = find_dataset(plugins, "digits")
    flat = type(data)(name="line", input_shape=(3, 20), labels=("a", "b"), loader=data.loader)
    with pytest.raises(UserError) as error:
        create_model(spec, flat, TrainConfig())
    assert code_of(error) == "E0605"


def test_device_setting_does_not_outlast_the_construction():
    catalogue = discover()
    create_model(find_model(catalogue, "digitsnet"), find_dataset(catalogue, "digits"),
                 TrainConfig(avg_pool_rounding=True))
    assert current_settings().device is None and not current_settings().round_avg


def test_average_rounding_reaches_the_pooling_layers():
    catalogue = discover()
    model = create_model(find_model(catalogue, "digitsnet"), find_dataset(catalogue, "digits"),
                         TrainConfig(avg_pool_rounding=True))
    assert model.conv4.pool.rounded


def test_digitsnet_suits_both_chips():
    """Every map at least 4x4 and at most 64 channels, 3x3 kernels with padding 1, pooling 2x2 of values >= 0."""
    catalogue = discover()
    model = create_model(find_model(catalogue, "digitsnet"), find_dataset(catalogue, "digits"), TrainConfig()).eval()
    seen = {}
    for name, layer in quantized_layers(model).items():
        layer.register_forward_hook(lambda m, given, out, name=name: seen.update({name: (given[0], out)}))
    model(torch.randn(4, 1, 28, 28).clamp(-1, 127 / 128))
    shapes = {name: (tuple(given.shape[1:]), tuple(out.shape[1:])) for name, (given, out) in seen.items()}
    assert shapes == {"conv1": ((1, 28, 28), (16, 28, 28)), "conv2": ((16, 28, 28), (32, 14, 14)),
                      "conv3": ((32, 14, 14), (32, 14, 14)), "conv4": ((32, 14, 14), (16, 7, 7)),
                      "fc": ((784,), (10,))}
    assert all(seen[name][0].min() >= 0 for name in ("conv2", "conv4"))
    assert list(quantized_layers(model)) == ["conv1", "conv2", "conv3", "conv4", "fc"]
    assert model.fc.wide


def test_ai85net5_has_the_weights_of_its_description():
    catalogue = discover()
    model = create_model(find_model(catalogue, "ai85net5"), find_dataset(catalogue, "MNIST"), TrainConfig())
    assert sum(p.numel() for p in model.parameters() if p.dim() >= 2) == 71148
    assert model.conv1.op.bias is None and model.fc.op.bias is not None


def test_a_model_that_refuses_the_size_of_the_data_is_the_users_error():
    catalogue = discover()
    with pytest.raises(UserError, match="takes 32x32 images, not 28x28") as error:
        create_model(find_model(catalogue, "ai85simplenet"), find_dataset(catalogue, "digits"), TrainConfig())
    assert code_of(error) == "E0605"


def test_a_data_set_in_other_case_is_proposed():
    with pytest.raises(UserError) as error:
        find_dataset(discover(), "mnist")
    assert error.value.diagnostics[0].help == "did you mean 'MNIST'?"
