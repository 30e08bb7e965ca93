"""Whose memory an address is: a driver and its section, a pool block and its tag, the thread of a stack, a process.

:mod:`volatility3_kdump.findings.regions` says what kind of place an address is; this names who has it. What is needed
for that - the stacks of all threads, the tables of the pool - is read when an address first asks for it.
"""

from __future__ import annotations

import bisect
import functools
from typing import TYPE_CHECKING, NamedTuple

from volatility3_kdump.findings.regions import DRIVER, UNLOADED, USER, address_bits, processor_stacks, region_of
from volatility3_kdump.images.modules import Module
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.memory.kernel_regions import PAGE_TABLES, PFN_DATABASE, STACK, kernel_ranges
from volatility3_kdump.windows.memory.pool import PoolBlock, find_block
from volatility3_kdump.windows.processes import process_lists, processes
from volatility3_kdump.windows.processes.crashed import crash_process, crash_thread
from volatility3_kdump.windows.processes.processes import Process
from volatility3_kdump.windows.processes.threads import read_thread, stack_limits
from volatility3_kdump.windows.processes.user_mode import UserModule, read_user_mode

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

PROCESSOR, POOL = "processor", "pool"
_PTE_SIZE = 8


class Owner(NamedTuple):
    """Who owns an address.

    ``kind`` is one of the kinds of :mod:`volatility3_kdump.findings.regions`, or ``processor``, or that of a pool
    (``nonpaged NX pool``). ``name`` names the owner: a driver's file, a pool tag, a thread, a process. ``address`` is
    where the owner begins (image, block, stack, control block; for user pages the EPROCESS), ``offset`` how far into it
    the address lies. ``section`` and ``symbol`` are those of an image. ``detail`` is what else is known, or why no more
    is. ``None`` is not known, or does not apply.
    """

    kind: str
    name: str | None = None
    address: int | None = None
    offset: int | None = None
    section: str | None = None
    symbol: str | None = None
    detail: str | None = None


class _Stack(NamedTuple):
    """A kernel stack, ``[low, high)``: of a thread, or of a processor that ``name`` then says."""

    low: int
    high: int
    thread: int | None
    name: str | None


class MemoryOwners:
    """Finds owners in a target. ``process`` is the one whose user half is meant, by default that of the crash."""

    def __init__(self, target: Target, process: Process | None = None) -> None:
        self._target = target
        self._process = process

    def of(self, address: int) -> Owner:
        """The owner of a virtual address (sign-extended)."""
        target = self._target
        if not target.is_kernel_address(address):
            return self._user(address)
        module = target.names.module_of(address)
        if module is not None:
            return self._image(module, address)
        return self._stack(address) or self._processor(address) or self._other(address)

    # images -----------------------------------------------------------------------------------------------------------

    def _image(self, module: Module, address: int) -> Owner:
        image = self._target.images.headers_of(module)
        offset = address - module.base
        section = image.section_of(offset) if image is not None else None
        place = f"{section.name}+{offset - section.address:#x}" if section is not None else None
        detail = "its headers are not in the dump" if image is None else None
        if section is None and image is not None:
            detail = "in its headers" if offset < min((part.address for part in image.sections), default=0) else None
        return Owner(DRIVER, module.image_name, module.base, offset, place, self._target.name_of(address), detail)

    def _user(self, address: int) -> Owner:
        process = self._process or crash_process(self._target)
        kind = region_of(self._target, address).kind
        if process is None or kind != USER:
            return Owner(kind)
        name = f"{process.name or '?'} ({process.pid if process.pid is not None else '?'})"
        module = next((dll for dll in self._user_modules if dll.base <= address < dll.base + (dll.size or 0)), None)
        symbol = f"{module.name or '?'}+{address - module.base:#x}" if module is not None else None
        return Owner(kind, name, process.address, None, None, symbol)

    @functools.cached_property
    def _user_modules(self) -> tuple[UserModule, ...]:
        process = self._process or crash_process(self._target)
        return read_user_mode(self._target, process).modules if process is not None else ()

    # stacks and processors --------------------------------------------------------------------------------------------

    def _stack(self, address: int) -> Owner | None:
        lows, stacks = self._stacks
        index = bisect.bisect_right(lows, address) - 1
        if index < 0 or address >= stacks[index].high:
            return None
        stack = stacks[index]
        detail = f"{stack.high - address:#x} bytes below its base {stack.high:x}"
        name = stack.name if stack.thread is None else self._thread_name(stack.thread)
        return Owner(STACK, name, stack.low, address - stack.low, detail=detail)

    def stack_ranges(self) -> list[tuple[int, int]]:
        """The kernel stacks of all threads and processors that are known, ``[low, high)``, disjoint and in order."""
        return [(stack.low, stack.high) for stack in self._stacks[1]]

    @functools.cached_property
    def _stacks(self) -> tuple[list[int], list[_Stack]]:
        """All stacks that are known, disjoint and in order, and where they begin."""
        target = self._target
        ranges = []
        for thread in self._threads:
            limits = stack_limits(target, thread)
            if limits is not None:
                ranges.append(_Stack(*limits, thread, None))
        for processor in processors(target):
            for name, low, high in processor_stacks(target, processor.prcb):
                ranges.append(_Stack(low, high, None, f"{name} of processor {processor.number}"))
        # A stack of a processor has no recorded limit: that of a thread, which has, comes first.
        disjoint: list[_Stack] = []
        for stack in sorted(ranges, key=lambda stretch: (stretch.thread is None, stretch.low)):
            place = bisect.bisect_left(disjoint, stack.low, key=lambda stretch: stretch.low)
            before = disjoint[place - 1] if place else None
            after = disjoint[place] if place < len(disjoint) else None
            if (before is None or before.high <= stack.low) and (after is None or stack.high <= after.low):
                disjoint.insert(place, stack)
        return [stack.low for stack in disjoint], disjoint

    @functools.cached_property
    def _processes(self) -> list[int]:
        return process_lists.process_addresses(self._target)

    @functools.cached_property
    def _threads(self) -> list[int]:
        """The threads of all processes, and those that processors run, idle ones too."""
        target = self._target
        crashed = crash_thread(target)
        threads = [crashed.address] if crashed is not None else []
        for processor in processors(target):
            threads += [thread for thread in (processor.current_thread, processor.idle_thread) if thread]
        for process in self._processes:
            threads += process_lists.thread_addresses(target, process)
        return list(dict.fromkeys(threads))

    def _thread_name(self, address: int) -> str:
        thread = read_thread(self._target, address)
        owner = thread.owner or thread.process
        name = processes.read_process(self._target, owner).name if owner else None
        ids = f"{thread.pid:x}.{thread.tid:x}" if thread.pid is not None and thread.tid is not None else "?"
        return f"thread {address:x} ({name or '?'} {ids})"

    def _processor(self, address: int) -> Owner | None:
        for number, prcb, size in self._control_blocks:
            if prcb <= address < prcb + size:
                return Owner(PROCESSOR, f"KPRCB of processor {number}", prcb, address - prcb)
        return None

    @functools.cached_property
    def _control_blocks(self) -> list[tuple[int, int, int]]:
        target = self._target
        size = target.nt.size_of("_KPRCB") if target.nt is not None and target.nt.has_type("_KPRCB") else None
        if size is None and target.debugger is not None:
            size = target.debugger["SizePrcb"]
        return [(processor.number, processor.prcb, size) for processor in processors(target) if processor.prcb and size]

    # everything else --------------------------------------------------------------------------------------------------

    def _other(self, address: int) -> Owner:
        target = self._target
        region = region_of(target, address, stacks=False)
        if region.unloaded is not None:
            unloaded = region.unloaded
            return Owner(UNLOADED, unloaded.name, unloaded.start, address - unloaded.start, detail="unloaded")
        frame = self._page_frame(address)
        if frame is not None:
            return frame
        if region.kind == PAGE_TABLES:
            return Owner(region.kind, detail=self._mapped_by(address))
        block = find_block(target, address)
        if isinstance(block, PoolBlock):
            tag = block.tag or ("?" if block.tag_value is None else f"{block.tag_value:#x}")
            kind = f"{block.kind} {POOL}" if block.kind else POOL
            facts = [f"{block.size:#x} bytes", block.state, f"by {block.known_by}"]
            if block.problem:
                facts.append(block.problem)
            return Owner(kind, tag, block.address, address - block.address, detail=", ".join(facts))
        detail = f"no pool block: {block.reason}" if POOL in region.kind else None
        return self._object(address, region.kind, detail) or Owner(region.kind, detail=detail)

    def _object(self, address: int, kind: str, detail: str | None) -> Owner | None:
        """A process or thread whose structure holds an address that no pool block is known for."""
        starts, items = self._objects
        index = bisect.bisect_right(starts, address) - 1
        if index < 0 or address >= items[index][1]:
            return None
        start, _, type_name = items[index]
        if type_name == "_ETHREAD":
            name = self._thread_name(start)
        else:
            process = processes.read_process(self._target, start)
            name = f"process {start:x} ({process.name or '?'} {'?' if process.pid is None else f'{process.pid:x}'})"
        return Owner(kind, name, start, address - start, detail=detail)

    @functools.cached_property
    def _objects(self) -> tuple[list[int], list[tuple[int, int, str]]]:
        """The processes and threads that are known, (first address, first beyond, type), and where they begin."""
        target = self._target
        crashed = crash_process(target)
        ranges = []
        for type_name, size_field, addresses in (
            ("_EPROCESS", "SizeEProcess", [*self._processes, crashed and crashed.address]),
            ("_ETHREAD", "SizeEThread", self._threads),
        ):
            size = target.nt.size_of(type_name) if target.nt is not None and target.nt.has_type(type_name) else None
            if size is None and target.debugger is not None:
                size = target.debugger[size_field]
            ranges += [(start, start + size, type_name) for start in set(addresses) if start and size]
        ranges.sort()
        return [start for start, _, _ in ranges], ranges

    def _page_frame(self, address: int) -> Owner | None:
        """An entry of the page-frame database: nt!MmPfnDatabase, an array of MMPFN."""
        target = self._target
        variable = target.variable("MmPfnDatabase", "MmPfnDatabase")
        base = target.memory.pointer(variable) if variable else None
        highest = target.dump.pages.highest if target.dump.pages is not None else None
        if not base or highest is None or target.nt is None or not target.nt.has_type("_MMPFN"):
            return None
        frame = (address - base) // target.nt.size_of("_MMPFN")
        if not 0 <= frame <= highest:
            return None
        return Owner(PFN_DATABASE, f"page frame {frame:x}", base, address - base)

    def _mapped_by(self, address: int) -> str | None:
        """Which page the page-table entry at an address maps; four levels only."""
        target = self._target
        if target.header.architecture != "x64" or address_bits(target) != 48:
            return None
        base = next(
            (kernel_range.low for kernel_range in kernel_ranges(target) if kernel_range.region.kind == PAGE_TABLES),
            None,
        )
        if base is None or address < base:
            return None
        page = (address - base) // _PTE_SIZE << 12
        return f"the entry of {page | (0xFFFF << 48 if page >> 47 else 0):x}"
