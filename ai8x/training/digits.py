"""The data set `digits`: 1,797 handwritten digits that scikit-learn brings along, so nothing is downloaded.

The split is part of the data set: chosen once by the rule in `split_indices`, the same for every ``--seed``.

Source: docs/design.md "Names"; scikit-learn's copy of the UCI optical recognition test set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ai8x.nn.data import normalize
from ai8x.training.data import DataSpec, LoaderArguments, Parts, TensorSamples
from ai8x.training.transforms import random_affine

NUM_CLASSES = 10
NUM_TEST = 360
NUM_VALIDATION = 144
IMAGE_SIZE = 28
_SPLIT_SEED = 0
_MAX_GREY = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitIndices:
    """Which of the 1,797 samples belong to which part; every sample to exactly one."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def split_indices(labels: NDArray[np.int64]) -> SplitIndices:
    """The fixed stratified split: 360 test samples, 144 for validation, the rest to train on.

    Every class is shuffled by one generator with a constant seed (numpy's RandomState, whose stream is frozen); the
    first samples of each class go to the test part, the next to validation. Classes get their share by the largest
    remainder.

    Args:
        labels: class of every sample, (1797,).
    """
    random = np.random.RandomState(_SPLIT_SEED)
    sizes = np.bincount(labels, minlength=NUM_CLASSES)
    num_test = apportion(sizes, NUM_TEST)
    num_validation = apportion(sizes - num_test, NUM_VALIDATION)
    parts: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    for digit in range(NUM_CLASSES):
        members = random.permutation(np.flatnonzero(labels == digit))
        cuts = np.split(members, (num_test[digit], num_test[digit] + num_validation[digit]))
        for part, chosen in zip(parts, cuts, strict=True):
            part.append(chosen)
    test, validation, train = (np.sort(np.concatenate(part)) for part in parts)
    return SplitIndices(train=train, validation=validation, test=test)


def apportion(sizes: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Divide ``total`` among classes in proportion to their sizes, by the largest remainder.

    Of equal remainders the lower class comes first.
    """
    exact = sizes * total / sizes.sum()
    shares: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    order = np.argsort(shares - exact, kind="stable")
    shares[order[: total - int(shares.sum())]] += 1
    return shares


def load_images() -> tuple[Tensor, NDArray[np.int64]]:
    """All samples as images in [0, 1], float32 (1797, 1, 28, 28), and their classes (1797,)."""
    from sklearn.datasets import load_digits  # here, because it takes a second

    bunch = load_digits()
    small = torch.from_numpy(bunch.images.astype(np.float32) / _MAX_GREY).unsqueeze(1)
    images = torch.nn.functional.interpolate(small, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear",
                                             align_corners=False)
    return images.clamp(0, 1), bunch.target.astype(np.int64)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Small turns, moves and zooms, as another hand would write the digit."""
    return random_affine(images, generator, degrees=10, translate=0.06, scale=0.1, shear=5)


def load(args: LoaderArguments) -> Parts:
    """The three parts; only the training part is augmented."""
    images, labels = load_images()
    targets = torch.from_numpy(labels)
    split = split_indices(labels)
    test = split.test[:1] if args.truncate_testset else split.test

    def part(indices: NDArray[np.int64], *, augmented: bool) -> TensorSamples:
        return TensorSamples(images=images[indices], targets=targets[indices], transform=normalize(args),
                             augmentation=augment if augmented else None)

    return Parts(train=part(split.train, augmented=True), validation=part(split.validation, augmented=False),
                 test=part(test, augmented=False))


DIGITS = DataSpec(name="digits", input_shape=(1, IMAGE_SIZE, IMAGE_SIZE),
                  labels=tuple(str(digit) for digit in range(NUM_CLASSES)), loader=load)
"""The record that the registry lists."""
