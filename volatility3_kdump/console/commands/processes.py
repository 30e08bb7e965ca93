"""Commands on processes and threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from volatility3_kdump.console.commands import Arguments, command
from volatility3_kdump.console.session import Session
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.text import ready as text
from volatility3_kdump.views.process import STACKS, THREADS, process_grid
from volatility3_kdump.views.ready import ready_lines, running_lines
from volatility3_kdump.views.stack import summary_lines
from volatility3_kdump.views.thread import thread_grid
from volatility3_kdump.views.tokens import token_grid
from volatility3_kdump.views.vads import vad_grid
from volatility3_kdump.windows.listing.processes import ProcessChoice
from volatility3_kdump.windows.listing.threads import ThreadChoice
from volatility3_kdump.windows.listing.tokens import token_of
from volatility3_kdump.windows.memory.vads import process_vads, read_vads, vads_with
from volatility3_kdump.windows.processes.ready import processor_states
from volatility3_kdump.windows.processes.tokens import read_token

#: KD's flags: statistics and threads for the current process, all for one that is named.
_FLAGS_OF_CURRENT, _FLAGS_OF_ONE, _FLAGS_OF_THREAD = 0x3, 0xF, 0x6
_WITHOUT_ARGUMENTS, _SWITCH = 0x8, 0x10
_MINUS_ONE = (1 << 64) - 1


@command(
    "!process",
    help="processes: flags 1 statistics, 2 threads, 4 stacks",
    usage="[/s SESSION] [0 | -1 | PROCESS | PID] [FLAGS] [IMAGE]",
    plugin="process",
)
def processes(session: Session, arguments: Arguments) -> Iterable[str]:
    target = session.target
    operands = arguments.words
    number = None
    if operands and operands[0].lower() == "/s" and len(operands) > 1:
        number = session.evaluate(operands[1])
        operands = operands[2:]
    if operands and operands[0].startswith("/"):
        raise KdumpError(f"!process knows no {operands[0]}: use /s SESSION")
    if len(operands) > 3:
        raise KdumpError("!process takes a process, flags and an image name")
    which = _value(session, operands[0]) if operands else _MINUS_ONE
    everything = which == 0
    flags = _value(session, operands[1]) if len(operands) > 1 else None
    image = operands[2] if len(operands) > 2 else None
    if flags is None:
        flags = _FLAGS_OF_CURRENT if which in (0, _MINUS_ONE) else _FLAGS_OF_ONE
    if which == _MINUS_ONE:
        chosen = ProcessChoice([_current_process(session)])
    elif everything and number is not None:
        chosen = ProcessChoice(session=number)
    elif everything:
        chosen = ProcessChoice(names=[image] if image else [], whole=True)
    elif target.is_kernel_address(which):
        chosen = ProcessChoice([which])
    else:
        yield f"Searching for Process with Cid == {which:x}"
        chosen = ProcessChoice(pids=[which])
    detail = flags & 7
    if detail & STACKS and not detail & THREADS:
        detail = detail & ~STACKS | THREADS
    yield from process_grid(target, chosen, detail, session.progress).kd_lines()
    if flags & _SWITCH:
        yield "NOTE: flag 10 does not make a process current: .process /p does"


def _value(session: Session, word: str) -> int:
    return _MINUS_ONE if word == "-1" else session.evaluate(word)


@command(
    "!thread",
    help="a thread; by default the current one",
    usage="[-t TID] [ADDRESS [FLAGS]]",
    plugin="thread",
)
def threads(session: Session, arguments: Arguments) -> Iterable[str]:
    target = session.target
    operands = [word for word in arguments.words if word.lower() != "-p"]
    if operands[:1] == ["-t"]:
        if len(operands) < 2:
            raise KdumpError("!thread -t takes a thread id, hexadecimal")
        flags = _value(session, operands[2]) if len(operands) > 2 else _FLAGS_OF_THREAD
        chosen = ThreadChoice(tids=[session.evaluate(operands[1])])
    else:
        which = _value(session, operands[0]) if operands else _MINUS_ONE
        flags = _value(session, operands[1]) if len(operands) > 1 else _FLAGS_OF_THREAD
        if which in (0, _MINUS_ONE):
            current = session.current.thread
            if current is None:
                raise KdumpError(f"{target.name}: the dump does not say which thread crashed: name one")
            which = current
        chosen = ThreadChoice([which])
    with_arguments = not flags & _WITHOUT_ARGUMENTS
    return thread_grid(target, chosen, bool(flags & STACKS), session.progress, with_arguments).kd_lines()


@command("!ready", help="threads that are ready to run", plugin="ready")
def ready(session: Session, arguments: Arguments) -> Iterable[str]:
    return ready_lines(session.target)


@command("!running", help="what the processors run: -i idle ones too, -t stacks", usage="[-i] [-t]", plugin="ready")
def running(session: Session, arguments: Arguments) -> Iterable[str]:
    options = {word.lower() for word in arguments.words}
    letters = {letter for option in options for letter in option.lstrip("-")}
    if letters - {"i", "t"}:
        raise KdumpError("!running takes -i and -t")
    return running_lines(session.target, "i" in letters, "t" in letters)


@command(
    "!stacks",
    help="a line for each thread: where it waits; 2 whole stacks; FILTER a part of a name",
    usage="[0|1|2] [FILTER]",
    plugin="stack",
)
def all_stacks(session: Session, arguments: Arguments) -> Iterable[str]:
    operands = arguments.words
    level = 0
    if operands and operands[0] in ("0", "1", "2"):
        level = int(operands.pop(0))
    return summary_lines(session.target, level, " ".join(operands), session.progress)


@command("!irql", help="IRQL before the bug check", usage="[PROCESSOR]", plugin="ready")
def irql(session: Session, arguments: Arguments) -> Iterator[str]:
    target = session.target
    number = session.evaluate(arguments.text) if arguments.text else session.current.processor
    if number is None:
        raise KdumpError(f"{target.name}: the dump does not say which processor crashed: name one")
    state = next((entry for entry in processor_states(target) if entry.number == number), None)
    if state is None or state.irql is None:
        why = "it has no control block in the dump" if target.nt is not None else target.symbol_status
        raise KdumpError(f"{target.name}: the IRQL of processor {number:x} is not known: {why}")
    yield f"Debugger saved IRQL for processor 0x{number:x} -- {text.irql_text(state.irql)}"


@command(
    "!vad",
    help="regions of the current process's address space; those of a tree; the one that holds an address",
    usage="[ROOT | ADDRESS]",
    plugin="vad",
)
def address_space(session: Session, arguments: Arguments) -> Iterable[str]:
    target = session.target
    if len(arguments.words) > 1:
        raise KdumpError("!vad takes the root of a tree, or an address in user space")
    address = session.evaluate(arguments.text) if arguments.text else 0
    if target.is_kernel_address(address):
        tree = read_vads(target, address)
    else:
        tree = process_vads(target, _current_process(session))
        if address:
            tree = vads_with(target, tree, address)
    return vad_grid(target, tree).kd_lines()


@command(
    "!token",
    help="an access token: user, groups and privileges; by default that of the current thread or process",
    usage="[ADDRESS]",
    plugin="token",
)
def access_token(session: Session, arguments: Arguments) -> Iterator[str]:
    target = session.target
    if len(arguments.words) > 1:
        raise KdumpError("!token takes the address of a token")
    if arguments.text:
        yield from token_grid(target, read_token(target, session.evaluate(arguments.text))).kd_lines()
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
