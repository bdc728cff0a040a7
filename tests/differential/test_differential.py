"""At least one hundred random networks, every corner with its share: reference = simulator = compiled firmware.

The same, with more networks and any seed: ``python -m tests.differential --seed 7 --count 2000``.

Source: docs/design.md "Tests".
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from .kinds import KINDS, draw_case
from .memory import words_difference
from .run import FirmwareBuilder, compare_case

SEED = 20
PER_KIND = 6
MOST_DRAWN = 60


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> FirmwareBuilder | None:
    """Compiles; None where there is no compiler or emulator."""
    pytest.importorskip("unicorn")
    pytest.importorskip("elftools")
    return FirmwareBuilder(tmp_path_factory.mktemp("support")) if shutil.which("arm-none-eabi-gcc") else None


@pytest.mark.parametrize("kind", KINDS)
def test_every_executor_computes_the_same(kind: str, builder: FirmwareBuilder | None, tmp_path: Path) -> None:
    compared = compiled = 0
    for number in range(MOST_DRAWN):
        case = draw_case(SEED, number, kind)
        if case is None:
            continue
        project = tmp_path / str(number)
        project.mkdir()
        outcome = compare_case(case, builder, project)
        assert not outcome.difference, f"python -m tests.differential --seed {SEED} --kind {kind} --only {number}"
        compared += not outcome.refused
        compiled += outcome.compiled
        if compared == PER_KIND:
            break
    assert compared == PER_KIND
    assert compiled == (PER_KIND if builder is not None and kind != "quad" else 0)


def test_cases_depend_on_seed_and_number_only() -> None:
    first, again, other = draw_case(1, 4), draw_case(1, 4), draw_case(2, 4)
    assert first is not None and again is not None
    np.testing.assert_array_equal(first.sample, again.sample)
    assert first.placement == again.placement
    assert other is None or other.sample.shape != first.sample.shape or (other.sample != first.sample).any()


def test_a_wrong_word_of_memory_is_found() -> None:
    class Memory:
        def peek(self, address: int, size: int) -> int:
            return 0x12345678

    assert not words_difference("x", {4: (0xFF00, 0x5600)}, Memory())  # type: ignore[arg-type]
    assert "0x00000004" in words_difference("x", {4: (0xFF00, 0x5700)}, Memory())  # type: ignore[arg-type]
