"""``python -m ai8x.cli.kmodel``: kmodels and flash packages for the K210.

Exit status: 0 success, 1 internal error, 2 refused input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ai8x.cli.common import run_main
from ai8x.errors import user_error
from ai8x.files import atomic_write, read_bytes

_MAX_BYTES = 64 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    return run_main(lambda: options.run(options), debug=options.debug, json_errors=options.json_errors)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ai8x.cli.kmodel", allow_abbrev=False,
                                     description="Kmodels and flash packages for the K210.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    common.add_argument("--json-errors", action="store_true", help="print errors as JSON")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    pack = commands.add_parser("pack", parents=[common], allow_abbrev=False,
                               help="write models, and firmware if given, into a package for flashing tools")
    pack.add_argument("models", nargs="+", metavar="FILE.kmodel[@ADDRESS]",
                      help="a model and its flash address (default of the first: 0x300000; of others: behind the one "
                           "before)")
    pack.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.kfpkg", help="the package")
    pack.add_argument("--firmware", type=Path, metavar="FILE.bin", help="firmware for flash address 0")
    pack.add_argument("--load-flash", action="store_true",
                      help="store models byte-swapped, for KPU.load_flash of MaixPy only")
    pack.add_argument("--flash-size", type=_number, metavar="BYTES", help="default 16 MiB")
    pack.set_defaults(run=_run_pack)

    listing = commands.add_parser("list", parents=[common], allow_abbrev=False, help="show what a package holds")
    listing.add_argument("package", type=Path, metavar="FILE.kfpkg")
    listing.set_defaults(run=_run_list)
    return parser


def _number(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a number such as 0x300000 is needed")
    return number


def _run_pack(options: argparse.Namespace) -> None:
    from ai8x.k210.package import (
        DEFAULT_MODEL_ADDRESS,
        FIRMWARE_ADDRESS,
        FLASH_BYTES,
        SECTOR_BYTES,
        FlashFile,
        model_file,
        write_package,
    )

    files = []
    if options.firmware is not None:
        data = read_bytes(options.firmware, limit=_MAX_BYTES, code="E0744")
        files.append(FlashFile(name=options.firmware.name, address=FIRMWARE_ADDRESS, data=data, sha256_prefix=True))
    following = DEFAULT_MODEL_ADDRESS
    for text in options.models:
        path, address = _model_place(text, following)
        data = read_bytes(path, limit=_MAX_BYTES, code="E0744")
        file = model_file(data, name=path.name, address=address, swapped=options.load_flash)
        files.append(file)
        following = -(-file.end // SECTOR_BYTES) * SECTOR_BYTES
    content = write_package(files, flash_bytes=FLASH_BYTES if options.flash_size is None else options.flash_size)
    atomic_write(options.output, content)
    for file in files:
        print(f"{file.address:#010x}  {len(file.data):9,d} bytes  {file.name}")
    print(f"written: {options.output} ({len(content):,} bytes)")


def _model_place(text: str, default: int) -> tuple[Path, int]:
    """Path and address of ``FILE[@ADDRESS]``."""
    name, mark, address = text.rpartition("@")
    if not mark:
        return Path(text), default
    try:
        return Path(name), _number(address)
    except argparse.ArgumentTypeError as error:
        raise user_error("E0745", f"'{address}' is no flash address", found=text, allowed="FILE.kmodel@ADDRESS",
                         help=f"write {name}@{default:#x}") from error


def _run_list(options: argparse.Namespace) -> None:
    from ai8x.k210.kmodel_info import identify
    from ai8x.k210.package import read_package

    data = read_bytes(options.package, limit=_MAX_BYTES, code="E0744")
    for file in read_package(data, name=str(options.package)):
        kind = "firmware" if file.sha256_prefix else identify(file.data).value
        print(f"{file.address:#010x}  {len(file.data):9,d} bytes  {file.name}: {kind}")


if __name__ == "__main__":
    sys.exit(main())
