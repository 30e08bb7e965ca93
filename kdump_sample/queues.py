"""Executive work queues and timers, where each generation of kernels keeps them."""

from __future__ import annotations

from collections.abc import Sequence

from kdump_sample.processors import Processors
from kdump_sample.scene import Timer, WorkQueue
from kdump_sample.workspace import Workspace

_QUEUE, _TIMER = 4, 8
_PRIORITIES, _INDEXES = 32, 8
_LISTS = 256
_MASK = (1 << 64) - 1
#: What the kernel encodes the DPCs of timers with; any values will do.
_NEVER, _ALWAYS = 0x9D3C_51B7_66A0_E41B, 0x4F02_C8D1_7BB5_339A


def write_work_queues(work: Workspace) -> None:
    """The work queues of a scene, by number (Windows 7 and 8) or _EXQUEUEINDEX, all of node 0."""
    queues = work.scene.work_queues
    if not queues:
        return
    layouts = work.layouts
    work.variable("KeNumberNodes", 1, 2)
    if layouts.has("_EX_PARTITION", "WorkQueues"):
        partition = work.pool("nonpaged", work.structures.size("_EPARTITION"), "Part")
        executive = work.pool("nonpaged", work.structures.size("_EX_PARTITION"), "ExPa")
        nodes, indexes = work.pool("nonpaged", 8, "ExWq"), work.pool("nonpaged", 8 * _INDEXES, "ExWq")
        work.structure("_EPARTITION", partition, {"ExPartition": executive})
        work.structure("_EX_PARTITION", executive, {"PartitionObject": partition, "WorkQueues": nodes})
        addresses = [queue.address for queue in queues] + [0] * (_INDEXES - len(queues))
        work.memory.write(nodes, indexes.to_bytes(8, "little"))
        work.memory.write(indexes, b"".join(address.to_bytes(8, "little") for address in addresses))
        work.variable("PspSystemPartition", partition)
    elif layouts.has("_ENODE", "ExWorkQueues"):
        node = work.pool("nonpaged", work.structures.size("_ENODE"), "Node")
        work.zeroed("_ENODE", node)
        for index, queue in enumerate(queues):
            work.structure("_ENODE", node, {f"ExWorkQueues[{index}]": queue.address})
        work.variable("KeNodeBlock", (node,))
    for index, queue in enumerate(queues):
        base = work.symbol("ExWorkerQueue")
        by_priority = layouts.has("_EX_WORK_QUEUE", "WorkPriQueue")
        assert base is not None
        address = queue.address if by_priority else base + index * layouts.size_of("_EX_WORK_QUEUE")
        _write_queue(work, queue, address, "WorkPriQueue" if by_priority else "WorkerQueue")


def _write_queue(work: Workspace, queue: WorkQueue, address: int, kind: str) -> None:
    work.zeroed("_EX_WORK_QUEUE", address)
    made = work.structure(
        "_EX_WORK_QUEUE",
        address,
        {
            f"{kind}.Header.Type": _QUEUE,
            f"{kind}.MaximumCount": queue.concurrency,
            "ThreadCount": len((*queue.idle, *queue.busy)),
            "MaxThreads": queue.most,
            "WorkItemsProcessed": queue.processed,
        },
    )
    made.set(f"{kind}.CurrentCount[8]" if kind == "WorkPriQueue" else f"{kind}.CurrentCount", queue.running)
    link = work.layouts.offset("_KTHREAD", "QueueListEntry")
    threads = made.place(f"{kind}.ThreadListHead")
    assert threads is not None
    work.structures.link(threads, [thread + link for thread in (*queue.idle, *queue.busy)])
    for thread in queue.idle:
        block = work.structures.at("_ETHREAD", thread).place("Tcb.WaitBlock[0]")
        assert block is not None
        work.structure("_KWAIT_BLOCK", block, {"Object": address, "Thread": thread, "NextWaitBlock": block})
    work.empty_list(made.place(f"{kind}.Header.WaitListHead"))
    by_priority: dict[int, list[int]] = {}
    for priority, routine in queue.items:
        queued = work.pool("nonpaged", work.structures.size("_WORK_QUEUE_ITEM"), "Work")
        work.structure("_WORK_QUEUE_ITEM", queued, {"WorkerRoutine": routine, "Parameter": queued})
        by_priority.setdefault(priority if kind == "WorkPriQueue" else 0, []).append(queued)
    for priority in range(_PRIORITIES if kind == "WorkPriQueue" else 1):
        place = f"{kind}.EntryListHead[{priority}]" if kind == "WorkPriQueue" else f"{kind}.EntryListHead"
        head = made.place(place)
        assert head is not None
        work.structures.link(head, by_priority.get(priority, ()))


def write_timers(work: Workspace, processors: Processors) -> None:
    """The timers of a scene in the tables of their processors, whose other lists are empty."""
    timers = work.scene.timers
    if not timers:
        return
    work.variable("KiWaitNever", _NEVER)
    work.variable("KiWaitAlways", _ALWAYS)
    table = work.layouts.find("_KTIMER_TABLE", "TimerEntries")
    assert table is not None
    size = work.layouts.size_of("_KTIMER_TABLE_ENTRY")
    head = work.layouts.offset("_KTIMER_TABLE_ENTRY", "Entry")
    link = work.layouts.offset("_KTIMER", "TimerListEntry")
    for number, block in enumerate(processors.blocks):
        start = block + work.layouts.offset("_KPRCB", "TimerTable") + table.offset
        for index in range(table.size // size):
            chosen = [timer for timer in timers if timer.processor == number and timer.hand == index]
            work.structures.link(start + index * size + head, [timer.address + link for timer in chosen])
    for timer in timers:
        _write_timer(work, timer)


def _write_timer(work: Workspace, timer: Timer) -> None:
    made = work.structure(
        "_KTIMER",
        timer.address,
        {
            "Header.Type": _TIMER,
            "DueTime.QuadPart": work.scene.uptime + timer.due,
            "Period": timer.period,
            "Processor": timer.processor,
        },
    )
    dpc = 0
    if timer.routine:
        dpc = timer.address + work.structures.size("_KTIMER") + 0x10 & ~0xF
        work.structure("_KDPC", dpc, {"Type": 0x13, "DeferredRoutine": timer.routine})
    made.set("Dpc", _encoded(dpc, timer.address))
    waiters = made.place("Header.WaitListHead")
    assert waiters is not None
    blocks: Sequence[int] = ()
    if timer.thread:
        block = work.structures.at("_ETHREAD", timer.thread).place("Tcb.WaitBlock[3]")
        assert block is not None
        work.structure("_KWAIT_BLOCK", block, {"Thread": timer.thread, "Object": timer.address})
        blocks = (block,)
    work.structures.link(waiters, blocks)


def _encoded(dpc: int, timer: int) -> int:
    """KTIMER.Dpc of an address: what the kernel's decoding turns back."""
    value = int.from_bytes((dpc ^ _ALWAYS).to_bytes(8, "big"), "little") ^ timer
    turn = _NEVER & 0x3F
    value = (value >> turn | value << 64 - turn) & _MASK
    return value ^ _NEVER
