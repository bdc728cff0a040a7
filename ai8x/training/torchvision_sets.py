"""MNIST, FashionMNIST, CIFAR10 and CIFAR100 through torchvision; kept in memory and augmented a batch at a time.

Nothing is fetched unless ``--download`` is given.

Source: spec/ai8x-training.md section 17 (names, shapes, training transforms).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ai8x.errors import Source
from ai8x.nn.data import normalize
from ai8x.training.data import DataSpec, LoaderArguments, Parts, TensorSamples, validation_indices
from ai8x.training.loader import unreadable
from ai8x.training.torchvision_ops import import_torchvision
from ai8x.training.transforms import Augmentation, random_affine, random_flip, random_shift

_DIGITS = tuple(str(digit) for digit in range(10))
_FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest",
    "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion", "lizard",
    "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange", "orchid",
    "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine", "possum",
    "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper",
    "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf",
    "woman", "worm")


def augment_mnist(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop of 4 pixels, 20 degrees, 10 percent, shear 5."""
    moved = random_shift(images, generator, pixels=4)
    return random_affine(moved, generator, degrees=20, translate=0.1, shear=5)


def augment_fashion(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop of 4 pixels and mirroring."""
    return random_flip(random_shift(images, generator, pixels=4), generator)


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchvisionLoader:
    """Reads one of torchvision's in-memory data sets.

    Args:
        class_name: attribute of ``torchvision.datasets``.
        augmentation: of the training part.
    """

    class_name: str
    augmentation: Augmentation

    def __call__(self, args: LoaderArguments) -> Parts:
        """The three parts; validation is a fixed share of the training data."""
        images, targets = self._read(args, train=True)
        test_images, test_targets = self._read(args, train=False)
        count = 1 if args.truncate_testset else len(test_targets)
        transform = normalize(args)
        train, validation = validation_indices(len(targets), args.validation_split)
        test_part = TensorSamples(images=test_images[:count], targets=test_targets[:count], transform=transform)
        train_part = TensorSamples(images=images[train], targets=targets[train], transform=transform,
                                   augmentation=self.augmentation)
        if not validation:
            return Parts(train=train_part, validation=test_part, test=test_part)
        validation_part = TensorSamples(images=images[validation], targets=targets[validation], transform=transform)
        return Parts(train=train_part, validation=validation_part, test=test_part)

    def _read(self, args: LoaderArguments, *, train: bool) -> tuple[Tensor, Tensor]:
        factory = getattr(import_torchvision().datasets, self.class_name)
        try:
            dataset = factory(str(args.folder), train=train, download=args.download)
        except (RuntimeError, OSError, ValueError, EOFError) as error:
            raise unreadable(f"data set '{self.class_name}' cannot be read",
                             source=Source(file=str(args.folder)), found=str(error).splitlines()[0],
                             help="add --download to fetch it, or name its folder with --data DIR") from error
        images = torch.from_numpy(np.asarray(dataset.data))
        images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
        return images, torch.as_tensor(dataset.targets, dtype=torch.int64)


def _spec(name: str, shape: tuple[int, int, int], labels: tuple[str, ...], augmentation: Augmentation) -> DataSpec:
    loader = TorchvisionLoader(class_name=name, augmentation=augmentation)
    return DataSpec(name=name, input_shape=shape, labels=labels, loader=loader, origin="torchvision")


TORCHVISION_SETS = (
    _spec("MNIST", (1, 28, 28), _DIGITS, augment_mnist),
    _spec("FashionMNIST", (1, 28, 28), _FASHION, augment_fashion),
    _spec("CIFAR10", (3, 32, 32), _CIFAR10, augment_fashion),
    _spec("CIFAR100", (3, 32, 32), _CIFAR100, augment_fashion),
)
"""The records that the registry lists."""
