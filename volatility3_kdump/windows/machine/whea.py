"""Hardware error records: what the processor, the chipset or the firmware reported.

A WHEA_ERROR_RECORD is a Common Platform Error Record: its layout is fixed by the UEFI specification (appendix N), that
of the machine check section by ``ntddk.h`` (WHEA_XPF_MCA_SECTION). The error codes of MCi_STATUS are those of the Intel
SDM, volume 3, "Interpreting Machine Check Error Codes", which AMD's processors share. No symbols are needed.
"""

from __future__ import annotations

import functools
import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from volatility3_kdump import tables
from volatility3_kdump.errors import CorruptDump, Unreadable
from volatility3_kdump.memory import Memory
from volatility3_kdump.windows.machine.machine_check import MachineCheckStatus

HEADER_SIZE = 128
DESCRIPTOR_SIZE = 72
SIGNATURE = b"CPER"
_MOST_SECTIONS = 64
_LARGEST_SECTION = 0x10000
_SEVERITIES = {0: "recoverable", 1: "fatal", 2: "corrected", 3: "informational"}
_FRU_TEXT_VALID = 2
#: Bits of the record's ValidBits: 1 platform id, 2 time, 4 partition id.
_TIMESTAMP_VALID = 2
#: WHEA_RECORD_CREATOR_GUID of ``ntddk.h``.
_CREATORS = {"cf07c4bd-b789-4e18-b3c4-1f732cb57131": "Microsoft"}

PROCESSOR_GENERIC = "9876ccad-47b4-4bdb-b65e-16f193c4f3db"
PROCESSOR_X64 = "dc3ea0b0-a144-4797-b95b-53fa242b6e1d"
MACHINE_CHECK = "8a1e1d01-42f9-4557-9c33-565e5cc3f7e8"
PCI_EXPRESS = "d995e954-bbc1-430f-ad91-b44dcb3c6f35"
PLATFORM_MEMORY = "a5bc1114-6f64-4ede-b863-3e83ed7c83b1"

#: WHEA_CPU_VENDOR of ``ntddk.h``, as the processors call themselves.
_VENDORS = {1: "GenuineIntel", 2: "AuthenticAMD"}


@dataclass(frozen=True)
class Section:
    """One section of an error record.

    ``type_id`` is its GUID in lower case, ``name`` what that is called, ``None`` if it is not known. ``facts`` are what
    it says, label and text, in order; ``absent`` why there are none. ``values`` holds the numbers behind them.
    ``descriptor`` is the address of its descriptor, whose ``flags`` are more than ``primary``.
    """

    type_id: str
    name: str | None
    severity: str
    primary: bool
    offset: int
    length: int
    fru_text: str | None
    facts: tuple[tuple[str, str], ...]
    values: Mapping[str, int]
    absent: str | None
    descriptor: int = 0
    flags: int = 0


@dataclass(frozen=True)
class ErrorRecord:
    """A WHEA_ERROR_RECORD. ``length`` is in bytes; ``notification`` is what told the system of the error; ``record_id``
    its number. ``creator`` is who made it, ``timestamp`` (year, month, day, hour, minute, second). ``notes`` are
    contradictions, one line each."""

    address: int
    revision: int
    severity: str
    length: int
    notification: str
    record_id: int
    sections: tuple[Section, ...]
    notes: tuple[str, ...]
    creator: str = ""
    timestamp: tuple[int, ...] | None = None
    flags: int = 0
    severity_number: int = 0

    def section(self, type_id: str) -> Section | None:
        """The first section of a type."""
        return next((section for section in self.sections if section.type_id == type_id), None)


@functools.lru_cache(maxsize=1)
def _names() -> dict[tuple[str, str], Mapping[str, Any]]:
    return {(record["kind"], record["guid"]): record for record in tables.json_lines("whea.jsonl")}


def bucket_word(kind: str, guid: str) -> str | None:
    """The word of failure buckets for a type of section or of error check."""
    record = _names().get((kind, guid))
    return record.get("bucket") if record else None


def _guid(data: bytes) -> str:
    return str(uuid.UUID(bytes_le=data))


def read_error_record(memory: Memory, address: int) -> ErrorRecord:
    """The error record at an address.

    Raises :class:`Unreadable` when its header is not in the dump, :class:`CorruptDump` when there is something else.
    """
    header = memory.read(address, HEADER_SIZE)
    if header is None:
        raise Unreadable.at(address, "no error record", memory.why_unreadable(address))
    signature, revision, end, count, severity = struct.unpack_from("<4sHIHI", header)
    if signature != SIGNATURE or end != 0xFFFFFFFF:
        raise CorruptDump(f"no error record at {address:#x}: it starts with {signature.hex()}, not with CPER")
    length = struct.unpack_from("<I", header, 20)[0]
    notes = []
    if count > _MOST_SECTIONS:
        notes.append(f"the error record claims {count} sections, of which {_MOST_SECTIONS} were read")
        count = _MOST_SECTIONS
    notification = _guid(header[80:96])
    named = _names().get(("notification", notification))
    sections = []
    for index in range(count):
        descriptor = memory.read(address + HEADER_SIZE + index * DESCRIPTOR_SIZE, DESCRIPTOR_SIZE)
        if descriptor is None:
            notes.append(f"the descriptor of section {index + 1} of {count} is not in the dump")
            break
        section, note = _section(memory, address, length, descriptor)
        sections.append(replace(section, descriptor=address + HEADER_SIZE + index * DESCRIPTOR_SIZE))
        if note:
            notes.append(note)
    return ErrorRecord(
        address,
        revision,
        _SEVERITIES.get(severity, f"severity {severity}"),
        length,
        named["name"] if named else notification,
        struct.unpack_from("<Q", header, 96)[0],
        tuple(sections),
        tuple(notes),
        _CREATORS.get(_guid(header[64:80]), f"{{{_guid(header[64:80])}}}"),
        _timestamp(header),
        struct.unpack_from("<I", header, 104)[0],
        severity,
    )


def _timestamp(header: bytes) -> tuple[int, ...] | None:
    """(year, month, day, hour, minute, second), where the record says that it has one."""
    second, minute, hour, _, day, month, year, century = header[24:32]
    valid = struct.unpack_from("<I", header, 16)[0] & _TIMESTAMP_VALID
    return (century * 100 + year, month, day, hour, minute, second) if valid else None


def _section(memory: Memory, address: int, record_length: int, descriptor: bytes) -> tuple[Section, str | None]:
    offset, length, _, valid, _, flags = struct.unpack_from("<IIHBBI", descriptor)
    type_id = _guid(descriptor[16:32])
    severity = struct.unpack_from("<I", descriptor, 48)[0]
    fru = descriptor[52:72].split(b"\0", 1)[0].decode("ascii", "replace") if valid & _FRU_TEXT_VALID else None
    note = absent = None
    data = None
    if offset < HEADER_SIZE or length > _LARGEST_SECTION or offset + length > record_length:
        note = f"a section of the error record lies outside it: offset {offset:#x}, length {length:#x}"
        absent = "outside the record"
    else:
        data = memory.read(address + offset, length)
        if data is None:
            absent = memory.why_unreadable(address + offset)
    facts: list[tuple[str, str]] = []
    values: dict[str, int] = {}
    decoder = _DECODERS.get(type_id)
    if data is not None and decoder is not None:
        try:
            decoder(data, facts, values)
        except struct.error:
            absent = f"only {length:#x} bytes long"
            facts, values = [], {}
    elif data is not None:
        absent = "this type of section is not decoded"
    named = _names().get(("section", type_id))
    section = Section(
        type_id,
        named["name"] if named else None,
        _SEVERITIES.get(severity, f"severity {severity}"),
        bool(flags & 1),
        offset,
        length,
        fru or None,
        tuple(facts),
        values,
        absent,
        0,
        flags,
    )
    return section, note


# sections -----------------------------------------------------------------------------------------------------------

_Facts = list[tuple[str, str]]
_Values = dict[str, int]


def _processor_generic(data: bytes, facts: _Facts, values: _Values) -> None:
    """Generic processor error section, 192 bytes."""
    valid, kind, isa, error, operation, flags, level = struct.unpack_from("<Q6B", data)
    version = struct.unpack_from("<Q", data, 16)[0]
    identity, target, requester, responder, ip = struct.unpack_from("<5Q", data, 152)
    for bit, label, meaning in (
        (0, "processor type", _PROCESSORS.get(kind, f"{kind}")),
        (1, "instruction set", _INSTRUCTION_SETS.get(isa, f"{isa}")),
        (2, "error type", _flags_text(error, _GENERIC_ERRORS) or "unknown"),
        (3, "operation", _OPERATIONS.get(operation, f"{operation}")),
        (4, "flags", _flags_text(flags, _GENERIC_FLAGS) or "none"),
        (5, "level", f"{level}"),
        (6, "CPU version", f"{version:#x}"),
        (7, "CPU brand", data[24:152].split(b"\0", 1)[0].decode("ascii", "replace").strip()),
        (8, "processor id", f"{identity:#x}"),
        (9, "target address", f"{target:#x}"),
        (10, "requester", f"{requester:#x}"),
        (11, "responder", f"{responder:#x}"),
        (12, "instruction pointer", f"{ip:#x}"),
    ):
        if valid >> bit & 1:
            facts.append((label, meaning))
    for bit, name, value in (
        (8, "processor_id", identity),
        (9, "address", target),
        (12, "ip", ip),
        (2, "error", error),
    ):
        if valid >> bit & 1:
            values[name] = value


_PROCESSORS = {0: "x86/x64", 1: "Itanium", 2: "ARM"}
_INSTRUCTION_SETS = {0: "IA32", 1: "IA64", 2: "x64", 3: "ARM A32/T32", 4: "ARM A64"}
_GENERIC_ERRORS = {0: "cache", 1: "TLB", 2: "bus", 3: "micro-architecture"}
_OPERATIONS = {0: "generic", 1: "data read", 2: "data write", 3: "instruction execution"}
_GENERIC_FLAGS = {0: "restartable", 1: "precise IP", 2: "overflow", 3: "corrected"}


def _flags_text(value: int, names: Mapping[int, str]) -> str:
    return ", ".join(name for bit, name in names.items() if value >> bit & 1)


_CPUID_SIZE, _ERROR_INFORMATION_SIZE = 48, 64


def _processor_x64(data: bytes, facts: _Facts, values: _Values) -> None:
    """IA32/X64 processor error section: local APIC id, CPUID, then structures of 64 bytes for each error."""
    valid, apic = struct.unpack_from("<QQ", data)
    if valid & 1:
        facts.append(("local APIC id", f"{apic:#x}"))
        values["apic_id"] = apic
    if valid & 2:
        eax = struct.unpack_from("<Q", data, 16)[0]
        facts.append(("CPUID", f"{eax & 0xFFFFFFFF:#x}"))
    count = valid >> 2 & 0x3F
    for index in range(count):
        start = 16 + _CPUID_SIZE + index * _ERROR_INFORMATION_SIZE
        if start + _ERROR_INFORMATION_SIZE > len(data):
            break
        type_id = _guid(data[start : start + 16])
        info_valid, check, target, requester, responder, ip = struct.unpack_from("<6Q", data, start + 16)
        named = _names().get(("check", type_id))
        facts.append((f"error {index + 1}", f"{named['name'] if named else type_id} check"))
        for bit, label, value in (
            (0, "check information", check),
            (1, "target", target),
            (2, "requester", requester),
            (3, "responder", responder),
            (4, "instruction pointer", ip),
        ):
            if info_valid >> bit & 1:
                facts.append((f"error {index + 1} {label}", f"{value:#x}"))


def _machine_check(data: bytes, facts: _Facts, values: _Values) -> None:
    """WHEA_XPF_MCA_SECTION: one bank of the machine check architecture."""
    version, vendor, _, processor, _, ip, bank, status, address, misc = struct.unpack_from("<IIQIQQIQQQ", data)
    if vendor in _VENDORS:
        facts.append(("vendor", _VENDORS[vendor]))
    facts += [("processor", f"{processor}"), ("bank", f"{bank}"), ("MCi_STATUS", f"{status:#018x}")]
    decoded = MachineCheckStatus(status)
    facts.append(("error", decoded.error))
    facts.append(("state", decoded.state))
    if decoded.address_valid:
        facts.append(("address", f"{address:#x}"))
        values["address"] = address
    if decoded.misc_valid:
        facts.append(("MCi_MISC", f"{misc:#x}"))
        values["misc"] = misc
    if ip:
        facts.append(("instruction pointer", f"{ip:#x}"))
    values.update(version=version, vendor=vendor, processor=processor, bank=bank, status=status)


def _pci_express(data: bytes, facts: _Facts, values: _Values) -> None:
    """PCI Express error section, 208 bytes: the device, and its Advanced Error Reporting capability."""
    valid, port, version, command = struct.unpack_from("<QIII", data)
    vendor, device = struct.unpack_from("<HH", data, 24)
    class_code = int.from_bytes(data[28:31], "little")
    function, number, segment, bus = struct.unpack_from("<BBHB", data, 31)
    if valid & 1:
        facts.append(("port type", _PORTS.get(port, f"{port}")))
    if valid & 2:
        facts.append(("PCI Express version", f"{version >> 8 & 0xFF}.{version & 0xFF}"))
    if valid & 4:
        facts.append(("command, status", f"{command & 0xFFFF:#06x}, {command >> 16:#06x}"))
    if valid & 8:
        facts.append(("device", f"VEN_{vendor:04X}&DEV_{device:04X}, class {class_code:06x}"))
        facts.append(("location", f"segment {segment:x}, bus {bus:x}, device {number:x}, function {function:x}"))
        values.update(vendor_id=vendor, device_id=device, bus=bus, device=number, function=function, segment=segment)
    if valid & 0x80:
        _, uncorrectable, _, severity, correctable = struct.unpack_from("<5I", data, 112)
        facts.append(("uncorrectable errors", _flags_text(uncorrectable, _UNCORRECTABLE) or "none"))
        facts.append(("of these fatal", _flags_text(uncorrectable & severity, _UNCORRECTABLE) or "none"))
        facts.append(("correctable errors", _flags_text(correctable, _CORRECTABLE) or "none"))
        values.update(uncorrectable=uncorrectable, correctable=correctable)


_PORTS = {
    0: "PCI Express endpoint",
    1: "legacy PCI endpoint",
    4: "root port",
    5: "upstream switch port",
    6: "downstream switch port",
    7: "PCI Express to PCI/PCI-X bridge",
    8: "PCI/PCI-X to PCI Express bridge",
    9: "root complex integrated endpoint",
    10: "root complex event collector",
}
#: PCI Express base specification, uncorrectable and correctable error status registers.
_UNCORRECTABLE = {
    4: "data link protocol",
    5: "surprise down",
    12: "poisoned TLP",
    13: "flow control protocol",
    14: "completion timeout",
    15: "completer abort",
    16: "unexpected completion",
    17: "receiver overflow",
    18: "malformed TLP",
    19: "ECRC",
    20: "unsupported request",
    21: "ACS violation",
    22: "internal",
    23: "blocked multicast TLP",
    24: "blocked atomic operation",
    25: "blocked TLP prefix",
}
_CORRECTABLE = {
    0: "receiver",
    6: "bad TLP",
    7: "bad DLLP",
    8: "replay number rollover",
    12: "replay timer timeout",
    13: "advisory non-fatal",
    14: "corrected internal",
    15: "header log overflow",
}


def _platform_memory(data: bytes, facts: _Facts, values: _Values) -> None:
    """Memory error section: 73 bytes in the first version, 80 since."""
    valid, status, address, mask = struct.unpack_from("<4Q", data)
    places = struct.unpack_from("<8H", data, 32)
    kind = data[72] if len(data) > 72 else None
    if valid & 1:
        facts.append(("error status", f"{status:#x}"))
    if valid & 2:
        facts.append(("physical address", f"{address:#x}"))
        values["address"] = address
    if valid & 4:
        facts.append(("address mask", f"{mask:#x}"))
    labels = ("node", "card", "module", "bank", "device", "row", "column", "bit")
    for bit, (label, value) in enumerate(zip(labels, places, strict=True), 3):
        if valid >> bit & 1:
            facts.append((label, f"{value}"))
    if valid >> 14 & 1 and kind is not None:
        facts.append(("error type", _MEMORY_ERRORS.get(kind, f"{kind}")))


_MEMORY_ERRORS = {
    0: "unknown",
    1: "no error",
    2: "single-bit ECC",
    3: "multi-bit ECC",
    4: "single-symbol ChipKill ECC",
    5: "multi-symbol ChipKill ECC",
    6: "master abort",
    7: "target abort",
    8: "parity",
    9: "watchdog timeout",
    10: "invalid address",
    11: "mirror broken",
    12: "memory sparing",
    13: "scrub, corrected",
    14: "scrub, uncorrected",
    15: "physical memory map-out",
}

_DECODERS: dict[str, Callable[[bytes, _Facts, _Values], None]] = {
    PROCESSOR_GENERIC: _processor_generic,
    PROCESSOR_X64: _processor_x64,
    MACHINE_CHECK: _machine_check,
    PCI_EXPRESS: _pci_express,
    PLATFORM_MEMORY: _platform_memory,
}


# machine checks -----------------------------------------------------------------------------------------------------
