"""Shapes of documents: what fits passes, and what does not is named with its place."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility3_kdump.shapes import Array, Maybe, Members, Range, ShapeError, Without, check

SHAPE = {
    "name": str,
    "size": Maybe(Range(0, 100)),
    "tags": Array(str),
    "by_name": Members({"address": (int, str)}),
    "more": Without({"a": bool}, {"b": float}),
}
GOOD = {
    "name": "x",
    "size": None,
    "tags": ["a", "b"],
    "by_name": {"one": {"address": 1}, "two": {"address": "0x2"}},
    "more": {"a": True, "b": 1.5, "unknown": []},
    "unknown": 1,
}


def test_what_fits_passes() -> None:
    check(GOOD, SHAPE)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"name": 1}, r"document\.name is not a text"),
        ({"size": 101}, r"document\.size is 101, not from 0 to 100"),
        ({"size": True}, r"document\.size is not an integer"),
        ({"size": 1.0}, r"document\.size is not an integer"),
        ({"tags": ["a", None]}, r"document\.tags\[1\] is not a text"),
        ({"tags": {}}, r"document\.tags is not an array"),
        ({"by_name": {"one": {"address": None}}}, r"document\.by_name\.one\.address is not an integer or a text"),
        ({"by_name": {"one": {}}}, r"document\.by_name\.one has no address"),
        ({"more": {"a": 1}}, r"document\.more\.a is not true or false"),
        ({"more": {"a": True, "b": float("inf")}}, r"document\.more\.b is not a number"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        check({**GOOD, **change}, SHAPE)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "a", "b"]), inner, max_size=4),
    max_leaves=8,
)


@given(VALUES)
def test_nothing_but_a_shape_error_is_raised(value: object) -> None:
    try:
        check(value, SHAPE)
    except ShapeError as error:
        assert str(error)
    else:
        json.dumps(value)
