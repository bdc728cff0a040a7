"""Channels of one tensor brought to one magnitude, without changing what a float model computes.

A tensor has one range on the chip, that of its greatest channel. Where weighted layers alone read a layer's outputs, a
factor per channel can move from the outputs into the weights that read them: ReLU, absolute value, pooling, addition
and concatenation let positive factors pass. Afterwards all channels use the range. Start at `equalize_channels`.

Source: spec/ai8x-training.md section 7 (one range per tensor).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ai8x.nn.arguments import Scheme
from ai8x.nn.base import ElementwiseModule, QuantizationAwareModule, model_scheme, quantized_layers
from ai8x.nn.elementwise import BitwiseOr, BitwiseXor
from ai8x.nn.trace import Call, ModelTrace, Value, layers_of, trace_model
from ai8x.nn.wrappers import evaluation_mode, unwrap_model

_FIXED = ("", 0)
"""Stands for everything whose magnitude must stay: the network's inputs and outputs."""

LEAST_SHARE = 1 / 64
"""Channels below this share of the greatest of their layer are treated as if they reached it."""

BIAS_SHARE = 1 / 4
"""A channel counts as at least so much of its bias, which shares the step of the weights."""

Channel = tuple[str, int]


@dataclass
class _Ties:
    """Sets of channels that must have one factor."""

    parents: dict[Channel, Channel] = field(default_factory=dict)

    def root(self, channel: Channel) -> Channel:
        """The channel that stands for a set."""
        path = []
        while (parent := self.parents.setdefault(channel, channel)) != channel:
            path.append(channel)
            channel = parent
        self.parents.update(dict.fromkeys(path, channel))
        return channel

    def tie(self, first: Iterable[Channel], second: Iterable[Channel]) -> None:
        """Make one set of each pair."""
        for a, b in zip(first, second, strict=True):
            one, other = self.root(a), self.root(b)
            if one != other:  # what is fixed stands for its set
                self.parents[one if other == _FIXED else other] = other if other == _FIXED else one

    def fix(self, channels: Iterable[Channel]) -> None:
        """Let channels keep their magnitude."""
        for channel in channels:
            self.tie([channel], [_FIXED])


def _channels(trace: ModelTrace, value: Value, ties: _Ties) -> list[Channel]:
    """The channels of a value by the layers that make them; what cannot be followed is fixed."""
    if value.kind == "layer":
        return [(trace.calls[value.call].name, c) for c in range(value.shape[1])]
    parts = [_channels(trace, part, ties) for part in value.parts]
    if value.kind == "concat":
        return [channel for part in parts for channel in part]
    if value.kind == "shape":
        count, wanted = len(parts[0]), value.shape[1] if len(value.shape) > 1 else 0
        if wanted == count:
            return parts[0]
        pixels = torch.Size(value.parts[0].shape[2:]).numel()
        if len(value.shape) == 2 and wanted == count * pixels:
            return [channel for channel in parts[0] for _ in range(pixels)]
    for part in parts:
        ties.fix(part)
    return [_FIXED] * (value.shape[1] if len(value.shape) > 1 else 1)


def _copies(layer: QuantizationAwareModule) -> bool:
    """Every channel is copied by a kernel that training does not change."""
    op = layer.op
    depthwise = op is not None and op.bias is None and getattr(op, "groups", 1) == _outputs(op) > 1
    return op is not None and depthwise and not op.weight.requires_grad


def _outputs(op: nn.Module) -> int:
    return int(op.out_features if isinstance(op, nn.Linear) else op.out_channels)  # type: ignore[arg-type]


def _inputs(trace: ModelTrace, ties: _Ties) -> dict[str, list[Channel]]:
    """The channels that every layer reads, after tying what must have one factor."""
    read: dict[str, list[Channel]] = {}
    for call in trace.calls:
        operands = [_channels(trace, operand, ties) for operand in call.operands]
        own = [(call.name, c) for c in range(call.output.shape[1])]
        ties.tie(read.setdefault(call.name, operands[0]), operands[0])  # a layer that runs twice has one weight
        if _ties_operands(call):
            for operand in operands:
                ties.tie(operand, own)
        if isinstance(call.layer, (BitwiseOr, BitwiseXor)) or getattr(call.layer, "wide", False):
            ties.fix(own)
    for value in trace.outputs:
        ties.fix(_channels(trace, value, ties))
    return read


def _ties_operands(call: Call) -> bool:
    """Whether a layer's outputs have the factors of its operands."""
    return isinstance(call.layer, ElementwiseModule) or call.layer.op is None or _copies(call.layer)


class _Extremes:
    """Forward hook that keeps the greatest magnitude of every channel."""

    def __init__(self) -> None:
        self.found: Tensor | None = None

    def __call__(self, layer: nn.Module, args: Any, output: Tensor) -> None:
        greatest = output.detach().abs().amax(dim=[d for d in range(output.dim()) if d != 1]).cpu()
        self.found = greatest if self.found is None else torch.maximum(self.found, greatest)


def _magnitudes(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Greatest magnitude of every channel of every layer's outputs."""
    hooks = {name: _Extremes() for name in layers_of(model)}
    handles = [layer.register_forward_hook(hooks[name]) for name, layer in layers_of(model).items()]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with evaluation_mode(model):
            for batch in batches:
                model(batch.to(device))
    finally:
        for handle in handles:
            handle.remove()
    return {name: hook.found for name, hook in hooks.items() if hook.found is not None}


def _factors(magnitudes: Mapping[str, Tensor], layers: Mapping[str, QuantizationAwareModule], ties: _Ties,
             strength: float) -> dict[Channel, float]:
    """The factor of every set of channels, by the magnitude of its greatest member."""
    greatest: dict[Channel, float] = {}
    for name, found in magnitudes.items():
        bias = getattr(getattr(layers.get(name), "op", None), "bias", None)
        values = found if bias is None else torch.maximum(found, bias.detach().abs().cpu() * BIAS_SHARE)
        values = values.clamp(min=float(values.max()) * LEAST_SHARE)
        for channel, value in enumerate(values.tolist()):
            root = ties.root((name, channel))
            greatest[root] = max(greatest.get(root, 0.0), value)
    fixed = ties.root(_FIXED)
    return {root: 1.0 if root == fixed or value <= 0 else value**-strength for root, value in greatest.items()}


@torch.no_grad()
def _scale(layer: QuantizationAwareModule, inputs: Tensor, outputs: Tensor) -> None:
    """Multiply a layer's outputs by factors and divide its weights by those of its inputs."""
    op = layer.op
    assert op is not None
    groups, weight = getattr(op, "groups", 1), op.weight
    ones = [1] * (weight.dim() - 2)
    # The first dimension of a weight counts all channels of one side, the second those of a group of the other.
    first, second = (1 / inputs, outputs) if layer.output_dim else (outputs, 1 / inputs)
    per_group = second.reshape(groups, 1, -1).expand(groups, weight.shape[0] // groups, -1)
    op.weight.mul_(first.reshape(-1, 1, *ones)).mul_(per_group.reshape(weight.shape[0], -1, *ones))
    if op.bias is not None:
        op.bias.mul_(outputs)


def equalize_channels(model: nn.Module, batches: Iterable[Tensor], *, strength: float = 1.0) -> None:
    """Bring the channels of every tensor nearer to one magnitude, in place; the float model computes the same.

    What activations gain, weights may lose, because all weights of a layer share one step, too.

    Args:
        model: in float mode without clamps (the second generation), BatchNorm folded.
        batches: inputs like those of the training.
        strength: 1 makes all magnitudes equal, 0 changes nothing; factors are magnitudes to the power -strength.

    Raises:
        ValueError: clamps are in force, or BatchNorm was not folded: the model would compute something else.
    """
    inner = unwrap_model(model)
    layers = quantized_layers(inner)
    if model_scheme(inner) is not Scheme.V2 or any(layer.bn is not None for layer in layers.values()):
        raise ValueError("channels are equalised in float mode without clamps, after BatchNorm was folded")
    listed = list(batches)
    device = next((p.device for p in inner.parameters()), torch.device("cpu"))
    trace, ties = trace_model(inner, listed[0][:2].to(device)), _Ties()
    read = _inputs(trace, ties)
    factors = _factors(_magnitudes(inner, listed), layers, ties, strength)

    def vector(channels: Iterable[Channel], like: Tensor) -> Tensor:
        return like.new_tensor([factors.get(ties.root(channel), 1.0) for channel in channels])

    for name, layer in layers.items():
        if layer.op is not None and name in read and not _copies(layer):
            own = [(name, c) for c in range(_outputs(layer.op))]
            _scale(layer, vector(read[name], layer.op.weight), vector(own, layer.op.weight))
