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

CALIBRATIONS = ("minmax", "percentile", "mean", "l2", "kld")

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

    _add_quantize(commands, common)
    listing = commands.add_parser("list", parents=[common], allow_abbrev=False, help="show what a package holds")
    listing.add_argument("package", type=Path, metavar="FILE.kfpkg")
    listing.set_defaults(run=_run_list)
    return parser


def _add_quantize(commands: argparse._SubParsersAction[argparse.ArgumentParser],
                  common: argparse.ArgumentParser) -> None:
    quantize = commands.add_parser(
        "quantize", parents=[common], allow_abbrev=False,
        help="turn a float checkpoint into a kmodel by post-training quantisation (not exact; exact integers of a "
             "quantised checkpoint come from synthesize.py)")
    quantize.add_argument("checkpoint", type=Path, metavar="IN", help="checkpoint that train.py wrote")
    quantize.add_argument("output", type=Path, metavar="OUT.kmodel", help="the kmodel, version 3")
    quantize.add_argument("--calibration", choices=CALIBRATIONS, default=CALIBRATIONS[0],
                          help="how the range of a tensor is chosen: minmax (default) covers all values; percentile "
                               "leaves out the rarest; mean averages the extremes of samples; l2 minimises the squared "
                               "error; kld the lost information")
    quantize.add_argument("--percentile", type=_percentile, default=99.9, metavar="P",
                          help="share of the values kept on each side (default 99.9)")
    quantize.add_argument("--samples", type=_number, default=64, metavar="N",
                          help="training samples for calibration (default 64)")
    quantize.add_argument("--compare", type=_number, default=32, metavar="N",
                          help="test samples to hold against the float model, 0 for none (default 32)")
    quantize.add_argument("--float-dense", type=_number, default=64 * 1024, metavar="BYTES",
                          help="linear layers with at most so many bytes of float weights run on the CPU in float "
                               "(default 65536)")
    quantize.add_argument("--falling-slopes", action="store_true",
                          help="make falling parts of activations of slopes instead of steps: closer, but how the chip "
                               "rounds them is unverified")
    quantize.add_argument("--dataset", metavar="NAME", help="data set (default: the one of the run)")
    quantize.add_argument("--data", type=Path, metavar="DIR", help="folder of data sets (default: the one of the run)")
    quantize.add_argument("--models-path", metavar="DIR", help="folder with further model files")
    quantize.add_argument("--datasets-path", metavar="DIR", help="folder with further data-set files")
    quantize.set_defaults(run=_run_quantize)


def _percentile(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 50 < value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r}: above 50 and at most 100")
    return value


def _run_quantize(options: argparse.Namespace) -> None:
    from ai8x.checkpoint import read_checkpoint
    from ai8x.k210.activation import Falling
    from ai8x.k210.quantize_calibration import Calibration, CalibrationOptions
    from ai8x.k210.quantize_walk import LoweringOptions
    from ai8x.quantization.kmodel import KmodelOptions, kmodel_from_checkpoint, report_lines
    from ai8x.quantization.task import find_task

    checkpoint = read_checkpoint(options.checkpoint)
    task = find_task(checkpoint, options.dataset, data_folder=options.data, settings={
        "models_path": options.models_path, "datasets_path": options.datasets_path})
    falling = Falling.SLOPES if options.falling_slopes else Falling.STEPS
    result = kmodel_from_checkpoint(checkpoint, task, KmodelOptions(
        calibration=CalibrationOptions(method=Calibration(options.calibration), percentile=options.percentile),
        lowering=LoweringOptions(float_dense_bytes=options.float_dense, falling=falling),
        samples=max(options.samples, 1), compared=options.compare))
    atomic_write(options.output, result.quantized.data)
    for line in report_lines(result):
        print(line)
    print(f"written: {options.output} ({len(result.quantized.data):,} bytes, kmodel version 3)")


def _number(text: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a number such as 0x300000 is needed")
    return number


def _run_pack(options: argparse.Namespace) -> None:
    from ai8x.k210.kmodel_info import describe
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
        runs_on = "" if file.sha256_prefix else f": runs on {describe(file.data, name=file.name).runs_on}"
        print(f"{file.address:#010x}  {len(file.data):9,d} bytes  {file.name}{runs_on}")
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
