"""What a network may ask of the K210, each limit as one function whose docstring is the rule.

`check_network` runs before lowering and collects every finding. The rules concern the exact lowering of
spec/k210-kmodel.md section 13: what cannot be bit-identical is refused here, never approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ai8x.errors import Diagnostic, Diagnostics
from ai8x.k210.device import K210
from ai8x.network.ir import NETWORK_INPUT, Activation, Eltwise, Layer, Network, Op, Pool, PoolSpec, TensorShape

EXACT_FLOAT = 1 << 24
"""Integers below this magnitude are exact in float32, the arithmetic of CPU layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a rule found: the sentence, the offending value and what to write instead."""

    code: str
    message: str
    found: str
    help: str


Rule = Callable[[Layer, Network], Finding | None]


def check_network(network: Network) -> Diagnostics:
    """Every rule on every layer.

    Returns:
        The findings, in layer order; all of them errors.
    """
    diagnostics = Diagnostics()
    for layer in network.layers:
        for rule in RULES:
            if finding := rule(layer, network):
                diagnostics.add(Diagnostic(
                    code=finding.code, message=f"k210: {finding.message}", source=layer.source, layer=layer.name,
                    layer_index=layer.index, found=finding.found, allowed=rule_text(rule), help=finding.help))
    return diagnostics


def rule_text(rule: Rule) -> str:
    """The rule in words: the first sentence of its docstring, for messages and the manual."""
    text = " ".join((rule.__doc__ or "").split("Source:")[0].split())
    return text.strip().rstrip(".")


def operator_is_available(layer: Layer, network: Network) -> Finding | None:
    """Conv2d, Linear, pass-through, add and sub.

    Source: section 13.2.
    """
    if layer.op in (Op.CONV1D, Op.CONV_TRANSPOSE2D):
        return Finding(code="E0350", message=f"{layer.op.value} has no exact KPU form in this version",
                       found=layer.op.value, help="use Conv2d, or --target max78000")
    if layer.eltwise in (Eltwise.OR, Eltwise.XOR):
        return Finding(code="E0350", message="bitwise operators have no KPU form", found=str(layer.eltwise.value),
                       help="use add or sub, or --target max78000")
    return None


def conv_geometry_is_exact(layer: Layer, network: Network) -> Finding | None:
    """Conv2d 3x3 with pad 1 or 1x1 with pad 0, stride 1, dilation 1, groups 1 or one per channel.

    Source: section 7.
    """
    conv = layer.conv
    if conv is None or layer.op is not Op.CONV2D:
        return None
    depthwise = conv.groups == layer.operand_shape.channels == layer.out_shape.channels
    plain = conv.stride == (1, 1) and conv.dilation == (1, 1) and (conv.groups == 1 or depthwise)
    if plain and (conv.kernel, conv.padding) in (((3, 3), (1, 1)), ((1, 1), (0, 0))):
        return None
    found = f"kernel {conv.kernel}, pad {conv.padding}, stride {conv.stride}, groups {conv.groups}"
    return Finding(code="E0351", message="this convolution has no exact KPU form in this version", found=found,
                   help="pad 3x3 kernels by 1 and 1x1 kernels by 0, or use --target max78000")


def pooling_is_exact(layer: Layer, network: Network) -> Finding | None:
    """Windows 2x2 at stride 2 or 4x4 at stride 4, subsampling by 2 or 4 of sizes that it divides.

    Source: sections 6, 13.2 and 13.3.
    """
    shape, pool = layer.operand_shape, layer.pool
    kept = (shape.height // pool.stride[0], shape.width // pool.stride[1])  # the KPU drops what is left over
    if pool.is_identity or (pool_shape(pool) is not None and pool.output_size(shape.height, shape.width) == kept):
        return None
    return Finding(code="E0352", message="this pooling has no exact KPU form in this version",
                   found=f"{pool.kind.value} {pool.window} at stride {pool.stride} of {shape}",
                   help="use 2x2 at stride 2 on an even number of rows and columns, or --target max78000")


def average_is_exact(layer: Layer, network: Network) -> Finding | None:
    """Average pooling of values that can be negative: 2x2, truncating; with rounding the values must be >= 0.

    Source: section 13.2.
    """
    if layer.pool.kind is not Pool.AVG or operands_are_non_negative(layer, network):
        return None
    if layer.pool.window == (2, 2) and not layer.average_rounded:
        return None
    rounding = "rounding" if layer.average_rounded else "truncating"
    return Finding(code="E0353", message="the average of values that can be negative is not exact on the KPU",
                   found=f"{rounding} average {layer.pool.window}", help="put a ReLU before the pooling")


def maps_are_large_enough(layer: Layer, network: Network) -> Finding | None:
    """KPU maps are 4x4 to 512x256 (width x height) elements, before and after pooling, with up to 1024 channels.

    Source: section 7.
    """
    limits = K210.limits
    shapes = [layer.operand_shape, layer.pooled_shape]
    if layer.op is Op.LINEAR:
        shapes = [] if lies_in_main_memory(layer, network) else [layer.operand_shape]
    elif layer.conv is not None:
        shapes.append(layer.out_shape)
    for shape in shapes:
        if not _map_fits(shape):
            return Finding(code="E0354", message=f"the map {shape} does not fit the KPU", found=str(shape),
                           help=f"keep maps at least {limits.min_map}x{limits.min_map}, or use --target max78000")
    return None


def output_is_eight_bit_or_linear(layer: Layer, network: Network) -> Finding | None:
    """32-bit outputs come from Linear only; a KPU layer's result has 8 bits.

    Source: section 13.2.
    """
    if layer.output_bits == 8 or layer.op is Op.LINEAR:
        return None
    return Finding(code="E0355", message="the KPU has no 32-bit output", found=f"output_width {layer.output_bits}",
                   help="remove output_width: 32, or make the last layer Linear")


def activation_is_exact(layer: Layer, network: Network) -> Finding | None:
    """ReLU or none.

    Source: section 13.2.
    """
    if layer.activation is not Activation.ABS:
        return None
    return Finding(code="E0356", message="Abs has no exact KPU form in this version", found="Abs",
                   help="use ReLU, or --target max78000")


def linear_input_is_flat(layer: Layer, network: Network) -> Finding | None:
    """Linear reads one whole tensor: flattened, or a vector from another Linear, without pooling or combination.

    Source: section 13.2.
    """
    if layer.op is not Op.LINEAR:
        return None
    flat = layer.flatten or layer.operand_shape.height * layer.operand_shape.width == 1
    if flat and len(layer.inputs) == 1 and layer.pool.is_identity and layer.inputs != (NETWORK_INPUT,):
        return None
    return Finding(code="E0357", message="this Linear has no exact KPU form in this version",
                   found=f"{len(layer.inputs)} inputs of {layer.operand_shape}",
                   help="flatten one tensor that a convolution has made")


def linear_is_exact_in_float(layer: Layer, network: Network) -> Finding | None:
    """The accumulator of a Linear layer stays below 2**24, where float32 is exact.

    Source: section 13.2.
    """
    if layer.op is not Op.LINEAR or layer.weights is None:
        return None
    worst = int(abs(layer.weights).reshape(len(layer.weights), -1).sum(axis=1).max()) * 128
    worst += 128 * int(abs(layer.bias).max()) if layer.bias is not None else 0
    if worst < EXACT_FLOAT:
        return None
    return Finding(code="E0358", message="the sums of this Linear can exceed what float32 holds exactly",
                   found=f"up to {worst}", help="reduce the number of features, or use --target max78000")


def source_is_read_whole(layer: Layer, network: Network) -> Finding | None:
    """A layer reads its sources in their own shape, uncropped.

    Source: section 2.
    """
    channels = sum(network.shape_of(i).channels for i in layer.inputs) // layer.num_operands
    first = network.shape_of(layer.inputs[0])
    expected = TensorShape(channels, first.height, first.width)
    if layer.in_crop == (0, 0) and expected == layer.operand_shape:
        return None
    return Finding(code="E0359", message="cropping and reshaping have no KPU form in this version",
                   found=f"{expected} read as {layer.operand_shape}", help="remove in_crop and in_dim")


RULES: tuple[Rule, ...] = (
    operator_is_available, conv_geometry_is_exact, pooling_is_exact, average_is_exact, maps_are_large_enough,
    output_is_eight_bit_or_linear, activation_is_exact, linear_input_is_flat, linear_is_exact_in_float,
    source_is_read_whole,
)
"""Every rule, in the order in which findings are shown."""


def pool_shape(pool: PoolSpec) -> int | None:
    """2 or 4 where the KPU's pool types cover the pooling, else None."""
    for size in (2, 4):
        if pool.stride == (size, size) and pool.dilation == (1, 1):
            if pool.window == (size, size) or (pool.kind is Pool.NONE and pool.window == (1, 1)):
                return size
    return None


def is_non_negative(index: int, network: Network) -> bool:
    """Whether a tensor can hold no negative value, from activations and operators alone."""
    if index == NETWORK_INPUT:
        return False
    layer = network.layers[index]
    if layer.op.has_weights:
        return layer.activation is not Activation.NONE
    return operands_are_non_negative(layer, network)


def operands_are_non_negative(layer: Layer, network: Network) -> bool:
    """Whether what a layer pools can hold no negative value."""
    return layer.eltwise is not Eltwise.SUB and all(is_non_negative(i, network) for i in layer.inputs)


def lies_in_main_memory(layer: Layer, network: Network) -> bool:
    """Whether a layer's input is a vector that another Linear left in main memory."""
    return all(i != NETWORK_INPUT and network.layers[i].op is Op.LINEAR for i in layer.inputs)


def _map_fits(shape: TensorShape) -> bool:
    limits = K210.limits
    return (limits.min_map <= shape.height <= limits.max_height and limits.min_map <= shape.width <= limits.max_width
            and shape.channels <= limits.max_channels)


def iter_rules() -> Iterator[tuple[str, str]]:
    """(function name, rule) of every rule, for the manual."""
    for rule in RULES:
        yield getattr(rule, "__name__", ""), rule_text(rule)
