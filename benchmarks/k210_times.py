"""Print the KPU's time model beside measurements on chips, as the tables of the manual.

Usage: python benchmarks/k210_times.py

Exit status 1 if a layer or the whole table is further off than the project allows.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ai8x.k210.silicon import (
    LAYER_TOLERANCE,
    MODELS,
    RMS_TOLERANCE,
    Comparison,
    compare_layers,
    model_time,
    root_mean_square,
)


def layer_row(comparison: Comparison) -> str:
    """One line of the table of layers."""
    run = comparison.run
    return (f"| {run.source} | {run.layer} | {run.clock_hz // 1_000_000} | {run.layer.loads} | {run.measured_ms:.3f} | "
            f"{comparison.predicted_ms:.3f} | {100 * comparison.error:+.1f} |")


def model_row(name: str) -> str:
    """One line of the table of models."""
    time = model_time(name)
    return (f"| {name} | {len(time.layers)} | {time.run.published} | {time.compute_ms:.1f} | {time.kpu_ms:.1f} | "
            f"{time.input_ms:.2f} | {time.frames_per_second:.1f} |")


def main() -> int:
    """Print both tables."""
    comparisons = compare_layers()
    print("| measurement | layer (channels, rows x columns) | clock MHz | weight loads | measured ms | model ms | "
          "difference % |")
    print("|---|---|--:|--:|--:|--:|--:|")
    for comparison in comparisons:
        print(layer_row(comparison))
    worst = max(abs(c.error) for c in comparisons)
    rms = root_mean_square(comparisons)
    print(f"\n{len(comparisons)} layers: {100 * rms:.1f} % root mean square, {100 * worst:.1f} % at most\n")
    print("| model | KPU layers | published | computing ms | KPU ms | input ms | frames/s, KPU and input alone |")
    print("|---|--:|---|--:|--:|--:|--:|")
    for name in MODELS:
        print(model_row(name))
    return int(worst > LAYER_TOLERANCE or rms > RMS_TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
