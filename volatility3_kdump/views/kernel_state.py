"""What the prompt shows of APCs, lookaside lists, processors and callbacks; rows of ``kdump.lookaside``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.target import Target
from volatility3_kdump.text import kernel_state as words
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import BYTES, HEX, NUMBER, Column, table
from volatility3_kdump.windows.machine.bug_check_callbacks import bug_check_callbacks
from volatility3_kdump.windows.machine.processor_state import ipi_states, numa_nodes, task_address, task_state
from volatility3_kdump.windows.memory.lookaside import all_lookasides, read_lookaside
from volatility3_kdump.windows.processes.apcs import read_apc, thread_apcs
from volatility3_kdump.windows.processes.process_lists import process_addresses, thread_addresses
from volatility3_kdump.windows.processes.processes import read_process

LOOKASIDES = table(
    "kdump.lookaside",
    keys.ADDRESS(lambda lookaside: lookaside.address, "the GENERAL_LOOKASIDE"),
    keys.TAG(lambda lookaside: lookaside.tag),
    keys.TAG_VALUE(lambda lookaside: lookaside.tag_value),
    Column("EntryBytes", BYTES, "size of its entries", lambda lookaside: lookaside.size),
    Column("Depth", NUMBER, "how many it may keep", lambda lookaside: lookaside.depth),
    Column("PoolType", HEX, "POOL_TYPE as the table has it", lambda lookaside: lookaside.kind),
    Column("Allocates", NUMBER, "allocations, modulo 2^32", lambda lookaside: lookaside.allocates),
    Column("AllocateMisses", NUMBER, "those that pool had to serve", lambda lookaside: lookaside.allocate_misses),
    Column("Frees", NUMBER, "frees, modulo 2^32", lambda lookaside: lookaside.frees),
    Column("FreeMisses", NUMBER, "those that went back to pool", lambda lookaside: lookaside.free_misses),
    keys.NOTES(),
)


def lookasides_grid(target: Target, own: bool = True) -> KdumpGrid:
    """Every lookaside list (``!lookaside -all``), without ``own`` those of the system. Raises a KdumpError."""
    lists, problems = all_lookasides(target, own)

    def rows() -> Iterator[Row]:
        yield from (LOOKASIDES.row(0, lookaside) for lookaside in lists)
        yield from (LOOKASIDES.row(0, Notes=[problem]) for problem in problems)

    def lines() -> Iterator[str]:
        for lookaside in lists:
            yield ""
            yield from words.lookaside_lines(lookaside, target.memory.pointer_size)
        if not lists:
            yield "No lookaside list is in the lists that the dump holds"
        yield from (f"NOTE: {problem}" for problem in problems)

    return LOOKASIDES.grid(rows(), lines)


def lookaside_text(target: Target, address: int) -> Iterator[str]:
    """``!lookaside`` of one list. Raises a :class:`KdumpError`."""
    return words.lookaside_lines(read_lookaside(target, address), target.memory.pointer_size)


def apc_text(target: Target, process: int | None = None, thread: int | None = None) -> Iterator[str]:
    """``!apc``: those of a thread, of a process, or of every process."""
    size = target.memory.pointer_size
    problems: list[str] = []
    if thread is not None:
        yield f"Thread {thread:x}"
        for apc in thread_apcs(target, thread, problems):
            yield from words.apc_lines(apc, size)
    else:
        if process is None:
            yield "*** Enumerating APCs in all processes"
        for address in [process] if process is not None else process_addresses(target):
            yield f"Process {address:x} {read_process(target, address).name or '?'}"
            for owner in thread_addresses(target, address):
                for apc in thread_apcs(target, owner, problems):
                    yield from words.apc_lines(apc, size)
    yield from (f"NOTE: {problem}" for problem in problems)


def one_apc(target: Target, address: int) -> Iterator[str]:
    """``!apc KAPC``. Raises a :class:`KdumpError`."""
    return words.apc_lines(read_apc(target, address), target.memory.pointer_size)


def ipi_text(target: Target, number: int | None) -> Iterator[str]:
    """``!ipi``. Raises a :class:`KdumpError`."""
    return words.ipi_lines(ipi_states(target, number))


def frozen_text(target: Target, current: int | None) -> Iterator[str]:
    """``!frozen``; ``current`` is the number of the current processor. Raises a :class:`KdumpError`."""
    return words.frozen_lines(ipi_states(target), current)


def task_text(target: Target, address: int | None, processor: int | None) -> Iterator[str]:
    """``.tss``: at an address, or that of a processor. Raises a :class:`KdumpError`."""
    if address is None:
        if processor is None:
            raise KdumpError(f"{target.name}: the dump does not say which processor crashed: give an address")
        address = task_address(target, processor)
    return words.task_lines(task_state(target, address))


def numa_text(target: Target) -> Iterator[str]:
    """``!numa``. Raises a :class:`KdumpError`."""
    return words.node_lines(numa_nodes(target))


def callbacks_text(target: Target, component: str | None) -> Iterator[str]:
    """``!bugdump``. Raises a :class:`KdumpError`."""
    problems: list[str] = []
    callbacks = [
        callback
        for callback in bug_check_callbacks(target, problems)
        if component is None or (callback.component or "").lower() == component.lower()
    ]
    yield from words.callback_lines(callbacks, target.memory.pointer_size)
    yield from (f"NOTE: {problem}" for problem in problems)
