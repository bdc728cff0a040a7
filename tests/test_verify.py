"""Verification finds what is wrong, names the first difference, and says what it could not do."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.lower import LoweredModel, device_image, lower_network
from ai8x.max7800x.program import Program, RegisterWrite
from ai8x.verify import Verdict
from ai8x.verify_k210 import compare_kmodel, verify_kmodel
from ai8x.verify_max78000 import run_samples, verify_simulator
from tests.end_to_end.digitsnet import sample, write_digitsnet
from tests.end_to_end.firmware import Subject, lower


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("digitsnet")
    return lower(write_digitsnet(folder / "d.pth.tar"), folder / "max78000")


@pytest.fixture(scope="module")
def kmodel(subject: Subject) -> LoweredModel:
    return lower_network(subject.network)


# --- verdicts -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("fields", "text", "different"), [
    ({}, "equal", False), ({"difference": "layer 1 'a'"}, "different: layer 1 'a'", True),
    ({"skipped": "no compiler"}, "skipped: no compiler", False),
])
def test_a_verdict_prints_as_the_record_wants_it(fields: dict[str, str], text: str, different: bool) -> None:
    verdict = Verdict(witness="firmware", **fields)
    assert (str(verdict), verdict.is_different) == (text, different)


# --- MAX78000 -----------------------------------------------------------------------------------------------------

def verdict_of(subject: Subject, program: Program, trace: Any = None) -> str:
    return str(verify_simulator(subject.network, subject.plan.layers, program, trace or subject.trace))


def with_write(program: Program, layer: int, register: str, value: int) -> Program:
    """The program with one layer register written differently, in every quadrant."""
    changed = 0

    def change(write: RegisterWrite) -> RegisterWrite:
        nonlocal changed
        if (write.layer, write.register) != (layer, register):
            return write
        changed += 1
        return replace(write, value=value)

    result = replace(program, configure=tuple(change(write) for write in program.configure))
    assert changed
    return result


def test_the_program_as_lowered_is_equal(subject: Subject) -> None:
    assert verdict_of(subject, subject.program) == "equal"


@pytest.mark.parametrize("layer", range(6))
def test_the_first_wrong_layer_is_named(subject: Subject, layer: int) -> None:
    """Every later layer is spoilt too: the message must name the first."""
    trace = {}
    for index, values in subject.trace.items():
        trace[index] = values.copy()
        if index >= layer:
            trace[index][-1, -1, -1] ^= 1
    name = subject.network.layers[layer].name
    channel, row, column = (size - 1 for size in subject.trace[layer].shape)
    found = verdict_of(subject, subject.program, trace)
    place = f"channel {channel}, row {row}, column {column}"
    assert found.startswith(f"different: layer {layer} '{name}', {place}: expected ")
    assert f"(1 of {subject.trace[layer].size} values differ)" in found


def test_illegal_programming_is_a_difference(subject: Subject) -> None:
    found = verdict_of(subject, with_write(subject.program, 1, "RCNT", 0xFFFFFFFF))
    assert found.startswith("different: ")
    assert "RCNT" in found


def test_an_output_in_the_wrong_place_is_a_difference(subject: Subject) -> None:
    """The last layer's logits one word further: right values, wrong addresses."""
    write = next(w for w in subject.program.configure if (w.layer, w.register) == (5, "WPTR_BASE"))
    found = verdict_of(subject, with_write(subject.program, 5, "WPTR_BASE", write.value + 1))
    assert found.startswith("different: layer 5 'fc'")


def test_missing_weights_are_a_difference(subject: Subject) -> None:
    program = replace(subject.program, load_weights=subject.program.load_weights[1:])
    assert verdict_of(subject, program).startswith("different: ")


def test_a_missing_input_is_a_difference(subject: Subject) -> None:
    program = replace(subject.program, load_input=())
    assert verdict_of(subject, program).startswith("different: ")


def test_a_program_that_never_starts_is_a_difference(subject: Subject) -> None:
    assert "no run was started" in verdict_of(subject, replace(subject.program, start=()))


def test_samples_run_one_after_the_other_on_one_set_up(subject: Subject) -> None:
    batch = np.stack([subject.sample, sample(7), sample(8), subject.sample])
    found = list(run_samples(subject.plan.device, subject.program, subject.plan.layers, batch))
    assert len(found) == len(batch)
    np.testing.assert_array_equal(found[0], subject.trace[5])
    np.testing.assert_array_equal(found[3], subject.trace[5])
    assert not np.array_equal(found[1], found[2])


# --- K210 ---------------------------------------------------------------------------------------------------------

def test_the_kmodel_as_lowered_is_equal(subject: Subject, kmodel: LoweredModel) -> None:
    assert str(verify_kmodel(subject.network, kmodel, subject.sample, subject.trace)) == "equal"


@pytest.mark.parametrize("layer", range(6))
def test_the_first_wrong_layer_of_a_kmodel_is_named(subject: Subject, kmodel: LoweredModel, layer: int) -> None:
    trace = {index: values.copy() for index, values in subject.trace.items()}
    trace[layer] = np.full_like(trace[layer], 7)
    run = run_kmodel(kmodel.data, device_image(subject.sample))
    verdict = compare_kmodel(subject.network, kmodel, run, subject.sample, trace)  # type: ignore[arg-type]
    assert f"layer {layer} '" in verdict.difference or subject.network.layers[layer].name in verdict.difference


def test_a_damaged_kmodel_is_a_difference(subject: Subject, kmodel: LoweredModel) -> None:
    """The sign of the last number in the file, the fully connected layer's last bias."""
    data = bytearray(kmodel.data)
    data[-1] ^= 0x80
    damaged = replace(kmodel, data=bytes(data))
    verdict = verify_kmodel(subject.network, damaged, subject.sample, subject.trace)
    assert verdict.difference.startswith("layer 5 'fc', channel 9")


def test_another_sample_is_a_difference(subject: Subject, kmodel: LoweredModel) -> None:
    assert verify_kmodel(subject.network, kmodel, sample(9), subject.trace).difference.startswith("layer 0 'conv1'")


