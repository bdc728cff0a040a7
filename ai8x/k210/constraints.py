"""What a network may ask of the K210, each limit as one function whose docstring is the rule.

`check_network` runs before lowering and collects every finding. The rules concern the exact lowering of
spec/k210-kmodel.md section 13: what cannot be bit-identical is refused here, never approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ai8x.arithmetic import BIAS_SHIFT, INT8
from ai8x.errors import Diagnostic, Diagnostics
from ai8x.k210.device import K210
from ai8x.k210.forms import EXACT_FORMS, Forms
from ai8x.network.ir import BUFFER_INPUT, NETWORK_INPUT, Activation, Eltwise, Layer, Network, Op

EXACT_FLOAT = 1 << 24
"""Integers below this magnitude are exact in float32, the arithmetic of CPU layers."""


MAX_FEATURES = 9 * K210.limits.max_channels
"""Features that one KPU layer reads: nine for each channel, through a 3x3 kernel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a rule found: the sentence, the offending value and what to write instead."""

    code: str
    message: str
    found: str
    help: str


Rule = Callable[[Layer, Network], Finding | None]


def check_network(network: Network, forms: Forms = EXACT_FORMS) -> Diagnostics:
    """Every rule on every layer.

    Args:
        network: what is to be lowered.
        forms: what the user allows; layer types of our own lift `operator_is_available`.

    Returns:
        The findings, in layer order; all of them errors.
    """
    diagnostics = Diagnostics()
    for layer in network.layers:
        for rule in RULES:
            if rule is operator_is_available and forms.own_layers:
                continue
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
    """Convolutions, Linear, pass-through, add and sub; bitwise operators have no form on the KPU.

    Source: section 13.2.
    """
    if is_bitwise(layer) and layer.eltwise is not None:
        return Finding(code="E0350", message="bitwise operators have no KPU form", found=str(layer.eltwise.value),
                       help="use add or sub, --k210-own-layers if the generated runner is used, or --target max78000")
    return None


def is_bitwise(layer: Layer) -> bool:
    """Whether the layer combines its operands bit by bit."""
    return layer.eltwise in (Eltwise.OR, Eltwise.XOR)


def no_state_is_kept(layer: Layer, network: Network) -> Finding | None:
    """A kmodel keeps nothing from one inference to the next, so there is no rolling buffer.

    Source: section 10.
    """
    if BUFFER_INPUT not in layer.inputs and not layer.buffer_insert:
        return None
    return Finding(code="E0362", message="a rolling buffer has no KPU form",
                   found="data_buffer", help="feed the whole window as input, or use --target max78000")


def output_is_eight_bit_or_linear(layer: Layer, network: Network) -> Finding | None:
    """32-bit outputs come from a Linear on features only; a KPU layer's result has 8 bits.

    Source: section 13.2.
    """
    pixels = layer.out_shape.height * layer.out_shape.width
    if layer.output_bits == 8 or (layer.op is Op.LINEAR and pixels == 1):
        return None
    return Finding(code="E0355", message="the KPU has no 32-bit output", found=f"output_width {layer.output_bits}",
                   help="remove output_width: 32, or make the last layer Linear")


def channels_fit(layer: Layer, network: Network) -> Finding | None:
    """A KPU layer reads at most 1024 channels; all inputs of a convolution, all operands of an addition together unless
    they are two, which the CPU can add.

    Source: sections 7 and 13.2.
    """
    limit = K210.limits.max_channels
    together = layer.operand_shape.channels if adds_on_cpu(layer) or is_bitwise(layer) else channels_combined(layer)
    if together <= limit or (layer.op is Op.LINEAR and not layer.eltwise):
        return None
    return Finding(code="E0354", message="the KPU cannot read so many channels at once", found=f"{together} channels",
                   help="use fewer channels, or --target max78000")


def adds_on_cpu(layer: Layer) -> bool:
    """Whether QUANTIZED_ADD computes the element-wise combination: the sum or the difference of two operands."""
    return layer.eltwise in (Eltwise.ADD, Eltwise.SUB) and len(layer.inputs) == 2


def channels_combined(layer: Layer) -> int:
    """Channels of all that a KPU layer reads at once to combine a layer's operands."""
    return layer.operand_shape.channels * (len(set(layer.inputs)) if layer.eltwise else 1)


def maps_fit(layer: Layer, network: Network) -> Finding | None:
    """Two-dimensional maps that a kernel larger than 1x1 works on have up to 256 rows and 512 columns.

    Source: section 7.
    """
    limits, conv = K210.limits, layer.conv
    shapes = (layer.pooled_shape, layer.out_shape)
    is_local = conv is not None and max(conv.kernel) > 1 and min(shape.width for shape in shapes) > 1
    height, width = (max(sizes) for sizes in zip(*((s.height, s.width) for s in shapes), strict=True))
    if not is_local or (height <= limits.max_height and width <= limits.max_width):
        return None
    return Finding(code="E0363", message="the map is too large for the KPU", found=f"{height} rows, {width} columns",
                   help="crop or shrink the input, or pool earlier")


def runs_in_float(layer: Layer) -> bool:
    """Whether a Linear runs on the CPU: a wide output, or more features than one KPU layer reads."""
    return layer.op is Op.LINEAR and (layer.output_bits != INT8.bits or layer.conv_in_channels > MAX_FEATURES)


def linear_reads_features(layer: Layer, network: Network) -> Finding | None:
    """A Linear of more than 1024 features reads a vector; one that is applied to every pixel has at most 1024 channels.

    Source: section 13.2.
    """
    is_pixelwise = layer.out_shape.height * layer.out_shape.width > 1
    if layer.op is not Op.LINEAR or layer.conv_in_channels <= K210.limits.max_channels or not is_pixelwise:
        return None
    return Finding(code="E0357", message="this Linear has no exact KPU form",
                   found=f"{layer.operand_shape}, every pixel", help="flatten its input, or use fewer channels")


def linear_is_exact_in_float(layer: Layer, network: Network) -> Finding | None:
    """The sums of a Linear on the CPU stay below 2**24, where float32 is exact.

    Source: section 13.2.
    """
    if not runs_in_float(layer) or layer.weights is None:
        return None
    worst = worst_float_sum(layer)
    if worst < EXACT_FLOAT:
        return None
    return Finding(code="E0358", message="the sums of this Linear can exceed what float32 holds exactly",
                   found=f"up to {worst}", help="reduce the number of features, or use --target max78000")


def worst_float_sum(layer: Layer) -> int:
    """Largest magnitude of a Linear's accumulator, partial sums included, over all int8 inputs."""
    if layer.weights is None:
        return 0
    sums = np.abs(layer.weights).reshape(len(layer.weights), -1).sum(axis=1) * -INT8.min
    bias = 0 if layer.bias is None else np.abs(layer.bias) << BIAS_SHIFT
    return int(np.max(sums + bias))


RULES: tuple[Rule, ...] = (
    operator_is_available, no_state_is_kept, output_is_eight_bit_or_linear, channels_fit, maps_fit,
    linear_reads_features, linear_is_exact_in_float,
)
"""Every rule, in the order in which findings are shown."""


def is_non_negative(index: int, network: Network) -> bool:
    """Whether a tensor can hold no negative value, from activations and operators alone."""
    if index in (NETWORK_INPUT, BUFFER_INPUT):
        return False
    layer = network.layers[index]
    if layer.op.has_weights:
        return layer.activation is not Activation.NONE
    return operands_are_non_negative(layer, network)


def operands_are_non_negative(layer: Layer, network: Network) -> bool:
    """Whether what a layer pools can hold no negative value."""
    return layer.eltwise is not Eltwise.SUB and all(is_non_negative(i, network) for i in layer.inputs)


def iter_rules() -> Iterator[tuple[str, str]]:
    """(function name, rule) of every rule, for the manual."""
    for rule in RULES:
        yield getattr(rule, "__name__", ""), rule_text(rule)
