"""The command ``synthesize.py``: network description and checkpoint to verified firmware.

Source: docs/design.md "Command lines", "Libraries".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai8x.cli.common import CommandParser, print_diagnostics, run_main
from ai8x.cli.synthesize_options import add_project_options, project_options
from ai8x.errors import user_error

if TYPE_CHECKING:
    from ai8x.synthesis import SynthesisOptions

DEFAULT_OUT = Path("out")
"""Parent of the output folder where ``--out`` is not given."""


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
                    "MAX78000 and the Kendryte K210; or take a model by its name instead of a description.",
        epilog="Exit status: 0 verified, 2 input refused, 3 an executor differs from the reference.")
    inputs = parser.add_argument_group("input")
    inputs.add_argument("network", nargs="?", type=Path, metavar="NET.yaml", help="network description")
    inputs.add_argument("checkpoint", nargs="?", type=Path, metavar="CKPT",
                        help="quantised checkpoint (.pth.tar or .safetensors)")
    inputs.add_argument("--model", metavar="NAME",
                        help="a model of train.py --list-models instead of NET.yaml; the description is made from it")
    parser.advanced(inputs, "--models-path", metavar="DIR", help="folder with further model files")
    parser.advanced(inputs, "--datasets-path", metavar="DIR", help="folder with further data-set files")
    inputs.add_argument("--sample-input", type=Path, metavar="X.npy",
                        help="input to verify with, integers -128..127 of shape (C, H, W) or (C, L) "
                             "(default: the checkpoint's, else the data set's first test item)")
    output = parser.add_argument_group("output")
    output.add_argument("--target", choices=("max78000", "k210", "all"),
                        help="chip; all: both must take the network (default: every chip that takes it)")
    output.add_argument("--out", type=Path, metavar="DIR", help="output folder (default: out/<name of the network>)")
    output.add_argument("--overwrite", action="store_true", help="replace an output folder with foreign files")
    chip = parser.add_argument_group("chip")
    chip.add_argument("--avg-pool-rounding", action="store_true", help="average pooling rounds instead of truncating")
    parser.advanced(chip, "--k210-own-layers", action="store_true",
                    help="K210: where nothing else is exact (large averages, OR, XOR) use layer types that only the "
                         "generated runner knows, not the vendor's SDK or MaixPy")
    parser.advanced(chip, "--allow-inexact", action="store_true",
                    help="K210: where nothing is exact use layers that may be off; the report states the bound")
    check = parser.add_argument_group("verification")
    check.add_argument("--analyze", action="store_true",
                       help="report memory, cycles and what does not fit, and generate nothing; with --model no "
                            "checkpoint is needed")
    parser.advanced(check, "--qat-policy", type=Path, metavar="FILE",
                    help="with --analyze and no checkpoint: policy whose widths the weights get (default: 8 bits)")
    parser.advanced(check, "--use-bias", action="store_true",
                    help="with --analyze and no checkpoint: give every layer a bias")
    check.add_argument("--no-verify", dest="verify", action="store_false", help="generate only, run nothing")
    check.add_argument("--samples", "--test-samples", dest="test_samples", type=int, default=0, metavar="N",
                       help="also classify the data set's test part: all of it with the reference, N items on each "
                            "simulator (default: 0, none)")
    check.add_argument("--dataset", metavar="NAME",
                       help="data set for that, and with --model for the shape of the input (default: the network "
                            "description's or the training run's)")
    parser.advanced(check, "--float-checkpoint", type=Path, metavar="FILE",
                    help="the model before quantize.py: the report then shows every layer's distance from it (needs "
                         "torch)")
    other = parser.add_argument_group("messages")
    other.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    other.add_argument("--json-errors", action="store_true", help="print diagnostics as JSON on standard error")
    parser.advanced(other, "--debug", action="store_true", help="show tracebacks of internal errors")
    add_project_options(parser)
    _add_vendor_spellings(parser)
    return parser


def _add_vendor_spellings(parser: CommandParser) -> None:
    """The names under which the vendor's tool takes files, folders and the device."""
    group = parser.add_argument_group("other spellings")
    parser.advanced(group, "--config-file", type=Path, metavar="NET.yaml", help="network description")
    parser.advanced(group, "--checkpoint-file", type=Path, metavar="CKPT", help="quantised checkpoint")
    parser.advanced(group, "--test-dir", type=Path, metavar="DIR", help="parent of the output folder")
    parser.advanced(group, "--prefix", metavar="NAME", help="name of the output folder (default: the network's)")
    parser.advanced(group, "--device", metavar="NAME", help="chip, such as MAX78000")


def _input_file(arguments: argparse.Namespace, name: str, other: str) -> Path:
    """A file given by its place on the command line or by an option.

    Raises:
        UserError: E0290, it is not given, or twice.
    """
    given = [path for path in (getattr(arguments, name), getattr(arguments, other)) if path is not None]
    if len(given) == 1:
        return Path(given[0])
    option = f"--{other.replace('_', '-')}"
    count = f"given {len(given)} times" if given else "missing"
    raise user_error("E0290", f"the {name} is {count}", found=", ".join(map(str, given)) or "nothing",
                     allowed=f"one file, by its place or with {option}",
                     help="write synthesize.py NET.yaml CKPT, or synthesize.py --model NAME CKPT")


def _targets(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The chips to synthesise for.

    Raises:
        UserError: E0301, E0302 an unknown device.
    """
    from ai8x.device import canonical_name
    from ai8x.synthesis import TARGETS

    if arguments.device is not None:
        return (canonical_name(arguments.device),)
    return TARGETS if arguments.target in (None, "all") else (arguments.target,)


def _folder(arguments: argparse.Namespace, name: str) -> Path:
    if arguments.out is not None:
        return Path(arguments.out)
    return (arguments.test_dir or DEFAULT_OUT) / (arguments.prefix or name)


def _model_checkpoint(arguments: argparse.Namespace) -> Path | None:
    """The checkpoint beside ``--model``, which then stands in the first place.

    Raises:
        UserError: E0292, a network description is given, too; E0290, two checkpoints are.
    """
    given = [path for path in (arguments.network, arguments.checkpoint, arguments.checkpoint_file) if path is not None]
    descriptions = [path for path in (arguments.config_file, *given) if path and path.suffix in (".yaml", ".yml")]
    if arguments.config_file is not None or descriptions:
        raise user_error("E0292", "a model and a network description exclude each other",
                         found=f"--model {arguments.model} and {descriptions[0] if descriptions else 'a description'}",
                         allowed="one of them", help=f"write synthesize.py --model {arguments.model} CKPT")
    if len(given) > 1:
        raise user_error("E0290", f"the checkpoint is given {len(given)} times", found=", ".join(map(str, given)),
                         allowed="one file", help=f"write synthesize.py --model {arguments.model} CKPT")
    return given[0] if given else None


def model_options(arguments: argparse.Namespace) -> SynthesisOptions:
    """The library's options for ``--model``. Loads torch.

    Raises:
        UserError: as `options_from`, and what `ai8x.synthesis_model.prepare_model` says.
    """
    from ai8x.checkpoint import read_checkpoint
    from ai8x.synthesis_model import ModelRequest, prepare_model

    shared = _shared_options(arguments)
    file = _model_checkpoint(arguments)
    request = ModelRequest(
        name=arguments.model, dataset=arguments.dataset or "", models_path=arguments.models_path,
        datasets_path=arguments.datasets_path, policy=arguments.qat_policy, use_bias=arguments.use_bias)
    prepared = prepare_model(request, None if file is None else read_checkpoint(file), analyze=arguments.analyze)
    return prepared.options(out=_folder(arguments, prepared.description.name), **shared)


def options_from(arguments: argparse.Namespace) -> SynthesisOptions:
    """The library's options.

    Raises:
        UserError: E0290 a missing file, E0291 a number of test samples below 0, E0301 an unknown device, E0392 to
            E0397 options of the MAX78000.
    """
    from ai8x.synthesis import SynthesisOptions

    if arguments.model is not None:
        return model_options(arguments)
    shared = _shared_options(arguments)
    network = _input_file(arguments, "network", "config_file")
    return SynthesisOptions(network=network, checkpoint=_input_file(arguments, "checkpoint", "checkpoint_file"),
                            out=_folder(arguments, network.stem), **shared)


def _shared_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fields of `SynthesisOptions` that do not depend on how the network is given."""
    from ai8x.k210.forms import Forms

    if arguments.test_samples < 0:
        raise user_error("E0291", "--samples counts items", found=str(arguments.test_samples),
                         allowed="0 or more", help="write --samples 100")
    if arguments.analyze and arguments.test_samples:
        raise user_error("E0296", "--analyze runs nothing", found=f"--samples {arguments.test_samples}",
                         allowed="one of them", help="leave --samples out")
    return {
        "targets": _targets(arguments), "require_all": arguments.target == "all" and arguments.device is None,
        "sample": arguments.sample_input, "verify": arguments.verify, "analyze": arguments.analyze,
        "overwrite": arguments.overwrite, "average_rounded": arguments.avg_pool_rounding,
        "test_samples": arguments.test_samples, "dataset": arguments.dataset or "",
        "float_checkpoint": arguments.float_checkpoint, "max78000": project_options(arguments),
        "k210": Forms(own_layers=arguments.k210_own_layers, inexact=arguments.allow_inexact)}


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
    messages = [message for message in result.messages if message.level == "error" or not arguments.quiet]
    if messages or arguments.json_errors:
        print_diagnostics(result.messages if arguments.json_errors else messages, json_errors=arguments.json_errors)
    print_report(console, result.report, result.folder)
    for verdict in result.verdicts:
        if verdict.is_different:
            Console(stderr=True, highlight=False).print(f"{verdict.witness}: {verdict}", markup=False)
    return int(result.exit_status)
