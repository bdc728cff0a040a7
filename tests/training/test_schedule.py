"""Learning rates: the default decay and schedule files."""

import math
import warnings

import pytest
import torch

from ai8x.errors import UserError
from ai8x.training.config import TrainConfig
from ai8x.training.schedule import Period, create_learning_rates


def make_optimizer(lr=0.1):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates_over(config, epochs, losses=None):
    optimizer = make_optimizer(config.lr)
    rates = create_learning_rates(config, optimizer)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimizer step is taken here
        for epoch in range(epochs):
            seen.append(optimizer.param_groups[0]["lr"])
            rates.finish_epoch(epoch, losses[epoch] if losses else 0.0)
    return seen


def write(tmp_path, scheduler, policy="starting_epoch: 0\n    ending_epoch: 100\n    frequency: 1"):
    path = tmp_path / "schedule.yaml"
    path.write_text(f"lr_schedulers:\n  rate:\n    {scheduler}\n"
                    f"policies:\n  - lr_scheduler:\n      instance_name: rate\n    {policy}\n")
    return TrainConfig(lr=0.1, schedule=str(path))


def test_cosine_goes_from_the_initial_rate_to_a_hundredth():
    seen = rates_over(TrainConfig(lr=0.1, epochs=10), 11)
    assert seen[0] == 0.1 and math.isclose(seen[10], 0.001) and seen == sorted(seen, reverse=True)
    assert math.isclose(seen[5], 0.1 * (0.01 + 0.99 / 2))


def test_decay_none_keeps_the_rate():
    assert set(rates_over(TrainConfig(lr=0.1, decay="none"), 5)) == {0.1}


def test_multi_step(tmp_path):
    config = write(tmp_path, "class: MultiStepLR\n    milestones: [2, 4]\n    gamma: 0.5")
    assert rates_over(config, 6) == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


def test_multi_step_multi_gamma(tmp_path):
    config = write(tmp_path, "class: MultiStepMultiGammaLR\n    milestones: [1, 3]\n    gammas: [0.5, 0.1]")
    assert rates_over(config, 5) == pytest.approx([0.1, 0.05, 0.05, 0.005, 0.005])


def test_polynomial(tmp_path):
    config = write(tmp_path, "class: PolynomialLR\n    T_max: 4\n    power: 2")
    assert rates_over(config, 6) == pytest.approx([0.1 * (1 - min(e, 4) / 4) ** 2 for e in range(6)])


def test_plateau_gets_the_validation_loss(tmp_path):
    config = write(tmp_path, "class: ReduceLROnPlateau\n    patience: 0\n    factor: 0.1")
    assert rates_over(config, 4, losses=[1.0, 0.5, 0.5, 0.5]) == pytest.approx([0.1, 0.1, 0.1, 0.01])


def test_the_rate_stays_after_the_ending_epoch(tmp_path):
    config = write(tmp_path, "class: StepLR\n    step_size: 1\n    gamma: 0.5",
                   "starting_epoch: 1\n    ending_epoch: 3\n    frequency: 1")
    assert rates_over(config, 6) == pytest.approx([0.1, 0.1, 0.05, 0.025, 0.025, 0.025])


def test_listed_epochs(tmp_path):
    config = write(tmp_path, "class: StepLR\n    step_size: 1\n    gamma: 0.5", "epochs: [0, 3]")
    assert rates_over(config, 5) == pytest.approx([0.1, 0.05, 0.05, 0.05, 0.025])


def test_period_steps_at_its_frequency():
    assert [e for e in range(10) if Period(start=2, end=9, frequency=3).covers(e)] == [2, 5, 8]


@pytest.mark.parametrize("scheduler", ["class: MultiStepLR\n    milestones: [2, 4]\n    gamma: 0.5",
                                       "class: CosineAnnealingLR\n    T_max: 6",
                                       "class: PolynomialLR\n    T_max: 6",
                                       "class: ReduceLROnPlateau\n    patience: 1"])
def test_resumed_schedule_goes_on_like_the_whole(tmp_path, scheduler):
    config = write(tmp_path, scheduler)
    losses = [1.0, 0.9, 0.95, 0.95, 0.95, 0.95]
    whole = rates_over(config, 6, losses)
    first, second = make_optimizer(), make_optimizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rates = create_learning_rates(config, first)
        for epoch in range(3):
            rates.finish_epoch(epoch, losses[epoch])
        resumed = create_learning_rates(config, second)
        second.load_state_dict(first.state_dict())
        resumed.load_state(rates.state())
        seen = []
        for epoch in range(3, 6):
            seen.append(second.param_groups[0]["lr"])
            resumed.finish_epoch(epoch, losses[epoch])
    assert seen == whole[3:]


@pytest.mark.parametrize(("text", "code"), [
    ("pruners: {}\nlr_schedulers:\n  a: {class: StepLR}\n", "E0613"),
    ("policies: []\n", "E0613"),
    ("lr_schedulers:\n  a: {gamma: 1}\n", "E0614"),
    ("lr_schedulers:\n  a: {class: StepLRR}\n", "E0614"),
    ("lr_schedulers:\n  a: {class: Optimizer}\n", "E0614"),
    ("lr_schedulers:\n  a: {class: StepLR, step: 3}\n", "E0615"),
    ("lr_schedulers:\n  a: {class: StepLR}\n", "E0615"),
    ("lr_schedulers:\n  a: {class: MultiStepMultiGammaLR, milestones: [1], gammas: []}\n", "E0615"),
    ("lr_schedulers:\n  a: {class: StepLR, step_size: 3}\n", "E0616"),
    ("lr_schedulers:\n  a: {class: StepLR, step_size: 3}\npolicies:\n  - lr_scheduler: {instance_name: b}\n", "E0616"),
    ("lr_schedulers:\n  a: {class: StepLR, step_size: 3}\npolicies:\n  - lr_scheduler: {instance_name: a}\n", "E0616"),
])
def test_bad_schedule_is_refused(tmp_path, text, code):
    path = tmp_path / "schedule.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        create_learning_rates(TrainConfig(schedule=str(path)), make_optimizer())
    assert [finding.code for finding in error.value.diagnostics] == [code]
    assert error.value.diagnostics[0].source.file == str(path)


def test_bundled_schedule_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(lr=0.1, schedule="policies/schedule_multistep.yaml")
    assert rates_over(config, 32)[31] == pytest.approx(0.02)
