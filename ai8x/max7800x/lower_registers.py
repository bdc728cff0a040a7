"""Register values of the layers and their streams.

Owns the formulas of sections 2.2 to 2.4; every word goes through `Register.encode`, so a value that does not fit its
field is an error here and not a wrong bit on the chip. Global registers are in ``lower_control.py``. Knows nothing of
data, weights or C. Start reading at `configure_writes`.

Source: spec/max78000-cnn.md section 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.geometry import HardwareLayer, HardwareOp
from ai8x.max7800x.kernels import LayerKernels
from ai8x.max7800x.lower_control import LoweringInput, encode_write, fifo_writes
from ai8x.max7800x.placement import DataFormat, highest_bit, lowest_bit, quadrant_map
from ai8x.max7800x.program import RegisterWrite
from ai8x.max7800x.streaming import StreamSettings, input_frame_words, stream_settings
from ai8x.network.ir import Activation, Eltwise

Fields = dict[str, int]
"""Field name -> value of one register word."""

ELTWISE_CODES: Mapping[Eltwise, int] = MappingProxyType({Eltwise.SUB: 0, Eltwise.ADD: 1, Eltwise.OR: 2, Eltwise.XOR: 3})
"""Values of ONED.ewise_func."""

MASK_SIZE_CODES: Mapping[int, int] = MappingProxyType({8: 0, 1: 1, 2: 2, 4: 3})
"""Values of POST.mask_size by weight bits."""

PASS_WIDE_STEP = 8192
"""WPTR_TOFF of a pass layer that writes several instances: one instance on."""

PASS_NARROW_STEP = 2048
"""WPTR_TOFF of a pass layer that writes one instance."""


def configure_writes(source: LoweringInput) -> Iterator[RegisterWrite]:
    """Per-layer and stream registers of every used quadrant, then the FIFO control, in the order of section 2.4.

    Registers whose value is 0 are left out unless `LoweringInput.write_zeros` is set: the reset state is 0.
    """
    streams = stream_settings(source.layers, source.device)
    for hardware, stream in zip(source.layers, streams, strict=True):
        for quadrant in source.quadrants:
            words = {**_layer_fields(source, hardware, quadrant, stream), **_stream_fields(stream, hardware)}
            for name, fields in words.items():
                write = _layer_write(source, name, quadrant, hardware, fields)
                if write.value or source.write_zeros:
                    yield write
    yield from fifo_writes(source)


def _layer_write(
    source: LoweringInput, name: str, quadrant: int, hardware: HardwareLayer, fields: Fields
) -> RegisterWrite:
    base = source.device.geometry.quadrant_registers(quadrant)
    register = source.quadrant_register(name)
    index = hardware.index if register.count > 1 else 0
    return encode_write(register, base, fields, index=index, layer=hardware.index, quadrant=quadrant)


def _layer_fields(
    source: LoweringInput, hardware: HardwareLayer, quadrant: int, stream: StreamSettings | None
) -> dict[str, Fields]:
    """Register name -> fields, in write order (sections 2.2 and 2.4)."""
    kernels = source.kernels.kernels[hardware.index]
    enabled = quadrant_map(hardware.active_processors, quadrant)
    return {
        "RCNT": _count_fields(frame_rows(hardware), hardware.pad_rows),
        "CCNT": _count_fields(frame_columns(hardware), hardware.pad_columns),
        "PRCNT": {"value": hardware.pool_rows - 1},
        "PCCNT": {"value": hardware.pool_columns - 1},
        "STRIDE": {"value": hardware.pool_stride - 1 if hardware.op is not HardwareOp.CONV_TRANSPOSE2D else 0},
        "WPTR_BASE": {"value": write_pointer(source.device, hardware, quadrant)},
        "WPTR_TOFF": {"value": _time_slot_offset(hardware)},
        "WPTR_MOFF": {"value": 1 << source.device.geometry.pointer_instance_shift if hardware.is_conv else 0},
        "WPTR_CHOFF": {"value": _channel_offset(hardware)},
        "RPTR_BASE": {"value": hardware.placement.in_offset // source.device.geometry.word_bytes},
        "LCTRL0": _control_fields(source, hardware, quadrant),
        "LCTRL1": _control1_fields(hardware),
        "MCNT": _mask_count_fields(hardware, kernels),
        "ONED": _oned_fields(hardware, kernels),
        "TPTR": _tram_fields(source, hardware, stream),
        "POST": _post_fields(source, hardware, quadrant),
        "EN": {"pro_en": enabled, "mask_en": enabled if hardware.is_conv else 0},
    }


def frame_rows(hardware: HardwareLayer) -> int:
    """Rows that the row counter runs through, padding excluded (RCNT)."""
    if hardware.flatten:
        return 1
    if hardware.op is HardwareOp.CONV_TRANSPOSE2D:
        return 2 * hardware.in_rows
    return hardware.in_rows * (hardware.passes if hardware.is_emulated_eltwise else 1)


def frame_columns(hardware: HardwareLayer) -> int:
    """Columns that the column counter runs through, padding excluded (CCNT)."""
    if hardware.flatten:
        return 1
    return hardware.in_columns * (2 if hardware.op is HardwareOp.CONV_TRANSPOSE2D else 1)


def _count_fields(size: int, pad: int) -> Fields:
    return {"max": size - 1 + 2 * pad, "pad": pad}


def write_pointer(device: Max7800x, hardware: HardwareLayer, quadrant: int) -> int:
    """Global word pointer to the first output word (WPTR_BASE).

    A convolution has one pointer for all quadrants; a pass layer writes within each quadrant that holds output, and
    points at instance 0 in the others.
    """
    geometry = device.geometry
    word = (hardware.placement.out_offset - hardware.lead_bytes) // geometry.word_bytes
    if hardware.is_conv:
        instance = hardware.first_instance
    else:
        own = quadrant_map(hardware.output_processors, quadrant)
        first = geometry.instances_per_quadrant * quadrant + lowest_bit(own) // geometry.processors_per_instance
        instance = first if own else 0
    return instance << geometry.pointer_instance_shift | word


def _time_slot_offset(hardware: HardwareLayer) -> int:
    if hardware.is_one_by_one:
        return 1
    if hardware.is_conv:
        return 0
    several = hardware.processors.bit_count() > 4 or (hardware.operands > 1 and hardware.passes > 1)
    return PASS_WIDE_STEP if several else PASS_NARROW_STEP


def _channel_offset(hardware: HardwareLayer) -> int:
    if hardware.out_passes == 1:
        return 0
    return hardware.output_bits // 8 * (hardware.write_gap + 1)


def _control_fields(source: LoweringInput, hardware: HardwareLayer, quadrant: int) -> Fields:
    layer = hardware.layer
    return {
        "master": 1,
        "parallel": int(hardware.placement.data_format is DataFormat.CHW),
        "pool_en": int(hardware.is_pooled),
        "maxpl_en": int(not hardware.pools_average),
        "act_en": int(layer.activation is Activation.RELU),
        "sramlsrc": 1,
        "cnnsi_en": _partner_quadrants(source, hardware) if quadrant == source.first_quadrant else 0,
        "bigdwrt": int(hardware.output_bits == 32),
    }


def _partner_quadrants(source: LoweringInput, hardware: HardwareLayer) -> int:
    """Bit t = the first quadrant adds the sums, or the bias, of quadrant t (LCTRL0.cnnsi_en)."""
    if not hardware.is_conv or hardware.quad:
        return 0
    partners = {q for q in source.quadrants if quadrant_map(hardware.processors, q)}
    partners |= {bias.quadrant for bias in source.kernels.biases_of(hardware.index)}
    return sum(1 << quadrant for quadrant in partners - {source.first_quadrant})


def last_pass(hardware: HardwareLayer) -> int:
    """Number of the last input pass as the pass counter sees it (N of section 2.2 for a flattened layer)."""
    return 0 if hardware.is_emulated_eltwise else hardware.mask_passes - 1


def _control1_fields(hardware: HardwareLayer) -> Fields:
    if not hardware.is_conv:
        return {"inpchexp": last_pass(hardware), "wptr_inc": hardware.write_gap, "xpch_max": 0}
    return {
        "inpchexp": last_pass(hardware) & 0xF,
        "wptr_inc": hardware.out_passes * (hardware.write_gap + 1) - 1,
        "xpch_max": (highest_bit(hardware.output_processors) - 4 * hardware.first_instance) * hardware.weight_bits,
    }


def _mask_count_fields(hardware: HardwareLayer, kernels: LayerKernels | None) -> Fields:
    if kernels is None:
        return {"sad": 0, "max": 0 if hardware.is_emulated_eltwise else (hardware.out_passes - 1) * 8}
    start = 8 * (9 * kernels.start_word // hardware.taps)
    return {"sad": start, "max": start + (kernels.num_masks - 1) * hardware.weight_bits}


def _oned_fields(hardware: HardwareLayer, kernels: LayerKernels | None) -> Fields:
    fields: Fields = {
        "tscnt_max": hardware.transfer_cycles_per_pixel - 1,
        "oned_sad": 9 * kernels.start_word % hardware.taps if kernels is not None else 0,
        "oned_width": _oned_width(hardware),
        "oned_en": int(hardware.op is HardwareOp.CONV1D),
    }
    if hardware.layer.eltwise is not None:
        fields |= {
            "ewise_en": 1,
            "ewise_func": ELTWISE_CODES[hardware.layer.eltwise],
            "prepool": int(hardware.pools_first),
            "2d_conv": int(hardware.is_conv),
            "ewise_cnt": hardware.operands - 1,
        }
    return fields


def _oned_width(hardware: HardwareLayer) -> int:
    if hardware.op is HardwareOp.CONV1D:
        return hardware.kernel_rows
    if hardware.is_one_by_one or (not hardware.is_conv and hardware.operands == 1):
        return 1
    return 0


def _tram_fields(source: LoweringInput, hardware: HardwareLayer, stream: StreamSettings | None) -> Fields:
    flat = hardware.is_one_by_one and not (hardware.streaming and hardware.index > 0)
    if hardware.op is HardwareOp.CONV1D or flat:
        last = last_pass(hardware)
        if hardware.flatten and last >= source.device.limits.min_long_flatten:
            return {"sad": last, "max": 2 * last + 1}
        return {"sad": 0, "max": 0}
    start = stream.tram_start if stream is not None else 0
    return {"sad": start, "max": hardware.tram_rows - 1 + start}


def _post_fields(source: LoweringInput, hardware: HardwareLayer, quadrant: int) -> Fields:
    if not hardware.is_conv:
        return {"ts_en": 1, "onexone_en": int(hardware.operands == 1)}
    layer = hardware.layer
    long_flatten = hardware.flatten and last_pass(hardware) >= source.device.limits.min_long_flatten
    fields: Fields = {
        "scale_reg": abs(layer.output_shift),
        "scale_shft": int(layer.output_shift < 0),
        "xpmp_cnt": last_pass(hardware) >> 4 if long_flatten else 0,
        "mask_size": MASK_SIZE_CODES[hardware.weight_bits],
        "out_abs": int(layer.activation is Activation.ABS),
        "flatten_en": int(long_flatten),
        "deconv_en": int(hardware.op is HardwareOp.CONV_TRANSPOSE2D),
    }
    for bias in source.kernels.biases_of(hardware.index):
        if bias.quadrant == quadrant:
            fields |= {"bptr_sad": bias.start_entry, "bptr_en": 1}
    return fields


def _stream_fields(settings: StreamSettings | None, hardware: HardwareLayer) -> dict[str, Fields]:
    """Stream registers by name, in write order; none for a layer without a stream (section 2.3)."""
    if settings is None:
        return {}
    words: dict[str, Fields] = {
        "STRM0": {"start": settings.start},
        "STRM1": {"invol": settings.invol, "delta1": settings.delta1, "delta2": settings.delta2},
        "FBUF": {"rollover": settings.buffer_words},
    }
    if hardware.fifo_input:
        words["IFRM"] = {"value": input_frame_words(hardware)}
    return words
