"""Loading a state of any generation into a model, and letting the state decide how the model computes.

Owns the conversion of second-generation entries and the messages for what does not fit. The policy file is not
needed: whether BatchNorm is folded and whether parameters are quantised is read off the keys.

Source: spec/ai8x-training.md sections 4, 6 and 7.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ai8x.errors import Diagnostic, UserError
from ai8x.nn.base import BATCHNORM_DIVISOR, ElementwiseModule, Mode, QuantizationAwareModule, quantized_layers
from ai8x.nn.qat import unwrap_model

_ENTRY_DEFAULTS: Mapping[str, float] = {"output_shift": 0.0, "weight_bits": 0, "bias_bits": 0,
                                        "quantize_activation": 0, "adjust_output_shift": 0, "shift_quantile": 1.0}
_SECOND_GENERATION = ("activation_threshold", "final_scale", "clamp_activation")
_OLD_OPERATIONS = ("conv2d", "linear")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedState:
    """What loading found.

    Args:
        mode: how the model computes now.
        folded: layers whose BatchNorm the state had folded already.
        output_factor: power of two by which the outputs of a second-generation file must still be multiplied.
    """

    mode: Mode
    folded: tuple[str, ...]
    output_factor: float = 1.0


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


def _first_generation(entries: dict[str, Tensor], *, wide: bool) -> tuple[dict[str, Tensor], float]:
    """Entries of one layer without those of the second generation, and the factor that its output still needs."""
    entries = dict(entries)
    special = {name: float(entries.pop(name)) for name in _SECOND_GENERATION if name in entries}
    if not special:
        return entries, 1.0
    if "bn.running_mean" in entries:
        # The second generation does not divide by 4 after BatchNorm: scale what it multiplies and adds.
        channels = entries["bn.running_mean"]
        entries["bn.weight"] = entries.get("bn.weight", torch.ones_like(channels)) * BATCHNORM_DIVISOR
        entries["bn.bias"] = entries.get("bn.bias", torch.zeros_like(channels)) * BATCHNORM_DIVISOR
    threshold = special.get("activation_threshold", 0.0)
    is_qat = bool(entries.get("adjust_output_shift", torch.zeros(1)))
    if is_qat and threshold and not wide:
        # Parameters times 2**-t have a shift smaller by t and the same integers: the effective shift s - t.
        for name in ("op.weight", "op.bias"):
            if name in entries:
                entries[name] = entries[name] * 2.0**-threshold
    return entries, 2.0 ** special.get("final_scale", 0.0)


def _complete(layer: QuantizationAwareModule, entries: dict[str, Tensor]) -> dict[str, Tensor]:
    """Entries of one layer with the defaults of older files filled in."""
    completed = dict(entries)
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
    older files take their defaults. Second-generation entries are converted. Either everything is loaded or nothing.

    Args:
        model: possibly inside compiled or parallel wrappers.
        state: normalised keys (see `ai8x.checkpoint.read_checkpoint`).

    Raises:
        UserError: E0521 to E0526, all findings together.
    """
    inner = unwrap_model(model)
    layers = quantized_layers(inner)
    expected = inner.state_dict()
    owned = tuple(f"{name}." for name in layers)
    converted = {key: value for key, value in state.items()
                 if not key.startswith(owned) and key.rpartition(".")[2] not in _SECOND_GENERATION}
    factor = 1.0
    for name, layer in layers.items():
        entries, layer_factor = _first_generation(_layer_entries(state, name), wide=layer.wide)
        factor = max(factor, layer_factor)
        for entry, value in _complete(layer, entries).items():
            key = f"{name}.{entry}"
            fits = key in expected and expected[key].numel() == value.numel() == 1
            converted[key] = value.reshape(expected[key].shape) if fits else value
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
    return LoadedState(mode=mode, folded=folded, output_factor=factor)
