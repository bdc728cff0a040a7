"""Kills training runs at random moments (SIGKILL) and checks that ``--resume`` ends with the same bits.

A moment is the N-th time that a training process executes a certain line of our code, so it can lie inside the writing
of a checkpoint or inside the switch to QAT, and repeats with the seed; every fourth one is a point in time. A killed
run goes on with ``--resume`` (or starts again where it had not written a checkpoint yet); then the weights of all
checkpoints and the table of metrics must equal those of a run that nobody disturbed.

Run: python -m tests.training.kill [--kills 20] [--seed 0] [--task toy|digits] [--processes 1]

Source: spec/ai8x-training.md section 6; issue 4 ("kill -9").
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import enum
import inspect
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from ai8x.checkpoint import read_checkpoint
from ai8x.cli.train import main as train
from ai8x.training import session  # forked processes need not import it again
from tests.training.conftest import TOY_DATA, TOY_MODEL

PACKAGE = str(Path(session.__file__).resolve().parents[1])
TASKS: Mapping[str, tuple[str, ...]] = {
    "toy": ("--model=toynet", "--dataset=toy", "--models-path=models", "--datasets-path=datasets", "--epochs=3",
            "--qat-start=2", "-b=8", "-j=0"),
    "digits": ("--epochs=5", "--qat-start=3")}
VARIANTS: tuple[tuple[str, ...], ...] = (
    (), ("--ema=0.9",), ("--prune=0.3", "--prune-epoch=1"), ("--optimizer=sgd", "--prune=0.3", "--prune-epoch=1",
                                                            "--prune-kind=magnitude"))
"""Options that add to the state of a run; the kills take turns."""


class Moment(enum.Enum):
    """Where a kill lies: any of our lines, one that writes files, one of the switch to QAT, or a point in time."""

    LINE = (".py",)
    FILE = ("files.py", "checkpoint.py", "training/checkpoints.py", "training/run.py")
    SWITCH = ("nn/qat.py", "nn/fold.py", "training/average.py")
    TIME = ()

    def holds(self, file: str) -> bool:
        """Whether lines of a file count."""
        return any(file.endswith(name) for name in self.value)


Line = tuple[str, int]
"""File and number of a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One moment.

    Args:
        variant: index in `VARIANTS`.
        share: of the run's time; None for a line.
        line: that is executed, with ``count`` how many times.
    """

    variant: int
    share: float | None = None
    line: Line = ("", 0)
    count: int = 0

    def __str__(self) -> str:
        if self.share is not None:
            return f"{100 * self.share:.0f} % of the time"
        return f"{Path(self.line[0]).relative_to(PACKAGE)}:{self.line[1]}, number {self.count}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A run that nobody disturbed.

    Args:
        digest: what `contents` found.
        lines: how often each of our lines was executed.
        seconds: how long it took.
        world: number of its processes.
    """

    digest: dict[str, Any]
    lines: Mapping[Line, int]
    seconds: float
    world: int = 1


class _Tracer:
    """Counts lines of this package; kills the process at one of them."""

    def __init__(self, kill: Kill | None) -> None:
        self.counts: collections.Counter[Line] = collections.Counter()
        self._kill = kill

    def call(self, frame: FrameType, event: str, argument: object) -> Any:
        """The global trace function: looks into functions of our files only, or of the one file that matters."""
        file = frame.f_code.co_filename
        wanted = file.startswith(PACKAGE) if self._kill is None else file == self._kill.line[0]
        is_function = frame.f_code.co_flags & inspect.CO_OPTIMIZED  # unlike modules and classes being imported
        return self.line if wanted and is_function else None

    def line(self, frame: FrameType, event: str, argument: object) -> Any:
        """The local one."""
        if event == "line":
            place = (frame.f_code.co_filename, frame.f_lineno)
            self.counts[place] += 1
            if self._kill is not None and place == self._kill.line and self.counts[place] == self._kill.count:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.line


@contextlib.contextmanager
def working_folder(task: str) -> Iterator[Path]:
    """A folder with the plug-ins of the task, as the current one."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        for part, text in (("models", TOY_MODEL), ("datasets", TOY_DATA)) if task == "toy" else ():
            (Path(name) / part).mkdir()
            (Path(name) / part / "toy.py").write_text(text, encoding="utf-8")
        os.chdir(name)
        try:
            yield Path(name)
        finally:
            os.chdir(before)


def run_training(arguments: Sequence[str], kill: Kill | None = None, *, delay: float | None = None,
                 tracing: bool = False, world: int = 1) -> int:
    """Train in forked processes.

    Args:
        arguments: of ``train.py``.
        kill: the line at which the first process ends itself.
        delay: seconds after which it is ended.
        tracing: count the first one's lines and leave them in ``lines.json``.
        world: number of processes; the others are ended with the first one.

    Returns:
        The first one's exit status, negative for a signal.
    """
    port = _free_port()
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            if world > 1:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                                  LOCAL_WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            _train_and_exit(arguments, kill if rank == 0 else None,
                            tracing=rank == 0 and (tracing or kill is not None))
        children.append(child)
    if delay is not None:
        time.sleep(delay)
        os.kill(children[0], signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])
    for child in children[1:]:
        if status:
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return status


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _train_and_exit(arguments: Sequence[str], kill: Kill | None, *, tracing: bool) -> None:
    """What the forked process does; it never returns."""
    status = 99
    try:
        with Path("output.txt").open("a", encoding="utf-8") as stream, contextlib.redirect_stdout(stream), \
                contextlib.redirect_stderr(stream):
            tracer = _Tracer(kill)
            if tracing:
                sys.settrace(tracer.call)
            status = train(list(arguments))
            sys.settrace(None)
            if tracing:
                Path("lines.json").write_text(json.dumps([[*line, count] for line, count in tracer.counts.items()]))
    finally:
        os._exit(status)


def contents(out_dir: str) -> dict[str, Any]:
    """Everything that must be equal: the weights of all checkpoints, and the metrics.

    Raises:
        RuntimeError: there is not exactly one finished run.
    """
    finished = [path for path in Path(out_dir).iterdir() if (path / "qat_report.json").is_file()]
    if len(finished) != 1:
        raise RuntimeError(f"{len(finished)} finished runs in {out_dir}:\n{Path('output.txt').read_text()[-2000:]}")
    found: dict[str, Any] = {"metrics.csv": (finished[0] / "metrics.csv").read_text()}
    for file in finished[0].glob("*.pth.tar"):
        found[file.name] = read_checkpoint(file).tensors()
    left = [file.name for file in finished[0].iterdir() if file.name.startswith(".") or file.suffix == ".lock"]
    return {**found, "left over": left}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names of what is not the same, to the bit."""
    found = [name for name in one.keys() ^ other.keys()]
    for name in one.keys() & other.keys():
        if isinstance(one[name], dict):
            same = list(one[name]) == list(other[name]) and all(
                torch.equal(one[name][key], other[name][key]) for key in one[name])
        else:
            same = one[name] == other[name]
        found += [] if same else [name]
    return sorted(found)


def options(task: str, variant: int, out_dir: str) -> list[str]:
    """The command line of a run."""
    return [*TASKS[task], *VARIANTS[variant], "--cpu", "--deterministic", "--no-tensorboard", "--seed=3",
            f"--out-dir={out_dir}"]


def run_whole(task: str, variant: int, *, world: int = 1, timed: bool = True) -> Whole:
    """A run without a disturbance, and the lines that it executes.

    Args:
        task: name in `TASKS`.
        variant: index in `VARIANTS`.
        world: number of processes.
        timed: run once more, without counting lines, to take the time.

    Raises:
        RuntimeError: it failed.
    """
    if run_training(options(task, variant, f"traced{variant}"), tracing=True, world=world):
        raise RuntimeError(Path("output.txt").read_text()[-2000:])
    lines = {(file, number): count for file, number, count in json.loads(Path("lines.json").read_text())}
    started = time.perf_counter()
    if timed and run_training(options(task, variant, f"whole{variant}"), world=world):
        raise RuntimeError(Path("output.txt").read_text()[-2000:])
    seconds = time.perf_counter() - started
    return Whole(digest=contents(f"traced{variant}"), lines=lines, seconds=seconds, world=world)


def kill_and_go_on(task: str, kill: Kill, whole: Whole, out_dir: str) -> tuple[bool, list[str]]:
    """Kill a run once, let it go on to its end.

    Returns:
        Whether the kill came before the end, and what differs from the undisturbed run.
    """
    arguments = options(task, kill.variant, out_dir)
    delay = None if kill.share is None else kill.share * whole.seconds
    status = run_training(arguments, None if delay is not None else kill, delay=delay, world=whole.world)
    was_killed = status == -signal.SIGKILL
    if was_killed and run_training([*arguments, "--resume"], world=whole.world) != 0:  # no checkpoint written yet
        run_training(arguments, world=whole.world)
    return was_killed, differences(contents(out_dir), whole.digest)


def draw_kills(wholes: Sequence[Whole], kinds: Sequence[Moment], count: int, seed: int) -> Iterator[Kill]:
    """Moments of all kinds in turn: any line of the kind, and any of the times that it is executed."""
    chance = random.Random(seed)
    for number in range(count):
        kind, variant = kinds[number % len(kinds)], (number + number // len(kinds)) % len(wholes)
        if kind is Moment.TIME:
            yield Kill(variant=variant, share=chance.random())
            continue
        lines = wholes[variant].lines
        line = chance.choice(sorted(line for line in lines if kind.holds(line[0])))
        yield Kill(variant=variant, line=line, count=chance.randint(1, lines[line]))


def main(argv: Sequence[str] | None = None) -> int:
    """Kill as often as asked for; 0 where every run ended with the same bits."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", choices=TASKS, default="toy")
    parser.add_argument("--variants", type=int, default=len(VARIANTS), help="sets of options that take turns")
    parser.add_argument("--kinds", nargs="+", choices=[kind.name for kind in Moment],
                        default=[kind.name for kind in Moment], help="of moments, which take turns")
    parser.add_argument("--processes", type=int, default=1, help="that share every run")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # imports much, here once for all forked processes
    failures = 0
    with working_folder(arguments.task):
        kinds = [Moment[name] for name in arguments.kinds]
        timed = Moment.TIME in kinds[:arguments.kills]
        wholes = [run_whole(arguments.task, variant, world=arguments.processes, timed=timed)
                  for variant in range(arguments.variants)]
        for number, kill in enumerate(draw_kills(wholes, kinds, arguments.kills, arguments.seed)):
            was_killed, different = kill_and_go_on(arguments.task, kill, wholes[kill.variant], f"killed{number}")
            failures += bool(different)
            print(f"{number:3} {kill!s:45} {' '.join(VARIANTS[kill.variant]) or '-':62} "
                  f"{'killed' if was_killed else 'had finished'}; {', '.join(different) or 'same bits'}", flush=True)
    print(f"{arguments.kills} kills, {failures} runs with other results")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
