"""Geometry of the drawings: nothing leaves its frame, nothing hides behind something else."""

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai8x.report import MemoryBlock, MemoryMap, Report, Resource
from ai8x.report_compare import layer_costs
from ai8x.report_drawings import PAGE_WIDTH, memory_panels, part_bars
from ai8x.report_graph import Graph, network_graph
from tests.reports import branching_report, digits_report, layer_row


@pytest.fixture(params=["digits", "branching"])
def report(request: pytest.FixtureRequest) -> Report:
    return digits_report() if request.param == "digits" else branching_report()


def graph_of(report: Report) -> Graph:
    return network_graph(report, layer_costs(report))


# --- memory maps --------------------------------------------------------------------------------------------------

def map_of(blocks: list[MemoryBlock], lanes: tuple[str, ...] = ("",), steps: tuple[str, ...] = ("x", "y")) -> MemoryMap:
    return MemoryMap(title="m", unit="bytes", capacity=1024, lanes=lanes, steps=steps, blocks=tuple(blocks), peak=128)


def block(label: str = "a", **changes: int) -> MemoryBlock:
    return MemoryBlock(**{"label": label, "lane": 0, "start": 0, "end": 64, "first_step": 0,  # type: ignore[arg-type]
                          "last_step": 1, **changes})


def test_lanes_of_equal_content_share_a_drawing() -> None:
    blocks = [block(lane=lane) for lane in (0, 1, 3)]
    memory = map_of([*blocks, block("b", lane=3, start=64, end=128, first_step=1)],
                    ("p 0 to 3", "p 4 to 7", "p 8 to 11", "p 12 to 15"))
    panels = memory_panels(memory)
    assert [panel.title for panel in panels] == ["p 0 to 7", "p 12 to 15"]
    assert [len(panel.boxes) for panel in panels] == [1, 2]
    (low, high) = panels[1].boxes
    assert low.y + low.height == pytest.approx(panels[1].bottom)
    assert high.y + high.height == pytest.approx(low.y)
    assert high.x > low.x
    assert low.hue == panels[0].boxes[0].hue != high.hue


def test_runs_of_lanes_are_named_together() -> None:
    lanes = tuple(f"processors {4 * i} to {4 * i + 3}" for i in range(6))
    (panel,) = memory_panels(map_of([block(lane=lane) for lane in (0, 2, 3, 5)], lanes))
    assert panel.title == "processors 0 to 3, 8 to 15, 20 to 23"


def test_tensors_that_share_words_get_a_band_each() -> None:
    (panel,) = memory_panels(map_of([block("a", end=640), block("b", start=4, end=640)]))  # of one reader
    low, high = panel.boxes
    assert low.height == pytest.approx(high.height, rel=0.02)
    assert high.y + high.height <= low.y + 1
    assert "word by word in turn" in low.title


def test_a_layer_that_writes_where_it_reads_ends_one_tensor_and_starts_the_other() -> None:
    (panel,) = memory_panels(map_of([block("in", last_step=0), block("a", last_step=1), block("b", first_step=1)],
                                    steps=("x", "y")))
    first, middle, last = panel.boxes
    assert first.height == middle.height == last.height, "no bands: they do not share their words"
    assert first.x + first.width < middle.x < middle.x + middle.width < last.x
    assert "overwritten by a" in first.title
    assert "written over in, overwritten by b" in middle.title
    assert "in turn" not in "".join(box.title for box in panel.boxes)


def test_panels_of_one_map_have_the_same_axes() -> None:
    panels = memory_panels(map_of([block(lane=0), block(lane=1, end=900)], ("p 0 to 3", "p 4 to 7")))
    assert panels[0].rows == panels[1].rows


def test_boxes_stay_inside_their_drawing(report: Report) -> None:
    for chip in report.chips:
        for memory in chip.memory_maps:
            for panel in memory_panels(memory):
                assert len(panel.columns) == len(memory.steps)
                for box in panel.boxes:
                    assert panel.left <= box.x
                    assert box.x + box.width <= panel.width
                    assert box.y >= -1e-6
                    assert box.y + box.height <= panel.bottom + 1e-6


@pytest.mark.parametrize(("count", "is_turned"), [(3, False), (8, True), (30, True)])
def test_many_steps_with_long_names_have_turned_names_and_fit_the_page(count: int, is_turned: bool) -> None:
    steps = tuple(f"a_layer_number_{number}" for number in range(count))
    (panel,) = memory_panels(map_of([block()], steps=steps))
    assert panel.is_turned == is_turned
    assert panel.width <= PAGE_WIDTH


def test_labels_are_not_cut_to_nothing() -> None:
    steps = tuple(str(number) for number in range(30))
    (panel,) = memory_panels(map_of([block("a_very_long_name", last_step=0, end=900)], steps=steps))
    assert panel.boxes[0].label == ""
    assert "a_very_long_name" in panel.boxes[0].title


# --- bars ---------------------------------------------------------------------------------------------------------

def resource(parts: tuple[int, ...], **changes: int | str) -> Resource:
    return Resource(**{"name": "r", "used": sum(parts), "capacity": 4 * len(parts), "unit": "words",  # type: ignore[arg-type]
                       "parts": parts, "part_capacity": 4, "part_name": "processor", **changes})


def test_bars_are_as_high_as_what_is_used() -> None:
    bars = part_bars(resource((0, 1, 2)))
    assert [bar.height / bars.boxes[2].height for bar in bars.boxes] == [0, 0.5, 1]
    assert len({bar.y + bar.height for bar in bars.boxes}) == 1
    assert bars.boxes[1].title == "processor 1: 1 of 4 words"
    assert not bars.groups


def test_bars_of_a_group_stand_together() -> None:
    bars = part_bars(resource((1, 2, 3, 4), group_size=2, group_name="quadrant"))
    gaps = [after.x - (before.x + before.width) for before, after in pairwise(bars.boxes)]
    assert gaps[0] == pytest.approx(gaps[2])
    assert gaps[1] > gaps[0]
    assert [group.text for group in bars.groups] == ["quadrant 0: 37.5%", "quadrant 1: 87.5%"]


def test_sixty_four_bars_fit_the_page() -> None:
    bars = part_bars(resource((1,) * 64, group_size=16, group_name="quadrant"))
    assert bars.width <= PAGE_WIDTH
    assert all(bar.width > 4 for bar in bars.boxes)


# --- the graph ----------------------------------------------------------------------------------------------------

def numbers(path: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", path)]


def lanes_of(graph: Graph) -> dict[str, float]:
    """Title of an edge -> x of its lane, for edges that have one."""
    return {edge.title: min(numbers(edge.path)[2:4]) for edge in graph.edges if edge.hue >= 0}


def test_every_connection_is_an_edge(report: Report) -> None:
    graph = graph_of(report)
    expected = {(name, layer.name) for layer in report.layers for name in
                (report.layers[source].name if source >= 0 else "input" for source in layer.sources)}
    assert {tuple(edge.title.split(": ")[0].split(" to ")) for edge in graph.edges} == expected


def test_only_connections_past_another_layer_leave_the_straight_line() -> None:
    graph = graph_of(branching_report())
    straight = [edge.title.split(":")[0] for edge in graph.edges if edge.hue < 0]
    assert straight[:4] == ["input to l0", "l0 to l1", "l1 to l2", "l2 to l3"]


def test_tensors_that_travel_at_once_have_lanes_of_their_own() -> None:
    graph = graph_of(branching_report())
    lanes = {title.split(" to ")[0]: x for title, x in lanes_of(graph).items()}
    assert set(lanes) == {"l0", "l2", "l3"}
    assert len(set(lanes.values())) == 3
    assert max(lanes.values()) < min(node.x for node in graph.nodes)
    assert min(lanes.values()) > 0


def test_one_tensor_keeps_its_lane_for_all_its_readers() -> None:
    edges = [edge for edge in graph_of(branching_report()).edges if edge.title.startswith("l0 to") and edge.hue >= 0]
    assert len(edges) == 2
    assert len({edge.hue for edge in edges}) == 1


@given(st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=3), min_size=1, max_size=12))
def test_lanes_of_any_network_never_run_into_each_other(choices: list[set[int]]) -> None:
    rows = tuple(layer_row(index, tuple(sorted({choice % (index + 1) - 1 for choice in chosen})))
                 for index, chosen in enumerate(choices))
    graph = graph_of(replace(branching_report(), layers=rows, chips=()))
    spans: dict[tuple[float, str], tuple[float, float]] = {}
    for edge in graph.edges:
        if edge.hue >= 0:
            values = numbers(edge.path)
            lane, key = values[4], edge.title.split(" to ")[0]
            low, high = spans.get((lane, key), (values[1], values[1]))
            spans[lane, key] = min(low, values[1]), max(high, values[-2])
    for (lane, key), (low, high) in spans.items():
        for (other_lane, other_key), (other_low, other_high) in spans.items():
            if lane == other_lane and key != other_key:
                assert high <= other_low or other_high <= low
    assert all(node.x + node.width <= graph.width for node in graph.nodes)


def test_the_graph_stays_inside_its_frame(report: Report) -> None:
    graph = graph_of(report)
    for node in graph.nodes:
        assert node.y >= 0
        assert node.y + node.height <= graph.height
    for cost in graph.costs:
        assert cost.text_x + 6.5 * len(cost.text) <= graph.width + 1, cost.title


def test_only_chips_that_take_the_network_have_a_column() -> None:
    assert [heading for _, heading in graph_of(branching_report()).columns] == [
        "layer", "output", "SNR", "Kendryte K210"]
    assert [heading for _, heading in graph_of(digits_report()).columns] == [
        "layer", "output", "MAX78000", "Kendryte K210"]


def test_a_rolling_buffer_is_a_node_of_its_own() -> None:
    rows = (layer_row(0, (-2,)), layer_row(1, (-1,)), layer_row(2, (0, 1)))
    graph = graph_of(replace(branching_report(), layers=rows))
    assert [node.name for node in graph.nodes[:2]] == ["window", "input"]
    assert graph.nodes[0].detail == "kept between inferences"
