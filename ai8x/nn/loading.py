"""Loading a state of any generation into a model, and letting the state decide how the model computes.

Owns the defaults of older files and the messages for what does not fit. The policy file is not needed: the
generation, whether BatchNorm is folded and whether parameters are quantised are read off the keys.

Source: spec/ai8x-training.md sections 4, 6 and 7.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ai8x.errors import Diagnostic, UserError
from ai8x.nn.arguments import Scheme
from ai8x.nn.base import ElementwiseModule, Mode, QuantizationAwareModule, quantized_layers, use_scheme
from ai8x.nn.qat import unwrap_model

_ENTRY_DEFAULTS: Mapping[str, float] = {"output_shift": 0.0, "weight_bits": 0, "bias_bits": 0,
                                        "quantize_activation": 0, "adjust_output_shift": 0, "shift_quantile": 1.0}
_SECOND_DEFAULTS: Mapping[str, float] = {"activation_threshold": 0.0, "final_scale": 0.0, "clamp_activation": 0}
_OLD_OPERATIONS = ("conv2d", "linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedState:
    """What loading found.

    Args:
        mode: how the model computes now.
        folded: layers whose BatchNorm the state had folded already.
        scheme: generation of the state, which the model follows now.
    """

    mode: Mode
    folded: tuple[str, ...]
    scheme: Scheme = Scheme.V1


def _layer_entries(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Entries of one layer without its name; operations of the files of 2020 get today's name."""
    entries = {}
    for key, value in state.items():
        if key.startswith(f"{name}."):
            first, _, rest = key.removeprefix(f"{name}.").partition(".")
            entries[f"op.{rest}" if first in _OLD_OPERATIONS else f"{first}.{rest}" if rest else first] = value
    return entries


def _is_integer(entries: Mapping[str, Tensor]) -> bool:
    """Whether a layer without flags holds integers: the files of 2020 do not say."""
    weight = entries["op.weight"]
    return bool((weight == weight.round()).all()) and float(weight.abs().max()) > 1


def _complete(layer: QuantizationAwareModule, entries: dict[str, Tensor], scheme: Scheme) -> dict[str, Tensor]:
    """Entries of one layer with the defaults of older files filled in."""
    completed = dict(entries)
    if scheme is Scheme.V2:
        for name, default in _SECOND_DEFAULTS.items():
            completed.setdefault(name, torch.tensor([default]))
    if "quantize_activation" not in entries and "op.weight" in entries and _is_integer(entries):
        completed["quantize_activation"] = torch.tensor([True])
    for name, default in _ENTRY_DEFAULTS.items():
        completed.setdefault(name, torch.full_like(getattr(layer, name), default))
    return completed


def _shape(value: Tensor) -> str:
    return "x".join(str(v) for v in value.shape)


def _layer_of(key: str) -> str:
    path = key.split(".")
    return ".".join(path[:-2] if len(path) > 2 and path[-2] in ("op", "bn") else path[:-1])


_OPTIONS_HELP = "build the model with the options it was trained with, for example --use-bias"
_MODEL_HELP = "check the model name and the numbers of classes and channels"


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[Diagnostic]:
    """One finding for every layer or entry that only one side has, or that has another shape."""
    findings = []
    layers = {_layer_of(key) for key in expected}, {_layer_of(key) for key in found}
    for key in sorted(expected.keys() ^ found.keys()):
        layer, in_model = _layer_of(key), key in expected
        mine, theirs = layers if in_model else layers[::-1]
        if layer not in theirs:
            near = difflib.get_close_matches(layer, sorted(theirs - mine), n=1, cutoff=0.5)
            message = (f"layer '{layer}' of the model is not in the checkpoint" if in_model else
                       f"layer '{layer}' of the checkpoint is not in the model")
            finding = Diagnostic(code="E0521" if in_model else "E0522", message=message, layer=layer, found=layer,
                                 allowed=f"perhaps '{near[0]}'" if near else "the layers of the model",
                                 help=_MODEL_HELP)
        else:
            message = f"{key} is {'not in the checkpoint' if in_model else 'in the checkpoint, but not in the model'}"
            finding = Diagnostic(code="E0523" if in_model else "E0524", message=message, layer=layer, found=key,
                                 allowed="the same entries on both sides", help=_OPTIONS_HELP)
        if finding not in findings:
            findings.append(finding)
    for key in sorted(expected.keys() & found.keys()):
        if expected[key].shape != found[key].shape:
            findings.append(Diagnostic(code="E0525", message=f"{key} has another shape in the checkpoint",
                                       layer=_layer_of(key), found=_shape(found[key]), allowed=_shape(expected[key]),
                                       help=_MODEL_HELP))
    return findings


def _mode_of(layers: Mapping[str, QuantizationAwareModule], state: Mapping[str, Tensor]) -> Mode:
    """The mode that the entries of the weighted layers ask for; integer files may leave pooling layers unmarked."""
    modes = set()
    for name, layer in layers.items():
        if layer.op is not None:
            quantized = bool(state[f"{name}.quantize_activation"])
            adjusted = bool(state[f"{name}.adjust_output_shift"])
            modes.add(Mode.FLOAT if not quantized else Mode.QAT if adjusted else Mode.INTEGER)
    if len(modes) > 1:
        raise UserError(Diagnostic(code="E0526", message="the checkpoint mixes quantised and float layers",
                                   found=", ".join(sorted(m.value for m in modes)), allowed="one kind",
                                   help="run quantize.py on the checkpoint from training again"))
    return next(iter(modes), Mode.FLOAT)


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> LoadedState:
    """Load a state of any generation; afterwards the model computes as the state says.

    A BatchNorm of the model for which the state has no entries is removed: the state was folded. Missing entries of
    older files take their defaults. The model follows the generation of the state. Either everything is loaded or
    nothing; only the generation may have changed after an error.

    Args:
        model: possibly inside compiled or parallel wrappers.
        state: normalised keys (see `ai8x.checkpoint.read_checkpoint`).

    Raises:
        UserError: E0521 to E0526, all findings together.
    """
    inner = unwrap_model(model)
    layers = quantized_layers(inner)
    scheme = state_scheme(state)
    use_scheme(inner, scheme)
    expected = inner.state_dict()
    converted = _converted(inner, state, scheme)
    for key, value in converted.items():
        if key in expected and expected[key].numel() == value.numel() == 1:
            converted[key] = value.reshape(expected[key].shape)
    folded = tuple(n for n, layer in layers.items() if layer.bn is not None and f"{n}.bn.running_mean" not in converted)
    for name in folded:
        expected = {key: value for key, value in expected.items() if not key.startswith(f"{name}.bn.")}
    if findings := _differences(expected, converted):
        raise UserError(findings)
    mode = _mode_of(layers, converted)
    for name, layer in layers.items():
        layer.bn = None if name in folded else layer.bn
        layer.mode = mode
    for module in inner.modules():
        if isinstance(module, ElementwiseModule):
            module.set_mode(mode)
    inner.load_state_dict(converted)
    return LoadedState(mode=mode, folded=folded, scheme=scheme)


def state_scheme(state: Mapping[str, Tensor]) -> Scheme:
    """The generation that wrote a state, by its entries."""
    return Scheme.V2 if any(key.rpartition(".")[2] in _SECOND_DEFAULTS for key in state) else Scheme.V1


def _converted(model: nn.Module, state: Mapping[str, Tensor], scheme: Scheme) -> dict[str, Tensor]:
    """The state with today's names and with the defaults of missing entries."""
    layers = quantized_layers(model)
    combining = {name: m for name, m in model.named_modules() if isinstance(m, ElementwiseModule)}
    owned = tuple(f"{name}." for name in (*layers, *combining))
    converted = {key: value for key, value in state.items() if not key.startswith(owned)}
    for name, layer in layers.items():
        converted |= {f"{name}.{entry}": value
                      for entry, value in _complete(layer, _layer_entries(state, name), scheme).items()}
    for name, module in combining.items():
        entries = {key: value for key, value in state.items() if key.startswith(f"{name}.")}
        if scheme is Scheme.V2 and module.scheme is Scheme.V2:
            entries.setdefault(f"{name}.activation_threshold", torch.tensor(0.0))
        converted |= entries
    return converted
