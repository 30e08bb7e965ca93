"""Names from a dump must not reach a terminal as control sequences."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.escape import printable, show_every_character


@given(st.text())
def test_no_control_or_format_character_survives(text):
    shown = printable(text)
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in shown)


@given(st.text())
def test_every_other_character_is_left_as_it_is(text):
    unsafe = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    kept = [character for character in text if unicodedata.category(character) not in unsafe]
    shown = "".join(printable(character) for character in text)
    assert shown == printable(text)
    assert [character for character in text if printable(character) == character] == kept


def test_ordinary_text_is_unchanged():
    for text in ("\\SystemRoot\\system32\\drivers\\myfault.sys", "größe.sys", "ドライバ.sys"):
        assert printable(text) == text


def test_escapes():
    assert printable("a\x1b[31mb") == "a\\x1b[31mb"
    assert printable("exe\u202egnp.sys") == "exe\\u202egnp.sys"
    assert printable("line\nbreak") == "line\\x0abreak"


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_characters_that_a_terminal_lacks_are_escapes(errors: str) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, "ascii", errors)
    show_every_character(stream)
    stream.write("größe.sys ドライバ")
    stream.flush()
    assert written.getvalue() == rb"gr\xf6\xdfe.sys \u30c9\u30e9\u30a4\u30d0"
