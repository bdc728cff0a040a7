"""A network description as it would be written by hand: layers with their keys, in order, with a comment each.

Owns the way back from a `Network` to keys of the description language. What a key says by default is left out; the
text itself is made in `ai8x.network.description_yaml`. Start at `NetworkDescription` and `describe_network`.

Source: spec/max78000-cnn.md section 7.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ai8x.errors import Source
from ai8x.network.description_yaml import write_yaml
from ai8x.network.ir import NETWORK_INPUT, Activation, ConvSpec, Layer, Network, Op, Pool, PoolSpec, TensorShape
from ai8x.network.yaml_file import (
    LayerEntry,
    NetworkFile,
    PlacementHint,
    Reference,
    UnloadItem,
    parse_network_file,
)
from ai8x.network.yaml_values import Extent

_NOWHERE = Source(file="")
_TRANSPOSED_STRIDE = (2, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedLayer:
    """One layer.

    Args:
        entry: its keys; sources are layer names, never numbers.
        path: path of the module in the model; empty where there is none.
        in_shape, out_shape: (C, H, W); of each operand where several are combined.
        purpose: what a layer is for that no model has, for the comment; else empty.
    """

    entry: LayerEntry
    path: str
    in_shape: TensorShape
    out_shape: TensorShape
    purpose: str = ""

    @property
    def name(self) -> str:
        """As the file calls it."""
        return self.entry.name or ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDescription:
    """A network description.

    Args:
        name: of the architecture, as ``arch``.
        dataset: of the sample.
        input_shape: (C, H, W).
        layers: in the order in which they run.
        origin: what it was written from, for the header.
        skipped: layers of the checkpoint that the network does not use.
        unload: replaces the automatic unloading.
        behind: functions that the model applies behind the outputs.
        average_rounded: average pooling rounds instead of truncating, which the file itself cannot say.
    """

    name: str
    dataset: str
    input_shape: TensorShape
    layers: tuple[DescribedLayer, ...]
    origin: str = ""
    skipped: tuple[str, ...] = ()
    unload: tuple[UnloadItem, ...] = ()
    behind: tuple[str, ...] = ()
    average_rounded: bool = False

    @property
    def is_placed(self) -> bool:
        """Every layer says which processors it uses."""
        return all(layer.entry.hint.processors is not None for layer in self.layers)

    def to_yaml(self) -> str:
        """The file's text."""
        return write_yaml(self)

    def network_file(self, path: str = "") -> NetworkFile:
        """The description as the rest of the tool reads it; places are those of `to_yaml`.

        Args:
            path: name of the file, for messages; empty takes the network's.
        """
        return parse_network_file(self.to_yaml(), path or f"{self.name}.yaml")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNotes:
    """What a `Layer` does not say about itself.

    Args:
        name: for the file; empty takes the layer's.
        path: of the module.
        hint: where the layer lies on the MAX78000.
        unit: first channel that the layer copies, where its weights are not in the checkpoint; None otherwise.
        quantization, output_shift: as the file that is described gives them.
        purpose: for the comment.
    """

    name: str = ""
    path: str = ""
    hint: PlacementHint = field(default_factory=PlacementHint)
    unit: int | None = None
    quantization: int | None = None
    output_shift: int | None = None
    purpose: str = ""


def describe_network(network: Network, notes: Sequence[LayerNotes] = (), **fields: Any) -> NetworkDescription:
    """The description of a network without rolling buffer.

    Args:
        network: weights are looked at for their shape only.
        notes: by layer; empty where there is nothing to say.
        fields: further fields of the description.
    """
    notes = notes or tuple(LayerNotes() for _ in network.layers)
    writer = _Writer(network=network, names=tuple(
        note.name or layer.name for layer, note in zip(network.layers, notes, strict=True)))
    layers = tuple(
        DescribedLayer(entry=writer.entry(layer, note), path=note.path, in_shape=layer.operand_shape,
                       out_shape=layer.out_shape, purpose=note.purpose)
        for layer, note in zip(network.layers, notes, strict=True))
    return NetworkDescription(**{
        "name": network.name, "dataset": network.dataset or "none", "input_shape": network.input_shape,
        "layers": layers, "average_rounded": any(
            layer.average_rounded and layer.pool.kind is Pool.AVG for layer in network.layers), **fields})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Writer:
    """Turns layers into entries.

    Args:
        network: what is described.
        names: by layer, for the file.
    """

    network: Network
    names: tuple[str, ...] = field(default=())

    def entry(self, layer: Layer, note: LayerNotes) -> LayerEntry:
        """The keys of one layer, without those that only state a default."""
        return LayerEntry(
            position=layer.index, sequence=layer.index, source=_NOWHERE, name=self.names[layer.index], op=layer.op,
            hint=note.hint, eltwise=layer.eltwise, in_sequences=self._sources(layer), in_dim=self._in_dim(layer),
            in_crop=layer.in_crop if any(layer.in_crop) else None,
            pool_first=None if layer.pool_first else False, quantization=note.quantization,
            output_shift=note.output_shift, flatten=layer.flatten or None, output=layer.is_output or None,
            output_width=32 if layer.output_bits == 32 else None,
            activate=None if layer.activation is Activation.NONE else layer.activation,
            weight_source=None if layer.weight_source is None else self.names[layer.weight_source],
            unit_weights=note.unit, out_channels=None if note.unit is None else layer.out_shape.channels,
            **_pool_keys(layer), **_conv_keys(layer.op, layer.conv))

    def _sources(self, layer: Layer) -> tuple[Reference, ...] | None:
        """Names of the sources; None where the layer reads the one before."""
        if layer.inputs == (layer.index - 1,):
            return None
        return tuple(NETWORK_INPUT if index == NETWORK_INPUT else self.names[index] for index in layer.inputs)

    def _in_dim(self, layer: Layer) -> Extent | None:
        """Rows and columns in which the sources are read; None where they lie so."""
        crop, wanted = sum(layer.in_crop), (layer.operand_shape.height, layer.operand_shape.width)
        shapes = [self.network.shape_of(index) for index in layer.inputs]
        if all((shape.height - crop, shape.width) == wanted for shape in shapes):
            return None
        return wanted[:1] if wanted[1] == 1 else wanted


def _extent(pair: tuple[int, int], *, rows_only: bool) -> Extent:
    """One number where it says the same as two."""
    return pair[:1] if rows_only or pair[0] == pair[1] else pair


def _pool_keys(layer: Layer) -> Mapping[str, Any]:
    pool: PoolSpec = layer.pool
    rows_only = layer.op is Op.CONV1D or (layer.op in (Op.PASSTHROUGH, Op.LINEAR) and layer.operand_shape.width == 1)
    keys: dict[str, Any] = {}
    if pool.kind is not Pool.NONE:
        keys["max_pool" if pool.kind is Pool.MAX else "avg_pool"] = _extent(pool.window, rows_only=rows_only)
    if pool.kind is not Pool.NONE or pool.stride != (1, 1):
        keys["pool_stride"] = _extent(pool.stride, rows_only=rows_only)
    return keys


def _conv_keys(op: Op, conv: ConvSpec | None) -> Mapping[str, Any]:
    """Kernel and padding always, the rest where it is not the default."""
    if conv is None or op is Op.LINEAR:
        return {}
    rows_only, is_transposed = op.is_1d, op is Op.CONV_TRANSPOSE2D
    keys: dict[str, Any] = {"kernel_size": conv.kernel[:1] if rows_only else conv.kernel, "pad": conv.padding[0]}
    if conv.stride != (_TRANSPOSED_STRIDE if is_transposed else (1, 1)):
        keys["stride"] = _extent(conv.stride, rows_only=rows_only)
    if conv.dilation != (1, 1):
        keys["dilation"] = _extent(conv.dilation, rows_only=rows_only)
    if is_transposed and conv.output_padding != 1:
        keys["output_pad"] = conv.output_padding
    if conv.groups > 1:
        keys["groups"] = conv.groups
    return keys
