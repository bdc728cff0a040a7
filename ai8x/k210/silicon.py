"""KPU layers and whole models that others have timed on real chips, and what the time model says about them.

Owns the layer lists, the measured times and the comparison. Knows nothing of weights: the time does not depend on
them. Start at `LAYER_RUNS`, `MODELS`, `compare_layers` and `model_time`; ``benchmarks/k210_times.py`` prints the
tables of the manual.

Source: spec/k210-kmodel.md section 16.2, which names the public pages.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ai8x.k210.device import K210, POOL_TYPES, buffered_bytes, channels_per_load
from ai8x.k210.timing import kpu_cycles, kpu_time_s

DETECTOR_CLOCK_HZ = 400_000_000
"""KPU clock of the face detector's measurements."""

BENCHMARK_CLOCK_HZ = 300_000_000
"""KPU clock of the board maker's benchmark."""

LAYER_TOLERANCE = 0.06
"""Largest relative error of one layer that the project allows."""

RMS_TOLERANCE = 0.025
"""Largest root mean square of the relative errors."""

_LAYER = re.compile(r"(?P<kind>3x3|1x1|dw) (?:(?P<inputs>\d+)-)?(?P<outputs>\d+)(?P<tail>(?: /2| pool\d| main)*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedLayer:
    """A KPU layer's geometry, as far as its time depends on it.

    Args:
        kind: ``3x3``, ``1x1`` or ``dw`` (depthwise 3x3).
        inputs, outputs: channels.
        height, width: of the input map; pooling behind the layer costs nothing.
        to_main_memory: the result leaves through the FIFO too.
        weight_bytes: 1, or 2 for 16-bit weights.
        one_load: weights are fetched by the rule of the vendor's compiler (as much as the KPU's buffer holds),
            otherwise by nncase's.
    """

    kind: str
    inputs: int
    outputs: int
    height: int
    width: int
    to_main_memory: bool = False
    weight_bytes: int = 1
    one_load: bool = False

    @property
    def kernel(self) -> int:
        """1 or 3."""
        return 1 if self.kind == "1x1" else 3

    @property
    def is_depthwise(self) -> bool:
        """One input channel per output channel."""
        return self.kind == "dw"

    @property
    def loads(self) -> int:
        """Weight loads; section 4.2."""
        if self.is_depthwise:
            return 1
        if self.one_load:
            channel_bytes = self.kernel ** 2 * self.inputs * self.weight_bytes
            return -(-self.outputs // (K210.limits.buffer_bytes // buffered_bytes(channel_bytes, self.kernel)))
        return -(-self.outputs // channels_per_load(self.inputs, self.outputs, self.kernel, self.weight_bytes))

    @property
    def fields(self) -> dict[str, int]:
        """The fields of the layer argument that the time model reads."""
        return {"i_ch_num": self.inputs - 1, "o_ch_num": self.outputs - 1, "i_col_high": self.height - 1,
                "i_row_wid": self.width - 1, "kernel_type": int(self.kernel == 3),
                "depth_wise_layer": int(self.is_depthwise), "load_time": self.loads - 1,
                "dma_total_byte": self.outputs * self.height * self.width - 1}

    def time_ms(self, clock_hz: int) -> float:
        """Milliseconds by the model of section 16.1."""
        return 1e3 * kpu_time_s(self.fields, to_main_memory=self.to_main_memory, eight_bit=self.weight_bytes == 1,
                                clock_hz=clock_hz)

    def __str__(self) -> str:
        main = ", to main memory" if self.to_main_memory else ""
        return f"{self.kind} {self.inputs}-{self.outputs}, {self.height}x{self.width}{main}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRun:
    """A published time of one layer.

    Args:
        layer: its geometry.
        measured_ms: as published.
        clock_hz: of the KPU.
        source: whose measurement.
    """

    layer: TimedLayer
    measured_ms: float
    clock_hz: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A measurement beside the model."""

    run: LayerRun
    predicted_ms: float

    @property
    def error(self) -> float:
        """Relative difference; the published times have three decimals, which is 3 % of the shortest one."""
        return self.predicted_ms / self.run.measured_ms - 1


def _detector(kind: str, inputs: int, outputs: int, height: int, width: int, *times_ms: float) -> tuple[LayerRun, ...]:
    layer = TimedLayer(kind=kind.removesuffix(" main"), inputs=inputs, outputs=outputs, height=height, width=width,
                       to_main_memory=kind.endswith(" main"), one_load=True)
    return tuple(LayerRun(layer=layer, measured_ms=time, clock_hz=DETECTOR_CLOCK_HZ, source="face detector")
                 for time in times_ms)


DETECTOR_RUNS: tuple[LayerRun, ...] = (
    *_detector("3x3", 3, 16, 240, 320, 0.206), *_detector("dw", 16, 16, 120, 160, 0.039),
    *_detector("1x1", 16, 32, 120, 160, 0.514), *_detector("dw", 32, 32, 60, 80, 0.029),
    *_detector("1x1", 32, 64, 60, 80, 0.680), *_detector("dw", 64, 64, 60, 80, 0.053),
    *_detector("1x1", 64, 64, 60, 80, 1.328), *_detector("dw", 64, 64, 30, 40, 0.020),
    *_detector("1x1", 64, 128, 30, 40, 0.704), *_detector("dw", 128, 128, 30, 40, 0.034),
    *_detector("1x1", 128, 128, 30, 40, 1.385), *_detector("dw", 128, 128, 15, 20, 0.016),
    *_detector("1x1", 128, 256, 15, 20, 0.781), *_detector("dw", 256, 256, 15, 20, 0.025, *[0.026] * 4),
    *_detector("1x1", 256, 256, 15, 20, *[1.521] * 4),
    *_detector("1x1 main", 256, 30, 15, 20, 0.326),
)
"""The 23 layers of the vendor's face detector, 8-bit weights. The published range of the five equal depthwise layers
is 0.025 to 0.026 ms."""

FURTHER_RUNS: tuple[LayerRun, ...] = (
    *_detector("3x3", 3, 16, 240, 320, 0.210), *_detector("3x3", 16, 16, 120, 160, 0.268),
    *_detector("3x3", 16, 16, 60, 80, 0.099),
)
"""Three layers from other reports, likewise."""

BENCHMARK_RUNS: tuple[LayerRun, ...] = tuple(
    LayerRun(layer=TimedLayer(kind="3x3", inputs=128, outputs=128, height=height, width=width, weight_bytes=2),
             measured_ms=time, clock_hz=BENCHMARK_CLOCK_HZ, source="board maker, 16-bit weights")
    for width, height, time in (
        (4, 4, 0.339), (16, 4, 0.339), (16, 16, 0.417), (32, 16, 0.692), (32, 32, 1.138), (64, 32, 2.125),
        (64, 64, 3.891), (128, 64, 7.709), (128, 128, 14.778), (256, 256, 57.756)))
"""The board maker's table of one layer, 128 channels in and out."""

LAYER_RUNS = (*DETECTOR_RUNS, *FURTHER_RUNS, *BENCHMARK_RUNS)
"""Every layer time."""


def compare_layers(runs: Iterable[LayerRun] = LAYER_RUNS) -> tuple[Comparison, ...]:
    """The model beside the measurements."""
    return tuple(Comparison(run=run, predicted_ms=run.layer.time_ms(run.clock_hz)) for run in runs)


def root_mean_square(comparisons: Sequence[Comparison]) -> float:
    """Of the relative errors."""
    return math.sqrt(sum(c.error ** 2 for c in comparisons) / len(comparisons))


# ------------------------------------------------------------------------------------------------ whole models

@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRun:
    """A model whose speed somebody has published.

    Args:
        input_shape: (C, H, W).
        layers: its KPU layers: ``3x3 3-16``, ``1x1 16-32`` or ``dw 32``; then ``/2`` for a pooling that halves rows
            and columns, ``pool9`` for another one, ``main`` for a result in main memory.
        published: what is said about it.
        one_load: as in `TimedLayer`.
    """

    input_shape: tuple[int, int, int]
    layers: str
    published: str
    one_load: bool = False


_MOBILENET = (
    "3x3 3-24 /2; dw 24; 1x1 24-48 main; dw 48; 1x1 48-96 /2; dw 96; 1x1 96-96 main; dw 96; 1x1 96-192 /2; dw 192; "
    "1x1 192-192 main; dw 192; 1x1 192-384 /2; " + "dw 384; 1x1 384-384; " * 4
    + "dw 384; 1x1 384-384 main; dw 384; 1x1 384-768 /2; dw 768; 1x1 768-768 main")

_DETECTOR = (
    "3x3 3-16 /2; dw 16; 1x1 16-32 /2; dw 32; 1x1 32-64; dw 64; 1x1 64-64 /2; dw 64; 1x1 64-128; dw 128; "
    "1x1 128-128 /2; dw 128; 1x1 128-256; " + "dw 256; 1x1 256-256; " * 4 + "dw 256; 1x1 256-30 main")

_YOLO = (
    "3x3 3-16 /2; dw 16; 1x1 16-32 /2; dw 32; 1x1 32-64 /2; dw 64; 1x1 64-128 /2; dw 128; 1x1 128-256 /2; dw 256; "
    "1x1 256-512 pool9; dw 512; 1x1 512-1024; dw 1024; 1x1 1024-512; 1x1 512-125 main")

MODELS: Mapping[str, ModelRun] = MappingProxyType({
    "MobileNet v1 0.75, 224x224": ModelRun(input_shape=(3, 224, 224), layers=_MOBILENET, published="about 26 fps"),
    "vendor's face detector, 320x240": ModelRun(input_shape=(3, 240, 320), layers=_DETECTOR, one_load=True,
                                                published="12.328 ms KPU, 12.732 ms in all"),
    "20-class YOLO, 320x240": ModelRun(input_shape=(3, 240, 320), layers=_YOLO,
                                       published="19.5 fps with camera and display"),
})
"""Name -> layers. The classifier of the MobileNet, a 1x1 layer on single cells, is listed apart: `CLASSIFIERS`."""

CLASSIFIERS: Mapping[str, TimedLayer] = MappingProxyType({
    "MobileNet v1 0.75, 224x224": TimedLayer(kind="1x1", inputs=768, outputs=1000, height=4, width=4,
                                             to_main_memory=True)})
"""Last KPU layers that do not read the map of the layer before them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTime:
    """What the time model says of a whole model.

    Args:
        name: key of `MODELS`.
        run: the published figure.
        layers: its KPU layers.
        compute_ms: the KPU's computation alone.
        kpu_ms: KPU layers with loading, main-memory results and overhead.
        input_ms: the image's way to the KPU, without conversion.
    """

    name: str
    run: ModelRun
    layers: tuple[TimedLayer, ...]
    compute_ms: float
    kpu_ms: float
    input_ms: float

    @property
    def frames_per_second(self) -> float:
        """Without CPU layers, camera and display."""
        return 1e3 / (self.kpu_ms + self.input_ms)


def model_time(name: str, clock_hz: int = K210.kpu_clock_hz) -> ModelTime:
    """The time of a listed model.

    Args:
        name: key of `MODELS`.
        clock_hz: KPU clock.
    """
    run = MODELS[name]
    layers = (*model_layers(run), *((CLASSIFIERS[name],) if name in CLASSIFIERS else ()))
    return ModelTime(name=name, run=run, layers=layers,
                     compute_ms=1e3 * sum(kpu_cycles(layer.fields) for layer in layers) / clock_hz,
                     kpu_ms=sum(layer.time_ms(clock_hz) for layer in layers),
                     input_ms=1e3 * math.prod(run.input_shape) / K210.latency.input_bytes_per_s)


def model_layers(run: ModelRun) -> Iterator[TimedLayer]:
    """The layers of a model that `ModelRun.layers` lists.

    Raises:
        ValueError: a layer is not in the form described there.
    """
    channels, height, width = run.input_shape
    for text in run.layers.split("; "):
        match = _LAYER.fullmatch(text)
        if match is None or int(match["inputs"] or match["outputs"]) != channels:
            raise ValueError(f"'{text}' is not a layer on {channels} channels")
        tail = match["tail"].split()
        stride = 2 if "/2" in tail else 1
        stride = next((POOL_TYPES[int(word[4:])].stride for word in tail if word.startswith("pool")), stride)
        outputs = int(match["outputs"])
        yield TimedLayer(kind=match["kind"], inputs=channels, outputs=outputs, height=height, width=width,
                         to_main_memory="main" in tail, one_load=run.one_load)
        channels, height, width = outputs, height // stride, width // stride
