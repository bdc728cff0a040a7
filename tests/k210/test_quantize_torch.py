"""Torch models to kmodels by post-training quantisation: reading the graph, digits, the compiled runner."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ai8x.errors import UserError
from ai8x.k210.codegen import RunnerModel
from ai8x.k210.quantize import compare, quantize_model
from ai8x.k210.quantize_calibration import CalibrationOptions
from ai8x.k210.quantize_model import FloatOp
from ai8x.k210.quantize_reference import run_float_model
from ai8x.nn import modules as own
from ai8x.nn.arguments import Scheme
from ai8x.nn.base import use_scheme
from ai8x.quantization.float_network import float_model_from_torch
from ai8x.toolchain import build_k210_project, missing_k210_tools
from ai8x.training.digits import load_images, split_indices
from tests.k210.runner_projects import write_project

Shape = tuple[int, ...]


def settled(model: nn.Module, shape: Shape) -> nn.Module:
    """Batch norms with statistics of their own, evaluation mode."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            with torch.no_grad():
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                if module.weight is not None:
                    module.weight.uniform_(0.5, 1.5)
    return model.eval()


def image_bytes(shape: Shape, count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


class Residual(nn.Module):
    """Every way of writing the same things."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding="same", bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.bn2 = nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(x))
        y = F.leaky_relu(y + x, 0.2)
        y = F.max_pool2d(torch.cat([y, torch.tanh(x)], dim=1), 2)
        return self.fc(self.dropout(y.mean((2, 3))))


def sequential() -> nn.Sequential:
    return nn.Sequential(
        nn.ZeroPad2d(1), nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.Hardswish(), nn.AvgPool2d(2),
        nn.Conv2d(8, 6, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(6 * 16, 10), nn.Softmax(dim=1))


def rows() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(4, 8, 5, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2),
                         nn.Conv1d(8, 6, 3, padding=1), nn.ELU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
                         nn.Linear(6, 3))


def own_layers() -> nn.Module:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = own.FusedConv2dBNReLU(3, 8, 3, padding=1, bias=True)
            self.conv2 = own.Conv2d(8, 8, 3, padding=1)
            self.add = own.Add()
            self.conv3 = own.FusedMaxPoolConv2dReLU(8, 6, 3, padding=1)
            self.conv4 = own.FusedAvgPoolConv2dReLU(6, 6, 1)
            self.fc = own.Linear(6 * 16, 5, bias=True, wide=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv1(x)
            x = self.add(self.conv2(x), x)
            return self.fc(self.conv4(self.conv3(x)).flatten(1))

    return Own()


def own_second_generation() -> nn.Module:
    model = own_layers()
    use_scheme(model, Scheme.V2)
    model.conv3.set_thresholds(activation_threshold=1.0, final_scale=2.0)
    return model


def dilated() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=2, dilation=2), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Conv2d(8, 6, (3, 1), padding="same", dilation=(3, 1)), nn.ReLU(),
                         nn.Conv2d(6, 6, 3, dilation=2, stride=2, groups=6), nn.Flatten(), nn.Linear(6 * 16, 5))


def dilated_rows() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(4, 8, 3, padding=4, dilation=4), nn.ReLU(), nn.Conv1d(8, 6, 5, dilation=2),
                         nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(24, 3))


def slopes() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.PReLU(6), nn.MaxPool2d(2), nn.PReLU(6),
                          nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.PReLU(6), nn.Conv2d(6, 4, 1), nn.PReLU(),
                          nn.AdaptiveMaxPool2d((2, 4)), nn.Flatten(), nn.Linear(32, 5))
    with torch.no_grad():
        for module in model:
            if isinstance(module, nn.PReLU):
                module.weight.copy_(torch.linspace(0.1, 0.6, module.num_parameters))
    return model


class Enlarged(nn.Module):
    """Skip connections around a map that is made smaller and larger again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.third, self.enlarge = nn.Conv2d(12, 4, 1), nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        y = self.enlarge(F.relu(self.second(F.max_pool2d(x, 2))))
        return F.interpolate(self.third(torch.cat([x, y], dim=1)), size=(20, 18), mode="nearest")


MODELS = {"enlarged": (Enlarged, (3, 10, 12)), "dilated": (dilated, (3, 12, 12)),
          "dilated rows": (dilated_rows, (4, 24)), "slopes": (slopes, (3, 8, 8)),
          "residual": (Residual, (3, 12, 12)), "sequential": (sequential, (3, 16, 16)), "rows": (rows, (4, 24)),
          "own layers": (own_layers, (3, 16, 16)), "own, second generation": (own_second_generation, (3, 16, 16))}


@pytest.mark.parametrize("name", MODELS)
def test_layers_read_from_a_model_compute_what_it_computes(name: str) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = settled(make(), shape)
    images = image_bytes(shape)
    read = float_model_from_torch(model, shape)
    expected = model(torch.from_numpy(images.astype(np.float32)) / 128 - 1).detach().numpy()
    planes = images.reshape(len(images), *read.input_shape.as_tuple())
    found = run_float_model(read, planes)[read.outputs[0]].reshape(expected.shape)
    assert np.allclose(found, expected, atol=2e-5)
    result = compare(quantize_model(read, planes), planes)
    assert result.outputs[0].cosine > 0.99


def test_a_slope_for_each_channel_doubles_the_convolution_before_it() -> None:
    read = float_model_from_torch(settled(slopes(), (3, 8, 8)), (3, 8, 8))
    outputs = [len(layer.weights) for layer in read.layers if layer.op is FloatOp.CONV2D]
    assert outputs == [12, 6, 12, 6, 6, 12, 6, 4]  # behind a pool and a depthwise layer: a layer of its own


def test_model_in_training_mode_is_left_as_it_was() -> None:
    model = Residual().train()
    float_model_from_torch(model, (3, 12, 12))
    assert model.training and model.bn1.training


def test_batch_norm_without_a_convolution_before_it_is_a_layer() -> None:
    model = settled(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1)), (3, 8, 8))
    read = float_model_from_torch(model, (3, 8, 8))
    assert [layer.op for layer in read.layers] == [FloatOp.CONV2D, FloatOp.ACTIVATION, FloatOp.CONV2D]
    images = image_bytes((3, 8, 8))
    expected = model(torch.from_numpy(images.astype(np.float32)) / 128 - 1).detach().numpy()
    assert np.allclose(run_float_model(read, images)[-1], expected, atol=1e-5)


class Calls(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("model", [
    nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.AdaptiveMaxPool2d(3),
    nn.MaxPool2d(3, ceil_mode=True), nn.AvgPool2d(3, padding=1, count_include_pad=False), nn.AdaptiveAvgPool2d(5),
    nn.ConvTranspose2d(3, 4, 3), nn.Upsample(scale_factor=2, mode="bilinear"),
    nn.LSTM(8, 8), Calls(lambda x: x * x), Calls(lambda x: x + 1.0),
    Calls(lambda x: torch.cat([x, x], dim=2)), Calls(lambda x: x.mean(1)), Calls(lambda x: x if x.sum() > 0 else -x),
    Calls(lambda x: F.softmax(x, dim=1)), own.Conv2d(3, 4, 1, activation="Abs"), own.Sub(),
    own.Conv2d(3, 4, 1, weight_bits=8, bias_bits=8, quantize_activation=True)], ids=lambda m: type(m).__name__)
def test_what_has_no_layer_is_refused_by_name(model: nn.Module) -> None:
    with pytest.raises(UserError) as caught:
        float_model_from_torch(nn.Sequential(model), (3, 8, 8))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E0776"
    assert diagnostic.help


# --- digits -------------------------------------------------------------------------------------------------------


class DigitsModel(nn.Sequential):
    """A plain torch network, as somebody without a chip in mind writes it."""

    def __init__(self) -> None:
        def block(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False), nn.BatchNorm2d(inputs),
                    nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU6()]

        super().__init__(nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.MaxPool2d(2), *block(8, 24), *block(24, 16), nn.Flatten(), nn.Linear(16 * 49, 10))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for each other on busy cores cost more than they give."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits(one_thread: None) -> tuple[nn.Module, np.ndarray, np.ndarray, np.ndarray]:
    """A trained model, calibration bytes, test bytes, test labels."""
    images, labels = load_images()
    split = split_indices(labels)
    stored = (images * 255).round().to(torch.uint8)
    torch.manual_seed(0)
    model = DigitsModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    inputs, targets = stored.float() / 128 - 1, torch.from_numpy(labels)
    for _ in range(5):
        for batch in torch.from_numpy(split.train)[torch.randperm(len(split.train))].split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[batch]), targets[batch]).backward()
            optimizer.step()
    test = split.test[:200]
    return model.eval(), stored[split.train[:32]].numpy(), stored[test].numpy(), labels[test]


def test_digits_lose_less_than_one_percent(digits: tuple[nn.Module, np.ndarray, np.ndarray, np.ndarray]) -> None:
    model, calibration, images, labels = digits
    with torch.no_grad():
        scores = model(torch.from_numpy(images).float() / 128 - 1).numpy()
    accuracy = float(np.mean(scores.argmax(axis=1) == labels))
    assert accuracy > 0.93
    quantized = quantize_model(float_model_from_torch(model, (1, 28, 28), name="digits"), calibration,
                               calibration=CalibrationOptions())
    found = np.array([quantized.run(image)[1][0].argmax() for image in images])
    assert float(np.mean(found == labels)) >= accuracy - 0.01


def test_digits_run_on_the_compiled_runner(digits: tuple[nn.Module, np.ndarray, np.ndarray, np.ndarray],
                                           tmp_path: Path) -> None:
    if missing := missing_k210_tools():
        pytest.skip(missing)
    pytest.importorskip("unicorn")
    from ai8x.virtual.k210 import run_k210_firmware

    model, calibration, images, _ = digits
    quantized = quantize_model(float_model_from_torch(model, (1, 28, 28), name="digits"), calibration)
    run, _ = quantized.run(images[0])
    runner = RunnerModel(name="digits", kmodel=quantized.data, image=quantized.image(images[0]), outputs=run.outputs,
                         is_wide=(True,))
    result = run_k210_firmware(build_k210_project(write_project(tmp_path / "digits", runner)))
    assert result.passed, result.console
    assert len(result.layers) == len(run.layers)
    for found, expected in zip(result.layers, run.layers.values(), strict=True):
        assert np.array_equal(found, expected)
