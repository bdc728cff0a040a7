"""Projects whose sample, known answer or output buffer does not fit into the MAX78000's flash or SRAM.

Owns what happens then: what nobody has chosen is made smaller, and the synthesis is repeated; what the user has chosen
is refused with the options that fit. Start at `check_tables` and `explain_overflow`.

Source: docs/design.md "Messages", "Decisions".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ai8x.errors import Diagnostic, UserError, user_error
from ai8x.max7800x.firmware_size import CODE_BYTES, FirmwareSize, changed_options, firmware_size, smaller_options
from ai8x.max7800x.options import Core, ProjectOptions
from ai8x.max7800x.program import Program
from ai8x.toolchain import FirmwareTooLarge

if TYPE_CHECKING:
    from ai8x.synthesis import SynthesisOptions


class RepeatSmaller(Exception):
    """Asks for the same synthesis with options that fit; nobody has chosen what they replace.

    Args:
        project: the options.
        notice: W0472, what was changed and why.
    """

    def __init__(self, project: ProjectOptions, notice: Diagnostic) -> None:
        super().__init__(notice.message)
        self.project = project
        self.notice = notice


def check_tables(program: Program, channels: int, options: SynthesisOptions) -> None:
    """Stop before anything is generated where the tables alone are too large, whatever the machine code takes.

    Args:
        program: of the network.
        channels: of the sample.
        options: of the run.

    Raises:
        RepeatSmaller: a smaller sample, answer or output buffer fits, and none of them was chosen by the user.
        UserError: E0424 otherwise.
    """
    size = firmware_size(program, options.max78000)
    if size.flash_excess or size.sram_excess:
        smaller = smaller_options(size, options.max78000, _groups(channels))
        raise _outcome(size, smaller, options, _excess(size))


def explain_overflow(error: FirmwareTooLarge, program: Program, channels: int, options: SynthesisOptions
                     ) -> RepeatSmaller | UserError:
    """What to raise where the linker says that the project is too large.

    Args:
        error: the linker's words.
        program: of the network.
        channels: of the sample.
        options: of the run.
    """
    size = firmware_size(program, options.max78000)
    in_flash = error.memory.endswith("FLASH")
    if not in_flash and not size.outputs:
        return error
    code_bytes = max(CODE_BYTES, size.flash + error.excess - size.tables) if in_flash else CODE_BYTES
    smaller = smaller_options(size, options.max78000, _groups(channels), code_bytes=code_bytes,
                              drop_outputs=not in_flash)
    return _outcome(size, smaller, options, error.diagnostics[0].message)


def _groups(channels: int) -> int:
    return -(-channels // 4)


def _outcome(size: FirmwareSize, smaller: ProjectOptions | None, options: SynthesisOptions, message: str
             ) -> RepeatSmaller | UserError:
    project = options.max78000
    helps = smaller is not None and smaller != project
    if smaller is not None and helps and not _replaces_choice(smaller, options):
        return RepeatSmaller(smaller, _notice(size, changed_options(project, smaller)))
    return user_error("E0424", message, found=str(size), allowed=_limits(size),
                      help=f"write {changed_options(project, smaller)}" if smaller is not None and helps
                      else _remedy(size, project))


def _replaces_choice(smaller: ProjectOptions, options: SynthesisOptions) -> bool:
    """Whether the smaller project changes what the user has asked for."""
    project = options.max78000
    new_sample = smaller.synthetic_input != project.synthetic_input
    new_answer = smaller.lower.max_verify_words != project.lower.max_verify_words
    return (new_sample and (options.sample is not None or project.synthetic_input is not None)) or (
        new_answer and project.lower.max_verify_words is not None)


def _excess(size: FirmwareSize) -> str:
    if size.flash_excess:
        return f"the project is at least {size.flash_excess:,} bytes too large for the chip's flash"
    return f"the buffer for the outputs is {size.sram_excess:,} bytes too large for the chip's SRAM"


def _limits(size: FirmwareSize) -> str:
    flash = f"{size.flash:,} bytes of flash for program, weights, sample and known answer"
    return f"{flash}, {size.sram:,} bytes of SRAM" if size.outputs else flash


def _notice(size: FirmwareSize, changes: str) -> Diagnostic:
    parts = [name for option, name in (("--synthesize-input", "sample"), ("--max-verify-length", "known answer"),
                                       ("--no-unload", "output buffer")) if option in changes]
    subject = ", ".join(parts[:-1]) + f" and {parts[-1]}" if len(parts) > 1 else parts[0]
    return Diagnostic(
        code="W0472", level="warning",
        message=f"the firmware does not fit the MAX78000's memory with the whole {subject}: verified with {changes}",
        found=str(size), allowed=_limits(size), help=f"write {changes}, or other values, to choose it yourself")


def _remedy(size: FirmwareSize, project: ProjectOptions) -> str:
    """What helps where neither a shorter sample nor a shorter answer does."""
    choices = ((not project.lower.express, "leave --no-mexpress out: packed weights take little more than half"),
               (bool(size.layers), "leave --debug-layers out"),
               (not project.code.compact, "leave --no-compact-data out"),
               (project.code.core is Core.RISCV, "leave --riscv out: one core has all of the flash"),
               (True, "store the weights in fewer bits: train.py --qat-policy"))
    return next(text for applies, text in choices if applies)
