"""Reading and writing checkpoints, and what is said about damaged and hostile ones."""

import errno
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from ai8x.checkpoint import (
    Checkpoint,
    arrays_from_tensors,
    normalized_name,
    read_checkpoint,
    write_checkpoint,
)
from ai8x.errors import UserError
from ai8x.nn import modules
from ai8x.plain import is_storable, plain_value

SUFFIXES = (".pth.tar", ".safetensors")


def example() -> Checkpoint:
    generator = np.random.default_rng(0)
    state = {"conv1.output_shift": np.array([-1.0], np.float32), "conv1.weight_bits": np.array([8]),
             "conv1.quantize_activation": np.array([True]), "conv1.adjust_output_shift": np.array([True]),
             "conv1.op.weight": generator.normal(size=(4, 3, 3, 3)).astype(np.float32)}
    return Checkpoint(state=state, epoch=7, arch="net", extras={"best_top1": 98.5, "list": [1, None, "x"]},
                      sample=generator.integers(-128, 128, (3, 4, 4)).astype(np.int8), labels=("a", "b"),
                      input_shape=(3, 4, 4))


def refuse(path: Path, *codes: str) -> UserError:
    with pytest.raises(UserError) as caught:
        read_checkpoint(path)
    (finding,) = caught.value.diagnostics
    assert finding.code in codes, finding.format()
    assert finding.help and str(path) in finding.headline()
    return caught.value


def save(path: Path, payload: object) -> Path:
    torch.save(payload, path)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    path, written = tmp_path / f"x{suffix}", example()
    write_checkpoint(path, written)
    found = read_checkpoint(path)
    assert found.state.keys() == written.state.keys()
    for name, array in written.state.items():
        assert np.array_equal(found.state[name], array) and found.state[name].dtype == array.dtype
    assert (found.epoch, found.arch, found.extras, found.labels, found.input_shape) == (
        written.epoch, written.arch, written.extras, written.labels, written.input_shape)
    assert found.sample.dtype == np.int8 and np.array_equal(found.sample, written.sample)
    assert all(torch.equal(t, torch.from_numpy(np.array(written.state[n]))) for n, t in found.tensors().items())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_are_reproducible(tmp_path: Path, suffix: str) -> None:
    contents = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_checkpoint(tmp_path / folder / f"x{suffix}", example())
        contents.append((tmp_path / folder / f"x{suffix}").read_bytes())
    assert contents[0] == contents[1]


def test_optimizer_state_survives(tmp_path: Path) -> None:
    model = modules.Linear(4, 2, bias=True)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    training = {"optimizer_state_dict": optimizer.state_dict(), "config": {"lr": 0.1, "names": ["a"]}}
    checkpoint = Checkpoint(state=arrays_from_tensors(model.state_dict()), training=training)
    write_checkpoint(tmp_path / "x.pth.tar", checkpoint)
    found = read_checkpoint(tmp_path / "x.pth.tar").training
    optimizer.load_state_dict(found["optimizer_state_dict"])
    assert found["config"] == training["config"]


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW])
def test_files_of_the_vendor_are_read(tmp_path: Path, optimizer: type) -> None:
    layer = modules.Conv2d(1, 2, 3)
    payload = {"epoch": 3, "arch": "ai85net5", "optimizer_type": optimizer,
               "state_dict": {f"module.conv1.{k}": v for k, v in layer.state_dict().items()},
               "extras": {"best_top1": 1.0}, "compression_sched": {"masks_dict": {"module.conv1.op.weight": None}}}
    found = read_checkpoint(save(tmp_path / "x.pth.tar", payload))
    assert list(found.state) == [f"conv1.{key}" for key in layer.state_dict()]
    assert found.training["optimizer_type"] == optimizer.__name__
    assert (found.epoch, found.arch) == (3, "ai85net5")


@pytest.mark.parametrize(("name", "expected"), [
    ("module.conv1.op.weight", "conv1.op.weight"), ("_orig_mod.conv1.op.weight", "conv1.op.weight"),
    ("_orig_mod.module.conv1.op.bias", "conv1.op.bias"), ("backbone.module.fc.op.bias", "backbone.fc.op.bias"),
    ("conv1.op.weight", "conv1.op.weight"), ("module.module.fc.op.bias", "module.fc.op.bias")])
def test_prefixes_of_wrappers_are_dropped(name: str, expected: str) -> None:
    assert normalized_name(name) == expected


def test_files_with_two_equal_copies_keep_both_names_and_load_as_one(tmp_path: Path) -> None:
    state = {"module.a.op.weight": torch.ones(1), "module.a.bits": torch.tensor([8]), "a.op.weight": torch.ones(1),
             "a.bits": torch.tensor([8.0]), "a.op.bias": torch.zeros(1)}
    found = read_checkpoint(save(tmp_path / "x.pth.tar", {"state_dict": state}))
    assert list(found.state) == list(state)
    assert list(found.tensors()) == ["a.op.weight", "a.bits", "a.op.bias"]


def test_plain_state_dictionaries_are_read(tmp_path: Path) -> None:
    found = read_checkpoint(save(tmp_path / "x.pt", modules.Linear(2, 2).state_dict()))
    assert "op.weight" in found.state and found.epoch is None


def test_format_before_pytorch_1_6_is_read_with_a_notice(tmp_path: Path) -> None:
    path = tmp_path / "x.pth.tar"
    torch.save({"epoch": 1, "state_dict": {"a.op.weight": torch.ones(2, 2)}}, path,
               _use_new_zipfile_serialization=False)
    found = read_checkpoint(path)
    assert found.epoch == 1 and "checksums" in found.notices[0]


@pytest.mark.parametrize(("state", "expected"), [
    ({"a.op.weight": [3.0]}, True), ({"a.op.weight": [0.3]}, False),
    ({"a.op.weight": [3.0], "a.adjust_output_shift": [1.0], "a.quantize_activation": [1.0]}, False),
    ({"a.op.weight": [0.3], "a.adjust_output_shift": [0.0], "a.quantize_activation": [1.0]}, True),
    ({"a.op.weight": [3.0], "a.adjust_output_shift": [0.0], "a.quantize_activation": [0.0]}, False)])
def test_quantised_files_are_recognised(state: dict[str, list[float]], expected: bool) -> None:
    assert Checkpoint(state={k: np.array(v) for k, v in state.items()}).is_quantized is expected


class Runs:
    """Runs a command when unpickled carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_that_run_commands_are_refused(tmp_path: Path, zipped: bool) -> None:
    path, proof = tmp_path / "x.pth.tar", tmp_path / "proof"
    torch.save({"state_dict": {"a.op.weight": torch.ones(1)}, "extras": Runs(proof)}, path,
               _use_new_zipfile_serialization=zipped)
    refuse(path, "E0505")
    path.write_bytes(pickle.dumps(Runs(proof)))
    refuse(path, "E0505", "E0502")
    assert not proof.exists()


class Calls:
    """Makes an object of an allowed class when unpickled."""

    def __reduce__(self):
        return torch.optim.Adam, ([torch.ones(1)],)


def test_objects_of_allowed_classes_are_refused(tmp_path: Path) -> None:
    payload = {"state_dict": {"a.op.weight": torch.ones(1)}, "optimizer_type": Calls()}
    refuse(save(tmp_path / "x.pth.tar", payload), "E0505")


def test_content_that_contains_itself_is_no_hang(tmp_path: Path) -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    read_checkpoint(save(tmp_path / "x.pth.tar", {"state_dict": {"a.op.weight": torch.ones(1)}, "other": cycle}))
    payload = {"state_dict": {"a.op.weight": torch.ones(1)}, "extras": {"a": cycle}}
    refuse(save(tmp_path / "x.pth.tar", payload), "E0506")


def test_other_classes_are_refused(tmp_path: Path) -> None:
    payload = {"state_dict": {"a.op.weight": torch.ones(1)}, "extras": {"path": Path("x")}}
    refuse(save(tmp_path / "x.pth.tar", payload), "E0505")


@pytest.mark.parametrize(("payload", "code"), [
    ([1, 2], "E0506"), ({}, "E0506"), ({"epoch": 1}, "E0506"), ({"state_dict": {}}, "E0506"),
    ({"state_dict": {"a.op.weight": 3}}, "E0507"), ({"state_dict": {3: torch.ones(1)}}, "E0507"),
    ({"state_dict": {"a.op.weight": torch.tensor([float("nan")])}}, "E0507"),
    ({"state_dict": {"a.op.weight": torch.tensor([float("inf")])}}, "E0507"),
    ({"state_dict": {"a.op.weight": torch.ones(2).to_sparse()}}, "E0507"),
    ({"state_dict": {"a.op.weight": torch.ones(2, dtype=torch.complex64)}}, "E0507"),
    ({"state_dict": {"a.op.weight": torch.ones(1).expand(1 << 40)}}, "E0507"),
    ({"state_dict": {"a.op.weight": torch.ones(1), "module.a.op.weight": torch.zeros(1)}}, "E0507"),
    ({"state_dict": {"a.op.weight": torch.ones(1)}, "epoch": "three"}, "E0506"),
    ({"state_dict": {"a.op.weight": torch.ones(1)}, "epoch": True}, "E0506"),
    ({"state_dict": {"a.op.weight": torch.ones(1)}, "arch": 3}, "E0506"),
    ({"state_dict": {"a.op.weight": torch.ones(1)}, "labels": [3]}, "E0506"),
    ({"state_dict": {"a.op.weight": torch.ones(1)}, "input_shape": [0, 1]}, "E0506"),
    ({"state_dict": {"a.op.weight": torch.ones(1)}, "extras": {"a": b"bytes"}}, "E0506"),
    ({"state_dict": {"a.op.weight": torch.ones(1)}, "sample": torch.ones(3, 4, 4)}, "E0506"),
    ({"state_dict": {"a.op.weight": torch.ones(1)}, "digest": "0" * 64}, "E0508"),
], ids=str)
def test_unusable_content_is_refused(tmp_path: Path, payload: object, code: str) -> None:
    refuse(save(tmp_path / "x.pth.tar", payload), code)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    state = {"a.op.weight": torch.ones(2, dtype=torch.bfloat16), "b.op.weight": torch.ones(2, dtype=torch.float16)}
    found = read_checkpoint(save(tmp_path / "x.pth.tar", {"state_dict": state}))
    assert {array.dtype for array in found.state.values()} == {np.dtype(np.float32)}


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["../x/data.pkl", "/etc/passwd", "x/../../data.pkl", "x\\data.pkl"])
def test_member_names_that_leave_the_archive_are_refused(tmp_path: Path, name: str) -> None:
    refuse(archive(tmp_path / "x.pth.tar", {name: b"1"}), "E0504")


def test_archives_that_explode_are_refused_unread(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pth.tar", {"x/data.pkl": bytes(50 << 20)}, zipfile.ZIP_DEFLATED)
    refuse(path, "E0504")


def test_archives_of_many_or_equal_members_are_refused(tmp_path: Path) -> None:
    refuse(archive(tmp_path / "many.pth.tar", {f"x/{i}": b"" for i in range(10_001)}), "E0504")
    path = tmp_path / "twice.pth.tar"
    with pytest.warns(UserWarning), zipfile.ZipFile(path, "w") as target:
        target.writestr("x/data.pkl", b"1")
        target.writestr("x/data.pkl", b"2")
    refuse(path, "E0504")


def test_archives_that_are_no_torch_archives_are_refused(tmp_path: Path) -> None:
    refuse(archive(tmp_path / "x.pth.tar", {"hello.txt": b"hello"}), "E0505")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_flipped_bit_is_refused_or_harmless(tmp_path: Path, suffix: str) -> None:
    path, original = tmp_path / f"x{suffix}", example()
    write_checkpoint(path, original)
    content = path.read_bytes()
    generator = np.random.default_rng(1)
    refused = 0
    for position in generator.integers(0, len(content) * 8, 150):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path)
        except UserError as error:
            assert error.diagnostics[0].code.startswith("E05")
            refused += 1
            continue
        assert found.state.keys() == original.state.keys()
        assert all(np.array_equal(found.state[n], a) for n, a in original.state.items())
        assert (found.epoch, found.labels, found.extras) == (original.epoch, original.labels, original.extras)
    assert refused > 30


def test_description_under_a_damaged_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, example())
    path.write_bytes(path.read_bytes().replace(b'"ai8x":', b'"ai9x":'))
    refuse(path, "E0503")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    write_checkpoint(path, example())
    content = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        refuse(path, "E0502", "E0503", "E0505")


@pytest.mark.parametrize("content", [
    struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 2) + b"[]",
    struct.pack("<Q", 64) + b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}'.ljust(64) + b"1234",
    struct.pack("<Q", 80) + b'{"a":{"dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,4]}}'.ljust(80)
    + b"1234",
    struct.pack("<Q", 120) + (b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},'
                              b'"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}').ljust(120) + b"123456"],
    ids=["long header", "no tensors", "list", "negative", "huge", "overlap"])
def test_hostile_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    refuse(path, "E0503", "E0506", "E0507")


def test_safetensors_of_other_tools_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.numpy.save({"module.a.op.weight": np.ones((2, 2), np.float32)}))
    found = read_checkpoint(path)
    assert list(found.state) == ["a.op.weight"] and found.arch == ""


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    refuse(tmp_path, "E0501")
    refuse(tmp_path / "none.pth.tar", "E0501")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.pth.tar")
        refuse(tmp_path / "pipe.pth.tar", "E0501")
    (tmp_path / "text.pth.tar").write_text("hello, this is no checkpoint at all")
    refuse(tmp_path / "text.pth.tar", "E0502")


def test_names_of_other_kinds_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        write_checkpoint(tmp_path / "x.onnx", example())
    assert caught.value.diagnostics[0].code == "E0509"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failing_disk_leaves_the_old_file(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"x{suffix}"
    write_checkpoint(path, example())
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError) as caught:
        write_checkpoint(path, replace(example(), epoch=8))
    assert caught.value.diagnostics[0].code == "E0810"
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [np.float32(1), {"a": [Path("x")]}, (1, object()), {1, 2}, torch.optim.SGD],
                         ids=lambda value: type(value).__name__)
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, value: object) -> None:
    assert not is_storable(value)
    with pytest.raises(TypeError):
        write_checkpoint(tmp_path / "x.pth.tar", replace(example(), training={"odd": value}))
    assert not list(tmp_path.iterdir())


def test_plain_values() -> None:
    mixed = {"a": np.float32(0.5), "b": (np.arange(2), torch.tensor([3])), 1: None}
    assert plain_value(mixed) == {"a": 0.5, "b": [[0, 1], [3]], "1": None}
    with pytest.raises(TypeError):
        plain_value({"a": object()})


def test_deep_nesting_is_no_crash(tmp_path: Path) -> None:
    nested: list[object] = []
    for _ in range(300):
        nested = [nested]
    payload = {"state_dict": {"a.op.weight": torch.ones(1)}, "other": nested}
    assert is_storable(read_checkpoint(save(tmp_path / "x.pth.tar", payload)).training)


def test_reading_safetensors_loads_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, example())
    code = (f"import sys\nfrom ai8x.checkpoint import read_checkpoint\nread_checkpoint({str(path)!r}).is_quantized\n"
            "assert 'torch' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          cwd=Path(__file__).resolve().parents[1])
    assert done.returncode == 0, done.stderr


def test_repeated_reading_gives_independent_tensors(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "x.pth.tar", example())
    found = read_checkpoint(tmp_path / "x.pth.tar")
    found.tensors()["conv1.op.weight"].zero_()
    assert found.tensors()["conv1.op.weight"].abs().sum() > 0
    with pytest.raises(ValueError, match="read-only"):
        found.state["conv1.op.weight"][0] = 0


