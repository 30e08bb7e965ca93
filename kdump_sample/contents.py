"""From a machine laid out in memory to the contents of a dump file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from uuid import UUID

from kdump_sample import context
from kdump_sample.containers import Blob, Contents, DriverEntry, Header, TriageContents, UnloadedEntry
from kdump_sample.machine import Machine
from kdump_sample.physical import PAGE
from kdump_sample.processor_models import CORE_I7, CPUID
from kdump_sample.scene import Process

_RUNNING = 2


def make_contents(machine: Machine) -> Contents:
    """Header values, pages, triage blobs and tagged data of a machine."""
    scene, work = machine.scene, machine.work
    process = next(
        process
        for process in scene.processes
        for thread in process.threads
        if thread.state == _RUNNING and thread.processor == scene.bug_check.processor
    )
    header = Header(
        build=work.era.build,
        directory_table_base=process.directory_table_base,
        pfn_database_pointer=scene.pfn_database if scene.lists_memory else work.symbol("MmPfnDatabase") or 0,
        pfn_database=scene.pfn_database,
        loaded_module_list=work.symbol("PsLoadedModuleList") or 0,
        active_process_head=work.symbol("PsActiveProcessHead") or 0,
        processors=len(scene.processors),
        code=scene.bug_check.code,
        parameters=scene.bug_check.parameters,
        debugger_data=machine.debugger_data,
        context=machine.processes.context,
        exception_address=work.required("KeBugCheckEx"),
        system_time=scene.system_time,
        uptime=scene.uptime,
        product_type=scene.product_type,
        suite=scene.suite,
    )
    return Contents(header, work.physical, _triage(machine, process), _blobs(machine), scene.lists_memory)


def _triage(machine: Machine, process: Process) -> TriageContents:
    scene, work = machine.scene, machine.work
    number = scene.bug_check.processor
    thread = next(
        candidate for candidate in process.threads if candidate.state == _RUNNING and candidate.processor == number
    )
    stack = machine.processes.stacks[thread.address]

    def read(address: int, size: int) -> bytes:
        data = work.memory.read(address, size)
        if data is None:
            raise ValueError(f"{size:#x} bytes at {address:#x} are not in the made memory")
        return data

    return TriageContents(
        processor_block=(machine.processors.blocks[number], work.structures.size("_KPRCB")),
        process=(process.address, work.structures.size("_EPROCESS")),
        thread=(thread.address, work.structures.size("_ETHREAD")),
        stack=(stack.used[0][0], stack.used[0][1] - stack.used[0][0]),
        debugger_data=(machine.debugger_data, work.era.kdbg_size),
        blocks=list(_blocks(machine, process.address, thread.address)),
        drivers=[
            DriverEntry(
                module.path, module.image.base, module.image.size, module.image.checksum, module.image.timestamp
            )
            for module in machine.images.modules
        ],
        unloaded=[UnloadedEntry(driver.name, driver.start, driver.end) for driver in scene.unloaded],
        read=read,
    )


def _blocks(machine: Machine, process: int, thread: int) -> Iterator[tuple[int, int]]:
    """Data blocks as the kernel chooses them: processors, contexts, stacks, parts of the process and the thread, the
    kernel's header page, build lab, code at the fault. Stacks come in windows that abut, as they do in real files."""
    work, processors = machine.work, machine.processors
    table = work.symbol("KiProcessorBlock")
    if table is not None:
        yield table, 8 * len(processors.blocks)
    for block in processors.blocks:
        yield block, work.structures.size("_KPRCB")
    for record in processors.contexts:
        yield record, context.SIZE
    lab = work.symbol("NtBuildLabEx")
    if lab is not None:
        yield lab, len(work.era.lab) + 1
    yield process, work.structures.size("_EPROCESS") * 4 // 5
    yield thread, work.structures.size("_ETHREAD") * 4 // 5
    crashed = machine.scene.bug_check.processor
    idle = [address for number, address in enumerate(processors.idle_threads) if number != crashed]
    for owner in (thread, *idle):
        for low, high in machine.processes.stacks[owner].used:
            middle = low + min(0x138, (high - low) // 2)
            yield low, middle - low
            yield middle, high - middle
    yield machine.scene.kernel_base, PAGE
    yield from _argument_pages(machine)
    yield from machine.scene.triage_blocks


def _argument_pages(machine: Machine) -> Iterator[tuple[int, int]]:
    """The pages that the arguments of the bug check point into, where they are there and not on a saved stack."""
    seen = set()
    for value in machine.scene.bug_check.parameters:
        page = value // PAGE * PAGE
        stacks = machine.processes.stacks.values()
        on_stack = any(page < high and low < page + PAGE for stack in stacks for low, high in stack.used)
        if page >> 47 and page not in seen and not on_stack and machine.work.memory.read(page, PAGE) is not None:
            seen.add(page)
            yield page, PAGE


def _blobs(machine: Machine) -> list[Blob]:
    """Tagged data that kernels write on every crash, with short contents."""
    check = machine.scene.bug_check
    triage_data = struct.pack("<III", 7, check.code, 0x11) + bytes(4)
    mhz = "~MHz".encode("utf-16-le") + b"\0\0" + struct.pack("<I", 3192)
    usual = [
        Blob(UUID("2b4ae195-a64d-4f04-8ede-7e4f981bd42a"), triage_data),
        Blob(UUID("6c7ac389-4313-47dc-9f34-a8800a0fb56c"), mhz),
        Blob(UUID("65755a40-f146-43ea-8c91-36b85728fd35"), b""),
        Blob(UUID(CPUID), CORE_I7.records()),
        Blob(UUID("bc5c008f-1e3a-44d7-988d-86f6884c6758"), _system_bios()),
    ]
    own = {UUID(tag): data for tag, data in machine.scene.tagged.items()}
    replaced = [Blob(blob.tag, own.pop(blob.tag, blob.data)) for blob in usual]
    return [*replaced, *(Blob(tag, data) for tag, data in own.items())]


def _system_bios() -> bytes:
    """RawSMBIOSData: its header, then system information and the end mark."""
    strings = b"Contoso Ltd\0Workstation 5\x001.0\0\0"
    system = struct.pack("<BBHBBBB16sB", 1, 25, 1, 1, 2, 3, 0, bytes(16), 6) + strings
    tables = system + struct.pack("<BBH", 127, 4, 0xFEFF) + b"\0\0"
    return struct.pack("<BBBBI", 0, 3, 1, 0, len(tables)) + tables
