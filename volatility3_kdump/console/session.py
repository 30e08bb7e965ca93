"""A session: the opened dumps, which one is current, and what commands leave behind for those that follow.

Nothing is printed here: opening a dump and changes of state only.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

from volatility3_kdump.console.script import Aliases, StepsSpent, unmarked
from volatility3_kdump.cpu.context import Context
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.files import FileFailure, open_output, refuse_binary, refuse_no_text
from volatility3_kdump.images.modules import Module
from volatility3_kdump.memory import Memory
from volatility3_kdump.options import Options
from volatility3_kdump.progress import Progress
from volatility3_kdump.windows.machine.processors import processors
from volatility3_kdump.windows.processes.crashed import (
    crash_context,
    crash_process,
    crash_processor,
    crash_thread,
)

if TYPE_CHECKING:
    from volatility3_kdump.analysis.failure import Failure
    from volatility3_kdump.expressions import TargetNames
    from volatility3_kdump.expressions.cpp_values import CppValue
    from volatility3_kdump.expressions.names import Scope
    from volatility3_kdump.target import Target
    from volatility3_kdump.windows.stacks.frames import Start

#: KD's default of ``.kframes``.
DEFAULT_FRAMES = 0x100


@dataclass
class State:
    """What commands leave behind in one dump. ``None`` stands for the default: that of the crash.

    ``processor`` is the number that ``~Ns`` chose; ``process`` and ``thread`` are the EPROCESS and ETHREAD of
    ``.process`` and ``.thread``. ``context`` holds the registers that ``.trap``, ``.cxr`` or ``.thread`` set, ``start``
    where a backtrace from there begins, ``failure`` the same place as ``.trap`` and ``.cxr`` show it, ``trap_frame``
    the address of the trap frame it came from; ``no_context`` is why the chosen thread has neither. ``frame`` is the
    number that ``.frame`` chose. ``radix`` is the base of numbers (``n``), ``frames`` the most that ``k`` shows.
    ``code`` and ``data`` are the addresses where ``u`` and ``d`` go on, ``data_format`` the letters of the last ``d``,
    ``symbol`` the name that was looked up last, ``type_name`` the type that ``dt`` showed last, ``search`` what ``#``
    looks for and from where. ``variables`` are the pseudo-registers that commands set: ``t0`` to ``t19``, ``exp`` (the
    last value of ``?``), ``p`` (of ``d``); ``typed`` are those that ``r?`` gave a type, ``objects`` the variables of
    ``dx``. ``cpp`` says that expressions are C++'s unless they say otherwise (``.expr``); ``register_mask`` is that of
    ``rm``. ``user_modules`` says that ``lm`` lists those of the current process too; ``machine`` is ``x86`` where the
    registers are those of a 32-bit program on 64-bit Windows.
    """

    processor: int | None = None
    process: int | None = None
    thread: int | None = None
    context: Context | None = None
    start: Start | None = None
    failure: Failure | None = None
    trap_frame: int | None = None
    no_context: str | None = None
    frame: int = 0
    radix: int = 16
    cpp: bool = False
    register_mask: int | None = None
    user_modules: bool = False
    machine: str | None = None
    frames: int = DEFAULT_FRAMES
    code: int | None = None
    data: int | None = None
    data_format: str = "b"
    symbol: str | None = None
    type_name: str | None = None
    search: tuple[str, int] | None = None
    variables: dict[str, int] = field(default_factory=lambda: {"exp": 0, **{f"t{number}": 0 for number in range(20)}})
    typed: dict[str, CppValue] = field(default_factory=dict)
    objects: dict[str, Any] = field(default_factory=dict)

    def reset_context(self) -> None:
        """Back to the registers of the crash: ``.cxr``, ``.trap`` and ``.thread`` without an address."""
        self.context = self.start = self.failure = self.trap_frame = self.no_context = self.machine = None
        self.frame = 0
        self.code = None


@dataclass
class OpenDump:
    """One dump of a session: where it was opened from, its target, and the state of its commands."""

    path: str
    target: Target
    member: str | None = None
    state: State = field(default_factory=State)
    #: The memory of the process that ``.process /p`` chose; ``None`` for that of the process that crashed.
    process_memory: Memory | None = None
    #: Warnings from before the command that runs: its notes do not say them again.
    told: set[str] = field(default_factory=set)
    #: How many of the target's attempts were told so far.
    heard: int = 0

    @property
    def memory(self) -> Memory:
        """The virtual memory that commands read."""
        return self.process_memory or self.target.memory

    @property
    def seen(self) -> Target:
        """The target as the process sees it whose memory commands read: with the modules of its user mode."""
        from volatility3_kdump.windows.user.seen import seen_by

        if self.process_memory is not None:
            return seen_by(self.target, self.state.process)
        process = crash_process(self.target) if self.target.dump.triage is None else None
        return seen_by(self.target, process.address if process is not None else None)

    @property
    def processor(self) -> int | None:
        """The number of the current processor; ``None`` where nothing in the dump tells which one crashed."""
        if self.state.processor is not None:
            return self.state.processor
        crashed = crash_processor(self.target)
        return crashed.number if crashed is not None else None

    @property
    def process(self) -> int | None:
        """The EPROCESS address of the current process: that of ``.process``, of the thread, or of the processor."""
        if self.state.process is not None:
            return self.state.process
        thread = self.thread
        crashed = crash_thread(self.target)
        if thread is None or (crashed is not None and crashed.address == thread):
            process = crash_process(self.target)
            return process.address if process is not None else None
        from volatility3_kdump.windows.processes.threads import read_thread

        return read_thread(self.target, thread).process

    def choose_process(self, address: int | None) -> bool:
        """Make a process current, ``None`` for that of the crash. Whether its user memory can be read."""
        from volatility3_kdump.windows.processes.processes import read_process
        from volatility3_kdump.windows.processes.user_mode import process_memory

        self.state.process = address
        self.process_memory = None
        crashed = crash_process(self.target)
        if address is None or (crashed is not None and crashed.address == address):
            return True
        self.process_memory = process_memory(self.target, read_process(self.target, address))
        return self.process_memory is not None

    def choose_thread(self, address: int) -> str | None:
        """Make a thread current, with its registers. Why these are not known, in words; ``None`` where they are."""
        from volatility3_kdump.windows.stacks.frames import NoStack
        from volatility3_kdump.windows.stacks.starts import thread_start

        self.state.reset_context()
        self.state.thread = address
        try:
            start = thread_start(self.target, address)
        except NoStack as error:
            self.state.no_context = str(error)
            return str(error)
        self.state.start, self.state.context = start, start.context
        return None

    def choose_guest(self) -> None:
        """Make the 32-bit half of the current thread current, with its process. Raises :class:`KdumpError`."""
        from volatility3_kdump.windows.stacks.frames import NoStack
        from volatility3_kdump.windows.stacks.starts import thread_start
        from volatility3_kdump.windows.stacks.walker import walker

        thread = self.thread
        if thread is None:
            raise KdumpError(f"{self.target.name}: the dump does not say which thread crashed: .thread names one")
        try:
            start = walker(self.target).narrow_start(thread_start(self.target, thread))
        except NoStack as error:
            raise KdumpError(f"the thread {thread:x} has no 32-bit context: {error}") from error
        if start.process is not None:
            self.choose_process(start.process)
        self.state.reset_context()
        self.state.start, self.state.context, self.state.machine = start, start.context, "x86"

    def choose_host(self) -> None:
        """Back to the 64-bit half of the current thread."""
        if self.state.thread is not None:
            self.choose_thread(self.state.thread)
        else:
            self.state.reset_context()

    @property
    def why_no_process(self) -> str:
        """Why :attr:`process` is ``None``, in words."""
        thread = self.thread
        if thread is None:
            return "the dump does not say which one crashed"
        return f"the thread {thread:x}, which would tell, is not in the dump"

    @property
    def why_no_user_modules(self) -> str:
        """Why the current process's user mode has no modules here, in words."""
        from volatility3_kdump.windows.user.code import user_code

        process = self.state.process or self.process
        code = user_code(self.target, process) if process is not None else self.why_no_process
        return f"no user modules: {code}" if isinstance(code, str) else "no user modules: it is not in the dump"

    @property
    def thread(self) -> int | None:
        """The ETHREAD address of the current thread: that of ``.thread``, else what the current processor runs."""
        if self.state.thread is not None:
            return self.state.thread
        number = self.state.processor
        crashed = crash_processor(self.target)
        if number is not None and not (crashed is not None and crashed.number == number):
            return next(
                (processor.current_thread for processor in processors(self.target) if processor.number == number), None
            )
        thread = crash_thread(self.target)
        return thread.address if thread is not None else None

    @property
    def registers(self) -> Context | None:
        """The current registers: those last set, else those of the current processor; ``None`` if there are none.

        A register that is not known is absent from the context.
        """
        if self.state.context is not None or self.state.no_context is not None:
            return self.state.context
        number = self.state.processor
        crashed = crash_processor(self.target)
        if number is None or (crashed is not None and crashed.number == number):
            return crash_context(self.target)
        return next((processor.context for processor in processors(self.target) if processor.number == number), None)


class Session:
    """The opened dumps and what they have in common.

    ``dumps`` is in the order of opening; ``index`` is the current one. ``options`` are those that the next dump is
    opened with. ``finished`` says that the user is done. ``log`` is the open log file.
    """

    #: Pseudo-registers that take more than reading the dump, by name: modules of commands enter them.
    computed: ClassVar[dict[str, Callable[[Session], int | None]]] = {}

    def __init__(self, options: Options | None = None, verbose: bool = False) -> None:
        self.options = options or Options()
        self.verbose = verbose
        #: ``!sym noisy``: every place that is asked for symbols and images is told.
        self.noisy = False
        #: ``.lines``: source lines are shown where symbols have them.
        self.lines = False
        self.progress: Progress | None = None
        self.dumps: list[OpenDump] = []
        self.index = 0
        self.finished = False
        self.log: IO[str] | None = None
        self.log_path: str | None = None
        #: Dumps that ``.opendump`` opened and ``g`` has not yet announced.
        self.pending: list[OpenDump] = []
        #: How deep commands are inside commands, and inside of ``.catch``.
        self.depth = self.catching = 0
        #: How many ``!for_each_module`` and the like are inside of each other.
        self.loops = 0
        #: How many commands that run others share one budget of reads with them.
        self.sharing = 0
        self.aliases = Aliases()
        #: Asked before each command, also those of blocks: raises :class:`KdumpError` for one that may not run.
        self.guard: Callable[[str], None] | None = None
        #: How many commands the line has run, and how many it may run (``None``: until it is interrupted).
        self.steps = 0
        self.most_steps: int | None = None
        #: ``-q``: answers only.
        self.quiet = False
        #: Whether a command has failed.
        self.failed = False

    @property
    def prompt(self) -> str:
        """``2: kd> ``: the current processor, and the dump where several are open; ``kd> `` on one processor."""
        if not self.dumps:
            return "NoTarget> "
        dump = self.current
        number = dump.processor
        alone = dump.target.header.number_processors == 1
        machine = f":{dump.state.machine}" if dump.state.machine else ""
        marker = f"kd{machine}> " if number is None or alone else f"{number}: kd{machine}> "
        return f"||{self.index}:{marker}" if len(self.dumps) > 1 else marker

    def step(self) -> None:
        """One command more. Raises :class:`StepsSpent` where the line has run as many as it may."""
        self.steps += 1
        if self.most_steps is not None and self.steps > self.most_steps:
            raise StepsSpent(f"stopped after {self.most_steps} commands: --steps allows more")

    # dumps ------------------------------------------------------------------------------------------------------

    @property
    def current(self) -> OpenDump:
        """The current dump. Raises :class:`KdumpError` when none is open."""
        if not self.dumps:
            raise KdumpError("no dump is open: .opendump FILE opens one")
        return self.dumps[self.index]

    @property
    def target(self) -> Target:
        """The current dump's target."""
        return self.current.target

    @property
    def seen(self) -> Target:
        """The current dump's target as the current process sees it: names and code of its user mode too."""
        return self.current.seen

    @property
    def state(self) -> State:
        """The current dump's state."""
        return self.current.state

    def open(self, path: str, member: str | None = None) -> OpenDump:
        """Open a dump and make it the current one. Raises :class:`KdumpError`."""
        dump = OpenDump(path, self._target(path, member), member)
        self.dumps.append(dump)
        self.index = len(self.dumps) - 1
        return dump

    def reload(self, module: Module | None = None) -> None:
        """Read symbols anew, with the paths as they are now: those of one module of the current dump, else all of every
        dump. The state of commands stays."""
        from volatility3_kdump.stores.servers import KNOWN_HOSTS

        KNOWN_HOSTS.forget()
        for dump in self.dumps if module is None else [self.current]:
            earlier, dump.target = dump.target, self._target(dump.path, dump.member)
            if module is not None:
                dump.target.names.keep(earlier.names, module.base)
            dump.heard = 0
            dump.choose_process(dump.state.process)

    def _target(self, path: str, member: str | None) -> Target:
        from volatility3_kdump.windows.opening import open_target

        if "\0" in path:
            raise KdumpError(f"{path}: is not the name of a file")
        return open_target(path, replace(self.options, member=member, progress=self.progress))

    # expressions ------------------------------------------------------------------------------------------------

    @property
    def names(self) -> TargetNames:
        """What names mean in expressions: those of the current dump, registers those of the current context."""
        return self.names_in(self.current)

    def names_in(self, scope: Scope) -> TargetNames:
        """What names mean in a place of the current dump."""
        from volatility3_kdump.expressions import TargetNames

        state = self.state
        return TargetNames(
            self.seen,
            scope,
            {**state.variables, "frame": state.frame},
            {name: functools.partial(find, self) for name, find in self.computed.items()},
            state.radix,
            state.typed,
            state.machine,
        )

    def evaluate(self, text: str) -> int:
        """The value of an expression in the current dump, as an address. Raises :class:`KdumpError` in one line."""
        from volatility3_kdump.expressions import as_address

        return as_address(self.calculate(text), self.target.memory.pointer_size)

    def calculate(self, expression: str) -> int:
        """The value of an expression, as a number: of a 32-bit target it is not extended."""
        from volatility3_kdump.expressions import evaluate

        expression = unmarked(expression)
        if self.state.cpp:
            expression = f"@@c++({expression})"
        return evaluate(expression, self.names, self.state.radix)

    # log --------------------------------------------------------------------------------------------------------

    def open_log(self, path: str, append: bool = False) -> None:
        """Copy everything that is shown to a file from now on.

        Raises :class:`KdumpError`, also for a file that is a dump of the session.
        """
        place = Path(os.path.expanduser(path))
        for dump in self.dumps:
            refuse_same_file(path, dump.path)
        try:
            refuse_binary(place)
        except FileFailure as error:
            raise KdumpError(f"{path}: {error}") from error
        self.close_log()
        try:
            self.log = open_output(place, append, newline="", check=refuse_no_text)
        except FileFailure as error:
            raise KdumpError(f"{path}: {error}") from error
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise KdumpError(f"{path}: the log cannot be opened: {reason}") from error
        self.log_path = path

    def close_log(self) -> str | None:
        """Close the log; returns its path, ``None`` when none was open. Raises :class:`KdumpError` for a full disk."""
        path, log = self.log_path, self.log
        self.log = self.log_path = None
        if log is not None:
            try:
                log.close()
            except OSError as error:
                raise KdumpError(f"{path}: the end of the log is not written: {error.strerror or error}") from error
        return path

    def abandon_log(self) -> str | None:
        """Close a log that cannot be written; returns its path."""
        path = self.log_path
        with contextlib.suppress(KdumpError):
            self.close_log()
        return path


def refuse_same_file(log: str, dump: str) -> None:
    """Raise :class:`KdumpError` where writing a log would destroy a dump."""
    try:
        same = os.path.samefile(os.path.expanduser(log), dump)
    except (OSError, ValueError):
        return
    if same:
        raise KdumpError(f"{log}: the log cannot be opened: it is the dump itself")
