"""The queues of the executive's worker threads: what waits in them, and the threads that serve them.

Where a kernel keeps them has changed three times: ``nt!ExWorkerQueue``, an array with a queue for each WORK_QUEUE_TYPE
(Windows 7); arrays in the _ENODE of each NUMA node (Windows 8, and with queues by priority Windows 8.1 to 10 1507);
``_EX_PARTITION.WorkQueues`` of ``nt!PspSystemPartition``, by node and _EXQUEUEINDEX (Windows 10 1511 and later).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.layout import Layouts
from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: WORK_QUEUE_TYPE of ``wdm.h``, in whose order the queues of Windows 7 and 8 lie.
_TYPES = ("Critical", "Delayed", "HyperCritical", "Normal", "Background", "RealTime", "SuperCritical")
_WINDOWS_7_QUEUES = 3
_PRIORITIES = 32
_MOST_NODES, _MOST_INDEXES = 64, 8
_MOST_ITEMS, _MOST_THREADS = 0x10000, 0x10000
#: Windows counts nodes in 16 bits.
_COUNT_SIZE = 2


@dataclass(frozen=True)
class WorkItem:
    """A WORK_QUEUE_ITEM: its routine and parameter (``None``: not in the dump), the priority at which it waits, and the
    name of its routine.

    ``priority`` is ``None`` in queues without priorities (Windows 7 and 8).
    """

    address: int
    routine: int | None
    parameter: int | None
    priority: int | None
    symbol: str | None


@dataclass(frozen=True)
class WorkQueue:
    """One queue. ``name`` is ``Critical`` and the like, or that of its _EXQUEUEINDEX (``ExPoolUntrusted``).

    ``threads`` are the ETHREADs that serve it; ``thread_count`` is how many the kernel counts, ``most_threads`` how
    many it may have, ``running`` how many of them run, ``concurrency`` how many shall at once. ``processed`` counts the
    items since the start. ``None`` is not in the dump, or not in this kernel. ``problems`` say where its lists are
    torn.
    """

    address: int
    node: int
    name: str
    threads: tuple[int, ...]
    items: tuple[WorkItem, ...]
    thread_count: int | None
    most_threads: int | None
    running: int | None
    concurrency: int | None
    processed: int | None
    problems: tuple[str, ...]

    def serves(self, address: int) -> bool:
        """Whether an object that a thread waits for is this queue: then the thread is idle."""
        return address == self.address


def read_work_queues(target: Target) -> list[WorkQueue]:
    """Every queue that the dump holds. Raises :class:`SymbolsNotFound` without the kernel's symbols."""
    nt = require_symbols(target, "work queues", "_EX_WORK_QUEUE", names=True)
    reader = _QueueReader(target, nt)
    return [reader.read(address, node, name) for node, name, address in _located(target, nt)]


def _located(target: Target, nt: Layouts) -> Iterator[tuple[int, str, int]]:
    """(NUMA node, name, address) of each queue."""
    seen: set[int] = set()
    for node, name, address in _places(target, nt):
        if address and address not in seen and target.is_kernel_address(address):
            seen.add(address)
            yield node, name, address


def _places(target: Target, nt: Layouts) -> Iterator[tuple[int, str, int | None]]:
    memory, width = target.memory, target.memory.pointer_size
    indexes = nt.enum("_EXQUEUEINDEX")
    named = [indexes.get(index, f"queue {index}") for index in range(max([2, *indexes]) if indexes else 0)]
    if nt.has("_EX_PARTITION", "WorkQueues") and nt.has("_EPARTITION", "ExPartition"):
        partition = _pointer(target, target.symbol("PspSystemPartition"))
        executive = _pointer(target, partition, nt.offset("_EPARTITION", "ExPartition"))
        table = _pointer(target, executive, nt.offset("_EX_PARTITION", "WorkQueues"))
        for node in range(_nodes(target)) if table is not None else ():
            queues = _pointer(target, table, node * width)
            for index, name in enumerate(named):
                yield node, name, _pointer(target, queues, index * width)
        return
    if nt.has("_ENODE", "ExWorkQueues"):
        offset = nt.offset("_ENODE", "ExWorkQueues")
        for node, address in _node_blocks(target):
            for index, name in enumerate(named[:_MOST_INDEXES]):
                yield node, name, _pointer(target, address, offset + index * width)
        return
    size = nt.size_of("_EX_WORK_QUEUE")
    if nt.has("_ENODE", "ExWorkerQueues"):
        for node, address in _node_blocks(target):
            for index, name in enumerate(_TYPES):
                yield node, name, address + nt.offset("_ENODE", "ExWorkerQueues") + index * size
        return
    base = target.symbol("ExWorkerQueue")
    if base is not None and memory.read(base, size) is not None:
        for index, name in enumerate(_TYPES[:_WINDOWS_7_QUEUES]):
            yield 0, name, base + index * size


def _nodes(target: Target) -> int:
    """The number of NUMA nodes, 1 where it is not in the dump."""
    at = target.symbol("KeNumberNodes")
    count = target.memory.unsigned(at, _COUNT_SIZE) if at is not None else None
    return min(max(count or 1, 1), _MOST_NODES)


def _node_blocks(target: Target) -> Iterator[tuple[int, int]]:
    """(number, _ENODE) of each NUMA node."""
    for node in range(_nodes(target)):
        address = _pointer(target, target.symbol("KeNodeBlock"), node * target.memory.pointer_size)
        if address is not None:
            yield node, address


def _pointer(target: Target, base: int | None, offset: int = 0) -> int | None:
    value = target.memory.pointer(base + offset) if base is not None else None
    return value if value and target.is_kernel_address(value) else None


class _QueueReader:
    def __init__(self, target: Target, nt: Layouts) -> None:
        self._target = target
        self._by_priority = nt.has("_EX_WORK_QUEUE", "WorkPriQueue")
        queue = "WorkPriQueue" if self._by_priority else "WorkerQueue"
        self._reader = nt.reader(
            "_EX_WORK_QUEUE",
            # Windows 7 has only the count of those that were added for a while.
            count="ThreadCount",
            most="MaxThreads",
            concurrency=f"{queue}.MaximumCount",
            processed="WorkItemsProcessed",
        )
        self._running = nt.find("_EX_WORK_QUEUE", f"{queue}.CurrentCount")
        self._items = nt.offset("_EX_WORK_QUEUE", f"{queue}.EntryListHead")
        self._threads = nt.offset("_EX_WORK_QUEUE", f"{queue}.ThreadListHead")
        self._thread_link = nt.offset("_KTHREAD", "QueueListEntry")
        self._item = nt.reader("_WORK_QUEUE_ITEM", routine="WorkerRoutine", parameter="Parameter")
        self._link = nt.offset("_WORK_QUEUE_ITEM", "List")

    def read(self, address: int, node: int, name: str) -> WorkQueue:
        memory, problems = self._target.memory, list[str]()
        row: Any = read_row(memory, self._reader, address)
        what = f"the {name} queue of node {node}"
        threads = walk_list(memory, address + self._threads, _MOST_THREADS, f"{what}, threads")
        problems += threads.problems
        return WorkQueue(
            address,
            node,
            name,
            tuple(entry - self._thread_link for entry in threads.entries),
            tuple(self._waiting(address, what, problems)),
            _signed(getattr(row, "count", None)),
            _signed(getattr(row, "most", None)),
            self._sum(address),
            getattr(row, "concurrency", None),
            getattr(row, "processed", None),
            tuple(problems),
        )

    def _waiting(self, queue: int, what: str, problems: list[str]) -> Iterator[WorkItem]:
        """The items, those that are taken first first."""
        memory, step = self._target.memory, 2 * self._target.memory.pointer_size
        left = _MOST_ITEMS
        for priority in reversed(range(_PRIORITIES)) if self._by_priority else (None,):
            head = queue + self._items + (priority or 0) * step
            walk = walk_list(memory, head, max(left, 1), f"{what}, items")
            problems += walk.problems
            left -= len(walk.entries)
            for entry in walk.entries:
                row: Any = read_row(memory, self._item, entry - self._link)
                routine = getattr(row, "routine", None)
                symbol = self._target.name_of(routine) if routine else None
                yield WorkItem(entry - self._link, routine, getattr(row, "parameter", None), priority, symbol)

    def _sum(self, queue: int) -> int | None:
        """CurrentCount, which queues by priority have for each of them."""
        if self._running is None:
            return None
        data = self._target.memory.read(queue + self._running.offset, self._running.size)
        if data is None:
            return None
        return sum(int.from_bytes(data[start : start + 4], "little") for start in range(0, len(data), 4))


def _signed(value: int | None) -> int | None:
    """A LONG of which no negative value makes sense."""
    return None if value is None or value & 0x80000000 else value
