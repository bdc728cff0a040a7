"""Writes the reference pages of the manual from the code that they describe.

``python -m ai8x.manual`` writes ``docs/reference/*.md``, ``--check`` only says which pages are stale. The pages hold
what the code knows anyway: options, keys, limits, registers, error codes (the last from `ai8x.manual_codes`). Nothing
here is a second statement of a fact, apart from the one-line meanings of the YAML keys. Start at `PAGES` and `main`.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from ai8x import simulate
from ai8x.cli import demo, quantize, synthesize, train
from ai8x.cli.common import CommandParser, run_main
from ai8x.errors import ExitStatus, Source, user_error
from ai8x.files import write_text
from ai8x.k210 import constraints as k210_constraints
from ai8x.k210 import device as k210_device
from ai8x.k210.constraints import rule_text
from ai8x.manual_codes import CodeUse, codes_in, scan_package
from ai8x.max7800x.constraints import RULES
from ai8x.max7800x.device import LAYER_REGISTERS, MAX78000, STREAM_REGISTERS
from ai8x.network import yaml_keys
from ai8x.network.yaml_keys import Key
from ai8x.network.yaml_nodes import ListNode, ScalarNode
from ai8x.network.yaml_values import MAX_INTEGER, BadValue
from ai8x.registers import Access, Register

PACKAGE = Path(__file__).resolve().parent
REFERENCE = PACKAGE.parent / "docs" / "reference"
"""Where the pages lie in a checkout."""

NOTICE = "<!-- Written by `python -m ai8x.manual`; changes belong into the code. -->"

COMMANDS: tuple[tuple[str, Callable[[Sequence[str]], int], str], ...] = (
    ("train.py", train.main, "`python train.py`, or `ai8x-train` where the package is installed."),
    ("quantize.py", quantize.main, "`python quantize.py IN OUT`, or `ai8x-quantize`."),
    ("synthesize.py", synthesize.main, "`python synthesize.py NET.yaml CKPT`, or `ai8x-synthesize`."),
    ("ai8x.simulate", simulate.main, "`python -m ai8x.simulate COMMAND`, or `ai8x-simulate`."),
    ("make demo", demo.main, "`make demo`, or `python -m ai8x.cli.demo` for the options."),
)
"""Title, entry point and first line of every command."""

_LIST_RULES = {"at least one entry": "or a list of them", "one integer or [rows, columns]": "or [rows, columns]"}
_NO_LIMIT = re.compile(rf" from (-?\d+) to {MAX_INTEGER}")


# ---------------------------------------------------------------------------------------------- options


class _ParserBuilt(Exception):
    """Carries the parser of a command out of its entry point."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def parser_of(command: Callable[[Sequence[str]], int]) -> argparse.ArgumentParser:
    """The parser that a command's entry point builds, advanced options revealed; nothing is executed."""

    def stop(self: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _ParserBuilt(self)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", stop):
        try:
            command([])
        except _ParserBuilt as built:
            if isinstance(built.parser, CommandParser):
                built.parser.reveal_advanced()
            return built.parser
    raise TypeError("this command has no argparse parser")


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Name -> parser of the subcommands; empty without any."""
    found = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: sub for action in found for name, sub in action.choices.items()}


def options_page() -> str:
    """Every option of every command."""
    lines = ["Every option of every command. The scripts' `--help` shows the usual ones, `--help-all` these."]
    for title, command, usage in COMMANDS:
        parser = parser_of(command)
        lines += ["", f"## {title}", "", " ".join((parser.description or "").split()), "", usage]
        lines += _option_tables(parser)
        for name, sub in subcommands(parser).items():
            lines += ["", f"### {title} {name}", *_option_tables(sub)]
    return _page("Options", lines)


def _option_tables(parser: argparse.ArgumentParser) -> list[str]:
    rows = []
    for group in parser._action_groups:
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                continue
            text = (action.help or "") % {**vars(action), "prog": parser.prog}
            rows.append((f"`{_option_name(action)}`", text, _group_title(group)))
    return ["", *_table(("Option", "Meaning", "Group"), rows)] if rows else []


def _group_title(group: argparse._ArgumentGroup) -> str:
    # argparse renamed its own groups between versions; the pages must not depend on the version.
    titles = {"positional arguments": "", "options": "", "optional arguments": ""}
    return titles.get(group.title or "", group.title or "")


def _option_name(action: argparse.Action) -> str:
    value = str(action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest))
    if not action.option_strings:
        return value
    names = ", ".join(action.option_strings)
    if action.nargs == 0:
        return names
    return f"{names} [{value}]" if action.nargs == "?" else f"{names} {value}"


# ---------------------------------------------------------------------------------------------- YAML keys

KEY_MEANINGS: Mapping[str, str] = {
    # The file.
    "arch": "name of the model; must be the checkpoint's, in any case",
    "dataset": "name of the data set, of which the sample is taken",
    "layers": "list of layers, in the order in which they run",
    "output_map": "output processors of the last layer",
    "unload": "list of areas to unload instead of the outputs' own",
    "data_buffer": "rolling buffer",
    "weights": "file of test weights, for arch test",
    "bias": "file of test biases, for arch test",
    "skip_checkpoint_layers": "layers of the checkpoint that the network does not use",
    "snoop": "bus snooping",
    "channels": "number of channels",
    "dim": "rows and columns",
    "offset": "byte offset in data memory",
    "width": "bits of a value",
    # What a layer computes.
    "op": "operator; Conv2d where it is not given (with a warning)",
    "eltwise": "combine the operands in front of the operator",
    "operands": "number of operands (default 2)",
    "pool_first": "pool each operand before combining (default true)",
    "kernel_size": "kernel; default 3x3, 9 for Conv1d",
    "pad": "zeros on each side; default 1 for convolutions, else 0",
    "stride": "stride of the operator; 1, transposed 2",
    "dilation": "distance of the taps; Conv1d only on the MAX78000",
    "max_pool": "window of maximum pooling in front of the operator",
    "avg_pool": "window of average pooling in front of the operator",
    "pool_stride": "stride of the pooling (default 1, with a warning); alone: subsampling",
    "output_pad": "transposed convolution: 1",
    "groups": "groups of the convolution (default 1)",
    "activate": "activation behind the operator (default none)",
    "quantization": "weight bits; default: the checkpoint's",
    "output_shift": "shift instead of the checkpoint's, positive = left",
    "output_width": "32 for raw accumulators (last layer; default 8)",
    "flatten": "Linear reads a map as one vector",
    # How layers connect.
    "sequence": "position in the order; default the one after the layer before",
    "name": "name for references and reports",
    "in_sequences": "sources; default the layer before. Several are operands or a concatenation",
    "next_sequence": "the next layer, or stop",
    "in_channels": "input channels, to check against what the sources give",
    "out_channels": "output channels, to check against the weights",
    "in_dim": "rows and columns in which the source is read, same number of pixels",
    "in_crop": "rows (1-D: samples) to drop at start and end of the source",
    "in_channel_skip": "leading channels of the sample to drop",
    "output": "also an output of the network (default: the last layer only)",
    "weight_source": "layer whose weights this one uses too",
    "unit_weights": "1x1 convolution that copies `out_channels` channels (default: all behind) from this one on; the "
                    "checkpoint has no entry for it",
    "buffer_shift": "rolling buffer: shift by so many",
    "buffer_insert": "rolling buffer: write so many",
    # Where it lies on the MAX78000.
    "processors": "64-bit map of the processors that read the input, one per channel of a pass",
    "output_processors": "map of those to which outputs go; default: the next layer's map",
    "in_offset": "byte offset of the input in data memory; default: where the source was written",
    "out_offset": "byte offset of the output in data memory",
    "write_gap": "words left free after each word written",
    "data_format": "layout of the network's input, first layer only (default HWC)",
    "streaming": "start before the previous layer is complete; implies input through the FIFO",
    "bias_group": "quadrants whose bias memory may be used",
}
"""Key -> meaning, in the order of the page; a key of the MAX78002 only has none."""


def yaml_keys_page() -> str:
    """Keys of the network file with what they accept."""
    lines = ["Keys of a network file, `networks/*.yaml`. Introduction: [networks.md](../networks.md)."]
    for title, table in (("The file", yaml_keys.FILE_KEYS), ("An item of `layers`", yaml_keys.LAYER_KEYS),
                         ("An item of `unload`", yaml_keys.UNLOAD_KEYS),
                         ("The item of `data_buffer`", yaml_keys.DATA_BUFFER_KEYS)):
        lines += ["", f"## {title}", "", *_table(("Key", "Synonyms", "Values", "Meaning"), _key_rows(table))]
    lines += ["", "## Spellings of the operator", ""]
    operators = ((f"`{name}`", op.value, eltwise.value if eltwise else "")
                 for name, (op, eltwise) in yaml_keys.OPERATORS.items())
    return _page("YAML keys", [*lines, *_table(("Word", "Operator", "Element-wise"), operators)])


def _key_rows(table: Mapping[str, Key]) -> Iterator[tuple[str, str, str, str]]:
    for key in {key.name: key for key in table.values()}.values():
        meaning = KEY_MEANINGS.get(key.name, "not available on this chip")
        name = f"`{key.name}`" + (" (mandatory)" if key.mandatory else "")
        yield name, ", ".join(f"`{word}`" for word in key.synonyms), accepted_values(key), meaning


def accepted_values(key: Key) -> str:
    """What a key's reader accepts, in the words of its own messages."""
    if key.reader is None:
        return "list"
    place = Source(file="")
    large = _refusal(key, ScalarNode(source=place, text=str(MAX_INTEGER), plain=True))
    scalar = _refusal(key, ScalarNode(source=place, text="?", plain=True))
    several = _refusal(key, ListNode(source=place, items=()))
    words = [_NO_LIMIT.sub(r", \1 or more", large or scalar), _LIST_RULES.get(several, "")]
    return ", ".join(word for word in words if word)


def _refusal(key: Key, node: ScalarNode | ListNode) -> str:
    if key.reader is None:
        return ""
    try:
        key.reader(node)
    except BadValue as bad:
        return bad.allowed
    return ""


# ---------------------------------------------------------------------------------------------- limits


def limits_max78000_page() -> str:
    """Constraint functions of the MAX78000 and the numbers they use."""
    lines = ["What a network may ask of the MAX78000. Everything is checked before anything is written.",
             "", "## Rules", ""]
    lines += _table(("Codes", "Rule"), [(codes_in(rule), _rule_of(rule)) for rule in RULES])
    lines += ["", "## Numbers", "", *_record(MAX78000.limits)]
    return _page("Limits of the MAX78000", [*lines, "", "## Memories", "", *_record(MAX78000.geometry)])


def limits_k210_page() -> str:
    """Constraint functions of the K210 and the numbers they use."""
    lines = ["What a network may ask of the K210. What cannot be computed bit for bit is refused, never approximated.",
             "", "## Rules", ""]
    lines += _table(("Codes", "Rule"), [(codes_in(rule), rule_text(rule) + ".") for rule in k210_constraints.RULES])
    chip = k210_device.K210
    for title, record in (("Numbers", chip.limits), ("Memories", chip.memory), ("Alignment", chip.alignment)):
        lines += ["", f"## {title}", "", *_record(record)]
    return _page("Limits of the K210", lines)


def _rule_of(function: Callable[..., Any]) -> str:
    """A rule's docstring as one paragraph, without its source."""
    return " ".join((inspect.getdoc(function) or "").split("Source:")[0].split())


def _record(record: Any) -> list[str]:
    """A dataclass of plain values as a table."""
    rows = []
    for item in dataclasses.fields(record):
        value = getattr(record, item.name)
        large = isinstance(value, int) and value >= 1 << 20
        rows.append((f"`{item.name}`", f"{value:#x}" if large else _value_text(value)))
    return _table(("Name", "Value"), rows)


def _value_text(value: Any) -> str:
    if isinstance(value, tuple):
        inner = [_value_text(part) for part in value]
        return "x".join(inner) if len(value) == 2 and all(isinstance(part, int) for part in value) else ", ".join(inner)
    return f"{value:,}" if isinstance(value, int) else str(value)


# ---------------------------------------------------------------------------------------------- registers


def registers_max78000_page() -> str:
    """Register tables of the MAX78000's accelerator."""
    places = MAX78000.geometry
    lines = ["Registers of the accelerator; `Source` is a section of [max78000-cnn.md](../spec/max78000-cnn.md)."]
    row_names = {register.name for register in (*LAYER_REGISTERS, *STREAM_REGISTERS)}
    plain = [register for register in MAX78000.quadrant.registers if register.name not in row_names]
    quadrant = f"quadrant q at {places.register_base:#x} + q * {places.quadrant_stride:#x}"
    for title, registers in (
        (f"Global registers, {quadrant}", plain),
        (f"Layer registers, layer l at offset + 4 * l, {quadrant}", LAYER_REGISTERS),
        (f"Stream registers, layer l at offset + 4 * l, {quadrant}", STREAM_REGISTERS),
        (f"FIFO, at {places.fifo_base:#x}", MAX78000.fifo.registers),
        (f"Fast FIFO, at {places.fast_fifo_base:#x}", MAX78000.fast_fifo.registers),
        (f"Always-on control, at {places.aod_base:#x}", MAX78000.aod.registers),
        (f"Power, isolation, reset, at {places.gcfr_base:#x}", MAX78000.gcfr.registers),
        (f"Clocks, at {places.gcr_base:#x}", MAX78000.gcr.registers),
    ):
        lines += ["", f"## {title}", "", *_register_table(registers)]
    return _page("Registers of the MAX78000's accelerator", lines)


def registers_k210_page() -> str:
    """KPU registers, layer argument and parameter words of the K210."""
    lines = ["Registers of the KPU; `Source` is a section of [k210-kmodel.md](../spec/k210-kmodel.md)."]
    base = k210_device.K210.memory.kpu_registers
    for title, registers in ((f"Registers, at {base:#x}", k210_device.KPU_REGISTERS.registers),
                             ("Layer argument: twelve words, in this order", k210_device.LAYER_ARGUMENT),
                             ("Parameter words", (k210_device.BATCH_NORM_WORD, k210_device.TABLE_WORD))):
        lines += ["", f"## {title}", "", *_register_table(registers)]
    pools = ((str(pool.code), pool.name, str(pool.stride)) for pool in k210_device.POOL_TYPES)
    return _page("Registers of the K210's KPU",
                 [*lines, "", "## Values of pool_type", "", *_table(("Value", "Operation", "Stride"), pools)])


def _register_table(registers: Iterable[Register]) -> list[str]:
    rows = []
    for register in registers:
        first = f"`{register.name}`" + (f" x {register.count}" if register.count > 1 else "")
        access = "" if register.access is Access.RW else register.access.value
        reset = f"reset {register.reset:#x}" if register.reset else ""
        about = "; ".join(part for part in (register.doc, access, reset) if part)
        rows.append((f"**{first}**", f"{register.offset:#05x}", "", about, register.source.removeprefix("section ")))
        for field in register.fields:
            bits = str(field.low) if field.width == 1 else f"{field.high}:{field.low}"
            doc = field.doc + ((", " if field.doc else "") + "signed" if field.signed else "")
            rows.append((f"`{field.name}`", "", bits, doc, ""))
    return _table(("Register, field", "Offset", "Bits", "Meaning", "Source"), rows)


# ---------------------------------------------------------------------------------------------- error codes

_RANGES = (
    ("E01", "Syntax and bounds of files"), ("E02", "Keys and values of the network file"),
    ("E03", "Network against device"), ("E04", "Memory"), ("E05", "Checkpoints"),
    ("E06", "Data sets and training"), ("E07", "kmodel and ONNX"), ("E08", "Environment"),
    ("W03", "Warnings and notices"),
)


def error_codes_page() -> str:
    """Every code that the source can print."""
    lines = [
        "Every finding that ai8x prints has a code, a place, what was found, what is allowed and a remedy. `…` stands "
        "for a name or a number. `I0001` is a defect of ai8x: its message names a log file to report.", "",
        "Exit status: " + ", ".join(f"{status.value} {_status_words(status)}" for status in ExitStatus) + ".",
    ]
    uses = scan_package(PACKAGE)
    for prefix, title in _RANGES:
        chosen = [use for use in uses if use.code.startswith(prefix)]
        lines += ["", f"## {prefix}xx: {title}", "",
                  *_table(("Code", "Message", "Remedy", "Module"), _code_rows(chosen))]
    return _page("Error codes", lines)


def _status_words(status: ExitStatus) -> str:
    return {ExitStatus.SUCCESS: "success", ExitStatus.INTERNAL: "internal error", ExitStatus.USER: "input refused",
            ExitStatus.MISMATCH: "verification found a difference", ExitStatus.INTERRUPTED: "interrupted"}[status]


def _code_rows(uses: Iterable[CodeUse]) -> Iterator[tuple[str, str, str, str]]:
    modules: dict[tuple[str, ...], list[str]] = {}
    for use in uses:
        level = "" if use.level == "error" else f" ({use.level})"
        modules.setdefault((use.code, level, use.message, use.help), []).append(use.module)
    previous = ""
    for (code, level, message, help_text), names in modules.items():
        first = "" if code == previous else f"`{code}`"
        yield first + level, message or "(the message names the problem)", help_text, ", ".join(names)
        previous = code


# ---------------------------------------------------------------------------------------------- writing

PAGES: Mapping[str, Callable[[], str]] = {
    "options.md": options_page,
    "yaml-keys.md": yaml_keys_page,
    "limits-max78000.md": limits_max78000_page,
    "limits-k210.md": limits_k210_page,
    "registers-max78000.md": registers_max78000_page,
    "registers-k210.md": registers_k210_page,
    "error-codes.md": error_codes_page,
}
"""File below `REFERENCE` -> what makes it."""


def _page(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"# {title}", "", NOTICE, "", *lines]) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in rows:
        cells = (" ".join(cell.split()).replace("|", "\\|") for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def stale_pages(folder: Path = REFERENCE) -> dict[str, str]:
    """Pages that differ from what the code says now, missing ones included: name -> what it should be."""
    current = {name: page() for name, page in PAGES.items()}
    return {name: text for name, text in current.items()
            if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages, or compare them.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0 written or up to date, 2 no checkout, 3 stale with ``--check``.
    """
    parser = argparse.ArgumentParser(prog="python -m ai8x.manual", description="Write docs/reference from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 3 where a page is stale")
    parser.add_argument("--out", type=Path, default=REFERENCE, metavar="DIR", help="folder (default: docs/reference)")
    arguments = parser.parse_args(argv)
    return run_main(lambda: _execute(arguments.out, check=arguments.check))


def _execute(folder: Path, *, check: bool) -> int:
    if not folder.parent.is_dir():
        raise user_error("E0814", "the manual belongs to a checkout of the repository",
                         source=Source(file=str(folder)), help="run this command in a checkout")
    stale = stale_pages(folder)
    for name, text in stale.items():
        if not check:
            folder.mkdir(exist_ok=True)
            write_text(folder / name, text)
        sys.stdout.write(f"{'stale' if check else 'wrote'}: {folder / name}\n")
    return ExitStatus.MISMATCH if check and stale else ExitStatus.SUCCESS


if __name__ == "__main__":
    sys.exit(main())
