"""The page: whole, self-contained, safe against hostile text, complete, usable without eyes and mouse."""

import html.parser
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from ai8x.report import Report
from ai8x.report_compare import comparison, layer_costs
from ai8x.report_html import WITNESSES, confusions, render_html, verdict_class
from ai8x.synthesis import WITNESSES as EXECUTORS
from tests.reports import LONG_NAME, branching_report, digits_report

STYLES = Path(__file__).resolve().parents[1] / "ai8x" / "templates" / "report.css.j2"
LARGEST_PAGE_BYTES = 1_000_000
LEAST_CONTRAST = 4.5
HOSTILE = "<script>alert(1)</script>&\"'"
REPORTS: Mapping[str, Callable[[], Report]] = {"digits": digits_report, "branching": branching_report}


class Page(html.parser.HTMLParser):
    """Collects tags, their attributes and what they point to; fails where a tag is not closed."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input", "col", "rect", "line", "path", "use"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, dict[str, str]]] = []
        self.targets: list[str] = []
        self.titles: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, {name: value or "" for name, value in attributes}))
        self.targets += [value or "" for name, value in attributes if name in ("src", "href", "action", "xlink:href")]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "title":
            self.titles.append(data)

    def having(self, name: str) -> list[str]:
        """Values of an attribute, wherever it stands."""
        return [attributes[name] for _, attributes in self.attributes if name in attributes]


@pytest.fixture(params=REPORTS)
def report(request: pytest.FixtureRequest) -> Report:
    return REPORTS[request.param]()


def test_the_page_is_whole_small_and_needs_no_network(report: Report) -> None:
    text = render_html(report)
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert len(text.encode()) < LARGEST_PAGE_BYTES
    assert {"table", "svg"} <= set(page.tags)
    assert "script" not in page.tags
    assert "http://" not in text
    assert "https://" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_links_lead_somewhere_and_identifiers_are_unique(report: Report) -> None:
    page = Page(render_html(report))
    identifiers = page.having("id")
    assert len(set(identifiers)) == len(identifiers)
    assert page.targets
    assert {target for target in page.targets if target[1:] not in identifiers} == set()
    named = {name for names in (page.having("aria-labelledby"), page.having("aria-describedby")) for name in names}
    assert named <= set(identifiers)


def test_every_layer_is_in_table_and_graph(report: Report) -> None:
    text = render_html(report)
    page = Page(text)
    for row in report.layers:
        assert f'<tr id="layer-{row.index}">' in text
        assert page.targets.count(f"#layer-{row.index}") == 1
        assert any(title.startswith(f"{row.name}: {row.operator}") for title in page.titles)
    for chip in report.chips:
        for step in chip.layers:
            assert f">{step.name}<" in text


def test_what_scrolls_can_be_reached_by_keyboard_and_has_a_name(report: Report) -> None:
    names = []
    for tag, attributes in Page(render_html(report)).attributes:
        if "scroll" in attributes.get("class", "").split():
            assert attributes.get("tabindex") == "0", tag
            assert attributes.get("role") == "region", tag
            names.append(attributes["aria-label"])
        if tag == "svg":
            assert attributes["role"] in ("img", "group")
            assert attributes["aria-label"]
    assert len(set(names)) == len(names)


def test_every_table_has_header_cells_with_a_scope(report: Report) -> None:
    page = Page(render_html(report))
    for tag, attributes in page.attributes:
        if tag == "th":
            assert attributes.get("scope") in ("row", "col", "colgroup")
    assert page.tags.count("table") <= sum(scope == "col" for scope in page.having("scope"))


def test_headings_descend_one_level_at_a_time(report: Report) -> None:
    levels = [int(tag[1]) for tag in Page(render_html(report)).tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_text_from_files_cannot_become_markup(report: Report) -> None:
    def changed(text: str) -> Report:
        rows = tuple(replace(row, name=text, inputs=(text,) * len(row.inputs), operator=text) for row in report.layers)
        return replace(report, network=text, dataset=text, sample=text, layers=rows, messages=(text,),
                       labels=(text,) * 3, verification={text: text}, error_samples=text)

    page = render_html(changed(HOSTILE))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert Page(page).tags == Page(render_html(changed("x"))).tags


def test_a_refusal_is_explained() -> None:
    text = render_html(branching_report())
    for part in ("MAX78000: what does not fit", "E0464", "9 words", "8 words", "use fewer", "weight memory", "4,321",
                 "write quantization: 4 in l3", "planned with success"):
        assert part in text


def test_facts_and_plan_stand_in_the_page() -> None:
    text = render_html(branching_report())
    assert "KPU pooling other than" in text
    assert "beyond 26 bits, which this network&#39;s weights can reach: up to 9" in text
    assert "lower bound 320" in text


def test_errors_against_the_float_model_stand_in_the_page() -> None:
    text = render_html(branching_report())
    assert ">exact<" in text
    assert "17.2 dB" in text
    assert "13 test items of shapes" in text
    assert "dB" not in render_html(digits_report())


def test_every_executor_is_explained() -> None:
    assert set(WITNESSES) == set(EXECUTORS)


@pytest.mark.parametrize(("verdict", "style"), [("equal", "good"), ("skipped: no compiler", "skipped"),
                                                ("different: layer 1", "bad"), ("", "bad")])
def test_verdicts_have_their_colours(verdict: str, style: str) -> None:
    assert verdict_class(verdict) == style


# --- numbers ------------------------------------------------------------------------------------------------------

def test_costs_of_several_steps_add_up(report: Report) -> None:
    costs = layer_costs(report)
    for chip in report.chips:
        assert sum(cost[chip.target].cycles for cost in costs.values() if chip.target in cost) == sum(
            row.cycles for row in chip.layers)


def test_a_layer_on_several_units_says_so() -> None:
    cost = layer_costs(branching_report())[1]["k210"]
    assert (cost.kind, cost.unit_text, cost.untimed) == ("mixed", "KPU + CPU", ("l1: pad",))
    assert cost.utilisation == pytest.approx(1000 / (300 * 576))
    assert cost.share == pytest.approx(0.6)
    assert 2 not in {index for index, costs in layer_costs(branching_report()).items() if costs}


def test_the_comparison_has_a_value_for_every_chip() -> None:
    report = branching_report()
    rows = {row.name: row.values for row in comparison(report)}
    assert all(len(values) == len(report.chips) for values in rows.values())
    assert rows["Runs the network"] == ("no: E0464", "yes")
    assert rows["Time of one inference"] == ("–", "at least 0.010 ms (estimated)")
    assert rows["Weights and program data"] == ("–", "6 of 64 words (9.4%)")
    assert rows["Plan of the activations"] == ("–", "peak 384 bytes, lower bound 320")
    assert "Activation memory" not in rows, "rows that say nothing are left out"


def test_confusion_matrices_shade_right_and_wrong_apart() -> None:
    first, second = confusions(branching_report())
    assert first.classes == ("round", "square", "other")
    styles = [[cell.style for cell in row] for row in first.rows]
    assert styles == [["hit4", "miss1", ""], ["", "hit4", ""], ["", "", ""]]
    assert first.rows[0][1].title == "1 of 6 items of class round taken for square"
    assert first.recalls == (5 / 6, 1.0, None)
    assert (first.is_repeated, second.is_repeated) == (False, True)


def test_classes_without_names_have_numbers() -> None:
    assert confusions(replace(branching_report(), labels=("one",)))[0].classes == ("0", "1", "2")


def test_the_longest_name_stands_whole_in_the_table() -> None:
    assert f">{LONG_NAME}</th>" in render_html(branching_report())


# --- contrast -----------------------------------------------------------------------------------------------------

ON_SURFACES = [(text, back) for text in ("text", "soft", "link") for back in ("page", "card")]
ON_BADGES = [(name, f"{name}-back") for name in ("good", "bad", "skip")]
ON_NODES = [(text, f"node-{kind}") for text in ("text", "soft") for kind in ("input", "compute", "move", "output")]
ON_PILLS = [("ink", f"unit-{kind}") for kind in ("chip", "mixed", "cpu", "none")]
ON_TENSORS = [("ink", f"hue{hue}") for hue in range(8)]
ON_HEATS = [("text", f"{kind}{heat}") for kind in ("hit", "miss") for heat in range(1, 5)]
OTHERS = [("text", "mark"), ("soft", "mark")]


def schemes() -> dict[str, dict[str, str]]:
    """Colours of the light and of the dark scheme, by variable."""
    light, dark = STYLES.read_text().split("@media (prefers-color-scheme: dark)", 1)
    dark = dark.split("* { box-sizing", 1)[0]
    return {name: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", text)) for name, text in
            (("light", light), ("dark", dark))}


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "back"), [*ON_SURFACES, *ON_BADGES, *ON_NODES, *ON_PILLS, *ON_TENSORS, *ON_HEATS,
                                            *OTHERS])
def test_text_stands_out_from_what_is_behind_it(scheme: str, text: str, back: str) -> None:
    colours = schemes()[scheme]
    assert contrast(colours[text], colours[back]) >= LEAST_CONTRAST


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_and_bars_stand_out_from_the_card(scheme: str) -> None:
    colours = schemes()[scheme]
    for name in ("bar", *(f"edge{number}" for number in range(8))):
        assert contrast(colours[name], colours["card"]) >= 3, name


def test_both_schemes_have_the_same_colours() -> None:
    light, dark = schemes().values()
    assert set(light) == set(dark)
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
