"""The KPU as hardware: 12 words, its RAM and the bytes it fetches in; RAM out.

Sees no file and no network. A layer is refused (`HardwareFault`) if its words are not a combination that the chip is
known to execute. Bytes of the RAM that nobody wrote are tracked: what depends on them is marked, not guessed.
Start at `Kpu.run_layer`.

Source: spec/k210-kmodel.md sections 2, 3, 4, 6 and 7.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import HardwareFault
from ai8x.k210 import device
from ai8x.k210.device import K210, LAYER_ARGUMENT, LINE_BYTES, POOL_TYPES, PoolType
from ai8x.k210.simulator_arithmetic import KpuArithmetic
from ai8x.k210.simulator_stages import ArgShift, Compare, KpuOptions, KpuParameters, Rounding
from ai8x.k210.simulator_sums import ConvArguments
from ai8x.registers import RegisterError

__all__ = ["ArgShift", "Compare", "Kpu", "KpuOptions", "KpuResult", "LayerGeometry", "MapPlace", "Rounding"]

Fetch = Callable[[int, int], bytes]
"""Bus read of the KPU: (address, size) -> bytes; raises HardwareFault where nothing can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapPlace:
    """A map in KPU RAM."""

    line: int
    channels: int
    height: int
    width: int

    @property
    def lines(self) -> int:
        """Lines that it occupies."""
        return device.map_lines(self.channels, self.height, self.width)

    @property
    def bytes(self) -> slice:
        """Its bytes in the RAM."""
        return slice(self.line * LINE_BYTES, (self.line + self.lines) * LINE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGeometry:
    """A layer argument decoded and found legal.

    Args:
        fields: all fields of the words.
        source: map that is read.
        destination: map that is written.
        kernel: 1 or 3.
        pool: pooling.
        depthwise: one kernel for each channel.
        weight_bytes: 1 or 2.
    """

    fields: Mapping[str, int]
    source: MapPlace
    destination: MapPlace
    kernel: int
    pool: PoolType
    depthwise: bool
    weight_bytes: int

    @property
    def channel_bytes(self) -> int:
        """Bytes of the kernels of one output channel."""
        inputs = 1 if self.depthwise else self.source.channels
        return self.kernel**2 * inputs * self.weight_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KpuResult:
    """What a layer produced.

    Args:
        output: dense uint8 (OC, OH, OW), as it leaves through the FIFO.
        undefined: bytes that depend on RAM that nobody wrote, or None if there are none.
        geometry: the decoded layer.
    """

    output: NDArray[np.uint8]
    undefined: NDArray[np.bool_] | None
    geometry: LayerGeometry


def _fault(layer: str, field: str, message: str) -> HardwareFault:
    register = next(word.name for word in LAYER_ARGUMENT if any(f.name == field for f in word.fields))
    return HardwareFault(f"{layer}: {register}.{field}: {message}")


def _decode_geometry(fields: Mapping[str, int], layer: str, weight_bytes: int) -> LayerGeometry:
    if fields["kernel_type"] > 1:
        raise _fault(layer, "kernel_type", f"{fields['kernel_type']} is undefined; 0 is 1x1, 1 is 3x3")
    if fields["pool_type"] >= len(POOL_TYPES):
        raise _fault(layer, "pool_type", f"{fields['pool_type']} is undefined; 0 to {len(POOL_TYPES) - 1} are")
    return LayerGeometry(
        fields=fields,
        source=MapPlace(line=fields["image_src_addr"], channels=fields["i_ch_num"] + 1,
                        height=fields["i_col_high"] + 1, width=fields["i_row_wid"] + 1),
        destination=MapPlace(line=fields["image_dst_addr"], channels=fields["o_ch_num"] + 1,
                             height=fields["o_col_high"] + 1, width=fields["o_row_wid"] + 1),
        kernel=3 if fields["kernel_type"] else 1,
        pool=POOL_TYPES[fields["pool_type"]],
        depthwise=bool(fields["depth_wise_layer"]),
        weight_bytes=weight_bytes,
    )


_CONSTANT_FIELDS = {
    "ram_flag": 0, "full_add": 0, "pad_type": 0, "first_stride": 0, "bypass_conv": 0, "coef_column_offset": 0,
    "coef_row_offset": 0, "coef_size": 0, "load_para": 1, "load_coor": 1, "load_act": 1, "dma_burst_size": 15,
}
"""Fields of which only one value is known to work; section 3."""


def _derived_fields(geometry: LayerGeometry) -> dict[str, int]:
    """Fields that follow from the shapes; section 3. The output area is stored modulo 2**16."""
    source, destination = geometry.source, geometry.destination
    loaded = geometry.fields["o_ch_num_coef"] + 1
    area = destination.height * destination.width
    return {
        "o_row_wid": source.width // geometry.pool.stride - 1,
        "o_col_high": source.height // geometry.pool.stride - 1,
        "row_switch_addr": device.lines_per_row(source.width),
        "channel_switch_addr": device.lines_per_group(source.height, source.width),
        "coef_group": device.channels_per_line(source.width),
        "wb_row_switch_addr": device.lines_per_row(destination.width),
        "wb_channel_switch_addr": device.lines_per_group(destination.height, destination.width),
        "wb_group": device.channels_per_line(destination.width),
        "load_time": -(-destination.channels // loaded) - 1,
        "para_size": loaded * geometry.channel_bytes,
        "channel_byte_num": (area - 1) & 0xFFFF,
        "dma_total_byte": destination.channels * area - 1,
    }


def _check_fields(geometry: LayerGeometry, layer: str) -> None:
    for field, expected in (_CONSTANT_FIELDS | _derived_fields(geometry)).items():
        if geometry.fields[field] != expected:
            raise _fault(layer, field, f"{geometry.fields[field]}, this layer needs {expected}")


def _check_map(place: MapPlace, field: str, layer: str) -> None:
    limits = K210.limits
    width_ok = limits.min_map <= place.width <= limits.max_width
    if not (width_ok and limits.min_map <= place.height <= limits.max_height):
        raise _fault(layer, field, f"a map of {place.height}x{place.width}; rows {limits.min_map} to "
                     f"{limits.max_height} and columns {limits.min_map} to {limits.max_width} are known to work")
    if place.line + place.lines > K210.memory.kpu_lines:
        raise _fault(layer, field, f"lines {place.line} to {place.line + place.lines - 1} leave the KPU RAM of "
                     f"{K210.memory.kpu_lines} lines")


def _check_layer(geometry: LayerGeometry, layer: str) -> None:
    """Limits of section 7 and the loads of section 4.2."""
    _check_map(geometry.source, "image_src_addr", layer)
    _check_fields(geometry, layer)
    _check_map(geometry.destination, "image_dst_addr", layer)
    source, destination = geometry.source, geometry.destination
    if source.line < destination.line + destination.lines and destination.line < source.line + source.lines:
        raise _fault(layer, "image_dst_addr", f"lines {destination.line} to {destination.line + destination.lines - 1} "
                     f"overlap the input in lines {source.line} to {source.line + source.lines - 1}")
    if geometry.depthwise and source.channels != destination.channels:
        raise _fault(layer, "o_ch_num", f"a depthwise layer of {source.channels} channels gives {destination.channels}")
    if geometry.depthwise and geometry.pool.code:
        raise _fault(layer, "pool_type", f"pooling ({geometry.pool.name}) in a depthwise layer is a known chip defect")
    if geometry.fields["o_ch_num_coef"] + 1 > destination.channels:
        raise _fault(layer, "o_ch_num_coef", "a weight load holds more channels than the layer has")
    buffered = device.buffered_bytes(geometry.channel_bytes, geometry.kernel) * (geometry.fields["o_ch_num_coef"] + 1)
    if buffered > K210.limits.buffer_bytes:
        raise _fault(layer, "para_size", f"a load takes {buffered} of {K210.limits.buffer_bytes} bytes of the buffer")
    if geometry.fields["send_data_out"] and destination.height * destination.width > K210.limits.max_fifo_map:
        raise _fault(layer, "send_data_out", f"maps of {destination.height}x{destination.width} exceed "
                     f"{K210.limits.max_fifo_map} bytes")


class Kpu:
    """The KPU with its RAM.

    Args:
        options: emulator variants; the chip by default.
        ram: 2 MiB of uint8 to work on, shared with a caller that models the bus; by default own memory with arbitrary
            contents.
        track_undefined: remember which bytes were written. Needs that all writes go through this object.
        seed: of the contents of own memory; None for zeros.
    """

    def __init__(self, options: KpuOptions | None = None, *, ram: NDArray[np.uint8] | None = None,
                 track_undefined: bool = True, seed: int | None = 0) -> None:
        self.options = options or KpuOptions()
        self.ram: NDArray[np.uint8] = device.arbitrary_bytes(K210.memory.kpu_bytes, seed) if ram is None else ram
        self._undefined = np.full(K210.memory.kpu_bytes, track_undefined)
        self._track = track_undefined

    def write_byte(self, offset: int, value: int) -> None:
        """One byte written by the CPU; offset in bytes from the start of the RAM."""
        self.ram[offset] = value
        self._undefined[offset] = False

    def poison(self, offset: int, size: int) -> None:
        """Forget that these bytes were written (the CPU copied bytes that nobody wrote)."""
        if self._track:
            self._undefined[offset : offset + size] = True

    def store_map(self, place: MapPlace, values: NDArray[np.uint8], undefined: NDArray[np.bool_] | None = None) -> None:
        """Write a map; the unused bytes of its lines become undefined.

        Args:
            place: where.
            values: (C, H, W).
            undefined: bytes to mark, None for none.
        """
        self._scatter(self.ram, place, values)
        if self._track:
            self._undefined[place.bytes] = True
            self._scatter(self._undefined, place, np.zeros(values.shape, np.bool_) if undefined is None else undefined)

    def load_map(self, place: MapPlace) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Read a map: values (C, H, W) and the mask of undefined bytes, None if there are none."""
        undefined = self._gather(self._undefined, place)
        return self._gather(self.ram, place), undefined if undefined.any() else None

    @staticmethod
    def _lanes(memory: NDArray[Any], place: MapPlace) -> NDArray[Any]:
        """View of a map's lines as (group, row, channel of the line, byte)."""
        shared = device.channels_per_line(place.width)
        row_bytes = device.lines_per_row(place.width) * LINE_BYTES
        return memory[place.bytes].reshape(-1, place.height, shared, row_bytes // shared)[..., : place.width]

    def _scatter(self, memory: NDArray[Any], place: MapPlace, values: NDArray[Any]) -> None:
        lanes = self._lanes(memory, place)
        shared = lanes.shape[2]
        for lane in range(min(shared, place.channels)):
            channels = values[lane::shared]
            lanes[: len(channels), :, lane] = channels

    def _gather(self, memory: NDArray[Any], place: MapPlace) -> NDArray[Any]:
        lanes = self._lanes(memory, place).transpose(0, 2, 1, 3)
        return lanes.reshape(-1, place.height, place.width)[: place.channels]

    def run_layer(self, words: Sequence[int], fetch: Fetch, *, eight_bit: bool = True,
                  layer: str = "layer") -> KpuResult:
        """Execute one layer.

        Args:
            words: the 12 words with the addresses that the runner put in.
            fetch: bus read for weights, batch norm parameters and activation table.
            eight_bit: the register EIGHT_BIT_MODE.
            layer: how to call the layer in faults.

        Raises:
            HardwareFault: words that the chip does not define, or a sum beyond 36 bits.
        """
        try:
            fields = device.decode_layer_argument(words)
        except RegisterError as error:
            raise HardwareFault(f"{layer}: {error}") from error
        geometry = _decode_geometry(fields, layer, 1 if eight_bit else 2)
        _check_layer(geometry, layer)
        arithmetic = KpuArithmetic(
            ConvArguments(arg_x=fields["arg_x"], shr_x=fields["shr_x"], arg_w=fields["arg_w"], shr_w=fields["shr_w"],
                          arg_add=fields["arg_add"], pad_value=fields["pad_value"], depthwise=geometry.depthwise),
            fetch_parameters(geometry, fetch, layer), geometry.pool, self.options, layer)
        output, undefined = arithmetic.run(*self.load_map(geometry.source))
        self.store_map(geometry.destination, output, undefined)
        return KpuResult(output=output, undefined=undefined, geometry=geometry)


def fetch_parameters(geometry: LayerGeometry, fetch: Fetch, layer: str) -> KpuParameters:
    """Read and decode what a layer fetches.

    Raises:
        HardwareFault: misaligned address, reserved bits, or a table that is not ascending from -2**35.
    """
    fields = geometry.fields
    alignment = K210.alignment
    for field, least in (("para_start_addr", alignment.least_weights), ("bwsx_base_addr", alignment.least_batch_norm),
                         ("active_addr", alignment.least_table)):
        if fields[field] % least:
            raise _fault(layer, field, f"{fields[field]:#010x} is not a multiple of {least}")
    channels = geometry.destination.channels
    inputs = 1 if geometry.depthwise else geometry.source.channels
    raw = fetch(fields["para_start_addr"], channels * geometry.channel_bytes)
    weights = np.frombuffer(raw, "u1" if geometry.weight_bytes == 1 else "<u2")
    norm_words = np.frombuffer(fetch(fields["bwsx_base_addr"], 8 * channels), "<u8")
    table = fetch(fields["active_addr"], device.TABLE_BYTES)
    try:
        norm = device.decode_words(device.BATCH_NORM_WORD, norm_words)
        segments = device.decode_words(device.TABLE_WORD, np.frombuffer(table, "<u8", device.TABLE_SEGMENTS))
    except RegisterError as error:
        raise HardwareFault(f"{layer}: {error}") from error
    start = segments["start"]
    if start[0] != device.TABLE_MIN_START or np.any(np.diff(start) < 0):
        raise HardwareFault(f"{layer}: activation table at {fields['active_addr']:#010x}: starts must ascend from "
                            f"{device.TABLE_MIN_START}, found {start.tolist()}")
    bias = np.frombuffer(table, np.uint8, device.TABLE_SEGMENTS, 8 * device.TABLE_SEGMENTS)
    return KpuParameters(
        weights=weights.reshape(channels, inputs, geometry.kernel, geometry.kernel),
        bn_mul=norm["mul"], bn_shift=norm["shift"], bn_add=norm["add"],
        start=start, mul=segments["mul"], shift=segments["shift"], bias=bias.astype(np.int64))
