"""Converted models on the way of any model: trained, quantised, described, synthesised and verified."""

import json
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import ai8x
from ai8x.cli import quantize, train
from ai8x.nn.qat import QatPolicy, Scheme, prepare_training, switch_to_qat
from ai8x.toolchain import find_compiler
from tests.nn.conversion.plain_models import PLAIN
from tests.nn.conversion.plain_runs import SETS, run, score
from tests.nn.conversion.plain_runs import train as train_plain

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "plain_torch"


def test_a_plain_model_reaches_both_chips(tmp_path: Path) -> None:
    found = run("keywords", tmp_path, limit=320)
    assert found.fits("max78000") and found.fits("k210"), found.verdicts
    assert found.integer == pytest.approx(found.converted, abs=2.0)
    if find_compiler() is not None:
        assert "firmware" in found.verdicts["max78000"]


def test_quantisation_aware_training_of_a_converted_model_agrees_with_its_integers() -> None:
    torch.manual_seed(0)
    plain = PLAIN["densenet"]
    samples = SETS[plain.data]()
    model = ai8x.convert(plain.make(), samples.train[:1])
    policy = QatPolicy(start_epoch=0, scheme=Scheme.V2)
    prepare_training(model, policy)
    switch_to_qat(model, policy, [samples.train[:64]])
    train_plain(model, plain, samples, limit=256)
    integer = ai8x.quantize_model(model, arch="densenet", sample=samples.test[0]).model
    outputs = model(samples.test)
    torch.testing.assert_close(integer(samples.test * 128), outputs, rtol=1e-3, atol=1e-3)
    assert score(plain, outputs, samples.test_targets) > 10.0


def test_the_plug_in_example_trains_quantises_and_evaluates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--models-path", str(EXAMPLE), "--model", "plaincnn", "--dataset", "digits", "--cpu"]
    policy = tmp_path / "policy.yaml"
    policy.write_text(re.sub(r"start_epoch: \d+", "start_epoch: 1", (EXAMPLE / "policy.yaml").read_text()))
    assert train.main([*common, "--epochs", "2", "--qat-policy", str(policy), "--out-dir", str(tmp_path)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["accuracy"]["integer"]["test"] == pytest.approx(result["accuracy"]["qat"]["test"], abs=0.6)
    quantised = tmp_path / "q.pth.tar"
    assert quantize.main([result["checkpoints"]["qat_best"], str(quantised)]) == 0
    capsys.readouterr()
    assert train.main([*common, "--evaluate", str(quantised), "-8"]) == 0
    evaluated = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert evaluated["top1"] == result["accuracy"]["integer"]["test"]


def test_the_example_of_the_manual_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "convert.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(blocks[0], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    names = runpy.run_path(str(script))
    result = names["result"]
    assert result.exit_status == 0
    assert not any(v.is_different for v in result.verdicts)
    assert names["integer_accuracy"] >= names["float_accuracy"] - 0.03
    assert (tmp_path / "plain-torch" / "max78000").is_dir() and (tmp_path / "plain-torch" / "k210").is_dir()
    assert "torch" in sys.modules and isinstance(names["model"], nn.Module)


def test_the_example_in_the_manual_prints_what_the_manual_shows() -> None:
    text = (ROOT / "docs" / "convert.md").read_text(encoding="utf-8")
    shown = re.search(r"```text\n(.*?)```", text, re.DOTALL)
    block = re.search(r"```python\n(.*?# --- convert\n)", text, re.DOTALL)
    assert shown is not None and block is not None
    names: dict[str, object] = {}
    # The part of the example up to training defines the model; compile and run only that.
    exec(compile(block.group(1).split("# --- train\n")[0], "docs/convert.md", "exec"), names)
    model = names["Net"]()  # type: ignore[operator]
    report = ai8x.convert(model, torch.zeros(1, 1, 28, 28)).report
    assert report.format().split("\n\n")[0].strip() == shown.group(1).strip()
