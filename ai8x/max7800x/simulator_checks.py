"""Refusing layer registers that contradict each other or that have no known meaning.

Owns the rules between the fields of one layer (spec/max78000-cnn.md section 2.2). Decodes nothing. Start reading at
`check_constants`.
"""

from __future__ import annotations

from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.simulator_config import LayerFields, LayerGeometry, RunMode
from ai8x.max7800x.simulator_registers import LayerView

_GEOMETRY = MAX78000.geometry
_LANES = _GEOMETRY.processors_per_instance
_SHORT_TIME_SLOT = 2048
"""WPTR_TOFF of pass layers with one time slot, where it has no effect (section 2.2)."""


def check_constants(view: LayerView, fields: LayerFields, mode: RunMode) -> None:
    """Fields that have one value on this chip, and fields that follow from others."""
    lctrl0, oned = fields.lctrl0, fields.oned
    view.expect("LCTRL0", lctrl0, {"sslave": 0, "mslave": 0, "master": 1, "cpad_only": 0, "sramlsrc": 1})
    pooled = view.value("PRCNT") > 0 or view.value("PCCNT") > 0
    view.expect("LCTRL0", lctrl0, {"pool_en": int(pooled)}, "set exactly when the pool window is larger than 1x1")
    if lctrl0["parallel"] and view.layer:
        raise view.fault("LCTRL0", "parallel = 1: only layer 0 reads CHW data")
    if lctrl0["parallel"] and (fields.lctrl1["inpchexp"] or oned["ewise_en"]):
        raise view.fault("LCTRL0", "parallel = 1 with several passes or operands")
    for quadrant in view.quadrants[1:]:
        if view.fields("LCTRL0", quadrant)["cnnsi_en"]:
            raise view.fault("LCTRL0", "cnnsi_en: only the first quadrant adds", quadrant)
    if bool(oned["ewise_cnt"]) != bool(oned["ewise_en"]):
        raise view.fault("ONED", f"ewise_en = {oned['ewise_en']} with {oned['ewise_cnt'] + 1} operands")
    if oned["prepool"] and not (oned["ewise_en"] and pooled):
        raise view.fault("ONED", "prepool = 1 without pooling and element-wise operation")
    if not oned["ewise_en"]:
        view.expect("ONED", oned, {"ewise_func": 0}, "ewise_en is 0")
    if mode.fifo and view.layer == 0 and oned["ewise_en"]:
        raise view.fault("ONED", "ewise_en = 1 in a layer that reads the FIFO")


def check_conv(view: LayerView, fields: LayerFields, geometry: LayerGeometry) -> None:
    """Fields that a convolution fixes.

    Raises:
        HardwareFault: one of them has another value.
    """
    lctrl0, post = fields.lctrl0, fields.post
    view.expect("ONED", fields.oned, {"tscnt_max": 0}, "convolution")
    view.expect("POST", post, {"onexone_en": 0}, "convolution")
    if fields.oned["oned_en"] and (geometry.width > 1 or fields.oned["ewise_en"] or geometry.transposed):
        raise view.fault("ONED", "oned_en = 1 needs one column, one operand and no transposed convolution")
    if geometry.pad_rows >= geometry.kernel_height or geometry.pad_columns >= geometry.kernel_width:
        raise view.fault(
            "RCNT", f"pad {geometry.pad_rows} rows, {geometry.pad_columns} columns is not smaller than the kernel"
        )
    if geometry.flatten_en and (geometry.num_pixels > 1 or geometry.taps > 1):
        raise view.fault("POST", "flatten_en = 1 needs a 1x1 kernel on a 1x1 image")
    if lctrl0["bigdwrt"] and (lctrl0["act_en"] or post["out_abs"]):
        raise view.fault("LCTRL0", "bigdwrt = 1 with an activation")
    if view.value("WPTR_MOFF") != _GEOMETRY.data_words:
        raise view.fault("WPTR_MOFF", f"{view.value('WPTR_MOFF'):#x}, expected {_GEOMETRY.data_words:#x}")
    # Only a flatten layer may end within its last output pass (section 3.4), and that is a 1x1 kernel.
    passes, per_pass = geometry.output_passes, geometry.slots_per_pass
    if geometry.slots != passes * per_pass and not (geometry.taps == 1 and passes > 1):
        raise view.fault("LCTRL1", f"{geometry.slots} slots do not fill {passes} output passes of {per_pass}")
    wanted = int(geometry.taps == 1 and not fields.oned["oned_en"])
    if view.value("WPTR_TOFF") != wanted:
        raise view.fault(
            "WPTR_TOFF", f"{view.value('WPTR_TOFF'):#x}, expected {wanted}: 1 for 1x1 kernels, 0 for others"
        )
    if not 0 <= fields.oned["oned_sad"] < geometry.taps:
        raise view.fault("ONED", f"oned_sad = {fields.oned['oned_sad']} is not smaller than the {geometry.taps} taps")


def check_sum(view: LayerView, fields: LayerFields, processors: tuple[int, ...], quad: bool) -> None:
    """The first quadrant must add exactly the quadrants that contribute."""
    needed = {processor // _GEOMETRY.processors_per_quadrant for processor in processors}
    needed |= {quadrant for quadrant in view.quadrants if view.fields("POST", quadrant)["bptr_en"]}
    wanted = 0 if quad else sum(1 << quadrant for quadrant in needed if quadrant != view.quadrants[0])
    view.expect(
        "LCTRL0",
        fields.lctrl0,
        {"cnnsi_en": wanted},
        "one bit for each other quadrant with processors or with the bias",
    )


def check_pass(view: LayerView, fields: LayerFields, geometry: LayerGeometry, processors: tuple[int, ...]) -> None:
    """Fields that a pass layer fixes.

    Raises:
        HardwareFault: one of them has another value.
    """
    lctrl0 = {k: fields.lctrl0[k] for k in ("act_en", "cnnsi_en", "bigdwrt")}
    view.expect("LCTRL0", lctrl0, dict.fromkeys(lctrl0, 0), "pass layer")
    wanted = {
        "onexone_en": int(not fields.oned["ewise_en"]),
        "scale_reg": 0,
        "scale_shft": 0,
        "out_abs": 0,
        "flatten_en": 0,
    }
    view.expect("POST", fields.post, wanted, "pass layer")
    for quadrant in view.quadrants:
        view.expect("POST", view.fields("POST", quadrant), {"bptr_sad": 0, "bptr_en": 0}, "pass layer")
    view.expect("LCTRL1", fields.lctrl1, {"xpch_max": 0}, "pass layer")
    view.expect("MCNT", fields.mcnt, {"sad": 0, "max": 8 * (geometry.passes - 1)}, "pass layer: 8 * (passes - 1)")
    if view.value("WPTR_MOFF"):
        raise view.fault("WPTR_MOFF", "a pass layer does not use it")
    _check_pass_pointers(view, fields, geometry, processors)
    if geometry.pad_rows or geometry.pad_columns:
        raise view.fault("RCNT", "pad in a pass layer")
    most = max(len(group) for group in by_quadrant(processors).values())
    view.expect("ONED", fields.oned, {"tscnt_max": (most - 1) // _LANES}, "time slots of the fullest quadrant - 1")


def _check_pass_pointers(
    view: LayerView, fields: LayerFields, geometry: LayerGeometry, processors: tuple[int, ...]
) -> None:
    """A pass layer writes to the same words of every quadrant's own instances."""
    step = fields.lctrl1["wptr_inc"] + 1
    if view.value("WPTR_CHOFF") not in {0, step} or (geometry.passes > 1 and view.value("WPTR_CHOFF") != step):
        raise view.fault("WPTR_CHOFF", f"{view.value('WPTR_CHOFF'):#x}, expected {step} (wptr_inc + 1)")
    several = any(len(group) > _LANES for group in by_quadrant(processors).values())
    allowed = {_GEOMETRY.data_words} if several else {_SHORT_TIME_SLOT, _GEOMETRY.data_words}
    if view.value("WPTR_TOFF") not in allowed:
        raise view.fault(
            "WPTR_TOFF", f"{view.value('WPTR_TOFF'):#x}, expected {' or '.join(map(hex, sorted(allowed)))}"
        )
    used = by_quadrant(processors)
    quadrant_words = _GEOMETRY.instances_per_quadrant * _GEOMETRY.data_words
    first = next(iter(used))
    word = view.fields("WPTR_BASE", first)["value"] % _GEOMETRY.data_words
    for quadrant in view.quadrants:
        pointer = view.fields("WPTR_BASE", quadrant)["value"]
        # A quadrant without work points to instance 0 (section 2.2).
        home = quadrant if quadrant in used else 0
        if pointer // quadrant_words != home or pointer % _GEOMETRY.data_words != word:
            what = f"{pointer:#x}: expected word {word:#x} of an instance of quadrant {home}"
            raise view.fault("WPTR_BASE", what, quadrant)


def check_tram(view: LayerView, geometry: LayerGeometry) -> None:
    """TPTR must hold one row of the pixel cache (section 2.2)."""
    tptr = view.common("TPTR")
    is_1d = bool(view.common("ONED")["oned_en"])
    entries = 1
    if geometry.kind == "conv" and not is_1d and (geometry.taps > 1 or (geometry.layer > 0 and geometry.streaming)):
        width = geometry.pooled_width * (2 if geometry.transposed else 1)
        entries = max(0, width + 2 * geometry.pad_columns - geometry.kernel_width) + 1
    if geometry.flatten_en:
        view.expect("TPTR", tptr, {"sad": geometry.passes - 1, "max": 2 * geometry.passes - 1}, "long flatten")
        return
    if not (geometry.streaming and geometry.layer > 0):
        view.expect("TPTR", tptr, {"sad": 0}, "the layer is alone in the TRAM")
    view.expect("TPTR", tptr, {"max": tptr["sad"] + entries - 1}, f"one row is {entries} entries")


def by_quadrant(processors: tuple[int, ...]) -> dict[int, list[int]]:
    """Quadrant -> positions in the list of enabled processors."""
    groups: dict[int, list[int]] = {}
    for position, processor in enumerate(processors):
        groups.setdefault(processor // _GEOMETRY.processors_per_quadrant, []).append(position)
    return groups
