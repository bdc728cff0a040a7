"""Damaged kmodels by the thousand: ``python -m tests.k210.mutations --seed 1 --count 2000``.

Every file that is tried must be refused by a message that names an offset of the file, or run clean; on the compiled
interpreter under sanitizers as well as in Python. Start at `mutations` and `outcome`.

Source: docs/design.md "Reading vendor files" and "Files"; spec/k210-kmodel.md sections 8 to 10.
"""

from __future__ import annotations

import argparse
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ai8x.errors import HardwareFault, UserError
from ai8x.k210.interpreter import run_kmodel
from ai8x.k210.kmodel import KModel, read_kmodel_file, write_kmodel
from ai8x.k210.kmodel_info import identify
from ai8x.k210.lint import lint_kmodel
from tests.k210.host_runner import HostRunner
from tests.k210.kpu_layers import pattern_image
from tests.k210.runner_projects import all_layers_model, small_model

HOSTILE = (0, 1, 2, 3, 7, 8, 16, 255, 256, 257, 1024, 1025, 32_767, 32_768, 60_000, 65_536, 1 << 20, (1 << 20) + 1,
           6 << 20, 1 << 29, (1 << 31) - 1, 1 << 31, (1 << 32) - 8, (1 << 32) - 1)
"""Words at which counts, offsets and sizes break."""

OFFSET = re.compile(r"0x[0-9a-f]+")
SLOWEST_S = 2.0
SMALL = 2000
"""Bytes of a file that is cut at every byte."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Base:
    """An intact file and what it takes."""

    name: str
    model: KModel
    data: bytes
    image: NDArray[np.uint8]


def bases() -> tuple[Base, ...]:
    """A file of one KPU layer, and one with every layer type."""
    full, image = all_layers_model()
    one = small_model()
    return (Base(name="one layer", model=one, data=write_kmodel(one), image=pattern_image(2, 8, 8)),
            Base(name="all layers", model=full, data=write_kmodel(full), image=image))


def structure_words(base: Base) -> list[int]:
    """Offsets of the words that say where things are: header, tables, scalar fields of bodies, registers."""
    file = read_kmodel_file(base.data)
    first = file.extents[0].offset
    words = set(range(0, first, 4))
    for extent in file.extents:
        words.update(range(extent.offset, min(extent.offset + min(extent.size, 64), len(base.data) - 3), 4))
        if extent.conv is not None:
            words.update(range(extent.conv.registers, extent.conv.registers + 96, 4))
    return sorted(words)


def mutate(base: Base, words: list[int], rng: np.random.Generator) -> bytes:
    """One damaged copy of a file."""
    data = bytearray(base.data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3, 8]))):
        kind = int(rng.integers(8))
        place = int(rng.integers(len(data)))
        if kind < 3:
            struct.pack_into("<I", data, int(rng.choice(words)), int(rng.choice(HOSTILE)))
        elif kind == 3:
            word = int(rng.choice(words))
            value = struct.unpack_from("<I", data, word)[0] + int(rng.choice([-8, -4, -1, 1, 4, 8, 64]))
            struct.pack_into("<I", data, word, value & 0xFFFFFFFF)
        elif kind == 4:
            data[int(rng.choice(words)) + int(rng.integers(4))] ^= 1 << int(rng.integers(8))
        elif kind == 5:
            data[place] = int(rng.integers(256))
        elif kind == 6:
            other = int(rng.choice(words))
            struct.pack_into("<I", data, int(rng.choice(words)), struct.unpack_from("<I", base.data, other)[0])
        else:
            size = int(rng.integers(1, 64))
            data[place : place + size] = rng.bytes(size)[: len(data) - place]
    return bytes(data)


def mutations(base: Base, seed: int, count: int) -> Iterator[bytes]:
    """Seeded damaged copies; some are cut or prolonged in addition."""
    rng, words = np.random.default_rng([seed, len(base.data)]), structure_words(base)
    for _ in range(count):
        data = mutate(base, words, rng)
        ending = rng.random()
        if ending < 0.05:
            data = data[: int(rng.integers(len(data)))]
        elif ending < 0.1:
            data += rng.bytes(int(rng.integers(1, 300)))
        yield data


def truncations(base: Base) -> Iterator[bytes]:
    """The file cut at every byte."""
    for size in range(len(base.data)):
        yield base.data[:size]


def outcome(base: Base, data: bytes) -> str:
    """What Python makes of a file: ``runs``, or the code of the refusal.

    Raises:
        AssertionError: a refusal names no offset of the file or no rule.
        Exception: anything that is no refusal is a defect.
    """
    try:
        identify(data)
        lint_kmodel(read_kmodel_file(data).model)
        run_kmodel(data, base.image)
    except UserError as error:
        (finding,) = error.diagnostics
        assert OFFSET.search(f"{finding.message} {finding.found} {finding.allowed}"), error
        assert finding.found and finding.allowed, error
        return finding.code
    except HardwareFault as fault:
        assert OFFSET.search(str(fault)), fault
        return "fault"
    return "runs"


def try_all(base: Base, files: Iterator[bytes]) -> tuple[Counter[str], list[str]]:
    """Outcomes, and the defects: what was raised, or what took too long."""
    counts, defects = Counter[str](), []
    for number, data in enumerate(files):
        start = time.process_time()
        try:
            counts[outcome(base, data)] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is to be reported
            defects.append(f"{base.name}, file {number}: {type(error).__name__}: {str(error)[:300]}")
        if (seconds := time.process_time() - start) > SLOWEST_S:
            defects.append(f"{base.name}, file {number}: {seconds:.1f} s")
    return counts, defects


def try_compiled(base: Base, runner: HostRunner, files: list[bytes]) -> tuple[Counter[str], list[str]]:
    """The same on the compiled interpreter: statuses, and what a sanitizer found or what took too long."""
    try:
        found = runner.statuses(files, base.model.main_mem_usage, base.image.size)
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        return Counter(), [f"{base.name}, compiled: {error}"]
    return Counter(f"status {status}" for status in found), []


def main() -> int:
    """Try everything and print what came of it; exit status 1 where a file did harm."""
    parser = argparse.ArgumentParser(prog="python -m tests.k210.mutations", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=2000, help="damaged files of both models together (default: 2000)")
    parser.add_argument("--no-compiled", action="store_true", help="the Python reader and simulator only")
    arguments = parser.parse_args()
    all_defects, start = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ai8x-mutations-") as folder:
        runner = None if arguments.no_compiled else HostRunner(Path(folder))
        for base in bases():
            cut = list(truncations(base)) if len(base.data) < SMALL else []
            damaged = list(mutations(base, arguments.seed, arguments.count // len(bases())))
            for what, files in (("cut", cut), ("damaged", damaged)):
                counts, defects = try_all(base, iter(files))
                print(f"{base.name}: {len(files)} {what}: {dict(counts.most_common())}")
                if runner is not None and files:
                    statuses, found = try_compiled(base, runner, files)
                    print(f"{base.name}: {len(files)} {what}, compiled: {dict(statuses.most_common())}")
                    defects += found
                all_defects += defects
    print("\n".join(all_defects))
    print(f"seed {arguments.seed}: {len(all_defects)} defects, {time.monotonic() - start:.0f} s")
    return int(bool(all_defects))


if __name__ == "__main__":
    sys.exit(main())
