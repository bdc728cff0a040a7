"""Pruning: single weights that stay 0, or whole channels that are gone, so that the network is really smaller.

Which channels of which layers hang together (through additions, concatenations, depthwise layers and flattening) is
found by sending channel numbers through the model beside its data. Start at `prune_channels` and `prune_weights`;
`fit_layers` gives a new model the sizes of a pruned file.

Source: issue 4 ("magnitude and structured channel pruning").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ai8x.errors import user_error
from ai8x.nn.base import ElementwiseModule, QuantizationAwareModule, quantized_layers
from ai8x.nn.qat import unwrap_model

MULTIPLE = 4
"""Layers keep a multiple of so many channels where they have more than twice as many: the chip packs four a word."""

Channels = list[int]
"""For every entry along dimension 1 of a tensor the number of the channel group that it belongs to."""


class _Groups:
    """Sets of channels that can only go together."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._fixed: set[int] = set()

    def new(self, count: int) -> Channels:
        """Channels of their own."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return list(range(start, start + count))

    def root(self, channel: int) -> int:
        """The group's number."""
        while self._parent[channel] != channel:
            self._parent[channel] = self._parent[self._parent[channel]]
            channel = self._parent[channel]
        return channel

    def join(self, first: Sequence[int], second: Sequence[int]) -> None:
        """Channels at equal places hang together."""
        for one, other in zip(first, second, strict=True):
            one, other = self.root(one), self.root(other)
            if one != other:
                self._parent[max(one, other)] = min(one, other)

    def fix(self, channels: Sequence[int]) -> None:
        """These must stay."""
        self._fixed.update(channels)

    def fixed(self) -> set[int]:
        """Numbers of the groups that must stay."""
        return {self.root(channel) for channel in self._fixed}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelMap:
    """Where channels come from and go to.

    Args:
        inputs: layer -> group of every input channel; of every feature for linear layers.
        outputs: layer -> group of every output channel.
        fixed: groups that must stay: inputs and outputs of the network, and what cannot be followed.
    """

    inputs: Mapping[str, Channels]
    outputs: Mapping[str, Channels]
    fixed: frozenset[int]


class _Tracer(fx.Tracer):
    """Takes the layers of this package as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Layers are not looked into."""
        return isinstance(m, QuantizationAwareModule | ElementwiseModule) or super().is_leaf_module(
            m, module_qualified_name)


class _Follower(fx.Interpreter):
    """Runs a traced model and sends channel numbers along."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.groups = _Groups()
        self.inputs: dict[str, Channels] = {}
        self.outputs: dict[str, Channels] = {}
        self._channels: dict[fx.Node, Channels | None] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and note the channels of its result."""
        result = super().run_node(n)
        self._channels[n] = self._follow(n, result)
        return result

    def _of(self, node: Any) -> Channels | None:
        return self._channels.get(node) if isinstance(node, fx.Node) else None

    def _follow(self, node: fx.Node, result: Any) -> Channels | None:
        if node.op == "placeholder":
            channels = self.groups.new(result.shape[1])
            self.groups.fix(channels)
            return channels
        if node.op == "call_module":
            return self._through_module(node, self.fetch_attr(str(node.target)), result)
        if not isinstance(result, Tensor) or node.op == "output":
            self._fix_all(node)
            return None
        known = self._through_function(node, result)
        if known is None:
            self._fix_all(node)
        return known

    def _fix_all(self, node: fx.Node) -> None:
        """What is read in a way that is not understood must stay; reading the shape alone does no harm."""
        if node.target in (getattr, "size"):
            return
        for used in node.all_input_nodes:
            self.groups.fix(self._of(used) or [])

    def _through_module(self, node: fx.Node, module: nn.Module, result: Tensor) -> Channels | None:
        source = self._of(node.args[0])
        if isinstance(module, ElementwiseModule):
            operands = [self._of(operand) for operand in node.args]
            for operand in operands[1:]:
                if operands[0] is None or operand is None:
                    self._fix_all(node)
                    return None
                self.groups.join(operands[0], operand)
            return operands[0]
        if not isinstance(module, QuantizationAwareModule):
            if source is not None and result.shape[1] == len(source):  # Dropout, Identity and the like
                return source
            self._fix_all(node)
            return None
        if module.op is None:
            return source
        return self._through_layer(str(node.target), module, source)

    def _through_layer(self, name: str, layer: QuantizationAwareModule, source: Channels | None) -> Channels:
        if layer.op is None:
            raise TypeError("a layer that only pools")
        groups = getattr(layer.op, "groups", 1)
        size = layer.op.weight.shape[layer.output_dim] * (groups if layer.output_dim else 1)
        if name in self.outputs:  # used twice: both uses must agree
            self.groups.fix((source or []) + self.inputs.get(name, []) + self.outputs[name])
            return self.outputs[name]
        if source is not None:
            self.inputs[name] = source
        outputs = self.groups.new(size)
        if groups > 1:
            if source is not None and groups == len(source) == size:
                self.groups.join(source, outputs)
            else:
                self.groups.fix((source or []) + outputs)
        self.outputs[name] = outputs
        return outputs

    def _through_function(self, node: fx.Node, result: Tensor) -> Channels | None:
        if node.target is torch.cat and node.kwargs.get("dim", (*node.args, None)[1]) == 1:
            parts = [self._of(part) for part in node.args[0]]  # type: ignore[union-attr]
            return None if any(part is None for part in parts) else [c for part in parts for c in part or []]
        if node.target in ("flatten", "reshape", "view", torch.flatten):
            return self._through_reshape(node, result)
        source = self._of(node.args[0]) if node.args else None
        harmless = ("contiguous", "clone", "relu", torch.relu, nn.functional.relu, nn.functional.dropout)
        return source if node.target in harmless else None

    def _through_reshape(self, node: fx.Node, result: Tensor) -> Channels | None:
        """Channels stay apart if everything else is flattened into them, or only what is behind them changes."""
        source, before = self._of(node.args[0]), self.env[node.args[0]]  # type: ignore[index]
        if source is None or result.dim() < 2 or result.shape[0] != before.shape[0]:
            return None
        if result.shape[1] == before.shape[1]:
            return source
        if result.dim() == 2:
            each = result.shape[1] // len(source)
            return [channel for channel in source for _ in range(each)]
        return None


def map_channels(model: nn.Module, sample: Tensor) -> ChannelMap:
    """How the channels of a model hang together.

    Args:
        model: in any mode; not changed.
        sample: one input, (1, C, H, W) or (1, C, L).

    Raises:
        UserError: E0636 for a model whose order of layers depends on its data, which cannot be followed.
    """
    inner = unwrap_model(model)
    try:
        graph = _Tracer().trace(inner)
    except (fx.proxy.TraceError, TypeError) as error:
        raise user_error("E0636", f"{type(inner).__name__} cannot be pruned by channels", found=str(error)[:80],
                         allowed="a model whose forward does not depend on the data",
                         help="use --prune-kind magnitude") from error
    follower = _Follower(fx.GraphModule(inner, graph))
    follower.garbage_collect_values = False
    was_training = inner.training
    inner.eval()
    with torch.no_grad():
        follower.run(sample)
    inner.train(was_training)
    root = follower.groups.root
    return ChannelMap(inputs={name: [root(c) for c in channels] for name, channels in follower.inputs.items()},
                      outputs={name: [root(c) for c in channels] for name, channels in follower.outputs.items()},
                      fixed=frozenset(follower.groups.fixed()))


def prune_channels(model: nn.Module, sample: Tensor, share: float) -> dict[str, tuple[int, int]]:
    """Take the least important channels away, in place.

    Important is what has large weights: the sum of magnitudes of a channel's filters, each in relation to the mean
    of its layer. Channels that hang together go together.

    Args:
        model: float or QAT mode.
        sample: one input, (1, C, H, W) or (1, C, L).
        share: of every set of channels, 0 up to 1.

    Returns:
        Layer -> (output channels before, after), for the layers that changed.

    Raises:
        UserError: E0636 for a model that cannot be followed.
    """
    inner = unwrap_model(model)
    channels = map_channels(inner, sample)
    layers = {name: layer for name, layer in quantized_layers(inner).items() if layer.op is not None}
    removed = _choose(channels, layers, share)
    changed = {}
    for name, layer in layers.items():
        outputs, inputs = channels.outputs.get(name, []), channels.inputs.get(name, [])
        kept_out = [i for i, group in enumerate(outputs) if group not in removed]
        kept_in = [i for i, group in enumerate(inputs) if group not in removed]
        if len(kept_out) < len(outputs) or len(kept_in) < len(inputs):
            _cut(layer, kept_out, kept_in)
        if len(kept_out) < len(outputs):
            changed[name] = (len(outputs), len(kept_out))
    return changed


def _choose(channels: ChannelMap, layers: Mapping[str, QuantizationAwareModule], share: float) -> set[int]:
    """Groups to take away: of every set of layers that hangs together the given share."""
    weight: dict[int, float] = {}
    owners: dict[int, set[str]] = {}
    for name, groups in channels.outputs.items():
        magnitudes = _magnitudes(layers[name])
        if len(magnitudes) != len(groups):  # grouped, but not depthwise: nothing of it can go
            continue
        for group, value in zip(groups, (magnitudes / magnitudes.mean().clamp(min=1e-12)).tolist(), strict=True):
            weight[group] = weight.get(group, 0.0) + value
            owners.setdefault(group, set()).add(name)
    sets: dict[tuple[str, ...], list[int]] = {}
    for group, names in owners.items():
        sets.setdefault(tuple(sorted(names)), []).append(group)
    removed: set[int] = set()
    for members in sets.values():
        free = sorted((group for group in members if group not in channels.fixed), key=lambda group: weight[group])
        removed.update(free[:min(len(members) - _kept(len(members), share), len(free))])
    return removed


def _magnitudes(layer: QuantizationAwareModule) -> Tensor:
    """Sum of the magnitudes of every output channel's weights."""
    if layer.op is None:
        raise TypeError("a layer that only pools")
    weight = layer.op.weight.detach().abs()
    if getattr(layer.op, "groups", 1) > 1:
        return weight.flatten(1).sum(1)
    return weight.sum([dim for dim in range(weight.dim()) if dim != layer.output_dim])


def _kept(count: int, share: float) -> int:
    """Channels that stay of ``count``."""
    kept = max(1, round(count * (1 - share)))
    return -(-kept // MULTIPLE) * MULTIPLE if count > 2 * MULTIPLE else kept


def _cut(layer: QuantizationAwareModule, outputs: list[int], inputs: list[int]) -> None:
    """Keep these channels of a layer, in place."""
    op = layer.op
    if op is None:
        raise TypeError("a layer that only pools")
    out_dim = layer.output_dim
    weight = op.weight.detach()
    if getattr(op, "groups", 1) > 1:  # depthwise: one filter a channel
        weight = weight[outputs]
        op.groups = len(outputs)
    else:
        weight = weight.index_select(out_dim, torch.tensor(outputs, device=weight.device))
        weight = weight.index_select(1 - out_dim, torch.tensor(inputs, device=weight.device))
    bias = None if op.bias is None else op.bias.detach()[outputs]
    _resize(layer, weight, bias)
    bn = layer.bn
    if isinstance(bn, nn.BatchNorm1d | nn.BatchNorm2d):
        for name in ("weight", "bias"):
            value = getattr(bn, name)
            if value is not None:
                setattr(bn, name, nn.Parameter(value.detach()[outputs].clone()))
        for name in ("running_mean", "running_var"):
            setattr(bn, name, getattr(bn, name)[outputs].clone())
        bn.num_features = len(outputs)


def _resize(layer: QuantizationAwareModule, weight: Tensor, bias: Tensor | None) -> None:
    """Give the operation of a layer other parameters, and the counts that belong to them."""
    op = layer.op
    op.weight = nn.Parameter(weight.clone())  # type: ignore[union-attr]
    if bias is not None:
        op.bias = nn.Parameter(bias.clone())  # type: ignore[union-attr]
    if isinstance(op, nn.Linear):
        op.out_features, op.in_features = weight.shape
        return
    groups = op.groups  # type: ignore[union-attr]
    first, second = weight.shape[:2]
    if isinstance(op, nn.ConvTranspose2d):
        op.in_channels, op.out_channels = first, second * groups
    else:
        op.out_channels, op.in_channels = first, second * groups  # type: ignore[union-attr]


def fit_layers(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give the layers of a new model the sizes that they have in the state of a pruned one, in place.

    Layers that the state does not have stay as they are; loading reports them.
    """
    for name, layer in quantized_layers(model).items():
        weight = state.get(f"{name}.op.weight")
        if layer.op is None or weight is None or weight.shape == layer.op.weight.shape:
            continue
        if weight.dim() != layer.op.weight.dim():
            continue
        if getattr(layer.op, "groups", 1) > 1:
            layer.op.groups = weight.shape[0]
        bias = None if layer.op.bias is None else layer.op.bias.new_zeros(
            weight.shape[layer.output_dim] * (getattr(layer.op, "groups", 1) if layer.output_dim else 1))
        _resize(layer, torch.zeros_like(weight, device=layer.op.weight.device), bias)
        if isinstance(layer.bn, nn.BatchNorm1d | nn.BatchNorm2d):
            old = layer.bn
            layer.bn = type(old)(weight.shape[layer.output_dim], old.eps, old.momentum, old.affine).to(
                layer.op.weight.device)


@torch.no_grad()
def prune_weights(model: nn.Module, share: float) -> float:
    """Set the smallest weights of every layer to 0, in place.

    Args:
        model: float or QAT mode.
        share: of the weights of each layer.

    Returns:
        The share that is 0 now.
    """
    zeros = total = 0
    for layer in quantized_layers(unwrap_model(model)).values():
        if layer.op is not None:
            _zero_smallest(layer.op.weight, share)
            zeros += int((layer.op.weight == 0).sum())
            total += layer.op.weight.numel()
    return zeros / max(total, 1)


@torch.no_grad()
def prune_layer(name: str, model: nn.Module, share: float) -> None:
    """Set the smallest weights of one layer to 0, in place.

    Args:
        name: path of the layer.
        model: float or QAT mode.
        share: of its weights.
    """
    layer = quantized_layers(unwrap_model(model))[name]
    if layer.op is not None:
        _zero_smallest(layer.op.weight, share)


def _zero_smallest(weight: Tensor, share: float) -> None:
    order = weight.abs().flatten().argsort(stable=True)
    weight.view(-1)[order[:int(weight.numel() * share)]] = 0


class WeightMask:
    """Keeps pruned weights at 0: what is 0 when it is made stays so.

    Args:
        model: pruned by `prune_weights`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._masks = {name: layer.op.weight != 0 for name, layer in quantized_layers(unwrap_model(model)).items()
                       if layer.op is not None}

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Set the pruned weights back to 0."""
        for name, layer in quantized_layers(unwrap_model(model)).items():
            if layer.op is not None and name in self._masks:
                layer.op.weight.mul_(self._masks[name])
