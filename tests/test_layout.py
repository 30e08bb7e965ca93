"""Struct readers compiled from ISF documents, against ``struct`` by hand."""

from __future__ import annotations

import contextlib
import json
import lzma
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.amounts import part
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.layout import LayoutError, Layouts

BASE_TYPES: dict[str, Any] = {
    "pointer": {"size": 8, "signed": False, "kind": "int", "endian": "little"},
    "unsigned char": {"size": 1, "signed": False, "kind": "char", "endian": "little"},
    "char": {"size": 1, "signed": True, "kind": "char", "endian": "little"},
    "unsigned short": {"size": 2, "signed": False, "kind": "int", "endian": "little"},
    "short": {"size": 2, "signed": True, "kind": "int", "endian": "little"},
    "unsigned long": {"size": 4, "signed": False, "kind": "int", "endian": "little"},
    "long": {"size": 4, "signed": True, "kind": "int", "endian": "little"},
    "unsigned long long": {"size": 8, "signed": False, "kind": "int", "endian": "little"},
    "long long": {"size": 8, "signed": True, "kind": "int", "endian": "little"},
    "float": {"size": 4, "signed": True, "kind": "float", "endian": "little"},
    "double": {"size": 8, "signed": True, "kind": "float", "endian": "little"},
    "void": {"size": 0, "signed": False, "kind": "void", "endian": "little"},
}
#: struct code of each base type; 8-bit values of kind char read as unsigned bytes.
CODES = {
    "pointer": "Q",
    "unsigned char": "B",
    "char": "B",
    "unsigned short": "H",
    "short": "h",
    "unsigned long": "I",
    "long": "i",
    "unsigned long long": "Q",
    "long long": "q",
    "float": "f",
    "double": "d",
}


def document(**types: Any) -> dict[str, Any]:
    return {"metadata": {}, "base_types": BASE_TYPES, "user_types": types, "enums": {}, "symbols": {}}


def base(name: str) -> dict[str, Any]:
    return {"kind": "base", "name": name}


def member(offset: int, type_: dict[str, Any]) -> dict[str, Any]:
    return {"offset": offset, "type": type_}


def structure(size: int, **fields: dict[str, Any]) -> dict[str, Any]:
    return {"size": size, "kind": "struct", "fields": fields}


def same(left: object, right: object) -> bool:
    return left == right or (left != left and right != right)


@st.composite
def structures(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, tuple[int, str]]]:
    """A structure of scalars with gaps between them, and where each lies."""
    fields: dict[str, Any] = {}
    expected: dict[str, tuple[int, str]] = {}
    position = 0
    for number in range(draw(st.integers(1, 12))):
        position += draw(st.integers(0, 9))
        name = draw(st.sampled_from(sorted(CODES)))
        kind = {"kind": "pointer", "subtype": base("void")} if name == "pointer" else base(name)
        fields[f"f{number}"] = member(position, kind)
        expected[f"f{number}"] = (position, CODES[name])
        position += struct.calcsize("<" + CODES[name])
    return structure(position + draw(st.integers(0, 8)), **fields), expected


@settings(max_examples=part(100), deadline=None)
@given(structures(), st.data())
def test_scalars_read_as_struct_reads_them(
    made: tuple[dict[str, Any], dict[str, tuple[int, str]]], data: st.DataObject
) -> None:
    layout, expected = made
    names = data.draw(st.permutations(sorted(expected)))
    names = names[: data.draw(st.integers(1, len(names)))]
    layouts = Layouts(document(_TYPE=layout))
    reader = layouts.reader("_TYPE", **{f"my_{name}": name for name in names})
    assert reader.size == max(expected[name][0] + struct.calcsize("<" + expected[name][1]) for name in names)
    start = data.draw(st.integers(0, 5))
    block = data.draw(st.binary(min_size=start + reader.size, max_size=start + reader.size + 3))
    row = reader.unpack(block, start)
    for name in names:
        offset, code = expected[name]
        assert same(getattr(row, f"my_{name}"), struct.unpack_from("<" + code, block, start + offset)[0])
    with pytest.raises(struct.error):
        reader.unpack(block[: start + reader.size - 1], start)


@settings(max_examples=part(100), deadline=None)
@given(st.data())
def test_bit_fields(data: st.DataObject) -> None:
    storage = data.draw(st.sampled_from(["unsigned char", "unsigned short", "unsigned long", "unsigned long long"]))
    size = int(BASE_TYPES[storage]["size"])
    fields: dict[str, Any] = {}
    layout: dict[str, tuple[int, int]] = {}
    bit = 0
    while bit < 8 * size and len(layout) < 10:
        length = data.draw(st.integers(1, 8 * size - bit))
        fields[f"b{bit}"] = member(
            4, {"kind": "bitfield", "bit_position": bit, "bit_length": length, "type": base(storage)}
        )
        layout[f"b{bit}"] = (bit, length)
        bit += length
    layouts = Layouts(document(_BITS=structure(16, **fields)))
    block = data.draw(st.binary(min_size=16, max_size=16))
    row = layouts.reader("_BITS", **{name: name for name in layout}).unpack(block)
    value = int.from_bytes(block[4 : 4 + size], "little")
    for name, (position, length) in layout.items():
        assert getattr(row, name) == value >> position & (1 << length) - 1


@settings(max_examples=part(100), deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.data())
def test_paths_add_up_the_offsets_of_embedded_structures(offsets: list[int], data: st.DataObject) -> None:
    inner = structure(
        8, value=member(3, base("unsigned long")), raw=member(0, {"kind": "array", "count": 3, "subtype": base("char")})
    )
    types = {"_T0": inner}
    for depth, offset in enumerate(offsets, 1):
        types[f"_T{depth}"] = structure(
            offset + 64 * depth, part=member(offset, {"kind": "struct", "name": f"_T{depth - 1}"})
        )
    layouts = Layouts(document(**types))
    outer = f"_T{len(offsets)}"
    path = ".".join(["part"] * len(offsets))
    assert layouts.offset(outer, f"{path}.value") == sum(offsets) + 3
    block = data.draw(st.binary(min_size=sum(offsets) + 8, max_size=sum(offsets) + 8))
    row = layouts.reader(outer, value=f"{path}.value", raw=f"{path}.raw").unpack(block)
    assert row.value == struct.unpack_from("<I", block, sum(offsets) + 3)[0]
    assert row.raw == block[sum(offsets) : sum(offsets) + 3]


def test_alternatives_and_absent_fields() -> None:
    layouts = Layouts(document(_T=structure(16, old=member(0, base("long")), other=member(8, base("short")))))
    reader = layouts.reader(
        "_T", value=("new", "old"), absent="nothing", both=("x", "y"), deep="old.inner", last="other"
    )
    row = reader.unpack(struct.pack("<iIh", -5, 0, -7))
    assert (row.value, row.absent, row.both, row.deep, row.last) == (-5, None, None, None, -7)
    assert layouts.find("_T", ("new", "nothing")) is None
    assert layouts.has("_T", ("new", "old")) and not layouts.has("_T", "new") and not layouts.has("_UNKNOWN", "old")
    with pytest.raises(LayoutError, match="_T has no field new"):
        layouts.field("_T", "new")


def test_a_reader_of_nothing() -> None:
    reader = Layouts(document(_T=structure(4))).reader("_T", absent="nothing")
    assert reader.size == 0 and reader.unpack(b"").absent is None


def test_arrays_and_structures_read_as_bytes_and_are_never_short() -> None:
    layouts = Layouts(
        document(
            _IN=structure(6, a=member(0, base("short"))),
            _T=structure(
                20,
                head=member(0, base("unsigned long")),
                raw=member(4, {"kind": "array", "count": 3, "subtype": base("unsigned short")}),
                part=member(12, {"kind": "struct", "name": "_IN"}),
            ),
        )
    )
    reader = layouts.reader("_T", head="head", raw="raw", part="part")
    block = bytes(range(20))
    row = reader.unpack(block)
    assert (row.head, row.raw, row.part) == (0x03020100, block[4:10], block[12:18])
    field = layouts.field("_T", "raw")
    assert (field.count, field.size, field.type_name) == (3, 6, "unsigned short")
    for size in (0, 4, 17):
        with pytest.raises(struct.error):
            reader.unpack(block[:size])
    assert reader.unpack(memoryview(block)).raw == block[4:10]
    assert isinstance(reader.unpack(bytearray(block)).part, bytes)


def test_names_that_no_python_class_can_have() -> None:
    for name in ("<unnamed-tag>", "std::pair<int,int>", "__unnamed_12", "1st", "class", "___"):
        layouts = Layouts(document(**{name: structure(4, value=member(0, base("long")))}))
        assert layouts.reader(name, value="value").unpack(b"\1\0\0\0").value == 1


def test_members_of_a_union_need_two_readers() -> None:
    layouts = Layouts(document(_U=structure(8, low=member(0, base("long")), whole=member(0, base("long long")))))
    with pytest.raises(LayoutError, match="overlap at offset 0x0"):
        layouts.reader("_U", low="low", whole="whole")
    twice = layouts.reader("_U", one="low", two="low").unpack(bytes(8))
    assert (twice.one, twice.two) == (0, 0)


def test_enumerations() -> None:
    made = document(_T=structure(8, state=member(4, {"kind": "enum", "name": "_STATE"})))
    made["enums"] = {"_STATE": {"size": 1, "base": "unsigned long", "constants": {"Ready": 1, "Gone": 5}}}
    layouts = Layouts(made)
    assert layouts.reader("_T", state="state").unpack(b"\0\0\0\0\5\xff\xff\xff").state == 5
    assert layouts.enum("_STATE") == {1: "Ready", 5: "Gone"} and layouts.enum("_NONE") == {}
    assert (layouts.size_of("_STATE"), layouts.size_of("_T"), layouts.size_of("long")) == (1, 8, 4)
    with pytest.raises(LayoutError, match="no type _NONE"):
        layouts.size_of("_NONE")


def test_symbols() -> None:
    made = document()
    made["symbols"] = {
        "b": {"address": 0x200},
        "a": {"address": 0x100},
        "twin": {"address": 0x200},
        "nothing": {"address": 0},
    }
    layouts = Layouts(made)
    assert (layouts.symbol("a"), layouts.symbol("none")) == (0x100, None)
    assert layouts.nearest(0xFF) is None
    assert layouts.nearest(0x100) == ("a", 0) and layouts.nearest(0x1FF) == ("a", 0xFF)
    # Of several names for one address, always the same one.
    assert layouts.nearest(0x234) == ("b", 0x34)
    assert sorted(layouts.symbol_names()) == ["a", "b", "nothing", "twin"]


@settings(max_examples=part(60), deadline=None)
@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=4), st.integers(1, 500), min_size=1), st.integers(0, 600))
def test_the_nearest_symbol(symbols: dict[str, int], offset: int) -> None:
    made = document()
    made["symbols"] = {name: {"address": address} for name, address in symbols.items()}
    below = [(address, name) for name, address in symbols.items() if address <= offset]
    found = Layouts(made).nearest(offset)
    if not below:
        assert found is None
    else:
        highest = max(address for address, _ in below)
        assert found == (min(name for address, name in below if address == highest), offset - highest)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b"null",
        b"{}",
        b'{"base_types": {}}',
        b'{"base_types": 5, "user_types": {}}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"base_types": {"pointer": {}}, "user_types": {}}',
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".json.xz"])
def test_files_that_are_no_symbol_table(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_bytes(lzma.compress(content) if suffix.endswith("xz") else content)
    with pytest.raises(LayoutError, match="not a readable ISF symbol table") as failure:
        Layouts.load(path)
    assert str(path) in str(failure.value) and "\n" not in str(failure.value)


def test_damaged_compression_and_absent_files(tmp_path: Path) -> None:
    whole = lzma.compress(json.dumps(document()).encode())
    path = tmp_path / "table.json.xz"
    for content in (whole[:-9], b"not xz at all", whole[:20] + b"\0\0\0\0" + whole[24:]):
        path.write_bytes(content)
        with pytest.raises(LayoutError):
            Layouts.load(path)
    for absent in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(LayoutError):
            Layouts.load(absent)


DAMAGED: list[Any] = [
    {"kind": "base", "name": "no such type"},
    {"kind": "enum", "name": "no such enum"},
    {"kind": "struct", "name": "_NO_SUCH"},
    {"kind": "struct"},
    {"kind": "array", "count": -3, "subtype": {"kind": "base", "name": "long"}},
    {"kind": "array", "count": "many", "subtype": {"kind": "base", "name": "long"}},
    {"kind": "array"},
    {"kind": "bitfield", "bit_position": 0, "bit_length": 3, "type": {"kind": "struct", "name": "_T"}},
    {"kind": "bitfield", "bit_length": 3, "type": {"kind": "base", "name": "long"}},
    {},
    None,
    7,
]


@pytest.mark.parametrize("type_", DAMAGED)
def test_damaged_members_are_named_and_spoil_nothing_else(type_: Any) -> None:
    layouts = Layouts(document(_T=structure(24, good=member(0, base("long")), bad=member(8, type_))), "table.json")
    with pytest.raises(LayoutError, match=r"table\.json: _T is damaged at bad"):
        layouts.find("_T", "bad")
    assert layouts.reader("_T", good="good").unpack(bytes(4)).good == 0


@pytest.mark.parametrize("offset", [-4, "x", None, 1 << 70])
def test_damaged_offsets(offset: Any) -> None:
    layouts = Layouts(document(_T=structure(24, bad=member(offset, base("long")))))
    with pytest.raises(LayoutError):
        layouts.reader("_T", bad="bad")


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 1 << 40), st.text(max_size=4)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)


@settings(max_examples=part(100), deadline=None)
@given(st.data())
def test_a_document_with_any_value_replaced_raises_only_our_errors(data: st.DataObject) -> None:
    made = json.loads(
        json.dumps(
            {
                **document(
                    _IN=structure(8, a=member(2, base("long"))),
                    _T=structure(
                        32,
                        part=member(4, {"kind": "struct", "name": "_IN"}),
                        array=member(12, {"kind": "array", "count": 2, "subtype": base("short")}),
                        link=member(16, {"kind": "pointer", "subtype": base("void")}),
                        flag=member(24, {"kind": "bitfield", "bit_position": 1, "bit_length": 2, "type": base("long")}),
                    ),
                ),
                "symbols": {"one": {"address": 16}},
            }
        )
    )
    where: Any = made
    for _ in range(data.draw(st.integers(1, 6))):
        keys = list(where) if isinstance(where, dict) else list(range(len(where))) if isinstance(where, list) else []
        if not keys:
            break
        parent, key = where, data.draw(st.sampled_from(keys))
        where = where[key]
    parent[key] = data.draw(json_values)
    try:
        layouts = Layouts(made)
    except (KeyError, TypeError, AttributeError, ValueError):
        return
    with contextlib.suppress(KdumpError, struct.error):
        layouts.reader("_T", a="part.a", array="array", link="link", flag="flag").unpack(bytes(64))


def test_a_structure_without_members_has_none() -> None:
    table = Layouts({"base_types": {}, "user_types": {"_EMPTY": {"kind": "struct", "size": 0}}})
    assert table.field_names("_EMPTY") == []
    assert table.find("_EMPTY", "Field") is None
