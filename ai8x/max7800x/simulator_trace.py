"""Replaying a recorded bus trace: every write a firmware made, then the words that must hold.

Owns the file format and the comparison. Start reading at `run_bus_trace`.

A trace is an ``.npz`` with `address` (uint32), `size` (uint8, bytes), `value` (uint32), in order, up to completion,
and `expected`, at least one uint32 row of (address, mask, value).
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ai8x.errors import HardwareFault, Source, user_error
from ai8x.max7800x.simulator import Accelerator

_KEYS = ("address", "size", "value", "expected")
_COLUMNS = 3
_ALLOWED = "an .npz file with the arrays address, size, value and expected"
_HELP = "record the trace again"


@dataclass(frozen=True, slots=True, kw_only=True)
class BusFailure:
    """One expected word that does not hold.

    Args:
        address: of the word.
        mask: bits compared.
        expected: their values.
        found: what the memory holds under the mask.
        undefined: text naming where an undefined byte came from; empty where all compared bytes are defined.
    """

    address: int
    mask: int
    expected: int
    found: int
    undefined: str = ""

    def __str__(self) -> str:
        text = f"address {self.address:#010x}: expected {self.expected:#010x}, found {self.found:#010x}"
        text = f"{text} (mask {self.mask:#010x})"
        return f"{text}; undefined: {self.undefined}" if self.undefined else text


@dataclass(frozen=True, slots=True, kw_only=True)
class BusReport:
    """The outcome of a trace.

    Args:
        checked: expected words compared.
        runs: inferences executed.
        failures: words that do not hold.
    """

    checked: int
    runs: int
    failures: tuple[BusFailure, ...]

    @property
    def passed(self) -> bool:
        """Every expected word holds; there is at least one, and at least one run."""
        return not self.failures


def read_bus_trace(path: str | Path) -> dict[str, npt.NDArray[np.generic]]:
    """The arrays of a trace file.

    Raises:
        UserError: E0150 the file cannot be read, E0151 it is no trace, E0152 it expects nothing.
    """
    source = Source(file=str(path))
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise user_error("E0151", "the file is no bus trace", source=source, found="a single array",
                             allowed=_ALLOWED, help=_HELP)
        with content as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise user_error("E0150", "the bus trace cannot be read", source=source, found=str(error),
                         allowed=_ALLOWED, help=_HELP) from error
    _check_arrays(arrays, source)
    return arrays


def _check_arrays(arrays: Mapping[str, npt.NDArray[np.generic]], source: Source | None) -> None:
    found = ", ".join(f"{name} {array.dtype}{array.shape}" for name, array in sorted(arrays.items()))
    complete = all(name in arrays and np.issubdtype(arrays[name].dtype, np.integer) for name in _KEYS)
    if (
        not complete
        or any(arrays[name].ndim != 1 or len(arrays[name]) != len(arrays["address"]) for name in _KEYS[:-1])
        or arrays["expected"].ndim != 2
        or arrays["expected"].shape[1] != _COLUMNS
    ):
        raise user_error(
            "E0151",
            "the arrays are no bus trace",
            source=source,
            found=found or "no arrays",
            allowed="integer arrays address, size, value of equal length and expected with three columns",
            help=_HELP,
        )
    if not len(arrays["expected"]):
        raise user_error(
            "E0152",
            "the bus trace expects nothing, so that replaying it would prove nothing",
            source=source,
            found="0 rows in the array expected",
            allowed="at least one row of address, mask and value",
            help="add rows for the words that must hold after the run, such as the outputs",
        )


def run_bus_trace(trace: str | Path | Mapping[str, npt.NDArray[np.generic]], *, seed: int | None = 0) -> BusReport:
    """Feed a trace to a powered accelerator, run what it starts, and compare the expected words.

    Args:
        trace: path of the file, or its arrays.
        seed: random contents of the memories at the start.

    Returns:
        What was compared and what differs. A masked byte that holds no defined value counts as different.

    Raises:
        UserError: E0150 to E0152, as `read_bus_trace`.
        HardwareFault: the trace programs something undefined, never starts a run, or starts one that never completes.
    """
    if isinstance(trace, Mapping):
        _check_arrays(trace, None)
        arrays = dict(trace)
    else:
        arrays = read_bus_trace(trace)
    accelerator = Accelerator(seed=seed)
    runs = 0
    for address, size, value in zip(
        arrays["address"].tolist(), arrays["size"].tolist(), arrays["value"].tolist(), strict=True
    ):
        accelerator.write(address, size, value)
        if accelerator.run_requested and accelerator.input_complete:
            accelerator.complete()
            runs += 1
    if accelerator.run_requested:
        raise HardwareFault("the trace ends while a run waits for input from the FIFO")
    if not runs:
        raise HardwareFault("the trace never starts a run: CTRL.cnn_en of quadrant 0 is not set")
    failures = [
        failure
        for address, mask, value in arrays["expected"].tolist()
        if (failure := _compare(accelerator, address, mask, value)) is not None
    ]
    return BusReport(checked=len(arrays["expected"]), runs=runs, failures=tuple(failures))


def _compare(accelerator: Accelerator, address: int, mask: int, value: int) -> BusFailure | None:
    found = accelerator.peek(address, 4) & mask
    undefined = ""
    if accelerator.undefined(address) & mask:
        undefined = str(accelerator.undefined_origin(address))
    if found == value and not undefined:
        return None
    return BusFailure(address=address, mask=mask, expected=value, found=found, undefined=undefined)
