"""Which data memory words every layer reads and writes, and how long they are needed.

Owns the address formulas of layers in the form that liveness needs (sets of words) and the memory map of the report.
Knows no values. Start at `read_links`, `written_words` and `data_regions`.

Source: spec/max78000-cnn.md sections 5.1 to 5.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.placement import (
    LANES,
    WORD_BYTES,
    BufferPlacement,
    DataFormat,
    channel_passes,
    highest_bit,
    instances_of,
    set_bits,
)
from ai8x.max7800x.streaming import StreamSettings, stream_settings
from ai8x.network.ir import BUFFER_INPUT, NETWORK_INPUT, Network, RollingBuffer

WordSet = NDArray[np.bool_]
"""Data memory words, shape (instances, words)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelLayout:
    """Where the channels of a tensor lie: pixel i of channel c is at word ``words[c] + step * i``.

    Args:
        processors: int64 (channels,), processor of each channel; its lane is the processor modulo 4.
        words: int64 (channels,), word offset of the first pixel in the processor's data memory instance.
        step: words from one pixel to the next (a word holds four pixels of a CHW channel).
        num_words: words per channel.
    """

    processors: NDArray[Any]
    words: NDArray[Any]
    step: int
    num_words: int

    def part(self, start: int, count: int, skipped: int = 0) -> ChannelLayout:
        """The channels from `start` on, without their first `skipped` pixels."""
        span = slice(start, start + count)
        return ChannelLayout(
            processors=self.processors[span],
            words=self.words[span] + skipped * self.step,
            step=self.step,
            num_words=self.num_words - skipped,
        )

    def mark(self, words: WordSet) -> None:
        """Set every word of the tensor in `words`."""
        for instance, word in sorted(
            {(int(p) // LANES, int(w)) for p, w in zip(self.processors, self.words, strict=True)}
        ):
            words[instance, word : word + self.step * (self.num_words - 1) + 1 : self.step] = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ReadLink:
    """One tensor that a layer reads from data memory.

    Args:
        reader: layer that reads.
        producer: layer that wrote, or `NETWORK_INPUT`.
        position: place in `Layer.inputs`.
        layout: where the reader looks for the producer's channels.
    """

    reader: int
    producer: int
    position: int
    layout: ChannelLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRegion:
    """Data memory that holds one tensor, for the memory map of the report.

    Args:
        layer: layer that writes it, `NETWORK_INPUT`, or `BUFFER_INPUT` for the rolling buffer.
        first_use: layer at whose start it begins to be filled (0 for the input).
        last_use: last layer that reads it; the number of layers for an output of the network.
        instances: data memory instances, 0 to 15 through the chip.
        start_byte: first byte in each of them.
        end_byte: one beyond the last.
        is_stream_buffer: circular buffer between streaming layers.

    Units: bytes.
    """

    layer: int
    first_use: int
    last_use: int
    instances: tuple[int, ...]
    start_byte: int
    end_byte: int
    is_stream_buffer: bool = False


def read_layout(layer: HardwareLayer, operand: int) -> ChannelLayout:
    """Where a layer reads one operand.

    Args:
        layer: in hardware form.
        operand: 0 without element-wise operation.

    Source:
        spec/max78000-cnn.md sections 5.1 and 5.2.
    """
    channels = np.arange(layer.in_channels)
    processors = np.array(set_bits(layer.processors))[channels % layer.channels_per_pass]
    base = layer.placement.in_offset // WORD_BYTES
    pixels = layer.layer.operand_shape.height * layer.layer.operand_shape.width
    if layer.placement.data_format is DataFormat.CHW:
        return ChannelLayout(
            processors=processors, words=np.full_like(channels, base), step=1, num_words=-(-pixels // WORD_BYTES)
        )
    words = base + channels // layer.channels_per_pass * layer.operands + operand
    return ChannelLayout(processors=processors, words=words, step=layer.passes * layer.operands, num_words=pixels)


def write_layout(layer: HardwareLayer) -> ChannelLayout:
    """Where a layer writes its output; a 32-bit value has a word of its own.

    Source:
        spec/max78000-cnn.md section 5.3.
    """
    channels = np.arange(layer.out_channels)
    processors = np.array(set_bits(layer.output_processors))[channels % layer.out_channels_per_pass]
    pass_step = layer.output_bits // 8 * (layer.write_gap + 1)
    words = layer.placement.out_offset // WORD_BYTES + channels // layer.out_channels_per_pass * pass_step
    if layer.output_bits == 32:
        words = words + processors % LANES
    shape = layer.layer.out_shape
    return ChannelLayout(
        processors=processors, words=words, step=layer.out_stride_words, num_words=shape.height * shape.width
    )


def buffer_layout(buffer: RollingBuffer, place: BufferPlacement) -> ChannelLayout:
    """Where the rolling buffer lies, oldest pixel first.

    Source:
        spec/max78000-cnn.md sections 5.1 and 7.1.
    """
    passes, share = channel_passes(buffer.shape.channels)
    channels = np.arange(buffer.shape.channels)
    processors = np.array(set_bits(place.processors))[channels % share]
    words = place.offset // WORD_BYTES + channels // share
    return ChannelLayout(processors=processors, words=words, step=passes, num_words=buffer.num_pixels)


def written_words(layer: HardwareLayer, device: Max7800x) -> WordSet:
    """Every word that a layer writes: unused lanes, garbage rows and surplus pixels included.

    A convolution writes each memory from its first to its last output processor, a pass layer those of its output map.
    """
    words = empty_words(device)
    start = (layer.placement.out_offset - layer.lead_bytes) // WORD_BYTES
    if layer.is_conv:
        instances: Sequence[int] = range(layer.first_instance, highest_bit(layer.output_processors) // LANES + 1)
    else:
        instances = instances_of(layer.output_processors)
    width = layer.output_bits // 8
    for out_pass in range(layer.out_passes):
        first = start + out_pass * width * (layer.write_gap + 1)
        for lane in range(width):
            stop = first + lane + layer.out_stride_words * (layer.out_pixels - 1) + 1
            words[list(instances), first + lane : stop : layer.out_stride_words] = True
    return words


def read_words(layer: HardwareLayer, device: Max7800x) -> WordSet:
    """Every word that the read pointer passes: surplus pixels of a dilated Conv1d included.

    Source:
        spec/max78000-cnn.md sections 0 and 5.1.
    """
    words = empty_words(device)
    start = layer.placement.in_offset // WORD_BYTES
    count = layer.in_pixels * layer.passes * layer.operands
    if layer.placement.data_format is DataFormat.CHW:
        count = -(-layer.in_pixels // WORD_BYTES)
    words[list(instances_of(layer.active_processors)), start : start + count] = True
    return words


def empty_words(device: Max7800x) -> WordSet:
    """A set without words."""
    return np.zeros((device.geometry.num_instances, device.geometry.data_words), dtype=np.bool_)


def words_of(layout: ChannelLayout, device: Max7800x) -> WordSet:
    """The words of one tensor."""
    words = empty_words(device)
    layout.mark(words)
    return words


def read_links(network: Network, layers: Sequence[HardwareLayer]) -> tuple[ReadLink, ...]:
    """Every read from data memory; reads of streaming layers go through buffers and are left out."""
    links: list[ReadLink] = []
    for layer in layers:
        if layer.streaming:
            continue
        start = 0
        for position, producer in enumerate(layer.layer.inputs):
            operand = position if layer.layer.eltwise else 0
            count = layer.in_channels if layer.layer.eltwise else network.shape_of(producer).channels
            first = 0 if layer.layer.eltwise else start
            layout = read_layout(layer, operand).part(first, count)
            links.append(ReadLink(reader=layer.index, producer=producer, position=position, layout=layout))
            start += count
    return tuple(links)


def data_regions(
    network: Network, layers: Sequence[HardwareLayer], device: Max7800x, buffer: BufferPlacement | None = None
) -> tuple[DataRegion, ...]:
    """The memory map: input, rolling buffer, every layer's output, and stream buffers instead of streamed tensors.

    Args:
        network: what is computed.
        layers: its layers in hardware form; the placement has passed `constraints.check_network`.
        device: the chip.
        buffer: where the rolling buffer lies.
    """
    settings = stream_settings(layers, device)
    regions: list[DataRegion] = []
    if network.buffer is not None and buffer is not None:
        words = words_of(buffer_layout(network.buffer, buffer), device)
        regions.append(_region(BUFFER_INPUT, 0, len(layers), words))
    readers = network.consumers(NETWORK_INPUT)
    if readers and not layers[readers[0]].streaming:
        words = empty_words(device)
        for operand in range(layers[readers[0]].operands):
            read_layout(layers[readers[0]], operand).mark(words)
        regions.append(_region(NETWORK_INPUT, 0, readers[-1], words))
    for layer in layers:
        if layer.streaming:
            regions.append(stream_buffer(layer, settings, layers))
        in_buffer = layer.layer.buffer_shift or layer.layer.buffer_insert
        if not is_streamed_output(layer, layers) and not in_buffer:
            last = (
                len(layers)
                if layer.index in network.outputs
                else max(network.consumers(layer.index), default=layer.index)
            )
            regions.append(_region(layer.index, layer.index, last, written_words(layer, device)))
    return tuple(regions)


def is_streamed_output(layer: HardwareLayer, layers: Sequence[HardwareLayer]) -> bool:
    """Whether the next layer takes the output as a stream, so that it never lies in memory as a whole."""
    return layer.streaming and layer.index + 1 < len(layers) and layers[layer.index + 1].streaming


def stream_buffer(
    layer: HardwareLayer, settings: Sequence[StreamSettings | None], layers: Sequence[HardwareLayer]
) -> DataRegion:
    """The circular buffer of a streaming layer's input, the word that the vendor counts beyond its end included.

    Raises:
        ValueError: the layer has no stream.

    Source:
        spec/max78000-cnn.md sections 2.3 and 6.5: bytes [ioff, ioff + 4*FBUF].
    """
    own = settings[layer.index]
    if own is None:
        raise ValueError(f"layer {layer.index} '{layer.name}' does not stream")
    last = max(one.index for one in layers if one.streaming)
    start = layer.placement.in_offset
    return DataRegion(
        layer=layer.index - 1,
        first_use=0,
        last_use=last,
        instances=instances_of(layer.active_processors),
        start_byte=start,
        end_byte=start + WORD_BYTES * (own.buffer_words + 1),
        is_stream_buffer=True,
    )


def _region(layer: int, first_use: int, last_use: int, words: WordSet) -> DataRegion:
    used = np.flatnonzero(words.any(axis=0))
    instances = tuple(int(instance) for instance in np.flatnonzero(words.any(axis=1)))
    return DataRegion(
        layer=layer,
        first_use=first_use,
        last_use=last_use,
        instances=instances,
        start_byte=WORD_BYTES * int(used[0]),
        end_byte=WORD_BYTES * (int(used[-1]) + 1),
    )
