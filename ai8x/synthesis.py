"""From a network description and a checkpoint to verified projects for both chips.

The stages in order: read, build, run the reference; for each target place, lower, generate, verify; report; publish
the output folder as a whole. Every stage takes what the one before returned. Start at `synthesize`.

Source: docs/design.md "One pass through everything".
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ai8x import __version__
from ai8x.checkpoint import Checkpoint, read_checkpoint
from ai8x.errors import Diagnostic, Diagnostics, ExitStatus, Source, UserError, user_error
from ai8x.files import atomic_write, check_replaceable, digest, npz_bytes, output_folder, write_json, write_text
from ai8x.k210.forms import EXACT_FORMS, Forms
from ai8x.max7800x.options import DEFAULT_PROJECT, ProjectOptions, plain_options
from ai8x.network.build import build_network
from ai8x.network.description import NetworkDescription
from ai8x.network.ir import Network
from ai8x.network.reference import Trace, run_network
from ai8x.network.weights import parameters_from_state
from ai8x.network.yaml_file import NetworkFile, read_network_file
from ai8x.report import Accuracy, ChipReport, Report, to_json
from ai8x.report_html import render_html
from ai8x.report_network import layer_rows
from ai8x.sample import Sample, array_sample, find_sample, repeat_words, sample_shape_error
from ai8x.synthesis_flash import RepeatSmaller
from ai8x.synthesis_float import float_errors
from ai8x.synthesis_refusal import TITLES, TargetRefused, refused_chip, report_refusal, run_stage
from ai8x.verify import Verdict

TARGETS = ("max78000", "k210")
"""What ``--target`` accepts, besides ``all``."""

WITNESSES = ("reference", "simulator", "firmware", "kmodel", "kpu_firmware")
"""Executors of the verification record (docs/design.md)."""

TARGET_WITNESSES: Mapping[str, tuple[str, ...]] = {"max78000": ("simulator", "firmware"),
                                                   "k210": ("kmodel", "kpu_firmware")}
"""Target -> its executors."""

DESCRIPTION_NAME = "network.yaml"
"""The description with the planned placement, in the output folder."""

Announce = Callable[[str], None]
"""Told what is being done, one short line at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisOptions:
    """What to do.

    Args:
        network: YAML description, as a file or as made from a model.
        checkpoint: quantised checkpoint, as a file or as read.
        out: output folder; created whole, or replaced if everything in it is ours.
        targets: of `TARGETS`.
        require_all: a target that refuses the network fails the run; otherwise that is a warning as long as another
            target takes it.
        sample: ``.npy`` file or an integer array (C, H, W) or (C, L); None for the checkpoint's or the data set's.
        verify: run simulators and machine code.
        analyze: report what the network would cost on each target; generate and run nothing.
        messages: about network and checkpoint, for the report.
        overwrite: replace an output folder that holds foreign files.
        average_rounded: average pooling rounds (``--avg-pool-rounding``).
        test_samples: items of the data set's test part to run on the simulators; the reference runs all of them.
        dataset: data set for that, and for the sample; empty = the one that the network file names.
        float_checkpoint: the model before it was quantised; the report then shows every layer's distance from it.
        max78000: choices for the MAX78000's project.
        k210: forms that layers may take on the K210.
    """

    network: Path | NetworkDescription
    checkpoint: Path | Checkpoint
    out: Path
    targets: tuple[str, ...] = TARGETS
    require_all: bool = False
    sample: Path | NDArray[Any] | None = None
    verify: bool = True
    analyze: bool = False
    messages: tuple[Diagnostic, ...] = ()
    overwrite: bool = False
    average_rounded: bool = False
    test_samples: int = 0
    dataset: str = ""
    float_checkpoint: Path | None = None
    max78000: ProjectOptions = DEFAULT_PROJECT
    k210: Forms = EXACT_FORMS


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What was read: the network with its parameters, and the sample with the reference's outputs.

    Args:
        file: the description; placement hints stand in ``file.layers[i].hint``.
        checkpoint: parameters and what came with them.
        network: what is computed.
        sample: the input.
        trace: the reference's output of every layer; empty for an analysis.
        messages: warnings about the files.
    """

    file: NetworkFile
    checkpoint: Checkpoint
    network: Network
    sample: Sample
    trace: Trace
    messages: tuple[Diagnostic, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetResult:
    """What one target's stages returned, for the report.

    Args:
        verdicts: of the target's witnesses.
        chip: the target's part of the report.
        messages: warnings and notices.
        run_outputs: the last layer's outputs for a batch of samples, (N, C, H, W), on the target's simulator.
        description: the network file with the placement that was planned; None where nothing was.
    """

    verdicts: tuple[Verdict, ...]
    chip: ChipReport
    messages: tuple[Diagnostic, ...] = ()
    run_outputs: Callable[[NDArray[Any]], NDArray[np.int64]] | None = None
    description: NetworkDescription | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisResult:
    """The finished run.

    Args:
        folder: where everything lies.
        report: what was found out.
        verdicts: of every witness, in order.
        messages: warnings and notices with their places.
        accuracy_differs: some test item's outputs differ between a simulator and the reference.
        unmet: an analysis found that the network fits none of the targets, or not all where all were required.
        description: what ``network.yaml`` in the folder says; None where there is no such file.
    """

    folder: Path
    report: Report
    verdicts: tuple[Verdict, ...]
    messages: tuple[Diagnostic, ...] = ()
    accuracy_differs: bool = False
    unmet: bool = False
    description: NetworkDescription | None = None

    @property
    def exit_status(self) -> ExitStatus:
        """0; 3 where an executor differs from the reference; 2 where an analysis found that what must fit does not."""
        differs = self.accuracy_differs or any(v.is_different for v in self.verdicts)
        return ExitStatus.MISMATCH if differs else ExitStatus.USER if self.unmet else ExitStatus.SUCCESS


def synthesize(options: SynthesisOptions, announce: Announce = lambda line: None) -> SynthesisResult:
    """Run every stage and publish the output folder.

    Args:
        options: what to do.
        announce: told about progress.

    Raises:
        UserError: the input is refused; nothing is written, but where a chip refuses the network itself, a report in a
            folder beside the output folder.
    """
    try:
        return _synthesize(options, announce)
    except RepeatSmaller as repeat:
        smaller = repeat
    announce(smaller.notice.message)  # repeated at most once for each option that is set
    messages = (*options.messages, smaller.notice)
    return synthesize(replace(options, max78000=smaller.project, messages=messages), announce)


def _synthesize(options: SynthesisOptions, announce: Announce) -> SynthesisResult:
    """Every stage once.

    Raises:
        UserError: as `synthesize`.
        RepeatSmaller: the MAX78000's project fits with other options.
    """
    check_replaceable(options.out, overwrite=options.overwrite)
    inputs = read_inputs(options)
    announce(f"{inputs.network.name}: {len(inputs.network.layers)} layers, sample {inputs.sample.origin}")
    try:
        with output_folder(options.out, _manifest(options), overwrite=options.overwrite) as folder:
            results = _run_targets(inputs, options, folder, announce)
            accuracy = measure_accuracy(inputs, results, options, announce) if options.test_samples else ()
            result = _conclude(inputs, options, results, accuracy)
            _write_reports(folder, inputs, result)
        return result
    except TargetRefused as refused:
        place = report_refusal(refused, _report(inputs, options, (), ()), _stage, inputs, options)
        announce(f"what does not fit: {place / 'report.html'}")
        raise


def _run_targets(inputs: Inputs, options: SynthesisOptions, folder: Path, announce: Announce
                 ) -> tuple[TargetResult, ...]:
    """Every target's stages; a refusal becomes a part of the report as long as another target takes the network.

    Raises:
        TargetRefused: a target that must take the network refuses it, or all do; never for an analysis.
    """
    results: list[TargetResult] = []
    refusals: list[TargetRefused] = []
    for target in options.targets:
        try:
            results.append(run_stage(target, _stage(target, analyze=options.analyze), inputs, options, folder / target,
                                     announce))
        except TargetRefused as refused:
            results.append(_refused_result(refused))
            if options.require_all and not options.analyze:
                raise TargetRefused(target, refused.error, chips=tuple(one.chip for one in results)) from refused
            refusals.append(refused)
            shutil.rmtree(folder / target, ignore_errors=True)  # what its stage wrote before it met the limit
    if len(refusals) == len(options.targets) and not options.analyze:
        further = tuple(finding for other in refusals[1:] for finding in other.diagnostics)
        raise TargetRefused(refusals[0].target, refusals[0].error, further, tuple(one.chip for one in results))
    return tuple(results)


def _refused_result(refused: TargetRefused) -> TargetResult:
    """What the report says about a target that refuses the network."""
    title, count = TITLES[refused.target], len(refused.diagnostics)
    headline = Diagnostic(
        code="W0468", level="warning", message=f"the network does not fit the {title}: nothing is generated for it",
        found="the finding below" if count == 1 else f"the {count} findings below",
        allowed="a network that each target takes", help="write --target all to make this an error")
    verdicts = tuple(Verdict(witness=witness, skipped=f"the network does not fit the {title}")
                     for witness in TARGET_WITNESSES[refused.target])
    return TargetResult(verdicts=verdicts, chip=refused_chip(refused.target, refused.error),
                        messages=(headline, *refused.diagnostics))


def read_inputs(options: SynthesisOptions) -> Inputs:
    """Read description, checkpoint and sample, and run the reference.

    Raises:
        UserError: a file is missing, damaged, or does not suit the others.
    """
    given, stored = options.network, options.checkpoint
    file = given.network_file() if isinstance(given, NetworkDescription) else read_network_file(given)
    checkpoint = stored if isinstance(stored, Checkpoint) else read_checkpoint(stored, training=False)
    if options.test_samples:
        _check_dataset(options, file)
    warnings = Diagnostics()
    name = checkpoint.file or "checkpoint" if isinstance(stored, Checkpoint) else str(stored)
    parameters = parameters_from_state(checkpoint.state, file=name, warnings=warnings)
    sample = _sample(options, checkpoint, file.dataset)
    if options.max78000.synthetic_input is not None:
        synthetic = options.max78000.synthetic_input
        sample = repeat_words(sample, words=synthetic.words, increment=synthetic.increment)
    try:
        network = build_network(file, parameters, sample.shape, checkpoint_arch=checkpoint.arch or None,
                                average_rounded=options.average_rounded)
    except UserError as error:
        names_another = any(finding.code == "E0550" for finding in error.diagnostics)
        if isinstance(options.sample, Path) and not names_another and (
                blame := sample_shape_error(options.sample, sample, checkpoint)):
            raise blame from error
        raise
    network = replace(network, labels=checkpoint.labels)
    trace = Trace({}) if options.analyze else run_network(network, sample.values)
    return Inputs(file=file, checkpoint=checkpoint, network=network, sample=sample, trace=trace,
                  messages=(*options.messages, *file.warnings, *warnings.items))


def _check_dataset(options: SynthesisOptions, file: NetworkFile) -> None:
    """Whether the data set of the test items has a name that is known, before anything runs for it. Loads torch.

    Raises:
        UserError: E0604, with the nearest name, at the option or the network file that says the name.
    """
    from ai8x.training.registry import discover, find_dataset

    try:
        find_dataset(discover(), options.dataset or file.dataset)
    except UserError as error:
        unknown, *others = error.diagnostics
        found = f"--dataset {options.dataset}" if options.dataset else unknown.found
        raise UserError((replace(unknown, found=found, source=_dataset_source(options, file)), *others)) from error


def _dataset_source(options: SynthesisOptions, file: NetworkFile) -> Source | None:
    """Where the name of the data set stands; None where the option says it."""
    return None if options.dataset else Source(file=str(file.path))


def _sample(options: SynthesisOptions, checkpoint: Checkpoint, dataset: str) -> Sample:
    """The sample from wherever it is given.

    Raises:
        UserError: E0642, an array that is no sample, and what `find_sample` says.
    """
    given = options.sample
    if given is None or isinstance(given, Path):
        is_known = checkpoint.input_shape is not None and options.analyze  # an analysis looks at no values
        return find_sample(given, checkpoint, options.dataset or dataset, _no_item if is_known else first_test_item)
    return array_sample(np.asarray(given))


def _no_item(name: str) -> None:
    """Stands for a data set that nobody needs to look into."""
    del name


def first_test_item(name: str) -> NDArray[Any] | None:
    """First test item of a data set as int8, or None where it is not to be had. Loads torch."""
    from ai8x.training.test_set import load_test_set

    items = load_test_set(name, first_only=True)
    return None if items is None else items.inputs[0]


def measure_accuracy(inputs: Inputs, results: Sequence[TargetResult], options: SynthesisOptions,
                     announce: Announce) -> tuple[Accuracy, ...]:
    """Classify the data set's test part: all of it with the reference, some items on every simulator.

    Raises:
        UserError: E0644, the data set is not to be had; E0645, its items have no classes.
    """
    from ai8x.training.test_set import load_test_set

    dataset, count = options.dataset or inputs.network.dataset, options.test_samples
    items = load_test_set(dataset)
    if items is None:
        raise user_error("E0644", f"the data set '{dataset}' is not to be had here",
                         source=_dataset_source(options, inputs.file), help="leave --samples out")
    targets = items.targets
    if targets is None:
        raise user_error("E0645", f"the items of the data set '{dataset}' have no class each", found="objects, values, "
                         "or a class for every pixel", allowed="a data set for classification",
                         source=_dataset_source(options, inputs.file), help="leave --samples out")
    announce(f"classifying {len(targets)} test items with the reference, {min(count, len(targets))} on the simulators")
    last = inputs.network.outputs[-1]
    expected = run_network(inputs.network, items.inputs)[last]
    rows = [accuracy_of("reference", expected, expected, targets)]
    for result in results:
        if result.run_outputs is not None:
            found = result.run_outputs(items.inputs[:count])
            rows.append(accuracy_of(result.chip.target, expected[:count], found, targets[:count]))
    return tuple(rows)


def accuracy_of(executor: str, expected: NDArray[Any], found: NDArray[Any], targets: NDArray[Any]) -> Accuracy:
    """Compare logits value by value, and their greatest with the labels.

    Args:
        executor: who computed.
        expected: the reference's logits, (N, C, H, W).
        found: the executor's, likewise. Of equal logits the first is the answer.
        targets: true classes, (N,).
    """
    samples = len(targets)
    flat = found.reshape(samples, -1)
    mismatches = int((expected.reshape(samples, -1) != flat).any(axis=1).sum())
    chosen = flat.argmax(axis=1)
    classes = max(flat.shape[1], int(targets.max(initial=0)) + 1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (targets, chosen), 1)
    return Accuracy(executor=executor, samples=samples, correct=int((chosen == targets).sum()), mismatches=mismatches,
                    confusion=tuple(tuple(row) for row in confusion.tolist()))


def _stage(target: str, *, analyze: bool = False
           ) -> Callable[[Inputs, SynthesisOptions, Path, Announce], TargetResult]:
    """The function that does everything for one target, or only what its part of the report needs."""
    if target == "max78000":
        from ai8x import synthesis_max78000

        return synthesis_max78000.analyze_max78000 if analyze else synthesis_max78000.synthesize_max78000
    from ai8x import synthesis_k210

    return synthesis_k210.analyze_k210 if analyze else synthesis_k210.synthesize_k210


def _conclude(inputs: Inputs, options: SynthesisOptions, results: Sequence[TargetResult],
              accuracy: tuple[Accuracy, ...]) -> SynthesisResult:
    # The reference is what the others are held against: equal by definition, recorded for completeness.
    reference = Verdict(witness="reference", skipped="--analyze" if options.analyze else "")
    found = {v.witness: v for v in (reference, *(v for r in results for v in r.verdicts))}
    absent = "this target was not asked for"
    verdicts = tuple(found.get(w, Verdict(witness=w, skipped=absent)) for w in WITNESSES)
    refused = [result for result in results if result.chip.refusal is not None]
    unmet = len(refused) == len(results) or (options.require_all and bool(refused))
    messages = (*inputs.messages, *(_at_level(m, result, "error" if unmet else "warning")
                                    for result in results for m in result.messages))
    report = replace(_report(inputs, options, verdicts, messages), chips=tuple(result.chip for result in results),
                     accuracy=accuracy)
    different = any(row.mismatches for row in accuracy)
    given = options.network if isinstance(options.network, NetworkDescription) else None
    description = next((result.description for result in results if result.description is not None), given)
    return SynthesisResult(folder=options.out, report=report, verdicts=verdicts, messages=messages,
                           accuracy_differs=different, description=description, unmet=unmet)


def _at_level(message: Diagnostic, result: TargetResult, level: str) -> Diagnostic:
    """A message of a target; the findings of one that refuses the network are put on this level."""
    is_finding = result.chip.refusal is not None and message.level == "error"
    return replace(message, level=level) if is_finding else message


def _report(inputs: Inputs, options: SynthesisOptions, verdicts: Sequence[Verdict],
            messages: Sequence[Diagnostic]) -> Report:
    """The report without what the targets found out."""
    network = inputs.network
    rows, error_samples = layer_rows(network), ""
    if options.float_checkpoint is not None:
        dataset = options.dataset or network.dataset
        rows, error_samples = float_errors(rows, inputs.checkpoint, options.float_checkpoint, inputs.sample, dataset)
    return Report(
        version=__version__, network=network.name, dataset=network.dataset,
        input_shape=network.input_shape.as_tuple(), sample=inputs.sample.origin, layers=rows, chips=(),
        verification={verdict.witness: str(verdict) for verdict in verdicts},
        messages=tuple(_without_folder(message).headline() for message in messages), labels=network.labels,
        error_samples=error_samples)


def _without_folder(message: Diagnostic) -> Diagnostic:
    """The message with its file's bare name: where files lie is nobody's business in what is passed on."""
    if message.source is None:
        return message
    return replace(message, source=replace(message.source, file=Path(message.source.file).name))


def _write_reports(folder: Path, inputs: Inputs, result: SynthesisResult) -> None:
    """``trace.npz``, ``network.yaml``, ``report.json`` and ``report.html``, beside the targets' folders."""
    if inputs.trace:
        arrays = {f"L{layer.index}": inputs.trace[layer.index] for layer in inputs.network.layers}
        atomic_write(folder / "trace.npz", npz_bytes(arrays))
    if result.description is not None:
        write_text(folder / DESCRIPTION_NAME, result.description.to_yaml())
    write_json(folder / "report.json", to_json(result.report))
    write_text(folder / "report.html", render_html(result.report))


def _manifest(options: SynthesisOptions) -> dict[str, Any]:
    """Tool, inputs by name and digest, options: equal inputs give equal manifests on any machine."""
    return {
        "tool": "ai8x", "version": __version__,
        "inputs": dict(filter(None, map(_named_digest, (options.network, options.checkpoint, options.sample,
                                                        options.float_checkpoint)))),
        "options": {"targets": list(options.targets), "require_all": options.require_all, "verify": options.verify,
                    "analyze": options.analyze, "dataset": options.dataset,
                    "average_rounded": options.average_rounded, "test_samples": options.test_samples,
                    "max78000": plain_options(options.max78000)},
    }


def _named_digest(given: Path | NetworkDescription | Checkpoint | NDArray[Any] | None) -> tuple[str, str] | None:
    """Name and digest of one input; None for a file that is not there."""
    if isinstance(given, NetworkDescription):
        return f"{given.name} (model)", digest(given.to_yaml().encode())
    if isinstance(given, Checkpoint):
        if given.file:
            return _named_digest(Path(given.file))
        return "parameters (in memory)", digest(npz_bytes({name: np.asarray(v) for name, v in given.state.items()}))
    if isinstance(given, Path):
        return (given.name, digest(given.read_bytes())) if given.is_file() else None
    return None if given is None else ("sample (in memory)", digest(np.asarray(given).tobytes()))
