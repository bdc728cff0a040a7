"""How what a command raises becomes a message and an exit status; two-level help."""

import json
import re
import sys
import tempfile
from pathlib import Path

import pytest

from ai8x.cli.common import CommandParser, print_diagnostics, run_main
from ai8x.errors import Diagnostic, HardwareFault, UserError, user_error


def raising(exception: BaseException) -> int:
    """Run a body that raises."""
    def body() -> int:
        raise exception

    return run_main(body)


@pytest.mark.parametrize(("value", "status"), [(None, 0), (0, 0), (3, 3)])
def test_the_bodys_status_is_the_commands(value: int | None, status: int) -> None:
    assert run_main(lambda: value) == status


@pytest.mark.parametrize(("exception", "status", "text"), [
    (user_error("E0101", "m"), 2, "error[E0101]: m"), (HardwareFault("bit 3"), 3, "hardware fault: bit 3"),
    (KeyboardInterrupt(), 130, "interrupted"),
])
def test_exceptions_on_purpose_have_a_status_and_a_message(exception: BaseException, status: int, text: str,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(exception) == status
    assert capsys.readouterr().err == f"{text}\n"


def test_an_internal_error_goes_to_a_log_file_and_not_to_the_terminal(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert raising(ValueError("a defect")) == 1
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    found = re.search(r"report it with (\S+),", printed)
    assert found
    assert printed.startswith("error[I0001]: internal error: ValueError: a defect\n")
    log = Path(found.group(1)).read_text()
    assert "Traceback" in log
    assert "a defect" in log


def test_without_room_for_a_log_file_the_message_comes_all_the_same(
        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert raising(ValueError("a defect")) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error[I0001]: internal error: ValueError: a defect\n")
    assert "--debug" in printed


def test_debugging_shows_the_traceback() -> None:
    def body() -> int:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        run_main(body, debug=True)


def test_findings_can_be_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    error = UserError([Diagnostic(code="E0101", message="m"), Diagnostic(code="E0102", message="n", help="h")])

    def body() -> int:
        raise error

    assert run_main(body, json_errors=True) == 2
    assert [finding["code"] for finding in json.loads(capsys.readouterr().err)] == ["E0101", "E0102"]
    print_diagnostics(error.diagnostics, json_errors=False)
    assert capsys.readouterr().err == "error[E0101]: m\n\nerror[E0102]: n\n  help:    h\n"


@pytest.mark.parametrize(("codes", "line"), [
    (("E0101",), "more about this error: python -m ai8x.manual E0101"),
    (("E0201", "E0201"), "more about this error: python -m ai8x.manual E0201"),
    (("E0201", "E0101"), "more about the first error: python -m ai8x.manual E0201"),
])
def test_a_person_at_a_terminal_is_told_where_to_read_more(codes: tuple[str, ...], line: str,
                                                           capsys: pytest.CaptureFixture[str],
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Diagnostic(code=code, message="m") for code in codes]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    print_diagnostics(findings)
    assert capsys.readouterr().err.endswith(f"\n\n{line}\n")
    print_diagnostics([Diagnostic(code="W0303", message="m", level="notice")])
    assert "more about" not in capsys.readouterr().err
    print_diagnostics(findings, json_errors=True)
    assert len(json.loads(capsys.readouterr().err)) == len(codes)


@pytest.fixture
def parser() -> CommandParser:
    parser = CommandParser(prog="tool")
    group = parser.add_argument_group("some")
    group.add_argument("--plain", help="always listed")
    parser.advanced(group, "--rare", type=int, default=3, help="listed on request")
    return parser


def test_advanced_options_work_but_are_listed_on_request_only(parser: CommandParser,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    assert parser.parse_args(["--rare", "5"]).rare == 5
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--help"])
    assert stopped.value.code == 0
    short = capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--help-all"])
    assert stopped.value.code == 0
    long = capsys.readouterr().out
    assert "--plain" in short
    assert "listed on request" not in short
    assert "--rare" not in short
    assert "listed on request" in long


def test_options_cannot_be_abbreviated(parser: CommandParser) -> None:
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--rar", "5"])
    assert stopped.value.code == 2


def test_an_unknown_option_names_the_nearest_one(parser: CommandParser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--rar", "5"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith("unrecognized arguments: --rar 5; did you mean --rare?\n")


def test_a_negative_number_is_a_value_even_beside_an_option_like_it(parser: CommandParser) -> None:
    parser.add_argument("-8", dest="eight", action="store_true")
    parsed = parser.parse_args(["--rare", "-1", "-8"])
    assert (parsed.rare, parsed.eight) == (-1, True)
