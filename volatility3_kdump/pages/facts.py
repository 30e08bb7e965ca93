"""What a page says beyond the document of the analysis: times, processes, memory, waits, drivers, the code.

Everything is bounded, and asks no server: a page must not take much longer than the analysis. What a dump cannot tell
is an :class:`Absent` with its reason.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from volatility3_kdump.analysis.code import instructions_before, instructions_from
from volatility3_kdump.analysis.crash import Crash
from volatility3_kdump.analysis.vendors import vendor_of
from volatility3_kdump.dump.smbios import filled_in
from volatility3_kdump.errors import KdumpError, ReadLimit
from volatility3_kdump.findings.memory_use import MemoryUse, memory_use
from volatility3_kdump.findings.wait_chains import WaitChains
from volatility3_kdump.images.image_files import ImageSet
from volatility3_kdump.images.modules import Module
from volatility3_kdump.text.registers import absent_code_line, code_line
from volatility3_kdump.text.times import filetime
from volatility3_kdump.windows.io.drivers import read_details
from volatility3_kdump.windows.io.error_log import event_code, read_error_log
from volatility3_kdump.windows.listing.processes import ListedProcess, ProcessChoice, ProcessList
from volatility3_kdump.windows.listing.threads import ThreadChoice
from volatility3_kdump.windows.memory.memory_counters import PAGE_SIZE

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

T = TypeVar("T")

BOOT, UNLOADED, STARTED, ENDED, COMPLAINT, CRASH = "boot", "unloaded", "started", "ended", "complaint", "crash"

#: Threads whose waits are looked at: more take longer than a page may.
MOST_THREADS = 2000
_MOST_MODULES = 600
_LINES_BEFORE, _LINES_BEHIND = 8, 5
#: The clock is set while the system starts.
_CLOCK_SET = datetime.timedelta(minutes=1)
_UNCHECKED = ("unchecked", "unsigned")


@dataclass(frozen=True)
class Absent:
    """What a page cannot show, and why."""

    reason: str


@dataclass(frozen=True)
class Event:
    """Something that happened at a known time; ``kind`` is one of the names above."""

    when: datetime.datetime
    kind: str
    text: str


@dataclass(frozen=True)
class Gauge:
    """So many pages of memory of at most so many."""

    label: str
    used: int
    total: int
    note: str = ""


@dataclass(frozen=True)
class Memory:
    """Gauges, what is running out in the debugger's words, and what could not be read."""

    gauges: tuple[Gauge, ...]
    warnings: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class ProcessUse:
    """A process and what it has committed, in pages; ``None`` where that is not known."""

    name: str
    pid: int | None
    pages: int | None
    state: str | None
    crashed: bool
    missing_from: tuple[str, ...]


@dataclass(frozen=True)
class Driver:
    """A loaded driver: whose it is, and what is notable about it."""

    name: str
    image: str
    vendor: str
    third_party: bool
    version: str | None
    company: str | None
    base: int
    size: int
    notable: tuple[str, ...]


@dataclass(frozen=True)
class CodeLine:
    """A line of code; ``failed`` marks the instruction that failed."""

    text: str
    failed: bool


def known(target: Target, make: Callable[[], T]) -> T | Absent:
    """What ``make`` gives, or why it cannot be had."""
    target.memory.budget.begin()
    try:
        return make()
    except (KdumpError, ReadLimit) as error:
        return Absent(str(error))


# processes ------------------------------------------------------------------------------------------------------------


def listed_processes(target: Target) -> list[ListedProcess]:
    """Every process. Raises :class:`KdumpError` where there are none."""
    return ProcessList(target, ProcessChoice()).processes


def process_uses(crash: Crash, processes: list[ListedProcess]) -> list[ProcessUse]:
    """The processes by falling commit, those whose commit is not known last."""
    crashed = crash.process.address if crash.process is not None else None
    uses = [
        ProcessUse(
            listed.process.name or f"{listed.process.address:x}, not in the dump",
            listed.process.pid,
            listed.process.commit_charge,
            listed.process.state,
            listed.process.address == crashed,
            tuple(listed.missing_from),
        )
        for listed in processes
    ]
    return sorted(uses, key=lambda use: (use.pages is None, -(use.pages or 0), use.name))


# times ----------------------------------------------------------------------------------------------------------------


def events(target: Target, processes: list[ListedProcess] | Absent) -> list[Event] | Absent:
    """What happened when, as far as the dump says it, between boot and crash; absent without the time of the crash."""
    crashed = filetime(target.header.system_time)
    if crashed is None:
        return Absent("the dump header has no time of the crash")
    moments = [Event(crashed, CRASH, "the system stopped"), *_unloaded(target)]
    now, uptime = target.header.system_time, target.header.system_up_time
    # As FILETIMEs: what a damaged header claims may lie before any calendar.
    booted = filetime(now - uptime) if now and uptime and uptime > 0 else None
    if booted is not None:
        moments.append(Event(booted, BOOT, "the system started"))
    if not isinstance(processes, Absent):
        moments += _of_processes(processes)
    log = known(target, lambda: list(_complaints(target)))
    if not isinstance(log, Absent):
        moments += log
    # What is dated before the boot, or after the crash, is a damaged time: it has no place on this line.
    within = [
        event for event in moments if event.when <= crashed and (booted is None or booted - event.when <= _CLOCK_SET)
    ]
    return sorted(within, key=lambda event: (event.when, event.kind == CRASH))


def _unloaded(target: Target) -> Iterator[Event]:
    for module in target.unloaded_modules:
        when = filetime(module.time)
        if when is not None:
            yield Event(when, UNLOADED, f"driver {module.name} was unloaded")


def _of_processes(processes: list[ListedProcess]) -> Iterator[Event]:
    for listed in processes:
        process = listed.process
        title = f"{process.name or '?'} ({'?' if process.pid is None else process.pid})"
        created, exited = filetime(process.create_time), filetime(process.exit_time)
        if created is not None:
            yield Event(created, STARTED, f"process {title} started")
        if exited is not None:
            yield Event(exited, ENDED, f"process {title} ended")


def _complaints(target: Target) -> Iterator[Event]:
    for entry in read_error_log(target).entries:
        when = filetime(entry.time)
        if when is not None and entry.packet is not None:
            code = event_code(entry.packet.error)
            who = (entry.driver_object.name if entry.driver_object else None) or "a driver"
            yield Event(when, COMPLAINT, f"{who} reported {code.name or hex(code.value)}")


# memory ---------------------------------------------------------------------------------------------------------------


def memory(target: Target) -> Memory:
    """Where the memory is. Raises :class:`KdumpError` where no counter is known."""
    use = memory_use(target)
    gauges = tuple(_gauges(use))
    if not gauges:
        reasons = [*use.problems, *(counter.reason for counter in use.counters.values() if counter.reason)]
        why = reasons[0] if reasons else "none was found"
        raise KdumpError(f"no counter of the memory manager is known together with its limit: {why}")
    return Memory(
        gauges, tuple(warning.text.strip("* ") for warning in use.warnings), tuple(dict.fromkeys(use.problems))
    )


def _gauges(use: MemoryUse) -> Iterator[Gauge]:
    physical, available = use.value("Physical Memory"), use.value("Available Pages")
    if physical and available is not None and 0 <= available <= physical:
        yield Gauge("Physical memory in use", physical - available, physical)
    peak = use.value("Peak Commitment")
    highest = f"peak {size_words(peak * PAGE_SIZE)}" if peak else ""
    # Small memory dumps tell how far the limit may grow, not what it is.
    grows = use.value("Commit limit") is None
    for label, used, total, note in (
        ("Commit", "Committed pages", "Commit limit", highest),
        *([("Commit (of the most the limit may be)", "Committed pages", "Commit limit maximum", highest)] * grows),
        ("Nonpaged pool", "NonPagedPool Usage", "NonPagedPool Max", ""),
        ("Paged pool", "PagedPool Usage", "PagedPool Maximum", ""),
    ):
        value, most = use.value(used), use.value(total)
        if value is not None and most and value >= 0:
            yield Gauge(label, value, most, note)
    for file in use.files:
        if file.size and file.free is not None and 0 <= file.free <= file.size:
            yield Gauge(f"Paging file {file.name or file.kind}", file.size - file.free, file.size)


def machine_name(machine: Mapping[str, Any]) -> str:
    """Maker and product of a machine as its firmware has them, else those of its board; empty where neither is told."""
    names = [machine["manufacturer"], machine["product"]]
    if not filled_in(machine["product"]):
        names += machine["board"] or ()
    return ", ".join(dict.fromkeys(name for name in names if filled_in(name)))


def size_words(size: int) -> str:
    """``3.4 GB``: a number of bytes with at most three digits before the point."""
    value = float(size)
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1024
    return f"{value:,.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"


# waits ----------------------------------------------------------------------------------------------------------------


def waits(target: Target, processes: list[ListedProcess] | Absent) -> WaitChains:
    """Who waits for whom. Raises :class:`KdumpError`, also where there are too many threads for a page."""
    if not isinstance(processes, Absent):
        threads = sum(min(max(listed.process.active_threads or 0, 0), 1 << 20) for listed in processes)
        if threads > MOST_THREADS:
            raise KdumpError(f"{threads:,} threads are too many for a page: kdump.thread --waits looks at all of them")
    return WaitChains(target, ThreadChoice())


# drivers --------------------------------------------------------------------------------------------------------------


def drivers(target: Target, crash: Crash) -> list[Driver]:
    """The loaded modules in load order. Raises :class:`KdumpError` where none is known."""
    if not target.modules:
        raise KdumpError("no list of loaded modules is in the dump")
    path = target.places.image_path
    # Version resources are in memory, or in files that are at hand: no server is asked for hundreds of drivers.
    images = ImageSet(target.memory) if path.asks_servers else target.images
    on_stack = {frame.name.module for frame in crash.stack.frames if frame.name is not None and frame.name.module}
    return [_driver(target, crash, module, images, on_stack) for module in target.modules[:_MOST_MODULES]]


def is_suspect(crash: Crash, name: str | None) -> bool:
    """Whether a module is what is held responsible, and not only where the crash showed."""
    verdict = crash.verdict
    if name is None or name != verdict.module_name:
        return False
    return verdict.suspect is not None and verdict.suspect in (verdict.image_name, verdict.module_name)


def _driver(target: Target, crash: Crash, module: Module, images: ImageSet, on_stack: set[str]) -> Driver:
    details = read_details(target, module, images)
    vendor = vendor_of(module.name, details.company)
    notable = []
    if module.image_name == crash.verdict.suspect or is_suspect(crash, module.name):
        notable.append("held responsible")
    if module.name in on_stack and module.name != "nt":
        notable.append("on the stack of the crash")
    if vendor.third_party and details.signing_name in _UNCHECKED:
        notable.append(f"signature {details.signing_name}")
    notable += [note for note in details.notes if note != "headers not in the dump"]
    return Driver(
        module.name,
        module.image_name,
        vendor.kind,
        vendor.third_party,
        details.version.file_version if details.version else None,
        details.company,
        module.base,
        module.size,
        tuple(notable),
    )


# code -----------------------------------------------------------------------------------------------------------------


def code(target: Target, crash: Crash) -> list[CodeLine]:
    """The instructions around the one that failed. Raises :class:`KdumpError` where no instruction did."""
    failure = crash.failure
    if failure is None or not failure.at_fault or failure.context.ip is None:
        raise KdumpError("no instruction failed: the bug check was raised by a call")
    address = failure.context.ip
    before = instructions_before(target, address, _LINES_BEFORE)
    lines = [CodeLine(code_line(instruction), False) for instruction in before]
    if failure.instruction is None:
        return [*lines, CodeLine(absent_code_line(address, target.header.architecture), True)]
    behind = instructions_from(target, address + failure.instruction.size, _LINES_BEHIND)
    lines.append(CodeLine(code_line(failure.instruction, failure.context), True))
    return [*lines, *(CodeLine(code_line(instruction), False) for instruction in behind)]
