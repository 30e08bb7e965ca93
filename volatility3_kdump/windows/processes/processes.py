"""Processes as values: what EPROCESS and the structures that it names say.

:func:`read_process` reads one process, with one access to its EPROCESS. The lists of processes are in
:mod:`volatility3_kdump.windows.processes.process_lists`, threads in :mod:`volatility3_kdump.windows.processes.threads`.

Offsets come from the kernel's symbols, newest layout first. Without symbols KDDEBUGGER_DATA64 and the sizes of the
structures still give id and names.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.layout import FieldPath, Layouts
from volatility3_kdump.notebook import Shown
from volatility3_kdump.windows.machine.clock import clock_increment
from volatility3_kdump.windows.structures import field_offset, read_row

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_IMAGE_NAME_SIZE = 15
#: How much earlier than the machine's start a process may seem to be: the clock is set while Windows starts.
_BOOT_TOLERANCE = 10_000_000
#: 128 TB in pages, and more handles and VADs than any table or address space can have: counts above are no counts.
_MOST_PAGES = 1 << 35
_MOST_HANDLES = 1 << 24
_MOST_VADS = 1 << 32
_MOST_FREE_LISTS = 2048


@dataclass(frozen=True)
class Process(Shown):
    """A process. ``address`` is that of its EPROCESS; every other value is ``None`` where the dump does not hold it.

    Sources are fields of EPROCESS unless another structure is named. Times of day are FILETIMEs (100 ns since 1601,
    UTC), durations are in 100 ns, sizes in bytes or pages of 4 KB as said. Addresses that are not set are 0.
    """

    address: int
    #: UniqueProcessId.
    pid: int | None
    #: ImageFileName: the file name, cut to 15 bytes.
    image_name: str | None
    #: SeAuditProcessCreationInfo.ImageFileName: the full path of the image as the object manager names it.
    image_path: str | None
    #: InheritedFromUniqueProcessId.
    parent: int | None = None
    #: Session: the session's structure, 0 for processes outside sessions (System, smss, Registry).
    session_space: int | None = None
    #: MM_SESSION_SPACE.SessionId; ``None`` outside sessions too.
    session: int | None = None
    #: Peb: user-mode address, 0 for processes without user mode.
    peb: int | None = None
    #: Pcb.DirectoryTableBase: physical address of the top-level page table, with flags in its low bits.
    directory_table_base: int | None = None
    #: ObjectTable: HANDLE_TABLE, 0 once the handles are closed.
    object_table: int | None = None
    #: Open handles: the sum of HANDLE_TABLE.FreeLists[].HandleCount; HANDLE_TABLE.HandleCount on Windows 7.
    handle_count: int | None = None
    #: VadRoot: root of the tree of virtual address descriptors.
    vad_root: int | None = None
    #: VadCount; VadRoot.NumberGenericTableElements on Windows 7.
    vad_count: int | None = None
    #: CloneRoot: root of the tree of clone descriptors of a forked process.
    clone_root: int | None = None
    #: NumberOfPrivatePages, in pages.
    private_pages: int | None = None
    #: ModifiedPageCount, in pages.
    modified_pages: int | None = None
    #: NumberOfLockedPages, in pages.
    locked_pages: int | None = None
    #: DeviceMap, without the reference bits that it has since Windows 11.
    device_map: int | None = None
    #: Token, without the reference count in its low four bits.
    token: int | None = None
    #: CreateTime.
    create_time: int | None = None
    #: ExitTime, 0 while the process runs.
    exit_time: int | None = None
    #: ExitStatus: an NTSTATUS, STATUS_PENDING (0x103) while the process runs.
    exit_status: int | None = None
    #: Pcb.UserTime and Pcb.KernelTime: only what threads that have exited used.
    user_time: int | None = None
    kernel_time: int | None = None
    #: ProcessQuotaUsage[1] and [0], in bytes.
    paged_quota: int | None = None
    nonpaged_quota: int | None = None
    #: Vm.Instance (MMSUPPORT): WorkingSetSize and its bounds and peak, in pages.
    working_set: int | None = None
    minimum_working_set: int | None = None
    maximum_working_set: int | None = None
    peak_working_set: int | None = None
    #: Vm.Instance.PageFaultCount.
    page_faults: int | None = None
    #: VirtualSize and PeakVirtualSize, in bytes.
    virtual_size: int | None = None
    peak_virtual_size: int | None = None
    #: Vm.Instance.Flags.MemoryPriority: 0 is background.
    memory_priority: int | None = None
    #: Pcb.BasePriority.
    base_priority: int | None = None
    #: CommitCharge, in pages.
    commit_charge: int | None = None
    #: DebugPort and Job: objects, 0 for none.
    debug_port: int | None = None
    job: int | None = None
    #: WoW64Process: not 0 in a 32-bit process on 64-bit Windows.
    wow64: int | None = None
    #: ActiveThreads.
    active_threads: int | None = None
    #: Flags.ProcessExiting or Flags.ProcessDelete.
    exiting: bool | None = None
    #: Pcb.DeepFreeze: every thread of a suspended packaged application is frozen.
    frozen: bool | None = None
    #: Pcb.FreezeCount.
    freeze_count: int | None = None
    #: Flags3.Minimal: an address space without user-mode code (Registry, Memory Compression).
    minimal: bool | None = None
    #: SectionBaseAddress: where the image is mapped.
    image_base: int | None = None
    #: Contradictions and gaps, one line each.
    #: Protection.Level: type, audit and signer in one byte; ``None`` also before Windows 8.1, which has no such field.
    protection: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str | None:
        """The full file name where the path is known, else the name as EPROCESS holds it, cut to 15 bytes."""
        return self.image_path.rsplit("\\", 1)[-1] if self.image_path else self.image_name

    @property
    def protection_name(self) -> str | None:
        """``Lsa-Light``, ``WinSystem-Protected``, ``none``: signer and type (_PS_PROTECTION)."""
        if self.protection is None:
            return None
        kind, signer = self.protection & 7, self.protection >> 4
        if not kind and not signer:
            return _PROTECTED_TYPES[0]
        shown = _PROTECTED_TYPES[kind] if 0 < kind < len(_PROTECTED_TYPES) else f"type {kind}"
        return f"{_PROTECTED_SIGNERS[signer] if signer < len(_PROTECTED_SIGNERS) else f'signer {signer}'}-{shown}"

    @property
    def present(self) -> bool:
        """Whether the dump holds anything of its EPROCESS."""
        return self.directory_table_base is not None or self.pid is not None or self.image_name is not None

    @property
    def state(self) -> str | None:
        """``exited``, ``exiting``, ``frozen``, ``minimal`` or ``running``; ``None`` where the flags are not there."""
        if self.exit_time:
            return "exited"
        if self.exiting is None:
            return None
        return "exiting" if self.exiting else "frozen" if self.frozen else "minimal" if self.minimal else "running"

    def elapsed(self, now: int | None) -> int | None:
        """How long it has run at ``now`` (a FILETIME), in 100 ns; ``None`` for a process of the future."""
        if not self.create_time or not now or now < self.create_time:
            return None
        return now - self.create_time


#: Where EPROCESS has what a :class:`Process` says: paths of fields, newest layout first.
_FIELDS: dict[str, FieldPath] = {
    "pid": "UniqueProcessId",
    "name": "ImageFileName",
    "path": "SeAuditProcessCreationInfo.ImageFileName",
    "parent": "InheritedFromUniqueProcessId",
    "session": "Session",
    "peb": "Peb",
    "directory": "Pcb.DirectoryTableBase",
    "handles": "ObjectTable",
    # Windows 8: RTL_AVL_TREE instead of MM_AVL_TABLE.
    "vad_root": ("VadRoot.Root", "VadRoot.BalancedRoot.RightChild"),
    "vad_count": ("VadCount", "VadRoot.NumberGenericTableElements"),
    "clone": ("CloneRoot.Root", "CloneRoot"),
    "private": "NumberOfPrivatePages",
    "modified": "ModifiedPageCount",
    "locked": "NumberOfLockedPages",
    # Windows 11: a fast reference instead of a pointer.
    "device_map": ("DeviceMap.Value", "DeviceMap"),
    "token": ("Token.Value", "Token"),
    "created": "CreateTime.QuadPart",
    "exited": "ExitTime.QuadPart",
    "status": "ExitStatus",
    # Windows 11 22H2 renamed them.
    "user": ("Pcb.UserTime", "Pcb.UserTimeLow"),
    "kernel": ("Pcb.KernelTime", "Pcb.KernelTimeLow"),
    "quota": "ProcessQuotaUsage",
    # Windows 10 1607: MMSUPPORT became an instance and a shared part.
    "working_set": ("Vm.Instance.WorkingSetSize", "Vm.WorkingSetSize"),
    "minimum": ("Vm.Instance.MinimumWorkingSetSize", "Vm.MinimumWorkingSetSize"),
    "maximum": ("Vm.Instance.MaximumWorkingSetSize", "Vm.MaximumWorkingSetSize"),
    "peak": ("Vm.Instance.PeakWorkingSetSize", "Vm.PeakWorkingSetSize"),
    "faults": ("Vm.Instance.PageFaultCount", "Vm.PageFaultCount"),
    "memory_priority": ("Vm.Instance.Flags.MemoryPriority", "Vm.Flags.MemoryPriority"),
    "virtual": "VirtualSize",
    "peak_virtual": "PeakVirtualSize",
    "base_priority": "Pcb.BasePriority",
    "commit": "CommitCharge",
    "debug_port": "DebugPort",
    "job": "Job",
    "wow64": ("WoW64Process", "Wow64Process"),
    "threads": "ActiveThreads",
    "exiting": "ProcessExiting",
    "deleting": "ProcessDelete",
    "deep_freeze": "Pcb.DeepFreeze",
    "freeze_count": "Pcb.FreezeCount",
    "minimal": "Minimal",
    "image_base": "SectionBaseAddress",
    "protection": "Protection.Level",
}
#: _PS_PROTECTED_TYPE and _PS_PROTECTED_SIGNER, which the tables without symbols lack.
_PROTECTED_TYPES = ("none", "Light", "Protected")
_PROTECTED_SIGNERS = (
    *("None", "Authenticode", "CodeGen", "Antimalware", "Lsa", "Windows", "WinTcb", "WinSystem", "App"),
)


class ProcessReader:
    """Reads processes of one target: compiled once, and remembering sessions."""

    def __init__(self, target: Target, nt: Layouts) -> None:
        self._target = target
        self._nt = nt
        self._reader = nt.reader("_EPROCESS", **_FIELDS)
        self._sessions: dict[int, int | None] = {}
        self._quota_size = target.memory.pointer_size

    def read(self, address: int) -> Process:
        """The process at an address."""
        row = read_row(self._target.memory, self._reader, address)
        if row is None:
            why = self._target.memory.why_unreadable(address)
            return Process(address, None, None, None, notes=(f"EPROCESS is not in the dump: {why}",))
        notes: list[str] = []
        name = _name(row.name)
        system_time, uptime = self._target.header.system_time, self._target.header.system_up_time
        return Process(
            address,
            row.pid,
            name,
            self._path(row.path),
            parent=row.parent,
            session_space=row.session,
            session=self._session(row.session),
            peb=row.peb,
            directory_table_base=_scalar(row.directory),
            object_table=row.handles,
            handle_count=self._handle_count(row.handles, notes),
            vad_root=row.vad_root,
            vad_count=_count(row.vad_count, _MOST_VADS, "VADs", notes),
            clone_root=row.clone,
            private_pages=_count(row.private, _MOST_PAGES, "private pages", notes),
            modified_pages=_count(row.modified, _MOST_PAGES, "modified pages", notes),
            locked_pages=_count(row.locked, _MOST_PAGES, "locked pages", notes),
            device_map=_reference(row.device_map),
            token=_reference(row.token),
            create_time=_created(row.created, system_time, uptime, notes),
            exit_time=_exited(row.exited, row.created, system_time, notes),
            exit_status=None if row.status is None else row.status & 0xFFFFFFFF,
            user_time=self._duration(row.user),
            kernel_time=self._duration(row.kernel),
            paged_quota=_element(row.quota, 1, self._quota_size),
            nonpaged_quota=_element(row.quota, 0, self._quota_size),
            working_set=_count(row.working_set, _MOST_PAGES, "pages in the working set", notes),
            minimum_working_set=row.minimum,
            maximum_working_set=row.maximum,
            peak_working_set=row.peak,
            page_faults=row.faults,
            virtual_size=row.virtual,
            peak_virtual_size=row.peak_virtual,
            memory_priority=row.memory_priority,
            base_priority=_signed(row.base_priority),
            commit_charge=_count(row.commit, _MOST_PAGES, "pages of commit charge", notes),
            debug_port=row.debug_port,
            job=row.job,
            wow64=row.wow64,
            active_threads=row.threads,
            exiting=None if row.exiting is None else bool(row.exiting or row.deleting),
            frozen=None if row.deep_freeze is None else bool(row.deep_freeze),
            freeze_count=row.freeze_count,
            minimal=None if row.minimal is None else bool(row.minimal),
            image_base=row.image_base,
            protection=row.protection,
            notes=tuple(notes),
        )

    def _path(self, address: int | None) -> str | None:
        """SeAuditProcessCreationInfo.ImageFileName is an OBJECT_NAME_INFORMATION in paged pool.

        Its text follows the UNICODE_STRING. Small memory dumps can hold that text alone, in IoTriageDumpData.
        """
        if not address or not self._target.is_kernel_address(address):
            return None
        path = self._target.memory.unicode_string(address)
        if path:
            return path
        width = self._target.memory.pointer_size
        block = self._target.dump.io_triage.get(address + 2 * width & (1 << 8 * width) - 1, b"")
        try:
            path = block.decode("utf-16-le").split("\0", 1)[0]
        except UnicodeDecodeError:
            return None
        return path if path.startswith("\\") and path.isprintable() else None

    def _duration(self, ticks: int | None) -> int | None:
        increment = clock_increment(self._target)
        return None if ticks is None or increment is None else ticks * increment

    def _session(self, address: int | None) -> int | None:
        if not address:
            return None
        if address not in self._sessions:
            self._sessions[address] = self._session_id(address)
        return self._sessions[address]

    def _session_id(self, address: int) -> int | None:
        # Windows 11 24H2: PSP_SESSION_SPACE instead of MM_SESSION_SPACE.
        for type_name in ("_PSP_SESSION_SPACE", "_MM_SESSION_SPACE"):
            field = self._nt.find(type_name, "SessionId") if self._nt.has_type(type_name) else None
            if field is not None:
                return self._target.memory.unsigned(address + field.offset, 4)
        return None

    def _handle_count(self, table: int | None, notes: list[str]) -> int | None:
        if not table:
            return 0 if table == 0 else None
        if not self._target.is_kernel_address(table):
            notes.append(f"ObjectTable {table:#x} is no kernel address")
            return None
        nt, memory = self._nt, self._target.memory
        single = nt.find("_HANDLE_TABLE", "HandleCount")
        if single is not None:
            return _count(memory.unsigned(table + single.offset, 4), _MOST_HANDLES, "handles", notes)
        lists = nt.find("_HANDLE_TABLE", "FreeLists")
        if lists is None:
            return None
        stride = nt.size_of("_HANDLE_TABLE_FREE_LIST")
        offset = nt.offset("_HANDLE_TABLE_FREE_LIST", "HandleCount")
        number = self._free_lists
        if number is None:
            return None
        data = memory.read(table + lists.offset, stride * (number - 1) + offset + 4)
        if data is None:
            return None
        parts = [int.from_bytes(data[stride * index + offset :][:4], "little") for index in range(number)]
        return _count(sum(parts), _MOST_HANDLES, "handles", notes)

    @functools.cached_property
    def _free_lists(self) -> int | None:
        """Free lists of a handle table: ExpFreeListCount since Windows 10 1803, one before; ``None`` without names."""
        if not self._target.has_names:
            return None
        address = self._target.symbol("ExpFreeListCount")
        count = self._target.memory.unsigned(address, 4) if address is not None else None
        return count if count and count <= _MOST_FREE_LISTS else 1


def read_process(target: Target, address: int) -> Process:
    """The process at an EPROCESS address; every value that is not in the dump is ``None``."""
    reader = process_reader(target)
    if reader is not None:
        return reader.read(address)
    memory = target.memory
    pid_offset = field_offset(target, "_EPROCESS", "UniqueProcessId", None, generation="UniqueProcessId")
    pid = memory.pointer(address + pid_offset) if pid_offset is not None else None
    directory = field_offset(target, "_EPROCESS", "Pcb.DirectoryTableBase", "OffsetEprocessDirectoryTableBase")
    peb = field_offset(target, "_EPROCESS", "Peb", "OffsetEprocessPeb")
    parent = field_offset(target, "_EPROCESS", "InheritedFromUniqueProcessId", "OffsetEprocessParentCID")
    return Process(
        address,
        pid,
        _image_name(target, address),
        None,
        parent=memory.pointer(address + parent) if parent is not None else None,
        peb=memory.pointer(address + peb) if peb is not None else None,
        directory_table_base=memory.pointer(address + directory) if directory is not None else None,
    )


def process_reader(target: Target) -> ProcessReader | None:
    """Reads processes; ``None`` without the kernel's symbols."""
    return target.once(_make_reader)


def _make_reader(target: Target) -> ProcessReader | None:
    return None if target.nt is None or not target.nt.has_type("_EPROCESS") else ProcessReader(target, target.nt)


# values ---------------------------------------------------------------------------------------------------------------


#: What dumps have where nothing was written.
_FILL, _LAST_ASCII = b"PAGEPAGE", 0x7E


def _name(data: bytes | None) -> str | None:
    """ImageFileName up to its NUL; ``None`` for an empty one, and for bytes that are fill."""
    if data is None:
        return None
    name = data[:_IMAGE_NAME_SIZE].split(b"\0", 1)[0]
    if (len(name) > 1 and len(set(name)) == 1 and name[0] > _LAST_ASCII) or name.startswith(_FILL):
        return None
    return name.decode("latin-1") or None


def _scalar(value: int | bytes | None) -> int | None:
    """A number, or the first of an array: 32-bit kernels have an array of two page directories."""
    return int.from_bytes(value[:4], "little") if isinstance(value, bytes) else value


def _reference(value: int | bytes | None) -> int | None:
    """An EX_FAST_REF without its reference count."""
    return value & ~0xF if isinstance(value, int) else None


def _signed(value: int | None) -> int | None:
    """A byte of the type CHAR."""
    return value - 0x100 if value is not None and value & 0x80 else value


def _element(data: bytes | None, index: int, size: int) -> int | None:
    part = data[index * size : (index + 1) * size] if data is not None else b""
    return int.from_bytes(part, "little") if len(part) == size else None


def _count(value: int | None, most: int, what: str, notes: list[str]) -> int | None:
    """A count, or ``None`` and a note where no machine has so many."""
    if value is not None and value > most:
        notes.append(f"{value} {what}: impossible")
        return None
    return value


def _created(value: int | None, now: int | None, uptime: int | None, notes: list[str]) -> int | None:
    if value and now:
        if value > now:
            notes.append("created after the crash")
        elif uptime and value < now - uptime - _BOOT_TOLERANCE:
            notes.append("created before the machine started")
    return value


def _exited(value: int | None, created: int | None, now: int | None, notes: list[str]) -> int | None:
    if value and ((created and value < created) or (now and value > now)):
        notes.append("exited before it was created" if created and value < created else "exited after the crash")
    return value


# without symbols ------------------------------------------------------------------------------------------------------


def _image_name(target: Target, address: int) -> str | None:
    located = field_offset(target, "_EPROCESS", "ImageFileName", None, generation="ImageFileName")
    if located is not None:
        return _plausible_name(target.memory.read(address + located, _IMAGE_NAME_SIZE))
    peb = target.debugger["OffsetEprocessPeb"] if target.debugger else None
    # Where no symbols are at hand the name follows the Peb field at one of two distances (Windows 10 1511 on, before).
    for distance in (0x58, 0x50) if peb else ():
        name = _plausible_name(target.memory.read(address + (peb or 0) + distance, _IMAGE_NAME_SIZE))
        if name:
            return name
    return None


def _plausible_name(data: bytes | None) -> str | None:
    if data is None:
        return None
    name = data.split(b"\0", 1)[0]
    rest = data[len(name) :]
    if not name or not all(0x20 <= byte < 0x7F for byte in name) or rest.strip(b"\0"):
        return None
    return name.decode("ascii")
