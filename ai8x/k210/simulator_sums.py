"""What the KPU sums: windows of bytes times weights, and the terms of the zero points.

Products of whole numbers run in float32 below a bound of 2**24 of all partial sums, else in float64: no sum that the
registers allow reaches 2**53, for ``arg_w * sum(w)`` is below 2**23 * 2**16 * 9 per channel, and 1024 channels of all
terms below 2**52.4. A zero point term that is not shifted is a change of the weights; one that is shifted
depends on a window's sum of bytes only, so it is looked up. Start at `layer_sums`.

Source: spec/k210-kmodel.md section 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.k210.device import PoolType
from ai8x.k210.simulator_stages import ArgShift, KpuOptions, KpuParameters, SumBlock

FLOAT32_EXACT = 1 << 24
"""Below this bound of every partial sum a float32 matrix product is exact; above, float64 is (bound 2**53)."""

_BLOCK_ELEMENTS = 1 << 20
"""Elements of the larger matrix of a product: bounds the memory of a layer."""

_DEPTHWISE_ELEMENTS = 1 << 16
"""Outputs of a depthwise layer computed at a time, so that the nine products stay in a core's cache."""

_BYTE_MAX = 255
_WORD_MAX = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvArguments:
    """The numbers of section 5 that act before batch normalisation."""

    arg_x: int
    shr_x: int
    arg_w: int
    shr_w: int
    arg_add: int
    pad_value: int
    depthwise: bool


def picked(padded: NDArray[Any], kernel: int, pool: PoolType) -> NDArray[Any]:
    """The window of every computed output of a padded map: a view (C, K, K, H', W').

    With a picking pool only the picked positions appear.
    """
    view = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    if pool.operation == "pick":
        rows, columns = view.shape[1] // pool.stride, view.shape[2] // pool.stride
        view = view[:, :: pool.stride, pool.column :: pool.stride][:, :rows, :columns]
    return np.asarray(view.transpose(0, 3, 4, 1, 2))


def framed(image: NDArray[Any], kernel: int, pad: int) -> NDArray[Any]:
    """The map with the cells that a 3x3 kernel reads outside."""
    margin = kernel // 2
    if not margin:
        return image
    channels, height, width = image.shape
    padded = np.full((channels, height + 2 * margin, width + 2 * margin), pad, image.dtype)
    padded[:, margin:-margin, margin:-margin] = image
    return padded


def window_sums(view: NDArray[Any]) -> NDArray[np.uint16]:
    """Sum of every window: (C, H', W')."""
    total: NDArray[np.uint16] = np.zeros((view.shape[0], *view.shape[3:]), np.uint16)
    for row in range(view.shape[1]):
        for column in range(view.shape[2]):
            total += view[:, row, column]
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class _Factors:
    """Weights as they multiply bytes, and the rest of the zero point terms.

    ``acc = sum_i [sum(weights * x) + rest(sum of the window of channel i)] + total term + constant``

    Args:
        weights: (OC, IC, K, K), depthwise (C, 1, K, K).
        rest: what a channel's window adds, by the sum of its bytes; None for nothing.
        constant: float64 (OC,).
        dtype: float32 or float64, in which every partial sum is exact.
    """

    weights: NDArray[Any]
    rest: NDArray[Any] | None
    constant: NDArray[np.float64]
    dtype: Any


def _factors(conv: ConvArguments, weights: NDArray[Any], options: KpuOptions) -> _Factors:
    """Split the zero point terms of a layer."""
    outputs, inputs, kernel = weights.shape[:3]
    sums = weights.sum(axis=(2, 3), dtype=np.int64)
    if options.arg_shift is ArgShift.TOTAL:
        sums = sums.sum(axis=1, keepdims=True)
    constant = ((conv.arg_w * sums) >> conv.shr_w).sum(axis=1) + inputs * conv.arg_add
    rest, change = None, 0
    if conv.shr_x == 0:
        change = conv.arg_x
    elif options.arg_shift is ArgShift.CHANNEL:
        # Whatever is taken off the weights comes back with the sum of bytes; so both parts become small.
        change = -min(max(-(conv.arg_x >> conv.shr_x), 0), int(weights.max()))
        totals = np.arange(_BYTE_MAX * kernel * kernel + 1, dtype=np.int64)
        rest = ((conv.arg_x * totals) >> conv.shr_x) - change * totals
    changed: NDArray[Any] = weights.astype(np.float32 if abs(change) + _WORD_MAX < FLOAT32_EXACT else np.float64)
    changed = changed + changed.dtype.type(change)
    bound = _BYTE_MAX * int(np.abs(changed).reshape(outputs, -1).sum(axis=1, dtype=np.float64).max())
    if rest is not None:
        bound += inputs * int(np.abs(rest).max())
    dtype: Any = np.float32 if bound < FLOAT32_EXACT else np.float64
    return _Factors(weights=changed.astype(dtype, copy=False), rest=None if rest is None else rest.astype(dtype),
                    constant=constant.astype(np.float64), dtype=dtype)


def layer_sums(image: NDArray[np.uint8], conv: ConvArguments, parameters: KpuParameters, pool: PoolType,
               options: KpuOptions) -> Iterator[SumBlock]:
    """The sums of a layer in blocks that fit the memory.

    Args:
        image: (IC, IH, IW).
        conv: zero point terms and padding.
        parameters: weights.
        pool: a picking pool drops outputs, which are then not computed.
        options: emulator variants.
    """
    factors = _factors(conv, parameters.weights, options)
    if conv.depthwise:
        return _depthwise(image, conv, factors, options)
    view = picked(framed(image, parameters.weights.shape[2], conv.pad_value), parameters.weights.shape[2], pool)
    return _dense(view, conv, factors, options)


def _dense(view: NDArray[np.uint8], conv: ConvArguments, factors: _Factors, options: KpuOptions) -> Iterator[SumBlock]:
    """Some rows at a time: one matrix product for all output channels."""
    outputs = len(factors.weights)
    matrix = factors.weights.reshape(outputs, -1)
    taps, (height, width) = matrix.shape[1], view.shape[3:]
    rows = max(1, _BLOCK_ELEMENTS // (max(taps, outputs) * width))
    for row in range(0, height, rows):
        part = view[..., row : row + rows, :]
        columns: NDArray[Any] = part.astype(factors.dtype).reshape(taps, -1)
        sums = (matrix @ columns).reshape(outputs, *part.shape[3:])
        yield SumBlock(first=(0, row), sums=sums, common=_common_term(part, conv, factors, options),
                       constant=factors.constant)


def _common_term(view: NDArray[np.uint8], conv: ConvArguments, factors: _Factors,
                 options: KpuOptions) -> NDArray[np.float64] | None:
    """What a zero point term that is shifted adds to all output channels of a dense layer: (H', W')."""
    if conv.shr_x == 0:
        return None
    sums = view[:, 0, 0] if view.shape[1] == 1 else window_sums(view)
    if factors.rest is not None:
        return np.asarray(factors.rest.take(sums).sum(axis=0, dtype=np.float64))
    assert options.arg_shift is ArgShift.TOTAL
    return np.asarray((conv.arg_x * sums.sum(axis=0, dtype=np.int64)) >> conv.shr_x, np.float64)


def _depthwise(image: NDArray[np.uint8], conv: ConvArguments, factors: _Factors,
               options: KpuOptions) -> Iterator[SumBlock]:
    """Some channels at a time: shifted maps times one weight for each channel."""
    channels, height, width = image.shape
    kernel = factors.weights.shape[2]
    together = max(1, _DEPTHWISE_ELEMENTS // (height * width))
    for first in range(0, channels, together):
        part = slice(first, min(first + together, channels))
        padded = framed(image[part], kernel, conv.pad_value)
        weights, values = factors.weights[part, 0, :, :, None, None], padded.astype(factors.dtype)
        sums = np.zeros((len(padded), height, width), factors.dtype)
        product = np.empty_like(sums)
        for row in range(kernel):
            for column in range(kernel):
                np.multiply(values[:, row : row + height, column : column + width], weights[:, row, column],
                            out=product)
                sums += product
        if conv.shr_x:
            totals = _box_sums(padded, kernel)
            if factors.rest is not None:
                sums += factors.rest.take(totals)
            else:  # one channel: its total is the total
                sums = sums + ((conv.arg_x * totals.astype(np.int64)) >> conv.shr_x)
        yield SumBlock(first=(first, 0), sums=sums, common=None, constant=factors.constant[part])


def _box_sums(padded: NDArray[np.uint8], kernel: int) -> NDArray[np.uint16]:
    """Sum of every window of a padded map, first along columns, then along rows."""
    height, width = (size - kernel + 1 for size in padded.shape[1:])
    across = np.zeros((len(padded), padded.shape[1], width), np.uint16)
    for column in range(kernel):
        across += padded[:, :, column : column + width]
    total = np.zeros((len(padded), height, width), np.uint16)
    for row in range(kernel):
        total += across[:, row : row + height]
    return total
