"""Reading policies, the switch to quantisation-aware training, and the optimizer across it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from ai8x.errors import UserError
from ai8x.nn import modules
from ai8x.nn.base import Mode, quantized_layers
from ai8x.nn.qat import (
    LayerOverride,
    QatPolicy,
    check_policy,
    named_parameters,
    read_policy,
    switch_to_qat,
    unwrap_model,
    update_optimizer,
)

POLICY = """\
start_epoch: 10
weight_bits: 2
shift_quantile: 0.985
overrides:
  conv1:
    weight_bits: 8
  stage.1.conv2:
    weight_bits: 4
    shift_quantile: 1.0
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = modules.FusedConv2dBNReLU(1, 4, 3, padding=1)
        self.stage = nn.Sequential(modules.MaxPool2d(2), nn.ModuleDict({"conv2": modules.FusedConv2dBN(4, 4, 3)}))
        self.add = modules.Add()
        self.fc = modules.Linear(16, 2, bias=True, wide=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        data = self.stage[1]["conv2"](self.stage[0](self.conv1(images)))
        return self.fc(self.add(data, data).flatten(1))


def write(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(text)
    return path


def test_policy_is_read(tmp_path: Path) -> None:
    policy = read_policy(write(tmp_path, POLICY))
    assert (policy.start_epoch, policy.weight_bits, policy.shift_quantile) == (10, 2, 0.985)
    assert policy.for_layer("conv1") == LayerOverride(weight_bits=8, shift_quantile=0.985)
    assert policy.for_layer("stage.1.conv2") == LayerOverride(weight_bits=4, shift_quantile=1.0)
    assert policy.for_layer("fc") == LayerOverride(weight_bits=2, shift_quantile=0.985)


def test_key_of_the_second_generation_is_read(tmp_path: Path) -> None:
    text = "start_epoch: 1\nweight_bits: 8\noutlier_removal_z_score: 8.0\n"
    assert read_policy(write(tmp_path, text)).outlier_removal_z_score == 8.0


@pytest.mark.parametrize(("text", "code", "line", "column"), [
    ("start_epoch: -1\nweight_bits: 8\n", "E0655", 1, 14),
    ("start_epoch: 1.5\nweight_bits: 8\n", "E0655", 1, 14),
    ("start_epoch: yes\nweight_bits: 8\n", "E0655", 1, 14),
    ("start_epoch: 1\nweight_bits: 3\n", "E0655", 2, 14),
    ("start_epoch: 1\nweight_bits: [8]\n", "E0655", 2, 14),
    ("start_epoch: 1\nweight_bits: 8\nshift_quantile: 0\n", "E0655", 3, 17),
    ("start_epoch: 1\nweight_bits: 8\nshift_quantile: .nan\n", "E0655", 3, 17),
    ("start_epoch: 1\nweigth_bits: 8\nweight_bits: 8\n", "E0653", 2, 1),
    ("start_epoch: 1\nstart_epoch: 2\nweight_bits: 8\n", "E0654", 2, 1),
    ("weight_bits: 8\n", "E0656", 1, 1),
    ("start_epoch: 1\nweight_bits: 8\noverrides: 3\n", "E0652", 3, 12),
    ("start_epoch: 1\nweight_bits: 8\noverrides:\n  conv1:\n    bits: 3\n", "E0653", 5, 5),
    ("- 1\n", "E0652", 1, 1),
])
def test_wrong_policies_are_refused_with_their_place(tmp_path: Path, text: str, code: str, line: int, column: int
                                                     ) -> None:
    with pytest.raises(UserError) as caught:
        read_policy(write(tmp_path, text))
    finding = caught.value.diagnostics[0]
    assert (finding.code, finding.source.line, finding.source.column) == (code, line, column)


@pytest.mark.parametrize("text", ["", "a: [1", "\t", "a: *b", "start_epoch: !!python/object:os.system 1\n",
                                  "[" * 100_000, f"start_epoch: {'9' * 5000}\nweight_bits: 8\n"],
                         ids=["empty", "open", "tab", "alias", "tag", "deep", "digits"])
def test_files_that_are_no_policy_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError) as caught:
        read_policy(write(tmp_path, text))
    assert caught.value.diagnostics[0].code in ("E0651", "E0652", "E0653", "E0655")


def test_missing_folder_and_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(UserError) as caught:
            read_policy(path)
        assert caught.value.diagnostics[0].code == "E0651"


def test_all_findings_of_a_policy_come_together(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_policy(write(tmp_path, "start: 1\nweight_bits: 3\n"))
    assert [d.code for d in caught.value.diagnostics] == ["E0653", "E0655", "E0656"]
    assert caught.value.diagnostics[0].help == "write start_epoch"


def test_switch_folds_batchnorm_in_nested_containers_and_sets_every_layer() -> None:
    model = Net()
    policy = QatPolicy(start_epoch=1, weight_bits=2, overrides={
        "conv1": LayerOverride(weight_bits=8), "stage.1.conv2": LayerOverride(weight_bits=4, shift_quantile=0.9)})
    assert switch_to_qat(model, policy) == ("conv1", "stage.1.conv2")
    layers = quantized_layers(model)
    assert {name: int(layer.weight_bits) for name, layer in layers.items()} == {
        "conv1": 8, "stage.0": 2, "stage.1.conv2": 4, "fc": 2}
    assert float(layers["stage.1.conv2"].shift_quantile) == pytest.approx(0.9)
    assert all(layer.mode is Mode.QAT and layer.bn is None for layer in layers.values())
    assert not any(".bn." in key for key in model.state_dict())
    assert model.add.mode is Mode.QAT
    steps = model(torch.zeros(1, 1, 8, 8)) * 2**14
    assert torch.equal(steps, steps.round())


def test_unknown_override_is_refused_with_a_suggestion_and_nothing_changes() -> None:
    model = Net()
    policy = QatPolicy(start_epoch=1, overrides={"conv2": LayerOverride(weight_bits=4)})
    for function in (check_policy, switch_to_qat):
        with pytest.raises(UserError) as caught:
            function(model, policy)
        assert caught.value.diagnostics[0].code == "E0657"
        assert "conv1" in caught.value.diagnostics[0].help
    assert all(layer.mode is Mode.FLOAT for layer in quantized_layers(model).values())
    assert model.conv1.bn is not None


def test_switch_preserves_the_function_up_to_rounding() -> None:
    torch.manual_seed(0)
    layer = modules.FusedConv2dBNReLU(2, 4, 3, padding=1)
    inputs = torch.randint(-128, 128, (16, 2, 8, 8)) / 128
    for _ in range(10):
        layer(inputs)
    layer.eval()
    before = layer(inputs)
    switch_to_qat(layer, QatPolicy(start_epoch=0, weight_bits=8))
    assert (layer(inputs) - before).abs().max().item() < 4 / 128


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.Adam(p, 0.1),
                                  lambda p: torch.optim.AdamW(p, 0.1)], ids=["SGD", "Adam", "AdamW"])
def test_optimizer_state_follows_parameter_names(make) -> None:
    model = Net()
    model.conv1.op.weight.data.fill_(0.25)
    optimizer = make(model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    model(torch.rand(4, 1, 8, 8)).sum().backward()
    optimizer.step()
    scheduler.step()
    before = named_parameters(model)
    states = {name: optimizer.state[parameter] for name, parameter in before.items() if parameter in optimizer.state}
    switch_to_qat(model, QatPolicy(start_epoch=1))
    update_optimizer(optimizer, before, model)
    after = named_parameters(model)
    assert [p for group in optimizer.param_groups for p in group["params"]] == list(after.values())
    assert optimizer.param_groups[0]["lr"] == 0.05
    for name, parameter in after.items():
        if name in states:
            assert optimizer.state[parameter] is states[name]
    model(torch.rand(4, 1, 8, 8)).sum().backward()
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.025


def test_optimizer_state_of_replaced_parameters_is_carried_by_name() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    before = named_parameters(model)
    momentum = {name: optimizer.state[p]["momentum_buffer"] for name, p in before.items()}
    replaced = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3))
    update_optimizer(optimizer, before, replaced)
    assert optimizer.state[replaced[1].weight]["momentum_buffer"] is momentum["1.weight"]
    assert replaced[1].bias in set(optimizer.param_groups[0]["params"])
    assert len(optimizer.param_groups[0]["params"]) == 3


def test_wrappers_are_taken_off() -> None:
    model = Net()
    assert unwrap_model(torch.compile(model)) is model
    assert unwrap_model(nn.DataParallel(model)) is model
    assert unwrap_model(model) is model
    assert list(named_parameters(nn.DataParallel(model))) == list(named_parameters(model))


def test_policy_may_be_a_path_or_a_name(tmp_path: Path) -> None:
    path = write(tmp_path, POLICY)
    assert read_policy(str(path)) == read_policy(path)
