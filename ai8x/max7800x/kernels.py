"""Weight and bias memory: where each layer's masks lie, and the bytes themselves.

Owns sizes, greedy allocation, sharing of equal parameters, and packing for 1, 2, 4 and 8 bits. Knows no registers.
Start at `KernelPlan` and `plan_kernels`.

Source: spec/max78000-cnn.md section 3.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Diagnostic, UserError
from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.placement import LANES, Placement, lowest_bit, set_bits


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
class LayerBias:
    """Where one layer's bias lies.

    Args:
        index: layer.
        quadrant: whose bias memory holds it.
        start_entry: first entry (register field ``bptr_sad``).
        values: int64 entries as stored, dummies and filler included.
        shared_with: layer whose storage is used, or None.
    """

    index: int
    quadrant: int
    start_entry: int
    values: NDArray[Any]
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
    """

    kernels: tuple[LayerKernels | None, ...]
    biases: tuple[LayerBias | None, ...]
    mask_rows: NDArray[np.uint8]
    mask_used: NDArray[np.bool_]
    bias_bytes: tuple[NDArray[np.uint8], ...]

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
    biases = allocate_biases(layers, device, deduplicate=deduplicate)
    geometry = device.geometry
    rows = np.zeros((geometry.num_processors, geometry.mask_words, geometry.mask_word_bytes), dtype=np.uint8)
    used = np.zeros(rows.shape[:2], dtype=np.bool_)
    for layer, place in zip(layers, kernels, strict=True):
        if place is None or place.shared_with is not None:
            continue
        packed = pack_masks(layer, device)
        span = slice(place.start_word, place.start_word + packed.shape[1])
        for processor, words in zip(set_bits(layer.processors), packed, strict=True):
            rows[processor, span] = words
            used[processor, span] = True
    return KernelPlan(
        kernels=kernels, biases=biases, mask_rows=rows, mask_used=used, bias_bytes=_bias_image(biases, device)
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
    originals = _originals([_weight_key(layer) if deduplicate else None for layer in layers])
    places: dict[int, LayerKernels] = {}
    owners = [layer for layer in layers if layer.is_conv and layer.index not in originals]
    for layer in sorted(owners, key=lambda owner: owner.processors != everywhere):
        num_words = mask_word_count(layer)
        start = _first_fit(used, layer, num_words, device)
        used[list(set_bits(layer.processors)), start : start + num_words] = True
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
    return layer.num_slots * layer.mask_passes if layer.is_conv else 0


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
        uint8 (processors of the layer, words, 9), ascending processors, most significant byte (``k0``) first. Only
        words that hold masks; the last one is filled with zeros.

    Raises:
        ValueError: the layer has no weights.

    Source:
        spec/max78000-cnn.md sections 3.1 to 3.3 and 3.5.
    """
    masks = mask_sequence(layer)
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


def slot_channels(layer: HardwareLayer) -> NDArray[np.int64]:
    """Output channel of every slot, -1 for an unused lane or a channel beyond the last.

    Source:
        spec/max78000-cnn.md section 3.2.
    """
    lanes = np.full(layer.slots_per_pass, -1, dtype=np.int64)
    for rank, processor in enumerate(set_bits(layer.output_processors)):
        lanes[processor - LANES * layer.first_instance] = rank
    slots = np.concatenate(
        [
            np.where(lanes >= 0, lanes + out_pass * layer.out_channels_per_pass, -1)
            for out_pass in range(layer.out_passes)
        ]
    )[: layer.num_slots]
    return np.where(slots < layer.out_channels, slots, -1)


def _first_fit(used: NDArray[np.bool_], layer: HardwareLayer, num_words: int, device: Max7800x) -> int:
    """Lowest aligned word from which the layer's words are free in all its processors."""
    capacity, step = device.geometry.mask_words, device.limits.mask_alignment_words
    busy = used[list(set_bits(layer.processors))].any(axis=0)
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
        layer.processors,
        lanes,
        layer.weight_bits,
        layer.flatten_pixels,
        layer.weights.shape,
        layer.weights.astype(np.int8).tobytes(),
    )


def _originals(keys: Sequence[Hashable | None]) -> dict[int, int]:
    """Later index -> earliest index with an equal key; None equals nothing."""
    first: dict[Hashable, int] = {}
    found: dict[int, int] = {}
    for index, key in enumerate(keys):
        if key is None:
            continue
        original = first.setdefault(key, index)
        if original != index:
            found[index] = original
    return found


def bias_entries(layer: HardwareLayer) -> NDArray[Any] | None:
    """The entries that a layer's bias occupies: values by slot, zeros for unused lanes.

    A streaming layer 0 is read one entry further on, so that a zero filler comes first.

    Args:
        layer: any layer.

    Returns:
        int64 entries up to the last real channel, or None without bias.

    Source:
        spec/max78000-cnn.md sections 3.5 and 3.7.
    """
    if layer.bias is None:
        return None
    channels = slot_channels(layer)
    present = np.flatnonzero(channels >= 0)
    filler = 1 if layer.streaming and layer.index == 0 else 0
    values = np.zeros(filler + int(present[-1]) + 1, dtype=np.int64)
    values[filler + present] = layer.bias[channels[present]]
    return values


def allocate_biases(
    layers: Sequence[HardwareLayer], device: Max7800x, *, deduplicate: bool = True
) -> tuple[LayerBias | None, ...]:
    """Choose quadrant and first entry of every bias.

    Flattened layers first, then layers restricted to one quadrant, then by decreasing length; each into the emptiest
    of its allowed quadrants.

    Args:
        layers: every layer of the network in hardware form.
        device: the chip.
        deduplicate: let equal biases share storage.

    Returns:
        One entry per layer, None without bias.

    Raises:
        UserError: E0411, a bias does not fit.

    Source:
        spec/max78000-cnn.md section 3.7.
    """
    quadrants = Placement(layers=tuple(layer.placement for layer in layers)).bias_quadrants
    values = {layer.index: entries for layer in layers if (entries := bias_entries(layer)) is not None}
    allowed = {layer.index: layer.placement.bias_group or quadrants for layer in layers}
    originals = _shared_biases(layers, values, allowed) if deduplicate else {}
    used = dict.fromkeys(range(device.num_quadrants), 0)
    places: dict[int, LayerBias] = {}
    owners = [layer for layer in layers if layer.index in values and layer.index not in originals]
    for layer in sorted(owners, key=lambda owner: _bias_order(owner, len(values[owner.index]), quadrants, device)):
        entries = values[layer.index]
        quadrant = min(allowed[layer.index], key=lambda candidate: used[candidate])
        if used[quadrant] + len(entries) > device.geometry.bias_entries:
            raise UserError(_bias_overflow(layer, entries, used[quadrant], quadrant, device))
        places[layer.index] = LayerBias(
            index=layer.index, quadrant=quadrant, start_entry=used[quadrant], values=entries
        )
        used[quadrant] += len(entries)
    for index, original in originals.items():
        place = places[original]
        places[index] = LayerBias(
            index=index,
            quadrant=place.quadrant,
            start_entry=place.start_entry,
            values=place.values,
            shared_with=original,
        )
    return tuple(places.get(layer.index) for layer in layers)


def _bias_order(layer: HardwareLayer, length: int, quadrants: tuple[int, ...], device: Max7800x) -> int:
    if layer.flatten:
        return -1
    choices = layer.placement.bias_group or quadrants
    return 0 if len(choices) == 1 else device.geometry.bias_entries - length


def _shared_biases(
    layers: Sequence[HardwareLayer], values: dict[int, NDArray[Any]], allowed: dict[int, tuple[int, ...]]
) -> dict[int, int]:
    """Equal entries with equal allowed quadrants share storage."""
    return _originals(
        [
            (tuple(allowed[layer.index]), values[layer.index].tobytes()) if layer.index in values else None
            for layer in layers
        ]
    )


def _bias_overflow(
    layer: HardwareLayer, entries: NDArray[Any], used: int, quadrant: int, device: Max7800x
) -> Diagnostic:
    capacity = device.geometry.bias_entries
    return Diagnostic(
        code="E0411",
        message=f"{len(entries)} bias entries do not fit the bias memory of quadrant {quadrant}",
        source=layer.placement.place_of("bias_group"),
        layer=layer.name,
        layer_index=layer.index,
        found=f"{used} of {capacity} entries are taken",
        allowed=f"{capacity} entries per quadrant, one quadrant per layer",
        help="use processors in more quadrants, or train the layer without bias",
    )


def _bias_image(biases: Sequence[LayerBias | None], device: Max7800x) -> tuple[NDArray[np.uint8], ...]:
    """Entries of every quadrant from entry 0 to the last used one."""
    image: list[list[int]] = [[] for _ in range(device.num_quadrants)]
    for bias in sorted((b for b in biases if b is not None and b.shared_with is None), key=lambda b: b.start_entry):
        image[bias.quadrant].extend(int(value) & 0xFF for value in bias.values)
    return tuple(np.array(entries, dtype=np.uint8) for entries in image)
