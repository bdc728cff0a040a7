"""The chip-independent rows of the report: what every layer is and how large it is. Start at `layer_rows`."""

from __future__ import annotations

from ai8x.network.ir import BUFFER_INPUT, NETWORK_INPUT, Layer, Network, Op, Pool
from ai8x.report import LayerRow


def layer_rows(network: Network) -> tuple[LayerRow, ...]:
    """One row for each layer, in order."""
    return tuple(_row(network, layer) for layer in network.layers)


def operator_text(layer: Layer) -> str:
    """What a layer does, in the order in which it does it, such as ``add, avg pool 2x2, Conv2d 3x3 pad 1``."""
    combine = [layer.eltwise.value] if layer.eltwise else []
    pool = _pool_text(layer)
    front = pool + combine if layer.pool_first else combine + pool
    return ", ".join([*front, _core_text(layer)])


def _pool_text(layer: Layer) -> list[str]:
    pool = layer.pool
    if pool.is_identity:
        return []
    window = "x".join(str(size) for size in pool.window)
    stride = "" if pool.stride == pool.window else f" stride {'x'.join(str(size) for size in pool.stride)}"
    if pool.kind is Pool.NONE:
        return [f"subsample{stride}"]
    return [f"{pool.kind.value} pool {window}{stride}"]


def _core_text(layer: Layer) -> str:
    if layer.conv is None:
        return layer.op.value
    if layer.op is Op.LINEAR:
        return "flatten, Linear" if layer.flatten else "Linear"
    conv = layer.conv
    kernel = str(conv.kernel[0]) if layer.op.is_1d else "x".join(str(size) for size in conv.kernel)
    parts = [f"{layer.op.value} {kernel}"]
    if any(conv.padding):
        parts.append(f"pad {conv.padding[0]}")
    if conv.dilation[0] > 1:
        parts.append(f"dilation {conv.dilation[0]}")
    if conv.groups > 1:
        parts.append(f"groups {conv.groups}")
    return " ".join(parts)


def _source_name(network: Network, index: int) -> str:
    if index == BUFFER_INPUT and network.buffer is not None:
        return network.buffer.name
    return "input" if index == NETWORK_INPUT else network.layers[index].name


def _row(network: Network, layer: Layer) -> LayerRow:
    inputs = tuple(_source_name(network, index) for index in layer.inputs)
    return LayerRow(
        index=layer.index, name=layer.name, operator=operator_text(layer), inputs=inputs, sources=layer.inputs,
        in_shape=layer.operand_shape.as_tuple(), out_shape=layer.out_shape.as_tuple(), macs=layer.macs,
        weight_bits=layer.weight_bits if layer.op.has_weights else 0, weight_bytes=layer.weight_bytes,
        bias_bytes=0 if layer.bias is None else int(layer.bias.size), activation=layer.activation.value,
        output_shift=layer.output_shift, output_bits=layer.output_bits,
        is_output=layer.index in network.outputs)
