"""Models instead of network files: by name, and as modules of a notebook."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ai8x
from ai8x.checkpoint import Checkpoint, arrays_from_tensors, read_checkpoint, write_checkpoint
from ai8x.errors import ExitStatus, UserError
from ai8x.network.yaml_file import parse_network_file
from ai8x.nn.base import set_average_rounding
from ai8x.nn.loading import load_state
from ai8x.quantization import QuantizationOptions, quantize_checkpoint, quantize_layers, quantize_state, read_hints
from ai8x.synthesis import DESCRIPTION_NAME
from ai8x.synthesis_model import ModelRequest, prepare_model, prepare_module, quantize_command
from ai8x.training.config import TrainConfig
from ai8x.training.registry import build_model, discover, find_model
from tests.end_to_end.digitsnet import INPUT_SHAPE, sample, write_digitsnet
from tests.nn.test_export import Everything

PLUGIN = '''
import torch
from torch import nn
import ai8x


class Heads(nn.Module):
    """Two maps of 32 bits, which the K210 does not have; the layers are not registered in the order of execution."""

    def __init__(self, num_classes=3, num_channels=2, dimensions=(8, 8), bias=False, **kwargs):
        super().__init__()
        self.head = ai8x.Conv2d(8, num_classes, 1, bias=bias, wide=True, **kwargs)
        self.extra = ai8x.Conv2d(8, num_classes, 1, bias=bias, wide=True, **kwargs)
        self.first = ai8x.FusedConv2dBNReLU(num_channels, 8, 3, padding=1, bias=True, **kwargs)
        self.unused = ai8x.Conv2d(8, 8, 1, bias=bias, **kwargs)

    def forward(self, x):
        x = self.first(x)
        return self.head(x), self.extra(x)


class Wide(Heads):
    """Nothing that fits any chip: 60 layers of which each is small, and 32-bit maps."""

    def __init__(self, num_classes=3, num_channels=2, dimensions=(8, 8), bias=False, **kwargs):
        super().__init__(num_classes, num_channels, dimensions, bias, **kwargs)
        self.many = nn.Sequential(*(ai8x.Conv2d(8, 8, 1, bias=bias, **kwargs) for _ in range(40)))

    def forward(self, x):
        x = self.many(self.first(x))
        return self.head(x), self.extra(x)


def heads(pretrained=False, **kwargs):
    return Heads(**kwargs)


def widenet(pretrained=False, **kwargs):
    return Wide(**kwargs)


def shapeless(pretrained=False, **kwargs):
    return Heads(**kwargs)


models = [{"name": "heads", "min_input": 1, "dim": 2, "input": (2, 8, 8), "num_classes": 3},
          {"name": "widenet", "min_input": 1, "dim": 2, "input": (2, 8, 8), "num_classes": 3},
          {"name": "shapeless", "min_input": 1, "dim": 2}]
'''


@pytest.fixture
def plugins(tmp_path: Path) -> str:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "heads.py").write_text(PLUGIN)
    return str(tmp_path / "models")


def report_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "report.json").read_text()))


def quantised_everything() -> tuple[nn.Module, Checkpoint]:
    """A float model, and its quantised parameters."""
    torch.manual_seed(0)
    model = Everything().eval()
    return model, Checkpoint(state=arrays_from_tensors(quantize_state(model.state_dict())))


# --- by name ------------------------------------------------------------------------------------------------------

def test_a_model_by_name_is_synthesised_and_verified(tmp_path: Path) -> None:
    result = ai8x.synthesize("digitsnet", write_digitsnet(tmp_path / "d.pth.tar"), out=tmp_path / "out")
    found = {verdict.witness: str(verdict) for verdict in result.verdicts}
    assert {found["simulator"], found["kmodel"]} == {"equal"}
    assert result.exit_status == ExitStatus.SUCCESS
    text = (result.folder / DESCRIPTION_NAME).read_text()
    assert "from the model digitsnet; its place was planned" in " ".join(text.replace("\n#", "").split())
    assert "  # copy of conv2 for conv4: 32x14x14 -> 32x14x14\n" in text
    assert result.report.sample == "stored in the checkpoint"


def test_the_written_file_gives_the_same_project_as_the_model(tmp_path: Path) -> None:
    checkpoint = write_digitsnet(tmp_path / "d.pth.tar")
    options = {"verify": False, "targets": "max78000"}
    one = ai8x.synthesize("digitsnet", checkpoint, out=tmp_path / "one", **options)
    two = ai8x.synthesize(str(one.folder / DESCRIPTION_NAME), checkpoint, out=tmp_path / "two", **options)
    for path in (one.folder / "max78000").rglob("*.[ch]"):
        assert (two.folder / path.relative_to(one.folder)).read_bytes() == path.read_bytes(), path.name


def test_shape_and_classes_come_from_the_checkpoint(tmp_path: Path) -> None:
    shape = (3, 16, 12)
    spec = prepare_model(ModelRequest(name="digitsnet"), None, analyze=True)
    assert spec.description.input_shape.as_tuple() == INPUT_SHAPE, "without a checkpoint the usual one"
    with torch.random.fork_rng():
        model = build_model(find_model(discover(), "digitsnet"), shape, 2, TrainConfig())
    stored = Checkpoint(state=arrays_from_tensors(model.state_dict()), arch="DigitsNet", input_shape=shape,
                        labels=("a", "b"))
    prepared = prepare_model(ModelRequest(name="digitsnet"), quantize_checkpoint(stored)[0])
    assert prepared.description.input_shape.as_tuple() == shape
    assert prepared.description.layers[-1].out_shape.channels == 2


def test_parameters_of_a_model_find_their_layers_and_unused_ones_are_skipped(plugins: str, tmp_path: Path) -> None:
    prepared = prepare_model(ModelRequest(name="heads", models_path=plugins), None, analyze=True)
    assert prepared.description.skipped == ("unused",)
    assert [layer.name for layer in prepared.description.layers] == ["first", "head", "extra"]
    assert next(iter(prepared.checkpoint.state)).startswith("head."), "the order of registration is another"
    result = ai8x.synthesize("heads", prepared.checkpoint, models_path=plugins, out=tmp_path / "out")
    assert {verdict.witness: str(verdict) for verdict in result.verdicts}["simulator"] == "equal"


def test_widths_of_a_network_file_reach_their_layers_by_name(plugins: str) -> None:
    """The file has the order of execution and lacks the unused layer; the state has that of registration."""
    text = prepare_model(ModelRequest(name="heads", models_path=plugins), None, analyze=True).description.to_yaml()
    text = text.replace("name: first\n", "name: first\n    quantization: 2\n")
    hints = read_hints(parse_network_file(text))
    model = build_model(find_model(discover(plugins), "heads"), (2, 8, 8), 3, TrainConfig())
    _, report = quantize_layers(model.state_dict(), QuantizationOptions(hints=hints))
    assert {layer.name: layer.weight_bits for layer in report} == {"head": 8, "extra": 8, "first": 2, "unused": 8}


@pytest.mark.parametrize(("name", "code", "help"), [
    ("digitnet", "E0603", "digitsnet"), ("ai85net5", "E0558", "--model digitsnet")])
def test_another_model_is_refused(tmp_path: Path, name: str, code: str, help: str) -> None:
    with pytest.raises(UserError, match=code) as caught:
        ai8x.synthesize(name, write_digitsnet(tmp_path / "d.pth.tar"), out=tmp_path / "out")
    assert help in caught.value.diagnostics[0].help
    assert [path.name for path in tmp_path.iterdir()] == ["d.pth.tar"]


def test_a_checkpoint_that_is_not_quantised_is_refused_with_the_command(tmp_path: Path) -> None:
    quantised = read_checkpoint(write_digitsnet(tmp_path / "q.pth.tar"))
    state = {name: value + 0.25 for name, value in quantised.state.items()}
    write_checkpoint(tmp_path / "best.pth.tar", Checkpoint(state=state, arch="digitsnet", epoch=1, sample=sample()))
    with pytest.raises(UserError, match="E0557") as caught:
        ai8x.synthesize("digitsnet", tmp_path / "best.pth.tar", out=tmp_path / "out")
    assert f"python quantize.py {tmp_path}/best.pth.tar {tmp_path}/best-q.pth.tar" in caught.value.diagnostics[0].help
    assert quantize_command("x.safetensors") == "python quantize.py x.safetensors x-q.pth.tar"


def test_a_name_without_checkpoint_needs_an_analysis(tmp_path: Path) -> None:
    for model in ("digitsnet", "d.yaml", Path("d.yaml")):
        with pytest.raises(UserError, match="E0295"):
            ai8x.synthesize(model, out=tmp_path / "out")


def test_a_misspelt_name_is_said_before_a_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="E0603") as caught:
        ai8x.synthesize("digitsnett", out=tmp_path / "out")
    assert "digitsnet" in caught.value.diagnostics[0].help


def test_a_model_whose_input_nobody_knows_is_refused(plugins: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="E0293") as caught:
        ai8x.synthesize("shapeless", models_path=plugins, out=tmp_path / "out", analyze=True)
    assert "--dataset" in caught.value.diagnostics[0].help
    result = ai8x.synthesize("shapeless", models_path=plugins, out=tmp_path / "out", analyze=True, dataset="CIFAR10")
    assert result.report.input_shape == (3, 32, 32)


# --- analysis -----------------------------------------------------------------------------------------------------

def test_an_analysis_before_training_generates_nothing_and_says_that_weights_are_untrained(tmp_path: Path) -> None:
    result = ai8x.synthesize("digitsnet", out=tmp_path / "out", analyze=True)
    assert {path.name for path in result.folder.iterdir()} == {"manifest.json", DESCRIPTION_NAME, "report.html",
                                                               "report.json"}
    assert {str(verdict) for verdict in result.verdicts} == {"skipped: --analyze"}
    assert any("W0469" in message and "untrained" in message for message in result.report.messages)
    assert [chip.target for chip in result.report.chips] == ["max78000", "k210"]
    assert all(chip.total_cycles > 0 and not chip.files for chip in result.report.chips)


def test_an_analysis_gives_the_costs_of_the_synthesis(tmp_path: Path) -> None:
    checkpoint = write_digitsnet(tmp_path / "d.pth.tar")
    real = ai8x.synthesize("digitsnet", checkpoint, out=tmp_path / "real", verify=False)
    for given in (checkpoint, None):
        found = ai8x.synthesize("digitsnet", given, out=tmp_path / f"{given is None}", analyze=True)
        for one, other in zip(real.report.chips, found.report.chips, strict=True):
            assert one.total_cycles == other.total_cycles and one.total_time_us == other.total_time_us
            assert one.layers == other.layers and one.memory_maps == other.memory_maps
            assert (one.plan_peak, one.plan_lower_bound) == (other.plan_peak, other.plan_lower_bound)


def test_the_widths_of_a_policy_count(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("start_epoch: 1\nweight_bits: 4\noverrides:\n  fc:\n    weight_bits: 8\n")
    result = ai8x.synthesize("digitsnet", out=tmp_path / "out", analyze=True, policy=policy)
    assert {row.name: row.weight_bits for row in result.report.layers} == {
        "conv1": 4, "conv2": 4, "conv3": 4, "conv4": 4, "fc": 8}
    assert any("policy.yaml" in message for message in result.report.messages)


def test_an_analysis_covers_the_chip_that_takes_the_network(plugins: str, tmp_path: Path) -> None:
    result = ai8x.synthesize("heads", models_path=plugins, out=tmp_path / "out", analyze=True)
    chips = {chip["target"]: chip for chip in report_of(result.folder)["chips"]}
    assert chips["max78000"]["total_cycles"] > 0 and chips["max78000"]["refusal"] is None
    assert {finding["code"] for finding in chips["k210"]["refusal"]["findings"]} == {"E0355"}
    assert result.exit_status == ExitStatus.SUCCESS
    assert [message.level for message in result.messages if message.code in ("W0468", "E0355")] == ["warning"] * 3
    strict = ai8x.synthesize("heads", models_path=plugins, out=tmp_path / "strict", analyze=True, require_all=True)
    assert strict.exit_status == ExitStatus.USER
    assert {message.level for message in strict.messages if message.code == "E0355"} == {"error"}


def test_an_analysis_of_what_no_chip_takes_says_why_for_each(plugins: str, tmp_path: Path) -> None:
    result = ai8x.synthesize("widenet", models_path=plugins, out=tmp_path / "out", analyze=True)
    assert result.exit_status == ExitStatus.USER
    codes = {chip["target"]: {finding["code"] for finding in chip["refusal"]["findings"]}
             for chip in report_of(result.folder)["chips"]}
    assert codes == {"k210": {"E0355"}, "max78000": {"E0311"}}


# --- a chip that refuses ------------------------------------------------------------------------------------------

def test_a_chip_that_refuses_is_a_warning_while_another_takes_the_network(plugins: str, tmp_path: Path) -> None:
    checkpoint = prepare_model(ModelRequest(name="heads", models_path=plugins), None, analyze=True).checkpoint
    result = ai8x.synthesize("heads", checkpoint, models_path=plugins, out=tmp_path / "out", verify=False)
    assert result.exit_status == ExitStatus.SUCCESS
    assert (result.folder / "max78000" / "main.c").is_file() and not (result.folder / "k210").exists()
    assert report_of(result.folder)["verification"]["kmodel"] == "skipped: the network does not fit the Kendryte K210"
    (refused,) = [chip for chip in result.report.chips if chip.refusal is not None]
    assert refused.target == "k210"


@pytest.mark.parametrize("options", [{"require_all": True}, {"targets": "k210"}, {"targets": ("k210",)}])
def test_a_chip_that_must_take_the_network_fails_the_run(plugins: str, tmp_path: Path, options: dict[str, Any]) -> None:
    checkpoint = prepare_model(ModelRequest(name="heads", models_path=plugins), None, analyze=True).checkpoint
    with pytest.raises(UserError, match="E0355"):
        ai8x.synthesize("heads", checkpoint, models_path=plugins, out=tmp_path / "out", verify=False, **options)
    assert not (tmp_path / "out").exists()


def test_a_network_that_no_chip_takes_is_refused_with_the_findings_of_all(plugins: str, tmp_path: Path) -> None:
    checkpoint = prepare_model(ModelRequest(name="widenet", models_path=plugins), None, analyze=True).checkpoint
    with pytest.raises(UserError) as caught:
        ai8x.synthesize("widenet", checkpoint, models_path=plugins, out=tmp_path / "out", verify=False)
    codes = {finding.code for finding in caught.value.diagnostics}
    assert "E0355" in codes and len(codes) > 1
    assert not (tmp_path / "out").exists()


# --- modules ------------------------------------------------------------------------------------------------------

def test_a_module_and_its_quantised_parameters(tmp_path: Path) -> None:
    model, checkpoint = quantised_everything()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    outcomes = []
    for number, given in enumerate((checkpoint.state, checkpoint.tensors())):
        result = ai8x.synthesize(model, given, out=tmp_path / str(number), input_shape=(3, 12, 12), name="everything",
                                 targets="max78000", verify=number == 0)
        outcomes.append((result.folder / "max78000" / "weights.h").read_text())
        assert result.report.network == "everything" and result.exit_status == ExitStatus.SUCCESS
    assert len(set(outcomes)) == 1
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()), "the model is the user's"


def test_a_quantised_module_needs_no_checkpoint(tmp_path: Path) -> None:
    model, checkpoint = quantised_everything()
    load_state(model, checkpoint.tensors())
    values = np.random.default_rng(0).integers(-128, 128, (3, 12, 12))
    result = ai8x.synthesize(model, out=tmp_path / "out", sample=values, targets=("max78000",), verify=False)
    assert (result.report.network, result.report.sample) == ("everything", "given as an array")
    with np.load(result.folder / "trace.npz") as trace:
        expected = model(torch.tensor(values)[None].float())
        last = np.stack([trace[name] for name in trace][-1:])
        assert np.array_equal(last.reshape(-1), expected[1].numpy().reshape(-1))


@pytest.mark.parametrize("build", [lambda: Everything(), lambda: ai8x.Conv2d(1, 1, 1)])
def test_a_float_module_is_refused(tmp_path: Path, build: Any) -> None:
    with pytest.raises(UserError, match="E0557") as caught:
        ai8x.synthesize(build(), out=tmp_path / "out", input_shape=(3, 12, 12))
    assert "ai8x.quantize_model(model, arch=..., batches=...)" in caught.value.diagnostics[0].help


def test_a_module_of_unknown_input_is_refused(tmp_path: Path) -> None:
    model, checkpoint = quantised_everything()
    with pytest.raises(UserError, match="E0293"):
        ai8x.synthesize(model, checkpoint, out=tmp_path / "out")
    with pytest.raises(UserError, match="E0294"):
        ai8x.synthesize(model, checkpoint, out=tmp_path / "out", input_shape=(3, 12, 12), targets="max78001")
    with pytest.raises(UserError, match="E0642"):
        ai8x.synthesize(model, checkpoint, out=tmp_path / "out", sample=np.full((3, 12, 12), 500))
    with pytest.raises(TypeError):
        ai8x.synthesize(model, checkpoint, out=tmp_path / "out", input_shape=(3, 12, 12), tragets="max78000")


def test_rounding_of_averages_is_the_models_own() -> None:
    model, checkpoint = quantised_everything()
    for rounded in (False, True):
        set_average_rounding(model, rounded=rounded)
        prepared = prepare_module(model, checkpoint, ModelRequest(), (3, 12, 12))
        assert prepared.options(out=Path()).average_rounded is rounded


def test_importing_the_package_stays_light() -> None:
    code = "import sys, ai8x\nassert hasattr(ai8x, '__version__')\nassert not {'torch', 'numpy'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
