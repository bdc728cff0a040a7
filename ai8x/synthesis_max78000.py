"""The MAX78000's stages: place, check, lower, generate, verify with the simulator and with machine code.

Start at `synthesize_max78000`.

Source: docs/design.md "One pass through everything"; spec/virtual-boards.md section 5.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import Diagnostic, HardwareFault, UserError, user_error
from ai8x.max7800x.codegen import write_project
from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.cycles import network_cycles, work_from_geometry
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.kernels import plan_kernels
from ai8x.max7800x.lower import LoweringPlan, lower_network
from ai8x.max7800x.lower_data import OutputRegion, store_few_words, unload_regions
from ai8x.max7800x.options import ENERGY_RUNS, Core, ProjectOptions, check_options
from ai8x.max7800x.placement import BufferPlacement, Placement, PlacementOptions, place_network
from ai8x.max7800x.planner import PLANNER_NOTICES, plan_placement
from ai8x.max7800x.program import Program
from ai8x.max7800x.simulator import Accelerator
from ai8x.network.description import NetworkDescription
from ai8x.network.ir import NETWORK_INPUT, Network
from ai8x.network.reference import Trace, run_network
from ai8x.network.yaml_file import DataBuffer, LayerEntry
from ai8x.report import ChipReport
from ai8x.report_max78000 import chip_report
from ai8x.synthesis import TARGET_WITNESSES, Announce, Inputs, SynthesisOptions, TargetResult
from ai8x.synthesis_description import completed_description
from ai8x.synthesis_flash import check_tables, explain_overflow
from ai8x.toolchain import RISCV, FirmwareTooLarge, build_project, missing_tools
from ai8x.verify import Verdict
from ai8x.verify_max78000 import SEEDS, compare_layers, run_samples, verify_simulator
from ai8x.virtual.max78000 import run_firmware


def synthesize_max78000(inputs: Inputs, options: SynthesisOptions, folder: Path, announce: Announce) -> TargetResult:
    """Everything for this target.

    Args:
        inputs: network and sample.
        options: what to do.
        folder: receives the project; does not exist yet.
        announce: told about progress.

    Raises:
        UserError: the network does not fit the chip.
        RepeatSmaller: it does with a smaller sample, known answer or output buffer.
    """
    project = options.max78000
    check_options(project)
    announce("max78000: placing and checking")
    completed = complete_placement(inputs, options)
    inputs, options = completed.inputs, completed.options
    project = options.max78000
    plan, messages = plan_network(inputs, options)
    network = cut_network(inputs.network, project.stop_after)
    lowering = replace(project.lower, unload=_unload_regions(inputs, project))
    program = lower_network(network, plan, inputs.sample.values, inputs.trace, lowering)
    if project.synthetic_input is not None:
        program = store_few_words(program, plan.layers[network.consumers(NETWORK_INPUT)[0]], inputs.sample.values,
                                  project.synthetic_input)
    check_tables(program, network.input_shape.channels, options)
    announce("max78000: writing the C project")
    folder.mkdir()
    write_project(program, network, folder, project.code)
    files = {path.relative_to(folder).as_posix(): path.stat().st_size
             for path in sorted(folder.rglob("*")) if path.is_file()}
    subject = Subject(network=network, plan=plan, program=program, inputs=inputs, folder=folder, options=project)
    try:
        verdicts = _verify(subject, announce) if options.verify else _unverified()
    except FirmwareTooLarge as error:
        raise explain_overflow(error, program, network.input_shape.channels, options) from error

    def run_outputs(samples: NDArray[Any]) -> NDArray[np.int64]:
        return np.stack(list(run_samples(plan.device, program, plan.layers, samples)))

    chip = completed.with_file_numbers(chip_report(network, plan, files, project))
    # A network that was cut has no classes to count.
    return TargetResult(verdicts=verdicts, chip=chip, messages=(*completed.notices, *messages),
                        run_outputs=run_outputs if project.stop_after is None else None,
                        description=completed.description)


def analyze_max78000(inputs: Inputs, options: SynthesisOptions, folder: Path, announce: Announce) -> TargetResult:
    """What the network would cost on this target; nothing is generated.

    Args:
        inputs: network and sample; no trace is needed.
        options: what to do.
        folder: is not made.
        announce: told about progress.

    Raises:
        UserError: the network does not fit the chip.
    """
    del folder
    check_options(options.max78000)
    announce("max78000: placing and checking")
    completed = complete_placement(inputs, options)
    plan, messages = plan_network(completed.inputs, completed.options)
    network = cut_network(completed.inputs.network, completed.options.max78000.stop_after)
    chip = completed.with_file_numbers(chip_report(network, plan, {}, completed.options.max78000))
    return TargetResult(verdicts=_unverified("--analyze"), chip=chip, messages=(*completed.notices, *messages),
                        description=completed.description)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A generated project under verification.

    Args:
        network, plan, program, inputs: what the project was generated from.
        folder: the project.
        options: how.
    """

    network: Network
    plan: LoweringPlan
    program: Program
    inputs: Inputs
    folder: Path
    options: ProjectOptions

    def trace_of(self, inference: int) -> Trace:
        """The reference of the sample's n-th inference in a row, counted from 1; without state they are all equal."""
        trace = self.inputs.trace
        if self.inputs.network.buffer is not None:
            for _ in range(inference - 1):
                trace = run_network(self.inputs.network, self.inputs.sample.values, buffer=trace.buffer)
        return trace


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CompletedPlacement:
    """Inputs whose placement leaves nothing open.

    Args:
        inputs: the network has helper layers where operands need a copy, hints are complete, the trace covers helpers.
        options: with layer numbers of that network.
        notices: what the planner reports.
        served: by layer of that network, the file's layer that it computes or helps.
        description: the network file with the planned placement; None where the file's own was complete.
    """

    inputs: Inputs
    options: SynthesisOptions
    notices: tuple[Diagnostic, ...] = ()
    served: tuple[int, ...] = ()
    description: NetworkDescription | None = None

    def with_file_numbers(self, chip: ChipReport) -> ChipReport:
        """The report with the file's layer numbers; a helper counts to the layer that reads its copy."""
        if not self.served:
            return chip
        return replace(chip, layers=tuple(replace(row, index=self.served[row.index]) for row in chip.layers))


def complete_placement(inputs: Inputs, options: SynthesisOptions) -> CompletedPlacement:
    """Plan what the file's placement leaves open; a complete file comes back as it is.

    Raises:
        UserError: the network does not fit, or the file's placement cannot be kept.
    """
    project, file = options.max78000, inputs.file
    cut_network(inputs.network, project.stop_after)
    if project.stop_after is not None and all(hint.processors is not None for hint in file.hints):
        return CompletedPlacement(inputs=inputs, options=options)  # what lies behind the cut need not be right
    planned = plan_placement(inputs.network, file.hints, MAX78000, _placement_options(inputs, project),
                             deduplicate=project.deduplicate)
    if planned.summary is None:
        return CompletedPlacement(inputs=inputs, options=options)
    entries = [file.layers[0 if number is None else number] for number in planned.file_index]
    layers = tuple(
        replace(entry, hint=hint, position=index) if number is not None
        else LayerEntry(position=index, sequence=index, source=hint.source or entry.source, hint=hint)
        for index, (entry, hint, number) in enumerate(zip(entries, planned.hints, planned.file_index, strict=True)))
    # An analysis has no trace.
    trace = planned.expand_trace(inputs.trace, inputs.sample.values) if inputs.trace else inputs.trace
    completed = replace(inputs, network=planned.network, file=replace(file, layers=layers), trace=trace)
    if project.stop_after is not None:
        options = replace(options, max78000=replace(project, stop_after=planned.planned_index(project.stop_after)))
    notices = tuple(finding for finding in planned.diagnostics.items if finding.code in PLANNER_NOTICES)
    given = options.network if isinstance(options.network, NetworkDescription) else None
    return CompletedPlacement(inputs=completed, options=options, notices=notices, served=planned.served_layers,
                              description=completed_description(file, planned, given))


def _placement_options(inputs: Inputs, project: ProjectOptions) -> PlacementOptions:
    file = inputs.file
    return PlacementOptions(
        fifo=project.fifo, fast_fifo=project.fast_fifo, quad=project.quad, ignore_streaming=project.ignore_streaming,
        output_map=file.output_map, output_map_source=file.sources.get("output_map"),
        buffer=_buffer_placement(file.data_buffer))


def plan_network(inputs: Inputs, options: SynthesisOptions) -> tuple[LoweringPlan, tuple[Diagnostic, ...]]:
    """Placement, weight memory and their checks.

    Returns:
        The plan, and the warnings and notices of the checks.

    Raises:
        UserError: every error found, together.
    """
    project = options.max78000
    placement: Placement = place_network(inputs.network, inputs.file.hints, MAX78000,
                                         _placement_options(inputs, project))
    network = cut_network(inputs.network, project.stop_after)
    placement = replace(placement, layers=placement.layers[:len(network.layers)])
    diagnostics = check_network(network, placement, MAX78000, deduplicate=project.deduplicate)
    diagnostics.raise_if_errors()
    layers = hardware_layers(network, placement, MAX78000)
    kernels = plan_kernels(layers, MAX78000, deduplicate=project.deduplicate)
    return LoweringPlan(device=MAX78000, layers=layers, placement=placement, kernels=kernels), diagnostics.items


def _buffer_placement(buffer: DataBuffer | None) -> BufferPlacement | None:
    if buffer is None:
        return None
    return BufferPlacement(processors=buffer.processors, offset=buffer.offset, source=buffer.source)


def cut_network(network: Network, last: int | None) -> Network:
    """The network up to a layer, whose output becomes the result.

    Args:
        network: the whole network.
        last: index of the last layer; None for the whole network.

    Raises:
        UserError: E0398, there is no such layer.
    """
    if last is None or last == len(network.layers) - 1:
        return network
    if not 0 <= last < len(network.layers):
        raise user_error("E0398", f"there is no layer {last} to stop after", found=f"--stop-after {last}",
                         allowed=f"0 to {len(network.layers) - 1}", help="write the index of a layer")
    return replace(network, layers=network.layers[:last + 1], outputs=(last,), labels=())


def _unload_regions(inputs: Inputs, project: ProjectOptions) -> tuple[OutputRegion, ...]:
    """What the network file says about unloading; it describes the whole network only."""
    if project.stop_after is not None:
        return ()
    return unload_regions(inputs.file.unload, MAX78000)


def _verify(subject: Subject, announce: Announce) -> tuple[Verdict, ...]:
    announce("max78000: running the register program on the simulator")
    simulator = verify_simulator(subject.network, subject.plan.layers, subject.program, subject.trace_of(1),
                                 subject.trace_of(2))
    return simulator, verify_firmware(subject, announce)


def _unverified(reason: str = "--no-verify") -> tuple[Verdict, ...]:
    return tuple(Verdict(witness=witness, skipped=reason) for witness in TARGET_WITNESSES["max78000"])


def verify_firmware(subject: Subject, announce: Announce) -> Verdict:
    """Compile the project, run it on the virtual board, compare the bus traffic and every layer.

    A project for both cores is built only: there is no emulator of the RISC-V core. Firmware that never ends is not
    run either.

    Args:
        subject: the project.
        announce: told about progress.
    """
    witness, program = "firmware", subject.program
    if (skipped := _not_run(subject, announce)) is not None:
        return skipped
    announce("max78000: compiling the project and running it on the virtual board")
    accelerator = Accelerator(seed=SEEDS[0], powered=False)
    writes: list[tuple[int, int, int]] = []
    try:
        with tempfile.TemporaryDirectory(prefix="ai8x-build-") as build:
            elf = build_project(subject.folder, build_dir=Path(build))
            result = run_firmware(elf, accelerator, lambda: inference_cycles(accelerator),
                                  on_bus_write=lambda *write: writes.append(write))
    except HardwareFault as fault:
        return Verdict(witness=witness, difference=str(fault))
    except UserError as error:
        if error.diagnostics[0].code != "E0801":  # without the emulator's libraries nothing can be compared
            raise
        return Verdict(witness=witness, skipped=error.diagnostics[0].message)
    if not result.passed:
        return Verdict(witness=witness, difference=f"{result.reason}; console: {last_line(result.console)}")
    expected = list(program.bus_writes())
    if writes[:len(expected)] != expected:
        return Verdict(witness=witness, difference=first_write_difference(expected, writes))
    trace = subject.trace_of(ENERGY_RUNS if subject.options.code.energy else 1)
    return compare_layers(witness, subject.network, subject.plan.layers, accelerator, trace)


def _not_run(subject: Subject, announce: Announce) -> Verdict | None:
    """The verdict where firmware cannot be run: no tools, or built only; None where it can."""
    code = subject.options.code
    two_cores = code.core is Core.RISCV
    if missing := missing_tools() or (missing_tools(RISCV) if two_cores else ""):
        return Verdict(witness="firmware", skipped=missing)
    if not (two_cores or code.forever):
        return None
    reason = "no emulator of the RISC-V core" if two_cores else "--forever has no end"
    announce("max78000: compiling the project")
    with tempfile.TemporaryDirectory(prefix="ai8x-build-") as build:
        build_project(subject.folder, build_dir=Path(build))
    return Verdict(witness="firmware", skipped=f"built, not run: {reason}")


def inference_cycles(accelerator: Accelerator) -> int:
    """Clock cycles of the network that the simulator's registers describe."""
    return network_cycles(work_from_geometry(geometry) for geometry in accelerator.layer_geometry())


def first_write_difference(expected: list[tuple[int, int, int]], found: list[tuple[int, int, int]]) -> str:
    """Where the compiled firmware's bus writes leave the program's, in words."""
    for position, (want, have) in enumerate(zip(expected, found, strict=False)):
        if want != have:
            return (f"bus write {position}: the program has {want[0]:#010x} = {want[2]:#x}, "
                    f"the firmware wrote {have[0]:#010x} = {have[2]:#x}")
    return f"the firmware made {len(found)} bus writes, the program has {len(expected)}"


def last_line(console: str) -> str:
    """The last line with text on a console."""
    lines = [line.strip() for line in console.splitlines() if line.strip()]
    return repr(lines[-1]) if lines else "empty"
