"""A torch model in float -> the layer list that post-training quantisation for the K210 reads.

The model is traced symbolically (`torch.fx`), so its forward may call modules, functions and methods of tensors in any
arrangement that does not depend on data. Layers of torch.nn and of this package (in float mode) are known. Start at
`float_model_from_torch`.

Source: spec/k210-kmodel.md sections 15 and 17; spec/ai8x-training.md section 5.2.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from ai8x.errors import Diagnostic, UserError, user_error
from ai8x.k210.activation import LINEAR, ActivationFunction, ActivationKind
from ai8x.k210.quantize_model import (
    MODEL_INPUT,
    Borders,
    ChannelScale,
    FloatLayer,
    FloatModel,
    FloatOp,
    Pair,
    batch_norm_scale,
)
from ai8x.network.ir import TensorShape
from ai8x.nn import functional as AF
from ai8x.nn.arguments import PoolArguments, Scheme
from ai8x.nn.base import BATCHNORM_DIVISOR, ElementwiseModule, Mode, QuantizationAwareModule
from ai8x.nn.elementwise import Add
from ai8x.nn.wrappers import evaluation_mode, unwrap_model

_Batchnorm = nn.BatchNorm1d | nn.BatchNorm2d
_RELU = ActivationFunction(kind=ActivationKind.RELU)


class _Unknown(Exception):
    """Something in the model that has no layer; the message says what."""


class _Tracer(fx.Tracer):
    """Layers of this package are layers, however they compute inside."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether calls of a module stay calls."""
        own = isinstance(m, (QuantizationAwareModule, ElementwiseModule))
        return own or bool(super().is_leaf_module(m, module_qualified_name))


def float_model_from_torch(model: nn.Module, input_shape: tuple[int, ...], *, name: str = "model",
                           input_scale: float = 1 / 128, input_offset: float = -1.0) -> FloatModel:
    """The layers of a model.

    Args:
        model: in float; evaluated in evaluation mode (batch norms as trained).
        input_shape: of one sample: (C, H, W), or (C, L) for one-dimensional data, which becomes rows (C, 1, L).
        name: for messages.
        input_scale: of the real numbers that the model was trained on, ``x = q * input_scale + input_offset`` for the
            byte q of an image.
        input_offset: likewise.

    Raises:
        UserError: E0776, the model has something that the K210 has no layer for, or cannot be traced.
    """
    bare = unwrap_model(model)
    with evaluation_mode(bare), torch.no_grad():
        try:
            graph = fx.GraphModule(bare, _Tracer().trace(bare))
            ShapeProp(graph).propagate(torch.zeros(1, *input_shape))
        except (fx.proxy.TraceError, TypeError, RuntimeError, ValueError) as error:
            raise user_error("E0776", f"'{name}' cannot be traced: {error}",
                             allowed="a forward whose calls do not depend on the data",
                             help="describe the layers as a FloatModel instead") from error
    reader = _Reader(graph)
    for node in graph.graph.nodes:
        with _naming(node):
            reader.read(node)
    return FloatModel(name=name, input_shape=_shape((1, *input_shape)), layers=tuple(reader.layers),
                      outputs=tuple(reader.outputs), input_scale=input_scale, input_offset=input_offset)


@contextmanager
def _naming(node: fx.Node) -> Iterator[None]:
    try:
        yield
    except _Unknown as error:
        raise UserError(Diagnostic(
            code="E0776", message=f"'{node.name}': {error}", found=str(node.target),
            allowed="convolutions, linear layers, batch norms, pools, sums, concatenations, element-wise activations",
            help="replace it by such layers, or cut the model in front of it")) from error


def _shape(sizes: tuple[int, ...]) -> TensorShape:
    """Shape without the batch; features (F, 1, 1), rows (C, 1, L)."""
    if len(sizes) == 2:
        return TensorShape(sizes[1], 1, 1)
    return TensorShape(sizes[1], 1, sizes[2]) if len(sizes) == 3 else TensorShape(sizes[1], sizes[2], sizes[3])


def _pair(value: Any) -> Pair:
    """Rows and columns of a size; one-dimensional sizes are of columns."""
    if isinstance(value, (tuple, list)):
        return (1, int(value[0])) if len(value) == 1 else (int(value[0]), int(value[1]))
    return int(value), int(value)


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()


class _Reader:
    """Collects layers node by node."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.layers: list[FloatLayer] = []
        self.outputs: list[int] = []
        self._graph = graph
        self._index: dict[fx.Node, int] = {}

    def read(self, node: fx.Node) -> None:
        """One node of the graph.

        Raises:
            _Unknown: it has no layer.
        """
        if node.op == "placeholder":
            if self._index:
                raise _Unknown("a second input")
            self._index[node] = MODEL_INPUT
        elif node.op == "output":
            results = node.args[0] if isinstance(node.args[0], (tuple, list)) else (node.args[0],)
            self.outputs = [self._index_of(result) for result in results]
        elif node.op == "call_module":
            self._index[node] = self.module(node, self._graph.get_submodule(str(node.target)))
        elif node.op in ("call_function", "call_method"):
            handler = _FUNCTIONS.get(node.target)
            if handler is None:
                raise _Unknown("this function has no layer")
            self._index[node] = handler(self, node)
        else:
            raise _Unknown("constants of the model that are not weights of a layer")

    def _index_of(self, value: Any) -> int:
        if not isinstance(value, fx.Node) or value not in self._index:
            raise _Unknown("an operand that is no result of a layer")
        return self._index[value]

    def source(self, node: fx.Node) -> int:
        """Index of the first operand."""
        return self._index_of(node.args[0] if node.args else None)

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
        for kind, handler in _MODULES.items():
            if isinstance(module, kind):
                return handler(self, node, module)
        raise _Unknown(f"{type(module).__name__} has no layer")

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
            raise _Unknown(f"{type(module).__name__} has no layer")
        weight, stored = module.weight, None if module.bias is None else _array(module.bias)
        if isinstance(module, nn.Linear):
            if isinstance(node.args[0], fx.Node) and self.rank(node.args[0]) != 2:
                raise _Unknown("Linear on data that is not flat")
            return self.append(node, FloatOp.DENSE, source, weights=_array(weight), bias=stored)
        if module.padding_mode != "zeros":
            raise _Unknown(f"padding mode {module.padding_mode}")
        is_1d = isinstance(module, nn.Conv1d)
        weights = _array(weight)[:, :, None, :] if is_1d else _array(weight)
        return self.append(node, FloatOp.CONV2D, source, weights=weights, bias=stored, groups=module.groups,
                           stride=_pair(module.stride), dilation=_pair(module.dilation),
                           padding=_conv_padding(module, weights.shape[2:]))

    def norm(self, node: fx.Node, source: int, norm: _Batchnorm, divisor: float = 1.0) -> int:
        """Batch norm as part of the layer before it, or as a layer of its own."""
        channels = norm.num_features
        mean = np.zeros(channels) if norm.running_mean is None else _array(norm.running_mean)
        variance = np.ones(channels) if norm.running_var is None else _array(norm.running_var)
        gamma = np.ones(channels) if norm.weight is None else _array(norm.weight)
        beta = np.zeros(channels) if norm.bias is None else _array(norm.bias)
        if norm.running_mean is None:
            raise _Unknown("a BatchNorm without running statistics")
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
            return self.append(node, FloatOp.CONV2D, source, weights=both, activation=_RELU)
        norm = layer.batch_norm or ChannelScale(factor=np.ones(len(eye)), offset=np.zeros(len(eye)))
        self.layers[source] = replace(
            layer, weights=np.concatenate([layer.weights] * 2), activation=_RELU,
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
        sizes = [_pair(size) for size in (kernel, stride if stride is not None else kernel, padding)]
        if isinstance(node.args[0], fx.Node) and self.rank(node.args[0]) == 3:
            sizes = [(least, size[1]) for least, size in zip((1, 1, 0), sizes, strict=True)]
        window, step, (rows, columns) = sizes
        return self.append(node, op, source, kernel=window, stride=step, padding=(rows, rows, columns, columns))


def _conv_padding(module: nn.Conv1d | nn.Conv2d, kernel: tuple[int, ...]) -> Borders:
    if module.padding == "valid":
        return 0, 0, 0, 0
    if module.padding == "same":  # torch allows it at stride 1 only and puts the odd cell behind
        totals = [(size - 1) * step for size, step in zip(kernel, _pair(module.dilation), strict=True)]
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
        return top, bottom, left, right
    sizes = [int(size) for size in module.padding]
    rows, columns = (0, sizes[0]) if len(sizes) == 1 else (sizes[0], sizes[1])
    return rows, rows, columns, columns


# ------------------------------------------------------------------------------------------------ modules

def _weighted(reader: _Reader, node: fx.Node, module: nn.Module) -> int:
    return reader.weighted(node, reader.source(node), module)


def _norm(reader: _Reader, node: fx.Node, module: Any) -> int:
    return reader.norm(node, reader.source(node), module)


def _max_pool(reader: _Reader, node: fx.Node, module: Any) -> int:
    if _pair(module.dilation) != (1, 1) or module.ceil_mode or module.return_indices:
        raise _Unknown("MaxPool with dilation, ceil_mode or return_indices")
    return reader.pool(node, FloatOp.MAX_POOL2D, reader.source(node), module.kernel_size, module.stride, module.padding)


def _average_pool(reader: _Reader, node: fx.Node, module: Any) -> int:
    padded = any(_pair(module.padding))
    if module.ceil_mode or getattr(module, "divisor_override", None) or (padded and not module.count_include_pad):
        raise _Unknown("AvgPool with ceil_mode, divisor_override or without count_include_pad")
    return reader.pool(node, FloatOp.AVERAGE_POOL2D, reader.source(node), module.kernel_size, module.stride,
                       module.padding)


def _global_pool(op: FloatOp) -> Callable[[_Reader, fx.Node, Any], int]:
    def read(reader: _Reader, node: fx.Node, module: Any) -> int:
        wanted = module.output_size if isinstance(module.output_size, (tuple, list)) else (module.output_size,)
        given = reader.sizes(node)
        sizes = [old if new is None else int(new) for new, old in zip(wanted * len(given), given, strict=False)]
        if set(sizes) == {1}:
            return reader.append(node, op, reader.source(node))
        if any(old % new for old, new in zip(given, sizes, strict=True)):
            raise _Unknown(f"adaptive pooling of {given} to {module.output_size}, which it is no multiple of")
        window = tuple(old // new for old, new in zip(given, sizes, strict=True))
        windowed = FloatOp.AVERAGE_POOL2D if op is FloatOp.GLOBAL_AVERAGE_POOL2D else FloatOp.MAX_POOL2D
        return reader.pool(node, windowed, reader.source(node), window, window)

    return read


def _zero_pad(reader: _Reader, node: fx.Node, module: Any) -> int:
    left, right, top, bottom = module.padding
    return reader.append(node, FloatOp.ZERO_PAD2D, reader.source(node), padding=(top, bottom, left, right))


def _softmax(reader: _Reader, node: fx.Node, module: Any) -> int:
    if reader.rank(node) != 2 or module.dim not in (1, -1):
        raise _Unknown("Softmax that is not over the features of a flat result")
    return reader.append(node, FloatOp.SOFTMAX, reader.source(node))


def _same(reader: _Reader, node: fx.Node, module: Any = None) -> int:
    return reader.source(node)


def _reshaped(reader: _Reader, node: fx.Node, module: Any = None) -> int:
    """Flatten, view and reshape: what counts is the shape that comes out."""
    shape = tuple(node.meta["tensor_meta"].shape)
    if shape[0] != 1 or len(shape) not in (2, 3, 4):
        raise _Unknown(f"data of shape {shape}")
    if len(shape) == 2:
        return reader.append(node, FloatOp.FLATTEN, reader.source(node))
    return reader.append(node, FloatOp.RESHAPE, reader.source(node), shape=_shape(shape))


def _own_layer(reader: _Reader, node: fx.Node, module: Any) -> int:
    """A layer of this package in float mode."""
    if module.mode is not Mode.FLOAT:
        raise _Unknown(f"a layer in {module.mode.value} mode; quantised models are lowered exactly by synthesize.py")
    source = reader.source(node)
    if module.pool is not None:
        source = _own_pool(reader, node, source, module.pool)
    if module.op is None:
        return source
    index = reader.weighted(node, source, module.op)
    second = module.scheme is Scheme.V2
    if module.bn is not None:
        index = reader.norm(node, index, module.bn, 1.0 if second else BATCHNORM_DIVISOR)
    if second:
        return _second_generation(reader, index, module)
    function = LINEAR
    if not module.wide:
        low = 0.0 if module.activation is AF.ActivationKind.RELU else AF.Q7_MIN
        function = ActivationFunction(kind=ActivationKind.CLIP, low=low, high=AF.Q7_MAX)
    return _activated(reader, index, module, function)


def _activated(reader: _Reader, index: int, module: Any, function: ActivationFunction) -> int:
    if module.activation is AF.ActivationKind.ABS:
        raise _Unknown("activation Abs")
    reader.layers[index] = replace(reader.layers[index], activation=function)
    return index


def _second_generation(reader: _Reader, index: int, module: Any) -> int:
    """No clamps, but powers of two, which a ReLU lets through."""
    exponent = float(module.final_scale) - (0.0 if module.wide else float(module.activation_threshold))
    layer = reader.layers[index]
    channels = len(layer.weights) if layer.weights is not None else 0
    scale = layer.batch_norm or ChannelScale(factor=np.ones(channels), offset=np.zeros(channels))
    factor = 2.0 ** exponent
    reader.layers[index] = replace(layer, batch_norm=ChannelScale(factor=scale.factor * factor,
                                                                  offset=scale.offset * factor))
    relu = module.activation is AF.ActivationKind.RELU
    return _activated(reader, index, module, _RELU if relu else LINEAR)


def _own_pool(reader: _Reader, node: fx.Node, source: int, pool: PoolArguments) -> int:
    if set(pool.dilation) != {1}:
        raise _Unknown(f"pooling with dilation {pool.dilation}")
    op = FloatOp.MAX_POOL2D if pool.kind == "Max" else FloatOp.AVERAGE_POOL2D
    return reader.pool(node, op, source, pool.size, pool.stride)


def _own_add(reader: _Reader, node: fx.Node, module: ElementwiseModule) -> int:
    if not isinstance(module, Add):
        raise _Unknown(f"{type(module).__name__} has no layer")
    clamped = ActivationFunction(kind=ActivationKind.CLIP, low=AF.Q7_MIN, high=AF.Q7_MAX)
    return _sum(reader, node, LINEAR if module.scheme is Scheme.V2 else clamped)


_ACTIVATIONS: Mapping[type[nn.Module], Callable[[Any], ActivationFunction]] = {
    nn.ReLU: lambda m: _RELU,
    nn.ReLU6: lambda m: ActivationFunction(kind=ActivationKind.RELU6),
    nn.Hardtanh: lambda m: ActivationFunction(kind=ActivationKind.CLIP, low=float(m.min_val), high=float(m.max_val)),
    nn.LeakyReLU: lambda m: ActivationFunction(kind=ActivationKind.LEAKY_RELU, slope=float(m.negative_slope)),
    nn.ELU: lambda m: ActivationFunction(kind=ActivationKind.ELU, slope=float(m.alpha)),
    nn.Sigmoid: lambda m: ActivationFunction(kind=ActivationKind.SIGMOID),
    nn.Tanh: lambda m: ActivationFunction(kind=ActivationKind.TANH),
    nn.Hardsigmoid: lambda m: ActivationFunction(kind=ActivationKind.HARD_SIGMOID),
    nn.Hardswish: lambda m: ActivationFunction(kind=ActivationKind.HARD_SWISH),
    nn.SiLU: lambda m: ActivationFunction(kind=ActivationKind.SILU),
}
"""ReLU6 is a Hardtanh in torch and therefore stands in front of it."""


def _prelu(reader: _Reader, node: fx.Node, module: Any) -> int:
    """A slope for all channels is a leaky ReLU; one for each is ``relu(x) - slope * relu(-x)``, as the table is one
    for all channels.
    """
    slopes, source = _array(module.weight), reader.source(node)
    if len(set(slopes.tolist())) == 1:
        return reader.activation(node, ActivationFunction(kind=ActivationKind.LEAKY_RELU, slope=float(slopes[0])))
    eye = np.eye(len(slopes))
    parts = reader.halves(node, source, eye)
    return reader.append(node, FloatOp.CONV2D, parts,
                         weights=np.concatenate([eye, -np.diag(slopes)], axis=1)[:, :, None, None])


def _activation(kind: type[nn.Module]) -> Callable[[_Reader, fx.Node, Any], int]:
    return lambda reader, node, module: reader.activation(node, _ACTIVATIONS[kind](module))


_MODULES: Mapping[type[nn.Module], Callable[[_Reader, fx.Node, Any], int]] = {
    QuantizationAwareModule: _own_layer, ElementwiseModule: _own_add,
    nn.Conv1d: _weighted, nn.Conv2d: _weighted, nn.Linear: _weighted,
    nn.BatchNorm1d: _norm, nn.BatchNorm2d: _norm,
    nn.MaxPool1d: _max_pool, nn.MaxPool2d: _max_pool, nn.AvgPool1d: _average_pool, nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool1d: _global_pool(FloatOp.GLOBAL_AVERAGE_POOL2D),
    nn.AdaptiveAvgPool2d: _global_pool(FloatOp.GLOBAL_AVERAGE_POOL2D),
    nn.AdaptiveMaxPool1d: _global_pool(FloatOp.GLOBAL_MAX_POOL2D),
    nn.AdaptiveMaxPool2d: _global_pool(FloatOp.GLOBAL_MAX_POOL2D),
    nn.ZeroPad2d: _zero_pad, nn.Flatten: _reshaped, nn.Unflatten: _reshaped, nn.Softmax: _softmax, nn.PReLU: _prelu,
    nn.Dropout: _same, nn.Dropout1d: _same, nn.Dropout2d: _same, nn.Identity: _same,
    **{kind: _activation(kind) for kind in _ACTIVATIONS},
}


# ------------------------------------------------------------------------------------------------ functions

def _as_module(make: Callable[..., nn.Module]) -> Callable[[_Reader, fx.Node], int]:
    """A function whose arguments behind the data are those of a module."""
    def read(reader: _Reader, node: fx.Node) -> int:
        ignored = ("inplace", "_stacklevel", "dtype")
        options = {name: value for name, value in node.kwargs.items() if name not in ignored}
        try:
            return reader.module(node, make(*node.args[1:], **options))
        except TypeError as error:
            raise _Unknown(str(error)) from error

    return read


def _plain(make: Callable[[], nn.Module]) -> Callable[[_Reader, fx.Node], int]:
    """A function without arguments that matter."""
    return lambda reader, node: reader.module(node, make())


def _sum(reader: _Reader, node: fx.Node, function: ActivationFunction = LINEAR) -> int:
    return reader.append(node, FloatOp.ADD, *(reader._index_of(value) for value in node.args), activation=function)


def _concat(reader: _Reader, node: fx.Node) -> int:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    parts = node.args[0]
    if dim != 1 or not isinstance(parts, (tuple, list)):
        raise _Unknown(f"concatenation along dimension {dim}")
    return reader.append(node, FloatOp.CONCAT, *(reader._index_of(part) for part in parts))


def _mean(reader: _Reader, node: fx.Node) -> int:
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    wanted = {2, 3} if isinstance(node.args[0], fx.Node) and reader.rank(node.args[0]) == 4 else {2}
    given = {int(d) % (len(wanted) + 2) for d in dims} if isinstance(dims, (tuple, list)) else {dims}
    if given != wanted:
        raise _Unknown(f"a mean over dimensions {dims}")
    return reader.append(node, FloatOp.GLOBAL_AVERAGE_POOL2D, reader.source(node))


_FUNCTIONS: Mapping[Any, Callable[[_Reader, fx.Node], int]] = {
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), _sum),
    **dict.fromkeys((torch.cat, torch.concat), _concat),
    **dict.fromkeys((torch.flatten, torch.reshape, "flatten", "view", "reshape", "squeeze", "unflatten"), _reshaped),
    **dict.fromkeys((torch.mean, "mean"), _mean),
    **dict.fromkeys((F.dropout, F.dropout2d, "contiguous", "float", "clone", "detach"), _same),
    **dict.fromkeys((F.relu, torch.relu, "relu", "relu_"), _plain(nn.ReLU)),
    F.relu6: _plain(nn.ReLU6),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, "sigmoid"), _plain(nn.Sigmoid)),
    **dict.fromkeys((F.tanh, torch.tanh, "tanh"), _plain(nn.Tanh)),
    F.hardswish: _plain(nn.Hardswish), F.hardsigmoid: _plain(nn.Hardsigmoid), F.silu: _plain(nn.SiLU),
    F.leaky_relu: _as_module(nn.LeakyReLU), F.elu: _as_module(nn.ELU), F.hardtanh: _as_module(nn.Hardtanh),
    F.max_pool2d: _as_module(nn.MaxPool2d), F.max_pool1d: _as_module(nn.MaxPool1d),
    F.avg_pool2d: _as_module(nn.AvgPool2d), F.avg_pool1d: _as_module(nn.AvgPool1d),
    F.adaptive_avg_pool2d: _as_module(nn.AdaptiveAvgPool2d), F.adaptive_max_pool2d: _as_module(nn.AdaptiveMaxPool2d),
    **dict.fromkeys((F.softmax, torch.softmax, "softmax"), _as_module(nn.Softmax)),
}
