"""A float checkpoint as a kmodel of bytes: post-training quantisation with samples of its data set.

Start at `kmodel_from_checkpoint`; `report_lines` says how good the result is.

Source: spec/k210-kmodel.md sections 15 and 16.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ai8x.arithmetic import INT8
from ai8x.checkpoint import Checkpoint
from ai8x.k210.budget import memory_budgets
from ai8x.k210.device import K210
from ai8x.k210.kmodel_layers import K210Conv
from ai8x.k210.quantize import Fidelity, QuantizedModel, compare, quantize_model
from ai8x.k210.quantize_calibration import CalibrationOptions
from ai8x.k210.quantize_walk import LoweringOptions
from ai8x.k210.timing import kpu_time_s
from ai8x.nn.functional import Q7_ONE
from ai8x.quantization.float_network import float_model_from_torch
from ai8x.quantization.task import Task

_PERFECT_TABLE = 0.51
"""Steps; a table with at most this error adds nothing to rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KmodelOptions:
    """How a checkpoint becomes a kmodel.

    Args:
        calibration: how ranges are found.
        lowering: other choices.
        samples: training samples for calibration.
        compared: test samples that are run through both, 0 for none.
    """

    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    lowering: LoweringOptions = field(default_factory=LoweringOptions)
    samples: int = 64
    compared: int = 32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedCheckpoint:
    """The kmodel and, where samples were compared, how close it comes."""

    quantized: QuantizedModel
    fidelity: Fidelity | None


def kmodel_from_checkpoint(checkpoint: Checkpoint, task: Task, options: KmodelOptions) -> QuantizedCheckpoint:
    """Quantise the float parameters of a checkpoint.

    Args:
        checkpoint: in float, or of quantisation-aware training, whose parameters are taken without rounding.
        task: its model and data.
        options: how.

    Raises:
        UserError: E0561 for a quantised checkpoint, E0776 for layers that the K210 does not have, E077x from
            `quantize_model`.
    """
    model = task.float_model(checkpoint)
    network = float_model_from_torch(model, task.data.input_shape, name=checkpoint.arch)
    shape = network.input_shape.as_tuple()
    images = _bytes(task.training_batches(options.samples), shape)
    quantized = quantize_model(network, images, calibration=options.calibration, lowering=options.lowering)
    fidelity = None
    if options.compared:
        fidelity = compare(quantized, _bytes(task.test_batches(options.compared), shape))
    return QuantizedCheckpoint(quantized=quantized, fidelity=fidelity)


def _bytes(batches: Iterator[Tensor], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Samples on the grid of 1/128 as camera bytes, 128 standing for 0."""
    values = np.concatenate([batch.numpy() for batch in batches])
    stored = np.rint(values * Q7_ONE).astype(np.int64) - INT8.min
    return np.asarray(np.clip(stored, 0, 255), np.uint8).reshape(-1, *shape)


def report_lines(result: QuantizedCheckpoint) -> Iterator[str]:
    """The result for the terminal: layers, tables, memories, time."""
    quantized = result.quantized
    if result.fidelity is not None:
        yield from _fidelity_lines(result.fidelity)
    inexact = [table for table in quantized.tables if table.max_error > _PERFECT_TABLE or table.falls]
    for table in inexact:
        falls = "; has falling lines, whose rounding on the chip is unverified" if table.falls else ""
        yield f"activation of '{table.step}': error at most {table.max_error:.2f} steps of the byte{falls}"
    used = quantized.kpu_plan
    yield f"KPU RAM: {used.peak} of {used.capacity} lines; main buffer: {quantized.kmodel.main_mem_usage:,} bytes"
    for runtime, (needed, available) in memory_budgets(len(quantized.data), quantized.kmodel.main_mem_usage).items():
        yield f"{runtime}: {needed:,} of about {available:,} bytes" + ("" if needed <= available else "  TOO MUCH")
    convs = [layer for layer in quantized.kmodel.layers if isinstance(layer, K210Conv)]
    total = sum(kpu_time_s(layer.fields, to_main_memory=layer.main_memory_output is not None) for layer in convs)
    yield (f"{len(quantized.kmodel.layers)} kmodel layers, {len(convs)} on the KPU: {1e3 * total:.2f} ms at "
           f"{K210.kpu_clock_hz // 1_000_000} MHz without CPU layers")


def _fidelity_lines(fidelity: Fidelity) -> Iterator[str]:
    width = max(len(item.name) for item in fidelity.layers + fidelity.outputs)
    yield f"{'layer':{width}s}  {'kind':14s}  SNR dB    cosine"
    for item in fidelity.layers:
        yield f"{item.name:{width}s}  {item.kind:14s}  {item.snr_db:6.1f}  {item.cosine:8.6f}"
    for item in fidelity.outputs:
        yield f"{'output':{width}s}  {item.kind:14s}  {item.snr_db:6.1f}  {item.cosine:8.6f}"
    yield f"largest output agrees on {100 * fidelity.agreement:.1f} % of the samples"
