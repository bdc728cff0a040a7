"""Hostile and damaged checkpoints: refused with the expected code, or read with exactly the content that was written.

Nothing in them is executed. The files are made here, the damage is drawn from a seed.
"""

import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ai8x.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ai8x.errors import UserError
from ai8x.network.weights import parameters_from_state
from tests.mutation.judge import missing_parts

SEED = 2026
NUM_DAMAGED = 200
MOST_SECONDS = 2.0
MARKER = "executed"


class Command:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARKER}",)


class Template:
    """Evaluates code where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open({MARKER!r}, 'w')",)


def weights(**changes: Any) -> dict[str, torch.Tensor]:
    return {"conv1.op.weight": torch.ones(4, 3, 3, 3), "conv1.output_shift": torch.tensor([-1.0]), **changes}


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as target:
        for name, content in members.items():
            target.writestr(zipfile.ZipInfo(name), content, compression)
    return stream.getvalue()


def saved(payload: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(payload, stream, **options)
    return stream.getvalue()


def with_pickle(content: bytes) -> bytes:
    """A torch archive with another pickle inside."""
    with zipfile.ZipFile(io.BytesIO(saved({"state_dict": weights()}))) as source:
        members = {item.filename: source.read(item) for item in source.infolist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    return archive(members | {name: content})


def safetensors(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start: int, end: int, shape: list[int], kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


def with_wrong_checksum() -> bytes:
    content = bytearray(saved({"state_dict": weights()}))
    place = content.find(struct.pack("<f", 1.0) * 8)
    content[place] ^= 1
    return bytes(content)


def doubled_member() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target, pytest.warns(UserWarning, match="Duplicate name"):
        for _ in range(2):
            target.writestr("archive/data.pkl", pickle.dumps({}))
    return stream.getvalue()


def optimizer_with_hostile_state() -> dict[str, Any]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    optimizer.hostile = Command()  # type: ignore[attr-defined]
    return {"state_dict": weights(), "optimizer": optimizer}


def storage_beyond_the_file() -> bytes:
    """A tensor that claims more elements than its storage holds."""
    content = saved({"state_dict": {"conv1.op.weight": torch.ones(4)}})
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        members = {item.filename: source.read(item) for item in source.infolist()}
    name = next(name for name in members if name.endswith("/data/0"))
    return archive(members | {name: members[name][:4]})


BAD_CONTENT = ("E0503", "E0505", "E0506", "E0507")
HOSTILE: dict[str, tuple[Callable[[], bytes], tuple[str, ...]]] = {
    "empty": (lambda: b"", ("E0502",)),
    "text": (lambda: b"not a checkpoint at all", ("E0502",)),
    "command in an archive": (lambda: with_pickle(pickle.dumps({"state_dict": Command()}, 2)), BAD_CONTENT),
    "command in a raw pickle": (lambda: pickle.dumps({"state_dict": Command()}, 2), BAD_CONTENT),
    "evaluated code": (lambda: with_pickle(pickle.dumps({"arch": Template()}, 2)), BAD_CONTENT),
    "command in an allowed class": (lambda: saved(optimizer_with_hostile_state()), BAD_CONTENT),
    "pickle that ends early": (lambda: with_pickle(pickle.dumps({"state_dict": {}}, 2)[:-3]), BAD_CONTENT),
    "pickle of 10000 marks": (lambda: with_pickle(b"\x80\x02" + b"(" * 10_000 + b"."), BAD_CONTENT),
    "pickle that refers to nothing": (lambda: with_pickle(b"\x80\x02h\xff."), BAD_CONTENT),
    "pickle of a huge text": (lambda: with_pickle(b"\x80\x02X\xff\xff\xff\x7fa."), BAD_CONTENT),
    "pickle of a huge memo": (lambda: with_pickle(b"\x80\x02}r\xff\xff\xff\x7f."), BAD_CONTENT),
    "zip bomb": (lambda: archive({"archive/data.pkl": bytes(50 << 20)}, zipfile.ZIP_DEFLATED), ("E0504",)),
    "member outside": (lambda: archive({"../archive/data.pkl": b""}), ("E0504",)),
    "absolute member": (lambda: archive({"/etc/passwd": b""}), ("E0504",)),
    "equal members": (doubled_member, ("E0504",)),
    "no pickle": (lambda: archive({"archive/other": b""}), BAD_CONTENT),
    "wrong checksum": (with_wrong_checksum, ("E0503",)),
    "storage too small": (storage_beyond_the_file, BAD_CONTENT),
    "no dictionary": (lambda: saved([1, 2]), ("E0506",)),
    "no parameters": (lambda: saved({"arch": "a"}), ("E0506",)),
    "parameters are text": (lambda: saved({"state_dict": {"conv1.op.weight": "1"}}), BAD_CONTENT),
    "not a number": (lambda: saved({"state_dict": weights(x=torch.tensor([float("nan")]))}), ("E0507",)),
    "infinite": (lambda: saved({"state_dict": weights(x=torch.tensor([float("inf")]))}), ("E0507",)),
    "complex": (lambda: saved({"state_dict": weights(x=torch.ones(1, dtype=torch.complex64))}), BAD_CONTENT),
    "sparse": (lambda: saved({"state_dict": weights(x=torch.eye(2).to_sparse())}), BAD_CONTENT),
    "2**40 elements in 4 bytes": (lambda: saved({"state_dict": weights(x=torch.ones(1).expand(1 << 40))}), BAD_CONTENT),
    "numbers as names": (lambda: saved({"state_dict": {1: torch.ones(1)}}), BAD_CONTENT),
    "epoch is text": (lambda: saved({"state_dict": weights(), "epoch": "7"}), ("E0506",)),
    "arch is a list": (lambda: saved({"state_dict": weights(), "arch": ["a"]}), ("E0506",)),
    "negative input": (lambda: saved({"state_dict": weights(), "input_shape": [-1, 8, 8]}), ("E0506",)),
    "float sample": (lambda: saved({"state_dict": weights(), "sample": torch.ones(1, 8, 8)}), ("E0506",)),
    "wrong digest": (lambda: saved({"state_dict": weights(), "digest": "0" * 64}), ("E0508",)),
    "header beyond the file": (lambda: safetensors({}, length=1 << 20), ("E0502", "E0503")),
    "header of 2**63 bytes": (lambda: safetensors({}, length=1 << 63), ("E0502", "E0503")),
    "header is no JSON": (lambda: safetensors(b"{nonsense"), ("E0503",)),
    "header is a list": (lambda: safetensors([1]), ("E0502", "E0503")),
    "header 10000 levels deep": (lambda: safetensors(b'{"a":' * 10_000), ("E0502", "E0503")),
    "overlapping data": (lambda: safetensors({"a": tensor(0, 8, [2]), "b": tensor(4, 12, [2])}, bytes(12)), ("E0503",)),
    "hole in the data": (lambda: safetensors({"a": tensor(4, 12, [2])}, bytes(12)), ("E0503",)),
    "negative shape": (lambda: safetensors({"a": tensor(0, 4, [-1])}, bytes(4)), ("E0503",)),
    "2**63 elements": (lambda: safetensors({"a": tensor(0, 4, [1 << 63])}, bytes(4)), ("E0503",)),
    "product beyond 64 bits": (lambda: safetensors({"a": tensor(0, 4, [1 << 33, 1 << 33])}, bytes(4)), ("E0503",)),
    "data beyond the file": (lambda: safetensors({"a": tensor(0, 400, [100])}, bytes(4)), ("E0503",)),
    "unknown kind": (lambda: safetensors({"a": tensor(0, 4, [1], "Q99")}, bytes(4)), ("E0503", "E0507")),
}


def refuse(path: Path, *codes: str) -> UserError:
    start = time.process_time()
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    assert time.process_time() - start < MOST_SECONDS
    (finding,) = caught.value.diagnostics
    assert finding.code in codes, finding.format()
    assert not set(missing_parts(finding)) - {"line", "column"}, finding.format()
    return caught.value


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_checkpoint_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, codes = HOSTILE[name]
    content = make()
    is_torch = "E0503" not in codes or content.startswith((b"PK", b"\x80"))
    path = tmp_path / ("x.pth.tar" if is_torch else "x.safetensors")
    path.write_bytes(content)
    refuse(path, *codes)
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_folder_and_pipe_are_refused_without_waiting(tmp_path: Path) -> None:
    refuse(tmp_path, "E0501")
    pipe = tmp_path / "pipe.pth.tar"
    os.mkfifo(pipe)
    refuse(pipe, "E0501")
    refuse(tmp_path / "missing.pth.tar", "E0501")


def test_the_hostile_pickles_would_run_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus is not toothless: plain pickle executes what the reader refuses."""
    monkeypatch.chdir(tmp_path)
    for hostile in (Command(), Template()):
        pickle.loads(pickle.dumps(hostile, 2))
        assert (tmp_path / MARKER).exists()
        (tmp_path / MARKER).unlink()


@pytest.mark.parametrize(("state", "code"), [
    ({"conv1.op.weight": np.full((4, 3, 3, 3), 0.5)}, "E0542"), ({"conv1.op.weight": np.zeros((4, 0, 3, 3))}, "E0543"),
    ({"conv1.op.weight": np.ones((2, 2, 2, 2, 2))}, "E0543"), ({"conv1.op.weight": np.full((4, 3), 2.0**40)}, "E0542"),
    ({"conv1.op.weight": np.full((4, 3), np.nan)}, "E0542"), ({"conv1.op.weight": np.array(["a"])}, "E0542"),
    ({"conv1.op.bias": np.ones(4)}, "E0546"), ({}, "E0546"),
    ({"conv1.op.weight": np.ones((4, 3)), "conv1.weight_bits": np.array([7])}, "E0544"),
    ({"conv1.op.weight": np.ones((4, 3)), "conv1.output_shift": np.array([99])}, "E0545"),
    ({"conv1.op.weight": np.ones((4, 3)), "conv1.op.bias": np.ones((2, 2))}, "E0543"),
    ({"weight": np.ones((4, 3)), "a.weight": np.ones((4, 3))}, "E0541"),
    ({"conv1.op.weight": np.ones((4, 3)), "conv1.bn.weight": np.ones(4)}, "E0540"),
])
def test_arrays_that_no_accelerator_can_use_are_refused(state: dict[str, np.ndarray], code: str) -> None:
    with pytest.raises(UserError) as caught:
        parameters_from_state(state, "net.pth.tar")
    (finding,) = caught.value.diagnostics
    assert finding.code == code
    assert not set(missing_parts(finding)) - {"line", "column"}, finding.format()


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """One of: cut, flipped bits, overwritten bytes, bytes lost or doubled."""
    place = int(rng.integers(len(content)))
    kind = int(rng.integers(5))
    if kind == 0:
        return content[:place]
    if kind == 1:
        changed = bytearray(content)
        for _ in range(int(rng.integers(1, 4))):
            changed[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        return bytes(changed)
    if kind == 2:
        return content[:place] + rng.bytes(int(rng.integers(1, 64))) + content[place + 16:]
    length = int(rng.integers(1, 256))
    return content[:place] + content[place + length:] if kind == 3 else content[:place + length] + content[place:]


def plain(checkpoint: Checkpoint) -> dict[str, Any]:
    arrays = {name: array.tolist() for name, array in checkpoint.state.items()}
    sample = None if checkpoint.sample is None else checkpoint.sample.tolist()
    return {**arrays, "arch": checkpoint.arch, "epoch": checkpoint.epoch, "sample": sample,
            "labels": checkpoint.labels, "input_shape": checkpoint.input_shape}


@pytest.mark.parametrize("suffix", [".pth.tar", ".safetensors"])
def test_200_damaged_checkpoints_are_refused_or_unchanged(suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    state = OrderedDict({"conv1.op.weight": rng.integers(-128, 128, (8, 3, 3, 3)).astype(np.float32),
                         "conv1.output_shift": np.array([-1.0], np.float32)})
    path = tmp_path / f"net{suffix}"
    write_checkpoint(path, Checkpoint(state=state, arch="net", epoch=3, labels=("a", "b"), input_shape=(3, 8, 8),
                                      sample=rng.integers(-128, 128, (3, 8, 8)).astype(np.int8)))
    content, expected = path.read_bytes(), plain(read_checkpoint(path))
    refused = 0
    for number in range(NUM_DAMAGED // 2):
        changed = damaged(content, rng)
        path.write_bytes(changed)
        try:
            found = read_checkpoint(path)
        except UserError as error:
            refused += 1
            (finding,) = error.diagnostics
            assert not set(missing_parts(finding)) - {"line", "column"}, f"{number}: {finding.format()}"
            continue
        assert plain(found) == expected, f"damage {number} was not noticed"
    assert refused > NUM_DAMAGED // 2 * 0.9
