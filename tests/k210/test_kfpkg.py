"""Flash packages: readable, recognised, deterministic; misplaced images are refused."""

import io
import json
import zipfile

import pytest

from ai8x.errors import UserError
from ai8x.k210.kfpkg import FLASH_BYTES, MODEL_ADDRESS, FlashImage, write_kfpkg

FIRMWARE = FlashImage(name="runner.bin", address=0, data=b"code" * 100, is_firmware=True)
MODEL = FlashImage(name="model.kmodel", address=MODEL_ADDRESS, data=b"\3\0\0\0" + bytes(60))


def test_a_package_holds_the_images_and_their_list():
    with zipfile.ZipFile(io.BytesIO(write_kfpkg([FIRMWARE, MODEL]))) as archive:
        assert archive.read("model.kmodel") == MODEL.data
        listed = json.loads(archive.read("flash-list.json"))
    assert listed == {"version": "0.1.0", "files": [
        {"address": 0, "bin": "runner.bin", "sha256Prefix": True},
        {"address": 3145728, "bin": "model.kmodel", "sha256Prefix": False}]}


def test_equal_content_gives_equal_bytes():
    assert write_kfpkg([MODEL]) == write_kfpkg([MODEL])


@pytest.mark.parametrize("images", [
    [FlashImage(name="m", address=100, data=b"x")],
    [FlashImage(name="m", address=FLASH_BYTES - 4096, data=bytes(4097))],
    [FlashImage(name="a", address=0, data=bytes(4096), is_firmware=True),
     FlashImage(name="b", address=4096, data=b"x")],
    [FlashImage(name="a", address=0, data=b"x"), FlashImage(name="a", address=4096, data=b"x")],
    [FlashImage(name="flash-list.json", address=0, data=b"x")],
], ids=["misaligned", "too large", "overlap", "same name", "name of the list"])
def test_images_that_do_not_fit_are_refused(images):
    with pytest.raises(UserError) as refused:
        write_kfpkg(images)
    assert refused.value.diagnostics[0].code == "E0760"


def test_images_that_touch_fit():
    assert write_kfpkg([FlashImage(name="a", address=0, data=bytes(4096)),
                        FlashImage(name="b", address=4096, data=b"x")])
