"""DUMP_HEADER64 and DUMP_HEADER32: the first page or two of every kernel crash dump.

The kernel fills the header with the repeating bytes ``PAGE`` before it writes fields into it. A field that still reads
as that pattern was never set, and is ``None`` here. Layouts: Windows SDK ``mindumpdef.h``; the tables are in
``symbols/kdump/structures.json``.
"""

from __future__ import annotations

import contextlib
import datetime
from dataclasses import dataclass, field
from typing import Any

from volatility3_kdump import tables
from volatility3_kdump.dump.source import Source
from volatility3_kdump.errors import CorruptDump, NotACrashDump
from volatility3_kdump.memory import sign_extended

PAGE_SIZE = 0x1000

_SIGNATURE = b"PAGE"
_VALID_64 = b"DU64"
_VALID_32 = b"DUMP"
_FILL = {1: 0x50, 2: 0x4150, 4: 0x45474150, 8: 0x4547415045474150}

MACHINES = {0x8664: "x64", 0xAA64: "arm64", 0x014C: "x86", 0x01C4: "arm", 0x0200: "ia64"}

#: DUMP_FILE_ATTRIBUTES, by bit number (mindumpdef.h). The last is in no public header: published analyses have the key
#: for the attributes 1808h, 21800h and 21808h, and not for 8h and 800h.
ATTRIBUTE_NAMES = {
    0: "HiberCrash",
    1: "DumpDevicePowerOff",
    2: "InsufficientDumpfileSize",
    3: "KernelGeneratedTriageDump",
    4: "LiveDumpGeneratedDump",
    5: "DumpIsGeneratedOffline",
    6: "FilterDumpFile",
    7: "EarlyBootCrash",
    8: "EncryptedDumpData",
    9: "DecryptedDump",
    12: "DiagDataWrittenToHeader",
}
ENCRYPTED = 1 << 8
DIAGNOSTIC_DATA = 1 << 12


class DumpType:
    """Values of the header's DumpType, named as in mindumpdef.h; 8 to 0xA are written by debuggers only."""

    FULL = 1
    SUMMARY = 2
    HEADER = 3
    TRIAGE = 4
    BITMAP_FULL = 5
    BITMAP_KERNEL = 6
    AUTOMATIC = 7
    KERNEL_RANGES = 8
    USER_RANGES = 9
    FULL_RANGES = 0xA


#: Types whose file holds physical pages.
PHYSICAL_TYPES = frozenset({1, 2, 5, 6, 8, 9, 0xA})


@dataclass(frozen=True)
class PhysicalRun:
    """A run of the header's physical memory descriptor: first page frame number and number of pages."""

    base_page: int
    page_count: int


_FILETIME_EPOCH = datetime.datetime(1601, 1, 1)


@dataclass(frozen=True)
class DumpHeader:
    """The values of a crash dump header.

    Every optional value is ``None`` where the writer left the ``PAGE`` fill in it. Addresses are virtual unless the
    name says otherwise; those of a 32-bit header are sign-extended to 64 bits. ``system_time`` is a FILETIME (100 ns
    since 1601-01-01 UTC) and ``system_up_time`` counts 100 ns since boot.
    """

    bits: int
    header_size: int
    dump_type: int | None
    machine_type: int | None
    major_version: int | None
    build_number: int | None
    directory_table_base: int | None
    pfn_database: int | None
    ps_loaded_module_list: int | None
    ps_active_process_head: int | None
    number_processors: int | None
    bug_check_code: int | None
    bug_check_parameters: tuple[int | None, int | None, int | None, int | None]
    kd_debugger_data_block: int | None
    context_record: bytes = field(repr=False)
    exception_record: bytes = field(repr=False)
    required_dump_space: int | None
    system_time: int | None
    system_up_time: int | None
    comment: str | None
    product_type: int | None
    suite_mask: int | None
    mini_dump_fields: int | None
    secondary_data_state: int | None
    writer_status: int | None
    kd_secondary_version: int | None
    attributes: int | None
    boot_id: int | None
    last_line: str | None
    version_user: str | None
    pae_enabled: bool | None
    number_of_runs: int | None
    number_of_pages: int | None
    physical_memory: bytes = field(repr=False)

    @property
    def container(self) -> str | None:
        """What the machine's memory was taken from, in words; ``None`` for a crash dump that Windows wrote."""
        return None

    @property
    def crashed(self) -> bool | None:
        """Whether the machine had stopped with a bug check; ``None`` where that is not known."""
        return True

    def source_of(self, name: str) -> str | None:
        """Where the value of a field is from, in words; ``None`` where there is none."""
        return None if getattr(self, name) is None else "dump header"

    @property
    def architecture(self) -> str:
        """``x64``, ``arm64``, ``x86``, or the machine number in hexadecimal.

        Falls back on the class of the context record, then on the header's own width, when MachineImageType was never
        set.
        """
        if self.machine_type is None:
            return ("arm64" if self._holds_arm64_context() else "x64") if self.bits == 64 else "x86"
        return MACHINES.get(self.machine_type, f"{self.machine_type:#x}")

    def _holds_arm64_context(self) -> bool:
        """Whether ContextFlags stands where CONTEXT of ARM64 has it, with its class bit and no other (winnt.h)."""
        flags = int.from_bytes(self.context_record[:4], "little")
        return not is_fill(flags, 4, 0) and flags & 0x00FF0000 == 0x00400000

    def brief(self) -> str:
        """What the header says of the crash, for a dump that gives nothing else: code, arguments, build, time."""
        parts = []
        if self.bug_check_code is not None:
            given = ", ".join("?" if value is None else f"{value:x}" for value in self.bug_check_parameters)
            parts.append(f"bug check {self.bug_check_code:X} ({given})")
        if self.build_number is not None:
            parts.append(f"Windows build {self.build_number} {self.architecture}")
        if self.system_time is not None:
            with contextlib.suppress(OverflowError):
                moment = _FILETIME_EPOCH + datetime.timedelta(microseconds=self.system_time // 10)
                parts.append(f"{moment:%Y-%m-%d %H:%M:%S} UTC")
        return ", ".join(parts) or "nothing of the crash"

    @property
    def pointer_size(self) -> int:
        return self.bits // 8

    @property
    def attribute_names(self) -> tuple[str, ...] | None:
        """Names of the set attribute bits, ``None`` when the field was never written."""
        if self.attributes is None:
            return None
        names = [name for bit, name in ATTRIBUTE_NAMES.items() if self.attributes >> bit & 1]
        rest = self.attributes & ~sum(1 << bit for bit in ATTRIBUTE_NAMES)
        return (*names, f"{rest:#x}") if rest else tuple(names)

    @property
    def encrypted(self) -> bool:
        return bool(self.attributes is not None and self.attributes & ENCRYPTED)

    def runs(self) -> list[PhysicalRun]:
        """The physical memory runs, unchecked against the file. Empty when the descriptor was never set.

        Raises :class:`CorruptDump` when NumberOfRuns exceeds what the 700-byte buffer can hold.
        """
        if self.number_of_runs is None or self.number_of_pages is None:
            return []
        descriptor = f"_PHYSICAL_MEMORY_DESCRIPTOR{self.bits}"
        layouts = tables.structures()
        run_size = layouts.size_of(f"_PHYSICAL_MEMORY_RUN{self.bits}")
        first = layouts.offset(descriptor, "Run")
        most = (len(self.physical_memory) - first) // run_size
        if self.number_of_runs > most:
            raise CorruptDump(
                f"NumberOfRuns at offset {0x88 if self.bits == 64 else 0x64:#x} is {self.number_of_runs}, "
                f"but the physical memory descriptor holds at most {most} runs"
            )
        reader = layouts.reader(f"_PHYSICAL_MEMORY_RUN{self.bits}", base="BasePage", count="PageCount")
        rows = (reader.unpack(self.physical_memory, first + index * run_size) for index in range(self.number_of_runs))
        return [PhysicalRun(row.base, row.count) for row in rows]


_PLAIN_FIELDS = {
    "dump_type": "DumpType",
    "machine_type": "MachineImageType",
    "major_version": "MajorVersion",
    "build_number": "MinorVersion",
    "number_processors": "NumberProcessors",
    "bug_check_code": "BugCheckCode",
    "required_dump_space": "RequiredDumpSpace",
    "system_time": "SystemTime",
    "system_up_time": "SystemUpTime",
    "product_type": "ProductType",
    "suite_mask": "SuiteMask",
    "mini_dump_fields": "MiniDumpFields",
    "secondary_data_state": "SecondaryDataState",
    "writer_status": "WriterStatus",
    "attributes": "Attributes",
    "boot_id": "BootId",
}
_ADDRESS_FIELDS = {
    "pfn_database": "PfnDataBase",
    "ps_loaded_module_list": "PsLoadedModuleList",
    "ps_active_process_head": "PsActiveProcessHead",
    "kd_debugger_data_block": "KdDebuggerDataBlock",
}


def parse_header(source: Source) -> DumpHeader:
    """Read the dump header of a file.

    Raises :class:`NotACrashDump` with what the file seems to be instead, :class:`CorruptDump` when it ends inside the
    header.
    """
    magic = source.read(0, 8)
    bits = _recognise(source, magic)
    layouts = tables.structures()
    type_name = f"_DUMP_HEADER{bits}"
    size = layouts.size_of(type_name)
    data = source.read(0, size)
    if len(data) < size:
        raise CorruptDump(
            f"the file ends at offset {len(data):#x}, inside the {size:#x}-byte dump header: the copy is truncated"
        )
    names = {**_PLAIN_FIELDS, **_ADDRESS_FIELDS, "directory_table_base": "DirectoryTableBase"}
    names.update({f"parameter{number}": f"BugCheckParameter{number}" for number in range(1, 5)})
    names.update(
        context_record="ContextRecord",
        exception_record="Exception",
        physical_memory="PhysicalMemoryBlockBuffer",
        comment="Comment",
        version_user="VersionUser",
        last_line="DiagnosticLastLine",
        kd_secondary_version="KdSecondaryVersion",
        pae_enabled="PaeEnabled",
    )
    reader = layouts.reader(type_name, **names)
    row = reader.unpack(data)

    def value(name: str) -> int | None:
        located = reader.fields[name]
        raw: int | None = getattr(row, name)
        return None if located is None or raw is None or is_fill(raw, located.size, located.offset) else raw

    def address(name: str) -> int | None:
        raw = value(name)
        return None if raw is None else sign_extended(raw, bits // 8)

    values: dict[str, Any] = {name: value(name) for name in _PLAIN_FIELDS}
    values.update({name: address(name) for name in _ADDRESS_FIELDS})
    descriptor = layouts.reader(
        f"_PHYSICAL_MEMORY_DESCRIPTOR{bits}", runs="NumberOfRuns", pages="NumberOfPages"
    ).unpack(row.physical_memory)
    pages_size = 8 if bits == 64 else 4
    unset = is_fill(descriptor.runs, 4, 0) or is_fill(descriptor.pages, pages_size, 0)
    pae = value("pae_enabled") if bits == 32 else None
    return DumpHeader(
        bits=bits,
        header_size=size,
        directory_table_base=value("directory_table_base"),
        bug_check_parameters=(
            address("parameter1"),
            address("parameter2"),
            address("parameter3"),
            address("parameter4"),
        ),
        context_record=row.context_record,
        exception_record=row.exception_record,
        comment=_text(row.comment),
        kd_secondary_version=value("kd_secondary_version"),
        last_line=_last_line(value("attributes"), row.last_line),
        version_user=_text(row.version_user),
        pae_enabled=None if pae is None else bool(pae),
        number_of_runs=None if unset else descriptor.runs,
        number_of_pages=None if unset else descriptor.pages,
        physical_memory=row.physical_memory,
        **values,
    )


def is_fill(value: int, size: int, offset: int) -> bool:
    """Whether an integer of ``size`` bytes at a file offset still is the ``PAGE`` pattern that means "never set"."""
    if size == 1:
        return value == _SIGNATURE[offset & 3]
    return value == _FILL[size]


def is_fill_bytes(data: bytes) -> bool:
    """Whether a 4-aligned byte field was never written."""
    return data == (_SIGNATURE * (len(data) // 4 + 1))[: len(data)]


def _text(data: bytes) -> str | None:
    if is_fill_bytes(data):
        return None
    string, terminator, _ = data.partition(b"\0")
    if not terminator:
        # A writer may set a few bytes and leave the fill behind them without a terminator.
        fill = (_SIGNATURE * (len(data) // 4 + 1))[: len(data)]
        string = data[: next((end for end in range(len(data), 0, -1) if data[end - 1] != fill[end - 1]), 0)]
    return string.decode("latin-1") or None


def _last_line(attributes: int | None, data: bytes | None) -> str | None:
    """What the writer of the dump said last, where an attribute says that it left its diagnostic data in the header.

    The place is that of real dumps of Windows 11 24H2, which have the line there that debuggers print.
    """
    if data is None or attributes is None or not attributes & DIAGNOSTIC_DATA:
        return None
    line = data.split(b"\0", 1)[0].decode("latin-1")
    return line if line.isascii() and line.isprintable() and b"\0" in data and line else None


def _recognise(source: Source, magic: bytes) -> int:
    """The header's width in bits. Raises :class:`NotACrashDump`."""
    if source.size == 0:
        raise NotACrashDump("the file is empty (0 bytes): copy the dump again")
    if magic[:4] == _SIGNATURE and magic[4:] == _VALID_64:
        return 64
    if magic[:4] == _SIGNATURE and magic[4:] == _VALID_32:
        return 32
    if magic[:4] == _SIGNATURE and len(magic) == 8:
        raise NotACrashDump(
            f"ValidDump at offset 0x4 is {int.from_bytes(magic[4:], 'little'):#010x}, not 'DU64' or 'DUMP': "
            "a paging file whose dump was not extracted, or a damaged header"
        )
    if magic[:4] == b"MDMP":
        raise NotACrashDump(
            "this is a user-mode minidump (MDMP), not a kernel crash dump: open it with a user-mode tool"
        )
    if magic == b"Raw_Dmp!":
        raise NotACrashDump("this is a raw offline dump container (Raw_Dmp!), not a crash dump: convert it first")
    if magic.strip(b"\0") == b"":
        refuse_empty(source)
    for prefix, what in _OTHER_KINDS:
        if magic.startswith(prefix):
            raise NotACrashDump(f"this is {what}, not a Windows crash dump")
    shown = magic.hex(" ") or "nothing"
    raise NotACrashDump(
        f"no crash dump header at offset 0x0 (found {shown}, expected 'PAGEDU64' or 'PAGEDUMP'): "
        "and it is no raw memory image either: too small, or empty where every machine has code"
    )


def refuse_empty(source: Source) -> None:
    """Raise :class:`NotACrashDump` for a file of nothing but zeros, as far as its begin and end tell."""
    if _is_zero(source):
        raise NotACrashDump(
            f"the file holds only zeros ({source.size:,} bytes): the disk never received the dump, "
            "nothing can be recovered"
        )


def is_something_else(source: Source) -> bool:
    """Whether a file begins as one of another kind does, so that it is no raw memory image either."""
    magic = source.read(0, 8)
    return magic[:4] in (_SIGNATURE, b"MDMP") or magic == b"Raw_Dmp!" or magic.startswith(_OTHER_MAGICS)


_OTHER_KINDS = (
    (b"MSCF", "a CAB archive: extract the dump first"),
    (b"PK\x03\x04", "a zip archive: extract the dump first"),
    (b"\x1f\x8b", "a gzip file: decompress it first"),
    (b"\xfd7zXZ", "an xz file: decompress it first"),
    (b"BZh", "a bzip2 file: decompress it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive: extract the dump first"),
    (b"Rar!", "a RAR archive: extract the dump first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file: decompress it first"),
    (b"\x7fELF", "an ELF file"),
    (b"hibr", "a hibernation file"),
    (b"HIBR", "a hibernation file"),
    (b"EMiL", "a LiME memory image"),
    (b"MZ", "a PE image"),
)
_OTHER_MAGICS = tuple(magic for magic, _ in _OTHER_KINDS)


def _is_zero(source: Source) -> bool:
    """Whether the file holds nothing but zeros; only its first and last 64 KiB are read."""
    span = 0x10000
    parts = (source.read(0, span), source.read(max(0, source.size - span), span))
    return not any(part.strip(b"\0") for part in parts)
