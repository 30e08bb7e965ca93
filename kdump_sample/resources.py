"""Executive resources (ERESOURCE) with owners and waiters, laid out as each generation of kernels does."""

from __future__ import annotations

from collections.abc import Sequence

from kdump_sample.code import Allocate, Call, Function, pushes
from kdump_sample.objects import EVENT, SEMAPHORE
from kdump_sample.processes import Processes
from kdump_sample.scene import Resource
from kdump_sample.stacks import Frame
from kdump_sample.workspace import Workspace

_SAVED = pushes("rbx", "rbp", "rsi", "rdi", "r12", "r14", "r15")

#: The functions of a wait for a resource, which the kernel of a scene with such waits needs.
WAIT_FUNCTIONS = (
    Function("ExpWaitForResource", (*_SAVED, Allocate(0x100)), (Call(0x90, "KeWaitForSingleObject"),)),
    Function("ExAcquireResourceExclusiveLite", (*_SAVED, Allocate(0x60)), (Call(0xA8, "ExpWaitForResource"),)),
    Function("ExAcquireResourceSharedLite", (*_SAVED, Allocate(0x60)), (Call(0xB4, "ExpWaitForResource"),)),
)
#: The frames of a thread that waits for a resource, from where it asks for it.
WAIT_FRAMES = tuple(
    Frame(name)
    for name in (
        "ExAcquireResourceExclusiveLite",
        "ExpWaitForResource",
        "KeWaitForSingleObject",
        "KiCommitThreadWait",
        "KiSwapThread",
        "KiSwapContext",
        "SwapContext",
    )
)
SHARED_WAIT_FRAMES = (Frame("ExAcquireResourceSharedLite"), *WAIT_FRAMES[1:])

#: Where the KWAIT_CHAIN_ENTRY of a wait lies in the frame of ExpWaitForResource.
_CHAIN_ENTRY = 0x60
_OWNED_EXCLUSIVE = 0x80
_LIMIT = 0x7FFFFFFF


def write_resources(work: Workspace, processes: Processes) -> None:
    """The resources of a scene, in the list of the system."""
    head = work.symbol("ExpSystemResourcesList")
    link = work.layouts.offset("_ERESOURCE", "SystemResourcesList")
    made = []
    for resource in work.scene.resources:
        address = work.symbol(resource.symbol) if resource.symbol else resource.address
        if address is None or (resource.fast and not work.layouts.has_type("_FAST_ERESOURCE")):
            continue
        made.append(address + link)
        _write(work, processes, resource, address)
    if head is not None and made:
        work.structures.link(head, made)


def _write(work: Workspace, processes: Processes, resource: Resource, address: int) -> None:
    made = work.structure(
        "_ERESOURCE",
        address,
        {
            "OwnerTable": 0,
            "ActiveCount": int(bool(resource.owners)),
            "Flag": _OWNED_EXCLUSIVE if resource.exclusive else 0,
            "SharedWaiters": _wait(work, processes, resource.shared_waiters, shared=True),
            "ExclusiveWaiters": _wait(work, processes, resource.exclusive_waiters, shared=False),
            "OwnerEntry.OwnerThread": 0,
            "OwnerEntry.TableSize": 0,
            "ActiveEntries": len(resource.owners),
            "ContentionCount": resource.contention,
            "NumberOfSharedWaiters": len(resource.shared_waiters),
            "NumberOfExclusiveWaiters": len(resource.exclusive_waiters),
            "SpinLock": 0,
        },
    )
    if resource.fast:
        place = made.place("OwnerEntry")
        assert place is not None
        # an entry in the owner's own memory: the list alone is laid out
        work.structures.link(place, [work.pool("nonpaged", 0x50) for _ in resource.owners])
        return
    if resource.owners:
        thread, count = resource.owners[0]
        made.fill({"OwnerEntry.OwnerThread": thread, "OwnerEntry.OwnerCount": count})
    if len(resource.owners) > 1:
        made.set("OwnerTable", _owner_table(work, resource.owners[1:]))


def _owner_table(work: Workspace, owners: Sequence[tuple[int, int]]) -> int:
    """A table of owners with a free entry between them; the first holds the size of the table."""
    size = work.layouts.size_of("_OWNER_ENTRY")
    number = len(owners) + 2
    table = work.pool("nonpaged", number * size)
    work.memory.write(table, bytes(number * size))
    work.structure("_OWNER_ENTRY", table, {"TableSize": number})
    for index, (thread, count) in zip((1, *range(3, number)), owners, strict=True):
        work.structure("_OWNER_ENTRY", table + index * size, {"OwnerThread": thread, "OwnerCount": count})
    return table


def _wait(work: Workspace, processes: Processes, threads: Sequence[int], shared: bool) -> int:
    """Let threads wait; returns what the resource names: an object that they wait for, or the first of their entries.

    Chains of entries that name their threads since Windows 10 1803 at the latest; before, in Windows 10 1607, chains of
    entries with events for shared waits alone.
    """
    if not threads:
        return 0
    named = work.layouts.has("_KWAIT_CHAIN_ENTRY", "Thread")
    field = work.layouts.find("_ERESOURCE", "SharedWaiters")
    chained = named or (shared and field is not None and field.kind != "pointer")
    if not chained:
        return _object(work, threads, shared)
    entries = [_frame(processes, thread) + _CHAIN_ENTRY for thread in threads]
    for thread, entry in zip(threads, entries, strict=True):
        made = work.structure("_KWAIT_CHAIN_ENTRY", entry, {"Thread": thread})
        event = made.place("Event")
        assert event is not None
        work.structure("_KEVENT", event, {"Header.Type": EVENT, "Header.Size": 6, "Header.SignalState": 0})
        _block(work, thread, event)
        work.structures.link(
            event + work.layouts.offset("_DISPATCHER_HEADER", "WaitListHead"), [_block_of(work, thread)]
        )
    if named:
        work.structures.link(entries[0], entries[1:])
    else:
        for entry, following in zip(entries, [*entries[1:], 0], strict=True):
            work.structure("_KWAIT_CHAIN_ENTRY", entry, {"ListEntry.Next": following})
    return entries[0]


def _object(work: Workspace, threads: Sequence[int], shared: bool) -> int:
    """The semaphore of shared waiters or the event of exclusive ones, with its waiters."""
    type_name, kind = ("_KSEMAPHORE", SEMAPHORE) if shared else ("_KEVENT", EVENT)
    size = work.structures.size(type_name)
    address = work.pool("nonpaged", size)
    made = work.structure(
        type_name, address, {"Header.Type": kind, "Header.Size": size // 4, "Header.SignalState": 0, "Limit": _LIMIT}
    )
    for thread in threads:
        _block(work, thread, address)
    head = made.place("Header.WaitListHead")
    assert head is not None
    work.structures.link(head, [_block_of(work, thread) for thread in threads])
    return address


def _block_of(work: Workspace, thread: int) -> int:
    place = work.structures.at("_ETHREAD", thread).place("Tcb.WaitBlock[0]")
    assert place is not None
    return place


def _block(work: Workspace, thread: int, awaited: int) -> None:
    """The wait block of a thread that waits for one object."""
    block = _block_of(work, thread)
    work.structure(
        "_KWAIT_BLOCK",
        block,
        {
            "WaitType": 1,
            "BlockState": 4,
            "WaitKey": 0,
            "Thread": thread,
            "Object": awaited,
            # Windows 7: the blocks are a ring
            "NextWaitBlock": block,
        },
    )
    work.structure("_ETHREAD", thread, {"Tcb.WaitBlockList": block, "Tcb.WaitBlockCount": 1})


def _frame(processes: Processes, thread: int) -> int:
    """Child-SP of ExpWaitForResource on a thread's stack."""
    return next(placed.child_sp for placed in processes.frames[thread] if placed.frame.function == "ExpWaitForResource")
