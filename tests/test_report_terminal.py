"""The report on a terminal: everything is there, nothing is interpreted, and it fits."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ai8x.report import Report
from ai8x.report_terminal import print_report
from tests.reports import LONG_NAME, branching_report, digits_report


def printed(report: Report, width: int = 200, folder: Path = Path("out")) -> str:
    stream = io.StringIO()
    print_report(Console(file=stream, width=width, highlight=False), report, folder)
    return stream.getvalue()


def test_the_terminal_shows_everything_without_interpreting_it() -> None:
    report = digits_report()
    marked = replace(report, verification={"reference": "equal", "simulator": "different: [red]layer[/red] 1"})
    text = printed(marked, folder=Path("[bold]out"))
    for row in report.layers:
        assert row.name in text
    assert "[red]layer[/red]" in text
    assert "[bold]out" in text
    assert f"{report.total_macs:,}" in text
    for chip in report.chips:
        assert f"peak {chip.plan_peak:,} bytes, lower bound {chip.plan_lower_bound:,}" in text


def test_names_in_brackets_are_no_markup_on_the_terminal() -> None:
    report = digits_report()
    rows = tuple(replace(row, name="[/b]", operator="[/c]") for row in report.layers)
    chips = tuple(replace(chip, title="[/d]", timing_note="[/e]", layers=tuple(
        replace(row, name="[/f]", processors="[/g]") for row in chip.layers)) for chip in report.chips)
    text = printed(replace(report, network="[/h]", dataset="[/i]", layers=rows, chips=chips))
    for letter in "bcdefghi":
        assert f"[/{letter}]" in text


def test_an_analysis_says_in_one_line_that_nothing_ran() -> None:
    report = digits_report()
    skipped = dict.fromkeys(report.verification, "skipped: --analyze")
    text = printed(replace(report, verification=skipped))
    assert text.count("--analyze") == 1 and "nothing was generated or run: --analyze\n" in text
    assert "Verification against the reference" not in text and "Report: " in text


def test_a_refusal_comes_with_its_remedies() -> None:
    text = printed(branching_report())
    assert "MAX78000: does not fit\n  E0464: the network does not fit\n" in text
    assert "remedy: write quantization: 4 in l3 (planned with success)" in text


def test_errors_against_the_float_model_have_a_column() -> None:
    lines = printed(branching_report()).splitlines()
    assert any("SNR dB" in line for line in lines)
    assert any("l0" in line and line.rstrip().endswith("exact") for line in lines)
    assert any("l1" in line and line.rstrip().endswith("17.2") for line in lines)


def test_equal_confusion_tables_are_printed_once() -> None:
    assert printed(branching_report()).count("true class (rows)") == 1


@pytest.mark.parametrize("width", [80, 100])
def test_tables_fit_the_terminal_and_keep_their_numbers(width: int) -> None:
    for report in (digits_report(), branching_report()):
        text = printed(report, width)
        assert max(len(line) for line in text.splitlines()) <= width
        for row in report.layers:
            assert f"{row.macs:,}" in text
            assert "x".join(str(size) for size in row.out_shape) in text


def test_a_long_name_is_folded_not_cut() -> None:
    folded = "".join(line[:40].replace(" ", "").lstrip("5") for line in printed(branching_report(), 100).splitlines())
    assert LONG_NAME[:24] in folded
    assert "…" not in printed(branching_report(), 100)


def test_a_narrow_terminal_does_not_fail() -> None:
    assert printed(digits_report(), 30)
