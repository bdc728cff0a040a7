"""What a model is made of and what it needs: layers, multiply-accumulates, memory, and the chips that have the room.

Start at `layer_figures`; `fitting_chips` compares with the chips. It knows sizes only: whether a network can be placed
is for synthesize.py to say.

Source: spec/ai8x-training.md sections 3.4 and 12 (``--summary``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ai8x.errors import UserError
from ai8x.k210.device import K210
from ai8x.max7800x.device import MAX78000
from ai8x.nn.base import DEFAULT_WEIGHT_BITS, QuantizationAwareModule, quantized_layers

SUMMARIES = ("model", "compute", "memory", "sparsity")
_MAX78002_MASK_WORDS = 4 * 5120 + 60 * 4096
_MAX78002_LAYERS = 128
_WIDE_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFigures:
    """One layer, for one sample.

    Args:
        name: path in the model.
        kind: class.
        input_shape, output_shape: without the batch.
        weights, zeros, biases: number of parameters, and of weights that are 0.
        weight_bits: width of a weight on the chip.
        macs: multiply-accumulates.
        wide: outputs of 32 bits.
        kernel: size of the kernel, () for linear and pooling layers.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    weights: int
    zeros: int
    biases: int
    weight_bits: int
    macs: int
    wide: bool
    kernel: tuple[int, ...]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights on the chip."""
        return -(-self.weights * self.weight_bits // 8)

    @property
    def output_bytes(self) -> int:
        """Bytes of the result in data memory."""
        return _numel(self.output_shape) * (_WIDE_BYTES if self.wide else 1)


def _numel(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


def layer_figures(model: nn.Module, input_shape: tuple[int, ...]) -> list[LayerFigures]:
    """Every layer in the order of execution.

    Args:
        model: in any mode; runs once on zeros.
        input_shape: (C, H, W) or (C, L).
    """
    found: list[LayerFigures] = []

    def note(name: str) -> Callable[[QuantizationAwareModule, Any, Tensor], None]:
        def hook(layer: QuantizationAwareModule, given: Any, output: Tensor) -> None:
            found.append(_figures(name, layer, given[0], output))
        return hook

    handles = [layer.register_forward_hook(note(name)) for name, layer in quantized_layers(model).items()]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, *input_shape, device=next(model.parameters()).device))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return found


def _figures(name: str, layer: QuantizationAwareModule, given: Tensor, output: Tensor) -> LayerFigures:
    op = layer.op
    weight = None if op is None else op.weight
    macs = 0
    if weight is not None:
        per_value = weight[0].numel()
        if isinstance(op, nn.ConvTranspose2d):  # one tap of every input channel of the group for each output
            per_value = weight.numel() // (weight.shape[1] * op.groups)
        macs = output.numel() * per_value
    is_conv = isinstance(op, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d)
    return LayerFigures(
        name=name, kind=type(layer).__name__, input_shape=tuple(given.shape[1:]), output_shape=tuple(output.shape[1:]),
        weights=0 if weight is None else weight.numel(), zeros=0 if weight is None else int((weight == 0).sum()),
        biases=0 if op is None or op.bias is None else op.bias.numel(),
        weight_bits=int(layer.weight_bits) or DEFAULT_WEIGHT_BITS, macs=macs, wide=layer.wide,
        kernel=tuple(op.kernel_size) if is_conv else ())  # type: ignore[union-attr, arg-type]


def fitting_chips(layers: Sequence[LayerFigures]) -> tuple[str, ...]:
    """Names of the chips whose weight memory, bias memory and number of layers suffice.

    The K210 stores a byte a weight, and its convolutions have no outputs of 32 bits.
    """
    weight_bytes = sum(layer.weight_bytes for layer in layers)
    biases = sum(layer.biases for layer in layers)
    geometry = MAX78000.geometry
    mask_bytes = geometry.num_processors * geometry.mask_words * geometry.mask_word_bytes
    bias_bytes = geometry.num_quadrants * geometry.bias_entries
    fits = {
        "MAX78000": weight_bytes <= mask_bytes and biases <= bias_bytes and len(layers) <= MAX78000.limits.max_layers,
        "MAX78002": weight_bytes <= _MAX78002_MASK_WORDS * geometry.mask_word_bytes
        and len(layers) <= _MAX78002_LAYERS,
        "K210": sum(layer.weights for layer in layers) <= K210.c_program_bytes
        and all(_fits_kpu(layer) for layer in layers),
    }
    return tuple(name for name, fitting in fits.items() if fitting)


def _fits_kpu(layer: LayerFigures) -> bool:
    """Only what no other form of the layer mends: a convolution's map is in KPU RAM, its outputs have 8 bits."""
    return not layer.kernel or (not layer.wide and _numel(layer.input_shape) <= K210.memory.kpu_bytes)


def format_summary(kind: str, model: nn.Module, input_shape: tuple[int, ...]) -> list[str]:
    """The lines of ``--summary``.

    Args:
        kind: one of `SUMMARIES`: model (the layers), compute (multiply-accumulates), memory (bytes on the chip) or
            sparsity (weights that are 0).
        model: in any mode.
        input_shape: (C, H, W) or (C, L).
    """
    layers = layer_figures(model, input_shape)
    head, row, total = _TABLES[kind]
    lines = _aligned([("layer", *head), *((layer.name, *row(layer)) for layer in layers), ("total", *total(layers))])
    if kind == "model":
        lines += str(model).splitlines()
    if kind == "memory":
        lines.append(f"largest input and output together: {_largest_pair(layers)} bytes")
    return [*lines, "room enough on: " + (", ".join(fitting_chips(layers)) or "none of the chips")]


_Cells = tuple[Any, ...]
_Table = tuple[_Cells, Callable[[LayerFigures], _Cells], Callable[[Sequence[LayerFigures]], _Cells]]


def _shape(shape: Sequence[int]) -> str:
    return "x".join(str(size) for size in shape)


def _largest_pair(layers: Sequence[LayerFigures]) -> int:
    return max(_numel(layer.input_shape) + layer.output_bytes for layer in layers)


_TABLES: dict[str, _Table] = {
    "model": (("kind", "input", "output", "weights", "biases"),
              lambda x: (x.kind, _shape(x.input_shape), _shape(x.output_shape), x.weights, x.biases),
              lambda all_: ("", "", "", sum(x.weights for x in all_), sum(x.biases for x in all_))),
    "compute": (("input", "output", "multiply-accumulates", "weights"),
                lambda x: (_shape(x.input_shape), _shape(x.output_shape), x.macs, x.weights),
                lambda all_: ("", "", sum(x.macs for x in all_), sum(x.weights for x in all_))),
    "memory": (("bits", "weight bytes", "bias bytes", "output bytes"),
               lambda x: (x.weight_bits, x.weight_bytes, x.biases, x.output_bytes),
               lambda all_: ("", sum(x.weight_bytes for x in all_), sum(x.biases for x in all_), "")),
    "sparsity": (("weights", "zeros", "zeros %"),
                 lambda x: (x.weights, x.zeros, _percent(x.zeros, x.weights)),
                 lambda all_: (sum(x.weights for x in all_), sum(x.zeros for x in all_),
                               _percent(sum(x.zeros for x in all_), sum(x.weights for x in all_)))),
}


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.2f}"


def _aligned(rows: Sequence[_Cells]) -> list[str]:
    table = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                 zip(row[1:], widths[1:], strict=True))]).rstrip() for row in table]


def describe_size(model: nn.Module, input_shape: tuple[int, ...]) -> str:
    """Weights, multiply-accumulates and chips in a line, for ``--list-models``."""
    try:
        layers = layer_figures(model, input_shape)
    except UserError as error:
        return error.diagnostics[0].message
    chips = ", ".join(fitting_chips(layers)) or "no chip"
    return (f"{sum(x.weights for x in layers):>9,} weights  {sum(x.macs for x in layers):>12,} MACs  "
            f"{_shape(input_shape):>10}  {chips}")
