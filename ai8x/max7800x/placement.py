"""Where each layer's data lies: processors and data memory offsets, complete for every layer.

Owns the defaults of the network file (section 7.2) and the error for a processor map that is missing. Does not judge
whether a placement fits the chip: that is `constraints.check_network`. Start at `LayerPlacement`, `Placement` and
`place_network`.

Source: spec/max78000-cnn.md sections 0, 6.2 and 7.2; docs/design.md "Reading vendor files".
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ai8x.errors import Diagnostic, Diagnostics, Source
from ai8x.max7800x.device import MAX78000, Max7800x
from ai8x.network.ir import BUFFER_INPUT, NETWORK_INPUT, Layer, Network
from ai8x.network.yaml_file import PlacementHint

PROCESSORS = MAX78000.geometry.num_processors
"""Processors of a chip; this and the next three are the same on every chip of the family (section 10)."""

QUADRANT_PROCESSORS = MAX78000.geometry.processors_per_quadrant
"""Processors of a quadrant."""

LANES = MAX78000.geometry.processors_per_instance
"""Processors that share a data memory instance; each has one byte of every word."""

WORD_BYTES = MAX78000.geometry.word_bytes
"""Bytes of a data memory word."""


class DataFormat(enum.Enum):
    """How the network's input lies in memory; values are the YAML spelling."""

    HWC = "HWC"
    CHW = "CHW"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlacement:
    """Processors and memory offsets of one layer.

    Args:
        processors: 64-bit map of the processors that read the input (PM); one bit per input channel of a pass.
        output_processors: 64-bit map of the processors whose memories receive the output (OM).
        in_offset: byte offset of the input in every data memory instance that is read.
        out_offset: byte offset of the output in every instance that is written.
        write_gap: words skipped after every word written.
        data_format: layout of the input; CHW is possible for layer 0 only.
        streaming: the layer works while its input arrives.
        bias_group: quadrants that may hold the layer's bias, in order of preference; empty = any used quadrant.
        sources: YAML key -> its place, for messages.
        source: place of the layer.
    """

    processors: int
    output_processors: int
    in_offset: int = 0
    out_offset: int = 0
    write_gap: int = 0
    data_format: DataFormat = DataFormat.HWC
    streaming: bool = False
    bias_group: tuple[int, ...] = ()
    sources: Mapping[str, Source] = field(default_factory=dict, compare=False, hash=False)
    source: Source | None = field(default=None, compare=False)

    def place_of(self, key: str) -> Source | None:
        """Place of a YAML key, else of the layer."""
        return self.sources.get(key, self.source)


@dataclass(frozen=True, slots=True, kw_only=True)
class BufferPlacement:
    """Where the rolling buffer lies: as a tensor in HWC form, oldest pixel first.

    Args:
        processors: 64-bit map; one bit per channel of a pass.
        offset: byte offset in every data memory instance.
        source: place in the network file.
    """

    processors: int
    offset: int
    source: Source | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Placement of every layer of a network.

    Args:
        layers: by layer index.
        fifo: the input arrives through the FIFO.
        fast_fifo: it arrives through the RISC-V's fast FIFO.
        quad: every quadrant gets a copy of the input and computes every fourth output of layer 0.
        buffer: where the rolling buffer lies, None for a network without.
    """

    layers: tuple[LayerPlacement, ...]
    fifo: bool = False
    fast_fifo: bool = False
    quad: bool = False
    buffer: BufferPlacement | None = None

    @property
    def reads_fifo(self) -> bool:
        """Whether layer 0 takes its input from either FIFO."""
        return self.fifo or self.fast_fifo

    @property
    def bias_quadrants(self) -> tuple[int, ...]:
        """Quadrants with processors of any layer or with the final layer's output (U of section 0), ascending."""
        if self.quad:
            return quadrants_of((1 << PROCESSORS) - 1)
        used = self.layers[-1].output_processors if self.layers else 0
        for layer in self.layers:
            used |= layer.processors
        return quadrants_of(used)

    @property
    def used_quadrants(self) -> tuple[int, ...]:
        """Quadrants that must be powered: `bias_quadrants` and every quadrant that any layer writes, ascending.

        The vendor's tool forgets a quadrant that only a side output writes.
        """
        used = (1 << PROCESSORS) - 1 if self.quad else 0
        for layer in self.layers:
            used |= layer.processors | layer.output_processors
        return quadrants_of(used)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementOptions:
    """What the command line and the file's global keys say about placement.

    Args:
        fifo: feed the input through the FIFO; streaming layers imply it.
        fast_fifo: feed it through the RISC-V's fast FIFO.
        quad: let all quadrants work on layer 0.
        output_map: output processors of the final layer.
        output_map_source: place of that key.
        buffer: where the file puts the rolling buffer.
        ignore_streaming: treat every layer as not streaming.
    """

    fifo: bool = False
    fast_fifo: bool = False
    quad: bool = False
    output_map: int | None = None
    output_map_source: Source | None = None
    buffer: BufferPlacement | None = None
    ignore_streaming: bool = False


def set_bits(processors: int) -> tuple[int, ...]:
    """Numbers of the set bits, ascending."""
    return tuple(bit for bit in range(processors.bit_length()) if processors >> bit & 1)


def lowest_bit(processors: int) -> int:
    """Number of the lowest set bit (ffs); 0 for an empty map."""
    return max(0, (processors & -processors).bit_length() - 1)


def highest_bit(processors: int) -> int:
    """Number of the highest set bit (fls); 0 for an empty map."""
    return max(0, processors.bit_length() - 1)


def quadrants_of(processors: int) -> tuple[int, ...]:
    """Quadrants with a set bit, ascending."""
    return tuple(sorted({bit // QUADRANT_PROCESSORS for bit in set_bits(processors)}))


def quadrant_map(processors: int, quadrant: int) -> int:
    """The bits of one quadrant, from bit 0 on."""
    return processors >> QUADRANT_PROCESSORS * quadrant & ((1 << QUADRANT_PROCESSORS) - 1)


def instances_of(processors: int) -> tuple[int, ...]:
    """Data memory instances with a set bit, counted through the chip, ascending."""
    return tuple(sorted({bit // LANES for bit in set_bits(processors)}))


def format_map(processors: int) -> str:
    """A processor map as the network file spells it."""
    return f"0x{processors:016x}"


def channel_passes(channels: int, processors: int = PROCESSORS) -> tuple[int, int]:
    """Passes over the processors, and the channels of one pass.

    Args:
        channels: input or output channels.
        processors: processors of the chip.

    Returns:
        (P, TI): ceil(channels / processors), and the channels themselves for one pass, else an equal share rounded
        up to a multiple of 4.

    Source:
        spec/max78000-cnn.md section 0.
    """
    passes = -(-channels // processors)
    if passes <= 1:
        return 1, channels
    share = math.ceil(channels / passes)
    return passes, -(-share // LANES) * LANES


def place_network(
    network: Network, hints: Sequence[PlacementHint], device: Max7800x, options: PlacementOptions = PlacementOptions()
) -> Placement:
    """Complete the placement that the network file gives.

    Args:
        network: layers in the order of `hints`.
        hints: what the file says about each layer.
        device: the chip.
        options: command line and global keys.

    Returns:
        A placement without gaps; `constraints.check_network` judges it.

    Raises:
        UserError: E0310, a layer names no processors; one diagnostic per layer.

    Source:
        spec/max78000-cnn.md section 7.2.
    """
    diagnostics = Diagnostics()
    for layer, hint in zip(network.layers, hints, strict=True):
        if hint.processors is None and not (options.buffer and layer.inputs == (BUFFER_INPUT,)):
            diagnostics.add(_missing_processors(layer, hint, device))
    diagnostics.raise_if_errors()
    of_buffer = options.buffer.processors if options.buffer else 0
    processors = tuple(of_buffer if hint.processors is None else hint.processors for hint in hints)
    placed: list[LayerPlacement] = []
    for layer, hint in zip(network.layers, hints, strict=True):
        placed.append(
            LayerPlacement(
                processors=processors[layer.index],
                output_processors=_output_processors(network, layer, hint, processors, options),
                in_offset=_in_offset(network, layer, hint, placed, options.buffer),
                out_offset=_out_offset(network, layer, hint, options.buffer),
                write_gap=hint.write_gap or 0,
                data_format=DataFormat(hint.data_format) if hint.data_format else DataFormat.HWC,
                streaming=bool(hint.streaming) and not options.ignore_streaming,
                bias_group=tuple(hint.bias_group or ()),
                sources=_with_output_map(network, layer, hint, options),
                source=hint.source,
            )
        )
    fifo = options.fifo or (not options.fast_fifo and any(layer.streaming for layer in placed))
    return Placement(
        layers=tuple(placed), fifo=fifo, fast_fifo=options.fast_fifo, quad=options.quad, buffer=options.buffer
    )


def _missing_processors(layer: Layer, hint: PlacementHint, device: Max7800x) -> Diagnostic:
    channels = layer.operand_shape.channels
    passes, share = channel_passes(channels, device.processors)
    value = format_map((1 << share) - 1)
    return Diagnostic(
        code="E0310",
        message=f"no processors are given for {channels} input channels",
        source=hint.source,
        layer=layer.name,
        layer_index=layer.index,
        found="no key 'processors'",
        allowed=f"one enabled processor per input channel of a pass ({_passes(passes)}: {share})",
        help=f"write processors: {value}",
    )


def _passes(passes: int) -> str:
    return "1 pass" if passes == 1 else f"{passes} passes"


def buffer_offset(buffer: BufferPlacement, channels: int, pixel: int) -> int:
    """Byte offset of a pixel of the rolling buffer, counted from the oldest one.

    Args:
        buffer: its place.
        channels: channels of the buffer.
        pixel: number of the pixel.
    """
    return buffer.offset + WORD_BYTES * channel_passes(channels)[0] * pixel


def _out_offset(network: Network, layer: Layer, hint: PlacementHint, buffer: BufferPlacement | None) -> int:
    """The file's offset; into the rolling buffer: its start, or the place of the newest pixels."""
    if hint.out_offset is not None:
        return hint.out_offset
    if buffer is None or network.buffer is None or not (layer.buffer_shift or layer.buffer_insert):
        return 0
    first = network.buffer.num_pixels - layer.buffer_insert if layer.buffer_insert else 0
    return buffer_offset(buffer, network.buffer.shape.channels, first)


def _in_offset(
    network: Network,
    layer: Layer,
    hint: PlacementHint,
    placed: Sequence[LayerPlacement],
    buffer: BufferPlacement | None,
) -> int:
    """Where the first operand was written; for a plain chain the previous layer's out_offset."""
    if hint.in_offset is not None:
        return hint.in_offset
    first = layer.inputs[0]
    if first == BUFFER_INPUT:
        return buffer_offset(buffer, layer.operand_shape.channels, layer.buffer_shift) if buffer else 0
    if first != NETWORK_INPUT:
        return placed[first].out_offset
    # The input is loaded once: where its first reader expects it.
    readers = [index for index in network.consumers(NETWORK_INPUT) if index < layer.index]
    return placed[readers[0]].in_offset if readers else 0


def _output_processors(
    network: Network, layer: Layer, hint: PlacementHint, processors: Sequence[int], options: PlacementOptions
) -> int:
    if hint.output_processors is not None:
        return hint.output_processors
    if options.buffer is not None and (layer.buffer_shift or layer.buffer_insert):
        return options.buffer.processors
    is_last = layer.index == len(network.layers) - 1
    if is_last and options.output_map is not None:
        return options.output_map
    consumers = network.consumers(layer.index)
    if consumers:
        reader = network.layers[layer.index + 1 if layer.index + 1 in consumers else consumers[0]]
        return _share_of_reader(network, layer, reader, processors[reader.index])
    _, share = channel_passes(layer.out_shape.channels)
    if not is_last and processors[layer.index + 1].bit_count() == share:
        return processors[layer.index + 1]
    return (1 << share) - 1


def _share_of_reader(network: Network, layer: Layer, reader: Layer, processors: int) -> int:
    """The reader's processors; of a concatenation within one pass the part that belongs to this producer."""
    if reader.eltwise or len(reader.inputs) == 1 or reader.operand_shape.channels > processors.bit_count():
        return processors
    start = 0
    for producer in reader.inputs[: reader.inputs.index(layer.index)]:
        start += network.shape_of(producer).channels
    bits = set_bits(processors)[start : start + layer.out_shape.channels]
    return sum(1 << bit for bit in bits)


def _with_output_map(
    network: Network, layer: Layer, hint: PlacementHint, options: PlacementOptions
) -> Mapping[str, Source]:
    """The places of the layer's keys; the final layer's map may stand at the file's top."""
    is_last = layer.index == len(network.layers) - 1
    if is_last and hint.output_processors is None and options.output_map_source is not None:
        return {**hint.sources, "output_processors": options.output_map_source}
    return hint.sources
