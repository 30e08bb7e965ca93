"""What the memory manager's counters come to: consumers added up, commit by process, and what is running out.

The warnings are rules over counters that were read; a rule whose counters are not known says nothing. They are written
down in ``docs/vm-schema.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.memory.memory_counters import (
    NOT_IN_KERNEL,
    NOT_IN_SMALL_DUMP,
    Counter,
    Definition,
    paged_pools,
    read_counters,
    session_commit,
)
from volatility3_kdump.windows.memory.page_files import PageFile, page_files
from volatility3_kdump.windows.memory.physical_memory import physical_memory
from volatility3_kdump.windows.processes.process_lists import walk_processes
from volatility3_kdump.windows.processes.processes import read_process

if TYPE_CHECKING:
    from volatility3_kdump.target import Target


_PERCENT_POOL, _PERCENT_COMMIT, _PERCENT_FREE, _PERCENT_PAGE_FILE = 80, 95, 1, 5
_SUM = Definition("Sum System Commit", "total")
_PRIVATE = Definition("Total Private", "total")
_REST = Definition("Misc/Transient Commit", "total")


@dataclass(frozen=True)
class ProcessCommit:
    """What a process has committed: EPROCESS.CommitCharge in pages, ``None`` where it is not in the dump."""

    address: int
    pid: int | None
    name: str | None
    pages: int | None


@dataclass(frozen=True)
class Warning:
    """Something that is running out. ``rule`` is its name in the documentation, ``text`` the debugger's line."""

    rule: str
    text: str


@dataclass(frozen=True)
class MemoryUse:
    """Everything that ``!vm`` shows.

    ``counters`` are by label in the debugger's order; ``processes`` by falling commit, those whose commit is not known
    last; ``problems`` say what could not be read or contradicts itself.
    """

    counters: dict[str, Counter]
    files: list[PageFile]
    processes: list[ProcessCommit]
    warnings: list[Warning] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def value(self, label: str) -> int | None:
        """A counter's value."""
        counter = self.counters.get(label)
        return None if counter is None else counter.value


def memory_use(target: Target, progress: Progress | None = None) -> MemoryUse:
    """Read and add up what the memory manager counts."""
    counters: dict[str, Counter] = {}
    for label, counter in read_counters(target).items():
        if label == "PagedPool Usage":
            counters.update((pool.label, pool) for pool in paged_pools(target))
        counters[label] = counter
    files, problems = page_files(target)
    processes, sessions, missing = _processes(target, progress)
    problems += missing
    label = "Session Commit"
    counters[label] = session_commit(target, counters[label].definition, sessions)
    whole = target.dump.triage is None and not missing and bool(processes)
    counters = _with_sums(counters, processes, whole)
    problems += _contradictions(target, counters)
    use = MemoryUse(counters, files, processes, [], problems)
    use.warnings.extend(_warnings(use))
    return use


def _processes(
    target: Target, progress: Progress | None
) -> tuple[list[ProcessCommit], dict[int, None] | None, list[str]]:
    """Commit by process, the sessions that they belong to (``None`` if not all are known), and what is missing."""
    if target.dump.triage is not None:
        return [], None, [f"commit by process: {NOT_IN_SMALL_DUMP}"]
    walk = walk_processes(target)
    problems = list(walk.problems)
    commits: list[ProcessCommit] = []
    sessions: dict[int, None] | None = {}
    for index, address in enumerate(walk.entries):
        if progress is not None:
            progress(100 * index / len(walk.entries), "Reading processes")
        process = read_process(target, address)
        commits.append(ProcessCommit(address, process.pid, process.name, process.commit_charge))
        if process.session_space is None or walk.problems:
            sessions = None
        elif process.session_space and sessions is not None and target.is_kernel_address(process.session_space):
            sessions[process.session_space] = None
    unknown = sum(process.pages is None for process in commits)
    if unknown:
        problems.append(f"commit by process: that of {unknown} of {len(commits)} processes is not known")
    commits.sort(key=lambda process: -1 if process.pages is None else process.pages, reverse=True)
    return commits, sessions, problems


def _with_sums(counters: dict[str, Counter], processes: list[ProcessCommit], whole: bool) -> dict[str, Counter]:
    """The counters with the sums of the debugger behind the consumers."""
    consumers = [counter for counter in counters.values() if counter.definition.group == "commit"]
    present = [counter for counter in consumers if counter.value is not None]
    if all(counter.reason == NOT_IN_SMALL_DUMP for counter in consumers):
        none = [Counter(definition, None, None, NOT_IN_SMALL_DUMP) for definition in (_SUM, _PRIVATE, _REST)]
        return _inserted(counters, none)
    unread = [counter.label for counter in consumers if counter.value is None and counter.reason != NOT_IN_KERNEL]
    short = ", ".join(unread[:3]) + (f" and {len(unread) - 3} more" if len(unread) > 3 else "")
    system = sum(counter.value or 0 for counter in present)
    private = sum(process.pages or 0 for process in processes)
    sums = [
        Counter(_SUM, system, "the consumers above", None)
        if present and not unread
        else Counter(_SUM, None, None, f"not known: {short or 'any consumer'}"),
        Counter(_PRIVATE, private, "EPROCESS.CommitCharge of every process", None)
        if whole
        else Counter(_PRIVATE, None, None, "the commit of some processes is not known"),
    ]
    committed = counters["Committed pages"].value
    if committed is None or sums[0].value is None or sums[1].value is None:
        sums.append(Counter(_REST, None, None, "one of the sums is not known"))
    elif committed < system + private:
        more = system + private - committed
        sums.append(Counter(_REST, None, None, f"the consumers overlap: they add up to {4 * more} Kb more than all"))
    else:
        sums.append(Counter(_REST, committed - system - private, "Committed pages less both sums", None))
    return _inserted(counters, sums)


def _inserted(counters: dict[str, Counter], sums: list[Counter]) -> dict[str, Counter]:
    ordered: dict[str, Counter] = {}
    for label, counter in counters.items():
        if label == "Process Commit":
            ordered.update((counter_sum.label, counter_sum) for counter_sum in sums)
        ordered[label] = counter
    return ordered


def _contradictions(target: Target, counters: dict[str, Counter]) -> list[str]:
    """Counters that cannot all be right."""
    problems = []
    pages = counters["Physical Memory"].value
    memory = physical_memory(target)
    if pages is not None and memory is not None and memory.kernel and memory.pages != pages:
        problems.append(f"Physical Memory is {pages} pages, but the runs of {memory.source} have {memory.pages}")
    available = counters["Available Pages"].value
    if pages is not None and available is not None and available > pages:
        problems.append(f"Available Pages ({available}) is more than Physical Memory ({pages})")
    return problems


def _warnings(use: MemoryUse) -> list[Warning]:
    """The rules that apply."""
    warnings = []

    def at_least(part: str, whole: str, percent: int) -> bool:
        value, limit = use.value(part), use.value(whole)
        return value is not None and limit is not None and limit > 0 and 100 * value >= percent * limit

    if at_least("NonPagedPool Usage", "NonPagedPool Max", _PERCENT_POOL):
        warnings.append(Warning("nonpaged-pool", "********** Excessive NonPaged Pool Usage *****"))
    if at_least("PagedPool Usage", "PagedPool Maximum", _PERCENT_POOL):
        warnings.append(Warning("paged-pool", "********** Excessive Paged Pool Usage *****"))
    for rule, label, consequence in (
        ("system-ptes", "System PTE failures", "system PTE allocations have failed"),
        ("kernel-stack-ptes", "Kernel stack PTE failures", "kernel stack PTE allocations have failed"),
        ("commit-failures", "Commit charge failures", "commit requests have failed"),
    ):
        count = use.value(label)
        if count:
            warnings.append(Warning(rule, f"******* {count} {consequence} ******"))
    if at_least("Committed pages", "Commit limit", _PERCENT_COMMIT):
        warnings.append(Warning("commit-limit", "********** Number of committed pages is near limit ********"))
    available, pages = use.value("Available Pages"), use.value("Physical Memory")
    if available is not None and pages and 100 * available < _PERCENT_FREE * pages:
        warnings.append(Warning("available-pages", "********** Running out of physical memory **********"))
    for page_file in use.files:
        if (
            not page_file.size
            or page_file.free is None
            or page_file.maximum is None
            or page_file.size < page_file.maximum
        ):
            continue
        if 100 * page_file.free < _PERCENT_PAGE_FILE * page_file.size:
            name = page_file.name or "without a name"
            warnings.append(Warning("page-file", f"********** Page file {name} is full and cannot grow ********"))
    return warnings
