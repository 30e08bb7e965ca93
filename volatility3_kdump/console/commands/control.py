"""Commands that steer the session: dumps, paths, logs, processors, help."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from volatility3_kdump.console.commands import Arguments, command, find, looping, registry, run, without_quotes
from volatility3_kdump.console.script import MARK, marked
from volatility3_kdump.console.session import OpenDump, Session
from volatility3_kdump.console.syntax import Example, Option, file, number, rest
from volatility3_kdump.console.usage import described, listed
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.stores.paths import safe_file_name
from volatility3_kdump.stores.servers import offline_by_default
from volatility3_kdump.symbols.places import DEFAULT_PATH
from volatility3_kdump.text.addresses import plain

if TYPE_CHECKING:
    from volatility3_kdump.images.modules import Module

    pass


_PATHS = {"symbol": "_NT_SYMBOL_PATH", "image": "_NT_EXECUTABLE_IMAGE_PATH"}
_PROCESSOR = re.compile(r"(\d+)\s*(s?)\s*(.*)", re.DOTALL)
_ALIAS = re.compile(r"\$\{@#(\w+)\}|@#(\w+)")
_MOST_NESTED = 4


# dumps ----------------------------------------------------------------------------------------------------------------


def own_path(session: Session, kind: str) -> str | None:
    path = session.options.symbol_path if kind == "symbol" else session.options.image_path
    assert path is None or isinstance(path, str)
    return path


def search_path(session: Session, kind: str) -> str:
    """The ``symbol`` or ``image`` path as the user wrote it, or that of the environment."""
    own = own_path(session, kind)
    if own is not None:
        return own
    path = os.environ.get(_PATHS[kind], "")
    if kind == "symbol" and not path.strip() and not (session.options.offline or offline_by_default()):
        return DEFAULT_PATH
    return path


def opening(session: Session, dump: OpenDump) -> Iterator[str]:
    """What KD prints when a dump is loaded: banner, modules as dots, the current instruction."""
    from volatility3_kdump.text import banner
    from volatility3_kdump.text.analyze import shown_code
    from volatility3_kdump.windows.machine.system import read_system

    target = dump.target
    paths = search_path(session, "symbol"), search_path(session, "image")
    # Warnings come last: reading the lists of modules adds to them.
    yield from banner.loading(target.header, dump.path)
    yield from banner.headline(target.header, paths)
    yield from banner.version(read_system(target))
    yield from banner.dotted(target.modules, "Loading Kernel Symbols")
    yield from banner.dotted(target.unloaded_modules, "Loading unloaded module list")
    if not target.has_names:
        yield f"WARNING: no kernel symbols: {'; '.join(filter(None, (target.symbol_status, target.symbol_remedy)))}"
    elif session.verbose:
        yield f"Kernel symbols: {target.symbol_status}"
    for warning in target.warnings:
        dump.told.add(warning)
        yield f"WARNING: {warning}"
    yield "For analysis of this file, run !analyze -v"
    registers = dump.registers
    if registers is not None and registers.ip is not None:
        from volatility3_kdump.analysis.failure import failure_in

        yield from shown_code(failure_in(target, registers), target.memory.pointer_size)


@command(
    ".opendump",
    help="opens another dump; g goes to it",
    options=(Option("/c", "which one of an archive", value="MEMBER"),),
    arguments=(file("FILE", "a dump or an archive; with spaces in double quotes", required=True),),
    examples=(Example(".opendump MEMORY.DMP"), Example('.opendump /c "second.dmp" all.zip')),
)
def open_dump(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.text import banner

    before = session.index
    try:
        dump = session.open(arguments.word("FILE") or "", arguments.option("/c"))
    except KdumpError as error:
        raise KdumpError(str(error).replace("with --member: ", 'with .opendump /c "NAME": ')) from error
    if session.dumps[0] is not dump:
        session.index = before
    session.pending.append(dump)
    yield ""
    yield from banner.loading(dump.target.header, dump.path)
    yield f"Opened '{dump.path}'"


@command(
    *("gh", "gn", "gu", "p", "pa", "pc", "pt", "t", "ta", "tc", "tt", "wt"),
    help="as g",
    arguments=(rest("ANY", "means nothing: a dump cannot run"),),
    hidden=True,
)
@command("g", help="after .opendump: goes to the dump")
def go(session: Session, arguments: Arguments) -> Iterable[str]:
    if not session.pending:
        raise KdumpError(f"       ^ No runnable debuggees error in '{arguments.name}'")
    dump = session.pending.pop(0)
    session.index = session.dumps.index(dump)
    yield from itertools.islice(opening(session, dump), 2, None)


@command(
    "||",
    help="lists the dumps; ||N s makes one current",
    usage="[N [s]]",
    own=True,
    examples=(Example("||1s", "makes dump 1 current"),),
)
def systems(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.text import banner
    from volatility3_kdump.text.analyze import shown_code

    match = _PROCESSOR.fullmatch(arguments.text)
    if arguments.text and match is None:
        raise KdumpError("|| takes the number of a dump: ||1s makes dump 1 current")
    number = int(match[1]) if match else None
    if number is not None and number >= len(session.dumps):
        raise KdumpError(f"there is no dump {number}: || lists them")
    if match is not None and match[2]:
        session.index = number or 0
        if match[3]:
            raise KdumpError(f"||{number}s takes nothing else, not {match[3]!r}")
        registers = session.current.registers
        if registers is not None and registers.ip is not None:
            from volatility3_kdump.analysis.failure import failure_in

            yield from shown_code(failure_in(session.target, registers), session.target.memory.pointer_size)
        return
    for index, dump in enumerate(session.dumps):
        if number in (None, index):
            mark = "." if index == session.index else " "
            yield f"{mark} {index:2d} {banner.kind(dump.target.header)}: {dump.path}"


@command(
    "~",
    help="lists processors; ~Ns makes one current",
    usage="[N [s | COMMAND]]",
    own=True,
    examples=(Example("~1s", "makes processor 1 current"), Example("~1 k", "a command on processor 1")),
)
def tilde(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.windows.machine.processors import processors

    dump = session.current
    match = _PROCESSOR.fullmatch(arguments.text.removeprefix(MARK))
    if arguments.text and (match is None or (match[2] and match[3])):
        raise KdumpError("~ takes the number of a processor: ~1s makes processor 1 current")
    number = int(match[1]) if match else None
    numbers = {processor.number for processor in processors(dump.target)}
    if number is not None and number not in numbers:
        raise KdumpError(f"processor {number} has no control block in the dump")
    if match is not None and match[3]:
        yield from _on_processor(session, number or 0, match[3])
    elif match is not None and match[2]:
        dump.state.processor = number
        dump.state.thread = None
        dump.choose_process(None)
        dump.state.reset_context()
    else:
        for processor in processors(dump.target):
            if number in (None, processor.number):
                mark = "." if processor.number == dump.processor else " "
                thread = "not in the dump" if processor.current_thread is None else f"{processor.current_thread:016x}"
                prcb = "not in the dump" if processor.prcb is None else f"{processor.prcb:016x}"
                yield f"{mark} {processor.number:2d}  Prcb {prcb}  Thread {thread}"


def _on_processor(session: Session, number: int, text: str) -> Iterator[str]:
    """``~1 k``: a command as if on another processor."""
    dump = session.current
    kept, memory = dump.state, dump.process_memory
    dump.state = type(kept)(processor=number, radix=kept.radix, frames=kept.frames)
    try:
        yield from run(session, text)
    finally:
        dump.state, dump.process_memory = kept, memory


# log ------------------------------------------------------------------------------------------------------------------


@command(
    ".logopen",
    ".logappend",
    help="copies the session to a file",
    options=(
        Option("/t", "with process id and time in its name"),
        Option("/d", "named after the dump, with .log behind it"),
        Option("/u", "in Unicode", note="the log is always UTF-8"),
    ),
    arguments=(file("FILE", "written anew; .logappend adds to it; by default dbgeng.log"),),
    examples=(Example(".logopen /t session.log"),),
)
def open_log(session: Session, arguments: Arguments) -> Iterable[str]:
    path = arguments.word("FILE") or "dbgeng.log"
    if arguments.has("/d"):
        if arguments.word("FILE"):
            raise KdumpError(f"{arguments.name} /d names the file after the dump: it takes no FILE")
        path = f"{safe_file_name(os.path.basename(session.current.path)) or 'dump'}.log"
    if arguments.has("/t"):
        path = _stamped(path, os.getpid(), datetime.now())
    if session.log_path is not None:
        yield f"Closing open log file {session.log_path}"
    session.open_log(path, append=arguments.name == ".logappend")
    yield f"Opened log file '{path}'"


def _stamped(path: str, process: int, now: datetime) -> str:
    """``log_02BC_2005-02-28_09-05-50-935.txt`` for ``log.txt``: as the debugger's ``.logopen /t`` names files."""
    stem, extension = os.path.splitext(path)
    return f"{stem}_{process:04X}_{now:%Y-%m-%d_%H-%M-%S}-{now.microsecond // 1000:03}{extension}"


@command(".logclose", help="ends the copy of the session")
def close_log(session: Session, arguments: Arguments) -> Iterable[str]:
    if session.log_path is None:
        raise KdumpError("no log file is open")
    # The line itself belongs into the log.
    yield f"Closing open log file {session.log_path}"
    session.close_log()


@command(".logfile", help="says whether a log file is open")
def log_file(session: Session, arguments: Arguments) -> Iterable[str]:
    yield "No log file open" if session.log_path is None else f"Log '{session.log_path}' open"


# the rest -------------------------------------------------------------------------------------------------------------


@command("q", "qq", "qd", help="ends the session")
def leave(session: Session, arguments: Arguments) -> Iterable[str]:
    session.finished = True
    if not session.quiet:
        yield "quit:"


@command(
    ".echo",
    help="shows a text",
    arguments=(rest("TEXT", "up to the next semicolon; double quotes around it are taken off"),),
    examples=(Example('.echo "a; b"'),),
)
def echo(session: Session, arguments: Arguments) -> Iterable[str]:
    message = arguments.text
    yield message[1:-1] if len(message) > 1 and message[0] == message[-1] == '"' else message


@command(
    ".kframes",
    help="shows or sets how many frames k shows",
    arguments=(number("COUNT", "the most frames"),),
    examples=(Example(".kframes 20"),),
)
def frames(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.windows.stacks.frames import MOST_FRAMES

    count = arguments.number("COUNT")
    if count is not None:
        if not 1 <= count <= MOST_FRAMES:
            raise KdumpError(f".kframes takes 1 to {MOST_FRAMES:x} (hexadecimal), not {count:x}")
        session.state.frames = count
    yield f"Default stack trace depth is 0n{session.state.frames} frames"


@command(
    *(".shell", ".create", ".attach", "!!"),
    help="refused: no other programs are run",
    arguments=(rest("COMMAND", "refused"),),
)
def refused(session: Session, arguments: Arguments) -> Iterable[str]:
    raise KdumpError(f"{arguments.name} is refused: this prompt runs no other programs")


@command(
    *("a", "bp", "bu", "bm", "ba", "bl", "bc", "bd", "be", "e", "ea", "eb", "ed", "eq", "eu", "ew", "f", "m"),
    *(".crash", ".reboot", ".kill", ".detach", ".restart", ".breakin", ".pagein"),
    help="not for a dump: it cannot run or change",
    arguments=(rest("ANY", "means nothing"),),
    hidden=True,
)
def not_for_dumps(session: Session, arguments: Arguments) -> Iterable[str]:
    raise KdumpError(f"{arguments.name}: a dump can neither run nor be changed")


@command(
    ".hh",
    help="there is no help file; see .help",
    arguments=(rest("TOPIC", "means nothing"),),
    hidden=True,
)
def no_help_file(session: Session, arguments: Arguments) -> Iterable[str]:
    raise KdumpError("there is no help file here: .help lists the commands, .help COMMAND says more of one")


@command(
    ".help",
    help="lists the commands, or says more of one",
    options=(Option("/D", "with links in KD", note="there are none here"),),
    arguments=(rest("COMMAND", "a command"),),
    examples=(Example(".help !process"),),
)
def show_help(session: Session, arguments: Arguments) -> Iterable[str]:
    wanted = arguments.word("COMMAND")
    return described(find(wanted)[0]) if wanted else help_lines()


def help_lines() -> Iterator[str]:
    """Every command with what it does."""
    return listed(entry for entry in registry().values() if not entry.hidden)


@command(
    "!for_each_module",
    help="a line for each module, or commands with @#ModuleName and the like",
    arguments=(rest("COMMANDS", "@#ModuleName, @#Base, @#End, @#Size, @#ImageName ... stand for the module's"),),
    examples=(Example('!for_each_module "s -a @#Base @#End Leak"'),),
)
def for_each_module(session: Session, arguments: Arguments) -> Iterable[str]:
    body = without_quotes(arguments.text)
    if body.lower().count("!for_each_module") and _ALIAS.search(body) is None:
        raise KdumpError("!for_each_module inside of itself would never end")
    size = session.target.memory.pointer_size
    with looping(session, "!for_each_module", _MOST_NESTED):
        for index, module in enumerate(sorted(session.target.modules, key=lambda module: module.base)):
            values = {
                "base": plain(module.base, size),
                "end": plain(module.end, size),
                "size": f"{module.size:x}",
                "modulename": module.name,
                "imagename": module.image_name,
                "loadedimagename": module.image_name,
                "checksum": "?" if module.checksum is None else f"{module.checksum:x}",
                "timedatestamp": "?" if module.timestamp is None else f"{module.timestamp:x}",
                "moduleindex": f"{index:x}",
            }
            if "symboltype" in body.lower():
                values |= _symbols(session, module)
            if "version" in body.lower():
                values |= _versions(session, module)
            if not body:
                yield f"{index:02x}: {values['base']} {values['end']} {module.name} {module.image_name}"
                continue
            yield from run(session, _replaced(body, values))


def _versions(session: Session, module: Module) -> dict[str, str]:
    """What the version resource of a module's image says, where the dump or an image file holds it."""
    from volatility3_kdump.images.version_resource import module_version

    version = module_version(session.target.images.image_of(module))
    if version is None:
        return {"fileversion": "?", "productversion": "?"}
    return {"fileversion": version.file_version, "productversion": version.product_version}


#: DEBUG_SYMTYPE_XXX of dbgeng.h, by our words.
_SYMBOL_TYPES = {"coff symbols": 1, "pdb symbols": 3, "private pdb symbols": 3, "export symbols": 4, "deferred": 5}


def _symbols(session: Session, module: Module) -> dict[str, str]:
    """What kind of symbols a module has, by KD's numbers."""
    from volatility3_kdump.windows.listing.modules import symbols_of

    return {"symboltype": str(_SYMBOL_TYPES.get(symbols_of(session.target, module).state, 0))}


_OF_FUNCTIONS = frozenset({"symbolname", "symboladdress", "modname", "functionname"})
_NAMES = frozenset({"modulename", "imagename", "loadedimagename", "fileversion", "productversion"})
_NEVER_IN_NAMES = re.compile(r"[/\\]")


def _replaced(text: str, values: dict[str, str]) -> str:
    """A command with the values of a module. Names come from the dump: they must not become commands, nor paths."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        replacement = values.get(name.lower())
        if replacement is not None:
            return _NEVER_IN_NAMES.sub("_", marked(replacement) if name.lower() in _NAMES else replacement)
        if name.lower() in _OF_FUNCTIONS:
            # Of a !for_each_function that stands in it.
            return match[0]
        raise KdumpError(f"!for_each_module knows no @#{name}: use {', '.join(sorted(values))}")

    return _ALIAS.sub(value, text)
