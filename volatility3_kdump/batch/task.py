"""The task of a worker: one dump, or the list of those in an archive, and the line that says how it went."""

from __future__ import annotations

import contextlib
import faulthandler
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from volatility3_kdump import options
from volatility3_kdump.batch.files import File
from volatility3_kdump.batch.places import at_hand
from volatility3_kdump.collecting import let_go_of_dump
from volatility3_kdump.errors import KdumpError, NotACrashDump
from volatility3_kdump.escape import printable
from volatility3_kdump.version import __version__

#: Version of what a line says besides the analysis.
SCHEMA = 1
#: Seconds beyond the time limit after which a process that does not react is ended.
GRACE = 10.0
_CHUNK = 1 << 20

Line = dict[str, Any]
#: A member of an archive: number, name, size in bytes where the archive says it.
Inside = tuple[int, str, int | None]


@dataclass(frozen=True)
class Options(options.Options):
    """What every dump of a batch is opened and analysed with.

    ``triage_ini`` is a file of rules that come before the shipped ones. ``time_limit`` is in seconds and counts for
    each dump, extraction from an archive and hash included.
    """

    triage_ini: str | None = None
    time_limit: float | None = None


class TimeUp(BaseException):
    """The time limit; no exception of the ordinary kind, so that nothing on the way takes it for one of a reader."""


class WorkerDied(Exception):
    """The processes that were to analyse a dump died: killed, out of memory, or crashed."""


def analyze_file(file: File, member: Inside | None, options: Options, earlier: Sequence[str] = ()) -> Line:
    """Analyse one dump and give its line. This is what executors are given to do.

    ``member`` is the dump in an archive. Where the file has one of the ``earlier`` hashes, the line is
    only ``{"same": HASH}``. Whatever goes wrong is in the line.
    """
    from volatility3_kdump.archives.cache_files import releasing

    started = time.perf_counter()
    facts: dict[str, Any] = {"member": member_facts(member)}
    document: dict[str, Any] = {}
    error: dict[str, Any] | None = None
    try:
        if file.problem is not None:
            raise KdumpError(f"{os.path.basename(file.path)}: {file.problem}")
        with _limited(options.time_limit), releasing(), at_hand(file) as here:
            if earlier:
                facts["sha256"] = _digest(here)
                if facts["sha256"] in earlier:
                    return {"same": facts["sha256"]}
            hashed = "sha256" not in facts
            try:
                document = _document(here, member, options)
            except NotACrashDump:
                hashed = False  # there may be any number of its bytes: a sparse file of terabytes
                raise
            finally:
                if hashed:
                    facts["sha256"] = _digest(here)
    except TimeUp:
        error = time_up_error(options.time_limit)
    except Exception as failure:
        error = described(failure)
    let_go_of_dump(alone=multiprocessing.parent_process() is not None)
    return line_of(file, facts, time.perf_counter() - started, error, document)


def _document(file: File, member: Inside | None, options: Options) -> dict[str, Any]:
    from volatility3_kdump.analysis.crash import analyze_crash
    from volatility3_kdump.analysis.owners import OwnerRules
    from volatility3_kdump.views.report import report
    from volatility3_kdump.windows.opening import open_target

    target = open_target(file.path, replace(options, member=None if member is None else f"#{member[0]}"))
    target.memory.budget.begin()
    document = report(target, analyze_crash(target, OwnerRules.load(options.triage_ini)))
    document["modules"] = [
        {
            "name": printable(module.image_name),
            "base": f"{module.base:#x}",
            "size": module.size,
            "timestamp": None if module.timestamp is None else f"{module.timestamp:#x}",
        }
        for module in target.modules
    ]
    return document


def member_facts(member: Inside | None) -> dict[str, Any] | None:
    return None if member is None else {"number": member[0], "name": printable(member[1]), "size": member[2]}


def _digest(file: File) -> str:
    if file.archive:
        from volatility3_kdump.archives.containers import digest_of

        return digest_of(Path(file.path))
    state = hashlib.sha256()
    with open(file.path, "rb", buffering=0) as stream:
        while data := stream.read(_CHUNK):
            state.update(data)
    return state.hexdigest()


def dumps_inside(file: File, options: Options, earlier: Sequence[str] = ()) -> Line:
    """The dumps of an archive as ``{"members": [(number, name, size), ...], "same": HASH}``.

    The hash is there if it is one of the ``earlier`` ones. Where the archive cannot be listed, this is its line.
    """
    from volatility3_kdump.archives.containers import dump_members

    started = time.perf_counter()
    facts: dict[str, Any] = {}
    try:
        with _limited(options.time_limit), at_hand(file) as here:
            try:
                digest = _digest(here) if earlier else None
                members = dump_members(Path(here.path)) or ()
            except KdumpError as failure:
                if not isinstance(failure, NotACrashDump):
                    facts["sha256"] = _digest(here)
                raise type(failure)(f"{os.path.basename(file.path)}: {failure}") from failure
            return {
                "members": [(member.number, member.name, member.size) for member in members],
                "same": digest if digest in earlier else None,
            }
    except TimeUp:
        error = time_up_error(options.time_limit)
    except Exception as failure:
        error = described(failure)
    return line_of(file, facts, time.perf_counter() - started, error, {})


def line_of(
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


def error_of(kind: str, message: str, again: bool = False) -> dict[str, Any]:
    return {"kind": kind, "message": printable(message), "again": again}


def time_up_error(limit: float | None) -> dict[str, Any]:
    return error_of("TimeLimit", f"not analysed within the time limit of {limit:g} s", again=True)


def described(failure: BaseException) -> dict[str, Any]:
    """An exception as the ``error`` of a line; of one that is none of ours, where it was raised."""
    if isinstance(failure, KdumpError):
        return error_of(type(failure).__name__, str(failure))
    if isinstance(failure, WorkerDied):
        return error_of("WorkerDied", "the processes that analysed it died: killed, out of memory, or crashed", True)
    if isinstance(failure, MemoryError):
        return error_of("MemoryError", "the analysis needs more memory than there is", again=True)
    if isinstance(failure, OSError):
        return error_of("OSError", str(failure), again=True)
    place = failure.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" ({Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno})" if place is not None else ""
    return error_of(type(failure).__name__, f"{failure}{where}")


@contextlib.contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Raise :class:`TimeUp` after so many seconds, and end the process where that does not help.

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
            raise TimeUp

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
