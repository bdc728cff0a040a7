"""Print the comparison of the cycle model with times measured on silicon, or write it as a page of the manual.

Usage: python benchmarks/silicon_times.py [--write docs/silicon-times.md]

Exit status 1 if a row that does not stream is further off than the project allows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ai8x.max7800x.silicon import RUNS, TOLERANCE_US, compare_runs, comparison_page


def main() -> int:
    """Print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page there")
    target = parser.parse_args().write
    if target is None:
        print(comparison_page(), end="")
    else:
        target.write_text(comparison_page(), encoding="utf-8")
    return int(any(abs(comparison.difference_us) > TOLERANCE_US for comparison in compare_runs(RUNS)))


if __name__ == "__main__":
    sys.exit(main())
