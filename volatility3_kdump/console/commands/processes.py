"""Commands on processes and threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.console.syntax import Bit, Example, Option, flags, number, rest, word
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.text import ready as text
from volatility3_kdump.views.process import STACKS, THREADS, process_grid
from volatility3_kdump.views.ready import ready_lines, running_lines
from volatility3_kdump.views.stack import summary_lines
from volatility3_kdump.views.thread import thread_grid
from volatility3_kdump.views.tokens import token_grid
from volatility3_kdump.views.vads import one_vad_lines, vad_grid
from volatility3_kdump.windows.listing.processes import ProcessChoice
from volatility3_kdump.windows.listing.threads import ThreadChoice
from volatility3_kdump.windows.listing.tokens import token_of
from volatility3_kdump.windows.memory.vads import process_vads, read_vads, vads_with
from volatility3_kdump.windows.processes.process_lists import process_addresses
from volatility3_kdump.windows.processes.processes import read_process
from volatility3_kdump.windows.processes.ready import processor_states
from volatility3_kdump.windows.processes.threads import read_thread
from volatility3_kdump.windows.processes.tokens import read_token

#: KD's flags: statistics and threads for the current process, all for one that is named.
_FLAGS_OF_CURRENT, _FLAGS_OF_ONE, _FLAGS_OF_THREAD = 0x3, 0xF, 0x6
_WITHOUT_ARGUMENTS, _SWITCH = 0x8, 0x10
_WHOLE_STACKS = 2
_MINUS_ONE = (1 << 64) - 1


@command(
    "!process",
    help="processes with what they run",
    options=(
        Option("/s", "those of a session", value="SESSION"),
        Option("/m", "those whose image is this module, with PROCESS 0", value="MODULE"),
    ),
    arguments=(
        number("PROCESS", "an EPROCESS, a process id, 0 for all, -1 for the current one"),
        flags(
            Bit(1, "times and priorities"),
            Bit(2, "threads"),
            Bit(4, "stacks"),
            Bit(8, "stacks without arguments"),
            Bit(_SWITCH, "in the process's context", "user stacks are read in the process's own memory"),
        ),
        word("IMAGE", "only processes of this name, with PROCESS 0"),
    ),
    examples=(
        Example("!process 0 0", "all in brief"),
        Example("!process 0 7 lsass.exe", "one by name, with its threads"),
        Example("!process 1d8 3", "by process id"),
    ),
    plugin="process",
)
def processes(session: Session, arguments: Arguments) -> Iterable[str]:
    target = session.target
    number_text = arguments.option("/s")
    number = None if number_text is None else session.evaluate(number_text)
    which = arguments.number("PROCESS")
    which = _MINUS_ONE if which is None else which
    everything = which == 0
    flags = arguments.number("FLAGS")
    image, module = arguments.word("IMAGE"), arguments.option("/m")
    if image and module:
        raise KdumpError("!process takes one name: /m MODULE or IMAGE")
    images = [image] if image else []
    if module:
        images = [module] if "." in module else [module, f"{module}.exe"]
    if flags is None:
        flags = _FLAGS_OF_CURRENT if which in (0, _MINUS_ONE) else _FLAGS_OF_ONE
    if which == _MINUS_ONE:
        chosen = ProcessChoice([_current_process(session)], names=images, whole=True, session=number)
    elif everything:
        chosen = ProcessChoice(names=images, whole=True, session=number)
    elif target.is_kernel_address(which):
        chosen = ProcessChoice([which], names=images, whole=True, session=number)
    else:
        yield f"Searching for Process with Cid == {which:x}"
        chosen = ProcessChoice(pids=[which], names=images, whole=True, session=number)
    detail = flags & 7
    if detail & STACKS and not detail & THREADS:
        detail = detail & ~STACKS | THREADS
    yield from process_grid(target, chosen, detail, session.progress).kd_lines()


@command(
    "!thread",
    help="a thread; by default the current one",
    options=(
        Option("-t", "by its thread id", value="TID"),
        Option("-p", "with its process"),
    ),
    arguments=(
        number("ADDRESS", "an ETHREAD"),
        flags(
            Bit(1, "nothing more: people type 1f for all flags"),
            Bit(2, "what it waits for"),
            Bit(4, "its stack"),
            Bit(8, "the stack without arguments"),
            Bit(_SWITCH, "in its process's context", "user stacks are read in the process's own memory"),
        ),
    ),
    examples=(Example("!thread ffff9189`527e9080 6"), Example("!thread -t 1a4", "by thread id")),
    plugin="thread",
)
def threads(session: Session, arguments: Arguments) -> Iterable[str]:
    target = session.target
    flags = arguments.number("FLAGS")
    which = arguments.number("ADDRESS")
    tid = arguments.option("-t")
    if tid is not None:
        # Behind a thread id the first number is that of the flags.
        flags = flags if flags is not None else which
        chosen = ThreadChoice(tids=[session.evaluate(tid)])
    else:
        if which in (None, 0, _MINUS_ONE):
            which = session.current.thread
            if which is None:
                raise KdumpError(f"{target.name}: the dump does not say which thread crashed: name one")
        chosen = ThreadChoice([which])
    flags = _FLAGS_OF_THREAD if flags is None else flags
    if arguments.has("-p") and tid is None and which:
        owner = read_thread(target, which).process
        if owner:
            yield from process_grid(target, ProcessChoice([owner]), 0, session.progress).kd_lines()
    with_arguments = not flags & _WITHOUT_ARGUMENTS
    yield from thread_grid(target, chosen, bool(flags & STACKS), session.progress, with_arguments).kd_lines()


@command(
    "!ready",
    help="threads that are ready to run",
    arguments=(
        flags(
            Bit(2, "the whole block of each thread, as !thread shows it"),
            Bit(4, "with 2: its stack"),
            Bit(8, "stacks without arguments"),
            Bit(0x10, "stacks without arguments and stack pointers", "the stack pointers are shown"),
            Bit(1, "nothing"),
        ),
    ),
    examples=(Example("!ready"), Example("!ready f", "with stacks")),
    plugin="ready",
)
def ready(session: Session, arguments: Arguments) -> Iterable[str]:
    return ready_lines(session.target, arguments.number("FLAGS") or 0)


@command(
    "!running",
    help="what the processors run",
    options=(Option("-i", "idle processors too"), Option("-t", "with stacks")),
    examples=(Example("!running -it", "all processors with their stacks"),),
    plugin="ready",
)
def running(session: Session, arguments: Arguments) -> Iterable[str]:
    return running_lines(session.target, arguments.has("-i"), arguments.has("-t"))


@command(
    "!stacks",
    help="a line for each thread: where it waits",
    arguments=(
        word("DETAIL", "0 the first frame, 1 also threads without stacks, 2 whole stacks"),
        rest("FILTER", "only threads with this in a name of their stack"),
    ),
    examples=(Example("!stacks 2 myfault", "whole stacks that myfault is on"),),
    plugin="stack",
)
def all_stacks(session: Session, arguments: Arguments) -> Iterable[str]:
    detail, wanted = arguments.word("DETAIL") or "0", arguments.word("FILTER") or ""
    if detail.isdecimal() and int(detail[:9]) > _WHOLE_STACKS:
        raise KdumpError(f"!stacks knows no detail {detail}: 0 the first frame, 1 also without stacks, 2 whole stacks")
    if detail not in ("0", "1", "2"):
        detail, wanted = "0", f"{detail} {wanted}".strip()
    return summary_lines(session.target, int(detail), wanted.strip('"'), session.progress)


@command(
    "!irql",
    help="IRQL before the bug check",
    arguments=(number("PROCESSOR", "a processor, by default the current one"),),
    examples=(Example("!irql 1", "of processor 1"),),
    plugin="ready",
)
def irql(session: Session, arguments: Arguments) -> Iterator[str]:
    target = session.target
    number = arguments.number("PROCESSOR")
    number = session.current.processor if number is None else number
    if number is None:
        raise KdumpError(f"{target.name}: the dump does not say which processor crashed: name one")
    state = next((entry for entry in processor_states(target) if entry.number == number), None)
    if state is None or state.irql is None:
        why = "it has no control block in the dump" if target.nt is not None else target.symbol_status
        raise KdumpError(f"{target.name}: the IRQL of processor {number:x} is not known: {why}")
    yield f"Debugger saved IRQL for processor 0x{number:x} -- {text.irql_text(state.irql)}"


@command(
    "!vad",
    help="regions of the current process's address space",
    arguments=(
        number("ROOT|ADDRESS", "the root of a tree, or an address in user space, whose region is shown"),
        flags(Bit(1, "one VAD in full")),
    ),
    examples=(
        Example("!vad"),
        Example("!vad 7ffe0000", "the region that holds the address"),
        Example("!vad 7ffe0000 1", "in full, with a .reload command"),
    ),
    plugin="vad",
)
def address_space(session: Session, arguments: Arguments) -> Iterable[str]:
    target = session.target
    address = arguments.number("ROOT|ADDRESS") or 0
    if target.is_kernel_address(address):
        if address in process_addresses(target):
            root = read_process(target, address).vad_root
            raise KdumpError(f"{address:x} is a process, no VAD: its VadRoot is {root or 0:x}")
        tree = read_vads(target, address)
    else:
        tree = process_vads(target, _current_process(session))
        if address:
            tree = vads_with(target, tree, address)
    if address and arguments.number("FLAGS"):
        return one_vad_lines(target, next(vad for vad in tree.vads if vad.address == address or len(tree.vads) == 1))
    return vad_grid(target, tree).kd_lines()


@command(
    "!token",
    help="an access token: user, groups and privileges",
    options=(Option("-n", "names of SIDs", note="the names of accounts are not in a dump of the kernel"),),
    arguments=(number("ADDRESS", "of a token; 0 and by default that of the current thread or process"),),
    examples=(Example("!token ffffa00d`12345060"),),
    plugin="token",
)
def access_token(session: Session, arguments: Arguments) -> Iterator[str]:
    target = session.target
    address = arguments.number("ADDRESS")
    if address:
        yield from token_grid(target, read_token(target, address)).kd_lines()
        return
    chosen = token_of(target, _current_process(session), session.current.thread)
    if chosen.origin is not None:
        yield chosen.origin
    if not chosen.impersonation:
        yield f"_EPROCESS 0x{chosen.process:x}, _TOKEN 0x{chosen.token.address:x}"
    yield from token_grid(target, chosen.token).kd_lines()


def _current_process(session: Session) -> int:
    current = session.current.process
    if current is None:
        raise KdumpError(
            f"{session.target.name}: the current process is not known: {session.current.why_no_process}: name one"
        )
    return current
