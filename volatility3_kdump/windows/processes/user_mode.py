"""What a process's user-mode pages say: command line, image path, loaded modules.

Kernel dumps leave these pages out, and any dump may lack some: the PEB decides, and nothing is probed for. The pages
are read through the page tables of the process itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from volatility3_kdump.layout import Layouts
from volatility3_kdump.lists import walk_list
from volatility3_kdump.memory import Memory
from volatility3_kdump.windows.processes.processes import Process

if TYPE_CHECKING:
    from volatility3.framework import interfaces

    from volatility3_kdump.target import Target

NOT_IN_THE_DUMP = "user pages not in the dump"
_MOST_MODULES = 4096
#: The first address beyond those of user mode.
_USER_END = {8: 0x0000_8000_0000_0000, 4: 0x8000_0000}


@dataclass(frozen=True)
class UserModule:
    """A module that the loader of the process lists (LDR_DATA_TABLE_ENTRY): base, size in bytes, name and path."""

    base: int
    size: int | None
    name: str | None
    path: str | None


@dataclass(frozen=True)
class UserMode:
    """The user mode of a process. ``absent`` says why there is nothing; ``None`` values are not in the dump."""

    absent: str | None
    image_path: str | None = None
    command_line: str | None = None
    current_directory: str | None = None
    modules: tuple[UserModule, ...] = ()


def read_user_mode(target: Target, process: Process) -> UserMode:
    """Read what the dump holds."""
    nt, peb = target.nt, process.peb
    if peb == 0:
        return UserMode("the process has no user mode")
    if nt is None or peb is None or not nt.has_type("_PEB"):
        return UserMode("the process environment block cannot be located")
    memory = process_memory(target, process)
    if memory is None:
        return UserMode(NOT_IN_THE_DUMP)
    parameters_at, loader_at = nt.find("_PEB", "ProcessParameters"), nt.find("_PEB", "Ldr")
    parameters = _user_pointer(memory, peb + parameters_at.offset) if parameters_at else None
    loader = _user_pointer(memory, peb + loader_at.offset) if loader_at else None
    if parameters is None and loader is None:
        return UserMode(NOT_IN_THE_DUMP)

    def parameter(name: str) -> str | None:
        field = nt.find("_RTL_USER_PROCESS_PARAMETERS", name)
        return memory.unicode_string(parameters + field.offset) if field is not None and parameters else None

    return UserMode(
        None,
        parameter("ImagePathName"),
        parameter("CommandLine"),
        parameter("CurrentDirectory.DosPath"),
        tuple(_modules(nt, memory, loader)) if loader else (),
    )


def process_memory(target: Target, process: Process) -> Memory | None:
    """The address space of a process; ``None`` where its page table is not in the dump, or translation is not known."""
    from volatility3_kdump.layers.reading import ranges_of, reader_of, why_unreadable

    layer = process_layer(target, process)
    if layer is None:
        return None

    def why(address: int) -> str:
        if address >= _USER_END[target.memory.pointer_size]:
            return why_unreadable(layer, address)
        reason = why_unreadable(layer, address)
        absent = "not in the dump" if "not in the dump file" in reason else reason
        return f"user page {address & ~0xFFF:x} is {absent}"

    return Memory(reader_of(layer), target.memory.pointer_size, why, ranges_of(layer))


def process_layer(target: Target, process: Process) -> interfaces.layers.TranslationLayerInterface | None:
    """As :func:`process_memory`, as a layer of the host's, which is not added to the context."""
    from volatility3.framework import interfaces

    from volatility3_kdump.layers.paging import paged

    root = process.directory_table_base
    if target.physical_layer_name is None or target.layer_name is None or not root:
        return None
    kernel = paged(target.context.layers[target.layer_name])
    if kernel is None:
        return None
    pages = target.dump.pages
    root &= 0x000FFFFFFFFFF000 if kernel.bits_per_register == 64 else 0xFFFFFFE0
    if pages is not None and pages.offset_of(root >> 12) is None:
        return None
    join = interfaces.configuration.path_join
    name = target.context.layers.free_layer_name(f"{target.layer_name}_Process")
    path = join(target.context.layers[target.layer_name].config_path, name)
    target.context.config[join(path, "memory_layer")] = target.physical_layer_name
    target.context.config[join(path, "page_map_offset")] = root
    swap = target.context.config.branch(join(target.context.layers[target.layer_name].config_path, "swap_layers"))
    target.context.config.splice(join(path, "swap_layers"), swap)
    if target.context.config.get(join(target.context.layers[target.layer_name].config_path, "swap_layers"), None):
        # Pages that were swapped out are in the paging files at hand for every process.
        target.context.config[join(path, "swap_layers")] = True
    return type(kernel)(target.context, config_path=path, name=name, metadata={"os": "Windows"})


def _user_pointer(memory: Memory, address: int) -> int | None:
    """A pointer into user mode, ``None`` where it is not in the dump, null, or points elsewhere."""
    value = memory.pointer(address)
    return value if value and value < _USER_END[memory.pointer_size] else None


def _modules(nt: Layouts, memory: Memory, loader: int) -> list[UserModule]:
    """PEB_LDR_DATA.InLoadOrderModuleList, as far as it reaches."""
    head_at = nt.find("_PEB_LDR_DATA", "InLoadOrderModuleList")
    if head_at is None or not nt.has_type("_LDR_DATA_TABLE_ENTRY"):
        return []
    reader = nt.reader("_LDR_DATA_TABLE_ENTRY", base="DllBase", size="SizeOfImage", links="InLoadOrderLinks")
    name_at = nt.offset("_LDR_DATA_TABLE_ENTRY", "BaseDllName")
    path_at = nt.offset("_LDR_DATA_TABLE_ENTRY", "FullDllName")
    links_at = nt.offset("_LDR_DATA_TABLE_ENTRY", "InLoadOrderLinks")
    modules = []
    walk = walk_list(memory, loader + head_at.offset, _MOST_MODULES, "InLoadOrderModuleList", user=True)
    for entry in walk.entries:
        address = entry - links_at
        data = memory.read(address, reader.size) if entry < _USER_END[memory.pointer_size] else None
        if data is None:
            continue
        row = reader.unpack(data)
        if row.base:
            name, path = memory.unicode_string(address + name_at), memory.unicode_string(address + path_at)
            modules.append(UserModule(row.base, row.size, name, path))
    return modules
