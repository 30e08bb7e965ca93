"""Key control blocks: the keys that are open, by the hash tables of their hives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.windows.registry.hives import Hive, hive_list
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_TYPE = "_CM_KEY_CONTROL_BLOCK"
_MOST_SLOTS, _LONGEST_CHAIN, _DEEPEST, _LONGEST_NAME = 1 << 16, 1 << 14, 512, 1024
_FIELDS: dict[str, str | tuple[str, ...]] = {
    "references": "RefCount",
    "hash": ("KeyHash.ConvKey.Hash", "KeyHash.ConvKey", "ConvKey"),
    "hive": "KeyHive",
    "cell": "KeyCell",
    "parent": "ParentKcb",
    "name": "NameBlock",
    "written": "KcbLastWriteTime.QuadPart",
    "next": "NextHash",
}


@dataclass(frozen=True)
class KeyControlBlock:
    """A ``_CM_KEY_CONTROL_BLOCK``; ``None`` is not in the dump. ``flags`` is the word of ExtFlags with what is beside
    it; ``slot`` the entry of the hive's hash table that it was found in."""

    address: int
    references: int | None
    hash_key: int | None
    hive: int | None
    cell: int | None
    flags: int | None
    parent: int | None
    name_block: int | None
    written: int | None
    path: str | None
    slot: int | None = None


def read_control_block(target: Target, address: int, slot: int | None = None) -> KeyControlBlock:
    """The block at an address. Raises :class:`KdumpError` where it is not in the dump."""
    nt = require_symbols(target, "key control blocks", _TYPE, "_CM_NAME_CONTROL_BLOCK")
    row: Any = read_row(target.memory, nt.reader(_TYPE, **_FIELDS), address)
    if row is None:
        raise Unreadable.at(address, "a key control block", target.memory.why_unreadable(address))
    return KeyControlBlock(
        address,
        row.references,
        row.hash,
        row.hive,
        row.cell,
        target.memory.unsigned(address + nt.offset(_TYPE, "ExtFlags"), 4),
        row.parent,
        row.name,
        row.written,
        _path(target, address),
        slot,
    )


def _path(target: Target, address: int) -> str | None:
    """The names of a block and those above it."""
    nt = require_symbols(target, "key control blocks")
    parent, block = nt.offset(_TYPE, "ParentKcb"), nt.offset(_TYPE, "NameBlock")
    parts: list[str] = []
    seen: set[int] = set()
    while address and address not in seen and len(parts) < _DEEPEST:
        seen.add(address)
        named = target.memory.pointer(address + block)
        name = _name(target, named) if named else None
        if name is None:
            return None
        parts.append(name)
        above = target.memory.pointer(address + parent)
        if above is None:
            return None
        address = above
    return "\\" + "\\".join(reversed(parts))


def _name(target: Target, block: int) -> str | None:
    nt = require_symbols(target, "key control blocks")
    type_name = "_CM_NAME_CONTROL_BLOCK"
    head = target.memory.unsigned(block, 4)
    length = target.memory.unsigned(block + nt.offset(type_name, "NameLength"), 2)
    if head is None or length is None or length > _LONGEST_NAME:
        return None
    data = target.memory.read(block + nt.offset(type_name, "Name"), length)
    return None if data is None else data.decode("latin-1" if head & 1 else "utf-16-le", "replace")


def open_keys(target: Target, hive: Hive, problems: list[str]) -> Iterator[KeyControlBlock]:
    """The blocks of a hive's hash table; what is not in the dump is appended to ``problems``."""
    nt = require_symbols(target, "key control blocks", _TYPE, "_CM_KEY_HASH_TABLE_ENTRY", "_CM_KEY_HASH")
    entry_size = nt.size_of("_CM_KEY_HASH_TABLE_ENTRY")
    first, following = nt.offset("_CM_KEY_HASH_TABLE_ENTRY", "Entry"), nt.offset("_CM_KEY_HASH", "NextHash")
    inside = nt.offset(_TYPE, "KeyHash")
    if not hive.cache_table or not hive.cache_size:
        problems.append(f"the hash table of the hive {hive.address:x} is not in the dump")
        return
    absent = 0
    for slot in range(min(hive.cache_size, _MOST_SLOTS)):
        entry = target.memory.pointer(hive.cache_table + slot * entry_size + first)
        absent += entry is None
        seen: set[int] = set()
        while entry and target.is_kernel_address(entry) and entry not in seen and len(seen) < _LONGEST_CHAIN:
            seen.add(entry)
            try:
                yield read_control_block(target, entry - inside, slot)
            except KdumpError as error:
                problems.append(str(error))
                break
            entry = target.memory.pointer(entry + following)
    if absent:
        problems.append(f"{absent} entries of the hash table of the hive {hive.address:x} are not in the dump")


def find_control_block(target: Target, path: str) -> KeyControlBlock:
    """The block of a path. Raises :class:`KdumpError` where no hash table has it."""
    problems: list[str] = []
    for hive in hive_list(target).hives:
        for block in open_keys(target, hive, problems):
            if block.path is not None and block.path.lower() == "\\" + path.strip("\\").lower():
                return block
    doubt = f" ({problems[0]})" if problems else ""
    raise KdumpError(f"{target.name}: no open key is {path}{doubt}")
