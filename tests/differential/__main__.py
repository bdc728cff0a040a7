"""The differential run as a command: ``python -m tests.differential --seed 1 --count 2000``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .kinds import KINDS, draw_case
from .run import FirmwareBuilder, compare_case


def main() -> int:
    """Run the cases and print what was compared; exit status 1 where something differed."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100, help="networks to compare (default: 100)")
    parser.add_argument("--kind", choices=sorted(KINDS), default="", help="one corner only")
    parser.add_argument("--only", type=int, help="the case with this number only")
    parser.add_argument("--no-firmware", action="store_true", help="reference and simulator only")
    arguments = parser.parse_args()
    compared, compiled, refused = Counter[str](), Counter[str](), Counter[str]()
    drawn, number, start, differences = 0, arguments.only or 0, time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="ai8x-differential-") as folder:
        builder = None if arguments.no_firmware else FirmwareBuilder(Path(folder))
        while sum(compared.values()) < arguments.count:
            case = draw_case(arguments.seed, number, arguments.kind)
            number, drawn = number + 1, drawn + 1
            if case is not None:
                project = Path(folder) / f"case{case.number}"
                project.mkdir()
                outcome = compare_case(case, builder, project)
                if outcome.refused:
                    refused.update(f"{case.kind} {code}" for code in outcome.refused)
                else:
                    compared[case.kind] += 1
                    compiled[case.kind] += outcome.compiled
                if outcome.difference:
                    differences.append(f"case {case.number} ({case.kind}): {outcome.difference}")
                    print(differences[-1], flush=True)
            if arguments.only is not None:
                break
    print(f"seed {arguments.seed}: {sum(compared.values())} networks compared ({sum(compiled.values())} as firmware), "
          f"{drawn} drawn, {len(differences)} mismatches, {time.monotonic() - start:.0f} s")
    print("compared:", dict(compared))
    print("refused:", dict(refused.most_common(12)))
    return int(bool(differences))


if __name__ == "__main__":
    sys.exit(main())
