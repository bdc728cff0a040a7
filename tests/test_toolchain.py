"""Build files and builds: our Makefile on its own, with a vendor SDK, on foreign folders, and when it fails."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ai8x.errors import UserError
from ai8x.toolchain import (
    ARM,
    RISCV,
    build_files,
    build_project,
    find_compiler,
    is_generated_project,
    missing_tools,
    write_build_files,
)
from ai8x.virtual.elf import read_program

needs_compiler = pytest.mark.skipif(bool(missing_tools()), reason=missing_tools() or "present")
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

MAIN = """
#include <stdio.h>
#include "mxc.h"
#include "answer.h"
int main(void) { printf("%d\\n", ANSWER); return 0; }
"""
USES_EVERYTHING = """
#include <stdio.h>
#include "mxc.h"
#include "gcfr_regs.h"
#include "board.h"
#include "mxc_sys.h"
static void handler(void) { MXC_GCFR->reg3 = 0xFu; }
int main(void)
{
    const mxc_gpio_cfg_t pin = { .port = MXC_GPIO2, .mask = MXC_GPIO_PIN_5, .func = MXC_GPIO_FUNC_OUT,
                                 .pad = MXC_GPIO_PAD_NONE };
    MXC_ICC_Enable(MXC_ICC0);
    (void)MXC_SYS_Clock_Select(MXC_SYS_CLOCK_IPO);
    SystemCoreClockUpdate();
    (void)MXC_Delay(SEC(2) + MSEC(1));
    MXC_GCR->pclkdiv = MXC_S_GCR_PCLKDIV_CNNCLKSEL_ISO | MXC_S_GCR_PCLKDIV_CNNCLKDIV_DIV16;
    MXC_SYS_ClockEnable(MXC_SYS_PERIPH_CLOCK_CNN);
    MXC_NVIC_SetVector(CNN_IRQn, handler);
    (void)MXC_GPIO_Config(&pin);
    MXC_GPIO_OutSet(MXC_GPIO2, MXC_GPIO_PIN_5);
    MXC_TMR_SW_Start(MXC_TMR0);
    LED_On(0);
    MXC_LP_EnterSleepMode();
    LED_Off(0);
    printf("%d %ld\\n", MXC_TMR_SW_Stop(MXC_TMR0), (long)__SSAT(70000, 16));
    MXC_TMR_Delay(MXC_TMR5, MSEC(1));
    MXC_SYS_ClockDisable(MXC_SYS_PERIPH_CLOCK_CNN);
    return 0;
}
"""


def make_project(folder: Path, source: str = MAIN) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_build_files(folder, "demo")
    (folder / "main.c").write_text(source)
    (folder / "answer.h").write_text("#define ANSWER 42\n")
    return folder


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    return subprocess.run(["make", "-C", str(folder), "--no-print-directory", *arguments], capture_output=True,
                          text=True, check=False, env=environment)


def code_of(error: pytest.ExceptionInfo[UserError]) -> str:
    return error.value.diagnostics[0].code


def test_build_files_are_complete_and_repeat_byte_for_byte() -> None:
    first = build_files("kws20")
    assert {"Makefile", "project.mk", "standalone/startup.c", "standalone/board.c", "standalone/mxc.h",
            "standalone/gcfr_regs.h", "standalone/max78000.ld"} <= first.keys()
    assert "PROJECT ?= kws20\n" in first["Makefile"] and "BOARD ?= EvKit_V1\n" in first["Makefile"]
    assert "{{" not in first["Makefile"] and first == build_files("kws20")


@pytest.mark.parametrize("name", ["", "a b", "$(shell id)", "x/y", "-x", "..", "a#b", "a\nb", "a:b"])
def test_project_name_that_make_would_misread_is_refused(name: str) -> None:
    with pytest.raises(UserError) as error:
        build_files(name)
    assert code_of(error) == "E0809"


def test_settings_of_the_user_survive_and_the_rest_is_renewed(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    (project / "project.mk").write_text("BOARD = FTHR_RevA\n")
    (project / "Makefile").write_text("broken")
    written = write_build_files(project, "demo")
    assert (project / "project.mk").read_text() == "BOARD = FTHR_RevA\n"
    assert project / "project.mk" not in written and "PROJECT ?= demo" in (project / "Makefile").read_text()
    assert is_generated_project(project)


@needs_compiler
def test_generated_project_builds_with_its_own_makefile(tmp_path: Path) -> None:
    project = make_project(tmp_path / "with space")
    elf = build_project(project)
    assert elf == project / "build" / "demo.elf" and elf.read_bytes()[:4] == b"\x7fELF"


@needs_compiler
def test_build_folder_elsewhere_leaves_the_project_untouched(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project")
    before = sorted(project.rglob("*"))
    elf = build_project(project, build_dir=tmp_path / "elsewhere")
    assert elf.parent == tmp_path / "elsewhere" and sorted(project.rglob("*")) == before


@needs_compiler
def test_foreign_folder_builds_with_our_board_support(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    (foreign / "src").mkdir(parents=True)
    (foreign / "Makefile").write_text("$(error the vendor's Makefile must not be used)\n")
    (foreign / "main.c").write_text('#include "tool.h"\nint main(void) { return tool(); }\n')
    (foreign / "src" / "tool.h").write_text("int tool(void);\n")
    (foreign / "src" / "tool.c").write_text('#include "tool.h"\n#include "mxc.h"\nint tool(void) { return 3; }\n')
    (foreign / "board.c").write_text("int same_name_as_ours = 1;\n")
    before = sorted(foreign.rglob("*"))
    elf = build_project(foreign, build_dir=tmp_path / "build")
    assert elf.is_file() and sorted(foreign.rglob("*")) == before


@needs_compiler
def test_environment_does_not_leak_into_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MAXIM_PATH": "/nonexistent", "PROJECT": "other", "PREFIX": "/usr/local", "DEBUG": "1",
                        "BOARD": "none", "MAKEFLAGS": "-n", "BUILD_DIR": "/nonexistent"}.items():
        monkeypatch.setenv(name, value)
    assert build_project(make_project(tmp_path)).name == "demo.elf"


@needs_compiler
def test_project_settings_are_read(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    (project / "project.mk").write_text("PROJECT = renamed\nBOARD = FTHR_RevA\nMAXIM_PATH = /nonexistent\n")
    assert build_project(project).name == "renamed.elf"


@needs_compiler
def test_changed_header_rebuilds_and_unchanged_project_does_not(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    elf = build_project(project)
    first = elf.stat().st_mtime_ns
    assert build_project(project).stat().st_mtime_ns == first
    header = project / "answer.h"
    os.utime(header, ns=(first + 10**9, first + 10**9))
    assert "main.c" in make(project, "-n").stdout
    assert "board.c" not in make(project, "-n").stdout


@needs_compiler
@pytest.mark.parametrize("options", ["-O0", "-O1", "-O2", "-O3", "-Os", "-O2 -flto"])
@pytest.mark.parametrize("board", ["EvKit_V1", "FTHR_RevA"])
def test_board_support_builds_without_a_warning(tmp_path: Path, board: str, options: str) -> None:
    project = make_project(tmp_path, USES_EVERYTHING)
    done = make(project, f"BOARD={board}", f"MXC_OPTIMIZE_CFLAGS={options}",
                "PROJ_CFLAGS=-Wall -Wextra -Wconversion -Wshadow -Wpedantic -Wundef -Wstrict-prototypes -Werror")
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
    pytest.importorskip("elftools")
    assert {"main", "_write", "_sbrk"} <= read_program(project / "build" / "demo.elf").symbols.keys()


@needs_compiler
@pytest.mark.parametrize("setting", ["MFLOAT_ABI=hard", "NEWLIB=full", "DEBUG=1"])
def test_variants_build(tmp_path: Path, setting: str) -> None:
    done = make(make_project(tmp_path, USES_EVERYTHING), setting)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr


@needs_compiler
def test_clean_size_and_debug_targets(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    assert "demo.elf" in make(project, "size").stdout
    assert "ELF = build/demo.elf" in make(project, "debug").stdout
    assert make(project, "clean").returncode == 0 and not (project / "build").exists()


@needs_make
def test_other_targets_call_what_they_should(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    dry = make(project, "-n", "run", "flash.openocd", "gdb").stdout
    assert 'python3 -m ai8x.simulate firmware "build/demo.elf"' in dry
    assert '-f interface/cmsis-dap.cfg -f target/max78000.cfg -c "program build/demo.elf verify reset exit"' in dry
    assert "--gdb 3333" in dry


@needs_make
def test_windows_commands_are_those_of_its_own_interpreter(tmp_path: Path) -> None:
    project = make_project(tmp_path)
    dry = make(project, "-n", "OS=Windows_NT").stdout
    assert 'if not exist "build\\standalone" mkdir "build\\standalone"' in dry
    (project / "build").mkdir()
    cleaning = make(project, "-n", "OS=Windows_NT", "clean").stdout
    assert 'if exist "build" rmdir /s /q "build"' in cleaning
    assert "mkdir -p" not in dry and "rm -rf" not in cleaning


@needs_make
def test_unknown_board_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    done = make(make_project(tmp_path), "BOARD=Nucleo")
    assert done.returncode != 0 and "use EvKit_V1 or FTHR_RevA" in done.stderr


@needs_make
def test_vendor_sdk_gets_everything_its_core_needs(tmp_path: Path) -> None:
    """The variables of spec/virtual-boards.md section 5.2, seen by stand-ins for the SDK's two make files."""
    sdk = tmp_path / "sdk"
    core = sdk / "Libraries" / "CMSIS" / "Device" / "Maxim" / "MAX78000" / "Source" / "GCC"
    core.mkdir(parents=True)
    (sdk / "Libraries" / "libs.mk").write_text("LIBS_SEEN = yes\n")
    names = ("TARGET TARGET_UC TARGET_LC BOARD PROJECT COMPILER LIBS_DIR CMSIS_ROOT MFLOAT_ABI MXC_OPTIMIZE_CFLAGS "
             "PROJECTMK SRCS VPATH IPATH LIBS_SEEN")
    (core / "max78000.mk").write_text(f"all:\n\t$(foreach n,{names},$(info $(n)=$($(n))))@env\n")
    project = make_project(tmp_path / "project")
    (project / "src").mkdir()
    (project / "src" / "extra.c").write_text("int extra;\n")
    done = make(project, f"MAXIM_PATH={sdk}")
    seen = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert done.returncode == 0, done.stderr
    assert seen["TARGET"] == seen["TARGET_UC"] == "MAX78000" and seen["TARGET_LC"] == "max78000"
    assert (seen["BOARD"], seen["PROJECT"], seen["COMPILER"]) == ("EvKit_V1", "demo", "GCC")
    assert (seen["MFLOAT_ABI"], seen["MXC_OPTIMIZE_CFLAGS"], seen["LIBS_SEEN"]) == ("softfp", "-O2", "yes")
    assert seen["LIBS_DIR"] == f"{sdk}/Libraries" and seen["CMSIS_ROOT"] == f"{sdk}/Libraries/CMSIS"
    assert seen["PROJECTMK"] == str(project / "project.mk")
    assert set(seen["SRCS"].split()) == {"main.c", "extra.c"} and {".", "src"} <= set(seen["VPATH"].split())


def test_missing_compiler_is_an_environment_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_compiler(ARM) is None and find_compiler(RISCV) is None
    assert missing_tools() == "arm-none-eabi-gcc is not installed"
    with pytest.raises(UserError) as error:
        build_project(make_project(tmp_path / "project"))
    assert code_of(error) == "E0802" and "gcc-arm-none-eabi" in error.value.diagnostics[0].help


@pytest.mark.parametrize("content", [{}, {"readme.txt": "no C here"}])
def test_folder_without_c_files_is_refused(tmp_path: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        build_project(tmp_path)
    assert code_of(error) == "E0805"
    with pytest.raises(UserError) as error:
        build_project(tmp_path / "absent")
    assert code_of(error) == "E0805"


@needs_compiler
@pytest.mark.parametrize(("source", "expected"), [
    ("int main(void) { return undeclared; }\n", "'undeclared' undeclared"),
    ("int absent(void);\nint main(void) { return absent(); }\n", "undefined reference to `absent'"),
])
def test_failed_build_shows_the_first_message(tmp_path: Path, source: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        build_project(make_project(tmp_path, source))
    assert code_of(error) == "E0804" and expected in error.value.diagnostics[0].found


@needs_compiler
@pytest.mark.parametrize(("definition", "expected"), [
    ("const char big[600000] = {1}; int main(void) { return big[7 & (int)(long)&big]; }\n",
     "too large for the chip's FLASH"),
    ("static char big[127000]; int main(void) { big[(int)(long)&big] = 1; return big[7]; }\n", "do not fit into SRAM"),
])
def test_firmware_that_does_not_fit_is_refused(tmp_path: Path, definition: str, expected: str) -> None:
    with pytest.raises(UserError) as error:
        build_project(make_project(tmp_path, definition))
    assert code_of(error) == "E0424" and expected in error.value.diagnostics[0].message
