"""What a checkpoint of a run holds besides its weights, so that the run goes on bit for bit.

Files are read and written by `ai8x.checkpoint` alone; this module names the entries. Start at `TrainingCheckpoint`.

Source: spec/ai8x-training.md section 8; docs/design.md "Files".
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ai8x.checkpoint import Checkpoint, arrays_from_tensors, read_checkpoint, write_checkpoint
from ai8x.errors import Source, user_error
from ai8x.nn.arguments import Scheme
from ai8x.nn.qat import LayerOverride, QatPolicy
from ai8x.plain import plain_value
from ai8x.training.config import convert_value, field_types
from ai8x.training.data import Stream, stream_seed

PRUNED_KEY = "pruned_channels"
"""Entry of the extras of a file whose layers have fewer channels than the model by its name."""
_KEYS = ("optimizer_state_dict", "optimizer_type", "schedule", "meter", "history", "rows", "random", "config", "step",
         "is_quantized", "qat_policy")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCheckpoint:
    """The state of a run after a step.

    Args:
        epoch: last finished epoch, -1 before the first is done.
        step: steps done of the next epoch.
        is_quantized: quantisation-aware training has begun.
        arch: model name.
        state: parameters and buffers, tensors.
        optimizer: its ``state_dict``.
        optimizer_type: its name.
        schedule: state of the learning rates.
        meter: sums of the unfinished epoch.
        history: validation scores of the phase, oldest first: figures, rank, epoch.
        rows: the metrics table so far.
        random: states of all generators.
        config: settings of the run.
        policy: QAT policy as plain values, or None.
        labels, input_shape, sample: of the data set; sample is the first test item, int8.
        extras: figures under the names that ai8x-training uses.
        average: running mean of the weights, or None.
    """

    epoch: int
    step: int
    is_quantized: bool
    arch: str
    state: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    optimizer_type: str
    schedule: Mapping[str, Any]
    meter: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    random: Mapping[str, Any]
    config: Mapping[str, Any]
    policy: Mapping[str, Any] | None
    labels: tuple[str, ...]
    input_shape: tuple[int, ...]
    sample: Tensor
    extras: Mapping[str, Any]
    average: Mapping[str, Any] | None = None

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            UserError: E0810 where writing fails; the old file is intact.
        """
        training = {
            "optimizer_state_dict": dict(self.optimizer), "optimizer_type": self.optimizer_type,
            "schedule": dict(self.schedule), "meter": dict(self.meter), "history": plain_value(self.history),
            "rows": plain_value(self.rows), "random": dict(self.random), "config": dict(self.config),
            "step": self.step, "is_quantized": self.is_quantized, "qat_policy": self.policy}
        if self.average is not None:
            training["average"] = dict(self.average)
        write_checkpoint(path, Checkpoint(
            state=arrays_from_tensors(self.state), epoch=self.epoch, arch=self.arch, extras=dict(self.extras),
            sample=self.sample.numpy(), labels=self.labels, input_shape=self.input_shape, training=training))

    @staticmethod
    def read(path: Path) -> TrainingCheckpoint:
        """A checkpoint that training can go on from.

        Raises:
            UserError: E05xx for a damaged file, E0627 for one that holds weights only.
        """
        checkpoint = read_checkpoint(path)
        held = checkpoint.training
        missing = [key for key in _KEYS if key not in held]
        if missing or checkpoint.epoch is None or checkpoint.sample is None or checkpoint.input_shape is None:
            raise user_error("E0627", "the checkpoint does not hold what going on needs", source=Source(file=str(path)),
                             found=f"missing: {', '.join(missing) or 'epoch, sample or input_shape'}",
                             allowed="a checkpoint of a run of this tool",
                             help=f"start a new run from its weights: --exp-load-weights-from {path}")
        return TrainingCheckpoint(
            epoch=checkpoint.epoch, step=held["step"], is_quantized=held["is_quantized"], arch=checkpoint.arch,
            state=checkpoint.tensors(), optimizer=held["optimizer_state_dict"], optimizer_type=held["optimizer_type"],
            schedule=held["schedule"], meter=held["meter"], history=held["history"], rows=held["rows"],
            random=held["random"], config=held["config"], policy=held["qat_policy"], labels=checkpoint.labels,
            input_shape=checkpoint.input_shape, sample=torch.from_numpy(checkpoint.sample.copy()),
            extras=checkpoint.extras, average=held.get("average"))

    @property
    def is_pruned(self) -> bool:
        """Whether the layers have fewer channels than the model by its name."""
        return bool(self.extras.get(PRUNED_KEY))

    def settings(self, file: Path) -> dict[str, Any]:
        """The settings of the run, checked."""
        return checked_settings(self.config, file)

    def qat_policy(self) -> QatPolicy | None:
        """The QAT policy of the run."""
        if self.policy is None:
            return None
        overrides = {name: LayerOverride(**entry) for name, entry in self.policy["overrides"].items()}
        scheme = Scheme(self.policy.get("scheme", Scheme.V1.value))
        return QatPolicy(**{**self.policy, "overrides": overrides, "scheme": scheme})


def describe_policy(policy: QatPolicy | None) -> dict[str, Any] | None:
    """A policy as plain values."""
    return None if policy is None else {**asdict(policy), "scheme": policy.scheme.value}


def checked_settings(config: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Settings stored in a file, with their types checked; names of a later version are left out."""
    known = field_types()
    return {name: convert_value(name, value, source=Source(file=str(file)))
            for name, value in config.items() if name in known}


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators, from which weights and dropout are drawn."""
    number = stream_seed(seed, Stream.MODEL)
    random.seed(number)
    np.random.seed(number % (1 << 32))
    torch.manual_seed(number)


def random_states() -> dict[str, Any]:
    """States of all global generators, as plain values and tensors."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    states = {"python": [version, list(words), gauss], "torch": torch.get_rng_state(),
              "numpy": [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(cached)]}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def shared_random_states(everybodys: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The states of all processes as one entry: the first one's, with those of the ``others`` by rank."""
    first, *others = everybodys
    return {**first, "others": [dict(states) for states in others]}


def states_of_process(states: Mapping[str, Any], rank: int) -> Mapping[str, Any] | None:
    """What `shared_random_states` holds for a process; None where fewer took part."""
    others = states.get("others", [])
    if rank == 0:
        return states
    held: Mapping[str, Any] | None = others[rank - 1] if rank <= len(others) else None
    return held


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Put back what `random_states` gave."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
