"""The cycle model against published measurements and the vendor's cycle counts per layer."""

from pathlib import Path

import pytest

from ai8x.max7800x.silicon import (
    NETWORKS,
    RUNS,
    STREAMING_RUNS,
    TOLERANCE_US,
    SiliconRun,
    compare_runs,
    comparison_page,
    network_layer_cycles,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "silicon-times.md"

LAYER_CYCLES = {
    "mnist": (48956, 16664, 4012, 332, 192),
    "cifar10": (63884, 16844, 4012, 332, 192),
    "cifar100": (18828, 22924, 22924, 22924, 6604, 5836, 11980, 3500, 3308, 1676, 4136, 4160, 306, 212),
    "kws20_v3": (27136, 24706, 8452, 3056, 2016, 2750, 3006, 567, 92),
    "cats-dogs 64x64": (70412, 36236, 16844, 2348, 620, 572, 64),
    "facenet_v1": (47532, 25708, 10440, 4621, 997, 101),
    "facenet_v2": (78508, 41196, 18184, 8493, 1797, 312, 16),
    "facenet_v4": (32220, 8493, 1797, 312, 16),
    "facenet_v5": (5116, 2685, 997, 312, 16),
    "facenet_v6": (47532, 17964, 4632, 1717, 597, 101),
    "facenet_v7": (47532, 14092, 4632, 1717, 597, 101),
    "rnet": (19308, 5138, 428, 520, 14),
    "onet": (78924, 33602, 5132, 604, 2064, 28),
    "cats-dogs 128x128": (444690, 228498, 71052, 9676, 2476, 1260, 257),
}
"""As the vendor's tool prints them (silicon-measurements.md 2.2, and 2.3 for the streaming one)."""


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_take_the_cycles_of_the_vendors_estimate(name: str) -> None:
    assert network_layer_cycles(name) == LAYER_CYCLES[name]


def test_fifteen_measurements_are_compared() -> None:
    assert len(RUNS) == 15
    assert [run.method for run in RUNS].count("A") == 5


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.method}-{run.network}-{run.measured_us}")
def test_predicted_time_is_what_the_chip_showed(run: SiliconRun) -> None:
    (comparison,) = compare_runs((run,))
    assert abs(comparison.difference_us) <= TOLERANCE_US


def test_page_of_the_manual_is_what_the_model_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == comparison_page()


def test_streaming_estimate_is_a_fifth_too_long_as_the_measurements_say() -> None:
    (comparison,) = compare_runs(STREAMING_RUNS)
    assert 1.15 <= comparison.predicted_us / comparison.run.measured_us <= 1.26
