"""The same processes from several sides: a process that one list has and another lacks was unlinked, or is damaged.

:func:`cross_view` compares PsActiveProcessHead, walked both ways, with PspCidTable, the process lists of the sessions,
the list of handle tables, and the owners of the threads in PspCidTable and on the processors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.layout import Layouts
from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.processes import process_lists
from volatility3_kdump.windows.processes.handle_table import read_entries
from volatility3_kdump.windows.processes.processes import Process
from volatility3_kdump.windows.processes.threads import PROCESS, THREAD

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: Where processes are looked for.
LIST, BACKWARDS = "PsActiveProcessHead", "PsActiveProcessHead backwards"
IDS, SESSIONS, HANDLES, OWNERS = "PspCidTable", "session list", "handle table list", "thread owners"

_MOST_LINKS = 65536
_SYSTEM_PID = 4


@dataclass(frozen=True)
class CrossView:
    """Processes by where they were seen.

    ``views`` holds the EPROCESS addresses that each place gave; a place that is not in the dump is not in it.
    ``incomplete`` names the places of which the dump holds only a part. ``order`` is every address, those of the
    process list first.
    """

    order: tuple[int, ...]
    views: Mapping[str, frozenset[int]]
    incomplete: frozenset[str]
    problems: tuple[str, ...]

    def seen_in(self, address: int) -> tuple[str, ...]:
        """The places that have a process."""
        return tuple(name for name, addresses in self.views.items() if address in addresses)

    def missing_from(self, process: Process) -> tuple[str, ...]:
        """The places that should have a process and do not.

        An incomplete place proves nothing, but for the process list, where it is said.
        """
        return tuple(
            f"{name} (incomplete)" if name in self.incomplete else name
            for name, addresses in self.views.items()
            if process.address not in addresses
            and _belongs(process, name)
            and (name not in self.incomplete or name in (LIST, BACKWARDS))
        )


def _belongs(process: Process, view: str) -> bool:
    """Whether a process is expected in a place: not every one has a session, handles or threads."""
    if process.pid == 0:
        # The idle process is in no list.
        return False
    if view == SESSIONS:
        return bool(process.session_space) and not process.exit_time and process.pid != _SYSTEM_PID
    if view == HANDLES:
        return bool(process.object_table)
    if view == OWNERS:
        return bool(process.active_threads)
    return True


def cross_view(target: Target) -> CrossView | None:
    """Look for processes everywhere; ``None`` without the kernel's symbols, and in small memory dumps."""
    nt = target.nt
    if nt is None or target.dump.triage is not None:
        return None
    return _Search(target, nt).run()


class _Search:
    def __init__(self, target: Target, nt: Layouts) -> None:
        self.target = target
        self.nt = nt
        self.views: dict[str, frozenset[int]] = {}
        self.incomplete: set[str] = set()
        self.problems: list[str] = []

    def run(self) -> CrossView:
        walk = process_lists.walk_processes(self.target, both=True)
        self.problems += walk.problems
        if walk.present:
            forward = walk.entries if walk.break_at is None else walk.entries[: walk.break_at]
            self.views[LIST] = frozenset(forward)
            if walk.backwards is not None:
                self.views[BACKWARDS] = frozenset(walk.backwards)
            if walk.problems:
                self.incomplete |= {LIST, BACKWARDS}
        listed = dict.fromkeys(walk.entries)
        self.ids(listed)
        self.tables(listed)
        self.sessions(listed)
        for addresses in self.views.values():
            listed.update(dict.fromkeys(sorted(addresses - listed.keys())))
        return CrossView(tuple(listed), self.views, frozenset(self.incomplete), tuple(self.problems))

    def keep(self, view: str, addresses: Iterable[int], problems: Iterable[str]) -> None:
        self.views[view] = frozenset(addresses)
        problems = list(problems)
        if problems:
            self.incomplete.add(view)
            self.problems += problems

    def is_process(self, address: int) -> bool:
        return self.target.memory.unsigned(address, 1) == PROCESS

    # PspCidTable and the owners of threads ----------------------------------------------------------------------------

    def ids(self, listed: Mapping[int, None]) -> None:
        """Processes and threads by their ids."""
        target = self.target
        variable = target.symbol("PspCidTable")
        table = target.memory.pointer(variable) if variable is not None else None
        owner_at = self.nt.find("_ETHREAD", "Tcb.Process")
        if not table or not target.is_kernel_address(table) or owner_at is None:
            return
        problems: list[str] = []
        addresses: set[int] = set()
        owners: set[int] = set()
        entries = 0
        for entry in read_entries(target, self.nt, table, problems, IDS):
            address = entry.pointer
            entries += 1
            if address in listed:
                addresses.add(address)
                continue
            # Windows gives every thread a page of its own, of which nine bytes matter here.
            head = target.memory.read_fragment(address, 1)
            kind = None if head is None else head[0] & 0x7F
            if kind == PROCESS:
                addresses.add(address)
            elif kind == THREAD:
                field = target.memory.read_fragment(address + owner_at.offset, target.memory.pointer_size)
                owners.add(0 if field is None else int.from_bytes(field, "little"))
            elif kind is None:
                problems.append(f"{IDS}: the object at {address:#x} is not in the dump")
        if not entries and not problems:
            return
        self.keep(IDS, addresses, problems)
        for processor in processors(target):
            if processor.current_thread and processor.current_thread != processor.idle_thread:
                owner = target.memory.pointer(processor.current_thread + owner_at.offset)
                owners.add(owner or 0)
        owners.discard(0)
        self.keep(OWNERS, (owner for owner in owners if owner in addresses or self.is_process(owner)), ())
        if problems:
            self.incomplete.add(OWNERS)

    # handle tables ----------------------------------------------------------------------------------------------------

    def tables(self, listed: dict[int, None]) -> None:
        """Every handle table names its process; that of the kernel belongs to System."""
        target, nt = self.target, self.nt
        head = target.symbol("HandleTableListHead")
        link = nt.find("_HANDLE_TABLE", "HandleTableList")
        owner = nt.find("_HANDLE_TABLE", "QuotaProcess")
        if head is None or link is None or owner is None:
            return
        walk = walk_list(target.memory, head, _MOST_LINKS, HANDLES)
        if not walk.present or (not walk.entries and not walk.problems):
            return
        tables = {entry - link.offset for entry in walk.entries}
        addresses = set()
        for table in tables:
            process = target.memory.pointer(table + owner.offset)
            if process and (process in listed or (target.is_kernel_address(process) and self.is_process(process))):
                addresses.add(process)
        own = nt.find("_EPROCESS", "ObjectTable")
        for process in listed if own is not None else ():
            if process not in addresses and target.memory.pointer(process + (own.offset if own else 0)) in tables:
                addresses.add(process)
        self.keep(HANDLES, addresses, walk.problems)

    # sessions ---------------------------------------------------------------------------------------------------------

    def sessions(self, listed: Mapping[int, None]) -> None:
        """The process lists of the sessions that the known processes belong to."""
        target, nt = self.target, self.nt
        own = nt.find("_EPROCESS", "Session")
        link = nt.find("_EPROCESS", "SessionProcessLinks")
        type_name = next((name for name in ("_PSP_SESSION_SPACE", "_MM_SESSION_SPACE") if nt.has_type(name)), None)
        head = nt.find(type_name, "ProcessList") if type_name else None
        if own is None or link is None or head is None:
            return
        spaces = dict.fromkeys(target.memory.pointer(process + own.offset) for process in listed)
        addresses: set[int] = set()
        problems: list[str] = []
        walked = False
        left = _MOST_LINKS
        for space in spaces:
            if not space or not target.is_kernel_address(space):
                continue
            if left <= 0:
                problems.append(f"{SESSIONS}: more than {_MOST_LINKS} entries in all")
                break
            walk = walk_list(target.memory, space + head.offset, left, f"{SESSIONS} of {space:#x}")
            left -= len(walk.entries) + 1
            walked = walked or walk.present
            problems += walk.problems
            addresses |= {entry - link.offset for entry in walk.entries}
        if walked:
            self.keep(SESSIONS, addresses, problems)
