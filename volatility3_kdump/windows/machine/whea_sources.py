"""What tells the system of hardware errors: WHEA's table of error sources, and error packets.

``nt!WheapErrorSourceTable`` is a ``_WHEAP_ERROR_SOURCE_TABLE``, whose list has a ``_WHEAP_ERROR_SOURCE`` for each
source with the error records that were allocated for it. A packet is a ``_WHEA_ERROR_PACKET_V2``, or of the
first version of ``ntddk.h``, which symbols do not describe.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.errors import CorruptDump, KdumpError, Unreadable
from volatility3_kdump.lists import walk_list
from volatility3_kdump.memory import Memory
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MOST_SOURCES, _MOST_RECORDS = 1024, 4096
#: _WHEA_ERROR_SOURCE_TYPE, _WHEA_ERROR_TYPE, _WHEA_ERROR_SEVERITY and _WHEA_ERROR_PACKET_DATA_FORMAT of ``ntddk.h``.
SOURCE_TYPES = (
    *("MCE", "CMC", "CPE", "NMI", "PCIe", "Generic", "INIT", "BOOT", "SCIGeneric", "IPFMCA", "IPFCMC", "IPFCPE"),
    *("GenericV2", "SCIGenericV2", "BMC", "PMEM", "DeviceDriver"),
)
ERROR_TYPES = ("Processor", "Memory", "PCIExpress", "NMI", "PCIXBus", "PCIXDevice", "Generic", "Pmem")
SEVERITIES = ("Recoverable", "Fatal", "Corrected", "Informational")
_FORMATS = (
    *("IPF SAL Record", "XPF MCA", "Memory", "PCIExpress", "NMIPort", "PCIXBus", "PCIXDevice", "Generic"),
    "Memory2",
)
#: WHEA_RAW_DATA_FORMAT, of the first version.
_FIRST_FORMATS = (
    *("IPF SAL Record", "IA32 MCA", "Intel64 MCA", "AMD64 MCA", "Memory", "PCIExpress", "NMIPort", "PCIXBus"),
    *("PCIXDevice", "Generic"),
)
_FIELDS = {
    "kind": "Type",
    "errors": "ErrorCount",
    "records": "RecordCount",
    "length": "RecordLength",
    "first": "Records",
    "descriptor_length": "Descriptor.Length",
    "raw": "Descriptor.MaxRawDataLength",
    "preallocate": "Descriptor.NumRecordsToPreallocate",
    "sections": "Descriptor.MaxSectionsPerRecord",
    "number": "Descriptor.ErrorSourceId",
    "flags": "Descriptor.Flags",
}
_SIGNATURE = b"WHEA"
_SECOND = struct.Struct("<4s7I16sQ4I")
#: Flags, Size, RawDataLength, Context, ErrorType, ErrorSeverity, ErrorSourceId, ErrorSourceType, Version, Cpu.
_FIRST = struct.Struct("<III4xQIIII4xIQ")
_FIRST_VERSION, _FORMAT_AT, _DATA_AT = 2, 0x110, 0x118


@dataclass(frozen=True)
class ErrorRecordPlace:
    """A record that was allocated for a source: its wrapper, the record itself, whether an error is in it (``None`` if
    that is not in the dump)."""

    wrapper: int
    record: int
    in_use: bool | None


@dataclass(frozen=True)
class ErrorSource:
    """A ``_WHEAP_ERROR_SOURCE`` with its descriptor; ``None`` is not in the dump."""

    address: int
    kind: int | None
    errors: int | None
    record_count: int | None
    record_length: int | None
    records: tuple[ErrorRecordPlace, ...]
    descriptor: int
    descriptor_length: int | None
    raw_length: int | None
    preallocated: int | None
    sections: int | None
    number: int | None
    flags: int | None

    @property
    def kind_name(self) -> str | None:
        """``MCE``."""
        return None if self.kind is None else picked(SOURCE_TYPES, self.kind)


@dataclass(frozen=True)
class ErrorSources:
    """The table of error sources: its address, how many it counts, and what is wrong with its list."""

    address: int
    count: int | None
    sources: tuple[ErrorSource, ...]
    problems: tuple[str, ...]


def picked(names: tuple[str, ...], number: int) -> str | None:
    """The name of a number."""
    return names[number] if number < len(names) else None


def error_sources(target: Target) -> ErrorSources:
    """The sources of hardware errors. Raises :class:`KdumpError` where the dump or the symbols do not have them."""
    nt = require_symbols(target, "error sources", "_WHEAP_ERROR_SOURCE_TABLE", "_WHEAP_ERROR_SOURCE", names=True)
    table = target.symbol("WheapErrorSourceTable")
    if table is None:
        raise KdumpError(f"{target.name}: the symbols do not have WheapErrorSourceTable")
    count = target.memory.unsigned(table + nt.offset("_WHEAP_ERROR_SOURCE_TABLE", "Count"), 4)
    if count is None:
        raise Unreadable.at(table, "error sources", target.memory.why_unreadable(table))
    head = table + nt.offset("_WHEAP_ERROR_SOURCE_TABLE", "Items")
    walk = walk_list(target.memory, head, _MOST_SOURCES, "WheapErrorSourceTable.Items")
    link = nt.offset("_WHEAP_ERROR_SOURCE", "ListEntry")
    sources = tuple(_source(target, entry - link) for entry in walk.entries)
    return ErrorSources(table, count, sources, walk.problems)


def _source(target: Target, address: int) -> ErrorSource:
    nt = require_symbols(target, "error sources")
    row = read_row(target.memory, nt.reader("_WHEAP_ERROR_SOURCE", **_FIELDS), address)
    descriptor = address + nt.offset("_WHEAP_ERROR_SOURCE", "Descriptor")
    if row is None:
        return ErrorSource(address, None, None, None, None, (), descriptor, *(6 * (None,)))
    return ErrorSource(
        address,
        row.kind,
        row.errors,
        row.records,
        row.length,
        _records(target, row.first, row.records, row.length),
        descriptor,
        row.descriptor_length,
        row.raw,
        row.preallocate,
        row.sections,
        row.number,
        row.flags,
    )


def _records(target: Target, first: int | None, count: int | None, length: int | None) -> tuple[ErrorRecordPlace, ...]:
    """The wrappers stand one behind the other."""
    nt = require_symbols(target, "error sources")
    type_name = "_WHEAP_ERROR_RECORD_WRAPPER"
    if not first or not count or not length or not nt.has_type(type_name):
        return ()
    record, in_use = nt.offset(type_name, "ErrorRecord"), nt.field(type_name, "InUse")
    places = []
    for index in range(min(count, _MOST_RECORDS)):
        wrapper = first + index * length
        used = target.memory.unsigned(wrapper + in_use.offset, in_use.size)
        places.append(ErrorRecordPlace(wrapper, wrapper + record, None if used is None else bool(used)))
    return tuple(places)


@dataclass(frozen=True)
class ErrorPacket:
    """A WHEA_ERROR_PACKET. ``processor`` is that of the first version; ``data`` is where the raw data lies."""

    address: int
    version: int
    flags: int
    size: int
    context: int
    kind: int
    severity: int
    source: int
    source_type: int
    processor: int | None
    data_format: int
    data: int
    data_length: int

    @property
    def format_name(self) -> str | None:
        """``Intel64 MCA``."""
        return picked(_FIRST_FORMATS if self.version == _FIRST_VERSION else _FORMATS, self.data_format)


def read_error_packet(memory: Memory, address: int) -> ErrorPacket:
    """The error packet at an address.

    Raises :class:`Unreadable` when it is not in the dump, :class:`CorruptDump` when there is something else.
    """
    head = memory.read(address, _SECOND.size)
    if head is None:
        raise Unreadable.at(address, "no error packet", memory.why_unreadable(address))
    if head[:4] in (_SIGNATURE, _SIGNATURE[::-1]):
        _, version, length, flags, kind, severity, source, source_type, _, context, form, _, offset, size = (
            _SECOND.unpack(head)
        )
        return ErrorPacket(
            address,
            version,
            flags,
            length,
            context,
            kind,
            severity,
            source,
            source_type,
            None,
            form,
            address + offset,
            size,
        )
    flags, size, raw, context, kind, severity, source, source_type, version, processor = _FIRST.unpack_from(head)
    form = memory.unsigned(address + _FORMAT_AT, 4)
    if version != _FIRST_VERSION or form is None or kind >= len(ERROR_TYPES) or severity >= len(SEVERITIES):
        raise CorruptDump(f"no error packet at {address:#x}: it has neither the signature nor the version of one")
    at = address + _DATA_AT
    return ErrorPacket(
        address, version, flags, size, context, kind, severity, source, source_type, processor, form, at, raw
    )
