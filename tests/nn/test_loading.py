"""States of every generation, and what is said about those that do not fit."""

import pytest
import torch
from torch import Tensor, nn

from ai8x.errors import UserError
from ai8x.nn import modules
from ai8x.nn.base import Mode, model_mode
from ai8x.nn.loading import load_state
from ai8x.nn.qat import QatPolicy, switch_to_qat
from ai8x.quantization import quantize_state


class Net(nn.Module):
    def __init__(self, *, bias: bool = True, outputs: int = 3) -> None:
        super().__init__()
        self.conv1 = modules.FusedConv2dBNReLU(2, 4, 3, padding=1)
        self.stage = nn.Sequential(modules.MaxPool2d(2), modules.FusedConv2dReLU(4, 4, 3, bias=bias))
        self.add = modules.Add()
        self.scale = nn.Linear(1, 1)
        self.fc = modules.Linear(16, outputs, bias=True, wide=True)

    def forward(self, images: Tensor) -> Tensor:
        data = self.stage(self.conv1(images))
        return self.fc(self.add(data, data).flatten(1))


def trained(*, qat: bool) -> Net:
    torch.manual_seed(0)
    model = Net()
    for _ in range(3):
        model(torch.randint(-128, 128, (8, 2, 8, 8)) / 128)
    if qat:
        switch_to_qat(model, QatPolicy(start_epoch=0))
    return model.eval()


def inputs() -> Tensor:
    return torch.randint(-128, 128, (4, 2, 8, 8), generator=torch.Generator().manual_seed(3)) / 128


@pytest.mark.parametrize("qat", [False, True])
def test_state_decides_about_batchnorm_and_mode(qat: bool) -> None:
    source, model = trained(qat=qat), Net()
    loaded = load_state(model, source.state_dict())
    assert loaded.mode is model_mode(model) is (Mode.QAT if qat else Mode.FLOAT)
    assert loaded.folded == (("conv1",) if qat else ())
    assert torch.equal(model.eval()(inputs()), source(inputs()))


def test_quantised_state_sets_integer_mode_everywhere() -> None:
    source, model = trained(qat=True), Net()
    quantized = {key: value for key, value in quantize_state({k: v for k, v in source.state_dict().items()
                                                              if not k.startswith("scale")}).items()}
    quantized |= {key: value for key, value in source.state_dict().items() if key.startswith("scale")}
    assert load_state(model, quantized).mode is Mode.INTEGER
    assert model.add.mode is Mode.INTEGER
    assert torch.equal(model(inputs() * 128) / 2**14, source(inputs()))


def test_missing_entries_take_their_defaults() -> None:
    source, model = trained(qat=False), Net()
    state = {key: value for key, value in source.state_dict().items()
             if key.rpartition(".")[2] in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert load_state(model, state).mode is Mode.FLOAT
    assert torch.equal(model.eval()(inputs()), source(inputs()))


def test_files_of_2020_are_recognised_as_integers() -> None:
    model = nn.Sequential(modules.Conv2d(1, 2, 3, bias=False))
    weight = torch.randint(-128, 128, (2, 1, 3, 3)).float()
    assert load_state(model, {"0.conv2d.weight": weight}).mode is Mode.INTEGER
    assert torch.equal(model[0].op.weight, weight)


def test_second_generation_has_no_division_after_batchnorm() -> None:
    torch.manual_seed(0)
    model, other = nn.Sequential(modules.FusedConv2dBN(1, 2, 3)), nn.Sequential(modules.FusedConv2dBN(1, 2, 3))
    state = {**model.state_dict(), "0.activation_threshold": torch.tensor(0.0), "0.final_scale": torch.tensor(0.0),
             "0.clamp_activation": torch.tensor([False])}
    load_state(other, state)
    data = torch.randn(2, 1, 8, 8) / 8
    model.eval(), other.eval()
    torch.testing.assert_close(other(data), model[0].bn(model[0].op(data)))


@pytest.mark.parametrize(("change", "code", "layer"), [
    (lambda s: s.pop("fc.op.weight"), "E0523", "fc"),
    (lambda s: s.update({"fc.op.extra": torch.zeros(1)}), "E0524", "fc"),
    (lambda s: [s.pop(k) for k in list(s) if k.startswith("scale.")], "E0521", "scale"),
    (lambda s: s.update({"fc2.op.weight": torch.zeros(1)}), "E0522", "fc2"),
    (lambda s: s.update({"fc.op.weight": torch.zeros(3, 17)}), "E0525", "fc"),
])
def test_what_does_not_fit_is_named_and_nothing_is_loaded(change, code: str, layer: str) -> None:
    state = dict(trained(qat=True).state_dict())
    change(state)
    model = Net()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        load_state(model, state)
    (finding,) = caught.value.diagnostics
    assert (finding.code, finding.layer) == (code, layer)
    assert model.conv1.bn is not None
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_other_options_are_explained() -> None:
    with pytest.raises(UserError) as caught:
        load_state(Net(bias=False), trained(qat=True).state_dict())
    (finding,) = caught.value.diagnostics
    assert finding.code == "E0524" and "--use-bias" in finding.help
    with pytest.raises(UserError) as caught:
        load_state(Net(outputs=5), trained(qat=True).state_dict())
    assert [d.code for d in caught.value.diagnostics] == ["E0525", "E0525"]


def test_mixed_states_are_refused() -> None:
    state = dict(trained(qat=True).state_dict())
    state["fc.quantize_activation"] = torch.tensor([False])
    with pytest.raises(UserError) as caught:
        load_state(Net(), state)
    assert caught.value.diagnostics[0].code == "E0526"


def test_a_float_state_can_follow_a_quantised_one() -> None:
    model = nn.Sequential(modules.Linear(4, 2, bias=True))
    float_state = {key: value.clone() for key, value in model.state_dict().items()}
    switch_to_qat(model, QatPolicy(start_epoch=0))
    load_state(model, quantize_state(model.state_dict()))
    assert load_state(model, float_state).mode is Mode.FLOAT


def test_wrapped_models_are_loaded() -> None:
    source = trained(qat=False)
    model = nn.DataParallel(Net())
    load_state(model, source.state_dict())
    assert torch.equal(model.module.eval()(inputs()), source(inputs()))
