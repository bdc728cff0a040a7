"""Hostile samples and odd command lines: refused with the expected code, nothing else touched."""

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from ai8x.cli import synthesize
from ai8x.errors import ExitStatus, UserError
from ai8x.sample import read_sample
from tests.end_to_end.digitsnet import NETWORK_FILE, write_digitsnet
from tests.mutation.judge import missing_parts


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def saved(array: np.ndarray, **options: bool) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def zipped(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


SAMPLES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "E0641"),
    "text": (b"1 2 3\n", "E0641"),
    "objects": (saved(np.array([{}], dtype=object), allow_pickle=True), "E0641"),
    "pickle": (pickle.dumps([1, 2, 3]), "E0641"),
    "archive": (zipped(a=np.zeros((1, 8, 8), np.int8)), "E0641"),
    "header that is code": (npy(b"{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': ()}\n"),
                            "E0641"),
    "header without end": (npy(b"{'descr': '|i1', "), "E0641"),
    "header of brackets": (npy(b"(" * 5000), "E0641"),
    "shape of 2**62": (npy(b"{'descr': '|i1', 'fortran_order': False, 'shape': (4611686018427387904,)}\n"), "E0641"),
    "negative shape": (npy(b"{'descr': '|i1', 'fortran_order': False, 'shape': (-1, 8, 8)}\n", bytes(64)), "E0641"),
    "data cut off": (saved(np.zeros((1, 28, 28), np.int64))[:-9], "E0641"),
    "floats": (saved(np.zeros((1, 28, 28))), "E0642"),
    "truth values": (saved(np.zeros((1, 28, 28), bool)), "E0642"),
    "too large a value": (saved(np.full((1, 28, 28), 128)), "E0642"),
    "too small a value": (saved(np.full((1, 28, 28), -129)), "E0642"),
    "one dimension": (saved(np.zeros(784, np.int8)), "E0642"),
    "four dimensions": (saved(np.zeros((1, 1, 28, 28), np.int8)), "E0642"),
    "no values": (saved(np.zeros((0, 28, 28), np.int8)), "E0642"),
    "texts": (saved(np.array([["a"]])), "E0642"),
    "complex": (saved(np.zeros((1, 8, 8), complex)), "E0642"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_hostile_sample_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(SAMPLES[name][0])
    with pytest.raises(UserError) as caught:
        read_sample(path)
    (finding,) = caught.value.diagnostics
    assert finding.code == SAMPLES[name][1], finding.format()
    assert not set(missing_parts(finding)) - {"line", "column"}, finding.format()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digitsnet(tmp_path_factory.mktemp("checkpoint") / "digits.safetensors")


def run(*arguments: object) -> int:
    return synthesize.main([*map(str, arguments), "--target", "max78000", "--no-verify", "-q"])


COMMANDS = {
    "no files": ((), "E0290"),
    "one file": (("{net}",), "E0290"),
    "missing network": (("nothing.yaml", "{ckpt}"), "E0101"),
    "missing checkpoint": (("{net}", "nothing.pth.tar"), "E0501"),
    "missing sample": (("{net}", "{ckpt}", "--sample-input", "nothing.npy"), "E0640"),
    "folder as network": ((".", "{ckpt}"), "E0101"),
    "folder as checkpoint": (("{net}", "."), "E0501"),
    "device as network": (("/dev/zero", "{ckpt}"), "E0101"),
    "network and checkpoint exchanged": (("{ckpt}", "{net}"), "E0103"),
    "output is a file": (("{net}", "{ckpt}", "--out", "taken"), "E0811"),
    "output is /": (("{net}", "{ckpt}", "--out", "/"), "E0811"),
    "output holds other files": (("{net}", "{ckpt}", "--out", "full"), "E0811"),
    "output below a file": (("{net}", "{ckpt}", "--out", "taken/deeper"), "E0810"),
    "path of 4096 characters": (("a/" * 2048, "{ckpt}"), "E0101"),
    "name of 4096 characters": (("{net}", "{ckpt}", "--out", "a" * 4096), "E0810"),
    "NUL in a path": (("a\0b.yaml", "{ckpt}"), "E0101"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_odd_command_is_refused(name: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    words, code = COMMANDS[name]
    assert run(*(word.format(net=NETWORK_FILE, ckpt=checkpoint) for word in words)) == ExitStatus.USER
    told = capsys.readouterr().err
    assert f"[{code}]" in told and "  help:    " in told and "Traceback" not in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "taken"]
    assert (tmp_path / "taken").read_text() == (tmp_path / "full" / "thesis.txt").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_files_without_permission_are_refused(checkpoint: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    closed = tmp_path / "closed.yaml"
    closed.write_bytes(NETWORK_FILE.read_bytes())
    closed.chmod(0)
    assert run(closed, checkpoint, "--out", tmp_path / "out") == ExitStatus.USER
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    assert run(NETWORK_FILE, checkpoint, "--out", folder / "out") == ExitStatus.USER
    told = capsys.readouterr().err
    assert "[E0101]" in told and "[E0810]" in told


def test_paths_with_spaces_and_other_letters_work(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "meine Prüfung 試験 %s $(x)"
    folder.mkdir()
    network = folder / "net 1.yaml"
    network.write_bytes(NETWORK_FILE.read_bytes())
    assert run(network, checkpoint, "--out", folder / "out put") == ExitStatus.SUCCESS
    assert (folder / "out put" / "report.json").is_file()
