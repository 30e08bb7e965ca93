"""The user mode of a process: its DLLs as images in its address space, the loader's lists, environment, user stacks."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from kdump_sample import paging, pe
from kdump_sample.code import Call, Function, assemble
from kdump_sample.pe import CODE, READ_ONLY, Section
from kdump_sample.physical import PAGE
from kdump_sample.scene import Process, Thread, UserDll
from kdump_sample.stacks import Stack, lay_out
from kdump_sample.workspace import Workspace

_LOADER = 0x20000
_ENTRY_SIZE, _NAMES = 0x200, 0x8000
_ENVIRONMENT = 0x40000
_IMAGE_DLL = 0x4
#: Bytes between the stack pointer at a thread's start and its stack base.
_USER_TOP = 0x28


class UserMode:
    """The user mode of one process. ``root`` is its directory table base."""

    def __init__(self, work: Workspace, process: Process) -> None:
        self._work = work
        self._process = process
        self._root = process.directory_table_base
        self._functions: dict[str, tuple[Function, int, tuple[int, ...]]] = {}
        for dll in process.dlls:
            self._dll(dll)
        for address, data in process.user_memory:
            self._write(address, data)

    def _write(self, address: int, data: bytes, flags: int = paging.USER_DATA) -> None:
        self._work.memory.write(address, data, flags, self._root)

    # images -----------------------------------------------------------------------------------------------------------

    def _dll(self, dll: UserDll) -> None:
        for rva, data in (dll.image or self._built(dll)).items():
            self._write(dll.base + rva, data, paging.USER_READ_ONLY)
        for rva, function in dll.functions.items():
            returns = tuple(dll.base + rva + call.offset for call in function.calls)
            self._functions[f"{dll.stem}!{function.name}"] = function, dll.base + rva, returns

    def _built(self, dll: UserDll) -> dict[int, bytes]:
        tables = dll.size - 4 * PAGE
        sections = [
            Section(".text", PAGE, tables - PAGE, CODE),
            Section(".pdata", tables, PAGE, READ_ONLY),
            Section(".xdata", tables + PAGE, PAGE, READ_ONLY),
            Section(".edata", tables + 2 * PAGE, PAGE, READ_ONLY),
            Section(".rsrc", tables + 3 * PAGE, PAGE, READ_ONLY),
        ]
        image = pe.Image(dll.name, dll.base, dll.size, dll.timestamp, 0x1234, sections)
        image.version, image.company = (10, 0, 19041, 1), "Microsoft Corporation"
        for rva, function in dll.functions.items():
            sites = [(rva + call.offset, self._call(dll, rva, call)) for call in function.calls]
            made = assemble(function, rva, sites)
            if function.prologue:
                image.functions.append(made)
            else:
                # A leaf has no entry in the function table.
                image.chunks[rva] = made.code
            image.exports[function.name] = rva
        return pe.build(image)

    def _call(self, dll: UserDll, rva: int, call: Call) -> bytes:
        target = next((at for at, function in dll.functions.items() if function.name == call.target), None)
        # Into another module through a register.
        return b"\xff\xd0" if target is None else b"\xe8" + struct.pack("<i", target - rva - call.offset)

    # stacks -----------------------------------------------------------------------------------------------------------

    def stack(self, thread: Thread) -> Stack:
        """Lay out the user stack of a thread; its registers are then those of the innermost frame."""
        made = lay_out(thread.user_frames, thread.user_stack_base - _USER_TOP, self._functions.get, thread.registers)
        low = made.sp // PAGE * PAGE
        content = bytearray(thread.user_stack_base - low)
        for address, value in made.words.items():
            struct.pack_into("<Q", content, address - low, value)
        self._write(low, bytes(content))
        return made

    # blocks -----------------------------------------------------------------------------------------------------------

    def loader(self) -> int:
        """PEB_LDR_DATA with the lists of the 64-bit modules; returns its address."""
        process, structures = self._process, self._work.structures
        base = process.parameters + _LOADER
        made = structures.at("_PEB_LDR_DATA", base, self._root)
        made.fill({"Length": 0x58, "Initialized": 1})
        entries = []
        for index, dll in enumerate(process.dlls):
            address = base + (index + 1) * _ENTRY_SIZE
            entry = structures.at("_LDR_DATA_TABLE_ENTRY", address, self._root)
            entry.fill(
                {
                    "DllBase": dll.base,
                    "EntryPoint": dll.base + PAGE,
                    "SizeOfImage": dll.size,
                    "Flags": 0xA2C8 | (_IMAGE_DLL if index else 0),
                    ("ObsoleteLoadCount", "LoadCount"): 0xFFFF,
                    "TimeDateStamp": dll.timestamp,
                }
            )
            entry.unicode("FullDllName", dll.path, base + _NAMES + index * 0x400)
            entry.unicode("BaseDllName", dll.name, base + _NAMES + index * 0x400 + 0x200)
            entries.append(address)
        for name, links in (
            ("InLoadOrderModuleList", "InLoadOrderLinks"),
            ("InMemoryOrderModuleList", "InMemoryOrderLinks"),
            ("InInitializationOrderModuleList", "InInitializationOrderLinks"),
        ):
            offset = self._work.layouts.offset("_LDR_DATA_TABLE_ENTRY", links)
            # The program itself has no initialization routine.
            chosen = entries[1:] if name.startswith("InInit") else entries
            head = made.place(name)
            assert head is not None
            self._link(head, [address + offset for address in chosen])
        return base

    def _link(self, head: int, entries: Sequence[int]) -> None:
        ring = [head, *entries]
        for index, address in enumerate(ring):
            self._write(address, struct.pack("<QQ", ring[(index + 1) % len(ring)], ring[index - 1]))

    def environment(self) -> tuple[int, int]:
        """The environment; returns its address and size in bytes."""
        data = ("\0".join(self._process.environment) + "\0\0").encode("utf-16-le")
        address = self._process.parameters + _ENVIRONMENT
        self._write(address, data)
        return address, len(data)
