"""The runner's interpreter on this computer under sanitizers: damaged models never make it read or write astray."""

import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ai8x.k210.kmodel import read_kmodel_file, write_kmodel
from tests.k210.runner_projects import all_layers_model, runner_model, write_project

COMPILER = shutil.which("gcc") or shutil.which("clang")
SOURCES = ("kmodel.c", "layers.c", "layers_bytes.c", "layers_float.c")
SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow"
BAD_FILE, NUM_STATUSES = 1, 9
HOSTILE = (0, 1, 3, 257, 60_000, 1 << 20, 1 << 29, 1 << 31, 0xFFFFFFFF)
SIZE_OF_SECOND_BODY = 28 + 8 + 4
"""In a file without outputs."""

DRIVER = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "board.h"
#include "kmodel.h"
#include "kpu.h"

/* The KPU: its results are a pattern, everything else is checked by its caller. */
void kpu_start(bool eight_bit) { (void)eight_bit; }
bool kpu_run(const uint64_t words[KPU_WORDS], uintptr_t target)
{
    const uint64_t items = (words[KPU_WORDS - 1u] >> 32) / BOARD_DMA_ITEM + 1u;
    const uint64_t bytes = target == 0 ? 0 : items * BOARD_DMA_ITEM;
    for (uint64_t i = 0; i < bytes; i++) { ((uint8_t *)target)[i] = (uint8_t)(37u * i); }
    return true;
}
uint64_t kpu_map_lines(uint32_t width, uint32_t height, uint32_t channels)
{
    return width > KPU_LINES || height > KPU_LINES ? UINT64_MAX : (uint64_t)channels * height * (width / 64u + 1u);
}
void kpu_upload(uint32_t line, const uint8_t *source, uint32_t width, uint32_t height, uint32_t channels)
{
    volatile uint8_t last = 0;
    for (uint64_t i = 0; i < (uint64_t)width * height * channels; i++) { last = source[i]; }
    (void)line; (void)last;
}
void kpu_upload_cells(uint32_t line, const uint8_t *source, uint32_t channels)
{
    kpu_upload(line, source, 1, 1, channels);
}
uintptr_t board_uncached(const void *cached) { return (uintptr_t)cached; }

/* Models on the standard input, each behind its size; statuses on the output. */
int main(int count, char **arguments)
{
    const uint32_t memory_size = (uint32_t)atoi(arguments[1]), image_size = (uint32_t)atoi(arguments[2]);
    uint8_t *const image = calloc(image_size, 1);
    uint32_t size;

    (void)count;
    while (fread(&size, sizeof(size), 1, stdin) == 1) {
        void *place = 0;
        uint8_t *const exact = malloc(memory_size);
        uint8_t *file;
        kmodel_t model;
        kmodel_status_t status;

        if (posix_memalign(&place, 256, size) != 0 || fread(place, 1, size, stdin) != size) { return 2; }
        file = place; /* its end is the end of what may be read */
        status = kmodel_open(&model, file, size, exact, memory_size);
        status = status == KMODEL_OK ? kmodel_run(&model, image, image_size) : status;
        printf("%d\\n", (int)status);
        free(file);
        free(exact);
    }
    free(image);
    return 0;
}
"""


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if COMPILER is None:
        pytest.skip("no compiler for this computer")
    folder = tmp_path_factory.mktemp("host")
    write_project(folder, runner_model(*all_layers_model()))
    (folder / "driver.c").write_text(DRIVER)
    program = folder / "driver"
    sources = ["driver.c", *(f"standalone/{name}" for name in SOURCES)]
    done = subprocess.run([COMPILER, "-std=gnu11", "-O1", "-g", SANITIZERS, "-fno-sanitize-recover=all", "-I.",
                           "-Istandalone", "-o", str(program), *sources, "-lm"], cwd=folder, capture_output=True,
                          text=True, check=False)
    if done.returncode and "sanitize" in done.stderr + done.stdout:
        pytest.skip("the compiler has no sanitizers")
    assert done.returncode == 0, done.stderr
    return program


def statuses(program: Path, models: list[bytes]) -> list[int]:
    """What the interpreter says to each model; a finding of a sanitizer fails the test."""
    model, image = all_layers_model()
    stream = b"".join(struct.pack("<I", len(data)) + data for data in models)
    done = subprocess.run([str(program), str(model.main_mem_usage), str(image.size)], input=stream, capture_output=True,
                          check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    return [int(line) for line in done.stdout.split()]


def test_every_layer_type_runs_clean(interpreter: Path) -> None:
    assert statuses(interpreter, [write_kmodel(all_layers_model()[0])]) == [0]


def test_shortened_models_are_refused(interpreter: Path) -> None:
    data = write_kmodel(all_layers_model()[0])
    found = statuses(interpreter, [data[:size] for size in (*range(0, 700, 7), len(data) - 8)])
    assert found[0] == BAD_FILE and 0 not in found


def with_word(data: bytes, offset: int, word: int) -> bytes:
    return data[:offset] + struct.pack("<I", word) + data[offset + 4 :]


def last_layers() -> list[bytes]:
    """Models of a KPU layer and one other, behind whose body the file ends."""
    model, _ = all_layers_model()
    return [write_kmodel(replace(model, layers=(model.layers[0], layer), outputs=())) for layer in model.layers[1:]]


def test_no_word_of_a_body_leads_astray(interpreter: Path) -> None:
    damaged = []
    for data in last_layers():
        extent = read_kmodel_file(data).extents[-1]
        words = range(extent.offset, min(extent.offset + extent.size, extent.offset + 64) & ~3, 4)
        damaged += [with_word(data, offset, word) for offset in words for word in HOSTILE]
    found = statuses(interpreter, damaged)
    assert len(found) == len(damaged) and set(found) <= set(range(NUM_STATUSES)) and len(set(found)) > 3


def test_no_body_that_is_cut_leads_astray(interpreter: Path) -> None:
    damaged = []
    for data in last_layers():
        extent = read_kmodel_file(data).extents[-1]
        damaged += [with_word(data, SIZE_OF_SECOND_BODY, size)[: extent.offset + size]
                    for size in range(0, min(extent.size, 80), 4)]
    assert 0 not in {status for status, data in zip(statuses(interpreter, damaged), damaged, strict=True)
                     if struct.unpack_from("<I", data, SIZE_OF_SECOND_BODY)[0] < 16}


def test_damaged_models_are_refused_or_run_clean(interpreter: Path) -> None:
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
