"""Hives: where their cells lie in memory, and how they are listed.

``nt!CmpHiveListHead`` lists the ``_CMHIVE``. A cell index is a bit for the kind of storage (stable, volatile), ten bits
of a directory, nine of a table and twelve of a block (``_HMAP_DIRECTORY``, ``_HMAP_TABLE``, ``_HMAP_ENTRY``). Since
Windows 10 1803 most blocks lie in user mode of the process Registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.lists import walk_list
from volatility3_kdump.memory import Memory
from volatility3_kdump.windows.processes.process_lists import process_addresses
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.processes.user_mode import process_memory
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_SIGNATURE = 0xBEE0BEE0
_MOST_HIVES = 4096
_SYSTEM = 4
_NO_CELL = 0xFFFFFFFF
_BLOCK_FLAGS = 0xF
_VOLATILE = 1 << 31
#: Cells begin behind the base block in a hive that is one piece.
_BASE_BLOCK = 0x1000
_NEEDED = ("_CMHIVE", "_HHIVE", "_HMAP_DIRECTORY", "_HMAP_TABLE", "_HMAP_ENTRY", "_CM_KEY_NODE")


@dataclass(frozen=True)
class Hive:
    """A ``_CMHIVE``. ``None`` is not in the dump, or not in this kernel's structure.

    ``stable`` and ``volatile`` are (length, address of the map) of its storages; ``path`` its root in the registry,
    ``file`` the file it is of, ``use_count`` UseCount; ``root_cell`` the cell of its root key; ``flat`` says that it is
    in one piece behind its base block.
    """

    address: int
    stable: tuple[int | None, int | None]
    volatile: tuple[int | None, int | None]
    base_block: int | None
    path: str | None
    file: str | None
    use_count: int | None
    root_cell: int
    flat: bool
    root_kcb: int | None
    cache_table: int | None
    cache_size: int | None


@dataclass(frozen=True)
class HiveList:
    """The hives of the system, and what is wrong with their list."""

    hives: tuple[Hive, ...]
    problems: tuple[str, ...]


def hive_list(target: Target) -> HiveList:
    """Every hive, in the list's order. Raises :class:`KdumpError` where there is none in the dump."""
    return target.once(_hives)


def _hives(target: Target) -> HiveList:
    nt = require_symbols(target, "hives", *_NEEDED, names=True)
    head = target.symbol("CmpHiveListHead")
    if head is None:
        raise KdumpError(f"{target.name}: the symbols do not have CmpHiveListHead")
    if target.memory.pointer(head) is None:
        raise Unreadable.at(head, "hives", target.memory.why_unreadable(head))
    link = nt.offset("_CMHIVE", "HiveList")
    walk = walk_list(target.memory, head, _MOST_HIVES, "CmpHiveListHead")
    hives, problems = [], list(walk.problems)
    for entry in walk.entries:
        try:
            hives.append(read_hive(target, entry - link))
        except KdumpError as error:
            problems.append(str(error))
    return HiveList(tuple(hives), tuple(problems))


def read_hive(target: Target, address: int) -> Hive:
    """The hive at an address. Raises :class:`KdumpError` where there is none."""
    nt = require_symbols(target, "hives", *_NEEDED)
    storage = nt.field("_HHIVE", "Storage")
    dual = storage.size // 2
    row = read_row(
        target.memory,
        nt.reader(
            "_CMHIVE",
            signature="Hive.Signature",
            base="Hive.BaseBlock",
            flat="Hive.Flat",
            use_count="UseCount",
            root="RootKcb",
            table="KcbCacheTable",
            size="KcbCacheTableSize",
        ),
        address,
    )
    if row is None or row.signature is None:
        raise Unreadable.at(address, "a hive", target.memory.why_unreadable(address))
    if row.signature != _SIGNATURE:
        raise KdumpError(f"no hive at {address:#x}: its signature is {row.signature:#x}")
    length, map_at = nt.offset("_DUAL", "Length"), nt.offset("_DUAL", "Map")

    def stored(kind: int) -> tuple[int | None, int | None]:
        start = address + nt.offset("_CMHIVE", "Hive") + storage.offset + kind * dual
        return target.memory.unsigned(start + length, 4), target.memory.pointer(start + map_at)

    def text(*names: str) -> str | None:
        texts = [target.memory.unicode_string(address + nt.offset("_CMHIVE", name)) for name in names]
        return next((string for string in texts if string), texts[-1])

    root = target.memory.unsigned(row.base + nt.offset("_HBASE_BLOCK", "RootCell"), 4) if row.base else None
    return Hive(
        address,
        stored(0),
        stored(1),
        row.base,
        text("HiveRootPath"),
        text("FileUserName", "FileFullPath"),
        row.use_count,
        0x20 if root is None else root,
        bool(row.flat),
        row.root,
        row.table,
        row.size,
    )


def registry_memory(target: Target) -> Memory:
    """The memory that cells lie in: the kernel's, and user mode of the process Registry where there is one."""
    return target.once(_registry_memory)


def _registry_memory(target: Target) -> Memory:
    for address in process_addresses(target):
        process = read_process(target, address)
        if process.name == "Registry" and process.parent == _SYSTEM:
            return process_memory(target, process) or target.memory
    return target.memory


class Cells:
    """The cells of one hive by their index."""

    def __init__(self, target: Target, hive: Hive) -> None:
        self.hive = hive
        self.memory = registry_memory(target)
        nt = require_symbols(target, "hives", *_NEEDED)
        self._width = target.memory.pointer_size
        self._entry = nt.size_of("_HMAP_ENTRY")
        self._block = nt.find("_HMAP_ENTRY", "BlockAddress")
        self._offset = nt.find("_HMAP_ENTRY", "BlockOffset")
        self._bin = nt.find("_HMAP_ENTRY", "PermanentBinAddress")
        self._blocks: dict[int, int | None] = {}

    def address(self, index: int) -> int | None:
        """Where the contents of a cell lie; ``None`` where the dump does not say."""
        if index == _NO_CELL:
            return None
        volatile = index >> 31
        length, _ = self.hive.volatile if volatile else self.hive.stable
        if length is not None and index & ~_VOLATILE >= length:
            return None
        if self.hive.flat and not volatile:
            # Each cell begins with its size.
            return None if self.hive.base_block is None else self.hive.base_block + _BASE_BLOCK + index + 4
        number = index >> 12
        if number not in self._blocks:
            self._blocks[number] = self._block_of(index)
        block = self._blocks[number]
        return None if block is None else block + (index & 0xFFF) + 4

    def _block_of(self, index: int) -> int | None:
        _, directory = self.hive.volatile if index >> 31 else self.hive.stable
        memory = self.memory
        table = memory.pointer(directory + (index >> 21 & 0x3FF) * self._width) if directory else None
        if not table:
            return None
        entry = table + (index >> 12 & 0x1FF) * self._entry
        if self._block is not None:
            return memory.pointer(entry + self._block.offset) or None
        if self._offset is None or self._bin is None:
            return None
        offset, start = memory.pointer(entry + self._offset.offset), memory.pointer(entry + self._bin.offset)
        return None if offset is None or not start else (start & ~_BLOCK_FLAGS) + offset

    def read(self, index: int, offset: int, size: int) -> bytes | None:
        """Bytes of a cell."""
        address = self.address(index)
        return None if address is None else self.memory.read(address + offset, size)
