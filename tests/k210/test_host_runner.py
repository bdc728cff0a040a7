"""The runner's interpreter on this computer under sanitizers: damaged models never make it read or write astray."""

import struct
from dataclasses import replace

import numpy as np
import pytest

from ai8x.k210.kmodel import read_kmodel_file, write_kmodel
from tests.k210.host_runner import NUM_STATUSES, HostRunner, NoSanitizers
from tests.k210.runner_projects import all_layers_model

BAD_FILE = 1
HOSTILE = (0, 1, 3, 257, 60_000, 1 << 20, 1 << 29, 1 << 31, 0xFFFFFFFF)
SIZE_OF_SECOND_BODY = 28 + 8 + 4
"""In a file without outputs."""


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> HostRunner:
    try:
        return HostRunner(tmp_path_factory.mktemp("host"))
    except NoSanitizers as reason:
        pytest.skip(str(reason))


def statuses(interpreter: HostRunner, models: list[bytes]) -> list[int]:
    """What the interpreter says to each model; a finding of a sanitizer fails the test."""
    model, image = all_layers_model()
    return interpreter.statuses(models, model.main_mem_usage, image.size)


def test_every_layer_type_runs_clean(interpreter: HostRunner) -> None:
    assert statuses(interpreter, [write_kmodel(all_layers_model()[0])]) == [0]


def test_shortened_models_are_refused(interpreter: HostRunner) -> None:
    data = write_kmodel(all_layers_model()[0])
    found = statuses(interpreter, [data[:size] for size in (*range(0, 700, 7), len(data) - 8)])
    assert found[0] == BAD_FILE and 0 not in found


def with_word(data: bytes, offset: int, word: int) -> bytes:
    return data[:offset] + struct.pack("<I", word) + data[offset + 4 :]


def last_layers() -> list[bytes]:
    """Models of a KPU layer and one other, behind whose body the file ends."""
    model, _ = all_layers_model()
    return [write_kmodel(replace(model, layers=(model.layers[0], layer), outputs=())) for layer in model.layers[1:]]


def test_no_word_of_a_body_leads_astray(interpreter: HostRunner) -> None:
    damaged = []
    for data in last_layers():
        extent = read_kmodel_file(data).extents[-1]
        words = range(extent.offset, min(extent.offset + extent.size, extent.offset + 64) & ~3, 4)
        damaged += [with_word(data, offset, word) for offset in words for word in HOSTILE]
    found = statuses(interpreter, damaged)
    assert len(found) == len(damaged) and set(found) <= set(range(NUM_STATUSES)) and len(set(found)) > 3


def test_no_body_that_is_cut_leads_astray(interpreter: HostRunner) -> None:
    damaged = []
    for data in last_layers():
        extent = read_kmodel_file(data).extents[-1]
        damaged += [with_word(data, SIZE_OF_SECOND_BODY, size)[: extent.offset + size]
                    for size in range(0, min(extent.size, 80), 4)]
    assert 0 not in {status for status, data in zip(statuses(interpreter, damaged), damaged, strict=True)
                     if struct.unpack_from("<I", data, SIZE_OF_SECOND_BODY)[0] < 16}


def test_damaged_models_are_refused_or_run_clean(interpreter: HostRunner) -> None:
    model, _ = all_layers_model()
    data = write_kmodel(model)
    rng = np.random.default_rng(11)
    structure = 4 * (7 + 2 * len(model.outputs) + 2 * len(model.layers))
    damaged = []
    for number in range(500):
        copy = data
        for _ in range(1 + number % 3):
            place = int(rng.integers(structure if number % 2 else len(data))) & ~3
            copy = with_word(copy, place, int(rng.choice([*HOSTILE, rng.integers(1 << 32)])))
        damaged.append(copy)
    found = statuses(interpreter, damaged)
    assert len(found) == len(damaged) and set(found) <= set(range(NUM_STATUSES)) and len(set(found)) > 3
