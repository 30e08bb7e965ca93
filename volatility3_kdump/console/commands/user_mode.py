"""Commands on the user mode of the current process and thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Example, Option, number
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.text.user_mode import dll_lines
from volatility3_kdump.views.user_mode import last_error_lines, peb_lines, teb_lines
from volatility3_kdump.windows.listing.threads import ListedThread
from volatility3_kdump.windows.processes.threads import read_thread
from volatility3_kdump.windows.user.loader import INITIALIZATION, LOAD, MEMORY, UserModule, user_modules
from volatility3_kdump.windows.user.spaces import user_space


def current_process(session: Session) -> int:
    """The EPROCESS of the current process. Raises :class:`KdumpError` where it is not known."""
    current = session.current.process
    if current is None:
        raise KdumpError(
            f"{session.target.name}: the current process is not known: {session.current.why_no_process}: name one"
        )
    return current


def current_thread(session: Session) -> ListedThread:
    """The current thread. Raises :class:`KdumpError` where it is not known."""
    current = session.current.thread
    if current is None:
        raise KdumpError(f"{session.target.name}: the dump does not say which thread crashed: .thread names one")
    return ListedThread(session.target, read_thread(session.target, current))


@command(
    "!peb",
    help="the current process's environment block, modules and environment",
    arguments=(number("ADDRESS", "of a PEB, by default that of the current process"),),
    examples=(Example(".process /p ffff9189`527e9080; !peb", "of another process"),),
    plugin="peb",
)
def process_block(session: Session, arguments: Arguments) -> Iterable[str]:
    return _named(session, peb_lines(session.target, current_process(session), arguments.number("ADDRESS")))


@command(
    "!teb",
    help="the current thread's environment block",
    arguments=(number("ADDRESS", "of a TEB, by default that of the current thread"),),
    examples=(Example("!teb"),),
    plugin="teb",
)
def thread_block(session: Session, arguments: Arguments) -> Iterable[str]:
    return _named(session, teb_lines(session.target, current_thread(session), arguments.number("ADDRESS")))


@command(
    "!gle",
    help="the last error of the current thread",
    options=(Option("-all", "of every thread", note="vol -f DUMP kdump.teb shows them"),),
    examples=(Example("!gle"),),
    plugin="teb",
)
def last_error(session: Session, arguments: Arguments) -> Iterable[str]:
    return _named(session, last_error_lines(session.target, current_thread(session)))


def _named(session: Session, lines: Iterator[str]) -> Iterator[str]:
    """The lines; an error names the dump."""
    try:
        yield from lines
    except KdumpError as error:
        name = session.target.name
        raise (error if str(error).startswith(f"{name}: ") else KdumpError(f"{name}: {error}")) from error


@command(
    "!dlls",
    help="the loader's modules of the current process",
    options=(
        Option("-l", "in the order of loading"),
        Option("-m", "in the order of memory"),
        Option("-i", "in the order of initialization"),
        Option("-c", "the module that holds an address", value="ADDRESS"),
        Option("-v", "version information", note="not shown here"),
        Option("-f -s -a", "headers and sections", note="not shown here"),
    ),
    arguments=(number("ENTRY", "a loader entry, which alone is shown"),),
    examples=(Example("!dlls -m", "by address"),),
    plugin="peb",
)
def loaded_modules(session: Session, arguments: Arguments) -> Iterable[str]:
    target = session.target
    order = MEMORY if arguments.has("-m") else INITIALIZATION if arguments.has("-i") else LOAD
    space = user_space(target, current_process(session))
    listing = user_modules(space, order)
    chosen = listing.modules
    place, entry = arguments.option("-c"), arguments.number("ENTRY")
    if place is not None:
        address = session.evaluate(place)
        chosen = tuple(module for module in chosen if module.base <= address < module.end)
    if entry is not None:
        chosen = tuple(module for module in chosen if module.entry == entry)
    if not chosen:
        why = listing.problems[0] if listing.problems else "none is like that"
        raise KdumpError(f"{target.name}: no module found: {why}")
    return _dlls(chosen, listing.problems, target.memory.pointer_size)


def _dlls(modules: tuple[UserModule, ...], problems: tuple[str, ...], size: int) -> Iterator[str]:
    for module in modules:
        yield ""
        yield from dll_lines(module, size)
    for problem in problems:
        yield f"NOTE: {problem}"
