"""The run of a batch: its tasks, the executor that does them, and what becomes of those that bring it down."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from volatility3_kdump.batch.files import File
from volatility3_kdump.batch.lines import Done
from volatility3_kdump.batch.places import collect_everywhere
from volatility3_kdump.batch.task import (
    GRACE,
    Inside,
    Line,
    Options,
    TimeUp,
    WorkerDied,
    analyze_file,
    described,
    dumps_inside,
    error_of,
    line_of,
    member_facts,
    time_up_error,
)
from volatility3_kdump.parallel import usable_processors

_TICK = 0.5
MOST_JOBS = 256

#: An executor, or what makes one for a number of workers: only then can a broken one be replaced.
AnyExecutor = concurrent.futures.Executor | Callable[[int], concurrent.futures.Executor]
#: Told how many lines there are and how many there will be, as far as that is known.
Progress = Callable[[int, int], None]


class WorkerPool(concurrent.futures.ProcessPoolExecutor):
    """Processes that are started afresh, leave interrupts to this one, say nothing, and end when it does."""

    def __init__(self, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        # Its other end is closed by :meth:`stop`, or by the system when this process is no more.
        self._theirs, self._ours = context.Pipe(duplex=False)
        super().__init__(workers, mp_context=context, initializer=_start_worker, initargs=(self._theirs,))

    def stop(self) -> None:
        """End at once, whatever the workers are doing."""
        self._ours.close()
        # Those that are in native code do not see it. Before Python 3.14 the pool has no method for this.
        for process in list((getattr(self, "_processes", None) or {}).values()):
            process.kill()
        self.shutdown(wait=True, cancel_futures=True)
        self._theirs.close()


def _start_worker(lifeline: multiprocessing.connection.Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)

    def watch() -> None:
        with contextlib.suppress(EOFError, OSError):
            lifeline.recv_bytes()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@dataclass
class _Task:
    """One file or member on its way. ``known`` are hashes of files that have a line already."""

    file: File
    member: Inside | None = None
    listed: bool = False
    known: tuple[str, ...] = ()
    #: To be done while nothing else is: it was under way when a worker died.
    alone: bool = False
    #: ``time.monotonic()`` when it was first seen to run.
    started: float | None = None

    def failed(self, error: dict[str, Any]) -> Line:
        elapsed = None if self.started is None else time.monotonic() - self.started
        return line_of(self.file, {"member": member_facts(self.member)}, elapsed, error, {})


class _Run:
    """The tasks of a batch and the executor that does them."""

    def __init__(self, options: Options, executor: AnyExecutor | None, jobs: int, done: Done) -> None:
        self._options = options
        self._make = None if isinstance(executor, concurrent.futures.Executor) else (executor or WorkerPool)
        self._executor = executor if isinstance(executor, concurrent.futures.Executor) else None
        self._jobs = jobs
        self._done = done
        self._queue: collections.deque[_Task] = collections.deque()
        self._running: dict[concurrent.futures.Future[Any], _Task] = {}
        #: Workers of the executor that are busy with files beyond the time limit.
        self._lost = 0
        #: An executor that cannot be replaced is broken: why.
        self._broken: str | None = None
        self.left_out = 0

    @property
    def waiting(self) -> int:
        """How many tasks have no line yet."""
        return len(self._queue) + len(self._running)

    def add(self, file: File) -> None:
        digests = self._done.hashes(file)
        self._queue.append(_Task(file, listed=not file.archive, known=digests))

    def lines(self) -> Iterator[Line]:
        while self._queue or self._running:
            if self._broken is not None:
                for task in [*self._running.values(), *self._queue]:
                    yield task.failed(error_of("WorkerDied", self._broken, again=True))
                return
            self._submit()
            yield from self._wait()

    def _submit(self) -> None:
        while self._queue and len(self._running) < self._jobs:
            task = self._queue[0]
            if self._running and (task.alone or any(other.alone for other in self._running.values())):
                return
            self._queue.popleft()
            task.started = None
            try:
                if self._executor is None:
                    assert self._make is not None
                    self._executor = self._make(self._jobs)
                if task.listed:
                    future = self._executor.submit(analyze_file, task.file, task.member, self._options, task.known)
                else:
                    future = self._executor.submit(dumps_inside, task.file, self._options, task.known)
            except concurrent.futures.BrokenExecutor as error:
                self._queue.appendleft(task)
                self._replace(str(error))
                return
            self._running[future] = task

    def _wait(self) -> Iterator[Line]:
        concurrent.futures.wait(self._running, _TICK, concurrent.futures.FIRST_COMPLETED)
        suspects: list[_Task] = []
        why = ""
        for future, task in list(self._running.items()):
            if not future.done():
                line = self._overdue(future, task)
                if line is not None:
                    del self._running[future]
                    self._lost += 1
                    yield line
                continue
            del self._running[future]
            failure = concurrent.futures.CancelledError() if future.cancelled() else future.exception()
            if isinstance(failure, concurrent.futures.BrokenExecutor):
                suspects.append(task)
                why = str(failure)
            elif isinstance(failure, WorkerDied) and not task.alone:
                # It, or what ran beside it. The others first: alone, it holds up every worker.
                task.alone = True
                self._queue.append(task)
            elif failure is not None:
                up = isinstance(failure, TimeUp)
                yield task.failed(time_up_error(self._options.time_limit) if up else described(failure))
            else:
                yield from self._result(task, future.result())
        if suspects:
            yield from self._worker_died(suspects, why)
        elif self._lost >= self._jobs:
            self._replace("all its workers are busy with files beyond the time limit")

    def _worker_died(self, suspects: list[_Task], why: str) -> Iterator[Line]:
        """One of the tasks that were under way ended its process. Alone, each shows whether it was it."""
        # Those whose results were on their way; the others fail as these did.
        concurrent.futures.wait(self._running, GRACE)
        for future, task in list(self._running.items()):
            del self._running[future]
            if future.done() and not future.cancelled() and future.exception() is None:
                yield from self._result(task, future.result())
            else:
                suspects.append(task)
        if len(suspects) == 1:
            task = suspects.pop()
            limit = self._options.time_limit
            lasted = 0.0 if task.started is None else time.monotonic() - task.started
            # When it was seen to run, it had done so for a tick at most.
            if limit is not None and lasted + _TICK >= limit:
                yield task.failed(time_up_error(limit))
            else:
                message = "the process that analysed it died: killed, out of memory, or crashed"
                yield task.failed(error_of("WorkerDied", message, again=True))
        for task in reversed(suspects):
            task.alone = True
            self._queue.appendleft(task)
        self._replace(why)

    def _replace(self, why: str) -> None:
        """Have a new executor made in place of one that is broken."""
        if self._make is None:
            self._broken = f"the executor is of no more use: {why}"
            return
        _end(self._executor)
        self._executor = None
        self._lost = 0

    def _overdue(self, future: concurrent.futures.Future[Any], task: _Task) -> Line | None:
        """The line of a task that nothing has ended when its time was up."""
        if task.started is None:
            task.started = time.monotonic() if future.running() else None
            return None
        limit = self._options.time_limit
        # Processes of ours end by themselves; this is for executors that know no limit.
        if limit is None or time.monotonic() - task.started < limit + (
            2 * GRACE if isinstance(self._executor, WorkerPool) else 0
        ):
            return None
        future.cancel()
        return task.failed(time_up_error(limit))

    def _result(self, task: _Task, result: Line) -> Iterator[Line]:
        if "members" in result:
            if result["same"] is not None:
                self._done.claim(task.file, result["same"])
            self._add_members(task, result["members"])
        elif "same" not in result:
            yield result
        elif not self._done.claim(task.file, result["same"]):
            # Another file of this content was found to be the one that the line is about.
            self._queue.appendleft(dataclasses.replace(task, known=(), alone=False))

    def _add_members(self, task: _Task, members: Sequence[Inside | None]) -> None:
        if not members and not task.file.explicit:
            self.left_out += 1
            return
        # Of an archive that the user named and that holds none, opening it says what it holds.
        for member in reversed(members or [None]):
            if not self._done.has(task.file, member and member[0]):
                self._queue.appendleft(dataclasses.replace(task, listed=True, member=member, known=(), alone=False))

    def close(self) -> None:
        if self._make is not None:
            _end(self._executor)


def _end(executor: concurrent.futures.Executor | None) -> None:
    if isinstance(executor, WorkerPool):
        executor.stop()
    elif executor is not None:
        executor.shutdown(wait=False, cancel_futures=True)


def batch(
    paths: Iterable[str | os.PathLike[str]],
    options: Options | None = None,
    executor: AnyExecutor | None = None,
    jobs: int | None = None,
    patterns: Sequence[str] = (),
    done: Done | None = None,
    progress: Progress | None = None,
) -> Iterator[Line]:
    """Analyse many dumps and give the line of each as soon as it is there.

    ``paths`` and ``patterns`` are those of :func:`collect`; every dump in an archive is a line of its own. ``jobs`` is
    how many dumps are analysed at a time, by default one for each processor; with one, the order is that of
    :func:`collect`, else that in which the analyses end. Lines hold plain values only; whatever goes wrong with a file
    is a line with an ``error``. ``done`` are the lines of an earlier run, whose files are left out.

    ``executor`` is any :class:`concurrent.futures.Executor`, or a function that makes one for a number of workers; in
    its place, a :class:`WorkerPool` is made. An executor that is given is not shut down, and when it breaks
    (:class:`concurrent.futures.BrokenExecutor`), the files that are left become error lines; what a function made is
    replaced, and the files that were under way are tried again one by one. In processes of :mod:`multiprocessing`, the
    time limit interrupts an analysis; elsewhere the batch goes on without it.
    """
    files, left_out = collect_everywhere(paths, patterns)
    yield from lines_of(files, options, executor, jobs, done, progress, [left_out])


def lines_of(
    files: Sequence[File],
    options: Options | None,
    executor: AnyExecutor | None,
    jobs: int | None,
    done: Done | None,
    progress: Progress | None,
    left_out: list[int],
) -> Iterator[Line]:
    """As :func:`batch`; how many archives without dumps were found in directories is added to ``left_out[0]``."""
    done = done or Done()
    done.prepare(files)
    files = [file for file in files if file.archive or not done.has(file, None)]
    jobs = max(1, min(jobs or usable_processors(), MOST_JOBS))
    run = _Run(options or Options(), executor, jobs, done)
    for file in files:
        if not done.has(file, None):
            run.add(file)
    number = 0
    if progress is not None:
        progress(0, run.waiting)
    try:
        for line in run.lines():
            number += 1
            yield line
            if progress is not None:
                progress(number, number + run.waiting)
    finally:
        run.close()
        left_out[0] += run.left_out
