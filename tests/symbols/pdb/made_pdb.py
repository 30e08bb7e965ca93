"""Writes PDB files: the container, and a kernel's PDB whose types and symbols are those of an ISF document.

With real kernel tables, which the host's converter made of Microsoft's PDBs, this gives PDBs of known content that no
repository could hold. LLVM's reader and the host's converter vouch for the writer in ``test_pdb_types``.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

MAGIC = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0"
#: Simple types by the names of the host.
SIMPLE = {
    "void": 0x03,
    "HRESULT": 0x08,
    "char": 0x70,
    "wchar": 0x71,
    "unsigned char": 0x20,
    "short": 0x11,
    "unsigned short": 0x21,
    "long": 0x12,
    "unsigned long": 0x22,
    "int": 0x74,
    "unsigned int": 0x75,
    "long long": 0x13,
    "unsigned long long": 0x23,
    "f32": 0x40,
    "double": 0x41,
    "int8": 0x68,
    "uint8": 0x69,
}


def msf(streams: Sequence[bytes | None], block_size: int = 0x1000) -> bytes:
    """A container of these streams; ``None`` is a stream that is not there."""

    def blocks_of(size: int) -> int:
        return -(-size // block_size)

    blocks: list[bytes] = [b"", b"\xff" * block_size, b"\xff" * block_size]

    def put(data: bytes) -> list[int]:
        numbers = []
        for start in range(0, len(data), block_size):
            # Every interval of blocks has the two of its free block map.
            while len(blocks) % block_size in (1, 2):
                blocks.append(b"\xff" * block_size)
            numbers.append(len(blocks))
            blocks.append(data[start : start + block_size].ljust(block_size, b"\0"))
        return numbers

    places = [put(data or b"") for data in streams]
    sizes = [0xFFFFFFFF if data is None else len(data) for data in streams]
    directory = struct.pack(f"<I{len(sizes)}I", len(sizes), *sizes)
    directory += b"".join(struct.pack(f"<{len(place)}I", *place) for place in places)
    listed = put(directory)
    lists = put(struct.pack(f"<{len(listed)}I", *listed))
    head = MAGIC + struct.pack("<5I", block_size, 1, len(blocks), len(directory), 0)
    blocks[0] = (head + struct.pack(f"<{len(lists)}I", *lists)).ljust(block_size, b"\0")
    assert blocks_of(len(directory)) == len(listed)
    return b"".join(blocks)


def number(value: int) -> bytes:
    """A numeric leaf."""
    if 0 <= value < 0x8000:
        return struct.pack("<H", value)
    for leaf, form, low, high in (
        (0x8000, "b", -(1 << 7), 1 << 7),
        (0x8001, "h", -(1 << 15), 1 << 15),
        (0x8002, "H", 0, 1 << 16),
        (0x8003, "i", -(1 << 31), 1 << 31),
        (0x8004, "I", 0, 1 << 32),
        (0x8009, "q", -(1 << 63), 1 << 63),
    ):
        if low <= value < high:
            return struct.pack(f"<H{form}", leaf, value)
    return struct.pack("<HQ", 0x800A, value)


def record(leaf: int, data: bytes) -> bytes:
    """A type record, padded as the linker does."""
    padding = -(len(data) + 4) % 4
    data += bytes(0xF0 | left for left in range(padding, 0, -1))
    return struct.pack("<HH", len(data) + 2, leaf) + data


def member(data: bytes) -> bytes:
    return data + bytes(0xF0 | left for left in range(-len(data) % 4, 0, -1))


def text(name: str) -> bytes:
    return name.encode("utf-8") + b"\0"


def tpi(records: Sequence[bytes], last: int | None = None) -> bytes:
    """The type stream of these records."""
    data = b"".join(records)
    last = 0x1000 + len(records) if last is None else last
    return struct.pack("<5I", 20040203, 56, 0x1000, last, len(data)).ljust(56, b"\xff") + data


class Types:
    """Collects the type records of an ISF document."""

    def __init__(self, document: Mapping[str, Any], longest_list: int = 0xF000) -> None:
        self._document = document
        self._longest = longest_list
        #: The host's converter does not find the definition of a type that is declared by the very first record.
        self.records: list[bytes] = [record(0x1201, struct.pack("<I", 0))]
        self._known: dict[bytes, int] = {}
        # Forward references come first, so that types may refer to each other.
        self._forward = {
            name: self.add(record(leaf, body + number(0) + text(name)))
            for kind, leaf, body in (
                ("struct", 0x1505, struct.pack("<HHIII", 0, 0x80, 0, 0, 0)),
                ("union", 0x1506, struct.pack("<HHI", 0, 0x80, 0)),
            )
            for name, type_ in document["user_types"].items()
            if type_["kind"] == kind
        }
        self._forward.update((name, self._enum(name, type_)) for name, type_ in document["enums"].items())
        for name, type_ in document["user_types"].items():
            fields = self._list(
                member(
                    struct.pack("<HHI", 0x150D, 3, self.index(field["type"])) + number(field["offset"]) + text(label)
                )
                for label, field in type_["fields"].items()
            )
            count = len(type_["fields"])
            if type_["kind"] == "union":
                self.add(record(0x1506, struct.pack("<HHI", count, 0, fields) + number(type_["size"]) + text(name)))
            else:
                body = struct.pack("<HHIII", count, 0, fields, 0, 0)
                self.add(record(0x1505, body + number(type_["size"]) + text(name)))

    def add(self, data: bytes) -> int:
        if data not in self._known:
            self._known[data] = 0x1000 + len(self.records)
            self.records.append(data)
        return self._known[data]

    def _list(self, members: Any) -> int:
        """A field list; a long one goes on in others, the last part of which is written first."""
        parts: list[bytes] = [b""]
        for data in members:
            if len(parts[-1]) + len(data) > self._longest:
                parts.append(b"")
            parts[-1] += data
        index = 0
        for part in reversed(parts):
            index = self.add(record(0x1203, part + (struct.pack("<HHI", 0x1404, 0, index) if index else b"")))
        return index

    def _enum(self, name: str, type_: Mapping[str, Any]) -> int:
        fields = self._list(
            member(struct.pack("<HH", 0x1502, 3) + number(value) + text(label))
            for label, value in type_["constants"].items()
        )
        body = struct.pack("<HHII", len(type_["constants"]), 0, SIMPLE[type_["base"]], fields)
        return self.add(record(0x1507, body + text(name)))

    def size(self, type_: Mapping[str, Any]) -> int:
        kind = type_["kind"]
        if kind == "pointer":
            return int(self._document["base_types"]["pointer"]["size"])
        if kind == "array":
            return int(type_["count"]) * self.size(type_["subtype"])
        table = {"base": "base_types", "enum": "enums"}.get(kind, "user_types")
        return int(self._document[table][type_["name"]]["size"])

    def index(self, type_: Mapping[str, Any]) -> int:
        kind = type_["kind"]
        if kind == "base":
            return SIMPLE[type_["name"]]
        if kind == "pointer":
            target = self.index(type_["subtype"])
            wide = self._document["base_types"]["pointer"]["size"] == 8
            if target == 0x03:
                return 0x603 if wide else 0x403
            return self.add(record(0x1002, struct.pack("<II", target, 0x1000C if wide else 0x800A)))
        if kind == "array":
            target = self.index(type_["subtype"])
            return self.add(record(0x1503, struct.pack("<II", target, 0x23) + number(self.size(type_)) + text("")))
        if kind == "bitfield":
            target = self.index(type_["type"])
            return self.add(record(0x1205, struct.pack("<IBB", target, type_["bit_length"], type_["bit_position"])))
        if kind == "function":
            arguments = self.add(record(0x1201, struct.pack("<I", 0)))
            return self.add(record(0x1008, struct.pack("<IBBHI", 0x03, 0, 0, 0, arguments)))
        if type_["name"] not in self._forward:
            # Declared, and defined nowhere.
            leaf, body = 0x1505, struct.pack("<HHIII", 0, 0x80, 0, 0, 0)
            if kind == "union":
                leaf, body = 0x1506, struct.pack("<HHI", 0, 0x80, 0)
            self._forward[type_["name"]] = self.add(record(leaf, body + number(0) + text(type_["name"])))
        return self._forward[type_["name"]]


def public(name: str, segment: int, offset: int) -> bytes:
    """An S_PUB32 record."""
    data = struct.pack("<HIIH", 0x110E, 2, offset, segment) + text(name)
    data += bytes(-(len(data) + 2) % 4)
    return struct.pack("<H", len(data)) + data


def section(name: bytes, address: int, size: int) -> bytes:
    return struct.pack("<8sIIIIIIHHI", name, size, address, size, 0x400, 0, 0, 0, 0, 0x60000020)


def pdb(
    types: bytes,
    symbols: bytes,
    sections: Sequence[bytes],
    guid: str,
    age: int,
    machine: int = 0x8664,
    original: Sequence[bytes] = (),
    moved: bytes = b"",
    block_size: int = 0x1000,
    stripped: bool = False,
) -> bytes:
    """A PDB file, ``stripped`` of private symbols or not.

    ``original`` are the sections before the image was rearranged, ``moved`` the address map for it.
    """
    information = struct.pack("<III", 20000404, 0x5F000000, age) + uuid.UUID(guid).bytes_le + bytes(20)
    debug = [0xFFFF] * 11
    debug[5] = 6
    streams: list[bytes | None] = [b"", information, types, b"", None, symbols, b"".join(sections)]
    if original:
        debug[10] = len(streams)
        streams.append(b"".join(original))
    if moved:
        debug[4] = len(streams)
        streams.append(moved)
    tail = struct.pack("<11H", *debug)
    head = struct.pack(
        "<iII6H8iHH4x", -1, 19990903, age, 0xFFFF, 0, 0xFFFF, 0, 5, 0, *([0] * 6), len(tail), 0, 2 * stripped, machine
    )
    streams[3] = head + tail
    return msf(streams, block_size)


def kernel_pdb(document: Mapping[str, Any], block_size: int = 0x1000) -> bytes:
    """The PDB of an ISF document that the host's converter made: public symbols and types are those of the document.

    As Microsoft's, it is stripped of private symbols.
    """
    identity = document["metadata"]["windows"]["pdb"]
    symbols = b"".join(
        public(symbol.get("linkage_name", name), 1 if symbol["address"] >= 0x1000 else 3, symbol["address"] - 0x1000)
        for name, symbol in document["symbols"].items()
        if symbol["address"] >= 0x1000
    )
    # Every address in one section; the host leaves out what is in the last.
    sections = [section(b".text", 0x1000, 0x2000000), section(b".last", 0x2001000, 0x1000)]
    return pdb(
        tpi(Types(document).records),
        symbols,
        sections,
        identity["GUID"],
        identity["age"],
        identity["machine_type"],
        block_size=block_size,
        stripped=True,
    )
