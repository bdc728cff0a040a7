"""Reading a firmware file: what to load, and which function an address belongs to.

Start at `read_program`. Needs pyelftools, an optional dependency.
"""

from __future__ import annotations

import bisect
import struct
from dataclasses import dataclass
from pathlib import Path

from ai8x.errors import Source, user_error
from ai8x.virtual.emulator import INSTALL_HELP

_MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Bytes to place in memory before the start.

    Args:
        address: load address (not the run address: initialised data starts in flash).
        data: the bytes.
        executable: may hold instructions.
    """

    address: int
    data: bytes
    executable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A linked firmware.

    Args:
        path: its file.
        segments: what to load.
        symbols: name -> address; bit 0 of functions cleared.
        functions: (address, name), ascending.
    """

    path: Path
    segments: tuple[Segment, ...]
    symbols: dict[str, int]
    functions: tuple[tuple[int, str], ...]

    def function(self, address: int) -> str:
        """Name of the function that starts at the address; empty where none does."""
        return next((name for start, name in self.functions if start == address), "")

    def locate(self, address: int) -> str:
        """The place in words: ``function+0x12 (file.c:34)``, or the bare address where no function is known."""
        inside = any(s.address <= address < s.address + len(s.data) for s in self.segments if s.executable)
        index = bisect.bisect_right(self.functions, (address, "\U0010ffff")) - 1
        if index < 0 or not inside:
            return f"0x{address:08x}"
        start, name = self.functions[index]
        line = _source_line(self.path, address)
        return f"{name}+0x{address - start:x}" + (f" ({line})" if line else "")


def read_program(path: Path, *, machine: str = "EM_ARM") -> Program:
    """Read an ELF executable.

    Args:
        path: the file.
        machine: the processor it must be for, in ELF terms.

    Raises:
        UserError: E0801 pyelftools is not installed, E0806 the file cannot be read or is not such an executable.
    """
    try:
        from elftools.elf.elffile import ELFFile
    except ImportError as error:
        raise user_error("E0801", "running firmware needs pyelftools, which is not installed",
                         help=INSTALL_HELP) from error
    place = Source(file=str(path))
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise user_error("E0806", "the firmware file is too large", source=place,
                             found=f"{path.stat().st_size} bytes", allowed=f"at most {_MAX_FILE_BYTES} bytes")
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            found = f"{elf['e_machine']}, {elf['e_type']}, {elf.elfclass} bits"
            suitable = elf["e_machine"] == machine and elf["e_type"] == "ET_EXEC" and elf.little_endian
            segments = _segments(elf) if suitable else ()
            names = _symbols(elf) if suitable else []
    except OSError as error:
        raise user_error("E0806", f"the firmware cannot be read: {error.strerror}", source=place,
                         help="name a project folder or an ELF file") from error
    except _parse_errors() as error:
        raise user_error("E0806", f"not an ELF file, or a damaged one: {error}", source=place,
                         help="build the project again and name its .elf file") from error
    if not suitable:
        raise user_error("E0806", "the file is no executable for this processor", source=place, found=found,
                         allowed=f"{machine}, ET_EXEC, little-endian")
    functions = tuple(sorted((address, name) for name, address, is_function in names if is_function))
    return Program(path=path, segments=segments, symbols={name: address for name, address, _ in names},
                   functions=functions)


def _parse_errors() -> tuple[type[Exception], ...]:
    """What pyelftools raises on damaged files: its own errors and those of the layers below."""
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError

    return (ELFError, ConstructError, ValueError, KeyError, IndexError, AttributeError, TypeError, AssertionError,
            OverflowError, MemoryError, struct.error)


def _segments(elf: object) -> tuple[Segment, ...]:
    """The loadable segments."""
    segments = []
    for item in elf.iter_segments(type="PT_LOAD"):  # type: ignore[attr-defined]
        if item["p_filesz"]:
            segments.append(Segment(address=item["p_paddr"], data=item.data(), executable=bool(item["p_flags"] & 1)))
    return tuple(segments)


def _symbols(elf: object) -> list[tuple[str, int, bool]]:
    """(name, address, is a function) of every named symbol."""
    names = []
    for section in elf.iter_sections(type="SHT_SYMTAB"):  # type: ignore[attr-defined]
        for symbol in section.iter_symbols():
            kind = symbol["st_info"]["type"]
            if symbol.name and symbol["st_shndx"] != "SHN_UNDEF" and kind in ("STT_FUNC", "STT_OBJECT"):
                address = symbol["st_value"]
                names.append((symbol.name, address & ~1 if kind == "STT_FUNC" else address, kind == "STT_FUNC"))
    return names


def _source_line(path: Path, address: int) -> str:
    """``file.c:34`` of an address, from the debug information; empty where there is none."""
    from elftools.elf.elffile import ELFFile

    parse_errors: tuple[type[Exception], ...] = (OSError, *_parse_errors())
    try:
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            if not elf.has_dwarf_info():
                return ""
            dwarf = elf.get_dwarf_info()
            for unit in dwarf.iter_CUs():
                if found := _line_in_unit(dwarf.line_program_for_CU(unit), address):
                    return found
    except parse_errors:
        return ""  # debug information is a courtesy: without it the function and offset still tell the place
    return ""


def _line_in_unit(program: object, address: int) -> str:
    """``file.c:34`` where the address belongs to this compilation unit, else empty."""
    if program is None:
        return ""
    header = program.header  # type: ignore[attr-defined]
    before = None
    for entry in program.get_entries():  # type: ignore[attr-defined]
        state = entry.state
        if state is None:
            continue
        if before is not None and before.address <= address < state.address:
            index = before.file if header["version"] >= 5 else before.file - 1
            name = header["file_entry"][index].name.decode(errors="replace")
            return f"{name}:{before.line}"
        before = None if state.end_sequence else state
    return ""
