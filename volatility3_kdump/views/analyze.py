"""Rows of ``kdump.analyze``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from volatility3_kdump.analysis.crash import Crash, analyze_crash
from volatility3_kdump.analysis.failure import Failure, exception_site
from volatility3_kdump.analysis.owners import OwnerRules
from volatility3_kdump.analysis.plausibility import UNEXPLAINED
from volatility3_kdump.analysis.weighing import INVENTED
from volatility3_kdump.cpu.exception import ExceptionRecord, code_name
from volatility3_kdump.symbols.names import Name
from volatility3_kdump.target import Target
from volatility3_kdump.text.analyze import analyze
from volatility3_kdump.text.machine_facts import machine_facts
from volatility3_kdump.text.registers import code_line, flags_words
from volatility3_kdump.text.stacks import call_site
from volatility3_kdump.text.summary import summary
from volatility3_kdump.text.times import session_time, uptime
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.report import write_report
from volatility3_kdump.views.table import BLANK, table
from volatility3_kdump.windows.machine.releases import kernel_version, release
from volatility3_kdump.windows.machine.version import build_lab, windows_name
from volatility3_kdump.windows.stacks.starts import why_no_registers

ANALYSIS = table(
    "kdump.analyze",
    keys.TOPIC(),
    keys.FIELD(),
    keys.TEXT(),
    keys.VALUE(
        more="an address, a code, an argument, a register; of a frame its stack pointer; null where there is none"
    ),
    keys.NOTES(),
)

_GENERAL = {
    "x64": (
        *(f"r{name}x" for name in "acdb"),
        "rsi",
        "rdi",
        "rip",
        "rsp",
        "rbp",
        *(f"r{number}" for number in range(8, 16)),
    ),
    "x86": ("eax", "ebx", "ecx", "edx", "esi", "edi", "eip", "esp", "ebp"),
    "arm64": (*(f"x{number}" for number in range(29)), "fp", "lr", "sp", "pc"),
}
_MOST_FRAMES = 64


def analyze_grid(
    target: Target,
    rules: OwnerRules | None = None,
    report: Path | None = None,
    done: Callable[[Crash], None] | None = None,
) -> KdumpGrid:
    """The analysis of a crash dump.

    ``rules`` choose the culprit; ``report`` is where the JSON document goes. ``done`` is given the analysis. Raises
    :class:`KdumpError` when the document cannot be written.
    """
    crash = analyze_crash(target, rules)
    if done is not None:
        done(crash)
    if report is not None:
        write_report(report, target, crash)
    return ANALYSIS.grid(_rows(target, crash), lambda: analyze(crash, target.memory.pointer_size, _site(target, crash)))


def _row(topic: str, field: str, shown: str | None, number: int | None = None, note: str = "") -> Row:
    value = BLANK if number is None else number
    return ANALYSIS.row(0, Topic=topic, Field=field or BLANK, Text=shown, Value=value, Notes=[note])


def _site(target: Target, crash: Crash) -> Name | None:
    """The name of where the exception was."""
    exception = crash.failure.exception if crash.failure is not None else None
    return None if exception is None else exception_site(target, exception)


def _rows(target: Target, crash: Crash) -> Iterator[Row]:
    for number, sentence in enumerate(summary(crash, target.has_names), 1):
        yield _row("Summary", str(number), sentence)
    yield from _plausibility_rows(crash)
    yield from _verdict_rows(crash)
    yield from _bug_check_rows(crash)
    for finding in crash.reasoning.findings:
        yield _row("Finding", finding.tag, finding.value, finding.address, finding.note)
    for name, fact in machine_facts(crash.facts.machine, crash.facts.processor):
        yield _row("Machine", name, fact)
    yield from _crash_rows(target, crash)
    if crash.failure is None:
        yield _row("Failure", "Registers", None, note=why_no_registers(target))
    elif crash.failure.at_fault:
        yield from failure_rows(target, crash.failure)
        yield from register_rows(crash.failure)
    else:
        # The first instruction of KeBugCheckEx is no finding.
        note = "those of the call that reported the bug check: it names no faulting instruction"
        if crash.crashed is False:
            note = "what the processor was doing"
        yield _row("Failure", "Registers from", crash.failure.origin, note=note)
        yield from register_rows(crash.failure)
    yield from _stack_rows(target, crash)
    if not target.has_names:
        why = "; ".join(filter(None, (target.symbol_status, target.symbol_remedy)))
        told = "no kernel symbols" if target.nt is None else "types of the kernel, no names"
        yield _row("Warning", "Symbols", told, note=why)
    for warning in [*crash.notes, *target.warnings]:
        yield _row("Warning", "", warning)


def _plausibility_rows(crash: Crash) -> Iterator[Row]:
    judged = crash.plausibility
    if judged is None:
        return
    if judged.outcome is not None:
        yield _row("Plausibility", "Outcome", judged.outcome, judged.address, judged.says)
    if judged.instruction is not None:
        yield _row("Plausibility", "Instruction", judged.instruction, judged.address)
    for line in judged.evidence:
        yield _row("Plausibility", "Evidence", line)
    for flip in judged.flips:
        yield _row("Plausibility", "Bit flip", flip.says, flip.value, f"bit {flip.bit}")
    if judged.remains is not None:
        yield _row("Plausibility", "Remains", judged.remains, note=judged.debugger_word or "")


def _verdict_rows(crash: Crash) -> Iterator[Row]:
    verdict = crash.verdict
    suspect = verdict.suspect if verdict.suspect != verdict.image_name else None
    if verdict.suspect is None and verdict.image_name is not None:
        suspect = "nobody"
    judged = crash.plausibility
    # Where memory or hardware is suspected, the symbol is no more than the place; one row says so.
    place = verdict.symbol_name is not None and verdict.runner_up == verdict.symbol_name
    bucket = "the debugger's, which goes by the stack" if judged is not None and judged.acquits else ""
    for field, value, note in (
        ("Symbol", verdict.symbol_name, (verdict.runner_up_rule or "") if place else verdict.rule),
        ("Source line", str(crash.source) if crash.source is not None else None, ""),
        ("Module", verdict.module_name, ""),
        ("Image", verdict.image_name, crash.image_version or ""),
        ("Rule", verdict.rule if verdict.symbol_name is None else None, ""),
        ("Suspect", suspect, _suspect_note(crash)),
        ("Confidence", verdict.confidence, verdict.confidence_reason),
        ("Runner-up", None if place else verdict.runner_up, verdict.runner_up_rule or ""),
        ("Bucket", verdict.bucket, bucket if judged is not None and judged.debugger_word is None else ""),
        ("Hash", f"{{{verdict.bucket_hash}}}" if verdict.bucket_hash else None, ""),
        ("Followup", verdict.followup, ""),
    ):
        if value is not None and crash.crashed is not False:
            yield _row("Verdict", field, value, note=note)


def _suspect_note(crash: Crash) -> str:
    judged = crash.plausibility
    if judged is not None and judged.outcome == UNEXPLAINED:
        return "or a hypervisor below the system"
    if judged is not None and (judged.acquits or judged.flips) and crash.verdict.suspect not in (None, "hardware"):
        return "what is left when the code is acquitted" if judged.acquits else "what the changed bit points at"
    if crash.verdict.suspect is None:
        return crash.verdict.confidence_reason
    if crash.verdict.suspect in INVENTED:
        return "what this code says itself"
    return "named by the arguments, which is stronger than the stack"


def _stack_rows(target: Target, crash: Crash) -> Iterator[Row]:
    for frame in crash.stack.frames[:_MOST_FRAMES]:
        site = call_site(frame, target.memory.pointer_size)
        yield _row("Stack", f"{frame.number:02x}", site, frame.sp, frame.trust)
    if len(crash.stack.frames) > _MOST_FRAMES:
        yield _row("Stack", "", None, note=f"{len(crash.stack.frames) - _MOST_FRAMES} more frames: see kdump.stack")
    if not crash.stack.complete:
        yield _row("Stack", "End", None, note=crash.stack.end)


def _bug_check_rows(crash: Crash) -> Iterator[Row]:
    bug_check = crash.bug_check
    if bug_check is None:
        yield _row("Bug check", "Code", None, note=crash.no_bug_check or "")
        return
    yield _row("Bug check", "Code", f"{bug_check.name or 'unknown code'} ({bug_check.raw_code:x})", bug_check.raw_code)
    for field, sentence in (("Meaning", bug_check.text), ("This case", bug_check.variant)):
        if sentence:
            yield _row("Bug check", field, sentence)
    if crash.facts.live:
        yield _row("Bug check", "Live dump", "the system was not stopped", note=crash.facts.live)
    for argument in bug_check.arguments:
        value = argument.value
        shown = "not set" if value is None else f"{value:016x}"
        yield _row("Bug check", f"Arg{argument.number}", shown, value, argument.text or "")
    if crash.recorded.driver:
        yield _row("Bug check", "Driver", crash.recorded.driver, note="blamed by the kernel (nt!KiBugCheckDriver)")


def _crash_rows(target: Target, crash: Crash) -> Iterator[Row]:
    header = target.header
    build = build_lab(target) or (str(header.build_number) if header.build_number is not None else None)
    version = kernel_version(target)
    notes = dict.fromkeys(note for note in (version.text if version is not None else None, build) if note)
    yield _row("System", "Windows", release(target) or windows_name(header.build_number), note=", ".join(notes))
    yield _row("System", "Time (UTC)", session_time(header.system_time))
    yield _row("System", "Uptime", uptime(header.system_up_time))
    processor, process, thread = crash.processor, crash.process, crash.thread
    if processor is None:
        yield _row("Crash", "Processor", None, note="no processor control block in the dump matches the crash")
    else:
        count = header.number_processors
        note = f"of {count}" if count is not None else ""
        yield _row("Crash", "Processor", str(processor.number), processor.prcb, note)
    if process is None:
        yield _row("Crash", "Process", None, note="not in the dump")
    else:
        pid = f"pid {process.pid}" if process.pid is not None else "pid not known without symbols"
        if crash.interrupted is not None:
            pid += "; only interrupted"
        yield _row("Crash", "Process", process.name, process.address, pid)
        if process.image_path:
            yield _row("Crash", "Image path", process.image_path)
    if thread is None:
        yield _row("Crash", "Thread", None, note="not in the dump")
    else:
        cid = None if thread.pid is None or thread.tid is None else f"{thread.pid:x}.{thread.tid:04x}"
        why = "" if cid else "client id not known without symbols"
        if crash.interrupted is not None:
            why = "; ".join(filter(None, (why, f"only interrupted: the system stopped {crash.interrupted}")))
        yield _row("Crash", "Thread", cid, thread.address, why)


def failure_rows(target: Target, failure: Failure) -> Iterator[Row]:
    """Rows of the place of a failure: registers' origin, exception, address, instruction, operand, module."""
    context = failure.context
    note = "" if failure.at_fault else "those of the call that reported the bug check: it names no faulting instruction"
    yield _row("Failure", "Registers from", failure.origin, failure.trap_frame or failure.context_record, note)
    if failure.exception is not None and failure.exception_record is not None:
        yield from exception_rows(target, failure.exception_record, failure.exception)
    yield _row("Failure", "At", failure.name or _where(target, failure), context.ip)
    if failure.instruction is not None:
        yield _row("Failure", "Instruction", code_line(failure.instruction, context), failure.instruction.address)
    elif failure.instruction_absent:
        yield _row("Failure", "Instruction", None, note=failure.instruction_absent)
    yield from _operand_rows(failure)
    module = failure.module
    if module is not None:
        yield _row("Failure", "Module", module.image_name, module.base, f"size {module.size:#x}")
        if module.path:
            yield _row("Failure", "Module path", module.path)
        if module.timestamp is not None:
            checksum = "" if module.checksum is None else f"checksum {module.checksum:#x}"
            yield _row("Failure", "Module timestamp", f"{module.timestamp:08x}", None, checksum)
    if failure.unloaded is not None:
        yield _row(
            "Failure",
            "Unloaded module",
            failure.unloaded.name,
            failure.unloaded.start,
            "the address lay in this driver",
        )


def exception_rows(target: Target, address: int, record: ExceptionRecord) -> Iterator[Row]:
    """Rows of an exception record at an address."""
    yield _row("Failure", "Exception", f"{record.code:08x}", address, code_name(record.code) or "")
    yield _row("Failure", "Exception address", str(exception_site(target, record) or "") or None, record.address)
    for number, value in enumerate(record.parameters):
        yield _row("Failure", f"Exception parameter {number}", f"{value:x}", value)


def _where(target: Target, failure: Failure) -> str | None:
    ip = failure.context.ip
    if ip is None:
        return None
    return "outside every module" if target.is_kernel_address(ip) else "user mode"


def _operand_rows(failure: Failure) -> Iterator[Row]:
    if failure.access is not None and failure.address is not None:
        yield _row("Failure", "Access", failure.access, failure.address, "named by the bug check")
    elif failure.access is not None:
        yield _row("Failure", "Access", failure.access, None, "the processor reported no address")
    memory = failure.instruction.memory if failure.instruction else None
    if memory is None or memory.access is None:
        return
    if failure.operand is None:
        yield _row("Failure", "Operand", None, note=f"{', '.join(memory.unknown)} not known")
        return
    agrees = {True: "agrees with the bug check", False: "differs from the bug check", None: ""}[failure.operand_agrees]
    used = [name for name, _ in memory.registers if name in failure.recovered]
    if used:
        agrees = "; ".join(part for part in (agrees, f"{', '.join(used)} recovered by unwinding") if part)
    yield _row("Failure", "Operand", memory.access, failure.operand, agrees)


def register_rows(failure: Failure) -> Iterator[Row]:
    """Rows of the registers at a failure; those that are not known say so."""
    context = failure.context
    for name in _GENERAL[context.architecture]:
        value = context.get(name)
        if value is None:
            yield _row("Register", name, None, note="not saved at the failure")
        else:
            note = "recovered by unwinding" if name in failure.recovered else ""
            yield _row("Register", name, f"{value:016x}" if context.pointer_size == 8 else f"{value:08x}", value, note)
    eflags = context.get("eflags")
    if eflags is not None:
        yield _row("Register", "eflags", f"{eflags:08x}", eflags, flags_words(eflags))
