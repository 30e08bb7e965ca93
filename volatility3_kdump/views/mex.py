"""The text of MEX's commands on threads and processes, and of ``!uniqstack``, ``!findstack`` and ``.tlist``.

Their values in rows are those of kdump.thread, kdump.process and kdump.stack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from volatility3_kdump.errors import KdumpError
from volatility3_kdump.progress import Progress
from volatility3_kdump.target import Target
from volatility3_kdump.text import mex as words
from volatility3_kdump.text import stacks as stack_words
from volatility3_kdump.windows.listing.threads import ListedThread, ThreadNamer, every_thread
from volatility3_kdump.windows.processes.process_lists import process_addresses, thread_addresses
from volatility3_kdump.windows.processes.processes import Process, read_process
from volatility3_kdump.windows.processes.threads import RUNNING, WAITING, read_thread
from volatility3_kdump.windows.stacks.frames import Stack
from volatility3_kdump.windows.structures import require_symbols

Fits = Callable[[ListedThread], bool]


def threads_of(target: Target, process: int | None, progress: Progress | None = None) -> Iterator[ListedThread]:
    """The threads of a process, of every one for ``None``. Raises :class:`KdumpError` without the kernel's symbols."""
    require_symbols(target, "the threads", "_ETHREAD", "_EPROCESS")
    namer = ThreadNamer(target)
    if process is None:
        yield from map(namer.named, every_thread(target, None, progress))
        return
    owner = read_process(target, process)
    for address in thread_addresses(target, process):
        yield ListedThread(target, read_thread(target, address), owner)


def is_running(listed: ListedThread) -> bool:
    return listed.thread.state == RUNNING


def is_waiting(listed: ListedThread) -> bool:
    return listed.thread.state == WAITING


def with_states(states: Sequence[str], reasons: Sequence[str]) -> Fits:
    """Threads in one of some states that wait for one of some reasons, by name; no names stand for all."""
    wanted = {state.lower() for state in states}, {reason.lower() for reason in reasons}

    def fits(listed: ListedThread) -> bool:
        names = (listed.thread.state_name or "").lower(), (listed.thread.wait_reason_name or "").lower()
        if wanted[1] and not is_waiting(listed):
            return False
        return all(not choice or name in choice for name, choice in zip(names, wanted, strict=True))

    return fits


def list_lines(threads: Iterable[ListedThread], fits: Fits) -> Iterator[str]:
    """``!lt``."""
    return words.thread_list([listed for listed in threads if fits(listed)])


def running_lines(target: Target, states: Sequence[str], progress: Progress | None = None) -> Iterator[str]:
    """``!mex.running`` and ``!mex.ready``."""
    fits = with_states(states, ())
    running = [listed for listed in threads_of(target, None, progress) if fits(listed)]
    running.sort(key=lambda listed: listed.thread.processor or 0)
    return words.running_list(running)


def thread_lines(target: Target, address: int) -> Iterator[str]:
    """``!t``."""
    listed = ThreadNamer(target).at(address)
    if not listed.thread.present:
        raise KdumpError(f"{target.name}: no thread at {address:#x} is in the dump")
    return words.thread_lines(listed, listed.stack, target.memory.pointer_size)


def _sites(stack: Stack, size: int) -> list[str]:
    return [stack_words.call_site(frame, size).lower() for frame in stack.frames]


def unique_lines(target: Target, threads: Iterable[ListedThread], fits: Fits | None, wanted: str = "") -> Iterator[str]:
    """``!us``: equal stacks once, the rarest first; ``wanted`` is a part of a frame's name."""
    size = target.memory.pointer_size
    groups: dict[tuple[object, ...], tuple[Stack, list[int]]] = {}
    total = 0
    for listed in threads:
        total += 1
        if fits is not None and not fits(listed):
            continue
        stack = listed.stack
        if wanted and not any(wanted.lower() in site for site in _sites(stack, size)):
            continue
        key = (*(frame.ip for frame in stack.frames), stack.end)
        groups.setdefault(key, (stack, []))[1].append(listed.thread.address)
    ordered = sorted(groups.values(), key=lambda group: len(group[1]))
    yield from words.unique_lines(ordered, size)
    matching = sum(len(group[1]) for group in ordered)
    yield words.unique_total(len(ordered), matching, total, bool(wanted) or fits is not None)


def find_lines(target: Target, threads: Iterable[ListedThread], wanted: str, level: int) -> Iterator[str]:
    """``!findstack``."""
    size = target.memory.pointer_size
    count = 0
    for listed in threads:
        stack = listed.stack
        marked = [wanted.lower() in site for site in _sites(stack, size)]
        if any(marked):
            count += 1
            yield from words.found_lines(listed.thread.address, stack, marked, level, size)
    if not count:
        yield f"No thread has a frame with {wanted} in its name"


# processes ------------------------------------------------------------------------------------------------------------


def processes_named(target: Target, name: str | None) -> list[Process]:
    """Every process, or those whose name has this text in it; the one at an address. Raises :class:`KdumpError`."""
    require_symbols(target, "the processes", "_EPROCESS")
    processes = [read_process(target, address) for address in process_addresses(target)]
    if name is not None:
        wanted = name.lower()
        address = wanted.removeprefix("0x").replace("`", "")
        processes = [
            process
            for process in processes
            if wanted in (process.name or "").lower() or f"{process.address:x}" == address
        ]
    if not processes:
        why = f"none has {name} in its name" if name else "the list of processes is not in the dump"
        raise KdumpError(f"{target.name}: no process found: {why}")
    return processes


def process_list_lines(target: Target, name: str | None, with_threads: bool) -> Iterator[str]:
    """``!tl``; with what their threads do."""
    processes = processes_named(target, name)
    tallies: dict[int, dict[str, int]] | None = None
    if with_threads:
        tallies = {process.address: _tally(target, process) for process in processes}
    return words.process_list(processes, tallies)


def _tally(target: Target, process: Process) -> dict[str, int]:
    counts = dict.fromkeys(words.TALLIES, 0)
    for listed in threads_of(target, process.address):
        thread = listed.thread
        state = (thread.state_name or "").lower()
        reason = (thread.wait_reason_name or "").lower() if thread.state == WAITING else ""
        for key, names in words.TALLIES.items():
            counts[key] += state in names or reason in names
        counts["IO"] += bool(thread.irps)
    return counts


def process_lines(target: Target, address: int) -> Iterator[str]:
    """``!mex.p``."""
    process = read_process(target, address)
    if not process.present:
        raise KdumpError(f"{target.name}: no process at {address:#x} is in the dump")
    threads = process.active_threads
    return words.process_lines(process, threads, target.memory.pointer_size)


def task_lines(target: Target, name: str | None, verbose: bool) -> Iterator[str]:
    """``.tlist``."""
    return words.task_lines(processes_named(target, name), verbose)


def information_lines(target: Target) -> Iterator[str]:
    """``!mex.di``: the machine and its crash."""
    from volatility3_kdump.dump.smbios import machine_information
    from volatility3_kdump.text import banner
    from volatility3_kdump.windows.machine.system import read_system

    system = read_system(target)
    yield from banner.version(system)
    machine = machine_information(target.dump.source, target.dump.tagged)
    if machine is not None:
        from volatility3_kdump.text.machine import machine_lines

        yield from machine_lines(machine)
    header = target.header
    if header.bug_check_code is not None:
        values = ", ".join("?" if value is None else f"{value:X}" for value in header.bug_check_parameters)
        yield f"Bugcheck: {header.bug_check_code:X} ({values})"
