"""A generated project with what it was generated from, and its execution on the virtual board."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ai8x.errors import HardwareFault
from ai8x.max7800x.lower import LoweringPlan, lower_network
from ai8x.max7800x.program import Program
from ai8x.max7800x.simulator import Accelerator
from ai8x.network.ir import Network
from ai8x.network.reference import Trace
from ai8x.synthesis import SynthesisOptions, read_inputs
from ai8x.synthesis_max78000 import inference_cycles, plan_network
from ai8x.toolchain import build_project
from ai8x.verify_max78000 import layer_tensor
from ai8x.virtual.max78000 import FirmwareResult, run_firmware

from .digitsnet import NETWORK_FILE

Write = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A network on its way to firmware."""

    network: Network
    sample: np.ndarray
    trace: Trace
    plan: LoweringPlan
    program: Program
    folder: Path
    """The C project."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What a firmware did: its own verdict, or the fault of the hardware that ended it."""

    result: FirmwareResult | None
    fault: str
    accelerator: Accelerator
    writes: tuple[Write, ...]

    @property
    def passed(self) -> bool:
        """main returned, and the console says PASS."""
        return self.result is not None and self.result.passed

    @property
    def failed_by_itself(self) -> bool:
        """The firmware's own comparison found the difference."""
        return self.result is not None and not self.passed and "FAIL" in self.result.console

    @property
    def summary(self) -> str:
        """For messages."""
        return self.fault or (self.result.reason if self.result else "")


def lower(checkpoint: Path, folder: Path) -> Subject:
    """The bundled digits network with a checkpoint, lowered for the MAX78000; no file is written."""
    options = SynthesisOptions(network=NETWORK_FILE, checkpoint=checkpoint, out=folder.parent, targets=("max78000",))
    inputs = read_inputs(options)
    plan, _ = plan_network(inputs, options)
    program = lower_network(inputs.network, plan, inputs.sample.values, inputs.trace)
    return Subject(network=inputs.network, sample=inputs.sample.values, trace=inputs.trace, plan=plan,
                   program=program, folder=folder)


def execute(elf: Path, *, seed: int = 1, budget: int = 20_000_000) -> Outcome:
    """Run a firmware file; a hardware fault is an outcome."""
    accelerator = Accelerator(seed=seed, powered=False)
    writes: list[Write] = []
    try:
        result = run_firmware(elf, accelerator, lambda: inference_cycles(accelerator), budget=budget,
                              on_bus_write=lambda *write: writes.append(write))
    except HardwareFault as fault:
        return Outcome(result=None, fault=str(fault), accelerator=accelerator, writes=tuple(writes))
    return Outcome(result=result, fault="", accelerator=accelerator, writes=tuple(writes))


def logits(subject: Subject, accelerator: Accelerator) -> np.ndarray:
    """The last layer's values in the accelerator's memory."""
    last = subject.plan.layers[-1]
    return layer_tensor(last, accelerator.layer_output(last.index))[0]


class FaultBench:
    """A copy of a project in which one file at a time is changed; only what depends on it is compiled again."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self._project = folder / "project"
        self._build = folder / "build"
        shutil.copytree(subject.folder, self._project)

    def run(self, file: str, change: Callable[[str], str]) -> Outcome:
        """Build and run with the file's text changed; the text is put back afterwards."""
        path = self._project / file
        original = path.read_text()
        changed = change(original)
        assert changed != original
        path.write_text(changed)
        try:
            return self.run_unchanged()
        finally:
            path.write_text(original)

    def run_unchanged(self) -> Outcome:
        """Build and run the project as it is."""
        (self._build / "cnn.o").unlink(missing_ok=True)  # whatever the clock's resolution
        return execute(build_project(self._project, build_dir=self._build))
