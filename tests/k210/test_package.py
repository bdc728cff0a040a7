"""Flash packages: writing, reading, what cannot be flashed; spec section 12.4."""

import hashlib
import io
import json
import struct
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai8x.errors import UserError
from ai8x.k210.kmodel import write_kmodel
from ai8x.k210.kmodel_info import Container, describe, identify, swap_words
from ai8x.k210.package import FLASH_BYTES, FlashFile, check_files, model_file, read_package, write_package
from tests.k210.runner_projects import small_model

MODEL = write_kmodel(small_model())


def codes(*files: FlashFile) -> list[str]:
    try:
        check_files(files)
    except UserError as error:
        return [diagnostic.code for diagnostic in error.diagnostics]
    return []


def test_package_is_a_deflated_zip_with_the_list() -> None:
    firmware = FlashFile(name="maixpy.bin", address=0, data=b"firmware" * 1000, sha256_prefix=True)
    data = write_package([firmware, model_file(MODEL, name="net.kmodel")])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["flash-list.json", "maixpy.bin", "net.kmodel"]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_DEFLATED}
        assert json.loads(archive.read("flash-list.json")) == {"version": "0.1.0", "files": [
            {"address": 0, "bin": "maixpy.bin", "sha256Prefix": True},
            {"address": 0x300000, "bin": "net.kmodel", "sha256Prefix": False}]}
        assert archive.read("net.kmodel") == MODEL
    assert "flash address 0x300000: net.kmodel" in describe(data).text()


def test_the_same_files_give_the_same_bytes() -> None:
    assert write_package([model_file(MODEL, name="a")]) == write_package([model_file(MODEL, name="a")])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=5000), st.booleans()), max_size=4,
                unique_by=lambda entry: entry[0] // 2))
def test_reading_gives_what_was_written(entries: list[tuple[int, bytes, bool]]) -> None:
    files = tuple(FlashFile(name=f"file{index}.bin", address=index // 2 * 8192, data=data, sha256_prefix=prefix)
                  for index, data, prefix in entries)
    assert read_package(write_package(files)) == files


def test_firmware_in_flash_has_flag_length_and_digest() -> None:
    file = FlashFile(name="f", address=0, data=b"abc", sha256_prefix=True)
    head = struct.pack("<BI", 0, 3) + b"abc"
    assert file.flash_image == head + hashlib.sha256(head).digest()
    assert file.end == len(file.flash_image)
    model = FlashFile(name="m", address=4096, data=b"abc")
    assert (model.flash_image, model.end) == (b"abc", 4099)


def test_model_for_streaming_is_stored_with_swapped_words() -> None:
    file = model_file(MODEL, name="net.kmodel", swapped=True)
    assert identify(file.data) is Container.V3_SWAPPED
    assert swap_words(file.data) == MODEL


@pytest.mark.parametrize(("data", "swapped"), [(b"junk", False), (b"PK\x03\x04", False),
                                               (struct.pack("<3I", 0x4B4D444C, 4, 0), True)])
def test_what_is_no_suitable_model_is_refused(data: bytes, swapped: bool) -> None:
    with pytest.raises(UserError) as caught:
        model_file(data, name="x", swapped=swapped)
    assert caught.value.diagnostics[0].code == "E0740"


@pytest.mark.parametrize(("address", "size", "allowed"), [
    (0, 1, True), (4096, 1, True), (4095, 1, False), (FLASH_BYTES - 4096, 4096, True),
    (FLASH_BYTES - 4096, 4097, False), (-4096, 1, False), (FLASH_BYTES, 1, False)])
def test_address_lies_on_a_sector_inside_the_flash(address: int, size: int, allowed: bool) -> None:
    assert codes(FlashFile(name="a", address=address, data=bytes(size))) == ([] if allowed else ["E0741"])


def test_message_names_an_address_that_works() -> None:
    file = FlashFile(name="a", address=FLASH_BYTES - 4096, data=bytes(5000))
    with pytest.raises(UserError) as caught:
        check_files([file])
    suggested = int(caught.value.diagnostics[0].help.split()[-1], 16)
    assert codes(FlashFile(name="a", address=suggested, data=file.data)) == []


@pytest.mark.parametrize(("size", "allowed"), [(8192, True), (8193, False)])
def test_files_do_not_overlap(size: int, allowed: bool) -> None:
    files = (FlashFile(name="b", address=8192, data=b"x"), FlashFile(name="a", address=0, data=bytes(size)))
    assert codes(*files) == ([] if allowed else ["E0742"])


@pytest.mark.parametrize("name", ["../a", "a/b", "", "a b", "flash-list.json", ".hidden", "x" * 101, "C:a"])
def test_unsafe_names_are_refused(name: str) -> None:
    assert codes(FlashFile(name=name, address=0, data=b"x")) == ["E0743"]


def test_names_are_unique() -> None:
    assert codes(*(FlashFile(name="a", address=4096 * i, data=b"x") for i in range(2))) == ["E0743"]


def package_of(listing: object, **files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("flash-list.json", json.dumps(listing))
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("data", [
    b"", b"PK\x03\x04", package_of([]), package_of({"files": 3}), package_of({"files": [{"bin": "a", "address": 0}]}),
    package_of({"files": [{"bin": "a", "address": "0"}]}, a=b""), package_of({"files": [{"address": 0}]}, a=b""),
    package_of({"files": [{"bin": "a", "address": True}]}, a=b""),
    package_of({"files": [{"bin": "a", "address": -1}]}, a=b""),
    package_of({"files": [{"bin": "a", "address": 0, "sha256Prefix": 1}]}, a=b"")])
def test_damaged_package_is_refused(data: bytes) -> None:
    with pytest.raises(UserError) as caught:
        read_package(data, name="broken.kfpkg")
    assert caught.value.diagnostics[0].code == "E0706"


def test_every_truncation_is_refused() -> None:
    data = write_package([model_file(MODEL, name="net.kmodel")])
    for size in range(0, len(data), 7):
        with pytest.raises(UserError):
            read_package(data[:size])


def test_file_larger_than_a_flash_is_not_unpacked() -> None:
    data = package_of({"files": [{"bin": "a", "address": 0}]}, a=bytes(FLASH_BYTES + 1))
    with pytest.raises(UserError, match="more than"):
        read_package(data)


