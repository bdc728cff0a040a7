"""One runner for all kmodels: compiled once, with file, images and results at fixed places of general RAM.

The interpreter, the KPU driver and the board support are the files of every generated project, compiled with its
Makefile; only ``main.c`` is another. Start at `Runner`.

Source: docs/design.md "Two witnesses"; spec/virtual-boards.md section 4.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai8x.k210.interpreter import KmodelRun
from ai8x.toolchain import build_k210_project
from ai8x.virtual.k210 import K210Board, K210FirmwareResult
from tests.k210.kpu_layers import pattern_image
from tests.k210.runner_projects import runner_model, small_model, write_project

JOB, IMAGES, FILE, MEMORY, RESULTS, END = 0x8008_0000, 0x8008_1000, 0x8010_0000, 0x8028_0000, 0x8058_0000, 0x8060_0000
"""Places: what to do, images, kmodel, main buffer, outputs of all runs."""

MAIN = """
#include <string.h>

#include "board.h"
#include "kmodel.h"
#include "print.h"
#include "runner.h"

typedef struct {
    uint32_t file_size, memory_size, image_size, images, status, layer;
} job_t;

static volatile job_t *const job = (volatile job_t *)(uintptr_t)0x80080000u;
static const uint8_t *const images = (const uint8_t *)(uintptr_t)0x80081000u;
static const uint8_t *const file = (const uint8_t *)(uintptr_t)0x80100000u;
static uint8_t *const memory = (uint8_t *)(uintptr_t)0x80280000u;

static kmodel_t model;

/* Every output of the last run behind those of the runs before. */
static uint8_t *keep(uint8_t *place)
{
    for (uint32_t index = 0;; index++) {
        uint32_t size = 0;
        const uint8_t *const output = kmodel_output(&model, index, &size);

        if (output == 0) {
            return place;
        }
        memcpy(place, output, size);
        place += size;
    }
}

int main(void)
{
    const char *const problem = board_start();
    uint8_t *place = (uint8_t *)(uintptr_t)0x80580000u;
    kmodel_status_t status;

    if (problem != 0) {
        print_text(problem);
        return 1;
    }
    status = kmodel_open(&model, file, job->file_size, (uint8_t *)board_uncached(memory), job->memory_size);
    for (uint32_t i = 0; i < job->images && status == KMODEL_OK; i++) {
        status = kmodel_run(&model, images + i * job->image_size, job->image_size);
        place = status == KMODEL_OK ? keep(place) : place;
    }
    job->status = status;
    job->layer = model.layer;
    print_text(status == KMODEL_OK ? "PASS\\n" : kmodel_message(status));
    return 0;
}
"""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunnerRun:
    """What the compiled runner made of a kmodel.

    Args:
        outputs: the bytes of all outputs of every image, one behind the other.
        result: console and the result of every KPU layer.
    """

    outputs: NDArray[np.uint8]
    result: K210FirmwareResult


class Runner:
    """The compiled runner.

    Args:
        folder: empty, for the project.
    """

    def __init__(self, folder: Path) -> None:
        image = pattern_image(2, 8, 8)
        write_project(folder, runner_model(small_model(), image), main=MAIN)
        self._elf = build_k210_project(folder)

    @staticmethod
    def has_room(data: bytes, memory_size: int, image_bytes: int, output_bytes: int) -> bool:
        """Whether a kmodel, its main buffer, all images and all outputs fit their places."""
        return (len(data) <= MEMORY - FILE and memory_size <= RESULTS - MEMORY and image_bytes <= FILE - IMAGES
                and output_bytes <= END - RESULTS)

    def run(self, data: bytes, memory_size: int, images: Sequence[NDArray[np.uint8]], output_bytes: int, *,
            seed: int) -> RunnerRun:
        """Run a kmodel on images, one inference after the other.

        Args:
            data: the file.
            memory_size: bytes of the main buffer that it is given.
            images: as the model takes them.
            output_bytes: of all outputs of one inference together.
            seed: of what the RAMs hold before.
        """
        content = np.concatenate([image.reshape(-1) for image in images])
        assert self.has_room(data, memory_size, content.size, output_bytes * len(images))
        board = K210Board(self._elf, seed=seed)
        job = struct.pack("<6I", len(data), memory_size, images[0].size, len(images), 0, 0)
        for address, values in ((JOB, np.frombuffer(job, np.uint8)), (IMAGES, content),
                                (FILE, np.frombuffer(data, np.uint8))):
            board.memory(address, values.size)[:] = values
        result = board.run()
        return RunnerRun(outputs=board.memory(RESULTS, output_bytes * len(images)).copy(), result=result)


def runner_difference(run: RunnerRun, expected: Sequence[KmodelRun]) -> str:
    """The first KPU layer or output that differs from the simulator's; empty where none does."""
    if not run.result.passed:
        return f"{run.result.reason}; console: {run.result.console.strip()}"
    layers = [(number, index, inference) for number, inference in enumerate(expected)
              for index in sorted(inference.layers)]
    if len(layers) != len(run.result.layers):
        return f"{len(run.result.layers)} KPU layers, expected {len(layers)}"
    for (number, index, inference), found in zip(layers, run.result.layers, strict=True):
        wrong = found != inference.layers[index]
        if index in inference.undefined:
            wrong &= ~inference.undefined[index]
        if wrong.any():
            return f"inference {number}, layer {index}: {int(wrong.sum())} bytes of the KPU differ"
    wanted = np.concatenate([output for inference in expected for output in inference.outputs])
    wrong = np.flatnonzero(wanted != run.outputs)
    return f"{wrong.size} output bytes differ, the first is byte {wrong[0]}" if wrong.size else ""
