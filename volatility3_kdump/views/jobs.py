"""Rows of ``kdump.job`` and ``kdump.alpc``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.target import Target
from volatility3_kdump.text.alpc import message_lines, port_lines, process_lines
from volatility3_kdump.text.jobs import job_lines
from volatility3_kdump.views import columns as keys
from volatility3_kdump.views.grid import KdumpGrid, Row
from volatility3_kdump.views.table import ADDRESS, BLANK, HEX, NUMBER, POINTER, TEXT, Column, Part, Table, table
from volatility3_kdump.windows.processes.alpc import AlpcPort, all_ports, read_message, read_port
from volatility3_kdump.windows.processes.jobs import Job, all_jobs, read_job
from volatility3_kdump.windows.processes.processes import Process

_JOB = Part[Job](
    "",
    Column("JobObject", ADDRESS, "the EJOB", lambda job: job.address),
    Column("JobId", NUMBER, "its number", lambda job: job.fields.get("JobId")),
    Column("ActiveProcesses", NUMBER, "processes in it that run", lambda job: job.fields.get("ActiveProcesses")),
    Column("TotalProcesses", NUMBER, "processes that were ever in it", lambda job: job.fields.get("TotalProcesses")),
    Column("LimitFlags", HEX, "JOB_OBJECT_LIMIT_...", lambda job: job.fields.get("LimitFlags")),
    Column("ParentJob", POINTER, "the job that it is nested in", lambda job: job.fields.get("ParentJob")),
)
_MEMBER = Part[Process](
    "",
    keys.PROCESS(lambda process: process.address),
    keys.PID(lambda process: process.pid),
    keys.IMAGE(lambda process: process.name),
)
JOBS = Table("kdump.job", _JOB, _MEMBER, Part("", keys.NOTES()))
PORTS = table(
    "kdump.alpc",
    Column("Port", ADDRESS, "the ALPC_PORT", lambda port: port.address),
    Column("PortType", TEXT, "`ALPC_CONNECTION_PORT` and the two ends of a connection", lambda port: port.kind),
    keys.NAME(lambda port: BLANK if port.name == "" else port.name),
    Column("ConnectionPort", POINTER, "the port that was connected to", lambda port: port.connection),
    Column("ClientPort", POINTER, "the client's end", lambda port: port.client),
    Column("ServerPort", POINTER, "the server's end", lambda port: port.server),
    keys.PROCESS(lambda port: BLANK if port.owner is None else port.owner.address),
    keys.IMAGE(lambda port: BLANK if port.owner is None else port.owner.name),
    keys.NOTES(),
)


def jobs_grid(target: Target) -> KdumpGrid:
    """Every job with its processes. Raises a :class:`KdumpError` where they cannot be listed."""
    addresses, problems = all_jobs(target)
    jobs = [read_job(target, address) for address in addresses]

    def rows() -> Iterator[Row]:
        for job in jobs:
            yield JOBS.row(0, {_JOB: job})
            yield from (JOBS.row(1, {_MEMBER: process}, JobObject=job.address) for process in job.processes)
            yield from (JOBS.row(1, JobObject=job.address, Notes=[problem]) for problem in job.problems)
        yield from (JOBS.row(0, Notes=[problem]) for problem in problems)

    def lines() -> Iterator[str]:
        for job in jobs:
            yield from job_lines(job, 3, target.memory.pointer_size)
        yield from (f"NOTE: {problem}" for problem in problems)

    return JOBS.grid(rows(), lines)


def job_text(target: Target, address: int, flags: int) -> Iterator[str]:
    """``!job`` of one. Raises a :class:`KdumpError`."""
    return job_lines(read_job(target, address), flags, target.memory.pointer_size)


def ports_grid(target: Target, process: int | None = None) -> KdumpGrid:
    """Every port; KD's text is ``!alpc /lpp`` of a process."""
    ports, problems = all_ports(target)
    shown = [port for port in ports if process is None or (port.owner is not None and port.owner.address == process)]

    def rows() -> Iterator[Row]:
        yield from (PORTS.row(0, port) for port in shown)
        yield from (PORTS.row(0, Notes=[problem]) for problem in problems)

    def lines() -> Iterator[str]:
        owners = dict.fromkeys(port.owner.address for port in shown if port.owner is not None)
        for owner in [process] if process is not None else owners:
            yield from process_lines(owner, ports, problems, target.memory.pointer_size)

    return PORTS.grid(rows(), lines)


def port_text(target: Target, address: int) -> Iterator[str]:
    """``!alpc /p``. Raises a :class:`KdumpError`."""
    port: AlpcPort = read_port(target, address)
    return port_lines(port, target.memory.pointer_size)


def message_text(target: Target, address: int) -> Iterator[str]:
    """``!alpc /m``. Raises a :class:`KdumpError`."""
    return message_lines(read_message(target, address), target.memory.pointer_size)
