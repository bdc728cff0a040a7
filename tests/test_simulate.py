"""The command ``python -m ai8x.simulate``: its exit status, and what it says when something is wrong."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ai8x.k210.kmodel import write_kmodel
from ai8x.simulate import main
from ai8x.toolchain import missing_tools

from .k210.kpu_layers import Shape, conv, pattern_image, pattern_weights, single
from .max7800x.register_program import recorded_trace
from .virtual.firmware import main_with

SUCCESS, USER, MISMATCH = 0, 2, 3
PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "cases" / "k210" / "maixpy_mnist"


# --- firmware -----------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty folder for a project whose path has a space."""
    if missing := missing_tools():
        pytest.skip(missing)
    pytest.importorskip("unicorn")
    folder = tmp_path / "my project"
    folder.mkdir()
    return folder


def write_main(project: Path, body: str, before: str = "") -> str:
    (project / "main.c").write_text(main_with(body, before=before))
    return str(project)


def test_project_that_passes_succeeds(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["firmware", write_main(project, 'printf("hello\\nPASS\\n");')]) == SUCCESS
    assert capsys.readouterr().out.startswith("hello\nPASS\nfirmware: passed: main returned 0\n")
    assert [path.name for path in project.iterdir()] == ["main.c"]


def test_linked_firmware_is_run_as_it_is(project: Path, tmp_path: Path) -> None:
    from ai8x.toolchain import build_project

    write_main(project, 'printf("PASS\\n");')
    assert main(["firmware", str(build_project(project, build_dir=tmp_path / "build"))]) == SUCCESS


@pytest.mark.parametrize(("body", "reason"), [
    ('printf("*** FAIL ***\\n");', "says FAIL"),
    ('printf("done\\n");', "does not say PASS"),
    ('printf("PASS\\n"); MXC_LP_EnterSleepMode();', "no interrupt can come"),
    ('printf("PASS\\n"); volatile uint32_t *p = NULL; *p = 1;', "null pointer"),
    ('printf("PASS\\n"); for (;;) { }', "endless loop"),
], ids=["fail", "silent", "deadlock", "crash", "hang"])
def test_firmware_that_does_not_pass_is_a_mismatch(project: Path, capsys: pytest.CaptureFixture[str], body: str,
                                                   reason: str) -> None:
    assert main(["firmware", write_main(project, body)]) == MISMATCH
    output = capsys.readouterr().out
    assert "firmware: failed: " in output and reason in output


def test_access_to_the_unpowered_accelerator_is_one_clear_line(project: Path,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    body = 'printf("before\\n"); REG32(0x50100000) = 8; printf("PASS\\n");'
    assert main(["firmware", write_main(project, body)]) == MISMATCH
    captured = capsys.readouterr()
    assert captured.out == "before\n"  # what was printed up to the fault
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("hardware fault: address 0x50100000: write while") and "at main+0x" in lines[0]


def test_accelerator_answers_once_it_is_powered(project: Path) -> None:
    body = """
    MXC_GCFR->reg3 = 0xF; MXC_GCFR->reg1 = 0xF; MXC_GCFR->reg0 = 0xF; MXC_GCFR->reg2 = 0; MXC_GCFR->reg3 = 0;
    MXC_SYS_ClockEnable(MXC_SYS_PERIPH_CLOCK_CNN);
    REG32(0x50404000) = 0x12345678;
    printf(REG32(0x50404000) == 0x12345678 ? "PASS\\n" : "FAIL\\n");
    """
    assert main(["firmware", write_main(project, body)]) == SUCCESS


def test_seed_must_not_be_negative(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["firmware", "--seed", "-1", "x.elf"])
    assert stop.value.code == USER and "whole number" in capsys.readouterr().err


def test_budget_can_be_set(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_main(project, "for (;;) { sink++; }", "static volatile uint32_t sink;")
    assert main(["firmware", "--max-instructions", "100_000", folder]) == MISMATCH
    assert "instruction budget of 100,000 exceeded" in capsys.readouterr().out


def test_project_that_does_not_compile_is_a_user_error(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["firmware", write_main(project, "undeclared();", "int x = y;")]) == USER
    assert "error[E0804]" in (text := capsys.readouterr().err) and "main.c:" in text


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"\x7fELF" + bytes(60), b"no elf at all" * 10])
def test_file_that_is_no_firmware_is_a_user_error(tmp_path: Path, content: bytes,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("elftools")
    (tmp_path / "x.elf").write_bytes(content)
    assert main(["firmware", str(tmp_path / "x.elf")]) == USER
    assert "error[E0806]" in capsys.readouterr().err


def test_executable_of_another_processor_is_a_user_error(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("elftools")
    assert main(["firmware", sys.executable]) == USER
    assert "error[E0806]" in capsys.readouterr().err


def test_absent_and_empty_projects_are_user_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["firmware", str(tmp_path / "absent")]) == USER
    assert main(["firmware", "--json-errors", str(tmp_path)]) == USER
    lines = capsys.readouterr().err.splitlines()
    assert "E0805" in lines[0] and json.loads(lines[-1])[0]["code"] == "E0805"


def test_missing_emulator_names_the_remedy(project: Path, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_main(project, "")
    monkeypatch.setitem(sys.modules, "unicorn", None)
    assert main(["firmware", folder]) == USER
    assert "E0801" in (text := capsys.readouterr().err) and "pip install 'ai8x[virtual]'" in text


def test_missing_elf_reader_names_the_remedy(project: Path, monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_main(project, "")
    for name in ("elftools", "elftools.elf", "elftools.elf.elffile"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["firmware", folder]) == USER
    assert "pip install 'ai8x[virtual]'" in capsys.readouterr().err


def test_command_line_works_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "ai8x.simulate", "firmware", str(tmp_path)], capture_output=True,
                          text=True, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == USER and "E0805" in done.stderr and not done.stdout


# --- bus ----------------------------------------------------------------------------------------------------------


def simulate_bus(folder: Path, arrays: dict[str, np.ndarray]) -> int:
    np.savez(folder / "bus.npz", **arrays)
    return main(["bus", str(folder / "bus.npz")])


def test_trace_whose_words_hold_succeeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate_bus(tmp_path, recorded_trace()) == SUCCESS
    assert capsys.readouterr().out == "bus: equal: 1 expected words hold after 1 inferences\n"


def test_trace_with_a_wrong_word_is_a_mismatch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = recorded_trace()
    arrays["expected"][0, 2] ^= 4
    assert simulate_bus(tmp_path, arrays) == MISMATCH
    error = capsys.readouterr().err
    assert "0x50404000: expected 0x0000fb01, found 0x0000fb05" in error and "1 of 1 expected words differ" in error


def test_trace_that_programs_nonsense_is_a_mismatch_in_one_line(tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    arrays = recorded_trace()
    arrays["address"][3] = 0x50200000
    assert simulate_bus(tmp_path, arrays) == MISMATCH
    error = capsys.readouterr().err
    assert error.startswith("hardware fault: ") and "0x50200000" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("damage", ["missing", "object"])
def test_damaged_trace_is_a_user_error(tmp_path: Path, damage: str) -> None:
    arrays = recorded_trace()
    if damage == "missing":
        del arrays["size"]
    else:
        arrays["value"] = np.array([None] * len(arrays["value"]))
    assert simulate_bus(tmp_path, arrays) == USER


def test_trace_that_expects_nothing_is_a_user_error_that_says_so(tmp_path: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate_bus(tmp_path, recorded_trace() | {"expected": np.zeros((0, 3), np.uint32)}) == USER
    assert "error[E0152]: the bus trace expects nothing" in capsys.readouterr().err


def test_only_the_first_wrong_words_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = recorded_trace()
    arrays["expected"] = np.repeat(arrays["expected"], 13, axis=0)
    arrays["expected"][:, 2] ^= 4
    assert simulate_bus(tmp_path, arrays) == MISMATCH
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 12 and lines[-2:] == ["and 3 more", "bus: different: 13 of 13 expected words differ"]


@pytest.mark.parametrize("size", [0, 10, 200, -100, -22, -1])
def test_cut_or_foreign_trace_file_is_a_user_error(tmp_path: Path, size: int) -> None:
    np.savez(tmp_path / "bus.npz", **recorded_trace())
    content = (tmp_path / "bus.npz").read_bytes()
    (tmp_path / "bus.npz").write_bytes(content[:size])
    assert main(["bus", str(tmp_path / "bus.npz")]) == USER
    assert main(["bus", str(tmp_path / "absent.npz")]) == USER
    assert main(["bus", str(tmp_path)]) == USER


def test_no_flipped_byte_of_a_compressed_trace_is_an_internal_error(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bus.npz", **recorded_trace())
    content = (tmp_path / "bus.npz").read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x55
        (tmp_path / "bus.npz").write_bytes(damaged)
        assert main(["bus", str(tmp_path / "bus.npz")]) in {SUCCESS, USER, MISMATCH}


# --- kmodel -------------------------------------------------------------------------------------------------------


@pytest.fixture
def kmodel(tmp_path: Path) -> Path:
    """A model of one 3x3 layer on a 2 x 4 x 6 image."""
    layer = conv(pattern_weights(3, 2, 3), Shape(height=4, width=6))
    path = tmp_path / "one.kmodel"
    path.write_bytes(write_kmodel(single(layer)))
    return path


def test_kmodel_writes_outputs_and_layers(kmodel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", pattern_image(2, 4, 6))
    assert main(["kmodel", str(kmodel), "--input", str(tmp_path / "x.npy"), "--output", str(tmp_path / "y.npz")]) == 0
    with np.load(tmp_path / "y.npz") as arrays:
        assert set(arrays.files) == {"output0", "layer0"}
        assert arrays["layer0"].dtype == np.uint8 and arrays["layer0"].shape == (3, 4, 6)
        assert np.array_equal(arrays["output0"], arrays["layer0"].ravel())
    assert "layer 0: 3 x 4 x 6" in capsys.readouterr().out


def test_kmodel_without_an_input_runs_on_random_values(kmodel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kmodel", str(kmodel)]) == SUCCESS
    assert "random values" in capsys.readouterr().out


@pytest.mark.skipif(not PUBLISHED.exists(), reason="the published models are not part of the repository")
@pytest.mark.parametrize(("arguments", "is_recorded"), [((), True), (("--seed", "5"), False)])
def test_kmodel_starts_with_zeroed_memories_unless_a_seed_is_given(tmp_path: Path, arguments: tuple[str, ...],
                                                                   is_recorded: bool) -> None:
    """Its last KPU layer reads cells of 4x4 maps that nobody wrote."""
    recorded = np.load(PUBLISHED / "random.npz")
    np.save(tmp_path / "x.npy", recorded["input"])
    found = tmp_path / "y.npz"
    assert main(["kmodel", str(PUBLISHED / "model.kmodel"), "--input", str(tmp_path / "x.npy"), "--output", str(found),
                 *arguments]) == SUCCESS
    with np.load(found) as arrays:
        digests = [hashlib.sha256(arrays[f"layer{index}"].tobytes()).hexdigest() for index in recorded["conv_index"]]
        assert arrays["output0"].tobytes() == recorded["output0"].tobytes()
    assert (digests == [str(digest) for digest in recorded["conv_sha256"]]) is is_recorded


def test_kmodel_information_needs_no_input(kmodel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kmodel", str(kmodel), "--info"]) == SUCCESS
    assert capsys.readouterr().out.startswith("kmodel version 3")


@pytest.mark.parametrize("array", [np.zeros((2, 4, 7), np.uint8), np.zeros((2, 4, 6), np.float32)])
def test_input_that_does_not_fit_is_a_user_error(kmodel: Path, tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array)
    assert main(["kmodel", str(kmodel), "--input", str(tmp_path / "x.npy")]) == USER


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"text", b"PK\x03\x04"])
def test_input_that_is_no_array_is_a_user_error(kmodel: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    assert main(["kmodel", str(kmodel), "--input", str(tmp_path / "x.npy")]) == USER


def test_pickled_input_is_not_loaded(kmodel: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
    assert main(["kmodel", str(kmodel), "--input", str(tmp_path / "x.npy")]) == USER


@pytest.mark.parametrize("content", [b"", b"\x03\x00\x00\x00", b"LDMK" + bytes(40), b"x" * 100])
def test_damaged_kmodel_is_a_user_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.kmodel").write_bytes(content)
    assert main(["kmodel", str(tmp_path / "x.kmodel")]) == USER


def test_kmodel_that_cannot_be_read_has_a_code_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "absent.kmodel", tmp_path):
        assert main(["kmodel", str(path)]) == USER
        assert "error[E0715]" in capsys.readouterr().err


def test_output_folder_that_does_not_exist_is_a_user_error(kmodel: Path, tmp_path: Path) -> None:
    assert main(["kmodel", str(kmodel), "--output", str(tmp_path / "absent" / "y.npz")]) == USER
