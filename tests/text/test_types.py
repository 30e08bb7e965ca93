"""``dt`` in KD's words."""

from __future__ import annotations

import pytest

from volatility3_kdump.symbols.types import Member, TypeDescription, TypeReference
from volatility3_kdump.text.types import constants, field_line, heading, type_text, value_text
from volatility3_kdump.windows.typed_values import FieldValue

BASES = {
    "void": (0, "Void"),
    "char": (1, "Char"),
    "unsigned char": (1, "UChar"),
    "wchar": (2, "Wchar"),
    "short": (2, "Int2B"),
    "unsigned short": (2, "Uint2B"),
    "long": (4, "Int4B"),
    "unsigned long": (4, "Uint4B"),
    "long long": (8, "Int8B"),
    "unsigned long long": (8, "Uint8B"),
    "float": (4, "Float"),
    "double": (8, "Double"),
    "HRESULT": (4, "HRESULT"),
}


def base(name: str) -> TypeReference:
    return TypeReference("base", name, BASES[name][0])


def to(type_: TypeReference, size: int = 8) -> TypeReference:
    return TypeReference("pointer", None, size, type_)


def many(type_: TypeReference, count: int) -> TypeReference:
    return TypeReference("array", None, (type_.size or 0) * count, type_, count)


def bits(bit: int, count: int, type_: TypeReference) -> TypeReference:
    return TypeReference("bitfield", None, type_.size, type_, bit=bit, bits=count)


def record(name: str, size: int = 16) -> TypeReference:
    return TypeReference("struct", name, size)


ENUM = TypeReference("enum", "_KTHREAD_STATE", 4)
THREAD = record("_ETHREAD", 0x898)


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        *((base(name), text) for name, (_, text) in BASES.items()),
        (to(THREAD), "Ptr64 _ETHREAD"),
        (to(THREAD, 4), "Ptr32 _ETHREAD"),
        (to(to(base("void"))), "Ptr64 Ptr64 Void"),
        (to(TypeReference("function", None, None)), "Ptr64 Function"),
        (many(base("unsigned char"), 15), "[15] UChar"),
        (many(many(base("long"), 3), 2), "[2] [3] Int4B"),
        (bits(0, 1, base("unsigned long")), "Pos 0, 1 Bit"),
        (bits(7, 3, base("unsigned long")), "Pos 7, 3 Bits"),
        (THREAD, "_ETHREAD"),
        (ENUM, "_KTHREAD_STATE"),
    ],
)
def test_names_of_types(type_: TypeReference, text: str) -> None:
    assert type_text(type_) == text


def value(type_: TypeReference, number: int | float | None = None, **more) -> FieldValue:
    return FieldValue("Field", 0x10, type_, 0x1000, number, held=True, **more)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (value(base("unsigned long"), 0), "0"),
        (value(base("unsigned long"), 0x1A), "0x1a"),
        (value(base("unsigned long long"), 0xFFFFFFFF), "0xffffffff"),
        (value(base("unsigned long long"), 0x123456789A), "0x00000012`3456789a"),
        (value(base("long"), -1, signed=True), "0n-1"),
        (value(base("long"), 259, signed=True), "0n259"),
        (value(base("long"), 0, signed=True), "0n0"),
        (value(base("char"), 8, signed=True), "8 ''"),
        (value(base("char"), -8, signed=True), "-8 ''"),
        (value(base("unsigned char"), 0x41), "0x41 'A'"),
        (value(base("unsigned char"), 0), "0 ''"),
        (value(base("wchar"), 0x41, signed=True), "0x41"),
        (value(base("double"), 1.5), "1.5"),
        (value(ENUM, 5, constant="Waiting"), "0x5 ( Waiting )"),
        (value(ENUM, 0, constant="Initialized"), "0 ( Initialized )"),
        (value(ENUM, 77), "0x4d (No matching name)"),
        (value(bits(0, 1, base("long")), 1), "0y1"),
        (value(bits(7, 3, base("long")), 5), "0y101"),
        (value(bits(0, 5, base("long")), 4), "0y00100 (0x4)"),
        (value(to(base("void")), 0x1E90), "0x00000000`00001e90 Void"),
        (value(to(THREAD), 0), "(null) "),
        (value(to(THREAD), 0xFFFF918952F55080), "0xffff9189`52f55080 _ETHREAD"),
        (value(to(THREAD, 4), 0xFFFFFFFF81234560), "0x81234560 _ETHREAD"),
        (value(to(to(base("void"))), 0x1000, pointed=0x2000), "0x00000000`00001000  -> 0x00000000`00002000 Void"),
        (value(to(to(base("void"))), 0x1000), "0x00000000`00001000  -> ?? Void"),
        (value(to(base("char")), 0x1000, text="abc\x1b"), '0x00000000`00001000 "abc."'),
        (
            value(to(base("wchar")), 0x1000, unread=0x1000),
            '0x00000000`00001000 "--- memory read error at address 0x00000000`00001000 ---"',
        ),
        (
            value(to(record("_UNICODE_STRING")), 0x1000, text="abc"),
            '0x00000000`00001000 _UNICODE_STRING "abc"',
        ),
        (
            value(to(TypeReference("function", None, None)), 0x1000, symbol="nt!KeBugCheckEx"),
            "0x00000000`00001000     nt!KeBugCheckEx",
        ),
        (value(to(TypeReference("function", None, None)), 0x1000), "0x00000000`00001000     (no symbol)"),
        (value(many(base("unsigned char"), 15), text="System"), '[15]  "System"'),
        (value(many(base("unsigned long"), 4), first=value(base("unsigned long"), 7)), "[4] 0x7"),
        (value(many(THREAD, 2), first=value(THREAD)), "[2] _ETHREAD"),
        (value(THREAD), "_ETHREAD"),
        (
            value(record("_LIST_ENTRY"), links=(0xFFFF918952F55080, None)),
            "_LIST_ENTRY [ 0xffff9189`52f55080 - ?? ]",
        ),
        (value(record("_UNICODE_STRING"), text=""), '_UNICODE_STRING ""'),
        (value(record("_LARGE_INTEGER", 8), 0x01D7BB6DF8B3D7A0), "_LARGE_INTEGER 0x01d7bb6d`f8b3d7a0"),
        (value(record("_LARGE_INTEGER", 8), 0), "_LARGE_INTEGER 0x0"),
        (
            value(record("_GUID"), text="{9745090a-9bce-ccba-c096-ca6e9ca04c64}"),
            "_GUID {9745090a-9bce-ccba-c096-ca6e9ca04c64}",
        ),
        (FieldValue("Field", 0, base("long"), 0x1000), "??"),
        (FieldValue("Field", 0, to(THREAD), 0x1000), "??"),
        (FieldValue("Field", 0, record("_UNICODE_STRING"), 0x1000), "_UNICODE_STRING ??"),
    ],
)
def test_values(shown: FieldValue, text: str) -> None:
    assert value_text(shown) == text


def test_lines() -> None:
    number = FieldValue("UniqueProcessId", 0x440, to(base("void")))
    assert field_line(0, number) == "   +0x440 UniqueProcessId  : Ptr64 Void"
    assert field_line(1, number) == "      +0x440 UniqueProcessId  : Ptr64 Void"
    assert field_line(0, number, offsets=False) == "   UniqueProcessId  : Ptr64 Void"
    long_name = FieldValue("ActiveProcessLinks", 0x8590, record("_LIST_ENTRY"))
    assert field_line(0, long_name) == "   +0x8590 ActiveProcessLinks : _LIST_ENTRY"
    assert field_line(1, FieldValue("[00]", 0, base("unsigned char"))) == "     [00] UChar"
    followed = FieldValue("Pcb", 0, record("_KPROCESS"), 0x1000, expanded=True)
    assert field_line(0, followed) == "   +0x000 Pcb              : "


def test_headings_and_constants() -> None:
    one = TypeDescription("_A", "struct", 8, (Member("x", 0, base("long")),))
    assert heading(one) == "struct _A, 1 element, 0x8 bytes"
    state = TypeDescription("_S", "enum", 4, (), (("Initialized", 0), ("Last", -1)))
    assert heading(state) == "Enum _S,  2 total enums"
    assert list(constants(state)) == ["   Initialized = 0n0", "   Last = 0n-1"]
