"""Writing never loses what was there, whichever file operation fails; folders of others are never replaced.

Source: docs/design.md "Files".
"""

import errno
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai8x.errors import UserError
from ai8x.files import (
    MANIFEST_NAME,
    array_from_npy,
    atomic_write,
    check_replaceable,
    digest,
    folder_digests,
    npz_bytes,
    output_folder,
    read_bytes,
    remove_stale_temporaries,
    safe_name,
    write_json,
    write_text,
)

MANIFEST = {"tool": "ai8x", "version": "0"}
ERRORS = [errno.ENOSPC, errno.EACCES, errno.EIO]


class FailingDisk:
    """Counts every operation that changes the disk and fails the N-th; a failing write writes half of its data."""

    CALLS = ("replace", "rename", "mkdir", "fsync")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fail_at: int, error: int) -> None:
        self.operations = 0
        self._fail_at = fail_at
        self._error = error
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))
        self._open = io.open
        monkeypatch.setattr(io, "open", self._open_counted)

    @property
    def has_failed(self) -> bool:
        """The chosen operation was reached."""
        return 0 < self._fail_at <= self.operations

    def step(self) -> bool:
        """Count an operation; True where it is to fail."""
        self.operations += 1
        return self.operations == self._fail_at

    def failure(self) -> OSError:
        """The error of the chosen operation."""
        return OSError(self._error, os.strerror(self._error))

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            if self.step():
                raise self.failure()
            return call(*arguments, **options)

        return run

    def _open_counted(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not set(mode) & set("wxa+"):
            return self._open(file, mode, *arguments, **options)
        if self.step():
            raise self.failure()
        return FailingStream(self._open(file, mode, *arguments, **options), self)


class FailingStream:
    """An open file whose writes, flushes and closings count."""

    def __init__(self, stream: Any, disk: FailingDisk) -> None:
        self._stream = stream
        self._disk = disk

    def write(self, data: Any) -> int:
        if self._disk.step():
            self._stream.write(data[:len(data) // 2])
            raise self._disk.failure()
        return int(self._stream.write(data))

    def flush(self) -> None:
        if self._disk.step():
            raise self._disk.failure()
        self._stream.flush()

    def fileno(self) -> int:
        return int(self._stream.fileno())

    def __enter__(self) -> "FailingStream":
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()
        if self._disk.step():
            raise self._disk.failure()


def every_failure(action: Callable[[], object], check: Callable[[bool], None], error: int) -> int:
    """Run an action with its 1st, 2nd, 3rd ... operation failing, until none fails any more.

    Args:
        action: what writes.
        check: called after every run; its argument is whether the action reported success.
        error: number of the error.

    Returns:
        The number of operations that were made to fail.
    """
    fail_at = 0
    while True:
        fail_at += 1
        with pytest.MonkeyPatch.context() as patch:
            disk = FailingDisk(patch, fail_at=fail_at, error=error)
            try:
                action()
                succeeded = True
            except UserError as refused:
                succeeded = False
                (finding,) = refused.diagnostics
                assert finding.code == "E0810"
                assert os.strerror(error) in finding.found
        check(succeeded)
        if not disk.has_failed:
            assert succeeded
            return fail_at - 1


# --- atomic_write -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("chunks", [1, 3])
def test_whichever_operation_fails_the_old_file_is_whole(tmp_path: Path, error: int, chunks: int) -> None:
    path = tmp_path / "checkpoint"
    path.write_bytes(b"old content")
    new = bytes(range(256)) * chunks

    def write(stream: Any) -> None:
        for start in range(0, len(new), 256):
            stream.write(new[start:start + 256])

    def check(succeeded: bool) -> None:
        assert path.read_bytes() == (new if succeeded else b"old content")
        assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"], "a temporary file is left"
        path.write_bytes(b"old content")

    # open, writes, flush, fsync, close, replace, and the folder's fsync, whose failure is none of the user's business
    assert every_failure(lambda: atomic_write(path, write), check, error) == 6 + chunks


def test_a_failing_sync_of_the_folder_is_not_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(errno.EINVAL, "not for folders")

    monkeypatch.setattr(os, "fsync", fsync)
    atomic_write(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert len(synced) == 2


def test_an_exception_of_the_writer_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")

    def write(stream: Any) -> None:
        stream.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "x", write)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        atomic_write(tmp_path / "none" / "x", b"")
    (finding,) = refused.value.diagnostics
    assert finding.source is not None
    assert finding.source.file == str(tmp_path / "none" / "x")


def test_free_space_is_named_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FailingDisk(monkeypatch, fail_at=2, error=errno.ENOSPC)
    with pytest.raises(UserError, match="writing failed") as refused:
        atomic_write(tmp_path / "x", b"new")
    assert "bytes free" in refused.value.diagnostics[0].found


def test_text_and_json_are_written_as_they_are(tmp_path: Path) -> None:
    write_text(tmp_path / "t", "ä\nb\n")
    write_json(tmp_path / "j", {"b": 1, "a": [1, 2]})
    assert (tmp_path / "t").read_bytes() == "ä\nb\n".encode()
    assert (tmp_path / "j").read_text().startswith('{\n  "b": 1')
    assert json.loads((tmp_path / "j").read_text()) == {"b": 1, "a": [1, 2]}


# --- output_folder ------------------------------------------------------------------------------------------------

def fill(folder: Path, text: str) -> None:
    """What a tool would write."""
    (folder / "sub").mkdir()
    write_text(folder / "sub" / "a.c", text)
    write_text(folder / "b.txt", text)


def make(target: Path, text: str, **options: Any) -> None:
    with output_folder(target, MANIFEST, **options) as folder:
        fill(folder, text)


def tree(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("error", ERRORS)
def test_whichever_operation_fails_the_old_folder_is_whole(tmp_path: Path, error: int) -> None:
    target = tmp_path / "out"
    make(target, "old")
    old = tree(target)

    def check(succeeded: bool) -> None:
        assert [p.name for p in tmp_path.iterdir()] == ["out"], "a temporary folder is left"
        if succeeded:
            assert tree(target)["b.txt"] == "new"
            check_replaceable(target, overwrite=False)
            make(target, "old")
        assert tree(target) == old

    assert every_failure(lambda: make(target, "new"), check, error) > 15


@pytest.mark.parametrize("error", ERRORS)
def test_whichever_operation_fails_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path, error: int) -> None:
    target = tmp_path / "new" / "out"

    def check(succeeded: bool) -> None:
        if succeeded:
            assert set(tree(target)) == {"sub/a.c", "b.txt", MANIFEST_NAME}
            shutil.rmtree(tmp_path / "new")
        assert not list(tmp_path.iterdir()), "something is left"

    assert every_failure(lambda: make(target, "new"), check, error) > 15


def test_a_folder_lists_its_files_with_their_digests(tmp_path: Path) -> None:
    make(tmp_path / "out", "text")
    manifest = json.loads((tmp_path / "out" / MANIFEST_NAME).read_text())
    assert manifest["files"] == {"b.txt": digest(b"text"), "sub/a.c": digest(b"text")}
    assert manifest["files"] == folder_digests(tmp_path / "out")
    assert {key: manifest[key] for key in MANIFEST} == MANIFEST


@pytest.mark.parametrize("exception", [KeyboardInterrupt(), ValueError("x"), OSError("x")])
def test_an_exception_inside_leaves_everything_as_it_was(tmp_path: Path, exception: BaseException) -> None:
    make(tmp_path / "out", "old")
    with (pytest.raises((type(exception), UserError)),
          output_folder(tmp_path / "out", MANIFEST) as folder):
        fill(folder, "new")
        raise exception
    assert tree(tmp_path / "out")["b.txt"] == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_reader_of_messages_who_has_gone_is_no_write_error(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), output_folder(tmp_path / "out", MANIFEST):
        raise BrokenPipeError
    assert not list(tmp_path.iterdir())


def refused(target: Path, **options: Any) -> str:
    """What a refused folder is said to hold."""
    with pytest.raises(UserError) as error, output_folder(target, MANIFEST, **options):
        pytest.fail("the folder was accepted")
    (finding,) = error.value.diagnostics
    assert finding.code == "E0811"
    return finding.found


def test_a_folder_with_foreign_files_is_refused_unless_told_otherwise(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    for name in ("d", "a", "c", "b"):
        (target / name).write_text("mine")
    assert refused(target) == "a, b, c and 1 more"
    make(target, "new", overwrite=True)
    assert set(tree(target)) == {"sub/a.c", "b.txt", MANIFEST_NAME}


@pytest.mark.parametrize("change", ["added", "edited", "linked"])
def test_a_changed_folder_of_ours_is_refused(tmp_path: Path, change: str) -> None:
    target = tmp_path / "out"
    make(target, "old")
    if change == "added":
        (target / "sub" / "new.c").write_text("")
    elif change == "edited":
        (target / "sub" / "a.c").write_text("edited")
    else:
        (target / "sub" / "a.c").unlink()
        (target / "sub" / "a.c").symlink_to(target / "b.txt")
    assert refused(target) == ("sub/new.c" if change == "added" else "sub/a.c")


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"files": 3}', '{"files": ["b.txt"]}',
                                      '{"files": {"b.txt": 1}}'])
def test_a_folder_with_a_damaged_manifest_is_not_ours(tmp_path: Path, manifest: str) -> None:
    target = tmp_path / "out"
    make(target, "old")
    (target / MANIFEST_NAME).write_text(manifest)
    assert "b.txt" in refused(target)


def test_missing_files_and_empty_folders_do_not_matter(tmp_path: Path) -> None:
    target = tmp_path / "out"
    make(target, "old")
    (target / "b.txt").unlink()
    (target / "empty").mkdir()
    make(target, "new")
    assert not (target / "empty").exists()


def test_build_products_do_not_count_as_foreign(tmp_path: Path) -> None:
    make(tmp_path / "out", "old")
    (tmp_path / "out" / "sub" / "build").mkdir()
    (tmp_path / "out" / "sub" / "build" / "a.o").write_bytes(b"")
    make(tmp_path / "out", "new")


@pytest.mark.parametrize("target", [".", "..", "/", "sub/.."])
def test_the_present_folder_and_those_above_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                               target: str) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    assert refused(Path(target), overwrite=True) == "the present folder, or one that it lies in"


def test_links_and_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert refused(tmp_path / "file", overwrite=True) == "a file"
    assert refused(tmp_path / "link", overwrite=True) == "a link"
    assert refused(tmp_path / "dangling", overwrite=True) == "a link"


# --- reading ------------------------------------------------------------------------------------------------------

def test_a_file_up_to_the_limit_is_read_and_a_larger_one_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    assert read_bytes(tmp_path / "x", limit=5) == b"12345"
    with pytest.raises(UserError) as error:
        read_bytes(tmp_path / "x", limit=4)
    assert error.value.diagnostics[0].found == "5 bytes"


@pytest.fixture(params=["missing", "folder", "pipe"])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "x"
    if request.param == "folder":
        path.mkdir()
    elif request.param == "pipe":
        os.mkfifo(path)
    yield path


def test_what_is_no_file_is_refused_without_waiting(no_file: Path) -> None:
    with pytest.raises(UserError) as error:
        read_bytes(no_file, limit=5, code="E0501")
    assert error.value.diagnostics[0].code == "E0501"


# --- arrays -------------------------------------------------------------------------------------------------------

def test_archives_have_the_same_bytes_for_the_same_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"L0": np.arange(6).reshape(1, 2, 3), "L1": np.zeros((2, 2), np.int8)[:, ::-1]}
    first = npz_bytes(arrays)
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert npz_bytes(arrays) == first
    with np.load(io.BytesIO(first)) as loaded:
        for name, array in arrays.items():
            np.testing.assert_array_equal(loaded[name], array)


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_a_saved_array_is_read_back() -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    np.testing.assert_array_equal(array_from_npy(saved(array)), array)


def test_damaged_arrays_raise_one_kind_of_error() -> None:
    whole = saved(np.zeros((1, 4, 4), np.int8))
    rng = np.random.default_rng(0)
    for _ in range(1500):
        damaged = bytearray(whole[:int(rng.integers(len(whole) + 1))])
        for _ in range(int(rng.integers(4))):
            if damaged:
                damaged[int(rng.integers(len(damaged)))] = int(rng.choice([0, 32, 40, 41, 44, 48, 57, 255]))
        try:
            array_from_npy(bytes(damaged))
        except ValueError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("shape", ["(-1,)", "(10000000000000000000000000,)", "(4611686018427387904,4)", "('a',)",
                                   "(1," * 300])
def test_an_impossible_shape_is_an_error(shape: str) -> None:
    header = f"{{'descr': '|i1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    with pytest.raises(ValueError, match=r".+"):
        array_from_npy(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"data")


# --- names and temporaries ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["a", "A-b_9", "x" * 64])
def test_harmless_names_are_taken(name: str) -> None:
    assert safe_name(name, what="arch") == name


@pytest.mark.parametrize("name", ["", "x" * 65, "../x", "a b", "a/b", "ä", "a\n", "*/", "%s"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError) as error:
        safe_name(name, what="arch")
    assert error.value.diagnostics[0].code == "E0112"


def test_only_old_temporaries_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead, alive = 2 ** 22 + 12345, os.getpid()
    names = {f".x.{dead}-0123abcd.partial": False, f".x.{alive}-0123abcd.partial": True, "x.partial": True,
             f".x.{dead}-0123abc.partial": True, f".y.{dead}-00000000.partial": True}
    for name in names:
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / f".y.{dead}-00000000.partial")  # young
    (tmp_path / f".z.{dead}-00000000.partial").mkdir()
    remove_stale_temporaries(tmp_path)
    assert {name for name in names if (tmp_path / name).exists()} == {name for name, kept in names.items() if kept}
    assert (tmp_path / f".z.{dead}-00000000.partial").is_dir()


def test_a_folder_that_is_missing_is_to_be_made_first(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        atomic_write(tmp_path / "new" / "file", b"x")
    assert error.value.diagnostics[0].help == f"make the folder {tmp_path / 'new'} first, or choose another one"
