"""Types from PDB files, against the host's converter, LLVM's reader, and the sources that files were compiled from."""

from __future__ import annotations

import json
import lzma
import random
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import amounts
from tests.amounts import step
from tests.symbols.pdb.made_pdb import kernel_pdb, member, number, pdb, public, record, section, text, tpi
from volatility3_kdump.layout import Layouts
from volatility3_kdump.symbols.pdb.msf import CorruptPdb
from volatility3_kdump.symbols.pdb.names import PdbFile
from volatility3_kdump.symbols.pdb.types import TypeStream, document_of

# One worker reads the documents of three kernels.
pytestmark = pytest.mark.xdist_group("pdb_types")

DATA = Path(__file__).parents[1] / "data"


def stored(name: str, directory: Path) -> Path:
    """A PDB of the test data, unpacked."""
    path = directory / name
    path.write_bytes(lzma.decompress((DATA / f"{name}.xz").read_bytes()))
    return path


def document(path: Path) -> dict[str, Any]:
    with PdbFile(path) as opened:
        return document_of(opened, path.name)


def by_the_host(path: Path) -> dict[str, Any]:
    from volatility3.framework import contexts
    from volatility3.framework.symbols.windows.pdbconv import PdbReader

    converted: dict[str, Any] = PdbReader(contexts.Context(), path.as_uri(), path.name).get_json()
    return converted


def reduced(table: dict[str, Any]) -> dict[str, Any]:
    """A kernel table cut down to some types and all that they consist of: the host takes a minute for all."""
    wanted = ["_KPRCB", "_MMPTE", "_LARGE_INTEGER", "_KTRAP_FRAME"]
    types: dict[str, Any] = {}
    enums: dict[str, Any] = {}
    while wanted and len(types) < 60:
        name = wanted.pop()
        if name in table["enums"]:
            enums[name] = table["enums"][name]
        elif name not in types and name in table["user_types"]:
            types[name] = table["user_types"][name]
            wanted += re.findall(r'"kind": "(?:struct|union|enum)", "name": "([^"]+)"', json.dumps(types[name]))
    # No type by value may be left out.
    for name in wanted:
        if name in table["enums"]:
            enums[name] = table["enums"][name]
        else:
            types.setdefault(name, table["user_types"].get(name, {"kind": "struct", "size": 1, "fields": {}}))
    for type_ in list(types.values()):
        for name in re.findall(r'"kind": "(?:struct|union|enum)", "name": "([^"]+)"', json.dumps(type_)):
            if name in table["enums"]:
                enums[name] = table["enums"][name]
            elif name in table["user_types"] and name not in types:
                types[name] = {**table["user_types"][name], "fields": {}}
    symbols = dict(list(table["symbols"].items())[::400])
    return {**table, "user_types": types, "enums": enums, "symbols": symbols}


# kernels ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(isf_paths: list[Path]) -> list[dict[str, Any]]:
    """Three kernels, the one with the fewest types (Windows 7) first and the one with the most last."""
    chosen = sorted(isf_paths, key=lambda path: path.stat().st_size)
    chosen = [chosen[0], chosen[len(chosen) // 2], chosen[-1]]
    return [json.loads(lzma.decompress(path.read_bytes())) for path in chosen]


def test_a_kernels_table_comes_back_from_its_pdb(tables: list[dict[str, Any]], tmp_path: Path) -> None:
    """Types, enumerations and symbols of real kernels: what the host's converter made of Microsoft's PDBs."""
    path = tmp_path / "ntkrnlmp.pdb"
    for table, block_size in list(zip(tables, (0x1000, 0x400, 0x2000), strict=True))[:: step()]:
        path.write_bytes(kernel_pdb(table, block_size))
        found = document(path)
        for part in ("user_types", "enums", "base_types"):
            assert found[part] == table[part], part
        assert found["symbols"] == {k: v for k, v in table["symbols"].items() if v["address"] >= 0x1000}
        assert found["metadata"]["windows"] == table["metadata"]["windows"]


def test_the_hosts_converter_reads_the_same(tables: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "ntkrnlmp.pdb"
    path.write_bytes(kernel_pdb(reduced(tables[-1])))
    ours = document(path)
    # Before its first pointer record the host calls pointers by another name.
    theirs = json.loads(json.dumps(by_the_host(path)).replace('"base": "pointer64", ', ""))
    theirs["base_types"].pop("pointer64", None)
    assert len(ours["user_types"]) > 60 and len(ours["symbols"]) > 50
    for part in ("user_types", "enums", "base_types", "symbols"):
        assert ours[part] == theirs[part], part
    assert ours["metadata"]["windows"]["pdb"]["GUID"] == theirs["metadata"]["windows"]["pdb"]["GUID"]
    assert ours["metadata"]["windows"]["pdb"]["age"] == theirs["metadata"]["windows"]["pdb"]["age"]


def test_layouts_of_a_kernel_from_its_pdb(tables: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "ntkrnlmp.pdb"
    path.write_bytes(kernel_pdb(reduced(tables[0])))
    found, known = Layouts(document(path)), Layouts(tables[0])
    for name in ("CurrentThread", "ProcessorState.ContextFrame.Rip", "MHz", "PowerState"):
        assert found.field("_KPRCB", name) == known.field("_KPRCB", name)


# compiled from known sources --------------------------------------------------------------------------------------


def llvm_types(path: Path) -> dict[str, tuple[str, int, list[tuple[str, int]]]]:
    """Kind, size and (member, offset) of each defined structure and union, by LLVM; those without a name left out."""
    tool = shutil.which("llvm-pdbutil")
    if tool is None:
        pytest.skip("llvm-pdbutil is not installed")
    shown = subprocess.run([tool, "dump", "-types", path], capture_output=True, text=True, check=True).stdout
    lists: dict[str, list[tuple[str, int]]] = {}
    found = {}
    for entry in re.split(r"\n +(?=0x[0-9A-F]+ \| )", shown):
        head = re.match(r"0x([0-9A-F]+) \| (LF_\w+) \[size = \d+\](?: `(.*)`)?", entry)
        if head is None:
            continue
        if head[2] == "LF_FIELDLIST":
            lists[head[1]] = [
                (name, int(offset))
                for name, offset in re.findall(r"LF_MEMBER \[name = `(.*?)`, .*?offset = (\d+)", entry)
            ]
        elif head[2] in ("LF_STRUCTURE", "LF_CLASS", "LF_UNION") and "forward ref" not in entry:
            fields = re.search(r"field list: 0x([0-9A-F]+)", entry)
            size = re.search(r"sizeof (\d+)", entry)
            assert size is not None
            kind = "union" if head[2] == "LF_UNION" else "struct"
            found[head[3]] = (kind, int(size[1]), lists[fields[1]] if fields else [])
    return {name: value for name, value in found.items() if not name.endswith("<unnamed-tag>")}


@pytest.mark.parametrize("name", ["kernel_like.pdb", "kernel_like32.pdb", "driver_like.pdb"])
def test_variables_have_the_types_that_llvm_reads(name: str, tmp_path: Path) -> None:
    path = stored(name, tmp_path)
    tool = shutil.which("llvm-pdbutil")
    if tool is None:
        pytest.skip("llvm-pdbutil is not installed")
    shown = subprocess.run([tool, "dump", "-globals", path], capture_output=True, text=True, check=True).stdout
    pattern = r"S_[GL]DATA32 \[size = \d+\] `(.*)`\n +type = 0x([0-9A-F]+) \((.*)\), addr"
    expected = {(found[0], int(found[1], 16)) for found in re.findall(pattern, shown)}
    with PdbFile(path) as opened:
        variables = list(opened.variables())
    assert expected and {(name, index) for _, name, index in variables} == expected
    symbols = document(path)["symbols"]
    assert all("type" in symbols[name] for name, _ in expected)
    if name != "driver_like.pdb":
        assert symbols["GlobalThread"]["type"] == {"kind": "struct", "name": "_KTHREAD_LIKE"}
        assert symbols["GlobalKind"]["type"] == {"kind": "enum", "name": "_KIND"}


def agrees_with_llvm(path: Path) -> int:
    ours = document(path)["user_types"]
    theirs = llvm_types(path)
    for name, (kind, size, members) in theirs.items():
        assert (ours[name]["kind"], ours[name]["size"]) == (kind, size), name
        known = {label: field["offset"] for label, field in ours[name]["fields"].items()}
        assert all(known.get(label) == offset for label, offset in members), name
    unnamed = {name for name in ours if "__unnamed_" in name}
    # A name with several definitions: here each but the last has the number of its record behind it.
    others = {name for name in ours if re.sub(r"__[0-9a-f]+$", "", name) in theirs}
    assert set(ours) == set(theirs) | unnamed | others
    return len(theirs)


@pytest.mark.parametrize("name", ["kernel_like.pdb", "kernel_like32.pdb", "driver_like.pdb"])
def test_compiled_types_equal_llvm(name: str, tmp_path: Path) -> None:
    assert agrees_with_llvm(stored(name, tmp_path)) >= 3


def test_microsofts_types_equal_llvm(image_path: Path) -> None:
    assert agrees_with_llvm(image_path.with_suffix(".pdb")) > 60


def test_every_type_of_a_c_source(tmp_path: Path) -> None:
    found = Layouts(document(stored("kernel_like.pdb", tmp_path)))
    thread = found.types.user_types["_KTHREAD_LIKE"]
    base = {"kind": "base"}
    fields = {name: (field["offset"], field["type"]) for name, field in thread["fields"].items()}
    links = {"kind": "struct", "name": "_LIST_ENTRY"}
    assert fields["Links"] == (0, links)
    assert fields["Name"] == (0x10, {"kind": "array", "count": 15, "subtype": {**base, "name": "unsigned char"}})
    row = {"kind": "array", "count": 5, "subtype": {**base, "name": "unsigned short"}}
    assert fields["Matrix"] == (0x20, {"kind": "array", "count": 3, "subtype": row})
    assert fields["Heads"] == (0x40, {"kind": "array", "count": 4, "subtype": links})
    assert fields["Opaque"] == (0x88, {"kind": "pointer", "subtype": {"kind": "struct", "name": "_FORWARD_ONLY"}})
    assert fields["Routine"] == (0x90, {"kind": "pointer", "subtype": {"kind": "function"}})
    unit = {**base, "name": "unsigned long long"}
    assert fields["Rest"] == (0xA0, {"kind": "bitfield", "type": unit, "bit_position": 36, "bit_length": 28})
    assert fields["Text"] == (0xC0, {"kind": "pointer", "subtype": {**base, "name": "char"}})
    to_void = {"kind": "pointer", "subtype": {**base, "name": "void"}}
    assert fields["Pointers"][1] == {"kind": "array", "count": 2, "subtype": {"kind": "pointer", "subtype": to_void}}
    assert fields["Last"][1]["count"] == 0x12345 and thread["size"] == 0xFC + 0x12345 + 7
    # The compiler wrote both negative values unsigned.
    assert found.enum("_KIND") == {0: "KindNone", 7: "KindSmall", 0x7FFFFFFF: "KindLarge", -3: "KindNegative"}
    assert found.enum("_WIDE") == {-1: "WideFirst"}
    # Structures without a name, each of its own.
    assert found.offset("_KTHREAD_LIKE", "Mixed.Parts.High") == 0xFA
    wait = found.field("_KTHREAD_LIKE", "Flags.Wait")
    assert (wait.offset, wait.bit, wait.bits) == (0x98, 1, 3)
    assert found.offset("_LARGE_INTEGER", "u.HighPart") == found.offset("_LARGE_INTEGER", "HighPart") == 4
    narrow = Layouts(document(stored("kernel_like32.pdb", tmp_path)))
    assert narrow.pointer_size == 4 and narrow.size_of("_LIST_ENTRY") == 8
    assert narrow.field("_KTHREAD_LIKE", "Opaque").size == 4


def test_what_only_cpp_has(tmp_path: Path) -> None:
    path = stored("driver_like.pdb", tmp_path)
    with pytest.raises(TypeError, match="Unhandled leaf_type"):
        by_the_host(path)
    found = Layouts(document(path))
    device = "storage::Device"
    assert found.field_names(device) == [
        "storage::Base", "storage::Second", "Ready", "Wide", "Slots", "Reference", "Member", "Method", "First", "Other",
    ]  # fmt: skip
    assert found.offset(device, "storage::Second.Value") == 0x10
    assert found.offset(device, "storage::Base.__VFN_table") == 0
    assert found.field(device, "Slots.Items").count == 4
    assert found.field(device, "Reference").kind == "pointer"
    member_pointer = found.field(device, "Member")
    assert (member_pointer.kind, member_pointer.size, member_pointer.code) == ("base", 4, "i")
    assert found.field(device, "Method").size == 8
    assert found.enum("storage::Base::State") == {0: "Stopped", 200: "Started"}
    assert found.field("storage::Base", "Current").size == 1
    assert found.size_of("storage::Ring<storage::Device *,2>") == 24
    assert found.has(device, "First.X") and found.has(device, "Other.Y")


# single records ---------------------------------------------------------------------------------------------------

INT = 0x74


def fields(*members: bytes) -> bytes:
    return record(0x1203, b"".join(member(data) for data in members))


def field(name: str, type_index: int, offset: int) -> bytes:
    return struct.pack("<HHI", 0x150D, 3, type_index) + number(offset) + text(name)


def structure(name: str, list_index: int, size: int, flags: int = 0, unique: str = "") -> bytes:
    data = struct.pack("<HHIII", 1, flags, list_index, 0, 0) + number(size) + text(name)
    return record(0x1505, data + (text(unique) if unique else b""))


def definitions(*records: bytes, pointer_size: int = 8) -> tuple[dict[str, Any], dict[str, Any]]:
    return TypeStream(tpi(records), pointer_size).definitions()


def test_a_list_that_goes_on_in_another() -> None:
    types, _ = definitions(
        fields(field("second", INT, 4)),
        record(0x1203, member(field("first", INT, 0)) + struct.pack("<HHI", 0x1404, 0, 0x1000)),
        structure("S", 0x1001, 8),
    )
    assert list(types["S"]["fields"]) == ["first", "second"]


def test_lists_that_go_in_a_circle_end() -> None:
    types, _ = definitions(
        record(0x1203, member(field("a", INT, 0)) + struct.pack("<HHI", 0x1404, 0, 0x1001)),
        record(0x1203, member(field("b", INT, 4)) + struct.pack("<HHI", 0x1404, 0, 0x1000)),
        structure("S", 0x1000, 8),
    )
    assert list(types["S"]["fields"]) == ["a", "b"]


def test_virtual_bases_have_no_offset_and_others_have() -> None:
    virtual = struct.pack("<HHII", 0x1401, 3, 0x1001, 0x1001) + number(8) + number(1)
    indirect = struct.pack("<HHII", 0x1402, 3, 0x1001, 0x1001) + number(8) + number(0x8000)
    twice = struct.pack("<HHI", 0x1400, 3, 0x1001)
    types, _ = definitions(
        fields(field("x", INT, 0)),
        structure("B", 0x1000, 4),
        fields(virtual, indirect, twice + number(16), twice + number(20), field("own", INT, 24)),
        structure("D", 0x1002, 28),
    )
    reference = {"kind": "struct", "name": "B"}
    assert types["D"]["fields"] == {
        "B": {"offset": 16, "type": reference},
        "B__14": {"offset": 20, "type": reference},
        "own": {"offset": 24, "type": {"kind": "base", "name": "int"}},
    }


def test_what_has_no_place_in_a_layout_is_passed_over() -> None:
    passed = [
        struct.pack("<HHI", 0x150E, 3, INT) + text("static"),
        struct.pack("<HHI", 0x150F, 2, INT) + text("overloads"),
        struct.pack("<HHI", 0x1510, 0, INT) + text("Nested"),
        struct.pack("<HHI", 0x1512, 0, INT) + text("NestedToo"),
        struct.pack("<HHI", 0x1513, 3, INT) + text("modified"),
        struct.pack("<HHI", 0x150C, 0, INT) + text("friendly"),
        struct.pack("<HHI", 0x140A, 0, INT),
        struct.pack("<HHI", 0x1511, 3, INT) + text("plain"),
        struct.pack("<HHII", 0x1511, 3 | 4 << 2, INT, 8) + text("introduced"),
        struct.pack("<HHII", 0x1511, 3 | 6 << 2, INT, 8) + text("pure"),
    ]
    for first in range(len(passed)):
        order = passed[first:] + passed[:first]
        types, _ = definitions(fields(*order, field("only", INT, 0)), structure("S", 0x1000, 4))
        assert list(types["S"]["fields"]) == ["only"]


def test_wide_records_of_newer_compilers() -> None:
    data = struct.pack("<IIII", 0x200, 0x1000, 0, 0) + number(70000) + number(4) + text("S") + text(".?AUS@@")
    for leaf in (0x1608, 0x1609):
        types, _ = definitions(fields(field("x", INT, 0)), record(leaf, data))
        assert types["S"]["size"] == 4 and list(types["S"]["fields"]) == ["x"]


def test_a_declaration_finds_its_definition_by_the_unique_name() -> None:
    """Two types of one plain name in different scopes: the reference before them leads to the right one."""
    types, _ = definitions(
        structure("X", 0, 0, 0x280, "one"),
        structure("X", 0, 0, 0x280, "two"),
        fields(field("a", 0x1000, 0), field("b", 0x1001, 4)),
        structure("S", 0x1002, 12),
        fields(field("one", INT, 0)),
        structure("X", 0x1004, 4, 0x200, "one"),
        fields(field("two", INT, 4)),
        structure("X", 0x1006, 8, 0x200, "two"),
    )
    names = {label: held["type"]["name"] for label, held in types["S"]["fields"].items()}
    assert names == {"a": "X__1005", "b": "X"}
    assert list(types["X__1005"]["fields"]) == ["one"] and list(types["X"]["fields"]) == ["two"]


def test_equal_definitions_are_one() -> None:
    types, _ = definitions(fields(field("a", INT, 0)), structure("X", 0x1000, 4), structure("X", 0x1000, 4, 0x8))
    assert list(types) == ["X"]


def test_every_definition_that_llvm_lists_is_shown(tmp_path: Path) -> None:
    """One name in four source files: one larger, two alike but for what is pointed to, one that holds no pointer."""
    tools = {name: shutil.which(name) for name in ("clang", "lld-link", "llvm-pdbutil")}
    if None in tools.values():
        pytest.skip("clang, lld-link or llvm-pdbutil is not installed")
    bodies = ("int *p; long long more[4];", "int *p;", "float *p;", "long long p;")
    for number_, body in enumerate(bodies):
        source = f"struct A {{ {body} }}; struct A held{number_};"
        (tmp_path / f"f{number_}.c").write_text(source + ("int entry(void) { return 0; }" if not number_ else ""))
    sources = [f"f{number_}.c" for number_ in range(len(bodies))]
    clang = ["clang", "--target=x86_64-pc-windows-msvc", "-g", "-gcodeview", "-c", *sources]
    link = ["lld-link", "/dll", "/noentry", "/nodefaultlib", "/debug", "/out:f.dll", "/opt:noref"]
    for command in (clang, [*link, *(name.replace(".c", ".o") for name in sources)]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    dump = ["llvm-pdbutil", "dump", "--types", "f.pdb"]
    shown = subprocess.run(dump, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    sizes = re.findall(r"LF_STRUCTURE .*`A`\n(?:.*\n)?.*sizeof (\d+)", shown)
    assert sorted(sizes) == ["0", "40", "8", "8", "8"]  # one is a declaration
    shapes = set()
    for name, kept in document(tmp_path / "f.pdb")["user_types"].items():
        if name == "A" or name.startswith("A__"):
            held = kept["fields"]["p"]["type"]
            shapes.add((kept["size"], held.get("subtype", held)["name"]))
    assert shapes == {(8, "int"), (8, "f32"), (8, "long long"), (40, "int")}


def test_no_definition_of_a_name_is_lost() -> None:
    """The first two are alike, the third is not: what refers to the first must not be shown as the third."""
    types, _ = definitions(
        fields(field("a", INT, 0)),
        structure("A", 0x1000, 4),
        fields(field("a", INT, 0)),
        structure("A", 0x1002, 4),
        fields(field("a", INT, 0), field("b", INT, 4)),
        structure("A", 0x1004, 8),
        fields(field("one", 0x1001, 0), field("three", 0x1005, 4)),
        structure("S", 0x1006, 12),
    )
    named = {label: held["type"]["name"] for label, held in types["S"]["fields"].items()}
    assert named["three"] == "A" and types["A"]["size"] == 8
    assert types[named["one"]]["size"] == 4 and list(types[named["one"]]["fields"]) == ["a"]


def test_pointers_of_another_width() -> None:
    records = [
        record(0x1002, struct.pack("<II", INT, 0x0A)),
        record(0x1002, struct.pack("<II", INT, 0x0C | 8 << 13)),
        record(0x1002, struct.pack("<II", INT, 0x0C | 3 << 5 | 16 << 13)),
        fields(field("narrow", 0x1000, 0), field("simple", 0x403, 4), field("wide", 0x1001, 8), field("m", 0x1002, 16)),
        structure("S", 0x1003, 32),
    ]
    stream = TypeStream(tpi(records), 8)
    types, _ = stream.definitions()
    found = Layouts({"base_types": stream.base_types, "user_types": types})
    assert [(name, found.field("S", name).size) for name in ("narrow", "simple", "wide", "m")] == [
        ("narrow", 4), ("simple", 4), ("wide", 8), ("m", 16),
    ]  # fmt: skip


def test_constants_of_every_width() -> None:
    values = [0, 0x7FFF, 0x8000, 0xFFFF, 0x10000, -1, -128, -129, -40000, (1 << 31) - 1, -(1 << 31)]
    records = [
        fields(*(struct.pack("<HH", 0x1502, 3) + number(value) + text(f"v{n}") for n, value in enumerate(values))),
        record(0x1507, struct.pack("<HHII", len(values), 0, INT, 0x1000) + text("E")),
    ]
    wide = [1 << 32, (1 << 63) + 5, -(1 << 40)]
    records += [
        fields(*(struct.pack("<HH", 0x1502, 3) + number(value) + text(f"v{n}") for n, value in enumerate(wide))),
        record(0x1507, struct.pack("<HHII", len(wide), 0, 0x77, 0x1002) + text("W")),
    ]
    _, enums = definitions(*records)
    assert list(enums["E"]["constants"].values()) == values
    assert list(enums["W"]["constants"].values()) == wide and enums["W"]["size"] == 8


def test_an_array_of_what_is_defined_nowhere_is_bytes() -> None:
    types, _ = definitions(
        structure("Unknown", 0, 0, 0x80),
        record(0x1503, struct.pack("<II", 0x1000, 0x23) + number(24) + text("")),
        fields(field("a", 0x1001, 0)),
        structure("S", 0x1002, 24),
    )
    held = types["S"]["fields"]["a"]["type"]
    assert held == {"kind": "array", "count": 24, "subtype": {"kind": "base", "name": "unsigned char"}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0" * 10, "ends inside its header"),
        (tpi([], last=0x1000 + 5_000_000), "cannot hold types"),
        (tpi([record(0x1001, bytes(8))])[:-4], "cannot hold types"),
        (tpi([b"\x01\x00\x00\x00"]), "has no content"),
        (tpi([b"\xff\x00\x00\x00"]), "behind the type stream"),
        (tpi([record(0x1505, bytes(4))]), "cut short"),
        (tpi([record(0x1505, bytes(16) + b"\x20\x80")]), "cut short"),
    ],
)
def test_a_damaged_stream_is_named(data: bytes, message: str) -> None:
    with pytest.raises(CorruptPdb, match=message):
        TypeStream(data, 8)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(0x1203, b"\x0d\x15\x03\0"), structure("S", 0x1000, 4)], "cut short"),
        ([record(0x1203, struct.pack("<HHI", 0x1599, 0, 0)), structure("S", 0x1000, 4)], "unknown kind 0x1599"),
        ([record(0x1002, struct.pack("<II", 0x1000 + n + 1, 0x1000C)) for n in range(40)], "nested more than 32 deep"),
    ],
)
def test_damaged_records_are_named(records: list[bytes], message: str) -> None:
    base = 0x1000 + len(records)
    with pytest.raises(CorruptPdb, match=message):
        definitions(*records, fields(field("x", 0x1000, 0)), structure("T", base, 8))


@pytest.mark.parametrize(
    "circle",
    [
        record(0x1001, struct.pack("<IH", 0x1000, 0)),
        record(0x1002, struct.pack("<II", 0x1000, 0x1000C)),
        record(0x1205, struct.pack("<IBB", 0x1000, 1, 0)),
        record(0x1503, struct.pack("<II", 0x1000, 0x23) + number(8) + text("")),
    ],
)
def test_types_that_consist_of_themselves_are_an_error(circle: bytes) -> None:
    with pytest.raises(CorruptPdb, match="nested more than"):
        definitions(circle, fields(field("x", 0x1000, 0)), structure("S", 0x1001, 8))


def test_types_that_share_a_list_share_its_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = fields(*(field(f"f{n}", INT, 4 * n) for n in range(50)))
    types, _ = definitions(shared, *(structure(f"S{n}", 0x1000, 200) for n in range(50)))
    assert len(types) == 50 and len({id(entry["fields"]) for entry in types.values()}) == 1
    assert types["S7"]["fields"]["f3"]["offset"] == 12
    monkeypatch.setattr("volatility3_kdump.symbols.pdb.types._MOST_SHARED", 1000)
    with pytest.raises(CorruptPdb, match="share lists of more than 1,000 fields"):
        definitions(shared, *(structure(f"S{n}", 0x1000, 200) for n in range(50)))


def test_very_many_fields_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("volatility3_kdump.symbols.pdb.types._MOST_FIELDS", 1000)
    each = fields(*(field(f"f{n}", INT, 4 * n) for n in range(50)))
    records = [record for n in range(50) for record in (each, structure(f"S{n}", 0x1000 + 2 * n, 200))]
    with pytest.raises(CorruptPdb, match="more than 1,000 fields"):
        definitions(*records)


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), min_size=1, max_size=8), st.integers(0, 6000))
@settings(max_examples=amounts.part(150), deadline=None)
def test_any_change_of_a_type_stream_gives_types_or_one_error(edits: list[tuple[int, int]], length: int) -> None:
    data = bytearray(KERNEL_STREAM)
    for offset, value in edits:
        data[offset % len(data)] = value
    try:
        stream = TypeStream(bytes(data[: max(length, 60)] if length % 7 == 0 else data), 8)
        types, enums = stream.definitions()
    except CorruptPdb:
        return
    json.dumps([types, enums])
    layouts = Layouts({"base_types": stream.base_types, "user_types": types, "enums": enums})
    assert all(isinstance(name, str) for name in [*types, *enums])
    assert layouts.pointer_size == 8


def _kernel_stream() -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as directory, PdbFile(stored("driver_like.pdb", Path(directory))) as opened:
        return opened.type_stream(1 << 20) or b""


KERNEL_STREAM = _kernel_stream()


# addresses --------------------------------------------------------------------------------------------------------


def publics(data: bytes, path: Path) -> dict[str, int]:
    path.write_bytes(data)
    with PdbFile(path) as opened:
        return {name: rva for rva, name in opened.publics()}


def test_segments_are_sections_and_others_have_no_address(tmp_path: Path) -> None:
    symbols = b"".join(
        public(*entry)
        for entry in [("a", 1, 0x10), ("b", 2, 0x20), ("gone", 3, 0), ("zero", 0, 5), ("far", 1, 1 << 31)]
    )
    sections = [section(b".text", 0x1000, 0x1000), section(b".data", 0x5000, 0x1000)]
    data = pdb(tpi([]), symbols, sections, "0" * 32, 1)
    assert publics(data, tmp_path / "x.pdb") == {"a": 0x1010, "b": 0x5020}


def test_an_image_that_was_rearranged_after_linking(tmp_path: Path) -> None:
    """Symbols have the linker's addresses; the address map leads to those in the image. 0 is what was removed."""
    symbols = b"".join(public(name, 1, offset) for name, offset in [("a", 0), ("b", 0x108), ("c", 0x210), ("d", 0x300)])
    moved = struct.pack("<8I", 0x1100, 0x7000, 0x1200, 0, 0x1300, 0x2000, 0x1000, 0x9000)
    data = pdb(
        tpi([]), symbols, [section(b".new", 0x2000, 0x8000)], "0" * 32, 1, 0x8664,
        [section(b".old", 0x1000, 0x1000)], moved,
    )  # fmt: skip
    assert publics(data, tmp_path / "x.pdb") == {"a": 0x9000, "b": 0x7008, "d": 0x2000}


def test_damaged_pdbs_give_a_document_or_one_error(tmp_path: Path) -> None:
    good = stored("driver_like.pdb", tmp_path).read_bytes()
    source = random.Random(23)
    path = tmp_path / "bad.pdb"
    failed = 0
    for _ in range(120):
        data = bytearray(good)
        for _ in range(source.randrange(1, 30)):
            offset = source.randrange(len(data))
            data[offset : offset + 2] = source.randbytes(2)
        path.write_bytes(data)
        try:
            json.dumps(document(path))
        except CorruptPdb:
            failed += 1
    assert 0 < failed < 120
