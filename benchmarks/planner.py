"""How good and how fast the memory and placement planners are.

Two tables. The first compares the peaks of `ai8x.memory.plan_memory` with the smallest possible ones on random sets of
up to 16 buffers: those that are recorded in ``tests/data/memory_optima.json``, and fresh ones where the solver is
installed. The second places every bundled model on the MAX78000 from nothing and sets the peak beside its lower bound.

The solver is an oracle for this comparison only, never a dependency: ``pip install ortools``.

Usage: python benchmarks/planner.py [--fresh 50] [--seed 1] [--no-models] [--record FILE]

``--record FILE`` writes 200 solved sets. Exit status 1 if fewer than 99 % of the peaks are smallest, or if the mean of
peak over lower bound of the models exceeds 1.05.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ai8x.memory import Buffer, lower_bound, plan_memory  # noqa: E402 (the project is found through the line above)

RECORD = ROOT / "tests" / "data" / "memory_optima.json"
NUM_RECORDED = 200
MAX_BUFFERS = 16
SOLVER_SECONDS = 60.0
LEAST_OPTIMAL = 0.99
MOST_RATIO = 1.05

Sizes = list[tuple[int, int, int, int]]
"""Buffers as (size, first use, last use, alignment)."""


def random_buffers(generator: random.Random) -> Sizes:
    """Up to 16 buffers: mostly short lives as in a chain of layers, some long; even and odd sizes; mixed alignment."""
    count = generator.randint(2, MAX_BUFFERS)
    steps = generator.randint(2, count)
    alignment = generator.choice((1, 1, 1, 8, 64))
    found = []
    for _ in range(count):
        first = generator.randint(0, steps - 1)
        life = generator.choice((1, 1, 1, 2, 3)) if generator.random() < 0.7 else generator.randint(0, steps)
        size = generator.randint(1, 64) if generator.random() < 0.5 else generator.choice((8, 16, 32, 64, 128, 256))
        found.append((size, first, min(first + life, steps), alignment if generator.random() < 0.5 else 1))
    return found


def as_buffers(sizes: Sequence[Sequence[int]]) -> list[Buffer]:
    """For the planner."""
    return [Buffer(name=str(number), size=size, first_use=first, last_use=last, alignment=alignment)
            for number, (size, first, last, alignment) in enumerate(sizes)]


def smallest_peak(solver: Any, sizes: Sizes) -> int | None:
    """The peak of an optimal plan by constraint programming, None where it was not proven in time.

    Args:
        solver: the module ``ortools.sat.python.cp_model``.
        sizes: the buffers.
    """
    model = solver.CpModel()
    highest = sum(-(-size // alignment) * alignment for size, _, _, alignment in sizes)
    peak = model.NewIntVar(lower_bound(as_buffers(sizes)), highest, "peak")
    spaces, times = [], []
    for number, (size, first, last, alignment) in enumerate(sizes):
        address = alignment * model.NewIntVar(0, highest // alignment, f"address{number}")
        model.Add(address + size <= peak)
        spaces.append(model.NewFixedSizeIntervalVar(address, size, f"space{number}"))
        times.append(model.NewFixedSizeIntervalVar(first, last - first + 1, f"time{number}"))
    model.AddNoOverlap2D(spaces, times)
    model.Minimize(peak)
    run = solver.CpSolver()
    run.parameters.num_workers = 1
    run.parameters.max_time_in_seconds = SOLVER_SECONDS
    return int(run.ObjectiveValue()) if run.Solve(model) == solver.OPTIMAL else None


def find_solver() -> Any | None:
    """The solver's module, None where it is not installed."""
    try:
        return importlib.import_module("ortools.sat.python.cp_model")
    except ImportError:
        return None


def solved_sets(solver: Any, count: int, seed: int) -> Iterator[tuple[Sizes, int]]:
    """Random sets with their smallest peaks; those that the solver does not finish are left out."""
    generator = random.Random(seed)
    while count:
        sizes = random_buffers(generator)
        peak = smallest_peak(solver, sizes)
        if peak is not None:
            count -= 1
            yield sizes, peak


def write_record(path: Path, solver: Any, seed: int) -> None:
    """Solve 200 sets and write them, one a line."""
    lines = [json.dumps({"buffers": sizes, "peak": peak}) for sizes, peak in solved_sets(solver, NUM_RECORDED, seed)]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


def compare(title: str, sets: Sequence[tuple[Sequence[Sequence[int]], int]]) -> bool:
    """Print one line about the planner's peaks; whether they are good enough."""
    start = time.process_time()
    ratios = [plan_memory(as_buffers(sizes), 1).peak / peak for sizes, peak in sets]
    seconds = time.process_time() - start
    optimal = sum(ratio == 1 for ratio in ratios)
    print(f"{title:24}{len(sets):6}{optimal:10}{100 * optimal / len(sets):9.1f} %{sum(ratios) / len(sets):10.4f}"
          f"{max(ratios):10.4f}{1000 * seconds / len(sets):12.1f}")
    return optimal >= LEAST_OPTIMAL * len(sets)


def buffer_table(arguments: argparse.Namespace) -> bool:
    """Peaks of random sets of buffers beside the smallest possible ones."""
    print("Random sets of buffers  number   smallest    share      mean ratio   worst   CPU ms each")
    recorded = [(entry["buffers"], entry["peak"]) for entry in json.loads(RECORD.read_text())]
    good = compare("recorded", recorded)
    solver = find_solver()
    if solver is None:
        print("fresh sets are left out: the solver is not installed (pip install ortools)")
    elif arguments.fresh:
        fresh = list(solved_sets(solver, arguments.fresh, arguments.seed))
        good = compare(f"fresh, seed {arguments.seed}", fresh) and good
    return good


def model_table() -> bool:
    """Every bundled model placed from nothing."""
    # The training half loads torch, which the first table does not need.
    from ai8x.errors import UserError
    from ai8x.max7800x.device import MAX78000
    from ai8x.max7800x.planner import plan_placement
    from tests.max7800x.model_networks import bundled_models, model_network

    print(f"\n{'Model':20}{'layers':>8}{'helpers':>9}{'cycles':>11}{'peak':>8}{'bound':>8}{'ratio':>8}{'quadrants':>11}"
          f"{'stream':>8}{'CPU s':>8}")
    ratios, refused = [], 0
    for name, spec in sorted(bundled_models().items()):
        network, hints = model_network(spec)
        start = time.process_time()
        try:
            plan = plan_placement(network, hints, MAX78000)
        except UserError as error:
            refused += 1
            print(f"{name:20} refused: {error.diagnostics[0].headline()}")
            continue
        seconds, use = time.process_time() - start, plan.summary
        if use is None:
            continue
        ratios.append(use.data_peak_bytes / use.data_bound_bytes)
        streams = sum(layer.streaming for layer in plan.placement.layers)
        print(f"{name:20}{len(network.layers):8}{len(plan.helpers):9}{use.cycles:11,}{use.data_peak_bytes:8}"
              f"{use.data_bound_bytes:8}{ratios[-1]:8.3f}{len(use.quadrants):11}{streams:8}{seconds:8.1f}")
    mean = sum(ratios) / len(ratios)
    print(f"{len(ratios)} placed, {refused} refused; mean of peak over lower bound {mean:.4f}")
    return mean <= MOST_RATIO


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Quality and speed of the memory and placement planners.")
    parser.add_argument("--fresh", type=int, default=50, help="fresh random sets to solve (default 50)")
    parser.add_argument("--seed", type=int, default=1, help="of the fresh sets (default 1)")
    parser.add_argument("--no-models", action="store_true", help="leave the models out; they need torch")
    parser.add_argument("--record", type=Path, metavar="FILE", help="solve 200 sets, write them, and stop")
    return parser.parse_args(arguments)


def main() -> int:
    """Print the tables."""
    arguments = parse()
    if arguments.record is not None:
        solver = find_solver()
        if solver is None:
            print("--record needs the solver: pip install ortools", file=sys.stderr)
            return 2
        write_record(arguments.record, solver, arguments.seed)
        return 0
    good = buffer_table(arguments)
    if not arguments.no_models:
        good = model_table() and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
