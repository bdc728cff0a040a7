"""The Kendryte K210 as data: memories, KPU registers, layer argument, limits, clocks, measured rates.

Every number of the chip that more than one module needs stands here once. Knows nothing of networks or files.
Start at `K210`, `LAYER_ARGUMENT` and `map_lines`.

Source: spec/k210-kmodel.md sections 1, 2, 3, 4, 7 and 16.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.registers import Access, Field, Register, RegisterBlock, RegisterError

LINE_BYTES = 64
"""Bytes of one line of KPU RAM, the unit of every KPU address; section 2."""

BLOCK_BYTES = 12 * 8
"""Size of a layer argument: 12 words of 64 bits; section 3."""

TABLE_SEGMENTS = 16
"""Segments of an activation table; section 4.1."""

TABLE_BYTES = TABLE_SEGMENTS * 8 + TABLE_SEGMENTS
"""Size of an activation table: one 64-bit word and one bias byte for each segment; section 4.1."""

TABLE_MIN_START = -(1 << 35)
"""Mandatory start of segment 0, the least signed 36-bit number; section 4.1."""

TABLE_UNREACHABLE_START = 0x7_FFFF_FFF0
"""Start of the first unused segment; the following ones count up from it; section 4.1."""

UNCACHED_OFFSET = 0x4000_0000
"""A cached address minus this is the uncached alias of the same byte; section 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMap:
    """Addresses (cached view) and sizes in bytes. Source: section 1."""

    general_address: int = 0x8000_0000
    general_bytes: int = 6 * 1024 * 1024
    kpu_address: int = 0x8060_0000
    kpu_bytes: int = 2 * 1024 * 1024
    kpu_registers: int = 0x4080_0000

    @property
    def kpu_lines(self) -> int:
        """Lines of KPU RAM."""
        return self.kpu_bytes // LINE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class KpuLimits:
    """What one KPU layer may be. Inclusive bounds. Source: sections 3, 4.2 and 7.

    Args:
        max_width, max_height: what nncase and Maix-EMC accept; the register fields allow more (UNVERIFIED).
        advised_width, advised_height: largest map the vendor advertises.
        min_map: least width and height of a map, before and after pooling.
        max_weight_loads: the 6-bit field load_time.
        safe_load_bytes: bytes of one weight load that nncase never exceeds with 8-bit weights (double for 16 bit).
        buffer_bytes: the KPU's own weight buffer as deduced from Maix-EMC.
        buffer_slots_1x1: slots that eight 1x1 weights take in that buffer.
        max_fifo_map: largest height times width that can leave through the output FIFO.
        accumulator_bits: signed width that sums before and after batch normalisation must fit.
    """

    max_width: int = 512
    max_height: int = 256
    advised_width: int = 320
    advised_height: int = 240
    min_map: int = 4
    max_channels: int = 1024
    kernel_sizes: tuple[int, ...] = (1, 3)
    max_weight_loads: int = 64
    safe_load_bytes: int = 30_720
    buffer_bytes: int = 73_728
    buffer_slots_1x1: int = 9
    max_fifo_map: int = 65_536
    accumulator_bits: int = 36
    bn_mul_bits: int = 24
    bn_shift_max: int = 15
    bn_add_bits: int = 32
    table_mul_bits: int = 16
    table_start_bits: int = 36
    table_shift_max: int = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Alignment:
    """Alignment in bytes: what a writer uses, and the least that is seen in files which run. Source: section 4.1."""

    registers: int = 8
    weights: int = 128
    batch_norm: int = 128
    table: int = 256
    file: int = 256
    body: int = 8
    dma: int = 8
    least_weights: int = 8
    least_batch_norm: int = 8
    least_table: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyModel:
    """Constants of the fitted time of a layer; see `ai8x.k210.timing`. Source: section 16.1.

    Args:
        group_overhead: cycles beyond the rows for each input channel group, by kernel size.
        row_overhead: cycles for each output channel (dense) or group (depthwise).
        depthwise_overhead: further cycles of a depthwise group.
        layer_s: software overhead of a KPU layer.
        load_bytes_per_s: fetching weights.
        output_s, output_bytes_per_s: a main-memory result (two data points; low confidence).
        dequantize_s, quantized_add_s: per element on the CPU.
        upload_s: per byte from main memory to KPU RAM by the CPU (UNVERIFIED).
        input_bytes_per_s: input image by DMA.
    """

    group_overhead: Mapping[int, float]
    row_overhead: int = 24
    depthwise_overhead: int = 7
    layer_s: float = 6e-6
    load_bytes_per_s: float = 0.97e9
    output_s: float = 104e-6
    output_bytes_per_s: float = 270e6
    dequantize_s: float = 45e-9
    quantized_add_s: float = 50e-9
    upload_s: float = 66e-9
    input_bytes_per_s: float = 700e6


@dataclass(frozen=True, slots=True, kw_only=True)
class K210Device:
    """The chip.

    Args:
        cpu_clock_hz, kpu_clock_hz: nominal clocks.
        peak_mac_per_cycle: 64 convolvers of 3x3.
        micropython_bytes: general RAM that MaixPy leaves for a model (practical figure, section 7).
        c_program_bytes: the same for a bare C program.
    """

    name: str = "k210"
    memory: MemoryMap
    limits: KpuLimits
    alignment: Alignment
    latency: LatencyModel
    cpu_clock_hz: int = 400_000_000
    kpu_clock_hz: int = 400_000_000
    peak_mac_per_cycle: int = 576
    micropython_bytes: int = 3_500_000
    c_program_bytes: int = 5_500_000


K210 = K210Device(
    memory=MemoryMap(),
    limits=KpuLimits(),
    alignment=Alignment(),
    latency=LatencyModel(group_overhead={3: 7.0, 1: 3.25}),
)


def arbitrary_bytes(size: int, seed: int | None) -> NDArray[np.uint8]:
    """Contents of a memory at power-on: anything, but the same for the same seed; None for zeros."""
    if seed is None:
        return np.zeros(size, np.uint8)
    return np.frombuffer(np.random.default_rng(seed).bytes(size), np.uint8).copy()


# ---------------------------------------------------------------------------------------------- KPU RAM layout

def channels_per_line(width: int) -> int:
    """Channels that share a line in a map of this width (g). Source: section 2."""
    if width <= 16:
        return 4
    return 2 if width <= 32 else 1


def lines_per_row(width: int) -> int:
    """Consecutive lines that hold one row (rl). Source: section 2."""
    return 1 if width <= LINE_BYTES else -(-width // LINE_BYTES)


def channel_pitch(width: int) -> int:
    """Bytes from one channel to the next inside a line. Source: section 2."""
    return LINE_BYTES // channels_per_line(width)


def lines_per_group(height: int, width: int) -> int:
    """Lines from one group of channels to the next. Source: section 2."""
    return lines_per_row(width) * height


def channel_groups(channels: int, width: int) -> int:
    """Groups of channels in a map; the last may be partly filled."""
    return -(-channels // channels_per_line(width))


def map_lines(channels: int, height: int, width: int) -> int:
    """Lines that a map occupies in KPU RAM. Source: section 2."""
    return channel_groups(channels, width) * lines_per_group(height, width)


def element_offset(channel: int, row: int, column: int, *, height: int, width: int) -> int:
    """Bytes from the start of a map to one of its elements. Source: section 2."""
    shared = channels_per_line(width)
    return (
        channel // shared * lines_per_group(height, width) * LINE_BYTES
        + channel % shared * channel_pitch(width)
        + row * lines_per_row(width) * LINE_BYTES
        + column
    )


# ---------------------------------------------------------------------------------------------- weight loads

def buffered_bytes(channel_bytes: int, kernel_size: int) -> int:
    """Bytes of the weight buffer that one output channel's kernels take. Source: section 4.2."""
    if kernel_size == 1:
        return -(-channel_bytes // 8) * K210.limits.buffer_slots_1x1
    return channel_bytes


def channels_per_load(in_channels: int, out_channels: int, kernel_size: int, weight_bytes: int = 1) -> int:
    """Output channels in one weight load by the rule of nncase; 0 if not even one fits. Source: section 4.2.

    Args:
        in_channels: 1 for a depthwise layer gives its per-channel size; depthwise layers load everything at once.
        out_channels: upper bound of the result.
        kernel_size: 1 or 3.
        weight_bytes: 1, or 2 for 16-bit weights.
    """
    channel_bytes = kernel_size * kernel_size * in_channels * weight_bytes
    return min(out_channels, K210.limits.safe_load_bytes * weight_bytes // channel_bytes)


# ---------------------------------------------------------------------------------------------- pooling

@dataclass(frozen=True, slots=True, kw_only=True)
class PoolType:
    """One value of the field pool_type. Source: section 6.

    Args:
        code: value of the field.
        name: what it does.
        stride: rows and columns of the input for one of the output.
        operation: ``none``, ``max``, ``average`` or ``pick``.
        window: rows and columns combined.
        column: first column of a picked element.
    """

    code: int
    name: str
    operation: str
    window: int = 1
    stride: int = 1
    column: int = 0


POOL_TYPES: tuple[PoolType, ...] = (
    PoolType(code=0, name="none", operation="none"),
    PoolType(code=1, name="max 2x2", operation="max", window=2, stride=2),
    PoolType(code=2, name="average 2x2", operation="average", window=2, stride=2),
    PoolType(code=3, name="max 4x4", operation="max", window=4, stride=4),
    PoolType(code=4, name="average 4x4", operation="average", window=4, stride=4),
    PoolType(code=5, name="left top of 2x2", operation="pick", stride=2),
    PoolType(code=6, name="right top of 2x2", operation="pick", stride=2, column=1),
    PoolType(code=7, name="left top of 4x4", operation="pick", stride=4),
    PoolType(code=8, name="average 2x2, stride 1", operation="average", window=2),
    PoolType(code=9, name="max 2x2, stride 1", operation="max", window=2),
)
"""All defined pool types; the index is the code."""


# ---------------------------------------------------------------------------------------------- layer argument

def _word(index: int, name: str, fields: Sequence[Field], doc: str = "") -> Register:
    return Register(name=name, offset=8 * index, bits=64, stride=8, fields=tuple(fields), access=Access.WO, doc=doc,
                    source="section 3")


def _bits(name: str, low: int, high: int | None = None, doc: str = "", *, signed: bool = False) -> Field:
    return Field(name=name, low=low, high=low if high is None else high, doc=doc, signed=signed)


LAYER_ARGUMENT: tuple[Register, ...] = (
    _word(0, "INTERRUPT_ENABE", (
        _bits("int_en", 0, doc="raise calc_done at the end (set by the runner)"),
        _bits("ram_flag", 1, doc="0 in all known files"),
        _bits("full_add", 2, doc="only the sum of each output channel; UNVERIFIED"),
        _bits("depth_wise_layer", 3, doc="depthwise convolution"))),
    _word(1, "IMAGE_ADDR", (
        _bits("image_src_addr", 0, 14, "input line"),
        _bits("image_dst_addr", 32, 46, "output line"))),
    _word(2, "IMAGE_CHANNEL_NUM", (
        _bits("i_ch_num", 0, 9, "input channels minus one"),
        _bits("o_ch_num", 32, 41, "output channels minus one"),
        _bits("o_ch_num_coef", 48, 57, "output channels of a weight load minus one"))),
    _word(3, "IMAGE_SIZE", (
        _bits("i_row_wid", 0, 9, "input columns minus one"),
        _bits("i_col_high", 10, 18, "input rows minus one"),
        _bits("o_row_wid", 32, 41, "output columns minus one, after pooling"),
        _bits("o_col_high", 42, 50, "output rows minus one, after pooling"))),
    _word(4, "KERNEL_POOL_TYPE_CFG", (
        _bits("kernel_type", 0, 2, "0 = 1x1, 1 = 3x3"),
        _bits("pad_type", 3, doc="0 = constant; 1 UNVERIFIED"),
        _bits("pool_type", 4, 7, "see POOL_TYPES"),
        _bits("first_stride", 8, doc="UNVERIFIED, 0"),
        _bits("bypass_conv", 9, doc="UNVERIFIED, 0"),
        _bits("load_para", 10, doc="fetch batch norm parameters"),
        _bits("dma_burst_size", 16, 23, "15"),
        _bits("pad_value", 24, 31, "byte used outside the map"),
        _bits("bwsx_base_addr", 32, 63, "address of the batch norm array (set by the runner)"))),
    _word(5, "KERNEL_LOAD_CFG", (
        _bits("load_coor", 0, doc="fetch weights"),
        _bits("load_time", 1, 6, "weight loads minus one"),
        _bits("para_size", 15, 31, "bytes of a weight load"),
        _bits("para_start_addr", 32, 63, "address of the weights (set by the runner)"))),
    _word(6, "KERNEL_OFFSET", (
        _bits("coef_column_offset", 0, 3, "0"),
        _bits("coef_row_offset", 4, 15, "0"))),
    _word(7, "KERNEL_CALC_TYPE_CFG", (
        _bits("channel_switch_addr", 0, 14, "lines of an input channel group"),
        _bits("row_switch_addr", 16, 19, "lines of an input row"),
        _bits("coef_size", 20, 27, "0"),
        _bits("coef_group", 28, 30, "input channels of a line"),
        _bits("load_act", 31, doc="fetch the activation table"),
        _bits("active_addr", 32, 63, "address of the activation table (set by the runner)"))),
    _word(8, "WRITE_BACK_CFG", (
        _bits("wb_channel_switch_addr", 0, 14, "lines of an output channel group"),
        _bits("wb_row_switch_addr", 16, 19, "lines of an output row"),
        _bits("wb_group", 20, 22, "output channels of a line"))),
    _word(9, "CONV_VALUE", (
        _bits("shr_w", 0, 3, "right shift of the weight sum term"),
        _bits("shr_x", 4, 7, "right shift of the input sum term"),
        _bits("arg_w", 8, 31, "factor of the weight sum", signed=True),
        _bits("arg_x", 32, 55, "factor of the input sum", signed=True))),
    _word(10, "CONV_VALUE2", (
        _bits("arg_add", 0, 39, "added for every input channel", signed=True),)),
    _word(11, "DMA_PARAMETER", (
        _bits("send_data_out", 0, doc="also push the result into the output FIFO (set by the runner)"),
        _bits("channel_byte_num", 16, 31, "output rows times columns minus one"),
        _bits("dma_total_byte", 32, 63, "bytes of the result minus one"))),
)
"""The 12 words of a layer in the order in which they are pushed; offsets are those in a kmodel's register block."""

ADDRESS_FIELDS = ("bwsx_base_addr", "para_start_addr", "active_addr")
"""Fields that the runner overwrites with addresses; a file stores 0."""


def encode_layer_argument(fields: Mapping[str, int]) -> tuple[int, ...]:
    """The 12 words for these field values; fields not named are 0.

    Raises:
        RegisterError: unknown field, or a value that does not fit.
    """
    known = {field.name for word in LAYER_ARGUMENT for field in word.fields}
    if unknown := sorted(set(fields) - known):
        raise RegisterError(f"the layer argument has no field {', '.join(unknown)}")
    return tuple(
        word.encode(**{field.name: fields[field.name] for field in word.fields if field.name in fields})
        for word in LAYER_ARGUMENT
    )


def decode_layer_argument(words: Sequence[int]) -> dict[str, int]:
    """Field values of the 12 words, in the order of the words.

    Raises:
        RegisterError: not 12 words, or a reserved bit is set.
    """
    if len(words) != len(LAYER_ARGUMENT):
        raise RegisterError(f"a layer argument has {len(LAYER_ARGUMENT)} words, not {len(words)}")
    fields: dict[str, int] = {}
    for register, word in zip(LAYER_ARGUMENT, words, strict=True):
        fields.update(register.decode(word))
    return fields


# ---------------------------------------------------------------------------------------------- parameter words

BATCH_NORM_WORD = Register(
    name="BATCH_NORM", offset=0, bits=64, stride=8, count=1024, access=Access.RO, source="section 4.1",
    fields=(
        _bits("mul", 0, 23, signed=True),
        _bits("add", 24, 55, signed=True),
        _bits("shift", 56, 59)))
"""Batch norm parameters of one output channel, as the KPU fetches them."""

TABLE_WORD = Register(
    name="ACTIVATION_SEGMENT", offset=0, bits=64, stride=8, count=TABLE_SEGMENTS, access=Access.RO,
    source="section 4.1", fields=(
        _bits("shift", 0, 7),
        _bits("mul", 8, 23, signed=True),
        _bits("start", 24, 59, signed=True)))
"""One segment of the activation table; its bias byte follows after all 16 words."""


def encode_words(register: Register, values: Mapping[str, NDArray[Any]]) -> NDArray[np.uint64]:
    """One 64-bit word for each element of the field arrays.

    Args:
        register: `BATCH_NORM_WORD` or `TABLE_WORD`.
        values: field name -> integer array; all of one length.

    Raises:
        RegisterError: unknown field, or a value that does not fit.
    """
    words: NDArray[np.uint64] = np.zeros(max((len(v) for v in values.values()), default=0), np.uint64)
    for name, array in values.items():
        field = register.field(name)
        numbers = np.asarray(array, np.int64)
        if numbers.size and not (field.min <= numbers.min() and numbers.max() <= field.max):
            raise RegisterError(f"{register.name}.{name} = {numbers.min()} to {numbers.max()}: allowed are {field.min} "
                                f"to {field.max}")
        words |= (numbers.astype(np.uint64) << np.uint64(field.low)) & np.uint64(field.mask)
    return words


def decode_words(register: Register, words: NDArray[np.uint64]) -> dict[str, NDArray[np.int64]]:
    """Field name -> int64 array; the inverse of `encode_words`.

    Raises:
        RegisterError: a reserved bit is set.
    """
    reserved = np.bitwise_or.reduce(words & ~np.uint64(register.mask)) if len(words) else 0
    if reserved:
        raise RegisterError(f"{register.name}: reserved bits {int(reserved):#x} are set")
    fields: dict[str, NDArray[np.int64]] = {}
    for field in register.fields:
        numbers = ((words >> np.uint64(field.low)) & np.uint64((1 << field.width) - 1)).astype(np.int64)
        fields[field.name] = np.where(numbers > field.max, numbers - (1 << field.width), numbers)
    return fields


# ---------------------------------------------------------------------------------------------- KPU registers

def _interrupt_bits(doc: str) -> tuple[Field, ...]:
    return (_bits("calc_done", 0, doc=doc), _bits("layer_cfg_almost_empty", 1, doc=doc),
            _bits("layer_cfg_almost_full", 2, doc=doc))


KPU_REGISTERS = RegisterBlock(name="KPU", registers=(
    Register(name="LAYER_ARGUMENT_FIFO", offset=0x00, bits=64, stride=8, access=Access.WO, source="section 1.1",
             fields=(_bits("word", 0, 63),), doc="the 12 words of LAYER_ARGUMENT in order"),
    Register(name="INTERRUPT_STATUS", offset=0x08, bits=64, stride=8, access=Access.RO, source="section 1.1",
             fields=_interrupt_bits("raised and not masked")),
    Register(name="INTERRUPT_RAW", offset=0x10, bits=64, stride=8, access=Access.RO, source="section 1.1",
             fields=_interrupt_bits("raised")),
    Register(name="INTERRUPT_MASK", offset=0x18, bits=64, stride=8, source="section 1.1",
             fields=_interrupt_bits("1 = masked")),
    Register(name="INTERRUPT_CLEAR", offset=0x20, bits=64, stride=8, source="section 1.1", access=Access.WO,
             fields=_interrupt_bits("write 1")),
    Register(name="FIFO_THRESHOLD", offset=0x28, bits=64, stride=8, source="section 1.1",
             fields=(_bits("almost_full", 0, 3), _bits("almost_empty", 4, 7))),
    Register(name="FIFO_DATA_OUT", offset=0x30, bits=64, stride=8, access=Access.RO, source="section 1.1",
             fields=(_bits("data", 0, 63),), doc="8 bytes of result for each read"),
    Register(name="FIFO_CTRL", offset=0x38, bits=64, stride=8, source="section 1.1",
             fields=tuple(_bits(name, bit, doc="active-low flush")
                          for bit, name in enumerate(("dma", "gs", "cfg", "cmd", "resp")))),
    Register(name="EIGHT_BIT_MODE", offset=0x40, bits=64, stride=8, source="section 1.1",
             fields=(_bits("eight_bit_mode", 0, doc="1 = 8-bit weights, 0 = 16-bit"),)),
))
"""Registers at `MemoryMap.kpu_registers`."""
