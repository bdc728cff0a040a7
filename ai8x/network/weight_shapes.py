"""Whether the weights of a checkpoint have the shape that a layer of the description needs, and why they do not.

A wrong key in the description shows here first, since the checkpoint knows the shapes; so the likeliest key is named.
Start at `shape_problem`.

Source: spec/max78000-cnn.md sections 6.1 and 7.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ai8x.network.ir import ConvSpec, Op, TensorShape
from ai8x.network.operators import entry_op
from ai8x.network.yaml_file import LayerEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeProblem:
    """What does not fit.

    Args:
        keys: to point at, the first that the layer has.
        found: of the weights.
        allowed: what the layer would need.
        help: the likeliest repair.
    """

    keys: tuple[str, ...]
    found: str
    allowed: str
    help: str


def out_channels_of(entry: LayerEntry, weight_shape: tuple[int, ...]) -> int:
    """Output channels that the weights imply.

    Args:
        entry: the layer.
        weight_shape: as torch stores the weights.
    """
    if entry_op(entry) is Op.CONV_TRANSPOSE2D and len(weight_shape) == 4:
        return weight_shape[1] * (entry.groups or 1)
    return weight_shape[0]


def expected_shape(entry: LayerEntry, out_channels: int, features: int, conv: ConvSpec) -> tuple[int, ...]:
    """Shape (4 dimensions) in which torch stores the weights of a layer."""
    if entry_op(entry) is Op.CONV_TRANSPOSE2D:
        return (features, out_channels // conv.groups, *conv.kernel)
    return (out_channels, features // conv.groups, *conv.kernel)


def shape_problem(
    entry: LayerEntry, weight_shape: tuple[int, ...], operand: TensorShape, features: int, conv: ConvSpec
) -> ShapeProblem | None:
    """Why weights do not suit a layer, or None.

    Args:
        entry: the layer.
        weight_shape: as torch stores the weights.
        operand: what the layer reads, after pooling.
        features: input channels of the convolution; all values of the operand where it is flattened.
        conv: geometry.
    """
    out_channels = out_channels_of(entry, weight_shape)
    shape = weight_shape + (1,) * (4 - len(weight_shape))
    expected = expected_shape(entry, out_channels, features, conv)
    divides = features % conv.groups == 0 and out_channels % conv.groups == 0
    if divides and shape == expected:
        return None
    keys, action = _likeliest(entry, shape, expected, operand, features)
    in_groups = f" in {conv.groups} groups" if conv.groups > 1 else ""
    allowed = f"{_times(expected, len(weight_shape))} for {features} input channels{in_groups}"
    if not divides:
        keys, action = ("groups",), f"write groups: 1, or use channels that {conv.groups} divides"
        allowed = f"groups that divide {features} input and {out_channels} output channels"
    return ShapeProblem(keys=(*keys, "op"), found=_times(shape, len(weight_shape)), allowed=allowed, help=action)


def _likeliest(
    entry: LayerEntry, shape: tuple[int, ...], expected: tuple[int, ...], operand: TensorShape, features: int
) -> tuple[tuple[str, ...], str]:
    """Keys to point at and a remedy, for weights of which the groups divide."""
    inputs = shape[0] if entry_op(entry) is Op.CONV_TRANSPOSE2D else shape[1]
    if shape[:2] == expected[:2] and entry_op(entry) is not Op.LINEAR:
        size = f"{shape[2]}" if entry_op(entry) is Op.CONV1D else f"{shape[2]}x{shape[3]}"
        return ("kernel_size",), f"write kernel_size: {size}, as in the checkpoint"
    if entry_op(entry) is Op.LINEAR and not entry.flatten and inputs == operand.numel:
        return ("flatten",), f"write flatten: true, so that the map of {operand} is read as {operand.numel} features"
    if shape[2:] == expected[2:] and inputs and features % inputs == 0 and shape[0] % (features // inputs) == 0 \
            and entry_op(entry) is not Op.LINEAR and features != inputs:
        return ("groups",), f"write groups: {features // inputs}, or use the checkpoint of this network"
    source = f"the layer reads {operand}, {features} {'features' if entry.flatten else 'channels'}, " \
             f"but the checkpoint has weights for {inputs}{_as_map(inputs, operand) if entry.flatten else ''}: "
    return ("in_sequences",), source + "check pooling, padding and in_sequences up to this layer, the shape of the " \
                                       "sample, and that this is the checkpoint of this network"


def _as_map(features: int, operand: TensorShape) -> str:
    """The square map of as many channels that has so many features, where there is one."""
    side = math.isqrt(features // operand.channels)
    square = TensorShape(operand.channels, max(side, 1), max(side, 1))
    return f" (such as {square})" if square.numel == features else ""


def _times(shape: tuple[int, ...], dimensions: int) -> str:
    return "x".join(map(str, shape[:max(2, dimensions)]))
