"""The kmodel file: reading inverts writing, nothing in a file is trusted, every container is recognised."""

import dataclasses
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.errors import HardwareFault, UserError
from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.kmodel import KModel, read_kmodel, read_kmodel_file, write_kmodel
from ai8x.k210.kmodel_info import Container, describe, identify, swap_words
from ai8x.k210.kmodel_layers import (
    LAYER_CLASSES,
    ChannelwiseDequantize,
    Concat,
    Dequantize,
    FullyConnected,
    K210AddPadding,
    K210RemovePadding,
    K210Upload,
    KModelLayer,
    MemoryRange,
    QuantizedAdd,
    QuantizedConcat,
    Requantize,
    Softmax,
    UnknownLayer,
    layer_type,
)
from tests.k210.kpu_layers import Shape, conv, model, pattern_image, pattern_weights, single

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "k210"

U32 = st.integers(0, (1 << 32) - 1)
I32 = st.integers(-(1 << 31), (1 << 31) - 1)
F32 = st.floats(width=32)


def scalars(cls: type[KModelLayer]) -> dict[str, st.SearchStrategy[Any]]:
    kinds = {"I": U32, "i": I32, "f": F32}
    return {f.name: kinds[f.metadata["code"]] for f in dataclasses.fields(cls) if "code" in f.metadata}


def floats(*shape: int) -> st.SearchStrategy[np.ndarray]:
    count = int(np.prod(shape))
    return st.lists(F32, min_size=count, max_size=count).map(lambda v: np.array(v, np.float32).reshape(shape))


@st.composite
def cpu_layers(draw: st.DrawFn) -> KModelLayer:
    cls = draw(st.sampled_from(LAYER_CLASSES))
    values = {name: draw(strategy) for name, strategy in scalars(cls).items()}
    if cls is FullyConnected:
        inputs, outputs = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        values |= {"input_channels": inputs, "output_channels": outputs, "weights": draw(floats(outputs, inputs)),
                   "bias": draw(floats(outputs))}
    elif cls is ChannelwiseDequantize:
        channels = draw(st.integers(0, 3))
        values |= {"channels": channels, "scale": draw(floats(channels)), "bias": draw(floats(channels))}
    elif cls is Requantize:
        values["table"] = np.frombuffer(draw(st.binary(min_size=256, max_size=256)), np.uint8)
    elif cls in (Concat, QuantizedConcat):
        values["ranges"] = tuple(draw(st.lists(st.builds(MemoryRange, address=U32, size=U32), max_size=3)))
    return cls(**values)


@st.composite
def conv_layers(draw: st.DrawFn, dtype: Any) -> KModelLayer:
    outputs, inputs, kernel = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.sampled_from([1, 3]))
    depthwise = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    weights = rng.integers(0, np.iinfo(dtype).max, (outputs, 1 if depthwise else inputs, kernel, kernel), dtype=dtype)
    return conv(weights, Shape(height=5, width=7, depthwise=depthwise), arg_x=draw(st.integers(-(1 << 23), 0)),
                main_memory_output=draw(st.none() | st.integers(0, 4096)))


@st.composite
def models(draw: st.DrawFn) -> KModel:
    flags = draw(st.sampled_from([0, 1, 3]))
    convs = conv_layers(np.uint8 if flags & 1 else np.uint16)
    unknown = st.builds(UnknownLayer, type=st.sampled_from([3, 10, 999]),
                        body=st.integers(0, 2).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n)))
    layers = draw(st.lists(cpu_layers() | convs | unknown, min_size=1, max_size=5))
    outputs = draw(st.lists(st.builds(MemoryRange, address=U32, size=U32), max_size=3))
    return KModel(layers=tuple(layers), outputs=tuple(outputs), main_mem_usage=draw(U32), max_start_address=draw(U32),
                  flags=flags)


@given(models())
def test_reading_inverts_writing(original: KModel) -> None:
    data = write_kmodel(original)
    assert read_kmodel(data) == original
    assert write_kmodel(read_kmodel(data)) == data


def test_models_that_differ_in_one_weight_are_unequal() -> None:
    weights = pattern_weights(2, 2, 3)
    other = weights.copy()
    other[1, 1, 2, 2] ^= 1
    assert single(conv(weights, Shape(height=4, width=4))) != single(conv(other, Shape(height=4, width=4)))


def test_payloads_are_aligned_and_bodies_are_padded() -> None:
    layer = conv(pattern_weights(3, 2, 3), Shape(height=4, width=4))
    file = read_kmodel_file(write_kmodel(model(layer, layer, layer, size=48)))
    for extent in file.extents:
        assert extent.conv is not None
        assert extent.conv.registers % 8 == extent.conv.weights % 128 == extent.conv.batch_norm % 128 == 0
        assert extent.conv.activation % 256 == 0
    assert [extent.size % 8 for extent in file.extents[:-1]] == [0, 0]


def test_last_body_may_exceed_the_file_by_seven_bytes() -> None:
    fine = write_kmodel(model(Softmax(input=0, output=64, channels=4), size=16))
    for excess in (1, 7):
        assert read_kmodel(with_word(fine, 40, 16 + excess)) == read_kmodel(fine)
    with pytest.raises(UserError, match="E0703"):
        read_kmodel(with_word(fine, 40, 16 + 8))


def test_only_the_last_body_may_exceed_the_file() -> None:
    layer = Softmax(input=0, output=64, channels=4)
    data = write_kmodel(model(layer, layer, size=16))
    with pytest.raises(UserError, match="E0703"):
        read_kmodel(with_word(data, 40, len(data)))


def with_word(data: bytes, offset: int, value: int) -> bytes:
    return data[:offset] + struct.pack("<I", value) + data[offset + 4 :]


@pytest.mark.parametrize(("offset", "value", "code"), [
    (0, 4, "E0701"), (8, 1, "E0701"), (12, 0, "E0704"), (12, 1 << 31, "E0702"), (12, 0xFFFF_FFFF, "E0702"),
    (24, 1 << 31, "E0702"),
    (40, 0, "E0703"), (52, 1 << 31, "E0703"), (56, 650, "E0703"), (60, 0xFFFF_FFFF, "E0703"), (64, 600, "E0703"),
    (72, 1 << 8, "E0704"), (76, 1, "E0704")])
def test_damaged_field_is_refused_with_its_code(offset: int, value: int, code: str) -> None:
    data = write_kmodel(single(conv(pattern_weights(3, 2, 3), Shape(height=4, width=4))))
    with pytest.raises(UserError, match=code) as refusal:
        read_kmodel(with_word(data, offset, value), name="net.kmodel")
    assert str(refusal.value).startswith("net.kmodel: error[")


def test_message_names_the_layer_and_gives_the_offset_in_hexadecimal() -> None:
    data = write_kmodel(single(conv(pattern_weights(3, 2, 3), Shape(height=4, width=4))))
    with pytest.raises(UserError, match=r"layer 0 'K210_CONV': weights of 54 bytes at offset 0x28a end outside"):
        read_kmodel(with_word(data, 56, 650))


def test_every_truncation_is_a_user_error() -> None:
    data = write_kmodel(small_model())
    for length in range(len(data)):
        with pytest.raises(UserError):
            read_kmodel(data[:length])


def small_model() -> KModel:
    """Every kind of layer that a lowered network has, in a runnable model."""
    first = conv(pattern_weights(4, 2, 3), Shape(height=4, width=4), main_memory_output=0)
    last = conv(pattern_weights(4, 4, 1), Shape(height=4, width=4, source=100), main_memory_output=128)
    add = QuantizedAdd(input_a=0, input_b=0, output=64, count=64, offset_a=0, mul_a=1, shift_a=0, offset_b=0, mul_b=1,
                       shift_b=0, offset_output=0, mul_output=1, shift_output=1)
    dense = FullyConnected(input=208, output=224, input_channels=4, output_channels=4, act=1,
                           weights=np.ones((4, 4), np.float32), bias=np.zeros(4, np.float32))
    return KModel(layers=(
        first, add,
        QuantizedConcat(output=192, ranges=(MemoryRange(address=64, size=2), MemoryRange(address=70, size=2))),
        K210Upload(input=64, kpu_line=100, width=4, height=4, channels=4),
        K210AddPadding(input=192, kpu_line=100, channels=4), last, K210RemovePadding(input=128, output=200, channels=4),
        Dequantize(input=200, output=208, count=4, scale=0.5, bias=1.0), dense,
        Softmax(input=224, output=240, channels=4)), outputs=(MemoryRange(address=240, size=16),), main_mem_usage=256)


def test_small_model_runs() -> None:
    run = run_kmodel(small_model(), pattern_image(2, 4, 4))
    assert run.outputs[0].view(np.float32).tolist() == [0.25] * 4


@given(st.lists(st.tuples(st.integers(0, len(write_kmodel(small_model())) - 1), st.integers(0, 255)), min_size=1,
                max_size=4))
def test_damaged_bytes_raise_only_the_two_exceptions(damage: list[tuple[int, int]]) -> None:
    data = bytearray(write_kmodel(small_model()))
    for offset, value in damage:
        data[offset] = value
    try:
        run_kmodel(bytes(data), pattern_image(2, 4, 4))
    except (UserError, HardwareFault) as error:
        assert str(error)


@given(st.binary(max_size=200), st.sampled_from([
    b"", b"\3\0\0\0", b"\0\0\0\3", b"LDMK\4\0\0\0", b"LDMK\5\0\0\0\x20\0\0\0", b"PK\3\4"]))
def test_junk_is_described_or_refused(rest: bytes, start: bytes) -> None:
    try:
        assert describe(start + rest).text()
    except UserError as error:
        assert error.diagnostics[0].code.startswith("E07")


def test_writing_refuses_weights_of_the_other_width() -> None:
    layer = conv(pattern_weights(3, 2, 3), Shape(height=4, width=4))
    with pytest.raises(ValueError, match="uint16"):
        write_kmodel(dataclasses.replace(single(layer), flags=0))


@pytest.mark.parametrize(("number", "runs_on"), [(21, "Sipeed"), (10, "no known firmware"), (13, "bare-metal SDK")])
def test_description_says_which_firmware_runs_a_version_3_file(number: int, runs_on: str) -> None:
    classes = {int(cls.TYPE): cls for cls in LAYER_CLASSES}
    layer: KModelLayer = UnknownLayer(type=number, body=bytes(8))
    if number == 13:
        layer = Requantize(input=0, output=0, count=1, table=np.arange(256))
    elif number in classes:
        layer = classes[number](**dict.fromkeys(classes[number].scalar_names(), 1))
    description = describe(write_kmodel(model(layer, size=8)))
    assert description.container is Container.V3
    assert runs_on in description.runs_on
    assert description.model is not None and layer_type(description.model.layers[0]) == number


def test_byte_swapped_file_is_described_like_the_original() -> None:
    data = write_kmodel(single(conv(pattern_weights(3, 2, 3), Shape(height=4, width=4))))
    swapped = describe(swap_words(data))
    assert swapped.container is Container.V3_SWAPPED
    assert "load_flash" in swapped.runs_on
    assert swapped.details == describe(data).details
    assert swap_words(swap_words(data)) == data


def v4_file(nodes: int = 2) -> bytes:
    head = struct.pack("<4s9I", b"LDMK", 4, 0, 1, 8, 512, nodes, 1, 1, 0xDEAD)
    return head + bytes(16 + 16 + 16 + 8) + struct.pack("<4I", 0x2001, 0, 0x2002, 0)


def test_version_4_is_described_by_its_nodes() -> None:
    description = describe(v4_file())
    assert description.container is Container.V4
    assert "target: K210" in description.details
    assert "nodes by opcode: 0x2001 x 1, 0x2002 x 1" in description.details
    with pytest.raises(UserError, match="E0705"):
        describe(v4_file(nodes=1 << 30))


def test_version_5_is_described_by_its_modules() -> None:
    module = struct.pack("<16s8I", b"k210", 1, 48, 48, 0, 0, 2, 1, 0)
    data = struct.pack("<4s7I", b"LDMK", 5, 32, 0, 8, 1, 0, 0) + module
    description = describe(data)
    assert description.container is Container.V5
    assert description.details == ("1 modules", "module 0 at 0x20: 'k210', 48 bytes, 1 functions, 2 sections")
    with pytest.raises(UserError, match="E0705"):
        describe(data[:-1])


def test_pre_release_header_and_junk_are_recognised() -> None:
    assert identify(struct.pack("<4s5I", b"LDMK", 5, 0, 8, 1, 0)) is Container.PRE_RELEASE
    assert identify(b"\x8f" * 64) is Container.UNKNOWN
    assert "smodel" in describe(b"\x8f" * 64).runs_on


def test_flash_package_lists_its_files() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("flash-list.json", json.dumps({"version": "0.1.0", "files": [
            {"address": 0, "bin": "a.bin", "sha256Prefix": True}, {"address": 0x300000, "bin": "m.kmodel"}]}))
    description = describe(stream.getvalue())
    assert description.container is Container.KFPKG
    assert description.details == ("flash address 0x0: a.bin (with SHA-256 prefix)", "flash address 0x300000: m.kmodel")


@pytest.mark.skipif(not CASES.exists(), reason="the published models are not part of the repository")
@pytest.mark.parametrize("name", ["emc_cifar10", "emc_mbnetv1", "maixpy_mnist", "rc5_iris", "rc5_yolo"])
def test_published_model_survives_writing_and_reading(name: str) -> None:
    data = (CASES / name / "model.kmodel").read_bytes()
    original = read_kmodel(data)
    assert read_kmodel(write_kmodel(original)) == original
    assert describe(data).container is Container.V3
