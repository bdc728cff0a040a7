"""``synthesize.py`` from the command line: what it refuses, how it says so, and that a refusal leaves nothing behind.

Source: docs/design.md "Messages", "Files".
"""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from ai8x.cli.synthesize import main
from tests.end_to_end.digitsnet import NETWORK_FILE, ROOT, state, write_digitsnet

SAMPLE_SHAPE = (1, 28, 28)
BLOCK = re.compile(r"^(?P<place>[^\n]*?): error\[(?P<code>E\d{4})\]: (?P<sentence>[^\n]+)\n"
                   r"(?P<excerpt> +\d+ \| [^\n]*\n +\^+\n)?"
                   r"  found:   (?P<found>[^\n]+)\n  allowed: (?P<allowed>[^\n]+)\n  help:    (?P<help>[^\n]+)\n\Z")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network file, its checkpoint and a sample, all of them right."""
    folder = tmp_path_factory.mktemp("good")
    write_digitsnet(folder / "d.pth.tar")
    (folder / "d.yaml").write_text(NETWORK_FILE.read_text())
    np.save(folder / "s.npy", np.zeros(SAMPLE_SHAPE, np.int64))
    return folder


@pytest.fixture
def place(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A present folder in which the good files lie; afterwards nothing of ours may lie elsewhere in it."""
    for name in ("d.yaml", "d.pth.tar", "s.npy"):
        (tmp_path / name).write_bytes((good / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert not list(tmp_path.rglob("*.partial")), "a temporary file or folder is left"


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> Mapping[str, str]:
    """Run the command; it must refuse with one error block, exit status 2, and leave the folder as it was."""
    before = contents(folder)
    status = main([*arguments, "--target", "max78000", "--no-verify"])
    printed = capsys.readouterr()
    assert status == 2, printed.err
    assert "Traceback" not in printed.err
    assert contents(folder) == before, "something was written"
    block = BLOCK.match(printed.err)
    assert block, printed.err
    assert printed.err.count("error[") == 1
    assert block["sentence"][0] == block["sentence"][0].lower()
    assert not block["sentence"].endswith(".")
    return block.groupdict()


def changed_yaml(folder: Path, old: str, new: str) -> str:
    """Name of a copy of the network file with the first occurrence of a text replaced."""
    text = (folder / "d.yaml").read_text()
    assert old in text
    (folder / "changed.yaml").write_text(text.replace(old, new, 1))
    return "changed.yaml"


def line_of(folder: Path, name: str, text: str) -> int:
    return 1 + next(i for i, line in enumerate((folder / name).read_text().splitlines()) if text in line)


# --- the network file ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("old", "new", "code", "column"), [
    ("processors: 0x0000.0000.0000.ffff", "processors: 0x0000.0000.0000.00ff", "E0312", 17),
    ("processors: 0x0000.0000.0000.0001", "processors: 0x0000.0000.0000.0003", "E0312", 17),
    ("out_offset: 0x1000", "out_offset: 0x8000", "E0416", 17),
    ("out_offset: 0x1000", "out_offset: 0x1001", "E0414", 17),
    ("out_offset: 0x1000", "out_offset: 0x7f00", "E0416", 17),
    ("out_offset: 0x1000", "out_offset: -4", "E0205", 17),
    ("out_offset: 0x1000", "out_offset: four", "E0204", 17),
    ("kernel_size: 3x3", "kernel_size: 9x9", None, 18),
    ("processors: 0x0000.0000.0000.0001", "procesors: 0x0000.0000.0000.0001", "E0201", 5),
    ("in_offset: 0x2000", "in_offset: 0x2000\n    in_offset: 0x2000", None, 5),
    ("arch: digitsnet", "arch: other", "E0550", 7),
], ids=["too few processors", "too many processors", "offset outside", "offset not a multiple of 4", "data run over",
        "negative offset", "offset not a number", "kernel size", "unknown key", "key twice", "other architecture"])
def test_a_wrong_value_in_the_network_file_is_shown_at_its_place(
        place: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, code: str | None, column: int) -> None:
    name = changed_yaml(place, old, new)
    block = refusal(place, capsys, name, "d.pth.tar", "--out", "out")
    line = line_of(place, name, new.splitlines()[0]) + new.count("\n")
    assert block["place"] == f"{name}:{line}:{column}"
    assert code is None or block["code"] == code
    assert new.splitlines()[-1].strip() in block["excerpt"]


@pytest.mark.parametrize("text", ["", "arch: digitsnet\nlayers: [", "arch: digitsnet\n", "layers:\n  - {op: conv2d",
                                  "arch: [a\n", "\ttab: 1\n", "- 1\n- 2\n", "arch: digitsnet\nlayers: 5\n"])
def test_a_network_file_that_breaks_off_is_refused_with_its_place(place: Path, capsys: pytest.CaptureFixture[str],
                                                                  text: str) -> None:
    (place / "cut.yaml").write_text(text)
    before = contents(place)
    assert main(["cut.yaml", "d.pth.tar", "--out", "out"]) == 2
    printed = capsys.readouterr().err
    assert re.match(r"cut\.yaml(:\d+:\d+)?: error\[E0[1-2]\d\d\]: ", printed), printed
    assert "  help:    " in printed
    assert contents(place) == before


def test_a_network_file_cut_at_any_line_is_refused_or_complete(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (place / "d.yaml").read_text().splitlines(keepends=True)
    before = contents(place) | {"cut.yaml": None}
    for count in range(len(lines) - 1):
        (place / "cut.yaml").write_text("".join(lines[:count]))
        status = main(["cut.yaml", "d.pth.tar", "--out", "out", "--target", "max78000", "--no-verify"])
        printed = capsys.readouterr().err
        if status == 0:  # only keys of the last layer were missing that have a default, or are chosen
            assert count >= len(lines) - 5, count
            continue
        assert status == 2, printed
        assert re.match(r"cut\.yaml(:\d+:\d+)?: error\[E\d{4}\]: ", printed), printed
        assert contents(place).keys() == before.keys()


# --- files that are missing or something else ---------------------------------------------------------------------

@pytest.mark.parametrize(("arguments", "code", "found"), [
    (["nope.yaml", "d.pth.tar"], "E0101", "no such file"),
    (["d.yaml", "nope.pth.tar"], "E0501", "no such file"),
    (["d.yaml", "d.pth.tar", "--sample-input", "nope.npy"], "E0640", "no such file"),
    ([".", "d.pth.tar"], "E0101", "a folder"),
    (["d.yaml", "."], "E0501", "a folder"),
    (["d.yaml", "d.pth.tar", "--sample-input", "."], "E0640", "a folder"),
])
def test_a_missing_file_is_named(place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: str,
                                 found: str) -> None:
    block = refusal(place, capsys, *arguments, "--out", "out")
    assert (block["code"], block["found"]) == (code, found)
    assert block["place"] == next(a for a in arguments if not Path(a).is_file() and not a.startswith("--"))


def test_a_name_longer_than_the_system_takes_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["a" * 5000, "d.pth.tar", "--out", "out"], ["d.yaml", "d.pth.tar", "--out", "b" * 300],
                      ["d.yaml", "d.pth.tar", "--out", "out", "--sample-input", "c" * 5000]):
        assert main([*arguments, "--target", "max78000", "--no-verify"]) == 2
        printed = capsys.readouterr().err
        assert "File name too long" in printed
        assert printed.count("error[E") == 1


# --- checkpoints --------------------------------------------------------------------------------------------------

def without(prefix: str) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda arrays: {k: v for k, v in arrays.items() if not k.startswith(prefix)}


def resized(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return arrays | {"conv2.op.weight": np.zeros((24, 16, 3, 3), np.float32), "conv2.op.bias": np.zeros(24, np.float32)}


def fractions(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return arrays | {"conv2.op.weight": arrays["conv2.op.weight"] / 64}


@pytest.mark.parametrize(("change", "code"), [
    (without("fc"), "E0551"), (lambda a: a | {"more.op.weight": np.zeros((3, 10), np.float32)}, "E0551"),
    (resized, "E0552"), (lambda a: a | {"conv2.op.weight": a["conv2.op.weight"] + 200}, "E0553"),
    (fractions, "E0542"), (lambda a: a | {"conv2.op.bias": np.zeros(5, np.float32)}, "E0554"),
    (lambda a: a | {"conv2.op.bias": a["conv2.op.bias"] + 128 * 200}, "E0555"),
], ids=["fewer layers", "more layers", "other shapes", "large weights", "not quantised", "bias shape", "bias range"])
def test_a_checkpoint_of_another_network_is_refused_once(
        place: Path, capsys: pytest.CaptureFixture[str],
        change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], code: str) -> None:
    write_digitsnet(place / "other.pth.tar", state=change(state()))
    before = contents(place)
    assert main(["d.yaml", "other.pth.tar", "--out", "out", "--target", "max78000", "--no-verify"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("error[") == 1, printed
    assert f"error[{code}]" in printed
    assert "other.pth.tar" in printed or "checkpoint" in printed
    assert "  help:    " in printed
    assert contents(place) == before


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_checkpoint_is_refused(place: Path, capsys: pytest.CaptureFixture[str], share: float) -> None:
    whole = (place / "d.pth.tar").read_bytes()
    (place / "cut.pth.tar").write_bytes(whole[:int(share * len(whole))])
    block = refusal(place, capsys, "d.yaml", "cut.pth.tar", "--out", "out")
    assert block["place"] == "cut.pth.tar"
    assert block["code"] in {"E0502", "E0503"}


def test_a_checkpoint_with_one_wrong_bit_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray((place / "d.pth.tar").read_bytes())
    content[len(content) // 2] ^= 4
    (place / "bit.pth.tar").write_bytes(content)
    assert refusal(place, capsys, "d.yaml", "bit.pth.tar", "--out", "out")["code"] == "E0503"


# --- samples ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("values", "code", "found"), [
    (np.zeros(SAMPLE_SHAPE, np.float32), "E0642", "float32"), (np.zeros(SAMPLE_SHAPE, bool), "E0642", "bool"),
    (np.full(SAMPLE_SHAPE, 128), "E0642", "128"), (np.full(SAMPLE_SHAPE, -129), "E0642", "-129"),
    (np.zeros((1, 1, 28, 28), np.int8), "E0642", "(1, 1, 28, 28)"), (np.zeros((1, 0, 28), np.int8), "E0642", "0"),
    (np.zeros((1, 27, 28), np.int8), "E0642", "(1, 27, 28)"), (np.zeros((3, 28, 28), np.int8), "E0642", "(3, 28, 28)"),
    (np.zeros((28, 28), np.int8), "E0642", "(28, 28, 1)"), (np.array(3), "E0642", "()"),
    (np.array([{}]), "E0641", "allow_pickle"),
], ids=lambda value: None if not isinstance(value, np.ndarray) else f"{value.dtype}{value.shape}")
def test_an_array_that_is_no_sample_is_refused(place: Path, capsys: pytest.CaptureFixture[str], values: np.ndarray,
                                               code: str, found: str) -> None:
    np.save(place / "x.npy", values, allow_pickle=True)
    block = refusal(place, capsys, "d.yaml", "d.pth.tar", "--sample-input", "x.npy", "--out", "out")
    assert (block["place"], block["code"]) == ("x.npy", code)
    assert found in block["found"]


@pytest.mark.parametrize("content", [
    b"", b"garbage", b"PK\x03\x04 no archive", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x10\x00" + b"{" * 16,
    b"\x93NUMPY\x01\x00\x36\x00{'descr': '|i1', 'fortran_order': False, 'shape': (9,)}\n1",
], ids=["empty", "text", "damaged archive", "no header", "header that breaks off", "too little data"])
def test_a_file_that_is_no_array_is_refused(place: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    (place / "x.npy").write_bytes(content)
    block = refusal(place, capsys, "d.yaml", "d.pth.tar", "--sample-input", "x.npy", "--out", "out")
    assert block["code"] == "E0641"


def test_an_archive_of_arrays_is_no_sample(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(place / "x.npz", a=np.zeros(SAMPLE_SHAPE, np.int8))
    block = refusal(place, capsys, "d.yaml", "d.pth.tar", "--sample-input", "x.npz", "--out", "out")
    assert "several arrays" in block["found"]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int64, np.uint8])
def test_a_sample_of_any_integer_type_is_taken(place: Path, dtype: type) -> None:
    np.save(place / "x.npy", (np.arange(784) % 100).reshape(SAMPLE_SHAPE).astype(dtype))
    assert main(["d.yaml", "d.pth.tar", "--sample-input", "x.npy", "--out", "out", "--target", "max78000",
                 "--no-verify", "-q"]) == 0
    assert json.loads((place / "out" / "report.json").read_text())["sample"] == "file x.npy"


# --- output folders -----------------------------------------------------------------------------------------------

def test_a_folder_with_foreign_files_is_kept(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "notes.txt").write_text("keep")
    block = refusal(place, capsys, "d.yaml", "d.pth.tar", "--out", "mine")
    assert (block["code"], block["found"]) == ("E0811", "notes.txt")
    assert "--overwrite" in block["help"]


def test_a_changed_or_added_file_in_our_own_folder_is_kept(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["d.yaml", "d.pth.tar", "--out", "out", "--target", "max78000", "--no-verify", "-q"]
    assert main(arguments) == 0
    assert main(arguments) == 0, "an unchanged folder of ours is replaced"
    main_c = place / "out" / "max78000" / "main.c"
    main_c.write_text(main_c.read_text() + "/* edited */\n")
    assert refusal(place, capsys, "d.yaml", "d.pth.tar", "--out", "out")["found"] == "max78000/main.c"
    assert main([*arguments, "--overwrite"]) == 0
    assert "edited" not in main_c.read_text()
    (place / "out" / "max78000" / "app.c").write_text("int app;\n")
    assert refusal(place, capsys, "d.yaml", "d.pth.tar", "--out", "out")["found"] == "max78000/app.c"


def test_a_built_project_can_be_generated_again(place: Path) -> None:
    arguments = ["d.yaml", "d.pth.tar", "--out", "out", "--target", "max78000", "--no-verify", "-q"]
    assert main(arguments) == 0
    (place / "out" / "max78000" / "build").mkdir()
    (place / "out" / "max78000" / "build" / "main.o").write_bytes(b"object")
    assert main(arguments) == 0
    assert not (place / "out" / "max78000" / "build").exists()


def test_an_output_folder_that_cannot_be_one_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "file").write_text("x")
    (place / "elsewhere").mkdir()
    (place / "link").symlink_to("elsewhere")
    for target in ("file", "link", "/", ".", ".."):
        assert refusal(place, capsys, "d.yaml", "d.pth.tar", "--out", target)["code"] == "E0811", target
    assert refusal(place, capsys, "d.yaml", "d.pth.tar", "--out", "file/below")["code"] == "E0810"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a file system that nobody can write to")
def test_a_place_that_cannot_be_written_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(place, capsys, "d.yaml", "d.pth.tar", "--out", "/proc/ai8x-out")["code"] == "E0810"


def test_a_network_that_does_not_fit_leaves_no_folders_behind(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = changed_yaml(place, "out_offset: 0x1000", "out_offset: 0x8000")
    refusal(place, capsys, name, "d.pth.tar", "--out", "new/folder/out")
    assert not (place / "new").exists()


# --- the command itself -------------------------------------------------------------------------------------------

def test_errors_as_json_have_the_same_parts(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = changed_yaml(place, "out_offset: 0x1000", "out_offset: 0x8000")
    assert main([name, "d.pth.tar", "--out", "out", "--target", "max78000", "--json-errors"]) == 2
    (error,) = json.loads(capsys.readouterr().err)
    assert error | {"message": "", "found": "", "allowed": "", "help": ""} == {
        "level": "error", "code": "E0416", "message": "", "file": name, "line": 19, "column": 17, "layer": "conv1",
        "layer_index": 0, "found": "", "allowed": "", "help": ""}
    assert all(error[key] for key in ("message", "found", "allowed", "help"))


def test_a_number_of_test_samples_below_zero_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["d.yaml", "d.pth.tar", "--test-samples", "-1"]) == 2
    assert "error[E0291]" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "missing"), [([], "network"), (["d.yaml"], "checkpoint")])
def test_a_missing_argument_is_named(arguments: list[str], missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert re.match(rf"error\[E\d{{4}}\]: the {missing} ", capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [["d.yaml", "d.pth.tar", "--target", "z80"],
                                       ["d.yaml", "d.pth.tar", "--board", "X"], ["d.yaml", "d.pth.tar", "--boar"]])
def test_a_wrong_command_line_ends_with_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_the_default_output_folder_has_the_name_of_the_network_file(place: Path) -> None:
    assert main(["d.yaml", "d.pth.tar", "--target", "max78000", "--no-verify", "-q"]) == 0
    assert (place / "out" / "d" / "manifest.json").is_file()


def run_script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ROOT / "synthesize.py"), *arguments], cwd=folder, text=True,
                          capture_output=True, check=False)


def test_the_script_refuses_from_any_folder_without_a_traceback(place: Path) -> None:
    before = contents(place)
    done = run_script(place, "nope.yaml", "d.pth.tar", "--out", "out")
    assert done.returncode == 2
    assert BLOCK.match(done.stderr), done.stderr
    assert not done.stdout
    assert contents(place) == before


def test_the_script_takes_paths_with_spaces_and_other_letters(place: Path) -> None:
    folder = place / "ein Ordner mit Umläuten äöü 数字"
    folder.mkdir()
    (folder / "netz ä.yaml").write_bytes((place / "d.yaml").read_bytes())
    done = run_script(place, str(folder / "netz ä.yaml"), "d.pth.tar", "--out", str(folder / "aus gabe"), "--target",
                      "max78000", "-q")
    assert done.returncode == 0, done.stderr
    verification = json.loads((folder / "aus gabe" / "report.json").read_text())["verification"]
    assert verification["simulator"] == "equal"
    assert verification["firmware"] == "equal" or verification["firmware"].startswith("skipped: ")


def test_help_does_not_load_torch() -> None:
    code = ("import sys, ai8x.cli.synthesize as s\n"
            "try: s.main(['--help'])\n"
            "except SystemExit: pass\n"
            "assert 'torch' not in sys.modules")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
