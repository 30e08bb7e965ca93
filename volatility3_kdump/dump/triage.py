"""TRIAGE_DUMP: the content of a small memory dump (DumpType 4).

All offsets in it are absolute file offsets. There is no physical memory: data blocks, the call stack and copies of the
crashing processor, process and thread form a sparse virtual address space. Layouts: ``symbols/kdump/structures.json``,
checked on real dumps of Windows 8.1 to 11, x64 and ARM64.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from volatility3_kdump import tables
from volatility3_kdump.dump.header import DumpHeader, is_fill
from volatility3_kdump.dump.segments import Segment
from volatility3_kdump.dump.source import Source
from volatility3_kdump.errors import CorruptDump
from volatility3_kdump.memory import sign_extended

_MARKER = b"TRGD"
_MOST_UNLOADED = 50
#: Far more than any system has: real dumps hold a few hundred drivers and a few thousand blocks.
_MOST_DRIVERS = 1 << 13
_MOST_BLOCKS = 1 << 18
#: Bytes of a driver's path; NT paths of drivers stay below 520.
_LONGEST_STRING = 0x1000
_LAST_ADDRESS = (1 << 64) - 1
_UNSET_OPTIONS = 0xFFFFFFFF


@dataclass(frozen=True)
class TriageDriver:
    """A loaded module of the driver list. ``path`` is ``None`` when its string lies outside the string pool."""

    path: str | None
    base: int
    size: int
    checksum: int
    timestamp: int

    @property
    def name(self) -> str | None:
        """The last component of the path."""
        return None if self.path is None else self.path.rsplit("\\", 1)[-1]


@dataclass(frozen=True)
class UnloadedDriver:
    """An unloaded module; names are cut to 12 characters by the format. ``end`` is exclusive."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Blob:
    """A copied structure: its file offset and the bytes that lie there at most."""

    offset: int
    size: int


@dataclass(frozen=True)
class TriageDump:
    """What the triage header points to. Blobs are ``None`` where the dump does not hold them.

    ``stack`` is the segment of the crashing thread's kernel stack; ``blocks`` are the data blocks in table order.
    ``complete`` says whether the end marker stands where the header says; ``end`` is the file offset of tagged data.
    """

    service_pack: int
    options: int | None
    complete: bool
    end: int
    drivers: tuple[TriageDriver, ...]
    unloaded: tuple[UnloadedDriver, ...]
    broken_driver: str | None
    prcb: Blob | None
    process: Blob | None
    thread: Blob | None
    debugger_data: Blob | None
    stack: Segment | None
    data_page: Segment | None
    blocks: tuple[Segment, ...] = field(repr=False)
    warnings: tuple[str, ...] = ()
    #: DUMP_MM_STORAGE: counters of the memory manager.
    memory_manager: Blob | None = None


def parse_triage(source: Source, header: DumpHeader) -> TriageDump:
    """Read the triage header and everything that it lists.

    Parts that lie outside the file are left out with a warning. Raises :class:`CorruptDump` only when the triage header
    itself is not in the file.
    """
    return _TriageParser(source, header).parse()


class _TriageParser:
    def __init__(self, source: Source, header: DumpHeader) -> None:
        self.source = source
        self.header = header
        self.layouts = tables.structures()
        self.warnings: list[str] = []
        type_name = f"_TRIAGE_DUMP{header.bits}"
        size = self.layouts.size_of(type_name)
        data = source.read(header.header_size, size)
        if len(data) < size:
            raise CorruptDump(
                f"the file ends at offset {source.size:#x}, inside the triage header at {header.header_size:#x}: "
                "the copy is truncated"
            )
        self.row = self.layouts.reader(
            type_name, **{name: name for name in self.layouts.field_names(type_name)}
        ).unpack(data)

    def parse(self) -> TriageDump:
        row = self.row
        complete = self.source.read(row.ValidOffset, 4) == _MARKER
        if not complete:
            self.warnings.append(
                f"the end marker 'TRGD' is not at offset {row.ValidOffset:#x}: the dump is truncated or was not "
                "finished"
            )
        unset = row.TriageOptions == _UNSET_OPTIONS or is_fill(row.TriageOptions, 4, 0)
        return TriageDump(
            service_pack=row.ServicePackBuild,
            options=None if unset else row.TriageOptions,
            complete=complete,
            end=row.SizeOfDump,
            drivers=self._drivers(),
            unloaded=self._unloaded(),
            broken_driver=self._string(row.BrokenDriverOffset) if row.BrokenDriverOffset else None,
            prcb=self._blob("PrcbOffset"),
            process=self._blob("ProcessOffset"),
            thread=self._blob("ThreadOffset"),
            debugger_data=self._sized("DebuggerDataOffset", "DebuggerDataSize"),
            stack=self._segment("TopOfStack", "CallStackOffset", "SizeOfCallStack"),
            data_page=self._segment("DataPageAddress", "DataPageOffset", "DataPageSize"),
            blocks=self._blocks(),
            memory_manager=self._blob("MmOffset"),
            warnings=tuple(self.warnings),
        )

    def _address(self, value: int) -> int:
        return sign_extended(value, self.header.pointer_size)

    def _blob(self, name: str) -> Blob | None:
        """A copy whose size the file does not store: it reaches to the next thing at most."""
        offset = getattr(self.row, name)
        if not self._inside(name, offset):
            return None
        others = [
            value
            for field_name in self.row._fields
            if field_name.endswith("Offset")
            for value in (getattr(self.row, field_name),)
        ]
        following = min((other for other in others if other > offset), default=self.source.size)
        return Blob(offset, min(following, self.source.size) - offset)

    def _sized(self, offset_name: str, size_name: str) -> Blob | None:
        offset, size = getattr(self.row, offset_name), getattr(self.row, size_name)
        if not size or not self._inside(offset_name, offset):
            return None
        if offset + size > self.source.size:
            self.warnings.append(f"{size_name} {size:#x} at {offset:#x} passes the end of the file; cut")
            size = self.source.size - offset
        return Blob(offset, size)

    def _inside(self, name: str, offset: int) -> bool:
        """Whether an offset points behind the header and into the file; zero means that there is nothing."""
        if not offset:
            return False
        if offset < self.header.header_size:
            self.warnings.append(f"{name} is {offset:#x}, inside the dump header; ignored")
        elif offset >= self.source.size:
            self.warnings.append(f"{name} is {offset:#x}, outside the file of {self.source.size:#x} bytes; ignored")
        else:
            return True
        return False

    def _segment(self, address_name: str, offset_name: str, size_name: str) -> Segment | None:
        blob = self._sized(offset_name, size_name)
        address = self._address(getattr(self.row, address_name))
        return Segment(address, blob.offset, _below_top(address, blob.size)) if blob and address else None

    def _string(self, offset: int) -> str | None:
        """A DUMP_STRING of the pool: a count of UTF-16 units, then the units."""
        start = self.row.StringPoolOffset
        end = min(start + self.row.StringPoolSize, self.source.size)
        if not start <= offset <= end - 4:
            return None
        count = int.from_bytes(self.source.read(offset, 4), "little")
        length = min(2 * count, end - offset - 4, _LONGEST_STRING) & ~1
        return self.source.read(offset + 4, length).decode("utf-16-le", "replace").split("\0", 1)[0]

    def _drivers(self) -> tuple[TriageDriver, ...]:
        type_name = f"_TRIAGE_DRIVER{self.header.bits}"
        stride = self.layouts.size_of(type_name)
        offset, count = self.row.DriverListOffset, self.row.DriverCount
        if not count or not self._inside("DriverListOffset", offset):
            return ()
        pool = self.row.StringPoolOffset
        count = self._bounded("DriverCount", offset, count, stride, _MOST_DRIVERS, pool if pool > offset else None)
        reader = self.layouts.reader(
            type_name,
            name="NameOffset",
            base="DllBase",
            size="SizeOfImage",
            checksum="CheckSum",
            timestamp="TimeDateStamp",
        )
        data = self.source.read(offset, count * stride)
        drivers = []
        nameless = 0
        for index in range(len(data) // stride):
            row = reader.unpack(data, index * stride)
            if not row.base and not row.name:
                continue
            path = self._string(row.name)
            nameless += path is None
            drivers.append(TriageDriver(path, self._address(row.base), row.size, row.checksum, row.timestamp))
        if nameless:
            self.warnings.append(f"{nameless} drivers have names outside the string pool")
        return tuple(drivers)

    def _unloaded(self) -> tuple[UnloadedDriver, ...]:
        offset = self.row.UnloadedDriversOffset
        width = self.header.pointer_size
        if not self._inside("UnloadedDriversOffset", offset):
            return ()
        count = int.from_bytes(self.source.read(offset, width), "little")
        type_name = f"_TRIAGE_UNLOADED_DRIVER{self.header.bits}"
        stride = self.layouts.size_of(type_name)
        count = self._bounded("the number of unloaded drivers", offset + width, count, stride, _MOST_UNLOADED)
        reader = self.layouts.reader(
            type_name, length="NameLength", name="DriverName", start="StartAddress", end="EndAddress"
        )
        data = self.source.read(offset + width, count * stride)
        drivers = []
        for index in range(len(data) // stride):
            row = reader.unpack(data, index * stride)
            name = row.name[: min(row.length, len(row.name)) & ~1].decode("utf-16-le", "replace").split("\0", 1)[0]
            if row.start or row.end:
                drivers.append(UnloadedDriver(name, self._address(row.start), self._address(row.end)))
        return tuple(drivers)

    def _blocks(self) -> tuple[Segment, ...]:
        offset, count = self.row.DataBlocksOffset, self.row.DataBlocksCount
        if not count or not self._inside("DataBlocksOffset", offset):
            return ()
        type_name = "_TRIAGE_DATA_BLOCK"
        # Public descriptions of the 32-bit table disagree on 16 or 12 bytes; the right one gives abutting entries.
        if (
            self.header.bits == 32
            and not self._contiguous(type_name, offset, count)
            and self._contiguous("_TRIAGE_DATA_BLOCK32", offset, count)
        ):
            type_name = "_TRIAGE_DATA_BLOCK32"
        count = self._bounded("DataBlocksCount", offset, count, self.layouts.size_of(type_name), _MOST_BLOCKS)
        blocks = []
        outside = 0
        for row in self._block_rows(type_name, offset, count):
            address = self._address(row.address)
            inside = self.header.header_size <= row.offset < self.source.size
            size = min(row.size, self.source.size - row.offset) if inside else 0
            if size < row.size:
                outside += 1
            if size and address <= _LAST_ADDRESS:
                blocks.append(Segment(address, row.offset, _below_top(address, size)))
        if outside:
            self.warnings.append(
                f"{outside:,} of {count:,} data blocks lie partly or wholly in the header or behind the end of the file"
            )
        return tuple(blocks)

    def _block_rows(self, type_name: str, offset: int, count: int) -> Iterator[Any]:
        """The entries of the block table, as far as the file holds them."""
        stride = self.layouts.size_of(type_name)
        reader = self.layouts.reader(type_name, address="Address", offset="Offset", size="Size")
        data = self.source.read(offset, count * stride)
        for index in range(len(data) // stride):
            yield reader.unpack(data, index * stride)

    def _contiguous(self, type_name: str, offset: int, count: int) -> bool:
        """Whether the first entries of the table lie in the file and abut."""
        rows = list(self._block_rows(type_name, offset, min(count, 64)))
        return all(row.offset + row.size <= self.source.size for row in rows) and all(
            before.offset + before.size == after.offset for before, after in itertools.pairwise(rows)
        )

    def _bounded(self, what: str, offset: int, count: int, stride: int, most: int, end: int | None = None) -> int:
        """A count from the file, cut to what fits between ``offset`` and ``end`` (by default that of the file)."""
        place = "the end of the file" if end is None or end > self.source.size else f"offset {end:#x}"
        room = max(0, (min(end or self.source.size, self.source.size) - offset) // stride)
        if count > room:
            self.warnings.append(
                f"{what} is {count:,}, but only {room:,} entries fit between offset {offset:#x} and {place}"
            )
            count = room
        if count > most:
            self.warnings.append(f"{what} at offset {offset:#x} is {count:,}: at most {most:,} are read")
        return int(min(count, most))


def _below_top(address: int, size: int) -> int:
    """As many of ``size`` bytes from an address on as the address space has."""
    return min(size, _LAST_ADDRESS + 1 - address)
