"""Displays: drivers that did not respond (0x116, 0x117, 0x141), violations (0x119), threads stuck in them (0xEA)."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.arguments import code_named, follow, hexadecimal, subtype, text_at, thread_text
from volatility3_kdump.analysis.reasoning import Case, Culprit, Finding, Reasoning, rule
from volatility3_kdump.cpu.exception import code_name, code_text
from volatility3_kdump.windows.stacks.frames import NoStack
from volatility3_kdump.windows.stacks.starts import thread_start
from volatility3_kdump.windows.stacks.walker import walker

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: What watches display drivers and passes their calls on; and how many frames a driver must have to be named for them.
_WATCHERS = frozenset({"nt", "hal", "watchdog", "dxgkrnl", "dxgmms1", "dxgmms2", "win32k", "win32kbase", "win32kfull"})
_FEWEST_FRAMES = 2
#: TDR_RECOVERY_CONTEXT.Signature: ``TdrT`` back to front.
_TDR_SIGNATURE = 0x52445476


@rule(0x116, 0x117, 0x141)
def display_driver_timeout(case: Case) -> Reasoning:
    """P1 TDR_RECOVERY_CONTEXT, P2 an address in the driver, P3 the status of the last operation (0x116) or a key."""
    findings = []
    context = case.pointer(1)
    if context is not None:
        signature = case.target.memory.unsigned(context, 4)
        note = "P1"
        if signature is None:
            note = f"P1: {case.target.memory.why_unreadable(context)}"
        elif signature != _TDR_SIGNATURE:
            note = f"P1: its signature is {signature:#x}, not {_TDR_SIGNATURE:#x}"
        findings.append(Finding("TDR_RECOVERY_CONTEXT", hexadecimal(case.target, context), context, note))
    status = case.argument(3)
    if case.bug_check.code == 0x116 and status:
        value = status & 0xFFFFFFFF
        name = code_name(value) or code_text(value)
        findings.append(Finding("ERROR_CODE", f"(NTSTATUS) {value:#x}{f' - {name}' if name else ''}", None, "P3"))
    named = _owner(case, 2)
    sentences = []
    if named.culprit is not None:
        module = named.culprit.image_name or named.culprit.module_name
        recovered = "and could not be reset" if case.bug_check.code == 0x116 else "and was reset"
        sentences.append(f"The graphics processor did not respond in time {recovered}; its driver is {module}.")
        sentences.append(
            "The stack shows only who noticed: look at the driver's version, the temperature and power of the card, "
            "and overclocking."
        )
    elif case.pointer(2) is not None:
        sentences.append("The graphics processor did not respond in time; P2 lies in no driver that is known.")
    return Reasoning(tuple(findings), tuple(sentences)) + named


def _owner(case: Case, number: int) -> Reasoning:
    address = case.pointer(number)
    if address is None:
        return Reasoning()
    meaning = case.bug_check.arguments[number - 1].meaning or ""
    named = code_named(case.target, address, "OWNER_TAG", number, meaning, 4)
    return Reasoning(named.findings, culprit=named.culprit)


@rule(0x119)
def video_scheduler_internal_error(case: Case) -> Reasoning:
    """P1 the kind of violation; where another argument lies in a display driver, that is the one."""
    value = case.bug_check.arguments[0].value_meaning
    reasoning = Reasoning(
        sentences=(f"The video scheduler reports: {value}.",) if value else (), specifiers=subtype(case)
    )
    owner = _owner(case, 2)
    return reasoning + (owner if owner.culprit is not None else follow(case))


@rule(0xEA)
def thread_stuck_in_device_driver(case: Case) -> Reasoning:
    """P1 the stuck thread, P2 DEFERRED_WATCHDOG, P3 the name of the driver."""
    target = case.target
    thread, name_address = case.pointer(1), case.pointer(3)
    findings = []
    culprit = None
    if thread is not None:
        findings.append(Finding("FAULTING_THREAD", hexadecimal(target, thread), thread, thread_text(target, thread)))
    name = text_at(target, name_address) if name_address is not None else None
    if name is not None:
        findings.append(Finding("DRIVER_NAME", name, name_address, "P3"))
        wanted = name.rsplit("\\", 1)[-1].lower().removesuffix(".sys")
        for module in target.modules:
            if module.image_name.lower().removesuffix(".sys") == wanted:
                culprit = Culprit(module.image_name, module.name, module.base, f"P3 names {name}")
    sentences = ["A thread of the display driver loops and waits for hardware that does not answer."]
    if thread is not None:
        looping = _looping(target, thread)
        if looping is not None:
            finding, sentence, driver = looping
            findings.append(finding)
            sentences.append(sentence)
            culprit = culprit or driver
    return Reasoning(tuple(findings), tuple(sentences), culprit=culprit, thread=thread)


def _looping(target: Target, thread: int) -> tuple[Finding, str, Culprit] | None:
    """The driver whose frames fill the stack of the stuck thread: it loops, whoever noticed."""
    try:
        frames = walker(target).walk(thread_start(target, thread)).frames
    except NoStack:
        return None
    modules = collections.Counter(
        module for frame in frames if (module := target.names.module_of(frame.ip)) is not None
    )
    drivers = [(module, count) for module, count in modules.most_common() if module.name.lower() not in _WATCHERS]
    if not drivers or drivers[0][1] < _FEWEST_FRAMES:
        return None
    module, count = drivers[0]
    why = f"{count} of the {len(frames)} frames of the stuck thread are its own"
    finding = Finding("LOOPING_DRIVER", module.image_name, module.base, why)
    sentence = f"{module.image_name} fills the stack of the stuck thread: {count} of {len(frames)} frames."
    first = next(frame.ip for frame in frames if target.names.module_of(frame.ip) is module)
    return finding, sentence, Culprit(module.image_name, module.name, first, why)
