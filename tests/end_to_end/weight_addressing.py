"""Which weight or bias a bit of ``weights.h`` is, decoded from the text and the specification alone.

Written a second time, without the packing code of the package, so that a fault in the text and the same change in the
network can be told to be the same by their results. For 8-bit weights on output maps without gaps that start at a
multiple of four processors, which is what digitsnet has.

Source: spec/max78000-cnn.md sections 1, 1.2, 2.2, 3.1, 3.2, 3.3, 3.6, 3.7.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ai8x.max7800x.program import Program
from ai8x.network.ir import Layer, Network

MASK_BASE, QUADRANT_STRIDE, PROCESSOR_STRIDE = 0x50180000, 0x400000, 0x4000
WORD_BYTES = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A number in the C text."""

    start: int
    digits: int
    value: int

    def replaced(self, text: str, value: int) -> str:
        """The text with another number in this place."""
        return f"{text[:self.start]}0x{value:0{self.digits}x}{text[self.start + 2 + self.digits:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A weight (out, in or feature, row, column), or a bias (channel,)."""

    layer: int
    index: tuple[int, ...]
    shift: int
    """Position of the fault's bit in the value's byte."""

    @property
    def is_bias(self) -> bool:
        """Whether it is a bias."""
        return len(self.index) == 1

    def value(self, network: Network) -> int:
        """Its value in a network."""
        array = self.array(network.layers[self.layer])
        return int(array[self.index])

    def flipped(self, network: Network) -> int:
        """Its value with the bit inverted, as int8."""
        byte = (self.value(network) & 0xFF) ^ (1 << self.shift)
        return byte - 256 if byte > 127 else byte

    def array(self, layer: Layer) -> Any:
        """The layer's weights or biases."""
        return layer.bias if self.is_bias else layer.weights


def tokens(text: str, macro: str) -> list[Token]:
    """The numbers of a ``#define NAME { ... }`` in order."""
    body = re.search(rf"#define {macro} \{{ \\\n(.*?)^\}}", text, re.DOTALL | re.MULTILINE)
    assert body, f"weights.h has no {macro}"
    return [Token(start=body.start(1) + m.start(), digits=len(m.group(1)), value=int(m.group(1), 16))
            for m in re.finditer(r"0x([0-9a-f]+)|\b(\d+),", body.group(1)) if m.group(1)]


def kernel_words(text: str) -> Iterator[tuple[int, int, Token]]:
    """(processor, number of the 32-bit word counted from the processor's mask word 0, token) of every data word.

    The second number is in bytes of the packed stream, so that chunks that start anywhere can be told apart.
    """
    body = re.search(r"#define KERNELS \{ \\\n(.*?)^\}", text, re.DOTALL | re.MULTILINE)
    assert body
    offset = body.start(1)
    numbers = list(re.finditer(r"0x([0-9a-f]{8})|(\d+)(?=,)", body.group(1)))
    position = 0
    while int(numbers[position].group(1), 16):
        address, count = int(numbers[position].group(1), 16), int(numbers[position + 1].group(2))
        quadrant, local = divmod(address - MASK_BASE, QUADRANT_STRIDE)
        processor, inside = divmod(local, PROCESSOR_STRIDE)
        for word in range(count):
            match = numbers[position + 2 + word]
            token = Token(start=offset + match.start(), digits=8, value=int(match.group(1), 16))
            yield 16 * quadrant + processor, inside // 4 * WORD_BYTES + 4 * word, token
        position += 2 + count
    assert position == len(numbers) - 1, "KERNELS ends with address 0"


def weight_at(network: Network, program: Program, processor: int, stream_byte: int, bit: int) -> Parameter | None:
    """The weight that a bit of a packed word belongs to; None for padding and unused lanes.

    Args:
        network: shapes.
        program: its register fields say where each layer's masks start.
        processor: whose memory.
        stream_byte: number of the word's first byte in the order in which bytes are sent (most significant first).
        bit: of the 32-bit word.
    """
    sent = stream_byte + 3 - bit // 8
    word, from_top = divmod(sent, WORD_BYTES)
    byte = word * WORD_BYTES + WORD_BYTES - 1 - from_top
    for layer in network.layers:
        place = _mask_place(program, layer, processor)
        if place is None:
            continue
        channel, first_byte, num_masks, taps = place
        mask, from_last = divmod(byte - first_byte, taps)
        if not 0 <= mask < num_masks:
            continue
        assert layer.conv is not None
        row, column = divmod(taps - 1 - from_last, layer.conv.kernel[1])
        if layer.flatten:
            pixels = layer.operand_shape.height * layer.operand_shape.width
            out, pixel = divmod(mask, pixels)
            channel = channel * pixels + pixel
        else:
            out = mask
        if out >= layer.out_shape.channels:
            return None
        return Parameter(layer=layer.index, index=(out, channel, row, column), shift=bit % 8)
    return None


def _mask_place(program: Program, layer: Layer, processor: int) -> tuple[int, int, int, int] | None:
    """(input channel, first stream byte, masks, taps) of a layer in a processor's memory; None if it has no share."""
    quadrant, local = divmod(processor, 16)
    fields = {w.register: w.fields for w in program.configure if (w.layer, w.quadrant) == (layer.index, quadrant)}
    enabled = {w.quadrant: w.fields.get("mask_en", 0) for w in program.configure
               if w.layer == layer.index and w.register == "EN"}
    if layer.conv is None or not enabled.get(quadrant, 0) >> local & 1:
        return None
    below = sum(bin(enabled.get(q, 0)).count("1") for q in range(quadrant))
    channel = below + bin(enabled[quadrant] & ((1 << local) - 1)).count("1")
    taps = layer.conv.kernel[0] * layer.conv.kernel[1]
    masks = fields.get("MCNT", {})  # registers that would be 0 are not written
    start, last = masks.get("sad", 0), masks.get("max", 0)
    first_byte = (start >> 3) * taps + fields.get("ONED", {}).get("oned_sad", 0)
    return channel, first_byte, (last - start) // 8 + 1, taps


def bias_at(network: Network, program: Program, quadrant: int, entry: int, bit: int) -> Parameter | None:
    """The bias that a bit of a BIAS array belongs to; None for a filler."""
    for layer in network.layers:
        for write in program.configure:
            if write.register != "POST" or (write.layer, write.quadrant) != (layer.index, quadrant):
                continue
            channel = entry - write.fields.get("bptr_sad", 0)
            if write.fields.get("bptr_en") and 0 <= channel < layer.out_shape.channels:
                return Parameter(layer=layer.index, index=(channel,), shift=bit)
    return None
