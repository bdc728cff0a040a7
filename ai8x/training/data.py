"""Data sets as the training loop sees them: three parts, each a source of reproducible batches.

A batch is a pure function of (seed, epoch, batch number): order and augmentation are seeded from these three, never
from a global generator. So a resumed run sees the same data, at any worker count. Start at `DataSpec` and `Samples`.

Source: spec/ai8x-training.md section 11; docs/design.md "Training that can be interrupted".
"""

from __future__ import annotations

import contextlib
import enum
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ai8x.training.transforms import Augmentation

Batch = tuple[Tensor, Any]
"""Inputs float32 (N, C, H, W) or (N, C, L); targets as the kind of the data set has them (`TaskKind`)."""

_SPLIT_SEED = 0


class TaskKind(enum.Enum):
    """What a model learns from a data set, and so what targets look like.

    CLASSIFICATION: classes, int64 (N,), or one for every pixel, (N, H, W). REGRESSION: values like the outputs,
    float32. DETECTION: a pair of lists with the boxes, (M, 4) as corners, and the classes from 1, (M,), of every image.
    """

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    DETECTION = "detection"


class Stream(enum.IntEnum):
    """Independent random streams of one run."""

    ORDER = 0
    AUGMENTATION = 1
    MODEL = 2


def stream_seed(*numbers: int) -> int:
    """One 63-bit seed from several numbers; different inputs give unrelated streams."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def stream_generator(*numbers: int) -> torch.Generator:
    """A torch generator seeded by `stream_seed`."""
    return torch.Generator().manual_seed(stream_seed(*numbers))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderArguments:
    """What a loader is told; plug-ins get this object as ``args``.

    Args:
        act_mode_8bit: give integers -128 to 127 instead of these divided by 128.
        truncate_testset: only the first test item.
        folder: where data sets lie (``--data``).
        download: fetching missing files is allowed.
        validation_split: share of the training data for validation, where the data set does not fix it.
        workers: loader processes for data sets that are read item by item.
        out_fold_ratio: the outputs are folded by this; data sets that give folded targets may look at it.
    """

    act_mode_8bit: bool = False
    truncate_testset: bool = False
    folder: Path = Path("data")
    download: bool = False
    validation_split: float = 0.1
    workers: int = 0
    out_fold_ratio: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """One pass over a part, or the rest of one.

    Args:
        batch_size: samples per batch; the last may be smaller.
        seed: of the run; None takes the samples in order and unchanged, as for evaluation.
        epoch: counted from 0.
        first_batch: number of batches to leave out, counted from the start of the epoch.
        rank, world: this process takes every ``world``-th sample of a batch from number ``rank`` on.
    """

    batch_size: int
    seed: int | None = None
    epoch: int = 0
    first_batch: int = 0
    rank: int = 0
    world: int = 1

    def index_batches(self, num_samples: int) -> list[list[int]]:
        """The sample numbers of every remaining batch."""
        if self.seed is None:
            order = list(range(num_samples))
        else:
            generator = stream_generator(self.seed, Stream.ORDER, self.epoch)
            order = torch.randperm(num_samples, generator=generator).tolist()
        starts = range(self.first_batch * self.batch_size, num_samples, self.batch_size)
        return [self._share(order[start:start + self.batch_size]) for start in starts]

    def _share(self, batch: list[int]) -> list[int]:
        """The samples of this process; none is taken twice, unless a batch has fewer samples than processes."""
        if len(batch) < self.world:
            return [batch[self.rank % len(batch)]]
        return batch[self.rank::self.world]

    def weight(self, number: int, num_samples: int) -> float:
        """What the mean over this process's share of a batch counts, so that all processes together give its mean."""
        size = min(self.batch_size, num_samples - number * self.batch_size)
        return len(range(self.rank, size, self.world)) * self.world / size if size >= self.world else 1.0

    def augmentation_seed(self, number: int) -> int:
        """Seed of the augmentation of a batch or of a sample, different in every epoch."""
        return stream_seed(self.seed or 0, Stream.AUGMENTATION, self.epoch, number)


class Samples(Protocol):
    """One part of a data set."""

    def __len__(self) -> int:
        """Number of samples."""

    def batches(self, plan: BatchPlan) -> Iterator[Batch]:
        """The batches of a plan, in its order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSamples:
    """Samples that lie in memory; augmented and normalised a batch at a time.

    Args:
        images: (N, C, H, W) or (N, C, L), float32 in [0, 1] or uint8.
        targets: one for every image, (N, ...).
        transform: from [0, 1] to what the network sees (`ai8x.nn.data.normalize`).
        augmentation: applied before, when the plan has a seed.
    """

    images: Tensor
    targets: Tensor
    transform: Callable[[Tensor], Tensor]
    augmentation: Augmentation | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.targets)

    def batches(self, plan: BatchPlan) -> Iterator[Batch]:
        """The batches of a plan, in its order."""
        for number, indices in enumerate(plan.index_batches(len(self)), start=plan.first_batch):
            images = self.images[indices]
            unit = images.float() / 255 if images.dtype == torch.uint8 else images
            if self.augmentation is not None and plan.seed is not None:
                generator = torch.Generator().manual_seed(plan.augmentation_seed(number))
                unit = self.augmentation(unit, generator)
            yield self.transform(unit), self.targets[indices]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSamples:
    """Samples of a torch data set, read item by item, by worker processes if wanted.

    The item's own random transforms draw from the global generators, which are seeded for each item and put back
    afterwards: the result does not depend on the number of workers.

    Args:
        dataset: map-style, items (input, target).
        indices: which items belong to this part.
        workers: loader processes; 0 reads in this one.
        kind: what the targets are.
        collate: makes a batch from a list of items, where targets differ in shape.
    """

    dataset: Dataset[Any]
    indices: Sequence[int]
    workers: int = 0
    kind: TaskKind = TaskKind.CLASSIFICATION
    collate: Callable[[list[Any]], Any] | None = None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.indices)

    def batches(self, plan: BatchPlan) -> Iterator[Batch]:
        """The batches of a plan, in its order."""
        numbers = [[self.indices[i] for i in batch] for batch in plan.index_batches(len(self))]
        loader = DataLoader(_SeededDataset(self.dataset, plan), batch_sampler=numbers, num_workers=self.workers,
                            generator=torch.Generator().manual_seed(0), collate_fn=self.collate)
        for inputs, targets in loader:
            yield inputs.float(), self._typed(targets)

    def _typed(self, targets: Any) -> Any:
        if self.kind is TaskKind.CLASSIFICATION:
            return targets.long()
        if self.kind is TaskKind.REGRESSION:
            return targets.float()
        boxes, labels = targets[0], targets[-1]
        return [box.float() for box in boxes], [label.long() for label in labels]


class _SeededDataset(Dataset[Any]):
    """Reads an item with all global generators seeded for it."""

    def __init__(self, dataset: Dataset[Any], plan: BatchPlan) -> None:
        self._dataset = dataset
        self._plan = plan

    def __getitem__(self, index: int) -> Any:
        with seeded_globals(self._plan.augmentation_seed(index)):
            return self._dataset[index]


@contextlib.contextmanager
def seeded_globals(seed: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's global generators for a while and put them back afterwards."""
    saved = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % (1 << 32))
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(saved[0])
            np.random.set_state(saved[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The three parts of a data set; no sample lies in two."""

    train: Samples
    validation: Samples
    test: Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """One data set that ``--dataset`` can name.

    Args:
        name: as typed; case matters.
        input_shape: (C, H, W) or (C, L).
        labels: one name per class.
        loader: makes the parts.
        class_weights: for the cross entropy, one per class.
        origin: the file it was found in, for messages.
        kind: what is learnt.
    """

    name: str
    input_shape: tuple[int, ...]
    labels: tuple[str, ...]
    loader: Callable[[LoaderArguments], Parts]
    class_weights: tuple[float, ...] | None = None
    origin: str = "ai8x"
    kind: TaskKind = TaskKind.CLASSIFICATION

    @property
    def num_classes(self) -> int:
        """Number of classes; with objects to detect, class 0 is the background and comes in addition."""
        return len(self.labels) + (self.kind is TaskKind.DETECTION)


def validation_indices(num_samples: int, share: float) -> tuple[list[int], list[int]]:
    """Training and validation numbers of a data set that does not fix its split; the same for every run."""
    generator = stream_generator(_SPLIT_SEED, Stream.ORDER)
    order = torch.randperm(num_samples, generator=generator).tolist()
    count = int(num_samples * share)
    return sorted(order[count:]), sorted(order[:count])
