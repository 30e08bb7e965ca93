"""The lists of processes and threads: PsActiveProcessHead, both ways where it is damaged, and EPROCESS.ThreadListHead.

* :func:`walk_processes`, :func:`walk_threads` - the entries, and what is wrong with a list
* :func:`process_addresses`, :func:`thread_addresses` - the addresses alone

Without symbols KDDEBUGGER_DATA64 and the sizes of the structures still give them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from volatility3_kdump.lists import ListWalk, walk_list
from volatility3_kdump.windows.structures import field_offset

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MOST_PROCESSES = 65536
_MOST_THREADS = 65536


def walk_processes(target: Target, both: bool = False) -> ListWalk:
    """PsActiveProcessHead as EPROCESS addresses; ``both`` walks it backwards too."""
    head = target.header.ps_active_process_head or target.variable("PsActiveProcessHead", "PsActiveProcessHead")
    links = field_offset(target, "_EPROCESS", "ActiveProcessLinks", None, generation="ActiveProcessLinks")
    if head is None or links is None:
        missing = "PsActiveProcessHead" if head is None else "the offset of EPROCESS.ActiveProcessLinks"
        return ListWalk((), (f"{missing} is not known: {target.symbol_status}",), 0, (), False)
    return _moved(walk_list(target.memory, head, _MOST_PROCESSES, "PsActiveProcessHead", both), links)


def walk_threads(target: Target, process: int) -> ListWalk:
    """EPROCESS.ThreadListHead as ETHREAD addresses."""
    head = field_offset(target, "_EPROCESS", "ThreadListHead", None, generation="ThreadListHead")
    links = field_offset(target, "_ETHREAD", "ThreadListEntry", None, generation="ThreadListEntry")
    if head is None or links is None:
        return ListWalk((), (f"the thread lists cannot be located: {target.symbol_status}",), 0, (), False)
    return _moved(walk_list(target.memory, process + head, _MOST_THREADS, f"ThreadListHead of {process:#x}"), links)


def _moved(walk: ListWalk, links: int) -> ListWalk:
    backwards = None if walk.backwards is None else tuple(entry - links for entry in walk.backwards)
    return ListWalk(
        tuple(entry - links for entry in walk.entries), walk.problems, walk.break_at, backwards, walk.present
    )


def process_addresses(target: Target) -> list[int]:
    """EPROCESS addresses of PsActiveProcessHead, in list order; empty without symbols.

    What is wrong with the list is added to the target's problems.
    """
    walk = walk_processes(target)
    if walk.present:
        _report(target, walk)
    return list(walk.entries)


def thread_addresses(target: Target, process: int) -> list[int]:
    """ETHREAD addresses of a process, in list order; empty without symbols."""
    walk = walk_threads(target, process)
    if walk.present:
        _report(target, walk)
    return list(walk.entries)


def _report(target: Target, walk: ListWalk) -> None:
    target.problems.extend(problem for problem in walk.problems if problem not in target.problems)
