"""Every row of spec/max78000-cnn.md section 6: the last legal value is accepted, the first illegal one refused."""

import re
from pathlib import Path

import pytest

from ai8x.max7800x.constraints import RULES

from .lowering_examples import CASES
from .section6 import Row
from .section6_memories import ROWS

LEGAL = [pytest.param(check, id=f"{row.name} ({number})") for row in ROWS for number, check in enumerate(row.legal)]
ILLEGAL = [pytest.param(check, codes, id=f"{row.name} ({number})") for row in ROWS
           for number, (check, codes) in enumerate(row.illegal)]
SPEC = CASES.parents[1] / "spec" / "max78000-cnn.md"

BEYOND_SECTION_6 = {
    "check_quad", "check_shared_input", "check_sources", "note_unused_lanes", "note_stream_bias", "check_buffer_place",
    "check_buffer_writes", "check_buffer_spared", "check_in_offset", "check_stream_offsets",
}
"""Rules of other sections (3.7, 5.1 to 5.4, 7.1) and what follows from several rows; `test_constraints` tests them."""


@pytest.mark.parametrize("check", LEGAL)
def test_the_last_legal_value_is_accepted(check) -> None:
    assert check() == []


@pytest.mark.parametrize(("check", "codes"), ILLEGAL)
def test_the_first_illegal_value_is_refused(check, codes: list[str]) -> None:
    assert check() == codes


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_has_both_sides_or_a_reason(row: Row) -> None:
    assert row.legal and (row.illegal or row.reason)


def test_every_rule_belongs_to_a_row() -> None:
    known = {rule.__name__ for rule in RULES}
    named = {name for row in ROWS for name in row.rules}
    assert named <= known
    assert known - named == BEYOND_SECTION_6 - named


@pytest.mark.skipif(not SPEC.is_file(), reason="the specification is not part of the repository")
def test_every_row_of_the_section_is_in_the_table() -> None:
    assert {(row.section, row.number) for row in ROWS if row.section in ("6.1", "6.2", "6.4")} == rows_of(SPEC)


def rows_of(page: Path) -> set[tuple[str, int]]:
    """(section, number) of the rows of the tables in section 6."""
    text = page.read_text(encoding="utf-8").split("\n## 6")[1].split("\n## 7")[0]
    found = set()
    for part in re.split(r"\n### ", text)[1:]:
        rows = [line for line in part.splitlines() if line.startswith("| ")][1:]
        found |= {(part.split()[0], number) for number in range(1, len(rows) + 1)}
    return found
