"""Every setting of a training run, stated once: default, check, option and help text.

The command line, ``config.yaml`` of a run and ``--set`` are all derived from the fields of `TrainConfig`. No torch
here: ``train.py --help`` must be quick.

Source: spec/ai8x-training.md section 12; docs/design.md "Command lines".
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ai8x.compatibility import device_name
from ai8x.errors import Diagnostic, Diagnostics, Source, user_error

Check = Callable[[Any], bool]

CONFIG_FORMAT = 1
ACCURACY_PARTS = ("none", "last_batch", "full")
COMPILER_MODES = ("none", "default", "reduce-overhead", "max-autotune")
PRUNE_KINDS = ("channels", "magnitude")
OPTIMIZERS = ("adam", "adamw", "sgd")
DECAYS = ("cosine", "none")
NO_POLICY = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """How a field shows on the command line.

    Args:
        flags: option names; the first long one is the one that messages use.
        group: heading in the help text.
        help: one line; the default is appended.
        metavar: placeholder of the value.
        off_flags: names that set a truth value to False.
        advanced: listed by ``--help-all`` only.
        allowed: the rule in words.
        check: whether a value keeps the rule.
    """

    flags: tuple[str, ...]
    group: str
    help: str
    metavar: str | None = None
    off_flags: tuple[str, ...] = ()
    advanced: bool = False
    allowed: str = ""
    check: Check | None = None


def _is_name(value: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value) is not None


def _at_least(least: int) -> Check:
    return lambda value: value is None or value >= least


def _is_rate(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _is_share(value: float) -> bool:
    return 0 <= value < 1


def _is_weight(value: float) -> bool:
    return math.isfinite(value) and value >= 0


def _is_one_of(*words: str) -> Check:
    return lambda value: value in words


_NAME_RULE = "1 to 64 characters of A-Z, a-z, 0-9, _ and -"
_MODEL, _TRAINING, _QAT, _RUN, _MACHINE = "model and data", "training", "quantisation", "run folder", "machine"
_TASK, _TEACHER, _PRUNING = "kind of task", "knowledge distillation", "pruning"


def _option(default: Any, *flags: str, **parts: Any) -> Any:
    return field(default=default, metadata={"option": Option(flags=flags, **parts)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """The resolved settings of one run; plain types only, so that they fit into checkpoints and ``config.yaml``."""

    arch: str = _option("digitsnet", "-a", "--arch", "--model", group=_MODEL, metavar="NAME", help="model",
                        allowed=_NAME_RULE, check=_is_name)
    dataset: str = _option("digits", "--dataset", group=_MODEL, metavar="NAME", help="data set",
                           allowed=_NAME_RULE, check=_is_name)
    data: str = _option("data", "--data", group=_MODEL, metavar="DIR", help="folder of downloaded data sets")
    download: bool = _option(False, "--download", group=_MODEL, help="fetch a data set that is missing")
    use_bias: bool = _option(False, "--use-bias", group=_MODEL, help="give every layer a bias")
    models_path: str | None = _option(None, "--models-path", group=_MODEL, metavar="DIR",
                                      help="folder with further model files")
    datasets_path: str | None = _option(None, "--datasets-path", group=_MODEL, metavar="DIR",
                                        help="folder with further data-set files")
    validation_split: float = _option(0.1, "--validation-split", "--valid-size", "--vs", group=_MODEL, metavar="X",
                                      advanced=True, help="share for validation where the data set does not fix it",
                                      allowed="0 up to, but not including, 1", check=_is_share)
    truncate_testset: bool = _option(False, "--truncate-testset", group=_MODEL, advanced=True,
                                     help="keep only the first test item")
    workers: int = _option(4, "-j", "--workers", group=_MODEL, metavar="N", advanced=True,
                           help="loader processes; sets that lie in memory need none",
                           allowed="0 or more", check=_at_least(0))

    epochs: int = _option(60, "--epochs", group=_TRAINING, metavar="N", help="passes over the training data",
                          allowed="1 or more", check=_at_least(1))
    batch_size: int = _option(64, "-b", "--batch-size", group=_TRAINING, metavar="N", help="samples per step",
                              allowed="1 or more", check=_at_least(1))
    lr: float = _option(0.001, "--lr", "--learning-rate", group=_TRAINING, metavar="X", help="initial learning rate",
                        allowed="a number above 0", check=_is_rate)
    optimizer: str = _option("adam", "--optimizer", group=_TRAINING, metavar="NAME",
                             help="adam, adamw or sgd, in any case", allowed="adam, adamw, sgd",
                             check=lambda value: value.lower() in OPTIMIZERS)
    schedule: str | None = _option(None, "--schedule", "--compress", group=_TRAINING, metavar="FILE",
                                   help="learning-rate schedule file, instead of the decay")
    seed: int = _option(0, "--seed", group=_TRAINING, metavar="N", help="of weights, order and augmentation",
                        allowed="0 or more", check=_at_least(0))
    decay: str = _option("cosine", "--decay", group=_TRAINING, metavar="KIND", advanced=True,
                         help="cosine (down to a hundredth at the last epoch) or none", allowed="cosine, none",
                         check=lambda value: value in DECAYS)
    momentum: float = _option(0.9, "--momentum", group=_TRAINING, metavar="X", advanced=True, help="for sgd",
                              allowed="0 up to, but not including, 1", check=_is_share)
    weight_decay: float = _option(1e-4, "--weight-decay", "--wd", group=_TRAINING, metavar="X", advanced=True,
                                  help="pull of weights towards 0", allowed="0 or more",
                                  check=_is_weight)
    ema: float = _option(0.0, "--ema", group=_TRAINING, metavar="DECAY", advanced=True,
                         help="validate and keep a running mean of the weights, e.g. 0.99; 0 does without",
                         allowed="0 up to, but not including, 1", check=_is_share)
    show_train_accuracy: str = _option("full", "--show-train-accuracy", group=_TRAINING, metavar="WHEN", advanced=True,
                                       help="accuracy while training: none, last_batch (of the last two steps of "
                                            "an epoch) or full", allowed=", ".join(ACCURACY_PARTS),
                                       check=_is_one_of(*ACCURACY_PARTS))

    regression: bool = _option(False, "--regression", group=_TASK, advanced=True,
                               help="learn values, with the mean squared error")
    class_weights: str | None = _option(None, "--class-weights", group=_TASK, metavar="W,W,...", advanced=True,
                                        help="weight of every class in the loss, instead of the data set's")
    out_fold_ratio: int = _option(1, "-f", "--out-fold-ratio", group=_TASK, metavar="N", advanced=True,
                                  help="the model's output is folded by this", allowed="1 or more", check=_at_least(1))
    obj_detection: bool = _option(False, "--enable-obj-detection", "--obj-detection", group=_TASK, advanced=True,
                                  help="detect objects; sets with boxes do so anyway")
    obj_detection_params: str | None = _option(None, "--obj-detection-params", group=_TASK, metavar="FILE",
                                               advanced=True, help="YAML with multi_box_loss and nms")

    kd_teacher: str | None = _option(None, "--kd-teacher", group=_TEACHER, metavar="NAME", advanced=True,
                                     help="model of the teacher")
    kd_resume: str | None = _option(None, "--kd-resume", group=_TEACHER, metavar="FILE", advanced=True,
                                    help="checkpoint of the teacher")
    kd_temperature: float = _option(1.0, "--kd-temperature", "--kd-temp", group=_TEACHER, metavar="X", advanced=True,
                                    help="divides the scores", allowed="a number above 0", check=_is_rate)
    kd_distill_wt: float = _option(0.5, "--kd-distill-wt", "--kd-dw", group=_TEACHER, metavar="X", advanced=True,
                                   help="weight of the teacher's part", allowed="0 or more", check=_is_weight)
    kd_student_wt: float = _option(0.5, "--kd-student-wt", "--kd-sw", group=_TEACHER, metavar="X", advanced=True,
                                   help="weight of the data's part", allowed="0 or more", check=_is_weight)
    kd_teacher_wt: float = _option(0.0, "--kd-teacher-wt", "--kd-tw", group=_TEACHER, metavar="X", advanced=True,
                                   help="must be 0: the teacher does not learn", allowed="0",
                                   check=lambda value: value == 0)
    kd_start_epoch: int = _option(0, "--kd-start-epoch", group=_TEACHER, metavar="N", advanced=True,
                                  help="first epoch with the teacher", allowed="0 or more", check=_at_least(0))
    kd_relationbased: bool = _option(False, "--kd-relationbased", group=_TEACHER, advanced=True,
                                     help="learn the teacher's outputs by their mean squared error")

    prune: float = _option(0.0, "--prune", group=_PRUNING, metavar="SHARE", advanced=True,
                           help="take this share of every layer away, then train on", check=_is_share,
                           allowed="0 up to, but not including, 1")
    prune_kind: str = _option("channels", "--prune-kind", group=_PRUNING, metavar="KIND", advanced=True,
                              help="channels (the network becomes smaller) or magnitude (single weights become 0)",
                              allowed="channels, magnitude", check=_is_one_of(*PRUNE_KINDS))
    prune_epoch: int = _option(10, "--prune-epoch", group=_PRUNING, metavar="N", advanced=True,
                               help="epoch before which it happens", allowed="0 or more", check=_at_least(0))

    qat_start: int | None = _option(None, "--qat-start", group=_QAT, metavar="N",
                                    help="first epoch of quantisation-aware training, instead of the policy's",
                                    allowed="0 or more", check=_at_least(0))
    qat_policy: str = _option("policies/qat_policy.yaml", "--qat-policy", group=_QAT, metavar="FILE",
                              help="bit widths and start epoch; 'None' trains in float only")
    avg_pool_rounding: bool = _option(False, "--avg-pool-rounding", group=_QAT, advanced=True,
                                      help="average pooling rounds halves away from zero instead of truncating")
    device: str = _option("MAX78000", "--device", group=_QAT, metavar="NAME", advanced=True,
                          help="chip whose limits hold: MAX78000 or MAX78002")

    out_dir: str = _option("runs", "-o", "--out-dir", group=_RUN, metavar="DIR", help="where run folders are made")
    name: str | None = _option(None, "-n", "--name", group=_RUN, metavar="NAME",
                               help="prefix of the run folder and its checkpoints", allowed=_NAME_RULE,
                               check=lambda value: value is None or _is_name(value))
    confusion: bool = _option(False, "--confusion", group=_RUN, advanced=True, help="print the confusion matrix")
    tensorboard: bool = _option(True, "--tensorboard", "--enable-tensorboard", group=_RUN, advanced=True,
                                off_flags=("--no-tensorboard",), help="write TensorBoard files")
    print_freq: int = _option(10, "-p", "--print-freq", group=_RUN, metavar="N", advanced=True,
                              help="steps between lines", allowed="1 or more", check=_at_least(1))

    param_hist: bool = _option(False, "--param-hist", group=_RUN, advanced=True,
                               help="write histograms of the parameters for TensorBoard")
    embedding: bool = _option(False, "--embedding", group=_RUN, advanced=True,
                              help="write outputs of some test items for TensorBoard's projector")
    pr_curves: bool = _option(False, "--pr-curves", group=_RUN, advanced=True,
                              help="write precision-recall curves for TensorBoard")
    num_best_scores: int = _option(1, "--num-best-scores", group=_RUN, metavar="N", advanced=True,
                                   help="how many of the best epochs to list", allowed="1 or more", check=_at_least(1))
    copy_output_folder: str | None = _option(None, "--copy-output-folder", group=_RUN, metavar="DIR", advanced=True,
                                             help="copy the run folder into this one at the end")

    gpus: str | None = _option(None, "--gpus", group=_MACHINE, metavar="N", advanced=True,
                               help="number of the GPU to use; for several start with torchrun",
                               allowed="one number; several need torchrun",
                               check=lambda value: value is None or value.isdecimal())
    amp: bool = _option(False, "--amp", group=_MACHINE, advanced=True,
                        help="compute float epochs in bfloat16 where that is safe")
    compiler_mode: str = _option("none", "--compiler-mode", group=_MACHINE, metavar="MODE", advanced=True,
                                 help="torch.compile in float epochs: none, default, reduce-overhead or max-autotune",
                                 allowed=", ".join(COMPILER_MODES), check=_is_one_of(*COMPILER_MODES))
    compiler_backend: str = _option("inductor", "--compiler-backend", group=_MACHINE, metavar="NAME", advanced=True,
                                    help="backend of torch.compile")
    cpu: bool = _option(False, "--cpu", group=_MACHINE, advanced=True, help="do not use a GPU")
    deterministic: bool = _option(False, "--deterministic", "--det", group=_MACHINE, advanced=True,
                                  help="only algorithms that repeat exactly; slower on a GPU")

    def to_mapping(self) -> dict[str, Any]:
        """Field name -> plain value, with the format number."""
        return {"format": CONFIG_FORMAT, **dataclasses.asdict(self)}


def config_options() -> dict[str, Option]:
    """Field name -> its option, in order."""
    return {item.name: item.metadata["option"] for item in dataclasses.fields(TrainConfig)}


def field_types() -> dict[str, tuple[type, bool]]:
    """Field name -> (type of the value, whether None is allowed)."""
    types = {}
    for name, hint in typing.get_type_hints(TrainConfig).items():
        choices = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        types[name] = (choices[0], True) if choices else (hint, False)
    return types


def resolve_config(*layers: Mapping[str, Any]) -> TrainConfig:
    """Settings from several sources; a later one wins. Every value is checked.

    Args:
        layers: field name -> value of the right type, e.g. from a saved run, a file and the command line.

    Raises:
        UserError: E0601 for every value that breaks its rule, E0371 for an unknown chip.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        values.update(layer)
    config = TrainConfig(**values)
    findings = Diagnostics()
    for name, option in config_options().items():
        value = getattr(config, name)
        if option.check is not None and not option.check(value):
            flag = next(flag for flag in option.flags if flag.startswith("--"))
            findings.add(Diagnostic(code="E0601", message=f"{flag} cannot be {value!r}", found=repr(value),
                                    allowed=option.allowed, help=f"give {flag} a value that is {option.allowed}"))
    findings.raise_if_errors()
    device_name(config.device)
    return config


def parse_assignment(text: str) -> tuple[str, Any]:
    """``key=value`` of ``--set`` as field name and typed value.

    Raises:
        UserError: E0610 unknown key, E0611 a value of another type.
    """
    key, separator, value = text.partition("=")
    if not separator:
        raise user_error("E0611", "--set needs key=value", found=text, help="write for example --set lr=0.01")
    return key.strip(), convert_value(key.strip(), value.strip(), source=Source(file=f"--set {text}"))


def convert_value(key: str, value: object, *, source: Source) -> Any:
    """A value from a file or from ``--set`` in the type of its field.

    Args:
        key: field name.
        value: text, or a number, truth value or None as YAML gives them.
        source: place for the message.

    Raises:
        UserError: E0610 unknown key, E0611 a value of another type.
    """
    types = field_types()
    if key not in types:
        near = difflib.get_close_matches(key, types, n=1)
        advice = f"did you mean '{near[0]}'?" if near else f"known settings: {', '.join(types)}"
        raise user_error("E0610", f"unknown setting '{key}'", source=source, found=key, help=advice)
    kind, optional = types[key]
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null", "")):
        if optional:
            return None
        if kind is str and isinstance(value, str):
            return value
        raise _wrong_type(key, value, kind, source)
    try:
        return _coerce(value, kind)
    except ValueError as error:
        raise _wrong_type(key, value, kind, source) from error


def _coerce(value: object, kind: type) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        words = {"true": True, "false": False}
        if str(value).lower() in words:
            return words[str(value).lower()]
        raise ValueError(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(value)
    if kind is int and isinstance(value, float):
        raise ValueError(value)
    return kind(value)


def _wrong_type(key: str, value: object, kind: type, source: Source) -> Exception:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return user_error("E0611", f"setting '{key}' needs {words[kind]}", source=source, found=repr(value),
                      allowed=words[kind], help=f"write {key}: {TrainConfig.__dataclass_fields__[key].default}")
