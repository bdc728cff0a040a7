"""Text from files in generated sources: harmless whatever it was."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from ai8x.ctext import MAX_IDENTIFIER, MAX_TEXT, c_identifier, comment_text


@given(st.text(max_size=200))
@example("")
@example("7up")
def test_identifiers_are_names_of_c(text: str) -> None:
    assert re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", c_identifier(text))
    assert len(c_identifier(text)) <= MAX_IDENTIFIER + 1


@given(st.text(max_size=200))
@example('*/ " \\ ??/ \n # $(x) `y` é')
def test_texts_cannot_end_a_comment_or_a_string(text: str) -> None:
    found = comment_text(text)
    assert found.isascii() and found.isprintable() and len(found) <= MAX_TEXT
    assert not set(found) & set("*/\"\\?#$`'<>{};&|!")


def test_harmless_text_stays_as_it_is() -> None:
    assert c_identifier("kws20_v3") == "kws20_v3" and comment_text("digit 3 (a+b=[c])") == "digit 3 (a+b=[c])"
