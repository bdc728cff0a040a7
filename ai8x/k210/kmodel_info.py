"""Says what a model file is, which firmware runs it, and what a version-3 file contains.

Start at `describe`.

Source: spec/k210-kmodel.md section 12.
"""

from __future__ import annotations

import enum
import io
import json
import lzma
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ai8x.errors import Diagnostic, Source, UserError
from ai8x.k210.device import K210, POOL_TYPES, map_lines
from ai8x.k210.kmodel import VERSION, KModel, KModelFile, read_kmodel_file
from ai8x.k210.kmodel_base import NON_STOCK_TYPES, OWN_TYPES
from ai8x.k210.kmodel_layers import K210Conv, KModelLayer, LayerType, UnknownLayer, layer_type, layer_type_name

NNCASE_IDENTIFIER = b"LDMK"
"""First four bytes of versions 4 and 5."""

ZIP_IDENTIFIER = b"PK\x03\x04"
FLASH_LIST = "flash-list.json"
_MAX_FLASH_LIST_BYTES = 1 << 20
_V5_HEADER_BYTES = 32
_V5_MODULE_BYTES = 48
_V4_HEADER_BYTES = 40
_MAX_LISTED = 200

_PACKAGE_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, RuntimeError,
                   LookupError, ValueError, TypeError, AttributeError, ArithmeticError)
"""What the standard library raises on damaged zip files and on lists of the wrong form."""


class Container(enum.Enum):
    """Kinds of files that people call kmodels; the value is the name shown."""

    V3 = "kmodel version 3"
    V3_SWAPPED = "kmodel version 3, byte-swapped for flash"
    V4 = "kmodel version 4 (nncase 0.2)"
    V5 = "kmodel version 5 (nncase 1.x)"
    PRE_RELEASE = "kmodel of a pre-release of nncase 1.0"
    KFPKG = "kfpkg flash package"
    UNKNOWN = "not a kmodel"


_RUNS_ON: Mapping[Container, str] = {
    Container.V3: "bare-metal SDK, MaixPy, Arduino",
    Container.V3_SWAPPED: "only MaixPy's KPU.load_flash; every other runner needs the file in normal byte order",
    Container.V4: "firmware with the nncase 0.2 runtime (later MaixPy); not simulated here",
    Container.V5: "firmware with the nncase 1.x runtime; not simulated here",
    Container.PRE_RELEASE: "no released runtime; compile the model again",
    Container.KFPKG: "a flashing tool (kflash), which writes the files inside to flash",
    Container.UNKNOWN: "nothing known: damaged, or an encrypted .smodel, which only MaixPy on one chip can read",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KModelDescription:
    """What a file is.

    Args:
        container: kind of file.
        runs_on: firmware that can run it.
        details: further lines of text.
        model: the content of a version-3 file, else None.
    """

    container: Container
    runs_on: str
    details: tuple[str, ...] = ()
    model: KModel | None = None

    def text(self) -> str:
        """Several lines for the terminal, without a trailing line end."""
        return "\n".join((self.container.value, f"runs on: {self.runs_on}", *self.details))


def identify(data: bytes) -> Container:
    """The kind of a file by its first bytes. Source: section 12.1."""
    if data[:4] == struct.pack("<I", VERSION):
        return Container.V3
    if data[:4] == struct.pack(">I", VERSION):
        return Container.V3_SWAPPED
    if data[:4] == ZIP_IDENTIFIER:
        return Container.KFPKG
    if data[:4] != NNCASE_IDENTIFIER or len(data) < 12:
        return Container.UNKNOWN
    version, third = struct.unpack_from("<2I", data, 4)
    if version == 5:
        return Container.V5 if third == _V5_HEADER_BYTES else Container.PRE_RELEASE
    return Container.V4 if version == 4 else Container.UNKNOWN


def swap_words(data: bytes) -> bytes:
    """Every 32-bit word in the other byte order; a rest of less than four bytes stays."""
    whole = len(data) // 4 * 4
    return np.frombuffer(data, "<u4", whole // 4).byteswap().tobytes() + data[whole:]


def describe(data: bytes, *, name: str = "kmodel") -> KModelDescription:
    """Say what a file is.

    Args:
        data: the whole file.
        name: what to call it in messages.

    Raises:
        UserError: the kind is known but the content is damaged.
    """
    container = identify(data)
    if container in (Container.V3, Container.V3_SWAPPED):
        return _describe_v3(data if container is Container.V3 else swap_words(data), container, name)
    if container is Container.V4:
        details = _v4_details(data, name)
    elif container is Container.V5:
        details = _v5_details(data, name)
    elif container is Container.KFPKG:
        details = _kfpkg_details(data, name)
    else:
        details = (f"first bytes: {data[:8].hex(' ')}", f"size: {len(data)} bytes")
    return KModelDescription(container=container, runs_on=_RUNS_ON[container], details=details)


# ---------------------------------------------------------------------------------------------- version 3

def _conv_line(layer: K210Conv) -> str:
    f = layer.fields
    kernel = layer.weights.shape[2]
    kind = "depthwise " if f["depth_wise_layer"] else ""
    lines = map_lines(f["i_ch_num"] + 1, f["i_col_high"] + 1, f["i_row_wid"] + 1)
    pool = POOL_TYPES[f["pool_type"]].name if f["pool_type"] < len(POOL_TYPES) else f"pool {f['pool_type']}"
    target = "" if layer.main_memory_output is None else f", to main buffer {layer.main_memory_output:#x}"
    return (f"{kind}{kernel}x{kernel} {f['i_ch_num'] + 1} -> {f['o_ch_num'] + 1} channels, "
            f"{f['i_col_high'] + 1}x{f['i_row_wid'] + 1} -> {f['o_col_high'] + 1}x{f['o_row_wid'] + 1}, pool {pool}, "
            f"lines {f['image_src_addr']} (+{lines}) -> {f['image_dst_addr']}{target}")


def _layer_line(layer: KModelLayer) -> str:
    if isinstance(layer, K210Conv):
        return _conv_line(layer)
    if isinstance(layer, UnknownLayer):
        return f"{len(layer.body)} bytes"
    return ", ".join(f"{name} {getattr(layer, name)}" for name in layer.scalar_names())


def _describe_v3(data: bytes, container: Container, name: str) -> KModelDescription:
    file: KModelFile = read_kmodel_file(data, name=name)
    model = file.model
    needed = len(data) + model.main_mem_usage
    details = [
        f"weights: {8 if model.eight_bit_weights else 16} bit",
        f"RAM: {len(data)} bytes of file + {model.main_mem_usage} bytes of main buffer = {needed}; "
        f"{K210.memory.general_bytes} in the chip, about {K210.micropython_bytes} under MaixPy",
    ]
    details += [f"output {i}: {o.size} bytes at {o.address:#x}" for i, o in enumerate(model.outputs)]
    for index, (layer, extent) in enumerate(zip(model.layers[:_MAX_LISTED], file.extents, strict=False)):
        details.append(f"layer {index} at {extent.offset:#x}: {layer_type_name(extent.type)} {_layer_line(layer)}")
    if len(model.layers) > _MAX_LISTED:
        details.append(f"and {len(model.layers) - _MAX_LISTED} more layers")
    runs_on = _RUNS_ON[container] if container is not Container.V3 else _v3_firmware(model)
    return KModelDescription(container=container, runs_on=runs_on, details=tuple(details), model=model)


def _v3_firmware(model: KModel) -> str:
    types = {layer_type(layer) for layer in model.layers}
    unknown = sorted(t for t in types if t in NON_STOCK_TYPES or layer_type_name(t).startswith("type "))
    if not unknown:
        return _RUNS_ON[Container.V3]
    names = ", ".join(layer_type_name(t) for t in unknown)
    if OWN_TYPES.issuperset(unknown):
        return f"the stand-alone runner of this tool only; all others stop at {names}"
    if unknown == [LayerType.QUANTIZED_TENSORFLOW_FLATTEN]:
        return f"MaixPy and other Sipeed firmware; the stock SDK stops at {names}"
    return f"no known firmware: it stops at {names}"


# ---------------------------------------------------------------------------------------------- other containers

def _damaged(name: str, message: str, offset: int, size: int) -> UserError:
    return UserError(Diagnostic(
        code="E0705", message=message, source=Source(file=name), found=f"end at {offset:#x}",
        allowed=f"end at {size:#x} or before", help="the file is damaged: write or download it again"))


def _v4_details(data: bytes, name: str) -> tuple[str, ...]:
    if len(data) < _V4_HEADER_BYTES:
        raise _damaged(name, "the header ends outside the file", _V4_HEADER_BYTES, len(data))
    _, _, _, target, constants, main_mem, nodes, inputs, outputs, _ = struct.unpack_from("<10I", data)
    table = _V4_HEADER_BYTES + 32 * inputs + 16 * outputs + constants
    if table + 8 * nodes > len(data):
        raise _damaged(name, f"the table of {nodes} nodes ends outside the file", table + 8 * nodes, len(data))
    opcodes = Counter(struct.unpack_from("<I", data, table + 8 * index)[0] for index in range(nodes))
    counts = ", ".join(f"{opcode:#x} x {count}" for opcode, count in sorted(opcodes.items())[:_MAX_LISTED])
    return (f"target: {'K210' if target == 1 else 'CPU' if target == 0 else target}",
            f"{inputs} inputs, {outputs} outputs, {nodes} nodes, {constants} bytes of constants, "
            f"{main_mem} bytes of main buffer", f"nodes by opcode: {counts}")


def _v5_details(data: bytes, name: str) -> tuple[str, ...]:
    if len(data) < _V5_HEADER_BYTES:
        raise _damaged(name, "the header ends outside the file", _V5_HEADER_BYTES, len(data))
    modules = struct.unpack_from("<8I", data)[5]
    position = _V5_HEADER_BYTES
    details = [f"{modules} modules"]
    for index in range(modules):
        if position + _V5_MODULE_BYTES > len(data):
            raise _damaged(name, f"module {index} ends outside the file", position + _V5_MODULE_BYTES, len(data))
        kind, _, _, size, _, _, sections, functions, _ = struct.unpack_from("<16s8I", data, position)
        if size < _V5_MODULE_BYTES or position + size > len(data):
            raise _damaged(name, f"module {index} of {size} bytes ends outside the file", position + size, len(data))
        label = kind.rstrip(b"\0").decode("ascii", "replace")
        details.append(f"module {index} at {position:#x}: {label!r}, {size} bytes, {functions} functions, "
                       f"{sections} sections")
        position += size
    return tuple(details)


def _kfpkg_details(data: bytes, name: str) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(FLASH_LIST) as stream:
            listing = json.loads(stream.read(_MAX_FLASH_LIST_BYTES))
        return tuple(
            f"flash address {int(entry['address']):#x}: {entry['bin']}"
            + (" (with SHA-256 prefix)" if entry.get("sha256Prefix") else "")
            for entry in listing["files"]
        )
    except _PACKAGE_ERRORS as error:
        raise UserError(Diagnostic(
            code="E0706", message=f"the flash package cannot be read: {error}", source=Source(file=name),
            allowed=f"a zip file with {FLASH_LIST}", help="build or download the package again")) from error
