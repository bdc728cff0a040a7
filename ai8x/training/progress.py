"""What a run says while it works: a live line with the remaining time on a terminal, plain lines otherwise.

Every line also goes to ``log.txt``, without control codes. Start at `Reporter`.

Source: spec/ai8x-training.md section 14 (lines that scripts look for); docs/design.md "Libraries".
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """Figures after one step.

    Args:
        epoch, step, num_steps: step counts from 1.
        loss: mean over the epoch so far.
        figures: likewise, with the names that are shown, e.g. Top1.
        learning_rate: of the first group.
        seconds: time of the step.
        phase: "float" or "qat".
    """

    epoch: int
    step: int
    num_steps: int
    loss: float
    figures: tuple[tuple[str, float], ...]
    learning_rate: float
    seconds: float
    phase: str

    def line(self) -> str:
        """The plain form, as ai8x-training prints it."""
        figures = "".join(f"{name} {value:.6f}    " for name, value in self.figures)
        return (f"Epoch: [{self.epoch}][{self.step:5d}/{self.num_steps:5d}]    Overall Loss {self.loss:.6f}    "
                f"Objective Loss {self.loss:.6f}    {figures}LR {self.learning_rate:.6f}    "
                f"Time {self.seconds:.6f}    ")


class Reporter:
    """Writes to the terminal and to the log.

    Args:
        log: file to append to, or None.
        console: where to write; standard output by default.
    """

    def __init__(self, log: Path | None = None, console: Console | None = None) -> None:
        self._console = console if console is not None else Console(soft_wrap=True, highlight=False)
        self._log: TextIO | None = log.open("a", encoding="utf-8") if log is not None else None
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.finish_progress()
        if self._log is not None:
            self._log.close()

    def line(self, text: str = "") -> None:
        """One line, or several, for the terminal and the log."""
        self.record(text)
        self._console.print(escape(text))

    def record(self, text: str) -> None:
        """One line for the log only, with the time of day."""
        if self._log is not None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            self._log.writelines(f"{stamp} {part}\n" for part in text.split("\n"))
            self._log.flush()

    def start_progress(self, total_steps: int, done_steps: int) -> None:
        """Show the live line, on a terminal only.

        Args:
            total_steps: of all epochs.
            done_steps: finished before, by the run that is resumed.
        """
        if not self._console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"),
            TextColumn("left"), TimeRemainingColumn(), console=self._console, transient=True)
        self._progress.start()
        self._task = self._progress.add_task("training", total=total_steps, completed=done_steps, figures="")

    def step(self, report: StepReport, *, print_freq: int) -> None:
        """One step is done: moves the live line, or prints a line every ``print_freq`` steps."""
        due = report.step % print_freq == 0 or report.step == report.num_steps
        if self._progress is not None and self._task is not None:
            shown = "".join(f"{name.lower()} {value:.2f} " for name, value in report.figures[:1])
            rate = f"loss {report.loss:.4f} {shown}lr {report.learning_rate:.2g}"
            self._progress.update(self._task, advance=1, description=f"epoch {report.epoch} {report.phase}",
                                  figures=rate)
            if due:
                self.record(report.line())
        elif due:
            self.line(report.line())

    def finish_progress(self) -> None:
        """Take the live line away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
