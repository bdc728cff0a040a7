"""Firmware is built once for all tests that use the same source."""

from pathlib import Path

import pytest

from ai8x.toolchain import build_project, missing_tools

from .firmware import Build


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Builds a C file with our board support; gives the ELF file."""
    if missing := missing_tools():
        pytest.skip(missing)
    pytest.importorskip("unicorn")
    built: dict[str, Path] = {}

    def build_source(source: str) -> Path:
        if source not in built:
            folder = tmp_path_factory.mktemp("firmware")
            (folder / "main.c").write_text(source)
            built[source] = build_project(folder)
        return built[source]

    return build_source
