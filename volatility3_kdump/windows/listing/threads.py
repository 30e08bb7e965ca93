"""Which threads are asked for, and what is said of a thread beside its own fields: its process, names, its stack."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.processes import process_lists, processes
from volatility3_kdump.windows.processes.crashed import crash_thread
from volatility3_kdump.windows.processes.processes import Process
from volatility3_kdump.windows.processes.threads import Thread, read_thread, thread_reader
from volatility3_kdump.windows.stacks.frames import Stack
from volatility3_kdump.windows.stacks.starts import thread_start
from volatility3_kdump.windows.stacks.walker import walker
from volatility3_kdump.windows.user.code import user_code

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


_IDLE = "Idle"


def stack_of(target: Target, thread: int) -> Stack:
    """The stack of the thread at an ETHREAD; an empty one says why there is none."""
    return walker(target).walk_from(thread_start, thread)


class ListedThread:
    """A thread with its names. What is not among its own fields is read when it is first asked for."""

    def __init__(self, target: Target, thread: Thread, owner: Process | None = None) -> None:
        """``owner`` is its process, where that is known already."""
        self._target = target
        self.thread = thread
        self._owner = owner

    @property
    def process(self) -> int | None:
        """The EPROCESS that owns it; without the kernel's symbols the one that it is attached to."""
        return self.thread.owner or self.thread.process

    @property
    def pid(self) -> int | None:
        """Its process's id."""
        return self.thread.pid

    @property
    def pointer_size(self) -> int:
        """The bytes of a pointer of the target."""
        return self._target.memory.pointer_size

    @functools.cached_property
    def owner(self) -> Process | None:
        """Its process, ``None`` where the thread does not name one."""
        if self._owner is not None:
            return self._owner
        address = self.process
        if not address or not self._target.is_kernel_address(address):
            return None
        return processes.read_process(self._target, address)

    @property
    def image(self) -> str | None:
        """The name of its process.

        That of id 0 is the idle process, a variable of the kernel, which small memory dumps do not copy. Its name is
        the debugger's: ``Owning Process fffff8071ed3ca00 Image: Idle``.
        """
        if self.owner is None:
            return None
        if self.owner.name is None and self.pid == 0 == self.thread.tid and self._in_kernel(self.owner.address):
            return _IDLE
        return self.owner.name

    @functools.cached_property
    def start_symbol(self) -> str | None:
        """The name of its start address, where that lies in a module."""
        return self._name_of(self.thread.start_address)

    @functools.cached_property
    def win32_start_symbol(self) -> str | None:
        """The name of the start address of its user-mode code, where that lies in a module."""
        address = self.thread.win32_start_address
        if address and self.process and not self._target.is_kernel_address(address):
            code = user_code(self._target, self.process)
            name = code.name_at(address, False) if not isinstance(code, str) else None
            return None if name is None else str(name)
        return self._name_of(address)

    @functools.cached_property
    def attached_name(self) -> str | None:
        """The name of the process that it is attached to."""
        reader = thread_reader(self._target)
        if reader is None or not self.thread.attached:
            return None
        return reader.process_name(self.thread.attached)[1]

    @property
    def stack(self) -> Stack:
        """Its stack, walked each time; an empty one says why there is none."""
        return stack_of(self._target, self.thread.address)

    def _in_kernel(self, address: int) -> bool:
        kernel, module = self._target.kernel, self._target.names.module_of(address)
        return kernel is not None and module is not None and module.base == kernel.base

    def _name_of(self, address: int | None) -> str | None:
        return self._target.name_of(address) if address else None


class ThreadNamer:
    """Makes :class:`ListedThread`; the processes that own threads are read once."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._owners: dict[int, Process] = {}
        self._threads: dict[int, ListedThread] = {}

    def named(self, thread: Thread) -> ListedThread:
        """A thread with its names."""
        owner = thread.owner or thread.process
        if not owner or not self._target.is_kernel_address(owner):
            return ListedThread(self._target, thread)
        if owner not in self._owners:
            self._owners[owner] = processes.read_process(self._target, owner)
        return ListedThread(self._target, thread, self._owners[owner])

    def at(self, address: int) -> ListedThread:
        """The thread at an ETHREAD address, read once."""
        if address not in self._threads:
            self._threads[address] = self.named(read_thread(self._target, address))
        return self._threads[address]


class ThreadChoice:
    """Which threads are asked for: those that fit everything that is given; by default the crashing one."""

    def __init__(
        self,
        addresses: Sequence[int] = (),
        tids: Sequence[int] = (),
        pids: Sequence[int] = (),
        states: Sequence[str] = (),
        processors: Sequence[int] = (),
        everything: bool = False,
    ) -> None:
        self.addresses = list(addresses)
        self.tids = set(tids)
        self.pids = set(pids)
        self.states = {state.lower() for state in states}
        self.processors = set(processors)
        self.everything = everything

    def find(self, target: Target, progress: Progress | None = None) -> list[ListedThread]:
        """The threads. Raises :class:`KdumpError` when there are none."""
        namer = ThreadNamer(target)
        if self.addresses:
            threads = [namer.at(address) for address in self.addresses]
        elif self.everything or self.chosen:
            listed = every_thread(target, self.pids, progress)
            threads = [namer.named(thread) for thread in listed if self.fits(thread)]
        else:
            crashed = crash_thread(target)
            threads = [] if crashed is None else [namer.named(crashed)]
        if not threads:
            raise KdumpError(f"{target.name}: no thread found: {self._why_none(target)}")
        return threads

    @property
    def chosen(self) -> bool:
        """Whether particular threads are asked for."""
        return bool(self.addresses or self.tids or self.pids or self.states or self.processors)

    def fits(self, thread: Thread) -> bool:
        """Whether a thread is asked for."""
        return (
            (not self.addresses or thread.address in self.addresses)
            and (not self.tids or thread.tid in self.tids)
            and (not self.pids or thread.pid in self.pids)
            and (not self.states or (thread.state_name or "").lower() in self.states)
            and (not self.processors or thread.processor in self.processors)
        )

    def _why_none(self, target: Target) -> str:
        if target.dump.triage is not None:
            return "a small memory dump holds the thread that crashed, and no others"
        if target.nt is None:
            return f"the thread lists need the kernel's symbols ({target.symbol_status})"
        if self.chosen:
            return "none is like that"
        return "the dump does not say which thread crashed"


def every_thread(
    target: Target, pids: set[int] | None = None, progress: Progress | None = None, what: str = "Reading threads"
) -> Iterator[Thread]:
    """The threads of the processes of these ids, or of all processes; ``what`` is said to be done meanwhile."""
    addresses = process_lists.process_addresses(target)
    crashed = crash_thread(target)
    if not addresses and crashed is not None:
        yield crashed
    seen: set[int] = set()
    for index, process in enumerate(addresses):
        if progress is not None:
            progress(100 * index / len(addresses), what)
        if pids and processes.read_process(target, process).pid not in pids:
            continue
        for thread in process_lists.thread_addresses(target, process):
            if thread not in seen:
                seen.add(thread)
                yield read_thread(target, thread)
