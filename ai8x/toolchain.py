"""Compilers and make: finding them, writing the build files of a project, building a firmware file.

Owns everything that starts an outside program. Knows nothing of networks. Start at `build_project` and
`build_k210_project`.

Source: spec/virtual-boards.md section 5.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2

from ai8x.errors import Diagnostic, Source, UserError, user_error

DEFAULT_BOARD = "EvKit_V1"
"""The evaluation kit."""

_TEMPLATES = Path(str(files("ai8x.max7800x"))) / "templates"
_STANDALONE = "standalone"
_TIMEOUT_S = 300
_PICOLIBC = "picolibc.specs"
_EXCERPT_LINES = 20
_PROJECT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "COMSPEC", "PATHEXT", "OS",
                   "USERPROFILE")
"""Environment that builds get: make would take any other variable for a setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """A cross compiler.

    Args:
        prefix: of the names of its programs.
        install: how to get it.
    """

    prefix: str
    install: str


ARM = Toolchain(prefix="arm-none-eabi",
                install="apt install gcc-arm-none-eabi libnewlib-arm-none-eabi, or the Arm GNU toolchain on other "
                        "systems; its programs must be on the PATH")
"""For the Cortex-M4 of the MAX78000."""

RISCV = Toolchain(prefix="riscv64-unknown-elf",
                  install="apt install gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf; its programs must be on "
                          "the PATH")
"""For the K210."""


class FirmwareTooLarge(UserError):
    """E0424: the firmware does not fit the chip.

    Args:
        finding: for the user.
        memory: region of the linker script that is too small.
        excess: missing bytes; 0 where the linker does not say.
    """

    def __init__(self, finding: Diagnostic, *, memory: str, excess: int) -> None:
        super().__init__(finding)
        self.memory = memory
        self.excess = excess


def find_compiler(toolchain: Toolchain = ARM) -> Path | None:
    """The C compiler on the PATH, None where there is none."""
    found = shutil.which(f"{toolchain.prefix}-gcc")
    return Path(found) if found else None


def find_make() -> Path | None:
    """GNU make on the PATH, None where there is none."""
    found = shutil.which("gmake") or shutil.which("make") or shutil.which("mingw32-make")
    return Path(found) if found else None


def missing_tools(toolchain: Toolchain = ARM) -> str:
    """What a build lacks on this computer, in words; empty where nothing is missing."""
    if find_compiler(toolchain) is None:
        return f"{toolchain.prefix}-gcc is not installed"
    return "" if find_make() else "make is not installed"


def is_generated_project(folder: Path) -> bool:
    """Whether the folder brings the build files that `write_build_files` writes."""
    return (folder / "Makefile").is_file() and (folder / _STANDALONE / "max78000.ld").is_file()


def build_files(project_name: str, *, board: str = DEFAULT_BOARD) -> dict[str, str]:
    """The build files of a project: relative path -> text.

    Args:
        project_name: name of the firmware file; letters, digits and ``_ . + -``.
        board: the board to build for unless the user names another, as the vendor's SDK calls it.

    Raises:
        UserError: E0809 the name has other characters.
    """
    if not _PROJECT_NAME.fullmatch(project_name):
        raise user_error("E0809", "the project name cannot be used in a Makefile", found=repr(project_name),
                         allowed="letters, digits and _ . + -, not first a dot, plus or minus",
                         help="choose another name")
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), undefined=jinja2.StrictUndefined,
                                     keep_trailing_newline=True, autoescape=False)  # noqa: S701 - no HTML
    rendered = {name: environment.get_template(f"{name}.j2").render(project=project_name, board=board)
                for name in ("Makefile", "project.mk")}
    support = sorted((_TEMPLATES / _STANDALONE).iterdir())
    return rendered | {f"{_STANDALONE}/{path.name}": path.read_text(encoding="utf-8") for path in support}


def write_build_files(folder: Path, project_name: str, *, board: str = DEFAULT_BOARD,
                      keep_settings: bool = True) -> tuple[Path, ...]:
    """Put Makefile, project.mk and the stand-alone board support into a project.

    Args:
        folder: an existing folder.
        project_name: name of the firmware file.
        board: as for `build_files`.
        keep_settings: leave a project.mk that is already there alone; it belongs to the user.

    Returns:
        The files that were written.

    Raises:
        UserError: E0809 as `build_files`.
    """
    written = []
    for name, text in build_files(project_name, board=board).items():
        path = folder / name
        if name == "project.mk" and keep_settings and path.exists():
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        written.append(path)
    return tuple(written)


def build_project(folder: Path, *, build_dir: Path | None = None) -> Path:
    """Build a project stand-alone, whatever SDK the environment names.

    A generated project is built by its own Makefile. Any other folder of C files (``*.c`` and ``src/*.c``) is built by
    ours, which is written into the build folder; the project's folder stays as it is.

    Args:
        folder: the project.
        build_dir: where objects and the firmware file go; without it ``build`` in the project.

    Returns:
        Path of the firmware file (ELF).

    Raises:
        UserError: E0802 no compiler, E0803 no make, E0804 the build failed, E0805 the folder is no project.
    """
    if not folder.is_dir():
        raise user_error("E0805", "there is no such project folder", source=Source(file=str(folder)),
                         help="name a folder with C files")
    if not any(folder.glob("*.c")) and not any(folder.glob("src/*.c")):
        raise user_error("E0805", "the folder has no C files", source=Source(file=str(folder)),
                         allowed="a project: *.c in the folder or in src/", help="name the folder with main.c")
    if find_compiler(ARM) is None:
        raise user_error("E0802", f"the compiler {ARM.prefix}-gcc is not installed", help=ARM.install)
    settings = {"MAXIM_PATH": "", "PREFIX": ARM.prefix}
    target = _build_folder(build_dir)
    if is_generated_project(folder):
        return _make_firmware(folder, [], settings | {"BUILD_DIR": target.as_posix()})
    (folder / target).mkdir(parents=True, exist_ok=True)
    write_build_files(folder / target, "firmware", keep_settings=False)
    settings |= {"NEWLIB": "full", "BUILD_DIR": (target / "objects").as_posix(), "PROJECT": "firmware"}
    return _make_firmware(folder, ["-f", (target / "Makefile").as_posix()], settings)


def _build_folder(wanted: Path | None) -> Path:
    """Where to build, as seen from the project's folder.

    Raises:
        UserError: E0804 its path has spaces.
    """
    target = Path("build") if wanted is None else wanted.absolute()
    if " " in str(target):
        raise user_error("E0804", "make cannot handle a build folder with spaces in its path", found=str(target),
                         help="choose another build folder, or set TMPDIR to one without spaces")
    return target


def _make_firmware(folder: Path, options: list[str], settings: Mapping[str, str]) -> Path:
    """Build with one of our Makefiles; returns the firmware file that it names.

    Raises:
        UserError: E0803, E0804 as `run_make`; E0804 the Makefile is another one.
    """
    arguments = [*options, *(f"{name}={value}" for name, value in settings.items())]
    listing = run_make(folder, [*arguments, "debug"])
    elf = re.search(r"^ELF = (.+)$", listing, re.MULTILINE)
    if elf is None:
        raise user_error("E0804", "the project's Makefile is not the generated one",
                         source=Source(file=str(folder / "Makefile")), help="generate the project again")
    run_make(folder, [*arguments, "all"])
    return folder.absolute() / elf.group(1).strip()


def missing_k210_tools() -> str:
    """What a stand-alone K210 build lacks on this computer, in words; empty where nothing is missing."""
    if missing := missing_tools(RISCV):
        return missing
    output = _compiler_output(RISCV, f"-print-file-name={_PICOLIBC}")
    is_found = output not in ("", _PICOLIBC)  # the compiler repeats the name of a file that it does not find
    return "" if is_found else f"the C library picolibc for {RISCV.prefix}-gcc is not installed"


def _compiler_output(toolchain: Toolchain, argument: str) -> str:
    """What the compiler prints for one argument; empty where it cannot be run."""
    compiler = find_compiler(toolchain)
    try:
        done = subprocess.run([str(compiler), argument], capture_output=True, text=True,  # noqa: S603 - our own tool
                              errors="replace", timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def is_k210_project(folder: Path) -> bool:
    """Whether the folder is a K210 project as `ai8x.k210.codegen` writes it."""
    return (folder / "Makefile").is_file() and (folder / _STANDALONE / "k210.ld").is_file()


def build_k210_project(folder: Path, *, build_dir: Path | None = None) -> Path:
    """Build a generated K210 project stand-alone.

    Args:
        folder: the project.
        build_dir: where objects and the firmware file go; without it ``build`` in the project.

    Returns:
        Path of the firmware file (ELF).

    Raises:
        UserError: E0802 no compiler or C library, E0803 no make, E0804 the build failed, E0805 the folder is no such
            project.
    """
    if not is_k210_project(folder):
        raise user_error("E0805", "the folder is no generated K210 project", source=Source(file=str(folder)),
                         allowed="a folder with Makefile and standalone/k210.ld",
                         help="name the folder k210 that synthesize.py wrote")
    if find_make() is not None and (missing := missing_k210_tools()):  # without make: the message of `run_make`
        raise user_error("E0802", missing, help=RISCV.install)
    return _make_firmware(folder, [], {"PREFIX": RISCV.prefix, "BUILD_DIR": _build_folder(build_dir).as_posix()})


def run_make(folder: Path, arguments: list[str]) -> str:
    """Run GNU make in a folder.

    Args:
        folder: the project.
        arguments: targets and assignments.

    Returns:
        What it printed.

    Raises:
        UserError: E0803 make is missing, E0804 it failed, with the compiler's messages; E0424 the firmware does not fit
            the chip.
    """
    make = find_make()
    if make is None:
        raise user_error("E0803", "make is not installed",
                         help="apt install make (Windows: choco install make, macOS: brew install make)")
    environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ} | {"LC_ALL": "C"}
    command = [str(make), "-C", str(folder), "--no-print-directory", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace",  # noqa: S603 - our own tool
                              env=environment, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise user_error("E0804", f"the build took longer than {_TIMEOUT_S} s", source=Source(file=str(folder)),
                         help="run make in that folder and see where it stops") from error
    except OSError as error:
        raise user_error("E0803", f"make cannot be run: {error.strerror}", found=str(make)) from error
    if done.returncode:
        output = done.stderr or done.stdout
        if overflow := _overflow(output):
            raise overflow
        raise user_error("E0804", "the firmware does not build", source=Source(file=str(folder)),
                         found="\n" + _excerpt(output), help="repair the first message, then run make in that folder")
    return done.stdout


def _overflow(output: str) -> FirmwareTooLarge | None:
    """E0424 with the memory of the chip that is too small; None where none is."""
    overflow = re.search(r"region `(\w+)' overflowed by (\d+) bytes", output)
    if overflow is None and "do not fit into SRAM" not in output:
        return None
    memory, excess = (overflow.group(1), int(overflow.group(2))) if overflow else ("SRAM", 0)
    message = (f"the firmware is {excess} bytes too large for the chip's {memory}" if overflow
               else "data, heap and stack of the firmware do not fit into SRAM")
    finding = Diagnostic(code="E0424", message=message, found=_excerpt(output).splitlines()[-1].strip(),
                         allowed="code and constants within flash, variables, heap and stack within SRAM",
                         help="make the largest constants or buffers of the program smaller")
    return FirmwareTooLarge(finding, memory=memory, excess=excess)


def _excerpt(output: str) -> str:
    """The messages that matter: the first errors with what follows them, else the end."""
    lines = output.strip().splitlines()
    first = next((i for i, line in enumerate(lines) if re.search(r"\berror\b|undefined reference", line)), None)
    chosen = lines[-_EXCERPT_LINES:] if first is None else lines[max(0, first - 1): first + _EXCERPT_LINES]
    return "\n".join(f"    {line}" for line in chosen)
