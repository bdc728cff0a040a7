"""The mutation run as a command: ``python -m tests.mutation --seed 1 --count 2000``."""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter

from .judge import DEFECTS, Kind
from .run import run_mutants


def main() -> int:
    """Judge the mutants and print what became of them; exit status 1 where there is a defect."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=150, help="mutants (default: 150)")
    parser.add_argument("--only", type=int, help="the mutant with this number only; prints its text")
    arguments = parser.parse_args()
    numbers = range(arguments.count) if arguments.only is None else [arguments.only]
    kinds, codes, defects = Counter[Kind](), Counter[str](), 0
    slowest, start = 0.0, time.process_time()
    for number, base, mutant, found in run_mutants(arguments.seed, numbers):
        kinds[found.kind] += 1
        codes.update(found.codes)
        slowest = max(slowest, found.seconds)
        if arguments.only is not None:
            print(mutant.text)
        if found.kind in DEFECTS or arguments.only is not None:
            defects += found.kind in DEFECTS
            print(f"mutant {number} of {base.name}: {'; '.join(mutant.story)}\n  {found.kind.value}: {found.detail}",
                  flush=True)
    print(f"seed {arguments.seed}: {sum(kinds.values())} mutants, {defects} defects, slowest {slowest:.2f} s, "
          f"{time.process_time() - start:.0f} s CPU, "
          f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB at most")
    for kind, count in kinds.most_common():
        print(f"{count:6d} {kind.value}")
    print("codes:", ", ".join(f"{code} {count}" for code, count in sorted(codes.items())))
    return int(bool(defects))


if __name__ == "__main__":
    sys.exit(main())
