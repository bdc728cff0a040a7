"""Writes the reference pages of the manual from the code that they describe.

``python -m ai8x.manual`` writes ``docs/reference``, ``--check`` only says which pages are stale, and an error code as
argument prints its page. The pages hold what the code knows anyway: options, keys, limits, registers, error codes (the
last from `ai8x.manual_errors`). Nothing here is a second statement of a fact, apart from the one-line meanings of the
YAML keys. Start at `PAGES` and `main`.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from ai8x import simulate
from ai8x.cli import demo, kmodel, quantize, synthesize, train
from ai8x.cli.common import CommandParser, run_main
from ai8x.errors import ExitStatus, Source, user_error
from ai8x.files import write_text
from ai8x.k210 import constraints as k210_constraints
from ai8x.k210 import device as k210_device
from ai8x.k210.constraints import rule_text
from ai8x.manual_codes import codes_in
from ai8x.manual_errors import error_page, error_pages, uses
from ai8x.manual_schema import errors_schema, network_schema, schema_text
from ai8x.manual_text import NOTICE, page, rule_of, table
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

COMMANDS: tuple[tuple[str, Callable[[Sequence[str]], int], str], ...] = (
    ("train.py", train.main, "`python train.py`, or `ai8x-train` where the package is installed."),
    ("quantize.py", quantize.main, "`python quantize.py IN OUT`, or `ai8x-quantize`."),
    ("synthesize.py", synthesize.main, "`python synthesize.py NET.yaml CKPT`, or `ai8x-synthesize`."),
    ("ai8x.cli.kmodel", kmodel.main, "`python -m ai8x.cli.kmodel COMMAND`."),
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
    return page("Options", lines)


def _option_tables(parser: argparse.ArgumentParser) -> list[str]:
    rows = []
    for group in parser._action_groups:
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                continue
            text = (action.help or "") % {**vars(action), "prog": parser.prog}
            rows.append((f"`{_option_name(action)}`", text, _group_title(group)))
    return ["", *table(("Option", "Meaning", "Group"), rows)] if rows else []


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
    for title, keys in (("The file", yaml_keys.FILE_KEYS), ("An item of `layers`", yaml_keys.LAYER_KEYS),
                         ("An item of `unload`", yaml_keys.UNLOAD_KEYS),
                         ("The item of `data_buffer`", yaml_keys.DATA_BUFFER_KEYS)):
        lines += ["", f"## {title}", "", *table(("Key", "Synonyms", "Values", "Meaning"), _key_rows(keys))]
    lines += ["", "## Spellings of the operator", ""]
    operators = ((f"`{name}`", op.value, eltwise.value if eltwise else "")
                 for name, (op, eltwise) in yaml_keys.OPERATORS.items())
    return page("YAML keys", [*lines, *table(("Word", "Operator", "Element-wise"), operators)])


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
    lines += table(("Codes", "Rule"), [(codes_in(rule), rule_of(rule)) for rule in RULES])
    lines += ["", "## Numbers", "", *_record(MAX78000.limits)]
    return page("Limits of the MAX78000", [*lines, "", "## Memories", "", *_record(MAX78000.geometry)])


def limits_k210_page() -> str:
    """Constraint functions of the K210 and the numbers they use."""
    lines = ["What a network may ask of the K210. What cannot be computed bit for bit is refused, never approximated.",
             "", "## Rules", ""]
    lines += table(("Codes", "Rule"), [(codes_in(rule), rule_text(rule) + ".") for rule in k210_constraints.RULES])
    chip = k210_device.K210
    for title, record in (("Numbers", chip.limits), ("Memories", chip.memory), ("Alignment", chip.alignment)):
        lines += ["", f"## {title}", "", *_record(record)]
    return page("Limits of the K210", lines)


def _record(record: Any) -> list[str]:
    """A dataclass of plain values as a table."""
    rows = []
    for item in dataclasses.fields(record):
        value = getattr(record, item.name)
        large = isinstance(value, int) and value >= 1 << 20
        rows.append((f"`{item.name}`", f"{value:#x}" if large else _value_text(value)))
    return table(("Name", "Value"), rows)


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
    return page("Registers of the MAX78000's accelerator", lines)


def registers_k210_page() -> str:
    """KPU registers, layer argument and parameter words of the K210."""
    lines = ["Registers of the KPU; `Source` is a section of [k210-kmodel.md](../spec/k210-kmodel.md)."]
    base = k210_device.K210.memory.kpu_registers
    for title, registers in ((f"Registers, at {base:#x}", k210_device.KPU_REGISTERS.registers),
                             ("Layer argument: twelve words, in this order", k210_device.LAYER_ARGUMENT),
                             ("Parameter words", (k210_device.BATCH_NORM_WORD, k210_device.TABLE_WORD))):
        lines += ["", f"## {title}", "", *_register_table(registers)]
    pools = ((str(pool.code), pool.name, str(pool.stride)) for pool in k210_device.POOL_TYPES)
    return page("Registers of the K210's KPU",
                 [*lines, "", "## Values of pool_type", "", *table(("Value", "Operation", "Stride"), pools)])


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
    return table(("Register, field", "Offset", "Bits", "Meaning", "Source"), rows)


# ---------------------------------------------------------------------------------------------- writing

PAGES: Mapping[str, Callable[[], str]] = {
    "options.md": options_page,
    "yaml-keys.md": yaml_keys_page,
    "limits-max78000.md": limits_max78000_page,
    "limits-k210.md": limits_k210_page,
    "registers-max78000.md": registers_max78000_page,
    "registers-k210.md": registers_k210_page,
    "network.schema.json": lambda: schema_text(network_schema(KEY_MEANINGS)),
    "errors.schema.json": lambda: schema_text(errors_schema()),
}
"""File below `REFERENCE` -> what makes it."""

FAMILIES: tuple[Callable[[], Mapping[str, str]], ...] = (error_pages,)
"""Makers of many pages each, by their paths below `REFERENCE`."""


def current_pages() -> dict[str, str]:
    """Every page as the code says it now: path below the folder -> text."""
    pages = {name: make() for name, make in PAGES.items()}
    for family in FAMILIES:
        pages |= family()
    return pages


def stale_pages(folder: Path = REFERENCE) -> dict[str, str | None]:
    """Pages that differ from what the code says now: path -> what it should be; None where the code is gone."""
    current = current_pages()
    stale: dict[str, str | None] = {name: text for name, text in current.items() if _content(folder / name) != text}
    folders = {Path(name).parent for name in current} - {Path()}
    for path in (path for name in sorted(folders) for path in sorted((folder / name).glob("*.md"))):
        name = path.relative_to(folder).as_posix()
        if name not in current and NOTICE in (_content(path) or ""):
            stale[name] = None
    return stale


def _content(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages, compare them, or explain a code.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        0 written, printed or up to date, 2 no checkout or no such code, 3 stale with ``--check``.
    """
    parser = argparse.ArgumentParser(prog="python -m ai8x.manual",
                                     description="Write docs/reference from the code, or explain an error code.")
    parser.add_argument("code", nargs="?", metavar="CODE", help="print the page of this code, such as E0312")
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 3 where a page is stale")
    parser.add_argument("--out", type=Path, default=REFERENCE, metavar="DIR", help="folder (default: docs/reference)")
    arguments = parser.parse_args(argv)
    if arguments.code is not None:
        return run_main(lambda: _explain(arguments.code))
    return run_main(lambda: _execute(arguments.out, check=arguments.check))


def _explain(code: str) -> int:
    """Print the page of a code.

    Raises:
        UserError: E0818, there is no such code.
    """
    code = code.upper()
    if code not in uses():
        close = difflib.get_close_matches(code, uses(), n=1)
        raise user_error("E0818", f"there is no error code '{code}'", found=code,
                         allowed=f"one of {len(uses())} codes, such as E0312",
                         help=f"write {close[0]}" if close else "copy the code from the brackets of the message")
    sys.stdout.write(error_page(code).replace(f"{NOTICE}\n\n", ""))
    return ExitStatus.SUCCESS


def _execute(folder: Path, *, check: bool) -> int:
    if not folder.parent.is_dir():
        raise user_error("E0814", "the manual belongs to a checkout of the repository",
                         source=Source(file=str(folder)), found="no such folder", allowed="a checkout with docs/",
                         help="run this command in a checkout")
    stale = stale_pages(folder)
    for name, text in stale.items():
        if not check:
            _replace(folder / name, text)
        sys.stdout.write(f"{'stale' if check else 'removed' if text is None else 'wrote'}: {folder / name}\n")
    return ExitStatus.MISMATCH if check and stale else ExitStatus.SUCCESS


def _replace(path: Path, text: str | None) -> None:
    if text is None:
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


if __name__ == "__main__":
    sys.exit(main())
