"""Models in memory: calibrated, quantised, and the checkpoint that synthesis reads."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ai8x
from ai8x.checkpoint import write_checkpoint
from ai8x.nn.base import Mode, model_mode
from ai8x.quantization.model import calibrate, quantize_model, to_grid


def model() -> ai8x.ConvertedModel:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
                          nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 5))
    with torch.no_grad():  # activations of about 40, far beyond the range of the chip
        plain[4].weight.mul_(8)
        plain[4].bias.mul_(8)
    return ai8x.convert(plain, torch.zeros(1, 1, 8, 8)).eval()


def batch() -> Tensor:
    return to_grid(torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1)


def test_grid_holds_what_int8_holds() -> None:
    found = to_grid(torch.tensor([-2.0, -1.0, 0.003, 0.004, 0.999, 3.0]))
    assert found.tolist() == [-1.0, -1.0, 0.0, 1 / 128, 127 / 128, 127 / 128]


def test_calibration_keeps_float_outputs_and_brings_activations_into_range() -> None:
    plain, data = model(), batch()
    before = plain(data)
    ranges = calibrate(plain, [data[:16], data[16:]])
    torch.testing.assert_close(plain(data), before, rtol=1e-5, atol=1e-5)
    assert max(layer.own for layer in ranges.values()) >= 2
    seen: list[float] = []
    for name, layer in plain.named_children():
        if not ranges[name].wide:
            layer.register_forward_hook(lambda m, a, out: seen.append(float(out.detach().abs().max())))
    plain(data)
    assert max(seen) <= 1.5  # MSE may cut off a few


def test_quantised_model_computes_what_the_float_model_computes() -> None:
    plain, data = model(), batch()
    expected = plain(data)
    found = quantize_model(plain, arch="net", batches=data.split(8), sample=data[0], labels=tuple("abcde"))
    assert model_mode(plain) is Mode.FLOAT and torch.equal(plain(data), expected)
    assert model_mode(found.model) is Mode.INTEGER
    error = (found.model(data * 128) - expected).square().mean() / expected.square().mean()
    assert error.item() < 1e-3
    checkpoint = found.checkpoint
    assert checkpoint.is_quantized and checkpoint.arch == "net" and checkpoint.labels == tuple("abcde")
    assert checkpoint.sample is not None and (torch.from_numpy(checkpoint.sample) == data[0] * 128).all()


def test_without_ranges_a_model_with_large_activations_saturates() -> None:
    plain, data = model(), batch()
    expected = plain(data)
    found = quantize_model(plain, arch="net").model(data * 128)
    assert ((found - expected).square().mean() / expected.square().mean()).item() > 1e-2


def test_a_quantised_model_is_refused() -> None:
    done = quantize_model(model(), arch="net", batches=[batch()]).model
    with pytest.raises(ai8x.UserError, match="E0536"):
        quantize_model(done, arch="net", batches=[batch()])


def test_a_network_of_features_reaches_the_chips(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = ai8x.convert(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)), torch.zeros(1, 16))
    data = torch.rand(8, 16) * 2 - 1
    found = quantize_model(plain, arch="features", batches=[data], sample=data[0])
    write_checkpoint(tmp_path / "q.pth.tar", found.checkpoint)
    result = ai8x.synthesize(found.model, tmp_path / "q.pth.tar", out=tmp_path / "out", input_shape=(16,),
                             verify=False)
    assert result.report.input_shape == (16, 1, 1) and not result.report.chips[0].refusal


@pytest.mark.parametrize("shape", [(1, 1, 8, 8), (), (1, 0, 8)])
def test_a_sample_is_one_input(shape: tuple[int, ...]) -> None:
    with pytest.raises(ai8x.UserError, match="E0642"):
        quantize_model(model(), arch="net", batches=[batch()], sample=torch.zeros(shape))


def test_equalisation_is_chosen_where_it_brings_integers_nearer() -> None:
    torch.manual_seed(3)
    plain = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    with torch.no_grad():  # channels between 1 and 1/1000: in one range the small ones would vanish
        spread = torch.logspace(0, -3, 8)
        plain[0].weight.mul_(spread.view(8, 1, 1, 1))
        plain[0].bias.mul_(spread)
        plain[2].weight.div_(spread.view(1, 8, 1, 1))
    model, data = ai8x.convert(plain, torch.zeros(1, 1, 8, 8)), batch()
    found = quantize_model(model, arch="net", batches=[data])
    assert found.equalization > 0
    once = copy.deepcopy(model)
    calibrate(once, [data])
    errors = []
    for quantised in (found, quantize_model(once, arch="net")):
        outputs = quantised.model(data * 128) / 128
        errors.append((outputs - model(data)).square().mean().item())
    assert errors[0] < errors[1] / 2


def test_batches_may_be_one_tensor_or_those_of_a_data_loader() -> None:
    expected = quantize_model(model(), arch="net", batches=[batch()]).checkpoint.state
    labels = torch.zeros(len(batch()))
    for given in (batch(), [(batch(), labels)], [[batch(), labels]], iter([batch()])):
        found = quantize_model(model(), arch="net", batches=given).checkpoint.state
        assert all((found[name] == expected[name]).all() for name in expected)


@pytest.mark.parametrize(("batches", "reason"), [
    ([], "no batch"), ([torch.zeros(0, 1, 8, 8)], "batch 0 is empty"), ([()], "no tensor"), (["images"], "no tensor"),
    ([batch(), torch.full((1, 1, 8, 8), float("nan"))], "batch 1 has infinity or NaN"),
    ([torch.zeros(2, 3, 8, 8)], "does not run on batch 0")])
def test_batches_that_cannot_calibrate_are_refused(batches: list[Tensor], reason: str) -> None:
    with pytest.raises(ai8x.UserError, match="E0646") as refused:
        quantize_model(model(), arch="net", batches=batches)
    assert reason in refused.value.diagnostics[0].message


def test_a_state_dict_is_no_checkpoint() -> None:
    with pytest.raises(TypeError, match="quantize_model"):
        ai8x.quantize_checkpoint(model().state_dict())  # type: ignore[arg-type]
