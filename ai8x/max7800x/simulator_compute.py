"""The arithmetic of the accelerator, a second time and independent of `ai8x.arithmetic`.

Owns pooling, element-wise operations, convolution, bias, rounding and activation on arrays, and beside each the way
in which undefined values spread. Knows nothing of addresses. Start reading at `compute_layer` and `read_kernel`.

Undefined values are tracked by their origin: a uint32 array of the values' shape, 0 where a value is defined, else the
bus address that the undefined value came from. ``None`` stands for an array of zeros.

Source: spec/max78000-cnn.md sections 3.1, 3.2 and 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ai8x.errors import HardwareFault
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.simulator_config import Ewise, LayerConfig, LayerGeometry
from ai8x.max7800x.simulator_memory import Bools, EntryMemory, MaskMemory

Ints = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Origins = npt.NDArray[np.uint32]
_Element = TypeVar("_Element", bound=np.generic)

_GEOMETRY = MAX78000.geometry
_BIAS_SHIFT = 7
_DECIMAL_POINT = 7
_BYTE_MIN, _BYTE_MAX = -128, 127
_FLOAT32_EXACT = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A layer's weights and bias as read from the mask and bias memories.

    Args:
        weights: float (tap, slot, channel), channel = processor position * passes + pass. float32 where every sum of
            |weight| * 128 stays below 2**24 and is therefore exact in any order, else float64 (exact below 2**53;
            the greatest sum, 256 passes of 64 processors or 16 of 64 with 9 taps, stays below 2**29).
        nonzero: bool of the same shape, weights that can pass a value on.
        unknown: uint32 of the same shape, origin of undefined weights, or None.
        bias: int32 (slot), already shifted to the accumulator's scale.
        bias_unknown: uint32 (slot), or None.
    """

    weights: Floats
    nonzero: Bools
    unknown: Origins | None
    bias: Ints
    bias_unknown: Origins | None


def read_kernel(config: LayerConfig, masks: MaskMemory, bias: EntryMemory) -> Kernel:
    """Collect the weights and bias of a convolution.

    Raises:
        HardwareFault: the masks lie beyond the mask memory.

    Source: sections 3.1, 3.2, 3.7 and, for quad mode, 5.4.
    """
    g = config.geometry
    shape = (g.taps, g.slots, len(config.processors), g.passes)
    values, unknown = np.zeros(shape, dtype=np.int16), np.zeros(shape, dtype=np.uint32)
    for slots, positions in _slot_groups(config):
        place, shift = _mask_places(config, len(slots))
        processors = np.array([config.processors[position] for position in positions])
        if place.max() >= masks.stream.shape[1]:
            raise HardwareFault(
                f"layer {g.layer}, MCNT: masks reach byte {place.max()} of {masks.stream.shape[1]} in the mask memory"
            )
        here = np.ix_(range(g.taps), slots, positions, range(g.passes))
        values[here] = _sign_extend(masks.stream[processors][:, place] >> shift, g.weight_bits).transpose(2, 1, 0, 3)
        origin = _mask_origin(processors, place)
        unknown[here] = np.where(masks.undefined[processors][:, place], origin, 0).transpose(2, 1, 0, 3)
    flat = (g.taps, g.slots, len(config.processors) * g.passes)
    weights, unknown = values.reshape(flat), unknown.reshape(flat)
    largest = int(np.abs(weights.astype(np.int64)).sum(axis=(0, 2)).max()) * -_BYTE_MIN
    entries, bias_unknown = _read_bias(config, bias)
    carrier: Floats = weights.astype(np.float32) if largest < _FLOAT32_EXACT else weights.astype(np.float64)
    return Kernel(
        weights=carrier,
        nonzero=(weights != 0) & (unknown == 0),
        unknown=unknown if unknown.any() else None,
        bias=entries,
        bias_unknown=bias_unknown,
    )


def _slot_groups(config: LayerConfig) -> list[tuple[list[int], list[int]]]:
    """Which slots each processor computes: (slots, processor positions); in quad mode every fourth one."""
    slots = range(config.geometry.slots)
    positions = range(len(config.processors))
    if not config.quad:
        return [(list(slots), list(positions))]
    quadrants = [config.processors[position] // _GEOMETRY.processors_per_quadrant for position in positions]
    return [
        (list(slots[q :: _GEOMETRY.num_quadrants]), [p for p in positions if quadrants[p] == q])
        for q in range(_GEOMETRY.num_quadrants)
        if len(slots) > q
    ]


def _mask_places(config: LayerConfig, num_slots: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Stream byte and lowest bit of every weight, both (slot, tap, pass)."""
    g = config.geometry
    number = np.arange(num_slots)[:, None, None] * g.passes + np.arange(g.passes)
    address = config.mask_start + number * g.weight_bits
    tap = np.arange(g.taps)[None, :, None]
    place = (address >> 3) * g.taps + config.mask_byte + (g.taps - 1 - tap)
    return place, np.broadcast_to(address & 7, place.shape).astype(np.uint8)


def _mask_origin(processors: npt.NDArray[np.int64], place: npt.NDArray[np.int64]) -> Origins:
    base = np.array([_GEOMETRY.mask_address(int(processor)) for processor in processors], dtype=np.uint32)
    word = place // _GEOMETRY.mask_word_bytes * _GEOMETRY.mask_word_span
    return base[:, None, None, None] + word.astype(np.uint32)


def _sign_extend(values: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.int16]:
    """The low bits as two's complement: 1 bit gives 0 and -1."""
    low = (values & ((1 << bits) - 1)).astype(np.int16)
    return np.where(low >> (bits - 1), low - (1 << bits), low).astype(np.int16)


def _read_bias(config: LayerConfig, bias: EntryMemory) -> tuple[Ints, Origins | None]:
    slots = np.arange(config.geometry.slots)
    if not config.bias:
        return np.zeros(len(slots), dtype=np.int32), None
    sources = len(config.bias)
    quadrant = np.array([start.quadrant for start in config.bias])[slots % sources]
    entry = np.array([start.entry for start in config.bias])[slots % sources] + slots // sources
    # Trailing slots may lie beyond the memory; they hold no channel and their value is undefined.
    beyond = entry >= _GEOMETRY.bias_entries
    inside = np.where(beyond, 0, entry)
    values = bias.values[quadrant, inside].astype(np.uint8).view(np.int8).astype(np.int32) << _BIAS_SHIFT
    unknown = beyond | bias.undefined[quadrant, inside]
    if not unknown.any():
        return values, None
    address = np.array(
        [_GEOMETRY.bias_address(int(q), int(e)) for q, e in zip(quadrant, entry, strict=True)], dtype=np.uint32
    )
    return values, np.where(unknown, address, np.uint32(0))


def compute_layer(
    config: LayerConfig, kernel: Kernel | None, operands: Bytes, origins: Origins | None, round_average: bool
) -> tuple[npt.NDArray[np.signedinteger], Origins | None]:
    """One layer's output.

    Args:
        config: the layer.
        kernel: its weights; None for pass layers.
        operands: int8 (operand, processor, pass, row, column).
        origins: uint32 of the same shape, or None.
        round_average: CTRL.poolrnd.

    Returns:
        Rows x pixels: int8, or int32 with 32-bit output; and the origins of undefined ones. Rows are slots, or for pass
        layers pass-major processors.
    """
    g = config.geometry
    image = _pool_and_combine(config, operands, round_average)
    unknown = None if origins is None else _spread(g, origins)
    if kernel is None:
        order = (1, 0, 2, 3)
        rows = image.transpose(order).reshape(-1, g.num_pixels)
        return rows, None if unknown is None else unknown.transpose(order).reshape(-1, g.num_pixels)
    channels = (-1, g.pooled_height, g.pooled_width)
    accumulator = _convolve(g, kernel, image.reshape(channels))
    accumulator += kernel.bias[:, None]
    unknown = _spread_convolution(g, kernel, None if unknown is None else unknown.reshape(channels))
    return (accumulator if config.wide else _scale(config, accumulator)), unknown


# Pooling and element-wise operations (sections 4.4 and 4.5)


def _pool_and_combine(config: LayerConfig, operands: Bytes, round_average: bool) -> Bytes:
    """Pool every operand, then combine; or the other way round."""
    g = config.geometry
    if config.operation is None:
        return _pool(config, operands[0], round_average)
    if g.pool_before_ewise or g.pool_height * g.pool_width == 1:
        operands = _pool(config, operands, round_average)
        return _combine(config.operation, operands)
    return _pool(config, _combine(config.operation, operands), round_average)


def _windows(g: LayerGeometry, image: npt.NDArray[_Element]) -> list[npt.NDArray[_Element]]:
    """The image seen through each position of the pool window, on the last two axes."""
    rows, columns = g.stride * (g.pooled_height - 1) + 1, g.stride * (g.pooled_width - 1) + 1
    return [
        image[..., row : row + rows : g.stride, column : column + columns : g.stride]
        for row in range(g.pool_height)
        for column in range(g.pool_width)
    ]


def _pool(config: LayerConfig, image: Bytes, round_average: bool) -> Bytes:
    """Maximum or average over the window.

    Rounding:
        average truncates towards zero; with `round_average` halves go away from zero: 3 / 2 -> 2, -3 / 2 -> -2.
    """
    g = config.geometry
    windows = _windows(g, image)
    if config.max_pool or len(windows) == 1:
        result = windows[0]
        for window in windows[1:]:
            result = np.maximum(result, window)
        return result
    total = np.zeros(windows[0].shape, dtype=np.int32)
    for window in windows:
        total += window
    magnitude = np.abs(total)
    count = len(windows)
    quotient = (2 * magnitude + count) // (2 * count) if round_average else magnitude // count
    return _saturate(np.where(total < 0, -quotient, quotient))


_OPERATIONS: dict[Ewise, Callable[[Ints, Bytes], Ints]] = {
    Ewise.SUB: np.subtract,
    Ewise.ADD: np.add,
    Ewise.OR: np.bitwise_or,
    Ewise.XOR: np.bitwise_xor,
}


def _combine(operation: Ewise, operands: Bytes) -> Bytes:
    """Operands from left to right in full precision, saturated once."""
    result = operands[0].astype(np.int32)
    for operand in operands[1:]:
        result = _OPERATIONS[operation](result, operand)
    return _saturate(result)


def _spread(g: LayerGeometry, origins: Origins) -> Origins:
    """An undefined value makes everything pooled or combined with it undefined."""
    windows = _windows(g, origins.max(axis=0))
    result = windows[0]
    for window in windows[1:]:
        result = np.maximum(result, window)
    return result


# Convolution (sections 4.2 and 4.7)


def _place(g: LayerGeometry, image: npt.NDArray[np.generic], dtype: np.dtype[_Element]) -> npt.NDArray[_Element]:
    """The image with pads, and with zeros between its pixels for a transposed convolution."""
    step = 2 if g.transposed else 1
    rows, columns = step * g.pooled_height, step * g.pooled_width
    padded = np.zeros((image.shape[0], rows + 2 * g.pad_rows, columns + 2 * g.pad_columns), dtype=dtype)
    padded[:, g.pad_rows : g.pad_rows + rows : step, g.pad_columns : g.pad_columns + columns : step] = image
    return padded


def _tap(g: LayerGeometry, padded: npt.NDArray[_Element], tap: int) -> npt.NDArray[_Element]:
    """What one kernel element sees: (channel, pixel)."""
    row, column = divmod(tap, g.kernel_width)
    return padded[:, row : row + g.out_height, column : column + g.out_width].reshape(padded.shape[0], -1)


def _convolve(g: LayerGeometry, kernel: Kernel, image: Bytes) -> Ints:
    """Exact accumulators without bias, int32 (slot, pixel); floats only carry integers (see `Kernel`)."""
    padded = _place(g, image, kernel.weights.dtype)
    total = np.zeros((g.slots, g.num_pixels), dtype=kernel.weights.dtype)
    for tap in range(g.taps):
        total += kernel.weights[tap] @ _tap(g, padded, tap)
    return np.asarray(total, dtype=np.int32)


def _spread_convolution(g: LayerGeometry, kernel: Kernel, origins: Origins | None) -> Origins | None:
    """Undefined inputs reach outputs through weights other than zero; undefined weights through real pixels."""
    result = np.zeros((g.slots, g.num_pixels), dtype=np.uint32)
    if origins is not None:
        # A channel whose weights are all zero passes nothing on.
        reaching = [c for c in np.flatnonzero(origins.any(axis=(1, 2))) if kernel.nonzero[:, :, c].any()]
        padded = _place(g, origins, np.dtype(np.uint32))
        for tap in range(g.taps):
            seen = _tap(g, padded, tap)
            for channel in reaching:
                slots = kernel.nonzero[tap, :, channel]
                result[slots] = np.maximum(result[slots], seen[channel])
    if kernel.unknown is not None:
        real = _place(g, np.ones((1, g.pooled_height, g.pooled_width), dtype=np.uint32), np.dtype(np.uint32))
        for tap in range(g.taps):
            np.maximum(result, kernel.unknown[tap].max(axis=1)[:, None] * _tap(g, real, tap), out=result)
    if kernel.bias_unknown is not None:
        np.maximum(result, kernel.bias_unknown[:, None], out=result)
    return result if result.any() else None


def _scale(config: LayerConfig, accumulator: Ints) -> Bytes:
    """Shift, round half up, clip, activate (section 4.2)."""
    right = _DECIMAL_POINT - config.shift
    if right > 0:
        accumulator += 1 << (right - 1)
        values = _saturate(accumulator >> right)
    else:
        values = _saturate(accumulator.astype(np.int64) << -right)
    if config.absolute:
        return _saturate(np.abs(values.astype(np.int32)))
    return np.maximum(values, np.int8(0)) if config.relu else values


def _saturate(values: npt.NDArray[np.int32] | npt.NDArray[np.int64]) -> Bytes:
    return np.asarray(np.clip(values, _BYTE_MIN, _BYTE_MAX), dtype=np.int8)
