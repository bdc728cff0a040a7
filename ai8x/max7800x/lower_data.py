"""Data around the network: sample input, known answer, unloading of the outputs.

Owns the layouts of section 5 on the way in and out; addresses come from the device's geometry. Knows no registers
and no weights. Start reading at `input_blocks`, `expected_blocks` and `unload_items`.

Source: spec/max78000-cnn.md sections 5.1 to 5.6.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Diagnostic, Diagnostics
from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.options import SyntheticInput
from ai8x.max7800x.placement import DataFormat, set_bits
from ai8x.max7800x.program import (
    ExpectedBlock,
    InputBlock,
    OutputRegion,
    Program,
    UnloadGroup,
    UnloadItem,
)
from ai8x.max7800x.stored_sample import StoredSample, made_words
from ai8x.network import yaml_file
from ai8x.sample import pixel_words

__all__ = [
    "OutputRegion",
    "expected_blocks",
    "input_blocks",
    "output_region",
    "store_few_words",
    "unload_items",
    "unload_regions",
]

FULL_MASK = 0xFFFFFFFF
"""Mask of a wide output, where every bit of the word counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lane:
    """Where one channel lies."""

    channel: int
    instance: int
    lane: int
    word: int


def output_region(hardware: HardwareLayer) -> OutputRegion:
    """The memory that a layer's true output occupies (surplus pixels excluded)."""
    shape = hardware.layer.out_shape
    return OutputRegion(
        processors=hardware.output_processors,
        channels=shape.channels,
        height=shape.height,
        width=shape.width,
        offset=hardware.placement.out_offset,
        bits=hardware.output_bits,
        write_gap=hardware.write_gap,
        name=hardware.name,
        layer=hardware.index,
    )


def unload_regions(items: Iterable[yaml_file.UnloadItem], device: Max7800x) -> tuple[OutputRegion, ...]:
    """The network file's ``unload`` items, in order, for `LowerOptions.unload`.

    Args:
        items: as read.
        device: the chip.

    Raises:
        UserError: E0394, an item without processors; E0490, an item outside of data memory; together.

    Source:
        spec/max78000-cnn.md sections 7.1 and 12 (here the item's width counts).
    """
    diagnostics = Diagnostics()
    regions = []
    for number, item in enumerate(items):
        if not item.processors:
            diagnostics.add(
                Diagnostic(
                    code="E0394",
                    message=f"unload item {number} names no processors",
                    source=item.source,
                    found="processors: 0",
                    allowed="one bit per channel of a pass",
                    help=f"write processors: {(1 << min(item.channels, 64)) - 1:#x}",
                )
            )
            continue
        region = OutputRegion(
            processors=item.processors,
            channels=item.channels,
            height=item.dim[0],
            width=item.dim[1] if len(item.dim) > 1 else 1,
            offset=item.offset,
            bits=item.width,
            write_gap=item.write_gap,
            name=f"unload{number}",
        )
        end = region.offset + region.num_pixels * region.pixel_words * device.geometry.word_bytes
        limit = device.geometry.data_words * device.geometry.word_bytes
        if end > limit or region.offset % device.geometry.word_bytes:
            diagnostics.add(
                Diagnostic(
                    code="E0490",
                    message=f"unload item {number} takes bytes {region.offset:#x} to {end:#x} of each memory",
                    source=item.source,
                    found=f"offset: {region.offset:#x}",
                    allowed=f"multiples of {device.geometry.word_bytes}, and an end of at most {limit:#x}",
                    help="write the out_offset of the layer that the item unloads",
                )
            )
        regions.append(region)
    diagnostics.raise_if_errors()
    return tuple(regions)


def input_blocks(device: Max7800x, hardware: HardwareLayer, sample: NDArray[Any]) -> tuple[InputBlock, ...]:
    """The sample as words for data memory or for the FIFOs.

    Args:
        device: the chip.
        hardware: layer 0, which reads the network input.
        sample: integer array of the network input, any shape with the same number of values.

    Raises:
        ValueError: the sample does not have the layer's shape.

    Source:
        spec/max78000-cnn.md sections 5.1, 5.2 and 5.4.
    """
    planes = _planes(hardware, sample)
    if hardware.placement.data_format is DataFormat.CHW:
        return tuple(
            _planar_block(device, hardware, processor, planes[channel])
            for channel, processor in enumerate(set_bits(hardware.processors))
        )
    per_instance = device.geometry.processors_per_instance
    instances = sorted({processor // per_instance for processor in set_bits(hardware.processors)})
    return tuple(_pixel_block(device, hardware, instance, planes) for instance in instances)


def store_few_words(
    program: Program, hardware: HardwareLayer, sample: NDArray[Any], synthetic: SyntheticInput
) -> Program:
    """Let the firmware keep the first words of the sample only; see `ai8x.sample.repeat_words`, which made it.

    Args:
        program: with the whole sample.
        hardware: layer 0, which reads the network input.
        sample: integer array (C, H, W) of the network input.
        synthetic: what is repeated and added.

    Raises:
        ValueError: the sample does not follow from its first words.

    Source:
        spec/max78000-cnn.md section 5.4.
    """
    stored = StoredSample(
        words=pixel_words(sample)[:, : synthetic.words].astype(np.uint32),
        period=synthetic.words,
        increment=synthetic.increment & FULL_MASK,
        first_pixel=hardware.layer.in_crop[0] * sample.shape[2],
        num_pixels=hardware.layer.operand_shape.height * hardware.layer.operand_shape.width,
        planar=hardware.placement.data_format is DataFormat.CHW,
    )
    blocks = []
    for block in program.load_input:
        lanes = _lane_channels(hardware, block.processor)
        if not np.array_equal(made_words(stored, lanes, block.words.size), block.words):
            raise ValueError(f"the sample of {block.name} does not follow from its first {synthetic.words} words")
        blocks.append(replace(block, lanes=lanes))
    return replace(program, load_input=tuple(blocks), stored_sample=stored)


def expected_blocks(
    device: Max7800x, regions: Iterable[OutputRegion], outputs: Mapping[int, NDArray[Any]]
) -> tuple[ExpectedBlock, ...]:
    """The words that the outputs must leave in data memory, sorted by mask, then address; runs merged.

    Args:
        device: the chip.
        regions: output tensors of layers.
        outputs: layer index -> integer array (C, H, W).

    Source:
        spec/max78000-cnn.md section 5.6.
    """
    words: dict[int, dict[int, int]] = {}
    for region in regions:
        if region.layer is None:
            raise ValueError(f"unload item '{region.name}' belongs to no layer, its values are not known")
        for mask, addresses, values in _region_words(device, region, outputs[region.layer]):
            words.setdefault(mask, {}).update(zip(addresses.tolist(), values.tolist(), strict=True))
    blocks: list[ExpectedBlock] = []
    for mask in sorted(words):
        addresses = np.array(sorted(words[mask]), np.int64)
        values = np.array([words[mask][address] for address in addresses.tolist()], np.int64)
        breaks = np.flatnonzero(np.diff(addresses) != device.geometry.word_bytes) + 1
        starts = [0, *breaks.tolist()]
        for start, run in zip(starts, np.split(values, breaks), strict=True):
            blocks.append(ExpectedBlock(address=int(addresses[start]), mask=mask, values=run.astype(np.uint32)))
    return tuple(blocks)


def unload_items(device: Max7800x, regions: Iterable[OutputRegion]) -> tuple[UnloadItem, ...]:
    """How the outputs are copied to one buffer, each from a word boundary on.

    Source:
        spec/max78000-cnn.md sections 5.3, 5.5 and 12 (wide outputs with several pixels are unloaded channel-major).
    """
    items: list[UnloadItem] = []
    offset = 0
    for region in regions:
        item = UnloadItem(
            name=region.name,
            layer=region.layer,
            channels=region.channels,
            height=region.height,
            width=region.width,
            bits=region.bits,
            pixel_step=region.pixel_words * device.geometry.word_bytes,
            groups=_groups(device, region),
            offset=offset,
        )
        offset += item.size_bytes
        items.append(item)
    return tuple(items)


def _planes(hardware: HardwareLayer, sample: NDArray[Any]) -> NDArray[np.uint8]:
    """The sample as bytes, (C, pixels), cropped to what layer 0 reads."""
    layer = hardware.layer
    first, last = layer.in_crop
    if first or last:
        sample = sample[:, first : sample.shape[1] - last]
    shape = layer.operand_shape
    if sample.size != shape.numel:
        raise ValueError(f"sample of shape {sample.shape} does not fit the input {shape} of layer '{hardware.name}'")
    return sample.astype(np.int8).view(np.uint8).reshape(shape.channels, -1)


def _planar_block(device: Max7800x, hardware: HardwareLayer, processor: int, plane: NDArray[np.uint8]) -> InputBlock:
    """One channel of CHW data: four pixels per word (section 5.2)."""
    padded = np.zeros(-(-plane.size // 4) * 4, np.uint8)
    padded[: plane.size] = plane
    return _block(device, hardware, processor, padded.view("<u4"))


def _pixel_block(device: Max7800x, hardware: HardwareLayer, instance: int, planes: NDArray[np.uint8]) -> InputBlock:
    """Four channels of HWC data: one pixel, pass and operand per word (section 5.1)."""
    per_instance = device.geometry.processors_per_instance
    channels = _lane_channels(hardware, instance * per_instance)
    words = np.where(channels[..., np.newaxis] >= 0, planes[channels], 0).astype(np.uint8)
    words = np.ascontiguousarray(np.moveaxis(words, -1, 0))
    return _block(device, hardware, instance * per_instance, words.reshape(-1).view("<u4"))


def _lane_channels(hardware: HardwareLayer, processor: int) -> NDArray[np.int16]:
    """Channels in the bytes of the words that start on a processor, (steps, 4); -1 where there is none.

    CHW: four pixels of one channel. HWC: one step for every pass and operand of a pixel (section 5.1).
    """
    processors = set_bits(hardware.processors)
    if hardware.placement.data_format is DataFormat.CHW:
        return np.full((1, 4), processors.index(processor), np.int16)
    lanes = np.full((hardware.passes, hardware.operands, 4), -1, np.int16)
    for rank, place in enumerate(processors):
        if processor <= place < processor + 4:
            channels = np.arange(hardware.passes) * hardware.channels_per_pass + rank
            lanes[:, :, place - processor] = np.where(channels < hardware.in_channels, channels, -1)[:, np.newaxis]
    return lanes.reshape(-1, 4)


def _block(device: Max7800x, hardware: HardwareLayer, processor: int, words: NDArray[Any]) -> InputBlock:
    geometry = device.geometry
    fifo, full_bit = None, 0
    if not hardware.fifo_input:
        instance = processor // geometry.processors_per_instance
        address = geometry.data_address(instance) + hardware.placement.in_offset
    elif hardware.fast_fifo:
        fifo = 0
        full_bit = device.fast_fifo.register("FAST_FIFO_SR").field("full").low
        address = device.fast_fifo.register("FAST_FIFO_DR").address(geometry.fast_fifo_base)
    else:
        fifo = processor // geometry.processors_per_quadrant
        full_bit = device.fifo.register("FIFO_STATUS").field("full").low + fifo
        address = geometry.fifo_data_address(fifo)
    return InputBlock(
        name=f"SAMPLE_INPUT_{processor}",
        processor=processor,
        address=address,
        words=words.astype(np.uint32),
        fifo=fifo,
        full_bit=full_bit,
    )


def _lanes(device: Max7800x, region: OutputRegion) -> list[_Lane]:
    """Place of the first pixel of every channel (section 5.3)."""
    processors = set_bits(region.processors)
    lanes = []
    for channel in range(region.channels):
        number, rank = divmod(channel, len(processors))
        instance, lane = divmod(processors[rank], device.geometry.processors_per_instance)
        word = region.offset // device.geometry.word_bytes + number * region.pass_words
        lanes.append(_Lane(channel=channel, instance=instance, lane=lane, word=word))
    return lanes


def _region_words(
    device: Max7800x, region: OutputRegion, values: NDArray[Any]
) -> Iterable[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """(mask, addresses, words) of one output."""
    planes = values.reshape(region.channels, -1).astype(np.int64)
    steps = np.arange(region.num_pixels, dtype=np.int64) * region.pixel_words * device.geometry.word_bytes
    shared: dict[tuple[int, int], tuple[int, NDArray[np.int64]]] = {}
    for place in _lanes(device, region):
        if region.bits == 32:
            address = device.geometry.data_address(place.instance, place.word + place.lane)
            yield FULL_MASK, steps + address, planes[place.channel] & FULL_MASK
            continue
        mask, words = shared.get((place.instance, place.word), (0, np.zeros(region.num_pixels, np.int64)))
        words = words | (planes[place.channel] & 0xFF) << 8 * place.lane
        shared[place.instance, place.word] = mask | 0xFF << 8 * place.lane, words
    for (instance, word), (mask, words) in shared.items():
        yield mask, steps + device.geometry.data_address(instance, word), words


def _groups(device: Max7800x, region: OutputRegion) -> tuple[UnloadGroup, ...]:
    """Channels of the same instance and pass together; they are consecutive."""
    lanes: dict[tuple[int, int], list[_Lane]] = {}
    for place in _lanes(device, region):
        lanes.setdefault((place.instance, place.word), []).append(place)
    return tuple(
        UnloadGroup(
            address=device.geometry.data_address(instance, word),
            lanes=sum(1 << place.lane for place in places),
            channel=places[0].channel,
        )
        for (instance, word), places in lanes.items()
    )
