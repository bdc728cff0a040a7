"""Weight memory: where each layer's masks lie, and the bytes themselves; weights and biases together as one plan.

Owns sizes, greedy allocation, sharing of equal weights, and packing for 1, 2, 4 and 8 bits. Knows no registers; the
bias memory is in ``biases.py``. Start at `KernelPlan` and `plan_kernels`.

Source: spec/max78000-cnn.md section 3.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Diagnostic, UserError
from ai8x.max7800x.biases import (
    LayerBias,
    allocate_biases,
    bias_entries,
    bias_image,
    first_equal,
    slot_channels,
    spread_biases,
)
from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.placement import LANES, lowest_bit, set_bits

__all__ = [
    "KernelPlan",
    "LayerBias",
    "LayerKernels",
    "MaskChunk",
    "allocate_biases",
    "allocate_kernels",
    "bias_entries",
    "mask_count",
    "mask_sequence",
    "mask_word_count",
    "pack_masks",
    "plan_kernels",
    "slot_channels",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKernels:
    """Where one layer's weights lie; the same for all its processors.

    Args:
        index: layer.
        start_word: koff, first 72-bit mask word.
        num_masks: kcount, masks that the slot counter runs through.
        num_words: mask words reserved.
        shared_with: layer whose storage is used, or None.
    """

    index: int
    start_word: int
    num_masks: int
    num_words: int
    shared_with: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskChunk:
    """Contiguous mask words of one processor.

    Args:
        processor: 0 to 63.
        start_word: first 72-bit word.
        rows: uint8 (words, 9); most significant byte (``k0``) first.
    """

    processor: int
    start_word: int
    rows: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelPlan:
    """Complete contents of mask and bias memory.

    Args:
        kernels: by layer index; None for a layer without weights.
        biases: by layer index; None for a layer without bias.
        mask_rows: uint8 (processors, words, 9), ``k0`` first; words that hold no weights are 0.
        mask_used: bool (processors, words), words that hold weights.
        bias_bytes: per quadrant, uint8 entries from entry 0; empty where none.
        quad_biases: in quad mode the bias of layer 0, one for each quadrant; it is None in `biases` then.
    """

    kernels: tuple[LayerKernels | None, ...]
    biases: tuple[LayerBias | None, ...]
    mask_rows: NDArray[np.uint8]
    mask_used: NDArray[np.bool_]
    bias_bytes: tuple[NDArray[np.uint8], ...]
    quad_biases: tuple[LayerBias, ...] = ()

    def __post_init__(self) -> None:
        for array in (self.mask_rows, self.mask_used, *self.bias_bytes):
            array.setflags(write=False)

    def chunks(self) -> tuple[MaskChunk, ...]:
        """Contiguous runs of used mask words, by processor and word (section 3.6)."""
        found: list[MaskChunk] = []
        for processor, used in enumerate(self.mask_used):
            edges = np.flatnonzero(np.diff(used.astype(np.int8), prepend=0, append=0))
            for start, end in zip(edges[::2], edges[1::2], strict=True):
                rows = self.mask_rows[processor, start:end]
                found.append(MaskChunk(processor=processor, start_word=int(start), rows=rows))
        return tuple(found)

    def biases_of(self, index: int) -> tuple[LayerBias, ...]:
        """Where a layer's bias lies: nowhere, in one quadrant, or in quad mode in all of them."""
        bias = self.biases[index]
        if bias is not None:
            return (bias,)
        return tuple(bias for bias in self.quad_biases if bias.index == index)

    @property
    def used_words(self) -> int:
        """Mask words in use, over all processors."""
        return int(self.mask_used.sum())


def plan_kernels(layers: Sequence[HardwareLayer], device: Max7800x, *, deduplicate: bool = True) -> KernelPlan:
    """Place and pack all weights and biases.

    Args:
        layers: every layer of the network in hardware form, with weights.
        device: the chip.
        deduplicate: store equal weights, and equal biases, once.

    Returns:
        Positions per layer and the contents of the memories.

    Raises:
        UserError: E0410 weight memory, E0411 bias memory is full.
        ValueError: a convolution has no weights.

    Source:
        spec/max78000-cnn.md sections 3.1 to 3.7.
    """
    kernels = allocate_kernels(layers, device, deduplicate=deduplicate)
    quad_biases = spread_biases(layers, device)
    biases = allocate_biases(layers, device, deduplicate=deduplicate)
    geometry = device.geometry
    rows = np.zeros((geometry.num_processors, geometry.mask_words, geometry.mask_word_bytes), dtype=np.uint8)
    used = np.zeros(rows.shape[:2], dtype=np.bool_)
    for layer, place in zip(layers, kernels, strict=True):
        if place is None or place.shared_with is not None:
            continue
        packed = pack_masks(layer, device)
        span = slice(place.start_word, place.start_word + packed.shape[1])
        for processor, words in zip(set_bits(layer.active_processors), packed, strict=True):
            rows[processor, span] = words
            used[processor, span] = True
    return KernelPlan(
        kernels=kernels,
        biases=biases,
        mask_rows=rows,
        mask_used=used,
        bias_bytes=bias_image((*quad_biases, *biases), device),
        quad_biases=quad_biases,
    )


def allocate_kernels(
    layers: Sequence[HardwareLayer], device: Max7800x, *, deduplicate: bool = True
) -> tuple[LayerKernels | None, ...]:
    """Choose the first mask word of every layer.

    Greedy first fit at multiples of 4 words; layers on all processors come first, both groups in layer order.
    Works without weights too (nothing is shared then).

    Args:
        layers: every layer of the network in hardware form.
        device: the chip.
        deduplicate: let equal weights share storage.

    Returns:
        One entry per layer, None for a pass.

    Raises:
        UserError: E0410, a layer does not fit.

    Source:
        spec/max78000-cnn.md section 3.4.
    """
    geometry = device.geometry
    used = np.zeros((geometry.num_processors, geometry.mask_words), dtype=np.bool_)
    everywhere = (1 << geometry.num_processors) - 1
    originals = first_equal([_weight_key(layer) if deduplicate else None for layer in layers])
    places: dict[int, LayerKernels] = {}
    owners = [layer for layer in layers if layer.is_conv and layer.index not in originals]
    for layer in sorted(owners, key=lambda owner: owner.processors != everywhere):
        num_words = mask_word_count(layer)
        start = _first_fit(used, layer, num_words, device)
        used[list(set_bits(layer.active_processors)), start : start + num_words] = True
        places[layer.index] = LayerKernels(
            index=layer.index, start_word=start, num_masks=mask_count(layer), num_words=num_words
        )
    for index, original in originals.items():
        place = places[original]
        places[index] = LayerKernels(
            index=index,
            start_word=place.start_word,
            num_masks=place.num_masks,
            num_words=place.num_words,
            shared_with=original,
        )
    return tuple(places.get(layer.index) for layer in layers)


def mask_count(layer: HardwareLayer) -> int:
    """kcount: masks of one processor, dummies for unused lanes included.

    Source:
        spec/max78000-cnn.md section 3.4.
    """
    return layer.slots_per_processor * layer.mask_passes if layer.is_conv else 0


def mask_word_count(layer: HardwareLayer) -> int:
    """72-bit words that one layer reserves in each of its processors.

    The vendor's figure rounds an unfinished group of sub-byte masks in its own way; it is kept, so that positions
    agree, and raised where the masks need more (an unfinished group at the end, or dummies before an unaligned map).

    Source:
        spec/max78000-cnn.md section 3.4.
    """
    count, bits, taps = mask_count(layer), layer.weight_bits, layer.taps
    per_byte = 8 // bits
    proper = count - layer.start_column * layer.mask_passes if layer.out_passes == 1 else count
    vendor = -(-(proper * taps * bits + proper % per_byte * taps * (per_byte - 1)) // 72)
    needed = -(-(-(-count // per_byte) * taps) // 9)
    return max(vendor, needed)


def pack_masks(layer: HardwareLayer, device: Max7800x) -> NDArray[np.uint8]:
    """The mask words of a layer for each of its processors.

    Args:
        layer: a convolution with weights.
        device: the chip.

    Returns:
        uint8 (active processors of the layer, words, 9), ascending processors, most significant byte (``k0``) first.
        Only words that hold masks; the last one is filled with zeros.

    Raises:
        ValueError: the layer has no weights.

    Source:
        spec/max78000-cnn.md sections 3.1 to 3.3 and 3.5.
    """
    masks = _by_quadrant(layer, mask_sequence(layer))
    num_processors, count, taps = masks.shape
    bits = layer.weight_bits
    per_byte = 8 // bits
    groups = -(-count // per_byte)
    padded = np.zeros((num_processors, groups * per_byte, taps), dtype=np.int64)
    padded[:, :count] = masks & ((1 << bits) - 1)
    grouped = padded.reshape(num_processors, groups, per_byte, taps)
    shifts = (np.arange(per_byte) * bits)[:, None]
    packed = (grouped << shifts).sum(axis=2)[..., ::-1].reshape(num_processors, groups * taps)
    word_bytes = device.geometry.mask_word_bytes
    num_words = -(-packed.shape[1] // word_bytes)
    stream = np.zeros((num_processors, num_words * word_bytes), dtype=np.uint8)
    stream[:, : packed.shape[1]] = packed
    return stream.reshape(num_processors, num_words, word_bytes)[..., ::-1]


def mask_sequence(layer: HardwareLayer) -> NDArray[Any]:
    """Masks in the order of the slot counter: slot-major, pass-minor; flattened: pixel before pass.

    Unused lanes, missing input channels and missing output channels are zero masks.

    Args:
        layer: a convolution with weights.

    Returns:
        int64 (TI, kcount, taps), taps row-major.

    Raises:
        ValueError: the layer has no weights.

    Source:
        spec/max78000-cnn.md sections 3.2, 3.3 and 3.5.
    """
    if layer.weights is None:
        raise ValueError(f"layer {layer.index} '{layer.name}' has no weights")
    passes, share, pixels = layer.passes, layer.channels_per_pass, layer.flatten_pixels
    full = np.zeros((layer.out_channels, passes * share, pixels, layer.taps), dtype=np.int64)
    full[:, : layer.in_channels] = layer.weights.reshape(layer.out_channels, layer.in_channels, pixels, layer.taps)
    # (M, pass, rank, pixel, tap) -> (rank, M, pixel, pass, tap)
    ordered = full.reshape(layer.out_channels, passes, share, pixels, layer.taps).transpose(2, 0, 3, 1, 4)
    channels = slot_channels(layer)
    masks = np.zeros((share, layer.num_slots, layer.mask_passes, layer.taps), dtype=np.int64)
    present = channels >= 0
    masks[:, present] = ordered.reshape(share, layer.out_channels, layer.mask_passes, layer.taps)[:, channels[present]]
    return masks.reshape(share, layer.num_slots * layer.mask_passes, layer.taps)


def _by_quadrant(layer: HardwareLayer, masks: NDArray[Any]) -> NDArray[Any]:
    """In quad mode quadrant g gets the masks of slots g, g + 4, ...; otherwise nothing changes (section 5.4)."""
    if not layer.quad:
        return masks
    sharers = layer.mask_sharers
    share, _, taps = masks.shape
    slots = np.zeros((share, layer.slots_per_processor * sharers, layer.mask_passes, taps), dtype=np.int64)
    slots[:, : layer.num_slots] = masks.reshape(share, layer.num_slots, layer.mask_passes, taps)
    return np.concatenate([slots[:, quadrant::sharers] for quadrant in range(sharers)]).reshape(
        share * sharers, layer.slots_per_processor * layer.mask_passes, taps
    )


def _first_fit(used: NDArray[np.bool_], layer: HardwareLayer, num_words: int, device: Max7800x) -> int:
    """Lowest aligned word from which the layer's words are free in all its processors."""
    capacity, step = device.geometry.mask_words, device.limits.mask_alignment_words
    busy = used[list(set_bits(layer.active_processors))].any(axis=0)
    taken = np.concatenate([[0], np.cumsum(busy)])
    for start in range(0, capacity - num_words + 1, step):
        if taken[start + num_words] == taken[start]:
            return start
    processor = lowest_bit(layer.processors)
    raise UserError(
        Diagnostic(
            code="E0410",
            message=f"{num_words} words of weights per processor do not fit the weight memory",
            source=layer.placement.place_of("processors"),
            layer=layer.name,
            layer_index=layer.index,
            found=f"{int(busy.sum())} of {capacity} words are taken from processor {processor} on",
            allowed=f"{capacity} words of 72 bits per processor",
            help=_less_weight_help(layer),
        )
    )


def _less_weight_help(layer: HardwareLayer) -> str:
    """The next smaller weight width, where there is one."""
    if layer.weight_bits > 1:
        smaller = layer.weight_bits // 2
        return f"write quantization: {smaller} and quantize again, or use processors that other layers leave free"
    return "use processors that other layers leave free, or fewer channels"


def _weight_key(layer: HardwareLayer) -> Hashable | None:
    """Equal keys: equal mask memory contents on equal processors."""
    if layer.weights is None:
        return None
    lanes = layer.output_processors >> LANES * layer.first_instance
    return (
        layer.active_processors,
        lanes,
        layer.weight_bits,
        layer.flatten_pixels,
        layer.weights.shape,
        layer.weights.astype(np.int8).tobytes(),
    )
