"""Projects that are too large for the MAX78000: made smaller where nobody has chosen, refused with what helps else."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai8x.checkpoint import Checkpoint, write_checkpoint
from ai8x.cli.synthesize import main
from ai8x.max7800x.firmware_size import FLASH_BYTES, SYNTHETIC_INCREMENT

needs_compiler = pytest.mark.skipif(shutil.which("arm-none-eabi-gcc") is None or shutil.which("make") is None,
                                    reason="no cross compiler on this machine")
SAMPLE_BYTES = 64 * 80 * 80
LAYER_BYTES = 64 * 64 * 9
SAMPLE_OPTIONS = f"--synthesize-input {SYNTHETIC_INCREMENT:#010x} --synthesize-words 64"


def write_network(folder: Path, layers: int) -> None:
    """A sample of 64 x 80 x 80, pooled at once, and 3x3 convolutions: cheap to compute, large in flash."""
    rng = np.random.default_rng(0)
    lines = ["arch: n", "dataset: none", "layers:"]
    state: dict[str, np.ndarray] = {}
    for index in range(layers):
        lines += [f"  - name: conv{index}", "    op: conv2d", "    kernel_size: 3x3", "    pad: 1",
                  "    activate: ReLU"]
        lines += [] if index else ["    max_pool: 10", "    pool_stride: 10"]
        state[f"conv{index}.op.weight"] = rng.integers(-40, 40, (64, 64, 3, 3)).astype(np.float32)
        state[f"conv{index}.output_shift"] = np.array([-6], np.float32)
        state[f"conv{index}.weight_bits"] = np.array([8], np.float32)
    (folder / "n.yaml").write_text("\n".join(lines) + "\n")
    image = rng.integers(-128, 128, (64, 80, 80)).astype(np.int8)
    np.save(folder / "sample.npy", image)
    write_checkpoint(folder / "n.pth.tar", Checkpoint(state=state, arch="n", sample=image))


def write_wide_output(folder: Path) -> None:
    """A 1x1 layer whose output is as large as its input: both take half of all data memory, and half of the flash."""
    rng = np.random.default_rng(0)
    (folder / "n.yaml").write_text("arch: n\ndataset: none\nlayers:\n  - name: conv0\n    op: conv2d\n"
                                   "    kernel_size: 1x1\n    pad: 0\n    activate: ReLU\n")
    state = {"conv0.op.weight": rng.integers(-40, 40, (64, 64, 1, 1)).astype(np.float32),
             "conv0.output_shift": np.array([-5], np.float32), "conv0.weight_bits": np.array([8], np.float32)}
    image = rng.integers(-128, 128, (64, 64, 64)).astype(np.int8)
    np.save(folder / "sample.npy", image)
    write_checkpoint(folder / "n.pth.tar", Checkpoint(state=state, arch="n", sample=image))


def run(folder: Path, *options: str) -> int:
    return main([str(folder / "n.yaml"), str(folder / "n.pth.tar"), "-q", "--target", "max78000", "--overwrite",
                 "--debugwait", "0", "--out", str(folder / "out"), *options])


def report_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return content


def check_equal(content: dict[str, Any]) -> None:
    found = content["verification"]
    assert [found[witness] for witness in ("reference", "simulator", "firmware")] == ["equal"] * 3


@needs_compiler
@pytest.mark.parametrize("layers", [4, 3], ids=["tables alone", "with machine code"])
def test_a_sample_that_nobody_chose_is_made_smaller(tmp_path: Path, layers: int) -> None:
    """With four layers the tables alone exceed the flash; with three only the linker can tell."""
    write_network(tmp_path, layers)
    assert (SAMPLE_BYTES + layers * LAYER_BYTES > FLASH_BYTES[next(iter(FLASH_BYTES))]) == (layers == 4)
    assert run(tmp_path) == 0
    content = report_of(tmp_path / "out")
    check_equal(content)
    assert content["sample"] == ("first 64 words of stored in the checkpoint, repeated with "
                                 f"{SYNTHETIC_INCREMENT:#x} added")
    (message,) = (text for text in content["messages"] if "W0472" in text)
    assert f"does not fit the MAX78000's memory with the whole sample: verified with {SAMPLE_OPTIONS}" in message
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["options"]["max78000"]["synthetic_input"] == {"increment": SYNTHETIC_INCREMENT, "words": 64}
    assert (tmp_path / "out" / "max78000" / "sampledata.h").stat().st_size < 20_000


@needs_compiler
@pytest.mark.parametrize("layers", [4, 3], ids=["tables alone", "with machine code"])
def test_a_sample_that_was_chosen_is_refused_with_options_that_fit(
        tmp_path: Path, layers: int, capsys: pytest.CaptureFixture[str]) -> None:
    write_network(tmp_path, layers)
    given = ("--sample-input", str(tmp_path / "sample.npy"))
    assert run(tmp_path, *given) == 2
    assert not (tmp_path / "out").exists()
    (finding,) = report_of(tmp_path / "out-refused")["chips"][0]["refusal"]["findings"]
    assert finding["code"] == "E0424"
    assert f"sample {SAMPLE_BYTES:,} bytes" in finding["found"] and finding["help"] == f"write {SAMPLE_OPTIONS}"
    assert run(tmp_path, *given, *shlex.split(finding["help"].removeprefix("write "))) == 0
    content = report_of(tmp_path / "out")
    check_equal(content)
    assert "file sample.npy" in content["sample"]
    assert "W0472" not in capsys.readouterr().err


@needs_compiler
def test_a_synthesized_input_that_was_chosen_is_not_replaced(tmp_path: Path) -> None:
    write_network(tmp_path, 4)
    assert run(tmp_path, "--synthesize-input", "0x010203", "--synthesize-words", "6400") == 2
    (finding,) = report_of(tmp_path / "out-refused")["chips"][0]["refusal"]["findings"]
    assert (finding["code"], finding["help"]) == (
        "E0424", "write --synthesize-input 0x00010203 --synthesize-words 64")


@needs_compiler
def test_answer_and_output_buffer_are_made_smaller_before_the_sample(tmp_path: Path) -> None:
    write_wide_output(tmp_path)
    assert run(tmp_path) == 0
    content = report_of(tmp_path / "out")
    check_equal(content)
    assert content["sample"] == "stored in the checkpoint"
    (message,) = (text for text in content["messages"] if "W0472" in text)
    assert ("with the whole known answer and output buffer: verified with --max-verify-length 32768 --no-unload"
            in message)


@needs_compiler
def test_an_answer_length_that_was_chosen_is_refused_with_one_that_fits(tmp_path: Path) -> None:
    write_wide_output(tmp_path)
    assert run(tmp_path, "--max-verify-length", "65000") == 2
    (finding,) = report_of(tmp_path / "out-refused")["chips"][0]["refusal"]["findings"]
    assert (finding["code"], finding["help"]) == ("E0424", "write --max-verify-length 32768 --no-unload")
    assert run(tmp_path, *shlex.split(finding["help"].removeprefix("write "))) == 0
    check_equal(report_of(tmp_path / "out"))
