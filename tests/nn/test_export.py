"""Models as networks: the reference computes what the model computes on integers."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ai8x import compatibility
from ai8x.errors import UserError
from ai8x.network.reference import run_network
from ai8x.nn import modules
from ai8x.nn.base import Mode, set_mode
from ai8x.nn.export import network_from_model
from ai8x.nn.loading import load_state
from ai8x.nn.qat import LayerOverride, QatPolicy, switch_to_qat
from ai8x.quantization import quantize_state


@pytest.fixture(autouse=True)
def forget_device():
    yield
    compatibility.reset_device()


def integer_model(build, policy: QatPolicy | None = None) -> nn.Module:
    """A model with random parameters, quantised and loaded."""
    torch.manual_seed(0)
    trained = build()
    switch_to_qat(trained, policy or QatPolicy(start_epoch=0))
    model = build()
    if any(key.endswith(".weight") for key in trained.state_dict()):
        load_state(model, quantize_state(trained.state_dict()))
    else:
        set_mode(model, Mode.INTEGER)
    return model.eval()


def assert_same(model: nn.Module, shape: tuple[int, ...]) -> None:
    network = network_from_model(model, shape, name="net")
    batch = np.random.default_rng(0).integers(-128, 128, (3, *shape))
    trace = run_network(network, batch.reshape(3, *(*shape, 1, 1)[:3]))
    outputs = model(torch.tensor(batch).float())
    for tensor, index in zip(outputs if isinstance(outputs, tuple) else (outputs,), network.outputs, strict=True):
        assert np.array_equal(trace[index].reshape(tensor.shape), tensor.detach().numpy())


class Everything(nn.Module):
    """Branches, concatenation, element-wise layers, pooling, transposed convolution, shared layer, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = modules.FusedConv2dReLU(3, 8, 3, padding=1)
        self.b = modules.FusedMaxPoolConv2dBNReLU(8, 8, 3, padding=1)
        self.c = modules.Conv2d(8, 8, 1, bias=False)
        self.add, self.sub = modules.Add(), modules.Sub()
        self.either, self.exclusive = modules.BitwiseOr(), modules.BitwiseXor()
        self.pool = modules.AvgPool2d(2)
        self.up = modules.FusedConvTranspose2dReLU(16, 6, 3, stride=2, padding=1)
        self.tail = nn.Sequential(modules.FusedAvgPoolConv2dAbs(6, 4, 3, padding=1), nn.Dropout(0.5))
        self.fc = modules.Linear(36, 5, bias=True, wide=True)

    def forward(self, data: Tensor) -> tuple[Tensor, Tensor]:
        data = self.b(self.a(data))
        shared = self.c(self.c(data))
        one = self.pool(self.add(shared, data))
        two = self.pool(self.exclusive(self.either(shared, data), self.sub(data, shared)))
        up = self.up(torch.cat([one, two], dim=1))
        return up, self.fc(self.tail(up).flatten(1))


def test_model_with_everything_is_equal() -> None:
    overrides = {"b": LayerOverride(weight_bits=2), "up": LayerOverride(weight_bits=4)}
    assert_same(integer_model(Everything, QatPolicy(start_epoch=0, overrides=overrides)), (3, 12, 12))


@pytest.mark.parametrize(("build", "shape"), [
    (lambda: nn.Sequential(modules.FusedConv1dReLU(4, 6, 3, padding=1),
                           modules.FusedMaxPoolConv1dReLU(6, 5, 9, padding=2),
                           modules.AvgPool1d(2), nn.Flatten(), modules.Linear(10, 3, wide=True)), (4, 16)),
    (lambda: nn.Sequential(modules.DepthwiseConv2d(4, 4, 3), modules.FusedDepthwiseConvTranspose2dReLU(
        4, 4, 3, stride=2, padding=1)), (4, 6, 6)),
    (lambda: nn.Sequential(modules.FusedLinearReLU(10, 6, bias=True), modules.Linear(6, 3, bias=True)), (10,)),
    (lambda: nn.Sequential(modules.MaxPool2d(3, 2)), (2, 9, 9)),
    (lambda: nn.Sequential(modules.Conv2d(2, 3, 1), nn.Flatten(2), modules.Conv1d(3, 2, 5)), (2, 3, 4)),
], ids=["conv1d", "depthwise", "linear", "pool", "two-to-one-dimension"])
def test_kinds_of_layers_are_equal(build, shape: tuple[int, ...]) -> None:
    assert_same(integer_model(build), shape)


@pytest.mark.parametrize("rounded", [False, True])
def test_rounding_of_averages_is_kept(rounded: bool) -> None:
    compatibility.set_device("MAX78000", round_avg=rounded)
    model = integer_model(lambda: nn.Sequential(modules.AvgPool2d(2), modules.Conv2d(1, 1, 1)))
    assert network_from_model(model, (1, 4, 4), name="n").layers[0].average_rounded is rounded
    assert_same(model, (1, 4, 4))


def test_shared_layers_share_their_weights() -> None:
    network = network_from_model(integer_model(Everything), (3, 12, 12), name="net", labels=("x",))
    layers = {layer.name: layer for layer in network.layers}
    assert layers["c_3"].weight_source == layers["c"].index and layers["c"].weight_source is None
    assert layers["tail_0"].activation.value == "Abs" and layers["fc"].flatten and layers["fc"].output_bits == 32
    assert network.labels == ("x",) and len(network.outputs) == 2


@pytest.mark.parametrize("between", [lambda t: t * 2, lambda t: torch.relu(t), lambda t: t.transpose(2, 3),
                                     lambda t: torch.cat([t, t], dim=2)], ids=["mul", "relu", "transpose", "rows"])
def test_foreign_functions_between_layers_are_named(between) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = modules.Conv2d(1, 1, 1), modules.Conv2d(1, 1, 1)

        def forward(self, data: Tensor) -> Tensor:
            return self.second(between(self.first(data)))

    with pytest.raises(UserError) as caught:
        network_from_model(integer_model(Odd), (1, 4, 4), name="net")
    (finding,) = caught.value.diagnostics
    assert finding.code == "E0720" and "'second'" in finding.message and finding.found


def test_functions_behind_the_last_layer_are_left_out() -> None:
    model = integer_model(lambda: nn.Sequential(modules.Linear(4, 3), nn.Softmax(dim=1)))
    assert [layer.name for layer in network_from_model(model, (4,), name="n").layers] == ["layer_0"]


def test_float_models_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        network_from_model(nn.Sequential(modules.Conv2d(1, 1, 1)), (1, 2, 2), name="net")
    assert caught.value.diagnostics[0].code == "E0721"
