"""Lays out a scene in physical memory, with the structures of one kernel's symbol table.

The order matters in two places only: images are finished after everything that writes into them, and the PML4 pages
after every mapping.
"""

from __future__ import annotations

import bisect
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from volatility3_kdump.layout import FieldPath, Layouts
from volatility3_kdump.sample import paging, pe
from volatility3_kdump.sample.code import Function, assemble
from volatility3_kdump.sample.functions import KERNEL_EXPORTS, KERNEL_FUNCTIONS
from volatility3_kdump.sample.kdbg import debugger_data
from volatility3_kdump.sample.pe import CODE, DISCARDABLE, READ_ONLY, READ_WRITE, Codeview, Section
from volatility3_kdump.sample.physical import PAGE, PhysicalMemory
from volatility3_kdump.sample.scene import IDLE_FRAMES, SECOND, Driver, Process, Processor, Scene, Thread
from volatility3_kdump.sample.stacks import Frame, Placed, Stack, lay_out
from volatility3_kdump.sample.structures import Structure, Structures, Value

SHARED_DATA = 0xFFFFF78000000000
USER_SHARED_DATA = 0x7FFE0000

#: The self-map before it was randomised (Windows 10 1607).
_FIXED_PTE_BASE = 0xFFFFF68000000000

#: RVA of the kernel's own exception, export and resource tables: behind everything that public symbols name.
_KERNEL_TABLES = 0xE02000
_KERNEL_DEBUG_RVA = 0x107A0

_CONTEXT_SIZE = 0x4D0
_CONTEXT_FLAGS = 0x10001F
_MXCSR = 0x1F80


@dataclass(frozen=True)
class Era:
    """What a kernel version implies beyond its symbols: version numbers, build lab, KDBG size."""

    build: int
    lab: str
    kdbg_size: int
    version: tuple[int, int] = (10, 0)


#: By the size of EPROCESS.
_ERAS = {
    0x4F8: Era(7601, "7601.17514.amd64fre.win7sp1_rtm.101119-1850", 0x340, (6, 1)),
    0x700: Era(10240, "10240.16384.amd64fre.th1.150709-1700", 0x360),
    0x708: Era(10586, "10586.0.amd64fre.th2_release.151029-1700", 0x360),
    0x7C8: Era(14393, "14393.0.amd64fre.rs1_release.160715-1616", 0x368),
    0x7D0: Era(14393, "14393.2430.amd64fre.rs1_release_inmarket_aim.180806-1810", 0x368),
    0x850: Era(17134, "17134.1.amd64fre.rs4_release.180410-1804", 0x380),
    0x858: Era(17763, "17763.1.amd64fre.rs5_release.180914-1434", 0x380),
    0x880: Era(18362, "18362.1.amd64fre.19h1_release.190318-1202", 0x380),
    0xA40: Era(19041, "19041.1.amd64fre.vb_release.191206-1406", 0x380),
    0xB80: Era(22000, "22000.1.amd64fre.co_release.210604-1628", 0x380),
    0xBC0: Era(22621, "22621.1.amd64fre.ni_release.220506-1250", 0x380),
}

#: Object types with their index in ObTypeIndexTable of Windows 10.
_OBJECT_TYPES = {"Type": 2, "Directory": 3, "Token": 5, "Process": 7, "Thread": 8, "Event": 16, "IoCompletion": 35}


@dataclass
class _Module:
    """A module as it is loaded, with its functions: name to (description, RVA, return addresses)."""

    path: str
    image: pe.Image
    functions: dict[str, tuple[Function, int, list[int]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Registers:
    """General registers, rip, rsp, eflags and selectors of a CONTEXT."""

    values: Mapping[str, int]
    eflags: int
    cs: int = 0x10
    ss: int = 0x18

    def context(self, flags: int = _CONTEXT_FLAGS) -> bytes:
        """A CONTEXT record of 0x4D0 bytes."""
        record = bytearray(_CONTEXT_SIZE)
        struct.pack_into("<II6HI", record, 0x30, flags, _MXCSR, self.cs, 0x2B, 0x2B, 0x53, 0x2B, self.ss, self.eflags)
        order = (
            "rax",
            "rcx",
            "rdx",
            "rbx",
            "rsp",
            "rbp",
            "rsi",
            "rdi",
            *(f"r{number}" for number in range(8, 16)),
            "rip",
        )
        struct.pack_into("<17Q", record, 0x78, *(self.values.get(name, 0) for name in order))
        struct.pack_into("<HHB", record, 0x100, 0x27F, 0, 0)
        struct.pack_into("<II", record, 0x118, _MXCSR, 0xFFFF)
        return bytes(record)


@dataclass(frozen=True)
class StackRange:
    """A thread's kernel stack: stack pointer, and the stack's lowest and first address beyond the highest."""

    pointer: int
    limit: int
    base: int


class Machine:
    """A scene laid out. :attr:`physical` then holds the dump's pages."""

    def __init__(self, scene: Scene, layouts: Layouts) -> None:
        self.scene = scene
        self.layouts = layouts
        self.era = _era(layouts)
        self.kernel_base = scene.kernel_base
        randomised = layouts.symbol("MmPteBase") is not None
        self.pte_base = scene.pte_base if randomised else _FIXED_PTE_BASE
        self.physical = PhysicalMemory(dict(scene.physical_ranges), scene.memory)
        self.memory = paging.AddressSpaces(self.physical, self.pte_base)
        self.structures = Structures(layouts, self.memory)
        self._sorted_symbols = sorted({rva for rva in map(layouts.symbol, layouts.symbol_names()) if rva})
        self._pools = {"paged": scene.paged_pool, "nonpaged": scene.nonpaged_pool}
        self.modules: list[_Module] = []
        self.context = b""
        self.contexts: list[int] = []
        self.stacks: dict[int, StackRange] = {}
        self.frames: dict[int, list[Placed]] = {}
        self.processor_blocks: list[int] = []
        self._build()

    # construction ---------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        scene = self.scene
        for process in scene.processes:
            self.memory.add_process(process.directory_table_base)
        self.memory.map_large(*scene.large_page, paging.KERNEL_DATA)
        self._load_modules()
        self._object_types()
        self._variables()
        self._shared_data()
        self._processes()
        self._processors()
        self._module_lists()
        self._debugger_data()
        for address in scene.paged_out:
            # a page-file PTE: offset 0x2A31C, page file 0, protection read-write, swizzled
            self.memory.set_entry(address, 0x2A31C << 32 | 4 << 5 | 1 << 4)
        for module in self.modules:
            self._write_image(module)
        self.memory.finish()

    def symbol(self, name: str) -> int | None:
        """The address of a kernel symbol."""
        rva = self.layouts.symbol(name)
        return None if rva is None else self.kernel_base + rva

    def variable(self, name: str, value: Value, size: int = 8) -> None:
        """Store a kernel variable, where the kernel has it: integer of ``size`` bytes, bytes, or ASCII text."""
        address = self.symbol(name)
        if address is None:
            return
        if isinstance(value, int):
            value = (value & ((1 << size * 8) - 1)).to_bytes(size, "little")
        elif isinstance(value, str):
            value = value.encode("ascii") + b"\0"
        elif not isinstance(value, bytes):
            value = b"".join(item.to_bytes(size, "little") for item in value)
        self.memory.write(address, value)

    def pool(self, kind: str, size: int) -> int:
        """The address of a new block of paged or nonpaged pool, 16-byte aligned behind room for a pool header."""
        address = self._pools[kind] + 0x10
        self._pools[kind] = (address + size + 15) & ~15
        return address

    def structure(self, type_name: str, address: int, values: Mapping[FieldPath, Value] | None = None) -> Structure:
        made = self.structures.at(type_name, address)
        made.fill(values or {})
        return made

    # modules --------------------------------------------------------------------------------------------------------

    def _load_modules(self) -> None:
        windows = self.layouts.metadata.get("windows", {}).get("pdb", {})
        codeview = Codeview(
            str(windows.get("database", "ntkrnlmp.pdb")), str(windows.get("GUID", "0" * 32)), int(windows.get("age", 1))
        )
        kernel = pe.Image(
            "ntoskrnl.exe",
            self.kernel_base,
            self.scene.kernel_size,
            0x4A5C9D1B,
            0xA61F2C,
            [],
            codeview,
            self._debug_rva(),
        )
        kernel.version = (*self.era.version, self.era.build, int(self.era.lab.split(".")[1]))
        kernel.description, kernel.company = "NT Kernel & System", "Microsoft Corporation"
        self.kernel = _Module("\\SystemRoot\\system32\\ntoskrnl.exe", kernel)
        self.modules.append(self.kernel)
        for driver in self.scene.drivers:
            self.modules.append(self._driver_module(driver))
        for function in KERNEL_FUNCTIONS.values():
            self._place_kernel_function(function)
        for name in KERNEL_EXPORTS:
            rva = self.layouts.symbol(name)
            if rva is not None:
                kernel.exports[name] = rva
        for module in self.modules:
            self._assemble(module)

    def _driver_module(self, driver: Driver) -> _Module:
        sections = list(driver.sections)
        image = pe.Image(
            driver.name, driver.base, driver.size, driver.timestamp, driver.checksum, sections, driver.codeview
        )
        image.debug_rva = image.section(".rdata").rva + 0x800
        image.version, image.description, image.company = driver.version, driver.description, driver.company
        image.entry_point = next((item.rva for item in sections if item.name == "INIT"), 0)
        module = _Module(driver.path, image)
        for rva, function in driver.functions.items():
            module.functions[function.name] = (function, rva, [rva + call.offset for call in function.calls])
            if driver.exported:
                image.exports[function.name] = rva
        return module

    def _debug_rva(self) -> int:
        """A place for the debug directory in the first megabytes, off the pages of the functions that are placed."""
        taken = {(self.layouts.symbol(name) or 0) // PAGE for name in KERNEL_FUNCTIONS}
        rva = _KERNEL_DEBUG_RVA
        while taken & {rva // PAGE - 1, rva // PAGE}:
            rva += PAGE
        return rva

    def _place_kernel_function(self, function: Function) -> None:
        """Find a function's address and call sites; a call site behind the next symbol is moved in front of it."""
        rva = next(
            (found for found in map(self.layouts.symbol, (function.name, *function.aliases)) if found is not None), None
        )
        if rva is None:
            return
        returns = []
        for call in function.calls:
            label = rva if call.label is None else self.layouts.symbol(call.label)
            if label is None:
                return
            returns.append(
                label + min(call.offset, self._room(label) - 8 if call.offset >= self._room(label) else call.offset)
            )
        self.kernel.functions[function.name] = (function, rva, returns)

    def _room(self, rva: int) -> int:
        """Bytes up to the next symbol."""
        index = bisect.bisect_right(self._sorted_symbols, rva)
        return self._sorted_symbols[index] - rva if index < len(self._sorted_symbols) else PAGE

    def _assemble(self, module: _Module) -> None:
        image = module.image
        driver = next((item for item in self.scene.drivers if item.base == image.base), None)
        slots: dict[str, int] = {}
        if driver is not None and driver.imports:
            addresses = [self._import(name) for name in driver.imports]
            image.chunks[driver.import_rva] = struct.pack(f"<{len(addresses)}Q", *addresses)
            slots = {name: driver.import_rva + 8 * index for index, name in enumerate(driver.imports)}
        for function, rva, returns in module.functions.values():
            sites = []
            for call, return_rva in zip(function.calls, returns, strict=True):
                sites.append((return_rva, self._call(module, call.target, return_rva, slots)))
            end = 0 if function.end is None else self.layouts.symbol(function.end) or 0
            image.functions.append(assemble(function, rva, sites, end))

    def _import(self, name: str) -> int:
        if "!" in name:
            stem, function = name.split("!")
            module = next(item for item in self.modules if item.image.name.rsplit(".", 1)[0] == stem)
            return module.image.base + module.functions[function][1]
        return self.symbol(name) or 0

    def _call(self, module: _Module, target: str, return_rva: int, slots: Mapping[str, int]) -> bytes:
        """The call instruction that ends at an RVA."""
        kind, _, name = target.rpartition(":")
        if kind == "register":
            return {"rax": b"\xff\xd0", "rbx": b"\xff\xd3", "r10": b"\x41\xff\xd2"}[name]
        if kind == "import":
            return b"\xff\x15" + struct.pack("<i", slots[name] - return_rva)
        known = module.functions.get(name)
        rva = known[1] if known is not None else self.layouts.symbol(name)
        return b"\xff\xd0" if rva is None else b"\xe8" + struct.pack("<i", rva - return_rva)

    def _write_image(self, module: _Module) -> None:
        image = module.image
        if module is self.kernel:
            image.sections = self._kernel_sections()
        for rva, data in pe.build(image).items():
            flags = paging.KERNEL_READ_ONLY
            if image.executable(rva):
                flags = paging.KERNEL_CODE
            elif image.writable(rva):
                flags = paging.KERNEL_DATA
            self.memory.write(image.base + rva, data, flags)

    def _kernel_sections(self) -> list[Section]:
        """Sections that fit what is in the image: symbols do not say where they begin, so code and data take turns
        between the pages that hold code and those that hold variables."""
        code = {
            page
            for item in self.kernel.image.functions
            for page in range(item.begin // PAGE, (item.end - 1) // PAGE + 1)
        }
        data = {
            page
            for page in range(1, _KERNEL_TABLES // PAGE)
            if self.memory.translate(self.kernel_base + page * PAGE) is not None
        } - code
        groups: list[tuple[bool, int]] = []
        for page in sorted(code | data):
            if not groups or groups[-1][0] != (page in code):
                groups.append((page in code, page))
        names = {
            True: iter((".text", "PAGE", "PAGELK", "POOLCODE", "PAGEKD", "PAGEVRFY")),
            False: iter((".rdata", ".data", "ALMOSTRO", "CACHEALI", "PAGEDATA")),
        }
        sections = []
        for index, (is_code, page) in enumerate(groups):
            start = 1 if index == 0 else page
            stop = groups[index + 1][1] if index + 1 < len(groups) else _KERNEL_TABLES // PAGE
            name = next(names[is_code], f"SECT{index}")
            sections.append(Section(name, start * PAGE, (stop - start) * PAGE, CODE if is_code else READ_WRITE))
        size = self.scene.kernel_size
        return [
            *sections,
            Section(".pdata", _KERNEL_TABLES, 0x80000, READ_ONLY),
            Section(".xdata", _KERNEL_TABLES + 0x80000, 0x40000, READ_ONLY),
            Section(".edata", _KERNEL_TABLES + 0xC0000, 0x20000, READ_ONLY),
            Section("INIT", _KERNEL_TABLES + 0xE0000, 0x80000, pe.INITIALISATION_CODE),
            Section(".rsrc", _KERNEL_TABLES + 0x160000, 0x40000, DISCARDABLE),
            Section(".reloc", _KERNEL_TABLES + 0x1A0000, size - _KERNEL_TABLES - 0x1A0000, DISCARDABLE),
        ]

    def find(self, name: str) -> tuple[Function, int, Sequence[int]] | None:
        """A function of a stack frame: description, address, return addresses; ``module!name`` or a kernel name."""
        if "!" in name:
            stem, name = name.split("!")
            module = next(item for item in self.modules if item.image.name.rsplit(".", 1)[0] == stem)
        else:
            module = self.kernel
        found = module.functions.get(name)
        if found is None:
            return None
        base = module.image.base
        return found[0], base + found[1], [base + rva for rva in found[2]]

    def _module_lists(self) -> None:
        type_name = (
            "_KLDR_DATA_TABLE_ENTRY" if self.layouts.has_type("_KLDR_DATA_TABLE_ENTRY") else "_LDR_DATA_TABLE_ENTRY"
        )
        entries = []
        for module in self.modules:
            image = module.image
            address = self.pool("nonpaged", max(self.structures.size(type_name), 0xA0))
            entry = self.structure(
                type_name,
                address,
                {
                    "DllBase": image.base,
                    "EntryPoint": image.base + image.entry_point,
                    "SizeOfImage": image.size,
                    "CheckSum": image.checksum,
                    "Flags": 0x49104000,
                },
            )
            entry.set(("LoadCount", "ObsoleteLoadCount"), 1)
            if type_name == "_KLDR_DATA_TABLE_ENTRY":
                entry.set("TimeDateStamp", image.timestamp)
                entry.set("SizeOfImageNotRounded", image.size)
                if image.functions:
                    entry.set(
                        "ExceptionTable",
                        image.base + (_KERNEL_TABLES if module is self.kernel else image.section(".pdata").rva),
                    )
                    entry.set("ExceptionTableSize", 12 * len(image.functions))
            entry.unicode("FullDllName", module.path, self.pool("paged", 2 * len(module.path) + 2))
            entry.unicode("BaseDllName", image.name, self.pool("nonpaged", 2 * len(image.name) + 2))
            entries.append(address)
        self.loader_entries = entries
        head = self.symbol("PsLoadedModuleList")
        if head is not None:
            self.structures.link(head, entries)
        table = self.pool("nonpaged", 50 * 0x28)
        self.memory.write(table, bytes(50 * 0x28))
        for index, item in enumerate(self.scene.unloaded):
            text = item.name.encode("utf-16-le")
            buffer = self.pool("nonpaged", len(text))
            self.memory.write(buffer, text)
            time = self.scene.system_time - item.seconds_ago * SECOND
            self.memory.write(
                table + 0x28 * index,
                struct.pack("<HHIQQQQ", len(text), len(text), 0, buffer, item.start, item.end, time),
            )
        self.variable("MmUnloadedDrivers", table)
        self.variable("MmLastUnloadedDriver", len(self.scene.unloaded), 4)

    # variables ------------------------------------------------------------------------------------------------------

    def _variables(self) -> None:
        scene, era = self.scene, self.era
        check = scene.bug_check
        descriptor = self.pool("nonpaged", 0x100)
        pages = sum(count for _, count in scene.memory)
        runs = b"".join(struct.pack("<QQ", *run) for run in scene.memory)
        self.memory.write(descriptor, struct.pack("<IIQ", len(scene.memory), 0, pages) + runs)
        self.variable("MmPhysicalMemoryBlock", descriptor)
        self.variable("MmNumberOfPhysicalPages", pages)
        self.variable("MmHighestPhysicalPage", self.physical.highest_pfn)
        self.variable("KiBugCheckData", (check.code, *check.parameters))
        self.variable("NtBuildLabEx", era.lab)
        branch = era.lab.split(".")
        self.variable("NtBuildLab", ".".join((branch[0], *branch[3:])) if era.build >= 10240 else era.lab[:32])
        self.variable("NtBuildNumber", 0xF0000000 | era.build, 4)
        self.variable("CmNtCSDVersion", 0x100 if era.build == 7601 else 0, 4)
        self.variable("KeNumberProcessors", len(scene.processors), 4)
        self.variable("KeMaximumIncrement", 156250, 4)
        self.variable("KeTimeIncrement", 156250, 4)
        self.variable("MmPfnDatabase", scene.pfn_database)
        self.variable("MmPteBase", self.pte_base)
        self.variable("PsNtosImageBase", self.kernel_base)
        self.variable("PsNtosImageEnd", self.kernel_base + scene.kernel_size)
        self.variable("MmHighestUserAddress", 0x7FFFFFFEFFFF)
        self.variable("MmSystemRangeStart", 0xFFFF800000000000)
        self.variable("MmUserProbeAddress", 0x7FFFFFFF0000)
        self.variable("ObHeaderCookie", _HEADER_COOKIE, 1)
        self.variable("KdDebuggerNotPresent", 1, 1)
        for name in ("ExpSystemResourcesList", "KeBugCheckCallbackListHead", "IopErrorLogListHead"):
            head = self.symbol(name)
            if head is not None:
                self.structures.link(head, ())
        block = self.symbol("KdVersionBlock")
        if block is not None and self.layouts.has_type("_DBGKD_GET_VERSION64"):
            self.structure(
                "_DBGKD_GET_VERSION64",
                block,
                {
                    "MajorVersion": 0xF,
                    "MinorVersion": era.build,
                    "ProtocolVersion": 6,
                    "KdSecondaryVersion": 2,
                    "Flags": 0x47,
                    "MachineType": 0x8664,
                    "MaxPacketType": 12,
                    "MaxStateChange": 3,
                    "MaxManipulate": 0x33,
                    "KernBase": self.kernel_base,
                    "PsLoadedModuleList": self.symbol("PsLoadedModuleList") or 0,
                    "DebuggerDataList": self.symbol("KdpDebuggerDataListHead") or 0,
                },
            )

    def _debugger_data(self) -> None:
        address = self.symbol("KdDebuggerDataBlock")
        assert address is not None
        head = self.symbol("KdpDebuggerDataListHead")
        links = (head, head) if head is not None else (address, address)
        pte_base = self.pte_base
        block = debugger_data(self.layouts, self.kernel_base, self.era.kdbg_size, pte_base, links)
        self.memory.write(address, block)
        if head is not None:
            self.structures.link(head, [address])
        self.debugger_data_address = address

    def _shared_data(self) -> None:
        scene = self.scene
        bias = scene.bias_hours * 3600 * SECOND
        shared = self.structure(
            "_KUSER_SHARED_DATA",
            SHARED_DATA,
            {
                "TickCountMultiplier": 0x0FA00000,
                "InterruptTime": _system_time(scene.uptime),
                "SystemTime": _system_time(scene.system_time),
                "TimeZoneBias": _system_time(bias),
                "ImageNumberLow": 0x8664,
                "ImageNumberHigh": 0x8664,
                "NtSystemRoot": scene.system_root.encode("utf-16-le"),
                "TimeZoneId": 0,
                "LargePageMinimum": 0x200000,
                "NtProductType": scene.product_type,
                "ProductTypeIsValid": 1,
                "NativeProcessorArchitecture": 9,
                "NtMajorVersion": self.era.version[0],
                "NtMinorVersion": self.era.version[1],
                "SuiteMask": scene.suite,
                "ActiveConsoleId": 2,
                "NumberOfPhysicalPages": sum(count for _, count in scene.memory),
                "QpcFrequency": SECOND,
                "TickCountQuad": scene.tick_count,
                "Cookie": 0x5C3A91E7,
                "ActiveProcessorCount": len(scene.processors),
                "ActiveGroupCount": 1,
            },
        )
        shared.set("BootId", 0xD)
        shared.set("NtBuildNumber", 0xF0000000 | self.era.build)

    # objects --------------------------------------------------------------------------------------------------------

    def _object_types(self) -> None:
        table = self.symbol("ObTypeIndexTable")
        size = self.structures.size("_OBJECT_TYPE", 0xD8)
        for name, index in _OBJECT_TYPES.items():
            address = self.pool("nonpaged", size + 0x40) + 0x40
            made = self.structure("_OBJECT_TYPE", address, {"Index": index})
            made.unicode("Name", name, self.pool("paged", 2 * len(name) + 2))
            self.structures.link(address, ())
            if table is not None:
                self.memory.write(table + 8 * index, address.to_bytes(8, "little"))
            if name in ("Process", "Thread"):
                self.variable(f"Ps{name}Type", address)

    def object_header(self, body: int, type_name: str, handles: int = 1, pointers: int = 2) -> None:
        """The OBJECT_HEADER in front of an object. Windows 10 hides the type index with a cookie and the address."""
        size = self.layouts.find("_OBJECT_HEADER", "Body")
        address = body - (0x30 if size is None else size.offset)
        index = _OBJECT_TYPES[type_name]
        if self.layouts.symbol("ObHeaderCookie") is not None:
            index ^= _HEADER_COOKIE ^ (address >> 8 & 0xFF)
        self.structure(
            "_OBJECT_HEADER", address, {"PointerCount": pointers, "HandleCount": handles, "TypeIndex": index}
        )

    # processes and threads ------------------------------------------------------------------------------------------

    def _processes(self) -> None:
        links = self.layouts.offset("_EPROCESS", "ActiveProcessLinks")
        for process in self.scene.processes:
            self._process(process)
        head = self.symbol("PsActiveProcessHead")
        if head is not None:
            self.structures.link(head, [process.address + links for process in self.scene.processes])
        system = next((process for process in self.scene.processes if process.pid == 4), None)
        if system is not None:
            self.variable("PsInitialSystemProcess", system.address)
        idle = self.symbol("KiInitialProcess")
        if idle is not None:
            self._idle_process(idle)
            self.variable("PsIdleProcess", idle)

    def _idle_process(self, address: int) -> None:
        base = self.scene.processes[0].directory_table_base
        made = self.structure("_EPROCESS", address, {"Pcb.DirectoryTableBase": base, "ImageFileName": "Idle"})
        self._dispatcher_header(made, "Pcb.Header", 3)

    def _process(self, process: Process) -> None:
        scene = self.scene
        created = scene.system_time - round(process.created * SECOND)
        if process.created >= 54.755:
            created = scene.system_time - scene.uptime
        self.memory.write(process.address, bytes(self.structures.size("_EPROCESS")))
        made = self.structure(
            "_EPROCESS",
            process.address,
            {
                "Pcb.DirectoryTableBase": process.directory_table_base,
                "UniqueProcessId": process.pid,
                "InheritedFromUniqueProcessId": process.parent,
                "ImageFileName": process.image[:14],
                "CreateTime": created,
                "Peb": process.peb,
                "ObjectTable": process.handle_table,
                "Token": process.token | 0xD if process.token else 0,
                "DeviceMap": process.device_map,
                "ActiveThreads": len(process.threads),
                "PriorityClass": 2,
                "SectionBaseAddress": process.image_base,
                "ExitStatus": 0x103,
                "Flags": 0x144D0C01,
            },
        )
        made.set(("VadRoot.Root", "VadRoot.BalancedRoot.RightChild"), process.vad_root)
        for name, value in process.fields.items():
            made.set(_PROCESS_FIELDS.get(name, name), value)
        self._dispatcher_header(made, "Pcb.Header", 3)
        self.object_header(process.address, "Process", 4, 0x7FF0)
        if process.handle_table:
            self._handle_table(process)
        if process.session is not None:
            self._session(made, process.session)
        if process.path:
            buffer = self.pool("paged", 0x10 + 2 * len(process.path) + 2)
            full_name = self.structure("_OBJECT_NAME_INFORMATION", buffer)
            full_name.unicode("Name", process.path, buffer + 0x10)
            made.set("SeAuditProcessCreationInfo.ImageFileName", buffer)
        if process.vad_root:
            self._vad(process)
        for thread in process.threads:
            self._thread(process, thread)
        for type_name, list_path, entry_path in (
            ("_EPROCESS", "ThreadListHead", ("_ETHREAD", "ThreadListEntry")),
            ("_EPROCESS", "Pcb.ThreadListHead", ("_KTHREAD", "ThreadListEntry")),
        ):
            head = self.layouts.find(type_name, list_path)
            entry = self.layouts.find(*entry_path)
            if head is not None and entry is not None:
                self.structures.link(
                    process.address + head.offset, [item.address + entry.offset for item in process.threads]
                )
        if process.command_line:
            self._user_memory(process)

    def _dispatcher_header(self, made: Structure, path: str, kind: int) -> None:
        """Type and an empty wait list."""
        made.set(f"{path}.Type", kind)
        head = made.place(f"{path}.WaitListHead")
        if head is not None:
            self.structures.link(head, ())

    def _handle_table(self, process: Process) -> None:
        made = self.structure(
            "_HANDLE_TABLE", process.handle_table, {"QuotaProcess": process.address, "UniqueProcessId": process.pid}
        )
        made.set(("FreeLists[0].HandleCount", "HandleCount"), process.handles)
        table = made.place("HandleTableList")
        if table is not None:
            self.structures.link(table, ())

    def _session(self, made: Structure, number: int) -> None:
        address = self.scene.session_space + 0x6000 * number
        made.set("Session", address)
        for type_name in ("_MM_SESSION_SPACE", "_PSP_SESSION_SPACE"):
            if self.layouts.has_type(type_name):
                self.structure(type_name, address, {"SessionId": number, "ReferenceCount": 4})
        made.set("ProcessInSession", 1)

    def _vad(self, process: Process) -> None:
        """The root of the VAD tree alone: the private region of the PEB and the first TEB."""
        first, last = process.peb >> 12, (process.peb >> 12) + 3
        made = self.structure("_MMVAD_SHORT", process.vad_root)
        if self.layouts.has("_MMVAD_SHORT", "StartingVpnHigh"):
            made.fill(
                {
                    "StartingVpn": first & 0xFFFFFFFF,
                    "EndingVpn": last & 0xFFFFFFFF,
                    "StartingVpnHigh": first >> 32,
                    "EndingVpnHigh": last >> 32,
                }
            )
        else:
            made.fill({"StartingVpn": first, "EndingVpn": last})

    def _thread(self, process: Process, thread: Thread) -> None:
        scene = self.scene
        limit = thread.stack_base - thread.stack_size
        initial = thread.stack_base - 0x30
        stack = lay_out(thread.frames, initial, self.find, thread.registers)
        self.memory.write(thread.address, bytes(self.structures.size("_ETHREAD")))
        check = scene.bug_check
        running = thread.state == 2
        if running and thread.processor == check.processor:
            stack.call(self.symbol("KeBugCheckEx") or 0)
            self.context = self._bug_check_context(stack)
        self._write_stack(stack, thread.stack_base)
        self.stacks[thread.address] = StackRange(stack.sp, limit, thread.stack_base)
        self.frames[thread.address] = stack.placed
        created = scene.system_time - round(thread.created * SECOND)
        made = self.structure(
            "_ETHREAD",
            thread.address,
            {
                "Cid.UniqueProcess": process.pid,
                "Cid.UniqueThread": thread.tid,
                "CreateTime": created,
                "StartAddress": thread.start_address or self._start_address(),
                "Win32StartAddress": thread.win32_start_address or self._start_address(),
                "ThreadInserted": 1,
                "ThreadIoPriority": thread.io_priority,
                "ThreadPagePriority": thread.page_priority,
                "Tcb.InitialStack": initial,
                "Tcb.StackLimit": limit,
                "Tcb.StackBase": thread.stack_base,
                "Tcb.KernelStack": initial - 0x500 if running else stack.sp,
                "Tcb.State": thread.state,
                "Tcb.Running": int(running),
                "Tcb.NextProcessor": thread.processor,
                "Tcb.IdealProcessor": thread.ideal_processor,
                "Tcb.UserIdealProcessor": thread.ideal_processor,
                "Tcb.Process": process.address,
                "Tcb.ApcState.Process": process.address,
                "Tcb.Teb": thread.teb,
                "Tcb.Win32Thread": thread.win32_thread,
                "Tcb.WaitTime": thread.wait_time,
                "Tcb.WaitReason": thread.wait_reason,
                "Tcb.WaitMode": thread.wait_mode,
                "Tcb.ContextSwitches": thread.context_switches,
                "Tcb.KernelTime": thread.kernel_ticks,
                "Tcb.UserTime": thread.user_ticks,
                "Tcb.Priority": thread.priority,
                "Tcb.BasePriority": thread.base_priority,
                "Tcb.PreviousMode": int(bool(thread.teb)),
                "Tcb.KernelStackResident": 1,
                "Tcb.SystemThread": int(not thread.teb),
            },
        )
        trap = next((item.trap_frame for item in stack.placed if item.trap_frame is not None), None)
        if trap is not None:
            made.set("Tcb.TrapFrame", trap)
        irps = made.place("IrpList")
        if irps is not None:
            self.structures.link(irps, ())
        self._dispatcher_header(made, "Tcb.Header", 6)
        self.object_header(thread.address, "Thread", 1, 0x7FF0)
        self._wait_blocks(made, thread)

    def _start_address(self) -> int:
        return self.symbol("ExpWorkerThread") or 0

    def _wait_blocks(self, made: Structure, thread: Thread) -> None:
        """Wait blocks of a thread, linked with the objects that it waits for."""
        for index, item in enumerate(thread.wait_objects):
            block = made.place(f"Tcb.WaitBlock[{index}]")
            if block is None:
                return
            self.structure(
                "_KWAIT_BLOCK",
                block,
                {"WaitType": 1, "BlockState": 4, "WaitKey": index, "Thread": thread.address, "Object": item.address},
            )
            event = self.structure("_KQUEUE" if item.kind == 4 else "_KEVENT", item.address)
            event.set("Header.Type", item.kind)
            event.set("Header.Size", 0x10 if item.kind == 4 else 6)
            self.structures.link(item.address + 8, [block])
            self.object_header(item.address, "IoCompletion" if item.kind == 4 else "Event")
        if thread.wait_objects:
            made.set("Tcb.WaitBlockList", made.place("Tcb.WaitBlock[0]") or 0)
            made.set("Tcb.WaitBlockCount", len(thread.wait_objects))

    def _bug_check_context(self, stack: Stack) -> bytes:
        """The registers at KeBugCheckEx's first instruction."""
        check = self.scene.bug_check
        arguments = dict(zip(("rcx", "rdx", "r8", "r9"), check.called_with, strict=False))
        return Registers({**check.volatile, **arguments, **stack.registers}, 0x40286).context(0x10000F)

    def _write_stack(self, stack: Stack, base: int) -> None:
        """The words of a stack, and of its trap frames what is not a word on the stack already."""
        for placed in stack.placed:
            if placed.trap_frame is not None:
                self._trap_frame(placed.frame, placed.trap_frame)
        low = min(stack.words)
        page = bytearray((base - (low & ~0xFFF)) if low < base else 0)
        start = base - len(page)
        existing = self.memory.read(start, len(page))
        if existing is not None:
            page[:] = existing
        for address, value in stack.words.items():
            struct.pack_into("<Q", page, address - start, value)
        self.memory.write(start, page)

    def _trap_frame(self, frame: Frame, address: int) -> None:
        trap = frame.trap
        assert trap is not None
        made = self.structure("_KTRAP_FRAME", address, {"MxCsr": _MXCSR})
        for name, value in trap.registers.items():
            made.set(name.capitalize(), value)
        for name, value in trap.fields.items():
            made.set(name, value)

    def _user_memory(self, process: Process) -> None:
        """PEB and process parameters, which only dumps with user pages hold, and the shared page."""
        root = process.directory_table_base
        parameters, strings = 0x20000 + (process.address & 0xF0000) + 0x1E35F000000, 0x800
        parameters &= ~0xFFF
        peb = self.structures.at("_PEB", process.peb, root)
        peb.fill(
            {
                "ImageBaseAddress": process.image_base,
                "ProcessParameters": parameters,
                "NumberOfProcessors": len(self.scene.processors),
            }
        )
        peb.fill(
            {
                "OSMajorVersion": self.era.version[0],
                "OSMinorVersion": self.era.version[1],
                "OSBuildNumber": self.era.build,
                "OSPlatformId": 2,
            }
        )
        peb.set("SessionId", process.session or 0)
        made = self.structures.at("_RTL_USER_PROCESS_PARAMETERS", parameters, root)
        image = self.scene.system_root[:2] + "\\" + process.path.split("\\", 3)[3]
        made.unicode("ImagePathName", image, parameters + strings)
        made.unicode("CommandLine", process.command_line, parameters + strings + 0x200)
        made.unicode("WindowTitle", image, parameters + strings + 0x400)
        made.set("MaximumLength", 0x1000)
        made.set("Length", 0x1000)
        for thread in process.threads:
            teb = self.structures.at("_TEB", thread.teb, root)
            teb.fill(
                {
                    "NtTib.Self": thread.teb,
                    "ClientId.UniqueProcess": process.pid,
                    "ClientId.UniqueThread": thread.tid,
                    "ProcessEnvironmentBlock": process.peb,
                }
            )
        shared = self.memory.translate(SHARED_DATA)
        assert shared is not None
        self.memory.map(USER_SHARED_DATA, shared, paging.USER_READ_ONLY, root)

    # processors -----------------------------------------------------------------------------------------------------

    def _processors(self) -> None:
        table = []
        for number, processor in enumerate(self.scene.processors):
            table.append(self._processor(number, processor))
        self.variable("KiProcessorBlock", table)
        self.processor_blocks = table

    def _processor(self, number: int, processor: Processor) -> int:
        scene, layouts = self.scene, self.layouts
        block = processor.pcr + layouts.offset("_KPCR", "Prcb")
        self.memory.write(processor.pcr, bytes(self.structures.size("_KPCR")))
        idle_thread = processor.idle_thread or self.symbol("KiInitialThread") or 0
        idle_stack = self._idle_thread(number, processor, idle_thread)
        running = next(
            (
                (process, thread)
                for process in scene.processes
                for thread in process.threads
                if thread.state == 2 and thread.processor == number
            ),
            None,
        )
        current, directory = idle_thread, scene.processes[0].directory_table_base
        if running is not None:
            directory, current = running[0].directory_table_base, running[1].address
        crashed = number == scene.bug_check.processor
        context = self.context if crashed else Registers({**idle_stack.registers}, 0x246).context()
        context_address = self.pool("nonpaged", _CONTEXT_SIZE)
        self.memory.write(context_address, context)
        self.contexts.append(context_address)
        self.structure(
            "_KPCR",
            processor.pcr,
            {
                "GdtBase": processor.pcr + 0x10FB0,
                "TssBase": processor.pcr + 0x11000,
                "IdtBase": processor.pcr + 0x10000,
                "Self": processor.pcr,
                "CurrentPrcb": block,
                "Irql": 15 if crashed else 0,
                "MajorVersion": 1,
                "MinorVersion": 1,
                "KdVersionBlock": (self.symbol("KdVersionBlock") or 0) if number == 0 else 0,
            },
        )
        cr4 = 0x3506F8
        self.structure(
            "_KPRCB",
            block,
            {
                "MxCsr": _MXCSR,
                "CurrentThread": current,
                "IdleThread": idle_thread,
                "Number": number,
                "LegacyNumber": number,
                "GroupSetMember": 1 << number,
                "RspBase": self.stacks[current].base - 0x30,
                "CpuType": 6,
                "CpuID": 1,
                "CpuStep": 0x9E0A,
                "MHz": 3192,
                "MinorVersion": 1,
                "MajorVersion": 1,
                "VendorString": "GenuineIntel",
                "InitialApicId": number * 2,
                "DpcStack": processor.idle_stack_base - 0x1000,
                "DebuggerSavedIRQL": 2 if crashed else 0,
                "IpiFrozen": 0 if crashed else 5,
                "Context": context_address,
                "ContextFlagsInit": _CONTEXT_FLAGS,
                "ProcessorState.SpecialRegisters.Cr0": 0x80050033,
                "ProcessorState.SpecialRegisters.Cr2": scene.bug_check.parameters[0] if crashed else 0,
                "ProcessorState.SpecialRegisters.Cr3": directory,
                "ProcessorState.SpecialRegisters.Cr4": cr4,
                "ProcessorState.SpecialRegisters.KernelDr6": 0xFFFF0FF0,
                "ProcessorState.SpecialRegisters.KernelDr7": 0x400,
                "ProcessorState.SpecialRegisters.Gdtr.Limit": 0x57,
                "ProcessorState.SpecialRegisters.Gdtr.Base": processor.pcr + 0x10FB0,
                "ProcessorState.SpecialRegisters.Idtr.Limit": 0xFFF,
                "ProcessorState.SpecialRegisters.Idtr.Base": processor.pcr + 0x10000,
                "ProcessorState.SpecialRegisters.Tr": 0x40,
                "ProcessorState.SpecialRegisters.MxCsr": _MXCSR,
                "ProcessorState.SpecialRegisters.Cr8": 15 if crashed else 0,
                "ProcessorState.SpecialRegisters.MsrGsBase": processor.pcr,
                "ProcessorState.SpecialRegisters.MsrLStar": self.symbol("KiSystemCall64") or 0,
                "ProcessorState.SpecialRegisters.MsrStar": 0x0023001000000000,
                "ProcessorState.SpecialRegisters.MsrSyscallMask": 0x4700,
                "ProcessorState.SpecialRegisters.Xcr0": 0x1F,
            },
        )
        return block

    def _idle_thread(self, number: int, processor: Processor, address: int) -> Stack:
        base = processor.idle_stack_base
        stack = lay_out(IDLE_FRAMES, base - 0x30, self.find, {})
        self._write_stack(stack, base)
        self.stacks[address] = StackRange(stack.sp, base - 0x6000, base)
        self.frames[address] = stack.placed
        idle = self.symbol("KiInitialProcess") or 0
        self.memory.write(address, bytes(self.structures.size("_ETHREAD")))
        made = self.structure(
            "_ETHREAD",
            address,
            {
                "Tcb.InitialStack": base - 0x30,
                "Tcb.StackBase": base,
                "Tcb.StackLimit": base - 0x6000,
                "Tcb.KernelStack": base - 0x30,
                "Tcb.State": 2,
                "Tcb.NextProcessor": number,
                "Tcb.IdealProcessor": number,
                "Tcb.Process": idle,
                "Tcb.ApcState.Process": idle,
                "Tcb.SystemThread": 1,
                "Tcb.KernelStackResident": 1,
            },
        )
        self._dispatcher_header(made, "Tcb.Header", 6)
        return stack


_HEADER_COOKIE = 0x3C

#: Names of process facts that structures place differently from one build to the next.
_PROCESS_FIELDS: dict[str, FieldPath] = {
    "QuotaPaged": "ProcessQuotaUsage[1]",
    "QuotaNonPaged": "ProcessQuotaUsage[0]",
    "WorkingSetSize": ("Vm.Instance.WorkingSetSize", "Vm.WorkingSetSize"),
    "MinimumWorkingSetSize": ("Vm.Instance.MinimumWorkingSetSize", "Vm.MinimumWorkingSetSize"),
    "MaximumWorkingSetSize": ("Vm.Instance.MaximumWorkingSetSize", "Vm.MaximumWorkingSetSize"),
    "PeakWorkingSetSize": ("Vm.Instance.PeakWorkingSetSize", "Vm.PeakWorkingSetSize"),
    "PageFaultCount": ("Vm.Instance.PageFaultCount", "Vm.PageFaultCount"),
    "VadCount": ("VadCount", "VadRoot.NumberGenericTableElements"),
}


def _system_time(value: int) -> bytes:
    """A KSYSTEM_TIME: low part, high part, high part again."""
    low, high = value & 0xFFFFFFFF, value >> 32
    return struct.pack("<Iii", low, high, high)


def _era(layouts: Layouts) -> Era:
    size = layouts.size_of("_EPROCESS")
    known = max((item for item in _ERAS if item <= size), default=min(_ERAS))
    return _ERAS[known]
