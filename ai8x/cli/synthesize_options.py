"""The command-line options of ``synthesize.py`` that choose how a MAX78000 project looks, in the vendor's spelling.

Owns their names, groups and help texts, and their translation to `ProjectOptions`. Start at `add_project_options` and
`project_options`.

Source: spec/max78000-cnn.md section 7.3; docs/design.md "Command lines".
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ai8x.cli.common import CommandParser

if TYPE_CHECKING:
    from ai8x.max7800x.options import CodegenOptions, FileNames, LowerOptions, ProjectOptions

BOARDS = ("EvKit_V1", "FTHR_RevA")
"""Boards that the generated Makefile knows without the vendor's SDK."""

_NO_EFFECT = ("--verbose", "--display-checkpoint", "--no-progress", "--no-version-check", "--no-log", "--short-log",
              "--new-kernel-loader", "--compact-weights", "--no-warn-zero", "--ignore-energy-warning",
              "--ignore-mlator-warning", "--riscv-flash", "--riscv-cache")
"""Options of the vendor's tool whose effect this tool always has, or that only concern its log."""

_NO_EFFECT_WITH_VALUE = ("--unroll-mlator", "--unroll-8bit", "--unroll-wide", "--yamllint", "--upstream",
                         "--version-check-interval", "--log-filename")
"""Likewise, with a value."""

_OFF_BY_DEFAULT = (
    ("run", "--no-wfi", "spin while an inference runs instead of sleeping"),
    ("run", "--stop-start", "stop and continue every inference once, right after its start"),
    ("run", "--forever", "repeat the inference without end"),
    ("run", "--no-unload", "leave the outputs in data memory; implies --no-softmax"),
    ("run", "--no-kat", "do not compare the result with the known answer"),
    ("run", "--verify-kernels", "read the mask memory back after loading and compare"),
    ("run", "--verify-writes", "read every layer register back after writing and compare"),
    ("run", "--mlator", "refused: how the accelerator's read port is driven is not known well enough"),
    ("memory", "--no-mexpress", "load weights word by word instead of as a packed stream"),
    ("memory", "--no-deduplicate-weights", "store equal weights, and equal biases, once for each layer"),
    ("memory", "--write-zero-registers", "write registers whose value is 0, too"),
    ("memory", "--zero-sram", "test and clear all memories first"),
    ("memory", "--powerdown", "switch the mask memories of unused quadrants off"),
    ("memory", "--no-compact-data", "one statement for every word of the sample"),
    ("input", "--fast-fifo", "feed the input through the fast FIFO of the RISC-V core (needs --riscv)"),
    ("input", "--fast-fifo-quad", "let all quadrants work on layer 0 (needs --fast-fifo)"),
    ("input", "--ignore-streaming", "treat every layer as not streaming"),
)
"""(group, option, help) of plain switches that only ``--help-all`` lists."""


def add_project_options(parser: CommandParser) -> None:
    """Add every option about the MAX78000's project; the most used ones are listed by ``--help``."""
    chip = parser.add_argument_group("max78000")
    chip.add_argument("--board", "--board-name", default=BOARDS[0], choices=BOARDS,
                      help="board of the vendor's SDK (default: EvKit_V1)")
    chip.add_argument("--fifo", action="store_true", help="feed the input through the FIFO")
    chip.add_argument("--riscv", action="store_true", help="let the RISC-V core drive the accelerator")
    chip.add_argument("--no-softmax", dest="softmax", action="store_false", help="print no class table")
    chip.add_argument("--timer", type=int, default=0, metavar="N", help="timer that measures an inference (default: 0)")
    chip.add_argument("--no-timer", dest="timer", action="store_const", const=None, help="measure no time")
    chip.add_argument("--energy", action="store_true", help="measure energy after the inference")
    chip.add_argument("--stop-after", type=int, metavar="N", help="run layers 0 to N only")
    chip.add_argument("--debug-layers", action="store_true",
                      help="run the network layer by layer on the device and compare each one")
    groups = {"run": parser.add_argument_group("max78000: running"),
              "memory": parser.add_argument_group("max78000: memories and clock"),
              "input": parser.add_argument_group("max78000: input")}
    for group, name, text in _OFF_BY_DEFAULT:
        parser.advanced(groups[group], name, action="store_true", help=text)
    _add_run_options(parser, groups["run"])
    _add_memory_options(parser, groups["memory"])
    parser.advanced(groups["input"], "--synthesize-input", type=lambda text: int(text, 0), metavar="N",
                    help="make a large sample from its first words: every repetition adds N")
    parser.advanced(groups["input"], "--synthesize-words", type=int, default=8, metavar="M",
                    help="words that are repeated (default: 8)")
    _add_file_options(parser)


def _add_run_options(parser: CommandParser, group: argparse._ArgumentGroup) -> None:
    parser.advanced(group, "--boost", metavar="PORT.PIN", help="drive this pin high while the network is in use")
    parser.advanced(group, "--max-verify-length", type=int, metavar="N", help="compare N words of the answer only")
    parser.advanced(group, "--debugwait", type=int, default=2, metavar="S",
                    help="seconds before the accelerator is switched on (default: 2)")
    parser.advanced(group, "--softmax", dest="softmax", action="store_true", help="print a class table (the default)")


def _add_memory_options(parser: CommandParser, group: argparse._ArgumentGroup) -> None:
    parser.advanced(group, "--clock-divider", type=int, default=1, metavar="N",
                    help="accelerator clock = source / N, 1 to 16 (default: 1)")
    parser.advanced(group, "--clock-source", choices=("PCLK", "ISO"), default="PCLK",
                    help="source of the accelerator's clock: 50 MHz PCLK or 60 MHz ISO (default: PCLK)")
    parser.advanced(group, "--switch-delay", type=int, default=0, metavar="MS",
                    help="pause between power and isolation for load switches (default: 0)")
    parser.advanced(group, "--mexpress", dest="no_mexpress", action="store_false",
                    help="load weights as a packed stream (the default)")
    parser.advanced(group, "--compact-data", dest="no_compact_data", action="store_false",
                    help="load the sample from tables (the default)")


def _add_file_options(parser: CommandParser) -> None:
    group = parser.add_argument_group("max78000: file names")
    for name, default, text in (
            ("--c-filename", "main", "application"), ("--api-filename", "cnn.c", "network's functions; none = in the "
                                                                                 "application's file"),
            ("--weight-filename", "weights.h", "weights"), ("--sample-filename", "sampledata.h", "sample"),
            ("--sample-output-filename", "sampleoutput.h", "known answer")):
        parser.advanced(group, name, default=default, metavar="NAME", help=f"file of the {text} (default: {default})")
    vendor = parser.add_argument_group("accepted without effect")
    for name in _NO_EFFECT:
        parser.advanced(vendor, name, action="store_true", dest="no_effect", help=argparse.SUPPRESS)
    *others, last = _NO_EFFECT_WITH_VALUE
    for name in others:
        parser.advanced(vendor, name, dest="no_effect", help=argparse.SUPPRESS)
    parser.advanced(vendor, last, dest="no_effect", metavar="X", help="and " + ", ".join((*others, *_NO_EFFECT)))


def project_options(arguments: argparse.Namespace) -> ProjectOptions:
    """The library's options for the MAX78000.

    Raises:
        UserError: E0392 to E0397, see `ai8x.max7800x.options.check_options`; E0399, see `mlator_refusal` there.
    """
    from ai8x.max7800x.options import ProjectOptions, SyntheticInput, check_options, mlator_refusal

    if arguments.mlator:
        raise mlator_refusal()
    synthetic = None
    if arguments.synthesize_input is not None:
        synthetic = SyntheticInput(increment=arguments.synthesize_input, words=arguments.synthesize_words)
    options = ProjectOptions(
        lower=_lower_options(arguments), code=_code_options(arguments), fifo=arguments.fifo,
        fast_fifo=arguments.fast_fifo, quad=arguments.fast_fifo_quad, ignore_streaming=arguments.ignore_streaming,
        deduplicate=not arguments.no_deduplicate_weights, stop_after=arguments.stop_after, synthetic_input=synthetic)
    check_options(options)
    return options


def _lower_options(arguments: argparse.Namespace) -> LowerOptions:
    from ai8x.max7800x.options import ClockSource, LowerOptions

    return LowerOptions(
        express=not arguments.no_mexpress, write_zero_registers=arguments.write_zero_registers,
        clock_source=ClockSource[arguments.clock_source], clock_divider=arguments.clock_divider,
        zero_memories=arguments.zero_sram, power_down_unused=arguments.powerdown, stop_start=arguments.stop_start,
        check_layers=arguments.debug_layers, max_verify_words=arguments.max_verify_length)


def _code_options(arguments: argparse.Namespace) -> CodegenOptions:
    from ai8x.max7800x.options import CodegenOptions, Core, parse_boost

    return CodegenOptions(
        board=arguments.board, softmax=arguments.softmax and not arguments.no_unload, timer=arguments.timer,
        wfi=not arguments.no_wfi, boost=parse_boost(arguments.boost) if arguments.boost else None,
        known_answer=not arguments.no_kat, compact=not arguments.no_compact_data, debug_wait_s=arguments.debugwait,
        unload=not arguments.no_unload, verify_weights=arguments.verify_kernels,
        verify_writes=arguments.verify_writes, energy=arguments.energy, forever=arguments.forever,
        switch_delay_ms=arguments.switch_delay, core=Core.RISCV if arguments.riscv else Core.ARM,
        names=_file_names(arguments))


def _file_names(arguments: argparse.Namespace) -> FileNames:
    from ai8x.max7800x.options import FileNames

    def stem(name: str, extension: str) -> str:
        return name.removesuffix(extension)

    return FileNames(
        main=stem(arguments.c_filename, ".c"),
        api="" if arguments.api_filename.lower() == "none" else stem(arguments.api_filename, ".c"),
        weights=stem(arguments.weight_filename, ".h"), sample=stem(arguments.sample_filename, ".h"),
        answer=stem(arguments.sample_output_filename, ".h"))
