"""Keys and values of a hive, and the way from a path to them.

Source: ``_CM_KEY_NODE``, ``_CM_KEY_VALUE`` and ``_CM_KEY_INDEX`` of the kernel's symbols, which have been the same
since Windows XP; data of more than 16344 bytes is in pieces (``_CM_BIG_DATA``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.registry.hives import Cells, Hive, hive_list
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

KEY, VALUE = b"nk", b"vk"
_FAST, _HASHED, _PLAIN, _INDEX, _BIG = b"lf", b"lh", b"li", b"ri", b"db"
_LINK, _COMPRESSED, _VALUE_COMPRESSED, _INLINE = 0x10, 0x20, 1, 1 << 31
_PIECE = 16344
_MOST_KEYS, _MOST_VALUES, _MOST_BYTES, _MOST_LINKS, _DEEPEST = 1 << 16, 1 << 14, 1 << 20, 8, 512
_LINK_VALUE = "SymbolicLinkValue"
#: REG_* of ``winnt.h``.
TYPES = (
    *("REG_NONE", "REG_SZ", "REG_EXPAND_SZ", "REG_BINARY", "REG_DWORD", "REG_DWORD_BIG_ENDIAN", "REG_LINK"),
    *("REG_MULTI_SZ", "REG_RESOURCE_LIST", "REG_FULL_RESOURCE_DESCRIPTOR", "REG_RESOURCE_REQUIREMENTS_LIST"),
    "REG_QWORD",
)
_SHORTHANDS = {"HKLM": "\\REGISTRY\\MACHINE", "HKU": "\\REGISTRY\\USER"}
_NODE_FIELDS = {
    "signature": "Signature",
    "flags": "Flags",
    "written": "LastWriteTime.QuadPart",
    "parent": "Parent",
    "name_length": "NameLength",
    "value_count": "ValueList.Count",
    "value_list": "ValueList.List",
}
_VALUE_FIELDS = {
    "signature": "Signature",
    "name_length": "NameLength",
    "length": "DataLength",
    "data": "Data",
    "kind": "Type",
    "flags": "Flags",
}


@dataclass(frozen=True)
class Key:
    """A key node: ``written`` is a FILETIME; ``counts`` and ``lists`` of stable and volatile subkeys.

    ``cell`` is ``None`` for a node that was read by its address.
    """

    address: int
    cell: int | None
    name: str | None
    flags: int
    written: int
    parent: int
    counts: tuple[int, int]
    lists: tuple[int, int]
    value_count: int
    value_list: int

    @property
    def is_link(self) -> bool:
        return bool(self.flags & _LINK)


@dataclass(frozen=True)
class Value:
    """A value: ``data`` is ``None`` where it is not in the dump as a whole; ``length`` is what it is to have."""

    address: int
    name: str | None
    kind: int
    length: int
    data: bytes | None

    @property
    def kind_name(self) -> str:
        return TYPES[self.kind] if self.kind < len(TYPES) else f"{self.kind:#x}"

    @property
    def number(self) -> int | None:
        """The number of a REG_DWORD or REG_QWORD."""
        sizes = {"REG_DWORD": 4, "REG_QWORD": 8}
        if self.data is None or len(self.data) != sizes.get(self.kind_name):
            return None
        return int.from_bytes(self.data, "little")

    @property
    def texts(self) -> list[str] | None:
        """The text or texts of a value that has any."""
        if self.data is None or self.kind_name not in ("REG_SZ", "REG_EXPAND_SZ", "REG_LINK", "REG_MULTI_SZ"):
            return None
        string = self.data[: len(self.data) & ~1].decode("utf-16-le", "replace")
        if self.kind_name == "REG_MULTI_SZ":
            return string.rstrip("\0").split("\0")
        return [string.rstrip("\0") if self.kind_name == "REG_LINK" else string.split("\0", 1)[0]]


class HiveKeys:
    """The keys of one hive."""

    def __init__(self, target: Target, hive: Hive) -> None:
        self.hive = hive
        self.cells = Cells(target, hive)
        self._nt = require_symbols(target, "the registry", "_CM_KEY_NODE", "_CM_KEY_VALUE")
        self._node = self._nt.reader("_CM_KEY_NODE", **_NODE_FIELDS)
        self._value = self._nt.reader("_CM_KEY_VALUE", **_VALUE_FIELDS)

    def root(self) -> Key | None:
        """The hive's root."""
        return self.key(self.hive.root_cell)

    def key(self, cell: int) -> Key | None:
        """The key in a cell; ``None`` where none is in the dump."""
        address = self.cells.address(cell)
        return None if address is None else self.key_at(address, cell)

    def key_at(self, address: int, cell: int | None = None) -> Key | None:
        """The key node at an address."""
        memory, nt = self.cells.memory, self._nt
        row: Any = read_row(memory, self._node, address)
        if row is None or row.signature is None or row.signature.to_bytes(2, "little") != KEY:
            return None
        if None in (row.flags, row.name_length, row.written):
            return None
        counts, lists = (
            memory.read(address + nt.offset("_CM_KEY_NODE", name), 8) for name in ("SubKeyCounts", "SubKeyLists")
        )
        compressed = bool(row.flags & _COMPRESSED)
        return Key(
            address,
            cell,
            self._name(address + nt.offset("_CM_KEY_NODE", "Name"), row.name_length, compressed),
            row.flags,
            row.written,
            row.parent or 0,
            struct.unpack("<II", counts) if counts is not None else (0, 0),
            struct.unpack("<II", lists) if lists is not None else (0, 0),
            row.value_count or 0,
            row.value_list or 0,
        )

    def known_at(self, address: int) -> Key:
        """As :meth:`key_at`. Raises :class:`KdumpError` where there is none."""
        key = self.key_at(address)
        if key is None:
            why = self.cells.memory.why_absent(address) or "it has another signature"
            raise KdumpError(f"no key node is at {address:x}: {why}")
        return key

    def _name(self, address: int, length: int, compressed: bool) -> str | None:
        data = self.cells.memory.read(address, length)
        return None if data is None else data.decode("latin-1" if compressed else "utf-16-le", "replace")

    def subkeys(self, key: Key, volatile: bool, problems: list[str]) -> Iterator[Key]:
        """The subkeys of one kind; what is not in the dump is appended to ``problems``."""
        if not key.counts[volatile]:
            return
        for cell in self._listed(key.lists[volatile], problems, 0):
            subkey = self.key(cell)
            if subkey is None:
                problems.append(f"the key in cell {cell:x} is not in the dump")
            else:
                yield subkey

    def _listed(self, cell: int, problems: list[str], depth: int) -> Iterator[int]:
        head = self.cells.read(cell, 0, 4)
        kind, count = (head[:2], int.from_bytes(head[2:4], "little")) if head is not None else (b"", 0)
        step = 8 if kind in (_FAST, _HASHED) else 4
        data = self.cells.read(cell, 4, count * step) if kind in (_FAST, _HASHED, _PLAIN, _INDEX) else None
        if data is None or count > _MOST_KEYS or depth > 1:
            problems.append(f"the list of subkeys in cell {cell:x} is not in the dump")
            return
        for start in range(0, len(data), step):
            entry = int.from_bytes(data[start : start + 4], "little")
            if kind == _INDEX:
                yield from self._listed(entry, problems, depth + 1)
            else:
                yield entry

    def values(self, key: Key, problems: list[str]) -> Iterator[Value]:
        """The values of a key; what is not in the dump is appended to ``problems``."""
        if not key.value_count:
            return
        count = min(key.value_count, _MOST_VALUES)
        data = self.cells.read(key.value_list, 0, 4 * count)
        if data is None:
            problems.append(f"the list of {key.value_count} values in cell {key.value_list:x} is not in the dump")
            return
        for (cell,) in struct.iter_unpack("<I", data):
            address = self.cells.address(cell)
            entry = self.value_at(address) if address is not None else None
            if entry is None:
                problems.append(f"the value in cell {cell:x} is not in the dump")
            else:
                yield entry

    def value_at(self, address: int) -> Value | None:
        """The value at an address; ``None`` where none is in the dump."""
        row: Any = read_row(self.cells.memory, self._value, address)
        if row is None or row.signature is None or row.signature.to_bytes(2, "little") != VALUE:
            return None
        if None in (row.length, row.data, row.kind, row.flags, row.name_length):
            return None
        name = self._name(
            address + self._nt.offset("_CM_KEY_VALUE", "Name"), row.name_length, bool(row.flags & _VALUE_COMPRESSED)
        )
        length = row.length & ~_INLINE
        if row.length & _INLINE:
            return Value(address, name, row.kind, length, row.data.to_bytes(4, "little")[:length])
        return Value(address, name, row.kind, length, self._data(row.data, length))

    def _data(self, cell: int, length: int) -> bytes | None:
        if not length:
            return b""
        if length > _MOST_BYTES:
            return None
        head = self.cells.read(cell, 0, 8) if length > _PIECE else None
        if head is None or head[:2] != _BIG:
            return self.cells.read(cell, 0, length)
        count, places = struct.unpack_from("<HI", head, 2)
        pieces = self.cells.read(places, 0, 4 * count)
        whole = b""
        for (piece,) in struct.iter_unpack("<I", pieces or b""):
            part = self.cells.read(piece, 0, min(_PIECE, length - len(whole)))
            if part is None:
                return None
            whole += part
        return whole if len(whole) == length else None


@dataclass(frozen=True)
class FoundKey:
    """A key with its hive, and the path that led to it after links were followed."""

    keys: HiveKeys
    key: Key
    path: str


def find_key(target: Target, path: str) -> FoundKey:
    """The key of a path (``\\REGISTRY\\MACHINE\\SYSTEM\\...``, ``HKLM\\...``), links followed.

    Raises :class:`KdumpError` that says which part of the path is not there.
    """
    for _ in range(_MOST_LINKS):
        key, rest = _descend(target, _full(path))
        if rest is None:
            return key
        path = rest
    raise KdumpError(f"{target.name}: the links of {path} lead in circles")


def _full(path: str) -> str:
    head, _, rest = path.strip("\\").partition("\\")
    start = _SHORTHANDS.get(head.upper())
    return f"{start}\\{rest}".rstrip("\\") if start else "\\" + path.strip("\\")


def _descend(target: Target, path: str) -> tuple[FoundKey, str | None]:
    """The key of a path, or the key of a link on the way and the path that it leads to."""
    hive = _hive_of(target, path)
    keys = HiveKeys(target, hive)
    key = keys.root()
    walked = hive.path or ""
    parts = [part for part in path[len(walked) :].split("\\") if part]
    if len(parts) > _DEEPEST:
        raise KdumpError(f"{target.name}: a path of {len(parts)} keys")
    for number, name in enumerate(parts):
        if key is None:
            break
        problems: list[str] = []
        below = [*keys.subkeys(key, False, problems), *keys.subkeys(key, True, problems)]
        key = next((child for child in below if (child.name or "").lower() == name.lower()), None)
        if key is None:
            doubt = f" ({problems[0]})" if problems else ""
            raise KdumpError(f"{target.name}: {walked or path} has no key {name}{doubt}")
        walked += f"\\{key.name}"
        if key.is_link:
            leads = next((value.texts for value in keys.values(key, problems) if value.name == _LINK_VALUE), None)
            if leads:
                return FoundKey(keys, key, walked), "\\".join([leads[0], *parts[number + 1 :]])
    if key is None:
        raise KdumpError(f"{target.name}: the root of the hive {hive.address:x} ({walked or '?'}) is not in the dump")
    return FoundKey(keys, key, walked), None


def _hive_of(target: Target, path: str) -> Hive:
    """The hive whose root is nearest to a path."""
    listed = hive_list(target)
    wanted = path.lower() + "\\"
    holding = [hive for hive in listed.hives if hive.path and wanted.startswith(hive.path.lower() + "\\")]
    if not holding:
        roots = sorted({hive.path for hive in listed.hives if hive.path})
        raise KdumpError(f"{target.name}: no hive holds {path}: there are {', '.join(roots[:6]) or 'none'}")
    return max(holding, key=lambda hive: len(hive.path or ""))
