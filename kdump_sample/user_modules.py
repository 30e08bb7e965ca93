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
#: Where a process has its 32-bit PEB and loader data, and a thread its 32-bit TEB and WOW64 CPU area, from the others.
_PEB32, _LOADER32, _TEB32, _AREA = 0x1000, 0x38000, 0x2000, 0x10000
_CPU_RESERVED, _I386 = 1, 0x14C
#: The x86 CONTEXT of winnt.h: flags of the control, integer and segment registers, and where registers lie.
_CONTEXT_SIZE, _CONTEXT_FLAGS = 0x2CC, 0x10007
_X86 = {
    **{"edi": 0x9C, "esi": 0xA0, "ebx": 0xA4, "edx": 0xA8, "ecx": 0xAC, "eax": 0xB0},
    **{"ebp": 0xB4, "eip": 0xB8, "segcs": 0xBC, "eflags": 0xC0, "esp": 0xC4, "segss": 0xC8},
}


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
            # A process may have two modules of a name, one of each kind.
            self._functions[f"{dll.stem}{'32' if dll.narrow else ''}!{function.name}"] = (
                function,
                dll.base + rva,
                returns,
            )

    def _built(self, dll: UserDll) -> dict[int, bytes]:
        tables = dll.size - 4 * PAGE
        sections = [
            Section(".text", PAGE, tables - PAGE, CODE),
            Section(".pdata", tables, PAGE, READ_ONLY),
            Section(".xdata", tables + PAGE, PAGE, READ_ONLY),
            Section(".edata", tables + 2 * PAGE, PAGE, READ_ONLY),
            Section(".rsrc", tables + 3 * PAGE, PAGE, READ_ONLY),
        ]
        image = pe.Image(dll.name, dll.base, dll.size, dll.timestamp, 0x1234, sections, narrow=dll.narrow)
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
        dlls = [dll for dll in process.dlls if not dll.narrow]
        base = process.parameters + _LOADER
        made = structures.at("_PEB_LDR_DATA", base, self._root)
        made.fill({"Length": 0x58, "Initialized": 1})
        entries = []
        for index, dll in enumerate(dlls):
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

    # 32-bit code ------------------------------------------------------------------------------------------------------

    def narrow(self) -> None:
        """The 32-bit PEB and loader's list, and of each thread its 32-bit TEB and stack, and what WOW64 saved."""
        process, structures, layouts = self._process, self._work.structures, self._work.layouts
        peb, loader = process.peb + _PEB32, (process.parameters + _LOADER32) & 0xFFFFFFFF
        # Up to Windows 8.1 the process has the address of the PEB itself.
        new = layouts.has_type("_EWOW64PROCESS")
        if new:
            self._work.structure("_EWOW64PROCESS", process.wow64, {"Peb": peb})
        made = self._work.structures.at("_EPROCESS", process.address)
        made.set(("WoW64Process", "Wow64Process"), process.wow64 if new else peb)
        structures.at("_PEB32", peb, self._root).set("Ldr", loader)
        self._loader32(loader, [dll for dll in process.dlls if dll.narrow])
        for thread in process.threads:
            self._thread32(thread)

    def _loader32(self, loader: int, dlls: Sequence[UserDll]) -> None:
        """PEB_LDR_DATA and LDR_DATA_TABLE_ENTRY by the offsets of the x86 kernel's symbols."""
        entries = [loader + 0x100 + 0x400 * index for index in range(len(dlls))]
        data = {loader: struct.pack("<IB", 0x30, 1)}
        for offset, shift in ((0x0C, 0), (0x14, 8), (0x1C, 0x10)):
            ring = [loader + offset, *(entry + shift for entry in entries)]
            for index, place in enumerate(ring):
                data[place] = struct.pack("<II", ring[(index + 1) % len(ring)], ring[index - 1])
        for address, piece in data.items():
            self._write(address, piece)
        for entry, dll in zip(entries, dlls, strict=True):
            name, path = (string.encode("utf-16-le") for string in (dll.name, dll.path))
            self._write(entry + 0x18, struct.pack("<III", dll.base, dll.base + PAGE, dll.size))
            self._write(entry + 0x24, struct.pack("<HHI", len(path), len(path) + 2, entry + 0x100))
            self._write(entry + 0x2C, struct.pack("<HHI", len(name), len(name) + 2, entry + 0x80))
            self._write(entry + 0x34, struct.pack("<IHH", 0xA2CC, 0xFFFF, 0))
            self._write(entry + 0x44, struct.pack("<I", dll.timestamp))
            self._write(entry + 0x80, name)
            self._write(entry + 0x100, path)

    def _thread32(self, thread: Thread) -> None:
        structures = self._work.structures
        address, data = thread.narrow_stack
        self._write(address, data)
        end = address + len(data)
        teb = structures.at("_TEB32", thread.teb + _TEB32, self._root)
        teb.fill(
            {
                "NtTib.StackBase": end,
                "NtTib.StackLimit": address,
                "DeallocationStack": address & ~0xFFFF,
                "NtTib.Self": thread.teb + _TEB32,
                "LastErrorValue": thread.last_error,
            }
        )
        structures.at("_TEB", thread.teb, self._root).set("WowTebOffset", _TEB32)
        context = bytearray(_CONTEXT_SIZE)
        struct.pack_into("<I", context, 0, _CONTEXT_FLAGS)
        for name, value in {"segcs": 0x23, "segss": 0x2B, "eflags": 0x202, **thread.narrow_registers}.items():
            struct.pack_into("<I", context, _X86[name], value)
        area = thread.teb + _AREA
        self._write(area, struct.pack("<HH", 0, _I386) + bytes(context))
        slot = structures.at("_TEB", thread.teb, self._root).place(f"TlsSlots[{_CPU_RESERVED}]")
        assert slot is not None
        self._write(slot, struct.pack("<Q", area))
