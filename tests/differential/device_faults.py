"""Faults of the chip's table: one entry changed at a time. Start at `run_device_faults`.

Lowering and simulator share the table, so they cannot witness against each other; projects recorded from the vendor's
firmware (``tests/golden/max78000``) can: they are replayed on the simulator, and lowered again and compared with the
recorded writes. For bits that no recording sets there are the tables that the specification prints
(``tests/max7800x/printed_tables.py``). Where these notice nothing, drawn networks that a sound table lowered decide
whether the fault has any effect. A change that the register types refuse is no fault: nothing could be imported. A
faulty table must be there before anything copies from it, so every fault lives in a process of its own that
has imported nothing of the package but the table: this module must not import more.

Run as a module it is that process: ``python -m tests.differential.device_faults JUDGE.pickle SEED COUNT``.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ai8x.max7800x import device
from ai8x.registers import Register, RegisterBlock, RegisterError

if TYPE_CHECKING:
    from .faults import Score, Subject

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests" / "golden" / "max78000"
BLOCKS = ("quadrant", "fifo", "aod")
SETTINGS = ("sram_setting", "fifo_setting")
NOT_ON_THE_BUS = ("gcfr_base", "gcr_base", "fast_fifo_base", "window_base")
"""Entries that belong to the chip around the accelerator, or to the fast FIFO; the recordings have neither."""

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFault:
    """One changed entry.

    Args:
        block: attribute of the chip's record: a register block, "geometry" or a setting.
        entry: register, or attribute of the geometry; empty for a setting.
        field: field of the register; empty for its offset.
        edge: "low" or "high" for a field.
        change: what is added; for a setting, the bits that are inverted.
    """

    block: str
    entry: str = ""
    field: str = ""
    edge: str = ""
    change: int = 0

    def __str__(self) -> str:
        place = " ".join(part for part in (self.block, self.entry, self.field, self.edge) if part)
        return f"{place} {self.change:+#x}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judge:
    """A drawn network that a sound table lowered and ran.

    Args:
        writes: to the bus, up to the end of the first inference.
        memory: every data word afterwards: address -> (defined bits, their value).
    """

    writes: list[tuple[int, int, int]]
    memory: dict[int, tuple[int, int]]


def all_faults() -> tuple[TableFault, ...]:
    """Every fault there is, in the order of the table; those that the register types refuse are none."""
    return tuple(fault for faults in (_register_faults(), _geometry_faults(), _setting_faults()) for fault in faults
                 if not is_refused(fault))


def is_refused(fault: TableFault) -> bool:
    """Whether the types of the table refuse the entry, so that the module could not even be imported."""
    try:
        changed_chip(fault)
    except RegisterError:
        return True
    return False


def _register_faults() -> Iterator[TableFault]:
    for block in BLOCKS:
        registers: RegisterBlock = getattr(device.MAX78000, block)
        for register in registers.registers:
            for change in (-4, 4):
                yield TableFault(block=block, entry=register.name, change=change)
            for field in register.fields:
                for edge in ("low", "high"):
                    for change in (-1, 1):
                        yield TableFault(block=block, entry=register.name, field=field.name, edge=edge, change=change)


def _geometry_faults() -> Iterator[TableFault]:
    for item in fields(device.Geometry):
        if item.name not in NOT_ON_THE_BUS and item.name.endswith(("_base", "_stride", "_span", "_shift")):
            for change in (1, -1) if item.name.endswith("_shift") else (-4, 4, 0x4000):
                yield TableFault(block="geometry", entry=item.name, change=change)


def _setting_faults() -> Iterator[TableFault]:
    for name in SETTINGS:
        for bit in range(12):
            yield TableFault(block=name, change=1 << bit)


def draw_faults(seed: int, count: int) -> tuple[TableFault, ...]:
    """Some of `all_faults`, without repetition as long as there are enough."""
    every = all_faults()
    rng = np.random.default_rng([seed, len(every)])
    return tuple(every[int(i)] for i in rng.choice(len(every), count, replace=count > len(every)))


def plant(fault: TableFault) -> None:
    """Change the table of this process for good."""
    device.MAX78000 = changed_chip(fault)
    if fault.block in BLOCKS:
        setattr(device, fault.entry, getattr(device.MAX78000, fault.block).register(fault.entry))


def changed_chip(fault: TableFault) -> device.Max7800x:
    """The chip's record with one changed entry.

    Raises:
        RegisterError: the types of the table refuse the entry.
    """
    chip = device.MAX78000
    entry: Any
    if fault.block == "geometry":
        entry = _with(chip.geometry, fault.entry, getattr(chip.geometry, fault.entry) + fault.change)
    elif not fault.entry:
        entry = getattr(chip, fault.block) ^ fault.change
    else:
        block: RegisterBlock = getattr(chip, fault.block)
        old = block.register(fault.entry)
        new = _changed(old, fault)
        entry = replace(block, registers=tuple(new if register is old else register for register in block.registers))
    return _with(chip, fault.block, entry)


def _with(record: Record, attribute: str, value: Any) -> Record:
    """A copy of a dataclass with another value of the attribute of that name."""
    return replace(record, **{attribute: value})  # type: ignore[type-var]  # bound to dataclasses, which has no name


def _changed(register: Register, fault: TableFault) -> Register:
    if not fault.field:
        return replace(register, offset=register.offset + fault.change)
    field = register.field(fault.field)
    changed = _with(field, fault.edge, getattr(field, fault.edge) + fault.change)
    if changed.low < 0:
        raise RegisterError(f"{register.name}.{field.name}: bit {changed.low}")
    return replace(register, fields=tuple(changed if item is field else item for item in register.fields))


# --- in the process with the faulty table -------------------------------------------------------------------------


def _caught_by_recordings() -> str:
    """What notices the planted fault; empty if nothing does."""
    from ai8x.errors import HardwareFault, UserError

    try:
        return next((name for case in recorded_cases()
                     for name, differs in (("replay", _replay_differs), ("lowering", _lowering_differs))
                     if differs(case)), "")
    except (HardwareFault, UserError, ValueError, LookupError, ArithmeticError) as error:
        return type(error).__name__


def recorded_cases() -> tuple[Path, ...]:
    """Folders with a network, its parameters, and every write of its firmware."""
    return tuple(sorted(path for path in RECORDED.iterdir() if path.is_dir()))


def _replay_differs(case: Path) -> bool:
    from ai8x.max7800x.simulator_trace import run_bus_trace

    return not run_bus_trace(case / "bus.npz").passed


def _lowering_differs(case: Path) -> bool:
    """Whether our own program leaves another word anywhere on the accelerator than the recorded firmware."""
    with np.load(case / "bus.npz") as bus:
        recorded = dict(zip(bus["address"].tolist(), bus["value"].tolist(), strict=True))
    found = {address: value for address, _, value in lowered_writes(case)}
    return any(recorded.get(address, 0) != found.get(address, 0) for address in recorded.keys() | found.keys())


def lowered_writes(case: Path) -> list[tuple[int, int, int]]:
    """The bus writes of our own program for a recorded network."""
    from ai8x.max7800x.geometry import hardware_layers
    from ai8x.max7800x.kernels import plan_kernels
    from ai8x.max7800x.lower import LoweringPlan, lower_network
    from ai8x.max7800x.placement import PlacementOptions, place_network
    from ai8x.network.build import build_network
    from ai8x.network.ir import TensorShape
    from ai8x.network.reference import run_network
    from ai8x.network.weights import parameters_from_state
    from ai8x.network.yaml_file import read_network_file

    file = read_network_file(case / "net.yaml")
    with np.load(case / "case.npz") as arrays:
        state = {name[2:]: arrays[name].astype(np.float32) for name in arrays.files if name.startswith("w:")}
        sample = arrays["sample"]
    channels, height, width = sample.shape if sample.ndim == 3 else (*sample.shape, 1)
    shape = TensorShape(channels, height, width)
    network = build_network(file, parameters_from_state(state), shape)
    uses_fifo = (case / "options").is_file() and "--fifo" in (case / "options").read_text().split()
    placement = place_network(network, file.hints, device.MAX78000, PlacementOptions(fifo=uses_fifo))
    layers = hardware_layers(network, placement, device.MAX78000)
    plan = LoweringPlan(device=device.MAX78000, layers=layers, placement=placement,
                        kernels=plan_kernels(layers, device.MAX78000))
    sample = sample.reshape(shape.as_tuple())
    return list(lower_network(network, plan, sample, run_network(network, sample)).bus_writes(acknowledge=False))


def has_effect(judges: Sequence[Judge]) -> bool:
    """Whether any drawn network that a sound table recorded now leaves something else in memory, or runs no more."""
    return any(_leaves_other_words(judge) for judge in judges)


def _leaves_other_words(judge: Judge) -> bool:
    from ai8x.errors import HardwareFault
    from ai8x.max7800x.simulator import Accelerator

    accelerator = Accelerator(seed=0)
    try:
        for address, size, value in judge.writes:
            accelerator.write(address, size, value)
        accelerator.complete()
        return any(accelerator.undefined(address) & mask or accelerator.peek(address, 4) & mask != value
                   for address, (mask, value) in judge.memory.items())
    except HardwareFault:
        return True


def _examine(fault: TableFault, judges: Sequence[Judge]) -> dict[str, Any]:
    from tests.max7800x.printed_tables import table_differences

    plant(fault)
    if caught := _caught_by_recordings():
        return {"place": str(fault), "caught": caught, "has_effect": True}
    printed = "printed tables" if table_differences(device.MAX78000) else ""
    return {"place": str(fault), "caught": printed, "has_effect": has_effect(judges)}


def examine_all(judges_file: str, seed: int, count: int) -> None:
    """Examine each fault in a child process and print one line of JSON for it."""
    judges = pickle.loads(Path(judges_file).read_bytes())  # written by `run_device_faults` a moment ago
    for fault in draw_faults(seed, count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                print(json.dumps(_examine(fault, judges)), flush=True)
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"the process for '{fault}' failed")


# --- in the calling process ---------------------------------------------------------------------------------------


def run_device_faults(seed: int, count: int, among: Sequence[Subject]) -> Score:
    """Examine that many faults of the table.

    Args:
        seed: chooses the faults.
        count: how many.
        among: networks that decide whether a fault that nothing noticed has an effect.
    """
    from .faults import Finding, Score

    with tempfile.TemporaryDirectory(prefix="ai8x-faults-") as folder:
        judges = Path(folder) / "judges.pickle"
        judges.write_bytes(pickle.dumps([judge_of(subject) for subject in among]))
        command = [sys.executable, "-m", "tests.differential.device_faults", str(judges), str(seed), str(count)]
        output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Score(findings=tuple(Finding(**json.loads(line)) for line in output.splitlines()))


def judge_of(subject: Subject) -> Judge:
    """What a network writes to the bus and leaves in memory."""
    return Judge(writes=list(subject.program.bus_writes(acknowledge=False)), memory=subject.memory)


if __name__ == "__main__":
    from tests.differential import device_faults  # the pickled judges name this module, not __main__

    device_faults.examine_all(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
