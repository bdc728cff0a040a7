"""Collects the layers of a traced torch model. `float_network.py` says how modules and functions are read.

Start at `Reader`.

Source: spec/k210-kmodel.md sections 15 and 17.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from ai8x.k210.activation import LINEAR, ActivationFunction, ActivationKind
from ai8x.k210.quantize_model import (
    MODEL_INPUT,
    Borders,
    ChannelScale,
    FloatLayer,
    FloatOp,
    Pair,
    batch_norm_scale,
)
from ai8x.network.ir import TensorShape

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d
RELU = ActivationFunction(kind=ActivationKind.RELU)


class Unknown(Exception):
    """Something in the model that has no layer; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handlers:
    """How a model's parts are read.

    Args:
        modules: type of a module, subclasses in front of their bases -> (reader, node, module) -> index of the layer.
        functions: function or name of a method -> (reader, node) -> index of the layer.
    """

    modules: Mapping[type[nn.Module], Callable[[Reader, fx.Node, Any], int]]
    functions: Mapping[Any, Callable[[Reader, fx.Node], int]]


def shape_without_batch(sizes: tuple[int, ...]) -> TensorShape:
    """Shape without the batch; features (F, 1, 1), rows (C, 1, L)."""
    if len(sizes) == 2:
        return TensorShape(sizes[1], 1, 1)
    return TensorShape(sizes[1], 1, sizes[2]) if len(sizes) == 3 else TensorShape(sizes[1], sizes[2], sizes[3])


def pair(value: Any) -> Pair:
    """Rows and columns of a size; one-dimensional sizes are of columns."""
    if isinstance(value, (tuple, list)):
        return (1, int(value[0])) if len(value) == 1 else (int(value[0]), int(value[1]))
    return int(value), int(value)


def array(tensor: Tensor) -> NDArray[np.float64]:
    """A parameter's values."""
    return tensor.detach().cpu().double().numpy()


class Reader:
    """Collects layers node by node.

    Args:
        graph: of the model, with shapes.
        handlers: what reads modules and functions.
    """

    def __init__(self, graph: fx.GraphModule, handlers: Handlers) -> None:
        self.layers: list[FloatLayer] = []
        self.outputs: list[int] = []
        self._graph = graph
        self._handlers = handlers
        self._index: dict[fx.Node, int] = {}

    def read(self, node: fx.Node) -> None:
        """One node of the graph.

        Raises:
            Unknown: it has no layer.
        """
        if node.op == "placeholder":
            if self._index:
                raise Unknown("a second input")
            self._index[node] = MODEL_INPUT
        elif node.op == "output":
            results = node.args[0] if isinstance(node.args[0], (tuple, list)) else (node.args[0],)
            self.outputs = [self.index_of(result) for result in results]
        elif node.op == "call_module":
            self._index[node] = self.module(node, self._graph.get_submodule(str(node.target)))
        elif node.op in ("call_function", "call_method"):
            handler = self._handlers.functions.get(node.target)
            if handler is None:
                raise Unknown("this function has no layer")
            self._index[node] = handler(self, node)
        else:
            raise Unknown("constants of the model that are not weights of a layer")

    def index_of(self, value: Any) -> int:
        """Index of the layer whose result a value is.

        Raises:
            Unknown: it is none.
        """
        if not isinstance(value, fx.Node) or value not in self._index:
            raise Unknown("an operand that is no result of a layer")
        return self._index[value]

    def source(self, node: fx.Node) -> int:
        """Index of the first operand."""
        return self.index_of(node.args[0] if node.args else None)

    def rank(self, node: fx.Node) -> int:
        """Dimensions of a node's result, batch included."""
        return len(node.meta["tensor_meta"].shape)

    def sizes(self, node: fx.Node) -> tuple[int, ...]:
        """Rows and columns, or only the length, of a node's first operand."""
        operand = node.args[0]
        assert isinstance(operand, fx.Node)
        return tuple(operand.meta["tensor_meta"].shape[2:])

    def module(self, node: fx.Node, module: nn.Module) -> int:
        """The layer of a module that a node calls."""
        for kind, handler in self._handlers.modules.items():
            if isinstance(module, kind):
                return handler(self, node, module)
        raise Unknown(f"{type(module).__name__} has no layer")

    # ------------------------------------------------------------------------------------------ appending

    def append(self, node: fx.Node, op: FloatOp, *inputs: int, **fields: Any) -> int:
        """A new layer; returns its index."""
        name = str(node.target) if node.op == "call_module" else node.name
        if any(layer.name == name for layer in self.layers):
            name = f"{name}:{len(self.layers)}"
        self.layers.append(FloatLayer(name=name, op=op, inputs=inputs, **fields))
        return len(self.layers) - 1

    def weighted(self, node: fx.Node, source: int, module: nn.Module) -> int:
        """A convolution or a linear layer, without activation."""
        if not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            raise Unknown(f"{type(module).__name__} has no layer")
        weight, stored = module.weight, None if module.bias is None else array(module.bias)
        if isinstance(module, nn.Linear):
            if isinstance(node.args[0], fx.Node) and self.rank(node.args[0]) != 2:
                raise Unknown("Linear on data that is not flat")
            return self.append(node, FloatOp.DENSE, source, weights=array(weight), bias=stored)
        if module.padding_mode != "zeros":
            raise Unknown(f"padding mode {module.padding_mode}")
        is_1d = isinstance(module, nn.Conv1d)
        weights = array(weight)[:, :, None, :] if is_1d else array(weight)
        return self.append(node, FloatOp.CONV2D, source, weights=weights, bias=stored, groups=module.groups,
                           stride=pair(module.stride), dilation=pair(module.dilation),
                           padding=_conv_padding(module, weights.shape[2:]))

    def norm(self, node: fx.Node, source: int, norm: BatchNorm, divisor: float = 1.0) -> int:
        """Batch norm as part of the layer before it, or as a layer of its own."""
        channels = norm.num_features
        mean = np.zeros(channels) if norm.running_mean is None else array(norm.running_mean)
        variance = np.ones(channels) if norm.running_var is None else array(norm.running_var)
        gamma = np.ones(channels) if norm.weight is None else array(norm.weight)
        beta = np.zeros(channels) if norm.bias is None else array(norm.bias)
        if norm.running_mean is None:
            raise Unknown("a BatchNorm without running statistics")
        scale = batch_norm_scale(gamma / divisor, beta / divisor, mean, variance, eps=norm.eps)
        if source != MODEL_INPUT and self._is_plain(source) and self._readers(source) <= 1:
            self.layers[source] = replace(self.layers[source], batch_norm=scale)
            return source
        return self.append(node, FloatOp.CONV2D, source, weights=np.eye(channels)[:, :, None, None], batch_norm=scale)

    def _is_plain(self, index: int) -> bool:
        layer = self.layers[index]
        weighted = layer.op in (FloatOp.CONV2D, FloatOp.DENSE)
        return weighted and layer.batch_norm is None and layer.activation == LINEAR

    def halves(self, node: fx.Node, source: int, eye: NDArray[np.float64]) -> int:
        """``relu(x)`` and ``relu(-x)`` as twice the channels: of the convolution before, if only this reads it."""
        layer = self.layers[source] if source != MODEL_INPUT else None
        if (layer is None or layer.op is not FloatOp.CONV2D or layer.weights is None or layer.groups > 1
                or layer.activation != LINEAR or self._readers(source) > 1):
            both = np.concatenate([eye, -eye])[:, :, None, None]
            return self.append(node, FloatOp.CONV2D, source, weights=both, activation=RELU)
        norm = layer.batch_norm or ChannelScale(factor=np.ones(len(eye)), offset=np.zeros(len(eye)))
        self.layers[source] = replace(
            layer, weights=np.concatenate([layer.weights] * 2), activation=RELU,
            bias=None if layer.bias is None else np.tile(layer.bias, 2),
            batch_norm=ChannelScale(factor=np.concatenate([norm.factor, -norm.factor]),
                                    offset=np.concatenate([norm.offset, -norm.offset])))
        return source

    def _readers(self, index: int) -> int:
        """Nodes that read a layer."""
        return max((len(node.users) for node, found in self._index.items() if found == index), default=0)

    def activation(self, node: fx.Node, function: ActivationFunction) -> int:
        """A function of single elements; `quantize_model.prepared` merges it into the layer before."""
        return self.append(node, FloatOp.ACTIVATION, self.source(node), activation=function)

    def pool(self, node: fx.Node, op: FloatOp, source: int, kernel: Any, stride: Any, padding: Any = 0) -> int:
        """Pooling of windows; one-dimensional where the data is."""
        sizes = [pair(size) for size in (kernel, stride if stride is not None else kernel, padding)]
        if isinstance(node.args[0], fx.Node) and self.rank(node.args[0]) == 3:
            sizes = [(least, size[1]) for least, size in zip((1, 1, 0), sizes, strict=True)]
        window, step, (rows, columns) = sizes
        return self.append(node, op, source, kernel=window, stride=step, padding=(rows, rows, columns, columns))


def _conv_padding(module: nn.Conv1d | nn.Conv2d, kernel: tuple[int, ...]) -> Borders:
    if module.padding == "valid":
        return 0, 0, 0, 0
    if module.padding == "same":  # torch allows it at stride 1 only and puts the odd cell behind
        totals = [(size - 1) * step for size, step in zip(kernel, pair(module.dilation), strict=True)]
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
        return top, bottom, left, right
    sizes = [int(size) for size in module.padding]
    rows, columns = (0, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])
    return rows, rows, columns, columns
