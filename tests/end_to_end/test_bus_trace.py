"""The compiled firmware writes to the accelerator what the program says, in that order, however it is optimised.

Source: spec/virtual-boards.md section 3.5, trap 12: the order of kernel writes carries meaning.
"""

from pathlib import Path

import numpy as np
import pytest

from ai8x.max7800x.codegen import CodegenOptions, write_project
from ai8x.toolchain import run_make

from .firmware import Subject, execute, logits

pytestmark = pytest.mark.usefixtures("cross_compiler")


def build(folder: Path, build_dir: Path, *settings: str) -> Path:
    """Build a generated project with make settings; gives the ELF file."""
    run_make(folder, ["MAXIM_PATH=", f"BUILD_DIR={build_dir}", "PROJECT=firmware", *settings, "all"])
    return build_dir / "firmware.elf"


@pytest.mark.parametrize("level", ["-O0", "-O2", "-O3", "-Os", "-O1"])
def test_every_optimisation_makes_the_writes_of_the_program(digitsnet: Subject, tmp_path: Path, level: str) -> None:
    outcome = execute(build(digitsnet.folder, tmp_path / "build", f"MXC_OPTIMIZE_CFLAGS={level}"))
    assert outcome.passed, outcome.summary
    assert list(outcome.writes) == list(digitsnet.program.bus_writes())
    np.testing.assert_array_equal(logits(digitsnet, outcome.accelerator), digitsnet.trace[5])


@pytest.mark.parametrize("options", [
    CodegenOptions(compact=False), CodegenOptions(wfi=False), CodegenOptions(timer=None, softmax=False),
], ids=["sample as statements", "waiting without sleep", "no timer and no softmax"])
def test_the_choices_of_the_generator_do_not_change_the_writes(digitsnet: Subject, tmp_path: Path,
                                                               options: CodegenOptions) -> None:
    write_project(digitsnet.program, digitsnet.network, tmp_path / "project", options)
    outcome = execute(build(tmp_path / "project", tmp_path / "build"))
    assert outcome.passed, outcome.summary
    assert list(outcome.writes) == list(digitsnet.program.bus_writes())


def test_the_result_does_not_depend_on_the_contents_of_memory_at_power_up(digitsnet: Subject, tmp_path: Path) -> None:
    elf = build(digitsnet.folder, tmp_path / "build")
    for seed in (11, 12, 13):
        outcome = execute(elf, seed=seed)
        assert outcome.passed
        np.testing.assert_array_equal(logits(digitsnet, outcome.accelerator), digitsnet.trace[5])


@pytest.mark.parametrize("warnings", ["-Wall -Wextra -Wconversion -Wshadow -Werror"])
def test_the_project_compiles_without_warnings(digitsnet: Subject, tmp_path: Path, warnings: str) -> None:
    assert build(digitsnet.folder, tmp_path / "build", f"WARNINGS={warnings}").is_file()
