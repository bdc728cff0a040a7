"""Why a network does not fit, and what would make it fit.

Owns the list of the largest consumers of every memory, and remedies: fewer bits, fewer channels, a smaller input,
fewer given values. Every remedy named has been planned with success. Start at `does_not_fit`.

Source: spec/max78000-cnn.md sections 1, 3.4, 3.7 and 6.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from ai8x.capacity import Consumer, DoesNotFit, Remedy
from ai8x.errors import Diagnostic, UserError
from ai8x.max7800x.biases import bias_entries
from ai8x.max7800x.device import Max7800x
from ai8x.max7800x.kernels import mask_word_count
from ai8x.max7800x.placement import LANES, PROCESSORS, WORD_BYTES
from ai8x.max7800x.planner_evaluator import Evaluator, Found
from ai8x.max7800x.planner_layout import tensor_of
from ai8x.max7800x.planner_problem import Problem, with_maps
from ai8x.network.ir import NETWORK_INPUT, Layer, Network, Op, TensorShape

NUM_SHOWN = 3
"""Consumers of a memory and remedies that are named."""

SCALES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25)
"""Factors of channels, or of the input's height and width, that are tried."""

NUM_LISTED = 5
"""Consumers of a memory that the report lists."""

MAX_NARROWED = 8
"""Layers whose weights get fewer bits at most."""

MAX_POOLED = 16
"""Power of two that a smaller input keeps as a divisor at most."""

Fits = Callable[[Network], bool]
"""Whether a network without parameters can be placed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Failure:
    """One attempt that did not fit.

    Args:
        problem: what was to be placed.
        found: the best plan, which exceeds a memory; None where helpers alone exceed the number of layers.
    """

    problem: Problem
    found: Found | None = None


def does_not_fit(
    network: Network, failures: Sequence[Failure], device: Max7800x, fits: Fits, *, fits_unhinted: bool = False
) -> UserError:
    """The error for a network that no attempt could place.

    Args:
        network: of the file.
        failures: all attempts, at least one.
        device: the chip.
        fits: tries a changed network.
        fits_unhinted: the network fits when the file's placement is left out.
    """
    complete = [(failure, failure.found) for failure in failures if failure.found is not None]
    if not complete:
        return UserError(_too_many_layers(failures[0], device))
    failure, found = min(complete, key=lambda attempt: attempt[1].score)
    evaluator = Evaluator(failure.problem)
    weights, data = _weight_uses(evaluator, found), _data_uses(evaluator, found)
    first = weights if found.weight_overflow else data
    layer = failure.problem.network.layers[max(first[0].layer, 0)]
    remedies = ["leave the placement keys out, so that they are chosen"] if fits_unhinted else []
    remedies += _remedies(network, found, weights, fits)
    biases = _bias_uses(failure.problem)
    finding = Diagnostic(
        code="E0464",
        message="the network does not fit: " + "; ".join(_complaints(failure.problem, found, device)),
        source=layer.source,
        layer=layer.name,
        layer_index=failure.problem.draft.file_index[layer.index],
        found="; ".join(text for text in (
            _table("largest weights", weights), _table("largest data, in each memory used", data),
            _table("largest biases", biases)) if text),
        allowed=f"{device.geometry.mask_words} words of 72 bits for the weights of each processor, "
                f"{device.geometry.data_words * WORD_BYTES} bytes in each data memory, "
                f"{device.geometry.bias_entries} biases in each quadrant",
        help=", or ".join(remedies[:NUM_SHOWN]) if remedies
        else "reduce the layers named first: fewer channels, or pooling before them",
    )
    tables = (("weight memory", weights), ("data memory, in each instance used", data), ("bias memory", biases))
    return DoesNotFit(
        finding,
        consumers=tuple(Consumer(memory=memory, layer=use.name, amount=use.amount, unit=use.unit)
                        for memory, uses in tables for use in uses[:NUM_LISTED]),
        remedies=tuple(Remedy(action=action, effect="planned with success: the network then fits")
                       for action in remedies[:NUM_SHOWN]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    """What one layer takes of a memory."""

    layer: int
    name: str
    amount: int
    unit: str = "bytes"


def _complaints(problem: Problem, found: Found, device: Max7800x) -> Iterator[str]:
    if found.score.impossible:
        yield "the processors of pass layers cannot be connected as their readers need"
    if found.weight_overflow:
        used, capacity = sum(found.mask_words), device.geometry.mask_words * PROCESSORS
        yield (f"{found.weight_overflow} words of weights per processor have no place beside the others, "
               f"which take {used} of {capacity} words")
    if found.data_overflow:
        step = _worst_step(problem, found)
        yield (f"data needs {found.data_words * WORD_BYTES} bytes in one memory of "
               f"{device.geometry.data_words * WORD_BYTES}, at layer '{problem.network.layers[step].name}'")
    if found.bias_overflow:
        yield f"{found.bias_overflow} biases have no place"


def _worst_step(problem: Problem, found: Found) -> int:
    """The layer at which the highest word is in use."""
    regions = Evaluator(problem).regions(found.maps)
    highest = max(regions, key=lambda region: found.blocks.bases[region.block] + region.end)
    return max(highest.first_use, 0)


def _weight_uses(evaluator: Evaluator, found: Found) -> list[_Use]:
    problem = evaluator.problem
    readers = evaluator.reader_maps(found.maps)
    uses = []
    for layer in problem.layers:
        if not layer.is_conv or layer.layer.weight_source is not None:
            continue
        placed = with_maps(layer, readers[layer.index], found.maps[tensor_of(layer.index)])
        size = mask_word_count(placed) * placed.active_processors.bit_count() * problem.device.geometry.mask_word_bytes
        uses.append(_Use(layer=layer.index, name=layer.name, amount=size))
    return _largest(uses)


def _data_uses(evaluator: Evaluator, found: Found) -> list[_Use]:
    problem = evaluator.problem
    regions = list(evaluator.regions(found.maps))
    uses: dict[int, _Use] = {}
    for region in regions:
        layer = NETWORK_INPUT if region.first_use < 0 else region.first_use
        name = "input" if layer == NETWORK_INPUT else problem.network.layers[layer].name
        size = (region.end - region.start) * WORD_BYTES
        uses[layer] = _Use(layer=layer, name=name, amount=max(size, uses[layer].amount if layer in uses else 0))
    return _largest(list(uses.values()))


def _bias_uses(problem: Problem) -> list[_Use]:
    entries = [(layer, bias_entries(layer)) for layer in problem.layers]
    return _largest([_Use(layer=layer.index, name=layer.name, amount=len(values), unit="entries")
                     for layer, values in entries if values is not None])


def _largest(uses: list[_Use]) -> list[_Use]:
    return sorted(uses, key=lambda use: (-use.amount, use.layer))


def _table(title: str, uses: Sequence[_Use]) -> str:
    if not uses:
        return ""
    rows = ", ".join(f"{use.name} {use.amount} {use.unit}" for use in uses[:NUM_SHOWN])
    return f"{title}: {rows}"


def _remedies(network: Network, found: Found, weights: Sequence[_Use], fits: Fits) -> Iterator[str]:
    """Changes after which the network fits, cheapest for the user first."""
    bare = without_parameters(network)
    if found.weight_overflow and (text := _fewer_bits(bare, weights, fits)):
        yield text
    if found.data_overflow and (text := _smaller_input(bare, fits)):
        yield text
    if found.bias_overflow and fits(bare):
        yield "train the model without biases (bias=False)"
    if text := _fewer_channels(network, bare, fits):
        yield text


def without_parameters(network: Network) -> Network:
    """The network's shapes alone; grouped convolutions as the dense ones that the chip runs."""
    layers = {}
    for layer in network.layers:
        conv = None if layer.conv is None else replace(layer.conv, groups=1)
        layers[layer.index] = replace(layer, weights=None, bias=None, conv=conv, weight_source=None)
    return network.with_layers(layers)


def _fewer_bits(bare: Network, weights: Sequence[_Use], fits: Fits) -> str:
    """The fewest large layers whose weights must be halved, one step after the other."""
    bits = {layer.index: layer.weight_bits for layer in bare.layers}
    sizes = {bare.layers[index].index: float(use.amount) for use in weights
             for index in [_index_of(bare, use.name)] if index is not None}
    changed: dict[int, int] = {}
    for _ in range(3 * MAX_NARROWED):
        candidates = [index for index in sizes if bits[index] > 1 and (index in changed or len(changed) < MAX_NARROWED)]
        if not candidates:
            return ""
        largest = max(candidates, key=lambda index: (sizes[index], -index))
        bits[largest] //= 2
        sizes[largest] /= 2
        changed[largest] = bits[largest]
        narrower = bare.with_layers({i: replace(bare.layers[i], weight_bits=value) for i, value in changed.items()})
        if fits(narrower):
            by_bits: dict[int, list[str]] = {}
            for index, value in sorted(changed.items()):
                by_bits.setdefault(value, []).append(bare.layers[index].name)
            return " and ".join(f"write quantization: {value} in {', '.join(names)}"
                                for value, names in sorted(by_bits.items(), reverse=True)) + " and quantize again"
    return ""


def _index_of(network: Network, name: str) -> int | None:
    return next((layer.index for layer in network.layers if layer.name == name), None)


def _smaller_input(bare: Network, fits: Fits) -> str:
    shape = bare.input_shape
    for scale in SCALES:
        height, width = _shrunk(shape.height, scale), _shrunk(shape.width, scale)
        smaller = resized(bare, TensorShape(shape.channels, height, width), {})
        if smaller is not None and fits(smaller):
            return f"use an input of {smaller.input_shape}"
    return ""


def _shrunk(size: int, scale: float) -> int:
    """A smaller height or width that can be halved as often, so that branches keep meeting at equal sizes."""
    step = min(MAX_POOLED, size & -size)
    return max(1, step, round(size * scale / step) * step)


def _fewer_channels(network: Network, bare: Network, fits: Fits) -> str:
    """The largest factor by which the channels of all hidden layers can be multiplied."""
    hidden = [layer.index for layer in bare.layers if layer.conv is not None and layer.index not in bare.outputs]
    for scale in SCALES:
        channels = {index: _scaled(bare.layers[index].out_shape.channels, scale) for index in hidden}
        narrower = resized(bare, bare.input_shape, channels)
        if narrower is not None and fits(narrower):
            examples = ", ".join(
                f"{network.layers[index].name} {network.layers[index].out_shape.channels} -> {channels[index]}"
                for index in hidden[:NUM_SHOWN])
            return f"multiply the channels of the hidden layers by {scale} ({examples})"
    return ""


def _scaled(channels: int, scale: float) -> int:
    """Channels rounded to whole data memory words, so that equal counts stay equal."""
    return max(min(channels, LANES), round(channels * scale / LANES) * LANES)


def resized(network: Network, input_shape: TensorShape, channels: dict[int, int]) -> Network | None:
    """A network without parameters for another input or other channel counts; None where a layer vanishes.

    Args:
        network: without parameters.
        input_shape: (C, H, W).
        channels: layer index -> output channels, where they change.
    """
    shapes = {NETWORK_INPUT: input_shape}
    layers: list[Layer] = []
    try:
        for layer in network.layers:
            layers.append(_resized_layer(network, layer, shapes, channels))
            shapes[layer.index] = layers[-1].out_shape
        return replace(network, input_shape=input_shape, layers=tuple(layers))
    except ValueError:
        return None


def _resized_layer(
    network: Network, layer: Layer, shapes: dict[int, TensorShape], channels: dict[int, int]
) -> Layer:
    """One layer on new input shapes.

    Raises:
        ValueError: nothing is left of it, or a reshaped input no longer divides.
    """
    sources = [shapes[index] for index in layer.inputs]
    count = sources[0].channels if layer.eltwise else sum(shape.channels for shape in sources)
    height, width = sources[0].height - sum(layer.in_crop), sources[0].width
    before = network.shape_of(layer.inputs[0])
    if layer.operand_shape.width != before.width:
        height, width = height * width // layer.operand_shape.width, layer.operand_shape.width
    operand = TensorShape(count, height, width)
    out_channels = channels.get(layer.index, layer.out_shape.channels)
    return replace(layer, operand_shape=operand, out_shape=_out_shape(layer, operand, out_channels))


def _out_shape(layer: Layer, operand: TensorShape, out_channels: int) -> TensorShape:
    size = layer.pool.output_size(operand.height, operand.width)
    if layer.conv is None:
        return TensorShape(operand.channels, *size)
    if layer.flatten:
        return TensorShape(out_channels, 1, 1)
    is_transposed = layer.op is Op.CONV_TRANSPOSE2D
    return TensorShape(out_channels, *layer.conv.output_size(*size, is_transposed=is_transposed))


def _too_many_layers(failure: Failure, device: Max7800x) -> Diagnostic:
    draft = failure.problem.draft
    helpers = [layer.name for layer, index in zip(draft.network.layers, draft.file_index, strict=True) if index is None]
    first = draft.network.layers[0]
    return Diagnostic(
        code="E0463",
        message=f"{len(helpers)} copies are needed to place operands side by side",
        source=first.source,
        layer=first.name,
        layer_index=draft.file_index[0],
        found=f"{len(draft.network.layers)} layers with {', '.join(helpers[:NUM_SHOWN])}",
        allowed=f"{device.limits.max_layers} layers",
        help="let fewer element-wise operations and concatenations read the same layer, or stream fewer layers",
    )
