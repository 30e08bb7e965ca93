"""Crashes about a process: 0xEF and 0xF4 (a critical one died), and those that somebody asked for: 0xE2, 0x161."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump import tables
from volatility3_kdump.analysis.failure import reported_address
from volatility3_kdump.analysis.reasoning import Case, Finding, Reasoning, contradicted, rule
from volatility3_kdump.analysis.records import kernel_stack_records, user_stack_records
from volatility3_kdump.cpu.exception import (
    IN_PAGE_ERROR,
    STACK_BUFFER_OVERRUN,
    ExceptionRecord,
    access_kind,
    accessed_address,
    code_name,
    code_text,
)
from volatility3_kdump.windows.processes.crashed import crash_process, crash_thread
from volatility3_kdump.windows.processes.dispatcher import why_no_dispatcher
from volatility3_kdump.windows.processes.processes import Process, read_process
from volatility3_kdump.windows.processes.threads import read_thread

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: DISPATCHER_HEADER.Type of the objects, which 0xF4 gives as the kind; 0xEF has 0 for a process and 1 for a thread.
_PROCESS, _THREAD = 3, 6
_STILL_ACTIVE = 0x103
_LONGEST_TEXT = 256
_ERROR = 0xC
#: Processes that Windows marks as critical ("Critical System Services" and the session manager's own children).
_CRITICAL = frozenset(
    {
        *("system", "registry", "smss.exe", "csrss.exe", "wininit.exe", "winlogon.exe", "services.exe", "lsass.exe"),
        *("svchost.exe", "logonui.exe", "lsaiso.exe", "memory compression", "secure system"),
    }
)

#: NTSTATUS codes with which processes end, beside the exception codes.
_EXIT_CODES = {
    0: "success",
    1: "the exit status that most programs give for a failure",
    0xC000013A: "ended by Control-C or by closing its console",
    0xC0000142: "a DLL could not be initialised",
    0xC0000135: "a DLL was not found",
    0xC000021A: "a system process that Windows cannot do without ended",
    0xC0000022: "access denied",
}


@dataclass(frozen=True)
class _Died:
    """What died: its process, and the thread if it was one."""

    process: Process | None
    process_address: int | None
    thread: int | None
    against: str | None = None
    """Why neither a process nor a thread lies where the argument says."""

    @property
    def name(self) -> str | None:
        """The image name of the process."""
        return self.process.name if self.process is not None else None


@rule(0xEF)
def critical_process_died(case: Case) -> Reasoning:
    """P1 EPROCESS or ETHREAD, P2 = 0 for a process and 1 for a thread.

    In its buckets the debugger has the low half of the address of the thread that crashed, where an exception code is
    meant to be.
    """
    target, address = case.target, case.pointer(1)
    if address is None:
        return Reasoning()
    is_thread = case.argument(2) == 1
    died = _died(target, address, is_thread)
    reasoning = _critical(case, died)
    crashed = crash_thread(target)
    terminator = reasoning.finding("TERMINATING_PROCESS")
    bucket_words = critical_process_words(
        died.name,
        terminator.value if terminator is not None else None,
        crashed.address & 0xFFFFFFFF if crashed is not None else None,
    )
    return reasoning + Reasoning(specifiers=bucket_words)


def critical_process_words(name: str | None, terminator: str | None, code: int | None) -> tuple[str, ...]:
    """The words of the bucket of 0xEF: the process that died, the one that ended it where that is another, the code."""
    pieces = [name, "BUGCHECK_CRITICAL_PROCESS"]
    if None not in (terminator, name) and terminator != name:
        pieces.append(f"TERMINATED_BY_{terminator}")
    # A page that could not be read has a word of its own.
    pieces.append("IOERR" if code == IN_PAGE_ERROR else f"{code:x}" if code else None)
    return tuple(word for word in pieces if word)


@rule(0xF4)
def critical_object_termination(case: Case) -> Reasoning:
    """P1 kind of object (3 process, 6 thread), P2 the object, P3 its process's image name, P4 a message; both ASCII."""
    target, kind, address = case.target, case.argument(1), case.pointer(2)
    findings = []
    for tag, number in (("CRITICAL_PROCESS_IMAGE", 3), ("MESSAGE", 4)):
        pointer = case.pointer(number)
        message = target.memory.c_string(pointer, _LONGEST_TEXT) if pointer is not None else None
        if message is not None:
            findings.append(Finding(tag, message.strip() or "an empty string", pointer))
        elif pointer is not None:
            findings.append(Finding(tag, "not in the dump", pointer, target.memory.why_unreadable(pointer)))
    reasoning = Reasoning(tuple(findings))
    if kind is not None and kind not in (_PROCESS, _THREAD):
        neither = f"argument 1 is {kind:#x}, which is neither a process (3) nor a thread (6)"
        reasoning += Reasoning(notes=(contradicted(neither),))
    if address is None:
        return reasoning
    return _critical(case, _died(target, address, kind == _THREAD)) + reasoning


def _died(target: Target, address: int, is_thread: bool) -> _Died:
    against = why_no_dispatcher(target, address, "thread" if is_thread else "process")
    if against is not None:
        return _Died(None, None if is_thread else address, address if is_thread else None, against)
    if not is_thread:
        return _Died(read_process(target, address), address, None)
    owner = read_thread(target, address).process
    return _Died(read_process(target, owner) if owner is not None else None, owner, address)


def _critical(case: Case, died: _Died) -> Reasoning:
    """Who died, with which exit status, and who ended it."""
    target, process, name = case.target, died.process, died.name
    findings = []
    if died.thread is not None:
        findings.append(Finding("CRITICAL_THREAD", f"{died.thread:016x}", died.thread))
    why = ""
    if name is None:
        where = died.process_address or died.thread
        why = died.against or (target.memory.why_unreadable(where) if where is not None else "")
    note = "" if process is None else _client_id(process)
    absent = "not in the dump" if died.against is None else "unknown"
    findings.append(Finding("CRITICAL_PROCESS", name or absent, died.process_address, note if name else why))
    place = died.process_address or died.thread or 0
    what = f"the critical process {name or f'at {place:#x}'}" if died.against is None else "a critical process"
    subject = f"A thread of {what}" if died.thread is not None else what[0].upper() + what[1:]
    sentences = [f"{subject} ended, and Windows cannot go on without it."]
    status = _exit_status(target, died)
    if status is not None:
        status_words = _status_words(status)
        findings.append(Finding("EXIT_STATUS", f"{status:#x}", status, status_words))
        if status == _STILL_ACTIVE:
            sentences.append("Its exit status is not set yet.")
        else:
            sentences.append(f"Its exit status is {status:#x}{f' ({status_words})' if status_words else ''}.")
    reason_findings, reason_sentences = _reason_of_end(target)
    findings += reason_findings
    sentences[1:1] = reason_sentences
    if name is not None and name.lower() not in _CRITICAL and status != _STILL_ACTIVE:
        findings.append(Finding("NOT_CRITICAL_BY_ITSELF", name, died.process_address, "not one of Windows' own"))
        sentences.insert(1, f"{name} is none of Windows' critical processes: something had marked it as one.")
    findings_about, sentence = _terminator(case, died, name)
    findings += findings_about
    if sentence:
        sentences.append(sentence)
    if died.against is None:
        return Reasoning(tuple(findings), tuple(sentences), process=died.process_address)
    kind = "thread" if died.thread is not None else "process"
    note = contradicted(f"argument that names the {kind}: no {kind} at {place:#x}: {died.against}")
    return Reasoning(tuple(findings), tuple(sentences), (note,))


def _reason_of_end(target: Target) -> tuple[list[Finding], list[str]]:
    """Why the process ended: a fast-fail record on the kernel stack, an exception on the captured user stack."""
    findings, sentences = [], []
    fast = next(
        (
            placed
            for placed in kernel_stack_records(target)
            if placed.user and placed.record.code == STACK_BUFFER_OVERRUN
        ),
        None,
    )
    if fast is not None:
        code = fast.record.parameters[0]
        entry = tables.fast_fail_codes().get(code, {})
        name = f"FAST_FAIL_{entry['name']}" if "name" in entry else "a code that winnt.h does not name"
        value = f"c0000409 subcode {code:x}h"
        findings.append(Finding("FAST_FAIL_RECORD", value, fast.address, f"{name}, at {fast.record.address:#x}"))
        sentences.append(f"It stopped itself by a fast fail, {name} (subcode {code:x}h), at {fast.record.address:#x}.")
    for placed in user_stack_records(target):
        if placed.user and placed.record.code != STACK_BUFFER_OVERRUN:
            exception_words = _exception_words(placed.record)
            note = f"at {placed.record.address:#x}, on the captured user stack"
            findings.append(Finding("USER_EXCEPTION", exception_words, placed.address, note))
            sentences.append(f"Its thread had an exception before: {exception_words}, {note}.")
            break
    return findings, sentences


def _exception_words(record: ExceptionRecord) -> str:
    kind, address = access_kind(record), accessed_address(record)
    name = code_name(record.code) or f"{record.code:#x}"
    if kind is None or address is None:
        return name
    if reported_address(record) is None:
        return f"{name}, {kind} of {address:#x}, which also stands for no address"
    return f"{name}, {kind} of {address:#x}"


def _exit_status(target: Target, died: _Died) -> int | None:
    type_name, address = ("_ETHREAD", died.thread) if died.thread is not None else ("_EPROCESS", died.process_address)
    located = target.nt.find(type_name, "ExitStatus") if target.nt is not None else None
    if located is None or address is None or died.against is not None:
        return None
    return target.memory.unsigned(address + located.offset, 4)


def _status_words(status: int) -> str:
    if status == _STILL_ACTIVE:
        return "still active"
    meaning = _EXIT_CODES.get(status) or code_text(status) or ""
    constant = code_name(status)
    return f"{constant}: {meaning}" if constant else meaning


def _client_id(process: Process) -> str:
    """A process's id as the debugger takes it: hexadecimal."""
    return "" if process.pid is None else f"Cid {process.pid:04x}"


def _terminator(case: Case, died: _Died, name: str | None) -> tuple[list[Finding], str | None]:
    """The process whose thread made the call that ended the critical one."""
    crashed = crash_process(case.target)
    if crashed is None or crashed.name is None or died.process_address is None or died.against is not None:
        return [], None
    if crashed.address == died.process_address:
        status = _exit_status(case.target, died)
        if status is not None and status >> 28 == _ERROR:
            return [], f"It ended itself, which with an error status mostly means that {name or 'it'} itself crashed."
        return [], "It ended itself."
    finding = Finding("TERMINATING_PROCESS", crashed.name, crashed.address, _client_id(crashed))
    return [finding], f"It was ended by {crashed.name}, whose thread crashed the system: look there for the reason."


# on request ----------------------------------------------------------------------------------------------------------


@rule(0xE2)
def manually_initiated_crash(case: Case) -> Reasoning:
    """No arguments; the stack shows the driver that was asked: a keyboard's, a debugger's, a hypervisor's."""
    return Reasoning(
        sentences=(
            "Somebody crashed the system on purpose, with the keyboard, with a tool or with a virtual machine's own "
            "command; look at what the threads were waiting for, not for a culprit.",
        ),
        prefix="MANUALLY_INITIATED_CRASH",
    )


@rule(0x161)
def live_system_dump(case: Case) -> Reasoning:
    """P1: who asked for the dump, eight ASCII characters, the first in the highest byte."""
    value = case.argument(1)
    tool = "" if value is None else value.to_bytes(8, "big").strip(b"\0").decode("latin-1")
    findings: tuple[Finding, ...] = ()
    asked = ""
    if tool and all(" " <= character <= "~" for character in tool):
        findings = (Finding("REQUESTER", tool, value),)
        asked = f" by {tool}"
    return Reasoning(
        findings, (f"Nothing failed: a dump of the running system was asked for{asked}, and the system went on.",)
    )
