"""The folder of one run: its files, its lock, and how to find it again.

Nothing is ever half written: checkpoints and texts go through `ai8x.files`. Start at `RunFolder`.

Source: docs/design.md "Libraries", "Files", "Names".
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from ai8x.errors import Source, user_error
from ai8x.files import remove_stale_temporaries, write_json, write_text
from ai8x.training.config import CONFIG_FORMAT, TrainConfig, convert_value
from ai8x.training.settings_file import read_settings

LAST, BEST = "checkpoint", "best"
DIAGNOSTIC = "diagnostic"
"""Kind of the checkpoint of a moment at which the loss was not finite."""

SUFFIX = ".pth.tar"
METRIC_COLUMNS = ("epoch", "phase", "train_loss", "train_top1", "validation_loss", "validation_top1",
                  "validation_top5", "learning_rate")
_CONFIG_NAME = "config.yaml"
_LOCK_NAME = "run.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """Paths of one run.

    Args:
        path: the folder.
        prefix: of the checkpoints' names (``--name``), without its underscore.
    """

    path: Path
    prefix: str = ""

    def checkpoint(self, kind: str, *, qat: bool) -> Path:
        """Path of the last (`LAST`) or best (`BEST`) checkpoint of the float or the quantised phase."""
        parts = [part for part in (self.prefix, "qat" if qat else "", kind) if part]
        return self.path / ("_".join(parts) + SUFFIX)

    @property
    def newest_checkpoint(self) -> Path:
        """Where `--resume` goes on.

        Raises:
            UserError: E0617 where the run stopped before its first checkpoint.
        """
        for qat in (True, False):
            path = self.checkpoint(LAST, qat=qat)
            if path.is_file():
                return path
        raise user_error("E0617", "the run has no checkpoint to go on from", source=Source(file=str(self.path)),
                         help="start it again without --resume")

    @property
    def log(self) -> Path:
        """The text log."""
        return self.path / "log.txt"

    @property
    def tensorboard(self) -> Path:
        """Folder of the TensorBoard files."""
        return self.path / "tensorboard"

    @property
    def metrics(self) -> Path:
        """One line per epoch; equal runs give equal bytes."""
        return self.path / "metrics.csv"

    def write_description(self, config: TrainConfig, environment: Mapping[str, Any]) -> None:
        """``config.yaml`` and ``environment.json``."""
        write_text(self.path / _CONFIG_NAME, yaml.safe_dump(config.to_mapping(), sort_keys=False))
        write_json(self.path / "environment.json", environment)

    def write_metrics(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """The whole table anew, so that an interrupted epoch never leaves half a line or a double one.

        Args:
            rows: all with the same columns; `METRIC_COLUMNS` for classification.
        """
        rows = list(rows)
        columns = list(rows[0]) if rows else list(METRIC_COLUMNS)
        lines = [",".join(columns)]
        lines += [",".join(str(row[column]) for column in columns) for row in rows]
        write_text(self.metrics, "\n".join(lines) + "\n")


def create_run_folder(config: TrainConfig) -> RunFolder:
    """A new folder ``DATE_TIME_DATASET_MODEL`` below ``--out-dir``, with ``--name`` in front.

    Raises:
        UserError: E0618 where it cannot be made.
    """
    stamp = time.strftime("%Y-%m-%d_%H%M%S")
    base = "_".join(part for part in (config.name or "", stamp, config.dataset, config.arch) if part)
    root = Path(config.out_dir)
    try:
        root.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = root / (base if number == 1 else f"{base}-{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return RunFolder(path=path, prefix=config.name or "")
            number += 1
    except OSError as error:
        raise user_error("E0618", "the run folder cannot be made", source=Source(file=str(root)),
                         found=error.strerror or str(error), help="choose another place with --out-dir DIR") from error


def copy_run(run: RunFolder, target: Path) -> Path:
    """Copy a run folder into another folder (``--copy-output-folder``).

    Raises:
        UserError: E0618 where it cannot be written.
    """
    path = target / run.path.name
    try:
        shutil.copytree(run.path, path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(_LOCK_NAME))
    except OSError as error:
        raise user_error("E0618", "the run folder cannot be copied", source=Source(file=str(path)),
                         found=str(error)[:200], help="choose another place with --copy-output-folder DIR") from error
    return path


def find_run(target: str | None, out_dir: str) -> tuple[RunFolder | None, Path]:
    """What ``--resume [RUN|FILE]`` means.

    Args:
        target: a run folder, its name below ``--out-dir``, a checkpoint, or "" for the newest run.
        out_dir: where to look.

    Returns:
        The run folder (None for a checkpoint that lies outside of one) and the checkpoint.

    Raises:
        UserError: E0617 where there is none.
    """
    if not target:
        newest = max(_runs_below(Path(out_dir)), key=lambda path: (path / _CONFIG_NAME).stat().st_mtime, default=None)
        if newest is None:
            raise user_error("E0617", "there is no run to go on with", source=Source(file=out_dir),
                             help="name one with --resume RUN, or start without --resume")
        return _open_run(newest)
    for path in (Path(target), Path(out_dir) / target):
        if path.is_dir():
            return _open_run(path)
    path = Path(target)
    if not path.is_file():
        raise user_error("E0617", "no such run or checkpoint", source=Source(file=target),
                         allowed="a run folder or a .pth.tar file", help="check the path for typing errors")
    if (path.parent / _CONFIG_NAME).is_file():
        return _open_run(path.parent)[0], path
    return None, path


def _runs_below(root: Path) -> list[Path]:
    return [path.parent for path in root.glob(f"*/{_CONFIG_NAME}")] if root.is_dir() else []


def _open_run(path: Path) -> tuple[RunFolder, Path]:
    if not (path / _CONFIG_NAME).is_file():
        raise user_error("E0617", f"the folder is no run: it has no {_CONFIG_NAME}", source=Source(file=str(path)),
                         help="name a folder that train.py made")
    saved = read_config_file(path / _CONFIG_NAME)
    run = RunFolder(path=path, prefix=saved.get("name") or "")
    return run, run.newest_checkpoint


def read_config_file(path: Path) -> dict[str, Any]:
    """The settings of a ``config.yaml``, a run's own or a user's.

    Raises:
        UserError: E01xx unreadable, E0610 and E0611 unknown keys and wrong types, E0619 a later format.
    """
    settings = read_settings(path)
    values = dict(settings.values)
    version = values.pop("format", CONFIG_FORMAT)
    if version != CONFIG_FORMAT:
        raise user_error("E0619", "the configuration was written by another version", source=settings.place("format"),
                         found=str(version), allowed=str(CONFIG_FORMAT), help="update ai8x")
    return {key: convert_value(key, value, source=settings.place(key)) for key, value in values.items()}


class RunLock:
    """Keeps a second process out of a run folder while the context lasts.

    Raises:
        UserError: E0620 while another process of this or another machine holds the folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self._path = run.path / _LOCK_NAME
        self._folder = run.path

    def __enter__(self) -> RunLock:
        if not self._create():
            self._remove_stale()
            if not self._create():
                raise self._held_error("another process")
        remove_stale_temporaries(self._folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self._path.unlink(missing_ok=True)

    def _create(self) -> bool:
        """Link a complete file to the lock's name, so that a killed process never leaves an empty lock."""
        complete = self._path.with_name(f".{_LOCK_NAME}.{os.getpid()}-{secrets.token_hex(4)}.partial")
        complete.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")
        try:
            os.link(complete, self._path)
        except FileExistsError:
            return False
        finally:
            complete.unlink()
        return True

    def _remove_stale(self) -> None:
        try:
            owner = json.loads(self._path.read_text(encoding="utf-8"))
            pid, host = int(owner["pid"]), str(owner["host"])
        except (OSError, ValueError, KeyError, TypeError):
            raise self._held_error("an unknown process") from None
        if host != socket.gethostname() or _is_running(pid):
            raise self._held_error(f"process {pid} on {host}")
        self._path.unlink(missing_ok=True)

    def _held_error(self, owner: str) -> Exception:
        return user_error("E0620", "the run folder is in use", source=Source(file=str(self._path)), found=owner,
                          help="wait for it to end; if no such process runs any more, delete this file")


def _is_running(pid: int) -> bool:
    if pid == os.getpid():  # a container gives every first process the same number; we do not hold the lock
        return False
    if os.name == "nt":  # signal 0 would end the process there
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def describe_environment(device: str) -> dict[str, Any]:
    """Versions, machine and state of the sources, for ``environment.json``."""
    import numpy
    import torch

    return {
        "python": platform.python_version(), "platform": platform.platform(), "torch": torch.__version__,
        "numpy": numpy.__version__, "device": device, "threads": torch.get_num_threads(), "cpus": os.cpu_count(),
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    git = shutil.which("git")
    folder = Path(__file__).resolve().parents[2]
    if git is None or not (folder / ".git").exists():
        return None
    answers = []
    for command in (("rev-parse", "HEAD"), ("status", "--porcelain")):
        done = subprocess.run((git, "-C", str(folder), *command), capture_output=True, text=True, check=False)  # noqa: S603
        answers.append(done.stdout.strip() if done.returncode == 0 else None)
    return {"commit": answers[0] or None, "modified": bool(answers[1])}
