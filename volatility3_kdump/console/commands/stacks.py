"""Commands on registers, stacks and code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from volatility3_kdump.console.commands import Arguments, command, run
from volatility3_kdump.console.session import OpenDump, Session
from volatility3_kdump.console.syntax import Example, Option, number
from volatility3_kdump.cpu.exception import parse_exception_record
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.expressions import as_address
from volatility3_kdump.text.addresses import pointer
from volatility3_kdump.text.registers import register_block
from volatility3_kdump.text.stacks import LAST_SET_CONTEXT, row
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.processes.crashed import crash_processor
from volatility3_kdump.windows.processes.threads import read_thread
from volatility3_kdump.windows.stacks.frames import MOST_FRAMES, NoStack, Start

if TYPE_CHECKING:
    from volatility3_kdump.analysis.failure import Failure

#: KOBJECTS: ProcessObject and ThreadObject.
_RESET = "Resetting default scope"
#: Words that kd shows where no number is given.
_RAW_WORDS = 0x20
_RANGE_COUNT = re.compile(r"^L(?=[0-9]|@)")
_K_OPTIONS = re.compile(r"[bcpPvnLMDf]*")


# where a session stands ---------------------------------------------------------------------------------------------


def current_start(session: Session) -> Start:
    """Where the current backtrace begins. Raises :class:`KdumpError` when the dump does not have it."""
    from volatility3_kdump.windows.stacks.starts import crash_start, processor_start

    dump = session.current
    state = dump.state
    if state.no_context is not None:
        raise KdumpError(f"No stack: {state.no_context}")
    if state.start is not None:
        return state.start
    number, crashed = state.processor, crash_processor(dump.target)
    try:
        if number is None or (crashed is not None and crashed.number == number):
            return crash_start(dump.target)
        return processor_start(dump.target, number)
    except NoStack as error:
        raise KdumpError(f"No stack: {error}") from error


def current_failure(session: Session) -> Failure:
    """The current registers and the code there. Raises :class:`KdumpError` when the dump does not have them."""
    from volatility3_kdump.analysis.failure import failure_in

    dump = session.current
    if dump.state.failure is not None:
        return dump.state.failure
    context = dump.registers
    if context is None:
        raise KdumpError(f"no registers: {dump.state.no_context or 'the dump holds none of this processor'}")
    return failure_in(dump.seen, context)


def _set_failure(dump: OpenDump, failure: Failure, start: Start) -> None:
    state = dump.state
    state.reset_context()
    state.failure, state.context, state.start, state.trap_frame = failure, failure.context, start, failure.trap_frame


# k ------------------------------------------------------------------------------------------------------------------


@command(
    *("k", "kb", "kc", "kf", "kn", "kp", "kP", "kv", "kL"),
    help="the stack: b arguments, v trap frames too, c names only, f sizes of frames",
    usage="[bcfnpPvL] [COUNT] [= [BASE] STACK IP]; Nk on processor N, ~*k on each",
    own=True,
    options=(
        Option("b", "with the first words of arguments"),
        Option("v", "and trap frames"),
        Option("c", "names only"),
        Option("f", "with the frames' sizes"),
        Option("n", "with the frames' numbers"),
        Option("L", "without source lines, which .lines turns on"),
        Option("p P M D", "accepted, as in KD; they change nothing without private symbols"),
        Option("=", "from there", value="[BASE] STACK IP"),
    ),
    examples=(Example("kv"), Example("kn 5", "five frames"), Example("k = @rsp @rip")),
    plugin="stack",
    glued=True,
)
def backtrace(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.views.stack import stack_grid
    from volatility3_kdump.windows.listing.stacks import Request

    target = session.target
    typed = arguments.name[1:] + arguments.text
    letters = _K_OPTIONS.match(typed)
    options = letters[0] if letters else ""
    rest = typed[len(options) :]
    if options and rest and (rest[0].isalnum() or rest[0] == "_"):
        # As in "k base": the letters are the beginning of a word.
        options, rest = arguments.name[1:], arguments.text
    start, count = _k_arguments(session, rest.strip())
    layout = next((f"k{letter}" for letter in "cvbf" if letter in options), "k")
    if "f" in options and layout != "kf":
        raise KdumpError("kf shows no arguments: use kf, or kv")
    state = session.state
    set_before = state.start is not None or start is not None
    request = Request(LAST_SET_CONTEXT if set_before else None, session.current.thread, start or current_start(session))
    lines = session.lines and "L" not in options
    return stack_grid(target, [request], layout, count or state.frames, lines=lines).kd_lines()


@command(
    "~*",
    help="a command on each processor",
    usage="COMMAND",
    own=True,
    examples=(Example("~*k"), Example("~*r")),
)
def each_processor(session: Session, arguments: Arguments) -> Iterator[str]:
    if not arguments.text:
        raise KdumpError("~* needs a command: ~*k")
    # In KD "e" stands before commands that act on all of the debugger, not on one thread.
    typed = re.sub(r"^e\s+", "", arguments.text)
    for processor in processors(session.target):
        yield f"Processor {processor.number}:"
        yield from run(session, f"~{processor.number} {typed}")


@command(
    "kd",
    help="the words of the stack, with symbols",
    usage="[COUNT]",
    own=True,
    examples=(Example("kd 20", "32 words from the stack pointer on"),),
    plugin="memory",
)
def raw_stack(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.expressions import Range
    from volatility3_kdump.views.memory import MemoryView

    context = session.current.registers
    if context is None or context.sp is None:
        raise KdumpError("the dump holds no stack pointer: name an address to dps")
    count = _frame_count(session, arguments.text, "kd") if arguments.text else _RAW_WORDS
    layout = "ps" if session.target.memory.pointer_size == 8 else "ds"
    start = as_address(context.sp, session.target.memory.pointer_size)
    return MemoryView(session.seen, Range(start, count), layout, session.current.memory).lines()


def _k_arguments(session: Session, text: str) -> tuple[Start | None, int | None]:
    """Where ``k =`` says that the stack begins, and how many frames to show."""
    from volatility3_kdump.windows.stacks.starts import registers_start

    before, equals, after = text.partition("=")
    count = _frame_count(session, before) if before.strip() else None
    if not equals:
        return None, count
    values = [session.evaluate(word) for word in after.split()]
    # A stack pointer is never as small as a number of frames.
    if len(values) > 1 and values[-1] <= MOST_FRAMES:
        count = values.pop() or None
    if not 1 <= len(values) <= 3:
        raise KdumpError("k = takes a stack pointer, or stack and instruction pointer, or base, stack and instruction")
    base, sp, ip = {1: (None, values[0], None), 2: (None, *values), 3: tuple(values)}[len(values)]
    context = session.current.registers
    if ip is None and (context is None or context.ip is None):
        raise KdumpError("k = needs an instruction pointer too: the dump holds no registers")
    names = {"x64": ("rbp", "rsp", "rip"), "x86": ("ebp", "esp", "eip"), "arm64": ("fp", "sp", "pc")}
    architecture = session.target.header.architecture
    if architecture not in names:
        raise KdumpError(f"k = is not there for {architecture}")
    if context is None:
        raise KdumpError("k = needs the registers of the dump, which it does not hold")
    given: dict[str, Any] = {
        name: value & (0xFFFFFFFF if architecture == "x86" else ~0)
        for name, value in zip(names[architecture], (base, sp, ip), strict=True)
        if value is not None
    }
    try:
        return registers_start(session.target, context.replace("k =", **given)), count
    except NoStack as error:
        raise KdumpError(f"No stack: {error}") from error


def _frame_count(session: Session, text: str, name: str = "k") -> int:
    what = "frames" if name == "k" else "words"
    operands = text.split()
    if name == "k" and operands and operands[0] == "L" and len(operands) == 2:
        del operands[0]
    if len(operands) != 1:
        raise KdumpError(f"{name} takes a number of {what}, not {text.strip()!r}")
    # As in "kn L5": a letter of the options, or that of a range; both mean five.
    count = session.evaluate(_RANGE_COUNT.sub("", operands[0]) if name == "k" else operands[0])
    if not 1 <= count <= MOST_FRAMES:
        raise KdumpError(f"{name} shows 1 to {MOST_FRAMES:x} {what} (hexadecimal), not {count:x}")
    return count


@command(
    ".frame",
    help="shows one frame of the stack",
    options=(
        Option("/r", "with its registers and code"),
        Option("/c", "its registers are the current ones from now on, until .cxr"),
    ),
    arguments=(number("N", "the frame's number, by default that chosen last"),),
    examples=(Example(".frame /r 3"), Example(".frame /c /r 3", "r, k and u go on from there")),
    plugin="stack",
)
def frame(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.analysis.failure import failure_in
    from volatility3_kdump.text.analyze import shown_code
    from volatility3_kdump.windows.stacks.starts import registers_start
    from volatility3_kdump.windows.stacks.walker import walker

    target = session.target
    number = arguments.number("N")
    number = session.state.frame if number is None else number
    start = current_start(session)
    frames = walker(target).walk(start).frames
    if not 0 <= number < len(frames):
        raise KdumpError(f"there is no frame {number:x}: the stack has {len(frames):x} (hexadecimal)")
    session.state.frame = number
    yield row(frames[number], "k", target.memory.pointer_size)
    if not arguments.has("/r") and not arguments.has("/c"):
        return
    context = walker(target).registers_of_frame(start, number)
    if context is None:
        architecture = target.header.architecture
        raise KdumpError(f"the registers of frame {number:x} are not known: unwinding on {architecture} keeps none")
    failure = failure_in(session.seen, context)
    if arguments.has("/c"):
        _set_failure(session.current, failure, registers_start(target, context))
    if arguments.has("/r"):
        yield from register_block(context)
        yield from shown_code(failure, target.memory.pointer_size, kd=False)


# contexts -------------------------------------------------------------------------------------------------------------


@command(
    ".trap",
    help="registers of a trap frame, and makes them current",
    arguments=(number("ADDRESS", "of a KTRAP_FRAME; without it the registers of the crash are current again"),),
    examples=(Example(".trap ffff8781`a4f6a010"),),
    plugin="trap",
)
def trap(session: Session, arguments: Arguments) -> Iterable[str]:
    dump = session.current
    address = arguments.number("ADDRESS")
    if address is None:
        dump.state.reset_context()
        return [_RESET]
    return _set_trap(session, address)


def _set_trap(session: Session, address: int) -> Iterable[str]:
    from volatility3_kdump.analysis.failure import failure_at_trap
    from volatility3_kdump.windows.stacks.starts import trap_start

    return _made_current(session, failure_at_trap(session.target, address), trap_start(session.target, address))


def _made_current(session: Session, failure: Failure, start: Start) -> Iterable[str]:
    """Registers become those of the session; what is shown of them."""
    from volatility3_kdump.views.trap import failure_grid

    _set_failure(session.current, failure, start)
    return failure_grid(session.target, failure).kd_lines()


@command(
    ".cxr",
    help="registers of a context record, and makes them current",
    arguments=(
        number("ADDRESS", "of a CONTEXT; -1 for that of the exception; without it the crash's are current again"),
    ),
    examples=(Example(".cxr ffff8781`a4f6a010"),),
    plugin="trap",
)
def context_record(session: Session, arguments: Arguments) -> Iterable[str]:
    if arguments.word("ADDRESS") == "-1":
        return exception_context(session, arguments)
    address = arguments.number("ADDRESS") or 0
    if not address:
        session.state.reset_context()
        return [_RESET]
    return _set_context(session, address)


def _set_context(session: Session, address: int) -> Iterable[str]:
    from volatility3_kdump.analysis.failure import failure_at_context
    from volatility3_kdump.windows.stacks.starts import context_start

    return _made_current(session, failure_at_context(session.target, address), context_start(session.target, address))


@command(".ecxr", help="registers of the exception of the crash, and makes them current", plugin="trap")
def exception_context(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.analysis.bugcheck import header_bug_check
    from volatility3_kdump.analysis.failure import find_failure

    target = session.target
    failure = find_failure(target, header_bug_check(target))
    if failure is not None and failure.context_record is not None:
        return _set_context(session, failure.context_record)
    if failure is not None and failure.trap_frame is not None:
        return _set_trap(session, failure.trap_frame)
    raise KdumpError("Unable to get exception context: the bug check names none, and no trap frame is on the stack")


@command(
    ".exr",
    help="an exception record",
    arguments=(number("ADDRESS", "of an EXCEPTION_RECORD, or -1 for that of the dump's header", required=True),),
    examples=(Example(".exr -1"),),
    plugin="trap",
)
def exception(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.analysis.failure import exception_site
    from volatility3_kdump.text.analyze import exception_lines
    from volatility3_kdump.views.trap import exception_grid
    from volatility3_kdump.windows.machine.exceptions import read_exception_record

    target = session.target
    width = target.memory.pointer_size
    if arguments.word("ADDRESS") == "-1":
        record = parse_exception_record(target.header.exception_record, width)
        if record is None:
            if target.header.container is not None:
                raise KdumpError(f"{target.name}: a memory image has no exception record of its own")
            raise KdumpError(f"{target.name}: the exception record of the dump header was never set")
        return exception_lines(record, width, exception_site(target, record))
    address = arguments.number("ADDRESS") or 0
    record = read_exception_record(target, address, session.current.memory)
    return exception_grid(target, address, record).kd_lines()


# thread and process ---------------------------------------------------------------------------------------------------


@command(
    ".thread",
    help="makes a thread current; without an address that of the crash",
    options=(
        Option("/p", "its process's memory too"),
        Option("/P", "as /p", note="page tables are always read by what the dump holds"),
        Option("/r", "its process's user modules too: lm lists them"),
        Option("/w", "the registers and the stack of its 32-bit code, on 64-bit Windows"),
    ),
    arguments=(number("ADDRESS", "an ETHREAD"),),
    examples=(Example(".thread /p ffff9189`527e9080"),),
)
def thread(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.windows.processes.dispatcher import require_dispatcher

    dump = session.current
    address = arguments.number("ADDRESS") or 0
    if not address:
        dump.state.thread = None
        dump.state.reset_context()
        if arguments.has("/w"):
            dump.choose_guest()
        yield _implicit("thread", dump.thread, dump)
        if arguments.has("/w"):
            yield "x86 context set"
        return
    # A processor's registers are enough: small memory dumps lack the objects of threads that others ran.
    if all(processor.current_thread != address for processor in processors(dump.target)):
        require_dispatcher(dump.target, address, "thread")
    chosen = read_thread(dump.target, address)
    unknown = dump.choose_thread(address)
    if (arguments.has("/p") or arguments.has("/P")) and chosen.process:
        dump.choose_process(chosen.process)
    if arguments.has("/w"):
        dump.choose_guest()
    yield _implicit("thread", address, dump)
    if arguments.has("/r"):
        yield from load_user_modules(dump)
    if arguments.has("/w"):
        yield "x86 context set"
    elif unknown is not None:
        yield f"NOTE: its registers are not known: {unknown}"


@command(
    ".process",
    help="makes a process current: its user memory",
    options=(
        Option("/p", "its page tables are used, as they always are"),
        Option("/P", "as /p", note="page tables are always read by what the dump holds"),
        Option("/r", "its user modules too: lm lists them"),
        Option("/i", "lets the machine run into the process", refused="a dump cannot run; use /p"),
    ),
    arguments=(number("ADDRESS", "an EPROCESS"),),
    examples=(Example(".process /p ffff9189`4ef3a080"),),
)
def process(session: Session, arguments: Arguments) -> Iterable[str]:
    from volatility3_kdump.windows.processes.dispatcher import require_dispatcher

    dump = session.current
    address = arguments.number("ADDRESS") or 0
    if not address:
        dump.choose_process(None)
        dump.state.user_modules = False
        yield _implicit("process", dump.process, dump)
        return
    require_dispatcher(dump.target, address, "process")
    readable = dump.choose_process(address)
    yield _implicit("process", address, dump)
    if readable and arguments.has("/r"):
        yield from load_user_modules(dump)
    if not readable:
        yield "NOTE: its page tables are not in the dump: its user memory cannot be read"


def load_user_modules(dump: OpenDump) -> Iterator[str]:
    """List the modules of the current process's user mode with the kernel's from now on."""
    from volatility3_kdump.text.banner import dotted

    dump.state.user_modules = True
    own = len(dump.seen.modules) - len(dump.target.modules)
    if own:
        yield from dotted(range(own), "Loading User Symbols")
        return
    yield f"NOTE: {dump.why_no_user_modules}"


def _implicit(what: str, address: int | None, dump: OpenDump) -> str:
    if address is None:
        why = dump.why_no_process if what == "process" else "the dump does not say which one crashed"
        return f"Implicit {what} is not known: {why}"
    return f"Implicit {what} is now {pointer(address, dump.target.memory.pointer_size)}"
