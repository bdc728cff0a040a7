"""Layers that write over their own input: three statements of one order agree, and nothing is lost unread."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai8x.max7800x.constraints import check_network
from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.placement import Placement, PlacementOptions
from ai8x.max7800x.planner_draft import CopyKind, Draft, PlanMode
from ai8x.max7800x.planner_layout import resolve_layouts
from ai8x.max7800x.planner_problem import build_problem, replacement
from ai8x.max7800x.planner_result import finish_plan
from ai8x.max7800x.planner_search import search
from ai8x.max7800x.read_order import replaced_too_early
from ai8x.max7800x.regions import read_words, written_words
from ai8x.network.ir import ConvSpec, Eltwise, Op, Pool, PoolSpec, TensorShape
from ai8x.network.reference import run_network
from ai8x.network.yaml_file import PlacementHint

from .lowering_examples import MAX_2X2, conv, network_of, passthrough, place
from .planner_networks import placeable_networks
from .planner_runs import placed_difference, planned, random_sample, simulated_difference

START = 0x2000
"""Input offset in bytes; outputs start around it."""


@st.composite
def layers_in_place(draw):
    """One layer that reads and writes the same memories."""
    rows, columns = draw(st.integers(3, 9)), draw(st.integers(3, 9))
    channels, outputs = draw(st.sampled_from((4, 64, 68, 128))), draw(st.sampled_from((4, 64, 68, 128)))
    window, stride = draw(st.sampled_from(((1, 1), (2, 2), (3, 2), (2, 1), (1, 2))))
    pool = PoolSpec(kind=Pool.MAX if window > 1 else Pool.NONE, window=(window, window), stride=(stride, stride))
    if draw(st.booleans()) and (pool.is_identity or channels <= 64):
        size = pool.output_size(rows, columns)
        return passthrough(0, (channels, rows, columns), pool=pool, out_shape=TensorShape(channels, *size))
    kernel = draw(st.sampled_from((1, 3))) if min(pool.output_size(rows, columns)) >= 3 else 1
    return conv(0, (channels, rows, columns), outputs, kernel=kernel, pad=draw(st.integers(0, kernel - 1)), pool=pool)


def processors_for(channels):
    share = channels if channels <= 64 else -(-channels // 2 // 4) * 4
    return (1 << share) - 1


def hardware(layer, distance, gap=0):
    """The layer with its output `distance` words behind its input."""
    own = place(processors_for(layer.operand_shape.channels), processors_for(layer.out_shape.channels),
                in_offset=START, out_offset=START + 4 * distance, write_gap=gap)
    network = network_of(layer)
    return network, Placement(layers=(own,)), hardware_layers(network, Placement(layers=(own,)), MAX78000)[0]


def difference(network, placement):
    """What the simulator computes differently from the reference, or nothing."""
    sample = random_sample(network)
    return placed_difference(network, placement, sample, run_network(network, sample))


def loses_data(layer):
    """Pixel by pixel: fetch until the output pixel has what it needs, then write it; an explicit event loop."""
    share, positions = layer.passes * layer.operands, layer.pooled_rows * layer.pooled_columns
    waiting = {}
    for position in range(positions):
        row, column = divmod(position, layer.pooled_columns)
        for y in range(row * layer.pool_stride, row * layer.pool_stride + layer.pool_rows):
            for x in range(column * layer.pool_stride, column * layer.pool_stride + layer.pool_columns):
                waiting[y * layer.in_columns + x] = position
    fetched = -1
    for pixel in range(layer.out_pixels):
        row, column = divmod(pixel, layer.out_columns)
        needed = [min(row + i - layer.pad_rows, layer.pooled_rows - 1) * layer.pooled_columns
                  + (layer.pooled_columns - 1 if row + i - layer.pad_rows >= layer.pooled_rows
                     else min(column + j - layer.pad_columns, layer.pooled_columns - 1))
                  for i in range(layer.kernel_rows) for j in range(layer.kernel_columns)]
        fetched = max(fetched, *needed)
        first = layer.placement.out_offset // 4 + pixel * layer.out_stride_words
        for out_pass in range(layer.out_passes):
            source = (first + out_pass * (layer.write_gap + 1) - START // 4) // share
            if waiting.get(source, -1) > fetched:
                return True
    return False


@given(layers_in_place(), st.integers(-90, 20), st.integers(0, 1))
def test_check_finds_every_word_that_is_lost(layer, distance, gap):
    _, _, placed = hardware(layer, distance, gap)
    found = replaced_too_early(placed, written_words(placed, MAX78000), read_words(placed, MAX78000)).any()
    if loses_data(placed):
        assert found
    elif placed.pool_stride == 1 and placed.kernel_rows - 1 <= 2 * placed.pad_rows:
        assert not found, "every position of such a layer is needed, so that nothing is uncertain"


@given(layers_in_place(), st.integers(-90, 20))
def test_simulator_accepts_what_the_check_accepts(layer, distance):
    network, placement, _ = hardware(layer, distance)
    if check_network(network, placement, MAX78000).errors:
        return
    assert not difference(network, placement)


@given(layers_in_place(), st.integers(0, 60))
def test_planner_stays_in_front_by_exactly_what_the_check_allows(layer, further):
    draft = Draft(network=network_of(layer), hints=(PlacementHint(),), file_index=(0,), mode=PlanMode(in_place=True),
                  copy_kind=CopyKind.PASS)
    draft, layouts = resolve_layouts(draft)
    problem = build_problem(draft, layouts, MAX78000)
    behind = replacement(problem, problem.layers[0])
    assert behind is not None
    for distance in (behind[1] - further, min(behind[1], 200)):
        _, _, placed = hardware(layer, max(distance, -START // 4))
        assert not loses_data(placed)
        assert not replaced_too_early(placed, written_words(placed, MAX78000), read_words(placed, MAX78000)).any()


@pytest.mark.parametrize(("layer", "most"), [
    (conv(0, (4, 5, 5), 4, kernel=1, pad=0), 0),
    (conv(0, (4, 5, 5), 4), 5),
    (passthrough(0, (4, 5, 5)), 0),
    (conv(0, (128, 5, 5), 4, kernel=1, pad=0), 1),
    (conv(0, (4, 5, 5), 128, kernel=1, pad=0), -24),
    (conv(0, (4, 6, 6), 4, kernel=1, pad=0, pool=MAX_2X2), 1),
], ids=["1x1", "3x3", "pass", "two input passes", "two output passes", "pooled"])
def test_distance_that_is_allowed(layer, most):
    """The output may begin `most` words behind the input, and no more."""
    for distance, lost in ((most, False), (most + 1, True)):
        _, _, placed = hardware(layer, distance)
        found = replaced_too_early(placed, written_words(placed, MAX78000), read_words(placed, MAX78000))
        assert found.any() == lost == loses_data(placed)


def test_simulator_refuses_a_layer_that_writes_ahead_of_its_reading():
    layer = conv(0, (4, 5, 5), 4)
    network, placement, _ = hardware(layer, 6)
    assert "over its own input" in difference(network, placement)


@pytest.mark.parametrize("layer", [
    conv(0, (4, 4, 4), 4, op=Op.CONV_TRANSPOSE2D, out_shape=TensorShape(4, 8, 8),
         conv=ConvSpec(kernel=(3, 3), padding=(1, 1), stride=(2, 2), output_padding=1)),
    conv(0, (4, 4, 4), 4, inputs=(-1, -1), eltwise=Eltwise.ADD, pool=MAX_2X2, pool_first=False,
         out_shape=TensorShape(4, 2, 2)),
], ids=["transposed", "combined before pooling"])
def test_nothing_is_claimed_of_layers_whose_order_is_not_known(layer):
    _, _, placed = hardware(layer, 0)
    own, passed = written_words(placed, MAX78000), read_words(placed, MAX78000)
    assert np.array_equal(replaced_too_early(placed, own, passed), own & passed)


def test_network_that_fits_only_in_place_is_planned_so_and_says_it():
    """Two times 64x80x80 do not lie side by side."""
    network = network_of(conv(0, (64, 80, 80), 64), conv(1, (64, 80, 80), 32, kernel=1, pad=0),
                         conv(2, (32, 80, 80), 8, kernel=1, pad=0, pool=MAX_2X2))
    plan = planned(network)
    (notice,) = (finding for finding in plan.diagnostics.items if finding.code == "W0470")
    assert "conv0" in notice.found and notice.level == "notice"
    assert not simulated_difference(network, plan, random_sample(network))


@settings(max_examples=25)
@given(placeable_networks(max_layers=5))
def test_random_networks_in_place_are_computed_exactly(network):
    """Even where there is room enough: layers write over their input wherever that is allowed."""
    count = len(network.layers)
    draft = Draft(network=network, hints=(PlacementHint(),) * count, file_index=tuple(range(count)),
                  mode=PlanMode(in_place=True), copy_kind=CopyKind.CONV)
    draft, layouts = resolve_layouts(draft)
    problem = build_problem(draft, layouts, MAX78000)
    found = search(problem, 100)
    if not found.score.fits:
        return
    plan = finish_plan(problem, found, PlacementOptions(), any_given=False)
    assert not simulated_difference(network, plan, random_sample(network))


def test_second_reader_keeps_a_tensor_from_being_written_over():
    shape = (64, 60, 60)
    network = network_of(conv(0, shape, 64, kernel=1, pad=0), conv(1, shape, 64, kernel=1, pad=0),
                         conv(2, shape, 4, inputs=(0,), kernel=1, pad=0))
    plan = planned(network)
    first, second = plan.placement.layers[:2]
    assert abs(first.out_offset - second.out_offset) >= 4 * 3600
    assert not simulated_difference(network, plan, random_sample(network))


def test_placement_of_a_file_may_be_in_place():
    layers = [conv(index, (64, 40, 60), 64, kernel=1 + 2 * (index % 2), pad=index % 2) for index in range(4)]
    network = network_of(*layers)
    everywhere = (1 << 64) - 1
    places = Placement(layers=tuple(place(everywhere, everywhere) for _ in layers))
    assert not check_network(network, places, MAX78000).errors
    assert not difference(network, places)
