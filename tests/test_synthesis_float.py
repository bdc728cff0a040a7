"""The distance from the float model in the report: measured on the test set, with the comparison of quantize.py."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ai8x.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ai8x.cli.synthesize import main
from ai8x.errors import UserError
from ai8x.network.pairing import identifier, layer_name
from ai8x.report import LayerError
from ai8x.report_network import layer_rows
from ai8x.sample import Sample
from ai8x.synthesis import SynthesisOptions, synthesize
from ai8x.synthesis_float import NUM_SAMPLES, float_errors
from tests.end_to_end.digitsnet import NETWORK_FILE, network_of, sample, write_digitsnet

torch = pytest.importorskip("torch")
comparison = pytest.importorskip("ai8x.quantization.comparison")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digitsnet with random weights: ``float.pth.tar`` and, quantised, ``integer.pth.tar``."""
    from ai8x.checkpoint import arrays_from_tensors
    from ai8x.nn.qat import QatPolicy, switch_to_qat
    from ai8x.quantization import quantize_checkpoint
    from ai8x.training.registry import discover

    folder = tmp_path_factory.mktemp("float")
    torch.manual_seed(0)
    model = discover().models["digitsnet"].factory(bias=True)
    switch_to_qat(model, QatPolicy(start_epoch=0))
    trained = Checkpoint(state=arrays_from_tensors(model.state_dict()), epoch=1, arch="digitsnet",
                         input_shape=(1, 28, 28), sample=sample())
    write_checkpoint(folder / "float.pth.tar", trained)
    write_checkpoint(folder / "integer.pth.tar", quantize_checkpoint(trained)[0])
    return folder


def test_the_report_has_the_error_of_every_layer_of_the_float_model(place: Path) -> None:
    out = place / "out"
    assert main([str(NETWORK_FILE), str(place / "integer.pth.tar"), "--float-checkpoint", str(place / "float.pth.tar"),
                 "--no-verify", "-q", "--out", str(out)]) == 0
    content = json.loads((out / "report.json").read_text())
    errors = {layer["name"]: layer["error"] for layer in content["layers"]}
    assert errors.pop("bypass") is None, "a copy that only the MAX78000 needs"
    for name, error in errors.items():
        assert 5 < error["snr_db"] < 90, name
        assert 0 < error["max_error"] <= error["peak"], name
    assert content["error_samples"] == f"{NUM_SAMPLES} test items of digits"
    assert content["error_samples"] in (out / "report.html").read_text()
    assert "float.pth.tar" in json.loads((out / "manifest.json").read_text())["inputs"]


def test_without_the_data_set_the_sample_is_measured_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)  # where nobody has put the data set, which has the shape of the digits
    rows = layer_rows(network_of(read_checkpoint(write_digitsnet(place / "d.pth.tar")).state))
    found, text = float_errors(rows, read_checkpoint(place / "integer.pth.tar"), place / "float.pth.tar",
                               Sample(values=sample().astype(np.int8), origin="by hand"), "MNIST")
    assert text == "the sample (by hand)"
    assert isinstance(found[0].error, LayerError)


@pytest.mark.parametrize("path", ["0", "features.0.1", "input", "int", "block." * 12 + "conv"])
def test_layers_are_found_by_the_names_that_descriptions_give_them(place: Path, monkeypatch: pytest.MonkeyPatch,
                                                                   path: str) -> None:
    compared = comparison.compare_models
    monkeypatch.setattr(comparison, "compare_models", lambda *given: [
        replace(layer, name=path) if layer.name == "conv1" else layer for layer in compared(*given)])
    rows = layer_rows(network_of(read_checkpoint(write_digitsnet(place / "d.pth.tar")).state))
    assert rows[0].name == "conv1"
    rows = (replace(rows[0], name=identifier(layer_name(path))), *rows[1:])
    found, _ = float_errors(rows, read_checkpoint(place / "integer.pth.tar"), place / "float.pth.tar",
                            Sample(values=sample().astype(np.int8), origin="by hand"), "digits")
    assert isinstance(found[0].error, LayerError)


def test_a_quantised_file_is_no_float_model_and_nothing_is_written(place: Path) -> None:
    options = SynthesisOptions(network=NETWORK_FILE, checkpoint=place / "integer.pth.tar", out=place / "none",
                               float_checkpoint=place / "integer.pth.tar", verify=False)
    with pytest.raises(UserError) as refused:
        synthesize(options)
    assert refused.value.diagnostics[0].code == "E0561"
    assert not (place / "none").exists()
