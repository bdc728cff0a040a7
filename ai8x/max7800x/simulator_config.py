"""The decoded form of a layer and of a run's mode: what the registers mean, as frozen records.

Owns the types that the parts of the simulator hand to each other. Decides nothing. Start reading at `LayerConfig` and
`LayerGeometry`.

Source: spec/max78000-cnn.md sections 0 and 2.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ai8x.max7800x.device import MAX78000

_LANES = MAX78000.geometry.processors_per_instance


class Ewise(enum.IntEnum):
    """Element-wise operations by their number in ONED.ewise_func."""

    SUB = 0
    ADD = 1
    OR = 2
    XOR = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMode:
    """What the CTRL registers choose for a whole run.

    Args:
        quadrants: armed quadrants, ascending, the first is 0.
        round_average: poolrnd.
        fifo: layer 0 reads the FIFO.
        fast_fifo: it is the fast FIFO.
        streaming: stream_en.
        quad: quad mode for layer 0.
    """

    quadrants: tuple[int, ...]
    round_average: bool
    fifo: bool
    fast_fifo: bool
    streaming: bool
    quad: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGeometry:
    """Sizes of a layer as its registers state them (symbols of section 0; cycle model section 8.1).

    Args:
        layer: number.
        kind: ``conv`` or ``pass``.
        transposed: 3x3 stride-2 transposed convolution.
        flatten_en: flatten with more than 16 positions.
        streaming: FBUF is not 0.
        chw: input in CHW order.
        passes: input passes; for flatten P * Hp * Wp; 1 for emulated multi-pass element-wise layers.
        operands: E.
        pool_before_ewise: ONED.prepool.
        height: input rows (as read from memory; emulated: H * P).
        width: input columns.
        pool_height: ph.
        pool_width: pw.
        stride: s.
        pooled_height: Hp (not doubled for transposed layers).
        pooled_width: Wp.
        kernel_height: kh; 1 for pass layers.
        kernel_width: kw.
        pad_rows: hardware row pad.
        pad_columns: hardware column pad.
        out_height: Ho.
        out_width: Wo.
        output_passes: O.
        slots_per_pass: lanes of one output pass, unused ones included; 0 for pass layers.
        slots: output positions computed, unused lanes included; 0 for pass layers.
        sharers: quadrants that compute a share of the slots each at the same time; 1 but in quad mode.
        tscnt_max: ONED.tscnt_max.
        weight_bits: q.
        weight_start: first mask word.
    """

    layer: int
    kind: str
    transposed: bool
    flatten_en: bool
    streaming: bool
    chw: bool
    passes: int
    operands: int
    pool_before_ewise: bool
    height: int
    width: int
    pool_height: int
    pool_width: int
    stride: int
    pooled_height: int
    pooled_width: int
    kernel_height: int
    kernel_width: int
    pad_rows: int
    pad_columns: int
    out_height: int
    out_width: int
    output_passes: int
    slots_per_pass: int
    slots: int
    sharers: int
    tscnt_max: int
    weight_bits: int
    weight_start: int

    @property
    def num_pixels(self) -> int:
        """Output positions."""
        return self.out_height * self.out_width

    @property
    def taps(self) -> int:
        """Kernel elements."""
        return self.kernel_height * self.kernel_width


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteBlock:
    """Up to four lanes that a layer writes side by side at every pixel.

    Pixel p of row ``first_row + i`` goes to byte lane i of word ``word + p * step`` of the instance; in 32-bit layers
    to the whole word ``word + i + p * step``.
    """

    instance: int
    word: int
    step: int
    first_row: int
    num_rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasStart:
    """Where a quadrant's bias entries of a layer begin."""

    quadrant: int
    entry: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerConfig:
    """Everything a layer does, decoded.

    Args:
        geometry: sizes.
        processors: enabled processors, ascending, 0 to 63.
        read_word: first word read in every instance.
        read_words: words read in every instance.
        operation: element-wise operation, or None with one operand.
        max_pool: maximum instead of average.
        relu: clip below 0.
        absolute: absolute value; before `relu` in priority.
        shift: output shift, positive to the left.
        wide: 32-bit output.
        mask_start: MCNT.sad.
        mask_byte: ONED.oned_sad.
        bias: one entry, or one for each quadrant in quad mode; empty without bias.
        quad: this layer runs in quad mode.
        blocks: everything written.
    """

    geometry: LayerGeometry
    processors: tuple[int, ...]
    read_word: int
    read_words: int
    operation: Ewise | None
    max_pool: bool
    relu: bool
    absolute: bool
    shift: int
    wide: bool
    mask_start: int
    mask_byte: int
    bias: tuple[BiasStart, ...]
    quad: bool
    blocks: tuple[WriteBlock, ...]

    @property
    def instances(self) -> tuple[int, ...]:
        """Data instances read, ascending."""
        return tuple(sorted({processor // _LANES for processor in self.processors}))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFields:
    """The registers of a layer that all quadrants share, by name."""

    oned: dict[str, int]
    lctrl0: dict[str, int]
    lctrl1: dict[str, int]
    post: dict[str, int]
    mcnt: dict[str, int]
