"""Rewriting a graph until every operation has a place in a layer of the chip.

A layer pools, convolves, normalises, activates, in this order (spec/ai8x-training.md section 3.1). The passes move
operations that may change places, give those without a convolution one that copies, and refuse the rest. Each pass is
a function; `rewrite` is their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from ai8x.errors import Diagnostics
from ai8x.nn.conversion.arguments import NotPossible, notice, refusal, replaced_notice, size_text
from ai8x.nn.conversion.geometry import chain_shape, copying, legal_forms
from ai8x.nn.conversion.graph import (
    Activate,
    Convolution,
    Drop,
    Graph,
    HostFunction,
    Identity,
    Input,
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
)
from ai8x.nn.conversion.read_layers import RELU
from ai8x.nn.fold import BatchNormStatistics, fold_parameters
from ai8x.nn.functional import ActivationKind
from ai8x.nn.limits import MAX_PADDING

MAX_POOLED_CHANNELS = 64
"""A layer that only pools more channels than this must make a 1x1 map (spec/ai8x-training.md section 3.4)."""

_REPLACEABLE_HOST = ("sigmoid", "tanh")


@dataclass
class Rewriting:
    """What the passes share: findings, and how strict they are.

    Args:
        replace_unsupported: put nearest forms in the place of what no layer computes.
        findings: refusals and notices.
        is_exact: outputs are still those of the model.
    """

    replace_unsupported: bool
    findings: Diagnostics = field(default_factory=Diagnostics)
    is_exact: bool = True

    def refused(self, node: Node, problem: NotPossible) -> tuple[Operation, ...]:
        """What stands in the place of a refused operation: the nearest form, or one that only has the shape."""
        if self.replace_unsupported and problem.replacement is not None:
            self.findings.add(replaced_notice(problem, node.origin))
            self.is_exact = False
            return problem.replacement
        self.findings.add(refusal(problem, node.origin))
        return (Unknown(),)

    def notice(self, node: Node, message: str, *, help: str = "") -> None:
        """Tell the user something."""
        self.findings.add(notice(node.origin, message, help=help))


def rewrite(graph: Graph, rewriting: Rewriting) -> Graph:
    """All passes in order."""
    for one_pass in (without_dead_nodes, without_host_functions, _simplified, _with_merged_padding, _legalised,
                     _with_checked_shapes, _ordered, _with_split_pools, _with_hosts):
        graph = one_pass(graph, rewriting)
    return with_inferred_shapes(without_dead_nodes(graph, rewriting))


def without_dead_nodes(graph: Graph, rewriting: Rewriting) -> Graph:
    """Nodes that outputs depend on, and the input."""
    del rewriting
    needed = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return replace(graph, nodes=tuple(n for n in graph.nodes if n.name in needed or isinstance(n.operation, Input)))


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
                              nearest="ReLU" if name in _REPLACEABLE_HOST else "",
                              replacement=(RELU,) if name in _REPLACEABLE_HOST else None)
        graph = _with_operations(graph, current, rewriting.refused(current, problem))
    return graph


def _with_operations(graph: Graph, node: Node, operations: tuple[Operation, ...]) -> Graph:
    """A node replaced by operations in a row; where the shape is not known it is that of the node."""
    chain: list[tuple[Operation, Shape]] = []
    shape = graph.producer(node).shape
    for operation in operations:
        known = not isinstance(operation, (Unknown, Reshape, Ready))
        shape = output_shape(operation, shape) if known else node.shape
        chain.append((operation, shape))
    return graph.with_chain(node, chain)


Rule = Callable[[Graph, Node], Graph | None]


def _settled(graph: Graph, rules: tuple[Rule, ...]) -> Graph:
    """Apply rules until none changes the graph; each of them brings it nearer to its final form."""
    changed = True
    while changed:
        changed = False
        for node in graph.nodes:
            for rule in rules:
                result = rule(graph, node) if node.inputs else None
                if result is not None:
                    graph, changed = result, True
                    break
            if changed:
                break
    return graph


# ---------------------------------------------------------------------------------------------------- simplification


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


def _simplified(graph: Graph, rewriting: Rewriting) -> Graph:
    graph = _settled(graph, (_drop_identity, _join_reshapes, _drop_repeated_activation, _activate_before_reshape))
    return without_dead_nodes(graph, rewriting)


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
    graph = _settled(graph, (_pad_convolution_behind, _crop_convolution_before))
    for node in graph.nodes:
        ends = node.operation
        if not isinstance(ends, Padding):
            continue
        current = graph.by_name[node.name]
        if ends.is_lowest and not _hides_zeros(graph, current):
            problem = NotPossible("maximum pooling with padding of values that may be negative: the chip pads with "
                                  "zeros", code="E0763", nearest="padding with zeros (exact behind a ReLU)",
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
        key = (id(conv.weight), id(conv.bias), conv.operator, conv.stride, conv.before, conv.after, shape)
        forms = known.get(key)
        if forms is None:
            forms = _forms(graph, current, conv, rewriting)
            if Unknown not in map(type, forms) and chain_shape(forms, shape) == output_shape(conv, shape):
                known[key] = forms
        if forms != (conv,):
            graph = with_inferred_shapes(_with_operations(graph, current, forms))
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
                                                                                     nearest=nearest))[0])
    return graph


def _count(shape: Shape) -> int:
    count = 1
    for size in shape[1:]:
        count *= size
    return count


# --------------------------------------------------------------------------------------------------------------- order


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


def _ordered(graph: Graph, rewriting: Rewriting) -> Graph:
    """Operations in the order of a layer, as far as they may change places."""
    graph = _settled(graph, (_drop_last, _activate_before_pool, _activate_before_reshape, _drop_repeated_activation))
    return without_dead_nodes(graph, rewriting)


def _with_split_pools(graph: Graph, rewriting: Rewriting) -> Graph:
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


# --------------------------------------------------------------------------------------------------------------- hosts


def _with_hosts(graph: Graph, rewriting: Rewriting) -> Graph:
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
