"""Speed of the KPU simulator and of the kmodel writer, on MobileNet v1 0.75 at 224x224.

Every figure is a median over rounds. Seconds depend on the machine and its load; CPU seconds are those of all threads.
Each time is also given as a multiple of a yardstick that runs in the same rounds: one float32 matrix product of numpy
with as many multiply-accumulates as the model has.

Uses the published file of ``../shared/cases/k210`` where it is there, otherwise a model of the same layers with
random weights.

Usage: python benchmarks/k210.py [--rounds 5] [--check]

``--check``: exit status 1 if the simulator needs more than 0.4 s or the writer more than 2 s.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray

from ai8x.k210 import device
from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.kmodel import KModel, read_kmodel, write_kmodel
from ai8x.k210.kmodel_layers import ActivationTable, BatchNorm, K210Conv, MemoryRange
from ai8x.k210.silicon import MODELS, TimedLayer, model_layers

PUBLISHED = Path(__file__).resolve().parents[1] / ".." / "shared" / "cases" / "k210" / "emc_mbnetv1"
MODEL = "MobileNet v1 0.75, 224x224"
LIMITS_S: Mapping[str, float] = {"simulate": 0.4, "write": 2.0}
"""What the project asks for, on two cores."""


def published_model() -> tuple[KModel, NDArray[np.uint8]] | None:
    """The published file and its random input, None where they are not there."""
    if not PUBLISHED.exists():
        return None
    model = read_kmodel((PUBLISHED / "model.kmodel").read_bytes())
    return model, np.load(PUBLISHED / "random.npz")["input"]


def synthetic_model() -> tuple[KModel, NDArray[np.uint8]]:
    """The convolutions of the same model with random weights; the maps alternate between both ends of KPU RAM."""
    rng = np.random.default_rng(0)
    timed = list(model_layers(MODELS[MODEL]))
    layers, source = [], 0
    for layer, following in zip(timed, [*timed[1:], None], strict=True):
        halved = following is not None and following.height < layer.height
        size = (layer.height // 2, layer.width // 2) if halved else (layer.height, layer.width)
        lines = device.map_lines(layer.outputs, *size)
        target = device.K210.memory.kpu_lines - lines if source == 0 else 0
        layers.append(_conv(layer, size, (source, target), rng, to_main_memory=following is None))
        source = target
    size_bytes = layers[-1].fields["dma_total_byte"] + 1
    model = KModel(layers=tuple(layers), outputs=(MemoryRange(address=0, size=size_bytes),),
                   main_mem_usage=-(-size_bytes // 8) * 8)
    return model, rng.integers(0, 256, MODELS[MODEL].input_shape, dtype=np.uint8)


def _conv(layer: TimedLayer, size: tuple[int, int], lines: tuple[int, int], rng: np.random.Generator, *,
          to_main_memory: bool) -> K210Conv:
    inputs = 1 if layer.is_depthwise else layer.inputs
    weights = rng.integers(64, 192, (layer.outputs, inputs, layer.kernel, layer.kernel), dtype=np.uint8)
    starts = [device.TABLE_MIN_START, *range(0, 1), *range(device.TABLE_UNREACHABLE_START,
                                                          device.TABLE_UNREACHABLE_START + 14)]
    table = ActivationTable(start=np.array(starts), mul=np.array([0, 1] + [0] * 14),
                            shift=np.array([0, 6] + [0] * 14), bias=np.zeros(16, np.uint8))
    norm = BatchNorm(mul=np.full(layer.outputs, 1 << 12), shift=np.full(layer.outputs, 14),
                     add=np.full(layer.outputs, 4096))
    per_load = layer.outputs if layer.is_depthwise else -(-layer.outputs // layer.loads)
    height, width = size
    fields = layer.fields | {
        "image_src_addr": lines[0], "image_dst_addr": lines[1], "o_row_wid": width - 1, "o_col_high": height - 1,
        "o_ch_num_coef": per_load - 1, "para_size": per_load * weights[0].size, "load_para": 1, "load_coor": 1,
        "load_act": 1, "dma_burst_size": 15, "pool_type": 5 if height < layer.height else 0,
        "channel_switch_addr": device.lines_per_group(layer.height, layer.width),
        "row_switch_addr": device.lines_per_row(layer.width), "coef_group": device.channels_per_line(layer.width),
        "wb_channel_switch_addr": device.lines_per_group(height, width),
        "wb_row_switch_addr": device.lines_per_row(width), "wb_group": device.channels_per_line(width),
        "arg_x": -128, "channel_byte_num": height * width - 1, "dma_total_byte": layer.outputs * height * width - 1,
    }
    return K210Conv(words=device.encode_layer_argument(fields), weights=weights, batch_norm=norm, activation=table,
                    main_memory_output=0 if to_main_memory else None)


def multiply_accumulates(model: KModel) -> int:
    """Of the KPU layers, before pooling."""
    total = 0
    for layer in model.layers:
        if isinstance(layer, K210Conv):
            fields = layer.fields
            total += layer.weights.size * (fields["i_col_high"] + 1) * (fields["i_row_wid"] + 1)
    return total


def yardstick(macs: int) -> Callable[[], Any]:
    """One matrix product of about so many multiply-accumulates."""
    rng = np.random.default_rng(0)
    inner = 512
    left = rng.standard_normal((inner, inner), dtype=np.float32)
    right = rng.standard_normal((inner, -(-macs // inner**2)), dtype=np.float32)
    return lambda: left @ right


def measure(tasks: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall-clock and CPU seconds of every task; tasks take turns, so that other load changes all alike."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    for task in tasks.values():
        task()
    for _ in range(rounds):
        for name, task in tasks.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            task()
            seconds[name].append((time.perf_counter() - start, time.process_time() - cpu_start))
    return {name: (statistics.median(wall for wall, _ in pairs), statistics.median(cpu for _, cpu in pairs))
            for name, pairs in seconds.items()}


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    found = published_model()
    model, image = found or synthetic_model()
    data = write_kmodel(model)
    print(f"{MODEL}: {'published file' if found else 'random weights'}, {len(data):,} bytes, "
          f"{multiply_accumulates(model):,} multiply-accumulates")
    seconds = measure({"yardstick": yardstick(multiply_accumulates(model)), "simulate": lambda: run_kmodel(data, image),
                       "write": lambda: write_kmodel(model), "read": lambda: read_kmodel(data)}, options.rounds)
    for name, (wall, cpu) in seconds.items():
        ratio = wall / seconds["yardstick"][0]
        print(f"{name:10s} {wall:8.4f} s  {cpu:8.4f} s of CPU  {ratio:8.3f} x yardstick")
    return int(options.check and any(seconds[name][0] > limit for name, limit in LIMITS_S.items()))


if __name__ == "__main__":
    sys.exit(main())
