"""Sizes of a project's tables, and the choice of options that make it fit."""

import re
from dataclasses import replace
from importlib import resources

import pytest

from ai8x.max7800x.firmware_size import (
    CODE_BYTES,
    FLASH_BYTES,
    SRAM_BYTES,
    FirmwareSize,
    changed_options,
    firmware_size,
    smaller_options,
)
from ai8x.max7800x.lower import LowerOptions
from ai8x.max7800x.options import DEFAULT_PROJECT, CodegenOptions, Core, ProjectOptions, SyntheticInput

from .lowering_examples import real_program, residual, small

KIB = 1 << 10
FITTING = FirmwareSize(weights=100 * KIB, sample=100 * KIB, answer=4 * KIB, answer_words=1000, layers=0,
                       outputs=4 * KIB, flash=512 * KIB, sram=128 * KIB)


@pytest.mark.parametrize(("core", "script"), [(Core.ARM, "standalone/max78000.ld"),
                                              (Core.RISCV, "riscv/max78000_riscv.ld")])
def test_limits_are_those_of_the_linker_scripts(core: Core, script: str) -> None:
    text = resources.files("ai8x.max7800x").joinpath("templates", script).read_text()
    found = {name: int(size) * KIB for name, size in re.findall(r"(\w+) \(\w+\) : .*LENGTH = (\d+)K", text)}
    assert found == {"FLASH": FLASH_BYTES[core], "SRAM": SRAM_BYTES[core]}


def test_tables_are_counted_as_they_are_written() -> None:
    network, placement = small()
    size = firmware_size(real_program(network, placement), DEFAULT_PROJECT)
    # 8 x 8 words; ten wide outputs in runs of four lanes, one word each; biases of one layer, a byte each.
    assert (size.sample, size.answer_words, size.outputs, size.layers) == (4 * 64, 10, 40, 0)
    assert size.weights >= 6 * 3 * 9 + 10 * 6 * 64 + 6
    quiet = replace(DEFAULT_PROJECT, code=CodegenOptions(known_answer=False, unload=False, softmax=False))
    assert (firmware_size(real_program(network, placement), quiet).answer,
            firmware_size(real_program(network, placement), quiet).outputs) == (0, 0)


def test_answers_of_single_layers_are_counted() -> None:
    network, placement = residual()
    program = real_program(network, placement, LowerOptions(check_layers=True))
    assert firmware_size(program, DEFAULT_PROJECT).layers > 4 * 4 * 36


@pytest.mark.parametrize(("changes", "expected"), [
    ({}, ""),
    ({"outputs": 127 * KIB}, "--no-unload"),
    ({"sample": 400 * KIB}, "--synthesize-input 0x2f61a5d3 --synthesize-words 64"),
    ({"answer": 400 * KIB, "answer_words": 100 * KIB}, "--max-verify-length 65536"),
    ({"answer": 400 * KIB, "answer_words": 25 * KIB}, "--max-verify-length 16384"),
    ({"sample": 400 * KIB, "answer": 400 * KIB, "answer_words": 100 * KIB},
     "--synthesize-input 0x2f61a5d3 --synthesize-words 64 --max-verify-length 65536"),
    ({"weights": 470 * KIB}, "--synthesize-input 0x2f61a5d3 --synthesize-words 32"),
    ({"weights": 479 * KIB, "answer": 8}, "--synthesize-input 0x2f61a5d3 --synthesize-words 8"),
])
def test_the_least_changes_that_fit_are_chosen(changes: dict[str, int], expected: str) -> None:
    result = smaller_options(replace(FITTING, **changes), DEFAULT_PROJECT, 25)
    assert result is not None and changed_options(DEFAULT_PROJECT, result) == expected


@pytest.mark.parametrize(("changes", "project"), [
    ({"weights": 480 * KIB}, DEFAULT_PROJECT), ({"layers": 400 * KIB}, DEFAULT_PROJECT),
    ({"sample": 400 * KIB}, ProjectOptions(code=CodegenOptions(compact=False)))])
def test_nothing_is_offered_where_neither_sample_nor_answer_can_help(
        changes: dict[str, int], project: ProjectOptions) -> None:
    assert smaller_options(replace(FITTING, **changes), project, 16) is None


def test_a_synthesized_input_keeps_its_increment_and_is_never_made_longer() -> None:
    project = ProjectOptions(synthetic_input=SyntheticInput(increment=-1, words=4096))
    shorter = smaller_options(replace(FITTING, sample=400 * KIB), project, 25)
    assert shorter is not None
    assert changed_options(project, shorter) == "--synthesize-input 0xffffffff --synthesize-words 64"
    short = ProjectOptions(synthetic_input=SyntheticInput(increment=3, words=10))
    size = replace(FITTING, weights=470 * KIB, sample=1000, answer=400 * KIB, answer_words=100 * KIB)
    smaller = smaller_options(size, short, 25)
    assert smaller is not None and smaller.synthetic_input == short.synthetic_input
    assert changed_options(short, smaller) == "--max-verify-length 2048"


def test_measured_machine_code_counts() -> None:
    size = replace(FITTING, sample=300 * KIB)
    assert smaller_options(size, DEFAULT_PROJECT, 16, code_bytes=CODE_BYTES) == DEFAULT_PROJECT
    smaller = smaller_options(size, DEFAULT_PROJECT, 16, code_bytes=120 * KIB)
    assert smaller is not None and smaller.synthetic_input is not None
