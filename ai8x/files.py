"""Bounded reads, atomic writes, and output folders that never destroy what is not ours.

The one place that renames and deletes. Knows nothing of what is inside the files.
Start at `atomic_write` and `output_folder`.

Source: docs/design.md "Files", "Libraries".
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Source, UserError, user_error

MANIFEST_NAME = "manifest.json"
MANIFEST_FORMAT = 1
_STALE_SECONDS = 60
_TEMPORARY = re.compile(r"^\.(?P<name>.+)\.(?P<pid>\d+)-[0-9a-f]{8}\.partial$")


def bundled_root() -> Path:
    """The folder with ``models/``, ``networks/`` and ``policies/``: the checkout, or that of an installed package."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout if (checkout / "networks").is_dir() else Path(sys.prefix) / "share" / "ai8x"


def read_bytes(path: Path, *, limit: int, code: str = "E0101") -> bytes:
    """The content of a regular file of at most ``limit`` bytes.

    Args:
        path: as the user typed it.
        limit: size in bytes above which the file is refused unread.
        code: diagnostic code for a missing or unreadable file.

    Raises:
        UserError: no such file, not a regular file, unreadable or too large.
    """
    source = Source(file=str(path))
    try:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "something else" if path.exists() else "no such file"
            raise user_error(code, "the file cannot be read", source=source, found=found, allowed="a regular file",
                             help="check the path for typing errors")
        size = path.stat().st_size
        if size > limit:
            raise user_error(code, "the file is too large", source=source, found=f"{size} bytes",
                             allowed=f"at most {limit} bytes", help="check that this is the file you meant")
        return path.read_bytes()
    except OSError as error:
        raise user_error(code, "the file cannot be read", source=source, found=error.strerror or str(error),
                         help="check the path and its permissions") from error


def atomic_write(path: Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file so that at every instant the old or the new content is complete on disk.

    A temporary file in the same folder is written, flushed to the disk and renamed over the target.

    Args:
        path: target; its folder must exist.
        content: the bytes, or a function that writes them to an open binary file.

    Raises:
        UserError: E0810, with the reason and the free space; the old file is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        with temporary.open("xb") as stream:
            if callable(content):
                content(stream)
            else:
                stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _write_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # the new content is complete; not every file system can sync a folder
        _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """`atomic_write` of UTF-8 text with line feeds as they are."""
    atomic_write(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`atomic_write` of indented JSON with stable key order."""
    write_text(path, json.dumps(value, indent=2, sort_keys=False) + "\n")


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A compressed ``.npz`` archive, the same bytes for the same arrays: members carry no time.

    Args:
        arrays: member name (without ``.npy``) -> array.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def array_from_npy(content: bytes) -> NDArray[Any]:
    """The array that `numpy.save` wrote; nothing in it is executed.

    Raises:
        ValueError: with the reason in one line: no array file, damaged, an archive, or Python objects.
    """
    try:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TokenError, zipfile.BadZipFile, OverflowError, MemoryError,
            RecursionError, TypeError, KeyError) as error:  # numpy does not check a header before it trusts it
        reason = str(error).splitlines() or [type(error).__name__]
        raise ValueError(reason[0][:120]) from error
    if not isinstance(loaded, np.ndarray):
        raise ValueError("an archive of several arrays")
    return loaded


def remove_stale_temporaries(folder: Path) -> None:
    """Delete what killed processes left of `atomic_write`: only names it creates, older than a minute."""
    for entry in folder.iterdir():
        match = _TEMPORARY.match(entry.name)
        if not match or _is_running(int(match["pid"])) or entry.is_symlink() or not entry.is_file():
            continue
        with contextlib.suppress(OSError):  # another process may tidy up at the same time
            if time.time() - entry.stat().st_mtime > _STALE_SECONDS:
                entry.unlink(missing_ok=True)


def digest(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def folder_digests(folder: Path) -> dict[str, str]:
    """Relative POSIX path -> SHA-256 of every file below a folder but its manifest, sorted."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST_NAME)
    return {p.relative_to(folder).as_posix(): digest(p.read_bytes()) for p in files}


@contextlib.contextmanager
def output_folder(target: Path, manifest: Mapping[str, Any], *, overwrite: bool = False) -> Iterator[Path]:
    """A folder that appears whole or not at all.

    Yields a temporary sibling to fill. On success it gets a manifest (``manifest`` plus the digest of every file)
    and takes the target's place; on any exception it is removed and the target stays as it was.

    Args:
        target: the output folder.
        manifest: tool version, inputs and options.
        overwrite: also replace a folder that holds files we did not write.

    Raises:
        UserError: E0811 where the target holds files that are not ours; E0810 where writing fails.
    """
    check_replaceable(target, overwrite=overwrite)
    place = _absolute(target)
    staging = place.with_name(f".{place.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    new_parents = [parent for parent in place.parents if not parent.exists()]
    try:
        staging.mkdir(parents=True)
        yield staging
        content = {"format": MANIFEST_FORMAT, **manifest, "files": folder_digests(staging)}
        write_json(staging / MANIFEST_NAME, content)
        _swap(staging, place)
    except BrokenPipeError:  # whoever read our messages has gone: not a matter of this folder
        raise
    except OSError as error:
        raise _write_error(target, error) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        with contextlib.suppress(OSError):  # stops at the first that is not empty: the target's, after success
            for parent in new_parents:
                parent.rmdir()


def check_replaceable(target: Path, *, overwrite: bool) -> None:
    """Refuse a target that we must not replace.

    Raises:
        UserError: E0811, naming the first files that the folder's manifest does not list as ours; E0810, the folder
            cannot be looked at.
    """
    source = Source(file=str(target))
    try:
        place = _absolute(target)
        if not place.exists() and not place.is_symlink():
            return
        if found := _unsuitable_target(place):
            raise user_error("E0811", "the output folder cannot be replaced", source=source, found=found,
                             allowed="a new folder, or one of ours", help="name another folder with --out DIR")
        if overwrite or not any(place.iterdir()):
            return
        foreign = sorted(_files_not_ours(place))
    except OSError as error:
        raise _write_error(target, error) from error
    if foreign:
        raise user_error("E0811", "the output folder holds files that this tool did not write", source=source,
                         found=", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""),
                         allowed="a new folder, or one whose manifest lists every file unchanged",
                         help="name another folder with --out DIR, or add --overwrite to lose these files")


def safe_name(text: str, *, what: str, source: Source | None = None) -> str:
    """A name from a file, as it may appear in paths and C identifiers.

    Raises:
        UserError: E0112 unless it is 1 to 64 characters of A-Z, a-z, 0-9, ``_`` and ``-``.
    """
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        return text
    raise user_error("E0112", f"{what} cannot be used as a name", source=source, found=repr(text[:80]),
                     allowed="1 to 64 characters of A-Z, a-z, 0-9, _ and -", help="rename it")


BUILD_FOLDERS = ("build",)
"""Folders inside an output folder that belong to make; a rebuild may change them freely."""


def _absolute(path: Path) -> Path:
    """The path from the root, without ``.`` and ``..``; links stay links."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links


def _unsuitable_target(target: Path) -> str:
    """Why something that exists can never be an output folder, in words; empty where it can."""
    if target.is_symlink():
        return "a link"
    if not target.is_dir():
        return "a file"
    if Path.cwd().is_relative_to(target.resolve()):
        return "the present folder, or one that it lies in"
    return ""


def _files_not_ours(target: Path) -> set[str]:
    present = {p.relative_to(target).as_posix(): p for p in target.rglob("*") if p.is_file() or p.is_symlink()}
    try:
        listed = json.loads((target / MANIFEST_NAME).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set(present)
    if not isinstance(listed, dict):
        return set(present)
    foreign = set()
    for name, path in present.items():
        if name == MANIFEST_NAME or any(part in BUILD_FOLDERS for part in Path(name).parts[:-1]):
            continue
        if path.is_symlink() or listed.get(name) != digest(path.read_bytes()):
            foreign.add(name)
    return foreign


def _swap(staging: Path, target: Path) -> None:
    if not target.exists():
        staging.rename(target)
        return
    retired = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    target.rename(retired)
    try:
        staging.rename(target)
    except OSError:
        retired.rename(target)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there; replace() is as durable as it gets
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _write_error(path: Path, error: OSError) -> UserError:
    found = error.strerror or str(error)
    if error.errno == errno.ENOSPC:
        with contextlib.suppress(OSError):
            found += f", {shutil.disk_usage(path.parent).free} bytes free"
    return user_error("E0810", "writing failed; what was there before is unchanged", source=Source(file=str(path)),
                      found=found, allowed="a place that can be written to", help=_write_remedy(path, error))


def _write_remedy(path: Path, error: OSError) -> str:
    if error.errno == errno.EISDIR:
        return "give the name of a file, not of a folder"
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and not path.parent.is_dir():
        return f"make the folder {path.parent} first, or choose another one"
    return "free some space, or choose a folder that you may write to"
