"""Threads as values: what ETHREAD, its KTHREAD, and the objects and requests that it waits for say.

:func:`read_thread` reads one thread with one access to its ETHREAD; wait objects and IRPs are read only where the
thread has some. Names of states, wait reasons and kinds of objects come from the enumerations of the kernel's own
symbols.

One file over 500 lines: the record of a thread with the source of each value, the paths of these fields and the reader
that fills the record in change together.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from volatility3_kdump.layout import FieldPath, Layouts
from volatility3_kdump.lists import walk_list
from volatility3_kdump.notebook import Shown
from volatility3_kdump.windows.machine.clock import clock_increment
from volatility3_kdump.windows.machine.shared_data import shared_data
from volatility3_kdump.windows.processes.processes import process_reader
from volatility3_kdump.windows.structures import field_offset, read_row

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

#: KTHREAD.State.
INITIALIZED, READY, RUNNING, STANDBY, TERMINATED, WAITING, TRANSITION, DEFERRED_READY = range(8)
#: DISPATCHER_HEADER.Type of objects that say more than their kind.
MUTANT, PROCESS, SEMAPHORE, THREAD = 2, 3, 5, 6

#: KTHREAD_STATE, where the symbols lack it (Windows 7); the values have not changed since.
_STATES = {
    0: "Initialized",
    1: "Ready",
    2: "Running",
    3: "Standby",
    4: "Terminated",
    5: "Waiting",
    6: "Transition",
    7: "DeferredReady",
    8: "GateWait",
}
#: What ends a wait for several objects: KWAIT_BLOCK.WaitType.
_WAIT_ALL = 0
_MOST_WAIT_BLOCKS = 65
_MOST_IRPS = 256
_LONGEST_NAME = 1024
#: SECURITY_IMPERSONATION_LEVEL.
IMPERSONATION_LEVELS = ("Anonymous", "Identification", "Impersonation", "Delegation")


class WaitObject(NamedTuple):
    """An object that a thread waits for.

    ``kind`` is DISPATCHER_HEADER.Type and ``kind_name`` its name in KOBJECTS; both are ``None`` where the object is not
    in the dump. ``owner`` is the thread that owns a mutant (0 when it is free), ``limit`` that of a semaphore; ``pid``,
    ``tid`` and ``name`` are those of a process or thread object. ``all`` says that the wait is for all its objects.
    """

    address: int
    kind: int | None
    kind_name: str | None
    owner: int | None = None
    limit: int | None = None
    signal_state: int | None = None
    pid: int | None = None
    tid: int | None = None
    name: str | None = None
    all: bool = False


class PendingIrp(NamedTuple):
    """A request of a thread that is on its way (IRP): type and size of the structure, flags, and its MDL, 0 for none.

    All but the address are ``None`` where the IRP is not in the dump.
    """

    address: int
    type: int | None
    size: int | None
    flags: int | None
    mdl: int | None


@dataclass(frozen=True)
class Thread(Shown):
    """A thread. ``address`` is that of its ETHREAD; every other value is ``None`` where the dump does not hold it.

    Sources are fields of KTHREAD (ETHREAD.Tcb) unless another structure is named. Times of day are FILETIMEs (100 ns
    since 1601, UTC), durations are in 100 ns, ticks are clock interrupts. Addresses that are not set are 0.
    """

    address: int
    #: ETHREAD.Cid.UniqueProcess and UniqueThread.
    pid: int | None
    tid: int | None
    #: ApcState.Process: the process in whose address space it runs; another than the owner while it is attached.
    process: int | None
    #: StackLimit and StackBase: lowest address of the kernel stack, and the first above it.
    stack_limit: int | None
    stack_base: int | None
    #: Process: the EPROCESS that the thread belongs to.
    owner: int | None = None
    #: ApcState.Process while ApcStateIndex is not 0, else 0.
    attached: int | None = None
    #: Teb: user-mode address, 0 for system threads. Win32Thread: the window manager's structure.
    teb: int | None = None
    win32_thread: int | None = None
    #: State and its name in KTHREAD_STATE.
    state: int | None = None
    state_name: str | None = None
    #: WaitReason and its name in KWAIT_REASON; what the thread waited for last, if it does not wait now.
    wait_reason: int | None = None
    wait_reason_name: str | None = None
    #: WaitMode: 0 kernel, 1 user.
    wait_mode: int | None = None
    alertable: bool | None = None
    #: NextProcessor: where it runs, or shall run; the top bit marks a queue that processors share.
    next_processor: int | None = None
    #: WaitTime: the tick at which it began to wait, and how many ticks before the crash that was.
    wait_start: int | None = None
    wait_ticks: int | None = None
    #: ``wait_ticks`` times KeMaximumIncrement, in 100 ns.
    wait_time: int | None = None
    context_switches: int | None = None
    ideal_processor: int | None = None
    #: EnableStackSwap and LargeStack (Windows 7).
    stack_swap: bool | None = None
    large_stack: bool | None = None
    #: UserTime and KernelTime times KeMaximumIncrement, in 100 ns.
    user_time: int | None = None
    kernel_time: int | None = None
    #: ETHREAD.StartAddress and Win32StartAddress.
    start_address: int | None = None
    win32_start_address: int | None = None
    #: InitialStack, KernelStack (the saved stack pointer, stale while the thread runs), CallbackStack (0 in kernels
    #: since Windows 8, which do not keep it here).
    initial_stack: int | None = None
    kernel_stack: int | None = None
    callback_stack: int | None = None
    #: KernelStackResident.
    stack_resident: bool | None = None
    #: TrapFrame: where the entry into the kernel saved registers.
    trap_frame: int | None = None
    priority: int | None = None
    base_priority: int | None = None
    #: PriorityDecrement: UnusualBoost in its upper four bits, ForegroundBoost in the lower.
    priority_decrement: int | None = None
    #: PriorityFloorSummary: a bit for each priority floor, 0 for none.
    priority_floors: int | None = None
    #: ETHREAD.CrossThreadFlags: ThreadIoPriority and ThreadPagePriority.
    io_priority: int | None = None
    page_priority: int | None = None
    suspend_count: int | None = None
    freeze_count: int | None = None
    #: ETHREAD.CreateTime and ExitTime; the latter only where the thread has ended.
    create_time: int | None = None
    exit_time: int | None = None
    exit_status: int | None = None
    #: ETHREAD.ThreadName (SetThreadDescription), ``None`` also for a thread without a name.
    name: str | None = None
    #: SystemThread, and ETHREAD.CrossThreadFlags.Terminated.
    system: bool | None = None
    terminated: bool | None = None
    #: ETHREAD.ActiveImpersonationInfo; ClientSecurity: token and SECURITY_IMPERSONATION_LEVEL while it impersonates.
    impersonating: bool | None = None
    impersonation_token: int | None = None
    impersonation_level: int | None = None
    #: ETHREAD.AlpcMessage: the message whose reply it waits for.
    alpc_message: int | None = None
    #: Objects that it waits for, in the order of its wait blocks; empty unless it waits.
    waits: tuple[WaitObject, ...] = ()
    #: ETHREAD.IrpList.
    irps: tuple[PendingIrp, ...] = ()
    #: Contradictions and gaps, one line each.
    notes: tuple[str, ...] = ()

    @property
    def present(self) -> bool:
        """Whether the dump holds anything of its ETHREAD."""
        return self.tid is not None or self.state is not None or self.stack_base is not None

    @property
    def processor(self) -> int | None:
        """The number of the processor it runs on or is to run on."""
        return None if self.next_processor is None else self.next_processor & 0x7FFFFFFF


#: Where ETHREAD has what a :class:`Thread` says: paths of fields, newest layout first.
_FIELDS: dict[str, FieldPath] = {
    "pid": "Cid.UniqueProcess",
    "tid": "Cid.UniqueThread",
    "process": "Tcb.ApcState.Process",
    "owner": "Tcb.Process",
    "attached": "Tcb.ApcStateIndex",
    "limit": "Tcb.StackLimit",
    "base": "Tcb.StackBase",
    "teb": "Tcb.Teb",
    "win32": "Tcb.Win32Thread",
    "state": "Tcb.State",
    "reason": "Tcb.WaitReason",
    "mode": "Tcb.WaitMode",
    "alertable": "Tcb.Alertable",
    "next": "Tcb.NextProcessor",
    "wait_time": "Tcb.WaitTime",
    "switches": "Tcb.ContextSwitches",
    "ideal": "Tcb.IdealProcessor",
    "swap": "Tcb.EnableStackSwap",
    "large": "Tcb.LargeStack",
    "user": "Tcb.UserTime",
    "kernel": "Tcb.KernelTime",
    "start": "StartAddress",
    "win32_start": "Win32StartAddress",
    "initial": "Tcb.InitialStack",
    "stack": "Tcb.KernelStack",
    "callback": "Tcb.CallbackStack",
    "resident": "Tcb.KernelStackResident",
    "trap": "Tcb.TrapFrame",
    "priority": "Tcb.Priority",
    "base_priority": "Tcb.BasePriority",
    "decrement": "Tcb.PriorityDecrement",
    "floors": "Tcb.PriorityFloorSummary",
    "io": "ThreadIoPriority",
    "page": "ThreadPagePriority",
    "suspended": "Tcb.SuspendCount",
    "frozen": "Tcb.FreezeCount",
    "created": "CreateTime.QuadPart",
    "exited": "ExitTime.QuadPart",
    "status": "ExitStatus",
    # Windows 10 1607.
    "name": "ThreadName",
    "system": "Tcb.SystemThread",
    "terminated": "Terminated",
    "impersonating": "ActiveImpersonationInfo",
    "token": "ClientSecurity.ImpersonationToken",
    "alpc_message": "AlpcMessage",
    "blocks": "Tcb.WaitBlockList",
    "block_count": "Tcb.WaitBlockCount",
}


class ThreadReader:
    """Reads threads of one target: compiled once, and remembering the objects that threads wait for."""

    def __init__(self, target: Target, nt: Layouts) -> None:
        self._target = target
        self._memory = target.memory
        self._reader = nt.reader("_ETHREAD", **_FIELDS)
        self._irp_list = nt.find("_ETHREAD", "IrpList")
        self._size = max(self._reader.size, self._irp_list.offset + 8 if self._irp_list else 0)
        self._states = nt.enum("_KTHREAD_STATE") or _STATES
        self._reasons = nt.enum("_KWAIT_REASON")
        self._kinds = nt.enum("_KOBJECTS")
        self._block = nt.reader("_KWAIT_BLOCK", type="WaitType", object="Object", next="NextWaitBlock")
        self._block_size = nt.size_of("_KWAIT_BLOCK")
        self._header = nt.reader("_DISPATCHER_HEADER", kind="Type", state="SignalState")
        self._mutant = nt.reader("_KMUTANT", owner="OwnerThread") if nt.has_type("_KMUTANT") else None
        self._semaphore = nt.reader("_KSEMAPHORE", limit="Limit") if nt.has_type("_KSEMAPHORE") else None
        self._cid = nt.reader("_ETHREAD", pid="Cid.UniqueProcess", tid="Cid.UniqueThread")
        self._irp = (
            nt.reader("_IRP", type="Type", size="Size", flags="Flags", mdl="MdlAddress")
            if nt.has_type("_IRP")
            else None
        )
        self._irp_link = nt.find("_IRP", "ThreadListEntry") if nt.has_type("_IRP") else None
        self._pointer = "<Q" if self._memory.pointer_size == 8 else "<I"
        self._names: dict[int, tuple[int | None, str | None]] = {}

    def read(self, address: int) -> Thread:
        """The thread at an address."""
        memory = self._memory
        data = memory.read(address, self._size)
        if data is not None and memory.pointer_size == 8:
            row = self._reader.unpack(data)
        else:
            row = read_row(memory, self._reader, address)
        if row is None:
            why = f"ETHREAD is not in the dump: {memory.why_unreadable(address)}"
            return Thread(address, None, None, None, None, None, notes=(why,))
        notes: list[str] = []
        increment = clock_increment(self._target)
        ticks = self._ticks(row, notes)
        if increment is None and (row.user or row.kernel):
            notes.append("its times are not known: KeMaximumIncrement is not in the dump")
        attached = row.process if row.attached else None if row.attached is None else 0
        ended = bool(row.terminated) or row.state == TERMINATED
        impersonating = None if row.impersonating is None else bool(row.impersonating)
        return Thread(
            address,
            row.pid,
            row.tid,
            row.process or None,
            row.limit or None,
            row.base or None,
            owner=row.owner,
            attached=attached,
            teb=row.teb,
            win32_thread=row.win32,
            state=row.state,
            state_name=None if row.state is None else self._states.get(row.state, f"state {row.state}"),
            wait_reason=row.reason,
            wait_reason_name=None if row.reason is None else self._reasons.get(row.reason, f"reason {row.reason}"),
            wait_mode=row.mode,
            alertable=None if row.alertable is None else bool(row.alertable),
            next_processor=row.next,
            wait_start=row.wait_time,
            wait_ticks=ticks,
            wait_time=None if ticks is None or increment is None else ticks * increment,
            context_switches=row.switches,
            ideal_processor=row.ideal,
            stack_swap=None if row.swap is None else bool(row.swap),
            large_stack=None if row.large is None else bool(row.large),
            user_time=_span(row.user, increment),
            kernel_time=_span(row.kernel, increment),
            start_address=row.start,
            win32_start_address=row.win32_start,
            initial_stack=row.initial,
            kernel_stack=row.stack,
            callback_stack=0 if self._reader.fields["callback"] is None else row.callback,
            stack_resident=None if row.resident is None else bool(row.resident),
            trap_frame=row.trap,
            priority=_signed(row.priority),
            base_priority=_signed(row.base_priority),
            priority_decrement=row.decrement,
            priority_floors=row.floors,
            io_priority=row.io,
            page_priority=row.page,
            suspend_count=row.suspended,
            freeze_count=row.frozen,
            create_time=row.created,
            # until then the field is part of a list
            exit_time=row.exited if ended else None,
            exit_status=None if row.status is None else row.status & 0xFFFFFFFF,
            name=self._name(row.name, notes),
            system=None if row.system is None else bool(row.system),
            terminated=None if row.terminated is None else bool(row.terminated),
            impersonating=impersonating,
            impersonation_token=row.token & ~7 if impersonating and row.token is not None else None,
            impersonation_level=row.token & 3 if impersonating and row.token is not None else None,
            alpc_message=self._alpc(row),
            waits=self._waits(address, data, row, notes) if row.state == WAITING and row.blocks else (),
            irps=self._irps(address, data, notes),
            notes=tuple(notes),
        )

    def _ticks(self, row: Any, notes: list[str]) -> int | None:
        shared = shared_data(self._target)
        now = shared.tick_count if shared is not None else None
        if row.wait_time is None:
            return None
        if now is None:
            notes.append("how long ago it began to wait is not known: the tick count is not in the dump")
            return None
        # KTHREAD.WaitTime is the low half of the tick count.
        ticks: int = (now - row.wait_time) & 0xFFFFFFFF
        if ticks > now:
            notes.append(f"it began to wait at tick {row.wait_time}, but the crash was at tick {now}")
            return None
        return ticks

    def _alpc(self, row: Any) -> int | None:
        """AlpcMessage shares its place with AlpcReceiveAttributeSet, whose values are no addresses."""
        value: int | None = row.alpc_message
        if value is None or not self._target.is_kernel_address(value):
            return None
        return value

    def _name(self, address: int | None, notes: list[str]) -> str | None:
        if not address or not self._target.is_kernel_address(address):
            return None
        name = self._memory.unicode_string(address)
        if name is None:
            notes.append("its name is not in the dump")
        return name[:_LONGEST_NAME] if name else None

    # what it waits for ------------------------------------------------------------------------------------------------

    def _waits(self, thread: int, data: bytes | None, row: Any, notes: list[str]) -> tuple[WaitObject, ...]:
        if not self._target.is_kernel_address(row.blocks):
            notes.append(f"WaitBlockList {row.blocks:#x} is no kernel address")
            return ()
        if self._reader.fields["block_count"] is None:
            return tuple(self._ring(row.blocks, notes))
        if row.block_count is None:
            notes.append("the number of its wait blocks is not in the dump")
            return ()
        if row.block_count > _MOST_WAIT_BLOCKS:
            notes.append(f"{row.block_count} wait blocks: impossible")
            return ()
        size = self._block_size * row.block_count
        offset = row.blocks - thread
        if data is not None and 0 <= offset <= len(data) - size:
            blocks: bytes | None = data[offset : offset + size]
        else:
            blocks = self._memory.read(row.blocks, size)
        if blocks is None:
            notes.append(f"its wait blocks at {row.blocks:#x} are not in the dump")
            return ()
        objects = []
        for index in range(row.block_count):
            block = self._block.unpack(blocks, index * self._block_size)
            objects.append(self._object(block.object, block.type, notes))
        return tuple(objects)

    def _ring(self, first: int, notes: list[str]) -> list[WaitObject]:
        """Windows 7 links the wait blocks of a thread in a ring."""
        objects: list[WaitObject] = []
        seen: set[int] = set()
        block = first
        while block not in seen:
            seen.add(block)
            row = read_row(self._memory, self._block, block) if self._target.is_kernel_address(block) else None
            if row is None or None in row or len(seen) > _MOST_WAIT_BLOCKS:
                notes.append(f"its wait block at {block:#x} is not in the dump")
                break
            objects.append(self._object(row.object, row.type, notes))
            block = row.next
        return objects

    def _object(self, address: int, wait_type: int, notes: list[str]) -> WaitObject:
        whole = wait_type == _WAIT_ALL
        if not self._target.is_kernel_address(address):
            notes.append(f"it waits for {address:#x}, which is no kernel address")
            return WaitObject(address, None, None, all=whole)
        row = read_row(self._memory, self._header, address)
        if row is None or row.kind is None:
            return WaitObject(address, None, None, all=whole)
        # The top bit of the type is a lock in some kinds of objects.
        kind = row.kind & 0x7F
        waited = WaitObject(address, kind, self._kinds.get(kind), signal_state=row.state, all=whole)
        if kind == MUTANT and self._mutant is not None:
            mutant = read_row(self._memory, self._mutant, address)
            # The low bits are flags.
            owner = mutant.owner & ~3 if mutant is not None else None
            return waited._replace(owner=owner, name=self.title(owner) if owner else None)
        if kind == SEMAPHORE and self._semaphore is not None:
            semaphore = read_row(self._memory, self._semaphore, address)
            return waited._replace(limit=semaphore.limit if semaphore is not None else None)
        if kind == PROCESS:
            pid, name = self.process_name(address)
            return waited._replace(pid=pid, name=name)
        if kind == THREAD:
            row = read_row(self._memory, self._cid, address)
            if row is not None:
                return waited._replace(pid=row.pid, tid=row.tid, name=self.title(address))
        return waited

    def process_name(self, address: int) -> tuple[int | None, str | None]:
        """Id and image name of a process, remembered."""
        if address not in self._names:
            reader = process_reader(self._target)
            process = reader.read(address) if reader is not None else None
            self._names[address] = (process.pid, process.name) if process is not None else (None, None)
        return self._names[address]

    def title(self, thread: int | None) -> str | None:
        """``notepad.exe 1e90.1e94``; ``None`` where the thread is not in the dump."""
        row = read_row(self._memory, self._cid, thread) if thread else None
        if row is None or row.pid is None or row.tid is None:
            return None
        owner = field_offset(self._target, "_ETHREAD", "Tcb.Process", None)
        process = self._memory.pointer((thread or 0) + owner) if owner is not None else None
        name = self.process_name(process)[1] if process and self._target.is_kernel_address(process) else None
        return f"{name or '?'} {row.pid:x}.{row.tid:x}"

    def _irps(self, thread: int, data: bytes | None, notes: list[str]) -> tuple[PendingIrp, ...]:
        if self._irp_list is None or self._irp is None or self._irp_link is None:
            return ()
        head = thread + self._irp_list.offset
        if data is not None:
            first: int | None = struct.unpack_from(self._pointer, data, self._irp_list.offset)[0]
        else:
            first = self._memory.pointer(head)
        if not first or first == head:
            return ()
        walk = walk_list(self._memory, head, _MOST_IRPS, "IrpList")
        notes += walk.problems
        irps = []
        for entry in walk.entries:
            address = entry - self._irp_link.offset
            row = read_row(self._memory, self._irp, address)
            if row is None:
                irps.append(PendingIrp(address, None, None, None, None))
            else:
                irps.append(PendingIrp(address, row.type, row.size, row.flags, row.mdl))
        return tuple(irps)


def thread_reader(target: Target) -> ThreadReader | None:
    """Reads threads; ``None`` without the kernel's symbols."""
    return target.once(_make_reader)


def _make_reader(target: Target) -> ThreadReader | None:
    return None if target.nt is None or not target.nt.has_type("_ETHREAD") else ThreadReader(target, target.nt)


def read_thread(target: Target, address: int) -> Thread:
    """The thread at an ETHREAD address; every value that is not in the dump is ``None``."""
    reader = thread_reader(target)
    if reader is not None:
        return reader.read(address)
    memory = target.memory

    def pointer(path: str, debugger_field: str | None, generation: str | None = None, more: int = 0) -> int | None:
        located = field_offset(target, "_ETHREAD", path, debugger_field, generation)
        return memory.pointer(address + located + more) if located is not None else None

    state_at = field_offset(target, "_ETHREAD", "Tcb.State", "OffsetKThreadState")
    state = memory.unsigned(address + state_at, 1) if state_at is not None else None
    reason_at = field_offset(target, "_ETHREAD", "Tcb.WaitReason", "OffsetKThreadWaitReason")
    return Thread(
        address,
        pointer("Cid.UniqueProcess", None, "Cid"),
        pointer("Cid.UniqueProcess", None, "Cid", memory.pointer_size),
        pointer("Tcb.ApcState.Process", "OffsetKThreadApcProcess") or None,
        pointer("Tcb.StackLimit", "OffsetKThreadStackLimit") or None,
        pointer("Tcb.StackBase", "OffsetKThreadStackBase") or None,
        teb=pointer("Tcb.Teb", "OffsetKThreadTeb"),
        state=state,
        state_name=None if state is None else _STATES.get(state, f"state {state}"),
        wait_reason=memory.unsigned(address + reason_at, 1) if reason_at is not None else None,
        initial_stack=pointer("Tcb.InitialStack", "OffsetKThreadInitialStack"),
        kernel_stack=pointer("Tcb.KernelStack", "OffsetKThreadKernelStack"),
        start_address=pointer("StartAddress", None, "StartAddress"),
        win32_start_address=pointer("Win32StartAddress", None, "Win32StartAddress"),
    )


def stack_limits(target: Target, thread: int) -> tuple[int, int] | None:
    """(lowest, first above) address of a thread's kernel stack; ``None`` where they are not known or contradict."""
    owner = read_thread(target, thread)
    limit, base = owner.stack_limit, owner.stack_base
    if not limit or not base or limit >= base:
        return None
    return limit, base


def _signed(value: int | None) -> int | None:
    """A byte of the type CHAR."""
    return value - 0x100 if value is not None and value & 0x80 else value


def _span(ticks: int | None, increment: int | None) -> int | None:
    """Clock ticks as a time; none at all need no length of a tick."""
    if not ticks:
        return ticks
    return None if increment is None else ticks * increment
