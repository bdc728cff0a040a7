"""``make demo``: handwritten digits from training to verified firmware on both chips, with the users' own commands.

Every step is one of the commands of the README, run as its own process; this module only strings them together and
prints the summary. Start at `main`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai8x.cli.common import CommandParser, run_main
from ai8x.errors import ExitStatus, user_error

ROOT = Path(__file__).resolve().parents[2]
"""The checkout: scripts and bundled networks lie there."""

TEST_SAMPLES = 360
"""Test digits that both simulators classify: the whole test part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """What the demo's steps left behind.

    Args:
        training: the JSON line that ``train.py`` ends with.
        report: content of ``report.json``.
        folder: output folder of ``synthesize.py``.
        seconds: wall time of everything.
    """

    training: dict[str, Any]
    report: dict[str, Any]
    folder: Path
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0 success; else the exit status of the step that failed.
    """
    parser = CommandParser(prog="make demo", description="Train, quantise, synthesise and verify digitsnet on digits.")
    group = parser.add_argument_group("options")
    group.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR",
                       help="folder for everything (default: demo)")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the training (default: 0)")
    arguments = parser.parse_args(argv)
    return run_main(lambda: _execute(arguments))


def _execute(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    output = _run("1/4  training, quantisation-aware from epoch 40", "train.py", "--qat-start", "40",
                  "--seed", str(arguments.seed), "--print-freq", "1000", "--out-dir", str(out / "runs"))
    training = json.loads(output.strip().splitlines()[-1])
    quantized = out / "digits-q.pth.tar"
    _run("2/4  folding to integers", "quantize.py", training["checkpoints"]["qat_best"], str(quantized))
    _run("3/4  the integer checkpoint on the test part, in torch", "train.py", "--evaluate", str(quantized), "-8")
    folder = out / "digits"
    _run("4/4  generating and verifying both projects", "synthesize.py", str(ROOT / "networks" / "digits.yaml"),
         str(quantized), "--test-samples", str(TEST_SAMPLES), "--out", str(folder))
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    result = DemoResult(training=training, report=report, folder=folder, seconds=time.monotonic() - started)
    _print_summary(result)
    return ExitStatus.SUCCESS


def _run(title: str, script: str, *arguments: str) -> str:
    """Run one of our scripts, let its output through, and return it.

    Raises:
        UserError: E0813, the step failed.
    """
    command = [sys.executable, str(ROOT / script), *arguments]
    print(f"\n=== {title}\n$ python {script} {shlex.join(arguments)}", flush=True)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True,  # noqa: S603 - our own scripts
                          encoding="utf-8") as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line)
    if process.returncode:
        raise user_error("E0813", f"{script} ended with exit status {process.returncode}",
                         help="its own message stands above")
    return "".join(lines)


def _print_summary(result: DemoResult) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title="digitsnet on handwritten digits", title_justify="left", show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in summary_rows(result):
        table.add_row(name, value)
    console.print(table)


def summary_rows(result: DemoResult) -> list[tuple[str, str]]:
    """The summary: accuracies, cost on both chips, memory, verification, paths."""
    accuracy, report = result.training["accuracy"], result.report
    rows = [("Accuracy, float", f"{accuracy['float']['test']:.2f} %"),
            ("Accuracy, quantisation-aware", f"{accuracy['qat']['test']:.2f} %")]
    names = {"reference": "integers, reference", "max78000": "MAX78000 simulator", "k210": "KPU simulator"}
    for row in report["accuracy"]:
        rows.append((f"Accuracy, {names[row['executor']]}",
                     f"{100 * row['correct'] / row['samples']:.2f} % of {row['samples']} test digits, "
                     f"{row['mismatches']} with other outputs than the reference"))
    for chip in report["chips"]:
        time_ms, clock_mhz = chip["total_time_us"] / 1e3, chip["clock_hz"] / 1e6
        rows.append((f"{chip['title']}: time",
                     f"{chip['total_cycles']:,} cycles, {time_ms:.3f} ms at {clock_mhz:.0f} MHz (estimated)"))
        used = (f"{r['name']} {r['used']:,} of {r['capacity']:,} {r['unit']}" for r in chip["resources"][:2])
        rows.append((f"{chip['title']}: memory", ", ".join(used)))
    rows += [(f"Verified: {witness}", verdict) for witness, verdict in report["verification"].items()]
    rows += [("Training run", result.training["run"]), ("Report", str(result.folder / "report.html")),
             ("MAX78000 project", str(result.folder / "max78000")), ("K210 project", str(result.folder / "k210")),
             ("Wall time", f"{result.seconds:.0f} s")]
    return rows


if __name__ == "__main__":
    sys.exit(main())
