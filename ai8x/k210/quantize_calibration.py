"""Which real numbers the 256 bytes of a tensor stand for, found from sample images.

`collect_statistics` runs the float network twice over the images: for the extremes, then for histograms between
them. `find_ranges` turns these into one range for each tensor by a chosen method; `quantize_tensors` makes ranges
that must be equal equal (a pooled tensor and its source, the parts of a concatenation) and gives scale and zero
point. Start at `CalibrationOptions` and `calibrated`.

Source: spec/k210-kmodel.md section 15.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Diagnostic, UserError
from ai8x.k210.quantize_model import MODEL_INPUT, FloatModel, FloatOp
from ai8x.k210.quantize_reference import run_float_model

BYTE_MAX = 255
BINS = 2048
"""Bins of a histogram."""

_LEVELS = 256
_CANDIDATES = 128
_SMOOTHING = BINS // 16
_NEAR_ZERO = 8
_BATCH = 8
_SMALLEST_SPAN = 1e-9

SHARING = frozenset({FloatOp.MAX_POOL2D, FloatOp.GLOBAL_MAX_POOL2D, FloatOp.AVERAGE_POOL2D, FloatOp.CONCAT,
                     FloatOp.FLATTEN, FloatOp.RESHAPE, FloatOp.RESIZE_NEAREST, FloatOp.ZERO_PAD2D,
                     FloatOp.DEQUANT})
"""Layers whose result has the scale of what they read."""


class Calibration(enum.Enum):
    """How a range is chosen. Source: section 15.

    MIN_MAX covers everything seen; PERCENTILE leaves out the rarest values on both sides; MEAN_MIN_MAX averages the
    extremes of single images; L2 minimises the squared error; KLD the information lost by 256 levels.
    """

    MIN_MAX = "minmax"
    PERCENTILE = "percentile"
    MEAN_MIN_MAX = "mean"
    L2 = "l2"
    KLD = "kld"


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """How ranges are found.

    Args:
        method: see `Calibration`.
        percentile: share of the values kept on each side, percent (PERCENTILE).
    """

    method: Calibration = Calibration.MIN_MAX
    percentile: float = 99.9

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise ValueError(f"percentile {self.percentile}: above 50, at most 100")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Statistics:
    """What one tensor was over the images.

    Args:
        low, high: extremes.
        mean_low, mean_high: means over images of the images' extremes.
        histogram: counts in `BINS` equal bins from low to high.
    """

    low: float
    high: float
    mean_low: float
    mean_high: float
    histogram: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Range:
    """Real numbers from low to high; 0 lies between."""

    low: float
    high: float

    def union(self, other: Range) -> Range:
        """The range that covers both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True, slots=True)
class TensorQuantization:
    """A byte q stands for ``scale * (q - zero_point) + rest``.

    The zero point is the byte that borders are filled with. Only an image whose bytes do not contain the number 0 has
    a rest, of less than half a step.
    """

    scale: float
    zero_point: int
    rest: float = 0.0

    def real(self, stored: NDArray[np.integer]) -> NDArray[np.float64]:
        """What bytes stand for."""
        return np.asarray(stored, np.float64) * self.scale + self.offset

    def stored(self, real: NDArray[np.floating]) -> NDArray[np.uint8]:
        """The nearest bytes."""
        steps = np.floor((np.asarray(real, np.float64) - self.offset) / self.scale + 0.5)
        return np.clip(steps, 0, BYTE_MAX).astype(np.uint8)

    @property
    def offset(self) -> float:
        """The real number of the byte 0."""
        return self.rest - self.zero_point * self.scale


def calibrated(model: FloatModel, images: NDArray[np.uint8],
               options: CalibrationOptions) -> Mapping[int, TensorQuantization]:
    """Scale and zero point of the model's input and of every result.

    Args:
        model: prepared (`quantize_model.prepared`).
        images: uint8 (N, C, H, W).
        options: how.

    Raises:
        UserError: E0777, a result is no finite number.
    """
    statistics = collect_statistics(model, images)
    for index, item in enumerate(statistics):
        if not np.isfinite([item.low, item.high]).all():
            raise UserError(Diagnostic(
                code="E0777", message="the float network gives values that are not finite numbers",
                layer=model.layers[index].name, layer_index=index, found=f"{item.low} to {item.high}",
                allowed="finite numbers", help="check the weights, and input_scale and input_offset of the images"))
    return quantize_tensors(model, [find_range(item, options) for item in statistics])


# ------------------------------------------------------------------------------------------------ statistics

def _batches(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images), _BATCH):
        yield images[start : start + _BATCH]


def collect_statistics(model: FloatModel, images: NDArray[np.uint8]) -> tuple[Statistics, ...]:
    """Statistics of every result."""
    count = len(model.layers)
    lows, highs = np.zeros((count, len(images))), np.zeros((count, len(images)))
    for number, batch in enumerate(_batches(images)):
        place = slice(number * _BATCH, number * _BATCH + len(batch))
        for index, values in enumerate(run_float_model(model, batch)):
            flat = values.reshape(len(batch), -1)
            lows[index, place], highs[index, place] = flat.min(axis=1), flat.max(axis=1)
    histograms = np.zeros((count, BINS), np.int64)
    for batch in _batches(images):
        for index, values in enumerate(run_float_model(model, batch)):
            span = (float(lows[index].min()), float(highs[index].max()))
            if -np.inf < span[0] < span[1] < np.inf:
                histograms[index] += np.histogram(values, BINS, span)[0]
    return tuple(Statistics(low=float(low.min()), high=float(high.max()), mean_low=float(low.mean()),
                            mean_high=float(high.mean()), histogram=histogram)
                 for low, high, histogram in zip(lows, highs, histograms, strict=True))


# ------------------------------------------------------------------------------------------------ ranges

def find_range(statistics: Statistics, options: CalibrationOptions) -> Range:
    """The range of one tensor, with 0 inside."""
    if statistics.high - statistics.low < _SMALLEST_SPAN:
        found = Range(statistics.low, statistics.high)
    else:
        found = _METHODS[options.method](statistics, options)
    return Range(min(found.low, 0.0), max(found.high, 0.0))


def _min_max(statistics: Statistics, options: CalibrationOptions) -> Range:
    return Range(statistics.low, statistics.high)


def _mean_min_max(statistics: Statistics, options: CalibrationOptions) -> Range:
    return Range(statistics.mean_low, statistics.mean_high)


def _edges(statistics: Statistics) -> NDArray[np.float64]:
    return np.linspace(statistics.low, statistics.high, BINS + 1)


def _percentile(statistics: Statistics, options: CalibrationOptions) -> Range:
    shares = np.cumsum(statistics.histogram) / statistics.histogram.sum()
    edges = _edges(statistics)
    first = int(np.searchsorted(shares, 1 - options.percentile / 100, side="right"))
    last = int(np.searchsorted(shares, options.percentile / 100, side="left"))
    return Range(float(edges[min(first, BINS - 1)]), float(edges[min(last, BINS - 1) + 1]))


def _search(statistics: Statistics, cost: Callable[[Statistics, float, float], float]) -> Range:
    """The upper end of least cost, then the lower end; ends beyond 0 only."""
    low, high = min(statistics.low, 0.0), max(statistics.high, 0.0)
    ends = np.linspace(high, 0.0, _CANDIDATES, endpoint=False)
    best_high = float(min(ends, key=lambda end: cost(statistics, low, float(end)))) if high > 0 else 0.0
    ends = np.linspace(low, 0.0, _CANDIDATES, endpoint=False)
    best_low = float(min(ends, key=lambda end: cost(statistics, float(end), best_high))) if low < 0 else 0.0
    return Range(best_low, best_high)


def _squared_error(statistics: Statistics, low: float, high: float) -> float:
    """Of clipping, and of rounding inside: a twelfth of a step squared."""
    edges = _edges(statistics)
    centres = (edges[:-1] + edges[1:]) / 2
    step = max(high - low, _SMALLEST_SPAN) / BYTE_MAX
    clipped = np.maximum(centres - high, 0) + np.maximum(low - centres, 0)
    return float(np.sum(statistics.histogram * (clipped ** 2 + (clipped == 0) * step ** 2 / 12)))


def _divergence(statistics: Statistics, low: float, high: float) -> float:
    """Kullback-Leibler divergence from the clipped distribution to the same in 256 levels."""
    edges = _edges(statistics)
    centres = (edges[:-1] + edges[1:]) / 2
    inside = (centres >= low) & (centres <= high)
    counts = _smoothed(statistics)
    if not counts[inside].any():
        return np.inf
    kept = counts[inside]
    clipped = kept.copy()
    clipped[0] += counts[centres < low].sum()
    clipped[-1] += counts[centres > high].sum()
    step = max(high - low, _SMALLEST_SPAN) / (_LEVELS - 1)
    level = np.floor((centres[inside] - low) / step + 0.5).astype(np.int64)
    level -= level.min()
    used = kept > 0
    sums = np.bincount(level, kept)
    bins = np.bincount(level, used)
    spread = np.where(used, sums[level] / np.maximum(bins[level], 1), 0.0)
    wanted, given = clipped / clipped.sum(), spread / max(spread.sum(), 1.0)
    present = wanted > 0
    return float(np.sum(wanted[present] * np.log(wanted[present] / np.maximum(given[present], 1e-12))))


def _smoothed(statistics: Statistics) -> NDArray[np.float64]:
    """The distribution behind a histogram: without the peak at 0, which every range represents, and without noise."""
    counts = statistics.histogram.astype(np.float64)
    if statistics.low <= 0 <= statistics.high:
        zero = min(int((0 - statistics.low) / (statistics.high - statistics.low) * BINS), BINS - 1)
        near = np.delete(counts[max(zero - _NEAR_ZERO, 0) : zero + _NEAR_ZERO + 1], min(zero, _NEAR_ZERO))
        counts[zero] = near.mean()
    window = np.ones(_SMOOTHING)
    weight = np.convolve(np.ones(BINS), window, "same")
    return np.asarray(np.convolve(counts, window, "same") / weight)


_METHODS: Mapping[Calibration, Callable[[Statistics, CalibrationOptions], Range]] = {
    Calibration.MIN_MAX: _min_max,
    Calibration.MEAN_MIN_MAX: _mean_min_max,
    Calibration.PERCENTILE: _percentile,
    Calibration.L2: lambda statistics, _: _search(statistics, _squared_error),
    Calibration.KLD: lambda statistics, _: _search(statistics, _divergence),
}


# ------------------------------------------------------------------------------------------------ quantisation

def quantize_tensors(model: FloatModel, ranges: list[Range]) -> dict[int, TensorQuantization]:
    """Scale and zero point of the input and of every result.

    Results that share their bytes share the union of their ranges. The input's meaning is given with the model; what
    only copies it shares it too.

    Args:
        model: prepared.
        ranges: of every result.
    """
    leader = _leaders(model)
    merged: dict[int, Range] = {}
    for index, item in enumerate(ranges):
        first = leader[index]
        merged[first] = merged[first].union(item) if first in merged else item
    given = input_quantization(model)
    return {MODEL_INPUT: given} | {index: given if leader[index] == MODEL_INPUT else of_range(merged[leader[index]])
                                   for index in range(len(model.layers))}


def _leaders(model: FloatModel) -> dict[int, int]:
    """For every result the least one that shares its bytes. A concatenation never takes over the input's bytes."""
    leader = {index: index for index in range(MODEL_INPUT, len(model.layers))}

    def find(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    for index, layer in enumerate(model.layers):
        if layer.op not in SHARING:
            continue
        for source in layer.inputs:
            one, other = sorted((find(index), find(source)))
            if one != MODEL_INPUT or layer.op is not FloatOp.CONCAT:
                leader[other] = one
    return {index: find(index) for index in leader}


def of_range(item: Range) -> TensorQuantization:
    """256 levels over a range; 0 is one of them."""
    span = item.high - item.low
    scale = span / BYTE_MAX if span > _SMALLEST_SPAN else 1.0
    return TensorQuantization(scale, int(np.clip(np.floor(-item.low / scale + 0.5), 0, BYTE_MAX)))


def input_quantization(model: FloatModel) -> TensorQuantization:
    """What the bytes of an image mean; the zero point is the byte nearest to the number 0."""
    zero_point = int(np.clip(np.floor(-model.input_offset / model.input_scale + 0.5), 0, BYTE_MAX))
    return TensorQuantization(model.input_scale, zero_point, model.input_offset + zero_point * model.input_scale)
