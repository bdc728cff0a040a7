"""Who may import whom, how long files and functions may be, and what must not be loaded (docs/design.md)."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ai8x"
FILES = sorted(PACKAGE.rglob("*.py"))

LEVELS: tuple[tuple[str, ...], ...] = (
    ("errors", "arithmetic", "registers", "files"),
    ("device", "memory", "capacity", "network.ir"),
    ("network", "checkpoint", "torch_file", "plain", "toolchain", "sample", "ctext"),
    ("max7800x", "k210"),
    ("virtual", "verify", "verify_max78000", "verify_k210", "verify_k210_inexact", "report", "report_html",
     "report_k210", "report_max78000", "report_network", "report_terminal", "report_facts", "report_compare",
     "report_graph", "report_drawings"),
    ("cli", "simulate", "synthesis", "synthesis_max78000", "synthesis_k210", "synthesis_float", "synthesis_refusal",
     "synthesis_flash", "synthesis_description", "synthesis_model", "manual", "manual_codes", "manual_errors",
     "manual_text", "manual_examples", "manual_examples_files", "manual_examples_layers", "manual_examples_places",
     "manual_schema"),
)
TRAINING = ("nn", "training", "compatibility", "quantization")
HEAVY = ("torch", "torchvision", "unicorn", "elftools", "tensorboard", "sklearn", "onnx", "matplotlib")
MAX_FILE_LINES = 500
MAX_TABLE_LINES = 800
MAX_FUNCTION_LINES = 60


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def level_of(module: str) -> int | None:
    """The level whose entry is the longest prefix of the module's name."""
    best = [(len(name), level) for level, names in enumerate(LEVELS) for name in names
            if module == name or module.startswith(name + ".")]
    return max(best)[1] if best else None


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.AST) -> set[str]:
    """Modules of ours that are imported, as names below the package."""
    known = {module_name(path) for path in FILES}
    names = {name.removeprefix("ai8x.") for name in imports(tree) if name.startswith("ai8x.")}
    return {name for name in names if name in known}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_module_imports_only_lower_levels(path: Path) -> None:
    module = module_name(path)
    if module == "" or module.split(".")[0] in TRAINING:
        return
    level = level_of(module)
    assert level is not None, f"{module} has no level: add it to LEVELS"
    if level == len(LEVELS) - 1:
        return
    levels = {name: level_of(name) for name in own_imports(ast.parse(path.read_text()))}
    too_high = {name for name, other in levels.items() if other is None or other > level}
    assert not too_high, f"{module} (level {level}) imports {sorted(too_high)}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_targets_never_import_each_other(path: Path) -> None:
    module = module_name(path)
    other = {"max7800x": "k210", "k210": "max7800x"}.get(module.split(".")[0])
    if other:
        assert not [name for name in own_imports(ast.parse(path.read_text())) if name.startswith(other)]


@pytest.mark.parametrize("family", ["max7800x", "k210"])
def test_simulators_know_registers_and_their_device_only(family: str) -> None:
    allowed = {"errors", "registers", f"{family}.device"}
    for path in (PACKAGE / family).glob("simulator*.py"):
        imported = own_imports(ast.parse(path.read_text()))
        found = {name for name in imported if not name.startswith(f"{family}.simulator")} - {family}
        assert found <= allowed, f"{path.name} imports {sorted(found - allowed)}"


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_heavy_libraries_are_imported_late_or_in_the_training_half(path: Path) -> None:
    module = module_name(path)
    tree = ast.parse(path.read_text())
    top_level = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    heavy = {name.split(".")[0] for node in top_level for name in imports(ast.Module([node], []))} & set(HEAVY)
    allowed = {"torch", "torchvision"} if module.split(".")[0] in TRAINING else set()
    assert not heavy - allowed


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_stay_short_enough_to_see_whole(path: Path) -> None:
    text = path.read_text()
    limit = MAX_TABLE_LINES if path.name == "device.py" else MAX_FILE_LINES
    assert len(text.splitlines()) <= limit
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


@pytest.mark.parametrize("command", [["synthesize.py", "--help"], ["-m", "ai8x.simulate", "--help"],
                                     ["train.py", "--help"], ["quantize.py", "--help"]], ids=lambda c: c[-2])
def test_help_loads_no_torch(command: list[str]) -> None:
    script = ROOT / command[0] if command[0].endswith(".py") else None
    runner = (f"runpy.run_path({str(script)!r}, run_name='__main__')" if script
              else f"runpy.run_module({command[1]!r}, run_name='__main__')")
    code = (f"import sys, runpy\nsys.argv = {[str(script or command[1]), '--help']!r}\n"
            f"try:\n    {runner}\nexcept SystemExit as stop:\n    assert not stop.code\n"
            "sys.stderr.write('torch' if 'torch' in sys.modules else 'light')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and done.stderr.endswith("light"), done.stderr
