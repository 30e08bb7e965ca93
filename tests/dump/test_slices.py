"""The note of a slice, which is input of strangers like all of a dump."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.dump.slices import SliceNote, parse_note

NOTE = SliceNote("MEMORY.DMP", ("!analyze -v", "lm"), 12, 345, ("paths",), "kdump 0.2.0")


def test_what_is_written_is_read() -> None:
    assert parse_note(NOTE.packed()) == NOTE


@pytest.mark.parametrize("key", ["of", "commands", "pages", "pages_of_original", "scrubbed", "writer"])
def test_a_note_that_lacks_something_is_none(key: str) -> None:
    document = json.loads(NOTE.packed())
    del document[key]
    assert parse_note(json.dumps(document).encode()) is None
    assert parse_note(json.dumps({**json.loads(NOTE.packed()), key: -1.5}).encode()) is None


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    assert parse_note(data) is None


def test_deep_nesting_is_none() -> None:
    assert parse_note(b"[" * 100_000) is None
