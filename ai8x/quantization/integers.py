"""Integers from the parameters of a checkpoint, without data.

Owns widths, shifts, clip methods and the form of a quantised state. The rounding rule is the one of training
(`ai8x.nn.functional`), so that quantised files compute exactly what quantisation-aware training computed. Start at
`quantize_checkpoint` and `quantize_state`.

Source: spec/ai8x-training.md section 9.
"""

from __future__ import annotations

import difflib
import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ai8x.arithmetic import BIAS_SHIFT, INT8
from ai8x.checkpoint import Checkpoint, arrays_from_tensors
from ai8x.errors import Diagnostic, Source, UserError, user_error
from ai8x.network.operators import entry_op, has_own_weights
from ai8x.network.pairing import pair_names
from ai8x.network.yaml_file import NetworkFile
from ai8x.nn import functional as AF
from ai8x.nn.fold import BATCHNORM_GAIN, BatchNormStatistics, fold_parameters
from ai8x.nn.statistics import ThresholdMethod, choose_threshold, histogram_of

DEFAULT_BITS = 8
DEFAULT_SCALE = 0.85
DEFAULT_STDDEV = 2.0
DEFAULT_EPS = 1e-5

_OLD_OPERATIONS = ("conv2d", "linear")
_DROPPED_ENTRIES = ("base_b_q", "w_zero_point", "b_zero_point")
_RESUME_ONLY = ("optimizer_state_dict", "optimizer_type", "compression_sched", "schedule", "meter", "random", "step")


class ClipMethod(enum.Enum):
    """How the limit that a layer's shift must represent is found; the values are option and file names.

    MAX_BIT_SHIFT: quantile of all parameters, as in training. The others look at weights alone and saturate what lies
    beyond; biases saturate at the same limit. MSE and KL compare histograms of the weights with what is left of them
    at the layer's width (`ai8x.nn.statistics.ThresholdMethod`).
    """

    MAX_BIT_SHIFT = "MAX_BIT_SHIFT"
    MAX = "MAX"
    AVGMAX = "AVGMAX"
    STDDEV = "STDDEV"
    SCALE = "SCALE"
    MSE = "MSE"
    KL = "KL"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerHint:
    """What a network file knows of one layer.

    Args:
        name: as the file calls it; may be empty.
        weight_bits: key ``quantization``, or None.
        transposed: the layer is a transposed convolution.
        source: place of the entry.
    """

    name: str = ""
    weight_bits: int | None = None
    transposed: bool = False
    source: Source | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationOptions:
    """How to quantise.

    Args:
        clip_method: how limits are found.
        widths: layer -> width, where something else than the files decides.
        qat_weight_bits: width of layers that neither the network file nor the state gives one.
        scale: limit of `ClipMethod.SCALE`.
        stddev: standard deviations around the mean that `ClipMethod.STDDEV` represents.
        hints: one for each weighted layer in order, or empty.
        eps: of BatchNorm layers for which `described` has none.
        described: layer -> ``transposed`` and ``batchnorm_eps``, as `ai8x.nn.fold.describe_layers` gives them.
    """

    clip_method: ClipMethod = ClipMethod.MAX_BIT_SHIFT
    widths: Mapping[str, int] = field(default_factory=dict)
    qat_weight_bits: int | None = None
    scale: float = DEFAULT_SCALE
    stddev: float = DEFAULT_STDDEV
    hints: tuple[LayerHint, ...] = ()
    eps: float = DEFAULT_EPS
    described: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerQuantization:
    """What became of one layer.

    Args:
        name: path of the layer.
        weight_bits: width.
        output_shift: stored shift; positive = left.
        limit: greatest magnitude asked to be represented.
        parameters: weights and biases.
        saturated: how many of them were clamped.
        folded: a BatchNorm was folded into the layer.
        notice: what the user should check; may be empty.
    """

    name: str
    weight_bits: int
    output_shift: int
    limit: float
    parameters: int
    saturated: int
    folded: bool
    notice: str = ""


@dataclass(slots=True, kw_only=True)
class _Layer:
    """Entries of one weighted layer while it is worked on."""

    name: str
    operation: str
    entries: dict[str, Tensor] = field(default_factory=dict)
    bn: dict[str, Tensor] = field(default_factory=dict)
    hint: LayerHint = LayerHint()
    notice: str = ""

    @property
    def is_second_generation(self) -> bool:
        return "activation_threshold" in self.entries

    def entry(self, name: str, default: float) -> float:
        value = self.entries.get(name)
        return default if value is None else float(value.reshape(-1)[0])


def read_hints(file: NetworkFile) -> tuple[LayerHint, ...]:
    """Widths and kinds of the weighted layers of a network file, in order."""
    return tuple(LayerHint(name=entry.name or "", weight_bits=entry.quantization, source=entry.source,
                           transposed=entry_op(entry).value == "ConvTranspose2d")
                 for entry in file.layers if has_own_weights(entry))


def _collect_layers(state: Mapping[str, Tensor]) -> dict[str, _Layer]:
    """Weighted layers in the order of the file.

    Raises:
        UserError: E0530 for layers outside the vendor's scheme ``<layer>.<operation>.weight``.
    """
    norms = {key.removesuffix(".running_mean") for key in state if key.endswith(".running_mean")}
    layers: dict[str, _Layer] = {}
    findings: list[Diagnostic] = []
    for key in state:
        path = key.rsplit(".", 2)
        if path[-1] != "weight" or key.removesuffix(".weight") in norms:
            continue
        if len(path) == 3 and path[1] in ("op", *_OLD_OPERATIONS):
            layers[path[0]] = _Layer(name=path[0], operation=path[1])
        else:
            name = key.removesuffix(".weight")
            findings.append(Diagnostic(code="E0530", message=f"layer '{name}' is not a quantisation-aware layer",
                                       layer=name, found=key, allowed="keys of the form <layer>.op.weight",
                                       help="build the model with the layers of ai8x, for example ai8x.Linear instead "
                                       "of torch.nn.Linear"))
    for norm in norms:
        if not (norm.endswith(".bn") and norm.removesuffix(".bn") in layers):
            findings.append(Diagnostic(code="E0531", message=f"'{norm}' is a BatchNorm outside a fused layer",
                                       layer=norm, found=f"{norm}.running_mean", allowed="BatchNorm as part of a layer",
                                       help="use a class such as ai8x.FusedConv2dBNReLU, which can be folded"))
    if findings:
        raise UserError(findings)
    if not layers:
        raise user_error("E0532", "the checkpoint has no layer with weights", found=", ".join(list(state)[:5]),
                         allowed="keys of the form <layer>.op.weight", help="give the file that training wrote")
    return layers


def _assign_entries(state: Mapping[str, Tensor], layers: Mapping[str, _Layer]) -> dict[str, Tensor]:
    """Give every layer its entries; what belongs to none is returned."""
    rest: dict[str, Tensor] = {}
    for key, value in state.items():
        owner, _, entry = key.rpartition(".")
        part = owner.rpartition(".")
        if owner in layers:
            layers[owner].entries[entry] = value
        elif part[0] in layers and part[2] == layers[part[0]].operation:
            layers[part[0]].entries[f"op.{entry}"] = value
        elif part[0] in layers and part[2] == "bn":
            layers[part[0]].bn[entry] = value
        else:
            rest[key] = value
    return rest


def _assign_hints(layers: Mapping[str, _Layer], hints: tuple[LayerHint, ...]) -> None:
    """Give every layer what the network file says of it: by name where names agree, else by order.

    Raises:
        UserError: E0533 where names do not agree and the numbers of layers differ.
    """
    if not hints:
        return
    by_name = pair_names([hint.name or None for hint in hints], list(layers))
    if by_name is None and len(hints) != len(layers):
        extra = list(layers)[len(hints):] or [hint.name for hint in hints[len(layers):]]
        raise user_error("E0533", f"the network file has {len(hints)} layers with weights, the checkpoint "
                         f"{len(layers)}", source=hints[-1].source, found=f"first without a partner: '{extra[0]}'",
                         allowed="the layers of the checkpoint in their order",
                         help="use the network file of this architecture")
    ordered = list(layers.values())
    for number, hint in enumerate(hints):
        ordered[number if by_name is None else by_name[number]].hint = hint


def _is_transposed(layer: _Layer, options: QuantizationOptions, channels: int) -> bool:
    """Whether dimension 1 of the weight counts the outputs: as told, else by the shapes."""
    if layer.name in options.described:
        return bool(options.described[layer.name].get("transposed", False))
    if layer.hint.source is not None:
        return layer.hint.transposed
    shape = layer.entries["op.weight"].shape
    if len(shape) == 4 and shape[:2] == (channels, channels):
        layer.notice = ("BatchNorm folded as for Conv2d; if this is a transposed convolution, give the network file "
                        "with --config-file")
    return len(shape) == 4 and shape[0] != channels


def _fold(layer: _Layer, options: QuantizationOptions) -> None:
    """Fold the BatchNorm of a layer into its weight and bias."""
    if not layer.bn:
        return
    weight, channels = layer.entries["op.weight"], layer.bn["running_mean"].numel()
    transposed = _is_transposed(layer, options, channels)
    fits = channels % weight.shape[1] == 0 if transposed else weight.shape[0] == channels
    if not fits:
        raise user_error("E0534", f"the BatchNorm of layer '{layer.name}' does not fit its weight",
                         found=f"{channels} channels, weight {tuple(weight.shape)}", allowed="one channel per output",
                         help="train the model again; the file does not belong together")
    eps = float(options.described.get(layer.name, {}).get("batchnorm_eps", options.eps))
    statistics = BatchNormStatistics(mean=layer.bn["running_mean"], var=layer.bn["running_var"],
                                     gamma=layer.bn.get("weight"), beta=layer.bn.get("bias"), eps=eps)
    layer.entries["op.weight"], layer.entries["op.bias"] = fold_parameters(
        weight, layer.entries.get("op.bias"), statistics, transposed=transposed,
        groups=channels // weight.shape[1] if transposed else 1,
        gain=1.0 if layer.is_second_generation else BATCHNORM_GAIN)


def parameter_limit(weight: Tensor, bias: Tensor | None, quantile: float, bits: int, options: QuantizationOptions
                    ) -> Tensor:
    """Greatest magnitude that a layer must represent, 0-dimensional.

    Args:
        weight: (out, in, ...).
        bias: (out,) or None; counts for `ClipMethod.MAX_BIT_SHIFT` only.
        quantile: of `ClipMethod.MAX_BIT_SHIFT`.
        bits: width that MSE and KL assume.
        options: the method and its parameters.
    """
    method = options.clip_method
    if method is ClipMethod.MAX_BIT_SHIFT:
        return AF.magnitude_quantile(weight, bias, quantile)
    if method in (ClipMethod.MSE, ClipMethod.KL):
        exponent = choose_threshold(histogram_of(weight), ThresholdMethod[method.name], math.inf, bits)
        return weight.new_tensor(2.0**exponent)
    if method is ClipMethod.MAX:
        return weight.abs().max()
    if method is ClipMethod.AVGMAX:
        channels = weight.reshape(weight.shape[0], -1)
        return torch.maximum(channels.amin(1).mean().abs(), channels.amax(1).mean().abs())
    if method is ClipMethod.STDDEV:
        center, spread = weight.mean(), options.stddev * weight.std(correction=0)
        low, high = torch.maximum(weight.min(), center - spread), torch.minimum(weight.max(), center + spread)
        return torch.maximum(low.abs(), high.abs())
    return weight.new_tensor(options.scale)


def _bits(layer: _Layer, options: QuantizationOptions) -> int:
    stored = int(layer.entry("weight_bits", 0))
    if layer.name in options.widths:
        return options.widths[layer.name]
    if layer.hint.weight_bits and stored and stored != layer.hint.weight_bits:
        layer.notice = f"trained with {stored} bits, quantised with {layer.hint.weight_bits} as the network file says"
    return layer.hint.weight_bits or stored or options.qat_weight_bits or DEFAULT_BITS


def _quantize_layer(layer: _Layer, options: QuantizationOptions) -> LayerQuantization:
    """Replace the parameters of a layer by integers and set its entries."""
    entries = layer.entries
    _fold(layer, options)
    bits = _bits(layer, options)
    limit = parameter_limit(entries["op.weight"], entries.get("op.bias"), layer.entry("shift_quantile", 1.0), bits,
                            options)
    shift = AF.parameter_shift(limit, bits)
    to_steps = AF.power_of_two(bits - 1 - shift, entries["op.weight"])
    parameters = saturated = 0
    for name in ("op.weight", "op.bias"):
        if name in entries:
            rounded, clamped = AF.parameter_integers(entries[name], bits, to_steps)
            parameters += rounded.numel()
            saturated += int((rounded != clamped).sum())
            entries[name] = clamped * 2.0 ** (bits - INT8.bits + BIAS_SHIFT) if name == "op.bias" else clamped
    lowest, highest = AF.shift_range(bits)
    stored_shift = min(max(int(shift) - int(layer.entry("activation_threshold", 0)), lowest), highest)
    entries["output_shift"] = torch.tensor([float(stored_shift)])
    if "activation_threshold" in entries and stored_shift != int(shift) - int(entries["activation_threshold"]):
        # The register cannot hold the shift: what it holds says how the range really changed.
        entries["activation_threshold"] = torch.full_like(entries["activation_threshold"], int(shift) - stored_shift)
    if int(layer.entry("weight_bits", 0)) != bits:
        entries["weight_bits"] = torch.tensor([float(bits)])
    if "op.bias" in entries:
        entries["bias_bits"] = torch.tensor([float(bits)])
    entries["quantize_activation"] = torch.tensor([1.0])
    entries["adjust_output_shift"] = torch.tensor([0.0])
    return LayerQuantization(name=layer.name, weight_bits=bits, output_shift=stored_shift, limit=float(limit),
                             parameters=parameters, saturated=saturated, folded=bool(layer.bn), notice=layer.notice)


def _check_zero_points(state: Mapping[str, Tensor]) -> None:
    for key, value in state.items():
        if key.endswith(("w_zero_point", "b_zero_point")) and bool(value.any()):
            raise user_error("E0535", f"'{key}' is not zero", found=str(value.tolist())[:60], allowed="0",
                             help="quantise symmetrically; the chip has no zero points")


def _check_float(state: Mapping[str, Tensor]) -> None:
    """Quantising twice gives garbage, so a quantised state is refused."""
    if Checkpoint(state=arrays_from_tensors(state)).is_quantized:
        raise user_error("E0536", "the checkpoint is quantised already", found="integer parameters",
                         allowed="the checkpoint that training wrote", help="use the file as it is with synthesize.py")


def _merge(state: Mapping[str, Tensor], layers: Mapping[str, _Layer], rest: Mapping[str, Tensor]
           ) -> dict[str, Tensor]:
    """The quantised state in the order of the file; new entries follow those of their layer."""
    result: dict[str, Tensor] = {}
    for key in state:
        if key in rest:
            result[key] = rest[key]
            continue
        owner = key.rpartition(".")[0]
        layer = layers[owner] if owner in layers else layers[owner.rpartition(".")[0]]
        for name, value in layer.entries.items():
            result.setdefault(f"{layer.name}.{name}", value)
    for key in result:  # layers that only pool have flags too
        if key.endswith(".adjust_output_shift"):
            result[key] = torch.tensor([0.0])
        elif key.endswith(".quantize_activation"):
            result[key] = torch.tensor([1.0])
    return {key: value for key, value in result.items() if key.rpartition(".")[2] not in _DROPPED_ENTRIES}


def quantize_layers(state: Mapping[str, Tensor], options: QuantizationOptions
                    ) -> tuple[dict[str, Tensor], tuple[LayerQuantization, ...]]:
    """`quantize_state`, and what became of every layer."""
    _check_float(state)
    _check_zero_points(state)
    layers = _collect_layers(state)
    rest = _assign_entries(state, layers)
    _assign_hints(layers, options.hints)
    with torch.no_grad():
        report = tuple(_quantize_layer(layer, options) for layer in layers.values())
    return _merge(state, layers, rest), report


def quantize_state(state: Mapping[str, Tensor], options: QuantizationOptions | None = None) -> dict[str, Tensor]:
    """Integers for every weighted layer, in the form that the generator and integer evaluation read.

    BatchNorm is folded first. Weights are stored as integers, biases as ``b * 2**(bits-8) * 128``, both as float32;
    ``output_shift``, ``weight_bits``, ``bias_bits``, ``quantize_activation`` and ``adjust_output_shift`` are set;
    everything else is copied.

    Args:
        state: float or QAT parameters under normalised names.
        options: None quantises as training did.

    Raises:
        UserError: E0530 to E0536 for states that cannot be quantised.
    """
    return quantize_layers(state, options or QuantizationOptions())[0]


def _described(checkpoint: Checkpoint) -> dict[str, Mapping[str, Any]]:
    """What our checkpoints say of their layers; files of other tools say nothing."""
    layers = checkpoint.extras.get("layers", {})
    return {str(k): v for k, v in layers.items() if isinstance(v, Mapping)} if isinstance(layers, Mapping) else {}


def quantize_checkpoint(checkpoint: Checkpoint, options: QuantizationOptions | None = None
                        ) -> tuple[Checkpoint, tuple[LayerQuantization, ...]]:
    """A checkpoint with quantised parameters; what only resuming needs is left out, the rest is copied.

    Raises:
        UserError: E0530 to E0536 for states that cannot be quantised, with the name of the file.
        TypeError: something else than a `Checkpoint`, such as a ``state_dict``.
    """
    if not isinstance(checkpoint, Checkpoint):
        raise TypeError(f"quantize_checkpoint takes an ai8x.Checkpoint, not {type(checkpoint).__name__}; for a model "
                        "in memory call ai8x.quantize_model(model, arch=...), for a file "
                        "ai8x.read_checkpoint(path)")
    chosen = replace(options or QuantizationOptions(), described=_described(checkpoint))
    try:
        state, report = quantize_layers(checkpoint.tensors(), chosen)
    except UserError as error:
        place = Source(file=checkpoint.file) if checkpoint.file else None
        raise UserError([replace(d, source=d.source or place) for d in error.diagnostics]) from error
    extras = {**checkpoint.extras, "clipping_method": chosen.clip_method.value}
    if chosen.clip_method is ClipMethod.STDDEV:
        extras["clipping_nstds"] = chosen.stddev
    if chosen.clip_method is ClipMethod.SCALE:
        extras["clipping_scale"] = chosen.scale
    training = {key: value for key, value in checkpoint.training.items() if key not in _RESUME_ONLY}
    return replace(checkpoint, state=arrays_from_tensors(state), extras=extras, training=training), report


def clip_method(name: str) -> ClipMethod:
    """A clip method by its name.

    Raises:
        UserError: E0537 for an unknown name.
    """
    names = [method.value for method in ClipMethod]
    if name.upper() not in names:
        near = difflib.get_close_matches(name.upper(), names, n=1)
        raise user_error("E0537", f"unknown clip method '{name}'", found=name, allowed=", ".join(names),
                         help=f"write {near[0] if near else 'MAX_BIT_SHIFT'}")
    return ClipMethod(name.upper())


def check_paths(source: Path, target: Path) -> None:
    """Refuse to overwrite the trained checkpoint.

    Raises:
        UserError: E0538 where both names are the same file.
    """
    if source.resolve() == target.resolve():
        raise user_error("E0538", "input and output are the same file", source=Source(file=str(source)),
                         found=str(target), allowed="another name for the quantised file",
                         help=f"write {target.name.removesuffix('.pth.tar')}-q.pth.tar")
