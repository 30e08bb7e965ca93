"""Exceptions and processor traps that nobody handled: 0x1E, 0x3B, 0x7E, 0x8E, 0x7F, 0x139."""

from __future__ import annotations

import collections
import itertools

from volatility3_kdump import tables
from volatility3_kdump.analysis.faults import (
    Access,
    access_letter,
    access_reasoning,
    access_word,
    code_reasoning,
    exception_reasoning,
    exception_record_at,
    fault_access,
    find_exception_record,
    interrupted,
    is_access_violation,
    trap_frame_reasoning,
)
from volatility3_kdump.analysis.reasoning import Case, Culprit, Finding, Reasoning, contradicted, rule
from volatility3_kdump.cpu.context import Context, context_size, parse_context
from volatility3_kdump.cpu.exception import ExceptionRecord
from volatility3_kdump.cpu.trap_frames import is_known, trap_frame_size, why_not_trap_frame
from volatility3_kdump.findings.regions import processor_stacks
from volatility3_kdump.images.modules import Module
from volatility3_kdump.windows.processes.crashed import crash_processor, crash_thread
from volatility3_kdump.windows.processes.threads import stack_limits
from volatility3_kdump.windows.stacks.starts import trap_start
from volatility3_kdump.windows.stacks.walker import walker

_DOUBLE_FAULT = 8
_CORRUPT_LIST = 3
_PAGE_SIZE = 0x1000
_KERNEL_MODULES = ("nt", "hal")
#: A function that often on one stack calls itself.
_RECURSION = 8
#: How far from a stack's end a stack pointer still counts as having run over it.
_OVERRUN = 0x4000
_AT_ODDS = "the arguments and the records of the exception do not agree, so that one of them is damaged"


def _status(value: int) -> int:
    return value & 0xFFFFFFFF


def _unhandled(case: Case, record_address: int | None, record: ExceptionRecord | None, access: Access) -> Reasoning:
    """What 0x1E, 0x3B, 0x7E and 0x8E share: the exception, the access that failed, contradictions, bucket words."""
    code, ip = case.argument(1), case.pointer(2)
    if code is None:
        return Reasoning()
    reasoning = code_reasoning(case) + exception_reasoning(case, code, record, record_address)
    notes = []
    if record is not None:
        if record.code != _status(code):
            codes = f"argument 1 names exception {_status(code):#x}, but the exception record has {record.code:#x}"
            notes.append(contradicted(codes))
        if ip is not None and case.differ(record.address, ip):
            places = f"argument 2 names the instruction {ip:#x}, but the exception record has {record.address:#x}"
            notes.append(contradicted(places))
    failure = case.failure
    if failure is not None and failure.context_record is not None and ip and case.differ(failure.context.ip, ip):
        places = f"argument 2 names the instruction {ip:#x}, but the context record is at {failure.context.ip:#x}"
        notes.append(contradicted(places))
    reasoning += Reasoning(notes=tuple(notes), uncertain=_AT_ODDS if notes else None)
    if is_access_violation(code):
        reasoning += access_reasoning(case, access)
        return reasoning + Reasoning(prefix="AV")
    return reasoning + Reasoning(specifiers=(f"{_status(code):x}",))


@rule(0x1E)
def exception_not_handled(case: Case) -> Reasoning:
    """P1 code, P2 instruction, P3 and P4 the first two exception parameters."""
    code = case.argument(1)
    located = find_exception_record(case.target, code, case.pointer(2)) if code else None
    record_address, record = located if located is not None else (None, None)
    access = fault_access(case, record)
    if record is None and is_access_violation(code):
        address = case.argument(4)
        reported = address != (1 << 8 * case.target.memory.pointer_size) - 1
        access = Access(access_word(case.argument(3)), case.pointer(4) or address if reported else None)
    reasoning = _unhandled(case, record_address, record, access)
    letter = access_letter(access.kind)
    if is_access_violation(code) and letter is not None:
        return Reasoning(prefix=f"AV_{letter}") + reasoning
    return reasoning


@rule(0x3B)
def system_service_exception(case: Case) -> Reasoning:
    """P1 code, P2 instruction, P3 CONTEXT; the exception record is on the stack, but no argument names it."""
    code = case.argument(1)
    located = find_exception_record(case.target, code, case.pointer(2)) if code else None
    record_address, record = located if located is not None else (None, None)
    reasoning = _unhandled(case, record_address, record, fault_access(case, record))
    return (
        _context(case, 3)
        + reasoning
        + Reasoning(sentences=("It happened while the kernel carried out a system call.",))
    )


@rule(0x7E)
def system_thread_exception_not_handled(case: Case) -> Reasoning:
    """P1 code, P2 instruction, P3 EXCEPTION_RECORD, P4 CONTEXT."""
    address = case.pointer(3)
    record = exception_record_at(case.target, address)
    missing = Reasoning()
    if record is None:
        why = "argument 3 is not set" if address is None else case.target.memory.why_unreadable(address)
        missing = Reasoning((Finding("EXCEPTION_RECORD", "not in the dump", address, why),))
    reasoning = missing + _unhandled(case, address, record, fault_access(case, record))
    return _context(case, 4) + reasoning


@rule(0x8E)
def kernel_mode_exception(case: Case) -> Reasoning:
    """P1 code, P2 instruction, P3 trap frame."""
    code = case.argument(1)
    located = find_exception_record(case.target, code, case.pointer(2)) if code else None
    record_address, record = located if located is not None else (None, None)
    reasoning = _unhandled(case, record_address, record, fault_access(case, record))
    return _trap_frame(case, 3) + reasoning


def _context(case: Case, number: int) -> Reasoning:
    """CONTEXT, or why the record that an argument names cannot be had."""
    address, target = case.pointer(number), case.target
    if address is None or target.header.architecture not in ("x64", "x86", "arm64"):
        return Reasoning()
    data = target.memory.read(address, context_size(target.header.architecture))
    if data is None:
        return Reasoning((Finding("CONTEXT", "not in the dump", address, target.memory.why_unreadable(address)),))
    if parse_context(data, target.header.architecture, "context record", address) is None:
        why = f"argument {number} points at {address:#x}, where there is no context record"
        return Reasoning(notes=(contradicted(why),))
    return Reasoning((Finding("CONTEXT", f"{address:016x}", address),))


def _trap_frame(case: Case, number: int) -> Reasoning:
    """TRAP_FRAME, or why there is none where an argument says."""
    address, target = case.pointer(number), case.target
    if address is None or not is_known(target.header.architecture):
        return Reasoning()
    against = why_not_trap_frame(target.header.architecture, target.memory.read, address, target.nt)
    if against is None:
        return Reasoning((Finding("TRAP_FRAME", f"{address:016x}", address),))
    if target.memory.read(address, trap_frame_size(target.header.architecture)) is None:
        return Reasoning((Finding("TRAP_FRAME", "not in the dump", address, target.memory.why_unreadable(address)),))
    why = f"argument {number} points at {address:#x}, where there is no trap frame: {against}"
    return Reasoning(notes=(contradicted(why),))


# fast fail -----------------------------------------------------------------------------------------------------------


@rule(0x139)
def security_check_failure(case: Case) -> Reasoning:
    """P1 fast-fail code, P2 trap frame, P3 EXCEPTION_RECORD. Names: FAST_FAIL_ constants of ``winnt.h``."""
    code = case.argument(1)
    if code is None:
        return Reasoning()
    fast_fail = tables.fast_fail_codes().get(code, {})
    name = fast_fail.get("name")
    findings = [
        Finding("FAST_FAIL_CODE", name or f"{code:#x}", code, fast_fail.get("text", "not a code that winnt.h names")),
    ]
    notes = []
    address = case.pointer(3)
    record = exception_record_at(case.target, address)
    if record is not None and address is not None:
        if record.parameters and record.parameters[0] != code:
            codes = f"argument 1 is fast-fail code {code:#x}, but the exception record has {record.parameters[0]:#x}"
            notes.append(contradicted(codes))
    elif address is not None:
        why = case.target.memory.why_unreadable(address)
        findings.append(Finding("EXCEPTION_RECORD", "not in the dump", address, why))
    sentences = [f"The kernel stopped itself because {fast_fail.get('text', f'of fast-fail code {code:#x}')}."]
    if code == _CORRUPT_LIST:
        sentences.append("The code that met the broken list need not be the one that broke it.")
    reasoning = _trap_frame(case, 2) + Reasoning(tuple(findings), tuple(sentences), tuple(notes))
    if record is not None:
        reasoning += exception_reasoning(case, record.code, record, address)
        reasoning = Reasoning(reasoning.findings, tuple(sentences), reasoning.notes)
    return reasoning


# processor traps ------------------------------------------------------------------------------------------------------


@rule(0x7F)
def unexpected_trap(case: Case) -> Reasoning:
    """P1 the processor's trap number; 8 is a double fault, as a rule because the kernel stack was used up."""
    number = case.argument(1)
    if number is None:
        return Reasoning()
    trap_name = case.bug_check.arguments[0].value_meaning
    findings = [Finding("TRAP_NUMBER", f"{number:x}", number, trap_name or "")]
    sentences = [f"The processor raised trap {number:#x}{f' ({trap_name})' if trap_name else ''} in kernel mode."]
    reasoning = Reasoning(tuple(findings), tuple(sentences), specifiers=(f"{number:x}",))
    reasoning += trap_frame_reasoning(case)
    located = interrupted(case)
    return reasoning + _double_fault(case, *located) if located is not None and number == _DOUBLE_FAULT else reasoning


def _double_fault(case: Case, trap_frame: int, context: Context) -> Reasoning:
    """Was the stack used up? The stack pointer at the fault against the limits of the stacks that it can be on."""
    target, sp, thread = case.target, context.sp, crash_thread(case.target)
    limits = stack_limits(target, thread.address) if thread is not None else None
    if sp is None or limits is None or thread is None:
        why = "the thread's stack limits are not in the dump"
        return Reasoning((Finding("STACK_POINTER", "not known" if sp is None else f"{sp:016x}", sp, why),))
    low, high = limits
    reasoning = Reasoning(
        (Finding("STACK_POINTER", f"{sp:016x}", sp, f"stack {low:x} to {high:x} of thread {thread.address:x}"),)
    )
    processor = crash_processor(target)
    other = processor_stacks(target, processor.prcb if processor is not None else None)
    if low <= sp < high:
        used = high - sp
        if sp - low < _PAGE_SIZE // 4:
            sentence = f"The kernel stack was all but used up: {used:#x} of {high - low:#x} bytes."
            return reasoning + Reasoning(
                (Finding("POSSIBLE_STACK_OVERFLOW", f"{sp - low:#x} bytes left", sp),), (sentence,)
            )
        said = f"The kernel stack was not used up ({used:#x} of {high - low:#x} bytes)"
        return reasoning + Reasoning(sentences=(f"{said}: suspect the hardware or a corrupted task state.",))
    inside = next((name for name, start, end in other if start <= sp < end), None)
    if inside is not None:
        return reasoning + Reasoning(sentences=(f"At the fault the processor was on its {inside}.",))
    for name, start, end in (("kernel stack", low, high), *other):
        if start - _OVERRUN <= sp < start:
            sentence = (
                f"The {name} overflowed: the stack pointer {sp:#x} is {start - sp:#x} bytes below its end at "
                f"{start:#x} ({end - start:#x} bytes in all)."
            )
            overflow = Finding("STACK_OVERFLOW", f"{start - sp:#x} bytes below {start:x}", sp, name)
            return reasoning + Reasoning((overflow,), (sentence,)) + _users(case, trap_frame)
    sentence = f"The stack pointer {sp:#x} is in no stack of the thread or of the processor: it was corrupt."
    return reasoning + Reasoning((Finding("STACK_POINTER_ERROR", f"{sp:016x}", sp),), (sentence,))


def _users(case: Case, trap_frame: int) -> Reasoning:
    """Who used the stack: a function that calls itself, and the modules by the bytes of their frames."""
    target = case.target
    frames = walker(target).walk_from(trap_start, trap_frame).frames
    if not frames:
        return Reasoning()
    functions: collections.Counter[str] = collections.Counter()
    modules: collections.Counter[Module] = collections.Counter()
    for frame, caller in itertools.pairwise(frames):
        name, module = target.names.lookup(frame.ip), target.names.module_of(frame.ip)
        if name is None or module is None:
            continue
        functions[f"{name.module}!{name.symbol}" if name.symbol else str(name)] += 1
        if frame.sp is not None and caller.sp is not None and caller.sp > frame.sp:
            modules[module] += caller.sp - frame.sp
    reasoning = Reasoning()
    if modules:
        module, size = modules.most_common(1)[0]
        image = module.image_name
        why = f"it took {size:#x} bytes of the kernel stack that was used up"
        reasoning += Reasoning(
            (Finding("STACKUSAGE_IMAGE", image, size, f"{size:#x} bytes of the stack"),),
            (f"{image} took the most of the stack: {size:#x} bytes.",),
            culprit=Culprit(image, module.name, frames[0].ip, why) if module.name not in _KERNEL_MODULES else None,
        )
    if functions:
        function, count = functions.most_common(1)[0]
        if count >= _RECURSION:
            reasoning += Reasoning(
                (Finding("STACKUSAGE_RECURSION_COUNT", f"{count}", count, function),),
                (f"{function} is on the stack {count} times: it calls itself without end.",),
            )
    return reasoning
