"""Golden tensors: figures, verdict, picture."""

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ai8x.errors import UserError
from ai8x.nn import modules
from ai8x.nn.base import OutputScale, set_output_scale
from ai8x.nn.loading import load_state
from ai8x.nn.qat import QatPolicy, switch_to_qat
from ai8x.quantization import quantize_checkpoint, quantize_state
from ai8x.quantization.comparison import (
    LayerComparison,
    compare_models,
    first_bad_layer,
    format_comparison,
    logits_agreement,
)
from ai8x.quantization.comparison_plot import svg_plot, write_plot


def comparison(name: str = "conv", snr: float = 30.0, **changes) -> LayerComparison:
    return LayerComparison(**{"name": name, "weight_bits": 8, "shape": (2, 3, 3), "max_error": 0.01, "peak": 1.0,
                              "cosine": 0.99, "snr_db": snr, "saturated": 0.0, **changes})


def test_figures_follow_their_definitions() -> None:
    torch.manual_seed(0)

    def build() -> nn.Sequential:
        return nn.Sequential(modules.Conv2d(2, 3, 3), nn.Flatten(), modules.Linear(12, 2, bias=True, wide=True))

    reference = build()
    trained, integer = build(), build()
    trained.load_state_dict(reference.state_dict())
    switch_to_qat(trained, QatPolicy(start_epoch=0, weight_bits=4))
    load_state(integer, quantize_state(trained.state_dict()))
    set_output_scale(integer, OutputScale.REAL)
    batch = torch.randint(-128, 128, (5, 2, 4, 4)) / 128
    first, second = compare_models(reference, integer, [batch[:3], batch[3:]])
    expected = reference[0](batch).detach().double().numpy()
    found = integer[0](batch * 128).detach().double().numpy() / 128
    assert first.max_error == pytest.approx(np.abs(expected - found).max())
    assert first.peak == pytest.approx(np.abs(expected).max())
    cosine = (expected * found).sum() / math.sqrt((expected**2).sum() * (found**2).sum())
    assert first.cosine == pytest.approx(cosine)
    assert first.snr_db == pytest.approx(10 * math.log10((expected**2).sum() / ((expected - found) ** 2).sum()))
    assert (first.name, first.weight_bits, first.shape) == ("0", 4, (3, 2, 2))
    logits = reference(batch).detach().double(), integer(batch * 128).detach().double()
    assert second.max_error == pytest.approx(float((logits[0] - logits[1]).abs().max()))
    same = int((logits[0].argmax(1) == logits[1].argmax(1)).sum())
    assert logits_agreement(reference, integer, [batch]) == (same, 5)


def test_a_spoilt_layer_is_the_first_bad_one(trained, task_of) -> None:
    checkpoint = trained("qat")
    task = task_of(checkpoint)
    quantized, _ = quantize_checkpoint(checkpoint)
    reference, integer = task.float_model(checkpoint), task.integer_model(quantized)
    assert first_bad_layer(compare_models(reference, integer, task.test_batches(16))) is None
    with torch.no_grad():
        integer.skip.op.weight.neg_()
    layers = compare_models(reference, integer, task.test_batches(16))
    bad = first_bad_layer(layers)
    assert bad is not None and bad.name == "skip" and bad.snr_db < 10
    text = format_comparison(layers)
    (line,) = (line for line in text.splitlines() if line.startswith("skip"))
    assert "first bad layer: skip" in text and "<- first below" in line


def test_values_beyond_the_range_are_counted() -> None:
    torch.manual_seed(0)
    from ai8x.nn.arguments import Scheme
    from ai8x.nn.base import use_scheme

    reference, integer = nn.Sequential(modules.Conv2d(1, 1, 1)), nn.Sequential(modules.Conv2d(1, 1, 1))
    use_scheme(reference, Scheme.V2)
    with torch.no_grad():
        reference[0].op.weight.fill_(2.0)
        reference[0].op.bias.zero_()
    load_state(integer, quantize_state(reference.state_dict()))
    batch = torch.linspace(-1, 0.9921875, 256).reshape(1, 1, 16, 16)
    (layer,) = compare_models(reference, integer, [batch])
    assert layer.saturated == pytest.approx(0.5, abs=0.02)


def test_identical_outputs_have_no_noise() -> None:
    model = nn.Sequential(modules.MaxPool2d(2))
    integer = nn.Sequential(modules.MaxPool2d(2))
    from ai8x.nn.base import Mode, set_mode

    set_mode(integer, Mode.INTEGER)
    (layer,) = compare_models(model, integer, [torch.randint(-128, 128, (2, 1, 4, 4)) / 128])
    assert (layer.max_error, layer.snr_db, layer.weight_bits) == (0.0, math.inf, 0)
    assert layer.cosine == pytest.approx(1.0)
    assert "exact" in svg_plot([layer], title="t")


def test_different_models_are_refused() -> None:
    with pytest.raises(ValueError, match="same layers"):
        compare_models(nn.Sequential(modules.MaxPool2d(2)), nn.Sequential(modules.MaxPool2d(2), modules.MaxPool2d(1)),
                       [torch.zeros(1, 1, 4, 4)])


@pytest.mark.parametrize("snr", [math.inf, -math.inf, -5.0, 9.99, 200.0])
def test_pictures_hold_every_layer_and_are_well_formed(snr: float) -> None:
    layers = [comparison("a<b", snr), comparison("zero", math.inf, max_error=0.0, peak=0.0)]
    root = ET.fromstring(svg_plot(layers, title="x & y"))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a<b, 8 bit" in texts and "x & y" in texts
    for bar in root.iter("{http://www.w3.org/2000/svg}rect"):
        if bar.get("rx"):
            assert 0 < float(bar.get("width")) <= 330


def test_kind_of_picture_follows_the_name(tmp_path: Path) -> None:
    write_plot(tmp_path / "a.svg", [comparison()], title="t")
    assert (tmp_path / "a.svg").read_text().startswith("<svg")
    with pytest.raises(UserError) as caught:
        write_plot(tmp_path / "a.gif", [comparison()], title="t")
    assert caught.value.diagnostics[0].code == "E0564" and not (tmp_path / "a.gif").exists()


def test_png_is_written_where_matplotlib_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'plots' is not installed")
    write_plot(tmp_path / "a.png", [comparison(), comparison("b", 3.0)], title="t")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_png_without_matplotlib_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(UserError) as caught:
        write_plot(tmp_path / "a.png", [comparison()], title="t")
    assert caught.value.diagnostics[0].code == "E0816" and "ai8x[plots]" in caught.value.diagnostics[0].help
