"""A network file and integer parameters, put together to a `Network`.

Owns names, the pairing of layers with parameters, widths and shifts. Everything that contradicts is collected and
reported with its place in the file. Knows no chip. Start at `build_network`.

Source: spec/max78000-cnn.md sections 4.2, 4.3 and 7.2; spec/ai8x-training.md sections 4 and 10.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from ai8x.arithmetic import INT8, weight_type
from ai8x.errors import Diagnostic, Diagnostics, UserError
from ai8x.network.connections import Connections, operand_shape
from ai8x.network.ir import (
    BUFFER_INPUT,
    NETWORK_INPUT,
    Activation,
    ConvSpec,
    Layer,
    Network,
    Op,
    RollingBuffer,
    TensorShape,
)
from ai8x.network.operators import (
    Geometry,
    entry_op,
    entry_subject,
    has_own_weights,
    operator_geometry,
    problem,
)
from ai8x.network.pairing import UNIT_OUTPUT_SHIFT, UNIT_WEIGHT_BITS, identifier, pair_names, unit_weights
from ai8x.network.rolling import check_buffer_keys, check_inserted
from ai8x.network.weight_shapes import expected_shape, out_channels_of, shape_problem
from ai8x.network.weights import LayerParameters, correlation_kernel, hardware_bias
from ai8x.network.yaml_file import LayerEntry, NetworkFile
from ai8x.network.yaml_nodes import show_text

_STORED_WIDTH = 8
"""Shifts are stored relative to 8-bit weights."""

MAX_TENSOR_VALUES = 1 << 24
"""Values of a tensor that any stage accepts; more than the memories of any chip hold."""

MAX_WINDOW_VALUES = 1 << 27
"""Values that the windows of one convolution read, counted once for each output pixel."""

OTHER_NETWORK = ("E0550", "E0551", "E0552")
"""Codes that say that checkpoint and description do not belong together."""


def build_network(
    file: NetworkFile,
    parameters: Sequence[LayerParameters],
    input_shape: TensorShape,
    *,
    checkpoint_arch: str | None = None,
    average_rounded: bool = False,
) -> Network:
    """The network that the file describes, with the checkpoint's parameters.

    Args:
        file: the description; `Network.layers` has its order, so hints stay aligned.
        parameters: in the order of the checkpoint; where the names of the file's layers with weights are those of the
            checkpoint, names decide, else the k-th belongs to the k-th layer with own weights.
        input_shape: (C, H, W) of a sample.
        checkpoint_arch: architecture that the checkpoint names, None where it names none.
        average_rounded: average pooling rounds instead of truncating.

    Raises:
        UserError: E0230 to E0246 contradictions in the description, E0550 to E0556 between description and
            checkpoint; one for each layer, together. Of a checkpoint that belongs to another network only the first
            contradiction: the shapes behind it mean nothing.
    """
    diagnostics = Diagnostics()
    _check_file(file, checkpoint_arch, diagnostics)
    builder = _Builder(file, _pair_parameters(file, parameters, diagnostics), input_shape, average_rounded)
    layers = [builder.layer(entry, diagnostics) for entry in file.layers]
    if diagnostics.errors:
        raise UserError(_without_consequences(diagnostics.errors))
    outputs = tuple(entry.position for entry in file.layers if entry.output)
    return Network(name=file.arch, dataset=file.dataset, input_shape=input_shape, buffer=rolling_buffer(file),
                   layers=tuple(layer for layer in layers if layer is not None), outputs=outputs)


def rolling_buffer(file: NetworkFile) -> RollingBuffer | None:
    """What the file says about data that stays from one inference to the next."""
    if file.data_buffer is None:
        return None
    dim = file.data_buffer.dim
    shape = TensorShape(file.data_buffer.channels, dim[0], dim[1] if len(dim) > 1 else 1)
    return RollingBuffer(name=file.data_buffer.name, shape=shape)


def _without_consequences(errors: Sequence[Diagnostic]) -> tuple[Diagnostic, ...]:
    """The errors up to the first one that shows a checkpoint of another network; all of them where none does."""
    for position, error in enumerate(errors):
        if error.code in OTHER_NETWORK:
            return tuple(errors[: position + 1])
    return tuple(errors)


def _check_file(file: NetworkFile, checkpoint_arch: str | None, diagnostics: Diagnostics) -> None:
    """What the file as a whole asks for: another architecture, or features that are not available."""
    if checkpoint_arch is not None and checkpoint_arch.lower() != file.arch.lower():
        diagnostics.add(Diagnostic(
            code="E0550", message=f"the checkpoint is of architecture '{checkpoint_arch}'",
            source=file.sources.get("arch"), found=file.arch, allowed=f"arch: {checkpoint_arch}",
            help=f"use the checkpoint of {file.arch}, or write arch: {checkpoint_arch}"))
    unavailable = {"weights": file.weights, "bias": file.bias}
    for key, value in unavailable.items():
        if value is not None:
            diagnostics.add(Diagnostic(
                code="E0240", message=f"{key} is not available in this version", source=file.sources.get(key),
                allowed="no such key", help="give a checkpoint instead"))


def _pair_parameters(
    file: NetworkFile, parameters: Sequence[LayerParameters], diagnostics: Diagnostics
) -> Mapping[int, LayerParameters]:
    """Position -> parameters, for the layers that have their own: by name, or by order where names do not say it."""
    weighted = [entry for entry in file.layers if has_own_weights(entry)]
    parameters = _without_skipped(file, parameters, diagnostics)
    if len(weighted) != len(parameters):
        if len(weighted) < len(parameters):
            found = f"'{parameters[len(weighted)].name}' is the first without a layer"
        else:
            found = f"layer {weighted[len(parameters)].position} is the first without weights"
        diagnostics.add(Diagnostic(
            code="E0551", message=f"{len(weighted)} layers need weights, the checkpoint has {len(parameters)}",
            source=file.sources.get("layers"), found=found,
            allowed="weights for every layer with an operator, none for pass-through layers",
            help="use the checkpoint of this architecture, or complete the list of layers"))
    by_name = pair_names([entry.name for entry in weighted], [layer.name for layer in parameters])
    if by_name is not None and len(weighted) == len(parameters):
        parameters = [parameters[number] for number in by_name]
    return {entry.position: layer for entry, layer in zip(weighted, parameters, strict=False)}


def _without_skipped(file: NetworkFile, parameters: Sequence[LayerParameters], diagnostics: Diagnostics
                     ) -> Sequence[LayerParameters]:
    """The parameters without those that the file says belong to no layer."""
    names = {layer.name for layer in parameters}
    for name in file.skip_checkpoint_layers:
        if name not in names:
            diagnostics.add(Diagnostic(
                code="E0245", message=f"the checkpoint has no layer '{show_text(name)}' to skip",
                source=file.sources.get("skip_checkpoint_layers"), found=show_text(name),
                allowed=", ".join(sorted(names)), help="remove the name"))
    return [layer for layer in parameters if layer.name not in file.skip_checkpoint_layers]


class _Builder:
    """Builds one layer after the other; remembers shapes and names."""

    def __init__(self, file: NetworkFile, parameters: Mapping[int, LayerParameters], input_shape: TensorShape,
                 average_rounded: bool) -> None:
        self._parameters = parameters
        self._connections = Connections(file)
        self._entries = file.layers
        self._average_rounded = average_rounded
        self._shapes: dict[int, TensorShape] = {NETWORK_INPUT: input_shape}
        self._buffer = rolling_buffer(file)
        if self._buffer is not None:
            self._shapes[BUFFER_INPUT] = self._buffer.shape
        self._names = _unique_names(file.layers, parameters)

    def layer(self, entry: LayerEntry, diagnostics: Diagnostics) -> Layer | None:
        """The layer, or None after a finding or where the shape of a source is unknown because of one."""
        try:
            _refuse_unavailable(entry)
            self._connections.follower_problem(entry)
            inputs = self._connections.inputs(entry)
            if any(source not in self._shapes for source in inputs):
                return None
            check_buffer_keys(entry, inputs, self._buffer)
            operand = operand_shape(entry, [self._source_shape(entry, source) for source in inputs])
            geometry = operator_geometry(entry, operand)
            return self._complete(entry, inputs, operand, geometry)
        except UserError as error:
            for diagnostic in error.diagnostics:
                diagnostics.add(diagnostic)
            return None

    def _source_shape(self, entry: LayerEntry, source: int) -> TensorShape:
        """Shape of a source; of the buffer a shifting layer reads all but the oldest pixels."""
        if entry.buffer_shift and self._buffer is not None:
            return TensorShape(self._buffer.shape.channels, self._buffer.num_pixels - entry.buffer_shift, 1)
        return self._shapes[source]

    def _complete(self, entry: LayerEntry, inputs: tuple[int, ...], operand: TensorShape,
                  geometry: Geometry) -> Layer | None:
        values: dict[str, Any] = {}
        channels = operand.channels
        if geometry.conv is not None:
            source, own = self._own_parameters(entry, operand.channels)
            if own is None:
                return None
            pooled = TensorShape(operand.channels, *geometry.pool.output_size(operand.height, operand.width))
            features = pooled.numel if entry.flatten else pooled.channels
            channels = out_channels_of(entry, own.weight.shape)
            self._shapes[entry.position] = TensorShape(channels, geometry.out_height, geometry.out_width)
            _refuse_large(entry, self._shapes[entry.position], features * math.prod(geometry.conv.kernel))
            values = _layer_parameters(entry, own, pooled, features, geometry.conv)
            values["weight_source"] = source
        if entry.out_channels not in (None, channels):
            raise problem(entry, "E0239", "out_channels does not match", "out_channels", found=str(entry.out_channels),
                          allowed=str(channels), help="remove the key")
        out_shape = TensorShape(channels, geometry.out_height, geometry.out_width)
        check_inserted(entry, out_shape, self._buffer)
        self._shapes[entry.position] = out_shape
        return Layer(
            name=self._names[entry.position], index=entry.position, op=entry_op(entry), inputs=inputs,
            operand_shape=operand, out_shape=out_shape, pool=geometry.pool, eltwise=entry.eltwise,
            pool_first=entry.pool_first is not False, conv=geometry.conv, flatten=bool(entry.flatten),
            activation=entry.activate or Activation.NONE, output_bits=entry.output_width or 8,
            average_rounded=self._average_rounded, in_crop=entry.in_crop or (0, 0), is_output=bool(entry.output),
            buffer_shift=entry.buffer_shift or 0, buffer_insert=entry.buffer_insert or 0, source=entry.source,
            **values)

    def _own_parameters(self, entry: LayerEntry, channels: int) -> tuple[int | None, LayerParameters | None]:
        """(position of the layer that lends its weights or None, parameters or None if they are missing)."""
        if entry.unit_weights is not None:
            return None, _unit_parameters(entry, entry.unit_weights, channels)
        if entry.weight_source is None:
            return None, self._parameters.get(entry.position)
        source = self._connections.position(entry, entry.weight_source, "weight_source")
        if source == entry.position or source == NETWORK_INPUT or self._entries[source].weight_source is not None \
                or not has_own_weights(self._entries[source]):
            raise problem(entry, "E0241", "weight_source names a layer without weights of its own", "weight_source",
                          found=str(entry.weight_source), allowed="another layer with weights in the checkpoint",
                          help="name the layer that owns the weights")
        return source, self._parameters.get(source)


def _unit_parameters(entry: LayerEntry, first: int, channels: int) -> LayerParameters:
    """Parameters with which a 1x1 convolution copies channels of its input.

    Raises:
        UserError: E0246.
    """
    count = entry.out_channels or channels - first
    if first + count > channels or count < 1:
        raise problem(entry, "E0246", "unit_weights copies channels that the input does not have", "unit_weights",
                      "out_channels", found=f"channels {first} to {first + count - 1}",
                      allowed=f"0 to {channels - 1}", help="write unit_weights: 0")
    return LayerParameters(name=entry.name or f"layer{entry.position}", weight_key="unit_weights",
                           weight=unit_weights(count, first, channels), weight_bits=UNIT_WEIGHT_BITS,
                           output_shift=UNIT_OUTPUT_SHIFT + UNIT_WEIGHT_BITS - _STORED_WIDTH)


def _refuse_unavailable(entry: LayerEntry) -> None:
    if entry.in_channel_skip:
        raise problem(entry, "E0240", "in_channel_skip is not available in this version", "in_channel_skip",
                      found=str(entry.in_channel_skip), allowed="no such key",
                      help="drop the channels in the sample itself")


def _refuse_large(entry: LayerEntry, shape: TensorShape, taps: int) -> None:
    """Tensors that no chip has and that would take all memory of the computer.

    Raises:
        UserError: E0244.
    """
    windows = taps * shape.height * shape.width
    if shape.numel > MAX_TENSOR_VALUES or windows > MAX_WINDOW_VALUES:
        raise problem(entry, "E0244", "the layer is too large", "stride", "pad", "kernel_size", "op",
                      found=f"an output of {shape}, {windows} values in the windows of its kernel",
                      allowed=f"{MAX_TENSOR_VALUES} values in a tensor, {MAX_WINDOW_VALUES} in the windows",
                      help="use a smaller input, stride or padding, or pool earlier")


def _unique_names(entries: Sequence[LayerEntry], parameters: Mapping[int, LayerParameters]) -> tuple[str, ...]:
    """Names by position: the file's, else the checkpoint's, else ``layer<position>``; C identifiers, unique.

    A checkpoint's own ``layer<number>`` is replaced where the number is not the position: it would mislead.
    """
    names: list[str] = []
    taken = {identifier(entry.name) for entry in entries if entry.name is not None}
    for entry in entries:
        default = f"layer{entry.position}"
        own = parameters.get(entry.position)
        stored = identifier(own.name) if own is not None else default
        if entry.name is not None:
            name = identifier(entry.name)
        else:
            name = default if re.fullmatch("layer[0-9]+", stored) else stored
        is_taken = name in names or (entry.name is None and name in taken)
        while is_taken:
            name = f"{name}_{entry.position}"
            is_taken = name in names or name in taken
        names.append(name)
    return tuple(names)


def _checkpoint_problem(entry: LayerEntry, own: LayerParameters, code: str, message: str, *keys: str, found: str,
                        allowed: str, help: str) -> UserError:
    """An error between a layer and its parameters; both names are in the message."""
    subject = entry_subject(entry)
    return UserError(subject.finding(code, f"{message} (checkpoint layer '{own.name}' of {own.file})",
                                     entry.place(*keys), found=found, allowed=allowed, help=help))


def _kernel(entry: LayerEntry, own: LayerParameters, operand: TensorShape, features: int,
            conv: ConvSpec) -> NDArray[Any]:
    """Weights as (out, in/groups, row, column), of the shape that the layer needs.

    Raises:
        UserError: E0552.
    """
    weight = own.weight
    if wrong := shape_problem(entry, weight.shape, operand, features, conv):
        raise _checkpoint_problem(
            entry, own, "E0552", f"weights of {wrong.found} do not fit this layer", *wrong.keys,
            found=f"{wrong.found} in {own.weight_key}", allowed=wrong.allowed, help=wrong.help)
    weight = weight.reshape(expected_shape(entry, out_channels_of(entry, weight.shape), features, conv))
    return correlation_kernel(weight, conv.groups) if entry_op(entry) is Op.CONV_TRANSPOSE2D else weight


def _layer_parameters(entry: LayerEntry, own: LayerParameters, operand: TensorShape, features: int,
                      conv: ConvSpec) -> dict[str, Any]:
    """Keyword arguments of `Layer` that come from the checkpoint.

    Raises:
        UserError: E0552 shape, E0553 weights beyond their width, E0554 bias shape, E0555 bias range.
    """
    weights = _kernel(entry, own, operand, features, conv)
    bits = _weight_bits(entry, own)
    allowed = weight_type(bits)
    if not allowed.allows(weights):
        raise _checkpoint_problem(
            entry, own, "E0553", f"weights do not fit {bits} bits", "quantization",
            found=f"{weights.min()} to {weights.max()} in {own.weight_key}", allowed=f"{allowed.min} to {allowed.max}",
            help=f"run quantize.py with {bits} bits for this layer, or write a larger quantization:")
    shift = own.output_shift if entry.output_shift is None else entry.output_shift
    return {"weights": weights, "bias": _bias(entry, own, bits, weights.shape[0]), "weight_bits": bits,
            "output_shift": shift + _STORED_WIDTH - bits}


def _weight_bits(entry: LayerEntry, own: LayerParameters) -> int:
    """Width of the weights: the file's, else the checkpoint's; all-zero weights need one bit only.

    All-zero weights with a bias keep their width, because the bias is scaled by it.
    """
    if entry.quantization is not None:
        return entry.quantization
    if not own.weight.any() and own.bias is None:
        return 1
    return own.weight_bits


def _bias(entry: LayerEntry, own: LayerParameters, bits: int, out_channels: int) -> NDArray[Any] | None:
    """int8 values of the bias, or None where all of them are 0."""
    if own.bias is None:
        return None
    if own.bias.shape != (out_channels,):
        raise _checkpoint_problem(
            entry, own, "E0554", f"{own.bias.shape[0]} bias values for {out_channels} output channels", "op",
            found=str(own.bias.shape[0]), allowed=str(out_channels), help="use the checkpoint of this network")
    bias = hardware_bias(own.bias, bits)
    if not INT8.allows(bias):
        scale = 1 << (bits - 1)
        raise _checkpoint_problem(
            entry, own, "E0555", "bias does not fit 8 bits", "quantization",
            found=f"{own.bias.min()} to {own.bias.max()}, divided by {scale}: {bias.min()} to {bias.max()}",
            allowed=f"{INT8.min * scale} to {(INT8.max + 1) * scale - 1}",
            help="quantise again with quantize.py; the stored bias is scaled by 2**(bits - 1)")
    return bias if bias.any() else None
