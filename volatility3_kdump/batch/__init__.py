"""Many dumps, one JSON line each, and a summary of the crashes by FAILURE_ID_HASH.

For scripts::

    from volatility3_kdump.batch import Options, Summary, batch

    summary = Summary()
    for line in batch(["/srv/dumps", "crash.cab"], Options(time_limit=600)):
        summary.add(line)

The lines and the summary are described in ``docs/batch-schema.md``. Work is done by an executor of
:mod:`concurrent.futures`: by default a pool of processes, each started afresh (*spawn*: a script that calls
:func:`batch` guards itself with ``if __name__ == "__main__"``), so that a dump that brings a process down costs one
line. The task that executors get, :func:`analyze_file`, takes and returns plain values, so that processes of other
machines can do it as well.
"""

from __future__ import annotations

from volatility3_kdump.batch.files import File, collect
from volatility3_kdump.batch.lines import Done, LineFile
from volatility3_kdump.batch.summary import Summary
from volatility3_kdump.batch.task import SCHEMA, Inside, Line, Options, analyze_file
from volatility3_kdump.batch.workers import AnyExecutor, Progress, WorkerPool, batch

__all__ = [
    "SCHEMA",
    "AnyExecutor",
    "Done",
    "File",
    "Inside",
    "Line",
    "LineFile",
    "Options",
    "Progress",
    "Summary",
    "WorkerPool",
    "analyze_file",
    "batch",
    "collect",
]
