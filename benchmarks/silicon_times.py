"""Print the comparison of the cycle model with times measured on silicon, as the table of the manual.

Usage: python benchmarks/silicon_times.py

Exit status 1 if a row that does not stream is further off than the project allows.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ai8x.max7800x.silicon import RUNS, STREAMING_RUNS, TOLERANCE_US, Comparison, compare_runs


def row(comparison: Comparison) -> str:
    """One line of the table."""
    run = comparison.run
    return (f"| {run.method} | {run.network} | {run.measured_us:,} | {comparison.cycles:,} | {run.overhead_us} | "
            f"{comparison.predicted_us:,.1f} | {comparison.difference_us:+.1f} | {run.note} |")


def main() -> int:
    """Print the table."""
    print("| method | network | measured us | cycles | overhead us | predicted us | difference us | note |")
    print("|---|---|--:|--:|--:|--:|--:|---|")
    rows = list(compare_runs(RUNS))
    for comparison in (*rows, *compare_runs(STREAMING_RUNS)):
        print(row(comparison))
    return int(any(abs(comparison.difference_us) > TOLERANCE_US for comparison in rows))


if __name__ == "__main__":
    sys.exit(main())
