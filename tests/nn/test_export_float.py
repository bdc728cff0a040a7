"""Float models in ONNX Runtime against torch."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ai8x.errors import UserError
from ai8x.nn import modules
from ai8x.nn.arguments import Scheme
from ai8x.nn.base import use_scheme
from ai8x.nn.export_float import export_float_onnx
from ai8x.nn.thresholds import calibrate_activations

onnx = pytest.importorskip("onnx", reason="the extra 'onnx' is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra 'onnx' is not installed")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = modules.FusedConv2dBNReLU(3, 8, 3, padding=1)
        self.b = modules.FusedMaxPoolConv2dBNAbs(8, 8, 3, padding=1, batchnorm="NoAffine")
        self.c = modules.Conv2d(8, 8, 1, bias=False)
        self.add, self.sub = modules.Add(), modules.Sub()
        self.up = modules.FusedAvgPoolConvTranspose2dReLU(16, 6, 3, stride=2, padding=1)
        self.tail = nn.Sequential(modules.AvgPool2d(2), nn.Dropout(0.5), nn.Flatten(),
                                  modules.Linear(54, 5, bias=True, wide=True), nn.ReLU())

    def forward(self, data: Tensor) -> Tensor:
        data = self.b(self.a(data))
        other = self.c(data)
        return self.tail(self.up(torch.cat([self.add(other, data), self.sub(data, other)], dim=1)))


def model(net: type[nn.Module] = Net) -> nn.Module:
    torch.manual_seed(0)
    found = net()
    for module in found.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.01, 0.5)
    return found.eval()


def inputs(count: int = 8) -> Tensor:
    return torch.randint(-128, 128, (count, 3, 12, 12), generator=torch.Generator().manual_seed(1)) / 128


def run_onnx(content: bytes, data: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": data.numpy()})[0]


@pytest.mark.parametrize("kind", ["first", "second", "calibrated"])
def test_outputs_agree(kind: str) -> None:
    net = model()
    if kind != "first":
        use_scheme(net, Scheme.V2)
    if kind == "calibrated":
        calibrate_activations(net, [inputs()])
    found = run_onnx(export_float_onnx(net, (3, 12, 12), name="net"), inputs())
    np.testing.assert_allclose(found, net(inputs()).detach(), rtol=1e-4, atol=1e-5)


def test_one_dimension_and_labels() -> None:
    net = nn.Sequential(modules.FusedConv1dReLU(2, 4, 3), modules.MaxPool1d(2), nn.Flatten(),
                        modules.Linear(12, 3), nn.Softmax(dim=1)).eval()
    data = torch.rand(4, 2, 8)
    content = export_float_onnx(net, (2, 8), name="net", labels=("a", "b", "c"))
    np.testing.assert_allclose(run_onnx(content, data), net(data).detach(), rtol=1e-5, atol=1e-6)
    properties = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    assert json.loads(properties["ai8x.labels"]) == ["a", "b", "c"]


@pytest.mark.parametrize("between", [lambda t: t.transpose(2, 3), lambda t: t * 3], ids=["transpose", "mul"])
def test_functions_without_counterpart_are_named(between) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = modules.Conv2d(3, 1, 1), modules.Conv2d(1, 1, 1)

        def forward(self, data: Tensor) -> Tensor:
            return self.second(between(self.first(data)))

    with pytest.raises(UserError) as caught:
        export_float_onnx(Odd(), (3, 4, 4), name="net")
    assert caught.value.diagnostics[0].code == "E0723" and "second" in caught.value.diagnostics[0].message
