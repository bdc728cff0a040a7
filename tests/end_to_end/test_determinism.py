"""Equal inputs give byte-identical outputs, whoever runs the tool, where and when; outputs tell nothing of that.

Source: docs/design.md "Tests".
"""

import getpass
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ai8x.files import MANIFEST_NAME, folder_digests

from .digitsnet import NETWORK_FILE, ROOT


def run(folder: Path, network: str, checkpoint: str, out: str, **environment: str) -> None:
    """The script in a fresh interpreter."""
    done = subprocess.run([sys.executable, str(ROOT / "synthesize.py"), network, checkpoint, "--out", out, "-q"],
                          cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def outputs(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two output folders of the same inputs: other hash seed, folders, time zone, locale, user and time."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two") / "deeper"
    (two / "tmp").mkdir(parents=True)
    (one / "digits.yaml").write_bytes(NETWORK_FILE.read_bytes())
    (one / checkpoint.name).write_bytes(checkpoint.read_bytes())
    run(one, "digits.yaml", checkpoint.name, "out", PYTHONHASHSEED="1", TZ="UTC", LC_ALL="C")
    run(two, str(NETWORK_FILE), str(checkpoint), "./another/name", PYTHONHASHSEED="77", TZ="Asia/Tokyo",
        LC_ALL="C.UTF-8", USER="somebody", HOME=str(two), TMPDIR=str(two / "tmp"), MAXIM_PATH="/opt/MaximSDK",
        BOARD="FTHR_RevA")
    return one / "out", two / "another" / "name"


def test_outputs_are_byte_identical(outputs: tuple[Path, Path]) -> None:
    first, second = outputs
    assert folder_digests(first) == folder_digests(second)
    assert (first / MANIFEST_NAME).read_bytes() == (second / MANIFEST_NAME).read_bytes()


def test_both_targets_are_there(outputs: tuple[Path, Path]) -> None:
    files = folder_digests(outputs[0])
    assert {"trace.npz", "report.json", "report.html", "max78000/weights.h", "max78000/standalone/mxc.h",
            "k210/model.kmodel"} <= set(files)
    verification = json.loads((outputs[0] / "report.json").read_text())["verification"]
    assert {verification[witness] for witness in ("reference", "simulator", "kmodel")} == {"equal"}


def test_outputs_do_not_tell_who_made_them_where_and_when(outputs: tuple[Path, Path]) -> None:
    secrets = [str(ROOT), str(outputs[0].parent), str(outputs[1].parent), str(Path.home()), os.uname().nodename,
               "somebody", "/tmp/", "/usr/", sys.prefix]
    if len(getpass.getuser()) > 4:
        secrets.append(getpass.getuser())
    for path in (p for folder in outputs for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        found = [text for text in secrets if len(text) > 4 and text.encode() in content]
        assert not found, f"{path.name} holds {found}"
        times = re.findall(rb"\b20[2-9]\d-[01]\d-[0-3]\d\b|\b[0-2]\d:[0-5]\d:[0-5]\d\b", content)
        assert not times or path.suffix in {".npz", ".kmodel", ".bin"}, f"{path.name} holds {times}"


def test_the_manifest_names_inputs_by_content(outputs: tuple[Path, Path], checkpoint: Path) -> None:
    manifest = json.loads((outputs[0] / MANIFEST_NAME).read_text())
    assert set(manifest["inputs"]) == {"digits.yaml", checkpoint.name}
    assert manifest["tool"] == "ai8x"
    assert manifest["files"] == folder_digests(outputs[0])


def test_no_temporary_files_remain(outputs: tuple[Path, Path]) -> None:
    deeper = outputs[1].parents[1]
    assert not list((deeper / "tmp").iterdir())
    assert sorted(p.name for p in outputs[1].parent.iterdir()) == ["name"]
    assert sorted(p.name for p in outputs[0].parent.iterdir()) == sorted(["digits.yaml", "digits.pth.tar", "out"])
