"""Batches: reproducible, resumable, independent of the number of workers."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from ai8x.training.data import (
    BatchPlan,
    DatasetSamples,
    TensorSamples,
    seeded_globals,
    stream_seed,
    validation_indices,
)
from ai8x.training.transforms import random_affine, random_flip, random_shift


class NoisyItems(Dataset):
    """Items whose transform draws from all three global generators."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        noise = random.random() + np.random.rand() + torch.rand(1).item()
        return torch.full((1, 2, 2), index + noise), index % 3


def collect(samples, **plan):
    return [(inputs.clone(), targets.clone()) for inputs, targets in samples.batches(BatchPlan(batch_size=5, **plan))]


def assert_equal_batches(first, second):
    assert len(first) == len(second)
    for (inputs_a, targets_a), (inputs_b, targets_b) in zip(first, second, strict=True):
        assert torch.equal(inputs_a, inputs_b) and torch.equal(targets_a, targets_b)


@pytest.fixture
def dataset_samples():
    return DatasetSamples(dataset=NoisyItems(), indices=range(23))


@pytest.fixture
def tensor_samples():
    images = torch.rand(23, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def augment(batch, generator):
        return random_affine(batch, generator, degrees=10, translate=0.1)

    return TensorSamples(images=images, targets=torch.arange(23), transform=lambda x: x, augmentation=augment)


@pytest.mark.parametrize("kind", ["dataset_samples", "tensor_samples"])
@pytest.mark.parametrize("first_batch", [1, 3, 4])
def test_rest_of_an_epoch_equals_the_tail_of_the_whole(kind, first_batch, request):
    samples = request.getfixturevalue(kind)
    whole = collect(samples, seed=9, epoch=4)
    assert_equal_batches(whole[first_batch:], collect(samples, seed=9, epoch=4, first_batch=first_batch))


@pytest.mark.parametrize("kind", ["dataset_samples", "tensor_samples"])
def test_batches_do_not_depend_on_the_global_generators(kind, request):
    samples = request.getfixturevalue(kind)
    torch.manual_seed(1)
    first = collect(samples, seed=9)
    torch.manual_seed(2)
    assert_equal_batches(first, collect(samples, seed=9))


def test_batches_do_not_depend_on_the_number_of_workers(dataset_samples):
    workers = DatasetSamples(dataset=NoisyItems(), indices=range(23), workers=2)
    assert_equal_batches(collect(dataset_samples, seed=3), collect(workers, seed=3))


def test_batches_leave_the_global_generators_alone(dataset_samples):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    collect(dataset_samples, seed=3)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_other_seeds_and_epochs_give_other_orders(tensor_samples):
    orders = {tuple(BatchPlan(batch_size=23, seed=seed, epoch=epoch).index_batches(23)[0])
              for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_without_a_seed_the_order_is_that_of_the_files(tensor_samples):
    assert next(t.tolist() for _, t in collect(tensor_samples)) == [0, 1, 2, 3, 4]


def test_without_a_seed_nothing_is_augmented(tensor_samples):
    assert torch.equal(torch.cat([inputs for inputs, _ in collect(tensor_samples)]), tensor_samples.images)


def test_bytes_are_scaled_to_one():
    samples = TensorSamples(images=torch.tensor([[[[0, 255]]]], dtype=torch.uint8), targets=torch.zeros(1).long(),
                            transform=lambda x: x)
    assert collect(samples)[0][0].flatten().tolist() == [0.0, 1.0]


def test_stream_seeds_differ():
    assert len({stream_seed(a, b) for a in range(30) for b in range(30)}) == 900


def test_seeded_globals_repeat_and_restore():
    before = torch.get_rng_state()
    with seeded_globals(7):
        first = random.random(), np.random.rand(), torch.rand(1).item()
    with seeded_globals(7):
        assert first == (random.random(), np.random.rand(), torch.rand(1).item())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_validation_split_is_disjoint_and_complete(share):
    train, validation = validation_indices(50, share)
    assert sorted(train + validation) == list(range(50))
    assert len(validation) == int(50 * share)


def test_affine_without_change_keeps_the_images():
    images = torch.rand(4, 1, 9, 9)
    generator = torch.Generator().manual_seed(0)
    unchanged = random_affine(images, generator, degrees=0, translate=0)
    assert torch.allclose(unchanged, images, atol=1e-5)


def test_affine_stays_within_the_range():
    images = torch.ones(16, 2, 9, 9)
    changed = random_affine(images, torch.Generator().manual_seed(0), degrees=30, translate=0.3, scale=0.2, shear=9)
    assert changed.min() >= 0 and changed.max() <= 1 + 1e-6 and not torch.equal(changed, images)


def test_shift_moves_by_whole_pixels():
    images = torch.zeros(64, 1, 9, 9)
    images[:, 0, 4, 4] = 1
    moved = random_shift(images, torch.Generator().manual_seed(0), pixels=2)
    places = moved.flatten(1).argmax(1)
    rows, columns = places // 9 - 4, places % 9 - 4
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(64))
    assert set(rows.tolist()) == set(columns.tolist()) == {-2, -1, 0, 1, 2}


def test_flip_mirrors_about_half_of_the_images():
    images = torch.arange(3.0).expand(200, 1, 1, 3).clone()
    flipped = random_flip(images, torch.Generator().manual_seed(0))[:, 0, 0, 0] == 2
    assert 60 < int(flipped.sum()) < 140
