"""The data set `digits`: its fixed split, its images and its augmentation."""

import hashlib

import numpy as np
import pytest
import torch

from ai8x.training.data import BatchPlan, LoaderArguments
from ai8x.training.digits import DIGITS, apportion, load_images, split_indices


@pytest.fixture(scope="module")
def images_and_labels():
    return load_images()


@pytest.fixture(scope="module")
def parts():
    return DIGITS.loader(LoaderArguments())


def all_batches(samples, **plan):
    inputs, targets = zip(*samples.batches(BatchPlan(batch_size=64, **plan)), strict=True)
    return torch.cat(inputs), torch.cat(targets)


def test_parts_have_the_sizes_of_the_fixed_split(parts):
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (1437 - 144, 144, 360)


def test_every_sample_lies_in_exactly_one_part(images_and_labels):
    split = split_indices(images_and_labels[1])
    together = np.concatenate((split.train, split.validation, split.test))
    assert np.array_equal(np.sort(together), np.arange(1797))


def test_no_image_occurs_in_two_parts(images_and_labels):
    images, labels = images_and_labels
    split = split_indices(labels)
    seen = [{images[i].numpy().tobytes() for i in part} for part in (split.train, split.validation, split.test)]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]


def test_split_is_stratified(images_and_labels):
    labels = images_and_labels[1]
    split = split_indices(labels)
    for part in (split.train, split.validation, split.test):
        expected = np.bincount(labels) * len(part) / len(labels)
        assert np.all(np.abs(np.bincount(labels[part]) - expected) <= 1.0)


def test_split_never_changes(images_and_labels):
    split = split_indices(images_and_labels[1])
    digest = hashlib.sha256(np.concatenate((split.test, split.validation)).astype("<i8").tobytes()).hexdigest()
    assert digest == "99c5856e6cf3dff083718c12636355e363f8f165a535db155612be09c7e0afb4"


def test_split_does_not_depend_on_global_generators(images_and_labels):
    np.random.seed(5)
    torch.manual_seed(5)
    first = split_indices(images_and_labels[1])
    np.random.seed(6)
    torch.manual_seed(6)
    assert np.array_equal(first.test, split_indices(images_and_labels[1]).test)


def test_inputs_lie_on_the_grid_of_the_chip(parts):
    inputs, _ = all_batches(parts.train, seed=3)
    steps = inputs * 128
    assert torch.equal(steps, steps.round())
    assert steps.min() >= -128 and steps.max() <= 127
    assert inputs.shape[1:] == DIGITS.input_shape


def test_integer_inputs_are_128_times_the_float_ones(parts):
    integer = DIGITS.loader(LoaderArguments(act_mode_8bit=True))
    assert torch.equal(all_batches(integer.test)[0], all_batches(parts.test)[0] * 128)


def test_augmentation_changes_with_the_epoch_and_repeats_with_the_seed(parts):
    first = next(parts.train.batches(BatchPlan(batch_size=8, seed=1, epoch=0)))
    again = next(parts.train.batches(BatchPlan(batch_size=8, seed=1, epoch=0)))
    later = next(parts.train.batches(BatchPlan(batch_size=8, seed=1, epoch=1)))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], later[0])


def test_epoch_shows_every_training_sample_once(parts):
    _, targets = all_batches(parts.train, seed=4, epoch=2)
    assert torch.equal(torch.bincount(targets), torch.bincount(parts.train.targets))


def test_validation_and_test_are_not_augmented(parts):
    assert torch.equal(all_batches(parts.validation, seed=1)[0].sum(), all_batches(parts.validation)[0].sum())


def test_truncated_test_set_keeps_the_first_item(parts):
    short = DIGITS.loader(LoaderArguments(truncate_testset=True))
    assert torch.equal(all_batches(short.test)[0], all_batches(parts.test)[0][:1])


@pytest.mark.parametrize(("sizes", "total", "expected"), [
    ([10, 10, 10], 3, [1, 1, 1]),
    ([1, 1, 1], 2, [1, 1, 0]),
    ([6, 3, 1], 5, [3, 2, 0]),
])
def test_apportion_gives_the_largest_remainders(sizes, total, expected):
    assert apportion(np.array(sizes), total).tolist() == expected
