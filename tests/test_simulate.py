"""The command ``python -m ai8x.simulate``: its exit status, and what it says when something is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ai8x.k210.kmodel import write_kmodel
from ai8x.max7800x.simulator import Accelerator
from ai8x.simulate import main
from ai8x.toolchain import missing_tools

from .k210.kpu_layers import Shape, conv, pattern_image, pattern_weights, single
from .max7800x.register_program import ConvLayer, data_address, initialise, load_data, start
from .virtual.firmware import main_with

SUCCESS, USER, MISMATCH = 0, 2, 3


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


class Recorder(Accelerator):
    """An accelerator that notes every write."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.log: list[tuple[int, int, int]] = []

    def write(self, address: int, size: int, value: int) -> None:
        self.log.append((address, size, value))
        super().write(address, size, value)


def trace() -> dict[str, np.ndarray]:
    """A 1x1 layer with weights 64 and -64 on the input 10: 5 and -5."""
    accelerator = Recorder()
    initialise(accelerator)
    layer = ConvLayer(weights=np.array([64, -64]).reshape(2, 1, 1, 1), height=1, width=1)
    layer.load_weights(accelerator)
    layer.configure(accelerator)
    load_data(accelerator, [0], 0, np.array([[10]]))
    start(accelerator)
    address, size, value = (np.array(column) for column in zip(*accelerator.log, strict=True))
    return {"address": address.astype(np.uint32), "size": size.astype(np.uint8), "value": value.astype(np.uint32),
            "expected": np.array([[data_address(0, 0x1000), 0xFFFF, 0xFB05]], np.uint32)}


def simulate_bus(folder: Path, arrays: dict[str, np.ndarray]) -> int:
    np.savez(folder / "bus.npz", **arrays)
    return main(["bus", str(folder / "bus.npz")])


def test_trace_whose_words_hold_succeeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate_bus(tmp_path, trace()) == SUCCESS
    assert capsys.readouterr().out == "bus: equal: 1 expected words hold after 1 inferences\n"


def test_trace_with_a_wrong_word_is_a_mismatch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = trace()
    arrays["expected"][0, 2] ^= 4
    assert simulate_bus(tmp_path, arrays) == MISMATCH
    error = capsys.readouterr().err
    assert "0x50404000: expected 0x0000fb01, found 0x0000fb05" in error and "1 of 1 expected words differ" in error


def test_trace_that_programs_nonsense_is_a_mismatch_in_one_line(tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    arrays = trace()
    arrays["address"][3] = 0x50200000
    assert simulate_bus(tmp_path, arrays) == MISMATCH
    error = capsys.readouterr().err
    assert error.startswith("hardware fault: ") and "0x50200000" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("damage", ["missing", "dtype", "length", "columns", "object"])
def test_damaged_trace_is_a_user_error(tmp_path: Path, damage: str) -> None:
    arrays = trace()
    if damage == "missing":
        del arrays["size"]
    elif damage == "dtype":
        arrays["value"] = arrays["value"].astype(np.float32)
    elif damage == "length":
        arrays["size"] = arrays["size"][1:]
    elif damage == "columns":
        arrays["expected"] = arrays["expected"][:, :2]
    else:
        arrays["value"] = np.array([None] * len(arrays["value"]))
    assert simulate_bus(tmp_path, arrays) == USER


@pytest.mark.parametrize("size", [0, 10, 200, -100, -22, -1])
def test_cut_or_foreign_trace_file_is_a_user_error(tmp_path: Path, size: int) -> None:
    np.savez(tmp_path / "bus.npz", **trace())
    content = (tmp_path / "bus.npz").read_bytes()
    (tmp_path / "bus.npz").write_bytes(content[:size])
    assert main(["bus", str(tmp_path / "bus.npz")]) == USER
    assert main(["bus", str(tmp_path / "absent.npz")]) == USER
    assert main(["bus", str(tmp_path)]) == USER


def test_no_flipped_byte_of_a_compressed_trace_is_an_internal_error(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "bus.npz", **trace())
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
    assert main(["kmodel", str(tmp_path / "absent.kmodel")]) == USER


def test_output_folder_that_does_not_exist_is_a_user_error(kmodel: Path, tmp_path: Path) -> None:
    assert main(["kmodel", str(kmodel), "--output", str(tmp_path / "absent" / "y.npz")]) == USER
