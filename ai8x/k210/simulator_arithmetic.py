"""What a KPU layer computes on whole maps: sums, batch normalisation, activation table, pooling, undefined bytes.

Exact arithmetic on numpy arrays; imports only the chip's own tables, so that agreement with the reference executor is
evidence. `simulator_sums.py` and `simulator_stages.py` hold the parts. Start at `KpuArithmetic`.

Source: spec/k210-kmodel.md sections 5 and 6.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.k210.device import PoolType
from ai8x.k210.simulator_stages import KpuOptions, KpuParameters, OutputStage
from ai8x.k210.simulator_sums import ConvArguments, framed, layer_sums, picked


def pool_map(values: NDArray[Any], pool: PoolType) -> NDArray[Any]:
    """Pool a (C, H, W) map; a trailing row or column that fills no window is dropped.

    A picking pool is done by whoever calls: `KpuArithmetic` never computes what it drops.
    """
    if pool.operation in ("none", "pick"):
        return values
    channels, height, width = values.shape
    if pool.stride > 1:
        rows, columns = height // pool.stride, width // pool.stride
        cut = values[:, : rows * pool.stride, : columns * pool.stride]
        blocks = cut.reshape(channels, rows, pool.stride, columns, pool.stride)
        if pool.operation == "max":
            return np.asarray(blocks.max(axis=(2, 4)))
        return np.asarray(np.sum(blocks, axis=(2, 4), dtype=np.int64) // pool.window**2, values.dtype)
    # The right and lower neighbours of the last column and row: the edge repeats, which a maximum does not notice.
    padded = np.pad(values, ((0, 0), (0, 1), (0, 1)), mode="edge")
    parts = (padded[:, :-1, :-1], padded[:, :-1, 1:], padded[:, 1:, :-1], padded[:, 1:, 1:])
    if pool.operation == "max":
        return np.asarray(np.maximum(np.maximum(parts[0], parts[1]), np.maximum(parts[2], parts[3])))
    total = np.sum(parts, axis=0, dtype=np.int64)
    return np.asarray(total // pool.window**2, values.dtype)


def pool_undefined(undefined: NDArray[np.bool_], pool: PoolType) -> NDArray[np.bool_]:
    """An output is undefined if any cell of its window is."""
    if pool.operation == "average":
        pool = PoolType(code=pool.code, name=pool.name, operation="max", window=pool.window, stride=pool.stride)
    return np.asarray(pool_map(undefined, pool), np.bool_)


class KpuArithmetic:
    """One KPU layer: parameters and options in, maps through.

    Args:
        conv: zero point terms and padding.
        parameters: what the KPU fetched.
        pool: pooling after the activation.
        options: emulator variants.
        layer: how to call the layer in faults.
    """

    def __init__(self, conv: ConvArguments, parameters: KpuParameters, pool: PoolType, options: KpuOptions,
                 layer: str) -> None:
        self.conv = conv
        self.parameters = parameters
        self.pool = pool
        self.options = options
        self.layer = layer

    def run(self, image: NDArray[np.uint8], undefined: NDArray[np.bool_] | None
            ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Compute the layer.

        Args:
            image: (IC, IH, IW).
            undefined: marks bytes of the image that nobody wrote, or None if there are none.

        Returns:
            The result (OC, OH, OW) after pooling, and the mask of bytes that depend on undefined ones.

        Raises:
            HardwareFault: a sum leaves 36 bits.
        """
        kernel = self.parameters.weights.shape[2]
        blur = None
        if undefined is not None:
            blur = self._undefined_outputs(picked(framed(undefined, kernel, 0), kernel, self.pool))
        stage = OutputStage(self.parameters, self.options, self.layer)
        step = self.pool.stride if self.pool.operation == "pick" else 1
        outputs: NDArray[np.uint8] = np.empty(
            (len(self.parameters.weights), image.shape[1] // step, image.shape[2] // step), np.uint8)
        for block in layer_sums(image, self.conv, self.parameters, self.pool, self.options):
            channels = slice(block.first[0], block.first[0] + block.sums.shape[0])
            rows = slice(block.first[1], block.first[1] + block.sums.shape[1])
            known = None if blur is None else ~blur[channels, rows]
            stage.run(block, known, outputs[channels, rows])
        pooled = None if blur is None else pool_undefined(blur, self.pool)
        return np.asarray(pool_map(outputs, self.pool), np.uint8), pooled

    def _undefined_outputs(self, view: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which sums depend on an undefined byte; a tap whose total factor is zero does not count."""
        weights = self.parameters.weights.astype(np.int64)
        shifted = self.conv.shr_x > 0
        active = (weights != 0) | (self.conv.arg_x != 0) if shifted else weights + self.conv.arg_x != 0
        if self.conv.depthwise:
            return np.asarray((view & active[:, 0, :, :, None, None]).any(axis=(1, 2)))
        columns = view.astype(np.float32).reshape(active[0].size, -1)
        counts = active.reshape(len(active), -1).astype(np.float32) @ columns
        return np.asarray(counts > 0).reshape(len(active), *view.shape[3:])
