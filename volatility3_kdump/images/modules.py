"""Loaded and unloaded kernel modules, from the loader's list or a small memory dump's tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from volatility3_kdump import tables
from volatility3_kdump.dump.triage import TriageDump
from volatility3_kdump.images.pe import PeImage, parse_headers
from volatility3_kdump.layout import Layouts
from volatility3_kdump.lists import walk_list
from volatility3_kdump.memory import Memory, sign_extended

_MOST_MODULES = 4096
#: Bytes of the longest file name that a volume of Windows has (255 characters), and of a path that is still one.
_LONGEST_NAME, _LONGEST_PATH = 510, 4096
_MOST_UNLOADED = 50
_KERNEL_NAMES = {"ntoskrnl.exe", "ntkrnlmp.exe", "ntkrnlpa.exe", "ntkrpamp.exe"}
#: Largest image that a kernel module can sensibly have, in bytes.
_LARGEST_IMAGE = 1 << 31


@dataclass(frozen=True)
class Module:
    """A loaded kernel module.

    ``name`` is the name that KD uses in symbols (``nt``, ``myfault``), ``image_name`` the file name, ``path`` the full
    NT path (``None`` when its string is not in the dump). ``timestamp`` is TimeDateStamp: seconds since 1970, or a hash
    where the image was built reproducibly. ``entry`` is the address of its KLDR_DATA_TABLE_ENTRY. ``None`` values are
    not in the dump.
    """

    name: str
    image_name: str
    path: str | None
    base: int
    size: int
    timestamp: int | None
    checksum: int | None
    entry: int | None = None

    @property
    def end(self) -> int:
        """First address behind the image."""
        return self.base + self.size


@dataclass(frozen=True)
class UnloadedModule:
    """A module that was unloaded before the dump; ``end`` is exclusive, ``time`` a FILETIME or ``None``."""

    name: str
    start: int
    end: int
    time: int | None


def debugger_name(image_name: str, first: bool = False) -> str:
    """The module name that KD derives from a file name: its stem, ``nt`` for the kernel, odd characters replaced."""
    if first or image_name.lower() in _KERNEL_NAMES:
        return "nt"
    stem = image_name.rsplit(".", 1)[0] if "." in image_name else image_name
    return re.sub(r"[^0-9A-Za-z_.~$]", "_", stem)


def modules_of_triage(triage: TriageDump) -> list[Module]:
    """The driver list of a small memory dump; its first entry is the kernel."""
    modules = []
    for index, driver in enumerate(triage.drivers):
        image_name = driver.name or f"driver{index}"
        modules.append(
            Module(
                debugger_name(image_name, index == 0),
                image_name,
                driver.path,
                driver.base,
                driver.size,
                driver.timestamp,
                driver.checksum,
            )
        )
    return modules


def loaded_modules(memory: Memory, head: int | None, nt: Layouts | None) -> tuple[list[Module], list[str]]:
    """Walk PsLoadedModuleList, and say what was wrong with it.

    Works without symbols: the fields that matter have not moved since Windows Vista. TimeDateStamp and CheckSum come
    from the image headers where they are in the dump, else from the list entry.
    """
    if head is None:
        return [], ["the address of PsLoadedModuleList is not known: no modules"]
    layouts, type_name = _entry_type(nt, memory.pointer_size)
    reader = layouts.reader(
        type_name,
        base="DllBase",
        size="SizeOfImage",
        full=("FullDllName", "FullDllName.Length"),
        name=("BaseDllName", "BaseDllName.Length"),
        checksum="CheckSum",
        timestamp=("TimeDateStamp",) if type_name == "_KLDR_DATA_TABLE_ENTRY" else ("Absent",),
    )
    full_name = layouts.offset(type_name, "FullDllName")
    base_name = layouts.offset(type_name, "BaseDllName")
    problems: list[str] = []
    modules: list[Module] = []
    walk = walk_list(memory, head, _MOST_MODULES, "PsLoadedModuleList")
    problems += walk.problems
    # The first module is the kernel: without the head's own link nothing tells which entry that is.
    for entry in walk.entries if walk.break_at != 0 else ():
        data = memory.read(entry, reader.size)
        if data is None:
            problems.append(f"loaded module entry at {entry:#x}: {memory.why_unreadable(entry)}; skipped")
            continue
        row = reader.unpack(data)
        base = sign_extended(row.base, memory.pointer_size)
        if not base or not row.size or row.size > _LARGEST_IMAGE:
            problems.append(f"loaded module entry at {entry:#x} has base {base:#x} and size {row.size:#x}; skipped")
            continue
        image = parse_headers(lambda rva, size, base=base: memory.read(base + rva, size))  # type: ignore[misc]
        modules.append(_module(memory, entry, row, base, image, full_name, base_name, first=entry == walk.entries[0]))
    return modules, problems


def _module(
    memory: Memory, entry: int, row: object, base: int, image: PeImage | None, full: int, short: int, first: bool
) -> Module:
    path = _name(memory, entry + full, _LONGEST_PATH)
    image_name = _name(memory, entry + short, _LONGEST_NAME) or (path.rsplit("\\", 1)[-1] if path else f"{base:x}")
    return Module(
        debugger_name(image_name, first),
        image_name,
        path,
        base,
        row.size,  # type: ignore[attr-defined]
        image.timestamp if image else row.timestamp,  # type: ignore[attr-defined]
        row.checksum or (image.checksum if image else None),  # type: ignore[attr-defined]
        entry,
    )


def _name(memory: Memory, address: int, most: int) -> str | None:
    """A name, unless it is longer than any: four thousand entries of a damaged list may share one that is endless."""
    length = memory.unsigned(address, 2)
    return None if length is None or length > most else memory.unicode_string(address)


def _entry_type(nt: Layouts | None, pointer_size: int) -> tuple[Layouts, str]:
    if nt is not None:
        # The kernel's own type appears in symbols from Windows 8 on; before, the user-mode loader's has the same start.
        for name in ("_KLDR_DATA_TABLE_ENTRY", "_LDR_DATA_TABLE_ENTRY"):
            if nt.has(name, "DllBase") and nt.has(name, "CheckSum"):
                return nt, name
    return tables.structures(), f"_KLDR_DATA_TABLE_ENTRY_FIXED{8 * pointer_size}"


def unloaded_modules(memory: Memory, array_variable: int | None, last_variable: int | None) -> list[UnloadedModule]:
    """The array behind nt!MmUnloadedDrivers, most recent first; empty when it is not in the dump.

    ``last_variable`` is the address of nt!MmLastUnloadedDriver, the number of modules unloaded so far.
    """
    array = memory.pointer(array_variable) if array_variable else None
    count = memory.unsigned(last_variable, 4) if last_variable else None
    if not array or count is None:
        return []
    type_name = f"_UNLOADED_DRIVERS{8 * memory.pointer_size}"
    layouts = tables.structures()
    stride = layouts.size_of(type_name)
    reader = layouts.reader(type_name, length="NameLength", start="StartAddress", end="EndAddress", time="CurrentTime")
    modules = []
    for back in range(min(count, _MOST_UNLOADED)):
        entry = array + ((count - 1 - back) % _MOST_UNLOADED) * stride
        data = memory.read(entry, stride)
        if data is None:
            continue
        row = reader.unpack(data)
        name = memory.unicode_string(entry)
        if name and row.end > row.start:
            modules.append(
                UnloadedModule(
                    name,
                    sign_extended(row.start, memory.pointer_size),
                    sign_extended(row.end, memory.pointer_size),
                    row.time or None,
                )
            )
    return modules


def unloaded_of_triage(triage: TriageDump) -> list[UnloadedModule]:
    """The unloaded drivers of a small memory dump, most recent first."""
    return [UnloadedModule(driver.name, driver.start, driver.end, None) for driver in triage.unloaded]


def find_module(modules: Sequence[Module], address: int) -> Module | None:
    """The module whose image range holds an address."""
    return next((module for module in modules if module.base <= address < module.end), None)
