"""The vocabulary of scenes: the machine, its modules, processes and threads, and the bug check, as data.

A :class:`Scene` is everything that a made dump shows. :func:`kdump_sample.myfault.high_irql_fault` is the one that
others are variants of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdump_sample.code import Function
from kdump_sample.memory_use import MemoryUse, PageFrames
from kdump_sample.pe import Codeview, Section
from kdump_sample.pool_contents import USUAL, PoolScene
from kdump_sample.regions import Region
from kdump_sample.stacks import Frame
from kdump_sample.tokens import Identity
from volatility3_kdump.layout import FieldPath

#: From the base of a processor's idle stack to that of its DPC stack, and the bytes at the base that are not used.
_DPC_STACK_DISTANCE, _DPC_STACK_RESERVED = 0x7000, 0x50

#: 100 ns units per second.
SECOND = 10_000_000


@dataclass(frozen=True)
class Driver:
    """A loaded module other than the kernel. ``functions`` are by RVA; ``imports`` are kernel symbols, or
    ``module!name``, whose addresses stand in the table at ``import_rva``; ``exported`` functions get names."""

    name: str
    base: int
    size: int
    timestamp: int
    checksum: int
    codeview: Codeview
    directory: str = "\\SystemRoot\\System32\\drivers\\"
    version: tuple[int, int, int, int] | None = None
    description: str = ""
    company: str = "Microsoft Corporation"
    functions: Mapping[int, Function] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    import_rva: int = 0x2000
    exported: bool = False
    sections: tuple[Section, ...] = ()

    @property
    def path(self) -> str:
        return self.directory + self.name

    @property
    def stem(self) -> str:
        """The module's name without extension, as debuggers write it."""
        return self.name.rsplit(".", 1)[0]


@dataclass(frozen=True)
class Unloaded:
    """An entry of MmUnloadedDrivers: name, [start, end) and the time, in seconds before the crash."""

    name: str
    start: int
    end: int
    seconds_ago: int


@dataclass(frozen=True)
class WaitObject:
    """A dispatcher object that a thread waits for: address and DISPATCHER_HEADER.Type."""

    address: int
    kind: int


@dataclass(frozen=True)
class UserDll:
    """A module of a process, the program itself first. ``functions`` are by RVA, and exported; or ``image`` has the
    pages of a real one by RVA. ``narrow`` marks x86 code, whose ``functions`` have nothing but a name and bytes."""

    name: str
    base: int
    size: int
    directory: str = "C:\\Windows\\System32\\"
    timestamp: int = 0x4E5D1C2B
    functions: Mapping[int, Function] = field(default_factory=dict)
    image: Mapping[int, bytes] = field(default_factory=dict)
    narrow: bool = False

    @property
    def path(self) -> str:
        return self.directory + self.name

    @property
    def stem(self) -> str:
        """The module's name without extension."""
        return self.name.rsplit(".", 1)[0]


@dataclass(frozen=True)
class Thread:
    """A thread: its stack as frames, outermost first, and the fields of ETHREAD and KTHREAD that a scene sets.

    ``user_frames`` are those in user mode, on the stack below ``user_stack_base``: where they end, the entry into the
    kernel of ``frames`` begins. ``registers`` are then those of its start. ``last_error`` and ``last_status`` are the
    TEB's. ``narrow_registers`` are those of its 32-bit code, which WOW64 saved, and ``narrow_stack`` what lies at the
    end of its 32-bit stack, as (address, bytes).
    """

    address: int
    tid: int
    stack_base: int
    frames: tuple[Frame, ...]
    state: int = 5
    teb: int = 0
    win32_thread: int = 0
    start_address: int = 0
    win32_start_address: int = 0
    wait_objects: tuple[WaitObject, ...] = ()
    wait_reason: int = 0
    wait_mode: int = 0
    wait_time: int = 0
    context_switches: int = 1
    ideal_processor: int = 0
    processor: int = 0
    user_ticks: int = 0
    kernel_ticks: int = 0
    priority: int = 8
    base_priority: int = 8
    io_priority: int = 2
    page_priority: int = 5
    created: float = 0.0
    registers: Mapping[str, int] = field(default_factory=dict)
    stack_size: int = 0x6000
    user_frames: tuple[Frame, ...] = ()
    user_stack_base: int = 0
    last_error: int = 0
    last_status: int = 0
    narrow_registers: Mapping[str, int] = field(default_factory=dict)
    narrow_stack: tuple[int, bytes] = (0, b"")


@dataclass(frozen=True)
class Process:
    """A process and the fields of EPROCESS that a scene sets. ``created`` is in seconds before the crash.

    ``hidden_from`` are places that it was unlinked from: ``list`` (PsActiveProcessHead), ``ids`` (PspCidTable),
    ``session``, ``handles``. ``regions`` make a tree of VADs; without them there is only the node at ``vad_root``.
    ``identity`` is what the token at ``token`` says; without it nothing is there. With a ``command_line`` the process
    has user memory: ``dlls``, the program first, the ``environment`` as ``NAME=VALUE``, and ``user_memory``, (address,
    bytes); ``paged_out`` are addresses of its pages that are in the page file. ``wow64`` makes it a 32-bit process: the
    address of its EWOW64PROCESS, and its 32-bit PEB behind the other one.
    """

    address: int
    pid: int
    parent: int
    image: str
    directory_table_base: int
    created: float
    path: str = ""
    session: int | None = None
    peb: int = 0
    token: int = 0
    handle_table: int = 0
    handles: int = 0
    device_map: int = 0
    vad_root: int = 0
    regions: tuple[Region, ...] = ()
    identity: Identity | None = None
    fields: Mapping[str, int] = field(default_factory=dict)
    threads: tuple[Thread, ...] = ()
    command_line: str = ""
    parameters: int = 0
    image_base: int = 0
    hidden_from: tuple[str, ...] = ()
    dlls: tuple[UserDll, ...] = ()
    environment: tuple[str, ...] = ()
    user_memory: tuple[tuple[int, bytes], ...] = ()
    paged_out: tuple[int, ...] = ()
    wow64: int = 0


@dataclass(frozen=True)
class Processor:
    """A processor: KPCR address, and the idle stack's base and thread; processor 0 idles in the kernel's own thread."""

    pcr: int
    idle_stack_base: int
    idle_thread: int = 0

    @property
    def dpc_stack(self) -> int:
        """KPRCB.DpcStack: where the stack for DPCs starts, a little below its base."""
        return self.idle_stack_base + _DPC_STACK_DISTANCE - _DPC_STACK_RESERVED


@dataclass(frozen=True)
class BugCheck:
    """What KeBugCheckEx was called with, and what the header says after the kernel has refined the code.

    ``volatile`` are registers at its entry that are no arguments; ``driver`` is the module that the kernel blames.
    """

    code: int
    parameters: tuple[int, int, int, int]
    called_with: tuple[int, int, int, int, int]
    processor: int
    volatile: Mapping[str, int] = field(default_factory=dict)
    driver: str = ""


@dataclass(frozen=True)
class DeviceNode:
    """A DEVICE_NODE: its instance path and the service that drives it."""

    address: int
    instance_path: str
    service: str


@dataclass(frozen=True)
class Device:
    """A DEVICE_OBJECT besides a driver's first one.

    ``name`` is its path in the object directory, empty for none; ``below`` the device that it is attached to, 0 for
    none; ``node`` makes it a physical device object.
    """

    address: int
    device_type: int
    name: str = ""
    below: int = 0
    extension: int = 0
    node: DeviceNode | None = None


@dataclass(frozen=True)
class DriverObject:
    """A DRIVER_OBJECT of a module, its first device, and the function (by name) that takes its requests.

    ``majors`` are further dispatch routines: RVAs in the module, or names of functions, by major function code; with an
    empty ``dispatch`` they are all that there are. The driver has no device where ``device`` is 0. ``hidden`` leaves it
    out of the object directory.
    """

    module: str
    address: int
    name: str
    device: int
    device_type: int
    dispatch: str
    devices: tuple[Device, ...] = ()
    majors: Mapping[int, int | str] = field(default_factory=dict)
    hidden: bool = False


@dataclass(frozen=True)
class Request:
    """A device control request on its way: IRP, thread, device, file object."""

    address: int
    thread: int
    device: int
    file: int
    control_code: int
    input_length: int


@dataclass(frozen=True)
class Location:
    """An IO_STACK_LOCATION. ``completion`` is ``module+RVA`` as a pair, or ``None``."""

    major: int
    minor: int
    device: int
    flags: int = 0
    control: int = 0
    parameters: tuple[int, int, int, int] = (0, 0, 0, 0)
    completion: tuple[str, int] | None = None
    context: int = 0


@dataclass(frozen=True)
class PendingRequest:
    """An IRP with several stack locations, the lowest device's first; ``current`` counts from 1. ``path`` is the name
    in its file object."""

    address: int
    thread: int
    file: int
    path: str
    locations: tuple[Location, ...]
    current: int
    flags: int = 0x60000


@dataclass(frozen=True)
class Resource:
    """An ERESOURCE of the system's list: in nonpaged pool, or the kernel's variable ``symbol``.

    ``owners`` are (OwnerThread, count). The waiters are ETHREADs of the scene, in line in this order; ``fast`` makes it
    a FAST_ERESOURCE, in kernels that have them.
    """

    address: int
    owners: tuple[tuple[int, int], ...] = ()
    exclusive: bool = False
    shared_waiters: tuple[int, ...] = ()
    exclusive_waiters: tuple[int, ...] = ()
    contention: int = 0
    symbol: str = ""
    fast: bool = False


@dataclass(frozen=True)
class WorkQueue:
    """An executive work queue: the threads that wait in it for work, and those that have an item.

    ``items`` are (priority, address of the routine). The queue lies at ``address`` where kernels allocate it.
    """

    address: int
    idle: tuple[int, ...] = ()
    busy: tuple[int, ...] = ()
    items: tuple[tuple[int, int], ...] = ()
    most: int = 4096
    concurrency: int = 3
    running: int = 0
    processed: int = 0


@dataclass(frozen=True)
class Timer:
    """A KTIMER that is set, in the list ``hand`` of a processor. ``due`` is in 100 ns from the moment of the crash.

    It runs the DPC ``routine``, or wakes ``thread``; ``period`` is in milliseconds.
    """

    address: int
    processor: int
    hand: int
    due: int
    routine: int = 0
    thread: int = 0
    period: int = 0


@dataclass(frozen=True)
class LogEntry:
    """A pending entry of the I/O error log: the addresses of its device (0 for none) and driver object, and the packet
    that the driver filled in. ``seconds_ago`` is before the crash."""

    address: int
    device: int
    driver: int
    error: int
    status: int = 0
    seconds_ago: float = 0.0
    major: int = 0
    retries: int = 0
    category: int = 0
    unique: int = 0
    sequence: int = 0
    control_code: int = 0
    device_offset: int = 0
    dump_data: bytes = b""
    strings: tuple[str, ...] = ()


@dataclass(frozen=True)
class KernelStructure:
    """A structure of the kernel's symbols anywhere in kernel memory.

    ``fields`` are by dotted path (or alternatives of it); fields that the kernel lacks are passed over. ``strings`` are
    UNICODE_STRING fields, whose characters are put into paged pool. Memory in between is left as it is: zeros, unless
    something else lies there.
    """

    type_name: str
    address: int
    fields: Mapping[FieldPath, int | bytes | str | tuple[int, ...]] = field(default_factory=dict)
    strings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Variable:
    """A kernel variable by its symbol, of ``size`` bytes; passed over where the kernel has none of that name."""

    symbol: str
    value: int
    size: int = 8


@dataclass(frozen=True)
class Record:
    """Plain bytes anywhere in kernel memory, written last: exception records, contexts, error records."""

    address: int
    data: bytes


@dataclass(frozen=True)
class Scene:
    """Everything that a made dump shows. Times are FILETIME or 100 ns units.

    ``structures``, ``variables`` and ``records`` are what a scene adds to what its other parts come to.
    ``triage_blocks`` are (address, size) of memory that small memory dumps copy besides what they always do, as a bug
    check's own code adds it. ``tagged`` is tagged data by its GUID, in place of what every dump has or behind it.
    ``lists_memory`` has the header of small memory dumps list the machine's memory and hold the page-frame database's
    address itself, as Windows 11 24H2 writes it. ``regions`` are the parts of the kernel's address space, (address,
    bytes) by the names of _MI_ASSIGNED_REGION_TYPES. ``kernel_functions`` are functions of the kernel's image besides
    those that every scene has, or in place of them.
    """

    system_time: int
    uptime: int
    bias_hours: int
    tick_count: int
    product_type: int
    suite: int
    kernel_base: int
    kernel_size: int
    pte_base: int
    memory: tuple[tuple[int, int], ...]
    physical_ranges: Mapping[str, int]
    bug_check: BugCheck
    processors: tuple[Processor, ...]
    drivers: tuple[Driver, ...]
    unloaded: tuple[Unloaded, ...]
    processes: tuple[Process, ...]
    pfn_database: int
    paged_pool: int
    nonpaged_pool: int
    session_space: int
    large_page: tuple[int, int]
    paged_out: tuple[int, ...] = ()
    driver_objects: tuple[DriverObject, ...] = ()
    requests: tuple[Request, ...] = ()
    pending: tuple[PendingRequest, ...] = ()
    resources: tuple[Resource, ...] = ()
    work_queues: tuple[WorkQueue, ...] = ()
    timers: tuple[Timer, ...] = ()
    error_log: tuple[LogEntry, ...] = ()
    structures: tuple[KernelStructure, ...] = ()
    variables: tuple[Variable, ...] = ()
    records: tuple[Record, ...] = ()
    triage_blocks: tuple[tuple[int, int], ...] = ()
    tagged: Mapping[str, bytes] = field(default_factory=dict)
    lists_memory: bool = False
    regions: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    kernel_functions: tuple[Function, ...] = ()
    system_root: str = "C:\\Windows"
    memory_use: MemoryUse = field(default_factory=MemoryUse)
    page_frames: PageFrames | None = None
    pools: PoolScene = USUAL
