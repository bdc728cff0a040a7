"""Runs a kmodel as the SDK's step driver does: patches addresses, feeds the KPU, computes the CPU layers.

The KPU itself is `simulator.py`; it sees only register words, its RAM and bytes on a bus. Start at `run_kmodel`.

Source: spec/k210-kmodel.md sections 8, 9, 10 and 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import HardwareFault, user_error
from ai8x.k210 import device, timing
from ai8x.k210.device import K210, UNCACHED_OFFSET
from ai8x.k210.interpreter_cpu import run_cpu_layer
from ai8x.k210.interpreter_memory import MainMemory, Tensor, defined
from ai8x.k210.kmodel import (
    MAIN_MEMORY_OFFSET,
    KModel,
    KModelFile,
    LayerExtent,
    output_offset,
    read_kmodel_file,
    write_kmodel,
)
from ai8x.k210.kmodel_layers import (
    FullyConnected,
    K210AddPadding,
    K210Conv,
    K210Upload,
    KModelLayer,
    QuantizedTensorflowFlatten,
    layer_type,
    layer_type_name,
)
from ai8x.k210.simulator import Kpu, KpuOptions, KpuResult, MapPlace
from ai8x.k210.step_times import model_milliseconds

FILE_ADDRESS = K210.memory.general_address
"""Where the file is loaded: the start of general RAM, a multiple of 256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KmodelRun:
    """What one run gave.

    Args:
        outputs: the bytes of every output, uint8; float32 data is to be viewed as such.
        layers: index in the file -> dense uint8 (C, H, W) result of every KPU layer.
        undefined: index -> mask of the bytes of a KPU layer's result that depend on RAM that nobody wrote; absent
            where every byte is defined.
        tensors: index -> bytes that every CPU layer wrote to the main buffer, uint8.
        cycles: index -> KPU cycles of the computation, by the formula of section 16.
        milliseconds: index -> time, for KPU layers and those CPU layers whose rate has been published.
    """

    outputs: tuple[NDArray[np.uint8], ...]
    layers: Mapping[int, NDArray[np.uint8]]
    undefined: Mapping[int, NDArray[np.bool_]]
    tensors: Mapping[int, NDArray[np.uint8]]
    cycles: Mapping[int, int]
    milliseconds: Mapping[int, float]


class _Runner:
    """The state of one run."""

    def __init__(self, data: bytes, file: KModelFile, options: KpuOptions, seed: int | None) -> None:
        self.data = data
        self.file = file
        self.options = options
        self.kpu = Kpu(options, seed=seed)
        needed = len(data) + file.model.main_mem_usage
        if needed > K210.memory.general_bytes:
            raise HardwareFault(f"the file of {len(data)} bytes and the main buffer of {file.model.main_mem_usage} "
                                f"bytes (word at offset {MAIN_MEMORY_OFFSET:#x}) exceed the general RAM of "
                                f"{K210.memory.general_bytes} bytes")
        self.memory = MainMemory(file.model.main_mem_usage, seed=None if seed is None else seed + 1)

    def fetch(self, address: int, size: int) -> bytes:
        """Bus read of the KPU: the uncached alias of the loaded file."""
        offset = address + UNCACHED_OFFSET - FILE_ADDRESS
        if not 0 <= offset <= len(self.data) - size:
            raise HardwareFault(f"the KPU fetches {size} bytes at {address:#010x}, outside the model")
        return self.data[offset : offset + size]

    # ---------------------------------------------------------------------------------------------- layers

    def conv(self, layer: K210Conv, extent: LayerExtent, name: str) -> KpuResult:
        """Patch addresses as the runner does, execute, copy the result out if asked for."""
        if extent.conv is None:
            raise HardwareFault(f"{name}: no payload")
        base = FILE_ADDRESS - UNCACHED_OFFSET
        to_main = layer.main_memory_output is not None
        patched = layer.fields | {
            "para_start_addr": base + extent.conv.weights,
            "bwsx_base_addr": base + extent.conv.batch_norm,
            "active_addr": base + extent.conv.activation,
            "send_data_out": int(to_main),
            "int_en": int(not to_main),
        }
        result = self.kpu.run_layer(device.encode_layer_argument(patched), self.fetch,
                                    eight_bit=self.file.model.eight_bit_weights, layer=name)
        if layer.main_memory_output is not None:
            self._receive(layer.main_memory_output, result, name)
        return result

    def _receive(self, address: int, result: KpuResult, name: str) -> None:
        """The DMA from the output FIFO: items of eight bytes, the rest of the last one undefined."""
        item = K210.alignment.dma
        self.memory.check(address, -(-result.output.size // item) * item, f"{name}: result", item)
        size = result.output.size
        values = np.concatenate([result.output.reshape(-1), np.zeros(-size % item, np.uint8)])
        undefined = np.ones(values.shape, np.bool_)
        undefined[:size] = False if result.undefined is None else result.undefined.reshape(-1)
        self.memory.write(address, Tensor(values=values, undefined=undefined), f"{name}: result")

    def add_padding(self, layer: K210AddPadding, name: str) -> None:
        """Single bytes into cell (0, 0) of 4x4 maps; the other cells stay as they are."""
        place = MapPlace(line=layer.kpu_line, channels=layer.channels, height=4, width=4)
        source = self._kpu_input(layer.input, place, name)
        for channel, (value, undefined) in enumerate(zip(source.values, source.undefined, strict=True)):
            offset = place.bytes.start + device.element_offset(channel, 0, 0, height=4, width=4)
            self.kpu.write_byte(offset, int(value))
            if undefined:
                self.kpu.poison(offset, 1)

    def upload(self, layer: K210Upload, name: str) -> None:
        """A dense map from the main buffer to the KPU."""
        place = MapPlace(line=layer.kpu_line, channels=layer.channels, height=layer.height, width=layer.width)
        source = self._kpu_input(layer.input, place, name, layer.height * layer.width)
        shape = (place.channels, place.height, place.width)
        self.kpu.store_map(place, source.values.reshape(shape), source.undefined.reshape(shape))

    def _kpu_input(self, address: int, place: MapPlace, name: str, area: int = 1) -> Tensor:
        if min(place.channels, place.height, place.width) < 1 or place.line + place.lines > K210.memory.kpu_lines:
            raise HardwareFault(f"{name}: {place.channels} maps of {place.height}x{place.width} at line {place.line} "
                                f"do not fit the KPU RAM of {K210.memory.kpu_lines} lines")
        return self.memory.read(address, place.channels * area, np.uint8, f"{name}: input")

    def cpu(self, layer: KModelLayer, name: str) -> NDArray[np.uint8] | None:
        """A layer that the CPU computes; returns what it wrote to the main buffer, None if it wrote to KPU RAM."""
        if isinstance(layer, K210AddPadding):
            self.add_padding(layer, name)
        elif isinstance(layer, K210Upload):
            self.upload(layer, name)
        elif isinstance(layer, QuantizedTensorflowFlatten) and not self.options.sipeed_layers:
            raise HardwareFault(f"{name}: the stock SDK stops at this layer type; only Sipeed's drivers know it")
        else:
            return run_cpu_layer(layer, self.memory, name)
        return None

    # ---------------------------------------------------------------------------------------------- input, outputs

    def load_input(self, image: NDArray[Any]) -> None:
        """Hand the input to the first layer, whose type says what it is."""
        first, extent = self.file.model.layers[0], self.file.extents[0]
        if isinstance(first, K210Conv):
            fields = first.fields
            place = MapPlace(line=fields["image_src_addr"], channels=fields["i_ch_num"] + 1,
                             height=fields["i_col_high"] + 1, width=fields["i_row_wid"] + 1)
            shape = (place.channels, place.height, place.width)
            _check_input(image, shape, np.dtype(np.uint8), extent)
            if place.line + place.lines > K210.memory.kpu_lines:
                raise HardwareFault(f"{layer_name(0, extent)}: the image at line {place.line} does not fit the KPU RAM")
            self.kpu.store_map(place, np.asarray(image, np.uint8).reshape(shape))
        elif isinstance(first, FullyConnected):
            _check_input(image, (first.input_channels,), np.dtype(np.float32), extent)
            self.memory.write(first.input, defined(np.asarray(image, np.float32)), "model input")
        else:
            raise user_error("E0711", f"the model starts with {layer_type_name(layer_type(first))} at offset "
                             f"{extent.offset:#x}",
                             found=layer_type_name(layer_type(first)), allowed="K210_CONV or FULLY_CONNECTED",
                             help="write the model so that its first layer is a KPU convolution")

    def outputs(self) -> tuple[NDArray[np.uint8], ...]:
        """The bytes of every output."""
        results = []
        for index, place in enumerate(self.file.model.outputs):
            name = f"output {index} at offset {output_offset(index):#x}"
            tensor = self.memory.read(place.address, place.size, np.uint8, name)
            if tensor.undefined.any():
                first = place.address + int(np.argmax(tensor.undefined))
                raise HardwareFault(f"{name}: the byte at main buffer address {first:#x} depends on memory that nobody "
                                    "wrote")
            results.append(tensor.values)
        return tuple(results)


def layer_name(index: int, extent: LayerExtent) -> str:
    """What a layer is called in faults: number, type and where its body begins in the file."""
    return f"layer {index} '{layer_type_name(extent.type)}' at offset {extent.offset:#x}"


def _check_input(image: NDArray[Any], shape: tuple[int, ...], dtype: np.dtype[Any], extent: LayerExtent) -> None:
    if image.shape not in (shape, (int(np.prod(shape)),)) or image.dtype != dtype:
        raise user_error("E0712", f"the model takes an input of shape {shape} and type {dtype} (layer at offset "
                         f"{extent.offset:#x})",
                         found=f"shape {image.shape}, type {image.dtype}", allowed=f"shape {shape}, type {dtype}",
                         help=f"save the input with numpy.save as an array of shape {shape} and type {dtype}")


def run_kmodel(data: bytes | KModel, image: NDArray[Any], *, options: KpuOptions | None = None,
               seed: int | None = 0) -> KmodelRun:
    """Run a version-3 model once.

    Args:
        data: the file, or a model, which is then written first.
        image: uint8 (C, H, W) for a model that starts on the KPU, float32 (channels,) for one that starts with
            FULLY_CONNECTED; flat arrays of that size are accepted.
        options: emulator variants; the chip by default.
        seed: of what KPU RAM and main buffer hold before the run, None for zeros. No defined byte of the result depends
            on it.

    Raises:
        UserError: the file is damaged or of another kind, or the input does not fit.
        HardwareFault: the model programs something that the chip or the runner does not define, or an output depends on
            memory that nobody wrote.
    """
    raw = write_kmodel(data) if isinstance(data, KModel) else bytes(data)
    file = read_kmodel_file(raw)
    run = _Runner(raw, file, options or KpuOptions(), seed)
    run.load_input(np.asarray(image))
    layers: dict[int, NDArray[np.uint8]] = {}
    undefined: dict[int, NDArray[np.bool_]] = {}
    tensors: dict[int, NDArray[np.uint8]] = {}
    cycles: dict[int, int] = {}
    for index, (layer, extent) in enumerate(zip(file.model.layers, file.extents, strict=True)):
        name = layer_name(index, extent)
        if isinstance(layer, K210Conv):
            result = run.conv(layer, extent, name)
            layers[index] = result.output
            if result.undefined is not None:
                undefined[index] = result.undefined
            cycles[index] = timing.kpu_cycles(layer.fields)
            continue
        if (written := run.cpu(layer, name)) is not None:
            tensors[index] = written
    last = file.model.layers[-1]
    if isinstance(last, K210Conv) and last.main_memory_output is None:
        raise HardwareFault(f"{layer_name(len(file.model.layers) - 1, file.extents[-1])}: the last layer keeps its "
                            "result in the KPU; the runner then reads a layer past the end")
    return KmodelRun(outputs=run.outputs(), layers=layers, undefined=undefined, tensors=tensors, cycles=cycles,
                     milliseconds=model_milliseconds(file.model))
