"""Bias memory: where each layer's bias lies, and which output channel every slot holds.

Owns entries, allocation and sharing of equal biases. Knows no registers. Start at `LayerBias` and `allocate_biases`;
`kernels.plan_kernels` puts weights and biases together.

Source: spec/max78000-cnn.md sections 3.2, 3.7 and 5.4.
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
from ai8x.max7800x.placement import LANES, Placement, set_bits


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
    # A streaming layer 0 is read one entry further on.
    filler = 1 if layer.streaming and layer.index == 0 else 0
    return np.concatenate([np.zeros(filler, dtype=np.int64), _slot_values(layer)])


def _slot_values(layer: HardwareLayer) -> NDArray[np.int64]:
    """Bias by slot, up to the last real channel."""
    channels = slot_channels(layer)
    present = np.flatnonzero(channels >= 0)
    values = np.zeros(int(present[-1]) + 1, dtype=np.int64)
    if layer.bias is not None:
        values[present] = layer.bias[channels[present]]
    return values


def spread_biases(layers: Sequence[HardwareLayer], device: Max7800x) -> tuple[LayerBias, ...]:
    """The bias of a quad-mode layer 0: in every quadrant from entry 0 on the entries of its own slots.

    Source:
        spec/max78000-cnn.md section 5.4.
    """
    first = layers[0] if layers else None
    entries = bias_entries(first) if first is not None and first.quad else None
    if first is None or entries is None:
        return ()
    filler = entries[: len(entries) - len(_slot_values(first))]
    values = np.zeros(first.slots_per_processor * device.num_quadrants, dtype=np.int64)
    own = entries[len(filler) :]
    values[: len(own)] = own
    return tuple(
        LayerBias(
            index=first.index,
            quadrant=quadrant,
            start_entry=0,
            values=np.concatenate([filler, values[quadrant :: device.num_quadrants]]),
        )
        for quadrant in range(device.num_quadrants)
    )


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
    spread = spread_biases(layers, device)
    quad = any(layer.quad for layer in layers)
    quadrants = Placement(layers=tuple(layer.placement for layer in layers), quad=quad).bias_quadrants
    single = [layer for layer in layers if not layer.quad]
    values = {layer.index: entries for layer in single if (entries := bias_entries(layer)) is not None}
    allowed = {layer.index: layer.placement.bias_group or quadrants for layer in layers}
    originals = _shared_biases(layers, values, allowed) if deduplicate else {}
    used = dict.fromkeys(range(device.num_quadrants), 0) | {bias.quadrant: len(bias.values) for bias in spread}
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
    return first_equal(
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


def bias_image(biases: Sequence[LayerBias | None], device: Max7800x) -> tuple[NDArray[np.uint8], ...]:
    """Entries of every quadrant from entry 0 to the last used one, as bytes."""
    image: list[list[int]] = [[] for _ in range(device.num_quadrants)]
    for bias in sorted((b for b in biases if b is not None and b.shared_with is None), key=lambda b: b.start_entry):
        image[bias.quadrant].extend(int(value) & 0xFF for value in bias.values)
    return tuple(np.array(entries, dtype=np.uint8) for entries in image)


def first_equal(keys: Sequence[Hashable | None]) -> dict[int, int]:
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
