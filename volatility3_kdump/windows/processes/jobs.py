"""Job objects: their limits and counters, and the processes in them (``_EJOB``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from volatility3_kdump.errors import KdumpError, Unreadable
from volatility3_kdump.lists import walk_list
from volatility3_kdump.windows.processes.namespace import object_type
from volatility3_kdump.windows.processes.processes import Process, read_process
from volatility3_kdump.windows.structures import read_row, require_symbols

if TYPE_CHECKING:
    from volatility3_kdump.target import Target

_MOST_PROCESSES, _MOST_JOBS = 65536, 65536
#: Fields as the debugger lists them; newer kernels do not have the last.
_FIELDS = (
    *("TotalPageFaultCount", "TotalProcesses", "ActiveProcesses", "TotalTerminatedProcesses", "LimitFlags"),
    *("MinimumWorkingSetSize", "MaximumWorkingSetSize", "ActiveProcessLimit", "PriorityClass", "UIRestrictionsClass"),
    *("JobFlags", "SessionId", "JobId", "ProcessMemoryLimit", "JobMemoryLimit", "CurrentJobMemoryUsed", "ParentJob"),
    "SecurityLimitFlags",
)


@dataclass(frozen=True)
class Job:
    """An ``_EJOB``: its fields by name, ``None`` where not in the dump; ``processes`` are those in it.

    ``problems`` say where the list of processes is torn.
    """

    address: int
    fields: dict[str, int | None]
    processes: tuple[Process, ...]
    problems: tuple[str, ...]


def read_job(target: Target, address: int) -> Job:
    """The job at an address. Raises :class:`KdumpError` where it is not in the dump."""
    nt = require_symbols(target, "jobs", "_EJOB", "_EPROCESS.JobLinks")
    names = [name for name in _FIELDS if nt.has("_EJOB", name)]
    row: Any = read_row(target.memory, nt.reader("_EJOB", **{name: name for name in names}), address)
    if row is None:
        raise Unreadable.at(address, "a job", target.memory.why_unreadable(address))
    head = address + nt.offset("_EJOB", "ProcessListHead")
    walk = walk_list(target.memory, head, _MOST_PROCESSES, f"ProcessListHead of the job {address:x}")
    link = nt.offset("_EPROCESS", "JobLinks")
    processes = tuple(read_process(target, entry - link) for entry in walk.entries)
    return Job(address, {name: getattr(row, name) for name in names}, processes, walk.problems)


def job_of(target: Target, address: int) -> int:
    """The job of a process or thread, or the job itself, by an address. Raises :class:`KdumpError` for none."""
    nt = require_symbols(target, "jobs", "_EJOB", "_EPROCESS.Job")
    kind = object_type(target, address)
    # The type of an object whose header is not in the dump is not known.
    if kind == "Job" or (kind is None and address in all_jobs(target)[0]):
        return address
    process: int | None = address
    if kind == "Thread":
        process = target.memory.pointer(address + nt.offset("_KTHREAD", "Process"))
    elif kind not in ("Process", None):
        raise KdumpError(f"{target.name}: {address:x} is a {kind}, not a process, a thread or a job")
    job = target.memory.pointer(process + nt.offset("_EPROCESS", "Job")) if process else None
    if job is None:
        raise KdumpError(f"{target.name}: the job of {address:x} is not in the dump")
    if not job:
        raise KdumpError(f"{target.name}: the process {process:x} is in no job")
    return job


def all_jobs(target: Target) -> tuple[list[int], tuple[str, ...]]:
    """The addresses of all jobs, and what is wrong with their list. Raises :class:`KdumpError` without symbols."""
    nt = require_symbols(target, "jobs", "_EJOB", names=True)
    head = target.symbol("PspJobList")
    if head is None:
        raise KdumpError(f"{target.name}: the symbols do not have PspJobList")
    walk = walk_list(target.memory, head, _MOST_JOBS, "PspJobList")
    link = nt.offset("_EJOB", "JobLinks")
    return [entry - link for entry in walk.entries], walk.problems
