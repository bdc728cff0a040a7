"""Pictures with a class for every pixel: street scenes (CamVid) and portraits (AISegment).

CamVid on disk: ``DATA/CamVid/class_dict.csv`` (name, r, g, b) and the folders ``train``, ``train_labels``, ``test``,
``test_labels`` (``val`` likewise), labels named ``<picture>_L.png``. AISegment on disk: ``DATA/AISegment/clip_img``
with pictures and ``matting`` with cut-outs whose transparency tells the person, in folders of the same structure.
Their licences do not let them be fetched automatically. Start at `CamVidLoader` and `AISegmentLoader`.

Source: spec/ai8x-training.md sections 2 (folding), 16 and 17.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ai8x.errors import Source
from ai8x.nn.data import fold, normalize
from ai8x.training.data import DataSpec, LoaderArguments
from ai8x.training.loader import PluginLoader, read_image, read_labels, require_folder, unreadable

FOLD_RATIO = 4
"""Of the large pictures: 3x352x352 becomes 48x88x88."""
OPAQUE = 128
THREE_CLASSES = ("Building", "Sky", "Tree")
ALL_CLASSES = (
    "Animal", "Archway", "Bicyclist", "Bridge", "Building", "Car", "CartLuggagePram", "Child", "Column_Pole", "Fence",
    "LaneMkgsDriv", "LaneMkgsNonDriv", "Misc_Text", "MotorcycleScooter", "OtherMoving", "ParkingBlock", "Pedestrian",
    "Road", "RoadShoulder", "Sidewalk", "SignSymbol", "Sky", "SUVPickupTruck", "TrafficCone", "TrafficLight", "Train",
    "Tree", "Truck_Bus", "Tunnel", "VegetationMisc", "Void", "Wall")
OTHER = "Other"
_CAMVID, _AISEGMENT = "CamVid", "AISegment"
_TEST_EVERY = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelTask:
    """What is made of the files.

    Args:
        name: of the data set.
        size: height and width of the pictures.
        folded: the picture is folded by `FOLD_RATIO`; the labels are not.
        classes: names that are told apart; the rest is one class more.
    """

    name: str
    size: int
    folded: bool
    classes: tuple[str, ...]

    def picture(self, path: Path, args: LoaderArguments, *, mirrored: bool) -> Tensor:
        """A picture as the network sees it."""
        image = read_image(path, (self.size, self.size))
        image = normalize(args)(image.flip(2) if mirrored else image)
        return fold(FOLD_RATIO)(image) if self.folded else image


class PixelClasses(Dataset[Any]):
    """Pictures and their labels.

    Args:
        task: what is made of them.
        pairs: picture and label file of every item.
        colours: class of every colour (red, green, blue); None takes the transparency.
        args: of the loader.
        augmented: mirror at random.
    """

    def __init__(self, task: PixelTask, pairs: Sequence[tuple[Path, Path]], colours: dict[tuple[int, ...], int] | None,
                 args: LoaderArguments, *, augmented: bool) -> None:
        self._task, self._pairs, self._colours = task, list(pairs), colours
        self._args, self._augmented = args, augmented

    def plain(self) -> PixelClasses:
        """The same pictures, unchanged."""
        return PixelClasses(self._task, self._pairs, self._colours, self._args, augmented=False)

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self._pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Picture (C, H, W) and classes int64 (rows, columns)."""
        picture, labels = self._pairs[index]
        mirrored = self._augmented and random.random() < 0.5  # noqa: S311  the loader seeds it for every item
        classes = self._classes(labels)
        return self._task.picture(picture, self._args, mirrored=mirrored), classes.flip(1) if mirrored else classes

    def _classes(self, path: Path) -> Tensor:
        size = (self._task.size, self._task.size)
        if self._colours is None:
            return torch.from_numpy((read_labels(path, "RGBA", size)[..., 3] >= OPAQUE).astype(np.int64))
        pixels = read_labels(path, "RGB", size).astype(np.int64)
        codes = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
        classes = np.full(codes.shape, len(self._task.classes), np.int64)
        for (red, green, blue), number in self._colours.items():
            classes[codes == (red << 16) | (green << 8) | blue] = number
        return torch.from_numpy(classes)


@dataclass(frozen=True, slots=True)
class CamVidLoader:
    """Loader function of one variant of CamVid."""

    task: PixelTask

    def __call__(self, data: tuple[str, LoaderArguments], load_train: bool = True, load_test: bool = True
                 ) -> tuple[PixelClasses | None, PixelClasses | None]:
        """Training and test part.

        Raises:
            UserError: E0609 where files are not there.
        """
        folder, args = data
        root = require_folder((Path(folder) / _CAMVID, Path(folder)), "class_dict.csv", self.task.name,
                              "unpack CamVid with class_dict.csv, and name its folder with --data DIR")
        colours = self._colours(root / "class_dict.csv")
        train = self._pairs(root, ("train",)) if load_train else []
        test = self._pairs(root, ("test", "val")) if load_test else []
        return (PixelClasses(self.task, train, colours, args, augmented=True) if load_train else None,
                PixelClasses(self.task, test, colours, args, augmented=False) if load_test else None)

    def _colours(self, path: Path) -> dict[tuple[int, ...], int]:
        colours = {}
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, skipinitialspace=True):
                if row.get("name") in self.task.classes:
                    colours[tuple(int(row[part]) for part in "rgb")] = self.task.classes.index(row["name"])
        missing = set(self.task.classes) - {self.task.classes[number] for number in colours.values()}
        if missing:
            raise unreadable(f"data set '{self.task.name}' does not know all classes",
                             source=Source(file=str(path)), found=f"missing: {', '.join(sorted(missing))}",
                             allowed=", ".join(self.task.classes), help="use the class_dict.csv of CamVid")
        return colours

    def _pairs(self, root: Path, parts: tuple[str, ...]) -> list[tuple[Path, Path]]:
        pairs = []
        for part in parts:
            for picture in sorted((root / part).glob("*.png")):
                labels = root / f"{part}_labels" / f"{picture.stem}_L.png"
                if not labels.exists():
                    raise unreadable("a picture has no labels", source=Source(file=str(picture)),
                                     allowed=str(labels), help="fetch the data set again")
                pairs.append((picture, labels))
        return pairs


@dataclass(frozen=True, slots=True)
class AISegmentLoader:
    """Loader function of one variant of AISegment; every tenth picture is for the test."""

    task: PixelTask

    def __call__(self, data: tuple[str, LoaderArguments], load_train: bool = True, load_test: bool = True
                 ) -> tuple[PixelClasses | None, PixelClasses | None]:
        """Training and test part.

        Raises:
            UserError: E0609 where files are not there.
        """
        folder, args = data
        root = require_folder((Path(folder) / _AISEGMENT, Path(folder)), "clip_img", self.task.name,
                              "unpack AISegment's clip_img and matting, and name their folder with --data DIR")
        pairs = []
        for picture in sorted((root / "clip_img").glob("*/clip_*/*.jpg")):
            group, batch = picture.parts[-3], picture.parts[-2].replace("clip_", "matting_", 1)
            labels = root / "matting" / group / batch / f"{picture.stem}.png"
            if labels.exists():  # some pictures of the original have none
                pairs.append((picture, labels))
        test = pairs[::_TEST_EVERY]
        train = [pair for number, pair in enumerate(pairs) if number % _TEST_EVERY]
        return (PixelClasses(self.task, train, None, args, augmented=True) if load_train else None,
                PixelClasses(self.task, test, None, args, augmented=False) if load_test else None)


def _spec(name: str, size: int, folded: bool, classes: tuple[str, ...]) -> DataSpec:
    task = PixelTask(name=name, size=size, folded=folded, classes=classes)
    is_camvid = name.startswith(_CAMVID)
    loader = PluginLoader(name, CamVidLoader(task) if is_camvid else AISegmentLoader(task))
    shape = (3 * FOLD_RATIO**2, size // FOLD_RATIO, size // FOLD_RATIO) if folded else (3, size, size)
    return DataSpec(name=name, input_shape=shape, labels=(*classes, OTHER) if is_camvid else classes, loader=loader)


SEGMENTATION_SETS = (
    _spec("CamVid_s80_c3", 80, False, THREE_CLASSES), _spec("CamVid_s80_c33", 80, False, ALL_CLASSES),
    _spec("CamVid_s352_c3", 352, True, THREE_CLASSES), _spec("CamVid_s352_c33", 352, True, ALL_CLASSES),
    _spec("AISegment_80", 80, False, ("background", "person")),
    _spec("AISegment_352", 352, True, ("background", "person")),
)
"""The records that the registry lists."""
