"""Values of stack backtraces: a frame, a whole stack, and where one starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from volatility3_kdump.cpu.context import Context
from volatility3_kdump.symbols.names import Name

#: A frame's trust, best first.
CONTEXT, UNWIND, TRAP_FRAME, FRAME_POINTER, SCAN = "context", "unwind", "trap frame", "frame pointer", "scan"

MOST_FRAMES = 1024


class Frame(NamedTuple):
    """One frame.

    ``sp`` is the stack pointer inside the frame (KD's Child-SP; ``None`` where a frame-pointer chain does not give it),
    ``ip`` where it executes, ``trust`` how it is known.
    ``return_address`` is the next frame's ``ip``, ``None`` for the last one. ``arguments`` are the four pointer-sized
    values at the next frame's stack pointer, KD's "Args to Child": home slots, not necessarily arguments; ``None``
    each where the dump does not hold it. ``call_site`` says that ``ip`` is a return address. ``trap_frame`` is the
    address of the KTRAP_FRAME that this function keeps, ``None`` for ordinary functions. ``fp`` is the frame pointer
    inside the frame, KD's ChildEBP; x86 only. ``name`` is the name of where it executes, ``None`` outside every module;
    that of a return address is the name of the call before it.
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


@dataclass(frozen=True)
class Stack:
    """A backtrace. ``end`` says in words why it stops; ``complete`` whether that is a thread's start or user mode."""

    frames: tuple[Frame, ...]
    end: str
    complete: bool

    @property
    def trusted(self) -> bool:
        """Whether no frame was found by a scan."""
        return all(frame.trust != SCAN for frame in self.frames)


@dataclass(frozen=True)
class Start:
    """Where a backtrace begins: registers, how they are known, and the stacks that it may walk on, as (low, high).

    ``user_memory`` says whether the target's user-mode memory is that of the thread: it is that of one process alone.
    ``held`` is a part of the stack that was read already, as (address, bytes).
    """

    context: Context
    trust: str
    segments: tuple[tuple[int, int], ...]
    user_memory: bool = True
    held: tuple[int, bytes] = field(default=(0, b""), repr=False, compare=False)


class NoStack(Exception):
    """A thread has no stack to walk; the text says why."""


def extended(address: int) -> int:
    return address | 0xFFFFFFFF00000000 if address & 0x80000000 else address
