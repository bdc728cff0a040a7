"""What data memory must hold after an inference, as sample and reference have it: every byte that can be said.

Start at `expected_words` and `memory_difference`. The addresses of the sample are computed here from the specification,
not by the lowering that loads it.

Source: spec/max78000-cnn.md sections 5.1 to 5.3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import HardwareLayer
from ai8x.max7800x.lower import LoweringPlan
from ai8x.max7800x.lower_data import expected_blocks, output_region
from ai8x.max7800x.placement import DataFormat
from ai8x.max7800x.regions import is_streamed_output, written_words
from ai8x.max7800x.simulator import Accelerator
from ai8x.network.ir import NETWORK_INPUT
from ai8x.network.reference import Trace

from .sketch import Case

LANES = 4
ALL_LANES = 0xFFFFFFFF

Words = dict[int, tuple[int, int]]
"""Address -> (mask of the bits that are known, their value)."""


def expected_words(case: Case, plan: LoweringPlan, trace: Trace) -> Words:
    """Data memory after an inference.

    The sample comes first. Every word that a layer writes is forgotten, then those that hold its output are known.
    """
    words = sample_words(case, plan)
    geometry = MAX78000.geometry
    for layer in plan.layers:
        if is_streamed_output(layer, plan.layers):
            continue
        for address in _addresses(layer):
            words.pop(address, None)
        for block in expected_blocks(MAX78000, [output_region(layer)], trace):
            for number, value in enumerate(block.values.tolist()):
                address = block.address + geometry.word_bytes * number
                mask, known = words.get(address, (0, 0))
                words[address] = mask | block.mask, (known & ~block.mask) | value
    return words


def sample_words(case: Case, plan: LoweringPlan) -> Words:
    """The sample as it lies in data memory, lanes without a channel 0; empty where it streams through a FIFO."""
    reader = next(layer for layer in plan.layers if NETWORK_INPUT in layer.layer.inputs)
    if reader.streaming:
        return {}
    pixels = np.asarray(case.sample).reshape(len(case.sample), -1).astype(np.uint8)
    processors = [bit for bit in range(MAX78000.processors) if reader.placement.processors >> bit & 1]
    words: Words = {}
    for channel, values in enumerate(pixels):
        turn, rank = divmod(channel, len(processors))
        numbers, lanes = _places(reader, turn, processors[rank], len(values))
        for number, lane, value in zip(numbers.tolist(), lanes.tolist(), values.tolist(), strict=True):
            address = MAX78000.geometry.data_address(processors[rank] // LANES, number)
            words[address] = ALL_LANES, words.get(address, (0, 0))[1] | value << 8 * lane
    return words


def _places(reader: HardwareLayer, turn: int, processor: int, num_pixels: int
            ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Word and byte lane of each pixel of a channel."""
    start, pixel = reader.placement.in_offset // LANES, np.arange(num_pixels)
    if reader.placement.data_format is DataFormat.CHW:
        return start + pixel // LANES, pixel % LANES
    operand = reader.layer.inputs.index(NETWORK_INPUT)
    number = start + (pixel * reader.passes + turn) * reader.operands + operand
    return number, np.full(num_pixels, processor % LANES)


def memory_difference(witness: str, plan: LoweringPlan, words: Mapping[int, tuple[int, int]],
                      accelerator: Accelerator) -> str:
    """What in data memory is not as sample and reference have it; empty if nothing is.

    Args:
        witness: who ran, for the text.
        plan: the network's layers.
        words: as `expected_words` returned them.
        accelerator: after the run.
    """
    return words_difference(witness, words, accelerator) or surplus_difference(witness, plan, words, accelerator)


def words_difference(witness: str, words: Mapping[int, tuple[int, int]], accelerator: Accelerator) -> str:
    """The first word of data memory that is not as expected."""
    for address, (mask, value) in words.items():
        found = accelerator.peek(address, 4) & mask
        if found != value:
            return f"{witness}: memory {address:#010x} & {mask:#010x} is {found:#010x}, expected {value:#010x}"
    return ""


def surplus_difference(witness: str, plan: LoweringPlan, words: Mapping[int, tuple[int, int]],
                       accelerator: Accelerator) -> str:
    """The first byte beside the outputs that a layer wrote and that is not as it must be.

    A layer writes whole words: lanes without an output channel are written, too. What is computed for them is 0,
    because weights that no channel has are loaded as 0; it may depend on data or biases that nobody wrote, never on
    weights that nobody wrote. Rows beyond the end of an image are left out: they are computed like those of the image.
    """
    owners = {address: layer for layer in plan.layers if not is_streamed_output(layer, plan.layers)
              for address in _addresses(layer)}
    for address, layer in owners.items():
        if layer.out_pixels != layer.layer.out_shape.height * layer.layer.out_shape.width:
            continue
        rest = ALL_LANES & ~words.get(address, (0, 0))[0]
        undefined = accelerator.undefined(address) & rest
        if accelerator.peek(address, 4) & rest & ~undefined:
            return f"{witness}: memory {address:#010x}: lanes without a channel are not 0"
        origin = accelerator.undefined_origin(address) if undefined else None
        if origin is not None and _is_mask(origin.address):
            return f"{witness}: memory {address:#010x} depends on weights that nobody wrote: {origin}"
    return ""


def _addresses(layer: HardwareLayer) -> list[int]:
    return [MAX78000.geometry.data_address(instance, word)
            for instance, word in np.argwhere(written_words(layer, MAX78000)).tolist()]


def _is_mask(address: int) -> bool:
    """Whether a bus address lies in a mask memory."""
    geometry = MAX78000.geometry
    offset = (address - geometry.register_base) % geometry.quadrant_stride
    first = geometry.mask_base - geometry.register_base
    return first <= offset < first + geometry.processors_per_quadrant * geometry.mask_stride
