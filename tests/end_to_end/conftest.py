"""The digitsnet project is generated once for all tests."""

from pathlib import Path

import pytest

from ai8x.max7800x.codegen import CodegenOptions, write_project
from ai8x.toolchain import missing_tools

from .digitsnet import write_digitsnet
from .firmware import Subject, lower


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a plausible digitsnet, with its sample."""
    return write_digitsnet(tmp_path_factory.mktemp("checkpoint") / "digits.pth.tar")


@pytest.fixture(scope="session")
def digitsnet(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Network, plan, program and C project of digitsnet."""
    folder = tmp_path_factory.mktemp("digitsnet")
    subject = lower(checkpoint, folder / "max78000")
    write_project(subject.program, subject.network, subject.folder, CodegenOptions())
    return subject


@pytest.fixture(scope="session")
def cross_compiler() -> None:
    """Skips a test where firmware cannot be built and run."""
    if missing := missing_tools():
        pytest.skip(missing)
    pytest.importorskip("unicorn")
    pytest.importorskip("elftools")
