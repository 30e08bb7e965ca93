"""What the searches for evidence share: the threads, their names and stacks, who waits for whom, what is pending.

Everything is read when it is first asked for, and once.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from volatility3_kdump.analysis.hang.evidence import Suspicion
from volatility3_kdump.analysis.vendors import vendor_of
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.findings.pending_requests import PendingRequest, PendingRequests
from volatility3_kdump.findings.waits import WaitGraph, find_waits
from volatility3_kdump.images.modules import Module
from volatility3_kdump.images.version_resource import module_version
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.listing.threads import ThreadNamer, every_thread
from volatility3_kdump.windows.machine.clock import clock_increment
from volatility3_kdump.windows.machine.dpcs import read_dpc_queues
from volatility3_kdump.windows.machine.work_queues import WorkQueue, read_work_queues
from volatility3_kdump.windows.processes.ready import ProcessorState, processor_states
from volatility3_kdump.windows.processes.threads import WAITING, Thread, read_thread
from volatility3_kdump.windows.stacks.frames import Frame, NoStack, Stack
from volatility3_kdump.windows.stacks.starts import processor_start, thread_start
from volatility3_kdump.windows.stacks.walker import walker
from volatility3_kdump.windows.structures import require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: Stacks of a hang are told apart by their upper frames.
_MOST_FRAMES = 48
SMALL_DUMP = "a small memory dump holds one thread and its stack"


class Observed:
    """The machine as the searches see it."""

    def __init__(self, target: Target, progress: Progress | None = None) -> None:
        self.target = target
        self.progress = progress
        self._stacks: dict[int, Stack] = {}
        self._third_party: dict[int, bool] = {}
        self._namer = ThreadNamer(target)

    @property
    def small(self) -> bool:
        """Whether the dump is a small memory dump."""
        return self.target.dump.triage is not None

    def require(self, what: str, *needed: str) -> None:
        """Raise a :class:`KdumpError` that says why there can be no evidence of a kind."""
        if self.small:
            raise KdumpError(SMALL_DUMP)
        require_symbols(self.target, what, "_ETHREAD", *needed, names=True)

    # threads ----------------------------------------------------------------------------------------------------------

    @functools.cached_property
    def threads(self) -> dict[int, Thread]:
        """Every thread by its ETHREAD."""
        return {thread.address: thread for thread in every_thread(self.target, None, self.progress)}

    def thread(self, address: int) -> Thread:
        """The thread at an ETHREAD, in a list or not."""
        return self.threads.get(address) or read_thread(self.target, address)

    def title(self, address: int) -> str:
        """``notepad.exe 1e90.1e94``."""
        listed = self._namer.at(address)
        thread = listed.thread
        if thread.pid is None or thread.tid is None:
            return f"thread {address:x}"
        return f"{listed.image or '?'} {thread.pid:x}.{thread.tid:x}"

    @functools.cached_property
    def states(self) -> list[ProcessorState]:
        """What every processor does."""
        return processor_states(self.target)

    def of_ticks(self, ticks: int | None) -> int | None:
        """Clock ticks in 100 ns."""
        increment = clock_increment(self.target)
        return None if ticks is None or increment is None else ticks * increment

    @functools.cached_property
    def interrupting(self) -> dict[int, Module]:
        """The third party's driver whose DPC runs on a thread's processor, by the thread: stacks need not show it."""
        drivers = {}
        current = {state.number: state.current for state in self.states if state.dpc_active and state.current}
        for queue in read_dpc_queues(self.target) if current else ():
            thread = current.get(queue.processor)
            routine = queue.active.routine if queue.active is not None else None
            module = self.target.names.module_of(routine) if routine else None
            if thread is not None and module is not None and self.is_third_party(module):
                drivers[thread] = module
        return drivers

    # stacks -----------------------------------------------------------------------------------------------------------

    def stack(self, address: int) -> Stack:
        """The stack of a thread, walked once; an empty one says why there is none."""
        if address not in self._stacks:
            try:
                # What holds a thread up lies in the kernel.
                start = dataclasses.replace(thread_start(self.target, address), process=None)
                self._stacks[address] = walker(self.target).walk(start, _MOST_FRAMES)
            except NoStack as error:
                self._stacks[address] = Stack((), str(error), False)
        return self._stacks[address]

    def processor_stack(self, number: int) -> Stack:
        """What a processor ran."""
        try:
            return walker(self.target).walk(processor_start(self.target, number), _MOST_FRAMES)
        except NoStack as error:
            return Stack((), str(error), False)

    def stacks_of_waiting(self) -> Iterator[tuple[Thread, Stack]]:
        """The stacks of all threads that wait."""
        waiting = [thread for thread in self.threads.values() if thread.state == WAITING]
        for index, thread in enumerate(waiting):
            if self.progress is not None and index % 64 == 0:
                self.progress(100 * index / len(waiting), "Walking stacks")
            yield thread, self.stack(thread.address)

    # drivers ----------------------------------------------------------------------------------------------------------

    def is_third_party(self, module: Module) -> bool:
        """Whether a module is not Microsoft's, by its resource or the shipped list."""
        if module.base not in self._third_party:
            version = module_version(self.target.images.image_of(module))
            company = version.strings.get("CompanyName") if version is not None else None
            self._third_party[module.base] = vendor_of(module.name, company).third_party
        return self._third_party[module.base]

    def driver_on(self, frames: Iterable[Frame]) -> Module | None:
        """The third party's driver that is nearest the top of a stack."""
        for frame in frames:
            if not self.target.is_kernel_address(frame.ip):
                return None
            module = self.target.names.module_of(frame.ip)
            if module is not None and self.is_third_party(module):
                return module
        return None

    def suspect_driver(self, module: Module, why: str, weight: int, thread: int | None = None) -> Suspicion:
        """A suspicion of a driver."""
        return Suspicion(f"the driver {module.image_name}", module.base, why, weight, module.image_name, thread)

    def suspect_thread(self, thread: int, why: str, weight: int) -> Suspicion:
        """A suspicion of a thread: of the third party's driver on its stack, where there is one, else of itself."""
        driver = self.driver_on(self.stack(thread).frames)
        if driver is not None:
            return self.suspect_driver(driver, f"{why}; the driver is on the thread's stack", weight, thread)
        driver = self.interrupting.get(thread)
        if driver is not None:
            return self.suspect_driver(driver, f"{why}; a DPC of the driver runs on that processor", weight, thread)
        return Suspicion(f"the thread {self.title(thread)}", thread, why, weight, None, thread)

    # what is shared ---------------------------------------------------------------------------------------------------

    @functools.cached_property
    def graph(self) -> WaitGraph:
        """Who waits for whom."""
        return find_waits(self.target, self.threads.values())

    @functools.cached_property
    def pending(self) -> PendingRequests:
        """The requests of all threads."""
        return PendingRequests(self.target, self.progress)

    def requests_of(self, thread: int) -> list[PendingRequest]:
        """The requests that a thread has under way."""
        return [request for request in self.pending.requests if request.thread.thread.address == thread]

    @functools.cached_property
    def queues(self) -> list[WorkQueue]:
        """The executive's work queues. Raises a :class:`KdumpError` where they cannot be read."""
        return read_work_queues(self.target)

    def holder_module(self, request: PendingRequest) -> Module | None:
        """The module of the driver that has a request now."""
        view = request.view
        current = view.irp.current if view is not None else None
        if view is None or current is None:
            return None
        for location in view.locations:
            if location.location.address == current.address and location.device is not None:
                driver = location.device.driver
                return driver.module if driver is not None else None
        return None
