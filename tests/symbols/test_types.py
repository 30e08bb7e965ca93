from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from volatility3_kdump.layout import Layouts
from volatility3_kdump.symbols.isf import load_table_file
from volatility3_kdump.symbols.pdb.names import PdbFile
from volatility3_kdump.symbols.pdb.types import document_of
from volatility3_kdump.symbols.types import TypeTable

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> TypeTable:
    """The types of ``data/kernel_like.c``, from its PDB."""
    path = tmp_path_factory.mktemp("pdb") / "kernel_like.pdb"
    path.write_bytes(lzma.decompress((DATA / "kernel_like.pdb.xz").read_bytes()))
    with PdbFile(path) as opened:
        return TypeTable(Layouts(document_of(opened, path.name), str(path)))


def test_members_in_the_order_of_the_declaration(table: TypeTable) -> None:
    found = table.describe("_KTHREAD_LIKE")
    assert found is not None and (found.kind, found.size) == ("struct", 74824)
    shown = [(member.offset, member.name, str(member.type), member.type.size) for member in found.members]
    flags = found.members[7].type.name
    assert shown[:14] == [
        (0x00, "Links", "struct _LIST_ENTRY", 16),
        (0x10, "Name", "[15] unsigned char", 15),
        (0x20, "Matrix", "[3] [5] unsigned short", 30),
        (0x40, "Heads", "[4] struct _LIST_ENTRY", 64),
        (0x80, "Next", "pointer to struct _KTHREAD_LIKE", 8),
        (0x88, "Opaque", "pointer to struct _FORWARD_ONLY", 8),
        (0x90, "Routine", "pointer to function", 8),
        (0x98, "Flags", f"struct {flags}", 4),
        (0xA0, "Frame", "unsigned long long, bit 0, 36 long", 8),
        (0xA0, "Rest", "unsigned long long, bit 36, 28 long", 8),
        (0xA8, "Kind", "enum _KIND", 4),
        (0xAC, "Wide", "enum _WIDE", 4),
        (0xB0, "Time", "union _LARGE_INTEGER", 8),
        (0xB8, "Count", "long", 4),
    ]
    opaque = found.members[5].type.target
    assert opaque is not None and opaque.size is None
    assert flags is not None
    inner = table.describe(flags)
    assert inner is not None
    assert [(m.name, m.type.bit, m.type.bits) for m in inner.members] == [
        ("Alertable", 0, 1), ("Wait", 1, 3), ("Reserved", 4, 28),
    ]  # fmt: skip


def test_unions_enumerations_and_base_types(table: TypeTable) -> None:
    union = table.describe("_LARGE_INTEGER")
    assert union is not None and union.kind == "union"
    assert [(member.offset, member.name) for member in union.members] == [
        (0, "LowPart"), (0, "u"), (0, "QuadPart"), (4, "HighPart"),
    ]  # fmt: skip
    kind = table.describe("_KIND")
    assert kind is not None and (kind.kind, kind.size, kind.base) == ("enum", 4, "int")
    assert kind.constants == (("KindNegative", -3), ("KindNone", 0), ("KindSmall", 7), ("KindLarge", 0x7FFFFFFF))
    base = table.describe("unsigned long")
    assert base is not None and (base.kind, base.size) == ("base", 4)
    assert table.describe("_FORWARD_ONLY") is None and table.describe("absent") is None


def test_names(table: TypeTable) -> None:
    assert [name for name in table.names("_k*") if "::" not in name] == ["_KIND", "_KTHREAD_LIKE"]
    assert [*table.names("*list?entry")] == ["_LIST_ENTRY"]
    assert [table.find(name) for name in ("_LIST_ENTRY", "LIST_ENTRY", "list_entry", "_kind", "unsigned long")] == [
        "_LIST_ENTRY", "_LIST_ENTRY", "_LIST_ENTRY", "_KIND", "unsigned long",
    ]  # fmt: skip
    assert table.find("nothing") is None


def test_every_type_of_a_kernel_can_be_described(isf_paths: list[Path]) -> None:
    layouts = load_table_file(isf_paths[0])
    table = TypeTable(layouts)
    names = [*table.names()]
    assert len(names) > 1000
    for name in names:
        found = table.describe(name)
        assert found is not None
        if found.members:
            for member in found.members:
                field = layouts.field(name, member.name)
                size = 0 if member.type.size is None else member.type.size
                assert (field.offset, field.size) == (member.offset, size), (name, member.name)


def test_damaged_tables_have_no_description() -> None:
    circle: dict[str, object] = {"kind": "pointer"}
    circle["subtype"] = circle
    for type_ in (circle, {"kind": "array", "count": "x", "subtype": {"kind": "function"}}, {"kind": "base"}, 5):
        document = {
            "base_types": {"pointer": {"size": 8}},
            "user_types": {"S": {"kind": "struct", "size": 8, "fields": {"x": {"offset": 0, "type": type_}}}},
        }
        assert TypeTable(Layouts(document)).describe("S") is None
