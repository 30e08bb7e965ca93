"""Workers that come to grief, by the name of the file: what ``test_workers.py`` gives processes to do.

``killed`` ends the process as the system does when memory runs out; ``loops`` never ends, ``hangs`` neither, without
ever coming back to the interpreter; both first leave their process id in a file beside.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import signal
from pathlib import Path
from typing import Any, NoReturn

from volatility3_kdump import batch
from volatility3_kdump.batch import task as tasks

#: Seconds that a process has to react to the time limit, instead of those of the package.
GRACE = 0.3


def analyze(file: batch.File, *arguments: Any) -> batch.Line:
    """As the package's function; the time limit is for files that do not end only, so that no test depends on speed."""
    name = Path(file.path).name
    member, options, *rest = arguments

    def document(*arguments: Any) -> NoReturn:
        Path(f"{file.path}.pid").write_text(str(os.getpid()), "ascii")
        while True:
            if "hangs" in name:
                sum(range(10**15))  # holds the interpreter's lock, and does not look for signals

    if "killed" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    if "loops" not in name and "hangs" not in name:
        return batch.analyze_file(file, member, dataclasses.replace(options, time_limit=None), *rest)
    real, tasks._document, tasks.GRACE = tasks._document, document, GRACE
    try:
        return batch.analyze_file(file, *arguments)
    finally:
        tasks._document = real


class Pool(batch.WorkerPool):
    def submit(self, task: Any, /, *arguments: Any) -> concurrent.futures.Future[Any]:  # type: ignore[override]
        return super().submit(analyze if task is batch.analyze_file else task, *arguments)
