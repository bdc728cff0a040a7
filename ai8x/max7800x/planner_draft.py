"""A network on its way to a placement, with the helper layers that planning adds.

Owns how helpers are inserted: a copy without weights (a pass layer), or a 1x1 convolution with unit weights where the
data must change processors or a part of the channels is wanted. Layers of the file keep their order; `Draft.file_index`
remembers their numbers. Start at `Draft` and `insert_copies`.

Source: spec/max78000-cnn.md sections 4.6, 5.3 and 6.1.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ai8x.max7800x.geometry import dense_weights
from ai8x.max7800x.placement import LANES, DataFormat
from ai8x.network.ir import NETWORK_INPUT, ConvSpec, Layer, Network, Op, TensorShape
from ai8x.network.pairing import UNIT_OUTPUT_SHIFT, UNIT_WEIGHT_BITS, unit_weights
from ai8x.network.yaml_file import PlacementHint


class CopyKind(enum.Enum):
    """How a helper copies a tensor."""

    PASS = "pass layer"  # noqa: S105 (an operator, not a secret)
    CONV = "1x1 convolution"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanMode:
    """How the network's input enters, and how closely data may lie.

    Args:
        data_format: of layer 0.
        streaming: number of leading layers that stream.
        fifo: the input comes through the FIFO.
        fast_fifo: it comes through the RISC-V's FIFO.
        quad: layer 0 runs in quad mode.
        in_place: layers may write over what they have read.
    """

    data_format: DataFormat = DataFormat.HWC
    streaming: int = 0
    fifo: bool = False
    fast_fifo: bool = False
    quad: bool = False
    in_place: bool = False

    @property
    def reads_fifo(self) -> bool:
        """Whether layer 0 reads one of the FIFOs."""
        return self.fifo or self.fast_fifo


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draft:
    """A network with helpers so far.

    Args:
        network: layers of the file and helpers, in the order of execution.
        hints: by layer of `network`; empty for helpers.
        file_index: by layer of `network`, its number in the file; None for a helper.
        compact: names of layers whose output must lie without gaps, so that helpers can read it.
        converted: names of pass layers of the file that run as convolutions.
        widened: names of layers of the file whose weights have zeros for channels that fill up words.
        mode: how the input enters.
        copy_kind: first choice for copies.
        deduplicate: equal weights share storage.
    """

    network: Network
    hints: tuple[PlacementHint, ...]
    file_index: tuple[int | None, ...]
    compact: frozenset[str] = frozenset()
    converted: frozenset[str] = frozenset()
    widened: frozenset[str] = frozenset()
    mode: PlanMode = PlanMode()
    copy_kind: CopyKind = CopyKind.PASS
    deduplicate: bool = True

    @property
    def num_helpers(self) -> int:
        """Layers that the file does not have."""
        return sum(index is None for index in self.file_index)


def insert_copies(
    draft: Draft, reader: int, position: int, kind: CopyKind, parts: Sequence[tuple[int, int]] = ()
) -> Draft:
    """A draft in which a layer reads copies of one of its inputs.

    The helpers run immediately before the reader.

    Args:
        draft: so far.
        reader: index of the layer.
        position: place in `Layer.inputs`.
        kind: of the copy; parts of the channels need a convolution.
        parts: (first channel, number) of each copy; empty for one copy of all channels. A part that goes beyond the
            channels has zeros there, and the reader's weights get zeros for them.
    """
    network = draft.network
    source = network.layers[reader].inputs[position]
    shape = network.shape_of(source)
    helpers = tuple(
        _copy_layer(network, source, reader, kind, part, reader + count)
        for count, part in enumerate(parts or [(0, shape.channels)])
    )
    added = len(helpers)

    def moved(index: int) -> int:
        return index + added if index >= reader else index

    layers = [layer for layer in network.layers[:reader]]
    layers += helpers
    for layer in network.layers[reader:]:
        inputs = tuple(moved(index) for index in layer.inputs)
        if layer.index == reader:
            own = tuple(helper.index for helper in helpers)
            inputs = inputs[:position] + own + inputs[position + 1 :]
            before = sum(network.shape_of(index).channels for index in layer.inputs[: position + 1])
            layer = _widened(layer, before, sum(helper.out_shape.channels for helper in helpers) - shape.channels)
        lender = layer.weight_source if layer.weight_source is None else moved(layer.weight_source)
        layers.append(replace(layer, index=moved(layer.index), inputs=inputs, weight_source=lender))
    hint = PlacementHint(source=network.layers[reader].source)
    return replace(
        draft,
        network=replace(network, layers=tuple(layers), outputs=tuple(moved(index) for index in network.outputs)),
        hints=(*draft.hints[:reader], *(hint for _ in helpers), *draft.hints[reader:]),
        file_index=(*draft.file_index[:reader], *(None for _ in helpers), *draft.file_index[reader:]),
    )


def fill_words(draft: Draft, reader: int) -> Draft:
    """A draft in which the parts of a concatenation, the last one excepted, are copied to whole data memory words.

    The copies have channels of zeros at their end, for which the reader has weights of zero. A pass layer becomes a
    convolution.

    Args:
        draft: so far.
        reader: index of the layer.
    """
    if draft.network.layers[reader].conv is None:
        draft = as_convolutions(draft, [reader])
    name, num_parts = draft.network.layers[reader].name, len(draft.network.layers[reader].inputs)
    is_own = draft.file_index[reader] is not None
    for position in range(num_parts - 1):
        index = next(layer.index for layer in draft.network.layers if layer.name == name)
        channels = draft.network.shape_of(draft.network.layers[index].inputs[position]).channels
        if channels % LANES:
            whole = -(-channels // LANES) * LANES
            draft = insert_copies(draft, index, position, CopyKind.CONV, [(0, whole)])
    return replace(draft, widened=draft.widened | ({name} if is_own else set()))


def _widened(layer: Layer, at: int, extra: int) -> Layer:
    """The layer with `extra` more input channels, from channel `at` on, that do not count."""
    if not extra or layer.eltwise:
        return layer
    shape = layer.operand_shape
    conv = None if layer.conv is None else replace(layer.conv, groups=1)
    weights = dense_weights(layer)
    if weights is not None:
        pixels = layer.pooled_shape.height * layer.pooled_shape.width if layer.flatten else 1
        weights = np.insert(weights, [at * pixels] * (extra * pixels), 0, axis=1)
    return replace(layer, operand_shape=TensorShape(shape.channels + extra, shape.height, shape.width), conv=conv,
                   weights=weights, weight_source=None)


def as_convolutions(draft: Draft, indices: Sequence[int]) -> Draft:
    """The draft with pass layers computed by 1x1 convolutions with unit weights, which can write to any processors.

    Args:
        draft: so far.
        indices: of pass layers.
    """
    layers: dict[int, Layer] = {}
    for index in indices:
        layer = draft.network.layers[index]
        channels = layer.out_shape.channels
        layers[index] = replace(layer, op=Op.CONV2D, **_unit_kernel(channels, 0, channels))
    own = {layer.name for index, layer in layers.items() if draft.file_index[index] is not None}
    return replace(draft, network=draft.network.with_layers(layers), converted=draft.converted | own)


def _unit_kernel(count: int, first: int, channels: int) -> dict[str, Any]:
    """Arguments of a layer that picks `count` of its channels; those beyond the last are zero."""
    picked = min(count, channels - first)
    weights = np.pad(unit_weights(picked, first, channels), ((0, count - picked), (0, 0), (0, 0), (0, 0)))
    return {"conv": ConvSpec(), "weights": weights, "weight_bits": UNIT_WEIGHT_BITS,
            "output_shift": UNIT_OUTPUT_SHIFT}


def _copy_layer(
    network: Network, source: int, reader: int, kind: CopyKind, part: tuple[int, int], index: int
) -> Layer:
    shape = network.shape_of(source)
    first, count = part
    values = _unit_kernel(count, first, shape.channels) if kind is CopyKind.CONV else {}
    return Layer(
        name=_unique_name(network, source, first if first or count < shape.channels else None, index),
        index=index,
        op=Op.CONV2D if kind is CopyKind.CONV else Op.PASSTHROUGH,
        inputs=(source,),
        operand_shape=shape,
        out_shape=TensorShape(count, shape.height, shape.width),
        source=network.layers[reader].source,
        **values,
    )


def _unique_name(network: Network, source: int, first: int | None, index: int) -> str:
    taken = {layer.name for layer in network.layers}
    name = f"copy_{'input' if source == NETWORK_INPUT else network.layers[source].name}"
    if first is not None:
        name += f"_from_{first}"
    while name in taken:
        name += f"_{index}"
    return name
