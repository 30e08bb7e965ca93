"""The header of a crash dump that is written: that of the dump it is made of, or one from the facts of an image."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump import tables
from volatility3_kdump.cpu.context import context_size, parse_context
from volatility3_kdump.cpu.state import context_record
from volatility3_kdump.dump import DumpHeader, DumpType
from volatility3_kdump.version import __version__
from volatility3_kdump.windows.processes.crashed import crash_context

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: LIVE_SYSTEM_DUMP: no bug check, a dump that was made of a machine while it ran.
LIVE = 0x161
_MAJOR_VERSION = 0xF
_BREAKPOINT, _NOT_CONTINUABLE = 0x80000003, 1
_COMMENT = 128
#: Bytes of PhysicalMemoryBlockBuffer.
_DESCRIPTOR_ROOM = 700
_FILL = b"PAGE"


class _Form(NamedTuple):
    """What differs between the headers: the mark in ValidDump, the counts of PHYSICAL_MEMORY_DESCRIPTOR and a run, the
    room of the context and of the exception record, and the begin of that record up to the number of parameters."""

    mark: bytes
    counts: struct.Struct
    run: struct.Struct
    context_room: int
    exception_room: int
    exception: struct.Struct


_FORMS = {
    64: _Form(b"DU64", struct.Struct("<I4xQ"), struct.Struct("<QQ"), 3000, 152, struct.Struct("<IIQQI")),
    32: _Form(b"DUMP", struct.Struct("<II"), struct.Struct("<II"), 1200, 80, struct.Struct("<IIIII")),
}

#: Facts by the fields that they go into.
_FIELDS = {
    "MajorVersion": "major_version",
    "MinorVersion": "build_number",
    "DirectoryTableBase": "directory_table_base",
    "PsLoadedModuleList": "ps_loaded_module_list",
    "PsActiveProcessHead": "ps_active_process_head",
    "MachineImageType": "machine_type",
    "NumberProcessors": "number_processors",
    "KdDebuggerDataBlock": "kd_debugger_data_block",
    "SystemTime": "system_time",
    "SystemUpTime": "system_up_time",
    "ProductType": "product_type",
    "SuiteMask": "suite_mask",
}


class Block:
    """Bytes of a header whose fields are set by name."""

    def __init__(self, data: bytes, bits: int) -> None:
        self.data = bytearray(data)
        self._type = f"_DUMP_HEADER{bits}"

    def set(self, name: str, value: int) -> None:
        field = tables.structures().field(self._type, name)
        self.data[field.offset : field.offset + field.size] = (value & (1 << 8 * field.size) - 1).to_bytes(
            field.size, "little"
        )

    def put(self, name: str, data: bytes) -> None:
        """Bytes of a field that has more room than they need."""
        field = tables.structures().field(self._type, name)
        self.data[field.offset : field.offset + len(data)] = data


def header_size(bits: int) -> int:
    """Bytes of the header of a dump of a 32- or 64-bit machine."""
    return tables.structures().size_of(f"_DUMP_HEADER{bits}")


def most_runs(bits: int) -> int:
    """How many runs of physical memory the header has room for."""
    form = _FORMS[bits]
    return (_DESCRIPTOR_ROOM - form.counts.size) // form.run.size


def header_of(
    target: Target, dump_type: int, runs: list[tuple[int, int]], size: int, comment: str | None = None
) -> bytes:
    """The header of a dump of a type with these runs (first page frame, pages), and of so many bytes in all.

    A header with a ``comment`` of its own still describes the memory of the machine, whatever pages the dump has.
    """
    header = target.header
    if header.container is None:
        block = Block(target.dump.source.read(0, header.header_size), header.bits)
    else:
        block = _from_facts(target, header, dump_type)
    block.set("DumpType", dump_type)
    block.set("RequiredDumpSpace", size)
    if comment is not None:
        block.put("Comment", comment.encode("ascii", "replace")[: _COMMENT - 1].ljust(_COMMENT, b"\0"))
        return bytes(block.data)
    form = _FORMS[header.bits]
    room = _FILL * (_DESCRIPTOR_ROOM // 4)
    if len(runs) <= most_runs(header.bits):
        described = form.counts.pack(len(runs), sum(count for _, count in runs))
        described += b"".join(form.run.pack(*run) for run in runs)
        room = described + room[len(described) :]
    block.put("PhysicalMemoryBlockBuffer", room)
    return bytes(block.data)


def bug_check_of(header: DumpHeader) -> tuple[int, tuple[int, ...]]:
    """The code and arguments that a dump of a machine gets."""
    if header.bug_check_code is None:
        return LIVE, (0, 0, 0, 0)
    return header.bug_check_code, tuple(value or 0 for value in header.bug_check_parameters)


def _from_facts(target: Target, header: DumpHeader, dump_type: int) -> Block:
    form = _FORMS[header.bits]
    block = Block(_FILL * (header_size(header.bits) // 4), header.bits)
    block.put("ValidDump", form.mark)
    block.set("MajorVersion", _MAJOR_VERSION)
    for name, field in _FIELDS.items():
        value = getattr(header, field)
        if value is not None:
            block.set(name, value)
    database = header.pfn_database
    if database is not None and dump_type == DumpType.FULL:
        # Windows puts the address of the variable into bitmap dumps, and its value into complete ones.
        database = target.memory.pointer(database)
    if database is not None:
        block.set("PfnDataBase", database)
    code, parameters = bug_check_of(header)
    block.set("BugCheckCode", code)
    for number, value in enumerate(parameters, 1):
        block.set(f"BugCheckParameter{number}", value)
    for name in ("Attributes", "SecondaryDataState", "WriterStatus"):
        block.set(name, 0)
    block.put("VersionUser", bytes(32))
    comment = f"Written by kdump {__version__} from a {header.container}".encode("ascii", "replace")
    block.put("Comment", comment[: _COMMENT - 1].ljust(_COMMENT, b"\0"))
    record = context_bytes(target)
    context = None if record is None else parse_context(record, header.architecture, "")
    if record is not None and context is not None:
        block.put("ContextRecord", record.ljust(form.context_room, b"\0"))
        exception = form.exception.pack(_BREAKPOINT, _NOT_CONTINUABLE, 0, context.ip or 0, 0)
        block.put("Exception", exception.ljust(form.exception_room, b"\0"))
    if header.bits == 32:
        block.set("PaeEnabled", bool(header.pae_enabled))
    return block


def context_bytes(target: Target) -> bytes | None:
    """The CONTEXT record of the crash, or of what a debugger shows first; ``None`` where there are no registers."""
    context = crash_context(target)
    if context is None or context.ip is None:
        return None
    size = context_size(context.architecture)
    saved = target.memory.read(context.address, size) if context.address is not None else None
    return saved or context_record(context)
