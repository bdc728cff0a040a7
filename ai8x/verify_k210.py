"""Holding a run of the kmodel against the reference, for every layer of the network.

On the KPU the pooling of the next layer is fused into its producer, so there the pooled tensor is compared; the
lowering recorded which tensor shows which layer. Start at `compare_kmodel`.

Source: docs/design.md "Verification record"; spec/k210-kmodel.md section 13.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import HardwareFault
from ai8x.k210.interpreter import KmodelRun, run_kmodel
from ai8x.k210.lower import LoweredModel
from ai8x.k210.parameters import ZERO_POINT
from ai8x.k210.steps import ConvStep, EltwiseStep, LayerResult
from ai8x.network.ir import Layer, Network, Op, PoolSpec, TensorShape
from ai8x.network.reference import Trace, compare_layer, run_layer
from ai8x.verify import Verdict
from ai8x.verify_k210_inexact import BeyondBound, following_trace

WITNESS = "kmodel"
SECOND_SEED = 0x5EED
"""Of the memories' contents before a second run."""


def verify_kmodel(network: Network, lowered: LoweredModel, sample: NDArray[Any], trace: Trace) -> Verdict:
    """Run the kmodel's bytes on the KPU simulator and compare every layer.

    Args:
        network: what was lowered.
        lowered: the result of `ai8x.k210.lower.lower_network`; its bytes are read back, not its dataclasses.
        sample: int8 array (C, H, W).
        trace: the reference's outputs for the same sample.
    """
    try:
        run = run_kmodel(lowered.data, lowered.image(sample))
    except HardwareFault as fault:
        return Verdict(witness=WITNESS, difference=str(fault))
    return compare_kmodel(network, lowered, run, sample, trace)


def compare_kmodel(network: Network, lowered: LoweredModel, run: KmodelRun, sample: NDArray[Any],
                   trace: Trace) -> Verdict:
    """The first difference between a run and the reference, in the order of the network's layers.

    Tensors that the user allowed to be inexact are held to their bound, and the layers behind them to what follows
    from them.
    """
    expected_of: Mapping[int, NDArray[Any]] = trace
    if lowered.inexact:
        try:
            expected_of = following_trace(network, lowered, run, sample)
        except BeyondBound as problem:
            return Verdict(witness=WITNESS, difference=str(problem))
    for layer, result in zip(network.layers, lowered.results, strict=True):
        expected = expected_of[layer.index]
        expected = expected if result.pool is None else pooled(layer, expected, result.pool)
        found = visible_tensor(lowered, run, result, sample)
        difference = compare_layer(layer, expected, found.reshape(expected.shape))
        if difference:
            seen = " (seen through the pooling of the next layer)" if result.pool else ""
            return Verdict(witness=WITNESS, difference=f"{difference}{seen}")
    return Verdict(witness=WITNESS)


def memory_difference(lowered: LoweredModel, sample: NDArray[Any], run: KmodelRun) -> str:
    """What depends on the contents that the memories happened to have; empty if nothing does.

    Args:
        lowered: the kmodel.
        sample: int8 array (C, H, W).
        run: of the kmodel on the sample, by `run_kmodel` with another seed than `SECOND_SEED`.
    """
    other = run_kmodel(lowered.data, lowered.image(sample), seed=SECOND_SEED)
    for index, found in other.layers.items():
        wrong = found != run.layers[index]
        if index in run.undefined:
            wrong &= ~run.undefined[index]
        if wrong.any():
            return f"kmodel layer {index} '{lowered.steps[index].name}' depends on what the memories held before"
    equal = all(np.array_equal(a, b) for a, b in zip(run.outputs, other.outputs, strict=True))
    return "" if equal else "an output depends on what the memories held before"


def visible_tensor(lowered: LoweredModel, run: KmodelRun, result: LayerResult,
                   sample: NDArray[Any]) -> NDArray[np.int64]:
    """The integers of a network layer as a run shows them: the cells of its maps that hold it, or a dense tensor."""
    if not result.steps:
        return np.asarray(sample, np.int64)
    if result.wide:
        return _whole_numbers(run.tensors[result.steps[0]], lowered.steps[result.steps[0]].name)
    parts = [_bytes_of(lowered, run, result, step) for step in result.steps]
    return np.concatenate(parts).astype(np.int64) - ZERO_POINT


def _bytes_of(lowered: LoweredModel, run: KmodelRun, result: LayerResult, index: int) -> NDArray[np.uint8]:
    if isinstance(step := lowered.steps[index], EltwiseStep):  # QUANTIZED_ADD fills whole blocks of bytes
        return run.tensors[index][: step.target.elements]
    if not isinstance(step, ConvStep):
        return run.tensors[index]
    found = run.layers[index]
    if result.window is None:
        return found.reshape(-1)
    window = result.window
    return found[:, window.top : window.top + window.height, window.left : window.left + window.width]


def _whole_numbers(content: NDArray[np.uint8], name: str) -> NDArray[np.int64]:
    """Accumulators that a CPU layer left as floats."""
    values = content.view(np.float32).astype(np.float64)
    if not np.array_equal(values, np.rint(values)):
        raise HardwareFault(f"{name}: the sums are not whole numbers: {values[values != np.rint(values)][0]}")
    return values.astype(np.int64)


def pooled(layer: Layer, tensor: NDArray[Any], pool: PoolSpec) -> NDArray[Any]:
    """The reference's pooling of a layer's output."""
    height, width = pool.output_size(layer.out_shape.height, layer.out_shape.width)
    pooling = Layer(name=f"{layer.name}_pooled", index=layer.index + 1, op=Op.PASSTHROUGH, inputs=(layer.index,),
                    operand_shape=layer.out_shape, out_shape=TensorShape(layer.out_shape.channels, height, width),
                    pool=pool)
    result: NDArray[Any] = run_layer(pooling, [tensor[None]])[0]
    return result
