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

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import datetime
import faulthandler
import fnmatch
import gc
import hashlib
import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from volatility3_kdump import __version__
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.text.escape import printable

#: Version of what a line says besides the analysis.
SCHEMA = 1
#: How every line begins: a file of lines is known by it.
_START = f'{{"batch": {SCHEMA}, "file": {{'

#: Names by which a file in a directory is taken for a dump whatever it holds.
DUMP_SUFFIXES = (".dmp", ".mdmp", ".hdmp", ".kdmp")
_HEAD_SIZE = 8
_DUMP_MAGICS = (b"PAGEDU64", b"PAGEDUMP")
_CHUNK = 1 << 20
#: Seconds beyond the time limit after which a process that does not react is ended.
GRACE = 10.0
_TICK = 0.5
#: Example files that the summary names for each group.
EXAMPLES = 5
MOST_JOBS = 256

#: An executor, or what makes one for a number of workers: only then can a broken one be replaced.
AnyExecutor = concurrent.futures.Executor | Callable[[int], concurrent.futures.Executor]
#: Told how many lines there are and how many there will be, as far as that is known.
Progress = Callable[[int, int], None]
Line = dict[str, Any]
#: Path, size and time stamp: what tells that a file is the one that a line is about.
Key = tuple[str, int | None, str | None]
#: A member of an archive: number, name, size in bytes where the archive says it.
Inside = tuple[int, str, int | None]


@dataclass(frozen=True)
class Options:
    """What every dump of a batch is opened and analysed with; the paths are those of ``Target.open``.

    ``time_limit`` is in seconds and counts for each dump, extraction from an archive and hash included.
    """

    isf_directories: tuple[str, ...] = ()
    symbol_path: tuple[str, ...] | None = None
    image_path: tuple[str, ...] | None = None
    offline: bool = False
    triage_ini: str | None = None
    time_limit: float | None = None


@dataclass(frozen=True)
class File:
    """A file as it was found. ``modified`` is its time stamp in UTC with nanoseconds.

    ``path`` is absolute; ``size`` and ``modified`` are ``None`` where the file cannot be looked at. ``explicit`` is
    whether the caller named it, rather than a directory that it is in. ``problem`` says why it cannot be opened.
    """

    path: str
    size: int | None = None
    modified: str | None = None
    explicit: bool = True
    problem: str | None = None
    archive: bool = False

    @property
    def shown_path(self) -> str:
        """The path as lines have it: bytes that are no text in the file system's encoding as escapes."""
        return self.path.encode("utf-8", "backslashreplace").decode("utf-8")

    @property
    def key(self) -> Key:
        """What is looked for in the lines of an earlier run."""
        return self.shown_path, self.size, self.modified


# finding files --------------------------------------------------------------------------------------------------------


def collect(paths: Iterable[str | os.PathLike[str]], patterns: Sequence[str] = ()) -> tuple[list[File], int]:
    """The files that a batch is about, in its order, and how many others were left out.

    A path of a file is taken as it is. A directory is searched to any depth, without following links to directories,
    for files that begin as a crash dump or an archive does or have the name of a dump; ``patterns`` (``*.dmp``, letter
    case does not matter) narrow that to the names that match one of them. The order is that of the arguments; of a
    directory, its files come in the order of their names, then its directories. A file that is met twice counts once.
    """
    found: dict[str, File] = {}
    left_out = 0
    for given in paths:
        path = os.path.abspath(os.fspath(given))
        if not os.path.isdir(path):
            file = _look_at(path, explicit=True)
            if file is not None and (path not in found or not found[path].explicit):
                found[path] = file
            continue
        for inner, problem in _walk(path):
            if inner in found:
                continue
            if problem is not None:
                found[inner] = File(inner, explicit=False, problem=problem)
                continue
            name = os.path.basename(inner).lower()
            if patterns and not any(fnmatch.fnmatchcase(name, pattern.lower()) for pattern in patterns):
                continue
            file = _look_at(inner, explicit=False)
            if file is None:
                left_out += 1
            else:
                found[inner] = file
    return list(found.values()), left_out


def _walk(directory: str) -> Iterator[tuple[str, str | None]]:
    """The files below a directory, and the directories that cannot be read with the reason."""
    problems: list[tuple[str, str]] = []

    def note(error: OSError) -> None:
        problems.append((os.fspath(error.filename), f"cannot be searched: {error.strerror or error}"))

    for parent, directories, names in os.walk(directory, onerror=note):
        directories.sort()
        for name in sorted(names):
            yield os.path.join(parent, name), None
        yield from problems
        problems.clear()
    yield from problems


def _look_at(path: str, explicit: bool) -> File | None:
    """What a file is; ``None`` for one of a directory that is neither a dump nor an archive."""
    from volatility3_kdump.dump.containers import recognise

    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            # Not opened: reading a pipe or a device may never end.
            return File(path, problem="is not an ordinary file") if explicit else None
        with open(path, "rb") as stream:
            head = stream.read(_HEAD_SIZE)
    except OSError as error:
        if not explicit and os.path.islink(path) and not os.path.exists(path):
            return None
        return File(path, explicit=explicit, problem=f"cannot be opened: {error.strerror or error}")
    archive = recognise(head) is not None
    if not explicit and not archive and head not in _DUMP_MAGICS and not path.lower().endswith(DUMP_SUFFIXES):
        return None
    return File(path, status.st_size, _moment(status.st_mtime_ns), explicit, archive=archive)


def _moment(nanoseconds: int) -> str:
    """A time stamp in UTC; nanoseconds are kept, since the text serves to compare."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return f"{seconds}.{rest:09} s"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09}Z"


# the task of a worker -------------------------------------------------------------------------------------------------


class _TimeUp(BaseException):
    """The time limit; no exception of the ordinary kind, so that nothing on the way takes it for one of a reader."""


def analyze_file(file: File, member: Inside | None, options: Options, known: Sequence[str] = ()) -> Line:
    """Analyse one dump and give its line. This is what executors are given to do.

    ``member`` is the dump in an archive. Where the file has one of the ``known`` hashes, the line is
    only ``{"same": HASH}``. Whatever goes wrong is in the line.
    """
    from volatility3_kdump.dump.cache import releasing

    started = time.perf_counter()
    facts: dict[str, Any] = {"member": _member(member)}
    document: dict[str, Any] = {}
    error: dict[str, Any] | None = None
    try:
        with _limited(options.time_limit), releasing():
            if known:
                facts["sha256"] = _digest(file)
                if facts["sha256"] in known:
                    return {"same": facts["sha256"]}
            try:
                if file.problem is not None:
                    raise KdumpError(f"{os.path.basename(file.path)}: {file.problem}")
                document = _document(file, member, options)
            finally:
                # A file that is no dump has its hash as well.
                if "sha256" not in facts and file.problem is None:
                    facts["sha256"] = _digest(file)
    except _TimeUp:
        error = _time_up(options.time_limit)
    except Exception as failure:
        error = _described(failure)
    gc.collect()  # the layers of the dump and their files
    return _line(file, facts, time.perf_counter() - started, error, document)


def _document(file: File, member: Inside | None, options: Options) -> dict[str, Any]:
    from volatility3_kdump.analysis.crash import analyze_crash
    from volatility3_kdump.analysis.owners import OwnerRules
    from volatility3_kdump.target import Target
    from volatility3_kdump.views.report import report

    target = Target.open(
        file.path,
        options.isf_directories,
        None,
        options.symbol_path,
        options.image_path,
        None if member is None else f"#{member[0]}",
        offline=options.offline or None,
    )
    return report(target, analyze_crash(target, OwnerRules.load(options.triage_ini)))


def _member(member: Inside | None) -> dict[str, Any] | None:
    return None if member is None else {"number": member[0], "name": printable(member[1]), "size": member[2]}


def _digest(file: File) -> str:
    if file.archive:
        from volatility3_kdump.dump.containers import digest_of

        return digest_of(Path(file.path))
    state = hashlib.sha256()
    with open(file.path, "rb", buffering=0) as stream:
        while data := stream.read(_CHUNK):
            state.update(data)
    return state.hexdigest()


def dumps_inside(file: File, options: Options, known: Sequence[str] = ()) -> Line:
    """The dumps of an archive as ``{"members": [(number, name, size), ...], "same": HASH}``.

    The hash is there if it is one of the ``known`` ones. Where the archive cannot be listed, this is its line.
    """
    from volatility3_kdump.dump.containers import dump_members

    started = time.perf_counter()
    facts: dict[str, Any] = {}
    try:
        with _limited(options.time_limit):
            try:
                digest = _digest(file) if known else None
                members = dump_members(Path(file.path)) or ()
            except KdumpError as failure:
                facts["sha256"] = _digest(file)
                raise type(failure)(f"{os.path.basename(file.path)}: {failure}") from failure
            return {
                "members": [(member.number, member.name, member.size) for member in members],
                "same": digest if digest in known else None,
            }
    except _TimeUp:
        error = _time_up(options.time_limit)
    except Exception as failure:
        error = _described(failure)
    return _line(file, facts, time.perf_counter() - started, error, {})


def _line(
    file: File, facts: dict[str, Any], elapsed: float | None, error: dict[str, Any] | None, document: dict[str, Any]
) -> Line:
    return {
        "batch": SCHEMA,
        "file": {
            "path": file.shown_path,
            "name": os.path.basename(file.shown_path),
            "size": file.size,
            "modified": file.modified,
            "sha256": facts.get("sha256"),
            "member": facts.get("member"),
        },
        "elapsed_seconds": None if elapsed is None else round(elapsed, 3),
        "kdump_version": __version__,
        "error": error,
        **document,
    }


def _error(kind: str, message: str, again: bool = False) -> dict[str, Any]:
    return {"kind": kind, "message": printable(message), "again": again}


def _time_up(limit: float | None) -> dict[str, Any]:
    return _error("TimeLimit", f"not analysed within the time limit of {limit:g} s", again=True)


def _described(failure: BaseException) -> dict[str, Any]:
    """An exception as the ``error`` of a line; of one that is none of ours, where it was raised."""
    if isinstance(failure, KdumpError):
        return _error(type(failure).__name__, str(failure))
    if isinstance(failure, MemoryError):
        return _error("MemoryError", "the analysis needs more memory than there is", again=True)
    if isinstance(failure, OSError):
        return _error("OSError", str(failure), again=True)
    place = failure.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno})" if place is not None else ""
    return _error(type(failure).__name__, f"{failure}{where}")


@contextlib.contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Raise :class:`_TimeUp` after so many seconds, and end the process where that does not help.

    Only a process of a pool can be interrupted or ended; elsewhere :func:`batch` gives up waiting.
    """
    if (
        seconds is None
        or multiprocessing.parent_process() is None
        or threading.current_thread() is not threading.main_thread()
    ):
        yield
        return
    armed = True

    def time_up(number: int, frame: Any) -> None:
        if armed:
            raise _TimeUp

    with open(os.devnull, "w") as nowhere:
        # Its thread needs nothing of the interpreter, so it also ends what loops in native code.
        faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=nowhere)
        before = None
        if hasattr(signal, "setitimer"):
            before = signal.signal(signal.SIGALRM, time_up)
            # Again after a second, should the first have been raised where exceptions are dropped.
            signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
        try:
            yield
        finally:
            armed = False
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
            faulthandler.cancel_dump_traceback_later()


# executors ------------------------------------------------------------------------------------------------------------


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


def default_jobs() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
        return _line(self.file, {"member": _member(self.member)}, elapsed, error, {})


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
        known = self._done.hashes(file)
        self._queue.append(_Task(file, listed=not file.archive, known=known))

    def lines(self) -> Iterator[Line]:
        while self._queue or self._running:
            if self._broken is not None:
                for task in [*self._running.values(), *self._queue]:
                    yield task.failed(_error("WorkerDied", self._broken, again=True))
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
            elif failure is not None:
                up = isinstance(failure, _TimeUp)
                yield task.failed(_time_up(self._options.time_limit) if up else _described(failure))
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
                yield task.failed(_time_up(limit))
            else:
                text = "the process that analysed it died: killed, out of memory, or crashed"
                yield task.failed(_error("WorkerDied", text, again=True))
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
        return task.failed(_time_up(limit))

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
    files, left_out = collect(paths, patterns)
    yield from _lines_of(files, options, executor, jobs, done, progress, [left_out])


def _lines_of(
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
    jobs = max(1, min(jobs or default_jobs(), MOST_JOBS))
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


# an earlier run -------------------------------------------------------------------------------------------------------


class Done:
    """What the lines of an earlier run are about.

    A file has its line when one has its path, size and time stamp; or, of a file that was moved or touched since, its
    size and hash. Each line stands for one file: a copy of a file that is still in its place is another file.
    """

    def __init__(self) -> None:
        self._members: dict[Key, set[int | None]] = {}
        self._hashes: dict[Key, str] = {}
        #: Lines whose file is no longer as it was, by size and hash.
        self._free: dict[tuple[int | None, str], list[Key]] = {}
        self._moved: dict[Key, Key] = {}

    def add(self, line: Line) -> None:
        """Take note of a line. Raises ``KeyError`` or ``TypeError`` for what is none."""
        file = line["file"]
        key = (file["path"], file["size"], file["modified"])
        member = file["member"]
        self._members.setdefault(key, set()).add(None if member is None else member["number"])
        if file["sha256"] is not None:
            self._hashes[key] = file["sha256"]

    def prepare(self, files: Iterable[File]) -> None:
        """Learn which lines have their file where it was; the others may be about files that were moved."""
        present = {file.key for file in files}
        self._moved.clear()
        self._free.clear()
        for key, digest in self._hashes.items():
            if key not in present and not _is_as_it_was(key):
                self._free.setdefault((key[1], digest), []).append(key)

    def hashes(self, file: File) -> tuple[str, ...]:
        """The hashes of lines that may be about a file."""
        if file.key in self._members:
            return ()
        return tuple(sorted(digest for size, digest in self._free if size == file.size))

    def claim(self, file: File, digest: str) -> bool:
        """Whether a line of that hash has no file yet; it is about this one from now on."""
        keys = self._free.get((file.size, digest))
        if not keys:
            return False
        self._moved[file.key] = keys.pop()
        return True

    def has(self, file: File, member: int | None) -> bool:
        """Whether there is a line of a file, or of a member of an archive."""
        return member in self._members.get(self._moved.get(file.key, file.key), ())


def _is_as_it_was(key: Key) -> bool:
    file = _look_at(key[0], explicit=True)
    return file is not None and file.key == key


# the file of lines ----------------------------------------------------------------------------------------------------


class LineFile:
    """A file of lines that grows. Every line is written as a whole, or not at all."""

    def __init__(self, path: Path, resume: bool) -> None:
        """Open or make the file. Raises :class:`KdumpError`, also for a file that is there, unless it is resumed."""
        self.path = path
        try:
            self._file = path.open("r+b" if resume and path.exists() else "xb", buffering=0)
        except FileExistsError as error:
            raise KdumpError(f"{path}: is there already: --resume goes on with it, or name another file") from error
        except OSError as error:
            raise KdumpError(f"{path}: cannot be written: {error.strerror or error}") from error
        self._end = 0

    def read(self, anew: Callable[[Line], bool]) -> Iterator[Line]:
        """The lines that are there. A last one that was torn off is removed, and those that are to be done anew.

        Raises :class:`KdumpError` for a file that holds something else, and leaves it as it is.
        """
        kept: list[tuple[int, int]] = []
        position = 0
        with self.path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                torn = not raw.endswith(b"\n")
                text = raw.rstrip(b"\0\n")
                if torn and (text.startswith(_START.encode()) or _START.encode().startswith(text)):
                    break
                try:
                    line = json.loads(raw)
                    again = (line["error"] or {}).get("again") is True and anew(line)
                    Done().add(line)
                except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                    raise KdumpError(
                        f"{self.path}: line {number} is not of `kdump batch`: name the file that is to be resumed"
                    ) from error
                if not again:
                    yield line
                    if kept and kept[-1][1] == position:
                        kept[-1] = (kept[-1][0], position + len(raw))
                    else:
                        kept.append((position, position + len(raw)))
                position += len(raw)
        with self._writing():
            if kept and kept[0][0] == 0 and len(kept) == 1:
                self._end = kept[0][1]
            elif kept:
                self._rewrite(kept)
            self._file.truncate(self._end)
            self._file.seek(self._end)

    def _rewrite(self, kept: list[tuple[int, int]]) -> None:
        """Keep these ranges of the file only: in a new file that then takes its place."""
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name[:80]}-", dir=self.path.parent)
        try:
            with os.fdopen(handle, "wb") as out, self.path.open("rb") as stream:
                for start, end in kept:
                    stream.seek(start)
                    while start < end and (data := stream.read(min(_CHUNK, end - start))):
                        out.write(data)
                        start += len(data)
                self._end = out.tell()
                out.flush()
                os.fsync(out.fileno())
            self._file.close()
            shutil.copymode(self.path, name)
            os.replace(name, self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        self._file = self.path.open("r+b", buffering=0)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise KdumpError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def write(self, line: Line) -> None:
        """Append a line. Raises :class:`KdumpError` where the disk does not take it."""
        data = memoryview(json.dumps(line, ensure_ascii=True).encode("ascii") + b"\n")
        with self._writing():
            try:
                written = 0
                while written < len(data):
                    written += self._file.write(data[written:]) or 0
                self._end += written
            except BaseException:
                # Interrupted or out of room in the middle: what is there must not look like a line.
                with contextlib.suppress(OSError):
                    self._file.truncate(self._end)
                    self._file.seek(self._end)
                raise

    def close(self) -> None:
        self._file.close()


# the summary ----------------------------------------------------------------------------------------------------------


@dataclass
class _Group:
    count: int = 0
    culprits: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    first: str | None = None
    last: str | None = None
    #: (time of the crash, path, number of the member, name of the member)
    examples: list[tuple[str, str, int, str | None]] = dataclasses.field(default_factory=list)

    def add(self, line: Line, when: str | None, culprit: str | None) -> None:
        self.count += 1
        if culprit is not None:
            self.culprits[culprit] += 1
        if when is not None:
            self.first = when if self.first is None else min(self.first, when)
            self.last = when if self.last is None else max(self.last, when)
        member = line["file"]["member"] or {}
        self.examples.append((when or "", line["file"]["path"], member.get("number") or 0, member.get("name")))
        self.examples.sort(key=lambda example: example[:3])
        del self.examples[EXAMPLES:]

    @property
    def culprit(self) -> str | None:
        """The most frequent one; the first by name where several are."""
        return min(self.culprits, key=lambda name: (-self.culprits[name], name), default=None)

    def example_files(self) -> list[dict[str, Any]]:
        return [{"path": path, "member": name} for _, path, _, name in self.examples]


class Summary:
    """Lines counted by FAILURE_ID_HASH; the result does not depend on their order."""

    def __init__(self) -> None:
        #: By hash, bucket and bug check, the last only where there is no hash.
        self._groups: dict[tuple[str | None, str | None, str | None], _Group] = {}
        self._errors: dict[str, _Group] = {}
        self.analysed = 0
        self.failed = 0

    def add(self, line: Line) -> None:
        """Count a line."""
        error = line["error"]
        if error is not None:
            self.failed += 1
            self._errors.setdefault(error["kind"], _Group()).add(line, None, None)
            return
        self.analysed += 1
        verdict = line["verdict"]
        bug_check = line["bug_check"] or {}
        name = None if verdict["hash"] else bug_check.get("name") or bug_check.get("code")
        group = self._groups.setdefault((verdict["hash"], verdict["bucket"], name), _Group())
        group.add(line, line["system"]["time_utc"], verdict["suspect"] or verdict["image_name"])

    def document(self) -> dict[str, Any]:
        """The summary as plain values: ``docs/batch-schema.md``."""
        return {
            "batch": SCHEMA,
            "kdump_version": __version__,
            "analysed": self.analysed,
            "failed": self.failed,
            "groups": [
                {
                    "hash": digest,
                    "bucket": bucket,
                    "bug_check": name,
                    "count": group.count,
                    "culprit": group.culprit,
                    "first_utc": group.first,
                    "last_utc": group.last,
                    "examples": group.example_files(),
                }
                for (digest, bucket, name), group in sorted(self._groups.items(), key=_rank)
            ],
            "errors": [
                {"kind": kind, "count": group.count, "examples": group.example_files()}
                for kind, group in sorted(self._errors.items(), key=_rank)
            ],
        }

    def text(self) -> Iterator[str]:
        """The summary for a reader, line by line."""
        document = self.document()
        for group in document["groups"]:
            what = group["bucket"] or group["bug_check"] or "no bug check"
            yield f"{group['count']:6}  {what}  {group['culprit'] or 'no culprit'}"
            yield f"        {{{group['hash']}}}" if group["hash"] else "        no FAILURE_ID_HASH"
            if group["first_utc"] is not None:
                yield f"        {group['first_utc']} to {group['last_utc']}"
            yield from _example_lines(group)
        for error in document["errors"]:
            yield f"{error['count']:6}  not analysed: {error['kind']}"
            yield from _example_lines(error)
        yield f"{self.analysed} analysed in {_counted(len(document['groups']), 'group')}, {self.failed} failed"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _rank(entry: tuple[Any, _Group]) -> tuple[int, str]:
    return -entry[1].count, repr(entry[0])


def _example_lines(group: dict[str, Any]) -> Iterator[str]:
    for example in group["examples"]:
        yield printable(f"        {example['path']}" + (f" ({example['member']})" if example["member"] else ""))
    if group["count"] > len(group["examples"]):
        yield f"        and {group['count'] - len(group['examples'])} more"


# the command ----------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``kdump batch``."""
    parser.add_argument("paths", metavar="DIR", nargs="+", help="directories, dumps, and archives with dumps")
    parser.add_argument("--jsonl", metavar="OUT", type=Path, required=True, help="the file that gets the lines")
    parser.add_argument("--jobs", metavar="N", type=_count, help="dumps analysed at a time (default: processors)")
    parser.add_argument("--resume", action="store_true", help="go on with OUT: files that have a line are left out")
    parser.add_argument("--summary", metavar="FILE", type=Path, help="write the summary as JSON as well")
    parser.add_argument(
        "--pattern", metavar="GLOB", action="append", default=[], help="only names in the directories that match"
    )
    parser.add_argument("--time-limit", metavar="S", type=_seconds, help="give up on a dump after so many seconds")
    for option, text in (
        ("--isf-dir", "directories searched for symbol tables before the host's own"),
        ("--symbol-path", "where PDB files are, as KD's -y (default _NT_SYMBOL_PATH)"),
        ("--image-path", "where image files are, as KD's -i (default _NT_EXECUTABLE_IMAGE_PATH)"),
    ):
        parser.add_argument(option, metavar="DIR", action="append", default=[], help=text)
    parser.add_argument("--offline", action="store_true", help="ask no symbol server, whatever the paths say")
    parser.add_argument("--triage-ini", metavar="FILE", help="rules of yours for choosing the culprit")


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MOST_JOBS:
        raise ValueError
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e7:
        raise ValueError
    return value


def run(arguments: argparse.Namespace) -> int:
    """``kdump batch``: 0 if every dump was analysed, 1 if some failed, 130 when it was interrupted.

    Raises :class:`KdumpError` for what concerns no single dump.
    """
    options = Options(
        isf_directories=tuple(map(os.path.abspath, arguments.isf_dir)),
        symbol_path=tuple(arguments.symbol_path) or None,
        image_path=tuple(arguments.image_path) or None,
        offline=arguments.offline,
        triage_ini=arguments.triage_ini,
        time_limit=arguments.time_limit,
    )
    if options.triage_ini is not None:
        from volatility3_kdump.analysis.owners import OwnerRules

        OwnerRules.load(options.triage_ini)  # raises now what would be wrong with every line
    out = LineFile(arguments.jsonl, arguments.resume)
    try:
        return _run(arguments, options, out)
    finally:
        out.close()


def _run(arguments: argparse.Namespace, options: Options, out: LineFile) -> int:
    files, left = collect(arguments.paths, arguments.pattern)
    left_out = [left]
    done, summary = Done(), Summary()
    wanted = {file.shown_path for file in files}
    earlier = 0
    for line in out.read(lambda line: line["file"]["path"] in wanted):
        done.add(line)
        summary.add(line)
        earlier += 1
    show = _progress_line() if sys.stderr.isatty() else None
    lines = _lines_of(files, options, None, arguments.jobs, done, show, left_out)
    interrupted = False
    try:
        for line in lines:
            out.write(line)
            summary.add(line)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        lines.close()  # type: ignore[attr-defined]
        if show is not None:
            sys.stderr.write(f"\r{' ' * 79}\r")
    if arguments.summary is not None:
        _write_summary(arguments.summary, summary)
    for text in summary.text():
        print(text)
    if earlier:
        print(f"from before: {_counted(earlier, 'line')}")
    if left_out[0]:
        print(f"left out: {_counted(left_out[0], 'other file')} in the directories, without a crash dump")
    if interrupted:
        print(f"kdump: interrupted: --resume goes on with {arguments.jsonl}", file=sys.stderr)
        return 130
    if not summary.analysed and not summary.failed:
        raise KdumpError("no crash dump found in " + ", ".join(map(str, arguments.paths)))
    return 1 if summary.failed else 0


def _progress_line() -> Progress:
    def show(lines: int, expected: int) -> None:
        sys.stderr.write(f"\r{lines} of {expected} dumps".ljust(60))
        sys.stderr.flush()

    return show


def _write_summary(path: Path, summary: Summary) -> None:
    try:
        path.write_text(json.dumps(summary.document(), indent=2) + "\n", encoding="ascii")
    except OSError as error:
        raise KdumpError(f"--summary {path}: cannot be written: {error.strerror or error}") from error
