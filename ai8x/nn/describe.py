"""A model as a network description: nobody has to write YAML.

The model runs once, watched; every call of a layer becomes an entry with the keys of the description language. An
element-wise layer joins the convolution that reads it where the chip can do both at once. Start at `describe_model`.

Source: spec/max78000-cnn.md sections 6.1 and 7.2; spec/ai8x-training.md section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from ai8x.errors import user_error
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.placement import channel_passes
from ai8x.network.description import LayerNotes, NetworkDescription, describe_network
from ai8x.network.ir import Layer, Network, Op
from ai8x.network.pairing import layer_name
from ai8x.nn.describe_layers import TracedLayers, data_shape, structure_only, trace_layers
from ai8x.nn.trace import trace_model
from ai8x.nn.wrappers import unwrap_model

_BATCH = 2
"""Items in the batch that is traced: with one, a change of shape could mistake the batch for a channel."""


def describe_model(model: nn.Module, input_shape: tuple[int, ...], *, name: str, dataset: str = "none",
                   origin: str = "") -> NetworkDescription:
    """The network description of a model.

    Layers stand in the order in which they run and are named after their modules, so that a checkpoint's parameters
    find them whatever the order in which the modules were registered. Functions behind the last layers (such as
    softmax) are not part of it.

    Args:
        model: of layers of `ai8x.nn`, in any mode, possibly inside wrappers. It runs once on zeros.
        input_shape: (C, H, W) or (C, L).
        name: of the architecture, the checkpoint's ``arch``.
        dataset: name of the data set.
        origin: what the model is, for the file's header; empty takes its class.

    Raises:
        UserError: E0726 for a model that does not run on inputs of this shape, E0720 for something between layers that
            no chip layer computes, E0725 for a model without layers of `ai8x.nn`.
    """
    inner = unwrap_model(model)
    device = next((p.device for p in inner.parameters()), torch.device("cpu"))
    try:
        shape = data_shape((1, *input_shape))
        trace = trace_model(inner, torch.zeros(_BATCH, *input_shape, device=device))
    except (RuntimeError, ValueError, IndexError) as error:  # what torch raises for shapes
        reason = str(error).partition("\n")[0]
        raise user_error("E0726", f"the model does not run on its input: {reason}",
                         found=f"an input of shape {tuple(input_shape)}", allowed="the shape of one input of the model",
                         help="write input_shape=(3, 32, 32) for images of 3 channels and 32x32 pixels") from error
    traced = fuse_combinations(trace_layers(trace, shape, structure_only))
    last = len(traced.layers) - 1
    marked = () if traced.outputs == (last,) else traced.outputs
    layers = tuple(replace(layer, is_output=layer.index in marked) for layer in traced.layers)
    network = Network(name=name, dataset=dataset, input_shape=shape, layers=layers, outputs=traced.outputs)
    return describe_network(network, _notes(traced), skipped=_unused(inner, traced), behind=traced.behind,
                            origin=origin or f"the model {type(inner).__name__}")


def _notes(traced: TracedLayers) -> tuple[LayerNotes, ...]:
    """Names for the file: the module's path for its first call."""
    notes: list[LayerNotes] = []
    for layer, path in zip(traced.layers, traced.paths, strict=True):
        taken = {note.name for note in notes}
        name = layer_name(path) if path else layer_name(layer.name)
        if layer.weight_source is not None or name in taken:
            name = layer_name(layer.name)
        while name in taken:
            name = layer_name(f"{name}_{layer.index}")
        purpose = "" if path else "copies the parts of a concatenation to one place"
        if layer.weight_source is not None:
            purpose = f"{path} again"
        notes.append(LayerNotes(name=name, path=path, purpose=purpose))
    return tuple(notes)


def _unused(model: nn.Module, traced: TracedLayers) -> tuple[str, ...]:
    """Layers with weights that did not run, under all names that a state of the model has for them."""
    used = {path for layer, path in zip(traced.layers, traced.paths, strict=True) if layer.weights is not None}
    stored = [key.removesuffix(".op.weight") for key in model.state_dict() if key.endswith(".op.weight")]
    return tuple(name for name in stored if name not in used)


def fuse_combinations(traced: TracedLayers) -> TracedLayers:
    """The layers with each element-wise layer inside the convolution that reads it, where the chip can do both.

    Args:
        traced: layers in the order of execution.
    """
    fused: dict[int, Layer] = {}  # by the convolution's index
    dropped: set[int] = set()
    for layer in traced.layers:
        if layer.eltwise is None or layer.index in traced.outputs:
            continue
        readers = [other for other in traced.layers if layer.index in other.inputs]
        if len(readers) == 1 and _can_fuse(layer, readers[0]):
            reader = readers[0]
            pools = not reader.pool.is_identity
            fused[reader.index] = replace(reader, eltwise=layer.eltwise, inputs=layer.inputs, pool_first=not pools)
            dropped.add(layer.index)
    kept = [fused.get(layer.index, layer) for layer in traced.layers if layer.index not in dropped]
    return _renumbered(traced, kept)


def _can_fuse(combination: Layer, reader: Layer) -> bool:
    """Whether a layer can combine its operands itself (section 6.1)."""
    limits = MAX78000.limits
    operands = len(combination.inputs)
    passes, _ = channel_passes(combination.out_shape.channels, MAX78000.processors)
    if reader.op not in (Op.CONV2D, Op.LINEAR) or reader.flatten or reader.inputs != (combination.index,):
        return False
    if combination.out_shape != reader.operand_shape:
        return False
    if passes > 1 and (passes, operands) != (2, 2):
        return False
    return reader.pool.is_identity or operands <= limits.max_operands_pool_after


def _renumbered(traced: TracedLayers, layers: Sequence[Layer]) -> TracedLayers:
    """The layers with their new positions."""
    new = {layer.index: position for position, layer in enumerate(layers)}
    moved = tuple(
        replace(layer, index=new[layer.index], inputs=tuple(new.get(index, index) for index in layer.inputs),
                weight_source=None if layer.weight_source is None else new[layer.weight_source])
        for layer in layers)
    return replace(traced, layers=moved, paths=tuple(traced.paths[layer.index] for layer in layers),
                   outputs=tuple(new[index] for index in traced.outputs))
