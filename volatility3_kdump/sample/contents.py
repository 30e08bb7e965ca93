"""From a machine laid out in memory to the contents of a dump file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from uuid import UUID

from volatility3_kdump.sample.containers import Blob, Contents, DriverEntry, Header, TriageContents, UnloadedEntry
from volatility3_kdump.sample.machine import Machine
from volatility3_kdump.sample.physical import PAGE


def make_contents(machine: Machine) -> Contents:
    """Header values, pages, triage blobs and tagged data of a machine."""
    scene = machine.scene
    process = next(
        process
        for process in scene.processes
        for thread in process.threads
        if thread.state == 2 and thread.processor == scene.bug_check.processor
    )
    header = Header(
        build=machine.era.build,
        directory_table_base=process.directory_table_base,
        pfn_database=machine.symbol("MmPfnDatabase") or 0,
        loaded_module_list=machine.symbol("PsLoadedModuleList") or 0,
        active_process_head=machine.symbol("PsActiveProcessHead") or 0,
        processors=len(scene.processors),
        code=scene.bug_check.code,
        parameters=scene.bug_check.parameters,
        debugger_data=machine.debugger_data_address,
        context=machine.context,
        exception_address=machine.symbol("KeBugCheckEx") or 0,
        system_time=scene.system_time,
        uptime=scene.uptime,
        product_type=scene.product_type,
        suite=scene.suite,
    )
    return Contents(header, machine.physical, _triage(machine, process.address), _blobs(machine))


def _triage(machine: Machine, process: int) -> TriageContents:
    scene, structures = machine.scene, machine.structures
    number = scene.bug_check.processor
    thread = next(
        thread
        for item in scene.processes
        for thread in item.threads
        if thread.state == 2 and thread.processor == number
    )
    stack = machine.stacks[thread.address]

    def read(address: int, size: int) -> bytes:
        """Bytes for a blob; a page that is missing reads as zeros, as from a page that was never touched."""
        found = machine.memory.read(address, size)
        if found is not None:
            return found
        parts = []
        while size:
            count = min(PAGE - address % PAGE, size)
            parts.append(machine.memory.read(address, count) or bytes(count))
            address, size = address + count, size - count
        return b"".join(parts)

    return TriageContents(
        processor_block=(machine.processor_blocks[number], structures.size("_KPRCB")),
        process=(process, structures.size("_EPROCESS")),
        thread=(thread.address, structures.size("_ETHREAD")),
        stack=(stack.pointer, stack.base - stack.pointer),
        debugger_data=(machine.debugger_data_address, machine.era.kdbg_size),
        blocks=list(_blocks(machine, thread.address)),
        drivers=[
            DriverEntry(
                module.path, module.image.base, module.image.size, module.image.checksum, module.image.timestamp
            )
            for module in machine.modules
        ],
        unloaded=[UnloadedEntry(item.name, item.start, item.end) for item in scene.unloaded],
        read=read,
    )


def _blocks(machine: Machine, thread: int) -> Iterator[tuple[int, int]]:
    """Data blocks as the kernel chooses them: processors, contexts, stacks, code at the fault, build lab."""
    scene, structures = machine.scene, machine.structures
    table = machine.symbol("KiProcessorBlock")
    if table is not None:
        yield table, 8 * len(scene.processors)
    for block in machine.processor_blocks:
        yield block, structures.size("_KPRCB")
    for context in machine.contexts:
        yield context, 0x4D0
    lab = machine.symbol("NtBuildLabEx")
    if lab is not None:
        yield lab, 0x100
    for address, stack in machine.stacks.items():
        if address == thread or address in _idle_threads(machine):
            yield stack.pointer, stack.base - stack.pointer
    yield machine.kernel_base, PAGE
    yield scene.bug_check.parameters[3] & ~(PAGE - 1), PAGE


def _idle_threads(machine: Machine) -> set[int]:
    first = machine.symbol("KiInitialThread") or 0
    return {processor.idle_thread or first for processor in machine.scene.processors[:-1]}


def _blobs(machine: Machine) -> list[Blob]:
    """Tagged data that kernels write on every crash, with short contents."""
    check = machine.scene.bug_check
    triage_data = struct.pack("<III", 7, check.code, 0x11) + bytes(4)
    mhz = "~MHz".encode("utf-16-le") + b"\0\0" + struct.pack("<I", 3192)
    return [
        Blob(UUID("2b4ae195-a64d-4f04-8ede-7e4f981bd42a"), triage_data),
        Blob(UUID("6c7ac389-4313-47dc-9f34-a8800a0fb56c"), mhz),
        Blob(UUID("65755a40-f146-43ea-8c91-36b85728fd35"), b""),
        Blob(
            UUID("d03dc06f-d88e-44c5-ba2a-fae035172d19"), struct.pack("<IIII", 0x16, 0x756E6547, 0x6C65746E, 0x49656E69)
        ),
        Blob(UUID("bc5c008f-1e3a-44d7-988d-86f6884c6758"), _system_bios()),
    ]


def _system_bios() -> bytes:
    """A table of SMBIOS structures: system information and the end mark."""
    strings = b"Contoso Ltd\0Workstation 5\x001.0\0\0"
    system = struct.pack("<BBHBBBB16sB", 1, 25, 1, 1, 2, 3, 0, bytes(16), 6) + strings
    end = struct.pack("<BBH", 127, 4, 0xFEFF) + b"\0\0"
    return system + end
