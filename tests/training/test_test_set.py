"""The test part as synthesis sees it: inputs of every kind of data set, classes where items have one each."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ai8x.errors import user_error
from ai8x.training import test_set
from ai8x.training.data import DatasetSamples, DataSpec, LoaderArguments, Parts, TaskKind, TensorSamples
from ai8x.training.detection import collate_boxes

IMAGES = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 1, 2, 2).contiguous()
BOXES = [(torch.rand(number, 4), torch.ones(number, dtype=torch.int64)) for number in (1, 3, 2)]


def load(monkeypatch: pytest.MonkeyPatch, loader: Callable[[LoaderArguments], Parts], kind: TaskKind, **options: Any
         ) -> test_set.TestSet | None:
    spec = DataSpec(name="items", input_shape=(1, 2, 2), labels=("a", "b"), loader=loader, kind=kind)
    monkeypatch.setattr(test_set, "find_dataset", lambda catalogue, name: spec)
    return test_set.load_test_set("items", **options)


def parts(samples: Any) -> Parts:
    return Parts(train=samples, validation=samples, test=samples)


def in_memory(targets: Tensor, images: Tensor = IMAGES) -> Callable[[LoaderArguments], Parts]:
    def loader(args: LoaderArguments) -> Parts:
        count = 1 if args.truncate_testset else len(targets)
        return parts(TensorSamples(images=images[:count], targets=targets[:count], transform=lambda data: data))

    return loader


def test_classes_are_integers_one_for_every_item(monkeypatch: pytest.MonkeyPatch) -> None:
    items = load(monkeypatch, in_memory(torch.tensor([1, 0, 1])), TaskKind.CLASSIFICATION)
    assert items is not None and items.targets is not None
    assert items.inputs.dtype == np.int8 and items.targets.tolist() == [1, 0, 1] and items.labels == ("a", "b")
    assert items.inputs[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_sequences_get_columns_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    items = load(monkeypatch, in_memory(torch.tensor([1, 0, 1]), IMAGES.flatten(2)), TaskKind.CLASSIFICATION)
    assert items is not None and items.inputs.shape == (3, 1, 4, 1)


@pytest.mark.parametrize(("targets", "kind"), [
    (torch.zeros(3, 2, 2, dtype=torch.int64), TaskKind.CLASSIFICATION), (torch.rand(3), TaskKind.REGRESSION)],
    ids=["class of every pixel", "values"])
def test_items_without_one_class_have_inputs_only(monkeypatch: pytest.MonkeyPatch, targets: Tensor, kind: TaskKind
                                                  ) -> None:
    items = load(monkeypatch, in_memory(targets), kind)
    assert items is not None and items.targets is None and items.inputs.shape == (3, 1, 2, 2)


def test_objects_have_inputs_only(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset: Any = list(zip(IMAGES, BOXES, strict=True))
    samples = DatasetSamples(dataset=dataset, indices=range(3), kind=TaskKind.DETECTION, collate=collate_boxes)
    items = load(monkeypatch, lambda args: parts(samples), TaskKind.DETECTION)
    assert items is not None and items.targets is None and items.inputs.shape == (3, 1, 2, 2)


def test_the_first_item_alone_is_not_read_with_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    items = load(monkeypatch, in_memory(torch.tensor([1, 0, 1])), TaskKind.CLASSIFICATION, first_only=True)
    assert items is not None and len(items.inputs) == 1


def test_a_data_set_that_is_missing_or_empty_is_not_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(args: LoaderArguments) -> Parts:
        raise user_error("E0610", "no files")

    assert load(monkeypatch, missing, TaskKind.CLASSIFICATION) is None
    assert load(monkeypatch, in_memory(torch.zeros(0, dtype=torch.int64)), TaskKind.CLASSIFICATION) is None
