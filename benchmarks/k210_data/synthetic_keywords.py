"""The data set `synthetic_keywords`: four "words" of 128 channels by 128 steps, for trying keyword networks.

A word is a tone whose channel rises, falls, stays or jumps over the steps; it begins anywhere, in noise. Made in a
second from a seed, nothing is downloaded. Give the folder of this file as ``--datasets-path``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from ai8x.nn.data import normalize

WORDS = ("rise", "fall", "hold", "jump")
NUM_TRAIN, NUM_TEST = 512, 128
SIZE = 128
_SEED = 7
_NOISE, _LEVEL, _THICKNESS, _STEPS = 0.08, 0.6, 4.0, 96


def _courses(rng: np.random.Generator, words: np.ndarray) -> np.ndarray:
    """Channel of the tone at every step: (N, steps)."""
    low, high = rng.uniform(10, 40, len(words)), rng.uniform(80, 118, len(words))
    time = np.linspace(0, 1, _STEPS)[None, :]
    rising = low[:, None] + (high - low)[:, None] * time
    choices = np.stack([rising, rising[:, ::-1], np.repeat(((low + high) / 2)[:, None], _STEPS, axis=1),
                        np.where(time < 0.5, low[:, None], high[:, None])])
    courses: np.ndarray = choices[words, np.arange(len(words))]
    return courses


def sounds(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Spectra (N, 128 channels, 128 steps) of 0 to 1, and the words (N,)."""
    rng = np.random.default_rng(seed)
    words = rng.integers(0, len(WORDS), count)
    spectra = np.abs(rng.normal(0, _NOISE, (count, SIZE, SIZE))).astype(np.float32)
    courses = _courses(rng, words)
    channels = np.arange(SIZE)[:, None]
    for item, start in enumerate(rng.integers(0, SIZE - _STEPS + 1, count)):
        tone = _LEVEL * np.exp(-(((channels - courses[item][None, :]) / _THICKNESS) ** 2))
        spectra[item, :, start : start + _STEPS] += tone.astype(np.float32)
    return torch.from_numpy(spectra.clip(0, 1)), torch.from_numpy(words)


def load(data: tuple[str, Any], load_train: bool = True, load_test: bool = True) -> tuple[Any, Any]:
    """Training and test part, on the scale that the run asks for."""
    _, args = data
    scaled = normalize(args)
    train = test = None
    if load_train:
        spectra, words = sounds(NUM_TRAIN, _SEED)
        train = TensorDataset(scaled(spectra), words)
    if load_test:
        spectra, words = sounds(NUM_TEST, _SEED + 1)
        test = TensorDataset(scaled(spectra), words)
    return train, test


datasets = [{"name": "synthetic_keywords", "input": (SIZE, SIZE), "output": WORDS, "loader": load}]
