"""``python -m ai8x.cli.kmodel``: packages from the command line."""

from pathlib import Path

import pytest

from ai8x.cli import kmodel
from ai8x.errors import ExitStatus
from ai8x.k210.kmodel import write_kmodel
from ai8x.k210.kmodel_info import swap_words
from ai8x.k210.package import read_package
from tests.k210.runner_projects import small_model

MODEL = write_kmodel(small_model())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.kmodel").write_bytes(MODEL)
    (tmp_path / "two.kmodel").write_bytes(MODEL)
    (tmp_path / "maixpy.bin").write_bytes(b"firmware")
    return tmp_path


def test_models_and_firmware_are_packed_and_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["pack", "one.kmodel", "two.kmodel", "--firmware", "maixpy.bin", "-o", "all.kfpkg"]
    assert kmodel.main(arguments) == ExitStatus.SUCCESS
    assert "one.kmodel: runs on bare-metal SDK, MaixPy" in capsys.readouterr().out
    files = read_package((folder / "all.kfpkg").read_bytes())
    assert [(file.name, file.address, file.sha256_prefix) for file in files] == [
        ("maixpy.bin", 0, True), ("one.kmodel", 0x300000, False), ("two.kmodel", 0x301000, False)]
    assert [file.data for file in files] == [b"firmware", MODEL, MODEL]
    capsys.readouterr()
    assert kmodel.main(["list", "all.kfpkg"]) == ExitStatus.SUCCESS
    assert capsys.readouterr().out.splitlines()[1].startswith("0x00300000")


def test_address_may_be_given_and_words_swapped(folder: Path) -> None:
    assert kmodel.main(["pack", "one.kmodel@0xA00000", "-o", "x.kfpkg", "--load-flash"]) == ExitStatus.SUCCESS
    (file,) = read_package((folder / "x.kfpkg").read_bytes())
    assert (file.address, file.data) == (0xA00000, swap_words(MODEL))


@pytest.mark.parametrize(("model", "code"), [
    ("one.kmodel@0x300001", "E0741"), ("one.kmodel@x", "E0745"), ("none.kmodel", "E0744"), ("maixpy.bin", "E0740")])
def test_what_cannot_be_packed_is_refused(folder: Path, model: str, code: str,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    assert kmodel.main(["pack", model, "-o", "x.kfpkg"]) == ExitStatus.USER
    assert f"error[{code}]" in capsys.readouterr().err
    assert not (folder / "x.kfpkg").exists()


def test_flash_size_is_respected(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kmodel.main(["pack", "one.kmodel", "-o", "x.kfpkg", "--flash-size", "0x300000"]) == ExitStatus.USER
    assert "E0741" in capsys.readouterr().err
