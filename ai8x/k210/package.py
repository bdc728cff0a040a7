"""Flash packages (.kfpkg): several files and where flashing tools put them.

A package is a zip file with a list, ``flash-list.json``, and the files that it names. Firmware is stored in flash
behind a header and followed by its SHA-256; models are stored as they are. Start at `write_package`, `read_package`
and `model_file`.

Source: spec/k210-kmodel.md section 12.4.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ai8x.errors import Diagnostic, Diagnostics, Source, user_error
from ai8x.k210.kmodel_info import FLASH_LIST, Container, identify, swap_words

FLASH_BYTES = 16 * 1024 * 1024
"""Flash of most boards."""

SECTOR_BYTES = 4096
"""Addresses are multiples of it."""

DEFAULT_MODEL_ADDRESS = 0x30_0000
"""Where MaixPy's examples expect a model."""

FIRMWARE_ADDRESS = 0
"""Where the chip's loader expects firmware."""

LIST_VERSION = "0.1.0"
"""Version of the list's form."""

_HEADER = struct.Struct("<BI")
_NOT_ENCRYPTED = 0
_MAX_LIST_BYTES = 1 << 20
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, RuntimeError, LookupError,
           ValueError, TypeError, AttributeError)
"""What the standard library raises on damaged zip files and on lists of the wrong form."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashFile:
    """A file of a package.

    Args:
        name: inside the package.
        address: in flash.
        data: the file's bytes.
        sha256_prefix: the flash holds a header before and a SHA-256 behind them, as the chip's loader wants it for
            firmware.
    """

    name: str
    address: int
    data: bytes
    sha256_prefix: bool = False

    @property
    def flash_image(self) -> bytes:
        """The bytes that the flashing tool writes."""
        if not self.sha256_prefix:
            return self.data
        content = _HEADER.pack(_NOT_ENCRYPTED, len(self.data)) + self.data
        return content + hashlib.sha256(content).digest()

    @property
    def end(self) -> int:
        """First flash address behind the file."""
        return self.address + len(self.data) + (_HEADER.size + hashlib.sha256().digest_size) * self.sha256_prefix


def model_file(data: bytes, *, name: str, address: int = DEFAULT_MODEL_ADDRESS, swapped: bool = False) -> FlashFile:
    """A kmodel as a file of a package.

    Args:
        data: a kmodel, any version.
        name: inside the package.
        address: in flash.
        swapped: store a version-3 model with the bytes of every 32-bit word in reverse, which ``KPU.load_flash`` of
            MaixPy needs and every other loader refuses.

    Raises:
        UserError: E0740, the file is no kmodel, or not one that can be stored swapped.
    """
    container = identify(data)
    if container in (Container.KFPKG, Container.UNKNOWN):
        raise user_error("E0740", "a package holds kmodels and firmware", source=Source(file=name),
                         found=container.value, allowed="a kmodel", help="name the .kmodel file")
    if swapped:
        if container is not Container.V3:
            raise user_error("E0740", "only a version-3 model can be streamed from flash", source=Source(file=name),
                             found=container.value, allowed=Container.V3.value,
                             help="leave --load-flash out, or convert the model to version 3")
        data = swap_words(data)
    return FlashFile(name=name, address=address, data=data)


def check_files(files: Sequence[FlashFile], *, flash_bytes: int = FLASH_BYTES) -> None:
    """Refuse a list that cannot be flashed.

    Raises:
        UserError: E0741 an address, E0742 two files overlap, E0743 a name; all findings at once.
    """
    found = Diagnostics()
    for file in files:
        source = Source(file=file.name)
        if file.address % SECTOR_BYTES or not 0 <= file.address <= file.end <= flash_bytes:
            found.add(Diagnostic(
                code="E0741", message=f"{len(file.data)} bytes cannot be flashed at {file.address:#x}", source=source,
                found=f"{file.address:#x} to {file.end:#x}",
                allowed=f"a multiple of {SECTOR_BYTES:#x}, ending at {flash_bytes:#x} or before",
                help=f"use address {_suggested(file, flash_bytes):#x}"))
        if not _NAME.fullmatch(file.name) or file.name == FLASH_LIST:
            found.add(Diagnostic(code="E0743", message="the name is not possible in a package", source=source,
                                 found=repr(file.name), allowed="letters, digits, '_', '-' and '.'; no folders",
                                 help="rename the file"))
    ordered = sorted(files, key=lambda file: file.address)
    for one, other in pairwise(ordered):
        if one.end > other.address:
            found.add(Diagnostic(
                code="E0742", message=f"'{one.name}' and '{other.name}' overlap in flash",
                source=Source(file=other.name), found=f"{one.address:#x} to {one.end:#x} and {other.address:#x}",
                allowed="one byte for one file", help=f"use address {_sector_behind(one.end):#x} or higher for "
                                                      f"'{other.name}'"))
    names = [file.name for file in files]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.add(Diagnostic(code="E0743", message=f"{names.count(name)} files are called '{name}'",
                             source=Source(file=name), allowed="one file for one name", help="rename one of them"))
    found.raise_if_errors()


def _sector_behind(address: int) -> int:
    return -(-address // SECTOR_BYTES) * SECTOR_BYTES


def _suggested(file: FlashFile, flash_bytes: int) -> int:
    """The nearest address at which a file fits."""
    last = (flash_bytes - (file.end - file.address)) // SECTOR_BYTES * SECTOR_BYTES
    return max(0, min(_sector_behind(max(file.address, 0)), last))


def write_package(files: Sequence[FlashFile], *, flash_bytes: int = FLASH_BYTES) -> bytes:
    """The package; the same bytes for the same files.

    Raises:
        UserError: as `check_files`.
    """
    check_files(files, flash_bytes=flash_bytes)
    listing = {"version": LIST_VERSION, "files": [
        {"address": file.address, "bin": file.name, "sha256Prefix": file.sha256_prefix} for file in files]}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in ((FLASH_LIST, json.dumps(listing, indent=2).encode("ascii")),
                              *((file.name, file.data) for file in files)):
            entry = zipfile.ZipInfo(name, _ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()


def read_package(data: bytes, *, name: str = "package") -> tuple[FlashFile, ...]:
    """The files of a package in the order of its list; the inverse of `write_package`.

    Args:
        data: the package.
        name: what to call it in messages.

    Raises:
        UserError: E0706, damaged, or a file is larger than a flash.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = json.loads(_content(archive, FLASH_LIST, _MAX_LIST_BYTES))["files"]
            return tuple(_read_file(archive, entry) for entry in entries)
    except _DAMAGE as error:
        raise user_error("E0706", f"the flash package cannot be read: {error}", source=Source(file=name),
                         allowed=f"a zip file with {FLASH_LIST} and the files it names",
                         help="build or download the package again") from error


def _read_file(archive: zipfile.ZipFile, entry: Any) -> FlashFile:
    name, address, prefix = entry["bin"], entry["address"], entry.get("sha256Prefix", False)
    if not isinstance(name, str) or not isinstance(prefix, bool) or type(address) is not int or address < 0:
        raise ValueError(f"entry {entry} of {FLASH_LIST}")
    return FlashFile(name=name, address=address, data=_content(archive, name, FLASH_BYTES), sha256_prefix=prefix)


def _content(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    with archive.open(name) as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"'{name}' has more than {limit} bytes")
    return content
