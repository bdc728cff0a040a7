"""The manual says what the code does: generated pages, cited sections, commands and links of the documents."""

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from ai8x import manual, simulate
from ai8x.cli import demo, kmodel, quantize, synthesize, train
from ai8x.errors import ExitStatus
from ai8x.manual_codes import CodeUse, codes_in, scan_package, shared_codes
from ai8x.manual_errors import EXAMPLES, error_page, index_page, uses
from ai8x.manual_text import NOTICE
from ai8x.network import yaml_keys

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SPEC = DOCS / "spec"
DOCUMENTS = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
SOURCES = sorted(path for path in (ROOT / "ai8x").rglob("*")
                 if path.suffix in (".py", ".j2", ".c", ".h", ".ld") and path.is_file())


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- generated pages ------------------------------------------------------------------------------------------------


def test_reference_pages_are_what_the_code_says() -> None:
    assert not list(manual.stale_pages()), "run: python -m ai8x.manual"


def test_pages_are_found_stale_after_a_change(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manual, "PAGES", {name: manual.PAGES[name] for name in ("options.md", "registers-k210.md")})
    monkeypatch.setattr(manual, "FAMILIES", ())
    out = tmp_path / "reference"
    assert manual.main(["--check", "--out", str(out)]) == ExitStatus.MISMATCH
    assert not out.exists()
    assert manual.main(["--out", str(out)]) == ExitStatus.SUCCESS
    assert sorted(path.name for path in out.iterdir()) == sorted(manual.PAGES)
    page = out / "options.md"
    page.write_text(page.read_text(encoding="utf-8") + "x", encoding="utf-8")
    capsys.readouterr()
    assert manual.main(["--check", "--out", str(out)]) == ExitStatus.MISMATCH
    stale = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stale")]
    assert stale == [f"stale: {page}"]


def test_pages_of_codes_that_are_gone_are_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manual, "PAGES", {})
    monkeypatch.setattr(manual, "FAMILIES", (lambda: {"errors/E0101.md": f"# E0101\n\n{NOTICE}\n"},))
    folder = tmp_path / "reference" / "errors"
    folder.mkdir(parents=True)
    (folder / "E0100.md").write_text(f"# E0100\n\n{NOTICE}\n", encoding="utf-8")
    (folder / "own.md").write_text("# Mine\n", encoding="utf-8")
    assert manual.main(["--check", "--out", str(tmp_path / "reference")]) == ExitStatus.MISMATCH
    assert manual.main(["--out", str(tmp_path / "reference")]) == ExitStatus.SUCCESS
    assert sorted(path.name for path in folder.iterdir()) == ["E0101.md", "own.md"]
    assert f"removed: {folder / 'E0100.md'}" in capsys.readouterr().out
    assert manual.main(["--check", "--out", str(tmp_path / "reference")]) == ExitStatus.SUCCESS


def test_folder_outside_of_a_checkout_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert manual.main(["--out", str(tmp_path / "missing" / "reference")]) == ExitStatus.USER
    assert "E0814" in capsys.readouterr().err


def test_every_available_key_of_the_network_file_has_a_meaning() -> None:
    tables = (yaml_keys.FILE_KEYS, yaml_keys.LAYER_KEYS, yaml_keys.UNLOAD_KEYS, yaml_keys.DATA_BUFFER_KEYS)
    known = {key.name for table in tables for key in table.values()}
    without = known - set(manual.KEY_MEANINGS)
    assert {"pool_dilation", "in_skip", "bypass"} <= without <= {
        "pool_dilation", "in_skip", "simulated_sequence", "snoop_sequence", "bypass", "calcx4", "readahead", "tcalc"}
    assert not set(manual.KEY_MEANINGS) - known


def test_values_of_a_key_are_those_of_its_messages() -> None:
    assert manual.accepted_values(yaml_keys.LAYER_KEYS["operands"]) == "an integer from 2 to 16"
    assert manual.accepted_values(yaml_keys.LAYER_KEYS["quantization"]) == "1, 2, 4, 8"
    assert manual.accepted_values(yaml_keys.LAYER_KEYS["max_pool"]) == "an integer, 1 or more, or [rows, columns]"
    assert manual.accepted_values(yaml_keys.LAYER_KEYS["bias_group"]) == "an integer from 0 to 3, or a list of them"


def test_advanced_options_are_on_the_page() -> None:
    page = manual.options_page()
    for option in ("--exp-load-weights-from", "--no-tensorboard", "--clip-method", "--test-samples", "--gdb PORT"):
        assert option in page


# --- error codes ----------------------------------------------------------------------------------------------------


def uses_of_codes() -> tuple[CodeUse, ...]:
    return tuple(use for group in uses().values() for use in group)


EXAMPLE = '''
HELP = "try again"

def user_error(code, message, *, help=""):
    return ValueError(code, message, help)

def read(path, *, limit, code="E0101"):
    raise user_error(code, f"{path} cannot be read", help=HELP)

def odd(name, text):
    raise user_error("E0202", text, help="remove it" if name else "rename it")

def work(path, wide):
    read(path, limit=3)
    read(path, limit=3, code="E0501")
    odd(path, f"a {'wide' if wide else 'narrow'} path")
    what = "too wide" if wide else "too narrow"
    if path.code != "E0999":
        raise user_error("E0303" if wide else "E0304", what)
'''


def test_scan_finds_messages_behind_helpers_defaults_and_conditions(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text(EXAMPLE, encoding="utf-8")
    found = {(use.code, use.message, use.help) for use in scan_package(tmp_path)}
    assert found == {
        ("E0101", "… cannot be read", "try again"), ("E0501", "… cannot be read", "try again"),
        ("E0202", "a wide path", "remove it / rename it"), ("E0202", "a narrow path", "remove it / rename it"),
        ("E0303", "too wide", ""), ("E0304", "too narrow", ""),
    }


def test_one_code_with_two_meanings_is_reported() -> None:
    def use(code: str, module: str, message: str) -> CodeUse:
        return CodeUse(code=code, module=module, message=message, help="")

    uses = [use("E0101", "a", "x"), use("E0101", "b", "x"), use("E0102", "a", "x"), use("E0102", "b", "y")]
    assert shared_codes(uses) == {"E0102": ("a", "b")}


def test_codes_of_a_rule_include_those_of_its_helpers() -> None:
    assert codes_in(scan_package) == ""
    assert codes_in(train.main) >= "E0621"


ONE_MEANING_IN_SEVERAL_MODULES = {
    "E0101", "E0204", "E0205", "E0235", "E0239", "E0240", "E0424", "E0463", "E0520", "E0701", "E0761", "E0762", "E0763",
    "E0801", "E0805", "E0806",
}
"""Reviewed: different words for the same finding."""


def test_every_code_in_the_source_is_found() -> None:
    mentioned = {code for path in SOURCES if path.suffix == ".py"
                 for code in re.findall(r'"([EW]\d{4})"', path.read_text(encoding="utf-8"))}
    assert mentioned == {use.code for use in uses_of_codes()}


def test_no_code_means_two_things() -> None:
    shared = shared_codes(uses_of_codes())
    assert not {code: modules for code, modules in shared.items() if code not in ONE_MEANING_IN_SEVERAL_MODULES}


# --- pages of error codes -------------------------------------------------------------------------------------------


def test_every_code_has_a_page_in_the_list() -> None:
    index = index_page()
    assert all(f"[{code}]({code}.md)" in index for code in uses())
    assert index.count(".md)") == len(uses())


@pytest.mark.parametrize("code", EXAMPLES)
def test_an_example_prints_its_code_and_no_other(code: str) -> None:
    page = error_page(code)
    told = page.split("```text")[1].split("```")[0]
    assert set(re.findall(r"(?:error|warning|notice)\[([EWI]\d{4})\]", told)) == {code}
    assert told.count("  help:    ") == len(re.findall(r"(?:error|warning|notice)\[", told))
    if code.startswith("E"):
        assert "  found:   " in told and "  allowed: " in told
    assert "/tmp" not in told


def test_examples_cover_what_network_files_and_their_synthesis_meet() -> None:
    codes = {use.code for group in uses().values() for use in group
             if use.module.startswith(("network.yaml", "network.connections", "network.operators", "network.build",
                                       "max7800x.constraints"))}
    without = codes - set(EXAMPLES)
    assert len(EXAMPLES) > 100
    assert len(without) < len(codes) / 3, sorted(without)


def test_a_rule_of_a_chip_stands_on_the_page_of_its_code() -> None:
    assert "Rule of the MAX78000: Padding is 0 to 2 and smaller than the kernel." in error_page("E0324")
    assert error_page("E0312").count("Rule of the") == 1
    assert "Rule of the K210: " in error_page("E0350")


def test_a_code_is_explained_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert manual.main(["e0324"]) == ExitStatus.SUCCESS
    out = capsys.readouterr().out
    assert out.startswith("# E0324\n") and "pad: 1" in out and NOTICE not in out
    assert manual.main(["E0325x"]) == ExitStatus.USER
    found = capsys.readouterr().err
    assert "E0818" in found and "write E0325" in found


# --- citations ------------------------------------------------------------------------------------------------------

_NUMBER = r"\d+(?:\.\d+)*[a-z]?"
_NUMBERS = rf"{_NUMBER}(?:(?:\s*,\s*(?:and\s+)?|\s+(?:and|to|or)\s+){_NUMBER}(?![\w.]))*"
_PAGE_CITATION = re.compile(rf"(spec/)?\b([a-z0-9]+(?:-[a-z0-9]+)*)\.md[;,]?\s+(?:sections?\s+)?({_NUMBERS})")
_BARE_CITATION = re.compile(rf"\b[Ss]ections?\s+({_NUMBERS})")


@cache
def sections(page: str) -> frozenset[str]:
    """Section numbers of a page's headings."""
    text = (SPEC / f"{page}.md").read_text(encoding="utf-8")
    return frozenset(re.findall(rf"^#+\s+({_NUMBER})\.?\s", text, re.MULTILINE))


def text_of(path: Path) -> str:
    """A source with comment marks and line breaks removed, so that citations are in one piece."""
    return re.sub(r"\s+", " ", re.sub(r"\n\s*#\s*", "\n", path.read_text(encoding="utf-8")))


def cited_pages(path: Path) -> list[str]:
    text = text_of(path)
    pages = [page.stem for page in SPEC.glob("*.md") if f"{page.stem}.md" in text]
    by_folder = {"max7800x": "max78000-cnn", "k210": "k210-kmodel", "nn": "ai8x-training", "training": "ai8x-training"}
    return pages or [by_folder.get(path.parent.name, "max78000-cnn")]


def missing_sections(path: Path) -> Iterator[str]:
    text = text_of(path)
    for prefix, page, numbers in _PAGE_CITATION.findall(text):
        if (SPEC / f"{page}.md").is_file():
            yield from (f"{page}.md section {number}" for number in set(re.findall(_NUMBER, numbers)) - sections(page))
        elif prefix:
            yield f"{page}.md"
    known = frozenset().union(*(sections(page) for page in cited_pages(path)))
    for numbers in _BARE_CITATION.findall(_PAGE_CITATION.sub("", text)):
        yield from (f"section {number}" for number in set(re.findall(_NUMBER, numbers)) - known)


CITING = [path for path in SOURCES if "section" in path.read_text(encoding="utf-8").lower()]


@pytest.mark.parametrize("path", CITING, ids=relative)
def test_cited_sections_exist(path: Path) -> None:
    assert not sorted(missing_sections(path))


def test_the_check_of_citations_would_notice_a_missing_section(tmp_path: Path) -> None:
    source = tmp_path / "example.py"
    source.write_text('"""Source: spec/k210-kmodel.md sections 1, 2 and\n    99.1; spec/nothing.md section 1."""\n'
                      "# section 98\n", encoding="utf-8")
    assert sorted(missing_sections(source)) == ["k210-kmodel.md section 99.1", "nothing.md", "section 98"]


# --- commands and links of the documents ----------------------------------------------------------------------------

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train.py": train.main, "quantize.py": quantize.main, "synthesize.py": synthesize.main, "ai8x-train": train.main,
    "ai8x-quantize": quantize.main, "ai8x-synthesize": synthesize.main, "ai8x-simulate": simulate.main,
    "ai8x.simulate": simulate.main, "ai8x.cli.demo": demo.main, "ai8x.manual": manual.main,
    "ai8x.cli.kmodel": kmodel.main,
}


def shell_lines(path: Path) -> Iterator[str]:
    """Lines of shell blocks."""
    text = path.read_text(encoding="utf-8")
    for block in re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from (line.removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines())


def code_in_prose(path: Path) -> Iterator[str]:
    """Code in running text that starts like a command; arguments may be missing there."""
    prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    yield from (span for span in re.findall(r"`([^`\n]+)`", prose) if span.startswith(("python ", "make ")))


def command_of(line: str) -> list[str]:
    """Words of a command of ours: the script, module or ``make``, then its arguments; empty for other commands."""
    words = shlex.split(line, comments=True)
    while words and "=" in words[0]:  # variables of the environment
        del words[0]
    if words[:1] == ["make"]:
        return words
    words = [word for word in words if word not in ("python", "python3", "-m")]
    return words if words and (words[0] in COMMANDS or words[0].endswith(".py")) else []


def collect(lines: Callable[[Path], Iterator[str]]) -> dict[str, list[str]]:
    """Readable name -> words of every command in the documents."""
    found = ((path, command_of(line)) for path in DOCUMENTS for line in lines(path))
    return {f"{relative(path)}: {' '.join(words)}": words for path, words in found if words}


SHELL_COMMANDS, PROSE_COMMANDS = collect(shell_lines), collect(code_in_prose)


def targets_of_make() -> set[str]:
    makefiles = (ROOT / "Makefile", *(ROOT / f"ai8x/{chip}/templates/Makefile.j2" for chip in ("max7800x", "k210")))
    text = "\n".join(file.read_text(encoding="utf-8") for file in makefiles)
    return set(re.findall(r"^([a-z][\w.-]*):", text, re.MULTILINE)) | {"flash.openocd"}  # of the vendor's SDK


def unknown_targets(words: list[str]) -> set[str]:
    """Targets in a command line of make that no Makefile of ours has."""
    folder = words.index("-C") if "-C" in words else len(words)
    words = words[:folder] + words[folder + 2:]
    return {word for word in words[1:] if "=" not in word} - targets_of_make()


@pytest.mark.parametrize("words", SHELL_COMMANDS.values(), ids=SHELL_COMMANDS.keys())
def test_commands_of_the_documents_parse(words: list[str]) -> None:
    if words[0] == "make":
        assert not unknown_targets(words)
    elif words[0] not in COMMANDS:
        assert (ROOT / words[0]).is_file(), "no such script"
    else:
        try:
            manual.parser_of(COMMANDS[words[0]]).parse_args(words[1:])
        except SystemExit as stop:
            assert not stop.code, "the command does not know these arguments"


@pytest.mark.parametrize("words", PROSE_COMMANDS.values(), ids=PROSE_COMMANDS.keys())
def test_options_in_the_text_exist(words: list[str]) -> None:
    if words[0] == "make":
        assert not unknown_targets(words)
        return
    parser = manual.parser_of(COMMANDS[words[0]])
    parsers = [parser, *manual.subcommands(parser).values()]
    known = {option for each in parsers for action in each._actions for option in action.option_strings}
    assert {word for word in words[1:] if re.match("-[^0-9]", word)} <= known


def test_documents_hold_commands() -> None:
    assert len(SHELL_COMMANDS) > 10 and len(PROSE_COMMANDS) > 3


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    pages = [link for link in links if "://" not in link and not link.endswith(".png")]
    assert not [link for link in pages if not (path.parent / link).exists()]
