"""YAML settings as plain values with places."""

import pytest

from ai8x.errors import UserError
from ai8x.training.settings_file import read_settings


def test_scalars_follow_the_strict_rule(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 10\nb: 1e3\nc: true\nd: no\ne: '7'\nf: null\ng: 010\nh: 1:30\ni: -.5\nj: x y\nk:\n")
    assert read_settings(path).values == {"a": 10, "b": 1000.0, "c": True, "d": "no", "e": "7", "f": None, "g": "010",
                                          "h": "1:30", "i": -0.5, "j": "x y", "k": None}


def test_places_are_those_of_the_values(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a:\n  b: [1, 2]\n")
    settings = read_settings(path)
    assert settings.values == {"a": {"b": [1, 2]}}
    assert (settings.place("a", "b", 1).line, settings.place("a", "b", 1).column) == (2, 10)
    assert settings.place("a", "missing").line == settings.place("a").line


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError) as error:
        read_settings(tmp_path / "none.yaml")
    assert error.value.diagnostics[0].code == "E0101"
