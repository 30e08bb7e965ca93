"""Who was running when the machine crashed: the processor that took the bug check, its thread and its process."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from volatility3_kdump.cpu.context import Context
from volatility3_kdump.cpu.state import CR3_TABLE, CR3_TABLE_32
from volatility3_kdump.dump import MachineFacts
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.windows.machine.processors import Processor, processors
from volatility3_kdump.windows.processes.processes import Process, read_process
from volatility3_kdump.windows.processes.threads import Thread, read_thread, stack_limits

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


#: The routines in which the processor that stopped the machine saves its registers.
_BUG_CHECK_ROUTINES = {"KeBugCheckEx", "KeBugCheck", "KeBugCheck2", "KeBugCheck3"}


def crash_context(target: Target) -> Context | None:
    """The registers of the crash: those of the dump header, where they were never set those that the processor saved.

    The processor is the one that is in KeBugCheckEx; where the kernel has no names, the only one that there is.
    ``None`` where neither is to be had.
    """
    return target.once(_crash_context)


def _crash_context(target: Target) -> Context | None:
    header = target.header_context
    if header is not None and header.ip is not None and header.sp is not None:
        return header
    saved = [processor.context for processor in processors(target) if processor.context is not None]
    stopped = [context for context in saved if context.ip and _in_bug_check(target, context.ip)]
    if len(stopped) == 1:
        return stopped[0]
    if len(processors(target)) == 1 and len(saved) == 1 and saved[0].ip and target.header.bug_check_code is not None:
        return saved[0]
    return header


def _in_bug_check(target: Target, ip: int) -> bool:
    name = target.names.lookup(ip) if target.has_names else None
    return name is not None and name.symbol in _BUG_CHECK_ROUTINES


def crash_processor(target: Target) -> Processor | None:
    """The processor that took the bug check.

    The one that saved the header's stack pointer, else the one whose thread's stack holds that pointer, else the one
    whose control block a small memory dump copied.
    """
    return target.once(_crash_processor)


def _crash_processor(target: Target) -> Processor | None:
    listed = processors(target)
    context = crash_context(target)
    sp = context.sp if context else None
    if sp is not None:
        for processor in listed:
            if processor.context is not None and processor.context.sp == sp:
                return processor
        for processor in listed:
            limits = stack_limits(target, processor.current_thread) if processor.current_thread else None
            if limits and limits[0] <= sp < limits[1]:
                return processor
    if target.header.crashed is False:
        # A debugger that stops a machine shows its first processor.
        return min(listed, key=lambda processor: processor.number, default=None)
    copied = target.triage_copies.get("prcb")
    if copied:
        return next((processor for processor in listed if processor.prcb == copied.address), None)
    return listed[0] if len(listed) == 1 else None


def crash_thread(target: Target) -> Thread | None:
    """The thread that was running on the crashing processor."""
    return target.once(_crash_thread)


def _crash_thread(target: Target) -> Thread | None:
    processor = crash_processor(target)
    address = processor.current_thread if processor else None
    if address is None and "thread" in target.triage_copies:
        address = target.triage_copies["thread"].address
    return read_thread(target, address) if address else None


def crash_process(target: Target) -> Process | None:
    """The process whose address space was active on the crashing processor."""
    return target.once(_crash_process)


def _crash_process(target: Target) -> Process | None:
    thread = crash_thread(target)
    address = thread.process if thread else None
    if address is None and "process" in target.triage_copies:
        address = target.triage_copies["process"].address
    process = read_process(target, address) if address else None
    if process is not None and target.header.container is not None and process.directory_table_base:
        _show_user_half(target, process.directory_table_base, "KPROCESS of the current process")
    return process


def _show_user_half(target: Target, directory: int, source: str) -> None:
    """Take the user half of the address space from the page tables of another process of a memory image."""
    facts = target.header
    root = directory & (CR3_TABLE if facts.bits == 64 else CR3_TABLE_32)
    if target.layer_name is None or not isinstance(facts, MachineFacts) or root == facts.directory_table_base:
        return
    if target.context.layers[target.layer_name].change_root(root):
        sources = {**facts.sources, "directory_table_base": source}
        target.machine_facts = dataclasses.replace(facts, directory_table_base=root, sources=sources)


def settle(target: Target) -> Target:
    """A target whose user half is that of the current process, as in a crash dump; to be called once it is opened.

    The page tables that were found for a memory image may be those of any process.
    """
    if target.header.container is not None:
        with contextlib.suppress(KdumpError):
            crash_process(target)
    return target
