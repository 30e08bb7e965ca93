"""Faulting memory accesses and exceptions: what every rule about them says in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.failure import Failure, passed_trap_frames, reported_address
from volatility3_kdump.analysis.reasoning import Case, Culprit, Finding, Reasoning, Sentence, Topic
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.cpu.exception import (
    ACCESS_VIOLATION,
    IN_PAGE_ERROR,
    ExceptionRecord,
    access_kind,
    access_text,
    code_name,
    code_text,
    parse_exception_record,
    record_size,
)
from volatility3_kdump.findings.regions import (
    KERNEL,
    NON_CANONICAL,
    NULL_PAGE,
    UNLOADED,
    Region,
    canonical,
    region_of,
)
from volatility3_kdump.windows.memory.kernel_regions import PAGED_POOL, SPECIAL_POOL
from volatility3_kdump.windows.stacks.traps import find_exception

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_NO_ADDRESS = {8: 0xFFFFFFFFFFFFFFFF, 4: 0xFFFFFFFF}
_DISPATCH_LEVEL = 2
_ACCESSES = {0: "read", 1: "write", 8: "execute"}
_PAST = {"read": "read", "write": "wrote to", "execute": "tried to execute"}
_TAGS = {"read": "READ_ADDRESS", "write": "WRITE_ADDRESS", "execute": "EXECUTE_ADDRESS"}
_LETTERS = {"read": "R", "write": "W", "execute": "X"}
#: The message of an access violation, as the system's message table has it.
_AV_MESSAGE = "The instruction at 0x%p referenced memory at 0x%p. The memory could not be %s."
_INTEGRITY_ERROR = 0xC000003F

#: NTSTATUS codes of failed page reads that are not exception codes.
_PAGE_STATUS = {
    0xC000000E: "the device does not exist any more",
    0xC000009A: "insufficient system resources",
    0xC000009C: "bad blocks on the disk",
    0xC000009D: "the device is not connected",
    0xC000016A: "the disk operation failed",
    0xC0000185: "input/output device error",
    _INTEGRITY_ERROR: "a check sum of the data is wrong",
}


@dataclass(frozen=True)
class Access:
    """A faulting access: ``read``, ``write`` or ``execute``, and the address; each ``None`` if not known."""

    kind: str | None
    address: int | None


def fault_access(case: Case, record: ExceptionRecord | None = None) -> Access:
    """The access that failed: of the exception record if there is one, else what the bug check's arguments say."""
    if record is not None and access_kind(record):
        failure = case.failure
        at_exception = failure is not None and failure.context.ip == record.address
        instruction = failure.instruction if failure is not None and at_exception else None
        return Access(access_kind(record), reported_address(record, instruction))
    if case.failure is not None:
        return Access(case.failure.access, case.failure.address)
    return Access(None, None)


def access_reasoning(case: Case, access: Access, *, irql: int | None = None) -> Reasoning:
    """READ_ADDRESS, WRITE_ADDRESS or EXECUTE_ADDRESS with the region, and a sentence that says what happened."""
    target = case.target
    if access.kind is None:
        return Reasoning()
    findings = [Finding("AV.Type", access.kind.capitalize())]
    if access.address is None:
        return _unreported(case, access.kind) + Reasoning(tuple(findings))
    region = region_of(target, access.address)
    width = 2 * target.memory.pointer_size
    value = f"{access.address & (1 << 4 * width) - 1:0{width}x} {region.debugger_words}".rstrip()
    mapped = target.memory.read(access.address, 1) is not None
    state = "" if mapped or region.kind in (NULL_PAGE, NON_CANONICAL) else target.memory.why_unreadable(access.address)
    # The debugger's words have said it where it has some.
    place = f"by {region.source}" if region.debugger_words else f"{region.text} (by {region.source})"
    note = place + (f"; {state}" if state else "")
    findings.insert(0, Finding(_TAGS[access.kind], value, access.address, note))
    if region.kind == NULL_PAGE and not _went_elsewhere(case):
        findings.append(Finding("AV.Dereference", "NullPtr", access.address))
    sentences: list[str] = [_sentence(case, access.kind, access.address, region, irql)]
    if irql is not None and irql >= _DISPATCH_LEVEL and region.kind in (KERNEL, PAGED_POOL) and not mapped:
        sentences.append(f"At IRQL {irql} no page can be brought in, so an access to paged-out memory is fatal.")
    return Reasoning(tuple(findings), tuple(sentences)) + _unloaded(access.kind, access.address, region)


def _went_elsewhere(case: Case) -> bool:
    """Whether the instruction's operand is another address, and memory that can be read: the null is not its own."""
    failure = case.failure
    if failure is None or failure.operand is None or failure.operand_agrees is not False:
        return False
    return case.target.memory.read(failure.operand, 1) is not None


def _unreported(case: Case, kind: str) -> Reasoning:
    """An access whose address the processor did not report; the instruction's operand may tell it."""
    target, failure = case.target, case.failure
    ones = f"{_NO_ADDRESS[target.memory.pointer_size]:x}"
    operand = _only_operand(target, failure) if failure is not None and failure.at_fault else None
    if failure is None or operand is None:
        note = "the processor reported no address: it was not canonical, or the fault was no page fault"
        sentence = Sentence(
            f"The processor reported no address for the {kind}: most often the address was not canonical, "
            "which is typical of a corrupted pointer.",
            Topic.NO_ADDRESS,
        )
        return Reasoning((Finding(_TAGS[kind], ones, None, note),), (sentence,))
    region = region_of(target, operand)
    findings = (
        Finding(_TAGS[kind], ones, None, "the processor reported no address"),
        Finding("OPERAND_ADDRESS", f"{operand:0{2 * target.memory.pointer_size}x}", operand, region.text),
    )
    if region.kind == NON_CANONICAL:
        return Reasoning(findings, (_sentence(case, kind, operand, region, None),))
    who = failure.name or "the instruction"
    sentence = Sentence(
        f"The processor reported no address for the {kind}; {who} would have accessed {operand:#x} ({region.text}).",
        Topic.OPERAND,
    )
    return Reasoning(findings, (sentence,))


def _only_operand(target: Target, failure: Failure) -> int | None:
    """The memory operand that a fault without an address was about: one that is not canonical, else the only one.

    A branch pushes or pops, but most often fails for where it leads: its stack is not named.
    """
    instruction = failure.instruction
    if instruction is None:
        return None
    places = [memory.address for memory in instruction.memories if memory.access is not None]
    astray = [address for address in places if address is not None and not canonical(target, address)]
    if astray:
        return astray[0]
    return places[0] if len(places) == 1 and instruction.stack is None else None


def _sentence(case: Case, kind: str, address: int, region: Region, irql: int | None) -> Sentence:
    failure = case.failure
    who, topic = "The kernel", Topic.ACCESS
    if failure is not None and failure.at_fault and case.differ(address, failure.context.ip):
        if failure.name:
            who = failure.name
        elif failure.unloaded is not None:
            who = f"Code of the unloaded driver {failure.unloaded.name}"
    elif kind == "execute":
        who, topic = "The processor", Topic.FETCH
    level = "" if irql is None else f" at IRQL {irql}"
    place = region.text
    if region.kind == NULL_PAGE:
        place = "a null pointer" if address == 0 else f"a null pointer plus {address:#x}"
    elif region.kind == NON_CANONICAL:
        place = "not a canonical address, so the pointer itself was corrupt"
    elif region.kind == SPECIAL_POOL:
        place = "special pool, where freed memory and the ends of blocks are not mapped"
    if failure is not None and failure.operand_agrees is False and failure.operand is not None:
        # What the instruction did not do is not to be said of it.
        return Sentence(
            f"The processor reported {access_text(kind, address)} ({place}){level}, but the instruction accesses "
            f"{failure.operand:#x}.",
            Topic.REPORTED,
        )
    return Sentence(f"{who} {_PAST[kind]} {address:#x} ({place}){level}.", topic)


def _unloaded(kind: str, address: int, region: Region) -> Reasoning:
    if region.kind != UNLOADED or region.unloaded is None:
        return Reasoning()
    why = f"the {kind} at {address:#x} hit the place of {region.unloaded.name}, which had been unloaded"
    culprit = Culprit(region.unloaded.name, stem(region.unloaded.name), address, why)
    sentence = Sentence(f"{region.unloaded.name} was unloaded while something still used it.", Topic.UNLOADED)
    return Reasoning((Finding("UNLOADED_MODULE", region.unloaded.name, address),), (sentence,), culprit=culprit)


def code_reasoning(case: Case) -> Reasoning:
    """What can be said where the instruction pointer itself is the trouble: FAILED_INSTRUCTION_ADDRESS, paged code."""
    failure = case.failure
    if failure is None or not failure.at_fault or failure.context.ip is None:
        return Reasoning()
    ip = failure.context.ip
    if failure.module is None and failure.unloaded is not None:
        name = failure.unloaded.name
        return Reasoning(
            (Finding("FAILED_INSTRUCTION_ADDRESS", f"{ip:016x}", ip, f"in the unloaded {name}"),),
            (f"The processor ran code of {name} although that driver had been unloaded.",),
            culprit=Culprit(name, stem(name), ip, f"the instruction pointer lies in {name}, which had been unloaded"),
        )
    if failure.access not in ("execute", "read") or failure.address != ip:
        return Reasoning()
    where = failure.name or f"{ip:016x}"
    findings = [Finding("FAILED_INSTRUCTION_ADDRESS", where, ip)]
    if failure.module is None:
        region = region_of(case.target, ip)
        said = Sentence(
            f"The instruction pointer {ip:#x} is in no driver ({region.text}): "
            "a function pointer or a return address was wrong.",
            Topic.POINTER,
        )
        return Reasoning(tuple(findings), (said,))
    image = case.target.images.headers_of(failure.module)
    section = image.section_of(ip - failure.module.base) if image else None
    if section is not None and section.name.upper().startswith("PAGE"):
        findings.insert(0, Finding("IP_IN_PAGED_CODE", where, ip, f"section {section.name}"))
        said = Sentence(
            f"{where} is in the pageable section {section.name} and was paged out when it ran at a raised IRQL.",
            Topic.CODE,
        )
        return Reasoning(tuple(findings), (said,))
    if case.target.memory.read(ip, 1) is not None and case.target.dump.triage is not None:
        # Small memory dumps are written with the page tables of the crash, from valid pages only.
        return Reasoning(
            tuple(findings), (f"The processor could not run the code at {where}, though its page is in the dump.",)
        )
    return Reasoning(tuple(findings), (f"The code at {where} was not in memory when it was to run.",))


# exceptions ----------------------------------------------------------------------------------------------------------


def exception_reasoning(case: Case, code: int, record: ExceptionRecord | None, address: int | None) -> Reasoning:
    """ERROR_CODE and what belongs to it, for an exception code and its record (at ``address``) where that was found."""
    code &= 0xFFFFFFFF
    message = _AV_MESSAGE if code == ACCESS_VIOLATION else code_text(code) or "no text for this code"
    findings = []
    if record is not None and address is not None:
        findings.append(Finding("EXCEPTION_RECORD", f"{address:016x}", address, code_name(record.code) or ""))
    findings += [
        Finding("ERROR_CODE", f"(NTSTATUS) {code:#x} - {message}", code, code_name(code) or ""),
        Finding("EXCEPTION_CODE_STR", f"{code:x}", code),
    ]
    parameters = record.parameters if record is not None else ()
    for number, value in enumerate(parameters[:2], 1):
        findings.append(Finding(f"EXCEPTION_PARAMETER{number}", f"{value:016x}", value))
    findings.append(Finding("EXCEPTION_STR", f"{code:#x}", code))
    sentences = []
    what = code_text(code)
    code_words = code_name(code) or f"the code {code:#x}"
    if code != ACCESS_VIOLATION:
        sentences.append(f"The exception was {code_words}{f' ({what.lower()})' if what else ''}.")
    if code == IN_PAGE_ERROR and len(parameters) > 2:
        status = parameters[2] & 0xFFFFFFFF
        meaning = _PAGE_STATUS.get(status)
        said = f" ({meaning})" if meaning else ""
        findings.append(Finding("IO_ERROR_CODE", f"{status:#x}", status, meaning or ""))
        sentences.append(
            f"A page could not be read back (look at the disk and its cable first): status {status:#x}{said}."
        )
    return Reasoning(tuple(findings), tuple(sentences))


def exception_words(code: int, parameters: Sequence[int]) -> tuple[str, ...]:
    """The words of a bucket for an exception: its code, and why a page could not be read."""
    parts = [f"{code & 0xFFFFFFFF:x}"]
    if code & 0xFFFFFFFF == IN_PAGE_ERROR and len(parameters) > 2:
        parts.append(f"{parameters[2] & 0xFFFFFFFF:x}")
    return tuple(parts)


def exception_record_at(target: Target, address: int | None) -> ExceptionRecord | None:
    """The EXCEPTION_RECORD at an address; ``None`` when it is not in the dump or nothing was written there."""
    if not address:
        return None
    width = target.memory.pointer_size
    data = target.memory.read(address, record_size(width))
    return parse_exception_record(data, width) if data is not None else None


def find_exception_record(target: Target, code: int, ip: int | None) -> tuple[int, ExceptionRecord] | None:
    """The EXCEPTION_RECORD on the stacks of the crash with this code and this ExceptionAddress, and its address."""
    return None if ip is None else find_exception(target, code, ip)


def interrupted(case: Case) -> tuple[int, Context] | None:
    """The trap frame of what failed, and its registers: that of the failure, else the innermost that unwinding from the
    bug check comes by, else one found by a scan of the stack. ``None`` where there is none."""
    target, failure = case.target, case.failure
    if failure is not None and failure.trap_frame is not None:
        return failure.trap_frame, failure.context
    return next(((address, context) for address, context, _ in passed_trap_frames(target)), None)


def trap_frame_reasoning(case: Case) -> Reasoning:
    """TRAP_FRAME with what it interrupted, for bug checks whose arguments name neither."""
    located = interrupted(case)
    if located is None:
        why = "no trap frame was found on the stack of the bug check"
        return Reasoning((Finding("TRAP_FRAME", "not in the dump", None, why),))
    address, context = located
    where = case.target.name_of(context.ip) if context.ip is not None else None
    return Reasoning((Finding("TRAP_FRAME", f"{address:016x}", address, where or ""),))


def page_status(status: int) -> str | None:
    """Words for the status with which reading a page failed; ``None`` where there are none."""
    return _PAGE_STATUS.get(status) or code_text(status)


def is_access_violation(code: int | None) -> bool:
    return code is not None and code & 0xFFFFFFFF == ACCESS_VIOLATION


def access_letter(kind: str | None) -> str | None:
    """``R``, ``W`` or ``X``, as buckets have it."""
    return _LETTERS.get(kind or "")


def access_word(value: int | None) -> str | None:
    """``read``, ``write`` or ``execute`` for ExceptionInformation[0] of an access violation."""
    return None if value is None else _ACCESSES.get(value)


def stem(file_name: str) -> str:
    """A driver's name without its extension."""
    return file_name.rsplit(".", 1)[0] if "." in file_name else file_name
