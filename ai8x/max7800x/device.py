"""The MAX78000 accelerator as data: memory map, limits and register tables.

Owns every hardware constant of the chip; lowering, constraints, simulator and manual read it from here. Knows
nothing of networks. Start reading at `MAX78000`, then `LAYER_REGISTERS` and `GLOBAL_REGISTERS`.

Source: spec/max78000-cnn.md; section numbers are given with each entry. "UNVERIFIED" marks facts that neither a
recorded project nor silicon has confirmed.
"""

from __future__ import annotations

from dataclasses import dataclass

from ai8x.registers import Access, Field, Register, RegisterBlock

_RO = Access.RO
_WO = Access.WO
_LAYERS = 32
_STREAMS = 8
_POINTER_BITS = 17


def _value(high: int, doc: str) -> tuple[Field, ...]:
    """Fields of a register that holds one number."""
    return (Field(name="value", low=0, high=high, doc=doc),)


def _pointer(doc: str) -> tuple[Field, ...]:
    """Fields of a register that holds a word pointer."""
    return _value(_POINTER_BITS - 1, doc)


def _flag(name: str, bit: int, doc: str) -> Field:
    return Field(name=name, low=bit, high=bit, doc=doc)


def _layer(name: str, offset: int, fields: tuple[Field, ...], doc: str) -> Register:
    """A row of per-layer registers."""
    return Register(name=name, offset=offset, fields=fields, count=_LAYERS, doc=doc, source="section 2.2")


def _stream(name: str, offset: int, fields: tuple[Field, ...], doc: str) -> Register:
    """A row of per-stream registers; stream z belongs to layer z."""
    return Register(name=name, offset=offset, fields=fields, count=_STREAMS, doc=doc, source="section 2.3")


CTRL = Register(name="CTRL", offset=0x000, doc="quadrant control", source="section 2.1", fields=(
    _flag("cnn_en", 0, "start; must be 0 before it is set again"),
    Field(name="rdy_sel", low=1, high=2, doc="APB wait states"),
    _flag("clk_en", 3, "clock enable, always 1"),
    _flag("calcmax", 4, "global max pooling, or external ready; UNVERIFIED, written 0"),
    _flag("pool_en", 5, "global pooling; written 0, the layers' own bits are used"),
    _flag("bigdata", 6, "global CHW input; written 0, the layers' own bits are used"),
    _flag("apbclk_en", 7, "keep the APB clock on"),
    _flag("oneshot", 8, "one layer per start; UNVERIFIED"),
    Field(name="ext_sync", low=9, high=11, doc="bit 11: follow another quadrant, bits 10:9: which"),
    _flag("cnn_irq", 12, "completion flag, set by hardware, cleared by writing 0"),
    _flag("poolrnd", 13, "round average pooling"),
    _flag("stream_en", 14, "streaming mode"),
    _flag("fifo_en", 15, "input of layer 0 comes from the FIFO"),
    _flag("mlat_ld", 16, "load the mlator address"),
    Field(name="mlatch_sel", low=17, high=18, doc="mlator byte lane"),
    _flag("lilbuf", 19, "circular buffers for streaming reads"),
    _flag("mexpress", 20, "packed mask loading"),
    _flag("simple1b", 21, "XOR logic for 1-bit weights; UNVERIFIED"),
    _flag("ffifo_en", 22, "fast FIFO enable"),
    _flag("fifogrp", 23, "fast FIFO bytes go to processors 0 to 3"),
    Field(name="fclk_dly", low=24, high=29, doc="FIFO clock delay"),
    _flag("timeshft", 30, "pooling wait state"),
    _flag("qupac", 31, "quad mode"),
))
SRAM = Register(name="SRAM", offset=0x004, doc="memory timing and power", source="section 2.1", fields=(
    _flag("extacc", 0, "extended access time"),
    _flag("rmargin_en", 1, "read margin enable"),
    Field(name="rmargin", low=2, high=5, doc="read margin"),
    Field(name="ra", low=6, high=7, doc="read assist"),
    Field(name="wneg_vol", low=8, high=9, doc="write negative voltage"),
    _flag("wneg_en", 10, "write negative voltage enable"),
    Field(name="wpulse", low=11, high=13, doc="write pulse width"),
    _flag("deep_sleep", 15, "deep sleep of all memories"),
    _flag("power_down", 16, "power down of all memories"),
    _flag("light_sleep_data", 19, "light sleep of the data memory"),
    _flag("light_sleep_mask", 20, "light sleep of the mask memory"),
    _flag("light_sleep_tram", 21, "light sleep of the TRAM"),
    _flag("light_sleep_bias", 22, "light sleep of the bias memory"),
))
LCNT_MAX = Register(name="LCNT_MAX", offset=0x008, doc="layers to run", source="section 2.1", fields=(
    Field(name="max", low=0, high=4, doc="index of the last layer"),
    Field(name="start", low=8, high=15, doc="index of the first layer; 0 on this chip"),
))
_MEMORIES = ("data", "mask", "tram", "bias")
TEST = Register(name="TEST", offset=0x00C, doc="memory self test and clearing", source="section 2.1", fields=(
    *(field for i, memory in enumerate(_MEMORIES) for field in (
        _flag(f"run_{memory}", 2 * i, f"start the self test of the {memory} memory"),
        _flag(f"zero_{memory}", 2 * i + 1, f"start clearing the {memory} memory"))),
    *(_flag(f"fail_{memory}", 14 + i, f"{memory} memory: self test failed") for i, memory in enumerate(_MEMORIES)),
    *(_flag(f"run_done_{memory}", 18 + i, f"{memory} memory: self test ended") for i, memory in enumerate(_MEMORIES)),
    *(_flag(f"zero_done_{memory}", 22 + i, f"{memory} memory: clearing ended") for i, memory in enumerate(_MEMORIES)),
    _flag("any_fail", 26, "a self test failed"),
    _flag("run_complete", 27, "self tests ended"),
    _flag("zero_complete", 28, "clearing ended"),
))
IFRM = Register(name="IFRM", offset=0x990, doc="input frame size", source="section 2.1", fields=(
    Field(name="value", low=0, high=19, doc="FIFO words of one frame (user guide: 17 bits, reference: 20)"),))
MLAT = Register(name="MLAT", offset=0x1000, access=_RO, doc="mlator read port", source="section 5.5",
                fields=_value(31, "four consecutive pixels of one lane"))

RCNT = _layer("RCNT", 0x010, (
    Field(name="max", low=0, high=9, doc="rows - 1 + 2 * pad"),
    Field(name="pad", low=16, high=17, doc="rows of zeros above and below"),
), "row count")
CCNT = _layer("CCNT", 0x090, (
    Field(name="max", low=0, high=9, doc="columns - 1 + 2 * pad"),
    Field(name="pad", low=16, high=17, doc="columns of zeros left and right"),
), "column count")
ONED = _layer("ONED", 0x110, (
    Field(name="tscnt_max", low=0, high=3, doc="pass layers: instances per quadrant - 1"),
    Field(name="oned_sad", low=4, high=7, doc="first byte within the kernel's byte group"),
    Field(name="oned_width", low=8, high=11, doc="taps of a 1-D kernel, 1 for 1x1, 0 for 3x3"),
    _flag("oned_en", 12, "1-D convolution"),
    _flag("ewise_en", 13, "element-wise operation"),
    Field(name="ewise_func", low=14, high=15, doc="0 subtract, 1 add, 2 or, 3 xor"),
    _flag("prepool", 16, "pool before the element-wise operation"),
    _flag("2d_conv", 17, "convolve the element-wise result"),
    Field(name="ewise_cnt", low=18, high=21, doc="operands - 1"),
), "1-D and element-wise control")
PRCNT = _layer("PRCNT", 0x190, _value(3, "pool window rows - 1"), "pool rows")
PCCNT = _layer("PCCNT", 0x210, _value(3, "pool window columns - 1"), "pool columns")
STRIDE = _layer("STRIDE", 0x290, _value(3, "stride - 1"), "pool stride")
WPTR_BASE = _layer("WPTR_BASE", 0x310, _pointer("instance << 13 | word"), "write pointer")
WPTR_TOFF = _layer("WPTR_TOFF", 0x390, _pointer("step between time slots"), "write pointer: time slot offset")
WPTR_MOFF = _layer("WPTR_MOFF", 0x410, _pointer("step between instances"), "write pointer: mask offset")
WPTR_CHOFF = _layer("WPTR_CHOFF", 0x490, _pointer("step between output passes"), "write pointer: channel offset")
RPTR_BASE = _layer("RPTR_BASE", 0x510, _pointer("word offset in the processor's own instance"), "read pointer")
LCTRL0 = _layer("LCTRL0", 0x590, (
    Field(name="sslave", low=0, high=3, doc="always 0"),
    _flag("mslave", 4, "always 0"),
    _flag("master", 5, "always 1"),
    _flag("parallel", 6, "CHW input"),
    _flag("pool_en", 7, "pool window larger than 1x1"),
    _flag("maxpl_en", 8, "maximum pooling; 0 average pooling"),
    _flag("act_en", 9, "ReLU"),
    _flag("cpad_only", 10, "always 0"),
    _flag("sramlsrc", 11, "output by the write pointer; always 1"),
    Field(name="cnnsi_en", low=12, high=15, doc="quadrants whose sums (or bias) the first quadrant adds"),
    _flag("bigdwrt", 16, "32-bit output"),
), "layer control")
MCNT = _layer("MCNT", 0x610, (
    Field(name="max", low=0, high=15, doc="address of the last mask, in 1/8 masks"),
    Field(name="sad", low=16, high=31, doc="address of the first mask, in 1/8 masks"),
), "mask count")
TPTR = _layer("TPTR", 0x690, (
    Field(name="max", low=0, high=15, doc="last TRAM entry"),
    Field(name="sad", low=16, high=31, doc="first TRAM entry"),
), "TRAM pointer")
EN = _layer("EN", 0x710, (
    Field(name="pro_en", low=0, high=15, doc="enabled processors of the quadrant"),
    Field(name="mask_en", low=16, high=31, doc="processors that read masks"),
), "processor enable")
POST = _layer("POST", 0x790, (
    Field(name="bptr_sad", low=0, high=11, doc="first bias entry"),
    _flag("bptr_en", 12, "bias enable"),
    Field(name="scale_reg", low=13, high=16, doc="magnitude of the output shift"),
    _flag("scale_shft", 17, "1 shifts right, 0 left"),
    Field(name="xpmp_cnt", low=18, high=21, doc="flatten: high bits of the pass count"),
    Field(name="mask_size", low=22, high=23, doc="0: 8-bit weights, 1: 1, 2: 2, 3: 4"),
    _flag("ts_en", 24, "pass layer"),
    _flag("onexone_en", 25, "pass layer without element-wise operation"),
    _flag("out_abs", 26, "absolute value, before ReLU in priority"),
    _flag("flatten_en", 27, "flatten with 17 or more positions"),
    _flag("deconv_en", 28, "transposed convolution"),
), "post processing")
STRM0 = _stream("STRM0", 0x810, (
    Field(name="start", low=0, high=13, doc="input words before the layer starts"),), "stream start")
STRM1 = _stream("STRM1", 0x890, (
    Field(name="invol", low=0, high=3, doc="input passes of all earlier layers"),
    Field(name="delta1", low=4, high=8, doc="input words between two columns"),
    Field(name="delta2", low=16, high=27, doc="input words between two rows"),
), "stream deltas")
FBUF = _stream("FBUF", 0x910, (
    Field(name="rollover", low=0, high=16, doc="words of the layer's circular input buffer"),), "stream buffer")
LCTRL1 = _layer("LCTRL1", 0xA10, (
    Field(name="inpchexp", low=0, high=3, doc="input passes - 1"),
    Field(name="wptr_inc", low=4, high=7, doc="write pointer step per pixel - 1"),
    Field(name="xpch_max", low=8, high=16, doc="address span of the masks of one output pass"),
), "layer control 1")

GLOBAL_REGISTERS = (CTRL, SRAM, LCNT_MAX, TEST, IFRM, MLAT)
"""Registers that a quadrant has once (section 2.1)."""

LAYER_REGISTERS = (RCNT, CCNT, ONED, PRCNT, PCCNT, STRIDE, WPTR_BASE, WPTR_TOFF, WPTR_MOFF, WPTR_CHOFF, RPTR_BASE,
                   LCTRL0, MCNT, TPTR, EN, POST, LCTRL1)
"""Registers that a quadrant has once per layer (section 2.2)."""

STREAM_REGISTERS = (STRM0, STRM1, FBUF)
"""Registers that a quadrant has once per stream (section 2.3)."""

QUADRANT_BLOCK = RegisterBlock(name="CNNx16", registers=GLOBAL_REGISTERS + LAYER_REGISTERS + STREAM_REGISTERS)
"""All registers of one quadrant, at `Geometry.register_base`."""

FIFO_CTRL = Register(name="FIFO_CTRL", offset=0x0, doc="FIFO control", source="section 2.1", fields=(
    Field(name="rdy_sel", low=0, high=1, doc="APB wait states"),
    Field(name="almost_full", low=2, high=4, doc="almost-full threshold"),
    Field(name="almost_empty", low=7, high=9, doc="almost-empty threshold"),
    _flag("couple", 11, "couple the FIFOs"),
    Field(name="enable", low=12, high=15, doc="one bit per FIFO"),
    Field(name="irq_enable", low=16, high=31, doc="interrupt enables; UNVERIFIED, written 0"),
))
FIFO_STATUS = Register(name="FIFO_STATUS", offset=0x4, access=_RO, doc="FIFO status", source="section 2.1", fields=(
    Field(name="full", low=0, high=3, doc="one bit per FIFO"),
    Field(name="empty", low=4, high=7, doc="one bit per FIFO"),
    Field(name="almost_full", low=8, high=11, doc="one bit per FIFO"),
    Field(name="almost_empty", low=12, high=15, doc="one bit per FIFO"),
))
FIFO_DATA = Register(name="FIFO_DATA", offset=0x8, access=_WO, count=4, doc="input word of FIFO f", source="section 1",
                     fields=_value(31, "four bytes, lane 0 first"))
FIFO_BLOCK = RegisterBlock(name="FIFO", registers=(FIFO_CTRL, FIFO_STATUS, FIFO_DATA))

AOD_CTRL = Register(name="AOD_CTRL", offset=0x0, doc="always-on control", source="section 2.1", fields=(
    Field(name="rdy_sel", low=0, high=1, doc="APB wait states"),
    Field(name="deep_sleep", low=8, high=11, doc="mask memory deep sleep, one bit per quadrant"),
    Field(name="mask_off", low=12, high=15, doc="mask memory off, one bit per quadrant"),
    Field(name="read_margin", low=16, high=19, doc="read margin"),
))
AOD_BLOCK = RegisterBlock(name="AOD", registers=(AOD_CTRL,))

FAST_FIFO_CR = Register(name="FAST_FIFO_CR", offset=0x0, doc="fast FIFO control", source="section 2.1", fields=(
    Field(name="threshold", low=4, high=7, doc="threshold; 10 is used"),))
FAST_FIFO_SR = Register(name="FAST_FIFO_SR", offset=0x4, access=_RO, doc="fast FIFO status", source="section 2.1",
                        fields=(_flag("full", 1, "poll before each write to DR"),))
FAST_FIFO_IE = Register(name="FAST_FIFO_IE", offset=0x8, doc="interrupt enables; written 0", source="section 2.1",
                        fields=_value(31, "UNVERIFIED bits"))
FAST_FIFO_IS = Register(name="FAST_FIFO_IS", offset=0xC, doc="interrupt status", source="section 1",
                        fields=_value(31, "UNVERIFIED bits"))
FAST_FIFO_DR = Register(name="FAST_FIFO_DR", offset=0x10, access=_WO, doc="input word", source="section 1",
                        fields=_value(31, "four bytes, lane 0 first"))
FAST_FIFO_DMA = Register(name="FAST_FIFO_DMA", offset=0x14, doc="DMA control; not used", source="section 1",
                         fields=_value(31, "UNVERIFIED bits"))
FAST_FIFO_BLOCK = RegisterBlock(name="FAST_FIFO", registers=(FAST_FIFO_CR, FAST_FIFO_SR, FAST_FIFO_IE, FAST_FIFO_IS,
                                                             FAST_FIFO_DR, FAST_FIFO_DMA))

GCFR_REG0 = Register(name="GCFR_REG0", offset=0x0, doc="power enable", source="section 1.1",
                     fields=_value(3, "one bit per quadrant"))
GCFR_REG1 = Register(name="GCFR_REG1", offset=0x4, doc="mask memory power enable", source="section 1.1",
                     fields=_value(3, "one bit per quadrant"))
GCFR_REG2 = Register(name="GCFR_REG2", offset=0x8, doc="isolation", source="section 1.1",
                     fields=_value(3, "one bit per quadrant, 1 isolated"))
GCFR_REG3 = Register(name="GCFR_REG3", offset=0xC, doc="reset", source="section 1.1",
                     fields=_value(3, "one bit per quadrant, 1 in reset"))
GCFR_BLOCK = RegisterBlock(name="GCFR", registers=(GCFR_REG0, GCFR_REG1, GCFR_REG2, GCFR_REG3))

GCR_RST0 = Register(name="GCR_RST0", offset=0x4, access=_WO, doc="peripheral reset (other bits: other peripherals)",
                    source="spec/virtual-boards.md section 6", fields=(_flag("cnn", 25, "1 resets the accelerator"),))
GCR_PCLKDIV = Register(name="GCR_PCLKDIV", offset=0x18, doc="peripheral clock dividers (other bits: other peripherals)",
                       source="section 1.1", fields=(
    Field(name="cnnclkdiv", low=14, high=16, doc="0 /2, 1 /4, 2 /8, 3 /16, 4 /1"),
    _flag("cnnclksel", 17, "0 PCLK, 1 ISO"),
))
GCR_PCLKDIS0 = Register(name="GCR_PCLKDIS0", offset=0x24, source="section 1.1",
                        doc="peripheral clock disable (other bits: other peripherals)",
                        fields=(_flag("cnn", 25, "1 stops the accelerator's clock"),))
GCR_BLOCK = RegisterBlock(name="GCR", registers=(GCR_RST0, GCR_PCLKDIV, GCR_PCLKDIS0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Where things lie on the bus and how large they are.

    Units: addresses and strides in bytes; ``*_words`` and ``*_entries`` in elements of the named memory.

    Source: section 1.
    """

    num_quadrants: int = 4
    num_processors: int = 64
    processors_per_quadrant: int = 16
    processors_per_instance: int = 4
    num_instances: int = 16
    instances_per_quadrant: int = 4

    fifo_base: int = 0x50000000
    num_fifos: int = 4
    aod_base: int = 0x50001000
    fast_fifo_base: int = 0x400C0400
    gcfr_base: int = 0x40005800
    gcr_base: int = 0x40000000

    quadrant_stride: int = 0x400000
    register_base: int = 0x50100000
    bias_base: int = 0x50108000
    bias_entries: int = 512
    tram_base: int = 0x50110000
    tram_stride: int = 0x4000
    tram_entries: int = 3072
    mask_base: int = 0x50180000
    mask_stride: int = 0x4000
    mask_words: int = 768
    mask_word_bytes: int = 9
    mask_word_span: int = 16
    data_base: int = 0x50400000
    data_stride: int = 0x8000
    data_words: int = 8192
    word_bytes: int = 4

    pointer_bits: int = _POINTER_BITS
    pointer_instance_shift: int = 13
    express_address_byte: int = 1
    express_word_span: int = 4
    window_base: int = 0x50000000
    window_end: int = 0x51400000

    def quadrant_registers(self, quadrant: int) -> int:
        """Base address of a quadrant's registers."""
        return self.register_base + quadrant * self.quadrant_stride

    def data_address(self, instance: int, word: int = 0) -> int:
        """Bus address of a data word; `instance` 0 to 15 counts through the quadrants."""
        quadrant, local = divmod(instance, self.instances_per_quadrant)
        return self.data_base + quadrant * self.quadrant_stride + local * self.data_stride + word * self.word_bytes

    def mask_address(self, processor: int) -> int:
        """Bus address of the mask memory of processor 0 to 63."""
        quadrant, local = divmod(processor, self.processors_per_quadrant)
        return self.mask_base + quadrant * self.quadrant_stride + local * self.mask_stride

    def tram_address(self, processor: int, entry: int = 0) -> int:
        """Bus address of a TRAM entry of processor 0 to 63."""
        quadrant, local = divmod(processor, self.processors_per_quadrant)
        return self.tram_base + quadrant * self.quadrant_stride + local * self.tram_stride + entry * self.word_bytes

    def bias_address(self, quadrant: int, entry: int = 0) -> int:
        """Bus address of a bias entry."""
        return self.bias_base + quadrant * self.quadrant_stride + entry * self.word_bytes

    def fifo_data_address(self, fifo: int) -> int:
        """Bus address that feeds a FIFO."""
        return FIFO_DATA.address(self.fifo_base, fifo)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Greatest (or allowed) values that a network may use.

    Source: sections 4 and 6; the number is named with each group where it is not 6.1.
    """

    max_layers: int = _LAYERS
    max_stream_layers: int = _STREAMS
    max_channels: int = 1024
    max_passes: int = 16
    max_rows: int = 1023
    max_columns: int = 1023
    max_count: int = 1023
    max_frame_words: int = (1 << 21) - 1
    conv2d_kernels: tuple[tuple[int, int], ...] = ((1, 1), (3, 3))
    max_conv1d_kernel: int = 9
    max_conv1d_span: int = 9
    max_conv1d_2d_kernel: int = 3
    max_dilation: int = 1023
    transposed_kernel: tuple[int, int] = (3, 3)
    transposed_stride: int = 2
    transposed_output_pad: int = 1
    max_pad: int = 2
    max_pool: int = 16
    max_stride: int = 16
    weight_bits: tuple[int, ...] = (1, 2, 4, 8)
    data_bits: int = 8
    bias_bits: int = 8
    bias_shift: int = 7
    accumulator_bits: int = 26
    output_bits: tuple[int, ...] = (8, 32)
    min_shift: int = -15
    max_shift: int = 15
    min_operands: int = 2
    max_operands: int = 16
    max_operands_pool_after: int = 2
    max_flatten_pixels: int = 256
    max_flatten_features: int = 16384
    min_long_flatten: int = 16
    """Last pass number (section 2.2, N) from which flatten_en is needed."""
    max_bias_outputs: int = 512
    mask_alignment_words: int = 4
    max_write_increment: int = 16
    max_write_offset: int = 0x1FFFF
    fifo_hwc_channels: int = 16
    fifo_chw_channels: int = 4
    fast_fifo_hwc_channels: int = 4
    fast_fifo_chw_channels: int = 1
    max_stream_tram: int = (1 << 12) - 1
    stream_start_extra: int = 2
    stream_chw_buffer: int = 12
    min_last_stream_pad: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupts:
    """External interrupt numbers.

    Source: section 1.1.
    """

    cnn_arm: int = 101
    cnn_fifo_arm: int = 100
    cnn_riscv: int = 57
    cnn_fifo_riscv: int = 56
    vector_offset_arm: int = 0x1D4


@dataclass(frozen=True, slots=True, kw_only=True)
class Max7800x:
    """One chip of the family.

    Args:
        name: lower case, as in folders and messages.
        geometry: memory map and sizes.
        limits: what a network may use.
        interrupts: numbers on both processors.
        quadrant: registers of one quadrant.
        fifo: registers of the input FIFOs.
        fast_fifo: registers of the RISC-V's FIFO.
        aod: always-on control.
        gcfr: power, isolation and reset of the quadrants.
        gcr: clock registers, only the accelerator's fields.
        clock_hz: default and greatest accelerator clock.
        sram_setting: value of SRAM that initialisation writes.
        fifo_setting: value of FIFO_CTRL without the enable bits.
        fast_fifo_setting: value of FAST_FIFO_CR.
    """

    name: str
    geometry: Geometry
    limits: Limits
    interrupts: Interrupts
    quadrant: RegisterBlock
    fifo: RegisterBlock
    fast_fifo: RegisterBlock
    aod: RegisterBlock
    gcfr: RegisterBlock
    gcr: RegisterBlock
    clock_hz: int
    sram_setting: int
    fifo_setting: int
    fast_fifo_setting: int

    @property
    def num_quadrants(self) -> int:
        """Number of 16-processor groups."""
        return self.geometry.num_quadrants

    @property
    def processors(self) -> int:
        """Number of processors."""
        return self.geometry.num_processors


MAX78000 = Max7800x(
    name="max78000",
    geometry=Geometry(),
    limits=Limits(),
    interrupts=Interrupts(),
    quadrant=QUADRANT_BLOCK,
    fifo=FIFO_BLOCK,
    fast_fifo=FAST_FIFO_BLOCK,
    aod=AOD_BLOCK,
    gcfr=GCFR_BLOCK,
    gcr=GCR_BLOCK,
    clock_hz=50_000_000,
    sram_setting=0x40E,
    fifo_setting=0x908,
    fast_fifo_setting=0xA0,
)
"""The MAX78000 (die 85)."""
