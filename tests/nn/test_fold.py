"""Folding BatchNorm keeps the function, for every kind of layer."""

import pytest
import torch
from torch import nn

from ai8x.nn import modules
from ai8x.nn.fold import describe_layers, fold_batchnorm

LAYERS = {
    "conv2d": lambda: modules.FusedConv2dBN(4, 6, 3, padding=1),
    "grouped": lambda: modules.FusedConv2dBN(4, 6, 3, padding=1, groups=2),
    "depthwise": lambda: modules.FusedDepthwiseConv2dBN(4, 4, 3, padding=1),
    "conv1d": lambda: modules.FusedConv1dBN(4, 6, 3, padding=1),
    "transposed": lambda: modules.FusedConvTranspose2dBN(4, 6, 3, stride=2, padding=1),
    "transposed-square": lambda: modules.FusedConvTranspose2dBN(4, 4, 3, stride=2, padding=1),
    "transposed-grouped": lambda: modules.FusedConvTranspose2dBN(4, 6, 3, stride=2, padding=1, groups=2),
    "transposed-depthwise": lambda: modules.FusedDepthwiseConvTranspose2dBN(4, 4, 3, stride=2, padding=1),
    "not-affine": lambda: modules.FusedConv2dBN(4, 6, 3, batchnorm="NoAffine"),
    "other-eps": lambda: modules.FusedConv2dBN(4, 6, 3, eps=1e-2),
}


def randomise(bn: nn.Module) -> None:
    bn.running_mean.normal_()
    bn.running_var.uniform_(1e-4, 2)
    if bn.weight is not None:
        bn.weight.data.normal_()
        bn.bias.data.normal_()


@pytest.mark.parametrize("name", LAYERS)
def test_folded_layer_computes_batchnorm_divided_by_four(name: str) -> None:
    torch.manual_seed(1)
    layer = LAYERS[name]().double().eval()
    randomise(layer.bn)
    inputs = torch.rand(3, 4, 7, 7) if "conv1d" not in name else torch.rand(3, 4, 7)
    inputs = inputs.double()
    expected = layer.bn(layer.op(inputs)) / 4
    weight = layer.op.weight
    assert fold_batchnorm(layer) == ("",)
    assert layer.bn is None and layer.op.weight is weight
    torch.testing.assert_close(layer.op(inputs), expected, rtol=1e-10, atol=1e-10)


def test_layers_without_batchnorm_are_left_alone() -> None:
    model = nn.Sequential(modules.Conv2d(1, 1, 3), modules.MaxPool2d(2))
    assert fold_batchnorm(model) == ()


def test_description_names_what_a_state_does_not_say() -> None:
    model = nn.Sequential(modules.FusedConv2dBN(1, 1, 3, eps=1e-3), modules.MaxPool2d(2),
                          modules.ConvTranspose2d(1, 1, 3, stride=2))
    assert describe_layers(model) == {"0": {"transposed": False, "batchnorm_eps": 1e-3}, "2": {"transposed": True}}
