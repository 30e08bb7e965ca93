"""Hardware errors in the layout of KD's ``!errrec``, ``!whea`` and ``!errpkt``; what KD has no words for is in ours."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.windows.machine.machine_check import MachineCheckStatus
from volatility3_kdump.windows.machine.whea import MACHINE_CHECK, ErrorRecord, Section
from volatility3_kdump.windows.machine.whea_sources import (
    ERROR_TYPES,
    SEVERITIES,
    SOURCE_TYPES,
    ErrorPacket,
    ErrorSource,
    ErrorSources,
    picked,
)

_THICK, _THIN = "=" * 79, "-" * 79
_WIDTH = 14
#: The debugger's names of what sections say, and its words for some of it.
_LABELS = {
    "processor type": "Proc. Type",
    "instruction set": "Instr. Set",
    "error type": "Error Type",
    "operation": "Operation",
    "flags": "Flags",
    "level": "Level",
    "CPU version": "CPU Version",
    "processor id": "Processor ID",
    "local APIC id": "Local APIC Id",
    "port type": "Port Type",
    "PCI Express version": "Version",
    "command, status": "Command/Status",
    "device": "Device Id",
    "location": "Location",
}
_ERROR_WORDS = {
    "cache": "Cache error",
    "TLB": "TLB error",
    "bus": "BUS error",
    "micro-architecture": "Micro-Architectural Error",
}
#: Bits of a section descriptor's flags (UEFI specification, appendix N).
_FLAGS = ("Primary", "ContainmentWarn", "Reset", "ThresholdExceeded", "ResourceNotAvailable", "LatentError")
_NOTIFIED = {
    "MCE": "Machine Check Exception",
    "CMC": "Corrected Machine Check",
    "CPE": "Corrected Platform Error",
    "NMI": "Non-Maskable Interrupt",
    "PCIe": "PCI Express Error",
    "INIT": "INIT Error Record",
    "BOOT": "BOOT Error Record",
}


def error_record_lines(record: ErrorRecord) -> Iterator[str]:
    """A record with its sections, each with what is decoded of it, or why nothing is."""
    yield _THICK
    yield f"Common Platform Error Record @ {_plain(record.address)}"
    yield _THIN
    # 0210 is written for revision 2.1.
    minor = record.revision & 0xFF
    yield _labelled("Revision", f"{record.revision >> 8}.{minor >> 4 if minor and not minor & 0xF else minor}")
    yield _labelled("Record Id", f"{record.record_id:016x}")
    yield _labelled("Severity", f"{record.severity.capitalize()} ({record.severity_number})")
    yield _labelled("Length", str(record.length))
    yield _labelled("Creator", record.creator)
    yield _labelled("Notify Type", record.notification)
    if record.timestamp is not None:
        year, month, day, hour, minute, second = record.timestamp
        yield _labelled("Timestamp", f"{month}/{day}/{year} {hour}:{minute:02d}:{second:02d}")
    yield _labelled("Flags", f"0x{record.flags:08x}")
    for number, section in enumerate(record.sections):
        yield ""
        yield from _section_lines(number, section, record.address)
    for note in record.notes:
        yield f"NOTE: {note}"


def _section_lines(number: int, section: Section, address: int) -> Iterator[str]:
    yield _THICK
    yield _labelled(f"Section {number}", section.name or f"{{{section.type_id}}}")
    yield _THIN
    yield f"{'Descriptor':<{_WIDTH}}@ {_plain(section.descriptor)}"
    yield f"{'Section':<{_WIDTH}}@ {_plain(address + section.offset)}"
    yield _labelled("Offset", str(section.offset))
    yield _labelled("Length", str(section.length))
    names = [name for bit, name in enumerate(_FLAGS) if section.flags >> bit & 1]
    yield _labelled("Flags", " ".join((f"0x{section.flags:08x}", *names)))
    yield _labelled("Severity", section.severity.capitalize())
    if section.fru_text:
        yield _labelled("FRU Text", section.fru_text)
    yield ""
    if section.type_id == MACHINE_CHECK and "status" in section.values:
        yield from _machine_check(section)
    else:
        width = max((len(_LABELS.get(label, label)) + 1 for label, _ in section.facts), default=_WIDTH)
        for label, value in section.facts:
            yield _labelled(_LABELS.get(label, label), _ERROR_WORDS.get(value, value), max(width, _WIDTH))
        if not section.facts and section.absent is None:
            yield "No valid data fields are present."
    if section.absent:
        yield f"NOTE: {section.absent}"


def _machine_check(section: Section) -> Iterator[str]:
    values = section.values
    status = MachineCheckStatus(values["status"])
    where = f"(Proc {values.get('processor', '?')} Bank {values.get('bank', '?')})"
    yield _labelled("Error", f"{status.error[:1].upper()}{status.error[1:]} {where}")
    yield _labelled("  Status", f"0x{status.value:016x} ({status.state})")
    for label, name in (("  Address", "address"), ("  Misc.", "misc")):
        if name in values:
            yield _labelled(label, f"0x{values[name]:016x}")


def sources_lines(table: ErrorSources) -> Iterator[str]:
    """``!whea``."""
    yield f"Error Source Table @ {_plain(table.address)}"
    yield f"{'?' if table.count is None else table.count} Error Sources"
    for number, source in enumerate(table.sources):
        yield f"Error Source {number} @ {_plain(source.address)}"
        yield from _source_lines(source)
    yield from (f"NOTE: {problem}" for problem in table.problems)


def _source_lines(source: ErrorSource) -> Iterator[str]:
    kind = source.kind_name
    yield _indented("Notify Type", _NOTIFIED.get(kind or "", kind or "?"))
    yield _indented("Type", "?" if source.kind is None else f"{source.kind:#x} ({kind or '?'})")
    yield _indented("Error Count", _hex(source.errors))
    yield _indented("Record Count", _hex(source.record_count))
    yield _indented("Record Length", _hex(source.record_length))
    label = "Error Records"
    for place in source.records:
        used = "  in use" if place.in_use else "  not in the dump" if place.in_use is None else ""
        yield _indented(label, f"wrapper @ {_plain(place.wrapper)}  record @ {_plain(place.record)}{used}")
        label = ""
    yield _indented("Descriptor", f"@ {_plain(source.descriptor)}")
    for name, value in (
        ("Length", source.descriptor_length),
        ("Max Raw Data Length", source.raw_length),
        ("Num Records To Preallocate", source.preallocated),
        ("Max Sections Per Record", source.sections),
        ("Error Source ID", source.number),
    ):
        yield f"      {name:<27}: {_hex(value)}"
    yield f"      {'Flags':<27}: {'????????' if source.flags is None else f'{source.flags:08x}'}"


def packet_lines(packet: ErrorPacket) -> Iterator[str]:
    """``!errpkt``."""
    yield f"   WHEA Error Packet Info Section (@ {_plain(packet.address)})"
    yield _indented("Flags", f"0x{packet.flags:08x}")
    yield _indented("Size", f"{packet.size:#x}")
    yield _indented("RawDataLength", f"{packet.data_length:#x}")
    yield _indented("Context", f"0x{packet.context:016x}")
    for label, number, names in (
        ("ErrorType", packet.kind, ERROR_TYPES),
        ("ErrorSeverity", packet.severity, SEVERITIES),
    ):
        yield _indented(label, f"{number:#x} - {picked(names, number) or '?'}")
    yield _indented("ErrorSourceId", f"{packet.source:#x}")
    yield _indented("ErrorSourceType", f"{packet.source_type:#x} - {picked(SOURCE_TYPES, packet.source_type) or '?'}")
    yield _indented("Version", f"{packet.version:08x}")
    if packet.processor is not None:
        yield _indented("Cpu", f"{packet.processor:016x}")
    yield _indented("RawDataFormat", f"{packet.data_format:#x} - {packet.format_name or '?'}")
    yield ""
    yield _indented("Raw Data", f"Located @ {_plain(packet.data).upper()}")


def _hex(value: int | None) -> str:
    return "?" if value is None else f"{value:x}"


def _plain(address: int) -> str:
    return pointer(address, 8, tick=False)


def _indented(label: str, text: str) -> str:
    return f"   {label:<17}: {text}"


def _labelled(label: str, text: str, width: int = _WIDTH) -> str:
    return f"{label:<{width}}: {text}"
