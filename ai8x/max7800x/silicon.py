"""Networks that others have timed on real chips, and what the cycle model says about them.

Owns the layer lists of these public networks, the measured times, and the comparison. Knows nothing of weights: the
cycle count does not depend on them. Start at `RUNS` and `compare_runs`; ``benchmarks/silicon_times.py`` prints the
table of the manual.

Source: spec/silicon-measurements.md section 2, which names the public pages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ai8x.max7800x.cycles import START_CYCLES, layer_cycles, predicted_time_us, work_from_layer
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.placement import LayerPlacement, Placement, channel_passes
from ai8x.network.ir import ConvSpec, Layer, Network, Op, Pool, PoolSpec, TensorShape

NETWORKS: Mapping[str, tuple[tuple[int, int, int], str]] = MappingProxyType({
    "mnist": ((1, 28, 28), "3x3 60 p1; mp2 3x3 60 p2; mp2 3x3 56 p1; ap2 3x3 12 p1; FC 10"),
    "cifar10": ((3, 32, 32), "3x3 60 p1; mp2 3x3 60 p1; mp2 3x3 56 p1; ap2 3x3 12 p1; FC 10"),
    "cifar100": ((3, 32, 32), "3x3 16 p1; 3x3 20 p1; 3x3 20 p1; 3x3 20 p1; mp2 3x3 20 p1; 3x3 20 p1; 3x3 44 p1; "
                              "mp2 3x3 48 p1; 3x3 48 p1; mp2 3x3 96 p1; mp2 1x1 512 p0; 1x1 128 p0; mp2 3x3 128 p1; "
                              "1x1 100 p0"),
    "kws20_v3": ((128, 128, 1), "k1 100 p0; k3 96 p0; mp2 k3 64 p1; k3 48 p0; mp2 k3 64 p1; k3 96 p0; mp2 k3 100 p1; "
                                "mp2 k6 64 p1; FC 21"),
    "cats-dogs 64x64": ((3, 64, 64), "3x3 15 p1; mp2 3x3 30 p1; mp2 3x3 60 p1; mp2 3x3 30 p1; mp2 3x3 30 p1; "
                                     "3x3 30 p1; FC 2"),
    "facenet_v1": ((3, 88, 88), "3x3 4 p1; mp2 3x3 8 p1; mp2 3x3 16 p1; mp2 3x3 32 p1; mp2 3x3 32 p1; FC 2"),
    "facenet_v2": ((3, 88, 88), "3x3 8 p1; mp2 3x3 16 p1; mp2 3x3 32 p1; mp2 3x3 64 p1; mp2 3x3 64 p1; mp2 3x3 64 p1; "
                                "FC 2"),
    "facenet_v4": ((48, 22, 22), "3x3 64 p1; mp2 3x3 64 p1; mp2 3x3 64 p1; mp2 3x3 64 p1; FC 2"),
    "facenet_v5": ((48, 22, 22), "3x3 8 p1; mp2 3x3 16 p1; mp2 3x3 32 p1; mp2 3x3 64 p1; FC 2"),
    "facenet_v6": ((3, 88, 88), "3x3 4 p1; mp2 3x3 4 p1; mp2 3x3 4 p1; mp2 3x3 8 p1; mp2 3x3 16 p1; FC 2"),
    "facenet_v7": ((3, 88, 88), "3x3 1 p1 @3; mp2 3x3 2 p1; mp2 3x3 4 p1; mp2 3x3 8 p1; mp2 3x3 16 p1; FC 2"),
    "rnet": ((3, 48, 48), "ap2 3x3 28 p1; mp3/2 3x3 48 p0; mp3/2 3x3 64 p0; FC 128; FC 5"),
    "onet": ((3, 48, 48), "3x3 32 p1; mp3/2 3x3 64 p0; mp3/2 3x3 64 p0; mp2 3x3 128 p0; FC 256; FC 5"),
    "cats-dogs 128x128": ((3, 128, 128), "3x3 16 p1 s; mp2 3x3 32 p1 s; mp2 3x3 64 p1; mp2 3x3 32 p1; mp2 3x3 32 p1; "
                                         "3x3 16 p1; FC 2"),
})
"""Name -> input shape and layers.

A layer is: pooling before it (``mp2`` or ``ap2``: 2x2 at stride 2; ``mp3/2``: 3x3 at stride 2; rows only for 1-D data),
kernel (``3x3``, ``1x1``, ``k3`` for Conv1d; ``FC`` flattens), output channels, padding; ``@3``: the output starts on
processor 3, ``s``: the layer streams."""

VENDOR_OVERHEAD_US = 6.7
"""Start, interrupt and timer on the vendor's pages of January 2021 (method A)."""

LATER_OVERHEAD_US = 9.0
"""The same with later versions of the vendor's tool (methods H, L and T)."""

TOLERANCE_US = 1.5
"""Agreement asked for by the project, for layers that do not stream."""

_LAYER = re.compile(
    r"(?:(?P<pool>[ma]p)(?P<window>\d)(?:/(?P<stride>\d))? )?(?P<kernel>\dx\d|k\d|FC) (?P<channels>\d+)"
    r"(?: p(?P<pad>\d))?(?: @(?P<start>\d+))?(?: (?P<stream>s))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SiliconRun:
    """A published measurement at a CNN clock of 50 MHz.

    Args:
        network: key of `NETWORKS`.
        measured_us: time shown by the chip's own timer.
        overhead_us: the one constant of the method.
        method: ``A`` vendor pages; ``H``, ``L``, ``T`` later generator versions; ``F`` with feeding of the FIFO.
        note: for the table.
    """

    network: str
    measured_us: int
    overhead_us: float
    method: str
    note: str = ""


def _rows(method: str, overhead_us: float, rows: Mapping[str, int]) -> tuple[SiliconRun, ...]:
    return tuple(SiliconRun(network=name, measured_us=time, overhead_us=overhead_us, method=method)
                 for name, time in rows.items())


RUNS: tuple[SiliconRun, ...] = (
    *_rows("A", VENDOR_OVERHEAD_US, {"mnist": 1410, "cifar10": 1712, "cifar100": 2593, "kws20_v3": 1442,
                                     "cats-dogs 64x64": 2549}),
    *_rows("H", LATER_OVERHEAD_US, {"facenet_v1": 1797, "facenet_v2": 2979}),
    SiliconRun(network="facenet_v2", measured_us=2979, overhead_us=LATER_OVERHEAD_US, method="H",
               note="facenet_v3: the same with 4-bit weights"),
    *_rows("H", LATER_OVERHEAD_US, {"facenet_v4": 866, "facenet_v5": 192, "facenet_v6": 1459, "facenet_v7": 1382}),
    *_rows("L", LATER_OVERHEAD_US, {"rnet": 518, "onet": 2416}),
    *_rows("T", LATER_OVERHEAD_US, {"mnist": 1413}),
)
"""Networks that do not stream."""

STREAMING_RUNS: tuple[SiliconRun, ...] = (
    SiliconRun(network="cats-dogs 128x128", measured_us=12481, overhead_us=LATER_OVERHEAD_US, method="F",
               note="rough: load and inference, layers 0 and 1 stream"),
)
"""A network whose first layers stream; the time contains the feeding of the FIFO by the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One row of the table.

    Args:
        run: the measurement.
        layers: cycles of every layer.
        cycles: of the network.
        predicted_us: cycles at 50 MHz plus the method's constant.
    """

    run: SiliconRun
    layers: tuple[int, ...]
    cycles: int
    predicted_us: float

    @property
    def difference_us(self) -> float:
        """Predicted minus measured."""
        return self.predicted_us - self.run.measured_us


def compare_runs(runs: tuple[SiliconRun, ...] = RUNS) -> Iterator[Comparison]:
    """The cycle model beside the measurements."""
    for run in runs:
        layers = network_layer_cycles(run.network)
        cycles = START_CYCLES + sum(layers)
        predicted = predicted_time_us(cycles, MAX78000.clock_hz, overhead_us=run.overhead_us)
        yield Comparison(run=run, layers=layers, cycles=cycles, predicted_us=predicted)


def comparison_page() -> str:
    """The comparison as a page of the manual, in Markdown."""
    lines = [
        "# The cycle model and silicon", "",
        "<!-- Written by benchmarks/silicon_times.py; changes belong into ai8x/max7800x/silicon.py. -->", "",
        "Times that the chip's own timer showed, at a CNN clock of 50 MHz, beside cycles of the model divided by the",
        "clock plus one constant for start, interrupt and timer of each way of measuring: A vendor pages of January",
        "2021; H, L, T later versions of the vendor's tool; F with feeding of the FIFO by the CPU. Layers that stream",
        "are an estimate.", "",
        "| method | network | measured us | cycles | constant us | predicted us | difference us | note |",
        "|---|---|--:|--:|--:|--:|--:|---|"]
    for row in (*compare_runs(RUNS), *compare_runs(STREAMING_RUNS)):
        run = row.run
        lines.append(f"| {run.method} | {run.network} | {run.measured_us:,} | {row.cycles:,} | {run.overhead_us} | "
                     f"{row.predicted_us:,.1f} | {row.difference_us:+.1f} | {run.note} |")
    return "\n".join(lines) + "\n"


def network_layer_cycles(name: str) -> tuple[int, ...]:
    """Cycles of every layer of a listed network.

    Args:
        name: key of `NETWORKS`.
    """
    network, placement = silicon_network(name)
    return tuple(layer_cycles(work_from_layer(layer, None)) for layer in hardware_layers(network, placement, MAX78000))


def silicon_network(name: str) -> tuple[Network, Placement]:
    """A listed network, without weights, on processors from 0 on.

    Args:
        name: key of `NETWORKS`.

    Raises:
        ValueError: the layer list is not in the form that `NETWORKS` describes.
    """
    shape = TensorShape(*NETWORKS[name][0])
    input_shape, layers, places = shape, [], []
    for index, text in enumerate(NETWORKS[name][1].split("; ")):
        match = _LAYER.fullmatch(text)
        if match is None:
            raise ValueError(f"{name}: '{text}' is not a layer")
        layer = _layer(index, shape, match)
        layers.append(layer)
        outputs = (1 << channel_passes(layer.out_shape.channels)[1]) - 1
        places.append(LayerPlacement(processors=(1 << channel_passes(shape.channels)[1]) - 1,
                                     output_processors=outputs << int(match["start"] or 0),
                                     streaming=match["stream"] is not None))
        shape = layer.out_shape
    fifo = any(place.streaming for place in places)
    return Network(name=name, input_shape=input_shape, layers=tuple(layers)), Placement(layers=tuple(places), fifo=fifo)


def _layer(index: int, shape: TensorShape, match: re.Match[str]) -> Layer:
    is_1d = shape.width == 1 and shape.height > 1
    pool = PoolSpec()
    if match["pool"]:
        window, stride = int(match["window"]), int(match["stride"] or match["window"])
        pool = PoolSpec(kind=Pool.MAX if match["pool"] == "mp" else Pool.AVG, window=(window, 1 if is_1d else window),
                        stride=(stride, 1 if is_1d else stride))
    rows, columns = pool.output_size(shape.height, shape.width)
    flat, pad = match["kernel"] == "FC", int(match["pad"] or 0)
    op, conv = Op.LINEAR, ConvSpec()
    if match["kernel"].startswith("k"):
        op, conv = Op.CONV1D, ConvSpec(kernel=(int(match["kernel"][1:]), 1), padding=(pad, 0))
    elif not flat:
        size = int(match["kernel"][0])
        op, conv = Op.CONV2D, ConvSpec(kernel=(size, size), padding=(pad, pad))
    height, width = (1, 1) if flat else conv.output_size(rows, columns)
    return Layer(name=f"layer{index}", index=index, op=op, inputs=(index - 1,), operand_shape=shape, pool=pool,
                 out_shape=TensorShape(int(match["channels"]), height, width), conv=conv, flatten=flat)
