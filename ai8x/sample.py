"""The sample that a network is verified with: from a file, the checkpoint, the data set, or seeded random numbers.

Start at `find_sample`.

Source: docs/design.md "Reading vendor files"; spec/max78000-cnn.md section 6.1 "Sample input".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.arithmetic import INT8
from ai8x.checkpoint import Checkpoint
from ai8x.errors import Source, UserError, user_error
from ai8x.files import array_from_npy, read_bytes
from ai8x.network.ir import TensorShape

SAMPLE_LIMIT_BYTES = 64 << 20
"""Size above which a sample file is refused unread."""

RANDOM_SEED = 0

DatasetItem = Callable[[str], NDArray[Any] | None]
"""Name of a data set -> its first test item as int8, or None where the data set is not to be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A network input.

    Args:
        values: int8 array (C, H, W); 1-D data has W = 1.
        origin: where it came from, for people.
    """

    values: NDArray[np.int8]
    origin: str

    @property
    def shape(self) -> TensorShape:
        """Shape of the network's input."""
        return TensorShape(*(int(size) for size in self.values.shape))


def find_sample(path: Path | None, checkpoint: Checkpoint, dataset: str, dataset_item: DatasetItem) -> Sample:
    """The sample to verify with.

    Args:
        path: ``--sample-input``, or None.
        checkpoint: may hold a sample, or at least the input's shape.
        dataset: name of the data set, for its first test item.
        dataset_item: looks that up.

    Raises:
        UserError: E0640 to E0642, a file that is no sample, or an impossible shape in the checkpoint; E0643, nothing
            tells the input's shape.
    """
    if path is not None:
        return Sample(values=read_sample(path), origin=f"file {path.name}")
    if checkpoint.sample is not None:
        return Sample(values=as_planes(checkpoint.sample), origin="stored in the checkpoint")
    item = dataset_item(dataset)
    if item is not None:
        return Sample(values=as_planes(item), origin=f"first test item of the data set {dataset}")
    if checkpoint.input_shape is None:
        raise user_error("E0643", "nothing tells the shape of the network's input",
                         source=Source(file=checkpoint.file), found="no sample in the checkpoint, and the data set "
                         f"'{dataset}' is not to be had here",
                         help="add --sample-input FILE.npy, an integer array (C, H, W)")
    if math.prod(checkpoint.input_shape) > SAMPLE_LIMIT_BYTES:
        raise user_error("E0642", "the input that the checkpoint names is too large",
                         source=Source(file=checkpoint.file), found=f"input_shape {checkpoint.input_shape}",
                         allowed=f"{SAMPLE_LIMIT_BYTES} values", help="get the checkpoint again from its origin")
    values = np.random.default_rng(RANDOM_SEED).integers(INT8.min, INT8.max, checkpoint.input_shape, endpoint=True)
    return Sample(values=as_planes(values), origin=f"random numbers, seed {RANDOM_SEED}")


def repeat_words(sample: Sample, *, words: int, increment: int) -> Sample:
    """A sample made of the first words of another one, as the firmware makes it (``--synthesize-input``).

    A word holds one pixel of four channels. Word i is ``word[i % words] + (i // words) * increment``, carries between
    the channels included, masked to the channels that there are.

    Args:
        sample: gives shape and first words.
        words: words that are repeated, at least 1.
        increment: added with every repetition.

    Raises:
        UserError: E0690, no word to repeat.

    Source:
        spec/max78000-cnn.md section 5.4.
    """
    if words < 1:
        raise user_error("E0690", "there is nothing to repeat", found=f"--synthesize-words {words}",
                         allowed="1 or more", help="write --synthesize-words 8")
    channels, height, width = sample.values.shape
    stored = pixel_words(sample.values)[:, :words].astype(np.int64)
    index = np.arange(height * width)
    made = (stored[:, index % words] + index // words * increment) & 0xFFFFFFFF
    pixels = made.astype("<u4")[..., None].view(np.uint8).reshape(len(made), height * width, 4)
    planes = [pixels[channel // 4, :, channel % 4].reshape(height, width) for channel in range(channels)]
    values = np.stack(planes).view(np.int8)
    return Sample(values=values, origin=f"first {words} words of {sample.origin}, repeated with {increment:#x} added")


def pixel_words(values: NDArray[np.int8]) -> NDArray[np.uint32]:
    """Words of four channels each, the lowest in the lowest byte: uint32 array (ceil(C / 4), pixels).

    Args:
        values: int8 array (C, H, W); channels that are missing in the last word are 0.
    """
    channels = len(values)
    lanes = np.zeros((-(-channels // 4), values[0].size, 4), np.uint8)
    for channel in range(channels):
        lanes[channel // 4, :, channel % 4] = values[channel].reshape(-1).astype(np.int8).view(np.uint8)
    return lanes.view("<u4")[..., 0]


def read_sample(path: Path) -> NDArray[np.int8]:
    """A sample file: any integer type, -128 to 127, (C, H, W) or (C, L).

    Raises:
        UserError: E0640 missing or too large, E0641 no array file, E0642 wrong type, shape or range.
    """
    content = read_bytes(path, limit=SAMPLE_LIMIT_BYTES, code="E0640")
    source = Source(file=str(path))
    try:
        values = array_from_npy(content)
    except ValueError as error:
        raise user_error("E0641", "this is not a numpy array file", source=source, found=str(error),
                         allowed="an array saved by numpy.save", help="numpy.save(FILE, integers)") from error
    problem = sample_problem(values)
    if problem:
        raise _refused(source, problem)
    return as_planes(values)


def array_sample(values: NDArray[Any]) -> Sample:
    """A sample that is given as an array.

    Raises:
        UserError: E0642 wrong type, shape or range.
    """
    if problem := sample_problem(values):
        raise _refused(None, problem)
    return Sample(values=as_planes(values), origin="given as an array")


def sample_problem(values: NDArray[Any]) -> str:
    """Why an array is no sample, or an empty string."""
    if values.dtype.kind not in "iu":
        return f"numbers of type {values.dtype}"
    if values.ndim not in (2, 3) or 0 in values.shape:
        return f"shape {values.shape}"
    if not INT8.allows(values):
        return f"values {values.min()} to {values.max()}"
    return ""


def as_planes(values: NDArray[Any]) -> NDArray[np.int8]:
    """An int8 array (C, H, W) from (C, H, W) or (C, L)."""
    planes = values[:, :, None] if values.ndim == 2 else values
    return np.ascontiguousarray(planes, np.int8)


def sample_shape_error(path: Path, sample: Sample, checkpoint: Checkpoint) -> UserError | None:
    """For a sample that a network could not take: the sample is to blame where its shape is not the checkpoint's.

    A network without Linear layers takes inputs of any size, so the shapes are compared only after a failure.
    """
    known = checkpoint.sample.shape if checkpoint.sample is not None else checkpoint.input_shape
    if known is None or (*known, 1)[:3] == sample.values.shape:
        return None
    return user_error("E0642", "the network cannot take this sample", source=Source(file=str(path)),
                      found=f"shape {sample.values.shape}", allowed=f"shape {tuple(known)}, as the checkpoint names it",
                      help=f"save an array of shape {tuple(known)}, or leave --sample-input out")


def _refused(source: Source | None, problem: str) -> UserError:
    return user_error("E0642", "this array cannot be a sample", source=source, found=problem,
                      allowed="integers -128 to 127 of shape (C, H, W) or (C, L)",
                      help="numpy.clip(numpy.round(x * 128), -128, 127).astype('int64') for data x in -1 to 1")
