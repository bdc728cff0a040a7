"""Hostile network files: refused with the expected code and a complete message, within a moment, without side effects.

The files lie in ``yaml``, their codes in ``yaml/expected.json``; large ones are made here.
"""

import json
import time
from pathlib import Path

import pytest

from ai8x.errors import UserError
from ai8x.network.yaml_file import parse_network_file, read_network_file
from ai8x.network.yaml_nodes import MAX_BYTES
from tests.mutation.judge import MOST_SECONDS, missing_parts

FOLDER = Path(__file__).parent / "yaml"
EXPECTED: dict[str, str] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
HEAD = "arch: a\ndataset: d\nlayers:\n"

LARGE = {
    "one byte more than is read": (b"#" * (MAX_BYTES + 1), "E0101"),
    "nothing but brackets": (b"[" * 100_000, "E0108"),
    "nothing but braces": (b"{" * 100_000, "E0108"),
    "block of 5000 levels": ("".join(" " * i + "a:\n" for i in range(1000)).encode(), "E0108"),
    "integer of 5000 digits": (f"{HEAD}- {{op: conv2d, pad: {'9' * 5000}}}\n".encode(), "E0109"),
    "name of 10000 characters": (f"{HEAD}- {{op: conv2d, name: {'a' * 10_000}}}\n".encode(), "E0109"),
    "key of 10000 characters": (f"{HEAD}- {{{'a' * 10_000}: 1}}\n".encode(), "E0109"),
    "10000 layers": ((HEAD + "- {op: none}\n" * 10_000).encode(), "E0107"),
    "30000 values in a list": (f"arch: [{'1, ' * 30_000}]\n".encode(), "E0107"),
    "30000 keys": ("".join(f"a{i}: 1\n" for i in range(30_000)).encode(), "E0107"),
    "a line of a million characters": (b"arch: " + b"a" * (MAX_BYTES - 100), "E0109"),
    "10000 unclosed quotes": (b"arch: '" + b"''" * 10_000, "E0104"),
}
KEYS_SHOWN = 1000
"""A message must not grow with the file."""


def check(content: bytes, path: Path, code: str) -> None:
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(UserError) as caught:
        read_network_file(path)
    assert time.process_time() - start < MOST_SECONDS
    codes = {item.code for item in caught.value.diagnostics}
    assert codes == {code}
    for item in caught.value.diagnostics:
        missing = set(missing_parts(item)) - ({"line", "column"} if code == "E0101" else set())
        assert not missing, item.format()
        text = item.format()
        assert len(text) < 2 * KEYS_SHOWN and all(line.isprintable() for line in text.split("\n"))
    assert sorted(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", EXPECTED)
def test_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    check((FOLDER / f"{name}.yaml").read_bytes(), tmp_path / "net.yaml", EXPECTED[name])


@pytest.mark.parametrize("name", LARGE)
def test_large_file_is_refused(name: str, tmp_path: Path) -> None:
    check(*(LARGE[name][0], tmp_path / "net.yaml", LARGE[name][1]))


def test_every_file_of_the_corpus_is_expected() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(EXPECTED)
    assert len(EXPECTED) > 70


def test_a_byte_order_mark_is_no_damage() -> None:
    assert parse_network_file(b"\xef\xbb\xbf" + HEAD.encode() + b"- {op: conv2d}\n").arch == "a"
