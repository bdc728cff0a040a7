"""``python -m ai8x.simulate``: run a firmware, a recorded bus trace or a kmodel without hardware.

Exit status: 0 only on success; 1 internal error, 2 refused input, 3 the firmware failed, an expected word differs, or
the simulated hardware met something undefined.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai8x.cli.common import run_main
from ai8x.errors import ExitStatus, Source, user_error
from ai8x.files import atomic_write, read_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ai8x.k210.kmodel import KModel
    from ai8x.virtual.max78000 import FirmwareResult

_MAX_KMODEL_BYTES = 64 << 20
_MAX_ARRAY_BYTES = 256 << 20
_SHOWN_FAILURES = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    return run_main(lambda: options.run(options), debug=options.debug, json_errors=options.json_errors)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ai8x.simulate", allow_abbrev=False,
                                     description="Run what was generated, without hardware.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks")
    common.add_argument("--json-errors", action="store_true", help="print errors as JSON")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    firmware = commands.add_parser("firmware", parents=[common], allow_abbrev=False,
                                   help="build a project and run it on a virtual MAX78000 or K210 board")
    firmware.add_argument("project", type=Path, metavar="PROJECT_DIR|FILE.elf",
                          help="folder with C files, or a linked firmware")
    firmware.add_argument("--max-instructions", type=_positive, metavar="N",
                          help="give up after so many instructions (default 500,000,000; K210 1,000,000,000)")
    firmware.add_argument("--seed", type=_natural, default=0, metavar="N",
                          help="of the arbitrary memory contents before the start (default 0)")
    firmware.add_argument("--gdb", type=_positive, metavar="PORT", help="wait for a debugger on this TCP port")
    firmware.set_defaults(run=_run_firmware)

    bus = commands.add_parser("bus", parents=[common], allow_abbrev=False,
                              help="replay a recorded bus trace on the MAX78000 accelerator")
    bus.add_argument("trace", type=Path, metavar="TRACE.npz", help="arrays address, size, value and expected")
    bus.set_defaults(run=_run_bus)

    kmodel = commands.add_parser("kmodel", parents=[common], allow_abbrev=False,
                                 help="run a .kmodel on the simulated K210")
    kmodel.add_argument("model", type=Path, metavar="FILE.kmodel", help="version 3")
    kmodel.add_argument("--input", type=Path, metavar="X.npy", help="uint8 (C, H, W); default: seeded random values")
    kmodel.add_argument("--output", type=Path, metavar="Y.npz",
                        help="write output<i> (bytes) and layer<i> (uint8 C, H, W)")
    kmodel.add_argument("--seed", type=_natural, metavar="N",
                        help="of the arbitrary memory contents before the run (default: zeros)")
    kmodel.add_argument("--info", action="store_true", help="only say what the file is")
    kmodel.set_defaults(run=_run_kmodel)
    return parser


def _positive(text: str) -> int:
    return _whole_number(text, least=1)


def _natural(text: str) -> int:
    return _whole_number(text, least=0)


def _whole_number(text: str, *, least: int) -> int:
    """A number of decimal digits, which may be grouped by commas or underscores."""
    digits = text.replace(",", "").replace("_", "")
    if not (digits.isascii() and digits.isdigit()) or int(digits) < least:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number of at least {least} is needed")
    return int(digits)


# --- firmware -----------------------------------------------------------------------------------------------------


def _run_firmware(options: argparse.Namespace) -> int:
    project: Path = options.project
    if not project.is_dir():
        if not project.exists():
            raise user_error("E0805", "there is no such project or firmware file", source=Source(file=str(project)),
                             help="name a folder with C files, or an .elf file")
        from ai8x.virtual.riscv import is_riscv_firmware

        return _run_k210(project, options) if is_riscv_firmware(project) else _report(_execute(project, options))
    from ai8x.toolchain import build_k210_project, build_project, is_generated_project, is_k210_project

    if is_k210_project(project):
        return _run_k210(build_k210_project(project), options)
    if is_generated_project(project):
        return _report(_execute(build_project(project), options))
    with tempfile.TemporaryDirectory(prefix="ai8x-") as folder:
        return _report(_execute(build_project(project, build_dir=Path(folder)), options))


def _execute(elf: Path, options: argparse.Namespace) -> FirmwareResult:
    """Run a firmware file against the accelerator simulator."""
    from ai8x.max7800x.cycles import network_cycles, work_from_geometry
    from ai8x.max7800x.simulator import Accelerator
    from ai8x.virtual.max78000 import DEFAULT_BUDGET, Latency, Max78000

    accelerator = Accelerator(seed=options.seed, powered=False)
    latency = Latency(cycles=lambda: network_cycles(work_from_geometry(g) for g in accelerator.layer_geometry()))
    board = Max78000(elf, accelerator, latency, budget=options.max_instructions or DEFAULT_BUDGET, seed=options.seed)
    try:
        if options.gdb:
            from ai8x.virtual.gdb import serve

            return board.result(serve(board.core, port=options.gdb, announce=print))
        return board.run()
    finally:
        sys.stdout.write(board.console)
        sys.stdout.flush()


def _run_k210(elf: Path, options: argparse.Namespace) -> int:
    """Run a firmware file for the K210 against the KPU simulator."""
    from ai8x.virtual.k210 import DEFAULT_BUDGET, K210Board

    if options.gdb:
        raise user_error("E0815", "the debugger serves firmware for the MAX78000 only", source=Source(file=str(elf)),
                         found=f"--gdb {options.gdb} with firmware for RISC-V", help="run it without --gdb")
    board = K210Board(elf, budget=options.max_instructions or DEFAULT_BUDGET, seed=options.seed)
    try:
        result = board.run()
    finally:
        sys.stdout.write(board.console)
        sys.stdout.flush()
    _print_verdict(result.console, result.passed, result.reason)
    print(f"KPU: {len(result.layers)} layers; {result.bus_accesses} accesses to peripherals")
    _print_unknown(result.unknown_addresses)
    return ExitStatus.SUCCESS if result.passed else ExitStatus.MISMATCH


def _print_verdict(console: str, passed: bool, reason: str) -> None:
    if console and not console.endswith("\n"):
        print()
    print(f"firmware: {'passed' if passed else 'failed'}: {reason}")


def _print_unknown(addresses: Sequence[int]) -> None:
    if addresses:
        shown = ", ".join(f"0x{address:08x}" for address in addresses[:_SHOWN_FAILURES])
        print(f"notice: accesses to peripherals that are not modelled: {shown}")


def _report(result: FirmwareResult) -> int:
    statistics = result.statistics
    _print_verdict(result.console, result.passed, result.reason)
    print(f"accelerator: {statistics.accelerator_writes} writes, {statistics.accelerator_reads} reads, "
          f"{statistics.fifo_words} FIFO words, {statistics.inferences} inferences")
    _print_unknown(statistics.unknown_addresses)
    return ExitStatus.SUCCESS if result.passed else ExitStatus.MISMATCH


# --- bus ----------------------------------------------------------------------------------------------------------


def _run_bus(options: argparse.Namespace) -> int:
    from ai8x.max7800x.simulator_trace import run_bus_trace

    report = run_bus_trace(options.trace)
    for failure in report.failures[:_SHOWN_FAILURES]:
        print(failure, file=sys.stderr)
    if len(report.failures) > _SHOWN_FAILURES:
        print(f"and {len(report.failures) - _SHOWN_FAILURES} more", file=sys.stderr)
    if report.passed:
        print(f"bus: equal: {report.checked} expected words hold after {report.runs} inferences")
        return ExitStatus.SUCCESS
    print(f"bus: different: {len(report.failures)} of {report.checked} expected words differ", file=sys.stderr)
    return ExitStatus.MISMATCH


# --- kmodel -------------------------------------------------------------------------------------------------------


def _run_kmodel(options: argparse.Namespace) -> int:
    from ai8x.k210.interpreter import run_kmodel
    from ai8x.k210.kmodel import read_kmodel
    from ai8x.k210.kmodel_info import describe

    name = str(options.model)
    data = read_bytes(options.model, limit=_MAX_KMODEL_BYTES, code="E0715")
    if options.info:
        print(describe(data, name=name).text())
        return ExitStatus.SUCCESS
    model = read_kmodel(data, name=name)
    run = run_kmodel(model, _kmodel_input(options.input, model), seed=options.seed)
    for index in sorted(run.layers):
        print(f"layer {index}: {' x '.join(map(str, run.layers[index].shape))}, {run.cycles[index]} cycles")
    for index, output in enumerate(run.outputs):
        print(f"output {index}: {output.nbytes} bytes")
    if options.output is not None:
        _write_arrays(options.output, {f"output{i}": output for i, output in enumerate(run.outputs)}
                      | {f"layer{i}": layer for i, layer in run.layers.items()})
    return ExitStatus.SUCCESS


def _kmodel_input(path: Path | None, model: KModel) -> NDArray[Any]:
    """The array of a .npy file, or random values of the shape that the model's first layer takes."""
    import numpy as np

    if path is None:
        print("input: random values (seed 0)")
        return _random_input(model)
    data = read_bytes(path, limit=_MAX_ARRAY_BYTES, code="E0713")
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise user_error("E0713", f"the input is not a NumPy array file: {error}", source=Source(file=str(path)),
                         help="write it with numpy.save") from error
    if not isinstance(array, np.ndarray):
        raise user_error("E0713", "the input holds several arrays", source=Source(file=str(path)), found="an .npz file",
                         allowed="one array, in an .npy file", help="write it with numpy.save")
    return array


def _random_input(model: KModel) -> NDArray[Any]:
    import numpy as np

    from ai8x.k210.kmodel_layers import FullyConnected, K210Conv

    generator = np.random.default_rng(0)
    first = model.layers[0]
    if isinstance(first, K210Conv):
        fields = first.fields
        shape = (fields["i_ch_num"] + 1, fields["i_col_high"] + 1, fields["i_row_wid"] + 1)
        return generator.integers(0, 256, shape, dtype=np.uint8)
    count = first.input_channels if isinstance(first, FullyConnected) else 0
    return generator.standard_normal(count, dtype=np.float32)


def _write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    atomic_write(path, buffer.getvalue())


if __name__ == "__main__":
    sys.exit(main())
