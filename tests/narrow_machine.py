"""A 32-bit machine as memory images show it: a tiny kernel with its symbols, two processors, a process, two threads.

Page tables are made by hand (Intel SDM volume 3, chapter 4) by ``tests/layers/paging.py``; fields lie where the public
symbols of Windows 7 SP1 x86 have them, and the table of symbols that is made here says the same.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdump_sample import pe
from kdump_sample.memory_images import Image, Processor
from kdump_sample.physical import PAGE, PhysicalMemory
from tests.layers.paging import HEADS, Tables, kernel_pages, machine
from tests.small_machines import debugger_data

BASE, SIZE, ROOT = 0x80400000, 0x3000, 0x40
GUID = "0123456789ABCDEF0123456789ABCDEF"
HIGH = 0xFFFFFFFF00000000
#: Two control regions, what belongs to them, and where each interrupt table lies behind its region.
REGIONS, TABLE = (0x82F6D000, 0x807C8000), 0x10000
_DATA = 0x82F00000
THREADS, PROCESS, IDLE = (0x86DF0A00, 0x86DF1A00), 0x86C2E000, 0x82F77000
STACKS, TEBS = (0x8B340000, 0x8B350000), (0x7FFDE000, 0x7FFDD000)
#: In the kernel's .text: behind a call of KiPageFault's neighbour, where processors are.
CODE, HANDLER = BASE + 0x1000, BASE + 0x1100
PID, TIDS, NAME = 0x5A0, (0x5A4, 0x5A8), b"widget.exe"
_WORD = {"kind": "base", "name": "unsigned int"}
_BYTE = {"kind": "base", "name": "unsigned char"}
_SHORT = {"kind": "base", "name": "unsigned short"}


def _pointer(to: str = "") -> dict[str, Any]:
    subtype = {"kind": "struct", "name": to} if to else {"kind": "base", "name": "void"}
    return {"kind": "pointer", "subtype": subtype}


def _inner(name: str) -> dict[str, str]:
    return {"kind": "struct", "name": name}


_TYPES: Mapping[str, tuple[int, Mapping[str, tuple[int, dict[str, Any]]]]] = {
    "_LIST_ENTRY": (8, {"Flink": (0, _pointer("_LIST_ENTRY")), "Blink": (4, _pointer("_LIST_ENTRY"))}),
    "_UNICODE_STRING": (8, {"Length": (0, _SHORT), "MaximumLength": (2, _SHORT), "Buffer": (4, _pointer())}),
    "_CLIENT_ID": (8, {"UniqueProcess": (0, _pointer()), "UniqueThread": (4, _pointer())}),
    "_KWAIT_BLOCK": (0x18, {"WaitListEntry": (0, _inner("_LIST_ENTRY")), "Thread": (8, _pointer("_KTHREAD"))}),
    "_CONTEXT": (0x2CC, {"ContextFlags": (0, _WORD), "Eip": (0xB8, _WORD)}),
    "_KPROCESSOR_STATE": (0x320, {"ContextFrame": (0, _inner("_CONTEXT"))}),
    "_KPCR": (
        0x3748,
        {
            "SelfPcr": (0x1C, _pointer("_KPCR")),
            "Prcb": (0x20, _pointer("_KPRCB")),
            "Irql": (0x24, _BYTE),
            "IDT": (0x38, _pointer()),
            "GDT": (0x3C, _pointer()),
            "TSS": (0x40, _pointer()),
            "PrcbData": (0x120, _inner("_KPRCB")),
        },
    ),
    "_KPRCB": (
        0x3628,
        {
            "CurrentThread": (4, _pointer("_KTHREAD")),
            "NextThread": (8, _pointer("_KTHREAD")),
            "IdleThread": (0xC, _pointer("_KTHREAD")),
            "ProcessorState": (0x18, _inner("_KPROCESSOR_STATE")),
            "Number": (0x3CC, _WORD),
        },
    ),
    "_KAPC_STATE": (0x18, {"Process": (0x10, _pointer("_KPROCESS"))}),
    "_KTHREAD": (
        0x200,
        {
            "InitialStack": (0x28, _pointer()),
            "StackLimit": (0x2C, _pointer()),
            "KernelStack": (0x30, _pointer()),
            "ApcState": (0x40, _inner("_KAPC_STATE")),
            "State": (0x68, _BYTE),
            "Teb": (0x88, _pointer()),
            "StackBase": (0x190, _pointer()),
        },
    ),
    "_ETHREAD": (
        0x2B8,
        {
            "Tcb": (0, _inner("_KTHREAD")),
            "Cid": (0x22C, _inner("_CLIENT_ID")),
            "ThreadListEntry": (0x268, _inner("_LIST_ENTRY")),
        },
    ),
    "_KPROCESS": (0x98, {"DirectoryTableBase": (0x18, _WORD)}),
    "_EPROCESS": (
        0x2C0,
        {
            "Pcb": (0, _inner("_KPROCESS")),
            "UniqueProcessId": (0xB4, _pointer()),
            "ActiveProcessLinks": (0xB8, _inner("_LIST_ENTRY")),
            "ImageFileName": (
                0x16C,
                {"kind": "array", "count": 15, "subtype": {"kind": "base", "name": "unsigned char"}},
            ),
            "ThreadListHead": (0x188, _inner("_LIST_ENTRY")),
        },
    ),
    "_LDR_DATA_TABLE_ENTRY": (
        0x78,
        {
            "InLoadOrderLinks": (0, _inner("_LIST_ENTRY")),
            "DllBase": (0x18, _pointer()),
            "EntryPoint": (0x1C, _pointer()),
            "SizeOfImage": (0x20, _WORD),
            "FullDllName": (0x24, _inner("_UNICODE_STRING")),
            "BaseDllName": (0x2C, _inner("_UNICODE_STRING")),
            "CheckSum": (0x40, _WORD),
            "TimeDateStamp": (0x44, _WORD),
        },
    ),
}
#: Variables by name; those of the lists lie where the tables of the tiny kernel have them.
VARIABLES = {
    "PsLoadedModuleList": HEADS[4][0],
    "PsActiveProcessHead": HEADS[4][1],
    "KiProcessorBlock": _DATA,
    "KiBugCheckData": _DATA + 0x200,
    "KdDebuggerDataBlock": _DATA + 0x400,
    "KiPageFault": HANDLER,
}


def symbols(directory: Path) -> Path:
    """A directory with the table of the made kernel."""
    plain = {"size": 4, "signed": False, "kind": "int", "endian": "little"}
    document = {
        "metadata": {
            "format": "6.1.0",
            "producer": {"datetime": "2026-01-01T00:00:00", "name": "tests", "version": "1.0.0"},
            "windows": {"pdb": {"GUID": GUID, "age": 2, "database": "ntkrpamp.pdb", "machine_type": 0x14C}},
        },
        "base_types": {
            "pointer": plain,
            "unsigned int": plain,
            "unsigned short": {**plain, "size": 2},
            "unsigned char": {**plain, "size": 1, "kind": "char"},
            "void": {**plain, "size": 0, "kind": "void"},
        },
        "user_types": {
            name: {
                "kind": "struct",
                "size": size,
                "fields": {field: {"offset": offset, "type": kind} for field, (offset, kind) in fields.items()},
            }
            for name, (size, fields) in _TYPES.items()
        },
        "enums": {},
        "symbols": {name: {"address": address - BASE} for name, address in VARIABLES.items()},
    }
    path = directory / "ntkrpamp.pdb" / f"{GUID}-2.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(document))
    return directory


def kernel_content(base: int) -> bytearray:
    """The image of a tiny kernel at an address."""
    sections = [pe.Section(".text", PAGE, PAGE, pe.CODE), pe.Section(".rdata", 2 * PAGE, PAGE, pe.READ_ONLY)]
    image = pe.Image("ntkrpamp.exe", base, SIZE, 0x4E5D1C2B, 0, sections, narrow=True)
    image.codeview, image.debug_rva = pe.Codeview("ntkrpamp.pdb", GUID, 2), 2 * PAGE
    content = bytearray(SIZE)
    for rva, data in pe.build(image).items():
        content[rva : rva + len(data)] = data
    return content


class NarrowMachine:
    """Pages and page tables; ``processors`` are what a hypervisor saves, by number."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        pages, _ = machine(mode, ROOT)
        self._tables = Tables(mode, ROOT, 0x80)
        for pfn, page in pages.items():
            if pfn not in kernel_pages(4):
                self._tables.memory[pfn] = bytearray(page)
        self._pages = {pfn: bytearray(page) for pfn, page in pages.items()}
        self._frames = {head & -PAGE: frame for head, frame in zip(HEADS[4], (0x30, 0x31), strict=True)}
        self._following = 0x100
        self._kernel()
        self._processes()
        self._processors()
        self._self_map()

    def _self_map(self) -> None:
        """Page tables are mapped by themselves at C0000000, the directories of PAE in a row."""
        tables = self._tables.memory
        if self.mode == "x86":
            struct.pack_into("<I", tables[ROOT], 4 * 0x300, ROOT << 12 | 3)
            return
        pointers = list(struct.unpack_from("<4Q", tables[ROOT]))
        if not pointers[3] & 1:
            pointers[3] = 0x7F << 12 | 1
            tables[0x7F] = bytearray(PAGE)
            struct.pack_into("<Q", tables[ROOT], 24, pointers[3])
        for index, entry in enumerate(pointers):
            if entry & 1:
                struct.pack_into("<Q", tables[pointers[3] >> 12], 8 * index, entry & -PAGE | 3)

    def put(self, address: int, data: bytes) -> None:
        for at, byte in enumerate(data):
            page = address + at & -PAGE
            if page not in self._frames:
                self._frames[page] = self._following
                self._tables.map(page, self._following)
                self._pages[self._following] = bytearray(PAGE)
                self._following += 1
            self._pages[self._frames[page]][address + at & PAGE - 1] = byte

    def words(self, address: int, *values: int) -> None:
        self.put(address, struct.pack(f"<{len(values)}I", *values))

    def _kernel(self) -> None:
        content = kernel_content(BASE)
        # A call in front of each place that a return address names.
        content[0x1000:0x1200] = (b"\xe8\0\0\0\0" + b"\x90" * 11) * 32
        self.put(BASE, bytes(content))
        entry, head = (HEADS[4][0] & -PAGE) + 0x800, HEADS[4][0]
        self.words(head, entry, entry)
        self.words(entry, head, head)
        self.words(entry + 0x18, BASE, 0, SIZE)
        self.words(entry + 0x44, 0x4E5D1C2B)
        for place, text in ((0x24, "\\SystemRoot\\system32\\ntkrpamp.exe"), (0x2C, "ntkrpamp.exe")):
            data, at = text.encode("utf-16-le"), entry + 0x100 + (place - 0x24) * 0x20
            self.put(at, data + b"\0\0")
            self.put(entry + place, struct.pack("<HHI", len(data), len(data) + 2, at))
        self.put(_DATA + 0x200, bytes(20))
        values = {
            "KernBase": HIGH | BASE,
            "PsLoadedModuleList": HIGH | VARIABLES["PsLoadedModuleList"],
            "PsActiveProcessHead": HIGH | VARIABLES["PsActiveProcessHead"],
            "KiProcessorBlock": HIGH | VARIABLES["KiProcessorBlock"],
            "KiBugCheckData": HIGH | VARIABLES["KiBugCheckData"],
        }
        self.put(VARIABLES["KdDebuggerDataBlock"], debugger_data(**values))

    def _processes(self) -> None:
        head = HEADS[4][1]
        links, threads = PROCESS + 0xB8, PROCESS + 0x188
        self.words(head, links, links)
        self.put(PROCESS, struct.pack("<BxBx", 3, 0x26).ljust(0x2C0, b"\0"))
        self.words(PROCESS + 0x18, ROOT << 12)
        self.words(PROCESS + 0xB4, PID)
        self.words(links, head, head)
        self.put(PROCESS + 0x16C, NAME)
        chain = [threads, *(thread + 0x268 for thread in THREADS), threads]
        for at, (before, entry, after) in enumerate(zip(chain, chain[1:], chain[2:], strict=False)):
            self.words(entry, after, before)
            self.words(THREADS[at] + 0x22C, PID, TIDS[at])
        self.words(threads, chain[1], chain[-2])

    def _processors(self) -> None:
        self.processors = []
        self.expected: list[dict[str, int]] = []
        for number, region in enumerate(REGIONS):
            prcb, thread, stack = region + 0x120, THREADS[number], STACKS[number]
            self.words(_DATA + 4 * number, prcb)
            self.put(region, bytes(0x600))
            self.words(region + 0x1C, region, prcb)
            self.words(region + 0x38, region + TABLE, region + 0x10FB0, region + 0x11000)
            self.words(prcb + 4, thread, 0, IDLE)
            self.words(prcb + 0x3CC, number)
            gate = struct.pack("<HHBBH", HANDLER & 0xFFFF, 8, 0, 0x8E, HANDLER >> 16)
            self.put(region + TABLE, gate * 32)
            self.put(thread, struct.pack("<BxBx", 6, 0x80))
            self.words(thread + 0x28, stack + 0x2F00, stack, stack + 0x2800)
            self.words(thread + 0x50, PROCESS)
            self.put(thread + 0x68, b"\x02")
            self.words(thread + 0x88, TEBS[number])
            self.words(thread + 0x190, stack + 0x3000)
            frame = stack + 0x2E00
            self.put(stack + 0x2000, bytes(0x1000))
            self.words(frame, frame + 0x40, CODE + 0x15 + 0x10 * number)
            self.words(frame + 0x40, frame + 0x80, CODE + 0x45)
            general = {name: 0x11110000 * at + number for at, name in enumerate(("eax", "ecx", "edx", "ebx"), 1)}
            self.expected.append(
                {
                    **general,
                    **{"esp": frame - 0x20, "ebp": frame, "esi": 0xE0000000 + number, "edi": 0xD0000000 + number},
                    **{
                        "eip": CODE + 5,
                        "eflags": 0x246,
                        "cs": 8,
                        "ds": 0x23,
                        "es": 0x23,
                        "fs": 0x30,
                        "gs": 0,
                        "ss": 0x10,
                    },
                }
            )
            self.processors.append(self._processor(number, region))

    def _processor(self, number: int, region: int) -> Processor:
        """A CONTEXT of x64 that is as wide as what hypervisors write of any guest."""
        own = self.expected[number]
        record = bytearray(0x4D0)
        for place, name in enumerate(("cs", "ds", "es", "fs", "gs", "ss")):
            struct.pack_into("<H", record, 0x38 + 2 * place, own[name])
        struct.pack_into("<I", record, 0x44, own["eflags"])
        for place, name in enumerate(("eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi")):
            struct.pack_into("<Q", record, 0x78 + 8 * place, own[name])
        struct.pack_into("<Q", record, 0xF8, own["eip"])
        return Processor(bytes(record), ROOT << 12, region, "fs")

    def another(self, region: int, ip: int) -> None:
        """Have all processors be where this machine has nothing."""
        for number, registers in enumerate(self.expected):
            registers["eip"] = ip
            self.processors[number] = self._processor(number, region)

    def in_user_mode(self, number: int) -> None:
        """Have a processor run user mode, where FS leads to the TEB."""
        self.expected[number].update(cs=0x1B, ss=0x23, fs=0x3B, eip=0x401000, esp=0x12FF00, ebp=0x12FF80)
        self.processors[number] = self._processor(number, TEBS[number])

    def crash(self, code: int, *arguments: int) -> None:
        self.words(VARIABLES["KiBugCheckData"], code, *arguments)

    def image(self) -> Image:
        pages = {**self._pages, **{pfn: bytearray(table) for pfn, table in self._tables.memory.items()}}
        memory = PhysicalMemory({}, [(0, 0x200)])
        memory.pages = pages
        return Image(memory, tuple(self.processors))
