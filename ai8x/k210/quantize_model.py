"""Float networks as post-training quantisation reads them: layers with real weights on (C, H, W) tensors.

Owns the layer list, its shapes and the rewrites that bring it to what the KPU runs: batch norms folded into weights,
activations and zero borders merged into convolutions, layers without use dropped. Knows nothing of torch and of
bytes. Start at `FloatModel`, `FloatLayer` and `prepared`.

Source: spec/k210-kmodel.md sections 13.2, 14 and 17.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Diagnostic, Diagnostics, UserError
from ai8x.k210.activation import LINEAR, ActivationFunction
from ai8x.network.ir import TensorShape

MODEL_INPUT = -1
"""Index that stands for the model's input in `FloatLayer.inputs`."""

Pair = tuple[int, int]
Borders = tuple[int, int, int, int]
"""Rows above and below, columns left and right."""


class FloatOp(enum.Enum):
    """What a layer does; the value is its name in reports."""

    CONV2D = "Conv2d"
    DENSE = "Dense"
    MAX_POOL2D = "MaxPool2d"
    AVERAGE_POOL2D = "MeanPool2d"
    GLOBAL_MAX_POOL2D = "GlobalMaxPool2d"
    GLOBAL_AVERAGE_POOL2D = "GlobalMeanPool2d"
    ADD = "Add"
    CONCAT = "Concat"
    FLATTEN = "Flatten"
    RESHAPE = "Reshape"
    RESIZE_NEAREST = "ResizeNearest"
    ZERO_PAD2D = "ZeroPad2d"
    ACTIVATION = "Activation"
    DEQUANT = "Dequant"
    SOFTMAX = "SoftMax"


WITH_ACTIVATION = frozenset({FloatOp.CONV2D, FloatOp.DENSE, FloatOp.ADD, FloatOp.ACTIVATION})
"""Layers that end in an activation table."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelScale:
    """Batch normalisation in use: ``y = factor * x + offset`` for every channel; float64 arrays (out,)."""

    factor: NDArray[np.float64]
    offset: NDArray[np.float64]


def batch_norm_scale(gamma: NDArray[Any], beta: NDArray[Any], mean: NDArray[Any], variance: NDArray[Any], *,
                     eps: float) -> ChannelScale:
    """The line that a trained batch norm applies; arrays (out,)."""
    factor = np.asarray(gamma, np.float64) / np.sqrt(np.asarray(variance, np.float64) + eps)
    return ChannelScale(factor=factor, offset=np.asarray(beta, np.float64) - factor * np.asarray(mean, np.float64))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatLayer:
    """One layer.

    Args:
        name: for reports.
        op: what it does.
        inputs: producers by index, or `MODEL_INPUT`; several for Add and Concat.
        weights: float64 array (out, in/groups, row, column); (out, in) for Dense, whose input is read as C*H*W
            features, channel major.
        bias: float64 array (out,), or None.
        batch_norm: behind the bias and before the activation, or None.
        groups: of a convolution; as many as channels is depthwise.
        kernel: window of a pooling.
        stride: rows and columns, of convolution or pooling.
        dilation: of a convolution: distance of the cells that its taps read.
        padding: zeros around the input of a convolution or ZeroPad2d; cells that a pooling adds (zeros for means,
            nothing for maxima).
        activation: at the end of Conv2d, Dense, Add and Activation.
        shape: result of a Reshape or a ResizeNearest.
    """

    name: str
    op: FloatOp
    inputs: tuple[int, ...]
    weights: NDArray[np.float64] | None = None
    bias: NDArray[np.float64] | None = None
    batch_norm: ChannelScale | None = None
    groups: int = 1
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: Borders = (0, 0, 0, 0)
    activation: ActivationFunction = LINEAR
    shape: TensorShape | None = None

    @property
    def window(self) -> Pair:
        """Rows and columns that one output reads."""
        if self.op is FloatOp.CONV2D and self.weights is not None:
            return self.weights.shape[2], self.weights.shape[3]
        return self.kernel

    @property
    def reach(self) -> Pair:
        """Rows and columns from the first to the last cell that one output reads."""
        rows, columns = ((size - 1) * step + 1 for size, step in zip(self.window, self.dilation, strict=True))
        return rows, columns

    @property
    def arrays(self) -> tuple[NDArray[np.float64], ...]:
        """All parameters."""
        norm = self.batch_norm
        found = (self.weights, self.bias, *((norm.factor, norm.offset) if norm else ()))
        return tuple(array for array in found if array is not None)

    @property
    def is_depthwise(self) -> bool:
        """A convolution of every channel by itself."""
        return (self.op is FloatOp.CONV2D and self.weights is not None and self.groups > 1
                and self.groups == len(self.weights) and self.weights.shape[1] == 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatModel:
    """A float network with one input.

    Args:
        name: of the network.
        input_shape: (C, H, W).
        layers: in an order of execution.
        outputs: indices of the output layers; the last layer if empty.
        input_scale, input_offset: what the bytes of an image mean: ``x = q * input_scale + input_offset``.
        shapes: of the layers' results; computed.

    Raises:
        UserError: E0770, a layer does not fit its input or has parameters that are no numbers.
    """

    name: str
    input_shape: TensorShape
    layers: tuple[FloatLayer, ...]
    outputs: tuple[int, ...] = ()
    input_scale: float = 1 / 128
    input_offset: float = -1.0
    shapes: tuple[TensorShape, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not self.layers:
            raise UserError(Diagnostic(code="E0770", message=f"'{self.name}' has no layer", allowed="at least one",
                                       help="describe the layers of the model"))
        if not self.input_scale > 0:
            raise ValueError(f"input scale {self.input_scale}")
        object.__setattr__(self, "outputs", self.outputs or (len(self.layers) - 1,))
        object.__setattr__(self, "shapes", _shapes(self))

    def shape_of(self, index: int) -> TensorShape:
        """Shape of a layer's result, or of the input."""
        return self.input_shape if index == MODEL_INPUT else self.shapes[index]

    def consumers(self, index: int) -> tuple[int, ...]:
        """Layers that read a result."""
        return tuple(i for i, layer in enumerate(self.layers) if index in layer.inputs)

    def macs(self, index: int) -> int:
        """Multiply-accumulate operations of a layer; 0 without weights."""
        layer = self.layers[index]
        return 0 if layer.weights is None else layer.weights[0].size * self.shapes[index].numel

    def real_input(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the bytes of images mean."""
        return np.asarray(images, np.float32) * np.float32(self.input_scale) + np.float32(self.input_offset)


# ------------------------------------------------------------------------------------------------ shapes

def _shapes(model: FloatModel) -> tuple[TensorShape, ...]:
    """Shapes of all results.

    Raises:
        UserError: E0770.
    """
    found = Diagnostics()
    shapes: list[TensorShape] = []
    for index, layer in enumerate(model.layers):
        try:
            if not layer.inputs or any(not MODEL_INPUT <= i < index for i in layer.inputs):
                raise ValueError(f"it reads layers {layer.inputs}")
            if not all(np.isfinite(array).all() for array in layer.arrays):
                raise ValueError("its parameters are not all finite numbers")
            operands = [model.input_shape if i == MODEL_INPUT else shapes[i] for i in layer.inputs]
            shapes.append(_SHAPES[layer.op](layer, operands))
        except ValueError as error:
            found.add(Diagnostic(code="E0770", message=f"{layer.op.value}: {error}", layer=layer.name,
                                 layer_index=index, allowed="layers whose sizes follow from one another",
                                 help="correct the sizes of the layer"))
            break
    if any(not 0 <= index < len(model.layers) for index in model.outputs):
        found.add(Diagnostic(code="E0770", message=f"outputs {model.outputs} of {len(model.layers)} layers",
                             help="name layers of the model"))
    found.raise_if_errors()
    return tuple(shapes)


def _windows(layer: FloatLayer, shape: TensorShape) -> Pair:
    """Rows and columns of a result that slides a window."""
    top, bottom, left, right = layer.padding
    rows = (shape.height + top + bottom - layer.reach[0]) // layer.stride[0] + 1
    columns = (shape.width + left + right - layer.reach[1]) // layer.stride[1] + 1
    if min(rows, columns) < 1:
        raise ValueError(f"a window of {layer.reach} on {shape} with padding {layer.padding}")
    return rows, columns


def _conv_shape(layer: FloatLayer, operands: list[TensorShape]) -> TensorShape:
    (shape,) = operands
    if layer.weights is None or layer.weights.ndim != 4:
        raise ValueError("weights (out, in/groups, row, column) are missing")
    if layer.weights.shape[1] * layer.groups != shape.channels or len(layer.weights) % layer.groups:
        raise ValueError(f"weights {layer.weights.shape} in {layer.groups} groups on {shape.channels} channels")
    return TensorShape(len(layer.weights), *_windows(layer, shape))


def _dense_shape(layer: FloatLayer, operands: list[TensorShape]) -> TensorShape:
    (shape,) = operands
    if layer.weights is None or layer.weights.ndim != 2 or layer.weights.shape[1] != shape.numel:
        found = None if layer.weights is None else layer.weights.shape
        raise ValueError(f"weights {found} for {shape.numel} features")
    return TensorShape(len(layer.weights), 1, 1)


def _pool_shape(layer: FloatLayer, operands: list[TensorShape]) -> TensorShape:
    (shape,) = operands
    return TensorShape(shape.channels, *_windows(layer, shape))


def _global_shape(layer: FloatLayer, operands: list[TensorShape]) -> TensorShape:
    (shape,) = operands
    return TensorShape(shape.channels, 1, 1)


def _add_shape(layer: FloatLayer, operands: list[TensorShape]) -> TensorShape:
    if len(operands) < 2 or len(set(operands)) > 1:
        raise ValueError(f"operands of shapes {', '.join(map(str, operands))}")
    return operands[0]


def _concat_shape(layer: FloatLayer, operands: list[TensorShape]) -> TensorShape:
    if len({(shape.height, shape.width) for shape in operands}) > 1:
        raise ValueError(f"operands of shapes {', '.join(map(str, operands))}")
    return TensorShape(sum(shape.channels for shape in operands), operands[0].height, operands[0].width)


def _flat_shape(layer: FloatLayer, operands: list[TensorShape]) -> TensorShape:
    (shape,) = operands
    return TensorShape(shape.numel, 1, 1)


def _reshape_shape(layer: FloatLayer, operands: list[TensorShape]) -> TensorShape:
    (shape,) = operands
    if layer.shape is None or layer.shape.numel != shape.numel:
        raise ValueError(f"{shape} as {layer.shape}")
    return layer.shape


def _resized_shape(layer: FloatLayer, operands: list[TensorShape]) -> TensorShape:
    (shape,) = operands
    if layer.shape is None or layer.shape.channels != shape.channels:
        raise ValueError(f"{shape} resized to {layer.shape}")
    return layer.shape


def _padded_shape(layer: FloatLayer, operands: list[TensorShape]) -> TensorShape:
    (shape,) = operands
    top, bottom, left, right = layer.padding
    if min(layer.padding) < 0:
        raise ValueError(f"padding {layer.padding}")
    return TensorShape(shape.channels, shape.height + top + bottom, shape.width + left + right)


def _same_shape(layer: FloatLayer, operands: list[TensorShape]) -> TensorShape:
    (shape,) = operands
    return shape


_SHAPES: Mapping[FloatOp, Callable[[FloatLayer, list[TensorShape]], TensorShape]] = {
    FloatOp.CONV2D: _conv_shape, FloatOp.DENSE: _dense_shape, FloatOp.MAX_POOL2D: _pool_shape,
    FloatOp.AVERAGE_POOL2D: _pool_shape, FloatOp.GLOBAL_MAX_POOL2D: _global_shape,
    FloatOp.GLOBAL_AVERAGE_POOL2D: _global_shape, FloatOp.ADD: _add_shape, FloatOp.CONCAT: _concat_shape,
    FloatOp.FLATTEN: _flat_shape, FloatOp.RESHAPE: _reshape_shape, FloatOp.ZERO_PAD2D: _padded_shape,
    FloatOp.RESIZE_NEAREST: _resized_shape,
    FloatOp.ACTIVATION: _same_shape, FloatOp.DEQUANT: _same_shape, FloatOp.SOFTMAX: _same_shape,
}


# ------------------------------------------------------------------------------------------------ rewrites

def prepared(model: FloatModel) -> FloatModel:
    """The same function in fewer layers: what quantisation and lowering work on."""
    for rewrite in (_fold_batch_norms, _merge_activations, _merge_borders, _drop_unused):
        model = rewrite(model)
    return model


def _fold_batch_norms(model: FloatModel) -> FloatModel:
    return replace_layers(model, [_folded(layer) for layer in model.layers])


def _folded(layer: FloatLayer) -> FloatLayer:
    """Batch norm as weights and bias."""
    if layer.batch_norm is None or layer.weights is None:
        return layer
    factor = layer.batch_norm.factor
    bias = layer.batch_norm.offset + (0.0 if layer.bias is None else factor * layer.bias)
    weights = layer.weights * factor.reshape(-1, *[1] * (layer.weights.ndim - 1))
    return replace(layer, weights=weights, bias=bias, batch_norm=None)


def replace_layers(model: FloatModel, layers: list[FloatLayer]) -> FloatModel:
    """The model with other layers of the same count."""
    return FloatModel(name=model.name, input_shape=model.input_shape, layers=tuple(layers), outputs=model.outputs,
                      input_scale=model.input_scale, input_offset=model.input_offset)


def _redirected(model: FloatModel, layers: list[FloatLayer], aliases: Mapping[int, int]) -> FloatModel:
    """Readers of an alias read what it stands for."""
    redirected = [replace(layer, inputs=tuple(aliases.get(i, i) for i in layer.inputs)) for layer in layers]
    outputs = tuple(aliases.get(i, i) for i in model.outputs)
    return replace(replace_layers(model, redirected), outputs=outputs)


def _merge_activations(model: FloatModel) -> FloatModel:
    """An activation behind a layer with a table of its own that nobody else reads becomes that table."""
    layers = list(model.layers)
    aliases: dict[int, int] = {}
    for index, layer in enumerate(model.layers):
        source = aliases.get(layer.inputs[0], layer.inputs[0])
        if layer.op is not FloatOp.ACTIVATION or source == MODEL_INPUT:
            continue
        producer = layers[source]
        alone = model.consumers(layer.inputs[0]) == (index,) and layer.inputs[0] not in model.outputs
        if alone and producer.op in WITH_ACTIVATION and producer.activation == LINEAR:
            layers[source] = replace(producer, activation=layer.activation)
            aliases[index] = source
    return _redirected(model, layers, aliases)


def _merge_borders(model: FloatModel) -> FloatModel:
    """Zero borders in front of convolutions become their padding."""
    layers = list(model.layers)
    for index, layer in enumerate(model.layers):
        sources = [model.layers[i] if i != MODEL_INPUT else None for i in layer.inputs]
        border = sources[0]
        if layer.op is FloatOp.CONV2D and border is not None and border.op is FloatOp.ZERO_PAD2D:
            top, bottom, left, right = (a + b for a, b in zip(layer.padding, border.padding, strict=True))
            layers[index] = replace(layer, inputs=border.inputs, padding=(top, bottom, left, right))
    return replace_layers(model, layers)


def _drop_unused(model: FloatModel) -> FloatModel:
    """Only layers that some output depends on, renumbered."""
    used: set[int] = set()
    pending = list(model.outputs)
    while pending:
        index = pending.pop()
        if index != MODEL_INPUT and index not in used:
            used.add(index)
            pending.extend(model.layers[index].inputs)
    numbers = {old: new for new, old in enumerate(sorted(used))} | {MODEL_INPUT: MODEL_INPUT}
    layers = tuple(replace(model.layers[old], inputs=tuple(numbers[i] for i in model.layers[old].inputs))
                   for old in sorted(used))
    return FloatModel(name=model.name, input_shape=model.input_shape, layers=layers,
                      outputs=tuple(numbers[index] for index in model.outputs), input_scale=model.input_scale,
                      input_offset=model.input_offset)
