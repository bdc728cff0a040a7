"""The data set `FakeData`: coloured noise that can be learnt in seconds, for trying models and command lines.

Start at `load`.
"""

from __future__ import annotations

import torch

from ai8x.nn.data import normalize
from ai8x.training.data import DataSpec, LoaderArguments, Parts, TensorSamples, validation_indices

NUM_TRAIN, NUM_TEST, NUM_CLASSES, SIZE = 512, 128, 10, 32
_SEED = 20
_NOISE = 0.15


def load(args: LoaderArguments) -> Parts:
    """The same samples every time: a coarse pattern for every class, and noise on it."""
    generator = torch.Generator().manual_seed(_SEED)
    patterns = torch.rand((NUM_CLASSES, 3, 4, 4), generator=generator)
    images = torch.nn.functional.interpolate(patterns, size=(SIZE, SIZE), mode="nearest")
    targets = torch.randint(0, NUM_CLASSES, (NUM_TRAIN + NUM_TEST,), generator=generator)
    noise = torch.randn((NUM_TRAIN + NUM_TEST, 3, SIZE, SIZE), generator=generator) * _NOISE
    samples = (images[targets] + noise).clamp(0, 1)
    train, validation = validation_indices(NUM_TRAIN, args.validation_split)
    test = list(range(NUM_TRAIN, NUM_TRAIN + (1 if args.truncate_testset else NUM_TEST)))

    def part(indices: list[int]) -> TensorSamples:
        return TensorSamples(images=samples[indices], targets=targets[indices], transform=normalize(args))

    return Parts(train=part(train), validation=part(validation or test), test=part(test))


FAKE_DATA = DataSpec(name="FakeData", input_shape=(3, SIZE, SIZE), labels=tuple(str(i) for i in range(NUM_CLASSES)),
                     loader=load)
"""The record that the registry lists."""
