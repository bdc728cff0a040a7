"""What a network computes if some of its tensors are as a run of the kmodel shows them.

Where the user allowed inexact forms, a run is compared in two steps: each inexact tensor with the exact one of the same
operands, within its stated bound; and everything else, bit for bit, with the reference that goes on from the inexact
tensors. Start at `following_trace`.

Source: docs/design.md "Verification record"; spec/k210-kmodel.md section 13.2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.k210.interpreter import KmodelRun
from ai8x.k210.legalize import resolve_alias
from ai8x.k210.lower import LoweredModel
from ai8x.k210.parameters import ZERO_POINT
from ai8x.k210.steps import Inexact
from ai8x.network.ir import NETWORK_INPUT, Layer, Network, Op, PoolSpec, TensorShape
from ai8x.network.reference import run_layer

Key = tuple[int, PoolSpec]
"""A tensor and what pools it."""


class BeyondBound(Exception):
    """An inexact tensor is further off than stated; the message is for the verdict."""


def following_trace(network: Network, lowered: LoweredModel, run: KmodelRun,
                    sample: NDArray[Any]) -> dict[int, NDArray[Any]]:
    """Every layer's output (C, H, W), computed by the reference from the run's inexact tensors.

    Args:
        network: what was lowered.
        lowered: with `Inexact` records.
        run: of the kmodel on the sample.
        sample: int8 array (C, H, W).

    Raises:
        BeyondBound: an inexact tensor differs from the exact one by more than its bound.
    """
    records = {(record.source, record.pool): record for record in lowered.inexact}
    tensors: dict[int, NDArray[Any]] = {NETWORK_INPUT: np.asarray(sample).reshape(network.input_shape.as_tuple())}
    for layer in network.layers:
        keys = [(resolve_alias(index, network), layer.pool) for index in layer.inputs]
        sources = [tensors[index] for index in layer.inputs]
        if not any(key in records for key in keys):
            tensors[layer.index] = run_layer(layer, [source[None] for source in sources])[0]
            continue
        pooled = [_pooled(layer, source, records.get(key), run) for key, source in zip(keys, sources, strict=True)]
        tensors[layer.index] = run_layer(without_pool(layer), [tensor[None] for tensor in pooled])[0]
    del tensors[NETWORK_INPUT]
    return tensors


def without_pool(layer: Layer) -> Layer:
    """The layer for operands that are pooled already."""
    return replace(layer, pool=PoolSpec(), operand_shape=layer.pooled_shape)


def _pooled(layer: Layer, source: NDArray[Any], record: Inexact | None, run: KmodelRun) -> NDArray[Any]:
    """The source after pooling: as the run shows it where that is allowed to be off, else exactly."""
    channels, height, width = source.shape
    shape = TensorShape(channels, *layer.pool.output_size(height, width))
    pooling = Layer(name=f"{layer.name}_pool", index=0, op=Op.PASSTHROUGH, inputs=(NETWORK_INPUT,),
                    operand_shape=TensorShape(channels, height, width), out_shape=shape, pool=layer.pool,
                    average_rounded=layer.average_rounded)
    exact: NDArray[Any] = run_layer(pooling, [source[None]])[0]
    if record is None:
        return exact
    found = run.tensors[record.step].astype(np.int64).reshape(shape.as_tuple()) - ZERO_POINT
    distance = int(np.abs(found - exact).max())
    if distance > record.bound:
        raise BeyondBound(f"layer {layer.index} '{layer.name}': the average is {distance} from the exact one; "
                          f"{record.bound} was stated")
    return found
