"""The report: its data, its pages and tables, without hostile text getting anywhere."""

import html.parser
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from rich.console import Console

from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.kernels import plan_kernels
from ai8x.max7800x.lower import LoweringPlan
from ai8x.network.ir import (
    Activation,
    ConvSpec,
    Eltwise,
    Layer,
    Network,
    Op,
    Pool,
    PoolSpec,
    TensorShape,
)
from ai8x.report import MemoryBlock, MemoryMap, Report, Resource, to_json
from ai8x.report_html import layer_costs, memory_panels, part_bars, render_html, verdict_class
from ai8x.report_max78000 import chip_report, data_memory_map, resources, unverified_facts
from ai8x.report_network import layer_rows, operator_text
from ai8x.report_terminal import print_report
from ai8x.synthesis import SynthesisOptions, synthesize
from tests.end_to_end.chip_networks import Placed, placed_networks
from tests.end_to_end.digitsnet import NETWORK_FILE, write_digitsnet
from tests.end_to_end.firmware import Subject, lower

LARGEST_PAGE_BYTES = 1_000_000
HOSTILE = "<script>alert(1)</script>&\"'"


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("digitsnet")
    return lower(write_digitsnet(folder / "d.pth.tar"), folder / "max78000")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of digitsnet on both chips."""
    folder = tmp_path_factory.mktemp("report")
    options = SynthesisOptions(network=NETWORK_FILE, checkpoint=write_digitsnet(folder / "d.pth.tar"),
                               out=folder / "out", verify=False)
    return synthesize(options).report


# --- what layers are called ---------------------------------------------------------------------------------------

def layer(**changes: Any) -> Layer:
    shape = TensorShape(2, 8, 8)
    return Layer(**{"name": "a", "index": 0, "op": Op.PASSTHROUGH, "inputs": (-1,), "operand_shape": shape,
                    "out_shape": shape, **changes})


def conv(op: Op = Op.CONV2D, **changes: Any) -> dict[str, Any]:
    return {"op": op, "conv": ConvSpec(**changes)}


@pytest.mark.parametrize(("changes", "text"), [
    ({}, "Passthrough"),
    (conv(kernel=(3, 3), padding=(1, 1)), "Conv2d 3x3 pad 1"),
    (conv(groups=2), "Conv2d 1x1 groups 2"),
    ({"pool": PoolSpec(kind=Pool.MAX, window=(2, 2), stride=(2, 2)), "out_shape": TensorShape(2, 4, 4)},
     "max pool 2x2, Passthrough"),
    ({"pool": PoolSpec(kind=Pool.AVG, window=(3, 2), stride=(1, 1)), "out_shape": TensorShape(2, 6, 7)},
     "avg pool 3x2 stride 1x1, Passthrough"),
    ({"pool": PoolSpec(stride=(2, 2)), "out_shape": TensorShape(2, 4, 4)}, "subsample stride 2x2, Passthrough"),
    ({"index": 1, "inputs": (-1, 0), "eltwise": Eltwise.XOR}, "xor, Passthrough"),
    ({"op": Op.LINEAR, "conv": ConvSpec(), "flatten": True, "out_shape": TensorShape(3, 1, 1)}, "flatten, Linear"),
    ({"op": Op.CONV1D, "conv": ConvSpec(kernel=(3, 1), dilation=(2, 1)), "operand_shape": TensorShape(2, 9, 1),
      "out_shape": TensorShape(2, 5, 1)}, "Conv1d 3 dilation 2"),
])
def test_a_layer_is_described_in_the_order_in_which_it_works(changes: dict[str, Any], text: str) -> None:
    assert operator_text(layer(**changes)) == text


@pytest.mark.parametrize(("pool_first", "text"), [(True, "max pool 2x2, add, Passthrough"),
                                                  (False, "add, max pool 2x2, Passthrough")])
def test_pooling_and_combination_stand_in_their_order(pool_first: bool, text: str) -> None:
    pool = PoolSpec(kind=Pool.MAX, window=(2, 2), stride=(2, 2))
    assert operator_text(layer(index=1, inputs=(-1, 0), eltwise=Eltwise.ADD, pool=pool, pool_first=pool_first,
                               out_shape=TensorShape(2, 4, 4))) == text


def test_rows_name_sources_and_outputs(subject: Subject) -> None:
    rows = layer_rows(subject.network)
    assert [row.inputs for row in rows] == [("input",), ("conv1",), ("conv2",), ("conv2",), ("bypass", "conv3"),
                                            ("conv4",)]
    assert [row.is_output for row in rows] == [False] * 5 + [True]
    assert [row.weight_bits for row in rows] == [8, 8, 0, 8, 8, 8]


# --- facts nobody has confirmed -----------------------------------------------------------------------------------

def averaging(activation: Activation, *, eltwise: Eltwise | None = None, pool_first: bool = True,
              rounded: bool = False) -> Network:
    """A convolution, and a pass layer that averages its output, combined with itself where asked for."""
    shape = TensorShape(1, 4, 4)
    first = Layer(name="a", index=0, op=Op.CONV2D, inputs=(-1,), operand_shape=shape, out_shape=shape, conv=ConvSpec(),
                  activation=activation, weights=np.ones((1, 1, 1, 1), np.int64))
    second = Layer(name="b", index=1, op=Op.PASSTHROUGH, inputs=(0, 0) if eltwise else (0,), eltwise=eltwise,
                   pool_first=pool_first, operand_shape=shape, out_shape=TensorShape(1, 2, 2), average_rounded=rounded,
                   pool=PoolSpec(kind=Pool.AVG, window=(2, 2), stride=(2, 2)))
    return Network(name="n", input_shape=shape, layers=(first, second))


@pytest.mark.parametrize(("network", "count"), [
    (averaging(Activation.RELU), 0), (averaging(Activation.ABS), 0), (averaging(Activation.NONE), 1),
    (averaging(Activation.RELU, rounded=True), 1), (averaging(Activation.NONE, rounded=True), 2),
    (averaging(Activation.RELU, eltwise=Eltwise.SUB), 0),
    (averaging(Activation.RELU, eltwise=Eltwise.SUB, pool_first=False), 1),
    (averaging(Activation.RELU, eltwise=Eltwise.ADD, pool_first=False), 0),
], ids=["ReLU", "Abs", "negative values", "rounding", "both", "averages subtracted", "differences averaged",
        "sums averaged"])
def test_averages_of_negative_values_are_listed_as_unconfirmed(network: Network, count: int) -> None:
    facts = unverified_facts(network)
    assert len(facts) == count
    assert all("section" in fact for fact in facts)


def test_accumulators_beyond_what_was_seen_are_listed() -> None:
    shape, wide = TensorShape(1024, 1, 1), np.full((1, 1024, 3, 3), -128)
    large = Layer(name="a", index=0, op=Op.CONV2D, inputs=(-1,), operand_shape=shape, out_shape=TensorShape(1, 1, 1),
                  conv=ConvSpec(kernel=(3, 3), padding=(1, 1)), weights=wide)
    (fact,) = unverified_facts(Network(name="n", input_shape=shape, layers=(large,)))
    assert str(1024 * 9 * 128 * 128) in fact


# --- memory and resources -----------------------------------------------------------------------------------------

def test_the_memory_map_shows_what_lives_when(subject: Subject) -> None:
    memory = data_memory_map(subject.network, subject.plan)
    first = [block for block in memory.blocks if block.lane == 0]
    spans = {block.label: (block.start, block.end, block.first_step, block.last_step) for block in first}
    assert spans["input"] == (0, 4 * 784, 0, 0)
    assert spans["conv1"] == (0x1000, 0x1000 + 4 * 784, 0, 1)
    assert spans["conv2"][:2] == (0, 4 * 196)
    assert spans["conv2"][3] == 3
    assert memory.steps == ("conv1", "conv2", "bypass", "conv3", "conv4", "fc")
    assert memory.peak == max(block.end for block in memory.blocks) <= memory.capacity == 32768
    assert len(memory.lanes) == 8


def test_resources_are_those_of_the_plan(subject: Subject) -> None:
    found = {resource.name: resource for resource in resources(subject.plan)}
    weights, biases = found["Weight memory"], found["Bias memory"]
    assert weights.used == sum(weights.parts)
    assert len(weights.parts) == 64
    assert all(0 <= part <= weights.part_capacity for part in weights.parts)
    assert biases.used == sum(biases.parts) == 16 + 32 + 32 + 16 + 10
    assert found["Powered quadrants"].used == 2


@settings(max_examples=30)
@given(placed_networks())
def test_any_network_can_be_reported(subject: Placed) -> None:
    layers = hardware_layers(subject.network, subject.placement, MAX78000)
    plan = LoweringPlan(device=MAX78000, layers=layers, placement=subject.placement,
                        kernels=plan_kernels(layers, MAX78000))
    chip = chip_report(subject.network, plan, {})
    assert all(row.cycles > 0 and 0 <= row.utilisation <= 1 for row in chip.layers)
    assert sum(row.cycles for row in chip.layers) + 1 == chip.total_cycles
    page = render_html(Report(
        version="0", network="n", dataset="d", input_shape=subject.network.input_shape.as_tuple(), sample="s",
        layers=layer_rows(subject.network), chips=(chip,), verification={"reference": "equal"}))
    assert len(page) < LARGEST_PAGE_BYTES


# --- JSON, page, terminal -----------------------------------------------------------------------------------------

def test_the_json_form_survives_a_round_trip(report: Report) -> None:
    content = json.loads(json.dumps(to_json(report)))
    assert content["format"] == 1
    assert content["totals"]["macs"] == report.total_macs == sum(row.macs for row in report.layers)
    assert [chip["target"] for chip in content["chips"]] == ["max78000", "k210"]
    assert content["input_shape"] == [1, 28, 28]


class Page(html.parser.HTMLParser):
    """Collects tags and what they point to."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input", "col", "rect", "line", "path", "use"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value or "" for name, value in attributes if name in ("src", "href", "action", "xlink:href")]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag


def test_the_page_is_whole_small_and_needs_no_network(report: Report) -> None:
    text = render_html(report)
    page = Page(text)
    assert len(text.encode()) < LARGEST_PAGE_BYTES
    assert {"table", "svg"} <= set(page.tags)
    assert "script" not in page.tags
    assert all(target.startswith("#") for target in page.targets)
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert "https://" not in text
    for row in report.layers:
        assert row.name in text


def test_text_from_files_cannot_become_markup(report: Report) -> None:
    rows = tuple(replace(row, name=HOSTILE) for row in report.layers)
    hostile = replace(report, network=HOSTILE, dataset=HOSTILE, sample=HOSTILE, layers=rows, messages=(HOSTILE,),
                      verification={"reference": HOSTILE})
    text = render_html(hostile)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert Page(text).tags == Page(render_html(replace(report, messages=("x",), verification={"reference": "x"}))).tags


@pytest.mark.parametrize(("verdict", "style"), [("equal", "good"), ("skipped: no compiler", "skipped"),
                                                ("different: layer 1", "bad"), ("", "bad")])
def test_verdicts_have_their_colours(verdict: str, style: str) -> None:
    assert verdict_class(verdict) == style


def test_costs_of_several_steps_add_up(report: Report) -> None:
    costs = layer_costs(report)
    for chip in report.chips:
        assert sum(cost[chip.target][0] for cost in costs.values() if chip.target in cost) == sum(
            row.cycles for row in chip.layers)


def test_lanes_of_equal_content_share_a_drawing() -> None:
    blocks = [MemoryBlock(label="a", lane=lane, start=0, end=64, first_step=0, last_step=1) for lane in (0, 1, 3)]
    other = MemoryBlock(label="b", lane=3, start=64, end=128, first_step=1, last_step=1)
    lanes = ("p 0 to 3", "p 4 to 7", "p 8 to 11", "p 12 to 15")
    memory = MemoryMap(title="m", unit="bytes", capacity=1024, lanes=lanes, steps=("x", "y"),
                       blocks=(*blocks, other), peak=128)
    panels = memory_panels(memory)
    assert [panel.title for panel in panels] == ["p 0 to 7", "p 12 to 15"]
    assert [len(panel.boxes) for panel in panels] == [1, 2]
    (low, high) = panels[1].boxes
    assert low.y + low.height == pytest.approx(panels[1].bottom)
    assert high.y + high.height == pytest.approx(low.y)
    assert high.x > low.x
    assert low.hue == panels[0].boxes[0].hue != high.hue


def test_boxes_stay_inside_their_drawing(report: Report) -> None:
    for chip in report.chips:
        for memory in chip.memory_maps:
            for panel in memory_panels(memory):
                for box in panel.boxes:
                    assert panel.left <= box.x
                    assert box.x + box.width <= panel.width
                    assert box.y >= -1e-6
                    assert box.y + box.height <= panel.bottom + 1e-6


def test_bars_are_as_high_as_what_is_used() -> None:
    bars = part_bars(Resource(name="r", used=3, capacity=8, unit="words", parts=(0, 1, 2), part_capacity=4,
                              part_name="processor"))
    assert [bar.height / bars[2].height for bar in bars] == [0, 0.5, 1]
    assert len({bar.y + bar.height for bar in bars}) == 1
    assert bars[1].title == "processor 1: 1 of 4 words"


def test_the_terminal_shows_everything_without_interpreting_it(report: Report) -> None:
    stream = io.StringIO()
    marked = replace(report, verification={"reference": "equal", "simulator": "different: [red]layer[/red] 1"})
    print_report(Console(file=stream, width=200, highlight=False), marked, Path("[bold]out"))
    text = stream.getvalue()
    for row in report.layers:
        assert row.name in text
    assert "[red]layer[/red]" in text
    assert "[bold]out" in text
    assert f"{report.total_macs:,}" in text


def test_names_in_brackets_are_no_markup_on_the_terminal(report: Report) -> None:
    stream = io.StringIO()
    rows = tuple(replace(row, name="[/b]", operator="[/c]") for row in report.layers)
    chips = tuple(replace(chip, title="[/d]", timing_note="[/e]", layers=tuple(
        replace(row, name="[/f]", processors="[/g]") for row in chip.layers)) for chip in report.chips)
    print_report(Console(file=stream, width=200, highlight=False),
                 replace(report, network="[/h]", dataset="[/i]", layers=rows, chips=chips), Path("out"))
    for letter in "bcdefghi":
        assert f"[/{letter}]" in stream.getvalue()


def test_a_narrow_terminal_does_not_fail(report: Report) -> None:
    print_report(Console(file=io.StringIO(), width=30), report, Path("out"))
