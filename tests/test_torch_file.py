"""Reading torch archives without torch: equal to torch's own reader, and nothing that contradicts itself."""

import contextlib
import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ai8x.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from ai8x.errors import UserError
from ai8x.nn import modules
from ai8x.torch_file import (
    DamagedContent,
    StoredTensor,
    SuspiciousArchive,
    UnknownContent,
    check_archive,
    read_torch_file,
)

ROOT = Path(__file__).resolve().parents[1]
CASES = ROOT.parent / "shared" / "cases" / "max78000-trained"
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
          torch.int8, torch.uint8, torch.bool)


def saved(payload: object) -> bytes:
    stream = io.BytesIO()
    torch.save(payload, stream)
    return stream.getvalue()


def assert_equal(found: Any, expected: Any) -> None:
    """The same content: tensors as arrays of the same values, everything else with the same types."""
    if isinstance(expected, torch.Tensor):
        wide = expected.detach().float() if expected.dtype in (torch.float16, torch.bfloat16) else expected.detach()
        assert isinstance(found, StoredTensor)
        array = found.array()
        assert array.dtype == wide.numpy().dtype and array.shape == tuple(wide.shape)
        assert array.tobytes() == np.ascontiguousarray(wide.numpy()).tobytes()
    elif isinstance(expected, dict):
        assert type(found) is dict and list(found) == list(expected)
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, list | tuple):
        assert isinstance(expected, type(found)) and len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert type(found) is type(expected) and found == expected


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """Whole tensors and views: slices, steps, transposed, expanded, of no dimension, empty, parameters."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2 ** 31)))
    content = torch.randint(0, 2 if dtype is torch.bool else 100, shape, generator=generator).to(dtype)
    view = draw(st.sampled_from(("whole", "slice", "step", "transposed", "expanded", "parameter")))
    if view == "parameter" and dtype.is_floating_point:
        return torch.nn.Parameter(content)
    if content.ndim == 0:
        return content
    if view == "expanded":
        return content[None].expand(3, *content.shape)
    if view == "transposed":
        return content.transpose(0, -1)
    return content[1:] if view == "slice" else content[::2] if view == "step" else content


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-2 ** 70, 2 ** 70) | st.floats(allow_nan=False) | st.text() | st.binary()
    | tensors(), lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner)
    | st.dictionaries(st.text() | st.integers() | st.booleans() | st.tuples(st.text()), inner, max_size=4),
    max_leaves=12)


@given(plain)
def test_content_is_what_torch_reads(payload: object) -> None:
    content = saved(payload)
    check_archive(content)
    assert_equal(read_torch_file(content), torch.load(io.BytesIO(content), weights_only=True))


def test_tensors_that_share_a_storage_are_read(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(2, 3, 4)
    payload = {"a": base, "b": base[1], "c": base.transpose(0, 2), "d": base[:, 1, ::2], "again": base}
    assert_equal(read_torch_file(saved(payload)), payload)


def test_models_and_optimizers_are_read() -> None:
    model = torch.nn.Sequential(modules.Conv2d(1, 2, 3), modules.Linear(4, 2, bias=True))
    optimizer = torch.optim.Adam(model.parameters())
    payload = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "size": torch.Size([1, 2]),
               "rng": torch.get_rng_state(), "pairs": OrderedDict([("a", 1), (2, "b")])}
    found = read_torch_file(saved(payload))
    assert found.pop("size") == (1, 2)
    payload.pop("size")
    assert_equal(found, payload)


def test_checkpoints_are_the_same_by_both_readers(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    state = {"a.op.weight": generator.normal(size=(2, 3, 3, 3)).astype(np.float32), "a.bits": np.array([4])}
    path = tmp_path / "x.pth.tar"
    write_checkpoint(path, Checkpoint(state=state, epoch=3, arch="net", extras={"top1": 98.5}, labels=("a", "b"),
                                      sample=generator.integers(-128, 128, (3, 4, 4)).astype(np.int8),
                                      training={"optimizer_state_dict": {"m": torch.ones(2)}}))
    assert_same_checkpoint(path)


@pytest.mark.parametrize("case", ["mnist", "kws20_v3", "cats_dogs"])
def test_published_checkpoints_are_the_same_by_both_readers(case: str) -> None:
    path = CASES / case / "checkpoint.pth.tar"
    if not path.exists():
        pytest.skip("the published networks are not part of the project")
    read_torch_file(path.read_bytes())
    assert_same_checkpoint(path)


def assert_same_checkpoint(path: Path) -> None:
    found, expected = read_checkpoint(path, training=False), read_checkpoint(path)
    assert list(found.state) == list(expected.state) and not found.training and expected.training
    for name, array in expected.state.items():
        assert found.state[name].dtype == array.dtype and np.array_equal(found.state[name], array)
    assert (found.sample is None) == (expected.sample is None)
    assert found.sample is None or np.array_equal(found.sample, expected.sample)
    for name in ("epoch", "arch", "extras", "labels", "input_shape", "file", "notices"):
        assert getattr(found, name) == getattr(expected, name)


def test_synthesis_reads_checkpoints_without_torch(tmp_path: Path) -> None:
    path = tmp_path / "x.pth.tar"
    write_checkpoint(path, Checkpoint(state={"a.op.weight": np.ones((1, 1), np.float32)}, epoch=1,
                                      training={"step": torch.ones(1)}))
    code = ("import sys\nfrom ai8x.checkpoint import read_checkpoint\n"
            f"found = read_checkpoint({str(path)!r}, training=False)\nassert found.epoch == 1\n"
            "assert 'torch' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_synthesis_of_a_published_network_loads_no_torch(tmp_path: Path) -> None:
    case = CASES / "mnist"
    if not case.is_dir():
        pytest.skip("the published networks are not part of the project")
    arguments = [str(case / "net.yaml"), str(case / "checkpoint.pth.tar"), "--sample-input", str(case / "sample.npy"),
                 "--target", "max78000", "--no-verify", "--quiet", "--out", str(tmp_path / "out")]
    code = ("import sys\nfrom ai8x.cli.synthesize import main\nassert 'numpy' not in sys.modules\n"
            f"assert main({arguments!r}) == 0\nassert 'torch' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("payload", [
    torch.ones(2).to_sparse(), torch.ones(2, dtype=torch.complex64), np.float32(1), Path("x"), {1, 2}, bytearray(b"x"),
    torch.ones(2, dtype=torch.uint16), torch.device("cpu"), torch.empty(2, device="meta")], ids=repr)
def test_everything_else_is_left_to_torch(payload: object) -> None:
    content = saved([payload])
    with pytest.raises(UnknownContent):
        read_torch_file(content)


# Files by hand


def archive(pickled: bytes, **members: bytes) -> bytes:
    """A torch archive around a pickle; the members are storages by key."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        target.writestr("x/data.pkl", pickled)
        target.writestr("x/version", b"3\n")
        for key, content in members.items():
            target.writestr(f"x/data/{key}", content)
    return stream.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(kind: str = "FloatStorage", key: str = "k", length: int = 4) -> bytes:
    return (b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(length) + b"tQ")


def tensor(offset: int = 0, shape: bytes = numbers(4), strides: bytes = numbers(1), stored: bytes = storage()) -> bytes:
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + number(offset) + shape + strides + b"\x89"
            b"ccollections\nOrderedDict\n)RtR")


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


FOUR = struct.pack("<4f", 1, 2, 3, 4)


def test_a_file_by_hand_is_read() -> None:
    found = read_torch_file(archive(pickled(tensor(1, numbers(3))), k=FOUR))
    assert found.array().tolist() == [2, 3, 4] == found.tolist()


@pytest.mark.parametrize(("body", "reason"), [
    (tensor(1), "element 4"), (tensor(shape=numbers(5)), "element 4"), (tensor(strides=numbers(2)), "element 6"),
    (tensor(shape=numbers(2, 2), strides=numbers(1)), "without shape"), (tensor(offset=-1), "no counts"),
    (tensor(strides=numbers(-1)), "no counts"), (tensor(shape=numbers(-4)), "no counts"),
    (tensor(shape=numbers(*[1] * 33), strides=numbers(*[1] * 33)), "33 dimensions"),
    (tensor(shape=number(4)), "without shape"), (tensor(shape=b"(" + text("4") + b"t"), "no counts"),
    (tensor(shape=b"(\x88t"), "no counts"), (tensor(stored=storage(key="other")), "no storage other"),
    (tensor(stored=storage(key="../version")), "no storage"), (tensor(stored=storage(length=5)), "with 5 elements"),
    (tensor(stored=storage(length=-4)), "without key or length"), (tensor(stored=storage("LongStorage")), "4 elements"),
    (tensor(stored=storage("BoolStorage", length=16)), "truth values"),
    (b"]" + tensor() + b"a" + tensor(stored=storage("IntStorage")) + b"a", "two element types"),
    (b"", "pickle"), (b"(", "no object"), (b"NN", "pickle"), (b"h\x05", "pickle"), (b"N\x85\x86", "pickle"),
    (b"(\x85", "mark"), (b"(q\x00", "mark"), (b"NNs", "pickle"), (b"}Ns", "pickle"), (b"](Ne" + b"u", "pickle"),
    (b"}(Nu", "no mapping"), (b"}Na", "no list"), (b"X\xff\xff\xff\xff", "pickle"), (b"ccollections", "pickle"),
], ids=lambda value: repr(value)[:40])
def test_contradictions_are_refused(body: bytes, reason: str) -> None:
    with pytest.raises(DamagedContent, match=reason):
        read_torch_file(archive(pickled(body), k=FOUR))


def test_content_that_multiplies_is_refused() -> None:
    """Each of the last bytes would copy the long text again."""
    start = b"]" + text("x" * 1000) + b"q\x01ac_codecs\nencode\nq\x02a" + text("latin1") + b"q\x03a"
    again = b"h\x02h\x01h\x03\x86Ra"
    assert read_torch_file(archive(pickled(start + again)))[3] == b"x" * 1000
    with pytest.raises(DamagedContent, match="more content"):
        read_torch_file(archive(pickled(start + 100 * again)))


def test_keys_that_are_slow_to_compare_are_not_taken() -> None:
    """A tuple of the same tuple twice, 60 times over: finding it in a mapping would never end."""
    key = b")" + b"".join(b"q\x01h\x01\x86" for _ in range(60))
    for body in (b"}" + key + b"Ns", b"}(" + 17 * b"N" + b"tNs"):
        with pytest.raises(UnknownContent):
            read_torch_file(archive(pickled(body)))


@pytest.mark.parametrize("body", [b"cos\nsystem\n(" + text("true") + b"tR", b"cbuiltins\neval\n(" + text("1") + b"tR",
                                  b"ios\nsystem\n", b"ctorch.optim.adam\nAdam\n)R", b"ctorch.optim.adam\nAdam\n)\x81",
                                  b"ccollections\nOrderedDict\n}b", b"}" + text("x") + b"b",
                                  b"ccollections\nOrderedDict\n(]N" + b"atR", text("x") + b"Q", b"P0\n", b"\x8f"],
                         ids=repr)
def test_nothing_is_called(body: bytes) -> None:
    with pytest.raises(UnknownContent):
        read_torch_file(archive(pickled(body)))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_in_packed_members_ends_in_one_way(method: int) -> None:
    """Every byte of an archive is inverted once; decompressors have errors of their own."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr("a/data.pkl", bytes(range(200)))
    data = stream.getvalue()
    damaged = 0
    for position in range(len(data)):
        with contextlib.suppress(SuspiciousArchive):
            try:
                check_archive(data[:position] + bytes([data[position] ^ 0xFF]) + data[position + 1:])
            except DamagedContent:
                damaged += 1
    assert damaged > len(data) // 2


@pytest.mark.parametrize("change", ["version", "byteorder", "script", "two roots", "no pickle"])
def test_other_archives_are_left_to_torch(change: str) -> None:
    members = {"x/data.pkl": pickled(b"N"), "x/version": b"3\n", "x/byteorder": b"little"}
    members |= {"version": {"x/version": b"9\n"}, "byteorder": {"x/byteorder": b"big"},
                "script": {"x/constants.pkl": b""}, "two roots": {"y/data.pkl": b""}}.get(change, {})
    if change == "no pickle":
        del members["x/data.pkl"]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as target:
        for name, content in members.items():
            target.writestr(name, content)
    with pytest.raises(UnknownContent):
        read_torch_file(stream.getvalue())


@given(st.binary(max_size=60) | st.lists(st.sampled_from([
    b"N", b"(", b")", b"}", b"]", b"t", b"\x85", b"\x86", b"q\x00", b"h\x00", b"s", b"u", b"a", b"e", b"R", b"b", b"Q",
    text("a"), number(1), storage(), tensor(), b"ccollections\nOrderedDict\n"]), max_size=30).map(b"".join))
def test_arbitrary_pickles_end_in_one_of_two_ways(body: bytes) -> None:
    with contextlib.suppress(DamagedContent, UnknownContent):
        read_torch_file(archive(pickled(body), k=FOUR))


@pytest.mark.parametrize(("payload", "code"), [
    ({"state_dict": {"a.op.weight": torch.ones(1).expand(1 << 40)}}, "E0507"),
    ({"state_dict": {"a.op.weight": torch.tensor([float("nan")])}}, "E0507"),
    ({"state_dict": {"a.op.weight": 3}}, "E0507"), ({"epoch": 1}, "E0506"), ([1], "E0506"),
    ({"state_dict": {"a.op.weight": torch.ones(1)}, "digest": "0"}, "E0508"),
    ({"state_dict": {"a.op.weight": torch.ones(1)}, "extras": {"x": torch.ones(1).expand(1 << 40)}}, "E0506"),
    ({"state_dict": {"a.op.weight": torch.ones(1)}, "other": Path("x")}, "E0505"),
    ({"state_dict": {"a.op.weight": torch.ones(1)}, "other": [torch.optim.SGD]}, "E0505")], ids=repr)
@pytest.mark.parametrize("training", [True, False])
def test_both_readers_refuse_the_same(tmp_path: Path, payload: object, code: str, training: bool) -> None:
    path = tmp_path / "x.pth.tar"
    path.write_bytes(saved(payload))
    with pytest.raises(UserError) as caught:
        read_checkpoint(path, training=training)
    assert caught.value.diagnostics[0].code == code


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("key", ["extras", "input_shape", "labels", "epoch", "sample"])
def test_descriptions_that_multiply_are_refused(tmp_path: Path, key: str, training: bool) -> None:
    nested: list[object] = []
    for _ in range(40):
        nested = [nested, nested]
    path = tmp_path / "x.pth.tar"
    value = {"x": nested} if key == "extras" else nested
    path.write_bytes(saved({"state_dict": {"a.op.weight": torch.ones(1)}, key: value}))
    with pytest.raises(UserError) as caught:
        read_checkpoint(path, training=training)
    assert caught.value.diagnostics[0].code == ("E0507" if key == "sample" else "E0506")


def test_pickles_of_higher_protocols_are_read() -> None:
    payload = {"a": [1, 2.5, b"bytes", "x" * 300, None, True], "b": {}}
    assert read_torch_file(archive(pickle.dumps(payload, protocol=3))) == payload
    assert read_torch_file(archive(pickle.dumps(payload, protocol=5))) == payload
