"""The modules of a process: those that its loader lists, of 32-bit code too, and images that only its VADs know."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from volatility3_kdump import tables
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.layout import FieldPath, Layouts
from volatility3_kdump.lists import walk_list
from volatility3_kdump.memory import Memory
from volatility3_kdump.windows.memory.vads import IMAGE, process_vads
from volatility3_kdump.windows.structures import read_row
from volatility3_kdump.windows.user.spaces import UserSpace

_MOST_MODULES = 4096
#: The orders of the loader's lists.
LOAD, MEMORY, INITIALIZATION = "load", "memory", "initialization"
_LISTS = {
    LOAD: ("InLoadOrderModuleList", "InLoadOrderLinks"),
    MEMORY: ("InMemoryOrderModuleList", "InMemoryOrderLinks"),
    INITIALIZATION: ("InInitializationOrderModuleList", "InInitializationOrderLinks"),
}
_FIELDS: dict[str, FieldPath] = {
    "base": "DllBase",
    "entry_point": "EntryPoint",
    "size": "SizeOfImage",
    "flags": "Flags",
    "count": ("ObsoleteLoadCount", "LoadCount"),
    "tls": "TlsIndex",
    "timestamp": "TimeDateStamp",
    "node": "DdagNode",
}
_NARROW_SIZE, _NARROW_END = 4, 1 << 32
_LOADER, _TREE = "loader", "VAD"


@dataclass(frozen=True)
class UserModule:
    """A module of a process.

    ``entry`` is its LDR_DATA_TABLE_ENTRY, ``None`` for an image that only the VADs know; ``known_by`` says which.
    ``narrow`` marks one that the 32-bit loader of a 64-bit Windows lists. ``None`` values are not in the dump.
    """

    base: int
    size: int | None
    name: str | None
    path: str | None
    entry: int | None = None
    timestamp: int | None = None
    entry_point: int | None = None
    flags: int | None = None
    load_count: int | None = None
    tls_index: int | None = None
    node: int | None = None
    narrow: bool = False
    known_by: str = _LOADER

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.base + (self.size or 0)


@dataclass(frozen=True)
class UserModules:
    """The modules of a process; ``problems`` say why there may be more."""

    modules: tuple[UserModule, ...]
    problems: tuple[str, ...]


def user_modules(space: UserSpace, order: str = LOAD) -> UserModules:
    """The modules in an order of the loader's, those of its 32-bit half behind them.

    Where a list is not whole, images that a VAD names are added.
    """
    problems: list[str] = []
    modules = [*_native(space, order, problems), *_narrow(space, order, problems)]
    if problems:
        listed = {module.base for module in modules}
        modules += [module for module in mapped_images(space) if module.base not in listed]
    return UserModules(tuple(modules), tuple(problems))


def _native(space: UserSpace, order: str, problems: list[str]) -> Iterator[UserModule]:
    nt, peb = space.target.nt, space.process.peb
    if nt is None or not peb or not nt.has("_PEB", "Ldr") or not nt.has_type("_LDR_DATA_TABLE_ENTRY"):
        return
    at = peb + nt.offset("_PEB", "Ldr")
    ldr = space.pointer(at)
    if ldr is None:
        problems.append(f"the loader's lists: {space.memory.why_absent(at) or 'PEB.Ldr leads nowhere'}")
        return
    yield from _listed(space, space.memory, nt, ldr, order, "", problems)


def _narrow(space: UserSpace, order: str, problems: list[str]) -> Iterator[UserModule]:
    nt, peb = space.target.nt, narrow_peb(space)
    if nt is None or peb is None or not nt.has("_PEB32", "Ldr"):
        return
    ldr = space.pointer(peb + nt.offset("_PEB32", "Ldr"), space.narrow)
    if ldr is None:
        problems.append(f"the 32-bit loader's lists: {space.memory.why_absent(peb) or 'PEB32.Ldr leads nowhere'}")
        return
    yield from _listed(space, space.narrow, tables.structures(), ldr, order, "32", problems)


def narrow_peb(space: UserSpace) -> int | None:
    """The PEB of a 32-bit process on 64-bit Windows; ``None`` for other processes, or where it is not in the dump.

    EPROCESS.WoW64Process leads to an EWOW64PROCESS that holds it; up to Windows 8.1 it is the address itself.
    """
    nt, wow64 = space.target.nt, space.process.wow64
    if nt is None or not wow64 or space.memory.pointer_size == _NARROW_SIZE:
        return None
    value: int | None = wow64
    for type_name, path in (("_EWOW64PROCESS", "Peb"), ("_WOW64_PROCESS", "Wow64")):
        if nt.has(type_name, path):
            at = wow64 + nt.offset(type_name, path)
            value = space.target.memory.pointer(at) if space.target.is_kernel_address(wow64) else None
            break
    return value if value and value < _NARROW_END else None


def _listed(
    space: UserSpace, memory: Memory, layouts: Layouts, ldr: int, order: str, suffix: str, problems: list[str]
) -> Iterator[UserModule]:
    list_name, link_name = _LISTS[order]
    entry_type = f"_LDR_DATA_TABLE_ENTRY{suffix}"
    head = ldr + layouts.offset(f"_PEB_LDR_DATA{suffix}", list_name)
    link = layouts.offset(entry_type, link_name)
    reader = layouts.reader(entry_type, **_FIELDS)
    name_at, path_at = layouts.offset(entry_type, "BaseDllName"), layouts.offset(entry_type, "FullDllName")
    walk = walk_list(memory, head, _MOST_MODULES, f"{list_name}{' (32 bit)' if suffix else ''}", user=True)
    problems += walk.problems
    for place in walk.entries:
        entry = place - link
        row: Any = read_row(memory, reader, entry)
        if row is None or not row.base or row.base >= space.end:
            continue
        yield UserModule(
            row.base,
            row.size,
            space.text(entry + name_at, memory),
            space.text(entry + path_at, memory),
            entry,
            row.timestamp,
            row.entry_point,
            row.flags,
            row.count,
            row.tls,
            row.node,
            bool(suffix),
        )


def mapped_images(space: UserSpace) -> tuple[UserModule, ...]:
    """Images by the tree of VADs; none where that is not in the dump."""
    try:
        tree = process_vads(space.target, space.process.address)
    except KdumpError:
        return ()
    images = []
    for vad in tree.vads:
        if vad.kind == IMAGE and vad.start is not None and vad.end is not None and vad.end < space.end:
            path = vad.section.file if vad.section is not None else None
            name = path.rsplit("\\", 1)[-1] if path else None
            images.append(UserModule(vad.start, vad.end + 1 - vad.start, name, path, known_by=_TREE))
    return tuple(images)
