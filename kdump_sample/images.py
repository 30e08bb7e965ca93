"""Loads the modules of a scene: places their functions, builds their images, links their loader entries."""

from __future__ import annotations

import bisect
import functools
import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kdump_sample import paging, pe
from kdump_sample.code import Call, Function, assemble
from kdump_sample.functions import KERNEL_EXPORTS, KERNEL_FUNCTIONS
from kdump_sample.pe import CODE, DISCARDABLE, INITIALISATION_CODE, READ_ONLY, READ_WRITE, Codeview, Section
from kdump_sample.physical import PAGE
from kdump_sample.scene import SECOND, Driver
from kdump_sample.workspace import Workspace
from volatility3_kdump.layout import Layouts

#: RVA of the kernel's exception, export and resource tables: behind everything that public symbols name.
_KERNEL_TABLES = 0xE02000
_KERNEL_INITIALISATION = _KERNEL_TABLES + 0xE0000

#: Where a 19041 kernel has its debug directory.
_KERNEL_DEBUG_RVA = 0x107A0

_UNLOADED_ENTRIES, _UNLOADED_SIZE = 50, 0x28


@dataclass(frozen=True)
class PlacedFunction:
    """A function in its image: description, RVA, and the RVAs of its return addresses."""

    function: Function
    rva: int
    returns: tuple[int, ...]


@dataclass
class Module:
    """A loaded module; ``driver`` is ``None`` for the kernel. ``loader_entry`` is its KLDR_DATA_TABLE_ENTRY."""

    path: str
    image: pe.Image
    driver: Driver | None = None
    functions: dict[str, PlacedFunction] = field(default_factory=dict)
    loader_entry: int = 0

    @property
    def stem(self) -> str:
        """The module's name without extension."""
        return self.image.name.rsplit(".", 1)[0]


@functools.lru_cache(maxsize=4)
def _symbol_addresses(layouts: Layouts) -> list[int]:
    """The addresses of a kernel's symbols from its base, ascending."""
    return sorted({rva for rva in map(layouts.symbol, layouts.symbol_names()) if rva})


class Images:
    """The modules of a machine, the kernel first."""

    def __init__(self, work: Workspace) -> None:
        self._work = work
        self._symbols = _symbol_addresses(work.layouts)
        self.kernel = self._kernel_module()
        self.modules = [self.kernel, *(_driver_module(driver) for driver in work.scene.drivers)]
        for module in self.modules:
            self._assemble(module)

    def module(self, stem: str) -> Module:
        """A module by its name without extension."""
        return next(module for module in self.modules if module.stem == stem)

    def find(self, name: str) -> tuple[Function, int, Sequence[int]] | None:
        """A function of a stack frame: description, address, return addresses; ``module!name`` or a kernel name."""
        stem, _, function = name.rpartition("!")
        module = self.module(stem) if stem else self.kernel
        placed = module.functions.get(function)
        if placed is None:
            return None
        base = module.image.base
        return placed.function, base + placed.rva, [base + rva for rva in placed.returns]

    def address(self, name: str) -> int:
        """The address of ``module!name`` or of a kernel symbol; 0 where the kernel has none of that name."""
        if "!" not in name:
            return self._work.symbol(name) or 0
        stem, function = name.split("!")
        module = self.module(stem)
        return module.image.base + module.functions[function].rva

    # placing --------------------------------------------------------------------------------------------------------

    def _kernel_module(self) -> Module:
        work = self._work
        pdb: Mapping[str, object] = work.layouts.metadata.get("windows", {}).get("pdb", {})
        codeview = Codeview(
            str(pdb.get("database", "ntkrnlmp.pdb")), str(pdb.get("GUID", "0" * 32)), int(str(pdb.get("age", 1)))
        )
        scene, era = work.scene, work.era
        image = pe.Image("ntoskrnl.exe", scene.kernel_base, scene.kernel_size, 0x4A5C9D1B, 0xA61F2C, [], codeview)
        image.debug_rva = self._debug_rva()
        image.entry_point = _KERNEL_INITIALISATION
        image.version = (*era.version, era.build, int(era.lab.split(".")[1]))
        image.description, image.company = "NT Kernel & System", "Microsoft Corporation"
        exports = ((name, work.layouts.symbol(name)) for name in KERNEL_EXPORTS)
        image.exports = {name: rva for name, rva in exports if rva is not None}
        module = Module("\\SystemRoot\\system32\\ntoskrnl.exe", image)
        for function in self._kernel_functions().values():
            placed = self._place(function)
            if placed is not None:
                module.functions[function.name] = placed
        return module

    def _kernel_functions(self) -> Mapping[str, Function]:
        """The functions of the kernel by name; a scene's own ones stand in for those that every scene has."""
        return {**KERNEL_FUNCTIONS, **{function.name: function for function in self._work.scene.kernel_functions}}

    def _debug_rva(self) -> int:
        """A place for the debug directory in the first megabytes, off the pages of the functions that are placed."""
        taken = {(self._work.layouts.symbol(name) or 0) // PAGE for name in self._kernel_functions()}
        rva = _KERNEL_DEBUG_RVA
        while taken & {rva // PAGE - 1, rva // PAGE}:
            rva += PAGE
        return rva

    def _place(self, function: Function) -> PlacedFunction | None:
        """Find a kernel function and its call sites; ``None`` where the kernel does not have it."""
        symbol = self._work.layouts.symbol
        names = (function.name, *function.aliases)
        rva = next((offset for offset in map(symbol, names) if offset is not None), None)
        if rva is None:
            return None
        returns = []
        for call in function.calls:
            label = rva if call.label is None else symbol(call.label)
            if label is None:
                return None
            returns.append(label + self._call_offset(label, call))
        return PlacedFunction(function, rva, tuple(returns))

    def _call_offset(self, label: int, call: Call) -> int:
        """The offset of a return address, moved in front of the next symbol where it would lie behind it."""
        index = bisect.bisect_right(self._symbols, label)
        room = self._symbols[index] - label if index < len(self._symbols) else PAGE
        return call.offset if call.offset < room else room - 8

    def _assemble(self, module: Module) -> None:
        image, driver = module.image, module.driver
        slots: dict[str, int] = {}
        if driver is not None and driver.imports:
            addresses = [self.address(name) for name in driver.imports]
            image.chunks[driver.import_rva] = struct.pack(f"<{len(addresses)}Q", *addresses)
            slots = {name: driver.import_rva + 8 * index for index, name in enumerate(driver.imports)}
        for placed in module.functions.values():
            function = placed.function
            sites = [
                (rva, self._call(module, call.target, rva, slots))
                for call, rva in zip(function.calls, placed.returns, strict=True)
            ]
            end = 0 if function.end is None else self._work.layouts.symbol(function.end) or 0
            image.functions.append(assemble(function, placed.rva, sites, end))

    def _call(self, module: Module, target: str, return_rva: int, slots: Mapping[str, int]) -> bytes:
        """The call instruction that ends at an RVA."""
        kind, _, name = target.rpartition(":")
        if kind == "register":
            return {"rax": b"\xff\xd0", "rbx": b"\xff\xd3", "r10": b"\x41\xff\xd2"}[name]
        if kind == "import":
            return b"\xff\x15" + struct.pack("<i", slots[name] - return_rva)
        placed = module.functions.get(name)
        rva = placed.rva if placed is not None else self._work.layouts.symbol(name)
        return b"\xff\xd0" if rva is None else b"\xe8" + struct.pack("<i", rva - return_rva)

    # building -------------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Write the images, when everything else that lies in them has been written."""
        self.kernel.image.sections = self._kernel_sections()
        for module in self.modules:
            image = module.image
            for rva, data in pe.build(image).items():
                self._work.memory.write(image.base + rva, data, _protection(image, rva))
        self._protect_kernel()

    def _protect_kernel(self) -> None:
        """Give the pages of the kernel that were written as variables the protection of their section."""
        image, memory = self.kernel.image, self._work.memory
        for address in memory.written(image.base, image.size):
            pfn = memory.translate(address)
            if pfn is not None:
                memory.map(address, pfn, _protection(image, address - image.base))

    def _kernel_sections(self) -> list[Section]:
        """Sections that fit what is in the image: symbols do not say where they begin, so code and data take turns
        between the pages that hold code and those that hold variables."""
        image, memory = self.kernel.image, self._work.memory
        code = {
            page
            for function in image.functions
            for page in range(function.begin // PAGE, (function.end - 1) // PAGE + 1)
        }
        written = memory.written(image.base + PAGE, _KERNEL_TABLES - PAGE)
        data = {(address - image.base) // PAGE for address in written} - code
        starts = [1]
        ordered = sorted(code | data)
        changes = itertools.pairwise(ordered)
        starts += [page for before, page in changes if (before in code) != (page in code)]
        code_names = iter((".text", "PAGE", "PAGELK", "POOLCODE", "PAGEKD", "PAGEVRFY"))
        data_names = iter((".data", "ALMOSTRO", "CACHEALI", "PAGEDATA"))
        sections = []
        for index, (start, stop) in enumerate(zip(starts, [*starts[1:], _KERNEL_TABLES // PAGE], strict=True)):
            first = ordered[0] if index == 0 else start
            if first in code:
                name, characteristics = next(code_names, f"CODE{index}"), CODE
            elif index == 0:
                name, characteristics = ".rdata", READ_ONLY
            else:
                name, characteristics = next(data_names, f"DATA{index}"), READ_WRITE
            sections.append(Section(name, start * PAGE, (stop - start) * PAGE, characteristics))
        return [
            *sections,
            Section(".pdata", _KERNEL_TABLES, 0x80000, READ_ONLY),
            Section(".xdata", _KERNEL_TABLES + 0x80000, 0x40000, READ_ONLY),
            Section(".edata", _KERNEL_TABLES + 0xC0000, 0x20000, READ_ONLY),
            Section("INIT", _KERNEL_INITIALISATION, 0x80000, INITIALISATION_CODE),
            Section(".rsrc", _KERNEL_TABLES + 0x160000, 0x40000, DISCARDABLE),
            Section(".reloc", _KERNEL_TABLES + 0x1A0000, image.size - _KERNEL_TABLES - 0x1A0000, DISCARDABLE),
        ]

    # loader lists ---------------------------------------------------------------------------------------------------

    def link(self) -> None:
        """PsLoadedModuleList and MmUnloadedDrivers."""
        for module in self.modules:
            self._loader_entry(module)
        head = self._work.symbol("PsLoadedModuleList")
        if head is not None:
            self._work.structures.link(head, [module.loader_entry for module in self.modules])
        self._unloaded()

    def _loader_entry(self, module: Module) -> None:
        """A loader entry. Kernels without KLDR_DATA_TABLE_ENTRY in their symbols use the common part of the user-mode
        type, whose TimeDateStamp kernel entries do not have."""
        work, image = self._work, module.image
        own = work.layouts.has_type("_KLDR_DATA_TABLE_ENTRY")
        type_name = "_KLDR_DATA_TABLE_ENTRY" if own else "_LDR_DATA_TABLE_ENTRY"
        module.loader_entry = work.pool("nonpaged", max(work.structures.size(type_name), 0xA0), "MmLd")
        entry = work.structure(
            type_name,
            module.loader_entry,
            {
                "DllBase": image.base,
                "EntryPoint": image.base + image.entry_point,
                "SizeOfImage": image.size,
                "Flags": 0x49104000,
                ("LoadCount", "ObsoleteLoadCount"): 1,
            },
        )
        if own:
            entry.fill(
                {"CheckSum": image.checksum, "TimeDateStamp": image.timestamp, "SizeOfImageNotRounded": image.size}
            )
            if image.functions:
                entry.set("ExceptionTable", image.base + image.section(".pdata").rva if module.driver else 0)
                entry.set("ExceptionTableSize", 12 * len(image.functions))
                if module is self.kernel:
                    entry.set("ExceptionTable", image.base + _KERNEL_TABLES)
        entry.unicode("FullDllName", module.path, work.pool("paged", 2 * len(module.path) + 2, "MmLd"))
        entry.unicode("BaseDllName", image.name, work.pool("nonpaged", 2 * len(image.name) + 2, "MmLd"))

    def _unloaded(self) -> None:
        """The array of 50 entries {UNICODE_STRING, start, end, time}, which public symbols do not describe."""
        work = self._work
        table = work.pool("nonpaged", _UNLOADED_ENTRIES * _UNLOADED_SIZE, "MmDT")
        work.memory.write(table, bytes(_UNLOADED_ENTRIES * _UNLOADED_SIZE))
        for index, function in enumerate(work.scene.unloaded):
            encoded = function.name.encode("utf-16-le")
            buffer = work.pool("nonpaged", len(encoded), "MmDT")
            work.memory.write(buffer, encoded)
            time = work.scene.system_time - function.seconds_ago * SECOND
            entry = struct.pack("<HHIQQQQ", len(encoded), len(encoded), 0, buffer, function.start, function.end, time)
            work.memory.write(table + _UNLOADED_SIZE * index, entry)
        work.variable("MmUnloadedDrivers", table)
        work.variable("MmLastUnloadedDriver", len(work.scene.unloaded), 4)


def _driver_module(driver: Driver) -> Module:
    image = pe.Image(
        driver.name,
        driver.base,
        driver.size,
        driver.timestamp,
        driver.checksum,
        list(driver.sections),
        driver.codeview,
        version=driver.version,
        description=driver.description,
        company=driver.company,
    )
    image.debug_rva = image.section(".rdata").rva + 0x800
    image.entry_point = image.section("INIT").rva
    module = Module(driver.path, image, driver)
    for rva, function in driver.functions.items():
        returns = tuple(rva + call.offset for call in function.calls)
        module.functions[function.name] = PlacedFunction(function, rva, returns)
        if driver.exported:
            image.exports[function.name] = rva
    return module


def _protection(image: pe.Image, rva: int) -> int:
    if image.executable(rva):
        return paging.KERNEL_CODE
    return paging.KERNEL_DATA if image.writable(rva) else paging.KERNEL_READ_ONLY
