"""Flash packages: a zip of images with the list that tells the flashing tool where each goes. Start at `write_kfpkg`.

Source: spec/k210-kmodel.md section 12.4.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ai8x.errors import user_error
from ai8x.k210.kmodel_info import FLASH_LIST

FLASH_BYTES = 16 * 1024 * 1024
"""Flash of most boards."""

SECTOR_BYTES = 4096
"""Images start at multiples of this."""

MODEL_ADDRESS = 0x300000
"""Customary place of a model (MaixPy)."""

_LIST_VERSION = "0.1.0"
_ENVELOPE_BYTES = 1 + 4 + 32
"""What the flashing tool adds to firmware: AES flag, length, SHA-256."""
_DATE = (1980, 1, 1, 0, 0, 0)
"""The oldest date a zip can hold, so that equal content gives equal bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashImage:
    """One entry of a package.

    Args:
        name: file name inside the package.
        address: place in flash.
        data: content.
        is_firmware: stored with the envelope of length and SHA-256 that the boot loader checks; a model is stored raw.
    """

    name: str
    address: int
    data: bytes
    is_firmware: bool = False

    @property
    def end(self) -> int:
        """First flash byte behind the image."""
        return self.address + len(self.data) + (_ENVELOPE_BYTES if self.is_firmware else 0)


def write_kfpkg(images: Sequence[FlashImage]) -> bytes:
    """The bytes of a package.

    Args:
        images: firmware and models, in any order.

    Raises:
        UserError: E0760, an image is misplaced, too large, or overlaps another.
    """
    _check(images)
    entries = [{"address": i.address, "bin": i.name, "sha256Prefix": i.is_firmware} for i in images]
    content = {FLASH_LIST: json.dumps({"version": _LIST_VERSION, "files": entries}, indent=2).encode()}
    content |= {image.name: image.data for image in images}
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=_DATE), data, zipfile.ZIP_DEFLATED)
    return package.getvalue()


def _check(images: Sequence[FlashImage]) -> None:
    names = [image.name for image in images]
    ordered = sorted(images, key=lambda image: image.address)
    problem = ""
    if len(set(names)) != len(names) or FLASH_LIST in names:
        problem = f"the names {', '.join(names)} are not different"
    for image in ordered:
        if image.address % SECTOR_BYTES or image.address < 0 or image.end > FLASH_BYTES:
            problem = f"'{image.name}' takes {image.address:#x} to {image.end:#x}"
    for first, second in pairwise(ordered):
        if first.end > second.address:
            problem = f"'{first.name}' ends at {first.end:#x}, '{second.name}' starts at {second.address:#x}"
    if problem:
        raise user_error("E0760", "the images do not fit the flash", found=problem,
                         allowed=f"multiples of {SECTOR_BYTES} below {FLASH_BYTES:#x}, apart from each other",
                         help=f"place models from {MODEL_ADDRESS:#x} on")
