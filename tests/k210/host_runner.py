"""The runner's interpreter compiled for this computer, under sanitizers. Start at `HostRunner`.

Its KPU is a stub that gives a pattern; what surrounds the KPU is the code of every generated project.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.k210.runner_projects import all_layers_model, runner_model, write_project

COMPILER = shutil.which("gcc") or shutil.which("clang")
SOURCES = ("kmodel.c", "layers.c", "layers_bytes.c", "layers_float.c", "layers_own.c")
SANITIZERS = "-fsanitize=address,undefined,float-cast-overflow"
NUM_STATUSES = 9

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


class NoSanitizers(Exception):
    """The compiler of this computer is missing or has no sanitizers."""


class HostRunner:
    """The compiled interpreter.

    Args:
        folder: empty, for the project.

    Raises:
        NoSanitizers: it cannot be compiled here.
        RuntimeError: it does not compile.
    """

    def __init__(self, folder: Path) -> None:
        if COMPILER is None:
            raise NoSanitizers("no compiler for this computer")
        write_project(folder, runner_model(*all_layers_model()))
        (folder / "driver.c").write_text(DRIVER)
        self._program = folder / "driver"
        command = [COMPILER, "-std=gnu11", "-O1", "-g", SANITIZERS, "-fno-sanitize-recover=all", "-I.", "-Istandalone",
                   "-o", str(self._program), "driver.c", *(f"standalone/{name}" for name in SOURCES), "-lm"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode and "sanitize" in done.stderr + done.stdout:
            raise NoSanitizers("the compiler has no sanitizers")
        if done.returncode:
            raise RuntimeError(done.stderr)

    def statuses(self, models: Sequence[bytes], memory_size: int, image_size: int) -> list[int]:
        """What the interpreter says to each model.

        Args:
            models: files.
            memory_size: bytes of the main buffer that each is given.
            image_size: bytes of the image that each is given.

        Raises:
            RuntimeError: a sanitizer found something, with its report.
            subprocess.TimeoutExpired: all together took more than a second each and a minute.
        """
        stream = b"".join(struct.pack("<I", len(data)) + data for data in models)
        done = subprocess.run([str(self._program), str(memory_size), str(image_size)], input=stream,
                              capture_output=True, check=False, timeout=60 + len(models))
        if done.returncode:
            raise RuntimeError(f"model {done.stdout.count(10)}: {done.stderr.decode(errors='replace')[-3000:]}")
        return [int(line) for line in done.stdout.split()]
