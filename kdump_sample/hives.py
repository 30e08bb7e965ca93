"""Hives of the registry in kernel memory: bins of cells, their map, the CMHIVE, and control blocks of open keys."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from kdump_sample.physical import PAGE
from kdump_sample.scene import KernelStructure, Record
from volatility3_kdump.layout import FieldPath, Layouts

Part = KernelStructure | Record

SZ, BINARY, DWORD, LINK, MULTI_SZ = 1, 3, 4, 6, 7
_NO_CELL, _INLINE, _VOLATILE = 0xFFFFFFFF, 1 << 31, 1 << 31
_ROOT, _NO_DELETE, _IS_LINK, _COMPRESSED = 4, 8, 0x10, 0x20
_HEADER = 0x20
_HIVE_SIGNATURE = 0xBEE0BEE0
_WRITTEN = 0x1D7BB6A1C2F4E5D


@dataclass(frozen=True)
class RegistryKey:
    """A key: values as (name, type, data), keys below it. ``link`` is where a symbolic link leads."""

    name: str
    values: tuple[tuple[str, int, bytes], ...] = ()
    keys: tuple[RegistryKey, ...] = ()
    volatile: bool = False
    link: str = ""


@dataclass(frozen=True)
class OpenKey:
    """A control block of a key: its address, the address of its parent's (0 for none), its name and its cell."""

    address: int
    parent: int
    name: str
    slot: int
    cell: int = 0x20


@dataclass(frozen=True)
class RegistryHive:
    """A hive at an address, with its root key; what belongs to it lies behind it, from ``data`` on."""

    address: int
    data: int
    path: str
    file: str
    root: RegistryKey
    open_keys: tuple[OpenKey, ...] = ()


def text(value: str) -> bytes:
    """A REG_SZ."""
    return value.encode("utf-16-le") + b"\0\0"


@dataclass
class _Bins:
    """Cells of one hive: stable and volatile storage, each one bin."""

    parts: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(_HEADER), bytearray(_HEADER)))

    def cell(self, data: bytes, volatile: bool = False) -> int:
        """The index of a new cell."""
        part = self.parts[volatile]
        index = len(part)
        size = -(-(len(data) + 4) // 8) * 8
        part += struct.pack("<i", -size) + data.ljust(size - 4, b"\0")
        return index | (_VOLATILE if volatile else 0)

    def fill(self, index: int, data: bytes) -> None:
        start = (index & ~_VOLATILE) + 4
        self.parts[index >> 31][start : start + len(data)] = data

    def key(self, key: RegistryKey, parent: int, flags: int = 0) -> int:
        """The index of a key with all below it."""
        name = key.name.encode("latin-1")
        own = self.cell(bytes(0x4C + len(name)), key.volatile)
        values = key.values + ((("SymbolicLinkValue", LINK, key.link.encode("utf-16-le")),) if key.link else ())
        cells = [self.value(value, key.volatile) for value in values]
        list_of_values = self.cell(struct.pack(f"<{len(cells)}I", *cells), key.volatile) if cells else _NO_CELL
        counts, lists = [], []
        for volatile in (False, True):
            below = [self.key(child, own) for child in key.keys if (child.volatile or key.volatile) == volatile]
            counts.append(len(below))
            lists.append(self._index(below, volatile) if below else _NO_CELL)
        flags |= _COMPRESSED | (_IS_LINK if key.link else 0)
        head = struct.pack("<2sHQII2I2I", b"nk", flags, _WRITTEN, 0, parent, *counts, *lists)
        middle = struct.pack("<4I4II", len(cells), list_of_values, _NO_CELL, _NO_CELL, 0, 0, 0, 0, 0)
        self.fill(own, head + middle + struct.pack("<HH", len(name), 0) + name)
        return own

    def _index(self, cells: list[int], volatile: bool) -> int:
        entries = b"".join(struct.pack("<I4x", cell) for cell in cells)
        return self.cell(struct.pack("<2sH", b"lh", len(cells)) + entries, volatile)

    def value(self, value: tuple[str, int, bytes], volatile: bool) -> int:
        name, kind, data = value
        encoded = name.encode("latin-1")
        if len(data) <= 4:
            length, place = len(data) | _INLINE, int.from_bytes(data, "little")
        else:
            length, place = len(data), self.cell(data, volatile)
        head = struct.pack("<2sHIIIHH", b"vk", len(encoded), length, place, kind, 1, 0)
        return self.cell(head + encoded, volatile)


def hive_parts(hive: RegistryHive, layouts: Layouts) -> Iterator[Part]:
    """The structures and bytes of a hive; ``HiveList`` is for who links several."""
    bins = _Bins()
    root = bins.key(hive.root, _NO_CELL, _ROOT | _NO_DELETE)
    base, at = hive.data, hive.data + PAGE
    fields: dict[FieldPath, int | bytes | str | tuple[int, ...]] = {
        "Hive.Signature": _HIVE_SIGNATURE,
        "Hive.BaseBlock": base,
        "Hive.Flat": 0,
        "UseCount": 0,
    }
    yield KernelStructure("_HBASE_BLOCK", base, {"Signature": 0x66676572, "RootCell": root, "Length": PAGE})
    storage = layouts.offset("_CMHIVE", "Hive") + layouts.offset("_HHIVE", "Storage")
    for kind, part in enumerate(bins.parts):
        if len(part) == _HEADER:
            continue
        length = -(-len(part) // PAGE) * PAGE
        part[:_HEADER] = struct.pack("<4sII", b"hbin", 0, length).ljust(_HEADER, b"\0")
        directory, table, start = at, at + 2 * PAGE, at + 2 * PAGE + 6 * PAGE
        at = start + length
        yield Record(start, bytes(part).ljust(length, b"\0"))
        yield KernelStructure("_HMAP_DIRECTORY", directory, {"Directory[0]": table})
        for number in range(length // PAGE):
            yield KernelStructure(
                "_HMAP_ENTRY",
                table + number * layouts.size_of("_HMAP_ENTRY"),
                {
                    "BlockAddress": start + number * PAGE,
                    "BlockOffset": number * PAGE,
                    # The low bits are flags of the bin.
                    "PermanentBinAddress": start | 1,
                    "BinAddress": start | 1,
                },
            )
        dual = hive.address + storage + kind * layouts.size_of("_DUAL")
        yield KernelStructure("_DUAL", dual, {"Length": length, "Map": directory})
    hashes, slots = at, 16
    fields |= {"KcbCacheTable": hashes, "KcbCacheTableSize": slots}
    fields |= {"RootKcb": hive.open_keys[0].address if hive.open_keys else 0}
    yield KernelStructure("_CMHIVE", hive.address, fields, {"HiveRootPath": hive.path, "FileFullPath": hive.file})
    yield from _control_blocks(hive, hashes, slots, layouts)


def _control_blocks(
    hive: RegistryHive, hashes: int, slots: int, layouts: Layouts
) -> Iterator[KernelStructure | Record]:
    size = layouts.size_of("_CM_KEY_HASH_TABLE_ENTRY")
    names = hashes + slots * size
    inside = layouts.offset("_CM_KEY_CONTROL_BLOCK", "KeyHash")
    for number, key in enumerate(hive.open_keys):
        block = names + number * 0x100
        chained = [other for other in hive.open_keys[number + 1 :] if other.slot == key.slot]
        if all(other.slot != key.slot for other in hive.open_keys[:number]):
            entry = hashes + key.slot * size
            yield KernelStructure("_CM_KEY_HASH_TABLE_ENTRY", entry, {"Entry": key.address + inside})
        yield KernelStructure(
            "_CM_KEY_CONTROL_BLOCK",
            key.address,
            {
                "RefCount": 3,
                "KeyHive": hive.address,
                "KeyCell": key.cell,
                "ParentKcb": key.parent,
                "NameBlock": block,
                "NextHash": chained[0].address + inside if chained else 0,
                "KcbLastWriteTime.QuadPart": _WRITTEN,
            },
        )
        encoded = key.name.encode("latin-1")
        name_at = block + layouts.offset("_CM_NAME_CONTROL_BLOCK", "Name")
        yield KernelStructure("_CM_NAME_CONTROL_BLOCK", block, {"Compressed": 1, "NameLength": len(encoded)})
        yield Record(name_at, encoded)
