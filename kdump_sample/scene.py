"""What is in a made dump, as data: the machine, its modules, processes and threads, and the bug check.

:func:`high_irql_fault` is the crash of a published session with WinDbg: NotMyFault's driver reads paged pool at a
raised IRQL on Windows 10 19041, while Notepad waits for messages. Every address that the session shows is used as it
stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdump_sample.code import Allocate, Call, Function, pushes
from kdump_sample.memory_use import MemoryUse, PageFrames
from kdump_sample.pe import (
    CODE,
    DISCARDABLE,
    INITIALISATION_CODE,
    READ_ONLY,
    READ_WRITE,
    Codeview,
    Section,
)
from kdump_sample.pools import USUAL, PoolScene
from kdump_sample.regions import Region
from kdump_sample.stacks import Frame, Trap
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
class Thread:
    """A thread: its stack as frames, outermost first, and the fields of ETHREAD and KTHREAD that a scene sets."""

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


@dataclass(frozen=True)
class Process:
    """A process and the fields of EPROCESS that a scene sets. ``created`` is in seconds before the crash.

    ``hidden_from`` are places that it was unlinked from: ``list`` (PsActiveProcessHead), ``ids`` (PspCidTable),
    ``session``, ``handles``. ``regions`` make a tree of VADs; without them there is only the node at ``vad_root``.
    ``identity`` is what the token at ``token`` says; without it nothing is there.
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
    check's own code adds it. ``regions`` are the parts of the kernel's address space, (address, bytes) by the names of
    _MI_ASSIGNED_REGION_TYPES. ``kernel_functions`` are functions of the kernel's image besides those that every scene
    has, or in place of them.
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
    error_log: tuple[LogEntry, ...] = ()
    structures: tuple[KernelStructure, ...] = ()
    variables: tuple[Variable, ...] = ()
    records: tuple[Record, ...] = ()
    triage_blocks: tuple[tuple[int, int], ...] = ()
    regions: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    kernel_functions: tuple[Function, ...] = ()
    system_root: str = "C:\\Windows"
    memory_use: MemoryUse = field(default_factory=MemoryUse)
    page_frames: PageFrames | None = None
    pools: PoolScene = USUAL


# the crash ----------------------------------------------------------------------------------------------------------

_FAULT_ADDRESS = 0xFFFFD8024AAA8010
_FAULT_IP = 0xFFFFF80060DA1981
_IRP = 0xFFFF91894ED94D70
_SYSTEM_FRAME = 0xFFFFD48F77AF9EC0
_DEVICE_OBJECT = 0xFFFF91894ED31E00
_FILE_OBJECT = 0xFFFF91894F0D2A20
_CONTROL_CODE = 0x83360018
_CRASH_THREAD = 0xFFFF918952F55080

#: NotMyFault: allocates paged pool, raises the IRQL, reads what it allocated.
_MYFAULT_FUNCTIONS = {
    0x1950: Function(
        "HighIrqlFault",
        (*pushes("rbx"), Allocate(0x20)),
        (Call(0x1C, "import:ExAllocatePoolWithTag"), Call(0x31, "import:KeRaiseIrqlToDpcLevel")),
        body={
            0x06: bytes.fromhex("ba90080000"),  # mov edx,890h
            0x0B: bytes.fromhex("b901000000"),  # mov ecx,1
            0x10: bytes.fromhex("41b84d794661"),  # mov r8d,6146794Dh
            0x1C: bytes.fromhex("488bd8"),  # mov rbx,rax
            0x1F: bytes.fromhex("4885c0"),  # test rax,rax
            0x22: bytes.fromhex("740f"),  # je to the epilogue
            0x31: bytes.fromhex("8b03"),  # mov eax,dword ptr [rbx]
        },
    ),
    0x1C80: Function("DoFault", (*pushes("rbx", "rsi", "rdi"), Allocate(0x120)), (Call(0xBD, "local:HighIrqlFault"),)),
    0x1E40: Function(
        "DeviceControl",
        (*pushes("rbx"), Allocate(0x50)),
        (Call(0x61, "local:DoFault"),),
        body={0x20: bytes.fromhex("41b84c65616b")},  # mov r8d,6B61654Ch
    ),
}

_WIN32KFULL_FUNCTIONS = {
    0x146860: Function(
        "NtUserMsgWaitForMultipleObjectsEx",
        (*pushes("rbx", "rsi", "rdi", "r12", "r13", "r14", "r15"), Allocate(0x8F0)),
        (Call(0x3FE, "local:xxxMsgWaitForMultipleObjectsEx"),),
    ),
    0x2378B4: Function(
        "xxxMsgWaitForMultipleObjectsEx",
        (*pushes("rbx", "rsi", "rdi"), Allocate(0x90)),
        (Call(0xD9, "import:ObWaitForMultipleObjects"),),
    ),
}

_WIN32K_FUNCTIONS = {
    0x6FB0: Function(
        "NtUserMsgWaitForMultipleObjectsEx",
        (Allocate(0x38),),
        (Call(0x20, "import:win32kfull!NtUserMsgWaitForMultipleObjectsEx"),),
    ),
}


def _sections(code: int, data: int, size: int, first: int = 0x1000) -> tuple[Section, ...]:
    """Usual sections of a driver: code, read-only data behind it, data, exception data and the rest at the end."""
    tail = size - 0x8000
    return (
        Section(".text", first, code - first, CODE),
        Section(".rdata", code, data - code, READ_ONLY),
        Section(".data", data, tail - data, READ_WRITE),
        Section(".pdata", tail, 0x1000, READ_ONLY),
        Section(".xdata", tail + 0x1000, 0x1000, READ_ONLY),
        Section(".edata", tail + 0x2000, 0x2000, READ_ONLY),
        Section("INIT", tail + 0x4000, 0x2000, INITIALISATION_CODE),
        Section(".rsrc", tail + 0x6000, 0x1000, DISCARDABLE),
        Section(".reloc", tail + 0x7000, 0x1000, DISCARDABLE),
    )


def _driver(name: str, base: int, size: int, timestamp: int, checksum: int, guid: str, **more: object) -> Driver:
    codeview = Codeview(name.rsplit(".", 1)[0] + ".pdb", guid, 1)
    code = 0x1000 + ((size - 0x9000) // 2 & ~0xFFF)
    sections = _sections(code, code + 0x1000, size)
    return Driver(name, base, size, timestamp, checksum, codeview, sections=sections, **more)  # type: ignore[arg-type]


_SYSTEM32 = "\\SystemRoot\\system32\\"

_DRIVERS = (
    _driver(
        "hal.dll",
        0xFFFFF8005F610000,
        0xF000,
        0x1A7BE8E9,
        0x9F1C,
        "6A1F0B5C1D224E0FB3EE27C6E3F1A901",
        directory=_SYSTEM32,
    ),
    _driver(
        "kd.dll",
        0xFFFFF8005F620000,
        0xF000,
        0xFE185FA8,
        0x1352B,
        "0D38E51FF9BA4E6DA0C4B62E29E33402",
        directory=_SYSTEM32,
    ),
    _driver("CLFS.SYS", 0xFFFFF8005F660000, 0x6A000, 0x503208A5, 0x6E3D8, "1A0CBF8E0B7A45E0AF3F0B4E0A21B203"),
    _driver("FLTMGR.SYS", 0xFFFFF8005F730000, 0x71000, 0x4C9EA77B, 0x7A0F2, "9C8E55A4B3E64DF5AD4D3E3A8B2F4404"),
    _driver(
        "CI.dll",
        0xFFFFF8005F8F0000,
        0xE0000,
        0x6E86C2B4,
        0xE77A1,
        "57F00C8B7EC1497A8C6AC0A4B11E7305",
        directory=_SYSTEM32,
    ),
    _driver("Wdf01000.sys", 0xFFFFF8005FA80000, 0xD1000, 0x3A0F2B11, 0xD96C3, "2B8F4D0E6C9440E4BE6A5C0E10A6E406"),
    _driver("ACPI.sys", 0xFFFFF8005FB90000, 0xCC000, 0x7B1E6D5C, 0xD0A55, "E3B4F1C2650B4C11B8D0A2C6F47D9507"),
    _driver("pci.sys", 0xFFFFF8005FCD0000, 0x78000, 0x2A6F6A54, 0x7E1F0, "8A30C7F4B2C14C9E8A10F1B6C05E2808"),
    _driver("storport.sys", 0xFFFFF8005FE30000, 0xB0000, 0x1C3D90D2, 0xB70B2, "F0C6B7A91E814B2A9F7C45D1E3A60909"),
    _driver("Ntfs.sys", 0xFFFFF800601A0000, 0x2D8000, 0x46C1D3F7, 0x2D6F4C, "B5D2E8F77A1C47B59D3F0A9B6C2E1110"),
    _driver("ndis.sys", 0xFFFFF800604C0000, 0x171000, 0x0B6E53A0, 0x17A8D4, "C7E0A3D5F4B14D628E1C3B5A7F902211"),
    _driver("tcpip.sys", 0xFFFFF80060690000, 0x2EC000, 0x5F1DA1C8, 0x2F1B60, "D1F3C5B7A9E84C609B2D4F6A8C0E3312"),
    _driver("intelppm.sys", 0xFFFFF80060C80000, 0x42000, 0x2E0A4F9D, 0x4C5D0, "A6B8C0D2E4F64871B3C5D7E9F1A34413"),
    Driver(
        "myfault.sys",
        0xFFFFF80060DA0000,
        0x9000,
        0x5D2F6B7A,
        0xF2C1,
        Codeview("d:\\work\\notmyfault\\exe\\release64\\myfault.pdb", "3E5C7A91B4D24F0E8A6C1D9F2B735514", 1),
        directory="\\??\\C:\\Windows\\system32\\drivers\\",
        version=(4, 0, 0, 0),
        description="NotMyfault crash driver",
        company="Sysinternals",
        functions=_MYFAULT_FUNCTIONS,
        imports=("ExAllocatePoolWithTag", "ExFreePoolWithTag", "IofCompleteRequest", "KeRaiseIrqlToDpcLevel"),
        import_rva=0x3000,
        sections=(
            Section(".text", 0x1000, 0x2000, CODE),
            Section(".rdata", 0x3000, 0x1000, READ_ONLY),
            Section(".data", 0x4000, 0x1000, READ_WRITE),
            Section(".pdata", 0x5000, 0x1000, READ_ONLY),
            Section(".xdata", 0x6000, 0x1000, READ_ONLY),
            Section("INIT", 0x7000, 0x1000, INITIALISATION_CODE),
            Section(".rsrc", 0x8000, 0x1000, DISCARDABLE),
        ),
    ),
    Driver(
        "win32kfull.sys",
        0xFFFFECCBD0A00000,
        0x3B6000,
        0x6B8E1C55,
        0x3B0D62,
        Codeview("win32kfull.pdb", "4F6A8C0E2B1D43579F7E5D3C1B0A6615", 1),
        directory=_SYSTEM32,
        functions=_WIN32KFULL_FUNCTIONS,
        imports=("ObWaitForMultipleObjects", "KeWaitForMultipleObjects"),
        import_rva=0x2F0000,
        exported=True,
        sections=_sections(0x2F0000, 0x350000, 0x3B6000),
    ),
    _driver(
        "win32kbase.sys",
        0xFFFFECCBD0DC0000,
        0x2D5000,
        0x1F4B0E63,
        0x2D2F17,
        "5A7C9E1F3B2D44688F6E4D2C0B1A7716",
        directory=_SYSTEM32,
    ),
    Driver(
        "win32k.sys",
        0xFFFFECCBD15D0000,
        0x9A000,
        0x40C2D8AF,
        0x8FA11,
        Codeview("win32k.pdb", "6B8D0F2A4C3E45799A7F5E3D1C2B8817", 1),
        directory=_SYSTEM32,
        functions=_WIN32K_FUNCTIONS,
        imports=("win32kfull!NtUserMsgWaitForMultipleObjectsEx",),
        import_rva=0x60000,
        exported=True,
        sections=_sections(0x60000, 0x80000, 0x9A000),
    ),
)

_UNLOADED = (
    Unloaded("dump_storport.sys", 0xFFFFF800600E0000, 0xFFFFF800600EF000, 41),
    Unloaded("WdBoot.sys", 0xFFFFF8005F8D0000, 0xFFFFF8005F8E2000, 48),
    Unloaded("hwpolicy.sys", 0xFFFFF80060180000, 0xFFFFF80060190000, 52),
)

#: The thread that crashed, from NtDeviceIoControlFile's caller in user mode down to the bug check.
_CRASH_FRAMES = (
    Frame(
        "KiSystemCall64",
        trap=Trap(
            {"rax": 0x7, "rcx": 0x7FF8F16ECE54, "rdx": 0, "r8": 0, "r9": 0, "r10": 0x1E8, "r11": 0x246},
            eflags=0x246,
            cs=0x33,
            ss=0x2B,
            rip=0x00007FF8F16ECE54,
            rsp=0x0000007AE6BDE8D8,
            fields={"PreviousMode": 1, "ExceptionActive": 2},
        ),
        arguments=(0x00000000FFFFFFFC, 0xFFFF512100000000, 0x1, 0x000001E35F5E99A0),
        words={0x20: 0x7AE6BDE930, 0x28: _CONTROL_CODE, 0x30: 0x1E35FB24550, 0x38: 0xF0, 0x40: 0, 0x48: 0},
    ),
    Frame(
        "NtDeviceIoControlFile",
        (0, 0, 0, 0),
        words={0x20: 0x7AE6BDE930, 0x28: _CONTROL_CODE, 0x30: 0x1E35FB24550, 0x38: 0xF0},
    ),
    Frame(
        "IopXxxControlFile",
        (0, _SYSTEM_FRAME, 0, _SYSTEM_FRAME),
        sets={
            "rbx": _IRP,
            "rsi": _FILE_OBJECT,
            "rdi": 0,
            "r12": _CONTROL_CODE,
            "r13": 0xE,
            "r14": _DEVICE_OBJECT,
            "r15": 0x1,
        },
    ),
    Frame(
        "IopSynchronousServiceTail",
        (_SYSTEM_FRAME, _IRP, 0x1, 0xFFFFF80000000000),
        sets={"rbx": _DEVICE_OBJECT, "rbp": 0x2, "rdi": _IRP, "r12": 0, "r14": 0x1, "r15": _FILE_OBJECT},
    ),
    Frame("IofCallDriver", (_IRP, 0x1, _SYSTEM_FRAME, 0x1)),
    Frame("myfault!DeviceControl", (_IRP, 0, 0, 0xFFFFF80062BF5E51), sets={"rbx": _IRP}),
    Frame("myfault!DoFault", (0xC85C00F0, 0x1E35FB24550, 0xF0, 0), sets={"rbx": _DEVICE_OBJECT, "rsi": 0xF0}),
    Frame("myfault!HighIrqlFault", (0, 0xFFFFD48F77AF99C8, 0, 0), sets={"rbx": _FAULT_ADDRESS}, stopped_at=0x31),
    Frame(
        "KiPageFault",
        (0x7FF8F16ECC00, 0, 0xF4D, 0),
        trap=Trap(
            {
                "rax": 0xC85C00F0,
                "rcx": 0xFFFFD80241E00340,
                "rdx": 0x890,
                "r8": 0xFFFFD8024ABBDC80,
                "r9": 0,
                "r10": 0xFFFFD80241E002C0,
                "r11": 0xFFFFD8024AA9BFF0,
            },
            eflags=0x50286,
            cs=0x10,
            ss=0x18,
            fields={"PreviousIrql": 2, "ExceptionActive": 1, "FaultAddress": _FAULT_ADDRESS},
        ),
    ),
    Frame("KiBugCheckDispatch", (0xA, _FAULT_ADDRESS, 0x2, 0), words={0x20: _FAULT_IP}),
)

#: The frames under every wait.
_SWITCH = (
    Frame("KiCommitThreadWait"),
    Frame("KiSwapThread"),
    Frame("KiSwapContext"),
    Frame("SwapContext"),
)


def _system_call(rip: int, rsp: int) -> Frame:
    """Entry from user mode by a system call."""
    return Frame(
        "KiSystemCall64",
        trap=Trap(
            {"rax": 0, "rcx": rip, "rdx": 0, "r8": 0, "r9": 0, "r10": 0, "r11": 0x246},
            eflags=0x246,
            cs=0x33,
            ss=0x2B,
            rip=rip,
            rsp=rsp,
            fields={"PreviousMode": 1, "ExceptionActive": 2},
        ),
    )


_NOTEPAD_FRAMES = (
    _system_call(0x00007FF8EED7A104, 0x000000BB6F17E2D8),
    Frame("win32k!NtUserMsgWaitForMultipleObjectsEx"),
    Frame("win32kfull!NtUserMsgWaitForMultipleObjectsEx"),
    Frame("win32kfull!xxxMsgWaitForMultipleObjectsEx"),
    Frame("ObWaitForMultipleObjects"),
    Frame("KeWaitForMultipleObjects"),
    *_SWITCH,
)


def _waiting(rip: int, rsp: int) -> tuple[Frame, ...]:
    return (
        _system_call(rip, rsp),
        Frame("NtWaitForSingleObject"),
        Frame("ObWaitForSingleObject"),
        Frame("KeWaitForSingleObject"),
        *_SWITCH,
    )


_WORKER_FRAMES = (
    Frame("KiStartSystemThread"),
    Frame("PspSystemThreadStartup"),
    Frame("ExpWorkerThread"),
    Frame("KeRemovePriQueue"),
    *_SWITCH,
)

#: The idle loop; which of the innermost frames there are depends on the kernel.
IDLE_FRAMES = (
    Frame("KiIdleLoop"),
    Frame("PoIdle"),
    Frame("PpmIdleExecuteTransition"),
    Frame("PpmIdleDefaultExecute"),
    Frame("HalProcessorIdle"),
)

_DEVICE = "\\Device\\HarddiskVolume3\\"
_STACKS = 0xFFFFD48F76F07000


def _background(
    number: int,
    pid: int,
    parent: int,
    image: str,
    directory: int,
    created: float,
    path: str,
    session: int | None = None,
) -> Process:
    """A process that the session does not show: one thread that waits for an event."""
    address = 0xFFFF91894F200080 + number * 0x41000
    thread = address + 0x3000
    return Process(
        address,
        pid,
        parent,
        image,
        directory,
        created,
        _DEVICE + path,
        session,
        peb=0x6D4C3E1000 + number * 0x1000000 if path.endswith(".exe") else 0,
        token=0xFFFFD802463B0060 + number * 0x5000,
        handle_table=0xFFFFD80246700040 + number * 0x3000,
        handles=120 + 37 * number,
        device_map=0xFFFFD80241C13070,
        fields={"Pcb.BasePriority": 8, "CommitCharge": 500 + number, "VirtualSize": 0x20100000000},
        threads=(
            Thread(
                thread,
                pid + 4,
                _STACKS + number * 0x7000,
                _waiting(0x00007FF8F16EC0F4, 0x6D4C4FF8F8 + number * 0x1000000),
                teb=0x6D4C3E2000 + number * 0x1000000,
                start_address=0x00007FF8F16A2680,
                win32_start_address=0x00007FF7A0B01234,
                wait_objects=(WaitObject(address + 0x3A00, 1),),
                wait_reason=6,
                wait_mode=1,
                wait_time=3300 + number,
                context_switches=210 + 13 * number,
                created=created,
            ),
        ),
    )


_SYSTEM = Process(
    0xFFFF91894C27A040,
    4,
    0,
    "System",
    0x1AD000,
    54.755,
    token=0xFFFFD80241C08700,
    handle_table=0xFFFFD80241C03840,
    handles=2312,
    device_map=0xFFFFD80241C13070,
    fields={"Pcb.BasePriority": 8, "CommitCharge": 49, "VirtualSize": 0x3C4000},
    threads=(
        Thread(
            0xFFFF91894C2B3040,
            0xC,
            _STACKS - 0x7000,
            _WORKER_FRAMES,
            wait_objects=(WaitObject(0xFFFF91894C2B6A00, 4),),
            wait_reason=15,
            wait_time=3420,
            context_switches=911,
            priority=12,
            base_priority=8,
            created=54.7,
            registers={"rbx": 0},
        ),
    ),
)

_NOTMYFAULT = Process(
    0xFFFF91895301A080,
    0x1C58,
    0x15E8,
    "notmyfault64.exe",
    0x1F3A2A000,
    20.417,
    _DEVICE + "Tools\\NotMyFault\\notmyfault64.exe",
    2,
    peb=0x7AE6A10000,
    token=0xFFFFD8024A63A060,
    handle_table=0xFFFFD8024A7C5200,
    handles=192,
    device_map=0xFFFFD80247FE8CF0,
    fields={"Pcb.BasePriority": 8, "CommitCharge": 822, "VirtualSize": 0x20106A20000},
    threads=(
        Thread(
            _CRASH_THREAD,
            0x1C5C,
            0xFFFFD48F77AFA000,
            _CRASH_FRAMES,
            state=2,
            teb=0x7AE6A11000,
            win32_thread=0xFFFF91895260D3A0,
            start_address=0x00007FF8F16A2680,
            win32_start_address=0x00007FF6D0C41F60,
            wait_time=3503,
            context_switches=842,
            ideal_processor=1,
            processor=2,
            user_ticks=3,
            kernel_ticks=5,
            priority=12,
            created=20.4,
            registers={
                "rbx": 0x7AE6BDE9D0,
                "rsi": _CONTROL_CODE,
                "rdi": 0x1E35FB24550,
                "rbp": 0x7AE6BDEA40,
                "r12": 0,
                "r13": 0,
                "r14": 0x1E8,
                "r15": 0,
            },
        ),
    ),
    command_line='"C:\\Tools\\NotMyFault\\notmyfault64.exe" ',
    parameters=0x1E35F581000,
    image_base=0x7FF6D0C40000,
)

_NOTEPAD = Process(
    0xFFFF9189527E9080,
    0x1E90,
    0x15E8,
    "notepad.exe",
    0x1D822D000,
    47.378215,
    _DEVICE + "Windows\\System32\\notepad.exe",
    2,
    peb=0xBB6F2AC000,
    token=0xFFFFD8024A19C770,
    handle_table=0xFFFFD80249EB8040,
    handles=817,
    device_map=0xFFFFD80247FE8CF0,
    vad_root=0xFFFF918953A30A20,
    fields={
        "Pcb.BasePriority": 8,
        "VadCount": 285,
        "NumberOfPrivatePages": 2175,
        "ModifiedPageCount": 340,
        "NumberOfLockedPages": 2,
        "QuotaPaged": 430688,
        "QuotaNonPaged": 39648,
        "WorkingSetSize": 11788,
        "MinimumWorkingSetSize": 50,
        "MaximumWorkingSetSize": 345,
        "PeakWorkingSetSize": 11793,
        "PageFaultCount": 14745,
        "VirtualSize": (2101500 << 20) + 0x5C000,
        "PeakVirtualSize": (2101501 << 20) + 0x80000,
        "CommitCharge": 3452,
    },
    threads=(
        Thread(
            0xFFFF91895309D080,
            0x1E94,
            0xFFFFD48F777C0000,
            _NOTEPAD_FRAMES,
            teb=0xBB6F2AD000,
            win32_thread=0xFFFF9189523D0FC0,
            start_address=0x00007FF8F16A2680,
            win32_start_address=0x00007FF7E2E85A30,
            wait_objects=(WaitObject(0xFFFF918953118260, 1), WaitObject(0xFFFF918952D83D80, 4)),
            wait_reason=6,
            wait_mode=1,
            wait_time=3492,
            context_switches=10798,
            ideal_processor=2,
            user_ticks=9,
            kernel_ticks=21,
            priority=10,
            created=47.378,
            registers={
                "rbx": 0xBB6F17E3B0,
                "rbp": 0xBB6F17E3F0,
                "rsi": 1,
                "rdi": 0,
                "r12": 0,
                "r13": 0x1CFF,
                "r14": 1,
                "r15": 0,
            },
        ),
    ),
    command_line='"C:\\Windows\\system32\\notepad.exe" C:\\Users\\user\\Desktop\\note.txt',
    parameters=0x1A8C4B31000,
    image_base=0x7FF7E2E60000,
)


# devices ------------------------------------------------------------------------------------------------------------

_ACPI_DRIVER, _PCI_DRIVER, _PPM_DRIVER = 0xFFFF91894E210DF0, 0xFFFF91894E214DF0, 0xFFFF91894E218DF0
_NTFS_DRIVER, _FILTER_DRIVER = 0xFFFF91894E21CDF0, 0xFFFF91894E220DF0
_PROCESSOR_PDO, _ROOT_PDO, _PCI_PDO = 0xFFFF91894E231060, 0xFFFF91894E232060, 0xFFFF91894E233060
_PCI_FILTER, _PCI_BUS, _PROCESSOR_FDO = 0xFFFF91894E234A20, 0xFFFF91894E235A20, 0xFFFF91894E236A20
_NTFS_DEVICE, _FILTER_DEVICE = 0xFFFF91894E237060, 0xFFFF91894E238060
_DISPATCH_RVA, _COMPLETION_RVA = 0x1000, 0x1420
_ACPI_TYPE, _UNKNOWN_TYPE, _FILE_SYSTEM_TYPE, _BUS_TYPE = 0x32, 0x22, 0x8, 0x4
_EVERY_DISPATCH = dict.fromkeys((0, 2, 14, 15, 22, 23, 27), _DISPATCH_RVA)
_FILE_DISPATCH = dict.fromkeys((0, 2, 3, 4, 5, 6, 9, 12, 13, 14, 18), _DISPATCH_RVA)
_DIRECTORY_CONTROL, _NOTIFY_CHANGE = 12, 2

_DRIVER_OBJECTS = (
    DriverObject(
        "ACPI",
        _ACPI_DRIVER,
        "\\Driver\\ACPI",
        _PROCESSOR_PDO,
        _ACPI_TYPE,
        "",
        devices=(
            Device(
                _PROCESSOR_PDO,
                _ACPI_TYPE,
                "\\Device\\0000001c",
                node=DeviceNode(0xFFFF91894E241A20, "ACPI\\GenuineIntel_-_Intel64_Family_6_Model_158\\_1", "intelppm"),
            ),
            Device(
                _ROOT_PDO,
                _ACPI_TYPE,
                "\\Device\\00000018",
                node=DeviceNode(0xFFFF91894E242A20, "ACPI\\PNP0A08\\0", "pci"),
            ),
            Device(_PCI_FILTER, _ACPI_TYPE, below=_PCI_PDO, extension=0xFFFF91894C4E0010),
        ),
        majors=_EVERY_DISPATCH,
    ),
    DriverObject(
        "pci",
        _PCI_DRIVER,
        "\\Driver\\pci",
        _PCI_PDO,
        _UNKNOWN_TYPE,
        "",
        devices=(
            Device(
                _PCI_PDO,
                _UNKNOWN_TYPE,
                "\\Device\\NTPNP_PCI0007",
                extension=_PCI_PDO + 0x150,
                node=DeviceNode(
                    0xFFFF91894E243A20, "PCI\\VEN_8086&DEV_A36D&SUBSYS_86941043&REV_10\\3&11583659&0&A0", ""
                ),
            ),
            Device(_PCI_BUS, _BUS_TYPE, below=_ROOT_PDO, extension=_PCI_BUS + 0x150),
        ),
        majors=_EVERY_DISPATCH,
    ),
    DriverObject(
        "intelppm",
        _PPM_DRIVER,
        "\\Driver\\intelppm",
        _PROCESSOR_FDO,
        _UNKNOWN_TYPE,
        "",
        devices=(Device(_PROCESSOR_FDO, _UNKNOWN_TYPE, below=_PROCESSOR_PDO, extension=_PROCESSOR_FDO + 0x150),),
        majors=_EVERY_DISPATCH,
    ),
    DriverObject(
        "Ntfs",
        _NTFS_DRIVER,
        "\\FileSystem\\Ntfs",
        _NTFS_DEVICE,
        _FILE_SYSTEM_TYPE,
        "",
        devices=(Device(_NTFS_DEVICE, _FILE_SYSTEM_TYPE, "\\Ntfs"),),
        majors=_FILE_DISPATCH,
    ),
    DriverObject(
        "FLTMGR",
        _FILTER_DRIVER,
        "\\FileSystem\\FltMgr",
        _FILTER_DEVICE,
        _FILE_SYSTEM_TYPE,
        "",
        devices=(Device(_FILTER_DEVICE, _FILE_SYSTEM_TYPE, below=_NTFS_DEVICE, extension=_FILTER_DEVICE + 0x150),),
        majors=_FILE_DISPATCH,
    ),
)

#: Explorer waits for changes of a directory: the filter manager has passed the request on to the file system.
_DIRECTORY_CHANGES = PendingRequest(
    0xFFFF91894E250A60,
    0xFFFF91894F200080 + 6 * 0x41000 + 0x3000,
    0xFFFF91894E251A20,
    "\\Users\\user\\Desktop",
    (
        Location(
            _DIRECTORY_CONTROL,
            _NOTIFY_CHANGE,
            _NTFS_DEVICE,
            1,
            0xE1,
            (0x1000, 0x15F, 0, 0),
            ("FLTMGR", _COMPLETION_RVA),
            0xFFFF91894E252B10,
        ),
        Location(_DIRECTORY_CONTROL, _NOTIFY_CHANGE, _FILTER_DEVICE, 1, 0x1, (0x1000, 0x15F, 0, 0)),
    ),
    1,
)


def high_irql_fault() -> Scene:
    """The crash in myfault.sys, bug check 0xD1, of 2021-10-07 11:33:12.945 UTC."""
    return Scene(
        # 2021-10-07 11:33:12.9450000 UTC and a fraction of a millisecond
        system_time=132_780_799_929_453_817,
        uptime=547_557_013,
        bias_hours=-9,
        tick_count=3504,
        product_type=1,
        suite=0x110,
        kernel_base=0xFFFFF80062600000,
        kernel_size=0x1046000,
        pte_base=0xFFFFBD0000000000,
        memory=((0x1, 0x9F), (0x100, 0xBFE00), (0x100000, 0x140000)),
        physical_ranges={"tables": 0x110000, "kernel": 0x120000, "user": 0x1A4000},
        bug_check=BugCheck(
            0xD1,
            (_FAULT_ADDRESS, 0x2, 0, _FAULT_IP),
            (0xA, _FAULT_ADDRESS, 0x2, 0, _FAULT_IP),
            2,
            {"rax": 0xFFFFD48F77AF97A0, "r10": _FAULT_IP, "r11": 0xFFFFD8024AA9BFF0},
            "myfault",
        ),
        processors=(
            Processor(0xFFFFF8005E6A7000, 0xFFFFF80067A75000),
            Processor(0xFFFFC3014F3C0000, 0xFFFFD48F76A0E000, 0xFFFFC3014F3CC140),
            Processor(0xFFFFC3014F460000, 0xFFFFD48F76A47000, 0xFFFFC3014F46C140),
        ),
        drivers=_DRIVERS,
        unloaded=_UNLOADED,
        processes=(
            _SYSTEM,
            _background(0, 0x1C4, 0x4, "smss.exe", 0x10A8D1000, 54.1, "Windows\\System32\\smss.exe"),
            _background(1, 0x244, 0x23C, "csrss.exe", 0x11B403000, 53.2, "Windows\\System32\\csrss.exe", 0),
            _background(2, 0x28C, 0x23C, "wininit.exe", 0x11B9F2000, 53.0, "Windows\\System32\\wininit.exe", 0),
            _background(3, 0x2D8, 0x28C, "services.exe", 0x11C511000, 52.8, "Windows\\System32\\services.exe", 0),
            _background(4, 0x2FC, 0x28C, "lsass.exe", 0x11CD7A000, 52.7, "Windows\\System32\\lsass.exe", 0),
            _background(5, 0x10E4, 0x10D8, "winlogon.exe", 0x172B15000, 50.4, "Windows\\System32\\winlogon.exe", 2),
            _background(6, 0x15E8, 0x15C0, "explorer.exe", 0x1C01C6000, 49.6, "Windows\\explorer.exe", 2),
            _NOTEPAD,
            _NOTMYFAULT,
        ),
        pfn_database=0xFFFFA98000000000,
        paged_pool=0xFFFFD80248000000,
        nonpaged_pool=0xFFFF91894D600000,
        session_space=0xFFFFC30150002000,
        large_page=(0xFFFF918952600000, 0x1C2200),
        paged_out=(_FAULT_ADDRESS,),
        regions={
            "NonPagedPool": (0xFFFF918000000000, 1 << 44),
            "PfnDatabase": (0xFFFFA98000000000, 1 << 39),
            "PageTables": (0xFFFFBD0000000000, 1 << 39),
            "HyperSpace": (0xFFFFBD8000000000, 1 << 39),
            "SystemPtes": (0xFFFFC30000000000, 1 << 40),
            "KernelStacks": (0xFFFFD48000000000, 1 << 39),
            "PagedPool": (0xFFFFD80000000000, 1 << 44),
            "Session": (0xFFFFEC8000000000, 1 << 39),
            "SystemImages": (0xFFFFF80000000000, 1 << 39),
        },
        driver_objects=(
            DriverObject("myfault", 0xFFFF91894ED30C80, "\\Driver\\MYFAULT", _DEVICE_OBJECT, 0x8336, "DeviceControl"),
            *_DRIVER_OBJECTS,
        ),
        requests=(Request(_IRP, _CRASH_THREAD, _DEVICE_OBJECT, _FILE_OBJECT, _CONTROL_CODE, 0xF0),),
        pending=(_DIRECTORY_CHANGES,),
    )
