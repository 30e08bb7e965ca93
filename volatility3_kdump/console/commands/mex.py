"""MEX's commands on threads and processes, in both spellings, and KD's ``!uniqstack``, ``!findstack``, ``.tlist``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option, number, rest, word
from volatility3_kdump.errors import KdumpError

_READY = ("ready", "deferredready", "standby", "transition")
_BLOCKED = ("wrfastmutex", "wrguardedmutex", "wrmutex", "wrpushlock")
_MOST_LEVEL = 2


def _process(session: Session) -> int:
    process = session.current.process
    if process is None:
        raise KdumpError(f"{session.target.name}: {session.current.why_no_process}: name a process")
    return process


def _chosen(session: Session, arguments: Arguments) -> int | None:
    """The process of ``-p``, ``None`` for all, else the current one."""
    if arguments.has("-a"):
        return None
    named = arguments.option("-p")
    return session.evaluate(named) if named else _process(session)


_ALL = Option("-a", "threads of every process")
_OF = Option("-p", "threads of this process", "PROCESS")


@command(
    "!us",
    help="MEX: stacks of the current process, equal ones once",
    options=(
        _ALL,
        _OF,
        Option("-cpu", "threads that run on a processor, of every process"),
        Option("-w", "only threads that wait"),
    ),
    arguments=(word("TEXT", "only stacks with this in the name of a frame"),),
    examples=(Example("!us -a RtsPer"), Example("!mex.us -cpu")),
)
def unique_stacks(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views import mex

    everybody = arguments.has("-cpu")
    process = None if everybody else _chosen(session, arguments)
    fits = mex.is_running if everybody else mex.is_waiting if arguments.has("-w") else None
    threads = mex.threads_of(session.target, process, session.progress)
    return mex.unique_lines(session.target, threads, fits, arguments.word("TEXT") or "")


@command(
    "!uniqstack",
    help="stacks of the current process, equal ones once",
    options=(_ALL, Option("-b -v -p -n", "accepted, as in KD", note="the stacks are shown as !us shows them")),
    examples=(Example("!uniqstack -a", "of every process"),),
)
def unique_stacks_of_kd(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views import mex

    process = None if arguments.has("-a") else _process(session)
    threads = mex.threads_of(session.target, process, session.progress)
    return mex.unique_lines(session.target, threads, None)


@command(
    "!findstack",
    help="threads with a symbol or module on their stacks",
    options=(_ALL, _OF),
    arguments=(
        word("SYMBOL", "a part of the name of a frame", required=True),
        number("LEVEL", "0 the threads, 1 with the frames that fit, 2 with whole stacks"),
    ),
    examples=(Example("!findstack RtsPer 2", "whole stacks"), Example("!findstack -a nt!KeWaitForSingleObject")),
)
def find_stack(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views import mex

    level = arguments.number("LEVEL")
    if level is not None and level > _MOST_LEVEL:
        raise KdumpError(f"!findstack knows no level {level:x}: use 0 to 2")
    threads = mex.threads_of(session.target, _chosen(session, arguments), session.progress)
    return mex.find_lines(session.target, threads, arguments.word("SYMBOL") or "", 1 if level is None else level)


@command(
    "!tl",
    "!tasklist",
    help="MEX: processes",
    options=(Option("-t", "with counts of threads: running, ready, blocked, ALPC, I/O, resources"),),
    arguments=(word("NAME", "only those with this in their names, or the one at this address"),),
    examples=(Example("!tl -t"), Example("!mex.tl system")),
)
def process_list(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views import mex

    return mex.process_list_lines(session.target, arguments.word("NAME"), arguments.has("-t"))


@command(
    ".tlist",
    help="processes with their ids",
    options=(Option("-v", "with sessions and paths"), Option("-c", "accepted, as in KD: the current process alone")),
    arguments=(word("NAME", "only those with this in their names"),),
    examples=(Example(".tlist svchost"),),
)
def tasks(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.text.mex import task_lines
    from volatility3_kdump.views import mex
    from volatility3_kdump.windows.processes.processes import read_process

    if arguments.has("-c"):
        return task_lines([read_process(session.target, _process(session))], arguments.has("-v"))
    return mex.task_lines(session.target, arguments.word("NAME"), arguments.has("-v"))


@command(
    "!t",
    help="MEX: a thread with its stack; by default the current one",
    options=(Option("-t", "a thread by its id", "TID"),),
    arguments=(number("ADDRESS", "an ETHREAD"),),
    examples=(Example("!t ffff9189`52f55080"), Example("!mex.t -t 1c5c")),
)
def thread(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views import mex
    from volatility3_kdump.windows.listing.threads import ThreadChoice

    tid = arguments.option("-t")
    address = arguments.number("ADDRESS") or session.current.thread
    if tid is not None:
        address = ThreadChoice(tids=[session.evaluate(tid)]).find(session.target)[0].thread.address
    if address is None:
        raise KdumpError(f"{session.target.name}: the dump does not say which thread crashed: name one")
    return mex.thread_lines(session.target, address)


@command(
    "!lt",
    "!mex.listthreads",
    help="MEX: threads of a process; by default of the current one",
    options=(
        _ALL,
        Option("-state", "only in these states, with commas between", "STATES"),
        Option("-wr", "only those that wait for these reasons", "REASONS"),
        Option("-bk", "only those that wait for a mutex or push lock"),
    ),
    arguments=(number("PROCESS", "an EPROCESS"),),
    examples=(Example("!lt -a -wr WrResource"), Example("!mex.lt ffff9189`527e9080 -state ready,standby")),
)
def thread_list(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views import mex

    process = None if arguments.has("-a") else arguments.number("PROCESS") or _process(session)
    states = [name for name in (arguments.option("-state") or "").split(",") if name]
    reasons = [name for name in (arguments.option("-wr") or "").split(",") if name]
    if arguments.has("-bk") and not reasons:
        reasons = list(_BLOCKED)
    threads = mex.threads_of(session.target, process, session.progress)
    return mex.list_lines(threads, mex.with_states(states, reasons))


@command("!mex.running", help="MEX: threads that run")
def running(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views import mex

    return mex.running_lines(session.target, ("running",), session.progress)


@command("!mex.ready", "!mex.rdy", help="MEX: threads that are ready to run")
def ready(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views import mex

    return mex.running_lines(session.target, _READY, session.progress)


@command("!mex.di", "!di", help="MEX: the machine and its crash")
def dump_information(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views import mex

    return mex.information_lines(session.target)


@command(
    "!mex.p",
    help="MEX: a process; by default the current one",
    arguments=(number("ADDRESS", "an EPROCESS"),),
    examples=(Example("!mex.p ffff9189`527e9080"),),
)
def process(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.views import mex

    return mex.process_lines(session.target, arguments.number("ADDRESS") or _process(session))


@command(
    "!mex.eresource",
    "!eresource",
    help="MEX: a resource, who holds it and who waits",
    arguments=(number("ADDRESS", "an ERESOURCE", required=True),),
    examples=(Example("!eresource ffff9189`61801000"),),
)
def resource(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.locks import locks_grid

    return locks_grid(session.target, True, True, arguments.number("ADDRESS"), session.progress).kd_lines()


@command(
    "!ddt",
    help="MEX: memory as a type, as dt shows it",
    arguments=(rest("TYPE", "a type, and an address", required=True),),
    examples=(Example("!ddt nt!_ETHREAD @$thread"),),
)
def display_type(session: Session, arguments: Arguments) -> Iterator[str]:
    from volatility3_kdump.console.commands import execute

    return execute(session, f"dt {arguments.word('TYPE')}")
