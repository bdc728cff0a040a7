"""Small inputs that trigger an error code each, for the manual's pages of errors.

An example is a network file, the shapes of a checkpoint, and a command line; `printed` runs synthesize.py on it in a
temporary folder, so that what the pages show is what the program says. Start at `EXAMPLES` and `printed`.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ai8x.checkpoint import Checkpoint, write_checkpoint
from ai8x.cli import synthesize

HEAD = "arch: example\ndataset: noise\nlayers:\n"
"""The first lines of every example's network file, where it does not give the whole file."""

CONV = """\
- op: conv2d
  kernel_size: 3x3
  pad: 1
"""
"""The layer of an example that is about something else."""

PLACED_CONV = CONV + """\
  processors: 0x000000000000000f
  out_offset: 0x4000
"""
"""The same with a place."""

NETWORK_FILE = "net.yaml"
CHECKPOINT_FILE = "net.safetensors"

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Input that triggers one code.

    Args:
        cause: when this happens, in a sentence.
        layers: the entries of ``layers``; each line is indented by two blanks. One convolution unless given.
        file: the whole network file instead.
        weights: layer of the checkpoint -> shape of its weights, which are all 1.
        entries: further entries of the checkpoint: name -> (shape, value).
        shape: (C, H, W) of the input.
        arguments: of synthesize.py behind the two files.
        target: of synthesize.py.
        command: the whole arguments instead.
        others: further files: name -> content.
        arch: architecture that the checkpoint names.
    """

    cause: str
    layers: str = CONV
    file: str = ""
    weights: Mapping[str, Shape] = field(default_factory=lambda: {"conv1": (4, 4, 3, 3)})
    entries: Mapping[str, tuple[Shape, float]] = field(default_factory=dict)
    shape: Shape = (4, 8, 8)
    arguments: tuple[str, ...] = ()
    target: str = "max78000"
    command: tuple[str, ...] = ()
    others: Mapping[str, bytes] = field(default_factory=dict)
    arch: str = "example"

    @property
    def text(self) -> str:
        """The network file."""
        lines = "".join(f"  {line}\n" for line in self.layers.splitlines())
        return self.file or HEAD + lines

    @property
    def words(self) -> tuple[str, ...]:
        """The arguments of synthesize.py."""
        return self.command or (NETWORK_FILE, CHECKPOINT_FILE, "--target", self.target, *self.arguments)

    @property
    def state(self) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
        """The parameters of the checkpoint."""
        arrays = {f"{name}.op.weight": np.ones(shape, np.float32) for name, shape in self.weights.items()}
        return arrays | {name: np.full(shape, value, np.float32) for name, (shape, value) in self.entries.items()}


def printed(example: Example) -> str:
    """What synthesize.py prints on standard error for the example; the paths in it are relative."""
    with tempfile.TemporaryDirectory(prefix="ai8x-example-") as folder, contextlib.chdir(folder):
        Path(NETWORK_FILE).write_text(example.text, encoding="utf-8")
        if example.state:
            write_checkpoint(Path(CHECKPOINT_FILE), Checkpoint(
                state=example.state, arch=example.arch, input_shape=example.shape))
        for name, content in example.others.items():
            Path(name).write_bytes(content)
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            synthesize.main([*example.words, "--no-verify"])
    return errors.getvalue().rstrip("\n")


def npy_bytes(array: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> bytes:
    """A file that numpy.load reads."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
