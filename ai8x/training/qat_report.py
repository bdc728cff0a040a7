"""What quantisation does to every layer: its width, its shift, and how many values are clipped.

Start at `layer_rows`.

Source: docs/training.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ai8x.nn.base import Mode, QuantizationAwareModule, quantized_layers
from ai8x.nn.functional import Q7_MAX, Q7_MIN

_COLUMNS = (("layer", "layer"), ("bits", "weight_bits"), ("shift", "output_shift"), ("weights", "weight_range"),
            ("clipped %", "weights_clipped_percent"), ("outputs", "output_range"), ("clipped %",
                                                                                   "outputs_clipped_percent"))


def layer_rows(model: nn.Module, inputs: Tensor) -> list[dict[str, Any]]:
    """One row a layer with parameters, in the order of the model.

    A weight counts as clipped where it lies beyond the range of its width at the layer's shift; an output where it is
    the least or the greatest of its range (0, which ReLU gives, does not count).

    Args:
        model: in QAT mode, in evaluation.
        inputs: a batch, (N, C, H, W) or (N, C, L).

    Returns:
        Plain values; ranges are [least, greatest], percentages of all values of the layer.
    """
    outputs: dict[str, Tensor] = {}
    layers = {name: layer for name, layer in quantized_layers(model).items() if layer.op is not None}
    handles = [layer.register_forward_hook(_keep(outputs, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [_row(name, layer, outputs[name]) for name, layer in layers.items() if name in outputs]


def _keep(outputs: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(module: nn.Module, given: Any, output: Tensor) -> None:
        outputs[name] = output.detach()
    return hook


def _row(name: str, layer: QuantizationAwareModule, output: Tensor) -> dict[str, Any]:
    if layer.op is None:
        raise TypeError("a layer that only pools")
    weight = layer.op.weight.detach()
    row: dict[str, Any] = {"layer": name, "type": type(layer).__name__, "mode": layer.mode.value,
                           "weight_bits": int(layer.weight_bits) or 8, "wide": layer.wide,
                           "weight_range": _range(weight), "output_range": _range(output)}
    if layer.mode is Mode.QAT:
        shift = int(layer.current_shift())
        steps = (weight * 2.0 ** (row["weight_bits"] - 1 - shift) + 0.5).floor()
        half = 1 << (row["weight_bits"] - 1)
        row["output_shift"] = shift
        row["weights_clipped_percent"] = _percent((steps < -half) | (steps > half - 1))
    clipped = torch.zeros_like(output, dtype=torch.bool) if layer.wide else (output <= Q7_MIN) | (output >= Q7_MAX)
    row["outputs_clipped_percent"] = _percent(clipped)
    return row


def _range(values: Tensor) -> list[float]:
    return [round(float(values.min()), 6), round(float(values.max()), 6)]


def _percent(mask: Tensor) -> float:
    return round(100.0 * float(mask.double().mean()), 4)


def format_report(rows: Sequence[Mapping[str, Any]], tested: Mapping[str, float]) -> list[str]:
    """The rows as an aligned table, and a line with the figures on the test part.

    Args:
        rows: of `layer_rows`.
        tested: phase -> figure on the test part.
    """
    table = [[title for title, _ in _COLUMNS]]
    table += [[_shown(row.get(key, "")) for _, key in _COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(_COLUMNS))]
    lines = ["  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                   zip(line[1:], widths[1:], strict=True))]) for line in table]
    return ["--- layers -------------------", *lines,
            "test: " + ", ".join(f"{name} {value:g}" for name, value in tested.items())]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"{value[0]:.3f} .. {value[1]:.3f}"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
