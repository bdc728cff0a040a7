"""Ranges of activations, layer by layer: what the second generation of training and calibration have in common.

Every tensor of a network stands for its values divided by a power of two, so that they use the range of the chip,
[-1, 1). Owns which tensors must share that power, and how biases, output shifts and the model's outputs follow from
it. Start at `plan_thresholds` and `calibrate_activations`.

Source: spec/ai8x-training.md section 7 (graph rules, carry-over).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ai8x.nn.arguments import Scheme
from ai8x.nn.base import ElementwiseModule, QuantizationAwareModule, quantized_layers, use_scheme
from ai8x.nn.elementwise import BitwiseOr, BitwiseXor
from ai8x.nn.statistics import DEFAULT_Z_SCORE, ThresholdMethod, choose_threshold, collect_histograms
from ai8x.nn.trace import Call, Layer, ModelTrace, layers_of, trace_model
from ai8x.nn.wrappers import unwrap_model

_INPUT = ""
"""Stands for the network's input, whose range is that of the chip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerThreshold:
    """Ranges of one layer, as log2.

    Args:
        own: of its outputs: they are stored divided by ``2**own``. A wide layer has the range of its inputs.
        source: of its inputs.
        is_output: the model returns what the layer returns.
        wide: of 32-bit outputs.
        measured: the range that statistics asked for, before neighbours were considered.
    """

    own: int
    source: int
    is_output: bool
    wide: bool
    measured: int

    @property
    def activation_threshold(self) -> int:
        """How much smaller the layer's output shift is than that of its parameters."""
        return self.measured - self.source if self.wide else self.own - self.source

    @property
    def final_scale(self) -> int:
        """log2 of what outputs of the model must be multiplied by; 0 inside the model."""
        return self.own if self.is_output else 0


class _Groups:
    """Sets of tensors that must share one range, by the names of the layers that make them."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def root(self, name: str) -> str:
        """The name that stands for a tensor's set."""
        parent = self._parents.setdefault(name, name)
        return name if parent == name else self.root(parent)

    def join(self, names: Iterable[str]) -> None:
        """Make one set of all."""
        roots = [self.root(name) for name in names]
        for root in roots[1:]:
            self._parents[root] = roots[0]


def _is_wide(layer: Layer) -> bool:
    return isinstance(layer, QuantizationAwareModule) and layer.wide


def _keeps_range(layer: Layer) -> bool:
    """Layers without a shift of their own: element-wise ones, and those that only pool."""
    return isinstance(layer, ElementwiseModule) or layer.op is None


def _source_names(trace: ModelTrace, call: Call) -> list[str]:
    """Where the operands come from; the input's name where one is the input or a constant."""
    names = [trace.calls[v.call].name if v.kind == "layer" else _INPUT for o in call.operands for v in o.sources()]
    return names or [_INPUT]


def _shared_ranges(trace: ModelTrace) -> _Groups:
    """Which tensors share a range: those that one layer reads together, and the two sides of a layer without shift."""
    groups = _Groups()
    final = {call.name for call in trace.final_calls()}
    read_before: dict[str, list[str]] = {}
    for call in trace.calls:
        sources = _source_names(trace, call)
        # A layer that runs several times has one bias and one output shift, so its inputs share a range, too.
        groups.join([*read_before.setdefault(call.name, sources[:1]), *sources])
        if _keeps_range(call.layer):
            groups.join([sources[0], call.name])
        if isinstance(call.layer, (BitwiseOr, BitwiseXor)):
            groups.join([_INPUT, call.name])
        # Outputs are multiplied by their range once more, which a layer that reads them too must not see.
        groups.join(itertools.chain([_INPUT], (name for name in sources if name in final)))
    return groups


def plan_thresholds(trace: ModelTrace, measured: Mapping[str, int], floors: Mapping[str, int] | None = None
                    ) -> dict[str, LayerThreshold]:
    """The range of every layer's outputs, so that layers which meet agree.

    Operands of an addition take the range of its result; parts of a concatenation, and several tensors that one layer
    reads, take the largest. What meets the network's input, bitwise operators included, keeps the range of the chip.

    Args:
        trace: connections of the model.
        measured: layer -> log2 of the range that suits its outputs alone.
        floors: layer -> log2 of the least range that its inputs may have; counts up to the range of the chip.
    """
    groups = _shared_ranges(trace)
    members: dict[str, list[Call]] = {}
    for call in trace.calls:
        members.setdefault(groups.root(call.name), []).append(call)
    ranges = {root: _group_range(calls, measured) for root, calls in members.items()}
    for call in trace.calls:
        root = groups.root(_source_names(trace, call)[0])
        if floors and call.name in floors and root in ranges:
            ranges[root] = max(ranges[root], min(0, floors[call.name]))
    ranges[groups.root(_INPUT)] = 0
    final = {call.name for call in trace.final_calls()}
    plan: dict[str, LayerThreshold] = {}
    for call in trace.calls:
        source = ranges[groups.root(_source_names(trace, call)[0])]
        wide = _is_wide(call.layer)
        plan[call.name] = LayerThreshold(own=source if wide else ranges[groups.root(call.name)], source=source,
                                         is_output=call.name in final, wide=wide, measured=measured[call.name])
    return plan


def _group_range(calls: Iterable[Call], measured: Mapping[str, int]) -> int:
    """The largest range of the additions among the layers, else of all of them."""
    listed = list(calls)
    combining = [call for call in listed if isinstance(call.layer, ElementwiseModule)]
    return max(measured[call.name] for call in combining or listed)


def bias_floors(model: nn.Module) -> dict[str, int]:
    """Layer -> log2 of the least range of its inputs at which its bias still needs no larger step than its weights.

    Weights and biases share one step, and biases are divided by the range of the inputs: a range that is too small
    would cost the weights their resolution.
    """
    floors = {}
    for name, layer in quantized_layers(unwrap_model(model)).items():
        if layer.op is not None and layer.op.bias is not None:
            weight, bias = (float(p.detach().abs().max()) for p in (layer.op.weight, layer.op.bias))
            if weight > 0 and bias > 0:
                floors[name] = math.ceil(math.log2(bias)) - math.ceil(math.log2(weight))
    return floors


def apply_thresholds(model: nn.Module, plan: Mapping[str, LayerThreshold]) -> None:
    """Carry ranges over to the parameters, in place; the model follows the second generation afterwards.

    Biases are divided by the range of the inputs, since that is what sums of products stand for.
    """
    inner = unwrap_model(model)
    use_scheme(inner, Scheme.V2)
    for name, layer in layers_of(inner).items():
        if name not in plan:
            continue
        if isinstance(layer, ElementwiseModule):
            with torch.no_grad():
                layer.activation_threshold.fill_(plan[name].own)
            continue
        if layer.op is not None and layer.op.bias is not None:
            with torch.no_grad():
                layer.op.bias.mul_(2.0 ** -plan[name].source)
        layer.set_thresholds(activation_threshold=plan[name].activation_threshold if layer.op is not None else 0,
                             final_scale=plan[name].final_scale)


def calibrate_activations(model: nn.Module, batches: Iterable[Tensor], *,
                          method: ThresholdMethod = ThresholdMethod.MSE, z_score: float = DEFAULT_Z_SCORE,
                          spare_weights: bool = False) -> dict[str, LayerThreshold]:
    """Measure the activations of a float model and set the range of every layer, in place.

    Args:
        model: in float mode, BatchNorm folded.
        batches: inputs of the training data, on the grid of 1/128.
        method: how ranges are chosen.
        z_score: see `ai8x.nn.statistics.choose_threshold`.
        spare_weights: keep ranges large enough for `bias_floors`; training, which can adapt, does without.

    Returns:
        The range of every layer.

    Raises:
        ValueError: no batch at all.
    """
    inner = unwrap_model(model)
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise ValueError("no batch to collect statistics from")
    device = next((p.device for p in inner.parameters()), torch.device("cpu"))
    trace = trace_model(inner, first[:1].to(device))
    histograms = collect_histograms(inner, itertools.chain([first], remaining))
    measured = {name: choose_threshold(found, method, z_score) for name, found in histograms.items()}
    plan = plan_thresholds(trace, measured, bias_floors(inner) if spare_weights else None)
    apply_thresholds(inner, plan)
    return plan


def output_ranges(model: nn.Module, trace: ModelTrace) -> dict[str, int]:
    """log2 of the range of every layer's outputs inside a model, from the layers' own entries.

    Zero everywhere in models of the first generation.
    """
    layers = quantized_layers(unwrap_model(model))
    ranges = {_INPUT: 0}
    for call in trace.calls:
        source = ranges[_source_names(trace, call)[0]]
        layer = layers.get(call.name)
        own = 0
        if layer is not None and layer.op is not None and layer.scheme is Scheme.V2 and not layer.wide:
            own = int(layer.activation_threshold)
        ranges[call.name] = source + own
    del ranges[_INPUT]
    return ranges


def batches_of(samples: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Tensor]:
    """The inputs of batches (inputs, targets)."""
    for inputs, _ in samples:
        yield inputs
