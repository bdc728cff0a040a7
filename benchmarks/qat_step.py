"""Cost of a training step relative to plain torch.nn, in one process and on one batch.

Each round runs every variant a few times, one after the other, so that load from other programs changes all of
them alike; a ratio is the median over rounds. Absolute rates are printed for orientation only.

Run: python benchmarks/qat_step.py [--batch 64] [--threads 2] [--rounds 15] [--model ai85net5]

Source: docs/training.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ai8x.nn import modules as layers
from ai8x.nn.base import OutputScale, set_output_scale
from ai8x.nn.qat import QatPolicy, switch_to_qat

STEPS_PER_ROUND = 3
LEARNING_RATE = 1e-4


def plain_net5() -> nn.Sequential:
    """ai85net5 with torch.nn only."""
    return nn.Sequential(
        nn.Conv2d(1, 60, 3, padding=1), nn.ReLU(inplace=True),
        nn.MaxPool2d(2), nn.Conv2d(60, 60, 3, padding=2), nn.ReLU(inplace=True),
        nn.MaxPool2d(2), nn.Conv2d(60, 56, 3, padding=1), nn.ReLU(inplace=True),
        nn.AvgPool2d(2), nn.Conv2d(56, 12, 3, padding=1), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(192, 10))


def quantised_net5() -> nn.Sequential:
    """ai85net5 with the layers of this package."""
    return nn.Sequential(
        layers.FusedConv2dReLU(1, 60, 3, padding=1), layers.FusedMaxPoolConv2dReLU(60, 60, 3, padding=2),
        layers.FusedMaxPoolConv2dReLU(60, 56, 3, padding=1), layers.FusedAvgPoolConv2dReLU(56, 12, 3, padding=1),
        nn.Flatten(), layers.Linear(192, 10, bias=True, wide=True))


_KWS = ((128, 100, 1, 0, None), (100, 96, 3, 0, None), (96, 64, 3, 1, "Max"), (64, 48, 3, 0, None),
        (48, 64, 3, 1, "Max"), (64, 96, 3, 0, None), (96, 100, 3, 1, "Avg"), (100, 64, 6, 1, "Max"))
"""Channels in and out, kernel, padding and pooling of ai85kws20netv3; dropout follows layers 1, 3 and 5."""

_DROPOUT_AFTER = (1, 3, 5)


def plain_kws() -> nn.Sequential:
    """ai85kws20netv3 with torch.nn only."""
    parts: list[nn.Module] = []
    for index, (inputs, outputs, kernel, padding, pooling) in enumerate(_KWS):
        if pooling is not None:
            parts.append(nn.MaxPool1d(2) if pooling == "Max" else nn.AvgPool1d(2))
        parts += [nn.Conv1d(inputs, outputs, kernel, padding=padding), nn.ReLU(inplace=True)]
        if index in _DROPOUT_AFTER:
            parts.append(nn.Dropout(0.2))
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(256, 21))


def quantised_kws() -> nn.Sequential:
    """ai85kws20netv3 with the layers of this package."""
    classes = {None: layers.FusedConv1dReLU, "Max": layers.FusedMaxPoolConv1dReLU, "Avg": layers.FusedAvgPoolConv1dReLU}
    parts: list[nn.Module] = []
    for index, (inputs, outputs, kernel, padding, pooling) in enumerate(_KWS):
        parts.append(classes[pooling](inputs, outputs, kernel, padding=padding))
        if index in _DROPOUT_AFTER:
            parts.append(nn.Dropout(0.2))
    return nn.Sequential(*parts, nn.Flatten(), layers.Linear(256, 21, bias=True, wide=True))


MODELS: dict[str, tuple[Callable[[], nn.Sequential], Callable[[], nn.Sequential], tuple[int, ...], int]] = {
    "ai85net5": (plain_net5, quantised_net5, (1, 28, 28), 10),
    "ai85kws20netv3": (plain_kws, quantised_kws, (128, 128), 21),
}


def training_step(model: nn.Module, data: Tensor, labels: Tensor) -> Callable[[], None]:
    """A function that performs one step with Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def measure(name: str, batch: int, rounds: int) -> dict[str, list[float]]:
    """Mean seconds per step, by variant and round."""
    plain, quantised, shape, classes = MODELS[name]
    torch.manual_seed(0)
    data = torch.randint(-128, 128, (batch, *shape)) / 128
    labels = torch.randint(0, classes, (batch,))
    models = {"plain": plain(), "float": quantised(), "qat": quantised()}
    for variant in ("float", "qat"):
        set_output_scale(models[variant], OutputScale.REAL)
    switch_to_qat(models["qat"], QatPolicy(start_epoch=0, weight_bits=8))
    steps = {variant: training_step(model, data, labels) for variant, model in models.items()}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {variant: [] for variant in steps}
    for _ in range(rounds):
        for variant, step in steps.items():
            start = time.perf_counter()
            for _ in range(STEPS_PER_ROUND):
                step()
            seconds[variant].append((time.perf_counter() - start) / STEPS_PER_ROUND)
    return seconds


def main() -> None:
    """Print rates and ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=[*MODELS, "all"], default="all")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in MODELS if options.model == "all" else [options.model]:
        for batch in options.batch:
            seconds = measure(name, batch, options.rounds)
            for variant, values in seconds.items():
                ratio = statistics.median(v / p for v, p in zip(values, seconds["plain"], strict=True))
                rate = batch / statistics.median(values)
                print(f"{name:15s} batch {batch:4d} {variant:6s} {rate:7.0f} images/s  {ratio:.3f} x plain")


if __name__ == "__main__":
    main()
