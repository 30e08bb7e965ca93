"""Watchdogs: 0x101 (a processor that hangs), 0x133 (DPCs and ISRs that run too long)."""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.reasoning import Case, Culprit, Finding, Reasoning, contradicted, rule
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.regions import processor_stacks
from volatility3_kdump.images.modules import Module
from volatility3_kdump.windows.machine import dpc_watchdog
from volatility3_kdump.windows.machine.processors import Processor, processors
from volatility3_kdump.windows.processes.crashed import crash_context, crash_processor
from volatility3_kdump.windows.stacks.starts import crash_start
from volatility3_kdump.windows.stacks.walker import walker
from volatility3_kdump.windows.structures import field_offset

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_SINGLE, _CUMULATIVE = 0, 1
#: Modules that are shown of the watchdog's samples, and how many samples a driver must have to be named for them.
_MOST_SHARES, _FEWEST_SAMPLES = 5, 4
_TICKS_PER_SECOND = 10_000_000
#: KPRCB.IpiFrozen (low bits) of a processor that was told to stop for the one that crashed, and did not do so.
_NOT_STOPPED = 5
_IPI_STATE = 0xF
_KERNEL_MODULES = ("nt", "hal")
#: What the processor pushes for a fault in the kernel, and how many of these make a row.
#: RFLAGS.IF.
_INTERRUPTS_ENABLED = 0x200
_KERNEL_SELECTOR, _STACK_SELECTORS, _FEWEST_FAULTS = (0x10).to_bytes(8, "little"), (0, 0x18), 3
_MOST_STACK = 0x6000
#: The routines that run DPCs: what they called is the routine of a DPC.
_DPC_LOOPS = (
    "KiExecuteAllDpcs",
    "KiRetireDpcList",
    "KiExecuteDpcDelegate",
    "KiExecuteDpc",
    "KiProcessExpiredTimerList",
)


@rule(0x133)
def dpc_watchdog_violation(case: Case) -> Reasoning:
    """P1 = 0: one DPC ran too long, P2 its time, P3 the limit, in ticks; P1 = 1: all of them together, P2 the limit."""
    kind = case.argument(1)
    if kind == _SINGLE:
        reasoning = Reasoning(
            (
                Finding("DPC_TIMEOUT_TYPE", "SINGLE_DPC_TIMEOUT_EXCEEDED", kind),
                *_ticks(case, "DPC_RUNTIME", 2),
                *_ticks(case, "DPC_TIMELIMIT", 3),
            ),
            (f"One DPC or interrupt routine ran {_seconds(case, 2)}; {_seconds(case, 3)} are allowed.",),
            prefix="0x133_DPC",
        )
    elif kind == _CUMULATIVE:
        reasoning = Reasoning(
            (
                Finding("DPC_TIMEOUT_TYPE", "DPC_QUEUE_EXECUTION_TIMEOUT_EXCEEDED", kind),
                *_ticks(case, "DPC_TIMELIMIT", 2),
            ),
            (
                f"The processor spent {_seconds(case, 2)} at DISPATCH_LEVEL or above, all routines taken together.",
                "The routine on the stack is the one that ran when the time was up, not surely the one that took it.",
            ),
            prefix="0x133_ISR",
        )
    else:
        reasoning = Reasoning()
    return reasoning + _samples(case, 4 if kind == _SINGLE else 3) + _routine(case)


def _samples(case: Case, number: int) -> Reasoning:
    """What the watchdog sampled on the processor that stopped: this tells what used the time, without symbols."""
    target, address = case.target, case.pointer(number)
    if address is None:
        return Reasoning()
    try:
        block = dpc_watchdog.triage_block(target, address)
    except KdumpError as error:
        return Reasoning((Finding("DPC_WATCHDOG_PROFILE", "not known", address, str(error)),))
    crashed = crash_processor(target)
    sampled = dpc_watchdog.profiles(target, block, crashed.number) if crashed is not None else iter(())
    profile = next(sampled, None)
    if profile is None or not profile.total:
        why = "no samples of the processor that stopped are in the dump"
        return Reasoning((Finding("DPC_WATCHDOG_PROFILE", "not in the dump", block.address, why),))
    findings = []
    shares = dpc_watchdog.by_module(target, profile)
    for share in shares[:_MOST_SHARES]:
        sentence = f"{share.place}: {share.count} of {share.total} sampled addresses ({share.percent} %)"
        findings.append(Finding("DPC_WATCHDOG_PROFILE", sentence, share.address))
    drivers = [share for share in shares if (share.module or "").lower() not in _KERNEL_MODULES]
    outside = sum(share.count for share in drivers)
    if not drivers or drivers[0].count * 2 < outside or drivers[0].count < _FEWEST_SAMPLES:
        return Reasoning(tuple(findings), sentences=("The watchdog's samples name no driver (!dpcwatchdog).",))
    share = drivers[0]
    module = target.names.module_of(share.address)
    image = module.image_name if module is not None else share.place
    why = f"{share.count} of the {outside} sampled addresses outside the kernel are in {image}"
    return Reasoning(
        tuple(findings),
        (f"While the time ran, the watchdog sampled the stack: {why} (!dpcwatchdog).",),
        culprit=Culprit(image, share.module, share.address, why),
    )


def _ticks(case: Case, tag: str, number: int) -> tuple[Finding, ...]:
    value = case.argument(number)
    if value is None:
        return ()
    seconds = _seconds(case, number)
    return (Finding(tag, f"{value:x}", value, seconds if seconds.endswith("ticks") else f"{value} ticks, {seconds}"),)


def _seconds(case: Case, number: int) -> str:
    """An argument in clock ticks as a time; nt!KeMaximumIncrement is the length of a tick in 100 ns."""
    value = case.argument(number)
    if value is None:
        return "an unknown time"
    variable = case.target.symbol("KeMaximumIncrement")
    increment = case.target.memory.unsigned(variable, 4) if variable else None
    if not increment:
        return f"{value} ticks"
    return f"{value * increment / _TICKS_PER_SECOND:.3f} s"


def _routine(case: Case) -> Reasoning:
    """The routine that ran: the DPC that the processor's control block has as active, and what the stack shows."""
    target, processor = case.target, crash_processor(case.target)
    reasoning = _on_stack(case)
    if processor is None or processor.prcb is None:
        missing = Finding("DPC_ROUTINE", "not in the dump", None, "the processor's control block is not in the dump")
        return reasoning + Reasoning((missing,))
    reasoning += _dpc_stack(case, processor)
    active = _dpc_active(target, processor.prcb)
    if active is False:
        reasoning += Reasoning(
            (Finding("DPC_ROUTINE_ACTIVE", "no", None, "no DPC ran: the time was spent in an ISR or at raised IRQL"),)
        )
    addresses = _active_dpcs(target, processor.prcb)
    for dpc in addresses:
        reasoning += _deferred_routine(case, dpc)
    return reasoning


def _dpc_active(target: Target, prcb: int) -> bool | None:
    located = field_offset(target, "_KPRCB", "DpcRoutineActive", "OffsetPrcbDpcRoutine")
    value = target.memory.unsigned(prcb + located, 1) if located is not None else None
    return None if value is None else bool(value)


def _active_dpcs(target: Target, prcb: int) -> list[int]:
    """KPRCB.DpcData[].ActiveDpc, which kernels have since Windows 8."""
    nt = target.nt
    queues = nt.find("_KPRCB", "DpcData") if nt is not None else None
    if nt is None or queues is None or not queues.count or queues.type_name is None:
        return []
    active = nt.find(queues.type_name, "ActiveDpc")
    if active is None:
        return []
    stride = queues.size // queues.count
    active_dpcs = [
        target.memory.pointer(prcb + queues.offset + i * stride + active.offset) for i in range(queues.count)
    ]
    return [address for address in active_dpcs if address]


def _deferred_routine(case: Case, dpc: int) -> Reasoning:
    """KDPC.DeferredRoutine of a DPC that was running."""
    target, nt = case.target, case.target.nt
    if nt is None or not nt.has("_KDPC", "DeferredRoutine"):
        return Reasoning()
    routine = target.memory.pointer(dpc + nt.offset("_KDPC", "DeferredRoutine"))
    if not routine:
        return Reasoning((Finding("DPC_ADDRESS", f"{dpc:016x}", dpc, target.memory.why_unreadable(dpc)),))
    name = target.name_of(routine)
    module = target.names.module_of(routine)
    findings = (
        Finding("DPC_ADDRESS", f"{dpc:016x}", dpc, "active on the processor (KPRCB.DpcData)"),
        Finding("DPC_ROUTINE", name or f"{routine:016x}", routine, module.image_name if module else "in no driver"),
    )
    sentence = f"The DPC that ran is {name or f'{routine:#x}, which is in no driver'}."
    culprit = None
    if module is not None and module.name not in _KERNEL_MODULES and not _drivers_on_stack(case):
        why = f"its routine {name} is that of the DPC that ran, and the stack names no driver"
        culprit = Culprit(module.image_name, module.name, routine, why)
    return Reasoning(findings, (sentence,), culprit=culprit)


def _drivers_on_stack(case: Case) -> bool:
    return any(module.name not in _KERNEL_MODULES for _, module in _crash_frames(case.target))


def _crash_frames(target: Target) -> list[tuple[int, Module]]:
    """The instruction pointers of the crashing stack that lie in modules, innermost first."""
    frames = walker(target).walk_from(crash_start).frames
    named = [(frame.ip, target.names.module_of(frame.ip)) for frame in frames]
    return [(ip, module) for ip, module in named if module is not None]


def _on_stack(case: Case) -> Reasoning:
    """The frame that the kernel's DPC loop called."""
    target = case.target
    previous: tuple[int, Module] | None = None
    for ip, module in _crash_frames(target):
        name = target.names.lookup(ip)
        if name is not None and name.module == "nt" and name.symbol in _DPC_LOOPS:
            if previous is None or (target.names.lookup(previous[0]) or name).symbol in _DPC_LOOPS:
                return Reasoning()
            where = target.name_of(previous[0]) or f"{previous[0]:x}"
            note = f"called by nt!{name.symbol}; {previous[1].image_name}"
            sentence = f"On the stack the DPC routine is in {previous[1].image_name} ({where})."
            return Reasoning((Finding("DPC_ROUTINE_ON_STACK", where, previous[0], note),), (sentence,))
        previous = ip, module
    return Reasoning()


def _dpc_stack(case: Case, processor: Processor) -> Reasoning:
    context = crash_context(case.target)
    sp = context.sp if context is not None else None
    located = field_offset(case.target, "_KPRCB", "DpcStack", "OffsetPrcbDpcStack")
    start = case.target.memory.pointer((processor.prcb or 0) + located) if located is not None else None
    for name, low, high in processor_stacks(case.target, processor.prcb):
        if start and name == "DPC stack" and sp is not None and low <= sp < high:
            return Reasoning((Finding("DPC_STACK_BASE", f"{start:016X}", start),))
    return Reasoning()


# the clock watchdog --------------------------------------------------------------------------------------------------


@rule(0x101)
def clock_watchdog_timeout(case: Case) -> Reasoning:
    """P1 ticks, P3 KPRCB of the processor that hangs, P4 its number."""
    target = case.target
    prcb, number = case.pointer(3), case.argument(4)
    count = target.header.number_processors
    processor = _hung(target, prcb, number)
    said = "unknown" if number is None else f"{number}"
    sentences = [
        f"Processor {said} has not handled clock interrupts for {_seconds(case, 1)}: it hangs or is locked out."
    ]
    findings = [Finding("HUNG_PROCESSOR", said, prcb, f"of {count}" if count else "")]
    notes = []
    specifiers: tuple[str, ...] = ()
    thread = uncertain = None
    if number is not None and count and number >= count:
        notes.append(contradicted(f"argument 4 names processor {number:#x}, but there are {count}"))
    if processor is None:
        findings.append(Finding("HUNG_PROCESSOR_STATE", "not in the dump", prcb, _why_no_processor(case, prcb)))
        specifiers = ("INVALID_CONTEXT",)
    else:
        if number is not None and processor.number != number:
            other = f"argument 3 is the control block of processor {processor.number}, argument 4 is {number:#x}"
            notes.append(contradicted(other))
        described, thread = _hung_state(target, processor)
        findings += described.findings
        sentences += described.sentences
        specifiers, uncertain = described.specifiers, described.uncertain
    return Reasoning(
        tuple(findings),
        tuple(sentences),
        tuple(notes),
        specifiers=specifiers,
        prefix="CLOCK_WATCHDOG_TIMEOUT",
        thread=thread,
        uncertain=uncertain,
    )


def _hung(target: Target, prcb: int | None, number: int | None) -> Processor | None:
    """The processor of argument 3; without a usable one, that of argument 4."""
    if prcb is not None:
        return next((processor for processor in processors(target) if processor.prcb == prcb), None)
    return next((processor for processor in processors(target) if processor.number == number), None)


def _why_no_processor(case: Case, prcb: int | None) -> str:
    if prcb is None:
        return "argument 3 is not set"
    if case.target.memory.read(prcb, 8) is None:
        return case.target.memory.why_unreadable(prcb)
    return f"{prcb:#x} is no control block that KiProcessorBlock lists"


def _hung_state(target: Target, processor: Processor) -> tuple[Reasoning, int | None]:
    """What the processor ran, and the thread whose stack shows it."""
    findings, sentences = [], []
    uncertain = None
    idle = processor.current_thread is not None and processor.current_thread == processor.idle_thread
    if processor.current_thread is not None:
        note = "its idle thread" if idle else ""
        findings.append(Finding("HUNG_THREAD", f"{processor.current_thread:016x}", processor.current_thread, note))
    if processor.prcb is not None:
        frozen = _ipi_frozen(target, processor.prcb)
        if frozen == _NOT_STOPPED:
            findings.append(Finding("HUNG_PROCESSOR_STATE", f"IpiFrozen {frozen:#x}", processor.prcb))
            sentences.append(
                "It did not answer when the system was stopped either, so its saved registers may be from another "
                "time: suspect the processor, its voltage or its firmware."
            )
            uncertain = "the processor that hangs answered nobody, so what it ran at the end is not known"
        if _dpc_active(target, processor.prcb):
            findings.append(Finding("HUNG_PROCESSOR_DPC", "a DPC was active", processor.prcb))
            for dpc in _active_dpcs(target, processor.prcb):
                routine = _routine_name(target, dpc)
                if routine:
                    sentences.append(f"It was running the DPC {routine}.")
    ip = processor.context.ip if processor.context is not None else None
    if not ip or not target.is_kernel_address(ip):
        why = "no usable registers of it were saved"
        findings.append(Finding("HUNG_PROCESSOR_IP", "not in the dump", ip, why))
        described = Reasoning(tuple(findings), tuple(sentences), specifiers=("INVALID_CONTEXT",), uncertain=uncertain)
        return described, processor.current_thread
    again = _nested_faults(target, processor)
    if again is not None:
        findings.append(again[0])
        sentences.insert(0, again[1])
    name = target.name_of(ip)
    findings.append(Finding("HUNG_PROCESSOR_IP", name or f"{ip:016x}", ip))
    sentences.append(f"Its last known instruction is {name or f'{ip:#x}, which is in no driver'}.")
    words = ["IDLE_THREAD"] if idle else []
    flags = processor.context.get("eflags") if processor.context is not None else None
    if flags is not None and not flags & _INTERRUPTS_ENABLED:
        findings.append(Finding("HUNG_PROCESSOR_INTERRUPTS", "disabled", None, "its saved flags"))
        words.append("INTERRUPTS_DISABLED")
    described = Reasoning(tuple(findings), tuple(sentences), specifiers=tuple(words), uncertain=uncertain)
    return described, processor.current_thread


def _nested_faults(target: Target, processor: Processor) -> tuple[Finding, str] | None:
    """Machine frames of one instruction at equal distances on the stack: it faults again while its fault is handled.

    The processor pushes RIP, CS, RFLAGS, RSP and SS for each fault (Intel SDM volume 3, 6.14.2).
    """
    sp = processor.context.sp if processor.context is not None else None
    if sp is None or target.header.architecture != "x64":
        return None
    places: dict[int, list[int]] = {}
    start = (sp + 7) & ~7
    for address, data in target.memory.present(start, _MOST_STACK):
        for offset in range(-address % 8, len(data) - 40 + 1, 8):
            if data[offset + 8 : offset + 16] != _KERNEL_SELECTOR:
                continue
            ip, _, flags, stack, segment = struct.unpack_from("<5Q", data, offset)
            near = start <= stack <= start + _MOST_STACK
            if flags < 1 << 22 and flags & 2 and segment in _STACK_SELECTORS and near and target.is_kernel_address(ip):
                places.setdefault(ip, []).append(address + offset)
    for ip, frames in sorted(places.items(), key=lambda entry: -len(entry[1])):
        distances = {later - earlier for earlier, later in itertools.pairwise(frames)}
        if len(frames) < _FEWEST_FAULTS or len(distances) != 1:
            continue
        name = target.name_of(ip) or f"{ip:#x}"
        distance = distances.pop()
        description = f"{len(frames)} machine frames of {name}, {distance:x}h apart"
        sentence = (
            f"Processor {processor.number} faults again while handling its fault: {description}, "
            "so that it never gets on."
        )
        return Finding("NESTED_FAULTS", description, frames[0], "on the stack of the hung processor"), sentence
    return None


def _routine_name(target: Target, dpc: int) -> str | None:
    located = target.nt.find("_KDPC", "DeferredRoutine") if target.nt is not None else None
    routine = target.memory.pointer(dpc + located.offset) if located is not None else None
    return target.name_of(routine) or f"{routine:#x}" if routine else None


def _ipi_frozen(target: Target, prcb: int) -> int | None:
    located = target.nt.find("_KPRCB", "IpiFrozen") if target.nt is not None else None
    value = target.memory.unsigned(prcb + located.offset, located.size) if located is not None else None
    return None if value is None else value & _IPI_STATE
