"""The order of operations: pooling in front of convolutions, BatchNorm and activations behind them.

Owns which operations may change places without changing the result, and what becomes of pooling that no convolution
does. Start at `ordered` and `with_split_pools`.

Source: spec/ai8x-training.md sections 3.1 (order in a layer) and 3.4 (pooling without a convolution).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from torch import nn

from ai8x.nn.conversion.arguments import CONV_OPERATORS, is_depthwise
from ai8x.nn.conversion.geometry import copying
from ai8x.nn.conversion.graph import (
    Activate,
    Convolution,
    Drop,
    Graph,
    Identity,
    Node,
    Norm,
    Operation,
    Padding,
    Pooling,
    Reshape,
    Shape,
    is_non_negative,
    without_dead_nodes,
)
from ai8x.nn.conversion.rewriting import Rewriting, settled
from ai8x.nn.functional import ActivationKind

MAX_POOLED_CHANNELS = 64
"""A layer that only pools more channels than this must make a 1x1 map (spec/ai8x-training.md section 3.4)."""


def _drop_identity(graph: Graph, node: Node) -> Graph | None:
    is_plain = isinstance(node.operation, Identity) or (isinstance(node.operation, (Reshape, Padding))
                                                        and graph.producer(node).shape == node.shape
                                                        and not _moves(node.operation))
    return graph.without(node) if is_plain else None


def _moves(operation: Operation) -> bool:
    return isinstance(operation, Padding) and (any(operation.before) or any(operation.after))


def _join_reshapes(graph: Graph, node: Node) -> Graph | None:
    source = graph.producer(node)
    if isinstance(node.operation, Reshape) and isinstance(source.operation, Reshape):
        return replace(graph, nodes=tuple(replace(n, inputs=source.inputs) if n is node else n for n in graph.nodes))
    return None


def _drop_repeated_activation(graph: Graph, node: Node) -> Graph | None:
    if isinstance(node.operation, Activate) and is_non_negative(graph, graph.producer(node)):
        return graph.without(node)
    return None


def _activate_before_reshape(graph: Graph, node: Node) -> Graph | None:
    """Element-wise operations do not mind the shape, but layers end with them."""
    source = graph.producer(node)
    moves = isinstance(node.operation, (Activate, Drop)) and isinstance(source.operation, Reshape)
    return graph.swapped(source, node) if moves and graph.only_reader(source) is node else None


def _join_scalings(graph: Graph, node: Node) -> Graph | None:
    """Two factors and offsets per channel in a row are one, as in ``(x - mean) / std``."""
    source = graph.producer(node)
    second, first = node.operation, source.operation
    if graph.only_reader(source) is not node or not (_is_scaling(first) and _is_scaling(second)):
        return None
    assert isinstance(first, Convolution) and isinstance(second, Convolution)
    weight, factor = second.weight.detach() * first.weight.detach(), second.weight.detach().flatten()
    terms = [bias for bias in (None if first.bias is None else first.bias.detach() * factor, second.bias) if
             bias is not None]
    bias = nn.Parameter(sum(terms[1:], terms[0]).detach().clone()) if terms else None
    joined = replace(second, weight=nn.Parameter(weight), bias=bias, copies=False)
    return graph.with_operation(node, joined).without(source)


def _is_scaling(operation: Operation) -> bool:
    return (isinstance(operation, Convolution) and set(operation.kernel) == {1} and is_depthwise(operation)
            and not any((*operation.before, *operation.after)) and set(operation.stride) == {1})


def simplified(graph: Graph) -> Graph:
    """Without operations that change nothing."""
    rules = (_drop_identity, _join_scalings, _join_reshapes, _drop_repeated_activation, _activate_before_reshape)
    return without_dead_nodes(settled(graph, rules))


def _activate_before_pool(graph: Graph, node: Node) -> Graph | None:
    """ReLU and greatest value may change places; subsampling and anything element-wise likewise."""
    source = graph.producer(node)
    pool = source.operation
    if not isinstance(pool, Pooling) or graph.only_reader(source) is not node:
        return None
    if graph.only_reader(graph.producer(source)) is not source:
        return None
    if isinstance(node.operation, Activate):
        moves = pool.is_subsampling or (pool.kind == "Max" and node.operation.kind is ActivationKind.RELU)
    elif isinstance(node.operation, Norm):
        moves = isinstance(graph.producer(source).operation, Convolution) and _norm_may_move(graph, pool, node)
    else:
        moves = isinstance(node.operation, Drop) and _is_read_by_convolution(graph, node)
    return graph.swapped(source, node) if moves else None


def _average_before_pointwise(graph: Graph, node: Node) -> Graph | None:
    """An average commutes with a 1x1 convolution, which then computes on fewer pixels."""
    source, pool = graph.producer(node), node.operation
    if not isinstance(pool, Pooling) or pool.kind != "Avg" or graph.only_reader(source) is not node:
        return None
    is_pointwise = isinstance(source.operation, Convolution) and _is_pointwise(source.operation)
    return graph.swapped(source, node) if is_pointwise else None


def _is_pointwise(conv: Convolution) -> bool:
    plain = conv.operator in CONV_OPERATORS.values() and not any(conv.before) and not any(conv.after)
    return plain and not conv.copies and {*conv.kernel, *conv.stride, conv.groups} == {1}


def with_wide_heads(graph: Graph, rewriting: Rewriting) -> Graph:
    """1x1 convolutions of one pixel at the end are linear layers, whose outputs may have 32 bits."""
    del rewriting
    uses = Counter(id(node.operation.weight) for node in graph.nodes if isinstance(node.operation, Convolution))
    for node in graph.nodes:
        current = graph.by_name[node.name]
        conv = current.operation
        if not isinstance(conv, Convolution) or not _is_pointwise(conv) or set(current.shape[2:]) != {1}:
            continue
        if uses[id(conv.weight)] > 1:  # a linear layer has weights of its own, which would be trained apart
            continue
        readers = graph.readers(current)
        if any(not isinstance(reader.operation, Reshape) or graph.readers(reader) for reader in readers):
            continue
        if set(graph.producer(current).shape[2:]) != {1}:
            continue
        linear = Convolution(operator="Linear", bias=conv.bias,
                             weight=nn.Parameter(conv.weight.detach().flatten(1).clone()))
        batch = current.shape[0]
        chain: list[tuple[Operation, Shape]] = [
            (Reshape(), (batch, conv.in_channels)), (linear, (batch, conv.out_channels)), (Reshape(), current.shape)]
        graph = graph.with_chain(current, chain)
    return simplified(graph)


def _norm_may_move(graph: Graph, pool: Pooling, node: Node) -> bool:
    """Whether BatchNorm gives the same before the pooling, and nothing is lost by it."""
    assert isinstance(node.operation, Norm)
    gamma = node.operation.module.weight
    if pool.is_subsampling:
        return True
    if pool.kind == "Max":
        return gamma is None or bool((gamma > 0).all())
    following = graph.only_reader(node)
    return following is None or not isinstance(following.operation, Activate)


def _is_read_by_convolution(graph: Graph, node: Node) -> bool:
    reader = graph.only_reader(node)
    return reader is not None and isinstance(reader.operation, Convolution) and reader.operation.operator != "Linear"


def _drop_last(graph: Graph, node: Node) -> Graph | None:
    """Dropout behind BatchNorm and activation of the same layer."""
    source = graph.producer(node)
    moves = isinstance(source.operation, Drop) and isinstance(node.operation, (Norm, Activate))
    return graph.swapped(source, node) if moves and graph.only_reader(source) is node else None


def ordered(graph: Graph, rewriting: Rewriting) -> Graph:
    """Operations in the order of a layer, as far as they may change places."""
    del rewriting
    rules = (_drop_last, _average_before_pointwise, _activate_before_pool, _activate_before_reshape,
             _drop_repeated_activation)
    return without_dead_nodes(settled(graph, rules))


def with_split_pools(graph: Graph, rewriting: Rewriting) -> Graph:
    """Pooling that several layers read becomes part of each of them where a layer of its own is no good."""
    for node in graph.nodes:
        pool = node.operation
        if not isinstance(pool, Pooling):
            continue
        current = graph.by_name[node.name]
        readers = graph.readers(current)
        alone = len(readers) != 1 or current.name in graph.outputs or not _fuses(readers[0])
        wide = current.shape[1] > MAX_POOLED_CHANNELS and max(current.shape[2:]) > 1
        if not alone or not wide:
            continue
        if readers and all(_fuses(reader) for reader in readers) and current.name not in graph.outputs:
            graph = _split(graph, current)
        else:
            rewriting.notice(current, f"pooling of {current.shape[1]} channels takes a layer that copies",
                             help=f"pool at most {MAX_POOLED_CHANNELS} channels, or directly before a convolution")
            graph = graph.with_chain(current, [(pool, current.shape), (copying(current.shape), current.shape)])
    return graph


def _fuses(reader: Node) -> bool:
    """Whether a reader can do the pooling in front of it."""
    return isinstance(reader.operation, Convolution) and reader.operation.operator in ("Conv1d", "Conv2d")


def _split(graph: Graph, node: Node) -> Graph:
    """The graph in which every reader has a copy of a pooling."""
    readers = graph.readers(node)
    copies = {reader.name: replace(node, name=f"{graph.unique(node.name)}_{number}")
              for number, reader in enumerate(readers)}
    nodes: list[Node] = []
    for other in graph.nodes:
        if other.name in copies:
            nodes.append(copies[other.name])
            other = replace(other, inputs=(copies[other.name].name,))
        if other is not node:
            nodes.append(other)
    return replace(graph, nodes=tuple(nodes))


