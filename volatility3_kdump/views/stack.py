"""Rows of ``kdump.stack``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import stacks as text
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BLANK, POINTER, Column, Part, Table
from volatility3_kdump.views.thread import OWNER
from volatility3_kdump.windows.listing.stacks import Request, StackList, WalkedStack, threads_with_stacks
from volatility3_kdump.windows.listing.threads import ListedThread
from volatility3_kdump.windows.stacks.frames import NOT_RESIDENT


def _argument(index: int) -> Callable[[Any], object]:
    return lambda frame: frame.arguments[index]


_WALKED = Part[WalkedStack](
    "",
    keys.TID(lambda walked: walked.thread.thread.tid if walked.thread is not None else BLANK),
    keys.THREAD(lambda walked: walked.thread.thread.address if walked.thread is not None else BLANK),
    keys.THREADS(lambda walked: walked.count, "those with the same stack, with `--unique`; otherwise 1"),
)
_FRAME = Part[Any](
    "",
    keys.FRAME(lambda frame: frame.number),
    keys.CHILD_SP(lambda frame: frame.sp),
    keys.ADDRESS(lambda frame: frame.ip, "the instruction pointer in the frame"),
    keys.RETURN_ADDRESS(lambda frame: frame.return_address),
    keys.CALL_SITE(),
    keys.TRUST(lambda frame: frame.trust),
    Column(
        "TrapFrame",
        POINTER,
        "the trap frame that the frame keeps",
        lambda frame: BLANK if frame.trap_frame is None else frame.trap_frame,
    ),
    *(
        key(_argument(index), "what stands where the callee keeps its arguments")
        for index, key in enumerate(keys.ARGUMENTS)
    ),
    keys.SOURCE_FILE(lambda frame: BLANK if frame.line is None else frame.line.file),
    keys.SOURCE_LINE(lambda frame: BLANK if frame.line is None else frame.line.line),
)
STACKS = Table("kdump.stack", OWNER, _WALKED, _FRAME)


def stack_grid(
    target: Target,
    requests: Sequence[Request],
    layout: str,
    most: int,
    unique: bool = False,
    progress: Progress | None = None,
    lines: bool = False,
) -> KdumpGrid:
    """The stacks asked for, one row a frame and one for where a backtrace ends early.

    ``lines`` shows source lines in KD's text as well.
    """
    listed = StackList(target, requests, most, unique, progress)
    return STACKS.grid(_rows(target, listed), lambda: _kd_lines(target, listed, layout, lines))


def _rows(target: Target, listed: StackList) -> Iterator[Row]:
    size = target.memory.pointer_size
    for walked in listed.stacks:
        head: dict[Part[Any], Any] = {OWNER: walked.thread, _WALKED: walked}
        for frame in walked.stack.frames:
            yield STACKS.row(0, {**head, _FRAME: frame}, CallSite=text.call_site(frame, size))
        if not walked.stack.complete:
            yield STACKS.row(0, head, CallSite=f"({walked.stack.end})", Trust="end")


def _kd_lines(target: Target, listed: StackList, layout: str, lines: bool) -> Iterator[str]:
    for number, walked in enumerate(listed.stacks):
        request, stack, count = walked.request, walked.stack, walked.count
        if number:
            yield ""
        if request.title:
            yield request.title
        if listed.unique:
            yield f"{count} thread{'s' if count != 1 else ''} with this stack, the first is {request.thread or 0:x}"
        if not stack.frames:
            yield f"No stack: {stack.end}"
            continue
        # The 32-bit half of a stack alone is shown as that of a 32-bit machine.
        narrow = request.start is not None and request.start.context.architecture == "x86"
        size = 4 if narrow else target.memory.pointer_size
        yield text.header(layout, size)
        yield from text.rows(stack, layout, size, lines)
        if not stack.complete and len(stack.frames) < listed.most:
            yield f"Stack ends here: {stack.end}"
        for remark in stack.remarks:
            yield f"Note: {remark}"


# !stacks --------------------------------------------------------------------------------------------------------------


_STATES = {"Running": "RUNNING", "Ready": "READY", "Waiting": "Blocked"}


def summary_lines(target: Target, level: int, wanted: str = "", progress: Progress | None = None) -> Iterator[str]:
    """``!stacks``: a line for each thread with what it waits in; at ``level`` 2 its whole stack.

    Level 0 leaves threads out whose stack is paged out. ``wanted`` chooses threads with that text in a frame's name.
    """
    threads = threads_with_stacks(target, progress)
    yield text.SUMMARY_HEADER
    count = 0
    titled = None
    for listed in threads:
        count += 1
        for line in _summary(target, listed, level, wanted):
            if titled != listed.process:
                titled = listed.process
                yield f"{'':28}[{listed.owner.address if listed.owner else 0:x} {listed.image or '?'}]"
            yield line
    yield ""
    yield f"Threads Processed: {count}"


def _summary(target: Target, listed: ListedThread, level: int, wanted: str) -> Iterator[str]:
    thread, stack, size = listed.thread, listed.stack, target.memory.pointer_size
    if not stack.frames and level == 0:
        return
    sites = [text.call_site(frame, size) for frame in stack.frames]
    if wanted and not any(wanted.lower() in site.lower() for site in sites):
        return
    pid = "????" if thread.pid is None else f"{thread.pid:4x}"
    tid = "??????" if thread.tid is None else f"{thread.tid:06x}"
    ticks = "?" if thread.wait_ticks is None else f"{thread.wait_ticks & 0xFFFFFFFF:07x}"
    state = _STATES.get(thread.state_name or "", thread.state_name or "?")
    if not stack.frames:
        site = "Stack paged out" if stack.end == NOT_RESIDENT else f"no stack: {stack.end}"
    else:
        site = sites[0] if level == 2 else text.blocker(stack, size)
    yield f"{pid}.{tid}  {thread.address:x} {ticks} {state:<10} {site}"
    if level == 2:
        yield from text.summary_rest(stack, size)
