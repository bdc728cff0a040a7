"""Histograms of activations, and the power of two that represents them best in 8 bits.

Owns collecting, merging, the removal of outliers and the three ways to choose a range. Start at `collect_histograms`
and `choose_threshold`.

Source: spec/ai8x-training.md section 7 (statistics, outliers, threshold).
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ai8x.arithmetic import INT8, IntType, weight_type
from ai8x.nn.trace import layers_of
from ai8x.nn.wrappers import evaluation_mode, unwrap_model

NUM_BINS = 2048
NUM_CANDIDATES = 5
"""Ranges that are compared: the one that holds everything, and the halves down to a sixteenth."""

DEFAULT_Z_SCORE = 8.0
_LEAST_SPREAD = 1e-9
_LEAST_SHARE = 1e-12
_LEAST_EXPONENT = -16
"""Ranges below 2**-16 are that of a layer whose output is zero."""

FloatArray = NDArray[np.float64]


class ThresholdMethod(enum.Enum):
    """How the range of a layer's outputs is chosen; the values are option names.

    MAX: the least power of two that holds every value. MSE: least mean squared error of rounding and saturation. KL:
    least Kullback-Leibler divergence between the histogram and the quantised one.
    """

    MAX = "MAX"
    MSE = "MSE"
    KL = "KL"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Histogram:
    """Counts of equal bins.

    Args:
        low: left edge of the first bin.
        high: right edge of the last bin, above `low`.
        counts: float64 (bins,); merging makes fractions.
    """

    low: float
    high: float
    counts: FloatArray

    @property
    def edges(self) -> FloatArray:
        """Edges of the bins, (bins + 1,)."""
        return np.linspace(self.low, self.high, len(self.counts) + 1)

    @property
    def centers(self) -> FloatArray:
        """Middles of the bins, (bins,)."""
        edges = self.edges
        middles: FloatArray = (edges[1:] + edges[:-1]) / 2
        return middles


def histogram_of(values: Tensor) -> Histogram:
    """The histogram of a tensor over its own range."""
    flat = values.detach().reshape(-1).float().cpu()
    low, high = float(flat.min()), float(flat.max())
    if not low < high:
        high = low + max(abs(low), 1.0) * 2.0**-20
    counts = torch.histc(flat, NUM_BINS, low, high).double().numpy()
    return Histogram(low=low, high=high, counts=counts)


def merge_histograms(first: Histogram, second: Histogram) -> Histogram:
    """Both on the range that holds them, by interpolating their cumulative counts."""
    low, high = min(first.low, second.low), max(first.high, second.high)
    edges = np.linspace(low, high, NUM_BINS + 1)
    cumulative = np.zeros(NUM_BINS + 1)
    for part in (first, second):
        cumulative += np.interp(edges, part.edges, np.concatenate([[0.0], np.cumsum(part.counts)]))
    return Histogram(low=low, high=high, counts=np.diff(cumulative))


def without_outliers(histogram: Histogram, z_score: float) -> Histogram:
    """The bins within ``z_score`` standard deviations of the mean; others are counted as empty."""
    centers, total = histogram.centers, histogram.counts.sum()
    mean = float((centers * histogram.counts).sum() / total)
    spread = math.sqrt(float(((centers - mean) ** 2 * histogram.counts).sum() / total)) or _LEAST_SPREAD
    near = np.abs(centers - mean) <= z_score * spread
    counts = np.where(near, histogram.counts, 0.0) if near.any() else histogram.counts
    return Histogram(low=histogram.low, high=histogram.high, counts=counts)


def _exponent_of_range(histogram: Histogram) -> int:
    """ceil(log2(greatest magnitude of an edge of a bin that is not empty))."""
    used = np.flatnonzero(histogram.counts > 0)
    edges = histogram.edges
    largest = max(abs(float(edges[used[0]])), abs(float(edges[used[-1] + 1])))
    # An edge that interpolation moved by less than a thousandth of a bin is no reason to double the range.
    largest -= 1e-3 * (histogram.high - histogram.low) / len(histogram.counts)
    return max(_LEAST_EXPONENT, math.ceil(math.log2(largest))) if largest > 0 else _LEAST_EXPONENT


def _levels(histogram: Histogram, exponent: int, integers: IntType) -> tuple[FloatArray, float]:
    """The integer that stands for every bin in the range [-2**exponent, 2**exponent), and its step."""
    step = 2.0**exponent / -integers.min
    levels: FloatArray = np.clip(np.round(histogram.centers / step), integers.min, integers.max)
    return levels, step


def _squared_error(histogram: Histogram, exponent: int, integers: IntType) -> float:
    levels, step = _levels(histogram, exponent, integers)
    return float(((levels * step - histogram.centers) ** 2 * histogram.counts).sum())


def _divergence(histogram: Histogram, exponent: int, integers: IntType) -> float:
    """KL(P || Q): P the histogram with what lies beyond the range put into the last bins, Q made of its levels.

    Q spreads the count of a level evenly over the bins of that level in which P has something, and knows nothing of
    what was cut off. The bin of zero, which after ReLU outweighs all others and is exact in every range, is left out.
    """
    edges = histogram.edges
    counts = np.where((edges[:-1] <= 0) & (edges[1:] > 0), 0.0, histogram.counts)
    inside = np.abs(histogram.centers) <= 2.0**exponent
    reference = np.where(inside, counts, 0.0)
    if not reference.any():
        return math.inf
    used = np.flatnonzero(inside)
    reference[used[0]] += counts[: used[0]].sum()
    reference[used[-1]] += counts[used[-1] + 1 :].sum()
    filled = reference > 0
    levels = _levels(histogram, exponent, integers)[0].astype(np.int64) - integers.min
    sums = np.bincount(levels[inside], weights=counts[inside], minlength=1 << integers.bits)
    sharers = np.bincount(levels, weights=filled.astype(np.float64), minlength=1 << integers.bits)
    quantised = np.where(filled, sums[levels] / np.maximum(sharers[levels], 1.0), 0.0)
    p = reference[filled] / reference.sum()
    q = np.maximum(quantised[filled] / quantised.sum(), _LEAST_SHARE)
    return float((p * np.log(p / q)).sum())


_ERRORS: Mapping[ThresholdMethod, Callable[[Histogram, int, IntType], float]] = {
    ThresholdMethod.MSE: _squared_error,
    ThresholdMethod.KL: _divergence,
}


def choose_threshold(histogram: Histogram, method: ThresholdMethod = ThresholdMethod.MSE,
                     z_score: float = DEFAULT_Z_SCORE, bits: int = INT8.bits) -> int:
    """log2 of the range [-2**t, 2**t) that represents a histogram best in 1, 2, 4 or 8 bits.

    Args:
        histogram: of a layer's outputs.
        method: what is best; of equal ranges the larger is taken.
        z_score: bins farther from the mean, in standard deviations, are left out first.
        bits: width of the numbers.
    """
    integers = weight_type(bits)
    kept = without_outliers(histogram, z_score)
    start = _exponent_of_range(kept)
    if method is ThresholdMethod.MAX:
        return start
    error = _ERRORS[method]
    return min(range(start, start - NUM_CANDIDATES, -1), key=lambda exponent: error(kept, exponent, integers))


class _Collector:
    """Forward hook that adds to a histogram."""

    def __init__(self) -> None:
        self.histogram: Histogram | None = None

    def __call__(self, layer: nn.Module, args: Any, output: Tensor) -> None:
        found = histogram_of(output)
        self.histogram = found if self.histogram is None else merge_histograms(self.histogram, found)


def collect_histograms(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Histogram]:
    """Histograms of the outputs of every layer over all batches; the model's training flags are put back.

    Args:
        model: possibly inside wrappers; run in evaluation mode.
        batches: inputs, on any device.

    Raises:
        ValueError: no batch at all.
    """
    inner = unwrap_model(model)
    collectors: dict[str, _Collector] = {}
    handles = []
    for name, layer in layers_of(inner).items():
        collectors[name] = _Collector()
        handles.append(layer.register_forward_hook(collectors[name]))
    device = next((p.device for p in inner.parameters()), torch.device("cpu"))
    try:
        with evaluation_mode(inner):
            for batch in batches:
                inner(batch.to(device))
    finally:
        for handle in handles:
            handle.remove()
    found = {name: c.histogram for name, c in collectors.items() if c.histogram is not None}
    if not found:
        raise ValueError("no batch to collect statistics from")
    return found
