"""Kmodel version 3: bytes to dataclasses and back.

Owns the file format: header, table of outputs, table of layers, alignment of the payloads. Knows nothing of what the
layers compute. `read_kmodel` trusts nothing in the file: every offset and count is compared with the file's size
before it is used. Start at `KModel`, `read_kmodel` and `write_kmodel`.

Source: spec/k210-kmodel.md sections 4.1, 8, 8.1 and 9.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Diagnostic, Source, UserError
from ai8x.k210 import device
from ai8x.k210.device import K210
from ai8x.k210.kmodel_layers import (
    LAYER_CLASSES,
    ActivationTable,
    BatchNorm,
    K210Conv,
    KModelLayer,
    LayerType,
    MemoryRange,
    UnknownLayer,
    layer_type,
    layer_type_name,
    weight_shape,
)

VERSION = 3
EIGHT_BIT_FLAG = 1
"""Bit 0 of the header's flags: weights of 8 bits; otherwise 16."""

MAIN_MEMORY_FLAG = 1
"""Bit 0 of a KPU layer's flags: the result also goes to the main buffer."""

LAST_BODY_SLACK = 7
"""Bytes by which the last body may exceed the file; nncase writes such files. Source: section 8."""

MAIN_MEMORY_OFFSET = 20
"""Where the header says how large the main buffer is."""

_HEADER = struct.Struct("<7I")
_PAIR = struct.Struct("<2I")
_CONV = struct.Struct("<6I")
_CLASSES = {int(cls.TYPE): cls for cls in LAYER_CLASSES}


@dataclass(frozen=True, slots=True, kw_only=True)
class KModel:
    """A version-3 model.

    Args:
        layers: in the order of execution.
        outputs: ranges of the main buffer, in bytes.
        main_mem_usage: size of the runner's main buffer in bytes.
        max_start_address: ignored by every runner.
        flags: bit 0 set for 8-bit weights.
    """

    layers: tuple[KModelLayer, ...]
    outputs: tuple[MemoryRange, ...]
    main_mem_usage: int
    max_start_address: int = 0
    flags: int = EIGHT_BIT_FLAG

    @property
    def eight_bit_weights(self) -> bool:
        """Whether weights are bytes (otherwise 16-bit words)."""
        return bool(self.flags & EIGHT_BIT_FLAG)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvOffsets:
    """Where the payload of a KPU layer lies: byte offsets from the start of the file."""

    registers: int
    weights: int
    batch_norm: int
    activation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerExtent:
    """Where a layer lies in a file.

    Args:
        type: number of its type.
        offset: first byte of the body.
        size: bytes of the body as stored; the last one may end up to seven bytes after the file.
        conv: offsets of the payload, for a KPU layer.
    """

    type: int
    offset: int
    size: int
    conv: ConvOffsets | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KModelFile:
    """A model together with the places of its parts."""

    model: KModel
    extents: tuple[LayerExtent, ...]


def output_offset(index: int) -> int:
    """Where a file describes an output."""
    return _HEADER.size + _PAIR.size * index


# ---------------------------------------------------------------------------------------------- writing

def _align(buffer: bytearray, alignment: int) -> None:
    buffer.extend(bytes(-len(buffer) % alignment))


def _append(buffer: bytearray, payload: bytes, alignment: int) -> int:
    _align(buffer, alignment)
    offset = len(buffer)
    buffer.extend(payload)
    return offset


def _write_conv(buffer: bytearray, layer: K210Conv) -> None:
    """Body of a KPU layer at the end of the buffer, which is the file so far."""
    start = len(buffer)
    buffer.extend(bytes(_CONV.size))
    alignment = K210.alignment
    offsets = (
        _append(buffer, np.array(layer.words, "<u8").tobytes(), alignment.registers),
        _append(buffer, layer.weights.astype(layer.weights.dtype.newbyteorder("<")).tobytes(), alignment.weights),
        _append(buffer, layer.batch_norm.to_bytes(), alignment.batch_norm),
        _append(buffer, layer.activation.to_bytes(), alignment.table),
    )
    to_main = layer.main_memory_output is not None
    _CONV.pack_into(buffer, start, MAIN_MEMORY_FLAG if to_main else 0, layer.main_memory_output or 0, *offsets)


def _write_body(buffer: bytearray, layer: KModelLayer) -> None:
    if isinstance(layer, K210Conv):
        _write_conv(buffer, layer)
    elif isinstance(layer, UnknownLayer):
        buffer.extend(layer.body)
    else:
        scalars = [getattr(layer, name) for name in layer.scalar_names()]
        buffer.extend(struct.pack("<I", 1) + struct.pack(layer.scalar_format(), *scalars) + layer.tail())


def write_kmodel(model: KModel) -> bytes:
    """The file: canonical layout, payloads aligned as section 4.1 advises, every body but the last padded to 8 bytes.

    Raises:
        ValueError: weights of a width that the header's flags do not announce.
        struct.error: a number does not fit its field (RegisterError for KPU parameters).
    """
    weight_dtype = np.uint8 if model.eight_bit_weights else np.uint16
    for index, layer in enumerate(model.layers):
        if isinstance(layer, K210Conv) and layer.weights.dtype != weight_dtype:
            raise ValueError(f"layer {index} has {layer.weights.dtype} weights, flags {model.flags:#x} say "
                             f"{np.dtype(weight_dtype)}")
    buffer = bytearray(_HEADER.pack(VERSION, model.flags, 0, len(model.layers), model.max_start_address,
                                    model.main_mem_usage, len(model.outputs)))
    for output in model.outputs:
        buffer.extend(_PAIR.pack(output.address, output.size))
    table = len(buffer)
    buffer.extend(bytes(_PAIR.size * len(model.layers)))
    for index, layer in enumerate(model.layers):
        start = len(buffer)
        _write_body(buffer, layer)
        if index < len(model.layers) - 1:
            buffer.extend(bytes((start - len(buffer)) % K210.alignment.body))
        _PAIR.pack_into(buffer, table + _PAIR.size * index, layer_type(layer), len(buffer) - start)
    return bytes(buffer)


# ---------------------------------------------------------------------------------------------- reading

@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """Bytes of a file and the words for saying where something is wrong."""

    data: bytes
    name: str

    def error(self, code: str, message: str, *, found: str = "", allowed: str = "", layer: int | None = None,
              type_number: int = 0) -> UserError:
        return UserError(Diagnostic(
            code=code, message=message, source=Source(file=self.name), found=found, allowed=allowed,
            layer_index=layer, layer=layer_type_name(type_number) if layer is not None else "",
            help="the file is damaged or not a version-3 kmodel: write or download it again"))


class _Body:
    """Reads forward through one body; the payload of a KPU layer may lie anywhere in the file."""

    def __init__(self, file: _File, extent: LayerExtent, index: int) -> None:
        self.file = file
        self.extent = extent
        self.index = index
        self.position = extent.offset
        self.end = min(extent.offset + extent.size, len(file.data))

    def error(self, code: str, message: str, found: str, allowed: str) -> UserError:
        return self.file.error(code, message, found=found, allowed=allowed, layer=self.index,
                               type_number=self.extent.type)

    def array(self, offset: int, dtype: str, count: int, name: str, end: int) -> NDArray[Any]:
        """Elements at a file offset, which must end at or before `end`."""
        size = count * np.dtype(dtype).itemsize
        if offset + size > end:
            raise self.error("E0703", f"{name} of {size} bytes at offset {offset:#x} end outside",
                             f"end at {offset + size:#x}", f"end at {end:#x} or before")
        return np.frombuffer(self.file.data, dtype, count, offset)

    def take(self, dtype: str, count: int, name: str) -> NDArray[Any]:
        """The next elements of the body."""
        array = self.array(self.position, dtype, count, name, self.end)
        self.position += array.nbytes
        return array

    def scalars(self, layout: str, names: tuple[str, ...]) -> dict[str, Any]:
        """The next scalar fields of the body."""
        raw = self.take("u1", struct.calcsize(layout), "fields").tobytes()
        return dict(zip(names, struct.unpack(layout, raw), strict=True))


_CONV_NAMES = ("flags", "main_memory_output", "registers", "weights", "batch_norm", "activation")


def _conv_offsets(body: _Body) -> tuple[int | None, ConvOffsets]:
    head = body.scalars(_CONV.format, _CONV_NAMES)
    to_main = head["main_memory_output"] if head["flags"] & MAIN_MEMORY_FLAG else None
    return to_main, ConvOffsets(**{name: head[name] for name in _CONV_NAMES[2:]})


def _read_conv(body: _Body, *, eight_bit: bool) -> tuple[K210Conv, ConvOffsets]:
    main_memory_output, offsets = _conv_offsets(body)
    size = len(body.file.data)
    words = body.array(offsets.registers, "<u8", len(device.LAYER_ARGUMENT), "registers", size)
    fields = device.decode_layer_argument([int(word) for word in words])
    shape = weight_shape(fields)
    count = shape[0] * shape[1] * shape[2] * shape[3]
    weights = body.array(offsets.weights, "u1" if eight_bit else "<u2", count, "weights", size)
    batch_norm = body.array(offsets.batch_norm, "<u8", shape[0], "batch norm parameters", size)
    table = body.array(offsets.activation, "u1", device.TABLE_BYTES, "activation table", size)
    return K210Conv(
        words=tuple(int(word) for word in words),
        weights=weights.reshape(shape),
        batch_norm=BatchNorm.from_bytes(batch_norm.tobytes()),
        activation=ActivationTable.from_bytes(table.tobytes()),
        main_memory_output=main_memory_output,
    ), offsets


def _read_unknown(body: _Body) -> UnknownLayer:
    raw = body.take("u1", body.end - body.position, "body").tobytes()
    return UnknownLayer(type=body.extent.type, body=raw + bytes(-len(raw) % K210.alignment.body))


def _read_plain(body: _Body, cls: type[KModelLayer]) -> KModelLayer:
    body.scalars("<I", ("flags",))
    scalars = body.scalars(cls.scalar_format(), cls.scalar_names())
    return cls(**scalars, **cls.tail_fields(scalars, body))


def _read_layer(body: _Body, *, eight_bit: bool) -> tuple[KModelLayer, LayerExtent]:
    number = body.extent.type
    try:
        if number == LayerType.K210_CONV:
            layer, conv = _read_conv(body, eight_bit=eight_bit)
            return layer, LayerExtent(type=number, offset=body.extent.offset, size=body.extent.size, conv=conv)
        if number in _CLASSES:
            return _read_plain(body, _CLASSES[number]), body.extent
        return _read_unknown(body), body.extent
    except ValueError as error:
        raise body.error("E0704", f"illegal value in the body at offset {body.extent.offset:#x}: {error}",
                         str(error), "what sections 3, 4.1 and 9 of docs/spec/k210-kmodel.md define") from error


def _read_header(file: _File) -> tuple[int, ...]:
    data = file.data
    if len(data) < _HEADER.size:
        raise file.error("E0701", f"a kmodel has a header of {_HEADER.size:#x} bytes at offset 0x0; the file has "
                         f"{len(data):#x}", found=f"{len(data)} bytes", allowed=f"at least {_HEADER.size} bytes")
    header = _HEADER.unpack_from(data)
    version, _, arch, num_layers, _, _, num_outputs = header
    if version != VERSION or arch != 0:
        raise file.error("E0701", "not a kmodel of version 3, by the words at offsets 0x0 and 0x8",
                         found=f"version {version:#x}, arch {arch:#x}", allowed="version 0x3 and arch 0x0")
    tables = _HEADER.size + _PAIR.size * (num_layers + num_outputs)
    if tables > len(data):
        message = f"the tables of {num_outputs} outputs and {num_layers} layers end at {tables:#x}, outside the file"
        raise file.error("E0702", message, found=f"end at {tables:#x}",
                         allowed=f"end at {len(data):#x} or before")
    if not num_layers:
        raise file.error("E0704", "the model has no layer, by the word at offset 0xc", found="0 layers",
                         allowed="at least 1")
    return header


def _read_extents(file: _File, num_outputs: int, num_layers: int) -> tuple[LayerExtent, ...]:
    table = _HEADER.size + _PAIR.size * num_outputs
    position = table + _PAIR.size * num_layers
    extents = []
    for index in range(num_layers):
        number, size = _PAIR.unpack_from(file.data, table + _PAIR.size * index)
        slack = LAST_BODY_SLACK if index == num_layers - 1 else 0
        if position + size > len(file.data) + slack:
            raise file.error("E0703", f"the body at offset {position:#x} of {size} bytes ends outside the file",
                             found=f"end at {position + size:#x}", allowed=f"end at {len(file.data):#x} or before",
                             layer=index, type_number=number)
        extents.append(LayerExtent(type=number, offset=position, size=size))
        position += size
    return tuple(extents)


def read_kmodel_file(data: bytes, *, name: str = "kmodel") -> KModelFile:
    """Read a version-3 file and remember where its parts lie.

    Args:
        data: the whole file.
        name: what to call it in messages.

    Raises:
        UserError: E0701 another format, E0702 and E0703 something ends outside the file, E0704 illegal value.
    """
    file = _File(data=bytes(data), name=name)
    _, flags, _, num_layers, max_start_address, main_mem_usage, num_outputs = _read_header(file)
    outputs = tuple(
        MemoryRange(address=address, size=size)
        for address, size in _PAIR.iter_unpack(file.data[_HEADER.size : _HEADER.size + _PAIR.size * num_outputs])
    )
    eight_bit = bool(flags & EIGHT_BIT_FLAG)
    extents = _read_extents(file, num_outputs, num_layers)
    pairs = [_read_layer(_Body(file, extent, index), eight_bit=eight_bit) for index, extent in enumerate(extents)]
    model = KModel(layers=tuple(layer for layer, _ in pairs), outputs=outputs, main_mem_usage=main_mem_usage,
                   max_start_address=max_start_address, flags=flags)
    return KModelFile(model=model, extents=tuple(extent for _, extent in pairs))


def read_kmodel(data: bytes, *, name: str = "kmodel") -> KModel:
    """Read a version-3 file; the inverse of `write_kmodel`. See `read_kmodel_file` for arguments and errors."""
    return read_kmodel_file(data, name=name).model
