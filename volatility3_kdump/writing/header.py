"""The header of a crash dump that is written: that of the dump it is made of, or one from the facts of an image."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from volatility3_kdump import tables
from volatility3_kdump.cpu.state import context_record
from volatility3_kdump.dump import DumpHeader, DumpType
from volatility3_kdump.version import __version__
from volatility3_kdump.windows.processes.crashed import crash_context

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_TYPE = "_DUMP_HEADER64"
#: LIVE_SYSTEM_DUMP: no bug check, a dump that was made of a machine while it ran.
LIVE = 0x161
_MAJOR_VERSION = 0xF
_BREAKPOINT, _NOT_CONTINUABLE = 0x80000003, 1
_COMMENT = 128
_CONTEXT_SIZE = 0x4D0
_DESCRIPTOR = struct.Struct("<IIQ")
#: Bytes of PhysicalMemoryBlockBuffer, and how many runs fit in behind its counts.
_DESCRIPTOR_ROOM = 700
MOST_RUNS = (_DESCRIPTOR_ROOM - _DESCRIPTOR.size) // 16

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

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)

    def set(self, name: str, value: int) -> None:
        field = tables.structures().field(_TYPE, name)
        self.data[field.offset : field.offset + field.size] = (value & (1 << 8 * field.size) - 1).to_bytes(
            field.size, "little"
        )

    def put(self, name: str, data: bytes) -> None:
        """Bytes of a field that has more room than they need."""
        field = tables.structures().field(_TYPE, name)
        self.data[field.offset : field.offset + len(data)] = data


def header_of(
    target: Target, dump_type: int, runs: list[tuple[int, int]], size: int, comment: str | None = None
) -> bytes:
    """DUMP_HEADER64 for a dump of a type with these runs (first page frame, pages), and of so many bytes in all.

    A header with a ``comment`` of its own still describes the memory of the machine, whatever pages the dump has.
    """
    header = target.header
    if header.container is None:
        block = Block(target.dump.source.read(0, header.header_size))
    else:
        block = _from_facts(target, header, dump_type)
    block.set("DumpType", dump_type)
    block.set("RequiredDumpSpace", size)
    if comment is not None:
        block.put("Comment", comment.encode("ascii", "replace")[: _COMMENT - 1].ljust(_COMMENT, b"\0"))
        return bytes(block.data)
    room = b"PAGE" * (_DESCRIPTOR_ROOM // 4)
    if len(runs) <= MOST_RUNS:
        described = _DESCRIPTOR.pack(len(runs), 0, sum(count for _, count in runs))
        described += b"".join(struct.pack("<QQ", *run) for run in runs)
        room = described + room[len(described) :]
    block.put("PhysicalMemoryBlockBuffer", room)
    return bytes(block.data)


def bug_check_of(header: DumpHeader) -> tuple[int, tuple[int, ...]]:
    """The code and arguments that a dump of a machine gets."""
    if header.bug_check_code is None:
        return LIVE, (0, 0, 0, 0)
    return header.bug_check_code, tuple(value or 0 for value in header.bug_check_parameters)


def _from_facts(target: Target, header: DumpHeader, dump_type: int) -> Block:
    layouts = tables.structures()
    block = Block(b"PAGE" * (layouts.size_of(_TYPE) // 4))
    block.put("ValidDump", b"DU64")
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
    if record is not None:
        block.put("ContextRecord", record.ljust(3000, b"\0"))
        (ip,) = struct.unpack_from("<Q", record, 0xF8)
        block.put("Exception", struct.pack("<IIQQI", _BREAKPOINT, _NOT_CONTINUABLE, 0, ip, 0).ljust(152, b"\0"))
    return block


def context_bytes(target: Target) -> bytes | None:
    """The CONTEXT record of the crash, or of what a debugger shows first; ``None`` where there are no registers."""
    context = crash_context(target)
    if context is None or context.ip is None:
        return None
    saved = target.memory.read(context.address, _CONTEXT_SIZE) if context.address is not None else None
    return saved or context_record(context)
