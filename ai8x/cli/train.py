"""The command ``train.py``: from arguments to a training run, an evaluation or a list of names.

All settings of a run are fields of `ai8x.training.config.TrainConfig`; this module adds what to do with them. torch is
imported only when there is something to do.

Source: spec/ai8x-training.md sections 12 and 15; docs/design.md "Command lines".
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ai8x.cli.common import CommandParser, run_main
from ai8x.errors import ExitStatus, user_error
from ai8x.training.config import Option, TrainConfig, config_options, field_types, parse_assignment

_NEWEST = ""
SUMMARIES = ("model", "modules", "compute", "memory", "sparsity", "onnx", "onnx_simplified", "png", "png_simplified",
             "png_w_params")

DROPPED_OPTIONS: dict[str, int | str] = {"--pretrained": 0, "--activation-stats": "*", "--act-stats": "*",
                                         "--kd-pretrained": 0}
"""Options of ai8x-training without a meaning here, and how many values they take."""

LATER_OPTIONS: dict[str, int | str] = {
    "--nas": 0, "--nas-policy": 1, "--nas-kd-policy": 1, "--nas-kd-resume-from": 1, "--nas-stage-transition-list": 1,
    "--dr": 1, "--scaf-margin": 1, "--scaf-scale": 1, "--scaf-lr": 1, "--backbone-checkpoint": 1}
"""Options of ai8x-training that answer with one clear line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0 success, 1 internal error, 2 refused input, 130 interrupted (a checkpoint was written).
    """
    arguments = build_parser().parse_args(argv)
    return run_main(lambda: _execute(arguments), debug=arguments.debug, json_errors=arguments.json_errors)


def build_parser() -> argparse.ArgumentParser:
    """The parser; every setting that is not given is absent from the result."""
    parser = CommandParser(prog="train.py",
                           description="Train a network for the MAX78000 and the K210, or evaluate one.",
                           epilog="Without arguments: digitsnet learns the data set digits, which needs no download.")
    groups: dict[str, argparse._ArgumentGroup] = {}
    types, defaults = field_types(), TrainConfig()
    for name, option in config_options().items():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        _add_setting(parser, groups[option.group], name, option, types[name][0], getattr(defaults, name))
    _add_actions(parser)
    _add_migration(parser)
    parser.set_defaults(later=None)
    return parser


def _add_setting(parser: CommandParser, group: argparse._ArgumentGroup, name: str, option: Option, kind: type,
                 default: object) -> None:
    """One field of the configuration as an option."""
    text = option.help
    if kind is not bool and default is not None:
        text += f" (default: {default})"
    common: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS}
    if kind is bool:
        if option.off_flags:
            parser.advanced(group, *option.off_flags, action="store_false", help=f"do not {text}", **common)
        shown = {"action": "store_true", "help": text, **common}
    else:
        shown = {"type": kind, "metavar": option.metavar, "help": text, **common}
    if option.advanced:
        parser.advanced(group, *option.flags, **shown)
    else:
        group.add_argument(*option.flags, **shown)


def _add_actions(parser: CommandParser) -> None:
    """What is not a setting of a run."""
    evaluation = parser.add_argument_group("evaluation")
    evaluation.add_argument("-e", "--evaluate", nargs="?", const=_NEWEST, metavar="FILE",
                            help="only report the accuracy of a checkpoint on the test part")
    evaluation.add_argument("-8", "--8-bit-mode", dest="integer", action="store_true",
                            help="with --evaluate: compute in integers, as the chip does; needs a quantised file")
    parser.advanced(evaluation, "--exp-load-weights-from", "--load-weights-from", dest="weights", metavar="FILE",
                    help="weights to evaluate, or to start the training from")
    parser.advanced(evaluation, "--save-sample", type=int, metavar="I",
                    help="with --evaluate: write test item I as int8 numbers to sample_DATASET.npy")
    parser.advanced(evaluation, "--slice-sample", action="store_true",
                    help="with --save-sample: keep only the first three channels")
    parser.advanced(evaluation, "--prune-curve", nargs="?", const=_NEWEST, metavar="SVG",
                    help="with --evaluate: show the accuracy over the share of weights and channels taken away, in a "
                         "table and a picture (default: beside the checkpoint), and stop")
    parser.advanced(evaluation, "--summary", metavar="KIND", choices=SUMMARIES,
                    help="print the model's layers (model, modules), multiply-accumulates (compute), bytes (memory) or "
                         "zeros (sparsity), or write the float network as ONNX (onnx; onnx_simplified folds "
                         "BatchNorm), and stop")
    parser.advanced(evaluation, "--summary-filename", metavar="NAME", default="model",
                    help="with --summary onnx: name of the file, without .onnx (default: model)")
    parser.advanced(evaluation, "--yaml-template", metavar="PATH", type=Path,
                    help="write the model's network description for synthesize.py, and stop")
    running = parser.add_argument_group("going on and configuration")
    running.add_argument("--resume", "--resume-from", nargs="?", const=_NEWEST, metavar="RUN|FILE",
                         help="go on with a run (default: the newest), exactly where it stopped")
    running.add_argument("--config", metavar="FILE", help="settings from a YAML file, e.g. config.yaml of another run")
    parser.advanced(running, "--set", action="append", default=[], metavar="KEY=VALUE", dest="assignments",
                    help="one setting; wins over --config")
    parser.advanced(running, "--reset-optimizer", action="store_true",
                    help="with --resume: take the weights only and start at epoch 0")
    lists = parser.add_argument_group("lists")
    lists.add_argument("--list-models", action="store_true", help="all models with their sizes and the chips they fit")
    parser.advanced(lists, "--list-datasets", action="store_true", help="names of all data sets")
    parser.advanced(lists, "--debug", action="store_true", help="show tracebacks of internal errors")
    parser.advanced(lists, "--json-errors", action="store_true", help="print errors as JSON")


def _add_migration(parser: CommandParser) -> None:
    """Options of ai8x-training that do nothing here, or are not there yet."""
    group = parser.add_argument_group("options of ai8x-training")
    for option, values in DROPPED_OPTIONS.items():
        parser.advanced(group, option, nargs=values, action=_Dropped, help="accepted, without effect", default=None)
    for option, values in LATER_OPTIONS.items():
        parser.advanced(group, option, nargs=values, action=_Later, help="not available yet", default=None)


class _Dropped(argparse.Action):
    """Says that an option does nothing."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object,
                 option_string: str | None = None) -> None:
        print(f"warning: {option_string} has no effect here", file=sys.stderr)


class _Later(argparse.Action):
    """Remembers the first option that is not available, for one clear message."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object,
                 option_string: str | None = None) -> None:
        namespace.later = namespace.later or option_string


def _execute(arguments: argparse.Namespace) -> int:
    if arguments.later is not None:
        raise user_error("E0637", f"{arguments.later} is not available yet: architecture search and "
                         "metric learning (ArcFace) come in a later version", found=arguments.later,
                         help="leave it out")
    if arguments.list_models or arguments.list_datasets:
        _list_names(arguments)
        return ExitStatus.SUCCESS
    settings = _given_settings(arguments)
    if arguments.summary is not None:
        _summarise(arguments, settings)
        return ExitStatus.SUCCESS
    if arguments.yaml_template is not None:
        from ai8x.training.listing import write_network_file

        print(write_network_file(arguments.yaml_template, settings, _path(arguments.evaluate or arguments.weights)))
        return ExitStatus.SUCCESS
    if arguments.evaluate is not None:
        if os.environ.get("RANK", "0") == "0":  # of several processes one evaluates, so that figures are those of one
            _evaluate(arguments, settings)
        return ExitStatus.SUCCESS
    _check_training(arguments)
    _share_processors()
    from ai8x.training.session import resume_training, start_training

    if arguments.resume is not None:
        result = resume_training(arguments.resume, settings, reset=arguments.reset_optimizer)
    else:
        result = start_training(settings, weights=_path(arguments.weights))
    print_result(result)
    return ExitStatus.INTERRUPTED if result["status"] == "interrupted" else ExitStatus.SUCCESS


def _check_training(arguments: argparse.Namespace) -> None:
    """Refuse options that belong to something else than training.

    Raises:
        UserError: E0621.
    """
    if arguments.integer:
        raise user_error("E0621", "-8 evaluates a quantised checkpoint; it cannot train", found="-8 without --evaluate",
                         help="add --evaluate FILE-q.pth.tar, or leave -8 out")
    for option, given in (("--save-sample", arguments.save_sample), ("--prune-curve", arguments.prune_curve)):
        if given is not None:
            raise user_error("E0621", f"{option} belongs to --evaluate", found=f"{option} without --evaluate",
                             help="add --evaluate FILE")
    if arguments.resume is not None and arguments.weights is not None:
        raise user_error("E0621", "--resume and --exp-load-weights-from exclude each other",
                         help="keep --resume to go on with a run, the other to start a new one")
    if arguments.reset_optimizer and arguments.resume is None:
        raise user_error("E0621", "--reset-optimizer belongs to --resume", found="--reset-optimizer without --resume",
                         help="add --resume RUN, or use --exp-load-weights-from FILE")


def _share_processors() -> None:
    """Let idle worker threads sleep instead of spinning; must come before the first import of torch.

    Beside another busy process the spinning of OpenMP makes a step up to thirty times slower; alone, sleeping costs
    next to nothing. Results do not change.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _given_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings from the file, then ``--set``, then the options; a later one wins."""
    settings: dict[str, Any] = {}
    if arguments.config is not None:
        from ai8x.training.run import read_config_file

        settings.update(read_config_file(Path(arguments.config)))
    settings.update(parse_assignment(text) for text in arguments.assignments)
    settings.update({name: value for name, value in vars(arguments).items() if name in config_options()})
    return settings


def _evaluate(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    file = arguments.evaluate or arguments.weights
    if not file:
        raise user_error("E0621", "--evaluate needs a checkpoint", help="write --evaluate FILE")
    if arguments.evaluate and arguments.weights:
        raise user_error("E0621", "two checkpoints to evaluate", found=f"{arguments.evaluate}, {arguments.weights}",
                         help="name one of them")
    from ai8x.training.evaluation import EvaluationRequest, evaluate_checkpoint

    if arguments.prune_curve is not None:
        from ai8x.training.prune_curve import draw_pruning

        for line in draw_pruning(Path(file), settings, _path(arguments.prune_curve or None)):
            print(line)
        return
    request = EvaluationRequest(file=Path(file), settings=settings, integer=arguments.integer,
                                sample_index=arguments.save_sample, slice_sample=arguments.slice_sample)
    print_result(evaluate_checkpoint(request))


def _summarise(arguments: argparse.Namespace, settings: dict[str, Any]) -> None:
    from ai8x.training.listing import SummaryRequest, summarise

    request = SummaryRequest(kind=arguments.summary, settings=settings,
                             file=_path(arguments.evaluate or arguments.weights),
                             target=Path(f"{arguments.summary_filename.removesuffix('.onnx')}.onnx"))
    for line in summarise(request):
        print(line)


def _list_names(arguments: argparse.Namespace) -> None:
    from ai8x.training.listing import dataset_lines, model_lines
    from ai8x.training.registry import discover

    settings = _given_settings(arguments)
    catalogue = discover(settings.get("models_path"), settings.get("datasets_path"))
    for line in [*(model_lines(catalogue) if arguments.list_models else ()),
                 *(dataset_lines(catalogue) if arguments.list_datasets else ())]:
        print(line)
    for problem in catalogue.problems:
        print(problem.format())


def print_result(result: dict[str, Any]) -> None:
    """The one JSON line that ends every run."""
    import json

    print(json.dumps(result), flush=True)


def _path(text: str | None) -> Path | None:
    return Path(text) if text is not None else None
