"""``quantize.py``: from a trained checkpoint to integers. Parses options; the work is in `ai8x.quantization`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ai8x.cli.common import CommandParser, run_main
from ai8x.compatibility import device_name

if TYPE_CHECKING:
    from ai8x.quantization import LayerHint, LayerQuantization, QuantizationOptions

CLIP_METHODS = ("AVGMAX", "MAX", "STDDEV", "SCALE")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a number above 0")
    return value


def create_parser() -> CommandParser:
    """The options of quantize.py."""
    parser = CommandParser(prog="quantize.py", description="Turn the float parameters of a trained checkpoint into "
                           "the integers of the accelerator. BatchNorm is folded; no data set is needed.")
    files = parser.add_argument_group("files")
    files.add_argument("input", type=Path, metavar="IN", help="checkpoint that train.py wrote")
    files.add_argument("output", type=Path, metavar="OUT", help="quantised checkpoint; .pth.tar or .safetensors")
    files.add_argument("-c", "--config-file", type=Path, metavar="YAML",
                       help="network file; its 'quantization' keys win over the widths in the checkpoint")
    how = parser.add_argument_group("quantisation")
    how.add_argument("--device", default="MAX78000", metavar="NAME", help="MAX78000 (default) or MAX78002")
    how.add_argument("--qat-weight-bits", type=int, choices=(1, 2, 4, 8), metavar="N",
                     help="width of layers for which neither file gives one: 1, 2, 4 or 8 (default)")
    how.add_argument("--clip-method", type=str.upper, choices=CLIP_METHODS,
                     help="saturation limit for files without quantisation-aware training: mean of the channels' "
                     "extremes, maximum, standard deviations, or a constant (default: as in training)")
    how.add_argument("--scale", type=_positive, default=0.85, metavar="X", help="limit of SCALE (default 0.85)")
    how.add_argument("--stddev", type=_positive, default=2.0, metavar="X",
                     help="standard deviations that STDDEV represents (default 2.0)")
    how.add_argument("--batchnorm-eps", type=_positive, default=1e-5, metavar="X",
                     help="eps of BatchNorm layers, which checkpoints do not hold (default 1e-5)")
    output = parser.add_argument_group("output")
    output.add_argument("-v", "--verbose", action="store_true", help="show limits and saturated parameters")
    output.add_argument("--json-errors", action="store_true", help="print errors as JSON")
    output.add_argument("--debug", action="store_true", help="print tracebacks of internal errors")
    return parser


def format_table(report: Sequence[LayerQuantization], *, verbose: bool) -> str:
    """One line for every layer."""
    width = max(len("layer"), *(len(layer.name) for layer in report))
    lines = [f"{'layer':{width}s}  bits  shift" + ("        limit  saturated" if verbose else "")]
    for layer in report:
        line = f"{layer.name:{width}s}  {layer.weight_bits:4d}  {layer.output_shift:5d}"
        if verbose:
            line += f"  {layer.limit:11.6f}  {layer.saturated} of {layer.parameters}"
        lines.append(line + ("  BatchNorm folded" if layer.folded else ""))
    return "\n".join(lines)


def _read_options(arguments: argparse.Namespace) -> QuantizationOptions:
    from ai8x.quantization import ClipMethod, QuantizationOptions, read_hints

    hints: tuple[LayerHint, ...] = ()
    if arguments.config_file is not None:
        from ai8x.network.yaml_file import read_network_file

        hints = read_hints(read_network_file(arguments.config_file))
    method = ClipMethod(arguments.clip_method) if arguments.clip_method else ClipMethod.MAX_BIT_SHIFT
    return QuantizationOptions(clip_method=method, qat_weight_bits=arguments.qat_weight_bits, scale=arguments.scale,
                               stddev=arguments.stddev, hints=hints, eps=arguments.batchnorm_eps)


def quantize_file(arguments: argparse.Namespace) -> None:
    """Read, quantise, write; nothing is written when anything is wrong.

    Raises:
        UserError: for every problem with options and files.
    """
    device_name(arguments.device)
    from ai8x.checkpoint import check_target, read_checkpoint, write_checkpoint
    from ai8x.quantization import check_paths, quantize_checkpoint

    check_paths(arguments.input, arguments.output)
    check_target(arguments.output)
    checkpoint = read_checkpoint(arguments.input)
    quantized, report = quantize_checkpoint(checkpoint, _read_options(arguments))
    write_checkpoint(arguments.output, quantized)
    for notice in (*checkpoint.notices, *(f"layer '{layer.name}': {layer.notice}" for layer in report if layer.notice)):
        print(f"notice: {notice}")
    print(format_table(report, verbose=arguments.verbose))
    print(f"wrote {arguments.output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = create_parser().parse_args(argv)
    return run_main(lambda: quantize_file(arguments), debug=arguments.debug, json_errors=arguments.json_errors)
