"""How far every layer's integers are from the float model: the comparison of `quantize.py --compare`, for the report.

Needs torch, which is loaded only when a float checkpoint is given. Start at `float_errors`.

Source: docs/design.md "Levels".
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ai8x.arithmetic import INT8
from ai8x.checkpoint import Checkpoint, read_checkpoint
from ai8x.network.pairing import identifier, layer_name
from ai8x.report import LayerError, LayerRow

if TYPE_CHECKING:
    from ai8x.quantization.comparison import LayerComparison
    from ai8x.sample import Sample

NUM_SAMPLES = 64
"""Test items on which the error is measured."""


def float_errors(rows: tuple[LayerRow, ...], checkpoint: Checkpoint, float_checkpoint: Path, sample: Sample,
                 dataset: str) -> tuple[tuple[LayerRow, ...], str]:
    """The report's rows with the distance of every layer from the float model.

    Args:
        rows: of the network.
        checkpoint: with integer parameters.
        float_checkpoint: of the same model before it was quantised.
        sample: measured on where the data set's test part is not to be had.
        dataset: name of the data set.

    Returns:
        The rows, and what was measured on, for people.

    Raises:
        UserError: E05xx, the checkpoints do not belong together, or the model is not known.
    """
    import torch

    from ai8x.quantization.comparison import compare_models
    from ai8x.quantization.task import find_task
    from ai8x.training.test_set import load_test_set

    task = find_task(checkpoint, dataset or None)
    reference, integer = task.float_model(read_checkpoint(float_checkpoint)), task.integer_model(checkpoint)
    items = load_test_set(dataset)
    inputs = sample.values[None] if items is None else items.inputs[:NUM_SAMPLES]
    if rows[0].in_shape[2] == 1:
        inputs = inputs.reshape(len(inputs), inputs.shape[1], -1)
    batch = torch.from_numpy(np.array(inputs, np.float32)) / -INT8.min
    # A network file has the module's path as its name, or the nearest one that it may have.
    found = {identifier(name): layer for layer in compare_models(reference, integer, [batch])
             for name in (layer.name, layer_name(layer.name))}
    described = f"the sample ({sample.origin})" if items is None else f"{len(inputs)} test items of {dataset}"
    return tuple(replace(row, error=_error(found.get(row.name))) for row in rows), described


def _error(layer: LayerComparison | None) -> LayerError | None:
    if layer is None:
        return None
    return LayerError(snr_db=layer.snr_db if math.isfinite(layer.snr_db) else None, max_error=layer.max_error,
                      peak=layer.peak, saturated=layer.saturated)
