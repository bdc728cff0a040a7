"""Print what synthesis for the MAX78000 costs: time and memory and the simulator's speed.

Usage: python benchmarks/synthesis.py [--cases DIR] [--repeat N]

The cases are published networks, which are not part of the project: ``../shared/cases/max78000-trained``. Synthesis
does not load torch; the time of ``import torch`` alone, measured in the same run, is the unit of the last column, so
that figures of different machines can be compared. Each figure is the best of the repetitions. Exit status 1 if a
target is missed, 2 if the cases are not there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

CASES = ROOT.parent / "shared" / "cases" / "max78000-trained"
MEASURED_INFERENCES = 20
TARGET_INFERENCES_PER_S = 20.0
SPEED_CASE = "kws20_v3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A case.

    Args:
        name: its folder.
        options: of ``synthesize.py``.
        generate_s: target of the time without verification; None without one.
        verify_s: target of the time with it.
    """

    name: str
    options: tuple[str, ...] = ()
    generate_s: float | None = None
    verify_s: float | None = None


NETWORKS = (Network(name="mnist", generate_s=1.8, verify_s=4.0),
            Network(name=SPEED_CASE, generate_s=2.8, verify_s=6.0),
            Network(name="cats_dogs", options=("--fifo",)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a command took.

    Args:
        seconds: wall time.
        cpu_seconds: processor time, which another program's load hardly changes.
        megabytes: greatest resident memory of one process of the command.
    """

    seconds: float
    cpu_seconds: float
    megabytes: float


def measure(command: Sequence[str]) -> Cost:
    """Run a Python command line once.

    This process keeps small (no numpy before the commands have run): the system counts the memory of the process that
    starts a command as the command's.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}\n{output.read().decode()}")
    return Cost(seconds=seconds, cpu_seconds=usage.ru_utime + usage.ru_stime, megabytes=usage.ru_maxrss / 1024)


def best(command: Sequence[str], repeat: int) -> Cost:
    """The fastest of some runs."""
    return min((measure(command) for _ in range(repeat)), key=lambda cost: cost.seconds)


def synthesis_command(case: Path, network: Network, out: Path) -> list[str]:
    """The command line of a case."""
    return ["synthesize.py", str(case / "net.yaml"), str(case / "checkpoint.pth.tar"), "--sample-input",
            str(case / "sample.npy"), "--target", "max78000", "--out", str(out), "--quiet", *network.options]


def inferences_per_second(case: Path) -> float:
    """Speed of the simulator alone per second of processor time, set up once, the whole sample loaded each time."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in synthesize.py, before numpy is imported
    from ai8x.max7800x.lower import lower_network
    from ai8x.max7800x.simulator import Accelerator
    from ai8x.synthesis import SynthesisOptions, read_inputs
    from ai8x.synthesis_max78000 import plan_network
    from ai8x.verify_max78000 import repeat_inference, run_program

    options = SynthesisOptions(network=case / "net.yaml", checkpoint=case / "checkpoint.pth.tar",
                               sample=case / "sample.npy", out=case, targets=("max78000",))
    inputs = read_inputs(options)
    plan, _ = plan_network(inputs, options)
    program = lower_network(inputs.network, plan, inputs.sample.values, inputs.trace)
    accelerator = Accelerator(seed=0)
    run_program(program, accelerator)
    start = time.process_time()
    for _ in range(MEASURED_INFERENCES):
        repeat_inference(program, accelerator)
    return MEASURED_INFERENCES / (time.process_time() - start)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=CASES, metavar="DIR", help="folder with the published networks")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="the best of N runs counts (default: 3)")
    arguments = parser.parse_args()
    if missing := [network.name for network in NETWORKS if not (arguments.cases / network.name).is_dir()]:
        print(f"{arguments.cases}: no {', '.join(missing)}; name the folder with --cases", file=sys.stderr)
        return 2
    torch = best(["-c", "import torch"], arguments.repeat)
    print(f"import torch: {torch.seconds:.2f} s, {torch.cpu_seconds:.2f} s of processor time, "
          f"{torch.megabytes:.0f} MB\n")
    print("| network | verification | time s | target s | processor s | memory MB | time / import torch |")
    print("|---|---|--:|--:|--:|--:|--:|")
    missed = False
    for network in NETWORKS:
        for verify, target in ((False, network.generate_s), (True, network.verify_s)):
            with tempfile.TemporaryDirectory(prefix="ai8x-benchmark-") as folder:
                command = synthesis_command(arguments.cases / network.name, network, Path(folder) / "out")
                cost = best([*command, "--overwrite", *(() if verify else ("--no-verify",))], arguments.repeat)
            missed |= target is not None and cost.seconds > target
            print(f"| {network.name} | {'yes' if verify else 'no'} | {cost.seconds:.2f} | "
                  f"{'' if target is None else target} | {cost.cpu_seconds:.2f} | "
                  f"{cost.megabytes:.0f} | {cost.seconds / torch.seconds:.2f} |", flush=True)
    speed = inferences_per_second(arguments.cases / SPEED_CASE)
    print(f"\nsimulator alone, {SPEED_CASE}: {speed:.1f} inferences per second of processor time "
          f"(target: {TARGET_INFERENCES_PER_S:.0f})")
    return int(missed or speed < TARGET_INFERENCES_PER_S)


if __name__ == "__main__":
    sys.exit(main())
