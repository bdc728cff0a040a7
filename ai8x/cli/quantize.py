"""``quantize.py``: from a trained checkpoint to integers. Parses options; the work is in `ai8x.quantization`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ai8x.cli.common import CommandParser, run_main
from ai8x.compatibility import device_name

if TYPE_CHECKING:
    from ai8x.checkpoint import Checkpoint
    from ai8x.quantization import LayerHint, LayerQuantization, QuantizationOptions
    from ai8x.quantization.task import Task

CLIP_METHODS = ("AVGMAX", "MAX", "STDDEV", "SCALE", "MSE", "KL")
CALIBRATION_METHODS = ("MSE", "KL", "MAX")
DEFAULT_SAMPLES = 512

_LIMITS = {"scale": "SCALE", "stddev": "STDDEV"}
"""Options with a number -> the clip method that uses it."""


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a number above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def create_parser() -> CommandParser:
    """The options of quantize.py."""
    parser = CommandParser(prog="quantize.py", description="Turn the float parameters of a trained checkpoint into "
                           "the integers of the accelerator. BatchNorm is folded. Checkpoints of quantisation-aware "
                           "training need no data; others gain by calibration.")
    files = parser.add_argument_group("files")
    files.add_argument("input", type=Path, metavar="IN", help="checkpoint that train.py wrote")
    files.add_argument("output", type=Path, metavar="OUT", nargs="?",
                       help="quantised checkpoint; .pth.tar or .safetensors; may be left out where only --sensitivity, "
                       "--compare or --onnx is asked for")
    files.add_argument("-c", "--config-file", type=Path, metavar="YAML",
                       help="network file; its 'quantization' keys win over the widths in the checkpoint")
    how = parser.add_argument_group("quantisation")
    how.add_argument("--device", default="MAX78000", metavar="NAME", help="MAX78000 (default) or MAX78002")
    how.add_argument("--qat-weight-bits", type=int, choices=(1, 2, 4, 8), metavar="N",
                     help="width of layers for which neither file gives one: 1, 2, 4 or 8 (default)")
    how.add_argument("--clip-method", type=str.upper, choices=CLIP_METHODS, metavar="METHOD",
                     help="saturation limit of weights for files without quantisation-aware training: AVGMAX (mean of "
                     "the channels' extremes), MAX, STDDEV, SCALE (a constant), MSE (least squared error) or KL "
                     "(histogram); default: as in training")
    how.add_argument("--scale", type=_positive, metavar="X", help="limit of SCALE (default 0.85)")
    how.add_argument("--stddev", type=_positive, metavar="X",
                     help="standard deviations that STDDEV represents (default 2.0)")
    parser.advanced(how, "--batchnorm-eps", type=_positive, default=1e-5, metavar="X",
                    help="eps of BatchNorm layers, which checkpoints do not hold (default 1e-5)")
    _add_data_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--onnx", type=Path, metavar="FILE",
                        help="write the quantised network as ONNX, exact to the bit")
    output.add_argument("-v", "--verbose", action="store_true", help="show limits and saturated parameters")
    output.add_argument("--json-errors", action="store_true", help="print errors as JSON")
    output.add_argument("--debug", action="store_true", help="print tracebacks of internal errors")
    return parser


def _add_data_options(parser: CommandParser) -> None:
    data = parser.add_argument_group("with data (model and data set are found by their names)")
    data.add_argument("--dataset", metavar="NAME", help="data set (default: the one of the run)")
    data.add_argument("--data", type=Path, metavar="DIR", help="folder of data sets (default: the one of the run)")
    data.add_argument("--samples", type=_count, default=DEFAULT_SAMPLES, metavar="N",
                      help=f"samples to measure with (default {DEFAULT_SAMPLES})")
    data.add_argument("--calibrate", type=str.upper, nargs="?", const="MSE", choices=CALIBRATION_METHODS,
                      metavar="METHOD", help="choose the range of every layer's outputs from training samples, for "
                      "checkpoints trained in float: MSE (default), KL or MAX")
    data.add_argument("--sensitivity", action="store_true",
                      help="show what 1, 2, 4 and 8 bits would cost in every layer")
    data.add_argument("--auto-bits", type=_count, metavar="BYTES",
                      help="choose 1, 2, 4 or 8 bits for every layer so that the weights fit and the outputs change "
                      "least")
    data.add_argument("--compare", nargs="?", const="", metavar="DATASET",
                      help="hold every layer against the float model on test samples; prints and plots")
    data.add_argument("--checkpoint-float", type=Path, metavar="FILE",
                      help="float parameters for --compare (default: IN without rounding)")
    data.add_argument("--plot", type=Path, metavar="FILE",
                      help="picture of --compare, .svg or .png (default: OUT or IN with -compare.svg)")
    parser.advanced(data, "--least-snr", type=float, default=None, metavar="DB",
                    help="signal-to-noise ratio below which a layer counts as bad (default 10)")
    parser.advanced(data, "--models-path", metavar="DIR", help="folder with further model files")
    parser.advanced(data, "--datasets-path", metavar="DIR", help="folder with further data-set files")


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
    limits = {name: value for name in _LIMITS if (value := getattr(arguments, name)) is not None}
    return QuantizationOptions(clip_method=method, qat_weight_bits=arguments.qat_weight_bits, hints=hints,
                               eps=arguments.batchnorm_eps, **limits)


def _check_arguments(arguments: argparse.Namespace) -> None:
    """What argparse cannot check.

    Raises:
        UserError: E0371, E0509, E0538, E0564, E0566.
    """
    from ai8x.checkpoint import check_target
    from ai8x.errors import user_error
    from ai8x.quantization import check_paths

    device_name(arguments.device)
    if arguments.output is not None:
        check_paths(arguments.input, arguments.output)
        check_target(arguments.output)
    elif not (arguments.sensitivity or arguments.compare is not None or arguments.onnx):
        raise user_error("E0566", "the name of the output file is missing", found="only IN", allowed="IN and OUT",
                         help=f"write quantize.py {arguments.input} OUT.pth.tar")
    if arguments.plot is not None and arguments.compare is None:
        raise user_error("E0566", "--plot draws what --compare finds", found="--plot without --compare",
                         allowed="both", help="add --compare")
    for name, method in _LIMITS.items():
        value = getattr(arguments, name)
        if value is not None and arguments.clip_method != method:
            given = f"--clip-method {arguments.clip_method}" if arguments.clip_method else "no --clip-method"
            raise user_error("E0566", f"--{name} is for --clip-method {method}", allowed="both",
                             found=f"--{name} {value:g} with {given}",
                             help=f"add --clip-method {method}, or leave --{name} out")


def _find_task(arguments: argparse.Namespace, checkpoint: Checkpoint, dataset: str | None = None) -> Task:
    from ai8x.quantization.task import find_task

    settings = {"models_path": arguments.models_path, "datasets_path": arguments.datasets_path}
    return find_task(checkpoint, dataset or arguments.dataset, data_folder=arguments.data, settings=settings)


def _measure(arguments: argparse.Namespace, checkpoint: Checkpoint, options: QuantizationOptions
             ) -> QuantizationOptions:
    """Sensitivity, and the widths that a budget asks for."""
    if not arguments.sensitivity and arguments.auto_bits is None:
        return options
    from ai8x.quantization.sensitivity import choose_widths, format_sensitivity, measure_sensitivity

    task = _find_task(arguments, checkpoint)
    found = measure_sensitivity(task.float_model(checkpoint), task.training_batches(arguments.samples), options)
    widths = {} if arguments.auto_bits is None else choose_widths(found, arguments.auto_bits)
    print(format_sensitivity(found, widths))
    return replace(options, widths=widths)


def _calibrate(arguments: argparse.Namespace, checkpoint: Checkpoint) -> Checkpoint:
    """Activation ranges from training samples."""
    from ai8x.quantization.calibration import calibrate_checkpoint, format_ranges, needs_ranges

    if arguments.calibrate is None:
        if needs_ranges(checkpoint):
            print("notice: the checkpoint was trained without clamps; without --calibrate most values will saturate")
        return checkpoint
    from ai8x.nn.statistics import ThresholdMethod

    task = _find_task(arguments, checkpoint)
    calibrated, plan = calibrate_checkpoint(checkpoint, task.float_model(checkpoint),
                                            task.training_batches(arguments.samples),
                                            ThresholdMethod(arguments.calibrate))
    print(format_ranges(plan))
    return calibrated


def _compare(arguments: argparse.Namespace, checkpoint: Checkpoint, quantized: Checkpoint) -> None:
    """Golden tensors: table and picture."""
    from ai8x.checkpoint import read_checkpoint
    from ai8x.quantization.comparison import DEFAULT_LEAST_SNR, compare_models, format_comparison, logits_agreement
    from ai8x.quantization.comparison_plot import write_plot

    task = _find_task(arguments, checkpoint, arguments.compare)
    source = checkpoint if arguments.checkpoint_float is None else read_checkpoint(arguments.checkpoint_float)
    reference, integer = task.float_model(source), task.integer_model(quantized)
    least = DEFAULT_LEAST_SNR if arguments.least_snr is None else arguments.least_snr
    layers = compare_models(reference, integer, task.test_batches(arguments.samples))
    print(format_comparison(layers, least))
    if agreement := logits_agreement(reference, integer, task.test_batches(arguments.samples)):
        print(f"greatest output the same for {agreement[0]} of {agreement[1]} samples")
    plot = arguments.plot or _default_plot(arguments.output or arguments.input)
    write_plot(plot, layers, title=f"{task.model.name} on {task.data.name}: integer layers against float",
               least_snr=least)
    print(f"wrote {plot}")


def _default_plot(path: Path) -> Path:
    stem = path.name.removesuffix(".tar").removesuffix(".pth").removesuffix(".safetensors")
    return path.with_name(f"{stem}-compare.svg")


def _quantize(arguments: argparse.Namespace, checkpoint: Checkpoint) -> Checkpoint:
    """The quantised checkpoint; it is written if a name was given."""
    from ai8x.checkpoint import write_checkpoint
    from ai8x.quantization import quantize_checkpoint

    options = _measure(arguments, checkpoint, _read_options(arguments))
    calibrated = _calibrate(arguments, checkpoint)
    quantized, report = quantize_checkpoint(calibrated, options)
    if arguments.output is not None:
        write_checkpoint(arguments.output, quantized)
    for layer in report:
        if layer.notice:
            print(f"notice: layer '{layer.name}': {layer.notice}")
    print(format_table(report, verbose=arguments.verbose))
    if arguments.output is not None:
        print(f"wrote {arguments.output}")
    return quantized


def _export(arguments: argparse.Namespace, quantized: Checkpoint) -> None:
    from ai8x.quantization.export import export_checkpoint

    layers = export_checkpoint(arguments.onnx, quantized, arguments.config_file,
                               lambda: _find_task(arguments, quantized))
    print(f"wrote {arguments.onnx}: {layers} layers, integers exact to the bit")


def quantize_file(arguments: argparse.Namespace) -> None:
    """Read, quantise, write; nothing is written when anything is wrong.

    Raises:
        UserError: for every problem with options and files.
    """
    _check_arguments(arguments)
    from ai8x.checkpoint import read_checkpoint

    checkpoint = read_checkpoint(arguments.input)
    for notice in checkpoint.notices:
        print(f"notice: {notice}")
    if arguments.compare is not None:
        _find_task(arguments, checkpoint, arguments.compare)  # unknown names are refused before anything is written
    is_done = arguments.output is None and checkpoint.is_quantized
    quantized = checkpoint if is_done else _quantize(arguments, checkpoint)
    if arguments.compare is not None:
        _compare(arguments, checkpoint, quantized)
    if arguments.onnx is not None:
        _export(arguments, quantized)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = create_parser().parse_args(argv)
    return run_main(lambda: quantize_file(arguments), debug=arguments.debug, json_errors=arguments.json_errors)
