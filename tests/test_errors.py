"""How messages look: the parts of docs/design.md "Messages" in their order."""

import json
import re
import traceback
from pathlib import Path

import pytest

from ai8x.errors import (
    MAX_SHOWN,
    Diagnostic,
    Diagnostics,
    ExitStatus,
    HardwareFault,
    Source,
    UserError,
    format_diagnostics,
    user_error,
)

LINE = "    processors: 0x00000000ffffffff"
PLACE = Source(file="networks/kws20.yaml", line=20, column=17, length=18, text=LINE)
FULL = Diagnostic(code="E0312", message="60 input channels need 60 processors, 32 are enabled", source=PLACE,
                  layer="conv2", layer_index=1, found="32 enabled processors in 0x00000000ffffffff",
                  allowed="one enabled processor per input channel of a pass (1 pass: 60)",
                  help="write processors: 0x0fffffffffffffff")


def test_a_complete_message_has_the_form_of_the_manual() -> None:
    assert FULL.format() == """\
networks/kws20.yaml:20:17: error[E0312]: layer 1 'conv2': 60 input channels need 60 processors, 32 are enabled
   20 |     processors: 0x00000000ffffffff
                        ^^^^^^^^^^^^^^^^^^
  found:   32 enabled processors in 0x00000000ffffffff
  allowed: one enabled processor per input channel of a pass (1 pass: 60)
  help:    write processors: 0x0fffffffffffffff"""


def test_the_marks_stand_under_the_value() -> None:
    line, marks = PLACE.excerpt().splitlines()
    assert line[marks.index("^"):] == "0x00000000ffffffff"
    assert len(marks) == len(line)


@pytest.mark.parametrize(("source", "text"), [
    (Source(file="a.yaml"), "a.yaml"), (Source(file="a.yaml", line=3, column=1, text="x"), "a.yaml:3:1"),
])
def test_a_place_prints_as_editors_understand_it(source: Source, text: str) -> None:
    assert str(source) == text


@pytest.mark.parametrize("source", [Source(file="a"), Source(file="a", line=3, column=2)])
def test_without_the_text_of_the_line_there_is_no_excerpt(source: Source) -> None:
    assert source.excerpt() == ""


def test_marks_end_with_the_line_even_where_the_length_does_not() -> None:
    assert Source(file="a", line=1, column=3, length=99, text="abcd").excerpt().splitlines()[1].count("^") == 2
    assert Source(file="a", line=1, column=5, length=0, text="abcd").excerpt().splitlines()[1].count("^") == 1


def test_parts_that_are_not_known_are_left_out() -> None:
    assert Diagnostic(code="E0101", message="no file").format() == "error[E0101]: no file"
    assert Diagnostic(code="W0303", message="m", level="notice", help="h").format() == "notice[W0303]: m\n  help:    h"


def test_layer_0_is_named() -> None:
    assert "layer 0 'a': " in Diagnostic(code="E0300", message="m", layer="a", layer_index=0).headline()


def test_json_has_the_same_parts() -> None:
    content = json.loads(json.dumps(FULL.to_json()))
    assert content == {"level": "error", "code": "E0312", "message": FULL.message, "file": PLACE.file, "line": 20,
                       "column": 17, "layer": "conv2", "layer_index": 1, "found": FULL.found, "allowed": FULL.allowed,
                       "help": FULL.help}
    bare = Diagnostic(code="E0101", message="m").to_json()
    assert {key for key, value in bare.items() if value is None} == {"file", "line", "column", "layer", "layer_index",
                                                                     "found", "allowed", "help"}


def test_more_errors_than_are_shown_are_counted() -> None:
    many = [Diagnostic(code="E0101", message=str(i)) for i in range(MAX_SHOWN + 7)]
    assert format_diagnostics(many).count("error[") == MAX_SHOWN
    assert format_diagnostics(many).endswith("... and 7 more")
    assert "more" not in format_diagnostics(many[:MAX_SHOWN])


def test_a_stage_ends_with_all_of_its_errors_and_not_with_warnings() -> None:
    stage = Diagnostics()
    stage.add(Diagnostic(code="W0303", message="w", level="notice"))
    stage.raise_if_errors()
    for number in range(3):
        stage.add(Diagnostic(code="E0101", message=str(number)))
    with pytest.raises(UserError) as error:
        stage.raise_if_errors()
    assert [d.message for d in error.value.diagnostics] == ["0", "1", "2"]
    assert len(stage.items) == 4
    assert str(error.value) == "error[E0101]: 0\nerror[E0101]: 1\nerror[E0101]: 2"


def test_one_error_can_be_raised_directly() -> None:
    error = user_error("E0101", "m", source=PLACE, found="f", allowed="a", help="h")
    assert error.diagnostics == (Diagnostic(code="E0101", message="m", source=PLACE, found="f", allowed="a", help="h"),)
    assert not isinstance(HardwareFault("x"), UserError)


def test_exit_statuses_are_those_of_the_manual() -> None:
    assert [int(status) for status in ExitStatus] == [0, 1, 2, 3, 130]


def test_every_code_in_the_package_lies_in_a_known_range() -> None:
    package = Path(__file__).resolve().parents[1] / "ai8x"
    codes = {code for path in package.rglob("*.py") for code in re.findall(r'"([EWI]\d{4})"', path.read_text())}
    assert len(codes) > 100
    odd = {code for code in codes if code[0] == "E" and not 1 <= int(code[1:3]) <= 8 and code != "I0001"}
    assert not odd


def test_an_error_that_nobody_catches_shows_what_was_found_and_the_remedy() -> None:
    shown = "".join(traceback.format_exception(UserError(FULL)))
    assert FULL.message in shown and FULL.help in shown and shown.count(FULL.message) == 1
