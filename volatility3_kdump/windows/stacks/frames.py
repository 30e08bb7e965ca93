"""Values of stack backtraces: a frame, a whole stack, and where one starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from volatility3_kdump.cpu.context import Context
from volatility3_kdump.errors import KdumpError
from volatility3_kdump.notebook import html_table
from volatility3_kdump.symbols.lines import SourceLine
from volatility3_kdump.symbols.names import Name

#: A frame's trust, best first. ``switch``: from what a switch of stacks left at the top of a stack.
CONTEXT, UNWIND, TRAP_FRAME, SWITCH = "context", "unwind", "trap frame", "stack switch"
FRAME_POINTER, SCAN = "frame pointer", "scan"

#: A frame's part in the crash: it called the bug check, it handled the fault, it is what faulted, it only was
#: interrupted by the DPC in which all that happened.
BUG_CHECK, FAULT_PATH, FAULT, INTERRUPTED = "bug check", "fault path", "fault", "interrupted"

#: :attr:`Stack.end` of a thread whose kernel stack was paged out.
NOT_RESIDENT = "kernel stack not resident: it is paged out"

MOST_FRAMES = 1024


class Frame(NamedTuple):
    """One frame.

    ``sp`` is the stack pointer inside the frame (KD's Child-SP; ``None`` where a frame-pointer chain does not give it),
    ``ip`` where it executes, ``trust`` how it is known.
    ``return_address`` is the next frame's ``ip``, ``None`` for the last one and where frames are left out behind it.
    ``arguments`` are the four pointer-sized values at the next frame's stack pointer, KD's "Args to Child": home slots,
    not necessarily arguments; ``None`` each where the dump does not hold it. ``call_site`` says that ``ip`` is a return
    address. ``trap_frame`` is the address of the KTRAP_FRAME that this function keeps, ``None`` for ordinary functions.
    ``fp`` is the frame pointer inside the frame, KD's ChildEBP; x86 only. ``name`` is the name of where it executes,
    ``None`` outside every module; that of a return address is the name of the call before it. ``part`` is the frame's
    part in the crash: ``bug check`` (the call of KeBugCheckEx), ``fault path`` (what lies between it and the fault:
    handlers and dispatchers, never to blame), ``fault`` (the code that faulted), ``interrupted`` (of the thread that
    the DPC of the crash interrupted), empty for all others. ``line`` is the source line there, of a return address that
    of the call; ``None`` where symbols have none.
    """

    number: int
    sp: int | None
    ip: int
    trust: str
    call_site: bool
    return_address: int | None
    arguments: tuple[int | None, ...]
    trap_frame: int | None
    fp: int | None = None
    name: Name | None = None
    part: str = ""
    line: SourceLine | None = None


@dataclass(frozen=True)
class Stack:
    """A backtrace.

    ``end`` says in words why it stops; ``complete`` whether that is a thread's start or user mode. ``remarks`` are what
    else there is to say of the frames, one sentence each.
    """

    frames: tuple[Frame, ...]
    end: str
    complete: bool
    remarks: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        rows = [
            (
                f"{frame.number:02x}",
                "" if frame.sp is None else f"{frame.sp:x}",
                frame.name or f"{frame.ip:#x}",
                frame.trust,
            )
            for frame in self.frames
        ]
        return html_table(("#", "Child-SP", "Call site", "Trust"), rows, f"Ends: {self.end}")

    @property
    def fault(self) -> Frame | None:
        """The frame that faulted; ``None`` where the crash is no fault, or the stack does not reach it."""
        return next((frame for frame in self.frames if frame.part == FAULT), None)

    @property
    def trusted(self) -> bool:
        """Whether no frame was found by a scan."""
        return all(frame.trust != SCAN for frame in self.frames)


@dataclass(frozen=True)
class Start:
    """Where a backtrace begins: registers, how they are known, and the stacks that it may walk on, as (low, high).

    ``user_memory`` says whether the target's user-mode memory is that of the thread: it is that of one process alone.
    ``held`` is a part of the stack that was read already, as (address, bytes). ``crash`` says that the walk begins at
    the call of the bug check, so that it comes by the trap frame of what failed; ``fault`` that the registers are those
    of a fault. ``process`` is the EPROCESS whose user mode the stack leads to, ``None`` where that is not known, and
    ``thread`` the ETHREAD.
    """

    context: Context
    trust: str
    segments: tuple[tuple[int, int], ...]
    user_memory: bool = True
    held: tuple[int, bytes] = field(default=(0, b""), repr=False, compare=False)
    crash: bool = False
    fault: bool = False
    process: int | None = None
    thread: int | None = None


class NoStack(KdumpError):
    """A thread has no stack to walk; the text says why."""
