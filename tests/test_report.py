"""The report's data: what is measured, which facts it names, and its JSON form."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from ai8x.max7800x.device import MAX78000
from ai8x.max7800x.geometry import hardware_layers
from ai8x.max7800x.kernels import plan_kernels
from ai8x.max7800x.lower import LoweringPlan
from ai8x.max7800x.options import CodegenOptions, Core, LowerOptions, ProjectOptions
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
from ai8x.report import REPORT_FORMAT, Report, to_json
from ai8x.report_facts import FACTS, known_fact
from ai8x.report_html import render_html
from ai8x.report_max78000 import chip_report, data_memory_map, project_facts, resources, unverified_facts
from ai8x.report_network import layer_rows, operator_text
from tests.end_to_end.chip_networks import Placed, placed_networks
from tests.end_to_end.digitsnet import write_digitsnet
from tests.end_to_end.firmware import Subject, lower
from tests.reports import branching_report, digits_report

ROOT = Path(__file__).resolve().parents[1]
LARGEST_PAGE_BYTES = 1_000_000


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("digitsnet")
    return lower(write_digitsnet(folder / "d.pth.tar"), folder / "max78000")


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
    assert all("section" in fact.source for fact in facts)


def test_accumulators_beyond_what_was_seen_are_listed() -> None:
    shape, wide = TensorShape(1024, 1, 1), np.full((1, 1024, 3, 3), -128)
    large = Layer(name="a", index=0, op=Op.CONV2D, inputs=(-1,), operand_shape=shape, out_shape=TensorShape(1, 1, 1),
                  conv=ConvSpec(kernel=(3, 3), padding=(1, 1)), weights=wide)
    (fact,) = unverified_facts(Network(name="n", input_shape=shape, layers=(large,)))
    assert fact.key == "max78000-accumulator"
    assert f"{1024 * 9 * 128 * 128:,}" in fact.text


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
    memory = data_memory_map(subject.network, subject.plan)
    found = {resource.name: resource for resource in resources(subject.plan, memory)}
    weights, biases = found["Weight memory"], found["Bias memory"]
    assert weights.used == sum(weights.parts)
    assert len(weights.parts) == 64
    assert all(0 <= part <= weights.part_capacity for part in weights.parts)
    assert biases.used == sum(biases.parts) == 16 + 32 + 32 + 16 + 10
    assert found["Powered quadrants"].used == 2
    assert found["Powered quadrants"].parts == (1, 1, 0, 0)
    assert found["Data memory, fullest instance"].used == memory.peak


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


# --- JSON -----------------------------------------------------------------------------------------------------------

def test_the_json_form_survives_a_round_trip() -> None:
    report = digits_report()
    content = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert content["format"] == REPORT_FORMAT
    assert content["totals"]["macs"] == report.total_macs == sum(row.macs for row in report.layers)
    assert [chip["target"] for chip in content["chips"]] == ["max78000", "k210"]
    assert content["input_shape"] == [1, 28, 28]
    assert [layer["sources"] for layer in content["layers"]] == [[-1], [0], [1], [1], [2, 3], [4]]
    for chip in content["chips"]:
        assert 0 < chip["plan_lower_bound"] <= chip["plan_peak"]


def test_everything_in_the_json_form_is_explained() -> None:
    text = (ROOT / "docs" / "report.md").read_text()
    missing = sorted({key for key in keys(to_json(branching_report())) if f"`{key}`" not in text})
    assert not missing, f"docs/report.md says nothing about {missing}"


def keys(content: Any) -> Iterator[str]:
    """Keys of all records; those of mappings by name (files, verification) are names, not keys."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield key
            if key not in ("files", "verification"):
                yield from keys(value)
    elif isinstance(content, (list, tuple)):
        for value in content:
            yield from keys(value)


# --- the one list of unconfirmed facts ------------------------------------------------------------------------------

def test_every_mark_in_the_code_belongs_to_a_fact() -> None:
    """Whoever marks a line as unverified names the fact, and its file, in `report_facts.FACTS`."""
    package = ROOT / "ai8x"
    marked = {path.relative_to(package).as_posix() for path in package.rglob("*")
              if path.is_file() and path.suffix != ".pyc" and b"UNVERIFIED" in path.read_bytes()}
    assert marked == {name for known in FACTS for name in known.marked}


def test_every_fact_has_a_name_of_its_own_and_a_source() -> None:
    names = [known.fact.key for known in FACTS]
    assert len(set(names)) == len(names)
    for known in FACTS:
        assert known.fact.key.split("-")[0] in ("max78000", "k210")
        assert known.fact.text
        assert known.fact.effect
        page = known.fact.source.split(" section")[0]
        assert (ROOT / "docs" / page).is_file() or (ROOT / "ai8x" / "k210" / "templates" / page[5:]).is_file(), page


def test_a_fact_can_carry_the_numbers_of_the_network() -> None:
    assert known_fact("k210-pooling", "twice").text == f"{known_fact('k210-pooling').text}: twice"


def test_the_project_adds_the_facts_it_relies_on(subject: Subject) -> None:
    assert not project_facts(subject.plan, ProjectOptions())
    project = ProjectOptions(lower=LowerOptions(zero_memories=True, power_down_unused=True),
                             code=CodegenOptions(core=Core.RISCV, timer=1))
    assert [fact.key for fact in project_facts(subject.plan, project)] == [
        "max78000-memory-sleep", "max78000-self-test", "max78000-riscv-start", "max78000-timers"]


def test_the_k210_lists_its_runners() -> None:
    (chip,) = (chip for chip in digits_report().chips if chip.target == "k210")
    assert {"k210-standalone-board", "k210-sdk-runner", "k210-main-memory-rate"} <= {
        fact.key for fact in chip.unverified}


# --- the lower bound of a plan --------------------------------------------------------------------------------------

def test_the_lower_bound_counts_what_lives_at_once_and_shared_words_once(subject: Subject) -> None:
    memory = data_memory_map(subject.network, subject.plan)
    # conv1's 784 words; then conv2's 196 beside 2 * 196 that bypass and conv3 share in turn. The input could have been
    # overwritten by conv1, so the two do not count together.
    assert memory.lower_bound == 4 * 784
    assert memory.lower_bound <= memory.peak


@settings(max_examples=30)
@given(placed_networks())
def test_no_plan_is_below_its_lower_bound(subject: Placed) -> None:
    layers = hardware_layers(subject.network, subject.placement, MAX78000)
    plan = LoweringPlan(device=MAX78000, layers=layers, placement=subject.placement,
                        kernels=plan_kernels(layers, MAX78000))
    memory = data_memory_map(subject.network, plan)
    largest = max(block.end - block.start for block in memory.blocks)
    assert largest <= memory.lower_bound <= memory.peak
