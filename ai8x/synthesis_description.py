"""The network file with the placement that was planned: read again, it gives the same project without planning.

Helper layers that the planner added stand in it like all others. Start at `completed_description`.

Source: spec/max78000-cnn.md section 7.2.
"""

from __future__ import annotations

import numpy as np

from ai8x.max7800x.planner import PlannedNetwork
from ai8x.network.description import LayerNotes, NetworkDescription, describe_network
from ai8x.network.ir import NETWORK_INPUT, Layer
from ai8x.network.operators import entry_op
from ai8x.network.pairing import layer_name
from ai8x.network.yaml_file import NetworkFile


def completed_description(file: NetworkFile, planned: PlannedNetwork, given: NetworkDescription | None
                          ) -> NetworkDescription | None:
    """The description of a planned network.

    None where concatenated parts were filled up to whole words (W0471): the language has no key for channels that are
    not in the checkpoint, so that only the description without places can be read again.

    Args:
        file: what was planned.
        planned: its layers with helpers between them, placed.
        given: the description that `file` was made from; None where it was a file.
    """
    if planned.widened:
        return None
    names: list[str] = []
    for layer, number in zip(planned.network.layers, planned.file_index, strict=True):
        own = None if number is None else file.layers[number].name
        name = own or layer_name(layer.name)
        names.append(f"{name}_{layer.index}" if name in names else name)
    notes = tuple(_notes(file, planned, layer, names, given) for layer in planned.network.layers)
    origin = f"{given.origin}; its place was planned" if given is not None else "a network file whose place was planned"
    return describe_network(planned.network, notes, skipped=file.skip_checkpoint_layers, unload=file.unload,
                            behind=() if given is None else given.behind, origin=origin)


def _notes(file: NetworkFile, planned: PlannedNetwork, layer: Layer, names: list[str],
           given: NetworkDescription | None) -> LayerNotes:
    """What one layer's entry says beyond what the network knows of it."""
    number, hint, name = planned.file_index[layer.index], planned.hints[layer.index], names[layer.index]
    if number is None:
        source = "the input" if layer.inputs[0] == NETWORK_INPUT else names[layer.inputs[0]]
        reader = names[planned.network.consumers(layer.index)[0]]
        return LayerNotes(name=name, hint=hint, unit=_first_channel(layer), purpose=f"copy of {source} for {reader}")
    entry = file.layers[number]
    described = None if given is None else given.layers[number]
    # A pass layer that the planner made a convolution copies all channels; the checkpoint does not know it.
    copies = layer.conv is not None and not entry_op(entry).has_weights
    return LayerNotes(
        name=name, path="" if described is None else described.path, hint=hint, quantization=entry.quantization,
        output_shift=entry.output_shift, unit=_first_channel(layer) if copies else entry.unit_weights,
        purpose="" if described is None else described.purpose)


def _first_channel(layer: Layer) -> int | None:
    """The first channel that a copying convolution picks; None for a pass layer."""
    return None if layer.weights is None else int(np.argmax(layer.weights[0]))
