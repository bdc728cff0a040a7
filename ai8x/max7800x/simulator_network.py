"""What the registers say about a whole run: its mode, its layers, its streams and what it needs from the FIFO.

Owns the rules that span several layers or registers (spec/max78000-cnn.md sections 2.1, 2.3 and 6.5) and refuses a
start whose configuration breaks one. Knows nothing of memory contents. Start reading at `decode_network`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ai8x.errors import HardwareFault
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.simulator_config import LayerConfig, RunMode, WriteBlock
from ai8x.max7800x.simulator_layer import decode_layer
from ai8x.max7800x.simulator_order import first_word_lost
from ai8x.max7800x.simulator_registers import LayerView, RegisterFile, register_fault

_GEOMETRY = MAX78000.geometry
_LIMITS = MAX78000.limits
_WAIT = 4
"""CTRL.ext_sync of a quadrant that waits for quadrant 0."""
_UNIMPLEMENTED = (
    "calcmax",
    "pool_en",
    "bigdata",
    "oneshot",
    "mlat_ld",
    "mlatch_sel",
    "simple1b",
    "fclk_dly",
    "timeshft",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FifoNeed:
    """What a run reads from the FIFOs.

    Args:
        fifos: which FIFOs, ascending; (0,) for the fast FIFO.
        words: words from each.
        fast: from the fast FIFO.
        instances: for each FIFO the data instances that its words go to.
    """

    fifos: tuple[int, ...] = ()
    words: int = 0
    fast: bool = False
    instances: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """A run, decoded.

    Args:
        mode: choices of CTRL.
        layers: every layer from 0.
        buffers: rollover of each streaming layer's input buffer in words; shorter than `layers`.
        fifo: what layer 0 reads from the FIFOs; nothing without FIFO.
    """

    mode: RunMode
    layers: tuple[LayerConfig, ...]
    buffers: tuple[int, ...]
    fifo: FifoNeed


def decode_network(registers: RegisterFile) -> NetworkConfig:
    """Decode what starts when quadrant 0 is enabled now.

    Raises:
        HardwareFault: the configuration is incomplete, contradictory or not simulated.
    """
    mode = _decode_mode(registers)
    last = _shared(registers, mode.quadrants, "LCNT_MAX")
    if last >> 8:
        raise _fault(registers, "LCNT_MAX", 0, f"start = {last >> 8}: this chip starts at layer 0")
    layers = tuple(decode_layer(LayerView(registers, layer, mode.quadrants), mode) for layer in range(last + 1))
    views = [LayerView(registers, layer, mode.quadrants) for layer in range(last + 1)]
    buffers = _check_streams(views, layers, mode)
    for view, config in zip(views, layers, strict=True):
        _check_writes(view, config, unbounded=view.layer + 1 < len(buffers))
        _check_reads(view, config)
    _check_buffers(views, layers, buffers)
    fifo = _decode_fifo(registers, views[0], layers[0], mode)
    return NetworkConfig(mode=mode, layers=layers, buffers=buffers, fifo=fifo)


def check_control(quadrant: int, word: int) -> None:
    """Refuse a CTRL word that no firmware for this simulator may write.

    Raises:
        HardwareFault: a mode that is not simulated, a wrong synchronisation source, or a stopped clock.
    """
    fields = MAX78000.quadrant.register("CTRL").decode(word)
    address = _GEOMETRY.quadrant_registers(quadrant)
    for name in _UNIMPLEMENTED:
        if fields[name]:
            what = f"{name} = {fields[name]}: not implemented by the simulator"
            raise register_fault("CTRL", what, address=address, quadrant=quadrant)
    if fields["ext_sync"] not in {0, _WAIT} or not fields["clk_en"]:
        what = f"ext_sync = {fields['ext_sync']}, clk_en = {fields['clk_en']}: allowed are 0 or {_WAIT}, and 1"
        raise register_fault("CTRL", what, address=address, quadrant=quadrant)


def _fault(registers: RegisterFile, name: str, quadrant: int, what: str) -> HardwareFault:
    return register_fault(name, what, address=registers.address(quadrant, name), quadrant=quadrant)


def _shared(registers: RegisterFile, quadrants: tuple[int, ...], name: str) -> int:
    """A global register that all armed quadrants must share."""
    word = registers.word(0, name)
    for quadrant in quadrants:
        if registers.word(quadrant, name) != word:
            raise _fault(registers, name, quadrant, f"{registers.word(quadrant, name):#x}, but {word:#x} in quadrant 0")
    return word


def _decode_mode(registers: RegisterFile) -> RunMode:
    """The armed quadrants and what their CTRL registers agree on."""
    control = [registers.fields(quadrant, "CTRL") for quadrant in range(_GEOMETRY.num_quadrants)]
    quadrants = tuple(quadrant for quadrant, fields in enumerate(control) if fields["cnn_en"])
    _check_unarmed(registers, quadrants)
    for quadrant in quadrants:
        fields = control[quadrant]
        for name in ("poolrnd", "stream_en", "fifo_en", "lilbuf", "qupac"):
            if fields[name] != control[0][name]:
                raise _fault(
                    registers, "CTRL", quadrant, f"{name} = {fields[name]}, but {control[0][name]} in quadrant 0"
                )
        wanted = _WAIT if quadrant or fields["fifo_en"] else 0
        if fields["ext_sync"] != wanted or fields["cnn_irq"]:
            what = (
                f"started with ext_sync = {fields['ext_sync']}, cnn_irq = {fields['cnn_irq']}; expected {wanted} and 0"
            )
            raise _fault(registers, "CTRL", quadrant, what)
        if registers.word(quadrant, "SRAM") != MAX78000.sram_setting:
            raise _fault(
                registers,
                "SRAM",
                quadrant,
                f"started with {registers.word(quadrant, 'SRAM'):#x}, expected "
                f"{MAX78000.sram_setting:#x}: other memory timings are not simulated",
            )
    return _check_mode(registers, control, quadrants)


def _check_unarmed(registers: RegisterFile, quadrants: tuple[int, ...]) -> None:
    """A quadrant that is left out must not have work to do."""
    last = registers.word(0, "LCNT_MAX") & (_LIMITS.max_layers - 1)
    for quadrant in set(range(_GEOMETRY.num_quadrants)) - set(quadrants):
        for layer in range(last + 1):
            if registers.word(quadrant, "EN", layer):
                raise register_fault(
                    "EN",
                    "processors are enabled, but the quadrant was not started",
                    address=registers.address(quadrant, "EN", layer),
                    layer=layer,
                    quadrant=quadrant,
                )


def _check_mode(registers: RegisterFile, control: list[dict[str, int]], quadrants: tuple[int, ...]) -> RunMode:
    first = control[0]
    fifo, streaming, quad = bool(first["fifo_en"]), bool(first["stream_en"]), bool(first["qupac"])
    fast = any(control[quadrant]["ffifo_en"] for quadrant in quadrants)
    if bool(first["lilbuf"]) != (fifo and streaming):
        raise _fault(
            registers, "CTRL", 0, f"lilbuf = {first['lilbuf']} with fifo_en = {fifo:d} and stream_en = {streaming:d}"
        )
    if streaming and not fifo:
        raise _fault(registers, "CTRL", 0, "stream_en = 1 needs the FIFO")
    if (fast and not fifo) or any(fields["ffifo_en"] != fields["fifogrp"] for fields in control):
        raise _fault(
            registers, "CTRL", 0, "ffifo_en, fifogrp: the fast FIFO is simulated only with fifo_en and fifogrp"
        )
    if quad and (not fast or len(quadrants) < _GEOMETRY.num_quadrants):
        raise _fault(registers, "CTRL", 0, "qupac = 1 needs the fast FIFO and all four quadrants")
    return RunMode(
        quadrants=quadrants,
        round_average=bool(first["poolrnd"]),
        fifo=fifo,
        fast_fifo=fast,
        streaming=streaming,
        quad=quad,
    )


# Streams (sections 2.3 and 6.5)


def _check_streams(views: list[LayerView], layers: tuple[LayerConfig, ...], mode: RunMode) -> tuple[int, ...]:
    """The stream registers of every layer; returns the buffer sizes of the streaming layers."""
    streaming = [config.geometry.streaming for config in layers]
    count = streaming.index(False) if False in streaming else len(streaming)
    if any(streaming[count:]):
        raise views[streaming.index(True, count)].fault("FBUF", "a streaming layer follows one that is not streaming")
    if bool(count) != mode.streaming:
        raise views[0].fault("FBUF", f"{count} streaming layers with CTRL.stream_en = {mode.streaming:d}")
    invol = 0
    for view, config in zip(views, layers, strict=True):
        wanted = dict.fromkeys(("start", "delta1", "delta2", "invol"), 0)
        if view.layer == 0 and mode.fifo:
            wanted |= _first_stream(config)
        elif view.layer < count:
            wanted |= _next_stream(layers[view.layer - 1], config) | {"invol": invol}
        _check_stream(view, config, wanted)
        invol += config.geometry.passes
    if count and layers[count - 1].geometry.pad_rows < _LIMITS.min_last_stream_pad:
        raise views[count - 1].fault("RCNT", "the last streaming layer needs a pad")
    return tuple(view.value("FBUF") for view in views[:count])


def _first_stream(config: LayerConfig) -> dict[str, int]:
    g = config.geometry
    if not g.streaming:
        return {"start": config.read_words * g.pool_height}
    return {
        "start": ((g.pool_height - 1) * g.width + g.pool_width) * g.pool_height,
        "delta1": g.stride - 1,
        "delta2": (g.pool_height - 1) * g.width,
    }


def _next_stream(previous: LayerConfig, config: LayerConfig) -> dict[str, int]:
    g, q = config.geometry, previous.geometry
    row = q.pooled_width + 2 * q.pad_columns
    start = (
        row * (q.kernel_height - 1 + g.pool_height - 1) + q.kernel_width - 1 + g.pool_width + _LIMITS.stream_start_extra
    )
    return {"start": start, "delta1": g.stride * g.operands, "delta2": (g.stride - 1) * row + g.pool_width * g.operands}


def _check_stream(view: LayerView, config: LayerConfig, wanted: dict[str, int]) -> None:
    strm0, strm1, rollover = view.common("STRM0"), view.common("STRM1"), view.value("FBUF")
    why = "follows from the layer's size; other values are not simulated"
    view.expect("STRM0", strm0, {"start": wanted["start"]}, why)
    view.expect("STRM1", strm1, {name: wanted[name] for name in ("invol", "delta1", "delta2")}, why)
    g = config.geometry
    if not g.streaming:
        return
    if g.kind == "pass" or g.transposed or config.operation is not None:
        raise view.fault("FBUF", "this kind of layer cannot stream")
    size = wanted["start"] + (g.pool_height - 1) * g.width + max(1, g.stride, g.pool_width)
    size = _LIMITS.stream_chw_buffer if g.chw else -(-size // g.passes) * g.passes
    view.expect("FBUF", {"rollover": rollover}, {"rollover": size}, why)


def _check_buffers(views: list[LayerView], layers: tuple[LayerConfig, ...], buffers: tuple[int, ...]) -> None:
    """Circular buffers, the TRAM of streaming layers and the last one's output must not meet."""
    taken: dict[int, list[tuple[int, int, int]]] = {}
    tram: list[tuple[int, int, int]] = []
    for view, config, size in zip(views, layers, buffers, strict=False):
        low, high = config.read_word, config.read_word + size
        if high > _GEOMETRY.data_words:
            raise view.fault(
                "FBUF", f"the buffer ends at word {high}, beyond the {_GEOMETRY.data_words} of an instance"
            )
        for instance in config.instances:
            _claim(view, taken.setdefault(instance, []), (low, high), f"words of instance {instance}")
        sad, last = view.common("TPTR")["sad"], view.common("TPTR")["max"]
        _claim(view, tram, (sad, sad + (last - sad + 1) * config.geometry.passes), "TRAM entries")
        if tram[-1][1] > _LIMITS.max_stream_tram:
            raise view.fault("TPTR", f"TRAM entries up to {tram[-1][1]}: pointers end at {_LIMITS.max_stream_tram}")
        if view.layer:
            _check_handover(view, layers[view.layer - 1], config)
    if buffers:
        last_view = views[len(buffers) - 1]
        for instance, words in _written_words(layers[len(buffers) - 1]):
            for low, high, owner in taken.get(instance, []):
                if np.any((words >= low) & (words < high)):
                    raise last_view.fault(
                        "WPTR_BASE", f"the output meets the stream buffer of layer {owner} in instance {instance}"
                    )


def _claim(view: LayerView, taken: list[tuple[int, int, int]], wanted: tuple[int, int], what: str) -> None:
    for low, high, owner in taken:
        if wanted[0] < high and low < wanted[1]:
            raise view.fault("FBUF", f"{what} {wanted[0]} to {wanted[1] - 1} already belong to streaming layer {owner}")
    taken.append((*wanted, view.layer))


def _check_handover(view: LayerView, producer: LayerConfig, config: LayerConfig) -> None:
    """The producer's output must be, word for word, what the streaming layer reads."""
    p, g = producer.geometry, config.geometry
    passes = p.output_passes
    dense = all(
        block.step == passes and block.word == config.read_word + block.first_row // p.slots_per_pass
        for block in producer.blocks
    )
    if (p.out_height, p.out_width, passes) != (g.height, g.width, g.passes) or not dense or producer.wide:
        raise view.fault(
            "RPTR_BASE",
            f"reads {g.height}x{g.width} in {g.passes} passes from word {config.read_word:#x}, which is not "
            f"what streaming layer {view.layer - 1} writes",
        )
    missing = set(config.instances) - {block.instance for block in producer.blocks}
    if missing:
        raise view.fault("EN", f"streaming layer {view.layer - 1} does not write instances {sorted(missing)}")


# Memory use


def _block_words(block: WriteBlock, config: LayerConfig) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Words by pixel, (pixel, word of the pixel)."""
    words = block.word + np.arange(config.geometry.num_pixels)[:, None] * block.step
    return words + np.arange(block.num_rows) if config.wide else words


def _written_words(config: LayerConfig) -> Iterator[tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]]:
    """Every instance with the words written there, (pixel, word of the pixel)."""
    by_instance: dict[int, list[WriteBlock]] = {}
    for block in config.blocks:
        by_instance.setdefault(block.instance, []).append(block)
    for instance, blocks in by_instance.items():
        yield instance, np.concatenate([_block_words(block, config) for block in blocks], axis=1)


def _check_writes(view: LayerView, config: LayerConfig, *, unbounded: bool) -> None:
    """Output must stay in its instances, hit no word twice and spare the layer's own input until that is read."""
    for instance, words in _written_words(config):
        if not unbounded and words.max() >= _GEOMETRY.data_words:
            raise view.fault(
                "WPTR_BASE",
                f"the output reaches word {words.max()} of instance {instance}; it has {_GEOMETRY.data_words}",
            )
        if len(np.unique(words)) != words.size:
            raise view.fault("WPTR_BASE", f"the layer writes words of instance {instance} twice")
        lost = first_word_lost(config, instance, words)
        if lost is not None:
            address = _GEOMETRY.data_address(instance, lost)
            raise view.fault("WPTR_BASE", f"the layer writes over its own input at {address:#010x}")


def _check_reads(view: LayerView, config: LayerConfig) -> None:
    end = config.read_word + config.read_words
    if not config.geometry.streaming and end > _GEOMETRY.data_words:
        raise view.fault("RPTR_BASE", f"the input reaches word {end - 1}; an instance has {_GEOMETRY.data_words}")
    if config.geometry.chw and any(processor % _GEOMETRY.processors_per_instance for processor in config.processors):
        raise view.fault("EN", "CHW input on a byte lane other than 0: not implemented by the simulator")


# FIFO


def _decode_fifo(registers: RegisterFile, view: LayerView, config: LayerConfig, mode: RunMode) -> FifoNeed:
    """Which FIFOs feed layer 0, and how many words each."""
    words = _shared(registers, mode.quadrants, "IFRM")
    if not mode.fifo:
        if words:
            raise _fault(registers, "IFRM", 0, f"{words} words without CTRL.fifo_en")
        return FifoNeed()
    if words != config.read_words or config.geometry.passes > 1:
        raise _fault(
            registers, "IFRM", 0, f"{words} words, but layer 0 reads {config.read_words} of each instance in one pass"
        )
    per_fifo = _GEOMETRY.instances_per_quadrant
    fifos = tuple(sorted({instance // per_fifo for instance in config.instances}))
    if any(instance % per_fifo for instance in config.instances):
        raise view.fault("EN", "the FIFO feeds only the first four processors of a quadrant")
    if not mode.fast_fifo:
        return FifoNeed(fifos=fifos, words=words, instances=tuple((fifo * per_fifo,) for fifo in fifos))
    if (fifos != tuple(range(_GEOMETRY.num_fifos))) if mode.quad else (fifos != (0,)):
        raise view.fault("EN", "the fast FIFO feeds processors 0 to 3, in quad mode of every quadrant")
    return FifoNeed(fifos=(0,), words=words, fast=True, instances=(config.instances,))
