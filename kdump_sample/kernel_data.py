"""Kernel variables, the shared user data page and the debugger's blocks."""

from __future__ import annotations

import struct

from kdump_sample.images import Images
from kdump_sample.kdbg import debugger_data
from kdump_sample.scene import SECOND
from kdump_sample.workspace import Workspace

SHARED_DATA = 0xFFFFF78000000000

_CLOCK_INCREMENT = 156250
_MACHINE = 0x8664
_WINDOWS_7 = 7601

#: Regions whose name in _MI_SYSTEM_VA_TYPE is another.
_VA_TYPES = {"Session": "SessionSpace", "SystemImages": "DriverImages", "HyperSpace": "ProcessSpace"}


def write_kernel_data(work: Workspace, images: Images) -> None:
    """Everything that lies in the kernel's data and belongs to no other part, and KUSER_SHARED_DATA."""
    _memory_manager(work)
    _versions(work)
    _bug_check(work, images)
    _version_block(work)
    _shared_data(work)
    for name in ("ExpSystemResourcesList", "KeBugCheckCallbackListHead", "IopErrorLogListHead"):
        work.empty_list(work.symbol(name))
    work.variable("KeNumberProcessors", len(work.scene.processors), 4)
    work.variable("KeMaximumIncrement", _CLOCK_INCREMENT, 4)
    work.variable("KeTimeIncrement", _CLOCK_INCREMENT, 4)
    work.variable("KdDebuggerNotPresent", 1, 1)


def write_debugger_data(work: Workspace) -> int:
    """KDDEBUGGER_DATA64, decoded, as KeBugCheckEx leaves it; returns its address."""
    address = work.required("KdDebuggerDataBlock")
    head = work.symbol("KdpDebuggerDataListHead")
    links = (address, address) if head is None else (head, head)
    work.memory.write(
        address, debugger_data(work.layouts, work.scene.kernel_base, work.era.kdbg_size, work.pte_base, links)
    )
    if head is not None:
        work.structures.link(head, [address])
    return address


def _memory_manager(work: Workspace) -> None:
    scene = work.scene
    pages = sum(count for _, count in scene.memory)
    runs = b"".join(struct.pack("<QQ", *run) for run in scene.memory)
    descriptor = work.pool("nonpaged", 0x10 + len(runs))
    work.memory.write(descriptor, struct.pack("<IIQ", len(scene.memory), 0, pages) + runs)
    work.variable("MmPhysicalMemoryBlock", descriptor)
    work.variable("MmNumberOfPhysicalPages", pages)
    work.variable("MmHighestPhysicalPage", work.physical.highest_pfn)
    work.variable("MmPfnDatabase", scene.pfn_database)
    work.variable("MmPteBase", work.pte_base)
    work.variable("MmHighestUserAddress", 0x7FFFFFFEFFFF)
    work.variable("MmSystemRangeStart", 0xFFFF800000000000)
    work.variable("MmUserProbeAddress", 0x7FFFFFFF0000)
    _regions(work)


def _regions(work: Workspace) -> None:
    """MiState.Vs: the assigned regions, and the type of each 512 GiB of the kernel's half."""
    state, layouts = work.symbol("MiState"), work.layouts
    if state is None or not layouts.has_type("_MI_SYSTEM_INFORMATION"):
        return
    made = work.structures.at("_MI_SYSTEM_INFORMATION", state)
    indexes = {name: value for value, name in layouts.enum("_MI_ASSIGNED_REGION_TYPES").items()}
    types = {name: value for value, name in layouts.enum("_MI_SYSTEM_VA_TYPE").items()}
    for name, (address, size) in work.scene.regions.items():
        index = indexes.get(f"AssignedRegion{name}")
        if index is not None:
            made.set(f"Vs.SystemVaRegions[{index}].BaseAddress", address)
            made.set(f"Vs.SystemVaRegions[{index}].NumberOfBytes", size)
        kind = types.get(f"MiVa{_VA_TYPES.get(name, name)}")
        typed = kind is not None and layouts.has("_MI_SYSTEM_INFORMATION", "Vs.SystemVaType")
        for part in range(address >> 39, (address + size - 1 >> 39) + 1) if typed else ():
            made.set(f"Vs.SystemVaType[{part & 0xFF}]", kind or 0)


def _versions(work: Workspace) -> None:
    era, scene = work.era, work.scene
    first, *rest = era.lab.split(".")
    work.variable("NtBuildLabEx", era.lab)
    work.variable("NtBuildLab", era.lab[:32] if era.build <= _WINDOWS_7 else ".".join((first, *rest[2:])))
    work.variable("NtBuildNumber", 0xF0000000 | era.build, 4)
    work.variable("CmNtCSDVersion", 0x100 if era.build == _WINDOWS_7 else 0, 4)
    work.variable("PsNtosImageBase", scene.kernel_base)
    work.variable("PsNtosImageEnd", scene.kernel_base + scene.kernel_size)


def _bug_check(work: Workspace, images: Images) -> None:
    """KiBugCheckData, and KiBugCheckDriver: the UNICODE_STRING of the driver's name in its loader entry."""
    check = work.scene.bug_check
    work.variable("KiBugCheckData", (check.code, *check.parameters))
    if check.driver:
        entry = images.module(check.driver).loader_entry
        own = work.layouts.has_type("_KLDR_DATA_TABLE_ENTRY")
        type_name = "_KLDR_DATA_TABLE_ENTRY" if own else "_LDR_DATA_TABLE_ENTRY"
        work.variable("KiBugCheckDriver", entry + work.layouts.offset(type_name, "BaseDllName"))


def _version_block(work: Workspace) -> None:
    """The block that answers a debugger's version request."""
    address = work.symbol("KdVersionBlock")
    if address is None:
        return
    work.structure(
        "_DBGKD_GET_VERSION64",
        address,
        {
            "MajorVersion": 0xF,
            "MinorVersion": work.era.build,
            "ProtocolVersion": 6,
            "KdSecondaryVersion": 2,
            "Flags": 0x47,
            "MachineType": _MACHINE,
            "MaxPacketType": 12,
            "MaxStateChange": 3,
            "MaxManipulate": 0x33,
            "KernBase": work.scene.kernel_base,
            "PsLoadedModuleList": work.symbol("PsLoadedModuleList") or 0,
            "DebuggerDataList": work.symbol("KdpDebuggerDataListHead") or 0,
        },
    )


def _shared_data(work: Workspace) -> None:
    scene, era = work.scene, work.era
    work.structure(
        "_KUSER_SHARED_DATA",
        SHARED_DATA,
        {
            "TickCountMultiplier": (_CLOCK_INCREMENT << 24) // (SECOND // 1000),
            "InterruptTime": _system_time(scene.uptime),
            "SystemTime": _system_time(scene.system_time),
            "TimeZoneBias": _system_time(scene.bias_hours * 3600 * SECOND),
            "ImageNumberLow": _MACHINE,
            "ImageNumberHigh": _MACHINE,
            "NtSystemRoot": scene.system_root.encode("utf-16-le"),
            "LargePageMinimum": 0x200000,
            "NtBuildNumber": 0xF0000000 | era.build,
            "NtProductType": scene.product_type,
            "ProductTypeIsValid": 1,
            "NativeProcessorArchitecture": 9,
            "NtMajorVersion": era.version[0],
            "NtMinorVersion": era.version[1],
            "BootId": 0xD,
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


def _system_time(value: int) -> bytes:
    """A KSYSTEM_TIME: low part, high part, high part again."""
    low, high = value & 0xFFFFFFFF, value >> 32
    return struct.pack("<Iii", low, high, high)
