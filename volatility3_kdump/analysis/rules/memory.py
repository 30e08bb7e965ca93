"""Bug checks about memory accesses (0xA, 0xD1, 0x50, 0xBE, 0xC5, 0xFC) and integrity (0x13A, 0x154, 0x109)."""

from __future__ import annotations

from dataclasses import replace

from volatility3_kdump.analysis.faults import (
    Access,
    access_letter,
    access_reasoning,
    code_reasoning,
    exception_reasoning,
    exception_record_at,
    exception_words,
    fault_access,
    interrupted,
    stem,
    trap_frame_reasoning,
)
from volatility3_kdump.analysis.reasoning import Case, Culprit, Finding, Reasoning, Sentence, Topic, contradicted, rule
from volatility3_kdump.analysis.rules.pool import freed_block
from volatility3_kdump.findings.regions import DRIVER, UNLOADED, region_of
from volatility3_kdump.windows.memory.kernel_regions import STACK

_DISPATCH_LEVEL = 2
_HIGHEST_IRQL = 15
_VALID, _NO_EXECUTE = 1, 1 << 63
#: Bits of the error code of a page fault.
_PRESENT, _WRITE, _RESERVED, _FETCH = 1, 2, 8, 0x10
_ERROR_CODE = 0x1F

_FREED_AGAIN = 0x11
_HEAP_PREFIX = "heap_failure_"
#: _HEAP_FAILURE_TYPE, whose values have not moved since Windows 10 1803.
_HEAP_FAILURES_SINCE = 17134
_HEAP_FAILURES = (
    *("internal", "unknown", "generic", "entry_corruption", "multiple_entries_corruption", "virtual_block_corruption"),
    *("buffer_overrun", "buffer_underrun", "block_not_busy", "invalid_argument", "invalid_allocation_type"),
    *("usage_after_free", "cross_heap_operation", "freelists_corruption", "listentry_corruption"),
    *("lfh_bitmap_mismatch", "segment_lfh_bitmap_corruption", "segment_lfh_double_free", "vs_subsegment_corruption"),
    *("null_heap", "allocation_limit", "commit_limit", "invalid_va_mgr_query"),
)
#: What these stand for, by Microsoft's page on 0x13A.
_HEAP_WORDS = {
    "entry_corruption": "the header of a block is damaged",
    "multiple_entries_corruption": "the headers of several blocks are damaged",
    "virtual_block_corruption": "the header of a large block is damaged",
    "buffer_overrun": "something wrote beyond the end of a block",
    "buffer_underrun": "something wrote in front of a block",
    "block_not_busy": "a block that is free was passed where one in use must be",
    "usage_after_free": "a block was written to after it had been freed",
    "cross_heap_operation": "a block was passed to a heap that is not its own",
    "freelists_corruption": "the list of free blocks is damaged",
    "listentry_corruption": "a list of blocks is damaged",
    "lfh_bitmap_mismatch": "the bitmap of a group of small blocks is damaged",
    "segment_lfh_bitmap_corruption": "the bitmap of a group of small blocks is damaged",
    "segment_lfh_double_free": "a block was freed twice",
    "vs_subsegment_corruption": "the headers of a group of blocks of various sizes are damaged",
}


@rule(0xA, 0xD1)
def irql_not_less_or_equal(case: Case) -> Reasoning:
    """P1 address, P2 IRQL, P3 access, P4 instruction."""
    access, irql, ip = fault_access(case), case.argument(2), case.argument(4)
    reasoning = code_reasoning(case) + access_reasoning(case, access, irql=irql)
    notes = []
    uncertain = None
    sentences: list[str] = []
    if irql is not None:
        reasoning += Reasoning((Finding("CURRENT_IRQL", f"{irql:x}", irql),))
        if irql > _HIGHEST_IRQL:
            notes.append(contradicted(f"argument 2 is {irql:#x}, which is no IRQL"))
        elif irql < _DISPATCH_LEVEL:
            sentences.append(f"The IRQL was {irql}, where page faults are allowed: the address itself was invalid.")
    at = case.failure.context.ip if case.failure is not None and case.failure.at_fault else None
    if ip is not None and case.differ(at, ip):
        places = f"argument 4 names the instruction {ip:#x}, but the registers are at {at or 0:#x}"
        notes.append(contradicted(places))
        uncertain = "the arguments and the registers do not agree, so that one of them is damaged"
    return reasoning + Reasoning(sentences=tuple(sentences), notes=tuple(notes), prefix="AV", uncertain=uncertain)


def _refused(error: int | None) -> str | None:
    """What a page that was present was not good for, where argument 2 of 0x50 is the processor's error code, a set of
    bits (Intel's manual, volume 3, "Page-Fault Exceptions"). 1 alone was a write before Windows 10."""
    if error is None or error & ~_ERROR_CODE or not error & _PRESENT:
        return None
    if error & _RESERVED:
        return "its page table entry has a reserved bit set"
    if error & _FETCH:
        return "its memory must not be executed"
    return "it may only be read" if error & _WRITE else None


@rule(0x50)
def page_fault_in_nonpaged_area(case: Case) -> Reasoning:
    """P1 address, P2 access, P3 instruction, P4 the memory manager's code for the fault."""
    access, internal = fault_access(case), case.argument(4)
    letter = access_letter(access.kind)
    reasoning = code_reasoning(case) + access_reasoning(case, access)
    findings = () if internal is None else (Finding("MM_INTERNAL_CODE", f"{internal:x}", internal),)
    sentences = []
    if access.address is not None:
        region = region_of(case.target, access.address)
        refused = _refused(case.argument(2))
        if refused is not None:
            sentences.append(f"The page was there, but {refused}.")
        elif case.target.memory.read(access.address, 1) is not None:
            sentences.append(
                "The dump holds that memory now: it was mapped after the fault, or the fault was one of protection."
            )
        elif region.kind not in (DRIVER, UNLOADED, STACK):
            unmapped = "No memory is mapped there and none may be brought in"
            reason = "the pointer was wrong, or the memory had been freed"
            sentences.append(Sentence(f"{unmapped}: {reason}.", Topic.UNMAPPED))
    prefix = f"AV_{letter}" if letter is not None else "AV"
    # The words of code_reasoning have no place in this bucket.
    return replace(reasoning + Reasoning(findings, tuple(sentences)), specifiers=(), prefix=prefix)


@rule(0xBE)
def write_to_read_only_memory(case: Case) -> Reasoning:
    """P1 address, P2 contents of the PTE."""
    reasoning = trap_frame_reasoning(case) + access_reasoning(case, fault_access(case)) + _page_table_entry(case)
    address = case.pointer(1)
    module = None if address is None else region_of(case.target, address).module
    located = interrupted(case)
    where = case.target.name_of(located[1].ip) if located is not None and located[1].ip is not None else None
    sentence = "The page is mapped, but it may only be read."
    if module is not None and address is not None:
        image = case.target.images.headers_of(module)
        section = image.section_of(address - module.base) if image else None
        part = f"section {section.name} of {module.image_name}" if section else module.image_name
        sentence = f"The page belongs to {part} and may only be read."
    written = (Sentence(f"The instruction that wrote is at {where}.", Topic.WRITER),) if where else ()
    return reasoning + Reasoning(sentences=(*written, sentence))


@rule(0xFC)
def execute_of_no_execute_memory(case: Case) -> Reasoning:
    """P1 address, P2 contents of the PTE."""
    address = case.pointer(1)
    reasoning = (
        trap_frame_reasoning(case) + access_reasoning(case, Access("execute", address)) + _page_table_entry(case)
    )
    sentences = []
    if address is not None:
        region = region_of(case.target, address)
        reason = {
            STACK: "code on a stack is either a return address that was overwritten or an attack",
            DRIVER: f"this part of {region.module.image_name} holds data, not code" if region.module else "",
        }.get(region.kind, "a function pointer or a return address was wrong")
        sentences.append(f"Memory there must not be executed: {reason}.")
    return reasoning + Reasoning(sentences=tuple(sentences))


def _page_table_entry(case: Case) -> Reasoning:
    """The PTE that 0xBE and 0xFC give, with its bits in words (Intel SDM volume 3, 4-level paging)."""
    entry = case.argument(2)
    if entry is None or case.target.header.architecture != "x64":
        return Reasoning()
    properties = [
        "valid" if entry & _VALID else "not valid",
        "writable" if entry & 2 else "read-only",
        "user" if entry & 4 else "kernel",
        "no execute" if entry & _NO_EXECUTE else "executable",
    ]
    return Reasoning((Finding("PTE", f"{entry:016x}", entry, ", ".join(properties)),))


@rule(0xC5)
def driver_corrupted_pool(case: Case) -> Reasoning:
    """P1 address, P2 IRQL, P3 access, P4 instruction: a fault inside the pool's own code."""
    reasoning = access_reasoning(case, fault_access(case), irql=case.argument(2))
    irql = case.argument(2)
    findings = () if irql is None else (Finding("CURRENT_IRQL", f"{irql:x}", irql),)
    return reasoning + Reasoning(
        findings,
        (
            "The kernel's pool met a pointer that some driver had overwritten: the driver on the stack found the "
            "damage and need not have done it.",
            "Driver Verifier with special pool can show who did.",
        ),
    )


@rule(0x13A)
def kernel_heap_corruption(case: Case) -> Reasoning:
    """P1 kind of corruption, P2 heap, P3 address of the damage."""
    kind, heap, address = case.argument(1), case.pointer(2), case.pointer(3)
    if kind is None:
        return Reasoning()
    name = _heap_failure(case, kind)
    findings = [
        Finding("HEAP_FAILURE_TYPE", name or f"{kind:#x}", kind, "" if name else "name not known for this kernel")
    ]
    sentences = []
    if heap is not None:
        findings.append(Finding("HEAP_ADDRESS", f"{heap:016x}", heap))
    if address is not None:
        region = region_of(case.target, address)
        findings.append(Finding("CORRUPTING_POOL_ADDRESS", f"{address:016x}", address, region.text))
        sentences.append(
            f"The heap found the damage at {address:#x} ({region.text})" + (f": {_heap_words(name)}." if name else ".")
        )
    reasoning = Reasoning(tuple(findings), tuple(sentences), specifiers=(f"{kind:x}",))
    # Of a block that is freed twice the argument is the header (published: ExFreePool of what lies 10h behind it).
    return freed_block(case, reasoning, address) if kind == _FREED_AGAIN else reasoning


def _heap_words(name: str) -> str:
    word = name.removeprefix(_HEAP_PREFIX)
    return _HEAP_WORDS.get(word) or f"of the kind {word!r}"


def _heap_failure(case: Case, kind: int) -> str | None:
    """The constant of _HEAP_FAILURE_TYPE: of the kernel's symbols, else of the table where it fits the build."""
    names = case.target.nt.enum("_HEAP_FAILURE_TYPE") if case.target.nt is not None else {}
    if names:
        return names.get(kind)
    build = case.target.header.build_number
    if build is None or build < _HEAP_FAILURES_SINCE or kind >= len(_HEAP_FAILURES):
        return None
    return _HEAP_PREFIX + _HEAP_FAILURES[kind]


@rule(0x154)
def unexpected_store_exception(case: Case) -> Reasoning:
    """P1 store, P2 exception information: EXCEPTION_POINTERS, which are an exception record and a context."""
    information, memory = case.pointer(2), case.target.memory
    record_address = memory.pointer(information) if information is not None else None
    record = exception_record_at(case.target, record_address)
    if record is None:
        record_address, record = information, exception_record_at(case.target, information)
        if record is not None and case.target.names.lookup(record.address) is None:
            record = None
    if record is None or record_address is None:
        why = "argument 2 is not set" if information is None else memory.why_unreadable(information)
        return Reasoning((Finding("EXCEPTION_RECORD", "not in the dump", information, why),))
    reasoning = exception_reasoning(case, record.code, record, record_address)
    context = memory.pointer(information + memory.pointer_size) if information is not None else None
    if context and record_address != information:
        reasoning += Reasoning((Finding("CONTEXT", f"{context:016x}", context),))
    reasoning += access_reasoning(case, fault_access(case, record))
    return reasoning + Reasoning(
        sentences=(
            "The compressed memory store read data back wrongly: suspect the disk with the page file, or memory.",
        ),
        specifiers=exception_words(record.code, record.parameters),
    )


@rule(0x109)
def critical_structure_corruption(case: Case) -> Reasoning:
    """P3 depends on P4, the kind of what was changed. Where it happened says nothing about who did it."""
    kind, place = case.argument(4), case.pointer(3)
    if kind is None:
        return Reasoning()
    argument = case.bug_check.arguments[3]
    corrupted = argument.value_meaning
    findings = [Finding("CORRUPTED_REGION", corrupted or f"type {kind:#x}", kind)]
    sentences = [
        f"The kernel's integrity check found changes: {corrupted or f'a region of type {kind:#x}'}.",
        "The check runs at random times, so the stack does not show who made the change; "
        "failing memory, a driver that patches the kernel and malware are all possible.",
    ]
    culprit = None
    if place is not None and case.target.is_kernel_address(place):
        region = region_of(case.target, place)
        findings.append(Finding("CORRUPTED_ADDRESS", f"{place:016x}", place, region.text))
        sentences.insert(1, f"Argument 3 points at {case.target.name_of(place) or region.text}.")
        if region.unloaded is not None:
            name = region.unloaded.name
            culprit = Culprit(name, stem(name), place, f"argument 3 lies where {name} was before it was unloaded")
    return Reasoning(tuple(findings), tuple(sentences), specifiers=(f"{kind:x}",), culprit=culprit)
