"""Golden tensors: every layer of the float model against the same layer on integers.

The two models run on the same inputs; errors accumulate from layer to layer as they do on the chip. Start at
`compare_models` and `first_bad_layer`.

Source: issue 4, "Golden tensors".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ai8x.nn.base import Mode, QuantizationAwareModule
from ai8x.nn.functional import Q7_ONE
from ai8x.nn.thresholds import output_ranges
from ai8x.nn.trace import Call, ModelTrace, trace_model

DEFAULT_LEAST_SNR = 10.0
"""Signal-to-noise ratio in dB below which a layer counts as bad: the noise has a third of the signal's magnitude."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerComparison:
    """One layer, float against integer, over all samples.

    Args:
        name: path of the layer; a second use has a number behind it.
        weight_bits: width of its weights; 0 without weights.
        shape: of its output, without the batch.
        max_error: greatest absolute difference, in units of the float model.
        peak: greatest magnitude of the float output.
        cosine: cosine of the angle between both outputs; 1 where both are zero.
        snr_db: power of the float output over power of the difference, in dB; infinite without any difference.
        saturated: share of integer outputs at an end of the range of 8 bits where the float output lies beyond it.
    """

    name: str
    weight_bits: int
    shape: tuple[int, ...]
    max_error: float
    peak: float
    cosine: float
    snr_db: float
    saturated: float


@dataclass(slots=True)
class _Sums:
    """What is added up over the batches for one layer."""

    name: str = ""
    weight_bits: int = 0
    shape: tuple[int, ...] = ()
    max_error: float = 0.0
    peak: float = 0.0
    signal: float = 0.0
    found: float = 0.0
    product: float = 0.0
    noise: float = 0.0
    saturated: int = 0
    count: int = 0

    def add(self, expected: Tensor, found: Tensor, limit: float) -> None:
        """Add one batch; both on the scale of the float model."""
        expected, found = expected.double(), found.double()
        difference = found - expected
        self.max_error = max(self.max_error, float(difference.abs().max()))
        self.peak = max(self.peak, float(expected.abs().max()))
        self.signal += float(expected.square().sum())
        self.found += float(found.square().sum())
        self.product += float((expected * found).sum())
        self.noise += float(difference.square().sum())
        self.count += expected.numel()
        step = limit / Q7_ONE
        self.saturated += int(((expected > limit - step / 2) | (expected < -limit - step / 2)).sum())

    def result(self) -> LayerComparison:
        """The figures."""
        norm = math.sqrt(self.signal * self.found)
        cosine = self.product / norm if norm else float(self.signal == self.found)
        silent = math.inf if self.noise == 0 else -math.inf
        snr = 10 * math.log10(self.signal / self.noise) if self.signal and self.noise else silent
        return LayerComparison(name=self.name, weight_bits=self.weight_bits, shape=self.shape, cosine=cosine,
                               max_error=self.max_error, peak=self.peak, snr_db=snr,
                               saturated=self.saturated / max(1, self.count))


def compare_models(reference: nn.Module, integer: nn.Module, batches: Iterable[Tensor]) -> tuple[LayerComparison, ...]:
    """Figures for every layer, in order of execution.

    Args:
        reference: in float mode.
        integer: of the same architecture, in integer mode; wide outputs on the scale of float training
            (`ai8x.nn.base.OutputScale.REAL`).
        batches: inputs on the grid of 1/128.

    Raises:
        ValueError: the models do not have the same layers.
    """
    sums: dict[int, _Sums] = {}
    for batch in batches:
        expected = trace_model(reference, batch)
        found = trace_model(integer, (batch * Q7_ONE).round())
        if [call.name for call in expected.calls] != [call.name for call in found.calls]:
            raise ValueError("the models do not run the same layers")
        reference_ranges, integer_ranges = output_ranges(reference, expected), output_ranges(integer, found)
        for number, (left, right) in enumerate(zip(expected.calls, found.calls, strict=True)):
            entry = sums.setdefault(number, _described(right, found, number))
            exponent = integer_ranges[right.name]
            limit = math.inf if _is_wide(right) else 2.0**exponent
            entry.add(left.output * 2.0 ** _inner_range(left, expected, reference_ranges),
                      right.output * _integer_step(right, found, integer_ranges), limit)
    return tuple(sums[number].result() for number in sorted(sums))


def _is_wide(call: Call) -> bool:
    return isinstance(call.layer, QuantizationAwareModule) and call.layer.wide


def _inner_range(call: Call, trace: ModelTrace, ranges: dict[str, int]) -> int:
    """log2 of what an output must be multiplied by; outputs of the model carry their range already."""
    is_final = any(call.name == final.name for final in trace.final_calls())
    return 0 if is_final and isinstance(call.layer, QuantizationAwareModule) else ranges[call.name]


def _integer_step(call: Call, trace: ModelTrace, ranges: dict[str, int]) -> float:
    """What one step of an integer output stands for; wide outputs are on the scale of float training already."""
    step = 1.0 if _is_wide(call) and call.layer.mode is Mode.INTEGER else 1.0 / Q7_ONE
    return step * 2.0 ** _inner_range(call, trace, ranges)


def _described(call: Call, trace: ModelTrace, number: int) -> _Sums:
    uses = sum(1 for other in trace.calls[: number + 1] if other.name == call.name)
    layer = call.layer
    has_weights = isinstance(layer, QuantizationAwareModule) and layer.op is not None
    return _Sums(name=call.name if uses == 1 else f"{call.name} ({uses})", shape=tuple(call.output.shape[1:]),
                 weight_bits=int(layer.weight_bits) if has_weights else 0)  # type: ignore[arg-type]


def first_bad_layer(layers: Sequence[LayerComparison], least_snr: float = DEFAULT_LEAST_SNR) -> LayerComparison | None:
    """The first layer whose signal-to-noise ratio is below a bound, or None."""
    return next((layer for layer in layers if layer.snr_db < least_snr), None)


def format_comparison(layers: Sequence[LayerComparison], least_snr: float = DEFAULT_LEAST_SNR) -> str:
    """A table with one line for every layer, and the verdict."""
    width = max(len("layer"), *(len(layer.name) for layer in layers))
    lines = [f"{'layer':{width}s}  bits      shape   max error        peak    cosine   SNR dB  beyond range"]
    bad = first_bad_layer(layers, least_snr)
    for layer in layers:
        shape = "x".join(map(str, layer.shape))
        mark = "  <- first below the bound" if layer is bad else ""
        lines.append(f"{layer.name:{width}s}  {layer.weight_bits or '-':>4}  {shape:>9s}  {layer.max_error:10.6f}  "
                     f"{layer.peak:10.6f}  {layer.cosine:8.6f}  {layer.snr_db:7.2f}  "
                     f"{100 * layer.saturated:10.3f} %{mark}")
    verdict = (f"first bad layer: {bad.name} ({bad.snr_db:.1f} dB, below {least_snr:g} dB)" if bad else
               f"no bad layer (all at or above {least_snr:g} dB)")
    return "\n".join([*lines, verdict])


def logits_agreement(reference: nn.Module, integer: nn.Module, batches: Iterable[Tensor]) -> tuple[int, int] | None:
    """How many samples get the same greatest output from both models, and of how many; None for other outputs.

    Args:
        reference: in float mode.
        integer: in integer mode.
        batches: inputs on the grid of 1/128.
    """
    same = total = 0
    with torch.no_grad():
        for batch in batches:
            expected, found = reference(batch), integer((batch * Q7_ONE).round())
            if not isinstance(expected, Tensor) or expected.dim() != 2:
                return None
            same += int((expected.argmax(1) == found.argmax(1)).sum())
            total += len(batch)
    return same, total
