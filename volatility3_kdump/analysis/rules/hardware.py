"""Hardware errors: 0x124 with its error record, 0x12B."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.arguments import hexadecimal
from volatility3_kdump.analysis.reasoning import Case, Culprit, Finding, Reasoning, rule
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.machine import machine_check, whea
from volatility3_kdump.windows.machine.processors import processors

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: Where it is not known what kind of error it was, the bucket has this word, underscore included.
_UNKNOWN = "_UNKNOWN"
_MACHINE_CHECK_SOURCE = 0
_VENDORS = ("GenuineIntel", "AuthenticAMD", "CentaurHauls", "HygonGenuine")
_VENDOR_SIZE = 13
#: What to do, by the kind of error.
_ADVICE = {
    "CACHE": "Errors in the processor's caches come from overclocking, a low voltage, heat or a worn-out processor.",
    "TLB": "Errors in the processor's TLB come from overclocking, a low voltage, heat or a worn-out processor.",
    "BUS": "Bus errors come from the memory, the board, a device that does not answer, or overclocking.",
    "MEMORY": "Test or replace the memory module.",
    "PCIEXPRESS": "Look at the device, its slot and its firmware; its driver is seldom the reason.",
}


#: Argument 1 of 0x80: the bytes of "ODT" or "TDO", by which no error source asked for the interrupt.
_NO_RECORD = 0x4F4454
#: Argument 1 of 0x20001: an internal error of the module for the I/O MMU.
_IO_MMU = 0x28
_INTEL = "GenuineIntel"


@rule(0x124)
def uncorrectable_hardware_error(case: Case) -> Reasoning:
    """P1 error source, P2 WHEA_ERROR_RECORD; for machine checks P3 and P4 are MCi_STATUS, its upper half first."""
    source, address = case.argument(1), case.pointer(2)
    findings: list[Finding] = []
    notes: list[str] = []
    record = None
    if address is not None:
        shown = hexadecimal(case.target, address)
        try:
            record = whea.read_error_record(case.target.memory, address)
        except KdumpError as error:
            findings.append(Finding("WHEA_ERROR_RECORD", shown, address, str(error)))
        else:
            count = len(record.sections)
            note = f"{record.severity}, {count} section{'' if count == 1 else 's'}, told by {record.notification}"
            findings.append(Finding("WHEA_ERROR_RECORD", shown, address, note))
            findings += _sections(record)
            notes += record.notes
    status = _status(case, record, notes)
    if status is not None:
        findings.append(Finding("MCI_STATUS", f"{status.value:016x}", status.value, f"{status.error}; {status.state}"))
    section, kind = _words(record, status, source)
    vendor = _vendor(case.target, record)
    if vendor is not None:
        findings.append(Finding("CPU_VENDOR", vendor))
    why = "the processor or the platform reported a hardware error; no driver is to blame"
    name = vendor or "hardware"
    culprit = Culprit(f"{vendor}.sys" if vendor else "hardware", name, None, why)
    return Reasoning(
        tuple(findings),
        tuple(_sentences(record, status, section, kind)),
        tuple(notes),
        hardware_words(source, vendor, section, kind),
        culprit=culprit,
    )


@rule(0x80)
def nmi_hardware_failure(case: Case) -> Reasoning:
    """P1 says who asked for the interrupt: ``ODT`` in ASCII where nobody did who left a record."""
    return nmi_reasoning(case.argument(1), _vendor(case.target, None))


def nmi_reasoning(requester: int | None, vendor: str | None) -> Reasoning:
    """The debugger names the processor where the interrupt came without an error record."""
    if requester != _NO_RECORD or vendor is None:
        return Reasoning()
    why = "the hardware raised a non-maskable interrupt without an error record; no driver is to blame"
    return Reasoning(
        specifiers=(f"{requester:X}", vendor, "NOERRREC", "IMAGE", f"{vendor}.sys"),
        culprit=Culprit(f"{vendor}.sys", vendor, None, why),
        uncertain="no error record says which device raised it",
    )


@rule(0x20001)
def hypervisor_error(case: Case) -> Reasoning:
    """P1 says what the hypervisor met."""
    return hypervisor_reasoning(case.argument(1), _vendor(case.target, None))


def hypervisor_reasoning(kind: int | None, vendor: str | None) -> Reasoning:
    """The I/O MMU that did not answer is the processor's own; the debugger says so for Intel's."""
    if kind != _IO_MMU or vendor != _INTEL:
        return Reasoning()
    why = "the hypervisor met an error of the processor's I/O MMU; no driver is named"
    return Reasoning(
        prefix="INTEL_IOMMU_TIMEOUT",
        culprit=Culprit(f"{vendor}.sys", vendor, None, why),
        uncertain="a device, its driver or the firmware can keep the I/O MMU from answering",
    )


def hardware_words(source: int | None, vendor: str | None, section: str | None, kind: str | None) -> tuple[str, ...]:
    """The words of the bucket of 0x124: error source, maker of the processor, section of the record, kind of error."""
    parts = (str(source) if source is not None else None, vendor, section, kind or _UNKNOWN)
    return tuple(word for word in parts if word)


def _sections(record: whea.ErrorRecord) -> Iterator[Finding]:
    for number, section in enumerate(record.sections, 1):
        name = section.name or section.type_id
        note = ", ".join(filter(None, (section.severity, section.fru_text, section.absent)))
        yield Finding(f"WHEA_SECTION_{number}", name, record.address + section.offset, note)
        for label, value in section.facts:
            yield Finding(f"WHEA_SECTION_{number}", f"{label}: {value}")


def _status(case: Case, record: whea.ErrorRecord | None, notes: list[str]) -> machine_check.MachineCheckStatus | None:
    """MCi_STATUS from the arguments, which a dump always has, or from the record."""
    high, low = case.argument(3), case.argument(4)
    section = record.section(whea.MACHINE_CHECK) if record is not None else None
    recorded = section.values.get("status") if section is not None else None
    given = None
    if case.argument(1) == _MACHINE_CHECK_SOURCE and high is not None and low is not None:
        if high >> 32 == 0 and low >> 32 == 0:
            given = high << 32 | low or None
        else:
            notes.append("arguments 3 and 4 are no halves of MCi_STATUS: they have more than 32 bits")
    if given is not None and recorded is not None and given != recorded:
        notes.append(f"MCi_STATUS is {given:#x} in the arguments, but {recorded:#x} in the error record")
    value = given if given is not None else recorded
    return None if value is None else machine_check.MachineCheckStatus(value)


def _words(
    record: whea.ErrorRecord | None, status: machine_check.MachineCheckStatus | None, source: int | None
) -> tuple[str | None, str | None]:
    """The bucket's words for section and error, such as ``PROCESSOR`` and ``CACHE``; ``None`` if not known."""
    kind = status.bucket_word if status is not None else None
    sections = list(record.sections) if record is not None else []
    sections.sort(key=lambda section: not section.primary)
    for section in sections:
        word = whea.bucket_word("section", section.type_id)
        if word is not None:
            return word, kind
    return ("PROCESSOR" if source == _MACHINE_CHECK_SOURCE else None), kind


def _vendor(target: Target, record: whea.ErrorRecord | None) -> str | None:
    """The processor's name for its maker: what the record says, else KPRCB.VendorString."""
    if record is not None:
        for section in record.sections:
            for label, value in section.facts:
                if label == "vendor":
                    return value
    field = target.nt.find("_KPRCB", "VendorString") if target.nt is not None else None
    for processor in processors(target) if field is not None else ():
        if processor.prcb is None or field is None:
            continue
        name = target.memory.c_string(processor.prcb + field.offset, _VENDOR_SIZE)
        if name in _VENDORS:
            return name
    return None


def _sentences(
    record: whea.ErrorRecord | None,
    status: machine_check.MachineCheckStatus | None,
    section: str | None,
    kind: str | None,
) -> Iterator[str]:
    bank = record.section(whea.MACHINE_CHECK) if record is not None else None
    if status is not None:
        where = ""
        if bank is not None and "processor" in bank.values:
            where = f"Processor {bank.values['processor']}, bank {bank.values['bank']}: "
        state = "uncorrected" if status.uncorrected else "corrected"
        lost = ", the processor's context is lost" if status.context_corrupt else ""
        yield f"{where}{'the' if where else 'The'} machine check says {status.error}, {state}{lost}."
    express = record.section(whea.PCI_EXPRESS) if record is not None else None
    if express is not None and "vendor_id" in express.values:
        facts = dict(express.facts)
        yield f"The PCI Express device is {facts['device']} at {facts['location']}."
    advice = _ADVICE.get(kind or "") or _ADVICE.get(section or "")
    if advice:
        yield advice
    yield "This is a hardware error: the stack and the drivers on it say nothing about the reason."


@rule(0x12B)
def faulty_hardware_corrupted_page(case: Case) -> Reasoning:
    """A page that the memory store had compressed came back changed."""
    sentence = (
        "A compressed page changed in physical memory: test the memory, and look at the firmware and at devices that "
        "do DMA, before any driver on the stack."
    )
    status = case.argument(1)
    findings = () if status is None else (Finding("FAIL_STATUS", f"{status & 0xFFFFFFFF:#x}", None, "P1"),)
    return Reasoning(findings, (sentence,))
