"""Holding the compiled runner against the simulated kmodel: every KPU layer, and the known answer.

Start at `verify_kpu_firmware`.

Source: docs/design.md "Verification record"; spec/virtual-boards.md section 4.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from ai8x.errors import HardwareFault, UserError
from ai8x.k210.interpreter import KmodelRun
from ai8x.k210.lower import LoweredModel
from ai8x.toolchain import build_k210_project, missing_k210_tools
from ai8x.verify import Verdict
from ai8x.virtual.k210 import K210FirmwareResult, run_k210_firmware

WITNESS = "kpu_firmware"
_MISSING_LIBRARY = "E0801"


def verify_kpu_firmware(folder: Path, lowered: LoweredModel, run: KmodelRun) -> Verdict:
    """Compile the project, run it on the virtual board, compare every KPU layer and all outputs.

    The firmware itself compares the outputs with the known answer and says PASS.

    Args:
        folder: the project that `ai8x.k210.codegen.write_runner` wrote, with model and sample.
        lowered: the model, for the names of its layers.
        run: what the KPU simulator gave for the same model and sample.

    Raises:
        UserError: E0804, the project does not build.
    """
    if missing := missing_k210_tools():
        return Verdict(witness=WITNESS, skipped=missing)
    try:
        with tempfile.TemporaryDirectory(prefix="ai8x-build-") as build:
            result = run_k210_firmware(build_k210_project(folder, build_dir=Path(build)))
    except HardwareFault as fault:
        return Verdict(witness=WITNESS, difference=str(fault))
    except UserError as error:
        if error.diagnostics[0].code != _MISSING_LIBRARY:  # without the emulator nothing can be compared
            raise
        return Verdict(witness=WITNESS, skipped=error.diagnostics[0].message)
    return Verdict(witness=WITNESS, difference=_layer_difference(lowered, run, result) or _failure(result))


def _layer_difference(lowered: LoweredModel, run: KmodelRun, result: K210FirmwareResult) -> str:
    """The first KPU layer whose result is another; empty if all are equal.

    Bytes that depend on RAM which nobody wrote (cells beside single values) may be anything.
    """
    for (index, expected), found in zip(sorted(run.layers.items()), result.layers, strict=False):
        name = f"layer {index} '{lowered.steps[index].name}'"
        if found.shape != expected.shape:
            return f"{name}: the firmware computes {found.shape}, expected {expected.shape}"
        wrong = found != expected
        if index in run.undefined:
            wrong &= ~run.undefined[index]
        if wrong.any():
            channel, row, column = (int(i) for i in np.argwhere(wrong)[0])
            return (f"{name}: byte at channel {channel}, row {row}, column {column}: expected "
                    f"{expected[channel, row, column]}, the firmware computes {found[channel, row, column]}")
    return ""


def _failure(result: K210FirmwareResult) -> str:
    """Why the firmware has not passed; empty if it has."""
    if result.passed:
        return ""
    lines = [line.strip() for line in result.console.splitlines() if line.strip()]
    return f"{result.reason}; console: {' / '.join(lines[-2:]) or 'empty'}"
