"""Activation functions as the 16 line segments of a KPU activation table.

A segment is ``round((v - start) * mul / 2**shift) + bias`` with a whole number ``bias``, so a line starts where the
wanted output is close to a whole number. Clipped lines (linear, ReLU, ReLU6) have an exact table; any other function is
fitted: the largest deviation of the lines is made as small as the segments allow. How a chip rounds below the start of
a line or on a falling line is unverified, so falling parts are made of level steps unless slopes are asked for.
Start at `ActivationFunction`, `TableDomain` and `fit_activation`.

Source: spec/k210-kmodel.md sections 4.1, 5, 13.1 and 15.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.k210.device import K210, TABLE_MIN_START, TABLE_SEGMENTS, TABLE_UNREACHABLE_START
from ai8x.k210.kmodel_layers import ActivationTable

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

BYTE_MAX = 255

_FITTED_SEGMENTS = TABLE_SEGMENTS - 2
"""The first and the last segment are level: what lies outside of the interesting range."""

_GRID = 1 << 14
_ACTIVE_PASSES = 3
_ACTIVE_STEP = 0.05
_UNIFORM_POINTS = 160
_MAX_LEVEL_POINTS = 360
_SEARCH_STEPS = 9
_FIRST_ERROR = 1.0
_LARGEST_SHIFT = 30
_MUL_BITS = 14


class ActivationKind(enum.Enum):
    """Functions of one number; the value is the name in reports."""

    LINEAR = "linear"
    RELU = "ReLU"
    RELU6 = "ReLU6"
    CLIP = "clip"
    LEAKY_RELU = "LeakyReLU"
    ELU = "ELU"
    SIGMOID = "sigmoid"
    TANH = "tanh"
    HARD_SIGMOID = "hard-sigmoid"
    HARD_SWISH = "hard-swish"
    SILU = "SiLU"
    SOFTPLUS = "softplus"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationFunction:
    """A function of single real numbers.

    Args:
        kind: which one.
        slope: factor of negative numbers (LeakyReLU), or the limit of ELU below zero.
        low, high: bounds of a clip.
    """

    kind: ActivationKind
    slope: float = 0.01
    low: float = -1.0
    high: float = 1.0

    @property
    def name(self) -> str:
        """For reports."""
        if self.kind in (ActivationKind.LEAKY_RELU, ActivationKind.ELU):
            return f"{self.kind.value}({self.slope:g})"
        if self.kind is ActivationKind.CLIP:
            return f"{self.kind.value}({self.low:g}, {self.high:g})"
        return str(self.kind.value)

    @property
    def clip(self) -> tuple[float, float] | None:
        """Bounds of the output if the function is a clipped line, else None."""
        return {ActivationKind.LINEAR: (-math.inf, math.inf), ActivationKind.RELU: (0.0, math.inf),
                ActivationKind.RELU6: (0.0, 6.0), ActivationKind.CLIP: (self.low, self.high)}.get(self.kind)

    def __call__(self, values: FloatArray) -> FloatArray:
        """The function of every element; float64."""
        x = np.asarray(values, np.float64)
        if (clip := self.clip) is not None:
            return np.clip(x, *clip)
        return np.asarray(_CURVES[self.kind](x, self.slope), np.float64)


def _sigmoid(x: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _hard_sigmoid(x: FloatArray) -> FloatArray:
    return np.clip(x + 3, 0, 6) / 6


_CURVES: Mapping[ActivationKind, Callable[[FloatArray, float], Any]] = {
    ActivationKind.LEAKY_RELU: lambda x, slope: np.where(x < 0, slope * x, x),
    ActivationKind.ELU: lambda x, slope: np.where(x < 0, slope * np.expm1(np.minimum(x, 0)), x),
    ActivationKind.SIGMOID: lambda x, _: _sigmoid(x),
    ActivationKind.TANH: lambda x, _: np.tanh(x),
    ActivationKind.HARD_SIGMOID: lambda x, _: _hard_sigmoid(x),
    ActivationKind.HARD_SWISH: lambda x, _: x * _hard_sigmoid(x),
    ActivationKind.SILU: lambda x, _: x * _sigmoid(x),
    ActivationKind.SOFTPLUS: lambda x, _: np.logaddexp(0, x),
}

LINEAR = ActivationFunction(kind=ActivationKind.LINEAR)
"""The identity."""


class Falling(enum.Enum):
    """How falling parts of a function are made.

    STEPS: level segments, whose result no emulator disputes. SLOPES: falling lines, whose rounding is unverified.
    """

    STEPS = "steps"
    SLOPES = "slopes"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDomain:
    """What enters a table and what leaves it.

    Args:
        low, high: least and greatest value ``v`` that can enter.
        unit: real number that one step of ``v`` stands for.
        scale, zero_point: a real output ``y`` is stored as ``y / scale + zero_point``.
    """

    low: int
    high: int
    unit: float
    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        limit = 1 << (K210.limits.table_start_bits - 1)
        if not -limit <= self.low < self.high < limit:
            raise ValueError(f"values {self.low} to {self.high} do not fit {K210.limits.table_start_bits} bits")
        if not (0 < self.unit < math.inf and 0 < self.scale < math.inf and 0 <= self.zero_point <= BYTE_MAX):
            raise ValueError(f"unit {self.unit}, scale {self.scale}, zero point {self.zero_point}")

    def wanted(self, function: ActivationFunction, values: NDArray[np.int64]) -> FloatArray:
        """The exact output in steps of the stored byte, within 0 to 255 but not rounded."""
        real = function(values.astype(np.float64) * self.unit)
        return np.clip(real / self.scale + self.zero_point, 0, BYTE_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedActivation:
    """A table and how good it is.

    Args:
        table: all 16 segments.
        segments: how many of them differ from the filling.
        max_error, rms_error: of the output byte against the exact function, in steps of the byte, rounding included
            (0.5 is perfect), over the whole domain.
        falls: some segment has a negative slope.
    """

    table: ActivationTable
    segments: int
    max_error: float
    rms_error: float
    falls: bool


@dataclass(frozen=True, slots=True)
class _Line:
    """One segment before filling."""

    start: int
    mul: int
    shift: int
    bias: int


def fit_activation(function: ActivationFunction, domain: TableDomain, *,
                   falling: Falling = Falling.STEPS) -> FittedActivation:
    """The table of a function.

    Args:
        function: what the table shall compute.
        domain: of its values.
        falling: how to make falling parts.
    """
    clip = function.clip
    lines = _clipped(clip, domain) if clip is not None else _fitted(function, domain, falling)
    table = _filled(lines)
    values = _grid(domain.low, domain.high)
    active = _active_range(function, domain)
    if active is not None:
        values = np.union1d(values, _grid(*active))
    error = table_output(table, values) - domain.wanted(function, values)
    return FittedActivation(table=table, segments=len(lines), max_error=float(np.abs(error).max()),
                            rms_error=float(np.sqrt(np.mean(error ** 2))), falls=any(line.mul < 0 for line in lines))


def table_output(table: ActivationTable, values: IntArray) -> NDArray[np.int64]:
    """What a table makes of values; quotients are rounded to nearest, halves to even; 0 to 255."""
    index = np.maximum(np.searchsorted(table.start, values, side="right") - 1, 0)
    product = (values - table.start[index]) * table.mul[index]
    shift = np.minimum(table.shift[index], 61)
    quotient = product >> shift
    rest = (product - (quotient << shift)) << 1
    unit = np.int64(1) << shift
    quotient += (rest > unit) | ((rest == unit) & (quotient & 1 == 1))
    return np.asarray(np.clip(quotient + table.bias[index], 0, BYTE_MAX), np.int64)


def _filled(lines: list[_Line]) -> ActivationTable:
    """All 16 segments: the given ones, then unreachable ones with the last output. Source: section 4.1."""
    rest = [_Line(TABLE_UNREACHABLE_START + i, 0, 0, lines[-1].bias) for i in range(TABLE_SEGMENTS - len(lines))]
    table = [*lines, *rest]
    return ActivationTable(start=np.array([line.start for line in table]), mul=np.array([line.mul for line in table]),
                           shift=np.array([line.shift for line in table]),
                           bias=np.array([line.bias for line in table], np.uint8))


# ------------------------------------------------------------------------------------------------ clipped lines

def _clipped(clip: tuple[float, float], domain: TableDomain) -> list[_Line]:
    """Level, rising, level; section 13.1."""
    low, high = (min(max(bound / domain.scale + domain.zero_point, 0.0), float(BYTE_MAX)) for bound in clip)
    first, last = _nearest(low), _nearest(high)
    per_step = domain.scale / domain.unit
    # The line starts where the output is a whole number; before that the level is as near as the line.
    start, end = (_nearest((level - domain.zero_point) * per_step) for level in (first, high))
    mul, shift = _fraction(1 / per_step)
    return _inside([_Line(TABLE_MIN_START, 0, 0, first), _Line(start, mul, shift, first), _Line(end, 0, 0, last)])


def _inside(lines: list[_Line]) -> list[_Line]:
    """Without segments that start beyond what the table stores."""
    return [line for line in lines if line.start == TABLE_MIN_START
            or TABLE_MIN_START < line.start < TABLE_UNREACHABLE_START]


def _nearest(value: float) -> int:
    return math.floor(value + 0.5)


def _fraction(slope: float) -> tuple[int, int]:
    """Factor and shift of a slope, the factor of at most 14 bits."""
    if slope == 0:
        return 0, 0
    shift = min(_LARGEST_SHIFT, _MUL_BITS - math.frexp(abs(slope))[1])
    if shift < 0:
        raise ValueError(f"the slope of {slope} output steps per unit is too steep for a table")
    return _nearest(slope * 2.0 ** shift), shift


# ------------------------------------------------------------------------------------------------ fitted lines

def _grid(low: int, high: int) -> IntArray:
    return np.unique(np.linspace(low, high, _GRID + 1).astype(np.int64))


def _active_range(function: ActivationFunction, domain: TableDomain) -> tuple[int, int] | None:
    """Values between which the output changes noticeably; None if it is level."""
    low, high = domain.low, domain.high
    first, last = domain.wanted(function, np.array([low, high]))
    for _ in range(_ACTIVE_PASSES):
        values = _grid(low, high)
        wanted = domain.wanted(function, values)
        moved = np.flatnonzero(np.abs(wanted - first) > _ACTIVE_STEP)
        left = np.flatnonzero(np.abs(wanted - last) > _ACTIVE_STEP)
        if not len(moved) or not len(left):
            return None
        low, high = int(values[max(moved[0] - 1, 0)]), int(values[min(left[-1] + 1, len(values) - 1)])
    return low, high


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Samples:
    """What is to be fitted: values in ascending order, the exact output there, the level before and behind."""

    values: IntArray
    wanted: FloatArray
    first: int
    last: int
    falling: Falling

    def head(self, error: float) -> int:
        """Last sample up to which the first level is good enough."""
        return _run_length(np.abs(self.wanted - self.first) <= error) - 1

    def tail(self, error: float) -> int:
        """First sample from which the last level is good enough."""
        return len(self.values) - _run_length(np.abs(self.wanted - self.last)[::-1] <= error)


def _run_length(good: NDArray[np.bool_]) -> int:
    """Leading elements that are true."""
    return len(good) if good.all() else int(np.argmin(good))


def _fitted(function: ActivationFunction, domain: TableDomain, falling: Falling) -> list[_Line]:
    """A level segment, up to 14 lines, a level segment; the error is found by bisection."""
    first, last = (_nearest(end) for end in domain.wanted(function, np.array([domain.low, domain.high])))
    active = _active_range(function, domain)
    if active is None:
        return [_Line(TABLE_MIN_START, 0, 0, first)]
    values = _sample_points(function, domain, active)
    samples = _Samples(values=values, wanted=domain.wanted(function, values), first=first, last=last, falling=falling)
    low, high = 0.0, _FIRST_ERROR
    while (best := _cover(samples, high)) is None:
        low, high = high, 2 * high
    for _ in range(_SEARCH_STEPS):
        middle = (low + high) / 2
        lines = _cover(samples, middle)
        if lines is None:
            low = middle
        else:
            best, high = lines, middle
    return _inside(best)


def _sample_points(function: ActivationFunction, domain: TableDomain, active: tuple[int, int]) -> IntArray:
    """Evenly spaced values, and values whose output is nearly a whole number: there lines can start."""
    values = _grid(*active)
    wanted = domain.wanted(function, values)
    even = values[np.linspace(0, len(values) - 1, _UNIFORM_POINTS).astype(np.int64)]
    crossings = np.flatnonzero(np.diff(np.floor(wanted)) != 0)
    thinned = crossings[:: -(-len(crossings) // _MAX_LEVEL_POINTS)] if len(crossings) else crossings
    after = np.minimum(thinned + 1, len(values) - 1)
    nearer = np.where(_to_whole(wanted[thinned]) <= _to_whole(wanted[after]), thinned, after)
    return np.union1d(even, values[nearer])


def _to_whole(values: FloatArray) -> FloatArray:
    return np.abs(values - np.floor(values + 0.5))


def _cover(samples: _Samples, error: float) -> list[_Line] | None:
    """Both levels and at most 14 lines within an error of the samples, or None.

    From every possible start, a line through the nearest whole number reaches up to some sample. Starts that can be
    reached with k lines are all those up to some sample, so the fewest lines are found by always taking the start
    within reach that leads furthest.
    """
    values, wanted = samples.values, samples.wanted
    starts = np.flatnonzero(_to_whole(wanted) <= error)
    if not len(starts):
        return None
    ends, slopes = _reaches(samples, starts, error)
    lines = [_Line(TABLE_MIN_START, 0, 0, samples.first)]
    reach, goal = samples.head(error), samples.tail(error)
    while reach < goal and len(lines) <= _FITTED_SEGMENTS:
        usable = np.flatnonzero(starts <= reach)
        if not len(usable):
            return None
        chosen = usable[np.argmax(ends[usable])]
        if ends[chosen] <= reach:
            return None
        begin, reach = int(starts[chosen]), int(ends[chosen])
        lines.append(_Line(int(values[begin]), *_fraction(float(slopes[chosen])), _nearest(float(wanted[begin]))))
    return [*lines, _Line(int(values[reach]), 0, 0, samples.last)] if reach >= goal else None


def _reaches(samples: _Samples, starts: IntArray, error: float) -> tuple[IntArray, FloatArray]:
    """For every start the last sample that one line reaches, and the slope of that line."""
    values, wanted = samples.values, samples.wanted
    distance = (values[None, :] - values[starts, None]).astype(np.float64)
    ahead = distance > 0
    safe = np.where(ahead, distance, 1.0)
    rise = wanted[None, :] - np.floor(wanted[starts, None] + 0.5)
    # A clamped output may be overshot: beyond 255 and below 0 the KPU clips.
    upper_slack = np.where(wanted >= BYTE_MAX, np.inf, error)[None, :]
    lower_slack = np.where(wanted <= 0, np.inf, error)[None, :]
    least = np.where(ahead, (rise - lower_slack) / safe, -np.inf)
    most = np.where(ahead, (rise + upper_slack) / safe, np.inf)
    if samples.falling is Falling.STEPS:
        least = np.maximum(least, 0.0)
    least, most = np.maximum.accumulate(least, axis=1), np.minimum.accumulate(most, axis=1)
    broken = least > most
    ends = np.where(broken.any(axis=1), broken.argmax(axis=1), len(values)) - 1
    rows = np.arange(len(starts))
    low, high = least[rows, ends], most[rows, ends]
    low, high = np.where(np.isfinite(low), low, high), np.where(np.isfinite(high), high, low)
    known = np.isfinite(low) & np.isfinite(high)
    return ends, np.where(known, (np.where(known, low, 0.0) + np.where(known, high, 0.0)) / 2, 0.0)
