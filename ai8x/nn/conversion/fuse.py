"""From a rewritten graph to fused layers: which operations one layer computes, and the layers themselves.

Start at `build_layers`.

Source: spec/ai8x-training.md sections 3.1 (order in a layer) and 3.3 (names of the classes).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from ai8x.errors import Diagnostic, Diagnostics, UserError
from ai8x.nn import modules
from ai8x.nn.base import ElementwiseModule, Operation, QuantizationAwareModule
from ai8x.nn.conversion.arguments import is_depthwise, notice, size_text
from ai8x.nn.conversion.graph import (
    Activate,
    Combine,
    Concatenate,
    Convolution,
    Drop,
    Graph,
    Input,
    Node,
    Norm,
    Origin,
    Pooling,
    Ready,
    Reshape,
    Shape,
    Unknown,
)
from ai8x.nn.functional import ActivationKind
from ai8x.nn.limits import MAX_CONV1D_KERNEL


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a converted model.

    Args:
        kind: 'layer' (a child module), 'concat' or 'reshape'.
        target: name of the child module.
        inputs: names of the tensors read.
        result: name of the tensor made.
        shape: of the result, without the batch.
    """

    kind: str
    target: str = ""
    inputs: tuple[str, ...]
    result: str
    shape: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerLine:
    """One layer of a converted model, for people.

    Args:
        name: of the layer.
        kind: class and sizes.
        origins: operations of the original that it computes; empty for layers that conversion added.
    """

    name: str
    kind: str
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusedGroup:
    """Operations that become one layer.

    Args:
        node: the convolution.
        conv: its operation.
        pool: in front, or None.
        norm: behind, or None.
        activation: behind that.
        source: name of the tensor read.
        result: name of the tensor made.
        origins: of everything fused.
        wide: 32-bit output.
    """

    node: Node
    conv: Convolution
    pool: Pooling | None
    norm: Norm | None
    activation: ActivationKind
    source: str
    result: str
    origins: tuple[Origin, ...]
    wide: bool

    @property
    def key(self) -> tuple[object, ...]:
        """Two groups with the same key are the same layer, used twice."""
        conv = self.conv
        return (id(conv.weight), id(conv.bias), conv.operator, conv.before, conv.dilation, conv.groups, self.pool,
                self.activation, id(self.norm.module) if self.norm else None, self.wide)

    def class_name(self) -> str:
        """By the grammar of the vendor's names."""
        pool = f"{self.pool.kind}Pool" if self.pool else ""
        activation = self.activation.value or ""
        batchnorm = "BN" if self.norm else ""
        depth = "Depthwise" if is_depthwise(self.conv) else ""
        fused = "Fused" if pool or activation or batchnorm else ""
        return f"{fused}{pool}{depth}{self.conv.operator}{batchnorm}{activation}"

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the class."""
        conv = self.conv
        arguments: dict[str, Any] = {"bias": conv.bias is not None or self.norm is not None, "wide": self.wide}
        if conv.operator == "Linear":
            return arguments
        arguments |= {"kernel_size": conv.kernel, "stride": conv.stride, "padding": conv.before,
                      "dilation": conv.dilation}
        if not is_depthwise(conv):
            arguments["groups"] = conv.groups
        if self.norm:
            arguments["batchnorm"] = "Affine" if self.norm.module.affine else "NoAffine"
        if self.pool:
            arguments |= {"pool_size": self.pool.size, "pool_stride": self.pool.stride}
        return arguments


def fuses_pool(conv: Convolution) -> bool:
    """Whether a convolution may pool its input: transposed, linear and far dilated ones do not."""
    if conv.operator == "Conv1d":
        return conv.dilation[0] == 1 or (conv.kernel[0] - 1) * conv.dilation[0] < MAX_CONV1D_KERNEL
    return conv.operator == "Conv2d"


def fused_pool(graph: Graph, node: Node) -> Node | None:
    """The convolution that does a pooling, or None for a layer that only pools."""
    reader = graph.only_reader(node)
    fits = (isinstance(node.operation, Pooling) and reader is not None and isinstance(reader.operation, Convolution)
            and fuses_pool(reader.operation))
    return reader if fits else None


def group_of(graph: Graph, node: Node) -> FusedGroup:
    """What one layer computes around a convolution."""
    conv = node.operation
    assert isinstance(conv, Convolution)
    source = graph.producer(node)
    pooled = isinstance(source.operation, Pooling) and fused_pool(graph, source) is node
    last, norm, activation = node, None, ActivationKind.NONE
    origins = [source.origin, node.origin] if pooled else [node.origin]
    for following in graph.chain_behind(node):
        operation = following.operation
        if isinstance(operation, Norm) and last is node and conv.operator != "Linear":
            norm = operation
        elif isinstance(operation, Activate) and activation is ActivationKind.NONE:
            activation = operation.kind
        else:
            break
        last = following
        origins.append(following.origin)
    is_plain = norm is None and activation is ActivationKind.NONE
    wide = conv.operator == "Linear" and is_plain and not graph.readers(node)
    return FusedGroup(node=node, conv=conv, pool=source.operation if pooled else None,  # type: ignore[arg-type]
                      norm=norm, activation=activation, source=source.inputs[0] if pooled else source.name,
                      result=last.name, origins=tuple(dict.fromkeys(origins)), wide=wide)


@dataclass
class LayerBuilder:
    """Makes the layers and steps of a graph; one instance for one conversion.

    Args:
        device: chip whose limits hold.
        findings: what limits refuse, and notices.
    """

    device: str | int | None
    findings: Diagnostics
    layers: dict[str, nn.Module] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    lines: list[LayerLine] = field(default_factory=list)
    _copies: dict[int, Any] = field(default_factory=dict)
    _by_key: dict[tuple[object, ...], str] = field(default_factory=dict)
    _owners: dict[int, str] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)

    def build(self, graph: Graph) -> None:
        """All layers, in the order in which they run."""
        done: set[str] = set()
        for node in graph.nodes:
            if node.name in done or isinstance(node.operation, (Input, Unknown)):
                continue
            if isinstance(node.operation, Convolution):
                group = group_of(graph, node)
                done |= self._names_between(graph, group)
                self._add_group(graph, group)
            elif not (isinstance(node.operation, Pooling) and fused_pool(graph, node)):
                self._add_single(node)

    @staticmethod
    def _names_between(graph: Graph, group: FusedGroup) -> set[str]:
        names, current = {group.node.name}, group.node
        while current.name != group.result:
            following = graph.only_reader(current)
            assert following is not None
            names.add(following.name)
            current = following
        return names

    def _add_group(self, graph: Graph, group: FusedGroup) -> None:
        name = self._by_key.get(group.key)
        if name is None:
            name = self._unique(group.node.label)
            layer = self._layer(self._with_own_parameters(group))
            if layer is not None:
                self.layers[name] = layer
            self._by_key[group.key] = name
            self._note_groups(group)
            self.lines.append(LayerLine(name=name, kind=_kind(group), origins=tuple(map(str, group.origins))))
        shape = graph.by_name[group.result].shape
        self.steps.append(Step(kind="layer", target=name, inputs=(group.source,), result=group.result,
                               shape=shape[1:]))

    def _note_groups(self, group: FusedGroup) -> None:
        """Say what groups cost, but for layers that conversion added and told of."""
        groups = group.conv.groups
        if groups > 1 and not group.conv.copies:
            self.findings.add(notice(group.node.origin, f"{groups} groups run as a dense convolution with zero weights "
                                     f"on the MAX78000: {groups} times the work; depthwise layers are native on the "
                                     "K210"))

    def _with_own_parameters(self, group: FusedGroup) -> FusedGroup:
        """The group with copies of parameters that another layer holds already: folding would change both."""
        conv = group.conv
        held = [self._owners[id(part)] for part in (conv.weight, conv.bias) if id(part) in self._owners]
        owner = held[0] if held else None
        if owner is not None:
            self.findings.add(notice(group.node.origin, f"shares parameters with {owner}, but is fused with other "
                                     "operations; from now on they are trained apart"))
            bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
            conv = replace(conv, weight=nn.Parameter(conv.weight.detach().clone()), bias=bias)
        for part in (conv.weight, conv.bias):
            if part is not None:
                self._owners[id(part)] = str(group.node.origin)
        return replace(group, conv=conv)

    def _layer(self, group: FusedGroup) -> QuantizationAwareModule | None:
        """The module of a group, or None after reporting what the chip's limits say."""
        conv = group.conv
        try:
            layer = getattr(modules, group.class_name())(conv.in_channels, conv.out_channels, **group.arguments(),
                                                         device=self.device)
        except UserError as error:
            for found in error.diagnostics:
                self._refuse(group.origins[0], found)
            return None
        self._fill(layer.op, conv)
        if group.norm is not None:
            layer.bn = copy.deepcopy(group.norm.module, self._copies)
        return layer.to(conv.weight.device)  # type: ignore[no-any-return]

    def _refuse(self, origin: Origin, found: Diagnostic) -> None:
        self.findings.add(replace(found, message=f"{origin}: {found.message}", layer=origin.path,
                                  source=origin.source))

    def _fill(self, op: Operation, conv: Convolution) -> None:
        """Give an operation copies of the parameters."""
        op.weight = copy.deepcopy(conv.weight, self._copies)
        if conv.bias is not None:
            op.bias = copy.deepcopy(conv.bias, self._copies)
        elif op.bias is not None:
            with torch.no_grad():
                op.bias.zero_()

    def _add_single(self, node: Node) -> None:
        """Steps and layers without weights."""
        operation = node.operation
        if isinstance(operation, (Concatenate, Reshape)):
            kind = "concat" if isinstance(operation, Concatenate) else "reshape"
            self.steps.append(Step(kind=kind, inputs=node.inputs, result=node.name, shape=node.shape[1:]))
            return
        try:
            module = self._weightless(operation)
        except UserError as error:
            for found in error.diagnostics:
                self._refuse(node.origin, found)
            return
        name = self._shared_name(node, operation)
        self.layers[name] = module
        self.steps.append(Step(kind="layer", target=name, inputs=node.inputs, result=node.name, shape=node.shape[1:]))
        if isinstance(module, (QuantizationAwareModule, ElementwiseModule)):
            self.lines.append(LayerLine(name=name, kind=type(module).__name__, origins=(str(node.origin),)))

    def _weightless(self, operation: object) -> nn.Module:
        if isinstance(operation, Combine):
            return modules.Add() if operation.operator == "Add" else modules.Sub()
        if isinstance(operation, Pooling):
            kind = getattr(modules, f"{operation.kind}Pool{len(operation.size)}d")
            pool: nn.Module = kind(operation.size, stride=operation.stride, device=self.device)
            return pool
        if isinstance(operation, (Drop, Ready)):
            return copy.deepcopy(operation.module, self._copies)
        raise TypeError(f"{type(operation).__name__} has no layer")

    def _shared_name(self, node: Node, operation: object) -> str:
        """The name of a layer; modules of the user's that are called twice keep one."""
        if not isinstance(operation, (Drop, Ready)):
            return self._unique(node.label)
        key = (id(operation.module),)
        if key not in self._by_key:
            self._by_key[key] = self._unique(node.label)
        return self._by_key[key]

    def _unique(self, name: str) -> str:
        """A name that neither a layer nor an attribute of a module has."""
        stem = f"{name}_layer" if hasattr(nn.Module, name) or name in _RESERVED else name
        found, number = stem, 2
        while found in self._used:
            found, number = f"{stem}_{number}", number + 1
        self._used.add(found)
        return found


_RESERVED = frozenset({"report", "steps", "training", "structure", "_computed", "_done", "_input_name"})
"""Attributes of `ai8x.nn.conversion.model.ConvertedModel` beside those of `nn.Module`."""


def _kind(group: FusedGroup) -> str:
    """Class and sizes of a layer."""
    conv = group.conv
    parts = [str(conv.in_channels), str(conv.out_channels)]
    if conv.kernel:
        parts.append(size_text(conv.kernel))
    if conv.before and any(conv.before):
        parts.append(f"padding {conv.before[0]}")
    if group.pool:
        parts.append(f"pool {size_text(group.pool.size)}/{group.pool.stride[0]}")
    if group.wide:
        parts.append("wide")
    return f"{group.class_name()}({', '.join(parts)})"
