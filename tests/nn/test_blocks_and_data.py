"""Compound blocks by their vendor names, and transforms of data."""

from types import SimpleNamespace

import pytest
import torch

import ai8x
from ai8x.errors import UserError
from ai8x.nn.blocks import ConvResidualBottleneck, Fire, MBConvBlock, ResidualBottleneck


def weights(block: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {key.removesuffix(".op.weight"): tuple(value.shape) for key, value in block.state_dict().items()
            if key.endswith("op.weight")}


def test_fire() -> None:
    block = Fire(8, 4, 6, 10)
    assert weights(block) == {"squeeze_layer": (4, 8, 1, 1), "expand1x1_layer": (6, 4, 1, 1),
                              "expand3x3_layer": (10, 4, 3, 3)}
    data = torch.rand(2, 8, 6, 6)
    squeezed = block.squeeze_layer(data)
    assert torch.equal(block(data), torch.cat([block.expand1x1_layer(squeezed), block.expand3x3_layer(squeezed)], 1))


@pytest.mark.parametrize(("outputs", "stride", "adds"), [(8, 1, True), (6, 1, False), (8, 2, False)])
def test_residual_bottleneck(outputs: int, stride: int, adds: bool) -> None:
    block = ResidualBottleneck(8, outputs, 2, stride=stride, bias=True, depthwise_bias=True).eval()
    assert weights(block) == {"conv1": (16, 8, 1, 1), "conv2": (16, 1, 3, 3), "conv3": (outputs, 16, 1, 1)}
    data = torch.rand(2, 8, 6, 6)
    inner = block.conv3(block.conv2(block.conv1(data)))
    assert inner.shape == (2, outputs, 6 // stride, 6 // stride)
    assert torch.equal(block(data), ai8x.Add()(inner, data) if adds else inner)


def test_residual_bottleneck_without_expansion_has_no_first_layer() -> None:
    assert list(weights(ResidualBottleneck(8, 8, 1, bias=True))) == ["conv2", "conv3"]
    assert ResidualBottleneck(8, 8, 1, bias=True).conv2.bn is None


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutional_residual_bottleneck(stride: int) -> None:
    block = ConvResidualBottleneck(8, 8, 0.5, stride=stride, bias=True)
    assert weights(block) == {"conv1": (4, 8, 1, 1), "conv2": (8, 4, 3, 3)}
    assert block(torch.rand(1, 8, 6, 6)).shape == (1, 8, 6 // stride, 6 // stride)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_mbconv(fused: bool, stride: int) -> None:
    block = MBConvBlock(4, 4, stride=stride, bias=True, expand_ratio=2, fused=fused)
    assert block.project_conv.bn.eps == 1e-3
    assert ("depthwise_conv" in weights(block)) != fused
    assert block(torch.rand(2, 4, 6, 6)).shape == (2, 4, 6 // stride, 6 // stride)


def test_squeeze_and_excite_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        MBConvBlock(4, 4, bias=True, se_ratio=0.25)
    assert caught.value.diagnostics[0].code == "E0369"


def test_normalize_maps_bytes_to_the_grid() -> None:
    levels = torch.arange(256)
    expected = (levels * 256 / 255 - 128).round().clamp(-128, 127)
    image = (levels / 255).reshape(1, 16, 16)
    assert torch.equal(ai8x.normalize(SimpleNamespace(act_mode_8bit=True))(image).reshape(-1), expected)
    assert torch.equal(ai8x.normalize(SimpleNamespace(act_mode_8bit=False))(image).reshape(-1), expected / 128)


def test_fold_orders_rows_before_columns_before_channels() -> None:
    image = torch.arange(2 * 6 * 6).reshape(2, 6, 6)
    folded = ai8x.fold(3)(image)
    assert folded.shape == (18, 2, 2)
    for row in range(3):
        for column in range(3):
            for channel in range(2):
                assert torch.equal(folded[(row * 3 + column) * 2 + channel], image[channel, row::3, column::3])
    assert torch.equal(ai8x.unfold_batch(folded[None], 3)[0], image)
    assert torch.equal(ai8x.fold(1)(image), image)


def test_bayer_filter() -> None:
    image = torch.stack([torch.full((4, 4), value) for value in (1.0, 2.0, 3.0)])
    assert ai8x.bayer_filter()(image)[0, :2, :2].tolist() == [[2, 3], [1, 2]]
