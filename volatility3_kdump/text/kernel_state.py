"""APCs, lookaside lists, states of processors and callbacks in the layouts of KD's commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.text.addresses import plain
from volatility3_kdump.text.numbers import decimal
from volatility3_kdump.windows.machine.bug_check_callbacks import BugCheckCallback
from volatility3_kdump.windows.machine.processor_state import IpiState, Node, TaskState
from volatility3_kdump.windows.memory.lookaside import Lookaside
from volatility3_kdump.windows.processes.apcs import MODES, Apc

_PAGED, _RAISE = 1, 0x10
_NX = 0x200


def _hex(value: int | None) -> str:
    return "?" if value is None else f"{value:x}"


def apc_lines(apc: Apc, size: int = 8) -> Iterator[str]:
    """One APC of ``!apc``."""
    mode = MODES[apc.mode] if apc.mode is not None and apc.mode < len(MODES) else "?"
    yield f"    KAPC @ {plain(apc.address, size)} {mode}Mode{'' if apc.inserted else ' not inserted'}"
    yield f"        {'Thread':<16} {plain(apc.thread, size)}"
    for label, address, symbol in apc.routines:
        yield f"        {f'{label}Routine':<16} {plain(address, size)} {symbol or ''}".rstrip()
    yield f"        {'NormalContext':<16} {plain(apc.context, size)}"


def _pool(kind: int | None) -> str:
    if kind is None:
        return "?"
    flags = ["PagedPool" if kind & _PAGED else "NonPagedPoolNx" if kind & _NX else "NonPagedPool"]
    if kind & _RAISE:
        flags.append("RaiseIfAllocationFailure")
    return " ".join(flags)


def lookaside_lines(lookaside: Lookaside, size: int = 8) -> Iterator[str]:
    """``!lookaside`` for one list."""

    def rate(total: int | None, misses: int | None) -> str:
        if total is None or misses is None:
            return "?"
        return str(100 * (total - misses) // total if total else 0)

    most = None if lookaside.most is None or lookaside.size is None else lookaside.most * lookaside.size
    kind = "????" if lookaside.kind is None else f"{lookaside.kind:04x}"
    value = "?" if lookaside.tag_value is None else f"0x{lookaside.tag_value:08x}"
    yield f'Lookaside "" @ 0x{plain(lookaside.address, size)}  Tag(hex): {value} "{lookaside.tag or "?"}"'
    yield f"    Type           = {kind:>10}  {_pool(lookaside.kind)}"
    yield f"    Current Depth  = {decimal(lookaside.depth):>10}  Max Depth  = {decimal(lookaside.most):>10}"
    yield f"    Size           = {decimal(lookaside.size):>10}  Max Alloc  = {decimal(most):>10}"
    misses, free_misses = lookaside.allocate_misses, lookaside.free_misses
    yield f"    AllocateMisses = {decimal(misses):>10}  FreeMisses = {decimal(free_misses):>10}"
    yield f"    TotalAllocates = {decimal(lookaside.allocates):>10}  TotalFrees = {decimal(lookaside.frees):>10}"
    allocated, freed = (
        rate(lookaside.allocates, lookaside.allocate_misses),
        rate(lookaside.frees, lookaside.free_misses),
    )
    yield f"    Hit Rate       = {allocated:>10}%  Hit Rate   = {freed:>10}%"


def ipi_lines(states: Iterable[IpiState]) -> Iterator[str]:
    """``!ipi``; fields that this kernel does not have are left out."""
    for number, state in enumerate(states):
        if number:
            yield ""
        yield f"IPI State for Processor {state.number}"
        frozen = "?" if state.frozen is None else f"{state.frozen:x} {state.frozen_words}"
        for label, value in (
            ("IPI Frozen", frozen),
            ("Request Summary", state.request_summary),
            ("Target Set", state.target_set),
            ("Target Count", state.target_count),
            ("Packet Barrier", state.barrier),
        ):
            if value is not None:
                yield f"  {label + ':':<16} {value if isinstance(value, str) else f'{value:x}'}"


def frozen_lines(states: Iterable[IpiState], current: int | None) -> Iterator[str]:
    """``!frozen``."""
    yield "Processor states:"
    for state in states:
        yield f"{state.number:8} : {'Current' if state.number == current else state.state_word or '?'}"


def task_lines(task: TaskState) -> Iterator[str]:
    """``.tss`` of x64, which the debugger has for x86 alone: the stacks that it names."""
    yield f"KTSS64 at {plain(task.address)}"
    for number, stack in enumerate(task.rings):
        yield f"  Rsp{number}  {plain(stack)}"
    for number, stack in enumerate(task.interrupt_stacks, 1):
        yield f"  Ist{number}  {plain(stack)}"
    yield f"  I/O map base {task.io_map:04x}"


def node_lines(nodes: Iterable[Node]) -> Iterator[str]:
    """``!numa``."""
    listed = list(nodes)
    yield f"NUMA nodes: {len(listed)}"
    for node in listed:
        where = f"group {_hex(node.group)}"
        mask = "in its subnodes" if node.mask is None else f"{node.mask:016x}"
        yield f"  Node {node.number}: KNODE {plain(node.address)}  {where}  processors {mask}"


def callback_lines(callbacks: Iterable[BugCheckCallback], size: int = 8) -> Iterator[str]:
    """``!bugdump``."""
    count = 0
    for callback in callbacks:
        count += 1
        yield f"**** Component: {callback.component or '?'}"
        yield f"     Record {plain(callback.address, size)}  {callback.reason or 'KbCallback'}"
        yield f"     Routine {plain(callback.routine, size)} {callback.symbol or ''}".rstrip()
        if not callback.reason:
            yield f"     Buffer {plain(callback.buffer, size)} of {_hex(callback.length)} bytes"
    yield f"{count} callbacks are registered"
    if count:
        yield "NOTE: since Windows Server 2003 the dump is written before these routines fill their buffers"
