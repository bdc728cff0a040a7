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
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from ai8x.errors import Diagnostic, UserError, user_error
from ai8x.k210.activation import LINEAR, ActivationFunction, ActivationKind
from ai8x.k210.quantize_model import ChannelScale, FloatModel, FloatOp
from ai8x.nn import functional as AF
from ai8x.nn.arguments import PoolArguments, Scheme
from ai8x.nn.base import BATCHNORM_DIVISOR, ElementwiseModule, Mode, QuantizationAwareModule
from ai8x.nn.elementwise import Add
from ai8x.nn.wrappers import evaluation_mode, unwrap_model
from ai8x.quantization.float_reader import RELU, Handlers, Reader, Unknown, array, pair, shape_without_batch


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
    reader = Reader(graph, Handlers(modules=_MODULES, functions=_FUNCTIONS))
    for node in graph.graph.nodes:
        with _naming(node):
            reader.read(node)
    return FloatModel(name=name, input_shape=shape_without_batch((1, *input_shape)), layers=tuple(reader.layers),
                      outputs=tuple(reader.outputs), input_scale=input_scale, input_offset=input_offset)


@contextmanager
def _naming(node: fx.Node) -> Iterator[None]:
    try:
        yield
    except Unknown as error:
        raise UserError(Diagnostic(
            code="E0776", message=f"'{node.name}': {error}", found=str(node.target),
            allowed="convolutions, linear layers, batch norms, pools, sums, concatenations, element-wise activations",
            help="replace it by such layers, or cut the model in front of it")) from error


# ------------------------------------------------------------------------------------------------ modules

def _weighted(reader: Reader, node: fx.Node, module: nn.Module) -> int:
    return reader.weighted(node, reader.source(node), module)


def _norm(reader: Reader, node: fx.Node, module: Any) -> int:
    return reader.norm(node, reader.source(node), module)


def _max_pool(reader: Reader, node: fx.Node, module: Any) -> int:
    if pair(module.dilation) != (1, 1) or module.ceil_mode or module.return_indices:
        raise Unknown("MaxPool with dilation, ceil_mode or return_indices")
    return reader.pool(node, FloatOp.MAX_POOL2D, reader.source(node), module.kernel_size, module.stride, module.padding)


def _average_pool(reader: Reader, node: fx.Node, module: Any) -> int:
    padded = any(pair(module.padding))
    if module.ceil_mode or getattr(module, "divisor_override", None) or (padded and not module.count_include_pad):
        raise Unknown("AvgPool with ceil_mode, divisor_override or without count_include_pad")
    return reader.pool(node, FloatOp.AVERAGE_POOL2D, reader.source(node), module.kernel_size, module.stride,
                       module.padding)


def _global_pool(op: FloatOp) -> Callable[[Reader, fx.Node, Any], int]:
    def read(reader: Reader, node: fx.Node, module: Any) -> int:
        wanted = module.output_size if isinstance(module.output_size, (tuple, list)) else (module.output_size,)
        given = reader.sizes(node)
        sizes = [old if new is None else int(new) for new, old in zip(wanted * len(given), given, strict=False)]
        if set(sizes) == {1}:
            return reader.append(node, op, reader.source(node))
        if any(old % new for old, new in zip(given, sizes, strict=True)):
            raise Unknown(f"adaptive pooling of {given} to {module.output_size}, which it is no multiple of")
        window = tuple(old // new for old, new in zip(given, sizes, strict=True))
        windowed = FloatOp.AVERAGE_POOL2D if op is FloatOp.GLOBAL_AVERAGE_POOL2D else FloatOp.MAX_POOL2D
        return reader.pool(node, windowed, reader.source(node), window, window)

    return read


def _zero_pad(reader: Reader, node: fx.Node, module: Any) -> int:
    left, right, top, bottom = module.padding
    return reader.append(node, FloatOp.ZERO_PAD2D, reader.source(node), padding=(top, bottom, left, right))


def _resized(reader: Reader, node: fx.Node, module: Any) -> int:
    if module.mode != "nearest":
        raise Unknown(f"resizing by {module.mode}")
    shape = shape_without_batch(tuple(node.meta["tensor_meta"].shape))
    return reader.append(node, FloatOp.RESIZE_NEAREST, reader.source(node), shape=shape)


def _softmax(reader: Reader, node: fx.Node, module: Any) -> int:
    if reader.rank(node) != 2 or module.dim not in (1, -1):
        raise Unknown("Softmax that is not over the features of a flat result")
    return reader.append(node, FloatOp.SOFTMAX, reader.source(node))


def _same(reader: Reader, node: fx.Node, module: Any = None) -> int:
    return reader.source(node)


def _reshaped(reader: Reader, node: fx.Node, module: Any = None) -> int:
    """Flatten, view and reshape: what counts is the shape that comes out."""
    shape = tuple(node.meta["tensor_meta"].shape)
    if shape[0] != 1 or len(shape) not in (2, 3, 4):
        raise Unknown(f"data of shape {shape}")
    if len(shape) == 2:
        return reader.append(node, FloatOp.FLATTEN, reader.source(node))
    return reader.append(node, FloatOp.RESHAPE, reader.source(node), shape=shape_without_batch(shape))


def _own_layer(reader: Reader, node: fx.Node, module: Any) -> int:
    """A layer of this package in float mode."""
    if module.mode is not Mode.FLOAT:
        raise Unknown(f"a layer in {module.mode.value} mode; quantised models are lowered exactly by synthesize.py")
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


def _activated(reader: Reader, index: int, module: Any, function: ActivationFunction) -> int:
    if module.activation is AF.ActivationKind.ABS:
        raise Unknown("activation Abs")
    reader.layers[index] = replace(reader.layers[index], activation=function)
    return index


def _second_generation(reader: Reader, index: int, module: Any) -> int:
    """No clamps, but powers of two, which a ReLU lets through."""
    exponent = float(module.final_scale) - (0.0 if module.wide else float(module.activation_threshold))
    layer = reader.layers[index]
    channels = len(layer.weights) if layer.weights is not None else 0
    scale = layer.batch_norm or ChannelScale(factor=np.ones(channels), offset=np.zeros(channels))
    factor = 2.0 ** exponent
    reader.layers[index] = replace(layer, batch_norm=ChannelScale(factor=scale.factor * factor,
                                                                  offset=scale.offset * factor))
    relu = module.activation is AF.ActivationKind.RELU
    return _activated(reader, index, module, RELU if relu else LINEAR)


def _own_pool(reader: Reader, node: fx.Node, source: int, pool: PoolArguments) -> int:
    if set(pool.dilation) != {1}:
        raise Unknown(f"pooling with dilation {pool.dilation}")
    op = FloatOp.MAX_POOL2D if pool.kind == "Max" else FloatOp.AVERAGE_POOL2D
    return reader.pool(node, op, source, pool.size, pool.stride)


def _own_add(reader: Reader, node: fx.Node, module: ElementwiseModule) -> int:
    if not isinstance(module, Add):
        raise Unknown(f"{type(module).__name__} has no layer")
    clamped = ActivationFunction(kind=ActivationKind.CLIP, low=AF.Q7_MIN, high=AF.Q7_MAX)
    return _sum(reader, node, LINEAR if module.scheme is Scheme.V2 else clamped)


_ACTIVATIONS: Mapping[type[nn.Module], Callable[[Any], ActivationFunction]] = {
    nn.ReLU: lambda m: RELU,
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


def _prelu(reader: Reader, node: fx.Node, module: Any) -> int:
    """A slope for all channels is a leaky ReLU; one for each is ``relu(x) - slope * relu(-x)``, as the table is one
    for all channels.
    """
    slopes, source = array(module.weight), reader.source(node)
    if len(set(slopes.tolist())) == 1:
        return reader.activation(node, ActivationFunction(kind=ActivationKind.LEAKY_RELU, slope=float(slopes[0])))
    eye = np.eye(len(slopes))
    parts = reader.halves(node, source, eye)
    return reader.append(node, FloatOp.CONV2D, parts,
                         weights=np.concatenate([eye, -np.diag(slopes)], axis=1)[:, :, None, None])


def _activation(kind: type[nn.Module]) -> Callable[[Reader, fx.Node, Any], int]:
    return lambda reader, node, module: reader.activation(node, _ACTIVATIONS[kind](module))


_MODULES: Mapping[type[nn.Module], Callable[[Reader, fx.Node, Any], int]] = {
    QuantizationAwareModule: _own_layer, ElementwiseModule: _own_add,
    nn.Conv1d: _weighted, nn.Conv2d: _weighted, nn.Linear: _weighted,
    nn.BatchNorm1d: _norm, nn.BatchNorm2d: _norm,
    nn.MaxPool1d: _max_pool, nn.MaxPool2d: _max_pool, nn.AvgPool1d: _average_pool, nn.AvgPool2d: _average_pool,
    nn.AdaptiveAvgPool1d: _global_pool(FloatOp.GLOBAL_AVERAGE_POOL2D),
    nn.AdaptiveAvgPool2d: _global_pool(FloatOp.GLOBAL_AVERAGE_POOL2D),
    nn.AdaptiveMaxPool1d: _global_pool(FloatOp.GLOBAL_MAX_POOL2D),
    nn.AdaptiveMaxPool2d: _global_pool(FloatOp.GLOBAL_MAX_POOL2D),
    nn.ZeroPad2d: _zero_pad, nn.Flatten: _reshaped, nn.Unflatten: _reshaped, nn.Softmax: _softmax,
    nn.PReLU: _prelu, nn.Upsample: _resized,
    nn.Dropout: _same, nn.Dropout1d: _same, nn.Dropout2d: _same, nn.Identity: _same,
    **{kind: _activation(kind) for kind in _ACTIVATIONS},
}


# ------------------------------------------------------------------------------------------------ functions

def _as_module(make: Callable[..., nn.Module]) -> Callable[[Reader, fx.Node], int]:
    """A function whose arguments behind the data are those of a module."""
    def read(reader: Reader, node: fx.Node) -> int:
        ignored = ("inplace", "_stacklevel", "dtype", "antialias")  # the last is of modes that are refused
        options = {name: value for name, value in node.kwargs.items() if name not in ignored}
        try:
            return reader.module(node, make(*node.args[1:], **options))
        except TypeError as error:
            raise Unknown(str(error)) from error

    return read


def _plain(make: Callable[[], nn.Module]) -> Callable[[Reader, fx.Node], int]:
    """A function without arguments that matter."""
    return lambda reader, node: reader.module(node, make())


def _sum(reader: Reader, node: fx.Node, function: ActivationFunction = LINEAR) -> int:
    return reader.append(node, FloatOp.ADD, *(reader.index_of(value) for value in node.args), activation=function)


def _concat(reader: Reader, node: fx.Node) -> int:
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    parts = node.args[0]
    if dim != 1 or not isinstance(parts, (tuple, list)):
        raise Unknown(f"concatenation along dimension {dim}")
    return reader.append(node, FloatOp.CONCAT, *(reader.index_of(part) for part in parts))


def _mean(reader: Reader, node: fx.Node) -> int:
    dims = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    wanted = {2, 3} if isinstance(node.args[0], fx.Node) and reader.rank(node.args[0]) == 4 else {2}
    given = {int(d) % (len(wanted) + 2) for d in dims} if isinstance(dims, (tuple, list)) else {dims}
    if given != wanted:
        raise Unknown(f"a mean over dimensions {dims}")
    return reader.append(node, FloatOp.GLOBAL_AVERAGE_POOL2D, reader.source(node))


_FUNCTIONS: Mapping[Any, Callable[[Reader, fx.Node], int]] = {
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
    F.interpolate: _as_module(nn.Upsample),
    F.adaptive_avg_pool2d: _as_module(nn.AdaptiveAvgPool2d), F.adaptive_max_pool2d: _as_module(nn.AdaptiveMaxPool2d),
    **dict.fromkeys((F.softmax, torch.softmax, "softmax"), _as_module(nn.Softmax)),
}
