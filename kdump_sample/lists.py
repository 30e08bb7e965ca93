"""The lists and tables in which a kernel keeps processes and threads beside PsActiveProcessHead, and ready queues."""

from __future__ import annotations

from kdump_sample.physical import PAGE
from kdump_sample.processors import Processors
from kdump_sample.scene import Process, Scene
from kdump_sample.workspace import Workspace

_READY, _STANDBY = 1, 3
_PRIORITIES = 32
_ENTRY_SIZE = 16
_ENTRIES = PAGE // _ENTRY_SIZE
_UNLOCKED = 1
_KERNEL_HALF = 0xFFFF000000000000


def write_lists(work: Workspace, processors: Processors) -> None:
    """Ids, handle tables, sessions and ready queues of a scene's processes and threads."""
    _id_table(work)
    _handle_tables(work)
    _sessions(work)
    _idle_process(work, processors)
    for process in work.scene.processes:
        for thread in process.threads:
            work.structure("_ETHREAD", thread.address, {"Tcb.EnableStackSwap": 1})
    for number, block in enumerate(processors.blocks):
        _ready_queues(work, number, block)


def _id_table(work: Workspace) -> None:
    """PspCidTable: a handle table of one or two levels whose objects are processes and threads by their ids."""
    objects = {}
    for process in work.scene.processes:
        if "ids" not in process.hidden_from:
            objects[process.pid] = process.address
        objects.update({thread.tid: thread.address for thread in process.threads})
    leaves: dict[int, bytearray] = {}
    modern = work.layouts.has("_HANDLE_TABLE_ENTRY", "ObjectPointerBits")
    for handle, address in objects.items():
        number, index = divmod(handle // 4, _ENTRIES)
        # since Windows 8: bits 4 to 47 of the address from bit 20 on, a reference count, and a lock bit that is set
        value = (address & ~_KERNEL_HALF) >> 4 << 20 | _UNLOCKED if modern else address | _UNLOCKED
        leaf = leaves.setdefault(number, bytearray(PAGE))
        leaf[index * _ENTRY_SIZE : index * _ENTRY_SIZE + 8] = value.to_bytes(8, "little")
    top = bytearray(PAGE)
    for number, leaf in leaves.items():
        address = _page(work)
        work.memory.write(address, leaf)
        top[number * 8 : number * 8 + 8] = address.to_bytes(8, "little")
    root = _page(work)
    work.memory.write(root, top)
    table = work.pool("paged", work.structures.size("_HANDLE_TABLE", 0x80), "Obtb")
    work.structure(
        "_HANDLE_TABLE",
        table,
        {
            "TableCode": root | 1,
            "NextHandleNeedingPool": (max(leaves) + 1) * _ENTRIES * 4,
            ("FreeLists[0].HandleCount", "HandleCount"): len(objects),
        },
    )
    work.variable("PspCidTable", table)


def _page(work: Workspace) -> int:
    """A page of paged pool of its own."""
    return work.pool("paged", PAGE, "Obtb")


def _handle_tables(work: Workspace) -> None:
    """Every handle table is in one list. The free lists of a table each count a part of its handles."""
    head, link = work.symbol("HandleTableListHead"), work.layouts.find("_HANDLE_TABLE", "HandleTableList")
    tables = [
        process.handle_table
        for process in work.scene.processes
        if process.handle_table and "handles" not in process.hidden_from
    ]
    if head is not None and link is not None:
        work.structures.link(head, [table + link.offset for table in tables])
    if work.symbol("ExpFreeListCount") is None:
        return
    count = len(work.scene.processors)
    work.variable("ExpFreeListCount", count, 4)
    field = work.layouts.offset("_HANDLE_TABLE", "FreeLists")
    stride = work.layouts.size_of("_HANDLE_TABLE_FREE_LIST")
    for process in work.scene.processes:
        for index in range(count) if process.handle_table else ():
            share = process.handles // count + (index < process.handles % count)
            address = process.handle_table + field + index * stride
            work.structure("_HANDLE_TABLE_FREE_LIST", address, {"HandleCount": share})


def _sessions(work: Workspace) -> None:
    """The processes of each session, from its structure on."""
    link = work.layouts.find("_EPROCESS", "SessionProcessLinks")
    type_name = next((name for name in ("_PSP_SESSION_SPACE", "_MM_SESSION_SPACE") if work.layouts.has_type(name)), "")
    head = work.layouts.find(type_name, "ProcessList") if type_name else None
    if link is None or head is None:
        return
    members: dict[int, list[Process]] = {}
    for process in work.scene.processes:
        if process.session is not None:
            members.setdefault(process.session, []).append(process)
    for session, sharing in members.items():
        entries = [process.address + link.offset for process in sharing if "session" not in process.hidden_from]
        work.structures.link(session_space(work.scene, session) + head.offset, entries)


def _idle_process(work: Workspace, processors: Processors) -> None:
    """The idle process, in no list, and its threads: one for each processor."""
    process = work.symbol("KiInitialProcess")
    head, entry = work.layouts.find("_EPROCESS", "ThreadListHead"), work.layouts.find("_ETHREAD", "ThreadListEntry")
    if process is None or head is None or entry is None:
        return
    threads = processors.idle_threads
    work.structure("_EPROCESS", process, {"ActiveThreads": len(threads)})
    work.structures.link(process + head.offset, [thread + entry.offset for thread in threads])
    for thread in threads:
        work.empty_list(work.structures.at("_ETHREAD", thread).place("IrpList"))


def session_space(scene: Scene, number: int) -> int:
    """Where a session's structure lies."""
    return scene.session_space + 0x6000 * number


def _ready_queues(work: Workspace, number: int, block: int) -> None:
    """The ready threads of a processor by priority, and the one that it is to run next."""
    made = work.structures.at("_KPRCB", block)
    link = work.layouts.offset("_KTHREAD", "WaitListEntry")
    queues: dict[int, list[int]] = {}
    for process in work.scene.processes:
        for thread in process.threads:
            if thread.processor != number:
                continue
            if thread.state == _READY:
                queues.setdefault(thread.priority, []).append(thread.address + link)
            elif thread.state == _STANDBY:
                made.set("NextThread", thread.address)
    made.set("ReadySummary", sum(1 << priority for priority in queues))
    for priority in range(_PRIORITIES):
        head = made.place(f"DispatcherReadyListHead[{priority}]")
        if head is not None:
            work.structures.link(head, queues.get(priority, ()))
    own = work.layouts.find("_KPRCB", "LocalSharedReadyQueue")
    if own is None:
        return
    local = block + own.offset
    shared = work.structures.at("_KSHARED_READY_QUEUE", local)
    shared.fill({"Affinity": 1 << number, "ProcCount": 1, "LowProcIndex": number, "QueueIndex": number})
    for priority in range(_PRIORITIES):
        work.empty_list(shared.place(f"ReadyListHead[{priority}]"))
    made.set("SharedReadyQueue", local)
