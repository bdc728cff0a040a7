"""From a register program to a C project.

Owns which files there are and what they are called. What stands in them is in ``codegen_text.py`` and in
``templates/``; the numbers all come from `Program`. Start reading at `render_sources` and `write_project`.

Source: spec/max78000-cnn.md section 9; spec/virtual-boards.md sections 5.3 and 5.4.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from ai8x.ctext import LICENCE, c_identifier, comment_text
from ai8x.errors import UserError
from ai8x.files import write_text
from ai8x.max7800x.codegen_text import hex_lines, template_context
from ai8x.max7800x.options import DEFAULT_CODE, BoostPin, CodegenOptions, Core, code_findings
from ai8x.max7800x.program import Program
from ai8x.network.ir import Network

__all__ = [
    "LICENCE",
    "BoostPin",
    "CodegenOptions",
    "c_identifier",
    "comment_text",
    "hex_lines",
    "render_project",
    "render_sources",
    "write_project",
]

SOURCE_FILES = ("cnn.c", "cnn.h", "weights.h", "sampledata.h", "sampleoutput.h", "softmax.c", "main.c")
"""Files that `render_sources` makes, in the order in which they are best read."""

MAKE_FILES = ("Makefile", "project.mk")
SUPPORT_FOLDER = "standalone"
"""Board support for builds without the vendor's SDK, which does not look into sub-folders."""


def render_sources(program: Program, network: Network, options: CodegenOptions = DEFAULT_CODE) -> dict[str, str]:
    """The C files as text.

    Args:
        program: what the firmware does.
        network: for names, shapes and labels.
        options: choices.

    Returns:
        File name -> contents, the same bytes for the same arguments.

    Raises:
        UserError: E0393, a timer that does not exist.

    Source:
        spec/max78000-cnn.md section 9.1.
    """
    if findings := code_findings(options):
        raise UserError(findings)
    context = template_context(program, network, options)
    environment = c_environment()
    texts = {name: environment.get_template(f"{name}.j2").render(context) for name in SOURCE_FILES}
    names = file_names(options)
    if not options.names.api:
        texts["main.c"] = texts.pop("cnn.c") + "\n" + texts["main.c"]
    if options.core is Core.RISCV:
        texts["launcher.c"] = environment.get_template("launcher.c.j2").render(context)
    return {names[name]: text for name, text in texts.items()}


def file_names(options: CodegenOptions) -> dict[str, str]:
    """Template -> name of the file that it becomes."""
    names = options.names
    application = f"{names.main}_riscv.c" if options.core is Core.RISCV else f"{names.main}.c"
    return {
        "cnn.c": f"{names.header}.c",
        "cnn.h": f"{names.header}.h",
        "weights.h": f"{names.weights}.h",
        "sampledata.h": f"{names.sample}.h",
        "sampleoutput.h": f"{names.answer}.h",
        "softmax.c": "softmax.c",
        "main.c": application,
        "launcher.c": f"{names.main}.c",
    }


def render_project(program: Program, network: Network, options: CodegenOptions = DEFAULT_CODE) -> dict[str, str]:
    """The complete project: C files, make files and the board support of the stand-alone build.

    Args:
        program: what the firmware does.
        network: for names, shapes and labels.
        options: choices.

    Returns:
        Path below the project's folder -> contents, the same bytes for the same arguments.

    Raises:
        UserError: E0393, see `render_sources`.

    Source:
        spec/virtual-boards.md section 5.3.
    """
    environment = c_environment()
    settings = {"project": c_identifier(options.project or network.name), "board": options.board}
    files = render_sources(program, network, options)
    two_cores = options.core is Core.RISCV
    templates = {name: f"{name}.j2" for name in MAKE_FILES}
    if two_cores:
        templates["Makefile"] = "Makefile.riscv.j2"
        settings["launcher"] = file_names(options)["launcher.c"]
    files |= {name: environment.get_template(template).render(settings) for name, template in templates.items()}
    files |= _support_files("standalone", SUPPORT_FOLDER)
    return files | (_support_files("riscv", f"{SUPPORT_FOLDER}/riscv") if two_cores else {})


def _support_files(source: str, target: str) -> dict[str, str]:
    """Board support as it is: path in the project -> contents."""
    folder = resources.files("ai8x.max7800x").joinpath("templates", source)
    entries = sorted(folder.iterdir(), key=lambda item: item.name)
    return {f"{target}/{entry.name}": entry.read_text(encoding="ascii") for entry in entries if entry.is_file()}


def write_project(
    program: Program, network: Network, folder: Path, options: CodegenOptions = DEFAULT_CODE
) -> tuple[Path, ...]:
    """Write the complete project into an existing or new folder.

    Args:
        program: what the firmware does.
        network: for names, shapes and labels.
        folder: receives the files; other files in it are left alone.
        options: choices.

    Returns:
        Paths written.

    Raises:
        UserError: E0393, see `render_sources`; E0810, a file cannot be written.
    """
    paths = []
    for name, text in render_project(program, network, options).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        paths.append(path)
    return tuple(paths)


def c_environment() -> Environment:
    """The template environment of the C project: undefined names are errors, no HTML escaping.

    Everything that comes from files passes `c_identifier` or `comment_text` before it gets here.
    """
    return Environment(
        loader=PackageLoader("ai8x.max7800x", "templates"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - the output is C, not HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
