"""What would make a network fit: changes of it that have been planned with success, with what they lead to.

Owns the changes and their order, cheapest for the user first: what the file or the command line may leave out, fewer
bits, no biases, a folded input, fewer channels, a smaller input. Start at `find_remedies` and `PlanRemedy`.

Source: spec/max78000-cnn.md sections 3.4, 3.7, 6.1 and 6.4; folding: spec/ai8x-training.md section 16.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.placement import LANES, WORD_BYTES
from ai8x.max7800x.planner_result import PlanSummary
from ai8x.network.ir import NETWORK_INPUT, Layer, Network, Op, PoolSpec, TensorShape

NUM_NAMED = 3
"""Layers that a text names as examples."""

SCALES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25)
"""Factors of channels, or of the input's height and width, that are tried."""

FOLDS = (2, 4)
"""Rows and columns that folding turns into channels."""

MAX_NARROWED = 8
"""Layers whose weights get fewer bits at most."""

MAX_POOLED = 16
"""Power of two that a smaller input keeps as a divisor at most."""


class RemedyKind(enum.Enum):
    """What is changed; values are words for people."""

    PLACEMENT = "given placement"
    STREAMING = "streaming"
    BITS = "fewer bits"
    BIAS = "no biases"
    FOLD = "folded input"
    CHANNELS = "fewer channels"
    INPUT = "smaller input"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRemedy:
    """A change with which the network has been placed.

    Args:
        kind: what is changed.
        action: what to do, for people to copy.
        result: what the plan of the changed network uses.
        input_shape: (C, H, W) of the changed network.
    """

    kind: RemedyKind
    action: str
    result: PlanSummary
    input_shape: TensorShape

    def effect(self, device: Max7800x) -> str:
        """What the change leads to, in numbers."""
        geometry = device.geometry
        return (f"fits: {self.result.cycles:,} cycles, {max(self.result.mask_words)} of {geometry.mask_words} words in "
                f"the fullest weight memory, {self.result.data_peak_bytes:,} of {geometry.data_words * WORD_BYTES:,} "
                "bytes in the fullest data memory")


Try = Callable[[Network], PlanSummary | None]
"""Places a network without parameters; None where that fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """What does not suffice.

    Args:
        weights: of the weight memories.
        data: of the data memories.
        biases: of the bias memories.
        largest_weights: indices of the network's layers, the largest weights first, with their bytes.
    """

    weights: bool
    data: bool
    biases: bool
    largest_weights: tuple[tuple[int, int], ...]


def find_remedies(network: Network, shortage: Shortage, attempt: Try) -> Iterator[PlanRemedy]:
    """Changes of the network after which it fits, cheapest for the user first.

    Args:
        network: of the file.
        shortage: what its plan lacks.
        attempt: places a changed network.
    """
    bare = without_parameters(network)
    if shortage.weights:
        yield from _fewer_bits(bare, shortage.largest_weights, attempt)
    if shortage.biases:
        yield from _fewer_biases(network, bare, attempt)
    if shortage.data:
        yield from _folded_input(bare, attempt)
    yield from _fewer_channels(network, bare, attempt)
    if shortage.data:
        yield from _smaller_input(bare, attempt)


def without_parameters(network: Network) -> Network:
    """The network's shapes alone; grouped convolutions as the dense ones that the chip runs."""
    layers = {}
    for layer in network.layers:
        conv = None if layer.conv is None else replace(layer.conv, groups=1)
        layers[layer.index] = replace(layer, weights=None, bias=None, conv=conv, weight_source=None)
    return network.with_layers(layers)


def _fewer_bits(bare: Network, largest: Sequence[tuple[int, int]], attempt: Try) -> Iterator[PlanRemedy]:
    """The fewest large layers whose weights must be halved, one step after the other."""
    bits = {layer.index: layer.weight_bits for layer in bare.layers}
    sizes = {index: float(amount) for index, amount in largest}
    changed: dict[int, int] = {}
    for _ in range(3 * MAX_NARROWED):
        candidates = [index for index in sizes if bits[index] > 1 and (index in changed or len(changed) < MAX_NARROWED)]
        if not candidates:
            return
        index = max(candidates, key=lambda index: (sizes[index], -index))
        bits[index] //= 2
        sizes[index] /= 2
        changed[index] = bits[index]
        result = attempt(bare.with_layers({i: replace(bare.layers[i], weight_bits=n) for i, n in changed.items()}))
        if result is not None:
            yield PlanRemedy(kind=RemedyKind.BITS, action=_bits_text(bare, changed), result=result,
                             input_shape=bare.input_shape)
            return


def _bits_text(bare: Network, changed: dict[int, int]) -> str:
    by_bits: dict[int, list[str]] = {}
    for index, value in sorted(changed.items()):
        by_bits.setdefault(value, []).append(bare.layers[index].name)
    return " and ".join(f"write quantization: {value} in {', '.join(names)}"
                        for value, names in sorted(by_bits.items(), reverse=True)) + " and quantize again"


def _fewer_biases(network: Network, bare: Network, attempt: Try) -> Iterator[PlanRemedy]:
    """The fewest large layers that must do without a bias."""
    biased = sorted((layer for layer in network.layers if layer.bias is not None),
                    key=lambda layer: (-layer.out_shape.channels, layer.index))
    for count in range(1, len(biased) + 1):
        kept = {layer.index: replace(bare.layers[layer.index], bias=layer.bias) for layer in biased[count:]}
        result = attempt(bare.with_layers(kept))
        if result is not None:
            names = ", ".join(layer.name for layer in biased[:count])
            yield PlanRemedy(kind=RemedyKind.BIAS, action=f"train without a bias in {names} (bias=False)",
                             result=result, input_shape=bare.input_shape)
            return


def _folded_input(bare: Network, attempt: Try) -> Iterator[PlanRemedy]:
    """The input with squares of pixels as channels; the first poolings, which then have been done, are left out."""
    for fold in FOLDS:
        for dropped in (_first_poolings(bare, fold), ()):
            folded = folded_network(bare, fold, dropped)
            result = None if folded is None else attempt(folded)
            if folded is None or result is None:
                continue
            names = ", ".join(bare.layers[index].name for index in dropped)
            action = f"fold the input by {fold}: train on {folded.input_shape} instead of {bare.input_shape}"
            if dropped:
                action += f", without the pooling of {names}"
            yield PlanRemedy(kind=RemedyKind.FOLD, action=action, result=result, input_shape=folded.input_shape)
            return


def _first_poolings(bare: Network, fold: int) -> tuple[int, ...]:
    """Layers of the chain behind the input whose poolings reduce rows and columns by `fold` together; () for none."""
    left, dropped = fold, []
    for layer in bare.layers:
        if layer.inputs != (layer.index - 1,):
            break
        if layer.pool.window == layer.pool.stride == (2, 2):
            dropped.append(layer.index)
            left //= 2
        if left == 1:
            return tuple(dropped)
    return ()


def folded_network(bare: Network, fold: int, dropped: Sequence[int]) -> Network | None:
    """A network without parameters on a folded input; None where rows or columns do not divide, or a layer vanishes.

    Args:
        bare: without parameters.
        fold: factor of rows and columns.
        dropped: layers that lose their pooling.
    """
    shape = bare.input_shape
    if shape.width == 1 or shape.height % fold or shape.width % fold:
        return None
    folded = TensorShape(shape.channels * fold * fold, shape.height // fold, shape.width // fold)
    return resized(bare, folded, {}, dropped)


def _smaller_input(bare: Network, attempt: Try) -> Iterator[PlanRemedy]:
    shape = bare.input_shape
    for scale in SCALES:
        height, width = _shrunk(shape.height, scale), _shrunk(shape.width, scale)
        smaller = resized(bare, TensorShape(shape.channels, height, width), {})
        result = None if smaller is None else attempt(smaller)
        if smaller is not None and result is not None:
            yield PlanRemedy(kind=RemedyKind.INPUT, action=f"use an input of {smaller.input_shape}", result=result,
                             input_shape=smaller.input_shape)
            return


def _shrunk(size: int, scale: float) -> int:
    """A smaller height or width that can be halved as often, so that branches keep meeting at equal sizes."""
    step = min(MAX_POOLED, size & -size)
    return max(1, step, round(size * scale / step) * step)


def _fewer_channels(network: Network, bare: Network, attempt: Try) -> Iterator[PlanRemedy]:
    """The largest factor by which the channels of all hidden layers can be multiplied."""
    hidden = [layer.index for layer in bare.layers if layer.conv is not None and layer.index not in bare.outputs]
    for scale in SCALES:
        channels = {index: _scaled(bare.layers[index].out_shape.channels, scale) for index in hidden}
        narrower = resized(bare, bare.input_shape, channels)
        result = None if narrower is None else attempt(narrower)
        if result is not None:
            examples = ", ".join(
                f"{network.layers[index].name} {network.layers[index].out_shape.channels} -> {channels[index]}"
                for index in hidden[:NUM_NAMED])
            yield PlanRemedy(kind=RemedyKind.CHANNELS, result=result, input_shape=bare.input_shape,
                             action=f"multiply the channels of the hidden layers by {scale} ({examples})")
            return


def _scaled(channels: int, scale: float) -> int:
    """Channels rounded to whole data memory words, so that equal counts stay equal."""
    return max(min(channels, LANES), round(channels * scale / LANES) * LANES)


def resized(
    network: Network, input_shape: TensorShape, channels: Mapping[int, int], unpooled: Sequence[int] = ()
) -> Network | None:
    """A network without parameters for another input or other channel counts; None where a layer vanishes.

    Args:
        network: without parameters.
        input_shape: (C, H, W).
        channels: layer index -> output channels, where they change.
        unpooled: layers that lose their pooling.
    """
    shapes = {NETWORK_INPUT: input_shape}
    layers: list[Layer] = []
    try:
        for layer in network.layers:
            operand = _resized_operand(network, layer, shapes)
            pool = PoolSpec() if layer.index in unpooled else layer.pool
            out_shape = _out_shape(layer, pool, operand, channels.get(layer.index, layer.out_shape.channels))
            layers.append(replace(layer, operand_shape=operand, out_shape=out_shape, pool=pool))
            shapes[layer.index] = out_shape
        return replace(network, input_shape=input_shape, layers=tuple(layers))
    except ValueError:
        return None


def _resized_operand(network: Network, layer: Layer, shapes: Mapping[int, TensorShape]) -> TensorShape:
    """What one layer reads on new input shapes.

    Raises:
        ValueError: nothing is left of it, or a reshaped input no longer divides.
    """
    sources = [shapes[index] for index in layer.inputs]
    count = sources[0].channels if layer.eltwise else sum(shape.channels for shape in sources)
    height, width = sources[0].height - sum(layer.in_crop), sources[0].width
    before = network.shape_of(layer.inputs[0])
    if layer.operand_shape.width != before.width:
        height, width = height * width // layer.operand_shape.width, layer.operand_shape.width
    return TensorShape(count, height, width)


def _out_shape(layer: Layer, pool: PoolSpec, operand: TensorShape, out_channels: int) -> TensorShape:
    size = pool.output_size(operand.height, operand.width)
    if layer.conv is None:
        return TensorShape(operand.channels, *size)
    if layer.flatten:
        return TensorShape(out_channels, 1, 1)
    is_transposed = layer.op is Op.CONV_TRANSPOSE2D
    return TensorShape(out_channels, *layer.conv.output_size(*size, is_transposed=is_transposed))
