"""Runner projects for tests: written from a kmodel, with a main of their own if need be."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai8x.k210 import kmodel_layers as v3
from ai8x.k210 import kmodel_own as own
from ai8x.k210.codegen import KMODEL_NAME, SAMPLE_NAME, RunnerModel, render_runner
from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.kmodel import KModel, write_kmodel
from ai8x.k210.simulator import KpuOptions
from tests.k210.kpu_layers import Shape, conv, pattern_image, pattern_weights, single, table

Image = NDArray[np.uint8]
HALVING = table([(-(1 << 35), 0, 0, 0), (0, 1, 12, 0)])
"""An activation that brings sums of byte products into the byte range."""


def small_model(channels: int = 2) -> KModel:
    """One KPU layer, 8x8 cells of some channels to 4x8x8."""
    return single(conv(pattern_weights(4, channels, 3), Shape(height=8, width=8), act=HALVING))


def runner_model(model: KModel, image: Image, *, labels: tuple[str, ...] = (), name: str = "test") -> RunnerModel:
    """With the known answer of the simulator."""
    run = run_kmodel(model, image, options=KpuOptions(sipeed_layers=True))
    return RunnerModel(name=name, kmodel=write_kmodel(model), image=image, outputs=run.outputs,
                       is_wide=(False,) * len(run.outputs), labels=labels)


def write_project(folder: Path, runner: RunnerModel, *, main: str = "") -> Path:
    """The project with its model and sample; `main` replaces main.c.

    Files that are there with the same content stay as they are, so that a rebuild compiles only what has changed.
    """
    files = {KMODEL_NAME: runner.kmodel, SAMPLE_NAME: runner.image.tobytes()} | render_runner(runner)
    if main:
        files["main.c"] = main.encode()
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)
    return folder


class MainBuffer:
    """Hands out places in a main buffer, one behind the other."""

    def __init__(self) -> None:
        self.size = 0
        self.ranges: list[v3.MemoryRange] = []

    def place(self, size: int, *, is_output: bool = True) -> int:
        """Address of so many bytes."""
        address = self.size
        self.size += -(-size // 8) * 8
        if is_output:
            self.ranges.append(v3.MemoryRange(address=address, size=size))
        return address


CHANNELS, HEIGHT, WIDTH = 8, 6, 20
CELLS = CHANNELS * HEIGHT * WIDTH


def all_layers_model() -> tuple[KModel, Image]:
    """A model that has every layer type, each of whose results is an output."""
    buffer = MainBuffer()
    shape = Shape(height=HEIGHT, width=WIDTH)
    data = buffer.place(CELLS)
    layers: list[v3.KModelLayer] = [conv(pattern_weights(CHANNELS, 3, 3), shape, act=HALVING, main_memory_output=data)]
    layers += _byte_layers(buffer, data)
    layers += _kpu_layers(buffer, data)
    layers += _float_layers(buffer, data)
    model = KModel(layers=tuple(layers), outputs=tuple(buffer.ranges), flags=1, main_mem_usage=buffer.size)
    return model, pattern_image(3, HEIGHT, WIDTH)


def _byte_layers(buffer: MainBuffer, data: int) -> list[v3.KModelLayer]:
    place = buffer.place
    half = CELLS // 2
    signs = {"offset_a": -128, "mul_a": 5, "shift_a": 0, "offset_b": -100, "mul_b": -3, "shift_b": 0,
             "offset_output": 120, "mul_output": 3, "shift_output": 5}
    shifts = {"offset_a": -7, "mul_a": 900, "shift_a": 3, "offset_b": -250, "mul_b": 700, "shift_b": 4,
              "offset_output": 0, "mul_output": -1, "shift_output": 9}
    size = {"input_width": WIDTH, "input_height": HEIGHT}
    return [
        v3.QuantizedAdd(input_a=data, input_b=data + half, output=place(80), count=75, **signs),
        v3.QuantizedAdd(input_a=data, input_b=data + half, output=place(80), count=80, **shifts),
        v3.QuantizedMaxPool2d(input=data, output=place(CHANNELS * 3 * 11), **size, input_channels=CHANNELS,
                              output_width=11, output_height=3, output_channels=CHANNELS, kernel_width=2,
                              kernel_height=3, stride_width=2, stride_height=2, pad_width=1, pad_height=1),
        v3.Requantize(input=data, output=place(99), count=99, table=np.arange(255, -1, -1, np.uint8)),
        v3.QuantizedResizeNearestNeighbor(input=data, output=place(CHANNELS * 9 * 7), **size, channels=CHANNELS,
                                          output_width=7, output_height=9, align_corners=0),
        v3.QuantizedTensorflowFlatten(input=data, output=place(CELLS), width=WIDTH, height=HEIGHT, channels=CHANNELS),
        own.Ai8xAveragePool2d(input=data, output=place(CHANNELS * 2 * 5), **size, channels=CHANNELS, output_width=5,
                              output_height=2, kernel_width=4, kernel_height=3, stride_width=3, stride_height=2,
                              dilation_width=2, dilation_height=1, rounded=0),
        own.Ai8xAveragePool2d(input=data, output=place(CHANNELS), **size, channels=CHANNELS, output_width=1,
                              output_height=1, kernel_width=WIDTH, kernel_height=HEIGHT, stride_width=1,
                              stride_height=1, dilation_width=1, dilation_height=1, rounded=1),
        *(own.Ai8xBitwise(input_a=data, input_b=data + half, output=place(77), count=77, operation=operation)
          for operation in own.BitwiseOperation),
        v3.QuantizedConcat(output=place(50), ranges=(v3.MemoryRange(address=data + 3, size=17),
                                                     v3.MemoryRange(address=data + 400, size=33))),
    ]


def _kpu_layers(buffer: MainBuffer, data: int) -> list[v3.KModelLayer]:
    """Maps that come from main memory, single values among them."""
    weights = pattern_weights(5, CHANNELS, 1)
    cells = buffer.place(5 * 16, is_output=False)
    return [
        v3.K210Upload(input=data, kpu_line=1000, width=WIDTH, height=HEIGHT, channels=CHANNELS),
        conv(weights, Shape(height=HEIGHT, width=WIDTH, source=1000), act=HALVING,
             main_memory_output=buffer.place(5 * HEIGHT * WIDTH)),
        v3.K210AddPadding(input=data + 5, kpu_line=3000, channels=CHANNELS),
        conv(weights, Shape(height=4, width=4, source=3000), act=HALVING, main_memory_output=cells),
        v3.K210RemovePadding(input=cells, output=buffer.place(5), channels=5),
    ]


def _float_layers(buffer: MainBuffer, data: int) -> list[v3.KModelLayer]:
    place = buffer.place
    reals, hidden = place(4 * CELLS), 16
    size = {"input_width": WIDTH, "input_height": HEIGHT}
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(6, 300)).astype(np.float32)
    vector = place(24)
    shares, sigmoids = place(24), place(24)
    channels = rng.normal(size=(2, CHANNELS)).astype(np.float32)
    return [
        v3.Dequantize(input=data, output=reals, count=CELLS, scale=0.013, bias=-1.7),
        v3.ChannelwiseDequantize(input=data, output=place(4 * CHANNELS * hidden), channels=CHANNELS,
                                 channel_size=hidden, scale=channels[0], bias=channels[1]),
        v3.Add(input_a=reals, input_b=reals + 404, output=place(4 * 70), count=70),
        v3.GlobalAveragePool2d(input=reals, output=place(4 * CHANNELS), kernel_size=HEIGHT * WIDTH, channels=CHANNELS),
        v3.AveragePool2d(input=reals, output=place(4 * CHANNELS * 4 * 7), **size, input_channels=CHANNELS,
                         output_width=7, output_height=4, output_channels=CHANNELS, kernel_width=3,
                         kernel_height=2, stride_width=3, stride_height=2, pad_width=1, pad_height=1, act=0),
        v3.TensorflowFlatten(input=reals, output=place(4 * CELLS), width=WIDTH, height=HEIGHT, channels=CHANNELS),
        v3.ResizeNearestNeighbor(input=reals, output=place(4 * CHANNELS * 5 * 31), **size, channels=CHANNELS,
                                 output_width=31, output_height=5, align_corners=1),
        v3.Concat(output=place(80), ranges=(v3.MemoryRange(address=reals, size=40),
                                            v3.MemoryRange(address=reals + 100, size=40))),
        *(v3.FullyConnected(input=reals + 8, output=vector if act is v3.Act.LINEAR else place(24), input_channels=300,
                            output_channels=6, act=act, weights=matrix, bias=matrix[:, 0]) for act in v3.Act),
        v3.L2Normalization(input=vector, output=place(24), channels=6),
        v3.Quantize(input=vector, output=place(6), count=6, scale=0.11, bias=-9.5),
        v3.Softmax(input=vector, output=shares, channels=6),
        v3.Quantize(input=shares, output=place(6), count=6, scale=1 / 200, bias=0.0),
        v3.Logistic(input=vector, output=sigmoids, channels=6),
        v3.Quantize(input=sigmoids, output=place(6), count=6, scale=1 / 200, bias=0.0),
    ]
