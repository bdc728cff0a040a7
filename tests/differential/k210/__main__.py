"""The differential run on the K210 as a command: ``python -m tests.differential.k210 --seed 1 --count 2000``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .draw import KINDS, draw_case
from .firmware import Runner
from .run import compare_case


def main() -> int:
    """Run the cases and print what was compared; exit status 1 where something differed."""
    parser = argparse.ArgumentParser(prog="python -m tests.differential.k210", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100, help="networks to compare (default: 100)")
    parser.add_argument("--kind", choices=sorted(KINDS), default="", help="one corner only")
    parser.add_argument("--only", type=int, help="the case with this number only")
    parser.add_argument("--no-runner", action="store_true", help="reference and simulator only")
    arguments = parser.parse_args()
    compared, ran, refused, layers = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    number, start, differences, cpu = arguments.only or 0, time.monotonic(), 0, time.process_time()
    with tempfile.TemporaryDirectory(prefix="ai8x-differential-") as folder:
        runner = None if arguments.no_runner else Runner(Path(folder))
        while compared.total() < arguments.count:
            case = draw_case(arguments.seed, number, arguments.kind)
            number += 1
            if case is not None:
                outcome = compare_case(case, runner)
                if outcome.refused:
                    refused.update(f"{case.kind} {code}" for code in outcome.refused)
                else:
                    compared[case.kind] += 1
                    ran[case.kind] += outcome.ran
                    layers.update(outcome.layers)
                if outcome.difference:
                    differences += 1
                    print(f"case {case.number} ({case.kind}): {outcome.difference}", flush=True)
            if arguments.only is not None:
                break
    print(f"seed {arguments.seed}: {compared.total()} networks compared ({ran.total()} on the compiled runner), "
          f"{number} drawn, {differences} mismatches, {time.monotonic() - start:.0f} s, "
          f"{time.process_time() - cpu:.0f} s of CPU")
    print("compared:", dict(compared))
    print("refused:", dict(refused.most_common(20)))
    print("kmodel layers:", dict(layers.most_common()))
    return int(bool(differences))


if __name__ == "__main__":
    sys.exit(main())
