"""Jobs in the layout of KD's ``!job``."""

from __future__ import annotations

from collections.abc import Iterator

from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.processes import header
from volatility3_kdump.windows.processes.jobs import Job

SETTINGS, PROCESSES = 1, 2
_WIDTH = 24


def job_lines(job: Job, flags: int, size: int = 8) -> Iterator[str]:
    """``!job``: settings and counters (1), processes (2)."""
    yield f"Job at {pointer(job.address, size, tick=False)}"
    if flags & SETTINGS:
        for name, value in job.fields.items():
            yield f"  {name:<{_WIDTH}} {'?' if value is None else f'{value:x}'}"
    if flags & PROCESSES:
        yield ""
        yield "Processes assigned to this job:"
        for process in job.processes:
            yield from (f"    {line}" for line in header(process, size))
            yield ""
        yield from (f"NOTE: {problem}" for problem in job.problems)
