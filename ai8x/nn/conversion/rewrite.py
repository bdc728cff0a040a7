"""Rewriting a graph until every operation has a place in a layer of the chip.

A layer pools, convolves, normalises, activates, in this order (spec/ai8x-training.md section 3.1). The passes move
operations that may change places, give those without a convolution one that copies, and refuse the rest. Each pass is
a function; `rewrite` is their order.
"""

from __future__ import annotations

import math
from dataclasses import replace

from ai8x.nn.conversion.arguments import NotPossible, size_text
from ai8x.nn.conversion.geometry import chain_shape, copying, legal_forms
from ai8x.nn.conversion.graph import (
    Activate,
    Convolution,
    Drop,
    Graph,
    HostFunction,
    Node,
    Norm,
    Operation,
    Padding,
    Pooling,
    Ready,
    Reshape,
    Shape,
    Unknown,
    is_non_negative,
    output_shape,
    with_inferred_shapes,
    without_dead_nodes,
)
from ai8x.nn.conversion.hosts import with_hosts
from ai8x.nn.conversion.order import ordered, simplified, with_split_pools, with_wide_heads
from ai8x.nn.conversion.read_layers import RELU
from ai8x.nn.conversion.rewriting import Rewriting, settled, with_operations
from ai8x.nn.limits import MAX_PADDING

_REPLACEABLE_HOST = ("sigmoid", "tanh")


def rewrite(graph: Graph, rewriting: Rewriting) -> Graph:
    """All passes in order."""
    graph = without_dead_nodes(graph)
    for one_pass in (without_host_functions, _with_merged_padding, _legalised, _with_checked_shapes, ordered,
                     with_wide_heads, with_split_pools, with_hosts):
        graph = one_pass(simplified(graph), rewriting)
    return with_inferred_shapes(without_dead_nodes(graph))


def without_host_functions(graph: Graph, rewriting: Rewriting) -> Graph:
    """Softmax and the like behind the last layer are left to the CPU; elsewhere they are refused."""
    for node in reversed(graph.nodes):
        if not isinstance(node.operation, HostFunction):
            continue
        current = graph.by_name[node.name]
        name = node.operation.name
        if not graph.readers(current):
            rewriting.notice(current, f"{name} at the end is left to the CPU; the converted model returns its operand",
                             help="train with a loss that includes it, such as cross_entropy or "
                             "binary_cross_entropy_with_logits")
            graph = graph.without(current)
            rewriting.is_exact = False
            continue
        problem = NotPossible(f"the chip has no {name}; its activations are ReLU and Abs",
                              help="ReLU" if name in _REPLACEABLE_HOST else "",
                              replacement=(RELU,) if name in _REPLACEABLE_HOST else None)
        graph = with_operations(graph, current, rewriting.refused(current, problem))
    return graph


# ------------------------------------------------------------------------------------------------------------ borders


def _pad_convolution_behind(graph: Graph, node: Node) -> Graph | None:
    """Zeros (or fewer elements) in front of a convolution become its padding."""
    reader = graph.only_reader(node)
    if not isinstance(node.operation, Padding) or reader is None or not isinstance(reader.operation, Convolution):
        return None
    conv, ends = reader.operation, node.operation
    crops_padding = any(e < 0 < own for e, own in zip((*ends.before, *ends.after), (*conv.before, *conv.after),
                                                      strict=False))
    if conv.is_transposed or not conv.kernel or crops_padding:
        return None
    merged = replace(conv, before=_sum(conv.before, ends.before), after=_sum(conv.after, ends.after))
    return graph.with_operation(reader, merged).without(node)


def _crop_convolution_before(graph: Graph, node: Node) -> Graph | None:
    """What is cut off behind a convolution, it need not compute."""
    if not isinstance(node.operation, Padding) or max(*node.operation.before, *node.operation.after) > 0:
        return None
    source = graph.producer(node)
    if graph.only_reader(source) is not node:
        return None
    if isinstance(source.operation, (Norm, Activate, Drop)):
        return graph.swapped(source, node)
    conv = source.operation
    if not isinstance(conv, Convolution) or conv.is_transposed or set(conv.stride) != {1}:
        return None
    cropped = replace(conv, before=_sum(conv.before, node.operation.before), after=_sum(conv.after,
                                                                                       node.operation.after))
    return graph.with_operation(source, cropped, node.shape).without(graph.by_name[node.name])


def _sum(first: Shape, second: Shape) -> Shape:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _with_merged_padding(graph: Graph, rewriting: Rewriting) -> Graph:
    """Borders become padding of convolutions, or layers of their own."""
    graph = settled(graph, (_pad_convolution_behind, _crop_convolution_before))
    for node in graph.nodes:
        ends = node.operation
        if not isinstance(ends, Padding):
            continue
        current = graph.by_name[node.name]
        if ends.is_lowest and not _hides_zeros(graph, current):
            problem = NotPossible("maximum pooling with padding of values that may be negative: the chip pads with "
                                  "zeros", code="E0763", help="padding with zeros (exact behind a ReLU)",
                                  replacement=(replace(ends, is_lowest=False),))
            if isinstance(rewriting.refused(current, problem)[0], Unknown):
                graph = graph.with_operation(current, Unknown())
                continue
        rewriting.notice(current, "zeros at the border take a layer of their own",
                         help="choose sizes that need no padding here")
        source = graph.producer(current).shape
        conv = replace(copying(source), before=ends.before, after=ends.after)
        graph = graph.with_operation(current, conv)
    return graph


def _hides_zeros(graph: Graph, node: Node) -> bool:
    """Whether zeros at the border are never greater than what maximum pooling would find, or do not show."""
    if is_non_negative(graph, graph.producer(node)):
        return True
    pool = graph.only_reader(node)
    behind = graph.only_reader(pool) if pool is not None else None
    return behind is not None and behind.operation == RELU


# ------------------------------------------------------------------------------------------------------- convolutions


def _legalised(graph: Graph, rewriting: Rewriting) -> Graph:
    """Every convolution in a form of the chip; those that share their parameters keep sharing them."""
    known: dict[tuple[object, ...], tuple[Operation, ...]] = {}
    for node in graph.nodes:
        conv = node.operation
        if not isinstance(conv, Convolution):
            continue
        current = graph.by_name[node.name]
        shape = graph.producer(current).shape
        key = (id(conv.weight), id(conv.bias), conv.operator, conv.stride, conv.before, conv.after, conv.dilation,
               conv.groups, conv.output_padding, shape)
        forms = known.get(key)
        if forms is None:
            forms = _forms(graph, current, conv, rewriting)
            if Unknown not in map(type, forms) and chain_shape(forms, shape) == output_shape(conv, shape):
                known[key] = forms
        if forms != (conv,):
            graph = with_inferred_shapes(with_operations(graph, current, forms))
    return graph


def _forms(graph: Graph, node: Node, conv: Convolution, rewriting: Rewriting) -> tuple[Operation, ...]:
    """What stands in the place of a convolution."""
    shape = graph.producer(node).shape
    try:
        forms = legal_forms(conv, shape, lambda wanted, found: _tolerates(graph, node, wanted, found))
    except NotPossible as problem:
        return rewriting.refused(node, problem)
    rings = sum(isinstance(form, Convolution) for form in forms) - 1
    if rings:
        rewriting.notice(node, f"its padding takes {rings} more layer{'s' if rings > 1 else ''} in front",
                         help=f"use padding of at most {MAX_PADDING}, equal on all sides")
    if len(forms) > 1 and isinstance(forms[-1], Pooling):
        work = math.prod(conv.stride)
        rewriting.notice(node, f"stride {size_text(conv.stride)} is computed with stride 1 and subsampled behind: "
                         f"{work} times the work, and a result {work} times as large",
                         help="pool in front of the convolution instead, and train again")
    return forms


def _tolerates(graph: Graph, node: Node, wanted: Shape, found: Shape) -> bool:
    """Whether the rows and columns behind the end are never looked at: a pooling drops them."""
    for following in graph.chain_behind(node):
        pool = following.operation
        if isinstance(pool, Pooling):
            return output_shape(pool, (1, 1, *wanted)) == output_shape(pool, (1, 1, *found))
        if not isinstance(pool, (Norm, Activate, Drop)):
            return False
    return False


# -------------------------------------------------------------------------------------------------------------- shapes


def _with_checked_shapes(graph: Graph, rewriting: Rewriting) -> Graph:
    """Changes of shape that the chip's memory allows: flattening in front of a linear layer, or none at all."""
    for node in graph.nodes:
        current = graph.by_name[node.name]
        if not isinstance(node.operation, Reshape):
            continue
        before, after = graph.producer(current).shape, current.shape
        flattens = after == (before[0], _count(before))
        readers = [r.operation for r in graph.readers(current) if not isinstance(r.operation, Drop)]
        reads_features = all(isinstance(r, (Convolution, Ready, Unknown, Norm)) for r in readers)
        same_channels = len(after) > 1 and after[1] == before[1]
        if same_channels or (flattens and reads_features):
            continue
        what = f"a change of shape from {size_text(before[1:])} to {size_text(after[1:])}"
        nearest = ("global pooling before flattening, or a linear layer behind it" if flattens else
                   f"{size_text((after[1], 1, 1))} and transposed convolutions" if len(after) == 4 else "flatten(1)")
        graph = graph.with_operation(current, rewriting.refused(current, NotPossible(what, code="E0762",
                                                                                     help=nearest))[0])
    return graph


def _count(shape: Shape) -> int:
    count = 1
    for size in shape[1:]:
        count *= size
    return count


