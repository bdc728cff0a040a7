"""Layers make no tensor on the wrong device: on torch's device without data, every mix of devices is an error."""


import pytest
import torch
from torch import nn

from ai8x.errors import UserError
from ai8x.nn import modules as layers
from ai8x.nn.base import Mode, OutputScale, model_mode, set_output_scale
from ai8x.nn.qat import QatPolicy, switch_to_qat
from ai8x.training.config import TrainConfig
from ai8x.training.evaluation import choose_device
from ai8x.training.pruning import WeightMask

NETWORKS = {
    "2-D": (nn.Sequential, (2, 16, 16), [
        lambda: layers.FusedConv2dBNReLU(2, 4, 3, padding=1, bias=True), lambda: layers.FusedMaxPoolConv2dAbs(4, 4, 3),
        lambda: layers.FusedAvgPoolConv2dReLU(4, 4, 1), lambda: layers.ConvTranspose2d(4, 4, 3, stride=2, padding=1),
        lambda: layers.AvgPool2d(2), nn.Flatten, lambda: layers.Linear(36, 3, bias=True, wide=True)]),
    "1-D": (nn.Sequential, (2, 32), [
        lambda: layers.FusedConv1dBNReLU(2, 4, 3, bias=True), lambda: layers.FusedMaxPoolConv1dReLU(4, 4, 3),
        nn.Flatten, lambda: layers.Linear(52, 3, bias=True, wide=True)]),
}


def network(kind):
    make, shape, parts = NETWORKS[kind]
    return make(*(part() for part in parts)), shape


@pytest.mark.parametrize("quantile", [1.0, 0.9])
@pytest.mark.parametrize("kind", sorted(NETWORKS))
def test_both_phases_run_where_the_model_is(kind, quantile):
    model, shape = network(kind)
    set_output_scale(model, OutputScale.REAL)
    for mode in (Mode.FLOAT, Mode.QAT):
        if mode is Mode.QAT:
            switch_to_qat(model, QatPolicy(start_epoch=0, weight_bits=4, shift_quantile=quantile))
        assert model_mode(model) is mode
        state = {name: value.detach().to("meta").requires_grad_(value.requires_grad)
                 for name, value in model.state_dict(keep_vars=True).items()}
        outputs = torch.func.functional_call(model, state, (torch.empty(4, *shape, device="meta"),))
        assert outputs.device.type == "meta" and outputs.shape == (4, 3)
        outputs.sum().backward()
        assert all(value.grad is not None for value in state.values() if value.requires_grad)


def test_elementwise_layers_run_where_their_operands_are():
    operands = [torch.empty(2, 3, 4, 4, device="meta") for _ in range(3)]
    for layer in (layers.Add(), layers.Sub(), layers.BitwiseXor(), layers.BitwiseOr()):
        for mode in Mode:
            layer.set_mode(mode)
            assert layer(*operands).device.type == "meta"


def test_masks_lie_where_the_weights_are():
    model, _ = network("2-D")
    model.to("meta")
    WeightMask(model).apply(model)


def test_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(TrainConfig(gpus="1")) == torch.device("cuda", 1)
    assert choose_device(TrainConfig(gpus="1", cpu=True)) == torch.device("cpu")
    with pytest.raises(UserError) as caught:
        choose_device(TrainConfig(gpus="2"))
    assert caught.value.diagnostics[0].code == "E0629"
