"""Loader functions in the conventions of ai8x-training, and what the bundled file-based data sets share.

Start at `PluginLoader`.

Source: spec/ai8x-training.md section 11.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ai8x.errors import Source, UserError, user_error
from ai8x.training.data import DatasetSamples, LoaderArguments, Parts, TaskKind, validation_indices


@dataclass(frozen=True, slots=True)
class PluginLoader:
    """Calls a loader function in the conventions of ai8x-training and divides its training data.

    A training set with a method ``plain`` gives by it what validation reads: the same samples without augmentation.
    """

    name: str
    function: Callable[..., tuple[Any, Any]]
    kind: TaskKind = TaskKind.CLASSIFICATION
    collate: Callable[[list[Any]], Any] | None = None

    def __call__(self, args: LoaderArguments) -> Parts:
        """The three parts.

        Raises:
            UserError: E0608 where the function gives no data.
        """
        train, test = self.function((str(args.folder), args), load_train=True, load_test=True)
        if train is None or test is None:
            raise user_error("E0608", f"the loader of data set '{self.name}' gave no data",
                             found=f"train {train!r:.40}, test {test!r:.40}", allowed="two torch data sets")
        test_indices = range(1 if args.truncate_testset else len(test))
        part = partial(DatasetSamples, workers=args.workers, kind=self.kind, collate=self.collate)
        test_part = part(dataset=test, indices=test_indices)
        fixed = getattr(train, "valid_indices", None)
        if fixed is not None:
            chosen = {int(i) for i in fixed}
            validation_numbers = sorted(chosen)
            train_numbers = [i for i in range(len(train)) if i not in chosen]
        else:
            train_numbers, validation_numbers = validation_indices(len(train), args.validation_split)
        train_part = part(dataset=train, indices=train_numbers)
        if not validation_numbers:
            return Parts(train=train_part, validation=test_part, test=test_part)
        plain = getattr(train, "plain", None)
        validation_part = part(dataset=plain() if callable(plain) else train, indices=validation_numbers)
        return Parts(train=train_part, validation=validation_part, test=test_part)


def unreadable(message: str, *, source: Source, found: str = "", allowed: str = "", help: str) -> UserError:
    """E0609: files of a data set that are missing or not what they should be."""
    return user_error("E0609", message, source=source, found=found, allowed=allowed, help=help)


def require_folder(candidates: Sequence[Path], mark: str, name: str, advice: str) -> Path:
    """The first folder that holds the mark of a data set.

    Args:
        candidates: folders to look into.
        mark: file or folder that must be there.
        name: of the data set.
        advice: how to get it.

    Raises:
        UserError: E0609 where none does.
    """
    for folder in candidates:
        if (folder / mark).exists():
            return folder
    raise unreadable(f"data set '{name}' is not there", source=Source(file=str(candidates[0])),
                     found=f"no {mark} in " + ", ".join(str(folder) for folder in candidates),
                     allowed=f"a folder with {mark}", help=advice)


def read_image(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """A picture as float32 (3, H, W) in [0, 1].

    Args:
        path: in any format that Pillow reads.
        size: height and width to scale to, or None.

    Raises:
        UserError: E0609 for a file that is no picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
            if size is not None:
                picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            pixels = np.asarray(picture, np.uint8).copy()
    except OSError as error:
        raise unreadable("a picture of the data set cannot be read", source=Source(file=str(path)),
                         found=str(error)[:100], help="fetch the data set again") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def read_labels(path: Path, mode: str, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture of labels, scaled without mixing neighbours: (H, W, channels of the mode) uint8.

    Raises:
        UserError: E0609 for a file that is no picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            picture = image.convert(mode).resize((size[1], size[0]), Image.Resampling.NEAREST)
            return np.asarray(picture, np.uint8).copy()
    except OSError as error:
        raise unreadable("a picture of the data set cannot be read", source=Source(file=str(path)),
                         found=str(error)[:100], help="fetch the data set again") from error
