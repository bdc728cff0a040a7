"""The report of a network that a chip refuses: what it is, why it does not fit, what would help, what the others say.

Nothing of the output folder is touched; the report gets a folder of its own beside it. Start at `TargetRefused` and
`report_refusal`.

Source: docs/design.md "Honesty", "Messages".
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai8x.capacity import DoesNotFit
from ai8x.errors import Diagnostic, UserError
from ai8x.files import output_folder, write_json, write_text
from ai8x.report import ChipReport, Finding, Refusal, Report, to_json
from ai8x.report_html import render_html

if TYPE_CHECKING:
    from ai8x.synthesis import Announce, Inputs, SynthesisOptions, TargetResult

TITLES = {"max78000": "MAX78000", "k210": "Kendryte K210"}

NETWORK_CODES = frozenset({
    "E0311", *(f"E{number:04}" for number in range(314, 339)), "E0410", "E0411", "E0419", "E0424",
    "E0463", "E0464",
    "E0350", "E0354", "E0355", "E0357", "E0358", "E0360", "E0362", "E0363", "E0450", "E0451", "E0452"})
"""Findings about the network itself. Others are about what the file says about its place: there the message says it
all."""

FOLDER_SUFFIX = "-refused"

Stage = Callable[["Inputs", "SynthesisOptions", Path, "Announce"], "TargetResult"]


class TargetRefused(UserError):
    """A chip refuses the network.

    Args:
        target: of `ai8x.synthesis.TARGETS`.
        error: what its stage raised.
        further: findings of other chips that refuse it too.
        chips: what the targets that were asked say, for the report.
    """

    def __init__(self, target: str, error: UserError, further: tuple[Diagnostic, ...] = (),
                 chips: tuple[ChipReport, ...] = ()) -> None:
        super().__init__((*error.diagnostics, *further))
        self.target = target
        self.error = error
        self.chips = chips or (refused_chip(target, error),)


def run_stage(target: str, stage: Stage, inputs: Inputs, options: SynthesisOptions, folder: Path,
              announce: Announce) -> TargetResult:
    """One target's stages.

    Raises:
        TargetRefused: the network itself does not suit the chip.
        UserError: anything else that was refused.
    """
    try:
        return stage(inputs, options, folder, announce)
    except UserError as error:
        if any(finding.code in NETWORK_CODES for finding in error.diagnostics):
            raise TargetRefused(target, error) from error
        raise


def report_refusal(refused: TargetRefused, bare: Report, others: Callable[[str], Stage], inputs: Inputs,
                   options: SynthesisOptions) -> Path:
    """Write the report beside the output folder.

    Args:
        refused: which chip, and why; other targets that it has nothing from are asked now.
        bare: the report without chips.
        others: stage of a target.
        inputs: network and sample.
        options: of the run.

    Returns:
        The folder with ``report.html`` and ``report.json``.

    Raises:
        UserError: E0810, E0811, the folder cannot be written; behind the findings of the chip.
    """
    # Whatever was generated is thrown away with the output folder.
    known = {chip.target: replace(chip, files={}) for chip in refused.chips}
    chips = tuple(known.get(target) or _chip(target, others(target), inputs, options) for target in options.targets)
    report = replace(bare, chips=chips)
    place = options.out.with_name(options.out.name + FOLDER_SUFFIX)
    manifest: dict[str, Any] = {"tool": "ai8x", "version": report.version, "refused": [
        chip.target for chip in chips if chip.refusal]}
    try:
        with output_folder(place, manifest, overwrite=options.overwrite) as folder:
            write_json(folder / "report.json", to_json(report))
            write_text(folder / "report.html", render_html(report))
    except UserError as blocked:
        raise UserError((*refused.diagnostics, *blocked.diagnostics)) from blocked
    return place


def _chip(target: str, stage: Stage, inputs: Inputs, options: SynthesisOptions) -> ChipReport:
    """What another chip says about the same network; its project is thrown away."""
    try:
        with tempfile.TemporaryDirectory(prefix="ai8x-refused-") as folder:
            result = stage(inputs, replace(options, verify=False), Path(folder) / target, lambda line: None)
            return replace(result.chip, files={})
    except UserError as error:
        return refused_chip(target, error)


def refused_chip(target: str, error: UserError) -> ChipReport:
    """The part of the report about a chip that refuses the network."""
    consumers, remedies = (error.consumers, error.remedies) if isinstance(error, DoesNotFit) else ((), ())
    refusal = Refusal(findings=tuple(_finding(one) for one in error.diagnostics), consumers=consumers,
                      remedies=remedies)
    return ChipReport(target=target, title=TITLES[target], clock_hz=0, layers=(), total_cycles=0, total_time_us=0.0,
                      timing_note="", refusal=refusal)


def _finding(finding: Diagnostic) -> Finding:
    return Finding(code=finding.code, message=finding.message, layer=finding.layer, found=finding.found,
                   allowed=finding.allowed, help=finding.help)
