"""The data set `cats_vs_dogs`: photographs in folders named after their class.

On disk: ``DATA/cats_vs_dogs/train/cats/*.jpg``, ``.../train/dogs``, ``.../test/cats`` and ``.../test/dogs``. Its
licence does not let it be fetched automatically. Start at `load`.

Source: spec/ai8x-training.md section 17.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ai8x.errors import Source
from ai8x.nn.data import normalize
from ai8x.training.data import DataSpec, LoaderArguments
from ai8x.training.loader import PluginLoader, read_image, require_folder, unreadable
from ai8x.training.transforms import random_affine

NAME = "cats_vs_dogs"
LABELS = ("cats", "dogs")
SIZE = (128, 128)
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")


class FolderImages(Dataset[Any]):
    """Pictures whose folder is their class.

    Args:
        root: holds a folder for every class.
        labels: names of the folders, in the order of the classes.
        args: of the loader.
        augmented: mirror and move pictures, and change their brightness, by the global generators.
    """

    def __init__(self, root: Path, labels: Sequence[str], args: LoaderArguments, *, augmented: bool) -> None:
        self._items = [(path, number) for number, label in enumerate(labels)
                       for path in sorted((root / label).glob("*")) if path.suffix.lower() in _SUFFIXES]
        self._augmented = augmented
        self._transform = normalize(args)
        if not self._items:
            raise unreadable("the data set has no pictures", source=Source(file=str(root)),
                             allowed=", ".join(f"{label}/*.jpg" for label in labels),
                             help="put the pictures into folders named after their class")

    def plain(self) -> FolderImages:
        """The same pictures, unchanged."""
        twin = copy.copy(self)
        twin._augmented = False
        return twin

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Picture (3, 128, 128) and its class."""
        path, number = self._items[index]
        image = read_image(path, SIZE)
        return self._transform(_augment(image) if self._augmented else image), number


def _augment(image: Tensor) -> Tensor:
    if random.random() < 0.5:  # noqa: S311  the loader seeds it for every item
        image = image.flip(2)
    generator = torch.Generator().manual_seed(random.randrange(1 << 62))  # noqa: S311
    moved = random_affine(image.unsqueeze(0), generator, degrees=15, translate=0.06, scale=0.1)[0]
    return (moved * random.uniform(0.8, 1.2)).clamp(0, 1)  # noqa: S311


def load(data: tuple[str, LoaderArguments], load_train: bool = True, load_test: bool = True
         ) -> tuple[FolderImages | None, FolderImages | None]:
    """Training and test part.

    Raises:
        UserError: E0609 where the folders are not there.
    """
    folder, args = data
    advice = "unpack the pictures as train/cats, train/dogs, test/cats and test/dogs, and name the folder with --data"
    root = require_folder((Path(folder) / NAME, Path(folder)), "train/cats", NAME, advice)
    return (FolderImages(root / "train", LABELS, args, augmented=True) if load_train else None,
            FolderImages(root / "test", LABELS, args, augmented=False) if load_test else None)


CATS_VS_DOGS = DataSpec(name=NAME, input_shape=(3, *SIZE), labels=LABELS, loader=PluginLoader(NAME, load))
"""The record that the registry lists."""
