"""Hostile and broken YAML is refused within limits, with the place and a remedy."""

import pytest

from ai8x.errors import UserError
from ai8x.network.yaml_file import parse_network_file, read_network_file
from ai8x.network.yaml_nodes import ListNode, MapNode, ScalarNode, describe_node, parse_nodes, show_text

BOMB = "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True))

HOSTILE = {
    "alias bomb": (BOMB, "E0105", 1, 4),
    "alias": ("a: 1\nb: *a\n", "E0105", 2, 4),
    "merge": ("a:\n  <<: {b: 1}\n", "E0105", 2, 3),
    "python object": ("a: !!python/object/apply:os.system ['true']\n", "E0106", 1, 4),
    "local tag": ("a: !x 1\n", "E0106", 1, 4),
    "cyclic alias": ("a: &a [*a]\n", "E0105", 1, 4),
    "tag on a list": ("a: !!set {b}\n", "E0106", 1, 4),
    "two documents": ("a: 1\n---\nb: 2\n", "E0111", 2, 1),
    "deep flow": ("a: " + "[" * 100_000, "E0108", 1, 19),
    "deep block": ("".join(f"{' ' * i}a:\n" for i in range(40)), "E0108", 17, 17),
    "too many nodes": ("a: [" + "1, " * 30_000 + "]", "E0107", 1, None),
    "long scalar": ("a: " + "1" * 5_000, "E0109", 1, 4),
    "tab": ("a:\n\tb: 1\n", "E0104", 2, 1),
    "NUL": ("a: 1\nb: \0\n", "E0104", 2, 1),
    "escape beyond Unicode": ('a: "\\UFFFFFFFF"\n', "E0104", 1, 2),
    "directive number": ("%YAML " + "9" * 5_000 + ".1\n---\na: 1\n", "E0104", 1, 1),
    "unclosed bracket": ("a: [1, 2\nb: 3\n", "E0104", 2, 2),
    "unclosed quote": ('a: "b\n', "E0104", 2, 1),
    "bad indentation": ("a:\n  b: 1\n c: 2\n", "E0104", 3, 2),
    "empty": ("", "E0110", 1, 1),
    "comment only": ("# nothing\n", "E0110", 1, 1),
    "list at the top": ("- 1\n", "E0204", 1, 1),
    "text at the top": ("hello\n", "E0204", 1, 1),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_at_its_place(name):
    text, code, line, column = HOSTILE[name]
    with pytest.raises(UserError) as caught:
        parse_network_file(text, "net.yaml")
    (finding,) = caught.value.diagnostics
    assert finding.code == code
    assert finding.source.line == line
    assert column is None or finding.source.column == column
    assert finding.found and finding.allowed and finding.help
    assert finding.format().isascii() or "│" in finding.format()


@pytest.mark.parametrize(("text", "line", "found", "help_text"), [
    ("layers:\n\t- op: x\n", 2, "a tab", "replace the tab"),
    ("layers:\n- name: a\n  op conv\n  pad: 1\n", 3, "neither a key with a colon", "a blank behind the colon"),
    ("layers:\n  - op: a\n   - op: b\n", 3, "an entry that is not below", "indent this '-'"),
    ("layers:\n - op: a\n- op: b\n", 3, "an entry that is not below", "indent this '-'"),
    ("- op: a\n pad: 1\n", 2, "a key that is not below", "indent this line"),
    ("layers:\n  - op: a\n  -pad: 1\n", 3, "a key where an entry", "with a blank"),
    ("a: b: c\n", 1, "a second colon", "into quotes"),
    ("a: [1, 2\nb: 3\n", 2, "a bracket or brace", "close the list with ]"),
    ("a: 'b\n", 2, "a quote that is not closed", "the missing quote"),
    ("a: @b\n", 1, "found character '@'", "check indentation"),
])
def test_broken_yaml_is_explained_in_words_of_the_user(text, line, found, help_text):
    with pytest.raises(UserError) as caught:
        parse_network_file(text, "net.yaml")
    (finding,) = caught.value.diagnostics
    assert (finding.code, finding.source.line) == ("E0104", line)
    assert found in finding.found and help_text in finding.help


@pytest.mark.parametrize(("content", "line"), [
    (b"a: 1\nb: \xff\n", 2), ("a: 1\n".encode("utf-16"), 1), (b"\xc3\x28", 1), (b"a: \xed\xa0\x80", 1),
])
def test_other_encodings_are_refused(content, line):
    with pytest.raises(UserError) as caught:
        parse_network_file(content)
    (finding,) = caught.value.diagnostics
    assert (finding.code, finding.source.line) == ("E0103", line)


def test_byte_order_mark_and_windows_line_ends_are_read():
    file = parse_network_file(b"\xef\xbb\xbfarch: a\r\ndataset: b\r\nlayers:\r\n- op: conv2d\r\n")
    assert (file.arch, file.layers[0].source.line) == ("a", 4)


def test_file_size_is_limited_before_reading(tmp_path):
    path = tmp_path / "big.yaml"
    path.write_bytes(b"#" * 1_000_001)
    with pytest.raises(UserError) as caught:
        read_network_file(path)
    assert caught.value.diagnostics[0].found == "1000001 bytes"
    path.write_bytes(b"#" * 1_000_000)
    with pytest.raises(UserError, match="E0110"):
        read_network_file(path)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_unreadable_path_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="E0101"):
        read_network_file(tmp_path / name)


def test_places_count_from_one_and_cover_the_value():
    root = parse_nodes("first: 0x10\nsecond: [a, 'bc']\n", "f.yaml")
    assert isinstance(root, MapNode)
    value = root.entries[0][1]
    assert isinstance(value, ScalarNode)
    assert (value.source.line, value.source.column, value.source.length) == (1, 8, 4)
    assert value.source.text == "first: 0x10"
    items = root.entries[1][1]
    assert isinstance(items, ListNode)
    assert [(i.text, i.plain, i.source.column) for i in items.items] == [("a", True, 10), ("bc", False, 13)]


def test_unprintable_text_is_escaped_in_messages():
    assert show_text("a\x1b[31m\n\ud800\u202e") == "a\\x1b[31m\\n\\ud800\\u202e"
    assert len(show_text("x" * 500)) == 60
    with pytest.raises(UserError) as caught:
        parse_network_file('arch: "\\e[31m"\ndataset: d\nlayers: [{op: conv2d}]\n')
    assert "\x1b" not in caught.value.diagnostics[0].format()


def test_nodes_are_described_in_few_words():
    root = parse_nodes("{a: [1, 2], b: [[1]], c: '', d: [1,1,1,1,1,1,1,1,1]}", "f")
    assert [describe_node(value) for _, value in root.entries] == ["[1, 2]", "a list of 1 entries", "nothing",
                                                                   "a list of 9 entries"]
    assert describe_node(root) == "a mapping of 4 keys"


def test_a_checkpoint_in_the_place_of_the_network_file_is_recognised():
    with pytest.raises(UserError) as error:
        parse_network_file(b"PK\x03\x04\x00\x00\x08\x08\x80", "q.pth.tar")
    assert error.value.diagnostics[0].help == "give a YAML file here, the checkpoint behind it"
