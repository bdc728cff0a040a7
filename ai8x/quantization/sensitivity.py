"""How much each layer suffers from fewer weight bits, and the best widths under a memory budget.

Start at `measure_sensitivity` and `choose_widths`.

Source: issue 4, "mixed precision by --auto-bits".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ai8x.arithmetic import WEIGHT_BITS
from ai8x.errors import user_error
from ai8x.nn import functional as AF
from ai8x.nn.base import QuantizationAwareModule, quantized_layers
from ai8x.quantization.integers import QuantizationOptions, parameter_limit


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSensitivity:
    """What quantising the weights of one layer alone does to the outputs of the model.

    Args:
        name: path of the layer.
        weights: number of weights.
        errors: weight bits -> power of the change of the model's outputs over their power.
    """

    name: str
    weights: int
    errors: Mapping[int, float]

    def size_bytes(self, bits: int) -> int:
        """Bytes of the weights at a width."""
        return math.ceil(self.weights * bits / 8)


def _outputs(model: nn.Module, batch: Tensor) -> Tensor:
    """All outputs of a model for a batch, one row a sample."""
    result = model(batch)
    tensors = [result] if isinstance(result, Tensor) else list(result)
    return torch.cat([t.reshape(len(batch), -1) for t in tensors], dim=1).double()


def _quantised(layer: QuantizationAwareModule, bits: int, options: QuantizationOptions
               ) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer as quantisation would leave them, in float."""
    if layer.op is None:
        raise TypeError("a layer that only pools has no parameters")
    weight, bias = layer.op.weight.detach(), None if layer.op.bias is None else layer.op.bias.detach()
    limit = parameter_limit(weight, bias, float(layer.shift_quantile), bits, options)
    shift = AF.parameter_shift(limit, bits)
    return AF.quantize_parameters(weight, bias, bits=bits, shift=shift, output_shift=shift)


@torch.no_grad()
def measure_sensitivity(model: nn.Module, batches: Iterable[Tensor], options: QuantizationOptions | None = None
                        ) -> tuple[LayerSensitivity, ...]:
    """Quantise one layer after the other to 1, 2, 4 and 8 bits and compare the outputs of the model.

    Args:
        model: in float mode and evaluation, BatchNorm folded; unchanged afterwards.
        batches: inputs.
        options: how limits are found.
    """
    options = options or QuantizationOptions()
    kept = list(batches)
    expected = [_outputs(model, batch) for batch in kept]
    power = sum(float(outputs.square().sum()) for outputs in expected) or 1.0
    found = []
    for name, layer in quantized_layers(model).items():
        if layer.op is None:
            continue
        errors = {}
        weight = layer.op.weight.detach().clone()
        bias = None if layer.op.bias is None else layer.op.bias.detach().clone()
        for bits in WEIGHT_BITS:
            _set_parameters(layer, *_quantised(layer, bits, options))
            errors[bits] = sum(float((_outputs(model, batch) - wanted).square().sum())
                               for batch, wanted in zip(kept, expected, strict=True)) / power
            _set_parameters(layer, weight, bias)
        found.append(LayerSensitivity(name=name, weights=weight.numel(), errors=errors))
    return tuple(found)


def _set_parameters(layer: QuantizationAwareModule, weight: Tensor, bias: Tensor | None) -> None:
    if layer.op is None:
        raise TypeError("a layer that only pools has no parameters")
    layer.op.weight.copy_(weight)
    if layer.op.bias is not None and bias is not None:
        layer.op.bias.copy_(bias)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Front:
    """Totals that no other combination beats in both respects, ascending in size.

    Args:
        sizes: bytes.
        errors: sums of the layers' errors.
        widths: index of the last layer's width.
        parents: index into the front of the layers before.
    """

    sizes: NDArray[np.int64]
    errors: NDArray[np.float64]
    widths: NDArray[np.int64]
    parents: NDArray[np.int64]


def _extended(front: _Front, layer: LayerSensitivity, budget: int) -> _Front:
    """The front with one layer more."""
    sizes = np.array([layer.size_bytes(bits) for bits in WEIGHT_BITS])
    errors = np.array([layer.errors[bits] for bits in WEIGHT_BITS])
    all_sizes = (front.sizes[:, None] + sizes).reshape(-1)
    all_errors = (front.errors[:, None] + errors).reshape(-1)
    order = np.lexsort((all_errors, all_sizes))
    order = order[all_sizes[order] <= budget]
    best = np.minimum.accumulate(all_errors[order]) if len(order) else all_errors[order]
    better = np.ones(len(order), bool)
    better[1:] = best[1:] < best[:-1]
    kept = order[better]
    return _Front(sizes=all_sizes[kept], errors=all_errors[kept], widths=kept % len(WEIGHT_BITS),
                  parents=kept // len(WEIGHT_BITS))


def choose_widths(layers: Sequence[LayerSensitivity], budget_bytes: int) -> dict[str, int]:
    """Widths with the least sum of errors whose weights fit a budget; the choice is optimal.

    Args:
        layers: measured sensitivities.
        budget_bytes: weight memory; biases do not count.

    Returns:
        Layer -> 1, 2, 4 or 8.

    Raises:
        UserError: E0563 where not even one bit for every weight fits.
    """
    least = sum(layer.size_bytes(WEIGHT_BITS[0]) for layer in layers)
    if least > budget_bytes:
        raise user_error("E0563", "the weights do not fit the budget with any widths", found=f"{budget_bytes} bytes",
                         allowed=f"at least {least} bytes (1 bit for every weight)",
                         help=f"write --auto-bits {least} or more, or train a smaller model")
    fronts = [_Front(sizes=np.zeros(1, np.int64), errors=np.zeros(1), widths=np.zeros(1, np.int64),
                     parents=np.zeros(1, np.int64))]
    for layer in layers:
        fronts.append(_extended(fronts[-1], layer, budget_bytes))
    widths: dict[str, int] = {}
    position = len(fronts[-1].errors) - 1  # the largest of the front has the least error
    for layer, front in zip(reversed(layers), reversed(fronts), strict=False):
        widths[layer.name] = WEIGHT_BITS[int(front.widths[position])]
        position = int(front.parents[position])
    return {layer.name: widths[layer.name] for layer in layers}


def format_sensitivity(layers: Sequence[LayerSensitivity], widths: Mapping[str, int] | None = None) -> str:
    """A table with one line for every layer; the chosen width is marked with an asterisk."""
    width = max(len("layer"), *(len(layer.name) for layer in layers))
    titles = "".join(f"{f'{bits} bit' + ('s' if bits > 1 else ''):>12s}" for bits in WEIGHT_BITS)
    lines = ["error of the model's outputs when one layer alone is quantised (share of their power)",
             f"{'layer':{width}s}  weights{titles}"]
    for layer in layers:
        cells = "".join(f"{layer.errors[bits]:11.2e}{'*' if (widths or {}).get(layer.name) == bits else ' '}"
                        for bits in WEIGHT_BITS)
        lines.append(f"{layer.name:{width}s}  {layer.weights:7d}{cells}".rstrip())
    if widths:
        total = sum(layer.size_bytes(widths[layer.name]) for layer in layers)
        lines.append(f"weights take {total} bytes; * marks the chosen widths")
    return "\n".join(lines)
