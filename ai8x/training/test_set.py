"""The test part of a data set as the integers that a deployed network sees. Start at `load_test_set`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import UserError
from ai8x.training.data import BatchPlan, LoaderArguments, TaskKind
from ai8x.training.registry import discover, find_dataset

_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TestSet:
    """Test items.

    Args:
        inputs: int8 array (N, C, H, W); 1-D data has W = 1.
        targets: class of each, int64 (N,); None where items have no single class: objects, values, classes of pixels.
        labels: class names.
    """

    inputs: NDArray[np.int8]
    targets: NDArray[np.int64] | None
    labels: tuple[str, ...]


def load_test_set(name: str, *, first_only: bool = False) -> TestSet | None:
    """The test part, in its own order.

    Args:
        name: of the data set.
        first_only: the others may be missing, which saves reading them where the data set can.

    Returns:
        None where the data set is unknown, not on this machine, or has no test items.
    """
    try:
        data = find_dataset(discover(), name)
        parts = data.loader(LoaderArguments(act_mode_8bit=True, truncate_testset=first_only))
    except UserError:
        return None
    batches = list(parts.test.batches(BatchPlan(batch_size=_BATCH)))
    if not batches:
        return None
    inputs = np.concatenate([images.numpy() for images, _ in batches])
    if inputs.ndim == 3:
        inputs = inputs[..., None]
    return TestSet(inputs=np.ascontiguousarray(inputs, np.int8), labels=data.labels,
                   targets=_classes(data.kind, [targets for _, targets in batches]))


def _classes(kind: TaskKind, batches: Sequence[Any]) -> NDArray[np.int64] | None:
    """One class for every item, or None."""
    if kind is not TaskKind.CLASSIFICATION or batches[0].ndim != 1:
        return None
    return np.concatenate([targets.numpy() for targets in batches]).astype(np.int64)
