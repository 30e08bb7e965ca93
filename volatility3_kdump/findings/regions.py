"""What lies at an address: user space, a driver, pool, a stack, page tables, or nothing that can be named.

Modules, stacks and the canonical form of addresses decide first, since they are certain. Then the memory manager's own
regions are asked (:mod:`volatility3_kdump.windows.memory.kernel_regions`); where they say nothing, the answer is no
more than ``kernel``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.cpu.amd64 import is_canonical
from volatility3_kdump.images.modules import Module, UnloadedModule, find_module
from volatility3_kdump.memory import sign_extended
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.memory.kernel_regions import (
    NONPAGED_POOL,
    PAGED_POOL,
    SPECIAL_POOL,
    STACK,
    kernel_region,
)
from volatility3_kdump.windows.memory.page_entries import entry_at
from volatility3_kdump.windows.processes.crashed import crash_thread
from volatility3_kdump.windows.processes.threads import stack_limits
from volatility3_kdump.windows.structures import field_offset

if TYPE_CHECKING:
    from volatility3_kdump.memory import Memory
    from volatility3_kdump.target import Target

NULL_PAGE, USER, NON_CANONICAL = "null page", "user", "non-canonical"
DRIVER, UNLOADED, SHARED_DATA, KERNEL = "driver", "unloaded driver", "shared user data", "kernel"
PAGE_FRAMES = "page-frame database"

#: The lowest 64 KiB of user space are never mapped: an address there is a null pointer plus an offset.
NULL_PAGE_SIZE = 0x10000

#: KUSER_SHARED_DATA, where the kernel and where every process sees it.
_SHARED_DATA = {8: 0xFFFFF78000000000, 4: 0xFFFFFFFFFFDF0000}
_USER_SHARED_DATA = 0x7FFE0000
_PAGE_SIZE = 0x1000
_STACK_SIZE = 0x6000

#: The debugger's words behind an address.
_DEBUGGER_WORDS = {PAGED_POOL: "Paged pool", NONPAGED_POOL: "Nonpaged pool", SPECIAL_POOL: "Special pool"}


@dataclass(frozen=True)
class Region:
    """Where an address lies.

    ``kind`` is one of the constants above, or what the kernel calls a region that has none; ``text`` says it for a
    reader, with the name of the driver or the thread; ``source`` is what it was taken from. ``module`` and ``unloaded``
    are set for drivers.
    """

    kind: str
    text: str
    source: str
    module: Module | None = None
    unloaded: UnloadedModule | None = None

    @property
    def debugger_words(self) -> str:
        """What KD puts behind READ_ADDRESS and WRITE_ADDRESS; empty where it has no word for the region."""
        return _DEBUGGER_WORDS.get(self.kind, "")


class Place(NamedTuple):
    """An address with its region, its symbol, and why the dump lacks it (``None``: it does not)."""

    region: Region
    symbol: str | None
    absent: str | None


def place_of(target: Target, address: int, memory: Memory | None = None) -> Place:
    """What an address is; ``memory`` is the address space, by default that of the process that crashed."""
    return Place(region_of(target, address), target.name_of(address), (memory or target.memory).why_absent(address))


def region_of(target: Target, address: int, stacks: bool = True) -> Region:
    """The region of a virtual address. ``stacks`` says whether to look for it on stacks."""
    address = sign_extended(address, target.memory.pointer_size)
    certain = _outside_kernel(target, address) or _driver(target, address)
    if certain is None and stacks:
        certain = _stack(target, address)
    if certain is not None:
        return certain
    entry = entry_at(target, address)
    if entry is not None:
        has = "" if entry.present else ", which the machine does not have"
        description = f"page-frame database: entry of page {entry.page:x}{has}"
        return Region(PAGE_FRAMES, description, "the page-frame database's address in the header")
    kernel_range = kernel_region(target, address)
    return (
        Region(kernel_range.kind, kernel_range.kind, kernel_range.source)
        if kernel_range
        else Region(KERNEL, "kernel address space", "the address")
    )


def address_bits(target: Target) -> int:
    """How many bits of an address the page tables translate; addresses are the sign extension of these."""
    architecture = target.header.architecture
    if architecture == "arm64":
        # Each half has a table of its own, so that every one of 48 bits counts.
        return 49
    if architecture == "x64":
        return 57 if target.debugger is not None and target.debugger.paging_levels == 5 else 48
    return 64


def canonical(target: Target, address: int) -> bool:
    """Whether an address can be translated at all."""
    bits = address_bits(target)
    return bits == 64 or is_canonical(address, bits)


def _outside_kernel(target: Target, address: int) -> Region | None:
    if 0 <= address < NULL_PAGE_SIZE:
        return Region(NULL_PAGE, "null page, which is never mapped", "the address")
    if not canonical(target, address):
        return Region(NON_CANONICAL, "not a canonical address: no memory can be there", "the address")
    kernel = target.is_kernel_address(address)
    shared = _SHARED_DATA[target.memory.pointer_size] if kernel else _USER_SHARED_DATA
    if shared <= address < shared + _PAGE_SIZE:
        seen = "shared user data page" if kernel else "shared user data page as processes see it"
        return Region(SHARED_DATA, f"{seen}: KUSER_SHARED_DATA+{address - shared:#x}", "its fixed address")
    return None if kernel else Region(USER, "user address space", "the address")


def _driver(target: Target, address: int) -> Region | None:
    module = find_module(target.modules, address)
    if module is not None:
        return Region(DRIVER, f"image of {module.image_name}", "the loaded module list", module)
    unloaded = unloaded_at(target, address)
    if unloaded is not None:
        return Region(UNLOADED, f"where {unloaded.name} was, which is unloaded", "MmUnloadedDrivers", None, unloaded)
    return None


def unloaded_at(target: Target, address: int) -> UnloadedModule | None:
    """The most recently unloaded driver that lay at an address where no driver is now."""
    address = sign_extended(address, target.memory.pointer_size)
    if find_module(target.modules, address) is not None:
        return None
    return next((module for module in target.unloaded_modules if module.start <= address < module.end), None)


def _stack(target: Target, address: int) -> Region | None:
    size, source = target.memory.pointer_size, "the thread's stack limits"
    threads = [processor.current_thread for processor in processors(target)]
    crashed = crash_thread(target)
    if crashed is not None:
        threads.insert(0, crashed.address)
    for thread in dict.fromkeys(threads):
        limits = stack_limits(target, thread) if thread else None
        if thread is None or limits is None:
            continue
        named = f"kernel stack of thread {thread & (1 << 8 * size) - 1:x}"
        if limits[0] <= address < limits[1]:
            return Region(STACK, named, source)
        if limits[0] - _PAGE_SIZE <= address < limits[0]:
            return Region(STACK, f"guard page below the {named}", source)
    for processor in processors(target):
        for name, low, high in processor_stacks(target, processor.prcb):
            if low <= address < high:
                return Region(STACK, f"{name} of processor {processor.number}", "the processor's control block")
    return None


def processor_stacks(target: Target, prcb: int | None) -> list[tuple[str, int, int]]:
    """The stacks that belong to a processor, not to a thread: (name, lowest address, first above).

    Only where they start is recorded (KPRCB.DpcStack, which is a little below the base, KPRCB.IsrStack, KTSS64.Ist);
    each is taken to be as large as a thread's kernel stack.
    """
    if prcb is None:
        return []
    memory, nt = target.memory, target.nt
    tops: list[tuple[str, int | None]] = []
    for name, path, debugger_field in (
        ("DPC stack", "DpcStack", "OffsetPrcbDpcStack"),
        ("interrupt stack", "IsrStack", "OffsetPrcbIsrStack"),
    ):
        located = field_offset(target, "_KPRCB", path, debugger_field)
        tops.append((name, memory.pointer(prcb + located) if located is not None else None))
    if nt is not None and target.header.architecture == "x64" and nt.has("_KTSS64", "Ist") and nt.has("_KPCR", "Prcb"):
        task_state = memory.pointer(prcb - nt.offset("_KPCR", "Prcb") + nt.offset("_KPCR", "TssBase"))
        for index in range(1, 8) if task_state else ():
            top = memory.pointer((task_state or 0) + nt.offset("_KTSS64", "Ist") + 8 * index)
            tops.append((f"interrupt stack table entry {index}", top))
    bases = [(name, -(-top // _PAGE_SIZE) * _PAGE_SIZE) for name, top in tops if top and target.is_kernel_address(top)]
    return [(name, base - _STACK_SIZE, base) for name, base in bases]
