"""The test part of a data set as the integers that a deployed network sees. Start at `load_test_set`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import UserError
from ai8x.training.data import BatchPlan, LoaderArguments
from ai8x.training.registry import discover, find_dataset

_BATCH = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TestSet:
    """Test items.

    Args:
        inputs: int8 array (N, C, H, W); 1-D data has W = 1.
        targets: class of each, int64 (N,).
        labels: class names.
    """

    inputs: NDArray[np.int8]
    targets: NDArray[np.int64]
    labels: tuple[str, ...]


def load_test_set(name: str) -> TestSet | None:
    """The whole test part, in its own order, or None where the data set is unknown or not on this machine."""
    try:
        data = find_dataset(discover(), name)
        parts = data.loader(LoaderArguments(act_mode_8bit=True))
    except UserError:
        return None
    batches = list(parts.test.batches(BatchPlan(batch_size=_BATCH)))
    inputs = np.concatenate([images.numpy() for images, _ in batches])
    targets = np.concatenate([classes.numpy() for _, classes in batches]).astype(np.int64)
    if inputs.ndim == 3:
        inputs = inputs[..., None]
    return TestSet(inputs=np.ascontiguousarray(inputs, np.int8), targets=targets, labels=data.labels)
