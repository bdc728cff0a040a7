"""Print what becomes of ten plain torch models: converted, trained, quantised, verified on both chips.

Usage: python -m benchmarks.convert [NAME ...] [--epochs N] [--markdown]

The models are those of ``tests/nn/conversion/plain_models.py``, data are the digits and synthetic sets. Exit status 1
if fewer than 8 fit the MAX78000 or fewer than 7 the K210, or if a witness differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.nn.conversion.plain_models import PLAIN
from tests.nn.conversion.plain_runs import Run, run

LEAST = {"max78000": 8, "k210": 7}
COLUMNS = ("model", "layers", "replaced", "plain", "converted", "int8", "MAX78000", "K210")


def row(name: str, found: Run) -> tuple[str, ...]:
    """The cells of one model."""
    unit = "dB" if PLAIN[name].data == "copy" else "%"
    return (name, str(found.layers), str(found.replaced), *(f"{value:.1f} {unit}" for value in (
        found.plain, found.converted, found.integer)), found.verdicts["max78000"], found.verdicts["k210"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run all models and print the table."""
    parser = argparse.ArgumentParser(description="Convert ten plain torch models and verify them on both chips.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PLAIN)} (default: all)")
    parser.add_argument("--epochs", type=int, default=1, metavar="N", help="passes over the training data (default 1)")
    parser.add_argument("--markdown", action="store_true", help="print a table for the manual")
    arguments = parser.parse_args(argv)
    names = arguments.names or list(PLAIN)
    runs: dict[str, Run] = {}
    if arguments.markdown:
        print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            runs[name] = run(name, Path(folder), epochs=arguments.epochs)
        cells = row(name, runs[name])
        print("| " + " | ".join(cells) + " |" if arguments.markdown else "  ".join(f"{c:>12s}" for c in cells),
              flush=True)
    fitting = {target: sum(found.fits(target) for found in runs.values()) for target in LEAST}
    print(f"\nMAX78000: {fitting['max78000']} of {len(runs)}, K210: {fitting['k210']} of {len(runs)}")
    missed = len(runs) == len(PLAIN) and any(fitting[target] < least for target, least in LEAST.items())
    differs = any(v.startswith("different") for found in runs.values() for v in found.verdicts.values())
    return int(missed or differs)


if __name__ == "__main__":
    raise SystemExit(main())
