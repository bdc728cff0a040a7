"""The command line of synthesize.py: the vendor's spellings, and every option reaches the project."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from ai8x.checkpoint import Checkpoint, write_checkpoint
from ai8x.cli.synthesize import build_parser, main, options_from
from ai8x.errors import UserError
from ai8x.max7800x.options import (
    BoostPin,
    ClockSource,
    CodegenOptions,
    Core,
    FileNames,
    LowerOptions,
    ProjectOptions,
    SyntheticInput,
)

NETWORK = """
arch: tiny
dataset: none
layers:
  - {op: conv2d, kernel_size: 3x3, pad: 1, processors: 0x7, output_processors: 0xff, out_offset: 0x2000, activate: ReLU}
  - {op: linear, flatten: true, processors: 0xff, out_offset: 0, output_width: 32}
"""


def parse(*arguments: str) -> ProjectOptions:
    return options_from(build_parser().parse_args(["net.yaml", "net.pth.tar", *arguments])).max78000


@pytest.mark.parametrize(("arguments", "expected"), [
    ((), ProjectOptions()),
    (("--fifo", "--board-name", "FTHR_RevA"), ProjectOptions(fifo=True, code=CodegenOptions(board="FTHR_RevA"))),
    (("--timer", "3"), ProjectOptions(code=CodegenOptions(timer=3))),
    (("--no-timer",), ProjectOptions(code=CodegenOptions(timer=None))),
    (("--softmax",), ProjectOptions()),
    (("--no-unload",), ProjectOptions(code=CodegenOptions(unload=False, softmax=False))),
    (("--energy", "--no-wfi", "--no-kat"),
     ProjectOptions(code=CodegenOptions(energy=True, wfi=False, known_answer=False))),
    (("--boost", "2.5", "--debugwait", "0", "--switch-delay", "10"),
     ProjectOptions(code=CodegenOptions(boost=BoostPin(port=2, pin=5), debug_wait_s=0, switch_delay_ms=10))),
    (("--verify-kernels", "--verify-writes", "--no-compact-data"),
     ProjectOptions(code=CodegenOptions(verify_weights=True, verify_writes=True, compact=False))),
    (("--c-filename", "app", "--api-filename", "net.c", "--weight-filename", "w.h", "--sample-filename", "in.h",
      "--sample-output-filename", "out.h"),
     ProjectOptions(code=CodegenOptions(
         names=FileNames(main="app", api="net", weights="w", sample="in", answer="out")))),
    (("--api-filename", "none"), ProjectOptions(code=CodegenOptions(names=FileNames(api="")))),
    (("--no-mexpress", "--write-zero-registers", "--zero-sram", "--powerdown", "--stop-start", "--debug-layers"),
     ProjectOptions(lower=LowerOptions(express=False, write_zero_registers=True, zero_memories=True,
                                       power_down_unused=True, stop_start=True, check_layers=True))),
    (("--mexpress", "--compact-data", "--verbose", "--log-filename", "x"), ProjectOptions()),
    (("--clock-source", "ISO", "--clock-divider", "4", "--max-verify-length", "7"),
     ProjectOptions(lower=LowerOptions(clock_source=ClockSource.ISO, clock_divider=4, max_verify_words=7))),
    (("--riscv", "--fast-fifo", "--fast-fifo-quad"),
     ProjectOptions(fast_fifo=True, quad=True, code=CodegenOptions(core=Core.RISCV))),
    (("--fifo", "--synthesize-input", "0x112233", "--synthesize-words", "16"),
     ProjectOptions(fifo=True, synthetic_input=SyntheticInput(increment=0x112233, words=16))),
    (("--no-deduplicate-weights", "--stop-after", "1", "--ignore-streaming"),
     ProjectOptions(deduplicate=False, stop_after=1, ignore_streaming=True)),
])
def test_options_reach_the_library(arguments: tuple[str, ...], expected: ProjectOptions) -> None:
    assert parse(*arguments) == expected


def test_vendor_names_of_files_and_folders_are_accepted() -> None:
    arguments = ["--config-file", "a.yaml", "--checkpoint-file", "b.pth.tar", "--test-dir", "demos", "--prefix", "kws",
                 "--device", "MAX78000", "--timer", "0", "--display-checkpoint", "--verbose"]
    options = options_from(build_parser().parse_args(arguments))
    assert (options.network, options.checkpoint, options.out, options.targets) == (
        Path("a.yaml"), Path("b.pth.tar"), Path("demos/kws"), ("max78000",))


@pytest.mark.parametrize(("arguments", "code"), [
    (["net.yaml"], "E0290"), (["a.yaml", "b", "--config-file", "c.yaml"], "E0290"),
    (["a.yaml", "b", "--device", "MAX78002"], "E0302"), (["a.yaml", "b", "--clock-divider", "3"], "E0392"),
    (["a.yaml", "b", "--mlator"], "E0399"),
    (["a.yaml", "b", "--boost", "x"], "E0395"), (["a.yaml", "b", "--fast-fifo"], "E0397"),
    (["a.yaml", "b", "--samples", "-1"], "E0291")])
def test_wrong_command_lines_are_refused(arguments: list[str], code: str) -> None:
    with pytest.raises(UserError) as failure:
        options_from(build_parser().parse_args(arguments))
    assert failure.value.diagnostics[0].code == code


def test_short_help_lists_at_most_25_options_and_the_long_one_all() -> None:
    texts = []
    for option in ("--help", "--help-all"):
        with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
            build_parser().parse_args([option])
        texts.append(out.getvalue())
    shown, listed = ({line.split()[0] for line in text.splitlines() if line.startswith("  -")} for text in texts)
    assert len(shown) <= 25 < len(listed)
    assert "--zero-sram" not in texts[0] and "--zero-sram" in texts[1]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    state = {"a.op.weight": rng.integers(-128, 128, (8, 3, 3, 3)).astype(np.float32),
             "a.output_shift": np.array([-4.0], np.float32),
             "b.op.weight": rng.integers(-128, 128, (4, 8 * 36)).astype(np.float32)}
    (tmp_path / "net.yaml").write_text(NETWORK)
    sample = rng.integers(-128, 128, (3, 6, 6)).astype(np.int8)
    write_checkpoint(tmp_path / "net.pth.tar", Checkpoint(state=state, arch="tiny", sample=sample))
    return tmp_path / "net.yaml", tmp_path / "net.pth.tar"


@pytest.mark.parametrize("arguments", [
    ["--stop-after", "0", "--no-deduplicate-weights"],
    ["--fifo", "--synthesize-input", "0x010203", "--debug-layers", "--zero-sram"]])
def test_projects_with_options_are_verified(files: tuple[Path, Path], arguments: list[str]) -> None:
    pytest.importorskip("unicorn")
    out = files[0].parent / "out"
    status = main([str(files[0]), str(files[1]), "--target", "max78000", "--out", str(out), "-q", *arguments])
    assert status == 0
    report = json.loads((out / "report.json").read_text())
    assert report["verification"]["simulator"] == "equal"
    assert report["verification"]["firmware"] in ("equal", "skipped: arm-none-eabi-gcc is not installed")
    manifest = next(out.glob("*manifest*.json"), None) or next(out.glob(".*manifest*"), None)
    assert manifest is None or "max78000" in manifest.read_text()


def test_stop_after_needs_an_existing_layer(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    out = files[0].parent / "out"
    assert main([str(files[0]), str(files[1]), "--target", "max78000", "--out", str(out), "--stop-after", "2"]) == 2
    assert "E0398" in capsys.readouterr().err
    assert not out.exists()
