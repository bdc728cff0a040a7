"""Running a decoded network on the memories: gather, compute, write back.

Owns the movement of data between memories, stream buffers and arithmetic, and the record of what each layer wrote.
Knows nothing of registers or of the bus. Start reading at `run_layers` and `LayerRun`.

Source: spec/max78000-cnn.md sections 2.3 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.simulator_compute import Bytes, Kernel, Origins, compute_layer
from ai8x.max7800x.simulator_config import LayerConfig, WriteBlock
from ai8x.max7800x.simulator_memory import U8, Bools, DataMemory
from ai8x.max7800x.simulator_network import NetworkConfig

_GEOMETRY = MAX78000.geometry
_LANES = _GEOMETRY.word_bytes
_WIDE_BITS = 32
Integers = npt.NDArray[np.int64]
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRun:
    """What one layer wrote in the latest inference, kept although later layers may overwrite the memory.

    Args:
        layer: number.
        bits: 8, or 32 for wide output.
        blocks: where the rows went.
        values: int8 or int32 (row, pixel).
        origins: bus addresses that undefined values came from, uint32 (row, pixel); None where all are defined.
    """

    layer: int
    bits: int
    blocks: tuple[WriteBlock, ...]
    values: npt.NDArray[np.signedinteger]
    origins: Origins | None

    def written(self) -> tuple[Integers, Integers, Integers, npt.NDArray[np.int32], Bools]:
        """Everything written, flat and in no order.

        Returns:
            Instances, words, byte lanes (0 for 32-bit output, where a value fills its word), values, undefined flags.
            Words count from the instance's start; the output of a streaming layer that feeds another one counts past
            the circular buffer, as if it were endless.
        """
        num_pixels = self.values.shape[1]
        rows = np.concatenate([np.arange(b.first_row, b.first_row + b.num_rows) for b in self.blocks])
        lanes = np.concatenate([np.arange(b.num_rows) for b in self.blocks])
        first = np.concatenate([np.full(b.num_rows, b.word) for b in self.blocks])
        step = np.concatenate([np.full(b.num_rows, b.step) for b in self.blocks])
        instance = np.concatenate([np.full(b.num_rows, b.instance) for b in self.blocks])
        words = first[:, None] + step[:, None] * np.arange(num_pixels)
        if self.bits == _WIDE_BITS:
            words, lanes = words + lanes[:, None], np.zeros_like(lanes)
        values = self.values[rows].astype(np.int32)
        undefined = np.zeros(values.shape, dtype=np.bool_) if self.origins is None else self.origins[rows] != 0
        return (
            np.repeat(instance, num_pixels),
            words.ravel(),
            np.repeat(lanes, num_pixels),
            values.ravel(),
            undefined.ravel(),
        )

    def values_at(
        self, instances: npt.ArrayLike, words: npt.ArrayLike, lanes: npt.ArrayLike
    ) -> tuple[npt.NDArray[np.int32], Bools]:
        """Look up what the layer left at places.

        Args:
            instances: data instance, 0 to 15.
            words: word in the instance.
            lanes: byte lane, 0 to 3; 0 for 32-bit output.

        Returns:
            Values (int32) and whether each is defined, both of the arguments' common shape.

        Raises:
            KeyError: the layer did not write one of the places.
        """
        have_instances, have_words, have_lanes, values, undefined = self.written()
        span = int(have_words.max()) + 1
        table = np.full((_GEOMETRY.num_instances, span, _LANES), -1, dtype=np.int64)
        table[have_instances, have_words, have_lanes] = np.arange(len(values))
        instance, word, lane = np.broadcast_arrays(np.asarray(instances), np.asarray(words), np.asarray(lanes))
        inside = (instance >= 0) & (instance < len(table)) & (word >= 0) & (word < span) & (lane >= 0) & (lane < _LANES)
        position = np.where(
            inside, table[np.where(inside, instance, 0), np.where(inside, word, 0), np.where(inside, lane, 0)], -1
        )
        missing = np.argwhere(position < 0)
        if len(missing):
            at = tuple(missing[0])
            place = f"instance {int(instance[at])}, word {int(word[at]):#x}, lane {int(lane[at])}"
            raise KeyError(f"layer {self.layer} wrote nothing to {place}")
        return values[position], ~undefined[position]


class _Stream:
    """The words that flow from one streaming layer to the next, by instance, first word first."""

    def __init__(self, words: dict[int, U8], origins: dict[int, Origins] | None = None) -> None:
        self.words = words
        self.origins = origins or {}


def run_layers(
    network: NetworkConfig, kernels: tuple[Kernel | None, ...], data: DataMemory, fifo: dict[int, list[int]]
) -> tuple[tuple[LayerRun, ...], dict[int, int]]:
    """One inference.

    Args:
        network: what to run.
        kernels: weights of each layer, None for pass layers.
        data: read and written.
        fifo: the words that arrived in each FIFO.

    Returns:
        What each layer wrote, and for each origin of an undefined value that was read the first layer that read it.
    """
    stream = _take_input(network, data, fifo)
    runs: list[LayerRun] = []
    readers: dict[int, int] = {}
    for layer, (config, kernel) in enumerate(zip(network.layers, kernels, strict=True)):
        operands, origins = _gather(config, data, stream)
        values, unknown = compute_layer(config, kernel, operands, origins, network.mode.round_average)
        for origin in () if unknown is None else np.unique(unknown[unknown != 0]):
            readers.setdefault(int(origin), layer)
        bits = _WIDE_BITS if config.wide else 8
        runs.append(LayerRun(layer=layer, bits=bits, blocks=config.blocks, values=values, origins=unknown))
        if layer + 1 < len(network.buffers):
            stream = _to_stream(runs[-1], network.layers[layer + 1])
            _keep_last(stream, network.layers[layer + 1].read_word, network.buffers[layer + 1], data)
        else:
            stream = None
            for block in config.blocks:
                _write_block(data, runs[-1], block)
    return tuple(runs), readers


def _take_input(network: NetworkConfig, data: DataMemory, fifo: dict[int, list[int]]) -> _Stream | None:
    """FIFO words to the data memory, or to the first stream."""
    stream = _Stream({})
    for number, instances in zip(network.fifo.fifos, network.fifo.instances, strict=True):
        words = np.array(fifo[number], dtype="<u4")
        for instance in instances:
            stream.words[instance] = words.view(np.uint8).reshape(-1, _LANES)
    if network.buffers:
        _keep_last(stream, network.layers[0].read_word, network.buffers[0], data)
        return stream
    start = network.layers[0].read_word
    for instance, lanes in stream.words.items():
        data.lanes[instance, start : start + len(lanes)] = lanes
        data.undefined[instance, start : start + len(lanes)] = False
    return None


def _keep_last(stream: _Stream, start: int, size: int, data: DataMemory) -> None:
    """What a circular buffer holds after everything went through it."""
    for instance, lanes in stream.words.items():
        number = np.arange(max(0, len(lanes) - size), len(lanes))
        place = start + number % size
        data.lanes[instance, place] = lanes[number]
        origins = stream.origins.get(instance)
        data.undefined[instance, place] = False if origins is None else origins[number] != 0
        data.origin[instance, place] = 0 if origins is None else origins[number]


def _gather(config: LayerConfig, data: DataMemory, stream: _Stream | None) -> tuple[Bytes, Origins | None]:
    """The layer's input, int8 (operand, processor, pass, row, column), and the origins of undefined bytes."""
    words = slice(config.read_word, config.read_word + config.read_words)
    if stream is not None:
        lanes = np.stack([stream.words[i] for i in config.instances])
        origins = np.stack([stream.origins[i] for i in config.instances]) if stream.origins else None
        return _arrange(config, lanes.view(np.int8)), None if origins is None else _arrange(config, origins)
    operands = _arrange(config, np.stack([data.lanes[i, words] for i in config.instances]).view(np.int8))
    undefined = np.stack([data.undefined[i, words] for i in config.instances])
    if not undefined.any() or not _arrange(config, undefined).any():
        return operands, None
    return operands, _arrange(config, np.stack([data.origins(i, words) for i in config.instances]))


def _arrange(config: LayerConfig, block: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """(instance, word, lane) as (operand, processor, pass, row, column); sections 5.1 and 5.2."""
    g = config.geometry
    count = len(config.instances)
    if g.chw:
        return block.reshape(count, -1)[:, : g.height * g.width].reshape(1, count, 1, g.height, g.width)
    axes = block.reshape(count, g.height, g.width, g.passes, g.operands, _LANES).transpose(4, 0, 5, 3, 1, 2)
    by_lane = axes.reshape(g.operands, count * _LANES, g.passes, g.height, g.width)
    position = {instance: i for i, instance in enumerate(config.instances)}
    return by_lane[:, [position[p // _LANES] * _LANES + p % _LANES for p in config.processors]]


def _to_stream(run: LayerRun, reader: LayerConfig) -> _Stream:
    """A streaming layer's output as the words that its reader sees."""
    size = reader.read_words
    stream = _Stream({i: np.zeros((size, _LANES), dtype=np.uint8) for i in reader.instances})
    origins = {
        i: np.full((size, _LANES), _GEOMETRY.data_address(i, reader.read_word), dtype=np.uint32)
        for i in reader.instances
    }
    for block in run.blocks:
        if block.instance not in stream.words:
            continue
        first = block.word - reader.read_word
        rows = slice(block.first_row, block.first_row + block.num_rows)
        place = (slice(first, None, block.step), slice(0, block.num_rows))
        stream.words[block.instance][place] = run.values[rows].T.view(np.uint8)
        origins[block.instance][place] = 0 if run.origins is None else run.origins[rows].T
    if any(origin.any() for origin in origins.values()):
        stream.origins = origins
    return stream


def _write_block(data: DataMemory, run: LayerRun, block: WriteBlock) -> None:
    """Up to four lanes of one instance at every pixel.

    Lanes beyond the rows are written too, with no defined value (section 3.5 speaks of meaningless values).
    """
    rows = slice(block.first_row, block.first_row + block.num_rows)
    end = block.word + block.step * (run.values.shape[1] - 1) + 1
    if run.bits == _WIDE_BITS:
        for lane in range(block.num_rows):
            place = slice(block.word + lane, end + lane, block.step)
            data.words[block.instance, place] = run.values[block.first_row + lane].astype("<i4").view("<u4")
            origin = 0 if run.origins is None else run.origins[block.first_row + lane][:, None]
            data.origin[block.instance, place] = origin
            data.undefined[block.instance, place] = origin != np.uint32(0)
        return
    place = slice(block.word, end, block.step)
    data.lanes[block.instance, place, : block.num_rows] = run.values[rows].T.view(np.uint8)
    data.undefined[block.instance, place] = np.arange(_LANES) >= block.num_rows
    data.origin[block.instance, place] = 0
    if run.origins is not None:
        data.origin[block.instance, place, : block.num_rows] = run.origins[rows].T
        data.undefined[block.instance, place, : block.num_rows] = run.origins[rows].T != 0
