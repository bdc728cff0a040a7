"""The register program of a network: everything a firmware does to the accelerator, as data.

Owns the types between lowering and the C project, and the one order in which their writes reach the bus:
`Program.bus_writes` is what the generated C does, write for write, so a test can hold the compiled firmware
against it. Knows nothing of networks or of C. Start reading at `Program`; `lower.py` builds it, `codegen.py`
prints it.

Source: spec/max78000-cnn.md sections 1.1, 1.2, 2.1, 2.4, 3.6, 5.4, 5.5, 5.6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.max7800x.stored_sample import StoredSample

BusWrite = tuple[int, int, int]
"""(address, size in bytes, value) of one write to the accelerator."""

WORD_BYTES = 9
"""Bytes of one 72-bit mask-memory word."""

EXPRESS_SELECT = 1
"""Value, and distance from the chunk's address, of the byte that loads the express address counter (section 1.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerWrite:
    """A write to a chip register (not to the accelerator) that powers or clocks the accelerator.

    Args:
        address: absolute address.
        value: bits to set; only those of `mask` count.
        mask: bits that the write decides; the others keep their value.
        register: name, for comments.
        doc: what it does, in a few words.
    """

    address: int
    value: int
    mask: int
    register: str
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSetting:
    """Clock of the accelerator.

    Args:
        source: ``PCLK`` or ``ISO``.
        divider: 1, 2, 4, 8 or 16.
    """

    source: str = "PCLK"
    divider: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterWrite:
    """One 32-bit write to an accelerator register.

    Args:
        address: absolute address.
        value: the register word.
        register: name as in the device's table.
        fields: field values that are not 0; the word decodes to them.
        layer: layer index, None for global registers.
        quadrant: quadrant, None for registers that exist once.
    """

    address: int
    value: int
    register: str
    fields: Mapping[str, int]
    layer: int | None = None
    quadrant: int | None = None

    @property
    def bus_write(self) -> BusWrite:
        """The write as the bus sees it."""
        return self.address, 4, self.value


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelChunk:
    """Consecutive 72-bit words for the mask memory of one processor.

    Args:
        processor: 0 to 63.
        base: bus address of the processor's mask memory.
        word: first word.
        words: uint8 array (n, 9), most significant byte first.
        express: packed loading, otherwise four bus words per mask word.

    Source: spec/max78000-cnn.md sections 1.2 and 3.6.
    """

    processor: int
    base: int
    word: int
    words: NDArray[np.uint8]
    express: bool = True

    def __post_init__(self) -> None:
        _freeze(self.words)

    @property
    def address(self) -> int:
        """Bus address of the first 32-bit write."""
        return self.base + (4 if self.express else 16) * self.word

    @property
    def bus_words(self) -> NDArray[np.uint32]:
        """The 32-bit words written from `address` on."""
        return self._express_words() if self.express else self._plain_words()

    def _express_words(self) -> NDArray[np.uint32]:
        stream = self.words.reshape(-1)
        padded = np.zeros(-(-stream.size // 4) * 4, np.uint8)
        padded[: stream.size] = stream
        return padded.view(">u4").astype(np.uint32)

    def _plain_words(self) -> NDArray[np.uint32]:
        padded = np.zeros((len(self.words), 16), np.uint8)
        padded[:, 3:12] = self.words
        return padded.view(">u4").astype(np.uint32).reshape(-1)

    def bus_writes(self) -> Iterator[BusWrite]:
        """The loader's writes, the address byte of the express form included."""
        if self.express:
            yield self.address + EXPRESS_SELECT, 1, EXPRESS_SELECT
        yield from _word_writes(self.address, self.bus_words)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BiasBlock:
    """Bias bytes of one quadrant, from entry 0 on; each goes to its own 32-bit address.

    Args:
        quadrant: 0 to 3.
        address: bus address of entry 0.
        values: uint8 array, two's complement bytes.
    """

    quadrant: int
    address: int
    values: NDArray[np.uint8]

    def __post_init__(self) -> None:
        _freeze(self.values)

    def bus_writes(self) -> Iterator[BusWrite]:
        """One write per byte."""
        return _word_writes(self.address, self.values)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputBlock:
    """Sample data for one data-memory instance, or for one FIFO.

    Args:
        name: ``SAMPLE_INPUT_<p>``, p = first processor of the instance.
        processor: that processor.
        address: first bus address, or the FIFO's data register.
        words: uint32 array.
        fifo: number of the FIFO, None for data memory.
        full_bit: bit of the FIFO status that says "full"; 0 without FIFO.
        lanes: for a `StoredSample`: channels in the bytes of successive words, int array (steps, 4), -1 = no channel;
            the word after the last step starts again with the next pixels. None without.
    """

    name: str
    processor: int
    address: int
    words: NDArray[np.uint32]
    fifo: int | None = None
    full_bit: int = 0
    lanes: NDArray[np.int16] | None = None

    def __post_init__(self) -> None:
        _freeze(self.words)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpectedBlock:
    """Words that must hold in data memory afterwards: ``(memory & mask) == value``.

    Args:
        address: bus address of the first word.
        mask: bits that are compared, the same for every word.
        values: uint32 array, one per consecutive word.
    """

    address: int
    mask: int
    values: NDArray[np.uint32]

    def __post_init__(self) -> None:
        _freeze(self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearBlock:
    """Data memory that is filled with zeros before the first inference.

    Args:
        address: bus address of the first word.
        num_words: consecutive words.
    """

    address: int
    num_words: int

    def bus_writes(self) -> Iterator[BusWrite]:
        """One write per word."""
        return _word_writes(self.address, np.zeros(self.num_words, np.uint32))


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """Test and clearing of one kind of memory in every used quadrant.

    Args:
        memory: which, for comments.
        start: writes that start it.
        done: bits of the same register that are set when it has ended.
        failed: bits that are set if it failed.
        finish: writes that end it.

    Source: spec/max78000-cnn.md sections 2.1 and 9.2.
    """

    memory: str
    start: tuple[RegisterWrite, ...]
    done: int
    failed: int
    finish: tuple[RegisterWrite, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerCheck:
    """One step of running the network layer by layer: everything up to a layer, and what that layer must leave.

    Args:
        layer: index of the last layer that runs.
        limit: writes that make it the last one.
        expected: known answer of the layer.
    """

    layer: int
    limit: tuple[RegisterWrite, ...]
    expected: tuple[ExpectedBlock, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRegion:
    """Data memory that holds an output tensor; the form of one ``unload`` item of the network file.

    Args:
        processors: map of the processors whose memories hold it, one bit per channel of a pass.
        channels: number of channels.
        height: rows.
        width: columns.
        offset: byte offset in every instance.
        bits: 8 or 32 per value.
        write_gap: words skipped after every word.
        name: for comments.
        layer: layer index, None for an item of the network file.

    Source: spec/max78000-cnn.md sections 5.3 and 7.1.
    """

    processors: int
    channels: int
    height: int
    width: int
    offset: int
    bits: int = 8
    write_gap: int = 0
    name: str = ""
    layer: int | None = None

    @property
    def num_pixels(self) -> int:
        """Values of one channel."""
        return self.height * self.width

    @property
    def num_passes(self) -> int:
        """Passes over the processors."""
        return -(-self.channels // self.processors.bit_count())

    @property
    def pass_words(self) -> int:
        """Words from one pass of a pixel to the next."""
        return self.bits // 8 * (self.write_gap + 1)

    @property
    def pixel_words(self) -> int:
        """Words from one pixel to the next."""
        return self.num_passes * self.pass_words


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadGroup:
    """Up to four channels that one data-memory instance holds side by side.

    Args:
        address: bus address of the first pixel's word (lane 0).
        lanes: bit n set = lane n holds a channel.
        channel: number of the channel in the lowest lane; the next lanes follow.
    """

    address: int
    lanes: int
    channel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnloadItem:
    """One output tensor: where its values lie and where in the buffer they go.

    The values arrive in channel, row, column order: one byte each, or one 32-bit word each for a wide output.

    Args:
        name: layer name, or ``unload<n>`` for a region the network file names.
        layer: layer index, None for such a region.
        channels: number of channels.
        height: rows.
        width: columns.
        bits: 8 or 32 per value.
        pixel_step: bytes from one pixel of a channel to the next.
        groups: ascending channels.
        offset: byte offset in the buffer, a multiple of 4.
    """

    name: str
    layer: int | None
    channels: int
    height: int
    width: int
    bits: int
    pixel_step: int
    groups: tuple[UnloadGroup, ...]
    offset: int

    @property
    def num_values(self) -> int:
        """Values of the tensor."""
        return self.channels * self.height * self.width

    @property
    def size_bytes(self) -> int:
        """Bytes used in the buffer, rounded up to whole words."""
        return -(-self.num_values * self.bits // 32) * 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Program:
    """Everything the firmware does, in phases; see `bus_writes` for their order.

    Args:
        enable: power and clock switched on.
        init: global registers.
        load_weights: mask memory.
        load_bias: bias memory.
        configure: per-layer registers, stream registers, FIFO control.
        load_input: sample; before `start` into data memory, after it through FIFOs.
        start: control registers; the last write starts the first quadrant.
        acknowledge: what the interrupt handler writes.
        expected: known answer.
        unload: outputs in buffer order.
        disable: power switched off.
        clock: clock that `enable` selects.
        quadrants: quadrants used, ascending; the first one starts the others.
        fifo_status: address of the status register of the FIFOs in use; see `InputBlock.full_bit`.
        self_tests: memory tests of the initialisation, in order.
        clear: data memory that starts with zeros: the rolling buffer.
        stop_start: stops and continues every inference right after its start; empty or two writes.
        layer_checks: inferences of the first layers only, before the whole one.
        stored_sample: what `load_input` is made from; None where all its words are stored.
    """

    enable: tuple[PowerWrite, ...] = ()
    init: tuple[RegisterWrite, ...] = ()
    load_weights: tuple[KernelChunk, ...] = ()
    load_bias: tuple[BiasBlock, ...] = ()
    configure: tuple[RegisterWrite, ...] = ()
    load_input: tuple[InputBlock, ...] = ()
    start: tuple[RegisterWrite, ...] = ()
    acknowledge: tuple[RegisterWrite, ...] = ()
    expected: tuple[ExpectedBlock, ...] = ()
    unload: tuple[UnloadItem, ...] = ()
    disable: tuple[PowerWrite, ...] = ()
    clock: ClockSetting = ClockSetting()
    quadrants: tuple[int, ...] = (0,)
    fifo_status: int = 0
    self_tests: tuple[SelfTest, ...] = ()
    clear: tuple[ClearBlock, ...] = ()
    stop_start: tuple[RegisterWrite, ...] = ()
    layer_checks: tuple[LayerCheck, ...] = ()
    stored_sample: StoredSample | None = None

    @property
    def uses_fifo(self) -> bool:
        """Whether the sample goes through FIFOs, after the start."""
        return any(block.fifo is not None for block in self.load_input)

    @property
    def output_bytes(self) -> int:
        """Size of the buffer that holds all outputs."""
        return max((item.offset + item.size_bytes for item in self.unload), default=0)

    @property
    def power_writes(self) -> tuple[PowerWrite, ...]:
        """Chip registers written before the accelerator can be reached."""
        return self.enable

    def input_writes(self) -> Iterator[BusWrite]:
        """The sample: block after block into memory, or one word per FIFO in turn."""
        if not self.uses_fifo:
            for block in self.load_input:
                yield from _word_writes(block.address, block.words)
            return
        for position in range(max(len(block.words) for block in self.load_input)):
            for block in self.load_input:
                if position < len(block.words):
                    yield block.address, 4, int(block.words[position])

    def setup_writes(self) -> Iterator[BusWrite]:
        """Everything before the first inference."""
        yield from (write.bus_write for write in self.init)
        for test in self.self_tests:
            yield from (write.bus_write for write in (*test.start, *test.finish))
        yield from chain.from_iterable(chunk.bus_writes() for chunk in self.load_weights)
        yield from chain.from_iterable(block.bus_writes() for block in self.load_bias)
        yield from (write.bus_write for write in self.configure)
        yield from self.clear_writes()

    def clear_writes(self) -> Iterator[BusWrite]:
        """Zeros for the memory that carries data from one inference to the next."""
        return chain.from_iterable(block.bus_writes() for block in self.clear)

    def inference_writes(self, *, acknowledge: bool = True) -> Iterator[BusWrite]:
        """Input and start of one inference, in the order that the input path demands.

        Args:
            acknowledge: include what the interrupt handler writes after completion.
        """
        starts = [write.bus_write for write in (*self.start, *self.stop_start)]
        if self.uses_fifo:
            yield from starts
            yield from self.input_writes()
        else:
            yield from self.input_writes()
            yield from starts
        if acknowledge:
            yield from (write.bus_write for write in self.acknowledge)

    def bus_writes(self, *, acknowledge: bool = True) -> Iterator[BusWrite]:
        """Every write to the accelerator up to the end of the first whole inference, as the compiled firmware does.

        Args:
            acknowledge: include what the interrupt handler writes after completion.

        Yields:
            (address, size in bytes, value).
        """
        yield from self.setup_writes()
        for check in self.layer_checks:
            yield from (write.bus_write for write in check.limit)
            yield from self.clear_writes()
            yield from self.inference_writes()
        if self.layer_checks:
            yield from (write.bus_write for write in self.last_layer)
            yield from self.clear_writes()
        yield from self.inference_writes(acknowledge=acknowledge)

    @property
    def last_layer(self) -> tuple[RegisterWrite, ...]:
        """The initialisation's writes that set the number of layers."""
        return tuple(write for write in self.init if write.register == "LCNT_MAX")


def _word_writes(address: int, words: NDArray[Any]) -> Iterator[BusWrite]:
    for position, word in enumerate(words.tolist()):
        yield address + 4 * position, 4, word


def _freeze(array: NDArray[Any]) -> None:
    array.setflags(write=False)
