"""The operations of a plain model as data: what conversion reads, rewrites and fuses.

A `Graph` is an ordered tuple of nodes; rewriting returns a new one. Owns the operations, the shapes they make, and
the ways to change a graph. Start at `Node` and `Graph`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from ai8x.errors import Source
from ai8x.nn.functional import ActivationKind

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an operation stands in the user's model.

    Args:
        path: of the module, such as ``features.0``.
        what: class or function, with the arguments that matter.
        source: line of the user's code, for functions.
    """

    path: str
    what: str
    source: Source | None = None

    def __str__(self) -> str:
        return f"{self.path} ({self.what})" if self.path else self.what


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Convolution:
    """Convolution, transposed convolution or linear layer; sizes are per dimension, () for linear.

    Args:
        operator: 'Conv1d', 'Conv2d', 'ConvTranspose2d' or 'Linear'.
        weight: as torch has it.
        bias: or None.
        kernel: size.
        stride: step.
        before: zeros in front of the data; negative values drop data.
        after: zeros behind the data, likewise.
        dilation: step inside the kernel.
        groups: as torch has them.
        output_padding: of transposed convolutions.
        copies: the kernel only copies channels, at most shifted: added for the chip's sake.
    """

    operator: str
    weight: Tensor
    bias: Tensor | None
    kernel: Shape = ()
    stride: Shape = ()
    before: Shape = ()
    after: Shape = ()
    dilation: Shape = ()
    groups: int = 1
    output_padding: Shape = ()
    copies: bool = False

    @property
    def is_transposed(self) -> bool:
        """Output channels are counted by the second dimension of the weight."""
        return self.operator == "ConvTranspose2d"

    @property
    def in_channels(self) -> int:
        """Channels or features read."""
        return int(self.weight.shape[0]) if self.is_transposed else int(self.weight.shape[1]) * self.groups

    @property
    def out_channels(self) -> int:
        """Channels or features made."""
        return int(self.weight.shape[1]) * self.groups if self.is_transposed else int(self.weight.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Norm:
    """BatchNorm over the channels."""

    module: nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True, slots=True, kw_only=True)
class Activate:
    """ReLU or absolute value."""

    kind: ActivationKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """Maximum or average over windows.

    Args:
        kind: 'Max' or 'Avg'.
        size: of the window.
        stride: step of the window.
    """

    kind: str
    size: Shape
    stride: Shape

    @property
    def is_subsampling(self) -> bool:
        """Takes every n-th element and nothing else."""
        return set(self.size) == {1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """Zeros around the data; negative numbers drop data.

    Args:
        before: in front.
        after: behind.
        is_lowest: stands for the least value, which maximum pooling pads with; zeros do where nothing is negative.
    """

    before: Shape
    after: Shape
    is_lowest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Combine:
    """Element-wise sum or difference: 'Add' or 'Sub'."""

    operator: str


@dataclass(frozen=True, slots=True)
class Concatenate:
    """Joins tensors along the channels."""


@dataclass(frozen=True, slots=True)
class Reshape:
    """Gives the data another shape with the same order of elements; the node's shape says which."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drop:
    """Dropout."""

    module: nn.Module


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ready:
    """A layer of ours, taken over as it is."""

    module: nn.Module


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFunction:
    """A function that no chip computes, but which may stand behind the last layer, such as softmax."""

    name: str


@dataclass(frozen=True, slots=True)
class Input:
    """The model's input."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Passes its input on."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Was refused; the shape is known, so that the rest can be examined."""


Operation = (Convolution | Norm | Activate | Pooling | Padding | Combine | Concatenate | Reshape | Drop | Ready
             | HostFunction | Input | Identity | Unknown)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One operation.

    Args:
        name: unique in the graph.
        operation: what it does.
        inputs: names of the nodes read.
        shape: of the result, with the batch in front.
        origin: in the user's model.
        label: what a layer made of it is called.
    """

    name: str
    operation: Operation
    inputs: tuple[str, ...]
    shape: Shape
    origin: Origin
    label: str


def output_shape(operation: Operation, shape: Shape) -> Shape:
    """The shape that an operation of one operand makes.

    Raises:
        TypeError: for operations whose result depends on more than their operand.
    """
    if isinstance(operation, Pooling):
        sizes = [(n - k) // s + 1 for n, k, s in zip(shape[2:], operation.size, operation.stride, strict=True)]
        return (*shape[:2], *sizes)
    if isinstance(operation, Padding):
        ends = zip(shape[2:], operation.before, operation.after, strict=True)
        return (*shape[:2], *(n + b + a for n, b, a in ends))
    if isinstance(operation, Convolution):
        return _convolved_shape(operation, shape)
    if isinstance(operation, (Norm, Activate, Drop, HostFunction, Identity)):
        return shape
    raise TypeError(f"the shape made by {type(operation).__name__} does not follow from its operand")


def _convolved_shape(conv: Convolution, shape: Shape) -> Shape:
    if conv.operator == "Linear":
        return (*shape[:-1], conv.out_channels)
    sizes = []
    for axis, size in enumerate(shape[2:]):
        kernel, stride = conv.kernel[axis], conv.stride[axis]
        ends = conv.before[axis] + conv.after[axis]
        reach = conv.dilation[axis] * (kernel - 1) + 1
        if conv.is_transposed:
            sizes.append((size - 1) * stride - ends + reach + conv.output_padding[axis])
        else:
            sizes.append((size + ends - reach) // stride + 1)
    return (shape[0], conv.out_channels, *sizes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """Nodes in an order in which they can be computed.

    Args:
        nodes: the first is the input.
        outputs: nodes whose results the model returns.
        structure: of what the model returns, with node names in place of tensors: a name, None, or tuples and mappings.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    structure: Any

    @cached_property
    def by_name(self) -> Mapping[str, Node]:
        """Nodes by their names."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def _readers(self) -> Mapping[str, tuple[Node, ...]]:
        found: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found[name].append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    def readers(self, node: Node) -> tuple[Node, ...]:
        """Nodes that read a node's result."""
        return self._readers[node.name]

    def only_reader(self, node: Node) -> Node | None:
        """The one node that reads a result, if no other does and the model does not return it."""
        readers = self.readers(node)
        return readers[0] if len(readers) == 1 and node.name not in self.outputs else None

    def producer(self, node: Node, position: int = 0) -> Node:
        """The node that makes an operand."""
        return self.by_name[node.inputs[position]]

    def chain_behind(self, node: Node) -> Iterator[Node]:
        """The nodes behind a node, as long as each is the only reader and reads nothing else."""
        following = self.only_reader(node)
        while following is not None and len(following.inputs) == 1:
            yield following
            following = self.only_reader(following)

    def unique(self, stem: str) -> str:
        """A node name that is not in use."""
        number = 1
        while f"{stem}_{number}" in self.by_name:
            number += 1
        return f"{stem}_{number}"

    def with_chain(self, node: Node, operations: Iterable[tuple[Operation, Shape]]) -> Graph:
        """The graph with one node replaced by several in a row; none means that readers get the node's operand.

        The last of them keeps the name, the others get new ones.
        """
        listed = list(operations)
        if not listed:
            return self.without(node)
        chain: list[Node] = []
        inputs = node.inputs
        for number, (operation, shape) in enumerate(listed):
            is_last = number == len(listed) - 1
            name = node.name if is_last else f"{self.unique(node.name)}_{number}"
            chain.append(replace(node, name=name, operation=operation, inputs=inputs, shape=shape))
            inputs = (name,)
        nodes = [part for other in self.nodes for part in (chain if other is node else (other,))]
        return replace(self, nodes=tuple(nodes))

    def with_operation(self, node: Node, operation: Operation, shape: Shape | None = None) -> Graph:
        """The graph with another operation in a node's place."""
        return self.with_chain(node, [(operation, node.shape if shape is None else shape)])

    def without(self, node: Node) -> Graph:
        """The graph in which readers of a node read its operand instead."""
        target = node.inputs[0]
        nodes = tuple(_redirected(other, {node.name: target}) for other in self.nodes if other is not node)
        return replace(self, nodes=nodes, outputs=tuple(target if n == node.name else n for n in self.outputs),
                       structure=_renamed(self.structure, {node.name: target}))

    def swapped(self, first: Node, second: Node) -> Graph:
        """The graph in which ``second``, the only reader of ``first``, comes before it; shapes are made anew."""
        shape = output_shape(second.operation, self.producer(first).shape)
        early = replace(second, name=first.name, inputs=first.inputs, shape=shape)
        late = replace(first, name=second.name, inputs=(first.name,), shape=second.shape)
        return replace(self, nodes=tuple(early if n is first else late if n is second else n for n in self.nodes))


def _redirected(node: Node, names: Mapping[str, str]) -> Node:
    if not any(name in names for name in node.inputs):
        return node
    return replace(node, inputs=tuple(names.get(name, name) for name in node.inputs))


def _renamed(structure: Any, names: Mapping[str, str]) -> Any:
    if structure is None:
        return None
    if isinstance(structure, str):
        return names.get(structure, structure)
    if isinstance(structure, Mapping):
        return {key: _renamed(value, names) for key, value in structure.items()}
    return tuple(_renamed(value, names) for value in structure)


def without_dead_nodes(graph: Graph) -> Graph:
    """Nodes that outputs depend on, and the input."""
    needed = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return replace(graph, nodes=tuple(n for n in graph.nodes if n.name in needed or isinstance(n.operation, Input)))


def with_inferred_shapes(graph: Graph) -> Graph:
    """The graph with the shapes that follow from the first; changes of shape and refused nodes keep theirs."""
    shapes: dict[str, Shape] = {}
    nodes = []
    for node in graph.nodes:
        shape = node.shape
        operands = [shapes[name] for name in node.inputs]
        if isinstance(node.operation, Combine):
            shape = operands[0]
        elif isinstance(node.operation, Concatenate):
            shape = (shape[0], sum(s[1] for s in operands), *operands[0][2:])
        elif not isinstance(node.operation, (Input, Reshape, Ready, Unknown)):
            shape = output_shape(node.operation, operands[0])
        shapes[node.name] = shape
        nodes.append(node if shape == node.shape else replace(node, shape=shape))
    return replace(graph, nodes=tuple(nodes))


def is_non_negative(graph: Graph, node: Node) -> bool:
    """Whether a result can hold no negative number, from activations and operations alone."""
    operation = node.operation
    if isinstance(operation, Activate):
        return True
    if isinstance(operation, Convolution):
        return operation.copies and is_non_negative(graph, graph.producer(node))
    if isinstance(operation, Ready):
        return getattr(operation.module, "activation", ActivationKind.NONE) is not ActivationKind.NONE
    keeps = isinstance(operation, (Pooling, Padding, Concatenate, Reshape, Drop, Identity))
    if keeps or (isinstance(operation, Combine) and operation.operator == "Add"):
        return all(is_non_negative(graph, graph.by_name[name]) for name in node.inputs)
    return False
