"""What the registers of one layer say: its geometry, its masks, its operands and every address it writes.

Owns the meaning of the per-layer fields (spec/max78000-cnn.md section 2.2) as the chip sees them. Knows nothing of
memory contents or of other layers. Start reading at `decode_layer`.
"""

from __future__ import annotations

from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.simulator_checks import (
    by_quadrant,
    check_constants,
    check_conv,
    check_pass,
    check_sum,
    check_tram,
)
from ai8x.max7800x.simulator_config import (
    BiasStart,
    Ewise,
    LayerConfig,
    LayerFields,
    LayerGeometry,
    RunMode,
    WriteBlock,
)
from ai8x.max7800x.simulator_registers import LayerView

_GEOMETRY = MAX78000.geometry
_LANES = _GEOMETRY.processors_per_instance
_WEIGHT_BITS = (8, 1, 2, 4)
_WIDE_STEP = 4


def decode_layer(view: LayerView, mode: RunMode) -> LayerConfig:
    """Give meaning to one layer's registers.

    Args:
        view: the layer's registers in the armed quadrants.
        mode: what CTRL chose for the run.

    Raises:
        HardwareFault: a field has a value without a known meaning, or fields contradict each other.
    """
    fields = _read_shared(view)
    is_pass = bool(fields.post["ts_en"])
    processors = _decode_processors(view, is_pass)
    quad = mode.quad and view.layer == 0
    geometry = _decode_geometry(view, fields, is_pass, mode.quad and view.layer == 0)
    check_constants(view, fields, mode)
    check_tram(view, geometry)
    if is_pass:
        check_pass(view, fields, geometry, processors)
        blocks = _pass_blocks(view, fields, geometry, processors)
    else:
        check_conv(view, fields, geometry)
        check_sum(view, fields, processors, quad)
        blocks = _conv_blocks(view, fields, geometry)
    shift = -fields.post["scale_reg"] if fields.post["scale_shft"] else fields.post["scale_reg"]
    pixels = geometry.height * geometry.width
    read_words = -(-pixels // _GEOMETRY.word_bytes) if geometry.chw else pixels * geometry.passes * geometry.operands
    return LayerConfig(
        geometry=geometry,
        processors=processors,
        read_word=_decode_read_word(view),
        read_words=read_words,
        operation=Ewise(fields.oned["ewise_func"]) if fields.oned["ewise_en"] else None,
        max_pool=bool(fields.lctrl0["maxpl_en"]),
        relu=bool(fields.lctrl0["act_en"]),
        absolute=bool(fields.post["out_abs"]),
        shift=shift,
        wide=bool(fields.lctrl0["bigdwrt"]),
        mask_start=fields.mcnt["sad"],
        mask_byte=fields.oned["oned_sad"],
        bias=() if is_pass else _decode_bias(view, geometry, quad),
        quad=quad,
        blocks=blocks,
    )


def _read_shared(view: LayerView) -> LayerFields:
    return LayerFields(
        oned=view.common("ONED"),
        lctrl0=view.common("LCTRL0", ("cnnsi_en",)),
        lctrl1=view.common("LCTRL1"),
        post=view.common("POST", ("bptr_sad", "bptr_en")),
        mcnt=view.common("MCNT"),
    )


def _decode_processors(view: LayerView, is_pass: bool) -> tuple[int, ...]:
    """Enabled processors of all quadrants.

    Raises:
        HardwareFault: none, or the mask enables do not fit.
    """
    enabled: list[int] = []
    for quadrant in view.quadrants:
        fields = view.fields("EN", quadrant)
        wanted = 0 if is_pass else fields["pro_en"]
        if fields["mask_en"] != wanted:
            raise view.fault(
                "EN",
                f"mask_en = {fields['mask_en']:#06x}, expected {wanted:#06x} with pro_en = {fields['pro_en']:#06x}",
                quadrant,
            )
        first = quadrant * _GEOMETRY.processors_per_quadrant
        enabled += [first + i for i in range(_GEOMETRY.processors_per_quadrant) if fields["pro_en"] >> i & 1]
    if not enabled:
        raise view.fault("EN", "no processor is enabled in any quadrant: the layer was not configured")
    return tuple(enabled)


def _decode_read_word(view: LayerView) -> int:
    word = view.value("RPTR_BASE")
    if word >= _GEOMETRY.data_words:
        raise view.fault("RPTR_BASE", f"{word:#x} lies beyond the {_GEOMETRY.data_words} words of an instance")
    return word


def _decode_size(view: LayerView, name: str, transposed: bool) -> tuple[int, int]:
    """Rows or columns read and the pad around them."""
    fields = view.common(name)
    size, pad = fields["max"] + 1 - 2 * fields["pad"], fields["pad"]
    if transposed:
        if size % 2:
            raise view.fault(name, f"{size} positions: a transposed convolution reads an even number")
        size //= 2
    if size < 1 or pad > MAX78000.limits.max_pad:
        raise view.fault(name, f"max = {fields['max']} with pad = {pad}: nothing is read")
    return size, pad


def _decode_kernel(view: LayerView, fields: LayerFields, is_pass: bool) -> tuple[int, int]:
    """Kernel rows and columns; (1, 1) for pass layers."""
    oned = fields.oned
    width = oned["oned_width"]
    if is_pass:
        view.expect(
            "ONED",
            oned,
            {"oned_en": 0, "2d_conv": 0, "oned_sad": 0, "oned_width": 0 if oned["ewise_en"] else 1},
            "pass layer",
        )
        return 1, 1
    view.expect("ONED", oned, {"2d_conv": oned["ewise_en"]}, "set exactly when an element-wise result is convolved")
    if oned["oned_en"]:
        if not 1 <= width <= MAX78000.limits.max_conv1d_kernel:
            raise view.fault(
                "ONED", f"oned_width = {width}: a 1-D kernel has 1 to {MAX78000.limits.max_conv1d_kernel} taps"
            )
        return width, 1
    if width > 1:
        raise view.fault("ONED", f"oned_width = {width} without oned_en: 0 selects 3x3, 1 selects 1x1")
    return (1, 1) if width else (3, 3)


def _decode_passes(view: LayerView, fields: LayerFields) -> int:
    """Input passes; a long flatten counts its high bits in POST."""
    passes = fields.lctrl1["inpchexp"] + 1
    if not fields.post["flatten_en"]:
        view.expect("POST", fields.post, {"xpmp_cnt": 0}, "flatten_en is 0")
        return passes
    if not fields.post["xpmp_cnt"]:
        raise view.fault("POST", "flatten_en = 1 with xpmp_cnt = 0: needs 17 or more passes")
    return passes + (fields.post["xpmp_cnt"] << 4)


def _decode_geometry(view: LayerView, fields: LayerFields, is_pass: bool, quad: bool) -> LayerGeometry:
    oned, post = fields.oned, fields.post
    transposed = bool(post["deconv_en"])
    height, pad_rows = _decode_size(view, "RCNT", transposed)
    width, pad_columns = _decode_size(view, "CCNT", transposed)
    kernel_height, kernel_width = _decode_kernel(view, fields, is_pass)
    passes = _decode_passes(view, fields)
    pool_height, pool_width, stride = (view.value(name) + 1 for name in ("PRCNT", "PCCNT", "STRIDE"))
    pooled_height, pooled_width = (height + stride - pool_height) // stride, (width + stride - pool_width) // stride
    scale = 2 if transposed else 1
    out_height = scale * pooled_height + 2 * pad_rows - kernel_height + 1
    out_width = scale * pooled_width + 2 * pad_columns - kernel_width + 1
    if min(pooled_height, pooled_width, out_height, out_width) < 1:
        raise view.fault("RCNT", f"{height} rows, {width} columns: the layer has no output")
    if transposed and (is_pass or (kernel_height, kernel_width) != (3, 3) or pool_height * pool_width * stride > 1):
        raise view.fault("POST", "deconv_en = 1 needs a 3x3 kernel, no pooling and stride 1")
    bits = _WEIGHT_BITS[post["mask_size"]]
    slots, per_pass = (0, 0) if is_pass else _decode_slots(view, fields, passes, bits)
    # In quad mode each quadrant computes every fourth slot; slots beyond the output map are dropped (section 5.4).
    sharers = len(view.quadrants) if quad else 1
    slots = min(slots * sharers, per_pass) if quad else slots
    taps = kernel_height * kernel_width
    return LayerGeometry(
        layer=view.layer,
        kind="pass" if is_pass else "conv",
        transposed=transposed,
        flatten_en=bool(post["flatten_en"]),
        streaming=view.value("FBUF") > 0,
        chw=bool(fields.lctrl0["parallel"]),
        passes=passes,
        operands=oned["ewise_cnt"] + 1,
        pool_before_ewise=bool(oned["prepool"]),
        height=height,
        width=width,
        pool_height=pool_height,
        pool_width=pool_width,
        stride=stride,
        pooled_height=pooled_height,
        pooled_width=pooled_width,
        kernel_height=kernel_height,
        kernel_width=kernel_width,
        pad_rows=pad_rows,
        pad_columns=pad_columns,
        out_height=out_height,
        out_width=out_width,
        output_passes=passes if is_pass else -(-slots // per_pass),
        slots_per_pass=per_pass,
        slots=slots,
        sharers=sharers,
        tscnt_max=oned["tscnt_max"],
        weight_bits=bits,
        weight_start=(fields.mcnt["sad"] // 8 * taps + oned["oned_sad"]) // _GEOMETRY.mask_word_bytes,
    )


def _decode_slots(view: LayerView, fields: LayerFields, passes: int, bits: int) -> tuple[int, int]:
    """Output slots of the layer and of one output pass (section 3.2)."""
    span = fields.mcnt["max"] - fields.mcnt["sad"]
    if span < 0 or span % bits or (span // bits + 1) % passes or fields.mcnt["sad"] % 8:
        raise view.fault(
            "MCNT",
            f"sad = {fields.mcnt['sad']:#x}, max = {fields.mcnt['max']:#x}: not a whole number of slots of "
            f"{passes} masks of {bits} bits from a multiple of 8",
        )
    if fields.lctrl1["xpch_max"] % bits:
        raise view.fault(
            "LCTRL1", f"xpch_max = {fields.lctrl1['xpch_max']} is not a multiple of the {bits} weight bits"
        )
    return (span // bits + 1) // passes, fields.lctrl1["xpch_max"] // bits + 1


def _decode_bias(view: LayerView, geometry: LayerGeometry, quad: bool) -> tuple[BiasStart, ...]:
    # A streaming layer 0 reads one entry further (section 3.7).
    extra = int(geometry.layer == 0 and geometry.streaming)
    starts = []
    for quadrant in view.quadrants:
        post = view.fields("POST", quadrant)
        if post["bptr_en"]:
            starts.append(BiasStart(quadrant=quadrant, entry=post["bptr_sad"] + extra))
        elif post["bptr_sad"]:
            raise view.fault("POST", f"bptr_sad = {post['bptr_sad']} without bptr_en", quadrant)
        if post["bptr_sad"] >= _GEOMETRY.bias_entries:
            raise view.fault(
                "POST", f"bptr_sad = {post['bptr_sad']}: there are {_GEOMETRY.bias_entries} entries", quadrant
            )
    if (len(starts) > 1 and not quad) or (quad and starts and len(starts) < len(view.quadrants)):
        raise view.fault("POST", f"bptr_en is set in {len(starts)} quadrants", starts[-1].quadrant)
    return tuple(starts)


def _split_pointer(view: LayerView, pointer: int) -> tuple[int, int]:
    """Instance and word of a global write pointer."""
    if pointer >> _GEOMETRY.pointer_bits:
        raise view.fault("WPTR_BASE", f"the write pointer reaches {pointer:#x}, beyond {_GEOMETRY.pointer_bits} bits")
    return pointer >> _GEOMETRY.pointer_instance_shift, pointer & (_GEOMETRY.data_words - 1)


def _conv_blocks(view: LayerView, fields: LayerFields, geometry: LayerGeometry) -> tuple[WriteBlock, ...]:
    """Where the slots of a convolution go (section 5.3)."""
    step = (fields.lctrl1["wptr_inc"] + 1) * (_WIDE_STEP if fields.lctrl0["bigdwrt"] else 1)
    base, next_pass, next_instance = (view.value(name) for name in ("WPTR_BASE", "WPTR_CHOFF", "WPTR_MOFF"))
    passes, per_pass = geometry.output_passes, geometry.slots_per_pass
    if next_pass != (step // passes if passes > 1 else 0) or step % passes:
        raise view.fault("WPTR_CHOFF", f"{next_pass:#x} with {passes} output passes and {step} words per pixel")
    blocks = []
    for output_pass in range(passes):
        in_pass = min(per_pass, geometry.slots - output_pass * per_pass)
        for lane in range(0, in_pass, _LANES):
            instance, word = _split_pointer(view, base + output_pass * next_pass + lane // _LANES * next_instance)
            blocks.append(
                WriteBlock(
                    instance=instance,
                    word=word,
                    step=step,
                    first_row=output_pass * per_pass + lane,
                    num_rows=min(_LANES, in_pass - lane),
                )
            )
    return tuple(blocks)


def _pass_blocks(
    view: LayerView, fields: LayerFields, geometry: LayerGeometry, processors: tuple[int, ...]
) -> tuple[WriteBlock, ...]:
    """Where a pass layer copies each quadrant's processors, packed from lane 0 (section 5.3)."""
    step = fields.lctrl1["wptr_inc"] + 1
    next_slot = view.value("WPTR_TOFF")
    blocks = []
    for quadrant, positions in by_quadrant(processors).items():
        base = view.fields("WPTR_BASE", quadrant)["value"]
        for input_pass in range(geometry.passes):
            for first in range(0, len(positions), _LANES):
                instance, word = _split_pointer(view, base + input_pass * step + first // _LANES * next_slot)
                blocks.append(
                    WriteBlock(
                        instance=instance,
                        word=word,
                        step=step * geometry.passes,
                        first_row=input_pass * len(processors) + positions[first],
                        num_rows=min(_LANES, len(positions) - first),
                    )
                )
    return tuple(blocks)
