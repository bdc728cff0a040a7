"""How the learning rate changes from epoch to epoch: the default decay, or a schedule file.

The rate changes at the end of an epoch. The switch to quantisation-aware training keeps the optimizer object, so
schedulers stay attached. Start at `LearningRates` and `create_learning_rates`.

Source: spec/ai8x-training.md section 13.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch.optim import Optimizer, lr_scheduler

from ai8x.errors import Diagnostic, Diagnostics, user_error
from ai8x.training.config import TrainConfig
from ai8x.training.registry import resolve_bundled
from ai8x.training.settings_file import Settings, read_settings

FINAL_SHARE = 0.01
"""The default decay ends at this share of the initial rate."""

_IGNORED_SECTIONS = ("version",)
_SECTIONS = ("lr_schedulers", "policies")


class LearningRates(Protocol):
    """What the training loop asks of a schedule."""

    def finish_epoch(self, epoch: int, validation_loss: float) -> None:
        """Set the rates for the epoch after ``epoch`` (counted from 0)."""

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave."""


class CosineDecay:
    """The default: half a cosine from the initial rate down to a hundredth of it at the last epoch.

    A pure function of the epoch, so there is no state to keep.
    """

    def __init__(self, optimizer: Optimizer, *, initial: float, epochs: int) -> None:
        self._optimizer = optimizer
        self._initial = initial
        self._epochs = epochs

    def finish_epoch(self, epoch: int, validation_loss: float) -> None:
        """Set the rate for the next epoch."""
        progress = min(1.0, (epoch + 1) / self._epochs)
        share = FINAL_SHARE + (1 - FINAL_SHARE) * (1 + math.cos(math.pi * progress)) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = self._initial * share

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing to put back."""


class ConstantRate:
    """The rate stays as it is."""

    def finish_epoch(self, epoch: int, validation_loss: float) -> None:
        """Change nothing."""

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Nothing to put back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """The epochs at whose end a scheduler steps.

    Args:
        epochs: listed explicitly, or None.
        start, end: first epoch and the one after the last, otherwise.
        frequency: every so many epochs.
    """

    epochs: tuple[int, ...] | None = None
    start: int = 0
    end: int = 0
    frequency: int = 1

    def covers(self, epoch: int) -> bool:
        """Whether the scheduler steps at the end of this epoch."""
        if self.epochs is not None:
            return epoch in self.epochs
        return self.start <= epoch < self.end and (epoch - self.start) % self.frequency == 0


Scheduler = lr_scheduler.LRScheduler | lr_scheduler.ReduceLROnPlateau


class ScheduleFile:
    """Schedulers of torch, stepped as the policies of a schedule file say."""

    def __init__(self, schedulers: Mapping[str, Scheduler], policies: tuple[tuple[str, Period], ...]) -> None:
        self._schedulers = schedulers
        self._policies = policies

    def finish_epoch(self, epoch: int, validation_loss: float) -> None:
        """Step every scheduler whose policy lists the epoch."""
        for name, period in self._policies:
            if period.covers(epoch):
                scheduler = self._schedulers[name]
                if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                    scheduler.step(validation_loss)
                else:
                    scheduler.step()

    def state(self) -> dict[str, Any]:
        """Plain attributes of every scheduler."""
        return {name: _plain_state(scheduler) for name, scheduler in self._schedulers.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` gave, by name."""
        for name, scheduler in self._schedulers.items():
            if name in state:
                scheduler.load_state_dict({**scheduler.state_dict(), **state[name]})


def _plain_state(scheduler: Scheduler) -> dict[str, Any]:
    """What changes while a scheduler steps; constructor arguments come from the file again."""
    plain = (bool, int, float, str, type(None))
    state: dict[str, Any] = {}
    for key, value in scheduler.state_dict().items():
        if isinstance(value, plain):
            state[key] = value
        elif isinstance(value, list | tuple) and all(isinstance(entry, plain) for entry in value):
            state[key] = list(value)
    return state


def create_learning_rates(config: TrainConfig, optimizer: Optimizer) -> LearningRates:
    """The schedule that a configuration asks for.

    Raises:
        UserError: E0613 to E0616 for a schedule file that cannot be followed.
    """
    if config.schedule is not None:
        return _from_file(read_settings(resolve_bundled(config.schedule)), optimizer)
    if config.decay == "none":
        return ConstantRate()
    return CosineDecay(optimizer, initial=config.lr, epochs=config.epochs)


def _from_file(settings: Settings, optimizer: Optimizer) -> ScheduleFile:
    findings = Diagnostics()
    for key in settings.values:
        if key not in _SECTIONS + _IGNORED_SECTIONS:
            findings.add(Diagnostic(code="E0613", message=f"section '{key}' is not supported", found=key,
                                    source=settings.place(key), allowed=", ".join(_SECTIONS),
                                    help="remove it: only learning-rate schedulers are supported"))
    findings.raise_if_errors()
    entries = settings.values.get("lr_schedulers")
    if not isinstance(entries, dict) or not entries:
        raise user_error("E0613", "the schedule has no lr_schedulers", source=settings.place("lr_schedulers"),
                         help="see the manual, 'schedules'")
    schedulers = {name: _scheduler(settings, name, optimizer) for name in entries}
    return ScheduleFile(schedulers, _policies(settings, schedulers))


def _scheduler(settings: Settings, name: str, optimizer: Optimizer) -> Scheduler:
    entry = settings.values["lr_schedulers"][name]
    place = settings.place("lr_schedulers", name)
    if not isinstance(entry, dict) or not isinstance(entry.get("class"), str):
        raise user_error("E0614", f"scheduler '{name}' has no class", source=place, help="write class: MultiStepLR")
    arguments = {key: value for key, value in entry.items() if key != "class"}
    factory = _scheduler_factory(entry["class"])
    if factory is None:
        raise user_error("E0614", f"scheduler class '{entry['class']}' is unknown",
                         source=settings.place("lr_schedulers", name, "class"), found=entry["class"],
                         allowed="a class of torch.optim.lr_scheduler, PolynomialLR or MultiStepMultiGammaLR",
                         help="write for example MultiStepLR")
    known = [key for key in inspect.signature(factory).parameters if key != "optimizer"]
    for key in arguments:
        if key not in known:
            raise user_error("E0615", f"scheduler '{name}' has no argument '{key}'",
                             source=settings.place("lr_schedulers", name, key), found=key, allowed=", ".join(known),
                             help="remove it or correct its name")
    try:
        return factory(optimizer, **arguments)
    except (TypeError, ValueError) as error:
        raise user_error("E0615", f"scheduler '{name}' cannot be made", source=place, found=str(error),
                         allowed=", ".join(known), help="correct its arguments") from error


def _scheduler_factory(name: str) -> Callable[..., Scheduler] | None:
    own: dict[str, Callable[..., Scheduler]] = {"PolynomialLR": polynomial_decay,
                                                "MultiStepMultiGammaLR": multi_step_decay}
    if name in own:
        return own[name]
    found = getattr(lr_scheduler, name, None)
    if not inspect.isclass(found) or not issubclass(found, lr_scheduler.LRScheduler | lr_scheduler.ReduceLROnPlateau):
        return None
    return found


def polynomial_decay(optimizer: Optimizer, T_max: int, power: float = 1.0) -> Scheduler:
    """``lr = base * (1 - epoch / T_max) ** power``, 0 from ``T_max`` on."""
    if T_max < 1:
        raise ValueError(f"T_max {T_max} is less than 1")
    return lr_scheduler.LambdaLR(optimizer, lambda epoch: float(max(0.0, 1 - epoch / T_max) ** power))


def multi_step_decay(optimizer: Optimizer, milestones: list[int], gammas: list[float]) -> Scheduler:
    """At each milestone the rate is multiplied by the gamma of the same position."""
    if len(milestones) != len(gammas):
        raise ValueError(f"{len(milestones)} milestones but {len(gammas)} gammas")
    steps = tuple(zip(milestones, gammas, strict=True))
    return lr_scheduler.LambdaLR(optimizer, lambda epoch: math.prod(g for m, g in steps if epoch >= m))


def _policies(settings: Settings, schedulers: Mapping[str, Scheduler]) -> tuple[tuple[str, Period], ...]:
    result = []
    entries = settings.values.get("policies")
    for index, entry in enumerate(entries if isinstance(entries, list) else ()):
        place = settings.place("policies", index)
        reference = entry.get("lr_scheduler") if isinstance(entry, dict) else None
        name = reference.get("instance_name") if isinstance(reference, dict) else None
        if name not in schedulers:
            raise user_error("E0616", "a policy must name one of the lr_schedulers", source=place, found=str(name),
                             allowed=", ".join(schedulers), help="write lr_scheduler: {instance_name: NAME}")
        result.append((str(name), _period(entry, place)))
    if not result:
        raise user_error("E0616", "the schedule has no policies, so it would never change the rate",
                         source=settings.place("policies"), help="see the manual, 'schedules'")
    return tuple(result)


def _period(entry: Mapping[str, Any], place: Any) -> Period:
    listed = entry.get("epochs")
    if isinstance(listed, list) and all(isinstance(epoch, int) for epoch in listed):
        return Period(epochs=tuple(listed))
    numbers = [entry.get("starting_epoch"), entry.get("ending_epoch"), entry.get("frequency", 1)]
    start, end, frequency = numbers
    if isinstance(start, int) and isinstance(end, int) and isinstance(frequency, int) and frequency >= 1:
        return Period(start=start, end=end, frequency=frequency)
    raise user_error("E0616", "a policy must say when its scheduler steps", source=place, found=str(numbers),
                     allowed="starting_epoch, ending_epoch and frequency, or a list of epochs",
                     help="write starting_epoch: 0, ending_epoch: 60, frequency: 1")
