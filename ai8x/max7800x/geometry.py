"""One layer as the accelerator runs it: the symbols of the specification after the hardware substitutions.

Owns the substitutions (grouped to dense, dilated Conv1d, transposed convolution, 1x1 in streams) and the derived
counts (passes, slots, TRAM depth). Knows neither registers nor addresses of weights: `kernels` and `lower` compute
those from here. Start at `HardwareLayer` and `hardware_layers`.

Source: spec/max78000-cnn.md sections 0, 2.2 and 3.2.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.max7800x.device import MAX78000, Max7800x
from ai8x.max7800x.placement import (
    LANES,
    PROCESSORS,
    QUADRANT_PROCESSORS,
    WORD_BYTES,
    LayerPlacement,
    Placement,
    channel_passes,
    highest_bit,
    lowest_bit,
    quadrant_map,
    quadrants_of,
)
from ai8x.network.ir import ConvSpec, Layer, Network, Op, Pool

MIN_LONG_FLATTEN = MAX78000.limits.min_long_flatten
"""Last pass number from which a flattened layer counts its passes in two parts; the same on both chips."""


class HardwareOp(enum.Enum):
    """Modes of a layer; Linear has become `CONV2D` with a 1x1 kernel."""

    CONV1D = "Conv1d"
    CONV2D = "Conv2d"
    CONV_TRANSPOSE2D = "ConvTranspose2d"
    PASS = "Passthrough"  # noqa: S105 (an operator, not a secret)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HardwareLayer:
    """Every symbol of section 0 for one layer, after the hardware substitutions.

    Args:
        layer: the network's layer; index, name, inputs, element-wise operation, activation and shift are read there.
        placement: processors and offsets.
        op: mode of the hardware.
        operands: E, operands of the element-wise operation, 1 without.
        in_channels: C, channels per operand, before flattening.
        out_channels: M.
        in_rows: H; a Conv1d of length L has (L, 1), the 2-D form of a dilated one (ceil(L/d), d).
        in_columns: W.
        pool_rows: ph.
        pool_columns: pw.
        pool_stride: s, rows and columns alike.
        pooled_rows: Hp.
        pooled_columns: Wp.
        out_rows: Ho, rows that the hardware writes (for the 2-D form of a dilated Conv1d more than the layer's).
        out_columns: Wo.
        kernel_rows: kh, 1 for a pass layer.
        kernel_columns: kw.
        pad_rows: row pad of the hardware (transposed: 2 - pad).
        pad_columns: column pad of the hardware.
        weights: int64, (M, features, kh, kw), dense; features is C, or C*Hp*Wp for a flattened input. None: pass, or
            a network without parameters.
        bias: int64 (M,), None where absent or all zero.
        flatten: the input map is read as a vector.
        lead_pixels: garbage pixels written before the first true one (oign in pixels).
        surplus_pixels: pixels written beyond the layer's true output, the lead included (out_pad).
        streaming: works on a stream.
        fifo_input: layer 0 of a network that reads a FIFO.
        fast_fifo: that FIFO is the RISC-V's.
        quad: layer 0 of a network in quad mode: every quadrant has a copy of the input and computes every fourth slot.

    Shapes: the arrays are read-only.

    Source: spec/max78000-cnn.md section 0.
    """

    layer: Layer
    placement: LayerPlacement
    op: HardwareOp
    operands: int
    in_channels: int
    out_channels: int
    in_rows: int
    in_columns: int
    pool_rows: int
    pool_columns: int
    pool_stride: int
    pooled_rows: int
    pooled_columns: int
    out_rows: int
    out_columns: int
    kernel_rows: int
    kernel_columns: int
    pad_rows: int
    pad_columns: int
    weights: NDArray[Any] | None
    bias: NDArray[Any] | None
    flatten: bool
    lead_pixels: int
    surplus_pixels: int
    streaming: bool
    fifo_input: bool
    fast_fifo: bool = False
    quad: bool = False

    def __post_init__(self) -> None:
        for array in (self.weights, self.bias):
            if array is not None:
                array.setflags(write=False)

    @property
    def index(self) -> int:
        """Position in the network."""
        return self.layer.index

    @property
    def name(self) -> str:
        """Name in the network."""
        return self.layer.name

    @property
    def is_conv(self) -> bool:
        """Multiplies by weights ("conv" of section 0); everything else is a pass."""
        return self.op is not HardwareOp.PASS

    @property
    def processors(self) -> int:
        """PM."""
        return self.placement.processors

    @property
    def active_processors(self) -> int:
        """Processors that compute: PM, in quad mode PM in each quadrant (section 5.4)."""
        if not self.quad:
            return self.processors
        return sum(self.processors << QUADRANT_PROCESSORS * quadrant for quadrant in range(self.mask_sharers))

    @property
    def mask_sharers(self) -> int:
        """Quadrants over which the slots are spread: 1, in quad mode all."""
        return PROCESSORS // QUADRANT_PROCESSORS if self.quad else 1

    @property
    def slots_per_processor(self) -> int:
        """Slots that one processor has masks for."""
        return -(-self.num_slots // self.mask_sharers)

    @property
    def output_processors(self) -> int:
        """OM."""
        return self.placement.output_processors

    @property
    def passes(self) -> int:
        """P, input passes."""
        return channel_passes(self.in_channels)[0]

    @property
    def channels_per_pass(self) -> int:
        """TI, input channels of one pass."""
        return channel_passes(self.in_channels)[1]

    @property
    def out_passes(self) -> int:
        """O, output passes."""
        return channel_passes(self.out_channels)[0]

    @property
    def out_channels_per_pass(self) -> int:
        """TO, output channels of one pass."""
        return channel_passes(self.out_channels)[1]

    @property
    def weight_bits(self) -> int:
        """Weight width (q)."""
        return self.layer.weight_bits

    @property
    def output_bits(self) -> int:
        """ow, 8 or 32."""
        return self.layer.output_bits

    @property
    def write_gap(self) -> int:
        """Words skipped after every word written (gap)."""
        return self.placement.write_gap

    @property
    def in_pixels(self) -> int:
        """H*W."""
        return self.in_rows * self.in_columns

    @property
    def out_pixels(self) -> int:
        """Ho*Wo as written by the hardware."""
        return self.out_rows * self.out_columns

    @property
    def is_pooled(self) -> bool:
        """A pooling window larger than 1x1 (subsampling alone is not pooling)."""
        return self.pool_rows > 1 or self.pool_columns > 1

    @property
    def pools_average(self) -> bool:
        """Average pooling instead of maximum."""
        return self.layer.pool.kind is Pool.AVG

    @property
    def pools_first(self) -> bool:
        """Each operand is pooled before the combination (register field ``prepool``)."""
        return self.operands > 1 and self.is_pooled and self.layer.pool_first

    @property
    def combines_first(self) -> bool:
        """The combination precedes the pooling (``pool_first: false``)."""
        return self.operands > 1 and self.is_pooled and not self.layer.pool_first

    @property
    def is_long_flatten(self) -> bool:
        """Flattened input whose last pass number N reaches 16 (``flatten_en``)."""
        return self.flatten and self.mask_passes - 1 >= MIN_LONG_FLATTEN

    @property
    def is_emulated_eltwise(self) -> bool:
        """Multi-pass element-wise operation that runs as one pass over a frame of H*P rows (section 2.2)."""
        return self.operands > 1 and self.passes > 1 and not (self.passes == 2 and self.operands == 2)

    @property
    def flatten_pixels(self) -> int:
        """Hp*Wp of a flattened layer, else 1."""
        return self.pooled_rows * self.pooled_columns if self.flatten else 1

    @property
    def mask_passes(self) -> int:
        """P', masks of one output: P, flattened P*Hp*Wp (section 3.1)."""
        return self.passes * self.flatten_pixels

    @property
    def taps(self) -> int:
        """K = kh*kw."""
        return self.kernel_rows * self.kernel_columns

    @property
    def start_column(self) -> int:
        """sc, lane of the first output processor."""
        return lowest_bit(self.output_processors) % LANES

    @property
    def first_instance(self) -> int:
        """Data memory instance of the first output processor, counted through the chip."""
        return lowest_bit(self.output_processors) // LANES

    @property
    def slots_per_pass(self) -> int:
        """Output positions of one pass, unused lanes included (``per`` of section 3.2)."""
        return highest_bit(self.output_processors) - LANES * self.first_instance + 1

    @property
    def num_slots(self) -> int:
        """Output positions that are computed: all passes; flattened: without the missing channels (section 3.4)."""
        slots = self.slots_per_pass * self.out_passes
        if self.flatten:
            slots -= self.out_passes * self.output_processors.bit_count() - self.out_channels
        return slots

    @property
    def lead_bytes(self) -> int:
        """oign: bytes by which the write pointer is moved back."""
        return self.lead_pixels * self.out_stride_words * WORD_BYTES

    @property
    def out_stride_words(self) -> int:
        """Words from one output pixel to the next in every instance (section 5.3)."""
        return self.out_passes * (self.output_bits // 8) * (self.write_gap + 1)

    @property
    def transfer_cycles_per_pixel(self) -> int:
        """TS = tscnt_max + 1 of a pass layer: words per pixel of its fullest quadrant; 1 for a convolution."""
        if self.is_conv:
            return 1
        counts = [quadrant_map(self.processors, q).bit_count() for q in quadrants_of(self.processors)]
        return -(-max(counts, default=1) // LANES)

    @property
    def tram_rows(self) -> int:
        """T, TRAM entries of one pass (section 2.2)."""
        if not self.is_conv:
            return 1
        if self.op is HardwareOp.CONV_TRANSPOSE2D:
            stuffed = 2 * (self.pooled_columns - 1) + 1 + 1 + 2 * self.pad_columns
            return max(0, stuffed - self.kernel_columns) + 1
        return max(0, self.pooled_columns + 2 * self.pad_columns - self.kernel_columns) + 1

    @property
    def is_one_by_one(self) -> bool:
        """Two-dimensional convolution with a single tap (Linear included)."""
        return self.op is HardwareOp.CONV2D and self.kernel_rows == 1 and self.kernel_columns == 1


def hardware_layers(network: Network, placement: Placement, device: Max7800x) -> tuple[HardwareLayer, ...]:
    """Every layer in hardware form.

    Args:
        network: what is computed.
        placement: complete placement of the same layers.
        device: the chip.

    Returns:
        One record per layer, in order. Layers that break a limit are described as they are;
        `constraints.check_network` reports them.

    Source:
        spec/max78000-cnn.md section 0.
    """
    result: list[HardwareLayer] = []
    for layer, place in zip(network.layers, placement.layers, strict=True):
        plain = _describe(layer, place, fifo_input=layer.index == 0 and placement.reads_fifo)
        is_first = layer.index == 0
        plain = replace(plain, quad=is_first and placement.quad, fast_fifo=is_first and placement.fast_fifo)
        after_stream = layer.index > 0 and placement.layers[layer.index - 1].streaming
        result.append(_substitute(plain, device, in_stream=place.streaming or after_stream))
    return tuple(result)


def is_row_form(layer: Layer, device: Max7800x) -> bool:
    """Whether a dilated Conv1d runs as a 3x3 convolution over rows of `dilation` samples.

    That is the case where the taps spread with zeros between them exceed the longest Conv1d kernel.

    Source:
        spec/max78000-cnn.md section 0.
    """
    conv = layer.conv
    if layer.op is not Op.CONV1D or conv is None or conv.dilation[0] == 1:
        return False
    kernel = conv.kernel[0]
    too_long = (kernel - 1) * conv.dilation[0] >= device.limits.max_conv1d_span
    return too_long and 1 < kernel <= device.limits.max_conv1d_2d_kernel


def _describe(layer: Layer, place: LayerPlacement, *, fifo_input: bool) -> HardwareLayer:
    """The layer before any substitution but Linear -> 1x1 Conv2d."""
    conv = layer.conv or ConvSpec()
    bias = layer.bias if layer.bias is not None and layer.bias.any() else None
    return HardwareLayer(
        layer=layer,
        placement=place,
        op=_hardware_op(layer.op),
        operands=layer.num_operands,
        in_channels=layer.operand_shape.channels,
        out_channels=layer.out_shape.channels,
        in_rows=layer.operand_shape.height,
        in_columns=layer.operand_shape.width,
        pool_rows=layer.pool.window[0],
        pool_columns=layer.pool.window[1],
        pool_stride=layer.pool.stride[0],
        pooled_rows=layer.pooled_shape.height,
        pooled_columns=layer.pooled_shape.width,
        out_rows=layer.out_shape.height,
        out_columns=layer.out_shape.width,
        kernel_rows=conv.kernel[0],
        kernel_columns=conv.kernel[1],
        pad_rows=conv.padding[0],
        pad_columns=conv.padding[1],
        weights=dense_weights(layer),
        bias=bias,
        flatten=layer.flatten,
        lead_pixels=0,
        surplus_pixels=0,
        streaming=place.streaming,
        fifo_input=fifo_input,
    )


def _hardware_op(op: Op) -> HardwareOp:
    return {
        Op.CONV1D: HardwareOp.CONV1D,
        Op.CONV2D: HardwareOp.CONV2D,
        Op.LINEAR: HardwareOp.CONV2D,
        Op.CONV_TRANSPOSE2D: HardwareOp.CONV_TRANSPOSE2D,
        Op.PASSTHROUGH: HardwareOp.PASS,
    }[op]


def dense_weights(layer: Layer) -> NDArray[Any] | None:
    """Weights of a grouped convolution with zeros for the other groups' channels; others unchanged.

    Source:
        spec/max78000-cnn.md section 4.8.
    """
    weights, conv = layer.weights, layer.conv
    if weights is None or conv is None or conv.groups == 1:
        return weights
    out_channels, share = weights.shape[:2]
    dense = np.zeros((out_channels, share * conv.groups, *weights.shape[2:]), dtype=np.int64)
    per_group = out_channels // conv.groups
    for group in range(conv.groups):
        rows = slice(group * per_group, (group + 1) * per_group)
        dense[rows, group * share : (group + 1) * share] = weights[rows]
    return dense


def _substitute(hardware: HardwareLayer, device: Max7800x, *, in_stream: bool) -> HardwareLayer:
    """Apply the one substitution that the layer needs, if any."""
    if hardware.op is HardwareOp.CONV_TRANSPOSE2D:
        return _transposed(hardware)
    if is_row_form(hardware.layer, device):
        return _dilated_rows(hardware)
    if hardware.op is HardwareOp.CONV1D:
        return _dilated_taps(hardware)
    if hardware.is_one_by_one and in_stream and not hardware.flatten:
        return _padded_centre(hardware)
    return hardware


def _transposed(hardware: HardwareLayer) -> HardwareLayer:
    """The zero-stuffed image is padded by 2 - pad."""
    return replace(hardware, pad_rows=2 - hardware.pad_rows, pad_columns=2 - hardware.pad_columns)


def _dilated_taps(hardware: HardwareLayer) -> HardwareLayer:
    """Conv1d with zero taps between the taps."""
    conv = hardware.layer.conv
    if conv is None or conv.dilation[0] == 1:
        return hardware
    length = (conv.kernel[0] - 1) * conv.dilation[0] + 1
    weights = None
    if hardware.weights is not None:
        weights = np.zeros((*hardware.weights.shape[:2], length, 1), dtype=np.int64)
        weights[:, :, :: conv.dilation[0]] = hardware.weights
    return replace(hardware, weights=weights, kernel_rows=length)


def _dilated_rows(hardware: HardwareLayer) -> HardwareLayer:
    """Conv1d as 3x3 over rows of `dilation` samples, taps in the centre column.

    With three taps the first row of the output is garbage and is written before the output's offset.
    """
    conv = hardware.layer.conv
    if conv is None:
        raise ValueError(f"layer '{hardware.name}' has no convolution")
    kernel, dilation = conv.kernel[0], conv.dilation[0]
    rows = -(-hardware.in_rows // dilation)
    weights = None
    if hardware.weights is not None:
        weights = np.zeros((*hardware.weights.shape[:2], 3, 3), dtype=np.int64)
        weights[:, :, 3 - kernel :, 1] = hardware.weights[..., 0]
    return replace(
        hardware,
        op=HardwareOp.CONV2D,
        weights=weights,
        kernel_rows=3,
        kernel_columns=3,
        pad_rows=1,
        pad_columns=1,
        in_rows=rows,
        in_columns=dilation,
        pooled_rows=rows,
        pooled_columns=dilation,
        out_rows=rows,
        out_columns=dilation,
        lead_pixels=dilation if kernel == 3 else 0,
        surplus_pixels=rows * dilation - hardware.layer.out_shape.height,
    )


def _padded_centre(hardware: HardwareLayer) -> HardwareLayer:
    """A 1x1 kernel as the centre tap of a padded 3x3 kernel."""
    weights = None
    if hardware.weights is not None:
        weights = np.zeros((*hardware.weights.shape[:2], 3, 3), dtype=np.int64)
        weights[:, :, 1, 1] = hardware.weights[:, :, 0, 0]
    return replace(hardware, weights=weights, kernel_rows=3, kernel_columns=3, pad_rows=1, pad_columns=1)
