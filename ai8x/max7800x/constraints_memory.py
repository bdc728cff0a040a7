"""Limits of the memories: offsets, sizes, overlaps of live data, weights and biases. Each function is one rule.

Start at `MEMORY_RULES` (one layer, no other layer needed) and `LIVENESS_RULES` (data of all layers together).

Source: spec/max78000-cnn.md sections 3.4, 3.7, 5.3 and 6.4.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ai8x.errors import UserError
from ai8x.max7800x.constraints_base import Finding, Found, LayerRule, NetworkRule, Subject, hexadecimal
from ai8x.max7800x.constraints_input import finds_input, first_reader
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.kernels import allocate_biases, allocate_kernels
from ai8x.max7800x.placement import WORD_BYTES, DataFormat, channel_passes, format_map
from ai8x.max7800x.read_order import replaced_too_early
from ai8x.max7800x.regions import (
    ChannelLayout,
    ReadLink,
    WordSet,
    buffer_layout,
    empty_words,
    is_streamed_output,
    read_layout,
    read_links,
    read_words,
    words_of,
    write_layout,
    written_words,
)
from ai8x.network.ir import BUFFER_INPUT, NETWORK_INPUT

OFFSET_STEP = 0x400
"""Offsets that a message proposes are multiples of this, where one is free."""

FINE_OFFSET_STEP = 16
"""Otherwise of this."""


def check_in_offset(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """The input offset is a multiple of 4 inside the data memory."""
    if _inherits_bad_offset(subject, layer):
        return
    yield from _bad_offset(subject, layer, "E0413", "in_offset", layer.placement.in_offset, subject.memory_bytes)


def check_out_offset(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """The output offset is a multiple of 4, at least 0 and below 0x20000; the data must fit the memory too."""
    yield from _bad_offset(
        subject, layer, "E0414", "out_offset", layer.placement.out_offset, subject.limits.max_write_offset + 1
    )


def check_input_fits(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """An input that does not stream ends inside the data memory.

    It takes 4 bytes per pixel, pass and operand; CHW one byte per pixel.
    """
    if layer.streaming or _inherits_bad_offset(subject, layer):
        return
    pixel_bytes = 1 if layer.placement.data_format is DataFormat.CHW else WORD_BYTES * layer.passes * layer.operands
    size, start = layer.in_pixels * pixel_bytes, layer.placement.in_offset
    if start + size > subject.memory_bytes:
        yield Finding(
            code="E0415",
            key="in_offset",
            message=f"the input of {size} bytes per data memory does not fit from {hexadecimal(start)}",
            found=f"bytes {hexadecimal(start)} to {hexadecimal(start + size)}",
            allowed=f"up to {hexadecimal(subject.memory_bytes)}",
            help=f"write in_offset: {hexadecimal(subject.memory_bytes - size)} or less"
            if size <= subject.memory_bytes
            else "write streaming: true in the first layers, or use a smaller input",
        )


def check_output_fits(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """An output ends inside the data memory: offset plus 4 (wide: 16) bytes per pixel and pass, times write_gap + 1."""
    if is_streamed_output(layer, subject.layers):
        return
    width = layer.output_bits // 8
    last_word = (layer.out_pixels * layer.out_passes - 1) * width * (layer.write_gap + 1) + width
    start, size = layer.placement.out_offset - layer.lead_bytes, WORD_BYTES * last_word
    if start + size > subject.memory_bytes:
        fits = subject.memory_bytes - size + layer.lead_bytes
        yield Finding(
            code="E0416",
            key="out_offset",
            message=f"the output of {size} bytes per data memory does not fit from {hexadecimal(start)}",
            found=f"bytes {hexadecimal(start)} to {hexadecimal(start + size)}",
            allowed=f"up to {hexadecimal(subject.memory_bytes)}",
            help=f"write out_offset: {hexadecimal(fits)} or less"
            if fits >= 0
            else "pool earlier, or use fewer output channels",
        )


def check_write_gap(subject: Subject, layer: HardwareLayer) -> Iterator[Found]:
    """The write pointer's increment, output passes times (write_gap + 1), is at most 16."""
    passes = layer.out_passes if layer.is_conv else 1
    limit = subject.limits.max_write_increment
    if layer.write_gap < 0 or passes * (layer.write_gap + 1) > limit:
        greatest = limit // passes - 1
        yield Finding(
            code="E0417",
            key="write_gap",
            message=f"write_gap {layer.write_gap} is out of range",
            found=f"write_gap {layer.write_gap}, {passes} output passes",
            allowed=f"0 to {greatest}",
            help=f"write write_gap: {min(max(0, layer.write_gap), greatest)}",
        )


def check_weight_memory(subject: Subject) -> Iterator[Found]:
    """The masks of all layers fit 768 words of 72 bits in each of their processors.

    Every layer starts at a multiple of 4 words, and its mask counter ends below 65536.
    """
    try:
        places = allocate_kernels(subject.layers, subject.device, deduplicate=subject.deduplicate)
    except UserError as error:
        yield from error.diagnostics
        return
    for layer, place in zip(subject.layers, places, strict=True):
        if place is None:
            continue
        last = 8 * (9 * place.start_word // layer.taps) + (place.num_masks - 1) * layer.weight_bits
        limit = subject.device.quadrant.register("MCNT").field("max").max
        if last > limit:
            yield Finding(
                code="E0419",
                key="processors",
                message=f"the layer needs mask addresses up to {last}",
                found=f"{place.num_masks} masks of {layer.weight_bits} bits from word {place.start_word}",
                allowed=f"mask addresses up to {limit}",
                help="reduce the layer's output channels",
                layer=layer,
            )


def check_bias_memory(subject: Subject) -> Iterator[Found]:
    """The bias of a layer lies within one quadrant; a quadrant holds 512 entries."""
    try:
        allocate_biases(subject.layers, subject.device, deduplicate=subject.deduplicate)
    except UserError as error:
        yield from error.diagnostics


def check_sources(subject: Subject) -> Iterator[Found]:
    """A layer finds its input where the producers wrote it.

    That is: on the same processors, from the same word, with the same distance of pixels. Operands of an element-wise
    operation are interleaved with write_gap; concatenated data lies on neighbouring processors, or interleaved where
    it takes several passes.
    """
    for link in read_links(subject.network, subject.layers):
        yield from _compare(subject, link, _source_layout(subject, link))


def check_overwrite(subject: Subject) -> Iterator[Found]:
    """A layer's output does not touch words that it has still to read itself, words that a later layer still reads, or
    words of an output of the network; the words are counted exactly, so that interleaving with write_gap is possible.
    """
    links = read_links(subject.network, subject.layers)
    reads = [(link, words_of(_source_layout(subject, link), subject.device)) for link in links]
    for layer in subject.layers:
        if is_streamed_output(layer, subject.layers):
            continue
        own = written_words(layer, subject.device)
        victims, live = _own_input(subject, layer, own)
        for link, words in reads:
            if link.producer != BUFFER_INPUT and link.producer < layer.index < link.reader:
                live |= words
                if (own & words).any():
                    victims.setdefault(link.producer, link.reader)
        for output in subject.network.outputs:
            if output < layer.index:
                words = words_of(write_layout(subject.layers[output]), subject.device)
                live |= words
                if (own & words).any():
                    victims.setdefault(output, len(subject.layers))
        for producer, reader in victims.items():
            yield _overwrite_finding(subject, layer, (producer, reader), own, live)


def _own_input(subject: Subject, layer: HardwareLayer, own: WordSet) -> tuple[dict[int, int], WordSet]:
    """The layer's own input as a victim (producer -> reader), if it is one, and the words that it needs."""
    live = empty_words(subject.device)
    # A layer that shifts the rolling buffer overwrites what it has read already.
    if not (layer.streaming or layer.layer.buffer_shift):
        passed = read_words(layer, subject.device)
        live |= passed
        if replaced_too_early(layer, own, passed).any():
            return {layer.layer.inputs[0]: layer.index}, live
    return {}, live


def _overwrite_finding(
    subject: Subject, layer: HardwareLayer, victim: tuple[int, int], own: WordSet, live: WordSet
) -> Finding:
    producer, reader = victim
    whose = (
        "the network input"
        if producer < 0
        else f"the output of layer {producer} '{subject.layers[producer].name}'"
    )
    if reader == layer.index:
        reason = "which it reads itself"
    elif reader == len(subject.layers):
        reason = "which is an output of the network"
    else:
        reason = f"which layer {reader} '{subject.layers[reader].name}' still reads"
    clash = np.flatnonzero((own & live).any(axis=0))
    start, end = WORD_BYTES * int(clash[0]), WORD_BYTES * (int(clash[-1]) + 1)
    free = _free_offset(subject, layer, own, live)
    if free is None:
        action = "write output_processors of other data memories, or pool earlier: these have no free range left"
    else:
        action = f"write out_offset: {hexadecimal(free)}{_readers_follow(subject, layer)}"
    return Finding(
        code="E0418",
        key="out_offset",
        message=f"the output overwrites {whose}, {reason}",
        found=f"out_offset {hexadecimal(layer.placement.out_offset)}; bytes {hexadecimal(start)} to "
        f"{hexadecimal(end)} are live",
        allowed="data memory without live data",
        help=action,
        layer=layer,
    )


def _readers_follow(subject: Subject, layer: HardwareLayer) -> str:
    explicit = [i for i in subject.network.consumers(layer.index) if "in_offset" in subject.layers[i].placement.sources]
    return f", and the same in_offset in layer {', '.join(str(i) for i in explicit)}" if explicit else ""


def _free_offset(subject: Subject, layer: HardwareLayer, own: WordSet, live: WordSet) -> int | None:
    """Lowest round out_offset at which the layer's words are free, or None."""
    words = np.flatnonzero(own.any(axis=0))
    relative = words - words[0]
    busy = np.asarray(live[np.flatnonzero(own.any(axis=1))]).any(axis=0).reshape(-1)
    last = len(busy) - int(relative[-1]) - 1
    for step in (OFFSET_STEP, FINE_OFFSET_STEP):
        for start in range(0, last + 1, step // WORD_BYTES):
            if not busy[start + relative].any():
                return WORD_BYTES * start + layer.lead_bytes
    return None


def _source_layout(subject: Subject, link: ReadLink) -> ChannelLayout:
    """Where the data that a link reads was written: by its producer, in the rolling buffer, or loaded for the first
    reader of the input.
    """
    if link.producer == BUFFER_INPUT:
        return _buffer_source(subject, link)
    dropped_rows = subject.layers[link.reader].layer.in_crop[0]
    if link.producer != NETWORK_INPUT:
        written = write_layout(subject.layers[link.producer])
    else:
        first = first_reader(subject)
        if first.index == link.reader or not finds_input(subject, subject.layers[link.reader]):
            return link.layout  # where it is loaded; or `check_shared_input` has told what is wrong
        written = read_layout(first, 0)
        dropped_rows -= first.layer.in_crop[0]
    skipped = dropped_rows * subject.network.shape_of(link.producer).width
    return written.part(0, len(written.words), skipped)


def _buffer_source(subject: Subject, link: ReadLink) -> ChannelLayout:
    """The rolling buffer, for a layer that shifts it without the oldest pixels."""
    buffer, place = subject.network.buffer, subject.placement.buffer
    if buffer is None or place is None:
        return link.layout
    return buffer_layout(buffer, place).part(0, buffer.shape.channels, subject.layers[link.reader].layer.buffer_shift)


def _compare(subject: Subject, link: ReadLink, written: ChannelLayout) -> Iterator[Found]:
    layer, read = subject.layers[link.reader], link.layout
    count = min(len(read.words), len(written.words))
    if not np.array_equal(read.processors[:count], written.processors[:count]):
        yield _other_processors(subject, link, written)
        return
    several = read.num_words > 1
    passes = np.unique(read.words[:count] - read.words[0])
    if (several and read.step != written.step) or not np.array_equal(
        passes, np.unique(written.words[:count] - written.words[0])
    ):
        yield _other_step(subject, link, written)
    elif read.words[0] != written.words[0]:
        found, true = (WORD_BYTES * int(layout.words[0]) for layout in (read, written))
        place = f"{hexadecimal(found)}, written from {hexadecimal(true)}"
        shift = true - found
        yield Finding(
            code="E0420",
            key="in_offset",
            message=f"{_tensor(subject, link)} is read from byte {place}",
            found=f"in_offset {hexadecimal(layer.placement.in_offset)}",
            allowed="the place where the data was written",
            help=f"write in_offset: {hexadecimal(layer.placement.in_offset + shift)}"
            if link.position == 0
            else _move_producer(subject, link, -shift),
            layer=layer,
        )


def _move_producer(subject: Subject, link: ReadLink, shift: int) -> str:
    if link.producer < 0:
        return "read the network input, or the rolling buffer, as the first operand only"
    offset = subject.layers[link.producer].placement.out_offset + shift
    return f"write out_offset: {hexadecimal(offset)} in layer {link.producer}"


def _other_processors(subject: Subject, link: ReadLink, written: ChannelLayout) -> Finding:
    layer = subject.layers[link.reader]
    wanted = sum(1 << int(p) for p in set(link.layout.processors.tolist()))
    found = sum(1 << int(p) for p in set(written.processors.tolist()))
    if link.producer < 0:
        action = f"write processors: {format_map(found)}"
    else:
        action = f"write output_processors: {format_map(wanted)} in layer {link.producer}"
    return Finding(
        code="E0421",
        key="processors",
        message=f"{_tensor(subject, link)} lies with other processors than those that read it",
        found=f"written to {format_map(found)}, read from {format_map(wanted)}",
        allowed="the same processors, in channel order",
        help=action,
        layer=layer,
    )


def _other_step(subject: Subject, link: ReadLink, written: ChannelLayout) -> Finding:
    layer = subject.layers[link.reader]
    passes = 1 if link.producer < 0 else subject.layers[link.producer].out_passes
    own_passes = channel_passes(layer.in_channels)[0]
    gap = link.layout.step // passes - 1
    if link.producer < 0 or link.layout.step % passes:
        action = "put a passthrough layer between them that copies the data"
    else:
        action = f"write write_gap: {gap} in layer {link.producer}"
    return Finding(
        code="E0422",
        key="in_sequences",
        message=f"{_tensor(subject, link)} has {written.step} words per pixel, {link.layout.step} are read",
        found=f"{written.step} words per pixel",
        allowed=f"{link.layout.step} words per pixel ({own_passes} passes, {layer.operands} operands)",
        help=action,
        layer=layer,
    )


def _tensor(subject: Subject, link: ReadLink) -> str:
    if link.producer == BUFFER_INPUT:
        return "the rolling buffer"
    if link.producer == NETWORK_INPUT:
        return "the network input"
    return f"the output of layer {link.producer} '{subject.layers[link.producer].name}'"


def _inherits_bad_offset(subject: Subject, layer: HardwareLayer) -> bool:
    """Whether the input offset is the producer's output offset, wrong there already: one mistake gives one error."""
    producer = layer.layer.inputs[0]
    if producer == NETWORK_INPUT or "in_offset" in layer.placement.sources:
        return False
    source = subject.layers[producer]
    if source.placement.out_offset != layer.placement.in_offset:
        return False
    return any((*check_out_offset(subject, source), *check_output_fits(subject, source)))


def _bad_offset(
    subject: Subject, layer: HardwareLayer, code: str, key: str, value: int, limit: int
) -> Iterator[Found]:
    if 0 <= value < limit and value % WORD_BYTES == 0:
        return
    nearest = min(max(0, value), subject.memory_bytes - WORD_BYTES) // WORD_BYTES * WORD_BYTES
    yield Finding(
        code=code,
        key=key,
        message=f"{key} {hexadecimal(value)} is not a valid data memory offset",
        found=hexadecimal(value),
        allowed=f"multiples of 4 from 0x0000 to {hexadecimal(limit - WORD_BYTES)}",
        help=f"write {key}: {hexadecimal(nearest)}",
    )


MEMORY_RULES: tuple[LayerRule, ...] = (
    check_in_offset,
    check_out_offset,
    check_input_fits,
    check_output_fits,
    check_write_gap,
)
"""Every rule that looks at one layer's memory."""

LIVENESS_RULES: tuple[NetworkRule, ...] = (check_sources, check_overwrite, check_weight_memory, check_bias_memory)
"""Every rule that needs the memory of all layers; meaningful once every single layer is right."""
