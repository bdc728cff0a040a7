"""Finds models and data sets by name: the bundled ones and plug-in folders in the conventions of ai8x-training.

A plug-in is a Python file with a list ``models`` or ``datasets`` at its end. A file that fails to import is left out
and reported; the others still work. Start at `find_model` and `find_dataset`.

Source: spec/ai8x-training.md section 11.
"""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ai8x.compatibility import reset_device, set_device
from ai8x.errors import Diagnostic, Source, UserError, user_error
from ai8x.files import bundled_root
from ai8x.nn.base import OutputScale, set_output_scale
from ai8x.training.cats_dogs import CATS_VS_DOGS
from ai8x.training.config import TrainConfig
from ai8x.training.data import DataSpec, TaskKind
from ai8x.training.detection import no_detector
from ai8x.training.digits import DIGITS
from ai8x.training.fake_data import FAKE_DATA
from ai8x.training.keywords import KWS_20
from ai8x.training.loader import PluginLoader
from ai8x.training.segmentation_sets import SEGMENTATION_SETS
from ai8x.training.svhn import SVHN_74
from ai8x.training.torchvision_sets import TORCHVISION_SETS

_LISTS = {"model": "--list-models", "data set": "--list-datasets"}

_EMBEDDING_DIM = 3
"""``dim`` of models that make embeddings; they take images."""

BUNDLED_ROOT = bundled_root()
"""The folder that holds `models` and `policies`: the repository, or where pip installed them."""


BUNDLED_SETS = (DIGITS, *TORCHVISION_SETS, KWS_20, CATS_VS_DOGS, *SEGMENTATION_SETS, SVHN_74, FAKE_DATA)
"""The data sets that need no plug-in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One entry of a ``models`` list.

    Args:
        name: as ``--model`` names it, lower case.
        min_input: least width; narrower 2-D data is padded by the first layer.
        dim: 1 for sequences, 2 for images.
        factory: makes the model from keyword arguments.
        origin: the file it was found in.
        input_shape: usual input, (C, H, W) or (C, L); () where the file does not say.
        num_classes: usual number of outputs; 0 where the file does not say.
        detects: finds objects; its factory takes ``device``.
    """

    name: str
    min_input: int
    dim: int
    factory: Callable[..., nn.Module]
    origin: str
    input_shape: tuple[int, ...] = ()
    num_classes: int = 0
    detects: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What was found in all folders, and which files could not be read."""

    models: Mapping[str, ModelSpec]
    datasets: Mapping[str, DataSpec]
    problems: tuple[Diagnostic, ...]


def discover(models_path: str | None = None, datasets_path: str | None = None) -> Catalogue:
    """Everything that can be named: bundled models and data sets, then the plug-in folders, which win.

    Args:
        models_path: folder with further model files.
        datasets_path: folder with further data-set files.

    Raises:
        UserError: E0602 where a folder does not exist.
    """
    problems: list[Diagnostic] = []
    models: dict[str, ModelSpec] = {}
    datasets = {spec.name: spec for spec in BUNDLED_SETS}
    for folder in (BUNDLED_ROOT / "models", *_plugin_folder(models_path, "--models-path")):
        for module in _load_folder(folder, problems):
            models.update((spec.name, spec) for spec in _model_specs(module, problems))
    for folder in _plugin_folder(datasets_path, "--datasets-path"):
        for module in _load_folder(folder, problems):
            datasets.update((spec.name, spec) for spec in _data_specs(module, problems))
    return Catalogue(models=models, datasets=datasets, problems=tuple(problems))


def find_model(catalogue: Catalogue, name: str) -> ModelSpec:
    """The model of a name, in any case.

    Raises:
        UserError: E0603, with the nearest name.
    """
    spec = catalogue.models.get(name.lower())
    if spec is None:
        raise _unknown("E0603", "model", name, catalogue.models, catalogue.problems)
    return spec


def find_dataset(catalogue: Catalogue, name: str) -> DataSpec:
    """The data set of a name; case matters, as ai8x-training has it.

    Raises:
        UserError: E0604, with the nearest name.
    """
    spec = catalogue.datasets.get(name)
    if spec is None:
        raise _unknown("E0604", "data set", name, catalogue.datasets, catalogue.problems)
    return spec


def create_model(spec: ModelSpec, data: DataSpec, config: TrainConfig) -> nn.Module:
    """A model in float mode for a data set; the keyword arguments are those of ai8x-training.

    The limits of the configured chip are checked while its layers are made. Wide outputs are put on the scale of
    float training, so that the loss does not jump when quantisation starts.

    Raises:
        UserError: E0605 where the data has another number of dimensions than the model takes, E0631 where the data
            asks for a detector and the model is none.
    """
    shape = data.input_shape
    dim = len(shape) - 1
    if spec.dim not in (dim, _EMBEDDING_DIM):
        raise user_error("E0605", f"model '{spec.name}' takes {spec.dim}-D data, data set '{data.name}' is {dim}-D",
                         found=f"input shape {shape}", allowed=f"{spec.dim + 1} numbers",
                         help="choose a model for this data with --model NAME (--list-models shows all)")
    arguments: dict[str, Any] = {"bias": config.use_bias}
    if dim == 2 and shape[2] < spec.min_input:
        arguments["padding"] = (spec.min_input - shape[2] + 1) // 2
    if data.kind is not TaskKind.DETECTION:
        return build_model(spec, shape, data.num_classes, config, **arguments)
    try:  # detectors take the place of their default boxes; other models hand it on to their layers
        return build_model(spec, shape, data.num_classes, config, **arguments, device="cpu")
    except UserError as error:
        if error.diagnostics[0].code != "E0371":
            raise
        raise no_detector(spec.name) from error


def build_model(spec: ModelSpec, shape: tuple[int, ...], num_classes: int, config: TrainConfig, **further: Any
                ) -> nn.Module:
    """A model in float mode for an input shape; ``further`` goes to its factory.

    Raises:
        UserError: E0605 where the model refuses the shape (its factory raises ValueError).
    """
    dimensions = (shape[1], 1) if len(shape) == 2 else (shape[1], shape[2])
    arguments: dict[str, Any] = {
        "pretrained": False, "num_classes": num_classes, "num_channels": shape[0], "dimensions": dimensions,
        "weight_bits": None, "bias_bits": None, "quantize_activation": False, **further,
    }
    set_device(config.device, simulate=False, round_avg=config.avg_pool_rounding)
    try:
        model = spec.factory(**arguments)
    except ValueError as error:
        raise user_error("E0605", f"model '{spec.name}' does not take this data: {error}",
                         found=f"input shape {shape}, {num_classes} classes",
                         help="choose other data with --dataset NAME, or another model with --model NAME") from error
    finally:
        reset_device()
    set_output_scale(model, OutputScale.REAL)
    return model


def resolve_bundled(path: str) -> Path:
    """A file as typed, or, where that does not exist, the bundled one of the same relative name."""
    typed = Path(path)
    if not typed.exists() and not typed.is_absolute() and (BUNDLED_ROOT / typed).is_file():
        return BUNDLED_ROOT / typed
    return typed


def _plugin_folder(path: str | None, option: str) -> tuple[Path, ...]:
    if path is None:
        return ()
    if not Path(path).is_dir():
        raise user_error("E0602", f"the plug-in folder of {option} does not exist", source=Source(file=path),
                         help=f"give {option} a folder with Python files")
    return (Path(path),)


def _load_folder(folder: Path, problems: list[Diagnostic]) -> Iterable[ModuleType]:
    if folder.is_dir():
        for path in sorted(folder.glob("*.py")):
            module = _load_file(path, problems)
            if module is not None:
                yield module


def _load_file(path: Path, problems: list[Diagnostic]) -> ModuleType | None:
    spec = importlib.util.spec_from_file_location(f"ai8x_plugin_{path.parent.name}_{path.stem}", path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look modules up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001  a plug-in is foreign code: one broken file must not stop the others
        del sys.modules[spec.name]
        problems.append(Diagnostic(code="E0606", level="warning", message="the plug-in file was left out",
                                   source=Source(file=str(path)), found=f"{type(error).__name__}: {error}",
                                   help="repair the file, or move it out of the folder"))
        return None
    return module


def _entries(module: ModuleType, key: str, problems: list[Diagnostic]) -> Iterable[dict[str, Any]]:
    for entry in getattr(module, key, ()):
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            yield entry
        else:
            problems.append(_bad_entry(module, key, f"{entry!r:.80}", "a dictionary with a name"))


def _bad_entry(module: ModuleType, key: str, found: str, allowed: str) -> Diagnostic:
    return Diagnostic(code="E0607", level="warning", message=f"an entry of the list '{key}' was left out",
                      source=Source(file=str(module.__file__)), found=found, allowed=allowed,
                      help="see the manual, 'own models and data sets'")


def _model_specs(module: ModuleType, problems: list[Diagnostic]) -> Iterable[ModelSpec]:
    for entry in _entries(module, "models", problems):
        factory = getattr(module, entry["name"], None)
        if not callable(factory):
            problems.append(_bad_entry(module, "models", entry["name"], "the name of a function in the same file"))
            continue
        yield ModelSpec(name=entry["name"].lower(), min_input=int(entry.get("min_input", 1)),
                        dim=int(entry.get("dim", 2)), factory=factory, origin=str(module.__file__),
                        input_shape=tuple(entry.get("input", ())), num_classes=int(entry.get("num_classes", 0)),
                        detects=bool(entry.get("detection", False)))


def _data_specs(module: ModuleType, problems: list[Diagnostic]) -> Iterable[DataSpec]:
    for entry in _entries(module, "datasets", problems):
        missing = [key for key in ("input", "output", "loader") if key not in entry]
        if missing or not len(entry["output"]):
            found = f"{entry['name']}: missing {missing or 'names in output'}"
            problems.append(_bad_entry(module, "datasets", found, "entries input, output and loader"))
            continue
        kind = _kind_of(entry)
        yield DataSpec(name=entry["name"], input_shape=tuple(entry["input"]), kind=kind,
                       labels=tuple(str(label) for label in entry["output"]),
                       loader=PluginLoader(entry["name"], entry["loader"], kind, entry.get("collate")),
                       class_weights=tuple(entry["weight"]) if entry.get("weight") is not None else None,
                       origin=str(module.__file__))


def _kind_of(entry: Mapping[str, Any]) -> TaskKind:
    """What a set teaches: values if it says so or has one output, objects if it brings a collate function."""
    if entry.get("regression") or len(entry["output"]) == 1:
        return TaskKind.REGRESSION
    return TaskKind.DETECTION if entry.get("collate") else TaskKind.CLASSIFICATION


def _unknown(code: str, what: str, name: str, known: Mapping[str, object],
             problems: tuple[Diagnostic, ...]) -> UserError:
    other_case = [key for key in known if key.lower() == name.lower()]
    near = other_case or difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    advice = f"did you mean '{near[0]}'?" if near else f"use one of the names that {_LISTS[what]} prints"
    error = Diagnostic(code=code, message=f"unknown {what} '{name}'", found=name, allowed=", ".join(sorted(known)),
                       help=advice)
    return UserError((error, *problems))
