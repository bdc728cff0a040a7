"""Two networks from training to PASS on the virtual K210: a mobile one on digits, one for keywords of 128 channels.

Each is trained shortly, quantised, synthesised for the K210 and verified: the kmodel on the KPU simulator against the
reference, the compiled runner on the virtual board. Everything goes through the scripts, as a user would call them.

Usage: python benchmarks/k210_examples.py [--only NAME] [--out DIR]

Exit status 1 if a network learns too little or a witness differs. Takes about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ai8x.k210.kmodel import read_kmodel
from ai8x.k210.kmodel_layers import K210Conv

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(__file__).resolve().parent / "k210_data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A network and how it is trained.

    Args:
        model, dataset: by their names.
        options: of ``train.py`` besides.
        least_depthwise: KPU layers with one kernel for each channel that the example is there to show.
        least_accuracy: of the quantised network on the test part, percent.
    """

    model: str
    dataset: str
    options: tuple[str, ...]
    least_depthwise: int
    least_accuracy: float


EXAMPLES: Mapping[str, Example] = {
    "mobile": Example(model="mobiledigits", dataset="digits", options=("--epochs", "10", "--qat-start", "7"),
                      least_depthwise=3, least_accuracy=85.0),
    "keywords": Example(model="ai85kws20netv3", dataset="synthetic_keywords",
                        options=("--epochs", "5", "--qat-start", "3", "--datasets-path", str(DATA)),
                        least_depthwise=0, least_accuracy=85.0),
}


def script(name: str, *arguments: object) -> str:
    """Run one of the scripts; its output, which is also shown if it fails."""
    command = [sys.executable, str(ROOT / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
        raise SystemExit(f"{name} ended with status {done.returncode}")
    return done.stdout


def run(name: str, example: Example, folder: Path) -> bool:
    """One example; True if everything holds."""
    start = time.perf_counter()
    script("train.py", "--arch", example.model, "--dataset", example.dataset, "--out-dir", folder, "--name", name,
           *example.options)
    (best,) = folder.glob(f"{name}_*/*qat_best.pth.tar")
    quantised = folder / f"{name}-q.pth.tar"
    script("quantize.py", best, quantised)
    named = ("--dataset", example.dataset, "--datasets-path", DATA)
    printed = script("train.py", "--evaluate", quantised, "-8", "--arch", example.model, *named)
    accuracy = json.loads(printed.splitlines()[-1])["top1"]
    script("synthesize.py", "--model", example.model, "--checkpoint-file", quantised, *named, "--target", "k210",
           "--out", folder / name)
    report = json.loads((folder / name / "report.json").read_text(encoding="utf-8"))
    model = read_kmodel((folder / name / "k210" / "model.kmodel").read_bytes())
    kpu_layers = [layer for layer in model.layers if isinstance(layer, K210Conv)]
    depthwise = sum(layer.fields["depth_wise_layer"] for layer in kpu_layers)
    verification = report["verification"]
    time_ms = report["chips"][0]["total_time_us"] / 1e3
    witnesses = {key: verification[key] for key in ("kmodel", "kpu_firmware")}
    print(f"{name}: {witnesses}, {accuracy:.1f} % right on the test part, {len(model.layers)} layers, "
          f"{len(kpu_layers)} on the KPU ({depthwise} depthwise), {time_ms:.2f} ms on the chip (estimated), "
          f"{time.perf_counter() - start:.0f} s", flush=True)
    is_equal = set(witnesses.values()) == {"equal"}  # the firmware prints PASS only then
    return is_equal and depthwise >= example.least_depthwise and accuracy >= example.least_accuracy


def main() -> int:
    """Run the examples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=sorted(EXAMPLES), help="one of them")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep everything there (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ai8x-examples-") as temporary:
        folder = arguments.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        names = [arguments.only] if arguments.only else list(EXAMPLES)
        passed = [run(name, EXAMPLES[name], folder) for name in names]
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main())
