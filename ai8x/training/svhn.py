"""The data set `SVHN_74`: house numbers in street views, with a box around every digit.

On disk, as the archives of the full-number format unpack: ``DATA/SVHN/train`` and ``DATA/SVHN/test``, each with the
pictures ``<number>.png`` and ``digitStruct.mat``, which is an HDF5 file; reading it needs the package h5py. A picture
is cut to its digits with a margin and scaled to 74x74. Start at `load`.

Source: spec/ai8x-training.md sections 16 and 17.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ai8x.errors import Source, user_error
from ai8x.nn.data import normalize
from ai8x.training.data import DataSpec, LoaderArguments, TaskKind
from ai8x.training.detection import collate_boxes
from ai8x.training.loader import PluginLoader, read_image, require_folder, unreadable

NAME = "SVHN_74"
SIZE = 74
MARGIN = 0.3
"""Of the cut around all digits, as a share of their common box."""
LABELS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "0")
"""As the files count them: 10 is the digit 0."""
URLS = ("http://ufldl.stanford.edu/housenumbers/train.tar.gz", "http://ufldl.stanford.edu/housenumbers/test.tar.gz")
_FIELDS = ("left", "top", "width", "height", "label")
_STRUCT = "digitStruct.mat"


@dataclass(frozen=True, slots=True, kw_only=True)
class HouseNumber:
    """One picture.

    Args:
        name: of its file.
        boxes: (left, top, width, height) of every digit, in pixels.
        labels: of every digit, 1 to 10.
    """

    name: str
    boxes: tuple[tuple[float, float, float, float], ...]
    labels: tuple[int, ...]


def read_structure(path: Path) -> list[HouseNumber]:
    """The entries of a ``digitStruct.mat``.

    Raises:
        UserError: E0638 where h5py is not installed, E0609 for a file of another structure.
    """
    try:
        import h5py  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise user_error("E0638", f"data set '{NAME}' is described by an HDF5 file", source=Source(file=str(path)),
                         found="the package h5py is not installed", help="pip install h5py") from error
    try:
        with h5py.File(path, "r") as file:
            names, boxes = file["digitStruct/name"], file["digitStruct/bbox"]
            return [_entry(file, names[i][0], boxes[i][0]) for i in range(len(names))]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise unreadable(f"data set '{NAME}' cannot be read", source=Source(file=str(path)),
                         found=str(error)[:100], help="fetch the data set again") from error


def _entry(file: Any, name: Any, box: Any) -> HouseNumber:
    group = file[box]
    columns = [_values(file, group[field]) for field in _FIELDS]
    rows = list(zip(*columns, strict=True))
    return HouseNumber(name="".join(chr(int(code)) for code in np.asarray(file[name]).ravel()),
                       boxes=tuple((left, top, width, height) for left, top, width, height, _ in rows),
                       labels=tuple(int(row[4]) for row in rows))


def _values(file: Any, column: Any) -> list[float]:
    """One number for a single digit, references to numbers for several."""
    if len(column) == 1:
        return [float(np.asarray(column).ravel()[0])]
    return [float(np.asarray(file[reference[0]]).ravel()[0]) for reference in column]


class HouseNumbers(Dataset[Any]):
    """Pictures and the boxes of their digits.

    Args:
        root: folder with pictures and ``digitStruct.mat``.
        args: of the loader.
    """

    def __init__(self, root: Path, args: LoaderArguments) -> None:
        self._root = root
        self._entries = [entry for entry in read_structure(root / _STRUCT) if entry.labels]
        self._transform = normalize(args)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._entries)

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Picture (3, 74, 74), boxes (M, 4) as corners in [0, 1], and classes from 1 (M,)."""
        entry = self._entries[index]
        image = read_image(self._root / entry.name)
        sizes = torch.tensor(entry.boxes)
        corners = torch.cat((sizes[:, :2], sizes[:, :2] + sizes[:, 2:]), dim=1)
        left, top, right, bottom = cut_around(corners, (image.shape[1], image.shape[2]))
        part = image[:, top:bottom, left:right].unsqueeze(0)
        part = torch.nn.functional.interpolate(part, size=(SIZE, SIZE), mode="bilinear", antialias=True)[0].clamp(0, 1)
        scale = torch.tensor([right - left, bottom - top] * 2, dtype=torch.float32)
        boxes = ((corners - torch.tensor([left, top] * 2)) / scale).clamp(0, 1)
        return self._transform(part), (boxes, torch.tensor(entry.labels))


def cut_around(corners: Tensor, size: Sequence[int]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the cut around all boxes, with a margin, within the picture.

    Args:
        corners: of the boxes, (M, 4), in pixels.
        size: height and width of the picture.
    """
    low, high = corners[:, :2].min(dim=0).values, corners[:, 2:].max(dim=0).values
    margin = (high - low) * MARGIN
    left, top = (int(value) for value in (low - margin).clamp(min=0).floor())
    right, bottom = (int(value) for value in (high + margin).ceil())
    right, bottom = min(right, size[1]), min(bottom, size[0])
    return min(left, size[1] - 1), min(top, size[0] - 1), max(right, left + 1), max(bottom, top + 1)


def load(data: tuple[str, LoaderArguments], load_train: bool = True, load_test: bool = True
         ) -> tuple[HouseNumbers | None, HouseNumbers | None]:
    """Training and test part.

    Raises:
        UserError: E0609 where files are not there, E0638 where h5py is not installed.
    """
    folder, args = data
    candidates = (Path(folder) / "SVHN", Path(folder))
    if args.download and not any((candidate / "train" / _STRUCT).exists() for candidate in candidates):
        fetch(candidates[0])
    root = require_folder(candidates, f"train/{_STRUCT}", NAME,
                          "add --download to fetch it (0.7 GB), or name its folder with --data DIR")
    return (HouseNumbers(root / "train", args) if load_train else None,
            HouseNumbers(root / "test", args) if load_test else None)


def fetch(folder: Path) -> None:
    """Download and unpack both archives into a folder.

    Raises:
        UserError: E0609 where that fails.
    """
    for url in URLS:
        archive = folder / url.rsplit("/", 1)[1]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(archive))
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
            archive.unlink()
        except (OSError, tarfile.TarError) as error:
            raise unreadable(f"data set '{NAME}' cannot be fetched", source=Source(file=url),
                             found=str(error)[:100], help=f"fetch it by hand and unpack it into {folder}") from error


SVHN_74 = DataSpec(name=NAME, input_shape=(3, SIZE, SIZE), labels=LABELS, kind=TaskKind.DETECTION,
                   loader=PluginLoader(NAME, load, TaskKind.DETECTION, collate_boxes))
"""The record that the registry lists."""
