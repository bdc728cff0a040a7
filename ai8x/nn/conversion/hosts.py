"""BatchNorm and activations without a convolution in front: in a layer that copies, or folded into a linear layer.

Start at `with_hosts`.

Source: spec/ai8x-training.md sections 3.1 (order in a layer) and 5.9 (folding).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from ai8x.nn.conversion.geometry import copying
from ai8x.nn.conversion.graph import Activate, Convolution, Graph, Node, Norm
from ai8x.nn.conversion.rewriting import Rewriting
from ai8x.nn.fold import BatchNormStatistics, fold_parameters


def with_hosts(graph: Graph, rewriting: Rewriting) -> Graph:
    """BatchNorm and activations behind a convolution of their own: one that copies where there is none."""
    for node in graph.nodes:
        current = graph.by_name.get(node.name)
        if current is None:
            continue
        if isinstance(current.operation, Norm):
            graph = _hosted_norm(graph, current, rewriting)
        elif isinstance(current.operation, Activate) and not _ends_layer(graph, current):
            graph = _with_host(graph, current, rewriting)
    return graph


def _ends_layer(graph: Graph, node: Node) -> bool:
    """Whether a BatchNorm or an activation belongs to the layer in front of it."""
    source = graph.producer(node)
    if graph.only_reader(source) is not node:
        return False
    if isinstance(source.operation, Norm) and isinstance(node.operation, Activate):
        return True
    return isinstance(source.operation, Convolution)


def _with_host(graph: Graph, node: Node, rewriting: Rewriting) -> Graph:
    what = "BatchNorm" if isinstance(node.operation, Norm) else "the activation"
    rewriting.notice(node, f"{what} has no convolution in front and takes a layer that copies")
    shape = graph.producer(node).shape
    return graph.with_chain(node, [(copying(shape), shape), (node.operation, node.shape)])


def _hosted_norm(graph: Graph, node: Node, rewriting: Rewriting) -> Graph:
    """BatchNorm in its layer, folded into a linear layer, or behind a layer that copies."""
    source = graph.producer(node)
    if _ends_layer(graph, node):
        conv = source.operation
        if isinstance(conv, Convolution) and conv.operator == "Linear":
            rewriting.notice(node, "BatchNorm is folded into the linear layer in front of it", help="")
            return graph.with_operation(source, _folded(conv, node)).without(graph.by_name[node.name])
        return graph
    reader = graph.only_reader(node)
    if len(node.shape) == 2:
        if reader is not None and isinstance(reader.operation, Convolution):
            rewriting.notice(node, "BatchNorm is folded into the linear layer behind it")
            return graph.with_operation(reader, _folded_behind(reader.operation, node)).without(node)
        conv = _folded(copying(node.shape), node)
        rewriting.notice(node, "BatchNorm of features becomes a linear layer")
        return graph.with_operation(node, conv)
    return _with_host(graph, node, rewriting)


def _statistics(node: Node) -> BatchNormStatistics:
    assert isinstance(node.operation, Norm)
    module = node.operation.module
    assert module.running_mean is not None and module.running_var is not None
    return BatchNormStatistics(mean=module.running_mean, var=module.running_var, gamma=module.weight,
                               beta=module.bias, eps=module.eps)


def _folded(conv: Convolution, node: Node) -> Convolution:
    """A linear layer that computes the BatchNorm behind it as well."""
    with torch.no_grad():
        weight, bias = fold_parameters(conv.weight, conv.bias, _statistics(node), gain=1.0)
    return replace(conv, weight=nn.Parameter(weight.detach()), bias=nn.Parameter(bias.detach()), copies=False)


def _folded_behind(conv: Convolution, node: Node) -> Convolution:
    """A linear layer that computes the BatchNorm in front of it as well."""
    found = _statistics(node)
    with torch.no_grad():
        scale = torch.rsqrt(found.var.double() + found.eps)
        scale = scale if found.gamma is None else scale * found.gamma
        offset = -found.mean * scale
        offset = offset if found.beta is None else offset + found.beta
        old = conv.weight.detach().double()
        bias = old @ offset if conv.bias is None else old @ offset + conv.bias
        weight = (old * scale).to(conv.weight.dtype)
    return replace(conv, weight=nn.Parameter(weight), bias=nn.Parameter(bias.to(conv.weight.dtype)), copies=False)
