"""Limits of the rolling buffer: where it lies, who may write to it. Each function is one rule.

Where layers read it is covered by `constraints_memory.check_sources`. Start at `BUFFER_STATE_RULES`.

Source: spec/max78000-cnn.md sections 5.3, 7.1 and 7.2.
"""

from __future__ import annotations

from collections.abc import Iterator

from ai8x.errors import Diagnostic
from ai8x.max7800x.constraints_base import Finding, Found, NetworkRule, Subject, describe_map, hexadecimal
from ai8x.max7800x.placement import WORD_BYTES, buffer_offset, channel_passes, format_map
from ai8x.max7800x.regions import buffer_layout, read_layout, words_of, written_words
from ai8x.network.ir import NETWORK_INPUT


def check_buffer_place(subject: Subject) -> Iterator[Found]:
    """The rolling buffer has one processor per channel of a pass, and lies at a multiple of 4 in the data memory."""
    buffer, place = subject.network.buffer, subject.placement.buffer
    if buffer is None or place is None:
        return
    passes, share = channel_passes(buffer.shape.channels)
    end = place.offset + WORD_BYTES * passes * buffer.num_pixels
    good_map = place.processors.bit_count() == share and place.processors.bit_length() <= subject.device.processors
    if good_map and place.offset % WORD_BYTES == 0 and end <= subject.memory_bytes:
        return
    yield Diagnostic(
        code="E0442",
        message=f"the rolling buffer '{buffer.name}' of {buffer.shape} does not fit where it is put",
        source=place.source,
        found=f"{describe_map(place.processors)}, bytes {hexadecimal(place.offset)} to {hexadecimal(end)}",
        allowed=f"{share} processors, an offset divisible by {WORD_BYTES}, an end up to "
        f"{hexadecimal(subject.memory_bytes)}",
        help=f"write processors: {format_map((1 << share) - 1)}, offset: 0x0000 and a dim that fits",
    )


def check_buffer_writes(subject: Subject) -> Iterator[Found]:
    """A layer that shifts the rolling buffer writes to its start, one that inserts to the place of its newest pixels;
    both on the buffer's processors, without write_gap.
    """
    buffer, place = subject.network.buffer, subject.placement.buffer
    if buffer is None or place is None:
        return
    for layer in subject.layers:
        insert = layer.layer.buffer_insert
        if not (insert or layer.layer.buffer_shift):
            continue
        first = buffer.num_pixels - insert if insert else 0
        wanted = buffer_offset(place, buffer.shape.channels, first)
        found = (layer.placement.out_offset, layer.output_processors, layer.write_gap)
        if found != (wanted, place.processors, 0):
            yield Finding(
                code="E0443",
                key="out_offset",
                message=f"the layer does not write the {'newest' if insert else 'oldest'} places of the rolling buffer",
                found=f"out_offset {hexadecimal(found[0])} on {format_map(found[1])}, write_gap {found[2]}",
                allowed=f"out_offset {hexadecimal(wanted)} on {format_map(place.processors)}, write_gap 0",
                help=f"write out_offset: {hexadecimal(wanted)} and output_processors: {format_map(place.processors)}",
                layer=layer,
            )


def check_buffer_spared(subject: Subject) -> Iterator[Found]:
    """No other layer, and not the network's input, touches the rolling buffer: it is needed in the next inference."""
    buffer, place = subject.network.buffer, subject.placement.buffer
    if buffer is None or place is None:
        return
    kept = words_of(buffer_layout(buffer, place), subject.device)
    readers = subject.network.consumers(NETWORK_INPUT)
    if readers:
        first = subject.layers[readers[0]]
        loaded = words_of(read_layout(first, 0), subject.device)
        if not first.streaming and (loaded & kept).any():
            yield Finding(
                code="E0444",
                key="in_offset",
                message=f"the network input overwrites the rolling buffer '{buffer.name}'",
                found=f"in_offset {hexadecimal(first.placement.in_offset)}",
                allowed="data memory that the buffer does not use",
                help=f"write another in_offset, or move the buffer from {hexadecimal(place.offset)}",
                layer=first,
            )
    for layer in subject.layers:
        in_buffer = layer.layer.buffer_shift or layer.layer.buffer_insert
        if not in_buffer and (written_words(layer, subject.device) & kept).any():
            yield Finding(
                code="E0444",
                key="out_offset",
                message=f"the output overwrites the rolling buffer '{buffer.name}'",
                found=f"out_offset {hexadecimal(layer.placement.out_offset)}",
                allowed="data memory that the buffer does not use",
                help=f"write another out_offset, or move the buffer from {hexadecimal(place.offset)}",
                layer=layer,
            )


BUFFER_PLACE_RULES: tuple[NetworkRule, ...] = (check_buffer_place,)
"""The rule about the buffer by itself."""

BUFFER_STATE_RULES: tuple[NetworkRule, ...] = (check_buffer_writes, check_buffer_spared)
"""Every rule about layers and the data that stays from one inference to the next."""
