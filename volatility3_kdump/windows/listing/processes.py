"""Which processes are asked for, and what is said of each beside its own fields: where it is missing, its threads."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.listing.threads import ListedThread
from volatility3_kdump.windows.processes import process_lists
from volatility3_kdump.windows.processes.crashed import crash_process, crash_thread
from volatility3_kdump.windows.processes.crossview import CrossView, cross_view
from volatility3_kdump.windows.processes.processes import Process, read_process
from volatility3_kdump.windows.processes.threads import read_thread
from volatility3_kdump.windows.processes.user_mode import UserMode, read_user_mode

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: EPROCESS.ImageFileName holds the first 14 characters.
_SHORT_NAME = 14


class ProcessChoice:
    """Which processes are asked for: those that fit everything that is given; by default all.

    ``names`` are parts of image names; with ``whole`` they are whole ones. ``session`` is a session's id.
    """

    def __init__(
        self,
        addresses: Sequence[int] = (),
        pids: Sequence[int] = (),
        names: Sequence[str] = (),
        whole: bool = False,
        session: int | None = None,
    ) -> None:
        self.whole = whole
        self.addresses = list(addresses)
        self.pids = list(pids)
        self.names = [name.lower() for name in names]
        self.session = session

    @property
    def all(self) -> bool:
        """Whether nothing is asked for in particular."""
        return not (self.addresses or self.pids or self.names or self.session is not None)

    def fits(self, process: Process) -> bool:
        """Whether a process of the list is asked for."""
        if self.pids and process.pid not in self.pids:
            return False
        if self.session is not None and process.session != self.session:
            return False
        own = [name.lower() for name in (process.name, process.image_name) if name]
        if self.whole:
            short = (process.image_name or "?").lower()
            own += [wanted for wanted in self.names if short == wanted[:_SHORT_NAME]]
            return not self.names or any(wanted in own for wanted in self.names)
        return not self.names or any(wanted in name for wanted in self.names for name in own)


class ListedProcess:
    """A process of a list. What is not among its own fields is read when it is first asked for."""

    def __init__(self, target: Target, process: Process, cross: CrossView | None) -> None:
        self._target = target
        self._cross = cross
        self.process = process

    @property
    def missing_from(self) -> tuple[str, ...]:
        """The places where it should have been found, and was not."""
        return self._cross.missing_from(self.process) if self._cross is not None else ()

    @property
    def seen_in(self) -> tuple[str, ...]:
        """The places where it was found."""
        return self._cross.seen_in(self.process.address) if self._cross is not None else ()

    @property
    def elapsed(self) -> int | None:
        """100 ns units from its creation to the crash, or to its end."""
        return self.process.elapsed(self._target.header.system_time)

    @property
    def why_no_protection(self) -> str:
        """Why its protection is not known."""
        nt = self._target.nt
        if nt is None:
            return f"it needs the kernel's symbols ({self._target.symbol_status})"
        if not nt.has("_EPROCESS", "Protection.Level"):
            return "this Windows has no EPROCESS.Protection, which came with Windows 8.1"
        return "not in the dump"

    @functools.cached_property
    def user_mode(self) -> UserMode:
        """What its user-mode pages say."""
        return read_user_mode(self._target, self.process)

    @functools.cached_property
    def _walk(self) -> tuple[list[ListedThread], tuple[str, ...]]:
        target, process = self._target, self.process
        if target.dump.triage is not None:
            thread = crash_thread(target)
            own = thread is not None and thread.process == process.address
            return (
                [ListedThread(target, thread, process)] if own and thread is not None else [],
                ("the other threads are not in the dump",),
            )
        walk = process_lists.walk_threads(target, process.address)
        return [ListedThread(target, read_thread(target, entry), process) for entry in walk.entries], walk.problems

    @property
    def threads(self) -> list[ListedThread]:
        """Its threads."""
        return self._walk[0]

    @property
    def thread_problems(self) -> tuple[str, ...]:
        """What is wrong with the list of its threads."""
        return self._walk[1]


class ProcessList:
    """The chosen processes, read as they are asked for: whoever shows them shows the first ones at once.

    Raises :class:`KdumpError` where there are none: at once where some are chosen, else when it is iterated.
    """

    def __init__(self, target: Target, chosen: ProcessChoice, progress: Progress | None = None) -> None:
        self.target = target
        self.chosen = chosen
        self.progress = progress
        #: Gaps in the lists themselves, one line each; complete when all processes are read.
        self.problems: list[str] = []
        self._read: list[ListedProcess] = []
        self._rest = self._find()
        if not chosen.all:
            _ = self.processes

    @property
    def processes(self) -> list[ListedProcess]:
        """All of them."""
        return list(self)

    def __iter__(self) -> Iterator[ListedProcess]:
        yield from self._read
        for listed in self._rest:
            self._read.append(listed)
            yield listed
        if not self._read and not (self.chosen.all and self.problems):
            raise KdumpError(f"{self.target.name}: no process {self._why_none()}")

    def _find(self) -> Iterator[ListedProcess]:
        target = self.target
        if self.chosen.addresses:
            for address in self.chosen.addresses:
                process = read_process(target, address)
                if self.chosen.fits(process):
                    yield ListedProcess(target, process, None)
            return
        cross = cross_view(target)
        addresses: Sequence[int]
        if cross is not None:
            addresses, problems = cross.order, cross.problems
        else:
            walk = process_lists.walk_processes(target)
            addresses, problems = walk.entries, walk.problems
        if target.dump.triage is not None:
            addresses, problems = self._of_triage(addresses)
        self.problems += problems
        if 0 in self.chosen.pids:
            # The idle process is in no list.
            variable = target.symbol("PsIdleProcess")
            idle = target.memory.pointer(variable) if variable is not None else None
            addresses = [*addresses, *([idle] if idle and target.is_kernel_address(idle) else [])]
        for index, address in enumerate(addresses):
            if self.progress is not None and index and index % 64 == 0:
                self.progress(100 * index / len(addresses), "Reading processes")
            process = read_process(target, address)
            if self.chosen.fits(process):
                yield ListedProcess(target, process, cross)

    def _of_triage(self, listed: Sequence[int]) -> tuple[list[int], tuple[str, ...]]:
        """A small memory dump copies one process; the list's neighbours of it are not there."""
        crashed = crash_process(self.target)
        there = [process for process in listed if self.target.memory.read(process, 1) is not None]
        if crashed is not None and crashed.address not in there:
            there.insert(0, crashed.address)
        reason = "a small memory dump holds the process that crashed: the others are not in the dump"
        return there, (reason if there else f"{reason}, and neither is that one",)

    def _why_none(self) -> str:
        target = self.target
        if target.dump.triage is not None:
            return "found: a small memory dump holds the process that crashed, and no others"
        if self.problems:
            return f"found: {self.problems[0]}"
        if self.chosen.all:
            return f"found: the process list is empty ({target.symbol_status})"
        if self.chosen.session is not None:
            also = " and like that" if self.chosen.names or self.chosen.addresses or self.chosen.pids else ""
            return f"is in session {self.chosen.session:x}{also}"
        return "found: none is like that"
