"""Directories that are watched: dumps are analysed when they appear, and have stopped growing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence

from volatility3_kdump.batch.files import Key
from volatility3_kdump.batch.lines import Done
from volatility3_kdump.batch.places import collect_everywhere
from volatility3_kdump.batch.task import Line, Options
from volatility3_kdump.batch.workers import AnyExecutor, Progress, lines_of

#: Seconds between two looks. A file that is as it was at the last one is taken to be whole.
INTERVAL = 2.0


def watched(
    paths: Iterable[str],
    patterns: Sequence[str],
    options: Options,
    executor: AnyExecutor | None,
    jobs: int | None,
    done: Done,
    progress: Progress | None,
) -> Iterator[Line]:
    """The lines of dumps as they appear, without an end; an interrupt ends it.

    A file that changes has another line. Dumps that are there at the beginning are among them.
    """
    paths = list(paths)
    before: set[Key] = set()
    analysed: set[Key] = set()
    while True:
        files, _ = collect_everywhere(paths, patterns)
        settled = [file for file in files if file.key in before and file.key not in analysed]
        before = {file.key for file in files}
        analysed.update(file.key for file in settled)
        if settled:
            yield from lines_of(settled, options, executor, jobs, done, progress, [0])
        else:
            time.sleep(INTERVAL)
