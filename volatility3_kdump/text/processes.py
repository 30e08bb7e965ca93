"""Processes and threads in the words and columns of KD's ``!process`` and ``!thread``.

What the dump does not hold is a question mark where KD would show a wrong value, and notes of our own start with
``NOTE:``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.times import span
from volatility3_kdump.windows.processes.processes import Process
from volatility3_kdump.windows.processes.threads import (
    DEFERRED_READY,
    IMPERSONATION_LEVELS,
    MUTANT,
    READY,
    RUNNING,
    SEMAPHORE,
    STANDBY,
    TERMINATED,
    TRANSITION,
    WAITING,
    PendingIrp,
    Thread,
    WaitObject,
)

ALL = "**** NT ACTIVE PROCESS DUMP ****"
NO_THREADS = "No active threads"
INDENT = " " * 8

_UNKNOWN = "?"
_NOT_ACCESSIBLE = "<Data Not Accessible>"
_PAGE_KB = 4
_MEGABYTE = 20
_NO_SWAP = "NoStackSwap"

#: DISPATCHER_HEADER.Type to KD's word for the object.
_OBJECTS = {
    0: "NotificationEvent",
    1: "SynchronizationEvent",
    2: "Mutant",
    3: "ProcessObject",
    4: "QueueObject",
    5: "Semaphore",
    6: "Thread",
    7: "Gate",
    8: "NotificationTimer",
    9: "SynchronizationTimer",
    21: "PriorityQueueObject",
    24: "Timer2NotificationObject",
    25: "Timer2SynchronizationObject",
}


# processes ------------------------------------------------------------------------------------------------------------


def header(process: Process, size: int = 8) -> Iterator[str]:
    """The entry of ``!process 0 0``, without the empty line after it. ``size`` is that of a pointer in bytes."""
    address = _full(process.address, size)
    if not process.present:
        yield f"PROCESS {address}"
        return
    space = process.session_space
    session = "none" if space == 0 else _decimal(process.session)
    ids = f"SessionId: {session}  Cid: {_hex(process.pid, 4)}    Peb: {_hex(process.peb, 8)}  "
    ids += f"ParentCid: {_hex(process.parent, 4)}"
    if size == 8:
        yield f"PROCESS {address}"
        yield f"    {ids}"
    else:
        yield f"PROCESS {address}  {ids}"
    if process.frozen:
        yield "    DeepFreeze"
    if process.freeze_count:
        yield f"    FreezeCount {process.freeze_count}"
    count = _NOT_ACCESSIBLE if process.handle_count is None else f"{process.handle_count:3d}."
    table = _address(process.object_table, size)
    yield f"    DirBase: {_hex(process.directory_table_base, 8)}  ObjectTable: {table}  HandleCount: {count}"
    yield f"    Image: {process.name or _UNKNOWN}"


def statistics(process: Process, now: int | None, size: int = 8) -> Iterator[str]:
    """The block that flag 1 adds; ``now`` is the time of the crash (FILETIME)."""
    working_set = (process.working_set, process.minimum_working_set, process.maximum_working_set)
    pages = ", ".join(_decimal(value) for value in working_set)
    kilobytes = ", ".join(f"{_decimal(None if value is None else value * _PAGE_KB)}KB" for value in working_set)
    yield (
        f"    VadRoot {_full(process.vad_root, size)} Vads {_decimal(process.vad_count)} "
        f"Clone {_hex(process.clone_root)} Private {_decimal(process.private_pages)}. "
        f"Modified {_decimal(process.modified_pages)}. Locked {_decimal(process.locked_pages)}."
    )
    yield f"    DeviceMap {_full(process.device_map, size)}"
    yield _labelled("Token", _full(process.token, size))
    yield _labelled("ElapsedTime", span(process.elapsed(now)) or _UNKNOWN)
    yield _labelled("UserTime", span(process.user_time) or _UNKNOWN)
    yield _labelled("KernelTime", span(process.kernel_time) or _UNKNOWN)
    yield _labelled("QuotaPoolUsage[PagedPool]", _decimal(process.paged_quota))
    yield _labelled("QuotaPoolUsage[NonPagedPool]", _decimal(process.nonpaged_quota))
    yield f"    Working Set Sizes (now,min,max)  ({pages}) ({kilobytes})"
    yield _labelled("PeakWorkingSetSize", _decimal(process.peak_working_set))
    yield _labelled("VirtualSize", f"{_decimal(_megabytes(process.virtual_size))} Mb")
    yield _labelled("PeakVirtualSize", f"{_decimal(_megabytes(process.peak_virtual_size))} Mb")
    yield _labelled("PageFaultCount", _decimal(process.page_faults))
    yield _labelled("MemoryPriority", memory_priority(process) or _UNKNOWN)
    yield _labelled("BasePriority", _decimal(process.base_priority))
    yield _labelled("CommitCharge", _decimal(process.commit_charge))
    if process.debug_port:
        yield _labelled("DebugPort", _full(process.debug_port, size))
    if process.job:
        yield _labelled("Job", _full(process.job, size))


def memory_priority(process: Process) -> str | None:
    """``BACKGROUND`` or ``FOREGROUND``."""
    if process.memory_priority is None:
        return None
    return "FOREGROUND" if process.memory_priority else "BACKGROUND"


def notes(lines: tuple[str, ...], indent: str = "    ") -> Iterator[str]:
    """What is wrong, or not in the dump."""
    for line in lines:
        yield f"{indent}NOTE: {line}"


def _labelled(label: str, value: str) -> str:
    return f"    {label:<34}{value}"


# threads --------------------------------------------------------------------------------------------------------------


class ThreadNames(NamedTuple):
    """What a thread's block says about other things: the device map of its process, names of processes, its start."""

    device_map: int | None = None
    owner: str | None = None
    attached: str | None = None
    start: str | None = None


def thread_line(thread: Thread, size: int = 8) -> str:
    """The first line of a thread: ids and state."""
    address = _full(thread.address, size)
    if not thread.present:
        return f"THREAD {address}"
    return (
        f"THREAD {address}  Cid {_hex(thread.pid, 4)}.{_hex(thread.tid, 4)}  "
        f"Teb: {_full(thread.teb, size)} Win32Thread: {_full(thread.win32_thread, size)} {state(thread)}"
    )


def state(thread: Thread) -> str:
    """``WAIT: (UserRequest) UserMode Non-Alertable``, ``RUNNING on processor 2`` and so on."""
    number = thread.state
    if number is None:
        return _UNKNOWN
    if number == WAITING:
        mode = _UNKNOWN if thread.wait_mode is None else "UserMode" if thread.wait_mode else "KernelMode"
        alertable = _UNKNOWN if thread.alertable is None else "Alertable" if thread.alertable else "Non-Alertable"
        return f"WAIT: ({thread.wait_reason_name or _UNKNOWN}) {mode} {alertable}"
    if number == READY:
        return f"READY on processor {_hex(thread.next_processor)}"
    if number == RUNNING:
        return f"RUNNING on processor {_hex(thread.processor)}"
    fixed = {STANDBY: "STANDBY", TERMINATED: "TERMINATED", TRANSITION: "TRANSITION", DEFERRED_READY: "DEFERRED READY"}
    return fixed.get(number) or (thread.state_name or _UNKNOWN).upper()


def wait_object(waited: WaitObject, size: int = 8) -> str:
    """``ffff948ff718d608  Mutant - owning thread ffff948ffeb54080``."""
    return f"{_full(waited.address, size)}  {wait_object_kind(waited, size)}"


def wait_object_kind(waited: WaitObject, size: int = 8) -> str:
    """The kind of an object in KD's words."""
    if waited.kind is None:
        return "Unknown (not in the dump)"
    if waited.kind == MUTANT:
        if waited.owner is None:
            return "Mutant - owning thread ?"
        return f"Mutant - owning thread {_full(waited.owner, size)}" if waited.owner else "Mutant - not owned"
    if waited.kind == SEMAPHORE:
        return f"Semaphore Limit {_UNKNOWN if waited.limit is None else hex(waited.limit)}"
    return _OBJECTS.get(waited.kind, "Unknown")


def irp(pending: PendingIrp, size: int = 8) -> str:
    """``ffff8a071d3fc2d0: (0006,0118) Flags: 00060070  Mdl: 00000000``."""
    address = _full(pending.address, size)
    return (
        f"{address}: ({_hex(pending.type, 4)},{_hex(pending.size, 4)}) "
        f"Flags: {_hex(pending.flags, 8)}  Mdl: {_hex(pending.mdl, 8)}"
    )


def thread_waits(thread: Thread, size: int = 8) -> Iterator[str]:
    """The objects that a thread waits for, a line each."""
    for wait in thread.waits:
        yield f"    {wait_object(wait, size)}"


def thread_block(thread: Thread, names: ThreadNames, size: int = 8) -> Iterator[str]:
    """What follows the first line: waits, requests, owner, times, stack limits, priorities."""
    yield from thread_waits(thread, size)
    if thread.suspend_count:
        yield f"    SuspendCount {thread.suspend_count}"
    if thread.freeze_count:
        yield f"    FreezeCount {thread.freeze_count}"
    if thread.irps:
        yield "IRP List:"
        for request in thread.irps:
            yield f"    {irp(request, size)}"
    yield _impersonation(thread, size)
    yield f"{'DeviceMap':<26}{_full(names.device_map, size)}"
    yield _process_line("Owning Process", thread.owner, names.owner, size)
    yield _process_line("Attached Process", thread.attached, names.attached, size)
    ticks = _decimal(thread.wait_ticks)
    if thread.wait_ticks and thread.wait_time is not None:
        ticks += f" ({span(thread.wait_time, days=True)})"
    yield f"{'Wait Start TickCount':<26}{_decimal(thread.wait_start):<15}Ticks: {ticks}"
    swap = _NO_SWAP if thread.stack_swap is False else " " * len(_NO_SWAP)
    large = "    LargeStack" if thread.large_stack else ""
    switches = _decimal(thread.context_switches)
    yield f"{'Context Switch Count':<26}{switches:<15}IdealProcessor: {_decimal(thread.ideal_processor)}  {swap}{large}"
    yield f"{'UserTime':<26}{span(thread.user_time) or _UNKNOWN}"
    yield f"{'KernelTime':<26}{span(thread.kernel_time) or _UNKNOWN}"
    label, start = ("Win32 Start Address", thread.win32_start_address)
    if not start:
        label, start = ("Start Address", thread.start_address)
    yield f"{label} {_start(start, names.start, size)}"
    if thread.name:
        yield f"Name {thread.name}"
    yield f"Stack Init {_full(thread.initial_stack, size)} Current {_full(thread.kernel_stack, size)}"
    limits = f"Base {_full(thread.stack_base, size)} Limit {_full(thread.stack_limit, size)}"
    yield f"{limits} Call {_full(thread.callback_stack, size)}"
    yield (
        f"Priority {_decimal(thread.priority)} BasePriority {_decimal(thread.base_priority)} "
        f"PriorityDecrement {_decimal(thread.priority_decrement)} IoPriority {_decimal(thread.io_priority)} "
        f"PagePriority {_decimal(thread.page_priority)}"
    )


def _impersonation(thread: Thread, size: int) -> str:
    if thread.impersonating is None:
        return "Impersonation not known"
    if not thread.impersonating:
        return "Not impersonating"
    level = thread.impersonation_level
    name = IMPERSONATION_LEVELS[level] if level is not None else _UNKNOWN
    return f"Impersonation token:  {_full(thread.impersonation_token, size)} (Level {name})"


def _process_line(label: str, address: int | None, name: str | None, size: int) -> str:
    if address == 0:
        return f"{label:<26}{'N/A':<15}Image:         N/A"
    return f"{label:<26}{_full(address, size):<23}Image:         {name or _UNKNOWN}"


def _start(address: int | None, name: str | None, size: int) -> str:
    if address is None:
        return _UNKNOWN
    shown = f"0x{_full(address, size)}"
    return f"{name} ({shown})" if name else shown


# cells ----------------------------------------------------------------------------------------------------------------


def _decimal(value: int | None) -> str:
    return _UNKNOWN if value is None else str(value)


def _hex(value: int | None, digits: int = 0) -> str:
    return _UNKNOWN * max(digits, 1) if value is None else f"{value:0{digits}x}"


def _full(value: int | None, size: int) -> str:
    # There are many of these: what pointer() does, for the most frequent case.
    return f"{value:016x}" if value is not None and size == 8 else pointer(value, size, tick=False)


def _address(value: int | None, size: int) -> str:
    """An address, eight zeros for none."""
    return "00000000" if value == 0 else _full(value, size)


def _megabytes(value: int | None) -> int | None:
    return None if value is None else value >> _MEGABYTE
