"""Rows of ``kdump.thread``, and the columns of threads and frames that other tables have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import processes as text
from volatility3_kdump.text import stacks as stack_text
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import (
    BLANK,
    FLAG,
    LINES,
    NUMBER,
    POINTER,
    SECONDS,
    TEXT,
    TIME,
    Column,
    Part,
    Table,
)
from volatility3_kdump.windows.listing.threads import ListedThread, ThreadChoice
from volatility3_kdump.windows.processes.threads import IMPERSONATION_LEVELS, WAITING, WaitObject
from volatility3_kdump.windows.stacks.frames import NOT_RESIDENT, Stack

#: Whose thread it is.
OWNER = Part[ListedThread](
    "",
    keys.PROCESS(lambda listed: listed.process),
    keys.PID(lambda listed: listed.pid),
    keys.IMAGE(lambda listed: listed.image),
)


def _waiting(listed: ListedThread, value: object) -> object:
    return value if listed.thread.state == WAITING else BLANK


def _mode(mode: int | None) -> str | None:
    return None if mode is None else "UserMode" if mode else "KernelMode"


def _alertable(listed: ListedThread) -> object:
    return None if listed.thread.alertable is None else _waiting(listed, listed.thread.alertable)


def _start(start: int | None, symbol: str | None) -> object:
    return None if start is None else symbol or BLANK


def _wait_text(wait: WaitObject, size: int) -> str:
    line = text.wait_object(wait, size)
    if wait.name:
        line += f" ({wait.name}" + (f" {wait.pid:x})" if wait.tid is None and wait.pid is not None else ")")
    return line


def _impersonation(listed: ListedThread) -> object:
    thread = listed.thread
    if not thread.impersonating:
        return None if thread.impersonating is None else BLANK
    return f"{thread.impersonation_token or 0:x} {IMPERSONATION_LEVELS[thread.impersonation_level or 0]}"


def _exit_time(listed: ListedThread) -> object:
    return BLANK if listed.thread.exit_time is None else listed.thread.exit_time


#: The first columns of a thread, which tables have that show threads beside others.
BRIEF_THREAD = Part[ListedThread](
    "",
    keys.THREAD(lambda listed: listed.thread.address),
    keys.TID(lambda listed: listed.thread.tid),
    keys.THREAD_STATE(lambda listed: listed.thread.state_name),
    Column(
        "WaitReason",
        TEXT,
        "name in KWAIT_REASON; null unless it waits, like the next two",
        lambda listed: _waiting(listed, listed.thread.wait_reason_name),
    ),
)
#: All columns of a thread. A level below are its stack's frames, which fill the columns of :data:`FRAME`.
THREAD = Part[ListedThread](
    "A thread",
    *BRIEF_THREAD.columns,
    Column(
        "WaitMode",
        TEXT,
        "`UserMode` or `KernelMode`",
        lambda listed: _waiting(listed, _mode(listed.thread.wait_mode)),
    ),
    Column("Alertable", FLAG, "KTHREAD.Alertable", _alertable),
    Column(
        "WaitObjects",
        LINES,
        "the objects that it waits for, as the debugger writes them, with the owner of a mutant and the name of a "
        "process or thread; separated by semicolons",
        lambda listed: [_wait_text(wait, listed.pointer_size) for wait in listed.thread.waits],
    ),
    Column(
        "Irps",
        LINES,
        "its requests on their way, as the debugger writes them",
        lambda listed: [text.irp(irp, listed.pointer_size) for irp in listed.thread.irps],
    ),
    keys.PROCESSOR(lambda listed: listed.thread.processor, "where it runs or is to run"),
    Column("WaitTicks", NUMBER, "clock ticks since it began to wait", lambda listed: listed.thread.wait_ticks),
    keys.WAIT_TIME(lambda listed: listed.thread.wait_time),
    Column("ContextSwitches", NUMBER, "KTHREAD.ContextSwitches", lambda listed: listed.thread.context_switches),
    Column("IdealProcessor", NUMBER, "KTHREAD.IdealProcessor", lambda listed: listed.thread.ideal_processor),
    Column("ThreadUserTime", SECONDS, "KTHREAD.UserTime", lambda listed: listed.thread.user_time),
    Column("ThreadKernelTime", SECONDS, "KTHREAD.KernelTime", lambda listed: listed.thread.kernel_time),
    Column("StartAddress", POINTER, "ETHREAD.StartAddress", lambda listed: listed.thread.start_address),
    Column(
        "StartSymbol",
        TEXT,
        "its name, where it lies in a kernel module",
        lambda listed: _start(listed.thread.start_address, listed.start_symbol),
    ),
    Column("Win32StartAddress", POINTER, "ETHREAD.Win32StartAddress", lambda listed: listed.thread.win32_start_address),
    Column(
        "Win32StartSymbol",
        TEXT,
        "its name, where it lies in a kernel module",
        lambda listed: _start(listed.thread.win32_start_address, listed.win32_start_symbol),
    ),
    keys.PRIORITY(lambda listed: listed.thread.priority),
    Column("ThreadBasePriority", NUMBER, "KTHREAD.BasePriority", lambda listed: listed.thread.base_priority),
    Column("PriorityDecrement", NUMBER, "KTHREAD.PriorityDecrement", lambda listed: listed.thread.priority_decrement),
    Column("IoPriority", NUMBER, "of ETHREAD.CrossThreadFlags", lambda listed: listed.thread.io_priority),
    Column("PagePriority", NUMBER, "of ETHREAD.CrossThreadFlags", lambda listed: listed.thread.page_priority),
    Column("InitialStack", POINTER, "KTHREAD.InitialStack", lambda listed: listed.thread.initial_stack),
    Column(
        "KernelStack",
        POINTER,
        "KTHREAD.KernelStack; out of date while the thread runs",
        lambda listed: listed.thread.kernel_stack,
    ),
    Column("StackBase", POINTER, "KTHREAD.StackBase", lambda listed: listed.thread.stack_base),
    Column("StackLimit", POINTER, "KTHREAD.StackLimit", lambda listed: listed.thread.stack_limit),
    Column("Teb", POINTER, "KTHREAD.Teb; null where it has none", lambda listed: listed.thread.teb),
    Column(
        "Win32Thread", POINTER, "KTHREAD.Win32Thread; null where it has none", lambda listed: listed.thread.win32_thread
    ),
    Column(
        "AttachedProcess",
        POINTER,
        "the EPROCESS that it is attached to; null while it is in its own",
        lambda listed: listed.thread.attached,
    ),
    Column("Impersonation", TEXT, "token and level; null while it does not impersonate", _impersonation),
    Column("SuspendCount", NUMBER, "KTHREAD.SuspendCount", lambda listed: listed.thread.suspend_count),
    Column("ThreadCreateTime", TIME, "ETHREAD.CreateTime", lambda listed: listed.thread.create_time),
    Column("ThreadExitTime", TIME, "ETHREAD.ExitTime; null while it has not exited", _exit_time),
    Column("ThreadName", TEXT, "ETHREAD.ThreadName", lambda listed: listed.thread.name or BLANK),
    Column(
        "ThreadNotes",
        LINES,
        "contradictions and gaps in what is known of the thread",
        lambda listed: listed.thread.notes,
    ),
)
FRAME = Part[Any](
    "A frame",
    keys.FRAME(lambda frame: frame.number),
    keys.CHILD_SP(lambda frame: frame.sp),
    keys.RETURN_ADDRESS(lambda frame: frame.return_address),
    keys.CALL_SITE(),
    keys.TRUST(lambda frame: frame.trust),
)
THREADS = Table("kdump.thread", OWNER, THREAD, FRAME)


# stacks ---------------------------------------------------------------------------------------------------------------


def stack_lines(target: Target, stack: Stack, indent: str, arguments: bool = False) -> Iterator[str]:
    """A stack inside ``!process``, or with ``arguments`` as ``!thread`` shows it."""
    layout = stack_text.EMBEDDED_ARGUMENTS if arguments else stack_text.EMBEDDED
    if not stack.frames:
        why = "Kernel stack not resident." if stack.end == NOT_RESIDENT else f"No stack: {stack.end}"
        yield f"{indent}{why}"
        return
    yield indent + stack_text.header(layout, target.memory.pointer_size)
    for line in stack_text.rows(stack, layout, target.memory.pointer_size):
        yield indent + line
    if not stack.complete:
        yield f"{indent}Stack ends here: {stack.end}"


def frame_rows(table: Table, level: int, target: Target, stack: Stack, records: dict[Part[Any], Any]) -> Iterator[Row]:
    """A row for each frame, and one for why there are no more; ``records`` fill the other parts of the table."""
    size = target.memory.pointer_size
    for frame in stack.frames:
        site = stack_text.call_site(frame, size)
        yield table.row(level, {**records, FRAME: frame}, CallSite=site)
    if not stack.complete:
        yield table.row(level, records, CallSite=f"({stack.end})", Trust="end")


# text -----------------------------------------------------------------------------------------------------------------


def names_of(listed: ListedThread) -> text.ThreadNames:
    """What a thread's block needs from elsewhere."""
    owner = listed.owner
    return text.ThreadNames(
        owner.device_map if owner else None,
        listed.image if listed.thread.owner else None,
        listed.attached_name,
        listed.win32_start_symbol if listed.thread.win32_start_address else listed.start_symbol,
    )


def thread_lines(
    target: Target, listed: ListedThread, indent: str, block: bool, stack: bool, arguments: bool = False
) -> Iterator[str]:
    """A thread as ``!process`` and ``!thread`` show it: with its waits alone, or with its whole ``block``.

    ``arguments`` adds "Args to Child" to the ``stack``.
    """
    size = target.memory.pointer_size
    thread = listed.thread
    yield indent + text.thread_line(thread, size)
    if thread.present:
        lines = text.thread_block(thread, names_of(listed), size) if block else ()
        for line in lines or text.thread_waits(thread, size):
            yield indent + line
    yield from text.notes(thread.notes, indent + "    ")
    if block and thread.present and listed.owner is not None and not listed.owner.present:
        yield from text.notes(listed.owner.notes, indent + "    ")
    if stack and thread.present:
        yield from stack_lines(target, listed.stack, indent, arguments)
    yield ""


# kdump.thread ---------------------------------------------------------------------------------------------------------


def thread_grid(
    target: Target, chosen: ThreadChoice, stacks: bool, progress: Progress | None = None, arguments: bool = True
) -> KdumpGrid:
    """The chosen threads, a row each; with ``stacks`` their frames are rows below them.

    ``arguments`` says whether KD's text of a stack has "Args to Child" (flag 8 of ``!thread`` leaves them out).
    """
    threads = chosen.find(target, progress)

    def steps() -> Iterator[ListedThread]:
        for index, listed in enumerate(threads):
            if stacks and progress is not None and len(threads) > 1:
                progress(100 * index / len(threads), "Walking stacks")
            yield listed

    def rows() -> Iterator[Row]:
        for listed in steps():
            yield THREADS.row(0, {OWNER: listed, THREAD: listed})
            if stacks:
                yield from frame_rows(THREADS, 1, target, listed.stack, {OWNER: listed})

    def kd_lines() -> Iterator[str]:
        for listed in steps():
            yield from thread_lines(target, listed, "", True, stacks, arguments)

    return THREADS.grid(rows(), kd_lines)
