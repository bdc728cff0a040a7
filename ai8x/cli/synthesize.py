"""The command ``synthesize.py``: network description and checkpoint to verified firmware.

Source: design/decisions.md "Command lines"; design/ecosystem.md section 7.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ai8x.cli.common import CommandParser, print_diagnostics, run_main
from ai8x.errors import user_error

if TYPE_CHECKING:
    from ai8x.synthesis import SynthesisOptions

DEFAULT_OUT = Path("out")
"""Parent of the output folder where ``--out`` is not given."""

BOARDS = ("EvKit_V1", "FTHR_RevA")
"""Boards that the generated Makefile knows without the vendor's SDK."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0 success, 1 internal error, 2 refused input, 3 an executor differs from the reference, 130 interrupted.
    """
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _execute(arguments), debug=arguments.debug, json_errors=arguments.json_errors)


def build_parser() -> argparse.ArgumentParser:
    """The parser with its groups."""
    parser = CommandParser(
        prog="synthesize.py",
        description="Turn a network description (YAML) and a quantised checkpoint into verified projects for the "
                    "MAX78000 and the Kendryte K210.",
        epilog="Exit status: 0 verified, 2 input refused, 3 an executor differs from the reference.")
    inputs = parser.add_argument_group("input")
    inputs.add_argument("network", type=Path, metavar="NET.yaml", help="network description")
    inputs.add_argument("checkpoint", type=Path, metavar="CKPT", help="quantised checkpoint (.pth.tar or .safetensors)")
    inputs.add_argument("--sample-input", type=Path, metavar="X.npy",
                        help="input to verify with, integers -128..127 of shape (C, H, W) or (C, L) "
                             "(default: the checkpoint's, else the data set's first test item)")
    output = parser.add_argument_group("output")
    output.add_argument("--target", choices=("max78000", "k210", "all"), default="all", help="chip (default: all)")
    output.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: out/<name of the network file>)")
    output.add_argument("--overwrite", action="store_true", help="replace an output folder with files that are not ours")
    chip = parser.add_argument_group("chip")
    chip.add_argument("--avg-pool-rounding", action="store_true", help="average pooling rounds instead of truncating")
    chip.add_argument("--fifo", action="store_true", help="max78000: feed the input through the FIFO")
    chip.add_argument("--board", default=BOARDS[0], choices=BOARDS,
                      help="max78000: board of the vendor's SDK (default: EvKit_V1)")
    chip.add_argument("--no-softmax", dest="softmax", action="store_false", help="max78000: print no class table")
    check = parser.add_argument_group("verification")
    check.add_argument("--no-verify", dest="verify", action="store_false", help="generate only, run nothing")
    check.add_argument("--test-samples", type=int, default=0, metavar="N",
                       help="also classify the data set's test part: all of it with the reference, N items on each "
                            "simulator (default: 0, none)")
    other = parser.add_argument_group("messages")
    other.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    other.add_argument("--json-errors", action="store_true", help="print diagnostics as JSON on standard error")
    parser.advanced(other, "--debug", action="store_true", help="show tracebacks of internal errors")
    return parser


def options_from(arguments: argparse.Namespace) -> SynthesisOptions:
    """The library's options.

    Raises:
        UserError: E0210, a number of test samples below 0.
    """
    from ai8x.synthesis import TARGETS, SynthesisOptions

    if arguments.test_samples < 0:
        raise user_error("E0210", "--test-samples counts items", found=str(arguments.test_samples),
                         allowed="0 or more", help="write --test-samples 100")
    targets = TARGETS if arguments.target == "all" else (arguments.target,)
    out = arguments.out or DEFAULT_OUT / arguments.network.stem
    return SynthesisOptions(
        network=arguments.network, checkpoint=arguments.checkpoint, out=out, targets=targets,
        sample=arguments.sample_input, verify=arguments.verify, overwrite=arguments.overwrite,
        average_rounded=arguments.avg_pool_rounding, fifo=arguments.fifo, board=arguments.board,
        softmax=arguments.softmax, test_samples=arguments.test_samples)


def _execute(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from ai8x.report_terminal import print_report
    from ai8x.synthesis import synthesize

    options = options_from(arguments)
    console = Console(quiet=arguments.quiet, highlight=False)
    with console.status("starting") as status:

        def announce(line: str) -> None:
            if console.is_terminal:
                status.update(line)
            else:
                console.print(line, markup=False)

        result = synthesize(options, announce)
    if not arguments.quiet or arguments.json_errors:
        print_diagnostics(result.messages, json_errors=arguments.json_errors)
    print_report(console, result.report, result.folder)
    for verdict in result.verdicts:
        if verdict.is_different:
            Console(stderr=True, highlight=False).print(f"{verdict.witness}: {verdict}", markup=False)
    return int(result.exit_status)
