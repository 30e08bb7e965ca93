"""Symbol tables from anywhere: real ones pass, and what is none is refused before anybody relies on it."""

from __future__ import annotations

import copy
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from volatility3_kdump import isf_document
from volatility3_kdump.isf_document import parse, validate
from volatility3_kdump.layout import LayoutError, Layouts
from volatility3_kdump.shapes import ShapeError

GOOD: dict[str, Any] = {
    "metadata": {"format": "6.2.0"},
    "base_types": {"pointer": {"size": 8, "kind": "int"}, "long": {"size": 4, "signed": True, "kind": "int"}},
    "enums": {"_E": {"size": 4, "base": "long", "constants": {"One": 1}}},
    "user_types": {
        "_S": {
            "size": 16,
            "kind": "struct",
            "fields": {
                "p": {"offset": 0, "type": {"kind": "pointer", "subtype": {"kind": "struct", "name": "_S"}}},
                "b": {
                    "offset": 8,
                    "type": {
                        "kind": "bitfield",
                        "bit_position": 1,
                        "bit_length": 2,
                        "type": {"kind": "base", "name": "long"},
                    },
                },
                "a": {
                    "offset": 12,
                    "type": {"kind": "array", "count": 4, "subtype": {"kind": "base", "name": "long"}},
                },
            },
        }
    },
    "symbols": {"KeX": {"address": 4096}},
}


def test_real_tables_pass(isf_paths: list[Path]) -> None:
    for path in isf_paths[:3]:
        parse(lzma.open(path).read())


@pytest.mark.parametrize(
    "place, value, message",
    [
        (("base_types",), [], "base_types is not an object"),
        (("base_types", "long", "size"), 1 << 31, "size of base type long is not a number from 0 to 64"),
        (("enums",), [], "enums is not an object"),
        (("enums", "_E", "base"), None, "base of enumeration _E is not a text"),
        (("enums", "_E", "constants", "One"), "1", "constant that is not an integer"),
        (("user_types", "_S", "size"), -1, "size of type _S"),
        (("user_types", "_S", "fields", "p", "offset"), True, "offset of p in type _S"),
        (("user_types", "_S", "fields", "p", "type"), None, "type of p in type _S is not an object"),
        (("user_types", "_S", "fields", "p", "type", "kind"), "x", "is of no known kind"),
        (("user_types", "_S", "fields", "p", "type", "kind"), [], "is of no known kind"),
        (("user_types", "_S", "fields", "a", "type", "count"), 1e9, "is an array without a count"),
        (("symbols",), [], "symbols is not an object"),
        (("symbols", "KeX"), 5, "symbol KeX is not an object"),
        (("symbols", "KeX", "address"), "4096", "address of symbol KeX"),
        (("symbols", "KeX", "address"), float("inf"), "address of symbol KeX"),
        (("symbols", "KeX", "address"), 1 << 64, "address of symbol KeX"),
    ],
)
def test_what_is_wrong_is_named(place: tuple[str, ...], value: object, message: str) -> None:
    validate(GOOD)
    document = copy.deepcopy(GOOD)
    inner = document
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with pytest.raises(ShapeError, match=message):
        validate(document)


def test_names_are_escaped() -> None:
    with pytest.raises(ShapeError, match=r"symbol a\\x1b\[2J is not") as failure:
        validate({**GOOD, "symbols": {"a\x1b[2J": None}})
    assert str(failure.value).isprintable()


def test_what_would_take_too_much_memory_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ShapeError, match="values, more than"):
        parse(b"[" + b"[]," * (isf_document.MOST_VALUES // 2 + 1) + b"[]]")
    monkeypatch.setattr(isf_document, "MOST_BYTES", 10)
    with pytest.raises(ShapeError, match="more than 0 MiB"):
        parse(b" " * 11)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 5000])
def test_what_overwhelms_the_parser(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text.encode())


NESTED: dict[str, Any] = {"kind": "base", "name": "long"}
for _ in range(40):
    NESTED = {"kind": "pointer", "subtype": NESTED}


def test_types_are_not_nested_without_end() -> None:
    document = copy.deepcopy(GOOD)
    document["user_types"]["_S"]["fields"]["p"]["type"] = NESTED
    with pytest.raises(ShapeError, match="nested too deeply"):
        validate(document)


def test_hostile_tables(shared_data: Path) -> None:
    directory = shared_data / "hostile"
    paths = [*sorted((directory / "isf").glob("*.json.xz")), *directory.glob("isfbomb.json.xz")]
    if not paths:
        pytest.skip(f"no hostile tables in {directory}")
    for path in paths:
        with pytest.raises(LayoutError, match="not a readable ISF symbol table") as failure:
            Layouts.load(path)
        assert str(path) in str(failure.value) and str(failure.value).isprintable()


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=part(300), deadline=None)
@given(st.data())
def test_a_document_with_one_other_value_is_refused_or_usable(data: st.DataObject) -> None:
    document = copy.deepcopy(GOOD)
    inner: Any = document
    while True:
        key = data.draw(st.sampled_from(sorted(inner)))
        if not isinstance(inner[key], dict) or not inner[key] or data.draw(st.booleans()):
            break
        inner = inner[key]
    inner[key] = data.draw(VALUE)
    try:
        table = Layouts(parse(json.dumps(document).encode()))
    except ValueError:
        return
    for name in ("p", "b", "a"):
        try:
            table.find("_S", name)
            table.symbol("KeX")
            table.nearest(5000)
            table.enum("_E")
        except LayoutError:
            pass
