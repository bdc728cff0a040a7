"""The C project of the K210: what is written, that it is harmless and the same every time, that it compiles."""

import ast
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ai8x.errors import UserError
from ai8x.k210 import kmodel_layers as v3
from ai8x.k210.codegen import RunnerModel, output_tolerances, render_runner, write_runner
from ai8x.k210.kmodel import KModel
from ai8x.toolchain import (
    RISCV,
    build_k210_project,
    find_compiler,
    find_make,
    is_k210_project,
    missing_k210_tools,
    run_make,
)
from tests.k210.kpu_layers import Shape, conv, pattern_image
from tests.k210.runner_projects import all_layers_model, runner_model, small_model, write_project

LABELS = tuple(f"class {i}" for i in range(256))
needs_make = pytest.mark.skipif(find_make() is None, reason="make is not installed")
needs_compiler = pytest.mark.skipif(bool(missing_k210_tools()), reason=missing_k210_tools() or "never")


@pytest.fixture(scope="module")
def runner() -> RunnerModel:
    return runner_model(small_model(3), pattern_image(3, 8, 8))


def test_project_has_everything_but_model_and_sample(runner: RunnerModel, tmp_path: Path) -> None:
    paths = {path.relative_to(tmp_path).as_posix() for path in write_runner(tmp_path, runner)}
    assert {"Makefile", "project.cmake", "main.c", "model.S", "model.h", "expected.bin", "runner_sdk.c", "maix_run.py",
            "standalone/startup.S", "standalone/k210.ld", "standalone/kmodel.c"} <= paths
    assert not paths & {"model.kmodel", "sample.bin"}
    assert is_k210_project(tmp_path)
    assert (tmp_path / "expected.bin").read_bytes() == b"".join(output.tobytes() for output in runner.outputs)


def test_same_model_gives_the_same_bytes(runner: RunnerModel) -> None:
    assert render_runner(runner) == render_runner(replace(runner, image=runner.image.copy()))


def test_every_text_file_is_ascii_and_carries_the_licence(runner: RunnerModel) -> None:
    for name, data in render_runner(runner).items():
        if name not in ("expected.bin", "Makefile"):
            assert "0BSD" in data.decode("ascii"), name
            assert b"\r" not in data and b"\t" not in data


def test_sizes_are_those_of_the_model(runner: RunnerModel) -> None:
    header = render_runner(runner)["model.h"].decode()
    for line in (f"#define MODEL_BYTES {len(runner.kmodel)}u", "#define MODEL_OUTPUTS 1u",
                 "#define MODEL_EXPECTED_BYTES 256u", "#define MODEL_MAIN_MEMORY_BYTES 256u",
                 "#define MODEL_INPUT_BYTES 192u", "#define MODEL_CLASSES 0", "#define MODEL_FRACTION_BITS 7"):
        assert line in header


@pytest.mark.parametrize(("labels", "classes"), [(LABELS, 256), (LABELS[:255], 0), ((), 0)])
def test_classes_are_printed_only_if_there_is_a_label_for_each(runner: RunnerModel, labels: tuple[str, ...],
                                                               classes: int) -> None:
    header = render_runner(replace(runner, labels=labels))["model.h"].decode()
    assert f"#define MODEL_CLASSES {classes}\n" in header
    assert ("MODEL_CLASS_NAMES" in header) == (classes > 0)


def test_text_of_the_network_never_becomes_code(runner: RunnerModel) -> None:
    hostile = '*/"\\\n#include "/etc/passwd" $(shell id) ??/é'
    files = render_runner(replace(runner, name=hostile, labels=(hostile, *LABELS[1:])))
    header = files["model.h"].decode("ascii")
    assert header.count("#include") == 1 and "#include <stdint.h>" in header
    assert '"/etc' not in header and "??/" not in header and header.count('#define MODEL_NAME "') == 1
    assert "$(shell id)" not in files["Makefile"].decode("ascii")
    ast.parse(files["maix_run.py"])


def test_maixpy_script_is_python_with_the_models_shape(runner: RunnerModel) -> None:
    script = render_runner(replace(runner, labels=LABELS))["maix_run.py"].decode()
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(script).body
              if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)}
    assert values["LABELS"] == list(LABELS) and values["UNIT"] == 128.0 and values["IS_GRAY"] is False


def test_models_that_no_camera_feeds_have_no_maixpy_script(runner: RunnerModel) -> None:
    assert "maix_run.py" in render_runner(runner)
    assert "maix_run.py" not in render_runner(runner_model(small_model(2), pattern_image(2, 8, 8)))


def test_models_with_layers_of_our_own_are_for_the_standalone_runner_only(runner: RunnerModel) -> None:
    model, image = all_layers_model()
    files = render_runner(runner_model(model, image))
    assert "#define MODEL_NEEDS_OWN_RUNNER 1\n" in files["model.h"].decode() and "maix_run.py" not in files
    assert "#define MODEL_NEEDS_OWN_RUNNER 0\n" in render_runner(runner)["model.h"].decode()


def test_every_output_says_whether_it_is_wide(runner: RunnerModel) -> None:
    model, image = all_layers_model()
    several = runner_model(model, image)
    flags = tuple(index % 3 == 0 for index in range(len(several.outputs)))
    header = render_runner(replace(several, is_wide=flags))["model.h"].decode()
    assert f"#define MODEL_OUTPUT_IS_WIDE {{ {', '.join(str(int(flag)) for flag in flags)} }}\n" in header
    with pytest.raises(ValueError, match="2 flags for 1 outputs"):
        replace(runner, is_wide=(True, False))


def test_outputs_of_another_model_are_refused(runner: RunnerModel) -> None:
    with pytest.raises(ValueError, match="outputs of"):
        render_runner(replace(runner, outputs=(runner.outputs[0][1:],)))


def test_image_must_have_three_dimensions(runner: RunnerModel) -> None:
    with pytest.raises(ValueError, match="C, H, W"):
        replace(runner, image=runner.image.reshape(-1))


def test_damaged_model_is_refused(runner: RunnerModel) -> None:
    with pytest.raises(UserError):
        render_runner(replace(runner, kmodel=runner.kmodel[:100]))


def test_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="E0805"):
        build_k210_project(tmp_path)


@needs_compiler
@pytest.mark.parametrize("labels", [LABELS, ()], ids=["with classes", "without classes"])
@pytest.mark.parametrize("optimize", ["-O2", "-Os"])
def test_project_compiles_without_a_warning(runner: RunnerModel, tmp_path: Path, labels: tuple[str, ...],
                                            optimize: str) -> None:
    folder = write_project(tmp_path / "project", replace(runner, labels=labels))
    warnings = "-Wall -Wextra -Wconversion -Wshadow -Wcast-qual -Wstrict-prototypes -Werror"
    run_make(folder, [f"WARNINGS={warnings}", f"OPTIMIZE={optimize}"])
    assert (folder / "build" / "test.bin").stat().st_size > len(runner.kmodel)
    run_make(folder, ["clean"])
    assert not (folder / "build").exists()


@needs_make
def test_windows_commands_are_those_of_its_own_interpreter(runner: RunnerModel, tmp_path: Path) -> None:
    folder = write_project(tmp_path / "with space", runner)
    dry = run_make(folder, ["-n", "OS=Windows_NT"])
    assert 'if not exist "build\\standalone" mkdir "build\\standalone"' in dry and "mkdir -p" not in dry
    cleaning = run_make(folder, ["-n", "OS=Windows_NT", "clean", "run"])
    assert 'if exist "build" rmdir /s /q "build"' in cleaning and 'python -m ai8x.simulate firmware' in cleaning


@needs_compiler
def test_project_folder_may_have_spaces(runner: RunnerModel, tmp_path: Path) -> None:
    assert build_k210_project(write_project(tmp_path / "my project", runner)).is_file()


@needs_compiler
def test_nothing_allocates_memory(runner: RunnerModel, tmp_path: Path) -> None:
    elf = build_k210_project(write_project(tmp_path / "project", replace(runner, labels=LABELS)))
    names = subprocess.run([f"{RISCV.prefix}-nm", str(elf)], capture_output=True, text=True, check=True).stdout
    assert not {"malloc", "calloc", "realloc", "free", "sbrk", "_sbrk", "printf"} & set(names.split())


@needs_compiler
def test_build_folder_may_be_elsewhere(runner: RunnerModel, tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project", runner)
    before = sorted(folder.rglob("*"))
    elf = build_k210_project(folder, build_dir=tmp_path / "elsewhere")
    assert elf.parent == tmp_path / "elsewhere" and elf.is_file()
    assert sorted(folder.rglob("*")) == before


@needs_compiler
def test_build_failure_shows_the_compilers_message(runner: RunnerModel, tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project", runner, main="int main(void) { return missing; }\n")
    with pytest.raises(UserError, match="E0804") as caught:
        build_k210_project(folder)
    assert "'missing' undeclared" in (caught.value.diagnostics[0].found or "")


SDK_HEADERS = {
    "dmac.h": """
        #pragma once
        typedef enum { DMAC_CHANNEL5 = 5 } dmac_channel_number_t;
    """,
    "kpu.h": """
        #include <stddef.h>
        #include <stdint.h>
        typedef struct { int unused; } kpu_model_context_t;
        #include <dmac.h>
        int kpu_load_kmodel(kpu_model_context_t *ctx, const uint8_t *buffer);
        int kpu_run_kmodel(kpu_model_context_t *ctx, const uint8_t *src, dmac_channel_number_t dma_ch,
                           void (*done_callback)(void *), void *userdata);
        int kpu_get_output(kpu_model_context_t *ctx, uint32_t index, uint8_t **data, size_t *size);
    """,
    "plic.h": "void plic_init(void);",
    "sysctl.h": """
        #include <stdint.h>
        typedef enum { SYSCTL_PLL0, SYSCTL_PLL1 } sysctl_pll_t;
        typedef enum { SYSCTL_CLOCK_AI } sysctl_clock_t;
        uint32_t sysctl_pll_set_freq(sysctl_pll_t pll, uint32_t pll_freq);
        int sysctl_clock_enable(sysctl_clock_t clock);
        void sysctl_enable_irq(void);
        uint64_t sysctl_get_time_us(void);
    """,
    "uarths.h": "void uarths_init(void);",
}
"""The SDK's functions that the project uses, as its documentation declares them."""


@needs_compiler
def test_sdk_variant_compiles_against_the_sdks_interface(runner: RunnerModel, tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project", runner)
    headers = tmp_path / "sdk"
    headers.mkdir()
    for name, text in SDK_HEADERS.items():
        (headers / name).write_text(text)
    subprocess.run([str(find_compiler(RISCV)), "--specs=picolibc.specs", "-march=rv64imafc", "-mabi=lp64f", "-Wall",
                    "-Wextra", "-Werror", "-fsyntax-only", "-I", str(headers), "-I.", "runner_sdk.c", "main.c"],
                   cwd=folder, check=True)


@needs_compiler
def test_assembler_finds_the_embedded_files_from_another_folder(runner: RunnerModel, tmp_path: Path) -> None:
    folder = write_project(tmp_path / "project", runner)
    subprocess.run([str(find_compiler(RISCV)), "-march=rv64imafc", "-mabi=lp64f", "-c", f"-I{folder}", "-o", "model.o",
                    str(folder / "model.S")], cwd=tmp_path, check=True)  # as project.cmake has it done
    assert runner.kmodel in (tmp_path / "model.o").read_bytes()


def test_only_what_an_exponential_left_last_has_a_tolerance() -> None:
    layer = conv(np.ones((1, 2, 1, 1), np.uint8), Shape(height=4, width=4), main_memory_output=0)
    softmax = v3.Softmax(input=0, output=64, channels=4)
    places = tuple(v3.MemoryRange(address=address, size=16) for address in (0, 64))
    model = KModel(layers=(layer, softmax), outputs=places, main_mem_usage=128)
    assert output_tolerances(model) == (0.0, 20 * 2**-23)
    overwritten = replace(model, layers=(layer, softmax, v3.Add(input_a=0, input_b=16, output=64, count=4)))
    assert output_tolerances(overwritten) == (0.0, 0.0)
    sigmoid = replace(model, layers=(layer, v3.Logistic(input=0, output=64, channels=4)))
    assert output_tolerances(sigmoid) == (0.0, 17 * 2**-23)


def test_known_answer_keeps_several_outputs_apart() -> None:
    model = small_model()
    twice = replace(model, outputs=(model.outputs[0], replace(model.outputs[0], size=10)))
    files = render_runner(runner_model(twice, pattern_image(2, 8, 8)))
    assert files["expected.bin"][256:] == files["expected.bin"][:10]
    assert np.frombuffer(files["expected.bin"], np.uint8).size == 266
