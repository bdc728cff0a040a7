"""Synthesis from a model instead of a network file: by its name, or as a module of a notebook.

Owns the way from a model and a checkpoint to a description and integer parameters. torch is loaded, as models are
torch's. Start at `synthesize` (the library's function `ai8x.synthesize`) and `prepare_model`.

Source: docs/design.md "One pass through everything".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ai8x.checkpoint import Checkpoint, arrays_from_tensors, read_checkpoint
from ai8x.errors import Diagnostic, Source, UserError, user_error
from ai8x.network.description import NetworkDescription
from ai8x.nn.base import Mode, model_mode, quantized_layers
from ai8x.nn.describe import describe_model
from ai8x.nn.fold import describe_layers
from ai8x.nn.loading import load_state
from ai8x.nn.qat import read_policy
from ai8x.nn.wrappers import unwrap_model
from ai8x.quantization import QuantizationOptions, quantize_checkpoint
from ai8x.synthesis import TARGETS, Announce, SynthesisOptions, SynthesisResult
from ai8x.synthesis import synthesize as run_synthesis
from ai8x.training.config import TrainConfig, resolve_config
from ai8x.training.data import DataSpec, LoaderArguments, Parts, TaskKind
from ai8x.training.evaluation import create_matching_model, stored_settings
from ai8x.training.registry import (
    Catalogue,
    ModelSpec,
    create_model,
    discover,
    find_dataset,
    find_model,
    resolve_bundled,
)

if TYPE_CHECKING:
    from torch import nn

_SEED = 0

State = Path | str | Checkpoint | Mapping[str, Any] | None
"""A checkpoint's file, a checkpoint, a ``state_dict``, or nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """Which model is meant.

    Args:
        name: as ``--model`` names it; of a module, the name of the architecture.
        dataset: name of the data set; empty takes that of the checkpoint's run.
        models_path, datasets_path: folders with further models and data sets.
        policy: QAT policy with the widths of a model without checkpoint; None for 8 bits everywhere.
        use_bias: a model without checkpoint has biases in all layers.
    """

    name: str = ""
    dataset: str = ""
    models_path: str | None = None
    datasets_path: str | None = None
    policy: Path | None = None
    use_bias: bool = False

    def settings(self) -> dict[str, Any]:
        """What was given, by the names of `TrainConfig`."""
        given = {"dataset": self.dataset or None, "models_path": self.models_path, "datasets_path": self.datasets_path,
                 "use_bias": self.use_bias or None}
        return {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedModel:
    """A model as synthesis takes it.

    Args:
        description: its layers.
        checkpoint: its integers.
        messages: what the user should know.
    """

    description: NetworkDescription
    checkpoint: Checkpoint
    messages: tuple[Diagnostic, ...] = ()

    def options(self, **further: Any) -> SynthesisOptions:
        """Options of a run for this model."""
        rounded = bool(further.pop("average_rounded", False)) or self.description.average_rounded
        return SynthesisOptions(network=self.description, checkpoint=self.checkpoint, average_rounded=rounded,
                                messages=self.messages, **further)


def synthesize(model: nn.Module | str | Path, checkpoint: State = None, *, out: Path | str,
               input_shape: tuple[int, ...] | None = None, announce: Announce = lambda line: None, **options: Any
               ) -> SynthesisResult:
    """Verified projects for both chips from a model; the library's form of ``synthesize.py``.

    Args:
        model: a module of layers of `ai8x.nn`, the name of a model that `train.py --list-models` shows, or the path of
            a network file.
        checkpoint: quantised parameters: a file, a `Checkpoint`, or a ``state_dict``. None where the module holds them
            itself, and for ``analyze=True`` with the name of a model.
        out: output folder.
        input_shape: (C, H, W) or (C, L); needed for a module where neither checkpoint nor sample tell it.
        announce: told about progress.
        options: ``name``, ``dataset``, ``models_path``, ``datasets_path``, ``policy``, ``use_bias`` of `ModelRequest`,
            and every field of `ai8x.synthesis.SynthesisOptions`, such as ``targets``, ``sample`` (file or array),
            ``verify``, ``analyze``.

    Returns:
        The finished run: report, verdicts and messages; the projects lie in `out`.

    Raises:
        UserError: the input is refused; nothing is written.
        TypeError: an option does not exist.
    """
    from torch import nn

    fields = {field.name for field in dataclasses.fields(ModelRequest)} - {"dataset"}
    request = ModelRequest(dataset=options.get("dataset", ""),
                           **{name: options.pop(name) for name in fields & options.keys()})
    further = {**options, "out": Path(out), "targets": _targets(options.get("targets", TARGETS))}
    if isinstance(further.get("sample"), str):
        further["sample"] = Path(further["sample"])
    if isinstance(model, nn.Module):
        shape = input_shape or _sample_shape(further.get("sample"))
        prepared = prepare_module(unwrap_model(model), _checkpoint(checkpoint), request, shape)
    elif isinstance(model, Path) or model.endswith((".yaml", ".yml")):
        stored = _checkpoint(checkpoint)
        if stored is None:
            raise _nothing_to_synthesise("a network file needs a checkpoint")
        return run_synthesis(SynthesisOptions(network=Path(model), checkpoint=stored, **further), announce)
    else:
        prepared = prepare_model(replace(request, name=model), _checkpoint(checkpoint),
                                 analyze=bool(options.get("analyze")))
    return run_synthesis(prepared.options(**further), announce)


def _targets(given: str | tuple[str, ...]) -> tuple[str, ...]:
    targets = (given,) if isinstance(given, str) else tuple(given)
    for target in targets:
        if target not in TARGETS:
            raise user_error("E0294", f"unknown target '{target}'", found=target, allowed=", ".join(TARGETS),
                             help=f"write targets={TARGETS!r}")
    return targets


def _sample_shape(sample: Any) -> tuple[int, ...] | None:
    return tuple(np.shape(sample)) if sample is not None and not isinstance(sample, Path) else None


def _checkpoint(given: State) -> Checkpoint | None:
    """A checkpoint from whatever holds one."""
    if given is None or isinstance(given, Checkpoint):
        return given
    if not isinstance(given, Mapping):
        return read_checkpoint(given)
    from torch import Tensor

    tensors = {str(name): value for name, value in given.items() if isinstance(value, Tensor)}
    arrays = {str(name): np.asarray(value) for name, value in given.items() if not isinstance(value, Tensor)}
    return Checkpoint(state={**arrays, **arrays_from_tensors(tensors)})


def _nothing_to_synthesise(message: str) -> UserError:
    return user_error("E0295", message, found="no checkpoint", allowed="a file that quantize.py wrote",
                      help="give the checkpoint, or ask for an analysis of a model by its name")


def prepare_model(request: ModelRequest, checkpoint: Checkpoint | None, *, analyze: bool = False) -> PreparedModel:
    """A model by its name.

    Args:
        request: which model.
        checkpoint: quantised; None for an analysis with the parameters of the untrained model.
        analyze: nothing but sizes is wanted, so that a checkpoint is not needed.

    Raises:
        UserError: E0293 where nothing tells the shape of its input, E0295 without checkpoint, E0557 for a checkpoint
            that is not quantised, E0558 for one of another model, E0603 and E0604 for unknown names, E0521 to E0526
            where parameters do not suit the model, E0720 and E0725 where it has parts that no chip layer computes.
    """
    stored = {} if checkpoint is None else stored_settings(checkpoint)
    config = resolve_config(stored, request.settings(), {"arch": request.name.lower()})
    catalogue = discover(config.models_path, config.datasets_path)
    spec = find_model(catalogue, request.name)  # first: a misspelt name is the likelier reason
    if checkpoint is None and not analyze:
        raise _nothing_to_synthesise(f"model '{request.name}' needs a checkpoint")
    if checkpoint is not None:
        _check_belongs(checkpoint, spec)
    data = _data(request.dataset or str(stored.get("dataset", "")), bool(request.dataset), catalogue, spec, checkpoint)
    messages: tuple[Diagnostic, ...] = ()
    if checkpoint is None:
        model, checkpoint = _untrained(request, spec, data, config)
        messages = (_untrained_notice(spec, request),)
    else:
        model = create_matching_model(spec, data, config, checkpoint)
        load_state(model, checkpoint.tensors())
        checkpoint = replace(checkpoint, input_shape=checkpoint.input_shape or data.input_shape)
    description = describe_model(model, data.input_shape, name=spec.name, dataset=data.name,
                                 origin=f"the model {spec.name}")
    return PreparedModel(description=description, checkpoint=checkpoint, messages=(*catalogue.problems, *messages))


def prepare_module(model: nn.Module, checkpoint: Checkpoint | None, request: ModelRequest,
                   input_shape: tuple[int, ...] | None) -> PreparedModel:
    """A model that is at hand; it is not changed.

    Args:
        model: of layers of `ai8x.nn`.
        checkpoint: quantised parameters; None where the model holds them.
        request: name of the architecture (default: the checkpoint's, else the class) and of the data set.
        input_shape: (C, H, W) or (C, L); None takes the checkpoint's.

    Raises:
        UserError: as `prepare_model`.
    """
    if checkpoint is None:
        if model_mode(model) is not Mode.INTEGER:
            raise user_error("E0557", "the model is not quantised", found=f"a model in {model_mode(model).value} mode",
                             allowed="integer parameters",
                             help="give ai8x.quantize_model(model, arch=..., batches=...).model")
        checkpoint = Checkpoint(state=arrays_from_tensors(model.state_dict()))
    _check_quantised(checkpoint)
    sample = None if checkpoint.sample is None else checkpoint.sample.shape
    shape = input_shape or checkpoint.input_shape or sample
    if shape is None:
        raise user_error("E0293", "nothing tells the shape of the model's input", found="neither input_shape nor a "
                         "sample", allowed="(C, H, W) or (C, L)", help="write input_shape=(3, 32, 32)")
    name = request.name or checkpoint.arch or type(model).__name__.lower()
    description = describe_model(model, tuple(shape), name=name, dataset=request.dataset or "none")
    return PreparedModel(description=description,
                         checkpoint=replace(checkpoint, arch=name, input_shape=tuple(shape)))


def quantize_command(file: str) -> str:
    """The command that quantises a checkpoint, ready to be copied."""
    stem = file.removesuffix(".tar").removesuffix(".pth").removesuffix(".safetensors")
    return f"python quantize.py {file} {stem}-q.pth.tar"


def _check_quantised(checkpoint: Checkpoint) -> None:
    if checkpoint.is_quantized:
        return
    source = Source(file=checkpoint.file) if checkpoint.file else None
    action = f"run {quantize_command(checkpoint.file)}, and give its output" if checkpoint.file else \
        "give ai8x.quantize_model(model, arch=..., batches=...).checkpoint"
    raise user_error("E0557", "the checkpoint is not quantised", source=source, found="float parameters",
                     allowed="integers, as quantize.py writes them", help=action)


def _check_belongs(checkpoint: Checkpoint, spec: ModelSpec) -> None:
    """A checkpoint that is quantised and of this model."""
    if checkpoint.arch and checkpoint.arch.lower() != spec.name:
        raise user_error("E0558", f"the checkpoint is of the model '{checkpoint.arch}'",
                         source=Source(file=checkpoint.file) if checkpoint.file else None, found=f"--model {spec.name}",
                         allowed=f"--model {checkpoint.arch.lower()}", help=f"write --model {checkpoint.arch.lower()}")
    _check_quantised(checkpoint)


def _data(name: str, is_given: bool, catalogue: Catalogue, spec: ModelSpec, checkpoint: Checkpoint | None) -> DataSpec:
    """Input shape and classes: the checkpoint's, else the data set's, else the usual ones of the model.

    Raises:
        UserError: E0293, nothing tells them; E0604, a data set that was asked for is not known.
    """
    known = find_dataset(catalogue, name) if is_given else catalogue.datasets.get(name)
    shape = known.input_shape if known else spec.input_shape
    labels = known.labels if known else tuple(str(number) for number in range(spec.num_classes - spec.detects))
    if checkpoint is not None:
        own = checkpoint.input_shape or (checkpoint.sample.shape if checkpoint.sample is not None else ())
        shape, labels = tuple(own) or shape, tuple(checkpoint.labels) or labels
    if not shape or not labels:
        raise user_error("E0293", f"nothing tells the shape of the input of model '{spec.name}'", found=spec.origin,
                         allowed="a checkpoint of train.py, or an entry with input and num_classes in the list models",
                         help="add --dataset NAME")
    if known is not None:
        return replace(known, input_shape=shape, labels=labels)
    kind = TaskKind.DETECTION if spec.detects else TaskKind.CLASSIFICATION
    return DataSpec(name=name or "none", input_shape=shape, labels=labels, loader=_no_items, kind=kind)


def _no_items(arguments: LoaderArguments) -> Parts:
    """The loader of a data set of which only the name is known."""
    del arguments
    raise user_error("E0297", "of the data set only the name is known", found="no loader",
                     allowed="a data set that train.py --list-datasets shows", help="write --dataset NAME")


def _untrained(request: ModelRequest, spec: ModelSpec, data: DataSpec, config: TrainConfig
               ) -> tuple[nn.Module, Checkpoint]:
    """The model as training would start with it, always the same, and its integers."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = create_model(spec, data, config)
    widths: Mapping[str, int] = {}
    if request.policy is not None:
        policy = read_policy(resolve_bundled(str(request.policy)))
        widths = {layer: policy.for_layer(layer).weight_bits or policy.weight_bits for layer in quantized_layers(model)}
    state = Checkpoint(state=arrays_from_tensors(model.state_dict()), arch=spec.name, input_shape=data.input_shape,
                       labels=data.labels, extras={"layers": describe_layers(model)})
    return model, quantize_checkpoint(state, QuantizationOptions(widths=widths))[0]


def _untrained_notice(spec: ModelSpec, request: ModelRequest) -> Diagnostic:
    widths = "8 bits" if request.policy is None else f"the widths of {request.policy.name}"
    return Diagnostic(
        code="W0469", level="notice", message=f"the weights are those of the untrained model, in {widths}",
        found=f"--model {spec.name} without checkpoint", allowed="an analysis",
        help="shapes, memory and cycles are right; train before you trust any output")
