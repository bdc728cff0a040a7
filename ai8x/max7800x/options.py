"""Every choice of register program and C project, with its default, its limits and what it means.

Owns the option types and their checks; which stage uses which is up to the stage. Start at `ProjectOptions`.

Source: spec/max78000-cnn.md sections 1.1, 5.4, 7.3 and 9.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, fields, is_dataclass
from types import MappingProxyType
from typing import Any

from ai8x.errors import Diagnostic, Diagnostics, UserError, user_error
from ai8x.max7800x.program import OutputRegion

MAX_TIMER = 5
CLOCK_DIVIDER_CODES: tuple[tuple[int, int], ...] = ((1, 4), (2, 0), (4, 1), (8, 2), (16, 3))
"""(divider, GCR_PCLKDIV.cnnclkdiv), section 1.1."""

SLOWEST_ISO_DIVIDER = 2
"""Least divider of the 60 MHz oscillator that stays within the accelerator's 50 MHz."""

PORT_PINS: tuple[int, ...] = (32, 32, 32)
"""Pins of the GPIO ports 0 to 2; port 3 has no output register of this kind."""

ENERGY_RUNS = 100
"""Repetitions of every step of the energy measurement; section 9.4."""

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_RESERVED_FILES = ("softmax.c",)


class ClockSource(enum.Enum):
    """What the accelerator's clock is divided from; values are GCR_PCLKDIV.cnnclksel."""

    PCLK = 0
    ISO = 1


SOURCE_HZ = MappingProxyType({ClockSource.PCLK: 50_000_000, ClockSource.ISO: 60_000_000})
"""Frequencies of the sources; sections 1.1 and virtual-boards.md 6."""


class Core(enum.Enum):
    """The processor core that drives the accelerator; values are the folder names of the vendor's SDK."""

    ARM = "arm"
    RISCV = "riscv"


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerOptions:
    """Choices of the register program.

    Args:
        express: load mask memory as a packed byte stream; False: four bus words per mask word.
        write_zero_registers: write registers whose value is 0, too.
        clock_source: what the accelerator's clock is divided from.
        clock_divider: 1, 2, 4, 8 or 16.
        unload: replaces the network's outputs in `cnn_unload`; empty = the outputs.
        zero_memories: test and clear all memories of the used quadrants before anything else.
        power_down_unused: switch the mask memories of unused quadrants off.
        stop_start: stop and continue every inference once, right after its start.
        check_layers: run the network layer by layer first, and compare what each leaves in memory.
        max_verify_words: words of the known answer that are compared; None for all.
    """

    express: bool = True
    write_zero_registers: bool = False
    clock_source: ClockSource = ClockSource.PCLK
    clock_divider: int = 1
    unload: tuple[OutputRegion, ...] = ()
    zero_memories: bool = False
    power_down_unused: bool = False
    stop_start: bool = False
    check_layers: bool = False
    max_verify_words: int | None = None

    @property
    def clock_hz(self) -> int:
        """Accelerator clock while the core runs at 100 MHz, its peripheral clock being half of that."""
        return SOURCE_HZ[self.clock_source] // self.clock_divider


@dataclass(frozen=True, slots=True, kw_only=True)
class BoostPin:
    """Port pin that raises the supply while an inference runs.

    Args:
        port: GPIO port number.
        pin: bit number in the port.
    """

    port: int
    pin: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileNames:
    """Names of the generated files that the user may choose, without folder and extension.

    Args:
        main: the application (``.c``).
        api: the network's functions (``.c`` and ``.h``); empty: they are part of the application's file.
        weights: kernels and bias (``.h``).
        sample: sample input (``.h``).
        answer: known answer (``.h``).
    """

    main: str = "main"
    api: str = "cnn"
    weights: str = "weights"
    sample: str = "sampledata"
    answer: str = "sampleoutput"

    @property
    def header(self) -> str:
        """Name of the header of the network's functions, without extension."""
        return self.api or "cnn"


@dataclass(frozen=True, slots=True, kw_only=True)
class CodegenOptions:
    """Choices of the C project; the register program is fixed before.

    Args:
        board: board name of the MSDK, written to the project's make files.
        softmax: print a class table if the output is a vector; False only unloads.
        timer: number of the timer that measures an inference, None for no measurement.
        wfi: sleep while an inference runs; False spins.
        boost: supply booster, None for none.
        known_answer: compare the result with the known answer.
        compact: load the sample from tables; False writes one statement per word.
        debug_wait_s: seconds before the accelerator is enabled, so that a debugger can attach.
        project: name of the project's output file; empty = derived from the network's name.
        unload: copy the outputs to a buffer after an inference; False leaves them in data memory.
        verify_weights: read mask memory back after loading and compare.
        verify_writes: read every layer register back after writing and compare.
        energy: measure energy after the inference: weight loads, input loads, inferences, bracketed by pin actions.
        forever: repeat the inference without end.
        switch_delay_ms: pause between power and isolation, for load switches.
        core: the core that drives the accelerator.
        names: file names.
    """

    board: str = "EvKit_V1"
    softmax: bool = True
    timer: int | None = 0
    wfi: bool = True
    boost: BoostPin | None = None
    known_answer: bool = True
    compact: bool = True
    debug_wait_s: int = 2
    project: str = ""
    unload: bool = True
    verify_weights: bool = False
    verify_writes: bool = False
    energy: bool = False
    forever: bool = False
    switch_delay_ms: int = 0
    core: Core = Core.ARM
    names: FileNames = FileNames()

    @property
    def timed(self) -> int | None:
        """The timer that measures single inferences; none while energy is measured."""
        return None if self.energy else self.timer


DEFAULT_LOWERING = LowerOptions()
DEFAULT_CODE = CodegenOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticInput:
    """A large sample made from a few stored words.

    A word holds one pixel of four channels. Word i is ``stored[i % words] + (i // words) * increment``, masked to the
    channels that there are; the firmware brings its bytes to where data memory or FIFO take them, in any format.

    Args:
        increment: added with every repetition.
        words: words stored for every four channels.

    Source: spec/max78000-cnn.md section 5.4.
    """

    increment: int
    words: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectOptions:
    """Everything that can be chosen for the MAX78000.

    Args:
        lower: register program.
        code: C project.
        fifo: feed the input through the FIFO; streaming layers imply it.
        fast_fifo: feed it through the RISC-V's fast FIFO.
        quad: all four quadrants work on layer 0 (needs the fast FIFO).
        ignore_streaming: treat every layer as not streaming.
        deduplicate: store equal weights, and equal biases, once.
        stop_after: index of the last layer that runs; None for the whole network.
        synthetic_input: make the sample from a few words; None for the whole sample.
    """

    lower: LowerOptions = DEFAULT_LOWERING
    code: CodegenOptions = DEFAULT_CODE
    fifo: bool = False
    fast_fifo: bool = False
    quad: bool = False
    ignore_streaming: bool = False
    deduplicate: bool = True
    stop_after: int | None = None
    synthetic_input: SyntheticInput | None = None


DEFAULT_PROJECT = ProjectOptions()


def plain_options(options: ProjectOptions) -> dict[str, Any]:
    """The options as numbers, texts and mappings, for a manifest: equal options give equal text."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
        if isinstance(value, enum.Enum):
            return value.name
        return [plain(item) for item in value] if isinstance(value, tuple) else value

    result: dict[str, Any] = plain(options)
    return result


def check_options(options: ProjectOptions) -> None:
    """Refuse values that no device has, and choices that exclude each other.

    Raises:
        UserError: E0392 clock, E0393 timer, E0395 pin, E0396 file names, E0397 choices that exclude each other; all
            together.
    """
    diagnostics = Diagnostics()
    for finding in (*clock_findings(options.lower), *code_findings(options.code), *_contradictions(options)):
        diagnostics.add(finding)
    diagnostics.raise_if_errors()


def mlator_refusal() -> UserError:
    """Why ``--mlator``, unloading through the accelerator's read port, is not available: E0399.

    The port's address, its lane selector and the order of its pixels are known. How the increment is encoded and how
    many reads prime the port are not, and no chip has confirmed any of it: a simulator of a guess would only confirm
    the guess.

    Source: spec/max78000-cnn.md sections 5.5 and 11.
    """
    return user_error("E0399", "--mlator is not available: the read port's increment and priming reads are not known",
                      found="--mlator", allowed="the plain unload, which copies the outputs word by word",
                      help="leave --mlator out; the unloaded values are the same")


def parse_boost(text: str) -> BoostPin:
    """A pin as typed, ``PORT.PIN``.

    Raises:
        UserError: E0395.
    """
    match = re.fullmatch(r"([0-9])\.([0-9]{1,2})", text)
    if not match:
        raise user_error("E0395", f"'{text}' is not a pin", found=text, allowed="PORT.PIN", help="write --boost 2.5")
    return BoostPin(port=int(match[1]), pin=int(match[2]))


def clock_findings(lower: LowerOptions) -> list[Diagnostic]:
    """What is wrong with source and divider of the accelerator's clock: E0392."""
    findings = []
    dividers = [value for value, _ in CLOCK_DIVIDER_CODES]
    if lower.clock_divider not in dividers:
        findings.append(Diagnostic(
            code="E0392", message=f"clock divider {lower.clock_divider} does not exist", found=str(lower.clock_divider),
            allowed=", ".join(map(str, dividers)), help="write --clock-divider 1"))
    elif lower.clock_source is ClockSource.ISO and lower.clock_divider < SLOWEST_ISO_DIVIDER:
        findings.append(Diagnostic(
            code="E0392", message="the 60 MHz oscillator is too fast for the accelerator without a divider",
            found="--clock-source ISO, --clock-divider 1", allowed="at most 50 MHz",
            help=f"add --clock-divider {SLOWEST_ISO_DIVIDER}"))
    return findings


def code_findings(code: CodegenOptions) -> list[Diagnostic]:
    """What is wrong with timer, pin and file names: E0393, E0395, E0396."""
    findings = _name_findings(code.names)
    if code.timer is not None and not 0 <= code.timer <= MAX_TIMER:
        findings.append(Diagnostic(
            code="E0393", message=f"timer {code.timer} does not exist", found=str(code.timer),
            allowed=f"0 to {MAX_TIMER}", help="write --timer 0"))
    boost = code.boost
    if boost is not None and not (0 <= boost.port < len(PORT_PINS) and 0 <= boost.pin < PORT_PINS[boost.port]):
        findings.append(Diagnostic(
            code="E0395", message=f"pin {boost.port}.{boost.pin} does not exist", found=f"{boost.port}.{boost.pin}",
            allowed=f"ports 0 to {len(PORT_PINS) - 1}, pins 0 to {max(PORT_PINS) - 1}", help="write --boost 2.5"))
    return findings


def _name_findings(names: FileNames) -> list[Diagnostic]:
    """File names must be harmless in make and C, and all different."""
    findings = []
    chosen = [f"{names.main}.c", f"{names.header}.h", f"{names.weights}.h", f"{names.sample}.h", f"{names.answer}.h"]
    chosen += [f"{names.api}.c"] if names.api else []
    for name in chosen:
        if not _FILE_NAME.fullmatch(name.rsplit(".", 1)[0]):
            findings.append(Diagnostic(
                code="E0396", message=f"'{name}' cannot be the name of a generated file", found=name,
                allowed="letters, digits, underscore and minus", help="write a plain name without folder"))
    taken = sorted({name for name in [*chosen, *_RESERVED_FILES] if [*chosen, *_RESERVED_FILES].count(name) > 1})
    for name in taken:
        findings.append(Diagnostic(
            code="E0396", message=f"two generated files would be called {name}", found=name,
            allowed="different names", help="choose another name for one of them"))
    return findings


def _contradictions(options: ProjectOptions) -> list[Diagnostic]:
    code, lower = options.code, options.lower
    riscv = code.core is Core.RISCV
    rules = (
        (options.fast_fifo and not riscv, "--fast-fifo", "the fast FIFO is reached by the RISC-V core only",
         "add --riscv, or write --fifo"),
        (options.fast_fifo and options.fifo, "--fast-fifo --fifo", "there is one input path", "leave one of them out"),
        (options.quad and not options.fast_fifo, "--fast-fifo-quad", "quad mode reads the fast FIFO",
         "add --fast-fifo --riscv"),
        (options.synthetic_input is not None and not code.compact, "--synthesize-input --no-compact-data",
         "synthesized input is made by a loop", "leave --no-compact-data out"),
        (code.energy and code.forever, "--energy --forever", "the measurement needs an end", "leave one of them out"),
        (lower.check_layers and not code.known_answer, "--debug-layers --no-kat",
         "every layer is compared with its known answer", "leave --no-kat out"),
    )
    return [Diagnostic(code="E0397", message=message, found=found, allowed="options that go together", help=action)
            for broken, found, message, action in rules if broken]
