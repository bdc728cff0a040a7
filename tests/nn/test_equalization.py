"""Factors per channel move between layers without changing the float model."""

import pytest
import torch
from torch import Tensor, nn

import ai8x
from ai8x.nn.arguments import Scheme
from ai8x.nn.base import quantized_layers, use_scheme
from ai8x.nn.equalization import equalize_channels
from ai8x.nn.fold import fold_batchnorm
from tests.nn.conversion.plain_models import PLAIN, with_statistics


def data(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(8, *shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("name", PLAIN)
@torch.no_grad()
def test_models_of_common_shape_compute_the_same_afterwards(name: str) -> None:
    torch.manual_seed(0)
    plain = PLAIN[name]
    model = ai8x.convert(with_statistics(plain.make(), plain.shape), torch.zeros(1, *plain.shape),
                         replace_unsupported=plain.replaces).eval()
    fold_batchnorm(model)
    expected = model(data(plain.shape))
    before = {name: layer.op.weight.clone() for name, layer in quantized_layers(model).items() if layer.op is not None}
    equalize_channels(model, data(plain.shape).split(4))
    torch.testing.assert_close(model(data(plain.shape)), expected, rtol=1e-4, atol=1e-4)
    after = {name: layer.op.weight for name, layer in quantized_layers(model).items() if layer.op is not None}
    assert any(not torch.equal(before[name], after[name]) for name in before)


class Uneven(nn.Module):
    """Two layers, the first with channels of very different magnitudes; a shared and a grouped one behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ai8x.FusedConv2dReLU(1, 4, 3, padding=1)
        self.shared = ai8x.FusedConv2dReLU(4, 4, 1)
        self.add = ai8x.Add()
        self.grouped = ai8x.ConvTranspose2d(4, 4, 3, stride=2, padding=1, groups=2)
        self.last = ai8x.Conv2d(8, 2, 1)
        with torch.no_grad():
            self.first.op.weight.mul_(torch.tensor([1.0, 0.1, 3.0, 0.3]).view(4, 1, 1, 1))
            self.first.op.bias.abs_().mul_(0.1)
        use_scheme(self, Scheme.V2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.shared(self.shared(self.first(x)))
        x = self.grouped(self.add(x, x))
        result: Tensor = self.last(torch.cat([x, x], dim=1))
        return result


@torch.no_grad()
def test_channels_get_one_magnitude_where_layers_allow_it() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(Uneven().first, ai8x.Conv2d(4, 2, 1))
    use_scheme(model, Scheme.V2)
    inputs = data((1, 8, 8))
    expected = model(inputs)
    equalize_channels(model, [inputs])
    greatest = model[0](inputs).amax(dim=(0, 2, 3))
    torch.testing.assert_close(greatest, torch.ones(4), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_shared_grouped_transposed_and_joined_layers_keep_their_results() -> None:
    torch.manual_seed(2)
    model, inputs = Uneven(), data((1, 8, 8))
    expected = model(inputs)
    weights = model.grouped.op.weight.clone()
    equalize_channels(model, [inputs], strength=0.5)
    assert not torch.equal(weights, model.grouped.op.weight)
    torch.testing.assert_close(model(inputs), expected, rtol=1e-5, atol=1e-5)


def test_models_with_clamps_or_batchnorm_are_refused() -> None:
    clamped = nn.Sequential(ai8x.FusedConv2dReLU(1, 2, 1), ai8x.Conv2d(2, 2, 1))
    with pytest.raises(ValueError, match="without clamps"):
        equalize_channels(clamped, [data((1, 4, 4))])
    normed = nn.Sequential(ai8x.FusedConv2dBNReLU(1, 2, 1), ai8x.Conv2d(2, 2, 1))
    use_scheme(normed, Scheme.V2)
    with pytest.raises(ValueError, match="BatchNorm"):
        equalize_channels(normed, [data((1, 4, 4))])
